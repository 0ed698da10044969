"""Latin hypercube samples: in each dimension exactly one point in each of N equal intervals.

    x_ij = (pi_j(i) + u_ij) / N,    pi_j a random permutation of 0, ..., N - 1

pi_j is computed from i (`_permutation`), so that no array of N numbers is held.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.qmc._permutation import permutation, permute
from jaxplain.qmc._sampler import Block, checked, fraction, indices, random_bits


def latin_hypercube(key: Any, dimensions: int, samples: int, block_size: int) -> Block:
    """Latin hypercube samples: each coordinate stratified by itself, at random between them.

        x_ij = (pi_j(i) + u_ij) / samples

    The error of a mean is that of Monte Carlo for what of the function is not additive. Any number
    of dimensions. The design is one whole: fewer points than `samples` are not one.

    Args:
        key: a typed key.
        dimensions: at least 1.
        samples: the number of points of the design, up to 2^31.
        block_size: points for each block; any.

    Returns:
        `block(number) -> (block_size, dimensions)`, float32 (float64 under `jax.enable_x64`),
        within (0, 1). Points beyond `samples`, in the last block, repeat others. In float32 there
        are no numbers between those of 2^22 intervals: beyond, points are their middles, rounded.

    Raises:
        TypeError: the key is not typed, or a number is not an integer.
        ValueError: a number is below 1, or samples above 2^31.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> block = latin_hypercube(jax.random.key(0), dimensions=2, samples=5, block_size=5)
        >>> sorted((5 * block(jnp.int32(0))[:, 0]).astype(int).tolist())
        [0, 1, 2, 3, 4]

    References:
        McKay, Beckman and Conover, Technometrics 1979. Deviation: the permutations are those of
        twelve rounds of swaps with random numbers (Hoang, Morris and Rogaway 2012), not all
        samples! of them.
    """
    key, dimensions, samples, block_size = checked(key, dimensions, samples, block_size)
    if samples > 2**31:
        raise ValueError(f"a latin_hypercube has at most 2^31 points, but samples is {samples:,}.")
    for_permutation, for_places = jax.random.split(key)
    shuffle = permutation(for_permutation, np.full(dimensions, samples))
    dtype = jnp.result_type(float)
    # As far from the ends of its interval as rounding may move a point: it stays within.
    gap = min(samples * float(jnp.finfo(dtype).eps), 0.5)

    def block(number: jax.Array) -> jax.Array:
        index = indices(number, block_size) % jnp.uint32(samples)
        column = lambda shuffle: permute(shuffle, index, jnp.uint32(samples))
        place = jax.vmap(column, out_axes=1)(shuffle).astype(dtype)
        inside = fraction(random_bits(for_places, index, dimensions))
        x = (place + (gap + (1 - 2 * gap) * inside)) / float(samples)
        return jnp.minimum(x, 1 - jnp.finfo(dtype).epsneg)

    return block
