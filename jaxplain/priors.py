"""Attribution priors: what an explanation should look like, as a term of the training loss.

    loss(params) = mean error of the model + strength * mean over examples of prior(values)

with `values` the attribution of the model under training. The terms here are pure functions of one
example's attribution; any differentiable method makes it, and `optax` minimises the sum:

    explain = jaxplain.integrated_gradients(f, steps=8)
    term = lambda x, baseline, label, params: priors.smoothness(
        explain(x, baseline, label, params).values, axes=(0, 1))
    terms = jax.vmap(term, in_axes=(0, 0, 0, None))          # add strength * terms(...).mean()
    step = jax.jit(rewrite.fast(jax.grad(loss)))             # `fast` outermost

The gradient by `params` is a second derivative of the model, taken in reverse: use methods with
`steps=` or `samples=` (a tolerance is a `while_loop`, which reverse mode does not pass) and the
fewest points that do, one being enough where baseline and position are drawn anew at each step, as
in Erion et al. `rewrite.fast` must see the finished derivative: inside, it cannot reach the
convolutions that the outer derivative makes, and those are slow in a loop on a CPU. Activations
with a second derivative (GELU, softplus) let the term see the bends of the model; through ReLUs it
sees the slopes only. Scripts that train and measure are in docs/examples.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxplain import checks, trees

__all__ = ["cosine", "l1", "smoothness", "sparsity"]


def cosine(values: Any, other: Any) -> jax.Array:
    """One less the cosine of the angle between two attributions.

        1 - sum_i a_i b_i / (||a|| ||b||)

    0 where they point the same way, 2 where they are opposite, 1 if one of them is zero. With
    `other` the attribution of the same prediction after a small change of the input it trains a
    model whose explanations cannot be turned by such changes: the ranking of the elements (Kendall)
    holds where the direction does, and no longer vector is needed for it, as with a norm.

    Args:
        values: an attribution a, a tree of float arrays.
        other: another, b, of the same tree and shapes.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        TypeError: a leaf is not an array.
        ValueError: the two do not match, or are empty.

    Example:
        >>> import jax.numpy as jnp
        >>> float(cosine(jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0])))
        1.0

    References:
        Wang and Kong, "Exploiting the Relationship Between Kendall's Rank Correlation and Cosine
        Similarity for Attribution Protection", NeurIPS 2022 (the regulariser IGR).
    """
    left, right = _wide(values, "values"), _wide(other, "other")
    checks.like(other, jax.tree.map(jnp.asarray, values), "other", any_float=True)

    def unit(tree: Any) -> Any:
        """Divided by its largest element, whose square may be out of range; zero as it is."""
        largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
        dtype = trees.widest(*(size.dtype for size in largest))
        scale = jnp.max(jnp.stack([size.astype(dtype) for size in largest]))
        scale = jax.lax.stop_gradient(jnp.where(scale == 0, 1, scale))
        return jax.tree.map(lambda leaf: leaf.astype(dtype) / scale, tree)

    a, b = unit(left), unit(right)
    product = trees.total(trees.multiply(a, a)) * trees.total(trees.multiply(b, b))
    is_zero = product == 0
    # The inner `where` keeps the derivative of the root finite.
    root = jnp.sqrt(jnp.where(is_zero, 1, product))
    return 1 - jnp.where(is_zero, 0, trees.total(trees.multiply(a, b)) / root)


def l1(values: Any) -> jax.Array:
    """The sum of absolute values.

        sum_i |a_i|

    It draws attributions to zero all alike, and the model's output with them. For few large among
    many small see `sparsity`, which has no units.

    Args:
        values: an attribution a, a tree of float arrays.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        TypeError: a leaf is not an array.
        ValueError: `values` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> float(l1({"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}))
        3.5

    References:
        Ross, Hughes and Doshi-Velez, "Right for the right reasons", IJCAI 2017, for penalties on
        explanations; as a baseline in Erion et al., Nature Machine Intelligence 2021.
    """
    return trees.total(jax.tree.map(_size, _wide(values, "values")))


def smoothness(values: Any, axes: int | Sequence[int] = (0, 1)) -> jax.Array:
    """The total variation of an attribution: how much neighbours differ.

        sum over axes d, places p of |a_{p + e_d} - a_p|

    For images: a model that uses regions and not single pixels is less moved by noise.

    Args:
        values: an attribution a, a tree of float arrays that all have these axes.
        axes: the axes along which neighbours are compared: rows and columns unless given, of an
            image of shape (rows, columns, channels).

    Returns:
        A scalar, in float32 or wider.

    Raises:
        TypeError: a leaf is not an array, or an axis is not an integer.
        ValueError: a leaf does not have an axis; `values` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> float(smoothness(jnp.array([[0.0, 1.0], [0.0, 3.0]])))
        6.0

    References:
        Erion, Janizek, Sturmfels, Lundberg and Lee, "Improving performance of deep learning models
        with axiomatic attribution priors and expected gradients", Nature Machine Intelligence 2021
        (the pixel prior).
    """
    numbers = [axes] if isinstance(axes, int) else list(axes)
    for axis in numbers:
        checks.integer(axis, "each of axes", minimum=-32)

    def variation(leaf: jax.Array) -> jax.Array:
        for axis in numbers:
            if not -leaf.ndim <= axis < leaf.ndim:
                raise ValueError(
                    f"axes {tuple(numbers)} must be axes of the attribution, but it has shape "
                    f"{leaf.shape}. A batch goes through `jax.vmap`."
                )
        parts = [jnp.sum(_size(jnp.diff(leaf, axis=axis))) for axis in numbers]
        return jnp.sum(jnp.stack(parts)) if parts else jnp.zeros((), leaf.dtype)

    return trees.total(jax.tree.map(variation, _wide(values, "values")))


def sparsity(values: Any) -> jax.Array:
    """Less twice the Gini coefficient of the sizes of an attribution: low where few carry most.

        - sum_ij | |a_i| - |a_j| | / (n sum_i |a_i|)

    0 where all are equal, -2 (1 - 1/n) where one carries all; 0 if all are zero. It has no units,
    so that it does not draw the output to zero. In O(n log n): sorted in ascending order, the
    double sum is 2 sum_k (2 k - n - 1) |a_(k)|. For features that should be few over the whole
    dataset give the mean over the batch: `sparsity(jnp.abs(batch_values).mean(0))`.

    Args:
        values: an attribution a, a tree of float arrays; all elements count as one vector.

    Returns:
        A scalar, in float32 or wider.

    Raises:
        TypeError: a leaf is not an array.
        ValueError: `values` is empty.

    Example:
        >>> import jax.numpy as jnp
        >>> float(sparsity(jnp.array([0.0, -4.0, 0.0, 0.0])))
        -1.5

    References:
        Erion, Janizek, Sturmfels, Lundberg and Lee, "Improving performance of deep learning models
        with axiomatic attribution priors and expected gradients", Nature Machine Intelligence 2021
        (the sparse prior).
    """
    leaves = [_size(leaf).reshape(-1) for leaf in jax.tree.leaves(_wide(values, "values"))]
    dtype = trees.widest(*(leaf.dtype for leaf in leaves))
    sizes = jnp.sort(jnp.concatenate([leaf.astype(dtype) for leaf in leaves]))
    # The measure has no scale: in units of the largest element its sums are in range.
    largest = jax.lax.stop_gradient(jnp.max(sizes, initial=0))
    sizes = sizes / jnp.where(largest == 0, 1, largest)
    count = sizes.size
    total = jnp.sum(sizes)
    rank = jnp.arange(1, count + 1, dtype=dtype)
    spread = jnp.sum((2 * rank - (count + 1)) / count * sizes)
    return -2 * spread / jnp.where(total == 0, 1, total)


def _size(leaf: jax.Array) -> jax.Array:
    """The absolute value, with a derivative of 0 at 0, where `jnp.abs` has 1."""
    return jnp.where(leaf == 0, 0, jnp.abs(leaf))


def _wide(values: Any, name: str) -> Any:
    checks.arrays(values, name)
    if not jax.tree.leaves(values):
        raise ValueError(f"{name} must hold at least one array, but is an empty tree.")
    return trees.widen(jax.tree.map(jnp.asarray, values))
