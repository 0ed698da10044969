"""RISE: against the exact expectation over all masks, a slow twin in numpy, and its own errors."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import masks, perturbation, qmc

KEY = jax.random.key(17)
IMAGE = np.random.default_rng(2).normal(size=(4, 6, 2)).astype(np.float32)
BASELINE = np.full_like(IMAGE, 0.2)


def f(x):
    """Not linear in the masks, and not monotone."""
    return jnp.stack([jnp.sin(3 * x[0, 0, 0]) * x[3, 5, 1] + x.sum(), jnp.tanh(x[1].sum() - 1)])


def bilinear(cells, length, offset):
    """Along the first axis: (size + 1) cells of ceil(length / size), cropped from an offset."""
    size = len(cells)
    whole = (size + 1) * -(-length // size)
    rows = []
    for i in range(offset, offset + length):
        source = min(max((i + 0.5) * size / whole - 0.5, 0), size - 1)
        low = min(int(source), size - 2) if size > 1 else 0
        high = min(low + 1, size - 1)
        rows.append((1 - (source - low)) * cells[low] + (source - low) * cells[high])
    return np.array(rows)


def twin_mask(cells, offsets, shape=IMAGE.shape):
    rows = bilinear(cells, shape[0], offsets[0])
    return bilinear(rows.T, shape[1], offsets[1]).T[:, :, None]


def expectation(weighted_masks):
    """Exact: E[m f] / E[m], from all masks with their probabilities."""
    top, bottom, mean, fraction = 0, 0, 0, 0
    apply = jax.jit(f)
    for weight, mask in weighted_masks:
        y = np.asarray(apply(mask.astype(np.float32) * (IMAGE - BASELINE) + BASELINE), np.float64)
        top = top + weight * np.multiply.outer(y, mask)
        bottom, mean = bottom + weight * mask, mean + weight * y
        fraction = fraction + weight
    assert fraction == pytest.approx(1)
    return top / bottom, top, mean


def all_masks(p, shifts):
    parts = masks.grid(2, 2)
    for bits in itertools.product([0, 1], repeat=4):
        weight = p ** sum(bits) * (1 - p) ** (4 - sum(bits))
        cells = np.array(bits, np.float32).reshape(2, 2)
        if not shifts:
            yield weight, np.asarray(parts.expand(jnp.asarray(cells), jnp.asarray(IMAGE)))
        else:  # a cell of 4 x 6 has 2 x 3 elements, hence six places of the window
            for offsets in itertools.product(range(2), range(3)):
                yield weight / 6, twin_mask(cells, offsets)


@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
@pytest.mark.parametrize("normalisation", ["mask", "probability"])
@pytest.mark.parametrize("p", [0.5, 0.3])
def test_the_exact_expectation_within_four_standard_errors(upsampling, normalisation, p):
    """48 values are compared, many of them equal: chance fails this once in some 1,000 seeds."""
    explain = perturbation.rise(
        f,
        masks=masks.grid(2, 2, upsampling=upsampling),
        samples=8000,
        probability=p,
        normalisation=normalisation,
        chunk_size=400,
    )
    result = explain(KEY, IMAGE, BASELINE)
    ratio, product, mean = expectation(all_masks(p, upsampling == "bilinear"))
    expected = np.broadcast_to(ratio if normalisation == "mask" else product / p, (2, *IMAGE.shape))
    apart = (np.asarray(result.values) - expected) / np.asarray(result.standard_error)
    assert np.abs(apart).max() < 4
    assert np.abs(apart).max() > 0.1  # and the errors are not vastly too wide
    np.testing.assert_allclose(result.mean_output, mean, atol=0.1)
    assert result.values.shape == result.standard_error.shape == (2, *IMAGE.shape)


@pytest.mark.parametrize("normalisation", ["mask", "probability"])
@pytest.mark.parametrize(("samples", "chunk_size"), [(2, 1), (37, 16)])
def test_a_slow_twin(normalisation, samples, chunk_size):
    """The same random numbers, one mask after the other, with the textbook's formulas."""
    parts = masks.grid(3, 2, upsampling="bilinear")
    u = np.asarray(qmc.points(qmc.monte_carlo, KEY, 8, samples))
    p, shape = 0.6, IMAGE.shape
    seen = []
    for row in u:
        cells = (row[:6] < p).astype(np.float64).reshape(3, 2)
        seen.append(twin_mask(cells, (int(row[6] * 2), int(row[7] * 3))))
    m = np.array(seen)
    images = (m * IMAGE + (1 - m) * BASELINE).astype(np.float32)
    y = np.asarray(jax.vmap(f)(images), np.float64)
    m = np.broadcast_to(m, (samples, *shape))
    products = np.einsum("no,n...->no...", y, m)
    with np.errstate(invalid="ignore", divide="ignore"):
        if normalisation == "mask":
            expected = products.sum(0) / m.sum(0)
            residual = products - m[:, None] * expected
            error = np.sqrt((residual**2).sum(0) * samples / (samples - 1)) / m.sum(0)
            expected = np.where(m.sum(0) > 0, expected, 0)
        else:
            expected = products.mean(0) / p
            error = products.std(0, ddof=1) / samples**0.5 / p
    explain = perturbation.rise(
        f, masks=parts, samples=samples, probability=p, normalisation=normalisation,
        chunk_size=chunk_size,
    )  # fmt: skip
    result = explain(KEY, IMAGE, BASELINE)
    np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result.standard_error, error, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(result.mean_output, y.mean(0), rtol=1e-4)
    np.testing.assert_allclose(result.baseline_output, f(jnp.asarray(BASELINE)), rtol=1e-5)
    assert int(result.evaluations) == samples


