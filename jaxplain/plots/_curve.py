"""Curves with a band of error: deletion and insertion, or any score along a path."""

from typing import Any

from jaxplain.plots import _axes, _scaling


def curve(
    fractions: Any,
    scores: Any,
    *,
    errors: Any = None,
    label: str | None = None,
    ax: Any = None,
) -> Any:
    """Draws one curve with its band of error; call it again with the same axes for another.

        line: scores against fractions;  band: scores - errors to scores + errors

    Args:
        fractions: shape (points,), the fraction of features replaced.
        scores: shape (points,), e.g. the mean curve of `jaxplain.metrics.over_examples`.
        errors: shape (points,), standard errors: the band reaches one to each side.
        label: what the curve is, shown in the legend.
        ax: matplotlib axes to draw on; those of a new figure unless given.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: an array does not hold real numbers; `ax` is not matplotlib axes.
        ValueError: the shapes do not fit, or there are no points.

    Example:
        >>> import jax.numpy as jnp
        >>> fractions = jnp.linspace(0.0, 1.0, 5)
        >>> ax = curve(fractions, (1 - fractions) ** 2, errors=0.1 * jnp.ones(5), label="deletion")
        >>> ax = curve(fractions, 1 - fractions, label="random order", ax=ax)
        >>> [text.get_text() for text in ax.get_legend().get_texts()]
        ['deletion', 'random order']

    References:
        Petsiuk, Das and Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
        Models", BMVC 2018, figure 1. The band is ours.
    """
    _axes.library()
    places, heights = _scaling.real(fractions, "fractions"), _scaling.real(scores, "scores")
    if places.ndim != 1 or places.size == 0:
        raise ValueError(
            f"fractions must have shape (points,), but have {places.shape}. Of a batch of curves "
            "take the mean: `jaxplain.metrics.over_examples`."
        )
    if heights.shape != places.shape:
        raise ValueError(
            f"scores must have the shape of fractions, {places.shape}, but have {heights.shape}. "
            "Of a batch of curves take the mean: `jaxplain.metrics.over_examples`."
        )
    spread = None if errors is None else _scaling.real(errors, "errors")
    if spread is not None and spread.shape != places.shape:
        raise ValueError(
            f"errors must have the shape of fractions, {places.shape}, but have {spread.shape}."
        )
    ax = _axes.axes(ax, 4.6, 3.2)
    (line,) = ax.plot(places, heights, linewidth=1.8)
    if label is not None:
        # matplotlib leaves out of its legend what begins with an underscore, and reads $ as TeX.
        line.set_label(label if not label.startswith("_") else " " + label)
    if spread is not None:
        ax.fill_between(
            places,
            heights - spread,
            heights + spread,
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
        ax.set_title("bands: ± one standard error", fontsize=8, color="dimgray", loc="right")
    ax.set_xlabel("fraction of features replaced")
    ax.set_ylabel("score")
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if ax.get_legend_handles_labels()[1]:
        for text in ax.legend(frameon=False, fontsize=9).get_texts():
            text.set_parse_math(False)
    return ax
