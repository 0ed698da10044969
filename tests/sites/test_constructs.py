"""Names inside each construct of JAX, against the same computed by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sites

AUTO, EXPLICIT = jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit
close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-6)


# ------------------------------------------------------------------------------------- scan


def nested(x, w):
    """Three layers of two steps; two hits in a step, and one after each layer."""

    def step(x, w):
        x = sites.tag(jnp.sin(x * w), "inner")
        return sites.tag(x + 1, "inner"), x

    def layer(x, w):
        x, seen = jax.lax.scan(step, x, w)
        return sites.tag(x, "layer"), seen

    return jax.lax.scan(layer, x, w)


def nested_by_hand(x, w, change=lambda k, h: h):
    inner, layer = [], []
    for row in np.asarray(w):
        for one in row:
            for function in (lambda x, one=one: np.sin(x * one), lambda x: x + 1):
                x = change(len(inner), function(x))
                inner.append(x)
        layer.append(x)
    return x, np.array(inner), np.array(layer)


X, W = jnp.array([0.5, 1.0]), jnp.arange(1.0, 7).reshape(3, 2)


def test_nested_scans_are_rows_in_order():
    output, inner, layer = nested_by_hand(np.asarray(X), W)
    (last, seen), values = sites.read(nested, ["inner", "layer", "inner[5]"])(X, W)
    close(last, output)
    close(values["inner"], inner)
    close(values["layer"], layer)
    close(values["inner[5]"], inner[5])
    close(seen.reshape(6, 2), inner[::2])


@pytest.mark.parametrize("hit", [0, 3, 6, 11])
def test_one_hit_of_nested_scans(hit):
    value = jnp.array([0.1, -0.2])
    change = lambda k, h: np.asarray(value) if k == hit else h
    expected, inner, _ = nested_by_hand(np.asarray(X), W, change)
    written = sites.write(nested, f"inner[{hit}]")
    close(written({f"inner[{hit}]": value}, X, W)[0], expected)
    edited = sites.edit(nested, {f"inner[{hit}]": lambda h: 0 * h + value})
    close(edited(X, W)[0], expected)
    close(sites.read(edited, f"inner[{hit - 12}]")(X, W)[1][f"inner[{hit - 12}]"], value)
    close(sites.read(edited, "inner")(X, W)[1]["inner"], inner)


def test_all_hits_of_nested_scans_are_written_in_order():
    rows = jnp.arange(24.0).reshape(12, 2)
    last, seen = sites.write(nested, "inner")({"inner": rows}, X, W)
    close(last, rows[-1])
    close(seen.reshape(6, 2), rows[::2])


def test_a_scan_in_reverse_and_hits_before_and_after():
    def f(x, w):
        x = sites.tag(x, "h")
        x, _ = jax.lax.scan(lambda x, w: (sites.tag(x * w, "h"), None), x, w, reverse=True)
        return sites.tag(x + 1, "h")

    w = jnp.array([2.0, 3.0, 5.0])
    output, values = sites.read(f, ["h", "h[0]", "h[1]", "h[4]"])(jnp.float32(1), w)
    assert float(output) == 31
    assert values["h"].tolist() == [1, 30, 15, 5, 31]  # in the order of the rows of w
    assert [float(values[f"h[{k}]"]) for k in (0, 1, 4)] == [1, 30, 31]
    assert float(sites.write(f, "h[2]")({"h[2]": jnp.float32(7)}, jnp.float32(1), w)) == 15


@pytest.mark.parametrize("length", [0, 1])
def test_scans_of_no_and_of_one_iteration(length):
    f = lambda x, w: jax.lax.scan(lambda x, w: (sites.tag(x * w, "h"), None), x, w)[0]
    w = jnp.full(length, 3.0)
    assert sites.names(f)(X, w)["h"].shape == (length, 2)
    output, values = sites.read(f, "h")(X, w)
    close(output, X * 3**length)
    assert values["h"].shape == (length, 2)
    written = sites.write(f, "h")({"h": jnp.ones((length, 2))}, X, w)
    close(written, jnp.ones(2) if length else X)


def test_bodies_with_constants_and_unrolled_scans():
    def f(x, scale):
        body = lambda x, _: (sites.tag(x * scale, "h"), None)
        return jax.lax.scan(body, x, None, length=4, unroll=2)[0]

    output, values = sites.read(f, "h")(X, jnp.float32(2))
    close(output, 16 * X)
    close(values["h"], np.asarray(X) * 2.0 ** np.arange(1, 5)[:, None])


# ------------------------------------------------------------------------------ while and cond


def counted(x, most):
    def body(state):
        k, x = state
        return k + 1, sites.tag(2 * x, "h")

    return jax.lax.while_loop(lambda state: state[0] < most, body, (0, x))[1]


def test_a_while_gives_its_last_value_and_is_written_in_all():
    output, values = sites.read(counted, "h")(X, 5)
    close(output, 32 * X)
    close(values["h"], 32 * X)
    assert not np.any(sites.read(counted, "h")(X, 0)[1]["h"])  # there was no iteration
    close(sites.write(counted, "h")({"h": 7 * X}, X, 3), 7 * X)
    close(sites.write(counted, "h")({"h": 7 * X}, X, 0), X)
    close(sites.edit(counted, {"h": lambda h: h + 1})(X, 2), 4 * X + 3)
    with pytest.raises(ValueError, match="inside a `while`, whose iterations have no index"):
        sites.read(counted, "h[0]")(X, 5)


def test_a_fori_loop_of_known_length_is_a_scan():
    f = lambda x: jax.lax.fori_loop(0, 3, lambda k, x: sites.tag(2 * x, "h"), x)
    assert sites.names(f)(X)["h"].shape == (3, 2)
    close(jax.grad(lambda x: sites.read(f, "h[1]")(x)[1]["h[1]"].sum())(X), 4 * jnp.ones(2))


def branching(x, which):
    return jax.lax.switch(
        which,
        [
            lambda x: sites.tag(sites.tag(x + 1, "all"), "some"),
            lambda x: sites.tag(2 * x, "all"),
            lambda x: 5 * sites.tag(x, "all"),
        ],
        x,
    )


@pytest.mark.parametrize("which", [0, 1, 2])
def test_branches(which):
    output, values = sites.read(branching, "all")(X, which)
    close(output, [X + 1, 2 * X, 5 * X][which])
    close(values["all"], [X + 1, 2 * X, X][which])
    close(sites.write(branching, "all")({"all": 7 * X}, X, which), [7, 7, 35][which] * X)
    close(sites.edit(branching, {"some": jnp.zeros_like})(X, which), [0 * X, 2 * X, 5 * X][which])
    with pytest.raises(ValueError, match="'some' cannot be read: not every branch of a `cond`"):
        sites.read(branching, "some")(X, which)
    assert list(sites.names(branching)(X, which)) == ["all"]


def test_branches_by_platform():
    def f(x):
        one = lambda x: sites.tag(x + 1, "h")
        return 2 * jax.lax.platform_dependent(x, cpu=one, default=lambda x: sites.tag(x, "h"))

    output, values = sites.read(f, "h")(X)
    close(output, 2 * X + 2)
    close(values["h"], X + 1)


def test_branches_in_a_scan_by_index():
    def f(x):
        return jax.lax.scan(lambda x, k: (branching(x, k), None), x, jnp.arange(3))[0]

    steps = [X + 1, 2 * (X + 1), 2 * (X + 1)]
    output, values = sites.read(f, ["all", "all[1]"])(X)
    close(output, 10 * (X + 1))
    close(values["all"], jnp.stack(steps))
    close(values["all[1]"], steps[1])
    close(sites.write(f, "all[1]")({"all[1]": 0 * X}, X), 0 * X)


def test_branches_of_other_shapes_are_edited_and_neither_read_nor_written():
    def f(p, x):
        whole, part = lambda x: sites.tag(x, "h").sum(), lambda x: sites.tag(x[:1], "h").sum()
        return jax.lax.cond(p, whole, part, x)

    half = sites.edit(f, {"h": lambda h: h / 2})
    close([half(True, X), half(False, X)], [X.sum() / 2, X[0] / 2])
    for call in (
        lambda: sites.write(f, "h")({"h": X}, True, X),
        lambda: sites.edit(f, {"h[0]": jnp.zeros_like})(True, X),
        lambda: sites.edit(f, {"h": lambda h, k: h}, numbered=True)(True, X),
        lambda: sites.read(f, "h")(True, X),
    ):
        with pytest.raises(ValueError, match="the branches of a `cond` have it in different sha"):
            call()
    assert sites.names(f)(True, X) == {}


def test_a_loop_in_one_branch_and_hits_in_another_have_no_index():
    def f(p, x):
        twice = lambda x: sites.tag(sites.tag(3 * x, "h") + 1, "h")
        return jax.lax.cond(p, twice, lambda x: counted(x, 3), x)

    close(sites.edit(f, {"h": lambda h: h + 1})(False, X), 8 * X + 7)
    close(sites.edit(f, {"h": lambda h: h + 1})(True, X), 3 * X + 3)
    for name in ("h[0]", "h[1]"):
        with pytest.raises(ValueError, match=r"cannot be edited: the branches|have no index"):
            sites.edit(f, {name: lambda h: h + 1})(False, X)
    with pytest.raises(ValueError, match="iterations have no number"):
        sites.edit(counted, {"h": lambda h, k: h}, numbered=True)(X, 3)


def test_a_value_that_one_branch_does_not_use_is_read():
    def f(p, x):
        def unused(x):
            sites.tag(5 * x, "h")
            return x

        return jax.lax.cond(p, unused, lambda x: sites.tag(2 * x, "h"), x)

    for p, scale in ((True, 5), (False, 2)):
        close(sites.read(f, "h")(p, X)[1]["h"], scale * X)


@pytest.mark.parametrize("nested", [False, True])
def test_a_while_of_a_batch(nested):
    """Examples finish one by one: written and edited as each alone, read by each alone."""
    batch, most = jnp.stack([X, 3 * X, 2 * X, X]), jnp.array([3, 0, 5, 1])
    if nested:
        batch, most = jnp.stack([batch, -batch]), jnp.stack([most, most[::-1]])
    over = (lambda f: jax.vmap(jax.vmap(f))) if nested else jax.vmap
    plain, edits = over(counted), {"h": lambda h: h + 1}
    values = batch + 7
    close(sites.edit(plain, edits)(batch, most), over(sites.edit(counted, edits))(batch, most))
    close(
        sites.write(plain, "h")({"h": values}, batch, most),
        over(lambda v, x, n: sites.write(counted, "h")({"h": v}, x, n))(values, batch, most),
    )
    scale = 2.0 ** most.astype(jnp.float32)[..., None]
    read = over(sites.read(counted, "h"))(batch, most)
    close(read[0], scale * batch)
    close(read[1]["h"], jnp.where(scale > 1, scale * batch, 0))
    with pytest.raises(ValueError, match=r"runs for a batch.*jax.vmap\(jaxplain.sites.read"):
        sites.read(plain, "h")(batch, most)


# ------------------------------------------------------------------------------ custom rules


@jax.custom_vjp
def with_rule(x):
    return sites.tag(3 * x, "in_rule")


with_rule.defvjp(lambda x: (with_rule(x), None), lambda _, g: (7 * g,))


@jax.custom_jvp
def with_tangent(x):
    return sites.tag(3 * x, "in_tangent")


with_tangent.defjvp(lambda x, t: (with_tangent(*x), 7 * t[0]))


@pytest.mark.parametrize(
    ("function", "name", "rule"),
    [(with_rule, "in_rule", "custom_vjp"), (with_tangent, "in_tangent", "custom_jvp")],
)
def test_a_tag_inside_a_custom_rule_is_refused_and_the_rule_kept(function, name, rule):
    f = lambda x: jnp.sum(function(sites.tag(x, "before")))
    for call in (
        lambda: sites.read(f, name)(X),
        lambda: sites.edit(f, {name: lambda h: h})(X),
        lambda: sites.at(f, name)(X, X),
    ):
        with pytest.raises(ValueError, match=f"{name}.*inside a `jax.{rule}`, whose rule would"):
            call()
    assert list(sites.names(f)(X)) == ["before"]
    gradient = jax.grad(lambda x: sites.read(f, "before")(x)[0])(X)
    close(gradient, 7 * jnp.ones(2))
    close(jax.grad(sites.at(f, "before"))(X, X), 7 * jnp.ones(2))


# ----------------------------------------------------------------------------------- devices


def per_shard(x, w):
    """Inside, the sum over the rows of a shard and the sum over all."""
    h = sites.tag(jnp.sin(x) * w[None], "part")
    whole = sites.tag(jax.lax.psum(jnp.sum(h, axis=0), "data"), "whole")
    return h + whole[None]


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AUTO,))
    specs = {"in_specs": (jax.P("data"), jax.P()), "out_specs": jax.P("data")}
    f = jax.shard_map(per_shard, mesh=mesh, **specs, check_vma=check_vma)
    x, w = jnp.arange(16.0).reshape(8, 2), jnp.array([1.0, 2.0])
    h = jnp.sin(x) * w[None]
    output, values = sites.read(f, ["part", "whole"])(x, w)
    close(output, h + h.sum(axis=0)[None])
    close(values["part"], h.reshape(4, 2, 2))  # shards, rows of a shard, columns
    whole = h.sum(axis=0)
    close(values["whole"], whole if check_vma else jnp.stack([whole] * 4))
    close(sites.write(f, "part")({"part": values["part"]}, x, w), output)
    zeros = jnp.zeros_like(values["whole"])
    close(sites.write(f, "whole")({"whole": zeros}, x, w), h)
    doubled = sites.edit(f, {"part": lambda part: 2 * part})(x, w)
    close(doubled, 2 * (h + whole[None]))
    gradient = jax.grad(lambda x: sites.read(f, "part")(x, w)[1]["part"].sum())(x)
    close(gradient, jnp.cos(x) * w[None])


@pytest.mark.parametrize("where", ["inside", "around"])
def test_numbers_of_hits_in_shard_map(where):
    """They are the same on each shard, whatever the value does there."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = lambda f: jax.shard_map(f, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data"))
    one = lambda x, w: (sites.tag(x * w, "h"), None)
    w = jnp.arange(1.0, 4)
    if where == "inside":
        f = spread(lambda x: jax.lax.scan(one, x, w)[0])
    else:
        f = lambda x: jax.lax.scan(lambda x, w: (spread(lambda x: one(x, w)[0])(x), None), x, w)[0]
    x = jnp.arange(8.0)
    add = lambda h, number: h + number.astype(h.dtype)
    close(sites.edit(f, {"h": add}, numbered=True)(x), (x * 2 + 1) * 3 + 2)
    close(sites.edit(f, {"h[1]": add}, numbered=True)(x), (x * 2 + 1) * 3)


