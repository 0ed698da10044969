"""Charts as inline SVG: they take the page's colours, light or dark, and scale with its width."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxplain.report._format import minus, number, text

WIDTH, HEIGHT = 380.0, 230.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 38.0


class Line(NamedTuple):
    """One curve; `style` is a class of the style sheet."""

    heights: np.ndarray
    errors: np.ndarray
    style: str


def curves(places: np.ndarray, lines: Sequence[Line], *, title: str, across: str) -> str:
    """Curves with bands of one standard error to each side."""
    keep = np.unique(np.linspace(0, len(places) - 1, min(len(places), 101)).astype(int))
    places = places[keep]
    lines = [Line(h[keep], np.nan_to_num(e[keep]), style) for h, e, style in lines]
    low = min(0.0, *(float((h - e).min()) for h, e, _ in lines))
    high = max(float((h + e).max()) for h, e, _ in lines)
    if high <= low:
        high = low + 1.0
    if low > -0.03 * (high - low):
        low = 0.0  # a little noise below zero is worth no line of its own
    ticks = _ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    x = lambda value: LEFT + (WIDTH - LEFT - RIGHT) * value
    y = lambda value: HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / (high - low)
    parts = [_level(y(tick), minus(f"{tick:g}")) for tick in ticks]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_below(x(tick), f"{tick:g}"))
    for heights, errors, style in lines:
        upper = [(x(p), y(v)) for p, v in zip(places, heights + errors, strict=True)]
        lower = [(x(p), y(v)) for p, v in zip(places, heights - errors, strict=True)]
        if errors.any():
            parts.append(f'<polygon class="band {style}" points="{_points(upper + lower[::-1])}"/>')
        line = [(x(p), y(v)) for p, v in zip(places, heights, strict=True)]
        parts.append(f'<polyline class="line {style}" points="{_points(line)}"/>')
    parts.append(_caption(across))
    return _svg(parts, title, HEIGHT)


class Histogram(NamedTuple):
    """Counts of positive numbers in bins of their logarithm; zeros apart."""

    edges: np.ndarray  # exponents of ten
    counts: np.ndarray
    zeros: int


def binned(values: np.ndarray, low: float, high: float, bins: int = 36) -> Histogram:
    """The finite values of magnitudes, between two exponents of ten."""
    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    edges = np.linspace(low, high, bins + 1)
    counts = np.histogram(np.clip(np.log10(positive), low, high), edges)[0]
    return Histogram(edges, counts, int(len(finite) - len(positive)))


def exponents(values: Sequence[np.ndarray]) -> tuple[float, float]:
    """Whole exponents of ten around all positive finite numbers."""
    logarithms = [
        np.log10(v[np.isfinite(v) & (v > 0)]) for v in values if np.any(np.isfinite(v) & (v > 0))
    ]
    if not logarithms:
        return -8.0, 0.0
    low = math.floor(min(float(v.min()) for v in logarithms))
    high = math.ceil(max(float(v.max()) for v in logarithms))
    return float(low), float(max(high, low + 1))


def histogram(bins: Histogram, *, style: str, title: str, across: str) -> str:
    """A histogram over a logarithmic axis."""
    height = 150.0
    low, high = float(bins.edges[0]), float(bins.edges[-1])
    most = max(1, int(bins.counts.max()))
    x = lambda value: LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / (high - low)
    tall = height - TOP - BOTTOM
    parts = [_level(height - BOTTOM, "0"), _level(TOP, f"{most:,}")]
    for left, right, count in zip(bins.edges, bins.edges[1:], bins.counts, strict=False):
        if count:
            size = max(1.0, tall * count / most)
            parts.append(
                f'<rect class="fill {style}" x="{x(left) + 0.4:.1f}" '
                f'y="{height - BOTTOM - size:.1f}" width="{x(right) - x(left) - 0.8:.1f}" '
                f'height="{size:.1f}"/>'
            )
    step = max(1, math.ceil((high - low) / 6))
    for exponent in range(int(low), int(high) + 1, step):
        label = f'10<tspan dy="-4" font-size="8">{minus(str(exponent))}</tspan>'
        parts.append(_below(x(exponent), label, height))
    parts.append(_caption(across, height))
    return _svg(parts, title, height)


def bars(names: Sequence[str], values: np.ndarray, *, title: str) -> str:
    """Signed bars of named features, from the top."""
    height = 21.0 * len(values) + 8
    middle, reach = 238.0, 88.0
    finite = np.abs(values[np.isfinite(values)])
    limit = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    parts = []
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        top = 4 + 21.0 * place
        parts.append(f'<text x="142" y="{top + 13:.0f}" class="name">{text(name, 23)}</text>')
        if not math.isfinite(value):
            parts.append(f'<text x="{middle + 4}" y="{top + 13:.0f}">not finite</text>')
            continue
        size = reach * abs(value) / limit
        start = middle - size if value < 0 else middle
        style = "against" if value < 0 else "for"
        parts.append(
            f'<rect class="{style}" x="{start:.1f}" y="{top + 2:.0f}" width="{size:.1f}" '
            f'height="15"/>'
        )
        shown = number(value).replace("<sup>", "^").replace("</sup>", "")
        parts.append(f'<text x="{WIDTH - 2}" y="{top + 13:.0f}" class="value">{shown}</text>')
    parts.append(f'<line class="axis" x1="{middle}" x2="{middle}" y1="0" y2="{height}"/>')
    return _svg(parts, title, height)


def _svg(parts: Sequence[str], title: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-label="{text(title)}">'
        + "".join(parts)
        + "</svg>"
    )


def _level(y: float, label: str) -> str:
    return (
        f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="value" x="{LEFT - 6:g}" y="{y + 4:.1f}">{label}</text>'
    )


def _below(x: float, label: str, height: float = HEIGHT) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{height - BOTTOM + 15:.1f}">{label}</text>'


def _caption(words: str, height: float = HEIGHT) -> str:
    middle = (LEFT + WIDTH - RIGHT) / 2
    return f'<text class="tick" x="{middle:.1f}" y="{height - 5:.1f}">{text(words)}</text>'


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]
