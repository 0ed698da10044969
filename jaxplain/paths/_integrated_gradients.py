"""Integrated Gradients, along the straight line from a baseline to the input.

    values_i = (x_i - b_i) * integral_0^1 df/dx_i(b + t (x - b)) dt
             ~ (x_i - b_i) * sum_k w_k df/dx_i(b + t_k (x - b))

Completeness: the values sum to f(x) - f(b) but for the error of the quadrature and of rounding.
"""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain import checks
from jaxplain.paths._kernel import Rule, path_kernel
from jaxplain.paths._result import PathAttribution, from_baseline
from jaxplain.paths._straight_line import straight_line


def integrated_gradients(
    f: Callable[..., Any],
    *,
    steps: int | None = None,
    rule: Rule | None = None,
    tolerance: float | jax.Array | None = None,
    max_steps: int | None = None,
    chunk_size: int = 16,
    hoist: bool = True,
) -> Callable[..., PathAttribution]:
    """Integrated Gradients of a scalar function, for one example.

        values_i = (x_i - b_i) * integral_0^1 df/dx_i(b + t (x - b)) dt

    Two forms. With `steps`, a fixed quadrature rule: as many gradients for every example,
    differentiable in both modes. With `tolerance`, nested Clenshaw-Curtis rules of 33, 65, 129, ...
    nodes until two in succession differ by little enough, for each example by itself; `error` is
    that difference with a margin, above the true error on all but a few networks' inputs in a
    thousand (forward mode only: reverse mode does not pass a `while_loop`). Its rules take the
    gradient at both ends too: where it is infinite there (a square root at zero), use `steps`.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over: closed-over
            arrays become constants of the program, slow to compile and twice in memory.
        steps: the number of gradients; 32 where neither `steps` nor `tolerance` is given.
        rule: a function `steps -> (nodes, weights)` with nodes in [0, 1]; `gauss_legendre` unless
            given. Static.
        tolerance: the relative error of the vector of values to stop at, in the Euclidean norm. May
            be a traced array, so that it can be swept inside a `jit`.
        max_steps: the most gradients in the tolerance form, 2**k + 1; 257 unless given.
        chunk_size: points evaluated at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the points in flight are `chunk_size` times the batch: take 1 to
            4. In the tolerance form it is rounded down to a power of two, at most 16.
        hoist: whether the affine operations that f begins with (a dense layer, a convolution, an
            embedding) are applied once in place of once for each point, where that saves counted
            FLOPs. It changes the result by rounding only. Static.

    Returns:
        `explain(x, baseline, *args) -> PathAttribution`, a pure function, jitted inside. `x` is any
        tree of float arrays (scalars too), `baseline` the same tree with the same shapes and
        dtypes; `*args` are arrays or trees of arrays.

    Raises:
        TypeError: f or rule is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar; baseline does not match x; steps is below 1;
            max_steps is not 2**k + 1; options of both forms are given.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x, weight: jnp.sum(weight * x**2)
        >>> explain = integrated_gradients(f, steps=4)
        >>> result = explain(jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.array([3.0, 1.0]))
        >>> result.values.round(4).tolist(), float(result.output)
        ([3.0, 4.0], 7.0)

    References:
        Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, equation
        1. Deviations: 1. the quadrature rule is an argument and Gauss-Legendre by default, where
        equation 3 is the right Riemann sum. 2. The tolerance form is ours: Clenshaw and Curtis,
        Numer. Math. 1960, nested as in docs/architecture.md.
    """
    checks.function(f, "f")
    scalar = checks.scalar(f)
    kernel = path_kernel(
        scalar,
        straight_line,
        steps=steps,
        rule=rule,
        tolerance=tolerance,
        max_steps=max_steps,
        chunk_size=chunk_size,
        hoist=hoist,
    )
    return from_baseline(scalar, kernel)
