"""The page, from top to bottom: each part a function that returns HTML."""

import importlib.metadata
import importlib.resources
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxplain.report import _charts, _examples, _read
from jaxplain.report._format import count, number, plain, text, with_error
from jaxplain.report._read import Run, entry, real_entry

# Nothing may run and nothing may be fetched, whatever a text in a store holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LISTED = 50
# Entries of `about` that have a line of their own, or are used elsewhere.
_KNOWN = ("method", "options", "model", "data", "target", "baseline", "classes", "feature_names")


def page(runs: Sequence[Run], title: str | None) -> str:
    """The whole document."""
    title = title or _title(runs)
    parts = [
        _header(runs, title),
        *_notices(runs),
        _tiles(runs),
        _summary(runs),
        _completeness(runs),
        _faithfulness(runs),
        _not_finite(runs),
        _examples.section(runs),
        _reading(runs),
    ]
    style = importlib.resources.files("jaxplain.report").joinpath("style.css").read_text("utf-8")
    version = importlib.metadata.version("jaxplain")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Written by jaxplain {text(version)}.</footer>\n</main>\n</body>\n</html>\n"
    )


def _title(runs: Sequence[Run]) -> str:
    models = _distinct(entry(run.manifest, "about", "model") for run in runs)
    data = _distinct(entry(run.manifest, "about", "data") for run in runs)
    title = "Explanations"
    if len(models) == 1:
        title += f" of {plain(models[0])}"
    if len(data) == 1:
        title += f" on {plain(data[0])}"
    return title


def _distinct(values: Any) -> list[Any]:
    kept: list[Any] = []
    for value in values:
        if value is not None and value not in kept:
            kept.append(value)
    return kept


def _header(runs: Sequence[Run], title: str) -> str:
    methods = (
        " and ".join(text(run.label) for run in runs) if len(runs) < 4 else f"{len(runs)} runs"
    )
    sizes = _distinct(run.examples for run in runs)
    of = count(sizes[0], "example") if len(sizes) == 1 else "examples of different numbers"
    compared = " compared," if len(runs) > 1 else ","
    lead = f'<p class="lead">{methods}{compared} {of}.</p>'
    return f"<header>\n<h1>{text(title)}</h1>\n{lead}\n</header>"


def _notices(runs: Sequence[Run]) -> list[str]:
    notices = []
    for run in runs:
        if not run.manifest.get("finished", True):
            notices.append(
                f"<b>{text(run.label)} is not finished:</b> {int(run.computed.sum()):,} of "
                f"{count(run.examples, 'example')} are computed, and all figures are of these "
                "only. Resume the run to complete it."
            )
        elif run.examples == 0:
            notices.append(f"<b>{text(run.label)} holds no examples.</b> There is nothing to show.")
        if run.quality_problem:
            notices.append(f"The quality of {text(run.label)} {text(run.quality_problem)}")
    if len(_distinct(_read.fingerprint(run, "model") for run in runs)) > 1:
        notices.append(
            "The fingerprints of the models differ: what differs between the runs may come from "
            "the models, and not from the methods."
        )
    return [f'<p class="notice">{notice}</p>' for notice in notices]


# --------------------------------------------------------------------------- figures at a glance


def _tiles(runs: Sequence[Run]) -> str:
    tiles = []
    for run in runs:
        rate = _throughput(run)
        figures = [
            ("examples", f"{int(run.computed.sum()):,}"),
            ("examples a second", "–" if rate is None else number(rate)),
        ]
        gap = _finite(_read.relative_gap(run))
        if gap is not None and len(gap):
            figures.append(("relative gap, median", number(float(np.median(gap)), 2)))
        for kind in ("deletion", "insertion"):
            curve = _read.curves(run, kind)
            if curve is not None:
                better = "lower is better" if kind == "deletion" else "higher is better"
                figures.append(
                    (f"{kind} minus random, {better}", with_error(*map(float, curve.difference)))
                )
        lost = len(_read.not_finite(run))
        if lost:
            figures.append(("not finite", f"{lost:,}"))
        inside = "".join(f"<div><dt>{n}</dt><dd>{v}</dd></div>" for n, v in figures)
        tiles.append(f'<section class="tile"><h3>{text(run.label)}</h3><dl>{inside}</dl></section>')
    return '<div class="tiles">' + "".join(tiles) + "</div>"


