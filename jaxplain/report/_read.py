"""From stores to the figures of the page, block by block: no array of attributions is held whole.

    relative gap = |completeness_gap| / |output - baseline_output|
    mean = sum_i a_i / n,    error = sqrt(sum_i (a_i - mean)^2 / (n (n - 1)))

Only numbers of which there is one for each example are held for all examples.
"""

import math
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

BLOCK_BYTES = 2**24


class Run(NamedTuple):
    """One store, and what the page says of it beside its figures.

    Attributes:
        label: what the page calls it, one for each store.
        path, manifest, arrays: those of the store.
        quality: the arrays of its quality, by name; None where it was not measured.
        quality_index: the example of each row of `quality`, -1 where it is not computed yet.
        quality_problem: what is wrong with a quality that is there, or "".
        examples: how many there are in the store.
        computed: for each example, whether it has been computed.
    """

    label: str
    path: pathlib.Path
    manifest: Mapping[str, Any]
    arrays: Mapping[str, Any]
    quality: Mapping[str, Any] | None
    quality_index: np.ndarray
    quality_problem: str
    examples: int
    computed: np.ndarray


class Mean(NamedTuple):
    """A mean over examples and its standard error."""

    mean: Any
    error: Any


class Curves(NamedTuple):
    """Deletion or insertion, over the examples; `left_out` of them are not finite."""

    fractions: np.ndarray
    area: Mean
    random_area: Mean
    difference: Mean
    scores: Mean
    random_scores: Mean
    examples: int
    left_out: int


def open_runs(stores: Any) -> list[Run]:
    """Opens one path or several."""
    if isinstance(stores, str | os.PathLike):
        stores = [stores]
    paths = [pathlib.Path(path) for path in stores]
    if not paths:
        raise ValueError("stores must name at least one store, but is empty.")
    import jaxplain.store

    opened = [jaxplain.store.open(path) for path in paths]
    names = _labels(opened)
    return [_run(label, store) for label, store in zip(names, opened, strict=True)]


def _labels(opened: Sequence[Any]) -> list[str]:
    """The methods' names; with the folders' where methods are the same."""
    methods = []
    for store in opened:
        method = entry(store.manifest, "about", "method")
        last = str(method).rpartition(".")[2].replace("_", " ").strip()[:80] if method else ""
        methods.append(last or store.path.name)
    unique = len(set(methods)) == len(methods)
    both = [f"{m} ({s.path.name})" for m, s in zip(methods, opened, strict=True)]
    if unique:
        return methods
    if len(set(both)) == len(both):
        return both
    return [f"{name}, {place}" for place, name in enumerate(both, 1)]


def _run(label: str, store: Any) -> Run:
    import jaxplain.store

    examples = _length(store.arrays)
    quality, index, problem = None, np.zeros(0, np.int64), ""
    if (store.path / "quality").exists():
        try:
            measured = jaxplain.store.open(store.path / "quality")
        except ValueError as error:  # an older format, or cut off in the writing
            problem = f"cannot be read: {error}"
        else:
            quality = measured.arrays
            flat = column(quality, "example", _length(quality))
            if flat is None:
                quality, problem = None, "does not say which examples it is of."
            else:
                done = _computed(measured, len(flat))
                index = np.where(done, flat, -1).astype(np.int64)
                if not done.all():
                    problem = f"is not finished: {int(done.sum()):,} of {len(done):,} are measured."
    return Run(
        label,
        pathlib.Path(store.path),
        store.manifest,
        store.arrays,
        quality,
        index,
        problem,
        examples,
        _computed(store, examples),
    )


def _length(arrays: Mapping[str, Any]) -> int:
    """The examples that are in all arrays: a killed run may leave more of them in some."""
    return min((array.shape[0] for array in arrays.values() if array.shape), default=0)


def _computed(store: Any, examples: int) -> np.ndarray:
    """For each example whether it has been computed."""
    if store.manifest.get("finished", True):
        return np.ones(examples, bool)
    import jaxplain.store

    computed = np.zeros(examples, bool)
    size = int(store.manifest["batch_size"])
    for batch in jaxplain.store.finished_batches(store):
        computed[batch * size : (batch + 1) * size] = True
    return computed


def entry(manifest: Any, *path: str) -> Any:
    """An entry of an entry of the manifest, or None."""
    for name in path:
        if not isinstance(manifest, Mapping):
            return None
        manifest = manifest.get(name)
    return manifest


def real_entry(manifest: Any, *path: str) -> float | None:
    """The same, where it is a finite number."""
    value = entry(manifest, *path)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def fingerprint(run: Run, *names: str) -> str | None:
    """The first of the fingerprints of these names that is there."""
    for name in names:
        value = entry(run.manifest, "fingerprints", name)
        if value:
            return str(value)
    return None


