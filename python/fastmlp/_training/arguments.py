"""Arguments of the training methods: optimisers, batches and data sets, checked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _validate
from ..optimizers import Optimizer
from ..solvers import Solver

if TYPE_CHECKING:
    from .._validate import Array
    from ..losses import Loss
    from ..mlp import MLP
    from .types import Data


def check_optimizer(optimizer: object, *, solvers: bool = False) -> None:
    """Raise TypeError unless this is an optimiser, or with ``solvers`` a solver."""
    if isinstance(optimizer, Optimizer) or (solvers and isinstance(optimizer, Solver)):
        return
    if isinstance(optimizer, Solver):
        name = type(optimizer).__name__
        raise TypeError(
            f"optimizer must take single steps on batches, got {name}, which works on "
            f"all samples at once: use fit(optimizer=fm.{name}(), …)"
        )
    got = _validate.describe(optimizer)
    if isinstance(optimizer, type) and issubclass(optimizer, (Optimizer, Solver)):
        name = optimizer.__name__
        got = f"fm.{name}; did you mean fm.{name}()?"
    elif type(optimizer).__module__.startswith("torch."):
        got += f" from PyTorch ({type(optimizer).__module__})"
    raise TypeError(
        f"optimizer must be a fastmlp Optimizer such as fm.Adam(), got {got}"
    )


def claim(mlp: MLP, optimizer: Optimizer | Solver) -> None:
    """Make the optimiser this model's, unless it has trained another one."""
    if optimizer._owner not in (None, mlp._self) and optimizer.step_count > 0:
        raise ValueError(
            "optimizer has trained another model, to which its state belongs; make a "
            "new one, or call its reset() to start again with this model"
        )
    optimizer._owner = mlp._self


def rows_and_weight(
    mlp: MLP, x: object, sample_weight: object
) -> tuple[Array, Array | None]:
    """Return samples and their weights as the core takes them."""
    rows = _validate.inputs("x", x, mlp.n_in, mlp.dtype)
    return rows, _weight(mlp, rows, sample_weight, "")


def _weight(mlp: MLP, rows: Array, sample_weight: object, where: str) -> Array | None:
    if sample_weight is None:
        return None
    name = where + "sample_weight"
    return _validate.weights(name, sample_weight, mlp.dtype, len(rows))


def batch(mlp: MLP, x: object, y: object, loss: Loss, sample_weight: object) -> Data:
    """Return a batch as the core takes it."""
    rows = _validate.inputs("x", x, mlp.n_in, mlp.dtype)
    target = loss.targets.convert("y", y, (len(rows), mlp.n_out), mlp.dtype)
    return rows, target, _weight(mlp, rows, sample_weight, "")


def data_set(mlp: MLP, where: str, data: object, loss: Loss) -> Data:
    """Return a data set as the core takes it; its values are checked too.

    ``where`` precedes the names of the arguments in messages.
    """
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        name = where.removesuffix(": ")
        raise TypeError(
            f"{name} must be (x, y) or (x, y, sample_weight), "
            f"got {_validate.describe(data)}"
        )
    x, y, sample_weight = data if len(data) == 3 else (*data, None)
    rows = _validate.inputs(where + "x", x, mlp.n_in, mlp.dtype)
    _validate.finite(where + "x", rows)
    shape = (len(rows), mlp.n_out)
    target = loss.targets.of_data_set(where + "y", y, shape, mlp.dtype)
    return rows, target, _weight(mlp, rows, sample_weight, where)
