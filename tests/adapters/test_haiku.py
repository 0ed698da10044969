"""Haiku functions: equal to the function itself, sites by module name, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import sites

hk = pytest.importorskip("haiku", reason="dm-haiku is not installed")


@pytest.fixture(autouse=True)
def usual_promotion():
    """As users have it: the layers of the library themselves promote dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
X = jax.random.normal(jax.random.key(0), (5, 4))


def network(x, is_training=False):
    x = hk.Linear(6)(x)
    x = hk.BatchNorm(True, True, 0.9)(x, is_training)
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.5, x)
    return hk.nets.MLP([6, 3])(jax.nn.relu(x))


def with_state():
    transformed = hk.transform_with_state(network)
    params, state = transformed.init(jax.random.key(1), X, True)
    for k in range(3):
        _, state = transformed.apply(params, state, jax.random.key(k), X + k, True)
    return transformed, params, state


def test_equal_to_the_function_with_sites_by_name():
    transformed, params, state = with_state()
    apply, whole = jaxplain.adapters.haiku(transformed, params, state)
    expected = transformed.apply(params, state, None, X)[0]
    close(apply(whole, X), expected)
    found = {name: site.shape for name, site in sites.names(apply)(whole, X).items()}
    assert found == {
        "linear": (5, 6),
        "batch_norm": (5, 6),
        "mlp/~/linear_0": (5, 6),
        "mlp/~/linear_1": (5, 3),
        "mlp": (5, 3),
    }
    output, values = sites.read(apply, "linear")(whole, X)
    close(output, expected)
    close(values["linear"], X @ params["linear"]["w"] + params["linear"]["b"][None])


def layer(x):
    return jax.nn.relu(hk.Linear(4)(x)) + x


def stacked(x):
    x = hk.experimental.layer_stack(3, name="stack")(layer)(hk.remat(hk.Linear(4))(x))
    x = hk.experimental.layer_stack(2, name="stack")(layer)(x)
    twice = hk.experimental.layer_stack(2, name="inner")
    return hk.experimental.layer_stack(2, name="outer")(lambda x: twice(layer)(x))(x)


@pytest.mark.parametrize("transform", [None, jax.jit, jax.checkpoint, hk.remat])
def test_a_module_in_a_layer_stack_has_the_name_of_its_parameters(transform):
    """There Haiku counts names from the start; however often JAX traces the layer."""
    inside = transform is hk.remat
    transformed = hk.transform((lambda x: hk.remat(stacked)(x)) if inside else stacked)
    params = transformed.init(jax.random.key(1), X)
    apply, params = jaxplain.adapters.haiku(transformed, params)
    if transform and not inside:
        apply = transform(apply)
    names = ["linear", "stack/linear", "stack_1/linear", "outer/inner/linear"]
    assert list(sites.names(apply)(params, X)) == names
    output, values = sites.read(apply, names)(params, X)
    close(output, transformed.apply(params, None, X))
    x = X @ params["linear"]["w"] + params["linear"]["b"][None]
    close(values["linear"], x)
    for name in names[1:]:
        w, b = params[name]["w"].reshape(-1, 4, 4), params[name]["b"].reshape(-1, 4)
        for k, value in enumerate(values[name]):
            own = x @ w[k] + b[k][None]
            close(value, own)
            x = jax.nn.relu(own) + x
    close(x, output)
    squares = lambda x: jnp.sum(apply(params, x) ** 2)
    first, second = sites.read(squares, names)(X)[1], sites.read(jax.grad(squares), names)(X)[1]
    jax.tree.map(close, first, second)


class Doubled(hk.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


def test_a_call_of_the_parent_class_is_no_hit():
    transformed = hk.transform(lambda x: Doubled(4)(x))
    apply, params = jaxplain.adapters.haiku(transformed, transformed.init(jax.random.key(1), X))
    output, values = sites.read(apply, "doubled")(params, X)
    close(values["doubled"], output)
    close(sites.edit(apply, {"doubled": lambda h: h + 1})(params, X), output + 1)


class Calls(hk.Module):
    def __call__(self, x):
        return hk.Linear(4)(x)


def test_a_module_that_makes_its_child_in_each_call_has_one_site():
    def f(x):
        module = Calls()
        return module(jnp.tanh(module(x)))

    transformed = hk.transform(f)
    apply, params = jaxplain.adapters.haiku(transformed, transformed.init(jax.random.key(1), X))
    found = {name: site.shape for name, site in sites.names(apply)(params, X).items()}
    assert found == {"calls/linear": (2, 5, 4), "calls": (2, 5, 4)}


def test_a_function_given_parameters_by_hand():
    inner = hk.transform(lambda x: hk.Linear(4)(x))
    own = inner.init(jax.random.key(2), X)
    transformed = hk.transform(lambda x: inner.apply(own, None, hk.Linear(4, name="first")(x)))
    apply, params = jaxplain.adapters.haiku(transformed, transformed.init(jax.random.key(1), X))
    assert list(sites.names(apply)(params, X)) == ["first", "linear@1"]


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "jit"])
def test_a_function_without_a_key(compiled):
    """And what was compiled and called before, so that JAX keeps a trace without names."""
    form = lambda made: made._replace(apply=jax.jit(made.apply)) if compiled else made
    transformed, *both = with_state()
    expected, _ = transformed.apply(*both, None, X)
    for each, key in ((transformed, (None,)), (hk.without_apply_rng(transformed), ())):
        made = form(each)
        made.apply(*both, *key, X)
        apply, whole = jaxplain.adapters.haiku(made, *both)
        close(apply(whole, X), expected)
        assert "mlp/~/linear_0" in sites.names(apply)(whole, X)
    made = hk.without_apply_rng(hk.transform(lambda x, y: hk.Linear(3)(x) * y))
    params = made.init(jax.random.key(1), X, 2.0)
    apply, params = jaxplain.adapters.haiku(form(made), params)
    close(apply(params, X, 2.0), made.apply(params, X, 2.0))


def test_explaining_a_layer():
    transformed, params, state = with_state()
    apply, whole = jaxplain.adapters.haiku(transformed, params, state)
    f = jaxplain.targets.logit(apply)
    x, label = X[0], jnp.int32(2)
    value = sites.read(f, "batch_norm")(x, label, whole)[1]["batch_norm"]
    explain = jaxplain.integrated_gradients(sites.at(f, "batch_norm"), steps=64)
    r = explain(value, jnp.zeros_like(value), x, label, whole)
    close(r.output, transformed.apply(params, state, None, X)[0][0, 2])
    assert abs(float(r.completeness_gap)) < 2e-2 * float(jnp.abs(r.values).sum())


def test_errors():
    transformed, params, state = with_state()
    make = jaxplain.adapters.haiku
    apply, whole = make(transformed, params, state, arguments={"is_training": True})
    with pytest.raises(ValueError, match=r"in training mode: its call asked for random numbers"):
        apply(whole, X)
    normed = hk.transform_with_state(lambda x: hk.BatchNorm(True, True, 0.9)(x, True))
    apply, whole = make(normed, *normed.init(jax.random.key(0), X))
    with pytest.raises(ValueError, match=r"changed its state \(batch_norm/~/mean_ema.average"):
        apply(whole, X)
    with pytest.raises(TypeError, match=r"must be what haiku\.transform or"):
        make(network, params)
    with pytest.raises(TypeError, match="state must be the dict"):
        make(transformed, params)
    with pytest.raises(ValueError, match="has no state, but state was given"):
        make(hk.transform(network), params, state)
