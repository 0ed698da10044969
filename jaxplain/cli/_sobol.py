"""`jaxplain sobol`: sensitivity indices of a function as a table, a file and a chart."""

import argparse
import csv
import pathlib
import tomllib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxplain import sobol
from jaxplain.cli import _names
from jaxplain.sobol import estimators

_PARAMETERS = {"uniform": ("low", "high"), "normal": ("mean", "standard_deviation")}
_FILES = ("indices.csv", "indices.png")


def ishigami(x: Any) -> jax.Array:
    """Sin a + 7 sin^2 b + 0.1 c^4 sin a, each uniform in (-pi, pi)."""
    a, b, c = x["a"], x["b"], x["c"]
    return jnp.sin(a) + 7 * jnp.sin(b) ** 2 + 0.1 * c**4 * jnp.sin(a)


def run(options: argparse.Namespace, rest: list[str]) -> None:
    """Estimates, prints and saves."""
    keywords = _names.parse_options(_names.options_of(sobol.indices), rest)
    for name in ("first_order", "total_order"):
        if isinstance(keywords.get(name), str):
            keywords[name] = _estimator(name, keywords[name])
    f, inputs = ishigami, {name: sobol.uniform(-np.pi, np.pi) for name in "abc"}
    if (options.model is None) != (options.inputs is None):
        raise ValueError(
            "--model and --inputs go together; without both it is Ishigami's function."
        )
    if options.model is not None:
        f, inputs = _names.load(options.model, "--model"), read_inputs(options.inputs)
    if options.group_inputs:
        keywords["groups"] = {name: number for number, name in enumerate(sorted(inputs))}
    if options.out is not None and not options.overwrite:
        for name in _FILES:
            if (options.out / name).exists():
                raise FileExistsError(f"{options.out / name} exists: give --overwrite, or --out.")
    found = sobol.indices(f, inputs, **keywords)(jax.random.key(options.seed))
    level = keywords.get("level", 0.95)
    rows = list(_rows(found, inputs, options.group_inputs))
    print(_table(found, rows, level))
    if options.out is not None:
        _save(options.out, rows)
        print(f"wrote {options.out / _FILES[0]} and {_FILES[1]}")


def read_inputs(path: pathlib.Path) -> dict[str, sobol.Distribution]:
    """The inputs that a TOML file names."""
    try:
        tables = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}.") from None
    if not tables:
        raise ValueError(f"{path} names no inputs: each is a table such as [angle].")
    return {name: _distribution(path, name, table) for name, table in tables.items()}


def _distribution(path: pathlib.Path, name: str, table: Any) -> sobol.Distribution:
    where = f"{path}: [{name}]"
    kind = table.get("distribution") if isinstance(table, dict) else None
    if kind not in _PARAMETERS:
        raise ValueError(
            f"{where} needs distribution = {' or '.join(map(repr, _PARAMETERS))}, but has {kind!r}."
        )
    wanted, given = {"distribution", *_PARAMETERS[kind]}, set(table)
    if wanted != given:
        raise ValueError(f"{where} needs {sorted(wanted)}, but has {sorted(given)}.")
    try:
        low, high = (np.asarray(table[part], np.float32) for part in _PARAMETERS[kind])
        return getattr(sobol, kind)(low, high)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _estimator(option: str, name: str) -> estimators.Estimator:
    known = {
        key: value for key, value in vars(estimators).items() if isinstance(value, sobol.Estimator)
    }
    if name not in known:
        raise ValueError(
            f"--{option.replace('_', '-')} must be one of {', '.join(sorted(known))}, "
            f"but is {name!r}."
        )
    return known[name]


class _Row(NamedTuple):
    """One index of one output, as it is saved."""

    output: str
    input: str
    first_order: float
    first_order_error: float
    first_order_lower: float
    first_order_upper: float
    total_order: float
    total_order_error: float
    total_order_lower: float
    total_order_upper: float


