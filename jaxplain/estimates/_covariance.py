"""Covariances of two trees, element with element.

C = sum_i w_i (x_i - m_x)(y_i - m_y)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.estimates import _moments
from jaxplain.estimates._chunks import weighted
from jaxplain.estimates._join import Join, products
from jaxplain.estimates._leaves import samples_of
from jaxplain.estimates._moments import Moments, init_moments


class Covariance(NamedTuple):
    """Moments of two trees and the centred sum of their elementwise products.

    Attributes:
        left: the `Moments` of x.
        right: the `Moments` of y.
        sum_of_products: C, a tree shaped like one x.
        compensation: its low part.
    """

    left: Moments
    right: Moments
    sum_of_products: Any
    compensation: Any


def init_covariance(value: Any) -> Covariance:
    """The state of no pairs of samples, for covariances element by element.

    C = sum_i w_i (x_i - m_x)(y_i - m_y) = 0.

    Args:
        value: tree of arrays or `jax.ShapeDtypeStruct` shaped like ONE x; y has the same tree and
            shapes.

    Returns:
        `Covariance` for `update(state, (x, y))` and `merge`.

    Raises:
        TypeError: a leaf is complex or not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> x = jnp.array([0.0, 1.0, 2.0])
        >>> state = estimates.update(estimates.init_covariance(x[0]), (x, 3 * x))
        >>> float(estimates.covariance(state)), float(estimates.correlation(state))
        (3.0, 1.0)

    References:
        Chan, Golub, LeVeque 1983, "Algorithms for computing the sample variance"; Welford 1962 for
        the corrected sums of products.
    """
    empty = init_moments(value)
    return Covariance(empty, empty, empty.mean, empty.mean)


def samples(state: Covariance, values: Any) -> int:
    """The number of pairs in a chunk for this state."""
    if not isinstance(values, tuple | list) or len(values) != 2:
        raise ValueError("a Covariance is updated with a pair of trees: `update(state, (x, y))`.")
    length = samples_of(state.left.mean, values[0], "the first of the values")
    if length != samples_of(state.right.mean, values[1], "the second of the values"):
        raise ValueError("the two values of a Covariance have different numbers of samples.")
    return length


def chunk(values: Any, weights: Any, count: Any) -> Covariance:
    """The state of one chunk."""
    left, x = _moments.centred_chunk(values[0], weights, count)
    right, y = _moments.centred_chunk(values[1], weights, count)
    high = jax.tree.map(lambda x, y: (weighted(x, weights) * y).sum(0), x, y)
    return Covariance(left, right, high, jax.tree.map(jnp.zeros_like, high))


def join(how: Join, *states: Covariance) -> Covariance:
    """The states joined into one."""
    left, x = _moments.joined(how, *(s.left for s in states))
    right, y = _moments.joined(how, *(s.right for s in states))
    within = ((s.sum_of_products, s.compensation) for s in states)
    return Covariance(left, right, *how.sums(products(x, y), *within))
