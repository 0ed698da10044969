"""The files of `torch.save`, without torch and without running what a pickle may hold.

A file is a zip: `data.pkl` says which tensors there are, `data/0`, `data/1`, ... are their numbers.
The pickle is read by an unpickler that knows how a tensor is put together, and refuses all else; it
is written opcode by opcode.
"""

import collections
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

_STORAGES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_ENDS = (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, IndexError, struct.error)


def load(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The tensors of a state dict by name.

    Raises FileNotFoundError where there is no file, and ValueError where it is no such file, is
    damaged, or holds anything but tensors in dicts.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            found = _Reader(archive, name.removesuffix("data.pkl")).load()
    except (*_ENDS, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a file of torch.save that is whole: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(t, np.ndarray) for t in found.values()):
        raise ValueError(f"{path} holds no dict of tensors")
    return found


class _Reader(pickle.Unpickler):
    """Builds arrays of what a state dict is made of, and nothing else."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{folder}data.pkl")))
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict  # which torch hangs its metadata on
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return jnp.dtype(_STORAGES[name])
        raise ValueError(f"it holds {module}.{name}, and only tensors are read")

    def persistent_load(self, given: Any) -> np.ndarray:
        kind, dtype, number, _, count = given
        content = self.archive.read(f"{self.folder}data/{number}")
        if kind != "storage" or len(content) != count * dtype.itemsize:
            raise ValueError("the numbers of a tensor are not whole")
        return np.frombuffer(content, dtype)


def _tensor(
    storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> np.ndarray:
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    is_empty = 0 in shape
    if min((0, offset, *shape, *strides)) < 0 or (not is_empty and last >= storage.size):
        raise ValueError("a tensor reaches beyond its numbers")
    steps = [step * storage.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, steps).copy()


def dump(tensors: dict[str, np.ndarray]) -> bytes:
    """A file of a state dict with these tensors, as `torch.save` writes it."""
    text = lambda value: b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    number = lambda value: b"J" + struct.pack("<i", value)
    empty = b"ccollections\nOrderedDict\n)R"
    of_dtype = {dtype: name for name, dtype in _STORAGES.items()}
    body, blobs = [b"\x80\x02", empty, b"("], []
    for k, (name, tensor) in enumerate(tensors.items()):
        tensor = np.asarray(tensor)
        sizes = b"(" + b"".join(map(number, tensor.shape)) + b"t"
        steps = [math.prod(tensor.shape[i + 1 :]) for i in range(tensor.ndim)]
        strides = b"(" + b"".join(map(number, steps)) + b"t"
        storage = of_dtype[tensor.dtype.name].encode()
        body += [
            text(name),
            b"ctorch._utils\n_rebuild_tensor_v2\n(",
            b"(" + text("storage") + b"ctorch\n" + storage + b"\n" + text(str(k)) + text("cpu"),
            number(tensor.size) + b"tQ",
            number(0) + sizes + strides + b"\x89" + empty + b"tR",
        ]
        blobs.append(np.ascontiguousarray(tensor).tobytes())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"".join(body) + b"u.")
        archive.writestr("archive/byteorder", "little")
        for k, blob in enumerate(blobs):
            archive.writestr(f"archive/data/{k}", blob)
        archive.writestr("archive/version", "3\n")
    return content.getvalue()
