"""Fingerprints: the same numbers in the same tree give the same text, others another.

SHA-256 over, for each leaf: its path in the tree, its dtype, its shape, its bytes
"""

import hashlib
from typing import Any

import jax
import numpy as np

# Read at once: rows of an array are copied to the host, and hashed, in blocks of this size.
_BLOCK_BYTES = 2**26


def fingerprint(tree: Any, *, rows: int | None = None) -> str:
    """The SHA-256 of a tree of arrays, streamed, so that no second copy of it is made.

        SHA-256 over, for each leaf: its path in the tree, its dtype, its shape, its bytes

    Args:
        tree: arrays of any kind (jax, numpy, memory-mapped, tensorstore): whatever has `shape`,
            `dtype` and is read by slicing. Python numbers too.
        rows: with a number, only so many evenly spaced rows of each leaf are read, the first and
            the last among them: an identity for datasets that are too large to be read for it. All
            of a leaf is read where it has no more rows than that.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: a leaf is not an array.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"w": jnp.arange(3.0)}
        >>> fingerprint(params) == fingerprint({"w": jnp.array([0.0, 1.0, 2.0])})
        True
        >>> fingerprint(params) == fingerprint({"w": jnp.array([0.0, 1.0, 2.5])})
        False

    References:
        SHA-256: FIPS 180-4, 2015.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if isinstance(leaf, int | float | complex):
            leaf = np.asarray(leaf)
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        if shape is None or dtype is None:
            place = jax.tree_util.keystr(path)
            raise TypeError(
                f"the leaf at {place} must be an array, but is a {type(leaf).__name__}."
            )
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        name = getattr(dtype, "name", str(dtype))
        digest.update(f"{jax.tree_util.keystr(path)} {name} {tuple(shape)}\n".encode())
        for block in _blocks(leaf, rows):
            digest.update(np.ascontiguousarray(block).view(np.uint8).reshape(-1).data)
    return digest.hexdigest()


def _blocks(leaf: Any, rows: int | None) -> Any:
    if len(leaf.shape) == 0:
        yield np.asarray(leaf).reshape(1)
        return
    count = leaf.shape[0]
    if rows is not None and count > rows:
        for row in np.unique(np.linspace(0, count - 1, rows).astype(int)):
            yield np.asarray(leaf[int(row) : int(row) + 1])
        return
    row_bytes = max(1, int(np.prod(leaf.shape[1:])) * np.dtype(_plain(leaf.dtype)).itemsize)
    step = max(1, _BLOCK_BYTES // row_bytes)
    for start in range(0, count, step):
        yield np.asarray(leaf[start : min(start + step, count)])


def _plain(dtype: Any) -> Any:
    """The numpy dtype of a numpy, jax or tensorstore dtype."""
    return getattr(dtype, "numpy_dtype", dtype)
