"""Estimators of first-order and total indices: each a function of means over the rows of a design.

Rows of a design: a = f(A), b = f(B), ab_i = f(A with column i from B), ba_i = f(B with column i
from A), ac_i = f(A with column i from C); A, B, C independent. m and s: the mean and the mean
square of all evaluations of the row, so that the variance V = E s - (E m)^2 is pooled over all of
them. All outputs are shifted by about their mean beforehand: products of outputs far from zero lose
their digits, and some of the estimators have variances that grow with the mean.

    jansen        first: 1 - E (b - ab)^2 / 2V                     total: E (a - ab)^2 / 2V
    saltelli2010  first: (E b (ab - a) - E m E (ab - a)) / V       total: (E a (a - ab) - ...) / V
    janon_monod   first: r(b, ab)                                  total: 1 - r(a, ab)
                  r(p, q) = (E pq - M^2) / (E (p^2 + q^2)/2 - M^2),  M = E (p + q)/2
    martinez      first: correlation(b, ab)                        total: 1 - correlation(a, ab)
    azzini        first: 2 E (ba - b)(a - ab) / D
                  total: E ((b - ba)^2 + (a - ab)^2) / D,    D = E ((a - b)^2 + (ba - ab)^2)
    owen          first: E (a - ac)(ba - b) / V
    homma         first: (E b ab - E a E b) / V                    total: 1 - (E a ab - (E a)^2) / V
                  with a, b, ab less E m

For masks (`jaxplain.sobol.attribution`), whose factors are uniform on [0, 1] and are known with
their step dx, from A to B, in each row:

    jansen_importance   total: E w (a - ab)^2 / 2V, the column i of B drawn near to where it tells
                        most: with the density |x - a_i| / z given a_i, and
                        w = z / |dx|,  z = (a_i^2 + (1 - a_i)^2) / 2
    jansen_ratio        total: E (a - ab)^2 / E dx^2 / 12 V
    jansen_regression   total: (E (a - ab)^2 - beta (E dx^2 - 1/6)) / 2V,   1/6 = E dx^2 exactly,
                        beta = cov((a - ab)^2, dx^2) / var(dx^2)
    jansen_of_base(N)   total: E (a - ab)^2 / 2 var(a),   var(a) with N - 1 for N rows
                        first: as saltelli2010, all three

Where f is about linear in a cell, (a - ab)^2 grows with dx^2, and most of plain Jansen's noise is
that of dx: rows with a small step say nothing. Importance sampling asks for the steps in proportion
to their length, and weighs them against it; it is unbiased for any f. With a density in dx^2 it
would be the best for a linear f, and have no finite variance where f jumps. The ratio form is the
better the more f is monotone in the mask; the regression is a control variate, and safe for any f.

References:
    Jansen 1999; Saltelli et al. 2010 (Comput. Phys. Commun. 181, table 2, row b); Janon, Klein,
    Lagnoux, Nodet and Prieur 2014; Martinez 2011; Azzini, Mara and Rosati 2021; Owen 2013
    ("Better estimation of small Sobol' sensitivity indices", correlation 2); Homma and Saltelli
    1996. Deviations: V is pooled over all evaluations of jansen, saltelli2010, owen and homma, and
    the products are centred.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks

__all__ = [
    "Estimator",
    "Formula",
    "Rows",
    "azzini",
    "homma",
    "janon_monod",
    "jansen",
    "jansen_importance",
    "jansen_of_base",
    "jansen_ratio",
    "jansen_regression",
    "martinez",
    "owen",
    "ratio",
    "saltelli2010",
    "variance_of",
]


class Rows(NamedTuple):
    """The outputs of a block of rows, shifted and scaled; those that are not needed are None.

    Attributes:
        a: shape (1, outputs, rows), on the base points A.
        b: shape (1, outputs, rows), on the base points B.
        ab: shape (G, outputs, rows), on A with group i from B.
        ba: shape (G, outputs, rows), on B with group i from A.
        ac: shape (G, outputs, rows), on A with group i from C.
        mean: shape (1, outputs, rows), the mean of all evaluations of the row.
        square: shape (1, outputs, rows), the mean of their squares.
        step: shape (G, 1, rows), B less A, of the factor that is group i.
        weight: shape (G, 1, rows), of the column i of B: its density over the one it was drawn
            with, given a. `mean` and `square` are then weighted too.
    """

    a: jax.Array
    b: Any
    ab: Any
    ba: Any
    ac: Any
    mean: jax.Array
    square: jax.Array
    step: Any
    weight: Any = None


class Formula(NamedTuple):
    """An index as a function of means over the rows.

    Attributes:
        needs: which of "b", "ab", "ba", "ac" it reads, beside a; and "step" and "weight", which
            there are for masks only. "weight" is for the importance sampling of B, and excludes
            all evaluations but "ab".
        statistics: from `Rows` to a tuple of arrays that broadcast to (G, outputs, rows).
        estimate: from the means of the statistics over the rows, to the index. Differentiable: its
            standard error is that of the delta method.
    """

    needs: tuple[str, ...]
    statistics: Callable[[Rows], tuple[jax.Array, ...]]
    estimate: Callable[..., jax.Array]


class Estimator(NamedTuple):
    """What estimates first-order and total indices; None where it has no form of one.

    Attributes:
        first_order: of S_i = Var E(Y | X_i) / V.
        total_order: of T_i = E Var(Y | all but X_i) / V.
    """

    first_order: Formula | None
    total_order: Formula | None


def ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    """A share of a variance, for the estimate of a `Formula`.

        over / under,    0 where under is 0 or below, with a finite derivative

    Args:
        over: a float array.
        under: the variance, an array that broadcasts against it.

    Returns:
        The share.

    Raises:
        TypeError: an argument is not an array.

    Example:
        >>> import jax.numpy as jnp
        >>> ratio(jnp.array([1.0, 1.0]), jnp.array([2.0, 0.0])).tolist()
        [0.5, 0.0]

    References:
        docs/sobol.md, "Estimators".
    """
    is_zero = under <= 0
    return jnp.where(is_zero, 0, over / jnp.where(is_zero, 1, under))


def variance_of(mean: jax.Array, square: jax.Array) -> jax.Array:
    """The variance from a mean and a mean square, for the estimate of a `Formula`.

        square - mean^2

    Args:
        mean: a float array.
        square: the mean of the squares, of the same shape. Outputs are shifted to about zero before
            they are squared, so that the difference keeps its digits.

    Returns:
        The variance.

    Raises:
        TypeError: an argument is not an array.

    Example:
        >>> import jax.numpy as jnp
        >>> float(variance_of(jnp.float32(1.0), jnp.float32(5.0)))
        4.0

    References:
        docs/sobol.md, "Estimators".
    """
    return square - mean**2


def _half_square(p: jax.Array, q: jax.Array) -> jax.Array:
    return (p - q) ** 2 / 2


jansen = Estimator(
    first_order=Formula(
        ("b", "ab"),
        lambda r: (_half_square(r.b, r.ab), r.mean, r.square),
        lambda n, m, s: ratio(variance_of(m, s) - n, variance_of(m, s)),
    ),
    total_order=Formula(
        ("ab",),
        lambda r: (_half_square(r.a, r.ab), r.mean, r.square),
        lambda n, m, s: ratio(n, variance_of(m, s)),
    ),
)

saltelli2010 = Estimator(
    first_order=Formula(
        ("b", "ab"),
        lambda r: (r.b * (r.ab - r.a), r.ab - r.a, r.mean, r.square),
        lambda n, d, m, s: ratio(n - m * d, variance_of(m, s)),
    ),
    total_order=Formula(
        ("ab",),
        lambda r: (r.a * (r.a - r.ab), r.a - r.ab, r.mean, r.square),
        lambda n, d, m, s: ratio(n - m * d, variance_of(m, s)),
    ),
)


# Janon and Martinez: of sums and differences of the pair, so that of p almost equal to q (a total
# index near 0) neither the estimate nor its standard error is a small difference of large numbers.


def _means_of_pair(p: jax.Array, q: jax.Array) -> tuple[jax.Array, ...]:
    return _half_square(p, q), (p + q) / 2, (p**2 + q**2) / 2


janon_monod = Estimator(
    first_order=Formula(
        ("b", "ab"),
        lambda r: _means_of_pair(r.b, r.ab),
        lambda n, m, s: ratio(variance_of(m, s) - n, variance_of(m, s)),
    ),
    total_order=Formula(
        ("ab",),
        lambda r: _means_of_pair(r.a, r.ab),
        lambda n, m, s: ratio(n, variance_of(m, s)),
    ),
)


def _moments_of_pair(p: jax.Array, q: jax.Array) -> tuple[jax.Array, ...]:
    return *_means_of_pair(p, q), p - q, (p - q) * (p + q) / 2


def _spread_and_gap(
    n: jax.Array, m: jax.Array, s: jax.Array, d: jax.Array, e: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The geometric mean G of the two variances, and G less the covariance."""
    of_p, of_q = variance_of(m + d / 2, s + e), variance_of(m - d / 2, s - e)
    is_zero = (of_p <= 0) | (of_q <= 0)
    spread = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, of_p * of_q)))
    # covariance = (of_p + of_q) / 2 - (n - d^2 / 2), and the arithmetic mean is above G by this:
    above = ratio((2 * (e - m * d)) ** 2, 2 * (of_p + of_q + 2 * spread))
    return spread, n - d**2 / 2 - above