def test_closed_form_and_errors_of_a_linear_function():
    """E[f | kept] = p sum w + (1 - p) w_e; the error of the ratio by its closed form, over keys."""
    weights, p, n = np.array([2.0, 1.0, -1.0, 0.0], np.float32), 0.4, 400
    explain = perturbation.rise(
        lambda x: 50 + jnp.dot(x, weights), masks=masks.elements(), samples=n, probability=p,
        chunk_size=n,
    )  # fmt: skip
    run = jax.jit(jax.vmap(explain, (0, None, None)))
    result = run(jax.random.split(KEY, 1500), jnp.ones(4), jnp.zeros(4))
    expected = 50 + p * weights.sum() + (1 - p) * weights
    error = np.asarray(result.values) - expected
    assert (np.abs(error.mean(0)) < 4 * error.std(0) / 1500**0.5 + 1e-3).all()
    # Given that e is kept, the rest vary: p (1 - p) (sum w^2 - w_e^2), over p n masks.
    variance = p * (1 - p) * ((weights**2).sum() - weights**2) / (p * n)
    np.testing.assert_allclose((error**2).mean(0), variance, rtol=0.16)
    np.testing.assert_allclose((result.standard_error**2).mean(0), variance, rtol=0.02)


def test_two_modalities_share_masks_and_shifts():
    """Leaves of several lengths, along the axes of the grid: each cell keeps its share of each."""
    x = {"fine": jnp.ones((8, 3)), "coarse": jnp.ones(4)}
    f = lambda x: x["fine"][:4].sum() / 3 + x["coarse"][2:].sum() * 5
    parts = masks.windows(2, upsampling="bilinear")
    explain = perturbation.rise(f, masks=parts, samples=500)
    result = explain(KEY, x, jax.tree.map(jnp.zeros_like, x))
    assert result.values["fine"].shape == (8, 3)
    assert result.values["coarse"].shape == (4,)
    np.testing.assert_allclose(result.values["fine"][::2, 0], result.values["coarse"], rtol=0.1)
    assert float(result.values["coarse"][3]) > float(result.values["coarse"][0])


