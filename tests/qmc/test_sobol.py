"""Sobol' sequences against scipy's bits, and the properties of nets under each scrambling."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import qmc as scipy_qmc

from jaxplain import qmc
from jaxplain.qmc._direction_numbers import direction_numbers

from .conftest import SOBOL, from_blocks, one_block, over_keys

KEY = jax.random.key(2)


def as_integers(points, bits=32):
    """In which of 2^bits cells each number is."""
    return np.floor(np.asarray(points, np.float64) * 2.0**bits).astype(np.int64)


@pytest.mark.parametrize(
    ("dimensions", "samples"), [(1, 4096), (2, 4096), (7, 1024), (64, 256), (1111, 16), (21_201, 8)]
)
def test_bits_are_those_of_scipy(dimensions, samples, x64):
    reference = scipy_qmc.Sobol(dimensions, scramble=False, bits=32).random(samples)
    gray = functools.partial(qmc.sobol, scramble=None, order="gray")
    ours = from_blocks(gray, KEY, dimensions, samples, samples // 4)
    np.testing.assert_array_equal(as_integers(ours), as_integers(reference))
    # Gray order: the natural point i ^ (i >> 1) at place i.
    natural = qmc.points(functools.partial(qmc.sobol, scramble=None), KEY, dimensions, samples)
    index = np.arange(samples)
    np.testing.assert_array_equal(as_integers(natural)[index ^ index >> 1], as_integers(reference))


def test_later_points_are_those_of_scipy(x64):
    """By eighteen of the direction numbers; the others are looked at below."""
    reference = scipy_qmc.Sobol(5, scramble=False, bits=32)
    reference.fast_forward(2**18 - 8)
    gray = functools.partial(qmc.sobol, scramble=None, order="gray")
    last = one_block(gray, KEY, 5, 2**18, 8, 2**15 - 1)
    np.testing.assert_array_equal(as_integers(last), as_integers(reference.random(8)))


def test_direction_numbers():
    """All are scipy's; and those of a dimension are linearly independent, so that it is a net."""
    v = direction_numbers(21_201)
    np.testing.assert_array_equal(v.T, scipy_qmc.Sobol(21_201, scramble=False, bits=32)._sv)
    assert v.shape == (32, 21_201)
    assert v.dtype == np.uint32
    # v_k ends in a one at place k: the matrix of a dimension is triangular, with ones.
    places = np.arange(31, -1, -1, dtype=np.uint32)[:, None]
    np.testing.assert_array_equal((v >> places) & 1, np.ones_like(v))
    np.testing.assert_array_equal(v & ((np.uint32(1) << places) - np.uint32(1)), np.zeros_like(v))
    np.testing.assert_array_equal(direction_numbers(77), v[:, :77])
    assert len(np.unique(np.ascontiguousarray(v.T).view([("", np.uint32)] * 32))) == 21_201


@pytest.mark.parametrize("name", SOBOL)
def test_nets(name):
    """Of 2^m points one in each elementary interval, of one dimension and of the first two."""
    design = np.asarray(qmc.points(SOBOL[name], KEY, 6, 1024))
    for m in range(1, 11):
        everywhere = np.arange(2**m)
        # The first 2^m, and the last: every run of them that starts at a multiple is a net.
        for x in (design[: 2**m], design[-(2**m) :]):
            for j in range(6):
                np.testing.assert_array_equal(np.sort(as_integers(x[:, j], m)), everywhere)
            for k in range(m + 1):
                cells = as_integers(x[:, 0], k) * 2 ** (m - k) + as_integers(x[:, 1], m - k)
                np.testing.assert_array_equal(np.sort(cells), everywhere)


@pytest.mark.parametrize("scramble", ["linear", "owen", "shift"])
def test_orders_hold_the_same_points(scramble):
    natural, gray = (
        np.asarray(qmc.points(functools.partial(qmc.sobol, scramble=scramble, order=o), KEY, 4, 64))
        for o in ("natural", "gray")
    )
    index = np.arange(64)
    np.testing.assert_array_equal(natural[index ^ index >> 1], gray)


