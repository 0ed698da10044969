"""Gaps between groups: numpy, scipy's quantiles, all permutations, coverage, empty groups."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxplain import metrics
from jaxplain.metrics._disparity import student_quantile

KEY = jax.random.key(0)


def numpy_gaps(scores, groups, number, level):
    """Means, gaps and the ends of their intervals, group by group, for groups of two and more."""
    parts = [scores[groups == g] for g in range(number)]
    shares = [len(p) / len(scores) for p in parts]
    ends, gaps = [], []
    for g in range(number):
        terms, freedom = [], []
        for h, part in enumerate(parts):
            weight = (1 - shares[h]) if h == g else shares[h]
            terms.append(weight**2 * part.var(ddof=1) / len(part))
            freedom.append(len(part) - 1)
        variance = sum(terms)
        degrees = variance**2 / sum(t**2 / f for t, f in zip(terms, freedom, strict=True))
        quantile = scipy.stats.t.ppf(1 - (1 - level) / 2 / number, degrees)
        gaps.append(parts[g].mean() - scores.mean())
        ends.append(quantile * np.sqrt(variance))
    return np.array(gaps), np.array(ends)


def test_against_numpy(x64):
    random = np.random.default_rng(0)
    groups = np.repeat([0, 1, 2, 3], [3, 5, 12, 20])
    scores = random.normal(size=40) * (1 + groups) + groups
    shuffled = random.permutation(40)
    result = metrics.disparity(
        KEY, scores[shuffled], groups[shuffled], number_of_groups=4, level=0.9, permutations=10
    )
    means = np.array([scores[groups == g].mean() for g in range(4)])
    errors = [scipy.stats.sem(scores[groups == g]) for g in range(4)]
    gaps, half = numpy_gaps(scores, groups, 4, 0.9)
    np.testing.assert_allclose(result.mean, means, rtol=1e-12)
    np.testing.assert_allclose(result.standard_error, errors, rtol=1e-12)
    np.testing.assert_array_equal(result.examples, [3, 5, 12, 20])
    np.testing.assert_allclose(result.overall, scores.mean(), rtol=1e-12)
    np.testing.assert_allclose(result.gap, gaps, rtol=1e-12)
    np.testing.assert_allclose(result.gap_interval.lower, gaps - half, rtol=1e-4)
    np.testing.assert_allclose(result.gap_interval.upper, gaps + half, rtol=1e-4)
    np.testing.assert_allclose(result.largest_gap, np.abs(gaps).max(), rtol=1e-12)
    ends = np.maximum(np.abs(gaps) - half, 0).max(), (np.abs(gaps) + half).max()
    np.testing.assert_allclose(result.largest_gap_interval, ends, rtol=1e-4)
    differences, halves = [], []
    for g, h in itertools.combinations(range(4), 2):
        a, b = scores[groups == g], scores[groups == h]
        welch = scipy.stats.ttest_ind(a, b, equal_var=False)
        interval = welch.confidence_interval(1 - 0.1 / 6)
        differences.append(abs(a.mean() - b.mean()))
        halves.append((interval.high - interval.low) / 2)
    differences, halves = np.array(differences), np.array(halves)
    np.testing.assert_allclose(result.pairwise_gap, differences.mean(), rtol=1e-12)
    ends = np.maximum(differences - halves, 0).mean(), (differences + halves).mean()
    np.testing.assert_allclose(result.pairwise_gap_interval, ends, rtol=1e-4)


def test_chance_against_all_deals():
    """Seven scores in groups of 2, 2 and 3: 210 deals, all of them counted."""
    scores = np.array([0.1, 0.9, 0.3, 0.4, 0.35, 0.8, 0.45], np.float32)
    groups = np.array([0, 0, 1, 1, 2, 2, 2])

    def statistics(order):
        means = [scores[list(order)][groups == g].mean() for g in range(3)]
        pairs = [abs(a - b) for a, b in itertools.combinations(means, 2)]
        return max(abs(m - scores.mean()) for m in means), np.mean(pairs)

    deals = np.array([statistics(order) for order in itertools.permutations(range(7))])
    deal = metrics.disparity(KEY, scores, groups, number_of_groups=3, permutations=4000)
    found = np.array(statistics(range(7)))
    np.testing.assert_allclose([deal.largest_gap, deal.pairwise_gap], found, rtol=1e-6)
    p = (deals >= found - 1e-6).mean(axis=0)
    p_values = np.array([deal.largest_gap_p_value, deal.pairwise_gap_p_value])
    assert np.all(np.abs(p_values - p) < 4 * np.sqrt(p * (1 - p) / 4000) + 1 / 4000)
    by_chance = np.array([deal.largest_gap_by_chance, deal.pairwise_gap_by_chance])
    assert np.all(np.abs(by_chance - deals.mean(axis=0)) < 4 * deals.std(axis=0) / np.sqrt(4000))


def test_of_groups_that_do_not_differ():
    """2,000 data sets with no gap: the largest gap is far from 0, and by chance is as large; one
    p-value in ten is at most 0.1."""
    groups = np.repeat([0, 1, 2, 3], [4, 6, 10, 20])
    keys = jax.random.split(jax.random.key(1), (2, 2000))
    scores = jax.vmap(lambda k: jax.random.exponential(k, (40,)))(keys[0])
    measure = lambda k, s: metrics.disparity(
        k, s, groups, number_of_groups=4, level=0.9, permutations=49, chunk_size=49
    )
    results = jax.jit(jax.vmap(measure))(keys[1], scores)
    bias = results.largest_gap - results.largest_gap_by_chance
    assert float(results.largest_gap.mean()) > 0.3
    assert abs(float(bias.mean())) < 4 * float(bias.std()) / np.sqrt(2000)
    for p in (results.largest_gap_p_value, results.pairwise_gap_p_value):
        assert abs(float((p <= 0.1).mean()) - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 2000)


def test_intervals_hold_the_true_gaps():
    """Normal scores of different means and spreads: coverage of all gaps at once, over 2,000."""
    groups = np.repeat([0, 1, 2, 3], [4, 6, 10, 20])
    means, spreads = np.array([0.0, 1.0, 0.5, 0.2]), np.array([1.0, 0.5, 2.0, 1.0])
    noise = jax.random.normal(jax.random.key(2), (2000, 40))
    scores = jax.vmap(lambda n: jnp.float32(means)[groups] + jnp.float32(spreads)[groups] * n)(
        noise
    )
    measure = lambda s: metrics.disparity(
        KEY, s, groups, number_of_groups=4, level=0.9, permutations=1
    )
    results = jax.jit(jax.vmap(measure))(scores)
    gaps = means - means[groups].mean()
    pairs = np.mean([abs(a - b) for a, b in itertools.combinations(means, 2)])
    inside = lambda interval, true: np.asarray(
        (np.asarray(interval.lower) <= true) & (true <= np.asarray(interval.upper))
    )
    lowest = 0.9 - 4 * np.sqrt(0.9 * 0.1 / 2000)
    together = float(inside(results.gap_interval, gaps).all(axis=1).mean())
    assert lowest < together < 0.99, "of all groups at once, and not by being very wide"
    for interval, true in (
        (results.largest_gap_interval, np.abs(gaps).max()),
        (results.pairwise_gap_interval, pairs),
    ):
        assert float(inside(interval, true).mean()) > lowest


def test_groups_without_examples_and_examples_without_group():
    scores = jnp.array([1.0, 3.0, 10.0, 4.0, 6.0, 99.0, jnp.nan])
    groups = jnp.array([0, 0, 4, 2, 2, -1, 7])
    result = jax.jit(
        lambda g: metrics.disparity(KEY, scores, g, number_of_groups=5, permutations=50)
    )(groups)
    without = metrics.disparity(
        KEY, scores[:5], jnp.array([0, 0, 2, 1, 1]), number_of_groups=3, permutations=50
    )
    np.testing.assert_array_equal(result.mean, [2, np.nan, 5, np.nan, 10])
    np.testing.assert_allclose(result.standard_error, [1, np.nan, 1, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_array_equal(result.examples, [2, 0, 2, 0, 1])
    np.testing.assert_allclose(result.overall, 4.8, rtol=1e-6)
    np.testing.assert_allclose(result.gap, [-2.8, np.nan, 0.2, np.nan, 5.2], rtol=1e-5)
    for name in ("largest_gap", "pairwise_gap", "largest_gap_interval", "pairwise_gap_interval"):
        np.testing.assert_allclose(getattr(result, name), getattr(without, name), rtol=1e-5)
    # The one example of group 4 takes the pooled variance 2, with 2 degrees of freedom.
    parts = np.array([0.8**2 * 2, 0.4**2, 0.4**2])
    degrees = parts.sum() ** 2 / (parts**2 / [2, 1, 1]).sum()
    half = scipy.stats.t.isf(0.05 / 2 / 3, degrees) * np.sqrt(parts.sum())
    np.testing.assert_allclose(result.gap_interval.upper[4], 5.2 + half, rtol=1e-4)
    # Deals stay among those that are in a group: 99 is never dealt.
    assert float(result.largest_gap_by_chance) < 10


def test_what_cannot_be_said_is_nan():
    measure = lambda s, g, n: metrics.disparity(
        KEY, jnp.asarray(s), jnp.asarray(g), number_of_groups=n, permutations=5
    )
    nothing = measure(jnp.zeros(0), jnp.zeros(0, jnp.int32), 2)
    assert np.isnan(nothing.overall)
    assert np.isnan(nothing.largest_gap)
    assert np.isnan(nothing.largest_gap_p_value)
    single = measure([1.0, 2.0, 4.0], [0, 0, 0], 1)
    assert float(single.largest_gap) < 1e-6
    assert np.isnan(single.pairwise_gap)
    assert float(single.largest_gap_p_value) == 1
    ones = measure([1.0, 2.0], [0, 1], 2)
    assert float(ones.largest_gap) == 0.5
    assert np.isnan(ones.largest_gap_interval.upper), "no spread is known at all"
    failed = measure([1.0, jnp.nan, 2.0, 3.0], [0, 0, 1, 1], 2)
    assert np.isnan(failed.mean[0])
    assert np.isnan(failed.largest_gap)
    assert np.isnan(failed.largest_gap_p_value)
    equal = measure([2.0] * 4, [0, 0, 1, 1], 2)
    assert (float(equal.largest_gap), float(equal.largest_gap_p_value)) == (0, 1)


def test_the_quantile_is_scipys():
    degrees = np.array([1, 1.5, 2, 3, 7.3, 29.9, 30, 300, 1e4, 1e6], np.float32)
    for tail, tolerance in ((0.2, 1e-4), (0.05, 1e-4), (0.01, 1e-4), (5e-4, 2e-3)):
        got = student_quantile(jnp.float32(tail), jnp.asarray(degrees))
        np.testing.assert_allclose(got, scipy.stats.t.isf(tail, degrees), rtol=tolerance)
    assert np.isnan(student_quantile(jnp.float32(0.05), jnp.float32(jnp.nan)))


def test_bad_calls():
    scores, groups = jnp.ones(3), jnp.zeros(3, jnp.int32)
    measure = metrics.disparity
    with pytest.raises(TypeError, match="typed key"):
        measure(0, scores, groups, number_of_groups=2)
    with pytest.raises(TypeError, match="scores must be float, but have dtype int32"):
        measure(KEY, groups, groups, number_of_groups=2)
    with pytest.raises(TypeError, match="groups must be integers, but have dtype float32"):
        measure(KEY, scores, scores, number_of_groups=2)
    with pytest.raises(ValueError, match=r"one length, but have shapes \(3,\) and \(2,\)"):
        measure(KEY, scores, groups[:2], number_of_groups=2)
    with pytest.raises(ValueError, match="number_of_groups must be at least 1"):
        measure(KEY, scores, groups, number_of_groups=0)
    with pytest.raises(ValueError, match="permutations must be at least 1"):
        measure(KEY, scores, groups, number_of_groups=2, permutations=0)
    with pytest.raises(ValueError, match=r"level must be at least 0 and at most 1"):
        measure(KEY, scores, groups, number_of_groups=2, level=95)
