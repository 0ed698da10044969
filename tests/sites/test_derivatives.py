"""Names where JAX moves or repeats values: mapped axes, backward passes; names of no effect."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sites

pytestmark = pytest.mark.pins

close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6)
LAYERS, WIDTH = 4, 3
X = jax.random.normal(jax.random.key(0), (WIDTH,))
PARAMS = jax.random.normal(jax.random.key(1), (LAYERS, WIDTH, WIDTH))


def block(x, w):
    """The sine needs the value at the site, so that a backward pass computes it again."""
    return jnp.sin(sites.tag(jnp.tanh(x @ w), "layer"))


def scanned(x, params, block=block):
    return jnp.sum(jax.lax.scan(lambda x, w: (block(x, w), None), x, params)[0])


def unrolled(x, params, block=block):
    for w in params:
        x = block(x, w)
    return jnp.sum(x)


forms = pytest.mark.parametrize("f", [scanned, unrolled], ids=lambda f: f.__name__)
again = jax.checkpoint(block)


@pytest.mark.parametrize("in_axis", [0, 1])
def test_a_mapped_axis_stands_first_wherever_jax_puts_it(in_axis):
    """`w @ x` leaves the axis of the batch behind."""
    w = jnp.arange(6.0).reshape(2, 3)
    f = lambda x: jnp.sum(sites.tag(w @ x, "hidden") ** 2)
    batch = jnp.stack([X, 2 * X, X, X])
    mapped = jax.vmap(f, in_axes=in_axis)
    inputs = batch if in_axis == 0 else batch.T
    close(sites.read(mapped, "hidden")(inputs)[1]["hidden"], batch @ w.T)
    values = jnp.ones((4, 2))
    close(sites.write(mapped, "hidden")({"hidden": values}, inputs), [2, 2, 2, 2])


@forms
def test_what_a_backward_pass_computes_again_is_no_hit(f):
    rematerialised = jax.grad(functools.partial(f, block=again))
    gradient, values = sites.read(rematerialised, ["layer", "layer[-1]"])(X, PARAMS)
    close(gradient, jax.grad(f)(X, PARAMS))
    close(values["layer"], sites.read(f, "layer")(X, PARAMS)[1]["layer"])
    close(values["layer[-1]"], values["layer"][-1])
    assert sites.names(rematerialised)(X, PARAMS)["layer"].shape == (LAYERS, WIDTH)


@forms
def test_an_edit_of_all_hits_reaches_the_backward_pass(f):
    """The edit depends on an argument, which the equation that is bound again must be given."""

    def edited_gradient(scale, block):
        g = jax.grad(functools.partial(f, block=block))
        return sites.edit(g, {"layer": lambda h: scale * h})(X, PARAMS)

    expected = edited_gradient(jnp.float32(0.3), block)
    close(jax.jit(edited_gradient, static_argnums=1)(jnp.float32(0.3), again), expected)


@pytest.mark.parametrize("name", ["layer", "layer[1]"])
def test_single_hits_are_not_written_through_a_backward_pass_that_repeats_them(name):
    f = jax.grad(functools.partial(unrolled, block=again))
    value = jnp.zeros((LAYERS, WIDTH) if name == "layer" else (WIDTH,))
    with pytest.raises(ValueError, match=r"computes the value again.*inside the derivative"):
        sites.write(f, name)({name: value}, X, PARAMS)
    if name == "layer[1]":
        with pytest.raises(ValueError, match=r"cannot be edited: .* computes the value again"):
            sites.edit(f, {name: jnp.zeros_like})(X, PARAMS)


@pytest.mark.parametrize("asked", [None, "read", "edit"])
def test_a_backward_pass_keeps_its_memory(asked):
    """Of the gradient of many rematerialised layers; keeping all values takes 4 times as much."""
    width, length, rows = 64, 32, 512

    def layer(x, w):
        for _ in range(4):
            x = jnp.sin(sites.tag(jnp.tanh(x @ w), "layer"))
        return x

    def f(x, w):
        return jnp.sum(jax.lax.scan(lambda x, w: (jax.checkpoint(layer)(x, w), None), x, w)[0])

    plain = jax.grad(f)
    x, w = jnp.ones((rows, width)), jnp.ones((length, width, width))
    mean = lambda function: lambda x, w: sites.read(function, "layer", reduce=jnp.mean)(x, w)
    function = {
        None: plain,
        "read": mean(plain),
        "edit": sites.edit(plain, {"layer": lambda h: 0.5 * h}),
    }[asked]
    memory = lambda g: jax.jit(g).lower(x, w).compile().memory_analysis().temp_size_in_bytes
    assert memory(function) <= 1.1 * memory(plain)
    assert memory(plain) < 1.5 * 4 * length * rows * width


@forms
def test_a_sweep_over_layers_is_one_program(f):
    def without(chosen):
        ablate = lambda h, number: jnp.where(number == chosen, jnp.zeros_like(h), h)
        return sites.edit(f, {"layer": ablate}, numbered=True)(X, PARAMS)

    one_by_one = [sites.edit(f, {f"layer[{k}]": jnp.zeros_like})(X, PARAMS) for k in range(LAYERS)]
    close(jax.jit(jax.vmap(without))(jnp.arange(LAYERS)), one_by_one)


def test_the_number_of_one_hit_and_of_a_name_that_comes_once():
    add = lambda h, number: h + number.astype(h.dtype)
    once = lambda x: jnp.sum(sites.tag(x, "once"))
    assert sites.edit(once, {"once": add}, numbered=True)(jnp.zeros(3)) == 0
    third = sites.edit(scanned, {"layer[2]": add}, numbered=True)(X, PARAMS)
    close(third, sites.edit(scanned, {"layer[2]": lambda h: h + 2})(X, PARAMS))


def test_a_site_inside_what_cannot_be_entered_is_refused_not_missed():
    def f(x):
        solve = lambda matvec, b: sites.tag(b / 2, "solved")
        return jax.lax.custom_linear_solve(lambda v: 2 * v, x, solve, symmetric=True)

    with pytest.raises(ValueError, match=r"a `custom_linear_solve`, which cannot be entered"):
        sites.read(f, "solved")(X)
    both = lambda x: f(x) + sites.tag(x, "here")
    close(sites.read(both, "here")(X)[0], 1.5 * X)


def test_a_value_that_nothing_uses_is_read_and_not_written():
    def f(x):
        sites.tag(x, "lost")
        return jnp.sum(x)

    close(sites.read(f, "lost")(X)[1]["lost"], X)
    with pytest.raises(ValueError, match=r"cannot be written: nothing uses it. Go on with what"):
        sites.write(f, "lost")({"lost": X}, X)
    with pytest.raises(ValueError, match=r"cannot be edited: nothing uses it"):
        sites.edit(f, {"lost": jnp.zeros_like})(X)
