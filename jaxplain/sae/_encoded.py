"""Rows of activations and their codes, a batch at a time, so that no (n, F) array exists.

A batch holds at most 2^26 codes and whole sequences. Where a number is not finite, it ends there.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain.sae._dictionary import Dictionary, Params

ROWS = 4096
MOST_AT_ONCE = 2**26  # codes of a batch, in numbers


def rows(dictionary: Dictionary, h: Any, name: str, sequence_length: int = 1) -> None:
    """Raises unless `h` holds rows of activations, and of them whole sequences."""
    if not hasattr(h, "shape") or not jnp.issubdtype(h.dtype, jnp.floating):
        what = f"of dtype {h.dtype}" if hasattr(h, "dtype") else f"a {type(h).__name__}"
        raise TypeError(f"{name} must be an array of floats, but is {what}.")
    shape = "n, M, d" if dictionary.about.get("is_crosscoder") else "n, d"
    if h.ndim != shape.count(",") + 1:
        raise ValueError(
            f"{name} must have the shape ({shape}), but has {h.shape}: make rows of it, "
            "`h.reshape(-1, h.shape[-1])`."
        )
    if not len(h):
        raise ValueError(f"{name} has no rows.")
    if len(h) % sequence_length:
        raise ValueError(
            f"the {len(h)} rows of {name} are no whole number of sequences of {sequence_length}."
        )


def batch_rows(latents: int, sequence_length: int = 1) -> int:
    """How many rows are encoded at once, of so many latents: whole sequences, at least one."""
    size = max(min(ROWS, MOST_AT_ONCE // max(latents, 1)), 1)
    return max(size // sequence_length, 1) * sequence_length


def batches(
    dictionary: Dictionary, params: Params, h: Any, name: str, sequence_length: int = 1
) -> Iterator[tuple[slice, jax.Array, jax.Array]]:
    """Where a batch stands, its rows and their codes (rows, F)."""
    size = batch_rows(params["W_enc"].shape[-1], sequence_length)
    for start in range(0, len(h), size):
        place = slice(start, min(start + size, len(h)))
        own = jnp.asarray(h[place])
        codes, is_finite, are_finite = _encode(dictionary.encode, params, own)
        if not is_finite:
            raise ValueError(
                f"{name} holds numbers that are not finite, in rows {place.start} to "
                f"{place.stop - 1}: leave such rows out."
            )
        if not are_finite:
            raise ValueError(
                "codes are not finite: look at params, whose training may have failed."
            )
        yield place, own, codes


@functools.partial(jax.jit, static_argnums=0)  # of a function, so that a second call is compiled
def _encode(encode: Callable[..., Any], params: Params, h: jax.Array) -> Any:
    codes = encode(params, h)
    return codes, jnp.all(jnp.isfinite(h)), jnp.all(jnp.isfinite(codes))
