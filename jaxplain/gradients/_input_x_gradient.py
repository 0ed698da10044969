"""Input times gradient: values_i = x_i * df/dx_i(x)."""

from collections.abc import Callable
from typing import Any

from jaxplain.gradients._result import GradientAttribution, gradient_kernel


def input_x_gradient(f: Callable[..., Any]) -> Callable[..., GradientAttribution]:
    """The input times its gradient, for one example.

        values_i = x_i * df/dx_i(x)

    The first-order estimate of f(x) - f(0). Integrated Gradients with a zero baseline averages the
    same product over the path.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.

    Returns:
        `explain(x, *args) -> GradientAttribution`, a pure function, jitted inside. `x` is any tree
        of float arrays; the values have its tree, shapes and dtypes, in the units of f.

    Raises:
        TypeError: f is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> input_x_gradient(lambda x: x[0] ** 2 - x[1])(jnp.array([3.0, 5.0])).values.tolist()
        [18.0, -5.0]

    References:
        Shrikumar, Greenside, Shcherbina and Kundaje, "Not Just a Black Box: Learning Important
        Features Through Propagating Activation Differences", 2016, section 1.
    """
    return gradient_kernel(f, lambda x, gradient: x * gradient)
