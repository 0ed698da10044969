"""Shapley effects against closed forms, a slow twin in numpy, and their own errors."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol

KEY = jax.random.key(0)
PI = math.pi
A = jnp.array([0.0, 1.0, 4.5, 9.0, 99.0, 99.0, 99.0, 99.0])


def ishigami(x):
    return jnp.sin(x[0]) + 7 * jnp.sin(x[1]) ** 2 + 0.1 * x[2] ** 4 * jnp.sin(x[0])


def g_function(x):
    return jnp.prod((jnp.abs(4 * x - 2) + A) / (1 + A))


def bratley(x):
    return jnp.sum(jnp.cumprod(x) * jnp.array([-1.0, 1.0] * 4))


CUBE = sobol.uniform(jnp.zeros(8), 1.0)
# f, inputs, Shapley effects, total indices
CASES = {
    "ishigami": (
        ishigami,
        sobol.uniform(-PI * jnp.ones(3), PI),
        [0.435747, 0.442411, 0.121842],
        [0.557589, 0.442411, 0.243684],
    ),
    "g": (
        g_function,
        CUBE,
        [0.751519, 0.210477, 0.028880, 0.008772] + [0.000088] * 4,
        [0.787144, 0.242198, 0.034317, 0.010460] + [0.000105] * 4,
    ),
    "bratley": (
        bratley,
        CUBE,
        [0.703820, 0.210210, 0.059385, 0.019121, 0.004839, 0.002006, 0.000309, 0.000309],
        [0.747535, 0.253925, 0.081554, 0.029320, 0.008426, 0.003783, 0.000688, 0.000688],
    ),
    "linear, far from 0": (
        lambda x: 1000 + jnp.dot(x, jnp.arange(4.0)),
        sobol.normal(jnp.zeros(4), 1.0),
        np.arange(4) ** 2 / 14,
        np.arange(4) ** 2 / 14,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_closed_forms_within_the_error(name):
    """4.5 standard errors: of some 50 estimates a false alarm in 3,000 runs."""
    f, inputs, effects, total = CASES[name]
    s = sobol.shapley_effects(f, inputs, samples=2**12, sampler=qmc.monte_carlo)(KEY)
    for got, error, true in (
        (s.effects, s.effects_error, effects),
        (s.total_order, s.total_order_error, total),
    ):
        assert got.shape == error.shape == inputs.shape
        assert np.all(np.abs(got - np.asarray(true)) <= 4.5 * error + 2e-6)
    assert s.evaluations == 2**12 * (len(effects) + 1)
    assert s.rows == 2**12


@pytest.mark.parametrize("name", ["ishigami", "g"])
def test_small_errors_by_sobol_points(name):
    f, inputs, effects, total = CASES[name]
    s = sobol.shapley_effects(f, inputs, samples=2**14)(KEY)
    np.testing.assert_allclose(s.effects, effects, atol=1e-2)
    np.testing.assert_allclose(s.total_order, total, atol=1e-2)


def twin(f, x, y, places, groups):
    """Goda's algorithm, walk by walk; not yet divided by the variance. And all evaluations."""
    players = max(groups) + 1
    effects, total, every = np.zeros(players), np.zeros(players), []
    for start, end, place in zip(x, y, places, strict=True):
        w = start.copy()
        f_start = before = f(w)
        every.append(before)
        for player in np.argsort(place):
            w[np.asarray(groups) == player] = end[np.asarray(groups) == player]
            after = f(w)
            every.append(after)
            effects[player] += (f_start - (before + after) / 2) * (before - after)
            total[player] += (before - after) ** 2 / 2
            before = after
    return effects / len(x), total / len(x), np.array(every)


