"""Where the batches of a run come from: arrays, a store, a function, an iterable.

The batch of step t is a function of the key and of t alone, but for an iterable.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.sae import _chunks

SAMPLE = 2**15  # examples that parameters are initialised from


def batches(
    source: Any, key: jax.Array, batch_size: int | None, needs_sample: bool = True
) -> tuple[Any, Callable[[int], Any]]:
    """A sample to start from, and the batch of each step.

    Of an iterable the sample is its first batch, which the first step then gets: None where none
    is needed.
    """
    if isinstance(source, _chunks.Chunks):
        if batch_size is None:
            raise ValueError("batch_size must be given where the source is a store or a model.")
        size = checks.integer(batch_size, "batch_size")
        return _chunks.batches(source, key, size, SAMPLE)
    if callable(source):
        draw = jax.jit(source)
        at = lambda t: draw(jax.random.fold_in(key, t))
        return at(0), at
    leaves = source if isinstance(source, tuple) else (source,)
    if all(hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves):
        return _of_arrays(leaves, source, key, batch_size)
    if not isinstance(source, Iterable) or isinstance(source, tuple):
        raise TypeError(
            "source must be activations, a function `key -> batch`, a `jaxplain.sae.stored` or "
            f"`harvested`, or an iterable of batches, but is a {type(source).__name__}."
        )
    return _of_iterable(iter(source), needs_sample)


def _of_arrays(
    leaves: Any, source: Any, key: jax.Array, batch_size: int | None
) -> tuple[Any, Callable[[int], Any]]:
    if batch_size is None:
        raise ValueError("batch_size must be given where the source is an array.")
    batch_size = checks.integer(batch_size, "batch_size")
    lengths = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(lengths) != 1:
        raise ValueError(f"the arrays of the source have different lengths: {sorted(lengths)}.")
    (n,) = lengths
    if batch_size > n:
        raise ValueError(f"batch_size is {batch_size}, but there are {n} activations.")
    per_pass = n // batch_size  # what is left over in one order comes in another
    order: tuple[int, Any] = (-1, None)
    # On the device as they are, or on the host, a batch at a time: where they came from.
    pick = jax.jit(lambda leaves, at: tuple(leaf[at] for leaf in leaves))
    on_device = all(isinstance(leaf, jax.Array) for leaf in leaves)

    def at(t: int) -> Any:
        nonlocal order
        number, place = divmod(t, per_pass)
        if order[0] != number:
            shuffled = jax.random.permutation(jax.random.fold_in(key, number), n)
            order = (number, shuffled if on_device else np.asarray(shuffled))
        rows = order[1][place * batch_size : (place + 1) * batch_size]
        if on_device:
            batch = pick(leaves, rows)
        else:
            batch = tuple(jnp.asarray(leaf[np.sort(rows)]) for leaf in leaves)
        return batch if isinstance(source, tuple) else batch[0]

    some = np.linspace(0, n - 1, min(n, SAMPLE)).astype(int)
    sample = tuple(jnp.asarray(leaf[some]) for leaf in leaves)
    return (sample if isinstance(source, tuple) else sample[0]), at


def _of_iterable(batches: Iterator[Any], needs_sample: bool) -> tuple[Any, Callable[[int], Any]]:
    held: list[Any] = []

    def following(t: int) -> Any:
        if held:
            return held.pop()
        with contextlib.suppress(StopIteration):
            return jax.tree.map(jnp.asarray, next(batches))
        raise ValueError(f"the source ended after {t} batches, before the run did.")

    sample = None
    if needs_sample:
        sample = following(0)
        held.append(sample)
    return sample, following


def finite_rows(sample: Any) -> Any:
    """The rows that are finite: the others are no place to start from."""
    leaves = jax.tree.leaves(sample)
    of_rows = lambda leaf: jnp.all(jnp.isfinite(leaf).reshape(len(leaf), -1), axis=1)
    is_finite = functools.reduce(jnp.logical_and, map(of_rows, leaves))
    if jnp.all(is_finite):
        return sample
    if not jnp.any(is_finite):
        raise ValueError("none of the activations to start from is finite.")
    return jax.tree.map(lambda leaf: leaf[is_finite], sample)


def is_iterator(source: Any) -> bool:
    """Whether the source goes on from where it is, and cannot give the same batch twice."""
    if isinstance(source, tuple) or hasattr(source, "shape"):
        return False
    return not callable(source)
