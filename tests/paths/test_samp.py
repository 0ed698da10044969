"""SAMP, SAMP++: a twin in numpy, closed forms, completeness as steps shorten, number of steps."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import paths
from jaxplain.paths import _samp


def network(x, params):
    return jnp.sum(params["v"] * jnp.tanh(x.reshape(-1) @ params["w"] + params["c"]))


def numpy_network(x, p):
    """Value and gradient, by hand."""
    hidden = np.tanh(x.reshape(-1) @ p["w"] + p["c"])
    return p["v"] @ hidden, (p["w"] @ (p["v"] * (1 - hidden**2))).reshape(x.shape)


def problem(seed, shape=(12,)):
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    params = {"w": rng.normal(size=(size, 7)), "v": rng.normal(size=7), "c": rng.normal(size=7)}
    return rng.normal(size=shape), rng.normal(size=shape), params


def twin(start, end, value_and_gradient, sign, number, constraint=np.inf, momentum=0.0):
    """One walk over an image (pixels, channels), a pixel at a time, in float64."""
    z, values, past, count = start.copy(), np.zeros_like(start), None, 0
    longest = constraint * np.abs(end - start).sum()
    while (z != end).any():
        gradient = value_and_gradient(z)[1]
        past = gradient if past is None else momentum * past + (1 - momentum) * gradient
        gains = [
            (-sign * float(past[j] @ (end - z)[j]), j)
            for j in range(len(z))
            if (z[j] != end[j]).any()
        ]
        chosen = [j for _, j in sorted(gains)[:number]]
        length = sum(np.abs(end[j] - z[j]).sum() for j in chosen)
        for j in chosen:
            if length <= longest:
                move, after = end[j] - z[j], end[j]
            else:
                move = (end[j] - z[j]) * longest / length
                after = z[j] + move
            values[j] += sign * past[j] * move
            z[j] = after
        count += 1
    return values, count


OPTIONS = [
    {"pixels": 1},
    {"pixels": 5},
    {"pixels": 12},
    {"pixels": 2, "constraint": 0.06},
    {"pixels": 3, "momentum": 0.4},
    {"pixels": 4, "constraint": 0.03, "momentum": 0.7},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("direction", ["insertion", "deletion"])
def test_twin(options, direction, x64):
    """On pixels of three channels, some of them at the baseline, in a batch."""
    changed = {"number": options["pixels"], **options}
    del changed["pixels"]
    explain = paths.samp(network, direction=direction, channel_axis=-1, **options)
    problems = [problem(seed, (12, 3)) for seed in range(4)]
    for x, baseline, _ in problems[:2]:
        x[[1, 7]] = baseline[[1, 7]]
    got = jax.jit(jax.vmap(explain))(*jax.tree.map(lambda *leaves: np.stack(leaves), *problems))
    for k, (x, baseline, params) in enumerate(problems):
        model = lambda z, params=params: numpy_network(z, params)
        ends = (baseline, x, model, 1) if direction == "insertion" else (x, baseline, model, -1)
        expected, count = twin(*ends, **changed)
        result = jax.tree.map(lambda leaf, k=k: leaf[k], got)
        np.testing.assert_allclose(result.values, expected, rtol=1e-9, atol=1e-12)
        assert int(result.evaluations) == count
        change = model(x)[0] - model(baseline)[0]
        gap = expected.sum() - change
        np.testing.assert_allclose(result.completeness_gap, gap, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(result.output - result.baseline_output, change, rtol=1e-11)


def test_both_directions_are_the_mean(x64):
    x, baseline, params = problem(0)
    one, two, both = (
        paths.samp(network, direction=direction, pixels=2)(x, baseline, params)
        for direction in ("insertion", "deletion", "both")
    )
    np.testing.assert_allclose(both.values, (one.values + two.values) / 2, rtol=1e-12)
    assert both.evaluations == one.evaluations + two.evaluations == 12
    gap = (one.completeness_gap + two.completeness_gap) / 2
    np.testing.assert_allclose(both.completeness_gap, gap, rtol=1e-9)


def test_two_modalities(x64):
    """An image with channels first and a vector of one channel, against the twin of all pixels."""
    x, baseline, params = problem(3, (9,))
    split = lambda v: {"sound": v[8:].reshape(1, 1), "image": v[:8].reshape(2, 2, 2)}
    join = lambda t: jnp.concatenate([t["image"].reshape(-1), t["sound"].reshape(-1)])
    f = lambda t, params: network(join(t), params)
    explain = paths.samp(f, pixels=2, channel_axis=0, constraint=0.2)
    got = explain(split(x), split(baseline), params)

    # As rows of two channels, in the order of the leaves; the lone element with a channel of none.
    rows = lambda v: np.concatenate([v[:8].reshape(2, 4).T, [[v[8], 0.0]]])
    flat = lambda r: np.concatenate([r[:4].T.reshape(-1), [r[4, 0]]])
    model = lambda r: (lambda value, g: (value, rows(g)))(*numpy_network(flat(r), params))
    expected, count = twin(rows(baseline), rows(x), model, 1, 2, constraint=0.2)
    np.testing.assert_allclose(join(got.values), flat(expected), rtol=1e-10)
    assert int(got.evaluations) == count


@pytest.mark.parametrize(
    ("direction", "options"),
    [("insertion", OPTIONS[1]), ("deletion", OPTIONS[3]), ("both", OPTIONS[5])],
    ids=str,
)
def test_a_linear_function(options, direction):
    """Each pixel gets its own, so each has come to its end value, all of the way, in float32."""
    x, baseline, params = (jax.tree.map(jnp.float32, part) for part in problem(1))
    w = params["w"][:, 0]
    explain = paths.samp(lambda x, w: jnp.dot(w, x), direction=direction, **options)
    got = explain(x, baseline, w)
    np.testing.assert_allclose(got.values, w * (x - baseline), rtol=3e-5, atol=1e-6)
    still = explain(baseline, baseline, w)
    assert still.values.tolist() == [0] * 12
    assert int(still.evaluations) == 0


@pytest.mark.parametrize(("direction", "momentum"), [("insertion", 0.6), ("deletion", None)])
def test_completeness_comes_with_the_constraint(direction, momentum, x64):
    """To first order: a tenth of the step, a tenth of the gap."""
    options = {"direction": direction, "pixels": 3, "momentum": momentum}
    problems = [problem(seed) for seed in range(8)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)

    @jax.jit
    def gap(constraint):
        explain = paths.samp(network, constraint=constraint, **options)
        return jnp.abs(jax.vmap(explain)(*stacked).completeness_gap)

    coarse, fine, finest = (gap(jnp.float64(c)) for c in (0.02, 0.002, 0.0002))
    assert (finest < 0.02).all()
    assert 7 < np.median(coarse / fine) < 14
    assert 7 < np.median(fine / finest) < 14


def test_what_f_ignores_gets_nothing_and_what_is_written_otherwise_the_same(x64):
    x, baseline, params = problem(2)
    explain = lambda f, x=x, baseline=baseline: paths.samp_plus_plus(f, pixels=2)(
        x, baseline, params
    )
    dead = explain(lambda x, params: network(x.at[3].set(0.0), params)).values
    assert dead[3] == 0
    still = np.where(np.arange(12) == 5, x, baseline)
    assert explain(network, baseline=still).values[5] == 0
    written = lambda x, p: jnp.dot(p["v"], 2 / (1 + jnp.exp(-2 * (x @ p["w"] + p["c"]))) - 1)
    np.testing.assert_allclose(explain(written).values, explain(network).values, rtol=1e-9)


def test_redundant_evidence_goes_to_the_few_pixels_with_most_of_it(x64):
    """Where returns diminish: a larger variance than any order that begins with another pixel."""
    x = np.array([0.7, 1.9, 0.4, 1.2])
    variances = []
    for order in itertools.permutations(range(4)):
        steps = x[list(order)]
        if order[0] != 1:
            variances.append(np.var(steps * np.exp(steps - np.cumsum(steps))))
    got = paths.samp(lambda x: 1 - jnp.exp(-jnp.sum(x)), pixels=1)(x, np.zeros(4))
    assert np.var(got.values) > max(variances)
    np.testing.assert_allclose(got.values[1], 1.9, rtol=1e-12)  # as if it were alone


# ----------------------------------------------------------------------------- steps and choices


@pytest.mark.parametrize(
    ("pixels", "number"),
    [(1, 1), (7, 7), (1000, 200), (0.01, 2), (0.004, 1), (1e-9, 1), (1.0, 200)],
)
def test_the_number_of_pixels_and_of_steps(pixels, number):
    x = jnp.linspace(0.5, 2.0, 200)
    got = paths.samp(lambda x: jnp.sum(x**2), pixels=pixels)(x, jnp.zeros(200))
    assert int(got.evaluations) == -(-200 // number)
    # Only those that differ from the baseline have a way to go.
    half = jnp.where(jnp.arange(200) % 2 == 0, x, 0)
    got = paths.samp(lambda x: jnp.sum(x**2), pixels=pixels)(half, jnp.zeros(200))
    assert int(got.evaluations) == -(-100 // number)


@pytest.mark.parametrize("constraint", [0.5, 0.1, 0.01, 1e-3])
def test_the_constraint_bounds_the_number_of_steps(constraint):
    x, baseline, params = (jax.tree.map(jnp.float32, part) for part in problem(1, (40,)))
    count = int(
        paths.samp(network, pixels=4, constraint=constraint)(x, baseline, params).evaluations
    )
    # None is longer than allowed; and each uses up its length or ends four pixels.
    assert np.ceil(1 / constraint) <= count <= 10 + np.ceil(1 / constraint) + 1


def test_of_equal_changes_the_first_pixel_moves_first():
    """A product: the first to move brings 1, the second 2, the third 4."""
    f = lambda x: jnp.prod(x["a"]) * jnp.prod(x["b"])
    x, baseline = (
        {"a": jnp.full(2, 2.0), "b": jnp.full(1, 2.0)},
        {"a": jnp.ones(2), "b": jnp.ones(1)},
    )
    got = paths.samp(f, pixels=1)(x, baseline).values
    assert got["a"].tolist() == [1, 2]
    assert got["b"].tolist() == [4]
    # And away from x: the first takes 4 with it.
    got = paths.samp(f, pixels=1, direction="deletion")(x, baseline).values
    assert got["a"].tolist() == [4, 2]
    assert got["b"].tolist() == [1]


def test_gradients_of_zero():
    """All equal, so the pixels move in their order, to the end."""
    got = paths.samp(lambda x: 0 * jnp.sum(x) + 3, pixels=2)(jnp.ones(5), jnp.zeros(5))
    assert got.values.tolist() == [0] * 5
    assert int(got.evaluations) == 3
    assert bool(got.finite)


@pytest.mark.parametrize("options", [{}, {"constraint": 0.1, "momentum": 0.5}], ids=str)
def test_what_is_not_finite_ends_the_walk(options):
    x = jnp.linspace(1.0, 2.0, 6)
    # The gradient of x[3]^(1/2) is infinite at the baseline, where all the others are fine.
    got = paths.samp(lambda x: jnp.sum(x) + jnp.sqrt(x[3]), pixels=1, **options)(x, jnp.zeros(6))
    assert not bool(got.finite)
    assert int(got.evaluations) == 1
    # A baseline that is not finite: no step at all, even where f hides it.
    hides = lambda x: jnp.sum(jnp.where(jnp.isfinite(x), x, 0.0))
    for bad in (jnp.nan, jnp.inf):
        got = paths.samp(hides, pixels=1, **options)(x, jnp.zeros(6).at[2].set(bad))
        assert not bool(got.finite)
        assert int(got.evaluations) == 0
    # In a batch the others go on.
    several = jnp.stack([x, x.at[2].set(jnp.nan), 2 * x])
    explain = paths.samp(hides, pixels=1, **options)
    batch = jax.vmap(explain, (0, None))(several, jnp.zeros(6))
    assert batch.finite.tolist() == [True, False, True]
    np.testing.assert_array_equal(batch.values[2], explain(several[2], jnp.zeros(6)).values)


def test_numbers_can_be_traced():
    traces = []

    def f(x):
        traces.append(1)
        return jnp.sum(jnp.sin(x))

    @jax.jit
    def explain(constraint, momentum):
        one = paths.samp(f, pixels=2, constraint=constraint, momentum=momentum)
        return one(jnp.arange(6.0), jnp.zeros(6))

    coarse = explain(0.2, 0.5)
    first = len(traces)
    fine = explain(0.01, 0.1)
    assert len(traces) == first
    assert int(coarse.evaluations) < 12 < 100 <= int(fine.evaluations)
    assert abs(fine.completeness_gap) < abs(coarse.completeness_gap)
    same = paths.samp(f, pixels=2, constraint=0.01, momentum=0.1)(jnp.arange(6.0), jnp.zeros(6))
    np.testing.assert_allclose(fine.values, same.values, rtol=1e-6)


def test_samp_plus_plus_is_samp_with_both():
    x, baseline, params = (jax.tree.map(jnp.float32, part) for part in problem(4))
    got = paths.samp_plus_plus(network, direction="both")(x, baseline, params)
    options = {"direction": "both", "constraint": 0.01, "momentum": 0.5}
    expected = paths.samp(network, **options)(x, baseline, params)
    np.testing.assert_array_equal(got.values, expected.values)
    plain = paths.samp(network, direction="both")(x, baseline, params)
    assert abs(got.completeness_gap) < abs(plain.completeness_gap) / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest(dtype, x64):
    """Against a stable sort: infinities, zeros of both signs, ties and tiny numbers."""
    rng, largest = np.random.default_rng(0), jax.jit(_samp._largest, static_argnums=1)
    special = [0.0, -0.0, np.inf, -np.inf, 1.0, -1.0, 1e-40, -1e-40, np.finfo(dtype).max]
    for size in (1, 2, 9, 60):
        array = np.where(
            rng.random(size) < 0.5, rng.choice(special, size), rng.normal(size=size)
        ).astype(dtype)
        array[np.abs(array) < np.finfo(dtype).tiny] = 0  # XLA on CPU flushes what is subnormal
        order = np.argsort(-array, kind="stable")
        for number in {1, max(1, size // 2), size}:
            got = np.flatnonzero(largest(jnp.asarray(array), number))
            assert got.tolist() == sorted(order[:number].tolist())


def test_no_slow_convolution():
    """The gradient stands in a while_loop: no backward convolution is left in its slow form."""
    w = jnp.ones((3, 3, 2, 4))

    def f(x, w):
        numbers = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x[None], w, (1, 1), "SAME", dimension_numbers=numbers)
        y = jax.lax.conv_general_dilated(
            jax.nn.gelu(y), w.swapaxes(2, 3), (2, 2), "SAME", dimension_numbers=numbers
        )
        return jnp.sum(y**2)

    x = jnp.ones((6, 6, 2))
    explain = paths.samp_plus_plus(f, direction="both", channel_axis=-1)
    text = jax.jit(explain).lower(x, 0 * x, w).compile().as_text()
    assert set(re.findall(r"dim_labels=\w+?_(\w+)->", text)) == {"01io"}


# --------------------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"direction": "up"}, ValueError, "direction must be one of.*but is 'up'"),
        ({"pixels": 0}, ValueError, "pixels must be at least 1"),
        ({"pixels": 0.0}, ValueError, r"pixels must be above 0 and at most 1, but is 0.0"),
        ({"pixels": 5.0}, ValueError, r"but is 5.0. For a number of pixels: an integer"),
        ({"pixels": "few"}, TypeError, "pixels must be a Python integer"),
        ({"channel_axis": 1.0}, TypeError, "channel_axis must be a Python integer"),
        ({"channel_axis": 2}, ValueError, r"channel_axis is 2, but x has shape \(3, 2\)"),
        ({"channel_axis": -3}, ValueError, r"channel_axis is -3, but x has shape \(3, 2\)"),
        ({"constraint": 0.0}, ValueError, "constraint must be above 0 and at most 1"),
        ({"constraint": 2}, ValueError, "constraint must be above 0 and at most 1, but is 2"),
        ({"momentum": 1.0}, ValueError, r"momentum must be at least 0 and below 1, but is 1.0"),
        ({"momentum": "high"}, TypeError, "momentum must be one real number"),
    ],
    ids=str,
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        paths.samp(lambda x: jnp.sum(x), **options)(jnp.ones((3, 2)), jnp.zeros((3, 2)))
