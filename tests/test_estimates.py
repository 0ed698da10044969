"""Streaming moments against numpy in float64; intervals by their coverage over fixed seeds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxplain import estimates

HALF_UNIT = 2.0**-24  # relative error of a correctly rounded float32


def streamed(initial, values, chunk):
    """The state after all values, chunk by chunk in a compiled loop."""

    @jax.jit
    def run(values):
        chunks = jax.tree.map(lambda v: v.reshape((-1, chunk, *v.shape[1:])), values)
        step = lambda state, piece: (estimates.update(state, piece), None)
        return jax.lax.scan(step, initial, chunks)[0]

    return run(values)


def assert_states_close(got, expected, rtol, atol):
    assert type(got) is type(expected)
    # only the sums: what is in the low parts is the rounding itself
    for name in got._fields:
        if name == "compensation":
            continue
        left, right = getattr(got, name), getattr(expected, name)
        if isinstance(left, estimates.Moments):
            assert_states_close(left, right, rtol, atol)
        else:
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), left, right)


# ---------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize("chunk", [1, 16, 1000, 10**6])
@pytest.mark.parametrize("centre", [1e4, 1e6, 0.0])
def test_million_float32_samples_far_from_zero(centre, chunk):
    values = (np.random.default_rng(0).standard_normal(10**6) + centre).astype(np.float32)
    exact = values.astype(np.float64)
    state = streamed(estimates.init_moments(values[0]), values, chunk)
    assert float(state.count) == 10**6
    # the mean is rounded correctly, up to a millionth of a standard deviation
    assert abs(float(state.mean) - exact.mean()) <= HALF_UNIT * abs(exact.mean()) + 1e-6
    np.testing.assert_allclose(estimates.variance(state), exact.var(ddof=1), rtol=5e-7)
    np.testing.assert_allclose(estimates.standard_error(state), exact.std(ddof=1) / 1e3, rtol=5e-7)


def test_plain_float32_sums_would_fail_the_same_test():
    """That the test above has teeth: the textbook formula loses the variance whole."""
    values = (np.random.default_rng(0).standard_normal(10**6) + 1e4).astype(np.float32)
    naive = jnp.mean(jnp.square(values)) - jnp.square(jnp.mean(values))
    assert abs(float(naive) - 1) > 0.5


@pytest.mark.parametrize("chunk", [1, 500])
def test_covariance_of_a_million_float32_pairs(chunk):
    rng = np.random.default_rng(1)
    x = (rng.standard_normal(10**6) + 1e4).astype(np.float32)
    y = (0.5 * (x - 1e4) + rng.standard_normal(10**6) - 3e3).astype(np.float32)
    state = streamed(estimates.init_covariance(x[0]), (x, y), chunk)
    exact = np.cov(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(estimates.covariance(state), exact[0, 1], rtol=2e-6)
    np.testing.assert_allclose(estimates.variance(state.right), exact[1, 1], rtol=2e-6)
    correlation = exact[0, 1] / math.sqrt(exact[0, 0] * exact[1, 1])
    np.testing.assert_allclose(estimates.correlation(state), correlation, rtol=2e-6)


def test_covariance_matrix_of_a_stream():
    rng = np.random.default_rng(2)
    mixing = rng.standard_normal((5, 5))
    x = (rng.standard_normal((30_000, 5)) @ mixing + 1e3 * np.arange(5)).astype(np.float32)
    state = streamed(estimates.init_covariance_matrix(x[0]), x, 100)
    exact = np.cov(x.astype(np.float64), rowvar=False)
    scale = np.sqrt(np.outer(exact.diagonal(), exact.diagonal()))
    np.testing.assert_allclose(estimates.covariance(state) / scale, exact / scale, atol=2e-6)
    np.testing.assert_allclose(estimates.variance(state), exact.diagonal(), rtol=2e-6)
    np.testing.assert_allclose(estimates.correlation(state), exact / scale, atol=2e-6)
    np.testing.assert_allclose(estimates.mean(state), x.astype(np.float64).mean(0), 1e-7, 1e-6)


def test_float64(x64):
    values = np.random.default_rng(3).standard_normal((1200, 3)) + 1e7
    state = streamed(estimates.init_moments(values[0]), values, 12)
    assert state.mean.dtype == state.count.dtype == jnp.float64
    np.testing.assert_allclose(state.mean, values.mean(0), rtol=1e-15)
    np.testing.assert_allclose(estimates.variance(state), values.var(0, ddof=1), rtol=1e-14)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.int32, jnp.uint8, jnp.bool_])
def test_narrow_dtypes_accumulate_in_float32(dtype):
    values = jnp.asarray(np.random.default_rng(4).integers(0, 2, (4000, 2)), dtype)
    exact = np.asarray(values.astype(jnp.float32), np.float64)
    state = streamed(estimates.init_moments(values[0]), values, 16)
    assert state.mean.dtype == jnp.float32
    np.testing.assert_allclose(state.mean, exact.mean(0), rtol=1e-7)
    np.testing.assert_allclose(estimates.variance(state), exact.var(0, ddof=1), rtol=5e-7)


def test_leaves_of_several_dtypes_keep_their_own(x64):
    value = {"a": jnp.zeros((2,), jnp.bfloat16), "b": (jnp.zeros((), jnp.float64),)}
    rng = np.random.default_rng(5)
    values = {
        "a": jnp.asarray(rng.standard_normal((9, 2)), jnp.bfloat16),
        "b": (jnp.asarray(rng.standard_normal(9)),),
    }
    spread = estimates.variance(estimates.update(estimates.init_moments(value), values))
    assert spread["a"].dtype == jnp.float32
    assert spread["b"][0].dtype == jnp.float64
    np.testing.assert_allclose(spread["b"][0], np.var(values["b"][0], ddof=1), rtol=1e-14)
    exact = np.asarray(values["a"].astype(jnp.float64)).var(0, ddof=1)
    np.testing.assert_allclose(spread["a"], exact, rtol=1e-6)


# --------------------------------------------------------------------------- weights and masks


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_weights_count_how_often_a_sample_is_seen(kind):
    rng = np.random.default_rng(6)
    x, y = rng.standard_normal((2, 40, 3)) + 5
    times = rng.integers(0, 4, 40)
    x32, y32, w = (jnp.asarray(a, jnp.float32) for a in (x, y, times))
    repeated = np.repeat(x, times, 0), np.repeat(y, times, 0)
    if kind == "moments":
        state = estimates.update(estimates.init_moments(x32[0]), x32, w)
        np.testing.assert_allclose(estimates.variance(state), repeated[0].var(0, ddof=1), rtol=2e-6)
        np.testing.assert_allclose(estimates.mean(state), repeated[0].mean(0), rtol=1e-6)
        assert float(state.count) == times.sum()
    elif kind == "covariance":
        state = estimates.update(estimates.init_covariance(x32[0]), (x32, y32), w)
        exact = np.cov(*repeated, rowvar=False)[:3, 3:].diagonal()
        np.testing.assert_allclose(estimates.covariance(state), exact, rtol=2e-5, atol=1e-6)
    else:
        state = estimates.update(estimates.init_covariance_matrix(x32[0]), x32, w)
        exact = np.cov(repeated[0], rowvar=False)
        np.testing.assert_allclose(estimates.covariance(state), exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_masked_samples_may_be_nan_and_leave_no_trace(kind):
    x = jnp.asarray(np.random.default_rng(7).standard_normal((10, 2)), jnp.float32)
    mask = jnp.arange(10) % 3 != 0
    poisoned = jnp.where(mask[:, None], x, jnp.full_like(x, jnp.nan))
    initial = {
        "moments": estimates.init_moments,
        "covariance": estimates.init_covariance,
        "matrix": estimates.init_covariance_matrix,
    }[kind](x[0])
    both = (lambda v: (v, 2 * v)) if kind == "covariance" else (lambda v: v)
    masked = estimates.update(initial, both(poisoned), mask)
    kept = estimates.update(initial, both(x[np.asarray(mask)]))
    assert_states_close(masked, kept, 1e-6, 1e-6)
    # a chunk without any sample is neutral, to the bit
    again = estimates.update(masked, both(jnp.full_like(x, jnp.nan)), jnp.zeros(10, bool))
    jax.tree.map(np.testing.assert_array_equal, again, masked)


def test_values_that_are_not_finite_are_seen_in_the_result():
    state = estimates.update(estimates.init_moments(jnp.zeros(2)), jnp.array([[1.0, jnp.nan]] * 3))
    assert np.isnan(estimates.mean(state)).tolist() == [False, True]
    assert np.isnan(estimates.variance(state)).tolist() == [False, True]


# ---------------------------------------------------------------------------------- few samples


def test_too_few_samples_are_nan_and_never_an_exception():
    empty = estimates.init_moments(jnp.zeros(()))
    for state, seen in ((empty, 0), (estimates.update(empty, jnp.zeros((0,))), 0)):
        assert float(state.count) == seen
        for statistic in (estimates.mean, estimates.variance, estimates.standard_error):
            assert np.isnan(statistic(state))
    one = estimates.update(empty, jnp.array([7.0]))
    assert float(estimates.mean(one)) == 7
    assert np.isnan(estimates.variance(one))
    assert np.isnan(estimates.standard_error(one))
    assert float(estimates.variance(one, ddof=0)) == 0
    pair = estimates.update(estimates.init_covariance(jnp.zeros(())), (jnp.ones(1), jnp.ones(1)))
    assert np.isnan(estimates.covariance(pair))
    assert np.isnan(estimates.correlation(pair))
    assert np.isnan(estimates.covariance(estimates.init_covariance_matrix(jnp.zeros(2)))).all()


def test_correlation_of_a_constant_is_nan_and_of_tiny_numbers_is_not():
    x = jnp.array([1.0, 2.0, 4.0])
    state = estimates.init_covariance(x[0])
    assert np.isnan(estimates.correlation(estimates.update(state, (x, jnp.ones(3)))))
    tiny = estimates.correlation(estimates.update(state, (1e-12 * x, -1e-12 * x)))
    np.testing.assert_allclose(tiny, -1, rtol=1e-6)


# --------------------------------------------------------------------------------------- merging


def three_states(kind):
    rng = np.random.default_rng(8)
    pieces = [
        jnp.asarray(rng.standard_normal((n, 4)) * scale + centre, jnp.float32)
        for n, scale, centre in ((5, 1, 100), (1, 1, -50), (300, 10, 101))
    ]
    if kind == "moments":
        return [estimates.update(estimates.init_moments(p[0]), p) for p in pieces], pieces
    if kind == "covariance":
        return [
            estimates.update(estimates.init_covariance(p[0]), (p, jnp.sin(p))) for p in pieces
        ], pieces
    return [estimates.update(estimates.init_covariance_matrix(p[0]), p) for p in pieces], pieces


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_merge_is_commutative_associative_and_equals_one_pass(kind):
    (a, b, c), pieces = three_states(kind)
    merged = estimates.merge(estimates.merge(a, b), c)
    tolerance = {"rtol": 2e-6, "atol": 1e-3}  # absolute: of sums of products that cancel, ~3e4
    assert_states_close(estimates.merge(a, b), estimates.merge(b, a), **tolerance)
    assert_states_close(estimates.merge(a, estimates.merge(b, c)), merged, **tolerance)
    whole = np.concatenate(pieces).astype(np.float64)
    if kind == "moments":
        np.testing.assert_allclose(merged.mean, whole.mean(0), rtol=2e-7)
        np.testing.assert_allclose(estimates.variance(merged), whole.var(0, ddof=1), rtol=2e-6)
    elif kind == "covariance":
        exact = np.mean((whole - whole.mean(0)) * (np.sin(whole) - np.sin(whole).mean(0)), 0)
        np.testing.assert_allclose(estimates.covariance(merged, ddof=0), exact, atol=2e-5)
    else:
        exact = np.cov(whole, rowvar=False)
        np.testing.assert_allclose(estimates.covariance(merged), exact, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
def test_an_empty_state_is_neutral(kind):
    (a, _, _), _ = three_states(kind)
    empty = jax.tree.map(jnp.zeros_like, a)
    for merged in (estimates.merge(a, empty), estimates.merge(empty, a)):
        assert_states_close(merged, a, 1e-7, 0)


@pytest.mark.parametrize("kind", ["moments", "covariance", "matrix"])
@pytest.mark.parametrize("mapped", ["shard_map", "vmap"])
def test_merge_over_eight_devices_equals_the_serial_result(kind, mapped):
    rng = np.random.default_rng(9)
    values = jnp.asarray(rng.standard_normal((8 * 25, 3)) + 1e4, jnp.float32)
    mask = np.ones(8 * 25, bool)
    mask[25:50] = False  # one device has no sample
    mask[60:70] = False
    initial = {
        "moments": estimates.init_moments,
        "covariance": estimates.init_covariance,
        "matrix": estimates.init_covariance_matrix,
    }[kind](values[0])
    both = (lambda v: (v, v[:, ::-1])) if kind == "covariance" else (lambda v: v)

    def device(values, mask):
        return estimates.merge_across(estimates.update(initial, both(values), mask), "data")

    if mapped == "shard_map":
        mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
        split, everywhere = jax.P("data"), jax.P()
        across = jax.jit(
            jax.shard_map(device, mesh=mesh, in_specs=(split, split), out_specs=everywhere)
        )(values, mask)
    else:
        copies = jax.vmap(device, axis_name="data")(values.reshape(8, 25, 3), mask.reshape(8, 25))
        jax.tree.map(
            lambda leaf: np.testing.assert_array_equal(leaf, leaf[:1].repeat(8, 0)), copies
        )
        across = jax.tree.map(lambda leaf: leaf[0], copies)
    serial = initial
    for piece in range(8):
        rows = slice(25 * piece, 25 * piece + 25)
        serial = estimates.update(serial, both(values[rows]), mask[rows])
    assert_states_close(across, serial, 2e-6, 2e-4)
    kept = np.asarray(values, np.float64)[mask]
    if kind == "moments":
        np.testing.assert_allclose(across.mean, kept.mean(0), rtol=2 * HALF_UNIT)
        np.testing.assert_allclose(estimates.variance(across), kept.var(0, ddof=1), rtol=2e-6)
    if kind == "matrix":
        np.testing.assert_allclose(
            estimates.covariance(across), np.cov(kept, rowvar=False), atol=2e-6
        )


def test_a_loop_inside_shard_map_carries_the_state():
    """A state made from an array of the device varies as it does, so that scan accepts it."""
    values = np.random.default_rng(22).standard_normal((8 * 6, 2)).astype(np.float32)
    mask = np.arange(8 * 6) % 5 != 0
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def device(values, mask):
        step = lambda state, piece: (estimates.update(state, piece[0][None], piece[1][None]), None)
        state = jax.lax.scan(step, estimates.init_moments(values[0]), (values, mask))[0]
        return estimates.merge_across(state, "data")

    specs = (jax.P("data"), jax.P("data"))
    state = jax.jit(jax.shard_map(device, mesh=mesh, in_specs=specs, out_specs=jax.P()))(
        values, mask
    )
    exact = values.astype(np.float64)[mask]
    np.testing.assert_allclose(state.mean, exact.mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(estimates.variance(state), exact.var(0, ddof=1), rtol=1e-6)


def test_sharded_samples_on_an_explicit_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))
    values = np.random.default_rng(10).standard_normal((64, 3)).astype(np.float32)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(values, jax.P("data"))
        update = jax.jit(
            lambda v, w: estimates.update(
                estimates.init_moments(jax.ShapeDtypeStruct((3,), v.dtype)), v, w
            )
        )
        mask = jax.device_put(np.arange(64) < 50, jax.P("data"))
        state = update(sharded, mask)
    np.testing.assert_allclose(estimates.variance(state), values[:50].var(0, ddof=1), rtol=2e-6)


# ------------------------------------------------------------------------------- transformations


def test_gradient_of_variance_and_standard_error_through_chunks():
    y = jnp.asarray(np.random.default_rng(11).standard_normal(12) + 3, jnp.float32)
    exact = np.asarray(y, np.float64)

    def statistics(y):
        state = estimates.init_moments(y[0])
        for piece in (y[:5], y[5:6], y[6:]):
            state = estimates.update(state, piece)
        functions = (estimates.mean, estimates.variance, estimates.standard_error)
        return jnp.stack([statistic(state) for statistic in functions])

    of_mean, of_variance, of_error = jax.jit(jax.jacrev(statistics))(y)
    np.testing.assert_allclose(of_mean, np.full(12, 1 / 12), rtol=1e-6)
    slope = 2 * (exact - exact.mean()) / 11
    np.testing.assert_allclose(of_variance, slope, atol=1e-6)
    slope = slope / 12 / (2 * exact.std(ddof=1) / np.sqrt(12))
    np.testing.assert_allclose(of_error, slope, atol=1e-6)
    forward = jax.jit(lambda y: jax.jvp(statistics, (y,), (y,))[1])(y)[1]
    np.testing.assert_allclose(forward, 2 * exact.var(ddof=1), rtol=1e-5)


def test_vmap_equals_a_loop_and_the_state_scans():
    y = jnp.asarray(np.random.default_rng(12).standard_normal((4, 30, 2)), jnp.float32)
    one = lambda y: estimates.standard_error(streamed(estimates.init_moments(y[0]), y, 5))
    together = jax.jit(jax.vmap(one))(y)
    np.testing.assert_allclose(together, np.stack([one(row) for row in y]), rtol=1e-6)
    exact = np.asarray(y, np.float64).std(1, ddof=1) / np.sqrt(30)
    np.testing.assert_allclose(together, exact, rtol=1e-6)


# ---------------------------------------------------------------------------------- batch means


def test_batch_means_by_hand():
    values = np.random.default_rng(13).standard_normal((60, 2)) + 1e3
    r = estimates.batch_means({"v": jnp.asarray(values, jnp.float32)}, 6)
    means = values.astype(np.float32).astype(np.float64).reshape(6, 10, 2).mean(1)
    np.testing.assert_allclose(r.mean["v"], means.mean(0), rtol=1e-7)
    np.testing.assert_allclose(r.standard_error["v"], means.std(0, ddof=1) / np.sqrt(6), rtol=1e-5)


def test_batch_means_know_correlation():
    """AR(1), coefficient 0.8: the variance of the mean is 9 times the naive."""
    chains, length, rho = 2000, 1000, 0.8
    noise = np.random.default_rng(14).standard_normal((length, chains))
    y = np.empty((length, chains))
    y[0] = noise[0]
    for t in range(1, length):
        y[t] = rho * y[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    lags = np.arange(1, length)
    true = (1 + 2 * np.sum((1 - lags / length) * rho**lags)) / length  # variance of the mean
    r = estimates.batch_means(jnp.asarray(y, jnp.float32), 10)
    # batches of 100 are 20 correlation lengths: the squared error is low by about 1 / 20 at most
    ratio = np.asarray(r.standard_error, np.float64) ** 2 / true
    error = ratio.std() / np.sqrt(chains)
    assert 0.9 - 4 * error < ratio.mean() < 1 + 4 * error
    inside = np.abs(np.asarray(r.mean)) <= scipy.stats.t.ppf(0.975, 9) * np.asarray(
        r.standard_error
    )
    assert abs(inside.mean() - 0.95) < 0.01 + 4 * np.sqrt(0.95 * 0.05 / chains)
    naive = y.var(0, ddof=1) / length
    assert naive.mean() / true < 0.15


def test_batch_means_of_independent_scrambles():
    """Replicates of a quasi-random rule as batches: the interval covers at the stated rate."""
    repetitions, replicates, points = 400, 8, 32
    shifts = jax.random.uniform(jax.random.key(15), (repetitions, replicates, 1))
    lattice = (jnp.arange(points) / points)[None, None, :]
    values = jnp.exp((lattice + shifts) % 1.0).reshape(repetitions, replicates * points)
    r = jax.vmap(lambda v: estimates.batch_means(v, replicates))(values)
    interval = jax.vmap(lambda m, s: estimates.student_interval(m, s, replicates - 1))(*r)
    covered = (interval.lower <= np.e - 1) & (interval.upper >= np.e - 1)
    assert abs(float(covered.mean()) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / repetitions)
    # a shifted lattice of n points is off by (f(1) - f(0)) / n times a uniform of variance 1 / 12
    true = (np.e - 1) ** 2 / 12 / points**2 / replicates
    spread = np.sqrt(2 / (replicates - 1) / repetitions)
    assert abs(float(jnp.mean(r.standard_error**2)) / true - 1) < 4 * spread


# ------------------------------------------------------------------------------------- intervals


def test_normal_interval_against_scipy():
    m, s = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    for level in (0.5, 0.95, 1 - 1e-9):
        r = estimates.normal_interval(m, s, level)
        lower, upper = scipy.stats.norm.interval(level, np.asarray(m), np.asarray(s))
        np.testing.assert_allclose(r.lower, lower, rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(r.upper, upper, rtol=2e-6, atol=1e-6)
    traced = jax.jit(estimates.normal_interval)(m, s, jnp.float32(0.95))
    np.testing.assert_allclose(traced.upper, estimates.normal_interval(m, s).upper, rtol=1e-5)
    assert np.isnan(estimates.normal_interval(jnp.zeros(()), jnp.float32(jnp.nan)).lower)


def test_intervals_in_float64_and_bfloat16(x64):
    r = estimates.normal_interval(jnp.zeros(()), jnp.ones(()), 0.9)
    np.testing.assert_allclose(r.upper, scipy.special.ndtri(0.95), rtol=1e-14)
    narrow = estimates.normal_interval(jnp.bfloat16(1), jnp.bfloat16(0.25))
    assert narrow.lower.dtype == jnp.bfloat16
    assert abs(float(narrow.lower) - 0.51) < 0.004


def test_student_interval_against_scipy():
    m, s = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    r = estimates.student_interval({"a": m}, {"a": s}, 4, level=0.9)
    lower, upper = scipy.stats.t.interval(0.9, 4, np.asarray(m), np.asarray(s))
    np.testing.assert_allclose(r.lower["a"], lower, rtol=1e-6)
    np.testing.assert_allclose(r.upper["a"], upper, rtol=1e-6)


@pytest.mark.parametrize(("kind", "size"), [("normal", 400), ("student", 5)])
def test_coverage_of_a_mean(kind, size):
    """False alarms: 4 binomial standard errors, about 1 in 16,000."""
    repetitions, level = 4000, 0.9
    y = jax.random.normal(jax.random.key(16), (repetitions, size)) + 1.0

    def interval(y):
        state = estimates.update(estimates.init_moments(y[0]), y)
        m, s = estimates.mean(state), estimates.standard_error(state)
        if kind == "student":
            return estimates.student_interval(m, s, size - 1, level)
        return estimates.normal_interval(m, s, level)

    r = jax.jit(jax.vmap(interval))(y)
    covered = float(jnp.mean((r.lower <= 1) & (r.upper >= 1)))
    assert abs(covered - level) < 4 * np.sqrt(level * (1 - level) / repetitions)


# ------------------------------------------------------------------------------------- bootstrap


def plain_mean(values):
    """The slow twin: the samples themselves are drawn and averaged."""
    return jax.tree.map(lambda v: v.mean(0), values)


def medians(values):
    return jnp.median(values, axis=0)


def test_bootstrap_of_the_mean_equals_drawing_the_samples():
    rng = np.random.default_rng(17)
    values = {
        "a": jnp.asarray(rng.standard_normal((50, 2, 3)) + 100, jnp.float32),
        "b": jnp.asarray(rng.exponential(size=50), jnp.float32),
    }
    key = jax.random.key(1)
    fast = estimates.bootstrap_interval(key, values, resamples=300)
    slow = estimates.bootstrap_interval(key, values, resamples=300, statistic=plain_mean)
    for name in values:
        for end in ("lower", "upper"):
            left, right = getattr(fast, end)[name], getattr(slow, end)[name]
            np.testing.assert_allclose(left, right, rtol=3e-7, atol=2e-6)
    # the ends are where the normal distribution puts them, up to their own sampling error
    scale = np.asarray(values["a"], np.float64).std(0) / np.sqrt(50)
    offset = (np.asarray(fast.upper["a"]) - np.asarray(values["a"], np.float64).mean(0)) / scale
    np.testing.assert_allclose(offset, 1.96, atol=4 * np.sqrt(0.025 * 0.975 / 300) / 0.058)


def test_bootstrap_of_a_nonlinear_statistic_against_numpy():
    """The same resamples drawn in numpy, from the same indices."""
    values = np.random.default_rng(18).standard_normal(31).astype(np.float32)
    key = jax.random.key(2)
    r = estimates.bootstrap_interval(key, values, 0.8, 240, medians)
    chosen = jax.vmap(lambda k: jax.random.randint(k, (31,), 0, 31))(jax.random.split(key, 240))
    exact = np.quantile(np.median(values[np.asarray(chosen)], 1), [0.1, 0.9])
    np.testing.assert_allclose([r.lower, r.upper], exact, rtol=1e-6)


def test_chunk_size_changes_the_bootstrap_only_by_rounding():
    values = jnp.asarray(np.random.default_rng(19).standard_normal((40, 3)), jnp.float32)
    small, large = (
        estimates.bootstrap_interval(jax.random.key(3), values, resamples=50, chunk_size=chunk)
        for chunk in (7, 1000)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), small, large)


def test_bootstrap_coverage():
    """The percentile interval is short by sqrt((n - 1) / n): the rate is Student's there.

    The ends of 500 resamples have a sampling error, which costs below half a percent more.
    """
    repetitions, size = 1500, 40
    keys = jax.random.split(jax.random.key(20), (repetitions, 2))
    y = jax.vmap(lambda k: jax.random.normal(k, (size,)))(keys[:, 0]) + 1.0
    r = jax.vmap(lambda k, y: estimates.bootstrap_interval(k, y, resamples=500))(keys[:, 1], y)
    covered = float(jnp.mean((r.lower <= 1) & (r.upper >= 1)))
    reach = 1.96 * np.sqrt((size - 1) / size)
    expected = 1 - 2 * scipy.stats.t.sf(reach, size - 1)
    error = np.sqrt(expected * (1 - expected) / repetitions)
    assert expected - 4 * error - 0.005 < covered < expected + 4 * error


def test_bootstrap_of_no_sample_and_of_one():
    none = estimates.bootstrap_interval(jax.random.key(0), jnp.zeros((0, 2)), resamples=10)
    assert np.isnan(none.lower).tolist() == [True, True]
    assert np.isnan(none.upper).tolist() == [True, True]
    one = estimates.bootstrap_interval(jax.random.key(0), jnp.array([3.0]), resamples=10)
    assert float(one.lower) == float(one.upper) == 3.0


def test_bootstrap_memory_does_not_hold_the_resamples():
    n, d, resamples = 5000, 64, 1000
    lowered = jax.jit(lambda k, v: estimates.bootstrap_interval(k, v, resamples=resamples)).lower(
        jax.random.key(0), jax.ShapeDtypeStruct((n, d), jnp.float32)
    )
    memory = lowered.compile().memory_analysis().temp_size_in_bytes
    # some copies of the values, of chunks of counts and of the results; all resamples are 1.3 GB
    assert memory < 4 * (4 * n * d + 8 * 16 * n + 4 * resamples * d)


def test_bootstrap_in_float64(x64):
    values = np.random.default_rng(21).standard_normal(30) + 1e6
    r = estimates.bootstrap_interval(jax.random.key(4), values, resamples=60)
    chosen = jax.vmap(lambda k: jax.random.randint(k, (30,), 0, 30))(
        jax.random.split(jax.random.key(4), 60)
    )
    exact = np.quantile(values[np.asarray(chosen)].mean(1), [0.025, 0.975])
    np.testing.assert_allclose([r.lower, r.upper], exact, rtol=1e-14)


# -------------------------------------------------------------------------------------- messages


def test_messages():
    state = estimates.init_moments(jnp.zeros(3))
    with pytest.raises(ValueError, match="leading sample axis"):
        estimates.update(state, jnp.zeros(3))
    with pytest.raises(ValueError, match="must be a tree"):
        estimates.update(state, {"a": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"weights must have one number .* shape \(2,\)"):
        estimates.update(state, jnp.zeros((2, 3)), jnp.ones(3))
    with pytest.raises(TypeError, match="state must be"):
        estimates.update(jnp.zeros(3), jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match="real numbers"):
        estimates.init_moments(jnp.zeros(3, jnp.complex64))
    with pytest.raises(ValueError, match="one vector per sample"):
        estimates.init_covariance_matrix(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="pair of trees"):
        estimates.update(estimates.init_covariance(jnp.zeros(3)), jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="different numbers of samples"):
        estimates.update(
            estimates.init_covariance(jnp.zeros(3)), (jnp.zeros((4, 3)), jnp.zeros((5, 3)))
        )
    with pytest.raises(TypeError, match="one type merge"):
        estimates.merge(state, estimates.init_covariance(jnp.zeros(3)))
    with pytest.raises(TypeError, match=r"state\.left"):
        estimates.standard_error(estimates.init_covariance(jnp.zeros(3)))
    with pytest.raises(TypeError, match="Covariance or CovarianceMatrix"):
        estimates.correlation(state)
    with pytest.raises(ValueError, match=r"do not divide 10 samples\. Leave out the first 1"):
        estimates.batch_means(jnp.zeros(10), 3)
    with pytest.raises(ValueError, match="at least 2 batches"):
        estimates.batch_means(jnp.zeros(10), 1)
    with pytest.raises(ValueError, match="between 0 and 1"):
        estimates.normal_interval(0.0, 1.0, level=95)
    with pytest.raises(TypeError, match="many samples use normal_interval"):
        estimates.student_interval(0.0, 1.0, jnp.float32(3))
    with pytest.raises(ValueError, match="must be positive"):
        estimates.student_interval(0.0, 1.0, 0)
    with pytest.raises(ValueError, match="must agree"):
        estimates.normal_interval(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(TypeError, match="typed key"):
        estimates.bootstrap_interval(jax.random.PRNGKey(0), jnp.zeros(3))
    with pytest.raises(ValueError, match="resamples must be at least 1"):
        estimates.bootstrap_interval(jax.random.key(0), jnp.zeros(3), resamples=0)
    with pytest.raises(TypeError, match="statistic must be None"):
        estimates.bootstrap_interval(jax.random.key(0), jnp.zeros(3), statistic="mean")


def test_double_precision_values_need_a_state_made_for_them(x64):
    state = estimates.init_moments(jnp.zeros((), jnp.float32))
    with pytest.raises(TypeError, match="the state was made for float32"):
        estimates.update(state, jnp.zeros(3, jnp.float64))
