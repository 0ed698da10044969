"""The kernel of every path attribution: an integrand, by a fixed rule or to a tolerance."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.evaluate import both, evaluate, stack, weighted_sum
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
        return _fixed(f, path, *_merged(nodes, weights), chunk_size, hoist)
    if steps is not None or rule is not None:
        raise ValueError(
            "steps and rule fix the nodes, tolerance chooses their number (by nested "
            "Clenshaw-Curtis rules): give one or the other."
        )
    checks.tolerance(tolerance)
    plan = _nested.schedule(257 if max_steps is None else checks.integer(max_steps, "max_steps"))
    return _to_tolerance(f, path, plan, tolerance, chunk_size, hoist)


def _merged(nodes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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
            outputs = integrand.outputs()
            gradient = lambda index: integrand.at(t[index])[1]
            integral = evaluate(gradient, count, weighted_sum(weights), chunk_size=chunk_size)
        return result(x, baseline, outputs, integrand.attribute(integral), evaluations=count)

    return explain


def _to_tolerance(
    f: Callable[..., jax.Array],
    path: _integrand.Path,
    plan: _nested.Schedule,
    tolerance: Any,
    chunk_size: int,
    hoist: bool,
) -> Kernel:
    def explain(x: Any, baseline: Any, *args: Any) -> PathAttribution:
        points = len(plan.nodes)
        integrand = _integrand.along(path, f, x, baseline, args, points=points, hoist=hoist)
        # The outputs at the two ends are needed anyway; their gradients belong to every level.
        (baseline_output, first), (output, last) = integrand.ends()
        rise = trees.subtract(trees.widen(output), trees.widen(baseline_output))
        rounds = _nested.rounds(
            lambda t: integrand.at(t)[1],
            (first, last),
            rise,
            integrand.attribute,
            plan,
            tolerance,
            chunk_size,
        )
        reached = _nested.integrate(rounds)
        values, evaluations = rounds.values(reached)
        outputs = (baseline_output, output)
        return result(x, baseline, outputs, values, error=reached.error, evaluations=evaluations)

    return explain
