"""Left-IG: closed forms, a twin in numpy, where it stops, and completeness up to there."""

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


def twin(x, baseline, params, steps, fraction, pilot_steps):
    outputs = [
        numpy_network(baseline + j / pilot_steps * (x - baseline), params)[0]
        for j in range(pilot_steps + 1)
    ]
    progress = [(o - outputs[0]) / (outputs[-1] - outputs[0]) for o in outputs]
    j = next(k for k, p in enumerate(progress) if p >= fraction)
    part = (fraction - progress[j - 1]) / (progress[j] - progress[j - 1])
    stop = (j - 1 + part) / pilot_steps
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    integral = sum(
        w / 2 * numpy_network(baseline + stop * (u + 1) / 2 * (x - baseline), params)[1]
        for u, w in zip(nodes, weights, strict=True)
    )
    return (x - baseline) * integral * stop, stop


@pytest.mark.parametrize(
    ("steps", "pilot_steps", "fraction"), [(3, 5, 0.9), (12, 12, 0.4), (8, 1, 1.0)]
)
def test_twin(steps, pilot_steps, fraction, x64):
    explain = paths.left_integrated_gradients(
        network, steps=steps, fraction=fraction, pilot_steps=pilot_steps, chunk_size=5
    )
    for seed in range(4):
        x, baseline, params = problem(seed)
        expected, stop = twin(x, baseline, params, steps, fraction, pilot_steps)
        got = explain(x, baseline, params)
        np.testing.assert_allclose(got.stop, stop, rtol=1e-12)
        np.testing.assert_allclose(got.values, expected, rtol=1e-10, atol=1e-13)
        at_stop = numpy_network(baseline + stop * (x - baseline), params)[0]
        at_baseline = numpy_network(baseline, params)[0]
        np.testing.assert_allclose(got.stop_output, at_stop, rtol=1e-12)
        np.testing.assert_allclose(got.output, numpy_network(x, params)[0], rtol=1e-13)
        np.testing.assert_allclose(got.baseline_output, at_baseline, rtol=1e-13)
        gap = expected.sum() - (at_stop - at_baseline)
        np.testing.assert_allclose(got.completeness_gap, gap, rtol=1e-7, atol=1e-12)
        assert int(got.evaluations) == steps


@pytest.mark.parametrize("sign", [1, -1])
def test_a_ramp_that_saturates(sign, x64):
    """A rise of slope 4 to 2 at t = 1/2: linear up to the stop, so all of it is exact."""
    f = lambda x: 3 + sign * jnp.minimum(jnp.sum(x), 2.0)
    x = jnp.array([1.0, 3.0])
    for fraction in (0.25, 0.9):
        got = paths.left_integrated_gradients(f, steps=4, fraction=fraction)(x, jnp.zeros(2))
        np.testing.assert_allclose(got.stop, fraction / 2, rtol=1e-12)
        np.testing.assert_allclose(got.values, sign * fraction / 2 * x, rtol=1e-12)
        assert abs(float(got.completeness_gap)) < 1e-12


def test_completeness_up_to_the_stop(x64):
    """The gap goes as the rule's error, and f at the stop is the fraction of its way."""
    for seed in range(5):
        x, baseline, params = problem(seed)
        got = paths.left_integrated_gradients(network, steps=40, fraction=0.7, pilot_steps=200)(
            x, baseline, params
        )
        assert abs(float(got.completeness_gap)) < 1e-9
        way = got.output - got.baseline_output
        share = float((got.stop_output - got.baseline_output) / way)
        np.testing.assert_allclose(share, 0.7, atol=1e-2)
        assert 0 < got.stop < 1


def test_the_stop_converges_with_the_square_of_the_pilot(x64):
    """Against the point where a logistic curve reaches the fraction, found by hand."""
    f = lambda x: jax.nn.sigmoid(6 * x[0] - 2)
    low, high = (1 / (1 + np.exp(2 - 6 * t)) for t in (0.0, 1.0))
    target = low + 0.9 * (high - low)
    exact = (2 + np.log(target / (1 - target))) / 6
    errors = [
        abs(
            paths.left_integrated_gradients(f, steps=2, pilot_steps=n)(
                jnp.ones(1), jnp.zeros(1)
            ).stop
            - exact
        )
        for n in (20, 80, 320)
    ]
    assert errors[0] < 3e-3
    assert errors[2] < errors[0] / 50


def test_it_stops_at_the_first_time(x64):
    """A hump that overshoots f(x), falls below it and comes back."""
    f = lambda x: jnp.sin(2.5 * np.pi * x[0])
    got = paths.left_integrated_gradients(f, steps=8, fraction=0.5, pilot_steps=400)(
        jnp.ones(1), jnp.zeros(1)
    )
    np.testing.assert_allclose(got.stop, (1 / 6) / 2.5, atol=1e-4)
    np.testing.assert_allclose(got.stop_output, 0.5, atol=1e-3)


