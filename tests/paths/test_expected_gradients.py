"""Expected Gradients against the closed form of a tanh network, a slow twin, and its own errors.

For one hidden layer f(z) = sum_h a_h tanh(z . w_h) the integral over the line is known:

    E_t[ (x - b)_i df/dx_i ] = (x - b)_i sum_h a_h w_hi (tanh(x . w_h) - tanh(b . w_h)) / u_h

with u_h = (x - b) . w_h.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import t as student

import jaxplain
from jaxplain import paths
from jaxplain.paths import _sampling

MODES = ("random", "stratified", "qmc")
modes = pytest.mark.parametrize("positions", MODES)


def network(z, weights, outer):
    return jnp.dot(jnp.tanh(jnp.dot(z, weights)), outer)


def problem(seed, baselines, features=3, hidden=4):
    """x, baselines, params, and the true attribution in float64."""
    generator = np.random.default_rng(seed)
    weights = generator.normal(size=(features, hidden))
    outer = generator.normal(size=hidden)
    x = generator.normal(size=features)
    others = 0.5 * generator.normal(size=(baselines, features))
    apart = x - others
    rise = (np.tanh(x @ weights) - np.tanh(others @ weights)) / (apart @ weights)
    truth = (apart * ((rise * outer) @ weights.T)).mean(0)
    narrow = lambda array: jnp.asarray(array, jnp.float32)
    return narrow(x), narrow(others), (narrow(weights), narrow(outer)), truth


@functools.cache
def repeated(positions, seed, baselines, samples):
    """2,000 repetitions, with keys of their own."""
    x, others, params, truth = problem(seed, baselines)
    explain = jaxplain.expected_gradients(
        network, samples=samples, positions=positions, chunk_size=samples
    )
    keys = jax.random.split(jax.random.key(seed), 2000)
    result = jax.jit(jax.vmap(explain, (0, None, None, None, None)))(keys, x, others, *params)
    return jax.device_get(result), truth


# One baseline has one group of eight replicates, 8 have four groups of two, 32 eight of four.
@modes
@pytest.mark.parametrize("baselines", [1, 8, 32])
def test_the_interval_covers_and_the_error_is_the_error(positions, baselines):
    result, truth = repeated(positions, 11, baselines, 64)
    quantile = student.ppf(0.975, result.degrees_of_freedom[0])
    error = result.values - truth
    covered = (np.abs(error) <= quantile * result.standard_error).mean(0)
    assert (covered > 0.92).all()
    assert (covered < 0.98).all()
    # Their squares agree on average (2,000 errors, a spread of 3 to 5 %), and there is no bias.
    ratio = (result.standard_error**2).mean(0) / (error**2).mean(0)
    assert (np.abs(ratio - 1) < 0.2).all()
    assert (np.abs(error.mean(0)) < 4 * error.std(0) / 2000**0.5).all()
    # The same of the completeness gap, whose truth is 0.
    covered = (np.abs(result.completeness_gap) <= quantile * result.gap_error + 1e-6).mean()
    assert 0.92 < covered < 0.98


@pytest.mark.parametrize("baselines", [1, 8])
def test_balance_halves_the_error(baselines):
    error = {}
    for positions in MODES:
        result, truth = repeated(positions, 11, baselines, 64)
        assert result.evaluations[0] == 64
        error[positions] = np.sqrt(((result.values - truth) ** 2).mean())
    assert error["stratified"] < 0.5 * error["random"]
    assert error["qmc"] < 0.5 * error["random"]
    if baselines == 1:
        assert error["qmc"] < 0.5 * error["stratified"]


def test_many_baselines_and_few_samples():
    """More baselines than samples: f is evaluated at those that are drawn."""
    _, others, params, _ = problem(12, 200)
    mean = float(jnp.mean(jax.vmap(lambda b: network(b, *params))(others)))
    for positions in MODES:
        result, truth = repeated(positions, 12, 200, 40)
        error = result.values - truth
        assert (np.abs(error.mean(0)) < 4 * error.std(0) / 2000**0.5).all()
        error = result.baseline_output - mean
        assert error.std() > 0
        assert abs(error.mean()) < 4 * error.std() / 2000**0.5
        # What values and baselines have in common cancels.
        assert result.gap_error.mean() < 0.7 * error.std()


# ----------------------------------------------------------------------------------- the design


DESIGNS = [(64, 1), (64, 8), (200, 100), (50, 300), (5, 3)]


@pytest.mark.parametrize(("samples", "baselines"), DESIGNS)
@pytest.mark.parametrize("positions", ["stratified", "qmc"])
def test_balance_by_counting(positions, samples, baselines):
    plan = _sampling.design(samples, baselines, positions)
    groups, replicates, points = plan
    assert 0.8 * samples <= plan.samples <= samples
    if samples >= 16:
        assert groups * (replicates - 1) >= 7
    key = jax.random.key(samples)
    chosen, position = _sampling.lay_out(key, baselines, plan, positions)
    chosen = np.asarray(chosen).reshape(plan)
    position = np.asarray(position).reshape(plan)
    assert ((position >= 0) & (position <= 1)).all()
    sizes = [len(part) for part in np.array_split(np.arange(baselines), groups)]
    seen = []
    for group in range(groups):
        members = set(chosen[group].ravel())
        seen += members
        assert len(members) <= sizes[group]
        for row, where in zip(chosen[group], position[group], strict=True):
            counts = np.unique(row, return_counts=True)[1]
            assert len(counts) == min(sizes[group], points)
            assert counts.max() - counts.min() <= 1
            cells = np.sort(np.floor(where * points * (1 - 1e-6)))
            assert cells.tolist() == list(range(points))
            if positions == "qmc":
                pairs = where[: points // 2 * 2].reshape(-1, 2)
                middle = (2 * np.arange(len(pairs)) + 1) / points
                np.testing.assert_allclose(pairs.mean(1), middle, atol=1e-6)
                for baseline in members:  # its positions are as far apart as they can be
                    own = np.floor(where[row == baseline] * points * (1 - 1e-6))
                    assert (np.diff(own) == sizes[group]).all()
    assert len(seen) == len(set(seen)), "groups do not overlap"
    if samples >= 2 * baselines:
        assert len(seen) == baselines


def test_stratified_positions_do_not_follow_the_baselines():
    plan = _sampling.design(64, 8, "stratified")
    lay_out = lambda key: _sampling.lay_out(key, 8, plan, "stratified")
    chosen, position = jax.vmap(lay_out)(jax.random.split(jax.random.key(0), 500))
    for baseline in range(8):
        own = np.asarray(position)[np.asarray(chosen) == baseline]
        # 4,000 uniform numbers: mean 1/2, variance 1/12.
        assert abs(own.mean() - 0.5) < 4 * (1 / 12 / own.size) ** 0.5
        assert abs(own.var() * 12 - 1) < 0.1


@modes
@pytest.mark.parametrize(("samples", "baselines"), [(24, 2), (30, 9), (24, 40)])
def test_a_slow_twin(positions, samples, baselines):
    """The same points in numpy float64, one by one."""
    x, others, params, _ = problem(5, baselines)
    key = jax.random.key(7)
    plan = _sampling.design(samples, baselines, positions)
    lay_key, _ = jax.random.split(key)
    chosen, position = map(np.asarray, _sampling.lay_out(lay_key, baselines, plan, positions))
    x64, others64, weights, outer = (np.asarray(a, np.float64) for a in (x, others, *params))
    f64 = lambda z: np.tanh(z @ weights) @ outer
    terms = []
    for b, t in zip(others64[chosen], position.astype(np.float64), strict=True):
        z = b + t * (x64 - b)
        gradient = weights @ ((1 - np.tanh(z @ weights) ** 2) * outer)
        terms.append((x64 - b) * gradient)
    groups, replicates, _ = plan
    means = np.array(terms).reshape(*plan, -1).mean(2)
    share = np.array([len(p) for p in np.array_split(np.arange(baselines), groups)]) / baselines
    values = (share[:, None] * means.mean(1)).sum(0)
    variance = (share[:, None] ** 2 * means.var(1, ddof=1) / replicates).sum(0)
    start = f64(others64).mean() if baselines <= plan.samples else f64(others64[chosen]).mean()

    explain = jaxplain.expected_gradients(network, samples=samples, positions=positions)
    result = explain(key, x, others, *params)
    np.testing.assert_allclose(result.values, values, atol=2e-6)
    np.testing.assert_allclose(result.standard_error, variance**0.5, rtol=2e-4)
    np.testing.assert_allclose(result.output, f64(x64), atol=1e-6)
    if positions == "random" or groups == 1 or baselines <= plan.samples:
        np.testing.assert_allclose(result.baseline_output, start, atol=1e-6)
    gap = float(result.values.sum() - (result.output - result.baseline_output))
    np.testing.assert_allclose(result.completeness_gap, gap, atol=3e-6)
    assert int(result.evaluations) == plan.samples
    assert bool(result.finite)


def test_one_sample_has_no_error():
    x, others, params, _ = problem(1, 5)
    for positions in MODES:
        explain = jaxplain.expected_gradients(network, samples=1, positions=positions)
        result = explain(jax.random.key(0), x, others, *params)
        assert np.isnan(result.standard_error).all()
        assert int(result.degrees_of_freedom) == 0
        assert bool(result.finite)


# ----------------------------------------------------------------------------------- the axioms


def deep(z, params):
    """Two hidden layers, with kinks in the first."""
    first, second, outer = params
    return jnp.dot(jnp.tanh(jnp.dot(jax.nn.relu(jnp.dot(z, first)), second)), outer)


def random_networks(count, features=5):
    for seed in range(count):
        keys = jax.random.split(jax.random.key(100 + seed), 5)
        params = (
            jax.random.normal(keys[0], (features, 6)),
            jax.random.normal(keys[1], (6, 4)),
            jax.random.normal(keys[2], (4,)),
        )
        x = jax.random.normal(keys[3], (features,))
        yield params, x, jax.random.normal(keys[4], (7, features))


@pytest.mark.slow
@modes
def test_axioms(positions):
    key = jax.random.key(3)
    make = functools.partial(jaxplain.expected_gradients, samples=56, positions=positions)
    explain = make(deep)
    plain = make(lambda z, params: jnp.sum(jnp.sin(z)))
    both = make(lambda z, params: 2 * deep(z, params) - 3 * jnp.sum(jnp.sin(z)))
    # Another program of the same function: the first layer row by row, tanh by exponentials.
    rewritten = make(
        lambda z, params: jnp.sum(
            params[2]
            * (
                1
                - 2
                / (
                    jnp.exp(2 * jnp.dot(jnp.maximum(sum(
                        z[i] * params[0][i] for i in range(5)
                    ), 0), params[1])) + 1
                )
            )
        )
    )  # fmt: skip
    for params, x, baselines in random_networks(12):
        result = explain(key, x, baselines, params)
        # Completeness, on average.
        assert abs(result.completeness_gap) <= 4 * result.gap_error + 1e-5
        # Linearity: of the estimate itself, since the points are the same.
        other = plain(key, x, baselines, params).values
        combined = both(key, x, baselines, params).values
        np.testing.assert_allclose(combined, 2 * result.values - 3 * other, atol=2e-5)
        # Implementation invariance.
        again = rewritten(key, x, baselines, params)
        np.testing.assert_allclose(again.values, result.values, atol=1e-4)
        # Dummy: no influence, no attribution, no error.
        blind = (params[0].at[2].set(0.0), *params[1:])
        dummy = explain(key, x, baselines, blind)
        assert float(dummy.values[2]) == 0
        assert float(dummy.standard_error[2]) == 0
        # Symmetry: what f, x and all baselines treat alike gets the same.
        alike = (params[0].at[1].set(params[0][0]), *params[1:])
        same = explain(key, x.at[1].set(x[0]), baselines.at[:, 1].set(baselines[:, 0]), alike)
        np.testing.assert_allclose(same.values[0], same.values[1], rtol=1e-5, atol=1e-6)


@modes
def test_a_linear_function_with_all_baselines_in_each_replicate_is_exact(positions):
    weights = jnp.array([2.0, -1.0, 0.5])
    baselines = jax.random.normal(jax.random.key(1), (4, 3))
    x = jnp.array([1.0, 2.0, 3.0])
    explain = jaxplain.expected_gradients(
        lambda z: jnp.dot(z, weights), samples=64, positions=positions
    )
    result = explain(jax.random.key(2), x, baselines)
    if positions == "random":
        assert float(result.standard_error.max()) > 0.01
        return
    np.testing.assert_allclose(result.values, weights * (x - baselines.mean(0)), atol=1e-6)
    assert float(result.standard_error.max()) < 1e-6
    assert abs(float(result.completeness_gap)) < 2e-6


# -------------------------------------------------------------------------------- as a function


def test_keys():
    x, others, params, _ = problem(1, 5)
    explain = jaxplain.expected_gradients(network, samples=16)
    first, again, other = (
        explain(jax.random.key(seed), x, others, *params).values for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    with pytest.raises(TypeError, match=r"typed key.*comes first"):
        explain(x, others, *params)
    with pytest.raises(TypeError, match="typed key"):
        explain(jnp.zeros(2, jnp.uint32), x, others, *params)
    with pytest.raises(ValueError, match="one key"):
        explain(jax.random.split(jax.random.key(0)), x, others, *params)


def test_training_through_a_dead_feature_stays_finite():
    x, others, (weights, outer), _ = problem(1, 5)
    for positions in MODES:
        explain = jaxplain.expected_gradients(network, samples=16, positions=positions)

        def loss(weights, explain=explain):
            result = explain(jax.random.key(0), x, others, weights, outer)
            return jnp.sum(result.values**2) + jnp.sum(result.standard_error)

        gradient = jax.jit(jax.grad(loss))(weights.at[1].set(0.0))
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
def test_keys_of_a_sharded_batch(axis_type):
    """Each example with its own key, so that gathers of baselines are sharded too."""
    x, others, params, _ = problem(1, 5)
    explain = jaxplain.expected_gradients(network, samples=24, chunk_size=2)
    mapped = jax.jit(jax.vmap(explain, (0, 0, None, None, None)))
    keys = jax.random.split(jax.random.key(0), 16)
    batch = jnp.linspace(0.5, 1.5, 16)[:, None] * x[None]
    expected = jax.device_get(mapped(keys, batch, others, *params))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(jax.sharding.AxisType, axis_type),))
    with jax.set_mesh(mesh):
        keys, batch = jax.device_put((keys, batch), jax.P("data"))
        got = mapped(keys, batch, others, *params)
        assert not got.values.sharding.is_fully_replicated
    np.testing.assert_allclose(jax.device_get(got).values, expected.values, atol=1e-5)


def test_bad_input():
    x, others, params, _ = problem(1, 5)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="positions must be one of 'stratified', 'random', 'qmc'"):
        jaxplain.expected_gradients(network, positions="sobol")
    for samples, error in ((0, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="samples must be"):
            jaxplain.expected_gradients(network, samples=samples)
    explain = jaxplain.expected_gradients(network, samples=8)
    with pytest.raises(ValueError, match=r"first axis counts the baselines.*baseline\[None\]"):
        explain(key, x, others[0], *params)
    with pytest.raises(ValueError, match="must hold at least one"):
        explain(key, x, others[:0], *params)
    with pytest.raises(TypeError, match=r"baselines.astype"):
        explain(key, x, others.astype(jnp.bfloat16), *params)
    two = jaxplain.expected_gradients(lambda z: jnp.sum(z["a"]) + z["b"])
    with pytest.raises(ValueError, match=r"different numbers of baselines: \[2, 3\]"):
        two(key, {"a": x, "b": jnp.float32(1)}, {"a": others[:2], "b": jnp.ones(3)})


def test_a_baseline_that_is_not_finite_is_flagged():
    x, others, params, _ = problem(1, 5)
    result = jaxplain.expected_gradients(network, samples=8)(
        jax.random.key(0), x, others.at[3, 1].set(jnp.nan), *params
    )
    assert not bool(result.finite)


def test_the_headline_is_the_function():
    assert jaxplain.expected_gradients is paths.expected_gradients


@pytest.mark.parametrize("positions", ["random", "stratified", "qmc"])
def test_hoisting_changes_rounding_only(positions, x64):
    """A dense first layer: each baseline passes it once, and the numbers stay."""
    keys = jax.random.split(jax.random.key(5), 5)
    shapes = ((12, 6), (6, 3), (4, 12), (5, 12), (5,))
    first, second, x, baselines, _ = (
        jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)
    )

    def f(x, first, second):
        return jnp.sum(jnp.tanh(jnp.dot(jnp.tanh(jnp.dot(x, first)), second)))

    whole = {"chunk_size": 1000}
    arguments = jax.random.split(keys[4], 4), x, baselines, first, second

    def batch(hoist):
        explain = paths.expected_gradients(f, samples=40, positions=positions, hoist=hoist, **whole)
        mapped = jax.vmap(explain, (0, 0, None, None, None))
        return jax.jit(mapped).lower(*arguments)

    on, off = batch(True).compile(), batch(False).compile()
    # All samples at once, since XLA counts the body of a loop once. Forward through the first
    # layer goes each of 40 samples of 4 examples, or each of 5 baselines and of the examples.
    flops = [compiled.cost_analysis()["flops"] for compiled in (on, off)]
    samples = int(on(*arguments).evaluations[0])
    assert flops[1] - flops[0] > 0.9 * 4 * samples * 2 * 12 * 6
    for a, b in zip(on(*arguments), off(*arguments), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-11)
