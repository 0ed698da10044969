"""The two loops against plain Python loops; `batched` against the single-example form."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain
from jaxplain.evaluate import Reduction, batched, evaluate, stack, walk, weighted_sum

KEY = jax.random.key(0)


def real(k):
    return k.astype(jnp.float32)


# ------------------------------------------------------------------------------------ evaluate


@pytest.mark.parametrize("count", [1, 2, 7, 16, 33])
@pytest.mark.parametrize("chunk_size", [1, 2, 16, 100])
def test_every_point_is_seen_once_and_in_order(count, chunk_size):
    """The reduction sees each index exactly once: the exact remainder, no padding."""
    seen = Reduction(
        lambda value: jnp.zeros(count, jnp.int32),
        lambda state, index, values: state.at[index].add(jnp.isfinite(values).astype(jnp.int32)),
        lambda state: state,
    )
    np.testing.assert_array_equal(
        evaluate(real, count, seen, chunk_size=chunk_size),
        np.ones(count),
    )
    kept = evaluate(
        lambda k: {"a": k, "b": (jnp.ones(2) * real(k),)},
        count,
        stack(count),
        chunk_size=chunk_size,
    )
    np.testing.assert_array_equal(kept["a"], np.arange(count))
    np.testing.assert_array_equal(kept["b"][0], np.arange(count)[:, None] * np.ones(2))


def test_the_chunk_is_what_is_in_flight():
    """No program of the loop holds more than `chunk_size` points at once."""
    point = lambda k: jnp.full((50,), real(k))
    for chunk_size, there in ((4, "f32[4,50]"), (8, "f32[8,50]")):
        program = jax.make_jaxpr(
            lambda c=chunk_size: evaluate(point, 64, weighted_sum(jnp.ones(64)), chunk_size=c)
        )()
        assert there in str(program)
        assert "f32[64,50]" not in str(program)


def test_a_million_float32_terms_lose_nothing():
    """Compensated: 0.1 summed 1e6 times, where a plain float32 sum is off by 1e-2."""
    count = 1_000_000
    total = lambda terms: jax.jit(
        lambda w: evaluate(
            lambda k: jnp.float32(0.1) + 0 * real(k), terms, weighted_sum(w),
            chunk_size=1,
        )
    )(jnp.ones(terms))  # fmt: skip
    exact = np.float64(np.float32(0.1)) * count
    assert abs(float(total(count)) - exact) / exact < 1e-7
    plain = jax.jit(lambda: lax.fori_loop(0, count, lambda _, s: s + jnp.float32(0.1), 0.0))()
    assert abs(float(plain) - exact) / exact > 1e-3


def test_sums_are_wide():
    weights = jnp.full(300, 1 / 300)
    mean = lambda dtype: evaluate(lambda k: jnp.full((), 1.5, dtype), 300, weighted_sum(weights))
    assert mean(jnp.bfloat16).dtype == jnp.float32
    assert abs(float(mean(jnp.bfloat16)) - 1.5) < 1e-6
    with jax.enable_x64(True):
        assert mean(jnp.float64).dtype == jnp.float64


def test_a_point_is_traced_once():
    point = chex.assert_max_traces(lambda k: real(k) * 2.0, n=1)
    jax.jit(lambda: evaluate(point, 35, weighted_sum(jnp.ones(35)), chunk_size=16))()


def test_derivatives_and_closures_over_tracers():
    def f(x):
        return evaluate(
            lambda k: jnp.sin(real(k) * x), 10, weighted_sum(jnp.ones(10)), chunk_size=3
        )

    expected = sum(k * np.cos(k * 0.3) for k in range(10))
    np.testing.assert_allclose(jax.grad(f)(0.3), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jvp(f, (0.3,), (1.0,))[1], expected, rtol=1e-5)
    batch = jnp.array([0.1, 0.3])
    np.testing.assert_allclose(jax.vmap(f)(batch), jnp.stack([f(0.1), f(0.3)]), rtol=1e-6)


def test_bad_calls_to_evaluate():
    point = real
    with pytest.raises(TypeError, match="point must be a function"):
        evaluate(3, 4, stack(4))
    with pytest.raises(ValueError, match="count must be at least 1, but is 0"):
        evaluate(point, 0, stack(1))
    with pytest.raises(TypeError, match=r"chunk_size must be a Python integer.*1\.5"):
        evaluate(point, 4, stack(4), chunk_size=1.5)
    with pytest.raises(TypeError, match="count must be a Python integer"):
        jax.jit(lambda n: evaluate(point, n, stack(4)))(4)
    with pytest.raises(ValueError, match=r"weights must have one dimension.*\(2, 2\)"):
        weighted_sum(jnp.ones((2, 2)))
    with pytest.raises(ValueError, match="reduction was made for 3 points, but there are 4"):
        evaluate(point, 4, weighted_sum(jnp.ones(3)))
    with pytest.raises(ValueError, match="reduction was made for 3 points, but there are 4"):
        evaluate(point, 4, stack(3))


# ---------------------------------------------------------------------------------------- walk


def test_walk_is_the_python_loop():
    step = lambda state, k: ({"x": jnp.sin(state["x"]) + k.astype(np.float32)}, state["x"] ** 2)
    state, outputs = walk({"x": jnp.float32(0.5)}, step, 6)
    expected, kept = {"x": np.float32(0.5)}, []
    for k in range(6):
        expected, output = step(expected, np.float32(k))
        kept.append(output)
    np.testing.assert_allclose(state["x"], expected["x"], rtol=1e-6)
    np.testing.assert_allclose(outputs, np.array(kept), rtol=1e-6)


def test_walk_keeps_convolutions_fast():
    w = jnp.ones((3, 3, 2, 2))
    conv = lambda x: lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    slope = jax.grad(lambda x: jnp.sum(jnp.sin(conv(x))))
    program = jax.jit(lambda x: walk(x, lambda x, k: (x - 0.01 * slope(x), None), 5)[0])
    text = program.lower(jnp.ones((1, 8, 8, 2))).compile().as_text()
    assert set(re.findall(r"dim_labels=\w+?_(\w+)->", text)) == {"01io"}


def test_bad_calls_to_walk():
    with pytest.raises(TypeError, match="step must be a function"):
        walk(0.0, 3, 4)
    with pytest.raises(ValueError, match="length must be at least 1"):
        walk(0.0, lambda s, k: (s, None), 0)
    with pytest.raises(TypeError, match="init must be an array"):
        walk("start", lambda s, k: (s, None), 2)


# ------------------------------------------------------------------------------------- batched

WEIGHTS = (
    0.3 * jax.random.normal(KEY, (6, 8)),
    jax.random.normal(jax.random.fold_in(KEY, 1), (8, 3)),
)


def whole_batch(x, label, first, second):
    return jnp.take_along_axis(jnp.tanh(x @ first) @ second, label[:, None], 1)[:, 0]


def single(x, label, first, second):
    return whole_batch(x[None], label[None], first, second)[0]


AXES = (0, 0, None, None)
EXAMPLES = (jax.random.normal(KEY, (8, 6)), jnp.arange(8) % 3)


@pytest.mark.pins
def test_batched_is_the_single_form():
    f = batched(whole_batch, AXES)
    x, label = EXAMPLES
    np.testing.assert_allclose(
        f(x[0], label[0], *WEIGHTS), single(x[0], label[0], *WEIGHTS), rtol=1e-6
    )
    gradient = lambda f: jax.vmap(jax.value_and_grad(f), AXES)(x, label, *WEIGHTS)
    chex.assert_trees_all_close(gradient(f), gradient(single), rtol=1e-5, atol=1e-6)
    for make in (
        lambda f: jaxplain.integrated_gradients(f, steps=8, chunk_size=4),
        lambda f: jaxplain.integrated_gradients(f, tolerance=1e-3, chunk_size=4),
    ):
        explain = lambda f, make=make: jax.jit(jax.vmap(make(f), (0, None, 0, None, None)))
        got = explain(f)(x, jnp.zeros(6), label, *WEIGHTS)
        expected = explain(single)(x, jnp.zeros(6), label, *WEIGHTS)
        chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.pins
def test_the_model_sees_its_whole_batch_in_one_call():
    """Examples and path points merged: (chunk * batch, ...), once for the gradients."""
    shapes = []

    def model(x, label, first, second):
        shapes.append(x.shape)
        return whole_batch(x, label, first, second)

    f = batched(model, AXES)
    x, label = EXAMPLES
    explain = jax.jit(
        jax.vmap(jaxplain.integrated_gradients(f, steps=8, chunk_size=4), (0, None, 0, None, None))
    )
    explain(x, jnp.zeros(6), label, *WEIGHTS)
    # The shapes of the program that is run: 4 points of 8 examples, and the two ends of each.
    assert {(32, 6), (16, 6)} <= set(shapes)
    largest = max(shape[0] for shape in shapes)
    assert largest == 32
    batch = [s for s in shapes if s == (32, 6)]
    assert len(batch) <= 2, "once to batch the rule, once at most to differentiate it"


@pytest.mark.pins
def test_batched_with_its_own_sharding_has_no_all_to_all():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharding = lambda *spec: jax.NamedSharding(mesh, jax.P(*spec))

    def constrained(x, label, first, second):
        hidden = lax.with_sharding_constraint(jnp.tanh(x @ first), sharding("data", "model"))
        return jnp.take_along_axis(hidden @ second, label[:, None], 1)[:, 0]

    first = jax.device_put(WEIGHTS[0], sharding(None, "model"))
    second = jax.device_put(WEIGHTS[1], sharding("model", None))
    x, label = (jax.device_put(jnp.concatenate([a] * 4), sharding("data")) for a in EXAMPLES)
    explain = lambda f: jax.jit(
        jax.vmap(jaxplain.integrated_gradients(f, steps=8, chunk_size=4), (0, None, 0, None, None))
    )
    arguments = (x, jnp.zeros(6), label, first, second)
    compiled = explain(batched(constrained, AXES)).lower(*arguments).compile()
    assert "all-to-all" not in compiled.as_text()
    got = compiled(*arguments)
    assert got.values.sharding.is_equivalent_to(sharding("data", None), 2)
    expected = explain(single)(jnp.concatenate([EXAMPLES[0]] * 4), jnp.zeros(6),
                               jnp.concatenate([EXAMPLES[1]] * 4), *WEIGHTS)  # fmt: skip
    np.testing.assert_allclose(got.values, expected.values, atol=1e-6)


def test_trees_other_axes_and_unmapped_arguments():
    model = lambda x, scale: (x["a"].sum(0) + x["b"]) * scale  # the batch of "a" is its last axis
    f = batched(model, in_axes=({"a": 1, "b": 0}, 0))
    x = {"a": jnp.arange(3.0), "b": jnp.float32(2.0)}
    assert float(f(x, jnp.float32(2.0))) == 10.0
    batch = {"a": jnp.stack([x["a"], 2 * x["a"]]), "b": jnp.array([2.0, 3.0])}
    got = jax.vmap(jax.grad(f), in_axes=(0, None))(batch, jnp.float32(2.0))
    chex.assert_trees_all_close(got, {"a": jnp.full((2, 3), 2.0), "b": jnp.full(2, 2.0)})


def test_code_without_a_batching_rule_runs():
    """What `batched` is for: a model that cannot be mapped over."""

    @jax.custom_batching.custom_vmap
    def unmappable(x):
        return x**2

    @unmappable.def_vmap
    def _(*_):
        raise NotImplementedError("no batching rule")

    f = batched(lambda x: unmappable(x).sum(1), in_axes=0)
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_allclose(jax.vmap(f)(x), (x**2).sum(1))


def test_bad_calls_to_batched():
    x, label = EXAMPLES
    f = batched(whole_batch, AXES)
    with pytest.raises(ValueError, match=r"shape \(8, 6, 8\) is declared shared.*vmap maps it"):
        jax.vmap(f, (0, 0, 0, None))(x, label, jnp.stack([WEIGHTS[0]] * 8), WEIGHTS[1])
    with pytest.raises(ValueError, match="gradient with respect to its first argument only"):
        jax.grad(f, argnums=2)(x[0], label[0], *WEIGHTS)
    with pytest.raises(ValueError, match="in_axes has 4 entries, but f was called with 2"):
        f(x[0], label[0])
    with pytest.raises(ValueError, match=r"must return shape \(batch,\) = \(1,\).*\(1, 3\)"):
        batched(lambda x: x[:, :3])(x[0])
    with pytest.raises(ValueError, match=r"in_axes\[0\] must be an axis"):
        batched(lambda x: x.sum(1), in_axes=(None,))(x[0])
    with pytest.raises(TypeError, match="entry of in_axes must be an integer or None, but is 'x'"):
        batched(lambda x: x.sum(1), in_axes=("x",))(x[0])
    with pytest.raises(TypeError, match="model_function must be a function"):
        batched(3)
