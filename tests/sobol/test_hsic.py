"""HSIC attribution: against the n^3 form with both Gram matrices centred, and under nulls."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxplain import masks, qmc, sobol
from jaxplain.sobol import _hsic_estimates

KEY = jax.random.key(11)
KERNELS = _hsic_estimates.KERNELS


def twin_kernel(name, u, v):
    if name == "binary":
        return 0.5 - (u - v) ** 2
    t = np.abs(u - v)
    return (t * t - t + 1 / 6) / 2 + (u - 0.5) * (v - 0.5)


def twin(y, cells, name, width="distances", extras=True):
    """The textbook's form in float64: every Gram matrix made and centred by products with H."""
    y, cells = np.asarray(y, np.float64), np.asarray(cells, np.float64)
    n, d = cells.shape
    h = np.eye(n) - 1 / n
    apart = np.abs(y[:, None] - y)
    if width == "distances":
        pairs = apart[np.triu_indices(n, 1)]
        width = np.median(pairs[pairs > 0])
    elif width == "outputs":
        width = abs(np.median(y))
    grams = [twin_kernel(name, c[:, None], c) for c in cells.T]
    output = np.exp(-(apart**2) / (2 * width**2))
    centred_output = h @ output @ h
    of = lambda gram: np.sum((h @ gram @ h) * centred_output) / n**2
    centred = [h @ gram @ h for gram in grams]
    hsic = np.array([np.sum(gram * centred_output) / n**2 for gram in centred])
    own = np.array([np.sum(gram**2) for gram in centred])
    found = {
        "hsic": hsic,
        "normalised": hsic * n**2 / np.sqrt(own * np.sum(centred_output**2)),
        "width": width,
    }
    if not extras:
        return found
    pair = lambda a, b: of((1 + a) * (1 + b)) - of(a) - of(b) if a is not b else 0
    but = lambda i: np.prod([1 + g for j, g in enumerate(grams) if j != i], axis=0)
    every = of(np.prod([1 + gram for gram in grams], axis=0))
    return found | {
        "interactions": np.array([[pair(a, b) for b in grams] for a in grams]),
        "total_order": np.array([1 - of(but(i)) / every for i in range(d)]),
    }


def drawn(name, n, d, seed=0):
    u = qmc.points(qmc.latin_hypercube, jax.random.key(seed), d, n)
    return (u >= 0.5).astype(u.dtype) if name == "binary" else u


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def estimate(y, cells, name, width="distances", extras=True):
    kernel = KERNELS[name]
    moments = _hsic_estimates.cell_moments(cells, kernel)
    return _hsic_estimates.dependence(
        y, cells, moments, kernel=kernel, width=width, interactions=extras, total_order=extras
    )


