"""The inputs' distributions against scipy's quantiles, in the dtypes they may have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxplain import qmc, sobol

U = np.linspace(0, 1, 1026)[1:-1]


def test_quantiles():
    u = jnp.asarray(U, jnp.float32)
    of = lambda distribution: jax.vmap(distribution.inverse_cdf)(u)
    np.testing.assert_allclose(of(sobol.uniform(-2.0, 5.0)), -2 + 7 * U, atol=1e-6)
    expected = stats.norm.ppf(U, 3, 2)
    np.testing.assert_allclose(of(sobol.normal(3.0, 2.0)), expected, rtol=1e-5, atol=1e-5)
    exponential = sobol.inverse_cdf(lambda u: -jnp.log1p(-u))
    np.testing.assert_allclose(of(exponential), stats.expon.ppf(U), rtol=1e-4)


def test_shapes_broadcast():
    d = sobol.uniform(np.zeros((3, 1), np.float32), [1.0, 2.0])
    assert d.shape == (3, 2)
    assert d.dtype == jnp.float32
    assert sobol.uniform(0, 1).shape == ()
    assert sobol.uniform(0, 1).dtype == jnp.float32
    assert sobol.normal(jnp.zeros(4, jnp.bfloat16), 1.0).dtype == jnp.bfloat16
    np.testing.assert_allclose(
        d.inverse_cdf(jnp.full((3, 2), 0.5)), [[0.5, 1.0], [0.5, 1.0], [0.5, 1.0]]
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_no_quantile_is_infinite(dtype):
    """A u of more bits than the values' dtype is rounded after the quantile and not before."""
    normal = sobol.normal(jnp.zeros((), dtype), 1.0)
    last = jnp.float32(1 - 2.0**-25)
    assert normal.inverse_cdf(jnp.float32(1) - jnp.finfo(jnp.float32).epsneg).dtype == dtype
    for u in (jnp.float32(2.0**-25), last - jnp.finfo(jnp.float32).epsneg):
        assert jnp.isfinite(normal.inverse_cdf(u))
    with jax.enable_x64(True):
        x = normal.inverse_cdf(jnp.float64(1 - 2.0**-33))
        assert x.dtype == dtype
        np.testing.assert_allclose(float(x), stats.norm.isf(2.0**-33), rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_inputs(dtype):
    """T of a linear function of narrow inputs, computed in float32: 1/5 and 4/5."""
    inputs = sobol.normal(jnp.zeros(2, dtype), jnp.asarray([1, 2], dtype))
    f = lambda x: jnp.sum(x)
    s = sobol.indices(f, inputs, samples=2**13)(jax.random.key(0))
    assert s.total_order.dtype == jnp.float32
    np.testing.assert_allclose(s.total_order, [0.2, 0.8], atol=0.02)


def test_parameters_may_be_traced():
    def of(high):
        inputs = sobol.uniform(jnp.zeros(2), jnp.stack([high, jnp.ones_like(high)]))
        f = lambda x: jnp.sum(x)
        return sobol.indices(f, inputs, samples=1024)(jax.random.key(0)).first_order

    highs = jnp.array([1.0, 2.0, 3.0])
    got = jax.jit(jax.vmap(of))(highs)
    share = highs**2 / (highs**2 + 1)
    np.testing.assert_allclose(got, jnp.stack([share, 1 - share], axis=1), atol=5e-3)


def test_errors():
    with pytest.raises(ValueError, match=r"low must be below high, but low is 2\.0 and high is 1"):
        sobol.uniform(2.0, 1.0)
    with pytest.raises(ValueError, match="low must be below high"):
        sobol.uniform(1.0, 1.0)
    with pytest.raises(ValueError, match="high must be finite"):
        sobol.uniform(0.0, jnp.inf)
    with pytest.raises(ValueError, match=r"must broadcast, but low has \(2,\) and high has \(3,\)"):
        sobol.uniform(jnp.zeros(2), jnp.ones(3))
    with pytest.raises(TypeError, match=r"low must be .*, but is a str"):
        sobol.uniform("zero", 1.0)
    with pytest.raises(TypeError, match="low must be real numbers, but has dtype complex64"):
        sobol.uniform(jnp.complex64(0), 1.0)
    with pytest.raises(ValueError, match=r"standard_deviation must be above 0, but is 0\.0"):
        sobol.normal(0.0, 0.0)
    with pytest.raises(TypeError, match="function must be a function"):
        sobol.inverse_cdf(3)
    with pytest.raises(TypeError, match="shape must be a tuple of integers"):
        sobol.inverse_cdf(jnp.sin, shape=3)
    with pytest.raises(ValueError, match=r"must return a float array of shape \(2,\)"):
        sobol.inverse_cdf(jnp.sum, shape=(2,))
    with pytest.raises(ValueError, match="must return a float array"):
        sobol.inverse_cdf(lambda u: u > 0.5)


def test_points_are_transformed_leaf_by_leaf():
    """A sample of each distribution has its moments, by Kolmogorov and Smirnov."""
    inputs = {
        "b": sobol.normal(jnp.full(2, 1.0), 2.0),
        "a": sobol.inverse_cdf(lambda u: -jnp.log1p(-u)),
        "none": sobol.uniform(jnp.zeros(0), 1.0),
        "c": sobol.uniform(jnp.full((1, 2), -1.0), 1.0),
    }
    from jaxplain.sobol._factors import factors

    layout = factors(inputs)
    assert layout.dimensions == 5
    u = qmc.points(qmc.sobol, jax.random.key(3), 5, 1024)
    tree = jax.vmap(layout.tree)(layout.values(u))
    for column, cdf in (
        (tree["a"], stats.expon.cdf),
        (tree["b"][:, 1], stats.norm(1, 2).cdf),
        (tree["c"][:, 0, 1], stats.uniform(-1, 2).cdf),
    ):
        assert stats.kstest(np.asarray(column), cdf).statistic < 2e-3
    assert tree["none"].shape == (1024, 0)
