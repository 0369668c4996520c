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

    from ..mlp import MLP


class EarlyStopping(Watching):
    """Ends the training when a loss or metric has stopped getting better.

    Parameters
    ----------
    monitor : str, optional
        "loss", "val_loss" or the name of a metric, of ``fit(metrics=…)`` ("val_r2") or
        one that an earlier callback logs. None is "val_loss" if there are validation
        data and "loss" if not.
    patience : int
        How many epochs in a row without improvement are put up with: the training ends
        with the ``patience``-th of them; at least 1.
    min_delta : float
        An improvement is a change for the better by more than this, ≥ 0. NaN is none.
    restore_best : bool
        At the end of the training, take back the parameters of the best epoch, running
        statistics among them. (They are left as they are if an exception ends it,
        Ctrl-C among them.)
    mode : {"min", "max"}, optional
        Whether low or high is good; None is "max" for accuracy and r2, else "min".
    restore_optimizer : bool
        With ``restore_best``, take back the optimiser's state of that epoch as well.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range; at the beginning of a fit, if
        nothing logs ``monitor``.

    Attributes
    ----------
    best : float or None
        The best value so far.
    best_epoch : int or None
        Its epoch, counted from 1 in this run (from the first run on after
        `load_state_dict`).
    stopped_epoch : int or None
        The epoch that ended the training, if this callback did.

    Notes
    -----
    Each fit starts afresh, unless `load_state_dict` came before it.
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
    ) -> None:
        super().__init__(monitor, mode)
        self.patience = _validate.count("patience", patience, 1)
        self.min_delta = _validate.real("min_delta", min_delta, 0.0)
        self.restore_best = _validate.flag("restore_best", restore_best)
        self.restore_optimizer = _validate.flag("restore_optimizer", restore_optimizer)
        self._resumed = False
        self._forget()

    def _forget(self) -> None:
        self.best = None
        self.best_epoch: int | None = None
        self.stopped_epoch: int | None = None
        self._epoch = 0
        self._kept: dict[str, Any] | None = None

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Forget any earlier run; refuse to watch what will not be there."""
        self._check(history)
        if not self._resumed:
            self._forget()
        self._resumed = False
        self.stopped_epoch = None

    def on_epoch_end(self, mlp: MLP, history: History) -> bool:
        """Compare, remember, and say whether patience is at its end."""
        value = self._value(history)
        self._epoch += 1
        if self._better(value, self.min_delta):
            self.best, self.best_epoch = value, self._epoch
            if self.restore_best:
                with_it = self.restore_optimizer and self.run is not None
                optimizer = self.run.optimizer if with_it and self.run else None
                self._kept = snapshot.model_state(mlp, optimizer)
        stop = self._epoch - (self.best_epoch or 0) >= self.patience
        if stop:
            self.stopped_epoch = self._epoch
        return stop

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Take back the best parameters."""
        if self._kept is None:
            return
        # Random numbers to come are not taken back.
        seed, passes, _ = mlp.core.training_state
        tracked = self._kept["training_state"][2]
        kept = {**self._kept, "training_state": (seed, passes, tracked)}
        snapshot.restore(kept, mlp, None if self.run is None else self.run.optimizer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and epoch, what to restore, and how long ago it was."""
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
                f"{where}.best_epoch must be at most epoch, {epoch}, got {best}"
            )
        if state["kept"] is not None:
            snapshot.check_kept(f"{where}.kept", state["kept"], mlp, optimizer)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next fit go on from here, with as much patience left as there was."""
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
        values = {name: getattr(self, name) for name in names}
        return f"EarlyStopping({_validate.arguments(values)})"


class TimeLimit(Callback):
    """Ends the training after the first epoch that ends later than a time.

    Parameters
    ----------
    seconds : float
        Wall time since the beginning of the training, > 0.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = _validate.real("seconds", seconds, 0.0, open_low=True)
        self._end = math.inf

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Look at the clock."""
        self._end = monotonic() + self.seconds

    def on_epoch_end(self, mlp: MLP, history: History) -> bool:
        """Look at it again."""
        return monotonic() >= self._end

    def __repr__(self) -> str:
        return f"TimeLimit({self.seconds!r})"
