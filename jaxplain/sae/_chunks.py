"""Activations that come in chunks, as a source for training: mixed in bounded memory.

pass p     all chunks in a random order, cut into groups that fit into the buffer
group g    its rows in a random order, cut into batches; what is left over comes in another pass

Orders are functions of the key, the pass and the group alone, so that the batch of any step can be
found again: a run that goes on needs nothing but the number of its step.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks


class Chunks(NamedTuple):
    """Activations in chunks: on disk (`jaxplain.sae.stored`) or of a model (`harvested`).

    Attributes:
        rows: for each chunk, how many rows it holds that count.
        width: d.
        group: how many chunks are mixed at a time; a second group is begun ahead.
        begin: `number -> under_way`, begins to read or to compute a chunk.
        finish: `(number, under_way) -> (n, d)`, its rows that count, as they come.
    """

    rows: np.ndarray
    width: int
    group: int
    begin: Callable[[int], Any]
    finish: Callable[[int, Any], np.ndarray]

    def in_order(self) -> Iterator[np.ndarray]:
        """The rows of one chunk after another, (n, d), the next one begun ahead."""
        coming = self.begin(0)
        for number in range(len(self.rows)):
            under_way = coming
            coming = self.begin(number + 1) if number + 1 < len(self.rows) else None
            yield self.finish(number, under_way)


def of_parts(
    shape: tuple[int, ...],
    itemsize: int,
    chunk: int,
    mask: np.ndarray | None,
    buffer_bytes: int,
    begin: Callable[[slice], Any],
    finish: Callable[[Any], np.ndarray],
) -> Chunks:
    """Activations (examples, ..., d) by so many examples at a time, the rows that count of each.

    `begin` gets which examples, `finish` what it gave, and returns their (examples, ..., d).
    """
    parts = [slice(k, min(k + chunk, shape[0])) for k in range(0, shape[0], chunk)]
    per_example = int(np.prod(shape[1:-1], dtype=np.int64))
    rows = [(p.stop - p.start) * per_example if mask is None else mask[p].sum() for p in parts]
    chunk_bytes = max(chunk * per_example * shape[-1] * itemsize, 1)
    fit = checks.integer(buffer_bytes, "buffer_bytes") // chunk_bytes

    def rows_of(number: int, under_way: Any) -> np.ndarray:
        flat = finish(under_way).reshape(-1, shape[-1])
        return flat if mask is None else flat[mask[parts[number]].reshape(-1)]

    return Chunks(
        np.array(rows),
        shape[-1],
        min(max(fit, 1), len(parts)),
        lambda number: begin(parts[number]),
        rows_of,
    )


def checked_mask(mask: Any, shape: tuple[int, ...], name: str, of: str) -> np.ndarray:
    """Which rows count, (examples, ...) bool."""
    mask = np.asarray(mask).astype(bool)
    if mask.shape != shape:
        raise ValueError(
            f"{name} has the shape {mask.shape}, but must have that of {of} without its width, "
            f"{shape}."
        )
    return mask


def batches(
    source: Chunks, key: jax.Array, batch_size: int, sample: int
) -> tuple[jax.Array, Callable[[int], jax.Array]]:
    """Some rows, at most `sample`, and the batch of each step."""
    if sum(np.sort(source.rows)[: source.group]) < batch_size:
        raise ValueError(
            f"batch_size is {batch_size}, but a group of {source.group} chunks may hold only "
            f"{sum(np.sort(source.rows)[: source.group])} rows: give more buffer_bytes."
        )
    whole = len(source.rows) // source.group * source.group
    ends: list[int] = [0]  # the batches before each pass
    passes: dict[int, tuple[list[np.ndarray], np.ndarray]] = {}
    held: dict[tuple[int, int], np.ndarray] = {}
    coming: dict[tuple[int, int], list[Any]] = {}

    def pass_of(number: int) -> tuple[list[np.ndarray], np.ndarray]:
        """The chunks of each group of a pass, and the batches before each group and in all.

        What fills no group is left to other passes.
        """
        if number not in passes:
            passes.clear()
            random = np.random.default_rng(_words(jax.random.fold_in(key, number)))
            order = random.permutation(len(source.rows))[:whole].reshape(-1, source.group)
            counts = source.rows[order].sum(axis=1) // batch_size
            passes[number] = list(order), np.concatenate([[0], np.cumsum(counts)])
        return passes[number]

    def group_at(number: int, place: int) -> np.ndarray:
        """The rows of a group in their order; the next group is asked for meanwhile."""
        if (number, place) not in held:
            held.clear()
            groups = pass_of(number)[0]
            numbers = groups[place]
            begun = coming.pop((number, place), None) or [source.begin(n) for n in numbers]
            coming.clear()
            rows = np.concatenate(
                [source.finish(*both) for both in zip(numbers, begun, strict=True)]
            )
            own = jax.random.fold_in(jax.random.fold_in(key, number), place + 1)
            held[number, place] = rows[np.random.default_rng(_words(own)).permutation(len(rows))]
            if place + 1 < len(groups):
                coming[number, place + 1] = [source.begin(n) for n in groups[place + 1]]
        return held[number, place]

    def at(t: int) -> jax.Array:
        while ends[-1] <= t:
            ends.append(ends[-1] + int(pass_of(len(ends) - 1)[1][-1]))
        number = int(np.searchsorted(ends, t, side="right")) - 1
        before = pass_of(number)[1]
        place = int(np.searchsorted(before, t - ends[number], side="right")) - 1
        first = (t - ends[number] - before[place]) * batch_size
        return jnp.asarray(group_at(number, place)[first : first + batch_size])

    return jnp.asarray(group_at(0, 0)[:sample]), at


def _words(key: jax.Array) -> list[int]:
    return np.asarray(jax.random.key_data(key)).ravel().tolist()
