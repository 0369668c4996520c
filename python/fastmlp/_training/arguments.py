"""Checks of the training methods' arguments: optimisers, batches and data sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _validate
from .._network.inputs import check_finite, inputs
from .._validate import hints
from .._validate.warn import warn
from ..layers import activation_of
from ..optimizers import Optimizer
from ..solvers import Solver

if TYPE_CHECKING:
    from .._network.inputs import Inputs
    from .._network.model import Model
    from .._validate import Array
    from ..losses import Loss
    from .types import Data


def check_optimizer(optimizer: object, *, solvers: bool = False) -> None:
    """Raise TypeError unless given an optimiser or, if ``solvers`` is set, a solver."""
    if isinstance(optimizer, Optimizer) or (solvers and isinstance(optimizer, Solver)):
        return
    if isinstance(optimizer, Solver):
        name = type(optimizer).__name__
        raise TypeError(
            "optimizer must be able to take single steps on batches, but "
            f"fm.{name} works on all samples at once: use "
            f"fit(optimizer=fm.{name}(), …)"
        )
    got = _validate.describe(optimizer) + hints.instance(optimizer, "optimizers")
    if isinstance(optimizer, type) and issubclass(optimizer, (Optimizer, Solver)):
        name = optimizer.__name__
        got = f"fm.{name}; did you mean fm.{name}()?"
    elif type(optimizer).__module__.startswith("torch."):
        got += f" from PyTorch ({type(optimizer).__module__})"
    raise TypeError(
        f"optimizer must be a fastmlp Optimizer such as fm.Adam(), got {got}"
    )


# Activations that make no sense of outputs that the loss takes as logits: the loss
# contains the sigmoid or softmax, and the others cannot express both classes.
_NOT_LOGITS = (
    *("sigmoid", "hardsigmoid", "softmax"),
    *("relu", "relu6", "softplus", "logsigmoid", "exp"),
)


def check_output(mlp: Model, loss: Loss) -> None:
    """Warn the user if the output activation does not suit the loss."""
    contained = loss._contained
    if contained is None:
        return
    activation = activation_of(mlp.layers[-1])
    takes, within, unsuitable = _CONTAINED[contained]
    if activation.name not in unsuitable:
        return
    warn(
        f"{type(loss).__name__} takes {takes}, because it contains the {within}: the "
        "model's output_activation should be 'identity', not "
        f"{activation.text!r}, which makes training slow or impossible; apply "
        f"the {within} to the outputs afterwards"
    )


# For each function that losses contain: what they take, the function's name, and the
# output activations that do not suit.
_CONTAINED = {
    "softmax": ("logits", "softmax", _NOT_LOGITS),
    "sigmoid": ("logits", "sigmoid", _NOT_LOGITS),
    "exp": ("logarithms of rates", "exponential function", ("exp",)),
}


def rows_and_weight(
    mlp: Model, x: object, sample_weight: object, where: str = ""
) -> tuple[Inputs, Array | None]:
    """Return samples and their weights as arrays that the C++ core accepts.

    Here and in the functions below, error messages put ``where`` before the names of
    arguments.
    """
    rows = inputs(mlp, where + "x", x)
    return rows, _weight(mlp, rows, sample_weight, where, relative=False)


def _weight(
    mlp: Model, rows: Inputs, sample_weight: object, where: str, *, relative: bool
) -> Array | None:
    if sample_weight is None:
        return None
    name = where + "sample_weight"
    return _validate.weights(
        name, sample_weight, mlp.dtype, len(rows), relative=relative
    )


def batch(
    mlp: Model, x: object, y: object, loss: Loss, sample_weight: object, where: str = ""
) -> Data:
    """Return a batch as arrays that the C++ core accepts."""
    rows = inputs(mlp, where + "x", x)
    shape = (len(rows), mlp.n_out)
    assert loss.core is not None
    target = _validate.targets(where + "y", y, loss.core, shape, mlp.dtype)
    relative = loss.reduction == "mean"
    weight = _weight(mlp, rows, sample_weight, where, relative=relative)
    return rows, target, weight


def explained(
    mlp: Model,
    x: object,
    y: object,
    loss: Loss,
    sample_weight: object,
    error: ValueError,
) -> Exception:
    """Return the error that the checks in Python raise for what the core refused.

    It says more than the core's own ``error``, which is returned if they find nothing.
    """
    assert loss.core is not None
    try:
        target = batch(mlp, x, y, loss, sample_weight)[1]
        _validate.allowed("y", target, loss.core)
    except (TypeError, ValueError) as better:
        return better
    return error


def data_set(mlp: Model, where: str, data: object, loss: Loss) -> Data:
    """Check a data set and its values; return it as arrays for the C++ core."""
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        name = where.removesuffix(": ")
        raise TypeError(
            f"{name} must be (x, y) or (x, y, sample_weight), "
            f"got {_validate.describe(data)}"
        )
    x, y, sample_weight = data if len(data) == 3 else (*data, None)
    if loss.core is None:
        return _custom_data_set(mlp, where, x, y, loss, sample_weight)
    checked = batch(mlp, x, y, loss, sample_weight, where)
    check_finite(where + "x", checked[0])
    _validate.target_values(where + "y", checked[1], loss.core)
    return checked


def _custom_data_set(
    mlp: Model, where: str, x: object, y: object, loss: Loss, sample_weight: object
) -> Data:
    """Check a data set for a loss written in Python, which may take any targets."""
    rows = inputs(mlp, where + "x", x)
    check_finite(where + "x", rows)
    target: Any = loss._as_array(where + "y", y, mlp.n_out, mlp.dtype)
    if target.shape[:1] != (len(rows),):
        raise ValueError(
            f"{where}y must have as many rows as x, {len(rows)}, "
            f"got {_validate.describe(target)}"
        )
    return rows, target, _weight(mlp, rows, sample_weight, where, relative=False)
