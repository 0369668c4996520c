"""scikit-learn: ``MLPRegressor`` and ``MLPClassifier``, one batch per partial_fit."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import sklearn
from sklearn.neural_network import MLPClassifier, MLPRegressor

from .base import Rival
from .tasks import FIT_EPOCHS, Task


class SklearnRival(Rival):
    """``partial_fit(x, y)`` with alpha=0 and batch_size = rows: exactly one step.

    ``fit`` starts from its own random parameters, and never stops early.

    Known differences, none of which changes the amount of work: the regressor's loss is
    half the mean squared error, summed over outputs in the gradient (Adam is invariant
    to the scale); Adam adds epsilon before the bias correction ("epsilon hat"); the
    classifier's output is a softmax, and it encodes the labels in every call.
    """

    # Epsilon hat is up to 30 times epsilon in the first steps, in any dtype.
    loss_tolerance: ClassVar[dict[str, float]] = {"float32": 1e-3, "float64": 1e-3}

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        workload = task.workload
        if workload.loss == "mse" and workload.optimizer == "sgd":
            raise ValueError("SGD would need another learning rate for this loss")
        self.classifies = workload.loss == "cross_entropy"
        options: dict[str, Any] = {
            "hidden_layer_sizes": workload.widths[1:-1],
            "activation": workload.activation,
            "solver": workload.optimizer,
            "alpha": 0.0,
            "batch_size": workload.batch if task.mode == "fit" else task.rows,
            "learning_rate_init": workload.lr,
            "shuffle": task.mode == "fit",
            "max_iter": FIT_EPOCHS,
            "n_iter_no_change": FIT_EPOCHS + 1,
            "tol": 0.0,
            "momentum": 0.0,
            "nesterovs_momentum": False,
            "random_state": 0,
        }
        make = MLPClassifier if self.classifies else MLPRegressor
        self.model = make(**options)
        self.y = task.y.ravel() if workload.widths[-1] == 1 else task.y
        # The first call allocates the parameter arrays that `reset` fills.
        if self.classifies:
            classes = np.arange(workload.widths[-1])
            self.model.partial_fit(task.x, self.y, classes=classes)
        else:
            self.model.partial_fit(task.x, self.y)
        self.reset()

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"scikit-learn": sklearn.__version__}

    def reset(self) -> None:
        """Restore the initial parameters and reset the optimiser."""
        for layer, (weight, bias) in enumerate(self.task.params):
            self.model.coefs_[layer][...] = weight
            self.model.intercepts_[layer][...] = bias
        # partial_fit makes a new optimiser if the attribute is missing.
        if hasattr(self.model, "_optimizer"):
            del self.model._optimizer

    def train_step(self) -> float:
        """Take one step."""
        self.model.partial_fit(self.task.x, self.y)
        return self.model.loss_ * (1.0 if self.classifies else 2.0)

    def fit(self) -> float:
        """Train for a fixed number of epochs."""
        self.model.fit(self.task.x, self.y)
        return self.model.loss_ * (1.0 if self.classifies else 2.0)

    def infer(self) -> np.ndarray:
        """Return the network's output."""
        if self.classifies:
            return self.model.predict_proba(self.task.x)
        return self.model.predict(self.task.x)

    def output(self) -> np.ndarray:
        """Return logits or values."""
        output = super().output()
        if not self.classifies:
            return output
        # Logits up to a constant per row, which the judge's comparison removes.
        return np.log(output.astype(np.float64))
