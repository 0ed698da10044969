"""Polynomial chaos: exact on polynomials, numpy's least squares, leaving out row by row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol

KEY = jax.random.key(0)
MIXED = {
    "z": sobol.normal(jnp.array([1.0, -2.0]), jnp.array([2.0, 0.5])),
    "u": sobol.uniform(-3.0, 5.0),
    "e": sobol.inverse_cdf(lambda u: -jnp.log1p(-u)),
}


def draw(inputs, n, key=KEY, sampler=qmc.monte_carlo):
    is_leaf = lambda node: isinstance(node, sobol.Distribution)
    leaves, structure = jax.tree.flatten(inputs, is_leaf=is_leaf)
    sizes = [int(np.prod(leaf.shape)) for leaf in leaves]
    u = qmc.points(sampler, key, sum(sizes), n)
    parts = jnp.split(u, np.cumsum(sizes)[:-1], axis=1)
    x = [
        jax.vmap(leaf.inverse_cdf)(part.reshape(n, *leaf.shape))
        for leaf, part in zip(leaves, parts, strict=True)
    ]
    return jax.tree.unflatten(structure, x)


def test_exact_where_y_is_such_a_polynomial():
    """Of standardised inputs z, t = sqrt(3)(2u - 1), v = sqrt(3)(2 F(e) - 1) of variance 1."""
    x = draw(MIXED, 150)
    z = (np.asarray(x["z"]) - [1.0, -2.0]) / [2.0, 0.5]
    t = np.sqrt(3) * (np.asarray(x["u"]) - 1) / 4
    v = np.sqrt(3) * (1 - 2 * np.exp(-np.asarray(x["e"])))
    y = 100 + 3 * z[:, 0] + (z[:, 1] ** 2 - 1) + 2 * t * v + t * z[:, 0]  # 9 + 2 + 4 + 1
    s = sobol.polynomial_chaos(x, jnp.asarray(y, jnp.float32), MIXED)
    np.testing.assert_allclose(s.variance, 16, rtol=1e-3)
    np.testing.assert_allclose(s.mean, 100, rtol=1e-5)
    close = lambda got, expected: np.testing.assert_allclose(got, expected, atol=1e-3)
    close(s.first_order["z"], [9 / 16, 2 / 16])
    close(s.first_order["u"], 0)
    close(s.total_order["z"], [10 / 16, 2 / 16])
    close(s.total_order["u"], 5 / 16)
    close(s.total_order["e"], 4 / 16)
    close(s.second_order["u"]["e"], 4 / 16)
    close(s.second_order["e"]["u"], 4 / 16)
    close(s.second_order["z"]["u"], [1 / 16, 0])
    close(s.second_order["z"]["z"], np.zeros((2, 2)))
    close(s.q2, 1)
    assert s.degrees.shape == (31, 4)
    assert s.coefficients.shape == (31,)


def numpy_fit(t, y, ridge):
    """Legendre, degree 2, pairs, of two inputs: coefficients by the normal equations."""
    P = [np.ones_like(t), np.sqrt(3) * t, np.sqrt(5) * (3 * t**2 - 1) / 2]
    degrees = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 1)]
    design = np.stack([P[a][:, 0] * P[b][:, 1] for a, b in degrees], axis=1)
    penalty = len(y) * ridge * np.diag([0, 1, 1, 1, 1, 1])
    return design, np.linalg.solve(design.T @ design + penalty, design.T @ y)


@pytest.mark.parametrize("ridge", [0.0, 0.05])
def test_numpy_and_leaving_out_row_by_row(ridge, x64):
    inputs = sobol.uniform(-jnp.ones(2), 1.0)
    x = np.asarray(draw(inputs, 30), np.float64)
    y = np.exp(x[:, 0]) + x[:, 0] * x[:, 1] + 0.3 * np.sin(50 * x[:, 1])
    s = sobol.polynomial_chaos(jnp.asarray(x), jnp.asarray(y), inputs, degree=2, ridge=ridge)
    # The mean is taken off before, and is not penalised.
    design, c = numpy_fit(x, y - y.mean(), ridge)
    np.testing.assert_allclose(s.coefficients, c + y.mean() * (np.arange(6) == 0), atol=1e-9)
    variance = np.sum(c[1:] ** 2)
    np.testing.assert_allclose(s.first_order, [np.sum(c[1:3] ** 2), np.sum(c[3:5] ** 2)] / variance)
    np.testing.assert_allclose(s.second_order[0, 1], c[5] ** 2 / variance)
    np.testing.assert_allclose(s.r2, 1 - np.var(y - y.mean() - design @ c) / np.var(y), rtol=1e-3)
    errors, shares = [], []
    keep_n = len(y)
    for k in range(keep_n):
        rest = np.arange(keep_n) != k
        P, less = design[rest], (y - y.mean())[rest]
        penalty = keep_n * ridge * np.diag([0, 1, 1, 1, 1, 1])
        ck = np.linalg.solve(P.T @ P + penalty, P.T @ less)
        errors.append((y - y.mean())[k] - design[k] @ ck)
        vk = np.sum(ck[1:] ** 2)
        shares.append([np.sum(ck[1:3] ** 2) / vk, np.sum(ck[[1, 2, 5]] ** 2) / vk, ck[5] ** 2 / vk])
    np.testing.assert_allclose(s.q2, 1 - np.sum(np.square(errors)) / np.sum((y - y.mean()) ** 2))
    # The error is the jackknife's, linearised.
    jackknife = np.sqrt(np.sum((np.array(shares) - np.mean(shares, axis=0)) ** 2, axis=0))
    got = [s.first_order_error[0], s.total_order_error[0], s.second_order_error[0, 1]]
    np.testing.assert_allclose(got, jackknife, rtol=0.25)


def test_ishigami_on_quasi_random_points():
    pi = float(np.pi)
    inputs = sobol.uniform(-pi * jnp.ones(3), pi)
    x = draw(inputs, 512, sampler=qmc.sobol)
    y = jnp.sin(x[:, 0]) + 7 * jnp.sin(x[:, 1]) ** 2 + 0.1 * x[:, 2] ** 4 * jnp.sin(x[:, 0])
    s = sobol.polynomial_chaos(x, y, inputs, degree=10)
    np.testing.assert_allclose(s.first_order, [0.313905, 0.442411, 0], atol=2e-3)
    np.testing.assert_allclose(s.total_order, [0.557589, 0.442411, 0.243684], atol=2e-3)
    np.testing.assert_allclose(s.second_order[0, 2], 0.243684, atol=2e-3)
    assert s.q2 > 0.99
    assert s.r2 > s.q2
    rough = sobol.polynomial_chaos(x, y, inputs, degree=2)
    assert rough.q2 < 0.5


def test_coverage_of_a_noisy_simulator():
    """300 repetitions, 120 rows: 95 % of intervals, and no fewer than 91 %."""
    inputs = sobol.uniform(-jnp.ones(2), 1.0)

    def one(key):
        for_x, for_noise = jax.random.split(key)
        x = jax.random.uniform(for_x, (120, 2), minval=-1.0, maxval=1.0)
        noise = jax.random.normal(for_noise, (120,))
        y = 3**0.5 * (2 * x[:, 0] + x[:, 1]) + 3 * x[:, 0] * x[:, 1] + 0.5 * noise
        return sobol.polynomial_chaos(x, y, inputs, degree=2)

    s = jax.jit(jax.vmap(one))(jax.random.split(KEY, 300))
    for got, error, true in (
        (s.first_order, s.first_order_error, np.array([4, 1]) / 6),
        (s.total_order, s.total_order_error, np.array([5, 2]) / 6),
        (s.second_order[:, 0, 1], s.second_order_error[:, 0, 1], np.array(1 / 6)),
    ):
        covered = np.mean(np.abs(np.asarray(got) - true) <= 1.96 * np.asarray(error), axis=0)
        assert np.all(covered >= 0.91), covered


def test_vectors_and_constants():
    inputs = [sobol.uniform(-1.0, 1.0), sobol.uniform(-1.0, 1.0)]
    x = draw(inputs, 60)
    y = jnp.stack([jnp.stack([x[0], x[0] * x[1]], 1), jnp.stack([0 * x[0] + 3, x[1]], 1)], 1)
    s = sobol.polynomial_chaos(x, y, inputs)
    assert s.first_order[0].shape == (2, 2) == s.q2.shape
    np.testing.assert_allclose(s.first_order[0], [[1, 0], [0, 0]], atol=1e-5)
    np.testing.assert_allclose(s.second_order[0][1], [[0, 1], [0, 0]], atol=1e-5)
    assert s.is_constant.tolist() == [[False, False], [True, False]]
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(s))


def test_bad_input_is_named():
    inputs = {"a": sobol.uniform(jnp.zeros(4), 1.0)}
    x = draw(inputs, 40)
    y = jnp.sum(x["a"], axis=1)
    fit = sobol.polynomial_chaos
    with pytest.raises(ValueError, match=r"53 terms .* more rows than the 40 .* ridge above 0"):
        fit(x, y, inputs, degree=4, interactions=2).r2
    assert fit(x, y, inputs, degree=4, ridge=1e-3).r2 > 0.9
    assert fit(x, y, inputs, degree=4, interactions=1).q2 > 0.999
    with pytest.raises(ValueError, match="same tree as inputs"):
        fit(x["a"], y, inputs)
    with pytest.raises(ValueError, match=r"\(n, \*\(4,\)\).*\(40, 3\)"):
        fit({"a": x["a"][:, :3]}, y, inputs)
    with pytest.raises(ValueError, match="outside of the bounds"):
        fit({"a": x["a"] * 2}, y, inputs)
    with pytest.raises(ValueError, match="do not determine"):
        fit({"a": x["a"].at[:, 1].set(0.5)}, y, inputs)
    with pytest.raises(ValueError, match="y must be finite, but 1 "):
        fit(x, y.at[3].set(jnp.nan), inputs)
    with pytest.raises(ValueError, match="ridge must be"):
        fit(x, y, inputs, ridge=-1.0)
    with pytest.raises(ValueError, match="same rows"):
        fit(x, y[:-1], inputs)
