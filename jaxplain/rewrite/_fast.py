"""The pass that keeps a program on XLA's fast paths: the same numbers, a better program.

Two rules, both exact, to be applied *after* differentiation, which is what makes the slow forms:

1. Every convolution is brought to the canonical form

       lhs (N, *spatial, C)   kernel (*spatial, I, O)   output (N, *spatial, C)

   by transpositions alone, with an `optimization_barrier` on the kernel so that XLA does not fold
   them back. On CPU, inside a loop body, any other form (each backward convolution is one, and all
   of NCHW) runs 3 to 20 times slower. The canonical form stands in the CPU branch of a
   `platform_dependent`; on any other platform the program is what it was.

2. The gradient of max-pooling with windows that do not overlap, `select_and_scatter_add`, becomes
   comparisons over the windows: XLA's own scan of each window ("keep the first that is greater or
   equal"), written out. The values are equal bit for bit, NaN included.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxplain import checks
from jaxplain.rewrite import _interpreter

# Beyond this many elements the written-out comparison of a window costs more than it saves.
_LARGEST_WINDOW = 64


def fast(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, as a program that stays on XLA's fast paths inside loops.

    Rewrites the program of `function` so that its convolutions and the gradients of its max-pools
    keep their fast form on CPU, wherever they stand (`jit`, `scan`, `while`, `cond`, `checkpoint`,
    custom derivatives, `shard_map`). The values are equal up to the order of summation inside a
    convolution; the lowering for other platforms is unchanged but for the pools. jaxplain's own
    kernels apply it; a loop of one's own needs it too, as does training through an attribution.

    Put it *outermost*, around what has been differentiated: `fast(jax.grad(loss))` is fast,
    `jax.grad(fast(loss))` still contains slow backward convolutions, since differentiation comes
    after the pass. Forward and reverse mode and `vmap` go through it.

    Args:
        function: takes and returns trees of arrays; differentiated or not.

    Returns:
        A jitted function with the same signature.

    Raises:
        TypeError: `function` is not callable, or is called with an argument that is not an array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> loss = lambda w, x: jnp.sum(jax.lax.conv(x, w, (1, 1), "SAME") ** 2)
        >>> w, x = jnp.ones((4, 3, 3, 3)), jnp.ones((1, 3, 8, 8))
        >>> gradient = fast(jax.grad(loss))(w, x)
        >>> bool(jnp.allclose(gradient, jax.grad(loss)(w, x)))
        True

    References:
        The slow forms and what mends them were measured for this library: docs/architecture.md,
        "The pass after differentiation".
    """
    checks.function(function, "function")

    def flat_call(structure: Any, leaves: Any) -> Any:
        args, keywords = jax.tree.unflatten(structure, leaves)
        return function(*args, **keywords)

    @jax.jit
    def program(*args: Any, **keywords: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, keywords))
        call, _ = staged(lambda *leaves: flat_call(structure, leaves), *leaves)
        return call(*leaves)

    @functools.wraps(function)
    def rewritten(*args: Any, **keywords: Any) -> Any:
        checks.arrays((args, keywords), "an argument of a function under rewrite.fast")
        return program(*args, **keywords)

    return rewritten


def staged(
    function: Callable[..., Any], *arguments: Any, closes_over: str | None = None
) -> tuple[Callable[..., Any], Any]:
    """Traces `function` once; returns its fast form, to be called inside a trace, and its shapes.

    The fast form can be called (and mapped) many times at no further trace of `function`, at
    arguments of these shapes; what the function closes over may be tracers. With the text
    `closes_over` it may not: the text is raised.
    """
    program, shapes = _interpreter.stage(function, *arguments)
    if closes_over and any(isinstance(c, jax.core.Tracer) for c in program.consts):
        raise ValueError(closes_over)
    structure = jax.tree.structure(shapes)

    def call(*arguments: Any) -> Any:
        outputs = _interpreter.interpret(program, _RULES, *jax.tree.leaves(arguments))
        return jax.tree.unflatten(structure, outputs)

    return call, shapes


def inline(function: Callable[..., Any], closes_over: str | None = None) -> Callable[..., Any]:
    """The fast form of a function of positional arrays, without a `jit` of its own."""
    return lambda *arguments: staged(function, *arguments, closes_over=closes_over)[0](*arguments)


def _convolution(
    platform: str | None, lhs: jax.Array, rhs: jax.Array, **params: Any
) -> jax.Array | None:
    if _is_sharded(params["out_sharding"], lhs, rhs):
        return None  # the sharding names dimensions of the form it was written for
    if platform == "other":
        return None
    if platform == "cpu":
        # A branch for CPU: our own, where a canonical form has its barrier already and only what
        # a later differentiation has made needs to be brought to it.
        is_canonical = params["dimension_numbers"] == _canonical(lhs.ndim - 2)
        return None if is_canonical else _canonical_convolution(lhs, rhs, **params)
    return lax.platform_dependent(
        lhs,
        rhs,
        cpu=functools.partial(_canonical_convolution, **params),
        default=functools.partial(_plain_convolution, **params),
    )


