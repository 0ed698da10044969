"""A small harness for honest timings.

Lowering, compilation and steady time are measured apart. Programs that are compared run in one
process, interleaved round by round in changing order (A B C, then A C B), so that a drift of the
machine meets all of them. A statement about speed is a ratio of medians, and beside it stands the
A/A spread: the same program entered under two names, whose ratio would be 1 on a perfect machine.
CPU seconds of the process stand beside wall seconds: on a shared machine, with pinned threads, they
are the steadier of the two; on an accelerator only wall seconds say anything.

jax is imported inside the functions, so that `pin` can be called before it.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SINGLE_THREAD_XLA = "--xla_cpu_multi_thread_eigen=false"


class Compiled(NamedTuple):
    """A compiled program with what it cost to make it."""

    call: Callable[..., Any]
    lower_seconds: float
    compile_seconds: float


class Samples(NamedTuple):
    """Seconds of one program, one entry a round."""

    wall: list[float]
    cpu: list[float]


def pin(core: int | None = None) -> None:
    """Holds this process to one core and one thread per pool; call it before jax is imported.

    Args:
        core: the core to stay on, by default the last one the process may use. Where the system
            cannot bind a process (macOS), only the pools are limited.

    Raises:
        RuntimeError: jax is already imported, so its pools may exist already.
    """
    if "jax" in sys.modules:
        raise RuntimeError("pin() came after jax was imported: call it first, then import jax")
    os.environ.update(SINGLE_THREAD)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {SINGLE_THREAD_XLA}".strip()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})


def compile_program(function: Callable[..., Any], *arguments: Any) -> Compiled:
    """Lowers and compiles `function` for `arguments`, timing the two apart (wall seconds)."""
    import jax

    start = time.perf_counter()
    lowered = jax.jit(function).lower(*arguments)
    middle = time.perf_counter()
    call = lowered.compile()
    return Compiled(call, middle - start, time.perf_counter() - middle)


def _block(tree: Any) -> Any:
    import jax

    return jax.block_until_ready(tree)


def interleave(
    programs: Mapping[str, Callable[[], Any]],
    *,
    rounds: int,
    warmup: int = 1,
    wall: Callable[[], float] = time.perf_counter,
    cpu: Callable[[], float] = time.process_time,
    block: Callable[[Any], Any] = _block,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Samples]:
    """Times programs round by round, in alternating order, each awaited whole.

    Args:
        programs: functions without arguments, by name.
        rounds: how many times each is timed.
        warmup: how many untimed rounds come first.
        wall: the wall clock, in seconds.
        cpu: the clock of the process over all its threads, in seconds.
        block: waits until each array of a tree is computed.
        progress: called with the name of each program before it runs.

    Returns:
        The samples of each program, in the order of the rounds.

    Raises:
        ValueError: there is no program, `rounds` is below 1 or `warmup` below 0.
    """
    if not programs or rounds < 1 or warmup < 0:
        raise ValueError(
            f"need a program, rounds >= 1 and warmup >= 0, but got {len(programs)} programs, "
            f"rounds={rounds}, warmup={warmup}"
        )
    samples = {name: Samples([], []) for name in programs}
    names = list(programs)
    for index in range(-warmup, rounds):
        # Each round begins one further, and every other runs backwards: what a program finds in
        # the caches is left by another one each time.
        shift = index % len(names)
        order = names[shift:] + names[:shift]
        for name in order if index % 2 == 0 else reversed(order):
            if progress is not None:
                progress(name)
            wall_start, cpu_start = wall(), cpu()
            block(programs[name]())
            wall_stop, cpu_stop = wall(), cpu()
            if index >= 0:
                samples[name].wall.append(wall_stop - wall_start)
                samples[name].cpu.append(cpu_stop - cpu_start)
    return samples


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles (linear interpolation), smallest and largest of the values."""
    if len(values) == 1:
        low = middle = high = values[0]
    else:
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": middle,
        "quartile_low": low,
        "quartile_high": high,
        "least": min(values),
        "largest": max(values),
    }


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """How `above` compares with `below`, sample by sample of the same rounds.

    Args:
        above: seconds of one program.
        below: seconds of the other, same rounds.

    Returns:
        `of_medians`, the figure to quote, and `by_round`, the spread of the ratios within rounds.

    Raises:
        ValueError: the two do not have the same number of rounds.
    """
    by_round = [a / b for a, b in zip(above, below, strict=True)]
    return {
        "of_medians": statistics.median(above) / statistics.median(below),
        "by_round": spread(by_round),
    }


def _git_commit() -> str:
    folder = pathlib.Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        edited = git("status", "--porcelain", "--", ":/", ":(top,exclude)bench/results")
        return git("rev-parse", "HEAD") + ("-dirty" if edited else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _cpu_model() -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def clock() -> str:
    """Which seconds of `Samples` ratios are of: "cpu", or on an accelerator "wall"."""
    import jax

    return "cpu" if jax.devices()[0].platform == "cpu" else "wall"


def environment() -> dict[str, Any]:
    """What a reader must know to repeat a measurement: versions, machine, commit, threads."""
    import jax

    device = jax.devices()[0]
    may_use = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(0)
    return {
        "versions": {
            name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")
        },
        "python": platform.python_version(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "cpu_model": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "commit": _git_commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "threads": {
            "cores_allowed": sorted(may_use),
            **{name: os.environ.get(name) for name in (*SINGLE_THREAD, "XLA_FLAGS")},
        },
    }


def record(samples: Mapping[str, Samples]) -> dict[str, Any]:
    """The raw seconds of one set of rounds with their medians and quartiles, ready for JSON."""
    return {
        name: {
            "wall_seconds": list(taken.wall),
            "cpu_seconds": list(taken.cpu),
            "wall": spread(taken.wall),
            "cpu": spread(taken.cpu),
        }
        for name, taken in samples.items()
    }


def write(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Writes a JSON file in one step, so that a run that is cut off leaves no half file."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    partial.replace(path)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what `write` wrote."""
    return json.loads(pathlib.Path(path).read_text())
