"""How far a piecewise linear program is affine along a line.

Every intermediate value v of the program is propagated with its slope v' along the line, and at
each primitive that chooses (a maximum, a comparison, a sort) the time is found at which the choice
changes if all goes on affinely as it does now. The first of these times is the next breakpoint:

    a is ahead (a > b, or a = b and a' > b'):   b catches up after (a - b) / (b' - a') if b' > a'

Choices between equals are made by the slopes, as they stand just *after* the point. So the program
may be evaluated on a breakpoint itself, where several units may change at once.

A value without a slope is still: a constant, or piecewise constant (a comparison, a sign, an
index), so that anything may be done with it. A moving value may pass through linear operations,
and be a factor of products whose other factor is still. Anything else is refused by name.
"""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxplain import trees
from jaxplain.rewrite import _interpreter


class Moving(NamedTuple):
    """A value that changes along the line, and its derivative there by the position."""

    value: jax.Array
    slope: jax.Array


class Staged(NamedTuple):
    """A function traced once.

    Attributes:
        call: the function itself, to be called inside a trace, and differentiated.
        time_to_break: `point, velocity -> time`: the function is affine on `point + s velocity`,
            0 < s < time. Infinity where that is for s = 1 at least. A scalar, float32 or wider.
    """

    call: Callable[[Any], Any]
    time_to_break: Callable[[Any, Any], jax.Array]


def stage(function: Callable[[Any], Any], x: Any) -> Staged:
    """Traces `function` once, at arguments like `x`; what it closes over may be tracers.

    Raises (from `time_to_break`):
        ValueError: the function is not piecewise linear in x, as far as the table here knows.
    """
    program, shapes = _interpreter.stage(function, x)
    structure = jax.tree.structure(shapes)
    run = _interpreter.as_function(program)

    def call(x: Any) -> Any:
        return jax.tree.unflatten(structure, run(*jax.tree.leaves(x)))

    def time_to_break(point: Any, velocity: Any) -> jax.Array:
        values, slopes = jax.tree.leaves(point), jax.tree.leaves(velocity)
        inputs = [Moving(v, s.astype(v.dtype)) for v, s in zip(values, slopes, strict=True)]
        times: list[jax.Array] = []
        _propagate(times, program, inputs)
        return _first(times, trees.widest(*(trees.wide_dtype(v.dtype) for v in values)))

    return Staged(call, time_to_break)


# -------------------------------------------------------------------------------- propagation

# Linear in all their moving operands together.
_LINEAR = frozenset(
    {
        "add",
        "add_any",
        "broadcast_in_dim",
        "concatenate",
        "copy",
        "copy_p",
        "cumsum",
        "dynamic_slice",
        "dynamic_update_slice",
        "expand_dims",
        "gather",
        "name",
        "neg",
        "optimization_barrier",
        "pad",
        "pcast",
        "pvary",
        "reduce_precision",
        "reduce_sum",
        "reduce_window_sum",
        "reshape",
        "reshard",
        "rev",
        "scatter",
        "scatter-add",
        "scatter-sub",
        "sharding_constraint",
        "slice",
        "split",
        "squeeze",
        "stack",
        "sub",
        "tile",
        "transpose",
        "unstack",
    }
)

# Linear in each of two operands: one may move.
_BILINEAR = frozenset({"conv_general_dilated", "dot_general", "mul"})

# Programs of their own that take the operands of the equation, one by one.
_CALLS = frozenset(
    {
        "checkpoint",
        "closed_call",
        "core_call",
        "custom_jvp_call",
        "custom_vjp_call",
        "custom_vmap_call",
        "jit",
        "pjit",
        "remat",
        "remat2",
    }
)


