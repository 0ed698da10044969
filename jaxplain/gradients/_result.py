"""What the gradient methods share: the result, and the kernel around one gradient."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from jaxplain import checks, trees
from jaxplain.rewrite import _fast


class GradientAttribution(NamedTuple):
    """An attribution by the gradient at the input itself.

    Attributes:
        values: tree, shapes and dtype of x.
        output: f(x), a scalar.
        finite: whether x, the output and the values are free of NaN and infinity.
    """

    values: Any
    output: jax.Array
    finite: jax.Array


def gradient_kernel(
    f: Callable[..., Any], values: Callable[[Any, Any], Any]
) -> Callable[..., GradientAttribution]:
    """`explain(x, *args)` with `values(x, gradient)`, a function of two leaves."""
    checks.function(f, "f")
    scalar = checks.scalar(f)
    # Under somebody's loop this too must keep its fast convolutions.
    value_and_gradient = _fast.inline(jax.value_and_grad(scalar))

    @jax.jit
    def kernel(x: Any, *args: Any) -> GradientAttribution:
        x = trees.vary_with_output(scalar, x, *args)
        output, gradient = value_and_gradient(x, *args)
        result = jax.tree.map(values, x, gradient)
        return GradientAttribution(result, output, trees.finite(x, output, result))

    def explain(x: Any, *args: Any) -> GradientAttribution:
        x = checks.explained(x)
        checks.arrays(args, "each argument after x")
        return kernel(x, *args)

    return explain