# ------------------------------------------------------------------------------- the estimator


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("n", [9, 60])
@pytest.mark.parametrize("width", ["distances", "outputs", 0.7])
def test_it_is_the_n_cubed_form(name, n, width, x64):
    cells = drawn(name, n, 5)
    y = 3 * cells[:, 0] + cells[:, 1] * cells[:, 2] + 0.1 * jax.random.normal(KEY, (n,))
    got, expected = estimate(y, cells, name, width), twin(y, cells, name, width)
    for field, value in expected.items():
        np.testing.assert_allclose(getattr(got, field), value, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", KERNELS)
def test_to_1e_5_in_float32_at_the_size_of_an_image(name):
    """The bar: n = 500, d = 64, outputs far from zero as logits are."""
    cells = drawn(name, 500, 64)
    y = 20 + jnp.dot(cells, jnp.exp(-jnp.arange(64.0) / 8))
    got = estimate(y, cells, name, extras=False).hsic
    some = slice(None, None, 8)  # the twin's products take their time
    expected = twin(y, cells[:, some], name, extras=False)["hsic"]
    np.testing.assert_allclose(got[some], expected, rtol=1e-5)


def test_the_collapsed_form_skips_what_the_rows_sum():
    """Where no interactions are asked for, one product; otherwise row by row: the same numbers."""
    cells = drawn("binary", 61, 6)
    y = jnp.sin(3 * cells[:, 0] + cells[:, 1]) + 0.1 * jax.random.normal(KEY, (61,))
    few, all_of_it = estimate(y, cells, "binary", extras=False), estimate(y, cells, "binary")
    np.testing.assert_allclose(few.hsic, all_of_it.hsic, rtol=1e-5)
    assert few.interactions is None
    assert few.total_order is None


@pytest.mark.parametrize("size", [2, 3, 6, 7, 50])
def test_the_median_of_the_pairs_that_differ(size):
    y = np.random.default_rng(size).integers(0, 6, size).astype(np.float32)
    y[0] = 7.5
    apart = np.abs(y[:, None] - y)
    pairs = apart[np.triu_indices(size, 1)]
    got = _hsic_estimates._median_distance(jnp.asarray(y))
    assert float(got) == np.median(pairs[pairs > 0])


def test_a_wide_kernel_gives_variances():
    """exp(-d^2 / 2w^2) -> 1 - d^2 / 2w^2, with which HSIC is 2 cov(m, y)^2 / w^2."""
    cells = drawn("binary", 200, 3)
    y = cells @ jnp.array([1.0, 2.0, 0.5])
    width = 300.0
    with jax.enable_x64(True):
        wide, own = np.asarray(y, np.float64), np.asarray(cells, np.float64)
        got = estimate(jnp.asarray(wide), jnp.asarray(own), "binary", width, extras=False)
        covariance = [np.mean((c - c.mean()) * (wide - wide.mean())) for c in own.T]
        expected = 2 * np.square(covariance) / width**2
        np.testing.assert_allclose(got.hsic, expected, rtol=1e-4)


def test_interactions_and_total_of_a_product_and_of_a_sum(x64):
    """Of m1 m2 the two interact; of a sum seen by a wide kernel they do not."""
    cells = drawn("sobolev", 400, 3)
    seen_wide = estimate(cells[:, 0] + cells[:, 1], cells, "sobolev", 300.0)
    product = estimate((cells[:, 0] - 0.5) * (cells[:, 1] - 0.5), cells, "sobolev")
    assert product.interactions[0, 1] > 20 * abs(product.interactions[0, 2])
    assert abs(seen_wide.interactions[0, 1]) < 0.02 * seen_wide.hsic[0]
    np.testing.assert_allclose(product.interactions, product.interactions.T, rtol=1e-9)
    assert (product.total_order[:2] > 0.6).all()
    assert product.total_order[2] < 0.4


# -------------------------------------------------------------------------------- the p-values


@pytest.mark.parametrize("name", KERNELS)
def test_moments_are_those_over_all_permutations(name, x64):
    """All 5,040 of seven rows: the exact mean and variance, from which p follows."""
    n = 7
    cells, y = drawn(name, n, 1, seed=3), jax.random.normal(KEY, (n,))
    h = np.eye(n) - 1 / n
    k = h @ twin_kernel(name, np.asarray(cells), np.asarray(cells).T) @ h
    apart = np.abs(np.asarray(y)[:, None] - np.asarray(y))
    width = np.median(apart[apart > 0])
    gram = h @ np.exp(-(apart**2) / (2 * width**2)) @ h
    traces = [
        np.sum(k[np.ix_(order, order)] * gram)
        for order in map(list, itertools.permutations(range(n)))
    ]
    skewness = 8**0.5 * KERNELS[name].skewness * np.trace(gram @ gram @ gram)
    shape = 4 / (skewness / np.trace(gram @ gram) ** 1.5) ** 2
    place = (np.sum(k * gram) - np.mean(traces)) / np.std(traces)
    expected = scipy.stats.gamma.sf(shape + shape**0.5 * place, shape)
    np.testing.assert_allclose(estimate(y, cells, name).p_values[0], expected, rtol=1e-9)


def test_the_skewness_of_many_outputs():
    y = jnp.exp(jax.random.normal(KEY, (901,)))
    got = _hsic_estimates._skewness(y, jnp.float32(0.7))
    wide = np.asarray(y, np.float64)
    h = np.eye(901) - 1 / 901
    gram = h @ np.exp(-(((wide[:, None] - wide) / 0.7) ** 2) / 2) @ h
    np.testing.assert_allclose(
        got, np.trace(gram @ gram @ gram) / np.sum(gram**2) ** 1.5, rtol=0.02
    )


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("outputs", ["normal", "skewed", "two values"])
def test_p_values_of_cells_without_influence_are_uniform(name, outputs):
    """20,000 cells of 100 designs: the false alarms at a level are that share, within 15 % of it
    for the approximation and four standard errors for chance (which fails one time in 10,000).
    """
    n, d, many = 60, 200, 100
    keys = jax.random.split(jax.random.key(5), many)

    def one(key):
        for_cells, for_outputs = jax.random.split(key)
        u = qmc.points(qmc.latin_hypercube, for_cells, d, n)
        z = jax.random.normal(for_outputs, (n,))
        y = {"normal": z, "skewed": jnp.exp(z), "two values": (z > 0.5).astype(z.dtype)}[outputs]
        cells = (u >= 0.5).astype(u.dtype) if name == "binary" else u
        return estimate(y, cells, name, extras=False).p_values

    p = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys)).ravel()
    # Cells of one design share the outputs; their tests are nearly, not quite, independent.
    for level in (0.5, 0.1, 0.05, 0.01):
        # With two values and a binary cell the statistic is one of a few numbers.
        slack = 0.35 if (outputs, name) == ("two values", "binary") else 0.15
        chance = 4 * np.sqrt(level * (1 - level) / p.size)
        assert abs(np.mean(p <= level) - level) < slack * level + chance, (
            level,
            np.mean(p <= level),
        )


