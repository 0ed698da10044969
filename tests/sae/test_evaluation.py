"""Metrics against numpy in float64, and their standard errors against repeated samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sae

WIDTH, LATENTS = 6, 24
close = np.testing.assert_allclose


def sequences(seed, count=50, length=8):
    """Rows of one sequence are alike: a part of each is common to all."""
    own, shared = jax.random.split(jax.random.key(seed))
    rows = jax.random.normal(own, (count, length, WIDTH))
    return (3 + rows + 2 * jax.random.normal(shared, (count, 1, WIDTH))).reshape(-1, WIDTH)


DICTIONARY = sae.topk(LATENTS, 3)
PARAMS = DICTIONARY.init(jax.random.key(1), sequences(99))
PARAMS["b_enc"] = PARAMS["b_enc"].at[0].set(-50.0).at[1].set(50.0)


def test_metrics_by_hand():
    h = sequences(0)
    r = sae.evaluate(DICTIONARY, PARAMS, h, sequence_length=8)
    x = np.asarray(h, np.float64)
    codes = np.asarray(DICTIONARY.encode(PARAMS, h), np.float64)
    guess = codes @ np.asarray(PARAMS["W_dec"]) + np.asarray(PARAMS["b_dec"])
    error = np.sum((x - guess) ** 2, -1)
    close(r.squared_error.value, error.mean(), rtol=1e-5)
    close(r.fvu.value, error.sum() / np.sum((x - x.mean(0)) ** 2), rtol=1e-5)
    close(r.l0.value, (codes > 0).sum(-1).mean())
    cosines = np.sum(x * guess, -1) / np.linalg.norm(x, axis=-1) / np.linalg.norm(guess, axis=-1)
    close(r.cosine.value, cosines.mean(), rtol=1e-4)
    close(r.reconstruction_bias.value, np.sum(guess**2) / np.sum(guess * x), rtol=1e-5)
    close(r.density, (codes > 0).mean(0))
    assert r.dead == np.mean((codes > 0).sum(0) == 0) >= 1 / LATENTS
    assert r.always_on == np.mean((codes > 0).mean(0) > 0.5) >= 1 / LATENTS
    assert r.examples == 400


def test_batches_are_the_whole():
    h = sequences(0)
    whole = sae.evaluate(DICTIONARY, PARAMS, h, sequence_length=8)
    parts = sae.evaluate(
        DICTIONARY, PARAMS, iter([h[:160], h[:0], np.asarray(h[160:])]), sequence_length=8
    )
    for name in ("squared_error", "fvu", "l0", "cosine", "reconstruction_bias"):
        close(getattr(parts, name), getattr(whole, name), rtol=1e-5)
    close(parts.density, whole.density)


def test_standard_errors_are_those_of_repeated_samples():
    """Over 200 samples: their mean and what they say of themselves; rows taken as independent are
    too sure of it."""
    found = [sae.evaluate(DICTIONARY, PARAMS, sequences(k), sequence_length=8) for k in range(200)]
    alone = [sae.evaluate(DICTIONARY, PARAMS, sequences(k)) for k in range(20)]
    for name in ("squared_error", "fvu", "cosine", "reconstruction_bias"):
        values = np.array([getattr(r, name).value for r in found])
        stated = np.mean([getattr(r, name).standard_error for r in found])
        # The standard deviation of 200 values is known to 5 %, linearisation adds a little.
        assert abs(stated / values.std(ddof=1) - 1) < 0.2, name
    rows = np.mean([r.squared_error.standard_error for r in alone])
    assert rows < 0.7 * np.mean([r.squared_error.standard_error for r in found])


def test_loss_recovered_by_hand():
    h, label = sequences(0), jax.random.normal(jax.random.key(5), (400,))
    loss = lambda h, label: jnp.square(h[:, 0] - label)
    mean = h.mean(axis=0)
    r = sae.loss_recovered(
        loss, DICTIONARY, PARAMS, [(h[:100], label[:100]), (h[100:], label[100:])], mean=mean
    )
    guess = DICTIONARY.decode(PARAMS, DICTIONARY.encode(PARAMS, h))
    flat = jnp.broadcast_to(mean, h.shape)
    each = [np.asarray(loss(value, label)) for value in (h, guess, jnp.zeros_like(h), flat)]
    for measured, values in zip(r, each, strict=False):
        close(measured.value, values.mean(), rtol=1e-5)
        close(measured.standard_error, values.std(ddof=1) / 20, rtol=1e-4)
    original, patched, zero, flat = (values.mean() for values in each)
    close(r.recovered.value, (flat - patched) / (flat - original), rtol=1e-4)
    close(r.recovered_from_zero.value, (zero - patched) / (zero - original), rtol=1e-4)


def test_transcoders_and_crosscoders():
    x = sequences(0)
    y = jnp.sin(x)
    for has_skip in (False, True):
        dictionary = sae.transcoder(DICTIONARY, has_skip=has_skip)
        params = dictionary.init(jax.random.key(1), (x, y))
        if has_skip:
            params["W_skip"] = jnp.eye(WIDTH) / 3
        r = sae.evaluate(dictionary, params, (x, y))
        _, report = dictionary.loss(params, (x, y))
        close(r.squared_error.value, report.squared_error, rtol=1e-5)
        close(r.fvu.value, report.squared_error / report.variance, rtol=1e-5)
    dictionary, h = sae.crosscoder(DICTIONARY), jnp.stack([x, y], axis=1)
    params = dictionary.init(jax.random.key(1), h)
    r = sae.evaluate(dictionary, params, h)
    close(r.squared_error.value, dictionary.loss(params, h)[1].squared_error, rtol=1e-5)


def test_a_tuple_of_batches_is_no_pair():
    h = sequences(0)
    whole = sae.evaluate(DICTIONARY, PARAMS, h)
    for batches in ((h[:200], h[200:]), (h[:100], h[100:200], h[200:])):
        close(sae.evaluate(DICTIONARY, PARAMS, batches).fvu.value, whole.fvu.value, rtol=1e-5)


def test_max_cosines():
    left = np.random.default_rng(0).normal(size=(1500, 4))
    right = np.random.default_rng(1).normal(size=(7, 4))
    unit = lambda m: m / np.linalg.norm(m, axis=-1, keepdims=True)
    close(sae.max_cosines(left, right), (unit(left) @ unit(right).T).max(1))
    inner = unit(left) @ unit(left).T - 2 * np.eye(1500)
    close(sae.max_cosines(left), inner.max(1))
    assert sae.max_cosines(np.zeros((2, 3)), np.eye(3)).tolist() == [0, 0]
    assert np.isnan(sae.max_cosines(np.ones((1, 3)))).all()


def test_one_sequence_and_what_is_refused():
    h = sequences(0)
    assert np.isnan(sae.evaluate(DICTIONARY, PARAMS, h[:8], sequence_length=8).fvu.standard_error)
    zeros = sae.evaluate(DICTIONARY, PARAMS, jnp.zeros((4, WIDTH)))
    assert zeros.cosine.value == 0
    for call, error, message in (
        (
            lambda: sae.evaluate(DICTIONARY, PARAMS, h, sequence_length=7),
            ValueError,
            "no whole num",
        ),
        (lambda: sae.evaluate(DICTIONARY, PARAMS, h[:0]), ValueError, "has no activations"),
        (lambda: sae.evaluate(DICTIONARY, PARAMS, 3), TypeError, "source must be"),
        (
            lambda: sae.loss_recovered(jnp.sum, DICTIONARY, PARAMS, [(h,)], mean=h[0]),
            ValueError,
            "one number for each of 400",
        ),
        (
            lambda: sae.loss_recovered(jnp.sum, DICTIONARY, PARAMS, [], mean=h[0]),
            ValueError,
            "batches is empty",
        ),
        (lambda: sae.max_cosines(np.eye(3), np.eye(2)), ValueError, "matrices of one width"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_a_second_evaluation_compiles_nothing():
    dictionary = sae.topk(16, 3)
    traces = []

    def encode(*given):
        traces.append(1)
        return dictionary.encode(*given)

    watched = dictionary._replace(encode=encode)
    h = jax.random.normal(jax.random.key(0), (64, 6))
    params = dictionary.init(jax.random.key(1), h)
    first, second = (sae.evaluate(watched, params, h) for _ in range(2))
    assert len(traces) == 1
    assert first.fvu == second.fvu
