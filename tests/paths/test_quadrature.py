"""The rules against the polynomials and functions they must integrate."""

import numpy as np
import pytest

from jaxplain import paths
from jaxplain.paths import quadrature

RULES = [getattr(paths, name) for name in quadrature.__all__]
rules = pytest.mark.parametrize("rule", RULES, ids=lambda r: r.__name__)


@rules
@pytest.mark.parametrize("steps", [2, 3, 8, 33])
def test_nodes_and_weights(rule, steps):
    nodes, weights = rule(steps)
    assert nodes.shape == weights.shape == (steps,)
    assert nodes.dtype == weights.dtype == np.float64
    assert (np.diff(nodes) > 0).all()
    assert nodes[0] >= 0
    assert nodes[-1] <= 1
    assert (weights > 0).all()
    assert abs(weights.sum() - 1) < 1e-14


@pytest.mark.parametrize(
    ("rule", "degree"),
    [
        (paths.left_riemann, lambda n: 0),
        (paths.right_riemann, lambda n: 0),
        (paths.midpoint, lambda n: 1),
        (paths.trapezoid, lambda n: 1),
        (paths.gauss_legendre, lambda n: 2 * n - 1),
        (paths.clenshaw_curtis, lambda n: n - 1 if n % 2 == 0 else n),
    ],
    ids=lambda r: getattr(r, "__name__", ""),
)
@pytest.mark.parametrize("steps", [2, 3, 4, 7])
def test_degree_of_exactness(rule, degree, steps):
    """Exact up to its degree, and not beyond."""
    nodes, weights = rule(steps)
    for power in range(degree(steps) + 1):
        assert abs(weights @ nodes**power - 1 / (power + 1)) < 1e-14
    power = degree(steps) + 1
    assert abs(weights @ nodes**power - 1 / (power + 1)) > 1e-10


def test_against_numpy_and_large_counts():
    nodes, weights = np.polynomial.legendre.leggauss(20)
    got = paths.gauss_legendre(20)
    np.testing.assert_allclose(got[0], (nodes + 1) / 2, atol=1e-15)
    np.testing.assert_allclose(got[1], weights / 2, atol=1e-15)
    for rule in (paths.gauss_legendre, paths.clenshaw_curtis):
        nodes, weights = rule(4097)
        assert abs(weights @ np.exp(nodes) - (np.e - 1)) < 1e-13


@pytest.mark.parametrize("steps", [17, 33, 65])
def test_clenshaw_curtis_is_nested(steps):
    coarse, fine = paths.clenshaw_curtis(steps)[0], paths.clenshaw_curtis(2 * steps - 1)[0]
    np.testing.assert_allclose(fine[::2], coarse, atol=1e-15)


@rules
def test_bad_steps(rule):
    with pytest.raises(ValueError, match=r"steps.* must be at least"):
        rule(0)
    with pytest.raises(TypeError, match="must be a Python integer"):
        rule(2.0)


@pytest.mark.parametrize("rule", [paths.trapezoid, paths.clenshaw_curtis])
def test_rules_of_two_ends_want_two(rule):
    with pytest.raises(ValueError, match="at least 2, but is 1"):
        rule(1)
