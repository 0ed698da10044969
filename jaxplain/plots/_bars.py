"""Bars: the attributions of named features, with their errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxplain import checks
from jaxplain.plots import _axes, _scaling


def bars(
    values: Any,
    names: Sequence[str],
    *,
    errors: Any = None,
    top: int | None = None,
    ax: Any = None,
) -> Any:
    """Draws the attributions of named features as bars, the first at the top.

        bar i = values[i] +- errors[i]

    What speaks for the output is red, what speaks against it blue, as in `heatmap`. Features that
    are not finite have no bar; their names say so.

    Args:
        values: shape (features,).
        names: a name for each feature.
        errors: shape (features,): standard errors, drawn to both sides; none where NaN.
        top: draw only so many, those of the largest magnitude, sorted by it. All features in their
            own order unless given.
        ax: matplotlib axes to draw on; those of a new figure unless given.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: values or errors are not real numbers, or `top` is no integer; `ax` is not
            matplotlib axes.
        ValueError: the shapes do not fit, or there are no features; an error is negative.

    Example:
        >>> import jax.numpy as jnp
        >>> ax = bars(jnp.array([0.1, -2.0, 1.0]), ["age", "rooms", "income"], top=2)
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['rooms', 'income']

    References:
        Lundberg and Lee, "A Unified Approach to Interpreting Model Predictions", NIPS 2017: the
        bar plot of feature attributions. The errors are ours.
    """
    _axes.library()
    array = _scaling.real(values, "values")
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"values must have shape (features,), but have {array.shape}. For one example of a "
            "batch: `values[0]`."
        )
    if isinstance(names, str) or len(names) != len(array):
        raise ValueError(
            f"names must hold one name for each of the {len(array)} values, but there are "
            f"{1 if isinstance(names, str) else len(names)}."
        )
    spread = np.full(array.shape, np.nan) if errors is None else _scaling.real(errors, "errors")
    if spread.shape != array.shape:
        raise ValueError(
            f"errors must have the shape of values, {array.shape}, but have {spread.shape}."
        )
    if np.any(spread < 0):
        raise ValueError(f"errors must not be negative, but the least is {spread.min():g}.")
    order = np.arange(len(array))
    if top is not None:
        top = checks.integer(top, "top")
        order = np.argsort(-np.nan_to_num(np.abs(array), nan=-1.0), kind="stable")[:top]
    ax = _axes.axes(ax, 5.0, 0.8 + 0.28 * len(order))
    chosen, spread = array[order], spread[order]
    finite = np.isfinite(chosen)
    places = np.arange(len(order))
    ax.barh(
        places[finite],
        chosen[finite],
        color=np.where(chosen[finite] < 0, "#3b76af", "#c4453c"),
        height=0.7,
    )
    sure = finite & np.isfinite(spread)
    if sure.any():
        ax.errorbar(
            chosen[sure],
            places[sure],
            xerr=spread[sure],
            fmt="none",
            ecolor="black",
            elinewidth=1,
            capsize=2.5,
        )
    labels = [
        str(names[int(i)]) + ("" if good else " (not finite)")
        for i, good in zip(order, finite, strict=True)
    ]
    ax.set_yticks(places, labels, parse_math=False)
    ax.set_ylim(len(order) - 0.4, -0.6)
    ax.axvline(0, color="black", linewidth=0.8)
    left_out = len(array) - len(order)
    more = f"; {left_out:,} smaller left out" if left_out else ""
    bars_of_error = "; bars of error: ± one standard error" if sure.any() else ""
    ax.set_xlabel(f"attribution{more}{bars_of_error}", fontsize=8)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax
