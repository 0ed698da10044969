"""Internal influence: the gradient by a layer's values, averaged on the line from baseline to x.

values_j = integral_0^1 df/dy_j(gamma(t)) dt,    y the values at the site
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks
from jaxplain.evaluate import evaluate, weighted_sum
from jaxplain.paths._kernel import Rule, merged
from jaxplain.paths._layer import LayerAttribution, Line, layer_kernel
from jaxplain.paths.quadrature import gauss_legendre


def internal_influence(
    f: Callable[..., Any],
    site: str,
    *,
    steps: int = 32,
    rule: Rule = gauss_legendre,
    chunk_size: int = 16,
) -> Callable[..., LayerAttribution]:
    """The influence of the units of a layer, averaged over a line of inputs, for one example.

        values_j = integral_0^1 df/dy_j(gamma(t)) dt

    In units of f per unit of y. Not complete: `completeness_gap` says nothing here.

    Args:
        f: `f(x, *args) -> scalar`, with names in it. Parameters belong among `args`.
        site: where the layer is: see `jaxplain.sites`. Of a name that is hit several times take
            one, "name[3]".
        steps: the number of gradients. Static.
        rule: a function `steps -> (nodes, weights)` with nodes in [0, 1]. Static.
        chunk_size: points evaluated at once. It changes memory and speed, and the result only by
            rounding.

    Returns:
        `explain(x, baseline, *args) -> LayerAttribution`, a pure function, jitted inside.

    Raises:
        TypeError: f or rule is not a function; x or the value is not float; an argument is not an
            array.
        ValueError: f does not return a scalar; there is no such site; baseline does not match x; an
            option is out of its range.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import paths, sites
        >>> f = lambda x: jnp.sum(sites.tag(3 * x, "hidden") ** 2)
        >>> r = paths.internal_influence(f, "hidden")(jnp.array([1.0, 2.0]), jnp.zeros(2))
        >>> [round(float(v), 4) for v in r.values]  # of 2 y, half of its end
        [3.0, 6.0]

    References:
        Leino, Sen, Datta, Fredrikson and Li, "Influence-Directed Explanations for Deep
        Convolutional Networks", ITC 2018, definition 1, with the line as distribution of interest.
    """
    chunk_size = checks.integer(chunk_size, "chunk_size")
    checks.function(rule, "rule")
    nodes, weights = merged(*checks.rule(rule, checks.integer(steps, "steps")))

    def mean_gradient(line: Line) -> jax.Array:
        t = jnp.asarray(nodes, line.dtype)
        gradient = lambda index: line.gradient(t[index], line.value(t[index]))
        return evaluate(gradient, len(nodes), weighted_sum(weights), chunk_size=chunk_size)

    return layer_kernel(f, site, mean_gradient, len(nodes))
