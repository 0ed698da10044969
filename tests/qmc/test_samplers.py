"""What every sampler keeps: blocks, keys, types, transformations and messages.

Tests with random numbers have fixed keys, so that they pass always or never; the false-alarm rates
said are those of another choice of keys.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxplain import qmc
from jaxplain.qmc._sampler import fraction

from .conftest import RANDOM, SAMPLERS, SOBOL, from_blocks, one_block, over_keys

KEY = jax.random.key(5)
ALL = pytest.mark.parametrize("name", SAMPLERS)


@ALL
@pytest.mark.parametrize(("samples", "dimensions"), [(1, 1), (37, 2)])
def test_points_do_not_depend_on_the_size_of_the_blocks(name, samples, dimensions):
    sampler = SAMPLERS[name]
    whole = np.asarray(qmc.points(sampler, KEY, dimensions, samples))
    assert whole.shape == (samples, dimensions)
    assert whole.dtype == np.float32
    assert whole.min() > 0
    assert whole.max() < 1
    # Blocks of one point, some that leave a remainder, and one beyond all points.
    for block_size in (1, 16, 64) if name in SOBOL else (1, 10, 40):
        blocks = from_blocks(sampler, KEY, dimensions, samples, block_size)
        np.testing.assert_array_equal(blocks, whole)


@pytest.mark.parametrize("number", [3, np.int64(3), jnp.int32(3), jnp.uint32(3), np.uint8(3)])
@pytest.mark.parametrize("name", ["sobol, linear, natural", "halton", "monte_carlo"])
def test_numbers_of_blocks(name, number):
    block = one_block(SAMPLERS[name], KEY, 2, 32, 8, number)
    np.testing.assert_array_equal(block, qmc.points(SAMPLERS[name], KEY, 2, 32)[24:])


@pytest.mark.parametrize("number", [2**16 - 1, 2**24 - 1])
@pytest.mark.parametrize("name", ["sobol, linear, gray", "monte_carlo", "halton"])
def test_blocks_far_out(name, number):
    """The last block of 2^32 points is the one that the index says, in blocks of another size."""
    larger = one_block(SAMPLERS[name], KEY, 2, 2**32, 64, number)
    smaller = one_block(SAMPLERS[name], KEY, 2, 2**32, 16, 4 * number + 1)
    np.testing.assert_array_equal(larger[16:32], smaller)


def test_the_last_indices_of_32_bits_do_not_wrap():
    sampler = SAMPLERS["sobol, None, natural"]
    last = one_block(sampler, KEY, 2, 2**32, 4, 2**30 - 1).astype(np.float64)
    # The index with all bits set: the first coordinate mirrors it.
    np.testing.assert_array_equal(last[3, 0], 1 - 2.0**-24)
    np.testing.assert_array_equal(last[0, 0], 0.25 - 2.0**-24)


@ALL
def test_float64(name, x64):
    whole = qmc.points(SAMPLERS[name], KEY, 3, 32)
    assert whole.dtype == jnp.float64
    assert whole.min() > 0
    assert whole.max() < 1
    # More than 23 bits, but for the sequences themselves.
    assert np.any(np.asarray(whole) * 2.0**24 % 1 != 0) or "None" in name
    np.testing.assert_array_equal(from_blocks(SAMPLERS[name], KEY, 3, 32, 8), whole)


@ALL
def test_vmap_over_keys_and_blocks(name):
    keys = jax.random.split(KEY, 3)
    design = lambda key: jax.vmap(SAMPLERS[name](key, 2, 16, 4))(jnp.arange(4)).reshape(16, 2)
    together = jax.jit(jax.vmap(design))(keys)
    for k in range(3):
        np.testing.assert_array_equal(together[k], qmc.points(SAMPLERS[name], keys[k], 2, 16))


@ALL
def test_inside_shard_map(name):
    """Each device makes blocks of its own; in the second program each has a key of its own."""
    mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    over_devices = functools.partial(jax.shard_map, mesh=mesh, out_specs=jax.P("d"))

    @jax.jit
    @functools.partial(over_devices, in_specs=(jax.P(), jax.P("d")))
    def own_blocks(key, number):
        return SAMPLERS[name](key, 3, 64, 8)(number[0])

    whole = qmc.points(SAMPLERS[name], KEY, 3, 64)
    np.testing.assert_array_equal(own_blocks(KEY, jnp.arange(8)), whole)

    @jax.jit
    @functools.partial(over_devices, in_specs=(jax.P("d"),))
    def own_keys(key):
        block = SAMPLERS[name](key[0], 3, 16, 8)
        return jax.lax.scan(lambda state, k: (state, block(k)), 0, jnp.arange(2))[1]

    keys = jax.random.split(KEY, 8)
    each = np.asarray(own_keys(keys)).reshape(8, 16, 3)
    for k in (0, 7):
        np.testing.assert_array_equal(each[k], qmc.points(SAMPLERS[name], keys[k], 3, 16))


@pytest.mark.parametrize("kind", ["rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", ["sobol, linear, natural", "latin_hypercube", "monte_carlo"])
def test_keys_of_other_kinds(name, kind):
    """Under these vmap changes random numbers, and the size of a block would change the points."""
    key = jax.random.key(3, impl=kind)
    whole = qmc.points(SAMPLERS[name], key, 2, 16)
    np.testing.assert_array_equal(from_blocks(SAMPLERS[name], key, 2, 16, 4), whole)
    words = jax.random.key_data(key)
    for k in range(4):  # each of the words of a key counts
        other = jax.random.wrap_key_data(words.at[k].add(1), impl=kind)
        assert not np.array_equal(whole, qmc.points(SAMPLERS[name], other, 2, 16))


def test_a_second_block_traces_nothing():
    block = jax.jit(chex.assert_max_traces(qmc.sobol(KEY, 3, 64, 8), n=1))
    chex.clear_trace_counter()
    block(jnp.int32(0)), block(jnp.int32(7))


@pytest.mark.parametrize("name", RANDOM)
def test_other_keys_other_points(name):
    first, second = (qmc.points(SAMPLERS[name], jax.random.key(k), 2, 64) for k in (0, 1))
    assert np.mean(np.asarray(first) == np.asarray(second)) < 0.05


@pytest.mark.parametrize("name", RANDOM)
def test_each_point_is_uniform_over_the_keys(name):
    """So that each key gives an unbiased estimate. False alarms: 1e-4 for each name and sampler.

    The first, a middle and the last point of a design that is no power of two, over 2,000 keys:
    Kolmogorov-Smirnov for each, and the two dimensions of a point against each other.
    """
    x = over_keys(SAMPLERS[name], 2000, 2, 11)
    tests = [stats.kstest(x[:, i, j], "uniform").pvalue for i in (0, 5, 10) for j in (0, 1)]
    for i in (0, 5, 10):
        cells = np.histogram2d(x[:, i, 0], x[:, i, 1], bins=4, range=[[0, 1], [0, 1]])[0]
        tests.append(stats.chisquare(cells.ravel()).pvalue)
    assert min(tests) > 1e-4 / len(tests)


def test_the_test_above_can_fail():
    x = over_keys(functools.partial(qmc.halton, scramble=False), 2, 2, 11)
    assert stats.kstest(np.repeat(x[:, 5, 0], 1000), "uniform").pvalue < 1e-9


def root_mean_square_error(sampler, samples, keys=32):
    """Of the mean of a product of three smooth functions with the mean 1."""
    x = over_keys(sampler, keys, 3, samples)
    values = np.prod(1 + (x - 0.5) * np.array([1.0, 0.8, 0.6]) + (x**2 - 1 / 3), axis=-1)
    return np.sqrt(np.mean((values.mean(axis=1) - 1) ** 2))


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("sobol, linear, natural", -1.0),
        ("sobol, owen, natural", -1.0),
        ("sobol, shift, gray", -0.8),
        ("halton", -0.7),
    ],
)
def test_errors_fall_faster_than_those_of_monte_carlo(name, slope):
    """By 64 times as many points. Scrambled nets reach N^-3/2 on smooth functions."""
    few, many = (root_mean_square_error(SAMPLERS[name], n) for n in (64, 4096))
    assert np.log(many / few) / np.log(64) < slope
    assert many < root_mean_square_error(qmc.monte_carlo, 4096) / 10


def test_monte_carlo_has_the_error_of_its_variance():
    """Within 45 %: 32 keys give the standard deviation to 13 %, so false alarms are below 1e-3."""
    x = np.random.default_rng(0).random((2**18, 3))
    values = np.prod(1 + (x - 0.5) * np.array([1.0, 0.8, 0.6]) + (x**2 - 1 / 3), axis=-1)
    got = root_mean_square_error(qmc.monte_carlo, 1024)
    assert 0.55 < got / (values.std() / 32) < 1.45


def test_latin_hypercube_takes_the_additive_part_away():
    """The product's variance is mostly additive; what is left falls as Monte Carlo does."""
    ours = root_mean_square_error(qmc.latin_hypercube, 1000)
    assert 0.05 < ours / root_mean_square_error(qmc.monte_carlo, 1000) < 0.6


