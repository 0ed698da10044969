"""Integrated Gradients against Captum, on identical weights and the same rule.

The four networks of `bench/networks.py` have torch twins here, which copy the NNX weights. The
inputs keep the layout of the NNX model (channels last), so that attributions compare element by
element. Captum's `riemann_trapezoid` is left out: its weights sum to (n - 1) / n.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxplain
from bench import networks
from jaxplain import paths

torch = pytest.importorskip("torch", reason="torch is not installed: run `make test-peers`")
captum = pytest.importorskip("captum.attr", reason="captum is not installed: `make test-peers`")
functional = torch.nn.functional

pytestmark = pytest.mark.peers

BATCH = 3
STEPS = 16
# Captum's rule by the name of ours.
RULES = {
    "left_riemann": "riemann_left",
    "right_riemann": "riemann_right",
    "midpoint": "riemann_middle",
    "gauss_legendre": "gausslegendre",
}
SMOOTH = ("gelu_mlp", "transformer")


def tensor(variable):
    return torch.tensor(np.asarray(variable[...]))


def dense(x, layer):
    return x @ tensor(layer.kernel) + tensor(layer.bias)


def convolve(x, layer, **options):
    """On (batch, channels, height, width); nnx kernels are (height, width, in, out)."""
    bias = None if layer.bias is None else tensor(layer.bias)
    return functional.conv2d(x, tensor(layer.kernel).permute(3, 2, 0, 1), bias, **options)


def layer_norm(x, layer):
    scale, bias = tensor(layer.scale), tensor(layer.bias)
    return functional.layer_norm(x, x.shape[-1:], scale, bias, eps=layer.epsilon)


def channels_first(x):
    return x.permute(0, 3, 1, 2)


def mlp_twin(model, activation):
    def forward(x):
        for layer in model.layers[:-1]:
            x = activation(dense(x, layer))
        return dense(x, model.layers[-1])

    return forward


def gelu(x):
    return functional.gelu(x, approximate="tanh")


def cnn_twin(model):
    def forward(x):
        x = channels_first(x)
        for layer in model.convolutions:
            x = functional.max_pool2d(functional.relu(convolve(x, layer, padding=1)), 2)
        return dense(x.permute(0, 2, 3, 1).flatten(1), model.dense)

    return forward


def attention(x, layer):
    def heads(projection):
        kernel, bias = tensor(projection.kernel), tensor(projection.bias)
        return torch.einsum("btd,dhk->bhtk", x, kernel) + bias[:, None, :]

    query, key, value = heads(layer.query), heads(layer.key), heads(layer.value)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    mixed = scores.softmax(dim=-1) @ value
    return torch.einsum("bhtk,hkd->btd", mixed, tensor(layer.out.kernel)) + tensor(layer.out.bias)


def transformer_twin(model):
    def forward(x):
        for block in model.blocks:
            x = x + attention(layer_norm(x, block.attention_norm), block.attention)
            hidden = gelu(dense(layer_norm(x, block.network_norm), block.expand))
            x = x + dense(hidden, block.contract)
        return dense(layer_norm(x, model.norm).mean(dim=1), model.dense)

    return forward


def batch_norm(x, layer):
    mean, var = tensor(layer.mean), tensor(layer.var)
    return functional.batch_norm(
        x, mean, var, tensor(layer.scale), tensor(layer.bias), eps=layer.epsilon
    )


def resnet_twin(model):
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def block(x, layer):
        options = {"stride": layer.conv1.strides, "padding": 1}
        hidden = functional.relu(batch_norm(convolve(x, layer.conv1, **options), layer.bn1))
        hidden = batch_norm(convolve(hidden, layer.conv2, padding=1), layer.bn2)
        shortcut = x
        if hidden.shape != x.shape:
            quarter = hidden.shape[1] // 4
            shortcut = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, quarter, quarter))
        return functional.relu(hidden + shortcut)

    def forward(x):
        x = channels_first((x - x.new_tensor(mean)) / x.new_tensor(deviation))
        x = functional.relu(batch_norm(convolve(x, model.conv1, padding=1), model.bn1))
        for stage in (model.layer1, model.layer2, model.layer3):
            for layer in stage:
                x = block(x, layer)
        return dense(x.mean(dim=(2, 3)), model.linear)

    return forward


# Model, torch twin, shape of an example.
NETWORKS = {
    "relu_mlp": lambda: pair(networks.mlp(1), lambda m: mlp_twin(m, functional.relu), (784,)),
    "gelu_mlp": lambda: pair(networks.mlp(2, nnx.gelu), lambda m: mlp_twin(m, gelu), (784,)),
    "cnn": lambda: pair(networks.cnn(3), cnn_twin, (32, 32, 3)),
    "resnet20": lambda: pair(networks.resnet20(4), resnet_twin, (32, 32, 3)),
    "transformer": lambda: pair(networks.transformer(5), transformer_twin, (64, 128)),
}


def pair(model, twin, example):
    """Biases, scales and statistics at random: where they are 0 and 1, errors would hide."""
    generator = np.random.default_rng(6)
    for _, module in nnx.iter_modules(model):
        for name in ("bias", "scale", "mean", "var"):
            variable = getattr(module, name, None)
            if isinstance(variable, nnx.Variable) and variable[...] is not None:
                noise = 0.2 * np.abs(generator.standard_normal(variable[...].shape))
                variable.set_value(variable[...] + noise.astype(np.float32))
    return model, twin, example


def attention_in_double(query, key, value, **_):
    scores = jnp.einsum("bthk,bshk->bhts", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhts,bshk->bthk", jax.nn.softmax(scores, axis=-1), value)


def explain_both(name, rule, dtype):
    """Attributions by Captum and by jaxplain, as numpy arrays."""
    model, twin, example = NETWORKS[name]()
    if name == "transformer" and dtype == np.float64:
        # jax.nn.dot_product_attention takes its softmax in float32, whatever comes.
        for block in model.blocks:
            block.attention.attention_fn = attention_in_double
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(dtype), state))

    generator = np.random.default_rng(7)
    x = generator.uniform(size=(BATCH, *example)).astype(dtype)
    baseline = (0.3 * generator.uniform(size=example)).astype(dtype)
    labels = np.array([7, 0, 3])

    forward = twin(model)
    theirs = captum.IntegratedGradients(forward).attribute(
        torch.tensor(x),
        torch.tensor(baseline)[None],
        target=torch.tensor(labels),
        n_steps=STEPS,
        method=RULES[rule.__name__],
        internal_batch_size=4 * BATCH,
    )
    logits = forward(torch.tensor(x))[torch.arange(BATCH), torch.tensor(labels)]

    apply, params = jaxplain.adapters.nnx(model)
    explain = jaxplain.integrated_gradients(
        jaxplain.targets.logit(apply), steps=STEPS, rule=rule, chunk_size=2
    )
    ours = jax.vmap(explain, in_axes=(0, None, 0, None))(
        jnp.asarray(x), jnp.asarray(baseline), jnp.asarray(labels), params
    )
    assert ours.values.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(ours.output), logits.numpy(), rtol=1e-4 if dtype == np.float32 else 1e-11
    )
    return theirs.numpy(), np.asarray(ours.values)


def largest_difference(theirs, ours):
    """By the largest value of each example."""
    axes = tuple(range(1, ours.ndim))
    return (np.abs(ours - theirs).max(axis=axes) / np.abs(theirs).max(axis=axes)).max()


def l2_difference(theirs, ours):
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def gauss_legendre(steps):
    """With Captum's weights, which it rounds to float32."""
    nodes, weights = paths.gauss_legendre(steps)
    return nodes, weights.astype(np.float32).astype(np.float64)


