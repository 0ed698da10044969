"""Probes against a Newton iteration in numpy, and against concepts that latents are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sae
from jaxplain.sae import _encoded, _probing

close = np.testing.assert_allclose
WIDTH = 6


def rectifier(width=WIDTH):
    """Each latent is the positive part of one element of h."""
    params = {"W_enc": jnp.eye(width), "b_enc": jnp.zeros(width)}
    params |= {"W_dec": jnp.eye(width), "b_dec": jnp.zeros(width)}
    return sae.relu(width, 0.0), params


def concept(seed, count=300, length=1):
    """Rows whose second element says much of the label, and the fifth less; the rest is noise.

    Rows of one sequence share a part, and so are wrong together.
    """
    random = np.random.default_rng(seed)
    labels = random.random(count * length) < 0.4
    rows = random.normal(size=(count, length, WIDTH))
    shared = random.normal(size=(count, 1, WIDTH)) if length > 1 else 0
    rows = ((rows + 2 * shared) / (5**0.5 if length > 1 else 1)).reshape(-1, WIDTH)
    rows[:, 1] += 1.5 * labels
    rows[:, 4] -= 0.8 * labels
    return rows.astype(np.float32), labels


def newton(x, labels, held):
    """Probe and predictions, written out: standardise, iterate to convergence, no library."""
    mean, deviation = x.mean(0), x.std(0)
    z = np.column_stack([(x - mean) / deviation, np.ones(len(x))])
    penalty = np.diag([1.0] * x.shape[1] + [0.0])
    w = np.zeros(z.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-z @ w))
        hessian = z.T @ (z * (p * (1 - p))[:, None]) + penalty
        w = w - np.linalg.solve(hessian, z.T @ (p - labels) + penalty @ w)
    return w, np.column_stack([(held - mean) / deviation, np.ones(len(held))]) @ w > 0


def test_probes_by_hand(monkeypatch):
    monkeypatch.setattr(_encoded, "ROWS", 77)  # several batches, and a rest
    dictionary, params = rectifier()
    (h, labels), (held, held_labels) = concept(0), concept(1, 500)
    r = sae.sparse_probing(
        dictionary, params, h, labels, jnp.asarray(held), held_labels.astype(int), counts=(1, 2, 6)
    )
    codes, held_codes = np.maximum(h, 0).astype(float), np.maximum(held, 0).astype(float)
    difference = codes[labels].mean(0) - codes[~labels].mean(0)
    order = np.argsort(-np.abs(difference))
    assert r.latents.tolist() == order.tolist()
    assert r.latents[:2].tolist() == [1, 4]
    close(r.difference, difference[order], rtol=1e-5)
    for place, k in enumerate(r.counts):
        _, says = newton(codes[:, order[:k]], labels, held_codes[:, order[:k]])
        right = says == held_labels
        close(r.accuracy[place], right.mean())
        close(r.accuracy_error[place], right.std(ddof=1) / 500**0.5)
    _, says = newton(h.astype(float), labels, held.astype(float))
    close(r.ceiling.value, np.mean(says == held_labels))
    close(r.floor.value, 1 - held_labels.mean())
    assert r.ceiling.value > r.accuracy[1] > r.accuracy[0] > r.floor.value


def test_the_fit_is_the_minimum():
    random = np.random.default_rng(0)
    for rows, width in ((400, 5), (30, 60)):  # fewer rows than columns too: classes separate
        x = random.normal(size=(rows, width))
        labels = x[:, 0] + random.normal(size=rows) > 0.7
        weights, _ = newton(x, labels, x)
        found, intercept = _probing._logistic((x - x.mean(0)) / x.std(0), labels)
        close([*found, intercept], weights, atol=1e-4)


def test_classes_that_separate_and_latents_that_are_constant():
    dictionary, params = rectifier()
    h, labels = concept(0)
    h[:, 2] = np.where(labels, 3.0, -3.0)
    h[:, 0] = 5.0  # active on all rows, and says nothing
    h[:, 3] = -1.0  # dead
    r = sae.sparse_probing(dictionary, params, h, labels, h, labels, counts=(1, 6))
    assert r.latents[0] == 2
    close(r.accuracy, 1)
    close(r.accuracy_error, 0)
    assert set(r.latents[-2:].tolist()) == {0, 3}  # last chosen, without harm
    close(r.difference[-2:], 0, atol=1e-6)


def test_labels_of_another_concept_tell_nothing():
    """Of labels drawn apart from the rows a probe is as good as the floor: within 5 errors, one
    false alarm in a million."""
    dictionary, params = rectifier()
    h, held = concept(0)[0], concept(1, 2000)[0]
    random = np.random.default_rng(9)
    r = sae.sparse_probing(
        dictionary, params, h, random.random(300) < 0.5, held, random.random(2000) < 0.5
    )
    assert np.all(np.abs(r.accuracy - 0.5) < 5 * r.accuracy_error)


def test_standard_errors_over_samples():
    """z of 100 held-out samples, the probe fixed: the mean of z^2 is 1 within 0.6, four of its
    standard deviations; of rows taken as independent it is far above."""
    dictionary, params = rectifier()
    h, labels = concept(0, 60)
    call = lambda held, own, length: sae.sparse_probing(
        dictionary, params, h, labels, held, own, counts=(2,), sequence_length=length
    )
    truth = call(*concept(1000, 20_000, 10), 10)
    z, alone = [], []
    for seed in range(100):
        sample = concept(2000 + seed, 60, 10)
        for length, found in ((10, z), (1, alone)):
            r = call(*sample, length)
            found.append((r.accuracy[0] - truth.accuracy[0]) / r.accuracy_error[0])
    assert abs(np.mean(np.square(z)) - 1) < 0.6
    assert np.mean(np.square(alone)) > 1.3 * np.mean(np.square(z))


def test_every_kind_of_dictionary():
    h, labels = concept(0)
    for make in (
        sae.topk(16, 3),
        sae.batch_topk(16, 3),
        sae.jumprelu(16, 0.1),
        sae.transcoder(sae.topk(16, 3)),
        sae.crosscoder(sae.relu(16, 0.1)),
    ):
        rows = jnp.asarray(h, jnp.bfloat16)
        if make.about.get("is_crosscoder"):
            rows = jnp.stack([rows, rows], axis=1)
        pairs = make.about.get("is_transcoder")
        params = make.init(jax.random.key(1), (rows, rows[:, :2]) if pairs else rows)
        r = sae.sparse_probing(make, params, rows, labels, rows, labels)
        codes = np.asarray(make.encode(params, rows), np.float64)
        difference = codes[labels].mean(0) - codes[~labels].mean(0)
        close(np.abs(r.difference), np.sort(np.abs(difference))[::-1][:5], rtol=1e-4, atol=1e-6)
        assert r.ceiling.value > 0.7


def test_what_is_refused():
    dictionary, params = rectifier()
    h, labels = concept(0)
    nan = h.copy()
    nan[5, 1] = np.nan
    good = {"h": h, "labels": labels, "held_h": h, "held_labels": labels}
    for changed, error, message in (
        ({"labels": np.ones(300, bool)}, ValueError, "labels are all 1, but a probe needs"),
        ({"labels": np.zeros(300, int)}, ValueError, "labels are all 0"),
        ({"labels": labels.astype(float)}, TypeError, "labels must be booleans or integers"),
        ({"held_labels": labels[:3]}, ValueError, r"held_labels must have the shape \(300,\)"),
        ({"labels": 2 * labels}, ValueError, "labels must be 0 or 1, but hold 2.*labels == 2"),
        ({"counts": (1, 7)}, ValueError, "each of counts is 7, but there are 6 latents"),
        ({"counts": (0,)}, ValueError, "each of counts must be at least 1"),
        ({"counts": ()}, ValueError, "counts is empty"),
        ({"h": h[:0], "labels": labels[:0]}, ValueError, "h has no rows"),
        ({"h": nan}, ValueError, "h holds numbers that are not finite, in rows 0 to 299"),
        ({"held_h": nan}, ValueError, "held_h holds numbers that are not finite"),
        ({"h": h.astype(int)}, TypeError, "h must be an array of floats, but is of dtype int"),
        ({"h": h.tolist()}, TypeError, "h must be an array of floats, but is a list"),
        ({"h": h[None]}, ValueError, r"h must have the shape \(n, d\), but has \(1, 300, 6\)"),
        ({"held_h": h[:, :5]}, ValueError, r"must have the shape \(..., 6\)"),
        ({"sequence_length": 7}, ValueError, "300 rows of held_h are no whole number"),
    ):
        with pytest.raises(error, match=message):
            sae.sparse_probing(dictionary, params, **{**good, **changed})
    with pytest.raises(ValueError, match="codes are not finite: look at params"):
        sae.sparse_probing(dictionary, params | {"b_enc": jnp.full(6, jnp.nan)}, **good)
