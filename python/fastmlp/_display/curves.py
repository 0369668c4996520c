"""A picture of loss curves."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import markup

if TYPE_CHECKING:
    from collections.abc import Sequence

# Positive values are drawn on a log scale if the largest divided by the smallest
# exceeds this ratio.
LOG_RANGE = 20.0
# Curves of at most this many points have a dot at each point.
DOTS = 30

# The picture: its size, the margins around the axes, and the size of letters.
WIDTH, HEIGHT = 480, 230
LEFT, RIGHT, TOP, BOTTOM = 62, 24, 26, 36
LETTERS = 11

# Values beyond this limit are left out, as are those that are not finite, and values
# below its inverse have a linear scale: the ends of an axis must not overflow.
LIMIT = 1e100


def spans(values: Any) -> bool:
    """Return whether values are positive and their range needs a log scale."""
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    return bool(array.size and 0 < array.min() < array.max() / LOG_RANGE)


def within_limit(values: Any) -> Any:
    """Return values as float64, with NaN in place of those that cannot be drawn."""
    array = np.asarray(values, np.float64)
    return np.where(abs(array) <= LIMIT, array, np.nan)  # NaN <= LIMIT is False


def curves(lines: Sequence[tuple[str, Sequence[float], str]], *, name: str) -> str:
    """Return a picture of curves over the epochs.

    Parameters
    ----------
    lines : sequence of (str, sequence of float, str)
        Label, values and colour of each curve.
    name : str
        Name of the quantity.
    """
    arrays = [within_limit(values) for _, values, _ in lines]
    finite = np.concatenate(arrays)
    finite = finite[np.isfinite(finite)]
    log = spans(finite) and bool(finite.min() * LIMIT > 1)
    up = _Axis(finite, (HEIGHT - BOTTOM, TOP), log=log)
    epochs = max(map(len, arrays))
    along = _Axis(np.array([1.0, epochs]), (LEFT, WIDTH - RIGHT))

    parts = [_axes(along, up)]
    x = float(LEFT)
    for (label, _, colour), array in zip(lines, arrays, strict=True):
        parts.append(
            markup.element(
                "path", d=f"M{x:g} 12h18", stroke=colour, stroke_width=2, fill="none"
            )
        )
        parts.append(markup.text(x + 23, 16, label, font_size=LETTERS))
        x += 40 + 6.5 * len(label)
        parts.append(_curve(array, along, up, colour))
    what = name + (" (log scale)" if log else "")
    parts.append(
        markup.text(WIDTH - RIGHT, 16, what, font_size=LETTERS, text_anchor="end")
    )
    ends = ", ".join(f"{label} {values[-1]:.4g}" for label, values, _ in lines)
    words = f"{what} by epoch; after epoch {epochs}: {ends}"
    return markup.svg("".join(parts), (WIDTH, HEIGHT), words)


class _Axis:
    """A linear or logarithmic scale.

    Parameters
    ----------
    values : ndarray
        Values that must lie on it; there may be none.
    ends : (float, float)
        Positions of its two ends in the picture.
    log : bool
        Whether it is logarithmic.
    """

    def __init__(
        self, values: Any, ends: tuple[float, float], *, log: bool = False
    ) -> None:
        self.log = log
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        if log:
            low, high = np.log10(low), np.log10(high)
        wide = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
        self.low, self.high = float(low - wide), float(high + wide)
        self.ends = ends

    def __call__(self, values: Any) -> Any:
        """Return the positions of values."""
        start, end = self.ends
        values = np.log10(values) if self.log else values
        return start + (values - self.low) / (self.high - self.low) * (end - start)

    def ticks(self, most: int, *, whole: bool = False) -> list[tuple[float, str]]:
        """Return values to mark, and their texts.

        Parameters
        ----------
        most : int
            Largest number of values on a linear scale, about.
        whole : bool
            Whether only whole numbers are marked.
        """
        if not self.log:
            step = _round_step((self.high - self.low) / most)
            step = max(1.0, step) if whole else step
            first, last = math.ceil(self.low / step), math.floor(self.high / step)
            if whole:
                return [(i * step, f"{i * step:,.0f}") for i in range(first, last + 1)]
            values = [i * step for i in range(first, last + 1)]
            largest = max(map(abs, values), default=0.0)
            digits = max(1, round(math.log10(largest / step)) + 2) if largest else 1
            return [(v, f"{v:.{digits}g}") for v in values]
        first, last = math.ceil(self.low), math.floor(self.high)
        stride = 1 + (last - first) // 6
        powers = range(first, last + 1, stride)
        factors = (1, 2, 5) if last - first < 2 else (1,)
        marks = [f * 10.0**p for p in (first - 1, *powers) for f in factors]
        inside = (10.0**self.low, 10.0**self.high)
        return [(v, f"{v:g}") for v in marks if inside[0] <= v <= inside[1]]


def _round_step(least: float) -> float:
    """Return 1, 2 or 5 times a power of ten, not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next((f * power for f in (1, 2, 5) if f * power >= least), 10 * power)


