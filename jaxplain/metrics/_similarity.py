"""How alike two attributions are: distance, angle, ranks, the largest elements in common."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import trees
from jaxplain.metrics._ball import dot, elements, reciprocal


def cosine(left: Any, right: Any) -> jax.Array:
    """The cosine similarity of two wide trees; NaN where one is zero."""
    lengths = trees.norm(left) * trees.norm(right)
    similarity = dot(left, right).astype(lengths.dtype) * reciprocal(lengths)
    return jnp.where(lengths == 0, jnp.nan, jnp.clip(similarity, -1, 1))


def rank_correlation(left: Any, right: Any) -> jax.Array:
    """Spearman's correlation of all elements of two trees; ties share the mean of their ranks."""

    def ranks(tree: Any) -> jax.Array:
        vector = flat(tree)
        place = jnp.arange(vector.size, dtype=jnp.int32)
        ordered, order = jax.lax.sort((vector, place), num_keys=1)
        # The first and the last place of each run of equals. Sorts and no gathers, which JAX cannot
        # map over a batch on Explicit axes.
        new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
        last = jnp.concatenate([new[1:], jnp.ones(1, bool)])
        first = jax.lax.cummax(jnp.where(new, place, 0))
        final = jax.lax.cummin(jnp.where(last, place, vector.size), reverse=True)
        rank = (first + final).astype(vector.dtype) / 2
        _, rank = jax.lax.sort((order, rank), num_keys=1)
        return jnp.where(jnp.any(jnp.isnan(vector)), jnp.nan, rank - jnp.mean(rank))

    a, b = ranks(left), ranks(right)
    both = jnp.sqrt(jnp.sum(a * a)) * jnp.sqrt(jnp.sum(b * b))
    correlation = jnp.clip(jnp.sum(a * b) * reciprocal(both), -1, 1)
    return jnp.where(both == 0, jnp.nan, correlation)


def top(tree: Any, count: int) -> Any:
    """Where the `count` largest elements of all leaves together are; ties go by position."""
    vector = flat(tree)
    chosen = jnp.argsort(jnp.argsort(-vector)) < count  # NaN ranks last
    leaves, structure = jax.tree.flatten(tree)
    parts = jnp.split(chosen, np.cumsum([leaf.size for leaf in leaves])[:-1])
    shaped = [
        trees.place_like(part.reshape(leaf.shape), leaf)
        for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shaped)


def flat(tree: Any) -> jax.Array:
    """All elements in one vector; on a mesh of Explicit axes a ranking needs them in one place."""
    leaves = [_gathered(leaf) for leaf in jax.tree.leaves(tree)]
    dtype = trees.widest(*(leaf.dtype for leaf in leaves))
    return jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf in leaves])


def _gathered(leaf: jax.Array) -> jax.Array:
    if any(axis is not None for axis in jax.typeof(leaf).sharding.spec):
        return jax.sharding.reshard(leaf, jax.P())
    return leaf


def top_count(top: int | float, tree: Any) -> int:
    """A number of elements (int), or the number that a fraction of them (float) is, at least 1."""
    size = elements(tree)
    count = round(top * size) if isinstance(top, float) else top
    return min(max(count, 1), size)
