"""`rewrite.fast` gives the same numbers from a better program: every form of convolution and pool,
every kind of inner program, both modes of differentiation, and no trace of it but on CPU.
"""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxplain import rewrite

KEY = jax.random.key(0)


def kernel_layouts(function, *arguments):
    """The kernel layouts of the convolutions in the compiled text."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return set(re.findall(r"dim_labels=\w+?_(\w+)->", text))


def assert_same(function, *arguments, tolerance=1e-5):
    expected = jax.jit(function)(*arguments)
    got = rewrite.fast(function)(*arguments)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        scale = float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, atol=tolerance * scale, rtol=0)


# ------------------------------------------------------------------------------- convolutions

CONVOLUTIONS = {
    "plain": {},
    "valid": {"padding": "VALID"},
    "strided": {"window_strides": 2},
    "dilated": {"rhs_dilation": 2},
    "transposed": {"lhs_dilation": 2, "padding": (2, 1)},
    "grouped": {"feature_group_count": 2},
    "depthwise": {"feature_group_count": 4},
    "batch grouped": {"batch_group_count": 2},
    "asymmetric padding": {"padding": (0, 2)},
    "negative padding": {"padding": (-1, -1)},
}
LAYOUTS = {
    "channels last": {
        1: ("NHC", "HIO", "NHC"),
        2: ("NHWC", "HWIO", "NHWC"),
        3: ("NDHWC", "DHWIO", "NDHWC"),
    },
    "channels first": {
        1: ("NCH", "OIH", "NCH"),
        2: ("NCHW", "OIHW", "NCHW"),
        3: ("NCDHW", "OIDHW", "NCDHW"),
    },
    "mixed": {
        1: ("HNC", "IOH", "NCH"),
        2: ("CHWN", "IHWO", "NHWC"),
        3: ("NCDHW", "DHWIO", "NDHWC"),
    },
}


def convolution(rank, layout, options):
    """A convolution of this form, and arguments for it."""
    options = dict(options)
    specs = LAYOUTS[layout][rank]
    sizes = {"N": 4, "C": 4, "D": 5, "H": 6, "W": 7}
    kernel_sizes = {"O": 4, "I": 4 // options.get("feature_group_count", 1), "D": 2, "H": 3, "W": 2}
    lhs = jax.random.normal(KEY, [sizes[c] for c in specs[0]])
    rhs = jax.random.normal(jax.random.fold_in(KEY, 1), [kernel_sizes[c] for c in specs[1]])
    padding = options.pop("padding", "SAME")
    if isinstance(padding, tuple):
        padding = (padding,) * rank
    for name in ("window_strides", "rhs_dilation", "lhs_dilation"):
        if name in options:
            options[name] = (options[name],) * rank
    options.setdefault("window_strides", (1,) * rank)
    apply = partial(lax.conv_general_dilated, padding=padding, dimension_numbers=specs, **options)
    return lambda x, w: apply(x, w), (lhs, rhs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_convolutions_and_their_gradients_are_the_same(rank, layout):
    """All options in one program: the time of this test is that of compilation."""
    cases = {name: convolution(rank, layout, options) for name, options in CONVOLUTIONS.items()}

    def everything(arguments):
        def both(name, x, w):
            function = cases[name][0]
            loss = lambda x, w: jnp.sum(jnp.sin(function(x, w)))
            return function(x, w), jax.grad(loss, argnums=(0, 1))(x, w)

        return {name: both(name, *arguments[name]) for name in cases}

    assert_same(everything, {name: arguments for name, (_, arguments) in cases.items()})


@pytest.mark.pins
def test_backward_convolutions_in_a_loop_are_canonical():
    """The trap that the pass is for: without it the loop holds the layout 01oi, with it not."""
    function, (x, w) = convolution(2, "channels last", {})
    gradient = jax.grad(lambda x, w: jnp.sum(jnp.sin(function(x, w))))

    def loop(gradient, x, w):
        return lax.scan(lambda x, _: (x - 0.01 * gradient(x, w), None), x, None, length=5)[0]

    assert "01oi" in kernel_layouts(partial(loop, gradient), x, w)
    assert kernel_layouts(rewrite.fast(partial(loop, gradient)), x, w) == {"01io"}
    assert_same(partial(loop, gradient), x, w)


def test_channels_first_becomes_canonical_too():
    function, (x, w) = convolution(2, "channels first", {})
    loop = lambda x, w: lax.scan(
        lambda x, _: (jnp.sin(0.05 * function(x, w)), None), x, None, length=4
    )[0]
    assert kernel_layouts(rewrite.fast(loop), x, w) == {"01io"}
    assert_same(loop, x, w)


def test_precision_and_accumulation_type_are_kept():
    def function(x, w):
        return lax.conv_general_dilated(
            x,
            w,
            (1, 1),
            "SAME",
            dimension_numbers=("NCHW", "OIHW", "NCHW"),
            preferred_element_type=jnp.float32,
            precision=lax.Precision.HIGHEST,
        )

    x, w = jnp.ones((1, 2, 4, 4), jnp.bfloat16), jnp.ones((2, 2, 3, 3), jnp.bfloat16)
    assert_same(function, x, w)
    assert "HIGHEST" in str(jax.make_jaxpr(rewrite.fast(function))(x, w))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_get_the_program_that_was_written(platform):
    function, arguments = convolution(2, "channels first", {})
    lower = lambda f: jax.jit(f).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    text = lower(rewrite.fast(function))
    assert "optimization_barrier" not in text
    assert "[b, f, 0, 1]x[o, i, 0, 1]->[b, f, 0, 1]" in text
    # While on CPU there is one.
    assert "optimization_barrier" in jax.jit(rewrite.fast(function)).lower(*arguments).as_text()


def test_compiled_cpu_text_has_no_conditional():
    function, arguments = convolution(2, "channels first", {})
    text = jax.jit(rewrite.fast(function)).lower(*arguments).compile().as_text()
    assert not re.search(r"= \S+ conditional\(", text)


@pytest.mark.pins
@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
@pytest.mark.parametrize("devices", [1, 8])
def test_a_sharded_batch_keeps_the_fast_form(axis_type, devices):
    """JAX writes a sharding into backward convolutions of inputs that lie on a mesh."""
    kinds = (getattr(jax.sharding.AxisType, axis_type),)
    mesh = jax.make_mesh((devices,), ("data",), kinds, devices=jax.devices()[:devices])
    numbers = LAYOUTS["channels last"][2]

    def loss(x, w):
        y = lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=numbers)
        return jnp.sum(jnp.sin(y))

    def loop(x, w):
        step = lambda total, t: (total + jax.grad(loss)(t * x, w), None)
        return lax.scan(step, lax.full_like(x, 0.0), jnp.arange(3.0))[0]

    fast = jax.vmap(rewrite.fast(loop), (0, None))
    x, w = jax.random.normal(KEY, (16, 8, 8, 4)), jax.random.normal(KEY, (3, 3, 4, 4))
    expected = fast(x, w)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
        w = jax.device_put(w, jax.NamedSharding(mesh, jax.P()))
        assert kernel_layouts(fast, x, w) == {"01io"}
        got = jax.jit(fast)(x, w)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------------------------- pools

POOLS = {
    "2x2": ((8, 8), (2, 2)),
    "3x2": ((9, 8), (3, 2)),
    "remainder": ((9, 7), (2, 2)),
    "1-d window": ((8, 6), (4, 1)),
    "whole": ((4, 4), (4, 4)),
}


def pool(window, *, smallest=False):
    init, operation = (jnp.inf, lax.min) if smallest else (-jnp.inf, lax.max)
    dimensions = (1, *window, 1)
    return lambda x: lax.reduce_window(x, init, operation, dimensions, dimensions, "VALID")


@pytest.mark.parametrize("smallest", [False, True], ids=["max", "min"])
@pytest.mark.parametrize("case", POOLS)
def test_pool_gradients_are_equal_bit_for_bit(case, smallest):
    space, window = POOLS[case]
    function = pool(window, smallest=smallest)
    # Few distinct values, so that most windows hold ties.
    x = jax.random.randint(KEY, (3, *space, 2), 0, 3).astype(jnp.float32)
    cotangent = jax.random.normal(KEY, function(x).shape)
    gradient = lambda x, cotangent: jax.vjp(function, x)[1](cotangent)[0]
    assert "select_and_scatter_add" in str(jax.make_jaxpr(gradient)(x, cotangent))
    fast = rewrite.fast(gradient)
    assert "select_and_scatter_add" not in str(jax.make_jaxpr(fast)(x, cotangent))
    np.testing.assert_array_equal(fast(x, cotangent), jax.jit(gradient)(x, cotangent))


def test_pool_gradient_agrees_on_nan_and_infinity():
    values = jnp.array([jnp.nan, -jnp.inf, jnp.inf, 0.0, -0.0, 1.0])
    x = values[jax.random.randint(KEY, (200, 4, 4, 3), 0, 6)]
    gradient = lambda x: jax.vjp(pool((2, 2)), x)[1](jnp.ones((200, 2, 2, 3)))[0]
    np.testing.assert_array_equal(rewrite.fast(gradient)(x), jax.jit(gradient)(x))


@pytest.mark.pins
def test_pool_gradients_of_a_sharded_batch_on_explicit_axes():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    x = jax.random.normal(KEY, (4, 1, 9, 8, 3))
    gradient = jax.vmap(rewrite.fast(jax.grad(lambda x: jnp.sum(jnp.sin(pool((2, 2))(x))))))
    expected = gradient(x)
    with jax.set_mesh(mesh):
        got = gradient(jax.device_put(x, jax.P("data")))
    assert got.sharding.spec[0] == "data"
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("window", "strides", "padding"),
    [((3, 3), (2, 2), "VALID"), ((2, 2), (2, 2), "SAME"), ((9, 9), (9, 9), "VALID")],
    ids=["overlapping", "padded", "large"],
)
def test_other_pools_are_left_alone(window, strides, padding):
    x = jax.random.normal(KEY, (2, 9, 9, 3))
    function = lambda x: jnp.sum(
        jnp.sin(lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), padding))
    )
    assert "select_and_scatter_add" in str(jax.make_jaxpr(rewrite.fast(jax.grad(function)))(x))
    assert_same(jax.grad(function), x, tolerance=0)


# ----------------------------------------------------------------------------- inner programs


def network(x, w):
    """A gradient with a backward convolution and a pool in it."""

    def loss(x):
        y = lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.sin(pool((2, 2))(y)))

    return jax.grad(loss)(x)


@jax.custom_jvp
def doubled_derivative(x, w):
    return network(x, w)


@doubled_derivative.defjvp
def _(primals, tangents):
    return network(*primals), 2 * tangents[0]


@jax.custom_vjp
def identity_gradient(x, w):
    return network(x, w)


identity_gradient.defvjp(lambda x, w: (network(x, w), None), lambda _, cotangent: (cotangent, None))

WRAPPERS = {
    "jit": lambda x, w: jax.jit(network)(x, w),
    "scan": lambda x, w: lax.scan(lambda x, _: (x - network(x, w), x), x, None, length=3),
    "scan over weights": lambda x, w: lax.scan(
        lambda x, w: (x - network(x, w), None), x, jnp.stack([w, 2 * w]), reverse=True
    )[0],
    "while": lambda x, w: lax.while_loop(
        lambda s: s[0] < 3, lambda s: (s[0] + 1, s[1] - network(s[1], w)), (0, x)
    ),
    "fori": lambda x, w: lax.fori_loop(0, 3, lambda _, x: x - network(x, w), x),
    "cond": lambda x, w: lax.cond(jnp.sum(x) > 0, network, lambda x, w: x, x, w),
    "switch": lambda x, w: lax.switch(1, [lambda x, w: x, network], x, w),
    "checkpoint": lambda x, w: jax.checkpoint(network)(x, w),
    "gradient of checkpoint": lambda x, w: jax.grad(
        lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.sin(network(x, w)))(x))
    )(x),
    "custom jvp": doubled_derivative,
    "custom vjp": identity_gradient,
    "vmap": lambda x, w: jax.vmap(network, in_axes=(None, 0))(x, jnp.stack([w, 2 * w])),
    "nested": lambda x, w: jax.jit(
        lambda x: lax.scan(
            lambda x, _: (lax.cond(True, jax.checkpoint(network), lambda x, w: x, x, w), None),
            x, None, length=2,
        )[0]
    )(x),
}  # fmt: skip


@pytest.fixture
def arguments():
    x = jax.random.normal(KEY, (2, 8, 8, 3))
    return x, 0.3 * jax.random.normal(jax.random.fold_in(KEY, 1), (3, 3, 3, 4))


@pytest.mark.pins
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_inner_programs_are_entered(wrapper, arguments):
    function = WRAPPERS[wrapper]
    assert_same(function, *arguments)
    text = str(jax.make_jaxpr(rewrite.fast(function))(*arguments))
    assert "select_and_scatter_add" not in text
    assert kernel_layouts(rewrite.fast(function), *arguments) == {"01io"}


@pytest.mark.pins
@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_shard_map_is_entered_and_stays_sharded(axis_type, arguments):
    axis_types = (getattr(jax.sharding.AxisType, axis_type),)
    mesh = jax.make_mesh((2,), ("data",), axis_types=axis_types)
    with jax.set_mesh(mesh):
        x, w = arguments
        x = jax.device_put(x, jax.P("data"))
        function = jax.shard_map(
            network, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P("data")
        )
        assert_same(function, x, w)
        fast = rewrite.fast(function)
        assert kernel_layouts(fast, x, w) == {"01io"}
        assert fast(x, w).sharding.is_equivalent_to(x.sharding, x.ndim)
        text = jax.jit(fast).lower(x, w).compile().as_text()
        assert not re.search("all-(gather|reduce|to-all)", text)


def test_custom_derivatives_survive(arguments):
    x, w = arguments
    tangent = jnp.ones_like(x)
    _, got = jax.jvp(lambda x: rewrite.fast(doubled_derivative)(x, w), (x,), (tangent,))
    np.testing.assert_array_equal(got, 2 * tangent)
    _, pull = jax.vjp(lambda x: rewrite.fast(identity_gradient)(x, w), x)
    np.testing.assert_array_equal(pull(tangent)[0], tangent)


@pytest.mark.pins
def test_both_modes_go_through(arguments):
    x, w = arguments
    tangent = jax.random.normal(KEY, x.shape)
    directional = lambda f: lambda x: jax.jvp(lambda x: f(x, w), (x,), (tangent,))[1]
    assert_close(directional(rewrite.fast(network))(x), directional(network)(x))
    second = lambda f: jax.grad(lambda x: jnp.sum(jnp.cos(f(x, w))))
    assert_close(second(rewrite.fast(network))(x), second(network)(x))
    # And once more from outside, which is what training through an attribution needs.
    assert_close(rewrite.fast(second(rewrite.fast(network)))(x), second(network)(x))


def assert_close(a, b):
    np.testing.assert_allclose(a, b, atol=2e-5 * float(jnp.abs(b).max()), rtol=0)


def test_it_is_idempotent(arguments):
    once = str(jax.make_jaxpr(rewrite.fast(network))(*arguments))
    twice = str(jax.make_jaxpr(rewrite.fast(rewrite.fast(network)))(*arguments))
    assert once.count("conv_general_dilated") == twice.count("conv_general_dilated")


def test_code_chosen_by_platform(arguments):
    """A branch for CPU is made canonical where it is not; one for other platforms is left alone."""
    x, w = arguments
    plain = partial(lax.conv_general_dilated, window_strides=(1, 1), padding="SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip
    chosen = lambda x, w: lax.platform_dependent(
        x, w, cpu=plain, default=lambda x, w: plain(x, w) + 1
    )
    assert "optimization_barrier" not in str(jax.make_jaxpr(rewrite.fast(chosen))(x, w))
    assert_same(chosen, x, w)
    slope = jax.grad(lambda x, w: jnp.sum(jnp.sin(chosen(x, w))))
    assert str(jax.make_jaxpr(rewrite.fast(slope))(x, w)).count("optimization_barrier") == 1
    assert_same(slope, x, w)


def test_effects_and_closed_over_arrays_pass_through(capfd):
    constant = jnp.arange(3.0)

    def function(x):
        jax.debug.print("seen {}", x[0])
        return x * constant

    assert_same(function, jnp.ones(3))
    jax.effects_barrier()
    assert capfd.readouterr().out.count("seen 1.0") == 2


def test_trees_keywords_and_repeated_inputs(arguments):
    x, _ = arguments
    function = lambda tree, *, scale: {"a": tree["a"] * tree["a"], "b": (scale * tree["b"], 3.0)}
    got = rewrite.fast(function)({"a": x, "b": x}, scale=2.0)
    expected = function({"a": x, "b": x}, scale=2.0)
    chex.assert_trees_all_close(got, expected)


def test_one_trace(arguments):
    counted = chex.assert_max_traces(network, n=1)
    fast = rewrite.fast(counted)
    fast(*arguments)
    fast(*arguments)


def test_what_is_not_a_function_or_an_array_is_refused():
    with pytest.raises(TypeError, match="function must be a function, but is a int"):
        rewrite.fast(3)
    with pytest.raises(TypeError, match=r"\['mode'\] is a str \('eval'\).*functools.partial"):
        rewrite.fast(lambda x, mode: x)(1.0, mode="eval")
