"""Count, mean and centred sum of squares of a tree of samples.

n = sum_i w_i      m = sum_i w_i y_i / n      M2 = sum_i w_i (y_i - m)^2
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.estimates._chunks import centred, weighted
from jaxplain.estimates._join import Join, Joint, products
from jaxplain.estimates._leaves import accumulator, map_unzip, samples_of, widest


class Compensation(NamedTuple):
    """The low parts of the sums of a state: each true sum is the field plus its low part.

    Attributes:
        count: scalar, the low part of `count`.
        mean: tree, the low part of `mean`.
        sum_of_squares: tree, the low part of `sum_of_squares`; in a `CovarianceMatrix` of
            `sum_of_products`.
    """

    count: Any
    mean: Any
    sum_of_squares: Any


class Moments(NamedTuple):
    """Count, mean and centred sum of squares of the samples seen; trees shaped like one sample.

    Attributes:
        count: n, the sum of the weights, a scalar.
        mean: m, in the samples' unit; 0 where nothing was seen: read it with
            `jaxplain.estimates.mean`, which says NaN then.
        sum_of_squares: M2, in the square of that unit.
        compensation: the low parts of the three.
    """

    count: Any
    mean: Any
    sum_of_squares: Any
    compensation: Compensation


def init_moments(value: Any) -> Moments:
    """The state of no samples at all.

    n = 0, m = 0, M2 = 0.

    Args:
        value: tree of arrays or `jax.ShapeDtypeStruct` shaped like ONE sample (no sample axis).
            Inside `shard_map` give an array of the device, so that a scan can carry the state.

    Returns:
        `Moments` for `update` and `merge`, accumulating in float32 or wider.

    Raises:
        TypeError: a leaf is complex or not a number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> state = estimates.init_moments(jax.ShapeDtypeStruct((2,), jnp.bfloat16))
        >>> state.mean.shape, str(state.mean.dtype), float(state.count)
        ((2,), 'float32', 0.0)

    References:
        Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """

    def empty(leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jnp.zeros(leaf.shape, accumulator(leaf))
        return jnp.zeros_like(leaf, accumulator(leaf))  # varies over the manual axes as the leaf

    zeros = jax.tree.map(empty, value)
    leaves, dtype = jax.tree.leaves(zeros), widest(zeros)
    # made of a leaf, so that it too varies over its axes
    count = leaves[0].sum().astype(dtype) if leaves else jnp.zeros((), dtype)
    return Moments(count, zeros, zeros, Compensation(count, zeros, zeros))


def samples(state: Moments, values: Any) -> int:
    """The number of samples in a chunk for this state."""
    return samples_of(state.mean, values)


def chunk(values: Any, weights: Any, count: Any) -> Moments:
    """The state of one chunk."""
    return centred_chunk(values, weights, count)[0]


def join(how: Join, *states: Moments) -> Moments:
    """The states joined into one."""
    return joined(how, *states)[0]


def centred_chunk(values: Any, weights: Any, count: Any) -> tuple[Moments, Any]:
    """The state of one chunk, and the deviations of its samples from their mean."""

    def one(leaf: Any) -> tuple[Any, ...]:
        high, low, deviations = centred(leaf, weights, count)
        return high, low, (weighted(deviations, weights) * deviations).sum(0), deviations

    high, low, squares, deviations = map_unzip(one, 4, values)
    nothing = jax.tree.map(jnp.zeros_like, squares)
    lows = Compensation(jnp.zeros_like(count), low, nothing)
    return Moments(count, high, squares, lows), deviations


def joined(how: Join, *states: Moments) -> tuple[Moments, Joint]:
    """The states joined into one, and what is known of their means."""
    joint = how.means(*states)
    within = ((s.sum_of_squares, s.compensation.sum_of_squares) for s in states)
    high, low = how.sums(products(joint, joint), *within)
    lows = Compensation(joint.count_low, joint.mean_low, low)
    return Moments(joint.count, joint.mean, high, lows), joint
