"""Discrete wavelet transforms: an image or a signal by scale, orientation and place.

    a_k = sum_m h_m x_(2k+m-s),    d_k = sum_m (-1)^m h_(F-1-m) x_(2k+m-s),    s = F/2 - 1

along each axis in turn, and again on what is smooth along all of them; h is the scaling filter of F
taps, indices are periodic, and the support of a coefficient is centred on the elements 2k and 2k+1
that it stands for. For even lengths that is a rotation: it keeps the energy, and the adjoint is the
inverse.

Whatever explains an input explains wavelet coefficients too: `Coefficients` is a tree of arrays
that knows its own inverse, so `explain(lambda c, *args: f(reconstruct(c), *args))(decompose(x),
...)` says which scales, orientations and places made the model say this.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks, trees

__all__ = [
    "Coefficients",
    "Orientations",
    "band_sums",
    "daubechies",
    "decompose",
    "reconstruct",
    "spatial_maps",
]

_HIGHEST_ORDER = 10  # up to here the filters are orthonormal to 2e-15


class Orientations(NamedTuple):
    """The details of one level of an image, by what they respond to.

    Attributes:
        horizontal: edges along the second axis: details along the first, smooth along the second.
        vertical: edges along the first axis: smooth along the first, details along the second.
        diagonal: details along both.
    """

    horizontal: Any
    vertical: Any
    diagonal: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["approximation", "details"],
    meta_fields=["wavelet", "axes", "sides"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Coefficients:
    """Wavelet coefficients, or values given to each of them: a tree of arrays, the bands.

    A side of n elements has ceil(n / 2^(k+1)) in `details[k]`, and ceil(n / 2^levels) in
    `approximation`; the axes that are not transformed are as they were.

    Attributes:
        approximation: what is left at the coarsest scale.
        details: one for each level, the finest first: `Orientations` where there are two axes, an
            array where there is one.
        wavelet: the name, or the scaling filter; static, as are the others below.
        axes: the axes that are transformed.
        sides: the lengths of these axes in the image itself.
    """

    approximation: Any
    details: tuple[Any, ...]
    wavelet: str | tuple[float, ...]
    axes: tuple[int, ...]
    sides: tuple[int, ...]


def decompose(
    x: Any,
    *,
    wavelet: str | Sequence[float] = "haar",
    levels: int = 3,
    axes: Sequence[int] = (0, 1),
) -> Coefficients:
    """The wavelet coefficients of an image or a signal.

        c = W x,    sum c^2 = sum x^2

    with periodic boundaries. A side of any length will do: where a level finds an odd number of
    elements it repeats the last, so that constants have no details there either, and `reconstruct`
    drops the copy. (Then sum c^2 is the energy with the copies, and there are a few more
    coefficients than elements.) In float32 or wider.

    Args:
        x: a float array: (H, W) or (H, W, C) for the default axes.
        wavelet: "haar", or "db1" to "db10", the extremal phase wavelets of Daubechies, of which
            "dbN" has 2N taps and details that vanish for polynomials of degree below N; or the
            scaling filter of any orthogonal wavelet, such as `pywt.Wavelet("sym4").rec_lo`. Static.
        levels: how often to halve the sides. Filters may be longer than what is left: they wrap.
        axes: the two axes of an image, or the one of a signal.

    Returns:
        `Coefficients`, in the dtype of `x`; Haar coefficients of level k are 2^k times means
        and differences of means, or sqrt(2^k) times along one axis.

    Raises:
        TypeError: `x` is not a float array, or an option is of the wrong type.
        ValueError: `x` lacks an axis or is shorter than 2; there are more levels than halvings; the
            wavelet is not known, or the filter is not that of an orthogonal wavelet.

    Example:
        >>> import jax.numpy as jnp
        >>> import jaxplain
        >>> x = jnp.array([[1.0, 3.0], [5.0, 7.0]])
        >>> c = jaxplain.wavelets.decompose(x, levels=1)
        >>> c.approximation.round(3).tolist(), c.details[0].horizontal.round(3).tolist()
        ([[8.0]], [[-4.0]])

    References:
        Mallat 1989, "A theory for multiresolution signal decomposition"; Daubechies 1988,
        "Orthonormal bases of compactly supported wavelets". Signs and boundaries are those of
        PyWavelets' `mode="periodization"`; levels are the finest first.
    """
    x = _floats(x, "x")
    axes = _axes(x, axes)
    levels = checks.integer(levels, "levels")
    wavelet = _wavelet(wavelet)
    sides = tuple(x.shape[axis] for axis in axes)
    most = min((side - 1).bit_length() if side else 0 for side in sides)
    if most == 0:
        raise ValueError(
            f"x must have two elements or more along the axes {axes}, but has shape {x.shape}."
        )
    if levels > most:
        raise ValueError(
            f"x has sides {sides} along the axes {axes}, which can be halved {most} times, but "
            f"levels is {levels}. Give at most levels={most}."
        )
    approximation, details = _decompose(x, wavelet, levels, axes)
    return Coefficients(approximation, details, wavelet, axes, sides)


def reconstruct(coefficients: Coefficients) -> jax.Array:
    """The image or signal that has these wavelet coefficients.

        x = W^T c

    the inverse of `decompose` to rounding, for sides of any length. In float32 or wider.

    Args:
        coefficients: of `decompose`, or a tree like it: masked, perturbed, a sum.

    Returns:
        Array of the shape that was decomposed, in the dtype of the coefficients.

    Raises:
        TypeError: `coefficients` are not `Coefficients`, or a band is not a float array.
        ValueError: the shape of a band does not fit the others.

    Example:
        >>> import dataclasses, jax, jax.numpy as jnp
        >>> import jaxplain
        >>> x = jnp.arange(21.0).reshape(7, 3)
        >>> c = jaxplain.wavelets.decompose(x, wavelet="db2", levels=2)
        >>> bool(jnp.allclose(jaxplain.wavelets.reconstruct(c), x, atol=1e-4))
        True
        >>> c = jaxplain.wavelets.decompose(x, levels=1)
        >>> smooth = dataclasses.replace(c, details=jax.tree.map(jnp.zeros_like, c.details))
        >>> [round(float(mean), 3) for mean in jaxplain.wavelets.reconstruct(smooth)[0]]
        [2.0, 2.0, 3.5]

    References:
        Mallat 1989, "A theory for multiresolution signal decomposition".
    """
    coefficients = _check(coefficients, "coefficients", every_axis=True)
    return _reconstruct(coefficients)


def spatial_maps(values: Coefficients, *, conserve: bool = False) -> Coefficients:
    """Values of coefficients on the grid of the image: each band as an image of its own.

        map_i = v_k,    k = floor(i / 2^level) along each axis

    The sum of all, `jax.tree.reduce(jnp.add, spatial_maps(values))`, is one map of where; those of
    one level say where at that scale.

    Args:
        values: a value for each coefficient: `Coefficients` that hold, for example, an
            attribution. Axes that are not transformed, such as channels, may be absent where the
            axes come first.
        conserve: whether each value is shared among the elements it stands for, so that a map
            sums to what its band sums to. Otherwise each of them gets the value itself.

    Returns:
        `Coefficients` whose bands all have the sides of the image.

    Raises:
        TypeError: `values` are not `Coefficients` of float arrays.
        ValueError: the sides of a band are not those of its coefficients.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxplain
        >>> c = jaxplain.wavelets.decompose(jnp.array([3.0, 1.0, 1.0]), levels=1, axes=(0,))
        >>> [round(float(v), 3) for v in jaxplain.wavelets.spatial_maps(c).details[0]]
        [1.414, 1.414, 0.0]

    References:
        Kasmi, Dubus, Saint-Drenan, Blanc 2023, "Assessment of the reliability of a model's decision
        by generalizing attribution to the wavelet domain" (the spatial WCAM).
    """
    values = _check(values, "values")

    def enlarge(level: int, band: jax.Array) -> jax.Array:
        wide = trees.widen(band)
        for axis, side in zip(values.axes, values.sides, strict=True):
            axis = axis % wide.ndim
            if conserve:
                sizes = np.bincount(np.arange(side) >> level)
                others = [a for a in range(wide.ndim) if a != axis]
                wide = wide / jnp.asarray(np.expand_dims(sizes, others), wide.dtype)
            wide = jnp.repeat(wide, 2**level, axis)
            wide = jax.lax.slice_in_dim(wide, 0, side, axis=axis)
        return wide.astype(band.dtype)

    return _map_levels(enlarge, values)


def band_sums(values: Coefficients) -> Coefficients:
    """The sum of each band: how much there is of each level and orientation.

        s = sum_k v_k

    Args:
        values: a value for each coefficient, as in `spatial_maps`.

    Returns:
        `Coefficients` whose bands have lost their `axes`: scalars for (H, W), one number for each
        channel for (H, W, C). Summed in float32 or wider.

    Raises:
        TypeError: `values` are not `Coefficients` of float arrays.
        ValueError: the sides of a band are not those of its coefficients.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import jaxplain
        >>> x = jnp.tile(jnp.array([1.0, -1.0]), (4, 2))  # the finest vertical stripes
        >>> c = jaxplain.wavelets.decompose(x, levels=2)
        >>> energy = jaxplain.wavelets.band_sums(jax.tree.map(jnp.square, c))
        >>> [round(float(e), 3) for e in energy.details[0]], round(float(energy.approximation), 3)
        ([0.0, 16.0, 0.0], 0.0)

    References:
        Kasmi, Dubus, Saint-Drenan, Blanc 2023, "Assessment of the reliability of a model's decision
        by generalizing attribution to the wavelet domain" (the importance of scales).
    """
    values = _check(values, "values")
    add = lambda _, band: trees.widen(band).sum(values.axes).astype(band.dtype)
    return _map_levels(add, values)


@functools.cache
def _daubechies(order: int) -> tuple[float, ...]:
    powers = [math.comb(order - 1 + k, k) for k in range(order)]
    middle = 1 - 2 * np.roots(powers[::-1])  # (z + 1/z) / 2 at the roots of P(y)
    shift = np.sqrt(middle * middle - 1 + 0j)
    inside = np.where(np.abs(middle + shift) < 1, middle + shift, middle - shift)
    taps = np.poly(np.concatenate([-np.ones(order), inside])).real
    return tuple((taps * math.sqrt(2) / taps.sum()).tolist())


def daubechies(order: int) -> np.ndarray:
    """The scaling filter of a Daubechies wavelet, of extremal phase.

        |h(w)|^2 = 2 cos(w/2)^(2N) P(sin(w/2)^2),    P(y) = sum_(k<N) binomial(N-1+k, k) y^k

    by spectral factorisation: each root of P gives one z within the unit circle, and h is
    (1 + z)^N times these factors.

    Args:
        order: N, from 1 (Haar) to 10; the filter has 2N taps and N vanishing moments.

    Returns:
        float64 numpy array (2N,), made on the host, with sum sqrt(2) and norm 1.

    Raises:
        TypeError: `order` is not an integer.
        ValueError: `order` is out of range.

    Example:
        >>> import jaxplain
        >>> (jaxplain.wavelets.daubechies(2) * 4 * 2**0.5).round(3).tolist()  # 1 + sqrt(3), ...
        [2.732, 4.732, 1.268, -0.732]

    References:
        Daubechies 1988, "Orthonormal bases of compactly supported wavelets", section 4.
    """
    order = checks.integer(order, "order")
    if order > _HIGHEST_ORDER:
        raise ValueError(
            f"order must be at most {_HIGHEST_ORDER}, beyond which the roots lose digits, but is "
            f"{order}."
        )
    return np.array(_daubechies(order))


# -------------------------------------------------------------------------------- the transform


@functools.partial(jax.jit, static_argnames=("wavelet", "levels", "axes"))
def _decompose(x: jax.Array, wavelet: Any, levels: int, axes: tuple[int, ...]) -> Any:
    smooth, details = trees.widen(x), []
    for _ in range(levels):
        bands = [smooth]
        for axis in axes:  # smooth before detail, the first axis outermost
            bands = [half for band in bands for half in _analyse(band, axis % x.ndim, wavelet)]
        smooth, *rest = bands
        if len(axes) == 1:
            details.append(rest[0])
        else:
            vertical, horizontal, diagonal = rest
            details.append(Orientations(horizontal, vertical, diagonal))
    return jax.tree.map(lambda band: band.astype(x.dtype), (smooth, tuple(details)))


@jax.jit
def _reconstruct(coefficients: Coefficients) -> jax.Array:
    dtype = trees.widest(*(band.dtype for band in jax.tree.leaves(coefficients)))
    wide = lambda band: band.astype(trees.wide_dtype(dtype))
    smooth, details, axes = (
        wide(coefficients.approximation),
        jax.tree.map(wide, coefficients.details),
        [axis % coefficients.approximation.ndim for axis in coefficients.axes],
    )
    for level in reversed(range(len(details))):
        bands = [smooth, details[level]]
        if len(axes) == 2:
            horizontal, vertical, diagonal = details[level]
            bands = [smooth, vertical, horizontal, diagonal]
        for place in reversed(range(len(axes))):
            size = _halved(coefficients.sides[place], level)
            pairs = zip(bands[::2], bands[1::2], strict=True)
            bands = [_synthesise(*pair, axes[place], size, coefficients.wavelet) for pair in pairs]
        (smooth,) = bands
    return smooth.astype(dtype)


def _analyse(x: jax.Array, axis: int, wavelet: Any) -> tuple[jax.Array, jax.Array]:
    """One level along one axis: what is smooth, and the details."""
    low, high = _filters(wavelet)
    x = _pad(x, axis, 0, x.shape[axis] % 2, "edge")
    count, shift = x.shape[axis] // 2, len(low) // 2 - 1
    x = _pad(x, axis, shift, shift, "wrap")
    # Slices of the even and of the odd elements: their transposes are cheap, those of strides not.
    pairs = x.reshape(*x.shape[:axis], count + shift, 2, *x.shape[axis + 1 :])
    phases = [jax.lax.index_in_dim(pairs, p, axis + 1, keepdims=False) for p in (0, 1)]
    shifted = [
        jax.lax.slice_in_dim(phases[m % 2], m // 2, m // 2 + count, axis=axis)
        for m in range(len(low))
    ]
    return _combine(low, shifted), _combine(high, shifted)


def _synthesise(
    smooth: jax.Array, detail: jax.Array, axis: int, size: int, wavelet: Any
) -> jax.Array:
    """The transpose of `_analyse`; where the length `size` is odd, without the repeated element."""
    low, high = _filters(wavelet)
    count, half = smooth.shape[axis], len(low) // 2
    shift = half - 1
    more = (shift + 1) // 2
    # Element 2k + p of the result, moved by the shift, has taps 2m + p of the coefficients k - m.
    shifted = [
        jax.lax.slice_in_dim(padded, half - 1 - m, half - 1 - m + count + more, axis=axis)
        for padded in (_pad(band, axis, half - 1, more, "wrap") for band in (smooth, detail))
        for m in range(half)
    ]
    phases = [_combine((*low[p::2], *high[p::2]), shifted) for p in (0, 1)]
    shape = list(smooth.shape)
    shape[axis] = 2 * (count + more)
    woven = jnp.stack(phases, axis + 1).reshape(shape)
    return jax.lax.slice_in_dim(woven, shift, shift + size, axis=axis)


def _combine(weights: Sequence[float], arrays: Sequence[jax.Array]) -> jax.Array:
    terms = (jnp.asarray(w, array.dtype) * array for w, array in zip(weights, arrays, strict=True))
    return functools.reduce(operator.add, terms)


def _pad(x: jax.Array, axis: int, before: int, after: int, mode: str) -> jax.Array:
    widths = [(before, after) if a == axis else (0, 0) for a in range(x.ndim)]
    return jnp.pad(x, widths, mode=mode) if before or after else x


@functools.cache
def _filters(wavelet: str | tuple[float, ...]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The scaling filter and the wavelet filter, its mirror with alternating signs."""
    if isinstance(wavelet, tuple):
        low = wavelet
    else:
        low = _daubechies(1 if wavelet == "haar" else int(wavelet[2:]))
    return low, tuple((-1) ** m * tap for m, tap in enumerate(reversed(low)))


