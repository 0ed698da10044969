"""Dictionaries in the files of other libraries, read and written.

SAELens               a folder: cfg.json, sae_weights.safetensors      every architecture it has
sparsify              a folder: cfg.json, sae.safetensors              topk, and transcoders of it
dictionary_learning   a folder: config.json, ae.pt                     every architecture it has
Gemma Scope           params.npz, or params.safetensors + config.json  jumprelu, read only

What a file says that no dictionary here can be, or a dictionary is that a file cannot say, is an
error that names the field. Nothing is unpickled.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxplain.sae import _torch_files
from jaxplain.sae._batch_topk import batch_topk
from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._gated import gated
from jaxplain.sae._jumprelu import jumprelu
from jaxplain.sae._matryoshka import matryoshka
from jaxplain.sae._relu import relu
from jaxplain.sae._topk import topk
from jaxplain.sae._transcoder import transcoder

__all__ = [
    "load_dictionary_learning",
    "load_gemma_scope",
    "load_saelens",
    "load_sparsify",
    "save_dictionary_learning",
    "save_saelens",
    "save_sparsify",
]

Loaded = tuple[Dictionary, Params]

# The architectures of SAELens, and what is a threshold for each latent in its files.
_SAELENS = {
    "relu": "standard",
    "p_annealed": "standard",
    "gated": "gated",
    "topk": "topk",
    "jumprelu": "jumprelu",
    "batch_topk": "jumprelu",
    "matryoshka": "jumprelu",
}
_TRANSCODERS = {"standard": "transcoder", "jumprelu": "jumprelu_transcoder"}


def save_saelens(
    folder: str | os.PathLike[str],
    dictionary: Dictionary,
    params: Params,
    *,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a dictionary as SAELens 6 reads it.

    `batch_topk` and `matryoshka` become "jumprelu" with one threshold for all latents, as SAELens
    itself writes its own; `p_annealed` becomes "standard".

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        dictionary: what the parameters are of.
        params: its parameters.
        metadata: what SAELens keeps beside: model_name, hook_name, context_size, prepend_bos, ...

    Returns:
        Nothing.

    Raises:
        ImportError: safetensors is not installed.
        ValueError: SAELens has no such architecture.

    Example:
        >>> import jax, tempfile
        >>> from jaxplain import sae
        >>> dictionary = sae.topk(latents=32, k=4)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sae.formats.save_saelens(folder, dictionary, params)
        ...     again, same = sae.formats.load_saelens(folder)
        >>> bool((again.encode(same, h) == dictionary.encode(params, h)).all())
        True

    References:
        SAELens 6.54, `SAE.save_model`: https://github.com/decoderesearch/SAELens
    """
    about = dictionary.about
    kind = about.get("architecture")
    _check_params(dictionary, params)
    if kind not in _SAELENS or about.get("is_crosscoder"):
        what = "crosscoder" if about.get("is_crosscoder") else kind
        raise ValueError(f"SAELens has no architecture for {what}.")
    name, is_transcoder = _SAELENS[kind], bool(about.get("is_transcoder"))
    tensors = {key: np.asarray(leaf) for key, leaf in params.items()}
    width, latents = tensors["W_enc"].shape
    if name == "jumprelu":
        tensors["threshold"] = np.broadcast_to(tensors["threshold"], (latents,)).copy()
    config: dict[str, Any] = {
        "d_in": width,
        "d_sae": latents,
        "dtype": str(tensors["W_enc"].dtype),
        "device": "cpu",
        "apply_b_dec_to_input": bool(about["is_centred"]) and not is_transcoder,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": dict(metadata or {}),
    }
    if is_transcoder:
        if name not in _TRANSCODERS:
            raise ValueError(f"SAELens has no architecture for transcoders of {kind}.")
        name = _TRANSCODERS[name]
        if about.get("has_skip"):
            name = name.replace("transcoder", "skip_transcoder")
        config["d_out"] = tensors["W_dec"].shape[1]
    if name == "topk":
        config |= {"k": about["k"], "rescale_acts_by_decoder_norm": False}
    _write(folder, {**config, "architecture": name}, "sae_weights.safetensors", tensors)


