"""The folders of sparsify: cfg.json and sae.safetensors."""

import os

import numpy as np

from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._topk import topk
from jaxplain.sae._transcoder import transcoder
from jaxplain.sae.formats import _files
from jaxplain.sae.formats._files import Loaded


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
        ValueError: sparsify has no such architecture, or none whose outputs have another width.

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
    params = _files.exported(dictionary, params)
    arrays = {name: np.asarray(leaf) for name, leaf in params.items()}
    width, latents = arrays["W_enc"].shape
    if arrays["W_dec"].shape[1] != width:
        raise ValueError(
            f"sparsify has inputs and outputs of one width, but these have {width} and "
            f"{arrays['W_dec'].shape[1]}."
        )
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
        "expansion_factor": max(latents // width, 1),  # an integer; num_latents is what counts
        "normalize_decoder": not is_transcoder,
        "num_latents": latents,
        "k": about["k"],
        "multi_topk": about["multi_topk"],
        "skip_connection": bool(about.get("has_skip")),
        "transcode": is_transcoder,
        "d_in": width,
    }
    _files.write(folder, config, "sae.safetensors", tensors)


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
    config, tensors = _files.read(folder, "cfg.json", "sae.safetensors")
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
    params = _files.checked(tensors, shapes)
    params["W_enc"] = params.pop("encoder.weight").T
    params["b_enc"] = params.pop("encoder.bias")
    if not isinstance(config.get("k"), int):
        raise ValueError("cfg.json has no integer k.")
    dictionary = topk(latents, config["k"], multi_topk=bool(config.get("multi_topk")))
    if has_skip and not config.get("transcode"):
        raise ValueError(
            "cfg.json has skip_connection and not transcode: b_dec is then taken from what is "
            "encoded, and no dictionary here with a skip does that"
        )
    if config.get("transcode"):
        dictionary = transcoder(dictionary, has_skip=has_skip)
    return dictionary, params
