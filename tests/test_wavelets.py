"""Wavelet transforms against closed forms and a slow twin: the definition, as float64 matrices."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplain
from jaxplain import wavelets

WAVELETS = ["haar", *(f"db{order}" for order in range(2, 11))]
FEW = ["haar", "db2", "db3", "db8"]  # the first without a wrap; shifts of both parities


def normal(shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def order_of(wavelet):
    return 1 if wavelet == "haar" else int(wavelet[2:])


# ------------------------------------------------------------------------------ the slow twin


def level_matrices(n, low):
    """What is smooth and the details of n elements, row by row from the formula."""
    taps, even = len(low), n + n % 2
    smooth, detail = np.zeros((even // 2, n)), np.zeros((even // 2, n))
    for k in range(even // 2):
        for m in range(taps):
            element = min((2 * k + m - (taps // 2 - 1)) % even, n - 1)  # the last one, repeated
            smooth[k, element] += low[m]
            detail[k, element] += (-1) ** m * low[taps - 1 - m]
    return smooth, detail


def slow(x, low, levels, axes):
    """The bands in the order of the leaves of `Coefficients`."""
    along = lambda matrix, a, axis: np.moveaxis(np.tensordot(matrix, a, (1, axis)), 0, axis)
    details = []
    for _ in range(levels):
        if len(axes) == 1:
            smooth, detail = level_matrices(x.shape[axes[0]], low)
            details.append(along(detail, x, axes[0]))
            x = along(smooth, x, axes[0])
        else:
            (s0, d0), (s1, d1) = (level_matrices(x.shape[axis], low) for axis in axes)
            both = lambda first, second, x=x: along(second, along(first, x, axes[0]), axes[1])
            details += [both(d0, s1), both(s0, d1), both(d0, d1)]
            x = both(s0, s1)
    return [x, *details]


SHAPES = [
    ((13, 9, 2), 3, (0, 1)),
    ((37, 2), 5, (0,)),
    ((16, 8), 3, (0, 1)),
    ((2, 6, 3, 5), 2, (-1, 1)),
    ((3, 2), 1, (-1,)),
]


@pytest.mark.parametrize(
    ("wavelet", "shape", "levels", "axes"),
    [(w, *case) for w in WAVELETS for case in (SHAPES if w in FEW else SHAPES[:2])],
)
def test_the_definition(wavelet, shape, levels, axes, x64):
    """Also where the filter is longer than the signal, and for odd sides at any level."""
    x = normal(shape)
    c = wavelets.decompose(x, wavelet=wavelet, levels=levels, axes=axes)
    expected = slow(x, wavelets.daubechies(order_of(wavelet)), levels, axes)
    for band, slow_band in zip(jax.tree.leaves(c), expected, strict=True):
        assert band.dtype == jnp.float64
        np.testing.assert_allclose(band, slow_band, atol=1e-13 * 2**levels)
    sides = tuple(x.shape[axis] for axis in axes)
    assert (c.wavelet, c.axes, c.sides, len(c.details)) == (wavelet, axes, sides, levels)


# -------------------------------------------------------------------------------- the filters


def test_published_filters():
    """The closed forms of db2 and db3."""
    root = math.sqrt(3)
    expected = np.array([1 + root, 3 + root, 3 - root, 1 - root]) / (4 * math.sqrt(2))
    np.testing.assert_allclose(wavelets.daubechies(2), expected, atol=1e-15)
    a, b = math.sqrt(10), math.sqrt(5 + 2 * math.sqrt(10))
    expected = [1 + a + b, 5 + a + 3 * b, 10 - 2 * a + 2 * b]
    expected += [10 - 2 * a - 2 * b, 5 + a - 3 * b, 1 + a - b]
    expected = np.array(expected) / (16 * math.sqrt(2))
    np.testing.assert_allclose(wavelets.daubechies(3), expected, atol=1e-15)


@pytest.mark.parametrize("order", range(1, 11))
def test_filters_are_orthonormal_with_vanishing_moments(order):
    low = wavelets.daubechies(order)
    overlaps = np.correlate(low, low, "full")[2 * order - 1 :: 2]
    np.testing.assert_allclose(overlaps, np.eye(1, order)[0], atol=1e-14)
    np.testing.assert_allclose(low.sum(), math.sqrt(2), atol=1e-15)
    high, place = low * (-1.0) ** np.arange(2 * order), np.arange(2 * order) / (2 * order)
    for power in range(order):
        assert abs((high * place**power).sum()) < 2e-14
    # Extremal phase: no zero of the filter lies beyond the unit circle (at -1, N of them meet).
    assert np.abs(np.roots(low)[np.argsort(np.abs(np.roots(low) + 1))][order:]).max(initial=0) < 1


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_details_of_polynomials_vanish(wavelet, x64):
    """Of degree N-1 away from the wrapped boundary, and not of degree N."""
    order, n = order_of(wavelet), 96
    t = np.linspace(-1, 1, n)
    inner = slice(order, n // 2 - order)
    polynomial = sum(c * t**p for p, c in enumerate(normal(order, 1)))
    detail = wavelets.decompose(polynomial, wavelet=wavelet, levels=1, axes=(0,)).details[0]
    assert np.abs(detail[inner]).max() < 1e-12
    # of degree N: the same everywhere, N! h^N / N! times the moment of the filter
    detail = wavelets.decompose(t**order, wavelet=wavelet, levels=1, axes=(0,)).details[0]
    low = wavelets.daubechies(order)
    high = (-1.0) ** np.arange(2 * order) * low[::-1]
    moment = (high * np.arange(2 * order, dtype=np.float64) ** order).sum()
    expected = moment * (2 / (n - 1)) ** order
    np.testing.assert_allclose(detail[inner], expected, rtol=1e-3, atol=1e-13)


# ------------------------------------------------------------------- properties of the transform


def test_haar_of_two_by_two():
    a, b, c, d = 1.0, 3.0, 5.0, 11.0
    for wavelet in ("haar", "db1", (0.5**0.5, 0.5**0.5)):
        got = wavelets.decompose(jnp.array([[a, b], [c, d]]), wavelet=wavelet, levels=1)
        bands = [got.approximation, *got.details[0]]
        halves = [a + b + c + d, a + b - c - d, a - b + c - d, a - b - c + d]
        np.testing.assert_allclose(np.ravel(bands), np.array(halves) / 2, atol=1e-6)


def test_orientations_are_those_of_edges():
    stripes = jnp.tile(jnp.array([1.0, -1.0]), 8)
    board = jnp.outer(stripes, stripes)
    for name, image in (
        ("horizontal", jnp.broadcast_to(stripes[:, None], (16, 16))),
        ("vertical", jnp.broadcast_to(stripes, (16, 16))),
        ("diagonal", board),
    ):
        c = wavelets.decompose(image, wavelet="db3", levels=2)
        energy = wavelets.band_sums(jax.tree.map(jnp.square, c))
        np.testing.assert_allclose(getattr(energy.details[0], name), 256, rtol=1e-5)
        np.testing.assert_allclose(sum(jax.tree.leaves(energy)), 256, rtol=1e-5)


@pytest.mark.parametrize("wavelet", ["haar", "db2", "db5"])
def test_reconstruction_is_exact_to_rounding(wavelet, x64):
    """In both precisions; all wavelets on a photo and a signal, a few on every shape."""
    cases = [((227, 227, 3), 3, (0, 1)), ((101,), 7, (0,))]
    if wavelet in FEW:
        cases += [
            ((64, 32), 5, (0, 1)),
            ((2, 3), 1, (1, 0)),
            ((3, 4, 30, 17), 3, (2, -1)),
            ((5, 6, 0), 2, (0, 1)),
        ]
    for shape, levels, axes in cases:
        for dtype in (np.float32, np.float64):
            x = normal(shape, dtype=dtype)
            c = wavelets.decompose(x, wavelet=wavelet, levels=levels, axes=axes)
            again = wavelets.reconstruct(c)
            assert (again.shape, again.dtype) == (x.shape, x.dtype)
            np.testing.assert_allclose(again, x, rtol=0, atol=256 * np.finfo(dtype).eps)


@pytest.mark.parametrize("wavelet", FEW)
def test_the_transform_is_a_rotation(wavelet, x64):
    """Parseval, the adjoint by autodiff, and the other product W W^T, where sides are even."""
    x, y = normal((24, 16, 2)), normal((24, 16, 2), 1)
    apply = lambda x: wavelets.decompose(x, wavelet=wavelet, levels=3)
    c, d = apply(x), apply(y)
    inner = lambda a, b: sum((u * v).sum() for u, v in zip(*map(jax.tree.leaves, (a, b))))  # noqa: B905
    np.testing.assert_allclose(inner(c, c), (x**2).sum(), rtol=1e-13)
    np.testing.assert_allclose(inner(c, d), (x * y).sum(), rtol=1e-12)
    transposed = jax.vjp(apply, jnp.asarray(x))[1](d)[0]
    np.testing.assert_allclose(transposed, y, atol=1e-13)
    other = jax.tree.map(lambda band: jnp.asarray(normal(band.shape, 2)), c)
    again = apply(wavelets.reconstruct(other))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)
    transposed = jax.vjp(wavelets.reconstruct, other)[1](jnp.asarray(x))[0]
    for a, b in zip(jax.tree.leaves(transposed), jax.tree.leaves(c), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-13)


@pytest.mark.parametrize("wavelet", WAVELETS)
def test_constants_have_no_details_whatever_the_sides(wavelet):
    c = wavelets.decompose(jnp.full((27, 13), 3.0), wavelet=wavelet, levels=4)
    np.testing.assert_allclose(c.approximation, 3.0 * 2**4, rtol=1e-5)
    for detail in jax.tree.leaves(c.details):
        np.testing.assert_allclose(detail, 0, atol=1e-4)


def test_odd_sides_repeat_the_last_element():
    """227 is 228 with the last row twice, so the energy of the finest level is that of 228."""
    x = normal((7, 5), dtype=np.float32)
    odd = wavelets.decompose(x, wavelet="db2", levels=1)
    even = wavelets.decompose(np.pad(x, ((0, 1), (0, 1)), mode="edge"), wavelet="db2", levels=1)
    for a, b in zip(jax.tree.leaves(odd), jax.tree.leaves(even), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert [
        band.shape for band in wavelets.decompose(jnp.zeros((227, 5)), levels=3).details[2]
    ] == [(29, 1)] * 3


def test_a_filter_of_ones_own(x64):
    """Coiflet 1, by its closed form (sqrt 7): orthogonal, and not of Daubechies' family."""
    root = math.sqrt(7)
    low = np.array([1 - root, 5 + root, 14 + 2 * root, 14 - 2 * root, 1 - root, -3 + root])
    low /= 16 * math.sqrt(2)
    x = normal((15, 12))
    c = wavelets.decompose(x, wavelet=low, levels=2)
    assert c.wavelet == tuple(low)
    for band, slow_band in zip(jax.tree.leaves(c), slow(x, low, 2, (0, 1)), strict=True):
        np.testing.assert_allclose(band, slow_band, atol=1e-14)
    np.testing.assert_allclose(wavelets.reconstruct(c), x, atol=1e-14)


