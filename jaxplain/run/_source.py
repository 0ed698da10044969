"""Where examples come from: arrays that are read by slices, or an iterator of batches.

Either way the run sees batches of one size, numbered from 0, the last filled up with copies of its
last example.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxplain import store

# Rows of a dataset that make its fingerprint: enough to tell datasets apart, and quickly read.
_FINGERPRINT_ROWS = 64


class Batch(NamedTuple):
    """A batch of the full size, on the host.

    Attributes:
        number: counted from 0; the global index of its first example is `number * batch_size`.
        real: how many of its examples are real; those after are copies of the last.
        arguments: a tuple of trees with a leading axis of the batch size.
    """

    number: int
    real: int
    arguments: tuple[Any, ...]


class Source(Protocol):
    """What a run needs of a dataset."""

    examples: int | None
    types: tuple[Any, ...]

    def fingerprint(self) -> str: ...

    def batches(self, size: int, skip: set[int]) -> Iterator[Batch]: ...


def of(source: Any) -> Source:
    """Arrays or an iterator, whichever `source` is."""
    is_tree = isinstance(source, tuple | list | dict) or hasattr(source, "shape")
    if not is_tree and isinstance(source, Iterable) and not isinstance(source, str | bytes):
        return _Iterated(iter(source))
    if _is_array_tree(source):
        return _Arrays(source)
    raise TypeError(
        "source must be an array, a tree or tuple of arrays with one leading axis of examples, or "
        f"an iterator of batches of those, but is a {type(source).__name__}."
    )


class _Arrays:
    """Arrays in memory, memory-mapped, or read by slicing (zarr): all have one leading axis."""

    def __init__(self, source: Any) -> None:
        self._arguments = source if isinstance(source, tuple) else (source,)
        self.examples: int | None = _examples(self._arguments)
        self.types = jax.tree.map(_row_type, self._arguments)

    def fingerprint(self) -> str:
        return store.fingerprint(self._arguments, rows=_FINGERPRINT_ROWS)

    def batches(self, size: int, skip: set[int]) -> Iterator[Batch]:
        total = self.examples or 0
        for number in range(-(-total // size)):
            if number not in skip:
                start, stop = number * size, min((number + 1) * size, total)
                read = lambda leaf, a=start, b=stop: _fill(np.asarray(leaf[a:b]), size)
                yield Batch(number, stop - start, jax.tree.map(read, self._arguments))


class _Iterated:
    """Batches of any sizes, cut anew into batches of one size."""

    def __init__(self, iterator: Iterator[Any]) -> None:
        self.examples: int | None = None
        self._iterator = iterator
        self._first = self._next()
        if self._first is None:
            raise ValueError("source has no examples: the iterator ended at once.")
        self.types = jax.tree.map(_row_type, self._first)

    def _next(self) -> tuple[Any, ...] | None:
        """The next batch that holds examples, on the host."""
        for batch in self._iterator:
            if not _is_array_tree(batch):
                raise TypeError(
                    "an iterator must give batches: arrays, or trees or tuples of arrays, with a "
                    f"leading axis of examples; but it gave a {type(batch).__name__}."
                )
            batch = batch if isinstance(batch, tuple) else (batch,)
            if _examples(batch, empty=True):
                return jax.tree.map(np.asarray, batch)
        return None

    def fingerprint(self) -> str:
        return store.fingerprint(self._first)  # all that can be known before the end

    def batches(self, size: int, skip: set[int]) -> Iterator[Batch]:
        number, held, total, part = 0, 0, 0, self._first
        parts: list[Any] = []
        while part is not None:
            self._check(part)
            parts.append(part)
            held += _examples(part)
            total += _examples(part)
            while held >= size:
                joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
                if number not in skip:
                    yield Batch(number, size, jax.tree.map(lambda leaf: leaf[:size], joined))
                number, held = number + 1, held - size
                parts = [jax.tree.map(lambda leaf: leaf[size:], joined)]
            part = self._next()
        self.examples = total  # now it is known
        if held and number not in skip:
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
            yield Batch(number, held, jax.tree.map(lambda leaf: _fill(leaf, size), joined))

    def _check(self, batch: tuple[Any, ...]) -> None:
        types = jax.tree.map(_row_type, batch)
        if types != self.types:
            raise ValueError(
                f"all batches of an iterator must be of one kind, but one has examples of {types} "
                f"where the first had {self.types}."
            )


def _is_array_tree(source: Any) -> bool:
    leaves = jax.tree.leaves(source)
    return bool(leaves) and all(
        hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves
    )


def _examples(arguments: Any, *, empty: bool = False) -> int:
    named = jax.tree_util.tree_flatten_with_path(arguments)[0]
    counts = {}
    for path, leaf in named:
        place = jax.tree_util.keystr(path)
        if len(leaf.shape) == 0:
            raise ValueError(
                f"every array of source needs a leading axis of examples, but the one at {place} "
                "is a scalar. What all examples share goes to `shared=`."
            )
        counts[place] = leaf.shape[0]
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"the arrays of source must have as many examples each, but have {counts}. What all "
            "examples share goes to `shared=`."
        )
    count = int(next(iter(counts.values())))
    if count == 0 and not empty:
        raise ValueError("source has no examples.")
    return count


def _row_type(leaf: Any) -> jax.ShapeDtypeStruct:
    dtype = getattr(leaf.dtype, "numpy_dtype", leaf.dtype)  # tensorstore has dtypes of its own
    return jax.ShapeDtypeStruct(tuple(leaf.shape[1:]), jax.dtypes.canonicalize_dtype(dtype))


def _fill(array: np.ndarray, size: int) -> np.ndarray:
    """Copies of the last row until there are `size`: real examples, so that nothing new happens."""
    missing = size - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array
