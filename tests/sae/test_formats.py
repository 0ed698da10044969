"""Files of other libraries: what is written is read again, what cannot be said is named."""

import json
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxplain import sae
from jaxplain.sae import formats
from jaxplain.sae.formats import _torch_files

LATENTS, WIDTH, OUTPUTS = 24, 6, 4
H = jax.random.normal(jax.random.key(0), (50, WIDTH))
PLAIN = {
    "relu": lambda: sae.relu(LATENTS, 0.1),
    "relu, not centred": lambda: sae.relu(LATENTS, 0.1, is_centred=False),
    "p_annealed": lambda: sae.p_annealed(LATENTS, 0.1),
    "gated": lambda: sae.gated(LATENTS, 0.1),
    "topk": lambda: sae.topk(LATENTS, 3),
    "batch_topk": lambda: sae.batch_topk(LATENTS, 3),
    "matryoshka": lambda: sae.matryoshka(LATENTS, 3, sizes=(8, 24)),
    "jumprelu": lambda: sae.jumprelu(LATENTS, 0.1),
}
close = np.testing.assert_allclose


def moved(params):
    """Parameters that are not those of the start."""
    keys = jax.random.split(jax.random.key(2), len(params))
    return {
        name: jnp.abs(leaf) + 0.1
        if name == "threshold"
        else leaf + jax.random.normal(k, leaf.shape)
        for k, (name, leaf) in zip(keys, sorted(params.items()), strict=True)
    }


def same(dictionary, params, again, params_again, inputs=H):
    codes = dictionary.encode(params, inputs)
    close(again.encode(params_again, inputs), codes, rtol=1e-5, atol=1e-5)
    more = [inputs] if "W_skip" in params else []
    close(
        again.decode(params_again, codes, *more),
        dictionary.decode(params, codes, *more),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("name", PLAIN)
def test_saelens(name, tmp_path):
    dictionary = PLAIN[name]()
    params = moved(dictionary.init(jax.random.key(1), H))
    formats.save_saelens(tmp_path, dictionary, params, metadata={"hook_name": "blocks.3"})
    again, params_again = formats.load_saelens(tmp_path)
    same(dictionary, params, again, params_again)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["d_in"], config["d_sae"]) == (WIDTH, LATENTS)
    assert config["metadata"] == {"hook_name": "blocks.3"}
    assert config["apply_b_dec_to_input"] is (name not in ("jumprelu", "relu, not centred"))
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]


@pytest.mark.parametrize("name", ["relu", "jumprelu", "batch_topk"])
@pytest.mark.parametrize("has_skip", [False, True])
def test_transcoders_of_saelens(name, has_skip, tmp_path):
    dictionary = sae.transcoder(PLAIN[name](), has_skip=has_skip)
    params = moved(dictionary.init(jax.random.key(1), (H, H[:, :OUTPUTS])))
    formats.save_saelens(tmp_path, dictionary, params)
    same(dictionary, params, *formats.load_saelens(tmp_path))
    config = json.loads((tmp_path / "cfg.json").read_text())
    kind = ("jumprelu_" if name != "relu" else "") + ("skip_" if has_skip else "") + "transcoder"
    assert config["architecture"] == kind
    assert config["d_out"] == OUTPUTS


