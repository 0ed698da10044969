"""Numbers and texts as they stand on the page. All that is not ours goes through `text`."""

import html
import math
import re
from collections.abc import Mapping
from typing import Any

# Control characters, halves of surrogate pairs, and the signs that turn the direction of a text.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def text(value: Any, limit: int = 300) -> str:
    """Any value as escaped text, cut where it is long."""
    words = plain(value)
    if len(words) > limit:
        words = words[: limit - 1] + "…"
    return html.escape(_UNSEEN.sub("\ufffd", words), quote=True)


def plain(value: Any) -> str:
    """A value of a manifest in words, not escaped."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {plain(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, as HTML."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    size = abs(value)
    if 1e-3 <= size < 1e7:
        shown = f"{value:,.0f}" if size >= 1000 else f"{value:.{digits}g}"
        return minus(shown)
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return minus(f"{mantissa} × 10<sup>{int(exponent)}</sup>")


def with_error(mean: float, error: float) -> str:
    """A mean to the second digit of its standard error."""
    if not (math.isfinite(mean) and math.isfinite(error) and error > 0):
        return number(mean)
    decimals = max(0, 1 - math.floor(math.log10(error)))
    if decimals > 7 or abs(mean) >= 1e7:
        return f"{number(mean, 4)} ± {number(error, 2)}"
    return minus(f"{mean:,.{decimals}f} ± {error:,.{decimals}f}")


def minus(shown: str) -> str:
    """With the sign that is as wide as a plus."""
    return shown.replace("-", "−")


def count(value: int, noun: str) -> str:
    """`1 example`, `1,797 examples`."""
    return f"{value:,} {noun}" + ("" if value == 1 else "s")
