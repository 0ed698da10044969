"""Saliency: values_i = |df/dx_i(x)|."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxplain.gradients._result import GradientAttribution, gradient_kernel


def saliency(f: Callable[..., Any], *, absolute: bool = True) -> Callable[..., GradientAttribution]:
    """The gradient of a scalar function at the input, for one example.

        values_i = |df/dx_i(x)|

    How sensitive the output is to each element; not what the element contributed.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        absolute: whether to take the absolute value, as the paper does. Static.

    Returns:
        `explain(x, *args) -> GradientAttribution`, a pure function, jitted inside. `x` is any tree
        of float arrays; the values have its tree, shapes and dtypes, in units of f per unit of x.

    Raises:
        TypeError: f is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> saliency(lambda x: x[0] ** 2 - x[1])(jnp.array([3.0, 5.0])).values.tolist()
        [6.0, 1.0]

    References:
        Simonyan, Vedaldi and Zisserman, "Deep Inside Convolutional Networks: Visualising Image
        Classification Models and Saliency Maps", 2013, section 3.1. Deviation: 1. the maximum over
        colour channels is left to the caller: `values.max(axis=-1)`.
    """
    return gradient_kernel(f, lambda x, gradient: jnp.abs(gradient) if absolute else gradient)
