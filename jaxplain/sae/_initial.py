"""Where training starts: tied directions, and the geometric median as the bias of the decoder."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.sae._dictionary import Params

# Rows of the sample that the geometric median is taken of.
ROWS = 2**15
ITERATIONS = 50


@jax.jit
def geometric_median(points: jax.Array) -> jax.Array:
    """The point whose distances to all points have the least sum.

        m = argmin_m sum_i |h_i - m|,    by m <- sum_i h_i / |h_i - m|  /  sum_i 1 / |h_i - m|

    Args:
        points: (n, d), at least one.

    Returns:
        (d,), in float32 or wider, after 50 iterations of Weiszfeld's.

    Raises:
        TypeError: `points` is no array.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import sae
        >>> points = jnp.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0], [90.0, 90.0]])
        >>> [round(float(m), 3) for m in sae.geometric_median(points)]  # the mean is at (18, 18)
        [0.211, 0.211]

    References:
        Weiszfeld, "Sur le point pour lequel la somme des distances de n points donnes est minimum",
        Tohoku Mathematical Journal 43, 1937. As the bias of an autoencoder: Bricken et al.,
        "Towards Monosemanticity", 2023, https://transformer-circuits.pub/2023/monosemantic-features
    """
    points = points.astype(trees.wide_dtype(points.dtype))
    scale = jnp.mean(jnp.linalg.norm(points, axis=-1))
    least = 1e-6 * jnp.where(scale > 0, scale, 1)  # a point on the median weighs much, not all

    def step(_: Any, median: jax.Array) -> jax.Array:
        distances = jnp.linalg.norm(points - median[None], axis=-1, keepdims=True)
        weights = 1 / jnp.maximum(distances, least)
        return jnp.sum(weights * points, axis=0) / jnp.sum(weights)

    return jax.lax.fori_loop(0, ITERATIONS, step, jnp.mean(points, axis=0))


def tied(key: jax.Array, sample: Any, latents: int, norm: Any = 1.0) -> Params:
    """Parameters to start from: W_enc = W_dec^T, random rows of one norm, b_dec the median."""
    checks.key(key)
    sample = rows(sample)
    dtype = trees.wide_dtype(sample.dtype)
    directions = jax.random.normal(key, (latents, sample.shape[1]), dtype)
    directions = norm * directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)
    return {
        "W_enc": directions.T,
        "b_enc": jnp.zeros(latents, dtype),
        "W_dec": directions,
        "b_dec": geometric_median(sample[:ROWS]),
    }


def rows(sample: Any, what: str = "sample") -> jax.Array:
    """(n, d) of (..., d) activations."""
    checks.arrays(sample, what)
    sample = jnp.asarray(sample)
    if sample.ndim < 2 or sample.size == 0:
        raise ValueError(
            f"{what} must hold activations of shape (n, d), at least one, but has {sample.shape}."
        )
    if not jnp.issubdtype(sample.dtype, jnp.floating):
        raise TypeError(f"{what} must be float, but has dtype {sample.dtype}.")
    return sample.reshape(-1, sample.shape[-1])
