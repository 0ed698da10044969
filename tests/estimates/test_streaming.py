"""States filled chunk by chunk, against numpy in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import estimates

HALF_UNIT = 2.0**-24  # relative error of a correctly rounded float32


def streamed(initial, values, chunk):
    """The state after all values, chunk by chunk in a compiled loop."""

    @jax.jit
    def run(values):
        chunks = jax.tree.map(lambda v: v.reshape((-1, chunk, *v.shape[1:])), values)
        step = lambda state, piece: (estimates.update(state, piece), None)
        return jax.lax.scan(step, initial, chunks)[0]

    return run(values)


@pytest.mark.parametrize("chunk", [1, 16, 1000, 10**6])
@pytest.mark.parametrize("centre", [1e4, 1e6, 0.0])
def test_million_float32_samples_far_from_zero(centre, chunk):
    values = (np.random.default_rng(0).standard_normal(10**6) + centre).astype(np.float32)
    exact = values.astype(np.float64)
    state = streamed(estimates.init_moments(values[0]), values, chunk)
    assert float(state.count) == 10**6
    # the mean is rounded correctly, up to a millionth of a standard deviation
    assert abs(float(state.mean) - exact.mean()) <= HALF_UNIT * abs(exact.mean()) + 1e-6
    np.testing.assert_allclose(estimates.variance(state), exact.var(ddof=1), rtol=5e-7)
    np.testing.assert_allclose(estimates.standard_error(state), exact.std(ddof=1) / 1e3, rtol=5e-7)


def test_plain_float32_sums_would_fail_the_same_test():
    """That the test above has teeth: the textbook formula loses the variance whole."""
    values = (np.random.default_rng(0).standard_normal(10**6) + 1e4).astype(np.float32)
    naive = jnp.mean(jnp.square(values)) - jnp.square(jnp.mean(values))
    assert abs(float(naive) - 1) > 0.5


@pytest.mark.parametrize("chunk", [1, 500])
def test_covariance_of_a_million_float32_pairs(chunk):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(10**6) + 1e4).astype(np.float32)
    y = (0.5 * (x - 1e4) + rng.standard_normal(10**6) - 3e3).astype(np.float32)
    state = streamed(estimates.init_covariance(x[0]), (x, y), chunk)
    exact = np.cov(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(estimates.covariance(state), exact[0, 1], rtol=2e-6)
    np.testing.assert_allclose(estimates.variance(state.right), exact[1, 1], rtol=2e-6)
    correlation = exact[0, 1] / math.sqrt(exact[0, 0] * exact[1, 1])
    np.testing.assert_allclose(estimates.correlation(state), correlation, rtol=2e-6)


def test_covariance_matrix_of_a_stream():
    rng = np.random.default_rng(2)
    mixing = rng.standard_normal((5, 5))
    x = (rng.standard_normal((30_000, 5)) @ mixing + 1e3 * np.arange(5)).astype(np.float32)
    state = streamed(estimates.init_covariance_matrix(x[0]), x, 100)
    exact = np.cov(x.astype(np.float64), rowvar=False)
    scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    np.testing.assert_allclose(estimates.covariance(state) / scale, exact / scale, atol=2e-6)
    np.testing.assert_allclose(estimates.variance(state), exact.diagonal(), rtol=2e-6)
    np.testing.assert_allclose(estimates.correlation(state), exact / scale, atol=2e-6)
    np.testing.assert_allclose(estimates.mean(state), x.astype(np.float64).mean(0), 1e-7, 1e-6)


def test_float64(x64):
    values = np.random.default_rng(3).standard_normal((1200, 3)) + 1e7
    state = streamed(estimates.init_moments(values[0]), values, 12)
    assert state.mean.dtype == state.count.dtype == jnp.float64
    np.testing.assert_allclose(state.mean, values.mean(0), rtol=1e-15)
    np.testing.assert_allclose(estimates.variance(state), values.var(0, ddof=1), rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8, jnp.bool_])
def test_narrow_dtypes_accumulate_in_float32(dtype):
    values = jnp.asarray(np.random.default_rng(4).integers(0, 2, (4000, 2)), dtype)
    exact = np.asarray(values.astype(jnp.float32), np.float64)
    state = streamed(estimates.init_moments(values[0]), values, 16)
    assert state.mean.dtype == jnp.float32
    np.testing.assert_allclose(state.mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(estimates.variance(state), exact.var(0, ddof=1), rtol=5e-7)


def test_leaves_of_several_dtypes_keep_their_own(x64):
    value = {"a": jnp.zeros((2,), jnp.bfloat16), "b": (jnp.zeros((), jnp.float64),)}
    rng = np.random.default_rng(5)
    values = {
        "a": jnp.asarray(rng.standard_normal((9, 2)), jnp.bfloat16),
        "b": (jnp.asarray(rng.standard_normal(9)),),
    }
    spread = estimates.variance(estimates.update(estimates.init_moments(value), values))
    assert spread["a"].dtype == jnp.float32
    assert spread["b"][0].dtype == jnp.float64
    np.testing.assert_allclose(spread["b"][0], np.var(values["b"][0], ddof=1), rtol=1e-14)
    exact = np.asarray(values["a"].astype(jnp.float64)).var(0, ddof=1)
    np.testing.assert_allclose(spread["a"], exact, rtol=1e-6)


def test_gradient_of_variance_and_standard_error_through_chunks():
    y = jnp.asarray(np.random.default_rng(11).standard_normal(12) + 3, jnp.float32)
    exact = np.asarray(y, np.float64)

    def statistics(y):
        state = estimates.init_moments(y[0])
        for piece in (y[:5], y[5:6], y[6:]):
            state = estimates.update(state, piece)
        functions = (estimates.mean, estimates.variance, estimates.standard_error)
        return jnp.stack([statistic(state) for statistic in functions])

    of_mean, of_variance, of_error = jax.jit(jax.jacrev(statistics))(y)
    np.testing.assert_allclose(of_mean, np.full(12, 1 / 12), rtol=1e-6)
    slope = 2 * (exact - exact.mean()) / 11
    np.testing.assert_allclose(of_variance, slope, atol=1e-6)
    slope = slope / 12 / (2 * exact.std(ddof=1) / np.sqrt(12))
    np.testing.assert_allclose(of_error, slope, atol=1e-6)
    forward = jax.jit(lambda y: jax.jvp(statistics, (y,), (y,))[1])(y)[1]
    np.testing.assert_allclose(forward, 2 * exact.var(ddof=1), rtol=1e-5)


def test_vmap_equals_a_loop_and_the_state_scans():
    y = jnp.asarray(np.random.default_rng(12).standard_normal((4, 30, 2)), jnp.float32)
    one = lambda y: estimates.standard_error(streamed(estimates.init_moments(y[0]), y, 5))
    together = jax.jit(jax.vmap(one))(y)
    np.testing.assert_allclose(together, np.stack([one(row) for row in y]), rtol=1e-6)
    exact = np.asarray(y, np.float64).std(1, ddof=1) / np.sqrt(30)
    np.testing.assert_allclose(together, exact, rtol=1e-6)


def test_messages():
    state = estimates.init_moments(jnp.zeros(3))
    with pytest.raises(ValueError, match="leading sample axis"):
        estimates.update(state, jnp.zeros(3))
    with pytest.raises(ValueError, match="must be a tree"):
        estimates.update(state, {"a": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"weights must have one number .* shape \(2,\)"):
        estimates.update(state, jnp.zeros((2, 3)), jnp.ones(3))
    with pytest.raises(TypeError, match="state must be"):
        estimates.update(jnp.zeros(3), jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="real numbers"):
        estimates.init_moments(jnp.zeros(3, jnp.complex64))
    with pytest.raises(ValueError, match="one vector per sample"):
        estimates.init_covariance_matrix(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="pair of trees"):
        estimates.update(estimates.init_covariance(jnp.zeros(3)), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="different numbers of samples"):
        estimates.update(
            estimates.init_covariance(jnp.zeros(3)), (jnp.zeros((4, 3)), jnp.zeros((5, 3)))
        )


def test_double_precision_values_need_a_state_made_for_them(x64):
    state = estimates.init_moments(jnp.zeros((), jnp.float32))
    with pytest.raises(TypeError, match="the state was made for float32"):
        estimates.update(state, jnp.zeros(3, jnp.float64))
