"""IG2: a slow twin in numpy, closed forms, and the mean over references."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain.paths import ig2


def twin(gradient, towards, x, steps, step_size, bounds):
    """The walk of one reference: values and the last point."""
    values, point = np.zeros(x.shape), np.array(x)
    for _ in range(steps):
        h = towards(point)
        moved = point - step_size * h / np.sqrt(np.sum(h**2))
        moved = moved if bounds is None else np.clip(moved, *bounds)
        values += (point - moved) * gradient(point)
        point = moved
    return values, point


@pytest.mark.parametrize(("of_hidden", "bounds"), [(True, None), (False, (-0.2, 0.8))])
def test_the_twin_agrees(classifier, close, of_hidden, bounds):
    c = classifier
    references = np.random.default_rng(7).normal(size=(3, *c.x.shape))
    options = {"steps": 12, "step_size": 0.1, "bounds": bounds}
    explain = ig2(c.score, representation=c.hidden if of_hidden else None, chunk_size=2, **options)
    got = explain(c.x, jnp.asarray(references), c.label, c.params)
    gradient = lambda z: c.gradient(z, c.label)
    results = []
    for reference in references:
        if of_hidden:
            aim = c.hidden_of(reference)
            towards = lambda z, aim=aim: c.towards(z, aim)
        else:
            aim = c.values(reference)[c.label]
            towards = lambda z, aim=aim: 2 * (c.values(z)[c.label] - aim) * gradient(z)
        results.append(twin(gradient, towards, np.array(c.x), **options))
    close(got.values, np.mean([v for v, _ in results], axis=0))
    at_ends = np.mean([c.values(end)[c.label] for _, end in results])
    np.testing.assert_allclose(got.baseline_output, at_ends, atol=1e-12)
    assert int(got.evaluations) == 12 * 3 * (2 if of_hidden else 1)
    gap = np.sum(got.values) - (got.output - got.baseline_output)
    np.testing.assert_allclose(got.completeness_gap, gap, atol=1e-12)
    assert bool(got.finite)


def test_linear_functions_are_exact(x64):
    """R = (a . x, b . x) of unit vectors a, b: the walk is the straight line to the reference."""
    w, x = np.random.default_rng(0).normal(size=(2, 4))
    f = lambda x, w: jnp.sum(w * x)
    references = x + np.array([[3, 4, 0, 0], [-6, -8, 0, 0]])
    explain = ig2(f, representation=lambda x, w: x[:2], steps=7, step_size=0.5)
    got = explain(jnp.asarray(x), jnp.asarray(references), jnp.asarray(w))
    # Both walks go 3.5 along (3, 4) / 5 or against it, so their mean is zero.
    np.testing.assert_allclose(got.values, 0, atol=1e-13)
    one = explain(jnp.asarray(x), jnp.asarray(references[:1]), jnp.asarray(w))
    np.testing.assert_allclose(one.values, [-2.1 * w[0], -2.8 * w[1], 0, 0], atol=1e-13)
    assert abs(float(one.completeness_gap)) < 1e-13


def test_a_reference_of_the_same_representation_is_no_way(x64):
    f = lambda x: jnp.sum(jnp.sin(x))
    x = jnp.array([0.3, -0.4])
    for representation in (None, lambda x: {"a": x[0], "b": x[1:]}):
        got = ig2(f, representation=representation, steps=3)(x, jnp.stack([x, x]))
        assert np.all(np.asarray(got.values) == 0)
        assert float(got.completeness_gap) == 0
        assert bool(got.finite)


def test_the_mean_is_over_references(classifier, close):
    c = classifier
    references = jnp.asarray(np.random.default_rng(8).normal(size=(5, *c.x.shape)))
    explain = ig2(c.score, representation=c.hidden, steps=4, step_size=0.1)
    single = [explain(c.x, r[None], c.label, c.params) for r in references]
    several = explain(c.x, references, c.label, c.params)
    close(several.values, np.mean([s.values for s in single], axis=0))
    gap = np.mean([s.completeness_gap for s in single])
    np.testing.assert_allclose(several.completeness_gap, gap, atol=1e-12)


def test_the_gap_is_of_first_order_and_dummies_have_none(x64):
    rng = np.random.default_rng(4)
    first, last = map(jnp.asarray, (rng.normal(size=(6, 12)), rng.normal(size=12)))
    hidden = lambda x: jnp.tanh(x[:6] @ first)
    f = lambda x: hidden(x) @ last + 0 * x[6]
    x, references = jnp.asarray(rng.normal(size=7)), jnp.asarray(rng.normal(size=(2, 7)))
    gaps = []
    for steps in (40, 400):
        got = ig2(f, representation=hidden, steps=steps, step_size=1.0 / steps)(x, references)
        assert float(got.values[6]) == 0
        gaps.append(abs(float(got.completeness_gap)))
    assert 0.03 < gaps[1] / gaps[0] < 0.3


def test_bad_input_is_named():
    f = lambda x: jnp.sum(x["a"]) + x["b"]
    x = {"a": jnp.ones(3), "b": jnp.float32(1)}
    good = {"a": jnp.ones((2, 3)), "b": jnp.ones(2)}
    explain = ig2(f, steps=2)
    assert bool(explain(x, good).finite)
    shape = r"each of references\['a'\] must have the shape of x\['a'\], \(3,\), but has \(\)"
    for references, error, message in (
        ({"a": jnp.ones(3), "b": jnp.float32(1)}, ValueError, shape),
        (
            {"a": jnp.ones((2, 3)), "b": jnp.ones(3)},
            ValueError,
            r"different numbers of .*\[2, 3\]",
        ),
        ({"a": jnp.ones((0, 3)), "b": jnp.ones(0)}, ValueError, "at least one"),
        ({"a": jnp.ones((2, 3))}, ValueError, "references must be the same tree as x"),
        ({**good, "b": jnp.ones(2, bool)}, TypeError, r"must have the dtype of x\['b'\], float32"),
        ({**good, "b": "two"}, TypeError, r"leaf at \['b'\] is a str"),
    ):
        with pytest.raises(error, match=message):
            explain(x, references)
    with pytest.raises(TypeError, match="representation must be a function"):
        ig2(f, representation=3)
