"""Variance-based sensitivity indices of any function of independent inputs.

    S_i = Var E(Y | X_i) / V          how much of the variance one input explains by itself
    T_i = E Var(Y | all but X_i) / V  how much is lost where it is known that all others are fixed

estimated from evaluations on rows A, B and A with one input from B (`estimators`).
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, estimates, qmc, trees
from jaxplain.evaluate import Reduction, evaluate
from jaxplain.qmc._sampler import Sampler
from jaxplain.sobol import _design, _statistics
from jaxplain.sobol._factors import Factors, factors
from jaxplain.sobol._statistics import PAIRS, Estimates, State
from jaxplain.sobol.estimators import Estimator, Formula, jansen, saltelli2010

ERRORS = {"delta": 1, "scrambles": 16, "bootstrap": 100}  # and the usual number of replicates
FEW = 1024  # rows: of fewer, a quasi-random design is no better than a random one


class Indices(NamedTuple):
    """Sensitivity indices, with their errors.

    Each of the first six is a tree like the inputs, an array of the shape of the outputs followed
    by that of the leaf; where factors are grouped, an array (*outputs, groups).

    Attributes:
        first_order: S, the share of the variance that each factor explains by itself.
        total_order: T, the share that each has a part in.
        first_order_error: the standard error of S.
        total_order_error: the standard error of T.
        first_order_interval: two trees, the ends of an interval at the level asked for.
        total_order_interval: see above.
        second_order: None unless asked for. A tree like the inputs of trees like the inputs: the
            share of each pair of factors beyond what both explain by themselves; 0 for a factor
            with itself. Where factors are grouped, (*outputs, groups, groups).
        second_order_error: the standard error of the above, an upper bound.
        mean: shape of the outputs: the mean over all evaluations.
        variance: shape of the outputs: V.
        rows: the rows of the design that went into the estimates, int32.
        evaluations: evaluations of f, int32; about 2^31 stands for more.
        not_finite: how many outputs were NaN or infinite, int32; their rows are left out.
        is_constant: shape of the outputs: whether f does not vary; its indices are then 0.
        is_converged: whether the tolerance was met; true where none was asked for.
        variance_error: shape of the outputs: the standard error of V.
    """

    first_order: Any
    total_order: Any
    first_order_error: Any
    total_order_error: Any
    first_order_interval: estimates.Interval
    total_order_interval: estimates.Interval
    second_order: Any
    second_order_error: Any
    mean: jax.Array
    variance: jax.Array
    rows: jax.Array
    evaluations: jax.Array
    not_finite: jax.Array
    is_constant: jax.Array
    is_converged: jax.Array
    variance_error: Any = None


def indices(
    f: Callable[..., Any],
    inputs: Any,
    *,
    samples: int | None = None,
    tolerance: float | jax.Array | None = None,
    max_samples: int | None = None,
    sampler: Sampler = qmc.sobol,
    first_order: Estimator = saltelli2010,
    total_order: Estimator = jansen,
    second_order: bool = False,
    groups: Any = None,
    errors: str = "delta",
    replicates: int | None = None,
    level: float = 0.95,
    chunk_size: int | None = None,
    nan: str = "raise",
) -> Callable[..., Indices]:
    """First-order and total Sobol indices of any function.

        S_i = Var E(Y | X_i) / V,    T_i = E Var(Y | all but X_i) / V,    Y = f(X)

    Args:
        f: `f(x, *args) -> output`, x a tree like `inputs` of arrays, the output a scalar or an
            array of any shape (a vector of outputs, a time series): indices of each element. It is
            evaluated inside the compiled loop; for a simulator outside JAX see `design`.
        inputs: a tree of distributions: `uniform`, `normal`, `inverse_cdf`. Each of their elements
            is one factor, d in all.
        samples: N, the number of rows; f is evaluated samples * (d + 2) times. 1,024 (of each
            scramble) unless given.
            For a Sobol' sampler a power of two, from 1,024 on: below, its points are no better
            than random ones.
        tolerance: in place of `samples`: rows are doubled, from 1,024, until the half-width of the
            widest interval is no more than this. May be a traced array.
        max_samples: the most rows with `tolerance`: 1,024 (for each scramble) times a power of two;
            2**18 unless given.
        sampler: `jaxplain.qmc.sobol` or another; options by `functools.partial`.
        first_order: one of `jaxplain.sobol.estimators`.
        total_order: one of `jaxplain.sobol.estimators`.
        second_order: whether to estimate the indices of all pairs, from samples * (2 d + 2)
            evaluations.
        groups: None, or a tree like `inputs` with an integer (or an array of them that broadcasts
            to the leaf) for each leaf: factors of one number, from 0, are one group, whose
            first-order index is the closed index of all of them together.
        errors: "delta": the delta method, from the rows themselves; right under Monte Carlo, two to
            six times too wide under a quasi-random sampler. "scrambles": from `replicates`
            independent designs of samples / replicates rows each, with Student's interval; right
            under any sampler. "bootstrap": percentiles of `replicates` resamples of rows, which
            give the same as the delta method.
        replicates: 16 scrambles, or 100 resamples, unless given.
        level: the probability that an interval covers, for each index by itself.
        chunk_size: evaluations of f at once; by itself as many as fit into 16 MiB of points and 16
            MiB of outputs of whole rows, at most 2,048. It changes memory and speed, and the result
            by rounding.
        nan: "raise" where an output is not finite (outside of a user's `jit`), or "omit": rows
            with such outputs are left out and counted.

    Returns:
        `analyse(key, *args) -> Indices`, a pure function, jitted inside.

    Raises:
        TypeError: f is not a function, inputs are not a tree of distributions, the key is not
            typed, or an option is of another type than above.
        ValueError: an option is out of its range; an output is not finite and `nan` is "raise".

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import sobol
        >>> inputs = {"a": sobol.uniform(0.0, 1.0), "b": sobol.normal(jnp.zeros(2), 1.0)}
        >>> f = lambda x: 12**0.5 * x["a"] + 2 * x["b"][0]  # variances 1 and 4
        >>> s = sobol.indices(f, inputs, samples=1024)(jax.random.key(0))
        >>> [round(float(share), 2) for share in (s.first_order["a"], *s.total_order["b"])]
        [0.2, 0.8, 0.0]

    References:
        Sobol', Math. Model. Comput. Exp. 1993; Homma and Saltelli, Reliab. Eng. Syst. Saf. 1996;
        the estimators: `jaxplain.sobol.estimators`. Deviations: 1. outputs are centred, and the
        variance is taken over all evaluations. 2. Standard errors by the delta method in place of
        the bootstrap.
    """
    checks.function(f, "f")
    layout = factors(inputs, groups)
    options = _options(
        first_order, total_order, second_order, sampler, errors, replicates, level, nan
    )
    most, first, chunk_size = sizes(samples, tolerance, max_samples, chunk_size, options)
    plan_for = lambda outputs: _design.design(
        layout, options.formulas, second_order, first, chunk_size, outputs
    )
    return kernel(f, layout, plan_for, options, most, tolerance, nan, result)


def kernel(
    f: Callable[..., Any],
    layout: Factors,
    plan_for: Callable[[int], Any],
    options: "Options",
    most: int,
    tolerance: Any,
    nan: str,
    result: Callable[..., Any],
) -> Callable[..., Any]:
    """`key, *args` to what `result` makes of the estimates; `plan_for` is told how many outputs."""

    @jax.jit
    def compute(key: jax.Array, *args: Any) -> Any:
        flat = _design.flat(f, layout)
        shape = _design.output_shape(f, layout, *args)
        plan = plan_for(math.prod(shape))
        program = _Program(plan, options, lambda x: flat(x, *args), most // options.scrambles)
        found, state, is_converged = program.run(key, tolerance)
        return result(found, state, plan, options, shape, is_converged)

    def analyse(key: Any, *args: Any) -> Any:
        checks.key(key)
        checks.arrays(args, "each argument after the key")
        found = compute(key, *args)
        if nan == "raise":
            raise_if_not_finite(found)
        return found

    return analyse


class Options(NamedTuple):
    """The options that say how indices are estimated, checked."""

    names: tuple[str, ...]
    formulas: tuple[Formula, ...]
    second_order: bool
    sampler: Sampler
    errors: str
    replicates: int
    level: float

    @property
    def scrambles(self) -> int:
        """How many independent designs there are."""
        return self.replicates if self.errors == "scrambles" else 1

    def reduction(self, layout: _statistics.Layout, rows: int, key: jax.Array) -> Reduction:
        """Of one design in blocks of so many rows; the key is that of the bootstrap."""
        bootstrap = (key, self.replicates, rows) if self.errors == "bootstrap" else None
        formulas = dict(zip(self.names, self.formulas, strict=True))
        return _statistics.reduction(layout, formulas, pairs=self.second_order, bootstrap=bootstrap)


class _Program(NamedTuple):
    """The evaluation of a design: of all rows, or of as many as a tolerance asks for."""

    plan: Any  # `_design.Design`, or another with factors, layout, rows, dimensions and outputs
    options: Options
    f: Callable[[jax.Array], jax.Array]
    rows: int  # of each scramble, the most

    def run(self, key: jax.Array, tolerance: Any) -> tuple[Estimates, State, Any]:
        for_points, for_bootstrap = jax.random.split(key)
        reduction = self.options.reduction(self.plan.layout, self.plan.rows, for_bootstrap)
        one = functools.partial(self.all_rows, reduction)
        if tolerance is not None:
            return self.to_tolerance(reduction, for_points, tolerance)
        if self.options.scrambles == 1:
            return *one(for_points), True
        keys = jax.random.split(for_points, self.options.scrambles)
        return *combined(*jax.lax.map(one, keys)), True

    def points(self, key: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """The points of each block of one design."""
        return self.options.sampler(key, self.plan.dimensions, self.rows, self.plan.rows)

    def blocks(self, key: jax.Array) -> Callable[[jax.Array], jax.Array]:
        """The outputs of each block of one design."""
        block = self.points(key)
        return lambda number: self.plan.outputs(self.f, block(number))

    def all_rows(self, reduction: Reduction, key: jax.Array) -> tuple[Estimates, State]:
        block = self.points(key)
        blocks = lambda number: self.plan.outputs(self.f, block(number))
        full, rest = divmod(self.rows, self.plan.rows)
        state = evaluate(blocks, full, reduction._replace(finish=lambda state: state), chunk_size=1)
        if rest:
            last = self.plan.outputs(self.f, block(jnp.int32(full))[:rest])
            state = reduction.update(state, jnp.full((1,), full, jnp.int32), last[None])
        return reduction.finish(state), state

    def to_tolerance(
        self, reduction: Reduction, key: jax.Array, tolerance: Any
    ) -> tuple[Estimates, State, Any]:
        count = self.options.scrambles
        keys = jax.random.split(key, count) if count > 1 else key[None]
        each = self.plan.rows
        first, last = FEW // each, self.rows // each

        def adding(key: jax.Array) -> Callable[[jax.Array, State], State]:
            blocks = self.blocks(key)
            return lambda number, state: reduction.update(state, number[None], blocks(number)[None])

        def begin(key: jax.Array) -> State:
            state = reduction.init(jax.eval_shape(lambda: self.blocks(key)(jnp.int32(0))))
            return trees.place_like(state, jax.eval_shape(adding(key), jnp.int32(0), state))

        def grow(key: jax.Array, state: State, start: Any, stop: Any) -> State:
            return jax.lax.fori_loop(start, stop, adding(key), state)

        def look(states: State) -> tuple[Estimates, State]:
            found = jax.vmap(reduction.finish)(states)
            if count == 1:
                return jax.tree.map(lambda leaf: leaf[0], (found, states))
            return combined(found, states)

        def width(states: State) -> jax.Array:
            found, _ = look(states)
            ends = [interval(found, name, self.options) for name in self.options.names]
            halves = [jnp.max(end.upper - end.lower) / 2 for end in ends]
            return jnp.max(jnp.stack(halves))

        def more(carry: Any) -> Any:
            done, states = carry
            is_wide = ~(width(states) <= tolerance)  # a width of NaN is one
            return is_wide & (done < last)

        def double(carry: Any) -> Any:
            done, states = carry
            grown = jax.vmap(grow, (0, 0, None, None))(keys, states, done, 2 * done)
            return 2 * done, grown

        states = jax.vmap(begin)(keys)
        states = jax.vmap(grow, (0, 0, None, None))(keys, states, jnp.int32(0), jnp.int32(first))
        # Not a constant: on a mesh it must lie as the states do, which decide when to stop.
        done = first + 0 * jnp.sum(states.omitted, dtype=jnp.int32)
        _, states = jax.lax.while_loop(more, double, (done, states))
        return *look(states), width(states) <= tolerance


def combined(found: Estimates, states: State) -> tuple[Estimates, State]:
    """Of independent designs, along the first axis, one estimate with the spread between them."""
    count = len(found.rows)
    mean = lambda tree: jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), tree)
    error = lambda leaf: jnp.std(leaf, axis=0, ddof=1) / count**0.5
    joined = Estimates(
        mean(found.values),
        jax.tree.map(error, found.values),
        None,
        jnp.mean(found.mean, axis=0),
        jnp.mean(found.variance, axis=0),
        jnp.all(found.is_constant, axis=0),
        jnp.sum(found.rows, dtype=jnp.int32),
        error(found.variance),
    )
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0, dtype=leaf.dtype), states)
    return joined, total


def interval(found: Estimates, name: str, options: Options) -> estimates.Interval:
    """The interval around an index, in arrays (outputs, G)."""
    if found.replicates is not None and name != PAIRS:
        tail = (1 - options.level) / 2
        ends = jnp.quantile(found.replicates[name], jnp.asarray([tail, 1 - tail]), axis=0)
        return estimates.Interval(ends[0], ends[1])
    value, error = found.values[name], found.errors[name]
    if options.scrambles > 1:
        return estimates.student_interval(value, error, options.scrambles - 1, options.level)
    return estimates.normal_interval(value, error, options.level)


class Shaped(NamedTuple):
    """Estimates in the shapes of a result: trees like the inputs, and the shape of the outputs.

    Each of the first three is a list, in the order of the names.
    """

    found: Estimates
    factors: Factors
    options: Options
    shape: tuple[int, ...]

    def like_inputs(self, array: jax.Array) -> Any:
        """From (outputs, G) to a tree like the inputs."""
        return self.factors.like_inputs(array.reshape(*self.shape, *array.shape[1:]))

    @property
    def values(self) -> list[Any]:
        """The estimates."""
        return [self.like_inputs(self.found.values[name]) for name in self.options.names]

    @property
    def errors(self) -> list[Any]:
        """Their standard errors."""
        return [self.like_inputs(self.found.errors[name]) for name in self.options.names]

    @property
    def intervals(self) -> list[estimates.Interval]:
        """Their intervals."""
        ends = [interval(self.found, name, self.options) for name in self.options.names]
        return [estimates.Interval(*map(self.like_inputs, end)) for end in ends]

    def rest(self, state: State, each: int, is_converged: Any) -> dict[str, Any]:
        """The fields that all results share; f is evaluated `each` times for a row."""
        most = np.iinfo(np.int32).max  # of more evaluations, about this many are told
        return {
            "mean": self.found.mean.reshape(self.shape),
            "variance": self.found.variance.reshape(self.shape),
            "rows": self.found.rows,
            "evaluations": jnp.minimum(state.rows + state.omitted, most // each) * each,
            "not_finite": state.not_finite,
            "is_constant": self.found.is_constant.reshape(self.shape),
            "is_converged": jnp.asarray(is_converged),
            "variance_error": self.found.variance_error.reshape(self.shape),
        }


def result(
    found: Estimates,
    state: State,
    plan: _design.Design,
    options: Options,
    shape: tuple[int, ...],
    is_converged: Any,
) -> Indices:
    """The result of estimates, in trees like the inputs; `shape` is that of the outputs."""
    shaped = Shaped(found, plan.factors, options, shape)

    def pairs(array: jax.Array) -> Any:
        array = array.reshape(*shape, *array.shape[1:])
        outer = plan.factors.like_inputs(array, axis=len(shape))
        return outer if plan.factors.is_grouped else jax.tree.map(plan.factors.like_inputs, outer)

    (first, total), errors, intervals = shaped.values, shaped.errors, shaped.intervals
    return Indices(
        first_order=first,
        total_order=total,
        first_order_error=errors[0],
        total_order_error=errors[1],
        first_order_interval=intervals[0],
        total_order_interval=intervals[1],
        second_order=pairs(found.values[PAIRS]) if options.second_order else None,
        second_order_error=pairs(found.errors[PAIRS]) if options.second_order else None,
        **shaped.rest(state, plan.layout.evaluations, is_converged),
    )


def raise_if_not_finite(found: Any) -> None:
    """Raises where outputs are not finite and known to be."""
    if isinstance(found.not_finite, jax.core.Tracer):
        return
    if count := int(found.not_finite):
        raise ValueError(
            f"f returned {count:,} outputs that are NaN or infinite, in {int(found.evaluations):,} "
            'evaluations. Mend f or narrow the inputs; or leave out the rows with them: nan="omit".'
        )


def _options(
    first_order: Any,
    total_order: Any,
    second_order: Any,
    sampler: Any,
    errors: Any,
    replicates: Any,
    level: Any,
    nan: Any,
) -> Options:
    checks.function(sampler, "sampler")
    formulas = []
    for name, estimator in (("first_order", first_order), ("total_order", total_order)):
        if not isinstance(estimator, Estimator):
            raise TypeError(
                f"{name} must be one of `jaxplain.sobol.estimators`, such as `jansen`, but is a "
                f"{type(estimator).__name__}."
            )
        formula = getattr(estimator, name)
        if formula is None:
            raise ValueError(f"this estimator has no form of {name} indices: take another.")
        if {"step", "weight"} & set(formula.needs):
            raise ValueError(
                f"{name}: this estimator is for masks, whose factors are uniform on [0, 1] "
                "(`jaxplain.sobol.attribution`): take another."
            )
        formulas.append(formula)
    if not isinstance(second_order, bool):
        raise TypeError(f"second_order must be True or False, but is {second_order!r}.")
    for name, value, allowed in (("errors", errors, ERRORS), ("nan", nan, ("raise", "omit"))):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(allowed)}, but is {value!r}.")
    if errors == "delta" and replicates is not None:
        raise ValueError('replicates belong to errors="scrambles" or "bootstrap".')
    count = ERRORS[errors] if replicates is None else replicates
    count = checks.integer(count, "replicates", 1 if errors == "delta" else 2)
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"level must be a number between 0 and 1, e.g. 0.95, but is {level!r}.")
    names = ("first_order", "total_order")
    return Options(names, tuple(formulas), second_order, sampler, errors, count, float(level))


def _most_rows(samples: Any, tolerance: Any, max_samples: Any, options: Options) -> int:
    """The most rows of all scrambles together."""
    each = options.scrambles
    if tolerance is None:
        if max_samples is not None:
            raise ValueError("max_samples belongs to tolerance: give that, or samples.")
        samples = FEW * each if samples is None else checks.integer(samples, "samples", 2)
        if samples % each or samples < 2 * each:
            raise ValueError(
                f"samples must be a multiple of the {each} scrambles and two rows for each, but is "
                f"{samples}."
            )
        return int(samples)
    if samples is not None:
        raise ValueError("tolerance chooses the number of samples: give one or the other.")
    checks.number(tolerance, "tolerance", above=0, hint="It is of an interval's half: try 0.01.")
    most = max(2**18, FEW * each)
    most = most if max_samples is None else checks.integer(max_samples, "max_samples")
    doublings, rest = divmod(most, FEW * each)
    if rest or doublings < 1 or doublings & (doublings - 1):
        raise ValueError(
            f"max_samples must be {FEW * each:,} rows (1,024 for each design) times a power of "
            f"two, but is {most:,}."
        )
    return int(most)


def sizes(
    samples: Any, tolerance: Any, max_samples: Any, chunk_size: Any, options: Options
) -> tuple[int, int, int | None]:
    """The most rows of all designs, the first rows of one, and the evaluations at once of one."""
    most, each = _most_rows(samples, tolerance, max_samples, options), options.scrambles
    _warn(options.sampler, most // each, stacklevel=4)
    if chunk_size is not None:
        chunk_size = max(1, checks.integer(chunk_size, "chunk_size") // each)
    return most, most // each if tolerance is None else FEW, chunk_size


def _warn(sampler: Any, rows: int, stacklevel: int = 3) -> None:
    """Says where a quasi-random design is used in a way that it does not gain from."""
    plain = getattr(sampler, "func", sampler)
    if plain is qmc.sobol and rows & (rows - 1):
        warnings.warn(
            f"a Sobol' sequence is balanced at powers of two, but each design has {rows:,} rows.",
            stacklevel=stacklevel,
        )
    if plain in (qmc.sobol, qmc.halton) and rows < FEW:
        warnings.warn(
            f"each design has {rows:,} rows: below {FEW:,} quasi-random points are no better than "
            "random ones, and the errors may be large.",
            stacklevel=stacklevel,
        )
