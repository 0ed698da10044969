"""Sensitivity indices of a model outside JAX: the points of a design, and what its outputs say.

plan = design(inputs, samples=2**12)(key);    indices = analyse(plan, (simulate(x) for x in plan))

The points are those of `indices` with the same options and key, and so are the statistics.
"""

import dataclasses
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, qmc
from jaxplain.qmc._sampler import Sampler
from jaxplain.sobol import _design, _indices
from jaxplain.sobol._design import Design
from jaxplain.sobol._factors import factors
from jaxplain.sobol._indices import Indices, Options
from jaxplain.sobol._statistics import Estimates, Layout, State
from jaxplain.sobol.estimators import Estimator, jansen, saltelli2010

EVALUATIONS_IN_A_CHUNK = 2**14
NUMBERS_IN_A_CHUNK = 2**22


@dataclasses.dataclass(frozen=True)
class Plan:
    """The points of a design, chunk by chunk; see `design`.

    `len(plan)` chunks; `plan[k]`, made when it is asked for, is a tree like the inputs of numpy
    arrays with a leading axis of evaluations. So chunks may be simulated in any order, in many
    places, and again after a kill; `analyse` takes their outputs in the order of the plan.

    Attributes:
        evaluations: all evaluations of the model.
        sizes: evaluations in each chunk.
    """

    evaluations: int
    sizes: tuple[int, ...] = dataclasses.field(repr=False)
    _chunks: tuple["_Chunk", ...] = dataclasses.field(repr=False)
    _points: Callable[[jax.Array, Any], Any] = dataclasses.field(repr=False)
    _keys: jax.Array = dataclasses.field(repr=False)
    _for_bootstrap: jax.Array = dataclasses.field(repr=False)
    _rows: Design = dataclasses.field(repr=False)
    _options: Options = dataclasses.field(repr=False)
    _nan: str = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, number: int) -> Any:
        try:
            number = operator.index(number)
        except TypeError:
            raise TypeError(
                f"a chunk of a plan has an integer number, but got {number!r}. Several: "
                "`(plan[k] for k in range(first, last))`."
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"the plan has {len(self)} chunks, but number {number} is asked for.")
        chunk = self._chunks[number]
        tree = self._points(self._keys[chunk.scramble], jnp.int32(chunk.number))

        def cut(leaf: jax.Array) -> np.ndarray:
            """Without the rows of the last block that are beyond the samples."""
            array = np.asarray(leaf)[:, : chunk.rows]
            return array.reshape(-1, *array.shape[2:])

        return jax.tree.map(cut, tree)

    def __iter__(self) -> Iterator[Any]:
        return (self[number] for number in range(len(self)))


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Some rows of a design.

    Attributes:
        scramble: which of the independent designs.
        number: which chunk of it.
        rows: how many rows.
        ends_block: whether a block of the statistics ends with it.
        ends_design: whether a design does.
    """

    scramble: int
    number: int
    rows: int
    ends_block: bool
    ends_design: bool


def design(
    inputs: Any,
    *,
    samples: int | None = None,
    sampler: Sampler = qmc.sobol,
    first_order: Estimator = saltelli2010,
    total_order: Estimator = jansen,
    second_order: bool = False,
    groups: Any = None,
    errors: str = "delta",
    replicates: int | None = None,
    level: float = 0.95,
    chunk_size: int | None = None,
    nan: str = "raise",
) -> Callable[[Any], Plan]:
    """The points at which a model outside JAX is to be evaluated, for its Sobol indices.

        samples * (d + 2) points, in chunks; `analyse` makes the indices from the outputs

    Args:
        inputs: a tree of distributions, as in `indices`.
        samples: as in `indices`.
        sampler: as in `indices`.
        first_order: as in `indices`.
        total_order: as in `indices`.
        second_order: as in `indices`.
        groups: as in `indices`.
        errors: as in `indices`.
        replicates: as in `indices`.
        level: as in `indices`.
        chunk_size: evaluations in a chunk, about: it holds the d + 2 evaluations of a row together,
            and a power of two of rows. At most 16,384, and 16 MiB of points, unless given.
        nan: as in `indices`; obeyed by `analyse`.

    Returns:
        `make(key) -> Plan`, whose chunks are trees like the inputs with a leading axis.

    Raises:
        TypeError: as `indices`.
        ValueError: as `indices`.

    Example:
        >>> import jax, numpy as np
        >>> from jaxplain import sobol
        >>> inputs = {"a": sobol.uniform(0.0, 1.0), "b": sobol.normal(np.zeros(2), 1.0)}
        >>> plan = sobol.design(inputs, samples=1024)(jax.random.key(0))
        >>> plan.evaluations, len(plan), plan[0]["b"].shape
        (5120, 1, (5120, 2))
        >>> simulate = lambda x: 12**0.5 * x["a"] + 2 * x["b"][:, 0]  # in numpy, or elsewhere
        >>> s = sobol.analyse(plan, (simulate(x) for x in plan))
        >>> round(float(s.first_order["a"]), 2)
        0.2

    References:
        As `jaxplain.sobol.indices`.
    """
    layout = factors(inputs, groups)
    options = _indices._options(
        first_order, total_order, second_order, sampler, errors, replicates, level, nan
    )
    rows = _indices._most_rows(samples, None, None, options) // options.scrambles
    _indices._warn(sampler, rows)
    plan = _design.design(layout, options.formulas, second_order, rows, None)
    many = plan.layout.evaluations
    if chunk_size is None:
        chunk_size = min(EVALUATIONS_IN_A_CHUNK, NUMBERS_IN_A_CHUNK // layout.dimensions)
    else:
        chunk_size = checks.integer(chunk_size, "chunk_size")
    size = min(plan.rows, 1 << (max(1, chunk_size // many).bit_length() - 1))
    chunks = []
    for scramble in range(options.scrambles):
        for start in range(0, rows, size):
            end = min(start + size, rows)
            ends = (end == rows or end % plan.rows == 0, end == rows)
            chunks.append(_Chunk(scramble, start // size, end - start, *ends))

    @jax.jit
    def points(key: jax.Array, number: jax.Array) -> Any:
        """A tree with leading axes (evaluations, rows)."""
        x = _design.all_points(plan, sampler(key, plan.dimensions, rows, size)(number))
        return jax.vmap(jax.vmap(layout.tree))(x)

    def make(key: Any) -> Plan:
        checks.key(key)
        for_points, for_bootstrap = jax.random.split(key)
        is_one = options.scrambles == 1
        keys = for_points[None] if is_one else jax.random.split(for_points, options.scrambles)
        return Plan(
            rows * options.scrambles * many,
            tuple(chunk.rows * many for chunk in chunks),
            tuple(chunks),
            points,
            keys,
            for_bootstrap,
            plan,
            options,
            nan,
        )

    return make


def analyse(plan: Plan, outputs: Iterable[Any]) -> Indices:
    """Sobol indices from the outputs of a model at the points of a plan.

        as `indices` with the same options and key, from the same statistics

    Outputs are read chunk by chunk and never kept. Those in float64 are analysed in float64,
    whatever jax's default; the result has jax's default dtype.

    Args:
        plan: what `design` made.
        outputs: an array for each chunk, in the order of the plan: shape (evaluations, ...), a
            number or an array of outputs for each point. Any iterable.

    Returns:
        `Indices`.

    Raises:
        TypeError: plan is not a `Plan`, outputs cannot be iterated over, or hold what is not a real
            number.
        ValueError: there are too few chunks or too many, one has another length than its points or
            other outputs than the first; an output is not finite and `nan` of the design is
            "raise".

    Example:
        >>> import jax
        >>> from jaxplain import sobol
        >>> plan = sobol.design([sobol.uniform(0.0, 1.0)] * 2, samples=1024)(jax.random.key(0))
        >>> s = sobol.analyse(plan, [plan[0][0] * plan[0][1]])
        >>> round(float(s.total_order[0]), 2)
        0.57

    References:
        As `jaxplain.sobol.indices`.
    """
    if not isinstance(plan, Plan):
        raise TypeError(f"plan must be what `design(...)(key)` made, but is a {type(plan)}.")
    arrays = _checked(plan, outputs)
    first = next(arrays)
    with jax.enable_x64(first.dtype == np.float64):
        found = jax.device_get(_analysed(plan, itertools.chain([first], arrays)))
    found = jax.tree.map(jnp.asarray, found)
    if plan._nan == "raise":
        _indices.raise_if_not_finite(found)
    return found


def _analysed(plan: Plan, outputs: Iterable[np.ndarray]) -> Indices:
    layout = plan._rows.layout
    static = _Statistics(plan._options, layout, plan._rows.rows)
    done: list[Any] = []
    waiting: list[np.ndarray] = []
    state: Any = None
    number, shape = 0, ()
    for chunk, array in zip(plan._chunks, outputs, strict=True):
        shape = array.shape[1:]
        waiting.append(array.reshape(layout.evaluations, chunk.rows, -1))
        if chunk.ends_block:
            block = np.moveaxis(np.concatenate(waiting, axis=1), 2, 1)
            state, waiting = static.added(plan._for_bootstrap, number, state, block), []
            number += 1
        if chunk.ends_design:
            done.append((static.found(plan._for_bootstrap, state), state))
            state, number = None, 0
    if len(done) == 1:
        found, state = done[0]
    else:
        found, state = _indices.combined(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *done))
    return _indices.result(found, state, plan._rows, plan._options, shape, True)


class _Statistics(NamedTuple):
    """The reduction of a plan, compiled once for all plans of the same options."""

    options: Options
    layout: Layout
    rows: int  # of a block

    @functools.partial(jax.jit, static_argnums=0)
    def added(self, key: jax.Array, number: int, state: State | None, block: jax.Array) -> State:
        reduction = self.options.reduction(self.layout, self.rows, key)
        state = reduction.init(jax.typeof(block)) if state is None else state
        return reduction.update(state, jnp.asarray(number, jnp.int32)[None], block[None])

    @functools.partial(jax.jit, static_argnums=0)
    def found(self, key: jax.Array, state: State) -> Estimates:
        return self.options.reduction(self.layout, self.rows, key).finish(state)


def _checked(plan: Plan, outputs: Iterable[Any]) -> Iterator[np.ndarray]:
    """The outputs of each chunk, as float arrays of one dtype and one shape of outputs."""
    try:
        chunks = iter(outputs)
    except TypeError:
        raise TypeError(
            "outputs must be an iterable of arrays, one for each chunk of the plan, but is a "
            f"{type(outputs).__name__}."
        ) from None
    first: Any = None
    count = 0
    for number, chunk in enumerate(chunks):
        count = number + 1
        if count > len(plan):
            raise ValueError(f"the plan has {len(plan)} chunks, but outputs go on after that many.")
        array = np.asarray(chunk)
        if array.dtype.kind not in "fiub" and array.dtype != jnp.bfloat16:
            raise TypeError(
                f"outputs of chunk {number} must be an array of real numbers, but are a "
                f"{type(chunk).__name__} of dtype {array.dtype}."
            )
        if array.ndim == 0 or len(array) != plan.sizes[number]:
            raise ValueError(
                f"outputs of chunk {number} must have one row for each of its "
                f"{plan.sizes[number]:,} points, but have shape {array.shape}. Of all outputs in "
                "one array: `np.split(array, np.cumsum(plan.sizes)[:-1])`."
            )
        if first is None:
            wide = array.dtype == np.float64 or array.dtype.kind in "iu"
            first = array.astype(np.float64 if wide else np.float32)
        if array.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"each point has outputs of one shape, but those of chunk {number} have shape "
                f"{array.shape[1:]}, and those of chunk 0 {first.shape[1:]}."
            )
        yield array.astype(first.dtype)
    if count < len(plan):
        raise ValueError(
            f"the plan has {len(plan)} chunks, but outputs ended after {count}. Of a run that was "
            "cut off, go on at `plan[k]`, and give `analyse` the outputs of all chunks."
        )
