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
from jaxplain import gradients, paths, sites

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


def keep(name, x):
    """In place of a tap, which sees the values that our model has at the site of this name."""
    return x


def mlp_twin(model, activation):
    def forward(x, tap=keep):
        for k, layer in enumerate(model.layers[:-1]):
            x = activation(tap(f"layers.{k}", dense(x, layer)))
        return dense(x, model.layers[-1])

    return forward


def gelu(x):
    return functional.gelu(x, approximate="tanh")


def cnn_twin(model):
    def forward(x, tap=keep):
        x = channels_first(x)
        for k, layer in enumerate(model.convolutions):
            x = tap(f"convolutions.{k}", convolve(x, layer, padding=1))
            x = functional.max_pool2d(functional.relu(x), 2)
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

    def forward(x, tap=keep):
        x = channels_first((x - x.new_tensor(mean)) / x.new_tensor(deviation))
        x = functional.relu(batch_norm(convolve(x, model.conv1, padding=1), model.bn1))
        for name in ("layer1", "layer2", "layer3"):
            for k, layer in enumerate(getattr(model, name)):
                x = tap(f"{name}.{k}", block(x, layer))
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


# ------------------------------------------------------------------------------ layers, neurons


class Twin(torch.nn.Module):
    """A twin whose values at one site pass through a module, which Captum can be given."""

    def __init__(self, forward, site):
        super().__init__()
        self.tap, self.twin, self.site = torch.nn.Identity(), forward, site

    def forward(self, x):
        return self.twin(x, lambda name, value: self.tap(value) if name == self.site else value)


SITES = {"relu_mlp": "layers.1", "cnn": "convolutions.1", "resnet20": "layer2.2"}

# Captum's class, how it is called, and the same of ours: (f, site, unit) -> explain(x, b, *args).
LAYERS = {
    "LayerActivation": ({}, lambda f, site: lambda x, b, *a: sites.read(f, site)(x, *a)[1][site]),
    "LayerGradientXActivation": (
        {"target"},
        lambda f, site: (
            lambda x, b, *a: (
                jaxplain.input_x_gradient(sites.at(f, site))(
                    sites.read(f, site)(x, *a)[1][site], x, *a
                ).values
            )
        ),
    ),
    "LayerIntegratedGradients": (
        {"target", "baselines", "path"},
        lambda f, site: (
            lambda x, b, *a: (
                paths.integrated_gradients(
                    sites.at(f, site), steps=STEPS, rule=gauss_legendre, hoist=False
                )(*(sites.read(f, site)(v, *a)[1][site] for v in (x, b)), x, *a).values
            )
        ),
    ),
    "LayerConductance": (
        {"target", "baselines", "path"},
        lambda f, site: (
            lambda x, b, *a: (
                paths.conductance(f, site, steps=STEPS, velocity="difference")(x, b, *a).values
            )
        ),
    ),
    "InternalInfluence": (
        {"target", "baselines", "path"},
        lambda f, site: (
            lambda x, b, *a: (
                paths.internal_influence(f, site, steps=STEPS, rule=gauss_legendre)(x, b, *a).values
            )
        ),
    ),
    "LayerGradCam": (
        {"target"},
        lambda f, site: lambda x, *a: gradients.grad_cam(f, site, positive=False)(x, *a[1:]).values,
    ),
}


def in_double(name):
    """Our apply and params, and Captum's twin, with x, a baseline and labels."""
    model, twin, example = NETWORKS[name]()
    state = nnx.state(model, (nnx.Param, nnx.BatchStat))
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(np.float64), state))
    generator = np.random.default_rng(7)
    x = generator.uniform(size=(BATCH, *example))
    baseline = 0.3 * generator.uniform(size=example)
    apply, params = jaxplain.adapters.nnx(model)
    return apply, params, Twin(twin(model), SITES[name]), x, baseline, np.array([7, 0, 3])