def _is_sharded(out_sharding: Any, *operands: jax.Array) -> bool:
    """Whether an equation asks for a sharding, as only one on a mesh of Explicit axes can.

    On any other mesh JAX writes one that names no axis into each backward convolution.
    """
    if out_sharding is None:
        return False
    shardings = (out_sharding, *(jax.typeof(operand).sharding for operand in operands))
    return any(axis is not None for sharding in shardings for axis in sharding.spec)


def _plain_convolution(lhs: jax.Array, rhs: jax.Array, **params: Any) -> jax.Array:
    params = {name: value for name, value in params.items() if name != "out_sharding"}
    return lax.conv_general_dilated(lhs, rhs, **params)


def _canonical_convolution(
    lhs: jax.Array, rhs: jax.Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any
) -> jax.Array:
    # A spec lists positions: (batch, feature, *spatial) of lhs and out, (O, I, *spatial) of rhs.
    (n, c, *spatial), (o, i, *window), out = dimension_numbers
    canonical = _canonical(len(spatial))
    lhs = jnp.transpose(lhs, (n, *spatial, c))
    rhs = lax.optimization_barrier(jnp.transpose(rhs, (*window, i, o)))
    result = _plain_convolution(lhs, rhs, dimension_numbers=canonical, **params)
    inverse = [0] * lhs.ndim
    for position, axis in zip(out, canonical.out_spec, strict=True):
        inverse[position] = axis
    return jnp.transpose(result, inverse)


def _canonical(rank: int) -> lax.ConvDimensionNumbers:
    """(N, *spatial, C), (*spatial, I, O), (N, *spatial, C)."""
    channels_last = (0, rank + 1, *range(1, rank + 1))
    return lax.ConvDimensionNumbers(channels_last, (rank + 1, rank, *range(rank)), channels_last)


def _pool_gradient(
    platform: str | None,
    source: jax.Array,
    operand: jax.Array,
    *,
    select_prim: Any,
    window_dimensions: tuple[int, ...],
    window_strides: tuple[int, ...],
    padding: tuple[tuple[int, int], ...],
) -> jax.Array | None:
    del platform  # the same numbers from simple operations: good everywhere
    window = tuple(window_dimensions)
    size = functools.reduce(lambda a, b: a * b, window)
    if window != tuple(window_strides) or any(low or high for low, high in padding):
        return None
    if size > _LARGEST_WINDOW or select_prim.name not in ("ge", "le"):
        return None
    keeps = jnp.greater_equal if select_prim.name == "ge" else jnp.less_equal

    covered = tuple(n * k for n, k in zip(source.shape, window, strict=True))
    windows = lax.slice(operand, (0,) * operand.ndim, covered)
    # (A, B, ...) as (A/a, a, B/b, b, ...), where a and b are not 1: each window lies along `inner`.
    # One axis at a time, since on a mesh of Explicit axes JAX refuses to split several in one.
    split = [axis for axis, k in enumerate(window) if k > 1]
    inner = [axis + before + 1 for before, axis in enumerate(split)]
    for axis in reversed(split):
        n, k = source.shape[axis], window[axis]
        windows = windows.reshape(*windows.shape[:axis], n, k, *windows.shape[axis + 1 :])

    def element(offset: tuple[int, ...]) -> jax.Array:
        index: list[Any] = [slice(None)] * windows.ndim
        for axis, position in zip(inner, offset, strict=True):
            index[axis] = position
        return windows[tuple(index)]

    offsets = list(itertools.product(*(range(window[axis]) for axis in split)))
    best, chosen = element(offsets[0]), jnp.zeros(source.shape, jnp.int32)
    for number, offset in enumerate(offsets[1:], start=1):
        candidate = element(offset)
        keep = keeps(best, candidate)
        best = jnp.where(keep, best, candidate)
        chosen = jnp.where(keep, chosen, number)

    def spread(array: jax.Array) -> jax.Array:
        """What is one for each window, at each of its elements."""
        return jnp.broadcast_to(jnp.expand_dims(array, inner), windows.shape)

    numbers = jnp.arange(size, dtype=jnp.int32).reshape([window[axis] for axis in split])
    numbers = jnp.expand_dims(numbers, [a for a in range(windows.ndim) if a not in inner])
    here = spread(chosen) == jnp.broadcast_to(numbers, windows.shape)
    gradient = jnp.where(here, spread(source), jnp.zeros((), source.dtype))
    for axis in split:
        shape = gradient.shape
        gradient = gradient.reshape(*shape[:axis], covered[axis], *shape[axis + 2 :])
    rest = [(0, n - m, 0) for n, m in zip(operand.shape, covered, strict=True)]
    return lax.pad(gradient, jnp.zeros((), gradient.dtype), rest)


_RULES: _interpreter.Rules = {
    "conv_general_dilated": _convolution,
    "select_and_scatter_add": _pool_gradient,
}
