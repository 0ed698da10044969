"""Intrinsic contributions: the linear model in closed form, a network, a chain of copies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol

KEY = jax.random.key(0)


def test_a_linear_model_in_closed_form():
    """X = A X + N: the target is a row of (1 - A)^-1 N, and N_j contributes its square Var N_j."""
    A = np.array([[0, 0, 0, 0], [0.8, 0, 0, 0], [-0.5, 1.5, 0, 0], [0.3, 0, 0.7, 0]])
    deviations = np.array([1.0, 0.5, 2.0, 1.2])
    names = ["a", "b", "c", "d"]
    equations = {
        name: lambda values, noise, row=row: (
            sum(jnp.float32(A[row, k]) * values[names[k]] for k in range(row)) + noise
        )
        for row, name in enumerate(names)
    }
    noises = {n: sobol.normal(0.0, float(s)) for n, s in zip(names, deviations, strict=True)}
    for target, row in ((None, 3), ("c", 2)):
        parts = (np.linalg.inv(np.eye(4) - A)[row] * deviations) ** 2
        analyse = sobol.intrinsic_contributions(equations, noises, target=target, samples=2**13)
        s = analyse(KEY)
        np.testing.assert_allclose(s.effects, parts / parts.sum(), atol=0.02)
        np.testing.assert_allclose(s.variance, parts.sum(), rtol=0.02)
        assert np.all(np.abs(s.effects - parts / parts.sum()) <= 3 * s.effects_error + 1e-6)


def test_what_is_only_handed_on_contributes_nothing():
    """Copies of copies: all of the variance is the first one's."""
    copy = lambda values, noise: list(values.values())[-1] + 0 * noise
    equations = {"x": lambda _, noise: noise, "y": copy, "z": copy}
    noises = {name: sobol.uniform(0.0, 1.0) for name in equations}
    s = sobol.intrinsic_contributions(equations, noises, samples=1024)(KEY)
    np.testing.assert_allclose(s.effects, [1, 0, 0], atol=0.05)
    np.testing.assert_allclose(s.total_order[1:], 0, atol=1e-10)


def test_a_network_of_noisy_layers_with_parameters():
    """Two layers; the noises of a layer are one player. A linear one has a closed form."""
    equations = {
        "input": lambda _, noise, params: noise,
        "hidden": lambda v, noise, params: params["first"] @ v["input"] + noise,
        "output": lambda v, noise, params: params["second"] @ v["hidden"] + noise,
    }
    noises = {
        "hidden": sobol.normal(jnp.zeros(2), 0.5),
        "input": sobol.normal(jnp.zeros(3), 1.0),
        "output": sobol.normal(0.0, 2.0),
    }
    params = {
        "first": jnp.array([[1.0, -1.0, 0.5], [0.0, 2.0, 1.0]]),
        "second": jnp.array([1.0, 0.5]),
    }
    analyse = sobol.intrinsic_contributions(equations, noises, samples=2**13)
    s = analyse(KEY, params)
    first, second = np.asarray(params["first"]), np.asarray(params["second"])
    parts = np.array([np.sum((second @ first) ** 2), np.sum(second**2) * 0.25, 4.0])
    np.testing.assert_allclose(s.effects, parts / parts.sum(), atol=0.02)


def test_sobol_indices_of_the_same_model_and_bad_input():
    equations = {"x": lambda _, n: n, "y": lambda v, n: v["x"] * n}
    noises = {name: sobol.uniform(-1.0, 1.0) for name in equations}
    f = sobol.structural_model(equations)
    s = sobol.indices(f, noises, samples=2**12, sampler=qmc.sobol)(KEY)
    np.testing.assert_allclose(s.first_order["x"], 0, atol=0.01)
    np.testing.assert_allclose(s.total_order["y"], 1, atol=0.01)
    with pytest.raises(ValueError, match=r"names of the equations, \['x', 'y'\].*\['x'\]"):
        sobol.intrinsic_contributions(equations, {"x": sobol.uniform(0.0, 1.0)})
    with pytest.raises(ValueError, match=r"target must be one of .*'z'"):
        sobol.structural_model(equations, target="z")
    with pytest.raises(TypeError, match="the equation of 'x' must be a function"):
        sobol.structural_model({"x": 3})
