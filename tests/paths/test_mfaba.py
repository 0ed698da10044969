"""MFABA: a slow twin in numpy of its two walks and three integrals, and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths
from jaxplain.paths import mfaba


def twin(c, label, steps, step_size, norm, bounds, accumulate=False):
    """The points of the walk and the gradients there, or their sums so far."""
    points, gradients, g = [np.array(c.x)], [], np.zeros(c.x.shape)
    for _ in range(steps):
        g = c.gradient(points[-1], label) + (g if accumulate else 0)
        gradients.append(g)
        way = g / np.sqrt(np.sum(g**2)) if norm == "sharp" else np.sign(g)
        moved = points[-1] - step_size * way
        points.append(moved if bounds is None else np.clip(moved, *bounds))
        if np.argmax(c.values(points[-1])) != label:
            break
    gradients.append(c.gradient(points[-1], label))
    return np.array(points), np.array(gradients)


def integrate(points, gradients, integral):
    axes = tuple(range(1, points.ndim))
    if integral == "path":
        return -np.sum(np.diff(points, axis=0) * gradients[:-1], axis=0)
    ways = points - points[0]
    if integral == "cosine":
        t = np.sum(ways * ways[-1], axis=axes) / np.sum(ways[-1] ** 2)
    else:
        t = np.sqrt(np.sum(ways**2, axis=axes))
    shares = np.diff(t / t.max())
    mean = (gradients[1:] + gradients[:-1]) / 2
    return np.tensordot(shares, mean, axes=1) * (points[0] - points[-1])


@pytest.mark.parametrize(
    ("norm", "integral", "bounds", "accumulate"),
    [
        ("sharp", "path", None, False),
        ("smooth", "path", (0.1, 0.9), False),
        ("smooth", "path", None, True),
        ("sharp", "cosine", (0.1, 0.9), False),
        ("smooth", "norm", None, False),
    ],
)
def test_the_twin_agrees(classifier, close, norm, integral, bounds, accumulate):
    c = classifier
    step_size = 0.02 if accumulate else 0.1
    options = {"steps": 40, "step_size": step_size, "norm": norm, "bounds": bounds}
    options |= {"accumulate": accumulate}
    explain = mfaba(c.score, classes=5, integral=integral, **options)
    for label in (c.label, (c.label + 1) % 5):  # the second is misclassified from the start
        got = explain(c.x, label, c.params)
        points, gradients = twin(c, label, **options)
        expected = integrate(points, gradients, integral)
        close(got.values, expected)
        at_end = c.values(points[-1])[label]
        np.testing.assert_allclose(got.baseline_output, at_end, atol=1e-12)
        gap = expected.sum() - (c.values(c.x)[label] - at_end)
        np.testing.assert_allclose(got.completeness_gap, gap, atol=1e-9)
        assert int(got.evaluations) == len(points) - (integral == "path")
        assert bool(got.finite)
        if bounds is None:
            assert len(points) <= 40, "the walk should cross the boundary"
        if label != c.label:
            assert len(points) == 2, "at least one step, even where misclassified"


def linear(x, label, weights):
    return jnp.dot(weights, x)[label]


@pytest.mark.parametrize("integral", ["path", "cosine", "norm"])
def test_linear_functions_are_exact_and_stop_at_the_boundary(x64, integral):
    """w_0 = (3, 4): a sharp step of 0.5 lowers f_0 by 2.5; class 1 is the constant x_2 = 6."""
    weights = jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]])
    x = jnp.array([2.0, 2.0, 6.0])
    explain = mfaba(linear, classes=2, step_size=0.5, integral=integral)
    got = explain(x, 0, weights)
    # 14, 11.5, 9, 6.5, 4: four steps
    np.testing.assert_allclose(got.values, [4 * 0.3 * 3, 4 * 0.4 * 4, 0], atol=1e-13)
    assert float(got.baseline_output) == pytest.approx(4, abs=1e-13)
    assert abs(float(got.completeness_gap)) < 1e-13
    smooth = mfaba(linear, classes=2, step_size=0.25, norm="smooth", integral=integral)
    got = smooth(x, 0, weights)  # 1.75 a step: 14, 12.25, 10.5, 8.75, 7, 5.25
    np.testing.assert_allclose(got.values, [5 * 0.25 * 3, 5 * 0.25 * 4, 0], atol=1e-13)


@pytest.mark.parametrize("integral", ["path", "cosine", "norm"])
def test_where_there_is_no_gradient_the_walk_stays(x64, integral):
    flat = lambda x, label: jnp.array([2.0, 1.0])[label] + 0 * jnp.sum(x)
    for norm in ("smooth", "sharp"):
        explain = mfaba(flat, classes=2, steps=3, norm=norm, integral=integral)
        got = explain(jnp.ones(4), 0)
        assert np.all(np.asarray(got.values) == 0)
        assert float(got.completeness_gap) == 0
        assert bool(got.finite)
    slope = jax.grad(lambda x: jnp.sum(explain(x, 0).values ** 2))(jnp.ones(4))
    assert np.all(np.asarray(slope) == 0)


def test_the_gap_is_of_first_order_and_dummies_have_none(x64):
    rng = np.random.default_rng(4)
    first, last = map(jnp.asarray, (rng.normal(size=(6, 12)), rng.normal(size=(12, 3))))
    f = lambda x, label: (jnp.tanh(x[:6] @ first) @ last)[label] + 0 * x[6]
    x = jnp.asarray(rng.normal(size=7))
    label = int(np.argmax([f(x, k) for k in range(3)]))
    for norm, whole in (("sharp", 0.8), ("smooth", 0.3)):
        gaps = []
        for steps in (40, 400):
            got = mfaba(f, classes=3, steps=steps, step_size=whole / steps, norm=norm)(x, label)
            assert float(got.values[6]) == 0
            gaps.append(abs(float(got.completeness_gap)))
        assert 0.03 < gaps[1] / gaps[0] < 0.3


def test_the_length_of_a_step_is_that_of_all_leaves(x64):
    f = lambda x, label: jnp.where(label == 0, 3 * x["a"] + jnp.sum(4 * x["b"]), -100.0)
    x = {"a": jnp.array(1.0), "b": jnp.array([2.0])}
    got = mfaba(f, classes=2, steps=1, step_size=1.0)(x, 0)
    assert float(got.values["a"]) == pytest.approx(0.6 * 3)
    assert float(got.values["b"][0]) == pytest.approx(0.8 * 4)


def test_bad_options_are_named():
    for options, error, message in (
        ({"classes": 1}, ValueError, "classes must be at least 2"),
        ({"norm": "l1"}, ValueError, 'norm must be "sharp" or "smooth", but is \'l1\''),
        ({"integral": "line"}, ValueError, 'integral must be "path", "cosine" or "norm"'),
        ({"integral": "norm", "accumulate": True}, ValueError, 'belongs to integral="path"'),
        ({"step_size": -1.0}, ValueError, "step_size must be finite and at least 0"),
        ({"bounds": [0, 1, 2]}, TypeError, "bounds must be two numbers"),
    ):
        with pytest.raises(error, match=message):
            mfaba(linear, **{"classes": 3, **options})
    with pytest.raises(TypeError, match="label must be one integer"):
        mfaba(linear, classes=3)(jnp.ones(3), jnp.zeros(2, jnp.int32), jnp.eye(3))


@pytest.mark.parametrize(
    "make",
    [
        lambda f: paths.mfaba(f, classes=3, steps=3),
        lambda f: functools.partial(
            paths.adversarial_gradient_integration(f, classes=3, targets=1, steps=3),
            jax.random.key(0),
        ),
    ],
    ids=["mfaba", "agi"],
)
def test_the_number_of_no_class(make):
    """Refused where it is known, flagged where it is traced."""
    f = lambda x, label, w: jax.nn.softmax(jnp.dot(x, w))[label]
    explain, x, w = make(f), jnp.ones(4), jnp.ones((4, 3))
    for label in (3, np.int32(-1), np.asarray(7), jnp.int32(3)):
        with pytest.raises(ValueError, match=r"label must be in \[0, 3\)"):
            explain(x, label, w)
    flags = jax.vmap(explain, (None, 0, None))(x, jnp.array([0, 2, 3, -1], jnp.int32), w).finite
    assert flags.tolist() == [True, True, False, False]
