"""Breakpoints on a line: between two of them a function is affine, and at each it changes.

The oracle is the function itself: five points of a piece lie on one line, which holds for all
pieces only if none is missed; and the slopes before and after a breakpoint differ, or the values.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxplain.rewrite import _breakpoints

HAIR = 1e-13

# Where a choice may change that the values do not show: the order of two that are not selected.
HIDDEN = ("all of top_k", "argmax", "batched", "clamp", "cond", "median", "sort of pairs", "switch")
WEIGHTS = np.random.default_rng(5).normal(size=(6, 6))


@jax.custom_jvp
def crooked(x):
    return jnp.maximum(x, 0.3 * x)


crooked.defjvps(lambda tangent, answer, x: 17 * tangent)  # a gradient that is not of its values


def pool(x, operation, init, window, strides, padding, dilations=(1, 1)):
    return lax.reduce_window(
        x, init, operation, window, strides, padding, window_dilation=dilations
    )


def recurrent(x):
    """A carry that is still at first, a constant, and rows that move."""

    def step(carry, row):
        still, state = carry
        state = jax.nn.leaky_relu(state @ WEIGHTS + row)
        return (still + 1, state), jnp.abs(state[:2]) * still

    (_, state), rows = lax.scan(step, (1.0, jnp.zeros(6)), x, reverse=True, unroll=2)
    return jnp.concatenate([state, rows.ravel()])


def two_branches(x):
    return lax.cond(jnp.sum(x) > 0, lambda x: jnp.maximum(x, 1.0), lambda x: x @ WEIGHTS, x)


def switch(x):
    """The index is piecewise constant; one branch gives a constant."""
    return lax.switch(
        jnp.argmax(x[0]), [lambda x: x[1], lambda x: jnp.ones(6), lambda x: abs(x[2])] * 2, x
    )


FUNCTIONS = {
    "abs": abs,
    "sign": lambda x: jnp.sign(x) + x[0, 0],
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "relu6": lambda x: jax.nn.relu6(4 * x),
    "hard_tanh": jax.nn.hard_tanh,
    "prelu": lambda x: jnp.where(x >= 0, x, WEIGHTS[:4] * x),
    "celu-like": lambda x: jnp.maximum(0, x) + jnp.minimum(0, 0.5 * x),
    "clip": lambda x: jnp.clip(x, -0.5, 0.25),
    "clamp": lambda x: lax.clamp(-0.5 - abs(x[::-1]), x, 0.1 + abs(x[:, ::-1])),
    "max of two": lambda x: jnp.maximum(x, x[:, ::-1]),
    "min of two": lambda x: jnp.minimum(x[::-1], x @ WEIGHTS),
    "gt": lambda x: jnp.where(x[0] > x[1], x[2], 2 * x[3]),
    "ge": lambda x: jnp.where(x[0] >= 0.1, 1.0, 0.0),
    "lt": lambda x: jnp.where(x[0] < 0.1, 1.0, x[1]),
    "le": lambda x: jnp.where(x[0] <= x[1], 1.0, x[1]),
    "eq": lambda x: jnp.where(jnp.maximum(x[0], 0) == 0, x[1], x[2]),
    "ne": lambda x: jnp.where(jnp.maximum(x[0], 0) != 0, x[1], x[2]),
    "is_finite": lambda x: jnp.where(jnp.isfinite(x), abs(x), 0.0),
    "reduce_max": lambda x: jnp.max(x, 1),
    "reduce_min": lambda x: jnp.min(x),
    "argmax": lambda x: x[1, jnp.argmax(x[0])],
    "argmin": lambda x: jnp.take_along_axis(x[::-1], jnp.argmin(x, 1, keepdims=True), 1),
    "one_hot": lambda x: jax.nn.one_hot(jnp.argmax(x, 1), 6) * x,
    "max-pool": lambda x: pool(x, lax.max, -jnp.inf, (2, 2), (2, 2), "VALID"),
    "max-pool, overlapping, padded": lambda x: pool(x, lax.max, -jnp.inf, (3, 3), (1, 2), "SAME"),
    "min-pool, dilated": lambda x: pool(x, lax.min, jnp.inf, (2, 2), (1, 1), "SAME", (2, 3)),
    "average pool": lambda x: pool(abs(x), lax.add, 0.0, (2, 2), (2, 2), "VALID"),
    "sort": lambda x: jnp.sort(x, 1),
    "argsort": lambda x: x[1][jnp.argsort(x[0])],
    "sort of pairs": lambda x: jnp.stack(lax.sort([x[0], x[1], WEIGHTS[0]], num_keys=1)),
    "sort by a constant": lambda x: lax.sort([jnp.asarray(WEIGHTS[:4]), abs(x)], num_keys=1)[1],
    "top_k": lambda x: lax.top_k(x, 3)[0],
    "indices of top_k": lambda x: x[3][lax.top_k(x[2], 2)[1]],
    "all of top_k": lambda x: lax.top_k(x, 6)[0],
    "median": lambda x: jnp.median(x[:, :5], 1),
    "scan": recurrent,
    "cond": two_branches,
    "switch": switch,
    "checkpoint": jax.checkpoint(lambda x: abs(x @ WEIGHTS)),
    "custom_jvp": crooked,
    "stop_gradient": lambda x: abs(lax.stop_gradient(x)),
    "batched": jax.vmap(lambda row: jnp.max(jnp.abs(row @ WEIGHTS))),
    "linear operations": lambda x: jnp.maximum(
        0.1,
        jnp.pad(jnp.concatenate([-x, x[:, ::-1] / 2]).T.reshape(3, -1), 1)[:, 2:].cumsum(0)
        - lax.dynamic_slice(jnp.tile(x, (3, 4)), (1, 2), (5, 16)),
    ),
    "scatter": lambda x: abs(x.at[1, 2].add(x[0, 0]).at[:, 3].set(1.0).at[0].set(x[2])),
    "convolution": lambda x: abs(
        lax.conv(x[None, None], jnp.asarray(WEIGHTS[None, None, :3, :3]), (1, 1), "SAME")
    ),
}


def finder(function):
    """From start and end to all breakpoints between them, by a loop on the host."""

    @jax.jit
    def time(t, start, end):
        velocity = end - start
        return _breakpoints.stage(function, end).time_to_break(start + t * velocity, velocity)

    def find(start, end):
        found = [0.0]
        while found[-1] < 1:
            found.append(min(1.0, found[-1] + HAIR + float(time(found[-1] + HAIR, start, end))))
            assert len(found) < 400
        return np.array(found)

    return find


def lines(seed):
    """Three of them, (start, end)."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=(3, 2, 4, 6)))


