"""The two loops that every kernel is built on, and the form for models that must see their batch.

    evaluate:  result = finish(reduce(update, chunks of [point(0), ..., point(count - 1)]))
    walk:      state_{k+1}, output_k = step(state_k, k)

`evaluate` is for points that are known from their index (nodes on a path, masks, samples): they are
made inside the loop, `chunk_size` at a time, and reduced as they come, so that memory depends on
`chunk_size` and never on `count`. `walk` is for points that need the last gradient. Both keep the
compiled loop on XLA's fast paths (`rewrite.fast`). Neither jits: the kernel that owns the loop
does.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.rewrite import _fast

__all__ = ["Reduction", "batched", "evaluate", "stack", "walk", "weighted_sum"]


class Reduction(NamedTuple):
    """A streaming reduction: three pure functions over a state that is any tree of arrays.

    Attributes:
      init: `value -> state`, where `value` is a tree of `jax.ShapeDtypeStruct`, one point's.
      update: `state, index, values -> state` for one chunk: `index` has shape (chunk,) and each
        leaf of `values` a leading axis of that length.
      finish: `state -> result`.
      points: the number of points it was made for, or None where any will do.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, jax.Array, Any], Any]
    finish: Callable[[Any], Any]
    points: int | None = None


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
        are `chunk_size` times the batch. The default suits one example; with a batch take 1 to 4.

    Returns:
      What `reduction.finish` returns.

    Raises:
      TypeError: `point` is not a function, or a number is not a Python integer.
      ValueError: `count` or `chunk_size` is below 1, or `reduction` was made for another count.

    Example:
      >>> import jax.numpy as jnp
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
    if full == 1:
        state = chunk(state, jnp.int32(0), chunk_size)
    else:
        starts = jnp.arange(full, dtype=jnp.int32) * chunk_size
        state, _ = jax.lax.scan(lambda s, start: (chunk(s, start, chunk_size), None), state, starts)
    if rest:
        state = chunk(state, jnp.int32(full * chunk_size), rest)
    return reduction.finish(state)


def weighted_sum(weights: Any) -> Reduction:
    """The reduction `sum_k weights[k] * value_k`, leaf by leaf.

    Accumulates in float32 or wider, with Kahan's compensation, so that the rounding of the sum does
    not grow with the number of points: 1e6 terms in float32 are as exact as a few.

    Args:
      weights: shape (count,), one for each point.

    Returns:
      A `Reduction` whose result is a tree like one value, in float32 or wider.

    Raises:
      ValueError: `weights` is not one-dimensional.

    Example:
      >>> import jax.numpy as jnp
      >>> mean = weighted_sum(jnp.full(4, 0.25))
      >>> float(evaluate(lambda index: index.astype(jnp.float32), 4, mean))
      1.5

    References:
      Kahan, "Further remarks on reducing truncation errors", CACM 1965.
    """
    weights = jnp.asarray(weights)
    if weights.ndim != 1:
        raise ValueError(f"weights must have one dimension, but have shape {weights.shape}.")

    def init(value: Any) -> Any:
        zeros = jax.tree.map(lambda v: jnp.zeros(v.shape, trees.wide_dtype(v.dtype)), value)
        return zeros, zeros

    def update(state: Any, index: jax.Array, values: Any) -> Any:
        sums, lost = state

        # A multiplication and a sum, not a matrix product: those may run in lower precision.
        def term(v: jax.Array, s: jax.Array) -> jax.Array:
            w = along_first(weights[index].astype(s.dtype), v)
            return jnp.sum(jnp.multiply(w, v.astype(s.dtype)), axis=0)

        terms = jax.tree.map(term, values, sums)
        terms = trees.subtract(terms, lost)
        new = jax.tree.map(jnp.add, sums, terms)
        lost = jax.tree.map(lambda n, s, t: (n - s) - t, new, sums, terms)
        return new, lost

    return Reduction(init, update, lambda state: state[0], weights.shape[0])


def along_first(vector: jax.Array, array: Any) -> jax.Array:
    """A vector with as many axes as `array`, of length 1 after the first."""
    return vector.reshape(vector.shape + (1,) * (len(array.shape) - 1))