@pytest.fixture
def double():
    """float64, with Flax's normalisation layers, which promote float64 with float32 implicitly."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_float64(double, name, rule):
    """To 1e-8: Captum rounds the weights of the steps to float32, which 1/16 survives."""
    theirs, ours = explain_both(name, getattr(jaxplain.paths, rule), np.float64)
    exact = rule != "gauss_legendre"
    assert largest_difference(theirs, ours) <= (1e-11 if exact else 1e-8)


@pytest.mark.parametrize("name", ["relu_mlp", "gelu_mlp"])
def test_float64_with_captums_weights(double, name):
    """Gauss-Legendre with the weights rounded as Captum rounds them: nothing else differs."""
    theirs, ours = explain_both(name, gauss_legendre, np.float64)
    assert largest_difference(theirs, ours) <= 1e-11


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rule", RULES)
def test_float32(name, rule):
    """ReLU units flip where the two round the points of the path differently."""
    theirs, ours = explain_both(name, getattr(jaxplain.paths, rule), np.float32)
    if name in SMOOTH:
        assert largest_difference(theirs, ours) <= 1e-5
    else:
        assert largest_difference(theirs, ours) <= 5e-3
        assert l2_difference(theirs, ours) <= 1e-3


def multi_input(dtype):
    """A model of an image and a vector, in both libraries, with the same weights."""
    generator = np.random.default_rng(8)
    draw = lambda *shape: generator.standard_normal(shape).astype(dtype)
    w = {
        "kernel": 0.3 * draw(3, 3, 2, 4),
        "image": draw(4, 5),
        "vector": draw(6, 5),
        "out": draw(5, 3),
    }

    def ours(x, label, w):
        hidden = jax.lax.conv_general_dilated(
            x["image"][None],
            w["kernel"],
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        pooled = jnp.tanh(hidden).mean((0, 1, 2))
        mixed = jnp.tanh(jnp.dot(pooled, w["image"]) * jnp.dot(x["vector"], w["vector"]))
        return jnp.dot(mixed, w["out"])[label]

    t = {name: torch.tensor(value) for name, value in w.items()}

    def theirs(image, vector):
        hidden = functional.conv2d(
            channels_first(image), t["kernel"].permute(3, 2, 0, 1), padding=1
        )
        pooled = torch.tanh(hidden).mean((2, 3))
        return torch.tanh((pooled @ t["image"]) * (vector @ t["vector"])) @ t["out"]

    x = {"image": draw(BATCH, 7, 6, 2), "vector": draw(BATCH, 6)}
    baseline = {"image": 0.3 * draw(7, 6, 2), "vector": 0.3 * draw(6)}
    return ours, theirs, w, x, baseline


@pytest.mark.parametrize("rule", [gauss_legendre, paths.midpoint], ids=lambda r: r.__name__)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_several_inputs(double, rule, dtype):
    """Two modalities at once: Captum's tuple of tensors, our dict."""
    ours, theirs, w, x, baseline = multi_input(dtype)
    labels = np.array([2, 0, 1], np.int32)
    expected = captum.IntegratedGradients(theirs).attribute(
        tuple(torch.tensor(x[name]) for name in ("image", "vector")),
        tuple(torch.tensor(baseline[name])[None] for name in ("image", "vector")),
        target=torch.tensor(labels).long(),
        n_steps=STEPS,
        method=RULES[rule.__name__],
    )
    explain = paths.integrated_gradients(ours, steps=STEPS, rule=rule, chunk_size=2)
    got = jax.vmap(explain, (0, None, 0, None))(x, baseline, labels, w).values
    tolerance = 1e-11 if dtype == np.float64 else 1e-5
    for name, tensor_ in zip(("image", "vector"), expected, strict=True):
        difference = largest_difference(tensor_.numpy(), np.asarray(got[name]))
        assert difference < tolerance, name
