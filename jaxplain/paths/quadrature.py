"""Quadrature on [0, 1]: functions `steps -> (nodes, weights)`, two float64 arrays (steps,).

    integral_0^1 g(t) dt  ~  sum_k weights[k] * g(nodes[k])

Each rule takes exactly `steps` evaluations, so that rules compare at equal cost. A rule is computed
on the host, in float64, once. Any function of the same form is a rule.
"""

from collections.abc import Callable

import numpy as np

from jaxplain import checks

__all__ = [
    "clenshaw_curtis",
    "composite",
    "gauss_kronrod",
    "gauss_legendre",
    "left_riemann",
    "midpoint",
    "right_riemann",
    "trapezoid",
]

Rule = tuple[np.ndarray, np.ndarray]


def left_riemann(steps: int) -> Rule:
    """The left Riemann sum: nodes k / n, k = 0, ..., n - 1, weights 1 / n.

    Of first order. Worse than `gauss_legendre` at equal cost everywhere it was measured; here for
    comparison with published results.

    Args:
        steps: n, the number of nodes, at least 1.

    Returns:
        Nodes and weights, float64 arrays of shape (steps,).

    Raises:
        TypeError: `steps` is not a Python integer.
        ValueError: `steps` is below 1.

    Example:
        >>> nodes, weights = left_riemann(4)
        >>> nodes.tolist(), weights.tolist()
        ([0.0, 0.25, 0.5, 0.75], [0.25, 0.25, 0.25, 0.25])

    References:
        Davis and Rabinowitz, Methods of Numerical Integration, 2nd ed., 1984, section 2.1.
    """
    n = checks.integer(steps, "steps")
    return np.arange(n) / n, np.full(n, 1 / n)


def right_riemann(steps: int) -> Rule:
    """The right Riemann sum: nodes k / n, k = 1, ..., n, weights 1 / n.

    The rule of the first published form of Integrated Gradients.

    Args:
        steps: n, the number of nodes, at least 1.

    Returns:
        Nodes and weights, float64 arrays of shape (steps,).

    Raises:
        TypeError: `steps` is not a Python integer.
        ValueError: `steps` is below 1.

    Example:
        >>> right_riemann(4)[0].tolist()
        [0.25, 0.5, 0.75, 1.0]

    References:
        Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks", ICML 2017,
        equation 3.
    """
    n = checks.integer(steps, "steps")
    return np.arange(1, n + 1) / n, np.full(n, 1 / n)


def midpoint(steps: int) -> Rule:
    """The midpoint rule: nodes (k + 1/2) / n, k = 0, ..., n - 1, weights 1 / n.

    Of second order.

    Args:
        steps: n, the number of nodes, at least 1.

    Returns:
        Nodes and weights, float64 arrays of shape (steps,).

    Raises:
        TypeError: `steps` is not a Python integer.
        ValueError: `steps` is below 1.

    Example:
        >>> midpoint(2)[0].tolist()
        [0.25, 0.75]

    References:
        Davis and Rabinowitz, Methods of Numerical Integration, 2nd ed., 1984, section 2.1.
    """
    n = checks.integer(steps, "steps")
    return (np.arange(n) + 0.5) / n, np.full(n, 1 / n)


def trapezoid(steps: int) -> Rule:
    """The trapezoid rule: nodes k / (n - 1), weights 1 / (n - 1), halved at both ends.

    Of second order. The weights sum to 1 (those of some libraries sum to (n - 1) / n).

    Args:
        steps: n, the number of nodes, at least 2.

    Returns:
        Nodes and weights, float64 arrays of shape (steps,).

    Raises:
        TypeError: `steps` is not a Python integer.
        ValueError: `steps` is below 2.

    Example:
        >>> trapezoid(3)[1].tolist()
        [0.25, 0.5, 0.25]

    References:
        Davis and Rabinowitz, Methods of Numerical Integration, 2nd ed., 1984, section 2.1.
    """
    n = checks.integer(steps, "steps of the trapezoid rule", minimum=2)
    weights = np.full(n, 1 / (n - 1))
    weights[[0, -1]] /= 2
    return np.arange(n) / (n - 1), weights


