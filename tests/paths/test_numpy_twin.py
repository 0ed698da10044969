"""Integrated Gradients against a twin in numpy float64 that shares no code with it.

The networks' forward and backward passes are written out by hand below (the convolution as a matrix
product over patches), and so are the rules; only the weights come from the NNX models.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain
from bench import networks

BATCH = 3


def numpy_rule(name, steps):
    """Nodes and weights on [0, 1] by the textbook; the last two in other ways than the library."""
    count = np.arange(steps)
    if name == "left_riemann":
        return count / steps, np.full(steps, 1 / steps)
    if name == "right_riemann":
        return (count + 1) / steps, np.full(steps, 1 / steps)
    if name == "midpoint":
        return (count + 0.5) / steps, np.full(steps, 1 / steps)
    if name == "trapezoid":
        weights = np.full(steps, 1 / (steps - 1))
        weights[[0, -1]] /= 2
        return count / (steps - 1), weights
    if name == "gauss_legendre":
        # Golub and Welsch: the eigenvalues of the Jacobi matrix, and the first components squared.
        k = np.arange(1, steps)
        beside = k / np.sqrt(4.0 * k**2 - 1)
        nodes, vectors = np.linalg.eigh(np.diag(beside, 1) + np.diag(beside, -1))
        return (nodes + 1) / 2, vectors[0] ** 2
    # Clenshaw-Curtis: exact for every Chebyshev polynomial up to the degree.
    nodes = -np.cos(np.pi * count / (steps - 1))
    polynomials = np.polynomial.chebyshev.chebvander(nodes, steps - 1).T
    moments = [0.0 if k % 2 else 2 / (1 - k**2) for k in range(steps)]
    return (nodes + 1) / 2, np.linalg.solve(polynomials, moments) / 2


RULES = [
    "left_riemann",
    "right_riemann",
    "midpoint",
    "trapezoid",
    "gauss_legendre",
    "clenshaw_curtis",
]


def relu(z):
    return np.maximum(z, 0), (z > 0).astype(z.dtype)


def gelu(z):
    """The tanh form, and its derivative."""
    inner = np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
    tanh = np.tanh(inner)
    slope = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
    return 0.5 * z * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * z * (1 - tanh**2) * slope


def mlp_twin(model, activation):
    """Value and gradient of the chosen logit of each row."""
    layers = [(weights(layer.kernel), weights(layer.bias)) for layer in model.layers]

    def value_and_gradient(x, labels):
        slopes = []
        for kernel, bias in layers[:-1]:
            x, slope = activation(x @ kernel + bias)
            slopes.append(slope)
        kernel, bias = layers[-1]
        rows = np.arange(len(labels))
        value = (x @ kernel + bias)[rows, labels]
        back = kernel[:, labels].T
        for (kernel, _), slope in zip(reversed(layers[:-1]), reversed(slopes), strict=True):
            back = (back * slope) @ kernel.T
        return value, back

    return value_and_gradient


def patches(x):
    """3x3 patches with a border of zeros: (batch, height, width, 3, 3, channels)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    rows = [
        np.stack([padded[:, i : i + height, j : j + width] for j in range(3)], axis=3)
        for i in range(3)
    ]
    return np.stack(rows, axis=3)


def unpatch(patch_gradient):
    """The transpose of `patches`: each pixel collects from the patches it stands in."""
    batch, height, width, _, _, channels = patch_gradient.shape
    padded = np.zeros((batch, height + 2, width + 2, channels))
    for i in range(3):
        for j in range(3):
            padded[:, i : i + height, j : j + width] += patch_gradient[:, :, :, i, j]
    return padded[:, 1:-1, 1:-1]


