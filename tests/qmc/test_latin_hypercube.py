"""The strata of Latin hypercubes, and the permutations that are computed and not stored."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxplain import qmc
from jaxplain.qmc._permutation import permutation, permute

from .conftest import from_blocks, one_block, over_keys

KEY = jax.random.key(9)


@pytest.mark.parametrize("samples", [1, 2, 3, 5, 100, 1000, 4097, 3 * 2**15])
def test_one_point_in_each_interval(samples):
    """Of float32 too: the product of 24 bits with 17 is exact in float64."""
    x = from_blocks(qmc.latin_hypercube, KEY, 3, samples, 500).astype(np.float64)
    for column in x.T:
        np.testing.assert_array_equal(np.sort(np.floor(column * samples)), np.arange(samples))


def test_places_within_an_interval_are_uniform():
    """Kolmogorov-Smirnov over 20,000 places, false alarms 1e-4; half a gap is 6e-5 of a place."""
    x = np.asarray(qmc.points(qmc.latin_hypercube, KEY, 20, 1000), np.float64).ravel()
    assert stats.kstest(1000 * x % 1, "uniform").pvalue > 1e-4


def test_points_beyond_the_design_repeat_others():
    block = one_block(qmc.latin_hypercube, KEY, 2, 5, 8, 0)
    np.testing.assert_array_equal(block[5:], block[:3])


def test_columns_are_uncorrelated():
    """Correlations as of random permutations: squares of mean 1/99, over 4,950 to some 2 %."""
    x = over_keys(qmc.latin_hypercube, 1, 100, 100)[0]
    above = np.triu_indices(100, 1)
    squares = np.corrcoef(x.T)[above] ** 2
    assert abs(99 * squares.mean() - 1) < 0.12
    assert squares.max() < 0.55**2  # 6 standard deviations


def test_more_points_than_float32_tells_apart():
    block = jax.jit(lambda k: qmc.latin_hypercube(KEY, 2, 2**31, 1000)(k))
    x = np.concatenate([np.asarray(block(k)) for k in (0, 1000, 2**31 // 1000 - 1)])
    assert x.min() > 0
    assert x.max() < 1
    assert stats.kstest(x.ravel(), "uniform").pvalue > 1e-4


def test_messages():
    with pytest.raises(ValueError, match=r"at most 2\^31 points, but samples is 2,147,483,649"):
        qmc.latin_hypercube(KEY, 2, 2**31 + 1, 8)


# -------------------------------------------------------------------------------- permutations


def permutations(n, number, key=KEY):
    """As many permutations of n, as rows."""
    by = permutation(key, np.full(number, n))
    x = jnp.arange(n, dtype=jnp.uint32)
    return np.asarray(jax.jit(jax.vmap(lambda by: permute(by, x, jnp.uint32(n))))(by)).astype(int)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 17, 100, 1023, 1024, 1025])
def test_permutations(n):
    for row in permutations(n, 5):
        np.testing.assert_array_equal(np.sort(row), np.arange(n))


@pytest.mark.parametrize("n", [2**31, 2**31 - 1, 3 * 2**29, 2**30 + 1])
def test_permutations_of_many_stay_below_and_apart(n):
    x = jnp.concatenate([jnp.arange(10_000), n - 10_000 + jnp.arange(10_000)]).astype(jnp.uint32)
    by = jax.tree.map(lambda leaf: leaf[0], permutation(KEY, np.array([n])))
    y = np.asarray(permute(by, x, jnp.uint32(n)))
    assert y.max() < n
    assert len(np.unique(y)) == 20_000
    assert stats.kstest(y / n, "uniform").pvalue > 1e-4


def test_the_shift_comes_last():
    """So that each number goes to each place equally often, exactly: the rest cannot undo it."""
    by = jax.tree.map(lambda leaf: leaf[0], permutation(KEY, np.array([11])))
    x = jnp.arange(11, dtype=jnp.uint32)
    first = np.asarray(permute(by._replace(shift=jnp.uint32(0)), x, jnp.uint32(11)))
    for shift in range(11):
        shifted = permute(by._replace(shift=jnp.uint32(shift)), x, jnp.uint32(11))
        np.testing.assert_array_equal(shifted, (first + shift) % 11)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_all_permutations_are_equally_likely(n):
    """Chi-square over all n! of 20,000 draws, false alarms 1e-4. Six rounds fail for 4 and 5."""
    codes = permutations(n, 20_000) @ (n ** np.arange(n))
    counts = np.unique(codes, return_counts=True)[1]
    assert len(counts) == math.factorial(n)
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("n", [7, 8, 16])
def test_pairs_are_equally_likely(n):
    """Where two numbers go together, for all pairs: what variances rest on. False alarms 1e-3."""
    x = permutations(n, 20_000)
    pairs = list(itertools.combinations(range(n), 2))
    for i, j in pairs:
        counts = np.bincount(x[:, i] * n + x[:, j], minlength=n * n).reshape(n, n)
        counts = counts[~np.eye(n, dtype=bool)]
        assert stats.chisquare(counts).pvalue > 1e-3 / len(pairs)
