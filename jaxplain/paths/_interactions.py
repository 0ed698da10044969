"""What Integrated and Expected Hessians share: the integrand of a row, and a matrix made of rows.

With H symmetric, the sum over i of w_i times row i is one Hessian-vector product at each point:

    sum_i w_i H_ij(s) = D_j [ s (Hess f(p) (w * D))_j + w_j df/dx_j(p) ],   p = b + s D
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import trees
from jaxplain.evaluate import walk


def integrand(
    f: Callable[..., jax.Array], s: jax.Array, point: Any, direction: Any, velocity: Any, *args: Any
) -> tuple[Any, Any]:
    """The bracket above, and the gradient; both wide trees like x. Forward over reverse."""
    tangent = trees.cast_like(trees.multiply(direction, velocity), point)
    gradient, product = jax.jvp(lambda z: jax.grad(f)(z, *args), (point,), (tangent,))
    gradient, product = trees.widen((gradient, product))
    bracket = jax.tree.map(
        lambda h, g, w: s.astype(h.dtype) * h + w * g, product, gradient, direction
    )
    return bracket, gradient


def rows(row: Callable[[Any], Any], x: Any, chunk_size: int) -> Any:
    """`row(direction)` for each element of x as direction, stacked in the order of the leaves.

    Rows of one chunk share the points of their loop, and so what does not depend on the direction.
    """
    leaves, structure = jax.tree.flatten(x)

    def one(index: jax.Array) -> Any:
        start, parts = 0, []
        for leaf in leaves:
            places = jnp.arange(start, start + leaf.size, dtype=jnp.int32).reshape(leaf.shape)
            start += leaf.size
            parts.append((places == index).astype(leaf.dtype))
        return row(trees.place_like(jax.tree.unflatten(structure, parts), x))

    count = sum(leaf.size for leaf in leaves)
    some = lambda start, size: jax.vmap(one)(start + jnp.arange(size, dtype=jnp.int32))
    if count <= chunk_size:
        return some(0, count)
    full, rest = divmod(count, chunk_size)
    # Not `stack`: a row may be sharded, and what it would be written into is not.
    _, chunks = walk((), lambda _, k: ((), some(k * chunk_size, chunk_size)), full)
    stacked = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), chunks)
    if not rest:
        return stacked
    join = lambda a, b: jnp.concatenate([a, b])
    return jax.tree.map(join, stacked, some(full * chunk_size, rest))


def unstack(array: jax.Array, x: Any) -> Any:
    """A leading axis over all elements of x, as a tree of arrays like x, with what followed it."""
    leaves, structure = jax.tree.flatten(x)
    start, parts = 0, []
    for leaf in leaves:
        part = array[start : start + leaf.size]
        parts.append(part.reshape(*leaf.shape, *array.shape[1:]))
        start += leaf.size
    return jax.tree.unflatten(structure, parts)


def pairs(stacked: Any, x: Any) -> Any:
    """Stacked rows as a tree like x of trees like x, in the layout of `jax.hessian`."""
    outer: Any = jax.tree.structure(x)
    inner: Any = jax.tree.structure(stacked)
    return jax.tree.transpose(inner, outer, jax.tree.map(lambda leaf: unstack(leaf, x), stacked))