@pytest.mark.pins
@pytest.mark.parametrize("name", FUNCTIONS)
def test_pieces_are_affine_and_differ(name, x64):
    function = FUNCTIONS[name]
    find = finder(function)
    along = jax.jit(jax.vmap(lambda t, b, x: function(b + t * (x - b)).ravel(), (0, None, None)))
    inside = np.array([0.001, 0.25, 0.5, 0.75, 0.999])
    number = 0
    for start, end in lines(0):
        found = find(start, end)
        number += len(found) - 2
        lengths = np.diff(found)
        assert lengths.min() > 1e-8, "a sliver"

        places = found[:-1, None] + lengths[:, None] * inside
        values = np.asarray(along(places.ravel(), start, end))
        values = values.reshape(*places.shape, -1)  # piece, place, output
        first, last = values[:, :1], values[:, -1:]
        affine = first + (last - first) * ((inside - 0.001) / 0.998)[:, None]
        np.testing.assert_allclose(values, affine, atol=1e-11)

        slopes = (last - first)[:, 0] / (0.998 * lengths[:, None])
        before = values[:-1, -1] + slopes[:-1] * 0.001 * lengths[:-1, None]
        after = values[1:, 0] - slopes[1:] * 0.001 * lengths[1:, None]
        change = np.abs(np.diff(slopes, axis=0)) + np.abs(after - before)
        if name not in HIDDEN:
            assert change.max(1).min(initial=1) > 1e-6
    assert number > 1, "hardly a breakpoint: a test of nothing"


@pytest.mark.parametrize("name", ["recurrent", "two_branches"])
def test_loops_give_what_their_unrolled_form_gives(name, x64):
    def unrolled(x):
        state, rows = jnp.zeros(6), []
        for number, row in enumerate(x[::-1], start=1):
            state = jax.nn.leaky_relu(state @ WEIGHTS + row)
            rows.insert(0, jnp.abs(state[:2]) * number)
        return jnp.concatenate([state, *rows])

    def selected(x):
        return jnp.where(jnp.sum(x) > 0, jnp.maximum(x, 1.0), x @ WEIGHTS)

    function, other = {
        "recurrent": (recurrent, unrolled),
        "two_branches": (two_branches, selected),
    }[name]
    find, find_other = finder(function), finder(other)
    for start, end in lines(8):
        found, expected = find(start, end), find_other(start, end)
        # A branch that is not taken has breakpoints of its own where both are computed.
        distance = np.abs(found[:, None] - expected).min(1)
        np.testing.assert_allclose(distance, 0, atol=1e-12)


def window_max(x):
    return pool(x[None], lax.max, -jnp.inf, (1, 3), (1, 3), "VALID")[0, 0]


