"""Any path: against numpy in float64, closed forms, and completeness whatever the path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

import jaxplain
from jaxplain import paths
from jaxplain.paths import _kernel

KEY = jax.random.key(0)


def network(x, params):
    return jnp.sum(jnp.tanh(x @ params["w"]) * params["v"])


def case(seed, dtype=jnp.float64):
    keys = jax.random.split(jax.random.fold_in(KEY, seed), 4)
    params = {"w": jax.random.normal(keys[0], (5, 7)), "v": jax.random.normal(keys[1], (7,))}
    x, baseline = (jax.random.normal(key, (5,)) for key in keys[2:])
    return jax.tree.map(lambda leaf: leaf.astype(dtype), (x, baseline, params))


def spiral(t, x, baseline):
    """Goes round: each element at a pace of its own, some past x and back."""
    pace = jnp.arange(1, 6).astype(x.dtype) / 2
    return baseline + (x - baseline) * (t**pace + jnp.sin(3 * t * (1 - t)))


def test_against_numpy(x64):
    """The sum over nodes, with the velocity by central differences."""
    x, baseline, params = case(0)
    result = paths.path_attribution(network, path=spiral, steps=40)(x, baseline, params)
    w, v = np.asarray(params["w"]), np.asarray(params["v"])
    x, baseline = np.asarray(x), np.asarray(baseline)
    pace = np.arange(1, 6) / 2
    gamma = lambda t: baseline + (x - baseline) * (t**pace + np.sin(3 * t * (1 - t)))
    gradient = lambda z: w @ (v * (1 - np.tanh(z @ w) ** 2))
    expected = np.zeros(5)
    for t, weight in zip(*paths.gauss_legendre(40), strict=True):
        velocity = (gamma(t + 1e-6) - gamma(t - 1e-6)) / 2e-6
        expected += weight * gradient(gamma(t)) * velocity
    np.testing.assert_allclose(result.values, expected, atol=1e-7)
    assert int(result.evaluations) == 40


@pytest.mark.pins
@pytest.mark.parametrize("options", [{"steps": 64}, {"tolerance": 1e-6}], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_every_path_is_complete(options, seed, x64):
    x, baseline, params = case(seed)
    smooth = lambda t, x, b: b + (x - b) * (t**2 + 0.5 * jnp.sin(jnp.pi * t) * jnp.cos(x))
    result = paths.path_attribution(network, path=smooth, **options)(x, baseline, params)
    np.testing.assert_allclose(result.output, network(x, params), rtol=1e-12)
    assert abs(float(result.completeness_gap)) < 1e-5


def test_the_pace_does_not_matter(x64):
    """An integral along a path does not depend on how fast it is walked."""
    x, baseline, params = case(1)
    slow = lambda t, x, b: b + t**3 * (x - b)
    got = paths.path_attribution(network, path=slow, steps=64)(x, baseline, params)
    expected = paths.integrated_gradients(network, steps=64)(x, baseline, params)
    np.testing.assert_allclose(got.values, expected.values, atol=1e-10)


def test_a_path_along_the_axes(x64):
    """One feature after the other: each gets what f changes by while it moves, in closed form."""
    x, baseline, params = case(2)

    def staircase(t, x, b):
        return b + (x - b) * jnp.clip(5 * t - jnp.arange(5).astype(x.dtype), 0.0, 1.0)

    rule = paths.composite(paths.gauss_legendre, 5)
    result = paths.path_attribution(network, path=staircase, rule=rule, steps=100)(
        x, baseline, params
    )
    corners = [jnp.where(jnp.arange(5) < k, x, baseline) for k in range(6)]
    outputs = [float(network(corner, params)) for corner in corners]
    np.testing.assert_allclose(result.values, np.diff(outputs), atol=1e-10)


def test_straight_line_is_integrated_gradients():
    x, baseline, params = case(3, jnp.float32)
    got = paths.path_attribution(network, steps=9)(x, baseline, params)
    expected = jaxplain.integrated_gradients(network, steps=9)(x, baseline, params)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_a_path_that_ends_elsewhere_says_where(x64):
    x, baseline, params = case(4)
    halfway = lambda t, x, b: b + (0.25 + t / 2) * (x - b)
    result = paths.path_attribution(network, path=halfway, steps=32)(x, baseline, params)
    for got, t in ((result.baseline_output, 0.25), (result.output, 0.75)):
        point = paths.straight_line(t, x, baseline)
        np.testing.assert_allclose(got, network(point, params), rtol=1e-12)
    assert abs(float(result.completeness_gap)) < 1e-12


@pytest.mark.parametrize("rule", [paths.trapezoid, paths.clenshaw_curtis], ids=lambda r: r.__name__)
@pytest.mark.parametrize("path", [paths.straight_line, spiral], ids=["line", "spiral"])
def test_rules_with_both_ends_evaluate_nothing_twice(rule, path):
    """f is traced for its gradient alone: the outputs at the ends come with it."""
    x, baseline, params = case(5, jnp.float32)
    calls = []

    def counted(x, params):
        calls.append(1)
        return network(x, params)

    result = paths.path_attribution(counted, path=path, rule=rule, steps=9, hoist=False)(
        x, baseline, params
    )
    assert len(calls) <= 2, "once for its type on a mesh, once for the gradient"
    for got, t in ((result.baseline_output, 0.0), (result.output, 1.0)):
        np.testing.assert_allclose(got, network(path(t, x, baseline), params), rtol=1e-5)


def test_gradients_that_a_rule_does_not_need():
    """Nodes at the borders of panels are taken once, nodes of weight zero not at all."""
    nodes, weights = _kernel.merged(*paths.composite(paths.trapezoid, 3)(9))
    np.testing.assert_allclose(nodes, np.arange(7) / 6)
    np.testing.assert_allclose(weights, [1 / 12, *[1 / 6] * 5, 1 / 12])
    lazy = lambda steps: (np.linspace(0, 1, 5), np.array([0, 0.5, 0.0, 0.5, 0]))
    x, baseline, params = case(6, jnp.float32)
    result = paths.integrated_gradients(network, rule=lazy, steps=5)(x, baseline, params)
    assert int(result.evaluations) == 2
    with pytest.raises(ValueError, match="weights that are all zero"):
        paths.integrated_gradients(network, rule=lambda n: (np.zeros(2), np.zeros(2)), steps=2)


def test_bad_paths():
    x, baseline, params = case(7, jnp.float32)
    with pytest.raises(ValueError, match=r"must return a point like x.* but returned \(2,\)"):
        paths.path_attribution(network, path=lambda t, x, b: x[:2])(x, baseline, params)
    with pytest.raises(TypeError, match="path must be a function, but is a str"):
        paths.path_attribution(network, path="line")


# ----------------------------------------------------------------------------- products, blur


def test_product_of_paths(x64):
    keys = jax.random.split(KEY, 2)
    x = {"image": jax.random.normal(keys[0], (6, 5, 2)), "text": jax.random.normal(keys[1], (4,))}
    baseline = jax.tree.map(lambda leaf: 0.1 * leaf**2, x)
    f = lambda x: jnp.sum(jnp.sin(x["image"])) * jnp.sum(jnp.cos(x["text"]))
    path = paths.product({"image": paths.blur(max_sigma=2.0), "text": paths.straight_line})
    result = paths.path_attribution(f, path=path, steps=64)(x, baseline)
    blurred = paths.blur(max_sigma=2.0)(0.0, x["image"], None)
    start = {"image": blurred, "text": baseline["text"]}
    np.testing.assert_allclose(result.baseline_output, f(start), rtol=1e-10)
    np.testing.assert_allclose(result.output, f(x), rtol=1e-12)
    assert abs(float(result.completeness_gap)) < 1e-8
    with pytest.raises(ValueError, match="upper part of the tree of x"):
        paths.product({"image": paths.blur()})(0.5, x, baseline)
    with pytest.raises(ValueError, match="empty tree"):
        paths.product({})
    with pytest.raises(TypeError, match="each leaf of paths must be a function"):
        paths.product({"image": 3})


IMAGE = np.random.default_rng(0).normal(size=(24, 17, 2))


@pytest.mark.parametrize("sigma", [1.5, 3.0, 8.0])
def test_blur_is_a_gaussian_filter(sigma, x64):
    """Scipy's, with mirrored edges: sampled, it aliases what exp(-(pi sigma)^2 / 2) leaves."""
    got = paths.blur(max_sigma=sigma)(0.0, jnp.asarray(IMAGE), None)
    expected = scipy.ndimage.gaussian_filter(
        IMAGE, sigma, axes=(0, 1), mode="reflect", truncate=8.0
    )
    aliased = np.exp(-((np.pi * sigma) ** 2) / 2)
    np.testing.assert_allclose(got, expected, atol=aliased + 1e-9)
    np.testing.assert_allclose(got.mean((0, 1)), IMAGE.mean((0, 1)), atol=1e-14)