@pytest.mark.parametrize("normalisation", ["mask", "probability"])
def test_what_no_mask_keeps_and_what_is_constant(normalisation):
    explain = perturbation.rise(
        lambda x: 3.0 + 0 * x.sum(), masks=masks.elements(), samples=2, probability=0.01,
        normalisation=normalisation,
    )  # fmt: skip
    result = explain(KEY, jnp.ones(2), jnp.zeros(2))
    assert result.values.tolist() == [0, 0]
    assert np.isnan(result.standard_error).all() == (normalisation == "mask")
    assert bool(result.finite)
    many = perturbation.rise(lambda x: 3.0 + 0 * x.sum(), masks=masks.elements(), samples=100)
    result = many(KEY, jnp.ones(2), jnp.zeros(2))
    np.testing.assert_allclose(result.values, 3, rtol=1e-6)
    np.testing.assert_allclose(result.standard_error, 0, atol=1e-6)


def test_an_output_far_from_zero_keeps_its_errors():
    weights = jnp.array([2.0, 1.0, -1.0])
    make = lambda offset: functools.partial(
        perturbation.rise(
            lambda x: offset + jnp.dot(x, weights), masks=masks.elements(), samples=300
        ),
        KEY, jnp.ones(3), jnp.zeros(3),
    )  # fmt: skip
    near, far = make(0.0)(), make(4096.0)()
    np.testing.assert_allclose(far.values - 4096, near.values, atol=2e-3)
    np.testing.assert_allclose(far.standard_error, near.standard_error, rtol=2e-3)


def test_memory_depends_on_the_chunk_alone():
    image = jnp.ones((32, 32, 3))

    def temporary(samples, chunk_size):
        explain = perturbation.rise(
            lambda x: jnp.tanh(x).sum(), samples=samples, chunk_size=chunk_size
        )
        compiled = jax.jit(explain).lower(KEY, image, image).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporary(2112, 16), temporary(33792, 16)
    assert many <= few + 2**14  # the numbers of the chunks
    assert temporary(2112, 64) > 1.5 * few


def test_probability_may_be_swept_inside_a_jit():
    traces = []

    @jax.jit
    def sweep(p):
        traces.append(1)
        explain = perturbation.rise(
            lambda x: x.sum(), masks=masks.elements(), samples=200, probability=p
        )
        return explain(KEY, jnp.ones(3), jnp.zeros(3)).mean_output

    low, high = float(sweep(0.2)), float(sweep(0.8))
    assert len(traces) == 1
    assert abs(low - 0.6) < 0.3 < 2 < high


def test_only_bilinear_masks_are_shifted():
    assert masks.grid(2, 2).shifted is None
    assert masks.segments(jnp.array([0, 1]), 2).shifted is None
    parts = masks.grid(2, 2, upsampling="bilinear")
    cells = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    for share, offset in ((0.0, (0, 0)), (0.49, (0, 1)), (0.999, (1, 2))):
        got = parts.shifted(cells, jnp.asarray(IMAGE), jnp.full(2, share))
        np.testing.assert_allclose(got, twin_mask(np.asarray(cells), offset), atol=1e-6)
    flipped = masks.grid(2, 2, axes=(1, 0), upsampling="bilinear")
    got = flipped.shifted(cells.at[0, 1].set(0.5), jnp.asarray(IMAGE), jnp.array([0.4, 0.6]))
    expected = twin_mask(np.asarray(cells.at[0, 1].set(0.5)).T, (1, 1))
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_bad_options_are_named():
    f = lambda x: x.sum()
    for bad in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="probability must be above 0 and below 1"):
            perturbation.rise(f, probability=bad)
    with pytest.raises(TypeError, match="probability must be one real number"):
        perturbation.rise(f, probability="half")
    with pytest.raises(ValueError, match='normalisation must be "mask" or "probability"'):
        perturbation.rise(f, normalisation="sum")
    with pytest.raises(ValueError, match="samples must be at least 1"):
        perturbation.rise(f, samples=0)
    with pytest.raises(TypeError, match="masks must be a Masks"):
        perturbation.rise(f, masks=(7, 7))
    with pytest.raises(ValueError, match="the perturbation makes must have the shape of x"):
        perturbation.rise(f, masks=masks.elements(), perturbation=lambda x, b: lambda m: m[:1])(
            KEY, jnp.ones(3), jnp.zeros(3)
        )
