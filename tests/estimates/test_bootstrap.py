"""The bootstrap against drawing the samples in numpy, and by its coverage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxplain import estimates


def plain_mean(values):
    """The slow twin: the samples themselves are drawn and averaged."""
    return jax.tree.map(lambda v: v.mean(0), values)


def medians(values):
    return jnp.median(values, axis=0)


def test_bootstrap_of_the_mean_equals_drawing_the_samples():
    rng = np.random.default_rng(17)
    values = {
        "a": jnp.asarray(rng.standard_normal((50, 2, 3)) + 100, jnp.float32),
        "b": jnp.asarray(rng.exponential(size=50), jnp.float32),
    }
    key = jax.random.key(1)
    fast = estimates.bootstrap_interval(key, values, resamples=300)
    slow = estimates.bootstrap_interval(key, values, resamples=300, statistic=plain_mean)
    for name in values:
        for end in ("lower", "upper"):
            left, right = getattr(fast, end)[name], getattr(slow, end)[name]
            np.testing.assert_allclose(left, right, rtol=3e-7, atol=2e-6)
    # the ends are where the normal distribution puts them, up to their own sampling error
    scale = np.asarray(values["a"], np.float64).std(0) / np.sqrt(50)
    offset = (np.asarray(fast.upper["a"]) - np.asarray(values["a"], np.float64).mean(0)) / scale
    np.testing.assert_allclose(offset, 1.96, atol=4 * np.sqrt(0.025 * 0.975 / 300) / 0.058)


def test_bootstrap_of_a_nonlinear_statistic_against_numpy():
    """The same resamples drawn in numpy, from the same indices."""
    values = np.random.default_rng(18).standard_normal(31).astype(np.float32)
    key = jax.random.key(2)
    r = estimates.bootstrap_interval(key, values, 0.8, 240, medians)
    chosen = jax.vmap(lambda k: jax.random.randint(k, (31,), 0, 31))(jax.random.split(key, 240))
    exact = np.quantile(np.median(values[np.asarray(chosen)], 1), [0.1, 0.9])
    np.testing.assert_allclose([r.lower, r.upper], exact, rtol=1e-6)


def test_chunk_size_changes_the_bootstrap_only_by_rounding():
    values = jnp.asarray(np.random.default_rng(19).standard_normal((40, 3)), jnp.float32)
    small, large = (
        estimates.bootstrap_interval(jax.random.key(3), values, resamples=50, chunk_size=chunk)
        for chunk in (7, 1000)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), small, large)


def test_bootstrap_coverage():
    """The percentile interval is short by sqrt((n - 1) / n): the rate is Student's there.

    The ends of 500 resamples have a sampling error, which costs below half a percent more.
    """
    repetitions, size = 1500, 40
    keys = jax.random.split(jax.random.key(20), (repetitions, 2))
    y = jax.vmap(lambda k: jax.random.normal(k, (size,)))(keys[:, 0]) + 1.0
    r = jax.vmap(lambda k, y: estimates.bootstrap_interval(k, y, resamples=500))(keys[:, 1], y)
    covered = float(jnp.mean((r.lower <= 1) & (r.upper >= 1)))
    reach = 1.96 * np.sqrt((size - 1) / size)
    expected = 1 - 2 * scipy.stats.t.sf(reach, size - 1)
    error = np.sqrt(expected * (1 - expected) / repetitions)
    assert expected - 4 * error - 0.005 < covered < expected + 4 * error


def test_bootstrap_of_no_sample_and_of_one():
    none = estimates.bootstrap_interval(jax.random.key(0), jnp.zeros((0, 2)), resamples=10)
    assert np.isnan(none.lower).tolist() == [True, True]
    assert np.isnan(none.upper).tolist() == [True, True]
    one = estimates.bootstrap_interval(jax.random.key(0), jnp.array([3.0]), resamples=10)
    assert float(one.lower) == float(one.upper) == 3.0


def test_bootstrap_memory_does_not_hold_the_resamples():
    n, d, resamples = 5000, 64, 1000
    lowered = jax.jit(lambda k, v: estimates.bootstrap_interval(k, v, resamples=resamples)).lower(
        jax.random.key(0), jax.ShapeDtypeStruct((n, d), jnp.float32)
    )
    memory = lowered.compile().memory_analysis().temp_size_in_bytes
    # some copies of the values, of chunks of counts and of the results; all resamples are 1.3 GB
    assert memory < 4 * (4 * n * d + 8 * 16 * n + 4 * resamples * d)


def test_bootstrap_in_float64(x64):
    values = np.random.default_rng(21).standard_normal(30) + 1e6
    r = estimates.bootstrap_interval(jax.random.key(4), values, resamples=60)
    chosen = jax.vmap(lambda k: jax.random.randint(k, (30,), 0, 30))(
        jax.random.split(jax.random.key(4), 60)
    )
    exact = np.quantile(values[np.asarray(chosen)].mean(1), [0.025, 0.975])
    np.testing.assert_allclose([r.lower, r.upper], exact, rtol=1e-14)


def test_messages():
    with pytest.raises(TypeError, match="typed key"):
        estimates.bootstrap_interval(jax.random.PRNGKey(0), jnp.zeros(3))
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        estimates.bootstrap_interval(jax.random.key(0), jnp.zeros(3), resamples=0)
    with pytest.raises(TypeError, match=r"statistic, .* must be a function, but is a str"):
        estimates.bootstrap_interval(jax.random.key(0), jnp.zeros(3), statistic="mean")
