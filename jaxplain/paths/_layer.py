"""What the path attributions of a layer share: the layer's value and gradient along the line."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, sites, trees
from jaxplain.paths._straight_line import line_between
from jaxplain.rewrite import _fast


class LayerAttribution(NamedTuple):
    """An attribution to the values at a site, along a line of inputs.

    Attributes:
        values: shape and dtype of the value at the site.
        value: the value at the site for x.
        baseline_value: the value at the site for the baseline.
        output: f(x), a scalar.
        baseline_output: f(baseline), a scalar.
        completeness_gap: sum(values) - (output - baseline_output), in float32 or wider: small where
            the method is complete and all that f depends on passes the site.
        evaluations: the number of gradients that went into `values`, int32.
        finite: whether x, the baseline, the outputs and the values are free of NaN and infinity.
    """

    values: jax.Array
    value: jax.Array
    baseline_value: jax.Array
    output: jax.Array
    baseline_output: jax.Array
    completeness_gap: jax.Array
    evaluations: jax.Array
    finite: jax.Array


class Line(NamedTuple):
    """A layer on the line from the baseline to x, t in [0, 1].

    Attributes:
        value: t -> the value at the site.
        with_velocity: t -> the value and its derivative by t.
        gradient: t, value -> the gradient of f by the value.
        dtype: of t.
    """

    value: Callable[[jax.Array], jax.Array]
    with_velocity: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    gradient: Callable[[jax.Array, jax.Array], jax.Array]
    dtype: Any


def layer_kernel(
    f: Callable[..., Any], site: Any, integral: Callable[[Line], jax.Array], evaluations: int
) -> Callable[..., LayerAttribution]:
    """`explain(x, baseline, *args)` whose values are `integral(line)`, wide."""
    checks.function(f, "f")
    scalar = checks.scalar(f)
    read, g = sites.read(scalar, site), sites.at(scalar, site)

    @jax.jit
    def kernel(x: Any, baseline: Any, *args: Any) -> LayerAttribution:
        x, baseline = (trees.vary_with_output(scalar, tree, *args) for tree in (x, baseline))
        point, velocity = line_between(baseline, x)
        dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(velocity)))
        value = lambda t: read(point(t), *args)[1][site]
        along = lambda t: jax.jvp(value, (t,), (jnp.ones_like(t),))
        gradient = lambda t, value: jax.grad(g)(value, point(t), *args)
        line = Line(value, _fast.inline(along), _fast.inline(gradient), dtype)
        (output, last), (baseline_output, first) = (read(tree, *args) for tree in (x, baseline))
        last, first = last[site], first[site]
        checks.floating(last, f"the value at {site!r}")
        wide = integral(line)
        rise = trees.widen(output) - trees.widen(baseline_output)
        values = wide.astype(last.dtype)
        return LayerAttribution(
            values,
            last,
            first,
            output,
            baseline_output,
            jnp.sum(wide) - rise.astype(wide.dtype),
            jnp.int32(evaluations),
            trees.finite(x, baseline, output, baseline_output, values),
        )

    def explain(x: Any, baseline: Any, *args: Any) -> LayerAttribution:
        x = checks.explained(x)
        baseline = checks.like(baseline, x, "baseline")
        checks.arrays(args, "each argument after baseline")
        return kernel(x, baseline, *args)

    return explain
