"""One chunk of samples, in two passes: its mean and the deviations from it.

    m = sum_i w_i y_i / n        deviation_i = y_i - m, and 0 where w_i = 0

The sums of squares and products of a chunk are sums over products of deviations.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.estimates._leaves import accumulator, share


def checked_weights(weights: Any, length: int, dtype: Any) -> Any:
    """The weights of a chunk as an array of that dtype, or None."""
    if weights is None:
        return None
    weights = jnp.asarray(weights)
    if weights.shape != (length,):
        raise ValueError(
            f"weights must have one number or boolean for each sample, shape ({length},), but "
            f"have shape {weights.shape}."
        )
    return weights.astype(dtype)


def weighted(deviations: Any, weights: Any) -> Any:
    """w_i deviation_i."""
    return deviations if weights is None else _column(weights, deviations) * deviations


def centred(values: Any, weights: Any, count: Any) -> tuple[Any, Any, Any]:
    """Mean of the leaf of a chunk as a pair, and the deviations from it (0 where the weight is 0).

    The high part is one of the samples, the largest, and not a computed mean: XLA may compute a
    mean once rounded and once inside a fused multiply-add, and then the pair does not fit the
    deviations (on CPU with jax 0.10 that cost a mean of 1e6 its last two digits). What is rounded
    below is of the size of the deviations.
    """
    values = jnp.asarray(values).astype(accumulator(values))
    count = jnp.broadcast_to(count.astype(values.dtype), values.shape[1:])
    if values.shape[0] == 0:
        nothing = jnp.zeros_like(count)
        return nothing, nothing, values
    column = None if weights is None else _column(weights, values)

    def kept(x: Any, otherwise: float = 0.0) -> Any:
        # a sample without weight may be anything, also NaN: it is taken out, not multiplied by 0
        return x if column is None else jnp.where(column == 0, jnp.full_like(x, otherwise), x)

    largest = kept(values, -jnp.inf).max(0)
    largest = jax.lax.stop_gradient(jnp.where(count > 0, largest, jnp.zeros_like(largest)))
    deviations = kept(values - largest[None])
    rest = share(weighted(deviations, weights).sum(0), count)
    return largest, rest, kept(deviations - rest[None])


def _column(weights: Any, values: Any) -> Any:
    """Weights (c,) in the dtype of values (c, ...) and with their rank."""
    return weights.astype(values.dtype).reshape(weights.shape + (1,) * (values.ndim - 1))
