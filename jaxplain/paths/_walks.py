"""What the methods that walk share: a path whose next point needs the last gradient."""

import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees


def share(value: Any, name: str) -> float:
    """A Python number in (0, 1]."""
    if not isinstance(value, numbers.Real):
        raise TypeError(
            f"{name} must be a Python number, since it is part of the compiled program, but is "
            f"{value!r}."
        )
    return float(checks.number(value, name, above=0, at_most=1))


def box(value: Any) -> tuple[Any, Any] | None:
    """The option `bounds`: None, or the least and the largest value of an element of x."""
    if value is None:
        return None
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(
            f"bounds must be two numbers, (lowest, highest), or None, but is {value!r}."
        )
    low, high = (checks.number(v, "each of bounds") for v in value)
    return low, high


def clip(tree: Any, bounds: tuple[Any, Any] | None) -> Any:
    """Each element within the bounds."""
    if bounds is None:
        return tree
    low, high = bounds
    return jax.tree.map(
        lambda leaf: jnp.clip(leaf, jnp.asarray(low, leaf.dtype), jnp.asarray(high, leaf.dtype)),
        tree,
    )


def advance(point: Any, step_size: Any, direction: Any, bounds: tuple[Any, Any] | None) -> Any:
    """The point, a step further in a direction, within the bounds."""
    moved = jax.tree.map(
        lambda leaf, d: leaf + jnp.asarray(step_size, leaf.dtype) * d, point, direction
    )
    return clip(moved, bounds)


def length(tree: Any) -> jax.Array:
    """The Euclidean norm of the whole tree, with a derivative of zero where it is zero."""
    is_zero = trees.total(jax.tree.map(jnp.abs, tree)) == 0
    safe = jax.tree.map(lambda leaf: jnp.where(is_zero, 1, leaf), tree)
    return jnp.where(is_zero, 0, trees.norm(safe))


def unit(tree: Any) -> Any:
    """The tree over its Euclidean norm, in float32 or wider; zeros stay zeros."""
    tree = trees.widen(tree)
    norm = length(tree)
    norm = jnp.where(norm == 0, 1, norm)
    return jax.tree.map(lambda leaf: leaf / norm.astype(leaf.dtype), tree)


def zeros(x: Any) -> Any:
    """Zeros in float32 or wider, placed on the mesh as x is: where a sum along a walk starts."""
    x = trees.widen(x)
    return trees.place_like(jax.tree.map(jnp.zeros_like, x), x)


def none(like: jax.Array, dtype: Any = jnp.int32) -> jax.Array:
    """The number 0, made of a scalar that depends on the example: where a count starts.

    On a mesh of Explicit axes a loop that starts from a literal scalar cannot be batched (jax
    0.10.2).
    """
    return (jnp.isfinite(like) & False).astype(dtype)


def choose(condition: jax.Array, yes: Any, no: Any) -> Any:
    """`yes` where the scalar condition holds, else `no`, leaf by leaf."""
    return jax.tree.map(lambda y, n: jnp.where(condition, y, n), yes, no)


def label(value: Any, classes: int) -> jax.Array:
    """One class number, int32."""
    array = jnp.asarray(value)
    if array.ndim or not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"label must be one integer, the number of a class, but has shape {array.shape} and "
            f"dtype {array.dtype}. A batch of examples goes through `jax.vmap(explain, ...)`."
        )
    try:
        known = int(array)
    except jax.errors.ConcretizationTypeError:
        return array.astype(jnp.int32)  # traced: `of_a_class` flags the result
    if not 0 <= known < classes:
        raise ValueError(f"label must be in [0, {classes}), the classes, but is {known}.")
    return array.astype(jnp.int32)


def of_a_class(result: Any, label: jax.Array, classes: int) -> Any:
    """The result, flagged as not finite where the label is the number of no class."""
    return result._replace(finite=result.finite & (label >= 0) & (label < classes))


def of_classes(f: Callable[..., jax.Array], classes: int) -> Callable[..., jax.Array]:
    """`scores(x, *args)`, shape (classes,): f of each class, mapped over the label alone.

    What does not depend on the label, a network below its last selection, then runs once.
    """

    def scores(x: Any, *args: Any) -> jax.Array:
        return jax.vmap(lambda c: f(x, c, *args))(jnp.arange(classes, dtype=jnp.int32))

    return scores


def best(scores: jax.Array) -> jax.Array:
    """The class of the highest score, int32."""
    return jax.lax.argmax(scores, 0, jnp.int32)


def only(index: jax.Array, scores: jax.Array) -> jax.Array:
    """One at the index, zero elsewhere, like the scores: what pulls back the gradient of one."""
    here = jnp.arange(scores.size, dtype=jnp.int32) == index
    return trees.place_like(here.astype(scores.dtype), scores)
