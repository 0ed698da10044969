"""What a sampler is.

    block = sampler(key, dimensions, samples, block_size)
    block(k) = points k * block_size to (k + 1) * block_size - 1,    shape (block_size, dimensions)

A sampler is called once, outside the loop over blocks, and does there what all points share; the
function it returns is called inside, with the number of a block, and no array of all points ever
exists. Point i is the same whatever the size of the blocks. Points are in (0, 1): never at an end,
where an inverse distribution function is infinite.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks

Block = Callable[[jax.Array], jax.Array]
Sampler = Callable[[jax.Array, int, int, int], Block]


def points(sampler: Sampler, key: Any, dimensions: int, samples: int) -> jax.Array:
    """All points of a design at once, as an array: for a look at them, or a model outside JAX.

    Args:
        sampler: `jaxplain.qmc.sobol` or another sampler.
        key: a typed key.
        dimensions: the number of columns, at least 1.
        samples: the number of rows, at least 1.

    Returns:
        Shape (samples, dimensions), float32 (float64 under `jax.enable_x64`), each within (0, 1).

    Raises:
        TypeError: sampler is not a function; the key is not typed; a number is not an integer.
        ValueError: a number is below 1, or beyond what the sampler has.

    Example:
        >>> import jax
        >>> from jaxplain import qmc
        >>> array = qmc.points(qmc.sobol, jax.random.key(0), dimensions=2, samples=8)
        >>> array.shape, sorted((8 * array[:, 0]).astype(int).tolist())  # one in each eighth
        ((8, 2), [0, 1, 2, 3, 4, 5, 6, 7])

    References:
        docs/architecture.md, "Samplers".
    """
    checks.function(sampler, "sampler")
    samples = checks.integer(samples, "samples")
    checks.key(key)
    return _points(key, sampler, checks.integer(dimensions, "dimensions"), samples)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _points(key: Any, sampler: Sampler, dimensions: int, samples: int) -> jax.Array:
    # A block of a power of two, which the Sobol' sequence asks for; the rest is cut off.
    size = 1 << (samples - 1).bit_length()
    return sampler(key, dimensions, samples, size)(jnp.int32(0))[:samples]


def checked(
    key: Any, dimensions: int, samples: int, block_size: int
) -> tuple[jax.Array, int, int, int]:
    """The arguments of a sampler, the key as one of threefry.

    Keys of other implementations may give other numbers under vmap than without, so that points
    would depend on the size of the blocks.
    """
    checks.key(key)
    dimensions = checks.integer(dimensions, "dimensions")
    samples = checks.integer(samples, "samples")
    block_size = checks.integer(block_size, "block_size")
    if samples > 2**32:
        raise ValueError(
            f"samples must be at most 2^32, the indices of 32 bits, but is {samples:,}. Take "
            "several designs with keys of their own, and average."
        )
    words = jax.random.key_data(key)
    threefry = jax.random.wrap_key_data(words[:2], impl="threefry2x32")
    for k in range(2, len(words)):
        threefry = jax.random.fold_in(threefry, words[k])
    return threefry, dimensions, samples, block_size


def fraction(bits: jax.Array) -> jax.Array:
    """Integers of 32 bits as numbers in (0, 1): the middles of 2^23 cells, of 2^32 in float64.

    Of 2^24 cells float32 has no middles above 1/2, and the last would be 1.
    """
    if jnp.result_type(float) == jnp.float64:
        return (bits.astype(jnp.float64) + 0.5) * 2.0**-32
    return (bits >> 9).astype(jnp.float32) * 2.0**-23 + 2.0**-24


def block_number(number: Any) -> jax.Array:
    """The number of a block, uint32."""
    number = jnp.asarray(number)
    if number.shape != () or not jnp.issubdtype(number.dtype, jnp.integer):
        raise TypeError(
            "the number of a block must be one integer, but has shape "
            f"{number.shape} and dtype {number.dtype}. For several blocks: `jax.vmap(block)`."
        )
    return number.astype(jnp.uint32)


def indices(number: Any, block_size: int) -> jax.Array:
    """The indices of the points of a block, uint32."""
    first = block_number(number) * jnp.uint32(block_size)
    return first + jnp.arange(block_size, dtype=jnp.uint32)


def random_bits(key: jax.Array, index: jax.Array, dimensions: int) -> jax.Array:
    """Random bits for each index: shape (indices, dimensions), uint32."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(index)
    return jax.vmap(lambda key: jax.random.bits(key, (dimensions,), jnp.uint32))(keys)
