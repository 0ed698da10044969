"""Halton sequences, scrambled: the digits of the index in a prime base, mirrored at the point.

    i = sum_t a_t b^t,    x_i = sum_t pi_t(a_t) b^-(t + 1),    pi_t a permutation of 0, ..., b - 1

with b the j-th prime for dimension j. All digits beyond those of the largest index are the same for
all points: they are one random number below the last digit's place.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import trees
from jaxplain.qmc._permutation import permutation, permute
from jaxplain.qmc._sampler import Block, checked, indices

MOST = 6_542  # the primes below 2^16, whose squares fit into 32 bits


def halton(
    key: Any, dimensions: int, samples: int, block_size: int, *, scramble: bool = True
) -> Block:
    """Points of a scrambled Halton sequence, for any number of samples.

        x_i = sum_t pi_t(a_t) b^-(t + 1),    a_t the digits of i in base b

    Without the permutations the columns of large primes rise together for the first few hundred
    points. For powers of two `sobol` is more even and faster.

    Args:
        key: a typed key, of the permutations of the digits.
        dimensions: up to 6,542, the primes below 65,536.
        samples: the number of points that will be used, up to 2^32.
        block_size: points for each block; any.
        scramble: False for the sequence itself, whose first point is the corner. Static.

    Returns:
        `block(number) -> (block_size, dimensions)`, float32 (float64 under `jax.enable_x64`),
        within (0, 1).

    Raises:
        TypeError: the key is not typed, or a number is not an integer.
        ValueError: a number is below 1, or there are not as many primes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> block = halton(jax.random.key(0), 2, 4, 4, scramble=False)
        >>> block(jnp.int32(0)).round(3).tolist()
        [[0.0, 0.0], [0.5, 0.333], [0.25, 0.667], [0.75, 0.111]]

    References:
        Halton, Numer. Math. 1960; Owen, arXiv:1706.02808 (2017), for a
        random permutation of each digit of each dimension.
    """
    dimensions, samples, block_size = checked(key, dimensions, samples, block_size)
    if dimensions > MOST:
        raise ValueError(
            f"halton has {MOST:,} dimensions, but {dimensions:,} are asked for. Use "
            "`jaxplain.qmc.sobol` (21,201), `latin_hypercube` or `monte_carlo`."
        )
    primes = _primes(dimensions)
    digits = 1
    while 2**digits < samples:
        digits += 1
    places = primes.astype(np.float64) ** -np.arange(1, digits + 1)[:, None]  # (digits, d)
    # A base of more than 2 needs fewer digits: up to the first place that no index reaches.
    needed = places > 1 / (float(samples) * primes)
    places, last = np.where(needed, places, 0), np.min(np.where(needed, places, 1), axis=0)

    for_digits, for_rest = jax.random.split(key)
    b = jnp.asarray(primes, jnp.uint32)
    shuffles = permutation(for_digits, (digits, dimensions))
    shuffles = jax.tree.map(lambda numbers: jnp.swapaxes(numbers, 0, 1), shuffles)  # digits first
    dtype = jnp.result_type(float)
    rest = jnp.zeros(dimensions, dtype)
    if scramble:
        rest = jax.random.uniform(for_rest, (dimensions,), dtype) * jnp.asarray(last, dtype)
    tiny = jnp.finfo(dtype).epsneg / 2

    def block(number: jax.Array) -> jax.Array:
        index = jnp.broadcast_to(indices(number, block_size)[:, None], (block_size, dimensions))

        def add_digit(state: Any, step: Any) -> Any:
            left, x = state
            shuffle, place = step
            digit = permute(shuffle, left % b, primes) if scramble else left % b
            return (left // b, x + digit.astype(dtype) * place), None

        start = index, jnp.broadcast_to(rest, (block_size, dimensions))
        start = trees.place_like(start, (shuffles.factors, shuffles.factors) if scramble else start)
        steps = shuffles, jnp.asarray(places, dtype)
        (_, x), _ = jax.lax.scan(add_digit, start, steps)
        return jnp.clip(x, tiny, 1 - jnp.finfo(dtype).epsneg)

    return block


def _primes(count: int) -> np.ndarray:
    sieve = np.ones(2**16, bool)
    sieve[:2] = False
    for number in range(2, 2**8):
        if sieve[number]:
            sieve[number * number :: number] = False
    return np.flatnonzero(sieve)[:count]