def test_one_hit_inside_a_loop_whose_place_is_not_known():
    """Inside a scan in reverse, the hits of a turn have numbers that only run time has."""

    def inner(x, w):
        return sites.tag(x * w, "h"), None

    def f(x, w):
        return jax.lax.scan(lambda x, w: jax.lax.scan(inner, x, w), x, w, reverse=True)[0]

    w = jnp.arange(1.0, 7).reshape(2, 3)
    close(sites.read(f, "h")(1.0, w)[1]["h"], jnp.array([120, 240, 720, 4, 20, 120.0]), rtol=1e-5)
    for k, last in enumerate((42.0, 21.0, 7.0, 7.0 * 5 * 6 * 6, 7.0 * 6 * 6, 7.0 * 6)):
        close(sites.write(f, f"h[{k}]")({f"h[{k}]": jnp.float32(7)}, 1.0, w), last)


def test_a_scan_inside_shard_map():
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AUTO,))

    def layers(x, w):
        return jax.lax.scan(lambda x, w: (sites.tag(x * w, "h"), None), x, w)[0]

    f = jax.shard_map(layers, mesh=mesh, in_specs=(jax.P("data"), jax.P()), out_specs=jax.P("data"))
    x, w = jnp.arange(1.0, 5), jnp.array([2.0, 3.0, 5.0])
    output, values = sites.read(f, ["h", "h[1]"])(x, w)
    close(output, 30 * x)
    expected = jnp.stack([2 * x, 6 * x, 30 * x]).reshape(3, 2, 2)
    close(values["h"], expected)
    close(values["h[1]"], expected[1])
    close(sites.write(f, "h[1]")({"h[1]": jnp.ones((2, 2))}, x, w), 5 * jnp.ones(4))
    close(sites.write(f, "h")({"h": expected}, x, w), 30 * x)


