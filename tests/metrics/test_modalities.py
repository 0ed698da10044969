"""Shares of modalities against sums by hand, completeness, and numpy over a batch."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import metrics, paths


class Inputs(NamedTuple):
    image: Any
    words: Any


def test_by_hand():
    values = {
        "image": jnp.array([[1.0, -2.0]]),
        "text": (jnp.array([3.0]), {"more": jnp.array(-2.0)}),
    }
    shares = metrics.modality_shares(values)
    assert shares.share == {"image": 3 / 8, "text": 5 / 8}
    assert shares.signed_share == {"image": -1 / 8, "text": 1 / 8}
    assert shares.contribution == {"image": -1.0, "text": 1.0}
    assert bool(shares.finite)


def test_any_container_and_narrow_values():
    """The sum of 4,096 halves in bfloat16 is exact, since it is taken in float32."""
    half = jnp.full(4096, 0.5, jnp.bfloat16)
    shares = metrics.modality_shares(Inputs(half, (half, -half)))
    assert type(shares.share) is Inputs
    assert shares.share == Inputs(jnp.float32(1 / 3), jnp.float32(2 / 3))
    assert shares.contribution == Inputs(2048.0, 0.0)
    assert shares.share.image.dtype == jnp.float32
    mixed = metrics.modality_shares([np.array([1.0, 2.0]), None, 1.0])
    assert mixed.share == [0.75, 0.0, 0.25]


def test_the_contributions_are_complete(x64):
    """Of Integrated Gradients over two modalities at once, they sum to what f gained."""
    f = lambda x: jnp.sin(x["sound"]).sum() * jnp.sum(x["image"] ** 2)
    x = {"image": np.array([[0.3, -0.5]]), "sound": np.array([0.7, 0.2, 0.1])}
    result = paths.integrated_gradients(f, steps=20)(x, jax.tree.map(np.zeros_like, x))
    shares = metrics.modality_shares(result.values)
    parts = shares.contribution
    np.testing.assert_allclose(parts["image"] + parts["sound"], result.output, rtol=1e-12)
    np.testing.assert_allclose(shares.share["image"] + shares.share["sound"], 1, rtol=1e-12)


def test_the_summary_is_numpy():
    random = np.random.default_rng(0)
    values = {"a": random.normal(size=(9, 4)), "b": random.normal(size=(9, 2, 2))}
    values = jax.tree.map(lambda v: v.astype(np.float32), values)
    values["a"][4], values["b"][4] = 0, 0  # an example without any
    shares = jax.vmap(metrics.modality_shares)(values)
    assert np.isnan(shares.share["a"][4])
    summary = metrics.modality_summary(shares)
    rows = np.delete(np.arange(9), 4)
    flat = {name: v[rows].reshape(8, -1).astype(np.float64) for name, v in values.items()}
    size = sum(np.abs(v).sum(1) for v in flat.values())
    for name, v in flat.items():
        for got, error, expected in (
            (summary.share, summary.share_error, np.abs(v).sum(1) / size),
            (summary.signed_share, summary.signed_share_error, v.sum(1) / size),
            (summary.contribution, summary.contribution_error, v.sum(1)),
        ):
            np.testing.assert_allclose(got[name], expected.mean(), rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(error[name], expected.std(ddof=1) / np.sqrt(8), rtol=1e-5)
    assert (int(summary.examples), int(summary.undefined)) == (8, 1)


def test_failures_are_data():
    values = {"a": jnp.array([[1.0], [jnp.nan], [0.0]]), "b": jnp.array([[1.0], [1.0], [0.0]])}
    shares = jax.vmap(metrics.modality_shares)(values)
    assert shares.finite.tolist() == [True, False, True]
    summary = metrics.modality_summary(shares)
    assert np.isnan(summary.share["b"]), "a failed example is not left out without a word"
    one = metrics.modality_summary(jax.tree.map(lambda leaf: leaf[:1], shares))
    assert float(one.share["a"]) == 0.5
    assert np.isnan(one.share_error["a"])
    none = metrics.modality_summary(jax.tree.map(lambda leaf: leaf[:0], shares))
    assert np.isnan(none.share["a"])
    assert int(none.examples) == 0


def test_bad_calls():
    with pytest.raises(ValueError, match=r"entry for each modality.*but is a single array"):
        metrics.modality_shares(jnp.ones(3))
    with pytest.raises(ValueError, match=r"entry for each modality.*but is empty"):
        metrics.modality_shares({})
    with pytest.raises(TypeError, match=r"leaf at \['a'\] is a str"):
        metrics.modality_shares({"a": "image"})
    shares = metrics.modality_shares((jnp.ones(2), jnp.ones(2)))
    with pytest.raises(ValueError, match="one leading axis of examples"):
        metrics.modality_summary(shares)
    with pytest.raises(TypeError, match="shares must be a ModalityShares"):
        metrics.modality_summary({"a": jnp.ones(3)})
