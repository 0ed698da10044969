"""Maps by masks on real photos: Sobol and HSIC beside RISE and chance, at equal forwards.

    JAXPLAIN_DATA=... python -m bench.map_quality [--forwards 1040] [--examples 56] [--out DIR]

SqueezeNet, the probability of the class that it predicts, parts replaced by the mean colour.
Photos: 56 of ImageNet, for the areas under the deletion (better low) and insertion (better high)
curves; 25 with boxes of the object, for the curves and the pointing game, whether the middle of the
largest values lies in a box. Each method is compared with RISE photo by photo: the mean difference
and its standard error. Chance is a map of random cells; "centre" is a cone in the middle of the
photo, which most such sets of photos favour. Nothing is timed.
"""

import argparse
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxplain
from bench import harness
from bench.path_quality import curves, pictures, squeezenet
from jaxplain import masks, paths, perturbation, sobol
from jaxplain.sobol import estimators

CELLS = 8
CHUNK = 64


def photos_with_boxes(folder: pathlib.Path) -> tuple[jax.Array, list[list[list[float]]]]:
    """The photos, and for each the boxes of its object: x0, y0, x1, y1 in pixels."""
    import matplotlib.image

    folder /= "pointing_game"
    items = json.loads((folder / "boxes.json").read_text())["items"]
    read = lambda item: matplotlib.image.imread(folder / "images" / item["file"])[..., :3]
    images = (np.stack([read(item) for item in items]) * 255).round().astype(np.uint8)
    boxes = [item["boxes_xyxy"] for item in items]
    return jaxplain.models.SqueezeNet.preprocess(images), boxes


def points_into(values: np.ndarray, boxes: list[list[float]]) -> bool:
    """Whether the middle of the largest values is in a box: a map of cells is flat at its top."""
    summed = values.sum(axis=-1)
    top = np.argwhere(summed == summed.max())
    y, x = top.mean(axis=0) + 0.5
    return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes)


def of_sobol(
    f: Any, forwards: int, upsampling: str = "nearest", **estimator: Any
) -> Callable[..., Any]:
    explain = sobol.attribution(
        f,
        masks=masks.grid(CELLS, CELLS, upsampling=upsampling),
        samples=max(forwards // (CELLS**2 + 1), 2),
        chunk_size=CHUNK,
        **estimator,
    )
    return lambda key, x, base, *args: explain(key, x, base, *args).values


def of_hsic(f: Any, forwards: int) -> Callable[..., Any]:
    explain = sobol.hsic_attribution(f, samples=forwards, chunk_size=CHUNK)
    return lambda key, x, base, *args: explain(key, x, base, *args).values


def of_rise(f: Any, forwards: int) -> Callable[..., Any]:
    explain = perturbation.rise(f, samples=forwards, chunk_size=CHUNK)
    return lambda key, x, base, *args: explain(key, x, base, *args).values


def of_chance(f: Any, forwards: int) -> Callable[..., Any]:
    grid = masks.grid(CELLS, CELLS)

    def values(key: jax.Array, x: jax.Array, base: jax.Array, *args: Any) -> jax.Array:
        return jnp.broadcast_to(grid.expand(jax.random.normal(key, grid.shape(x)), x), x.shape)

    return values


def of_centre(f: Any, forwards: int) -> Callable[..., Any]:
    def values(key: jax.Array, x: jax.Array, base: jax.Array, *args: Any) -> jax.Array:
        away = [jnp.arange(n) - (n - 1) / 2 for n in x.shape[:2]]
        cone = -jnp.hypot(away[0][:, None], away[1][None])
        return jnp.broadcast_to(cone[..., None], x.shape)

    return values


def of_integrated_gradients(f: Any, forwards: int) -> Callable[..., Any]:
    """For orientation: a method that is given gradients, at a third of the forwards' number."""
    explain = paths.integrated_gradients(f, steps=max(forwards // 3, 1), chunk_size=CHUNK)
    return lambda key, x, base, *args: explain(x, base, *args).values


METHODS = {
    "rise": of_rise,  # first: the others are compared with it
    "sobol": of_sobol,
    "sobol, bilinear": functools.partial(of_sobol, upsampling="bilinear"),
    "sobol, jansen": functools.partial(of_sobol, estimator=estimators.jansen),
    "sobol, jansen_ratio": functools.partial(of_sobol, estimator=estimators.jansen_ratio),
    "sobol, jansen_regression": functools.partial(of_sobol, estimator=estimators.jansen_regression),
    "hsic": of_hsic,
    "chance": of_chance,
    "centre": of_centre,
    "integrated_gradients": of_integrated_gradients,
}


def compared(scores: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    difference = scores - reference
    return {
        "mean": float(scores.mean()),
        "less_rise": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
    }


def measure(
    forwards: int, examples: int | None, methods: list[str], picture: pathlib.Path | None
) -> dict[str, Any]:
    folder = pathlib.Path(os.environ["JAXPLAIN_DATA"])
    model, x = squeezenet(folder)
    boxed, boxes = photos_with_boxes(folder)
    apply, params = jaxplain.adapters.nnx(model)
    f = jaxplain.targets.probability(apply)
    predict, mean = jax.jit(apply), jnp.zeros_like(x[0])
    areas = jax.jit(curves(f, mean))
    sets = {"imagenet": (x[:examples], None), "boxes": (boxed[:examples], boxes)}
    record: dict[str, Any] = {}
    for name, (images, their_boxes) in sets.items():
        labels = [predict(params, image[None]).argmax().astype(jnp.int32) for image in images]
        reference: dict[str, np.ndarray] = {}
        drawn = {}
        for method in methods:
            explain = jax.jit(METHODS[method](f, forwards))
            scores: dict[str, list[float]] = {}
            for number, (image, label) in enumerate(zip(images, labels, strict=True)):
                key = jax.random.fold_in(jax.random.key(7), number)
                values = explain(key, image, mean, label, params)
                deletion, insertion = areas(image, values, label, params)
                found = {"deletion": deletion, "insertion": insertion}
                if their_boxes is not None:
                    found["pointing"] = points_into(np.asarray(values), their_boxes[number])
                for what, score in found.items():
                    scores.setdefault(what, []).append(float(score))
                if number == 0:
                    drawn[method] = np.asarray(values)
                print(f"\r  {method}: {number + 1} of {len(images)}", end="", flush=True)
            print("\r", end="")
            arrays = {what: np.asarray(column) for what, column in scores.items()}
            reference = reference or arrays
            rows = {what: compared(array, reference[what]) for what, array in arrays.items()}
            record.setdefault(name, {"photos": len(images)})[method] = rows
            parts = [
                f"{w} {r['mean']:.3f} ({r['less_rise']:+.3f} +- {r['standard_error']:.3f})"
                for w, r in rows.items()
            ]
            print(f"{name}: {method}: " + ", ".join(parts))
        if picture is not None and name == "imagenet":
            pictures(drawn, picture)
    return record


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--forwards", type=int, default=16 * (CELLS**2 + 1))
    parser.add_argument("--examples", type=int, help="photos of each set, all unless given")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON file")
    parser.add_argument("--picture", type=pathlib.Path, help="draw the maps of the first photo")
    options = parser.parse_args(arguments)
    result = measure(options.forwards, options.examples, options.methods, options.picture)
    about = {"benchmark": "map_quality", "environment": harness.environment()}
    folder = options.out or pathlib.Path(__file__).parent / "results"
    path = folder / f"map_quality_squeezenet_{options.forwards}.json"
    harness.write(path, about | {"forwards": options.forwards} | result)


if __name__ == "__main__":
    main()
