"""Plots of a training run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._network import ops
from .._network.model import is_model
from .._validate.hints import hinted
from ..callbacks._monitor import Histogram, Monitor
from ..metrics import History
from ._style import (
    BLUE,
    GREEN,
    GREY,
    OUTSIDE,
    RED,
    _dots,
    _style,
    axes,
    by_epoch,
    epochs,
    figure,
    in_legend,
    light,
    spans,
    whole,
    within_limit,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from ..mlp import MLP

# Most recorded epochs that an error message lists.
MOST_LISTED = 10


@hinted
def learning_curves(
    history: History | object,
    *,
    log: bool | None = None,
    fig: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw losses by epoch and, in a second panel, the metrics.

    The epoch with the lowest validation loss is marked or, without validation data, the
    epoch with the lowest training loss.

    Parameters
    ----------
    history : History or estimator
        History that `fastmlp.MLP.fit` returned, or a fitted estimator of
        `fastmlp.sklearn` or scikit-learn with the attribute ``loss_curve_``. The
        attributes ``validation_loss_curve_`` and ``validation_scores_`` are drawn too,
        if the estimator has them.
    log : bool, optional
        Whether to draw the losses on a log scale. None does so if all losses are
        positive and the largest is more than 20 times the smallest.
    fig : Figure or SubFigure, optional
        Figure to draw into.

    Returns
    -------
    Figure or SubFigure
        ``fig``, or a new figure.

    Raises
    ------
    TypeError, ValueError
        If ``history`` is not a history or fitted estimator, or has no epochs.
    """
    history = _history(history)
    if len(history) == 0:
        raise ValueError("history must have at least one epoch, got none")
    panels = 1 + bool(history.metrics)
    fig = figure(fig, (6.4, 4.0 if panels == 1 else 6.0))
    grid = fig.subplots(panels, 1, sharex=True, squeeze=False)[:, 0]

    # Losses.
    ax = grid[0]
    curves = [("training", within_limit(history.loss), BLUE)]
    if history.val_loss:
        curves.append(("validation", within_limit(history.val_loss), RED))
    for name, values, colour in curves:
        ax.plot(epochs(values), values, color=colour, label=name, **_dots(values))
    name, values, colour = curves[-1]
    if np.isfinite(values).any():
        best = int(np.nanargmin(values))
        ax.plot(
            best + 1,
            values[best],
            marker="*",
            markersize=13,
            linestyle="none",
            color=colour,
            markeredgecolor="black",
            label=f"best, epoch {best + 1}: {values[best]:.3g}",
        )
    if log is not None:
        log = _validate.flag("log", log)
    else:
        log = spans(np.concatenate([c[1] for c in curves]))
    if log:
        ax.set_yscale("log")
    ax.set(ylabel="loss", title="Learning curves")
    ax.legend()

    # Metrics.
    for i, (name, metric) in enumerate(history.metrics.items()):
        label, values = in_legend(name), within_limit(metric)
        # The first two colours are those of the losses.
        grid[1].plot(epochs(values), values, label=label, **_style(i + 2, values))
    if history.metrics:
        grid[1].set(ylabel="metric")
        grid[1].legend()
    for panel in grid:
        light(panel)
        by_epoch(panel, 1, len(history))
        panel.label_outer()
    return fig


def _history(source: object) -> History:
    """Return a history, or that of a fitted estimator."""
    if isinstance(source, History):
        return source
    loss = getattr(source, "loss_curve_", None)
    if loss is None:
        hint = "; mlp.fit returns it" if is_model(source) else ""
        if hasattr(source, "named_steps"):
            hint = "; pass the last step of the pipeline, pipeline[-1]"
        raise TypeError(
            "history must be an fm.History or a fitted estimator with the attribute "
            f"loss_curve_, got {_validate.describe(source)}{hint}"
        )
    scores = getattr(source, "validation_scores_", None)
    return History.from_dict(
        {
            "loss": loss,
            "val_loss": getattr(source, "validation_loss_curve_", None) or [],
            "metrics": {"validation score": scores} if scores else {},
            "seconds": [],
        }
    )


