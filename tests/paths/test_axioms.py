"""The axioms of attribution, for every path method they hold for, over random small networks.

    dummy                       a feature that f does not read gets nothing
    implementation invariance   two programs of one function get the same
    symmetry                    two features that f cannot tell apart, with equal values, get equal
    linearity                   the attribution of a f + c g is a that of f + c that of g
    sensitivity                 where one feature alone makes a difference, it gets all of it
    completeness                the values sum to the change of f along the path

In float32 and in float64, on networks with kinks and without.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import gradients, paths

FEATURES, NETWORKS = 6, 6


class Method(NamedTuple):
    """How a method is called, and which axioms beside the first two it keeps."""

    make: Callable[[Any], Callable]
    given: str = "x b l p"  # k(ey), x, b(aseline), s(everal baselines), l(abel), p(arams)
    linear: bool = False
    symmetric: bool = True
    complete: float | None = None  # to this share of the values, or not at all
    kinks: bool = True  # complete with kinks too


METHODS = {
    "integrated gradients": Method(
        lambda f: paths.integrated_gradients(f, steps=96), linear=True, complete=2e-2
    ),
    "to a tolerance": Method(
        lambda f: paths.integrated_gradients(f, tolerance=1e-3), complete=2e-2
    ),
    "a curved path": Method(
        lambda f: paths.path_attribution(
            f, path=lambda t, x, b: b + t.astype(x.dtype) ** 2 * (x - b), steps=96
        ),
        linear=True,
        complete=2e-2,
    ),
    "blur": Method(
        lambda f: paths.blur_integrated_gradients(f, max_sigma=1.5, steps=96),
        given="x l p",
        linear=True,
        symmetric=False,  # neighbours of a feature differ
        complete=2e-2,
    ),
    "idgi": Method(lambda f: paths.idgi(f, steps=16), complete=1e-4),
    "idg": Method(lambda f: paths.idg(f, steps=32)),
    "left": Method(lambda f: paths.left_integrated_gradients(f, steps=32)),
    "expected gradients": Method(
        lambda f: paths.expected_gradients(f, samples=64), given="k x s l p", linear=True
    ),
    "gradient shap, no noise": Method(
        lambda f: paths.gradient_shap(f, samples=64, noise=0.0), given="k x s l p", linear=True
    ),
    "lpi": Method(lambda f: paths.lpi(f, samples=64, neighbours=2), given="k x s l p", linear=True),
    "guided": Method(
        lambda f: paths.guided_integrated_gradients(f, steps=400), symmetric=False, complete=5e-2
    ),
    "samp": Method(
        lambda f: paths.samp_plus_plus(f, pixels=1, constraint=0.005, momentum=None),
        symmetric=False,  # one pixel at a time: ties go to the first
        complete=5e-2,
        kinks=False,  # the greedy path slides along a kink, and each step crosses it
    ),
    "adversarial": Method(
        lambda f: paths.adversarial_gradient_integration(f, classes=3, targets=2, steps=8),
        given="k x l p",
    ),
    "mfaba": Method(lambda f: paths.mfaba(f, classes=3, steps=8), given="x l p"),
    "ig2": Method(lambda f: paths.ig2(f, steps=12), given="x s l p"),
    "smoothgrad": Method(
        lambda f: gradients.smoothgrad(f, samples=16),
        given="k x l p",
        linear=True,
        symmetric=False,  # features have noise of their own
    ),
}

methods = pytest.mark.parametrize("name", METHODS)
precisions = pytest.mark.parametrize("precision", ["float32", "float64"])
ROUNDING = {"float32": 2e-4, "float64": 1e-10}


@pytest.fixture(autouse=True)
def _in_precision(request):
    with jax.enable_x64("float64" in request.node.name):
        yield


def networks(precision):
    """Random parameters with a leading axis; the last feature is read by none of them."""
    draw = lambda shape, seed: np.random.default_rng(seed).normal(size=(NETWORKS, *shape))
    params = {"w": draw((FEATURES, 9), 1), "c": 0.3 * draw((9,), 2), "v": draw((9, 3), 3)}
    params["w"][:, -1] = 0
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, precision), params)


def example(precision):
    generator = np.random.default_rng(4)
    x, baseline = generator.normal(size=(2, NETWORKS, FEATURES))
    several = generator.normal(size=(NETWORKS, 4, FEATURES))
    as_array = lambda v: jnp.asarray(v, precision)
    return as_array(x), as_array(0.3 * baseline), as_array(several)


def smooth(x, label, p):
    return jnp.dot(jnp.tanh(jnp.dot(x, p["w"]) + p["c"]), p["v"])[label]


def with_kinks(x, label, p):
    return jnp.dot(jnp.maximum(jnp.dot(x, p["w"]) + p["c"], 0), p["v"])[label]


def explain(name, f, x, baseline, several, params):
    method = METHODS[name]
    explain = method.make(f)
    key, label = jax.random.key(5), jnp.int32(1)
    pool = {"k": key, "x": x, "b": baseline, "s": several, "l": label, "p": params}
    words = method.given.split()
    axes = tuple(None if word in "kl" else 0 for word in words)
    return jax.jit(jax.vmap(explain, axes))(*(pool[word] for word in words))


def assert_equal(got, expected, precision):
    largest = np.abs(expected).max()
    np.testing.assert_allclose(got, expected, atol=ROUNDING[precision] * largest, rtol=0)


@methods
@precisions
@pytest.mark.parametrize("f", [smooth, with_kinks], ids=["smooth", "kinks"])
def test_dummy(name, precision, f):
    values = explain(name, f, *example(precision), networks(precision)).values
    np.testing.assert_array_equal(values[:, -1], 0)
    assert (np.abs(values[:, :-1]).max(axis=1) > 0).all()


@methods
@precisions
def test_implementation_invariance(name, precision):
    """The same function by other operations, its hidden units in another order."""
    order = np.array([3, 1, 4, 0, 8, 2, 6, 5, 7])

    def other(x, label, p):
        hidden = jnp.sum(x[:, None] * p["w"][:, order] * 2, axis=0) / 2 + p["c"][order]
        wave = 2 / (1 + jnp.exp(-2 * hidden)) - 1  # tanh
        return jnp.sum(p["v"][order].T * wave[None], axis=1)[label]

    arguments = *example(precision), networks(precision)
    got, expected = (explain(name, f, *arguments).values for f in (other, smooth))
    assert_equal(got, expected, precision)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.symmetric])
@precisions
def test_symmetry(name, precision):
    """Features 0 and 1 have the same weights and the same values, in x and in each baseline."""
    params = networks(precision)
    params["w"] = params["w"].at[:, 1].set(params["w"][:, 0])
    tie = lambda v: v.at[..., 1].set(v[..., 0])
    values = explain(name, smooth, *map(tie, example(precision)), params).values
    assert_equal(values[:, 0], values[:, 1], precision)
    assert np.abs(values[:, 0]).max() > 0


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.linear])
@precisions
def test_linearity(name, precision):
    arguments = *example(precision), networks(precision)
    sum_of = lambda x, label, p: 2 * smooth(x, label, p) - 3 * with_kinks(x, label, p)
    got = explain(name, sum_of, *arguments).values
    first, second = (explain(name, f, *arguments).values for f in (smooth, with_kinks))
    assert_equal(got, 2 * first - 3 * second, precision)


COMPLETE = [n for n, m in METHODS.items() if m.complete is not None]


@pytest.mark.parametrize("name", COMPLETE)
@precisions
@pytest.mark.parametrize("f", [smooth, with_kinks], ids=["smooth", "kinks"])
def test_completeness(name, precision, f):
    """To the error of the quadrature, which the gap reports truly."""
    if f is with_kinks and not METHODS[name].kinks:
        pytest.skip("not promised")
    result = explain(name, f, *example(precision), networks(precision))
    change = np.asarray(result.output - result.baseline_output, np.float64)
    gap = np.asarray(result.values, np.float64).sum(axis=1) - change
    scale = np.abs(result.values).sum(axis=1)
    np.testing.assert_allclose(result.completeness_gap, gap, atol=1e-5 * scale.max())
    assert (np.abs(gap) <= METHODS[name].complete * scale).all()


@pytest.mark.parametrize("name", [n for n in COMPLETE if METHODS[n].given == "x b l p"])
@precisions
def test_sensitivity(name, precision):
    """x and the baseline differ in one feature: it gets all, the others nothing."""
    x, baseline, several = example(precision)
    baseline = x.at[:, 2].set(baseline[:, 2])
    result = explain(name, smooth, x, baseline, several, networks(precision))
    change = np.asarray(result.output - result.baseline_output)
    assert (np.abs(change) > 1e-3).all()
    if name != "idgi":  # shares by the gradient alone, and so breaks this axiom
        others = np.delete(np.asarray(result.values), 2, axis=1)
        np.testing.assert_allclose(others, 0, atol=1e-7 * np.abs(change).max())
        tolerance = METHODS[name].complete * np.abs(change) + 1e-6
        assert (np.abs(result.values[:, 2] - change) <= tolerance).all()
    else:
        assert np.abs(np.delete(np.asarray(result.values), 2, axis=1)).max() > 0


def test_exact_integration_keeps_them_exactly(request):
    """Of networks with kinks only, in float64."""
    with jax.enable_x64(True):
        x, baseline, _ = example("float64")
        params = networks("float64")
        exact = paths.exact_integrated_gradients(with_kinks)
        result = jax.vmap(exact, (0, 0, None, 0))(x, baseline, jnp.int32(1), params)
        np.testing.assert_array_equal(result.values[:, -1], 0)
        scale = np.abs(result.values).max()
        np.testing.assert_allclose(result.completeness_gap, 0, atol=1e-10 * scale)
        twice = lambda x, label, p: 2 * with_kinks(x, label, p)
        doubled = jax.vmap(paths.exact_integrated_gradients(twice), (0, 0, None, 0))(
            x, baseline, jnp.int32(1), params
        )
        np.testing.assert_allclose(doubled.values, 2 * result.values, atol=1e-10 * scale)
