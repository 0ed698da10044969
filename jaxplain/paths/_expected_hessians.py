"""Expected Hessians: Integrated Hessians, averaged over baselines, by samples.

    H_ij = E_{b, s}[ D_j { s D_i f_ij(p) + [i = j] f_i(p) } ],    D = x - b,  p = b + s D,

with b uniform on the baselines and s of the density -log s on [0, 1], that of a product of two
uniform numbers: the double integral of the definition over u and v (see `_integrated_hessians`).

Where samples are balanced it is over baselines and over s: a position t, uniform on [0, 1], becomes
the s that has the probability t below it, the root of s - s log s = t. With s = e^-y that is

    y - log(1 + y) = -log t

which Newton's method solves from above, on a convex function: it cannot overshoot.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.paths import _interactions, _sampling
from jaxplain.paths._straight_line import line_between
from jaxplain.rewrite import _fast


class SampledInteractionRow(NamedTuple):
    """The interactions of a group of elements, or of one, with every element of x, by samples.

    Attributes:
        values: tree and shapes of x, dtype of x: sum_i w_i H_ij for the direction w, in the units
            of f.
        standard_error: tree and shapes of x, in float32 or wider: the standard error of `values`.
            Its intervals take Student's quantile for `degrees_of_freedom`.
        degrees_of_freedom: of the standard errors, int32; 0 where one sample leaves none, and the
            errors are NaN.
        evaluations: the number of Hessian-vector products of f that went into it, int32.
        finite: whether x, the baselines, the direction and the values are free of NaN and infinity.
    """

    values: Any
    standard_error: Any
    degrees_of_freedom: jax.Array
    evaluations: jax.Array
    finite: jax.Array


class SampledInteractions(NamedTuple):
    """The interactions of all pairs of elements of x, by samples.

    Attributes:
        values: a tree like x of trees like x, as `jax.hessian(f)(x)`: H_ij, in the units of f and
            the dtype of x. Where x is one array of shape s, an array of shape s + s.
        standard_error: the same tree, in float32 or wider: the standard error of `values`. Its
            intervals take Student's quantile for `degrees_of_freedom`.
        output: f(x), a scalar.
        baseline_output: the mean of f over the baselines of the samples, a scalar.
        completeness_gap: sum(values) - (output - baseline_output), a scalar.
        gap_error: the standard error of `completeness_gap`. The gap is 0 on average where f has its
            second derivatives: a gap of many errors means that it has kinks.
        degrees_of_freedom: of the standard errors, int32; 0 where one sample leaves none, and the
            errors are NaN.
        evaluations: the number of Hessian-vector products of f that went into `values`, int32.
        finite: whether x, the baselines, the outputs and the values are free of NaN and infinity.
    """

    values: Any
    standard_error: Any
    output: jax.Array
    baseline_output: jax.Array
    completeness_gap: jax.Array
    gap_error: jax.Array
    degrees_of_freedom: jax.Array
    evaluations: jax.Array
    finite: jax.Array


def expected_hessians(
    f: Callable[..., Any],
    *,
    samples: int = 200,
    positions: str = "stratified",
    chunk_size: int = 16,
) -> Callable[..., SampledInteractions]:
    """Expected Hessians of a scalar function: all pairs, for one example, with standard errors.

        H_ij = E_{b, u, v}[ (x_i - b_i) (x_j - b_j) u v f_ij(b + u v (x - b))
                            + [i = j] (x_i - b_i) f_i(b + u v (x - b)) ]

    Integrated Hessians averaged over baselines. The rows sum to Expected Gradients on average. All
    rows are of the same samples. For an image take `expected_hessian_row`. A network of ReLUs has
    no second derivatives but on its kinks: see `integrated_hessians`.

    Args:
        f: `f(x, *args) -> scalar`, twice differentiable. Parameters belong among `args`.
        samples: points, at most, each with a Hessian-vector product for each element of x. Static.
        positions: how samples are placed: "random", "stratified" or "qmc", as in
            `expected_gradients`. Static.
        chunk_size: rows computed at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the products in flight are `chunk_size` times the batch.

    Returns:
        `explain(key, x, baselines, *args) -> SampledInteractions`, a pure function, jitted inside.
        `key` is a typed key. `x` is any tree of float arrays, `baselines` the same tree with the
        same dtypes and one more, leading axis.

    Raises:
        TypeError: f is not a function; key is not typed; x is not float; an argument is no array.
        ValueError: f does not return a scalar; baselines do not match x; samples is below 1;
            positions is not one of the three.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> explain = expected_hessians(lambda x: x[0] * x[1], samples=256, positions="qmc")
        >>> baselines = jnp.array([[0.0, 0.0], [0.0, 1.0]])
        >>> result = explain(jax.random.key(0), jnp.array([1.0, 2.0]), baselines)
        >>> [round(float(value), 1) for value in result.values.ravel()]
        [0.9, 0.4, 0.4, 0.4]

    References:
        Janizek, Sturmfels and Lee, "Explaining Explanations: Axiomatic Feature Interactions for
        Deep Networks", JMLR 2021, Expected Hessians. Deviations: 1. u v is drawn as one number, by
        its own density. 2. Samples are balanced unless `positions="random"`. 3. The standard errors
        are ours, as in `expected_gradients`.
    """
    row = _row(f, samples, positions, chunk_size=1)
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)

    def kernel(key: Any, x: Any, baselines: Any, *args: Any) -> Any:
        output, _ = _fast.staged(lambda z: scalar(z, *args), x)
        one = lambda direction: row(key, x, baselines, direction, *args)[:2]
        values, variance = _interactions.rows(one, x, chunk_size)
        # The sum of all is the row of all elements together: its error is that of the gap.
        ones = trees.place_like(jax.tree.map(jnp.ones_like, x), x)
        total = lambda bracket, baseline: _gap(bracket, output(baseline))
        (gap, start), (spread, _), plan, freedom = row(
            key, x, baselines, ones, *args, of_sample=total
        )
        at_x = output(x)
        gap = gap[0] - at_x.astype(gap.dtype)
        baseline_output = start[0].astype(at_x.dtype)
        return SampledInteractions(
            _interactions.pairs(trees.cast_like(values, x), x),
            _interactions.pairs(_sampling.root(variance), x),
            at_x,
            baseline_output,
            gap,
            _sampling.root(spread[0]),
            jnp.int32(freedom),
            jnp.int32(plan.samples * sum(leaf.size for leaf in jax.tree.leaves(x))),
            trees.finite(x, baselines, at_x, baseline_output, values),
        )

    explain: Callable[..., Any] = _sampling.from_baselines(scalar, kernel)
    return explain


def expected_hessian_row(
    f: Callable[..., Any],
    *,
    samples: int = 200,
    positions: str = "stratified",
    chunk_size: int = 16,
) -> Callable[..., SampledInteractionRow]:
    """A row of Expected Hessians, or a sum of rows, for one example of any size.

        values_j = sum_i w_i H_ij

    With w one at an element and zero elsewhere it is that element's row, with w one on a group the
    group's: see `integrated_hessian_row`. Rows of the same key are of the same samples.

    Args:
        f: `f(x, *args) -> scalar`, twice differentiable. Parameters belong among `args`.
        samples: Hessian-vector products, at most. Static.
        positions: how samples are placed: "random", "stratified" or "qmc", as in
            `expected_gradients`. Static.
        chunk_size: samples evaluated at once, at most. It changes memory and speed, and the result
            only by rounding. For an image 1 is best.

    Returns:
        `explain(key, x, baselines, direction, *args) -> SampledInteractionRow`, a pure function,
        jitted inside. `x` is any tree of float arrays, `direction` the same tree with the same
        shapes and dtypes, `baselines` the same tree with one more, leading axis.

    Raises:
        TypeError: f is not a function; key is not typed; x is not float; an argument is no array.
        ValueError: f does not return a scalar; baselines or direction do not match x; samples is
            below 1; positions is not one of the three.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> explain = expected_hessian_row(lambda x: x[0] * x[1], samples=256, positions="qmc")
        >>> baselines, first = jnp.array([[0.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 0.0])
        >>> result = explain(jax.random.key(0), jnp.array([1.0, 2.0]), baselines, first)
        >>> [round(float(value), 1) for value in result.values]
        [0.9, 0.4]

    References:
        Janizek, Sturmfels and Lee, "Explaining Explanations: Axiomatic Feature Interactions for
        Deep Networks", JMLR 2021, Expected Hessians. Deviations: those of `expected_hessians`; the
        direction is ours.
    """
    row = _row(f, samples, positions, chunk_size)
    scalar = checks.scalar(f)

    def kernel(key: Any, x: Any, baselines: Any, direction: Any, *args: Any) -> Any:
        x = trees.place_like(x, jax.eval_shape(trees.subtract, x, direction))
        direction = trees.place_like(direction, x)
        values, variance, plan, freedom = row(key, x, baselines, direction, *args)
        return SampledInteractionRow(
            trees.cast_like(values, x),
            _sampling.root(variance),
            jnp.int32(freedom),
            jnp.int32(plan.samples),
            trees.finite(x, baselines, direction, values),
        )

    placed: Callable[..., Any] = _sampling.from_baselines(
        lambda x, direction, *args: scalar(x, *args), kernel
    )

    def explain(key: Any, x: Any, baselines: Any, direction: Any, *args: Any) -> Any:
        checks.key(key)
        checks.arrays(args, "each argument after the direction")
        direction = checks.like(direction, checks.explained(x), "direction")
        return placed(key, x, baselines, direction, *args)

    return explain


def _row(
    f: Callable[..., Any], samples: int, positions: str, chunk_size: int
) -> Callable[..., Any]:
    """`row(key, x, baselines, direction, *args)`: mean, its variance, the design, the freedom.

    `of_sample(values, baseline)` says what to average in place of the values.
    """
    checks.function(f, "f")
    samples = checks.integer(samples, "samples")
    positions = _sampling.checked_positions(positions)
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)

    def row(
        key: Any,
        x: Any,
        baselines: Any,
        direction: Any,
        *args: Any,
        of_sample: Callable[[Any, Any], Any] = lambda values, _: values,
    ) -> Any:
        count = jax.tree.leaves(baselines)[0].shape[0]
        plan = _sampling.design(samples, count, positions)
        direction = trees.widen(direction)

        def sample(_: jax.Array, chosen: jax.Array, t: jax.Array) -> Any:
            baseline = _sampling.row(baselines, chosen)
            line, velocity = line_between(baseline, x)
            s = log_quantile(t)
            bracket, _ = _interactions.integrand(scalar, s, line(s), direction, velocity, *args)
            return of_sample(trees.multiply(velocity, bracket), baseline)

        mean, variance = _sampling.average(key, sample, count, plan, positions, chunk_size)
        return mean, variance, plan, plan.degrees_of_freedom(count)

    return row


def _gap(values: Any, output: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The sum of the values and f at the baseline, and the latter, as arrays of one element."""
    total, output = trees.total(values), trees.widen(output)
    dtype = trees.widest(total.dtype, output.dtype)
    return (total.astype(dtype) + output.astype(dtype))[None], output[None]


def log_quantile(t: jax.Array) -> jax.Array:
    """The s in [0, 1] with s - s log s = t: below it lies the share t of the density -log s."""
    level = -jnp.log(jnp.maximum(t, jnp.finfo(t.dtype).tiny))
    y = level + jnp.sqrt(2 * level)  # above the root: y - log(1 + y) there is at least the level
    for _ in range(5):
        y = y - jnp.where(y > 0, (y - jnp.log1p(y) - level) * (1 + y) / jnp.where(y > 0, y, 1), 0)
    return jnp.exp(-y)
