"""Halton sequences, scrambled: the digits of the index in a prime base, mirrored at the point.

    i = sum_t a_t b^t,    x_i = sum_t pi_t(a_t) b^-(t + 1),    pi_t a permutation of 0, ..., b - 1

with b the j-th prime for dimension j. All digits beyond those of the largest index are the same for
all points: they are one random number below the last digit's place. Dimensions that need the same
number of digits go together: 18 in base 2 and 3 in base 311, for 2^18 points.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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
        Halton, Numer. Math. 1960; Owen, arXiv:1706.02808 (2017), for a random permutation of each
        digit of each dimension. Deviation: the permutations are those of twelve rounds of swaps
        with random numbers (Hoang, Morris and Rogaway 2012), not all b! of them.
    """
    key, dimensions, samples, block_size = checked(key, dimensions, samples, block_size)
    if dimensions > MOST:
        raise ValueError(
            f"halton has {MOST:,} dimensions, but {dimensions:,} are asked for. Use "
            "`jaxplain.qmc.sobol` (21,201), `latin_hypercube` or `monte_carlo`."
        )
    primes = _primes(dimensions)
    # The first t with b^t >= samples: no index has more digits.
    digits = np.zeros(dimensions, int)
    while (more := primes.astype(float) ** digits < samples).any():
        digits += more
    groups = [
        _group(jax.random.fold_in(key, n), primes[digits == n], int(n), scramble)
        for n in np.unique(digits)[::-1]  # of the smallest primes first
    ]

    def block(number: jax.Array) -> jax.Array:
        index = indices(number, block_size)
        x = jnp.concatenate([group(index) for group in groups], axis=1)
        one_ulp = jnp.finfo(x.dtype).epsneg
        return jnp.clip(x, one_ulp / 2, 1 - one_ulp)

    return block


def _group(key: jax.Array, primes: np.ndarray, digits: int, scramble: bool) -> Any:
    """A function of the indices: their points in the dimensions of these primes."""
    dtype = jnp.result_type(float)
    for_digits, for_rest = jax.random.split(key)
    b = jnp.asarray(primes, jnp.uint32)[None, :]
    places = primes.astype(float) ** -np.arange(digits + 1)[:, None, None]
    rest = jax.random.uniform(for_rest, b.shape, dtype) * jnp.asarray(places[-1], dtype)
    each = jax.random.split(for_digits, digits)
    shuffles = jax.vmap(lambda key: permutation(key, b.shape, primes))(each)

    def points(index: jax.Array) -> jax.Array:
        left = jnp.broadcast_to(index[:, None], (len(index), len(primes)))
        x = (left & 0).astype(dtype) + (rest if scramble else 0)

        def add_digit(state: Any, step: Any) -> Any:
            left, x = state
            shuffle, place = step
            above = left // b
            digit = left - above * b
            if scramble:
                digit = permute(shuffle, digit, b)
            return (above, x + digit.astype(dtype) * place), None

        steps = shuffles, jnp.asarray(places[1:], dtype)
        return jax.lax.scan(add_digit, (left, x), steps)[0][1]

    return points


def _primes(count: int) -> np.ndarray:
    sieve = np.ones(2**16, bool)
    sieve[:2] = False
    for number in range(2, 2**8):
        if sieve[number]:
            sieve[number * number :: number] = False
    return np.flatnonzero(sieve)[:count]
