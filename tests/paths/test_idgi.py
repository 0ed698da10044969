"""IDGI: a twin in numpy, exact completeness, closed forms, vanishing gradients, cost."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths


def network(x, params):
    return jnp.sum(params["v"] * jnp.tanh(x @ params["w"] + params["c"]))


def numpy_network(x, p):
    """Value and gradient, by hand."""
    hidden = np.tanh(x @ p["w"] + p["c"])
    return p["v"] @ hidden, p["w"] @ (p["v"] * (1 - hidden**2))


def problem(seed, size=5):
    rng = np.random.default_rng(seed)
    params = {"w": rng.normal(size=(size, 7)), "v": rng.normal(size=7), "c": rng.normal(size=7)}
    return rng.normal(size=size), rng.normal(size=size), params


def twin(points, value_and_gradient):
    """Over the points of a path, in plain loops."""
    values = np.zeros_like(points[0])
    for here, there in itertools.pairwise(points):
        value, gradient = value_and_gradient(here)
        change = value_and_gradient(there)[0] - value
        for i in range(values.size):
            values[i] += gradient[i] ** 2 * change / sum(g**2 for g in gradient)
    return values


@pytest.mark.parametrize(("steps", "chunk_size"), [(1, 4), (2, 1), (7, 3), (8, 4), (33, 16)])
def test_twin(steps, chunk_size, x64):
    for seed in range(3):
        x, baseline, params = problem(seed)
        points = [baseline + j / steps * (x - baseline) for j in range(steps + 1)]
        expected = twin(points, lambda z, p=params: numpy_network(z, p))
        got = paths.idgi(network, steps=steps, chunk_size=chunk_size)(x, baseline, params)
        np.testing.assert_allclose(got.values, expected, rtol=1e-10, atol=1e-13)
        np.testing.assert_allclose(got.output, numpy_network(x, params)[0], rtol=1e-13)
        np.testing.assert_allclose(got.baseline_output, numpy_network(baseline, params)[0])
        assert int(got.evaluations) == steps


def test_a_path_of_ones_own_and_two_modalities(x64):
    """A curve whose ends are neither x nor the baseline, on a dict: the twin of the vector."""
    x, baseline, params = problem(5)
    split = lambda v: {"b": v[:2], "a": v[2:]}
    f = lambda t, params: network(jnp.concatenate([t["b"], t["a"]]), params)
    curve = lambda t, end, start: start + (0.1 + 0.7 * t**2) * (end - start)

    def path(t, x, baseline):
        return jax.tree.map(lambda end, start: curve(t, end, start), x, baseline)

    points = [curve(j / 9, x, baseline) for j in range(10)]
    expected = twin(points, lambda z: numpy_network(z, params))
    got = paths.idgi(f, steps=9, path=path, chunk_size=4)(split(x), split(baseline), params)
    np.testing.assert_allclose(got.values["b"], expected[:2], rtol=1e-10)
    np.testing.assert_allclose(got.values["a"], expected[2:], rtol=1e-10)
    np.testing.assert_allclose(got.output, numpy_network(points[-1], params)[0])
    np.testing.assert_allclose(got.baseline_output, numpy_network(points[0], params)[0])
    assert abs(float(got.completeness_gap)) < 1e-13


@pytest.mark.parametrize("activation", [jnp.tanh, jax.nn.relu], ids=["tanh", "relu"])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_completeness_is_exact_at_any_number_of_steps(activation, steps):
    """Of 20 random networks in float32, to a few roundings of the largest change."""

    def f(x, params):
        return jnp.sum(params["v"] * activation(x @ params["w"] + params["c"])) + jnp.sum(x)

    explain = jax.jit(jax.vmap(paths.idgi(f, steps=steps, chunk_size=4)))
    problems = [problem(seed) for seed in range(20)]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves), jnp.float32), *problems)
    got = explain(*stacked)
    scale = np.abs(got.values).sum(1) + np.abs(got.output) + np.abs(got.baseline_output)
    assert (np.abs(got.completeness_gap) <= 4e-7 * scale).all()
    assert np.abs(got.output - got.baseline_output).min() > 1e-3  # there is something to explain


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_linear_function(steps, x64):
    """The change of f in the ratio of the squared weights, whatever the path."""
    x, baseline, params = problem(1)
    w = params["w"][:, 0]
    expected = w @ (x - baseline) * w**2 / (w @ w)
    bend = lambda t, x, baseline: baseline + jnp.sin(np.pi / 2 * t) * (x - baseline)
    for path in (paths.straight_line, bend):
        got = paths.idgi(lambda x, w: jnp.dot(w, x), steps=steps, path=path)(x, baseline, w)
        np.testing.assert_allclose(got.values, expected, rtol=1e-12)


def test_what_f_ignores_gets_nothing_and_what_is_written_otherwise_the_same(x64):
    x, baseline, params = problem(2)
    dead = lambda x, params: network(x.at[3].set(0.0), params)
    assert paths.idgi(dead, steps=6)(x, baseline, params).values[3] == 0
    written = lambda x, p: jnp.dot(p["v"], 2 / (1 + jnp.exp(-2 * (x @ p["w"] + p["c"]))) - 1)
    got, expected = (paths.idgi(f, steps=6)(x, baseline, params) for f in (written, network))
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-10)


@pytest.mark.parametrize("chunk_size", [1, 3, 16])
def test_a_vanishing_gradient_gives_nothing_and_the_gap_says_how_much(chunk_size, x64):
    """Dead up to 0.6 of the way: the step that leaves the dead part has no direction."""
    f = lambda x: 5 * jax.nn.relu(jnp.sum(x) - 1.2)
    got = paths.idgi(f, steps=4, chunk_size=chunk_size)(jnp.ones(2), jnp.zeros(2))
    # f at 0, 1/4, ..., 1 is 0, 0, 0, 1.5, 4: the third step, of 1.5, is lost.
    np.testing.assert_allclose(got.values, [1.25, 1.25], rtol=1e-12)
    np.testing.assert_allclose(got.completeness_gap, -1.5, rtol=1e-12)
    assert bool(got.finite)
    constant = paths.idgi(lambda x: 0 * jnp.sum(x) + 3, steps=4)(jnp.ones(2), jnp.zeros(2))
    assert constant.values.tolist() == [0, 0]
    assert float(constant.completeness_gap) == 0
    assert bool(constant.finite)
    still = paths.idgi(f, steps=4)(jnp.ones(2), jnp.ones(2))
    np.testing.assert_allclose(still.values, 0, atol=1e-15)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e22, 1e30])
def test_the_shares_have_no_units(scale):
    """Where the squares of the gradient are out of the range of float32 too."""
    wave = lambda x, s: s * jnp.sum(jnp.sin(x) * jnp.array([1.0, 2.0, 3.0]))
    x = jnp.array([0.3, -0.5, 1.0])
    one, scaled = (paths.idgi(wave, steps=5)(x, 0 * x, jnp.float32(s)).values for s in (1.0, scale))
    np.testing.assert_allclose(scaled / scale, one, rtol=1e-5)


def test_a_gradient_that_is_not_a_number_is_flagged():
    """At one point only, where the value is fine."""
    f = lambda x: jnp.sum(jnp.sqrt(x))  # an infinite gradient at the baseline
    got = paths.idgi(f, steps=4)(jnp.ones(2), jnp.zeros(2))
    assert not bool(got.finite)
    assert bool(paths.idgi(f, steps=4)(jnp.ones(2), jnp.full(2, 0.1)).finite)


@pytest.mark.parametrize(("steps", "chunk_size"), [(6, 4), (5, 16)])
def test_it_costs_the_gradients_and_one_forward_pass(steps, chunk_size):
    calls = []

    def f(x):
        jax.debug.callback(lambda _: calls.append(1), x[0])
        return jnp.sum(x**2)

    jax.block_until_ready(
        paths.idgi(f, steps=steps, chunk_size=chunk_size)(jnp.ones(2), jnp.zeros(2))
    )
    jax.effects_barrier()
    assert len(calls) == steps + 1


def test_memory_does_not_depend_on_steps():
    _, _, params = problem(0)
    params = jax.tree.map(jnp.float32, params)

    def temporary_bytes(steps):
        explain = jax.vmap(paths.idgi(network, steps=steps, chunk_size=4), (0, None, None))
        program = jax.jit(explain).lower(jnp.ones((64, 5)), jnp.zeros(5), params)
        return program.compile().memory_analysis().temp_size_in_bytes

    few, many = temporary_bytes(32), temporary_bytes(4096)
    assert abs(many - few) <= 0.02 * few + 2 * 4 * (4096 - 32)  # but for a weight for each step


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"path": "line"}, TypeError, r"path must be a function.*'line'"),
        ({"path": lambda t, x, b: x[:2]}, ValueError, r"point of path must have the shape of x"),
        ({"path": lambda t, x, b: (x,)}, ValueError, "point of path must be the same tree as x"),
    ],
    ids=["steps", "path", "shape", "tree"],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        paths.idgi(lambda x: jnp.sum(x), **options)(jnp.ones(3), jnp.zeros(3))
