"""Functions whose Sobol indices are known: the tests' oracles and the benchmarks' problems.

Each case holds a function of a vector in JAX, its inputs, and the exact indices, from closed forms
in numpy float64 wherever there is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxplain import sobol


class Case(NamedTuple):
    """A function with its indices."""

    f: Callable[[Any], Any]
    inputs: sobol.Distribution
    first_order: np.ndarray
    total_order: np.ndarray
    variance: float
    mean: float


def _cube(dimensions: int) -> sobol.Distribution:
    return sobol.uniform(jnp.zeros(dimensions), 1.0)


def ishigami() -> Case:
    """sin x1 + 7 sin^2 x2 + 0.1 x3^4 sin x1, uniform in (-pi, pi)^3."""
    a, b, pi = 7.0, 0.1, math.pi
    first = 0.5 * (1 + b * pi**4 / 5) ** 2
    second = a**2 / 8
    both = b**2 * pi**8 * (1 / 18 - 1 / 50)
    variance = first + second + both
    return Case(
        lambda x: jnp.sin(x[0]) + a * jnp.sin(x[1]) ** 2 + b * x[2] ** 4 * jnp.sin(x[0]),
        sobol.uniform(jnp.full(3, -pi), pi),
        np.array([first, second, 0]) / variance,
        np.array([first + both, second, both]) / variance,
        variance,
        a / 2,
    )


def _of_product(f: Any, inputs: Any, means: np.ndarray, variances: np.ndarray) -> Case:
    """A product of independent factors with these means and variances."""
    relative = variances / means**2
    whole = np.prod(1 + relative)
    scale = np.prod(means) ** 2
    first = relative / (whole - 1)
    total = relative / (1 + relative) * whole / (whole - 1)
    return Case(f, inputs, first, total, scale * (whole - 1), float(np.prod(means)))


def g_function(a: Any) -> Case:
    """prod (|4 x - 2| + a) / (1 + a), uniform in (0, 1)^d."""
    a = np.asarray(a, np.float64)
    weights = jnp.asarray(a, jnp.float32)
    return _of_product(
        lambda x: jnp.prod((jnp.abs(4 * x - 2) + weights) / (1 + weights)),
        _cube(len(a)),
        np.ones(len(a)),
        1 / (3 * (1 + a) ** 2),
    )


G8 = (0, 1, 4.5, 9, 99, 99, 99, 99)
G6 = (0, 0.5, 3, 9, 99, 99)
G32 = G8 * 4


def g_star(alpha: float) -> Case:
    """prod ((1 + alpha) |2 frac(x + shift) - 1|^alpha + a) / (1 + a), uniform in (0, 1)^10."""
    a = np.array([0.0, 0] + 8 * [9])
    weights, shift = jnp.asarray(a, jnp.float32), jnp.linspace(0, 0.9, 10)

    def f(x: Any) -> Any:
        distance = jnp.abs(2 * ((x + shift) % 1) - 1)
        return jnp.prod(((1 + alpha) * distance**alpha + weights) / (1 + weights))

    variances = alpha**2 / ((1 + 2 * alpha) * (1 + a) ** 2)
    return _of_product(f, _cube(10), np.ones(10), variances)


def polynomial() -> Case:
    """prod (3 x^2 + 1) / 2, uniform in (0, 1)^3."""
    return _of_product(
        lambda x: jnp.prod((3 * x**2 + 1) / 2), _cube(3), np.ones(3), np.full(3, 0.2)
    )


def linear(mean: float = 100.0) -> Case:
    """mean + sum c x, uniform in (-1/2, 1/2)^6: outputs far from zero."""
    c = np.arange(1.0, 7)
    share = c**2 / np.sum(c**2)
    inputs = sobol.uniform(jnp.full(6, -0.5), 0.5)
    f = lambda x: mean + jnp.sum(jnp.asarray(c, jnp.float32) * x)
    return Case(f, inputs, share, share, float(np.sum(c**2)) / 12, mean)


def bratley() -> Case:
    """sum_i (-1)^i prod_{j <= i} x_j, uniform in (0, 1)^8."""
    d = 8
    signs = np.array([(-1.0) ** i for i in range(1, d + 1)])

    def second_moment_given(fixed: set[int]) -> float:
        """E (E (Y | X_fixed))^2."""
        moment = lambda i, j, k: (  # of x_k as it enters the product of terms i and j
            1.0 if k > max(i, j) else (1 / 3 if k in fixed else 1 / 4) if k <= min(i, j) else 1 / 2
        )
        return sum(
            signs[i] * signs[j] * math.prod(moment(i, j, k) for k in range(d))
            for i in range(d)
            for j in range(d)
        )

    everything = set(range(d))
    square = second_moment_given(set())
    variance = second_moment_given(everything) - square
    first = [second_moment_given({k}) - square for k in range(d)]
    total = [variance + square - second_moment_given(everything - {k}) for k in range(d)]
    mean = float(sum(signs[i] * 0.5 ** (i + 1) for i in range(d)))
    return Case(
        lambda x: jnp.sum(jnp.asarray(signs, jnp.float32) * jnp.cumprod(x)),
        _cube(d),
        np.array(first) / variance,
        np.array(total) / variance,
        variance,
        mean,
    )


def morris() -> Case:
    """Morris's 20 inputs with the deterministic coefficients; the values to six digits."""
    sign = lambda n: (-1.0) ** n
    b = np.array([20.0 if i <= 10 else sign(i) for i in range(1, 21)])
    pairs = np.array(
        [
            [(-15.0 if max(i, j) <= 6 else sign(i + j)) if i < j else 0.0 for j in range(1, 21)]
            for i in range(1, 21)
        ]
    )
    bent = np.zeros(20, bool)
    bent[[2, 4, 6]] = True

    def f(x: Any) -> Any:
        w = 2 * (jnp.where(bent, 1.1 * x / (x + 0.1), x) - 0.5)
        v = w[:5]
        p1, p2, p3 = jnp.sum(v), jnp.sum(v**2), jnp.sum(v**3)
        triples = (p1**3 - 3 * p1 * p2 + 2 * p3) / 6
        linear = jnp.sum(jnp.asarray(b, jnp.float32) * w)
        squares = jnp.sum(w * jnp.sum(jnp.asarray(pairs, jnp.float32) * w[None, :], axis=1))
        return linear + squares - 10 * triples + 5 * w[0] * w[1] * w[2] * w[3]

    first = [0.005020, 0.008937, 0.016856, 0.008937, 0.016856]
    first += [0.000222, 0.068538, 0.100277, 0.150324, 0.100277]
    total = [0.253477, 0.257394, 0.112872, 0.257394, 0.112733]
    total += [0.093952, 0.069439, 0.102081, 0.152128, 0.102081]
    return Case(
        f,
        _cube(20),
        np.array(first + 10 * [0.000321]),
        np.array(total + 10 * [0.002125]),
        1074.935872,
        34.469097,
    )


