"""Grad-CAM: the channels of a layer, each weighted by its mean gradient.

values_p = max(0, sum_c a_c y_pc),    a_c = mean over places p of df/dy_pc,    y at the site
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, sites, trees
from jaxplain.rewrite import _fast


class GradCam(NamedTuple):
    """A map over the places of a layer.

    Attributes:
        values: shape of the value at the site without its channels, in its dtype.
        value: the value at the site.
        output: f(x), a scalar.
        finite: whether x, the output and the values are free of NaN and infinity.
    """

    values: jax.Array
    value: jax.Array
    output: jax.Array
    finite: jax.Array


def grad_cam(
    f: Callable[..., Any], site: str, *, channel_axis: int = -1, positive: bool = True
) -> Callable[..., GradCam]:
    """Where in a layer the evidence for the output is, for one example.

        values_p = max(0, sum_c a_c y_pc),    a_c = mean over places p of df/dy_pc

    Args:
        f: `f(x, *args) -> scalar`, with names in it: a logit is usual. Parameters belong among
            `args`.
        site: where the layer is, most often the last with places: see `jaxplain.sites`.
        channel_axis: the axis of the value along which its channels lie; all others are places
            (of a function by `jaxplain.targets` the first is that of one example). Static.
        positive: whether negative evidence is cut off, as the paper does. Static.

    Returns:
        `explain(x, *args) -> GradCam`, a pure function, jitted inside. `x` is any tree of arrays;
        token ids too. To lay the map over an image: `jax.image.resize(values, shape, "bilinear")`.

    Raises:
        TypeError: f is not a function; an argument is not an array, or the value holds no floats.
        ValueError: f does not return a scalar; there is no such site; it has no such axis.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain import gradients, sites
        >>> f = lambda x: jnp.sum(sites.tag(x, "last") * jnp.array([1.0, -1.0])[None])
        >>> gradients.grad_cam(f, "last")(jnp.array([[3.0, 1.0], [1.0, 2.0]])).values.tolist()
        [2.0, 0.0]

    References:
        Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual Explanations from
        Deep Networks via Gradient-based Localization", ICCV 2017, equations 1 and 2.
    """
    checks.function(f, "f")
    scalar = checks.scalar(f)
    read, g = sites.read(scalar, site), sites.at(scalar, site)
    channel_axis = checks.integer(channel_axis, "channel_axis", minimum=-math.inf)
    gradient_at = _fast.inline(jax.grad(g))

    @jax.jit
    def kernel(x: Any, *args: Any) -> GradCam:
        output, found = read(x, *args)
        value = found[site]
        checks.floating(value, f"the value at {site!r}")
        if not -value.ndim <= channel_axis < value.ndim:
            raise ValueError(
                f"channel_axis is {channel_axis}, but the value at {site!r} has the shape "
                f"{value.shape}."
            )
        gradient = jnp.moveaxis(trees.widen(gradient_at(value, x, *args)), channel_axis, -1)
        channels = jnp.moveaxis(trees.widen(value), channel_axis, -1)
        weights = jnp.mean(gradient, axis=tuple(range(value.ndim - 1)), keepdims=True)
        values = jnp.sum(weights * channels, axis=-1)
        values = (jnp.maximum(values, 0) if positive else values).astype(value.dtype)
        floats = [leaf for leaf in jax.tree.leaves(x) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        return GradCam(values, value, output, trees.finite(floats, output, values))

    def explain(x: Any, *args: Any) -> GradCam:
        x = checks.explained(x, is_differentiated=False)
        checks.arrays(args, "each argument after x")
        return kernel(x, *args)

    return explain