def channels_last(values):
    return np.moveaxis(values, 1, -1) if values.ndim == 4 else values


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("method", LAYERS)
def test_layers(double, method, name):
    """To 1e-8 of the largest value, in float64."""
    if method == "LayerGradCam" and name == "relu_mlp":
        pytest.skip("a map needs places")
    asked, ours = LAYERS[method]
    apply, params, twin, x, baseline, labels = in_double(name)
    options = {}
    if "target" in asked:
        options["target"] = torch.tensor(labels)
    if "baselines" in asked:
        options["baselines"] = torch.tensor(baseline)[None]
    if "path" in asked:
        options |= {"n_steps": STEPS, "method": "gausslegendre"}
    theirs = getattr(captum, method)(twin, twin.tap).attribute(torch.tensor(x), **options)
    f = jaxplain.targets.logit(apply)
    explain = jax.jit(jax.vmap(ours(f, SITES[name]), (0, None, 0, None)))
    got = explain(jnp.asarray(x), jnp.asarray(baseline), jnp.asarray(labels), params)
    expected = channels_last(theirs.detach().numpy())
    got = np.asarray(got)[:, 0]  # of one example each
    if method == "LayerGradCam":
        expected = expected[..., 0]
    assert got.shape == expected.shape
    assert largest_difference(expected, got) <= 1e-8


def a_neuron(apply, params, x, name):
    """A unit that is alive in all examples: its place here and in Captum, and its function."""
    read = sites.read(apply, SITES[name])
    alive = read(params, jnp.asarray(x))[1][SITES[name]].min(axis=0)  # in all examples
    place = tuple(int(k) for k in np.unravel_index(np.argmax(alive), alive.shape))
    unit = place if len(place) == 1 else (place[-1], *place[:-1])  # the channel first

    def neuron(x, params):
        return read(params, x[None])[1][SITES[name]][(0, *place)]

    return place, unit, neuron


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("method", ["NeuronGradient", "NeuronIntegratedGradients"])
def test_neurons(double, method, name):
    apply, params, twin, x, baseline, _ = in_double(name)
    _, unit, neuron = a_neuron(apply, params, x, name)
    options = {}
    if method == "NeuronGradient":
        explain = lambda x, b, p: gradients.saliency(neuron, absolute=False)(x, p).values
    else:
        explain = lambda x, b, p: (
            paths.integrated_gradients(neuron, steps=STEPS, rule=gauss_legendre)(x, b, p).values
        )
        options = {"baselines": torch.tensor(baseline)[None], "n_steps": STEPS}
    theirs = getattr(captum, method)(twin, twin.tap).attribute(
        torch.tensor(x, requires_grad=True), neuron_selector=unit, **options
    )
    got = jax.jit(jax.vmap(explain, (0, None, None)))(jnp.asarray(x), jnp.asarray(baseline), params)
    assert largest_difference(theirs.detach().numpy(), np.asarray(got)) <= 1e-8


@pytest.mark.parametrize("name", SITES)
def test_conductance_of_a_neuron(double, name):
    """How much of the flow through one unit comes from each input."""
    apply, params, twin, x, baseline, labels = in_double(name)
    place, unit, neuron = a_neuron(apply, params, x, name)
    f = jaxplain.targets.logit(apply)
    site = SITES[name]

    def flow(x, label, params):
        value = sites.read(f, site)(x, label, params)[1][site]
        slope = jax.grad(sites.at(f, site))(value, x, label, params)[(0, *place)]
        return jax.lax.stop_gradient(slope) * neuron(x, params)

    explain = paths.integrated_gradients(flow, steps=STEPS, rule=gauss_legendre, hoist=False)
    got = jax.jit(jax.vmap(explain, (0, None, 0, None)))(
        jnp.asarray(x), jnp.asarray(baseline), jnp.asarray(labels), params
    ).values
    theirs = captum.NeuronConductance(twin, twin.tap).attribute(
        torch.tensor(x, requires_grad=True),
        neuron_selector=unit,
        baselines=torch.tensor(baseline)[None],
        target=torch.tensor(labels),
        n_steps=STEPS,
        method="gausslegendre",
    )
    assert largest_difference(theirs.detach().numpy(), np.asarray(got)) <= 1e-8


