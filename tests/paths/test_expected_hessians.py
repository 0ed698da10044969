"""Expected Hessians: the density of u v, closed forms, errors that are honest, completeness."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths
from jaxplain.paths._expected_hessians import log_quantile

KEY = jax.random.key(0)
X = np.array([1.0, -2.0, 0.5])
BASELINES = np.array([[0.0, 0.0, 0.0], [0.5, 1.0, -1.0], [-1.0, 0.3, 0.2]])
W = np.array([[0.0, 2.0, -1.0], [2.0, 3.0, 0.5], [-1.0, 0.5, -2.0]])


def quadratic(x, w):
    """x^T W x / 2: the Hessian is W, so the integrals over u and v are those of u v alone."""
    return jnp.dot(x, jnp.dot(w, x)) / 2


def closed_form():
    """By hand: E[u v] = 1/4, and the gradient at b + u v d is W b + u v W d."""
    d = X - BASELINES
    pairs = d[:, :, None] * d[:, None, :] * W / 4
    first = d * (BASELINES @ W + d @ W / 4)
    return (pairs + first[:, :, None] * np.eye(3)).mean(axis=0)


def test_the_quantile_of_the_density(x64):
    """s - s log s = t, and a product of two uniform numbers has it."""
    t = jnp.linspace(0, 1, 1001)
    s = np.asarray(log_quantile(t))
    below = lambda s: s - s * np.log(np.where(s > 0, s, 1))
    np.testing.assert_allclose(below(s[1:]), t[1:], atol=1e-14)
    assert s[0] < 1e-300
    assert s[-1] == 1
    assert (np.diff(s) > 0).all()
    # Kolmogorov and Smirnov on 20,000 products: one false alarm in a hundred, of a fixed seed.
    products = np.sort(np.prod(np.random.default_rng(0).uniform(size=(2, 20_000)), axis=0))
    ranks = (np.arange(20_000) + 0.5) / 20_000
    assert np.abs(below(products) - ranks).max() < 1.63 / np.sqrt(20_000)


@pytest.mark.parametrize("positions", ["random", "stratified", "qmc"])
def test_closed_form_within_its_errors(positions, x64):
    """Mean squared z-scores near 1 over 200 keys, and no bias: |mean z| < 4 / sqrt(200)."""
    explain = paths.expected_hessians(quadratic, samples=96, positions=positions)
    keys = jax.random.split(KEY, 200)
    result = jax.jit(jax.vmap(explain, (0, None, None, None)))(keys, X, BASELINES, W)
    expected = closed_form()
    error = np.asarray(result.standard_error)
    moves = error.mean(axis=0) > 1e-12
    assert moves.sum() >= 8
    np.testing.assert_allclose(result.values.mean(axis=0)[~moves], expected[~moves], atol=1e-12)
    off = np.asarray(result.values) - expected
    bias = off.mean(axis=0) / (off.std(axis=0) / np.sqrt(len(off)) + 1e-300)
    assert np.abs(bias[moves]).max() < 4
    honest = np.sqrt((error**2).mean(axis=0)) / np.maximum(off.std(axis=0), 1e-300)
    assert (np.abs(honest[moves] - 1) < 0.25).all()
    gap_error = np.asarray(result.gap_error)
    scores = np.asarray(result.completeness_gap) / gap_error
    assert abs(np.mean(scores**2) - 1) < 0.6


def test_rows_are_those_of_the_matrix(x64):
    """The same key, the same samples: one row, and a group's row as a sum."""
    full = paths.expected_hessians(quadratic, samples=40)(KEY, X, BASELINES, W)
    row = paths.expected_hessian_row(quadratic, samples=40)
    for direction in (np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 1.0])):
        got = row(KEY, X, BASELINES, direction, W)
        np.testing.assert_allclose(got.values, direction @ np.asarray(full.values), atol=1e-12)
    assert int(full.evaluations) == 3 * int(got.evaluations)


def test_the_rows_sum_to_expected_gradients(x64):
    f = lambda x, w: jnp.tanh(jnp.dot(x, jnp.dot(w, x))) + jnp.sum(jnp.sin(x))
    many = {"samples": 30_000, "positions": "qmc", "chunk_size": 512}
    ones = np.ones(3)
    row = paths.expected_hessian_row(f, **many)(KEY, X, BASELINES, ones, W)
    gradients = paths.expected_gradients(f, **many)(KEY, X, BASELINES, W)
    error = np.hypot(row.standard_error, gradients.standard_error)
    assert (np.abs(row.values - gradients.values) < 5 * error + 1e-9).all()
    assert error.max() < 0.02


def test_bad_directions():
    row = paths.expected_hessian_row(quadratic, samples=4)
    with pytest.raises(ValueError, match="direction must have the shape of x"):
        row(KEY, X, BASELINES, np.ones(2), W)
