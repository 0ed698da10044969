"""The gradient, averaged over a Gaussian neighbourhood of the input.

    values_i = E_z[ df/dx_i (x + scale z) ],   z ~ N(0, I)

A skeleton to copy: replace the formula, the design (what `point` does) and the reduction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, estimates, trees
from jaxplain.evaluate import Reduction, evaluate

__all__ = ["AverageGradient", "average_gradient"]


class AverageGradient(NamedTuple):
    """What `average_gradient` returns; `values` first, fields may be added at the end."""

    values: Any
    output: jax.Array
    standard_error: Any
    evaluations: int


def average_gradient(
    f: Callable[..., Any],
    *,
    samples: int = 64,
    scale: float | jax.Array = 0.1,
    chunk_size: int = 16,
) -> Callable[..., AverageGradient]:
    """The mean gradient of `f` over Gaussian noise around the input, with its standard error.

        values_i = 1/n sum_k df/dx_i (x + scale z_k),   z_k ~ N(0, I)

    Args:
        f: `f(x, *args) -> scalar`, differentiable. `x` is any tree of float arrays.
        samples: the number of noise draws n, a Python integer.
        scale: the standard deviation of the noise, in the units of `x`; may be traced.
        chunk_size: draws evaluated at once. Memory and speed only.

    Returns:
        `explain(key, x, *args)`, jitted, for one example. Its result has `values` (tree, shapes and
        dtypes of `x`), `output` (f at x), `standard_error` (of each value, like `values`) and
        `evaluations` (the number of gradients).

    Raises:
        TypeError: `f` is no function, a count no integer, `x` not float.
        ValueError: `f` returns no scalar, or a count is below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> explain = average_gradient(lambda x: 3 * x[0] + x[1] ** 2, samples=8)
        >>> result = explain(jax.random.key(0), jnp.zeros(2))
        >>> float(result.values[0]), float(result.standard_error[0])
        (3.0, 0.0)

    References:
        Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise", equation in section 2.
        Deviation 1: the noise has a fixed scale, not a share of the input's range.
    """
    checks.function(f, "f")
    samples = checks.integer(samples, "samples")
    chunk_size = checks.integer(chunk_size, "chunk_size")

    @jax.jit
    def explain(key: jax.Array, x: Any, *args: Any) -> AverageGradient:
        x = checks.explained(x)
        scalar = checks.scalar(f)
        leaves, structure = jax.tree.flatten(x)

        # Design: a point is made from its index, inside the loop.
        def point(index: jax.Array) -> Any:
            keys = jax.random.split(jax.random.fold_in(key, index), len(leaves))
            noise = [
                jax.random.normal(k, leaf.shape, leaf.dtype)
                for k, leaf in zip(keys, leaves, strict=True)
            ]
            noisy = [
                leaf + jnp.asarray(scale, leaf.dtype) * z
                for leaf, z in zip(leaves, noise, strict=True)
            ]
            return jax.grad(scalar)(jax.tree.unflatten(structure, noisy), *args)

        # Reduction: streaming moments, in float32 or wider.
        moments = Reduction(
            init=estimates.init_moments,
            update=lambda state, index, values: estimates.update(state, values),
            finish=lambda state: (estimates.mean(state), estimates.standard_error(state)),
        )
        values, error = evaluate(point, samples, moments, chunk_size=chunk_size)
        return AverageGradient(
            trees.cast_like(values, x), scalar(x, *args), trees.cast_like(error, x), samples
        )

    return explain
