"""What is integrated over t in [0, 1], for a path of any kind.

    values = attribute(integral_0^1 g(t) dt)

    any path          g = grad f(gamma(t)) * dgamma/dt(t)     attribute = identity
    straight line     g = grad f(gamma(t))                    attribute = (x - b) *
    ... hoisted       g = grad rest(y0 + t (y1 - y0))         attribute = (x - b) * prefix^T

In the last, f = rest(prefix(x)) with an affine prefix (a first dense layer, an embedding), which is
applied to the two ends only, and its transpose to the integral only: `rewrite/_affine.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import trees
from jaxplain.paths._straight_line import line_between, straight_line
from jaxplain.rewrite import _affine, _fast

Path = Callable[[Any, Any, Any], Any]

# What a point costs beside the model, for each element of the line: the point is formed and the
# gradient added to a compensated sum, all of it bound by memory. In FLOPs of a contraction; a
# convolutional stem that saved 120 for each further element made a CNN 1.5 times slower.
LINE_FLOPS_PER_ELEMENT = 256


class Integrand(NamedTuple):
    """f along a path, to be integrated.

    Attributes:
        at: from t to f there and g(t).
        outputs: f at t = 0 and at t = 1.
        ends: `at` for t = 0 and for t = 1.
        attribute: linear, from the integral of g, in float32 or wider, to the values as wide.
        dtype: of t.
    """

    at: Callable[[jax.Array], tuple[jax.Array, Any]]
    outputs: Callable[[], tuple[jax.Array, jax.Array]]
    ends: Callable[[], tuple[tuple[jax.Array, Any], tuple[jax.Array, Any]]]
    attribute: Callable[[Any], Any]
    dtype: Any


def along(
    path: Path,
    f: Callable[..., jax.Array],
    x: Any,
    baseline: Any,
    args: Any,
    *,
    points: int,
    hoist: bool,
) -> Integrand:
    """The integrand of f along a path.

    Args:
        path: `path(t, x, baseline) -> point`.
        f: `f(x, *args) -> scalar`.
        x: a tree of float arrays.
        baseline: the same tree.
        args: further arguments of f.
        points: how many gradients are to be taken.
        hoist: whether to look for an affine prefix; on the straight line only.
    """
    if path is straight_line:
        return _along_line(f, x, baseline, args, points=points, hoist=hoist)
    dtype = _time_dtype(x)

    def at(t: jax.Array) -> tuple[jax.Array, Any]:
        point, velocity = jax.jvp(
            lambda t: _checked(path(t, x, baseline), x), (t,), (jnp.ones_like(t),)
        )
        value, gradient = jax.value_and_grad(f)(point, *args)
        return value, trees.multiply(trees.widen(velocity), trees.widen(gradient))

    start = jnp.zeros((), dtype)
    ends = start, start + 1

    def outputs() -> tuple[jax.Array, jax.Array]:
        output, _ = _fast.staged(lambda t: f(_checked(path(t, x, baseline), x), *args), start)
        return output(ends[0]), output(ends[1])

    def at_ends() -> Any:
        call, _ = _fast.staged(at, start)
        return call(ends[0]), call(ends[1])

    return Integrand(at, outputs, at_ends, lambda integral: integral, dtype)


def _along_line(
    f: Callable[..., jax.Array], x: Any, baseline: Any, args: Any, *, points: int, hoist: bool
) -> Integrand:
    function: Callable[[Any], jax.Array] = lambda point: f(point, *args)
    start, end = baseline, x
    point, velocity = line_between(start, end)
    attribute = lambda integral: trees.multiply(velocity, integral)
    split = _affine.split(function, x) if hoist else None
    if split is not None and _pays(split, points):
        function = split.rest
        start, end = split.prefix(baseline), split.prefix(x)
        point, _ = line_between(start, end)
        _, transpose = jax.vjp(split.prefix, x)

        def attribute(integral: Any) -> Any:
            (gradient,) = transpose(trees.cast_like(integral, end))
            return trees.multiply(velocity, trees.widen(gradient))

    value_and_gradient = jax.value_and_grad(function)

    def outputs() -> tuple[jax.Array, jax.Array]:
        output, _ = _fast.staged(function, end)
        return output(start), output(end)

    def at_ends() -> Any:
        call, _ = _fast.staged(value_and_gradient, end)
        return call(start), call(end)

    at = lambda t: value_and_gradient(point(t))
    return Integrand(at, outputs, at_ends, attribute, _time_dtype(x))


def _time_dtype(x: Any) -> Any:
    return trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(trees.widen(x))))


def _checked(point: Any, x: Any) -> Any:
    """The point of a user's path, which must be a tree like x; with the dtypes of x."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    structure: Any = jax.tree.structure(point)
    if structure != jax.tree.structure(x) or shapes(point) != shapes(x):
        raise ValueError(
            "path must return a point like x, a tree with the same shapes, but returned "
            f"{shapes(point)} where x is {shapes(x)}."
        )
    return trees.cast_like(jax.tree.map(jnp.asarray, point), x)


def _pays(split: _affine.Split, points: int) -> bool:
    """Whether the FLOPs counted over all points fall."""
    before = points * (2 * split.flops + LINE_FLOPS_PER_ELEMENT * split.elements)
    after = 3 * split.flops + points * LINE_FLOPS_PER_ELEMENT * split.cut_elements
    return after < before
