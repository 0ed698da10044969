"""Checks of a baseline and a path: closed forms, a numpy twin, rounding, bad paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import metrics


def quadratic(x):
    return jnp.sum(x**2) / 2


def test_the_straight_line_in_closed_form(x64):
    """The gradient is the point itself, so the norms are those of the points on the line."""
    x, baseline = np.array([3.0, 0.0, 1.0, 1.0]), np.array([1.0, 0.0, 1.01, 0.5])
    result = metrics.baseline_desiderata(quadratic, steps=10)(x, baseline)
    points = baseline + np.linspace(0, 1, 11)[:, None] * (x - baseline)
    sizes = np.linalg.norm(points, axis=1)
    np.testing.assert_allclose(result.baseline_sensitivity, sizes[0], rtol=1e-12)
    np.testing.assert_allclose(result.relative_sensitivity, sizes[0] / sizes.mean(), rtol=1e-12)
    assert float(result.differing) == 0.5, "0.01 is within the margin of 5 / 255"
    assert result.values.tolist() == [0, 0, 0, 0]
    outcome = result.unordered, result.unordered_steps, result.output_outside
    assert [float(number) for number in outcome] == [0, 0, 0]
    np.testing.assert_allclose(result.output, quadratic(x), rtol=1e-14)
    np.testing.assert_allclose(result.baseline_output, quadratic(baseline), rtol=1e-14)
    zero = metrics.baseline_desiderata(quadratic)(x, np.zeros(4))
    assert float(zero.relative_sensitivity) == 0
    flat = metrics.baseline_desiderata(lambda x: jnp.sum(0 * x))(x, baseline)
    assert np.isnan(flat.relative_sensitivity)


def test_a_curved_path_against_numpy(x64):
    """Element by element and step by step, by hand, on paths that wind."""
    random = np.random.default_rng(0)
    steps = 12

    def path(t, x, baseline):
        wave = jnp.arange(6.0) / 5  # the first element goes straight, the last one winds
        return baseline + t * (x - baseline) + wave * jnp.sin(2 * np.pi * t) * (x - baseline + 0.3)

    check = metrics.baseline_desiderata(lambda x: jnp.sum(jnp.cos(x)), path=path, steps=steps)
    for _ in range(3):
        x, baseline = random.normal(size=(2, 6))
        baseline[5] = x[5]
        result = check(x, baseline)
        points = np.array([path(t, x, baseline) for t in np.linspace(0, 1, steps + 1)])
        low, high = np.minimum(x, baseline), np.maximum(x, baseline)
        unordered = np.zeros((steps, 6), bool)
        for k in range(steps):
            for i in range(6):
                after, before = points[k + 1, i], points[k, i]
                leaves = after < low[i] - 1e-14 or after > high[i] + 1e-14
                back = (after - before) * np.sign(x[i] - baseline[i]) < -1e-14
                unordered[k, i] = leaves or back
        assert 0 < unordered.mean() < 1
        np.testing.assert_allclose(result.values, unordered.mean(0), rtol=1e-12)
        np.testing.assert_allclose(result.unordered, unordered.mean(), rtol=1e-12)
        np.testing.assert_allclose(result.unordered_steps, unordered.any(1).mean(), rtol=1e-12)
        outputs = np.cos(points).sum(1)
        ends = np.sort(outputs[[0, -1]])
        outside = (outputs < ends[0] - 1e-13) | (outputs > ends[1] + 1e-13)
        np.testing.assert_allclose(result.output_outside, outside.mean(), rtol=1e-12)
        sizes = np.linalg.norm(np.sin(points), axis=1)
        np.testing.assert_allclose(result.relative_sensitivity, sizes[0] / sizes.mean(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rounding_on_a_straight_line_is_no_disorder(dtype):
    """4,000 elements of all sizes, many of them close to their baselines."""
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (4000,)) * 10 ** jax.random.uniform(keys[1], (4000,), minval=-6)
    x = x.astype(dtype)
    near = x.astype(jnp.float32) * (1 + 1e-3 * jax.random.normal(keys[2], (4000,)))
    for baseline in (jnp.zeros_like(x), near.astype(dtype), x[::-1]):
        result = metrics.baseline_desiderata(quadratic, steps=33)(x, baseline)
        assert float(result.unordered_steps) == 0


def test_margin_may_be_traced_and_is_inclusive():
    x, baseline = jnp.array([1.0, 2.0, 4.0]), jnp.zeros(3)
    measure = lambda margin: metrics.baseline_desiderata(quadratic, margin=margin, steps=1)(
        x, baseline
    )
    shares = jax.jit(jax.vmap(measure))(jnp.array([0.5, 2.0, 5.0])).differing
    np.testing.assert_allclose(shares, [1, 2 / 3, 0], rtol=1e-6)


def test_bad_calls():
    make, x = metrics.baseline_desiderata, jnp.ones(3)
    with pytest.raises(TypeError, match="path must be a function, but is a str"):
        make(quadratic, path="blur")
    with pytest.raises(ValueError, match="margin must be finite and at least"):
        make(quadratic, margin=-1.0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        make(quadratic, steps=0)
    with pytest.raises(ValueError, match=r"point that path returns must have the shape of x"):
        make(quadratic, path=lambda t, x, b: x[:2])(x, x)
    with pytest.raises(ValueError, match="point that path returns must be the same tree as x"):
        make(quadratic, path=lambda t, x, b: (x, b))(x, x)
