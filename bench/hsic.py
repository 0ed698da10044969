"""What HSIC attribution costs beside the model: the collapsed form against products of n x n.

    python -m bench.hsic [--quick]

Both estimate the dependence of one output on d cells from n masks, in float32, compiled, from the
same masks and outputs:

- `collapsed`: `jaxplain.sobol.hsic_attribution`'s estimator, with its p-values and R2;
- `collapsed, twice`: the same under another name, for the spread of the machine;
- `n^3`: the Gram matrix of each cell made and centred by products with H, as in the authors' code,
  and nothing else.

The bar is 50 at n = 500 and d = 64.
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
import numpy as np

from bench import harness
from jaxplain import qmc
from jaxplain.sobol import _hsic_estimates

BAR, EQUAL = 50.0, 1e-5
BINARY = _hsic_estimates.KERNELS["binary"]


@jax.jit
def collapsed(y: jax.Array, cells: jax.Array) -> _hsic_estimates.Dependence:
    """The library's."""
    moments = _hsic_estimates.cell_moments(cells, BINARY)
    return _hsic_estimates.dependence(
        y, cells, moments, kernel=BINARY, width="distances", interactions=False, total_order=False
    )


@jax.jit
def cubed(y: jax.Array, cells: jax.Array, width: jax.Array) -> jax.Array:
    """tr(H K_i H L) / n^2, one cell after the other."""
    n = len(y)
    centre = jnp.eye(n) - 1 / n
    gram = jnp.exp(-(((y[:, None] - y[None, :]) / width) ** 2) / 2)
    gram = centre @ gram @ centre

    def one(cell: jax.Array) -> jax.Array:
        k = 0.5 - (cell[:, None] - cell[None, :]) ** 2
        return jnp.sum((centre @ k @ centre) * gram) / n**2

    return jax.lax.map(one, cells.T)


def exact(y: jax.Array, cells: jax.Array, width: jax.Array) -> np.ndarray:
    """The same in float64 on the host."""
    y, m, n = np.asarray(y, np.float64), np.asarray(cells, np.float64), len(y)
    centre = np.eye(n) - 1 / n
    gram = np.exp(-(((y[:, None] - y) / float(width)) ** 2) / 2)
    gram = centre @ gram @ centre
    of = lambda c: np.sum((centre @ (0.5 - (c[:, None] - c) ** 2) @ centre) * gram) / n**2
    return np.array([of(c) for c in m.T])


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, and writes one JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--quick", action="store_true", help="tiny: does it run? writes nothing")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON file")
    options = parser.parse_args(arguments)
    n, d = (60, 4) if options.quick else (500, 64)
    u = qmc.points(qmc.latin_hypercube, jax.random.key(0), d, n)
    cells = (u >= 0.5).astype(jnp.float32)
    y = jnp.tanh(cells @ jax.random.normal(jax.random.key(1), (d,)) / 3)
    found = collapsed(y, cells)
    truth = exact(y, cells, found.width)
    error = float(np.max(np.abs(np.asarray(found.hsic, np.float64) / truth - 1)))
    error_of_cubed = float(np.max(np.abs(np.asarray(cubed(y, cells, found.width)) / truth - 1)))
    samples = harness.interleave(
        {
            "collapsed": functools.partial(collapsed, y, cells),
            "n^3": functools.partial(cubed, y, cells, found.width),
            "collapsed, twice": functools.partial(collapsed, y, cells),
        },
        rounds=3 if options.quick else options.rounds,
    )
    clock = harness.clock()
    seconds = {name: getattr(taken, clock) for name, taken in samples.items()}
    ratio = harness.ratio(seconds["n^3"], seconds["collapsed"])
    same = harness.ratio(seconds["collapsed, twice"], seconds["collapsed"])
    for name in samples:
        print(f"{name}: median {1e3 * harness.spread(seconds[name])['median']:.2f} {clock} ms")
    print(
        f"n = {n}, d = {d}: the n^3 form takes {ratio['of_medians']:.0f} times the collapsed one "
        f"(bar {BAR:.0f}); A/A {same['of_medians']:.2f}"
    )
    print(
        f"largest relative error to float64: {error:.1e} (bar {EQUAL:.0e}); of the n^3 form "
        f"{error_of_cubed:.1e}"
    )
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    if folder is not None:
        content = {
            "benchmark": "hsic",
            "environment": harness.environment(),
            "masks": n,
            "cells": d,
            "seconds": harness.record(samples),
            "cubed_over_collapsed": ratio,
            "relative_error": error,
            "relative_error_of_cubed": error_of_cubed,
        }
        kind = jax.devices()[0].device_kind.replace(" ", "-")
        harness.write(folder / f"hsic_{kind}.json", content)


if __name__ == "__main__":
    main()
