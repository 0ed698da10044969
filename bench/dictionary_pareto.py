"""What each architecture leaves unexplained, by how many latents it uses. Nothing is timed.

    JAXPLAIN_DATA=... python -m bench.dictionary_pareto [--only toy] [--quick] [--out FOLDER]

Eight architectures at five sparsities each, two seeds, on

- `toy`: 128 features in 64 dimensions, four of which fire on average, and 256 latents (set-up E2 of
  tests/sae/test_recovery.py), 2,000 steps of 512 fresh examples. Judged on 10,000 held out, and by
  how well the features are found (mean max cosine, MMCS).
- `listcomp`: what the separator of a two-layer transformer holds between its layers, for all 10,000
  pairs of numbers (tests/sae/test_listcomp.py), and 100 latents, 2,000 steps of 1,000 of them.
  There are no others to hold out.

Adam at a rate that rises over 100 steps and falls to 0 along a cosine, dead after 20 batches: the
same for all, and tuned for none. jumprelu is measured as published, where alone nothing is taken
from what is encoded, and centred as the others are: most of `listcomp` is its mean. Codes are those
of inference: by a threshold for batch_topk and matryoshka. Points are means over seeds; bars of
error are of two seeds, and tell no more than that.
"""

import argparse
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench import harness
from jaxplain import sae
from jaxplain.sae import Dictionary

SEEDS = 2
COUNTS = (1, 2, 4, 8, 16)
COEFFICIENTS = {
    "toy": {
        "relu": (0.05, 0.1, 0.2, 0.4, 0.8),
        "gated": (0.3, 0.6, 1.0, 1.5, 2.2),
        "p_annealed": (0.1, 0.2, 0.4, 0.8, 1.2),
    },
    "listcomp": {
        "relu": (0.3, 0.6, 1.0, 2.0, 3.0),
        "gated": (0.5, 1.0, 2.0, 3.5, 6.0),
        "p_annealed": (0.2, 0.4, 0.8, 1.5, 2.5),
    },
}


class Setup(NamedTuple):
    """Activations to train on and to judge by, and the features where they are known."""

    name: str
    source: Any
    batch: int
    held: jax.Array
    latents: int
    sizes: tuple[int, ...]  # of matryoshka
    rate: float
    features: jax.Array | None


def toy() -> Setup:
    batch = 512
    features = sae.synthetic.features(jax.random.key(0), 128, 64)
    draw = sae.synthetic.activations(features, 4 / 128)
    held = draw(jax.random.key(99), 10_000).activations
    source = lambda key: draw(key, batch).activations
    return Setup("toy", source, batch, held, 256, (64, 128, 256), 3e-3, features)


def listcomp() -> Setup:
    path = pathlib.Path(os.environ["JAXPLAIN_DATA"]) / "listcomp_sae" / "oracle.npz"
    with np.load(path, allow_pickle=False) as file:
        h = jnp.asarray(file["sep_resid_mid_all"])
    return Setup("listcomp", h, 1000, h, 100, (25, 50, 100), 3e-3, None)


SETUPS = {"toy": toy, "listcomp": listcomp}
Make = Callable[[Any], Dictionary]


def architectures(setup: Setup) -> dict[str, tuple[Make, tuple[float, ...], bool]]:
    """How each is made at a sparsity, which there are, and whether these may be traced numbers."""
    latents, found = setup.latents, COEFFICIENTS[setup.name]
    return {
        "relu": (lambda c: sae.relu(latents, c), found["relu"], True),
        "gated": (lambda c: sae.gated(latents, c), found["gated"], True),
        "p_annealed": (lambda c: sae.p_annealed(latents, c), found["p_annealed"], True),
        "jumprelu": (lambda n: sae.jumprelu(latents, 0.1, target_l0=n), COUNTS, True),
        "jumprelu, centred": (
            lambda n: sae.jumprelu(latents, 0.1, target_l0=n, is_centred=True),
            COUNTS,
            True,
        ),
        "topk": (lambda k: sae.topk(latents, k), COUNTS, False),
        "batch_topk": (lambda k: sae.batch_topk(latents, k), COUNTS, False),
        "matryoshka": (lambda k: sae.matryoshka(latents, k, sizes=setup.sizes), COUNTS, False),
    }


