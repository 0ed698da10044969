"""Conductance: what flows through each unit of a layer, on the line from the baseline to x.

values_j = integral_0^1 df/dy_j(gamma(t)) dy_j(gamma(t))/dt dt,    y the values at the site

Complete: where all that f depends on passes the site, the values sum to f(x) - f(baseline).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.evaluate import evaluate, weighted_sum
from jaxplain.paths._kernel import Rule, merged
from jaxplain.paths._layer import LayerAttribution, Line, layer_kernel
from jaxplain.paths.quadrature import gauss_legendre

VELOCITIES = ("derivative", "difference")


def conductance(
    f: Callable[..., Any],
    site: str,
    *,
    steps: int = 32,
    rule: Rule = gauss_legendre,
    velocity: str = "derivative",
    chunk_size: int = 16,
) -> Callable[..., LayerAttribution]:
    """The conductance of the units of a layer for one example.

        values_j = integral_0^1 df/dy_j(gamma(t)) dy_j(gamma(t))/dt dt

    Integrated Gradients asks how much each input contributed; conductance how much of that flows
    through each unit y_j of a layer.

    Args:
        f: `f(x, *args) -> scalar`, with names in it. Parameters belong among `args`.
        site: where the layer is: see `jaxplain.sites`. Of a name that is hit several times take
            one, "name[3]".
        steps: the number of gradients. Static.
        rule: a function `steps -> (nodes, weights)` with nodes in [0, 1]. Static.
        velocity: "derivative", dy/dt by forward-mode differentiation; or "difference", of y at
            neighbouring nodes of the rule with one more, whose weights are not used. Static.
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
        >>> f = lambda x: jnp.sum(sites.tag(x**2, "hidden") * jnp.array([1.0, 3.0]))
        >>> r = paths.conductance(f, "hidden")(jnp.array([1.0, 2.0]), jnp.zeros(2))
        >>> [round(float(v), 4) for v in r.values]
        [1.0, 12.0]

    References:
        Dhamdhere, Sundararajan and Yan, "How Important Is a Neuron?", ICLR 2019, equation 3, summed
        over inputs. `velocity="difference"` is Captum's `LayerConductance`.
    """
    steps = checks.integer(steps, "steps")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    checks.function(rule, "rule")
    if velocity not in VELOCITIES:
        raise ValueError(f"velocity must be one of {', '.join(VELOCITIES)}, but is {velocity!r}.")
    if velocity == "derivative":
        nodes, weights = merged(*checks.rule(rule, steps))
    else:
        nodes, weights = checks.rule(rule, steps + 1)[0], np.ones(steps)

    def integral(line: Line) -> jax.Array:
        t = jnp.asarray(nodes, line.dtype)

        def flow(index: jax.Array) -> jax.Array:
            if velocity == "derivative":
                value, speed = line.with_velocity(t[index])
            else:
                value = line.value(t[index])
                speed = line.value(t[index + 1]) - value
            return line.gradient(t[index], value) * speed

        return evaluate(flow, len(weights), weighted_sum(weights), chunk_size=chunk_size)

    return layer_kernel(f, site, integral, len(weights))
