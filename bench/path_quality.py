"""Deletion and insertion of every path method against plain Integrated Gradients, on real models.

    JAXPLAIN_DATA=... python -m bench.path_quality [--only squeezenet] [--examples 24] [--out DIR]

The photos of SqueezeNet and the CIFAR images of ResNet-20, in probabilities of the predicted class,
towards the mean colour. Deletion is better low, insertion high. Each method is compared with
Integrated Gradients on the same images: the mean difference and its standard error. Then the same
for Integrated Gradients from other baselines, with the rank correlation of the maps. Nothing is
timed.
"""

import argparse
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

import jaxplain
from bench import harness
from jaxplain import gradients, metrics, paths


def squeezenet(folder: pathlib.Path) -> tuple[Any, jax.Array]:
    import matplotlib.image

    folder /= "squeezenet1_0_imagenet"
    model = jaxplain.models.SqueezeNet.from_safetensors(folder / "squeezenet1_0_dc.safetensors")
    files = sorted((folder / "images").iterdir())
    images = np.stack([matplotlib.image.imread(file)[..., :3] for file in files])
    return model, jaxplain.models.SqueezeNet.preprocess((images * 255).round().astype(np.uint8))


def resnet20(folder: pathlib.Path) -> tuple[Any, jax.Array]:
    folder /= "cifar10_resnet20"
    model = jaxplain.models.ResNet20.from_safetensors(folder / "resnet20.safetensors")
    images = np.load(folder / "cifar10_train4000.npz")["images"]
    return model, jaxplain.models.ResNet20.preprocess(images)


CASES = {"squeezenet": (squeezenet, 1000, 24), "resnet20": (resnet20, 10, 200)}

# name -> (factory of f and the number of classes; what is given, see Study.maps)
METHODS: dict[str, tuple[Callable[[Any, int], Any], str]] = {
    "integrated_gradients": (lambda f, _: paths.integrated_gradients(f, steps=32), "x b l"),
    "saliency": (lambda f, _: gradients.saliency(f), "x l"),
    "input_x_gradient": (lambda f, _: gradients.input_x_gradient(f), "x l"),
    "smoothgrad": (lambda f, _: gradients.smoothgrad(f, samples=32), "k x l"),
    "expected_gradients": (lambda f, _: paths.expected_gradients(f, samples=32), "k x s l"),
    "gradient_shap": (lambda f, _: paths.gradient_shap(f, samples=32), "k x s l"),
    "blur_integrated_gradients": (
        lambda f, _: paths.blur_integrated_gradients(f, steps=32),
        "x l",
    ),
    "guided_integrated_gradients": (
        lambda f, _: paths.guided_integrated_gradients(f, steps=50),
        "x b l",
    ),
    "idgi": (lambda f, _: paths.idgi(f, steps=32), "x b l"),
    "idg": (lambda f, _: paths.idg(f, steps=32), "x b l"),
    "left_integrated_gradients": (
        lambda f, _: paths.left_integrated_gradients(f, steps=32),
        "x b l",
    ),
    "lpi": (lambda f, _: paths.lpi(f, samples=32), "k x s l"),
    "adversarial_gradient_integration": (
        lambda f, n: paths.adversarial_gradient_integration(f, classes=n, targets=4, steps=10),
        "k x l",
    ),
    "mfaba": (lambda f, n: paths.mfaba(f, classes=n, steps=32), "x l"),
    "ig2": (lambda f, _: paths.ig2(f, steps=32), "x f l"),
    "samp": (
        lambda f, _: paths.samp(f, direction="both", pixels=0.03, channel_axis=-1),
        "x b l",
    ),
    "samp_plus_plus": (
        lambda f, _: paths.samp_plus_plus(f, direction="both", pixels=0.03, channel_axis=-1),
        "x b l",
    ),
}


def curves(f: Any, mean: jax.Array) -> Callable[..., Any]:
    """The areas of a map, `(x, values, label, params) -> deletion, insertion`, towards the mean."""
    options = {"step_size": 0.05, "channel_axis": -1, "chunk_size": 4}
    key = jax.random.key(0)

    def of_map(x: jax.Array, values: jax.Array, label: jax.Array, params: Any) -> Any:
        return tuple(
            measure(f, **options)(key, x, mean, values, label, params).area
            for measure in (metrics.deletion, metrics.insertion)
        )

    return of_map


