"""Flax NNX models as pure functions: against the model itself and against numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxplain

pytestmark = pytest.mark.pins  # it depends on Flax's versions


def filled(model: nnx.Module, seed: int = 0) -> nnx.Module:
    """Replaces every floating-point number in the model by one in [0.5, 1.5] from numpy."""
    random = np.random.default_rng(seed)

    def fill(value):
        if not jnp.issubdtype(value.dtype, jnp.floating):
            return value
        return jnp.asarray(random.uniform(0.5, 1.5, value.shape), value.dtype)

    nnx.update(model, jax.tree.map(fill, nnx.state(model)))
    return model


def linear(features_in: int, features_out: int) -> nnx.Linear:
    # Constant weights need no random numbers, which cost a compilation for each shape.
    rngs = nnx.Rngs(0)
    zeros = nnx.initializers.zeros
    return nnx.Linear(features_in, features_out, kernel_init=zeros, rngs=rngs)


class Net(nnx.Module):
    """Both layers that have a mode, deep enough that the path has a name and a number."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([linear(3, 4), nnx.BatchNorm(4, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = linear(4, 2)
        self.scale = 0.5  # a frozen Python attribute

    def __call__(self, batch):
        for layer in self.layers:
            batch = layer(batch)
        return self.scale * self.head(self.dropout(batch))


def net_in_numpy(params, batch):
    p = jax.tree.map(lambda array: np.asarray(array, np.float64), params)
    dense, norm, head = p["layers"][0], p["layers"][1], p["head"]
    hidden = batch @ dense["kernel"] + dense["bias"]
    hidden = (hidden - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm["bias"]
    return 0.5 * (hidden @ head["kernel"] + head["bias"])


@pytest.fixture
def net():
    model = filled(Net())
    model.eval()
    return model


BATCH = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)


def test_output_is_that_of_the_model_and_of_numpy(net):
    apply, params = jaxplain.adapters.nnx(net)
    output = apply(params, BATCH)
    np.testing.assert_array_equal(output, net(BATCH))
    np.testing.assert_allclose(output, net_in_numpy(params, BATCH), rtol=1e-5)


def test_params_are_plain_arrays_with_the_statistics_and_without_keys(net):
    _, params = jaxplain.adapters.nnx(net)
    assert params.keys() == {"layers", "head"}  # no dropout: it has only a random stream
    assert params["layers"].keys() == {0, 1}
    assert params["layers"][1].keys() == {"mean", "var", "scale", "bias"}
    assert type(params) is dict
    for leaf in jax.tree.leaves(params):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32


def test_params_are_arguments_and_never_part_of_the_program(net):
    apply, params = jaxplain.adapters.nnx(net)
    traced = jax.jit(chex.assert_max_traces(apply, n=1))
    for seed in range(3):
        random = np.random.default_rng(seed)
        other = jax.tree.map(
            lambda array: jnp.asarray(random.uniform(0.5, 1.5, array.shape), array.dtype),  # noqa: B023
            params,
        )
        np.testing.assert_allclose(
            traced(other, BATCH), net_in_numpy(other, BATCH), rtol=1e-5, atol=1e-6
        )
    constants = jax.make_jaxpr(apply)(params, BATCH).consts
    assert sum(np.size(c) for c in constants) <= 2  # the key and the counter of the dropout


def test_one_trace_for_repeated_attributions_and_both_forms_agree(net):
    apply, params = jaxplain.adapters.nnx(net)
    gradient = jax.grad(chex.assert_max_traces(lambda x, p: apply(p, x[None])[0, 1], n=1))
    batched = jax.jit(jax.vmap(gradient, in_axes=(0, None)))
    first = batched(BATCH, params)
    np.testing.assert_array_equal(first, batched(BATCH, params))
    p = jax.tree.map(np.asarray, params)
    norm = p["layers"][1]
    expected = 0.5 * (
        p["layers"][0]["kernel"]
        @ (norm["scale"] / np.sqrt(norm["var"] + 1e-5) * p["head"]["kernel"][:, 1])
    )
    np.testing.assert_allclose(first, np.tile(expected, (5, 1)), rtol=1e-5)


def test_gradient_by_params_meets_no_key(net):
    apply, params = jaxplain.adapters.nnx(net)
    gradient = jax.grad(lambda p: apply(p, BATCH).sum())(params)
    np.testing.assert_allclose(gradient["head"]["bias"], [2.5, 2.5], rtol=1e-6)
    stacked = jax.tree.map(lambda array: jnp.stack([array, 2 * array]), params)
    outputs = jax.vmap(apply, in_axes=(0, None))(stacked, BATCH)
    np.testing.assert_allclose(outputs[0], net_in_numpy(params, BATCH), rtol=1e-5)


