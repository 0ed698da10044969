"""`jaxplain sae`: dictionaries trained, measured, written for other libraries, looked at.

    activations (n, d) -> sae.train -> a folder: the dictionary in the files of SAELens, its
                                       history, what was run, figures, checkpoints where asked

Unless others are given, the activations are those of a hidden layer of the demo's network.
"""

import argparse
import contextlib
import csv
import importlib.util
import inspect
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxplain
from jaxplain import adapters, checks, cli, sae, sites
from jaxplain.cli import _data, _names

LAYER = "hidden"  # of the demo's network
DIGITS = {"latents": 64, "k": 4}  # what is not given, where it is trained on the digits
# The options of `sae.train` that have no place of their own on the command line.
TRAINING = (
    "sparsity_warm_up",
    "dead_after",
    "average",
    "compute_dtype",
    "resample_every",
    "record_every",
)
RUN, HELD_OUT, CHECKPOINTS = "run.json", "held_out.npy", "checkpoints"
EARLIER = f"{CHECKPOINTS}.earlier"  # while a run that replaces it has not come to its end
_FILES = (
    "cfg.json",
    "sae_weights.safetensors",
    RUN,
    "history.csv",
    "training.png",
    "latents.png",
    HELD_OUT,
)
# The libraries whose files are read, and the two files that tell each.
_FORMATS = {
    "saelens": ("cfg.json", "sae_weights.safetensors"),
    "sparsify": ("cfg.json", "sae.safetensors"),
    "dictionary_learning": ("config.json", "ae.pt"),
    "gemma_scope": ("config.json", "params.safetensors"),
}
_ROWS = 2**16  # read at once where a file is looked through


# --------------------------------------------------------------------------------- architectures


def architectures() -> dict[str, Callable[..., sae.Dictionary]]:
    """The functions of `jaxplain.sae` that make a dictionary of a number of latents."""
    known = {name: getattr(sae, name) for name in sae.__all__}
    return {
        name: value
        for name, value in known.items()
        if inspect.isfunction(value)
        and inspect.signature(value).return_annotation is sae.Dictionary
        and next(iter(parameters(value))) == "latents"
    }


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """All arguments of an architecture: each is an option of the command."""
    return dict(inspect.signature(function).parameters)


def architecture_of(words: Sequence[str]) -> tuple[str, Callable[..., sae.Dictionary], list[str]]:
    """The architecture that the first word names, topk unless it is one, and the other words."""
    is_named = bool(words) and not words[0].startswith("-")
    given = words[0] if is_named else "topk"
    name, known = given.removeprefix("jaxplain.").removeprefix("sae."), architectures()
    if name not in known:
        raise ValueError(f"there is no architecture {given}. There are: {', '.join(known)}.")
    return name, known[name], list(words[is_named:])


# ----------------------------------------------------------------------------------- activations


class Unseen(NamedTuple):
    """The digits that neither the network nor the dictionary was trained on."""

    activations: np.ndarray
    images: np.ndarray
    labels: np.ndarray


class Activations(NamedTuple):
    """What a dictionary is trained or measured on.

    Attributes:
        name: what they are, for people.
        source: an array (n, d), or a store.
        rows: n.
        width: d.
        unseen: what is held out of the digits.
    """

    name: str
    source: Any
    rows: int
    width: int
    unseen: Unseen | None = None


def open_activations(path: str, leaf: str | None, mask: str | None) -> Activations:
    """`file.npy` of rows (n, d), or the folder of a store."""
    place = pathlib.Path(path)
    if place.is_dir():
        stored = sae.stored(place, leaf or "values", mask=mask)
        return Activations(place.name, stored, int(stored.rows.sum()), stored.width)
    if place.suffix != ".npy":
        raise ValueError(
            f"--activations must be file.npy or the folder of a store that jaxplain.run.map wrote, "
            f"but is {path!r}, which is no folder."
        )
    if leaf is not None or mask is not None:
        raise ValueError(f"--leaf and --mask are for the arrays of a store, but {path} is a file.")
    array = _data.read_numpy(path, "--activations", mmap_mode="r")
    if array.ndim != 2 or not array.size or not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"--activations {path} must hold floats of shape (n, d), but holds shape {array.shape} "
            f"of dtype {array.dtype}."
        )
    if not array.dtype.isnative:
        raise ValueError(
            f"--activations {path} holds {array.dtype.str}, floats of the other byte order: save "
            "them by `h.astype(h.dtype.newbyteorder('='))`."
        )
    blocks = (array[start : start + _ROWS] for start in range(0, len(array), _ROWS))
    for _ in _finite(blocks, path):
        pass
    return Activations(place.name, array, *array.shape)


