"""Sites by module path: for NNX and Linen, plain, scanned and rematerialised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxplain
from jaxplain import sites

X = jax.random.normal(jax.random.key(0), (2, 4))
close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


class NnxBlock(nnx.Module):
    def __init__(self, *, rngs):
        self.up = nnx.Linear(4, 8, rngs=rngs)
        self.down = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.relu(self.up(x)))


class NnxModel(nnx.Module):
    """A list of blocks, one of which is called twice, and a pair that comes back as a dict."""

    def __init__(self, *, rngs):
        self.blocks = nnx.List([NnxBlock(rngs=rngs) for _ in range(3)])
        self.head = nnx.Linear(4, 2, rngs=rngs)
        self.same = self.head

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.same(self.blocks[0](x))


class NnxScanned(nnx.Module):
    def __init__(self, *, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return NnxBlock(rngs=rngs)

        self.blocks = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def run(x, block):
            return block(x)

        return run(x, self.blocks)


class LinenBlock(linen.Module):
    @linen.compact
    def __call__(self, x, _=None):
        hidden = linen.relu(linen.Dense(8, name="up")(x))
        return x + linen.Dense(4, name="down")(hidden), None


class LinenModel(linen.Module):
    scanned: bool = False

    @linen.compact
    def __call__(self, x):
        if self.scanned:
            layers = linen.scan(
                linen.remat(LinenBlock),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                length=3,
            )
            return layers(name="blocks")(x, None)[0]
        for k in range(3):
            x, _ = LinenBlock(name=f"block{k}")(x)
        return x


def test_names_of_nnx_are_paths_and_a_shared_module_has_one():
    model = NnxModel(rngs=nnx.Rngs(0))
    model.eval()
    classes = {type(module) for _, module in nnx.iter_modules(model)}
    apply, params = jaxplain.adapters.nnx(model)
    found = sites.names(apply)(params, X)
    assert {name: site.shape for name, site in found.items()} == {
        "blocks.0.up": (2, 2, 8),  # called twice: a leading axis over the calls
        "blocks.0.down": (2, 2, 4),
        "blocks.0": (2, 2, 4),
        "blocks.1.up": (2, 8),
        "blocks.1.down": (2, 4),
        "blocks.1": (2, 4),
        "blocks.2.up": (2, 8),
        "blocks.2.down": (2, 4),
        "blocks.2": (2, 4),
        "head": (2, 2),
    }
    output, values = sites.read(apply, ["blocks.1", "blocks.0[1]", "head"])(params, X)
    close(output, model(X))
    first = model.blocks[0](X)
    close(values["blocks.1"], model.blocks[1](first))
    last = model.blocks[2](model.blocks[1](first))
    close(values["blocks.0[1]"], model.blocks[0](last))
    close(values["head"], output)
    assert {type(module) for _, module in nnx.iter_modules(model)} == classes  # as it was


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_scanned_and_rematerialised_layers_come_stacked(kind):
    if kind == "nnx":
        model = NnxScanned(rngs=nnx.Rngs(0))
        model.eval()
        apply, params = jaxplain.adapters.nnx(model)
        weights, whole = params["blocks"], "blocks"
    else:
        module = LinenModel(scanned=True)
        apply, params = jaxplain.adapters.linen(module, module.init(jax.random.key(1), X))
        weights, whole = params["params"]["blocks"], "blocks.0"  # of the pair (carry, nothing)
    up, down = weights["up"], weights["down"]
    x, ups, stream = X, [], []
    for k in range(3):
        ups.append(x @ up["kernel"][k] + up["bias"][k][None])
        x = x + jax.nn.relu(ups[-1]) @ down["kernel"][k] + down["bias"][k][None]
        stream.append(x)
    output, values = sites.read(apply, ["blocks.up", whole, f"{whole}[1]"])(params, X)
    close(output, x)
    close(values["blocks.up"], jnp.stack(ups))
    close(values[whole], jnp.stack(stream))
    close(values[f"{whole}[1]"], stream[1])
    written = sites.write(apply, f"{whole}[1]")
    close(written({f"{whole}[1]": stream[1]}, params, X), output)
    gradient = jax.grad(lambda h: sites.at(apply, f"{whole}[2]")(h, params, X).sum())(stream[2])
    close(gradient, jnp.ones((2, 4)))


def test_names_of_linen_are_paths():
    module = LinenModel()
    variables = module.init(jax.random.key(1), X)
    apply, params = jaxplain.adapters.linen(module, variables)
    assert list(sites.names(apply)(params, X)) == [
        f"block{k}.{part}" for k in range(3) for part in ("up", "down", "0")
    ]
    _, values = sites.read(apply, "block1.up")(params, X)
    _, state = module.apply(variables, X, capture_intermediates=True)
    close(values["block1.up"], state["intermediates"]["block1"]["up"]["__call__"][0])


def test_explaining_a_layer_of_a_flax_model():
    model = NnxModel(rngs=nnx.Rngs(0))
    model.eval()
    apply, params = jaxplain.adapters.nnx(model)
    f = jaxplain.targets.logit(apply)  # one example
    x, label = X[0], jnp.int32(1)
    _, values = sites.read(f, "blocks.1")(x, label, params)
    hidden = values["blocks.1"]
    assert hidden.shape == (1, 4)
    r = jaxplain.integrated_gradients(sites.at(f, "blocks.1"), steps=64)(
        hidden, jnp.zeros_like(hidden), x, label, params
    )
    np.testing.assert_allclose(r.output, apply(params, X[:1])[0, 1], rtol=1e-5)
    assert abs(float(r.completeness_gap)) < 1e-2 * abs(float(r.output - r.baseline_output))
    batch = jax.vmap(jaxplain.saliency(sites.at(f, "blocks.1")), (0, 0, None, None))(
        jnp.stack([hidden, hidden]), X, label, params
    )
    assert batch.values.shape == (2, 1, 4)


def test_names_cost_nothing():
    model = NnxModel(rngs=nnx.Rngs(0))
    model.eval()
    apply, params = jaxplain.adapters.nnx(model)
    graph, state = nnx.split(model)
    plain = lambda state, x: nnx.merge(graph, state)(x)
    flops = lambda f, *a: jax.jit(f).lower(*a).compile().cost_analysis()["flops"]
    assert flops(apply, params, X) == flops(plain, state, X)


class Doubled(linen.Dense):
    @linen.compact
    def __call__(self, x):
        return 2 * super().__call__(x)


class Adapted(linen.Module):
    """A module that shares the place of another: both have one path."""

    inner: linen.Module

    def setup(self):
        linen.share_scope(self, self.inner)
        self.matrix = self.param("matrix", linen.initializers.normal(), (4, 4))

    def __call__(self, x):
        return self.inner(x) + x @ self.matrix


class OfTwo(linen.Module):
    @linen.compact
    def __call__(self, x):
        return Adapted(linen.Dense(4, name="shared"))(Doubled(4, name="doubled")(x))


def test_of_calls_inside_each_other_at_one_path_the_outer_one_is_the_hit():
    module = OfTwo()
    apply, params = jaxplain.adapters.linen(module, module.init(jax.random.key(1), X))
    found = sites.names(apply)(params, X)
    assert {name: site.shape for name, site in found.items()} == {
        "doubled": (2, 4),
        "shared": (2, 4),
    }
    output, values = sites.read(apply, ["doubled", "shared"])(params, X)
    close(values["shared"], output)
    own = params["params"]["doubled"]
    close(values["doubled"], 2 * (X @ own["kernel"] + own["bias"][None]))


class LinenFlags(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4)(x), True, 2


class LinenBranching(linen.Module):
    @linen.compact
    def __call__(self, x):
        x, is_doubled, times = LinenFlags(name="layer")(x)
        return x * sum(range(times)) if is_doubled else x


class NnxFlags(nnx.Linear):
    def __call__(self, x):
        return super().__call__(x), True, 2


class NnxBranching(nnx.Module):
    def __init__(self):
        self.layer = NnxFlags(4, 4, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x, is_doubled, times = self.layer(x)
        return x * sum(range(times)) if is_doubled else x


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_numbers_and_flags_stay_what_they_are(kind):
    """A model that branches on what a module returned still compiles."""
    if kind == "nnx":
        apply, params = jaxplain.adapters.nnx(NnxBranching())
    else:
        module = LinenBranching()
        apply, params = jaxplain.adapters.linen(module, module.init(jax.random.key(0), X))
    assert not {"layer.1", "layer.2"} & set(sites.names(apply)(params, X))
    output, values = sites.read(jax.jit(apply), "layer.0")(params, X)
    close(output, apply(params, X))
    close(values["layer.0"], output)


class Compiled(linen.Module):
    @linen.jit
    @linen.compact
    def __call__(self, x):
        return linen.Dense(4, name="inner")(x)


class WithCompiled(linen.Module):
    @linen.compact
    def __call__(self, x):
        return Compiled(name="layer")(x)


def test_a_layer_that_was_traced_without_names_has_them():
    """`linen.jit` keeps its traces between calls, by what it knows of the call."""
    module = WithCompiled()
    variables = module.init(jax.random.key(1), X)
    apply, params = jaxplain.adapters.linen(module, variables)
    module.apply(variables, X)
    assert {"layer.inner", "layer"} <= set(sites.names(apply)(params, X))
    close(module.apply(variables, X), apply(params, X))