def test_the_users_model_is_not_changed(net):
    structure, state = nnx.split(net)
    before = jax.tree.map(lambda value: value, state)
    apply, params = jaxplain.adapters.nnx(net)
    with jax.checking_leaks():
        explain = jax.vmap(jax.grad(lambda x, p: apply(p, x[None])[0, 0]), in_axes=(0, None))
        jax.block_until_ready(jax.jit(explain)(BATCH, params))
    explain(BATCH, params)
    after_structure, after = nnx.split(net)
    assert after_structure == structure
    for (path, old), (_, new) in zip(
        nnx.to_flat_state(before), nnx.to_flat_state(after), strict=True
    ):
        assert old.get_raw_value() is new.get_raw_value(), path
    # And the other way round: training goes on without the adapted function.
    expected = apply(params, BATCH)
    net.train()
    net(BATCH)
    net.head.bias[...] += 1.0
    np.testing.assert_array_equal(apply(params, BATCH), expected)


def test_a_model_in_training_is_refused_by_name_and_the_mend_mends_it(net):
    net.train()
    with pytest.raises(ValueError, match=r"call model.eval\(\)") as error:
        jaxplain.adapters.nnx(net)
    assert "layers[1] (BatchNorm, use_running_average=False)" in str(error.value)
    assert "dropout (Dropout, deterministic=False)" in str(error.value)
    assert "head" not in str(error.value)
    assert not net.dropout.deterministic  # it was not switched behind the user's back
    view = nnx.view(net, deterministic=True, use_running_average=True)
    apply, params = jaxplain.adapters.nnx(view)
    np.testing.assert_allclose(apply(params, BATCH), net_in_numpy(params, BATCH), rtol=1e-5)
    net.eval()
    jaxplain.adapters.nnx(net)


def test_each_layer_with_a_mode_is_refused_in_training():
    rngs = nnx.Rngs(0)
    for layer in [
        nnx.Dropout(0.5),
        nnx.BatchNorm(3, rngs=rngs),
        nnx.MultiHeadAttention(1, 2, rngs=rngs, decode=False),
        nnx.SpectralNorm(linear(3, 3), rngs=rngs),
    ]:
        layer.train()
        with pytest.raises(ValueError, match=f"the model itself .{type(layer).__name__}, "):
            jaxplain.adapters.nnx(layer)
        layer.eval()
        jaxplain.adapters.nnx(layer)


def test_a_model_without_modes_needs_no_eval():
    model = filled(linear(3, 2))
    apply, params = jaxplain.adapters.nnx(model)
    expected = BATCH @ np.asarray(params["kernel"]) + np.asarray(params["bias"])
    np.testing.assert_allclose(apply(params, BATCH), expected, rtol=1e-5)


