"""Central moments of the values, in one pass, and what follows from them.

    m = 1/n sum_k y_k,    M_p = sum_k (y_k - m)^p

Two sets of values a, b merge (Pebay), with d = m_b - m_a and n = n_a + n_b, by

    m  = m_a + d n_b / n
    M2 = M2a + M2b + d^2 n_a n_b / n
    M3 = M3a + M3b + d^3 n_a n_b (n_a - n_b) / n^2 + 3 d (n_a M2b - n_b M2a) / n
    M4 = M4a + M4b + d^4 n_a n_b (n_a^2 - n_a n_b + n_b^2) / n^3
         + 6 d^2 (n_a^2 M2b + n_b^2 M2a) / n^2 + 4 d (n_a M3b - n_b M3a) / n

`jaxplain.estimates` holds the same for samples in hand, with weights and with sums kept in pairs;
here is what a loop can carry on any mesh, and for a compiled program a fourth of the size.

Variances pass from loop to loop, and their roots are taken at the end: the derivative of the root
at 0, where a feature has no influence, is infinite, and a cotangent of 0 times it would be NaN.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.evaluate._reductions import Reduction


class Powers(NamedTuple):
    """The number of values seen, int32; their mean; and M_2, ..., a tree for each."""

    seen: jax.Array
    mean: Any
    sums: tuple[Any, ...]


def mean_and_variance(of: Callable[[jax.Array], jax.Array] | None = None) -> Reduction:
    """The mean of the values, or of a function of each leaf, and the variance of that mean.

    mean = m,    variance = M2 / (n (n - 1));    NaN where n is 1. The values must be wide.
    """

    def finish(state: Powers) -> tuple[Any, Any]:
        def variance(second: jax.Array) -> jax.Array:
            n = state.seen.astype(second.dtype)
            return second / (n * (n - 1))

        return state.mean, jax.tree.map(variance, state.sums[0])

    return powers(2, finish, of)


def powers(
    order: int,
    finish: Callable[[Powers], Any],
    of: Callable[[jax.Array], jax.Array] | None = None,
) -> Reduction:
    """The reduction to central moments up to `order`, 2 or 4, of values that are wide."""

    def init(value: Any) -> Powers:
        value = value if of is None else jax.eval_shape(lambda v: jax.tree.map(of, v), value)
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, v.dtype), value)
        return Powers(jnp.zeros((), jnp.int32), zeros, (zeros,) * (order - 1))

    def update(state: Powers, index: jax.Array, values: Any) -> Powers:
        values = values if of is None else jax.tree.map(of, values)
        merged = jax.tree.map(
            lambda *leaves: _merged(state.seen, *leaves), values, state.mean, *state.sums
        )
        columns = [jax.tree.map(lambda _, row, p=p: row[p], values, merged) for p in range(order)]
        return Powers(state.seen + len(index), columns[0], tuple(columns[1:]))

    return Reduction(init, update, finish)


def root(tree: Any) -> Any:
    """The square roots of a tree, with the derivative 0 where they are 0."""

    def one(leaf: jax.Array) -> jax.Array:
        zero = leaf == 0
        return jnp.where(zero, leaf, jnp.sqrt(jnp.where(zero, jnp.ones_like(leaf), leaf)))

    return jax.tree.map(one, tree)


def _merged(
    seen: jax.Array, leaf: jax.Array, mean: jax.Array, *sums: jax.Array
) -> tuple[jax.Array, ...]:
    """Mean and sums with those of a chunk of values, (chunk, ...), merged in."""
    a = seen.astype(leaf.dtype)
    b = jnp.asarray(len(leaf), leaf.dtype)
    n = a + b
    first = leaf[0]  # around which equal values have no spread at all
    own = first + jnp.mean(leaf - first[None], axis=0)
    apart = leaf - own[None]
    d = own - mean
    own_sums = [jnp.sum(apart**p, axis=0) for p in range(2, 2 + len(sums))]
    merged = [mean + d * (b / n), sums[0] + own_sums[0] + d**2 * (a * b / n)]
    if len(sums) > 1:
        second, third, fourth = sums
        second_b, third_b, fourth_b = own_sums
        third_terms = d**3 * (a * b * (a - b) / n**2) + 3 * d * (a * second_b - b * second) / n
        fourth_terms = (
            d**4 * (a * b * (a**2 - a * b + b**2) / n**3)
            + 6 * d**2 * (a**2 * second_b + b**2 * second) / n**2
            + 4 * d * (a * third_b - b * third) / n
        )
        merged += [third + third_b + third_terms, fourth + fourth_b + fourth_terms]
    return tuple(merged)
