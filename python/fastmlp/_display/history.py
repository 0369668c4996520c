"""The form of a history in notebooks."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from . import markup
from .curves import curves
from .times import clock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def page(columns: Mapping[str, Sequence[float]]) -> str:
    """Return the loss curves beside a table of all columns.

    Parameters
    ----------
    columns : dict of str to sequence of float
        Columns of a `fastmlp.History`.
    """
    epochs = len(columns["loss"])
    caption = f"History: {epochs:,} epoch{'' if epochs == 1 else 's'}"
    if not epochs:
        return markup.element("p", caption)
    caption += f" in {_time(sum(columns['seconds']))}"
    rows = [
        (name, f"{values[-1]:.6g}", _best(values, min), _best(values, max))
        for name, values in columns.items()
        if name != "seconds" and values
    ]
    header = ("", "last", "lowest (epoch)", "highest (epoch)")
    lines = [("training", columns["loss"], markup.BLUE)]
    if columns.get("val_loss"):
        lines.append(("validation", columns["val_loss"], markup.RED))
    return markup.element(
        "div",
        markup.element("div", curves(lines, name="loss"), style="flex:0 1 480px")
        + markup.element("div", markup.table(caption, header, rows, texts=1)),
        style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start",
    )


def _best(values: Sequence[float], which: Callable[..., float]) -> str:
    """Return the lowest or highest value and its first epoch."""
    known = [value for value in values if not isnan(value)]
    if not known:
        return ""
    best = which(known)
    return f"{best:.6g} ({list(values).index(best) + 1:,})"


def _time(seconds: float) -> str:
    """Return a duration as text."""
    # The limits are those from which three digits are rounded up to the next unit.
    if seconds < 0.9995:
        return f"{1000 * seconds:.3g} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    text = clock(seconds)
    return f"{text} {'min' if text.count(':') == 1 else 'h'}"
