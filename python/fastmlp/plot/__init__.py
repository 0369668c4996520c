"""Plots of training runs, functions and networks, drawn with matplotlib.

Every function draws into the axes ``ax`` (or, for plots with several panels, the figure
or subfigure ``fig``) passed to it, or into new ones, and returns them. No function
shows or saves the plot: use ``ax.figure.savefig("name.png")`` or
``matplotlib.pyplot.show()``.

Matplotlib is imported when a plot is drawn; every function raises ImportError if it is
not installed.

The colours are those of Okabe & Ito (2008), which colour-blind readers can distinguish,
and matplotlib's viridis.
"""

from .._validate.hints import watch as _watch
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

_watch(__name__)