def _axes(along: _Axis, up: _Axis) -> str:
    """Return the axes with a faint grid."""
    left, right = along.ends
    bottom, top = up.ends
    parts, grid = [], ""
    style: dict[str, Any] = {"font_size": LETTERS, "fill_opacity": 0.8}
    for value, words in up.ticks(4):
        y = float(up(value))
        grid += f"M{left:g} {y:.1f}H{right:g}"
        parts.append(markup.text(left - 6, y + 4, words, text_anchor="end", **style))
    for value, words in along.ticks(6, whole=True):
        if value < 1:  # epochs are counted from 1
            continue
        x = float(along(value))
        grid += f"M{x:.1f} {bottom:g}V{top:g}"
        parts.append(markup.text(x, bottom + 15, words, text_anchor="middle", **style))
    middle = (left + right) / 2
    parts.append(
        markup.text(middle, HEIGHT - 5, "epoch", text_anchor="middle", **style)
    )
    stroke = {"stroke": "currentColor", "fill": "none"}
    parts.append(markup.element("path", d=grid, stroke_opacity=0.15, **stroke))
    frame = f"M{left:g} {top:g}V{bottom:g}H{right:g}"
    parts.append(markup.element("path", d=frame, stroke_opacity=0.7, **stroke))
    return "".join(parts)


def _curve(values: Any, along: _Axis, up: _Axis, colour: str) -> str:
    """Return a curve, which is interrupted where values are NaN."""
    shown = _thinned(values, WIDTH - LEFT - RIGHT)
    xs, ys = along(shown + 1.0), up(values[shown])
    line, circles, pen = "", "", "M"
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        if math.isnan(y):
            pen = "M"
            continue
        line += f"{pen}{x:.1f} {y:.1f}"
        pen = "L"
        if len(values) <= DOTS:
            circles += markup.element("circle", cx=x, cy=y, r=2.5, fill=colour)
    if not line:
        return ""
    return (
        markup.element(
            "path",
            d=line,
            stroke=colour,
            stroke_width=2 if len(shown) == len(values) else 1,
            stroke_linejoin="round",
            fill="none",
        )
        + circles
    )


def _thinned(values: Any, columns: int) -> Any:
    """Return indices of values that draw the same curve on so many columns of pixels.

    In each column these are the first, the lowest, the highest and the last value, and
    the first NaN, at which the curve is interrupted.
    """
    n = len(values)
    if n <= 4 * columns:
        return np.arange(n)
    kept: set[int] = set()
    for part in np.array_split(np.arange(n), columns):
        block = values[part]
        kept |= {int(part[0]), int(part[-1])}
        finite = np.flatnonzero(~np.isnan(block))
        if finite.size:
            inside = block[finite]
            kept |= {
                int(part[finite[inside.argmin()]]),
                int(part[finite[inside.argmax()]]),
            }
        if finite.size < len(block):
            kept.add(int(part[np.isnan(block).argmax()]))
    return np.array(sorted(kept))
