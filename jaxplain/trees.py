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
    "multiply",
    "norm",
    "subtract",
    "total",
    "wide_dtype",
    "widen",
    "widest",
]


def wide_dtype(dtype: Any) -> Any:
    """The dtype to accumulate in: float32, or the dtype itself where it is wider."""
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
    """The Euclidean norm of all elements of all leaves together."""
    return jnp.sqrt(total(jax.tree.map(jnp.square, widen(tree))))


def finite(*trees: Any) -> jax.Array:
    """Whether every element of every leaf is a number: neither NaN nor infinite."""
    flags = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(trees)]
    return functools.reduce(jnp.logical_and, flags)
