"""Is an explanation as good for one group as for another? Gaps between groups, and how sure.

    gap_g    = mean_g - mean                        with n_g of N examples, w_g = n_g / N
    variance = (1 - w_g)^2 v_g + sum_{h != g} w_h^2 v_h,      v_h = s_h^2 / n_h
    largest  = max_g |gap_g|,      pairwise = mean over pairs g < h of |mean_g - mean_h|

The last two are never negative, so noise alone makes them positive: the largest of several noisy
gaps is expected above zero where no group differs, the more the smaller the groups. So beside them
stand what they come to by chance (the scores dealt to the groups at random, many times over), the
share of such deals that reach them, and intervals that hold for all gaps at once.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, ndtri

from jaxplain import checks, estimates, trees
from jaxplain.evaluate import evaluate, stack


class Disparity(NamedTuple):
    """The mean scores of groups and the gaps between them, G groups, in the units of the scores.

    Attributes:
        mean: shape (G,), the mean score of each group; NaN for a group without examples.
        standard_error: shape (G,), of the mean; NaN with fewer than two examples.
        examples: shape (G,), the examples of each group.
        overall: the mean over all examples that are in a group.
        gap: shape (G,), mean - overall.
        gap_interval: two of shape (G,), which hold for all groups at once.
        largest_gap: max |gap|, over the groups that have examples. Above 0 by chance alone.
        largest_gap_interval: an interval for the true largest gap.
        largest_gap_by_chance: what `largest_gap` is on average where the groups are random.
        largest_gap_p_value: the probability of a `largest_gap` like this by chance.
        pairwise_gap: the mean |difference| of two groups' means, over all pairs; the next three as
            for the largest gap. NaN where there are no two groups.
        pairwise_gap_interval: see above.
        pairwise_gap_by_chance: see above.
        pairwise_gap_p_value: see above.
    """

    mean: jax.Array
    standard_error: jax.Array
    examples: jax.Array
    overall: jax.Array
    gap: jax.Array
    gap_interval: estimates.Interval
    largest_gap: jax.Array
    largest_gap_interval: estimates.Interval
    largest_gap_by_chance: jax.Array
    largest_gap_p_value: jax.Array
    pairwise_gap: jax.Array
    pairwise_gap_interval: estimates.Interval
    pairwise_gap_by_chance: jax.Array
    pairwise_gap_p_value: jax.Array


def disparity(
    key: Any,
    scores: Any,
    groups: Any,
    *,
    number_of_groups: int,
    level: float | jax.Array = 0.95,
    permutations: int = 1000,
    chunk_size: int = 16,
) -> Disparity:
    """How much a score of explanations differs between groups of examples, and how surely.

        gap_g = mean_g - mean,    largest = max_g |gap_g|,    pairwise = mean |mean_g - mean_h|

    The score is any number for each example: the area under a deletion curve, an infidelity, a
    completeness gap. `largest_gap` and `pairwise_gap` are biased upward, since noise makes gaps
    too: read them beside what they are by chance, and their p-values.

    The intervals are Student's with Welch's degrees of freedom, at the level that Bonferroni's
    inequality asks for, so that with probability `level` all groups (or pairs) are inside theirs at
    once; those of the largest and of the mean gap follow from them and are wide rather than short.
    A group of one example says nothing of its own spread: its interval presumes that of the others,
    pooled. The p-values are exact where all groups' scores have one distribution, whatever it is.

    Args:
        key: a typed key for the permutations.
        scores: shape (n,), float, one for each example. A NaN makes its group and all gaps NaN.
        groups: shape (n,), integer, the group of each example, 0 to `number_of_groups` - 1; any
            other number, such as -1, is an example of no group and left out.
        number_of_groups: G, static.
        level: the probability that the intervals hold. May be a traced array.
        permutations: how many random deals; the smallest p-value is 1 / (permutations + 1). Static.
        chunk_size: deals made at once; memory and speed, not the result.

    Returns:
        A `Disparity`. What cannot be said (a group without examples, a spread from one) is NaN.

    Raises:
        TypeError: the key is not typed; scores are not float, groups not integer; a static number
            is not an integer.
        ValueError: scores and groups are not two vectors of one length; a number is out of its
            range.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> scores, groups = jnp.array([1.0, 2.0, 3.0, 7.0, 8.0, 9.0]), jnp.array([0] * 3 + [1] * 3)
        >>> result = disparity(jax.random.key(0), scores, groups, number_of_groups=2)
        >>> result.gap.tolist(), float(result.largest_gap), float(result.pairwise_gap)
        ([-3.0, 3.0], 3.0, 6.0)
        >>> bool(result.largest_gap_p_value < 0.2), bool(result.largest_gap_by_chance > 1)
        (True, True)

    References:
        Balagopalan, Zhang, Hamidieh, Hartvigsen, Rudzicz and Ghassemi, "The Road to Explainability
        is Paved with Bias", FAccT 2022 (the largest fidelity gap from the average, the mean gap
        amongst subgroups); Dai, Upadhyay, Aivodji, Bach and Lakkaraju, "Fairness via Explanation
        Quality", AIES 2022. Deviations: 1. gaps count in both directions; where a high score is
        good, `-min(gap)` is the one-sided form. 2. Intervals, chance and p-values are ours: Welch,
        Biometrika 1947; Phipson and Smyth 2010 for the p-value (b + 1) / (m + 1).
    """
    checks.key(key)
    number_of_groups = checks.integer(number_of_groups, "number_of_groups")
    permutations = checks.integer(permutations, "permutations")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    level = checks.number(level, "level", at_least=0, at_most=1)
    checks.arrays(scores, "scores")
    checks.arrays(groups, "groups")
    scores, groups = jnp.asarray(scores), jnp.asarray(groups)
    if not jnp.issubdtype(scores.dtype, jnp.floating):
        raise TypeError(f"scores must be float, but have dtype {scores.dtype}.")
    if not jnp.issubdtype(groups.dtype, jnp.integer):
        raise TypeError(f"groups must be integers, but have dtype {groups.dtype}.")
    if scores.ndim != 1 or scores.shape != groups.shape:
        raise ValueError(
            "scores and groups must be two vectors of one length, but have shapes "
            f"{scores.shape} and {groups.shape}."
        )
    return _disparity(key, scores, groups, level, number_of_groups, permutations, chunk_size)


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _disparity(
    key: jax.Array,
    scores: jax.Array,
    groups: jax.Array,
    level: Any,
    number: int,
    permutations: int,
    chunk_size: int,
) -> Disparity:
    scores = trees.widen(scores)
    inside = (groups >= 0) & (groups < number)
    members = jnp.arange(number, dtype=groups.dtype)[:, None] == groups[None, :]  # (G, n)
    empty = estimates.init_moments(jax.ShapeDtypeStruct((), scores.dtype))
    moments = jax.vmap(lambda mask: estimates.update(empty, scores, mask))(members)
    everyone = estimates.update(empty, scores, inside)
    mean, overall, count = estimates.mean(moments), estimates.mean(everyone), moments.count
    error = estimates.standard_error(moments)

    # The variance of each mean: its own, or, from one example, the spread within all groups.
    free = jnp.maximum(count - 1, 0)
    pooled = jnp.sum(moments.sum_of_squares) / jnp.sum(free)
    alone = count == 1
    of_mean = jnp.where(alone, pooled, jnp.where(count > 1, jnp.square(error), 0))
    freedom = jnp.where(alone, jnp.sum(free), free)

    seen = count > 0
    share = count / jnp.maximum(jnp.sum(count), 1)
    weights = (jnp.eye(number, dtype=share.dtype) - share[None, :]) ** 2  # of gap g: each group's
    half = _half_width(weights * of_mean[None, :], freedom[None, :], level, jnp.sum(seen))
    gap = mean - overall
    gap_interval = estimates.Interval(gap - half, gap + half)

    left, right = jnp.triu_indices(number, 1)
    both = seen[left] & seen[right]
    difference = jnp.abs(mean[left] - mean[right])
    parts = jnp.stack([of_mean[left], of_mean[right]], axis=1)
    halves = _half_width(
        parts, jnp.stack([freedom[left], freedom[right]], axis=1), level, jnp.sum(both)
    )

    def over_groups(sizes: jax.Array) -> jax.Array:
        return jnp.where(jnp.any(seen), jnp.max(jnp.where(seen, sizes, 0), initial=0), jnp.nan)

    def over_pairs(sizes: jax.Array) -> jax.Array:
        pairs = jnp.sum(both)
        total = jnp.sum(jnp.where(both, sizes, 0))
        return jnp.where(pairs > 0, total / jnp.maximum(pairs, 1).astype(total.dtype), jnp.nan)

    largest, pairwise = over_groups(jnp.abs(gap)), over_pairs(difference)

    # Those in no group go last, and stay there in every deal.
    order = jnp.argsort(~inside)
    dealt = jnp.where(inside[order][None, :], members[:, order], False).astype(scores.dtype)
    centred = jnp.where(inside, scores - overall, 0)

    def deal(index: jax.Array) -> tuple[jax.Array, jax.Array]:
        chance = jax.random.uniform(jax.random.fold_in(key, index), scores.shape)
        shuffled = centred[jnp.argsort(jnp.where(inside, chance, 2))]
        gaps = jnp.sum(dealt * shuffled[None, :], axis=1) / jnp.maximum(count, 1)
        return over_groups(jnp.abs(gaps)), over_pairs(jnp.abs(gaps[left] - gaps[right]))

    by_chance = evaluate(deal, permutations, stack(permutations), chunk_size=chunk_size)

    def p_value(found: jax.Array, chance: jax.Array) -> jax.Array:
        # A deal that is the data again differs from it by rounding.
        reached = jnp.sum(chance >= found * (1 - 64 * jnp.finfo(found.dtype).eps))
        share = (1 + reached).astype(found.dtype) / (1 + permutations)
        return jnp.where(jnp.isnan(found), jnp.nan, share)

    size = jnp.abs(gap)
    return Disparity(
        mean,
        error,
        count.astype(jnp.int32),
        overall,
        gap,
        gap_interval,
        largest,
        estimates.Interval(over_groups(jnp.maximum(size - half, 0)), over_groups(size + half)),
        jnp.mean(by_chance[0]),
        p_value(largest, by_chance[0]),
        pairwise,
        estimates.Interval(
            over_pairs(jnp.maximum(difference - halves, 0)), over_pairs(difference + halves)
        ),
        jnp.mean(by_chance[1]),
        p_value(pairwise, by_chance[1]),
    )


def _half_width(parts: jax.Array, freedom: jax.Array, level: Any, comparisons: Any) -> jax.Array:
    """Of the interval around a sum of means whose variances are `parts`, along the last axis."""
    variance = jnp.sum(parts, axis=-1)
    spread = jnp.sum(jnp.square(parts) / jnp.maximum(freedom, 1), axis=-1)
    degrees = jnp.square(variance) / jnp.where(spread == 0, 1, spread)
    tail = (1 - jnp.asarray(level, parts.dtype)) / 2
    tail = tail / jnp.maximum(comparisons, 1).astype(parts.dtype)
    quantile = student_quantile(tail, jnp.maximum(degrees, 1))
    return jnp.where(variance == 0, 0, quantile * jnp.sqrt(variance))


def student_quantile(tail: jax.Array, degrees: jax.Array) -> jax.Array:
    """The t with P(T > t) = tail, for degrees of freedom nu >= 1 that may be traced.

    Up to 30 of them by bisection of P(|T| < t) = I_y(1/2, nu/2) with y = t^2 / (nu + t^2), from
    there by the expansion in 1 / nu around the normal quantile (Abramowitz and Stegun, 26.7.5):
    `betainc` loses digits in float32 where nu is large.
    """
    tail, degrees = jnp.broadcast_arrays(tail, degrees)
    few = jnp.minimum(degrees, 30)

    def halve(_: Any, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends  # of log y
        middle = (low + high) / 2
        below = betainc(jnp.full_like(few, 0.5), few / 2, jnp.exp(middle)) < 1 - 2 * tail
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.full_like(few, -40), jnp.zeros_like(few)))
    log_y = (low + high) / 2
    bisected = jnp.sqrt(few * jnp.exp(log_y) / -jnp.expm1(log_y))
    z, many = -ndtri(tail), jnp.maximum(degrees, 30)
    expanded = (
        z
        + (z**3 + z) / (4 * many)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * many**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * many**3)
    )
    return jnp.where(jnp.isnan(degrees), jnp.nan, jnp.where(degrees < 30, bisected, expanded))