def _halved(side: int, times: int) -> int:
    return -(-side >> times)  # rounded up


# ------------------------------------------------------------------------------------ arguments


def _floats(value: Any, name: str) -> jax.Array:
    if not jax.tree_util.all_leaves([value]):
        raise TypeError(f"{name} must be one array, but is a {type(value).__name__}.")
    checks.arrays(value, name)
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(
            f"{name} must be float, but has dtype {array.dtype}. Convert an image first: "
            "`image.astype(jnp.float32) / 255`."
        )
    return array


def _axes(x: jax.Array, axes: Sequence[int]) -> tuple[int, ...]:
    axes = tuple(checks.integer(axis, "each axis", minimum=-64) for axis in axes)
    if len(axes) not in (1, 2):
        raise ValueError(
            f"axes must be the one of a signal or the two of an image, but are {axes}."
        )
    if any(not -x.ndim <= axis < x.ndim for axis in axes):
        raise ValueError(
            f"x of shape {x.shape} does not have the axes {axes}. For a signal: `axes=(0,)`."
        )
    if len({axis % x.ndim for axis in axes}) < len(axes):
        raise ValueError(f"axes {axes} name an axis of shape {x.shape} twice.")
    return axes


def _wavelet(wavelet: str | Sequence[float]) -> str | tuple[float, ...]:
    if isinstance(wavelet, str):
        names = ["haar", *(f"db{order}" for order in range(1, _HIGHEST_ORDER + 1))]
        if wavelet not in names:
            raise ValueError(
                f"wavelet must be one of {', '.join(names)}, or a scaling filter, but is "
                f"{wavelet!r}."
            )
        return wavelet
    try:
        low = np.asarray(wavelet, np.float64)
    except (TypeError, ValueError, jax.errors.TracerArrayConversionError):
        raise TypeError(
            "wavelet must be a name or the numbers of a scaling filter, known when the program is "
            f"compiled, but is a {type(wavelet).__name__}."
        ) from None
    if low.ndim != 1 or low.size == 0 or low.size % 2:
        raise ValueError(
            f"a scaling filter must have an even number of taps, but has shape {low.shape}."
        )
    overlaps = np.correlate(low, low, "full")[low.size - 1 :: 2]
    overlaps[0] -= 1
    error = max(np.abs(overlaps).max(), abs(low.sum() - math.sqrt(2)))
    if not error <= 1e-6:
        raise ValueError(
            "a scaling filter must sum to sqrt(2) and be orthonormal to its shifts by two taps, "
            f"but this one misses that by {error:.2g}. Biorthogonal wavelets are not of this kind."
        )
    return tuple(low.tolist())


