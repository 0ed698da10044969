"""The mean over baselines and positions of a quantity on the line between: design and error.

    mean = sum_b p_b * integral_0^1 h(b, t) dt,    p_b >= 0,    sum_b p_b = 1

Samples are pairs of a baseline and a position. With `positions="random"` they are independent, and
the standard error is the ordinary one. The other two are balanced, and balance makes samples
depend on each other: the spread over samples no longer is the error. So the samples are divided

    groups        G   of baselines, at random, of nearly equal sizes B_g
    replicates    R   in each group: independent, of one distribution
    points        m   in each replicate

    m_gr = mean over the points of replicate r of group g
    mean = sum_g (B_g / B) * mean_r m_gr
    se^2 = sum_g (B_g / B)^2 * sum_r (m_gr - mean_r m_gr)^2 / (R (R - 1))

which is unbiased, whatever the design inside a replicate. It has G (R - 1) degrees of freedom where
the groups are alike, and fewer where a few of them make most of the spread. They are counted as

    G (R - 1) / (1 + 4 G / B)    for G > 1

by Satterthwaite's formula for groups of B / G baselines, whose own shares of the variance have 2 as
their coefficient of variation: between the square of a normal variable, 1.4, and its fourth power,
3.3. (With a baseline that is far from all others the interval is too narrow all the same.)

Inside a replicate the points i = 0, ..., m - 1 take the baselines of the group in a random order,
round and round: each is used equally often up to one, and none twice before all are used. As soon
as a replicate holds all of its group, samples >= R B, the spread *between* baselines is no part of
the error; that is what G is for, since R = 2 are enough then. Their positions are

    stratified    (s(i) + U_i) / m,    s a random permutation: baselines and positions independent
    qmc           (i + U_i) / m,       U_(2j+1) = 1 - U_(2j)

"qmc" is a rank-1 lattice over (baseline, position), each point moved at random within its cell: the
positions of each baseline lie one by one in cells of their own too, and a pair of neighbours is
mirrored, so that what is linear over two cells is integrated exactly. (A lattice moved as a whole,
shifted and folded, has the same order of error, but all of the error from one draw: it is far from
normal, and intervals from few replicates then cover too little. Measured: 91 % in place of 95 %.)

R grows with samples / B up to 4: the fewer replicates, the more points has each, and balance pays
by more than its share. Fewer than eight baselines make no groups: there R grows to 8, and G = 1.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees
from jaxplain.evaluate import evaluate, weighted_sum
from jaxplain.evaluate._moments import mean_and_variance, root
from jaxplain.paths import _integrand
from jaxplain.paths._straight_line import line_between
from jaxplain.rewrite import _affine, _fast

POSITIONS = ("stratified", "random", "qmc")

# Replicates at most with groups, and without: of fewer baselines than are worth grouping.
_REPLICATES, _ALONE, _FEW = 4, 8, 8
# Degrees of freedom to aim for.
_FREEDOM = 7


class SampledAttribution(NamedTuple):
    """An attribution by random samples, and how good it is.

    Attributes:
        values: tree and shapes of x, dtype of x: what each element of x contributed to
            `output - baseline_output`, in the units of f.
        standard_error: tree and shapes of x, in float32 or wider: the standard error of `values`.
            The 95 % interval takes Student's quantile for `degrees_of_freedom`:
            `jaxplain.estimates.student_interval`.
        output: f(x), a scalar.
        baseline_output: the mean of f over the baselines, a scalar: over all of them where there
            are no more than samples, else over the baselines of the samples.
        completeness_gap: sum(values) - (output - baseline_output), a scalar in float32 or wider.
        gap_error: the standard error of `completeness_gap`, a scalar of its dtype. Without noise on
            x the gap is 0 on average: a gap of many errors means that f, or its gradient, is wrong.
        degrees_of_freedom: of the standard errors, int32; 0 where one sample leaves none, and the
            errors are NaN.
        evaluations: the number of gradients of f that went into `values`, int32.
        finite: whether x, the baselines, the outputs and the values are free of NaN and infinity.
    """

    values: Any
    standard_error: Any
    output: jax.Array
    baseline_output: jax.Array
    completeness_gap: jax.Array
    gap_error: jax.Array
    degrees_of_freedom: jax.Array
    evaluations: jax.Array
    finite: jax.Array


class Design(NamedTuple):
    """How the samples are divided: see the top. One group of single points is "random"."""

    groups: int
    replicates: int
    points: int

    @property
    def samples(self) -> int:
        """How many there are; no more than was asked for."""
        return self.groups * self.replicates * self.points

    def degrees_of_freedom(self, baselines: int) -> int:
        """Those of the standard error."""
        alike = self.groups * (self.replicates - 1)
        return (
            alike if self.groups == 1 else max(1, round(alike / (1 + 4 * self.groups / baselines)))
        )


def design(samples: int, baselines: int, positions: str) -> Design:
    """Divides at most `samples`; as few as possible are left over."""
    if positions == "random":
        return Design(1, samples, 1)
    most = _ALONE if baselines < _FEW else _REPLICATES
    replicates = min(most, max(2, samples // baselines), samples)
    if replicates == 1:
        return Design(1, 1, 1)
    # Enough groups for the degrees of freedom; more, up to twice as many, where fewer samples are
    # left over, if three points or more remain to each replicate.
    fewest = -(-_FREEDOM // (replicates - 1))
    fewest = min(fewest, baselines, samples // replicates)
    most = max(fewest, min(2 * fewest, baselines, samples // (3 * replicates)))
    choices = [
        Design(groups, replicates, samples // (groups * replicates))
        for groups in range(fewest, most + 1)
    ]
    return max(choices, key=lambda choice: choice.samples)


def average(
    key: jax.Array,
    sample: Callable[[jax.Array, jax.Array, jax.Array], Any],
    baselines: int,
    plan: Design,
    positions: str,
    chunk_size: int,
) -> tuple[Any, Any]:
    """The mean of `sample` over uniform baselines and positions, and the variance of that mean.

    Args:
        key: of all that is random here.
        sample: from a key, the number of a baseline and a position, a float32 in [0, 1], to a tree
            of wide arrays.
        baselines: their number.
        plan: from `design`.
        positions: one of `POSITIONS`.
        chunk_size: the most samples evaluated at once.
    """
    design_key, sample_key = jax.random.split(key)
    chosen, position = lay_out(design_key, baselines, plan, positions)
    groups, replicates, points = plan

    def point(k: jax.Array) -> Any:
        return sample(jax.random.fold_in(sample_key, k), chosen[k], position[k])

    if positions == "random":
        return evaluate(point, replicates, mean_and_variance(), chunk_size=chunk_size)

    # Chunks that divide what they are chunks of: a remainder would compile the model once more.
    at_once = _divisor(replicates, chunk_size)
    groups_at_once = _divisor(groups, chunk_size // at_once)
    points_at_once = _divisor(points, chunk_size // (at_once * groups_at_once))
    shares = np.asarray(_sizes(baselines, groups) / baselines, np.float32)

    def of_replicate(number: jax.Array) -> Any:
        equal = weighted_sum(np.full(points, 1 / points))
        return evaluate(
            lambda k: point(number * points + k), points, equal, chunk_size=points_at_once
        )

    def of_group(number: jax.Array) -> Any:
        mean, variance = evaluate(
            lambda k: of_replicate(number * replicates + k),
            replicates,
            mean_and_variance(),
            chunk_size=at_once,
        )
        share = jnp.asarray(shares)[number]
        scaled = lambda tree, by: jax.tree.map(lambda leaf: leaf * by.astype(leaf.dtype), tree)
        return scaled(mean, share), scaled(variance, share**2)

    total: tuple[Any, Any] = evaluate(
        of_group, groups, weighted_sum(np.ones(groups)), chunk_size=groups_at_once
    )
    return total


def lay_out(
    key: jax.Array, baselines: int, plan: Design, positions: str
) -> tuple[jax.Array, jax.Array]:
    """Which baseline and which position each sample has, both of shape (samples,): see the top.

    The samples of a replicate, and the replicates of a group, lie one behind the other.
    """
    groups, replicates, points = plan
    if positions == "random":
        chosen_key, position_key = jax.random.split(key)
        chosen = jax.random.randint(chosen_key, (plan.samples,), 0, baselines, jnp.int32)
        return chosen, jax.random.uniform(position_key, (plan.samples,), jnp.float32)

    order_key, key = jax.random.split(key)
    order = _order(jax.random.uniform(order_key, (baselines,), jnp.float32))
    sizes = _sizes(baselines, groups)
    first = np.cumsum(sizes) - sizes
    widest = int(sizes.max())
    draws = jax.random.uniform(key, (groups, replicates, widest + 2 * points), jnp.float32)
    turns, moves, cells = jnp.split(draws, [widest, widest + points], axis=-1)
    # A random order of the group: places beyond its size come last.
    beyond = np.broadcast_to((np.arange(widest) >= sizes[:, None])[:, None], turns.shape)
    turns = _order(jnp.where(beyond, jnp.float32(2), turns))
    k = np.broadcast_to(np.arange(points) % sizes[:, None, None], moves.shape).astype(np.int32)
    turns = jnp.take_along_axis(turns, jnp.asarray(k), axis=-1)
    chosen = order[turns + jnp.asarray(first, jnp.int32)[:, None, None]]

    in_order = jnp.broadcast_to(jnp.arange(points, dtype=jnp.int32), moves.shape)
    if positions == "stratified":
        cells = _order(cells)
    else:
        mirrored = jnp.concatenate([moves[..., :1], 1 - moves[..., :-1]], axis=-1)
        moves = jnp.where(in_order % 2 == 1, mirrored, moves)
        cells = in_order
    position = (cells.astype(jnp.float32) + moves) / points
    return chosen.reshape(-1), position.reshape(-1)


def explain_by_samples(
    f: Callable[..., jax.Array],
    key: jax.Array,
    x: Any,
    baselines: Any,
    args: tuple[Any, ...],
    *,
    samples: int,
    positions: str,
    chunk_size: int,
    noisy: Callable[[jax.Array], Any] | None = None,
    weights: jax.Array | None = None,
    hoist: bool = False,
) -> SampledAttribution:
    """The attribution by samples of the line from a baseline to x.

        values = sum_b p_b * E_t[ (x - b) * grad f(b + t (x - b)) ]

    Args:
        f: checked to be scalar.
        key: of all that is random.
        x: what is explained, placed on the mesh.
        baselines: a tree like x with a leading axis.
        args: what f takes after x.
        samples: how many at most.
        positions: one of `POSITIONS`.
        chunk_size: the most samples evaluated at once.
        noisy: from a key to what takes the place of x in one sample.
        weights: shape (baselines,), p_b; equal where not given.
        hoist: whether to look for an affine prefix of f, to be applied to each baseline once in
            place of once for each sample. Not with noise, which differs from sample to sample. Its
            transpose stays in the loop: the standard error is one of values like x.
    """
    count = jax.tree.leaves(baselines)[0].shape[0]
    plan = design(samples, count, positions)
    # Many baselines: f at those of the samples, in the same pass, so that what the two have in
    # common cancels in the gap. Few: f at each, apart.
    in_pass = count > plan.samples
    function: Callable[[Any], jax.Array] = lambda point: f(point, *args)
    split = _affine.split(function, x) if hoist and noisy is None and not in_pass else None
    if split is not None and not _pays(split, plan.samples, count):
        split = None
    rest, end, starts = function, x, baselines
    if split is not None:
        rest, end, starts = split.rest, split.prefix(x), jax.vmap(split.prefix)(baselines)
        _, transpose = jax.vjp(split.prefix, x)
    output, _ = _fast.staged(rest, end)
    take = lambda k: row(starts, k)

    def sample(key: jax.Array, chosen: jax.Array, t: jax.Array) -> tuple[Any, Any, Any]:
        baseline = take(chosen)
        to = end if noisy is None else noisy(key)
        line, velocity = line_between(baseline, to)
        gradient = jax.grad(rest)(line(t))
        if split is not None:
            (gradient,) = transpose(gradient)
            velocity = trees.subtract(trees.widen(x), trees.widen(row(baselines, chosen)))
        values = trees.multiply(velocity, trees.widen(gradient))
        # Numbers as arrays of one: on a mesh of Explicit axes a loop whose state is a scalar cannot
        # be batched (jax 0.10.2).
        start = (trees.widen(output(baseline))[None],) if in_pass else ()
        if weights is not None:  # drawn as if all were equal
            weigh = lambda v: v * (count * row(weights, chosen)).astype(v.dtype)
            values, start = jax.tree.map(weigh, (values, start))
        total = trees.total(values)[None]
        for output_there in start:
            total = total + output_there.astype(total.dtype)
        return values, total, start

    mean, variance = average(key, sample, count, plan, positions, chunk_size)
    values, total, start = mean
    at_x = output(end)
    if in_pass:
        (baseline_output,) = start
    else:
        equal = np.full(count, 1 / count)
        baseline_output = evaluate(
            lambda k: output(take(k))[None],
            count,
            weighted_sum(equal if weights is None else weights),
            chunk_size=chunk_size,
        )
        total = total + baseline_output.astype(total.dtype)
    gap = total - at_x.astype(total.dtype)
    values = trees.cast_like(values, x)
    baseline_output = baseline_output[0].astype(at_x.dtype)
    return SampledAttribution(
        values,
        root(variance[0]),
        at_x,
        baseline_output,
        gap[0],
        root(variance[1][0]),
        jnp.int32(plan.degrees_of_freedom(count)),
        jnp.int32(plan.samples),
        trees.finite(x, baselines, at_x, baseline_output, values),
    )


def _pays(split: _affine.Split, samples: int, baselines: int) -> bool:
    """Whether the counted FLOPs fall: the prefix at each baseline and at x, not at each sample."""
    saved = (samples - baselines - 1) * split.flops
    longer = split.cut_elements - split.elements
    return saved > samples * _integrand.LINE_FLOPS_PER_ELEMENT * longer


def from_baselines(
    f: Callable[..., jax.Array], kernel: Callable[..., SampledAttribution]
) -> Callable[..., SampledAttribution]:
    """`explain(key, x, baselines, *args)`: checked, placed on the mesh, and jitted.

    As `_result.from_baseline`, for baselines with a leading axis.
    """

    @jax.jit
    def placed(key: Any, x: Any, baselines: Any, *args: Any) -> SampledAttribution:
        first = lambda x, baselines: trees.subtract(x, jax.tree.map(lambda b: b[0], baselines))
        x = trees.place_like(x, jax.eval_shape(first, x, baselines))
        x = trees.vary_with_output(f, x, *args)
        baselines = jax.vmap(lambda baseline: trees.place_like(baseline, x))(baselines)
        return kernel(key, x, baselines, *args)

    def explain(key: Any, x: Any, baselines: Any, *args: Any) -> SampledAttribution:
        checks.key(key)
        x = checks.explained(x)
        baselines = checks.several(baselines, x, "baselines")
        checks.arrays(args, "each argument after the baselines")
        return placed(key, x, baselines, *args)

    return explain


def row(tree: Any, k: jax.Array) -> Any:
    """Row k of each leaf.

    On a mesh of Explicit axes a gather whose indices alone are sharded (each example of a batch has
    its own) is refused, and cannot be told its sharding through `vmap` (jax 0.10 to 0.12): there
    the row is selected, at the cost of reading all rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not any(kind == jax.sharding.AxisType.Explicit for kind in mesh.axis_types):
        return jax.tree.map(
            lambda leaf: jax.lax.dynamic_index_in_dim(leaf, k, keepdims=False), tree
        )

    def select(leaf: jax.Array) -> jax.Array:
        chosen = jnp.arange(leaf.shape[0], dtype=jnp.int32) == k
        chosen = chosen.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.sum(jnp.where(chosen, leaf, jnp.zeros_like(leaf)), axis=0, dtype=leaf.dtype)

    return jax.tree.map(select, tree)


def checked_positions(positions: Any) -> str:
    """One of `POSITIONS`."""
    if positions not in POSITIONS:
        raise ValueError(
            f"positions must be one of {', '.join(map(repr, POSITIONS))}, but is {positions!r}."
        )
    return str(positions)


def _sizes(baselines: int, groups: int) -> np.ndarray:
    """How many baselines each group has."""
    return np.array([len(part) for part in np.array_split(np.arange(baselines), groups)])


def _order(draws: jax.Array) -> jax.Array:
    """A random order along the last axis."""
    return jnp.argsort(draws, axis=-1).astype(jnp.int32)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`; at least 1."""
    return max(d for d in range(1, number + 1) if number % d == 0 and d <= max(most, 1))