# ------------------------------------------------------------------------- dtypes and transforms


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_dtypes_are_computed_wide(dtype):
    """Each band is the float64 one of the rounded image, rounded once."""
    x = jnp.asarray(normal((24, 21)), dtype)
    c = wavelets.decompose(x, wavelet="db4")
    exact = slow(np.asarray(x.astype(jnp.float32), np.float64), wavelets.daubechies(4), 3, (0, 1))
    eps = float(jnp.finfo(dtype).eps)
    for band, slow_band in zip(jax.tree.leaves(c), exact, strict=True):
        assert band.dtype == dtype
        np.testing.assert_allclose(band.astype(jnp.float32), slow_band, rtol=eps, atol=1e-5)
    again = wavelets.reconstruct(c)
    assert again.dtype == dtype
    np.testing.assert_allclose(
        again.astype(jnp.float32), x.astype(jnp.float32), atol=8 * eps * float(jnp.abs(x).max())
    )
    for maps in (wavelets.spatial_maps(c), wavelets.band_sums(c)):
        assert {leaf.dtype for leaf in jax.tree.leaves(maps)} == {jnp.dtype(dtype)}


def test_jit_vmap_and_grad():
    images = normal((4, 11, 8, 3), dtype=np.float32)
    apply = lambda x: wavelets.decompose(x, wavelet="db2", levels=2)
    batch = jax.jit(jax.vmap(apply))(images)
    single = [apply(image) for image in images]
    for place, c in enumerate(single):
        for a, b in zip(jax.tree.leaves(batch), jax.tree.leaves(c), strict=True):
            np.testing.assert_allclose(a[place], b, atol=1e-5)
    again = jax.jit(jax.vmap(wavelets.reconstruct))(batch)
    np.testing.assert_allclose(again, images, atol=1e-5)
    # Axes counted from the end also take a batch that stands in front.
    together = wavelets.decompose(images, wavelet="db2", levels=2, axes=(-3, -2))
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(batch), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    # The image is linear in one coefficient: its gradient is the wavelet itself, of norm one.
    pick = lambda x: apply(x).details[1].vertical[1, 1, 0]
    gradient = jax.jit(jax.grad(pick))(jnp.zeros((16, 16, 1)))
    np.testing.assert_allclose(jnp.linalg.norm(gradient), 1, rtol=1e-5)


