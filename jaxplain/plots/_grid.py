"""Rows of examples: the image and its maps beside it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplain.plots import _axes, _scaling
from jaxplain.plots._heatmap import heatmap


def grid(
    images: Any,
    values: Any,
    *,
    titles: Sequence[str] | None = None,
    absolute: bool = False,
    percentile: float = 99.0,
    channel_axis: int = -1,
) -> Any:
    """Draws one row an example: its image, and beside it its map, or the maps of several methods.

        row i: images[i] | values[i]

    Each map has its own scale, which stands below it.

    Args:
        images: shape (examples, height, width), or with one or three channels each.
        values: shape (examples, height, width), or with channels, which are summed. Or a dict from
            the names of methods to such arrays: a column for each.
        titles: a line for each row, such as "cat, 0.93".
        absolute: whether magnitudes are drawn.
        percentile: the percentile of the magnitudes of a map at which its colours end.
        channel_axis: the axis of the channels in one example; -1 or, for (channels, height,
            width), 0.

    Returns:
        An array of axes, shape (examples, 1 + number of maps). The figure is
        `axes[0, 0].figure`.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: an array does not hold real numbers.
        ValueError: the shapes do not fit, or there are no examples.

    Example:
        >>> import jax.numpy as jnp
        >>> images = jnp.ones((3, 8, 8, 1))
        >>> axes = grid(images, {"one": images, "two": -images}, titles=["a", "b", "c"])
        >>> axes.shape, axes[0, 2].get_title()
        ((3, 3), 'two')

    References:
        Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, figure 1: the same
        examples under several methods, side by side.
    """
    library = _axes.library()
    pictures = _scaling.real(images, "images")
    maps = dict(values) if isinstance(values, Mapping) else {"": values}
    if pictures.ndim not in (3, 4) or len(pictures) == 0:
        raise ValueError(
            "images must have shape (examples, height, width) or (examples, height, width, "
            f"channels), with at least one example, but have {pictures.shape}. For one image: "
            "`images[None]`."
        )
    if not maps:
        raise ValueError("values must hold at least one map, but is an empty dict.")
    for name, value in maps.items():
        if np.ndim(value) not in (3, 4) or len(value) != len(pictures):
            which = f"values[{name!r}]" if isinstance(values, Mapping) else "values"
            raise ValueError(
                f"{which} must hold one map for each of the {len(pictures)} images, but has shape "
                f"{np.shape(value)}."
            )
    if titles is not None and (isinstance(titles, str) or len(titles) != len(pictures)):
        raise ValueError(
            f"titles must hold one line for each of the {len(pictures)} images, but is {titles!r}."
        )
    columns = 1 + len(maps)
    figure = library.figure.Figure(
        figsize=(1.9 * columns, 2.0 * len(pictures) + 0.2), layout="constrained"
    )
    axes = figure.subplots(len(pictures), columns, squeeze=False)
    for row, own in enumerate(axes):
        own[0].imshow(_scaling.picture(np.asarray(images[row]), channel_axis), vmin=0, vmax=1)
        _axes.bare(own[0])
        if titles is not None:
            own[0].set_title(str(titles[row]), fontsize=8, parse_math=False)
        for ax, (name, value) in zip(own[1:], maps.items(), strict=True):
            heatmap(
                value[row],
                absolute=absolute,
                percentile=percentile,
                channel_axis=channel_axis,
                ax=ax,
            )
            if row == 0 and name:
                ax.set_title(str(name), fontsize=8, parse_math=False)
    return axes
