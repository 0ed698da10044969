"""Integrated Gradients against Captum's, on identical weights, each as its users run it.

    python -m bench.against_captum [--records 3] [--rounds 5] [--only mlp] [--out FOLDER]

Two processes, each pinned to one thread of the same core, take turns: one runs Captum on plain
PyTorch modules (`torch_networks.py`), the other `jit(vmap(integrated_gradients(f)))` on the Flax
models. The figure is CPU seconds of Captum over CPU seconds of jaxplain, of the medians over the
rounds; each record is a full set of rounds. Captum is run as it comes (all points in one batch) and
with the best of a few `internal_batch_size`, chosen beforehand in a round of their own. jaxplain is
run as it comes and without hoisting. Compilation is not in it: it is printed apart.

Needs the environment of `make test-peers` (PyTorch, Captum).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import pathlib
import statistics
import subprocess
import sys
import time
from typing import Any

BARS = {"default": 2.0, "best": 1.5}
"""What jaxplain must reach in geometric mean over the networks."""
LEAST = 0.95
BATCHES = (1, 2, 4, 8, 16)
"""Multiples of the batch that are tried as `internal_batch_size`."""


# ------------------------------------------------------------------------------- the two workers


def torch_programs(name: str, quick: bool) -> dict[str, Any]:
    """Captum's programs by name, each without arguments."""
    import captum.attr
    import torch

    from bench import networks, torch_networks

    torch.set_num_threads(1)
    case = _case(name, quick)
    model = torch_networks.of(name, networks.CASES[name].make(0))
    examples, baseline, labels = case.inputs(0)
    x = torch_networks.to_torch(examples)
    start = torch_networks.to_torch(baseline[None])
    labels = torch.tensor(labels.tolist())
    explain = captum.attr.IntegratedGradients(model)

    def program(size: int | None) -> Any:
        return lambda: explain.attribute(
            x,
            start,
            target=labels,
            n_steps=case.steps,
            method="gausslegendre",
            internal_batch_size=size,
        )

    programs = {"default": program(None)}
    programs |= {f"{k} x batch": program(k * case.batch) for k in BATCHES if k <= case.steps}
    return {
        "programs": programs,
        "values": lambda: torch_networks.from_torch(programs["default"]()),
    }


def jax_programs(name: str, quick: bool) -> dict[str, Any]:
    """Ours."""
    import functools

    import jax
    import numpy as np

    import jaxplain
    from bench import harness

    case = _case(name, quick)
    apply, params = jaxplain.adapters.nnx(case.make(0))
    examples, baseline, labels = case.inputs(0)
    arguments = examples, baseline, labels, params
    programs, compiled = {}, {}
    for label, hoist in (("jaxplain", True), ("jaxplain, not hoisted", False)):
        explain = jaxplain.integrated_gradients(
            jaxplain.targets.logit(apply), steps=case.steps, chunk_size=1, hoist=hoist
        )
        made = harness.compile_program(jax.vmap(explain, (0, None, 0, None)), *arguments)
        compiled[label] = made.lower_seconds + made.compile_seconds
        programs[label] = functools.partial(
            lambda call: jax.block_until_ready(call(*arguments)), made.call
        )
    return {
        "programs": programs,
        "values": lambda: np.asarray(programs["jaxplain"]().values),
        "compile_seconds": compiled,
    }


def _case(name: str, quick: bool) -> Any:
    from bench import networks

    case = networks.CASES[name]
    return case._replace(batch=2, steps=4) if quick else case


def work(kind: str, name: str, quick: bool) -> None:
    """Reads a program's name from each line of standard input; answers with its seconds."""
    from bench import harness

    harness.pin()
    made = {"torch": torch_programs, "jax": jax_programs}[kind](name, quick)
    values = made["values"]()
    print(
        json.dumps(
            {
                "programs": list(made["programs"]),
                "compile_seconds": made.get("compile_seconds"),
                "values": values.reshape(-1).tolist(),
            }
        ),
        flush=True,
    )
    for line in sys.stdin:
        program = made["programs"][line.strip()]
        wall, cpu = time.perf_counter(), time.process_time()
        program()
        seconds = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
        print(json.dumps(seconds), flush=True)


