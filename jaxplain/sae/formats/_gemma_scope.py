"""The files of Gemma Scope: params.npz, or params.safetensors and config.json."""

import os
import pathlib

import numpy as np

from jaxplain.sae._jumprelu import jumprelu
from jaxplain.sae._transcoder import transcoder
from jaxplain.sae.formats import _files
from jaxplain.sae.formats._files import Loaded


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
        config, tensors = _files.read(path, "config.json", "params.safetensors")
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
    params = _files.checked(tensors, shapes)
    dictionary = jumprelu(latents, 0.0)
    if skip in params:
        params["W_skip"] = params.pop(skip).T
    if "W_skip" in params or width != outputs:
        dictionary = transcoder(dictionary, has_skip="W_skip" in params)
    return dictionary, params
