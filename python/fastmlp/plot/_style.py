"""Colours, figures and axes of all plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._display.curves import spans as spans
from .._display.curves import within_limit as within_limit
from .._display.markup import BLUE as BLUE
from .._display.markup import GREEN as GREEN
from .._display.markup import ORANGE as ORANGE
from .._display.markup import RED as RED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, SubFigure

    from .._validate import Array

PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"

COLOURS = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK)

MARKERS = "osD^vPX*"

GREY = "#666666"

MARGIN = 0.1

LEVELS = 12

# Largest side of a new figure in inches. Matplotlib draws at most 2**16 pixels.
LARGEST = 300.0

# Position of a legend outside the axes, for new figures only: their layout makes room
# for the legend.
OUTSIDE: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}


def _pyplot() -> Any:
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "fastmlp.plot needs matplotlib: pip install 'fastmlp[plot]'"
        ) from error
    return plt


def axes(ax: Axes | None, size: tuple[float, float] = (6.4, 4.0)) -> Axes:
    return figure(None, size).subplots() if ax is None else ax


def figure(
    fig: Figure | SubFigure | None, size: tuple[float, float]
) -> Figure | SubFigure:
    if fig is not None:
        return fig
    width, height = size
    sides = min(width, LARGEST), min(height, LARGEST)
    return cast("Figure", _pyplot().figure(figsize=sides, layout="constrained"))


def light(ax: Axes) -> None:
    """Draw a faint grid and remove the upper and right borders."""
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)


def whole(axis: Axis) -> None:
    """Place ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    # If there is only one such number, two ticks could not be whole.
    axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def by_epoch(ax: Axes, first: int, last: int) -> None:
    """Let the x axis show epochs, also those whose values are not finite."""
    ax.update_datalim([(first, 0), (last, 0)], updatey=False)
    ax.autoscale_view(scaley=False)
    ax.set_xlabel("epoch")
    whole(ax.xaxis)


def in_legend(name: str) -> str:
    """Return a name as a label, which would not be in a legend if it began with "_"."""
    return f" {name}" if name.startswith("_") else name


def around(value: float) -> list[float]:
    """Return two levels around the only value of a function."""
    half = 0.5 * abs(value) or 0.5
    return [value - half, value + half]


def _dots(values: Any, marker: str = "o") -> dict[str, Any]:
    """Return the plot options that mark the points of short curves."""
    return {"marker": marker, "markersize": 4} if len(values) <= 30 else {}


def _style(i: int, values: Any) -> dict[str, Any]:
    dashes = ("-", "--", ":", "-.")[i // len(COLOURS) % 4]
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": dashes, **_dots(values)}


def epochs(values: Any) -> Array:
    return np.arange(1, len(values) + 1)


def margin(values: Array, part: float = MARGIN) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    wide = part * (high - low) or 1.0
    return low - wide, high + wide
