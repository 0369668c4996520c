"""Pictures, by matplotlib, which is loaded when one is drawn.

Every function draws into the ``ax`` (or, where there are several panels, the figure or
subfigure ``fig``) that it is given, or into a new one, and returns it; none shows or
saves it: ``ax.figure.savefig("name.png")`` does, or ``matplotlib.pyplot.show()``.

Colours are those of Okabe & Ito (2008), which colour-blind readers can tell apart, and
matplotlib's viridis.
"""

from ._diagram import network
from ._functions import decision_regions, fit_1d, level_sets, linear_regions
from ._loss_surface import loss_surface
from ._training import dead_units, histograms, learning_curves, update_ratios

__all__ = [
    "dead_units",
    "decision_regions",
    "fit_1d",
    "histograms",
    "learning_curves",
    "level_sets",
    "linear_regions",
    "loss_surface",
    "network",
    "update_ratios",
]
