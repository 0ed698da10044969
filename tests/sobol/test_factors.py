"""Trees of inputs, their groups, and results in their shapes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bench.sensitivity_cases import G8, g_function
from jaxplain import qmc, sobol

KEY = jax.random.key(2)
CUBE = lambda *shape: sobol.uniform(jnp.zeros(shape), 1.0)


def g(x):
    a = jnp.asarray(G8, jnp.float32)
    return jnp.prod((jnp.abs(4 * x - 2) + a) / (1 + a))


def test_a_tree_gives_what_the_vector_gives():
    """The tree's leaves come in the order of jax: a, b, c; of mixed shapes."""
    tree = {"c": CUBE(2, 2), "a": (CUBE(), CUBE(1, 2)), "b": CUBE(1)}

    def of_tree(x):
        assert jax.tree.map(jnp.shape, x) == {"c": (2, 2), "a": ((), (1, 2)), "b": (1,)}
        return g(jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(x)]))

    got = sobol.indices(of_tree, tree, samples=1024, second_order=True)(KEY)
    expected = sobol.indices(g, CUBE(8), samples=1024, second_order=True)(KEY)
    structure = jax.tree.structure(jax.tree.map(jnp.zeros, {"c": 1, "a": (1, 1), "b": 1}))
    fields = ("first_order", "total_order", "first_order_error", "total_order_error")
    pick = lambda s: (
        [getattr(s, field) for field in fields]
        + [
            *s.first_order_interval,
            *s.total_order_interval,
        ]
    )
    for one, vector in zip(pick(got), pick(expected), strict=True):
        assert jax.tree.structure(one) == structure
        assert one["a"][1].shape == (1, 2)
        flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(one)])
        np.testing.assert_allclose(flat, vector, atol=1e-6)
    for field in ("second_order", "second_order_error"):
        pairs, matrix = getattr(got, field), getattr(expected, field)
        assert pairs["a"][1]["c"].shape == (1, 2, 2, 2)
        np.testing.assert_allclose(pairs["a"][1]["c"][0, 1], matrix[2, 4:].reshape(2, 2), atol=1e-6)
        np.testing.assert_allclose(pairs["b"]["a"][0], matrix[3:4, 0], atol=1e-6)


def test_permutation_equivariance():
    """Of factors and their points: f(P x) has the indices of f, permuted."""
    order = np.array([3, 0, 2, 1, 7, 6, 5, 4])
    here = g_function(G8)

    def sampler(key, dimensions, samples, block_size):
        block = qmc.sobol(key, dimensions, samples, block_size)
        columns = np.concatenate([order, 8 + order])
        return lambda number: block(number)[:, columns]

    permuted = sobol.indices(
        lambda x: here.f(x[np.argsort(order)]), here.inputs, samples=1024, sampler=sampler
    )(KEY)
    plain = sobol.indices(here.f, here.inputs, samples=1024)(KEY)
    for field in ("first_order", "total_order", "first_order_error", "total_order_error"):
        got, expected = getattr(permuted, field), getattr(plain, field)
        np.testing.assert_allclose(got, expected[order], atol=1e-5)


def test_the_group_of_all_inputs_has_it_all():
    case = g_function(G8)
    s = sobol.indices(case.f, case.inputs, samples=1024, groups=0)(KEY)
    assert s.first_order.shape == (1,)
    assert s.evaluations == 3 * 1024
    np.testing.assert_allclose(s.total_order, 1, atol=5e-2)  # a - ab = a - b, whose variance is 2 V
    exact = sobol.indices(
        case.f,
        case.inputs,
        samples=1024,
        groups=0,
        first_order=sobol.estimators.jansen,
        total_order=sobol.estimators.azzini,
    )(KEY)
    np.testing.assert_allclose(exact.first_order, 1, atol=1e-6)  # ab is b
    np.testing.assert_allclose(exact.total_order, 1, atol=1e-6)


def test_groups():
    """The closed index of a group against the exact product form; in a tree of two leaves."""
    a = np.asarray(G8)
    variances = 1 / (3 * (1 + a) ** 2)
    whole = np.prod(1 + variances) - 1
    numbers = {"x": np.array([0, 2, 0, 1]), "y": 2}
    flat = np.array([0, 2, 0, 1, 2, 2, 2, 2])
    inputs = {"x": CUBE(4), "y": CUBE(2, 2)}
    f = lambda x: g(jnp.concatenate([x["x"], x["y"].ravel()]))
    s = sobol.indices(f, inputs, samples=2**13, groups=numbers, second_order=True)(KEY)
    closed = [np.prod(1 + variances[flat == n]) - 1 for n in range(3)]
    others = [np.prod(1 + variances[flat != n]) - 1 for n in range(3)]
    assert s.first_order.shape == s.total_order.shape == (3,)
    assert s.second_order.shape == (3, 3)
    assert s.evaluations == 2**13 * (2 + 2 * 3)
    np.testing.assert_allclose(s.first_order, np.array(closed) / whole, atol=5e-3)
    np.testing.assert_allclose(s.total_order, 1 - np.array(others) / whole, atol=5e-3)
    pair = closed[0] * closed[2] / whole
    np.testing.assert_allclose(s.second_order[0, 2], pair, atol=1e-2)


def test_the_closed_index_of_a_pair_is_the_sum_of_its_parts():
    """On the same rows, within the standard errors of four estimates."""
    case = g_function(G8)
    one = sobol.indices(
        case.f, case.inputs, samples=2**14, second_order=True, sampler=qmc.monte_carlo
    )(KEY)
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    both = sobol.indices(
        case.f, case.inputs, samples=2**14, groups=groups, sampler=qmc.monte_carlo
    )(KEY)
    parts = one.first_order[0] + one.first_order[1] + one.second_order[0, 1]
    spread = both.first_order_error[0] + one.second_order_error[0, 1]
    assert abs(both.first_order[0] - parts) < 3 * spread
    variances = 1 / (3 * (1 + np.asarray(G8)) ** 2)
    exact = (np.prod(1 + variances[:2]) - 1) / (np.prod(1 + variances) - 1)
    assert abs(both.first_order[0] - exact) < 3 * both.first_order_error[0]


def test_errors():
    f = lambda x: jnp.float32(0)
    with pytest.raises(TypeError, match=r"inputs\['b'\] is a ArrayImpl|inputs\['b'\] is a "):
        sobol.indices(f, {"a": CUBE(), "b": jnp.zeros(2)})
    with pytest.raises(ValueError, match="at least one factor"):
        sobol.indices(f, {})
    with pytest.raises(ValueError, match="at least one factor"):
        sobol.indices(f, CUBE(0))
    with pytest.raises(ValueError, match="groups must be the same tree as inputs"):
        sobol.indices(f, {"a": CUBE()}, groups=[0])
    with pytest.raises(TypeError, match="groups must be integers, but one has dtype float64"):
        sobol.indices(f, {"a": CUBE()}, groups={"a": 0.5})
    with pytest.raises(ValueError, match=r"shape \(3,\) must broadcast to it, but have shape \(2,"):
        sobol.indices(f, CUBE(3), groups=np.array([0, 1]))
    with pytest.raises(ValueError, match=r"without a gap, but the numbers are \[0, 2\]"):
        sobol.indices(f, CUBE(3), groups=np.array([0, 2, 2]))
    with pytest.raises(ValueError, match=r"without a gap, but the numbers are \[1\]"):
        sobol.indices(f, CUBE(3), groups=1)
