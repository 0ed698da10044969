"""A trained BatchTopK dictionary and the transformer it was trained on: the figures of others."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import load_file

from jaxplain import sae, sites

close = np.testing.assert_allclose


@pytest.fixture(scope="module")
def listcomp(data):
    folder = pathlib.Path(data) / "listcomp_sae"
    with np.load(folder / "oracle.npz", allow_pickle=False) as file:
        oracle = {name: file[name] for name in file.files}
    weights = load_file(folder / "transformer_2l.safetensors")
    theirs = load_file(folder / "sae_batchtopk_d100_k4.safetensors")
    params = {
        "W_enc": theirs["encoder.weight"].T,
        "b_enc": theirs["encoder.bias"],
        "W_dec": theirs["decoder.weight"].T,
        "b_dec": theirs["b_dec"] + theirs["act_mean"],  # taken off before, and put back after
        "threshold": theirs["threshold"][0],
    }
    return oracle, weights, jax.tree.map(jnp.asarray, params)


def transformer(tokens, weights, masks):
    """Attention only, two layers of one head; what the separator holds between them is a site."""
    h = weights["embed.W_E"][tokens] + weights["pos_embed.W_pos"][None]
    for layer in range(2):
        w = {name: weights[f"blocks.{layer}.attn.W_{name}"][0] for name in "QKV"}
        q, k, v = (h @ w[name] for name in "QKV")
        pattern = jax.nn.softmax(q @ jnp.swapaxes(k, 1, 2) / 8 + masks[layer][None], axis=-1)
        if layer == 0:
            pattern = pattern.at[:, 3:].set(0)
        h = h + pattern @ v @ weights[f"blocks.{layer}.attn.W_O"][0]
        if layer == 0:
            h = h.at[:, 2].set(sites.tag(h[:, 2], "separator"))
    return h @ weights["unembed.W_U"] + weights["unembed.b_U"][None, None]


def every_pair():
    first, second = jnp.divmod(jnp.arange(10_000), 100)
    rest = jnp.broadcast_to(jnp.array([101, 100, 100]), (10_000, 3))
    return jnp.concatenate([first[:, None], second[:, None], rest], axis=1)


@jax.jit
def losses(tokens, weights, masks):
    log = jax.nn.log_softmax(transformer(tokens, weights, masks)[:, 3:])
    return -jnp.mean(jnp.take_along_axis(log, tokens[:, :2, None], axis=-1)[..., 0], axis=-1)


def test_the_codes_are_theirs(listcomp):
    oracle, _, params = listcomp
    h = jnp.asarray(oracle["sep_resid_mid_all"][oracle["pair_index"]])
    dictionary = sae.batch_topk(100, 4)
    codes = dictionary.encode(params, h)
    close(codes, oracle["sae_codes"], atol=1e-5)
    close(dictionary.decode(params, codes), oracle["sae_recon"], atol=1e-5)


def test_the_stated_figures(listcomp):
    """Explained variance, L0 and loss recovered, of the dictionary and of the whole model."""
    oracle, weights, params = listcomp
    masks = [jnp.asarray(oracle[f"mask_layer{k}"]) for k in (0, 1)]
    tokens, h = every_pair(), jnp.asarray(oracle["sep_resid_mid_all"])
    _, values = sites.read(losses, "separator")(tokens, weights, masks)
    close(values["separator"], h, atol=2e-5)
    dictionary = sae.batch_topk(100, 4)
    r = sae.evaluate(dictionary, params, h)
    assert abs(1 - r.fvu.value - 0.988456) < 1e-4
    assert abs(r.squared_error.value / 64 - 0.004530) < 1e-5
    assert abs(r.l0.value - 3.8918) < 1e-4
    assert r.dead == 0
    assert r.examples == 10_000
    assert 0 < r.fvu.standard_error < 1e-3
    at = sites.at(losses, "separator")
    loss = lambda h, tokens: at(h, tokens, weights, masks)
    batches = [(h[k : k + 2500], tokens[k : k + 2500]) for k in range(0, 10_000, 2500)]
    found = sae.loss_recovered(loss, dictionary, params, batches, mean=h.mean(axis=0))
    assert abs(found.original.value - 0.111536) < 1e-4
    assert abs(found.patched.value - 0.174940) < 1e-4
    assert abs(found.mean_ablated.value - 14.337488) < 1e-3
    assert abs(found.recovered.value - 0.995543) < 1e-4
    assert 0 < found.recovered.standard_error < 1e-3


@pytest.mark.slow
def test_a_dictionary_trained_here_is_as_good(listcomp):
    """Of the same shape on the same activations, at the same L0.

    Which by the threshold is near 4 only: there are 10,000 activations, of which many are alike to
    the last digits, so that a threshold cuts off all of a kind or none. Of the whole batch the four
    largest per example are 4.
    """
    oracle, _, _ = listcomp
    h = jnp.asarray(oracle["sep_resid_mid_all"])
    steps = 6000
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        result = sae.train(
            jax.random.key(0),
            sae.batch_topk(100, 4),
            h,
            optimizer=optax.adam(optax.warmup_cosine_decay_schedule(0.0, 3e-3, 200, steps)),
            steps=steps,
            batch_size=1000,
            dead_after=20_000,
        )
    _, report = sae.batch_topk(100, 4).loss(result.params, h)
    assert float(report.l0) == pytest.approx(4, abs=1e-3)
    assert 1 - float(report.squared_error / report.variance) >= 0.98837  # theirs of the batch
    r = sae.evaluate(sae.batch_topk(100, 4), result.params, h)
    assert 1 - r.fvu.value >= 0.988456 - 0.005
    assert 3 < r.l0.value < 5
