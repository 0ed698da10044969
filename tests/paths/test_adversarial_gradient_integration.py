"""Adversarial Gradient Integration: a slow twin in numpy, closed forms, the draw of classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.paths import adversarial_gradient_integration

KEY = jax.random.key(0)


def twin(c, label, classes, steps, step_size, progressive, bounds):
    """One walk after the other: values, mean score at the ends, steps taken."""
    values, ends, taken = np.zeros(c.x.shape), [], 0
    for target in classes:
        point = np.array(c.x)
        for _ in range(steps):
            if np.argmax(c.values(point)) == target:
                break
            start = point if progressive else np.array(c.x)
            moved = start + step_size * np.sign(c.gradient(point, target))
            if bounds is not None:
                moved = np.clip(moved, *bounds)
            values -= c.gradient(point, label) * (moved - start)
            point = moved
            taken += 1
        ends.append(c.values(point)[label])
    return values / len(classes), np.mean(ends), taken


@pytest.mark.parametrize(("progressive", "bounds"), [(True, None), (True, (0, 1)), (False, (0, 1))])
def test_the_twin_agrees(classifier, close, progressive, bounds):
    c = classifier
    step_size = 0.07 if progressive else 0.4  # from x each time, so that one must suffice
    options = {"steps": 9, "step_size": step_size, "progressive": progressive, "bounds": bounds}
    explain = adversarial_gradient_integration(c.score, classes=5, chunk_size=3, **options)
    steps_taken = 0
    for label in (c.label, (c.label + 1) % 5):  # the predicted class, and another
        got = explain(KEY, c.x, label, c.params)
        false = [k for k in range(5) if k != label]
        expected, at_ends, taken = twin(c, label, false, **options)
        close(got.values, expected)
        np.testing.assert_allclose(got.baseline_output, at_ends, atol=1e-12)
        assert int(got.evaluations) == 2 * taken
        steps_taken += taken
        gap = expected.sum() - (c.values(c.x)[label] - at_ends)
        np.testing.assert_allclose(got.completeness_gap, gap, atol=1e-9)
        assert bool(got.finite)
    assert 0 < steps_taken < 2 * 9 * 4, "some walk should stop early"


def linear(x, label, weights):
    return jnp.dot(weights, x)[label]


def test_linear_functions_are_exact_and_stop_at_the_boundary(x64):
    """f_c = x_c towards class c: e.g. x_1 climbs 0.1 a step until it is above x_0 = 0.75."""
    weights, x = jnp.eye(3), jnp.array([0.75, 0.5, 0.0])
    explain = adversarial_gradient_integration(linear, classes=3, steps=5, step_size=0.1)
    got = explain(KEY, x, 0, weights)
    assert int(got.evaluations) == 2 * (3 + 5)  # x_1: 0.6, 0.7, 0.8; x_2: all five steps
    np.testing.assert_allclose(got.values, 0, atol=1e-15)  # f_0 sees neither

    weights = np.random.default_rng(0).normal(size=(4, 7))
    x = np.random.default_rng(1).normal(size=7)
    explain = adversarial_gradient_integration(linear, classes=4, steps=3, step_size=1e-3)
    label = int(np.argmax(weights @ x))
    got = explain(KEY, jnp.asarray(x), label, jnp.asarray(weights))
    others = np.delete(weights, label, axis=0)
    np.testing.assert_allclose(
        got.values, -3e-3 * weights[label] * np.sign(others).mean(axis=0), atol=1e-15
    )
    assert abs(float(got.completeness_gap)) < 1e-14


def test_one_step_is_the_same_in_both_forms(classifier):
    c = classifier
    one = lambda progressive: adversarial_gradient_integration(
        c.score, classes=5, steps=1, progressive=progressive
    )(KEY, c.x, c.label, c.params)
    for a, b in zip(one(True), one(False), strict=True):
        np.testing.assert_array_equal(a, b)


def drawing(x, label, weights):
    """Class c climbs by x_c alone, and the label falls with every x: values show what was drawn."""
    return jnp.where(label == 4, -jnp.sum(x), jnp.sum(jnp.where(jnp.arange(9) == label, x, 0)))


def test_false_classes_are_drawn_evenly_and_never_twice():
    explain = adversarial_gradient_integration(drawing, classes=9, targets=3, steps=1)
    x = jnp.full(9, -1.0).at[4].set(5.0)
    keys = jax.random.split(jax.random.key(1), 900)
    values = np.asarray(jax.vmap(explain, (0, None, None, None))(keys, x, 4, 0.0).values)
    drawn = np.abs(values) > 1e-3
    assert np.all(drawn.sum(axis=1) == 3)
    assert not drawn[:, 4].any()
    # Hypergeometric: each of 8 is in 3/8 of 900. Four standard errors: a false alarm in 2,000.
    counts = np.delete(drawn, 4, axis=1).sum(axis=0)
    assert np.abs(counts - 900 * 3 / 8).max() < 4 * np.sqrt(900 * 3 / 8 * 5 / 8)
    np.testing.assert_allclose(values[drawn], 0.05 / 3, rtol=1e-5)


def test_all_false_classes_leave_nothing_to_the_key(classifier):
    c = classifier
    explain = adversarial_gradient_integration(c.score, classes=5, targets=100, steps=4)
    results = [explain(jax.random.key(k), c.x, c.label, c.params) for k in range(2)]
    np.testing.assert_array_equal(results[0].values, results[1].values)


def test_the_gap_is_of_first_order_and_dummies_have_none(x64):
    rng = np.random.default_rng(4)
    first, last = map(jnp.asarray, (rng.normal(size=(6, 12)), rng.normal(size=(12, 3))))
    f = lambda x, label: (jnp.tanh(x[:6] @ first) @ last)[label] + 0 * x[6]
    x = jnp.asarray(rng.normal(size=7))
    label = int(np.argmax([f(x, k) for k in range(3)]))
    gaps = []
    for steps in (40, 400):
        explain = adversarial_gradient_integration(f, classes=3, steps=steps, step_size=2.0 / steps)
        got = explain(KEY, x, label)
        assert float(got.values[6]) == 0
        gaps.append(abs(float(got.completeness_gap)))
    assert 0.03 < gaps[1] / gaps[0] < 0.3


def test_a_walk_that_has_no_way_gives_zeros(x64):
    """Towards the class that is predicted already, and where no class has a gradient."""
    x = jnp.array([0.3, 0.2])
    got = adversarial_gradient_integration(linear, classes=2)(KEY, x, 1, jnp.eye(2))
    assert np.all(np.asarray(got.values) == 0)
    assert int(got.evaluations) == 0
    flat = lambda x, label: jnp.array([2.0, 1.0])[label] + 0 * jnp.sum(x)
    got = adversarial_gradient_integration(flat, classes=2, steps=3)(KEY, x, 0)
    assert np.all(np.asarray(got.values) == 0)
    assert float(got.completeness_gap) == 0
    assert bool(got.finite)


def test_bad_options_are_named():
    for options, error, message in (
        ({"classes": 1}, ValueError, "classes must be at least 2"),
        ({"targets": 0}, ValueError, "targets must be at least 1"),
        ({"step_size": -1.0}, ValueError, "step_size must be finite and at least 0"),
        ({"bounds": 1.0}, TypeError, "bounds must be two numbers"),
        ({"bounds": (0.0, "one")}, TypeError, "each of bounds must be one real number"),
    ):
        with pytest.raises(error, match=message):
            adversarial_gradient_integration(linear, **{"classes": 3, **options})
    explain = adversarial_gradient_integration(linear, classes=3)
    with pytest.raises(TypeError, match="key must be a typed key"):
        explain(0, jnp.ones(3), 0, jnp.eye(3))
    with pytest.raises(TypeError, match="label must be one integer"):
        explain(KEY, jnp.ones(3), 0.5, jnp.eye(3))
    with pytest.raises(ValueError, match=r"label must be in \[0, 3\), the classes, but is 3"):
        explain(KEY, jnp.ones(3), 3, jnp.eye(3))