def _throughput(run: Run) -> float | None:
    computed = real_entry(run.manifest, "computed_examples")
    seconds = real_entry(run.manifest, "seconds", "run")
    return computed / seconds if computed and seconds and seconds > 0 else None


def _finite(values: np.ndarray | None) -> np.ndarray | None:
    return None if values is None else values[np.isfinite(values)]


# -------------------------------------------------------------------------------------- the runs


def _summary(runs: Sequence[Run]) -> str:
    about = lambda name: lambda run: entry(run.manifest, "about", name)
    rows: list[tuple[str, Callable[[Run], Any]]] = [
        ("Method", about("method")),
        ("Options", about("options")),
        ("Model", about("model")),
        ("Data", about("data")),
        ("Target", about("target")),
        ("Baseline", about("baseline")),
    ]
    others = _distinct(
        name
        for run in runs
        if isinstance(entry(run.manifest, "about"), dict)
        for name in run.manifest["about"]
        if name not in _KNOWN
    )
    rows += [(str(name).replace("_", " ").capitalize(), about(name)) for name in others]
    rows += [
        ("Examples", lambda run: f"{run.examples:,}"),
        ("Throughput", _throughput_words),
        ("Running", lambda run: _seconds(real_entry(run.manifest, "seconds", "run"))),
        ("Compiling", lambda run: _seconds(real_entry(run.manifest, "seconds", "compile"))),
        ("Batch size", lambda run: entry(run.manifest, "batch_size")),
        ("Devices", _devices),
        ("Versions", _versions),
        ("Fields", _fields),
        ("Fingerprints", _fingerprints),
        ("Key", lambda run: _short(entry(run.manifest, "key"))),
        ("Created", lambda run: entry(run.manifest, "created")),
        ("Store", lambda run: f"{run.path.name}, format {plain(run.manifest['format_version'])}"),
    ]
    body = []
    for name, value in rows:
        cells = [value(run) for run in runs]
        if any(cell is not None for cell in cells):
            inside = "".join(f"<td>{text(cell, 1000)}</td>" for cell in cells)
            body.append(f'<tr><th scope="row">{text(name, 60)}</th>{inside}</tr>')
    head = "".join(f'<th scope="col">{text(run.label)}</th>' for run in runs)
    return "<h2>What was run</h2>\n" + _table(
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(body)}</tbody>", "What was run"
    )


def _table(inside: str, name: str) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(name)}">'
        f"<table>{inside}</table></div>"
    )


def _throughput_words(run: Run) -> str | None:
    rate = _throughput(run)
    if rate is None:
        return None
    return (f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}") + " examples a second"


def _seconds(value: float | None) -> str | None:
    if value is None:
        return None
    if value < 120:
        return f"{value:.3g} s"
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def _devices(run: Run) -> str | None:
    devices, platform, kind = (
        entry(run.manifest, name) for name in ("devices", "platform", "device_kind")
    )
    if devices is None and platform is None and kind is None:
        return None
    known = [plain(value) for value in dict.fromkeys((platform, kind)) if value is not None]
    return f"{plain(devices)} × {', '.join(known)}" if devices is not None else ", ".join(known)


def _versions(run: Run) -> str | None:
    versions = entry(run.manifest, "versions")
    if not isinstance(versions, dict) or not versions:
        return None
    return ", ".join(f"{name} {plain(version)}" for name, version in versions.items())


def _fields(run: Run) -> str | None:
    fields = entry(run.manifest, "fields")
    if not isinstance(fields, dict):
        return None
    words = []
    for name, field in fields.items():
        shape = entry(field, "shape")
        dimensions = " × ".join(map(str, shape)) + " " if isinstance(shape, list) and shape else ""
        words.append(f"{name} ({dimensions}{plain(entry(field, 'dtype'))})")
    return ", ".join(words)


