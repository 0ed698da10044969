"""The kernel of every path attribution: an integrand, by a fixed rule or to a tolerance."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.evaluate import Rounds, both, evaluate, stack, weighted_sum
from jaxplain.paths import _integrand, _nested
from jaxplain.paths._result import PathAttribution, result
from jaxplain.paths.quadrature import gauss_legendre

Rule = Callable[[int], tuple[Any, Any]]
Kernel = Callable[..., PathAttribution]  # x, baseline, *args


def path_kernel(
    f: Callable[..., jax.Array],
    path: _integrand.Path,
    *,
    steps: int | None,
    rule: Rule | None,
    tolerance: Any,
    max_steps: int | None,
    chunk_size: int,
    hoist: bool,
) -> Kernel:
    """The kernel of `f` along `path`, with the options of the public functions checked."""
    checks.function(path, "path")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    if tolerance is None:
        if max_steps is not None:
            raise ValueError("max_steps belongs to the tolerance form: give tolerance, or steps.")
        steps = 32 if steps is None else checks.integer(steps, "steps")
        nodes, weights = checks.rule(gauss_legendre if rule is None else rule, steps)
        return _fixed(f, path, *merged(nodes, weights), chunk_size, hoist)
    if steps is not None or rule is not None:
        raise ValueError(
            "steps and rule fix the nodes, tolerance chooses their number (by nested "
            "Clenshaw-Curtis rules): give one or the other."
        )
    explain, _ = in_rounds(
        f, path, tolerance=tolerance, max_steps=max_steps, chunk_size=chunk_size, hoist=hoist
    )
    return explain


def merged(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rule without gradients that it does not need: each node once, none of weight zero."""
    unique, place = np.unique(nodes, return_inverse=True)
    total = np.bincount(place, weights, len(unique))
    used = total != 0
    if not used.any():
        raise ValueError("rule returned weights that are all zero.")
    return unique[used], total[used]


def _fixed(
    f: Callable[..., jax.Array],
    path: _integrand.Path,
    nodes: np.ndarray,
    weights: np.ndarray,
    chunk_size: int,
    hoist: bool,
) -> Kernel:
    count = len(nodes)
    # A rule with nodes at both ends has f there for nothing.
    has_ends = nodes[0] == 0 and nodes[-1] == 1

    def explain(x: Any, baseline: Any, *args: Any) -> PathAttribution:
        integrand = _integrand.along(path, f, x, baseline, args, points=count, hoist=hoist)
        t = jnp.asarray(nodes, integrand.dtype)
        if has_ends:
            at, reduction = integrand.at, both(stack(count), weighted_sum(weights))
            values, integral = evaluate(
                lambda index: at(t[index]), count, reduction, chunk_size=chunk_size
            )
            outputs = values[0], values[-1]
        else:
            gradient = lambda index: integrand.at(t[index])[1]
            integral = evaluate(gradient, count, weighted_sum(weights), chunk_size=chunk_size)
            outputs = integrand.outputs()
        return result(x, baseline, outputs, integrand.attribute(integral), evaluations=count)

    return explain


def in_rounds(
    f: Callable[..., jax.Array],
    path: _integrand.Path,
    *,
    tolerance: Any,
    max_steps: int | None,
    chunk_size: int,
    hoist: bool,
) -> tuple[Kernel, Rounds]:
    """The tolerance form, whole and in rounds."""
    checks.number(tolerance, "tolerance", above=0, hint="It is relative: try 0.02.")
    plan = _nested.schedule(257 if max_steps is None else checks.integer(max_steps, "max_steps"))
    points = len(plan.nodes)

    def steps(x: Any, baseline: Any, *args: Any) -> _nested.Steps:
        integrand = _integrand.along(path, f, x, baseline, args, points=points, hoist=hoist)
        return _nested.steps(integrand, plan, tolerance, chunk_size)

    def finish(state: _nested.Integral, x: Any, baseline: Any, *args: Any) -> PathAttribution:
        values, evaluations = steps(x, baseline, *args).values(state)
        return result(
            x, baseline, state.outputs, values, error=state.error, evaluations=evaluations
        )

    def explain(x: Any, baseline: Any, *args: Any) -> PathAttribution:
        return finish(_nested.integrate(steps(x, baseline, *args)), x, baseline, *args)

    rounds = Rounds(
        init=lambda *arguments: steps(*arguments).init(),
        advance=lambda state, *arguments: steps(*arguments).advance(state),
        done=lambda state, *arguments: steps(*arguments).done(state),
        finish=finish,
    )
    return explain, rounds
