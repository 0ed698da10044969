"""Equinox models: equal to the model itself, sites by path, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import sites

eqx = pytest.importorskip("equinox", reason="equinox is not installed")

close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
X = jax.random.normal(jax.random.key(0), (5, 4))


class Block(eqx.Module):
    up: eqx.nn.Linear
    down: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self, key):
        first, second = jax.random.split(key)
        self.up = eqx.nn.Linear(4, 8, key=first)
        self.down = eqx.nn.Linear(8, 4, key=second)
        self.dropout = eqx.nn.Dropout(0.5)

    def __call__(self, x, *, key=None):
        return x + self.dropout(self.down(jax.nn.relu(self.up(x))), key=key)


class Model(eqx.Module):
    """A list and a dict of modules, integers among the arrays, a function."""

    blocks: list
    heads: dict
    offset: jax.Array
    activation: object

    def __init__(self, key):
        keys = jax.random.split(key, 4)
        self.blocks = [Block(k) for k in keys[:3]]
        self.heads = {"out": eqx.nn.Linear(4, 2, key=keys[3])}
        self.offset = jnp.arange(2)
        self.activation = jax.nn.tanh

    def __call__(self, x, scale=1.0):
        for block in self.blocks:
            x = block(x)
        x = self.activation(self.heads["out"](self.blocks[0](x)))
        return scale * x + self.offset.astype(x.dtype)


class Scanned(eqx.Module):
    """The blocks stacked, one trace for all, each rematerialised."""

    blocks: Block

    def __init__(self, key):
        self.blocks = eqx.filter_vmap(Block)(jax.random.split(key, 3))

    def __call__(self, x):
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)

        @jax.checkpoint
        def step(x, arrays):
            return eqx.combine(arrays, rest)(x), None

        return jax.lax.scan(step, x, arrays)[0]


class Normed(eqx.Module):
    linear: eqx.nn.Linear
    norm: eqx.nn.BatchNorm

    def __init__(self, key):
        self.linear = eqx.nn.Linear(4, 3, key=key)
        self.norm = eqx.nn.BatchNorm(3, axis_name="batch", mode="ema")

    def __call__(self, x, state):
        return self.norm(self.linear(x), state)


def evaluated(model):
    return eqx.nn.inference_mode(model)


def test_equal_to_the_model_with_sites_by_path():
    model = evaluated(Model(jax.random.key(1)))
    classes = [type(block) for block in model.blocks]
    apply, params = jaxplain.adapters.equinox(model, arguments={"scale": 2.0})
    expected = jax.vmap(functools.partial(model, scale=2.0))(X)
    close(apply(params, X), expected)
    close(jax.jit(apply)(params, X), expected)
    found = {name: site.shape for name, site in sites.names(apply)(params, X).items()}
    assert found == {
        "blocks.0.up": (2, 5, 8),  # called twice: a leading axis over the calls
        "blocks.0.down": (2, 5, 4),
        "blocks.0.dropout": (2, 5, 4),
        "blocks.0": (2, 5, 4),
        **{
            f"blocks.{k}{part}": (5, width)
            for k in (1, 2)
            for part, width in ((".up", 8), (".down", 4), (".dropout", 4), ("", 4))
        },
        "heads.out": (5, 2),
    }
    output, values = sites.read(apply, ["blocks.1.up", "blocks.0[0]"])(params, X)
    close(output, expected)
    first = jax.vmap(model.blocks[0])(X)
    close(values["blocks.0[0]"], first)
    close(values["blocks.1.up"], jax.vmap(model.blocks[1].up)(first))
    assert [type(block) for block in model.blocks] == classes  # as it was


def test_other_parameters_and_gradients_by_them():
    model = evaluated(Model(jax.random.key(1)))
    apply, params = jaxplain.adapters.equinox(model)
    kernel = lambda p: p.heads["out"].weight
    twice = eqx.tree_at(kernel, params, 2 * kernel(params))
    other = eqx.tree_at(lambda m: m.heads["out"].weight, model, 2 * model.heads["out"].weight)
    close(apply(twice, X), jax.vmap(other)(X))
    loss = lambda weight: jnp.sum(apply(eqx.tree_at(kernel, params, weight), X) ** 2)
    assert float(jnp.abs(jax.grad(loss)(kernel(params))).max()) > 0


def test_scanned_and_rematerialised_blocks():
    model = evaluated(Scanned(jax.random.key(1)))
    apply, params = jaxplain.adapters.equinox(model)
    output, values = sites.read(apply, ["blocks", "blocks.up", "blocks[1]"])(params, X)
    close(output, jax.vmap(model)(X))
    row = lambda k: lambda leaf: leaf[k] if eqx.is_array(leaf) else leaf
    blocks = [jax.tree.map(row(k), model.blocks) for k in range(3)]
    stream = [X]
    for block in blocks:
        stream.append(jax.vmap(block)(stream[-1]))
    close(values["blocks"], jnp.stack(stream[1:]))
    close(values["blocks[1]"], stream[2])
    close(values["blocks.up"][2], jax.vmap(blocks[2].up)(stream[2]))
    write = sites.write(apply, "blocks[0]")
    close(write({"blocks[0]": stream[1]}, params, X), output)


def test_running_statistics():
    model, state = eqx.nn.make_with_state(Normed)(jax.random.key(1))
    run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    for _ in range(3):
        _, state = run(X + 3, state)
    model = evaluated(model)
    apply, params = jaxplain.adapters.equinox(model, state)
    expected = jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(X, state)[0]
    for _ in range(2):  # the state is not used up
        close(apply(params, X), expected)
    assert {"linear", "norm.0"} <= set(sites.names(apply)(params, X))
    r = jaxplain.integrated_gradients(jaxplain.targets.logit(apply), steps=8)(
        X[0], jnp.zeros(4), jnp.int32(1), params
    )
    close(r.output, expected[0, 1])


class Stacking(eqx.Module):
    """Its blocks become one tree in the call, for which their classes must be one."""

    blocks: list

    def __call__(self, x):
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.blocks)
        return jax.lax.scan(lambda x, block: (jnp.tanh(block(x)), None), x, stacked)[0]


REGISTERED = set()


class Once:
    """A class that takes no other of its name."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.__name__ in REGISTERED:
            raise ValueError("registered already")
        REGISTERED.add(cls.__name__)


