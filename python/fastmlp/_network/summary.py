"""The table that `fastmlp.MLP.summary` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._display import markup
from ..layers import Dense
from . import ops

if TYPE_CHECKING:
    from collections.abc import Collection

    from .model import Model
    from .ops import Step

HEADER = (
    "name",
    "layer",
    "output",
    "activation",
    "parameters",
    "FLOPs/row",
    "training FLOPs/row",
    "parameter bytes",
    "output bytes/row",
)
TEXT_COLUMNS = 4


class Table(str):
    """Text whose repr is the text itself, as prompts should show it.

    Notebooks show a table instead.
    """

    _html = ""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return self._html


def flops(step: Step) -> tuple[int, int]:
    """Return a step's number of operations per row: at inference, and in training.

    A multiplication and an addition count as two operations. In training, a dense layer
    has three matrix products: for the outputs, for the gradient of the weights, and for
    the gradient of the inputs. Layers that read the network's inputs do not need the
    last product. Other operations count twice in training.
    """
    n = step.n_out
    product = 2 * step.n_in * n if step.kind == "dense" else 0
    own = (0, 0) if step.layer is None else step.layer.flops
    other, trained = (
        (per_element + (step.activation != "identity")) * n for per_element in own
    )
    if step.kind == "dense" and step.bias is not None:
        other, trained = other + n, trained + n
    products = 2 if step.source == ops.INPUT else 3
    return product + other, products * product + 2 * trained


def title(step: Step) -> str:
    """Return the text that describes a step's layer in the table."""
    layer = step.layer
    if step.kind == "dense":
        bias = "" if step.bias is not None else ", no bias"
        what = "Projection" if layer is None else "Dense"
        computed = "" if layer is None else layer.parametrization or ""
        how = f", {computed.replace('_', ' ')}" if computed else ""
        return f"{what} {step.n_in} -> {step.n_out}{bias}{how}"
    if ops.absent_at_inference(layer):
        return repr(layer)
    return type(layer).__name__


def size(count: float) -> str:
    """Format a number of bytes with a unit: B, kB, MB or GB, in powers of 1000."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.95 or unit == "GB":
            break
    return f"{count:,.1f} {unit}"


def summary(mlp: Model) -> Table:
    """Return the table that `fastmlp.MLP.summary` documents."""
    network = ops.steps(mlp)
    item = mlp.dtype.itemsize
    views, frozen = mlp._views.parameters, set(mlp.frozen)
    rows: list[tuple[str, ...]] = []
    totals = [0, 0, 0, 0]
    for step in ops.tree(network):
        work = flops(step)
        numbers = (step.n_params, *work, step.n_out)
        totals = [a + b for a, b in zip(totals, numbers, strict=True)]
        rows.append(
            (
                step.name,
                "  " * step.depth + title(step) + _frozen(step, frozen),
                f"(B, {step.n_out})",
                step.activation if step.kind in ("dense", "activation") else "",
                *_cells(numbers, item),
            )
        )
    last = ("total", "", "", "", *_cells(totals, item))

    # Align text to the left and numbers to the right.
    table = [HEADER, *rows, last]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for row in table:
        cells = [
            text.ljust(width) if i < TEXT_COLUMNS else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells))
    rule = "-" * len(lines[0])
    types = str(mlp.dtype)
    if mlp.compute_dtype != types:
        types += f" with products in {mlp.compute_dtype}"
    head = f"MLP {mlp.n_in} -> {mlp.n_out}, {types}, {size(mlp.n_params * item)}"
    if frozen:
        count = sum(views[name].size for name in frozen)
        head += f", {count:,} of {mlp.n_params:,} parameters frozen"
    text = Table("\n".join([head, lines[0], rule, *lines[1:-1], rule, lines[-1]]))
    text._html = markup.table(head, HEADER, rows, last=last, texts=TEXT_COLUMNS)
    return text


def _frozen(step: Step, frozen: Collection[str]) -> str:
    """Return the text that says what of a layer is frozen."""
    slices = {
        "magnitude": step.magnitude,
        "weight": step.weight,
        "bias": step.bias,
    }
    roles = [role for role, place in slices.items() if place is not None]
    name = step.layer.role if isinstance(step.layer, Dense) else str
    held = [role for role in roles if f"{step.name}.{name(role)}" in frozen]
    if not held:
        return ""
    return ", frozen" if held == roles else f", {' and '.join(held)} frozen"


def _cells(numbers: tuple[int, ...] | list[int], item: int) -> tuple[str, ...]:
    params, forward, training, outputs = numbers
    counts = tuple(f"{n:,}" for n in (params, forward, training))
    return (*counts, size(params * item), size(outputs * item))
