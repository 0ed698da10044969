"""From arrays to what can be shown: channels joined, limits that outliers do not set, colours.

    limit = the given percentile of |values|, over what is finite

A map with a few extreme pixels would be all white at its maximum: the limit is a percentile, and it
is written into the figure. Where the percentile is zero (few values are not) the largest is taken.
"""

import math
from typing import Any, NamedTuple

import numpy as np

NOT_FINITE = "#ffb000"  # amber: in neither of the colour maps
SIGNED = "RdBu_r"
ABSOLUTE = "Purples"


class Limit(NamedTuple):
    """The value at the end of the colours, and in words how it was chosen."""

    value: float
    text: str


def real(array: Any, name: str) -> np.ndarray:
    """A float64 array on the host."""
    try:
        array = np.asarray(array)
        if array.dtype.kind in "OSUMmc":
            raise TypeError
        return array.astype(np.float64)
    except (TypeError, ValueError):
        kind = getattr(array, "dtype", type(array).__name__)
        raise TypeError(f"{name} must be an array of real numbers, but is {kind}.") from None


def percentile(value: Any) -> float:
    """A percentile in (0, 100]."""
    number = float(real(value, "percentile").reshape(()))
    if not 0 < number <= 100:
        raise ValueError(
            f"percentile must be above 0 and at most 100, but is {value}. 100 takes the largest."
        )
    return number


def summed(values: Any, channel_axis: int, *, absolute: bool, name: str = "values") -> np.ndarray:
    """One map (height, width): the channels of one pixel summed, with their signs."""
    array = real(values, name)
    if array.ndim == 3:
        array = np.sum(np.moveaxis(array, _axis(channel_axis, array, name), -1), axis=-1)
    elif array.ndim != 2:
        raise ValueError(
            f"{name} must be one map of shape (height, width) or (height, width, channels), but "
            f"has shape {array.shape}. A batch is drawn by `plots.grid`, one example of it is "
            f"`{name}[0]`."
        )
    if array.size == 0:
        raise ValueError(f"{name} must have at least one pixel, but has shape {array.shape}.")
    array = np.where(np.isfinite(array), array, np.nan)
    return np.abs(array) if absolute else array


def picture(image: Any, channel_axis: int, name: str = "image") -> np.ndarray:
    """Colours in [0, 1], (height, width, 3).

    Whole numbers of eight bits are divided by 255; floats outside [0, 1] are stretched from their
    own smallest to their largest.
    """
    eight_bits = getattr(image, "dtype", None) == np.uint8
    array = real(image, name)
    if array.ndim == 2:
        array = array[..., None]
    elif array.ndim == 3:
        array = np.moveaxis(array, _axis(channel_axis, array, name), -1)
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or array.size == 0:
        raise ValueError(
            f"{name} must have shape (height, width), (height, width, 1) or (height, width, 3), "
            f"but has shape {np.shape(image)}. Other layouts: `channel_axis=0`."
        )
    finite = array[np.isfinite(array)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
    if eight_bits:
        low, high = 0.0, 255.0
    elif low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    scaled = np.nan_to_num((array - low) / ((high - low) or 1.0), nan=0.5, posinf=1.0, neginf=0.0)
    return np.broadcast_to(scaled, (*array.shape[:2], 3))


def limit(values: np.ndarray, percent: float) -> Limit:
    """The robust limit of a map, or of any values."""
    magnitude = np.abs(values[np.isfinite(values)])
    if magnitude.size == 0:
        return Limit(1.0, "no finite value")
    largest = float(magnitude.max())
    if largest == 0:
        return Limit(1.0, "zero everywhere")
    chosen = float(np.percentile(magnitude, percent))
    if chosen == 0 or percent == 100:
        return Limit(largest, "largest value")
    return Limit(chosen, f"{percent:g}{_ending(percent)} percentile")


def stated(scale: Limit, values: np.ndarray, *, absolute: bool) -> str:
    """What stands below a map: its scale, and how many of its pixels are not finite."""
    lost = int(np.sum(~np.isfinite(values)))
    if scale.text in ("zero everywhere", "no finite value"):
        text = scale.text
    else:
        text = f"scale {'0 to ' if absolute else '±'}{scale.value:.2g}, {scale.text}"
    return text + (f"\n{lost:,} not finite (amber)" if lost and lost < values.size else "")


def colours(library: Any, *, absolute: bool) -> Any:
    """The colour map, with a colour of its own for what is not finite."""
    name = ABSOLUTE if absolute else SIGNED
    return library.colormaps[name].with_extremes(bad=NOT_FINITE)


def _axis(channel_axis: Any, array: np.ndarray, name: str) -> int:
    if isinstance(channel_axis, bool) or not isinstance(channel_axis, int | np.integer):
        raise TypeError(f"channel_axis must be an integer, but is {channel_axis!r}.")
    if not -array.ndim <= channel_axis < array.ndim:
        raise ValueError(
            f"channel_axis must be an axis of {name}, but is {channel_axis} where {name} has shape "
            f"{array.shape}."
        )
    return int(channel_axis)


def _ending(percent: float) -> str:
    if percent != math.floor(percent) or 10 < percent % 100 < 14:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(int(percent) % 10, "th")