class Worker:
    """A process that runs programs when told."""

    def __init__(self, kind: str, name: str, quick: bool) -> None:
        words = [sys.executable, "-m", "bench.against_captum", "--work", kind, "--only", name]
        root = pathlib.Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(
            words + ["--quick"] * quick,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        self.ready = self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the worker stopped; its error is above")
        return json.loads(line)

    def seconds(self, program: str) -> dict[str, float]:
        """Runs one program once."""
        self._process.stdin.write(program + "\n")
        self._process.stdin.flush()
        return self._answer()

    def stop(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


# ------------------------------------------------------------------------------------ the figures


def measure(name: str, records: int, rounds: int, quick: bool) -> dict[str, Any]:
    """One network."""
    from bench import harness

    ours, theirs = Worker("jax", name, quick), Worker("torch", name, quick)
    a, b = ours.ready["values"], theirs.ready["values"]
    largest = max(map(abs, b))
    result: dict[str, Any] = {
        "benchmark": "against_captum",
        "network": name,
        "rounds": rounds,
        "environment": harness.environment()
        | {"peers": {n: importlib.metadata.version(n) for n in ("torch", "captum")}},
        "largest_difference": max(abs(p - q) for p, q in zip(a, b, strict=True)) / largest,
        "compile_seconds": ours.ready["compile_seconds"],
        "records": [],
    }
    sizes = [p for p in theirs.ready["programs"] if p != "default"]
    tried = {size: min(theirs.seconds(size)["cpu"] for _ in range(2)) for size in sizes}
    best = min(tried, key=lambda size: tried[size])
    result["internal_batch_size"] = {"tried": tried, "best": best}
    programs = [(ours, p) for p in ours.ready["programs"]] + [
        (theirs, "default"),
        (theirs, best),
    ]
    for worker, program in programs:
        worker.seconds(program)
    for number in range(records):
        samples: dict[str, list[float]] = {program: [] for _, program in programs}
        for index in range(rounds):
            shift = index % len(programs)
            order = programs[shift:] + programs[:shift]
            for worker, program in order if index % 2 == 0 else reversed(order):
                samples[program].append(worker.seconds(program)["cpu"])
        middle = {program: statistics.median(taken) for program, taken in samples.items()}
        ratios = {
            f"{peer} over {mine}": middle[program] / middle[mine]
            for peer, program in (("default", "default"), ("best", best))
            for mine in ("jaxplain", "jaxplain, not hoisted")
        }
        result["records"].append({"cpu_seconds": samples, "ratios": ratios})
        print(f"{name}, record {number + 1}:", {k: round(v, 2) for k, v in ratios.items()})
    ours.stop()
    theirs.stop()
    result["ratios"] = {
        key: statistics.median(record["ratios"][key] for record in result["records"])
        for key in result["records"][0]["ratios"]
    }
    return result


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, writes one JSON file a network."""
    names = ("mlp", "cnn", "resnet20", "transformer")
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--records", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=names, default=list(names))
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    parser.add_argument("--work", choices=("torch", "jax"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        work(options.work, options.only[0], options.quick)
        return
    from bench import harness

    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    results = {}
    for name in options.only:
        records, rounds = (1, 1) if options.quick else (options.records, options.rounds)
        results[name] = measure(name, records, rounds, options.quick)
        print(f"  largest difference of the values: {results[name]['largest_difference']:.1e}")
        if folder is not None:
            harness.write(folder / f"against_captum_{name}_cpu.json", results[name])
    for peer, bar in BARS.items():
        ratios = [result["ratios"][f"{peer} over jaxplain"] for result in results.values()]
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        good = mean >= bar and min(ratios) >= LEAST
        print(
            f"Captum ({peer}) over jaxplain: {mean:.2f} in geometric mean (bar {bar}), least "
            f"{min(ratios):.2f} (bar {LEAST}): {'PASS' if good else 'below'}"
        )


if __name__ == "__main__":
    main()
