"""Shapley effects: the variance of a function, shared out among its inputs.

x = w_0 -> w_1 -> ... -> w_d = y,    w_j = w_(j-1) with input pi_j from y, pi a random permutation

    effect of pi_j:     mean (f(x) - (f(w_(j-1)) + f(w_j)) / 2) (f(w_(j-1)) - f(w_j)) / V
    total index of it:  mean (f(w_(j-1)) - f(w_j))^2 / 2V

The terms of a walk sum to (f(x) - f(y))^2 / 2. The points of a walk are known from their number j:
an input comes from y once its place in the permutation is below j.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, estimates, qmc
from jaxplain.evaluate import evaluate, stack
from jaxplain.qmc._sampler import Sampler
from jaxplain.sobol import _design, _indices
from jaxplain.sobol._factors import Factors, factors
from jaxplain.sobol._statistics import NOTHING, Estimates, Known, Layout, State
from jaxplain.sobol.estimators import Estimator, Formula, Rows, ratio, variance_of

NAMES = ("effects", "total_order")


class ShapleyEffects(NamedTuple):
    """Shapley effects and total indices, with their errors.

    Each of the first six is a tree like the inputs, an array of the shape of the outputs followed
    by that of the leaf; where factors are grouped, an array (*outputs, groups).

    Attributes:
        effects: the share of the variance that falls to each factor. They sum to 1 in the mean, and
            times the variance exactly to the mean of (f(x) - f(y))^2 / 2 over the walks.
        total_order: T, the share that each factor has a part in.
        effects_error: the standard error of the effects.
        total_order_error: the standard error of T.
        effects_interval: two trees, the ends of an interval at the level asked for.
        total_order_interval: see above.
        mean: shape of the outputs: the mean over all evaluations.
        variance: shape of the outputs: V.
        rows: the walks that went into the estimates, int32.
        evaluations: evaluations of f, int32.
        not_finite: how many outputs were NaN or infinite, int32; their walks are left out.
        is_constant: shape of the outputs: whether f does not vary; its effects are then 0.
        is_converged: whether the tolerance was met; true where none was asked for.
        variance_error: shape of the outputs: the standard error of V.
    """

    effects: Any
    total_order: Any
    effects_error: Any
    total_order_error: Any
    effects_interval: estimates.Interval
    total_order_interval: estimates.Interval
    mean: jax.Array
    variance: jax.Array
    rows: jax.Array
    evaluations: jax.Array
    not_finite: jax.Array
    is_constant: jax.Array
    is_converged: jax.Array
    variance_error: jax.Array


def shapley_effects(
    f: Callable[..., Any],
    inputs: Any,
    *,
    samples: int | None = None,
    tolerance: float | jax.Array | None = None,
    max_samples: int | None = None,
    sampler: Sampler = qmc.sobol,
    groups: Any = None,
    errors: str = "delta",
    replicates: int | None = None,
    level: float = 0.95,
    chunk_size: int | None = None,
    nan: str = "raise",
) -> Callable[..., ShapleyEffects]:
    """Shapley effects of any function of independent inputs, and total indices from the same walks.

        Sh_i = mean over the orders of the inputs of
               (Var E(Y | X_i and those before it) - Var E(Y | those before it)) / V

    The effects share out the whole variance: they are not negative, sum to 1, and lie between the
    first-order and the total index of each input.

    Args:
        f: `f(x, *args) -> output`, as in `indices`.
        inputs: a tree of distributions, d factors in all.
        samples: N, the number of walks; f is evaluated samples * (d + 1) times. 1,024 (of each
            scramble) unless given.
        tolerance: in place of `samples`: walks are doubled, as in `indices`.
        max_samples: the most walks with `tolerance`.
        sampler: `jaxplain.qmc.sobol` or another, of 3 d dimensions: two points and an order.
        groups: as in `indices`: the groups are the players, of which there are then fewer than d.
        errors: "delta", "scrambles" or "bootstrap", as in `indices`.
        replicates: 16 scrambles, or 100 resamples, unless given.
        level: the probability that an interval covers, for each effect by itself.
        chunk_size: evaluations of f at once; by itself as many as fit into 16 MiB of points, at
            most 2,048.
        nan: "raise" where an output is not finite (outside of a user's `jit`), or "omit": walks
            with such outputs are left out and counted.

    Returns:
        `analyse(key, *args) -> ShapleyEffects`, a pure function, jitted inside.

    Raises:
        TypeError: as `indices`.
        ValueError: as `indices`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sobol
        >>> inputs = {"a": sobol.uniform(0.0, 1.0), "b": sobol.uniform(jnp.zeros(2), 1.0)}
        >>> f = lambda x: x["a"] * x["b"][0]  # two inputs that play the same part, and one none
        >>> s = sobol.shapley_effects(f, inputs, samples=1024)(jax.random.key(0))
        >>> [round(float(share), 1) for share in (s.effects["a"], *s.effects["b"])]
        [0.5, 0.5, 0.0]

    References:
        Goda, "A simple algorithm for global sensitivity analysis with Shapley effects", Reliab.
        Eng. Syst. Saf. 2021, algorithm 1; Owen, SIAM/ASA J. Uncertain. Quantif. 2014 (the effects).
        Deviations: 1. outputs are centred and the variance is taken over all evaluations. 2. The
        orders come from d further dimensions of the sampler, sorted. 3. Groups of inputs as
        players. 4. Total indices from all walks.
    """
    checks.function(f, "f")
    layout = factors(inputs, groups)
    options = _indices._options(GODA, GODA, False, sampler, errors, replicates, level, nan)
    options = options._replace(names=NAMES)
    most, first, chunk_size = _indices.sizes(samples, tolerance, max_samples, chunk_size, options)

    def plan_for(outputs: int) -> Walks:
        own = _Layout(frozenset(), layout.group_count)
        numbers = own.evaluations * outputs
        rows, columns = _design.block(layout, first, chunk_size, numbers)
        return Walks(layout, own, rows, columns)

    return _indices.kernel(f, layout, plan_for, options, most, tolerance, nan, _result)


class Walks(NamedTuple):
    """Walks from one point to another; see `_design.Design`.

    Attributes:
        factors: the layout of the inputs.
        layout: how the outputs of a walk lie in a block.
        rows: walks of a block, a power of two.
        columns: points of each walk evaluated at once.
    """

    factors: Factors
    layout: Layout
    rows: int
    columns: int

    @property
    def dimensions(self) -> int:
        """How many uniform numbers a walk takes: two points, and one number for each player."""
        return 2 * self.factors.dimensions + self.factors.group_count

    def outputs(self, f: Callable[[jax.Array], jax.Array], u: jax.Array) -> jax.Array:
        """Of a block of walks: f(x), f after each player's step, f before it (2 G + 1, q, rows)."""
        d, players = self.factors.dimensions, self.factors.group_count
        x, y = self.factors.values(u[:, :d]), self.factors.values(u[:, d : 2 * d])
        places = jnp.argsort(jnp.argsort(u[:, 2 * d :], axis=1), axis=1)  # (rows, G)
        place = places[:, jnp.asarray(self.factors.groups, jnp.int32)]

        def point(step: jax.Array) -> jax.Array:
            return jax.vmap(f, out_axes=1)(jnp.where(place < step, y, x))

        count = players + 1
        along = evaluate(point, count, stack(count), chunk_size=self.columns)
        places = places.T[:, None, :]
        before = jnp.take_along_axis(along, places, axis=0)
        after = jnp.take_along_axis(along, places + 1, axis=0)
        # What is not finite is counted where it comes after a step, or as f(x).
        return jnp.concatenate([along[:1], after, jnp.where(jnp.isfinite(before), before, 0)])


class _Layout(Layout):
    """Blocks of `Walks`: a is f(x); ab is f after, ba before the step of each player."""

    @property
    def evaluations(self) -> int:
        return 2 * self.groups + 1

    def rows(self, y: jax.Array, known: Known = NOTHING) -> Rows:
        own, before = y[: self.groups + 1], y[self.groups + 1 :]
        mean = jnp.mean(own, axis=0, keepdims=True)
        square = jnp.mean(own**2, axis=0, keepdims=True)
        return Rows(own[:1], None, own[1:], before, None, mean, square, None)


GODA = Estimator(
    first_order=Formula(
        (),
        lambda r: ((r.a - (r.ba + r.ab) / 2) * (r.ba - r.ab), r.mean, r.square),
        lambda n, m, s: ratio(n, variance_of(m, s)),
    ),
    total_order=Formula(
        (),
        lambda r: ((r.ba - r.ab) ** 2 / 2, r.mean, r.square),
        lambda n, m, s: ratio(n, variance_of(m, s)),
    ),
)


def _result(
    found: Estimates,
    state: State,
    plan: Walks,
    options: _indices.Options,
    shape: tuple[int, ...],
    is_converged: Any,
) -> ShapleyEffects:
    shaped = _indices.Shaped(found, plan.factors, options, shape)
    return ShapleyEffects(
        *shaped.values,
        *shaped.errors,
        *shaped.intervals,
        **shaped.rest(state, plan.layout.groups + 1, is_converged),
    )