def _propagate(
    times: list[jax.Array],
    program: Any,
    inputs: Sequence[Any],
    wanted: Sequence[bool] | None = None,
) -> list[Any]:
    """The outputs, moving or still; the times at which choices change are added to `times`."""

    def visit(equation: Any, wanted: Sequence[bool], *values: Any) -> Sequence[Any]:
        name, params = equation.primitive.name, equation.params
        moving = [isinstance(value, Moving) for value in values]
        if not any(moving):
            return _interpreter.evaluate(equation, *values)
        if name in _CALLS:
            (inner,) = _interpreter.programs(equation)
            return _propagate(times, inner, values, wanted)
        if name in _LOOPS:
            return _LOOPS[name](times, equation, *values)
        if name in _CHOICES:
            outputs = _CHOICES[name](times, *values, **params)
            return outputs if isinstance(outputs, list) else [outputs]
        if name == "stop_gradient":  # the value moves, whatever its gradient
            return values
        if (
            name in _LINEAR
            or (name in _BILINEAR and sum(moving) == 1)
            or (name == "div" and not moving[1])
            or (name == "convert_element_type" and _is_float(params["new_dtype"]))
        ):
            return _linear(equation, values)
        return _refuse(name, sum(moving))

    return _interpreter.reinterpret(program, visit, *inputs, wanted=wanted)


def _linear(equation: Any, values: Sequence[Any]) -> list[Moving]:
    places = [place for place, value in enumerate(values) if isinstance(value, Moving)]

    def of_moving(*moving: Any) -> list[Any]:
        operands = list(values)
        for place, value in zip(places, moving, strict=True):
            operands[place] = value
        return _interpreter.evaluate(equation, *operands)

    outputs, slopes = jax.jvp(
        of_moving,
        tuple(values[place].value for place in places),
        tuple(values[place].slope for place in places),
    )
    return [Moving(value, slope) for value, slope in zip(outputs, slopes, strict=True)]


def _refuse(name: str, moving: int) -> Any:
    where = "a value that depends" if moving == 1 else f"{moving} values that depend"
    raise ValueError(
        f"f must be piecewise linear in x to be integrated exactly, but `{name}` of {where} on x "
        "is not, or is not known to be. For any f there is "
        "`integrated_gradients(f, tolerance=...)`."
    )


def _is_float(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))


# ------------------------------------------------------------------------------------- times


def _first(times: Sequence[jax.Array], dtype: Any) -> jax.Array:
    """The smallest of all these times, a scalar.

    By selection, for the sake of derivatives: those of the times that are not the smallest may be
    infinite, and must not be multiplied by zero.
    """

    def smallest(times: jax.Array) -> jax.Array:
        chosen = times == jnp.min(lax.stop_gradient(times))
        number = jnp.sum(chosen, dtype=times.dtype)
        return jnp.sum(jnp.where(chosen, times, 0)) / number

    firsts = [smallest(t.astype(dtype)) for t in times if t.size]
    if not firsts:
        return jnp.full((), jnp.inf, dtype)
    return functools.reduce(lambda a, b: jnp.where(a <= b, a, b), firsts)


def _meeting(ahead: Moving, behind: Moving) -> jax.Array:
    """When `behind` will have caught up with `ahead`; infinity if not within a time of 1."""
    ahead, behind = trees.widen((ahead, behind))
    gap, speed = ahead.value - behind.value, behind.slope - ahead.slope
    meet = (gap > 0) & (gap < speed)
    return jnp.where(meet, gap / jnp.where(meet, speed, 1), jnp.inf)


# ----------------------------------------------------------------------------------- choices


def _as_moving(*values: Any) -> list[Moving]:
    """All of the dtype of those that move."""
    dtype = next(value.value.dtype for value in values if isinstance(value, Moving))

    def convert(value: Any) -> Moving:
        if isinstance(value, Moving):
            return value
        value = jnp.asarray(value, dtype)
        return Moving(value, jnp.zeros_like(value))

    return [convert(value) for value in values]


def _where(condition: jax.Array, left: Moving, right: Moving) -> Moving:
    return Moving(
        jnp.where(condition, left.value, right.value), jnp.where(condition, left.slope, right.slope)
    )


def _negative(moving: Moving) -> Moving:
    return Moving(-moving.value, -moving.slope)


