"""A path for each part of the input: gamma(t) = (gamma_1(t), gamma_2(t), ...)."""

from typing import Any

import jax

from jaxplain import checks
from jaxplain.paths._integrand import Path


def product(paths: Any) -> Path:
    """The path that follows a path of its own in each modality, at one time t for all.

        gamma(t) = (gamma_1(t), gamma_2(t), ...)

    Args:
        paths: a tree of paths, such as `{"image": blur(), "text": straight_line}`: the tree of x,
            or its upper part, where a path stands for all leaves below.

    Returns:
        A path, `path(t, x, baseline) -> point`.

    Raises:
        TypeError: a leaf is not a function.
        ValueError: the tree is empty, or is not the upper part of x's, found when called.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.paths import straight_line
        >>> square = lambda t, x, baseline: baseline + t**2 * (x - baseline)
        >>> path = product({"a": straight_line, "b": square})
        >>> ones, zeros = ({"a": jnp.full(1, v), "b": jnp.full(1, v)} for v in (1.0, 0.0))
        >>> point = path(0.5, ones, zeros)
        >>> float(point["a"][0]), float(point["b"][0])
        (0.5, 0.25)

    References:
        Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, section 4:
        a product of paths is a path.
    """
    leaves = jax.tree.leaves(paths)
    if not leaves:
        raise ValueError("paths must hold at least one path, but is an empty tree.")
    for leaf in leaves:
        checks.function(leaf, "each leaf of paths")

    def path(t: Any, x: Any, baseline: Any) -> Any:
        structure = jax.tree.structure
        try:
            jax.tree.map(lambda *_: None, paths, x)
        except ValueError:
            raise ValueError(
                "paths of a product must be the upper part of the tree of x, but is "
                f"{structure(paths)} where x is {structure(x)}."
            ) from None
        return jax.tree.map(lambda one, *parts: one(t, *parts), paths, x, baseline)

    return path
