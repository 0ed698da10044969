"""Aggregated indices: closed forms, and an error that is never too small."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol

KEY = jax.random.key(0)
INPUTS = {"a": sobol.uniform(0.0, 1.0), "b": sobol.normal(jnp.zeros(2), 1.0)}


def f(x):
    """Two correlated outputs with variances 1 and 4 + 1, one without."""
    one = 12**0.5 * x["a"] * jnp.float32(1.0)
    return jnp.stack([jnp.stack([one, 2 * x["b"][0] + x["b"][1]]), jnp.stack([2 * one, 0 * one])])


def test_closed_form():
    s = sobol.indices(f, INPUTS, samples=2**13)(KEY)
    got = sobol.aggregated(s)
    np.testing.assert_allclose(got.variance, 1 + 5 + 4, rtol=5e-3)
    for tree in (got.first_order, got.total_order):
        np.testing.assert_allclose(tree["a"], 0.5, atol=0.01)
        np.testing.assert_allclose(tree["b"], [0.4, 0.1], atol=0.01)
    assert got.first_order_error["b"].shape == (2,)
    assert not got.is_constant


def test_the_error_is_an_upper_bound_and_covers():
    """Of 200 repetitions: at least the spread between them, and not twice as much here."""
    g = lambda x: jnp.stack([jnp.sin(3 * x[0]) * x[1], x[0] + x[1] * x[2], jnp.exp(x[2])])
    inputs = sobol.uniform(jnp.zeros(3), 1.0)
    analyse = sobol.indices(g, inputs, samples=512, sampler=qmc.monte_carlo)
    run = lambda key: sobol.aggregated(analyse(key))
    s = jax.jit(jax.vmap(run))(jax.random.split(KEY, 200))
    for values, errors in (
        (s.first_order, s.first_order_error),
        (s.total_order, s.total_order_error),
    ):
        spread, claimed = np.std(values, axis=0), np.mean(errors, axis=0)
        assert np.all(claimed >= 0.93 * spread)  # a spread of 200 is known to 5 %
        assert np.all(claimed <= 2.5 * spread)


def test_one_output_is_its_own_aggregate():
    s = sobol.indices(lambda x: x["a"] * x["b"][0], INPUTS, samples=1024)(KEY)
    got = sobol.aggregated(s)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6)
    jax.tree.map(same, got.first_order, s.first_order)
    jax.tree.map(same, got.total_order_error, s.total_order_error)


def test_constant_outputs_groups_and_bad_input():
    s = sobol.indices(lambda x: jnp.ones(3), INPUTS, samples=1024)(KEY)
    got = sobol.aggregated(s)
    assert got.is_constant
    assert not np.any(got.total_order["b"])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(got))
    s = sobol.indices(f, INPUTS, samples=1024, groups={"a": 0, "b": 1})(KEY)
    np.testing.assert_allclose(sobol.aggregated(s).first_order, [0.5, 0.5], atol=0.05)
    with pytest.raises(TypeError, match="takes the result of `indices`"):
        sobol.aggregated(s.first_order)
