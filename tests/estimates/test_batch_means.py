"""Errors of correlated sequences and of quasi-random replicates, by their known variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxplain import estimates


def test_batch_means_by_hand():
    values = np.random.default_rng(13).standard_normal((60, 2)) + 1e3
    r = estimates.batch_means({"v": jnp.asarray(values, jnp.float32)}, 6)
    means = values.astype(np.float32).astype(np.float64).reshape(6, 10, 2).mean(1)
    np.testing.assert_allclose(r.mean["v"], means.mean(0), rtol=1e-7)
    np.testing.assert_allclose(r.standard_error["v"], means.std(0, ddof=1) / np.sqrt(6), rtol=1e-5)


def test_batch_means_know_correlation():
    """AR(1), coefficient 0.8: the variance of the mean is 9 times the naive."""
    chains, length, rho = 2000, 1000, 0.8
    noise = np.random.default_rng(14).standard_normal((length, chains))
    y = np.empty((length, chains))
    y[0] = noise[0]
    for t in range(1, length):
        y[t] = rho * y[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    lags = np.arange(1, length)
    true = (1 + 2 * np.sum((1 - lags / length) * rho**lags)) / length  # variance of the mean
    r = estimates.batch_means(jnp.asarray(y, jnp.float32), 10)
    # batches of 100 are 20 correlation lengths: the squared error is low by about 1 / 20 at most
    ratio = np.asarray(r.standard_error, np.float64) ** 2 / true
    error = ratio.std() / np.sqrt(chains)
    assert 0.9 - 4 * error < ratio.mean() < 1 + 4 * error
    inside = np.abs(np.asarray(r.mean)) <= scipy.stats.t.ppf(0.975, 9) * np.asarray(
        r.standard_error
    )
    assert abs(inside.mean() - 0.95) < 0.01 + 4 * np.sqrt(0.95 * 0.05 / chains)
    naive = y.var(0, ddof=1) / length
    assert naive.mean() / true < 0.15


def test_batch_means_of_independent_scrambles():
    """Replicates of a quasi-random rule as batches: the interval covers at the stated rate."""
    repetitions, replicates, points = 400, 8, 32
    shifts = jax.random.uniform(jax.random.key(15), (repetitions, replicates, 1))
    lattice = (jnp.arange(points) / points)[None, None, :]
    values = jnp.exp((lattice + shifts) % 1.0).reshape(repetitions, replicates * points)
    r = jax.vmap(lambda v: estimates.batch_means(v, replicates))(values)
    interval = jax.vmap(lambda m, s: estimates.student_interval(m, s, replicates - 1))(*r)
    covered = (interval.lower <= np.e - 1) & (interval.upper >= np.e - 1)
    assert abs(float(covered.mean()) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / repetitions)
    # a shifted lattice of n points is off by (f(1) - f(0)) / n times a uniform of variance 1 / 12
    true = (np.e - 1) ** 2 / 12 / points**2 / replicates
    spread = np.sqrt(2 / (replicates - 1) / repetitions)
    assert abs(float(jnp.mean(r.standard_error**2)) / true - 1) < 4 * spread


def test_messages():
    with pytest.raises(ValueError, match=r"do not divide 10 samples\. Leave out the first 1"):
        estimates.batch_means(jnp.zeros(10), 3)
    with pytest.raises(ValueError, match="batches must be at least 2, but is 1"):
        estimates.batch_means(jnp.zeros(10), 1)
