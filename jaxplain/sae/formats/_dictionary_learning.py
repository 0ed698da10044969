"""The folders of dictionary_learning: config.json and ae.pt, a file of torch.save."""

import json
import os
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxplain.sae._batch_topk import batch_topk
from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._gated import gated
from jaxplain.sae._jumprelu import jumprelu
from jaxplain.sae._matryoshka import matryoshka
from jaxplain.sae._relu import relu
from jaxplain.sae._topk import topk
from jaxplain.sae.formats import _files, _torch_files
from jaxplain.sae.formats._files import Loaded

# The classes of dictionary_learning: names of our parameters in its files, turned or not.
_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_LEARNING: dict[str, dict[str, str]] = {
    "AutoEncoder": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "bias"},
    "AutoEncoderNew": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "decoder.bias"},
    "AutoEncoderTopK": {**_LINEAR, "b_enc": "encoder.bias", "b_dec": "b_dec"},
    "BatchTopKSAE": {
        **_LINEAR,
        "b_enc": "encoder.bias",
        "b_dec": "b_dec",
        "threshold": "threshold",
    },
    "GatedAutoEncoder": {
        **_LINEAR,
        "b_gate": "gate_bias",
        "b_mag": "mag_bias",
        "r_mag": "r_mag",
        "b_dec": "decoder_bias",
    },
    "JumpReluAutoEncoder": {n: n for n in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")},
    "MatryoshkaBatchTopKSAE": {n: n for n in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")},
}


def save_dictionary_learning(
    folder: str | os.PathLike[str], dictionary: Dictionary, params: Params
) -> None:
    """Writes a dictionary as dictionary_learning reads it: config.json, and ae.pt for `torch.load`.

    Its class of a centred `relu` has decoder rows of norm 1, and makes them so when it is read:
    codes are there by the norm of their row larger.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        dictionary: what the parameters are of.
        params: its parameters.

    Returns:
        Nothing.

    Raises:
        ValueError: dictionary_learning has no such architecture.

    Example:
        >>> import jax, tempfile
        >>> from jaxplain import sae
        >>> dictionary = sae.matryoshka(latents=32, k=4, sizes=(8, 32))
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sae.formats.save_dictionary_learning(folder, dictionary, params)
        ...     again, same = sae.formats.load_dictionary_learning(folder)
        >>> again.about["sizes"], bool((same["W_dec"] == params["W_dec"]).all())
        ([8, 32], True)

    References:
        dictionary_learning 0.1.0: https://github.com/saprmarks/dictionary_learning
    """
    about = dictionary.about
    params = _files.exported(dictionary, params)
    kind, is_centred = about.get("architecture"), about.get("is_centred")
    name = {
        ("relu", True): "AutoEncoder",
        ("relu", False): "AutoEncoderNew",
        ("p_annealed", True): "AutoEncoder",
        ("p_annealed", False): "AutoEncoderNew",
        ("gated", True): "GatedAutoEncoder",
        ("topk", True): "AutoEncoderTopK",
        ("batch_topk", True): "BatchTopKSAE",
        ("matryoshka", True): "MatryoshkaBatchTopKSAE",
        ("jumprelu", False): "JumpReluAutoEncoder",
    }.get((str(kind), bool(is_centred)))
    other = [n for n in ("is_transcoder", "is_crosscoder") if about.get(n)]
    if name is None or other:
        what = f"{kind} with {', '.join(other) or f'is_centred={is_centred}'}"
        raise ValueError(f"dictionary_learning has no class for {what}.")
    tensors = {}
    for ours, theirs in _LEARNING[name].items():
        tensor = np.asarray(params[ours])
        tensors[theirs] = tensor.T if theirs.endswith(".weight") else tensor
    latents, width = np.shape(params["W_dec"])
    trainer: dict[str, Any] = {
        "dict_class": name,
        "activation_dim": width,
        "dict_size": latents,
    }
    if "k" in about:
        trainer["k"] = about["k"]
        tensors["k"] = np.asarray(about["k"], np.int32)
    if name == "AutoEncoderTopK":
        tensors["threshold"] = np.asarray(-1, np.float32)  # which means none
    if name == "MatryoshkaBatchTopKSAE":
        sizes = np.diff([0, *about["sizes"]])
        tensors["group_sizes"] = np.asarray(sizes, np.int64)
    contents = {
        "ae.pt": _torch_files.dump(tensors),
        "config.json": json.dumps({"trainer": trainer, "buffer": {}}, indent=1).encode(),
    }
    _files.replace(folder, contents)


def load_dictionary_learning(folder: str | os.PathLike[str]) -> Loaded:
    """Reads a dictionary that dictionary_learning wrote, without torch.

    Args:
        folder: with config.json and ae.pt.

    Returns:
        `(dictionary, params)`; coefficients, of which the files say nothing, are 0.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is damaged or holds anything but tensors, a tensor is missing or of
            another shape, or the class is one that no dictionary here is.

    Example:
        >>> from jaxplain import sae
        >>> sae.formats.load_dictionary_learning("nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no file nowhere/config.json

    References:
        dictionary_learning 0.1.0: https://github.com/saprmarks/dictionary_learning
    """
    folder = pathlib.Path(folder)
    trainer = _files.read_settings(folder / "config.json").get("trainer")
    trainer = trainer if isinstance(trainer, dict) else {}
    name = trainer.get("dict_class")
    if name not in _LEARNING:
        raise ValueError(
            f"config.json has dict_class = {name!r}, which no dictionary here is: there are "
            f"{', '.join(_LEARNING)}"
        )
    tensors = _torch_files.load(folder / "ae.pt")
    names = _LEARNING[name]
    turned = {
        ours: tensors[theirs].T if theirs.endswith(".weight") else tensors[theirs]
        for ours, theirs in names.items()
        if theirs in tensors
    }
    missing = [theirs for ours, theirs in names.items() if ours not in turned]
    if missing:
        raise ValueError(f"ae.pt has no {', '.join(missing)}, only {', '.join(sorted(tensors))}")
    if turned["W_enc"].ndim != 2:
        raise ValueError(f"{names['W_enc']} has the shape {turned['W_enc'].shape}, and no two axes")
    width, latents = turned["W_enc"].shape
    vector, one = (latents,), turned.get("threshold", np.zeros(())).ndim == 0
    shapes = dict.fromkeys(names, vector) | {
        "W_enc": (width, latents),
        "W_dec": (latents, width),
        "b_dec": (width,),
    }
    if "threshold" in names and one:
        shapes["threshold"] = ()
    params = _files.checked(turned, shapes)
    k = trainer.get("k", tensors.get("k"))
    if name == "AutoEncoder":  # which its library gives unit norms when it is read
        return relu(latents, 0.0), _files.with_unit_norms(params)
    if name == "AutoEncoderNew":
        return relu(latents, 0.0, is_centred=False), params
    if name == "GatedAutoEncoder":
        return gated(latents, 0.0), params
    if name == "JumpReluAutoEncoder":
        return jumprelu(latents, 0.0), params
    if k is None:
        raise ValueError(f"neither config.json nor ae.pt has the k of {name}.")
    if name == "AutoEncoderTopK":
        return topk(latents, int(k)), params
    params["threshold"] = jnp.maximum(params["threshold"], 0)  # -1 means none
    if name == "BatchTopKSAE":
        return batch_topk(latents, int(k)), params
    sizes = np.cumsum(tensors.get("group_sizes", np.array([latents])))
    return matryoshka(latents, int(k), sizes=sizes.tolist()), params
