"""What a call costs beside the gradients: an eager call, and a compile with many parameters.

    python -m bench.overheads [--quick]

- `eager call`: `integrated_gradients(f, steps=32)` on one example of the MLP, called a second time
  with no `jit` around it. The bar is 50 ms.
- `compile with 512 MB`: lowering and compiling where the parameters, arguments of f, take 512 MB.
  The bar is 1 s: none of them may enter the program.
"""

from __future__ import annotations

import argparse
import functools
import pathlib

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from bench.harness import pin

    pin()

import jax
import jax.numpy as jnp

import jaxplain
from bench import harness, networks

EAGER_BAR, COMPILE_BAR = 0.05, 1.0


def eager_call(rounds: int) -> harness.Samples:
    """Seconds of calls after the first, of the MLP's Integrated Gradients."""
    case = networks.CASES["mlp"]
    apply, params = jaxplain.adapters.nnx(case.make(0))
    examples, baseline, labels = case.inputs(0)
    explain = jaxplain.integrated_gradients(jaxplain.targets.logit(apply), steps=32)
    call = functools.partial(explain, examples[0], baseline, labels[0], params)
    return harness.interleave({"eager call": call}, rounds=rounds)["eager call"]


def compile_with_many_params(megabytes: int) -> harness.Compiled:
    """A layer of that size, its weights an argument."""
    weights = jnp.zeros((8192, megabytes * 2**20 // 4 // 8192))
    explain = jaxplain.integrated_gradients(lambda x, w: jnp.sum(jnp.tanh(x @ w)), steps=32)
    x = jnp.ones(8192)
    return harness.compile_program(explain, x, jnp.zeros_like(x), weights)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes one JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=101, help="eager calls")
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON file")
    options = parser.parse_args(arguments)
    calls = eager_call(3 if options.quick else options.rounds)
    compiled = compile_with_many_params(1 if options.quick else 512)
    seconds = harness.spread(calls.wall)
    spent = compiled.lower_seconds + compiled.compile_seconds
    print(
        f"eager call: median {1e3 * seconds['median']:.2f} ms, quartiles "
        f"{1e3 * seconds['quartile_low']:.2f} and {1e3 * seconds['quartile_high']:.2f} "
        f"(bar {1e3 * EAGER_BAR:.0f} ms)"
    )
    print(
        f"compile with many params: {compiled.lower_seconds:.3f} s to lower + "
        f"{compiled.compile_seconds:.3f} s to compile = {spent:.3f} s (bar {COMPILE_BAR:.0f} s)"
    )
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    if folder is not None:
        content = {
            "benchmark": "overheads",
            "environment": harness.environment(),
            "eager_call": harness.record({"eager call": calls}),
            "compile_512_mb": {
                "lower_seconds": compiled.lower_seconds,
                "compile_seconds": compiled.compile_seconds,
            },
        }
        kind = jax.devices()[0].device_kind.replace(" ", "-")
        harness.write(folder / f"overheads_{kind}.json", content)


if __name__ == "__main__":
    main()
