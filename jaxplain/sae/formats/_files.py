"""What the formats share: files that are whole or not there, tensors of the right shapes."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxplain.sae._dictionary import Dictionary, Params
from jaxplain.sae._normalised import folded

Loaded = tuple[Dictionary, Params]


def exported(dictionary: Dictionary, params: Params) -> Params:
    """The parameters for activations as they are: of a normalised dictionary the folded ones.

    Raises ValueError where they are of another architecture.
    """
    if dictionary.about.get("is_normalised"):
        params = folded(dictionary, params)
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
    return params


def library() -> Any:
    """safetensors, or how to install it."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "these files need the package safetensors: pip install 'jaxplain[io]'"
        ) from error
    return safetensors


def write(
    folder: str | os.PathLike[str], config: dict, name: str, tensors: dict[str, np.ndarray]
) -> None:
    whole = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
    contents = {
        name: library().numpy.save(whole),
        "cfg.json": json.dumps(config, indent=1).encode(),
    }
    replace(folder, contents)


def replace(folder: str | os.PathLike[str], contents: Mapping[str, bytes]) -> None:
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


def read(
    folder: str | os.PathLike[str], settings: str, weights: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    folder = pathlib.Path(folder)
    config, weights_file = read_settings(folder / settings), folder / weights
    if not weights_file.is_file():
        raise FileNotFoundError(f"there is no file {weights_file}")
    found = library()
    try:
        return config, found.numpy.load_file(weights_file)
    except found.SafetensorError as error:
        raise ValueError(f"{weights_file} is not a safetensors file: {error}") from error


def read_settings(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        config = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no settings, but a {type(config).__name__}")
    return config


def with_unit_norms(params: Params) -> Params:
    """The same reconstructions with decoder rows of norm 1: codes are larger by what these were."""
    norms = jnp.linalg.norm(params["W_dec"], axis=-1)
    norms = jnp.where(norms > 0, norms, 1)
    return {
        **params,
        "W_enc": params["W_enc"] * norms[None],
        "b_enc": params["b_enc"] * norms,
        "W_dec": params["W_dec"] / norms[:, None],
    }


def checked(tensors: Mapping[str, np.ndarray], shapes: Mapping[str, Any]) -> Params:
    """The tensors of these names on the device, each of its shape; others are left."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise ValueError(f"the weights have no {name}, only {', '.join(sorted(tensors))}")
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has the shape {tensors[name].shape}, but should have {shape}")
    return {name: jnp.asarray(tensors[name]) for name in shapes}