def test_the_shift_is_one_number_for_each_dimension(x64):
    plain, shifted = (
        as_integers(qmc.points(functools.partial(qmc.sobol, scramble=s), KEY, 5, 32))
        for s in (None, "shift")
    )
    shifts = plain ^ shifted
    np.testing.assert_array_equal(shifts, np.broadcast_to(shifts[0], shifts.shape))
    assert len(np.unique(shifts[0])) == 5


def test_the_linear_scrambling_is_linear_and_triangular(x64):
    """x_i ^ x_0 is linear in the natural point i, and its first bits depend on the first bits."""
    plain, scrambled = (
        as_integers(qmc.points(functools.partial(qmc.sobol, scramble=s), KEY, 3, 256))
        for s in (None, "linear")
    )
    scrambled = scrambled ^ scrambled[0]
    a, b = np.random.default_rng(0).integers(256, size=(2, 100))
    np.testing.assert_array_equal(scrambled[a] ^ scrambled[b], scrambled[a ^ b])
    for j in range(3):
        for bits in (1, 3, 8):
            pairs = set(
                zip(plain[:, j] >> (32 - bits), scrambled[:, j] >> (32 - bits), strict=True)
            )
            assert len(pairs) == 2**bits
    assert not np.array_equal(plain, scrambled)


@pytest.mark.parametrize("scramble", ["linear", "owen"])
def test_bits_of_two_points_are_flipped_independently(scramble):
    """Two points that part at a bit have the bits below it as of two random numbers.

    That is what the variance of a scrambled net rests on. Of 16 points each pair, each of five
    bits below the one where they part: the XOR of the two is 1 for half of 4,000 keys, to 4.9
    standard deviations, false alarms 1e-6 each and below 1e-3 in all. The hash of Burley 2020
    gives 0.2 for some.
    """
    name = f"sobol, {scramble}, natural"
    x = as_integers(over_keys(SOBOL[name], 4000, 1, 16)[:, :, 0], 10)
    for i in range(16):
        for j in range(i):
            differ = x[:, i] ^ x[:, j]
            first = 9 - np.floor(np.log2(differ[0])).astype(int)
            assert (differ >> (9 - first) == 1).all()  # where they part, always the same bit
            for bit in range(first + 1, min(first + 6, 10)):
                ones = (differ >> (9 - bit) & 1).mean()
                assert abs(ones - 0.5) < 4.9 * 0.5 / np.sqrt(4000)


def test_discrepancy_is_that_of_scipy():
    """Centred, 256 points in 4 dimensions, the mean of 10 scramblings: within 20 % of scipy's."""
    reference = np.mean(
        [
            scipy_qmc.discrepancy(scipy_qmc.Sobol(4, scramble=True, rng=k).random(256))
            for k in range(10)
        ]
    )
    for scramble in ("linear", "owen"):
        designs = over_keys(SOBOL[f"sobol, {scramble}, natural"], 10, 4, 256)
        assert 0.8 < np.mean([scipy_qmc.discrepancy(x) for x in designs]) / reference < 1.25
    random = over_keys(qmc.monte_carlo, 10, 4, 256)
    assert np.mean([scipy_qmc.discrepancy(x) for x in random]) / reference > 10


def test_messages():
    with pytest.raises(ValueError, match="block_size must be a power of two, but is 12"):
        qmc.sobol(KEY, 2, 24, 12)
    with pytest.raises(ValueError, match="table has 21,201 dimensions, but 21,202 are asked for"):
        qmc.sobol(KEY, 21_202, 8, 8)
    with pytest.raises(ValueError, match=r"scramble must be one of \('linear', .* but is 'Owen'"):
        qmc.sobol(KEY, 2, 8, 8, scramble="Owen")
    with pytest.raises(ValueError, match=r"order must be one of \('natural', 'gray'\), but is 'g"):
        qmc.sobol(KEY, 2, 8, 8, order="grey")


def test_no_array_of_all_points():
    """In a program over 2^24 points nothing is larger than what a block needs."""

    def mean(key):
        block = qmc.sobol(key, 8, 2**24, 256)
        add = lambda total, k: (total + block(k).sum(), None)
        return jax.lax.scan(add, jnp.float32(0), jnp.arange(2**16))[0]

    memory = jax.jit(mean).lower(KEY).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**20
