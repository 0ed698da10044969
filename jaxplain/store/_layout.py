"""The arrays of a store: one zarr 3 array for each leaf of a result, one chunk for each batch."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorstore

from jaxplain.store import _manifest

FORMAT_VERSION = 1
"""The version of the layout that this library writes and reads."""


class Store(NamedTuple):
    """A store on disk, with its arrays lazy.

    Attributes:
        path: the folder.
        manifest: what was computed, with what, from what: see docs/architecture.md.
        arrays: by name, such as "values" or, for a tree, "values/image": tensorstore arrays, with
            `shape` and `dtype`, which read what is asked for: `np.asarray(arrays["values"][3:5])`.
    """

    path: pathlib.Path
    manifest: dict[str, Any]
    arrays: dict[str, Any]


def open(path: str | os.PathLike[str]) -> Store:
    """Opens a store and checks it. Nothing is read but its metadata.

    Args:
        path: the folder of the store.

    Returns:
        A `Store`.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a store, of an unknown format version, or lacks an array.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, pathlib, tempfile
        >>> import jaxplain
        >>> square = jaxplain.saliency(lambda x: jnp.sum(x**2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "out.zarr"
        ...     summary = jaxplain.run.map(
        ...         square, np.eye(3, dtype=np.float32), path, progress=False
        ...     )
        ...     store = jaxplain.store.open(path)
        ...     np.asarray(store.arrays["values"][1:2]).tolist(), store.manifest["examples"]
        ([[0.0, 2.0, 0.0]], 3)

    References:
        Zarr specification, version 3 (2023); tensorstore's driver `zarr3`.
    """
    path = pathlib.Path(path)
    manifest = _read(path)
    arrays = {}
    for name in manifest["fields"]:
        if not (path / name / "zarr.json").is_file():
            raise ValueError(f"the store {path} lacks the array {name!r} that its manifest names.")
        arrays[name] = tensorstore.open(_location(path, name), open=True, read=True).result()
    return Store(path, manifest, arrays)


def create(
    path: str | os.PathLike[str], manifest: Mapping[str, Any], types: Any, *, examples: int
) -> Store:
    """Makes a new store, its arrays there and empty.

    Args:
        path: the folder, which must not exist or be empty.
        manifest: what is to be recorded; `batch_size` gives the chunks.
        types: a tree of `jax.ShapeDtypeStruct`, the result of one example.
        examples: how many there will be. Where it is not known yet, 0; `write` makes room.

    Returns:
        The `Store`, open for writing.

    Raises:
        FileExistsError: the folder exists and is not empty.
        OSError: the folder cannot be made or written.
        ValueError: `types` has no leaves, or a leaf of a dtype that cannot be stored.

    Example:
        >>> import jax, jax.numpy as jnp, pathlib, tempfile
        >>> types = {"values": jax.ShapeDtypeStruct((3,), jnp.float32)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "out.zarr"
        ...     create(path, {"batch_size": 4}, types, examples=10).arrays["values"].shape
        (10, 3)

    References:
        Zarr specification, version 3 (2023); tensorstore's driver `zarr3`.
    """
    path = pathlib.Path(path)
    if exists(path):
        raise FileExistsError(
            f"{path} exists: name another folder, remove it, or go on with it (resume=True)."
        )
    full = {"format_version": FORMAT_VERSION, **manifest, "fields": _fields(types)}
    path.mkdir(parents=True, exist_ok=True)
    # The manifest first: whatever is missing after a kill, `reopen` makes from it.
    _manifest.update_manifest(path, full)
    return _open_arrays(path, _manifest.as_json(full), types, examples)


def reopen(
    path: str | os.PathLike[str], manifest: Mapping[str, Any], types: Any, keys: Sequence[str]
) -> Store:
    """Opens a store to go on writing, if it is of the same run.

    Args:
        path: the folder of the store.
        manifest: that of the run at hand.
        types: a tree of `jax.ShapeDtypeStruct`, the result of one example.
        keys: the entries that must agree, "a" or "a.b"; `fields` is compared with `types`.

    Returns:
        The `Store`, open for writing, with the manifest that is on disk.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not a store, or of another run: the message lists what differs.

    Example:
        >>> import jax, jax.numpy as jnp, pathlib, tempfile
        >>> types = jax.ShapeDtypeStruct((), jnp.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = create(folder, {"batch_size": 2}, types, examples=3)
        ...     reopen(folder, {"batch_size": 4}, types, ["batch_size"])
        Traceback (most recent call last):
        ValueError: ... is the store of another run, which cannot be gone on with:
        - batch_size: 2 in the store, 4 now

    References:
        docs/architecture.md, "Stores and runs".
    """
    path = pathlib.Path(path)
    found = _read(path)
    wanted = {**manifest, "fields": _fields(types)}
    differ = _manifest.differences(found, wanted, keys)
    if differ:
        lines = "\n".join(f"- {line}" for line in differ)
        raise ValueError(
            f"{path} is the store of another run, which cannot be gone on with:\n{lines}"
        )
    return _open_arrays(path, found, types, found.get("examples") or 0)


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is anything at `path` that `create` would not write into.

    Args:
        path: a folder.

    Returns:
        False where nothing is there, or an empty folder.

    Raises:
        OSError: the folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exists(folder)
        False

    References:
        docs/architecture.md, "Stores and runs".
    """
    path = pathlib.Path(path)
    return path.exists() and (not path.is_dir() or _holds_something(path))


def _holds_something(path: pathlib.Path) -> bool:
    """Anything but the manifest that a kill kept from being written."""
    return any(entry.name != _manifest.GROUP_FILE + ".partial" for entry in path.iterdir())


def _fields(types: Any) -> dict[str, Any]:
    named = names(types)
    if not named:
        raise ValueError("there is nothing to store: the result has no arrays.")
    return {
        name: {"shape": list(leaf.shape), "dtype": np.dtype(leaf.dtype).name}
        for name, leaf in named.items()
    }


def names(tree: Any) -> dict[str, Any]:
    """The leaves of a result by the names of their arrays.

        the fields, keys and indices on the way to a leaf, joined by slashes

    Args:
        tree: any tree.

    Returns:
        From names to leaves, in the order of the tree. A tree that is one leaf is called "values".

    Raises:
        TypeError: never; any tree has names.

    Example:
        >>> names({"values": {"image": 1, "text": 2}, "output": 3})
        {'output': 3, 'values/image': 1, 'values/text': 2}

    References:
        `jax.tree_util.keystr`.
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    keystr = jax.tree_util.keystr
    return {keystr(path, simple=True, separator="/") or "values": leaf for path, leaf in leaves}


def write(store: Store, batch: int, values: Any) -> list[Any]:
    """Begins to write one batch.

    Args:
        store: open for writing.
        batch: its number; the batch lies at `batch * batch_size`.
        values: a tree of host arrays with a leading axis of at most `batch_size`.

    Returns:
        One tensorstore future for each array. When all are done the batch is on disk.

    Raises:
        ValueError: the tree or a shape is not the store's.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, pathlib, tempfile
        >>> types = jax.ShapeDtypeStruct((), jnp.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = create(pathlib.Path(folder) / "out", {"batch_size": 2}, types, examples=3)
        ...     for future in write(store, 1, np.float32([7.0])):
        ...         future.result()
        ...     finished_batches(store), float(store.arrays["values"][2].read().result())
        ({1}, 7.0)

    References:
        tensorstore's asynchronous writes; docs/architecture.md, "Stores and runs".
    """
    named = names(values)
    if named.keys() != store.arrays.keys():
        raise ValueError(f"the store has {sorted(store.arrays)}, but came {sorted(named)}.")
    start = batch * int(store.manifest["batch_size"])
    futures = []
    for name, value in named.items():
        array = store.arrays[name]
        stop = start + len(value)
        if stop > array.shape[0]:
            array = array.resize(exclusive_max=(stop, *array.shape[1:]), expand_only=True).result()
            store.arrays[name] = array
        futures.append(array[start:stop].write(value))
    return futures


def finished_batches(store: Store) -> set[int]:
    """The numbers of the batches that are on disk in every array.

    Args:
        store: a `Store`.

    Returns:
        A set of numbers from 0.

    Raises:
        OSError: the folder cannot be read.

    Example:
        >>> import jax, jax.numpy as jnp, pathlib, tempfile
        >>> types = jax.ShapeDtypeStruct((), jnp.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     finished_batches(create(folder, {"batch_size": 2}, types, examples=3))
        set()

    References:
        Zarr specification, version 3 (2023): a chunk is one file, written in one step.
    """

    def of(array: Any) -> set[int]:
        keys = array.kvstore.list().result()
        chunks = [key.split(b"/") for key in keys if key.startswith(b"c/")]
        return {int(parts[1]) for parts in chunks}

    return set.intersection(*(of(array) for array in store.arrays.values()))


def _read(path: pathlib.Path) -> dict[str, Any]:
    """The manifest of a store, checked."""
    if not path.exists():
        raise FileNotFoundError(f"there is no store at {path}.")
    if not (path / _manifest.GROUP_FILE).is_file():
        raise ValueError(f"{path} is not a jaxplain store: it has no {_manifest.GROUP_FILE}.")
    try:
        manifest = _manifest.read_manifest(path)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"the manifest of {path} cannot be read: {error}.") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} is a zarr group, but not a jaxplain store: it has no manifest.")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        writer = manifest.get("versions", {}).get("jaxplain", "unknown")
        raise ValueError(
            f"the store {path} has format version {version!r}, and this jaxplain reads version "
            f"{FORMAT_VERSION} only. It was written by jaxplain {writer}."
        )
    return manifest


def _open_arrays(path: pathlib.Path, manifest: dict[str, Any], types: Any, examples: int) -> Store:
    """The arrays, open for writing; those that are not there yet are made."""
    batch = int(manifest["batch_size"])
    arrays = {
        name: _open_or_create(path, name, leaf, examples, batch)
        for name, leaf in names(types).items()
    }
    return Store(path, manifest, arrays)


def _location(path: pathlib.Path, name: str) -> dict[str, Any]:
    folder = str((path / name).resolve()) + "/"
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": folder},
        # A chunk of zeros is a batch that is done, and must be there to be seen.
        "store_data_equal_to_fill_value": True,
    }


def _open_or_create(path: pathlib.Path, name: str, leaf: Any, examples: int, batch: int) -> Any:
    dtype = np.dtype(leaf.dtype)
    if (path / name / "zarr.json").is_file():
        return tensorstore.open(_location(path, name), open=True, read=True, write=True).result()
    spec = {
        **_location(path, name),
        "metadata": {
            "shape": [examples, *leaf.shape],
            "data_type": dtype.name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [batch, *(max(1, n) for n in leaf.shape)]},
            },
            "codecs": [
                {"name": "bytes", "configuration": {"endian": "little"}},
                # Fast enough to keep up with a device, and shuffled bytes of floats do shrink.
                {
                    "name": "blosc",
                    "configuration": {
                        "cname": "lz4",
                        "clevel": 5,
                        "shuffle": "shuffle",
                        "typesize": dtype.itemsize,
                    },
                },
            ],
        },
    }
    try:
        return tensorstore.open(spec, create=True, read=True, write=True).result()
    except ValueError as error:
        raise ValueError(f"{name!r} of dtype {dtype.name} cannot be stored: {error}") from None
