"""LeNet: against numpy on random weights, and against PyTorch's numbers on MNIST."""

import gzip

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxplain import adapters, models, targets


def lenet_in_numpy(layers, tensors, images):
    hidden = layers.max_pool(layers.relu(layers.convolution(images, tensors, "conv_1")), 2, 2)
    hidden = layers.max_pool(layers.relu(layers.convolution(hidden, tensors, "conv_2")), 2, 2)
    hidden = hidden.reshape(len(hidden), -1)  # (channel, height, width)
    hidden = layers.relu(layers.linear(hidden, tensors, "fc_1"))
    hidden = layers.relu(layers.linear(hidden, tensors, "fc_2"))
    return layers.linear(hidden, tensors, "fc_3")


@pytest.fixture
def tensors(filled, torch_tensors):
    """Random weights as PyTorch would have them: columns of fc_1 in (channel, height, width)."""
    model = filled(models.LeNet)
    tensors = torch_tensors(model)
    weight = tensors["fc_1.weight"].reshape(120, 4, 4, 16)
    tensors["fc_1.weight"] = np.ascontiguousarray(np.einsum("ohwc->ochw", weight).reshape(120, 256))
    return tensors


def test_random_weights_through_a_file_give_what_numpy_gives(
    filled, tensors, numpy_layers, tmp_path
):
    safetensors.numpy.save_file(tensors, tmp_path / "weights.safetensors")
    model = models.LeNet.from_safetensors(tmp_path / "weights.safetensors")
    images = np.random.default_rng(1).uniform(size=(3, 28, 28, 1))
    logits = jax.jit(lambda batch: model(batch))(jnp.asarray(images, jnp.float32))
    expected = lenet_in_numpy(numpy_layers, tensors, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    # The file is the same network: every weight came back where it was.
    for new, old in zip(
        jax.tree.leaves(nnx.state(model)),
        jax.tree.leaves(nnx.state(filled(models.LeNet))),
        strict=True,
    ):
        np.testing.assert_array_equal(new, old)


def test_size(filled):
    _, params = adapters.nnx(filled(models.LeNet))
    convolutions = 6 * (25 + 1) + 16 * (6 * 25 + 1)
    dense = 120 * (256 + 1) + 84 * (120 + 1) + 10 * (84 + 1)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == convolutions + dense == 44_426


def test_a_file_that_does_not_fit_is_refused(tensors, tmp_path):
    path = tmp_path / "weights.safetensors"

    def load(tensors):
        safetensors.numpy.save_file(tensors, path)
        return models.LeNet.from_safetensors(path)

    fewer = {name: tensor for name, tensor in tensors.items() if name != "fc_2.bias"}
    with pytest.raises(ValueError, match=r"missing tensors fc_2.bias; unexpected tensors none"):
        load(fewer)
    with pytest.raises(ValueError, match=r"missing tensors none; unexpected tensors conv_3.weight"):
        load({**tensors, "conv_3.weight": np.zeros(3, np.float32)})
    with pytest.raises(ValueError, match=r"unexpected tensors other.0, .*other.4 and 2 more"):
        load({**tensors, **{f"other.{i}": np.zeros(1, np.float32) for i in range(7)}})
    narrow = {**tensors, "fc_1.weight": np.zeros((120, 400), np.float32)}
    with pytest.raises(ValueError, match=r"fc_1.weight has the shape \(120, 400\).*\(256, 120\)"):
        load(narrow)
    load({**tensors, "bn.num_batches_tracked": np.zeros((), np.int64)})  # PyTorch's counter


def test_what_is_no_safetensors_file_is_refused(tmp_path):
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04 not safetensors at all")
    with pytest.raises(ValueError, match=r"weights\.pt is not a safetensors file"):
        models.LeNet.from_safetensors(tmp_path / "weights.pt")
    with pytest.raises(FileNotFoundError):
        models.LeNet.from_safetensors(tmp_path / "nowhere.safetensors")


def test_wrong_input_is_refused(filled):
    model = filled(models.LeNet)
    with pytest.raises(ValueError, match=r"\(batch, 28, 28, 1\), but got \(28, 28, 1\)"):
        model(jnp.zeros((28, 28, 1)))
    with pytest.raises(ValueError, match=r"uint8 of shape \(..., 28, 28\), but are float32"):
        models.LeNet.preprocess(np.zeros((1, 28, 28), np.float32))


def test_preprocessing_is_division_by_255():
    images = np.arange(256, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8)
    batch = models.LeNet.preprocess(images)
    assert batch.dtype == jnp.float32
    np.testing.assert_allclose(batch[:, 0, 0, 0], np.arange(256) / 255, rtol=1e-7)


@pytest.fixture(scope="module")
def mnist(data):
    folder = data / "mnist_lenet"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8).astype(np.int32)
    model = models.LeNet.from_safetensors(folder / "lenet_mnist.safetensors")
    return model, images, labels, np.load(folder / "oracle.npz")


def test_mnist_accuracy_and_logits(mnist):
    model, images, labels, oracle = mnist
    apply, params = adapters.nnx(model)
    logits = np.asarray(jax.jit(apply)(params, model.preprocess(images)))
    assert (logits.argmax(1) == labels).sum() == 9901
    expected = oracle["logits_first1000"]
    np.testing.assert_allclose(logits[:1000], expected, atol=1e-5 * np.abs(expected).max())
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(10_000), labels]
    assert losses.mean() == pytest.approx(0.035000, abs=1e-6)


def test_mnist_input_gradients(mnist):
    model, images, labels, oracle = mnist
    apply, params = adapters.nnx(model)
    f = targets.logit(apply)
    gradients = jax.jit(jax.vmap(jax.grad(f), in_axes=(0, 0, None)))(
        model.preprocess(images[:100]), labels[:100], params
    )
    expected = oracle["inputgrad_first100"]
    np.testing.assert_allclose(gradients[..., 0], expected, atol=1e-5 * np.abs(expected).max())
