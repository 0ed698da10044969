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


# ------------------------------------------------------ derivatives of what is computed again


def steps(block):
    def f(x):
        for _ in range(2):
            x = block(x)
        return x

    return f


def looped(block):
    return lambda x: jax.lax.scan(lambda x, _: (block(x), None), x, None, length=2)[0]


def one(x):
    return sites.tag(jnp.sin(x), "h") ** 2 + x


REPEATED = {
    "layers": steps(jax.checkpoint(one)),
    "layers in a scan": looped(jax.checkpoint(one)),
    "a scan": jax.checkpoint(looped(one)),
    "a scan of layers": jax.checkpoint(looped(jax.checkpoint(one))),
    "twice": steps(jax.checkpoint(jax.checkpoint(one))),
    "a jit": steps(jax.jit(jax.checkpoint(one))),
    "a jit inside": steps(jax.checkpoint(jax.jit(one))),
    "a branch": steps(
        lambda x: jax.lax.cond(x > 0, jax.checkpoint(one), lambda x: sites.tag(x, "h"), x)
    ),
    "with what is saved": steps(
        jax.checkpoint(one, policy=jax.checkpoint_policies.save_only_these_names("h"))
    ),
}


def second(f):
    return jax.grad(jax.grad(f))


def forward_over_reverse(f):
    return lambda x: jax.jvp(jax.grad(f), (x,), (jnp.ones_like(x),))[1]


@pytest.mark.parametrize("name", REPEATED)
@pytest.mark.parametrize("derivative", [jax.grad, second, forward_over_reverse])
def test_hits_in_derivatives_are_those_of_the_function(name, derivative):
    """And an edit of all of them is an edit before the derivative, as often as it is read."""
    f, x = REPEATED[name], jnp.float32(0.3)
    plain = steps(one)
    value, read = sites.read(derivative(f), ["h", "h[1]"])(x)
    close(value, derivative(plain)(x))
    expected = sites.read(plain, "h")(x)[1]["h"]
    close(read["h"], expected)
    close(read["h[1]"], expected[1])
    # What is edited in a derivative is the value there, and not its tangent.
    half = {"h": lambda h: 0.5 * h}
    straight = {"h": lambda h: h - jax.lax.stop_gradient(0.5 * h)}
    expected = derivative(sites.edit(plain, straight))(x)
    edited = sites.edit(derivative(f), half)
    close(edited(x), expected)
    again, read = sites.read(edited, "h")(x)  # of what was made anew
    close(again, expected)
    close(read["h"], sites.read(sites.edit(plain, half), "h")(x)[1]["h"])


def test_a_value_that_the_loop_does_not_change_is_one_in_a_derivative():
    """JAX moves it out of a differentiated scan. Inside the derivative it has its hits."""

    def f(x):
        body = lambda c, a: (c * sites.tag(jnp.sin(x), "h") * a, None)
        return jax.lax.scan(body, x, jnp.arange(1.0, 4))[0]

    x = jnp.float32(0.3)
    assert sites.read(f, "h")(x)[1]["h"].shape == (3,)
    close(sites.read(jax.grad(f), "h")(x)[1]["h"], jnp.sin(x))
    assert sites.read(jax.grad(sites.edit(f, {"h[1]": lambda h: 2 * h})), "h")(x)[0] != 0


# --------------------------------------------------------------- one hit of several in a loop


def scan_of(body):
    return lambda x, w: jnp.sum(jax.lax.scan(lambda x, w: (body(x, w), None), x, w)[0])


def loop_of(body):
    def f(x, w):
        for row in w:
            x = body(x, row)
        return jnp.sum(x)

    return f


def product(x, w):
    return sites.tag(x * w, "h")


def root(x, w):
    return sites.tag(jnp.sqrt(x * w), "h")


both = pytest.mark.parametrize("make", [scan_of, loop_of])
W = jnp.array([4.0, 1.0, 0.0])


