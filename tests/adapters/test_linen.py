"""Flax Linen modules as pure functions: against the module itself and against numpy."""

import chex
import flax.core
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxplain

pytestmark = pytest.mark.pins  # it depends on Flax's versions

BATCH = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


class Net(linen.Module):
    """The usual Linen network: the mode is an argument of the call."""

    @linen.compact
    def __call__(self, batch, *, train):
        hidden = linen.Dense(4, kernel_init=linen.initializers.zeros)(batch)
        hidden = linen.BatchNorm(use_running_average=not train)(hidden)
        self.sow("intermediates", "hidden", hidden)
        hidden = linen.Dropout(0.5, deterministic=not train)(hidden)
        return linen.Dense(2, kernel_init=linen.initializers.zeros)(hidden)


class Dropped(linen.Module):
    deterministic: bool = False

    @linen.compact
    def __call__(self, batch):
        return linen.Dropout(0.5, deterministic=self.deterministic)(batch)


def filled(variables, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda array: jnp.asarray(random.uniform(0.5, 1.5, array.shape), array.dtype), variables
    )


def net_in_numpy(variables, batch):
    v = jax.tree.map(lambda array: np.asarray(array, np.float64), variables)
    dense, norm, head = (v["params"][name] for name in ("Dense_0", "BatchNorm_0", "Dense_1"))
    running = v["batch_stats"]["BatchNorm_0"]
    hidden = batch @ dense["kernel"] + dense["bias"]
    hidden = (hidden - running["mean"]) / np.sqrt(running["var"] + 1e-5) * norm["scale"]
    return (hidden + norm["bias"]) @ head["kernel"] + head["bias"]


@pytest.fixture
def variables():
    return filled(Net().init(jax.random.key(0), BATCH, train=False))


def test_output_is_that_of_the_module_and_of_numpy(variables):
    apply, params = jaxplain.adapters.linen(Net(), variables, arguments={"train": False})
    output = apply(params, BATCH)
    np.testing.assert_array_equal(output, Net().apply(variables, BATCH, train=False))
    np.testing.assert_allclose(output, net_in_numpy(variables, BATCH), rtol=1e-5)


def test_params_are_arguments_and_one_trace_serves_all(variables):
    apply, params = jaxplain.adapters.linen(Net(), variables, arguments={"train": False})
    assert params.keys() == {"params", "batch_stats"}
    traced = jax.jit(chex.assert_max_traces(apply, n=1))
    for seed in range(3):
        other = filled(variables, seed)
        np.testing.assert_allclose(
            traced(other, BATCH), net_in_numpy(other, BATCH), rtol=1e-5, atol=1e-6
        )
    assert not jax.make_jaxpr(apply)(params, BATCH).consts


def test_gradients_and_both_forms_agree(variables):
    apply, params = jaxplain.adapters.linen(Net(), variables, arguments={"train": False})
    gradient = jax.grad(lambda x, p: apply(p, x[None])[0, 1])
    with jax.checking_leaks():
        batched = jax.jit(jax.vmap(gradient, in_axes=(0, None)))(BATCH, params)
    v = jax.tree.map(np.asarray, variables)
    scale = v["params"]["BatchNorm_0"]["scale"]
    scale = scale / np.sqrt(v["batch_stats"]["BatchNorm_0"]["var"] + 1e-5)
    weights = v["params"]["Dense_1"]["kernel"][:, 1]
    expected = v["params"]["Dense_0"]["kernel"] @ (scale * weights)
    np.testing.assert_allclose(batched, np.tile(expected, (5, 1)), rtol=1e-5)
    np.testing.assert_allclose(batched[3], gradient(BATCH[3], params), rtol=1e-6)
    by_params = jax.grad(lambda p: apply(p, BATCH).sum())(params)
    np.testing.assert_allclose(by_params["params"]["Dense_1"]["bias"], [5.0, 5.0], rtol=1e-6)


def test_frozen_variables_and_leftover_intermediates(variables):
    _, captured = Net().apply(variables, BATCH, train=False, mutable=["intermediates"])
    frozen = flax.core.freeze({**variables, **captured})
    apply, params = jaxplain.adapters.linen(Net(), frozen, arguments={"train": False})
    assert type(params) is dict
    assert params.keys() == {"params", "batch_stats"}
    np.testing.assert_allclose(apply(params, BATCH), net_in_numpy(variables, BATCH), rtol=1e-5)


def test_the_users_variables_are_not_changed(variables):
    before = jax.tree.map(lambda array: array, variables)
    apply, params = jaxplain.adapters.linen(Net(), variables, arguments={"train": False})
    apply(params, BATCH)
    params["params"]["Dense_1"]["bias"] = jnp.zeros(2)
    assert jax.tree.structure(variables) == jax.tree.structure(before)
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(variables), strict=True):
        assert old is new


