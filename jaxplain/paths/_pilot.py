"""The pilot: f on a uniform grid along a path, forward passes only, before any gradient."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import trees
from jaxplain.evaluate import evaluate, stack


def outputs_on_grid(
    f: Callable[[Any], jax.Array],
    line: Callable[[jax.Array], Any],
    x: Any,
    intervals: int,
    chunk_size: int,
) -> jax.Array:
    """Values of f at t = 0, 1/n, ..., 1 along the line, shape (n + 1,); the last at x itself."""
    dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(trees.widen(x))))

    def output(index: jax.Array) -> jax.Array:
        point = line(index.astype(dtype) / intervals)
        # b + (x - b) may be off x by its rounding, and what is reported is f(x).
        is_end = index == intervals
        return f(jax.tree.map(lambda p, end: jnp.where(is_end, end, p), point, x))

    outputs: jax.Array = evaluate(
        output, intervals + 1, stack(intervals + 1), chunk_size=chunk_size
    )
    return outputs
