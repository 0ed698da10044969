"""The algebra of pytrees that the kernels need, and nothing more.

Arithmetic inside a kernel is done in float32 or wider (`widen`) and given back in the dtype of what
is explained (`cast_like`).
"""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp

__all__ = [
    "cast_like",
    "finite",
    "is_placed",
    "multiply",
    "norm",
    "place_like",
    "shard_first_like",
    "subtract",
    "total",
    "vary_with_output",
    "wide_dtype",
    "widen",
    "widest",
]


def wide_dtype(dtype: Any) -> Any:
    """The dtype to accumulate in: float32, or the dtype itself where it is wider."""
    if not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.result_type(float)
    return widest(dtype, jnp.float32)


def widest(*dtypes: Any) -> Any:
    """The float dtype of most bits. (`jnp.promote_types` obeys the user's promotion mode.)"""
    return max(map(jnp.dtype, dtypes), key=lambda dtype: jnp.finfo(dtype).bits)


def widen(tree: Any) -> Any:
    """Each leaf in the dtype to accumulate in."""
    return jax.tree.map(lambda leaf: leaf.astype(wide_dtype(leaf.dtype)), tree)


def cast_like(tree: Any, like: Any) -> Any:
    """Each leaf in the dtype of the leaf at its place in `like`."""
    return jax.tree.map(lambda leaf, other: leaf.astype(other.dtype), tree, like)


def subtract(left: Any, right: Any) -> Any:
    """`left - right`, leaf by leaf."""
    return jax.tree.map(jnp.subtract, left, right)


def multiply(left: Any, right: Any) -> Any:
    """`left * right`, leaf by leaf."""
    return jax.tree.map(jnp.multiply, left, right)


def total(tree: Any) -> jax.Array:
    """The sum of all elements of all leaves, in the widest of their dtypes."""
    sums = [jnp.sum(leaf) for leaf in jax.tree.leaves(widen(tree))]
    dtype = widest(*(s.dtype for s in sums))
    return functools.reduce(operator.add, (s.astype(dtype) for s in sums))


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all elements of all leaves together.

    Scaled by the largest element, whose square may be beyond the range of its dtype.
    """
    tree = widen(tree)
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    dtype = widest(*(size.dtype for size in largest))
    scale = functools.reduce(jnp.maximum, (size.astype(dtype) for size in largest))
    scale = jnp.where((scale > 0) & jnp.isfinite(scale), scale, 1)
    scale = jax.lax.stop_gradient(scale)
    scaled = jax.tree.map(lambda leaf: leaf / scale.astype(leaf.dtype), tree)
    return scale * jnp.sqrt(total(jax.tree.map(jnp.square, scaled)))


def is_placed(tree: Any) -> bool:
    """Whether a leaf (an array or its type) varies over the devices of a mesh or is sharded."""
    return any(_varying(leaf) or _spec(leaf) for leaf in jax.tree.leaves(tree))


def place_like(tree: Any, like: Any) -> Any:
    """Each leaf placed on the mesh as the leaf (an array or its type) at its place in `like`.

    Inside `shard_map` it becomes as varying, on a mesh of Explicit axes as sharded; anywhere else
    nothing happens. A loop needs it, whose state starts as zeros and ends as sums of such arrays.
    """

    def place(leaf: jax.Array, other: Any) -> jax.Array:
        leaf = _vary(leaf, _varying(other))
        if _spec(leaf) != _spec(other):
            leaf = jax.sharding.reshard(leaf, _type(other).sharding)
        return leaf

    return jax.tree.map(place, tree, like)


def finite(*trees: Any) -> jax.Array:
    """Whether every element of every leaf is a number: neither NaN nor infinite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trees)]
    return functools.reduce(jnp.logical_and, flags)


def vary_with_output(f: Any, x: Any, *args: Any) -> Any:
    """`x`, varying over the devices of a `shard_map` wherever `f(x, *args)` does.

    To be applied before the gradient by `x` is taken. If f varies and x does not (params, a label
    or a baseline differ between devices), JAX's gradient is the sum over the devices, and what is
    wanted is each device's own. If f itself sums over devices, nothing changes.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x
    output = jax.eval_shape(f, x, *args)
    return jax.tree.map(lambda leaf: _vary(leaf, _varying(output)), x)


def shard_first_like(array: jax.Array, like: jax.Array) -> jax.Array:
    """The array with its first axis sharded, on a mesh of Explicit axes, as the first of `like`."""
    if not (spec := _spec(like)) or spec[0] is None:
        return array
    mine = _spec(array) or (None,) * array.ndim
    sharding = jax.typeof(like).sharding.update(spec=jax.P(spec[0], *mine[1:]))
    return jax.sharding.reshard(array, sharding)


def _type(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)


def _varying(leaf: Any) -> frozenset[Any]:
    """The axes of a `shard_map` over whose devices the array differs."""
    manual = _type(leaf).manual_axis_type
    return frozenset() if manual is None else manual.varying


def _vary(array: jax.Array, axes: frozenset[Any]) -> jax.Array:
    missing = tuple(sorted(axes - _varying(array)))
    return jax.lax.pcast(array, missing, to="varying") if missing else array


def _spec(leaf: Any) -> tuple[Any, ...]:
    """The Explicit axes that each axis of the array is sharded over; () where none is."""
    sharding = _type(leaf).sharding
    spec = () if sharding is None else tuple(sharding.spec)
    return spec if any(axis is not None for axis in spec) else ()
