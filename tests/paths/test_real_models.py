"""Integrated Gradients of real models against PyTorch's, in double precision.

The oracles were made by the midpoint rule in float64 and stored in float32; completeness is not
exact at so few steps, and neither is ours: the gap has to be the oracle's own.
"""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import adapters, models, paths, targets


def double(tree):
    return jax.tree.map(lambda array: jnp.asarray(np.asarray(array), jnp.float64), tree)


def check(model, images, labels, steps, values, sums, chunk_size):
    apply, params = adapters.nnx(model)
    explain = jaxplain.integrated_gradients(
        targets.logit(apply), steps=steps, rule=paths.midpoint, chunk_size=chunk_size
    )
    images, params = double(images), double(params)
    explain = jax.vmap(explain, in_axes=(0, None, 0, None))
    result = explain(images, jnp.zeros_like(images[0]), jnp.asarray(labels), params)
    assert result.values.dtype == jnp.float64
    scale = np.abs(values).max()
    # The oracle was stored in float32, whose rounding is 6e-8 of a value.
    np.testing.assert_allclose(result.values, values, atol=1e-7 * scale)
    np.testing.assert_allclose(result.output, sums[:, 0], rtol=1e-10)
    np.testing.assert_allclose(result.baseline_output, sums[:, 1], rtol=1e-10)
    gaps = sums[:, 2] - (sums[:, 0] - sums[:, 1])
    np.testing.assert_allclose(result.completeness_gap, gaps, rtol=1e-8)
    assert np.all(result.finite)


def test_lenet_black_baseline_128_steps(data, x64):
    folder = data / "mnist_lenet"
    model = models.LeNet.from_safetensors(folder / "lenet_mnist.safetensors")
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(16 + 10 * 784), np.uint8, offset=16)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + 10), np.uint8, offset=8).astype(np.int32)
    oracle = np.load(folder / "oracle.npz")
    values, sums = oracle["ig_black128_first10"][..., None], oracle["ig_fx_fb_sum"]
    check(model, images.reshape(10, 28, 28, 1) / 255, labels, 128, values, sums, 16)


@pytest.mark.slow
def test_resnet20_black_baseline_64_steps(data, x64):
    folder = data / "cifar10_resnet20"
    model = models.ResNet20.from_safetensors(folder / "resnet20.safetensors")
    test, oracle = np.load(folder / "cifar10_test20.npz"), np.load(folder / "oracle.npz")
    images, labels = test["images"][:4] / 255, test["labels"][:4].astype(np.int32)
    values = oracle["resnet20_ig_black64_test4"].transpose(0, 2, 3, 1)
    check(model, images, labels, 64, values, oracle["resnet20_ig_fx_fb_sum"], 4)


@pytest.mark.slow
def test_squeezenet_mean_colour_baseline_64_steps(data, x64):
    image = pytest.importorskip("matplotlib.image")
    folder = data / "squeezenet1_0_imagenet"
    model = models.SqueezeNet.from_safetensors(folder / "squeezenet1_0_dc.safetensors")
    oracle = np.load(folder / "oracle.npz")
    row = oracle["oracle_rows"][0]  # one photo: each of its 64 gradients takes its time
    line = (folder / "images.csv").read_text().splitlines()[1:][row]
    file, label = line.split(",")[:2]
    photo = image.imread(folder / "images" / file)[None, ..., :3]
    batch = model.preprocess(np.round(photo * 255).astype(np.uint8))
    values = oracle["ig_zero64"][:1].transpose(0, 2, 3, 1)
    check(model, batch, np.int32([int(label)]), 64, values, oracle["ig_fx_fb_sum"][:1], 4)
