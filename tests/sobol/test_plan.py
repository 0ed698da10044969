"""Design and analyse: the indices of the model in JAX, from any chunks and any simulator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import qmc, sobol
from jaxplain.sobol import estimators

KEY = jax.random.key(0)
INPUTS = {"a": sobol.uniform(-1.0, 2.0), "b": sobol.normal(jnp.zeros(2), jnp.array([1.0, 0.5]))}


def f(x):
    """Of one point (jnp), or of many (numpy): the last axis of b is its own."""
    numpy = jnp if isinstance(x["a"], jax.Array) else np
    return numpy.sin(x["a"]) * (1 + x["b"][..., 0]) + x["b"][..., 1] ** 2


def vector(x):
    numpy = jnp if isinstance(x["a"], jax.Array) else np
    return numpy.stack([f(x), 3 + x["a"], 0 * x["a"]], axis=-1)


def assert_same(got, expected, tolerance=2e-5):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


OPTIONS = {
    "plain": {"samples": 4096},
    "no power of two": {"samples": 2500, "sampler": qmc.monte_carlo},
    "second order": {"samples": 2048, "second_order": True},
    "groups": {"samples": 2048, "groups": {"a": 0, "b": 1}},
    "other estimators": {
        "samples": 2048,
        "first_order": estimators.owen,
        "total_order": estimators.azzini,
    },
    "scrambles": {"samples": 4096, "errors": "scrambles", "replicates": 4},
    "bootstrap": {"samples": 4096, "errors": "bootstrap", "replicates": 40},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_the_indices_of_the_same_function(name):
    options = OPTIONS[name]
    chunk_size = None if name == "plain" else 900
    expected = sobol.indices(vector, INPUTS, **options)(KEY)
    plan = sobol.design(INPUTS, **options, chunk_size=chunk_size)(KEY)
    assert plan.evaluations == sum(plan.sizes) == expected.evaluations
    got = sobol.analyse(plan, (vector(x).astype(np.float32) for x in plan))
    assert_same(got, expected)
    if name in ("plain", "scrambles"):  # a simulator's float64 is analysed as such
        wide = sobol.analyse(plan, [vector(x).astype(np.float64) for x in plan])
        assert_same(wide, expected)


def test_chunks_are_those_asked_for_and_can_be_made_again():
    plan = sobol.design(INPUTS, samples=1024, chunk_size=100)(KEY)
    assert len(plan) == 64
    assert set(plan.sizes) == {80}
    again = sobol.design(INPUTS, samples=1024, chunk_size=100)(KEY)
    for number in (0, 17, -1):
        for a, b in zip(jax.tree.leaves(plan[number]), jax.tree.leaves(again[number]), strict=True):
            assert isinstance(a, np.ndarray)
            assert len(a) == 80
            np.testing.assert_array_equal(a, b)
    a, b = plan[63]["a"], plan[-1]["a"]
    np.testing.assert_array_equal(a, b)
    # Whatever the chunks, the same points; the rows of each chunk lie together.
    whole = sobol.design(INPUTS, samples=1024, chunk_size=10**6)(KEY)
    assert len(whole) == 1
    by_rows = np.concatenate([x["b"].reshape(5, 16, 2) for x in plan], axis=1)
    np.testing.assert_array_equal(by_rows, whole[0]["b"].reshape(5, 1024, 2))


def test_scalar_outputs_and_a_simulator_far_from_zero():
    """Outputs of 1e6 +- 1 have no digits left in float32."""
    plan = sobol.design(INPUTS, samples=1024)(KEY)
    expected = sobol.analyse(plan, (f(x) for x in plan))
    assert expected.first_order["a"].shape == ()
    assert expected.first_order["b"].shape == (2,)
    got = sobol.analyse(plan, (1e6 + f(x).astype(np.float64) for x in plan))
    np.testing.assert_allclose(got.total_order["b"], expected.total_order["b"], rtol=1e-5)
    assert got.total_order["b"].dtype == jnp.float32
    assert not got.is_constant
    assert sobol.analyse(plan, (0 * x["a"] + 1e6 for x in plan)).is_constant


def test_an_integer_simulator():
    plan = sobol.design(INPUTS, samples=1024)(KEY)
    got = sobol.analyse(plan, (np.rint(x["a"]).astype(np.int64) for x in plan))
    assert got.first_order["a"] > 0.99


def test_outputs_that_are_not_finite():
    holes = lambda x: np.where(x["b"][:, 0] > 2, np.nan, f(x))
    plan = sobol.design(INPUTS, samples=1024)(KEY)
    with pytest.raises(ValueError, match=r"NaN or infinite.*omit"):
        sobol.analyse(plan, (holes(x) for x in plan))
    plan = sobol.design(INPUTS, samples=1024, nan="omit")(KEY)
    got = sobol.analyse(plan, (holes(x) for x in plan))
    g = lambda x: jnp.where(x["b"][0] > 2, jnp.nan, f(x))
    assert_same(got, sobol.indices(g, INPUTS, samples=1024, nan="omit")(KEY))
    assert got.not_finite > 0
    assert got.rows < 1024


def test_bad_outputs_are_named():
    plan = sobol.design(INPUTS, samples=1024, chunk_size=1280)(KEY)
    y = [f(x) for x in plan]
    assert len(y) == 4
    for outputs, error, message in (
        (y[:3], ValueError, "the plan has 4 chunks, but outputs ended after 3"),
        ([], ValueError, "ended after 0"),
        ([*y, y[0]], ValueError, "go on after that many"),
        ([y[0], y[1][:-1]], ValueError, r"chunk 1 .* its 1,280 points, but have shape \(1279,\)"),
        ([y[0], np.stack([y[1]] * 2, 1)], ValueError, r"chunk 1 have shape \(2,\).*chunk 0 \(\)"),
        (np.concatenate(y), ValueError, r"np\.split\(array, np\.cumsum\(plan\.sizes\)"),
        ([y[0] + 1j], TypeError, "real numbers.*complex"),
        ([["a"] * 1280], TypeError, "real numbers, but are a list"),
        (3, TypeError, "iterable of arrays"),
    ):
        with pytest.raises(error, match=message):
            sobol.analyse(plan, outputs)
    with pytest.raises(TypeError, match="plan must be what"):
        sobol.analyse(y, y)
    with pytest.raises(IndexError, match="4 chunks, but number 4"):
        plan[4]
    with pytest.raises(TypeError, match=r"range\(first, last\)"):
        plan[1:2]
    got = sobol.analyse(plan, np.split(np.concatenate(y), np.cumsum(plan.sizes)[:-1]))
    assert_same(got, sobol.analyse(plan, y), 0)


def test_bad_options_are_those_of_indices():
    with pytest.raises(ValueError, match="no form of total_order"):
        sobol.design(INPUTS, total_order=estimators.owen)
    with pytest.raises(TypeError, match="tree of distributions"):
        sobol.design([1.0])
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        sobol.design(INPUTS, chunk_size=0)
    with pytest.raises(TypeError, match="typed key"):
        sobol.design(INPUTS)(3)
    with pytest.warns(UserWarning, match="balanced at powers of two"):
        sobol.design(INPUTS, samples=1500)