def _martinez_first(*means: jax.Array) -> jax.Array:
    spread, gap = _spread_and_gap(*means)
    return ratio(spread - gap, spread)


def _martinez_total(*means: jax.Array) -> jax.Array:
    spread, gap = _spread_and_gap(*means)
    return ratio(gap, spread)


martinez = Estimator(
    first_order=Formula(("b", "ab"), lambda r: _moments_of_pair(r.b, r.ab), _martinez_first),
    total_order=Formula(("ab",), lambda r: _moments_of_pair(r.a, r.ab), _martinez_total),
)


def _spread_of_four(r: Rows) -> jax.Array:
    return (r.a - r.b) ** 2 + (r.ba - r.ab) ** 2


azzini = Estimator(
    first_order=Formula(
        ("b", "ab", "ba"),
        lambda r: (2 * (r.ba - r.b) * (r.a - r.ab), _spread_of_four(r)),
        ratio,
    ),
    total_order=Formula(
        ("b", "ab", "ba"),
        lambda r: ((r.b - r.ba) ** 2 + (r.a - r.ab) ** 2, _spread_of_four(r)),
        ratio,
    ),
)

owen = Estimator(
    first_order=Formula(
        ("b", "ba", "ac"),
        lambda r: ((r.a - r.ac) * (r.ba - r.b), r.mean, r.square),
        lambda n, m, s: ratio(n, variance_of(m, s)),
    ),
    total_order=None,
)

