"""The command line: demo, attribute, sobol, sae, report, info. Each calls functions of the library.

Errors a user can mend are one line and a non-zero status, never a traceback.
"""

import argparse
import fractions
import functools
import os
import pathlib
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_ATTRIBUTE_EXAMPLES = """\
examples:
  jaxplain attribute --model my_model:load --data digits.npz:images --scale 1/16 --out ig.zarr
  jaxplain attribute --model my_model:load --data x.npy --method integrated_gradients \\
      --steps 64 --rule paths.gauss_legendre --baseline mean --target 3 --out ig.zarr
  jaxplain attribute --model my_model:load --data my_data:batches --tolerance 0.02 --out ig.zarr
  jaxplain report ig.zarr saliency.zarr --out report.html

The model is named by a function without arguments that returns (apply, params), where
apply(params, batch) gives scores (batch, classes), or one number for each example with
--score output. jaxplain.adapters.nnx(model) makes the pair from a Flax model:

  # my_model.py
  def load():
      return jaxplain.adapters.nnx(MyModel(...))

Options of the method are given by their names in its signature, with dashes for underscores;
`jaxplain attribute --method NAME --help` lists them. A run that was stopped goes on with --resume,
with the same options; finished batches are not computed again.
"""

_SOBOL_EXAMPLES = """\
examples:
  jaxplain sobol                                     # the Ishigami function
  jaxplain sobol --model my_model:f --inputs inputs.toml --samples 16384 --out result
  jaxplain sobol --model my_model:f --inputs inputs.toml --tolerance 0.01 --errors scrambles

The model is a function of a dict of inputs in JAX, f(x) -> a number or an array. Each table of the
file of inputs is one of them; its elements are factors of their own:

  # inputs.toml
  [angle]
  distribution = "uniform"
  low = -3.14
  high = 3.14

  [weights]
  distribution = "normal"
  mean = [0.0, 0.0, 1.0]
  standard_deviation = 0.5
"""

