"""Gauss's rule for the density -log s on [0, 1], that of a product of two uniform numbers.

    integral_0^1 integral_0^1 g(u v) du dv = integral_0^1 -log(s) g(s) ds ~ sum_k weights[k] g(s_k)

(at u v = s: the density is integral_s^1 du / u = -log s). With n nodes it is exact for polynomials
of degree 2n - 1, where a product of two rules of n nodes takes n^2 evaluations.

How it is made, on the host in float64. The moments of the density against the Legendre polynomials
of [0, 1] are known, 1 and (-1)^k / (k (k + 1)); Chebyshev's modified algorithm turns them into the
three-term recurrence of the polynomials orthogonal under the density, which is stable where plain
moments are not; the nodes are the eigenvalues of its Jacobi matrix, and the weights the squares of
the first components of the eigenvectors. Everything is done on [-2, 2], where monic polynomials
neither grow nor shrink with their degree.

References:
    Gautschi, "Orthogonal Polynomials: Computation and Approximation", 2004, sections 2.1.7 and 3.1.
    Golub and Welsch, "Calculation of Gauss quadrature rules", Math. Comp. 1969.
"""

from typing import NamedTuple

import numpy as np


class LogRule(NamedTuple):
    """The nodes, and two sets of weights on them; float64 arrays of shape (steps,).

    Attributes:
        nodes: within (0, 1).
        weights: of Gauss's rule for the density -log s; they sum to 1.
        plain_weights: of the rule that interpolates g at the nodes, for the density 1. Positive at
            every number of nodes that was looked at (1 to 512), so that it is stable.
    """

    nodes: np.ndarray
    weights: np.ndarray
    plain_weights: np.ndarray


def log_rule(steps: int) -> LogRule:
    """The rule of `steps` nodes, at least 1."""
    alpha, beta = _recurrence(steps)
    beside = np.sqrt(beta)
    points, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beside, 1) + np.diag(beside, -1))
    nodes, weights = (points + 2) / 4, vectors[0] ** 2

    # The interpolant is sum_j p_j c_j with c_j = sum_k weights[k] p_j(s_k) g(s_k), p_j orthonormal,
    # and p_j(s_k) stands in the eigenvector. The integrals of the p_j, by Gauss and Legendre:
    at, legendre_weights = np.polynomial.legendre.leggauss(steps)
    polynomials = np.zeros((steps + 1, steps))  # the last row stays zero: it is p_{-1}
    polynomials[0] = 1
    for j in range(steps - 1):
        last = beside[j - 1] * polynomials[j - 1] if j else 0.0
        polynomials[j + 1] = ((2 * at - alpha[j]) * polynomials[j] - last) / beside[j]
    integrals = polynomials[:steps] @ legendre_weights / 2
    return LogRule(nodes, weights, vectors[0] * (vectors.T @ integrals))


def _recurrence(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """p_{k+1} = (t - alpha_k) p_k - beta_k p_{k-1}: alpha_0.. (steps,), beta_1.. (steps - 1,)."""
    count = 2 * steps
    k = np.arange(1, count)
    legendre = np.concatenate([[0.0], 4 * k**2 / (4 * k**2 - 1.0)])  # its beta; its alpha is 0
    # The monic polynomial of degree k is 4^k / binomial(2k, k) times that which is 1 at the end.
    lead = np.cumprod(2 * k / (2 * k - 1.0))
    moments = np.concatenate([[1.0], (-1.0) ** k / (k * (k + 1.0)) * lead])
    alpha, beta = np.zeros(steps), np.zeros(steps)
    alpha[0] = moments[1]
    before, this = np.zeros(count), moments
    for j in range(1, steps):
        new = np.zeros(count)
        at = np.arange(j, count - j)
        new[at] = (
            this[at + 1]
            - alpha[j - 1] * this[at]
            - beta[j - 1] * before[at]
            + legendre[at] * this[at - 1]
        )
        alpha[j] = new[j + 1] / new[j] - this[j] / this[j - 1]
        beta[j] = new[j] / this[j - 1]
        before, this = this, new
    return alpha, beta[1:]