@pytest.mark.parametrize("kind", [AUTO, EXPLICIT])
def test_a_sharded_activation_keeps_its_sharding(kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    x = jax.device_put(jnp.arange(32.0).reshape(16, 2), sharding)

    def f(x):
        return sites.tag(jnp.sin(x), "h") * 2

    with jax.set_mesh(mesh):
        output, values = sites.read(f, "h")(x)
        assert values["h"].sharding.is_equivalent_to(sharding, 2)
        assert output.sharding.is_equivalent_to(sharding, 2)
        again = sites.at(f, "h")(values["h"], x)
        assert again.sharding.is_equivalent_to(sharding, 2)
        text = jax.jit(sites.read(f, "h")).lower(x).compile().as_text()
    assert "all-gather" not in text
    close(again, output)


def test_constraints_of_an_inner_jit_are_kept():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AUTO,))
    sharding = jax.NamedSharding(mesh, jax.P("data"))
    inner = jax.jit(lambda x: sites.tag(2 * x, "h"), out_shardings=sharding)
    output, _ = sites.read(inner, "h")(jnp.arange(16.0))
    assert output.sharding.is_equivalent_to(sharding, 1)


# ------------------------------------------------------------------------------------ memory


def test_rematerialisation_keeps_its_memory():
    """Within 10 % of the compiled temporaries, and far below those without it."""

    def block(x, w):
        h = sites.tag(jnp.tanh(x @ w), "h")
        return jnp.sin(h @ w) * jnp.cos(h @ w.T) + x, None

    def model(x, params, block=block):
        return jnp.sum(jax.lax.scan(block, x, params)[0])

    x, params = jnp.ones((256, 64)), jnp.ones((16, 64, 64)) / 64
    kept = functools.partial(model, block=jax.checkpoint(block))

    def temporaries(f):
        return jax.jit(jax.grad(f)).lower(x, params).compile().memory_analysis().temp_size_in_bytes

    mean = lambda x, params: sites.read(kept, "h[3]", reduce=jnp.mean)(x, params)[0]
    edited = lambda x, params: sites.edit(kept, {"h[3]": lambda h: h / 2})(x, params)
    for touched in (mean, edited):
        assert temporaries(touched) <= 1.1 * temporaries(kept)
    assert temporaries(kept) < 0.6 * temporaries(model)


