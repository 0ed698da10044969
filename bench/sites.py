"""What reading a model's inside costs: the residual stream of a GPT-2-small shape, on one core.

    python -m bench.sites [--quick] [--rounds 15] [--out FOLDER]

Twelve layers, width 768, twelve heads, random weights, layers in a loop of Python and in a `scan`.
The plain forward pass and the same with all residual sites read (`jaxplain.sites.read`) take turns;
the bar is 1.05 in CPU seconds. Beside it: reading with a projection in the loop, an edit of one
layer, and the seconds to trace and lower (bar: twice the plain ones).
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time
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

from bench import harness
from jaxplain import sites

BAR, TRACE_BAR = 1.05, 2.0


def normalised(x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)


def block(x: jax.Array, layer: dict[str, jax.Array], heads: int) -> jax.Array:
    """Of one sequence, (positions, width)."""
    positions, width = x.shape
    split = lambda y: y.reshape(positions, heads, width // heads)
    query, key, value = (split(normalised(x) @ layer[name]) for name in ("q", "k", "v"))
    scores = jnp.einsum("qhd,khd->hqk", query, key) / (width // heads) ** 0.5
    causal = jnp.tril(jnp.ones((positions, positions), bool))
    pattern = jax.nn.softmax(jnp.where(causal[None], scores, -1e9))
    mixed = jnp.einsum("hqk,khd->qhd", pattern, value).reshape(positions, width)
    x = x + mixed @ layer["out"]
    hidden = jax.nn.gelu(normalised(x) @ layer["up"])
    return sites.tag(x + hidden @ layer["down"], "hook_resid_post")


def unrolled(x: jax.Array, layers: dict[str, jax.Array], *, heads: int) -> jax.Array:
    for k in range(len(layers["q"])):
        x = block(x, jax.tree.map(lambda array, k=k: array[k], layers), heads)
    return normalised(x)


def scanned(x: jax.Array, layers: dict[str, jax.Array], *, heads: int) -> jax.Array:
    step = lambda x, layer: (block(x, layer, heads), None)
    return normalised(jax.lax.scan(step, x, layers)[0])


def weights(depth: int, width: int) -> dict[str, jax.Array]:
    shapes = dict.fromkeys(("q", "k", "v", "out"), (width, width))
    shapes |= {"up": (width, 4 * width), "down": (4 * width, width)}
    generator = np.random.default_rng(0)
    draw = lambda shape: generator.standard_normal((depth, *shape)).astype(np.float32) * 0.02
    return {name: jnp.asarray(draw(shape)) for name, shape in shapes.items()}


def best_lowering(make: Callable[[], Callable[..., Any]], *arguments: Any) -> float:
    """The least seconds to trace and lower, of five: functions made anew, as jax keeps traces."""
    seconds = []
    for _ in range(5):
        fresh = jax.jit(make())
        start = time.perf_counter()
        fresh.lower(*arguments)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def measure(name: str, rounds: int, depth: int, width: int, positions: int) -> dict[str, Any]:
    model = {"unrolled": unrolled, "scanned": scanned}[name]
    plain = lambda: lambda x, layers: model(x, layers, heads=width // 64)
    layers = weights(depth, width)
    x = jax.random.normal(jax.random.key(0), (positions, width))
    direction = jax.random.normal(jax.random.key(1), (width,))
    site = "hook_resid_post"
    variants = {
        "plain": plain,
        "plain, again": plain,
        "all residual sites": lambda: sites.read(plain(), site),
        "projected": lambda: sites.read(plain(), site, reduce=lambda h: h @ direction),
        "one layer edited": lambda: sites.edit(
            plain(), {f"{site}[5]" if depth > 5 else site: lambda h: h / 2}
        ),
    }
    compiled = {key: harness.compile_program(make(), x, layers) for key, make in variants.items()}
    programs = {key: functools.partial(c.call, x, layers) for key, c in compiled.items()}
    samples = harness.interleave(programs, rounds=rounds)
    clock = harness.clock()
    seconds = {key: getattr(taken, clock) for key, taken in samples.items()}
    ratios = {key: harness.ratio(seconds[key], seconds["plain"]) for key in variants}
    lowering = {key: best_lowering(make, x, layers) for key, make in variants.items()}
    print(f"{name}: {depth} layers, {positions} x {width}, {clock} seconds")
    for key, found in ratios.items():
        print(
            f"  {key:20} {harness.spread(seconds[key])['median']:.4f} s, {found['of_medians']:.3f} "
            f"of plain (bar {BAR}); to trace and lower {lowering[key]:.3f} s, "
            f"{lowering[key] / lowering['plain']:.2f} of plain (bar {TRACE_BAR:.0f})"
        )
    return {
        "case": {"layers": name, "depth": depth, "width": width, "positions": positions},
        "clock": clock,
        "over_plain": ratios,
        "lowering_seconds": lowering,
        "compile_seconds": {key: c.compile_seconds for key, c in compiled.items()},
        "rounds": harness.record(samples),
    }


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes one JSON file for each form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    size = (2, 128, 8) if options.quick else (12, 768, 64)
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    for name in ("unrolled", "scanned"):
        result = measure(name, 2 if options.quick else options.rounds, *size)
        if folder is not None:
            kind = jax.devices()[0].device_kind.replace(" ", "-")
            about = {"benchmark": "sites", "environment": harness.environment()}
            harness.write(folder / f"sites_{name}_{kind}.json", about | result)


if __name__ == "__main__":
    main()
