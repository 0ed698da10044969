"""The figures of `jaxplain sae train`."""

from collections.abc import Mapping
from typing import Any

import matplotlib.figure
import matplotlib.ticker
import numpy as np

_SHOWN, _DIGITS = 10, 8  # latents, and digits of each
_INK, _FAINT = "#c4453c", "dimgray"


def training(history: Mapping[str, np.ndarray]) -> Any:
    """How much is left, how many latents are active, and how many are dead, along the run."""
    figure = matplotlib.figure.Figure(figsize=(10, 2.8), layout="constrained")
    panels = {
        "fvu": "share of the variance that is left",
        "l0": "active latents of a row",
        "dead": "share of latents that are dead",
    }
    for ax, (name, title) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        ax.plot(history["step"], history[name], color=_INK, linewidth=1.6)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("step", fontsize=9)
        ax.tick_params(labelsize=8)
        for side in ("top", "right"):
            ax.spines[side].set_visible(False)
        if name == "fvu":
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:.2g}")
            ax.yaxis.set_minor_formatter("")
        else:
            ax.set_ylim(bottom=0)
    return figure


def latents(codes: np.ndarray, images: np.ndarray, labels: np.ndarray) -> Any:
    """A row for each of the strongest latents: the digits on which it is most active.

    Args:
        codes: (n, F), activations times the norm of the decoder's row: lengths in the layer.
        images: (n, 8, 8) in [0, 1].
        labels: (n,), the digit that each image is.
    """
    strength = np.sum(np.square(codes), axis=0)
    chosen = np.argsort(-strength)[:_SHOWN]
    figure = matplotlib.figure.Figure(figsize=(9.6, 0.95 * len(chosen) + 0.8), layout="constrained")
    widths = [1.3, *[1] * _DIGITS, 0.2, 2.6]
    axes = figure.subplots(len(chosen), len(widths), squeeze=False, width_ratios=widths)
    for row, latent in zip(axes, chosen, strict=True):
        own = codes[:, latent]
        for ax in (row[0], row[-2]):
            ax.axis("off")
        text = f"latent {latent}\nactive on {np.mean(own > 0):.0%}"
        row[0].text(1, 0.5, text, ha="right", va="center", fontsize=8, transform=row[0].transAxes)
        for ax, example in zip(row[1:-2], np.argsort(-own), strict=False):
            _picture(ax, images[example], own[example])
        _by_digit(row[-1], [own[labels == digit].mean() for digit in range(10)])
    axes[0, -1].set_title("mean activation\non each digit", fontsize=8, color=_FAINT)
    figure.suptitle(
        "What the strongest latents stand for: the unseen digits on which each is most active, and "
        "how much",
        fontsize=10,
    )
    return figure


def _picture(ax: Any, image: np.ndarray, activation: float) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color("lightgray")
    if activation <= 0:  # it is active on fewer digits than there is room for
        ax.axis("off")
        return
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    ax.set_xlabel(f"{activation:.1f}", fontsize=7, color=_FAINT, labelpad=1)


def _by_digit(ax: Any, means: list[float]) -> None:
    """Ten bars, the highest in colour."""
    colours = [_INK if mean == max(means) else "silver" for mean in means]
    ax.bar(range(10), means, color=colours, width=0.8)
    ax.set_xticks(range(10), [str(digit) for digit in range(10)], fontsize=7)
    ax.set_yticks([])
    ax.tick_params(length=0, pad=1)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