def _rows(found: sobol.Indices, inputs: Any, is_grouped: bool) -> Iterator[_Row]:
    outputs = np.shape(found.mean)
    trees = [
        tree
        for order in ("first_order", "total_order")
        for tree in (
            getattr(found, order),
            getattr(found, f"{order}_error"),
            *getattr(found, f"{order}_interval"),
        )
    ]
    for output in np.ndindex(*outputs):
        label = "" if not outputs else str(list(output))
        for number, name in enumerate(sorted(inputs)):
            if is_grouped:
                numbers = [np.asarray(tree)[(*output, number)] for tree in trees]
                yield _Row(label, name, *map(float, numbers))
                continue
            for place in np.ndindex(*inputs[name].shape):
                numbers = [np.asarray(tree[name])[(*output, *place)] for tree in trees]
                yield _Row(label, name + (str(list(place)) if place else ""), *map(float, numbers))


def _table(found: sobol.Indices, rows: list[_Row], level: float) -> str:
    shown = rows[:40]
    width = max(5, *(len(row.output + row.input) + 1 for row in shown))
    percent = f"{100 * level:g} %"
    lines = [
        f"mean {_numbers(found.mean)}, variance {_numbers(found.variance)}, from "
        f"{int(found.evaluations):,} evaluations ({int(found.rows):,} rows)",
        "",
        f"{'input':<{width}} {'first order':>11}  {percent:^18}   {'total':>8}  {percent:^18}",
    ]
    for row in shown:
        label = f"{row.output} {row.input}".strip()
        lines.append(
            f"{label:<{width}} {row.first_order:>11.4f}  "
            f"({row.first_order_lower:>7.4f}, {row.first_order_upper:>7.4f})   "
            f"{row.total_order:>8.4f}  "
            f"({row.total_order_lower:>7.4f}, {row.total_order_upper:>7.4f})"
        )
    if len(rows) > len(shown):
        lines.append(f"... and {len(rows) - len(shown):,} more: --out saves all")
    if np.any(found.is_constant):
        lines.append("an output does not vary: its indices are 0")
    if not np.all(found.is_converged):
        lines.append("the tolerance was not met: give more --max-samples")
    if int(found.not_finite):
        lines.append(f"{int(found.not_finite):,} outputs were not finite; their rows are left out")
    return "\n".join(lines)


def _numbers(array: Any) -> str:
    flat = np.asarray(array).ravel()
    return ", ".join(f"{number:.6g}" for number in flat[:4]) + (", ..." if flat.size > 4 else "")


def _save(folder: pathlib.Path, rows: list[_Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / _FILES[0], lambda path: _write_csv(path, rows))
    _write(folder / _FILES[1], lambda path: _draw(path, rows))


def _write(path: pathlib.Path, make: Callable[[pathlib.Path], None]) -> None:
    """Made beside its place first: an earlier file stays where making the new one fails."""
    beside = path.with_name(f".{path.name}.new{path.suffix}")
    make(beside)
    beside.replace(path)


def _write_csv(path: pathlib.Path, rows: list[_Row]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(_Row._fields)
        writer.writerows(rows)


def _draw(path: pathlib.Path, rows: list[_Row]) -> None:
    """First-order and total indices of the first output, with their errors."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f"{error}. The chart needs pip install 'jaxplain[plot]'.") from None

    from jaxplain import plots

    own = [row for row in rows if row.output == rows[0].output][:40]
    figure, axes = plt.subplots(1, 2, figsize=(10, 1 + 0.3 * len(own)), layout="constrained")
    for ax, order in zip(axes, ("first_order", "total_order"), strict=True):
        values = np.asarray([getattr(row, order) for row in own])
        errors = np.asarray([getattr(row, f"{order}_error") for row in own])
        plots.bars(values, [row.input for row in own], errors=errors, ax=ax)
        ax.set_title(order.replace("_", " "))
    figure.savefig(path, dpi=150)
    plt.close(figure)
