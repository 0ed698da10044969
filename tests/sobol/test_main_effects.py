"""Main effects by ridge regression: against normal equations, refits, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.polynomial import legendre as numpy_legendre

from jaxplain import masks, qmc, sobol
from jaxplain.sobol import _main_effects

KEY = jax.random.key(23)


def twin_features(u, degree):
    columns = []
    for k in range(1, degree + 1):
        values = numpy_legendre.legval(2 * u - 1, [0] * k + [1]) * np.sqrt(2 * k + 1)
        columns.append(values)
    return np.concatenate(columns, axis=1)


def twin_coefficients(features, y, penalty, n):
    """Normal equations, the intercept free; the penalty is for each of n masks."""
    centred = features - features.mean(0)
    gram = centred.T @ centred + n * penalty * np.eye(features.shape[1])
    b = np.linalg.solve(gram, centred.T @ (y - y.mean()))
    return y.mean() - features.mean(0) @ b, b


def case(n, d, seed=0):
    rng = np.random.default_rng(seed)
    u = rng.random((n, d))
    return u, np.sin(4 * u[:, 0]) + u[:, 1] * u[:, 2] - u[:, 1] + 0.05 * rng.normal(size=n)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (15, 12)])
@pytest.mark.parametrize("penalty", [1e-3, 0.3])
def test_coefficients_and_left_out_errors_are_those_of_refits(n, d, penalty, x64):
    """More masks than coefficients, and fewer: each mask is left out and predicted by a new fit."""
    u, y = case(n, d)
    features = twin_features(u, 2)
    np.testing.assert_allclose(_main_effects.legendre(jnp.asarray(u), 2), features, rtol=1e-12)
    fit = _main_effects._fit(jnp.asarray(y)[:, None], jnp.asarray(features), 2, penalty)
    _, b = twin_coefficients(features, y, penalty, n)
    np.testing.assert_allclose(fit.coefficients[0], b, rtol=1e-8, atol=1e-10)
    errors, of_means = [], []
    for i in range(n):
        others = np.arange(n) != i
        c, b = twin_coefficients(features[others], y[others], penalty, n)
        errors.append(y[i] - c - features[i] @ b)
        of_means.append(y[i] - y[others].mean())
    expected = 1 - np.mean(np.square(errors)) / np.mean(np.square(of_means))
    np.testing.assert_allclose(fit.r_squared[0], expected, rtol=1e-8)


def test_the_penalty_is_the_one_that_predicts_best(x64):
    u, y = case(30, 10)
    features, y = jnp.asarray(twin_features(u, 2)), jnp.asarray(np.stack([y, y[::-1]], 1))
    fit = _main_effects._fit(y, features, 2, None)
    of = [_main_effects._fit(y, features, 2, p).r_squared for p in _main_effects.PENALTIES]
    np.testing.assert_allclose(fit.r_squared, np.max(of, axis=0), rtol=1e-9)
    best = np.array(_main_effects.PENALTIES)[np.argmax(of, axis=0)]
    np.testing.assert_allclose(fit.penalty, best, rtol=1e-9)
    assert fit.penalty[1] > fit.penalty[0]  # outputs in the wrong order are noise


@pytest.mark.parametrize("degree", [1, 2, 4])
def test_linear_functions_are_exact(degree):
    weights = jnp.array([3.0, -1.0, 0.5, 0.0])
    explain = sobol.main_effects(
        lambda x: 100 + jnp.dot(x, weights), masks=masks.elements(), samples=256, degree=degree
    )
    result = explain(KEY, jnp.ones(4), jnp.zeros(4))
    np.testing.assert_allclose(result.values, weights**2 / jnp.sum(weights**2), atol=1e-3)
    np.testing.assert_allclose(result.slopes, weights, atol=2e-3)
    np.testing.assert_allclose(result.variance, jnp.sum(weights**2) / 12, rtol=1e-3)
    np.testing.assert_allclose(result.r_squared, 1, atol=1e-4)
    assert (result.standard_error < 1e-3).all()


def test_the_product_of_two_parts_and_the_errors_of_its_indices():
    """f = u1 u2 + u3: S = (1/48, 1/48, 1/12) / (1/48 + 1/48 + 1/144 + 1/12), over 400 designs."""
    f = lambda x: x[0] * x[1] + x[2]
    explain = sobol.main_effects(
        f, masks=masks.elements(), samples=128, sampler=qmc.monte_carlo, chunk_size=128
    )
    run = jax.jit(jax.vmap(explain, (0, None, None)))
    result = run(jax.random.split(KEY, 400), jnp.ones(4), jnp.zeros(4))
    parts = np.array([1 / 48, 1 / 48, 1 / 12, 0])
    expected = parts / (parts.sum() + 1 / 144)
    error = np.asarray(result.cells) - expected
    claimed = np.sqrt(np.mean(np.square(result.cells_error), axis=0))
    # Squares hold those of the noise: a bias below one standard error.
    assert (np.abs(error.mean(0)) < claimed).all()
    ratio = np.sqrt(np.mean(error**2, axis=0)) / claimed
    assert (ratio < 1.3).all(), ratio
    assert (ratio > 0.7).all(), ratio
    share = parts.sum() / (parts.sum() + 1 / 144)
    np.testing.assert_allclose(result.r_squared.mean(), share, atol=0.01)


def test_an_image_with_a_map_for_each_class():
    image = 1 + jax.random.uniform(KEY, (6, 8, 3))
    weights = jax.random.normal(KEY, (2, 6, 8, 3))
    f = lambda x, weights: jnp.tensordot(weights, x, axes=3)
    explain = sobol.main_effects(f, masks=masks.grid(3, 4), samples=64, chunk_size=32)
    result = explain(KEY, image, jnp.zeros_like(image), weights)
    assert result.values.shape == result.standard_error.shape == (2, 6, 8, 3)
    of_cells = (weights * image[None]).reshape(2, 3, 2, 4, 2, 3).sum((2, 4, 5))
    expected = of_cells**2 / jnp.sum(of_cells**2, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(result.cells, expected, atol=5e-3)
    np.testing.assert_allclose(result.slopes, of_cells, atol=0.05)
    np.testing.assert_array_equal(result.values[:, ::2, ::2, 0], result.cells)
    np.testing.assert_allclose(result.output, f(image, weights), rtol=1e-4)


def test_more_cells_than_masks():
    """96 coefficients of which two matter, from 64 masks: they are found."""
    f = lambda x: 3 * x[5] - 2 * x[40]
    explain = sobol.main_effects(f, masks=masks.elements(), samples=64)
    result = explain(KEY, jnp.ones(48), jnp.zeros(48))
    assert set(np.argsort(result.cells)[-2:].tolist()) == {5, 40}
    assert bool(result.finite)


@pytest.mark.parametrize("value", [0.0, -2.5, 1e6])
def test_a_constant_output_is_zero_with_a_flag(value):
    f = lambda x: jnp.stack([jnp.full((), value), x[0]])
    result = sobol.main_effects(f, masks=masks.elements(), samples=32)(
        KEY, jnp.ones(3), jnp.zeros(3)
    )
    assert result.is_constant.tolist() == [True, False]
    for leaf in jax.tree.leaves(result):
        assert not np.isnan(np.asarray(leaf, np.float64)).any()
    for field in ("values", "standard_error", "cells", "slopes", "r_squared", "variance"):
        assert not np.asarray(getattr(result, field))[0].any()


def test_a_penalty_may_be_swept_inside_a_jit():
    traces = []

    @jax.jit
    def sweep(penalty):
        traces.append(1)
        explain = sobol.main_effects(
            lambda x: x[0] + x[1] ** 2, masks=masks.elements(), samples=32, penalty=penalty
        )
        return explain(KEY, jnp.ones(2), jnp.zeros(2)).slopes

    weak, strong = sweep(1e-4), sweep(10.0)
    assert len(traces) == 1
    np.testing.assert_allclose(weak[0], 1, atol=1e-2)
    assert (strong < 0.2).all()


def test_bad_options_are_named():
    f = lambda x: x.sum()
    make = functools.partial(sobol.main_effects, f)
    for options, error, message in (
        ({"samples": 3}, ValueError, "samples must be at least 4"),
        ({"degree": 0}, ValueError, "degree must be at least 1"),
        ({"degree": 1.5}, TypeError, "degree must be a Python integer"),
        ({"penalty": 0.0}, ValueError, "penalty must be finite and above 0"),
        ({"penalty": "ridge"}, TypeError, "penalty must be one real number"),
        ({"masks": 8}, TypeError, "masks must be a Masks"),
        ({"sampler": "sobol"}, TypeError, "sampler must be a function"),
    ):
        with pytest.raises(error, match=message):
            make(**options)
