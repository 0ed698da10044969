"""Dictionaries against SAELens, dictionary_learning and sparsify: files both ways, losses, codes.

Each in an environment of its own, since installing them replaces PyTorch. That of SAELens and
dictionary_learning is in `bench/dictionaries.py`; that of sparsify is

    python3.11 -m venv ENV
    ENV/bin/pip install torch==2.13.0            # a build for CPUs, before what asks for any torch
    ENV/bin/pip install eai-sparsify==1.3.3
    ENV/bin/pip install -e . pytest pytest-xdist

Tests of a library that is not installed are skipped.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplain import sae

torch = pytest.importorskip("torch", reason="torch is not installed: run `make test-peers`")

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


@pytest.fixture
def lens():
    reason = "sae-lens is not installed: bench/dictionaries.py"
    return pytest.importorskip("sae_lens", reason=reason)


@pytest.fixture
def learning():
    reason = "dictionary-learning is not installed: bench/dictionaries.py"
    return pytest.importorskip("dictionary_learning", reason=reason)


@pytest.fixture
def sparsify():
    reason = "eai-sparsify is not installed: the head of this file"
    return pytest.importorskip("sparsify", reason=reason)


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
def test_files_of_saelens_both_ways(lens, name, tmp_path):
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


@pytest.mark.usefixtures("learning")
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
def test_losses_of_saelens(lens, name):
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


@pytest.mark.usefixtures("learning")
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


# ---------------------------------------------------------------------------------------- sparsify

SHARED = ("topk", "transcoder", "skip")


def shared_with_sparsify(kind, **options):
    """A topk or a transcoder of it, parameters that are not those of the start, and a batch."""
    dictionary, batch = sae.topk(LATENTS, 3, **options), H
    if kind != "topk":
        dictionary, batch = sae.transcoder(dictionary, has_skip=kind == "skip"), (H, jnp.sin(2 * H))
    start = dictionary.init(jax.random.key(1), batch)
    keys = jax.random.split(jax.random.key(2), len(start))
    params = {
        name: leaf + jax.random.normal(key, leaf.shape)
        for key, (name, leaf) in zip(keys, sorted(start.items()), strict=True)
    }
    return dictionary, params, batch


def pair_of_sparsify(batch):
    """Inputs and targets, which of a plain dictionary are the same."""
    pair = batch if isinstance(batch, tuple) else (batch, batch)
    return [torch.tensor(np.asarray(part)) for part in pair]


def dense(acts, indices):
    return torch.zeros(len(acts), LATENTS).scatter_(1, indices, acts)


def same_as_sparsify(theirs, dictionary, params):
    """Codes, what they are decoded to, and that by the whole forward pass, with its skip."""
    codes, h_hat = ours(dictionary, params)
    batch = torch.tensor(np.asarray(H))
    theirs.cfg.multi_topk = False  # or `sae_out` is that of 4k latents
    with torch.no_grad():
        acts, indices, _ = theirs.encode(batch)
        np.testing.assert_allclose(dense(acts, indices), codes, atol=1e-5)
        without_skip = {name: leaf for name, leaf in params.items() if name != "W_skip"}
        decoded = sae.topk(LATENTS, 3).decode(without_skip, codes)
        np.testing.assert_allclose(theirs.decode(acts, indices), decoded, atol=1e-5)
        np.testing.assert_allclose(theirs(batch).sae_out, h_hat, atol=1e-5)


@pytest.mark.parametrize("kind", SHARED)
def test_files_that_sparsify_reads(sparsify, kind, tmp_path):
    dictionary, params, _ = shared_with_sparsify(kind)
    sae.formats.save_sparsify(tmp_path, dictionary, params)
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path)
    assert (theirs.cfg.k, theirs.num_latents, theirs.d_in) == (3, LATENTS, WIDTH)
    assert (theirs.cfg.transcode, theirs.W_skip is not None) == (kind != "topk", kind == "skip")
    same_as_sparsify(theirs, dictionary, params)
    theirs.save_to_disk(tmp_path / "again")
    again, found = sae.formats.load_sparsify(tmp_path / "again")
    assert found.keys() == params.keys()
    for name, leaf in params.items():  # nothing is computed on the way
        np.testing.assert_array_equal(found[name], leaf)
    same_as_sparsify(theirs, again, found)


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("by", ["num_latents", "expansion_factor"])
def test_files_that_sparsify_writes(sparsify, kind, by, tmp_path):
    """Its own start, moved, however the number of latents was told."""
    sizes = {"num_latents": LATENTS} if by == "num_latents" else {"expansion_factor": 4}
    config = sparsify.SparseCoderConfig(
        **sizes, k=3, transcode=kind != "topk", skip_connection=kind == "skip", multi_topk=True
    )
    theirs = sparsify.SparseCoder(WIDTH, config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter += torch.randn(parameter.shape, generator=generator)
    theirs.save_to_disk(tmp_path)
    dictionary, params = sae.formats.load_sparsify(tmp_path)
    assert dictionary.latents == LATENTS
    assert dictionary.about.get("has_skip", False) == (kind == "skip")
    same_as_sparsify(theirs, dictionary, params)


@pytest.mark.parametrize("latents", [4, 20])
def test_a_number_of_latents_that_is_no_multiple_of_the_width(sparsify, latents, tmp_path):
    """Their expansion factor is an integer: another number is a warning, here an error."""
    dictionary = sae.topk(latents, 3)
    params = dictionary.init(jax.random.key(1), H)
    sae.formats.save_sparsify(tmp_path, dictionary, params)
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path)
    assert theirs.W_dec.shape == (latents, WIDTH)


@pytest.mark.parametrize("kind", SHARED)
@pytest.mark.parametrize("dead", [0, 1, 2, 12])
def test_losses_of_sparsify(sparsify, kind, dead, tmp_path):
    """Theirs are over the total variance of the batch.

    AuxK is so too, where the published one, and ours, are over that of the error; and of few dead
    latents it is scaled down. Ours is times the variance of what the latents are to explain, which
    is what a skip leaves.
    """
    dictionary, params, batch = shared_with_sparsify(kind, multi_topk=True)
    sae.formats.save_sparsify(tmp_path, dictionary, params)
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path)
    is_dead = np.arange(LATENTS) < dead
    inputs = pair_of_sparsify(batch)
    assert theirs.cfg.multi_topk
    theirs.cfg.multi_topk = False  # with it what is reconstructed is of 4 k latents
    plain = theirs(*inputs).sae_out.detach()
    theirs.cfg.multi_topk = True
    out = theirs(*inputs, dead_mask=torch.tensor(is_dead))
    _, report = dictionary.loss(params, batch, sae.Status(dead=jnp.asarray(is_dead)))
    np.testing.assert_allclose(report.squared_error / report.variance, out.fvu.item(), rtol=1e-5)
    if kind != "skip":  # of which they leave the skip out here
        multi = 8 * report.penalty / report.variance
        np.testing.assert_allclose(multi, out.multi_topk_fvu.item(), rtol=1e-5)
    variance = lambda rows: ((rows - rows.mean(0)) ** 2).sum(1).mean().item()
    left = inputs[1] - (inputs[0] @ theirs.W_skip.mT).detach() if kind == "skip" else inputs[1]
    auxiliary = 32 * report.auxiliary * variance(inputs[1] - plain) / variance(left)
    share = min(dead / (WIDTH // 2), 1)
    np.testing.assert_allclose(share * auxiliary / report.variance, out.auxk_loss.item(), rtol=1e-5)


@pytest.mark.parametrize("kind", SHARED)
def test_gradients_of_sparsify(sparsify, kind, tmp_path):
    """Of FVU. (Their encoder has no derivative of the other two terms, whose entries it drops.)"""
    dictionary, params, batch = shared_with_sparsify(kind)
    sae.formats.save_sparsify(tmp_path, dictionary, params)
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path)
    theirs(*pair_of_sparsify(batch)).fvu.backward()
    (_, report), gradient = jax.value_and_grad(dictionary.loss, has_aux=True)(params, batch)
    pairs = {
        "W_enc": theirs.encoder.weight.grad.T,
        "b_enc": theirs.encoder.bias.grad,
        "W_dec": theirs.W_dec.grad,
        "b_dec": theirs.b_dec.grad,
        **({"W_skip": theirs.W_skip.grad} if kind == "skip" else {}),
    }
    assert pairs.keys() == gradient.keys()
    for name, expected in pairs.items():
        largest = float(expected.abs().max())
        found = gradient[name] / report.variance
        np.testing.assert_allclose(found, expected, atol=1e-5 * largest)
