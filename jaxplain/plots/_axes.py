"""Where to draw: axes that were given, or a figure of one's own outside pyplot's global state."""

from typing import Any

import numpy as np


def library() -> Any:
    """Matplotlib, or a message with the line that installs it."""
    try:
        import matplotlib
        import matplotlib.axes
        import matplotlib.colors
        import matplotlib.figure
        import matplotlib.patches
        import matplotlib.ticker
    except ImportError as error:
        raise ImportError(
            "drawing needs the package matplotlib: pip install 'jaxplain[plot]'"
        ) from error
    return matplotlib


def axes(ax: Any, width: float, height: float) -> Any:
    """`ax`, checked, or the axes of a new figure of that size in inches."""
    matplotlib = library()
    if ax is None:
        figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
        return figure.subplots()
    if not isinstance(ax, matplotlib.axes.Axes):
        hint = " Give one of them, `ax[0]`." if isinstance(ax, np.ndarray | list | tuple) else ""
        raise TypeError(f"ax must be matplotlib axes, but is a {type(ax).__name__}.{hint}")
    return ax


def bare(ax: Any) -> None:
    """Axes of a picture: without ticks and frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
