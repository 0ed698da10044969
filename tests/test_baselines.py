"""Baselines against numpy and scipy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from jaxplain import baselines

IMAGE = np.random.default_rng(0).random((13, 9, 3)).astype(np.float32)


def tree(dtype=jnp.float32):
    return {"image": jnp.asarray(IMAGE, dtype), "number": (jnp.asarray(0.25, dtype),)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_every_baseline_is_a_tree_like_x(dtype):
    x, key = tree(dtype), jax.random.key(0)
    image = {"image": x["image"]}
    results = [
        (x, baselines.zeros(x)),
        (x, baselines.constant(x, 0.5)),
        (x, baselines.uniform(key, x)),
        (x, baselines.maximum_distance(x)),
        (x, baselines.black_and_white(x).white),
        (image, baselines.blurred(image, sigma=1.0)),
        (x, baselines.mean(jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), x))),
    ]
    for like, result in results:
        assert jax.tree.structure(result) == jax.tree.structure(like)
        for a, b in zip(jax.tree.leaves(like), jax.tree.leaves(result), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)


def test_zeros_and_constants():
    x = tree()
    assert not any(leaf.any() for leaf in jax.tree.leaves(baselines.zeros(x)))
    colour = np.array([0.1, 0.2, 0.3], np.float32)
    result = baselines.constant(x["image"], colour)
    np.testing.assert_array_equal(result, np.broadcast_to(colour, IMAGE.shape))
    result = baselines.constant(x, {"image": colour, "number": (2.0,)})
    np.testing.assert_array_equal(result["image"], np.broadcast_to(colour, IMAGE.shape))
    assert float(result["number"][0]) == 2
    swept = jax.jit(jax.vmap(lambda v: baselines.constant(x, v)))(jnp.arange(3.0))
    np.testing.assert_array_equal(swept["number"][0], [0, 1, 2])


def test_mean_of_a_dataset():
    dataset = np.random.default_rng(1).standard_normal((1000, 4, 2)) + 50
    for dtype, rtol in ((jnp.float32, 1e-6), (jnp.bfloat16, 2.0**-8)):
        given = jnp.asarray(dataset, dtype)
        exact = np.asarray(given.astype(jnp.float32), np.float64).mean(0)
        result = baselines.mean({"a": given})["a"]
        assert result.dtype == dtype
        np.testing.assert_allclose(result.astype(jnp.float32), exact, rtol=rtol)


@pytest.mark.parametrize("sigma", [0.6, 2.0, (1.5, 0.0), (0.3, 7.0)])
def test_blur_equals_scipy(sigma):
    """Also where the kernel is wider than the image (sigma 7: radius 28 on 9 columns)."""
    widths = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    exact = scipy.ndimage.gaussian_filter(
        IMAGE.astype(np.float64), (*widths, 0), mode="reflect", truncate=4.0
    )
    np.testing.assert_allclose(baselines.blurred(IMAGE, sigma=sigma), exact, atol=2e-6)


def test_blur_of_other_axes_lengths_and_dtypes(x64):
    signal = np.random.default_rng(2).random((3, 2, 40))
    exact = scipy.ndimage.gaussian_filter1d(signal, 3.0, axis=-1, mode="reflect", truncate=2.5)
    result = baselines.blurred(signal, sigma=3.0, axes=(-1,), truncate=2.5)
    assert result.dtype == jnp.float64
    np.testing.assert_allclose(result, exact, rtol=1e-13)
    volume = np.random.default_rng(3).random((2, 6, 7, 8))
    exact = scipy.ndimage.gaussian_filter(volume, (0, 1, 2, 3), mode="reflect")
    result = baselines.blurred(volume, sigma=[1, 2, 3], axes=(1, 2, 3))
    np.testing.assert_allclose(result, exact, rtol=1e-13)


def test_blur_accumulates_in_float32_and_is_linear():
    rounded = jnp.asarray(IMAGE, jnp.bfloat16)
    exact = scipy.ndimage.gaussian_filter(
        np.asarray(rounded.astype(jnp.float32), np.float64), (3, 3, 0), mode="reflect"
    )
    result = baselines.blurred(rounded, sigma=3.0)
    np.testing.assert_allclose(result.astype(jnp.float32), exact, rtol=2.0**-8)
    # symmetric weights, mirrored edges: constants and sums stay, and the adjoint is itself
    np.testing.assert_allclose(baselines.blurred(jnp.ones((5, 4)), sigma=2.0), 1, rtol=1e-6)
    blur = lambda x: baselines.blurred(x, sigma=2.0)
    np.testing.assert_allclose(blur(IMAGE).sum(), IMAGE.sum(), rtol=1e-6)
    cotangent = np.random.default_rng(4).random(IMAGE.shape).astype(np.float32)
    adjoint = jax.vjp(blur, jnp.asarray(IMAGE))[1](jnp.asarray(cotangent))[0]
    np.testing.assert_allclose(adjoint, blur(cotangent), atol=2e-6)


def test_blur_under_vmap():
    images = np.random.default_rng(5).random((4, 6, 6, 2)).astype(np.float32)
    together = jax.jit(jax.vmap(lambda x: baselines.blurred(x, sigma=1.0)))(images)
    exact = scipy.ndimage.gaussian_filter(images.astype(np.float64), (0, 1, 1, 0), mode="reflect")
    np.testing.assert_allclose(together, exact, atol=1e-6)


def test_uniform_noise_has_the_uniform_distribution():
    """Kolmogorov and Smirnov on 30,000 elements; false alarm 1e-4 each, fixed keys."""
    x = {"a": jnp.zeros((100, 100, 3)), "b": jnp.zeros((100, 100, 3))}
    lower = jnp.array([-1.0, 0.0, 2.0])
    b = baselines.uniform(jax.random.key(6), x, lower, 3.0)
    for channel in range(3):
        low = float(lower[channel])
        for leaf in b.values():
            sample = np.asarray(leaf[..., channel]).ravel()
            assert scipy.stats.kstest(sample, "uniform", (low, 3 - low)).pvalue > 1e-4
    # leaves, elements and keys are independent
    correlation = np.corrcoef(np.ravel(b["a"][..., 0]), np.ravel(b["b"][..., 0]))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(10_000)
    other = baselines.uniform(jax.random.key(7), x, lower, 3.0)
    correlation = np.corrcoef(np.ravel(b["a"][..., 0]), np.ravel(other["a"][..., 0]))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(10_000)


def test_samples_are_rows_of_the_dataset_kept_together():
    n = 6
    dataset = {"x": jnp.arange(n * 2.0).reshape(n, 2), "label": jnp.arange(n)}
    drawn = baselines.samples(jax.random.key(8), dataset, 6000)
    np.testing.assert_array_equal(drawn["x"], np.asarray(dataset["x"])[drawn["label"]])
    counts = np.bincount(drawn["label"], minlength=n)
    assert scipy.stats.chisquare(counts).pvalue > 1e-4
    once = baselines.samples(jax.random.key(9), dataset, n, replace=False)
    assert sorted(once["label"].tolist()) == list(range(n))
    assert drawn["label"].dtype == dataset["label"].dtype


def test_maximum_distance_is_the_far_end():
    x = jnp.array([-1.0, -0.2, 0.0, 0.1, 3.0])
    result = baselines.maximum_distance(x, -1.0, 1.0)
    np.testing.assert_array_equal(result, [1, 1, -1, -1, -1])
    # brute force over both ends, with a range per channel
    low, high = np.array([0, -1, 2], np.float32), np.array([1, 1, 2.5], np.float32)
    result = np.asarray(baselines.maximum_distance(IMAGE, low, high))
    distance = np.abs(np.stack([IMAGE - low, IMAGE - high]))
    exact = np.where(distance[0] >= distance[1], low, high)
    np.testing.assert_array_equal(result, exact)


def test_black_and_white_are_the_ends():
    pair = baselines.black_and_white(tree(), -1.0, {"image": np.ones(3), "number": (5.0,)})
    assert (np.asarray(pair.black["image"]) == -1).all()
    assert (np.asarray(pair.white["image"]) == 1).all()
    assert (float(pair.black["number"][0]), float(pair.white["number"][0])) == (-1, 5)


def test_messages():
    pixels, key = jnp.zeros((2, 2, 3), jnp.uint8), jax.random.key(0)
    calls = [
        lambda: baselines.zeros(pixels),
        lambda: baselines.constant(pixels, 0),
        lambda: baselines.mean(pixels),
        lambda: baselines.blurred(pixels, sigma=1.0),
        lambda: baselines.uniform(key, pixels),
        lambda: baselines.maximum_distance(pixels),
        lambda: baselines.black_and_white(pixels),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"dtype uint8. Convert an image first"):
            call()
    with pytest.raises(TypeError, match=r"leaf at \['name'\] is a str"):
        baselines.zeros({"name": "cat"})
    with pytest.raises(TypeError, match="no arrays"):
        baselines.zeros({})
    with pytest.raises(ValueError, match="one number for each channel"):
        baselines.constant(IMAGE, jnp.zeros(4))
    with pytest.raises(ValueError, match="or a tree like x"):
        baselines.constant(IMAGE, {"a": 0.0})
    with pytest.raises(ValueError, match="minimum must not be above maximum"):
        baselines.maximum_distance(IMAGE, 1.0, 0.0)
    with pytest.raises(ValueError, match="dataset has no examples"):
        baselines.mean(jnp.zeros((0, 3)))
    with pytest.raises(ValueError, match="different numbers of examples"):
        baselines.mean({"a": jnp.zeros(3), "b": jnp.zeros(4)})
    with pytest.raises(ValueError, match="sigma must be finite and not negative"):
        baselines.blurred(IMAGE, sigma=-1.0)
    with pytest.raises(TypeError, match="sigma must be a Python number"):
        baselines.blurred(IMAGE, sigma=jnp.ones(()))
    with pytest.raises(ValueError, match="3 numbers for 2 axes"):
        baselines.blurred(IMAGE, sigma=(1, 1, 1))
    with pytest.raises(ValueError, match="does not have the axes"):
        baselines.blurred(jnp.zeros(3), sigma=1.0)
    with pytest.raises(ValueError, match="twice"):
        baselines.blurred(IMAGE, sigma=1.0, axes=(0, -3))
    with pytest.raises(TypeError, match="typed key"):
        baselines.uniform(jax.random.PRNGKey(0), IMAGE)
    with pytest.raises(TypeError, match="typed key"):
        baselines.samples(0, IMAGE, 2)
    with pytest.raises(ValueError, match="without replacement from 13 examples"):
        baselines.samples(key, IMAGE, 14, replace=False)
    with pytest.raises(TypeError, match="count must be a Python integer"):
        baselines.samples(key, IMAGE, 2.0)
