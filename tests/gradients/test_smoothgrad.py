"""SmoothGrad, its square and VarGrad: closed forms on a quadratic function, and a slow twin.

For f(z) = z'Az/2 the gradient under noise, A (x + s e), is normal with mean Ax and variances
s^2 sum_j A_ij^2.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxplain
from jaxplain import gradients, noise, paths

KEY = jax.random.key(5)
MATRIX = np.array([[2.0, -1.0, 0.5], [-1.0, 1.0, 0.0], [0.5, 0.0, -1.5]], np.float32)
X = np.array([1.0, -0.5, 2.0], np.float32)
METHODS = {
    "smoothgrad": gradients.smoothgrad,
    "smoothgrad_squared": gradients.smoothgrad_squared,
    "vargrad": gradients.vargrad,
}
methods = pytest.mark.parametrize("name", METHODS)


def quadratic(z, matrix):
    return jnp.dot(z, jnp.dot(matrix, z)) / 2


def quartic(z, matrix):
    return jnp.sum(jnp.dot(matrix, z) ** 4)


def true_values(name, deviation):
    mean, variance = MATRIX @ X, deviation**2 * (MATRIX**2).sum(1)
    return {"smoothgrad": mean, "smoothgrad_squared": mean**2 + variance, "vargrad": variance}[name]


def true_variance(name, deviation, n):
    """Of the estimate, for normal samples."""
    mean, variance = MATRIX @ X, deviation**2 * (MATRIX**2).sum(1)
    return {
        "smoothgrad": variance / n,
        "smoothgrad_squared": (2 * variance**2 + 4 * mean**2 * variance) / n,
        "vargrad": 2 * variance**2 / (n - 1),
    }[name]


@methods
@pytest.mark.parametrize(("level", "relative"), [(0.4, False), (0.2, True)])
def test_closed_forms_of_the_values_and_of_their_errors(name, level, relative):
    deviation = 2.5 * level if relative else level  # X spans 2.5
    explain = METHODS[name](quadratic, samples=40, noise=level, relative=relative)
    keys = jax.random.split(KEY, 2000)
    result = jax.jit(jax.vmap(explain, (0, None, None)))(keys, X, MATRIX)
    error = np.asarray(result.values) - true_values(name, deviation)
    assert (np.abs(error.mean(0)) < 4 * error.std(0) / 2000**0.5).all()
    expected = true_variance(name, deviation, 40)
    # The mean of 2,000 squares of errors is within some 10 %, that of the estimates is closer.
    np.testing.assert_allclose((error**2).mean(0), expected, rtol=0.15)
    np.testing.assert_allclose(np.mean(result.standard_error**2, axis=0), expected, rtol=0.06)


def weighted_gradient(f):
    """Not linear in the gradient, so that no closed form hides a mistake."""
    return jaxplain.input_x_gradient(f)


@methods
@pytest.mark.parametrize("samples", [2, 3, 17])
@pytest.mark.parametrize("chunk_size", [1, 5, 16])
def test_a_slow_twin(name, samples, chunk_size):
    """The same noise, one copy after the other, in numpy float64 with the textbook's formulas."""
    copies = [
        np.asarray(
            noise.add_noise(jax.random.fold_in(KEY, k), jnp.asarray(X), 0.1, relative=True),
            np.float64,
        )
        for k in range(samples)
    ]
    matrix = MATRIX.astype(np.float64)
    gradient = lambda z: matrix.T @ (4 * (matrix @ z) ** 3)
    y = np.array([z * gradient(z) for z in copies])
    n = samples
    if name == "smoothgrad":
        values, variance = y.mean(0), y.var(0, ddof=1) / n
    elif name == "smoothgrad_squared":
        values, variance = (y**2).mean(0), (y**2).var(0, ddof=1) / n
    else:
        values = y.var(0, ddof=1)
        if n < 4:
            variance = np.full(3, np.nan)
        else:
            k4 = scipy.stats.kstat(y, 4, axis=0)
            variance = np.maximum(2 * n * values**2 + (n - 1) * k4, 0) / (n * (n + 1))
    explain = METHODS[name](
        quartic, around=weighted_gradient, samples=n, noise=0.1, chunk_size=chunk_size
    )
    result = explain(KEY, X, MATRIX)
    largest = np.abs(values).max()
    np.testing.assert_allclose(result.values, values, atol=2e-5 * largest)
    largest = np.nan_to_num(variance).max() ** 0.5
    np.testing.assert_allclose(result.standard_error, variance**0.5, atol=3e-4 * largest)
    np.testing.assert_allclose(result.output, np.sum((matrix @ X.astype(float)) ** 4), rtol=1e-5)
    assert int(result.samples) == n


@methods
def test_around_a_path_the_baseline_passes_through(name):
    """Integrated Gradients of a quadratic is a closed form too: (x - b) * A (x + b) / 2."""
    baseline = np.array([0.5, 0.0, -1.0], np.float32)
    around = functools.partial(jaxplain.integrated_gradients, steps=3)
    explain = METHODS[name](
        quadratic, around=around, samples=12, noise=0.3, relative=False, chunk_size=4
    )
    result = explain(KEY, X, baseline, MATRIX)
    y = []
    for k in range(12):
        z = noise.add_noise(jax.random.fold_in(KEY, k), jnp.asarray(X), 0.3, relative=False)
        z = np.asarray(z, np.float64)
        y.append((z - baseline) * (MATRIX @ (z + baseline)) / 2)
    y = np.array(y)
    expected = {
        "smoothgrad": y.mean(0), "smoothgrad_squared": (y**2).mean(0), "vargrad": y.var(0, ddof=1)
    }[name]  # fmt: skip
    np.testing.assert_allclose(result.values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.output, X @ MATRIX @ X / 2, rtol=1e-5)