def _check(values: Any, name: str, *, every_axis: bool = False) -> Coefficients:
    """Coefficients of float arrays whose sides, or all of whose axes, fit each other."""
    if not isinstance(values, Coefficients):
        raise TypeError(
            f"{name} must be what `decompose` returns, or a tree like it, but is a "
            f"{type(values).__name__}."
        )
    values = jax.tree.map(lambda band: _floats(band, f"each band of {name}"), values)
    like = values.approximation.shape

    def check(level: int, band: jax.Array) -> jax.Array:
        if any(not -band.ndim <= axis < band.ndim for axis in values.axes):
            raise ValueError(
                f"a band of {name} has shape {band.shape}, which lacks one of the axes "
                f"{values.axes}."
            )
        expected = list(like if every_axis else band.shape)
        if len(expected) == band.ndim:
            for axis, side in zip(values.axes, values.sides, strict=True):
                expected[axis] = _halved(side, level)
        if tuple(expected) != band.shape:
            raise ValueError(
                f"a band of {name} at level {level} of an image with sides {values.sides} along "
                f"the axes {values.axes} must have shape {tuple(expected)}, but has {band.shape}. "
                "For a batch: `jax.vmap`."
            )
        return band

    return _map_levels(check, values)


def _map_levels(function: Any, values: Coefficients) -> Coefficients:
    """`function(level, band)` of each band; the finest details are of level 1."""
    details = tuple(
        jax.tree.map(functools.partial(function, level), bands)
        for level, bands in enumerate(values.details, start=1)
    )
    approximation = function(len(details), values.approximation)
    return dataclasses.replace(values, approximation=approximation, details=details)