def blocks(array: Any) -> Iterator[tuple[int, np.ndarray]]:
    """The rows of an array, as many at once as fit a block, with the number of the first."""
    row = 8 * math.prod(array.shape[1:])
    step = max(1, BLOCK_BYTES // max(1, row))
    for start in range(0, array.shape[0], step):
        yield start, np.asarray(array[start : min(start + step, array.shape[0])])


def column(arrays: Mapping[str, Any] | None, name: str, count: int) -> np.ndarray | None:
    """One number for each of `count` examples, float64; None where there is no such array."""
    array = arrays.get(name) if arrays is not None else None
    if array is None or len(array.shape) != 1:
        return None
    parts = [block.astype(np.float64) for _, block in blocks(array)]
    return np.concatenate(parts)[:count] if parts else np.zeros(0)


def rows(
    arrays: Mapping[str, Any] | None, name: str, places: Sequence[int]
) -> dict[int, np.ndarray]:
    """Some rows of an array, by their place; those that are not there are left out."""
    array = arrays.get(name) if arrays is not None else None
    if array is None or not array.shape:
        return {}
    # Sorted, so that a chunk on disk is read once.
    there = np.array(sorted({p for p in places if 0 <= p < array.shape[0]}), np.int64)
    if not len(there):
        return {}
    read = np.asarray(array[there])
    return {int(place): value for place, value in zip(there, read, strict=True)}


def relative_gap(run: Run) -> np.ndarray | None:
    """The completeness gap of each example, relative to what is to be explained."""
    names = ("completeness_gap", "output", "baseline_output")
    gap, output, baseline = (column(run.arrays, name, run.examples) for name in names)
    if gap is None or output is None or baseline is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.abs(gap) / np.abs(output - baseline)
    return np.where(run.computed, relative, np.nan)


def estimated_error(run: Run) -> np.ndarray | None:
    """The error each example states of itself."""
    error = column(run.arrays, "error", run.examples)
    return None if error is None else np.where(run.computed, error, np.nan)


def not_finite(run: Run) -> np.ndarray:
    """The indices of computed examples that are not finite, from their flags or their values."""
    flags = column(run.arrays, "finite", run.examples)
    if flags is not None:
        bad = flags == 0
    else:
        bad = np.zeros(run.examples, bool)
        for name, array in run.arrays.items():
            if name != "values" and not name.startswith("values/"):
                continue
            for start, block in blocks(array):
                flat = block[: run.examples - start].astype(np.float64)
                flat = flat.reshape(len(flat), math.prod(flat.shape[1:]))
                bad[start : start + len(flat)] |= ~np.isfinite(flat).all(axis=1)
    return np.flatnonzero(bad & run.computed)


def score(run: Run) -> tuple[np.ndarray, np.ndarray, str]:
    """What examples are ranked by: their indices, the score (more is better), and its name."""
    measured = len(run.quality_index)
    inserted, deleted = (
        column(run.quality, f"{kind}/area", measured) for kind in ("insertion", "deletion")
    )
    if inserted is not None and deleted is not None:
        return run.quality_index, inserted - deleted, "insertion area minus deletion area"
    gap = relative_gap(run)
    index = np.arange(run.examples)
    if gap is not None:
        return index, -gap, "relative completeness gap, small first"
    return index, np.full(run.examples, np.nan), ""


def curves(run: Run, kind: str) -> Curves | None:
    """Deletion or insertion over the examples, as `metrics.over_examples`, streamed in float64."""
    names = ("area", "random_area", "scores", "random_scores", "fractions")
    quality = run.quality or {}
    if any(f"{kind}/{name}" not in quality for name in names):
        return None
    area, random_area, scores, random_scores, fractions = (quality[f"{kind}/{n}"] for n in names)
    if len(area.shape) != 1 or len(scores.shape) != 2 or scores.shape[1] < 2:
        return None
    moments = _Moments()
    left_out = 0
    places = np.full(scores.shape[1], np.nan)
    measured = run.quality_index >= 0
    for start, own in blocks(scores):
        own = own[: len(measured) - start]
        stop = start + len(own)
        parts = [np.asarray(a[start:stop]) for a in (area, random_area, random_scores)]
        a, r, random = (part.astype(np.float64) for part in parts)
        table = np.column_stack([a, r, a - r, own.astype(np.float64), random])
        good = np.isfinite(table).all(axis=1) & measured[start:stop]
        left_out += int(np.sum(measured[start:stop] & ~good))
        moments.add(table[good])
        if good.any() and np.isnan(places).any():
            # The same for all examples of one shape.
            first = start + int(np.argmax(good))
            places = np.asarray(fractions[first : first + 1])[0].astype(np.float64)
    if not moments.count:
        return None
    mean, error = moments.mean, moments.error()
    steps = scores.shape[1]
    part = lambda at: Mean(mean[at], error[at])
    return Curves(
        places,
        part(0),
        part(1),
        part(2),
        part(slice(3, 3 + steps)),
        part(slice(3 + steps, 3 + 2 * steps)),
        moments.count,
        left_out,
    )


def paired(first: Run, other: Run, kind: str) -> tuple[Mean, int] | None:
    """The mean difference of areas, other minus first, on the examples that both have."""
    areas = []
    for run in (first, other):
        area = column(run.quality, f"{kind}/area", len(run.quality_index))
        if area is None:
            return None
        good = (run.quality_index >= 0) & np.isfinite(area)
        areas.append((run.quality_index[good], area[good]))
    _, here, there = np.intersect1d(areas[0][0], areas[1][0], return_indices=True)
    if not len(here):
        return None
    moments = _Moments()
    moments.add(areas[1][1][there] - areas[0][1][here])
    return Mean(moments.mean, moments.error()), moments.count


def same_data(first: Run, other: Run) -> bool:
    """Whether example i of the one is example i of the other, as far as is known."""
    prints = [fingerprint(run, "data", "source") for run in (first, other)]
    return prints[0] == prints[1] and first.examples == other.examples


class _Moments:
    """Mean and sum of squares of rows that come in blocks (Chan, Golub and LeVeque)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, rows: np.ndarray) -> None:
        if not len(rows):
            return
        mean = rows.mean(axis=0)
        squares = ((rows - mean) ** 2).sum(axis=0)
        both = self.count + len(rows)
        apart = mean - self.mean
        self.mean = self.mean + apart * (len(rows) / both)
        self.squares = self.squares + squares + apart**2 * (self.count * len(rows) / both)
        self.count = both

    def error(self) -> Any:
        if self.count < 2:
            return np.full(np.shape(self.mean), np.nan)
        return np.sqrt(self.squares / (self.count * (self.count - 1)))