def gauss_legendre(steps: int) -> Rule:
    """The Gauss-Legendre rule: exact for polynomials of degree 2n - 1.

    The best fixed rule on every network measured: error of order 1 / n on ReLU networks,
    exponential on smooth ones.

    Args:
        steps: n, the number of nodes, at least 1.

    Returns:
        Nodes and weights, float64 arrays of shape (steps,).

    Raises:
        TypeError: `steps` is not a Python integer.
        ValueError: `steps` is below 1.

    Example:
        >>> nodes, weights = gauss_legendre(2)
        >>> round(float(weights @ nodes**3), 12)  # the integral of t^3 is 1/4
        0.25

    References:
        Golub and Welsch, "Calculation of Gauss Quadrature Rules", Math. Comp. 1969.
    """
    import scipy.special  # comes with jax; kept out of the import of the package for its cost

    n = checks.integer(steps, "steps")
    nodes, weights = scipy.special.roots_legendre(n)
    return (nodes + 1) / 2, weights / 2


def clenshaw_curtis(steps: int) -> Rule:
    """The Clenshaw-Curtis rule: nodes (1 - cos(pi k / (n - 1))) / 2, k = 0, ..., n - 1.

    Integrates the interpolating polynomial in the Chebyshev points: about as good as
    `gauss_legendre`, and nested: the nodes of n are among those of 2n - 1.

    Args:
        steps: n, the number of nodes, at least 2.

    Returns:
        Nodes and weights, float64 arrays of shape (steps,).

    Raises:
        TypeError: `steps` is not a Python integer.
        ValueError: `steps` is below 2.

    Example:
        >>> clenshaw_curtis(3)[1].round(12).tolist()  # Simpson's rule
        [0.166666666667, 0.666666666667, 0.166666666667]

    References:
        Clenshaw and Curtis, Numer. Math. 1960; Trefethen, "Is Gauss Quadrature Better than
        Clenshaw-Curtis?", SIAM Review 2008.
    """
    import scipy.fft

    n = checks.integer(steps, "steps of the Clenshaw-Curtis rule", minimum=2) - 1
    order = np.arange(n + 1)
    # The integral of the Chebyshev polynomial T_j over [-1, 1] is 2 / (1 - j^2) for even j, else 0;
    # a cosine transform turns these moments into weights.
    moments = np.zeros(n + 1)
    moments[::2] = 2.0 / (1.0 - order[::2].astype(float) ** 2)
    weights = scipy.fft.dct(moments, type=1) / n
    weights[[0, -1]] /= 2
    return (1 - np.cos(np.pi * order / n)) / 2, weights / 2


