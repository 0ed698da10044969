"""ResNet-20: against numpy on random weights, and against PyTorch's numbers on CIFAR-10."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from jaxplain import adapters, models, targets

MEAN = np.array([0.485, 0.456, 0.406])[:, None, None]
STANDARD_DEVIATION = np.array([0.229, 0.224, 0.225])[:, None, None]


def resnet_in_numpy(layers, tensors, images):
    hidden = layers.convolution((images - MEAN) / STANDARD_DEVIATION, tensors, "conv1", padding=1)
    hidden = layers.relu(layers.batch_norm(hidden, tensors, "bn1"))
    for stage in (1, 2, 3):
        for block in (0, 1, 2):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            new = layers.convolution(hidden, tensors, f"{name}.conv1", stride=stride, padding=1)
            new = layers.relu(layers.batch_norm(new, tensors, f"{name}.bn1"))
            new = layers.convolution(new, tensors, f"{name}.conv2", padding=1)
            new = layers.batch_norm(new, tensors, f"{name}.bn2")
            if stride == 2:
                more = hidden.shape[1] // 2  # a quarter of the new channels, on either side
                hidden = np.pad(hidden[:, :, ::2, ::2], ((0, 0), (more, more), (0, 0), (0, 0)))
            hidden = layers.relu(new + hidden)
    return layers.linear(hidden.mean((2, 3)), tensors, "linear")


def test_random_weights_through_a_file_give_what_numpy_gives(
    filled, torch_tensors, numpy_layers, tmp_path
):
    tensors = torch_tensors(filled(models.ResNet20))
    assert len(tensors) == 97
    safetensors.numpy.save_file(tensors, tmp_path / "weights.safetensors")
    apply, params = adapters.nnx(models.ResNet20.from_safetensors(tmp_path / "weights.safetensors"))
    images = np.random.default_rng(1).uniform(size=(2, 32, 32, 3))
    logits = jax.jit(apply)(params, jnp.asarray(images, jnp.float32))
    expected = resnet_in_numpy(numpy_layers, tensors, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


def test_size(filled):
    _, params = adapters.nnx(filled(models.ResNet20))
    convolutions = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    norms = 4 * (7 * 16 + 6 * 32 + 6 * 64)  # scale, bias, mean, variance
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert numbers == convolutions + norms + 650 == 271_098


def test_it_is_made_in_training_mode_and_loaded_in_evaluation_mode(filled, torch_tensors, tmp_path):
    abstract = nnx.eval_shape(lambda: models.ResNet20(rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"layer3\[2\]\.bn2 \(BatchNorm"):
        adapters.nnx(abstract)
    safetensors.numpy.save_file(torch_tensors(filled(models.ResNet20)), tmp_path / "weights")
    adapters.nnx(models.ResNet20.from_safetensors(tmp_path / "weights"))


def test_wrong_input_is_refused(filled):
    model = filled(models.ResNet20)
    with pytest.raises(ValueError, match=r"\(batch, 32, 32, 3\), but got \(2, 3, 32, 32\)"):
        model(jnp.zeros((2, 3, 32, 32)))
    with pytest.raises(ValueError, match="images must be uint8"):
        models.ResNet20.preprocess(np.zeros((32, 32, 3)))


@pytest.fixture(scope="module")
def cifar(data):
    folder = data / "cifar10_resnet20"
    model = models.ResNet20.from_safetensors(folder / "resnet20.safetensors")
    test = np.load(folder / "cifar10_test20.npz")
    labels = test["labels"].astype(np.int32)
    return model, test["images"], labels, np.load(folder / "oracle.npz")


def test_cifar_logits(cifar):
    model, images, labels, oracle = cifar
    apply, params = adapters.nnx(model)
    logits = np.asarray(jax.jit(apply)(params, model.preprocess(images)))
    expected = oracle["resnet20_logits_test20"]
    np.testing.assert_allclose(logits, expected, atol=1e-5 * np.abs(expected).max())
    assert (logits.argmax(1) == labels).sum() == 20


def test_cifar_logits_in_double_precision(cifar, x64):
    model, images, _, oracle = cifar
    apply, params = adapters.nnx(model)
    params = jax.tree.map(lambda array: array.astype(jnp.float64), params)
    logits = jax.jit(apply)(params, jnp.asarray(images / 255.0))
    np.testing.assert_allclose(logits, oracle["resnet20_logits_test20_f64"], atol=1e-10)


def test_cifar_activations(cifar):
    model, images, _, oracle = cifar
    batch = model.preprocess(images[:2])

    @jax.jit
    def activations(batch):
        normalised = (np.moveaxis(batch, -1, 1) - MEAN.astype(np.float32)[None]) / (
            STANDARD_DEVIATION.astype(np.float32)[None]
        )
        found = {"bn1": model.bn1(model.conv1(jnp.moveaxis(normalised, 1, -1)))}
        hidden = nnx.relu(found["bn1"])
        for name in ("layer1", "layer2", "layer3"):
            for block in getattr(model, name):
                hidden = block(hidden)
            found[name] = hidden
        return found

    for name, value in activations(batch).items():
        expected = oracle[f"resnet20_act_{name}_test2"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(
            value, expected, atol=1e-5 * np.abs(expected).max(), err_msg=name
        )


def test_cifar_input_gradients(cifar):
    """In float64: in float32 a machine may round a pre-activation of 1e-8 to the other side of a
    ReLU, and the gradient of that image by 1e-2."""
    with jax.enable_x64(True):
        model, images, labels, oracle = cifar
        apply, params = adapters.nnx(model)
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
        batch = model.preprocess(images).astype(jnp.float64)
        f = targets.logit(apply)
        gradients = jax.jit(jax.vmap(jax.grad(f), in_axes=(0, 0, None)))(batch, labels, params)
        assert gradients.dtype == jnp.float64
        expected = oracle["resnet20_inputgrad_test20"].transpose(0, 2, 3, 1)
        np.testing.assert_allclose(gradients, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "correct", "loss"),
    [("cifar10_train4000", 3992, 0.008547), ("cifar10_test1000_jpeg75", 804, 0.821995)],
)
def test_cifar_accuracy(cifar, data, name, correct, loss):
    model, _, _, oracle = cifar
    file = np.load(data / "cifar10_resnet20" / f"{name}.npz")
    images, labels = file["images"], file["labels"].astype(np.int32)
    apply, params = adapters.nnx(model)
    apply = jax.jit(apply)
    logits = np.concatenate(
        [apply(params, model.preprocess(images[i : i + 500])) for i in range(0, len(images), 500)]
    )
    assert (logits.argmax(1) == labels).sum() == correct
    if name == "cifar10_train4000":
        expected = oracle["resnet20_logits_train4000_first256"]
        np.testing.assert_allclose(logits[:256], expected, atol=1e-5 * np.abs(expected).max())
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(labels)), labels]
    assert losses.mean() == pytest.approx(loss, abs=2e-6)
