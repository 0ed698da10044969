"""Halton sequences against scipy, and what the permutations of the digits must and must not do."""

import functools

import jax
import numpy as np
import pytest
from scipy.stats import qmc as scipy_qmc

from jaxplain import qmc
from jaxplain.qmc._halton import _primes

from .conftest import from_blocks, over_keys

KEY = jax.random.key(7)
UNSCRAMBLED = functools.partial(qmc.halton, scramble=False)


@pytest.mark.parametrize(("dimensions", "samples"), [(1, 1), (3, 1000), (40, 500), (6542, 3)])
def test_the_sequence_is_that_of_scipy(dimensions, samples, x64):
    reference = scipy_qmc.Halton(dimensions, scramble=False).random(samples)
    ours = from_blocks(UNSCRAMBLED, KEY, dimensions, samples, 77)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-14)


def test_the_sequence_in_single_precision():
    reference = scipy_qmc.Halton(12, scramble=False).random(5000)
    ours = qmc.points(UNSCRAMBLED, KEY, 12, 5000)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=2e-7)


def test_primes():
    primes = _primes(6542)
    assert len(primes) == 6542
    assert primes[-1] == 65_521
    np.testing.assert_array_equal(primes[:8], [2, 3, 5, 7, 11, 13, 17, 19])
    assert all(
        (primes[primes < p] % p).all() and (p % primes[primes < p]).all() for p in primes[-9:]
    )


@pytest.mark.parametrize("samples", [1, 2, 3, 210, 1000])
def test_each_run_of_a_power_of_the_base_is_spread_evenly(samples, x64):
    """Digits are permuted for all points alike: b^k points in a row fill b^k intervals."""
    x = np.asarray(qmc.points(qmc.halton, KEY, 4, samples))
    for j, b in enumerate((2, 3, 5, 7)):
        for cells in b ** np.arange(1, 10):
            for start in range(0, samples - cells + 1, cells):
                inside = np.floor(x[start : start + cells, j] * cells)
                np.testing.assert_array_equal(np.sort(inside), np.arange(cells))


def test_a_permutation_for_each_digit(x64):
    """The first two digits in base 7 are permuted in different ways."""
    x = np.asarray(qmc.points(qmc.halton, KEY, 4, 49))[:, 3]
    first = np.floor(7 * x[:7]).astype(int)
    second = np.floor(49 * x[::7]).astype(int) % 7
    assert sorted(first) == sorted(second) == list(range(7))
    assert list(first) != list(second)


def test_columns_are_uncorrelated():
    """Of large primes, fewer points than the base: what scrambling is for.

    190 pairs of columns, 32 keys, 64 points. For independent permutations the square of a
    correlation has the mean 1/63, here over 6,080 of them to some 2 %; six times as far is a false
    alarm of 1e-9. Each is below 0.68 (6 standard deviations, Student's t) but for 1 in 1e6.
    """
    x = over_keys(qmc.halton, 32, 120, 64)[:, :, 100:]
    above = np.triu_indices(20, 1)
    squares = np.array([np.corrcoef(design.T)[above] ** 2 for design in x])
    assert abs(63 * squares.mean() - 1) < 0.12
    assert squares.max() < 0.68**2
    plain = np.corrcoef(np.asarray(qmc.points(UNSCRAMBLED, KEY, 120, 64))[:, 100:].T)[above]
    assert (plain**2).mean() > 0.5


def test_messages():
    with pytest.raises(ValueError, match=r"halton has 6,542 dimensions, but 6,543.*sobol"):
        qmc.halton(KEY, 6543, 8, 8)
