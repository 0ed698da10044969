"""Deletion and insertion against a plain numpy loop, and against orderings known to be best."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import metrics

KEY = jax.random.key(0)


def numpy_curve(f, x, baseline, importance, counts, *, inserts):
    """One replacement after the other, by hand."""
    order = np.argsort(-importance.reshape(-1), kind="stable")
    scores = []
    for count in counts:
        before, after = (baseline, x) if inserts else (x, baseline)
        point = before.copy().reshape(-1)
        point[order[:count]] = after.reshape(-1)[order[:count]]
        scores.append(f(point.reshape(x.shape)))
    return np.array(scores)


def f(x):
    return (x**2).sum() + x.reshape(-1)[0] * x.reshape(-1)[-1]


@pytest.mark.parametrize("inserts", [False, True], ids=["deletion", "insertion"])
@pytest.mark.parametrize(
    ("step_size", "counts"),
    [(1, range(13)), (5, [0, 5, 10, 12]), (0.25, [0, 3, 6, 9, 12]), (100, [0, 12]), (1.0, [0, 12])],
    ids=str,
)
def test_against_numpy(inserts, step_size, counts, x64):
    random = np.random.default_rng(0)
    x, baseline, importance = random.normal(size=(3, 3, 4))
    importance[0, 1] = importance[2, 2]  # a tie goes by position
    measure = (metrics.insertion if inserts else metrics.deletion)(f, step_size=step_size)
    curve = measure(KEY, x, baseline, importance)
    counts = np.array(counts)
    expected = numpy_curve(f, x, baseline, importance, counts, inserts=inserts)
    np.testing.assert_allclose(curve.scores, expected, rtol=1e-12)
    np.testing.assert_allclose(curve.fractions, counts / 12, rtol=1e-12)
    np.testing.assert_allclose(curve.area, np.trapezoid(expected, counts / 12), rtol=1e-12)
    ends = (baseline, x) if inserts else (x, baseline)
    np.testing.assert_allclose(curve.random_scores[jnp.array([0, -1])], [f(e) for e in ends])


def test_random_orderings_have_the_expected_area(x64):
    """For a linear f the random curve is a straight line in expectation: judged by its error."""
    weights = jax.random.normal(KEY, (20,))
    linear = lambda x: jnp.dot(weights, x)
    measure = metrics.deletion(linear, step_size=1, random_orderings=64)
    keys = jax.random.split(jax.random.key(1), 40)
    curves = jax.vmap(measure, (0, None, None, None))(keys, jnp.ones(20), jnp.zeros(20), weights)
    distance = (curves.random_area - weights.sum() / 2) / curves.random_error
    # 40 t-like numbers: their mean square is 1 up to 4 of its own standard errors.
    assert abs(float(jnp.mean(distance**2)) - 1) < 4 * np.sqrt(2 / 40)


def test_channels_go_together():
    x = jnp.arange(1.0, 13.0).reshape(2, 3, 2)
    importance = jnp.zeros((2, 3, 2)).at[1, 1].set(jnp.array([5.0, -1.0])).at[0, 0, 0].set(3.0)
    measure = metrics.deletion(lambda x: x, step_size=1, channel_axis=-1)
    scores = measure(KEY, x, jnp.zeros_like(x), importance).scores
    np.testing.assert_array_equal(scores[1], x.at[1, 1].set(0.0))
    np.testing.assert_array_equal(scores[2], x.at[1, 1].set(0.0).at[0, 0].set(0.0))


def test_nan_ranks_last_and_one_feature_is_enough():
    importance = jnp.array([jnp.nan, 1.0, -2.0])
    scores = metrics.deletion(lambda x: x, step_size=1)(
        KEY, jnp.ones(3), jnp.zeros(3), importance
    ).scores
    np.testing.assert_array_equal(scores, [[1, 1, 1], [1, 0, 1], [1, 0, 0], [0, 0, 0]])
    one = metrics.insertion(jnp.sum)(KEY, jnp.ones(1), jnp.zeros(1), jnp.ones(1))
    assert one.scores.tolist() == [0.0, 1.0]
    assert float(one.area) == 0.5


def test_token_ids_are_masked():
    """x may be integers: nothing is differentiated. Any real step size, any float attribution."""
    embedding = jnp.array([0.0, 1.0, 2.0, 4.0])
    ids, masked = jnp.array([3, 1, 2]), jnp.array([0, 0, 0])
    measure = metrics.deletion(lambda ids: embedding[ids].sum(), step_size=np.float32(1 / 3))
    scores = measure(KEY, ids, masked, jnp.array([4, 1, 2], jnp.bfloat16)).scores
    np.testing.assert_array_equal(scores, [7, 3, 1, 0])


def test_summary_is_numpy():
    keys = jax.random.split(KEY, 7)
    x = jax.random.normal(KEY, (7, 5))
    curves = jax.vmap(metrics.deletion(f, step_size=2), (0, 0, None, 0))(keys, x, jnp.zeros(5), x)
    summary = metrics.over_examples(curves)
    error = lambda a: np.std(np.asarray(a, np.float64), axis=0, ddof=1) / np.sqrt(7)
    np.testing.assert_allclose(summary.area, np.mean(curves.area), rtol=1e-6)
    np.testing.assert_allclose(summary.area_error, error(curves.area), rtol=1e-5)
    paired = np.asarray(curves.area) - np.asarray(curves.random_area)
    np.testing.assert_allclose(summary.difference, paired.mean(), rtol=1e-5)
    np.testing.assert_allclose(summary.difference_error, error(paired), rtol=1e-5)
    np.testing.assert_allclose(summary.scores, np.mean(curves.scores, axis=0), rtol=1e-5)
    np.testing.assert_allclose(summary.scores_error, error(curves.scores), rtol=1e-4, atol=1e-7)
    single = metrics.over_examples(jax.tree.map(lambda leaf: leaf[:1], curves))
    assert np.isnan(single.area_error)


def test_bad_calls():
    with pytest.raises(ValueError, match=r"above 0 and at most 1, but is 1\.5"):
        metrics.deletion(f, step_size=1.5)
    with pytest.raises(ValueError, match="step_size must be at least 1, but is 0"):
        metrics.insertion(f, step_size=0)
    with pytest.raises(ValueError, match="random_orderings must be at least 1"):
        metrics.deletion(f, random_orderings=0)
    measure = metrics.deletion(f)
    with pytest.raises(TypeError, match=r"typed key.*comes first, but is a int \(0\)"):
        measure(0, jnp.ones(3), jnp.zeros(3), jnp.ones(3))
    with pytest.raises(ValueError, match=r"one key, but has shape \(3,\)"):
        measure(jax.random.split(KEY, 3), jnp.ones(3), jnp.zeros(3), jnp.ones(3))
    for wrong in ({"p": 1.0}, None, (1.0, 2.0)):
        with pytest.raises(
            TypeError, match=f"return one array, but returned a {type(wrong).__name__}"
        ):
            metrics.deletion(lambda x, w=wrong: w)(KEY, jnp.ones(3), jnp.zeros(3), jnp.ones(3))
    with pytest.raises(TypeError, match="return a float array, but returned dtype int32"):
        metrics.deletion(jnp.argmax)(KEY, jnp.ones(3), jnp.zeros(3), jnp.ones(3))
    with pytest.raises(ValueError, match=r"at least one element, but has shape \(0, 2\)"):
        measure(KEY, *[jnp.ones((0, 2))] * 3)
    with pytest.raises(ValueError, match=r"channel_axis must be an axis of x, but is 1 .*\(3,\)"):
        metrics.deletion(f, channel_axis=1)(KEY, *[jnp.ones(3)] * 3)
    with pytest.raises(TypeError, match="attribution must be float, but has dtype int32"):
        measure(KEY, jnp.ones(3), jnp.zeros(3), jnp.arange(3))
    with pytest.raises(TypeError, match="step_size must be a Python integer"):
        metrics.deletion(f, step_size="all")
    with pytest.raises(TypeError, match="curves must be a Curve"):
        metrics.over_examples(jnp.ones(3))
    with pytest.raises(ValueError, match="one leading axis of examples"):
        metrics.over_examples(measure(KEY, jnp.ones(3), jnp.zeros(3), jnp.ones(3)))