# ---------------------------------------------------------------------------------- the kernel


def weighted(x, weights):
    return jnp.dot(x, weights)


def test_the_masks_reach_the_model_and_the_result_the_image():
    """An image, a map for each class: values are those of the estimator on the masks seen."""
    image, weights = jax.random.normal(KEY, (6, 8, 3)), jax.random.normal(KEY, (3, 6, 8, 3))
    f = lambda x, weights: jnp.tanh(0.02 * jnp.tensordot(weights, x, axes=3))
    explain = sobol.hsic_attribution(f, masks=masks.grid(2, 4), samples=51, chunk_size=17)
    result = explain(KEY, image, jnp.zeros_like(image), weights)
    assert result.values.shape == (3, 6, 8, 3)
    assert result.cells.shape == result.p_values.shape == result.normalised.shape == (3, 2, 4)
    assert int(result.evaluations) == 51
    np.testing.assert_allclose(result.output, f(image, weights), rtol=1e-5)
    block = qmc.latin_hypercube(KEY, 8, 51, 51)(jnp.int32(0))
    cells = (block >= 0.5).astype(jnp.float32)
    parts = masks.grid(2, 4)
    seen = jax.vmap(lambda c: f(parts.expand(c.reshape(2, 4), image) * image, weights))(cells)
    for number in range(3):
        expected = twin(seen[:, number], cells, "binary", extras=False)
        np.testing.assert_allclose(result.cells[number].ravel(), expected["hsic"], rtol=2e-4)
        np.testing.assert_allclose(
            result.normalised[number].ravel(), expected["normalised"], rtol=2e-4
        )
        np.testing.assert_allclose(result.width[number], expected["width"], rtol=1e-5)
    np.testing.assert_array_equal(result.values[:, ::3, ::2, 0], result.cells)
    # Outputs of a batch of classes are what each alone gives.
    alone = sobol.hsic_attribution(
        lambda x, w: f(x, w)[1], masks=masks.grid(2, 4), samples=51, chunk_size=17
    )
    np.testing.assert_allclose(
        alone(KEY, image, jnp.zeros_like(image), weights).cells, result.cells[1], rtol=1e-4
    )


def test_two_modalities_and_interactions():
    x = {"image": jnp.ones((4, 4, 2)), "text": jnp.ones((3, 5))}
    parts = masks.elements()
    f = lambda x: jnp.stack([x["image"][0, 0, 0] * x["text"][1, 2], jnp.sum(x["text"][0])])
    explain = sobol.hsic_attribution(
        f, masks=parts, samples=200, interactions=True, total_order=True, kernel="sobolev"
    )
    result = explain(KEY, x, jax.tree.map(jnp.zeros_like, x))
    assert result.values["image"].shape == (2, 4, 4, 2)
    assert result.values["text"].shape == (2, 3, 5)
    assert result.interactions.shape == (2, 47, 47)
    assert result.total_order.shape == (2, 47)
    assert int(jnp.argmax(result.values["image"][0])) == 0
    assert set(np.argsort(result.values["text"][1].ravel())[-5:].tolist()) == {0, 1, 2, 3, 4}


def test_token_ids():
    """A model of integers: ids are replaced by the id of a mask token."""
    f = lambda ids, table: jnp.sum(table[ids])
    ids, table = jnp.array([3, 1, 2, 0, 2]), jnp.array([0.0, 0.1, 0.2, 2.0])
    explain = sobol.hsic_attribution(f, masks=masks.tokens(), samples=100)
    result = explain(KEY, ids, jnp.zeros_like(ids), table)
    assert result.values.dtype == jnp.float32
    assert int(jnp.argmax(result.values)) == 0
    assert float(result.p_values[0]) < 1e-6 < float(result.p_values[3])
    assert float(result.output) == pytest.approx(2.5)


