"""A text whose tokens are coloured by their attributions."""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxplain.plots import _axes, _scaling

WIDTH = 0.602  # of a character of DejaVu Sans Mono, in font sizes
LEADING = 1.75  # from line to line, in font sizes


class Piece(NamedTuple):
    """A token, or the part of it that stands on one line."""

    token: int
    text: str
    line: int
    column: int
    width: int


def tokens(tokens: Sequence[str], values: Any, *, percentile: float = 100.0, ax: Any = None) -> Any:
    """Draws a text, each token on the colour of its attribution.

        colour of token i = values[i], from -limit to limit

    Lines wrap. A space within a token is shown as a low dot, a line break as a bent arrow (the text
    breaks there too), other characters that cannot be seen by their code. Tokens that are not
    finite are amber. The scale stands below.

    Args:
        tokens: the text of each token.
        values: shape (tokens,). Attributions of embeddings are summed first, over their last axis.
        percentile: the percentile of the magnitudes at which the colours end; the largest unless
            given.
        ax: matplotlib axes to draw on, whose size decides the size of the letters; those of a new
            figure as high as the text unless given.

    Returns:
        The axes.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: values are not real numbers; a token is not a string; `ax` is not matplotlib
            axes.
        ValueError: there is not one value a token, or there are none; percentile is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> ax = tokens(["not", " a", " bad", " film"], jnp.array([0.8, 0.0, -0.5, 0.1]))
        >>> [text.get_text() for text in ax.texts]
        ['not', '·a', '·bad', '·film']

    References:
        Li et al., "Visualizing and Understanding Neural Models in NLP", NAACL 2016: the saliency of
        the words of a text. Drawing by colour on the text itself is common since.
    """
    library = _axes.library()
    percent = _scaling.percentile(percentile)
    array = _scaling.real(values, "values")
    if isinstance(tokens, str):
        raise TypeError("tokens must be a sequence of strings, but is one: cut it first.")
    for token in tokens:
        if not isinstance(token, str):
            raise TypeError(
                f"each token must be a string, but one is a {type(token).__name__}. Ids are "
                "turned into text by the tokenizer."
            )
    if array.ndim != 1 or len(array) != len(tokens) or not len(array):
        raise ValueError(
            f"values must have one number for each of the {len(tokens)} tokens, at least one, but "
            f"have shape {array.shape}. Those of embeddings are summed first: `values.sum(-1)`."
        )
    array = np.where(np.isfinite(array), array, np.nan)
    scale = _scaling.limit(array, percent)
    shown = [visible(token) for token in tokens]
    breaks = [token.endswith(("\n", "\r")) for token in tokens]

    size = 10.0
    if ax is None:
        width = 6.4
        pieces, columns, lines = wrapped(shown, breaks, int((width - 0.2) * 72 / (WIDTH * size)))
        ax = _axes.axes(None, width, (lines * LEADING * size) / 72 + 0.4)
    else:
        ax = _axes.axes(ax, 0, 0)
        box = ax.get_window_extent()
        dots = ax.figure.dpi / 72
        while True:  # smaller letters until the lines fit
            columns = max(1, int(box.width / dots / (WIDTH * size)))
            pieces, columns, lines = wrapped(shown, breaks, columns)
            if size <= 3 or lines * LEADING * size <= box.height / dots:
                break
            size *= 0.92
    colours = _scaling.colours(library, absolute=False)
    shade = library.colors.Normalize(-scale.value, scale.value, clip=True)
    backgrounds = colours(shade(np.ma.masked_invalid(array)))
    for piece in pieces:
        background = backgrounds[piece.token]
        ax.add_patch(
            library.patches.Rectangle(
                (piece.column, piece.line + 0.08),
                piece.width,
                0.84,
                facecolor=background,
                edgecolor="white",
                linewidth=0.6,
            )
        )
        bright = float(np.dot(background[:3], [0.299, 0.587, 0.114]))
        ax.text(
            piece.column,
            piece.line + 0.5,
            piece.text,
            family="monospace",
            fontsize=size,
            color="black" if bright > 0.5 else "white",
            verticalalignment="center_baseline",
            parse_math=False,
            clip_on=True,
        )
    ax.set_xlim(0, columns)
    ax.set_ylim(lines, 0)
    _axes.bare(ax)
    ax.set_xlabel(_scaling.stated(scale, array, absolute=False), fontsize=7, color="dimgray")
    return ax


def visible(token: str) -> str:
    """The token with a sign for each character that cannot be seen."""
    signs = {" ": "·", "\n": "⏎", "\t": "→"}
    if not token:
        return "∅"
    return "".join(
        signs.get(letter)
        or (letter if letter.isprintable() else letter.encode("unicode_escape").decode())
        for letter in token
    )


def wrapped(
    texts: Sequence[str], breaks: Sequence[bool], columns: int
) -> tuple[list[Piece], int, int]:
    """Where each token goes in lines of so many columns; the columns and the number of lines."""
    pieces = []
    line = column = 0
    for token, text in enumerate(texts):
        whole = sum(map(cells, text))
        if column and column + whole > columns:
            line, column = line + 1, 0
        part, width = "", 0
        for letter in text:
            if part and column + width + cells(letter) > columns:
                pieces.append(Piece(token, part, line, column, width))
                line, column, part, width = line + 1, 0, "", 0
            part, width = part + letter, width + cells(letter)
        pieces.append(Piece(token, part, line, column, width))
        column += width
        if breaks[token]:
            line, column = line + 1, 0
    return pieces, columns, pieces[-1].line + 1


def cells(letter: str) -> int:
    """The columns a character takes in a font of fixed width: none, one or two."""
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
