"""Gaussian noise on an example, in units of its own range or of its elements.

    x'_i = x_i + noise * (max x - min x) * z_i    or    x_i + noise * z_i,    z_i ~ N(0, 1)

The range is that of each leaf by itself: modalities have units of their own. Draws are in float32
whatever the dtype of x, so that one key means one neighbourhood in every precision.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import trees

__all__ = ["add_noise"]


def add_noise(key: jax.Array, x: Any, noise: Any, *, relative: bool) -> Any:
    """The tree `x` with noise, in the dtypes of `x`."""
    leaves, structure = jax.tree.flatten(x)

    def one(place: int, leaf: jax.Array) -> jax.Array:
        if leaf.size == 0:
            return leaf
        wide = leaf.astype(trees.wide_dtype(leaf.dtype))
        scale = jnp.asarray(noise).astype(wide.dtype)
        if relative:
            scale = scale * (jnp.max(wide) - jnp.min(wide))
        draws = jax.random.normal(jax.random.fold_in(key, place), leaf.shape, jnp.float32)
        return (wide + scale * draws.astype(wide.dtype)).astype(leaf.dtype)

    return jax.tree.unflatten(structure, [one(place, leaf) for place, leaf in enumerate(leaves)])
