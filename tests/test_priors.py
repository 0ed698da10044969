"""Priors: by hand, by the papers' double sums in numpy, derivatives, training through them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.test_util import check_grads

import jaxplain
from jaxplain import priors, rewrite

RANDOM = np.random.default_rng(0)


def test_smoothness_by_hand_and_by_loops(x64):
    image = RANDOM.normal(size=(5, 4, 3))
    expected = 0.0
    for c in range(3):
        for i in range(5):
            for j in range(4):
                expected += abs(image[i + 1, j, c] - image[i, j, c]) if i < 4 else 0
                expected += abs(image[i, j + 1, c] - image[i, j, c]) if j < 3 else 0
    np.testing.assert_allclose(priors.smoothness(image), expected, rtol=1e-13)
    np.testing.assert_allclose(priors.smoothness(image, axes=(-3, -2)), expected, rtol=1e-13)
    along = np.abs(image[1:] - image[:-1]).sum()
    np.testing.assert_allclose(priors.smoothness({"a": image, "b": 2 * image}, 0), 3 * along)
    assert priors.smoothness(np.ones((4, 4, 3))) == 0


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5)])
def test_sparsity_is_the_double_sum(shape, x64):
    values = RANDOM.normal(size=shape)
    a = np.abs(values).ravel()
    expected = -np.abs(a[:, None] - a).sum() / (a.size * a.sum())
    np.testing.assert_allclose(priors.sparsity(values), expected, rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(priors.sparsity(-1e30 * values), expected, rtol=1e-12, atol=1e-16)
    np.testing.assert_allclose(priors.sparsity(list(values)), expected, rtol=1e-13, atol=1e-16)


def test_sparsity_at_its_ends():
    assert priors.sparsity(jnp.full(10, 0.3)) == pytest.approx(0, abs=1e-6)
    assert priors.sparsity(jnp.zeros(10).at[3].set(-2)) == pytest.approx(-1.8)
    value, gradient = jax.value_and_grad(priors.sparsity)(jnp.zeros(10))
    assert value == 0
    assert np.isfinite(gradient).all()
    assert np.isnan(priors.sparsity(jnp.array([1.0, jnp.nan])))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_cosine_is_of_the_angle(scale):
    a, b = RANDOM.normal(size=(2, 9)).astype(np.float32)
    expected = 1 - np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b))
    got = priors.cosine(scale * jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    split = lambda v: {"x": v[:4].reshape(2, 2), "y": v[4:]}
    np.testing.assert_allclose(priors.cosine(split(a), split(scale * b)), expected, rtol=1e-5)
    gradient = jax.grad(priors.cosine)(scale * jnp.asarray(a), jnp.asarray(b))
    # The derivative of a direction's function is orthogonal to it, and falls with its length.
    assert abs(np.dot(gradient * scale, a)) < 1e-5
    assert np.linalg.norm(gradient * scale) > 0.1 / np.linalg.norm(a)


def test_cosine_at_its_ends():
    a = jnp.array([1.0, -2.0, 0.5])
    for other, expected in ((3 * a, 0), (-a, 2), (0 * a, 1)):
        value, gradient = jax.value_and_grad(priors.cosine, argnums=1)(a, other)
        assert value == pytest.approx(expected, abs=1e-6)
        assert np.isfinite(gradient).all()
    assert np.isnan(priors.cosine(a, a.at[1].set(jnp.nan)))


def test_derivatives(x64):
    """Against finite differences, away from ties and zeros, twice: training needs the second."""
    a, b = RANDOM.normal(size=(2, 3, 4))
    terms = (lambda a: priors.cosine(a, b), priors.l1, priors.smoothness, priors.sparsity)
    for term in terms:
        check_grads(jax.jit(term), (a,), order=2, modes=("rev",), eps=1e-6)


def test_dtypes_and_bad_input():
    values = jnp.array([1.0, -3.0, 0.5], jnp.bfloat16)
    assert priors.l1(values) == 4.5
    for term in (priors.l1, priors.sparsity, lambda v: priors.smoothness(v, 0)):
        assert term(values).dtype == jnp.float32
        with pytest.raises(TypeError, match="values must be an array"):
            term("smooth")
        with pytest.raises(ValueError, match="values must hold at least one array"):
            term({})
    assert priors.cosine(values, values.astype(jnp.float32)).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"other must have the shape of x, \(3,\)"):
        priors.cosine(values, values[:2])
    with pytest.raises(ValueError, match=r"axes \(0, 1\) must be axes.*shape \(3,\).*vmap"):
        priors.smoothness(values)
    with pytest.raises(TypeError, match="each of axes must be a Python integer"):
        priors.smoothness(values, [0.5])


def test_training_through_an_attribution_moves_what_the_prior_asks_for():
    """By optax, with the pass outermost: the same gradient, no slow convolution, a descent."""
    key = jax.random.key(0)
    params = {"w": 0.3 * jax.random.normal(key, (3, 3, 1, 4)), "v": jnp.ones(4)}
    images = jax.random.normal(key, (4, 6, 6, 1))

    def f(x, params):
        y = jax.lax.conv_general_dilated(
            x[None], params["w"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(jax.nn.gelu(y) @ params["v"])

    explain = jaxplain.integrated_gradients(f, steps=3, chunk_size=1)

    def loss(params):
        term = lambda x: priors.smoothness(explain(x, jnp.zeros_like(x), params).values)
        return jax.vmap(term)(images).mean()

    step = jax.jit(rewrite.fast(jax.value_and_grad(loss)))
    text = step.lower(params).compile().as_text()
    assert set(re.findall(r"dim_labels=\w+?_(\w+)->", text)) == {"01io"}
    plain = jax.grad(loss)(params)
    for a, b in zip(jax.tree.leaves(step(params)[1]), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max()))
    optimizer = optax.sgd(0.3)
    state, before = optimizer.init(params), loss(params)
    for _ in range(20):
        updates, state = optimizer.update(step(params)[1], state)
        params = optax.apply_updates(params, updates)
    assert loss(params) < 0.8 * before


@pytest.mark.parametrize("prior", [priors.l1, priors.sparsity, lambda v: priors.smoothness(v, 0)])
def test_nothing_is_pushed_where_there_is_nothing(prior):
    """At zero, and at what is constant, the derivative is zero, not that of some order of ties."""
    np.testing.assert_array_equal(jax.grad(prior)(jnp.zeros(4)), 0)
    np.testing.assert_array_equal(jax.grad(lambda v: priors.smoothness(v, 0))(jnp.ones(4)), 0)


def test_sparsity_of_tiny_values():
    """It has no scale: the derivative grows as the values fall, and stays a number."""
    v = jnp.array([1.0, 2.0, 0.5])
    gradient = jax.grad(priors.sparsity)
    np.testing.assert_allclose(1e-25 * gradient(1e-25 * v), gradient(v), rtol=1e-5, atol=1e-7)
