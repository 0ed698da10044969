"""MFABA: along the path of an attack that lowers the score of the label to a decision boundary.

    x_0 = x,   x_{k+1} = x_k - e d(grad f(x_k)),     until the label no longer has the highest score

with d(g) = g / |g| ("sharp") or sign(g) ("smooth"), and with n steps taken

    values = - sum_k (x_{k+1} - x_k) * grad f(x_k)

which sums to f(x) - f(x_n) up to the error of the left rule along the path.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import walk
from jaxplain.paths import _walks
from jaxplain.paths._result import PathAttribution, result
from jaxplain.rewrite import _fast

_STEP_SIZES = {"sharp": 0.1, "smooth": 0.001}
_INTEGRALS = ("path", "cosine", "norm")


def mfaba(
    f: Callable[..., Any],
    *,
    classes: int,
    steps: int = 50,
    step_size: float | jax.Array | None = None,
    norm: str = "sharp",
    integral: str = "path",
    accumulate: bool = False,
    bounds: tuple[Any, Any] | None = None,
) -> Callable[..., PathAttribution]:
    """MFABA, a boundary-based attribution of the score of a class, for one example.

        x_{k+1} = x_k - step_size * d(df/dx(x_k)),    x_0 = x
        values  = - sum_k (x_{k+1} - x_k) * df/dx(x_k)

    The walk lowers the score of the label and stops once another class has the highest one. At
    least one step is taken, even where the label does not have it to begin with. With n steps
    taken and g_k = df/dx(x_k), `integral` is one of three published forms:

        "path"    - sum_k (x_{k+1} - x_k) * g_k
        "cosine"  (x - x_n) * sum_k (t_{k+1} - t_k) (g_k + g_{k+1}) / 2
                  t_k = (x_k - x) . (x_n - x) / |x_n - x|^2, over the largest t
        "norm"    the same with t_k = |x_k - x|, over the largest t

    The last two put the gradients of the path on the straight line; the completeness gap is then
    not the error of a rule. They keep all points or gradients of the walk: memory grows with
    `steps`.

    Args:
        f: `f(x, label, *args) -> scalar`, the score of one class, as the functions of
            `jaxplain.targets` make them; the authors take probabilities. The scores of all classes
            come by `vmap` of f over the label alone, so that a network runs once for all.
        classes: the number of classes.
        steps: the most steps, each of one gradient.
        step_size: in the units of x: of each element for "smooth", the Euclidean length over all
            leaves for "sharp". Unless given, 0.001 or 0.1, the authors' for images in [0, 1]. May
            be a traced array.
        norm: "sharp", a step along the gradient over its Euclidean norm, or "smooth", along its
            signs.
        integral: "path", "cosine" or "norm", as above.
        accumulate: for "path": whether the sum of the gradients at x_0, ..., x_k stands in the
            place of the one at x_k, in the walk and in the values. So does the authors' code, for
            an example by itself; the values are then many times larger, and the completeness gap is
            not the error of a rule.
        bounds: the least and the largest value that an element may take on the way, such as
            (0.0, 1.0) for images, or None.

    Returns:
        `explain(x, label, *args) -> PathAttribution`, a pure function, jitted inside. `x` is any
        tree of float arrays (scalars too), `label` an integer, `*args` arrays or trees of arrays.
        In the result `output` is f(x, label), `baseline_output` is f(., label) where the walk ends,
        and `evaluations` is the number of steps taken, and one more where the gradient at the end
        counts.

    Raises:
        TypeError: f is not a function; x is not float; label is not an integer; an argument is not
            an array; a number is not one.
        ValueError: f does not return a scalar; a number is out of its range, or an option not one
            of its names; label is a Python integer that is no class.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x, label, weights: jnp.dot(x, weights)[label]
        >>> weights = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> explain = mfaba(f, classes=2, step_size=0.25)
        >>> result = explain(jnp.array([0.625, 0.25]), 0, weights)
        >>> result.values.tolist(), float(result.baseline_output), int(result.evaluations)
        ([0.5, 0.0], 0.125, 2)

    References:
        Zhu et al., "MFABA: A More Faithful and Accelerated Boundary-based Attribution Method for
        Deep Neural Networks", AAAI 2024; the authors' code (LMBTough/MFABA,
        `saliency/core/mfaba.py`), with its path sum, `MFABACOS` and `MFABANORM`. Deviations: 1. the
        gradient is the one at the point, as in the paper. The code of the path sum never resets the
        gradient of its input, so that gradients add up over the steps (in a batch, until an example
        leaves it): `accumulate=True`. 2. Where the gradient is zero the walk stays, and the code
        divides by zero. 3. No bounds unless given; the code keeps pixels in [0, 1], and "smooth"
        points within 0.3 of x, which its 50 steps of 0.001 cannot leave. 4. Where the walk does not
        leave x, "cosine" and "norm" give zeros, and the code divides by zero.
    """
    checks.function(f, "f")
    scalar = checks.scalar(f)
    classes = checks.integer(classes, "classes", minimum=2)
    steps = checks.integer(steps, "steps")
    if norm not in _STEP_SIZES:
        raise ValueError(f'norm must be "sharp" or "smooth", but is {norm!r}.')
    if integral not in _INTEGRALS:
        raise ValueError(f'integral must be "path", "cosine" or "norm", but is {integral!r}.')
    if accumulate and integral != "path":
        raise ValueError(f'accumulate belongs to integral="path", but integral is {integral!r}.')
    step_size = _STEP_SIZES[norm] if step_size is None else step_size
    checks.number(step_size, "step_size", at_least=0)
    bounds = _walks.box(bounds)
    scores = _walks.of_classes(scalar, classes)

    def direction(gradient: Any) -> Any:
        if norm == "sharp":
            return _walks.unit(gradient)
        return jax.tree.map(jnp.sign, trees.widen(gradient))

    @jax.jit
    def kernel(x: Any, label: jax.Array, *args: Any) -> PathAttribution:
        x = trees.vary_with_output(scalar, x, label, *args)
        score, _ = _fast.staged(lambda z: jax.value_and_grad(scalar)(z, label, *args), x)
        output, _ = score(x)
        origin = trees.widen(x)

        def step(state: Any, k: jax.Array) -> tuple[Any, Any]:
            point, values, taken, stopped, before = state
            at_point, pull = jax.vjp(lambda z: scores(z, *args), trees.cast_like(point, x))
            gradient = trees.widen(pull(_walks.only(label, at_point))[0])
            if accumulate:
                gradient = before = jax.tree.map(jnp.add, before, gradient)
            stopped = stopped | ((_walks.best(at_point) != label) & (k > 0))
            moved = _walks.advance(point, -step_size, direction(gradient), bounds)
            lost = trees.multiply(trees.subtract(point, moved), gradient)
            values = _walks.choose(stopped, values, jax.tree.map(jnp.add, values, lost))
            kept = None if integral == "path" else (point, gradient)
            point = _walks.choose(stopped, point, moved)
            taken = taken + (~stopped).astype(jnp.int32)
            return (point, values, taken, stopped, before), kept

        zero = _walks.none(output)
        before = _walks.zeros(x) if accumulate else None
        state = (origin, _walks.zeros(x), zero, zero > 0, before)
        (point, values, taken, *_), kept = walk(state, step, steps)
        at_end, gradient = score(trees.cast_like(point, x))
        if integral != "path":
            values = _on_the_line(kept, (point, trees.widen(gradient)), integral)
            taken = taken + 1
        explained = result(x, x, (at_end, output), values, evaluations=taken)
        return _walks.of_a_class(explained, label, classes)

    def explain(x: Any, label: Any, *args: Any) -> PathAttribution:
        x = checks.explained(x)
        checks.arrays((label, *args), "each argument after x")
        return kernel(x, _walks.label(label, classes), *args)

    return explain


def _on_the_line(kept: tuple[Any, Any], end: tuple[Any, Any], integral: str) -> Any:
    """The gradients of a walk, by the trapezoid over t, times the way from its end to its start.

    `kept` are points and gradients with a leading axis of steps, `end` those at the end.
    """
    points, gradients = jax.tree.map(
        lambda steps, last: jnp.concatenate([steps, last[None]]), kept, end
    )
    ways = jax.tree.map(lambda p: p - p[:1], points)
    way = jax.tree.map(lambda p: p[-1], ways)
    if integral == "norm":
        t = jax.vmap(_walks.length)(ways)
    else:
        t = jax.vmap(lambda w: trees.total(trees.multiply(w, way)))(ways)
    # A walk that never leaves x has no direction, and its values are zero.
    largest = jnp.max(t)
    shares = jnp.where(largest > 0, jnp.diff(t) / jnp.where(largest > 0, largest, 1), 0)

    def value(w: jax.Array, g: jax.Array) -> jax.Array:
        share = shares.astype(g.dtype).reshape(-1, *[1] * w.ndim)
        return -w * jnp.sum(share * (g[:-1] + g[1:]) / 2, axis=0)

    return jax.tree.map(value, way, gradients)