def load_saelens(folder: str | os.PathLike[str]) -> Loaded:
    """Reads a dictionary that SAELens wrote, of version 6 or with the flat settings before.

    Args:
        folder: with cfg.json and sae_weights.safetensors.

    Returns:
        `(dictionary, params)`. Coefficients, of which the files say nothing, are 0: give your own
        dictionary to train on. Decoder norms of "topk" that scale activations, and factors of fine-
        tuning, are folded into the weights.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: safetensors is not installed.
        ValueError: a file is damaged, a tensor missing or of another shape, or a setting is one
            that no dictionary here has; the message names it.

    Example:
        >>> from jaxplain import sae
        >>> sae.formats.load_saelens("nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no file nowhere/cfg.json

    References:
        SAELens 6.54, `SAE.load_from_disk`: https://github.com/decoderesearch/SAELens
    """
    config, tensors = _read(folder, "cfg.json", "sae_weights.safetensors")
    name = config.get("architecture") or {
        None: "standard",
        "relu": "standard",
        "topk": "topk",
    }.get(config.get("activation_fn_str", config.get("activation_fn")))
    for field, accepted in (
        ("normalize_activations", (None, "none")),
        ("reshape_activations", (None, "none")),
        ("hook_z_reshaping_mode", (None, False)),
    ):
        if config.get(field) not in accepted:
            raise ValueError(
                f"cfg.json has {field} = {config[field]!r}, which is not a part of a dictionary "
                "here: prepare the activations so yourself, and set it to null"
            )
    latents, width = config.get("d_sae"), config.get("d_in")
    if not isinstance(latents, int) or not isinstance(width, int):
        raise ValueError("cfg.json must have the integers d_in and d_sae.")
    is_centred = bool(config.get("apply_b_dec_to_input", True))
    is_transcoder = isinstance(name, str) and "transcoder" in name
    has_skip = is_transcoder and "skip" in str(name)
    outputs = config.get("d_out", width) if is_transcoder else width
    shapes = {
        "W_enc": (width, latents),
        "W_dec": (latents, outputs),
        "b_dec": (outputs,),
        **({"W_skip": (outputs, width)} if has_skip else {}),
    }
    vectors = ["b_enc"]
    plain = str(name).replace("skip_", "").replace("_transcoder", "")
    plain = "standard" if plain == "transcoder" else plain
    if plain == "standard":
        dictionary = relu(latents, 0.0, is_centred=is_centred)
    elif plain == "topk":
        options = config.get("activation_fn_kwargs") or {}
        k = config.get("k", options.get("k"))
        if not isinstance(k, int):
            raise ValueError("cfg.json is of a topk dictionary, but has no integer k.")
        dictionary = topk(latents, k, is_centred=is_centred)
    elif plain == "jumprelu":
        vectors.append("threshold")
        dictionary = jumprelu(latents, 0.0, is_centred=is_centred)
    elif plain == "gated":
        vectors = ["b_gate", "b_mag", "r_mag"]
        dictionary = gated(latents, 0.0, is_centred=is_centred)
    else:
        raise ValueError(
            f"cfg.json has architecture = {name!r}, which no dictionary here is: there are "
            "standard, gated, topk, jumprelu, and their transcoders"
        )
    factor = config.get("finetuning_scaling_factor")
    if factor:
        vectors.append("scaling_factor")
    shapes |= dict.fromkeys(vectors, (latents,))
    params = _checked(tensors, shapes)
    if factor:  # of the codes, before they are decoded
        params["W_dec"] = params["W_dec"] * params.pop("scaling_factor")[:, None]
    if config.get("rescale_acts_by_decoder_norm"):
        params = _with_unit_norms(params)
    if "threshold" in params:  # they multiply ReLU(pre): below 0 nothing is active
        params["threshold"] = jnp.maximum(params["threshold"], 0)
    if is_transcoder:
        dictionary = transcoder(dictionary, has_skip=has_skip)
    return dictionary, params


