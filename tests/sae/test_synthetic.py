"""Known activations: rates of firing, correlation, hierarchy; and recovery by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sae
from jaxplain.sae import synthetic

FEATURES = synthetic.features(jax.random.key(0), 24, 12)
N = 40_000


def rates(codes):
    return np.asarray(codes > 0).mean(axis=0)


def test_features_are_nearly_orthogonal():
    np.testing.assert_allclose(jnp.linalg.norm(FEATURES, axis=-1), 1, rtol=1e-5)
    start = jax.random.normal(jax.random.key(0), (24, 12))
    start = start / jnp.linalg.norm(start, axis=-1, keepdims=True)
    overlap = lambda f: float(jnp.sum((f @ f.T - jnp.eye(24)) ** 2))
    assert overlap(FEATURES) < 0.6 * overlap(start)
    assert overlap(FEATURES) >= 24**2 / 12 - 24 - 1e-3  # no frame of 24 in 12 has less (Welch)


def test_activations_are_the_sum_of_what_fires():
    p = synthetic.zipf(24, 3.0)
    drawn = synthetic.activations(FEATURES, p)(jax.random.key(1), N)
    np.testing.assert_allclose(drawn.activations, drawn.codes @ FEATURES, rtol=1e-5, atol=1e-5)
    error = np.sqrt(np.asarray(p) * (1 - np.asarray(p)) / N)
    assert np.all(np.abs(rates(drawn.codes) - p) < 5 * error)
    sizes = np.asarray(drawn.codes)[np.asarray(drawn.codes) > 0]
    assert abs(sizes.mean() - 1) < 5 * 0.15 / np.sqrt(len(sizes))
    assert abs(sizes.std() - 0.15) < 0.005
    noisy = synthetic.activations(FEATURES, p, noise=0.5)(jax.random.key(1), N)
    assert abs(float(jnp.std(noisy.activations - noisy.codes @ FEATURES)) - 0.5) < 0.01


def test_correlated_features_fire_together_at_their_own_rates():
    loadings = jnp.zeros((24, 1)).at[:2].set(0.9)
    drawn = synthetic.activations(FEATURES, 0.2, loadings=loadings)(jax.random.key(1), N)
    fired = np.asarray(drawn.codes > 0)
    assert np.all(np.abs(rates(drawn.codes) - 0.2) < 5 * np.sqrt(0.16 / N))
    together = np.corrcoef(fired.T)
    assert together[0, 1] > 0.4
    assert np.abs(together[np.triu_indices(24, 1)][1:]).max() < 0.03


def test_a_child_fires_only_with_all_above_it():
    parents = np.full(24, -1)
    parents[[1, 2, 3]] = [0, 1, 0]
    drawn = synthetic.activations(FEATURES, 0.5, parents=parents)(jax.random.key(1), N)
    fired = np.asarray(drawn.codes > 0)
    for child, parent in ((1, 0), (2, 1), (3, 0)):
        assert not np.any(fired[:, child] & ~fired[:, parent])
    error = 5 * np.sqrt(0.25 / N)
    np.testing.assert_allclose(rates(drawn.codes)[:5], [0.5, 0.25, 0.125, 0.25, 0.5], atol=error)


def test_recovery_by_hand():
    truth = np.eye(3)
    decoder = np.array([[0.0, 2, 0], [1, 0.1, 0], [0, -3, 0], [0, 0, 0]])
    true_codes = np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0], [0, 0, 0.0]])
    codes = np.array([[0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0.0]])
    r = synthetic.recovery(truth, decoder, true_codes, codes)
    first = 1 / np.sqrt(1.01)
    assert r.max_cosine == pytest.approx((first + 1 + 0) / 3)
    assert r.matched_cosine == pytest.approx((first + 1) / 3)
    assert r.share_found == pytest.approx(2 / 3)
    assert r.nearest.tolist()[:2] == [1, 0]
    np.testing.assert_allclose(r.precision[:2], [1, 2 / 3])
    np.testing.assert_allclose(r.recall[:2], [1, 1])
    assert synthetic.recovery(truth, decoder).precision is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: synthetic.activations(jnp.ones(3), 0.1), "features must have the shape"),
        (lambda: synthetic.activations(FEATURES, 0.1, parents=[0] * 24), "parents must be 24"),
        (lambda: synthetic.activations(FEATURES, 0.1, loadings=jnp.ones((3, 1))), "loadings must"),
        (lambda: synthetic.zipf(4, 5.0), "mean_l0 must be"),
        (lambda: synthetic.recovery(jnp.ones((2, 3)), jnp.ones((2, 4))), "matrices of one width"),
        (lambda: synthetic.recovery(FEATURES, FEATURES, FEATURES), "or neither"),
    ],
    ids=lambda value: None if callable(value) else value[:12],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_one_draw_at_any_size():
    draw = synthetic.activations(FEATURES, 0.1)
    assert draw(jax.random.key(0), 0).activations.shape == (0, 12)
    assert sae.synthetic.features(jax.random.key(0), 1, 1).shape == (1, 1)


@pytest.mark.slow
def test_toy_models_of_superposition():
    """Sparse features share two dimensions as a pentagon, dense ones leave them to two of five."""
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        probability = jnp.repeat(jnp.array([0.02, 1.0]), 6)
        importance = 0.9 ** jnp.arange(5.0)
        sparse = synthetic.superposition(jax.random.key(0), probability[:6])
        dense = synthetic.superposition(jax.random.key(1), probability[6:], importance=importance)
    gram = lambda toy: np.asarray(toy.W[np.argmin(toy.loss)] @ toy.W[np.argmin(toy.loss)].T)
    angles = np.arange(5) * 2 * np.pi / 5
    pentagon = np.cos(angles[:, None] - angles[None])
    found = gram(sparse)
    sizes = np.sqrt(np.diag(found))
    assert np.ptp(sizes) < 0.1 * sizes.mean()
    cosines = found / np.outer(sizes, sizes)
    # In some order: each feature has two neighbours at 72 degrees, and two at 144.
    for row in cosines:
        np.testing.assert_allclose(np.sort(row), np.sort(pentagon[0]), atol=0.05)
    found = gram(dense)
    np.testing.assert_allclose(found, np.diag([1, 1, 0, 0, 0]), atol=0.05)
