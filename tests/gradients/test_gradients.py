"""The gradient methods against closed forms."""

import jax.numpy as jnp
import numpy as np

import jaxplain
from jaxplain import gradients

X = jnp.array([1.0, -2.0, 0.5])


def f(x, weight):
    return weight * jnp.sin(x[0]) * x[1] + x[2] ** 3


def slope(x, weight):
    return np.array([weight * np.cos(x[0]) * x[1], weight * np.sin(x[0]), 3 * x[2] ** 2])


def test_saliency_is_the_absolute_gradient():
    result = jaxplain.saliency(f)(X, 2.0)
    np.testing.assert_allclose(result.values, np.abs(slope(np.asarray(X), 2.0)), rtol=1e-6)
    np.testing.assert_allclose(result.output, f(X, 2.0), rtol=1e-6)
    signed = gradients.saliency(f, absolute=False)(X, 2.0).values
    np.testing.assert_allclose(signed, slope(np.asarray(X), 2.0), rtol=1e-6)


def test_input_x_gradient_of_a_linear_function_is_its_terms():
    result = jaxplain.input_x_gradient(lambda x, w: jnp.dot(w, x))(X, jnp.array([2.0, 1.0, -3.0]))
    np.testing.assert_allclose(result.values, [2.0, -2.0, -1.5], rtol=1e-6)
    product = jaxplain.input_x_gradient(f)(X, 2.0).values
    np.testing.assert_allclose(product, np.asarray(X) * slope(np.asarray(X), 2.0), rtol=1e-6)
