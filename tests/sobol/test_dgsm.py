"""Bounds from derivatives: closed forms, and never below the total index."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol

KEY = jax.random.key(0)
PI = float(np.pi)


def ishigami(x):
    return jnp.sin(x[0]) + 7 * jnp.sin(x[1]) ** 2 + 0.1 * x[2] ** 4 * jnp.sin(x[0])


def test_closed_form_of_ishigami():
    inputs = sobol.uniform(-PI * jnp.ones(3), PI)
    got = sobol.dgsm(ishigami, inputs, samples=2**14)(KEY)
    variance, constant = 13.844588, (2 * PI) ** 2 / PI**2
    fourth, sixth, eighth = PI**4 / 5, PI**6 / 7, PI**8 / 9
    squares = [  # E cos^2 = 1/2; E (7 sin 2x)^2 = 49/2; E (0.4 x^3 sin)^2
        0.5 * (1 + 0.2 * fourth + 0.01 * eighth),
        49 / 2,
        0.16 * sixth * 0.5,
    ]
    np.testing.assert_allclose(got.bounds, constant * np.array(squares) / variance, rtol=5e-3)
    assert np.all(got.bounds >= np.array([0.557589, 0.442411, 0.243684]))
    assert got.evaluations == got.rows == 2**14
    np.testing.assert_allclose(got.variance, variance, rtol=5e-3)


def test_a_bound_that_is_met():
    """Linear in normal inputs, and a cosine of half a period of a uniform one."""
    inputs = {"z": sobol.normal(3.0, jnp.array([1.0, 2.0])), "u": sobol.uniform(-1.0, 4.0)}
    f = lambda x: 1000 + jnp.sum(x["z"]) + jnp.cos(PI * (x["u"] + 1) / 5)
    got = sobol.dgsm(f, inputs, samples=2**13)(KEY)
    np.testing.assert_allclose(got.bounds["z"], np.array([1, 4]) / 5.5, rtol=5e-3)
    np.testing.assert_allclose(got.bounds["u"], 0.5 / 5.5, rtol=5e-3)


def test_other_distributions_go_through_the_normal():
    """Log-normal: f = log x is z. Exponential: E (dx/dz)^2, by numpy."""
    inputs = [
        sobol.inverse_cdf(lambda u: jnp.exp(2 * jax.scipy.special.ndtri(u))),
        sobol.inverse_cdf(lambda u: -jnp.log1p(-u), shape=(1,)),
    ]
    f = lambda x: jnp.log(x[0]) + x[1][0]
    got = sobol.dgsm(f, inputs, samples=2**14)(KEY)
    np.testing.assert_allclose(got.bounds[0], 4 / 5, rtol=5e-3)
    from scipy.stats import norm

    z = np.linspace(-9, 9, 100_001)
    slope = norm.pdf(z) / norm.sf(z)
    expected = np.sum(slope**2 * norm.pdf(z)) * (z[1] - z[0])
    np.testing.assert_allclose(got.bounds[1], [expected / 5], rtol=0.01)
    assert expected > 1


def test_coverage_and_errors():
    """400 repetitions of Monte Carlo: 95 % of intervals, and no fewer than 92 %."""
    inputs = sobol.uniform(-PI * jnp.ones(3), PI)
    exact = sobol.dgsm(ishigami, inputs, samples=2**16)(KEY).bounds
    analyse = sobol.dgsm(ishigami, inputs, samples=4096, sampler=qmc.monte_carlo)
    got = jax.jit(jax.vmap(analyse))(jax.random.split(KEY, 400))
    lower, upper = (np.asarray(end) for end in got.bounds_interval)
    covered = np.mean((lower <= np.asarray(exact)) & (np.asarray(exact) <= upper), axis=0)
    assert 0.92 <= np.min(covered) <= np.max(covered) <= 0.98, covered


def test_vectors_arguments_and_chunks():
    inputs = {"a": sobol.uniform(0.0, 1.0), "b": sobol.normal(jnp.zeros((2, 1)), 1.0)}
    f = lambda x, scale: jnp.stack([scale * jnp.sin(x["a"]) + x["b"][0, 0] ** 2, 0 * x["a"]])
    analyse = sobol.dgsm(f, inputs, samples=1024)
    got = analyse(KEY, jnp.float32(2.0))
    assert got.bounds["b"].shape == (2, 2, 1)
    assert got.is_constant.tolist() == [False, True]
    assert not np.any(got.bounds["b"][1])
    alone = sobol.dgsm(lambda *args: f(*args)[0], inputs, samples=1024, chunk_size=100)
    alone = alone(KEY, jnp.float32(2.0))
    np.testing.assert_allclose(got.bounds["b"][0], alone.bounds["b"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.bounds_error["a"][0], alone.bounds_error["a"], rtol=1e-3)


def test_bad_input_is_named():
    inputs = sobol.uniform(jnp.zeros(2), 1.0)
    with pytest.raises(TypeError, match="f must be a function"):
        sobol.dgsm(3, inputs)
    hole = lambda x: jnp.sqrt(x[0] - 0.1)
    with pytest.raises(ValueError, match="NaN or infinite"):
        sobol.dgsm(hole, inputs)(KEY)
    got = sobol.dgsm(hole, inputs, nan="omit")(KEY)
    assert got.rows < 1024
    assert np.all(np.isfinite(got.bounds))
