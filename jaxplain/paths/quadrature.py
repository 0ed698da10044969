"""Quadrature on [0, 1]: functions `steps -> (nodes, weights)`, two float64 arrays (steps,).

    integral_0^1 g(t) dt  ~  sum_k weights[k] * g(nodes[k])

Each rule takes exactly `steps` evaluations, so that rules compare at equal cost. A rule is computed
on the host, in float64, once. Any function of the same form is a rule.
"""

import numpy as np

from jaxplain import checks

__all__ = [
    "clenshaw_curtis",
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
