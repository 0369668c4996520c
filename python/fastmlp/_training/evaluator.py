"""Loss and metrics on a data set, from one pass over it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._validate import accepted

if TYPE_CHECKING:
    from .._network.model import Model
    from .._validate import Array
    from ..losses import Loss
    from ..metrics import Measure
    from .types import Data, Measured

# Number of rows predicted at a time; Ctrl-C takes effect between two such blocks.
BLOCK = 16384


class Evaluator:
    """Computes loss and metrics on a data set.

    Parameters
    ----------
    mlp : MLP
        Model to evaluate.
    data : Data
        Data set.
    loss : Loss
        Loss of the fit.
    metrics : dict
        Metrics by name.
    validation : bool
        Whether the data are for validation: if so, the loss is computed too, and the
        names of the metrics start with "val_".

    Attributes
    ----------
    directions : dict
        For each metric, by its name in the history, whether "max" or "min" is good, or
        None if that is unknown.
    """

    def __init__(
        self,
        mlp: Model,
        data: Data,
        loss: Loss,
        metrics: dict[str, Measure],
        *,
        validation: bool,
    ) -> None:
        self._core, self._data, self._loss = mlp.core, data, loss
        for metric in metrics.values():
            metric.check(data[1])
        prefix = "val_" if validation else ""
        self._metrics = {prefix + name: f for name, f in metrics.items()}
        self.directions = {name: m.direction for name, m in self._metrics.items()}
        self._validation = validation
        self._loss_alone = not metrics and loss.core is not None
        if not self._loss_alone:
            self._pred = np.empty((len(data[0]), mlp.n_out), mlp.dtype)

    def __call__(self) -> Measured:
        """Return the loss (None unless ``validation`` is set) and the metrics."""
        x, y, weight = self._data
        if self._loss_alone:
            assert self._loss.core is not None
            return accepted(self._core.evaluate(x, y, self._loss.core, weight)), {}
        pred = self._pred
        for i in range(0, len(x), BLOCK):
            rows = slice(i, i + BLOCK)
            accepted(self._core.predict(x[rows], pred[rows]))
        value = None
        if self._validation:
            value = loss_of_outputs(self._loss, pred, y, weight)
        read_only = pred.view()  # so that no metric can change it for the next
        read_only.flags.writeable = False
        return value, {k: f(read_only, y, weight) for k, f in self._metrics.items()}


def loss_of_outputs(
    loss: Loss, pred: Array, target: Array, weight: Array | None
) -> float:
    """Return the loss of outputs and targets that have been checked."""
    if loss.core is None:
        return loss(pred, target, weight)
    return accepted(loss.core.value(pred, target, weight))
