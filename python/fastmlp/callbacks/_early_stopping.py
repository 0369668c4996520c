"""Callbacks that end training: EarlyStopping, TimeLimit."""

from __future__ import annotations

import math
from time import monotonic
from typing import TYPE_CHECKING, Any

from .. import _validate
from .._formats import snapshot
from .._formats.json_state import whole
from ..metrics import History
from ._base import Callback
from ._watching import Watching, check_best

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._network.model import MLP


class EarlyStopping(Watching):
    """Ends the training when a loss or metric has stopped improving.

    Parameters
    ----------
    monitor : str, optional
        Value to monitor: "loss", "val_loss", the name of a metric of
        ``fit(metrics=…)`` ("val_r2"), or a name that an earlier callback logs. None is
        "val_loss" if there are validation data, else "loss".
    patience : int
        Number of successive epochs without improvement that end the training, at least
        1.
    min_delta : float
        Threshold ≥ 0: a value is an improvement if it is better than the best so far by
        more than this. NaN is never an improvement.
    restore_best : bool
        Whether to restore the parameters and running statistics of the best epoch at
        the end of the training. If an exception, such as Ctrl-C, ends the training,
        nothing is restored.
    mode : {"min", "max"}, optional
        Whether low or high values are good. If None, this follows from the loss or
        metric, whatever its name: "max" for accuracy and r2, "min" for the others. It
        must be given for a function of your own, and for a value that a callback logs
        under a name that is not that of a metric.
    restore_optimizer : bool
        Whether ``restore_best`` also restores the optimiser's state of that epoch.
    start_from_epoch : int
        Number of epochs at the beginning of a run that do not count: their values are
        not compared, and ``patience`` begins after them.
    baseline : float, optional
        Value to reach: an improvement counts for ``patience`` only if it is better than
        this, so that the training ends if it stays worse for ``patience`` epochs.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range; at the beginning of a fit,
        if nothing logs ``monitor``.

    Attributes
    ----------
    best : float or None
        Best value so far.
    best_epoch : int or None
        Epoch of the best value, counted from 1 in this run; after `load_state_dict`,
        counted from the beginning of the first run.
    stopped_epoch : int or None
        Epoch in which this callback ended the training; None if it did not.

    Notes
    -----
    Each fit starts from an empty state unless `load_state_dict` was called before it.
    If the patience is used up in that state, the fit trains for no epoch.
    """

    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        *,
        mode: str | None = None,
        restore_optimizer: bool = False,
        start_from_epoch: int = 0,
        baseline: float | None = None,
    ) -> None:
        super().__init__(monitor, mode)
        self.patience = _validate.count("patience", patience, 1)
        self.min_delta = _validate.real("min_delta", min_delta, 0.0)
        self.restore_best = _validate.flag("restore_best", restore_best)
        self.restore_optimizer = _validate.flag("restore_optimizer", restore_optimizer)
        self.start_from_epoch = _validate.count("start_from_epoch", start_from_epoch, 0)
        self.baseline = (
            None if baseline is None else _validate.real("baseline", baseline)
        )
        self._resumed = False
        self._forget()

    def _forget(self) -> None:
        self.best = None
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._epoch = 0
        self._kept: dict[str, Any] | None = None

    def on_train_begin(self, mlp: MLP, history: History) -> bool:
        """Forget any earlier run; tell whether the resumed one has ended already."""
        self._check(history)
        if not self._resumed:
            self._forget()
        self._resumed = False
        self.stopped_epoch = None
        return self._ends()

    def on_epoch_end(self, mlp: MLP, history: History) -> bool:
        """Compare the value with the best so far, and tell whether to stop."""
        value = self._value(history)
        self._epoch += 1
        if self._epoch <= self.start_from_epoch:
            return False
        if self._better(value, self.min_delta):
            self.best, self.best_epoch = value, self._epoch
            if self.restore_best:
                with_it = self.restore_optimizer and self.run is not None
                optimizer = self.run.optimizer if with_it and self.run else None
                self._kept = snapshot.model_state(mlp, optimizer)
        return self._ends()

    def _ends(self) -> bool:
        """Tell whether the patience is used up; if so, note the epoch."""
        good = self.best_epoch if self._reaches_baseline() else None
        stop = self._epoch - (good or self.start_from_epoch) >= self.patience
        if stop:
            self.stopped_epoch = self._epoch
        return stop

    def _reaches_baseline(self) -> bool:
        if self.baseline is None or self.best is None:
            return True
        sign = 1.0 if self._direction == "min" else -1.0
        return sign * self.best < sign * self.baseline

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Restore the best parameters."""
        if self._kept is None:
            return
        # The random number streams are not rewound to the best epoch.
        seed, passes, _ = mlp.core.training_state
        tracked = self._kept["training_state"][2]
        kept = {**self._kept, "training_state": (seed, passes, tracked)}
        snapshot.restore(kept, mlp, None if self.run is None else self.run.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value with its epoch and model, and the count of epochs."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "epoch": self._epoch,
            "kept": None if self._kept is None else dict(self._kept),
        }

    def _check_state(
        self, where: str, state: Mapping[str, Any], mlp: MLP, optimizer: Any
    ) -> None:
        check_best(where, state, ("best_epoch", "kept"))
        epoch, best = state["epoch"], state["best_epoch"]
        if best is not None and whole(f"{where}.best_epoch", best, 63) > epoch:
            raise ValueError(
                f"{where}.best_epoch must be at most {where}.epoch, {epoch}, got {best}"
            )
        if state["kept"] is not None:
            snapshot.check_kept(f"{where}.kept", state["kept"], mlp, optimizer)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next fit resume from this state, with the remaining patience."""
        best, best_epoch = state["best"], state["best_epoch"]
        epoch, kept = state["epoch"], state["kept"]
        self._forget()
        self.best, self.best_epoch, self._epoch = best, best_epoch, epoch
        self._kept = None if kept is None else dict(kept)
        self._resumed = True

    def __repr__(self) -> str:
        names = ["monitor", "patience", "min_delta", "restore_best", "mode"]
        if self.restore_optimizer:
            names.append("restore_optimizer")
        if self.start_from_epoch:
            names.append("start_from_epoch")
        if self.baseline is not None:
            names.append("baseline")
        values = {name: getattr(self, name) for name in names}
        return f"EarlyStopping({_validate.arguments(values)})"


class TimeLimit(Callback):
    """Ends the training after the first epoch that ends past a time limit.

    Parameters
    ----------
    seconds : float
        Wall time since the beginning of the training, > 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = _validate.real("seconds", seconds, 0.0, open_low=True)
        self._end = math.inf

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Set the deadline."""
        self._end = monotonic() + self.seconds

    def on_epoch_end(self, mlp: MLP, history: History) -> bool:
        """Tell whether the deadline has passed."""
        return monotonic() >= self._end

    def __repr__(self) -> str:
        return f"TimeLimit({self.seconds!r})"
