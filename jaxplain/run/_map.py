"""A kernel over a dataset: `results[i] = explain(example_i, *shared)` for each i, into a store.

batches of one compiled shape, sharded over the devices
key_i = fold_in(key, i), with i the global index, so that no batch or device decides a result
a batch is done when its chunk is in every array; a run that is resumed computes the others
"""

import collections
import datetime
import errno
import importlib.metadata
import os
import pathlib
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain import store
from jaxplain.evaluate import Rounds
from jaxplain.run._program import prepare
from jaxplain.run._progress import Progress

# What must be equal for two runs to give the same bits; the cause before its consequence.
_MUST_AGREE = (
    "about",
    "fingerprints",
    "key",
    "examples",
    "batch_size",
    "devices",
    "device_kind",
    "versions.jax",
    "versions.jaxlib",
    "fields",
    "program",
)
# Batches on their way: computed by the device, and written by tensorstore.
_COMPUTED_AHEAD, _WRITTEN_BEHIND = 2, 4


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        path: the folder of the store.
        examples: how many results the store holds.
        computed: how many of them this run computed; the others were there before.
        not_finite: how many results are flagged as not finite; None where results have no flag.
        seconds: of this run, from the first batch to the last byte, without compiling.
        compile_seconds: tracing, lowering and compiling.
    """

    path: pathlib.Path
    examples: int
    computed: int
    not_finite: int | None
    seconds: float
    compile_seconds: float


def map(
    explain: Callable[..., Any] | Rounds,
    source: Any,
    out: str | os.PathLike[str],
    *,
    shared: tuple[Any, ...] = (),
    key: jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int | None = None,
    resume: bool = False,
    about: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Summary:
    """Maps a function of one example over a dataset of any size, into a store on disk.

        result_i = explain(example_i, *shared)    or    explain(fold_in(key, i), example_i, *shared)

    The examples are sharded over the devices, the results are written as they come, and host memory
    holds a few batches, whatever the size of the dataset. A run that was killed goes on with
    `resume=True`: finished batches are not computed again, and the store ends up bit for bit as it
    would have been.

    Args:
        explain: a function of one example, such as a jaxplain kernel; `vmap` and `jit` are applied
            here. It may return any tree of arrays. Or `Rounds`, such as `jaxplain.paths.rounds`
            makes: between rounds the examples that are done leave the batch.
        source: the examples: an array or a tree of arrays with one leading axis (numpy,
            memory-mapped, zarr by tensorstore); a tuple of such for several arguments; or an
            iterator of batches of these, of any sizes.
        out: the folder of the store.
        shared: arguments that all examples share, such as the parameters: passed after the
            example's own. What lies sharded on `mesh` stays so; the rest is copied to each device.
        key: a typed key for random kernels. Example i gets `jax.random.fold_in(key, i)`, so results
            do not depend on batches, devices or resumption.
        mesh: the devices, the examples sharded over all its axes; all local devices unless given.
        batch_size: examples at once, over all devices; a multiple of their number. 32 for each
            device unless given. The last batch is filled up and its copies are dropped.
        resume: go on with the store at `out`, if it is there. It must be of the same run: method,
            parameters, data, key, batch size, devices and versions.
        about: anything to record in the manifest (names, options), as JSON; compared on resumption.
        progress: whether to show a bar on standard error, where that is a terminal.

    Returns:
        A `Summary`; the results are in the store, `jaxplain.store.open(out)`.

    Raises:
        FileExistsError: `out` exists and `resume` is False.
        TypeError: explain is not a function, source is of no known kind, key is not typed.
        ValueError: there are no examples; their numbers differ; the batch size is not a multiple of
            the devices; the store to resume is of another run, and the message says what differs.

    Example:
        >>> import jax, jax.numpy as jnp, numpy as np, pathlib, tempfile
        >>> import jaxplain
        >>> explain = jaxplain.saliency(lambda x, w: jnp.sum(w * x**2))
        >>> x = np.arange(6, dtype=np.float32).reshape(3, 2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     out = pathlib.Path(folder) / "saliency.zarr"
        ...     summary = jaxplain.run.map(explain, x, out, shared=(jnp.ones(2),), progress=False)
        ...     values = np.asarray(jaxplain.store.open(out).arrays["values"])
        >>> summary.examples, values.tolist()
        (3, [[0.0, 2.0], [4.0, 6.0], [8.0, 10.0]])

    References:
        docs/architecture.md, "Stores and runs".
    """
    path = pathlib.Path(out)
    if store.exists(path) and not resume:
        raise FileExistsError(
            f"{path} exists. Go on with it by resume=True, or name another folder."
        )
    program = prepare(explain, source, shared=shared, key=key, mesh=mesh, batch_size=batch_size)
    examples, batch_size = program.source, program.batch_size
    device = program.mesh.devices.flat[0]
    manifest = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "finished": False,
        "about": dict(about or {}),
        "examples": examples.examples,
        "batch_size": batch_size,
        "devices": program.mesh.size,
        "device_kind": device.device_kind,
        "platform": device.platform,
        "versions": _versions(),
        "program": program.digest,
        "fingerprints": {
            "shared": store.fingerprint(program.shared),
            "source": examples.fingerprint(),
        },
        "key": None if key is None else store.fingerprint(key),
        "seconds": {"compile": program.compile_seconds, "run": 0.0},
        "computed_examples": 0,
    }
    if resume and store.exists(path):
        # How many an iterator holds is known at its end only.
        must_agree = [k for k in _MUST_AGREE if k != "examples" or examples.examples is not None]
        results = store.reopen(path, manifest, program.types, must_agree)
    else:
        results = store.create(path, manifest, program.types, examples=examples.examples or 0)
    done = store.finished_batches(results)
    before = _count(done, batch_size, examples.examples)

    computed = 0
    started = time.perf_counter()
    with Progress("explaining", examples.examples, before, shown=progress) as bar:
        on_device: collections.deque[Any] = collections.deque()
        on_disk: collections.deque[Any] = collections.deque()

        def retire() -> None:
            batch, result = on_device.popleft()
            rows = jax.tree.map(lambda leaf: np.asarray(leaf)[: batch.real], result)
            on_disk.append((batch.real, store.write(results, batch.number, rows)))

        def settle() -> None:
            count, futures = on_disk.popleft()
            for future in futures:
                _finish(future, path)
            bar.advance(count)

        for batch in examples.batches(batch_size, done):
            on_device.append((batch, program.run(batch)))
            computed += batch.real
            if len(on_device) > _COMPUTED_AHEAD:
                retire()
            if len(on_disk) > _WRITTEN_BEHIND:
                settle()
        while on_device:
            retire()
        while on_disk:
            settle()
    seconds = time.perf_counter() - started
    count = max(array.shape[0] for array in results.arrays.values())
    if count != examples.examples:
        raise ValueError(
            f"{path} holds {count} examples of an earlier run, but the source has "
            f"{examples.examples}: it is another dataset."
        )
    recorded = results.manifest
    store.update_manifest(
        path,
        {
            **recorded,
            "finished": True,
            "examples": count,
            "seconds": {
                "compile": program.compile_seconds,
                "run": recorded["seconds"]["run"] + seconds,
            },
            "computed_examples": recorded["computed_examples"] + computed,
        },
    )
    return Summary(path, count, computed, _not_finite(results), seconds, program.compile_seconds)


def _finish(written: Any, path: pathlib.Path) -> None:
    """Waits until a chunk is on disk; a full disk is said as what it is."""
    try:
        written.result()
    except ValueError as error:  # of tensorstore, which has no other
        if f"os_error_code='{errno.ENOSPC}'" not in str(error):
            raise
        raise OSError(
            errno.ENOSPC,
            "the disk is full. What is finished stays: make room and go on by resume=True",
            str(path),
        ) from error


def _versions() -> dict[str, str]:
    names = ("jaxplain", "jax", "jaxlib", "flax", "numpy")
    versions = {name: importlib.metadata.version(name) for name in names}
    return {**versions, "python": platform.python_version()}


def _count(batches: set[int], size: int, examples: int | None) -> int:
    """The examples in these batches, of which only the last may be short."""
    stops = ((number + 1) * size for number in batches)
    return sum(size - max(0, stop - (examples or stop)) for stop in stops)


def _not_finite(results: store.Store) -> int | None:
    flags = results.arrays.get("finite")
    if flags is None or results.manifest["fields"]["finite"]["dtype"] != "bool":
        return None
    return int(np.sum(~np.asarray(flags)))