def differences(function, value, groups):
    """By how much the function falls where each group of elements is set to zero."""
    of_group = lambda k: function(value) - function(jnp.where(groups == k, 0, value))
    return jax.lax.map(of_group, jnp.arange(groups.max() + 1))[groups]


@pytest.mark.parametrize("name", SITES)
def test_ablation_of_a_layer(double, name):
    """Units in eight groups."""
    apply, params, twin, x, _, labels = in_double(name)
    f, site = jaxplain.targets.logit(apply), SITES[name]
    shape = sites.names(apply)(params, jnp.asarray(x))[site].shape[1:]
    groups = np.arange(np.prod(shape)).reshape(shape) % 8

    def explain(x, label, params):
        value = sites.read(f, site)(x, label, params)[1][site]
        g = lambda value: sites.at(f, site)(value, x, label, params)
        return differences(g, value, groups[None])[0]

    got = jax.jit(jax.vmap(explain, (0, 0, None)))(jnp.asarray(x), jnp.asarray(labels), params)
    first = groups if groups.ndim == 1 else np.moveaxis(groups, -1, 0)
    theirs = captum.LayerFeatureAblation(twin, twin.tap).attribute(
        torch.tensor(x), target=torch.tensor(labels), layer_mask=torch.tensor(first)[None]
    )
    assert largest_difference(channels_last(theirs.detach().numpy()), np.asarray(got)) <= 1e-8


@pytest.mark.parametrize("name", SITES)
def test_ablation_of_the_input_of_a_neuron(double, name):
    apply, params, twin, x, _, _ = in_double(name)
    _, unit, neuron = a_neuron(apply, params, x, name)
    groups = np.arange(x[0].size).reshape(x[0].shape) % 8
    explain = lambda x, params: differences(lambda x: neuron(x, params), x, groups)
    got = jax.jit(jax.vmap(explain, (0, None)))(jnp.asarray(x), params)
    theirs = captum.NeuronFeatureAblation(twin, twin.tap).attribute(
        torch.tensor(x), neuron_selector=unit, feature_mask=torch.tensor(groups)[None]
    )
    assert largest_difference(theirs.detach().numpy(), np.asarray(got)) <= 1e-8


@pytest.mark.parametrize("kind", ["layer", "neuron"])
def test_gradient_shap_in_the_mean(double, kind):
    """Captum draws positions at random; the mean of many agrees within its standard error.

    That of a layer draws inputs on the line, not values: it is the internal influence times the
    difference of the values.
    """
    apply, params, twin, x, baseline, labels = in_double("relu_mlp")
    site, samples, repeats = SITES["relu_mlp"], 64, 32
    f = jaxplain.targets.logit(apply)
    x, label = x[:1], jnp.asarray(labels)[0]
    _, unit, neuron = a_neuron(apply, params, x, "relu_mlp")
    options = {"n_samples": samples, "stdevs": 0.0, "baselines": torch.tensor(baseline)[None]}
    if kind == "layer":
        influence = paths.internal_influence(f, site, steps=samples * repeats, rule=paths.midpoint)
        r = influence(jnp.asarray(x[0]), jnp.asarray(baseline), label, params)
        ours = r.values * (r.value - r.baseline_value)
        of = captum.LayerGradientShap(twin, twin.tap)
        options |= {"target": int(labels[0]), "attribute_to_layer_input": False}
    else:
        explain = jax.jit(paths.gradient_shap(neuron, samples=samples * repeats, noise=0.0))
        start = jnp.asarray(baseline)[None]
        ours = explain(jax.random.key(0), jnp.asarray(x[0]), start, params).values
        of = captum.NeuronGradientShap(twin, twin.tap)
        options |= {"neuron_selector": unit}
    torch.manual_seed(0)
    theirs = np.stack(
        [of.attribute(torch.tensor(x), **options).detach().numpy()[0] for _ in range(repeats)]
    )
    error = theirs.std(axis=0, ddof=1) / repeats**0.5
    off = np.abs(theirs.mean(axis=0) - np.asarray(ours).reshape(error.shape))
    assert np.mean(off <= 4 * error + 1e-9 * np.abs(theirs).max()) > 0.99
