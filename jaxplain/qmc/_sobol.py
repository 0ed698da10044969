"""Sobol' sequences, made in blocks of a power of two, with three scramblings.

    x_i = XOR over the set bits k of i of v_k           (natural order; v: direction numbers)
    x_i for i = number * 2^m + j:   base_j ^ offset(number),    base_j = XOR over the bits of j

so that inside a loop a coordinate costs one XOR. In Gray order point i is the natural point
i ^ (i >> 1), which is the same formula with v_k ^ v_(k-1) in place of v_k. Scrambling by a random
lower triangular binary matrix acts on the v_k, and the digital shift on the offset: both are free.

The offset is a reduction and not 32 lines, since XLA would copy the lines into the loop over the
numbers of the block (measured: 4 times slower).
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.qmc._direction_numbers import BITS, MOST, direction_numbers
from jaxplain.qmc._sampler import Block, block_number, checked, fraction

SCRAMBLES = ("linear", "owen", "shift", None)
ORDERS = ("natural", "gray")


def sobol(
    key: Any,
    dimensions: int,
    samples: int,
    block_size: int,
    *,
    scramble: str | None = "linear",
    order: str = "natural",
) -> Block:
    """Points of a scrambled Sobol' sequence: a digital net in base 2.

        x_i = L (XOR over the set bits k of i of v_k) ^ shift

    Of the first 2^m points each coordinate has exactly one in each interval of length 2^-m, and the
    first two together one in each box of area 2^-m. Estimates gain most where `samples` is a power
    of two. To set an option use `functools.partial(jaxplain.qmc.sobol, scramble="owen")`.

    Args:
        key: a typed key, of the scrambling. Each key gives an unbiased estimate of any integral.
        dimensions: up to 21,201, those of Joe and Kuo's table.
        samples: the number of points that will be used, up to 2^32.
        block_size: points for each block, a power of two.
        scramble: "linear", a random lower triangular matrix and a digital shift for each dimension
            (what scipy does); "owen", nested uniform scrambling by hashes, which costs some 35
            operations for each number; "shift", the digital shift alone; None, the sequence itself,
            whose first point is the corner.
        order: "natural", or "gray", in which scipy and others number the points: the same points of
            each 2^m, in another order.

    Returns:
        `block(number) -> (block_size, dimensions)`, float32 (float64 under `jax.enable_x64`): the
        points as the middles of cells of 2^-23 (2^-32), so that none is 0 or 1.

    Raises:
        TypeError: the key is not typed, or a number is not an integer.
        ValueError: dimensions is beyond the table, block_size is not a power of two, or an option
            is none of those above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> block = sobol(jax.random.key(0), 2, 8, 4, scramble=None)
        >>> block(jnp.int32(0)).round(4).tolist()
        [[0.0, 0.0], [0.5, 0.5], [0.25, 0.75], [0.75, 0.25]]

    References:
        Sobol', USSR Comput. Math. Math. Phys. 1967; Joe and Kuo, SIAM J. Sci. Comput. 2008 (the
        table new-joe-kuo-6.21201); Matousek, J. Complexity 1998 (linear matrix scrambling); Owen,
        1995 (nested scrambling), by a hash as in Laine and Karras, EGSR 2011, and Burley, J.
        Comput. Graph. Tech. 2020. Deviation: not the hash of Burley, whose flips of neighbouring
        intervals agree too often (80 % of some pairs, not half), but that of Vegdahl, "Building a
        better LK hash", 2021, with a random factor of 32 bits in place of 16.
    """
    key, dimensions, samples, block_size = checked(key, dimensions, samples, block_size)
    if scramble not in SCRAMBLES:
        raise ValueError(f"scramble must be one of {SCRAMBLES}, but is {scramble!r}.")
    if order not in ORDERS:
        raise ValueError(f"order must be one of {ORDERS}, but is {order!r}.")
    if dimensions > MOST:
        raise ValueError(
            f"the Sobol' table has {MOST:,} dimensions, but {dimensions:,} are asked for (a "
            "sensitivity design takes two for each factor). Use `jaxplain.qmc.latin_hypercube` or "
            "`jaxplain.qmc.monte_carlo`, or let fewer inputs vary."
        )
    if block_size & (block_size - 1):
        raise ValueError(f"block_size must be a power of two, but is {block_size}.")

    v = jnp.asarray(direction_numbers(dimensions))
    for_matrix, for_shift, for_owen = jax.random.split(key, 3)
    if scramble == "linear":
        v = _times_lower_triangular(for_matrix, v)
    if order == "gray":
        v = v ^ jnp.concatenate([jnp.zeros_like(v[:1]), v[:-1]])
    if scramble == "owen":
        v = _reversed(v)  # here, and not each point
    shift = jnp.zeros((dimensions,), jnp.uint32)
    if scramble in ("linear", "shift"):
        shift = jax.random.bits(for_shift, (dimensions,), jnp.uint32)
    seeds = jax.random.bits(for_owen, (3, dimensions), jnp.uint32)

    bits = block_size.bit_length() - 1
    low = bits // 2  # the base block is the XOR of two small ones, and is not stored
    inner = _xor_of(jnp.arange(2**low, dtype=jnp.uint32), v[:low])
    outer = _xor_of(jnp.arange(2 ** (bits - low), dtype=jnp.uint32), v[low:bits])

    def block(number: jax.Array) -> jax.Array:
        offset = _xor_of(block_number(number)[None], v[bits:]) ^ shift[None, :]
        point = ((outer ^ offset)[:, None] ^ inner[None, :]).reshape(block_size, dimensions)
        return fraction(_owen(point, seeds) if scramble == "owen" else point)

    return block


def _xor_of(index: jax.Array, v: jax.Array) -> jax.Array:
    """Shape (indices, dimensions): for each index the XOR of the v_k of its set bits."""
    bits = (index[:, None] >> jnp.arange(len(v), dtype=jnp.uint32)[None, :]) & 1
    masks = jnp.uint32(0) - bits  # all bits, or none
    return jax.lax.reduce_xor(masks[:, :, None] & v[None, :, :], axes=(1,))


def _times_lower_triangular(key: jax.Array, v: jax.Array) -> jax.Array:
    """L v_k for each dimension's random L, the highest bit first, with ones on its diagonal."""
    one = jnp.uint32(1) << jnp.arange(BITS, dtype=jnp.uint32)[:, None]
    columns = one | (jax.random.bits(key, (BITS, v.shape[1]), jnp.uint32) & (one - 1))
    masks = jnp.uint32(0) - (
        (v[:, None, :] >> jnp.arange(BITS, dtype=jnp.uint32)[None, :, None]) & 1
    )
    return jax.lax.reduce_xor(masks & columns[None, :, :], axes=(1,))


def _owen(x: jax.Array, seeds: jax.Array) -> jax.Array:
    """Nested uniform scrambling: flips each bit by a hash of those above it, in x those below."""
    term, factor, shift = seeds[:, None, :]
    # An odd factor, a term, a XOR with an even multiple: by each, bits move to the left only.
    x = x ^ (x * jnp.uint32(0x3D20ADEA))
    x = (x + term) * (factor | 1)
    x = x ^ (x * jnp.uint32(0x05526C56))
    x = x ^ (x * jnp.uint32(0x53A22864))
    return _reversed(x) ^ shift


def _reversed(x: jax.Array) -> jax.Array:
    """The bits of each number in the opposite order."""
    for width, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        x = ((x >> width) & jnp.uint32(mask)) | ((x & jnp.uint32(mask)) << width)
    return (x >> 16) | (x << 16)
