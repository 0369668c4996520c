"""A diagram of a network in SVG."""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _validate
from .._display import markup
from .._display.markup import BLUE, GREEN, ORANGE, RED, escape
from .._network import ops
from .._network.summary import title
from .atomic_write import file_name

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from .._network.model import Model
    from .._network.ops import Step

# A saved picture has its own text colour; within a page, it has the page's. A browser
# that shows the file alone chooses the background by ``color-scheme``.
STYLE = (
    "svg{color-scheme:light dark;color:#222}"
    "@media(prefers-color-scheme:dark){svg{color:#ddd}}"
)

# In networks with more rows than this, equal consecutive layers are drawn once.
MOST_ROWS = 24
# Fewest equal layers that are drawn once.
REPEATS = 3

# Layers of units with more connections than this are joined by a band.
MOST_LINES = 20_000

# Half the width of the widest and of the narrowest block, and half the height.
WIDEST, NARROWEST, HALF = 150.0, 60.0, 11.0
# Width from which blocks do not grow.
LARGE = 4096
# Radius of units, distance of their centres, and the width of the row they share if it
# would be longer.
RADIUS, APART, ROOM = 6.0, 17.0, 2 * WIDEST
# Half the height of layers without weights.
THIN = 4.0
# Distance of a row from the row above, and distance of lanes for residual connections.
BELOW_DENSE, BELOW, LANE = 62.0, 34.0, 18.0
MARGIN = 12.0

# Letters: their size, the estimated width of one, and the most of a label.
LETTERS, LETTER, LONGEST = 13, 7.2, 48
SMALL: dict[str, Any] = {"font_size": LETTERS - 2, "fill_opacity": 0.75}
TIMES = "\N{MULTIPLICATION SIGN}"
# Radius of the sign of a sum.
PLUS = 7.0

# The kind of rows of layers that do nothing at inference.
_ABSENT = "absent"
COLOURS = {
    "input": "currentColor",
    "dense": BLUE,
    "activation": ORANGE,
    _ABSENT: "currentColor",
    "add": RED,
    "concat": RED,
}


