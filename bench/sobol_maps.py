"""Sobol maps on real models: the cost beside pure forwards, and how near they come to the truth.

    JAXPLAIN_DATA=... python -m bench.sobol_maps [--only resnet20] [--parts speed quality]
        [--images 20] [--truth 1024] [--grid 8] [--samples 8 16 32] [--seeds 5] [--chunk-size 64]

Speed: one attribution (its masks, perturbed images, forwards and indices) over the same number of
pure forwards in chunks of the same size, the faster of a host loop and a loop inside one program;
rounds alternate. The bar is a throughput of 0.92 of the forwards'.

Quality: Spearman and Pearson correlation of the cells with those of plain Jansen at `--truth` rows
(another key), for each estimator and number of rows: means over seeds, then over images, with the
standard error over images. The bar: the default form at half of the forwards of the largest number
of rows is within 0.01 of plain Jansen at that number, in both. The full run is 20 images and 1,024
rows of 8 x 8 cells: 66,560 forwards for the truth of each image and 36,400 for each two estimators.
"""

from __future__ import annotations

import argparse
import os
import pathlib
from typing import Any

if __name__ == "__main__":
    import sys

    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
    from bench.harness import pin

    if "speed" in sys.argv or "--parts" not in sys.argv:
        pin()

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import jaxplain
from bench import harness
from bench.path_quality import CASES
from jaxplain import masks, qmc, sobol
from jaxplain.sobol import _attribution, estimators

BAR = 0.92
CLOSE = 0.01
FORMS = ("jansen", "jansen_ratio", "jansen_regression")
DEFAULT = "jansen_regression"


class Model:
    """A network with its images, the classes it predicts and the logit of those."""

    def __init__(self, name: str, images: int) -> None:
        load, self.classes, _ = CASES[name]
        model, x = load(pathlib.Path(os.environ["JAXPLAIN_DATA"]))
        self.x = x[:images]
        self.apply, self.params = jaxplain.adapters.nnx(model)
        self.f = jaxplain.targets.logit(self.apply)
        apply = jax.jit(self.apply)
        scores = [np.asarray(apply(self.params, self.x[k : k + 4])) for k in range(0, images, 4)]
        self.labels = jnp.asarray(np.concatenate(scores).argmax(axis=1), jnp.int32)
        self.baseline = jnp.zeros_like(self.x[0])


def speed(name: str, options: argparse.Namespace) -> dict[str, Any]:
    model = Model(name, 1)
    x, label, params = model.x[0], model.labels[0], model.params
    samples, cells = max(options.samples), options.grid**2
    explain = sobol.attribution(
        model.f,
        masks=masks.grid(options.grid, options.grid),
        samples=samples,
        chunk_size=options.chunk_size,
    )
    formulas = _attribution._formulas(estimators.jansen_regression, "total", False)
    plan = _attribution._plan(formulas, False, cells, samples, 1, options.chunk_size)
    size, forwards = plan.chunk_size, samples * (cells + 1)
    chunks, rest = divmod(forwards, size)
    images = jnp.broadcast_to(x, (size, *x.shape))

    def step(images: jax.Array, number: jax.Array, params: Any) -> jax.Array:
        # Other images each time, so that nothing can be taken out of the loop.
        moved = images + 1e-6 * number.astype(images.dtype)
        return jnp.sum(model.apply(params, moved), axis=0)

    def in_jit(images: jax.Array, params: Any) -> jax.Array:
        add = lambda total, number: (total + step(images, number, params), None)
        numbers = jnp.arange(chunks, dtype=jnp.int32)
        total, _ = jax.lax.scan(add, step(images[:rest], numbers[0], params), numbers)
        return total

    key = jax.random.key(0)
    kernel = harness.compile_program(explain, key, x, model.baseline, label, params)
    loop = harness.compile_program(in_jit, images, params)
    one = jax.jit(step)
    numbers = [jnp.int32(k) for k in range(chunks)]

    def host_loop() -> Any:
        outputs = [one(images, number, params) for number in numbers]
        return [*outputs, one(images[:rest], numbers[0], params)] if rest else outputs

    programs = {
        "attribution": lambda: kernel.call(key, x, model.baseline, label, params),
        "attribution again": lambda: kernel.call(key, x, model.baseline, label, params),
        "forwards in jit": lambda: loop.call(images, params),
        "forwards, host loop": host_loop,
    }
    samples_of = harness.interleave(programs, rounds=options.rounds)
    clock = "cpu" if jax.devices()[0].platform == "cpu" else "wall"
    taken = {name: getattr(s, clock) for name, s in samples_of.items()}
    floor = min(list(taken)[2:], key=lambda name: np.median(taken[name]))
    ratio = harness.ratio(taken[floor], taken["attribution"])
    again = harness.ratio(taken["attribution again"], taken["attribution"])
    print(
        f"{name}: {forwards} forwards in chunks of {size}: throughput "
        f"{ratio['of_medians']:.3f} of pure forwards ({floor}; bar {BAR}), A/A "
        f"{again['of_medians']:.3f}; medians "
        + ", ".join(f"{n} {np.median(t):.2f} s" for n, t in taken.items())
        + f"; compiled in {kernel.compile_seconds:.1f} s"
    )
    return {
        "forwards": forwards,
        "chunk_size": size,
        "clock": clock,
        "floor": floor,
        "throughput": ratio,
        "again": again,
        "compile_seconds": kernel.compile_seconds,
        "seconds": harness.record(samples_of),
    }


