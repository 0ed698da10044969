"""Baselines: what an input is compared with.

A path or mask method explains the difference f(x) - f(baseline), so the baseline is part of the
question: it should say "nothing here", and what looks like it in x gets no attribution. A black
baseline cannot see black pixels, a blurred one sees fine detail only, a sample of the data asks
"why this and not a typical one". No choice is right for all; two or three that agree are evidence,
and the library never assumes one.

All functions work on one example (`jax.vmap` outside makes the batch; `mean` and `samples` take a
dataset) and on trees of float arrays, and keep shapes and dtypes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees

__all__ = [
    "BlackAndWhite",
    "black_and_white",
    "blurred",
    "constant",
    "maximum_distance",
    "mean",
    "samples",
    "uniform",
    "zeros",
]


class BlackAndWhite(NamedTuple):
    """The two ends of the range.

    Attributes:
        black: the minimum, a tree like the example.
        white: the maximum, a tree like the example.
    """

    black: Any
    white: Any


def zeros(x: Any) -> Any:
    """A baseline of zeros.

    b = 0. For embeddings and standardised features that is the usual one; for images check that 0
    is black: after normalisation it is the mean colour.

    Args:
        x: one example, a tree of float arrays.

    Returns:
        Tree like `x`.

    Raises:
        TypeError: a leaf is not a float array.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> jaxplain.baselines.zeros({"a": jnp.array([1.0, 2.0])})["a"].tolist()
        [0.0, 0.0]

    References:
        Sundararajan, Taly, Yan 2017, "Axiomatic attribution for deep networks", section 3 (the
        black image, the zero embedding).
    """
    return jax.tree.map(jnp.zeros_like, _floats(x, "x"))


def constant(x: Any, value: Any) -> Any:
    """A baseline of one value, or of one value per channel.

    b_(...c) = value_c.

    Args:
        x: one example, a tree of float arrays.
        value: a number, or an array of shape (C,) matched to the last axis of each leaf; or a tree
            like `x` of such. May be traced.

    Returns:
        Tree like `x`.

    Raises:
        TypeError: a leaf of `x` is not a float array.
        ValueError: a value is neither a scalar nor as long as the last axis.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> jaxplain.baselines.constant(jnp.ones((2, 2)), jnp.array([3.0, 4.0])).tolist()
        [[3.0, 4.0], [3.0, 4.0]]

    References:
        Sturmfels, Lundberg, Lee 2020, "Visualizing the impact of feature attribution baselines"
        (the constant colour baseline and what it is blind to).
    """
    x = _floats(x, "x")
    return jax.tree.map(
        lambda leaf, v: jnp.broadcast_to(v, leaf.shape), x, _like(x, value, "value")
    )


def mean(dataset: Any) -> Any:
    """The mean example of a dataset.

    b = sum_i x_i / n, in float32 or wider. For a dataset that is not in memory:
    `jaxplain.estimates.update` over its batches.

    Args:
        dataset: tree of float arrays (n, ...), the examples on the leading axis.

    Returns:
        Tree like one example.

    Raises:
        TypeError: a leaf is not a float array.
        ValueError: there are no examples, or the leaves have different numbers of them.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> jaxplain.baselines.mean(jnp.array([[0.0, 1.0], [2.0, 5.0]])).tolist()
        [1.0, 3.0]

    References:
        Lundberg, Lee 2017, "A unified approach to interpreting model predictions", section 4 (the
        mean stands for a missing feature).
    """
    dataset = _floats(dataset, "dataset")
    _count(dataset)
    return jax.tree.map(
        lambda leaf: leaf.mean(0, dtype=trees.wide_dtype(leaf.dtype)).astype(leaf.dtype), dataset
    )


def blurred(
    x: Any,
    *,
    sigma: float | Sequence[float],
    axes: Sequence[int] = (0, 1),
    truncate: float = 4.0,
) -> Any:
    """The example with its detail taken out: a Gaussian blur over its spatial axes.

    b = g * x, with g(d) = exp(-d^2 / (2 sigma^2)) / sum, |d| <= floor(truncate * sigma + 1/2),
    along each axis in turn; at the edges the signal is mirrored with the edge repeated (d c b a | a
    b c d | d c b a: the mode "reflect" of scipy). In float32 or wider.

    Args:
        x: one example, a tree of float arrays which all have these axes; for an image (H, W, C) or
            (H, W).
        sigma: standard deviation in elements, one number or one per axis; 0 leaves an axis as it
            is. Python numbers, since they fix the size of the kernel.
        axes: the axes to blur over; the others (channels) are not mixed.
        truncate: where the kernel ends, in standard deviations.

    Returns:
        Tree like `x`.

    Raises:
        TypeError: a leaf is not a float array, or `sigma` is not of Python numbers.
        ValueError: `sigma` or `truncate` is negative or not finite, or does not fit the axes; a
            leaf lacks an axis.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> x = jnp.zeros((5, 5)).at[2, 2].set(1.0)
        >>> b = jaxplain.baselines.blurred(x, sigma=0.5)
        >>> round(float(b[2, 2]), 3), round(float(b.sum()), 3)
        (0.619, 1.0)

    References:
        Fong, Vedaldi 2017, "Interpretable explanations of black boxes by meaningful perturbation"
        (the blur perturbation); Sturmfels, Lundberg, Lee 2020, "Visualizing the impact of feature
        attribution baselines".
    """
    x = _floats(x, "x")
    axes = tuple(axes)
    sigmas: tuple[Any, ...] = (
        tuple(sigma) if isinstance(sigma, tuple | list) else (sigma,) * len(axes)
    )
    if len(sigmas) != len(axes):
        raise ValueError(
            f"sigma has {len(sigmas)} numbers for {len(axes)} axes; give one, or one per axis."
        )
    for name, number in (*(("sigma", s) for s in sigmas), ("truncate", truncate)):
        if not isinstance(number, int | float | np.number):
            raise TypeError(
                f"{name} must be a Python number, since it fixes the size of the kernel, but is a "
                f"{type(number).__name__}."
            )
        if not (math.isfinite(number) and number >= 0):
            raise ValueError(f"{name} must be finite and not negative, but is {number}.")

    def blur(leaf: jax.Array) -> jax.Array:
        if any(not -leaf.ndim <= axis < leaf.ndim for axis in axes):
            raise ValueError(
                f"x of shape {leaf.shape} does not have the axes {axes}; name its spatial axes."
            )
        if len({axis % leaf.ndim for axis in axes}) < len(axes):
            raise ValueError(f"axes {axes} name an axis of shape {leaf.shape} twice.")
        result = leaf.astype(trees.wide_dtype(leaf.dtype))
        for axis, width in zip(axes, sigmas, strict=True):
            radius = int(truncate * width + 0.5)
            if radius and result.size:
                result = _blur_axis(result, axis, float(width), radius)
        return result.astype(leaf.dtype)

    return jax.tree.map(blur, x)


def uniform(key: Any, x: Any, minimum: Any = 0.0, maximum: Any = 1.0) -> Any:
    """A baseline of uniform noise.

    b_i ~ U(minimum, maximum), independent for each element.

    Args:
        key: typed key.
        x: one example, a tree of float arrays; its values are not used.
        minimum: a number, or an array (C,) matched to the last axis; or a tree like `x` of such.
        maximum: likewise.

    Returns:
        Tree like `x`. In dtypes narrower than float32 an element may round up to the maximum.

    Raises:
        TypeError: the key is not typed, or a leaf of `x` is not a float array.
        ValueError: a bound is neither a scalar nor as long as the last axis; Python numbers in the
            wrong order.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxplain
        >>> b = jaxplain.baselines.uniform(jax.random.key(0), jnp.zeros(100), -1.0, 1.0)
        >>> bool((b >= -1).all() & (b <= 1).all() & (b.std() > 0.4))
        True

    References:
        Sturmfels, Lundberg, Lee 2020, "Visualizing the impact of feature attribution baselines"
        (the uniform baseline).
    """
    checks.key(key)
    x = _floats(x, "x")
    low, high = _range(x, minimum, maximum)
    leaves, structure = jax.tree.flatten(x)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))

    def draw(leaf: jax.Array, key: Any, least: jax.Array, most: jax.Array) -> jax.Array:
        unit = jax.random.uniform(key, leaf.shape, trees.wide_dtype(leaf.dtype))
        least, most = (jnp.broadcast_to(v, leaf.shape).astype(unit.dtype) for v in (least, most))
        return (least + unit * (most - least)).astype(leaf.dtype)

    return jax.tree.map(draw, x, keys, low, high)


def samples(key: Any, dataset: Any, count: int, *, replace: bool = True) -> Any:
    """Examples drawn from a dataset, as baselines to average over.

    b_j = x_(i_j), with i_j uniform on the examples.

    Args:
        key: typed key.
        dataset: tree of arrays (n, ...) of any dtype, the examples on the leading axis; rows of all
            leaves stay together.
        count: how many, static.
        replace: whether an example may be drawn twice. Without replacement `count` is at most n.

    Returns:
        Tree of arrays (count, ...).

    Raises:
        TypeError: the key is not typed, or `count` is not an integer.
        ValueError: there are no examples, too few of them, or the leaves have different numbers of
            them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxplain
        >>> b = jaxplain.baselines.samples(jax.random.key(0), jnp.arange(4.0), 4, replace=False)
        >>> sorted(b.tolist())
        [0.0, 1.0, 2.0, 3.0]

    References:
        Erion, Janizek, Sturmfels, Lundberg, Lee 2021, "Improving performance of deep learning
        models with axiomatic attribution priors and expected gradients" (the
        expectation over baselines of the data).
    """
    checks.key(key)
    count = checks.integer(count, "count", 0)
    dataset = jax.tree.map(jnp.asarray, dataset)
    examples = _count(dataset)
    if not replace and count > examples:
        raise ValueError(
            f"{count} samples cannot be drawn without replacement from {examples} examples. Draw "
            "fewer or give replace=True."
        )
    chosen = jax.random.choice(key, examples, (count,), replace=bool(replace))
    return jax.tree.map(lambda leaf: leaf[chosen], dataset)


def maximum_distance(x: Any, minimum: Any = 0.0, maximum: Any = 1.0) -> Any:
    """The example of the range that is furthest from x, element by element.

    b_i = maximum if x_i - minimum < maximum - x_i, else minimum. No element of the baseline is near
    that of x, so none is blind to its own value.

    Args:
        x: one example, a tree of float arrays.
        minimum: a number, or an array (C,) matched to the last axis; or a tree like `x` of such.
        maximum: likewise.

    Returns:
        Tree like `x`. An element in the middle gets the minimum.

    Raises:
        TypeError: a leaf of `x` is not a float array.
        ValueError: a bound is neither a scalar nor as long as the last axis; Python numbers in the
            wrong order.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> jaxplain.baselines.maximum_distance(jnp.array([0.1, 0.5, 0.9])).tolist()
        [1.0, 0.0, 0.0]

    References:
        Sturmfels, Lundberg, Lee 2020, "Visualizing the impact of feature attribution baselines"
        (the maximum distance baseline).
    """
    x = _floats(x, "x")
    low, high = _range(x, minimum, maximum)

    def furthest(leaf: jax.Array, least: jax.Array, most: jax.Array) -> jax.Array:
        least, most = jnp.broadcast_to(least, leaf.shape), jnp.broadcast_to(most, leaf.shape)
        return jnp.where(leaf - least < most - leaf, most, least)

    return jax.tree.map(furthest, x, low, high)


def black_and_white(x: Any, minimum: Any = 0.0, maximum: Any = 1.0) -> BlackAndWhite:
    """The two ends of the range, whose attributions are averaged.

    black = minimum, white = maximum. Black sees no black pixel and white no white one; the mean of
    both attributions sees all.

    Args:
        x: one example, a tree of float arrays.
        minimum: a number, or an array (C,) matched to the last axis; or a tree like `x` of such.
        maximum: likewise.

    Returns:
        `BlackAndWhite(black, white)`, trees like `x`.

    Raises:
        TypeError: a leaf of `x` is not a float array.
        ValueError: a bound is neither a scalar nor as long as the last axis; Python numbers in the
            wrong order.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> pair = jaxplain.baselines.black_and_white(jnp.zeros((1, 3)), maximum=255.0)
        >>> pair.black.tolist(), pair.white.tolist()
        ([[0.0, 0.0, 0.0]], [[255.0, 255.0, 255.0]])

    References:
        Kapishnikov, Bolukbasi, Viegas, Terry 2019, "XRAI: better attributions through regions"
        (the black and the white baseline together).
    """
    x = _floats(x, "x")
    low, high = _range(x, minimum, maximum)
    spread = lambda leaf, bound: jnp.broadcast_to(bound, leaf.shape)
    return BlackAndWhite(jax.tree.map(spread, x, low), jax.tree.map(spread, x, high))


# ------------------------------------------------------------------------------------------ helpers


def _floats(tree: Any, name: str) -> Any:
    """A tree of float arrays, at least one."""
    checks.arrays(tree, name)
    if not jax.tree.leaves(tree):
        raise TypeError(f"{name} has no arrays: it is {tree!r}.")

    def check(leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(
                f"{name} must be of floats, but a leaf has dtype {array.dtype}. Convert an image "
                "first, `image.astype(jnp.float32) / 255`; token ids have no baseline of their "
                "own, their embeddings do."
            )
        return array

    return jax.tree.map(check, tree)


def _like(x: Any, value: Any, name: str) -> Any:
    """A value, or a tree of them, as one array per leaf of x: of shape () or of its last axis."""
    structure: Any = jax.tree.structure(x)
    if jax.tree.structure(value) != structure:
        if not jax.tree_util.all_leaves([value]):
            raise ValueError(
                f"{name} must be one number or array, or a tree like x, {structure}, but is a tree "
                f"{jax.tree.structure(value)}."
            )
        value = jax.tree.unflatten(structure, [value] * structure.num_leaves)

    def check(leaf: jax.Array, v: Any) -> jax.Array:
        v = jnp.asarray(v)
        if v.shape != () and (leaf.ndim == 0 or v.shape != leaf.shape[-1:]):
            raise ValueError(
                f"{name} must be a scalar or have one number for each channel of the last axis of "
                f"x, {leaf.shape}, but has shape {v.shape}."
            )
        v = v.astype(leaf.dtype)
        return v.reshape((1,) * (leaf.ndim - v.ndim) + v.shape)

    return jax.tree.map(check, x, value)


def _range(x: Any, minimum: Any, maximum: Any) -> tuple[Any, Any]:
    if isinstance(minimum, int | float) and isinstance(maximum, int | float) and minimum > maximum:
        raise ValueError(
            f"minimum must not be above maximum, but they are {minimum} and {maximum}."
        )
    return _like(x, minimum, "minimum"), _like(x, maximum, "maximum")


def _count(dataset: Any) -> int:
    """The number of examples of a dataset."""
    shapes = [leaf.shape for leaf in jax.tree.leaves(dataset)]
    if not shapes or any(shape == () for shape in shapes):
        raise ValueError(
            "dataset must have its examples on the leading axis of each leaf: (n, ...)."
        )
    counts = sorted({shape[0] for shape in shapes})
    if len(counts) > 1:
        raise ValueError(f"the leaves of dataset have different numbers of examples: {counts}.")
    if counts[0] == 0:
        raise ValueError("dataset has no examples: there is nothing to make a baseline of.")
    return int(counts[0])


def _blur_axis(x: jax.Array, axis: int, sigma: float, radius: int) -> jax.Array:
    """Convolution along one axis with a truncated Gaussian, mirrored at the edges."""
    offsets = np.arange(-radius, radius + 1, dtype=np.float64)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = jnp.asarray(taps / taps.sum(), x.dtype)[:, None, None]
    lines = jnp.moveaxis(x, axis, -1)
    rows = lines.reshape(math.prod(lines.shape[:-1]), lines.shape[-1])
    padded = jnp.pad(rows, ((0, 0), (radius, radius)), mode="symmetric")
    # one channel and the layout NWC, which XLA keeps fast on CPU also inside loops
    result = jax.lax.conv_general_dilated(
        padded[..., None],
        kernel,
        window_strides=(1,),
        padding="VALID",
        dimension_numbers=("NWC", "WIO", "NWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.moveaxis(result[..., 0].reshape(lines.shape), -1, axis)
