"""What dictionaries leave unexplained against how many latents they use, by architecture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplain.plots import _axes, _scaling

MARKERS = "osD^v<>p"
LABELS = {
    "l0": "L0: latents active in an example",
    "fvu": "FVU: share of the variance left",
}


def pareto(
    points: Mapping[str, Sequence[Mapping[str, Any]] | Mapping[str, Any]],
    *,
    x: str = "l0",
    y: str = "fvu",
    errors: str | None = None,
    ax: Any = None,
) -> Any:
    """Draws one line for each architecture: the error of its dictionaries against their sparsity.

        points of a line: (x, y +- errors) of each dictionary, in the order of x;  x is logarithmic

    The line that is lower, or further to the left, is better. Points that are not finite or whose x
    is not above 0 are left out; the legend says of how many.

    Args:
        points: a dict from the names of architectures to their dictionaries: rows, such as
            `jaxplain.sae.sweep(...).table()` gives, or a dict of arrays of the shape (points,).
        x: the field of rows that is drawn to the right.
        y: the field that is drawn upwards.
        errors: the field of the standard errors of y, drawn to both sides; none where NaN.
        ax: matplotlib axes to draw on; those of a new figure unless given.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: points are no dict of rows or arrays, or hold no real numbers; `ax` is not
            matplotlib axes.
        ValueError: there are no points, a field is missing, shapes do not fit, or an error is
            negative.

    Example:
        >>> rows = [{"l0": 8.1, "fvu": 0.1}, {"l0": 2.0, "fvu": 0.4}]
        >>> ax = pareto({"relu": rows, "topk": {"l0": [2, 8], "fvu": [0.3, 0.05]}})
        >>> ax.lines[0].get_xdata().tolist()
        [2.0, 8.1]

    References:
        Gao et al., "Scaling and evaluating sparse autoencoders", ICLR 2025: the error of several
        architectures by L0. The bars of error are ours.
    """
    matplotlib = _axes.library()
    if not isinstance(points, Mapping):
        raise TypeError(
            "points must be a dict from names to rows, such as `{'relu': found.table()}`, but are "
            f"a {type(points).__name__}."
        )
    if not points:
        raise ValueError("points must hold at least one architecture, but is an empty dict.")
    fields = [x, y, *([] if errors is None else [errors])]
    columns = {name: _columns(own, fields, name) for name, own in points.items()}
    ax = _axes.axes(ax, 5.0, 3.6)
    has_errors = False
    for name, found in columns.items():
        places, heights = found[:2]
        good = np.isfinite(places) & np.isfinite(heights) & (places > 0)
        order = np.flatnonzero(good)[np.argsort(places[good], kind="stable")]
        number = len(ax.get_legend_handles_labels()[1])
        (line,) = ax.plot(
            places[order],
            heights[order],
            marker=MARKERS[number % len(MARKERS)],
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
            linewidth=1.4,
        )
        lost = f" ({np.sum(~good):,} left out)" if not good.all() else ""
        # matplotlib leaves out of its legend what begins with an underscore, and reads $ as TeX.
        line.set_label((" " if str(name).startswith("_") else "") + f"{name}{lost}")
        if errors is not None:
            sure = order[np.isfinite(found[2][order])]
            has_errors |= sure.size > 0
            ax.errorbar(
                places[sure],
                heights[sure],
                yerr=found[2][sure],
                fmt="none",
                ecolor=line.get_color(),
                elinewidth=1,
                zorder=line.get_zorder() - 0.1,
            )
    if has_errors:
        ax.set_title("bars: ± one standard error", fontsize=8, color="dimgray", loc="right")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(matplotlib.ticker.LogLocator(subs=range(1, 10)))
    ax.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    ax.set_xlabel(LABELS.get(x, x), parse_math=False)
    ax.set_ylabel(LABELS.get(y, y), parse_math=False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for text in ax.legend(frameon=False, fontsize=8.5).get_texts():
        text.set_parse_math(False)
    return ax


def _columns(own: Any, fields: Sequence[str], name: str) -> list[np.ndarray]:
    """Fields of rows, or of a dict of arrays, as arrays of the shape (points,)."""
    which = f"points[{name!r}]"
    is_columns = isinstance(own, Mapping)
    rows = [own] if is_columns else own
    if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
        raise TypeError(
            f"{which} must be a list of rows, such as `found.table()`, or a dict of arrays, but is "
            f"a {type(own).__name__}."
        )
    if not rows:
        raise ValueError(f"{which} must hold at least one point, but is empty.")
    found = []
    for field in fields:
        for row in rows:
            if field not in row:
                raise ValueError(f"{which} has no {field!r}, but {', '.join(map(str, row))}.")
        values = own[field] if is_columns else [row[field] for row in rows]
        found.append(_scaling.real(values, f"{field!r} of {which}"))
        if found[-1].ndim != 1 or found[-1].shape != found[0].shape or found[-1].size == 0:
            raise ValueError(
                f"{field!r} of {which} must have the shape (points,), as all of its fields, but "
                f"has {found[-1].shape}."
            )
    if len(found) == 3 and np.any(found[2] < 0):
        raise ValueError(
            f"errors must not be negative, but the least of {which} is {np.nanmin(found[2]):g}."
        )
    return found