def save_sparsify(folder: str | os.PathLike[str], dictionary: Dictionary, params: Params) -> None:
    """Writes a topk dictionary, or a transcoder of it, as sparsify reads it.

    Args:
        folder: made where it is missing; files of these names in it are replaced.
        dictionary: a `topk`, or a transcoder of one with or without a skip.
        params: its parameters.

    Returns:
        Nothing.

    Raises:
        ImportError: safetensors is not installed.
        ValueError: sparsify has no such architecture.

    Example:
        >>> import jax, tempfile
        >>> from jaxplain import sae
        >>> dictionary = sae.topk(latents=32, k=4)
        >>> h = jax.random.normal(jax.random.key(0), (100, 8))
        >>> params = dictionary.init(jax.random.key(1), h)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sae.formats.save_sparsify(folder, dictionary, params)
        ...     again, same = sae.formats.load_sparsify(folder)
        >>> bool((same["W_enc"] == params["W_enc"]).all())
        True

    References:
        eai-sparsify 1.3: https://github.com/EleutherAI/sparsify
    """
    about, is_transcoder = dictionary.about, bool(dictionary.about.get("is_transcoder"))
    if about.get("architecture") != "topk" or about.get("is_crosscoder"):
        raise ValueError(f"sparsify has topk alone, and no {about.get('architecture')}.")
    if not about["is_centred"] and not is_transcoder:
        raise ValueError("sparsify takes b_dec from what it encodes, and has no is_centred=False.")
    _check_params(dictionary, params)
    arrays = {name: np.asarray(leaf) for name, leaf in params.items()}
    width, latents = arrays["W_enc"].shape
    tensors = {
        "encoder.weight": np.ascontiguousarray(arrays["W_enc"].T),
        "encoder.bias": arrays["b_enc"],
        "W_dec": arrays["W_dec"],
        "b_dec": arrays["b_dec"],
    }
    if about.get("has_skip"):
        tensors["W_skip"] = arrays["W_skip"]
    config = {
        "activation": "topk",
        "expansion_factor": latents / width,
        "normalize_decoder": not is_transcoder,
        "num_latents": latents,
        "k": about["k"],
        "multi_topk": False,
        "skip_connection": bool(about.get("has_skip")),
        "transcode": is_transcoder,
        "d_in": width,
    }
    _write(folder, config, "sae.safetensors", tensors)


def load_sparsify(folder: str | os.PathLike[str]) -> Loaded:
    """Reads a dictionary that sparsify wrote.

    Args:
        folder: with cfg.json and sae.safetensors.

    Returns:
        `(dictionary, params)`: a `topk`, or a transcoder of one.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: safetensors is not installed.
        ValueError: a file is damaged, a tensor missing or of another shape, or the activation is
            not topk.

    Example:
        >>> from jaxplain import sae
        >>> sae.formats.load_sparsify("nowhere")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no file nowhere/cfg.json

    References:
        eai-sparsify 1.3: https://github.com/EleutherAI/sparsify
    """
    config, tensors = _read(folder, "cfg.json", "sae.safetensors")
    if config.get("activation", "topk") != "topk":
        raise ValueError(
            f"cfg.json has activation = {config['activation']!r}, which no dictionary here has"
        )
    if "encoder.weight" not in tensors or "W_dec" not in tensors:
        raise ValueError(f"sae.safetensors has no encoder.weight or W_dec, only {sorted(tensors)}")
    latents, width = tensors["encoder.weight"].shape
    outputs, has_skip = tensors["W_dec"].shape[-1], bool(config.get("skip_connection"))
    shapes = {
        "encoder.weight": (latents, width),
        "encoder.bias": (latents,),
        "W_dec": (latents, outputs),
        "b_dec": (outputs,),
        **({"W_skip": (outputs, width)} if has_skip else {}),
    }
    params = _checked(tensors, shapes)
    params["W_enc"] = params.pop("encoder.weight").T
    params["b_enc"] = params.pop("encoder.bias")
    if not isinstance(config.get("k"), int):
        raise ValueError("cfg.json has no integer k.")
    dictionary = topk(latents, config["k"])
    if has_skip and not config.get("transcode"):
        raise ValueError(
            "cfg.json has skip_connection and not transcode: b_dec is then taken from what is "
            "encoded, and no dictionary here with a skip does that"
        )
    if config.get("transcode"):
        dictionary = transcoder(dictionary, has_skip=has_skip)
    return dictionary, params


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
    _check_params(dictionary, params)
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
    _replace(folder, contents)


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
    trainer = _settings(folder / "config.json").get("trainer")
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
    params = _checked(turned, shapes)
    k = trainer.get("k", tensors.get("k"))
    if name == "AutoEncoder":  # which its library gives unit norms when it is read
        return relu(latents, 0.0), _with_unit_norms(params)
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