def _is_ahead(left: Moving, right: Moving) -> jax.Array:
    """Whether left > right just after this point, or both are the same there."""
    is_equal = left.value == right.value
    return (left.value > right.value) | (is_equal & (left.slope >= right.slope))


def _maximum(times: list[jax.Array], left: Any, right: Any, **_: Any) -> Moving:
    left, right = _as_moving(left, right)
    is_ahead = _is_ahead(left, right)
    first = _where(is_ahead, left, right)
    times.append(_meeting(first, _where(is_ahead, right, left)))
    # NaN wins in JAX, and the comparison does not see it.
    return Moving(jnp.maximum(left.value, right.value), first.slope)


def _minimum(times: list[jax.Array], left: Any, right: Any, **_: Any) -> Moving:
    return _negative(_maximum(times, *map(_negative, _as_moving(left, right))))


def _clamp(times: list[jax.Array], low: Any, value: Any, high: Any) -> Moving:
    return _minimum(times, _maximum(times, low, value), high)


def _absolute(times: list[jax.Array], value: Moving) -> Moving:
    return _maximum(times, value, _negative(value))


def _sign(times: list[jax.Array], value: Moving) -> jax.Array:
    _absolute(times, value)
    return jnp.sign(jnp.where(value.value == 0, value.slope, value.value))


def _comparison(
    wins: bool, ties: bool, loses: bool
) -> Callable[[list[jax.Array], Any, Any], jax.Array]:
    """What a comparison says just after this point, if its left operand wins, ties or loses."""

    def compare(times: list[jax.Array], left: Any, right: Any) -> jax.Array:
        left, right = _as_moving(left, right)
        _maximum(times, left, right)
        ahead, behind = _is_ahead(left, right), _is_ahead(right, left)
        is_known = ahead | behind  # false for NaN
        won, lost = ahead & ~behind, behind & ~ahead
        outcome = (won & wins) | (lost & loses) | (ahead & behind & ties)
        return outcome | (~is_known & (wins and loses))

    return compare


def _select(times: list[jax.Array], which: Any, *cases: Any) -> Moving:
    del times  # `which` is piecewise constant: what made it has said when it changes
    cases = tuple(_as_moving(*cases))
    return Moving(
        lax.select_n(which, *(case.value for case in cases)),
        lax.select_n(which, *(case.slope for case in cases)),
    )


def _largest(times: list[jax.Array], value: Moving, axes: tuple[int, ...]) -> Moving:
    """Along axes, which stay with length 1."""
    best = jnp.max(value.value, axes, keepdims=True)
    slopes = jnp.where(value.value == best, value.slope, -jnp.inf)
    first = Moving(best, jnp.max(slopes, axes, keepdims=True))
    times.append(_meeting(first, value))
    return first


def _reduce_max(
    times: list[jax.Array], value: Moving, *, axes: tuple[int, ...], **_: Any
) -> Moving:
    first = _largest(times, value, axes)
    return Moving(jnp.squeeze(first.value, axes), jnp.squeeze(first.slope, axes))


def _reduce_min(times: list[jax.Array], value: Moving, **params: Any) -> Moving:
    return _negative(_reduce_max(times, _negative(value), **params))


def _argmax(
    times: list[jax.Array], value: Moving, *, axes: tuple[int, ...], index_dtype: Any
) -> jax.Array:
    first = _largest(times, value, axes)
    is_first = (value.value == first.value) & (value.slope == first.slope)
    return lax.argmax(is_first.astype(jnp.int32), axes[0], index_dtype)


def _argmin(times: list[jax.Array], value: Moving, **params: Any) -> jax.Array:
    return _argmax(times, _negative(value), **params)


def _window_max(times: list[jax.Array], value: Moving, **params: Any) -> Moving:
    # The padding is the lowest number, and not minus infinity, of which differences are NaN.
    lowest = jnp.finfo(value.value.dtype).min
    windows = Moving(_windows(value.value, lowest, **params), _windows(value.slope, 0, **params))
    return _reduce_max(times, windows, axes=(0,))


