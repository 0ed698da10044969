"""Left-IG: Integrated Gradients up to where f is saturated.

    gamma(t) = b + t (x - b)
    stop = the first t with  (f(gamma(t)) - f(b)) / (f(x) - f(b)) >= fraction
    values_i = (x_i - b_i) * integral_0^stop df/dx_i(gamma(t)) dt

Completeness: the values sum to f(gamma(stop)) - f(b), but for the error of the quadrature.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import evaluate, weighted_sum
from jaxplain.paths import _integrand
from jaxplain.paths._integrand import Path
from jaxplain.paths._kernel import Rule
from jaxplain.paths._pilot import outputs_on_grid
from jaxplain.paths._result import from_baseline, result
from jaxplain.paths._straight_line import straight_line
from jaxplain.paths.quadrature import gauss_legendre
from jaxplain.rewrite import _fast


class StoppedAttribution(NamedTuple):
    """An attribution along a path that stops before its end, and how good it is.

    Attributes:
        values: tree and shapes of x, dtype of x: what each element of x contributed to
            `stop_output - baseline_output`, in the units of f.
        output: f(x), a scalar.
        baseline_output: f(baseline), a scalar.
        stop: where on the path it stopped, between 0 (the baseline) and 1 (x).
        stop_output: f at that point, a scalar.
        completeness_gap: sum(values) - (stop_output - baseline_output), a scalar in float32 or
            wider, with the values as they were before they were given the dtype of x.
        evaluations: the number of gradients of f that went into `values`, int32.
        finite: whether x, the baseline, the outputs (those of the pilot too) and the values are
            free of NaN and infinity.
    """

    values: Any
    output: jax.Array
    baseline_output: jax.Array
    stop: jax.Array
    stop_output: jax.Array
    completeness_gap: jax.Array
    evaluations: jax.Array
    finite: jax.Array


def left_integrated_gradients(
    f: Callable[..., Any],
    *,
    steps: int = 32,
    fraction: float | jax.Array = 0.9,
    pilot_steps: int | None = None,
    rule: Rule | None = None,
    path: Path = straight_line,
    chunk_size: int = 16,
    hoist: bool = True,
) -> Callable[..., StoppedAttribution]:
    """Integrated Gradients up to where f is saturated (Left-IG), for one example.

        values_i = (x_i - b_i) * integral_0^stop df/dx_i(b + t (x - b)) dt

    `stop` is where f has first made `fraction` of its way from f(b) to f(x), up or down. Beyond it
    f hardly changes, and the gradients there, of a model that has decided, are left out. It is
    found by a pilot of forward passes on a uniform grid: in the first interval at whose end the
    fraction is reached, where the straight line between its ends reaches it. A rise and fall of f
    within one interval is not seen. Where f(x) = f(b) there is no way to make, and nothing is left
    out: Integrated Gradients.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        steps: the number of gradients.
        fraction: in (0, 1]; may be a traced array, so that it can be swept inside a `jit`. The
            paper's threshold, phi * f(x), is at (phi * f(x) - f(b)) / (f(x) - f(b)).
        pilot_steps: the number of intervals of the pilot's grid, which costs a forward pass more
            than that; as many as `steps` unless given.
        rule: a function `steps -> (nodes, weights)` with nodes in [0, 1], scaled to [0, stop];
            `gauss_legendre` unless given. Static.
        path: `path(t, x, baseline) -> point`, as in `path_attribution`. Static.
        chunk_size: points evaluated at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the points in flight are `chunk_size` times the batch: take 1 to
            4.
        hoist: as in `integrated_gradients`. Static.

    Returns:
        `explain(x, baseline, *args) -> StoppedAttribution`, a pure function, jitted inside. `x` is
        any tree of float arrays (scalars too), `baseline` the same tree with the same shapes and
        dtypes; `*args` are arrays or trees of arrays. It costs `steps` gradients and
        `pilot_steps + 4` forward passes.

    Raises:
        TypeError: f, rule or path is not a function; fraction is not a number; x is not float; an
            argument is not an array.
        ValueError: f does not return a scalar; baseline does not match x; steps or pilot_steps is
            below 1; fraction is not in (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: jnp.minimum(jnp.sum(x), 2.0)  # saturated from t = 1/2
        >>> explain = left_integrated_gradients(f, steps=4, fraction=0.5)
        >>> result = explain(jnp.array([1.0, 3.0]), jnp.zeros(2))
        >>> result.values.tolist(), float(result.stop), float(result.stop_output)
        ([0.25, 0.75], 0.25, 1.0)

    References:
        Miglani, Kokhlikyan, Alsallakh, Martin and Reblitz-Richardson, "Investigating Saturation
        Effects in Integrated Gradients", ICML workshop on human interpretability, 2020. Deviations:
        1. the fraction is of the way from f(b) to f(x), in place of f(x) itself: the same where
        f(b) = 0, and with a meaning for logits too, which may be negative. A constant added to f
        and the sign of f then change nothing. 2. The point is interpolated within its interval, and
        the quadrature is Gauss-Legendre over [0, stop], in place of the Riemann sum over the nodes
        before it.
    """
    checks.function(f, "f")
    checks.function(path, "path")
    steps = checks.integer(steps, "steps")
    pilot_steps = steps if pilot_steps is None else checks.integer(pilot_steps, "pilot_steps")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    checks.number(fraction, "fraction", above=0, at_most=1)
    nodes, weights = checks.rule(gauss_legendre if rule is None else rule, steps)
    scalar = checks.scalar(f)

    def kernel(x: Any, baseline: Any, *args: Any) -> Any:
        integrand = _integrand.along(
            path, scalar, x, baseline, args, points=len(nodes), hoist=hoist
        )
        baseline_output, output = integrand.outputs()
        # The stop depends on f, and so does t: it varies over the devices of a mesh as f does.
        time = lambda t: trees.place_like(jnp.asarray(t, integrand.dtype), output)
        at, _ = _fast.staged(integrand.at, time(0))
        value, gradient = (lambda t, part=part: at(t)[part] for part in (0, 1))
        pilot = outputs_on_grid(lambda t: value(time(t)), pilot_steps, integrand.dtype, chunk_size)
        stop = _first_reach(trees.widen(pilot), fraction).astype(integrand.dtype)
        t = stop * jnp.asarray(nodes, integrand.dtype)
        integral = evaluate(
            lambda index: gradient(t[index]),
            len(nodes),
            weighted_sum(weights),
            chunk_size=chunk_size,
        )
        integral = jax.tree.map(lambda leaf: leaf * stop.astype(leaf.dtype), integral)
        stop_output = value(stop)
        start_to_stop = result(
            x,
            baseline,
            (baseline_output, stop_output),
            integrand.attribute(integral),
            evaluations=len(nodes),
        )
        return StoppedAttribution(
            start_to_stop.values,
            output,
            baseline_output,
            stop,
            stop_output,
            start_to_stop.completeness_gap,
            start_to_stop.evaluations,
            start_to_stop.finite & trees.finite(pilot, output),
        )

    return from_baseline(scalar, kernel)


def _first_reach(outputs: jax.Array, fraction: Any) -> jax.Array:
    """The first t at which the outputs, at equal distances over [0, 1], reach the fraction; or 1.

    By comparison and not by a gather: under `vmap` each example stops at a place of its own.
    """
    intervals = outputs.size - 1
    change = outputs[-1] - outputs[0]
    target = outputs[0] + jnp.asarray(fraction, outputs.dtype) * change
    is_reached = jnp.where(change > 0, outputs >= target, outputs <= target) & (change != 0)
    here = is_reached & (jnp.cumsum(is_reached) == 1)
    here = here[1:]  # the start has made no part of the way

    def pick(array: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(here, array, jnp.zeros_like(array)))

    before, after = pick(outputs[:-1]), pick(outputs[1:])
    any_reached = jnp.any(here)
    rise = jnp.where(any_reached, after - before, jnp.ones_like(before))
    stop = (pick(jnp.arange(intervals, dtype=outputs.dtype)) + (target - before) / rise) / intervals
    return jnp.where(any_reached, jnp.minimum(stop, 1), jnp.ones_like(stop))
