"""Halton sequences, scrambled: the digits of the index in a prime base, mirrored at the point.

    i = sum_t a_t b^t,    x_i = sum_t pi_t(a_t) b^-(t + 1),    pi_t a permutation of 0, ..., b - 1

with b the j-th prime for dimension j. All digits beyond those of the largest index are the same for
all points: they are one random number below the last digit's place. Dimensions that need the same
number of digits go together: 18 in base 2 and 3 in base 311, for 2^18 points.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain.qmc._permutation import Permutation, permutation, permute
from jaxplain.qmc._sampler import Block, checked, indices

MOST = 6_542  # the primes below 2^16, whose squares fit into 32 bits


def halton(
    key: Any, dimensions: int, samples: int, block_size: int, *, scramble: bool = True
) -> Block:
    """Points of a scrambled Halton sequence, for any number of samples.

        x_i = sum_t pi_t(a_t) b^-(t + 1),    a_t the digits of i in base b

    Without the permutations the columns of large primes rise together for the first few hundred
    points. For powers of two `sobol` is more even, and some 100 times faster.

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
        >>> (36 * block(jnp.int32(0))).round().astype(int).tolist()
        [[0, 0], [18, 12], [9, 24], [27, 4]]

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
    dtype = jnp.result_type(float)
    for_digits, for_rest = jax.random.split(key)
    # One for each digit of each dimension, drawn together, which compiles faster.
    shuffles = permutation(for_digits, np.repeat(primes, digits))
    rest = jax.random.uniform(for_rest, (dimensions,), dtype)
    if not scramble:
        rest = jnp.zeros_like(rest)

    groups, start = [], 0
    for count in np.unique(digits)[::-1]:  # of the smallest primes first
        b = primes[digits == count].astype(float)
        stop = start + len(b) * count
        cut = functools.partial(_cut, start=start, stop=stop, shape=(len(b), count))
        groups.append(
            (
                jnp.asarray(b, jnp.uint32),
                jnp.asarray(b[:, None] ** -np.arange(1, count + 1), dtype),
                jax.tree.map(cut, shuffles),
                rest[digits == count] * jnp.asarray(b**-count, dtype),
            )
        )
        start = stop

    def block(number: jax.Array) -> jax.Array:
        index = indices(number, block_size)
        dimension = functools.partial(_dimension, index, scramble)
        # Dimensions are rows here: few of them go together, and the last axis is vectorised.
        rows = [jax.vmap(dimension)(*group) for group in groups]
        one_ulp = jnp.finfo(dtype).epsneg
        return jnp.clip(jnp.concatenate(rows).T, one_ulp / 2, 1 - one_ulp)

    return block


def _dimension(
    index: jax.Array,
    scramble: bool,
    b: jax.Array,
    places: jax.Array,
    shuffles: Permutation,
    rest: jax.Array,
) -> jax.Array:
    """The points of one dimension."""

    def add_digit(state: Any, step: Any) -> Any:
        left, x = state
        place, shuffle = step
        above = left // b
        digit = left - above * b
        if scramble:
            digit = permute(shuffle, digit, b)
        return (above, x + digit.astype(x.dtype) * place), None

    nothing = (index & 0).astype(rest.dtype)
    return jax.lax.scan(add_digit, (index, nothing + rest), (places, shuffles))[0][1]


def _cut(leaf: jax.Array, start: int, stop: int, shape: tuple[int, ...]) -> jax.Array:
    return leaf[start:stop].reshape(*shape, *leaf.shape[1:])


def _primes(count: int) -> np.ndarray:
    sieve = np.ones(2**16, bool)
    sieve[:2] = False
    for number in range(2, 2**8):
        if sieve[number]:
            sieve[number * number :: number] = False
    return np.flatnonzero(sieve)[:count]