def test_blur_diffuses(x64):
    """A semigroup: the blurs of sigma 3 and then 4 are that of 5; no blur is x to the last bit."""
    x = jnp.asarray(IMAGE)
    at = lambda sigma, x: paths.blur(max_sigma=sigma)(0.0, x, None)
    np.testing.assert_allclose(at(4.0, at(3.0, x)), at(5.0, x), atol=1e-12)
    np.testing.assert_array_equal(paths.blur()(1.0, x, None), x)
    np.testing.assert_array_equal(at(0.0, x), x)


def test_blur_integrated_gradients(x64):
    """Against the sum over nodes with velocities by central differences of scipy's filter."""
    weights = np.random.default_rng(1).normal(size=IMAGE.shape)
    f = lambda x: jnp.sum(jnp.tanh(x * weights))
    explain = paths.blur_integrated_gradients(f, max_sigma=12.0, steps=24)
    result = explain(jnp.asarray(IMAGE))

    def scale_space(t):
        sigma = 12.0 * (1 - t) ** 2
        return np.asarray(paths.blur(max_sigma=sigma)(0.0, jnp.asarray(IMAGE), None))

    expected = np.zeros_like(IMAGE)
    for t, weight in zip(*paths.gauss_legendre(24), strict=True):
        velocity = (scale_space(t + 1e-5) - scale_space(t - 1e-5)) / 2e-5
        expected += weight * velocity * weights / np.cosh(scale_space(t) * weights) ** 2
    np.testing.assert_allclose(result.values, expected, atol=1e-7)
    np.testing.assert_allclose(result.baseline_output, f(scale_space(0.0)), rtol=1e-10)
    fine = paths.blur_integrated_gradients(f, max_sigma=12.0, tolerance=1e-6)(jnp.asarray(IMAGE))
    assert abs(float(fine.completeness_gap)) < 1e-5


def test_blur_options():
    x = jnp.asarray(IMAGE, jnp.float32)
    row = paths.blur(max_sigma=2.0, axes=(1,))(0.0, x, None)
    np.testing.assert_allclose(row.mean(1), x.mean(1), atol=1e-6)
    assert float(jnp.abs(row.mean(0) - x.mean(0)).max()) > 0.01
    flat = paths.blur(max_sigma=2.0)(0.0, x[..., 0], None)  # two axes: both are space
    np.testing.assert_allclose(flat, paths.blur(max_sigma=2.0)(0.0, x, None)[..., 0], atol=1e-6)
    swept = jax.jit(lambda sigma: paths.blur(max_sigma=sigma)(0.0, x, None))
    np.testing.assert_allclose(swept(2.0)[..., 0], flat, atol=1e-6)
    for sigma in (-1.0, np.inf):
        with pytest.raises(ValueError, match="max_sigma must be finite and at least 0"):
            paths.blur(max_sigma=sigma)
    with pytest.raises(ValueError, match="no axis 5"):
        paths.blur(axes=(0, 5))(0.0, x, None)