def test_a_second_call_traces_nothing():
    traces = []

    @jax.jit
    def apply(c):
        traces.append(1)
        return wavelets.reconstruct(c)

    for seed in range(3):
        apply(wavelets.decompose(normal((9, 9), seed, np.float32)))
    assert len(traces) == 1


def test_coefficients_are_explained_as_any_input_is():
    """Integrated Gradients of a linear function of the image: values are (W w) * (W x)."""
    x, w = (jnp.asarray(normal((16, 8), seed, np.float32)) for seed in (3, 4))
    c, expected = (wavelets.decompose(a, wavelet="db2") for a in (x, w))
    explain = jaxplain.integrated_gradients(lambda c: jnp.sum(w * wavelets.reconstruct(c)), steps=2)
    values = explain(c, jax.tree.map(jnp.zeros_like, c)).values
    assert isinstance(values, wavelets.Coefficients)
    for v, a, b in zip(*map(jax.tree.leaves, (values, c, expected)), strict=True):
        np.testing.assert_allclose(v, a * b, atol=1e-5)
    where = jax.tree.reduce(jnp.add, wavelets.spatial_maps(values, conserve=True))
    assert where.shape == x.shape
    np.testing.assert_allclose(where.sum(), (x * w).sum(), rtol=1e-5)