class Block(nnx.Module):
    def __init__(self, rngs):
        zeros = nnx.initializers.zeros
        self.dense = nnx.Linear(4, 4, kernel_init=zeros, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    @nnx.remat
    def __call__(self, hidden):
        return self.dropout(self.norm(self.dense(hidden)))


class Scanned(nnx.Module):
    """Scanned, rematerialised and shared layers, and an array that is no variable."""

    def __init__(self):
        rngs = nnx.Rngs(0)

        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return Block(rngs)

        self.blocks = make(rngs)
        self.shared = linear(4, 4)
        self.also = self.shared
        self.bare = nnx.data(jnp.ones(4))

    def __call__(self, hidden):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(hidden, block):
            return block(hidden)

        return self.also(self.shared(run(hidden, self.blocks))) * self.bare[None]


def scanned_in_numpy(params, hidden):
    p = jax.tree.map(lambda array: np.asarray(array, np.float64), params)
    for i in range(3):
        dense, norm = (jax.tree.map(lambda a: a[i], p["blocks"][n]) for n in ("dense", "norm"))  # noqa: B023
        hidden = hidden @ dense["kernel"] + dense["bias"]
        hidden = (hidden - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"]
        hidden = hidden + norm["bias"]
    shared = p.get("shared", p.get("also"))
    for _ in range(2):
        hidden = hidden @ shared["kernel"] + shared["bias"]
    return hidden * p["bare"]


def test_scanned_vmapped_remat_and_shared_layers():
    model = filled(Scanned())
    with pytest.raises(ValueError, match=r"blocks\.dropout .*blocks\.norm"):
        jaxplain.adapters.nnx(model)
    model.eval()
    apply, params = jaxplain.adapters.nnx(model)
    assert len({"shared", "also"} & params.keys()) == 1  # shared weights are there once
    hidden = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    expected = scanned_in_numpy(params, hidden)
    np.testing.assert_allclose(apply(params, hidden), expected, rtol=1e-4)
    explain = jax.jit(
        jax.vmap(
            jax.grad(chex.assert_max_traces(lambda x, p: apply(p, x[None]).sum(), n=1)),
            in_axes=(0, None),
        )
    )
    gradient = explain(hidden, params)
    np.testing.assert_array_equal(gradient, explain(hidden, params))
    step = np.float64(1e-3) * np.ones(4)  # the network is affine: differences are exact
    change = (scanned_in_numpy(params, hidden + step) - expected).sum(1)
    np.testing.assert_allclose(gradient @ step, change, rtol=1e-4)


class TwoInputs(nnx.Module):
    def __init__(self):
        self.dense = linear(3, 2)

    def __call__(self, left, right, *, factor=1.0):
        return {"sum": self.dense(left + right) * factor, "left": left}


def test_several_inputs_named_arguments_and_several_outputs():
    model = filled(TwoInputs())
    apply, params = jaxplain.adapters.nnx(model, arguments={"factor": 3.0})
    result = jax.jit(apply)(params, BATCH, 2 * BATCH)
    expected = 3.0 * (3 * BATCH @ np.asarray(params["dense"]["kernel"]))
    expected = expected + 3.0 * np.asarray(params["dense"]["bias"])
    np.testing.assert_allclose(result["sum"], expected, rtol=1e-5)
    np.testing.assert_array_equal(result["left"], BATCH)
    with pytest.raises(TypeError, match="cannot be called with 1 inputs"):
        apply(params, BATCH)


class Flagged(nnx.Module):
    """The older habit: the mode is an argument of the call."""

    def __init__(self):
        self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    def __call__(self, batch, train):
        return self.norm(batch, use_running_average=not train)


def test_a_call_that_trains_in_spite_of_eval_is_refused():
    model = filled(Flagged())
    model.eval()
    apply, params = jaxplain.adapters.nnx(model, arguments={"train": True})
    with pytest.raises(ValueError, match=r"updates batch statistics \(norm\.mean, norm\.var\)"):
        jax.jit(apply)(params, BATCH)
    apply, params = jaxplain.adapters.nnx(model)
    with pytest.raises(TypeError, match=r"'train'.*arguments=.\"train\": False"):
        apply(params, BATCH)
    apply, params = jaxplain.adapters.nnx(model, arguments={"train": False})
    norm = jax.tree.map(np.asarray, params["norm"])
    expected = (BATCH - norm["mean"]) / np.sqrt(norm["var"] + 1e-5) * norm["scale"] + norm["bias"]
    np.testing.assert_allclose(apply(params, BATCH), expected, rtol=1e-5, atol=1e-6)


class ScannedFlagged(nnx.Module):
    """The same habit inside nnx.scan and nnx.remat, which write back what they did not change."""

    def __init__(self):
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(offset):
            norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            norm.bias[...] += offset
            return norm

        self.norms = make(jnp.arange(3.0))

    def __call__(self, batch, train=True):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        @nnx.remat
        def run(batch, norm):
            return norm(batch, use_running_average=not train)

        return run(batch, self.norms)


def test_training_is_told_from_scans_that_write_back_everything():
    model = ScannedFlagged()
    model.eval()
    apply, params = jaxplain.adapters.nnx(model)
    with pytest.raises(ValueError, match=r"updates batch statistics \(norms\.mean, norms\.var\)"):
        apply(params, BATCH)
    apply, params = jaxplain.adapters.nnx(model, arguments={"train": False})
    expected = BATCH
    for offset in range(3):
        expected = expected / np.sqrt(1 + 1e-5) + offset
    np.testing.assert_allclose(apply(params, BATCH), expected, rtol=1e-5)
    gradient = jax.vmap(jax.grad(lambda x, p: apply(p, x[None])[0, 0]), (0, None))
    stacked = jax.tree.map(lambda array: jnp.stack([array, array]), params)
    several = jax.jit(jax.vmap(gradient, (None, 0)))(BATCH, stacked)  # two sets of statistics
    np.testing.assert_allclose(several[1, :, 0], np.full(5, (1 + 1e-5) ** -1.5), rtol=1e-5)


class Noisy(nnx.Module):
    def __init__(self):
        self.rngs = nnx.Rngs(0)
        self.offset = nnx.Param(jnp.zeros(()))

    def __call__(self, batch):
        return batch + jax.random.normal(self.rngs(), batch.shape) + self.offset[...]


def test_random_streams_stay_where_they_were():
    model = Noisy()
    apply, params = jaxplain.adapters.nnx(model)
    assert params.keys() == {"offset"}
    first = apply(params, BATCH)
    np.testing.assert_array_equal(first, apply(params, BATCH))
    assert model.rngs.default.count[...] == 0
    np.testing.assert_array_equal(first, model(BATCH))  # the first draw of the model
    assert jax.grad(lambda p: apply(p, BATCH).sum())(params)["offset"] == BATCH.size


def test_a_recurrent_network_whose_carry_draws_keys():
    cell = nnx.SimpleCell(3, 4, rngs=nnx.Rngs(0))
    model = filled(nnx.RNN(cell, rngs=nnx.Rngs(0)))
    apply, params = jaxplain.adapters.nnx(model)
    sequences = np.random.default_rng(3).normal(size=(2, 6, 3)).astype(np.float32)
    p = jax.tree.map(lambda array: np.asarray(array, np.float64), params)["cell"]
    hidden, expected = np.zeros((2, 4)), []
    for t in range(6):
        hidden = np.tanh(
            sequences[:, t] @ p["dense_i"]["kernel"]
            + p["dense_i"].get("bias", 0)
            + hidden @ p["dense_h"]["kernel"]
            + p["dense_h"].get("bias", 0)
        )
        expected.append(hidden)
    output = jax.jit(apply)(params, sequences)
    np.testing.assert_allclose(output, np.stack(expected, 1), atol=1e-5)


def test_what_an_earlier_call_left_is_no_parameter(net):
    net.seen = nnx.Intermediate((jnp.ones(1000),))
    apply, params = jaxplain.adapters.nnx(net)
    assert "seen" not in params
    assert net.seen is not None
    np.testing.assert_allclose(apply(params, BATCH), net_in_numpy(params, BATCH), rtol=1e-5)


def test_spectral_norm_divides_the_copy_and_not_the_model():
    model = filled(nnx.SpectralNorm(linear(3, 2), rngs=nnx.Rngs(0)))
    model.eval()
    kernel = np.asarray(model.layer_instance.kernel[...])
    apply, params = jaxplain.adapters.nnx(model)
    first = apply(params, BATCH)
    np.testing.assert_array_equal(first, apply(params, BATCH))
    np.testing.assert_array_equal(model.layer_instance.kernel[...], kernel)
    np.testing.assert_allclose(first, model(BATCH), rtol=1e-6)  # this one does change the model


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_precisions(net, dtype, x64):
    apply, params = jaxplain.adapters.nnx(net)
    params = jax.tree.map(lambda array: array.astype(dtype), params)
    output = jax.jit(apply)(params, jnp.asarray(BATCH, dtype))
    assert output.dtype == dtype
    tolerance = {"bfloat16": 5e-2, "float64": 1e-14}[dtype]
    batch = np.asarray(jnp.asarray(BATCH, dtype), np.float64)
    expected = net_in_numpy(params, batch)
    np.testing.assert_allclose(
        np.asarray(output, np.float64), expected, atol=tolerance * np.abs(expected).max()
    )


def test_params_survive_a_checkpoint(net, tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    apply, params = jaxplain.adapters.nnx(net)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "params", params)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "params", params)
    np.testing.assert_array_equal(apply(restored, BATCH), apply(params, BATCH))


def test_params_of_another_tree_are_refused(net):
    apply, params = jaxplain.adapters.nnx(net)
    as_restored = {**params, "layers": {str(k): v for k, v in params["layers"].items()}}
    with pytest.raises(ValueError, match="restore_int_paths"):
        apply(as_restored, BATCH)
    np.testing.assert_array_equal(
        apply(nnx.restore_int_paths(as_restored), BATCH), apply(params, BATCH)
    )


def test_what_is_no_nnx_module_is_refused():
    with pytest.raises(TypeError, match=r"Linen module \(Dense\): use jaxplain.adapters.linen"):
        jaxplain.adapters.nnx(linen.Dense(2))
    with pytest.raises(TypeError, match="the class Net: make the model first"):
        jaxplain.adapters.nnx(Net)
    with pytest.raises(TypeError, match=r"is a function.*needs no adapter"):
        jaxplain.adapters.nnx(lambda params, batch: batch)
    with pytest.raises(TypeError, match=r"arguments must be a dict.*is a list"):
        jaxplain.adapters.nnx(linear(3, 2), arguments=["train"])
    with pytest.raises(TypeError, match="keys of arguments must be names"):
        jaxplain.adapters.nnx(linear(3, 2), arguments={0: True})
