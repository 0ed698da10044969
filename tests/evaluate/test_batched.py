"""`batched` against the single-example form."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxplain
from jaxplain.evaluate import batched

KEY = jax.random.key(0)

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
    # The shapes of the program that is run: 4 points of 8 examples; at either end, 8 examples.
    assert {(32, 6), (8, 6)} <= set(shapes)
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


@pytest.mark.pins
def test_batched_inside_shard_map_and_on_explicit_axes():
    x, label = EXAMPLES
    for kind in ("Auto", "Explicit"):
        mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
        for options in ({"steps": 8}, {"tolerance": 1e-3}):
            explain = lambda f, options=options: jax.vmap(
                jaxplain.integrated_gradients(f, chunk_size=4, **options), (0, None, 0, None, None)
            )
            expected = explain(single)(x, jnp.zeros(6), label, *WEIGHTS).values
            kernel = explain(batched(whole_batch, AXES))
            if kind == "Auto":
                data, shared = jax.P("data"), jax.P()
                specs = (data, shared, data, shared, shared)
                kernel = jax.shard_map(kernel, mesh=mesh, in_specs=specs, out_specs=data)
                got = jax.jit(kernel)(x, jnp.zeros(6), label, *WEIGHTS)
            else:
                with jax.set_mesh(mesh):
                    place = lambda array: jax.device_put(array, jax.P("data"))
                    got = jax.jit(kernel)(place(x), jnp.zeros(6), place(label), *WEIGHTS)
            np.testing.assert_allclose(got.values, expected, rtol=1e-4, atol=1e-6)
            assert got.values.sharding.spec[0] == "data"


@pytest.mark.parametrize("shape", [(0, 6), (0, 2, 6), (2, 0, 6)])
def test_no_examples(shape):
    f = batched(lambda x: x.sum(1))
    gradient = jax.grad(f)
    for _ in shape[1:]:
        f, gradient = jax.vmap(f), jax.vmap(gradient)
    assert f(jnp.ones(shape)).shape == shape[:-1]
    assert gradient(jnp.ones(shape)).shape == shape


def test_first_order_only():
    """Refused at once; `jax.hessian` used to build rules upon rules without end."""
    x, label = EXAMPLES[0][0], EXAMPLES[1][0]
    f = batched(whole_batch, AXES)
    explain = jaxplain.integrated_gradients(f, steps=4)
    of_x = lambda x: explain(x, jnp.zeros(6), label, *WEIGHTS).values.sum()
    of_weight = lambda w: explain(x, jnp.zeros(6), label, w, WEIGHTS[1]).values.sum()
    for derivative in (
        lambda: jax.hessian(lambda x: f(x, label, *WEIGHTS))(x),
        lambda: jax.jvp(jax.grad(lambda x: f(x, label, *WEIGHTS)), (x,), (x,)),
        lambda: jax.grad(of_x)(x),
        lambda: jax.grad(of_weight)(WEIGHTS[0]),
    ):
        with pytest.raises(NotImplementedError, match=r"differentiated once.*one-example form"):
            derivative()


def test_closed_over_tracers_are_refused():
    close = lambda x, s: batched(lambda x: (x * s).sum(1))(x)
    x = jnp.ones((4, 3))
    for call in (
        lambda: jax.vmap(close)(x, jnp.ones(4)),
        lambda: jax.jit(jax.vmap(close, (0, None)))(x, jnp.float32(1)),
        lambda: jax.vmap(jax.grad(close))(x, jnp.ones(4)),
    ):
        with pytest.raises(ValueError, match=r"closes over a traced array\. Make it an argument"):
            call()


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
    with pytest.raises(ValueError, match=r"in_axes\[0\] must be an axis"):
        batched(lambda x: x.sum(1), in_axes=None)(x[0])
    with pytest.raises(TypeError, match=r"must return one array.*returned a tuple"):
        batched(lambda x: (x.sum(1),))(x[0])
    with pytest.raises(TypeError, match=r"leaf at \[0\] is a str \('x'\)"):
        batched(lambda x: x.sum(1))("x")
    with pytest.raises(ValueError, match="at least one array"):
        batched(lambda x: x.sum(1))({})
    with pytest.raises(TypeError, match="model_function must be a function"):
        batched(3)