def oakley_ohagan(seed: int = 0) -> Case:
    """a1.x + a2.sin x + a3.cos x + x'M x of 15 normal inputs, with coefficients drawn here."""
    rng = np.random.default_rng(seed)
    a1, a2, a3 = rng.normal(size=(3, 15))
    m = 0.3 * rng.normal(size=(15, 15))
    own = np.diag(m)
    main = a1**2 + a2**2 * (1 - math.exp(-2)) / 2 + 2 * a1 * a2 * math.exp(-0.5)
    main += a3**2 * ((1 + math.exp(-2)) / 2 - math.exp(-1))
    main += 2 * own**2 - 2 * a3 * own * math.exp(-0.5)
    pairs = (m + m.T) ** 2
    np.fill_diagonal(pairs, 0)
    variance = float(main.sum() + pairs.sum() / 2)
    narrow = [jnp.asarray(a, jnp.float32) for a in (a1, a2, a3, m)]

    def f(x: Any) -> Any:
        b1, b2, b3, n = narrow
        bent = b1 * x + b2 * jnp.sin(x) + b3 * jnp.cos(x)
        return jnp.sum(bent) + jnp.sum(x * jnp.sum(n * x[None, :], axis=1))

    return Case(
        f,
        sobol.normal(jnp.zeros(15), 1.0),
        main / variance,
        (main + pairs.sum(axis=1)) / variance,
        variance,
        float(a3.sum() * math.exp(-0.5) + own.sum()),
    )


CASES: dict[str, Callable[[], Case]] = {
    "ishigami": ishigami,
    "g8": lambda: g_function(G8),
    "g6": lambda: g_function(G6),
    "g32": lambda: g_function(G32),
    "g_star_half": lambda: g_star(0.5),
    "g_star_1": lambda: g_star(1.0),
    "g_star_2": lambda: g_star(2.0),
    "polynomial": polynomial,
    "linear_100": linear,
    "bratley": bratley,
    "morris": morris,
    "oakley_ohagan": oakley_ohagan,
}