class Registered(Once, eqx.nn.Linear):
    pass


class OfRegistered(eqx.Module):
    inner: Registered

    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize("kind", [Stacking, OfRegistered])
def test_a_model_that_does_not_run_with_names(kind):
    keys = jax.random.split(jax.random.key(1), 2)
    if kind is Stacking:
        model = Stacking([eqx.nn.Linear(4, 4, key=key) for key in keys])
    else:
        model = OfRegistered(Registered(4, 2, key=keys[0]))
    apply, params = jaxplain.adapters.equinox(model)
    with pytest.raises(ValueError, match=r"but not with its modules named.*Give has_sites=False"):
        apply(params, X)
    apply, params = jaxplain.adapters.equinox(model, has_sites=False)
    close(apply(params, X), jax.vmap(model)(X))
    with pytest.raises(ValueError, match="there is no site 'inner'"):
        sites.read(apply, "inner")(params, X)


def test_one_example_at_a_time():
    """A loop as long as each example needs it is read by mapping the reading."""

    class Looped(eqx.Module):
        inner: eqx.nn.Linear

        def __call__(self, x):
            return jax.lax.while_loop(
                lambda x: jnp.sum(jnp.abs(x)) > 1, lambda x: jnp.tanh(self.inner(x)) / 2, x
            )

    model = Looped(eqx.nn.Linear(4, 4, key=jax.random.key(3)))
    apply, params = jaxplain.adapters.equinox(model)
    with pytest.raises(ValueError, match=r"Map the reading, `jax\.vmap"):
        sites.read(apply, "inner")(params, X)
    apply, params = jaxplain.adapters.equinox(model, is_batched=False)
    output, values = jax.vmap(sites.read(apply, "inner"), (None, 0))(params, X)
    close(output, jax.vmap(model)(X))
    close(jnp.tanh(values["inner"]) / 2, output)