class Study:
    """One model, its images, and the curves of maps."""

    def __init__(self, name: str, examples: int | None) -> None:
        load, self.classes, default = CASES[name]
        model, x = load(pathlib.Path(os.environ["JAXPLAIN_DATA"]))
        count = examples or default
        self.others = x[count : count + 16]  # baselines and references; no image explains itself
        self.x = x[:count]
        self.apply, self.params = jaxplain.adapters.nnx(model)
        apply = jax.jit(self.apply)
        scores = [np.asarray(apply(self.params, self.x[k : k + 8])) for k in range(0, count, 8)]
        self.labels = jnp.asarray(np.concatenate(scores).argmax(axis=1), jnp.int32)
        self.f = jaxplain.targets.probability(self.apply)
        self.mean = jnp.broadcast_to(x.mean(axis=(0, 1, 2)), x.shape[1:])
        self._curves = jax.jit(curves(self.f, self.mean))

    def maps(self, make: Callable[[Any, int], Any], given: str, baseline: Any = None) -> np.ndarray:
        """The values of every image, one image at a time: walks differ in length."""
        explain = make(self.f, self.classes)
        baseline = jnp.zeros_like(self.x[0]) if baseline is None else baseline
        values = []
        for number, (x, label) in enumerate(zip(self.x, self.labels, strict=True)):
            shared = {
                "k": jax.random.fold_in(jax.random.key(1), number),
                "x": x,
                "b": baseline(x) if callable(baseline) else baseline,
                "s": self.others,
                "f": self.others[:2],
                "l": label,
            }
            result = explain(*(shared[word] for word in given.split()), self.params)
            values.append(np.asarray(result.values))
            print(f"\r  {number + 1} of {len(self.x)}", end="", flush=True)
        print("\r", end="")
        return np.stack(values)

    def areas(self, maps: np.ndarray) -> np.ndarray:
        """Deletion and insertion areas, shape (2, images)."""
        rows = [
            self._curves(x, jnp.asarray(v), label, self.params)
            for x, v, label in zip(self.x, maps, self.labels, strict=True)
        ]
        return np.asarray(rows).T


def compared(areas: np.ndarray, plain: np.ndarray) -> dict[str, Any]:
    """Means, and the mean difference from Integrated Gradients, image by image."""
    record: dict[str, Any] = {}
    for name, mine, theirs in zip(("deletion", "insertion"), areas, plain, strict=True):
        difference = mine - theirs
        record[name] = {
            "mean": float(mine.mean()),
            "difference": float(difference.mean()),
            "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        }
    return record


def baselines_of(study: Study) -> dict[str, Any]:
    x = study.x
    return {
        "black": jnp.full_like(x[0], float(x.min())),
        "mean colour": study.mean,
        "blurred": lambda x: jaxplain.baselines.blurred(x, sigma=x.shape[0] / 16),
        "another image": study.others[0],
        "uniform noise": jax.random.uniform(
            jax.random.key(2), x.shape[1:], minval=float(x.min()), maxval=float(x.max())
        ),
        "farthest": lambda x: jaxplain.baselines.maximum_distance(x),
    }


def pictures(maps: dict[str, np.ndarray], path: pathlib.Path, columns: int = 6) -> None:
    """The maps of one image by each method; of the image itself nothing is kept."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = -(-len(maps) // columns)
    drawing, axes = plt.subplots(
        rows, columns, figsize=(2 * columns, 2.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (name, values) in zip(axes.flat, maps.items(), strict=False):
        jaxplain.plots.heatmap(values, ax=axis)
        axis.set_title(name.replace("_", " "), fontsize=7)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=80)
    plt.close(drawing)


def measure(
    name: str, examples: int | None, methods: list[str], picture: pathlib.Path | None
) -> dict[str, Any]:
    study = Study(name, examples)
    results, plain, drawn = {}, None, {}
    for method in methods:
        make, given = METHODS[method]
        maps = study.maps(make, given)
        drawn[method] = maps[0]
        areas = study.areas(maps)
        plain = areas if plain is None else plain
        results[method] = compared(areas, plain)
        _show(name, method, results[method])
    if picture is not None:
        pictures(drawn, picture)
    # How much the map depends on the baseline.
    make, given = METHODS["integrated_gradients"]
    of_baseline, first = {}, None
    for label, baseline in baselines_of(study).items():
        maps = study.maps(make, given, baseline)
        flat = np.abs(maps).sum(axis=-1).reshape(len(maps), -1)
        first = flat if first is None else first
        ranks = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(flat, first, strict=True)]
        of_baseline[label] = compared(study.areas(maps), plain) | {
            "rank_correlation_with_black": float(np.mean(ranks))
        }
        _show(name, f"baseline: {label}", of_baseline[label])
    return {"case": name, "examples": len(study.x), "methods": results, "baselines": of_baseline}


def _show(case: str, name: str, record: dict[str, Any]) -> None:
    parts = [
        f"{k} {v['mean']:.3f} ({v['difference']:+.3f} +- {v['standard_error']:.3f})"
        for k, v in record.items()
        if isinstance(v, dict)
    ]
    rank = record.get("rank_correlation_with_black")
    print(f"{case}: {name}: " + ", ".join(parts) + (f", rank {rank:.2f}" if rank else ""))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--examples", type=int)
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files")
    parser.add_argument("--picture", type=pathlib.Path, help="draw the maps of the first image")
    options = parser.parse_args(arguments)
    folder = options.out or pathlib.Path(__file__).parent / "results"
    for name in options.only:
        result = measure(name, options.examples, options.methods, options.picture)
        about = {"benchmark": "path_quality", "environment": harness.environment()}
        harness.write(folder / f"path_quality_{name}.json", about | result)


if __name__ == "__main__":
    main()
