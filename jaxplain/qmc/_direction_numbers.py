"""The direction numbers of Sobol' sequences, made on the host from Joe and Kuo's table.

Dimension j has a primitive polynomial x^s + a_1 x^(s-1) + ... + a_(s-1) x + 1 and odd initial
numbers m_1, ..., m_s with m_k < 2^k. As binary fractions v_k = m_k / 2^k they go on by

    v_k = a_1 v_(k-1) ^ ... ^ a_(s-1) v_(k-s+1) ^ v_(k-s) ^ (v_(k-s) >> s)

`joe_kuo.npz` holds, for dimensions 2 to 21,201, the polynomials as integers and the bits of the
(m_k - 1) / 2 one after the other, lowest first: k - 1 of them for m_k.
"""

import functools
import importlib.resources

import numpy as np

BITS = 32
MOST = 21_201


@functools.lru_cache(maxsize=4)
def direction_numbers(dimensions: int) -> np.ndarray:
    """Shape (32, dimensions), uint32: `v[k, j]` is what bit k of the index adds to dimension j."""
    polynomials, bits = _table()
    v = np.empty((BITS, dimensions), np.uint32)
    v[:, 0] = np.uint32(1) << np.arange(BITS - 1, -1, -1, dtype=np.uint32)
    at_dimension, at_bit = 1, 0
    # The table is in the order of the degrees, and dimensions of one degree go together.
    degrees = np.frexp(polynomials.astype(np.float64))[1] - 1
    for s in range(1, int(degrees[-1]) + 1):
        members = int(np.sum(degrees == s))
        count = min(members, dimensions - at_dimension)
        if count <= 0:
            break
        each = s * (s - 1) // 2
        here = slice(at_dimension, at_dimension + count)
        polynomial = polynomials[at_dimension - 1 : at_dimension - 1 + count]
        own_bits = bits[at_bit : at_bit + count * each].reshape(count, each).astype(np.uint32)
        place = 0
        for k in range(s):
            powers = np.uint32(1) << np.arange(k, dtype=np.uint32)
            half = own_bits[:, place : place + k] @ powers if k else np.zeros(count, np.uint32)
            v[k, here] = (2 * half.astype(np.uint32) + 1) << np.uint32(BITS - 1 - k)
            place += k
        for k in range(s, BITS):
            new = v[k - s, here] ^ (v[k - s, here] >> np.uint32(s))
            for i in range(1, s):
                has_term = (polynomial >> np.uint32(s - i)) & np.uint32(1)
                new ^= has_term * v[k - i, here]
            v[k, here] = new
        at_dimension, at_bit = at_dimension + members, at_bit + members * each
    v.flags.writeable = False
    return v


@functools.cache
def _table() -> tuple[np.ndarray, np.ndarray]:
    file = importlib.resources.files("jaxplain.qmc") / "joe_kuo.npz"
    with file.open("rb") as stream, np.load(stream) as table:
        return table["polynomials"], np.unpackbits(table["initial"])