class Head(eqx.Module):
    norm: eqx.Module

    def __call__(self, x, state):
        x, state = self.norm(x, state)
        return x, jnp.sum(x), state


class WithState(eqx.Module):
    head: Head

    def __call__(self, x, state):
        x, total, state = self.head(x, state)
        return x + total, state


def test_a_state_that_a_module_returns_is_no_value():
    make = lambda: WithState(Head(eqx.nn.BatchNorm(4, "batch", mode="ema")))
    model, state = eqx.nn.make_with_state(make)()
    run = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    _, state = run(X + 3, state)
    model = evaluated(model)
    apply, params = jaxplain.adapters.equinox(model, state)
    assert list(sites.names(apply)(params, X)) == ["head.norm.0", "head.0", "head.1"]
    close(apply(params, X), jax.vmap(model, in_axes=(0, None), out_axes=(0, None))(X, state)[0])


class Tied(eqx.Module):
    shared: eqx.nn.Shared

    def __init__(self, key):
        pair = eqx.nn.Linear(4, 4, key=key), eqx.nn.Linear(4, 4, key=key)
        weight = lambda pair, k: pair[k].weight
        self.shared = eqx.nn.Shared(
            pair, lambda pair: weight(pair, 1), lambda pair: weight(pair, 0)
        )

    def __call__(self, x):
        first, second = self.shared()
        return second(jnp.tanh(first(x)))


def test_shared_modules():
    model = Tied(jax.random.key(2))
    apply, params = jaxplain.adapters.equinox(model)
    output, values = sites.read(apply, ["shared.pytree.0", "shared.pytree.1"])(params, X)
    close(output, jax.vmap(model)(X))
    close(values["shared.pytree.0"], jax.vmap(model.shared()[0])(X))
    close(values["shared.pytree.1"], output)


def test_explaining_a_batch():
    model = evaluated(Model(jax.random.key(1)))
    apply, params = jaxplain.adapters.equinox(model)
    f = jaxplain.targets.logit(apply)
    labels = jnp.array([0, 1, 1, 0, 1])
    r = jax.vmap(jaxplain.saliency(f, absolute=False), (0, 0, None))(X, labels, params)
    for x, label, values in zip(X, labels, r.values, strict=True):
        close(values, jax.grad(lambda x, label=label: model(x)[label])(x))


def test_names_cost_nothing():
    model = evaluated(Model(jax.random.key(1)))
    apply, params = jaxplain.adapters.equinox(model)
    arrays, rest = eqx.partition(model, eqx.is_array)
    plain = lambda arrays, x: jax.vmap(eqx.combine(arrays, rest))(x)
    flops = lambda f, *a: jax.jit(f).lower(*a).compile().cost_analysis()["flops"]
    assert flops(apply, params, X) == flops(plain, arrays, X)


def test_errors():
    model = Model(jax.random.key(1))
    with pytest.raises(
        ValueError, match=r"training mode: blocks.0.dropout \(Dropout\).*inference_"
    ):
        jaxplain.adapters.equinox(model)
    with pytest.raises(TypeError, match="model is the class Model: make the model first"):
        jaxplain.adapters.equinox(Model)
    with pytest.raises(TypeError, match=r"must be an equinox.Module, but is a function"):
        jaxplain.adapters.equinox(lambda x: x)
    apply, params = jaxplain.adapters.equinox(evaluated(model))
    with pytest.raises(ValueError, match="params has the tree"):
        apply({"x": X}, X)
    with pytest.raises(TypeError, match="Model cannot be called with 3 inputs"):
        apply(params, X, X, X)
    undropped = eqx.nn.Dropout(0.0)  # drops nothing in either mode
    apply, params = jaxplain.adapters.equinox(eqx.nn.Sequential([undropped]))
    close(apply(params, X), X)