class Diagram:
    """A picture of a network, as `fastmlp.MLP.diagram` returns it.

    ``str(diagram)`` is the text of an SVG file.
    """

    __slots__ = ("_content", "_details", "_size", "_words")

    def __init__(
        self, content: str, size: tuple[float, float], words: str, details: str
    ) -> None:
        self._content, self._size = content, size
        self._words, self._details = words, details

    # The pickle protocols 0 and 1 refuse slots unless the class has this method.
    def __getstate__(self) -> Any:
        return super().__getstate__()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write an SVG file.

        Parameters
        ----------
        path : str or path-like
            Path of the file, which ends in ".svg".

        Raises
        ------
        TypeError, ValueError
            If ``path`` is not a str or path, or ends differently.
        OSError
            If the file cannot be written.
        """
        name = file_name(path)
        if not name.lower().endswith(".svg"):
            raise ValueError(f"path must end in '.svg', got {name!r}")
        with open(name, "w", encoding="utf-8", newline="\n") as file:
            file.write(str(self) + "\n")

    def __str__(self) -> str:
        return self._svg(STYLE)

    def __repr__(self) -> str:
        return f"<Diagram: {self._words}>"

    def _repr_svg_(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self._svg()

    def _svg(self, style: str = "") -> str:
        return markup.svg(
            self._content, self._size, self._words, details=self._details, style=style
        )


class Row(NamedTuple):
    """A row of the diagram: the input, or a step of the network."""

    kind: str
    width: int
    label: str
    note: str
    name: str
    # The rows whose outputs this row takes.
    sources: tuple[int, ...] = ()
    projection: str = ""  # for the end of a residual block that has one

    def __str__(self) -> str:
        return f"{self.name}: {self.label}" + (f", {self.note}" if self.note else "")


class Lane(NamedTuple):
    """A line past rows, between two that are not neighbours."""

    start: int
    end: int
    level: int  # its distance from the rows, from 1


class Fold(NamedTuple):
    """Rows that stand for several equal layers."""

    first: int
    last: int
    times: int


def diagram(mlp: Model, max_units: int) -> Diagram:
    """Return the picture that `fastmlp.MLP.diagram` documents."""
    max_units = _validate.count("max_units", max_units, 0)
    rows, folds = _rows(mlp)
    return _Picture(rows, folds, max_units).drawn(mlp)


# Rows ---------------------------------------------------------------------------------


def _rows(mlp: Model) -> tuple[list[Row], list[Fold]]:
    """Return the rows to draw, and those of them that stand for several layers."""
    steps = ops.steps(mlp)
    stages = _stages(steps)
    drawn = {ops.INPUT: 0}  # the row that shows the output of each step
    rows = [Row("input", mlp.n_in, f"Input {mlp.n_in:,}", str(mlp.dtype), "input")]
    folds = []
    folding = sum(not _is_projection(step) for step in steps) > MOST_ROWS
    at = 0
    while at < len(stages):
        stage = stages[at]
        times = 1
        signature = [_signature(steps[i]) for i in stage]
        while folding and at + times < len(stages):
            other = stages[at + times]
            if [_signature(steps[i]) for i in other] != signature:
                break
            times += 1
        times = times if times >= REPEATS else 1
        first = len(rows)
        for i in stage:
            step = steps[i]
            if _is_projection(step) or step.is_joint:
                drawn[i] = drawn[step.source]
                continue
            drawn[i] = len(rows)
            rows.append(_row(step, steps, drawn))
        if times > 1:
            folds.append(Fold(first, len(rows) - 1, times))
            for copy in stages[at + 1 : at + times]:
                drawn |= {j: drawn[i] for i, j in zip(stage, copy, strict=True)}
        at += times
    return rows, folds


def _is_projection(step: Step) -> bool:
    return step.kind == "dense" and step.layer is None


def _stages(steps: Sequence[Step]) -> list[list[int]]:
    """Return the indices of steps that belong together.

    A stage is a block, or a dense layer with the layers without weight
    matrices that follow it.
    """
    stages: list[list[int]] = []
    block = ""
    for i, step in enumerate(steps):
        top = step.name.split(".")[0]
        inside = step.depth > 0 or len(step.sources) > 1
        if (inside and top == block) or (
            stages and not inside and not block and step.kind != "dense"
        ):
            stages[-1].append(i)
        else:
            stages.append([i])
        block = top if inside else ""
    return stages


def _signature(step: Step) -> tuple[Any, ...]:
    """Return what equal steps of different layers have in common."""
    inside = step.name.partition(".")[2]
    names = title(step), step.activation
    return step.kind, step.n_in, step.n_out, step.n_params, inside, names


def _row(step: Step, steps: list[Step], drawn: dict[int, int]) -> Row:
    """Return the row of a step; ``drawn`` has the rows of the preceding steps."""
    label = title(step).replace("->", "→")
    notes = []
    if step.kind == "activation":
        label = step.activation
    elif step.activation != "identity":
        notes.append(step.activation)
    parameters, projection = step.n_params, ""
    other = steps[step.other] if step.kind == "add" and step.other >= 0 else None
    if other is not None and _is_projection(other):
        projection = title(other).replace("->", "→")
        parameters = other.n_params
        notes.append(projection[0].lower() + projection[1:])
    if parameters:
        notes.append(_validate.counted(parameters, "parameter"))
    note = " · ".join(notes)
    sources = tuple(drawn[i] for i in ops.inputs_of(steps, step))
    kind = _ABSENT if ops.absent_at_inference(step.layer) else step.kind
    return Row(kind, step.n_out, label, note, step.name, sources, projection)


# Drawing ------------------------------------------------------------------------------


class _Picture:
    """The positions of everything, from which `drawn` makes the picture."""

    def __init__(self, rows: list[Row], folds: list[Fold], max_units: int) -> None:
        self.rows, self.folds, self.max_units = rows, folds, max_units
        self.lanes = self._levels()
        reach = [self.half(row) for row in rows]
        left = max(reach)
        for lane in self.lanes:
            left = max(left, self._beside(lane, reach))
        self.axis = MARGIN + left
        self.labels = self.axis + max(reach) + 22 + 50 * bool(folds)
        self.reach = reach
        self.heights = [MARGIN + HALF]
        for row in rows[1:]:
            below = BELOW_DENSE if row.kind == "dense" else BELOW
            self.heights.append(self.heights[-1] + below)

    def units(self, row: Row) -> list[float]:
        """Return the positions of a row's units from the axis; none if it is large."""
        n = row.width
        if n > self.max_units:
            return []
        apart = min(APART, ROOM / n)
        return [(i - (n - 1) / 2) * apart for i in range(n)]

    def radius(self, row: Row) -> float:
        return min(RADIUS, 0.4 * ROOM / row.width)

    def half(self, row: Row) -> float:
        """Return half the width of a row."""
        units = self.units(row)
        if units:
            return units[-1] + self.radius(row)
        size = min(1.0, log2(row.width) / log2(LARGE))
        return NARROWEST + (WIDEST - NARROWEST) * size

    def _levels(self) -> list[Lane]:
        """Return the lanes; those that run side by side have different levels."""
        lanes: list[Lane] = []
        for k, row in enumerate(self.rows):
            for start in sorted({s for s in row.sources if s < k - 1}, reverse=True):
                beside = [lane.level for lane in lanes if lane.end > start]
                lanes.append(Lane(start, k, 1 + max(beside, default=0)))
        return lanes

    def _beside(self, lane: Lane, reach: list[float]) -> float:
        """Return the distance of a lane from the axis."""
        return max(reach[lane.start : lane.end + 1]) + PLUS + LANE * lane.level

    def drawn(self, mlp: Model) -> Diagram:
        """Return the picture."""
        rows = range(1, len(self.rows))
        parts = [self._between(k) for k in rows if k - 1 in self.rows[k].sources]
        parts += [self._lane(lane) for lane in self.lanes]
        parts += [self._shape(k) for k in range(len(self.rows))]
        parts += [self._bracket(fold) for fold in self.folds]
        bottom = self.heights[-1] + HALF + 30
        counted = _validate.counted
        total = counted(mlp.n_params, "parameter")
        parts.append(markup.text(self.labels, bottom, f"{total} in all", **SMALL))
        letters = max(self._length(row) for row in self.rows)
        width = self.labels + LETTER * max(letters, len(total) + 7) + MARGIN
        ends = f"{counted(mlp.n_in, 'input')}, {counted(mlp.n_out, 'output')}"
        words = f"network of {ends} and {total}"
        size = (width, bottom + MARGIN)
        return Diagram("".join(parts), size, words, self._details())

    def _details(self) -> str:
        """Return the layers in words, as the titles of their rows."""
        times = {fold.last: fold for fold in self.folds}
        words = []
        for k, row in enumerate(self.rows):
            words.append(str(row))
            if k in times:
                first, _, count = times[k]
                which = "" if first == k else f"these {k - first + 1} layers "
                words[-1] += f" ({which}{count:,} times)"
        return "; ".join(words)

    def _length(self, row: Row) -> int:
        """Return the number of letters of a row's longest line of text."""
        if row.kind in ("dense", "input"):
            return min(LONGEST, max(len(row.label), len(row.note)))
        return min(2 * LONGEST, len(row.label) + len(row.note) + 3)

    def _half_height(self, row: Row) -> float:
        if row.kind not in ("dense", "input"):
            return THIN
        return self.radius(row) if self.units(row) else HALF

    def _between(self, k: int) -> str:
        """Return the connections between row k and the row above it."""
        above, row = self.rows[k - 1], self.rows[k]
        y0 = self.heights[k - 1] + self._half_height(above)
        y1 = self.heights[k] - self._half_height(row)
        ups, downs = self.units(above), self.units(row)
        dense = row.kind == "dense"
        if row.kind == "concat":
            # Only some of the units come from the row above.
            at = sum(
                self.rows[s].width for s in row.sources[: row.sources.index(k - 1)]
            )
            downs = downs[at : at + above.width]
        if ups and downs and (not dense or len(ups) * len(downs) <= MOST_LINES):
            # Layers without weights connect each unit with one unit only.
            if dense:
                pairs = [(a, b) for a in ups for b in downs]
            else:
                pairs = list(zip(ups, downs, strict=True))
            lines = "".join(
                f"M{self.axis + a:.1f} {y0:.1f}L{self.axis + b:.1f} {y1:.1f}"
                for a, b in pairs
            )
            return markup.element(
                "path",
                d=lines,
                stroke="currentColor",
                stroke_opacity=max(0.12, min(0.6, 3 / len(pairs) ** 0.5)),
                fill="none",
            )
        a, b = self.reach[k - 1], self.reach[k]
        corners = [(-a, y0), (a, y0), (b, y1), (-b, y1)]
        shape = markup.path((self.axis + x, y) for x, y in corners) + "Z"
        return markup.element("path", d=shape, fill="currentColor", fill_opacity=0.1)

    def _shape(self, k: int) -> str:
        """Return a row's units or block with its label."""
        row, y = self.rows[k], self.heights[k]
        colour = COLOURS.get(row.kind, GREEN)
        paint: dict[str, Any] = {
            "fill": colour,
            "fill_opacity": 0.0 if row.kind in ("input", _ABSENT) else 0.3,
            "stroke": colour,
            "stroke_width": 1.5,
        }
        if row.kind == _ABSENT:
            paint["stroke_dasharray"] = "4 3"
        tall = row.kind in ("dense", "input")
        shape = ""
        if tall and (units := self.units(row)):
            for x in units:
                shape += markup.element(
                    "circle", cx=self.axis + x, cy=y, r=self.radius(row), **paint
                )
        else:
            half, up = self.reach[k], HALF if tall else THIN
            shape = markup.element(
                "rect",
                x=self.axis - half,
                y=y - up,
                width=2 * half,
                height=2 * up,
                rx=3,
                **paint,
            )
            if tall:
                shape += markup.text(
                    self.axis,
                    y + 4,
                    f"{row.width:,}",
                    font_size=LETTERS - 1,
                    text_anchor="middle",
                )
        if row.kind == "add":
            shape += self._plus(self.axis - self.reach[k] - PLUS, y)
        return markup.element("g", markup.title(row) + shape + self._label(row, y))

    def _label(self, row: Row, y: float) -> str:
        label, note = (
            words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
            for words in (row.label, row.note)
        )
        if row.kind in ("dense", "input"):
            return markup.text(self.labels, y - 2, label, font_size=LETTERS) + (
                markup.text(self.labels, y + 13, note, **SMALL) if note else ""
            )
        more = markup.element("tspan", escape(f" · {note}"), **SMALL) if note else ""
        return markup.element(
            "text",
            escape(label) + more,
            x=self.labels,
            y=y + 4,
            fill="currentColor",
            font_size=LETTERS,
        )

    def _plus(self, x: float, y: float) -> str:
        """Return the sign of a sum, which hides nothing behind it."""
        cross = f"M{x - 4:.1f} {y:.1f}h8M{x:.1f} {y - 4:.1f}v8"
        return markup.element(
            "circle", cx=x, cy=y, r=PLUS, fill="none", stroke=RED, stroke_width=1.5
        ) + markup.element("path", d=cross, stroke=RED, stroke_width=1.5)

    def _lane(self, lane: Lane) -> str:
        """Return the line of a lane."""
        k = lane.end
        row, start = self.rows[k], self.rows[lane.start]
        x = self.axis - self._beside(lane, self.reach)
        from_x = (
            self.axis - self.reach[lane.start] + (RADIUS if self.units(start) else 8)
        )
        from_y = self.heights[lane.start] + self._half_height(start)
        if start.kind == "add":
            from_x = self.axis - self.reach[lane.start] - PLUS
            from_y += PLUS - THIN
        adds = row.kind == "add"
        to_x = self.axis - self.reach[k] - (2 * PLUS if adds else 2)
        to_y = self.heights[k]
        line = (
            f"M{from_x:.1f} {from_y:.1f}v3q0 3 -3 3H{x + 4:.1f}q-4 0 -4 4"
            f"V{to_y - 4:.1f}q0 4 4 4H{to_x - 1:.1f}m-5 -4l5 4l-5 4"
        )
        content = markup.element(
            "path",
            d=line,
            stroke=RED if adds else "currentColor",
            stroke_width=1.5,
            fill="none",
        )
        if row.projection:
            middle = (from_y + to_y) / 2
            content += markup.element(
                "rect",
                x=x - 5,
                y=middle - 9,
                width=10,
                height=18,
                rx=2,
                fill=BLUE,
                stroke=BLUE,
            )
        words = f"{row.name}: residual connection"
        if not adds:
            words = f"{row.name}: input from {start.name}"
        if row.projection:
            words += f", {row.projection}"
        return markup.element("g", markup.title(words) + content)

    def _bracket(self, fold: Fold) -> str:
        """Return the mark of rows that stand for several equal layers."""
        x = self.labels - 60
        top = self.heights[fold.first] - HALF - 3
        bottom = self.heights[fold.last] + HALF + 3
        line = f"M{x:.1f} {top:.1f}h5V{bottom:.1f}h-5"
        return markup.element(
            "path", d=line, stroke="currentColor", stroke_opacity=0.7, fill="none"
        ) + markup.text(
            x + 10, (top + bottom) / 2 + 4, f"{TIMES} {fold.times:,}", font_size=LETTERS
        )
