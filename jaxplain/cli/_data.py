"""Datasets named on the command line: a file of arrays, or an iterator in a user's module."""

import importlib.util
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jaxplain import store
from jaxplain.cli import _names


class Data(NamedTuple):
    """The examples to explain.

    Attributes:
        name: what was given, without the folders it lies in.
        array: the examples, read by slicing; None for an iterator.
        batches: a new iterator of batches at each call; None for an array.
        feature_names: names of the columns of a table.
    """

    name: str
    array: Any = None
    batches: Callable[[], Iterator[Any]] | None = None
    feature_names: list[str] | None = None


def open_data(text: str) -> Data:
    """`file.npy`, `file.npz:key`, `folder.zarr`, `file.parquet` or `package.module:iterator`."""
    path, colon, key = text.partition(":")
    suffix = pathlib.Path(path).suffix
    name = pathlib.Path(path).name + colon + key
    if suffix == ".npy":
        return Data(name, read_numpy(path, mmap_mode="r"))
    if suffix == ".npz":
        return Data(name, _npz(path, key))
    if suffix == ".zarr":
        return Data(name, _zarr(path, key))
    if suffix == ".parquet":
        return _parquet(path)
    if not colon:
        raise ValueError(
            f"--data must be file.npy, file.npz:key, folder.zarr, file.parquet or "
            f"package.module:iterator, but is {text!r}."
        )
    factory = _names.load(text, "--data")
    if hasattr(factory, "shape"):
        return Data(text, factory)
    if not callable(factory):
        raise ValueError(
            f"--data {text} must be an array or a function that returns an array or an iterator of "
            f"batches, but is a {type(factory).__name__}."
        )
    made = _names.call(factory, text, "--data")
    if hasattr(made, "shape"):
        return Data(text, made)
    unused = [made]  # the iterator that is made already is the first

    def batches() -> Iterator[Any]:
        return iter(unused.pop() if unused else factory())

    if not hasattr(made, "__iter__"):
        raise ValueError(
            f"--data {text} must return an array or an iterator of batches, but returned a "
            f"{type(made).__name__}."
        )
    return Data(text, batches=batches)


def read_numpy(path: str, what: str = "--data", **options: Any) -> Any:
    """A .npy or .npz file, named by the option `what`."""
    _exists(path, what)
    try:
        return np.load(path, **options)
    except (ValueError, EOFError) as error:
        # What numpy then advises would run code of the file.
        why = "it holds objects, or is no such file" if "pickle" in str(error) else error
        raise ValueError(f"{what}: {path} cannot be read as numpy: {why}") from None


def _exists(path: str, what: str = "--data") -> None:
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(f"{what}: there is no file {path}.")


def _npz(path: str, key: str) -> Any:
    with read_numpy(path) as file:
        if not key and len(file.files) == 1:
            key = file.files[0]
        if key not in file.files:
            raise ValueError(
                f"{path} holds {', '.join(file.files)}: name one, {path}:{file.files[0]}."
            )
        return file[key]


def _zarr(path: str, key: str) -> Any:
    """A zarr array of any version, or an array of one of our stores."""
    _exists(path)
    folder = pathlib.Path(path)
    if (folder / "zarr.json").is_file() and not (folder / "c").exists():
        try:
            arrays = store.open(folder).arrays
        except ValueError:
            arrays = {}
        if arrays:
            if (key or "values") not in arrays:
                raise ValueError(f"{path} holds {', '.join(arrays)}: name one, {path}:values.")
            return arrays[key or "values"]
    import tensorstore

    place = str((folder / key).resolve()) + "/"
    for driver in ("zarr3", "zarr"):
        try:
            return tensorstore.open(
                {"driver": driver, "kvstore": {"driver": "file", "path": place}}, read=True
            ).result()
        except ValueError as error:
            problem = error
    raise ValueError(f"{path} cannot be read as a zarr array: {problem}")


def _parquet(path: str) -> Data:
    _exists(path)
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError("reading .parquet needs pyarrow: pip install 'jaxplain[parquet]'")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(path)
    columns = []
    for name in table.column_names:
        column = table[name].to_numpy()
        if column.dtype.kind not in "fiub":
            raise ValueError(
                f"the column {name!r} of {path} is not numeric, but {column.dtype}: leave it out "
                "or encode it beforehand."
            )
        columns.append(column.astype(np.float32))
    return Data(pathlib.Path(path).name, np.stack(columns, axis=1), None, list(table.column_names))
