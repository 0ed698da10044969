"""The rules against the polynomials and functions they must integrate."""

import numpy as np
import pytest

from jaxplain import paths
from jaxplain.paths import quadrature

RULES = [
    *(
        getattr(paths, name)
        for name in quadrature.__all__
        if name not in ("composite", "gauss_kronrod")
    ),
    paths.composite(paths.gauss_legendre, 1),
]
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


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7, 15, 30])
def test_gauss_kronrod_extends_gauss(m):
    """Exact to degree 3 m + 1 (one more for odd m, by symmetry), and not beyond."""
    nodes, weights = paths.gauss_kronrod(2 * m + 1)
    inner, _ = paths.gauss_legendre(m)
    np.testing.assert_allclose(nodes[1::2], inner, atol=1e-15)
    assert nodes.shape == weights.shape == (2 * m + 1,)
    assert (np.diff(nodes) > 0).all()
    assert (weights > 0).all()
    degree = 3 * m + 1 + m % 2
    for power in range(degree + 1):
        assert abs(weights @ nodes**power - 1 / (power + 1)) < 1e-14
    if m <= 4:  # beyond, the error of one more degree is below rounding
        assert abs(weights @ nodes ** (degree + 1) - 1 / (degree + 2)) > 1e-13


def test_gauss_kronrod_against_published_nodes():
    """The rule (G7, K15) on [-1, 1], as QUADPACK tabulates it (Piessens et al. 1983)."""
    nodes, weights = paths.gauss_kronrod(15)
    np.testing.assert_allclose(2 * nodes[-1] - 1, 0.991455371120812639206854697526329, atol=1e-15)
    np.testing.assert_allclose(2 * weights[-1], 0.022935322010529224963732008058970, atol=1e-15)
    np.testing.assert_allclose(2 * weights[7], 0.209482141084727828012999174891714, atol=1e-15)


def test_gauss_kronrod_wants_odd():
    with pytest.raises(ValueError, match=r"must be odd, 2 m \+ 1, but is 8. Near it: 7 and 9"):
        paths.gauss_kronrod(8)
    with pytest.raises(ValueError, match="at least 3, but is 1"):
        paths.gauss_kronrod(1)


@pytest.mark.parametrize("panels", [2, 5])
def test_composite(panels):
    """Exact panel by panel: for a function that is a cubic on each panel and jumps between them."""
    nodes, weights = paths.composite(paths.gauss_legendre, panels)(2 * panels)
    panel = np.floor(nodes * panels)
    values = (panel + 1) * nodes**3 - panel**2
    edges = np.arange(panels + 1) / panels
    fourths = np.diff(edges**4) / 4
    exact = sum((p + 1) * fourths[p] - p**2 / panels for p in range(panels))
    assert abs(weights @ values - exact) < 1e-14
    assert abs(weights.sum() - 1) < 1e-14


def test_composite_wants_a_multiple():
    rule = paths.composite(paths.midpoint, 4)
    with pytest.raises(ValueError, match=r"multiple of its 4 panels.* Near it: 8 and 12"):
        rule(10)
    with pytest.raises(TypeError, match="rule must be a function"):
        paths.composite("midpoint", 4)
    with pytest.raises(ValueError, match="panels must be at least 1"):
        paths.composite(paths.midpoint, 0)
