"""Attribution to layers against closed forms and quadrature in numpy, and as compositions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import gradients, paths, sites

W = jax.random.normal(jax.random.key(0), (4, 3))
V = jnp.array([1.0, -2.0, 0.5])
X, B = jnp.array([0.5, -1.0, 2.0, 0.3]), jnp.array([0.1, 0.2, -0.3, 0.0])
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-11)


def f(x, w, v):
    hidden = sites.tag(jnp.tanh(x @ w), "hidden")
    return jnp.sum(v * hidden**2)


def by_quadrature(x, b, w, v, count=200):
    """The gradient by the hidden values, and these times their velocity, integrated."""
    t, weights = np.polynomial.legendre.leggauss(count)
    t, weights = (t + 1) / 2, weights / 2
    hidden = np.tanh((b + t[:, None] * (x - b)) @ w)
    gradient = 2 * v * hidden
    velocity = (1 - hidden**2) * ((x - b) @ w)
    return weights @ gradient, weights @ (gradient * velocity)


@pytest.fixture
def double(x64):
    return tuple(jnp.asarray(np.asarray(a), jnp.float64) for a in (X, B, W, V))


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_conductance_and_internal_influence(double, chunk_size):
    x, b, w, v = double
    influence, flow = by_quadrature(*map(np.asarray, double))
    options = {"steps": 40, "chunk_size": chunk_size}
    r = paths.conductance(f, "hidden", **options)(x, b, w, v)
    close(r.values, flow)
    close(r.value, np.tanh(np.asarray(x @ w)))
    close(r.baseline_value, np.tanh(np.asarray(b @ w)))
    assert float(r.output) == float(f(x, w, v))
    assert abs(float(r.completeness_gap)) < 1e-10  # all that f depends on passes the site
    assert int(r.evaluations) == 40
    close(paths.internal_influence(f, "hidden", **options)(x, b, w, v).values, influence)


def test_conductance_by_differences_converges_to_it(double):
    x, b, w, v = double
    explain = lambda steps: paths.conductance(
        f, "hidden", steps=steps, velocity="difference", rule=paths.trapezoid
    )(x, b, w, v)
    _, flow = by_quadrature(*map(np.asarray, double))
    errors = [np.abs(explain(steps).values - flow).max() for steps in (50, 100, 200)]
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]


def test_the_chain_of_attributions(double):
    """Conductance, summed, is what Integrated Gradients sums to; of one unit it is by input too."""
    x, b, w, v = double
    total = paths.integrated_gradients(f, steps=40)(x, b, w, v).values.sum()
    r = paths.conductance(f, "hidden", steps=40)(x, b, w, v)
    close(r.values.sum(), total)

    def through_unit(x, *rest):
        value = sites.read(f, "hidden")(x, *rest)[1]["hidden"]
        gradient = jax.grad(sites.at(f, "hidden"))(value, x, *rest)
        return value[1] * jax.lax.stop_gradient(gradient[1])

    of_inputs = paths.integrated_gradients(through_unit, steps=40)(x, b, w, v).values
    close(of_inputs.sum(), r.values[1])


def test_one_of_several_hits_scanned_or_not():
    params = jax.random.normal(jax.random.key(3), (3, 4, 4)) / 2

    def block(x, w):
        return sites.tag(jnp.tanh(x @ w), "h")

    def unrolled(x, params):
        for w in params:
            x = block(x, w)
        return x.sum()

    def scanned(x, params):
        return jax.lax.scan(lambda x, w: (block(x, w), None), x, params)[0].sum()

    results = [paths.conductance(g, "h[1]", steps=24)(X, B, params) for g in (unrolled, scanned)]
    np.testing.assert_allclose(results[0].values, results[1].values, rtol=1e-5, atol=1e-6)
    assert abs(float(results[0].completeness_gap)) < 1e-4


def test_grad_cam_by_hand():
    kernel = jax.random.normal(jax.random.key(4), (3, 3, 2, 5))
    weights = jax.random.normal(jax.random.key(5), (5,))
    image = jax.random.normal(jax.random.key(6), (6, 7, 2))

    def convolve(image, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image[None], kernel, (1, 1), "SAME", dimension_numbers=numbers
        )[0]

    def f(image, kernel, weights):
        maps = sites.tag(jax.nn.relu(convolve(image, kernel)), "maps")
        return jnp.tanh(jnp.mean(maps, axis=(0, 1)) @ weights)

    maps = np.asarray(jax.nn.relu(convolve(image, kernel)), np.float64)
    pooled = maps.mean(axis=(0, 1))
    slope = (1 - np.tanh(pooled @ weights) ** 2) * np.asarray(weights, np.float64) / 42
    expected = (maps * slope).sum(axis=-1)
    assert (expected > 0).any()
    assert (expected < 0).any()
    both = gradients.grad_cam(f, "maps", positive=False)(image, kernel, weights)
    np.testing.assert_allclose(both.values, expected, rtol=1e-4, atol=1e-7)
    r = gradients.grad_cam(f, "maps")(image, kernel, weights)
    np.testing.assert_allclose(r.values, np.maximum(expected, 0), rtol=1e-4, atol=1e-7)
    assert r.values.shape == (6, 7)
    assert float(r.output) == pytest.approx(float(f(image, kernel, weights)))
    assert bool(r.finite)
    first = lambda image, *rest: f(jnp.moveaxis(image, 0, -1), *rest)
    moved = gradients.grad_cam(first, "maps", channel_axis=-1)(
        jnp.moveaxis(image, -1, 0), kernel, weights
    )
    np.testing.assert_allclose(moved.values, r.values, rtol=1e-5, atol=1e-7)


def test_layers_of_token_ids_and_of_dicts():
    table = jax.random.normal(jax.random.key(7), (10, 4))

    def f(tokens, table):
        embedded = sites.tag(table[tokens], "embedding")
        return jnp.sum(jnp.tanh(embedded) ** 2)

    tokens = jnp.array([1, 5, 5])
    cam = gradients.grad_cam(f, "embedding")(tokens, table)
    assert cam.values.shape == (3,)
    value = table[tokens]
    r = jaxplain.integrated_gradients(sites.at(f, "embedding"), steps=32)(
        value, jnp.zeros_like(value), tokens, table
    )
    assert abs(float(r.completeness_gap)) < 1e-4

    def g(x, table):
        return jnp.sum(sites.tag(x["a"] * x["b"], "product") * table[0])

    x = {"a": jnp.ones(4), "b": jnp.arange(4.0)}
    b = jax.tree.map(jnp.zeros_like, x)
    flow = paths.conductance(g, "product", steps=8)(x, b, table)
    np.testing.assert_allclose(flow.values, jnp.arange(4.0) * table[0], rtol=1e-5, atol=1e-6)


def test_batches_bfloat16_and_one_trace():
    explain = paths.conductance(f, "hidden", steps=8)
    many = jnp.stack([X, 2 * X])
    mapped = jax.jit(jax.vmap(explain, (0, None, None, None)))(many, B, W, V)
    np.testing.assert_allclose(mapped.values[1], explain(2 * X, B, W, V).values, rtol=1e-5)
    half = explain(*(a.astype(jnp.bfloat16) for a in (X, B, W, V)))
    assert half.values.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        half.values.astype(jnp.float32), explain(X, B, W, V).values, atol=0.1
    )


whole = lambda x: x[sites.tag(jnp.argsort(x), "order")][0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: paths.conductance(f, "hidden", velocity="jvp"), ValueError, "velocity must be"),
        (lambda: paths.conductance(f, "hiden")(X, B, W, V), ValueError, "Near: 'hidden'"),
        (lambda: paths.conductance(f, 3), TypeError, "names must be"),
        (lambda: paths.internal_influence(f, "hidden", steps=0), ValueError, "steps must be"),
        (lambda: paths.internal_influence(f, "hidden", rule=3), TypeError, "rule must be"),
        (lambda: paths.conductance(f, "hidden")(X, B[:2], W, V), ValueError, "baseline must have"),
        (
            lambda: gradients.grad_cam(f, "hidden", channel_axis="a"),
            TypeError,
            "must be a Python integer",
        ),
        (lambda: gradients.grad_cam(whole, "order")(X), TypeError, "'order' has the dtype int32"),
        (lambda: paths.conductance(whole, "order")(X, B), TypeError, "'order' has the dtype int32"),
        (lambda: gradients.grad_cam(f, "hidden", channel_axis=2)(X, W, V), ValueError, "axis is 2"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