_SAE_EXAMPLES = """\
examples:
  jaxplain sae train                                 # topk on a layer of the demo's network
  jaxplain sae train batch_topk --latents 256 --k 8 --steps 4000 --out digits_sae
  jaxplain sae train jumprelu --latents 16384 --l0-coefficient 1e-3 --target-l0 32 \\
      --activations activations.zarr --leaf h --steps 50000 --batch-size 4096 \\
      --checkpoint-every 1000 --out my_sae
  jaxplain sae evaluate my_sae --activations held_out.npy
  jaxplain sae export my_sae --format sparsify --out my_sae_sparsify
  jaxplain sae info my_sae

The architecture is a function of jaxplain.sae, and its options are given by their names in its
signature, with dashes for underscores; `jaxplain sae train ARCHITECTURE --help` lists them. A run
with checkpoints that was stopped goes on with --resume and the same options.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    parser = _parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(words)
    if options.version:
        import jaxplain

        print(f"jaxplain {jaxplain.__version__}")
        return 0
    if options.command is None:
        parser.print_help()
        return 2
    if rest and not options.takes_rest:
        options.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        status = options.run(options, rest)
    except KeyboardInterrupt:
        print(f"\n{options.parser.prog}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, ImportError, TypeError, ValueError, NotImplementedError) as error:
        if os.environ.get("JAXPLAIN_TRACEBACK"):
            raise
        print(f"{options.parser.prog}: {_one_line(error)}", file=sys.stderr)
        return 1
    return int(status or 0)


def _one_line(error: BaseException) -> str:
    """The message on one line; of what JAX says about a model, the first paragraph."""
    text = str(error).split("\n\n")[0]
    return " ".join(text.split()) or type(error).__name__


def _command(
    among: Any,
    name: str,
    run: Callable[..., Any],
    summary: str,
    *,
    rest: bool = False,
    **texts: Any,
) -> Any:
    """The parser of one command; with `rest` the command reads itself what is not known here."""
    made = among.add_parser(
        name,
        help=summary,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=not rest,
        **texts,
    )
    made.set_defaults(run=run, parser=made, takes_rest=rest)
    if rest:
        made.add_argument("-h", "--help", action="store_true", help="print this and stop")
    return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxplain", description="Explain neural networks from inside JAX."
    )
    parser.add_argument("--version", action="store_true", help="print the version and stop")
    subparsers = parser.add_subparsers(dest="command", metavar="command")

    command = functools.partial(_command, subparsers)
    demo = command(
        "demo",
        _run_demo,
        "train a small network on real digits, explain all of them by two methods, and look",
        description=(
            "Trains a small Flax NNX network on scikit-learn's 1,797 digits, explains every one\n"
            "by Integrated Gradients and by input x gradient, tests the maps by deletion and\n"
            "insertion against random orderings, and writes the stores and one page that\n"
            "compares them. Downloads nothing; needs pip install 'jaxplain[demo]'."
        ),
    )
    demo.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("demo_output"),
        help="folder of what is written (default: %(default)s); an earlier demo's is replaced",
    )
    demo.add_argument(
        "--steps", type=int, default=32, help="gradients for each digit (default: %(default)s)"
    )
    demo.add_argument(
        "--batch-size", type=int, default=128, help="digits at once (default: %(default)s)"
    )

    attribute = command(
        "attribute",
        _run_attribute,
        "explain a dataset with a model, into a store on disk",
        description=(
            "Explains every example of a dataset, sharded over the devices of this machine,\n"
            "into a folder of zarr arrays; then tests a sample by deletion and insertion."
        ),
        epilog=_ATTRIBUTE_EXAMPLES,
        rest=True,
    )
    what = attribute.add_argument_group("what is explained")
    what.add_argument("--model", metavar="PACKAGE.MODULE:FUNCTION", help="returns (apply, params)")
    what.add_argument(
        "--data",
        metavar="DATA",
        help=(
            "file.npy, file.npz:key, folder.zarr, file.parquet, or package.module:function, which "
            "returns an array or an iterator of batches"
        ),
    )
    what.add_argument(
        "--scale",
        help="multiply the examples by this, as float32: 1/255 for bytes",
    )
    what.add_argument(
        "--score",
        default="logit",
        help="what of the model: logit (default), log_probability, probability, output",
    )
    what.add_argument(
        "--target",
        default="predicted",
        help="which class: predicted (default), a number, or file.npy with one for each example",
    )
    what.add_argument(
        "--classes", metavar="FILE", help="names of the classes for the report, one on each line"
    )
    how = attribute.add_argument_group("how")
    how.add_argument(
        "--method",
        default="integrated_gradients",
        help="a public function of the library (default: %(default)s); its options as --name value",
    )
    how.add_argument(
        "--baseline",
        default="zeros",
        help="zeros (default), mean, or file.npy in units of the data; for methods with a baseline",
    )
    how.add_argument(
        "--baselines",
        default="64",
        metavar="N",
        help=(
            "how many examples of the data to compare with (default: %(default)s), or file.npy "
            "with one in each row; for methods with several baselines"
        ),
    )
    how.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of methods that draw at random (default: %(default)s)",
    )
    how.add_argument(
        "--batch-size",
        type=int,
        help="examples at once over all devices (default: 32 for each device)",
    )
    how.add_argument(
        "--chunk-size",
        type=int,
        default=1,
        help="points at once in each example (default: %(default)s; 1 to 4 are good)",
    )
    how.add_argument(
        "--quality",
        type=int,
        default=64,
        metavar="N",
        help="examples tested by deletion and insertion (default: %(default)s; 0: none)",
    )
    where = attribute.add_argument_group("where to")
    where.add_argument("--out", type=pathlib.Path, help="the folder of the store")
    where.add_argument("--resume", action="store_true", help="go on with the store at --out")
    where.add_argument(
        "--dry-run",
        action="store_true",
        help="print shapes, bytes, batches and the memory that is needed, and stop",
    )

    sobol = command(
        "sobol",
        _run_sobol,
        "estimate which inputs of a function its output depends on",
        description=(
            "Estimates first-order and total Sobol indices of a function of independent inputs,\n"
            "with intervals, prints them, and saves a table and a chart."
        ),
        epilog=_SOBOL_EXAMPLES,
        rest=True,
    )
    sobol.add_argument(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="the function (default: the Ishigami function)",
    )
    sobol.add_argument("--inputs", type=pathlib.Path, metavar="FILE.toml", help="see below")
    sobol.add_argument(
        "--group-inputs",
        action="store_true",
        help="each input as a whole, in place of each of its elements",
    )
    sobol.add_argument("--seed", type=int, default=0, help="of the points (default: %(default)s)")
    sobol.add_argument(
        "--out", type=pathlib.Path, help="a folder for indices.csv and the chart indices.png"
    )
    sobol.add_argument(
        "--overwrite", action="store_true", help="replace these files where they exist"
    )

    _add_sae(command)

    report = command(
        "report", _run_report, "write one HTML page of a store, or of several that are compared"
    )
    report.add_argument("stores", nargs="+", type=pathlib.Path, metavar="STORE")
    report.add_argument(
        "--out",
        type=pathlib.Path,
        help="the page (default: report.html in the store, or here for several)",
    )
    report.add_argument("--title", help="the title of the page")

    info = command("info", _run_info, "print what a store holds")
    info.add_argument("store", type=pathlib.Path, metavar="STORE")
    return parser


def _add_sae(command: Callable[..., Any]) -> None:
    """The commands for dictionaries, each a word after `sae`."""
    sae = command(
        "sae",
        _run_sae,
        "train a sparse dictionary, measure it, write it for other libraries",
        epilog=_SAE_EXAMPLES,
    )
    add = functools.partial(
        _command, sae.add_subparsers(dest="action", metavar="train|evaluate|export|info")
    )

    train = add(
        "train",
        _run_sae_train,
        "train a dictionary on activations",
        usage="jaxplain sae train [ARCHITECTURE] [options]",
        description=(
            "Trains a sparse dictionary, `topk` unless another is named, and writes it as SAELens\n"
            "reads it, with its history, what was run, and figures. Without --activations it is\n"
            "trained on a hidden layer of the demo's network, on scikit-learn's digits: nothing\n"
            "is downloaded, it takes seconds, and needs pip install 'jaxplain[demo,io]'. A latent\n"
            "is dead that was not active in ten passes, unless --dead-after is given."
        ),
        epilog=_SAE_EXAMPLES,
        rest=True,
    )
    _add_activations(train, "what it is trained on (default: the demo's digits)")
    train.add_argument(
        "--steps", type=int, default=2000, help="of the optimiser, Adam (default: %(default)s)"
    )
    train.add_argument(
        "--batch-size", type=int, help="activations in a step (default: 512, or all if fewer)"
    )
    train.add_argument(
        "--learning-rate", type=float, default=1e-3, help="of Adam (default: %(default)s)"
    )
    train.add_argument(
        "--seed",
        type=int,
        default=0,
        help="of the start and the order of the activations (default: %(default)s)",
    )
    train.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="N",
        help="keep the state of the run after every N steps (default: never)",
    )
    train.add_argument(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("sae_output"),
        help="folder of what is written (default: %(default)s)",
    )
    train.add_argument("--resume", action="store_true", help="go on with the run in --out")
    train.add_argument(
        "--overwrite", action="store_true", help="replace what an earlier run wrote to --out"
    )

    evaluate = add("evaluate", _run_sae_action, "measure a dictionary on held-out activations")
    evaluate.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    _add_activations(
        evaluate, "what it is measured on (default: the unseen digits that `train` leaves)"
    )
    evaluate.add_argument(
        "--sequence-length",
        type=int,
        default=1,
        metavar="N",
        help="so many rows in a row are of one sequence, for standard errors (default: 1)",
    )
    evaluate.add_argument("--json", action="store_true", help="print JSON in place of a table")

    export = add("export", _run_sae_action, "write a dictionary as another library reads it")
    export.add_argument("folder", type=pathlib.Path, metavar="FOLDER")
    export.add_argument("--format", required=True, help="saelens, sparsify or dictionary_learning")
    export.add_argument("--out", type=pathlib.Path, required=True, help="a new folder")

    info = add("info", _run_sae_action, "print what a folder of a dictionary holds")
    info.add_argument("folder", type=pathlib.Path, metavar="FOLDER")


def _add_activations(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--activations", metavar="FILE", help=f"file.npy or a store: {what}")
    parser.add_argument("--leaf", help="of a store: the array of activations (default: values)")
    parser.add_argument("--mask", help="of a store: the array that says which rows count")


def import_demo() -> Any:
    """The demo, or what to install."""
    try:
        from jaxplain import demo
    except ImportError as error:
        raise ImportError(f"{error}. Try: pip install 'jaxplain[demo]'") from None
    return demo


def _run_demo(options: argparse.Namespace, _: list[str]) -> None:
    demo = import_demo()
    demo.run(options.out, steps=options.steps, batch_size=options.batch_size)


def _run_attribute(options: argparse.Namespace, rest: list[str]) -> int | None:
    from jaxplain.cli import _names
    from jaxplain.run import _attribute

    method = _names.method(options.method)
    if options.help:
        _print_help(options, options.method, method, _names.options_of(method))
        print(f"\nmethods: {', '.join(sorted(n for n in _names.methods() if '.' in n))}")
        return 0
    keywords = _names.parse_options(_names.options_of(method), rest)
    missing = [n for n in ("model", "data", "out") if getattr(options, n) is None]
    if options.dry_run and "out" in missing:
        missing.remove("out")
    if missing:
        raise ValueError(f"needs {' and '.join('--' + name for name in missing)}; see --help.")
    if options.quality < 0:
        raise ValueError(f"--quality must be at least 0, but is {options.quality}.")
    request = _request(options, method, keywords)
    if options.dry_run:
        _print_plan(_attribute.plan(request, batch_size=options.batch_size))
        return 0
    summary = _attribute.attribute(
        request, options.out, batch_size=options.batch_size, resume=options.resume
    )
    speed = summary.computed / summary.seconds if summary.computed else 0.0
    print(
        f"{summary.examples:,} examples in {options.out}: {summary.computed:,} computed in "
        f"{summary.seconds:.1f} s ({speed:,.1f} examples/s), compiled in "
        f"{summary.compile_seconds:.1f} s"
    )
    if summary.not_finite:
        print(f"{summary.not_finite:,} of them are not finite: `jaxplain report` lists them")
    print(f"next: jaxplain report {options.out}")
    return 0


def _request(options: argparse.Namespace, method: Any, keywords: dict[str, Any]) -> Any:
    from jaxplain.cli import _data, _names
    from jaxplain.run import _attribute

    if options.score not in _attribute.SCORES:
        raise ValueError(
            f"--score must be one of {', '.join(_attribute.SCORES)}, but is {options.score!r}."
        )
    factory = _names.load(options.model, "--model")
    if not callable(factory):
        raise ValueError(
            f"--model {options.model} must be a function that returns (apply, params), but is a "
            f"{type(factory).__name__}."
        )
    made = _names.call(factory, options.model, "--model")
    if not isinstance(made, tuple) or len(made) != 2 or not callable(made[0]):
        raise ValueError(
            f"--model {options.model} must return (apply, params), with apply(params, batch) a "
            f"function, but returned a {type(made).__name__}. `jaxplain.adapters.nnx(model)` makes "
            "the pair."
        )
    data = _data.open_data(options.data)
    about: dict[str, Any] = {"model": options.model, "data": data.name}
    if data.feature_names:
        about["feature_names"] = data.feature_names
    if options.classes is not None:
        about["classes"] = pathlib.Path(options.classes).read_text().splitlines()
    scale = None
    if options.scale is not None:
        try:
            scale = float(fractions.Fraction(options.scale))
        except (ValueError, ZeroDivisionError):
            raise ValueError(
                f"--scale must be a number such as 0.5 or 1/255, but is {options.scale!r}."
            ) from None
    return _attribute.Request(
        apply=made[0],
        params=made[1],
        examples=data.array,
        batches=data.batches,
        method=method,
        options=keywords,
        chunk_size=options.chunk_size,
        score=options.score,
        target=_target(options.target),
        baseline=_baseline(options.baseline),
        baselines=_baselines(options.baselines),
        seed=options.seed,
        scale=scale,
        quality=options.quality,
        about=about,
    )


def _target(text: str) -> Any:
    if text == "predicted":
        return text
    if text.endswith(".npy"):
        from jaxplain.cli import _data

        labels = _data.read_numpy(text, "--target")
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise ValueError(
                f"--target {text} must hold one integer for each example, but holds shape "
                f"{labels.shape} of dtype {labels.dtype}."
            )
        return labels.astype("int32")
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"--target must be predicted, a class number or file.npy, but is {text!r}."
        ) from None


def _baseline(text: str) -> Any:
    if text in ("zeros", "mean"):
        return text
    if text.endswith(".npy"):
        from jaxplain.cli import _data

        return _data.read_numpy(text, "--baseline")
    raise ValueError(f"--baseline must be zeros, mean or file.npy, but is {text!r}.")


def _baselines(text: str) -> Any:
    if text.endswith(".npy"):
        from jaxplain.cli import _data

        return _data.read_numpy(text, "--baselines")
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--baselines must be a number or file.npy, but is {text!r}.")
    return int(text)


def _print_plan(plan: Any) -> None:
    def size(number: int | None) -> str:
        if number is None:
            return "not known"
        units = ("bytes", "KiB", "MiB", "GiB", "TiB")
        power = min(len(units) - 1, max(0, (int(number).bit_length() - 1) // 10))
        return f"{number / 1024**power:,.1f} {units[power]}" if power else f"{number:,} bytes"

    count = lambda number: "not known before the end" if number is None else f"{number:,}"
    print(f"examples          {count(plan.examples)}")
    print(
        f"batches           {count(plan.batches)} of {plan.batch_size:,} on {plan.devices} devices"
    )
    print(f"on disk           {size(plan.bytes_on_disk)} before compression")
    print(f"on each device    {size(plan.bytes_on_device)}")
    print(f"compiled in       {plan.compile_seconds:.1f} s")
    print("for each example:")
    for name, leaf in plan.fields.items():
        print(f"  {name:<24} {leaf.dtype} {tuple(leaf.shape)}")


def _run_sobol(options: argparse.Namespace, rest: list[str]) -> None:
    from jaxplain import sobol
    from jaxplain.cli import _names, _sobol

    if options.help:
        _print_help(options, "sobol.indices", sobol.indices, _names.options_of(sobol.indices))
    else:
        _sobol.run(options, rest)


def _run_sae(options: argparse.Namespace, _: list[str]) -> int:
    options.parser.print_help()
    return 2


def _run_sae_train(options: argparse.Namespace, rest: list[str]) -> None:
    from jaxplain import sae
    from jaxplain.cli import _sae

    name, function, words = _sae.architecture_of(rest)
    if not options.help:
        _sae.train(options, name, words)
        return
    _print_help(options, name, function, _sae.parameters(function))
    _print_options("training", sae.train, _sae.TRAINING)
    print(f"\narchitectures: {', '.join(_sae.architectures())}")


def _run_sae_action(options: argparse.Namespace, _: list[str]) -> None:
    from jaxplain.cli import _sae

    run = {"evaluate": _sae.evaluate, "export": _sae.export, "info": _sae.info}
    run[options.action](options)


def _print_help(
    options: argparse.Namespace, name: str, function: Any, known: Iterable[str]
) -> None:
    """The help of the command, and the options of a function from its docstring."""
    options.parser.print_help()
    _print_options(name, function, known)


def _print_options(name: str, function: Any, known: Iterable[str]) -> None:
    from jaxplain.cli import _names

    print(f"\noptions of {name}:")
    for option in known:
        text = textwrap.wrap(_names.describe(function, option), 72)
        print("\n      ".join([f"  --{option.replace('_', '-')}", *text]))


def _run_report(options: argparse.Namespace, _: list[str]) -> None:
    from jaxplain import report

    default = options.stores[0] / "report.html" if len(options.stores) == 1 else "report.html"
    page = report.write(options.stores, options.out or pathlib.Path(default), title=options.title)
    print(f"wrote {page}")


def _run_info(options: argparse.Namespace, _: list[str]) -> None:
    import json

    from jaxplain import store

    opened = store.open(options.store)
    manifest = dict(opened.manifest)
    fields = manifest.pop("fields")
    print(json.dumps(manifest, indent=2))
    batches = store.finished_batches(opened)
    print(f"finished batches: {len(batches)}")
    for name, field in fields.items():
        print(f"  {name:<24} {field['dtype']:<10} {tuple(opened.arrays[name].shape)}")
