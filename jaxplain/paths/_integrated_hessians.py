"""Integrated Hessians: how much of each attribution is due to each other element of x.

Integrated Gradients of Integrated Gradients. With D = x - b and p(s) = b + s D,

    H_ij = D_i D_j int int u v f_ij(p(u v)) du dv  +  [i = j] D_i int int f_i(p(u v)) du dv
         = int_0^1 -log(s) D_j { s D_i f_ij(p(s)) + [i = j] f_i(p(s)) } ds
         ~ sum_k w_k D_j { s_k D_i f_ij(p(s_k)) + [i = j] f_i(p(s_k)) }

The second line: the integrand depends on s = u v alone, whose density is -log s. So one rule of n
nodes (`_log_rule`) does the work of n^2, and does it exactly for polynomials of degree 2n - 1. A
row, or any combination of rows, is one Hessian-vector product for each node (`_interactions`).

Completeness: sum_j H_ij = IG_i, and sum_ij H_ij = f(x) - f(b).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxplain import checks, trees
from jaxplain.evaluate import evaluate, weighted_sum
from jaxplain.paths import _interactions
from jaxplain.paths._log_rule import log_rule
from jaxplain.paths._result import from_baseline
from jaxplain.paths._straight_line import line_between
from jaxplain.rewrite import _fast


class InteractionRow(NamedTuple):
    """The interactions of a group of elements, or of one, with every element of x.

    Attributes:
        values: tree and shapes of x, dtype of x: sum_i w_i H_ij for the direction w, in the units
            of f.
        attribution: sum_i w_i IG_i, a scalar: the Integrated Gradients of the group, which the
            values share out. From the same gradients, in float32 or wider.
        completeness_gap: sum(values) - attribution, a scalar.
        evaluations: the number of Hessian-vector products of f that went into it, int32.
        finite: whether x, the baseline, the direction and the values are free of NaN and infinity.
    """

    values: Any
    attribution: jax.Array
    completeness_gap: jax.Array
    evaluations: jax.Array
    finite: jax.Array


class Interactions(NamedTuple):
    """The interactions of all pairs of elements of x.

    Attributes:
        values: a tree like x of trees like x, as `jax.hessian(f)(x)`: H_ij, in the units of f, each
            block in the dtype of its inner leaf. Where x is one array of shape s, an array of shape
            s + s.
        attributions: tree and shapes of x: Integrated Gradients, from the same gradients. They are
            the row sums of the exact values: the difference is a gap for each row.
        output: f(x), a scalar.
        baseline_output: f(baseline), a scalar.
        completeness_gap: sum(values) - (output - baseline_output), a scalar.
        evaluations: the number of Hessian-vector products of f that went into it, int32.
        finite: whether x, the baseline, the outputs and the values are free of NaN and infinity.
    """

    values: Any
    attributions: Any
    output: jax.Array
    baseline_output: jax.Array
    completeness_gap: jax.Array
    evaluations: jax.Array
    finite: jax.Array


def integrated_hessians(
    f: Callable[..., Any], *, steps: int = 32, chunk_size: int = 16
) -> Callable[..., Interactions]:
    """Integrated Hessians of a scalar function: the interactions of all pairs, for one example.

        H_ij = (x_i - b_i) (x_j - b_j) int int u v f_ij(b + u v (x - b)) du dv
               + [i = j] (x_i - b_i) int int f_i(b + u v (x - b)) du dv

    The rows sum to Integrated Gradients, and all together to f(x) - f(b). The result has as many
    numbers as x has pairs of elements: for an image take `integrated_hessian_row`, or a function of
    the weights of its superpixels.

    A network of ReLUs has no second derivatives but on its kinks, which no rule sees: the matrix
    comes out diagonal, and the gap says so. Explain the network with softplus in their place, as
    the paper does, or another smooth activation. Max-pooling has kinks too.

    Args:
        f: `f(x, *args) -> scalar`, twice differentiable. Parameters belong among `args`.
        steps: the number of nodes. Each takes a Hessian-vector product for each element of x.
        chunk_size: rows computed at once. It changes memory and speed, and the result only by
            rounding. Under `vmap` the products in flight are `chunk_size` times the batch.

    Returns:
        `explain(x, baseline, *args) -> Interactions`, a pure function, jitted inside. `x` is any
        tree of float arrays, `baseline` the same tree with the same shapes and dtypes.

    Raises:
        TypeError: f is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar; baseline does not match x; steps is below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> explain = integrated_hessians(lambda x: x[0] * x[1] + x[2] ** 2, steps=4)
        >>> result = explain(jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3))
        >>> result.values.round(3).tolist()
        [[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 9.0]]

    References:
        Janizek, Sturmfels and Lee, "Explaining Explanations: Axiomatic Feature Interactions for
        Deep Networks", JMLR 2021, section 3. Deviation: the double integral is taken as one
        integral with the density -log s, by Gauss's rule, in place of a Riemann sum over pairs.
    """
    checks.function(f, "f")
    steps = checks.integer(steps, "steps")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)
    row = _row(scalar, steps, chunk_size=1)

    def kernel(x: Any, baseline: Any, *args: Any) -> Interactions:
        values, attributions = _interactions.rows(
            lambda direction: row(x, baseline, direction, *args), x, chunk_size
        )
        evaluate_f, _ = _fast.staged(lambda z: scalar(z, *args), x)
        output, baseline_output = evaluate_f(x), evaluate_f(baseline)
        total = trees.total(values)
        dtype = trees.widest(total.dtype, output.dtype)
        rise = output.astype(dtype) - baseline_output.astype(dtype)
        return Interactions(
            _interactions.pairs(trees.cast_like(values, x), x),
            trees.cast_like(_interactions.unstack(attributions, x), x),
            output,
            baseline_output,
            total.astype(dtype) - rise,
            jnp.int32(steps * attributions.size),
            trees.finite(x, baseline, output, baseline_output, values, attributions),
        )

    return from_baseline(scalar, kernel)


def integrated_hessian_row(
    f: Callable[..., Any], *, steps: int = 32, chunk_size: int = 16
) -> Callable[..., InteractionRow]:
    """A row of Integrated Hessians, or a sum of rows, for one example of any size.

        values_j = sum_i w_i H_ij

    With w one at an element and zero elsewhere it is that element's row: how it interacts with
    every other. With w one on a superpixel or a token it is that group's. With w = 1 the values
    are Integrated Gradients. A block of rows is `jax.vmap` over directions, and computes but once
    what they share: `jax.vmap(explain, (None, None, 0))(x, baseline, directions)`.

    Each node takes one gradient and its derivative along w * (x - b), in about the memory of a
    gradient (a photo of 224 x 224 through SqueezeNet: 68 MiB). The matrix is never formed.

    A network of ReLUs has no second derivatives but on its kinks: see `integrated_hessians`.

    Args:
        f: `f(x, *args) -> scalar`, twice differentiable. Parameters belong among `args`.
        steps: the number of nodes, each one Hessian-vector product.
        chunk_size: nodes evaluated at once. It changes memory and speed, and the result only by
            rounding. For an image 1 is best.

    Returns:
        `explain(x, baseline, direction, *args) -> InteractionRow`, a pure function, jitted inside.
        `x` is any tree of float arrays; `baseline` and `direction` are the same tree with the same
        shapes and dtypes. The values are linear in the direction.

    Raises:
        TypeError: f is not a function; x is not float; an argument is not an array.
        ValueError: f does not return a scalar; baseline or direction does not match x; steps is
            below 1.

    Example:
        >>> import jax.numpy as jnp
        >>> explain = integrated_hessian_row(lambda x: x[0] * x[1] + x[2] ** 2, steps=4)
        >>> row = explain(jnp.array([1.0, 2.0, 3.0]), jnp.zeros(3), jnp.array([1.0, 0.0, 0.0]))
        >>> row.values.round(3).tolist(), round(float(row.attribution), 3)
        ([0.5, 0.5, 0.0], 1.0)

    References:
        Janizek, Sturmfels and Lee, "Explaining Explanations: Axiomatic Feature Interactions for
        Deep Networks", JMLR 2021, section 3. Deviations: 1. one integral in place of two, as in
        `integrated_hessians`. 2. The direction is ours.
    """
    checks.function(f, "f")
    steps = checks.integer(steps, "steps")
    chunk_size = checks.integer(chunk_size, "chunk_size")
    scalar = checks.scalar(f)
    row = _row(scalar, steps, chunk_size)

    def kernel(x: Any, baseline: Any, direction: Any, *args: Any) -> InteractionRow:
        x = trees.place_like(x, jax.eval_shape(trees.subtract, x, direction))
        direction = trees.place_like(direction, x)
        values, attribution = row(x, baseline, direction, *args)
        return InteractionRow(
            trees.cast_like(values, x),
            attribution,
            trees.total(values) - attribution,
            jnp.int32(steps),
            trees.finite(x, baseline, direction, values, attribution),
        )

    placed = from_baseline(lambda x, direction, *args: scalar(x, *args), kernel)

    def explain(x: Any, baseline: Any, direction: Any, *args: Any) -> InteractionRow:
        checks.arrays(args, "each argument after the direction")
        direction = checks.like(direction, checks.explained(x), "direction")
        return placed(x, baseline, direction, *args)

    return explain


def _row(f: Callable[..., jax.Array], steps: int, chunk_size: int) -> Callable[..., Any]:
    """`row(x, baseline, direction, *args)`: the wide values, and the direction's attribution."""
    rule = log_rule(steps)

    def row(x: Any, baseline: Any, direction: Any, *args: Any) -> Any:
        line, velocity = line_between(baseline, x)
        direction = trees.widen(direction)
        moved = trees.multiply(direction, velocity)
        dtype = trees.widest(*(leaf.dtype for leaf in jax.tree.leaves(velocity)))
        nodes = jnp.asarray(rule.nodes, dtype)
        # Of the attribution's weight and the row's: one loop has one weight for each point.
        ratio = jnp.asarray(rule.plain_weights / rule.weights, dtype)

        def point(index: jax.Array) -> Any:
            s = nodes[index]
            bracket, gradient = _interactions.integrand(f, s, line(s), direction, velocity, *args)
            attribution = ratio[index] * trees.total(trees.multiply(moved, gradient))
            # A loop that starts from a scalar zero cannot be batched on a mesh of Explicit axes.
            return bracket, attribution[None]

        bracket, attribution = evaluate(
            point, steps, weighted_sum(rule.weights), chunk_size=chunk_size
        )
        return trees.multiply(velocity, bracket), attribution[0]

    return row