def test_settings_before_version_6_and_what_is_folded(tmp_path):
    """Flat settings, a factor of fine-tuning, and activations scaled by decoder norms."""
    dictionary = sae.relu(LATENTS, 0.1)
    params = moved(dictionary.init(jax.random.key(1), H))
    tensors = {name: np.asarray(leaf) for name, leaf in params.items()}
    factor = np.linspace(0.5, 2, LATENTS, dtype=np.float32)
    save_file({**tensors, "scaling_factor": factor}, tmp_path / "sae_weights.safetensors")
    old = {
        "d_in": WIDTH,
        "d_sae": LATENTS,
        "activation_fn_str": "relu",
        "finetuning_scaling_factor": True,
        "normalize_activations": "none",
        "hook_name": "blocks.3.hook_resid_post",
    }
    (tmp_path / "cfg.json").write_text(json.dumps(old))
    again, found = formats.load_saelens(tmp_path)
    codes = dictionary.encode(params, H)
    close(again.encode(found, H), codes, rtol=1e-5, atol=1e-5)
    close(
        again.decode(found, codes),
        dictionary.decode(params, codes * factor[None]),
        rtol=1e-4,
        atol=1e-4,
    )
    del old["finetuning_scaling_factor"]
    old |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 3}}
    (tmp_path / "cfg.json").write_text(json.dumps({**old, "rescale_acts_by_decoder_norm": True}))
    again, found = formats.load_saelens(tmp_path)
    norms = np.linalg.norm(tensors["W_dec"], axis=-1)
    pre = (np.asarray(H) - tensors["b_dec"]) @ tensors["W_enc"] + tensors["b_enc"]
    pre = pre * norms
    expected = np.maximum(pre, 0) * (pre >= np.sort(pre, -1)[:, -3][:, None])
    codes = again.encode(found, H)
    close(codes, expected, rtol=1e-4, atol=1e-4)
    close(
        again.decode(found, codes),
        expected / norms @ tensors["W_dec"] + tensors["b_dec"],
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("kind", ["topk", "transcoder", "skip"])
def test_sparsify(kind, tmp_path):
    dictionary, sample = sae.topk(LATENTS, 3), H
    if kind != "topk":
        dictionary, sample = sae.transcoder(dictionary, has_skip=kind == "skip"), (H, jnp.sin(H))
    params = moved(dictionary.init(jax.random.key(1), sample))
    formats.save_sparsify(tmp_path, dictionary, params)
    same(dictionary, params, *formats.load_sparsify(tmp_path))
    assert load_file(tmp_path / "sae.safetensors")["encoder.weight"].shape == (LATENTS, WIDTH)


@pytest.mark.parametrize("name", PLAIN)
def test_dictionary_learning(name, tmp_path):
    centred = PLAIN[name]()
    params = moved(centred.init(jax.random.key(1), H))
    formats.save_dictionary_learning(tmp_path, centred, params)
    again, found = formats.load_dictionary_learning(tmp_path)
    if name in ("relu", "p_annealed"):  # of which their class makes rows of norm 1
        norms = jnp.linalg.norm(params["W_dec"], axis=-1)
        params = {
            **params,
            "W_dec": params["W_dec"] / norms[:, None],
            "W_enc": params["W_enc"] * norms[None],
            "b_enc": params["b_enc"] * norms,
        }
    same(centred, params, again, found)
    expected = "relu" if name == "p_annealed" else name.split(",")[0]
    assert again.about["architecture"] == expected
    assert again.about.get("sizes") == centred.about.get("sizes")


def test_a_pickle_that_holds_more_than_tensors_is_not_run(tmp_path):
    class Bad:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "run",))

    dictionary = PLAIN["topk"]()
    formats.save_dictionary_learning(tmp_path, dictionary, dictionary.init(jax.random.key(1), H))
    whole = (tmp_path / "ae.pt").read_bytes()
    for content, message in (
        (pickle.dumps({"k": Bad()}), r"holds .*getattr|holds pathlib"),
        (pickle.dumps({"k": 3}), "holds no dict of tensors"),
        (pickle.dumps(3), "holds no dict of tensors"),
        (b"not a pickle", "is not a file of torch.save that is whole"),
    ):
        with zipfile.ZipFile(tmp_path / "ae.pt", "w") as archive:
            archive.writestr("archive/data.pkl", content)
        with pytest.raises(ValueError, match=message):
            formats.load_dictionary_learning(tmp_path)
    assert not (tmp_path / "run").exists()
    for damaged in (whole[: len(whole) // 2], b"", pickle.dumps({"k": 3})):
        (tmp_path / "ae.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"is not a file of torch\.save that is whole"):
            formats.load_dictionary_learning(tmp_path)
    (tmp_path / "config.json").write_text('{"trainer": {"dict_class": "CrossCoder"}}')
    with pytest.raises(ValueError, match="dict_class = 'CrossCoder', which no dictionary here is"):
        formats.load_dictionary_learning(tmp_path)


def test_tensors_that_reach_beyond_their_numbers():
    storage = np.arange(6.0)
    np.testing.assert_array_equal(
        _torch_files._tensor(storage, 1, (2, 2), (1, 2)), [[1, 3], [2, 4]]
    )
    assert _torch_files._tensor(storage, 0, (0, 3), (3, 1)).shape == (0, 3)
    for offset, shape, strides in ((0, (7,), (1,)), (3, (2, 2), (2, 1)), (-1, (2,), (1,))):
        with pytest.raises(ValueError, match="reaches beyond"):
            _torch_files._tensor(storage, offset, shape, strides)


def test_gemma_scope(tmp_path):
    dictionary = sae.jumprelu(LATENTS, 0.1)
    params = moved(dictionary.init(jax.random.key(1), H))
    tensors = {name: np.asarray(leaf) for name, leaf in params.items()}
    np.savez(tmp_path / "params.npz", **tensors)
    same(dictionary, params, *formats.load_gemma_scope(tmp_path / "params.npz"))
    small = {name.lower(): tensor for name, tensor in tensors.items()}
    save_file(small, tmp_path / "params.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "jump_relu"}')
    same(dictionary, params, *formats.load_gemma_scope(tmp_path))
    skip = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
    save_file({**small, "affine_skip_connection": skip}, tmp_path / "params.safetensors")
    again, found = formats.load_gemma_scope(tmp_path)
    codes = dictionary.encode(params, H)
    close(
        again.decode(found, codes, H),
        np.asarray(dictionary.decode(params, codes)) + np.asarray(H) @ skip,
        rtol=1e-4,
        atol=1e-4,
    )


def written(tmp_path, **changes):
    dictionary = sae.topk(LATENTS, 3)
    formats.save_saelens(tmp_path, dictionary, dictionary.init(jax.random.key(1), H))
    config = json.loads((tmp_path / "cfg.json").read_text()) | changes
    (tmp_path / "cfg.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "temporal"}, "architecture = 'temporal', which no dictionary here is"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations = 'layer_norm'"),
        ({"reshape_activations": "hook_z"}, "reshape_activations = 'hook_z'"),
        ({"d_sae": None}, "integers d_in and d_sae"),
        ({"k": "three"}, "has no integer k"),
        ({"d_sae": 25}, r"W_enc has the shape \(6, 24\), but should have \(6, 25\)"),
        ({"architecture": "jumprelu"}, "have no threshold, only W_dec, W_enc, b_dec, b_enc"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else None,
)
def test_settings_that_are_not_understood(changes, message, tmp_path):
    written(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        formats.load_saelens(tmp_path)


def test_damaged_and_missing_files(tmp_path):
    written(tmp_path)
    weights, settings = tmp_path / "sae_weights.safetensors", tmp_path / "cfg.json"
    whole = weights.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100):
        weights.write_bytes(damaged)
        with pytest.raises(ValueError, match="is not a safetensors file"):
            formats.load_saelens(tmp_path)
    weights.write_bytes(whole)
    for text, message in (("{", "is not JSON"), ("[1]", "holds no settings")):
        settings.write_text(text)
        with pytest.raises(ValueError, match=message):
            formats.load_saelens(tmp_path)
    settings.unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*cfg\.json"):
        formats.load_saelens(tmp_path)
    (tmp_path / "params.npz").write_bytes(b"not at all")
    with pytest.raises(ValueError, match=r"is not an \.npz file of arrays"):
        formats.load_gemma_scope(tmp_path / "params.npz")
    np.savez(tmp_path / "params.npz", W_enc=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"is not an \.npz file of arrays"):
        formats.load_gemma_scope(tmp_path / "params.npz")


def test_a_failed_write_leaves_the_old_files(tmp_path, monkeypatch):
    written(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    dictionary = sae.topk(LATENTS, 3)
    with pytest.raises(OSError, match="disk full"):
        formats.save_saelens(tmp_path, dictionary, dictionary.init(jax.random.key(9), H))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_sparsify_files_hold_that_no_dictionary_is(tmp_path):
    dictionary = sae.transcoder(sae.topk(LATENTS, 3), has_skip=True)
    params = dictionary.init(jax.random.key(1), (H, H))
    formats.save_sparsify(tmp_path, dictionary, params)
    config = json.loads((tmp_path / "cfg.json").read_text())
    for changes, message in (
        ({"transcode": False}, "skip_connection and not transcode"),
        ({"k": None}, "has no integer k"),
        ({"activation": "groupmax"}, "activation = 'groupmax'"),
    ):
        (tmp_path / "cfg.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            formats.load_sparsify(tmp_path)


@pytest.mark.parametrize(
    "save", [formats.save_saelens, formats.save_sparsify, formats.save_dictionary_learning]
)
def test_parameters_of_another_architecture(save, tmp_path):
    params = sae.gated(LATENTS, 0.1).init(jax.random.key(1), H)
    with pytest.raises(ValueError, match="parameters of topk are W_dec, W_enc, b_dec, b_enc, but"):
        save(tmp_path, sae.topk(LATENTS, 3), params)


def test_what_a_format_cannot_say(tmp_path):
    topk, relu = sae.topk(LATENTS, 3), sae.relu(LATENTS, 0.1)
    pair = (H, H)
    for save, dictionary, sample, message in (
        (formats.save_saelens, sae.crosscoder(relu), jnp.stack(pair, 1), "for crosscoder"),
        (formats.save_saelens, sae.transcoder(topk), pair, "for transcoders of topk"),
        (
            formats.save_dictionary_learning,
            sae.crosscoder(relu),
            jnp.stack(pair, 1),
            "no class for",
        ),
        (formats.save_sparsify, relu, H, "sparsify has topk alone, and no relu"),
        (formats.save_sparsify, sae.topk(LATENTS, 3, is_centred=False), H, "no is_centred=False"),
        (formats.save_sparsify, sae.transcoder(topk), (H, H[:, :OUTPUTS]), "one width.* 6 and 4"),
    ):
        params = dictionary.init(jax.random.key(1), sample)
        with pytest.raises(ValueError, match=message):
            save(tmp_path, dictionary, params)
    assert not list(tmp_path.iterdir())