def pool(x):
    """2x2 max-pooling, and which pixel of each window was the first largest (one-hot)."""
    batch, height, width, channels = x.shape
    windows = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(batch, height // 2, width // 2, -1, 4)
    return windows.max(axis=-1), np.eye(4)[windows.argmax(axis=-1)]


def unpool(gradient, chosen):
    batch, height, width, channels = gradient.shape
    windows = (gradient[..., None] * chosen).reshape(batch, height, width, channels, 2, 2)
    return windows.transpose(0, 1, 4, 2, 5, 3).reshape(batch, 2 * height, 2 * width, channels)


def cnn_twin(model):
    convolutions = [(weights(layer.kernel), weights(layer.bias)) for layer in model.convolutions]
    dense, dense_bias = weights(model.dense.kernel), weights(model.dense.bias)

    def value_and_gradient(x, labels):
        kept = []
        for kernel, bias in convolutions:
            x, slope = relu(np.tensordot(patches(x), kernel, axes=3) + bias)
            x, chosen = pool(x)
            kept.append((slope, chosen))
        rows = np.arange(len(labels))
        value = (x.reshape(len(x), -1) @ dense + dense_bias)[rows, labels]
        back = dense[:, labels].T.reshape(x.shape)
        for (kernel, _), (slope, chosen) in zip(
            reversed(convolutions), reversed(kept), strict=True
        ):
            back = unpool(back, chosen) * slope
            back = unpatch(np.tensordot(back, kernel, axes=([3], [3])))
        return value, back

    return value_and_gradient


def weights(variable):
    return np.asarray(variable[...], dtype=np.float64)


def with_biases(model, seed):
    """Random biases, in float64 throughout: zeros would hide a bias gone wrong."""
    generator = np.random.default_rng(seed)
    for layer in (module for _, module in nnx.iter_modules(model)):
        if isinstance(layer, nnx.Linear | nnx.Conv):
            bias = 0.3 * generator.standard_normal(layer.bias.shape)
            layer.bias.set_value(jnp.asarray(bias))
            layer.kernel.set_value(layer.kernel[...].astype(jnp.float64))
    model.eval()
    return model


def network(name):
    rngs = nnx.Rngs(5)
    if name == "cnn":
        model = with_biases(networks.CNN(size=8, widths=(3, 6, 8), rngs=rngs), 1)
        return model, cnn_twin(model), (8, 8, 3)
    activation, twin = {"relu": (nnx.relu, relu), "gelu": (nnx.gelu, gelu)}[name]
    model = with_biases(networks.MLP((20, 32, 24, 10), activation, rngs=rngs), 2)
    return model, mlp_twin(model, twin), (20,)


@pytest.mark.parametrize("name", ["relu", "gelu", "cnn"])
@pytest.mark.parametrize("rule", RULES)
def test_agrees_with_numpy(x64, name, rule):
    steps = 17
    model, twin, example = network(name)
    generator = np.random.default_rng(3)
    x = generator.standard_normal((BATCH, *example))
    baseline = generator.standard_normal(example)
    labels = np.array([7, 0, 3])

    nodes, rule_weights = numpy_rule(rule, steps)
    expected = (x - baseline) * sum(
        weight * twin(baseline + node * (x - baseline), labels)[1]
        for node, weight in zip(nodes, rule_weights, strict=True)
    )

    apply, params = jaxplain.adapters.nnx(model)
    explain = jaxplain.integrated_gradients(
        jaxplain.targets.logit(apply), steps=steps, rule=getattr(jaxplain.paths, rule), chunk_size=5
    )
    result = jax.vmap(explain, in_axes=(0, None, 0, None))(
        jnp.asarray(x), jnp.asarray(baseline), jnp.asarray(labels), params
    )

    def close(actual, expected):
        assert actual.dtype == jnp.float64
        assert np.abs(actual - expected).max() <= 1e-10 * np.abs(expected).max()

    output = twin(x, labels)[0]
    baseline_output = twin(np.broadcast_to(baseline, x.shape), labels)[0]
    close(result.values, expected)
    close(result.output, output)
    close(result.baseline_output, baseline_output)
    gap = expected.reshape(BATCH, -1).sum(axis=1) - (output - baseline_output)
    assert np.abs(result.completeness_gap - gap).max() <= 1e-10 * np.abs(output).max()


@pytest.mark.parametrize("name", ["relu", "gelu", "cnn"])
def test_the_twin_is_a_gradient(x64, name):
    """Who watches the watchman: the twin's backward pass against its own finite differences."""
    _, twin, example = network(name)
    generator = np.random.default_rng(4)
    x, labels = generator.standard_normal((1, *example)), np.array([2])
    _, gradient = twin(x, labels)
    for _ in range(5):
        direction = generator.standard_normal(x.shape)
        above, _ = twin(x + 1e-6 * direction, labels)
        below, _ = twin(x - 1e-6 * direction, labels)
        slope = (above - below)[0] / 2e-6
        np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-7)
