"""Guided Integrated Gradients: along a path through the smallest partial derivatives.

With D = x - b, features i of all leaves together, and the progress p_i of each from 0 at the
baseline to 1 at x, the walk goes from b to x in K steps:

    g_k      = grad f(b + p_k D)
    p_{k+1}  : sum_i |D_i| p_{k+1,i} = (k+1)/K sum_i |D_i|      (an even share of the distance)
               by raising the features of the smallest |g_k|,  |p_{k+1,i} - (k+1)/K| <= max_distance
    values_i = sum_k D_i (p_{k+1,i} - p_{k,i}) g_{k,i}

The values sum to f(x) - f(b) up to the error of a left Riemann sum of K steps along that path,
which is of first order where f is smooth.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.evaluate import walk
from jaxplain.paths import _walks
from jaxplain.paths._result import PathAttribution, from_baseline, result
from jaxplain.rewrite import _fast


def guided_integrated_gradients(
    f: Callable[..., Any],
    *,
    steps: int = 200,
    fraction: float = 0.25,
    max_distance: float | jax.Array = 0.02,
) -> Callable[..., PathAttribution]:
    """Guided Integrated Gradients of a scalar function, for one example.

        values_i = sum_k D_i (p_{k+1,i} - p_{k,i}) df/dx_i(b + p_k D),    D = x - b

    The path goes from the baseline b to x by moving, at each step, the features with the smallest
    partial derivatives first, so that what it meets off the way of x adds little. Each step lowers
    the l1 distance to x by the same amount. With the gradient at the point, it

    1. raises features whose progress p is below t - max_distance to it, t = (k + 1) / steps;
    2. takes, of the features not yet at their cap min(t + max_distance, 1), those whose absolute
       partial derivative is at or below a threshold, and moves them to the cap; with the same
       gradient it goes on to the next ones, until the step's distance is reached; the last group
       moves by an equal part of what each lacks to the cap.

    The threshold is the `fraction` quantile, "lower" in numpy's terms: the m-th smallest of n
    values, m = floor(fraction (n - 1)) + 1. n counts all elements of all leaves, which are one set;
    those at their cap, or equal in x and baseline, count as infinite. Equal derivatives move
    together, so that a group may be larger than m.

    Beside its gradient a step reads x about 31 / fraction times, to find the thresholds (63 in
    float64); the model is evaluated `steps` times, one point after the other.

    Args:
        f: `f(x, *args) -> scalar`. Parameters belong among `args`, never closed over.
        steps: the number of gradients.
        fraction: of the features, that move together; in (0, 1], part of the compiled program.
        max_distance: how far each feature may be from the straight line, in units of its own
            distance, in [0, 1]: 0 is Integrated Gradients by the left Riemann sum, 1 binds
            nothing. May be a traced array.

    Returns:
        `explain(x, baseline, *args) -> PathAttribution`, a pure function, jitted inside. `x` is any
        tree of float arrays (scalars too), `baseline` the same tree with the same shapes and
        dtypes; `*args` are arrays or trees of arrays. `completeness_gap` is the error of the walk:
        of first order in 1 / steps where f is smooth. Where f has kinks, as with ReLU, it need not
        vanish: the walk may run along a kink, and meet the gradients of both sides by turns.

    Raises:
        TypeError: f is not a function; x is not float; an argument is not an array; a number is
            not one.
        ValueError: f does not return a scalar; baseline does not match x; steps is below 1; a
            number is out of its range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x, weight: jnp.sum(weight * x)
        >>> explain = guided_integrated_gradients(f, steps=10)
        >>> result = explain(jnp.array([1.0, 2.0]), jnp.zeros(2), jnp.array([3.0, 1.0]))
        >>> result.values.round(4).tolist(), float(result.output)
        ([3.0, 2.0], 5.0)

    References:
        Kapishnikov, Venugopalan, Avci, Wedin, Terry and Bolukbasi, "Guided Integrated Gradients: An
        Adaptive Path Method for Removing Noise", CVPR 2021, Algorithm 1, in the form of the
        authors' code (PAIR-code/saliency, `guided_ig.py`), which bounds the path by the distance of
        each feature where the paper anchors it at points of the straight line. Deviations: 1. the
        state is the progress p and not the point, so that a feature is at its cap exactly or not at
        all, whatever is rounded. 2. A step that has reached its distance to rounding is not ended
        by an absolute tolerance of 1e-9, which would depend on the unit of x. 3. A gradient is
        taken where x equals the baseline too: the values are zero unless it is not finite.
    """
    checks.function(f, "f")
    scalar = checks.scalar(f)
    steps = checks.integer(steps, "steps")
    fraction = _walks.share(fraction, "fraction")
    checks.number(max_distance, "max_distance", at_least=0, at_most=1)

    def kernel(x: Any, baseline: Any, *args: Any) -> PathAttribution:
        start = trees.widen(baseline)
        velocity = trees.subtract(trees.widen(x), start)
        lengths = jax.tree.map(jnp.abs, velocity)
        dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(velocity)))
        distance = jnp.asarray(max_distance, dtype)

        def step(state: tuple[Any, Any], k: jax.Array) -> tuple[tuple[Any, Any], None]:
            progress, values = state
            point = jax.tree.map(lambda b, p, v: b + p * v, start, progress, velocity)
            gradient = trees.widen(jax.grad(scalar)(trees.cast_like(point, x), *args))
            t = (k.astype(dtype) + 1) / steps
            low, cap = jnp.maximum(t - distance, 0), jnp.minimum(t + distance, 1)
            raised = jax.tree.map(lambda p: jnp.maximum(p, low.astype(p.dtype)), progress)
            moved = _move(raised, gradient, lengths, t, cap, fraction)
            values = jax.tree.map(
                lambda total, v, new, old, g: total + v * (new - old) * g,
                values,
                velocity,
                moved,
                progress,
                gradient,
            )
            return (moved, values), None

        (_, values), _ = walk((_walks.zeros(x), _walks.zeros(x)), step, steps)
        output, _ = _fast.staged(lambda z: scalar(z, *args), x)
        return result(x, baseline, (output(baseline), output(x)), values, evaluations=steps)

    return from_baseline(scalar, kernel)


def _move(
    progress: Any, gradient: Any, lengths: Any, t: jax.Array, cap: jax.Array, fraction: float
) -> Any:
    """The progress after a step: sum(lengths * progress) = t * sum(lengths), none above the cap."""
    rooms = jax.tree.map(lambda d, p: d * (cap.astype(p.dtype) - p), lengths, progress)
    need = trees.total(jax.tree.map(lambda d, p: d * (t.astype(p.dtype) - p), lengths, progress))
    ranks, done, last = jax.lax.stop_gradient(_groups(gradient, rooms, need, fraction))

    def reach(chosen: Any) -> jax.Array:
        return trees.total(jax.tree.map(lambda c, room: jnp.where(c, room, 0), chosen, rooms))

    # Which features move is settled; by how much is a differentiable function of where they are.
    whole = jax.tree.map(lambda rank: rank <= done, ranks)
    part = jax.tree.map(lambda rank: (rank > done) & (rank <= last), ranks)
    room = reach(part)
    share = jnp.where(room > 0, need - reach(whole), 0) / jnp.where(room > 0, room, 1)
    share = jnp.clip(share, 0, 1)

    def moved(p: jax.Array, w: jax.Array, s: jax.Array) -> jax.Array:
        top = cap.astype(p.dtype)
        return jnp.where(w, top, jnp.where(s, p + share.astype(p.dtype) * (top - p), p))

    return jax.tree.map(moved, progress, whole, part)


def _groups(
    gradient: Any, rooms: Any, need: jax.Array, fraction: float
) -> tuple[Any, jax.Array, jax.Array]:
    """Ranks, and two thresholds: ranks up to the first move whole, up to the second in part.

    The rank of a feature is its absolute derivative read as an integer (the bits of a positive
    float are in its order), and the largest one where it has no room to move. Thresholds are found
    bit by bit, by counting: no sort, so that features may be many, of several leaves, and sharded.
    """
    float_type = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(gradient)))
    int_type = jnp.dtype(f"int{8 * float_type.itemsize}")
    largest = jnp.iinfo(int_type).max

    def rank(g: jax.Array, room: jax.Array) -> jax.Array:
        bits = jax.lax.bitcast_convert_type(jnp.abs(g).astype(float_type), int_type)
        return jnp.where(room > 0, bits, largest)

    gradient, rooms, need = jax.lax.stop_gradient((gradient, rooms, need))
    ranks = jax.tree.map(rank, gradient, rooms)
    n = sum(leaf.size for leaf in jax.tree.leaves(ranks))
    m = math.floor(fraction * max(n - 1, 0)) + 1
    bits = np.asarray([1 << b for b in reversed(range(8 * float_type.itemsize - 1))], int_type)

    def smallest(ranks: Any, zero: jax.Array) -> jax.Array:
        """The m-th smallest rank: the largest number that fewer than m ranks are below."""

        def next_bit(found: jax.Array, bit: jax.Array) -> tuple[jax.Array, None]:
            candidate = found | bit
            below = sum(
                jnp.sum(leaf < candidate, dtype=jnp.int32) for leaf in jax.tree.leaves(ranks)
            )
            return jnp.where(below < m, candidate, found), None

        return jax.lax.scan(next_bit, zero, jnp.asarray(bits))[0]

    def group(state: Any, _: None) -> tuple[Any, jax.Array]:
        done, need = state
        left = jax.tree.map(lambda rank: jnp.where(rank > done, rank, largest), ranks)
        threshold = smallest(left, done & 0)
        reach = trees.total(
            jax.tree.map(
                lambda rank, room: jnp.where((rank > done) & (rank <= threshold), room, 0),
                ranks,
                rooms,
            )
        )
        # Where it suffices the state stays, and all further groups find this one again.
        suffices = ~(reach < need)
        done = jnp.where(suffices, done, threshold)
        return (done, jnp.where(suffices, need, need - reach)), threshold

    none = _walks.none(need, int_type) - 1
    # Each group takes m features or all that are left, so this many take them all.
    (done, _), thresholds = jax.lax.scan(group, (none, need), length=max(1, -(-n // m)))
    return ranks, done, thresholds[-1]
