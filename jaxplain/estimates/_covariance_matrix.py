"""The covariance matrix of a vector.

C = sum_i w_i (x_i - m)(x_i - m)^T, a (d, d) matrix
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.estimates._chunks import centred, weighted
from jaxplain.estimates._join import Join
from jaxplain.estimates._leaves import samples_of
from jaxplain.estimates._moments import Compensation, init_moments


class CovarianceMatrix(NamedTuple):
    """Moments of a vector (d,) and the matrix of centred sums of products.

    The sums of squares of the parts are the diagonal; they are not kept twice.

    Attributes:
        count: n, the sum of the weights, a scalar.
        mean: m, shape (d,); 0 where nothing was seen: read it with `jaxplain.estimates.mean`.
        sum_of_products: C, shape (d, d).
        compensation: the low parts of the three.
    """

    count: Any
    mean: Any
    sum_of_products: Any
    compensation: Compensation


def init_covariance_matrix(value: Any) -> CovarianceMatrix:
    """The state of no samples of one vector, for its whole covariance matrix.

    C = sum_i w_i (x_i - m)(x_i - m)^T = 0, a (d, d) matrix.

    Args:
        value: one array or `jax.ShapeDtypeStruct` of shape (d,).

    Returns:
        `CovarianceMatrix` for `update` with values of shape (c, d), and `merge`.

    Raises:
        TypeError: the vector is complex or not a number.
        ValueError: `value` is not one array of rank 1.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([[0.0, 0.0], [1.0, -1.0], [2.0, -2.0]])
        >>> state = estimates.update(estimates.init_covariance_matrix(x[0]), x)
        >>> estimates.covariance(state).tolist()
        [[1.0, -1.0], [-1.0, 1.0]]

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"; Welford 1962 for
        the corrected sums of products.
    """
    if not hasattr(value, "shape") or len(value.shape) != 1:
        raise ValueError(
            "a covariance matrix is taken of one vector per sample, shape (d,), but value is "
            f"{jax.tree.map(np.shape, value)}. Flatten it, e.g. with "
            "`jax.flatten_util.ravel_pytree`."
        )
    count, mean, _, _ = init_moments(value)
    square = mean[:, None] * mean[None, :]
    return CovarianceMatrix(count, mean, square, Compensation(count, mean, square))


def samples(state: CovarianceMatrix, values: Any) -> int:
    """The number of samples in a chunk for this state."""
    return samples_of(state.mean, values)


def chunk(values: Any, weights: Any, count: Any) -> CovarianceMatrix:
    """The state of one chunk."""
    high, low, deviations = centred(values, weights, count)
    square = jnp.matmul(
        weighted(deviations, weights).T, deviations, precision=jax.lax.Precision.HIGHEST
    )
    lows = Compensation(jnp.zeros_like(count), low, jnp.zeros_like(square))
    return CovarianceMatrix(count, high, square, lows)


def join(how: Join, *states: CovarianceMatrix) -> CovarianceMatrix:
    """The states joined into one."""
    joint = how.means(*states)
    d = joint.difference
    between = d[:, None] * (d * joint.weight.astype(d.dtype))[None, :]
    within = ((s.sum_of_products, s.compensation.sum_of_squares) for s in states)
    high, low = how.sums(between, *within)
    lows = Compensation(joint.count_low, joint.mean_low, low)
    return CovarianceMatrix(joint.count, joint.mean, high, lows)
