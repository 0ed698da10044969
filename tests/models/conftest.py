"""What the tests of the reference networks share: random weights, and the layers in numpy."""

import types

import flax.nnx
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.fixture(scope="session")
def filled():
    """A network with random weights from numpy, in evaluation mode, without compiling anything."""

    def fill(make, seed=0):
        random = np.random.default_rng(seed)
        model = flax.nnx.eval_shape(lambda: make(rngs=flax.nnx.Rngs(0)))
        values = {}
        for path, variable in flax.nnx.to_flat_state(flax.nnx.state(model)):
            shape = variable.shape
            if path[-1] == "kernel":
                fan_in = np.prod(shape[:-1])
                value = random.normal(size=shape) * np.sqrt(2 / fan_in)
            elif path[-1] in ("scale", "var"):
                value = random.uniform(0.5, 1.5, shape)
            else:
                value = 0.1 * random.normal(size=shape)
            values[path] = variable.replace(jnp.asarray(value, variable.dtype))
        flax.nnx.update(model, flax.nnx.from_flat_state(values))
        model.eval()
        return model

    return fill


def convolution(x, tensors, name, *, stride=1, padding=0):
    weight = np.float64(tensors[f"{name}.weight"])
    bias = np.float64(tensors.get(f"{name}.bias", np.zeros(len(weight))))
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    rows, columns = weight.shape[2:]
    height = (x.shape[2] - rows) // stride + 1
    width = (x.shape[3] - columns) // stride + 1
    y = np.zeros((len(x), len(weight), height, width)) + bias[:, None, None]
    for i in range(rows):
        for j in range(columns):
            part = x[:, :, i : i + stride * height : stride, j : j + stride * width : stride]
            y += np.einsum("nchw,oc->nohw", part, weight[:, :, i, j], optimize=True)
    return y


def linear(x, tensors, name):
    return x @ np.float64(tensors[f"{name}.weight"]).T + np.float64(tensors[f"{name}.bias"])


def batch_norm(x, tensors, name):
    scale, bias, mean, var = (
        np.float64(tensors[f"{name}.{part}"])[:, None, None]
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def max_pool(x, size, stride):
    """Caffe's: the last window may stick out ("ceil"); equal to the plain one if none does."""
    starts = [range(0, -(-(n - size) // stride) * stride + 1, stride) for n in x.shape[2:]]
    rows = [
        np.stack([x[:, :, i : i + size, j : j + size].max((2, 3)) for j in starts[1]], -1)
        for i in starts[0]
    ]
    return np.stack(rows, 2)


@pytest.fixture(scope="session")
def numpy_layers():
    """Layers in numpy float64, NCHW, on tensors in the layout of PyTorch: slow and readable."""
    return types.SimpleNamespace(
        convolution=convolution,
        linear=linear,
        batch_norm=batch_norm,
        max_pool=max_pool,
        relu=lambda x: np.maximum(x, 0),
    )


@pytest.fixture(scope="session")
def torch_tensors():
    """The weights of a network as PyTorch lays them out, under PyTorch's names."""

    def convert(model, separator="."):
        tensors = {}
        for path, variable in flax.nnx.to_flat_state(flax.nnx.state(model)):
            *layers, last = path
            names = {
                "kernel": "weight",
                "scale": "weight",
                "bias": "bias",
                "mean": "running_mean",
                "var": "running_var",
            }
            value = np.asarray(variable[...])
            if value.ndim == 4:
                value = np.einsum("hwio->oihw", value)
            elif value.ndim == 2:
                value = np.einsum("io->oi", value)
            name = f"{separator.join(map(str, layers))}.{names[last]}"
            tensors[name] = np.ascontiguousarray(value)
        return tensors

    return convert