@pytest.mark.parametrize(("groups", "samples"), [(None, 32), ([0, 1, 0, 2], 20)])
@pytest.mark.filterwarnings("ignore:(each design|a Sobol)")
def test_a_slow_twin(groups, samples):
    labels = list(range(4)) if groups is None else groups
    f = lambda x: x[0] * x[1] + np.e ** x[2] * x[3] + 5
    s = sobol.shapley_effects(
        f,
        sobol.uniform(jnp.zeros(4), 1.0),
        samples=samples,
        groups=None if groups is None else np.array(groups),
        chunk_size=24,
    )(KEY)
    players = max(labels) + 1
    for_points, _ = jax.random.split(KEY)
    u = np.asarray(qmc.points(qmc.sobol, for_points, 8 + players, samples), np.float64)
    effects, total, every = twin(f, u[:, :4], u[:, 4:8], u[:, 8:], labels)
    np.testing.assert_allclose(s.effects, effects / every.var(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(s.total_order, total / every.var(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(s.mean, every.mean(), rtol=1e-6)
    np.testing.assert_allclose(s.variance, every.var(), rtol=1e-5)
    ends = [(f(a) - f(b)) ** 2 / 2 for a, b in zip(u[:, :4], u[:, 4:8], strict=True)]
    np.testing.assert_allclose(jnp.sum(s.effects) * s.variance, np.mean(ends), rtol=1e-5)


def test_effects_are_those_of_the_closed_indices():
    """All orders of all players, from the variances in closed form: a product of uniforms."""
    scale = np.array([1.0, 0.5, 2.0])
    second = 1 + scale**2 / 3  # of 1 + scale U(-1, 1)
    explained = lambda known: np.prod(second[list(known)]) - 1
    expected = np.zeros(3)
    for order in itertools.permutations(range(3)):
        for place, player in enumerate(order):
            gain = explained(order[: place + 1]) - explained(order[:place])
            expected[player] += gain / 6 / explained(order)
    f = lambda x: jnp.prod(1 + jnp.asarray(scale, jnp.float32) * x)
    s = sobol.shapley_effects(f, sobol.uniform(-jnp.ones(3), 1.0), samples=2**13)(KEY)
    np.testing.assert_allclose(s.effects, expected, atol=0.02)
    assert np.all(np.abs(s.effects - expected) <= 3 * s.effects_error)


@pytest.mark.parametrize("errors", ["delta", "scrambles"])
def test_coverage(errors):
    """200 repetitions: 95 % of intervals, and no fewer than 91 % or more than 98.5 %."""
    f, inputs, effects, total = CASES["ishigami"]
    options = {
        "delta": {"samples": 512, "sampler": qmc.monte_carlo},
        "scrambles": {"samples": 2**12, "replicates": 8},
    }[errors]
    with (
        pytest.warns(UserWarning, match="each design has 512 rows")
        if errors == "scrambles"
        else np.errstate()
    ):
        analyse = sobol.shapley_effects(f, inputs, errors=errors, **options)
    s = jax.jit(jax.vmap(analyse))(jax.random.split(KEY, 200))
    for ends, true in ((s.effects_interval, effects), (s.total_order_interval, total)):
        true = np.asarray(true)
        lower, upper = np.asarray(ends.lower), np.asarray(ends.upper)
        covered = np.mean((lower <= true) & (true <= upper))
        assert 0.91 <= covered <= 0.985, covered


def test_trees_vectors_and_arguments():
    inputs = {"a": sobol.uniform(0.0, 1.0), "b": sobol.normal(jnp.zeros((2, 1)), 1.0)}

    def f(x, scale):
        one = x["a"] * (1 + x["b"][0, 0]) + scale * x["b"][1, 0]
        return jnp.stack([jnp.stack([one, jnp.sin(one)]), jnp.stack([2 * one, 0 * one])])

    analyse = sobol.shapley_effects(f, inputs, samples=1024)
    s = analyse(KEY, jnp.float32(0.7))
    assert s.effects["a"].shape == (2, 2)
    assert s.effects_interval.lower["b"].shape == (2, 2, 2, 1)
    assert s.is_constant.tolist() == [[False, False], [False, True]]
    assert not np.any(s.effects["b"][1, 1])
    assert not np.any(s.effects_error["b"][1, 1])
    np.testing.assert_allclose(s.effects["b"][0, 0], s.effects["b"][1, 0], rtol=1e-4)
    one = sobol.shapley_effects(lambda *args: f(*args)[0, 1], inputs, samples=1024)
    alone = one(KEY, jnp.float32(0.7))
    np.testing.assert_allclose(s.effects["b"][0, 1], alone.effects["b"], rtol=1e-4, atol=1e-6)
    # Chunks change rounding only; mapped calls are the single ones.
    small = sobol.shapley_effects(f, inputs, samples=1024, chunk_size=64)
    again = small(KEY, jnp.float32(0.7))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), s, again)
    scales = jnp.array([0.7, 0.2])
    mapped = jax.jit(jax.vmap(analyse, (None, 0)))(KEY, scales)
    first = jax.tree.map(lambda leaf: leaf[0], mapped)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-5), s, first)


def test_rows_that_are_not_finite():
    inputs = sobol.uniform(jnp.zeros(3), 1.0)
    f = lambda x: jnp.where(x[0] > 0.95, jnp.nan, jnp.sum(x))
    analyse = sobol.shapley_effects(f, inputs, samples=1024, nan="omit")
    s = analyse(KEY)
    assert 0 < s.not_finite < s.evaluations
    assert s.rows < 1024
    assert s.evaluations == 1024 * 4
    assert np.all(np.isfinite(s.effects))
    with pytest.raises(ValueError, match="NaN or infinite"):
        sobol.shapley_effects(f, inputs, samples=1024)(KEY)


def test_to_a_tolerance():
    f, inputs, effects, _ = CASES["ishigami"]
    analyse = sobol.shapley_effects(f, inputs, tolerance=0.05, max_samples=2**14)
    s = analyse(KEY)
    assert s.is_converged
    assert 1024 <= s.rows < 2**14
    ends = s.effects_interval
    assert np.max(ends.upper - ends.lower) / 2 <= 0.05
    assert np.max(np.abs(s.effects - np.asarray(effects))) <= 0.05


def test_bad_input_is_named():
    inputs = sobol.uniform(jnp.zeros(3), 1.0)
    with pytest.raises(TypeError, match="f must be a function"):
        sobol.shapley_effects(3, inputs)
    with pytest.raises(TypeError, match="tree of distributions"):
        sobol.shapley_effects(jnp.sum, [0.5])
    with pytest.raises(ValueError, match="one or the other"):
        sobol.shapley_effects(jnp.sum, inputs, samples=1024, tolerance=0.1)
    with pytest.raises(TypeError, match="typed key"):
        sobol.shapley_effects(jnp.sum, inputs)(0)
    with pytest.warns(UserWarning, match="no better than random"):
        sobol.shapley_effects(jnp.sum, inputs, samples=512)
