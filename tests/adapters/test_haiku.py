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


def test_two_modules_of_one_name_are_two_sites():
    """Inside a layer stack Haiku counts names from the start: no value is taken for another."""

    def f(x):
        layer = lambda x: jax.nn.relu(hk.Linear(4)(x)) + x
        return hk.experimental.layer_stack(3, name="stack")(layer)(hk.remat(hk.Linear(4))(x))

    transformed = hk.transform(f)
    params = transformed.init(jax.random.key(1), X)
    apply, params = jaxplain.adapters.haiku(transformed, params)
    inner = next(name for name in params if name.endswith("/linear"))
    assert list(sites.names(apply)(params, X)) == ["linear", "linear@1"]
    output, values = sites.read(apply, ["linear", "linear@1"])(params, X)
    close(output, transformed.apply(params, None, X))
    x = X @ params["linear"]["w"] + params["linear"]["b"][None]
    close(values["linear"], x)
    for k in range(3):
        own = x @ params[inner]["w"][k] + params[inner]["b"][k][None]
        close(values["linear@1"][k], own)
        x = jax.nn.relu(own) + x
    close(x, output)


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
