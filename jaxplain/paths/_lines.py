"""Paths: functions `t, x, baseline -> point`, from about the baseline at 0 to x at 1."""

from collections.abc import Callable
from typing import Any

import jax

from jaxplain import trees


def line_between(baseline: Any, x: Any) -> tuple[Callable[[jax.Array], Any], Any]:
    """The point b + t (x - b), computed wide and given in the dtype of x; the velocity, wide."""
    start = trees.widen(baseline)
    velocity = trees.subtract(trees.widen(x), start)

    def line(t: jax.Array) -> Any:
        point = jax.tree.map(lambda b, v: b + t.astype(b.dtype) * v, start, velocity)
        return trees.cast_like(point, x)

    return line, velocity
