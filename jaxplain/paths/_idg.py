"""Integrated Decision Gradients: gradients weighted by the slope of f, sampled where it is steep.

    s(t) = d/dt f(b + t (x - b)) = (x - b) . grad f(b + t (x - b))
    values_i = (x_i - b_i) * integral_0^1 df/dx_i(b + t (x - b)) * s(t) dt

In place of completeness the values sum to `integral_0^1 s(t)^2 dt`: they are in squared units of f.

Two passes. A pilot of forward passes on a uniform grid gives the slope in each interval; then the
gradients are placed, in an interval as densely as its slope asks for, and weighted by their widths.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import evaluate, weighted_sum
from jaxplain.paths import _integrand
from jaxplain.paths._integrand import Path
from jaxplain.paths._pilot import outputs_on_grid
from jaxplain.paths._result import from_baseline
from jaxplain.paths._straight_line import straight_line
from jaxplain.rewrite import _fast

# The part of the samples that is spread over the whole line. It bounds the width of a sample where
# the pilot sees no slope, so that the sum goes to the integral whatever f does between its points.
EVERYWHERE = 0.1


class DecisionAttribution(NamedTuple):
    """An attribution by Integrated Decision Gradients, and how good it is.

    Attributes:
        values: tree and shapes of x, dtype of x: what each element of x contributed to the
            integral of the squared slope of f along the line, in squared units of f.
        output: f(x), a scalar.
        baseline_output: f(baseline), a scalar.
        squared_slope: what the values would sum to: the integral of the squared slope from the
            baseline to x, estimated apart from the gradients by the differences of the pilot; a
            scalar in float32 or wider. At least (output - baseline_output)^2, and equal to it where
            f is linear along the line.
        squared_slope_gap: sum(values) - squared_slope, a scalar. It goes to zero with more steps
            and pilot steps; a large one says that there are too few.
        evaluations: the number of gradients of f that went into `values`, int32.
        finite: whether x, the baseline, the outputs (those of the pilot too) and the values are
            free of NaN and infinity.
    """

    values: Any
    output: jax.Array
    baseline_output: jax.Array
    squared_slope: jax.Array
    squared_slope_gap: jax.Array
    evaluations: jax.Array
    finite: jax.Array


def idg(
    f: Callable[..., Any],
    *,
    steps: int = 50,
    pilot_steps: int | None = None,
    path: Path = straight_line,
    chunk_size: int = 16,
    hoist: bool = True,
) -> Callable[..., DecisionAttribution]:
    """Integrated Decision Gradients (IDG), for one example.

        values_i = (x_i - b_i) * integral_0^1 df/dx_i(b + t (x - b)) * s(t) dt

    with s(t) the slope of f along the line. Where f is saturated its slope is zero, and so the
    gradients there say nothing; the part of the line on which the model decides carries the
    attribution. A pilot of forward passes finds that part, and most gradients are placed there.

    The values do not sum to f(x) - f(b). They sum to the integral of the squared slope, which
    `squared_slope` estimates, and do not change with the sign of f. For a linear f they are those
    of Integrated Gradients times f(x) - f(b).

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        steps: the number of gradients.
        pilot_steps: the number of intervals of the pilot's grid, which costs a forward pass more
            than that; as many as `steps` unless given.
        path: `path(t, x, baseline) -> point`, as in `path_attribution`. Static.
        chunk_size: points evaluated at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the points in flight are `chunk_size` times the batch: take 1 to
            4.
        hoist: as in `integrated_gradients`. Static.

    Returns:
        `explain(x, baseline, *args) -> DecisionAttribution`, a pure function, jitted inside. `x` is
        any tree of float arrays (scalars too), `baseline` the same tree with the same shapes and
        dtypes; `*args` are arrays or trees of arrays.

    Raises:
        TypeError: f or path is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar; baseline does not match x; steps or pilot_steps is
            below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x, weight: jnp.dot(weight, x)
        >>> explain = idg(f, steps=4)
        >>> result = explain(jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.array([3.0, 1.0]))
        >>> result.values.tolist(), float(result.squared_slope)  # 5 * (3, 2)
        ([15.0, 10.0], 25.0)

    References:
        Walker, Jha, Chen and Ewetz, "Integrated Decision Gradients: Compute Your Attributions Where
        the Model Makes Its Decision", AAAI 2024. Deviations from the authors' code: 1. the slope at
        a sample is the derivative itself, which its gradient gives, in place of the difference to
        the sample before. 2. Samples go by the absolute slope, where the code subtracts the least
        slope from all: the same where f rises everywhere; and the samples of -f are those of f. A
        tenth of them is spread over the whole line. 3. They lie at equal parts of the summed slope.
        The code rounds the number in each interval to an integer; intervals that get none are left
        out at any number of steps, and all samples after one move towards the baseline. 4. The sum
        is not divided by `steps` a second time, so that it is the integral.
    """
    checks.function(f, "f")
    checks.function(path, "path")
    steps = checks.integer(steps, "steps")
    pilot_steps = steps if pilot_steps is None else checks.integer(pilot_steps, "pilot_steps")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)
    return from_baseline(scalar, _kernel(scalar, steps, pilot_steps, path, chunk_size, hoist))


def _kernel(
    f: Callable[..., jax.Array],
    steps: int,
    pilot_steps: int,
    path: Path,
    chunk_size: int,
    hoist: bool,
) -> Callable[..., Any]:
    def explain(x: Any, baseline: Any, *args: Any) -> DecisionAttribution:
        integrand = _integrand.along(path, f, x, baseline, args, points=steps, hoist=hoist)
        baseline_output, output = integrand.outputs()
        # The samples depend on f, and so does t: it varies over the devices of a mesh as f does.
        time = lambda t: trees.place_like(jnp.asarray(t, integrand.dtype), output)
        at, (_, shapes) = _fast.staged(integrand.at, time(0))
        slope_of = _slope(integrand.attribute, shapes)
        pilot = outputs_on_grid(lambda t: at(time(t))[0], pilot_steps, integrand.dtype, chunk_size)
        change = jnp.diff(trees.widen(pilot))
        t, widths = _place(change, steps)
        t = t.astype(integrand.dtype)

        def point(index: jax.Array) -> Any:
            gradient = trees.widen(at(t[index])[1])
            slope = slope_of(gradient)
            return jax.tree.map(lambda g: g * slope.astype(g.dtype), gradient)

        integral = evaluate(point, steps, weighted_sum(widths), chunk_size=chunk_size)
        values = integrand.attribute(integral)
        total = trees.total(values)
        dtype = trees.widest(total.dtype, change.dtype)
        squared_slope = jnp.sum(jnp.square(change.astype(dtype))) * pilot_steps
        gap = total.astype(dtype) - squared_slope
        values = trees.cast_like(values, x)
        return DecisionAttribution(
            values,
            output,
            baseline_output,
            squared_slope,
            gap,
            jnp.asarray(steps, jnp.int32),
            trees.finite(x, baseline, output, pilot, values),
        )

    return explain


def _slope(attribute: Callable[[Any], Any], shapes: Any) -> Callable[[Any], jax.Array]:
    """The slope of f from an integrand there: the sum of what it is attributed.

    Linear in the integrand, so its coefficients are found once, whatever `attribute` does.
    """
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, trees.wide_dtype(s.dtype)), shapes)
    zeros = trees.place_like(zeros, shapes)
    coefficients = jax.grad(lambda integrand: trees.total(attribute(integrand)))(zeros)
    return lambda integrand: trees.total(trees.multiply(coefficients, integrand))


def _place(change: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """The samples in [0, 1] and the width each stands for, two arrays (steps,).

    `change` is what f gains in each of the intervals, which are of equal length. The samples lie at
    equal parts of the integral of a density that is the absolute slope, and a little everywhere.
    """
    intervals = change.size
    sizes = jnp.abs(change)
    total = jnp.sum(sizes)
    is_usable = jnp.isfinite(total) & (total > 0)
    share = jnp.where(is_usable, sizes / jnp.where(is_usable, total, jnp.ones_like(total)), 0)
    spread = jnp.where(is_usable, EVERYWHERE, 1.0).astype(share.dtype)
    density = (1 - spread) * share * intervals + spread
    ends = jnp.cumsum(density) / intervals
    part = (jnp.arange(steps, dtype=share.dtype) + 0.5) / steps
    # By comparison and not by gathers: under `vmap` each example has intervals of its own.
    interval = jnp.sum(ends[None] <= part[:, None], axis=1, dtype=jnp.int32)
    here = interval[:, None] == jnp.arange(intervals, dtype=jnp.int32)[None]
    end = jnp.sum(jnp.where(here, ends[None], 0), axis=1)
    at = jnp.sum(jnp.where(here, density[None], 0), axis=1)
    t = (interval + 1).astype(share.dtype) / intervals - (end - part) / at
    return t, 1 / (steps * at)