@hinted
def histograms(
    source: MLP | Monitor,
    what: str | Sequence[str] | None = None,
    *,
    epoch: int | None = None,
    bins: int = 40,
    fig: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw histograms of weights, activations and gradients, a column for each layer.

    Parameters
    ----------
    source : MLP or Monitor
        Model, whose current weights are drawn, or `fastmlp.Monitor`, whose records are
        drawn.
    what : {"weights", "activations", "gradients"} or sequence of them, optional
        Quantities to draw, one per row; None draws all that are available.
    epoch : int, optional
        Recorded epoch to draw, counted from 1; None means the last one. Only for a
        `Monitor`.
    bins : int
        Number of bins for a model's weights; the records of a `Monitor` are binned
        already.
    fig : Figure or SubFigure, optional
        Figure to draw into.

    Returns
    -------
    Figure or SubFigure
        ``fig``, or a new figure.

    Raises
    ------
    TypeError, ValueError
        If ``what`` names a quantity that is not available, or ``epoch`` was not
        recorded.
    """
    if isinstance(source, Monitor):
        title, tables = _recorded(source, epoch)
        labels = source.layers
    else:
        ops.checked(source, "source", "an fm.MLP or fm.Monitor")
        if epoch is not None:
            raise ValueError(f"epoch must be None if source is a model, got {epoch!r}")
        steps = ops.steps(source)
        monitor = Monitor(bins=bins)
        labels = {step.name: ops.label(step) for step in steps}
        weights = {
            step.name: monitor._histogram(source.params[step.weight])
            for step in steps
            if step.weight is not None
        }
        title, tables = "", {"weights": weights}
    if what is None:
        what = list(tables)
    rows = [what] if isinstance(what, str) else list(what)
    rows = [_validate.choice("what", row, tuple(tables)) for row in rows]
    if not rows:
        raise ValueError(
            "the argument 'what' must name at least one quantity, got none"
        )
    columns = [n for n in labels if any(n in tables[row] for row in rows)]

    # Draw a row of panels for each quantity, with a panel for each layer.
    size = (max(6.4, 2.4 * len(columns)), 0.8 + 2.0 * len(rows))
    fig = figure(fig, size)
    grid = fig.subplots(len(rows), len(columns), squeeze=False)
    for i, row in enumerate(rows):
        colour = (BLUE, GREEN, RED)[("weights", "activations", "gradients").index(row)]
        for name, ax in zip(columns, grid[i], strict=True):
            if i == 0:
                ax.set_title(f"{name}: {labels[name]}", fontsize="medium")
            histogram = tables[row].get(name)
            if histogram is None or histogram.counts.sum() == 0:
                ax.text(
                    0.5,
                    0.5,
                    f"no {row}",
                    ha="center",
                    color=GREY,
                    transform=ax.transAxes,
                )
                ax.set_axis_off()
                if i == 0:
                    ax.axison = True
                    ax.set(xticks=[], yticks=[])
                    ax.spines[:].set_visible(False)
                continue
            ax.stairs(
                histogram.counts, histogram.edges, fill=True, color=colour, label=row
            )
            ax.set(xlabel=row.removesuffix("s"))
            ax.locator_params(axis="x", nbins=4)
            whole(ax.yaxis)
            ax.ticklabel_format(axis="x", scilimits=(-2, 3))
            light(ax)
        grid[i, 0].set_ylabel("count")
    if title:
        fig.suptitle(title)
    return fig


@hinted
def dead_units(monitor: Monitor, *, ax: Axes | None = None) -> Axes:
    """Draw the percentage of dead or saturated units of each layer by epoch.

    Parameters
    ----------
    monitor : Monitor
        Monitor of the training; `fastmlp.Monitor` defines which units count as dead.
    ax : Axes, optional
        Axes to draw into.

    Returns
    -------
    Axes
        ``ax``, or the axes of a new figure.

    Raises
    ------
    TypeError, ValueError
        If ``monitor`` is not a monitor, has no epochs, or has no layer that can have
        dead units.
    """
    _check_monitor(monitor)
    if not monitor.dead:
        raise ValueError(
            "monitor must have recorded a layer that can have dead units, got none"
        )
    place = OUTSIDE if ax is None else {}
    ax = axes(ax, (7.6, 4.0))
    shares = {}
    for name, counts in monitor.dead.items():
        units = monitor.units[name]
        share = [100 * n / units if n >= 0 else np.nan for n in counts]
        shares[f"{name}: {monitor.layers[name]} ({units})"] = share
    _draw_layers(ax, monitor, shares)
    ax.set(ylabel="dead units, % of the layer", title="Dead units")
    top = ax.get_ylim()[1]
    ax.set_ylim(-0.03 * top, max(top, 1.0))
    ax.legend(title="layer (units)", **place)
    return ax


@hinted
def update_ratios(monitor: Monitor, *, ax: Axes | None = None) -> Axes:
    """Plot each layer's updates, relative to its weights, against the epoch.

    The plot shows log10(norm of a weight's change / norm of the weight). A line marks
    -3, a common rule of thumb for healthy training.

    Parameters
    ----------
    monitor : Monitor
        Monitor of the training.
    ax : Axes, optional
        Axes to draw into.

    Returns
    -------
    Axes
        ``ax``, or the axes of a new figure.

    Raises
    ------
    TypeError, ValueError
        If ``monitor`` is not a monitor, or has no epochs.
    """
    _check_monitor(monitor)
    place = OUTSIDE if ax is None else {}
    ax = axes(ax, (7.6, 4.0))
    logs = {}
    for name, ratios in monitor.update_ratios.items():
        values = np.array(ratios)
        values[values <= 0] = np.nan
        logs[f"{name}: {monitor.layers[name]}"] = np.log10(values)
    _draw_layers(ax, monitor, logs)
    ax.axhline(-3, color=GREY, linestyle=":", label="rule of thumb")
    ax.set(ylabel=r"$\log_{10}\,(|\Delta W|\,/\,|W|)$", title="Update-to-weight ratios")
    ax.legend(title="layer", **place)
    return ax


def _draw_layers(ax: Axes, monitor: Monitor, curves: Mapping[str, Any]) -> None:
    """Draw a curve over the recorded epochs for each label."""
    for i, (label, values) in enumerate(curves.items()):
        ax.plot(monitor.epochs, values, label=label, **_style(i, values))
    light(ax)
    by_epoch(ax, monitor.epochs[0], monitor.epochs[-1])


def _check_monitor(monitor: object) -> None:
    if not isinstance(monitor, Monitor):
        raise TypeError(
            f"monitor must be an fm.Monitor, got {_validate.describe(monitor)}"
        )
    if not monitor.epochs:
        raise ValueError(
            "monitor has not recorded an epoch; train with fit(callbacks=[monitor])"
        )


def _recorded(
    monitor: Monitor, epoch: int | None
) -> tuple[str, dict[str, dict[str, Histogram]]]:
    """Return a title for an epoch and its histograms, by quantity and layer."""
    _check_monitor(monitor)
    if epoch is None:
        epoch = monitor.epochs[-1]
    if epoch not in monitor.epochs:
        recorded = str(monitor.epochs)
        if len(monitor.epochs) > MOST_LISTED:
            first, second, *_, last = monitor.epochs
            recorded = f"[{first}, {second}, ..., {last}]"
        raise ValueError(
            f"epoch must be one of the recorded epochs, {recorded}, got {epoch}"
        )
    i = monitor.epochs.index(epoch)
    kinds = {
        "weights": monitor.weights,
        "activations": monitor.activations,
        "gradients": monitor.gradients,
    }
    return f"Epoch {epoch}", {
        kind: {name: entries[i] for name, entries in table.items()}
        for kind, table in kinds.items()
    }