@pytest.mark.parametrize("value", [0.0, -3.7, 1e6])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_constant_output_is_zero_with_a_flag(kernel, value):
    f = lambda x: jnp.stack([jnp.full((), value), x[0]])
    explain = sobol.hsic_attribution(
        f, masks=masks.elements(), samples=20, kernel=kernel, interactions=True, total_order=True
    )
    result = explain(KEY, jnp.ones(3), jnp.zeros(3))
    assert result.is_constant.tolist() == [True, False]
    for leaf in jax.tree.leaves(result):
        assert not np.isnan(np.asarray(leaf, np.float64)).any()
    for field in ("values", "cells", "normalised", "interactions", "total_order"):
        assert not np.asarray(getattr(result, field))[0].any()
    assert (np.asarray(result.p_values)[0] == 1).all()
    assert bool(result.finite)


def test_an_output_of_few_values_has_a_width():
    """More than half of the pairs are equal: their median distance would be 0."""
    f = lambda x: x[0] * x[1] * x[2]
    result = sobol.hsic_attribution(f, masks=masks.elements(), samples=100)(
        KEY, jnp.ones(4), jnp.zeros(4)
    )
    assert float(result.width) == 1
    assert (np.asarray(result.p_values) < 0.01).tolist() == [True, True, True, False]
    zero = sobol.hsic_attribution(f, masks=masks.elements(), samples=100, width="outputs")
    assert float(zero(KEY, jnp.ones(4), jnp.zeros(4)).width) == 1  # the median is 0


def test_what_shift_and_scale_change():
    """Nothing, with the default width; the map itself where the width is the median output."""
    f = lambda x, a, b: a * jnp.tanh(jnp.dot(x, jnp.array([1.0, 2.0, 0.5]))) + b
    make = lambda **options: functools.partial(
        sobol.hsic_attribution(f, masks=masks.elements(), samples=80, **options),
        KEY, jnp.ones(3), jnp.zeros(3),
    )  # fmt: skip
    default, peer = make(), make(width="outputs")
    np.testing.assert_allclose(default(1.0, 0.0).cells, default(-7.0, 2.0).cells, rtol=1e-4)
    assert abs(peer(1.0, 0.0).cells - peer(1.0, 9.0).cells).max() > 1e-3


def test_a_width_may_be_swept_inside_a_jit():
    traces = []

    @jax.jit
    def of_width(width):
        traces.append(1)
        explain = sobol.hsic_attribution(weighted, masks=masks.elements(), samples=30, width=width)
        return explain(KEY, jnp.ones(3), jnp.zeros(3), jnp.arange(3.0)).cells

    a, b = of_width(0.5), of_width(2.0)
    assert len(traces) == 1
    assert (a[1:] > b[1:]).all()


def test_memory_does_not_grow_with_the_image_times_the_masks():
    image = jnp.ones((64, 64, 3))
    f = lambda x: jnp.sum(x**2)

    def temporary(samples):
        explain = sobol.hsic_attribution(f, samples=samples, chunk_size=8)
        compiled = jax.jit(explain).lower(KEY, image, image).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporary(100), temporary(200)
    # What grows is a few numbers for each pair of masks, and none for each pixel of each mask.
    assert many - few < 20 * 4 * (200**2 - 100**2)
    assert many - few < 4 * 100 * image.size


def test_bad_options_are_named():
    f = lambda x: x.sum()
    with pytest.raises(ValueError, match='kernel must be "binary" or "sobolev", but is \'rbf\''):
        sobol.hsic_attribution(f, kernel="rbf")
    with pytest.raises(ValueError, match='width must be "distances", "outputs" or a number'):
        sobol.hsic_attribution(f, width="median")
    with pytest.raises(ValueError, match=r"width must be finite and above 0"):
        sobol.hsic_attribution(f, width=0.0)
    with pytest.raises(ValueError, match="samples must be at least 4, but is 3"):
        sobol.hsic_attribution(f, samples=3)
    with pytest.raises(TypeError, match=r"masks must be a Masks.*but is a tuple"):
        sobol.hsic_attribution(f, masks=(7, 7))
    with pytest.raises(TypeError, match="perturbation must be a function"):
        sobol.hsic_attribution(f, perturbation="blur")
    with pytest.raises(TypeError, match="sampler must be a function"):
        sobol.hsic_attribution(f, sampler="sobol")
    with pytest.raises(ValueError, match="7 cells along axis 0, but x has 3 elements"):
        sobol.hsic_attribution(f)(KEY, jnp.ones((3, 9)), jnp.zeros((3, 9)))
    with pytest.raises(TypeError, match="key must be a typed key"):
        sobol.hsic_attribution(f)(jnp.zeros(2), jnp.ones((9, 9)), jnp.zeros((9, 9)))
    with pytest.raises(TypeError, match="f must return one array"):
        sobol.hsic_attribution(lambda x: (x, x))(KEY, jnp.ones((9, 9)), jnp.zeros((9, 9)))
