"""What a run would do: shapes, bytes, batches, and the memory of its program."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxplain import store
from jaxplain.evaluate import Rounds
from jaxplain.run._program import prepare


class Plan(NamedTuple):
    """What a run would do.

    Attributes:
        examples: how many there are; None where only the end of an iterator will tell.
        batch_size: examples at once, over all devices.
        batches: how many batches; None as for `examples`.
        devices: how many.
        fields: by the names of the store's arrays, the type of one example's result.
        bytes_on_disk: of all results before compression; None as for `examples`.
        bytes_on_device: the most that the program holds on one device: arguments, results and what
            lies in between. None where the backend does not tell.
        compile_seconds: tracing, lowering and compiling.
    """

    examples: int | None
    batch_size: int
    batches: int | None
    devices: int
    fields: dict[str, jax.ShapeDtypeStruct]
    bytes_on_disk: int | None
    bytes_on_device: int | None
    compile_seconds: float


def plan(
    explain: Callable[..., Any] | Rounds,
    source: Any,
    *,
    shared: tuple[Any, ...] = (),
    key: jax.Array | None = None,
    mesh: jax.sharding.Mesh | None = None,
    batch_size: int | None = None,
) -> Plan:
    """Compiles the program of a run, and says what the run would do, without doing it.

        bytes_on_disk = examples * sum of the bytes of one result

    Args:
        explain: as for `map`.
        source: as for `map`. Of an iterator the first batch is taken.
        shared: as for `map`.
        key: as for `map`.
        mesh: as for `map`.
        batch_size: as for `map`.

    Returns:
        A `Plan`.

    Raises:
        TypeError, ValueError: as for `map`.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> import jaxplain
        >>> explain = jaxplain.saliency(lambda x: jnp.sum(x**2))
        >>> plan = jaxplain.run.plan(explain, np.ones((100, 3), np.float32), batch_size=16)
        >>> plan.batches, plan.bytes_on_disk  # 3 values, 1 output and 1 flag for each
        (7, 1700)

    References:
        `jax.stages.Compiled.memory_analysis`.
    """
    program = prepare(explain, source, shared=shared, key=key, mesh=mesh, batch_size=batch_size)
    fields = store.names(program.types)
    bytes_each = sum(math.prod(t.shape) * np.dtype(t.dtype).itemsize for t in fields.values())
    examples = program.source.examples
    memory = program.compiled.memory_analysis()
    return Plan(
        examples,
        program.batch_size,
        None if examples is None else -(-examples // program.batch_size),
        program.mesh.size,
        fields,
        None if examples is None else examples * bytes_each,
        None
        if memory is None
        else memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
        program.compile_seconds,
    )
