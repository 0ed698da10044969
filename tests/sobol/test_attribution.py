"""Sobol attribution against closed forms, a slow twin in numpy and the published formula."""

import functools
import itertools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxplain import masks, qmc, sobol
from jaxplain.sobol import _attribution, estimators

KEY = jax.random.key(0)
IMAGE = 1 + jax.random.uniform(jax.random.key(1), (6, 8, 2))
WEIGHTS = np.asarray(jax.random.normal(jax.random.key(2), (6, 8, 2)), np.float64)
UNIFORM = ("jansen", "jansen_ratio", "jansen_regression")
FOR_MASKS = (*UNIFORM, "jansen_importance")


def network(x):
    """Three outputs, none of them additive, and one that is constant."""
    w = jnp.asarray(WEIGHTS, x.dtype)
    y = jnp.stack([jnp.sum(w * x), jnp.sum(w[::-1] * x), jnp.mean(x)])
    return jnp.concatenate([jnp.sin(y) + y[0] * y[1] / 9, jnp.full((1,), 2, x.dtype)])


def network_in_numpy(x):
    y = np.array([np.sum(WEIGHTS * x), np.sum(WEIGHTS[::-1] * x), np.mean(x)])
    return np.append(np.sin(y) + y[0] * y[1] / 9, 2.0)


# -------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("name", UNIFORM)
def test_a_linear_function_has_the_squares_of_its_weights(name):
    w = np.array([1.0, -2.0, 3.0, 0.0, 0.5])
    f = lambda x: jnp.sum(jnp.asarray(w, x.dtype) * x)
    explain = sobol.attribution(
        f,
        masks=masks.elements(),
        samples=256,
        estimator=getattr(estimators, name),
        order="both",
        interactions=True,
    )
    r = explain(KEY, jnp.ones(5), jnp.zeros(5))
    exact = w**2 / np.sum(w**2)
    np.testing.assert_allclose(r.cells, exact, atol=2e-3)
    np.testing.assert_allclose(r.first_order, exact, atol=1e-2)
    np.testing.assert_allclose(r.interactions, np.zeros((5, 5)), atol=1e-2)
    np.testing.assert_allclose(r.variance, np.sum(w**2) / 12, rtol=5e-3)
    assert abs(float(r.cells[3])) < 1e-6  # a part that f does not read
    assert float(r.output) == 2.5
    assert float(r.baseline_output) == 0
    assert int(r.evaluations) == 256 * 12
    assert int(r.not_finite) == 0
    assert bool(r.finite)


@pytest.mark.parametrize("name", UNIFORM)
def test_a_product_of_two_cells(name):
    """S = 3/7, S_12 = 1/7, T = 4/7 each."""
    f = lambda x: x[0] * x[1]
    explain = sobol.attribution(
        f,
        masks=masks.elements(),
        samples=4096,
        estimator=getattr(estimators, name),
        order="both",
        interactions=True,
    )
    r = explain(KEY, jnp.ones(2), jnp.zeros(2))
    np.testing.assert_allclose(r.cells, [4 / 7, 4 / 7], atol=5e-4)
    np.testing.assert_allclose(r.first_order, [3 / 7, 3 / 7], atol=1e-3)
    np.testing.assert_allclose(r.interactions, [[0, 1 / 7], [1 / 7, 0]], atol=1e-3)


def test_first_order_needs_the_base_b_and_total_order_does_not():
    f = lambda x: x[0] * x[1]
    make = functools.partial(
        sobol.attribution,
        f,
        masks=masks.elements(),
        samples=512,
        estimator=estimators.jansen_regression,
    )
    call = lambda explain: explain(KEY, jnp.ones(2), jnp.zeros(2))
    total, first, both = (call(make(order=order)) for order in ("total", "first", "both"))
    assert [int(r.evaluations) for r in (total, first, both)] == [1536, 2048, 2048]
    assert total.first_order is None
    assert total.interactions is None
    np.testing.assert_allclose(first.values, first.first_order)
    np.testing.assert_allclose(first.values, both.first_order, rtol=1e-6)
    np.testing.assert_allclose(both.values, total.values, atol=1e-3)
    owen = call(make(order="first", estimator=estimators.owen))
    assert int(owen.evaluations) == 512 * 6
    np.testing.assert_allclose(owen.values, [3 / 7, 3 / 7], atol=0.03)