def stack(count: int) -> Reduction:
    """The reduction that keeps every value, in the order of the points.

    Its memory grows with `count`: for scores and other small values.

    Args:
      count: the number of points, as given to `evaluate`.

    Returns:
      A `Reduction` whose result is a tree like one value with a leading axis of `count`.

    Raises:
      TypeError: `count` is not a Python integer.
      ValueError: `count` is below 1.

    Example:
      >>> evaluate(lambda index: 10 * index, 5, stack(5), chunk_size=2).tolist()
      [0, 10, 20, 30, 40]

    References:
      Design, evaluate, reduce: docs/architecture.md, "The two loops".
    """
    count = checks.integer(count, "count")

    def init(value: Any) -> Any:
        return jax.tree.map(lambda v: jnp.zeros((count, *v.shape), v.dtype), value)

    def update(state: Any, index: jax.Array, values: Any) -> Any:
        put = lambda s, v: jax.lax.dynamic_update_slice_in_dim(s, v, index[0], axis=0)
        return jax.tree.map(put, state, values)

    return Reduction(init, update, lambda state: state, count)


def walk(
    init: Any, step: Callable[[Any, jax.Array], tuple[Any, Any]], length: int
) -> tuple[Any, Any]:
    """Walks `length` steps, each from the state that the last one left.

        state_{k+1}, output_k = step(state_k, k),    k = 0, ..., length - 1

    Args:
      init: the first state, a tree of arrays.
      step: from a state and an index, an int32 scalar, to the next state, of the same tree, shapes
        and dtypes, and a tree of outputs (or None).
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


def batched(
    model_function: Callable[..., jax.Array], in_axes: int | Sequence[Any] = 0
) -> Callable[..., jax.Array]:
    """The function of one example, of a function that must see its batch.

        batched(F, in_axes)(x, *args) = F(x[None], *args[None])[0]

    A kernel explains one example, and `vmap` makes the batch. For most models that costs nothing,
    but a model with its own batch sharding, or with code that has no batching rule (Pallas, mixture
    of experts), cannot be fed `x[None]` inside a `vmap`. Through `batched` the model is called
    once, with all mapped axes (examples, path points) merged into its own batch axis, and so is
    its gradient.

    First order only: one gradient, with respect to `x`. The gradient of an explanation and forward
    mode do not go through it.

    Args:
      model_function: from (batch, ...) arrays to an output of shape (batch,).
      in_axes: as in `jax.vmap`, one entry for each argument (or a tree prefix of it): the axis of
        the batch, or None for what all examples share. The first must not be None.

    Returns:
      `f(x, *args) -> scalar`, for jaxplain's kernels or for `jax.vmap(jax.grad(f))`. What is shared
      must be an argument: closing over a traced array fails.

    Raises:
      TypeError: `model_function` is not a function, or an axis not an integer or None.
      ValueError: at the call, a shared argument is mapped by `vmap`; a gradient is asked for with
        respect to anything but `x`; the output is not (batch,); `in_axes` does not fit.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> model = lambda x, w: jnp.tanh(x @ w)  # (batch, 3), (3,) -> (batch,)
      >>> f = batched(model, in_axes=(0, None))
      >>> x, w = jnp.ones((5, 3)), jnp.ones(3)
      >>> jax.vmap(jax.grad(f), in_axes=(0, None))(x, w).shape  # one call of model, of batch 5
      (5, 3)

    References:
      `jax.custom_batching.custom_vmap`; docs/architecture.md, "Models that must see their batch".
    """
    checks.function(model_function, "model_function")

    def flatten(arguments: tuple[Any, ...]) -> tuple[list[Any], list[int | None], Any]:
        if isinstance(in_axes, int):
            axes = (in_axes,) * len(arguments)
        else:
            axes = tuple(in_axes)
        if len(axes) != len(arguments):
            raise ValueError(
                f"in_axes has {len(axes)} entries, but f was called with {len(arguments)} "
                "arguments: give one entry for each, None for what all examples share."
            )
        leaves, structure = jax.tree.flatten(arguments)
        flat = _broadcast_prefix(axes, arguments)
        if any(axis is None for axis in _broadcast_prefix(axes[:1], arguments[:1])):
            raise ValueError("in_axes[0] must be an axis: x is one example of the model's batch.")
        return leaves, flat, structure

    def of_leaves(structure: Any, axes: Sequence[int | None]) -> Callable[..., jax.Array]:
        def call(*leaves: Any) -> jax.Array:
            moved = [
                leaf if axis is None else jnp.moveaxis(leaf, 0, axis)
                for leaf, axis in zip(leaves, axes, strict=True)
            ]
            output = model_function(*jax.tree.unflatten(structure, moved))
            size = leaves[0].shape[0]  # x comes first and has an axis
            if jnp.shape(output) != (size,):
                raise ValueError(
                    f"model_function must return shape (batch,) = ({size},), but returned "
                    f"{jnp.shape(output)}. Select one output for each example, e.g. "
                    "`jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]`."
                )
            return output

        return call

    @jax.custom_vjp
    def f(x: Any, args: tuple[Any, ...]) -> jax.Array:
        leaves, axes, structure = flatten((x, *args))
        return _merged(of_leaves(structure, axes), axes)(*leaves)

    def forward(x: Any, args: tuple[Any, ...]) -> tuple[jax.Array, Any]:
        if any(p.perturbed for p in jax.tree.leaves(args, is_leaf=_is_primal)):
            raise ValueError(
                "a function made by jaxplain.batched has a gradient with respect to its first "
                "argument only; for any other differentiate the model's own batch function."
            )
        x, args = jax.tree.map(lambda p: p.value, (x, args), is_leaf=_is_primal)
        leaves, axes, structure = flatten((x, *args))
        inputs = len(jax.tree.leaves(x))
        model = of_leaves(structure, axes)

        def value_and_gradient(*leaves: Any) -> tuple[jax.Array, list[jax.Array]]:
            first, rest = leaves[:inputs], leaves[inputs:]
            output, pull = jax.vjp(lambda *first: model(*first, *rest), *first)
            return output, list(pull(jnp.ones_like(output)))

        output, gradient = _merged(value_and_gradient, axes)(*leaves)
        return output, jax.tree.unflatten(jax.tree.structure(x), gradient)

    def backward(gradient: Any, cotangent: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(lambda g: g * cotangent.astype(g.dtype), gradient), None

    f.defvjp(forward, backward, symbolic_zeros=True)

    @functools.wraps(model_function)
    def one(x: Any, *args: Any) -> jax.Array:
        return f(x, args)

    return one


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _broadcast_prefix(axes: Any, arguments: Any) -> list[int | None]:
    """One axis for each leaf of `arguments`, from a prefix of its tree."""
    flat: list[int | None] = []

    def add(axis: Any, part: Any) -> None:
        if axis is not None and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise TypeError(f"an entry of in_axes must be an integer or None, but is {axis!r}.")
        flat.extend([axis] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(add, axes, arguments, is_leaf=lambda axis: axis is None)
    except ValueError as error:
        raise ValueError(f"in_axes {axes} is not a tree prefix of the arguments: {error}") from None
    return flat


def _merged(function: Callable[..., Any], axes: Sequence[int | None]) -> Callable[..., Any]:
    """The one-example form of `function`, whose vmaps, however nested, become its batch axis.

    `function` takes flat leaves, those with an axis carrying the batch in front. Two rules: `one`
    adds the batch axis, or takes the first mapped axis for it; `many` merges each further one.
    """
    many = jax.custom_batching.custom_vmap(_fast.inline(function))

    def spread(size: int, mapped: Sequence[bool], leaves: Sequence[Any]) -> list[Any]:
        spread = []
        for axis, is_mapped, leaf in zip(axes, mapped, leaves, strict=True):
            if axis is None and is_mapped:
                raise ValueError(
                    f"an array of shape {leaf.shape} is declared shared in jaxplain.batched "
                    "(its in_axes is None), but vmap maps it. Give it an axis, or do not map it."
                )
            if axis is not None and not is_mapped:
                leaf = jnp.broadcast_to(leaf, (size, *leaf.shape))
            spread.append(leaf)
        return spread

    @many.def_vmap
    def merge(size: int, mapped: Sequence[bool], *leaves: Any) -> tuple[Any, Any]:
        leaves = tuple(spread(size, mapped, leaves))
        flat = [
            leaf if axis is None else leaf.reshape(size * leaf.shape[1], *leaf.shape[2:])
            for axis, leaf in zip(axes, leaves, strict=True)
        ]
        outputs = many(*flat)
        outputs = jax.tree.map(lambda o: o.reshape(size, -1, *o.shape[1:]), outputs)
        return outputs, jax.tree.map(lambda _: True, outputs)

    @jax.custom_batching.custom_vmap
    def one(*leaves: Any) -> Any:
        alone = [
            leaf if axis is None else leaf[None] for axis, leaf in zip(axes, leaves, strict=True)
        ]
        return jax.tree.map(lambda output: output[0], many(*alone))

    @one.def_vmap
    def many_of_one(size: int, mapped: Sequence[bool], *leaves: Any) -> tuple[Any, Any]:
        outputs = many(*spread(size, mapped, leaves))
        return outputs, jax.tree.map(lambda _: True, outputs)

    return one