# Just after the point (0, 0, 0) they are t, -t, 0.
AT_A_KINK = [
    (lambda x: jnp.maximum(jnp.max(x), 0.25), 0.25),
    (lambda x: jnp.minimum(jnp.min(x), -0.25), 0.25),
    (lambda x: jnp.maximum(jnp.maximum(x[1], x[0]), 0.25), 0.25),
    (lambda x: abs(abs(x[1]) - 0.5), 0.5),
    (lambda x: abs(jnp.where(x[0] > 0, x[0], 2.0) - 0.25), 0.25),
    (lambda x: abs(jnp.where(x[1] >= 0, 2.0, x[0]) - 0.25), 0.25),
    (lambda x: abs(jnp.where(x[2] >= 0, x[0], 2.0) - 0.25), 0.25),
    (lambda x: abs(jnp.where(x[2] == 0, x[0], 2.0) - 0.25), 0.25),
    (lambda x: abs(jnp.where(x[0] == 0, 2.0, x[0]) - 0.25), 0.25),
    (lambda x: abs(jnp.where(x[0] != 0, x[0], 2.0) - 0.25), 0.25),
    (lambda x: abs(jnp.sign(x[1]) * x[0] + 0.25), 0.25),
    (lambda x: abs(x[jnp.argmax(x)] - 0.25), 0.25),
    (lambda x: abs(x[jnp.argmin(x)] + 0.25), 0.25),
    (lambda x: abs(jnp.sort(x)[2] - 0.25), 0.25),
    (lambda x: abs(lax.top_k(x, 1)[0][0] - 0.25), 0.25),
    (lambda x: abs(x[lax.top_k(x, 1)[1][0]] - 0.25), 0.25),
    (lambda x: abs(window_max(x) - 0.25), 0.25),
    # What is equal for good never changes places, and zero stays zero.
    (lambda x: jnp.maximum(x[0], 1.0 * x[0]) + jnp.maximum(0 * x[0], 0.0), np.inf),
    # Beyond the end nothing is of interest; just before it, it is.
    (lambda x: abs(x[0] - 1.0), np.inf),
    (lambda x: abs(x[0] - 0.999), 0.999),
]


def test_choices_between_equals_are_made_by_the_slopes(x64):
    """At a kink itself, and where several units are on theirs."""
    functions, expected = zip(*AT_A_KINK, strict=True)

    @jax.jit
    def times(point, velocity):
        return [_breakpoints.stage(f, point).time_to_break(point, velocity) for f in functions]

    got = times(jnp.zeros(3), jnp.array([1.0, -1.0, 0.0]))
    np.testing.assert_array_equal(got, expected)


def test_the_last_of_the_best_is_overtaken_by_any_of_the_rest(x64):
    """By the steepest, which has not met its neighbours yet."""

    @jax.jit
    def times(point, velocity):
        best = [lambda x, k=k: lax.top_k(x, k)[0] for k in (1, 2, 3)]
        return [_breakpoints.stage(f, point).time_to_break(point, velocity) for f in best]

    got = times(jnp.array([3.0, 2.0, 1.0, 0.0]), jnp.array([0.0, 0.0, 0.0, 4.0]))
    np.testing.assert_array_equal(got, [0.75, 0.5, 0.25])


REFUSED = {
    "tanh": lambda x: jnp.tanh(x),
    "exp": lambda x: jax.nn.softmax(x),
    "logistic": jax.jit(lambda x: jax.nn.silu(x)),
    "mul": lambda x: x * x[::-1],
    "square": lambda x: jnp.square(x),
    "integer_pow": lambda x: x**3,
    "dot_general": lambda x: x.T @ x,
    "div": lambda x: 1 / x,
    "conv_general_dilated": lambda x: lax.conv(x[None, None], x[None, None], (1, 1), "SAME"),
    "convert_element_type": lambda x: x.astype(int).astype(float),
    "floor": lambda x: jnp.floor(x),
    "while": lambda x: lax.while_loop(lambda s: s[0, 0] < 0, lambda s: s + 1, x),
    "sort with several keys": lambda x: lax.sort([x[0], x[1]], num_keys=2)[1],
    "sqrt": lambda x: lax.scan(lambda c, r: (jnp.sqrt(c) + r, None), jnp.zeros(6), x)[0],
    "log": lambda x: lax.cond(x[0, 0] > 0, lambda: jnp.log(x), lambda: x),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_piecewise_linear_is_refused_by_name(name):
    x = jnp.ones((4, 6))
    with pytest.raises(ValueError, match=rf"must be piecewise linear in x.*but `{name}` of"):
        jax.make_jaxpr(lambda x: _breakpoints.stage(REFUSED[name], x).time_to_break(x, x))(x)


def test_anything_may_be_done_with_what_does_not_move(x64):
    """Constants, comparisons and indices; and with what nothing depends on."""

    @functools.partial(jax.jit, static_argnums=1)
    def model(x, exact):
        scores = x @ (WEIGHTS if exact else jnp.exp(jnp.log(jnp.abs(WEIGHTS))) * np.sign(WEIGHTS))
        factor = 1.0 if exact else jnp.cos(jnp.sign(abs(scores)) - 1) ** 3
        unused = x if exact else jax.nn.softmax(jnp.sort(scores))
        return factor * abs(scores), unused

    exact, other = (lambda x, e=e: model(x, e)[0] for e in (True, False))
    find, find_other = finder(exact), finder(other)
    for start, end in lines(3):
        distance = np.abs(find(start, end)[:, None] - find_other(start, end)).min(1)
        np.testing.assert_allclose(distance, 0, atol=1e-12)
