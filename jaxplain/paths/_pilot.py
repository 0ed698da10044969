"""The pilot: f on a uniform grid along a path, by forward passes only."""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain.evaluate import evaluate, stack


def outputs_on_grid(
    output: Callable[[jax.Array], jax.Array], intervals: int, dtype: Any, chunk_size: int
) -> jax.Array:
    """The output at t = 0, 1/n, ..., 1, shape (n + 1,), where `dtype` is that of t."""
    count = intervals + 1
    outputs: jax.Array = evaluate(
        lambda index: output(index.astype(dtype) / intervals),
        count,
        stack(count),
        chunk_size=chunk_size,
    )
    return outputs