# ------------------------------------------------------------------------------------- axioms


def test_equal_parts_have_equal_indices_and_parts_that_are_not_read_none():
    f = lambda x: jnp.exp(x[0] + x[2]) * jnp.cos(x[1])
    explain = sobol.attribution(
        f, masks=masks.elements(), samples=2048, sampler=qmc.monte_carlo, order="both"
    )
    r = explain(KEY, jnp.ones(4), jnp.zeros(4))
    for value, error in ((r.cells, r.cells_error), (r.first_order, r.first_order_error)):
        # Two estimates of one number: apart by four standard errors once in 16,000 times.
        assert abs(value[0] - value[2]) < 4 * np.hypot(error[0], error[2])
        assert abs(value[3]) <= 4 * error[3] + 1e-7
    assert float(r.cells[3]) == pytest.approx(0, abs=1e-6)


def test_an_affine_change_of_the_output_changes_nothing():
    first = sobol.attribution(lambda x: network(x)[0], masks=masks.grid(2, 2))
    again = sobol.attribution(lambda x: 50 - 7 * network(x)[0], masks=masks.grid(2, 2))
    arguments = KEY, IMAGE, jnp.zeros_like(IMAGE)
    np.testing.assert_allclose(first(*arguments).cells, again(*arguments).cells, atol=2e-5)


# ---------------------------------------------------------------------------- the slow twin


