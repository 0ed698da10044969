"""Sums kept as a pair high + low, where low holds what rounding took from high.

    two_sum(a, b) = (s, e) with s = round(a + b) and s + e = a + b exactly

References:
    Knuth 1969, "The art of computer programming", volume 2, section 4.2.2 (`two_sum`); Ogita, Rump,
    Oishi 2005, "Accurate sum and dot product", Algorithm 3.1.
"""

from typing import Any

import jax.numpy as jnp

from jaxplain.estimates._leaves import map_unzip


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """The rounded sum and, exactly, what the rounding lost."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def add(high: Any, low: Any, term: Any, term_low: Any) -> tuple[Any, Any]:
    """(high + low) + (term + term_low), again as a pair whose high part is the rounded total."""
    total, lost = two_sum(high, term)
    return two_sum(total, lost + (low + term_low))


def add_trees(a: tuple[Any, Any], b: tuple[Any, Any], term: Any) -> tuple[Any, Any]:
    """The pair a + b + term, for two pairs of trees and a tree."""
    three = lambda x, x_low, y, y_low, z: add(*add(x, x_low, y, y_low), z, jnp.zeros_like(z))
    return map_unzip(three, 2, *a, *b, term)