def test_around_a_tolerance():
    around = functools.partial(jaxplain.integrated_gradients, tolerance=0.1, max_steps=65)
    result = gradients.smoothgrad(quadratic, around=around, samples=4, noise=0.0)(
        KEY, X, np.zeros(3, np.float32), MATRIX
    )
    np.testing.assert_allclose(result.values, X * (MATRIX @ X) / 2, rtol=1e-4, atol=1e-5)


@methods
def test_axioms(name):
    """Linearity (of the mean), dummy, and what is linear has no spread."""
    explain = METHODS[name](quadratic, samples=8)
    blind = MATRIX * np.outer([1, 0, 1], [1, 0, 1]).astype(np.float32)
    result = explain(KEY, X, blind)
    assert float(result.values[1]) == 0
    assert float(result.standard_error[1]) == 0
    linear = METHODS[name](lambda z, row: jnp.dot(z, row), samples=8)(KEY, X, MATRIX[0])
    row = MATRIX[0]
    expected = {"smoothgrad": row, "smoothgrad_squared": row**2, "vargrad": 0 * row}[name]
    np.testing.assert_array_equal(linear.values, expected)
    np.testing.assert_array_equal(linear.standard_error, np.zeros(3))
    if name == "smoothgrad":
        both = METHODS[name](lambda z, m: quartic(z, m) - 2 * quadratic(z, m), samples=8)
        of_quartic = METHODS[name](quartic, samples=8)(KEY, X, MATRIX).values
        of_quadratic = METHODS[name](quadratic, samples=8)(KEY, X, MATRIX).values
        combined = both(KEY, X, MATRIX).values
        np.testing.assert_allclose(combined, of_quartic - 2 * of_quadratic, rtol=1e-4)


def test_the_range_is_that_of_each_leaf():
    """The gradient of z^2/2 is z itself: its variance is that of the noise."""
    x = {"pixels": jnp.array([0.0, 10.0]), "volts": jnp.array([[0.0, 0.1]]), "flat": jnp.ones(2)}
    f = lambda z: sum(jnp.sum(leaf**2) / 2 for leaf in jax.tree.leaves(z))
    result = gradients.vargrad(f, samples=4000, noise=0.1)(KEY, x)
    for name, deviation in {"pixels": 1.0, "volts": 0.01, "flat": 0.0}.items():
        np.testing.assert_allclose(result.values[name], deviation**2, rtol=0.1)
    correlation = gradients.smoothgrad(f, samples=1, noise=0.1)(KEY, x).values
    assert len({float(v) for leaf in jax.tree.leaves(correlation) for v in leaf.ravel()}) >= 5


def test_training_through_a_dead_feature_stays_finite():
    for method in METHODS.values():
        explain = method(quadratic, samples=6)

        def loss(matrix, explain=explain):
            result = explain(KEY, X, matrix)
            return jnp.sum(result.values) + jnp.sum(result.standard_error)

        blind = MATRIX * np.outer([1, 0, 1], [1, 0, 1]).astype(np.float32)
        assert np.isfinite(jax.jit(jax.grad(loss))(jnp.asarray(blind))).all()


def test_keys():
    explain = gradients.smoothgrad(quadratic, samples=4)
    first, again, other = (explain(jax.random.key(k), X, MATRIX).values for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    with pytest.raises(TypeError, match="typed key"):
        explain(X, MATRIX)


def test_what_takes_a_key_is_refused_and_the_signature_is_that_of_what_is_smoothed():
    with pytest.raises(ValueError, match=r"it takes a key.*gradient_shap"):
        gradients.smoothgrad(quadratic, around=paths.expected_gradients)
    of = lambda **options: list(
        inspect.signature(gradients.smoothgrad(quadratic, **options)).parameters
    )
    assert of() == ["key", "x", "args"]
    assert of(around=jaxplain.integrated_gradients) == ["key", "x", "baseline", "args"]


def test_bad_input():
    with pytest.raises(TypeError, match="around must be a function"):
        gradients.smoothgrad(quadratic, around="saliency")
    with pytest.raises(TypeError, match=r"what around.f. returns must be a function"):
        gradients.smoothgrad(quadratic, around=lambda f: 3)
    with pytest.raises(TypeError, match="results have values and an output"):
        gradients.smoothgrad(quadratic, around=lambda f: lambda x, *args: x)(KEY, X, MATRIX)
    for method, fewest in ((gradients.smoothgrad, 1), (gradients.vargrad, 2)):
        with pytest.raises(ValueError, match=f"samples must be at least {fewest}"):
            method(quadratic, samples=fewest - 1)
    with pytest.raises(ValueError, match="noise must be finite and at least 0"):
        gradients.smoothgrad(quadratic, noise=-1)
