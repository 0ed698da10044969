"""Indices of a vector of outputs as a whole: the shares of its total variance."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.sobol._indices import Indices


class Aggregated(NamedTuple):
    """Aggregated indices; each of the first four is a tree of arrays without axes of outputs.

    Attributes:
        first_order: the share of the variance of all outputs that a factor explains by itself.
        total_order: the share that it has a part in.
        first_order_error: an upper bound of the standard error.
        total_order_error: the same.
        variance: scalar, the sum of the variances of the outputs.
        is_constant: scalar, whether no output varies; the indices are then 0.
    """

    first_order: Any
    total_order: Any
    first_order_error: Any
    total_order_error: Any
    variance: jax.Array
    is_constant: jax.Array


def aggregated(result: Indices) -> Aggregated:
    """Indices of all outputs together.

        S_i = sum_k V_k S_ik / sum_k V_k,    k over the outputs

    An output counts by its variance: outputs in different units are to be brought to one before.

    Args:
        result: what `indices` or `analyse` returned, of several outputs or of one.

    Returns:
        `Aggregated`. The errors are upper bounds, met where all outputs err together: by the
        inequality of Cauchy and Schwarz the error of a sum is at most the sum of the errors,

            error_i <= sum_k (V_k error_ik + |S_ik - S_i| error of V_k) / sum_k V_k

    Raises:
        TypeError: result is not `Indices`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sobol
        >>> f = lambda x: jnp.stack([3 * x[0], 4 * x[1]])
        >>> inputs = [sobol.uniform(0.0, 1.0), sobol.uniform(0.0, 1.0)]
        >>> s = sobol.indices(f, inputs, samples=1024)(jax.random.key(0))
        >>> [round(float(share), 2) for share in sobol.aggregated(s).total_order]
        [0.36, 0.64]

    References:
        Gamboa, Janon, Klein and Lagnoux, "Sensitivity analysis for multidimensional and functional
        outputs", Electron. J. Stat. 2014; Lamboni, Monod and Makowski, Reliab. Eng. Syst. Saf.
        2011. Deviation: the bound of the error, for which no covariances between outputs are kept.
    """
    if not isinstance(result, Indices):
        raise TypeError(
            f"aggregated takes the result of `indices`, but got a {type(result).__name__}."
        )
    total = jnp.sum(result.variance)
    is_constant = total <= 0
    scale = 1 / jnp.where(is_constant, 1, total)
    number = result.variance.ndim
    over = lambda weights, leaf: jnp.tensordot(
        weights * scale, leaf, number, precision=jax.lax.Precision.HIGHEST
    )
    mean = lambda tree: jax.tree.map(lambda leaf: over(result.variance, leaf), tree)

    def error(values: Any, means: Any, errors: Any) -> Any:
        def one(value: jax.Array, mean: jax.Array, error: jax.Array) -> jax.Array:
            apart = jnp.abs(value - mean.reshape((1,) * number + mean.shape))
            return over(result.variance, error) + over(result.variance_error, apart)

        return jax.tree.map(one, values, means, errors)

    first, last = mean(result.first_order), mean(result.total_order)
    return Aggregated(
        first,
        last,
        error(result.first_order, first, result.first_order_error),
        error(result.total_order, last, result.total_order_error),
        total,
        is_constant,
    )
