"""Pictures as PNG within the page: as many bytes as a pixel has colours, never more than a budget.

A map has 255 colours and one for what is not finite; a photograph is brought to 256 of its own. So
a picture takes at most one byte a pixel, and `side` bounds the page before it is made.
"""

import base64
import io
import math
from typing import Any

import numpy as np

from jaxplain.plots import _axes, _scaling

# Of all pictures together, before base64 makes them a third larger.
BUDGET = 1_900_000


def side(pictures: int) -> int:
    """The longest side at which so many pictures keep within the budget."""
    return max(16, min(256, math.isqrt(BUDGET // max(1, pictures))))


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Which axis of a picture holds its colours, or None where it is no picture."""
    if len(shape) == 2 and min(shape) > 1:
        return -1
    if len(shape) == 3 and min(shape) > 0:
        return -1 if shape[-1] in (1, 3) else 0 if shape[0] in (1, 3) else None
    return None


def photograph(image: np.ndarray, axis: int, longest: int) -> str:
    """The data URI of an image."""
    colours = _scaling.picture(image, axis)
    pillow = _pillow()
    picture = pillow.fromarray(np.rint(255 * colours).astype(np.uint8))
    if np.all(colours == colours[..., :1]):
        picture = picture.convert("L")
    if max(picture.size) > longest:
        picture = picture.resize(_size(picture.size, longest), pillow.Resampling.BOX)
    if picture.mode == "RGB" and picture.size[0] * picture.size[1] > 4096:
        picture = picture.quantize(256)
    return _uri(picture)


def heatmap(values: np.ndarray, axis: int, longest: int, *, absolute: bool) -> tuple[str, str]:
    """The data URI of a map, and its scale in words."""
    drawn = _scaling.summed(values, axis, absolute=absolute)
    reduced = ""
    if max(drawn.shape) > longest:
        drawn = _reduced(drawn, longest)
        reduced = f"; means over areas, {drawn.shape[0]} × {drawn.shape[1]}"
    scale = _scaling.limit(drawn, 99.0)
    words = _scaling.stated(scale, drawn, absolute=absolute).replace("\n", "; ") + reduced
    low = 0.0 if absolute else -scale.value
    share = np.clip((drawn - low) / (scale.value - low), 0, 1)
    index = np.where(np.isfinite(drawn), np.rint(254 * np.nan_to_num(share)), 255)
    picture = _pillow().fromarray(index.astype(np.uint8))
    picture.putpalette(_palette(absolute))
    return _uri(picture), words


def scale_bar(*, absolute: bool) -> str:
    """The data URI of the colours of maps, from their lowest to their highest."""
    picture = _pillow().fromarray(np.arange(255, dtype=np.uint8)[None])
    picture.putpalette(_palette(absolute))
    return _uri(picture)


def _palette(absolute: bool) -> bytes:
    library = _axes.library()
    colours = _scaling.colours(library, absolute=absolute)(np.linspace(0, 1, 255))[:, :3]
    lost = np.array(library.colors.to_rgb(_scaling.NOT_FINITE))
    return np.rint(255 * np.vstack([colours, lost])).astype(np.uint8).tobytes()


def _reduced(drawn: np.ndarray, longest: int) -> np.ndarray:
    """Means over areas; an area with something that is not finite in it is not finite."""
    pillow = _pillow()
    size = _size(drawn.shape[::-1], longest)
    resize = lambda a: np.asarray(
        pillow.fromarray(a.astype(np.float32)).resize(size, pillow.Resampling.BOX)
    )
    # In units of the largest value: what Pillow computes in is float32.
    largest = float(np.nanmax(np.abs(drawn))) if np.isfinite(drawn).any() else 0.0
    small = resize(np.nan_to_num(drawn / (largest or 1.0))).astype(np.float64) * largest
    return np.where(resize(~np.isfinite(drawn)) > 0, np.nan, small)


def _size(size: Any, longest: int) -> tuple[int, int]:
    width, height = size
    factor = longest / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _uri(picture: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _pillow() -> Any:
    """Pillow, which comes with matplotlib."""
    _axes.library()
    import PIL.Image

    return PIL.Image
