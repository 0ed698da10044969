"""Integrated Gradients against the floor, for each of the four networks of the bars.

    python -m bench.integrated_gradients [--records 5] [--rounds 6] [--only mlp cnn] [--quick]

The floor of a gradient kernel is the same number of pure forward+backward examples (batch times
steps), in plain jax at the native batch, by the faster of

- `host loop`: one jitted gradient step, called once for each point of the path;
- `loop in jit`: a `lax.scan` over the points, inside one program.

The kernel is `jit(vmap(integrated_gradients(f)))`, with one example per `f`. It is timed twice
under two names (the A/A spread), and once with `rewrite.fast` left out. `loop in jit, pass on` is
the second floor with `rewrite.fast` put in by hand: it is no part of the floor (plain jax has no
such pass) and shows what the kernel adds to a loop that has it.

The ratio is of CPU seconds on one pinned thread where the platform is a CPU, else of wall seconds.
Each record is a full set of interleaved rounds; the figure is the median over the records.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import pathlib
import statistics
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

if __name__ == "__main__":
    # By its path the script has only its own folder to import from; the threads are to be held
    # before jax starts any.
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from bench.harness import pin

    pin()

import jax
import jax.numpy as jnp

import jaxplain
from bench import harness, networks

BAR = 1.15
"""The kernel may cost at most this multiple of the floor, on a CPU."""

FLOOR = ("host loop", "loop in jit")
KERNEL, AGAIN, PASS_OFF, LOOP_FAST = (
    "kernel",
    "kernel again",
    "kernel, pass off",
    "loop in jit, pass on",
)


@contextlib.contextmanager
def pass_off() -> Iterator[None]:
    """Leaves the rules of `rewrite.fast` out of what is traced inside."""
    with mock.patch.dict("jaxplain.rewrite._fast._RULES", clear=True):
        yield


def programs(
    case: networks.Case, *, chunk_size: int, seed: int = 0
) -> tuple[dict[str, Callable[[], Any]], dict[str, dict[str, float]]]:
    """The programs of one network, compiled, and what lowering and compiling took.

    Args:
        case: the network and the amount of work.
        chunk_size: points of the path in flight at once, for each example.
        seed: of the weights and the examples.

    Returns:
        Functions without arguments by name; seconds of lowering and compiling by name.
    """
    apply, params = jaxplain.adapters.nnx(case.make(seed))
    examples, baseline, labels = case.inputs(seed)

    def selected(batch: jax.Array, labels: jax.Array, params: Any) -> jax.Array:
        logits = apply(params, batch)
        return jnp.take_along_axis(logits, labels[:, None], axis=1).sum()

    gradient = jax.grad(selected)
    step = jax.jit(gradient)

    def host_loop() -> jax.Array:
        for _ in range(case.steps):
            result = step(examples, labels, params)
        return result

    def loop(gradient: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def run(examples: jax.Array, labels: jax.Array, params: Any) -> jax.Array:
            # The points differ and the gradients are summed, else XLA would hoist or drop them.
            def body(total: jax.Array, scale: jax.Array) -> tuple[jax.Array, None]:
                return total + gradient(scale * examples, labels, params), None

            scales = (jnp.arange(case.steps, dtype=examples.dtype) + 0.5) / case.steps
            return jax.lax.scan(body, jnp.zeros_like(examples), scales)[0]

        return run

    def kernel() -> Callable[..., Any]:
        explain = jaxplain.integrated_gradients(
            jaxplain.targets.logit(apply), steps=case.steps, chunk_size=chunk_size
        )
        return jax.vmap(explain, in_axes=(0, None, 0, None))

    native = (examples, labels, params)
    explained = (examples, baseline, labels, params)
    compiled = {
        "loop in jit": (harness.compile_program(loop(gradient), *native), native),
        LOOP_FAST: (
            harness.compile_program(loop(jaxplain.rewrite.fast(gradient)), *native),
            native,
        ),
        KERNEL: (harness.compile_program(kernel(), *explained), explained),
    }
    with pass_off():
        compiled[PASS_OFF] = (harness.compile_program(kernel(), *explained), explained)

    calls: dict[str, Callable[[], Any]] = {"host loop": host_loop}
    for name, (program, arguments) in compiled.items():
        calls[name] = functools.partial(program.call, *arguments)
    calls[AGAIN] = calls[KERNEL]
    seconds = {
        name: {"lower": program.lower_seconds, "compile": program.compile_seconds}
        for name, (program, _) in compiled.items()
    }
    return calls, seconds


def summary(records: list[dict[str, Any]], clock: str) -> dict[str, Any]:
    """Ratios to the floor over the records, as (median, least, largest).

    Args:
        records: what `harness.record` gave, one a set of rounds.
        clock: `"cpu"` or `"wall"`.

    Returns:
        The floor's seconds and name, the ratios by program, and the A/A ratio.
    """

    def median_of(record: dict[str, Any], name: str) -> float:
        return record[name][clock]["median"]

    def over_records(values: list[float]) -> tuple[float, float, float]:
        return statistics.median(values), min(values), max(values)

    floors = [min(median_of(record, name) for name in FLOOR) for record in records]
    fastest = [min(FLOOR, key=lambda name: median_of(record, name)) for record in records]
    return {
        "clock": clock,
        "floor_seconds": over_records(floors),
        "floor_is": statistics.mode(fastest),
        "over_floor": {
            name: over_records(
                [median_of(r, name) / floor for r, floor in zip(records, floors, strict=True)]
            )
            for name in (*FLOOR, LOOP_FAST, KERNEL, PASS_OFF)
        },
        "same_program_twice": over_records(
            [median_of(record, AGAIN) / median_of(record, KERNEL) for record in records]
        ),
    }


def show(results: dict[str, dict[str, Any]]) -> None:
    """Prints the table; with rich where that is installed."""
    columns = (
        "network",
        "floor",
        "seconds",
        f"IG/floor ({BAR})",
        "records",
        "pass off/floor",
        "loop+pass/floor",
        "A/A",
        "lower+compile, s",
    )
    rows = []
    for name, result in results.items():
        figures = result["summary"]
        ratios = figures["over_floor"]
        middle, least, largest = ratios[KERNEL]
        _, least_twice, largest_twice = figures["same_program_twice"]
        spent = result["compile_seconds"][KERNEL]
        rows.append(
            (
                name,
                figures["floor_is"],
                f"{figures['floor_seconds'][0]:.3f}",
                f"{middle:.2f} {'PASS' if middle <= BAR else 'over'}",
                f"{least:.2f}-{largest:.2f}",
                f"{ratios[PASS_OFF][0]:.2f}",
                f"{ratios[LOOP_FAST][0]:.2f}",
                f"{least_twice:.2f}-{largest_twice:.2f}",
                f"{spent['lower']:.1f}+{spent['compile']:.1f}",
            )
        )
    try:
        import rich.console
        import rich.table
    except ImportError:
        for row in (columns, *rows):
            print(" | ".join(row))
        return
    table = rich.table.Table(*columns)
    for row in rows:
        table.add_row(*row)
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = 130  # into a file rich would fold the table to 80 columns
    console.print(table)


def measure(
    case: networks.Case,
    *,
    records: int,
    rounds: int,
    chunk_size: int,
    say: Callable[[str], None] = print,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Compiles and measures one network.

    Args:
        case: the network and the amount of work.
        records: how many full sets of interleaved rounds.
        rounds: how many rounds in each.
        chunk_size: points of the path in flight at once, for each example.
        say: called with a line whenever something is done.
        save: called with the result after each record, so that a run cut short leaves those.

    Returns:
        The result, ready for JSON.
    """
    say(f"{case.name}: compiling")
    calls, seconds = programs(case, chunk_size=chunk_size)
    result: dict[str, Any] = {
        "benchmark": "integrated_gradients",
        "case": {
            "name": case.name,
            "example": list(case.example),
            "batch": case.batch,
            "steps": case.steps,
            "chunk_size": chunk_size,
        },
        "rounds": rounds,
        "environment": harness.environment(),
        "compile_seconds": seconds,
        "records": [],
    }
    clock = harness.clock()
    for index in range(records):
        # Warm up once: the programs stay compiled, and the memory allocated, between records.
        samples = harness.interleave(calls, rounds=rounds, warmup=1 if index == 0 else 0)
        result["records"].append(harness.record(samples))
        result["summary"] = summary(result["records"], clock)
        save(result)
        over = summary(result["records"][-1:], clock)["over_floor"]
        say(
            f"{case.name}: record {index + 1} of {records}: "
            + ", ".join(f"{name} {over[name][0]:.2f}" for name in (KERNEL, PASS_OFF))
            + " of the floor"
        )
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints the table, writes one JSON file a network."""
    parser = argparse.ArgumentParser(description="Integrated Gradients against the floor.")
    parser.add_argument("--records", type=int, default=5, help="full sets of rounds")
    parser.add_argument("--rounds", type=int, default=6, help="rounds in each record")
    parser.add_argument("--chunk-size", type=int, default=1, help="points in flight per example")
    parser.add_argument("--only", nargs="+", choices=networks.CASES, default=list(networks.CASES))
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    records, rounds, folder = options.records, options.rounds, options.out
    if options.quick:
        records = rounds = 1
    elif folder is None:
        folder = pathlib.Path(__file__).parent / "results"

    results = {}
    for name in options.only:
        case = networks.CASES[name]
        if options.quick:
            case = case._replace(batch=2, steps=2)

        def save(result: dict[str, Any], name: str = name) -> None:
            if folder is not None:
                kind = result["environment"]["device_kind"].replace(" ", "-")
                harness.write(folder / f"integrated_gradients_{name}_{kind}.json", result)

        results[name] = measure(
            case,
            records=records,
            rounds=rounds,
            chunk_size=options.chunk_size,
            say=lambda line: print(line, flush=True),
            save=save,
        )
    show(results)


if __name__ == "__main__":
    main()
