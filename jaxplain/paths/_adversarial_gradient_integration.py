"""Adversarial Gradient Integration: along paths from x to adversarial examples of false classes.

For a false class c, with f_c the score of class c and l the label,

    x_0 = x,  x_{k+1} = x_k + e sign(grad f_c(x_k)),     until the class of the highest score is c
    values^c = - sum_k (x_{k+1} - x_k) * grad f_l(x_k)

and the values are the mean over several c. They sum to f_l(x) less the mean of f_l at the ends of
the paths, up to the error of the left rule along them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import evaluate, walk, weighted_sum
from jaxplain.paths import _walks
from jaxplain.paths._result import PathAttribution, result
from jaxplain.rewrite import _fast


def adversarial_gradient_integration(
    f: Callable[..., Any],
    *,
    classes: int,
    targets: int = 20,
    steps: int = 20,
    step_size: float | jax.Array = 0.05,
    progressive: bool = True,
    bounds: tuple[Any, Any] | None = None,
    chunk_size: int = 16,
) -> Callable[..., PathAttribution]:
    """Adversarial Gradient Integration (AGI) of the score of a class, for one example.

        x_{k+1} = x_k + step_size * sign(df_c/dx(x_k)),    x_0 = x
        values  = mean over false classes c of  - sum_k (x_{k+1} - x_k) * df_label/dx(x_k)

    From x a walk climbs towards each of some false classes c, and stops when c has the highest
    score: no baseline is needed. The false classes are drawn by the key, uniformly and without
    repetition, from all classes but the label; where `targets` is at least their number, all are
    taken, and the key decides nothing.

    With `progressive=False` it is what the authors' code does: each step starts from x again,
    x_{k+1} = x + step_size * sign(...), and so does each product, (x_{k+1} - x) *
    df_label/dx(x_k). That is no path: the values grow with the number of steps, and the
    completeness gap says no more than that.

    Args:
        f: `f(x, label, *args) -> scalar`, the score of one class, as the functions of
            `jaxplain.targets` make them; the authors take probabilities. The scores of all classes
            come by `vmap` of f over the label alone, so that a network runs once for all.
        classes: the number of classes.
        targets: the most false classes walked towards.
        steps: the most steps of a walk; each takes two gradients.
        step_size: of a step, in the units of x, for each of its elements. May be a traced array.
        progressive: whether a step starts where the last one has ended.
        bounds: the least and the largest value that an element may take on the way, such as
            (0.0, 1.0) for images, or None.
        chunk_size: walks taken at once. It changes memory and speed, and the result only by
            rounding.

    Returns:
        `explain(key, x, label, *args) -> PathAttribution`, a pure function, jitted inside. `key` is
        a typed key, `x` any tree of float arrays (scalars too), `label` an integer, `*args` arrays
        or trees of arrays. In the result `output` is f(x, label), `baseline_output` the mean of
        f(., label) at the ends of the walks, and `evaluations` counts two for each step taken.

    Raises:
        TypeError: f is not a function; key is not a typed key; x is not float; label is not an
            integer; an argument is not an array; a number is not one.
        ValueError: f does not return a scalar; a number is out of its range; label is a Python
            integer that is no class.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x, label, weights: jnp.dot(x, weights)[label]
        >>> explain = adversarial_gradient_integration(f, classes=2, step_size=0.25)
        >>> weights = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> result = explain(jax.random.key(0), jnp.array([0.3, 0.2]), 0, weights)
        >>> result.values.tolist(), float(result.baseline_output), int(result.evaluations)
        ([0.0, 0.0], 0.30000001192092896, 2)

    References:
        Pan, Li and Zhu, "Explaining Deep Neural Network Models with Adversarial Gradient
        Integration", IJCAI 2021, Algorithms 1 and 2; the authors' code (pd90506/AGI,
        `AGI_main.py`). Deviations: 1. the mean over false classes, where both sum: `targets` times
        smaller, and in the unit of f. 2. `label` is an argument, where both take the class
        predicted at x. 3. False classes are drawn anew for each key, as in the paper; the code has
        fixed ones. 4. No bounds unless given; the code keeps pixels in [0, 1].
    """
    checks.function(f, "f")
    scalar = checks.scalar(f)
    classes = checks.integer(classes, "classes", minimum=2)
    targets = min(checks.integer(targets, "targets"), classes - 1)
    steps = checks.integer(steps, "steps")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    checks.number(step_size, "step_size", at_least=0)
    bounds = _walks.box(bounds)
    scores = _walks.of_classes(scalar, classes)

    @jax.jit
    def kernel(key: jax.Array, x: Any, label: jax.Array, *args: Any) -> PathAttribution:
        false = _false_classes(key, label, classes, targets)
        # A walk differs between the devices of a mesh wherever its class, or f, does.
        x = trees.vary_with_output(scalar, x, false[0], *args)
        score, _ = _fast.staged(lambda z: scalar(z, label, *args), x)
        output = score(x)
        origin = trees.widen(x)

        def walk_towards(index: jax.Array) -> Any:
            here = index == jnp.arange(targets, dtype=jnp.int32)
            target = jnp.sum(jnp.where(here, false, 0), dtype=jnp.int32)

            def step(state: Any, _: jax.Array) -> tuple[Any, None]:
                point, values, taken, stopped = state
                at_point, pull = jax.vjp(lambda z: scores(z, *args), trees.cast_like(point, x))
                (climb,) = pull(_walks.only(target, at_point))
                (gradient,) = pull(_walks.only(label, at_point))
                stopped = stopped | (_walks.best(at_point) == target)
                start = point if progressive else origin
                direction = jax.tree.map(jnp.sign, trees.widen(climb))
                moved = _walks.advance(start, step_size, direction, bounds)
                lost = trees.multiply(trees.subtract(start, moved), trees.widen(gradient))
                values = _walks.choose(stopped, values, jax.tree.map(jnp.add, values, lost))
                point = _walks.choose(stopped, point, moved)
                return (point, values, taken + (~stopped).astype(jnp.int32), stopped), None

            zero = _walks.none(output)
            state = (origin, _walks.zeros(x), zero, zero > 0)
            (point, values, taken, _), _ = walk(state, step, steps)
            return values, trees.widen(score(trees.cast_like(point, x))), taken

        mean = weighted_sum(jnp.full(targets, 1 / targets))
        values, at_ends, taken = evaluate(walk_towards, targets, mean, chunk_size=chunk_size)
        evaluations = jnp.round(2 * targets * taken)
        explained = result(x, x, (at_ends, output), values, evaluations=evaluations)
        explained = explained._replace(baseline_output=at_ends.astype(output.dtype))
        return _walks.of_a_class(explained, label, classes)

    def explain(key: jax.Array, x: Any, label: Any, *args: Any) -> PathAttribution:
        checks.key(key)
        x = checks.explained(x)
        checks.arrays((label, *args), "each argument after x")
        return kernel(key, x, _walks.label(label, classes), *args)

    return explain


def _false_classes(key: jax.Array, label: jax.Array, classes: int, targets: int) -> jax.Array:
    """Shape (targets,), int32: classes other than the label, drawn without repetition."""
    others = jnp.arange(classes - 1, dtype=jnp.int32)
    if targets < classes - 1:
        others = jax.random.permutation(key, others)[:targets]
    return jnp.where(others < label, others, others + 1)