# --------------------------------------------------------------------------------- summaries


def test_maps_repeat_each_value_on_its_cell():
    sides = (13, 10)
    c = wavelets.decompose(normal((*sides, 2), dtype=np.float32), levels=3)
    whole = jax.tree.map(lambda band: band[..., 0], c)  # a value for all channels together
    for values in (c, whole):
        maps, shares = (wavelets.spatial_maps(values, conserve=flag) for flag in (False, True))
        levels = [3, *(level for level in (1, 2, 3) for _ in range(3))]
        for level, band, mapped, shared in zip(
            levels, *map(jax.tree.leaves, (values, maps, shares)), strict=True
        ):
            rows, columns = (np.arange(side) // 2**level for side in sides)
            cells = np.asarray(band)[rows[:, None], columns]
            np.testing.assert_array_equal(mapped, cells)
            np.testing.assert_allclose(shared.sum((0, 1)), band.sum((0, 1)), atol=1e-4)
            counts = np.bincount(rows)[rows][:, None] * np.bincount(columns)[columns]
            counts = counts.reshape(counts.shape + (1,) * (cells.ndim - 2))
            np.testing.assert_allclose(shared, cells / counts, rtol=1e-6)


def test_a_coefficient_lies_where_the_image_changes():
    """An impulse at a place answers at that place in every band of the Haar transform."""
    x = jnp.zeros((32, 32)).at[21, 6].set(1.0)
    maps = wavelets.spatial_maps(wavelets.decompose(x, levels=4))
    for mapped in jax.tree.leaves(maps):
        assert jnp.abs(mapped[21, 6]) > 0
    np.testing.assert_array_equal(jnp.argwhere(maps.details[0].diagonal)[:, 0], [20, 20, 21, 21])


def test_band_sums():
    c = wavelets.decompose(normal((12, 9, 3), dtype=np.float32), levels=2)
    sums = wavelets.band_sums(c)
    for s, band in zip(jax.tree.leaves(sums), jax.tree.leaves(c), strict=True):
        np.testing.assert_allclose(s, np.asarray(band, np.float64).sum((0, 1)), atol=1e-5)
    signal = wavelets.decompose(jnp.arange(8.0), levels=3, axes=(0,))
    np.testing.assert_allclose(wavelets.band_sums(signal).details[0], -4 / 2**0.5, rtol=1e-6)


# ----------------------------------------------------------------------------------- messages


def test_messages():
    x = jnp.zeros((8, 6, 3))
    c = wavelets.decompose(x, levels=2)
    with pytest.raises(TypeError, match=r"dtype uint8. Convert an image first"):
        wavelets.decompose(jnp.zeros((4, 4), jnp.uint8))
    with pytest.raises(TypeError, match="x must be one array, but is a dict"):
        wavelets.decompose({"image": x})
    with pytest.raises(TypeError, match="x must be an array or a tree of arrays"):
        wavelets.decompose("image")
    with pytest.raises(ValueError, match=r"halved 3 times, but levels is 4. Give at most levels=3"):
        wavelets.decompose(x, levels=4)
    with pytest.raises(ValueError, match="levels must be at least 1"):
        wavelets.decompose(x, levels=0)
    for shape in ((1, 8), (8, 0)):
        with pytest.raises(ValueError, match="two elements or more along the axes"):
            wavelets.decompose(jnp.zeros(shape))
    with pytest.raises(ValueError, match=r"does not have the axes \(0, 1\). For a signal"):
        wavelets.decompose(jnp.zeros(8))
    with pytest.raises(ValueError, match="twice"):
        wavelets.decompose(x, axes=(0, -3))
    with pytest.raises(ValueError, match="the one of a signal or the two of an image"):
        wavelets.decompose(x, axes=(0, 1, 2))
    with pytest.raises(TypeError, match="each axis must be a Python integer"):
        wavelets.decompose(x, axes=(0, 1.5))
    with pytest.raises(ValueError, match=r"one of haar, db1, .*, db10, or a scaling filter"):
        wavelets.decompose(x, wavelet="sym4")
    with pytest.raises(ValueError, match="even number of taps, but has shape"):
        wavelets.decompose(x, wavelet=(0.5, 0.5, 0.5))
    with pytest.raises(ValueError, match=r"misses that by 0\.5.*Biorthogonal"):
        wavelets.decompose(x, wavelet=(0.5, 0.5))
    for wrong in (3, object(), ("a", "b")):
        with pytest.raises((TypeError, ValueError), match=r"wavelet must be a name|even number"):
            wavelets.decompose(x, wavelet=wrong)
    with pytest.raises(TypeError, match="known when the program is compiled"):
        jax.jit(lambda h: wavelets.decompose(x, wavelet=h))(jnp.ones(2))
    with pytest.raises(ValueError, match="order must be at most 10"):
        wavelets.daubechies(11)
    for function in (wavelets.reconstruct, wavelets.spatial_maps, wavelets.band_sums):
        with pytest.raises(TypeError, match=r"what `decompose` returns.*is a tuple"):
            function((c.approximation, c.details))
        with pytest.raises(ValueError, match=r"lacks one of the axes \(0, 1\)"):
            function(jax.tree.map(lambda band: band[0, 0], c))
        with pytest.raises(ValueError, match=r"level 2 .* shape \(2, 2, 3\), but has \(3, 2, 3\)"):
            function(dataclasses.replace(c, approximation=jnp.zeros((3, 2, 3))))
        with pytest.raises(TypeError, match="must be float, but has dtype bool"):
            function(jax.tree.map(lambda band: band > 0, c))
        with pytest.raises(ValueError, match=r"For a batch: `jax.vmap`"):
            function(jax.tree.map(lambda band: jnp.stack([band] * 5), c))
    with pytest.raises(ValueError, match=r"level 2 .* shape \(2, 2, 3\), but has \(2, 2\)"):
        wavelets.reconstruct(
            dataclasses.replace(
                c, details=(c.details[0], jax.tree.map(lambda b: b[..., 0], c.details[1]))
            )
        )
