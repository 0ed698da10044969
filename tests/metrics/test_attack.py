"""The attack on an attribution: a numpy twin, points known beforehand, chance, ranks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxplain import metrics, paths
from jaxplain.metrics import _attack, _similarity

KEY = jax.random.key(0)


class Values(NamedTuple):
    values: Any


def quadratic(x, matrix):
    return jnp.dot(x, matrix @ x) / 2


EXPLAIN = paths.integrated_gradients(quadratic, steps=2)


def numpy_attack(x, matrix, *, epsilon, norm, steps, step_size, top, keeps):
    """Algorithm 1 for the quadratic: values x_i (Q x)_i / 2, with its gradient by hand."""
    values = lambda z: z * (matrix @ z) / 2
    jacobian = lambda z: (np.diag(matrix @ z) + z[:, None] * matrix) / 2
    chosen = np.zeros(x.size, bool)
    chosen[np.argsort(-np.abs(values(x)), kind="stable")[:top]] = True

    def score(z):
        return -np.abs(values(z))[chosen].sum() / np.abs(values(z)).sum()

    def gradient(z):
        v = values(z)
        size = np.abs(v).sum()
        by_values = -np.sign(v) * chosen / size + np.sign(v) * np.abs(v)[chosen].sum() / size**2
        return jacobian(z).T @ by_values

    delta, best, best_score = np.zeros(x.size), x, score(x)
    for _ in range(steps + 1):
        z = x + delta
        if keeps(z) == keeps(x) and score(z) > best_score:
            best, best_score = z, score(z)
        g = gradient(z)
        if norm == "linf":
            delta = np.clip(delta + step_size * np.sign(g), -epsilon, epsilon)
        else:
            delta = delta + step_size * g / np.linalg.norm(g)
            delta = delta * min(1, epsilon / np.linalg.norm(delta))
    return best, values(best), values(x), chosen


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_against_numpy(norm, x64):
    options = {"epsilon": 0.4, "norm": norm, "steps": 9, "top": 3}
    explain = jax.vmap(
        metrics.attribution_attack(
            EXPLAIN,
            **options,
            prediction=lambda x, baseline, matrix: jnp.sum(x) > 0,
            random_start=False,
        ),
        (None, 0, None, 0),
    )
    random = np.random.default_rng(0)
    matrix, x = random.normal(size=(12, 8, 8)), random.normal(size=(12, 8))
    matrix = matrix + np.swapaxes(matrix, 1, 2)
    x[:, 0] -= x.sum(1) - 0.3  # near the boundary: some steps change the prediction
    found = explain(KEY, x, np.zeros(8), matrix)
    for k in range(12):
        best, after, before, chosen = numpy_attack(
            x[k], matrix[k], **options, step_size=2.5 * 0.4 / 9, keeps=lambda z: z.sum() > 0
        )
        np.testing.assert_allclose(found.perturbed[k], best, atol=1e-10)
        np.testing.assert_allclose(found.values[k], after, atol=1e-10)
        np.testing.assert_allclose(found.euclidean[k], np.linalg.norm(after - before), atol=1e-10)
        cosine = after @ before / np.linalg.norm(after) / np.linalg.norm(before)
        np.testing.assert_allclose(found.cosine[k], cosine, atol=1e-10)
        still = np.argsort(-np.abs(after), kind="stable")[:3]
        np.testing.assert_allclose(found.top_intersection[k], chosen[still].mean(), atol=1e-7)
        rank = scipy.stats.spearmanr(np.abs(after), np.abs(before)).statistic
        np.testing.assert_allclose(found.rank_correlation[k], rank, atol=1e-10)
        size = np.linalg.norm(best - x[k], ord=2 if norm == "l2" else np.inf)
        np.testing.assert_allclose(found.distance[k], size, atol=1e-10)
        assert bool(found.moved[k]) == (size > 0)
    assert found.perturbed.sum(1).min() > 0, "the prediction is kept"
    assert bool(jnp.all(found.distance <= 0.4 * (1 + 1e-12)))


def network(x, params):
    return jnp.sum(jax.nn.softplus(x @ params["w"]) * params["v"])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_it_moves_the_map_more_than_noise_does(norm):
    """Against the best of 200 points on the edge of the same ball, in what it aims at."""
    size, count, epsilon = 20, 6, 0.2
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "w": jax.random.normal(keys[0], (count, size, 16)),
        "v": jax.random.normal(keys[1], (count, 16)),
    }
    x = jax.random.normal(keys[2], (count, size))
    explain = paths.integrated_gradients(network, steps=8)
    attack = metrics.attribution_attack(explain, epsilon=epsilon, norm=norm, steps=15, top=5)
    found = jax.vmap(attack, (None, 0, None, 0))(KEY, x, jnp.zeros(size), params)
    noise = jax.random.normal(keys[3], (200, size))
    if norm == "linf":
        noise = jnp.sign(noise)
    else:
        noise = noise / jnp.linalg.norm(noise, axis=1, keepdims=True)
    values = lambda x, params: jnp.abs(explain(x, jnp.zeros(size), params).values)
    at_x = jax.vmap(values)(x, params)
    moved = jax.vmap(lambda x, p: jax.vmap(lambda n: values(x + epsilon * n, p))(noise))(x, params)
    top = jnp.argsort(-at_x, axis=1)[:, :5]
    mass = lambda v, t: v[..., t].sum(-1) / v.sum(-1)
    by_noise = jax.vmap(mass)(moved, top)
    assert bool(jnp.all(jax.vmap(mass)(jnp.abs(found.values), top) < by_noise.min(axis=1)))
    kept = jax.vmap(lambda v, t: jnp.isin(jnp.argsort(-v, axis=1)[:, :5], t).mean(1))(moved, top)
    assert float(found.top_intersection.mean()) < float(kept.mean())


def test_a_prediction_that_never_holds_leaves_x():
    attack = metrics.attribution_attack(
        EXPLAIN, epsilon=0.1, prediction=lambda x, *_: {"all of it": x}, random_start=False
    )
    x = jnp.array([1.0, 2.0, -1.0])
    found = attack(KEY, x, jnp.zeros(3), jnp.eye(3) + 1)
    np.testing.assert_array_equal(found.perturbed, x)
    assert not bool(found.moved)
    assert float(found.euclidean) == 0
    assert float(found.top_intersection) == 1
    np.testing.assert_allclose([found.cosine, found.rank_correlation], 1, rtol=1e-6)


def test_an_objective_of_ones_own(x64):
    """A linear map and its squared distance: a long step is the power method, so the top is met."""
    matrix = np.random.default_rng(2).normal(size=(5, 5))
    attack = metrics.attribution_attack(
        lambda x, m: Values(m @ x),
        epsilon=0.3,
        norm="l2",
        steps=100,
        step_size=100.0,
        objective=lambda values, at_x: jnp.sum((values - at_x) ** 2),
    )
    found = attack(KEY, np.ones(5), matrix)
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    np.testing.assert_allclose(found.euclidean, 0.3 * largest, rtol=1e-6)


def test_signed_importance():
    """With absolute=False the top element is the one of the largest value, not magnitude."""
    explain = lambda x: Values(x)
    attack = lambda absolute: metrics.attribution_attack(
        explain, epsilon=0.5, top=1, absolute=absolute, random_start=False
    )(KEY, jnp.array([2.0, -3.0, 1.0]))
    assert attack(False).perturbed[0] == 1.5
    assert attack(True).perturbed[1] == -2.5


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_start_is_uniform_in_the_ball(norm):
    """The share of the ball within the point's own radius is uniform on [0, 1]; both leaves."""
    like = {"a": jnp.zeros((2, 1)), "b": jnp.zeros(())}
    keys = jax.random.split(KEY, 1000)
    points = jax.vmap(lambda k: _attack._random(k, like, jnp.float32(0.5), norm))(keys)
    flat = np.concatenate([points["a"][..., 0], points["b"][:, None]], axis=1)
    size = np.linalg.norm(flat, axis=1, ord=2 if norm == "l2" else np.inf)
    assert scipy.stats.kstest((size / 0.5) ** 3, "uniform").pvalue > 1e-3
    assert np.abs(flat.mean(0)).max() < 4 * 0.5 / np.sqrt(1000)


