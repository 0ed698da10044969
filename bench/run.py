"""`run.map` against its own compiled kernel on data in memory.

    python -m bench.run [--rounds 5] [--only mlp resnet20] [--quick]

The bare kernel is the same program on the same batches, already on the device, its results left
there. `run.map` reads the examples from a memory-mapped file, takes the results off the device and
writes them to disk. Its seconds are those of its summary: from the first batch to the last byte,
without compiling. The bar is 0.9 of the bare kernel's throughput. Rounds alternate.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from typing import Any

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from bench import harness, networks

BAR = 0.9
EXAMPLES = {"mlp": 8192, "cnn": 256, "resnet20": 128, "transformer": 64}


def measure(name: str, rounds: int, examples: int) -> dict[str, Any]:
    """Seconds of each, by rounds."""
    case = networks.CASES[name]
    apply, params = jaxplain.adapters.nnx(case.make(0))
    batch, _, labels = case.inputs(0)
    size = min(case.batch, examples)
    explain = jaxplain.integrated_gradients(
        jaxplain.targets.logit(apply), steps=case.steps, chunk_size=1
    )
    one = lambda x, label, params: explain(x, jnp.zeros_like(x), label, params)
    kernel = jax.jit(jax.vmap(one, (0, 0, None)))
    compiled = kernel.lower(batch[:size], labels[:size], params).compile()
    bare, mapped = harness.Samples([], []), harness.Samples([], [])
    with tempfile.TemporaryDirectory() as folder:
        many = -(-examples // case.batch)
        np.save(f"{folder}/x.npy", np.tile(batch, (many, *[1] * (batch.ndim - 1)))[:examples])
        x = np.load(f"{folder}/x.npy", mmap_mode="r")
        y = np.tile(labels, many)[:examples]
        on_device = [
            (jnp.asarray(x[k : k + size]), jnp.asarray(y[k : k + size]))
            for k in range(0, examples, size)
        ]
        for index in range(-1, rounds):
            start, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready([compiled(*rows, params) for rows in on_device])
            seconds = time.perf_counter() - start, time.process_time() - cpu
            cpu = time.process_time()
            summary = jaxplain.run.map(
                one,
                (x, y),
                f"{folder}/{index}.zarr",
                shared=(params,),
                batch_size=size,
                mesh=jax.make_mesh(
                    (1,), ("d",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:1]
                ),
                progress=False,
            )
            if index >= 0:  # the first is a warm-up
                bare.wall.append(seconds[0])
                bare.cpu.append(seconds[1])
                mapped.wall.append(summary.seconds)
                mapped.cpu.append(time.process_time() - cpu)
    return {
        "case": {"name": name, "examples": examples, "batch": size, "steps": case.steps},
        "rounds": harness.record({"bare kernel": bare, "run.map": mapped}),
        "throughput_over_bare": harness.ratio(bare.wall, mapped.wall),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes one JSON file a network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=EXAMPLES, default=["mlp", "resnet20"])
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    for name in options.only:
        examples = 16 if options.quick else EXAMPLES[name]
        result = measure(name, 1 if options.quick else options.rounds, examples)
        ratio = result["throughput_over_bare"]
        low, high = ratio["by_round"]["least"], ratio["by_round"]["largest"]
        print(
            f"{name}: run.map has {ratio['of_medians']:.3f} of the bare kernel's throughput "
            f"({low:.3f} to {high:.3f} by round; bar {BAR})",
            flush=True,
        )
        if folder is not None:
            kind = jax.devices()[0].device_kind.replace(" ", "-")
            content = {"benchmark": "run", "environment": harness.environment(), **result}
            harness.write(folder / f"run_{name}_{kind}.json", content)


if __name__ == "__main__":
    main()
