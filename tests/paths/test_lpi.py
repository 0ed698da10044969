"""Local Path Integration: the neighbourhood by brute force, the mean in closed form.

For f(z) = sum_i c_i z_i^2 the integral from b to x is c_i (x_i^2 - b_i^2).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths

GENERATOR = np.random.default_rng(3)
BASELINES = GENERATOR.normal(size=(30, 4)).astype(np.float32)
X = GENERATOR.normal(size=4).astype(np.float32)
SCALE = np.array([1.0, -2.0, 0.5, 3.0], np.float32)
KEY = jax.random.key(8)


def f(z, scale):
    return jnp.sum(scale * z**2)


def represent(z, scale):
    """Not the geometry of the input: directions, and only three of four."""
    return {"a": jnp.tanh(3 * z[:2]), "b": scale[0] * z[3] ** 2}


def nearest(count, representation):
    if representation is None:
        apart = BASELINES - X
    else:
        wide = lambda z: np.array([*np.tanh(3 * z[:2]), SCALE[0] * z[3] ** 2])
        apart = np.array([wide(b) - wide(X) for b in BASELINES.astype(np.float64)])
    return np.argsort((apart**2).sum(1))[:count]


@pytest.mark.parametrize("positions", ["random", "stratified", "qmc"])
@pytest.mark.parametrize("representation", [None, represent])
@pytest.mark.parametrize("density", [None, np.arange(1.0, 31.0).astype(np.float32)])
def test_the_weighted_mean_over_the_neighbourhood(positions, representation, density):
    chosen = nearest(6, representation)
    weights = np.ones(6) if density is None else density[chosen].astype(np.float64)
    weights = weights / weights.sum()
    square = lambda z: SCALE * z.astype(np.float64) ** 2
    values = square(X) - weights @ square(BASELINES[chosen])
    kernel = paths.lpi(
        f,
        neighbours=6,
        representation=representation,
        density=density,
        samples=60,
        positions=positions,
    )
    keys = jax.random.split(KEY, 300)
    result = jax.vmap(kernel, (0, None, None, None))(keys, X, BASELINES, SCALE)
    error = np.asarray(result.values) - values
    assert (np.abs(error.mean(0)) < 4 * error.std(0) / 300**0.5 + 1e-6).all()
    ratio = np.mean(result.standard_error**2, axis=0) / (error**2).mean(0)
    assert (np.abs(ratio - 1) < 0.4).all()
    np.testing.assert_allclose(
        result.baseline_output, weights @ square(BASELINES[chosen]).sum(1), rtol=1e-5
    )
    assert (np.abs(result.completeness_gap) <= 6 * result.gap_error + 1e-5).mean() > 0.98


def test_more_neighbours_than_baselines_are_all_of_them():
    """A function that is linear is integrated exactly, so that the draws do not matter."""
    linear = lambda z, scale: jnp.dot(z, scale)
    local = paths.lpi(linear, neighbours=99, samples=240)(KEY, X, BASELINES, SCALE)
    np.testing.assert_allclose(local.values, SCALE * (X - BASELINES.mean(0)), atol=1e-5)
    few = paths.lpi(linear, neighbours=1, samples=16)(KEY, X, BASELINES, SCALE)
    np.testing.assert_allclose(few.values, SCALE * (X - BASELINES[nearest(1, None)[0]]), atol=1e-6)


def test_what_is_not_near_does_not_matter_but_for_being_a_number():
    near = nearest(5, None)
    others = np.array([k for k in range(30) if k not in near])
    explain = paths.lpi(f, neighbours=5, samples=20)
    first = explain(KEY, X, BASELINES, SCALE)
    moved = BASELINES.copy()
    moved[others] += 50
    np.testing.assert_array_equal(explain(KEY, X, moved, SCALE).values, first.values)
    moved[others[3], 1] = np.nan
    result = explain(KEY, X, moved, SCALE)
    np.testing.assert_array_equal(result.values, first.values)
    assert bool(first.finite)
    assert not bool(result.finite)


def test_dummy_is_exactly_zero():
    blind = SCALE * np.array([1, 0, 1, 1], np.float32)
    result = paths.lpi(f, neighbours=5, samples=20)(KEY, X, BASELINES, blind)
    assert float(result.values[1]) == 0
    assert float(result.standard_error[1]) == 0


def test_bad_input():
    with pytest.raises(ValueError, match="neighbours must be at least 1"):
        paths.lpi(f, neighbours=0)
    with pytest.raises(TypeError, match="representation must be a function"):
        paths.lpi(f, representation="logits")
    with pytest.raises(
        ValueError, match=r"density must have one number for each baseline, shape \(30,\)"
    ):
        paths.lpi(f, density=np.ones(3, np.float32))(KEY, X, BASELINES, SCALE)
    with pytest.raises(TypeError, match="density must be an array"):
        paths.lpi(f, density="uniform")
    with pytest.raises(TypeError, match="typed key"):
        paths.lpi(f)(X, BASELINES, SCALE)
