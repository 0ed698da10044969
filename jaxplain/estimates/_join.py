"""Two ways to join states of disjoint samples: a pair of them, or those of all devices at once.

    pair    n = n_a + n_b      m = m_a + d n_b / n       d   = m_b - m_a    w   = n_a n_b / n
    all     n = sum_j n_j      m = sum_j n_j m_j / n     d_j = m_j - m      w_j = n_j

Either way a sum of squares or products is the sum of those within the states and of w d_x d_y
between them, so that each kind of state is joined by the same few lines.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain.estimates._leaves import map_unzip, share
from jaxplain.estimates._pairs import add, add_trees, two_sum


class Joint(NamedTuple):
    """Count and mean of the joined states, and how far apart the states are.

    Attributes:
        count: n, a scalar, the high part of a pair.
        count_low: its low part.
        mean: m, a tree, the high part of a pair.
        mean_low: its low part.
        difference: d, a tree.
        weight: w, a scalar.
    """

    count: Any
    count_low: Any
    mean: Any
    mean_low: Any
    difference: Any
    weight: Any


class Join(NamedTuple):
    """A way to join states.

    Attributes:
        means: from the states (anything with `count`, `mean` and `compensation`) to their `Joint`.
        sums: from the tree of sums between the states and, for each state, the pair of trees of
            the sums within it, to the pair of trees of all.
    """

    means: Callable[..., Joint]
    sums: Callable[..., tuple[Any, Any]]


def pair() -> Join:
    """Joins two states."""

    def means(a: Any, b: Any) -> Joint:
        count, count_low = add(a.count, a.compensation.count, b.count, b.compensation.count)
        part = share(b.count, count)

        def both(x: Any, x_low: Any, y: Any, y_low: Any) -> tuple[Any, Any, Any]:
            difference, lost = two_sum(y, -x)
            lost = lost + (y_low - x_low)
            step = part.astype(x.dtype)
            return *add(x, x_low, difference * step, lost * step), difference + lost

        lows = a.compensation.mean, b.compensation.mean
        mean, mean_low, apart = map_unzip(both, 3, a.mean, lows[0], b.mean, lows[1])
        return Joint(count, count_low, mean, mean_low, apart, a.count * part)

    return Join(means, lambda between, a, b: add_trees(a, b, between))


def across(axis_name: Any) -> Join:
    """Joins the states of a mapped axis, each of which gives its own."""
    total = functools.partial(jax.lax.psum, axis_name=axis_name)

    def means(state: Any) -> Joint:
        own = state.count + state.compensation.count
        count = total(own)

        def all_of(high: Any, low: Any) -> tuple[Any, Any, Any]:
            part = share(own, count).astype(high.dtype)
            first = total(part * high)
            near = (high - first) + low
            second = total(part * near)
            return *two_sum(first, second), near - second

        mean, mean_low, apart = map_unzip(all_of, 3, state.mean, state.compensation.mean)
        return Joint(count, jnp.zeros_like(count), mean, mean_low, apart, state.count)

    def sums(between: Any, within: tuple[Any, Any]) -> tuple[Any, Any]:
        high = jax.tree.map(lambda z, x, low: total(x + (z + low)), between, *within)
        return high, jax.tree.map(jnp.zeros_like, high)

    return Join(means, sums)


def products(left: Joint, right: Joint) -> Any:
    """Leaf by leaf w d_x d_y, the sums between states."""
    return jax.tree.map(
        lambda x, y: x * y * left.weight.astype(x.dtype), left.difference, right.difference
    )
