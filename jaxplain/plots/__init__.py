"""Figures of explanations: functions of arrays that draw on matplotlib axes and return them.

Each takes numpy or jax arrays and an optional `ax`. Without one it makes a figure of its own, apart
from `matplotlib.pyplot` and its list of open figures: nothing is left behind, and `ax.figure` is
where it is saved from, `ax.figure.savefig("map.png")`. How a map is scaled stands in the figure.

matplotlib comes with `pip install 'jaxplain[plot]'`, and is loaded when something is drawn.
"""

from jaxplain.plots._bars import bars
from jaxplain.plots._curve import curve
from jaxplain.plots._grid import grid
from jaxplain.plots._heatmap import heatmap
from jaxplain.plots._pareto import pareto
from jaxplain.plots._tokens import tokens

__all__ = ["bars", "curve", "grid", "heatmap", "pareto", "tokens"]