def gauss_kronrod(steps: int) -> Rule:
    """The Kronrod extension of a Gauss-Legendre rule: n = 2 m + 1 nodes, m of them Gauss's.

    Exact for polynomials of degree 3m + 1 (3m + 2 for odd m): between `clenshaw_curtis` and
    `gauss_legendre` of the same n. The nodes at odd places are those of `gauss_legendre(m)`, so
    that a result can be compared with that of the smaller rule at no further gradient.

    Args:
        steps: n, the number of nodes, odd and at least 3.

    Returns:
        Nodes and weights, float64 arrays of shape (steps,).

    Raises:
        TypeError: `steps` is not a Python integer.
        ValueError: `steps` is below 3 or even.

    Example:
        >>> nodes, weights = gauss_kronrod(7)
        >>> round(float(weights @ nodes**10), 12)  # the integral of t^10 is 1/11
        0.090909090909

    References:
        Kronrod, Nodes and Weights of Quadrature Formulas, 1965; Patterson, "The Optimum Addition of
        Points to Quadrature Formulae", Math. Comp. 1968 (the expansion in Legendre polynomials).
    """
    n = checks.integer(steps, "steps of the Gauss-Kronrod rule", minimum=3)
    if n % 2 == 0:
        raise ValueError(
            f"steps of the Gauss-Kronrod rule must be odd, 2 m + 1, but is {n}. Near it: "
            f"{n - 1} and {n + 1}."
        )
    legendre = np.polynomial.legendre
    inner = gauss_legendre(n // 2)[0] * 2 - 1
    nodes = np.sort(np.concatenate([inner, _stieltjes_zeros(n // 2)]))
    nodes = (nodes - nodes[::-1]) / 2  # symmetric to the last bit
    # The weights make the rule exact for the Legendre polynomials up to degree 2 m, and so beyond.
    moments = np.zeros(n)
    moments[0] = 2.0
    weights = np.linalg.solve(legendre.legvander(nodes, n - 1).T, moments)
    return (nodes + 1) / 2, (weights + weights[::-1]) / 4


def _stieltjes_zeros(m: int) -> np.ndarray:
    """The m + 1 nodes that Kronrod adds: the zeros of E = P_{m+1} + sum of lower e_j P_j with

        integral_-1^1 P_m(t) E(t) P_k(t) dt = 0,   k = 0, ..., m

    where only j of the parity of m + 1, and odd k, do not vanish by symmetry.
    """
    legendre = np.polynomial.legendre
    t, w = legendre.leggauss(2 * m + 2)  # exact for these products
    values = legendre.legvander(t, m + 1)
    lower, conditions = np.arange(m - 1, -1, -2), np.arange(1, m + 1, 2)
    products = values[:, conditions].T @ ((w * values[:, m])[:, None] * values)
    coefficients = np.zeros(m + 2)
    coefficients[m + 1] = 1.0
    coefficients[lower] = np.linalg.solve(products[:, lower], -products[:, m + 1])
    # All real (Szego). Eigenvalues come as complex numbers from numpy 2.5 on, whatever they are.
    zeros = legendre.legroots(coefficients).real
    slope = legendre.legder(coefficients)
    for _ in range(2):  # the eigenvalues are good to some 1e-14; Newton's steps to rounding
        zeros = zeros - legendre.legval(zeros, coefficients) / legendre.legval(zeros, slope)
    return zeros


def composite(rule: Callable[[int], Rule], panels: int) -> Callable[[int], Rule]:
    """A rule applied to each of `panels` equal parts of [0, 1], as a rule.

    Of n nodes each panel takes n / panels. On functions with kinks it is about as good as the rule
    on the whole; where the trouble is in one place, as a LayerNorm makes it near a zero baseline,
    more panels of few nodes can be better.

    Args:
        rule: a function `steps -> (nodes, weights)`.
        panels: the number of parts, at least 1.

    Returns:
        A rule: a function `steps -> (nodes, weights)`. `steps` is a multiple of `panels`; nodes at
        the borders of panels stand twice.

    Raises:
        TypeError: `rule` is not a function, `panels` or `steps` not a Python integer.
        ValueError: `panels` is below 1, or `steps` no multiple of it.

    Example:
        >>> nodes, weights = composite(midpoint, 2)(4)
        >>> nodes.tolist(), weights.tolist()
        ([0.125, 0.375, 0.625, 0.875], [0.25, 0.25, 0.25, 0.25])

    References:
        Davis and Rabinowitz, Methods of Numerical Integration, 2nd ed., 1984, section 2.4.
    """
    checks.function(rule, "rule")
    panels = checks.integer(panels, "panels")

    def composed(steps: int) -> Rule:
        steps = checks.integer(steps, "steps of a composite rule", minimum=panels)
        if steps % panels:
            below = steps // panels * panels
            raise ValueError(
                f"steps of a composite rule must be a multiple of its {panels} panels, but is "
                f"{steps}. Near it: {below} and {below + panels}."
            )
        nodes, weights = checks.rule(rule, steps // panels)
        starts = np.arange(panels)[:, None]
        return (
            ((starts + nodes) / panels).reshape(-1),
            np.tile(weights / panels, panels),
        )

    return composed
