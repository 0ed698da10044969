"""What a state says: mean, variance, standard error, covariance, correlation.

    s^2 = M2 / (n - 1)      se = sqrt(s^2 / n)      c = C / (n - 1)      r = c / (s_x s_y)

Too few samples give NaN.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.estimates._covariance import Covariance
from jaxplain.estimates._covariance_matrix import CovarianceMatrix
from jaxplain.estimates._moments import Moments


def mean(state: Moments | CovarianceMatrix) -> Any:
    """The mean of the samples seen.

    m = sum_i w_i y_i / n; NaN where n = 0.

    Args:
        state: a `Moments` or `CovarianceMatrix`; for a `Covariance` read `state.left` and
            `state.right`.

    Returns:
        Tree shaped like one sample, in the accumulator's dtype.

    Raises:
        TypeError: `state` has no single mean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> empty = estimates.init_moments(jnp.zeros(()))
        >>> (
        ...     float(estimates.mean(empty)),
        ...     float(estimates.mean(estimates.update(empty, jnp.array([1.0, 2.0])))),
        ... )
        (nan, 1.5)

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    _single(state, "mean")
    seen = state.count > 0
    return jax.tree.map(
        lambda m: jnp.where(jnp.broadcast_to(seen, m.shape), m, jnp.full_like(m, jnp.nan)),
        state.mean,
    )


def variance(state: Moments | CovarianceMatrix, ddof: float = 1) -> Any:
    """The variance of one sample.

    s^2 = M2 / (n - ddof); NaN where n <= ddof.

    Args:
        state: a `Moments` or `CovarianceMatrix`; for a `Covariance` read `state.left` and
            `state.right`.
        ddof: degrees of freedom used up: 1 is unbiased, 0 is the mean square. It presumes weights
            that are counts.

    Returns:
        Tree shaped like one sample, in the accumulator's dtype and the square of the samples' unit.

    Raises:
        TypeError: `state` has no single variance.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> state = estimates.update(estimates.init_moments(jnp.zeros(())), jnp.array([1.0, 3.0]))
        >>> float(estimates.variance(state)), float(estimates.variance(state, ddof=0))
        (2.0, 1.0)

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    _single(state, "variance")
    if isinstance(state, CovarianceMatrix):
        return jnp.diagonal(covariance(state, ddof))
    return _per_degree(state.count, ddof, state.sum_of_squares, state.compensation.sum_of_squares)


def standard_error(state: Moments | CovarianceMatrix) -> Any:
    """The standard error of the mean of independent samples.

    se = sqrt(s^2 / n) with s^2 = M2 / (n - 1); NaN where n <= 1.

    Args:
        state: a `Moments` or `CovarianceMatrix`, with weights that are counts or a mask.

    Returns:
        Tree shaped like one sample, in the accumulator's dtype and the samples' unit.

    Raises:
        TypeError: `state` has no single mean.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> state = estimates.update(estimates.init_moments(jnp.zeros(())), jnp.array([1.0, 3.0]))
        >>> float(estimates.standard_error(state))
        1.0

    References:
        Owen 2013, "Monte Carlo theory, methods and examples", chapter 2.
    """
    _single(state, "standard_error")
    return jax.tree.map(lambda s: jnp.sqrt(_divide(s, state.count)), variance(state))


def covariance(state: Covariance | CovarianceMatrix, ddof: float = 1) -> Any:
    """The covariance of two quantities, or the covariance matrix of a vector.

    c = sum_i w_i (x_i - m_x)(y_i - m_y) / (n - ddof); NaN where n <= ddof.

    Args:
        state: a `Covariance` or `CovarianceMatrix`.
        ddof: degrees of freedom used up.

    Returns:
        For a `Covariance` a tree shaped like one x, element with element; for a `CovarianceMatrix`
        the (d, d) matrix.

    Raises:
        TypeError: `state` holds no products.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> state = estimates.update(estimates.init_covariance(x[0]), (x, -x))
        >>> float(estimates.covariance(state))
        -1.0

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    _joint(state, "covariance")
    if isinstance(state, CovarianceMatrix):
        return _per_degree(
            state.count, ddof, state.sum_of_products, state.compensation.sum_of_squares
        )
    return _per_degree(state.left.count, ddof, state.sum_of_products, state.compensation)


def correlation(state: Covariance | CovarianceMatrix) -> Any:
    """Pearson's correlation.

    r = C_xy / sqrt(M2_x M2_y), in [-1, 1] up to rounding; NaN where one of the two never varied or
    n <= 1.

    Args:
        state: a `Covariance` or `CovarianceMatrix`.

    Returns:
        For a `Covariance` a tree shaped like one x, element with element; for a `CovarianceMatrix`
        the (d, d) matrix.

    Raises:
        TypeError: `state` holds no products.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([1.0, 2.0, 3.0])
        >>> state = estimates.update(estimates.init_covariance(x[0]), (x, 7 - 2 * x))
        >>> float(estimates.correlation(state))
        -1.0

    References:
        Pearson 1895, "Note on regression and inheritance in the case of two parents".
    """
    _joint(state, "correlation")

    def ratio(products: Any, left: Any, right: Any) -> Any:
        # the roots apart: the product of two small variances underflows before their roots do
        return _divide(products, jnp.sqrt(left) * jnp.sqrt(right))

    matrix = covariance(state)
    if isinstance(state, CovarianceMatrix):
        rows = jnp.broadcast_to(jnp.diagonal(matrix)[:, None], matrix.shape)
        return ratio(matrix, rows, rows.T)
    return jax.tree.map(ratio, matrix, variance(state.left), variance(state.right))


def _single(state: Any, name: str) -> None:
    """Raises TypeError unless the state is of one quantity."""
    if not isinstance(state, Moments | CovarianceMatrix):
        raise TypeError(
            f"{name} needs a Moments or CovarianceMatrix, but got {type(state).__name__}. Of a "
            f"Covariance give one side: `{name}(state.left)`, `{name}(state.right)`."
        )


def _joint(state: Any, name: str) -> None:
    """Raises TypeError unless the state holds products."""
    if not isinstance(state, Covariance | CovarianceMatrix):
        raise TypeError(
            f"{name} needs a Covariance or CovarianceMatrix, but got {type(state).__name__}."
        )


def _per_degree(count: Any, ddof: float, sums: Any, lows: Any) -> Any:
    """(sums + lows) / (n - ddof), leaf by leaf."""
    degrees = count - jnp.asarray(ddof, count.dtype)
    return jax.tree.map(lambda total, low: _divide(total + low, degrees), sums, lows)


def _divide(total: Any, divisor: Any) -> Any:
    """The quotient total / divisor, NaN where the divisor is not positive."""
    divisor = jnp.broadcast_to(divisor.astype(total.dtype), total.shape)
    enough = divisor > 0
    # two selects, so that the branch not taken cannot put a NaN into a gradient
    quotient = total / jnp.where(enough, divisor, jnp.ones_like(divisor))
    return jnp.where(enough, quotient, jnp.full_like(quotient, jnp.nan))
