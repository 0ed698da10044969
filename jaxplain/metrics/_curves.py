"""Deletion and insertion: what the model says as features go, or come, in the order of importance.

    deletion_k  = f(x with the features of rank < m_k replaced by the baseline)
    insertion_k = f(baseline with the features of rank < m_k replaced by x)
    area        = integral of the curve over the fraction m_k / n, by the trapezoid rule

Rank 0 is the largest attribution. An attribution that is right makes the deletion curve fall early
(a small area) and the insertion curve rise early (a large one). A number alone says little: the
same curve under random orderings comes beside it, from the same kernel.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, estimates, trees
from jaxplain.evaluate import evaluate, stack


class Curve(NamedTuple):
    """A deletion or insertion curve of one example, beside random orderings of its features.

    The outputs of f may have any shape, `()` for a scalar.

    Attributes:
        scores: shape (steps + 1, *output), the outputs along the curve.
        area: shape of the output, the area under `scores` over fractions from 0 to 1, in units of
            f.
        random_scores: shape (steps + 1, *output), the mean over random orderings.
        random_area: shape of the output, the area under `random_scores`.
        random_error: the standard error of `random_area` over the random orderings of this one
            example; NaN with fewer than two.
        fractions: shape (steps + 1,), the fraction of features replaced, from 0 to 1.
    """

    scores: jax.Array
    area: jax.Array
    random_scores: jax.Array
    random_area: jax.Array
    random_error: jax.Array
    fractions: jax.Array


class CurveSummary(NamedTuple):
    """Curves of many examples: means and standard errors over the examples.

    Attributes:
        area: the mean area; area_error: its standard error.
        random_area: the mean area under random orderings; random_area_error: its standard error.
        difference: the mean of `area - random_area`, taken example by example, so that what
            examples share cancels; difference_error: its standard error.
        scores: shape (steps + 1, *output), the mean curve; scores_error: its standard error.
        random_scores: the mean curve under random orderings.
        examples: their number.
    """

    area: jax.Array
    area_error: jax.Array
    random_area: jax.Array
    random_area_error: jax.Array
    difference: jax.Array
    difference_error: jax.Array
    scores: jax.Array
    scores_error: jax.Array
    random_scores: jax.Array
    examples: jax.Array


def deletion(
    f: Callable[..., Any],
    *,
    step_size: int | float = 0.05,
    channel_axis: int | None = None,
    random_orderings: int = 1,
    chunk_size: int = 16,
) -> Callable[..., Curve]:
    """The deletion curve of an attribution: features go, the most important first.

        scores_k = f(x with the features of rank < m_k replaced by the baseline)

    The smaller its area the better, and only against `random_area`. Ties are broken by position.

    Args:
        f: `f(x, *args) -> array`; a probability is usual (`jaxplain.targets.probability`). A vector
            of all classes costs no more than one.
        step_size: how many features are replaced at each step: a number of features (int; the last
            step takes what is left) or a fraction of all of them (float; rounded so that the steps
            are even). Static.
        channel_axis: the axis of x along which the parts of one feature lie, e.g. -1 for the
            colours of a pixel in (height, width, channels): they are ranked by the sum of their
            attributions and replaced together. None: each element is a feature. Static.
        random_orderings: how many random orderings to compare with; one is enough where many
            examples are averaged. Static.
        chunk_size: points evaluated at once; memory and speed, and the result only by rounding.

    Returns:
        `measure(key, x, baseline, attribution, *args) -> Curve`, a pure function, jitted inside.
        `key` is a typed key for the random orderings. Give each example of a batch its own, by
        `jax.random.split`: with one key for all, all share the same orderings, and their standard
        error over examples is too small. `x`, of any dtype (token ids too), `baseline` like it and
        `attribution`, float, are trees of the same shapes; the features of all leaves are ranked
        together. NaN ranks last.

    Raises:
        TypeError: f is not a function or does not return one float array; the key is not typed; the
            attribution is not float.
        ValueError: baseline or attribution do not match x; x has no elements, or no such channel
            axis; step_size is not positive, or a fraction above 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: jnp.sum(x * jnp.array([4.0, 2.0, 1.0, 0.0]))
        >>> x, attribution = jnp.ones(4), jnp.array([4.0, 2.0, 1.0, 0.0])
        >>> curve = deletion(f, step_size=1)(jax.random.key(0), x, jnp.zeros(4), attribution)
        >>> curve.scores.tolist(), float(curve.area)
        ([7.0, 3.0, 1.0, 0.0, 0.0], 1.875)

    References:
        Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
        Models", BMVC 2018, section 4.1. Deviations: 1. the random orderings and the errors are
        ours. 2. The number of features replaced is rounded where the steps do not divide it.
    """
    return _curve(f, step_size, channel_axis, random_orderings, chunk_size, inserts=False)


def insertion(
    f: Callable[..., Any],
    *,
    step_size: int | float = 0.05,
    channel_axis: int | None = None,
    random_orderings: int = 1,
    chunk_size: int = 16,
) -> Callable[..., Curve]:
    """The insertion curve of an attribution: features come, the most important first.

        scores_k = f(baseline with the features of rank < m_k replaced by x)

    The larger its area the better, and only against `random_area`. Ties are broken by position.

    Args:
        f: `f(x, *args) -> array`; a probability is usual (`jaxplain.targets.probability`). A vector
            of all classes costs no more than one.
        step_size: how many features are replaced at each step: a number of features (int; the last
            step takes what is left) or a fraction of all of them (float; rounded so that the steps
            are even). Static.
        channel_axis: the axis of x along which the parts of one feature lie, e.g. -1 for the
            colours of a pixel in (height, width, channels): they are ranked by the sum of their
            attributions and replaced together. None: each element is a feature. Static.
        random_orderings: how many random orderings to compare with; one is enough where many
            examples are averaged. Static.
        chunk_size: points evaluated at once; memory and speed, and the result only by rounding.

    Returns:
        `measure(key, x, baseline, attribution, *args) -> Curve`, a pure function, jitted inside, as
        that of `deletion`. The paper's baseline for insertion is a blurred x
        (`jaxplain.baselines.blurred`).

    Raises:
        TypeError: f is not a function or does not return one float array; the key is not typed; the
            attribution is not float.
        ValueError: baseline or attribution do not match x; x has no elements, or no such channel
            axis; step_size is not positive, or a fraction above 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: jnp.sum(x * jnp.array([4.0, 2.0, 1.0, 0.0]))
        >>> x, attribution = jnp.ones(4), jnp.array([4.0, 2.0, 1.0, 0.0])
        >>> curve = insertion(f, step_size=1)(jax.random.key(0), x, jnp.zeros(4), attribution)
        >>> curve.scores.tolist(), float(curve.area)
        ([0.0, 4.0, 6.0, 7.0, 7.0], 5.125)

    References:
        Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
        Models", BMVC 2018, section 4.1. Deviations: as for `deletion`.
    """
    return _curve(f, step_size, channel_axis, random_orderings, chunk_size, inserts=True)


def over_examples(curves: Curve) -> CurveSummary:
    """The means of a batch of curves, and their standard errors over the examples.

        mean = sum_i a_i / n,    error = sqrt(sum_i (a_i - mean)^2 / (n (n - 1)))

    Args:
        curves: what `vmap` of a measure returns: each field with a leading axis of examples.

    Returns:
        A `CurveSummary`. With one example the errors are NaN, with none the means too.

    Raises:
        TypeError: `curves` is not a `Curve`.
        ValueError: the curves have no axis of examples.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: jnp.sum(x**2)
        >>> x = jnp.arange(12.0).reshape(3, 4)
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> measure = jax.vmap(deletion(f, step_size=1), in_axes=(0, 0, None, 0))
        >>> summary = over_examples(measure(keys, x, jnp.zeros(4), x**2))
        >>> int(summary.examples), bool(summary.difference < 0)
        (3, True)

    References:
        `jaxplain.estimates`; the paired difference: Student, "The probable error of a mean", 1908.
    """
    if not isinstance(curves, Curve):
        raise TypeError(
            f"curves must be a Curve, as `jax.vmap(deletion(f))` returns, but is a "
            f"{type(curves).__name__}."
        )
    if jnp.ndim(curves.fractions) != 2:
        raise ValueError(
            "curves must have one leading axis of examples, but fractions have shape "
            f"{jnp.shape(curves.fractions)}: use `jax.vmap(measure, in_axes=(0, 0, None, 0))`."
        )
    values = {
        "area": curves.area,
        "random_area": curves.random_area,
        "difference": curves.area - curves.random_area,
        "scores": curves.scores,
        "random_scores": curves.random_scores,
    }
    one = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), values)
    moments = estimates.update(estimates.init_moments(one), values)
    mean, error = estimates.mean(moments), estimates.standard_error(moments)
    return CurveSummary(
        mean["area"],
        error["area"],
        mean["random_area"],
        error["random_area"],
        mean["difference"],
        error["difference"],
        mean["scores"],
        error["scores"],
        mean["random_scores"],
        jnp.int32(curves.fractions.shape[0]),
    )


def _curve(
    f: Callable[..., Any],
    step_size: int | float,
    channel_axis: int | None,
    random_orderings: int,
    chunk_size: int,
    *,
    inserts: bool,
) -> Callable[..., Curve]:
    checks.function(f, "f")
    step_size = _step_size(step_size)
    random_orderings = checks.integer(random_orderings, "random_orderings")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    if channel_axis is not None:
        channel_axis = checks.integer(channel_axis, "channel_axis", minimum=-32)

    @jax.jit
    def kernel(key: Any, x: Any, baseline: Any, attribution: Any, *args: Any) -> Curve:
        importance = _per_feature(attribution, channel_axis)
        features = sum(leaf.size for leaf in jax.tree.leaves(importance))
        replaced = _replaced(features, step_size)
        orderings = _orderings(key, importance, random_orderings)

        # The two ends of the curve are the same in every ordering, so they are evaluated once. All
        # the other points are pairs (ordering, number of features replaced), known on the host.
        inner = [(o, m) for o in range(1 + random_orderings) for m in replaced[1:-1]]
        points = np.array([(0, replaced[0]), (0, replaced[-1]), *inner], np.int32)
        steps = len(replaced) - 1
        curves = np.stack(
            [[0, *range(2 + o * (steps - 1), 2 + (o + 1) * (steps - 1)), 1]
             for o in range(1 + random_orderings)]
        )  # fmt: skip

        def point(index: jax.Array) -> jax.Array:
            ordering, count = jnp.asarray(points)[index]

            def replace(rank: jax.Array, here: jax.Array, other: jax.Array) -> jax.Array:
                chosen = rank[ordering] < count
                if channel_axis is not None:
                    chosen = jnp.broadcast_to(jnp.expand_dims(chosen, channel_axis), here.shape)
                return jnp.where(chosen, other, here)

            before, after = (baseline, x) if inserts else (x, baseline)
            return _float(f(jax.tree.map(replace, orderings, before, after), *args))

        outputs = evaluate(point, len(points), stack(len(points)), chunk_size=chunk_size)
        scores = outputs[jnp.asarray(curves)]  # (orderings, steps + 1, *output)
        fractions = jnp.asarray(replaced / features).astype(trees.wide_dtype(scores.dtype))
        areas = jax.vmap(lambda s: _area(fractions, s))(scores)
        random = estimates.update(
            estimates.init_moments((scores[0], areas[0])), (scores[1:], areas[1:])
        )
        random_scores, random_area = estimates.mean(random)
        return Curve(
            scores[0],
            areas[0],
            random_scores.astype(scores.dtype),
            random_area,
            estimates.standard_error(random)[1],
            fractions,
        )

    def measure(key: Any, x: Any, baseline: Any, attribution: Any, *args: Any) -> Curve:
        checks.key(key)
        x = checks.explained(x, is_differentiated=False)
        baseline = checks.like(baseline, x, "baseline")
        attribution = checks.like(attribution, x, "attribution", any_float=True)
        _check_features(x, channel_axis)
        checks.arrays(args, "each argument after the attribution")
        return kernel(key, x, baseline, attribution, *args)

    return measure


def _step_size(step_size: Any) -> int | float:
    if not isinstance(step_size, numbers.Real) or isinstance(step_size, numbers.Integral):
        return checks.integer(step_size, "step_size")
    fraction = float(step_size)
    if not 0 < fraction <= 1:
        raise ValueError(
            "step_size as a float is a fraction of the features, above 0 and at most 1, but is "
            f"{fraction}. For a number of features give an int."
        )
    return fraction


def _check_features(x: Any, channel_axis: int | None) -> None:
    shapes = [leaf.shape for leaf in jax.tree.leaves(x)]
    if sum(map(math.prod, shapes)) == 0:
        raise ValueError(f"x must have at least one element, but has shape {shapes[0]}.")
    for shape in shapes:
        if channel_axis is not None and not -len(shape) <= channel_axis < len(shape):
            raise ValueError(
                f"channel_axis must be an axis of x, but is {channel_axis} where x has shape "
                f"{shape}. A kernel sees one example; the batch is `vmap`'s."
            )


def _replaced(features: int, step_size: int | float) -> np.ndarray:
    """The numbers of features replaced along the curve: 0, ..., all, in even steps."""
    size = step_size * features if isinstance(step_size, float) else step_size
    steps = min(features, max(1, math.ceil(features / size - 1e-9)))
    if isinstance(step_size, float):
        return np.rint(np.arange(steps + 1) * features / steps).astype(np.int32)
    return np.minimum(np.arange(steps + 1) * step_size, features).astype(np.int32)


def _per_feature(attribution: Any, channel_axis: int | None) -> Any:
    wide = trees.widen(attribution)
    if channel_axis is None:
        return wide
    return jax.tree.map(lambda leaf: jnp.sum(leaf, axis=channel_axis), wide)


def _orderings(key: jax.Array, importance: Any, random_orderings: int) -> Any:
    """The rank of each feature, by importance and at random: leaves (1 + random, ...)."""
    leaves, structure = jax.tree.flatten(importance)
    dtype = trees.widest(*(leaf.dtype for leaf in leaves))
    flat = jnp.concatenate([leaf.astype(dtype).reshape(-1) for leaf in leaves])
    keys = jax.random.split(key, random_orderings)
    random = jax.vmap(lambda k: jax.random.uniform(k, flat.shape, flat.dtype))(keys)
    order = jnp.argsort(-jnp.concatenate([flat[None], random]), axis=1)
    rank = jnp.argsort(order, axis=1).astype(jnp.int32)
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    parts = jnp.split(rank, ends, axis=1)
    shaped = [
        part.reshape(part.shape[:1] + leaf.shape) for part, leaf in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, shaped)


def _float(output: Any) -> jax.Array:
    if not jax.tree_util.all_leaves([output]) or output is None:
        raise TypeError(
            f"f must return one array, but returned a {type(output).__name__}. Return only what is "
            "to be measured."
        )
    checks.arrays(output, "what f returns")
    output = jnp.asarray(output)
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise TypeError(
            f"f must return a float array, but returned dtype {output.dtype}. Return the score or "
            "the probability of a class, not its number."
        )
    return output


def _area(fractions: jax.Array, scores: jax.Array) -> jax.Array:
    """The trapezoid rule along the first axis, in float32 or wider."""
    scores = scores.astype(fractions.dtype)
    widths = jnp.diff(fractions).reshape((-1,) + (1,) * (scores.ndim - 1))
    return jnp.sum(widths * (scores[1:] + scores[:-1]) / 2, axis=0)
