"""Loss and metrics on a data set, from one pass over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._validate import accepted
from .batches import StreamedBatches

if TYPE_CHECKING:
    from .. import _core
    from .._network.inputs import Inputs
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
    data : Data or StreamedBatches
        Data set; for batches, each evaluation iterates over them once.
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
        data: Data | StreamedBatches,
        loss: Loss,
        metrics: dict[str, Measure],
        *,
        validation: bool,
    ) -> None:
        self._core, self._data, self._loss = mlp.core, data, loss
        self._n_out, self._dtype = mlp.n_out, mlp.dtype
        self._checks = [metric.check for metric in metrics.values()]
        prefix = "val_" if validation else ""
        self._metrics = {prefix + name: f for name, f in metrics.items()}
        self.directions = {name: m.direction for name, m in self._metrics.items()}
        self._validation = validation
        self._loss_alone = not metrics and loss.core is not None
        self._epoch = 0
        if isinstance(data, StreamedBatches):
            for _, target, _ in data.first():
                self._check(target)
            return
        self._check(data[1])
        if not self._loss_alone:
            self._pred = np.empty((len(data[0]), mlp.n_out), mlp.dtype)

    def _check(self, target: Any) -> None:
        for check in self._checks:
            check(target)

    def __call__(self) -> Measured:
        """Return the loss (None unless ``validation`` is set) and the metrics."""
        if isinstance(self._data, StreamedBatches):
            pred, y, weight = self._outputs_of_batches(self._data)
            self._check(y)
        else:
            x, y, weight = self._data
            if self._loss_alone:
                assert self._loss.core is not None
                return accepted(self._core.evaluate(x, y, self._loss.core, weight)), {}
            pred = self._pred
            predict_blocks(self._core, x, pred)
        value = None
        if self._validation:
            value = loss_of_outputs(self._loss, pred, y, weight)
        read_only = pred.view()  # so that no metric can change it for the next
        read_only.flags.writeable = False
        return value, {k: f(read_only, y, weight) for k, f in self._metrics.items()}

    def _outputs_of_batches(
        self, batches: StreamedBatches
    ) -> tuple[Array, Any, Array | None]:
        """Return the outputs, targets and weights of all batches together."""
        outputs: list[Array] = []
        targets: list[Any] = []
        weights: list[Array | None] = []
        for x, y, weight in batches(self._epoch, 0):
            outputs.append(np.empty((len(x), self._n_out), self._dtype))
            predict_blocks(self._core, x, outputs[-1])
            # The next batch may be in the same memory.
            targets.append(
                tuple(map(np.array, y)) if isinstance(y, tuple) else y.copy()
            )
            weights.append(None if weight is None else np.array(weight))
        self._epoch += 1
        y = targets[0]
        if isinstance(y, tuple):
            y = tuple(map(np.concatenate, zip(*targets, strict=True)))
        else:
            y = np.concatenate(targets)
        if all(weight is None for weight in weights):
            return np.concatenate(outputs), y, None
        ones = [np.ones(len(p), self._dtype) for p in outputs]
        given = [
            one if weight is None else weight
            for one, weight in zip(ones, weights, strict=True)
        ]
        # The weights come as they were given: if they have to be scaled, then all by
        # the same factor.
        weight = _validate.weights(
            "validation_data: sample_weight",
            np.concatenate(given),
            self._dtype,
            relative=self._loss.core is not None and self._loss.reduction == "mean",
        )
        return np.concatenate(outputs), y, weight


def predict_blocks(core: _core.Mlp, x: Inputs, out: Array) -> None:
    """Compute the outputs of samples that have been checked, block by block."""
    for i in range(0, len(x), BLOCK):
        part = x if len(x) <= BLOCK else x[i : i + BLOCK]
        accepted(core.predict(part, out[i : i + BLOCK]))


def loss_of_outputs(
    loss: Loss, pred: Array, target: Array, weight: Array | None
) -> float:
    """Return the loss of outputs and targets that have been checked."""
    if loss.core is None:
        return loss(pred, target, weight)
    return accepted(loss.core.value(pred, target, weight))