def pair(first: str, second: str) -> estimators.Estimator:
    """Two estimators of total indices, from the same evaluations, as the two orders of one."""
    total = lambda name: getattr(estimators, name).total_order
    return estimators.Estimator(first_order=total(first), total_order=total(second))


def quality(name: str, options: argparse.Namespace) -> dict[str, Any]:
    model = Model(name, options.images)
    sampler = getattr(qmc, options.sampler)

    def cells(estimator: Any, samples: int, seeds: int, first_seed: int, order: str) -> Any:
        """For each image and seed."""
        explain = sobol.attribution(
            model.f,
            masks=masks.grid(options.grid, options.grid),
            samples=samples,
            sampler=sampler,
            estimator=estimator,
            order=order,
            chunk_size=options.chunk_size,
        )

        def of(key: jax.Array, x: jax.Array, label: jax.Array, params: Any) -> Any:
            r = explain(key, x, model.baseline, label, params)
            return r.cells.ravel(), None if r.first_order is None else r.first_order.ravel()

        compiled, found = jax.jit(of), []
        for number, (x, label) in enumerate(zip(model.x, model.labels, strict=True)):
            keys = [
                jax.random.fold_in(jax.random.key(number), first_seed + k) for k in range(seeds)
            ]
            found.append([jax.device_get(compiled(key, x, label, model.params)) for key in keys])
            print(f"\r  {samples} rows: image {number + 1} of {len(model.x)}", end="", flush=True)
        print("\r", end="")
        return [[[np.asarray(row[p]) for row in rows] for rows in found] for p in (0, 1)]

    truth = [rows[0] for rows in cells(estimators.jansen, options.truth, 1, 1000, "total")[0]]
    scores: dict[tuple[str, int], np.ndarray] = {}  # (images, two correlations)

    def score(maps: list[list[np.ndarray]]) -> np.ndarray:
        correlate = (scipy.stats.spearmanr, scipy.stats.pearsonr)
        each = [
            [[c(row, exact).statistic for c in correlate] for row in rows]
            for rows, exact in zip(maps, truth, strict=True)
        ]
        return np.mean(each, axis=1)

    for samples in options.samples:
        first, second = cells(pair(FORMS[2], FORMS[0]), samples, options.seeds, 0, "both")
        third, _ = cells(estimators.jansen_ratio, samples, options.seeds, 0, "total")
        for form, maps in ((FORMS[0], first), (FORMS[2], second), (FORMS[1], third)):
            scores[form, samples] = score(maps)

    full = options.samples[-1]
    reference = scores["jansen", full]
    spread = lambda array: array.std(axis=0, ddof=1) / np.sqrt(len(array))
    record: dict[str, Any] = {"sum of total indices": float(np.mean(np.sum(truth, axis=1)))}
    for (form, samples), found in scores.items():
        difference = found - reference
        rows = record.setdefault(form, {})
        rows[str(samples)] = {
            "spearman": [float(found.mean(axis=0)[0]), float(spread(found)[0])],
            "pearson": [float(found.mean(axis=0)[1]), float(spread(found)[1])],
            "less jansen at the full count": [
                [float(m), float(e)]
                for m, e in zip(difference.mean(axis=0), spread(difference), strict=True)
            ],
        }
        text = ", ".join(
            f"{what} {found.mean(axis=0)[k]:.3f} +- {spread(found)[k]:.3f} (less jansen at {full}: "
            f"{difference.mean(axis=0)[k]:+.3f} +- {spread(difference)[k]:.3f})"
            for k, what in enumerate(("Spearman", "Pearson"))
        )
        print(f"{name}: {form} at {samples}: {text}")
    half = scores.get((DEFAULT, full // 2))
    if half is not None:
        record["bar met"] = bool(np.all((half - reference).mean(axis=0) >= -CLOSE))
        print(f"{name}: {DEFAULT} at {full // 2} within {CLOSE}: {record['bar met']}")
    return record


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--parts", nargs="+", choices=("speed", "quality"), default=["speed"])
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--truth", type=int, default=1024)
    parser.add_argument("--grid", type=int, default=8)
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sampler", default="sobol", choices=("sobol", "monte_carlo", "halton"))
    parser.add_argument("--chunk-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    for name in options.only:
        for part in options.parts:
            result = {"speed": speed, "quality": quality}[part](name, options)
            if options.out is not None:
                about = {"benchmark": "sobol_maps", "environment": harness.environment()}
                asked = {k: v for k, v in vars(options).items() if k != "out"}
                path = options.out / f"sobol_maps_{part}_{name}.json"
                harness.write(path, about | {"case": name, "options": asked} | result)


if __name__ == "__main__":
    main()
