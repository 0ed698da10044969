"""A map of attributions over an image, or by itself.

colour of pixel p = sum over channels of values[p], from -limit to limit
"""

from typing import Any

import numpy as np

from jaxplain.plots import _axes, _scaling


def heatmap(
    values: Any,
    image: Any = None,
    *,
    absolute: bool = False,
    percentile: float = 99.0,
    channel_axis: int = -1,
    alpha: float = 0.85,
    ax: Any = None,
) -> Any:
    """Draws one map of attributions, over its image where one is given.

        colour of pixel p = sum over channels of values[p]

    Signed maps go from blue through white at zero to red, with limits that are symmetric about
    zero; absolute ones from white to violet. The scale and how it was chosen stand below the map.
    Values beyond it take the last colour. Pixels that are not finite are amber.

    Args:
        values: shape (height, width) or with channels, whose attributions are summed with their
            signs.
        image: what was explained, shape (height, width), or with one or three channels, on the
            same grid of pixels. It is shown in grey below the map. Floats outside [0, 1] are
            stretched from their smallest to their largest.
        absolute: whether the magnitude of the sum is drawn.
        percentile: the percentile of the magnitudes at which the colours end; 100 for the largest.
        channel_axis: the axis of the channels, in `values` and `image`; 0 for (channels, height,
            width).
        alpha: over an image, the opacity of the map where it reaches its limit; it falls to nothing
            at zero, so that the image is seen where the map says nothing.
        ax: matplotlib axes to draw on; those of a new figure unless given.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: values or image are not real numbers; `ax` is not matplotlib axes.
        ValueError: values or image have another shape, or do not fit; percentile or alpha are out
            of range.

    Example:
        >>> import jax.numpy as jnp
        >>> values = jnp.linspace(-1.0, 2.0, 64).reshape(8, 8)
        >>> ax = heatmap(values, percentile=100)
        >>> ax.get_xlabel()
        'scale ±2, largest value'

    References:
        Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017, section 3.2: signed or
        absolute, and values capped at the 99th percentile.
    """
    library = _axes.library()
    percent = _scaling.percentile(percentile)
    opacity = float(_scaling.real(alpha, "alpha").reshape(()))
    if not 0 <= opacity <= 1:
        raise ValueError(f"alpha must be from 0 (only the image) to 1, but is {alpha}.")
    drawn = _scaling.summed(values, channel_axis, absolute=absolute)
    below = None if image is None else _scaling.picture(image, channel_axis)
    if below is not None and below.shape[:2] != drawn.shape:
        raise ValueError(
            f"values and image must lie on the same pixels, but values have {drawn.shape} and the "
            f"image {below.shape[:2]}. Enlarge the values first: "
            f"`jax.image.resize(values, {below.shape[:2]}, 'nearest')`."
        )
    ax = _axes.axes(ax, 3.2, 3.4)
    scale = _scaling.limit(drawn, percent)
    colours = _scaling.colours(library, absolute=absolute)
    opacities = None
    if below is not None:
        ax.imshow(below @ np.array([0.299, 0.587, 0.114]), cmap="gray", vmin=0, vmax=1)
        strength = np.clip(np.abs(drawn) / scale.value, 0, 1)
        opacities = np.where(np.isfinite(drawn), opacity * strength, 1.0)
    ax.imshow(
        drawn,
        cmap=colours,
        vmin=0 if absolute else -scale.value,
        vmax=scale.value,
        alpha=opacities,
        interpolation="nearest",
    )
    _axes.bare(ax)
    ax.set_xlabel(_scaling.stated(scale, drawn, absolute=absolute), fontsize=7, color="dimgray")
    return ax
