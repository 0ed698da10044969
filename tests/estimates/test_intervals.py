"""Intervals against scipy, and by their coverage over fixed seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxplain import estimates


def test_normal_interval_against_scipy():
    m, s = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    for level in (0.5, 0.95, 1 - 1e-9):
        r = estimates.normal_interval(m, s, level)
        lower, upper = scipy.stats.norm.interval(level, np.asarray(m), np.asarray(s))
        np.testing.assert_allclose(r.lower, lower, rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(r.upper, upper, rtol=2e-6, atol=1e-6)
    traced = jax.jit(estimates.normal_interval)(m, s, jnp.float32(0.95))
    np.testing.assert_allclose(traced.upper, estimates.normal_interval(m, s).upper, rtol=1e-5)
    assert np.isnan(estimates.normal_interval(jnp.zeros(()), jnp.float32(jnp.nan)).lower)


def test_intervals_in_float64_and_bfloat16(x64):
    r = estimates.normal_interval(jnp.zeros(()), jnp.ones(()), 0.9)
    np.testing.assert_allclose(r.upper, scipy.special.ndtri(0.95), rtol=1e-14)
    narrow = estimates.normal_interval(jnp.bfloat16(1), jnp.bfloat16(0.25))
    assert narrow.lower.dtype == jnp.bfloat16
    assert abs(float(narrow.lower) - 0.51) < 0.004


def test_student_interval_against_scipy():
    m, s = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    r = estimates.student_interval({"a": m}, {"a": s}, 4, level=0.9)
    lower, upper = scipy.stats.t.interval(0.9, 4, np.asarray(m), np.asarray(s))
    np.testing.assert_allclose(r.lower["a"], lower, rtol=1e-6)
    np.testing.assert_allclose(r.upper["a"], upper, rtol=1e-6)


@pytest.mark.parametrize(("kind", "size"), [("normal", 400), ("student", 5)])
def test_coverage_of_a_mean(kind, size):
    """False alarms: 4 binomial standard errors, about 1 in 16,000."""
    repetitions, level = 4000, 0.9
    y = jax.random.normal(jax.random.key(16), (repetitions, size)) + 1.0

    def interval(y):
        state = estimates.update(estimates.init_moments(y[0]), y)
        m, s = estimates.mean(state), estimates.standard_error(state)
        if kind == "student":
            return estimates.student_interval(m, s, size - 1, level)
        return estimates.normal_interval(m, s, level)

    r = jax.jit(jax.vmap(interval))(y)
    covered = float(jnp.mean((r.lower <= 1) & (r.upper >= 1)))
    assert abs(covered - level) < 4 * np.sqrt(level * (1 - level) / repetitions)


def test_messages():
    with pytest.raises(ValueError, match="between 0 and 1"):
        estimates.normal_interval(0.0, 1.0, level=95)
    with pytest.raises(TypeError, match="many samples use normal_interval"):
        estimates.student_interval(0.0, 1.0, jnp.float32(3))
    with pytest.raises(ValueError, match="must be positive"):
        estimates.student_interval(0.0, 1.0, 0)
    with pytest.raises(ValueError, match="must agree"):
        estimates.normal_interval(jnp.zeros(2), jnp.zeros(3))
