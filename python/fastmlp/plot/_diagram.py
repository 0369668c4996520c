"""A diagram of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .. import _validate
from .._network import ops
from .._validate.hints import hinted
from ._style import BLUE, GREEN, ORANGE, axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .._network.ops import Step
    from .._validate import Array
    from ..mlp import MLP


@hinted
def network(mlp: MLP, *, max_units: int = 10, ax: Axes | None = None) -> Axes:
    """Draw the network: units as circles, weights as lines.

    Orange lines are positive weights, and blue lines are negative weights. A line's
    width grows with the weight's magnitude relative to the largest in its layer. In
    large layers only the first and last units are drawn. A residual block is an arc
    above the units, labelled if it has a projection; so is a connection past the
    branches of a `Parallel` or the body of a `Concat`. Layers without weights are named
    below the units of the preceding layer.

    Parameters
    ----------
    mlp : MLP
        Model to draw.
    max_units : int
        Largest number of units of a layer to draw, at least 2.
    ax : Axes, optional
        Axes to draw into.

    Returns
    -------
    Axes
        ``ax``, or the axes of a new figure.

    Raises
    ------
    TypeError, ValueError
        If ``mlp`` is not a model, or ``max_units`` is not an int ≥ 2.
    """
    max_units = _validate.count("max_units", max_units, 2)
    steps = ops.steps(mlp)
    columns, texts, arcs = _columns(mlp, steps)
    ax = axes(ax, (max(6.4, 1.5 * len(columns)), 4.8))
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    # Choose the units to draw and their vertical positions.
    shown: list[Array] = []
    heights: list[Array] = []
    for width, *_ in columns:
        units = np.arange(width)
        places = units - (width - 1) / 2
        if width > max_units:
            half = max_units // 2
            units = np.concatenate([units[: max_units - half], units[-half:]])
            places = np.arange(max_units + 1) - max_units / 2
            places = np.delete(places, max_units - half)
        shown.append(units)
        heights.append(-places)
    tallest = max(h.max() for h in heights) + 1.0

    # Draw the weights. Larger weights are drawn wider, and on top of smaller ones.
    params = mlp._effective().astype(np.float64)
    for k, (_, step, before) in enumerate(columns):
        if step is None:
            continue
        matrix = step.matrix(params)[np.ix_(shown[before], shown[k])]
        i, j = np.unravel_index(np.argsort(abs(matrix), axis=None), matrix.shape)
        size = abs(matrix[i, j]) / (abs(matrix).max() or 1.0)
        ends = np.empty((len(i), 2, 2))
        ends[:, :, 0] = before, k
        ends[:, 0, 1], ends[:, 1, 1] = heights[before][i], heights[k][j]
        colours = np.where(matrix[i, j] > 0, ORANGE, BLUE)
        edges = LineCollection(
            list(ends), colors=list(colours), linewidths=0.1 + 2.2 * size, zorder=1
        )
        edges.set_alpha(0.8)
        ax.add_collection(edges)
    for k, (width, *_) in enumerate(columns):
        ax.scatter(
            np.full(len(shown[k]), k),
            heights[k],
            s=150 if tallest < 9 else 60,
            facecolor="white",
            edgecolor="black",
            zorder=2,
        )
        if width > max_units:
            ax.text(k, -_gap(heights[k]), "⋮", ha="center", va="center", fontsize=14)
        text = "\n".join(texts[k])
        ax.text(k, -tallest, text, ha="center", va="top", fontsize="medium")

    # Draw the arcs of residual blocks. Inner arcs lie below outer arcs.
    top = tallest
    for start, end, name in arcs:
        inner = [a for a in arcs if start <= a[0] and a[1] <= end]
        low, high = tallest - 0.3, tallest + 1.2 * len(inner) - 0.6
        t = np.linspace(0, np.pi, 50)
        across = (start + end) / 2 - (end - start) / 2 * np.cos(t)
        ax.plot(across, low + (high - low) * np.sqrt(np.sin(t)), color=GREEN)
        ax.text((start + end) / 2, high, name, ha="center", va="bottom")
        top = max(top, high + 1.0)
    lines = max(map(len, texts))
    depth = (tallest + top) * 0.075 * lines + 0.3
    ax.set(
        xlim=(-0.6, len(columns) - 0.4),
        ylim=(-tallest - depth, top),
        title=f"{_validate.counted(mlp.n_in, 'input')}, "
        f"{_validate.counted(mlp.n_out, 'output')}, "
        f"{_validate.counted(mlp.n_params, 'parameter')}",
    )
    ax.set_axis_off()
    handles = [
        Line2D([], [], color=ORANGE, label="positive weight"),
        Line2D([], [], color=BLUE, label="negative weight"),
    ]
    if arcs:
        handles.append(Line2D([], [], color=GREEN, label="skip connection"))
    ax.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        ncols=len(handles),
        frameon=False,
    )
    return ax


class _Column(NamedTuple):
    """A column of units: those of a dense layer after column `before`, or others."""

    width: int
    dense: Step | None = None
    before: int = -1


def _columns(
    mlp: MLP, steps: list[Step]
) -> tuple[list[_Column], list[list[str]], list[tuple[int, int, str]]]:
    """Return the columns, their texts, and the arcs of connections past columns."""
    columns = [_Column(mlp.n_in)]
    texts = [["input", f"{mlp.n_in}"]]
    arcs: list[tuple[int, int, str]] = []
    places = {ops.INPUT: 0}
    for i, step in enumerate(steps):
        if step.layer is None:  # a projection or a joint
            places[i] = places[step.source]
            continue
        if step.kind == "add":
            projected = step.other >= 0 and steps[step.other].layer is None
            name = "+ projection" if projected else "+"
            places[i] = places[step.source]
            arcs.append((places[step.other], places[i], name))
            continue
        before = places[step.source]
        if step.kind == "dense":
            columns.append(_Column(step.n_out, step, before))
            texts.append([step.activation, f"{step.n_out}"])
        elif step.n_in != step.n_out:
            columns.append(_Column(step.n_out))
            texts.append([ops.label(step), f"{step.n_out}"])
            pasts = {places[j] for j in ops.inputs_of(steps, step)}
            pasts.discard(len(columns) - 2)
            arcs += [(past, len(columns) - 1, "") for past in pasts]
        else:
            texts[before].append(ops.label(step))
            places[i] = before
            continue
        places[i] = len(columns) - 1
    return columns, texts, arcs


def _gap(heights: Array) -> float:
    """Return the position, measured downwards, of the gap that marks omitted units."""
    k = int(np.argmax(-np.diff(heights)))
    return -float(heights[k] + heights[k + 1]) / 2