def test_a_bound_module_is_used_without_its_variables(variables):
    bound = Net().bind(filled(variables, 7))
    apply, params = jaxplain.adapters.linen(bound, variables, arguments={"train": False})
    np.testing.assert_allclose(apply(params, BATCH), net_in_numpy(variables, BATCH), rtol=1e-5)


def test_training_by_batch_statistics_is_refused_with_the_mend(variables):
    apply, params = jaxplain.adapters.linen(Net(), variables, arguments={"train": True})
    with pytest.raises(ValueError, match=r"training mode: its call changed a variable") as error:
        jax.jit(apply)(params, BATCH)
    assert 'arguments={"train": False}' in str(error.value)
    assert isinstance(error.value.__cause__, flax.errors.ModifyScopeVariableError)


def test_training_by_dropout_is_refused_with_the_mend():
    apply, params = jaxplain.adapters.linen(Dropped(), {})
    with pytest.raises(ValueError, match=r"its call asked for random numbers") as error:
        apply(params, BATCH)
    assert "deterministic=True" in str(error.value)
    assert isinstance(error.value.__cause__, flax.errors.InvalidRngError)
    apply, params = jaxplain.adapters.linen(Dropped(deterministic=True), {})
    np.testing.assert_array_equal(apply(params, BATCH), BATCH)


class TwoInputs(linen.Module):
    @linen.compact
    def __call__(self, left, right, factor=1.0):
        return factor * (left + right), {"left": left}


def test_several_inputs_and_outputs():
    apply, params = jaxplain.adapters.linen(TwoInputs(), {}, arguments={"factor": 3.0})
    total, rest = jax.jit(apply)(params, BATCH, 2 * BATCH)
    np.testing.assert_allclose(total, 9 * BATCH, rtol=1e-6)
    np.testing.assert_array_equal(rest["left"], BATCH)
    with pytest.raises(TypeError, match="cannot be called with 1 inputs"):
        apply(params, BATCH)


class Layers(linen.Module):
    """Layers scanned over stacked parameters, each rematerialised."""

    @linen.compact
    def __call__(self, hidden):
        class Layer(linen.Module):
            @linen.compact
            def __call__(self, carry, _):
                return linen.Dense(3, kernel_init=linen.initializers.zeros)(carry), None

        scan = linen.scan(
            linen.remat(Layer), variable_axes={"params": 0}, split_rngs={"params": True}, length=3
        )
        return scan()(hidden, None)[0]


def test_scanned_and_rematerialised_layers():
    variables = filled(Layers().init(jax.random.key(0), BATCH))
    apply, params = jaxplain.adapters.linen(Layers(), variables)
    kernel, bias = (np.asarray(leaf) for leaf in reversed(jax.tree.leaves(variables)))
    expected = BATCH
    for i in range(3):
        expected = expected @ kernel[i] + bias[i]
    gradient = jax.jit(jax.vmap(jax.grad(lambda x, p: apply(p, x[None]).sum()), (0, None)))
    np.testing.assert_allclose(jax.jit(apply)(params, BATCH), expected, rtol=1e-5)
    slope = kernel[0] @ kernel[1] @ kernel[2].sum(1)
    np.testing.assert_allclose(gradient(BATCH, params), np.tile(slope, (5, 1)), rtol=1e-5)


def test_double_precision(variables, x64):
    apply, params = jaxplain.adapters.linen(Net(), variables, arguments={"train": False})
    params = jax.tree.map(lambda array: array.astype(jnp.float64), params)
    output = apply(params, jnp.asarray(BATCH, jnp.float64))
    assert output.dtype == jnp.float64
    np.testing.assert_allclose(output, net_in_numpy(params, np.float64(BATCH)), rtol=1e-13)


def test_bad_input(variables):
    with pytest.raises(TypeError, match=r"NNX module \(Linear\): use jaxplain.adapters.nnx"):
        jaxplain.adapters.linen(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), variables)
    with pytest.raises(TypeError, match="the class Net: make it first"):
        jaxplain.adapters.linen(Net, variables)
    with pytest.raises(TypeError, match=r"is a function.*needs no adapter"):
        jaxplain.adapters.linen(lambda params, batch: batch, variables)
    with pytest.raises(TypeError, match=r"variables must be the dict.*is a list"):
        jaxplain.adapters.linen(Net(), list(variables))
    with pytest.raises(ValueError, match=r"no collection \"params\", only \['BatchNorm_0', 'Dense"):
        jaxplain.adapters.linen(Net(), variables["params"])
    with pytest.raises(ValueError, match="'rngs', which is an option of Flax's apply"):
        jaxplain.adapters.linen(Net(), variables, arguments={"rngs": {}})
    apply, params = jaxplain.adapters.linen(Net(), variables)
    with pytest.raises(TypeError, match=r"'train'.*arguments=.\"train\": False"):
        apply(params, BATCH)