# ----------------------------------------------------------------------------- all else


def test_trees_integers_and_scalars():
    def f(x, tokens, table):
        h = sites.tag({"e": table[tokens], "s": x}, "in")
        return {"out": h["e"].sum() * h["s"], "tokens": sites.tag(tokens + 1, "t")}

    table, tokens = jnp.arange(6.0).reshape(3, 2), jnp.array([0, 2])
    output, values = sites.read(f, ["in.e", "in.s", "t"])(2.0, tokens, table)
    assert float(output["out"]) == 20
    assert values["t"].tolist() == [1, 3]
    assert values["t"].dtype == jnp.int32
    assert float(values["in.s"]) == 2
    at = sites.at(lambda *inputs: f(*inputs)["out"], "in.e")
    close(jax.grad(at)(values["in.e"], 2.0, tokens, table), jnp.full((2, 2), 2.0))


def test_bfloat16_and_an_empty_batch():
    f = lambda x, w: sites.tag(x @ w, "h").sum(axis=-1)
    x, w = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
    _, values = sites.read(f, "h")(x, w)
    assert values["h"].dtype == jnp.bfloat16
    assert sites.at(f, "h")(values["h"], x, w).dtype == jnp.bfloat16
    _, values = sites.read(f, "h")(x[:0], w)
    assert values["h"].shape == (0, 4)


