"""Is a baseline fit to mean absence, and does a path lead from absence to presence?

Three checks of a path g(t) from b = g(0) to x = g(1), at t_k = k / steps:

    differing     the share of elements with |x_i - b_i| >= margin
    sensitivity   |grad f(b)| / mean_k |grad f(g(t_k))|
    ordering      the share of (element, step) pairs where g_i leaves [b_i, x_i] or moves back

An element where b and x agree gets no attribution, however much it matters. Where f is steep at b,
b is not where nothing is said. And a step on which an element is further from x than before, or
beyond either end, compares something else than presence with absence.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import both, evaluate, stack, weighted_sum
from jaxplain.metrics import _ball
from jaxplain.paths import straight_line
from jaxplain.paths._result import from_baseline


class BaselineDesiderata(NamedTuple):
    """How a baseline and a path fare, for one example.

    Attributes:
        values: tree and shapes of x, dtype of x: the share of steps on which the element is out of
            order, from 0 to 1.
        differing: the share of elements that differ from the baseline by the margin at least.
        relative_sensitivity: |grad f| at the start of the path over its mean along the path. Below
            1 is good; NaN where f is flat along all of it.
        baseline_sensitivity: |grad f| at the start, in the units of f per unit of x.
        unordered: the mean of `values`: the share of (element, step) pairs that are out of order.
        unordered_steps: the share of steps on which any element is.
        output_outside: the share of points at which f is not between its values at the two ends.
        output: f at the end of the path; baseline_output: f at its start.
        finite: whether x, the baseline, the outputs and the gradients are free of NaN and infinity.
    """

    values: Any
    differing: jax.Array
    relative_sensitivity: jax.Array
    baseline_sensitivity: jax.Array
    unordered: jax.Array
    unordered_steps: jax.Array
    output_outside: jax.Array
    output: jax.Array
    baseline_output: jax.Array
    finite: jax.Array


def baseline_desiderata(
    f: Callable[..., Any],
    *,
    path: Callable[[Any, Any, Any], Any] = straight_line,
    margin: float | jax.Array = 5 / 255,
    steps: int = 32,
    chunk_size: int = 16,
) -> Callable[..., BaselineDesiderata]:
    """Checks a baseline, and a path from it to x, against three desiderata.

        differing            = share of elements with |x_i - b_i| >= margin
        relative_sensitivity = |grad f(b)| / mean |grad f|
        unordered            = share of (element, step) pairs out of the order from b_i to x_i

    What is wished for: `differing` near 1, `relative_sensitivity` well below 1, `unordered` 0. On
    the straight line the order is kept by construction; `output_outside` may still be above 0.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        path: `path(t, x, baseline) -> point`, a tree like x, with t a scalar from 0 to 1, as for
            `jaxplain.paths.path_attribution`. It is given x and the baseline in float32 or wider.
            Of a walk (Guided IG, AGI), interpolate the points it made. Static.
        margin: by how much an element must differ from its baseline to count, in the units of x;
            5 of 255 grey levels, for pixels from 0 to 1. May be a traced array.
        steps: into how many steps the path is cut; one more gradient is taken. Static.
        chunk_size: points evaluated at once; memory and speed, and the result only by rounding.

    Returns:
        `measure(x, baseline, *args) -> BaselineDesiderata`, a pure function, jitted inside. `x` is
        any tree of float arrays, `baseline` like it.

    Raises:
        TypeError: f or path is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar; baseline, or a point of the path, is not like x;
            steps is below 1; margin is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda x: x[0] * x[1]
        >>> detour = lambda t, x, b: (1 - t) * b + t * x + jnp.array([0.0, 1.0]) * t * (1 - t) * 8
        >>> check = baseline_desiderata(f, path=detour, steps=4)
        >>> result = check(jnp.array([1.0, 1.0]), jnp.array([0.0, 0.0]))
        >>> result.values.tolist(), float(result.relative_sensitivity)  # beyond 1, then back again
        ([0.0, 1.0], 0.0)

    References:
        Akhtar and Jalwana, "Towards Credible Visual Model Interpretation with Path Attribution",
        ICML 2023, argue for these three. Deviations: 1. the measures are our own derivation from
        the argument; their two algorithms are not implemented here and nothing is claimed of them.
        2. Sensitivity is relative to the path's mean, so that it has no units. 3. A step counts
        as unordered by the inputs; the outputs' order is a figure of its own.
    """
    checks.function(f, "f")
    checks.function(path, "path")
    margin = checks.number(margin, "margin", at_least=0)
    steps = checks.integer(steps, "steps")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)

    def kernel(x: Any, baseline: Any, *args: Any) -> BaselineDesiderata:
        wide, start = trees.widen(x), trees.widen(baseline)
        dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(wide)))
        total = _ball.elements(x)

        def at(t: jax.Array) -> Any:
            made = path(t, wide, start)
            made = checks.like(made, wide, "the point that path returns", any_float=True)
            return trees.cast_like(made, wide)

        def point(index: jax.Array) -> Any:
            # The last point has no step of its own: it looks back at the one before.
            here, low = at(index.astype(dtype) / steps), jnp.minimum(index, steps - 1)
            before, after = at(low.astype(dtype) / steps), at((low + 1).astype(dtype) / steps)
            unordered = jax.tree.map(_unordered, x, baseline, before, after)
            output, gradient = jax.value_and_grad(scalar)(trees.cast_like(here, x), *args)
            flags = jax.tree.map(lambda u, leaf: u.astype(leaf.dtype), unordered, wide)
            return flags, (trees.total(flags) > 0, output, trees.norm(gradient))

        weights = jnp.where(jnp.arange(steps + 1) < steps, 1 / steps, 0)
        shares, (broken, outputs, sizes) = evaluate(
            point, steps + 1, both(weighted_sum(weights), stack(steps + 1)), chunk_size=chunk_size
        )
        outputs = trees.widen(outputs)
        low, high = jnp.minimum(outputs[0], outputs[-1]), jnp.maximum(outputs[0], outputs[-1])
        slack = 8 * jnp.finfo(outputs.dtype).eps * jnp.max(jnp.abs(outputs))
        outside = (outputs < low - slack) | (outputs > high + slack)
        differs = jax.tree.map(
            lambda a, b: (jnp.abs(a - b) >= jnp.asarray(margin).astype(a.dtype)).astype(a.dtype),
            wide,
            start,
        )
        mean = jnp.mean(sizes)
        return BaselineDesiderata(
            trees.cast_like(shares, x),
            trees.total(differs) / total,
            jnp.where(mean > 0, sizes[0] / jnp.where(mean > 0, mean, 1), jnp.nan),
            sizes[0],
            trees.total(shares) / total,
            jnp.mean(broken[:steps].astype(dtype)),
            jnp.mean(outside.astype(dtype)),
            outputs[-1],
            outputs[0],
            trees.finite(x, baseline, outputs, sizes),
        )

    return from_baseline(scalar, kernel)


def _unordered(x: jax.Array, baseline: jax.Array, before: jax.Array, after: jax.Array) -> jax.Array:
    """Whether an element leaves the interval from its baseline to x, or moves back in it."""
    dtype = after.dtype
    x, baseline = x.astype(dtype), baseline.astype(dtype)
    low, high = jnp.minimum(x, baseline), jnp.maximum(x, baseline)
    slack = 8 * jnp.finfo(dtype).eps * jnp.maximum(jnp.abs(x), jnp.abs(baseline))
    outside = (after < low - slack) | (after > high + slack)
    return outside | ((after - before) * jnp.sign(x - baseline) < -slack)
