"""The folders of SAELens: cfg.json and sae_weights.safetensors."""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._gated import gated
from jaxplain.sae._jumprelu import jumprelu
from jaxplain.sae._relu import relu
from jaxplain.sae._topk import topk
from jaxplain.sae._transcoder import transcoder
from jaxplain.sae.formats import _files
from jaxplain.sae.formats._files import Loaded

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
    params = _files.exported(dictionary, params)
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
    _files.write(folder, {**config, "architecture": name}, "sae_weights.safetensors", tensors)


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
    config, tensors = _files.read(folder, "cfg.json", "sae_weights.safetensors")
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
    params = _files.checked(tensors, shapes)
    if factor:  # of the codes, before they are decoded
        params["W_dec"] = params["W_dec"] * params.pop("scaling_factor")[:, None]
    if config.get("rescale_acts_by_decoder_norm"):
        params = _files.with_unit_norms(params)
    if "threshold" in params:  # they multiply ReLU(pre): below 0 nothing is active
        params["threshold"] = jnp.maximum(params["threshold"], 0)
    if is_transcoder:
        dictionary = transcoder(dictionary, has_skip=has_skip)
    return dictionary, params
