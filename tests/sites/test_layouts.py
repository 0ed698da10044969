"""One model as a loop of Python, a scan, a scan of rematerialised layers and calls of a jit: read,
written, differentiated and mapped in the same words, with the same values."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jaxplain
from jaxplain import sites

pytestmark = pytest.mark.pins
LAYERS, WIDTH = 4, 3
X = jax.random.normal(jax.random.key(0), (2, WIDTH))
PARAMS = jax.random.normal(jax.random.key(1), (LAYERS, WIDTH, WIDTH))


def block(x, w):
    hidden = sites.tag(jax.nn.gelu(x @ w), "mlp")
    return checkpoint_name(x + jax.nn.relu(hidden), "resid")  # whose custom rule is left alone


def whole_numbers(x, w):
    """The same of integers, whose sums and products no order of them rounds."""
    hidden = sites.tag(x @ w, "mlp")
    return checkpoint_name(x + jax.nn.relu(hidden), "resid")


def unrolled(x, params, block=block):
    for w in params:
        x = block(x, w)
    return jnp.sum(x**2)


def of_jits(x, params, block=block):
    for w in params:
        x = jax.jit(block)(x, w)
    return jnp.sum(x**2)


def scanned(x, params, block=block):
    return jnp.sum(jax.lax.scan(lambda x, w: (block(x, w), None), x, params)[0] ** 2)


def rematerialised(x, params, block=block):
    policy = jax.checkpoint_policies.save_only_these_names("mlp")
    return scanned(x, params, jax.checkpoint(block, policy=policy))


def by_hand(x, params, replace=lambda k, h: h):
    """The residual stream after each layer, and the output."""
    stream = []
    for k, w in enumerate(params):
        x = replace(k, x + jax.nn.relu(jax.nn.gelu(x @ w)))
        stream.append(x)
    return jnp.stack(stream), jnp.sum(x**2)


def in_double():
    return X.astype(jnp.float64), PARAMS.astype(jnp.float64)


MODELS = (unrolled, of_jits, scanned, rematerialised)
STREAM, OUTPUT = by_hand(X, PARAMS)
every_model = pytest.mark.parametrize("f", MODELS, ids=lambda f: f.__name__)
close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6)


@every_model
def test_what_can_be_named(f):
    found = sites.names(f)(X, PARAMS)
    assert {name: site.shape for name, site in found.items()} == {
        "mlp": (LAYERS, 2, WIDTH),
        "resid": (LAYERS, 2, WIDTH),
    }
    assert found["mlp"].dtype == jnp.float32
    structs = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), (X, PARAMS))
    assert sites.names(f)(*structs) == found


@every_model
@pytest.mark.parametrize("outside", [lambda g: g, jax.jit], ids=["eager", "jit"])
def test_reading(f, outside):
    output, values = outside(sites.read(f, ["resid", "resid[1]", "resid[-1]"]))(X, PARAMS)
    close(output, OUTPUT)
    assert list(values) == ["resid", "resid[-1]", "resid[1]"]
    close(values["resid"], STREAM)
    close(values["resid[1]"], STREAM[1])
    close(values["resid[-1]"], STREAM[-1])


@every_model
def test_reducing_where_the_value_is(f):
    project = lambda h: {"mean": jnp.mean(h, axis=-1), "first": h[0, 0]}
    _, values = sites.read(f, ["resid", "mlp"], reduce={"resid": project})(X, PARAMS)
    close(values["resid"]["mean"], STREAM.mean(axis=-1))
    close(values["resid"]["first"], STREAM[:, 0, 0])
    assert values["mlp"].shape == (LAYERS, 2, WIDTH)
    _, values = sites.read(f, "resid[2]", reduce=jnp.sum)(X, PARAMS)
    close(values["resid[2]"], STREAM[2].sum())


@every_model
def test_writing_back_changes_nothing(f):
    """To the last bit, of a program that no other fusion makes XLA round otherwise."""
    g = functools.partial(f, block=whole_numbers)
    x, params = jnp.round(3 * X), jnp.round(2 * PARAMS)
    plain = jax.jit(g)(x, params)
    assert 0 < float(plain) < 2**24
    names = ["resid", "mlp", "mlp[2]", "resid[0]", "resid[-1]"]
    output, values = sites.read(g, names)(x, params)
    assert float(output) == float(plain)
    for several in (["resid"], ["mlp", "resid"], ["mlp[2]"], ["resid[0]", "mlp[2]"], ["resid[-1]"]):
        own = {name: values[name] for name in several}
        assert float(sites.write(g, several)(own, x, params)) == float(plain)
        assert float(sites.edit(g, dict.fromkeys(several, lambda h: h))(x, params)) == float(plain)
    # Of any numbers, where the program is the same one.
    assert float(sites.edit(f, {"resid": lambda h: h})(X, PARAMS)) == float(jax.jit(f)(X, PARAMS))


@every_model
def test_writing_and_editing_one_layer(f):
    value = jnp.ones((2, WIDTH))
    expected = by_hand(X, PARAMS, lambda k, h: value if k == 1 else h)[1]
    close(sites.write(f, "resid[1]")({"resid[1]": value}, X, PARAMS), expected)
    close(sites.edit(f, {"resid[1]": lambda h: h / h})(X, PARAMS), expected)
    rows = sites.read(f, "resid")(X, PARAMS)[1]["resid"].at[1].set(value).at[3].set(2 * value)
    close(sites.write(f, "resid")({"resid": rows}, X, PARAMS), jnp.sum((2 * value) ** 2))
    halved = by_hand(X, PARAMS, lambda k, h: h / 2)[1]
    close(sites.edit(f, {"resid": lambda h: h / 2})(X, PARAMS), halved)


@every_model
def test_what_was_written_is_read(f):
    written = sites.write(f, "resid[1]")
    value = jnp.ones((2, WIDTH))
    _, values = sites.read(written, "resid")({"resid[1]": value}, X, PARAMS)
    close(values["resid"], by_hand(X, PARAMS, lambda k, h: value if k == 1 else h)[0])
    again = sites.read(sites.read(f, "mlp"), "resid")
    close(again(X, PARAMS)[1]["resid"], STREAM)


@every_model
def test_gradients_pass_through(f, x64):
    x, params = in_double()
    expected = jax.grad(f, (0, 1))(x, params)
    got = jax.grad(lambda *inputs: sites.read(f, ["mlp", "resid"])(*inputs)[0], (0, 1))(x, params)
    chex.assert_trees_all_close(got, expected, rtol=1e-10, atol=1e-9)
    of_value = lambda x: sites.read(f, "resid[2]")(x, params)[1]["resid[2]"].sum()
    by_the_hand = jax.grad(lambda x: by_hand(x, params)[0][2].sum())(x)
    close(jax.grad(of_value)(x), by_the_hand, rtol=1e-10)


@every_model
def test_gradients_by_the_value_at_a_site(f, x64):
    x, params = in_double()
    stream, _ = by_hand(x, params)
    g = sites.at(f, "resid[1]")
    gradient = jax.grad(g)(stream[1], x, params)
    for place in np.ndindex(2, WIDTH):
        step = jnp.zeros((2, WIDTH)).at[place].set(1e-6)
        difference = (g(stream[1] + step, x, params) - g(stream[1] - step, x, params)) / 2e-6
        np.testing.assert_allclose(gradient[place], difference, rtol=1e-7, atol=1e-8)
    assert not np.any(jax.grad(g, 1)(stream[1], x, params))  # it leads nowhere but to the value
    whole = jax.grad(sites.at(f, "resid"))(stream, x, params)
    assert not np.any(whole[:-1])  # all but the last are overwritten
    close(whole[-1], 2 * stream[-1])


@every_model
def test_mapping_in_both_orders(f):
    many = jnp.stack([X, 2 * X, -X])
    inside = jax.vmap(sites.read(f, "resid"), (0, None))(many, PARAMS)
    outside = sites.read(jax.vmap(f, (0, None)), "resid")(many, PARAMS)
    close(inside[0], outside[0])
    for k in range(3):
        close(inside[1]["resid"][k], by_hand(many[k], PARAMS)[0])
        close(outside[1]["resid"][:, k], by_hand(many[k], PARAMS)[0])
    values = jnp.stack([jnp.zeros_like(X), jnp.ones_like(X)])
    over_values = jax.vmap(sites.at(f, "resid[0]"), (0, None, None))(values, X, PARAMS)
    for k in range(2):
        close(over_values[k], by_hand(X, PARAMS, lambda j, h, k=k: values[k] if j == 0 else h)[1])


@every_model
def test_inside_a_gradient(f, x64):
    """The function itself differentiates: the primal values are the site, once."""
    x, params = in_double()
    (output, gradient), values = sites.read(jax.value_and_grad(f), "resid[0]")(x, params)
    stream, expected = by_hand(x, params)
    close(output, expected)
    close(gradient, jax.grad(f)(x, params), rtol=1e-10)
    close(values["resid[0]"], stream[0])
    assert sites.names(jax.value_and_grad(f))(x, params)["resid"].shape[0] == LAYERS


@every_model
def test_second_derivatives(f, x64):
    x, params = in_double()
    expected = jax.hessian(lambda x: by_hand(x, params)[1])(x)
    got = jax.hessian(lambda x: sites.read(f, "resid")(x, params)[0])(x)
    close(got, expected, rtol=1e-9, atol=1e-8)


@every_model
def test_one_trace(f):
    traces = []

    def counted(*inputs):
        traces.append(inputs)
        return f(*inputs)

    read = sites.read(counted, "resid")
    edited = sites.edit(counted, {"resid": lambda h: 2 * h})
    written = sites.at(counted, "resid[0]")
    after = []
    for scale in (1.0, 2.0):
        read(scale * X, PARAMS)
        edited(scale * X, PARAMS)
        written(scale * X, X, PARAMS)
        after.append(len(traces))
    assert 1 <= after[0] == after[1] <= 3


@every_model
def test_explaining_a_layer(f):
    g = sites.at(f, "resid[0]")
    value, baseline = STREAM[0], jnp.zeros_like(X)
    r = jaxplain.integrated_gradients(g, steps=64)(value, baseline, X, PARAMS)
    assert abs(float(r.completeness_gap)) < 2e-2 * abs(float(r.output - r.baseline_output))
    rest = lambda h: by_hand(h, PARAMS[1:])[1]
    expected = jaxplain.integrated_gradients(rest, steps=64)(value, baseline)
    close(r.values, expected.values, rtol=1e-4, atol=1e-4)


def test_tags_leave_no_trace():
    """The compiled program of a function with tags, read by nobody, is that without."""

    def bare(x, params):
        for w in params:
            x = x + jax.nn.relu(jax.nn.gelu(x @ w))
        return jnp.sum(x**2)

    def text(f):
        f.__name__ = f.__qualname__ = "f"
        whole = jax.jit(f).lower(X, PARAMS).compile().as_text()
        return [
            line.split(", metadata=")[0] for line in whole.splitlines() if "HloModule" not in line
        ]

    tables = ("FileNames", "FunctionNames", "FileLocations", "StackFrames")
    keep = lambda lines: lines[: next((k for k, t in enumerate(lines) if t in tables), len(lines))]
    assert keep(text(lambda *a: unrolled(*a))) == keep(text(lambda *a: bare(*a)))