def _finite(blocks: Iterator[np.ndarray], name: str) -> Iterator[np.ndarray]:
    """The blocks, as long as they are finite in float32, which they are trained in."""
    rows = 0
    for block in blocks:
        with np.errstate(over="ignore"):
            bad = ~np.isfinite(np.asarray(block, np.float32)).all(axis=1)
        if bad.any():
            raise ValueError(
                f"--activations {name}: row {rows + int(np.argmax(bad)):,} is not finite. Leave "
                "such rows out."
            )
        rows += len(block)
        yield block


def digits() -> Activations:
    """The values of the hidden layer of the demo's network, trained here, on the digits."""
    demo = cli.import_demo()
    data = demo.digits()
    print("training the demo's network on scikit-learn's digits", file=sys.stderr)
    apply, params = adapters.nnx(demo.train(data))
    values = sites.read(apply, LAYER)(params, jnp.asarray(data.images))[1][LAYER]
    test = data.test
    unseen = Unseen(np.asarray(values[test]), data.images[test], data.labels[test])
    name = f'the layer "{LAYER}" of the demo\'s network, on the digits it was trained on'
    return Activations(name, values[data.train], len(data.train), values.shape[1], unseen)


# ----------------------------------------------------------------------------------------- train


def train(options: argparse.Namespace, name: str, words: Sequence[str]) -> None:
    """Trains a dictionary, and writes it with its history, what was run, and figures."""
    given, how = _settings(name, words, is_digits=options.activations is None)
    dictionary = architectures()[name](**given)
    _check(options)
    if options.activations is None:
        data = digits()
    else:
        data = open_activations(options.activations, options.leaf, options.mask)
    batch_size = options.batch_size or min(512, data.rows)
    # Dead is what was not active in ten passes; in long runs, in as many examples as published.
    how.setdefault("dead_after", min(10 * data.rows, 10_000_000))
    how.setdefault("record_every", max(1, options.steps // 100))
    keeps = options.resume or options.checkpoint_every is not None
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with _earlier_aside(options), _advice(keeps):
        with _progress(options.steps) as on_record:
            trained = sae.train(
                jax.random.key(options.seed),
                dictionary,
                data.source,
                optimizer=optax.adam(options.learning_rate),
                steps=options.steps,
                batch_size=batch_size,
                on_record=on_record,
                checkpoint=options.out / CHECKPOINTS if keeps else None,
                checkpoint_every=options.checkpoint_every or 1000,
                resume=options.resume,
                **how,
            )
        seconds = time.perf_counter() - started
        last = {metric: float(values[-1]) for metric, values in trained.history.items()}
        run = {
            "jaxplain": jaxplain.__version__,
            "jax": jax.__version__,
            "architecture": name,
            "options": given,
            "training": {
                "steps": options.steps,
                "batch_size": batch_size,
                "learning_rate": options.learning_rate,
                "seed": options.seed,
                **how,
            },
            "activations": {"name": data.name, "rows": data.rows, "width": data.width},
            "seconds": round(seconds, 3),
            "last": {name: _finite_or_none(value) for name, value in last.items()},
        }
        written = _write(options.out, dictionary, trained, run, data.unseen)
    print(
        f"{name} with {dictionary.latents:,} latents, {options.steps:,} steps of {batch_size:,} "
        f"activations in {seconds:.1f} s: {_shown(last)}"
    )
    if last["skipped"]:
        print(f"steps left out, since something was not finite: {last['skipped']:,.0f}")
    print(f"wrote {options.out}: {', '.join(written)}")
    more = "" if data.unseen is not None else " --activations HELD_OUT"
    print(f"next: jaxplain sae evaluate {options.out}{more}")


def _settings(
    name: str, words: Sequence[str], *, is_digits: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the architecture, and those of `sae.train`."""
    known = parameters(architectures()[name])
    given = _names.parse_options([*known, *TRAINING], words)
    how = {option: given.pop(option) for option in TRAINING if option in given}
    if is_digits:
        given = {option: value for option, value in DIGITS.items() if option in known} | given
    missing = [
        f"--{option.replace('_', '-')}"
        for option, parameter in known.items()
        if parameter.default is parameter.empty and option not in given
    ]
    if missing:
        raise ValueError(f"{name} needs {' and '.join(missing)}; see `sae train {name} --help`.")
    return given, how


def _check(options: argparse.Namespace) -> None:
    """Refuses, before anything is computed, what cannot be run or would replace another run."""
    _bring_back(options.out)
    for option in ("steps", "batch_size", "checkpoint_every"):
        if (value := getattr(options, option)) is not None:
            checks.integer(value, f"--{option.replace('_', '-')}")
    checks.number(options.learning_rate, "--learning-rate", above=0)
    if importlib.util.find_spec("safetensors") is None:
        raise ImportError("the files of dictionaries need pip install 'jaxplain[io]'")
    out = options.out
    if options.resume and options.overwrite:
        raise ValueError("--resume goes on with a run and --overwrite replaces it: give one.")
    if out.exists() and not out.is_dir():
        raise ValueError(f"the output goes to a folder, but {out} is a file: name another.")
    has_checkpoints = (out / CHECKPOINTS).exists()
    there = [name for name in (*_FILES, CHECKPOINTS) if (out / name).exists()]
    if options.resume and there and not has_checkpoints:
        raise FileExistsError(
            f"{out} holds a run without checkpoints, which cannot be gone on with: give "
            "--overwrite, or another --out."
        )
    if there and not options.resume and not options.overwrite:
        mend = "--resume, --overwrite" if has_checkpoints else "--overwrite"
        raise FileExistsError(f"{out / there[0]} exists: give {mend}, or another --out.")


@contextlib.contextmanager
def _earlier_aside(options: argparse.Namespace) -> Iterator[None]:
    """With --overwrite: checkpoints of the earlier run, until the new one has come to its end."""
    now, earlier = options.out / CHECKPOINTS, options.out / EARLIER
    is_moved = options.overwrite and now.exists()
    if is_moved:
        shutil.rmtree(earlier, ignore_errors=True)
        now.rename(earlier)
    try:
        yield
    except BaseException:
        _bring_back(options.out)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _bring_back(out: pathlib.Path) -> None:
    """Puts the checkpoints of an earlier run back, unless the one that replaces it has its own."""
    now, earlier = out / CHECKPOINTS, out / EARLIER
    has_own = now.is_dir() and any(path.name.isdecimal() for path in now.iterdir())
    if earlier.exists() and not has_own:
        shutil.rmtree(now, ignore_errors=True)
        earlier.rename(now)


@contextlib.contextmanager
def _advice(keeps: bool) -> Iterator[None]:
    """Says after Ctrl-C how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        if keeps:
            print("\ngo on from the newest checkpoint with --resume", file=sys.stderr)
        raise


@contextlib.contextmanager
def _progress(steps: int) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """What shows the metrics as they come: a bar, or ten lines where there is no terminal."""
    done = 0
    if importlib.util.find_spec("rich") is None or not sys.stderr.isatty():

        def line(record: Mapping[str, float]) -> None:
            nonlocal done
            step = int(record["step"])
            if 10 * step // steps > 10 * done // steps:
                print(f"step {step:,} of {steps:,}: {_shown(record)}", file=sys.stderr)
            done = step

        yield line
        return
    from jaxplain.run._progress import Progress

    with Progress("training", steps, 0, shown=True, unit="steps") as bar:

        def move(record: Mapping[str, float]) -> None:
            nonlocal done
            bar.say(_shown(record))
            bar.advance(int(record["step"]) - done)
            done = int(record["step"])

        yield move


SHOWN = ("fvu", "l0", "dead")


def _shown(record: Mapping[str, float]) -> str:
    return f"fvu {record['fvu']:.4f}, l0 {record['l0']:.1f}, {record['dead']:.0%} dead"


def _write(
    out: pathlib.Path,
    dictionary: sae.Dictionary,
    trained: sae.Trained,
    run: dict[str, Any],
    unseen: Unseen | None,
) -> list[str]:
    """Makes all files aside, and puts them in place together: a failure leaves what was there."""
    with tempfile.TemporaryDirectory(dir=out, prefix=".new") as folder:
        new = pathlib.Path(folder)
        sae.formats.save_saelens(new, dictionary, trained.params)
        (new / RUN).write_text(json.dumps(run, indent=1) + "\n")
        with (new / "history.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(trained.history)
            writer.writerows(zip(*trained.history.values(), strict=True))
        if unseen is not None:
            np.save(new / HELD_OUT, unseen.activations)
        if importlib.util.find_spec("matplotlib") is None:
            print("no figures: they need pip install 'jaxplain[plot]'", file=sys.stderr)
        else:
            _draw(new, dictionary, trained, unseen)
        written = [name for name in _FILES if (new / name).exists()]
        for name in written:
            os.replace(new / name, out / name)
        for name in set(_FILES) - set(written):  # of an earlier run on something else
            (out / name).unlink(missing_ok=True)
    return written


def _draw(
    folder: pathlib.Path, dictionary: sae.Dictionary, trained: sae.Trained, unseen: Unseen | None
) -> None:
    from jaxplain.cli import _sae_figures

    _sae_figures.training(trained.history).savefig(folder / "training.png", dpi=150)
    if unseen is not None:
        codes = np.asarray(dictionary.encode(trained.params, jnp.asarray(unseen.activations)))
        sizes = np.linalg.norm(np.asarray(trained.params["W_dec"]), axis=1)
        figure = _sae_figures.latents(codes * sizes, unseen.images[..., 0], unseen.labels)
        figure.savefig(folder / "latents.png", dpi=150)


# ------------------------------------------------------------------------------------ what is read


class Read(NamedTuple):
    """A folder of a dictionary: the library whose files they are, and what `train` says of it."""

    format: str
    dictionary: sae.Dictionary
    params: dict[str, jax.Array]
    run: dict[str, Any] | None


def read(folder: pathlib.Path) -> Read:
    """Reads a dictionary in the files of any library that is known, found by their names."""
    if folder.name == "params.npz" or (folder / "params.npz").is_file():
        path = folder / "params.npz" if folder.is_dir() else folder
        return Read("gemma_scope", *sae.formats.load_gemma_scope(path), None)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    for name, files in _FORMATS.items():
        if all((folder / file).is_file() for file in files):
            dictionary, params = getattr(sae.formats, f"load_{name}")(folder)
            run = _read_run(folder) if name == "saelens" else None
            if run is not None:
                dictionary, params = _as_trained(run, dictionary, params)
            return Read(name, dictionary, params, run)
    known = "; ".join(" and ".join(files) for files in _FORMATS.values())
    raise ValueError(f"{folder} holds no dictionary that is known: {known}; or params.npz.")


def _read_run(folder: pathlib.Path) -> dict[str, Any] | None:
    path = folder / RUN
    if not path.is_file():
        return None
    try:
        run = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    is_ours = isinstance(run, dict) and {"options", "training", "activations", "last"} <= set(run)
    return run if is_ours and run.get("architecture") in architectures() else None


def _as_trained(
    run: dict[str, Any], dictionary: sae.Dictionary, params: dict[str, jax.Array]
) -> tuple[sae.Dictionary, dict[str, jax.Array]]:
    """The dictionary as it was trained: in the files of SAELens a batch_topk is a jumprelu."""
    known = parameters(architectures()[run["architecture"]])
    if other := sorted(set(run["options"]) - set(known)):
        raise ValueError(
            f"{RUN} names {', '.join(other)}, which {run['architecture']} does not have: it is of "
            f"another version. Without {RUN} the dictionary is read as SAELens reads it."
        )
    trained = architectures()[run["architecture"]](**run["options"])
    sample = jax.ShapeDtypeStruct((1, params["W_enc"].shape[0]), params["W_enc"].dtype)
    shapes = {
        n: a.shape for n, a in jax.eval_shape(trained.init, jax.random.key(0), sample).items()
    }
    own = dict(params)
    if shapes.get("threshold") == () and "threshold" in own:
        own["threshold"] = own["threshold"][0]  # one for all, which the file repeats
    is_same = shapes == {name: leaf.shape for name, leaf in own.items()}
    return (trained, own) if is_same else (dictionary, params)


# --------------------------------------------------------------------------------------- evaluate


def evaluate(options: argparse.Namespace) -> None:
    """Prints how good a dictionary is on activations that it has not seen."""
    found = read(options.folder)
    if found.dictionary.about.get("is_transcoder"):
        raise ValueError(
            f"{options.folder} is a transcoder, which is measured on pairs of activations: by "
            "jaxplain.sae.evaluate in Python."
        )
    path = options.activations or str(options.folder / HELD_OUT)
    if options.activations is None and not pathlib.Path(path).is_file():
        raise ValueError(
            f"{options.folder} has no {HELD_OUT}, which `sae train` leaves of the digits: give "
            "--activations, some that were held out."
        )
    data = open_activations(path, options.leaf, options.mask)
    width = found.params["W_enc"].shape[0]
    if data.width != width:
        raise ValueError(
            f"{options.folder} is a dictionary for activations of width {width}, but {path} holds "
            f"some of width {data.width}."
        )
    source = data.source
    if isinstance(source, sae.Chunks):
        source = _finite(source.in_order(), path)
    measured = sae.evaluate(
        found.dictionary, found.params, source, sequence_length=options.sequence_length
    )
    print(_as_json(measured) if options.json else _table(measured, path))


def _table(measured: sae.Evaluation, name: str) -> str:
    lines = [f"{measured.examples:,} activations of {name}", ""]
    lines.append(f"{'':<20} {'value':>12} {'standard error':>16}")
    for field, value in measured._asdict().items():
        label = field.replace("_", " ")
        if isinstance(value, sae.Measured):
            lines.append(f"{label:<20} {value.value:>12.5g} {value.standard_error:>16.2g}")
        elif isinstance(value, float):
            lines.append(f"{label:<20} {value:>12.1%}")
    return "\n".join(lines)


def _finite_or_none(value: float) -> float | None:
    """What is not finite is null: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _as_json(measured: sae.Evaluation) -> str:
    """All fields."""
    fields: dict[str, Any] = {}
    for field, value in measured._asdict().items():
        if isinstance(value, sae.Measured):
            fields[field] = {
                name: _finite_or_none(number) for name, number in value._asdict().items()
            }
        else:
            fields[field] = value.tolist() if isinstance(value, np.ndarray) else value
    return json.dumps(fields, indent=1)


# ---------------------------------------------------------------------------------- export and info


def export(options: argparse.Namespace) -> None:
    """Writes a dictionary in the files of another library."""
    known = [name.removeprefix("save_") for name in sae.formats.__all__ if name.startswith("save_")]
    if options.format not in known:
        raise ValueError(f"--format must be {', '.join(known)}, but is {options.format!r}.")
    out = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists: name a new folder.")
    found = read(options.folder)
    getattr(sae.formats, f"save_{options.format}")(out, found.dictionary, found.params)
    print(f"wrote {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")


def info(options: argparse.Namespace) -> None:
    """Prints what a folder of a dictionary holds."""
    found = read(options.folder)
    about = dict(found.dictionary.about)
    print(f"files of       {found.format}")
    print(f"architecture   {about.pop('architecture')} ({_listed(about)})")
    print(f"width          {found.params['W_enc'].shape[0]:,}")
    print(f"latents        {found.dictionary.latents:,}")
    print(f"parameters     {sum(leaf.size for leaf in found.params.values()):,}")
    for name, leaf in found.params.items():
        print(f"  {name:<12} {leaf.dtype} {leaf.shape}")
    for name, axis in (("W_enc", 0), ("W_dec", 1)):
        norms = np.linalg.norm(np.asarray(found.params[name], np.float32), axis=axis)
        label = f"norms of {name}"
        print(f"{label:<15}{norms.min():.4g} to {norms.max():.4g}, mean {norms.mean():.4g}")
    if found.run is not None:
        data = found.run["activations"]
        print(f"trained on     {data['name']}: {data['rows']:,} of width {data['width']:,}")
        print(f"by             {_listed(found.run['training'])}")
        last = found.run["last"]
        numbers = {name: math.nan if last.get(name) is None else last[name] for name in SHOWN}
        print(f"to             {_shown(numbers)}")


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())
