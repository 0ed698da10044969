"""Weights in the layouts of PyTorch and Caffe into Flax NNX networks.

The networks name their layers as the files do, so that a tensor's name follows from a variable's
path. Layouts differ:

    convolution  (out, in, height, width)            ->  (height, width, in, out)
    linear       (out, in)                           ->  (in, out)
    linear after (channel, height, width) flattened  ->  rows in the order (height, width, channel)

The last one lets an NHWC network flatten as it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import flax.nnx
import jax.numpy as jnp
import numpy as np

Model = TypeVar("Model", bound=flax.nnx.Module)

# The last part of a variable's path in Flax, and the tensor's own name in the file.
TENSOR_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def load(
    make: Callable[[flax.nnx.Rngs], Model],
    path: str | os.PathLike[str],
    *,
    separator: str = ".",
    flattened: Mapping[str, tuple[int, int, int]] | None = None,
) -> Model:
    """Builds a network and fills it from a safetensors file; returned in evaluation mode.

    `separator` stands between the names of nested layers in the file. `flattened` gives, for each
    linear weight behind a flattened image, the (channels, height, width) that was flattened.
    """
    tensors = read(path)
    # Without values: initialising thousands of weights only to replace them takes seconds.
    model: Model = flax.nnx.eval_shape(lambda: make(flax.nnx.Rngs(0)))
    graph, random, state = flax.nnx.split(model, flax.nnx.RngState, ...)
    del random  # reference networks draw no random numbers once built
    variables = {
        tensor_name(path_in_model, separator): (path_in_model, variable)
        for path_in_model, variable in flax.nnx.to_flat_state(state)
    }
    _check_names(path, set(variables), set(tensors))
    filled = {}
    for name, (path_in_model, variable) in variables.items():
        value = flax_layout(tensors[name], (flattened or {}).get(name))
        if value.shape != variable.shape:
            raise ValueError(
                f"{os.fspath(path)}: {name} has the shape {tensors[name].shape}, which is "
                f"{value.shape} in Flax's layout, but the network has {variable.shape} there"
            )
        filled[path_in_model] = variable.replace(jnp.asarray(value, variable.dtype))
    model = flax.nnx.merge(graph, flax.nnx.from_flat_state(filled))
    model.eval()
    return model


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all tensors of a safetensors file."""
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(
            "reading weights needs the package safetensors: pip install 'jaxplain[io]'"
        ) from error
    try:
        return safetensors.numpy.load_file(os.fspath(path))
    except safetensors.SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from error


def tensor_name(path: tuple[Any, ...], separator: str) -> str:
    """Returns the file's name of a variable.

    ("layer1", 0, "bn1", "mean") is layer1.0.bn1.running_mean.
    """
    *layers, last = path
    return f"{separator.join(map(str, layers))}.{TENSOR_NAMES[last]}"


def flax_layout(tensor: np.ndarray, flattened: tuple[int, int, int] | None) -> np.ndarray:
    """Returns a tensor in the layout of Flax, from that of PyTorch or Caffe."""
    if flattened is not None and tensor.ndim == 2 and tensor.shape[1] == np.prod(flattened):
        tensor = tensor.reshape(-1, *flattened).transpose(0, 2, 3, 1).reshape(tensor.shape)
    if tensor.ndim == 4:
        return tensor.transpose(2, 3, 1, 0)
    return tensor.T


def _check_names(path: str | os.PathLike[str], expected: set[str], found: set[str]) -> None:
    # PyTorch counts the batches that a batch norm has seen; evaluation does not read it.
    found = {name for name in found if not name.endswith("num_batches_tracked")}
    missing, unexpected = sorted(expected - found), sorted(found - expected)
    if missing or unexpected:
        raise ValueError(
            f"{os.fspath(path)} does not fit the network: missing tensors "
            f"{_some(missing)}; unexpected tensors {_some(unexpected)}"
        )


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