def _window_min(times: list[jax.Array], value: Moving, **params: Any) -> Moving:
    return _negative(_window_max(times, _negative(value), **params))


def _windows(
    array: jax.Array,
    fill: Any,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> jax.Array:
    """The elements of the windows of a pool along a new first axis."""
    edges = [
        (low, high, step - 1) for (low, high), step in zip(padding, base_dilation, strict=True)
    ]
    array = lax.pad(array, jnp.asarray(fill, array.dtype), edges)
    elements = []
    for element in itertools.product(*map(range, window_dimensions)):
        start = [k * step for k, step in zip(element, window_dilation, strict=True)]
        last = [(w - 1) * step for w, step in zip(window_dimensions, window_dilation, strict=True)]
        limit = [n - end + at for n, end, at in zip(array.shape, last, start, strict=True)]
        elements.append(lax.slice(array, start, limit, window_strides))
    return jnp.stack(elements)


def _sort(
    times: list[jax.Array],
    *operands: Any,
    dimension: int,
    is_stable: bool,
    num_keys: int,
) -> list[Any]:
    if num_keys != 1:
        return [_refuse("sort with several keys", len(operands))]
    moving = [isinstance(operand, Moving) for operand in operands]
    values = [operand.value if m else operand for operand, m in zip(operands, moving, strict=True)]
    slopes = [operand.slope for operand, m in zip(operands, moving, strict=True) if m]
    # Equal keys are put in the order of their slopes.
    keys = [values[0], operands[0].slope] if moving[0] else [values[0]]
    rows = [*keys, *values[1:], *slopes]
    ordered = lax.sort(rows, dimension=dimension, is_stable=is_stable, num_keys=len(keys))
    ordered_values = [ordered[0], *ordered[len(keys) : len(keys) + len(values) - 1]]
    ordered_slopes = iter(ordered[len(keys) + len(values) - 1 :])
    outputs = [
        Moving(value, next(ordered_slopes)) if m else value
        for value, m in zip(ordered_values, moving, strict=True)
    ]
    if moving[0]:
        times.append(_neighbours(Moving(ordered[0], ordered[1]), dimension))
    return outputs


def _neighbours(ordered: Moving, axis: int) -> jax.Array:
    """When neighbours in ascending order meet."""
    length = ordered.value.shape[axis]
    lower = [lax.slice_in_dim(part, 0, max(length - 1, 0), axis=axis) for part in ordered]
    upper = [lax.slice_in_dim(part, min(1, length), length, axis=axis) for part in ordered]
    return _meeting(Moving(*upper), Moving(*lower))


def _top_k(times: list[jax.Array], value: Moving, *, k: int, axis: int = -1, **_: Any) -> list[Any]:
    axis %= value.value.ndim
    indices = lax.broadcasted_iota(jnp.int32, value.value.shape, axis)
    descending = lax.sort(
        [-value.value, -value.slope, indices], dimension=axis, is_stable=True, num_keys=2
    )
    part = lambda array, start, end: lax.slice_in_dim(array, start, end, axis=axis)
    top = Moving(*(part(array, 0, k) for array in descending[:2]))
    rest = Moving(*(part(array, k, array.shape[axis]) for array in descending[:2]))
    times.append(_neighbours(top, axis))
    if k:  # any of the rest may be the first to catch up with the last of the top
        last = Moving(*(part(array, k - 1, k) for array in top))
        times.append(_meeting(rest, last))
    return [_negative(top), part(descending[2], 0, k)]


def _is_finite(times: list[jax.Array], value: Moving) -> jax.Array:
    del times
    return jnp.isfinite(value.value)


_CHOICES: Mapping[str, Callable[..., Any]] = {
    "abs": _absolute,
    "argmax": _argmax,
    "argmin": _argmin,
    "clamp": _clamp,
    "eq": _comparison(False, True, False),
    "ge": _comparison(True, True, False),
    "gt": _comparison(True, False, False),
    "is_finite": _is_finite,
    "le": _comparison(False, True, True),
    "lt": _comparison(False, False, True),
    "max": _maximum,
    "min": _minimum,
    "ne": _comparison(True, False, True),
    "reduce_max": _reduce_max,
    "reduce_min": _reduce_min,
    "reduce_window_max": _window_max,
    "reduce_window_min": _window_min,
    "select_n": _select,
    "sign": _sign,
    "sort": _sort,
    "top_k": _top_k,
}


# ----------------------------------------------------------------------- programs with branches


def _moving_outputs(program: Any, moving: Sequence[bool]) -> list[bool]:
    """Which outputs move, if these inputs do."""
    found: list[bool] = []

    def run(*inputs: Any) -> None:
        marked = [Moving(v, v) if m else v for v, m in zip(inputs, moving, strict=True)]
        outputs = _propagate([], program, marked)
        found.extend(isinstance(output, Moving) for output in outputs)

    jax.make_jaxpr(run)(*(variable.aval for variable in program.jaxpr.invars))
    return found


def _mark(values: Sequence[Any], moving: Sequence[bool]) -> list[Any]:
    """The values, moving wherever `moving` says so."""

    def mark(value: Any, is_moving: bool) -> Any:
        if isinstance(value, Moving):
            return value
        value = jnp.asarray(value)
        zero = trees.place_like(jnp.zeros_like(value), value)
        return Moving(value, zero) if is_moving else value

    return [mark(value, m) for value, m in zip(values, moving, strict=True)]


def _is_moving(values: Sequence[Any]) -> list[bool]:
    return [isinstance(value, Moving) for value in values]


def _either(left: Sequence[bool], right: Sequence[bool]) -> list[bool]:
    return [a or b for a, b in zip(left, right, strict=True)]


def _time_dtype(values: Sequence[Any]) -> Any:
    moving = [value.value.dtype for value in values if isinstance(value, Moving)]
    return trees.widest(*map(trees.wide_dtype, moving))


def _scan(times: list[jax.Array], equation: Any, *values: Any) -> list[Any]:
    params = equation.params
    (program,) = _interpreter.programs(equation)
    first, length = _interpreter.scan_counts(equation)
    constants, carry, rows = (
        values[:first],
        values[first : first + length],
        values[first + length :],
    )
    dtype = _time_dtype(values)
    moving = _is_moving(carry)
    while True:  # a carry that starts still may move after the first rounds
        marks = [*_is_moving(constants), *moving, *_is_moving(rows)]
        outputs = _moving_outputs(program, marks)
        if (more := _either(moving, outputs[: len(carry)])) == moving:
            break
        moving = more

    moving_outputs = [*moving, *outputs[len(carry) :]]

    def step(carry: Any, row: Any) -> Any:
        inner: list[jax.Array] = []
        outputs = _propagate(inner, program, [*constants, *carry, *row])
        outputs = _mark(outputs, moving_outputs)
        return outputs[: len(carry)], (outputs[len(carry) :], _first(inner, dtype))

    final, (stacked, firsts) = lax.scan(
        step,
        _mark(carry, moving),
        list(rows),
        length=params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    times.append(firsts)
    return [*final, *stacked]


def _cond(times: list[jax.Array], equation: Any, index: Any, *values: Any) -> list[Any]:
    branches = _interpreter.programs(equation)
    dtype = _time_dtype(values)
    marks = [_moving_outputs(branch, _is_moving(values)) for branch in branches]
    moving = functools.reduce(_either, marks)

    def take(program: Any, *values: Any) -> Any:
        inner: list[jax.Array] = []
        outputs = _propagate(inner, program, values)
        return _mark(outputs, moving), _first(inner, dtype)

    outputs, first = lax.switch(index, [functools.partial(take, b) for b in branches], *values)
    times.append(first)
    return list(outputs)


_LOOPS: Mapping[str, Callable[..., list[Any]]] = {"cond": _cond, "scan": _scan}
