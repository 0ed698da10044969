"""Rank-based first-order indices: closed forms, coverage, and which rows are refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol

KEY = jax.random.key(0)
PI = float(np.pi)
ISHIGAMI = np.array([0.313905, 0.442411, 0.0])


def points(sampler, key, d, n):
    with jax.numpy_rank_promotion("allow"):
        return qmc.points(sampler, key, d, n)


def ishigami(u):
    """Of numbers (n, 3) uniform in (0, 1)."""
    x = PI * (2 * u - 1)
    return jnp.sin(x[:, 0]) + 7 * jnp.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * jnp.sin(x[:, 0])


def test_a_slow_twin():
    rng = np.random.default_rng(0)
    x, y = rng.random((50, 2)), rng.random(50)
    got = sobol.rank_based(x, y)
    centred = y - y.mean()
    for column in range(2):
        rows = sorted(range(50), key=lambda row, c=column: x[row, c])
        z = centred[rows]
        over = sum(z[k] * z[k + 1] for k in range(49))
        under = sum((z[k] ** 2 + z[k + 1] ** 2) / 2 for k in range(49))
        np.testing.assert_allclose(got.first_order[column], over / under, rtol=1e-4)
    np.testing.assert_allclose(got.variance, y.var(), rtol=1e-5)
    np.testing.assert_allclose(got.mean, y.mean(), rtol=1e-5)


def test_closed_form_within_the_error_and_by_latin_hypercube():
    for sampler in (qmc.monte_carlo, qmc.latin_hypercube):
        u = points(sampler, KEY, 3, 2**14)
        got = sobol.rank_based(u, ishigami(u) + 500)
        assert np.all(np.abs(got.first_order - ISHIGAMI) <= 4 * got.first_order_error)
        assert np.all(got.first_order_error < 0.015)


@pytest.mark.parametrize("case", ["ishigami", "noise and one that does nothing", "dependent"])
def test_coverage(case):
    """1,000 repetitions of 1,024 rows: 95 % of intervals, and no fewer than 92.5 % or 97.5 %."""

    def one(key):
        for_x, for_noise = jax.random.split(key)
        if case == "ishigami":
            u = jax.random.uniform(for_x, (1024, 3))
            return sobol.rank_based(u, ishigami(u))
        z = jax.random.normal(for_x, (1024, 2))
        noise = jax.random.normal(for_noise, (1024,))
        if case == "dependent":  # corr(x_0, x_1) = 0.6
            z = jnp.stack([z[:, 0], 0.6 * z[:, 0] + 0.8 * z[:, 1]], axis=1)
            return sobol.rank_based(z, z[:, 0] + z[:, 1])
        return sobol.rank_based(z, 2 * z[:, 0] + noise)

    true = {
        "ishigami": ISHIGAMI,
        "noise and one that does nothing": [0.8, 0.0],
        "dependent": [0.8, 0.8],  # Var (1.6 z_0) / (1.6^2 + 0.8^2)
    }[case]
    got = jax.jit(jax.vmap(one))(jax.random.split(KEY, 1000))
    value, error = np.asarray(got.first_order), np.asarray(got.first_order_error)
    covered = np.mean(np.abs(value - np.asarray(true)) <= 1.96 * error, axis=0)
    assert 0.925 <= np.min(covered) <= np.max(covered) <= 0.975, covered
    # The test of the rows: false alarms as often as it says.
    assert np.min(got.p_value) > 1e-6
    assert np.mean(got.p_value < 0.05) <= 0.08


@pytest.mark.parametrize(("n", "d"), [(256, 2), (256, 12), (1024, 3)])
def test_quasi_random_points_and_grids_are_refused(n, d):
    for sampler in (
        qmc.sobol,
        functools.partial(qmc.sobol, scramble="owen"),
        functools.partial(qmc.sobol, scramble=None),
        qmc.halton,
    ):
        u = points(sampler, KEY, d, n)
        with pytest.raises(ValueError, match=r"too regular.*quasi-random.*polynomial_chaos"):
            sobol.rank_based(u, jnp.sum(u, axis=1))
        shuffled = jax.random.permutation(KEY, u)
        with pytest.raises(ValueError, match="too regular"):
            sobol.rank_based(shuffled, jnp.sum(shuffled, axis=1))


def test_a_grid_is_refused_and_random_rows_never():
    side = np.linspace(0, 1, 8, dtype=np.float32)
    grid = np.stack(np.meshgrid(side, side, side), axis=-1).reshape(-1, 3)
    with pytest.raises(ValueError, match="grids"):
        sobol.rank_based(grid, grid[:, 0])
    for sampler in (qmc.monte_carlo, qmc.latin_hypercube):
        draw = lambda key, s=sampler: points(s, key, 8, 128)
        u = jax.vmap(draw)(jax.random.split(KEY, 500))
        p = jax.vmap(lambda u: sobol.rank_based(u, u[:, 0]).p_value)(u)
        assert np.min(p) > 1e-6
    # One column says nothing of the others.
    assert sobol.rank_based(side[:, None].repeat(2, 0), side.repeat(2)).p_value == 1


def test_trees_vectors_and_constants():
    u = points(qmc.monte_carlo, KEY, 5, 500)
    x = {"a": u[:, 0], "b": u[:, 1:].reshape(500, 2, 2)}
    y = jnp.stack([x["a"], x["b"][:, 1, 0], 0 * x["a"] + 7], axis=1)
    got = sobol.rank_based(x, y)
    assert got.first_order["a"].shape == (3,)
    assert got.first_order["b"].shape == (3, 2, 2)
    assert got.first_order["a"][0] > 0.98
    assert got.first_order["b"][1, 1, 0] > 0.98
    assert got.is_constant.tolist() == [False, False, True]
    assert not np.any(got.first_order["b"][2])
    assert not np.any(got.first_order_error["b"][2])
    flat = sobol.rank_based(u, y[:, 0])
    np.testing.assert_allclose(got.first_order["b"][0].ravel(), flat.first_order[1:], atol=1e-6)
    inside = jax.jit(sobol.rank_based)(x, y)
    np.testing.assert_allclose(inside.first_order["b"], got.first_order["b"], atol=1e-6)


def test_bad_input_is_named():
    u = points(qmc.monte_carlo, KEY, 3, 50)
    y = u[:, 0]
    for x, values, error, message in (
        (u, y[:-1], ValueError, "same rows"),
        (u[:10], y[:10], ValueError, "at least 16 rows are needed, but there are 10"),
        (u.at[3, 1].set(jnp.nan), y, ValueError, "x must be finite, but 1 of its"),
        (u, y.at[3].set(jnp.inf), ValueError, "y must be finite"),
        (u, y.astype(jnp.complex64), TypeError, "y must be real"),
        ({}, y, ValueError, "at least one array"),
        (u, [y, y], TypeError, "y must be one array"),
        ("x", y, TypeError, "x must be an array"),
    ):
        with pytest.raises(error, match=message):
            sobol.rank_based(x, values)
