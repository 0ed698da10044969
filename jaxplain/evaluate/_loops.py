"""The two loops that every kernel is built on.

    evaluate:  result = finish(reduce(update, chunks of [point(0), ..., point(count - 1)]))
    walk:      state_{k+1}, output_k = step(state_k, k)

`evaluate` is for points that are known from their index (nodes on a path, masks, samples): they are
made inside the loop, `chunk_size` at a time, and reduced as they come, so that memory depends on
`chunk_size` and never on `count`. `walk` is for points that need the last gradient. Both keep the
compiled loop on XLA's fast paths (`rewrite.fast`). Neither jits: the kernel that owns the loop
does.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate._reductions import Reduction
from jaxplain.rewrite import _fast


def evaluate(
    point: Callable[[jax.Array], Any],
    count: int,
    reduction: Reduction,
    *,
    chunk_size: int = 16,
) -> Any:
    """Evaluates `point` at 0, ..., count - 1 in chunks and reduces the values as they come.

        finish(update(... update(init(), [0..c), point([0..c))), ...))

    The remainder of `count` by `chunk_size` is a chunk of its own: no point is padded or masked.
    `chunk_size` changes memory and speed, and the result only by rounding.

    Args:
        point: from an index, an int32 scalar, to a tree of arrays: a value or a gradient, already
            differentiated. It is traced once. It may close over tracers.
        count: the number of points, a Python integer of at least 1.
        reduction: what becomes of the values.
        chunk_size: points evaluated at once, by `vmap`; under an outer `vmap` the points in flight
            are `chunk_size` times the batch. The default suits one example; for a batch, 1 to 4.

    Returns:
        What `reduction.finish` returns.

    Raises:
        TypeError: `point` is not a function, or a number is not a Python integer.
        ValueError: `count` or `chunk_size` is below 1, or `reduction` was made for another count.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxplain.evaluate import weighted_sum
        >>> square = lambda index: index.astype(jnp.float32) ** 2
        >>> float(evaluate(square, 5, weighted_sum(jnp.full(5, 0.5))))
        15.0

    References:
        Design, evaluate, reduce: docs/architecture.md, "The two loops".
    """
    checks.function(point, "point")
    count = checks.integer(count, "count")
    chunk_size = min(checks.integer(chunk_size, "chunk_size"), count)
    call, value = _fast.staged(point, jax.ShapeDtypeStruct((), jnp.int32))
    if reduction.points not in (None, count):
        raise ValueError(
            f"the reduction was made for {reduction.points} points, but there are {count}."
        )

    def chunk(state: Any, start: Any, size: int) -> Any:
        index = start + jnp.arange(size, dtype=jnp.int32)
        return reduction.update(state, index, jax.vmap(call)(index))

    full, rest = divmod(count, chunk_size)
    state = reduction.init(value)
    if trees.is_placed(value):  # on a mesh zeros are replicated, but what is added to them is not
        types = jax.eval_shape(lambda state: chunk(state, jnp.int32(0), chunk_size), state)
        state = trees.place_like(state, types)
    if full == 1:
        state = chunk(state, jnp.int32(0), chunk_size)
    else:
        starts = jnp.arange(full, dtype=jnp.int32) * chunk_size
        state, _ = jax.lax.scan(lambda s, start: (chunk(s, start, chunk_size), None), state, starts)
    if rest:
        state = chunk(state, jnp.int32(full * chunk_size), rest)
    return reduction.finish(state)


def walk(
    init: Any, step: Callable[[Any, jax.Array], tuple[Any, Any]], length: int
) -> tuple[Any, Any]:
    """Walks `length` steps, each from the state that the last one left.

        state_{k+1}, output_k = step(state_k, k),    k = 0, ..., length - 1

    Args:
        init: the first state, a tree of arrays.
        step: from a state and an index, an int32 scalar, to the next state, of the same tree,
            shapes and dtypes, and a tree of outputs (or None).
        length: the number of steps, a Python integer of at least 1.

    Returns:
        The last state, and the outputs stacked on a leading axis of `length`.

    Raises:
        TypeError: `step` is not a function, `length` not an integer, or the state changes its type.
        ValueError: `length` is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> state, outputs = walk(jnp.float32(1), lambda s, k: (2 * s, s), 4)
        >>> float(state), outputs.tolist()
        (16.0, [1.0, 2.0, 4.0, 8.0])

    References:
        Design, evaluate, reduce: docs/architecture.md, "The two loops".
    """
    checks.function(step, "step")
    length = checks.integer(length, "length")
    checks.arrays(init, "init")
    init = jax.tree.map(jnp.asarray, init)
    call, _ = _fast.staged(step, init, jax.ShapeDtypeStruct((), jnp.int32))
    return jax.lax.scan(call, init, jnp.arange(length, dtype=jnp.int32))
