"""Attribution of wavelet coefficients: by band, by place, and as the composition that it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import masks, sobol, wavelets

KEY = jax.random.key(4)
X = jax.random.normal(jax.random.key(1), (16, 16, 2))


def weigh(x, levels=2):
    """A function of three parts: an approximation cell, one band, and one cell of another."""
    c = wavelets.decompose(x, levels=levels)
    return (
        3 * jnp.sum(c.approximation[:2, :2])
        + 2 * jnp.sum(c.details[0].vertical)
        + jnp.sum(c.details[1].diagonal[2:, 2:])
    )


def test_each_part_has_the_share_of_its_square():
    """f is linear in the cells, so T_i = w_i^2 / sum w^2, w_i what the cell's coefficients add."""
    explain = sobol.wavelet_attribution(
        weigh, levels=2, cells=(2, 2), samples=2048, estimator=sobol.estimators.jansen
    )
    result = explain(KEY, X, jnp.zeros_like(X))
    c = wavelets.decompose(X, levels=2)
    quarters = lambda band: np.asarray(band).reshape(2, band.shape[0] // 2, 2, -1, 2).sum((1, 3, 4))
    weights = {
        "approximation": np.array([[3.0, 0], [0, 0]]) * quarters(c.approximation),
        "vertical": 2 * quarters(c.details[0].vertical),
        "diagonal": np.array([[0.0, 0], [0, 1]]) * quarters(c.details[1].diagonal),
    }
    whole = sum((w**2).sum() for w in weights.values())
    for found, error, name in (
        (result.bands.approximation, result.bands_error.approximation, "approximation"),
        (result.bands.details[0].vertical, result.bands_error.details[0].vertical, "vertical"),
        (result.bands.details[1].diagonal, result.bands_error.details[1].diagonal, "diagonal"),
    ):
        expected = (weights[name] ** 2).sum() / whole
        assert abs(found - expected) < 4 * error
        assert error < 0.1
    assert abs(result.bands.details[0].diagonal) < 1e-6
    assert abs(result.bands.details[1].horizontal) < 1e-6
    # Where: the top left has the approximation's cell and a cell of the finest vertical band.
    top_left = (weights["approximation"][0, 0] ** 2 + weights["vertical"][0, 0] ** 2) / whole
    np.testing.assert_allclose(result.values[:8, :8], top_left, atol=0.05)
    np.testing.assert_allclose(
        result.values[:8, 8:], weights["vertical"][0, 1] ** 2 / whole, atol=0.05
    )


def test_it_is_attribution_of_the_coefficients():
    options = {"samples": 8, "chunk_size": 5}
    f = lambda x, scale: jnp.stack([jnp.sum(jnp.tanh(x)), scale * jnp.max(x)])
    scale = jnp.float32(3)
    result = sobol.wavelet_attribution(f, wavelet="db2", levels=1, cells=(2, 3), **options)(
        KEY, X, jnp.ones_like(X), scale
    )
    into = lambda x: wavelets.decompose(x, wavelet="db2", levels=1)
    inner = sobol.attribution(
        lambda c, scale: f(wavelets.reconstruct(c), scale),
        masks=masks.each(masks.grid(2, 3)),
        **options,
    )(KEY, into(X), into(jnp.ones_like(X)), scale)
    np.testing.assert_allclose(result.coefficients.cells, inner.cells, rtol=1e-5, atol=1e-6)
    assert result.values.shape == (2, *X.shape)
    bands = jax.tree.leaves(result.bands)
    np.testing.assert_allclose(
        jnp.stack(bands, axis=1), inner.cells.reshape(2, 4, 6).sum(-1), rtol=1e-4, atol=1e-5
    )
    # A map of where is, at each element, the sum of the cells that it lies in.
    cells = inner.cells.reshape(2, 4, 2, 3).sum(1)
    np.testing.assert_allclose(result.values[:, 0, 0, 0], cells[:, 0, 0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.values[:, -1, -1, 1], cells[:, -1, -1], rtol=1e-4, atol=1e-5)


def test_whole_bands_of_a_signal():
    signal = jnp.sin(jnp.arange(64.0))
    f = lambda x: jnp.sum(wavelets.decompose(x, levels=3, axes=(0,)).details[1] ** 2)
    explain = sobol.wavelet_attribution(f, levels=3, cells=(1,), samples=64)
    result = explain(KEY, signal, jnp.zeros_like(signal))
    assert abs(result.bands.details[1] - 1) < 4 * result.bands_error.details[1]
    np.testing.assert_allclose(result.bands.details[0], 0, atol=1e-6)
    assert result.values.shape == signal.shape


def test_bad_calls():
    explain = sobol.wavelet_attribution(jnp.sum, cells=(4, 4), levels=2)
    with pytest.raises(TypeError, match="one array, an image or a signal, but x is a tree"):
        explain(KEY, {"image": X}, {"image": X})
    with pytest.raises(ValueError, match="4 cells along axis 0, but x has 2"):
        explain(KEY, X[:8], X[:8])
    with pytest.raises(ValueError, match="baseline must have the shape of x"):
        explain(KEY, X, X[:4])
    with pytest.raises(TypeError, match="f must be a function"):
        sobol.wavelet_attribution(3)
