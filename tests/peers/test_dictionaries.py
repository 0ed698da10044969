"""Dictionaries against SAELens and dictionary_learning: files both ways, losses, codes.

In an environment of their own, as `bench/dictionaries.py` says: installing them replaces PyTorch.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sae

torch = pytest.importorskip("torch", reason="torch is not installed: run `make test-peers`")
lens = pytest.importorskip("sae_lens", reason="sae-lens is not installed: bench/dictionaries.py")
learning = pytest.importorskip(
    "dictionary_learning", reason="dictionary-learning is not installed: bench/dictionaries.py"
)

pytestmark = pytest.mark.peers

LATENTS, WIDTH, OUTPUTS = 24, 6, 4
H = jax.random.normal(jax.random.key(0), (50, WIDTH))
PLAIN = {
    "relu": lambda: sae.relu(LATENTS, 0.7),
    "gated": lambda: sae.gated(LATENTS, 0.7),
    "topk": lambda: sae.topk(LATENTS, 3),
    "batch_topk": lambda: sae.batch_topk(LATENTS, 3),
    "matryoshka": lambda: sae.matryoshka(LATENTS, 3, sizes=(8, 24)),
    "jumprelu": lambda: sae.jumprelu(LATENTS, 0.7),
}
TRANSCODERS = {
    f"{name}, {'skip' if has_skip else 'transcoder'}": (name, has_skip)
    for name in ("relu", "jumprelu", "batch_topk")
    for has_skip in (False, True)
}


def made(name):
    """A dictionary with parameters that are not those of the start."""
    if name in PLAIN:
        dictionary, sample = PLAIN[name](), H
    else:
        plain, has_skip = TRANSCODERS[name]
        dictionary = sae.transcoder(PLAIN[plain](), has_skip=has_skip)
        sample = (H, H[:, :OUTPUTS])
    params = dictionary.init(jax.random.key(1), sample)
    keys = jax.random.split(jax.random.key(2), len(params))
    params = {
        key: leaf + jax.random.normal(k, leaf.shape)
        for k, (key, leaf) in zip(keys, sorted(params.items()), strict=True)
    }
    if "threshold" in params:
        params["threshold"] = jnp.abs(params["threshold"])
    return dictionary, params


def ours(dictionary, params):
    codes = dictionary.encode(params, H)
    more = [H] if "W_skip" in params else []
    return codes, dictionary.decode(params, codes, *more)


@pytest.mark.parametrize("name", [*PLAIN, *TRANSCODERS])
def test_files_of_saelens_both_ways(name, tmp_path):
    dictionary, params = made(name)
    codes, h_hat = ours(dictionary, params)
    sae.formats.save_saelens(tmp_path / "ours", dictionary, params)
    theirs = lens.SAE.load_from_disk(tmp_path / "ours")
    batch = torch.tensor(np.asarray(H))
    with torch.no_grad():
        encoded = theirs.encode(batch)
        encoded = encoded.to_dense() if encoded.is_sparse else encoded
        np.testing.assert_allclose(encoded, codes, atol=1e-5)
        np.testing.assert_allclose(theirs(batch), h_hat, atol=2e-5)
    theirs.save_model(tmp_path / "theirs")
    again = ours(*sae.formats.load_saelens(tmp_path / "theirs"))
    np.testing.assert_allclose(again[0], codes, atol=1e-5)
    np.testing.assert_allclose(again[1], h_hat, atol=2e-5)


@pytest.mark.parametrize("name", PLAIN)
def test_files_of_dictionary_learning_both_ways(name, tmp_path):
    from dictionary_learning.utils import load_dictionary

    dictionary, params = made(name)
    codes, h_hat = ours(dictionary, params)
    if name == "relu":  # their class makes decoder rows of norm 1
        codes = codes * jnp.linalg.norm(params["W_dec"], axis=-1)[None]
    sae.formats.save_dictionary_learning(tmp_path, dictionary, params)
    theirs, _ = load_dictionary(str(tmp_path), "cpu")
    batch = torch.tensor(np.asarray(H))
    with torch.no_grad():
        np.testing.assert_allclose(theirs.encode(batch), codes, atol=1e-5)
        np.testing.assert_allclose(theirs.decode(theirs.encode(batch)), h_hat, atol=2e-5)
    torch.save(theirs.state_dict(), tmp_path / "ae.pt")
    again = ours(*sae.formats.load_dictionary_learning(tmp_path))
    np.testing.assert_allclose(again[0], codes, atol=1e-5)
    np.testing.assert_allclose(again[1], h_hat, atol=2e-5)


@pytest.mark.parametrize("name", ["relu", "topk"])
def test_losses_of_saelens(name):
    """The coefficients are the same numbers."""
    dictionary, params = made(name)
    shape = {"d_in": WIDTH, "d_sae": LATENTS}
    if name == "relu":
        config = lens.StandardTrainingSAEConfig(**shape, l1_coefficient=0.7)
        theirs, coefficients = lens.StandardTrainingSAE(config), {"l1": 0.7}
    else:
        config = lens.TopKTrainingSAEConfig(**shape, k=3, rescale_acts_by_decoder_norm=False)
        theirs, coefficients = lens.TopKTrainingSAE(config), {}
    theirs.load_state_dict({key: torch.tensor(np.asarray(leaf)) for key, leaf in params.items()})
    step = lens.saes.sae.TrainStepInput(
        sae_in=torch.tensor(np.asarray(H)),
        coefficients=coefficients,
        dead_neuron_mask=None,
        n_training_steps=0,
        is_logging_step=False,
    )
    output = theirs.training_forward_pass(step)
    output.loss.backward()
    (loss, _), gradient = jax.value_and_grad(dictionary.loss, has_aux=True)(params, H)
    np.testing.assert_allclose(loss, output.loss.item(), rtol=1e-5)
    for key, parameter in theirs.named_parameters():
        largest = float(parameter.grad.abs().max())
        np.testing.assert_allclose(gradient[key], parameter.grad, atol=1e-5 * largest)


def test_topk_of_dictionary_learning():
    """Codes, and the auxiliary loss, which is over the variance of the error as here."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    _, params = made("topk")
    dictionary = sae.topk(LATENTS, 3, auxiliary_k=WIDTH // 2)
    shared = {"activation_dim": WIDTH, "dict_size": LATENTS, "layer": 0, "lm_name": "none"}
    trainer = TopKTrainer(**shared, steps=10**6, k=3, device="cpu")
    batch = torch.tensor(np.asarray(H))
    with torch.no_grad():
        values = {key: torch.tensor(np.asarray(leaf)) for key, leaf in params.items()}
        trainer.ae.encoder.weight.copy_(values["W_enc"].T)
        trainer.ae.encoder.bias.copy_(values["b_enc"])
        trainer.ae.decoder.weight.copy_(values["W_dec"].T)
        trainer.ae.b_dec.copy_(values["b_dec"])
        codes = trainer.ae.encode(batch)
        np.testing.assert_allclose(codes, dictionary.encode(params, H), atol=1e-5)
        dead = np.arange(LATENTS) % 3 == 0
        trainer.num_tokens_since_fired = torch.tensor(np.where(dead, 10**9, 0))
        activations = torch.relu(trainer.ae.encoder(batch - trainer.ae.b_dec))
        theirs = trainer.get_auxiliary_loss(batch - trainer.ae.decode(codes), activations).item()
    _, report = dictionary.loss(params, H, sae.Status(dead=jnp.asarray(dead)))
    np.testing.assert_allclose(report.auxiliary * 32 / report.variance, theirs, rtol=1e-4)
