"""Oracles of `average_gradient`. In the library this is tests/<family>/test_average_gradient.py."""

import jax
import jax.numpy as jnp
import numpy as np
from average_gradient import average_gradient  # in the library: from jaxplain.<family> import ...

KEYS = jax.random.split(jax.random.key(0), 64)


def test_closed_form_of_a_cubic():
    # E[3 (x + s z)^2] = 3 x^2 + 3 s^2. The estimate is judged by its own standard error, over
    # 64 fixed seeds x 3 values: beyond 4.5 of them by chance in 1 run of 700 (t with 255 degrees).
    x, scale = jnp.array([-1.0, 0.5, 2.0]), 0.3
    explain = average_gradient(lambda x: jnp.sum(x**3), samples=256, scale=scale)
    result = jax.vmap(explain, in_axes=(0, None))(KEYS, x)
    expected = 3 * np.asarray(x, np.float64) ** 2 + 3 * scale**2
    scores = (np.asarray(result.values, np.float64) - expected) / result.standard_error
    assert np.abs(scores).max() < 4.5
    # And the standard error is no excuse: the scores spread as they should.
    assert 0.8 < scores.std() < 1.2


def test_a_linear_function_is_exact_for_any_noise():
    weights = jnp.array([2.0, -1.0, 0.5])
    result = average_gradient(lambda x, w: x @ w, samples=7, scale=10.0)(
        KEYS[0], jnp.ones(3), weights
    )
    np.testing.assert_array_equal(result.values, weights)
    np.testing.assert_array_equal(result.standard_error, jnp.zeros(3))
    assert result.output == 1.5


def test_chunk_size_changes_the_result_by_rounding_only():
    results = [
        average_gradient(lambda x: jnp.sum(jnp.sin(x)), samples=50, chunk_size=size)(
            KEYS[0], jnp.arange(4.0)
        ).values
        for size in (1, 16, 50)
    ]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-6)
