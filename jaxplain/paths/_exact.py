"""Integrated Gradients of a piecewise linear function, exactly.

    0 = t_0 < t_1 < ... < t_K = 1      where f(b + t (x - b)) goes from one affine piece to the next
    values_i = (x_i - b_i) * sum_k (t_{k+1} - t_k) * df/dx_i(b + (t_k + t_{k+1}) / 2 (x - b))

The gradient is constant between two breakpoints, so one at the middle is the integral. The
breakpoints are found one after another: a hair behind t_k every intermediate value of f is known
with its slope along the line, and t_{k+1} is where the first of them changes a choice
(`rewrite/_breakpoints.py`).

The hair is why the walk always ends. Rounding may put a unit that has just changed back on its old
side; then it is found to change once more, a little further, and costs a gradient but no error. So
each segment is longer than the hair. What the hair costs: a second breakpoint within it is not
seen, and the gradient in between is off by the jump there, for at most the length of a hair: at
most K hairs times the jump altogether, and only where breakpoints coincide but for rounding.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.paths._result import from_baseline, result
from jaxplain.paths._straight_line import line_between
from jaxplain.rewrite import _breakpoints, _fast

# In units of rounding of the position: 3.6e-15 in float64, 1.9e-6 in float32.
_HAIR = 16


class ExactAttribution(NamedTuple):
    """An attribution along the straight line, and the pieces of f that it was summed over.

    Attributes:
        values: tree and shapes of x, dtype of x: what each element of x contributed to
            `output - baseline_output`, in the units of f.
        output: f(x), a scalar.
        baseline_output: f(baseline), a scalar.
        completeness_gap: sum(values) - (output - baseline_output), a scalar in float32 or wider.
            Of the size of rounding where `complete`, or else about what was left out. A larger one
            means that f jumps, or that its gradient is not that of its values.
        error: NaN: there is no error to estimate but that of rounding.
        evaluations: the number of gradients of f that went into `values`, int32.
        finite: whether x, the baseline, the outputs and the values are free of NaN and infinity.
        breakpoints: shape (max_segments + 1,), float32 or wider: 0 = t_0 < t_1 < ... < t_segments,
            positions on the line from the baseline at 0 to x at 1; filled up with the last.
        segments: the number of pieces, int32. Slivers made by rounding are counted.
        complete: whether x was reached within `max_segments`. If not, `values` are those of the
            part from the baseline to the last breakpoint.
    """

    values: Any
    output: jax.Array
    baseline_output: jax.Array
    completeness_gap: jax.Array
    error: jax.Array
    evaluations: jax.Array
    finite: jax.Array
    breakpoints: jax.Array
    segments: jax.Array
    complete: jax.Array


def exact_integrated_gradients(
    f: Callable[..., Any], *, max_segments: int = 1024
) -> Callable[..., ExactAttribution]:
    """Integrated Gradients of a piecewise linear function, without quadrature, for one example.

        values_i = (x_i - b_i) * sum_k (t_{k+1} - t_k) * df/dx_i(middle of segment k)

    For small networks of linear layers, convolutions, (leaky) ReLU, absolute values, maxima,
    max-pools, comparisons, sorts and the like: as a method where rounding is all the error that may
    be, and as the judge of any quadrature. It takes one gradient and one forward pass with a
    tangent for each piece of f on the line, one after another; a network has up to about as many
    pieces as units.

    Args:
        f: `f(x, *args) -> scalar`, piecewise linear in x and continuous: a jump is not seen, and
            stays as the completeness gap. Parameters belong among `args`, never closed over. Where
            x is narrower than float32, f is called with x and all arguments in float32 at least: in
            bfloat16 nothing is piecewise linear.
        max_segments: where to stop. Memory does not depend on it but for the breakpoints.

    Returns:
        `explain(x, baseline, *args) -> ExactAttribution`, a pure function, jitted inside. `x` is
        any tree of float arrays (scalars too), `baseline` the same tree with the same shapes and
        dtypes; `*args` are arrays or trees of arrays. Forward mode and `vmap` go through it,
        reverse mode does not; a batch takes as many rounds as the example of most pieces.

    Raises:
        TypeError: f is not a function; x is not float; an argument is not an array.
        ValueError: f is not piecewise linear in x (the message names the operation), or does not
            return a scalar; baseline does not match x; max_segments is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> f = lambda x, weight: jnp.maximum(jnp.dot(weight, x) - 1, 0)
        >>> explain = exact_integrated_gradients(f)
        >>> result = explain(jnp.array([2.0, 1.0]), jnp.zeros(2), jnp.array([1.0, 2.0]))
        >>> result.values.tolist(), result.breakpoints[:3].tolist(), int(result.segments)
        ([1.5, 1.5], [0.0, 0.25, 1.0], 2)

    References:
        Sotoudeh and Thakur, "Computing Linear Restrictions of Neural Networks", NeurIPS 2019
        (arXiv 1908.06214), ExactLine and its use for Integrated Gradients. Deviations: 1. The
        breakpoints are found in their order along the line, by slopes through the whole of f, where
        the paper refines a partition layer by layer: memory does not grow with their number, and
        any program of known operations will do. 2. Two breakpoints within 16 units of rounding of
        the position may be taken for one.
    """
    checks.function(f, "f")
    max_segments = checks.integer(max_segments, "max_segments")
    scalar = checks.scalar(f)

    def wide(x: Any, *args: Any) -> jax.Array:
        return scalar(*_wide((x, *args)) if _is_narrow(x) else (x, *args))

    def kernel(x: Any, baseline: Any, *args: Any) -> ExactAttribution:
        return _exact(scalar, x, baseline, args, max_segments)

    return from_baseline(wide, kernel)


def _exact(
    f: Callable[..., jax.Array], x: Any, baseline: Any, args: Any, max_segments: int
) -> ExactAttribution:
    given = x
    if _is_narrow(x):
        x, baseline, args = _wide((x, baseline, args))
    line, velocity = line_between(baseline, x)
    dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(velocity)))
    hair = _HAIR * float(jnp.finfo(dtype).eps)
    staged = _breakpoints.stage(lambda z: f(z, *args), x)
    output, _ = _fast.staged(staged.call, x)
    outputs = output(baseline), output(x)

    def segment(start: jax.Array) -> tuple[jax.Array, Any]:
        """Where the segment ends that starts at `start`, and the gradient in it."""
        inside = start + hair
        end = inside + staged.time_to_break(line(inside), velocity).astype(dtype)
        end = jnp.where(end < 1, end, 1)  # and where it is NaN
        return end, trees.widen(jax.grad(staged.call)(line((start + end) / 2)))

    # The loop starts from values that depend on f, and so has the types that it ends with: on a
    # mesh a loop that starts from literals cannot be batched (jax 0.10.2).
    never = jnp.isfinite(outputs[0] + outputs[1]) & False
    begin = never.astype(dtype)
    call, (_, gradient) = _fast.staged(segment, begin)
    places = jnp.arange(max_segments + 1, dtype=jnp.int32)

    def unfinished(state: Any) -> jax.Array:
        count, reached, _, _ = state
        return (count < max_segments) & (reached < 1)

    def advance(state: Any) -> Any:
        count, reached, breakpoints, sums = state
        end, gradient = call(reached)
        sums = jax.tree.map(lambda s, g: s + (end - reached).astype(s.dtype) * g, sums, gradient)
        breakpoints = jnp.where(places > count, end, breakpoints)
        return count + 1, end, breakpoints, sums

    zeros = jax.tree.map(lambda g: begin.astype(g.dtype) + jnp.zeros(g.shape, g.dtype), gradient)
    zeros = trees.place_like(zeros, gradient)
    start = never.astype(jnp.int32), begin, begin + jnp.zeros(places.shape, dtype), zeros
    count, reached, breakpoints, sums = jax.lax.while_loop(unfinished, advance, start)
    values = trees.multiply(velocity, sums)
    attribution = result(given, baseline, outputs, values, evaluations=count)
    return ExactAttribution(*attribution, breakpoints, count, reached >= 1)


def _wide(tree: Any) -> Any:
    """Each float leaf in float32 or wider; all others as they are."""

    def widen(leaf: Any) -> Any:
        is_float = jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(trees.wide_dtype(leaf.dtype)) if is_float else leaf

    return jax.tree.map(widen, tree)


def _is_narrow(x: Any) -> bool:
    return any(leaf.dtype != trees.wide_dtype(leaf.dtype) for leaf in jax.tree.leaves(x))
