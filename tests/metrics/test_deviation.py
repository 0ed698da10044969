"""The bound on an attribution's change: closed forms, brute force, coverage, and the attack."""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import gradients, metrics, paths

KEY = jax.random.key(0)


class Values(NamedTuple):
    values: Any


def quadratic(x, matrix):
    return jnp.dot(x, matrix @ x) / 2


def problem(seed, size):
    """A quadratic, and the Jacobian of its Integrated Gradients from zero: x_i (Q x)_i / 2."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(size, size))
    matrix, x = matrix + matrix.T, random.normal(size=size)
    values = x * (matrix @ x) / 2
    return x, matrix, values, (np.diag(matrix @ x) + x[:, None] * matrix) / 2


EXPLAIN = paths.integrated_gradients(quadratic, steps=2)  # exact: the gradient is linear


def linear(x, matrix):
    return Values(jnp.dot(matrix, x, precision="highest"))


def worst_corner(jacobian):
    corners = np.array(list(itertools.product([-1.0, 1.0], repeat=jacobian.shape[1])))
    return np.linalg.norm(corners @ jacobian.T, axis=1).max()


def growth(size, iterations, failure):
    """cosh(z): how far the largest singular value may be above the estimate."""
    z = np.arccosh(np.sqrt(2 * size / np.pi) / failure) / (2 * iterations - 1)
    return np.cosh(z)


@pytest.mark.pins
@pytest.mark.parametrize("seed", range(3))
def test_the_l2_ball_of_a_quadratic(seed, x64):
    x, matrix, values, jacobian = problem(seed, 7)
    measure = metrics.attribution_deviation_bound(EXPLAIN, epsilon=0.01, iterations=20)
    bound = measure(KEY, x, np.zeros(7), matrix)
    worst = 0.01 * np.linalg.svd(jacobian, compute_uv=False)[0]
    np.testing.assert_allclose(bound.values, values, rtol=1e-12)
    # As many steps as elements: nothing is left to chance, and the bound is reached.
    np.testing.assert_allclose([bound.euclidean, bound.attained], worst, rtol=1e-9)
    cosine = np.sqrt(1 - (worst / np.linalg.norm(values)) ** 2)
    np.testing.assert_allclose(bound.cosine, cosine, rtol=1e-9)
    assert int(bound.evaluations) == 14
    # Fewer: from below, and from above by the factor of the law.
    few = metrics.attribution_deviation_bound(EXPLAIN, epsilon=0.01, iterations=3, level=0.9)
    few = few(KEY, x, np.zeros(7), matrix)
    assert few.attained <= worst * (1 + 1e-9)
    assert few.attained >= 0.5 * worst
    np.testing.assert_allclose(few.euclidean / few.attained, growth(7, 3, 0.1), rtol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_linf_ball_of_a_quadratic(seed, x64):
    """Between what is attained and the bound lies the worst of all 256 corners."""
    x, matrix, _, jacobian = problem(seed, 8)
    measure = metrics.attribution_deviation_bound(EXPLAIN, epsilon=0.1, norm="linf")
    bound = measure(KEY, x, np.zeros(8), matrix)
    worst = 0.1 * worst_corner(jacobian)
    assert bound.attained <= worst * (1 + 1e-9)
    assert bound.attained >= 0.8 * worst
    assert bound.euclidean >= worst * (1 - 1e-9)
    plain = 0.1 * np.sqrt(8) * np.linalg.svd(jacobian, compute_uv=False)[0]
    assert bound.euclidean <= plain * (1 + 1e-9), "never above sqrt(n) sigma"


@pytest.mark.parametrize(
    "jacobian",
    [np.diag([3.0, -1.0, 0.2, 2.0]), np.outer([1.0, 2.0, -1.0, 0.5], [3.0, -1.0, 0.2, 2.0])],
    ids=["diagonal", "rank one"],
)
def test_the_linf_bound_is_exact_for_two_kinds(jacobian, x64):
    measure = metrics.attribution_deviation_bound(linear, epsilon=0.5, norm="linf")
    bound = measure(KEY, np.ones(4), jacobian)
    worst = 0.5 * worst_corner(jacobian)
    np.testing.assert_allclose([bound.euclidean, bound.attained], worst, rtol=1e-9)
    assert worst < 0.9 * 0.5 * 2 * np.linalg.svd(jacobian, compute_uv=False)[0]


def test_the_bound_fails_no_more_often_than_it_says():
    """Over 2,000 starts, on a spectrum made to be hard: the rest lies where Chebyshev's nodes do,
    below the largest by just the factor. There it fails at times, and not too often."""
    size, steps, failure = 60, 4, 0.2
    rest = np.cos(np.linspace(0, np.pi / 2, size - 1)) / growth(size, steps, failure)
    matrix = jnp.diag(jnp.asarray([1.0, *rest], jnp.float32))
    measure = metrics.attribution_deviation_bound(
        linear, epsilon=1.0, iterations=steps, level=1 - failure
    )
    keys = jax.random.split(jax.random.key(5), 2000)
    bounds = jax.vmap(measure, (0, None, None))(keys, jnp.ones(size), matrix)
    failed = float(jnp.mean(bounds.euclidean < 1))
    assert 0.05 < failed <= failure + 4 * np.sqrt(failure * (1 - failure) / 2000)
    assert float(jnp.max(bounds.attained)) <= 1 + 1e-5
    np.testing.assert_allclose(
        bounds.euclidean / bounds.attained, growth(size, steps, failure), rtol=1e-5
    )


@pytest.mark.parametrize("spectrum", ["zero", "rank two", "equal", "two equal"])
def test_when_the_space_is_spent(spectrum):
    """Lanczos breaks down before its last step, and says the same."""
    numbers = {
        "zero": np.zeros(9),
        "rank two": np.array([2.0, 1.0] + [0.0] * 7),
        "equal": np.full(9, 2.0),
        "two equal": np.array([2.0, 2.0] + [0.5] * 7),
    }[spectrum].astype(np.float32)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(9, 9)))[0].astype(np.float32)
    measure = metrics.attribution_deviation_bound(linear, epsilon=1.0, iterations=9)
    bound = measure(KEY, jnp.ones(9), jnp.asarray(turn * numbers))
    np.testing.assert_allclose(bound.attained, numbers.max(), rtol=1e-5)
    assert bool(bound.finite)


def test_the_cosine_against_points_of_the_ball(x64):
    """The map is linear, so the bound holds for every point; a large ball allows any angle."""
    random = np.random.default_rng(1)
    matrix, x = random.normal(size=(5, 5)), random.normal(size=5)
    bound = lambda epsilon: metrics.attribution_deviation_bound(linear, epsilon=epsilon)(
        KEY, x, matrix
    )
    delta = random.normal(size=(4000, 5))
    delta *= 0.2 / np.linalg.norm(delta, axis=1, keepdims=True)
    values, moved = matrix @ x, (x + delta) @ matrix.T
    cosines = moved @ values / np.linalg.norm(moved, axis=1) / np.linalg.norm(values)
    assert cosines.min() >= bound(0.2).cosine > -1
    sigma = np.linalg.svd(matrix, compute_uv=False)[0]
    assert bound(1.01 * np.linalg.norm(values) / sigma).cosine == -1
    assert bound(0.0).cosine == 1
    assert bound(0.0).euclidean == 0


def network(x, params):
    return jnp.sum(jnp.tanh(x @ params["w"]) * params["v"])


def networks(count, size=6):
    keys = jax.random.split(jax.random.key(7), 3)
    params = {
        "w": jax.random.normal(keys[0], (count, size, 10)),
        "v": jax.random.normal(keys[1], (count, 10)),
    }
    return jax.random.normal(keys[2], (count, size)), params


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_an_attack_stays_below_the_bound_and_comes_close(norm, x64):
    """Random smooth networks, and a ball so small that first order is all there is."""
    epsilon = 1e-5
    explain = paths.integrated_gradients(network, steps=12)
    measure = metrics.attribution_deviation_bound(explain, epsilon=epsilon, norm=norm)
    distance = lambda values, at_x: jnp.sum((values - at_x) ** 2) / epsilon**2
    attack = metrics.attribution_attack(
        explain, epsilon=epsilon, norm=norm, steps=40, step_size=10 * epsilon, objective=distance
    )
    x, params = networks(8)
    over = (None, 0, None, 0)
    bound = jax.vmap(measure, over)(KEY, x, jnp.zeros(6), params)
    found = jax.vmap(attack, over)(KEY, x, jnp.zeros(6), params)
    assert np.all(found.euclidean <= bound.euclidean * (1 + 1e-3))
    assert np.all(found.cosine >= bound.cosine - 1e-12)
    assert np.all(found.euclidean >= 0.9 * bound.attained)
    if norm == "l2":
        assert np.all(found.euclidean >= 0.99 * bound.euclidean)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_leaves_of_different_dtypes(norm):
    """J = diag(3, 3, -4), across a narrow and a wide leaf."""
    f = lambda x: 3 * jnp.sum(x["a"].astype(jnp.float32)) - 4 * x["b"]
    x = {"a": jnp.array([1.0, 2.0], jnp.bfloat16), "b": jnp.float32(0.5)}
    measure = metrics.attribution_deviation_bound(
        gradients.input_x_gradient(f), epsilon=0.5, norm=norm
    )
    bound = measure(KEY, x)
    worst = 0.5 * (4 if norm == "l2" else np.sqrt(9 + 9 + 16))
    np.testing.assert_allclose([bound.euclidean, bound.attained], worst, rtol=1e-2)
    assert bound.values["a"].dtype == jnp.bfloat16
    assert bound.euclidean.dtype == jnp.float32


def test_no_matrix_is_formed():
    """4,096 elements: the matrix would be 64 MiB."""
    size = 4096
    explain = gradients.input_x_gradient(lambda x: jnp.sum(jnp.tanh(x * jnp.roll(x, 1))))
    for norm in ("l2", "linf"):
        measure = metrics.attribution_deviation_bound(explain, epsilon=0.1, norm=norm, iterations=5)
        memory = jax.jit(measure).lower(KEY, jnp.ones(size)).compile().memory_analysis()
        assert memory.temp_size_in_bytes < 2 * 2**20


def test_epsilon_and_level_may_be_traced():
    x, matrix, _, _ = problem(0, 5)
    arguments = KEY, jnp.float32(x), jnp.zeros(5), jnp.float32(matrix)
    make = lambda e, level: metrics.attribution_deviation_bound(
        EXPLAIN, epsilon=e, level=level, iterations=2
    )(*arguments)
    swept = jax.jit(jax.vmap(make))(jnp.array([0.1, 0.2]), jnp.array([0.9, 0.99]))
    for k, (e, level) in enumerate([(0.1, 0.9), (0.2, 0.99)]):
        np.testing.assert_allclose(swept.euclidean[k], make(e, level).euclidean, rtol=1e-5)


def test_bad_calls():
    make = metrics.attribution_deviation_bound
    with pytest.raises(TypeError, match="explain must be a function, but is a int"):
        make(3, epsilon=0.1)
    with pytest.raises(ValueError, match="norm must be one of 'l2', 'linf', but is 'l1'"):
        make(EXPLAIN, epsilon=0.1, norm="l1")
    with pytest.raises(ValueError, match=r"epsilon must be finite and at least 0, but is -1\.0"):
        make(EXPLAIN, epsilon=-1.0)
    with pytest.raises(TypeError, match="epsilon must be one real number"):
        make(EXPLAIN, epsilon=np.ones(3))
    with pytest.raises(TypeError, match=r"epsilon must be one real number.*'small'"):
        make(EXPLAIN, epsilon="small")
    with pytest.raises(ValueError, match=r"level must be at least 0 and at most 1, but is 95"):
        make(EXPLAIN, epsilon=0.1, level=95)
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        make(EXPLAIN, epsilon=0.1, iterations=0)
    with pytest.raises(TypeError, match=r"typed key.*comes first"):
        make(linear, epsilon=0.1)(0, jnp.ones(3), jnp.eye(3))
    for result in (jnp.ones(3), {"values": jnp.ones(3)}):
        with pytest.raises(TypeError, match="result with a field `values`"):
            make(lambda x, r=result: r, epsilon=0.1)(KEY, jnp.ones(3))
    with pytest.raises(TypeError, match="`values` of what explain returns must be float"):
        make(lambda x: Values(jnp.arange(3)), epsilon=0.1)(KEY, jnp.ones(3))


def test_the_tolerance_form_is_named():
    explain = paths.integrated_gradients(lambda x: jnp.sum(jnp.tanh(x)), tolerance=0.1)
    with pytest.raises(ValueError, match=r"Give it `steps=` in place of `tolerance=`"):
        metrics.attribution_deviation_bound(explain, epsilon=0.1)(KEY, jnp.ones(3), jnp.zeros(3))