def test_ranks_with_ties_are_scipys():
    random = np.random.default_rng(0)
    pairs = random.integers(0, 4, size=(20, 2, 15)).astype(np.float32)
    split = lambda v: {"x": v[:5], "y": v[5:]}
    correlation = lambda p: _similarity.rank_correlation(split(p[0]), split(p[1]))
    expected = [scipy.stats.spearmanr(*pair).statistic for pair in pairs]
    np.testing.assert_allclose(jax.jit(jax.vmap(correlation))(pairs), expected, atol=1e-6)
    assert np.isnan(_similarity.rank_correlation(jnp.ones(4), jnp.arange(4.0)))
    assert np.isnan(_similarity.rank_correlation(jnp.array([1.0, jnp.nan]), jnp.arange(2.0)))
    assert np.isnan(_similarity.cosine(jnp.zeros(3), jnp.ones(3)))


def test_bad_calls():
    make = metrics.attribution_attack
    x = jnp.ones(3)
    with pytest.raises(ValueError, match=r"above 0 and at most 1, but is 1\.5"):
        make(EXPLAIN, epsilon=0.1, top=1.5)
    with pytest.raises(ValueError, match="top must be at least 1, but is 0"):
        make(EXPLAIN, epsilon=0.1, top=0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        make(EXPLAIN, epsilon=0.1, steps=0)
    with pytest.raises(ValueError, match="norm must be one of"):
        make(EXPLAIN, epsilon=0.1, norm=2)
    with pytest.raises(ValueError, match=r"step_size must be finite and at least 0"):
        make(EXPLAIN, epsilon=0.1, step_size=-1)
    with pytest.raises(TypeError, match="objective, where it is not None, must be a function"):
        make(EXPLAIN, epsilon=0.1, objective=1)
    with pytest.raises(TypeError, match="prediction, where it is not None, must be a function"):
        make(EXPLAIN, epsilon=0.1, prediction="class")
    with pytest.raises(ValueError, match=r"objective must return a scalar, but returned \(3,\)"):
        make(lambda x: Values(x), epsilon=0.1, objective=lambda v, _: v)(KEY, x)
    with pytest.raises(ValueError, match=r"`values` of what explain returns must have the shape"):
        make(lambda x: Values(x[:2]), epsilon=0.1)(KEY, x)
    with pytest.raises(ValueError, match="at least one element"):
        make(lambda x: Values(x), epsilon=0.1)(KEY, x[:0])


def test_the_tolerance_form_is_named():
    explain = paths.integrated_gradients(lambda x: jnp.sum(jnp.tanh(x)), tolerance=0.1)
    with pytest.raises(ValueError, match=r"Give it `steps=` in place of `tolerance=`"):
        metrics.attribution_attack(explain, epsilon=0.1)(KEY, jnp.ones(3), jnp.zeros(3))
