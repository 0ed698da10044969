"""Intervals of an estimate from its standard error.

[m - q se, m + q se] with q the (1 + level) / 2 quantile of the normal or Student's distribution
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri

from jaxplain.estimates._leaves import accumulator, map_unzip, same_structure, widest


class Interval(NamedTuple):
    """The two ends of an interval.

    Attributes:
        lower: tree shaped like the estimate, in its unit.
        upper: tree like `lower`.
    """

    lower: Any
    upper: Any


def normal_interval(mean: Any, standard_error: Any, level: Any = 0.95) -> Interval:
    """The interval of a normally distributed estimate.

    [m - z se, m + z se] with z the (1 + level) / 2 quantile of the standard normal distribution.

    Args:
        mean: tree of estimates.
        standard_error: tree of their standard errors, same shapes.
        level: probability that the interval covers, between 0 and 1; may be a traced scalar.

    Returns:
        `Interval(lower, upper)`, trees like `mean` and in its dtype. A NaN error gives NaN ends.

    Raises:
        ValueError: trees or shapes differ, or a concrete `level` is not between 0 and 1.

    Example:
        >>> from jaxplain import estimates
        >>> r = estimates.normal_interval(1.0, 0.5)
        >>> round(float(r.lower), 3), round(float(r.upper), 3)
        (0.02, 1.98)

    References:
        Owen 2013, "Monte Carlo theory, methods and examples", chapter 2 (central limit intervals).
    """
    tail = jnp.asarray(_tail(level), widest((mean, standard_error)))
    return _around(mean, standard_error, -ndtri(tail))


def student_interval(
    mean: Any, standard_error: Any, degrees_of_freedom: float, level: float = 0.95
) -> Interval:
    """The interval of an estimate whose standard error comes from few samples.

    [m - t se, m + t se] with t the (1 + level) / 2 quantile of Student's distribution. The quantile
    is taken on the host (scipy), so the degrees of freedom and the level are static numbers: those
    of `batch_means` always are.

    Args:
        mean: tree of estimates.
        standard_error: tree of their standard errors, same shapes.
        degrees_of_freedom: Python number > 0: samples - 1, or batches - 1.
        level: probability that the interval covers, Python number between 0 and 1.

    Returns:
        `Interval(lower, upper)`, trees like `mean` and in its dtype. A NaN error gives NaN ends.

    Raises:
        ValueError: trees or shapes differ, or a number is out of its range.
        TypeError: a number is an array: only `normal_interval` takes traced ones.

    Example:
        >>> from jaxplain import estimates
        >>> r = estimates.student_interval(0.0, 1.0, degrees_of_freedom=9)
        >>> round(float(r.upper), 3)
        2.262

    References:
        Student 1908, "The probable error of a mean".
    """
    from scipy.special import stdtrit  # here, for its import costs more than the rest

    for name, number in (("degrees_of_freedom", degrees_of_freedom), ("level", level)):
        if not isinstance(number, int | float | np.number):
            raise TypeError(
                f"{name} must be a Python number, for the quantile is taken on the host, but is a "
                f"{type(number).__name__}. With many samples use normal_interval."
            )
    if degrees_of_freedom <= 0:
        raise ValueError(f"degrees_of_freedom must be positive, but is {degrees_of_freedom}.")
    return _around(mean, standard_error, -float(stdtrit(degrees_of_freedom, _tail(level))))


def check_level(level: Any) -> None:
    """Raises ValueError where a level that is known is not a probability."""
    if isinstance(level, int | float | np.number) and not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, e.g. 0.95, but is {level}.")


def _tail(level: Any) -> Any:
    """(1 - level) / 2; on the host for a Python number, where a level near 1 keeps its digits."""
    check_level(level)
    return (1 - level) / 2


def _around(centre: Any, error: Any, quantile: Any) -> Interval:
    same_structure(centre, error, "standard_error")

    def ends(m: Any, s: Any) -> tuple[Any, Any]:
        m, s = jnp.asarray(m), jnp.asarray(s)
        if m.shape != s.shape:
            raise ValueError(
                f"mean has shape {m.shape} but standard_error has shape {s.shape}; they must agree."
            )
        wide = accumulator(m)
        half = s.astype(wide) * jnp.asarray(quantile).astype(wide)
        return (m.astype(wide) - half).astype(m.dtype), (m.astype(wide) + half).astype(m.dtype)

    return Interval(*map_unzip(ends, 2, centre, error))
