"""Making quasi-random points: each sampler inside a loop that adds all numbers up, against scipy.

    python -m bench.qmc [--rounds 15] [--samples 262144] [--dimensions 64] [--quick]

Ours make the points of a block inside a `lax.scan` and add them to a sum, so that every number is
made and none is kept; scipy returns an array of all points and is not asked to add them up. The
scrambling, and for scipy its generator's making, is part of each call; compiling is not. The bar is
that Sobol' points come at least 8 times as fast as scipy's, in CPU seconds on one core.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
from collections.abc import Callable
from typing import Any

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from bench.harness import pin

    pin()

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import qmc as scipy_qmc

from bench import harness
from jaxplain import qmc

BAR = 8.0
BLOCK = 1024

# name -> (our sampler, what of scipy and numpy does the same)
PAIRS: dict[str, tuple[Callable[..., Any], str]] = {
    "sobol": (qmc.sobol, "scipy Sobol"),
    "sobol, again": (qmc.sobol, "scipy Sobol"),  # A/A
    "sobol, owen": (functools.partial(qmc.sobol, scramble="owen"), "scipy Sobol"),
    "halton": (qmc.halton, "scipy Halton"),
    "latin_hypercube": (qmc.latin_hypercube, "scipy LatinHypercube"),
    "monte_carlo": (qmc.monte_carlo, "numpy random"),
}


def ours(sampler: Any, dimensions: int, samples: int) -> tuple[harness.Compiled, jax.Array]:
    """The sum of all numbers, compiled, and a key for it."""

    def total(key: jax.Array) -> jax.Array:
        block = sampler(key, dimensions, samples, min(BLOCK, samples))
        add = lambda sum_, number: (sum_ + block(number).sum(), None)
        return jax.lax.scan(add, jnp.float32(0), jnp.arange(-(-samples // BLOCK)))[0]

    key = jax.random.key(0)
    return harness.compile_program(total, key), key


def theirs(dimensions: int, samples: int) -> dict[str, Callable[[], np.ndarray]]:
    """All points as an array."""
    return {
        "scipy Sobol": lambda: scipy_qmc.Sobol(dimensions, scramble=True).random(samples),
        "scipy Halton": lambda: scipy_qmc.Halton(dimensions, scramble=True).random(samples),
        "scipy LatinHypercube": lambda: scipy_qmc.LatinHypercube(dimensions).random(samples),
        "numpy random": lambda: np.random.default_rng().random((samples, dimensions)),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes one JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--samples", type=int, default=2**18, help="a power of two")
    parser.add_argument("--dimensions", type=int, default=64)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON file")
    options = parser.parse_args(arguments)
    dimensions, samples = (3, 2048) if options.quick else (options.dimensions, options.samples)
    compiled = {name: ours(pair[0], dimensions, samples) for name, pair in PAIRS.items()}
    programs: dict[str, Callable[[], Any]] = {
        name: functools.partial(program.call, key) for name, (program, key) in compiled.items()
    }
    for name, program in programs.items():  # the mean of that many numbers is 1/2
        mean = float(program()) / (samples * dimensions)
        if not abs(mean - 0.5) < 0.02:
            raise RuntimeError(f"the points of {name} have the mean {mean}")
    taken = harness.interleave(
        programs | theirs(dimensions, samples), rounds=1 if options.quick else options.rounds
    )
    clock = harness.clock()
    seconds_of = {name: getattr(samples_of, clock) for name, samples_of in taken.items()}
    ratios = {
        name: harness.ratio(seconds_of[pair[1]], seconds_of[name]) for name, pair in PAIRS.items()
    }
    numbers = samples * dimensions
    print(f"{samples} x {dimensions}, {clock} seconds, medians; blocks of {BLOCK}")
    for name, (_, peer) in PAIRS.items():
        seconds = harness.spread(seconds_of[name])["median"]
        print(
            f"  {name:16} {seconds:.5f} s, {1e9 * seconds / numbers:6.3f} ns a number, "
            f"{peer} takes {ratios[name]['of_medians']:.1f} times as long; compiled in "
            f"{compiled[name][0].compile_seconds:.2f} s"
        )
    print(f"bar: {BAR:.0f} for sobol")
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    if folder is not None:
        content = {
            "benchmark": "qmc",
            "environment": harness.environment(),
            "clock": clock,
            "case": {"samples": samples, "dimensions": dimensions, "block_size": BLOCK},
            "compile_seconds": {name: c[0].compile_seconds for name, c in compiled.items()},
            "rounds": harness.record(taken),
            "theirs_over_ours": ratios,
        }
        kind = jax.devices()[0].device_kind.replace(" ", "-")
        harness.write(folder / f"qmc_{kind}.json", content)


if __name__ == "__main__":
    main()
