"""scikit-learn's rules: learning rates by epoch, validation, and when to stop."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _validate
from .._training.evaluator import loss_of_outputs
from ..callbacks import Callback
from ._epochs import predict

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._validate import Array
    from ..losses import Loss
    from ..metrics import History
    from ..mlp import MLP
    from ..optimizers import Optimizer
    from ._epochs import Data

# scikit-learn's "adaptive" does not lower a learning rate of at most this value; it
# stops the training instead.
LEAST_RATE = 1e-6


class Measure(NamedTuple):
    """A measure of predictions that is better the higher it is.

    Attributes
    ----------
    name : str
        Name in the history, such as "val_accuracy".
    function : callable
        Function of the network's outputs, which it may change, that returns the
        measure.
    """

    name: str
    function: Callable[[Array], float]


class Validation:
    """Computes loss and score on held-out data in a single pass.

    Parameters
    ----------
    mlp : MLP
        Model to evaluate.
    data : Data
        Held-out data.
    loss : Loss
        Loss of the fit.
    constant : (rows,) array, optional
        Constant term that scikit-learn adds to the loss of each sample.
    measure : Measure or None
        Measure that is recorded in the history.
    by_loss : bool
        Whether the score is minus the loss instead of the measure.

    Attributes
    ----------
    by_loss : bool
        As above.
    directions : dict
        "max" for the measure's name.
    score : float
        Score after the last call.
    """

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        constant: Array | None,
        measure: Measure | None,
        *,
        by_loss: bool,
    ) -> None:
        self._mlp, self._data, self._loss = mlp, data, loss
        self._measure, self.by_loss = measure, by_loss
        self.directions: dict[str, str | None] = {}
        if measure is not None:
            self.directions[measure.name] = "max"
        self._constant = 0.0
        if constant is not None:
            self._constant = float(np.average(constant, weights=data.weight))
        self.score = math.nan

    def __call__(self) -> tuple[float, dict[str, float]]:
        """Return the loss and the measure; set ``score``.

        The measure and the score are NaN unless all predictions are finite.
        """
        pred = predict(self._mlp, self._data.x)
        _, y, weight = self._data
        value = loss_of_outputs(self._loss, pred, y, weight)
        finite, metrics = bool(np.isfinite(pred).all()), {}
        self.score = -value if finite else math.nan
        if self._measure is not None:
            name, function = self._measure
            metrics[name] = function(pred) if finite else math.nan
            if not self.by_loss:
                self.score = metrics[name]
        return value + self._constant, metrics


class LearningRatePolicy:
    """An optimiser with scikit-learn's changes of the learning rate between epochs.

    Parameters
    ----------
    optimizer : Optimizer
        The optimiser.
    schedule : {"constant", "invscaling", "adaptive"}
        How the learning rate changes after an epoch.
    rate : float
        Initial learning rate.
    power : float
        Exponent of "invscaling".
    """

    def __init__(
        self, optimizer: Optimizer, schedule: str, rate: float, power: float
    ) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self._rate, self._power = float(rate), power

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self.optimizer.lr

    def _set(self, rate: float) -> None:
        """Change the learning rate without changing the momentum's contribution.

        scikit-learn's velocity includes the learning rate; the core's buffer does not.
        """
        core, old = self.optimizer.core, self.optimizer.lr
        if getattr(self.optimizer, "momentum", 0.0) and rate:
            state = core.state()
            for slot in state["slots"]:
                for buffer in slot.values():
                    buffer *= old / rate
            core.load_state(state)
        self.optimizer.lr = rate

    def end_epoch(self, samples: int) -> None:
        """Set the next epoch's learning rate, given the number of samples seen."""
        if self.schedule == "invscaling":
            self._set(self._rate / (samples + 1) ** self._power)

    def stop_or_slow_down(self, message: str, verbose: bool) -> bool:
        """When progress stagnates, return True to stop, or lower the learning rate."""
        if self.schedule != "adaptive":
            outcome, stop = "Stopping.", True
        elif self.learning_rate <= LEAST_RATE:
            outcome, stop = "Learning rate too small. Stopping.", True
        else:
            self._set(self.learning_rate / 5.0)
            outcome = f"Setting learning rate to {self.learning_rate:f}"
            stop = False
        if verbose:
            print(f"{message} {outcome}")
        return stop


class StoppingRule(Callback):
    """Keeps an estimator's records, and stops the training when scikit-learn would.

    Parameters
    ----------
    estimator : object
        Estimator whose training records (such as ``loss_curve_``) are updated.
    rows : int
        Number of samples in an epoch.
    validation : Validation, optional
        Source of the score that early stopping uses.
    policy : LearningRatePolicy, optional
        Policy of the learning rate; None for solvers, which stop by their own rule
        and, if there is a ``validation``, by its score.
    """

    def __init__(
        self,
        estimator: Any,
        rows: int,
        validation: Validation | None,
        policy: LearningRatePolicy | None,
    ) -> None:
        self._estimator, self._rows = estimator, rows
        self._validation, self._policy = validation, policy
        tol = estimator.tol  # infinity: no epoch is an improvement
        self._tol = tol if tol == math.inf else _validate.real("tol", tol, 0.0)
        self.stopped = False

    def on_epoch_end(self, mlp: MLP, history: History) -> bool:
        """Record this epoch, and return whether it was the last one."""
        est = self._estimator
        est.n_iter_ += 1
        est.loss_ = history.loss[-1]
        est.loss_curve_.append(est.loss_)
        if history.has_validation:
            est.validation_loss_curve_.append(history.val_loss[-1])
        if est.verbose:
            print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
        policy = self._policy
        if policy is None and self._validation is None:
            return False  # the solver has its own stopping rule
        self._count(mlp)
        if policy is not None:
            est.t_ += self._rows
            policy.end_epoch(est.t_)
        if est._no_improvement_count <= est.n_iter_no_change:
            return False
        what = "Validation score" if self._validation is not None else "Training loss"
        message = (
            f"{what} did not improve more than tol={self._tol:f} for "
            f"{est.n_iter_no_change} consecutive epochs."
        )
        if policy is not None:
            self.stopped = policy.stop_or_slow_down(message, est.verbose)
        else:
            self.stopped = True
            if est.verbose:
                print(f"{message} Stopping.")
        if not self.stopped:
            est._no_improvement_count = 0
        return self.stopped

    def _count(self, mlp: MLP) -> None:
        """Count the consecutive epochs without an improvement by ``tol``."""
        est = self._estimator
        if self._validation is None:
            worse = est.loss_ > est.best_loss_ - self._tol
            est.best_loss_ = min(est.best_loss_, est.loss_)
        else:
            score = self._validation.score
            est.validation_scores_.append(score)
            if est.verbose:
                print(f"Validation score: {score:f}")
            best = est.best_validation_score_
            tol = self._tol
            if self._validation.by_loss and math.isfinite(best):
                tol *= abs(best)  # the scale of a loss is arbitrary
            # NaN is never an improvement.
            worse = not score >= best + tol
            worse |= tol == 0.0 < self._tol and score == best
            if score > est.best_validation_score_:
                est.best_validation_score_ = score
                est._best = mlp.params.copy(), mlp.buffers.copy()
        est._no_improvement_count = est._no_improvement_count + 1 if worse else 0
