"""Activations on disk as a source for training: groups of chunks, shuffled, in bounded memory.

pass p     the chunks of the store in a random order, cut into groups that fit into the buffer
group g    its rows in a random order, cut into batches; what is left over comes in another pass

Orders are functions of the key, the pass and the group alone, so that the batch of any step can be
found again: a run that goes on needs nothing but the number of its step.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, store


class Stored(NamedTuple):
    """A store of activations, open for training.

    Attributes:
        array: the activations on disk, (examples, ..., d), read as they are asked for.
        mask: (examples, ...) bool, which rows count; None where all do.
        chunk: how many examples a chunk of the store holds.
        rows: for each chunk, how many rows it holds that count.
        group: how many chunks are in memory at once; a second group is read ahead.
    """

    array: Any
    mask: Any
    chunk: int
    rows: np.ndarray
    group: int

    def in_order(self) -> Iterator[np.ndarray]:
        """The rows of one chunk after another, (n, d), as they lie on disk."""
        for number in range(len(self.rows)):
            yield self._rows([number])

    def _rows(self, numbers: Any, read: Any = None) -> np.ndarray:
        read = self._start(numbers) if read is None else read
        parts = []
        for number, future in zip(numbers, read, strict=True):
            block = np.asarray(future.result())
            flat = block.reshape(-1, block.shape[-1])
            if self.mask is not None:
                low = number * self.chunk
                flat = flat[self.mask[low : low + len(block)].reshape(-1)]
            parts.append(flat)
        return np.concatenate(parts)

    def _start(self, numbers: Any) -> list[Any]:
        size, length = self.chunk, self.array.shape[0]
        return [self.array[n * size : min((n + 1) * size, length)].read() for n in numbers]


def stored(
    path: str | os.PathLike[str],
    leaf: str = "values",
    *,
    mask: str | None = None,
    buffer_bytes: int = 2**28,
) -> Stored:
    """Opens activations on disk as the source of a training run.

    They are a leaf of a store that `jaxplain.run.map` wrote, of shape (examples, d) or (examples,
    positions, d); another leaf beside it may say which positions count, others hold token ids.

    Args:
        path: the folder of the store, finished.
        leaf: the name of the array in it.
        mask: the name of an array (examples, positions) of booleans or integers; rows where it is 0
            are left out. All rows count unless given.
        buffer_bytes: how many bytes of activations are mixed at a time: as many whole chunks as
            fit, at least one. Twice as much is held, since the next group is read ahead.

    Returns:
        `Stored`, for `source` of `jaxplain.sae.train`; `jaxplain.sae.evaluate` takes
        `stored(...).in_order()`.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it is not finished, has no such array, or the array has no width.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax, pathlib, tempfile
        >>> import jaxplain
        >>> from jaxplain import sae
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "activations.zarr"
        ...     h = lambda x: jnp.tanh(x).astype(jnp.bfloat16)
        ...     _ = jaxplain.run.map(h, x, path, batch_size=16, progress=False)
        ...     source = sae.stored(path)
        ...     result = sae.train(
        ...         jax.random.key(0),
        ...         sae.topk(latents=16, k=2),
        ...         source,
        ...         optimizer=optax.adam(1e-3),
        ...         steps=10,
        ...         batch_size=32,
        ...     )
        >>> source.rows.tolist(), int(result.state.step)
        ([16, 16, 16, 16], 10)

    References:
        docs/sae.md.
    """
    opened = store.open(path)
    for name in (leaf, *([mask] if mask else [])):
        if name not in opened.arrays:
            raise ValueError(f"{path} has no array {name!r}, only {', '.join(opened.arrays)}.")
    array = opened.arrays[leaf]
    if array.ndim < 2:
        raise ValueError(
            f"{leaf} of {path} has the shape {array.shape}, but activations are (examples, ..., d)"
        )
    chunk = int(opened.manifest["batch_size"])
    chunks = -(-array.shape[0] // chunk)
    missing = sorted(set(range(chunks)) - store.finished_batches(opened))
    if missing or not chunks:
        raise ValueError(
            f"{path} is not finished: {len(missing)} of {chunks} batches are missing. Go on with "
            "the run that writes it, resume=True"
        )
    per_example = int(np.prod(array.shape[1:-1], dtype=np.int64))
    kept = None
    sizes = [min(chunk, array.shape[0] - k * chunk) for k in range(chunks)]
    rows = np.array([size * per_example for size in sizes])
    if mask is not None:
        kept = np.asarray(opened.arrays[mask].read().result()).astype(bool)
        if kept.shape != array.shape[:-1]:
            raise ValueError(
                f"{mask} has the shape {kept.shape}, but must have that of {leaf} without its "
                f"width, {array.shape[:-1]}."
            )
        rows = np.array([kept[k * chunk : (k + 1) * chunk].sum() for k in range(chunks)])
    size = chunk * per_example * array.shape[-1] * array.dtype.numpy_dtype.itemsize
    group = max(checks.integer(buffer_bytes, "buffer_bytes") // max(size, 1), 1)
    return Stored(array, kept, chunk, rows, min(group, chunks))


def batches(
    source: Stored, key: jax.Array, batch_size: int, sample: int
) -> tuple[jax.Array, Callable[[int], jax.Array]]:
    """Some rows, at most `sample`, and the batch of each step."""
    if sum(np.sort(source.rows)[: source.group]) < batch_size:
        raise ValueError(
            f"batch_size is {batch_size}, but a group of {source.group} chunks may hold only "
            f"{sum(np.sort(source.rows)[: source.group])} rows: give more buffer_bytes."
        )
    whole = len(source.rows) // source.group * source.group
    ends: list[int] = [0]  # the batches before each pass
    orders: dict[int, list[np.ndarray]] = {}
    held: dict[tuple[int, int], np.ndarray] = {}
    coming: dict[tuple[int, int], list[Any]] = {}

    def groups_of(number: int) -> list[np.ndarray]:
        """The chunks of each group of a pass; what fills no group is left to other passes."""
        if number not in orders:
            orders.clear()
            random = np.random.default_rng(_words(jax.random.fold_in(key, number)))
            order = random.permutation(len(source.rows))[:whole]
            orders[number] = list(order.reshape(-1, source.group))
        return orders[number]

    def counts(number: int) -> np.ndarray:
        return np.array([source.rows[g].sum() // batch_size for g in groups_of(number)])

    def group_at(number: int, place: int) -> np.ndarray:
        """The rows of a group in their order; the next group is asked for meanwhile."""
        if (number, place) not in held:
            held.clear()
            numbers = groups_of(number)[place]
            rows = source._rows(numbers, coming.pop((number, place), None))
            coming.clear()
            own = jax.random.fold_in(jax.random.fold_in(key, number), place + 1)
            held[number, place] = rows[np.random.default_rng(_words(own)).permutation(len(rows))]
            if place + 1 < len(groups_of(number)):
                coming[number, place + 1] = source._start(groups_of(number)[place + 1])
        return held[number, place]

    def at(t: int) -> jax.Array:
        while ends[-1] <= t:
            ends.append(ends[-1] + int(counts(len(ends) - 1).sum()))
        number = int(np.searchsorted(ends, t, side="right")) - 1
        before = np.concatenate([[0], np.cumsum(counts(number))])
        place = int(np.searchsorted(before, t - ends[number], side="right")) - 1
        first = (t - ends[number] - before[place]) * batch_size
        return jnp.asarray(group_at(number, place)[first : first + batch_size])

    return jnp.asarray(group_at(0, 0)[:sample]), at


def _words(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).ravel().tolist()
