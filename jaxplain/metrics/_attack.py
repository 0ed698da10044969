"""An attack on an attribution: an input close to x, said the same of, explained otherwise.

    z_0 = x, or a random point of the ball
    z_{k+1} = P(z_k + step_size * direction(grad_z D(z_k))),     P the projection onto the ball

    D(z) = -sum of R(z)_i over the top k elements i at x,       R = |values| / sum |values|

direction is sign(.) in the linf ball and the gradient at length 1 in the l2 ball. What comes out is
the z_k with the largest D among those whose prediction is that of x.
"""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import walk
from jaxplain.metrics import _ball, _similarity
from jaxplain.rewrite import _fast


class AttributionAttack(NamedTuple):
    """What an attack made of an attribution.

    Attributes:
        values: the attribution at the perturbed input, tree of x.
        perturbed: the perturbed input, tree, shapes and dtype of x.
        euclidean: |values - attribution at x|, in the units of the values.
        cosine: their cosine similarity, from -1 to 1; NaN where one is zero.
        top_intersection: the share of the top elements at x that are among the top ones still.
        rank_correlation: Spearman's correlation of the importances; NaN where all are equal.
        distance: how far `perturbed` is from x, in the norm of the ball and the units of x.
        moved: whether a point was found that does better than x and keeps the prediction; if none
            was, `perturbed` is x.
        evaluations: the number of attributions computed, with their gradients, int32.
        finite: whether x, the two attributions and the perturbed input are free of NaN and
            infinity.
    """

    values: Any
    perturbed: Any
    euclidean: jax.Array
    cosine: jax.Array
    top_intersection: jax.Array
    rank_correlation: jax.Array
    distance: jax.Array
    moved: jax.Array
    evaluations: jax.Array
    finite: jax.Array


def attribution_attack(
    explain: Callable[..., Any],
    *,
    epsilon: float | jax.Array,
    norm: str = "linf",
    steps: int = 20,
    step_size: float | jax.Array | None = None,
    top: int | float = 0.1,
    absolute: bool = True,
    objective: Callable[[Any, Any], jax.Array] | None = None,
    prediction: Callable[..., Any] | None = None,
    random_start: bool = True,
) -> Callable[..., AttributionAttack]:
    """Looks for the input in a ball around x whose attribution is least like that of x.

        z_{k+1} = P(z_k + step_size * direction(grad D(z_k)))

    It is how `jaxplain.metrics.attribution_deviation_bound` is tested: what an attack finds is a
    deviation that there is, so a bound below it is none. That it finds little proves nothing.

    Args:
        explain: `explain(x, *args) -> result`, any kernel whose result has a field `values` like x,
            and which reverse mode passes. Its derivative by x must not be zero everywhere: the
            gradient of a network of ReLUs is constant in pieces, so attack a copy with softplus.
        epsilon: the radius of the ball, in the units of x. May be a traced array.
        norm: "l2" or "linf", of all elements of x together. Static.
        steps: how many steps, static. Each costs an attribution and its gradient.
        step_size: the length of a step, in the norm of the ball; 2.5 * epsilon / steps unless
            given, so that the walk can cross the ball. May be a traced array.
        top: how many elements are the top: a number of them (int) or a fraction (float). Static.
        absolute: whether an element's importance is the magnitude of its value, or the value.
            Static.
        objective: `objective(values, values_at_x) -> scalar` to be made large, in place of D: trees
            in float32 or wider. `lambda v, at_x: sum((v - at_x)**2)` seeks the largest distance (it
            needs the random start: at x its gradient is zero).
        prediction: `prediction(x, *args) -> array` whose every element must stay what it is at x,
            e.g. the class. None: any point of the ball will do.
        random_start: whether to start at a random point of the ball, or at x. Static.

    Returns:
        `measure(key, x, *args) -> AttributionAttack`, a pure function, jitted inside. `key` is a
        typed key for the start, `*args` what `explain` takes after x: a baseline comes first.

    Raises:
        TypeError: explain, objective or prediction is not a function; the result of explain has no
            float `values`; x is not float; the key is not typed; a number is not one.
        ValueError: norm is neither of the two; epsilon or step_size is negative; steps or top is
            below 1, or top a fraction beyond 1; the values are not like x; the objective is no
            scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxplain import gradients, metrics
        >>> explain = gradients.saliency(lambda x: jnp.sum(x**4))  # 4 x^3
        >>> attack = metrics.attribution_attack(explain, epsilon=0.25, top=1, random_start=False)
        >>> found = attack(jax.random.key(0), jnp.array([1.0, 0.75]))
        >>> found.perturbed.tolist(), float(found.top_intersection)
        ([0.75, 1.0], 0.0)

    References:
        Ghorbani, Abid and Zou, "Interpretation of Neural Networks Is Fragile", AAAI 2019, algorithm
        1 with the top-k dissimilarity. Deviations: 1. a random start, which theirs has not
        (`random_start=False`). 2. The l2 ball, with steps of length `step_size`. 3. The default
        step. 4. The points considered include the start, and x where none is better. 5. Their
        other dissimilarities (centre of mass, target region) are an `objective`.
    """
    values = _ball.values_of(explain)
    norm = _ball.norm_name(norm)
    epsilon = checks.number(epsilon, "epsilon", at_least=0)
    steps = checks.integer(steps, "steps")
    step_size = (
        2.5 * epsilon / steps
        if step_size is None
        else checks.number(step_size, "step_size", at_least=0)
    )
    top = _top(top)
    for function, name in ((objective, "objective"), (prediction, "prediction")):
        if function is not None:
            checks.function(function, f"{name}, where it is not None,")

    def importance(tree: Any) -> Any:
        return jax.tree.map(jnp.abs, tree) if absolute else tree

    def compute(key: jax.Array, x: Any, *args: Any) -> AttributionAttack:
        x = _ball.vary(values, x, *args)
        call, _ = _fast.staged(lambda z: values(z, *args), x)  # traced once, differentiated later
        centre = trees.widen(x)
        at_x = trees.widen(checks.like(call(x), x, "the field `values` of what explain returns"))
        count = _similarity.top_count(top, x)
        top_at_x = _similarity.top(importance(at_x), count)

        def default(found: Any, _: Any) -> jax.Array:
            chosen = jax.tree.map(lambda v, t: jnp.where(t, v, 0), importance(found), top_at_x)
            size = trees.total(jax.tree.map(jnp.abs, found))
            return -trees.total(chosen) * _ball.reciprocal(size)

        aim = default if objective is None else objective

        def score(point: Any) -> tuple[jax.Array, Any]:
            found = call(point)
            number = jnp.asarray(aim(trees.widen(found), at_x))
            if number.shape != ():
                raise ValueError(f"objective must return a scalar, but returned {number.shape}.")
            return number, found

        def predicted(point: Any) -> Any:
            return () if prediction is None else prediction(point, *args)

        def point(delta: Any) -> Any:
            return trees.cast_like(jax.tree.map(jnp.add, centre, delta), x)

        at_start = predicted(x)
        radius = jnp.asarray(epsilon)
        length = jnp.asarray(step_size)

        def step(state: Any, _: jax.Array) -> tuple[Any, None]:
            delta, best, found_best, best_score = state
            here = point(delta)
            (number, found), gradient = jax.value_and_grad(score, has_aux=True)(here)
            better = _same(predicted(here), at_start) & (number > best_score)
            keep = lambda new, old: jnp.where(better, new, old)
            direction = _direction(trees.widen(gradient), norm)
            moved = jax.tree.map(jnp.add, delta, _ball.scale(direction, length))
            return (
                _project(moved, radius, norm),
                jax.tree.map(keep, here, best),
                jax.tree.map(keep, found, found_best),
                keep(number, best_score),
            ), None

        start = jax.tree.map(jnp.zeros_like, centre)
        if random_start:
            start = _random(key, centre, radius, norm)
        score_at_x, found_at_x = score(x)
        (_, best, found, best_score), _ = walk((start, x, found_at_x, score_at_x), step, steps + 1)
        wide = trees.widen(found)
        still = _similarity.top(importance(wide), count)
        common = jax.tree.map(lambda a, b: (a & b).astype(jnp.float32), still, top_at_x)
        delta = trees.subtract(trees.widen(best), centre)
        return AttributionAttack(
            found,
            best,
            trees.norm(trees.subtract(wide, at_x)),
            _similarity.cosine(wide, at_x),
            trees.total(common) / count,
            _similarity.rank_correlation(importance(wide), importance(at_x)),
            trees.norm(delta) if norm == "l2" else _ball.largest(delta),
            best_score > score_at_x,
            jnp.int32(steps + 2),
            trees.finite(x, at_x, found, best),
        )

    kernel = jax.jit(_fast.inline(compute))

    def measure(key: Any, x: Any, *args: Any) -> AttributionAttack:
        checks.key(key)
        x = checks.explained(x)
        if _ball.elements(x) == 0:
            raise ValueError("x must have at least one element.")
        checks.arrays(args, "each argument after x")
        return _ball.differentiated(kernel)(key, x, *args)

    return measure


