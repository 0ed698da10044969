"""Sobol maps on real models: the cost beside pure forwards, and how near they come to the truth.

    JAXPLAIN_DATA=... python -m bench.sobol_maps [--only resnet20] [--parts speed quality]
        [--images 20] [--truth 1024] [--grid 8] [--samples 8 16 32] [--seeds 5] [--chunk-size 64]
        [--outputs FOLDER]

Speed: one attribution (its masks, perturbed images, forwards and indices) over the same number of
pure forwards in chunks of the same size, the faster of a host loop and a loop inside one program;
rounds alternate. The bar is a throughput of 0.92 of the forwards'.

Quality: Spearman and Pearson correlation of the cells with those of plain Jansen at `--truth` rows
(another key), for each estimator and number of rows: means over seeds, then over images, with the
standard error over images. The bar: the default form at half of the forwards of the largest number
of rows is within 0.01 of plain Jansen at that number, in both. The model is evaluated once for all
estimators, and not again where `--outputs` holds what it gave. The full run is 20 images and 1,024
rows of 8 x 8 cells: 66,560 forwards for the truth of each image and 20,800 for the seeds.
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
from jaxplain.sobol._statistics import Known, Layout

BAR = 0.92
CLOSE = 0.01
DEFAULT = "jansen_importance"


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
    formulas = _attribution._formulas(None, "total", False)
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
    clock = harness.clock()
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


def designs(options: argparse.Namespace) -> dict[str, tuple[Any, int, int, int]]:
    """What is evaluated: a form that asks for it, rows, seeds and the first seed."""
    full, seeds = max(options.samples), options.seeds
    return {
        "truth": (estimators.jansen, options.truth, 1, 1000),
        "uniform": (estimators.jansen_regression, full, seeds, 0),
        "importance": (estimators.jansen_importance, full, seeds, 0),
    }


FORMS = {
    "jansen": "uniform",
    "jansen_ratio": "uniform",
    "jansen_regression": "uniform",
    "jansen_importance": "importance",
}


def evaluated(model: Model, options: argparse.Namespace, design: str) -> dict[str, np.ndarray]:
    """The outputs for each image and seed, (images, seeds, evaluations, rows), and what is known.

    Evaluated as `sobol.attribution` does. The first rows of a larger design are the smaller one.
    """
    estimator, samples, seeds, first_seed = designs(options)[design]
    shape, cells = (options.grid, options.grid), options.grid**2
    formulas = {"": estimator.total_order}
    plan = _attribution._plan(formulas, False, cells, samples, 1, options.chunk_size)
    sampler, grid = getattr(qmc, options.sampler), masks.grid(*shape)

    @jax.jit
    def of(key: jax.Array, x: jax.Array, label: jax.Array, params: Any) -> Any:
        perturbed = masks.replace(x, model.baseline)

        def output(own: jax.Array) -> jax.Array:
            return model.f(perturbed(grid.expand(own.reshape(shape), x)), label, params).reshape(1)

        block = sampler(key, plan.points * cells, samples, plan.rows)
        numbers = jnp.arange(samples // plan.rows)
        y, known = jax.lax.map(lambda n: _attribution._outputs(plan, output, block(n)), numbers)
        # (blocks, places, 1, rows) -> (places, rows)
        flat = lambda a: jnp.moveaxis(a[:, :, 0], 0, 1).reshape(a.shape[1], -1)
        return jax.tree.map(flat, {"y": y, "step": known.step, "weight": known.weight})

    found = []
    for number, (x, label) in enumerate(zip(model.x, model.labels, strict=True)):
        keys = [jax.random.fold_in(jax.random.key(number), first_seed + k) for k in range(seeds)]
        rows = [jax.device_get(of(key, x, label, model.params)) for key in keys]
        found.append(jax.tree.map(lambda *leaves: np.stack(leaves), *rows))
        print(f"\r  {design}: image {number + 1} of {len(model.x)}", end="", flush=True)
    print("\r", end="")
    return jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def total_indices(form: Any, data: dict[str, Any], image: int, seed: int, rows: int) -> np.ndarray:
    """From the first rows of one design, in float64."""
    layout = Layout(frozenset(form.needs), data["y"].shape[2] - 1)
    with jax.enable_x64(True):
        of = lambda part: jnp.asarray(data[part][image, seed, :, :rows], jnp.float64)[:, None]
        y = of("y")
        known = Known(of("step"), of("weight") if "weight" in form.needs else None)
        means = [jnp.mean(z, axis=-1) for z in form.statistics(layout.rows(y - y.mean(), known))]
        return np.asarray(form.estimate(*means)).reshape(-1)


def quality(name: str, options: argparse.Namespace) -> dict[str, Any]:
    model, data = None, {}
    for design in designs(options):
        path = (options.outputs or pathlib.Path()) / f"{name}_{options.sampler}_{design}.npz"
        if options.outputs is not None and path.is_file():
            data[design] = dict(np.load(path))
            continue
        model = model or Model(name, options.images)
        data[design] = evaluated(model, options, design)
        if options.outputs is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(path, **{k: v for k, v in data[design].items() if v is not None})
    images = range(len(data["truth"]["y"]))
    plain = estimators.jansen.total_order
    truth = [total_indices(plain, data["truth"], image, 0, options.truth) for image in images]
    scores: dict[tuple[str, int], np.ndarray] = {}  # (images, two correlations)
    for name_of_form, design in FORMS.items():
        form = getattr(estimators, name_of_form).total_order
        for samples in options.samples:
            found = np.empty((len(images), options.seeds, 2))
            for image, seed in np.ndindex(found.shape[:2]):
                cells = total_indices(form, data[design], image, seed, samples)
                correlate = (scipy.stats.spearmanr, scipy.stats.pearsonr)
                found[image, seed] = [c(cells, truth[image]).statistic for c in correlate]
            scores[name_of_form, samples] = found.mean(axis=1)

    full = max(options.samples)
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
    parser.add_argument("--outputs", type=pathlib.Path, help="keep the model's outputs here")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    options = parser.parse_args(arguments)
    for name in options.only:
        for part in options.parts:
            result = {"speed": speed, "quality": quality}[part](name, options)
            if options.out is not None:
                about = {"benchmark": "sobol_maps", "environment": harness.environment()}
                asked = {k: v for k, v in vars(options).items() if k not in ("out", "outputs")}
                path = options.out / f"sobol_maps_{part}_{name}.json"
                harness.write(path, about | {"case": name, "options": asked} | result)


if __name__ == "__main__":
    main()
