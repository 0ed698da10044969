"""Activations that come in chunks, as a source for training: mixed in bounded memory.

pass p     all chunks in a random order, cut into groups that fit into the buffer
group g    its rows in a random order, cut into batches; what is left over comes in another pass

Orders are functions of the key, the pass and the group alone, so that the batch of any step can be
found again: a run that goes on needs nothing but the number of its step.
"""

from collections.abc import Callable, Iterator, Sequence
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


def group_size(buffer_bytes: int, chunk_bytes: int, chunks: int) -> int:
    """How many chunks fit into the buffer: at least one."""
    fit = checks.integer(buffer_bytes, "buffer_bytes") // max(chunk_bytes, 1)
    return min(max(fit, 1), chunks)


def kept_rows(mask: np.ndarray | None, chunk: int, shape: Sequence[int]) -> np.ndarray:
    """How many rows of each chunk count, of (examples, ...) rows."""
    starts = range(0, shape[0], chunk)
    if mask is not None:
        return np.array([mask[start : start + chunk].sum() for start in starts])
    per_example = int(np.prod(shape[1:], dtype=np.int64))
    return np.array([min(chunk, shape[0] - start) * per_example for start in starts])


def flat_rows(block: np.ndarray, mask: np.ndarray | None, start: int) -> np.ndarray:
    """The rows that count of examples from `start` on: (examples, ..., d) to (n, d)."""
    flat = block.reshape(-1, block.shape[-1])
    return flat if mask is None else flat[mask[start : start + len(block)].reshape(-1)]


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
            begun = coming.pop((number, place), None) or [source.begin(n) for n in numbers]
            coming.clear()
            rows = np.concatenate(
                [source.finish(*both) for both in zip(numbers, begun, strict=True)]
            )
            own = jax.random.fold_in(jax.random.fold_in(key, number), place + 1)
            held[number, place] = rows[np.random.default_rng(_words(own)).permutation(len(rows))]
            if place + 1 < len(groups_of(number)):
                coming[number, place + 1] = [source.begin(n) for n in groups_of(number)[place + 1]]
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
