"""The straight line: gamma(t) = b + t (x - b)."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import trees


def straight_line(t: Any, x: Any, baseline: Any) -> Any:
    """The straight line from the baseline to x, the path of Integrated Gradients.

        gamma(t) = b + t (x - b)

    Computed in float32 or wider.

    Args:
        t: the position on the path, a scalar: 0 at the baseline, 1 at x.
        x: a tree of float arrays.
        baseline: the same tree, shapes and dtypes.

    Returns:
        The point, a tree like x.

    Raises:
        ValueError: the trees differ.

    Example:
        >>> import jax.numpy as jnp
        >>> straight_line(0.25, jnp.array([4.0]), jnp.array([8.0])).tolist()
        [7.0]

    References:
        Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017,
        section 3.
    """
    point, _ = line_between(baseline, x)
    return point(jnp.asarray(t))


def line_between(baseline: Any, x: Any) -> tuple[Any, Any]:
    """The point as a function of t, in the dtypes of x, and the velocity, wide."""
    start = trees.widen(baseline)

    def moves(b: jax.Array, leaf: jax.Array) -> jax.Array:
        # What is the same infinity at both ends stays where it is: an affine prefix that is hoisted
        # may end in a mask of -inf, and inf - inf would be NaN.
        stays = jnp.isinf(b) & (b == leaf)
        return jnp.where(stays, 0, leaf) - jnp.where(stays, 0, b)

    velocity = jax.tree.map(moves, start, trees.widen(x))

    def point(t: jax.Array) -> Any:
        point = jax.tree.map(lambda b, v: b + t.astype(b.dtype) * v, start, velocity)
        return trees.cast_like(point, x)

    return point, velocity
