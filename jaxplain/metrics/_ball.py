"""What the bound and the attack of an attribution share: the ball around x, and the map at a point.

    l2:    sum_i delta_i^2 <= epsilon^2        linf:    |delta_i| <= epsilon for each element

The elements of all leaves of x count together.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees

NORMS = ("l2", "linf")


def norm_name(value: Any) -> str:
    """One of the two norms."""
    if value not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(map(repr, NORMS))}, but is {value!r}.")
    return str(value)


def values_of(explain: Callable[..., Any]) -> Callable[..., Any]:
    """The attribution alone, checked when it is traced: `values(x, *args)`."""
    checks.function(explain, "explain")

    def values(x: Any, *args: Any) -> Any:
        result = explain(x, *args)
        if isinstance(result, dict) or not hasattr(result, "values"):
            raise TypeError(
                "explain must return a result with a field `values`, as jaxplain's kernels do, but "
                f"returned a {type(result).__name__}."
            )
        found = result.values
        checks.arrays(found, "the field `values` of what explain returns")
        if not all(jnp.issubdtype(v.dtype, jnp.floating) for v in jax.tree.leaves(found)):
            raise TypeError("the field `values` of what explain returns must be float.")
        return found

    return values


def vary(values: Callable[..., Any], x: Any, *args: Any) -> Any:
    """`x` as varying over the devices of a `shard_map` as the attribution is."""
    return trees.vary_with_output(lambda x, *args: trees.total(values(x, *args)), x, *args)


def differentiated(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """`kernel`, whose message says what to do where `explain` does not pass reverse mode."""

    @functools.wraps(kernel)
    def call(*args: Any) -> Any:
        try:
            return kernel(*args)
        except ValueError as error:
            if "Reverse-mode differentiation does not work" not in str(error):
                raise
            raise ValueError(
                "explain is differentiated, but holds a loop of unknown length, which reverse mode "
                "does not pass: the tolerance form of a path method, for one. Give it `steps=` in "
                "place of `tolerance=`."
            ) from error

    return call


def scale(tree: Any, factor: jax.Array) -> Any:
    """Each leaf times a number, in the dtype of the leaf."""
    return jax.tree.map(lambda leaf: leaf * factor.astype(leaf.dtype), tree)


def dot(left: Any, right: Any) -> jax.Array:
    """The inner product of two trees."""
    return trees.total(trees.multiply(left, right))


def elements(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def draw(sample: Callable[..., jax.Array], key: jax.Array, like: Any) -> Any:
    """A tree like `like` (of wide leaves) with `sample(key, shape, dtype)` in each leaf."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, max(len(leaves), 1))
    drawn = [
        trees.place_like(sample(keys[number], leaf.shape, leaf.dtype), leaf)
        for number, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


def largest(tree: Any) -> jax.Array:
    """The largest magnitude of all elements."""
    sizes = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    dtype = trees.widest(*(size.dtype for size in sizes))
    return functools.reduce(jnp.maximum, (size.astype(dtype) for size in sizes))


def reciprocal(number: jax.Array) -> jax.Array:
    """1 / number; 0 for 0, with a derivative that is finite."""
    is_zero = number == 0
    return jnp.where(is_zero, 0, 1 / jnp.where(is_zero, 1, number))