def _top(top: Any) -> int | float:
    if not isinstance(top, numbers.Real) or isinstance(top, numbers.Integral):
        return checks.integer(top, "top")
    fraction = float(top)
    if not 0 < fraction <= 1:
        raise ValueError(
            "top as a float is a fraction of the elements, above 0 and at most 1, but is "
            f"{fraction}. For a number of elements give an int."
        )
    return fraction


def _same(left: Any, right: Any) -> jax.Array:
    equal = [jnp.all(a == b) for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True)]
    return jnp.all(jnp.stack(equal)) if equal else jnp.bool_(True)


def _direction(gradient: Any, norm: str) -> Any:
    if norm == "linf":
        return jax.tree.map(jnp.sign, gradient)
    return _ball.scale(gradient, _ball.reciprocal(trees.norm(gradient)))


def _project(delta: Any, radius: jax.Array, norm: str) -> Any:
    if norm == "linf":
        inside = lambda d: jnp.clip(d, -radius.astype(d.dtype), radius.astype(d.dtype))
        return jax.tree.map(inside, delta)
    size = trees.norm(delta)
    radius = radius.astype(size.dtype)
    return _ball.scale(delta, jnp.where(size > radius, radius * _ball.reciprocal(size), 1))


def _random(key: jax.Array, like: Any, radius: jax.Array, norm: str) -> Any:
    """A point of the ball, uniform in it."""
    if norm == "linf":
        even = lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -1, 1)
        return _ball.scale(_ball.draw(even, key, like), radius)
    for_direction, for_size = jax.random.split(key)
    direction = _ball.draw(jax.random.normal, for_direction, like)
    size = trees.norm(direction)
    share = jax.random.uniform(for_size, (), size.dtype) ** (1 / max(_ball.elements(like), 1))
    return _ball.scale(direction, radius.astype(size.dtype) * share * _ball.reciprocal(size))