def slow_outputs(points, cells, x, baseline, f=network_in_numpy):
    """f on A, on B, on A with each column from B and on B with each from A, one by one."""
    count = cells[0] * cells[1]
    rows, columns = np.arange(x.shape[0]), np.arange(x.shape[1])
    nearest = np.ix_(rows * cells[0] // x.shape[0], columns * cells[1] // x.shape[1])

    def one(u):
        mask = u.reshape(cells)[nearest][:, :, None]
        return f(mask * x + (1 - mask) * baseline)

    a, b = points[:, :count], points[:, count:]

    def swapped(base, other):
        for i in range(count):
            mixed = base.copy()
            mixed[:, i] = other[:, i]
            yield np.array([one(u) for u in mixed])

    return (
        np.array([one(u) for u in a]),
        np.array([one(u) for u in b]),
        np.array(list(swapped(a, b))),
        np.array(list(swapped(b, a))),
        (b - a).T,
    )


def estimate(name, outputs, weights=None):
    """The index of every cell and output from the rows' outputs, as the docstrings have it."""
    a, b, ab, ba, dx = outputs
    weights = np.ones(len(a)) if weights is None else weights
    mean = lambda z: np.average(z, axis=-2, weights=weights)
    if name == "jansen_importance":
        # a has uniform cells and is read as it is; for ab each row carries its weight.
        density = dx[:, :, None]  # what `importance_outputs` puts there: the density over uniform
        ab = np.moveaxis(ab, 1, 0)  # (rows, cells, outputs)
        w = 1 / np.moveaxis(density, 1, 0)
        moment = lambda g: (
            (g(a) + (g(a)[:, None] + w * (g(ab) - g(a)[:, None])).sum(1)) / (1 + ab.shape[1])
        )
        m, s = moment(lambda y: y), moment(np.square)
        average = lambda z: np.average(z, axis=0, weights=weights)
        return average(w * (a[:, None] - ab) ** 2) / 2 / (average(s) - average(m) ** 2)
    used = [a[None], ab] + ([b[None]] if name in ("first", "pairs") else [])
    used = np.concatenate(used + ([ba] if name == "pairs" else []))
    centre = mean(used.mean(0))
    pooled = mean((used**2).mean(0)) - centre**2
    square, step = (a - ab) ** 2, dx[:, :, None] ** 2
    if name == "jansen":
        return mean(square) / 2 / pooled
    if name == "jansen_ratio":
        return mean(square) / mean(step) / 12 / pooled
    if name == "jansen_regression":
        beta = mean(square * step) - mean(square) * mean(step)
        beta = beta / (mean(step**2) - mean(step) ** 2)
        return (mean(square) - beta * (mean(step) - 1 / 6)) / 2 / pooled
    if name == "jansen_of_base":
        variance = (mean(a**2) - mean(a) ** 2) * len(a) / (len(a) - 1)
        return mean(square) / 2 / variance
    if name == "first":
        return mean((b - centre) * (ab - a)) / pooled
    a, b, ab, ba = (y - used.mean(0) for y in (a, b, ab, ba))
    pairs = np.zeros((len(ab), len(ab), a.shape[1]))
    for i, j in itertools.permutations(range(len(ab)), 2):
        h = lambda i, j: mean(ba[i] * ab[j] - b * ab[i] - b * ab[j] + a * b)
        pairs[i, j] = (h(i, j) + h(j, i)) / 2 / pooled
    return pairs


def importance_outputs(points, cells, *rest):
    """The twin's outputs with B drawn near to A's moves: by bisection of the density's integral."""
    count = cells[0] * cells[1]
    a, u = points[:, :count], points[:, count:]
    z = (a**2 + (1 - a) ** 2) / 2
    share = lambda b: (a**2 + np.sign(b - a) * (b - a) ** 2) / 2 / z  # of |t - a| / z up to b
    low, high = np.zeros_like(a), np.ones_like(a)
    for _ in range(60):
        middle = (low + high) / 2
        is_below = share(middle) < u
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    points = np.concatenate([a, low], axis=1)
    a_outputs, b_outputs, ab, ba, _ = slow_outputs(points, cells, *rest)
    return a_outputs, b_outputs, ab, ba, (np.abs(low - a) / z).T


def delta_error(name, outputs):
    """The standard error from the derivative by the weight of each row, a difference."""
    rows, step = len(outputs[0]), 1e-4
    influence = []
    for k in range(rows):
        change = step * (np.arange(rows) == k)
        more, less = (estimate(name, outputs, 1 + sign * change) for sign in (1, -1))
        influence.append((more - less) / (2 * step))
    return np.sqrt(np.sum(np.square(influence), axis=0) * rows / (rows - 1))


@pytest.mark.parametrize("name", [*FOR_MASKS, "jansen_of_base", "first", "pairs"])
def test_equal_to_a_slow_twin(name, x64):
    rows, cells = 32, (3, 2)
    x = jnp.asarray(np.asarray(IMAGE), jnp.float64)
    baseline = 0.1 * jnp.cos(x)
    points = np.asarray(qmc.points(qmc.sobol, KEY, 12, rows))
    make = importance_outputs if name == "jansen_importance" else slow_outputs
    outputs = make(points, cells, np.asarray(x), np.asarray(baseline))
    with np.errstate(invalid="ignore"):  # the last output is constant
        expected, error = estimate(name, outputs), delta_error(name, outputs)
    chosen = {} if name in ("first", "pairs") else {"estimator": getattr(estimators, name)}
    if name == "jansen_of_base":
        chosen["estimator"] = estimators.jansen_of_base(rows)
    explain = sobol.attribution(
        network,
        masks=masks.grid(*cells),
        samples=rows,
        order="first" if name == "first" else "total",
        interactions=name == "pairs",
        chunk_size=7,
        **chosen,
    )
    r = explain(KEY, x, baseline)
    varies = np.arange(4) < 3
    expected, error = (
        np.moveaxis(np.where(varies, array, 0), -1, 0) for array in (expected, error)
    )
    if name == "pairs":  # whose error is that of h_ij, an upper bound of that of its mean with h_ji
        np.testing.assert_allclose(r.interactions.reshape(expected.shape), expected, atol=1e-9)
        bound = np.asarray(r.interactions_error).reshape(error.shape)
        assert np.all(bound >= error - 1e-9)
        assert np.all(bound <= 2 * error + 1e-9)
    else:
        np.testing.assert_allclose(r.cells.reshape(expected.shape), expected, atol=1e-9)
        np.testing.assert_allclose(r.cells_error.reshape(error.shape), error, atol=1e-6)
    np.testing.assert_array_equal(r.is_constant, ~varies)
    np.testing.assert_allclose(r.output, network_in_numpy(np.asarray(x)), rtol=1e-12)
    np.testing.assert_allclose(
        r.baseline_output, network_in_numpy(np.asarray(baseline)), rtol=1e-12
    )
    spread = np.repeat(np.repeat(np.asarray(r.cells), 2, axis=1), 4, axis=2)[..., None]
    np.testing.assert_array_equal(r.values, np.broadcast_to(spread, (4, 6, 8, 2)))


def test_equal_to_the_published_form_on_its_masks(x64):
    """Order A, B, C_1 ... C_d; unscrambled points in Gray order; var(A, ddof=1); towards 0."""
    rows, cells = 16, (3, 4)
    x = jnp.asarray(np.asarray(IMAGE), jnp.float64)
    points = scipy.stats.qmc.Sobol(24, scramble=False).random(rows)
    a, _, ab, _, _ = slow_outputs(points, cells, np.asarray(x), 0.0)
    a, ab = a[:, :3], ab[:, :, :3]
    expected = np.mean((a - ab) ** 2, axis=1) / (2 * np.var(a, axis=0, ddof=1))
    explain = sobol.attribution(
        lambda x: network(x)[:3],
        masks=masks.grid(*cells),
        samples=rows,
        sampler=functools.partial(qmc.sobol, scramble=None, order="gray"),
        estimator=estimators.jansen_of_base(rows),
    )
    r = explain(KEY, x, jnp.zeros_like(x))
    got = np.moveaxis(np.asarray(r.cells).reshape(3, 12), 0, 1)
    # Our points are the middles of cells of 2^-32.
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-7)