@both
@pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd])
def test_the_function_of_one_hit_is_computed_there_alone(make, mode):
    """A root has an infinite slope at the zero that the last hit is."""
    g, x = make(product), jnp.ones(2)
    close(mode(sites.edit(g, {"h[1]": jnp.sqrt}))(x, W), 0 * x)
    read = sites.read(g, "h[1]", reduce=lambda h: jnp.sum(jnp.sqrt(h)))
    close(mode(lambda x: read(x, W)[1]["h[1]"])(x), jnp.ones(2))


@both
def test_what_a_function_of_one_hit_closes_over_gets_the_gradient_of_that_hit(make):
    def f(p):
        read = sites.read(make(product), "h[1]", reduce=lambda h: jnp.sum(h**p))
        return read(jnp.ones(2), W)[1]["h[1]"]

    def edited(p):
        return sites.edit(make(product), {"h[1]": lambda h: h**p})(jnp.ones(2), W + 1)

    close(jax.grad(f)(2.0), 2 * 16 * jnp.log(4.0), rtol=1e-5)
    close(jax.grad(edited)(2.0), 2 * 100 * jnp.log(10.0), rtol=1e-5)


@both
def test_what_led_to_a_written_hit_is_not_differentiated(make):
    """Before it there are roots of 0."""
    g, x, value = make(root), jnp.zeros(2), jnp.ones(2)
    written = lambda x, value: sites.write(g, "h[1]")({"h[1]": value}, x, W + 1)
    close(jax.grad(written)(x, value), 0 * x)
    close(jax.grad(written, argnums=1)(x, value), 0.5 * jnp.ones(2))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("length", [1, 5])
def test_a_scan_with_written_hits_gives_all_else_that_it_gave(reverse, length):
    """Rows, sites and single hits on both sides of two written ones."""

    def f(x, w):
        def body(x, w):
            x = sites.tag(x * w, "h")
            return sites.tag(x + 1, "h"), (x, sites.tag(2 * x, "seen"))

        return jax.lax.scan(body, x, w, reverse=reverse)

    x, w = X[:2], jnp.arange(2.0, 2 + length)
    given = {"h[1]": jnp.array([9.0, 7.0]), f"h[{2 * length - 2}]": jnp.array([5.0, 3.0])}
    h, rows, start = {}, [None] * length, x
    for k in range(length)[::-1] if reverse else range(length):
        h[2 * k] = rows[k] = x = given.get(f"h[{2 * k}]", x * w[k])
        h[2 * k + 1] = x = given.get(f"h[{2 * k + 1}]", x + 1)
    rows, h = jnp.stack(rows), jnp.stack([h[k] for k in range(2 * length)])
    g = lambda x, w: sites.write(f, list(given))(given, x, w)
    names = ["h", "seen", "h[0]", "h[-1]", "seen[-1]"]
    (last, ys), values = sites.read(g, names)(start, w)
    close(last, x)
    close(ys[0], rows)
    close(ys[1], 2 * rows)
    expected = {"h": h, "seen": 2 * rows, "h[0]": h[0], "h[-1]": h[-1], "seen[-1]": 2 * rows[-1]}
    for name in names:
        close(values[name], expected[name])
    _, ys = sites.write(f, [*given, "seen"])({**given, "seen": -rows}, start, w)
    close(ys[1], -rows)


def test_what_led_to_a_written_hit_of_a_scan_is_not_computed():
    """A callback counts the layers that are run."""
    ran = []

    def layer(x, w):
        scale = jax.pure_callback(lambda k: ran.append(int(k)) or k, w, w)
        return sites.tag(jnp.tanh(x) * scale, "h")

    x, w = jnp.ones(2), jnp.arange(10.0)
    value = 0.3 * jnp.ones(2)
    out = jax.block_until_ready(sites.write(scan_of(layer), "h[6]")({"h[6]": value}, x, w))
    assert sorted(ran) == [7, 8, 9]
    close(out, sites.write(loop_of(layer), "h[6]")({"h[6]": value}, x, w))
