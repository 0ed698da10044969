"""The attribution along any path from a baseline to the input.

values_i = integral_0^1 df/dx_i(gamma(t)) * dgamma_i/dt(t) dt
         ~ sum_k w_k df/dx_i(gamma(t_k)) * dgamma_i/dt(t_k)

Complete for every path: the values sum to f(gamma(1)) - f(gamma(0)).
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain import checks
from jaxplain.paths._integrand import Path
from jaxplain.paths._kernel import Rule, path_kernel
from jaxplain.paths._result import PathAttribution, from_baseline
from jaxplain.paths._straight_line import straight_line


def path_attribution(
    f: Callable[..., Any],
    *,
    path: Path = straight_line,
    steps: int | None = None,
    rule: Rule | None = None,
    tolerance: float | jax.Array | None = None,
    max_steps: int | None = None,
    chunk_size: int = 16,
    hoist: bool = True,
) -> Callable[..., PathAttribution]:
    """The attribution of a scalar function along a path of one's own, for one example.

        values_i = integral_0^1 df/dx_i(gamma(t)) * dgamma_i/dt(t) dt

    The velocity dgamma/dt comes from the path by forward-mode differentiation. Any path is
    complete, so the completeness gap is the error of the quadrature, whatever the path.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        path: `path(t, x, baseline) -> point`, a tree like x; differentiable in t, a scalar in [0,
            1]. It need not begin at the baseline nor end at x; `output` and `baseline_output` are f
            at its own ends. Static. See `straight_line`, `blur`, `product`.
        steps: the number of gradients; 32 where neither `steps` nor `tolerance` is given.
        rule: a function `steps -> (nodes, weights)` with nodes in [0, 1]; `gauss_legendre` unless
            given. Static.
        tolerance: the relative error of the vector of values to stop at; see
            `integrated_gradients`.
        max_steps: the most gradients in the tolerance form, 2**k + 1; 257 unless given.
        chunk_size: points evaluated at once; see `integrated_gradients`.
        hoist: as in `integrated_gradients`; of use on the straight line only. Static.

    Returns:
        `explain(x, baseline, *args) -> PathAttribution`, a pure function, jitted inside.

    Raises:
        TypeError: f, path or rule is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar; the path's point is not like x; baseline does not
            match x; the options of both forms are given, or one is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> curve = lambda t, x, b: b + jnp.array([t**2, t]) * (x - b)
        >>> explain = path_attribution(lambda x: x[0] * x[1], path=curve, steps=4)
        >>> explain(jnp.array([3.0, 1.0]), jnp.zeros(2)).values.round(4).tolist()
        [2.0, 1.0]

    References:
        Friedman, "Paths and consistency in additive cost sharing", 2004; Sundararajan, Taly and
        Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, section 4, equation 2.
    """
    checks.function(f, "f")
    scalar = checks.scalar(f)
    kernel = path_kernel(
        scalar,
        path,
        steps=steps,
        rule=rule,
        tolerance=tolerance,
        max_steps=max_steps,
        chunk_size=chunk_size,
        hoist=hoist,
    )
    return from_baseline(scalar, kernel)