def trained(setup: Setup, make: Make, sparsities: list[Any], steps: int) -> list[Any]:
    """The parameters of each sparsity and seed, by one program: sparsities may be traced."""
    schedule = optax.warmup_cosine_decay_schedule(0.0, setup.rate, min(100, steps // 2), steps)
    given = {"sparsity": np.repeat(np.asarray(sparsities, np.float32), SEEDS)}
    alone = sparsities[0] if len(sparsities) == 1 else None
    found = sae.sweep(
        jax.random.key(1),
        lambda own: (make(own["sparsity"] if alone is None else alone), optax.adam(schedule)),
        given,
        setup.source,
        steps=steps,
        batch_size=setup.batch if setup.features is None else None,
        dead_after=20 * setup.batch,
        record_every=steps,
    )
    return [found.member(number) for number in range(len(given["sparsity"]))]


def judged(setup: Setup, dictionary: Dictionary, several: list[Any]) -> dict[str, float]:
    """The means over seeds, with the standard error of the FVU."""
    found = []
    for params in several:
        r = sae.evaluate(dictionary, params, setup.held)
        own = {"l0": r.l0.value, "fvu": r.fvu.value, "dead": r.dead}
        if setup.features is not None:
            recovery = sae.synthetic.recovery(setup.features, params["W_dec"])
            own |= {"mmcs": recovery.max_cosine, "share_found": recovery.share_found}
        found.append(own)
    columns = {name: np.array([float(own[name]) for own in found]) for name in found[0]}
    error = columns["fvu"].std(ddof=1) / np.sqrt(len(found))
    return {name: float(c.mean()) for name, c in columns.items()} | {"fvu_error": float(error)}


def measure(setup: Setup, steps: int, sparsities: int | None) -> dict[str, list[dict[str, float]]]:
    table: dict[str, list[dict[str, float]]] = {}
    for name, (make, every, is_traced) in architectures(setup).items():
        chosen = list(every[:sparsities])
        groups = [chosen] if is_traced else [[own] for own in chosen]
        members = [params for group in groups for params in trained(setup, make, group, steps)]
        table[name] = []
        for number, own in enumerate(chosen):
            several = members[number * SEEDS : (number + 1) * SEEDS]
            row = {"sparsity": float(own)} | judged(setup, make(own), several)
            table[name].append(row)
            print(f"{setup.name}: {name}: " + ", ".join(f"{k} {v:.4g}" for k, v in row.items()))
    return table


TITLES = {
    "toy": "known features: four of 128 at a time",
    "listcomp": "the separator of a transformer",
}


def figure(tables: dict[str, dict[str, list[dict[str, float]]]], path: pathlib.Path) -> None:
    """A panel for each set-up, and one for the features that are found."""
    import matplotlib.figure
    import matplotlib.ticker
    import PIL.Image

    from jaxplain import plots

    panels = [(name, "fvu") for name in tables]
    panels += [("toy", "mmcs")] if "toy" in tables else []
    drawing = matplotlib.figure.Figure((3.5 * len(panels) + 1.5, 3.4), layout="constrained")
    axes = drawing.subplots(1, len(panels), squeeze=False)[0]
    for ax, (name, field) in zip(axes, panels, strict=True):
        plots.pareto(tables[name], y=field, errors="fvu_error" if field == "fvu" else None, ax=ax)
        ax.get_legend().remove()
        ax.set_title("", loc="right")
        ax.set_title(TITLES[name], fontsize=9, loc="left")
        if field == "mmcs":
            ax.set_ylabel("MMCS: cosine of the nearest latent")
        else:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        ax.grid(alpha=0.25, which="major")
    drawing.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=110)
    PIL.Image.open(path).convert("RGB").quantize(128).save(path, optimize=True)  # a third as large


def main(arguments: list[str] | None = None) -> None:
    """Trains, prints, and writes a JSON file for each set-up and a figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="50 steps at two sparsities")
    parser.add_argument("--out", type=pathlib.Path, help="folder of the JSON files and the figure")
    options = parser.parse_args(arguments)
    steps, sparsities = (50, 2) if options.quick else (options.steps, None)
    folder = options.out
    if folder is None and not options.quick:
        folder = pathlib.Path(__file__).parent / "results"
    for name in options.only:
        table = measure(SETUPS[name](), steps, sparsities)
        if folder is not None:
            about = {"benchmark": "dictionary_pareto", "environment": harness.environment()}
            found = {"case": name, "steps": steps, "seeds": SEEDS, "architectures": table}
            harness.write(folder / f"dictionary_pareto_{name}.json", about | found)
    if folder is not None:
        files = {name: folder / f"dictionary_pareto_{name}.json" for name in SETUPS}
        read = {name: harness.read(file) for name, file in files.items() if file.exists()}
        tables = {name: found["architectures"] for name, found in read.items()}
        figure(tables, folder / "dictionary_pareto.png")


if __name__ == "__main__":
    main()
