"""Masks over the parts of an example, and what becomes of the parts that are masked.

    masks:         cells in [0, 1]^n  ->  mask = expand(cells, x), a tree that broadcasts against x
    perturbation:  (x, baseline)  ->  (mask  ->  x'),    x' = x where the mask is 1

A part (a cell of a grid, a segment, a token, a column) is one number of `cells`; 1 keeps it and 0
takes it out. Families of methods that evaluate a model on masked examples share these: they differ
in which cells they draw and in what they make of the outputs.

A perturbation is called twice: with the example, outside the loop over masks, where it prepares
what all of them share; and with each mask inside.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import baselines, checks, trees

__all__ = [
    "Masks",
    "amplitude",
    "blur",
    "each",
    "elements",
    "grid",
    "replace",
    "segments",
    "tokens",
    "windows",
]

Perturbation = Callable[[Any, Any], Callable[[Any], Any]]


class Masks(NamedTuple):
    """The parts of an example.

    Attributes:
        shape: `x -> shape of the cells`, a tuple; x may be a tree of `jax.ShapeDtypeStruct`.
        expand: `cells, x -> mask`: from a float array of that shape to a tree like x whose leaves
            broadcast against those of x. Linear in the cells.
        shifted: None, or where masks can be moved `cells, x, shift -> mask`: for a shift in [0, 1)
            along each axis of the cells, a window on a mask that is one cell larger than x, which
            begins at that share of a cell.
    """

    shape: Callable[[Any], tuple[int, ...]]
    expand: Callable[[jax.Array, Any], Any]
    shifted: Callable[[jax.Array, Any, jax.Array], Any] | None = None


def grid(*sizes: int, axes: Sequence[int] | None = None, upsampling: str = "nearest") -> Masks:
    """A grid of cells over some axes of an example: 8 x 8 cells of an image.

        mask = cells upsampled to the axes of x, the same for all other axes (channels)

    Args:
        sizes: the number of cells along each axis: `grid(8, 8)`.
        axes: which axes of x; the first ones unless given. All leaves of x must have them.
        upsampling: "nearest", cells of equal size with sharp edges (element i is in cell
            floor(i size / length)), or "bilinear", with values that go over into each other and
            masks that can be shifted.

    Returns:
        `Masks` with cells of shape `sizes`.

    Raises:
        TypeError: a size is not an integer.
        ValueError: there are not as many axes as sizes, upsampling is neither of the two, or x has
            fewer axes or a side shorter than the number of cells along it.

    Example:
        >>> import jax.numpy as jnp
        >>> masks = grid(1, 2)
        >>> mask = masks.expand(jnp.array([[0.0, 1.0]]), jnp.zeros((2, 4, 3)))
        >>> mask.shape, mask[:, :, 0].tolist()
        ((2, 4, 1), [[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]])

    References:
        Fel, Cadene, Chalvidal, Cord, Vigouroux and Serre, "Look at the Variance!", NeurIPS 2021
        (nearest); Petsiuk, Das and Saenko, "RISE", BMVC 2018 (bilinear).
    """
    if not sizes:
        raise ValueError("grid needs the number of cells along each axis, such as grid(8, 8).")
    for size in sizes:
        checks.integer(size, "each size of the grid")
    axes = tuple(range(len(sizes))) if axes is None else tuple(axes)
    if len(axes) != len(sizes):
        raise ValueError(f"grid has {len(sizes)} sizes for {len(axes)} axes; give one for each.")
    if upsampling not in ("nearest", "bilinear"):
        raise ValueError(f'upsampling must be "nearest" or "bilinear", but is {upsampling!r}.')

    def expand_leaf(cells: jax.Array, leaf: Any, shift: jax.Array | None = None) -> jax.Array:
        mask = cells
        for place, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
            if not -leaf.ndim <= axis < leaf.ndim:
                raise ValueError(f"the grid is over axis {axis}, but x has shape {leaf.shape}.")
            length = leaf.shape[axis]
            if length < size:
                raise ValueError(
                    f"the grid has {size} cells along axis {axis}, but x has {length} elements "
                    "there. Use a coarser grid."
                )
            if shift is None:
                mask = _upsampled(mask, place, length, upsampling)
            else:
                mask = _shifted(mask, place, length, shift[place])
        spread = [1] * leaf.ndim
        places = [axis % leaf.ndim for axis in axes]
        for axis in places:
            spread[axis] = leaf.shape[axis]
        order = np.argsort(places)  # the axes of the cells in the order of those of x
        return jnp.transpose(mask, tuple(int(i) for i in order)).reshape(spread)

    def shifted(cells: jax.Array, x: Any, shift: jax.Array) -> Any:
        return jax.tree.map(lambda leaf: expand_leaf(cells, leaf, shift), x)

    return Masks(
        lambda x: tuple(sizes),
        lambda cells, x: jax.tree.map(lambda leaf: expand_leaf(cells, leaf), x),
        None if upsampling == "nearest" else shifted,
    )


def windows(count: int, *, axis: int = 0, upsampling: str = "nearest") -> Masks:
    """Windows along one axis: stretches of a time series, or frames of audio.

        mask_i = cells[floor(i count / length)]

    Args:
        count: the number of windows, of equal length up to one element.
        axis: the axis of time.
        upsampling: "nearest" or "bilinear", as in `grid`.

    Returns:
        `Masks` with cells of shape (count,).

    Raises:
        TypeError: count is not an integer.
        ValueError: as in `grid`.

    Example:
        >>> import jax.numpy as jnp
        >>> windows(2).expand(jnp.array([0.0, 1.0]), jnp.zeros(5)).tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0]

    References:
        docs/sobol.md, "Masks".
    """
    return grid(checks.integer(count, "count"), axes=(axis,), upsampling=upsampling)


def tokens(*, axis: int = 0) -> Masks:
    """One part for each position along an axis: the tokens of embedded text.

        mask_i = cells[i], the same for all other axes

    Args:
        axis: the axis of positions, which all leaves of x have, with one length.

    Returns:
        `Masks` with cells of shape (positions,).

    Raises:
        ValueError: x has no such axis, or leaves of several lengths.

    Example:
        >>> import jax.numpy as jnp
        >>> embedded = jnp.zeros((5, 16))
        >>> tokens().shape(embedded), tokens().expand(jnp.ones(5), embedded).shape
        ((5,), (5, 1))

    References:
        docs/sobol.md, "Masks".
    """

    def shape(x: Any) -> tuple[int, ...]:
        lengths = set()
        for leaf in jax.tree.leaves(x):
            if not -leaf.ndim <= axis < leaf.ndim:
                raise ValueError(f"tokens are along axis {axis}, but x has shape {leaf.shape}.")
            lengths.add(leaf.shape[axis])
        if len(lengths) != 1:
            raise ValueError(f"tokens need leaves of one length, but x has {sorted(lengths)}.")
        return (lengths.pop(),)

    def expand(cells: jax.Array, x: Any) -> Any:
        def one(leaf: Any) -> jax.Array:
            spread = [1] * leaf.ndim
            spread[axis] = len(cells)
            return cells.reshape(spread)

        return jax.tree.map(one, x)

    return Masks(shape, expand)


def elements() -> Masks:
    """One part for each element of the tree: the columns of a table.

        mask = cells, in the order of the leaves

    Returns:
        `Masks` with cells of shape (elements of all leaves,).

    Raises:
        ValueError: never.

    Example:
        >>> import jax.numpy as jnp
        >>> x = {"age": jnp.zeros(()), "income": jnp.zeros(2)}
        >>> elements().shape(x), elements().expand(jnp.arange(3.0), x)["income"].tolist()
        ((3,), [1.0, 2.0])

    References:
        docs/sobol.md, "Masks".
    """

    def shape(x: Any) -> tuple[int, ...]:
        return (sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(x)),)

    def expand(cells: jax.Array, x: Any) -> Any:
        leaves, structure = jax.tree.flatten(x)
        parts, start = [], 0
        for leaf in leaves:
            size = int(np.prod(leaf.shape))
            parts.append(cells[start : start + size].reshape(leaf.shape))
            start += size
        return jax.tree.unflatten(structure, parts)

    return Masks(shape, expand)


def segments(labels: Any, count: int) -> Masks:
    """Segments of any shape: superpixels, words of several tokens, groups of columns.

        mask_i = cells[labels_i]

    Args:
        labels: an integer array, or a tree of them like x, whose shape is that of the first axes of
            x (of the image without its channels): the segment of each place, 0 to `count` - 1.
        count: the number of segments.

    Returns:
        `Masks` with cells of shape (count,).

    Raises:
        TypeError: labels are not integers, or count is not one.
        ValueError: a label that is known is out of range, or the shapes do not fit those of x.

    Example:
        >>> import jax.numpy as jnp
        >>> masks = segments(jnp.array([[0, 0, 1], [2, 2, 1]]), 3)
        >>> masks.expand(jnp.array([0.0, 0.5, 1.0]), jnp.zeros((2, 3, 3)))[:, :, 0].tolist()
        [[0.0, 0.0, 0.5], [1.0, 1.0, 0.5]]

    References:
        Ribeiro, Singh and Guestrin, "Why Should I Trust You?", KDD 2016 (superpixels as parts).
    """
    count = checks.integer(count, "count")
    checks.arrays(labels, "labels")
    labels = jax.tree.map(jnp.asarray, labels)
    for leaf in jax.tree.leaves(labels):
        if not jnp.issubdtype(leaf.dtype, jnp.integer):
            raise TypeError(f"labels must be integers, but have dtype {leaf.dtype}.")
        if not isinstance(leaf, jax.core.Tracer) and leaf.size:
            low, high = int(leaf.min()), int(leaf.max())
            if low < 0 or high >= count:
                raise ValueError(
                    f"labels must be from 0 to count - 1 = {count - 1}, but span {low} to {high}."
                )

    def expand(cells: jax.Array, x: Any) -> Any:
        def one(own: jax.Array, leaf: Any) -> jax.Array:
            if leaf.shape[: own.ndim] != own.shape:
                raise ValueError(
                    "labels must have the shape of the first axes of x, but have shape "
                    f"{own.shape} where x has {leaf.shape}."
                )
            return cells[own].reshape(own.shape + (1,) * (leaf.ndim - own.ndim))

        is_one = len(jax.tree.leaves(labels)) == 1
        own = jax.tree.map(lambda _: jax.tree.leaves(labels)[0], x) if is_one else labels
        return jax.tree.map(one, own, x)

    return Masks(lambda x: (count,), expand)


def each(masks: Masks) -> Masks:
    """The same masks for each leaf of x by itself: modalities, or bands of wavelets, apart.

        cells of leaf 1, cells of leaf 2, ...    in one vector

    Args:
        masks: what each leaf is divided by.

    Returns:
        `Masks` with cells of shape (cells of all leaves,), in the order of the leaves.

    Raises:
        ValueError: as `masks` for one of the leaves.

    Example:
        >>> import jax.numpy as jnp
        >>> x = {"left": jnp.zeros((2, 2)), "right": jnp.zeros((4, 4))}
        >>> each(grid(1, 2)).expand(jnp.arange(4.0), x)["right"][0].tolist()
        [2.0, 2.0, 3.0, 3.0]

    References:
        docs/sobol.md, "Masks".
    """

    def shapes(x: Any) -> list[tuple[int, ...]]:
        return [masks.shape(leaf) for leaf in jax.tree.leaves(x)]

    def expand(cells: jax.Array, x: Any) -> Any:
        leaves, structure = jax.tree.flatten(x)
        parts, start = [], 0
        for leaf, shape in zip(leaves, shapes(x), strict=True):
            size = math.prod(shape)
            own = cells[start : start + size].reshape(shape)
            parts.append(masks.expand(own, leaf))
            start += size
        return jax.tree.unflatten(structure, parts)

    return Masks(lambda x: (sum(map(math.prod, shapes(x))),), expand)


def replace(x: Any, baseline: Any) -> Callable[[Any], Any]:
    """The perturbation that puts the baseline in the place of what is masked.

        x' = mask x + (1 - mask) baseline

    Args:
        x: the example, a tree of float arrays.
        baseline: a tree like x.

    Returns:
        `mask -> x'`, a tree like x.

    Raises:
        ValueError: the trees differ.

    Example:
        >>> import jax.numpy as jnp
        >>> replace(jnp.array([2.0, 2.0]), jnp.zeros(2))(jnp.array([1.0, 0.25])).tolist()
        [2.0, 0.5]

    References:
        Fel et al., "Look at the Variance!", NeurIPS 2021 ("inpainting").
    """
    return lambda mask: _between(baseline, x, mask)


def amplitude(scale: float | jax.Array = 1.0) -> Perturbation:
    """The perturbation that adds to x, in place of taking out: the baseline plays no part.

        x' = x + scale (mask - 1/2)

    Args:
        scale: in the units of x. May be a traced array.

    Returns:
        A perturbation `(x, baseline) -> (mask -> x')`.

    Raises:
        TypeError: scale is not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([2.0, 2.0])
        >>> amplitude(0.5)(x, x)(jnp.array([1.0, 0.0])).tolist()
        [2.25, 1.75]

    References:
        Fel et al., "Look at the Variance!", NeurIPS 2021. Deviation: as the docstring of the
        authors' code says; the code itself computes x scale (mask - 1/2).
    """
    scale = checks.number(scale, "scale")

    def prepare(x: Any, baseline: Any) -> Callable[[Any], Any]:
        def one(leaf: jax.Array, mask: jax.Array) -> jax.Array:
            wide = leaf.astype(trees.wide_dtype(leaf.dtype))
            step = jnp.asarray(scale).astype(wide.dtype) * (mask.astype(wide.dtype) - 0.5)
            return (wide + step).astype(leaf.dtype)

        return lambda mask: jax.tree.map(one, x, mask)

    return prepare


def blur(sigma: float, *, levels: int = 4, axes: Sequence[int] = (0, 1)) -> Perturbation:
    """The perturbation that blurs what is masked, the more the lower the mask.

        x' = x blurred by sigma (1 - mask), between the nearest of the levels sigma l / levels

    The blurred copies are made once for each example. The baseline plays no part.

    Args:
        sigma: the blur where the mask is 0, in elements.
        levels: how many blurred copies; between them values are interpolated. Static.
        axes: the axes to blur over.

    Returns:
        A perturbation `(x, baseline) -> (mask -> x')`.

    Raises:
        TypeError: levels is not an integer.
        ValueError: as `jaxplain.baselines.blurred`.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.eye(8)
        >>> perturbed = blur(2.0)(x, x)(jnp.ones((8, 8)))
        >>> bool((perturbed == x).all())
        True

    References:
        Fong, Patrick and Vedaldi, "Understanding Deep Networks via Extremal Perturbations", ICCV
        2019 (the pyramid).
    """
    levels = checks.integer(levels, "levels")

    def prepare(x: Any, baseline: Any) -> Callable[[Any], Any]:
        copies = [x] + [
            baselines.blurred(x, sigma=sigma * level / levels, axes=tuple(axes))
            for level in range(1, levels + 1)
        ]

        def at(mask: Any) -> Any:
            def one(mask: jax.Array, *pyramid: jax.Array) -> jax.Array:
                dtype = trees.wide_dtype(pyramid[0].dtype)
                depth = (1 - mask.astype(dtype)) * levels
                near = lambda level: jnp.maximum(1 - jnp.abs(depth - level), 0)
                terms = [near(k) * copy.astype(dtype) for k, copy in enumerate(pyramid)]
                return sum(terms[1:], terms[0]).astype(pyramid[0].dtype)

            return jax.tree.map(one, mask, *copies)

        return at

    return prepare


def _between(low: Any, high: Any, mask: Any) -> Any:
    """Low + mask (high - low), exact at both ends, in the dtype of `high`."""

    def one(a: jax.Array, b: jax.Array, m: jax.Array) -> jax.Array:
        dtype = trees.wide_dtype(b.dtype)
        m = m.astype(dtype)
        return (m * b.astype(dtype) + (1 - m) * a.astype(dtype)).astype(b.dtype)

    return jax.tree.map(one, low, high, mask)


def _upsampled(array: jax.Array, axis: int, length: int, how: str) -> jax.Array:
    size = array.shape[axis]
    if how == "nearest":
        return jnp.take(array, jnp.asarray(np.arange(length) * size // length), axis=axis)
    shape = tuple(length if place == axis else n for place, n in enumerate(array.shape))
    return jax.image.resize(array, shape, "linear", antialias=False)


def _shifted(array: jax.Array, axis: int, length: int, shift: jax.Array) -> jax.Array:
    """`length` elements of the cells spread over one cell more, from a share of a cell on."""
    size = array.shape[axis]
    cell = -(-length // size)  # elements of a cell
    start = jnp.floor(shift * cell).astype(array.dtype)
    place = start + jnp.arange(length, dtype=array.dtype) + 0.5
    source = jnp.clip(place * (size / ((size + 1) * cell)) - 0.5, 0, size - 1)
    apart = source[:, None] - jnp.arange(size, dtype=array.dtype)[None, :]
    weights = jnp.maximum(1 - jnp.abs(apart), 0)
    highest = jax.lax.Precision.HIGHEST
    mask = jnp.tensordot(weights, array, axes=(1, axis), precision=highest)
    return jnp.moveaxis(mask, 0, axis)
