"""Independent uniform points: u_i ~ U(0, 1)^d, the random numbers of each made from its index."""

from typing import Any

import jax

from jaxplain.qmc._sampler import Block, checked, fraction, indices, random_bits


def monte_carlo(key: Any, dimensions: int, samples: int, block_size: int) -> Block:
    """Independent uniform points: plain Monte Carlo.

    The error of a mean falls as samples^(-1/2), whatever the dimension, and standard errors from
    the samples themselves are right: under a quasi-random sampler they are too wide.

    Args:
        key: a typed key.
        dimensions: at least 1.
        samples: the number of points that will be used, up to 2^32.
        block_size: points for each block.

    Returns:
        `block(number) -> (block_size, dimensions)`, float32 (float64 under `jax.enable_x64`),
        within (0, 1).

    Raises:
        TypeError: the key is not typed, or a number is not an integer.
        ValueError: a number is below 1, or samples above 2^32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> block = monte_carlo(jax.random.key(0), dimensions=3, samples=100, block_size=50)
        >>> block(jnp.int32(1)).shape
        (50, 3)

    References:
        Owen 2013, "Monte Carlo theory, methods and examples", chapter 2.
    """
    key, dimensions, samples, block_size = checked(key, dimensions, samples, block_size)

    def block(number: jax.Array) -> jax.Array:
        return fraction(random_bits(key, indices(number, block_size), dimensions))

    return block