# --------------------------------------------------------------------------------- the errors


@pytest.mark.parametrize("name", FOR_MASKS)
def test_standard_errors_are_the_spread_over_keys(name):
    """Under Monte Carlo: of 400 maps, whose standard deviation is known to 3.5 %."""
    explain = sobol.attribution(
        lambda x: network(x)[:3],
        masks=masks.grid(2, 2),
        samples=256,
        sampler=qmc.monte_carlo,
        estimator=getattr(estimators, name),
        chunk_size=1280,
    )
    keys = jax.random.split(KEY, 400)
    maps = jax.jit(jax.vmap(lambda key: explain(key, IMAGE, 0 * IMAGE)))(keys)
    spread = np.std(maps.cells, axis=0, ddof=1)
    np.testing.assert_allclose(np.sqrt(np.mean(maps.cells_error**2, axis=0)), spread, rtol=0.18)


@pytest.mark.parametrize(
    ("f", "gain"),
    [
        (lambda x: x @ jnp.arange(1.0, 7), 1.6),
        (lambda x: jnp.prod(1 + 2 * jnp.arange(1.0, 7) / 6 * (x - 0.5)), 1.6),
        (lambda x: jnp.sum(jnp.where(x > 0.6, jnp.arange(1.0, 7), 0)), 1.1),  # it jumps
    ],
    ids=["linear", "product", "jumps"],
)
def test_importance_sampling_is_unbiased_and_of_less_variance(f, gain):
    """Of the share of each cell among all, which the variance of f does not touch."""

    def shares(estimator, samples, keys):
        explain = sobol.attribution(
            f,
            masks=masks.elements(),
            samples=samples,
            sampler=qmc.monte_carlo,
            estimator=estimator,
        )
        cells = jax.vmap(explain, (0, None, None))(keys, jnp.ones(6), jnp.zeros(6)).cells
        return np.asarray(cells / cells.sum(axis=-1, keepdims=True), np.float64)

    keys = jax.random.split(KEY, 400)
    plain, importance = (
        shares(form, 256, keys) for form in (estimators.jansen, estimators.jansen_importance)
    )
    error = np.hypot(plain.std(axis=0, ddof=1), importance.std(axis=0, ddof=1)) / 20
    # Six means of 400: beyond four standard errors once in 2,600 runs of other keys.
    assert np.all(np.abs(plain.mean(axis=0) - importance.mean(axis=0)) < 4 * error)
    assert np.mean(plain.var(axis=0)) > gain * np.mean(importance.var(axis=0))


