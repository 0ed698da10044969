"""Random permutations that are computed and not stored.

    x <- (x * odd + term) mod 2^w,    x <- x XOR (x >> ceil(w / 2))        some rounds, 2^w >= count

Each round is a permutation of 0, ..., 2^w - 1 with random numbers of its own; an x that comes out
at `count` or above goes through again, until it is below, which makes one of 0, ..., count - 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

ROUNDS = 6


class Permutation(NamedTuple):
    """Random numbers of one permutation for each element of a shape: (ROUNDS, *shape), uint32."""

    factors: jax.Array
    terms: jax.Array


def permutation(key: jax.Array, shape: tuple[int, ...]) -> Permutation:
    """Independent permutations, one for each element of a shape."""
    bits = jax.random.bits(key, (2, ROUNDS, *shape), jnp.uint32)
    return Permutation(bits[0] | 1, bits[1])


def permute(of: Permutation, x: jax.Array, counts: np.ndarray | int) -> jax.Array:
    """`x`, uint32 below the counts, permuted; the counts are known and broadcast against x."""
    counts = np.asarray(counts, np.int64)
    width = np.ceil(np.log2(counts)).astype(np.uint32)
    mask = jnp.asarray((np.uint64(1) << width.astype(np.uint64)) - np.uint64(1), jnp.uint32)
    # A shift by half of the bits, rounded up; of one bit there is no half.
    half = jnp.asarray(np.where(width > 1, (width + 1) // 2, 31), jnp.uint32)
    limit = jnp.asarray(counts, jnp.uint32)
    # Ranks are made equal here, since not everybody lets jax do so.
    spread = lambda array: array.reshape((1,) * (x.ndim - array.ndim) + array.shape)
    mask, half, limit = spread(mask), spread(half), spread(limit)

    def once(x: jax.Array) -> jax.Array:
        for factor, term in zip(of.factors, of.terms, strict=True):
            x = (x * spread(factor) + spread(term)) & mask
            x = x ^ (x >> half)
        return x

    x = once(x)
    if np.all(counts == 1 << width.astype(np.int64)):
        return x
    again = lambda x: jnp.where(x >= limit, once(x), x)
    return jax.lax.while_loop(lambda x: jnp.any(x >= limit), again, x)
