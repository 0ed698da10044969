"""The bootstrap percentile interval.

    [q_a, q_(1 - a)], a = (1 - level) / 2: quantiles over r of statistic(y_(i_r1), ..., y_(i_rn))

where i_rk are drawn from 1..n with replacement. For the mean a resample is a row of counts c_ri and
the statistic is m + sum_i c_ri (y_i - m) / n.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.estimates._intervals import Interval, check_level
from jaxplain.estimates._leaves import accumulator, map_unzip, sample_count
from jaxplain.estimates._moments import init_moments
from jaxplain.estimates._statistics import mean
from jaxplain.estimates._streaming import update


def bootstrap_interval(
    key: Any,
    values: Any,
    level: Any = 0.95,
    resamples: int = 1000,
    statistic: Callable[[Any], Any] | None = None,
    chunk_size: int = 20,
) -> Interval:
    """The bootstrap percentile interval of a statistic of independent samples.

    [q_a, q_(1 - a)] with a = (1 - level) / 2: quantiles over resamples r of statistic(y_(i_r1),
    ..., y_(i_rn)), where i_rk are drawn from 1..n with replacement, jointly for all leaves. For the
    mean a resample is a row of counts c_ri and the statistic is the matrix product m + sum_i c_ri
    (y_i - m) / n; samples are never copied.

    Percentile intervals of few samples are short: by about sqrt((n - 1) / n) for a mean, and more
    where the distribution is skewed. They need n of some tens.

    Args:
        key: typed key.
        values: tree of arrays (n, ...), the samples on the leading axis.
        level: probability that the interval covers, between 0 and 1; may be a traced scalar.
        resamples: how many, static; the ends of a 95 % interval want 1,000 or more.
        statistic: None for the mean, or a function of the tree of n resampled values to a tree; a
            named function rather than a lambda made anew for each call, which would compile anew.
        chunk_size: resamples made at once. Memory grows by chunk_size * n numbers for the mean and
            by chunk_size copies of the values for another statistic; the result does not depend on
            it.

    Returns:
        `Interval(lower, upper)`, trees like the statistic. For the mean in the accumulator's dtype.
        NaN where there are no samples; a single sample gives an interval of no length.

    Raises:
        ValueError: a static number out of its range, or leaves with different numbers of samples.
        TypeError: the key is not typed, a static number is not an integer, a leaf is not a real
            number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import estimates
        >>> r = estimates.bootstrap_interval(jax.random.key(0), jnp.arange(101.0), resamples=200)
        >>> bool((40 < r.lower) & (r.lower < 50) & (50 < r.upper) & (r.upper < 60))
        True

    References:
        Efron, Tibshirani 1993, "An introduction to the bootstrap", section 13.3 (percentile
        intervals).
    """
    checks.key(key)
    resamples = checks.integer(resamples, "resamples")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    if statistic is not None:
        checks.function(statistic, "statistic, where it is not None (the mean),")
    check_level(level)
    sample_count(values, "values")
    return _interval(key, values, level, resamples, statistic, chunk_size)


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _interval(
    key: Any,
    values: Any,
    level: Any,
    resamples: int,
    statistic: Callable[[Any], Any] | None,
    chunk_size: int,
) -> Interval:
    length = sample_count(values, "values")
    if statistic is None:
        resampled = _resampled_mean(values, length)
    else:
        resampled = lambda chosen: statistic(jax.tree.map(lambda v: v[chosen], values))

    def one(key: Any) -> Any:
        return resampled(jax.random.randint(key, (length,), 0, max(length, 1)))

    keys = jax.random.split(key, resamples)
    results = jax.lax.map(one, keys, batch_size=min(chunk_size, resamples))

    def ends(leaf: Any) -> tuple[Any, Any]:
        wide = leaf.astype(accumulator(leaf))
        tail = (1 - jnp.asarray(level, wide.dtype)) / 2
        lower, upper = jnp.quantile(wide, jnp.stack([tail, 1 - tail]), axis=0)
        if length == 0:
            lower, upper = jnp.full_like(lower, jnp.nan), jnp.full_like(upper, jnp.nan)
        return lower, upper

    return Interval(*map_unzip(ends, 2, results))


def _resampled_mean(values: Any, length: int) -> Callable[[Any], Any]:
    """The mean of chosen samples, a function of their indices, that copies no sample."""
    zero = jax.tree.map(lambda v: v.sum(0), values)
    centre = mean(update(init_moments(zero), values))
    centred = jax.tree.map(lambda v, m: v.astype(m.dtype) - m[None], values, centre)

    def moved(chosen: Any) -> Any:
        def shifted(m: Any, c: Any) -> Any:
            # under the map this is the product of counts (chunk, n) and values (n, d)
            counts = jnp.zeros((length,), c.dtype).at[chosen].add(1)
            flat = c.reshape(length, math.prod(c.shape[1:]))
            step = jnp.matmul(counts, flat, precision=jax.lax.Precision.HIGHEST)
            return m + step.reshape(m.shape) / max(length, 1)

        return jax.tree.map(shifted, centre, centred)

    return moved
