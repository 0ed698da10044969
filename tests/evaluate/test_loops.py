"""The two loops and their reductions, against plain Python loops."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxplain.evaluate import Reduction, evaluate, stack, walk, weighted_sum


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


def test_sums_of_integers_and_of_infinity():
    count = lambda value: evaluate(lambda k: value, 3, weighted_sum(jnp.full(3, 0.5)), chunk_size=1)
    assert float(count(jnp.int32(4))) == 6.0
    assert float(count(jnp.bool_(True))) == 1.5
    assert float(count(jnp.float32(jnp.inf))) == jnp.inf  # the compensation makes no NaN of it


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
