"""Activations on disk as a source for training: the chunks of a store that `run.map` wrote."""

import os

import numpy as np

from jaxplain import store
from jaxplain.sae import _chunks
from jaxplain.sae._chunks import Chunks


def stored(
    path: str | os.PathLike[str],
    leaf: str = "values",
    *,
    mask: str | None = None,
    buffer_bytes: int = 2**28,
) -> Chunks:
    """Opens activations on disk as the source of a training run.

    They are a leaf of a store that `jaxplain.run.map` wrote, of shape (examples, d) or (examples,
    positions, d); another leaf beside it may say which positions count, others hold token ids.

    Args:
        path: the folder of the store, finished.
        leaf: the name of the array in it.
        mask: the name of an array (examples, positions) of booleans or integers; rows where it is 0
            are left out. All rows count unless given.
        buffer_bytes: how many bytes of activations are mixed at a time: as many whole chunks as
            fit, at least one. Twice as much is held, since the next group is read ahead.

    Returns:
        `Chunks`, for `source` of `jaxplain.sae.train`; `jaxplain.sae.evaluate` takes
        `stored(...).in_order()`.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it is not finished, has no such array, or the array has no width.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, optax, pathlib, tempfile
        >>> import jaxplain
        >>> from jaxplain import sae
        >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "activations.zarr"
        ...     h = lambda x: jnp.tanh(x).astype(jnp.bfloat16)
        ...     _ = jaxplain.run.map(h, x, path, batch_size=16, progress=False)
        ...     source = sae.stored(path)
        ...     result = sae.train(
        ...         jax.random.key(0),
        ...         sae.topk(latents=16, k=2),
        ...         source,
        ...         optimizer=optax.adam(1e-3),
        ...         steps=10,
        ...         batch_size=32,
        ...     )
        >>> source.rows.tolist(), int(result.state.step)
        ([16, 16, 16, 16], 10)

    References:
        docs/sae.md.
    """
    opened = store.open(path)
    for name in (leaf, *([mask] if mask else [])):
        if name not in opened.arrays:
            raise ValueError(f"{path} has no array {name!r}, only {', '.join(opened.arrays)}.")
    array = opened.arrays[leaf]
    if array.ndim < 2:
        raise ValueError(
            f"{leaf} of {path} has the shape {array.shape}, but activations are (examples, ..., d)"
        )
    chunk = int(opened.manifest["batch_size"])
    chunks = -(-array.shape[0] // chunk)
    missing = sorted(set(range(chunks)) - store.finished_batches(opened))
    if missing or not chunks:
        raise ValueError(
            f"{path} is not finished: {len(missing)} of {chunks} batches are missing. Go on with "
            "the run that writes it, resume=True"
        )
    kept = None
    if mask is not None:
        whole = opened.arrays[mask].read().result()
        kept = _chunks.checked_mask(whole, array.shape[:-1], mask, leaf)
    return _chunks.of_parts(
        array.shape,
        array.dtype.numpy_dtype.itemsize,
        chunk,
        kept,
        buffer_bytes,
        lambda part: array[part].read(),
        lambda read: np.asarray(read.result()),
    )