def test_fractions_are_middles_and_never_an_end():
    bits = jnp.array([0, 2**9 - 1, 2**9, 2**31, 2**32 - 1], jnp.uint32)
    expected = np.array([0, 0, 1, 2**22, 2**23 - 1]) * 2.0**-23 + 2.0**-24
    np.testing.assert_array_equal(np.asarray(fraction(bits), np.float64), expected)


def test_fractions_in_double_precision(x64):
    bits = jnp.array([0, 1, 2**32 - 1], jnp.uint32)
    expected = (np.array([0, 1, 2**32 - 1]) + 0.5) / 2**32
    np.testing.assert_array_equal(fraction(bits), expected)


@ALL
def test_messages(name):
    sampler = SAMPLERS[name]
    with pytest.raises(TypeError, match=r"key must be a typed key, `jax.random.key\(seed\)`"):
        sampler(0, 2, 8, 4)
    with pytest.raises(ValueError, match="key must be one key, but has shape"):
        sampler(jax.random.split(KEY, 2), 2, 8, 4)
    with pytest.raises(ValueError, match="dimensions must be at least 1, but is 0"):
        sampler(KEY, 0, 8, 4)
    with pytest.raises(ValueError, match="samples must be at least 1, but is 0"):
        sampler(KEY, 2, 0, 4)
    with pytest.raises(ValueError, match="block_size must be at least 1, but is -4"):
        sampler(KEY, 2, 8, -4)
    with pytest.raises(TypeError, match=r"samples must be a Python integer.* but is a float"):
        sampler(KEY, 2, 8.0, 4)
    with pytest.raises(ValueError, match=r"at most 2\^32.* but is 4,294,967,297"):
        sampler(KEY, 2, 2**32 + 1, 4)
    with pytest.raises(TypeError, match=r"number of a block must be one integer.* float32"):
        one_block(sampler, KEY, 2, 8, 4, jnp.float32(0))
    with pytest.raises(TypeError, match=r"has shape \(2,\).* `jax.vmap\(block\)`"):
        one_block(sampler, KEY, 2, 8, 4, jnp.arange(2))


def test_messages_of_points():
    with pytest.raises(TypeError, match="sampler must be a function, but is a str"):
        qmc.points("sobol", KEY, 2, 8)
    with pytest.raises(ValueError, match="samples must be at least 1, but is 0"):
        qmc.points(qmc.sobol, KEY, 2, 0)
