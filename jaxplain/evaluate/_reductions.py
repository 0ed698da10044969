"""Streaming reductions: what becomes of the values that `evaluate` makes.

state = init(value);    state = update(state, index, values);    result = finish(state)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees


class Reduction(NamedTuple):
    """A streaming reduction: three pure functions over a state that is any tree of arrays.

    Attributes:
        init: `value -> state`, where `value` is a tree of `jax.ShapeDtypeStruct`, one point's.
        update: `state, index, values -> state` for one chunk: `index` has shape (chunk,) and each
            leaf of `values` a leading axis of that length.
        finish: `state -> result`.
        points: the number of points it was made for, or None where any will do.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, jax.Array, Any], Any]
    finish: Callable[[Any], Any]
    points: int | None = None


def weighted_sum(weights: Any) -> Reduction:
    """The reduction `sum_k weights[k] * value_k`, leaf by leaf.

    Accumulates in float32 or wider, with Kahan's compensation, so that the rounding of the sum does
    not grow with the number of points: 1e6 terms in float32 are as exact as a few.

    Args:
        weights: shape (count,), one for each point.

    Returns:
        A `Reduction` whose result is a tree like one value, in float32 or wider.

    Raises:
        TypeError: `weights` is not an array.
        ValueError: `weights` is not one-dimensional.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.evaluate import evaluate
        >>> mean = weighted_sum(jnp.full(4, 0.25))
        >>> float(evaluate(lambda index: index.astype(jnp.float32), 4, mean))
        1.5

    References:
        Kahan, "Further remarks on reducing truncation errors", CACM 1965.
    """
    checks.arrays(weights, "weights")
    if np.ndim(weights) != 1:
        raise ValueError(f"weights must have one dimension, but have shape {np.shape(weights)}.")

    def init(value: Any) -> Any:
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, trees.wide_dtype(v.dtype)), value)
        return zeros, zeros

    def update(state: Any, index: jax.Array, values: Any) -> Any:
        sums, lost = state

        # A multiplication and a sum, not a matrix product: those may run in lower precision.
        def term(v: jax.Array, s: jax.Array) -> jax.Array:
            w = jnp.asarray(weights, s.dtype)[index]
            w = w.reshape(w.shape + (1,) * (v.ndim - 1))
            return jnp.sum(jnp.multiply(w, v.astype(s.dtype)), axis=0)

        return compensated(sums, lost, jax.tree.map(term, values, sums))

    return Reduction(init, update, lambda state: state[0], np.shape(weights)[0])


def compensated(sums: Any, lost: Any, terms: Any) -> tuple[Any, Any]:
    """Kahan's sum: the sums with the terms added, and what this has rounded off."""
    terms = trees.subtract(terms, lost)
    new = jax.tree.map(jnp.add, sums, terms)

    # An infinite sum has lost nothing.
    def rounded_off(n: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
        return jnp.where(jnp.isfinite(n), (n - s) - t, 0)

    return new, jax.tree.map(rounded_off, new, sums, terms)


def stack(count: int) -> Reduction:
    """The reduction that keeps every value, in the order of the points.

    Its memory grows with `count`: for scores and other small values.

    Args:
        count: the number of points, as given to `evaluate`.

    Returns:
        A `Reduction` whose result is a tree like one value with a leading axis of `count`.

    Raises:
        TypeError: `count` is not a Python integer.
        ValueError: `count` is below 1.

    Example:
        >>> from jaxplain.evaluate import evaluate
        >>> evaluate(lambda index: 10 * index, 5, stack(5), chunk_size=2).tolist()
        [0, 10, 20, 30, 40]

    References:
        Design, evaluate, reduce: docs/architecture.md, "The two loops".
    """
    count = checks.integer(count, "count")

    def init(value: Any) -> Any:
        return jax.tree.map(lambda v: jnp.zeros((count, *v.shape), v.dtype), value)

    def update(state: Any, index: jax.Array, values: Any) -> Any:
        put = lambda s, v: jax.lax.dynamic_update_slice_in_dim(s, v, index[0], axis=0)
        return jax.tree.map(put, state, values)

    return Reduction(init, update, lambda state: state, count)


def both(first: Reduction, second: Reduction) -> Reduction:
    """Two reductions over points whose value is a pair: one of its first, one of its second part.

    Args:
        first: of the first parts.
        second: of the second parts.

    Returns:
        A `Reduction` whose result is the pair of their results.

    Raises:
        TypeError: an argument is not a `Reduction`.
        ValueError: the two were made for different numbers of points.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.evaluate import evaluate
        >>> point = lambda index: (index, index.astype(jnp.float32) ** 2)
        >>> values, total = evaluate(point, 3, both(stack(3), weighted_sum(jnp.ones(3))))
        >>> values.tolist(), float(total)
        ([0, 1, 2], 5.0)

    References:
        Design, evaluate, reduce: docs/architecture.md, "The two loops".
    """
    for reduction in (first, second):
        if not isinstance(reduction, Reduction):
            raise TypeError(f"both takes two reductions, but got a {type(reduction).__name__}.")
    if None not in (first.points, second.points) and first.points != second.points:
        raise ValueError(
            f"both reductions must be made for the same points, but are for {first.points} and "
            f"{second.points}."
        )

    def update(state: Any, index: jax.Array, values: Any) -> Any:
        return (
            first.update(state[0], index, values[0]),
            second.update(state[1], index, values[1]),
        )

    return Reduction(
        lambda value: (first.init(value[0]), second.init(value[1])),
        update,
        lambda state: (first.finish(state[0]), second.finish(state[1])),
        second.points if first.points is None else first.points,
    )
