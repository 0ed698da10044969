"""GradientSHAP on a quadratic function, whose mean over baselines, positions, noise is known.

For f(z) = z'Az/2 with A symmetric, and x' = x + s e:

    E[ (x' - b)_i (A (b + t (x' - b)))_i ] = mean_b (x - b)_i (A (x + b))_i / 2 + s^2 A_ii / 2
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths

MATRIX = np.array([[2.0, -1.0, 0.5], [-1.0, 1.0, 0.0], [0.5, 0.0, -1.5]])
X = np.array([1.0, -0.5, 2.0])
BASELINES = np.array([[0.0, 0.0, 0.0], [0.5, 1.0, -1.0], [-1.0, 0.3, 0.2], [0.2, 0.1, 0.7]])


def quadratic(z, matrix):
    return jnp.dot(z, jnp.dot(matrix, z)) / 2


def truth(deviation):
    path = (X - BASELINES) * ((X + BASELINES) @ MATRIX) / 2
    return path.mean(0) + deviation**2 * np.diag(MATRIX) / 2


def explain(seeds, **options):
    kernel = paths.gradient_shap(quadratic, **options)
    keys = jax.random.split(jax.random.key(4), seeds)
    narrow = lambda array: jnp.asarray(array, jnp.float32)
    return jax.jit(jax.vmap(kernel, (0, None, None, None)))(
        keys, narrow(X), narrow(BASELINES), narrow(MATRIX)
    )


@pytest.mark.parametrize("positions", ["random", "stratified", "qmc"])
@pytest.mark.parametrize(("noise", "relative"), [(0.4, False), (0.2, True)])
def test_the_mean_is_the_true_one_and_the_error_is_the_error(positions, noise, relative):
    deviation = noise * 2.5 if relative else noise  # X spans 2.5
    result = explain(500, samples=48, noise=noise, relative=relative, positions=positions)
    error = np.asarray(result.values) - truth(deviation)
    assert (np.abs(error.mean(0)) < 4 * error.std(0) / 500**0.5).all()
    # Two estimates of the same variance, from 500 runs each.
    ratio = np.mean(result.standard_error**2, axis=0) / (error**2).mean(0)
    assert (np.abs(ratio - 1) < 0.35).all()
    # The gap holds what the noise does to f: E f(x') - f(x) = s^2 trace(A) / 2.
    gap = np.asarray(result.completeness_gap) - deviation**2 * np.trace(MATRIX) / 2
    assert abs(gap.mean()) < 4 * gap.std() / 500**0.5


def test_without_noise_it_is_expected_gradients():
    arguments = [jnp.asarray(a, jnp.float32) for a in (X, BASELINES, MATRIX)]
    key = jax.random.key(2)
    for positions in ("random", "stratified"):
        smooth = paths.gradient_shap(quadratic, samples=24, noise=0.0, positions=positions)
        plain = paths.expected_gradients(quadratic, samples=24, positions=positions)
        got, expected = smooth(key, *arguments), plain(key, *arguments)
        np.testing.assert_allclose(got.values, expected.values, rtol=1e-6)
        np.testing.assert_allclose(got.standard_error, expected.standard_error, rtol=1e-5)


def test_noise_may_be_traced():
    arguments = [jnp.asarray(a, jnp.float32) for a in (X, BASELINES, MATRIX)]
    traces = []

    @jax.jit
    def swept(noise):
        traces.append(1)
        return paths.gradient_shap(quadratic, samples=16, noise=noise)(
            jax.random.key(0), *arguments
        ).values

    first, second = swept(0.1), swept(0.3)
    assert len(traces) == 1
    assert np.abs(first - second).max() > 1e-3


def test_bad_noise():
    for noise, error in (("a", TypeError), (True, TypeError), (jnp.ones(2), TypeError),
                         (1j, TypeError), (-0.1, ValueError), (jnp.nan, ValueError)):  # fmt: skip
        with pytest.raises(error, match="noise must be"):
            paths.gradient_shap(quadratic, noise=noise)
