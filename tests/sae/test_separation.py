"""Shares of active rows against numpy, and their standard errors over samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sae
from jaxplain.sae import _encoded

close = np.testing.assert_allclose
WIDTH = 4
OFTEN = np.array([0.9, 0.5, 0.1, 0.02])  # the chance that a latent is active


def rectifier(width=WIDTH):
    """Each latent is the positive part of one element of h."""
    params = {"W_enc": jnp.eye(width), "b_enc": jnp.zeros(width)}
    params |= {"W_dec": jnp.eye(width), "b_dec": jnp.zeros(width)}
    return sae.relu(width, 0.0), params


def sample(seed, sequences, length, often=OFTEN):
    """Rows that are 1 or -1: of half of the sequences all rows are alike."""
    random = np.random.default_rng(seed)
    own = random.random((sequences, length, WIDTH))
    alike = random.random((sequences, 1, 1)) < 0.5
    active = np.where(alike, own[:, :1], own) < often
    return np.where(active, 1, -1).astype(np.float32).reshape(-1, WIDTH)


def by_hand(h, length):
    active = np.asarray(h) > 0
    counts = active.reshape(-1, length, active.shape[-1]).mean(axis=1)
    return active.mean(axis=0), counts.std(axis=0, ddof=1) / len(counts) ** 0.5


@pytest.mark.parametrize("length", [1, 5])
def test_shares_by_hand(length, monkeypatch):
    monkeypatch.setattr(_encoded, "ROWS", 35)  # several batches, and a rest
    dictionary, params = rectifier()
    first, second = sample(0, 40, 5), sample(1, 30, 5, OFTEN[::-1])
    r = sae.separation(dictionary, params, first, jnp.asarray(second), sequence_length=length)
    (share, error), (other, other_error) = by_hand(first, length), by_hand(second, length)
    close(r.first, share)
    close(r.second, other)
    close(r.first_error, error)
    close(r.second_error, other_error)
    close(r.score, share - other)
    close(r.score_error, np.sqrt(error**2 + other_error**2))
    assert r.ranking.tolist() == [0, 1, 2, 3]
    back = sae.separation(dictionary, params, second, first, sequence_length=length)
    close(back.score, -r.score)
    assert back.ranking.tolist() == [3, 2, 1, 0]


def test_always_and_never():
    dictionary, params = rectifier()
    ones = np.ones((300, WIDTH), np.float32)
    r = sae.separation(dictionary, params, ones, -ones, sequence_length=3)
    assert r.score.tolist() == [1] * WIDTH
    assert r.score_error.tolist() == [0] * WIDTH
    single = sae.separation(dictionary, params, ones, -ones, sequence_length=300)
    assert np.isnan(single.score_error).all()


def test_standard_errors_over_samples():
    """z of 200 pairs of samples: the mean of z^2 over three latents is 1 within 0.35, four
    standard deviations of 600 normal ones with room for few sequences; of rows taken as independent
    it is far above. The rarest latent has too few firings for a normal z."""
    dictionary, params = rectifier()
    truth = OFTEN - 0.5
    z, alone = [], []
    for seed in range(200):
        first = sample(2 * seed, 60, 10)
        second = sample(2 * seed + 1, 60, 10, np.full(WIDTH, 0.5))
        for length, found in ((10, z), (1, alone)):
            r = sae.separation(dictionary, params, first, second, sequence_length=length)
            found.append((r.score - truth)[:3] / r.score_error[:3])
    assert abs(np.mean(np.square(z)) - 1) < 0.35
    assert np.mean(np.square(alone)) > 3


def test_every_kind_of_dictionary():
    first = jax.random.normal(jax.random.key(0), (60, 6)).astype(jnp.bfloat16)
    second = 1 + first[::-1]
    for make in (
        sae.topk(16, 3),
        sae.batch_topk(16, 3),
        sae.jumprelu(16, 0.1),
        sae.matryoshka(16, 3, sizes=(4, 16)),
        sae.transcoder(sae.topk(16, 3)),
    ):
        pairs = make.about.get("is_transcoder")
        params = make.init(jax.random.key(1), (first, first[:, :2]) if pairs else first)
        r = sae.separation(make, params, first, second, sequence_length=2)
        share, other = ((np.asarray(make.encode(params, h)) > 0).mean(0) for h in (first, second))
        close(r.score, share - other)


def test_a_second_call_compiles_nothing():
    dictionary, params = rectifier()
    h = sample(0, 40, 5)
    sae.separation(dictionary, params, h, h)
    before = _encoded._encode._cache_size()
    sae.separation(dictionary, params, h, -h)
    assert _encoded._encode._cache_size() == before


def test_batches_hold_few_codes(monkeypatch):
    monkeypatch.setattr(_encoded, "MOST_AT_ONCE", 50)  # twelve rows: two sequences
    dictionary, params = rectifier()
    h = sample(0, 40, 5)
    of_batches = list(_encoded.batches(dictionary, params, h, "h", 5))
    assert {codes.shape for *_, codes in of_batches} == {(10, WIDTH)}
    close(np.concatenate([rows for _, rows, _ in of_batches]), h)


def test_what_is_refused():
    dictionary, params = rectifier()
    h = sample(0, 40, 5)
    infinite = h.copy()
    infinite[150] = np.inf
    for first, second, length, error, message in (
        (h, h[:0], 1, ValueError, "second has no rows"),
        (h, h[:33], 5, ValueError, "33 rows of second are no whole number of sequences of 5"),
        (infinite, h, 1, ValueError, "first holds numbers that are not finite, in rows 0 to 199"),
        (h, infinite, 1, ValueError, "second holds numbers that are not finite"),
        (h, h[:, :3], 1, ValueError, r"must have the shape \(..., 4\)"),
        (h > 0, h, 1, TypeError, "first must be an array of floats, but is of dtype bool"),
        (h, h, 0, ValueError, "sequence_length must be at least 1"),
    ):
        with pytest.raises(error, match=message):
            sae.separation(dictionary, params, first, second, sequence_length=length)
