"""Five features in two dimensions: how they lie, by how seldom they are active.

    python docs/examples/superposition.py [picture.png]

All models, eight seeds of each sparsity, are trained in one program; of each the best is drawn.
Where features are dense the two most important ones have a dimension each; the sparser they are,
the more share the plane, up to the pentagon (Elhage et al., "Toy Models of Superposition", 2022).
"""

import sys

import jax
import jax.numpy as jnp
import matplotlib.figure
import numpy as np

from jaxplain import sae

PROBABILITIES = (1.0, 0.3, 0.1, 0.05, 0.01)
SEEDS, STEPS = 8, 5000


def train(steps: int = STEPS) -> list[np.ndarray]:
    """The directions (5, 2) of the best model of each sparsity."""
    toy = sae.synthetic.superposition(
        jax.random.key(0),
        jnp.repeat(jnp.array(PROBABILITIES), SEEDS),
        importance=0.9 ** jnp.arange(5.0),
        steps=steps,
    )
    best = np.argmin(np.reshape(toy.loss, (-1, SEEDS)), axis=1)
    return [np.asarray(toy.W[row * SEEDS + seed]) for row, seed in enumerate(best)]


def draw(several: list[np.ndarray]) -> matplotlib.figure.Figure:
    figure = matplotlib.figure.Figure((2 * len(several), 2.3), layout="constrained")
    axes = figure.subplots(1, len(several), sharex=True, sharey=True)
    for ax, W, probability in zip(axes, several, PROBABILITIES, strict=True):
        for number, (x, y) in enumerate(W):
            colour = matplotlib.colormaps["viridis"](number / 5)
            ax.plot([0, x], [0, y], color=colour, linewidth=2)
            ax.plot(x, y, "o", color=colour, markersize=6)
        ax.set_title(f"active {probability:.0%} of the time", fontsize=9)
        ax.set_aspect("equal")
        ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), xticks=[], yticks=[])
        ax.axhline(0, color="lightgray", linewidth=0.6, zorder=0)
        ax.axvline(0, color="lightgray", linewidth=0.6, zorder=0)
    return figure


if __name__ == "__main__":
    path = sys.argv[1] if len(sys.argv) > 1 else "docs/images/superposition.png"
    draw(train()).savefig(path, dpi=110)