homma = Estimator(
    first_order=Formula(
        ("b", "ab"),
        lambda r: (r.b * r.ab, r.a, r.b, r.ab, r.mean, r.square),
        lambda n, a, b, ab, m, s: ratio(n - a * b + m * (a - ab), variance_of(m, s)),
    ),
    total_order=Formula(
        ("ab",),
        lambda r: (r.a * r.ab, r.a, r.ab, r.mean, r.square),
        lambda n, a, ab, m, s: ratio(
            variance_of(m, s) - (n - a**2 + m * (a - ab)), variance_of(m, s)
        ),
    ),
)


def _squares_with_steps(r: Rows) -> tuple[jax.Array, ...]:
    square, step = _half_square(r.a, r.ab), r.step**2
    return square, step, step**2, square * step, r.mean, r.square


def _regressed(*means: jax.Array) -> jax.Array:
    square, step, fourth, product, m, s = means
    beta = ratio(product - square * step, fourth - step**2)
    return ratio(square - beta * (step - 1 / 6), variance_of(m, s))


jansen_importance = Estimator(
    first_order=None,
    total_order=Formula(
        ("ab", "weight"),
        lambda r: (r.weight * _half_square(r.a, r.ab), r.mean, r.square),
        lambda n, m, s: ratio(n, variance_of(m, s)),
    ),
)

jansen_ratio = Estimator(
    first_order=saltelli2010.first_order,
    total_order=Formula(
        ("ab", "step"),
        lambda r: (_half_square(r.a, r.ab), r.step**2, r.mean, r.square),
        lambda n, step, m, s: ratio(n, 6 * step * variance_of(m, s)),
    ),
)

jansen_regression = Estimator(
    first_order=saltelli2010.first_order,
    total_order=Formula(("ab", "step"), _squares_with_steps, _regressed),
)


def jansen_of_base(samples: int) -> Estimator:
    """Jansen's form over the variance of the base points A alone, as the authors of masks have it.

    The same total indices as `jansen` on average, with more noise: it is for comparison with
    published maps, which it equals on the same masks.

    Args:
        samples: N, the rows of the design.

    Returns:
        An `Estimator`.

    Raises:
        TypeError: samples is not an integer.
        ValueError: samples is below 2.

    Example:
        >>> jansen_of_base(32).total_order.needs
        ('ab',)

    References:
        Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre, "Look at the Variance!", NeurIPS 2021,
        and its code, where the variance has ddof=1.
    """
    correction = 1 - 1 / checks.integer(samples, "samples", 2)
    return Estimator(
        first_order=saltelli2010.first_order,
        total_order=Formula(
            ("ab",),
            lambda r: (_half_square(r.a, r.ab), r.a, r.a**2),
            lambda n, m, s: ratio(n, variance_of(m, s)) * correction,
        ),
    )
