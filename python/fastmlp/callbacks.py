"""What may be done between epochs of `fastmlp.MLP.fit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from . import _validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ._validate import Array
    from .history import History
    from .mlp import MLP


class Callback:
    """Base class of callbacks; override what is needed.

    A plain function with the arguments and result of `on_epoch_end` is a callback too.
    """

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Do something once before the first epoch."""

    def on_epoch_end(self, mlp: MLP, history: History) -> bool | None:
        """Do something after each epoch, with that epoch's entries in ``history``.

        Returns
        -------
        bool or None
            True (just that, nothing merely truthy) ends the training.
        """
        return None

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Do something once after the last epoch, unless it ended with an exception."""


class _Function(Callback):
    """A plain function as a callback."""

    def __init__(self, function: Callable[[MLP, History], Any]) -> None:
        self._function = function

    def on_epoch_end(self, mlp: MLP, history: History) -> bool | None:
        stop: bool | None = self._function(mlp, history)
        return stop


class EarlyStopping(Callback):
    """Ends the training when a loss or metric has stopped getting better.

    Parameters
    ----------
    monitor : str, optional
        "loss", "val_loss" or the name of a metric that an earlier callback logs. None
        is "val_loss" if there are validation data and "loss" if not.
    patience : int
        How many epochs in a row without improvement are put up with: the training ends
        with the ``patience``-th of them; at least 1.
    min_delta : float
        An improvement is a change for the better by more than this, ≥ 0. NaN is none.
    restore_best : bool
        At the end of the training, take back the parameters of the best epoch. (They
        are left as they are if an exception ends it, Ctrl-C among them.)
    mode : {"min", "max"}
        Whether low or high is good.

    Attributes
    ----------
    best : float or None
        The best value so far.
    best_epoch : int or None
        Its epoch, counted from 1 in this run.
    """

    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        *,
        mode: str = "min",
    ) -> None:
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(
                f"monitor must be a name or None, got {_validate.describe(monitor)}"
            )
        self.monitor = monitor
        self.patience = _validate.count("patience", patience, 1)
        self.min_delta = _validate.real("min_delta", min_delta, 0.0)
        self.restore_best = _validate.flag("restore_best", restore_best)
        self.mode = _validate.choice("mode", mode, ("min", "max"))
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.best_epoch: int | None = None
        self._params: Array | None = None

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Forget any earlier run; refuse to watch what will not be there."""
        self._forget()
        if self.monitor == "val_loss" and not history.has_validation:
            raise ValueError(
                "EarlyStopping(monitor='val_loss') needs fit(validation_data=…)"
            )

    def on_epoch_end(self, mlp: MLP, history: History) -> bool:
        """Compare, remember, and say whether patience is at its end."""
        value = self._value(history)
        epoch = len(history)
        sign = 1.0 if self.mode == "min" else -1.0
        if value == value and (
            self.best is None or sign * value < sign * self.best - self.min_delta
        ):
            self.best, self.best_epoch = value, epoch
            if self.restore_best:
                self._params = mlp.params.copy()
        return epoch - (self.best_epoch or 0) >= self.patience

    def _value(self, history: History) -> float:
        name = self.monitor or ("val_loss" if history.has_validation else "loss")
        if name in ("loss", "val_loss"):
            return float(getattr(history, name)[-1])
        values = history.metrics.get(name, [])
        if len(values) != len(history):
            raise ValueError(
                f"EarlyStopping(monitor={name!r}): no callback before it has logged "
                f"{name!r} for epoch {len(history)}"
            )
        return values[-1]

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Take back the best parameters."""
        if self._params is not None:
            mlp.params[:] = self._params
            self._params = None

    def __repr__(self) -> str:
        names = ("monitor", "patience", "min_delta", "restore_best", "mode")
        values = {name: getattr(self, name) for name in names}
        return f"EarlyStopping({_validate.arguments(values)})"


def wants_stop(result: object) -> bool:
    """Tell whether to stop: True alone does, as a function may return a loss."""
    return isinstance(result, (bool, np.bool_)) and bool(result)


def as_callbacks(callbacks: object) -> list[Callback]:
    """Return what was handed to fit as a list of `Callback` objects."""
    if callbacks is None:
        return []
    if isinstance(callbacks, Callback) or callable(callbacks):
        raise TypeError(
            "callbacks must be a sequence of callbacks, got "
            f"{_validate.describe(callbacks)}; write callbacks=[…]"
        )
    try:
        items = list(callbacks)  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(
            "callbacks must be a sequence of callbacks, "
            f"got {_validate.describe(callbacks)}"
        ) from None
    for i, item in enumerate(items):
        if isinstance(item, type) and issubclass(item, Callback):
            raise TypeError(
                f"callbacks[{i}] must be a callback, got the class {item.__name__}; "
                f"did you mean {item.__name__}()?"
            )
        if not isinstance(item, Callback) and not callable(item):
            raise TypeError(
                f"callbacks[{i}] must be a fm.Callback or a function of (mlp, "
                f"history), got {_validate.describe(item)}"
            )
    return [i if isinstance(i, Callback) else _Function(i) for i in items]
