"""Statistics of few samples and of degenerate ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import estimates


def test_too_few_samples_are_nan_and_never_an_exception():
    empty = estimates.init_moments(jnp.zeros(()))
    for state, seen in ((empty, 0), (estimates.update(empty, jnp.zeros((0,))), 0)):
        assert float(state.count) == seen
        for statistic in (estimates.mean, estimates.variance, estimates.standard_error):
            assert np.isnan(statistic(state))
    one = estimates.update(empty, jnp.array([7.0]))
    assert float(estimates.mean(one)) == 7
    assert np.isnan(estimates.variance(one))
    assert np.isnan(estimates.standard_error(one))
    assert float(estimates.variance(one, ddof=0)) == 0
    pair = estimates.update(estimates.init_covariance(jnp.zeros(())), (jnp.ones(1), jnp.ones(1)))
    assert np.isnan(estimates.covariance(pair))
    assert np.isnan(estimates.correlation(pair))
    assert np.isnan(estimates.covariance(estimates.init_covariance_matrix(jnp.zeros(2)))).all()


def test_correlation_of_a_constant_is_nan_and_of_tiny_numbers_is_not():
    x = jnp.array([1.0, 2.0, 4.0])
    state = estimates.init_covariance(x[0])
    assert np.isnan(estimates.correlation(estimates.update(state, (x, jnp.ones(3)))))
    tiny = estimates.correlation(estimates.update(state, (1e-12 * x, -1e-12 * x)))
    np.testing.assert_allclose(tiny, -1, rtol=1e-6)


def test_messages():
    state = estimates.init_moments(jnp.zeros(3))
    with pytest.raises(TypeError, match=r"state\.left"):
        estimates.standard_error(estimates.init_covariance(jnp.zeros(3)))
    with pytest.raises(TypeError, match="Covariance or CovarianceMatrix"):
        estimates.correlation(state)
