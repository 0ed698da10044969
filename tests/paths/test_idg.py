"""IDG: a twin in numpy, the integral it stands for, closed forms, the placing of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths
from jaxplain.paths import _idg


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


def placed(changes, steps):
    """The samples and their widths, by hand: equal parts of a piecewise linear integral."""
    intervals = len(changes)
    share = np.abs(changes) / np.sum(np.abs(changes))
    density = 0.9 * share * intervals + 0.1
    integral = np.concatenate([[0], np.cumsum(density / intervals)])
    part = (np.arange(steps) + 0.5) / steps
    t = np.interp(part, integral, np.linspace(0, 1, intervals + 1))
    return t, 1 / (steps * density[np.minimum((t * intervals).astype(int), intervals - 1)])


def twin(x, baseline, params, steps, pilot_steps):
    way = x - baseline
    pilot = [
        numpy_network(baseline + j / pilot_steps * way, params)[0] for j in range(pilot_steps + 1)
    ]
    changes = np.diff(pilot)
    values = np.zeros_like(x)
    for t, width in zip(*placed(changes, steps), strict=True):
        gradient = numpy_network(baseline + t * way, params)[1]
        values += way * gradient * (way @ gradient) * width
    return values, np.sum(changes**2) * pilot_steps


@pytest.mark.parametrize(
    ("steps", "pilot_steps", "chunk_size"), [(1, 1, 4), (4, 9, 3), (20, 20, 16), (40, 6, 7)]
)
def test_twin(steps, pilot_steps, chunk_size, x64):
    explain = paths.idg(network, steps=steps, pilot_steps=pilot_steps, chunk_size=chunk_size)
    for seed in range(4):
        x, baseline, params = problem(seed)
        expected, squared_slope = twin(x, baseline, params, steps, pilot_steps)
        got = explain(x, baseline, params)
        np.testing.assert_allclose(got.values, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(got.squared_slope, squared_slope, rtol=1e-12)
        gap = expected.sum() - squared_slope
        np.testing.assert_allclose(got.squared_slope_gap, gap, rtol=1e-8, atol=1e-11)
        np.testing.assert_allclose(got.output, numpy_network(x, params)[0], rtol=1e-14)
        np.testing.assert_allclose(got.baseline_output, numpy_network(baseline, params)[0])
        assert int(got.evaluations) == steps


@pytest.mark.parametrize("seed", range(3))
def test_the_values_sum_to_the_integral_of_the_squared_slope(seed, x64):
    """What stands in place of completeness, against 20,000 points."""
    x, baseline, params = problem(seed)
    t = (np.arange(20_000) + 0.5) / 20_000
    hidden = np.tanh((baseline + t[:, None] * (x - baseline)) @ params["w"] + params["c"])
    gradients = (params["v"] * (1 - hidden**2)) @ params["w"].T
    slopes = gradients @ (x - baseline)
    reference = (x - baseline) * (gradients * slopes[:, None]).mean(0)
    for steps in (50, 400):
        got = paths.idg(network, steps=steps)(x, baseline, params)
        np.testing.assert_allclose(got.values.sum(), (slopes**2).mean(), rtol=4 / steps**1.5)
        error = np.linalg.norm(got.values - reference) / np.linalg.norm(reference)
        assert error < 4 / steps**1.5
        assert abs(got.squared_slope_gap) < 4 / steps**1.5 * got.squared_slope
    change = float(got.output - got.baseline_output)
    assert got.squared_slope >= change**2  # Cauchy and Schwarz


@pytest.mark.parametrize("sign", [1, -1])
def test_a_linear_function(sign):
    """Integrated Gradients times the change of f, up or down; in float32, whose pilot is noisy."""
    x, baseline, params = problem(1)
    w = sign * params["w"][:, 0]
    expected = w * (x - baseline) * (w @ (x - baseline))
    f = lambda x, w: jnp.dot(w, x) + 100  # a constant makes the noise of the differences larger
    arguments = [jnp.asarray(a, jnp.float32) for a in (x, baseline, w)]
    for steps, pilot_steps in ((3, 3), (10, 4)):
        got = paths.idg(f, steps=steps, pilot_steps=pilot_steps)(*arguments)
        np.testing.assert_allclose(got.values, expected, rtol=2e-5)


def test_axioms(x64):
    x, baseline, params = problem(3)
    explain = lambda f: paths.idg(f, steps=12)(x, baseline, params)
    values = explain(network).values
    # The sign of f changes nothing, not even the samples.
    negated = explain(lambda x, params: -network(x, params)).values
    np.testing.assert_array_equal(negated, values)
    np.testing.assert_allclose(explain(lambda x, p: 3 * network(x, p)).values, 9 * values)
    np.testing.assert_allclose(explain(lambda x, p: network(x, p) + 7).values, values, rtol=1e-9)
    # What f ignores, and what does not move, gets nothing.
    assert explain(lambda x, params: network(x.at[1].set(0.0), params)).values[1] == 0
    still = np.where(np.arange(5) == 2, x, baseline)
    assert paths.idg(network)(x, still, params).values[2] == 0
    written = lambda x, p: jnp.dot(p["v"], 2 / (1 + jnp.exp(-2 * (x @ p["w"] + p["c"]))) - 1)
    np.testing.assert_allclose(explain(written).values, values, rtol=1e-9)
    symmetric = lambda x: jnp.sin(x[0] + x[1]) + x[2]
    equal = paths.idg(symmetric)(jnp.array([0.7, 0.7, 2.0]), jnp.zeros(3)).values
    assert equal[0] == equal[1]


def test_saturated_parts_get_nothing_and_samples_lie_on_the_decision(x64):
    """A steep logistic step: its integral is known, and uniform samples would miss it."""
    sharpness = 200.0
    f = lambda x: jax.nn.sigmoid(sharpness * (x[0] - 0.37))
    # The integral of s^2, with s = k p (1 - p) and dp = s dt: k * integral p (1 - p) dp = k / 6.
    exact = sharpness / 6
    got = paths.idg(f, steps=40)(jnp.ones(1), jnp.zeros(1))
    np.testing.assert_allclose(got.values[0], exact, rtol=0.02)
    uniform = (np.arange(40) + 0.5) / 40
    p = 1 / (1 + np.exp(-sharpness * (uniform - 0.37)))
    assert abs(np.mean((sharpness * p * (1 - p)) ** 2) / exact - 1) > 0.2


@pytest.mark.parametrize("steps", [1, 7, 100])
def test_the_widths_of_the_samples(steps, x64):
    """Against the placing by hand; none is wider than ten of a uniform grid."""
    rng, place = np.random.default_rng(0), jax.jit(_idg._place, static_argnums=1)
    for _ in range(20):
        changes = rng.normal(size=9) * rng.gamma(0.3, size=9)
        t, widths = place(jnp.asarray(changes), steps)
        expected = placed(changes, steps)
        np.testing.assert_allclose(t, expected[0], rtol=1e-10)
        np.testing.assert_allclose(widths, expected[1], rtol=1e-10)
        assert (np.asarray(widths) <= 10 / steps * (1 + 1e-12)).all()
    for changes in ([0.0, 0.0], [1.0, np.nan]):  # nothing to go by: a uniform grid
        t, widths = place(jnp.asarray(changes), steps)
        np.testing.assert_allclose(t, (np.arange(steps) + 0.5) / steps, rtol=1e-12)
        np.testing.assert_allclose(widths, np.full(steps, 1 / steps), rtol=1e-12)


def test_along_another_path(x64):
    """At another pace, s(t) dt is still df: the mean gradient over f's way, times the way's speed.

    Along gamma(t^2) the values are 2 t times as large where gamma is at t^2: by quadrature.
    """
    x, baseline, params = problem(2)
    t = (np.arange(20_000) + 0.5) / 20_000
    hidden = np.tanh((baseline + t[:, None] ** 2 * (x - baseline)) @ params["w"] + params["c"])
    integrand = 2 * t[:, None] * (x - baseline) * ((params["v"] * (1 - hidden**2)) @ params["w"].T)
    expected = (integrand * integrand.sum(1, keepdims=True)).mean(0)
    path = lambda t, x, baseline: baseline + t**2 * (x - baseline)
    got = paths.idg(network, steps=400, path=path)(x, baseline, params)
    np.testing.assert_allclose(got.values, expected, atol=1e-3 * np.abs(expected).max())


def test_hoisting_changes_rounding_only(x64):
    """A wide first layer, applied once for all points, also for the slope."""
    x, baseline, params = problem(6, size=64)
    got, plain = (
        paths.idg(network, steps=9, chunk_size=4, hoist=hoist)(x, baseline, params)
        for hoist in (True, False)
    )
    for a, b in zip(got, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_what_is_not_finite_on_the_way_is_flagged():
    """A hole between the samples, which only the pilot sees."""
    f = lambda x: jnp.where(jnp.abs(x[0] - 0.5) < 0.01, jnp.nan, x[0])
    got = paths.idg(f, steps=4, pilot_steps=2)(jnp.ones(1), jnp.zeros(1))
    assert np.isfinite(got.values).all()
    assert not bool(got.finite)
    constant = paths.idg(lambda x: 0 * jnp.sum(x), steps=4)(jnp.ones(2), jnp.zeros(2))
    assert constant.values.tolist() == [0, 0]
    assert bool(constant.finite)


def test_bad_options():
    for options in ({"steps": 0}, {"pilot_steps": 0}):
        with pytest.raises(ValueError, match="must be at least 1, but is 0"):
            paths.idg(network, **options)
