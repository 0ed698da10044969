"""Weights and masks of a chunk, against numpy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import estimates


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_weights_count_how_often_a_sample_is_seen(kind):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((2, 40, 3)) + 5
    times = rng.integers(0, 4, 40)
    x32, y32, w = (jnp.asarray(a, jnp.float32) for a in (x, y, times))
    repeated = np.repeat(x, times, 0), np.repeat(y, times, 0)
    if kind == "moments":
        state = estimates.update(estimates.init_moments(x32[0]), x32, w)
        np.testing.assert_allclose(estimates.variance(state), repeated[0].var(0, ddof=1), rtol=2e-6)
        np.testing.assert_allclose(estimates.mean(state), repeated[0].mean(0), rtol=1e-6)
        assert float(state.count) == times.sum()
    elif kind == "covariance":
        state = estimates.update(estimates.init_covariance(x32[0]), (x32, y32), w)
        exact = np.cov(*repeated, rowvar=False)[:3, 3:].diagonal()
        np.testing.assert_allclose(estimates.covariance(state), exact, rtol=2e-5, atol=1e-6)
    else:
        state = estimates.update(estimates.init_covariance_matrix(x32[0]), x32, w)
        exact = np.cov(repeated[0], rowvar=False)
        np.testing.assert_allclose(estimates.covariance(state), exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_masked_samples_may_be_nan_and_leave_no_trace(kind, assert_states_close):
    x = jnp.asarray(np.random.default_rng(7).standard_normal((10, 2)), jnp.float32)
    mask = jnp.arange(10) % 3 != 0
    poisoned = jnp.where(mask[:, None], x, jnp.full_like(x, jnp.nan))
    initial = {
        "moments": estimates.init_moments,
        "covariance": estimates.init_covariance,
        "matrix": estimates.init_covariance_matrix,
    }[kind](x[0])
    both = (lambda v: (v, 2 * v)) if kind == "covariance" else (lambda v: v)
    masked = estimates.update(initial, both(poisoned), mask)
    kept = estimates.update(initial, both(x[np.asarray(mask)]))
    assert_states_close(masked, kept, 1e-6, 1e-6)
    # a chunk without any sample is neutral, to the bit
    again = estimates.update(masked, both(jnp.full_like(x, jnp.nan)), jnp.zeros(10, bool))
    jax.tree.map(np.testing.assert_array_equal, again, masked)


def test_values_that_are_not_finite_are_seen_in_the_result():
    state = estimates.update(estimates.init_moments(jnp.zeros(2)), jnp.array([[1.0, jnp.nan]] * 3))
    assert np.isnan(estimates.mean(state)).tolist() == [False, True]
    assert np.isnan(estimates.variance(state)).tolist() == [False, True]
