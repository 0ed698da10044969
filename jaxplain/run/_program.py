"""The one compiled program of a run, and what decides its bits."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import checks
from jaxplain.evaluate import Rounds
from jaxplain.run import _source
from jaxplain.run._in_rounds import BatchInRounds

_EXAMPLES_PER_DEVICE = 32


class Program(NamedTuple):
    """A function of one example, compiled for batches.

    Attributes:
        source: where the examples come from.
        compiled: the executable.
        run: from a `Batch` to its results on the devices, as many as the batch size.
        types: the result of one example, a tree of `jax.ShapeDtypeStruct`.
        batch_size: examples at once, over all devices.
        mesh: the devices.
        shared: what all examples share, placed.
        digest: SHA-256 of the program's text: method, options, model and shapes in one.
        compile_seconds: tracing, lowering and compiling.
    """

    source: _source.Source
    compiled: Any
    run: Callable[[_source.Batch], Any]
    types: Any
    batch_size: int
    mesh: jax.sharding.Mesh
    shared: tuple[Any, ...]
    digest: str
    compile_seconds: float


def prepare(
    explain: Callable[..., Any] | Rounds,
    source: Any,
    *,
    shared: tuple[Any, ...],
    key: jax.Array | None,
    mesh: jax.sharding.Mesh | None,
    batch_size: int | None,
) -> Program:
    """Checks the arguments of a run and compiles its program. See `jaxplain.run.map`."""
    if not isinstance(explain, Rounds):
        checks.function(explain, "explain")
    if key is not None:
        checks.key(key)
    shared = _shared(shared)
    mesh = _mesh(mesh)
    examples = _source.of(source)
    size = _batch_size(batch_size, mesh.size, examples.examples)

    started = time.perf_counter()
    by_example = jax.NamedSharding(mesh, jax.P(mesh.axis_names))
    replicated = jax.NamedSharding(mesh, jax.P())
    shared = jax.tree.map(lambda leaf: _place_shared(leaf, mesh, replicated), shared)
    key = key if key is None else jax.device_put(key, replicated)
    of_batch = lambda row: jax.ShapeDtypeStruct((size, *row.shape), row.dtype, sharding=by_example)
    index, rows = jax.tree.map(of_batch, (jax.ShapeDtypeStruct((), jnp.uint32), examples.types))
    arguments = key, index, rows, shared
    lowered: Any
    compiled: Any
    if isinstance(explain, Rounds):
        lowered = compiled = BatchInRounds(
            explain, _over_examples, arguments, size, mesh.size, by_example
        )
    else:
        lowered = jax.jit(_over_examples(explain), out_shardings=by_example).lower(*arguments)
        compiled = lowered.compile()
    compile_seconds = time.perf_counter() - started

    def run(batch: _source.Batch) -> Any:
        index = np.arange(size, dtype=np.uint32) + np.uint32(batch.number * size)
        placed = jax.device_put((index, batch.arguments), by_example)
        return compiled(key, *placed, shared)

    types = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), lowered.out_info
    )
    digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
    return Program(examples, compiled, run, types, size, mesh, shared, digest, compile_seconds)


def _over_examples(explain: Callable[..., Any]) -> Callable[..., Any]:
    """The batch's function: of a key or None, global indices, the examples, what they share."""

    def over(key: Any, index: jax.Array, arguments: Any, shared: Any) -> Any:
        axes = (0,) * len(arguments) + (None,) * len(shared)
        if key is None:
            return jax.vmap(explain, axes)(*arguments, *shared)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
        return jax.vmap(explain, (0, *axes))(keys, *arguments, *shared)

    return over


def _shared(shared: Any) -> tuple[Any, ...]:
    if not isinstance(shared, tuple):
        raise TypeError(
            "shared must be a tuple of what is passed after the example, e.g. `shared=(params,)`, "
            f"but is a {type(shared).__name__}."
        )
    checks.arrays(shared, "shared")
    return jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, jax.Array) else np.asarray(leaf), shared
    )


def _mesh(mesh: jax.sharding.Mesh | None) -> jax.sharding.Mesh:
    if mesh is None:
        devices = jax.local_devices()
        auto = (jax.sharding.AxisType.Auto,)
        return jax.make_mesh((len(devices),), ("examples",), auto, devices=devices)
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError("mesh must hold devices of this process only.")
    return mesh


def _batch_size(batch_size: int | None, devices: int, examples: int | None) -> int:
    if batch_size is None:
        whole = -(-(examples or _EXAMPLES_PER_DEVICE * devices) // devices) * devices
        return min(_EXAMPLES_PER_DEVICE * devices, whole)
    batch_size = checks.integer(batch_size, "batch_size")
    if batch_size % devices:
        above = -(-batch_size // devices) * devices
        raise ValueError(
            f"batch_size must be a multiple of the {devices} devices that the examples are sharded "
            f"over, but is {batch_size}. Near it: {above}."
        )
    return batch_size


def _place_shared(leaf: Any, mesh: jax.sharding.Mesh, replicated: jax.NamedSharding) -> jax.Array:
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, jax.NamedSharding) and sharding.mesh == mesh:
        return leaf
    return jax.device_put(leaf, replicated)
