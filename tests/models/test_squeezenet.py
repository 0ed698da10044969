"""SqueezeNet 1.0: against numpy on random weights, and against PyTorch's numbers on photos."""

import csv

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxplain import adapters, models, targets


def squeezenet_in_numpy(layers, tensors, images):
    def fire(x, number):
        name = f"fire{number}/"
        squeezed = layers.relu(layers.convolution(x, tensors, name + "conv1x1_1"))
        small = layers.relu(layers.convolution(squeezed, tensors, name + "conv1x1_2"))
        large = layers.relu(layers.convolution(squeezed, tensors, name + "conv3x3_2", padding=1))
        return np.concatenate([small, large], 1)

    hidden = layers.relu(layers.convolution(images, tensors, "conv1", stride=2))
    for number in range(2, 10):
        if number in (2, 5, 9):
            hidden = layers.max_pool(hidden, 3, 2)
        hidden = fire(hidden, number)
    final = layers.relu(layers.convolution(hidden, tensors, "conv_final", padding=1))
    return final.mean((2, 3))


@pytest.fixture(scope="module")
def random(filled, torch_tensors):
    model = filled(models.SqueezeNet)
    return model, torch_tensors(model, separator="/")


def test_random_weights_through_a_file_give_what_numpy_gives(random, numpy_layers, tmp_path):
    _, tensors = random
    assert len(tensors) == 52
    safetensors.numpy.save_file(tensors, tmp_path / "weights.safetensors")
    model = models.SqueezeNet.from_safetensors(tmp_path / "weights.safetensors")
    apply, params = adapters.nnx(model)
    # At 227 every pool comes out even. Here a window sticks out: 47 -> 21 -> 10 -> 5 (from 10) -> 2
    # and 64 -> 29 -> 14 -> 7 (from 14) -> 3.
    images = np.random.default_rng(1).normal(size=(2, 47, 64, 3))
    logits = jax.jit(apply)(params, jnp.asarray(images, jnp.float32))
    expected = squeezenet_in_numpy(numpy_layers, tensors, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


def test_size(random):
    model, _ = random
    _, params = adapters.nnx(model)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 1_248_424


def test_preprocessing_swaps_the_colours_and_takes_the_mean_away():
    photo = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    expected = np.stack([photo[..., 2] - 104.0, photo[..., 1] - 117.0, photo[..., 0] - 123.0], -1)
    np.testing.assert_array_equal(models.SqueezeNet.preprocess(photo), expected)
    with pytest.raises(ValueError, match="images must be uint8"):
        models.SqueezeNet.preprocess(photo / 255)


def test_wrong_input_is_refused(random):
    model, _ = random
    with pytest.raises(ValueError, match=r"\(batch, 227, 227, 3\), but got \(227, 227, 3\)"):
        model(jnp.zeros((227, 227, 3)))


@pytest.fixture(scope="module")
def imagenet(data):
    image = pytest.importorskip("matplotlib.image")
    folder = data / "squeezenet1_0_imagenet"
    model = models.SqueezeNet.from_safetensors(folder / "squeezenet1_0_dc.safetensors")
    with (folder / "images.csv").open() as file:
        rows = list(csv.DictReader(file))
    photos = np.stack([image.imread(folder / "images" / row["file"])[..., :3] for row in rows])
    photos = np.round(photos * 255).astype(np.uint8)
    labels = np.array([int(row["label"]) for row in rows], np.int32)
    validation = np.array([row["source"] == "foolbox-imagenet-val" for row in rows])
    oracle = np.load(folder / "oracle.npz")
    return model, model.preprocess(photos), labels, validation, oracle


@pytest.mark.slow
def test_photos_logits_and_accuracy(imagenet):
    model, batch, labels, validation, oracle = imagenet
    apply, params = adapters.nnx(model)
    apply = jax.jit(apply)
    logits = np.concatenate([apply(params, batch[i : i + 8]) for i in range(0, 56, 8)])
    expected = oracle["logits_all"]
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    ranks = (logits > logits[np.arange(56), labels][:, None]).sum(1)
    assert (ranks == 0).sum() == 41
    assert (ranks < 5).sum() == 49
    assert (ranks[validation] == 0).sum() == 17
    assert (ranks[validation] < 5).sum() == 19


def test_photos_logits_in_double_precision(imagenet, x64):
    model, batch, _, _, oracle = imagenet
    apply, params = adapters.nnx(model)
    params = jax.tree.map(lambda array: array.astype(jnp.float64), params)
    two = jnp.asarray(np.asarray(batch)[oracle["oracle_rows"]], jnp.float64)
    np.testing.assert_allclose(jax.jit(apply)(params, two), oracle["logits_f64"], atol=1e-10)


def test_photos_activations(imagenet):
    model, batch, labels, _, oracle = imagenet
    rows = oracle["oracle_rows"]

    @jax.jit
    def activations(x):
        found = {}
        x = nnx.max_pool(nnx.relu(model.conv1(x)), (3, 3), strides=(2, 2))
        found["fire4"] = x = model.fire4(model.fire3(model.fire2(x)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2))
        x = model.fire8(model.fire7(model.fire6(model.fire5(x))))
        found["fire9"] = x = model.fire9(nnx.max_pool(x, (3, 3), strides=(2, 2)))
        found["conv_final"] = nnx.relu(model.conv_final(x))
        return found

    found = activations(batch[rows])
    final = np.asarray(found["conv_final"])
    compared = {
        "act_fire4": found["fire4"][:, ::4, ::4],
        "act_fire9": found["fire9"],
        "act_conv_final_target": final[np.arange(2), :, :, labels[rows]][..., None],
    }
    for name, value in compared.items():
        expected = oracle[name]
        expected = expected[..., None] if expected.ndim == 3 else expected.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(
            value, expected, atol=1e-5 * np.abs(expected).max(), err_msg=name
        )


def test_photos_input_gradients(imagenet):
    model, batch, labels, _, oracle = imagenet
    apply, params = adapters.nnx(model)
    rows = oracle["oracle_rows"]
    gradient = jax.jit(jax.vmap(jax.grad(targets.logit(apply)), in_axes=(0, 0, None)))
    gradients = gradient(batch[rows], labels[rows], params)
    expected = oracle["inputgrad"].transpose(0, 2, 3, 1)
    np.testing.assert_allclose(gradients, expected, atol=1e-4 * np.abs(expected).max())