def test_nothing_named_and_nothing_asked():
    f = lambda x: x.sum()
    assert sites.names(f)(X) == {}
    output, values = sites.read(f, [])(X)
    assert float(output) == 1.5
    assert values == {}


def test_what_led_to_a_written_value_is_not_computed():
    def f(x, w):
        for _ in range(20):
            x = jnp.sin(x @ w)
        return sites.tag(x, "h").sum()

    x, w = jnp.ones((8, 8)), jnp.ones((8, 8))
    cost = lambda f, *a: jax.jit(f).lower(*a).compile().cost_analysis()["flops"]
    assert cost(sites.at(f, "h"), x, x, w) < 0.05 * cost(f, x, w)


def test_an_unused_edit_of_a_layer_traces_once_for_all_values():
    f = lambda x: sites.tag(2 * x, "h").sum()
    written = jax.jit(chex.assert_max_traces(n=1)(sites.at(f, "h")))
    for scale in range(3):
        assert float(written(scale * X, X)) == pytest.approx(scale * 1.5)


# ----------------------------------------------------------------------------------- errors


def test_errors_teach():
    f = lambda x: sites.tag(sites.tag(x, "blocks.0.attn"), "blocks.1.attn").sum()
    for call, error, message in (
        (lambda: sites.read(f, "blocks.0.atn")(X), ValueError, "Near: 'blocks.0.attn'"),
        (
            lambda: sites.read(f, "zzz")(X),
            ValueError,
            "There are: 'blocks.0.attn', 'blocks.1.attn'",
        ),
        (lambda: sites.read(jnp.sum, "h")(X), ValueError, "the function has none at all"),
        (lambda: sites.read(f, 3), TypeError, "names must be a name or several, but is a int"),
        (lambda: sites.read(f, [3]), TypeError, "names must be text"),
        (lambda: sites.read(f, ["a", "a"]), ValueError, "names has a name twice"),
        (lambda: sites.read(3, "h"), TypeError, "f must be a function"),
        (lambda: sites.read(f, "blocks.0.attn", reduce={"h": jnp.sum}), ValueError, "reduce has"),
        (lambda: sites.read(f, "blocks.0.attn[1]")(X), ValueError, "has 1 hits, from 0 to 0"),
        (lambda: sites.read(f, "blocks.0.attn")("x"), TypeError, "each input must be an array"),
        (lambda: sites.read(f, "blocks.0.attn")(x=X), TypeError, "by position, but x came by name"),
        (lambda: sites.at(f, "blocks.0.attn")(X[:1], X), ValueError, r"must have shape \(2,\)"),
        (
            lambda: sites.at(f, "blocks.0.attn")(X.astype(jnp.bfloat16), X),
            TypeError,
            "must have dtype float32, but has bfloat16: cast it",
        ),
        (lambda: sites.at(f, "blocks.0.attn")((X, X), X), TypeError, "must be one array"),
        (lambda: sites.at(f, 0), TypeError, "name must be text"),
        (lambda: sites.write(f, "blocks.0.attn")(X, X), TypeError, "values must be a dict"),
        (lambda: sites.write(f, "blocks.0.attn")({}, X), ValueError, "values must have the names"),
        (lambda: sites.edit(f, "blocks.0.attn"), TypeError, "edits must be a dict"),
        (lambda: sites.edit(f, {"blocks.0.attn": 0}), TypeError, "must be a function"),
        (
            lambda: sites.edit(f, {"blocks.0.attn": lambda h, number: h}),
            TypeError,
            r"the edit of 'blocks.0.attn' is called with \(value\), but takes \(h, number\)",
        ),
        (
            lambda: sites.edit(f, {"blocks.0.attn": lambda h: h}, numbered=True),
            TypeError,
            r"is called with \(value, number\), but takes \(h\)",
        ),
        (
            lambda: sites.read(f, "blocks.0.attn", reduce=lambda: 0),
            TypeError,
            r"reduce is called with \(value\), but takes \(\)",
        ),
        (
            lambda: sites.edit(f, {"blocks.0.attn": lambda h: h[:1]})(X),
            ValueError,
            r"must return the shape \(2,\), but returned \(1,\)",
        ),
        (
            lambda: sites.edit(f, {"blocks.0.attn": lambda h: h > 0})(X),
            TypeError,
            "must return the dtype float32, but returned bool",
        ),
        (lambda: sites.tag(X, 3), TypeError, "name must be text"),
        (lambda: sites.tag(X, ""), ValueError, "name must not be empty"),
        (lambda: sites.tag("x", "h"), TypeError, "x must be an array"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_one_name_for_two_kinds_of_values():
    f = lambda x: sites.tag(sites.tag(x, "h").sum(), "h")
    with pytest.raises(
        ValueError, match=r"several kinds, float32\[2\] and float32\[\]\. Two places"
    ):
        sites.read(f, "h")(X)