def test_without_a_way_to_make_it_is_integrated_gradients(x64):
    f = lambda x: x[0] * x[1] - x[1]
    x, baseline = jnp.array([1.0, 2.0]), jnp.array([3.0, 0.0])
    got = paths.left_integrated_gradients(f, steps=3)(x, baseline)
    expected = paths.integrated_gradients(f, steps=3)(x, baseline)
    assert float(got.stop) == 1
    assert float(got.output) == float(got.baseline_output)
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-12)


def test_axioms(x64):
    x, baseline, params = problem(2)
    explain = lambda f: paths.left_integrated_gradients(f, steps=9)(x, baseline, params)
    values = explain(network).values
    # A constant and the sign do not move the stop.
    np.testing.assert_allclose(
        explain(lambda x, p: 5 - 2 * network(x, p)).values, -2 * values, rtol=1e-10
    )
    assert explain(lambda x, params: network(x.at[1].set(0.0), params)).values[1] == 0
    still = np.where(np.arange(5) == 2, x, baseline)
    assert paths.left_integrated_gradients(network)(x, still, params).values[2] == 0
    written = lambda x, p: jnp.dot(p["v"], 2 / (1 + jnp.exp(-2 * (x @ p["w"] + p["c"]))) - 1)
    np.testing.assert_allclose(explain(written).values, values, rtol=1e-10)
    # Linear: the fraction of Integrated Gradients.
    linear = lambda x, params: x @ params["w"][:, 0]
    np.testing.assert_allclose(
        explain(linear).values, 0.9 * params["w"][:, 0] * (x - baseline), rtol=1e-11
    )


def test_the_fraction_can_be_traced_and_can_stand_for_the_papers_threshold(x64):
    traces = []

    def f(x):
        traces.append(1)
        return 0.5 + jnp.tanh(3 * x[0])

    @jax.jit
    def explain(fraction):
        one = paths.left_integrated_gradients(f, steps=4, fraction=fraction, pilot_steps=300)
        return one(jnp.ones(1), jnp.zeros(1))

    explain(jnp.float64(0.5))
    first = len(traces)
    output, baseline_output = 0.5 + np.tanh(3), 0.5
    got = explain(jnp.float64((0.9 * output - baseline_output) / (output - baseline_output)))
    assert len(traces) == first
    np.testing.assert_allclose(got.stop_output, 0.9 * output, rtol=1e-4)


def curve(t, x, baseline):
    """Slow at first, and it ends before x."""
    return baseline + 0.8 * t**2 * (x - baseline)


def test_along_another_path(x64):
    """The straight line to another end at another pace: it stops at the same point."""
    x, baseline, params = problem(4)
    end = curve(1.0, x, baseline)
    options = {"steps": 40, "fraction": 0.7, "pilot_steps": 3000}
    got = paths.left_integrated_gradients(network, path=curve, **options)(x, baseline, params)
    expected = paths.left_integrated_gradients(network, **options)(end, baseline, params)
    np.testing.assert_allclose(got.stop**2, expected.stop, rtol=1e-5)
    np.testing.assert_allclose(got.values, expected.values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.output, numpy_network(end, params)[0], rtol=1e-12)
    assert abs(float(got.completeness_gap)) < 1e-9


def test_hoisting_changes_rounding_only(x64):
    """A wide first layer, applied once for all points."""
    x, baseline, params = problem(6, size=64)
    options = {"steps": 9, "chunk_size": 4}
    got, plain = (
        paths.left_integrated_gradients(network, hoist=hoist, **options)(x, baseline, params)
        for hoist in (True, False)
    )
    for a, b in zip(got, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    dots = [
        str(
            jax.make_jaxpr(paths.left_integrated_gradients(network, hoist=hoist, **options))(
                x, baseline, params
            )
        ).count("dot_general")
        for hoist in (True, False)
    ]
    assert dots[0] != dots[1]


def test_what_is_not_finite_on_the_way_is_flagged():
    """Beyond the stop, where only the pilot looks."""
    f = lambda x: jnp.where(jnp.abs(x[0] - 0.75) < 0.01, jnp.nan, x[0])
    got = paths.left_integrated_gradients(f, steps=4, fraction=0.5, pilot_steps=4)(
        jnp.ones(1), jnp.zeros(1)
    )
    np.testing.assert_allclose(got.values, [0.5], rtol=1e-6)
    assert not bool(got.finite)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"fraction": 0.0}, ValueError, r"fraction must be above 0 and at most 1, but is 0.0"),
        ({"fraction": 1.1}, ValueError, r"fraction must be above 0 and at most 1, but is 1.1"),
        ({"fraction": float("nan")}, ValueError, "fraction must be above 0"),
        ({"fraction": "most"}, TypeError, "fraction must be one real number, but is a str"),
        ({"fraction": True}, TypeError, "fraction must be one real number"),
        ({"fraction": jnp.ones(2)}, TypeError, "fraction must be one real number"),
        ({"pilot_steps": 0}, ValueError, "pilot_steps must be at least 1"),
        ({"rule": 3}, TypeError, "rule must be a function"),
    ],
    ids=str,
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        paths.left_integrated_gradients(network, **options)
