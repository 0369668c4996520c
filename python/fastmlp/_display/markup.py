"""Elements of HTML and SVG as text.

The pictures have no background and draw lines and text in ``currentColor``, the colour
of the text around them, so they are legible on light and on dark pages. They have no
ids and no style sheets, which would apply to the whole page.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# The colours of fastmlp.plot as well. Their contrast with white and with black is above
# 3 (ORANGE: 2.2 with white), so they may be used for lines and areas, not for text.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
# Characters that XML does not allow, such as surrogates and control characters.
_FORBIDDEN = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"
_SPECIAL = re.compile(f'[&<>"]|{_FORBIDDEN}')


def escape(text: object) -> str:
    """Return text for an element or attribute."""
    return _SPECIAL.sub(lambda m: _ENTITIES.get(m[0], "\ufffd"), str(text))


def element(name: str, content: str = "", **attributes: object) -> str:
    """Return an element.

    Parameters
    ----------
    name : str
        Name of the element.
    content : str
        Its content, which is markup; text must be passed through `escape`.
    **attributes
        Attributes; "_" in a name stands for "-", and None leaves the attribute out.
        Floats are rounded to two decimals.
    """
    parts = [name]
    for key, value in attributes.items():
        if value is not None:
            if isinstance(value, float):
                value = f"{value:.2f}".rstrip("0").rstrip(".")
            parts.append(f'{key.rstrip("_").replace("_", "-")}="{escape(value)}"')
    opened = " ".join(parts)
    return f"<{opened}>{content}</{name}>" if content else f"<{opened}/>"


def text(x: float, y: float, words: object, **attributes: object) -> str:
    """Return a line of text of an SVG picture, in the colour of the page's text."""
    return element(
        "text", escape(words), x=x, y=y, **{"fill": "currentColor", **attributes}
    )


def title(words: object) -> str:
    """Return the description of an SVG element, which browsers show as a tooltip."""
    return element("title", escape(words))


def path(points: Iterable[tuple[float, float]]) -> str:
    """Return the ``d`` attribute of a line through points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def svg(
    content: str,
    size: tuple[float, float],
    words: str,
    *,
    details: str = "",
    style: str = "",
) -> str:
    """Return a picture.

    Parameters
    ----------
    content : str
        Its elements.
    size : (float, float)
        Width and height in pixels; on a narrower page, the picture shrinks.
    words : str
        Description of the picture, in a few words, for readers who do not see it.
    details : str
        Longer description for them.
    style : str
        Style sheet of a picture that is a file of its own.
    """
    width, height = (round(side) for side in size)
    longer = element("desc", escape(details)) if details else ""
    sheet = element("style", escape(style)) if style else ""
    return element(
        "svg",
        title(words) + longer + sheet + content,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=words,
        font_family="system-ui, sans-serif",
        style="max-width:100%;height:auto",
    )


# Spaces at the beginning of a text stand for its depth in a tree.
_LEFT, _RIGHT = "text-align:left;white-space:pre", "text-align:right"
_CELL = "padding:0.2em 0.6em"
_BOLD, _PLAIN = "font-weight:bold", "font-weight:normal"


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    last: Sequence[str] = (),
    texts: int,
) -> str:
    """Return a table.

    Parameters
    ----------
    caption : str
        Line above the table.
    header, rows, last : sequence of str
        Cells of the first row, of the others, and of a last row, such as totals.
    texts : int
        Number of columns of text, which are aligned to the left; numbers are aligned to
        the right.
    """

    def cell(text: str, i: int, scope: str, weight: str) -> str:
        # A header of rows or columns, which screen readers repeat, must not be empty.
        name = f'th scope="{scope}"' if scope and text else "td"
        style = f"{_CELL};{_LEFT if i < texts else _RIGHT};{weight}"
        # An empty cell must have a closing tag in HTML.
        return f'<{name} style="{style}">{escape(text)}</{name[:2]}>'

    def line(cells: Sequence[str], weight: str) -> str:
        scopes = ("row", *[""] * (len(cells) - 1))
        parts = (
            cell(text, i, scope, weight)
            for i, (text, scope) in enumerate(zip(cells, scopes, strict=True))
        )
        return element("tr", "".join(parts))

    names = "".join(cell(text, i, "col", _BOLD) for i, text in enumerate(header))
    body = "".join(line(row, _PLAIN) for row in rows)
    return element(
        "table",
        element(
            "caption",
            escape(caption),
            style=f"caption-side:top;{_CELL};{_LEFT};color:inherit",
        )
        + element("thead", element("tr", names))
        + element("tbody", body)
        + (element("tfoot", line(last, _BOLD)) if last else ""),
        style="font-variant-numeric:tabular-nums",
    )