def test_the_density_of_importance_sampling():
    """E w g(b) is the integral of g, for each a, at the ends and in the middle too."""
    a = jnp.array([0.0, 1e-6, 0.2, 0.5, 0.8, 1.0])[:, None]
    u = (jnp.arange(2.0**14) + 0.5) / 2**14
    b, w = _attribution._importance(*jnp.broadcast_arrays(a, u[None]))
    assert np.all((b >= 0) & (b <= 1))
    assert np.all(np.isfinite(w))
    assert np.all(np.diff(b, axis=1) >= 0)
    for power in (1, 2, 3):
        got = jnp.mean(w * jnp.abs(b - a) ** power, axis=1)
        exact = (a ** (power + 1) + (1 - a) ** (power + 1)) / (power + 1)
        np.testing.assert_allclose(got, exact[:, 0], rtol=2e-4)


# --------------------------------------------------------------------- shapes, batches, types


def test_all_classes_at_once_give_what_each_by_itself_gives():
    at_once = sobol.attribution(network, masks=masks.grid(3, 2), order="both", interactions=True)
    arguments = IMAGE, jnp.zeros_like(IMAGE)
    every = at_once(KEY, *arguments)
    for place in (0, 3):
        alone = sobol.attribution(
            lambda x, place=place: network(x)[place],
            masks=masks.grid(3, 2),
            order="both",
            interactions=True,
        )(KEY, *arguments)
        for name in alone._fields:
            mine = getattr(every, name)
            mine = mine if name in ("evaluations", "not_finite", "finite") else mine[place]
            np.testing.assert_allclose(getattr(alone, name), mine, atol=1e-5, err_msg=name)
    f = lambda x: network(x).reshape(2, 2)
    r = sobol.attribution(f, masks=masks.grid(3, 2), order="both")(KEY, *arguments)
    every = sobol.attribution(network, masks=masks.grid(3, 2), order="both")(KEY, *arguments)
    assert r.values.shape == (2, 2, 6, 8, 2)
    assert r.cells.shape == (2, 2, 3, 2)
    np.testing.assert_allclose(r.cells.reshape(4, 3, 2), every.cells, atol=1e-5)


@pytest.mark.parametrize(("samples", "chunk_size"), [(16, 1), (16, 13), (12, 7), (7, 1000)])
def test_chunk_size_changes_rounding_only(samples, chunk_size):
    """For samplers of any number too, with blocks of 16, 4 and 1 rows."""
    make = functools.partial(
        sobol.attribution,
        network,
        masks=masks.grid(3, 2),
        samples=samples,
        sampler=qmc.monte_carlo,
        interactions=True,
    )
    arguments = KEY, IMAGE, jnp.zeros_like(IMAGE)
    chex.assert_trees_all_close(
        make(chunk_size=chunk_size)(*arguments), make()(*arguments), atol=2e-5
    )


def test_images_mapped_over_are_images_in_a_loop():
    explain = sobol.attribution(network, masks=masks.grid(3, 2), chunk_size=8)
    images = jnp.stack([IMAGE, IMAGE[::-1], 2 * IMAGE])
    keys = jax.random.split(KEY, 3)
    baseline = jnp.zeros_like(IMAGE)
    got = jax.jit(jax.vmap(explain, (0, 0, None)))(keys, images, baseline)
    for k in range(3):
        one = jax.tree.map(lambda leaf, k=k: leaf[k], got)
        chex.assert_trees_all_close(one, explain(keys[k], images[k], baseline), atol=2e-5)


