"""Integrated Gradients, along the straight line from a baseline to the input.

    values_i = (x_i - b_i) * integral_0^1 df/dx_i(b + t (x - b)) dt
             ~ (x_i - b_i) * sum_k w_k df/dx_i(b + t_k (x - b))

Completeness: the values sum to f(x) - f(b) but for the error of the quadrature and of rounding.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.evaluate import evaluate, weighted_sum
from jaxplain.paths import _nested
from jaxplain.paths._lines import line_between
from jaxplain.paths._result import PathAttribution, from_baseline, result
from jaxplain.paths.quadrature import gauss_legendre
from jaxplain.rewrite import _fast


def integrated_gradients(
    f: Callable[..., Any],
    *,
    steps: int | None = None,
    rule: Callable[[int], tuple[Any, Any]] | None = None,
    tolerance: float | jax.Array | None = None,
    max_steps: int | None = None,
    chunk_size: int = 16,
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
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)
    if tolerance is None:
        if max_steps is not None:
            raise ValueError("max_steps belongs to the tolerance form: give tolerance, or steps.")
        steps = 32 if steps is None else checks.integer(steps, "steps")
        nodes, weights = checks.rule(gauss_legendre if rule is None else rule, steps)
        kernel = _fixed(scalar, nodes, weights, chunk_size)
    else:
        if steps is not None or rule is not None:
            raise ValueError(
                "steps and rule fix the nodes, tolerance chooses their number (by nested "
                "Clenshaw-Curtis rules): give one or the other."
            )
        checks.tolerance(tolerance)
        max_steps = 257 if max_steps is None else checks.integer(max_steps, "max_steps")
        kernel = _to_tolerance(scalar, _nested.schedule(max_steps), tolerance, chunk_size)
    return from_baseline(scalar, kernel)


def _fixed(
    f: Callable[..., jax.Array], nodes: np.ndarray, weights: np.ndarray, chunk_size: int
) -> Callable[..., PathAttribution]:
    def explain(x: Any, baseline: Any, *args: Any) -> PathAttribution:
        line, velocity = line_between(baseline, x)
        dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(velocity)))
        t = jnp.asarray(nodes, dtype)
        integral = evaluate(
            lambda index: jax.grad(f)(line(t[index]), *args),
            len(nodes),
            weighted_sum(weights),
            chunk_size=chunk_size,
        )
        output, _ = _fast.staged(lambda z: f(z, *args), x)
        return result(
            x,
            baseline,
            (output(baseline), output(x)),
            trees.multiply(velocity, integral),
            evaluations=len(nodes),
        )

    return explain


def _to_tolerance(
    f: Callable[..., jax.Array], plan: _nested.Schedule, tolerance: Any, chunk_size: int
) -> Callable[..., PathAttribution]:
    def explain(x: Any, baseline: Any, *args: Any) -> PathAttribution:
        line, velocity = line_between(baseline, x)
        # The outputs at the two ends are needed anyway; their gradients belong to every level.
        value_and_gradient, _ = _fast.staged(lambda z: jax.value_and_grad(f)(z, *args), x)
        baseline_output, first = value_and_gradient(baseline)
        output, last = value_and_gradient(x)
        integral = _nested.integrate(
            lambda t: jax.grad(f)(line(t), *args),
            (first, last),
            trees.subtract(trees.widen(output), trees.widen(baseline_output)),
            velocity,
            plan,
            tolerance,
            chunk_size,
        )
        return result(
            x,
            baseline,
            (baseline_output, output),
            trees.multiply(velocity, integral.value),
            error=integral.error,
            evaluations=integral.evaluations,
        )

    return explain
