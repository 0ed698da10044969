"""Options that are plain numbers: checked where they are known, taken as they are where traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def between(
    value: Any,
    name: str,
    low: float,
    high: float,
    *,
    with_low: bool = False,
    with_high: bool = False,
    hint: str = "",
) -> None:
    """Raises unless `value` is one real number between `low` and `high`, or a traced one."""
    try:
        dtype = jnp.result_type(value)
    except (TypeError, ValueError):
        dtype = None
    is_real = dtype is not None and (
        jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)
    )
    if not is_real or np.ndim(value) != 0:
        raise TypeError(f"{name} must be one real number, but is {value!r}.")
    try:
        number = float(value)
    except jax.errors.ConcretizationTypeError:
        return  # traced: its value is not known yet
    above = number >= low if with_low else number > low
    below = number <= high if with_high else number < high
    if not (above and below):
        interval = f"{'[' if with_low else '('}{low}, {high}{']' if with_high else ')'}"
        raise ValueError(f"{name} must lie in {interval}, but is {value}.{hint and ' ' + hint}")