def test_two_modalities_with_parts_of_their_own():
    x = {"image": IMAGE, "text": jax.random.normal(KEY, (5, 3))}
    labels = {
        "image": jnp.asarray(np.arange(6)[:, None] // 3 + 0 * np.arange(8)[None]),
        "text": jnp.arange(2, 7),
    }
    w = jnp.arange(1.0, 6.0)
    f = lambda x: jnp.mean(x["image"][:3]) + jnp.sum(w[:, None] * x["text"])
    explain = sobol.attribution(f, masks=masks.segments(labels, 7), samples=1024)
    r = explain(KEY, x, jax.tree.map(jnp.zeros_like, x))
    effects = np.array([np.mean(x["image"][:3]), 0, *np.sum(w[:, None] * x["text"], axis=1)])
    exact = effects**2 / np.sum(effects**2)
    np.testing.assert_allclose(r.cells, exact, atol=2e-3)
    assert r.values["image"].shape == (6, 8, 2)
    assert r.standard_error["text"].shape == (5, 3)
    np.testing.assert_allclose(r.values["image"][:, 0, 0], np.repeat(r.cells[:2], 3))
    np.testing.assert_allclose(r.values["text"][:, 1], r.cells[2:])


@pytest.mark.parametrize(
    "perturbation",
    [masks.replace, masks.blur(2.0), masks.amplitude(0.5)],
    ids=["replace", "blur", "amplitude"],
)
def test_bfloat16_and_every_perturbation(perturbation):
    make = functools.partial(
        sobol.attribution, network, masks=masks.grid(2, 2), perturbation=perturbation
    )
    narrow = IMAGE.astype(jnp.bfloat16)
    got = make()(KEY, narrow, jnp.zeros_like(narrow))
    wide = narrow.astype(jnp.float32)
    expected = make()(KEY, wide, jnp.zeros_like(wide))
    assert got.values.dtype == jnp.bfloat16
    assert got.cells.dtype == jnp.float32
    assert got.output.dtype == jnp.bfloat16
    assert got.standard_error.dtype == jnp.float32
    np.testing.assert_allclose(got.cells[:3], expected.cells[:3], atol=0.1)


def test_a_function_of_ones_own_as_perturbation():
    """Noise in the place of what is masked, the same for all masks."""
    noise = jax.random.normal(KEY, IMAGE.shape)
    mine = lambda x, baseline: lambda mask: mask * x + (1 - mask) * noise
    got = sobol.attribution(network, masks=masks.grid(2, 2), perturbation=mine)
    expected = sobol.attribution(network, masks=masks.grid(2, 2))
    chex.assert_trees_all_close(
        got(KEY, IMAGE, jnp.zeros_like(IMAGE)), expected(KEY, IMAGE, noise), atol=2e-5
    )


# ------------------------------------------------------------------------------------- memory


def temporary_bytes(samples, chunk_size):
    kernel = jax.random.normal(KEY, (3, 3, 3, 8))

    def f(x):
        y = jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.mean(jax.nn.relu(y), axis=(0, 1, 2))

    explain = sobol.attribution(f, samples=samples, order="both", chunk_size=chunk_size)
    x = jnp.zeros((64, 64, 3))
    compiled = jax.jit(explain).lower(KEY, x, x).compile()
    assert int(jax.eval_shape(explain, KEY, x, x).evaluations.size) == 1
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_depends_on_chunk_size_and_not_on_the_number_of_masks():
    """2,112 and 33,792 masks of 64 x 64; all of the latter would be 554 MB as one channel."""
    few, many = temporary_bytes(32, 32), temporary_bytes(512, 32)
    assert many <= few * 1.05
    one_in_flight = 64 * 64 * (3 + 8 + 1) * 4
    assert many < 3 * 32 * one_in_flight
    assert temporary_bytes(512, 8) < 0.5 * many


# ------------------------------------------------------------------- what goes wrong is said


def test_a_constant_output_has_zeros_and_a_flag():
    explain = sobol.attribution(
        lambda x: jnp.full((), 0.1, x.dtype),
        masks=masks.grid(2, 2),
        order="both",
        interactions=True,
    )
    r = explain(KEY, IMAGE, jnp.zeros_like(IMAGE))
    assert bool(r.is_constant)
    assert bool(r.finite)
    for name in ("values", "cells", "cells_error", "first_order", "interactions", "variance"):
        assert not np.any(getattr(r, name)), name


@pytest.mark.parametrize("name", FOR_MASKS)
def test_rows_that_are_not_finite_are_left_out_and_counted(name):
    """The estimates are those of the other rows: of the twin's formula without them."""
    rows, cells = 64, (2, 2)
    bad = lambda y, x: jnp.where(jnp.mean(x) > 1.15, jnp.nan, y)
    explain = sobol.attribution(
        lambda x: bad(network(x)[:3], x),
        masks=masks.grid(*cells),
        samples=rows,
        estimator=getattr(estimators, name),
        chunk_size=16,
    )
    r = explain(KEY, IMAGE, jnp.zeros_like(IMAGE))
    x = np.asarray(IMAGE, np.float64)
    points = np.asarray(qmc.points(qmc.sobol, KEY, 8, rows), np.float64)
    slow = lambda x: np.where(np.mean(x) > 1.15, np.nan, network_in_numpy(x)[:3])
    make = importance_outputs if name == "jansen_importance" else slow_outputs
    outputs = make(points, cells, x, 0 * x, slow)
    a, _, ab, _, dx = outputs
    is_bad = ~np.isfinite(a).all(-1) | ~np.isfinite(ab).all((0, 2))
    assert 4 < is_bad.sum() < 48
    kept = [a[~is_bad], a[~is_bad], ab[:, ~is_bad], ab[:, ~is_bad], dx[:, ~is_bad]]
    np.testing.assert_allclose(r.cells.reshape(3, 4).T, estimate(name, kept), atol=1e-4)
    assert int(r.not_finite) == np.isnan(a).sum() + np.isnan(ab).sum()
    assert not bool(r.finite)
    assert np.isfinite(r.values).all()


X = jnp.ones((4, 4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"masks": 8}, TypeError, r"masks must be parts .*masks\.grid\(8, 8\)"),
        ({"samples": 1}, ValueError, "samples must be at least 2, but is 1"),
        ({"samples": 2.0}, TypeError, "samples must be a Python integer"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"estimator": "jansen"}, TypeError, "estimator must be one of .*but is a str"),
        ({"estimator": estimators.owen}, ValueError, "no form of total_order indices"),
        (
            {"estimator": estimators.jansen_importance, "order": "both"},
            ValueError,
            "no form of first_order indices",
        ),
        (
            {"estimator": estimators.jansen_importance, "interactions": True},
            ValueError,
            "interactions need parts drawn uniformly.*jansen_regression",
        ),
        ({"order": "second"}, ValueError, "order must be one of total, first, both"),
        ({"interactions": 1}, TypeError, "interactions must be True or False"),
        ({"sampler": "sobol"}, TypeError, "sampler must be a function"),
        ({"perturbation": 0.0}, TypeError, "perturbation must be a function"),
        ({"masks": masks.grid(8, 8)}, ValueError, "8 cells along axis 0, but x has 4"),
        (
            {"perturbation": lambda x, b: lambda mask: x[:2]},
            ValueError,
            r"what the perturbation makes must have the shape of x, \(4, 4\), but has \(2, 4\)",
        ),
        ({"masks": masks.segments(jnp.zeros((4, 4), int), 11_000)}, ValueError, "21,201 dimens"),
    ],
)
def test_bad_options_are_named(options, error, message):
    options = {"masks": masks.grid(2, 2), **options}
    with pytest.raises(error, match=message):
        sobol.attribution(jnp.sum, **options)(KEY, X, X)


def test_bad_arguments_are_named():
    explain = sobol.attribution(lambda x, *args: jnp.sum(x), masks=masks.grid(2, 2))
    for arguments, error, message in (
        ((0, X, X), TypeError, "key must be a typed key"),
        ((KEY, X.astype(int), X), TypeError, "x must be float, since masks multiply it"),
        ((KEY, X, 0 * X[:2]), ValueError, "baseline must have the shape of x"),
        ((KEY, X, X, "label"), TypeError, "is a str"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            explain(*arguments)
    for f, message in (
        (lambda x: (x[0], x[1]), "returned a tuple. Stack several"),
        (lambda x: jnp.argmax(x), "f must return a float, but returned dtype int32"),
    ):
        with pytest.raises(TypeError, match=re.escape(message)):
            sobol.attribution(f, masks=masks.grid(2, 2))(KEY, X, X)
    with pytest.raises(ValueError, match="this estimator is for masks"):
        sobol.indices(jnp.sum, sobol.uniform(0.0, 1.0), total_order=estimators.jansen_ratio)
