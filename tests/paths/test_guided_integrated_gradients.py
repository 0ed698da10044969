"""Guided Integrated Gradients: a slow twin in numpy, closed forms, and what the walk promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths
from jaxplain.paths import guided_integrated_gradients, integrated_gradients


def twin(gradient, x, baseline, steps, fraction, max_distance):
    """The method with points for a state, a sort for a quantile, and a loop until a step is done.

    Returns the values and the points of the path.
    """
    shape = x.shape
    x, b = np.ravel(x), np.ravel(baseline)
    point, values, path = b.copy(), np.zeros(x.size), [b.copy()]
    whole = np.abs(x - b).sum()
    place = int(np.floor(fraction * (x.size - 1)))
    for k in range(steps):
        g = np.ravel(gradient(point.reshape(shape)))
        t = (k + 1) / steps
        low = b + (x - b) * max(t - max_distance, 0)
        cap = b + (x - b) * min(t + max_distance, 1)
        before = point.copy()
        behind = np.abs(point - b) < np.abs(low - b)
        point[behind] = low[behind]
        for _ in range(x.size + 1):
            missing = np.abs(x - point).sum() - whole * (1 - t)
            if missing <= 1e-13 * whole:
                break
            size = np.where(point == cap, np.inf, np.abs(g))
            chosen = (size <= np.sort(size)[place]) & (size < np.inf)
            reach = np.abs(cap - point)[chosen].sum()
            if reach == 0:
                break
            if reach < missing:
                point[chosen] = cap[chosen]
            else:
                point[chosen] += missing / reach * (cap - point)[chosen]
                break
        else:
            raise AssertionError("the step did not reach its distance")
        values += (point - before) * g
        path.append(point.copy())
    return values.reshape(shape), np.array(path)


def quadratic(matrix):
    return lambda x: 0.5 * x @ matrix @ x


@pytest.mark.pins
@pytest.mark.parametrize(
    ("fraction", "max_distance"), [(0.25, 0.02), (0.25, 1.0), (0.1, 0.3), (0.6, 0.1), (1e-3, 0.5)]
)
def test_the_twin_agrees(classifier, close, fraction, max_distance):
    c = classifier
    baseline = np.zeros(c.x.shape)
    baseline[..., :2] = c.x[..., :2]  # equal in both
    explain = guided_integrated_gradients(
        c.score, steps=25, fraction=fraction, max_distance=max_distance
    )
    got = explain(c.x, jnp.asarray(baseline), c.label, c.params)
    expected, path = twin(
        lambda z: c.gradient(z, c.label), np.array(c.x), baseline, 25, fraction, max_distance
    )
    close(got.values, expected)
    np.testing.assert_allclose(path[-1], np.ravel(c.x), atol=1e-12)
    total = c.values(c.x)[c.label] - c.values(baseline)[c.label]
    np.testing.assert_allclose(got.completeness_gap, expected.sum() - total, atol=1e-9)
    np.testing.assert_allclose(got.output - got.baseline_output, total, atol=1e-12)
    assert int(got.evaluations) == 25
    assert bool(got.finite)


def test_ties_agree_with_the_twin(x64, close):
    """Derivatives of few different sizes, many of them zero, in groups of other sizes."""
    rng = np.random.default_rng(5)
    for fraction in (0.05, 0.2, 0.5):
        slopes = rng.integers(-2, 3, size=40).astype(float)
        matrix = np.outer(slopes, slopes)
        x, b = rng.integers(-3, 4, size=(2, 40)).astype(float)
        explain = guided_integrated_gradients(
            quadratic(jnp.asarray(matrix)), steps=16, fraction=fraction, max_distance=0.25
        )
        got = explain(jnp.asarray(x), jnp.asarray(b))
        expected, _ = twin(lambda z, m=matrix: m @ z, x, b, 16, fraction, 0.25)
        close(got.values, expected)


@pytest.mark.parametrize("max_distance", [0.0, 0.05, 0.3, 1.0])
def test_the_path_keeps_its_promises(max_distance):
    """Points as f sees them: within the caps, never back, an even share of the distance each."""
    rng = np.random.default_rng(1)
    matrix = jnp.asarray(rng.normal(size=(9, 9)), jnp.float32)
    x, b = rng.normal(size=(2, 9)).astype(np.float32)
    seen = []

    def f(z):
        jax.debug.callback(lambda z: seen.append(np.asarray(z)), z)
        return jnp.sum(jnp.sin(matrix @ z))

    explain = guided_integrated_gradients(f, steps=12, max_distance=max_distance)
    jax.block_until_ready(explain(jnp.asarray(x), jnp.asarray(b)))
    jax.effects_barrier()
    progress = (np.array(seen) - b) / (x - b)
    t = progress @ (np.abs(x - b) / np.abs(x - b).sum())
    order = np.argsort(t)
    progress, t = progress[order], t[order]
    # Both ends are evaluated once more, for the outputs.
    np.testing.assert_allclose(t, [0, *np.arange(12) / 12, 1], atol=1e-5)
    assert np.all(np.abs(progress - t[:, None]) <= max_distance + 1e-5)
    assert np.all(np.diff(progress, axis=0) >= -1e-5)
    if max_distance >= 0.3:
        assert np.abs(progress - t[:, None]).max() > 0.2, "guided nowhere"


def test_no_distance_is_the_straight_line(classifier, close):
    c = classifier
    zero = jnp.zeros_like(c.x)
    line = integrated_gradients(c.score, steps=30, rule=paths.left_riemann)
    expected = line(c.x, zero, c.label, c.params)
    for options in ({"max_distance": 0.0}, {"fraction": 1.0, "max_distance": 0.4}):
        got = guided_integrated_gradients(c.score, steps=30, **options)(
            c.x, zero, c.label, c.params
        )
        close(got.values, expected.values, 1e-12)
        np.testing.assert_allclose(got.completeness_gap, expected.completeness_gap, atol=1e-12)


def gap_of(activation, seed, steps, max_distance):
    rng = np.random.default_rng(seed)
    first, last, x = map(jnp.asarray, (rng.normal(size=s) for s in ((10, 16), 16, 10)))
    f = lambda x, first, last: activation(x @ first) @ last
    explain = guided_integrated_gradients(f, steps=steps, max_distance=max_distance)
    return abs(float(explain(x, jnp.zeros_like(x), first, last).completeness_gap))


@pytest.mark.parametrize("max_distance", [0.02, 1.0])
def test_the_gap_is_of_first_order_where_f_is_smooth(x64, max_distance):
    coarse, fine = (
        sum(gap_of(jax.nn.gelu, seed, n, max_distance) for seed in range(3)) for n in (300, 3000)
    )
    assert 0.07 < fine / coarse < 0.15
    # And not where the walk runs along a kink, as the docstring says.
    coarse, fine = (gap_of(jax.nn.relu, 0, n, max_distance) for n in (300, 3000))
    assert fine / coarse > 0.5


def test_a_product_in_closed_form(x64):
    """f = (2x + y)^2 from 0 to (3, 3), unbound: y goes first, since its derivative is smaller.

    y: integral_0^3 2y dy = 9; x: the rest of 81.
    """
    f = lambda x: (2 * x[0] + x[1]) ** 2
    explain = guided_integrated_gradients(f, steps=4000, max_distance=1.0)
    got = explain(jnp.array([3.0, 3.0]), jnp.zeros(2)).values
    np.testing.assert_allclose(got, [72, 9], rtol=2e-3)
    line = guided_integrated_gradients(f, steps=4000, max_distance=0.0)
    np.testing.assert_allclose(
        line(jnp.array([3.0, 3.0]), jnp.zeros(2)).values, [54, 27], rtol=1e-3
    )


@pytest.mark.parametrize("max_distance", [0.0, 0.02, 1.0])
def test_linear_functions_are_exact(x64, max_distance):
    w, x, b = np.random.default_rng(2).normal(size=(3, 31))
    f = lambda x, w: jnp.sum(w * x)
    explain = guided_integrated_gradients(f, steps=7, max_distance=max_distance)
    got = explain(*map(jnp.asarray, (x, b, w)))
    np.testing.assert_allclose(got.values, w * (x - b), atol=1e-14)
    assert abs(float(got.completeness_gap)) < 1e-13


def test_dummies_symmetry_and_no_way(x64):
    """A feature that f ignores has zero; two that f confuses have equal values, as ties do."""
    f = lambda x: jnp.sin(x[0] + x[1]) * x[2] + 0 * x[3]
    x, b = jnp.array([0.7, 0.7, -0.4, 5.0]), jnp.array([0.1, 0.1, 0.6, 1.0])
    got = guided_integrated_gradients(f, steps=9, max_distance=0.3)(x, b)
    assert float(got.values[3]) == 0
    assert float(got.values[0]) == float(got.values[1]) != 0
    same = guided_integrated_gradients(f, steps=9)(x, x)
    assert np.all(np.asarray(same.values) == 0)
    assert float(same.completeness_gap) == 0
    assert bool(same.finite)
    constant = guided_integrated_gradients(lambda x: 0 * jnp.sum(x) + 3, steps=9)(x, b)
    assert np.all(np.asarray(constant.values) == 0)
    assert float(constant.output) == float(constant.baseline_output) == 3


def test_two_modalities_of_two_dtypes_are_one_set(x64, close):
    rng = np.random.default_rng(3)
    matrix = jnp.asarray(rng.normal(size=(12, 12)))
    x, b = rng.normal(size=(2, 12)).astype(np.float32).astype(np.float64)
    f = lambda x: jnp.sum(jnp.tanh(matrix @ x))
    options = {"steps": 15, "max_distance": 0.3}
    expected = guided_integrated_gradients(f, **options)(jnp.asarray(x), jnp.asarray(b))
    split = lambda v: {
        "sound": jnp.asarray(v[:4].reshape(2, 2), jnp.float32),
        "text": (jnp.asarray(v[4]), jnp.asarray(v[5:])),
    }
    join = lambda t: jnp.concatenate(
        [t["sound"].astype(jnp.float64).reshape(4), t["text"][0][None], t["text"][1]]
    )
    got = guided_integrated_gradients(lambda t: f(join(t)), **options)(split(x), split(b))
    assert got.values["sound"].dtype == jnp.float32
    close(join(got.values), expected.values, 1e-5)  # points of the first leaf are rounded


def test_a_swept_distance_compiles_once(x64):
    traces = []

    def f(x):
        traces.append(1)
        return jnp.sum(jnp.sin(x) * jnp.roll(x, 1))

    x = jnp.asarray(np.random.default_rng(4).normal(size=8))
    sweep = jax.jit(
        lambda d: guided_integrated_gradients(f, steps=10, max_distance=d)(x, 0 * x).values
    )
    results = [np.asarray(sweep(d)) for d in (0.0, 0.1, 1.0)]
    assert len(traces) == 2
    for d, got in zip((0.0, 0.1, 1.0), results, strict=True):
        fixed = guided_integrated_gradients(f, steps=10, max_distance=d)(x, 0 * x).values
        np.testing.assert_allclose(got, fixed, atol=1e-14)


def test_a_gradient_that_is_not_a_number_is_flagged():
    f = lambda x, w: jnp.sum(w * x)
    x = jnp.array([1.0, 2.0])
    bad = guided_integrated_gradients(f, steps=4)(x, 0 * x, jnp.array([1.0, jnp.nan]))
    assert not bool(bad.finite)


def test_bad_options_are_named():
    f = jnp.sum
    for options, error, message in (
        ({"steps": 0}, ValueError, "steps must be at least 1"),
        ({"fraction": 0}, ValueError, "fraction must be above 0 and at most 1, but is 0"),
        ({"fraction": 1.5}, ValueError, "at most 1, but is 1.5"),
        ({"fraction": jnp.float32(0.1)}, TypeError, "fraction must be a Python number"),
        ({"max_distance": -0.1}, ValueError, "max_distance must be at least 0 and at most 1"),
        ({"max_distance": "far"}, TypeError, "max_distance must be one real number"),
        ({"max_distance": jnp.zeros(2)}, TypeError, "max_distance must be one real number"),
    ):
        with pytest.raises(error, match=message):
            guided_integrated_gradients(f, **options)
