"""The largest singular value of a linear map J that is known by its products only.

Lanczos' method on A = J^T J, k steps from a random start b on the unit sphere of n dimensions. With
theta the largest eigenvalue of the k x k tridiagonal matrix that it builds, and lambda that of A,

    theta <= lambda                         always: some v of length 1 has |J v|^2 = theta
    lambda <= theta cosh(z)^2               with probability `level` at least, over the start
    z = acosh(sqrt(2 n / pi) / (1 - level)) / (2 k - 1)

Why: theta is the largest Rayleigh quotient of p(A) b over polynomials p of degree below k. Take
lambda = 1 and suppose theta < 1 - e. Then sum_i (lambda_i - 1 + e) p(lambda_i)^2 b_i^2 < 0 for each
p. Take p with sqrt(1 - e - s) p(s) = T(sqrt((1 - e - s) / (1 - e))), T the Chebyshev polynomial of
degree 2 k - 1: its square is at most 1 on [0, 1 - e], and at s = 1 it is -sinh^2((2 k - 1)
atanh(sqrt(e))). So b_1^2 sinh^2(.) < 1 - b_1^2, that is |b_1| < 1 / cosh((2 k - 1) atanh(sqrt(e))),
and the first coordinate of a random direction is below c with probability c sqrt(2 n / pi) at most.
Solve for e: 1 / (1 - e) = cosh(z)^2. With k = n steps the start's Krylov space is everything and
theta is lambda. (Kuczynski and Wozniakowski, SIAM J. Matrix Anal. Appl. 1992, theorem 4.2, give
the same law with the constant 1.648 sqrt(n) exp(-(2 k - 1) sqrt(e)).)
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import trees
from jaxplain.evaluate import walk
from jaxplain.metrics._ball import dot, draw, elements, reciprocal, scale

# Squarings of the small matrix: eigenvalues closer than 2**-SQUARINGS are taken for one.
_SQUARINGS = 30


def largest_singular_value(
    key: jax.Array,
    product: Callable[[Any], Any],
    transpose: Callable[[Any], Any],
    like: Any,
    iterations: int,
) -> jax.Array:
    """sqrt(theta): at most the largest singular value, and reached by some vector.

    `product` takes a tree like `like`, wide, to a wide tree, `transpose` back. The basis is kept,
    `iterations` copies of `like`, and each vector made orthogonal to it twice: without that Lanczos
    loses orthogonality as soon as theta has converged.
    """
    count = min(iterations, elements(like))
    if count == 0:
        return jnp.zeros((), jnp.float32)
    start = draw(jax.random.normal, key, like)
    start = scale(start, reciprocal(trees.norm(start)))

    def orthogonal(vector: Any, basis: Any) -> Any:
        parts = jax.vmap(dot, in_axes=(0, None))(basis, vector)
        return jax.tree.map(
            lambda v, b: v - jnp.sum(_column(parts.astype(b.dtype), b) * b, axis=0), vector, basis
        )

    def step(state: Any, index: jax.Array) -> Any:
        basis, vector, size = state
        here = jnp.arange(count, dtype=index.dtype) == index
        basis = jax.tree.map(lambda b, v: jnp.where(_column(here, b), v[None], b), basis, vector)
        image = product(vector)
        length = trees.norm(image)
        # The image at length 1, so that a narrow dtype does not overflow between the two products.
        moved = scale(transpose(scale(image, reciprocal(length))), length)
        size = jnp.maximum(size, trees.norm(moved).astype(size.dtype))
        moved = orthogonal(orthogonal(moved, basis), basis)
        rest = trees.norm(moved).astype(size.dtype)
        # What is left is rounding: the space is spent, and every further vector is zero.
        rest = jnp.where(rest <= 8 * jnp.finfo(size.dtype).eps * size, 0, rest)
        following = scale(moved, reciprocal(rest))
        return (basis, following, size), (jnp.square(length.astype(size.dtype)), rest)

    basis = jax.tree.map(lambda v: v[None] * jnp.zeros((count,) + (1,) * v.ndim, v.dtype), start)
    first = trees.norm(transpose(product(start)))  # for its type: it has no value to say
    _, (diagonal, below) = walk((basis, start, jnp.zeros_like(first)), step, count)
    matrix = jnp.diag(diagonal) + jnp.diag(below[:-1], 1) + jnp.diag(below[:-1], -1)
    return jnp.sqrt(_largest_eigenvalue(matrix))


def factor(level: Any, size: int, iterations: int, dtype: Any) -> jax.Array:
    """cosh(z): by how much the estimate may be too low, with probability `level`."""
    if iterations >= size:
        return jnp.ones((), dtype)
    failure = 1 - jnp.asarray(level, dtype)
    z = jnp.arccosh(jnp.maximum(np.sqrt(2 * size / np.pi) / failure, 1)) / (2 * iterations - 1)
    return jnp.cosh(z)


def _column(numbers: jax.Array, like: jax.Array) -> jax.Array:
    return numbers.reshape(numbers.shape + (1,) * (like.ndim - 1))


def _largest_eigenvalue(matrix: jax.Array) -> jax.Array:
    """Of a small symmetric matrix without negative eigenvalues, by repeated squaring.

    Products only: an eigensolver is a custom call, which on a sharded batch would gather it.
    """
    multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def unit(power: jax.Array) -> jax.Array:
        return power * reciprocal(jnp.max(jnp.abs(power)))

    power, _ = jax.lax.scan(
        lambda power, _: (unit(multiply(power, power)), None), unit(matrix), length=_SQUARINGS
    )
    return jnp.sum(power * multiply(matrix, power)) * reciprocal(jnp.sum(power * power))
