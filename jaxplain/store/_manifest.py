"""The manifest of a store: what was computed, with what, from what.

It is one JSON object, the attribute `jaxplain` of the zarr group, so that a zarr library shows it.
"""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

GROUP_FILE = "zarr.json"


def differences(
    found: Mapping[str, Any], wanted: Mapping[str, Any], keys: Sequence[str]
) -> list[str]:
    """What differs between two manifests, in lines such as "batch_size: 64 in the store, 32 now".

    Keys are entries, or entries of entries as "a.b". Objects are compared entry by entry.
    """
    lines = []
    for key in keys:
        lines += _compare(key, _entry(found, key), as_json(_entry(wanted, key)))
    return lines


def _entry(manifest: Mapping[str, Any], key: str) -> Any:
    value: Any = manifest
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _compare(name: str, found: Any, wanted: Any) -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        lines = []
        for key in sorted({*found, *wanted}):
            lines += _compare(f"{name}.{key}", found.get(key), wanted.get(key))
        return lines
    if found == wanted:
        return []
    return [f"{name}: {_short(found)} in the store, {_short(wanted)} now"]


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else text[:16] + "..."


def as_json(value: Any) -> Any:
    """The value as it comes back from JSON; what JSON does not know becomes its text."""
    return json.loads(json.dumps(value, default=str))


def read_manifest(path: pathlib.Path) -> Any:
    """The manifest of the group at `path`, or None where the group has none."""
    group = json.loads((path / GROUP_FILE).read_text())
    return group.get("attributes", {}).get("jaxplain")


def update_manifest(path: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest in one step: a reader sees the old one or the new one, whole.

    Args:
        path: the folder of the store.
        manifest: what is written, anything that JSON can hold; other values as their text.

    Returns:
        Nothing.

    Raises:
        OSError: the folder cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     update_manifest(pathlib.Path(folder), {"format_version": 1})
        ...     "jaxplain" in (pathlib.Path(folder) / "zarr.json").read_text()
        True

    References:
        Zarr specification, version 3 (2023), "Group metadata".
    """
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"jaxplain": as_json(dict(manifest))},
    }
    partial = path / (GROUP_FILE + ".partial")
    with partial.open("w") as file:
        json.dump(group, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path / GROUP_FILE)