def _fingerprints(run: Run) -> str | None:
    fingerprints = entry(run.manifest, "fingerprints")
    if not isinstance(fingerprints, dict) or not fingerprints:
        return None
    return ", ".join(f"{name} {_short(value)}" for name, value in fingerprints.items())


def _short(value: Any) -> str | None:
    return None if value is None else plain(value)[:12]


# --------------------------------------------------------------------------------------- quality


def _completeness(runs: Sequence[Run]) -> str:
    parts = []
    for title, about, across, read in (
        (
            "Completeness",
            "How far the attributions are from summing to what they explain: |gap| / |output − "
            "baseline output|, for each example.",
            "relative completeness gap",
            _read.relative_gap,
        ),
        (
            "Estimated error",
            "What each example says of its own error, relative to the norm of its attributions.",
            "estimated relative error",
            _read.estimated_error,
        ),
    ):
        found = [(place, run, read(run)) for place, run in enumerate(runs)]
        with_values = [
            (place, run, v) for place, run, v in found if v is not None and np.isfinite(v).any()
        ]
        if not with_values:
            continue
        low, high = _charts.exponents([v for _, _, v in with_values])
        charts, rows = [], []
        for place, run, values in with_values:
            bins = _charts.binned(values, low, high)
            chart = _charts.histogram(
                bins, style=_style(place), title=f"{across} of {run.label}", across=across
            )
            charts.append(
                f'<figure class="chart">{_key(run, place)}{chart}'
                f"<figcaption>examples in each bin</figcaption></figure>"
            )
            rows.append(_quantiles(run, values, bins.zeros))
        head = "".join(
            f'<th scope="col">{name}</th>'
            for name in ("median", "95 % below", "99 % below", "largest", "exactly 0", "examples")
        )
        table = _table(
            f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>", title
        )
        left = [
            f"{text(run.label)}: {count(lost, 'computed example')} left out, whose figure is not "
            "finite."
            for _, run, values in with_values
            if (lost := int(np.sum(~np.isfinite(values) & run.computed)))
        ]
        parts.append(
            f"<h2>{title}</h2>\n<p>{about}</p>\n"
            + f'<div class="charts">{"".join(charts)}</div>\n<h3>Quantiles</h3>\n{table}'
            + "".join(f'<p class="soft">{line}</p>' for line in left)
        )
    if not parts:
        return (
            "<h2>Completeness</h2>\n<p>The stores hold neither a completeness gap nor an estimated "
            "error: their methods do not sum to the output.</p>"
        )
    return "\n".join(parts)


def _quantiles(run: Run, values: np.ndarray, zeros: int) -> str:
    finite = values[np.isfinite(values)]
    figures = [number(float(np.quantile(finite, q)), 2) for q in (0.5, 0.95, 0.99, 1.0)]
    cells = [*figures, f"{zeros:,}", f"{len(finite):,}"]
    inside = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{text(run.label)}</th>{inside}</tr>'


