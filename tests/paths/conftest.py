"""Small classifiers for the walks, in plain jax: `f(x, label, params)`, and for their twins."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

CLASSES = 5


def mlp(x, params):
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    return jnp.tanh(hidden @ params["w2"]) @ params["w3"]


def conv(x, params):
    """A digit of 8 x 8 pixels."""
    hidden = jax.lax.conv_general_dilated(
        x[None, :, :, None],
        params["kernel"],
        (1, 1),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    hidden = jax.lax.reduce_window(
        jax.nn.relu(hidden), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"
    )
    return jnp.tanh(hidden.reshape(-1)) @ params["dense"]


def make(name, seed):
    """The scores, an input and the parameters, in numpy float64."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1]))
    if name == "mlp":
        params = {"w1": draw(12, 16), "b1": 0.3 * draw(16), "w2": draw(16, 8), "w3": draw(8, 5)}
        return mlp, rng.normal(size=12), params
    params = {"kernel": draw(3, 3, 1, 3), "dense": 3 * draw(48, 5)}
    # Some pixels black, as in a digit: equal in x and in a black baseline.
    return conv, np.maximum(rng.uniform(-0.5, 1.0, size=(8, 8)), 0), params


class Classifier:
    """A network, one input, and its values and gradients as functions of numpy arrays."""

    def __init__(self, name, seed):
        scores, x, params = make(name, seed)
        self.classes = CLASSES
        self.x = jnp.asarray(x)
        self.params = jax.tree.map(jnp.asarray, params)
        self.score = lambda x, label, params: scores(x, params)[label]
        self.hidden = lambda x, label, params: jnp.tanh(scores(x, params)[:3])
        value = jax.jit(lambda x: scores(x, self.params))
        gradients = jax.jit(jax.jacrev(lambda x: scores(x, self.params)))
        hidden = jax.jit(lambda x: self.hidden(x, 0, self.params))
        towards = jax.jit(
            jax.grad(lambda x, aim: jnp.sum((self.hidden(x, 0, self.params) - aim) ** 2))
        )
        self.values = lambda x: np.asarray(value(x))
        self.gradient = lambda x, label: np.asarray(gradients(x))[label]
        self.hidden_of = lambda x: np.asarray(hidden(x))
        self.towards = lambda x, aim: np.asarray(towards(x, aim))
        self.label = int(np.argmax(self.values(self.x)))


cached = functools.cache(Classifier)


@pytest.fixture(params=["mlp 0", "mlp 1", "conv 0"])
def classifier(request, x64):
    name, seed = request.param.split()
    return cached(name, int(seed))


@pytest.fixture
def close():
    """Equal to 1e-9 of the largest number."""

    def check(got, expected, tolerance=1e-9):
        expected = np.asarray(expected)
        np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max(), rtol=0)

    return check
