"""Examples: which are shown, and their inputs, predictions and maps side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxplain.report import _charts, _pictures, _read
from jaxplain.report._format import minus, number, text
from jaxplain.report._read import Run, entry

EACH = 4  # of the best, of the worst, at random
SEED = 0  # the random ones are the same at each writing
BARS = 10
COARSE = 96  # pixels to a side: fewer are drawn as squares


class Choice(NamedTuple):
    """Examples under one heading."""

    heading: str
    indices: list[int]


def section(runs: Sequence[Run]) -> str:
    """Galleries: one for all stores of the same data, another for each other data."""
    parts = ["<h2>Examples</h2>"]
    groups = _groups(runs)
    for group in groups:
        if len(groups) > 1:
            names = ", ".join(text(run.label) for run in group)
            parts.append(f"<h3>{names}</h3>")
        parts.append(_gallery(group, sum(map(len, groups))))
    if len(groups) > 1:
        parts.insert(1, "<p>The data differ between stores, so their examples are shown apart.</p>")
    return "\n".join(parts)


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    groups: list[list[Run]] = []
    for run in runs:
        group = next((g for g in groups if _read.same_data(g[0], run)), None)
        if group is None:
            groups.append([run])
        else:
            group.append(run)
    return groups


def choose(runs: Sequence[Run]) -> tuple[list[Choice], str]:
    """The best, the worst and random examples of the first store that has what to rank by."""
    ranked_by, index, score, name = runs[0], np.zeros(0, np.int64), np.zeros(0), ""
    # First by quality, in any of the stores; then by the gap; then at random only.
    order = [r for r in runs if r.quality is not None] + [r for r in runs if r.quality is None]
    for run in order:
        index, score, name = _read.score(run)
        ranked_by = run
        if name:
            break
    there = (index >= 0) & (index < ranked_by.examples)
    index, score = index[there], score[there]
    done = ranked_by.computed[index]
    index, score = index[done], score[done]
    ranking = np.flatnonzero(np.isfinite(score))
    ranking = ranking[np.argsort(-score[ranking], kind="stable")]
    if not len(index):
        return [], ""
    words = f"Ranked by {name}" + (f", of {ranked_by.label}." if len(runs) > 1 else ".")
    if not name:
        words = "There is nothing to rank the examples by: neither quality nor a gap."
    rest = np.setdiff1d(np.arange(len(index)), ranking, assume_unique=True)
    if len(index) <= 3 * EACH:
        order_of_all = [int(index[i]) for i in (*ranking, *rest)]
        heading = "All examples, the best first" if name and len(index) > 1 else "All examples"
        return [Choice(heading if len(index) > 1 else "The example", order_of_all)], words
    choices = []
    taken: list[int] = []
    if len(ranking) >= 2 * EACH:
        best, worst = ranking[:EACH], ranking[::-1][:EACH]
        choices.append(Choice("Best", [int(index[i]) for i in best]))
        choices.append(Choice("Worst", [int(index[i]) for i in worst]))
        taken = [*best, *worst]
    left = np.setdiff1d(np.arange(len(index)), taken)
    drawn = np.random.default_rng(SEED).choice(left, min(len(left), 3 * EACH - len(taken)), False)
    choices.append(Choice("At random", [int(index[i]) for i in sorted(drawn)]))
    return choices, words


class _Shown(NamedTuple):
    """What is shown of one store: by example, read once."""

    run: Run
    values: dict[int, np.ndarray]
    facts: dict[str, dict[int, np.ndarray]]  # name -> by example
    absolute: bool


def _gallery(runs: Sequence[Run], all_runs: int) -> str:
    choices, words = choose(runs)
    if not choices:
        return "<p>There are no examples to show.</p>"
    indices = [index for choice in choices for index in choice.indices]
    longest = _pictures.side(len(indices) * (all_runs + 1))
    shown = [_read_shown(run, indices) for run in runs]
    inputs: dict[int, np.ndarray] = {}
    for own in reversed(shown):
        inputs |= own.facts["x"]
    parts = [f'<p class="soft">{text(words)}</p>']
    if not inputs:
        parts.append(
            '<p class="soft">The inputs are not in the stores: the maps stand alone. They are kept '
            "with the quality.</p>"
        )
    wide = _width(shown, bool(inputs))
    for choice in choices:
        cards = [_card(shown, index, inputs.get(index), longest) for index in choice.indices]
        parts.append(
            f"<h3>{choice.heading}</h3>\n"
            f'<div class="examples" style="--wide: {wide}px">{"".join(cards)}</div>'
        )
    return "\n".join(parts)


def _width(shown: Sequence[_Shown], with_inputs: bool) -> int:
    """Of one example in pixels, so that its views stand in one line where the screen allows it."""
    shapes = [value.shape for own in shown for value in own.values.values()]
    if any(len(shape) == 1 for shape in shapes):
        return 40 + 340 * len(shown)
    views = len(shown) + with_inputs
    if views <= 2:
        return 265 if all(max(shape, default=1) <= COARSE for shape in shapes) else 480
    return min(1160, 40 + 150 * views)


def _read_shown(run: Run, indices: Sequence[int]) -> _Shown:
    own = [index for index in indices if index < run.examples and run.computed[index]]
    values = _read.rows(run.arrays, "values", own)
    # A saliency map holds magnitudes: nothing is negative.
    absolute = not any(np.any(value < 0) for value in values.values())
    where = {int(run.quality_index[p]): p for p in range(len(run.quality_index))}
    at = {where[index]: index for index in indices if index in where}
    facts = {
        name: {at[p]: value for p, value in _read.rows(run.quality, name, list(at)).items()}
        for name in ("x", "logits", "target", "insertion/area", "deletion/area")
    }
    facts["target"] = {**_read.rows(run.arrays, "target", own), **facts["target"]}
    facts["output"] = _read.rows(run.arrays, "output", own)
    return _Shown(run, values, facts, absolute)


def _card(shown: Sequence[_Shown], index: int, x: np.ndarray | None, longest: int) -> str:
    views = []
    axis = _pictures.channel_axis(x.shape) if x is not None else None
    if x is not None and axis is not None:
        picture = _pictures.photograph(x, axis, longest)
        views.append(_figure(picture, x.shape, f"Input of example {index}", "<b>input</b>"))
    elif x is not None and x.ndim != 1:
        shape = " × ".join(map(str, x.shape)) or "one number"
        views.append(f"<p>Input of shape {shape}: not drawn.</p>")
    wide = False
    for own in shown:
        view, is_wide = _view(own, index, x, longest)
        views.append(view)
        wide |= is_wide
    return (
        f'<article class="example"><h4>Example {index:,}</h4>{_prediction(shown, index)}'
        f'<div class="views{" wide" if wide else ""}">{"".join(views)}</div></article>'
    )


def _view(own: _Shown, index: int, x: np.ndarray | None, longest: int) -> tuple[str, bool]:
    """The attributions of one example by one store; whether they want a wide place."""
    run = own.run
    name = f"<b>{text(run.label)}</b>"
    if index >= run.examples or not run.computed[index]:
        return f"<p>{name}: not computed.</p>", False
    if index not in own.values:
        leaves = sum(1 for field in run.arrays if field.startswith("values/"))
        what = f"a tree of {leaves} arrays" if leaves else "not in the store"
        return f"<p>{name}: not drawn, the values are {what}.</p>", False
    values = own.values[index].astype(np.float64)
    caption = _areas(own, index)
    axis = _pictures.channel_axis(values.shape)
    if axis is not None:
        picture, scale = _pictures.heatmap(values, axis, longest, absolute=own.absolute)
        alternative = f"Attributions of example {index} by {run.label}"
        caption = f"{name}<br>{text(scale)}{caption}"
        return _figure(picture, values.shape, alternative, caption), False
    if values.ndim == 1 and values.size:
        top = np.argsort(-np.nan_to_num(np.abs(values), nan=-1.0), kind="stable")[:BARS]
        names = [_feature(run, int(i), x) for i in top]
        chart = _charts.bars(
            names, values[top], title=f"Attributions of example {index} by {run.label}"
        )
        rest = len(values) - len(top)
        left = f"<br>the {BARS} largest; {rest:,} smaller left out" if rest else ""
        return f"<figure>{chart}<figcaption>{name}{left}{caption}</figcaption></figure>", True
    shape = " × ".join(map(str, values.shape)) or "one number"
    return f"<p>{name}: values of shape {shape} are not drawn.</p>", False


def _figure(picture: str, shape: tuple[int, ...], alternative: str, caption: str) -> str:
    coarse = ' class="coarse"' if max(shape) <= COARSE else ""
    return (
        f'<figure><img{coarse} src="{picture}" alt="{text(alternative)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _feature(run: Run, feature: int, x: np.ndarray | None) -> str:
    names = entry(run.manifest, "about", "feature_names")
    known = isinstance(names, list) and feature < len(names)
    name = str(names[feature]) if known else f"feature {feature}"
    if x is None or x.ndim != 1 or feature >= len(x):
        return name
    short = name if len(name) <= 14 else f"{name[:7]}…{name[-6:]}"
    return f"{short} = {minus(f'{float(x[feature]):.3g}')}"


def _areas(own: _Shown, index: int) -> str:
    words = [
        f"{kind} {number(float(area))}"
        for kind in ("insertion", "deletion")
        if (area := own.facts[f"{kind}/area"].get(index)) is not None and area.ndim == 0
    ]
    return "<br>" + ", ".join(words) if words else ""


def _prediction(shown: Sequence[_Shown], index: int) -> str:
    """What the model says and what is explained: once where the stores agree."""
    by_store = [_facts(own, index) for own in shown]
    together: dict[str, set[str]] = {}
    for facts in by_store:
        for name, value in facts.items():
            together.setdefault(name, set()).add(value)
    if all(len(values) == 1 for values in together.values()):
        words = [f"{name} {value}" for name, values in together.items() for value in values]
        return f"<p>{'; '.join(words)}</p>" if words else ""
    lines = []
    for own, facts in zip(shown, by_store, strict=True):
        if facts:
            words = [f"{name} {value}" for name, value in facts.items()]
            lines.append(f"<p>{text(own.run.label)}: {'; '.join(words)}</p>")
    return "".join(lines)


def _facts(own: _Shown, index: int) -> dict[str, str]:
    facts = {}
    logits, target, output = (own.facts[name].get(index) for name in ("logits", "target", "output"))
    if logits is not None and logits.ndim == 1 and logits.size:
        facts["predicted"] = _probability(own.run, logits.astype(np.float64))
    if target is not None and target.ndim == 0:
        facts["explained"] = f"<b>{_class(own.run, int(target))}</b>"
    if output is not None and output.ndim == 0:
        facts["output"] = number(float(output))
    return facts


def _probability(run: Run, logits: np.ndarray) -> str:
    if not np.isfinite(logits).all():
        return "<b>not finite</b>"
    powers = np.exp(logits - logits.max())
    likely = int(np.argmax(powers))
    share = float(powers[likely] / powers.sum())
    # What is not certain does not read as certain.
    percent = f"{100 * share:.1f}" if share < 0.9995 else "over 99.9"
    return f"<b>{_class(run, likely)}</b> ({percent} %)"


def _class(run: Run, label: int) -> str:
    names = entry(run.manifest, "about", "classes")
    if isinstance(names, list) and 0 <= label < len(names):
        return text(names[label], 60)
    return f"class {label}"