def load_gemma_scope(path: str | os.PathLike[str]) -> Loaded:
    """Reads a dictionary of Gemma Scope 1 or 2.

    Args:
        path: of params.npz (Gemma Scope 1), or of the folder with params.safetensors and
            config.json (2).

    Returns:
        `(dictionary, params)`: a `jumprelu` that takes nothing from what it encodes; with an affine
        skip, or where widths differ, a transcoder. Dictionaries of embeddings want activations that
        were scaled by the square root of the width.

    Raises:
        FileNotFoundError: a file is missing.
        ImportError: safetensors is needed and not installed.
        ValueError: a file is damaged, a tensor missing or of another shape, or the architecture is
            not a JumpReLU.

    Example:
        >>> from jaxplain import sae
        >>> sae.formats.load_gemma_scope("nowhere/params.npz")
        Traceback (most recent call last):
        ...
        FileNotFoundError: there is no file nowhere/params.npz

    References:
        Lieberum et al., "Gemma Scope: Open Sparse Autoencoders Everywhere All At Once on Gemma 2",
        2024, https://arxiv.org/abs/2408.05147
    """
    path = pathlib.Path(path)
    if path.suffix == ".npz":
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}")
        try:
            with np.load(path, allow_pickle=False) as file:
                tensors = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path} is not an .npz file of arrays: {error}") from error
    else:
        config, tensors = _read(path, "config.json", "params.safetensors")
        kind = config.get("architecture", "jump_relu")
        if kind not in ("jump_relu", "jumprelu"):
            raise ValueError(f"config.json has architecture = {kind!r}, and not jump_relu")
        tensors = {
            name.replace("w_enc", "W_enc").replace("w_dec", "W_dec"): tensor
            for name, tensor in tensors.items()
        }
    missing = {"W_enc", "W_dec"} - set(tensors)
    if missing:
        raise ValueError(f"{path} has no {', '.join(sorted(missing))}, only {sorted(tensors)}")
    width, latents = tensors["W_enc"].shape
    outputs = tensors["W_dec"].shape[-1]
    skip = "affine_skip_connection"
    shapes = {
        "W_enc": (width, latents),
        "b_enc": (latents,),
        "threshold": (latents,),
        "W_dec": (latents, outputs),
        "b_dec": (outputs,),
        **({skip: (width, outputs)} if skip in tensors else {}),
    }
    params = _checked(tensors, shapes)
    dictionary = jumprelu(latents, 0.0)
    if skip in params:
        params["W_skip"] = params.pop(skip).T
    if "W_skip" in params or width != outputs:
        dictionary = transcoder(dictionary, has_skip="W_skip" in params)
    return dictionary, params


# ------------------------------------------------------------------------------------------- files


def _check_params(dictionary: Dictionary, params: Params) -> None:
    """Raises ValueError where the parameters are of another architecture."""
    kind = dictionary.about.get("architecture")
    names = {"W_enc", "W_dec", "b_dec"}
    names |= {"b_gate", "b_mag", "r_mag"} if kind == "gated" else {"b_enc"}
    names |= {"threshold"} if kind in ("batch_topk", "matryoshka", "jumprelu") else set()
    names |= {"W_skip"} if dictionary.about.get("has_skip") else set()
    if set(params) != names:
        raise ValueError(
            f"the parameters of {kind} are {', '.join(sorted(names))}, but these are "
            f"{', '.join(sorted(params))}."
        )


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "these files need the package safetensors: pip install 'jaxplain[io]'"
        ) from error
    return safetensors


def _write(
    folder: str | os.PathLike[str], config: dict, name: str, tensors: dict[str, np.ndarray]
) -> None:
    library = _safetensors()
    whole = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    contents = {
        name: library.numpy.save(whole),
        "cfg.json": json.dumps(config, indent=1).encode(),
    }
    _replace(folder, contents)


def _replace(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> None:
    """Files, each in place of the old one only when it is whole."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        part = folder / f".{file}.part"
        try:
            part.write_bytes(content)
            os.replace(part, folder / file)
        finally:
            part.unlink(missing_ok=True)


def _read(
    folder: str | os.PathLike[str], settings: str, weights: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    config, weights_file = (
        _settings(pathlib.Path(folder) / settings),
        pathlib.Path(folder) / weights,
    )
    if not weights_file.is_file():
        raise FileNotFoundError(f"there is no file {weights_file}")
    library = _safetensors()
    try:
        return config, library.numpy.load_file(weights_file)
    except library.SafetensorError as error:
        raise ValueError(f"{weights_file} is not a safetensors file: {error}") from error


def _settings(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings, but a {type(config).__name__}")
    return config


def _with_unit_norms(params: Params) -> Params:
    """The same reconstructions with decoder rows of norm 1: codes are larger by what these were."""
    norms = jnp.linalg.norm(params["W_dec"], axis=-1)
    norms = jnp.where(norms > 0, norms, 1)
    return {
        **params,
        "W_enc": params["W_enc"] * norms[None],
        "b_enc": params["b_enc"] * norms,
        "W_dec": params["W_dec"] / norms[:, None],
    }


def _checked(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> Params:
    """The tensors of these names on the device, each of its shape; others are left."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"the weights have no {name}, only {', '.join(sorted(tensors))}")
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has the shape {tensors[name].shape}, but should have {shape}")
    return {name: jnp.asarray(tensors[name]) for name in shapes}
