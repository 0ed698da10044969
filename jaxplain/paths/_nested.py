"""Integration to a tolerance, by nested Clenshaw-Curtis rules.

    I_r = sum_k w_k^(r) g(t_k),   n_r = 16 * 2^r intervals,   r = 0, 1, 2, ...
    v_r = d * I_r
    error = max(sqrt(2) ||v_r - v_{r-1}||, |gap_r| / sqrt(elements)) / ||v_r||
    gap_r = sum(v_r) - (f(x) - f(b))
    stop at error <= tolerance, or at the last level

The nodes of level r are among those of level r + 1, so no gradient is computed twice. One
accumulator for each level, filled from the start: gradients need not be kept. The stopping rule
looks at the attribution *vector*. The completeness gap would mislead: the residuals of single
stretches of the path cancel in the sum, and a gap of 1e-3 was measured with a vector 5 % off.

Why sqrt(2). The gradient of a network with kinks is a step function along the path, with a jump J_k
at each kink. In a cell of width h the rule is off by J_k h u_k, with u_k anywhere in (-1/2, 1/2);
halving the cells moves it by +-J_k h / 4 and leaves an error anywhere within that. So for one kink
the move bounds the error. For many kinks in many directions it is sqrt(3) times the error in the
mean square, but by chance the smaller of the two in one example of thirty; with the factor, in one
of five hundred (`bench/error_estimate.py`). Where the gradient is smooth the error is far smaller.

The gap comes in as what it is, a lower bound of the true error (by Cauchy and Schwarz, an error
vector that sums to gap is no shorter than |gap| / sqrt(elements)): it uncovers a rise of f between
the nodes, which both rules miss alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import trees
from jaxplain.paths._integrand import Integrand
from jaxplain.paths.quadrature import clenshaw_curtis
from jaxplain.rewrite import _fast

# Intervals of the coarsest rule. Coarser rules can agree by chance.
FIRST = 16

# What the move between two rules is multiplied by: see the top.
SAFETY = 2**0.5


class Schedule(NamedTuple):
    """The nodes of all levels in the order of evaluation, and each level's weights, on the host.

    The end points are apart, since the function is evaluated there anyway. The interior nodes of
    level 0 are one short of a power of two: a copy of the middle with weight zero fills the place,
    so that every level ends on a multiple of any power of two up to `FIRST`.

    Attributes:
        nodes: shape (points,), points = FIRST * 2 ** (levels - 1).
        weights: shape (levels, points).
        end_weights: shape (levels,), for either end point.
    """

    nodes: np.ndarray
    weights: np.ndarray
    end_weights: np.ndarray


def schedule(max_steps: int) -> Schedule:
    """The schedule of all levels that take at most `max_steps` = 2^k + 1 >= 33 nodes."""
    levels = int(max_steps - 1).bit_length() - FIRST.bit_length() + 1
    finest = FIRST * 2 ** (levels - 1)
    if levels < 2 or finest != max_steps - 1:
        near = [2**k + 1 for k in range(5, 32)]
        below = max([n for n in near if n <= max_steps], default=near[0])
        raise ValueError(
            f"max_steps must be 2**k + 1 and at least 33 (33, 65, 129, 257, ...), the sizes of the "
            f"nested rules, but is {max_steps}. Near it: {below} and {2 * below - 1}."
        )
    # Nodes by their place on the finest grid: level r has every (finest / n_r)-th of them.
    places = [*range(finest // FIRST, finest, finest // FIRST), finest // 2]
    for level in range(1, levels):
        stride = finest // (FIRST * 2**level)
        places += range(stride, finest, 2 * stride)
    nodes, _ = clenshaw_curtis(max_steps)
    weights, end_weights = np.zeros((levels, len(places))), np.zeros(levels)
    for level in range(levels):
        stride = finest // (FIRST * 2**level)
        _, rule = clenshaw_curtis(FIRST * 2**level + 1)
        end_weights[level] = rule[0]
        for position, place in enumerate(places):
            is_filler = position == FIRST - 1
            if place % stride == 0 and not is_filler:
                weights[level, position] = rule[place // stride]
    return Schedule(nodes[places], weights, end_weights)


class Integral(NamedTuple):
    """What the integration has reached: a tree of arrays.

    Attributes:
        points: how many points of the schedule are in, int32.
        error: the estimated relative error; infinite before the second level is complete.
        sums: the integral by each level's rule, as far as it is filled; a leading axis of levels.
        outputs: f at t = 0 and at t = 1.
    """

    points: jax.Array
    error: jax.Array
    sums: Any
    outputs: tuple[jax.Array, jax.Array]


class Steps(NamedTuple):
    """Integration in rounds: each one completes a level.

    Attributes:
        init: `() -> Integral`, with the two ends in.
        advance: `Integral -> Integral`, with the next level complete (the first two at once).
        done: `Integral -> bool`, whether to stop.
        values: `Integral -> (values, evaluations)`, by the last complete level.
    """

    init: Callable[[], Integral]
    advance: Callable[[Integral], Integral]
    done: Callable[[Integral], jax.Array]
    values: Callable[[Integral], tuple[Any, jax.Array]]


def integrate(steps: Steps) -> Integral:
    """All rounds, in one loop."""
    goes_on = lambda state: ~steps.done(state)
    return jax.lax.while_loop(goes_on, steps.advance, steps.init())


def steps(integrand: Integrand, plan: Schedule, tolerance: Any, chunk_size: int) -> Steps:
    """Integrates until `integrand.attribute(integral)` is within `tolerance`.

    Args:
        integrand: f along a path.
        plan: from `schedule`.
        tolerance: relative, in the Euclidean norm of the values; may be traced.
        chunk_size: the most points evaluated at once; rounded down to a power of two, at most 16.
    """
    size = 1 << (min(chunk_size, FIRST).bit_length() - 1)
    levels, points = plan.weights.shape
    chunks, dtype = points // size, integrand.dtype
    nodes = jnp.asarray(plan.nodes.reshape(chunks, size), dtype)
    weights = jnp.asarray(plan.weights.reshape(levels, chunks, size).swapaxes(0, 1), dtype)
    end_weights = jnp.asarray(plan.end_weights[:, None], dtype)
    counts = jnp.asarray(FIRST * 2 ** np.arange(levels), jnp.int32)
    tolerance = jnp.asarray(tolerance, dtype)

    def outer(weights: jax.Array, values: jax.Array) -> jax.Array:
        """(levels, chunk), (chunk, ...) -> (levels, ...), summed over the chunk."""
        dtype = trees.wide_dtype(values.dtype)
        return jnp.tensordot(
            weights.astype(dtype), values.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )

    def level(points: jax.Array) -> jax.Array:
        """The level that this many points complete."""
        return jnp.sum(counts < points, dtype=jnp.int32)

    def by_level(sums: Any, at: jax.Array) -> Any:
        return integrand.attribute(jax.tree.map(lambda s: _row(s, at), sums))

    def error(state: Integral) -> jax.Array:
        at = level(state.points)
        this, last = by_level(state.sums, at), by_level(state.sums, at - 1)
        norm = trees.norm(this)
        moved = SAFETY * trees.norm(trees.subtract(this, last))
        rise = trees.subtract(*map(trees.widen, state.outputs[::-1])).astype(norm.dtype)
        elements = sum(leaf.size for leaf in jax.tree.leaves(this))
        missing = jnp.abs(trees.total(this) - rise) / float(np.sqrt(elements))
        ratio = jnp.maximum(moved, missing) / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny)
        return ratio.astype(dtype)

    def init() -> Integral:
        # The outputs at the two ends are needed anyway; their gradients belong to every level.
        (first_output, first), (last_output, last) = integrand.ends()
        both = jax.tree.map(lambda g, h: g + h, *map(trees.widen, (first, last)))
        sums = jax.tree.map(lambda g: outer(end_weights, g[None]), both)
        # The loops start from values that depend on the gradients, and so have their type: on a
        # mesh a loop that starts from literals cannot be batched (jax 0.10.2), nor differ between
        # devices.
        start = (jnp.isfinite(trees.total(both)) & False).astype(jnp.int32)
        unknown = start.astype(dtype) + jnp.inf
        return Integral(start, unknown, sums, (first_output, last_output))

    def done(state: Integral) -> jax.Array:
        # NaN compares false, so a broken example stops as soon as the first two rules are there.
        goes_on = (state.points < points) & ((state.points < 2 * FIRST) | (state.error > tolerance))
        return ~goes_on

    def advance(state: Integral) -> Integral:
        end = jnp.minimum(jnp.maximum(2 * state.points, 2 * FIRST), points)
        one = jax.eval_shape(lambda: _row(nodes, state.points)[0])
        call, _ = _fast.staged(lambda t: integrand.at(t)[1], one)

        def chunk(inner: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            at, sums = inner
            t, w = _row(nodes, at // size), _row(weights, at // size)
            values = jax.vmap(call)(t)
            return at + size, jax.tree.map(lambda s, v: s + outer(w, v), sums, values)

        reached, sums = jax.lax.while_loop(
            lambda inner: inner[0] < end, chunk, (state.points, state.sums)
        )
        state = state._replace(points=reached, sums=sums)
        return state._replace(error=error(state))

    def values(state: Integral) -> tuple[Any, jax.Array]:
        # The two ends are points too; the filler is none.
        return by_level(state.sums, level(state.points)), state.points + 1

    return Steps(init, advance, done, values)


def _row(table: jax.Array, index: jax.Array) -> jax.Array:
    """`table[index]` by comparison: under `vmap` each example has its own index, and a gather by a
    sharded index is refused on a mesh with Explicit axes.
    """
    here = index == jnp.arange(table.shape[0], dtype=jnp.int32)
    here = here.reshape(here.shape + (1,) * (table.ndim - 1))
    return jnp.sum(jnp.where(here, table, jnp.zeros((), table.dtype)), axis=0)