def _faithfulness(runs: Sequence[Run]) -> str:
    title = "<h2>Deletion and insertion</h2>\n"
    absent = [run for run in runs if run.quality is None]
    missing = ""
    if absent:
        names = ", ".join(text(run.label) for run in absent)
        missing = f"<p>Quality was not measured for {names}.</p>"
        if len(absent) == len(runs):
            return (
                title + "<p>Quality was not measured: the stores hold no deletion or insertion.</p>"
            )
    charts, tables = [], []
    for kind, better in (("deletion", "lower"), ("insertion", "higher")):
        found = [
            (place, run, curve)
            for place, run in enumerate(runs)
            if (curve := _read.curves(run, kind)) is not None
        ]
        if not found:
            missing += f"<p>{kind.capitalize()} was not measured, or of no finite example.</p>"
            continue
        keys, rows = "", []
        lines: list[_charts.Line] = []
        for place, run, curve in found:
            style = _style(place)
            lines.append(_charts.Line(*curve.scores, style))
            lines.append(_charts.Line(*curve.random_scores, f"random {style}"))
            keys += _key(run, place) + f'<span class="key random {style}">random order</span>'
            means = (curve.difference, curve.area, curve.random_area)
            figures = [
                *(with_error(float(m.mean), float(m.error)) for m in means),
                f"{curve.examples:,}",
                f"{curve.left_out:,}",
            ]
            inside = "".join(f'<td class="n">{figure}</td>' for figure in figures)
            rows.append(f'<tr><th scope="row">{text(run.label)}</th>{inside}</tr>')
        same = all(np.array_equal(curve.fractions, found[0][2].fractions) for _, _, curve in found)
        if same:
            words = "fraction of features " + ("removed" if kind == "deletion" else "put in")
            chart = _charts.curves(
                found[0][2].fractions, lines, title=f"{kind} curves", across=words
            )
        else:
            chart = "<p>The curves have different steps and are not drawn together.</p>"
        charts.append(
            f'<figure class="chart"><h4>{kind.capitalize()}: {better} is better</h4>{chart}'
            f"<div>{keys}</div></figure>"
        )
        head = "".join(
            f'<th scope="col">{name}</th>'
            for name in ("area − random", "area", "random", "examples", "left out")
        )
        tables.append(
            f"<h3>{kind.capitalize()}, {better} is better</h3>\n"
            + _table(
                f"<thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>",
                f"Areas under the {kind} curves",
            )
            + _paired([run for _, run, _ in found], kind)
        )
    if not charts:
        return title + missing
    about = (
        "<p>What the model says as features are removed, or put in, in the order of their "
        "attributions, the largest first; random orders beside it. Areas are means over examples ± "
        "their standard errors, the difference taken example by example. Bands: ± one standard "
        "error.</p>"
    )
    return (
        title + about + missing + f'<div class="charts">{"".join(charts)}</div>' + "".join(tables)
    )


def _paired(runs: Sequence[Run], kind: str) -> str:
    """Each further store against the first, on the examples that both have measured."""
    first = runs[0]
    lines = []
    for run in runs[1:]:
        if _read.same_data(first, run) and (pairs := _read.paired(first, run, kind)) is not None:
            difference, examples = pairs
            lines.append(
                f"<p>{text(run.label)} minus {text(first.label)}, in area, example by example: "
                f"{with_error(float(difference.mean), float(difference.error))} "
                f"({count(examples, 'example')}).</p>"
            )
    return "".join(lines)


def _not_finite(runs: Sequence[Run]) -> str:
    parts = []
    for run in runs:
        bad = _read.not_finite(run)
        if not len(bad):
            continue
        listed = ", ".join(str(int(i)) for i in bad[:_LISTED])
        more = f", and {len(bad) - _LISTED:,} more" if len(bad) > _LISTED else ""
        parts.append(
            f'<p class="notice"><b>{text(run.label)}: {count(len(bad), "example")} of '
            f"{int(run.computed.sum()):,} not finite.</b> Input, output or attributions hold NaN "
            f"or infinity. Their indices: {listed}{more}.</p>"
        )
    if not parts:
        if not any(run.computed.any() for run in runs):
            return ""
        parts.append("<p>All computed examples are finite.</p>")
    return "<h2>Not finite</h2>\n" + "\n".join(parts)


def _reading(runs: Sequence[Run]) -> str:
    if not any(run.examples for run in runs):
        return ""
    return (
        "<h2>How to read this page</h2>\n"
        "<p>Red speaks for the explained output, blue against it. Each map has its own scale, "
        "which stands below it, and values beyond it take the last colour; maps of magnitudes only "
        "are violet. Amber is not finite.</p>\n"
        "<p>A completeness gap near zero says that an integral was computed well, and nothing "
        "about whether it is the right question. Deletion and insertion ask the model itself, with "
        "inputs it may never have seen: only the difference to random orders is to be read.</p>"
    )


def _style(place: int) -> str:
    return f"s{place % 4}"


def _key(run: Run, place: int) -> str:
    return f'<span class="key {_style(place)}">{text(run.label)}</span>'
