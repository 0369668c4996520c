"""What may be done while `fastmlp.MLP.fit` trains, and the protocol to add to it.

A callback is an object of a subclass of `Callback` or a plain function of (mlp,
history), which is called after each epoch. For one fit the order of calls is

====================  =================================================================
``on_train_begin``    once, before the first epoch; an error here changes nothing
``on_epoch_begin``    before each epoch
``on_batch_end``      after each step, if a callback overrides it
``on_epoch_end``      after each epoch, whose values are in the history by then; with
                      ``restore_best`` and the like nothing has been restored yet
``on_train_end``      once, after the last epoch, whoever ended the training
``on_error``          once, instead of ``on_train_end``, if an exception ends it; also
                      if that comes from an ``on_train_end``, of its own callback and
                      those after it
====================  =================================================================

and for each of them that of the callbacks in their sequence, but for `Checkpoint`,
`CSVLogger` and `LearningRateFinder`, which come last so that they see, or take back,
what the others have made of the epoch. Any exception
from a callback ends the training and goes on to the caller: the model, the optimiser
and the history stay as they are then, and can be used.

A method that is not overridden is never called: a callback with ``on_epoch_end`` alone
costs one Python call an epoch, a fraction of a microsecond. Whole epochs run in one
native call without the GIL; if a callback overrides ``on_batch_end`` that call comes
back to Python after each step, which adds about a microsecond a step, and the results
are the same to the last bit.

States: ``state_dict()`` returns what a callback knows, as a dict of plain values and
arrays, and ``load_state_dict(state)`` makes the next fit go on from there, where it
otherwise would start afresh. `Checkpoint` stores them.
"""

from __future__ import annotations

import copy
import math
import os
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._formats import safetensors
from .._formats import states as _states
from .._network.model import is_model
from ..metrics import RISING, History

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .._training.loop import Place
    from ..losses import Loss
    from ..mlp import MLP
    from ..optimizers import Optimizer
    from ..solvers import Solver

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "LambdaCallback",
    "LearningRateFinder",
    "Run",
    "TimeLimit",
]


class Run:
    """What a callback may ask of the fit it is in, by its attribute ``run``.

    Attributes
    ----------
    optimizer : Optimizer or Solver
        Fit's optimiser; its learning rate may be set between steps (between epochs,
        if it had a schedule).
    loss : Loss
        Fit's loss.
    epochs : int
        How many epochs there are to be at most.
    steps_per_epoch : int or None
        Steps of an epoch; None if that is not known.
    history : History
        The record.
    callbacks : list of Callback
        All callbacks of this fit, in the order they are called in.
    metrics : tuple of str
        The names under which fit logs its metrics: "val_r2" and the like.
    seed, first_epoch : int
        What the orders of this fit are made from: its seed, and the number that its
        first epoch has there.
    """

    __slots__ = (
        "_place",
        "callbacks",
        "epochs",
        "first_epoch",
        "history",
        "loss",
        "metrics",
        "optimizer",
        "seed",
        "steps_per_epoch",
    )

    def __init__(
        self,
        optimizer: Any,
        loss: Loss,
        epochs: int,
        steps_per_epoch: int | None,
        history: History,
        callbacks: list[Callback],
        seed: int,
        first_epoch: int,
        metrics: tuple[str, ...] = (),
    ) -> None:
        self.optimizer, self.loss, self.history = optimizer, loss, history
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.callbacks, self.seed, self.first_epoch = callbacks, seed, first_epoch
        self.metrics = metrics
        self._place: Place | None = None

    def _within(self) -> dict[str, Any] | None:
        """Return how far an epoch that is not on record has come, if there is one."""
        if self._place is None:
            return None
        return self._place.state(self.first_epoch + len(self.history))


class Callback:
    """Base class of callbacks; override what is needed, see `fastmlp.callbacks`.

    A plain function with the arguments and result of `on_epoch_end` is a callback too.

    Attributes
    ----------
    run : Run or None
        The fit under way, None outside of one. A callback serves one fit at a time.
    """

    run: Run | None = None

    # Those that look at what others have done this epoch come after them.
    _last = False

    def _asks(self, hook: str) -> bool:
        """Tell whether a method that is overridden is to be called after all."""
        return True

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Do something once before the first epoch."""

    def on_epoch_begin(self, mlp: MLP, history: History) -> None:
        """Do something before each epoch; ``len(history)`` were finished."""

    def on_batch_end(
        self, mlp: MLP, history: History, step: int, loss: float
    ) -> bool | None:
        """Do something after each step.

        Parameters
        ----------
        mlp, history : MLP, History
            The model, as this step has left it, and the record of whole epochs.
        step : int
            Which step of this epoch it is, from 0.
        loss : float
            The batch's loss before the step.

        Returns
        -------
        bool or None
            True ends the training here; the broken epoch is not put on record.
        """
        return None

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

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> bool | None:
        """Clean up after an exception that ended the training, Ctrl-C among them.

        Returns
        -------
        bool or None
            True takes a `fastmlp.DivergenceError` for the ordinary end of the training:
            ``on_train_end`` follows and fit returns. Other exceptions go on anyway.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return what is to be stored for going on later, as copies; here nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in the next fit from what `state_dict` gave."""

    def _check_state(
        self, where: str, state: Mapping[str, Any], mlp: MLP, optimizer: Any
    ) -> None:
        """Refuse what `load_state_dict` or a later fit could not take."""


class _Function(Callback):
    """A plain function as a callback."""

    def __init__(self, function: Callable[[MLP, History], Any]) -> None:
        # In the method's place, so that nothing stands between fit and the function;
        # mypy forbids assigning to a method, ruff setattr with a constant name.
        setattr(self, "on_epoch_end", function)  # noqa: B010


class LambdaCallback(Callback):
    """Functions as a callback.

    Parameters
    ----------
    on_train_begin, on_epoch_begin, on_batch_end, on_epoch_end, on_train_end, on_error
        Functions with the arguments and results of `Callback`'s methods of these names.

    Raises
    ------
    TypeError
        For what is no function.
    """

    def __init__(
        self,
        on_train_begin: Callable[[MLP, History], Any] | None = None,
        on_epoch_begin: Callable[[MLP, History], Any] | None = None,
        on_batch_end: Callable[[MLP, History, int, float], Any] | None = None,
        on_epoch_end: Callable[[MLP, History], Any] | None = None,
        on_train_end: Callable[[MLP, History], Any] | None = None,
        on_error: Callable[[MLP, History, BaseException], Any] | None = None,
    ) -> None:
        given = {
            "on_train_begin": on_train_begin,
            "on_epoch_begin": on_epoch_begin,
            "on_batch_end": on_batch_end,
            "on_epoch_end": on_epoch_end,
            "on_train_end": on_train_end,
            "on_error": on_error,
        }
        for name, function in given.items():
            if function is None:
                continue
            if not callable(function):
                raise TypeError(
                    f"{name} must be a function, got {_validate.describe(function)}"
                )
            setattr(self, name, function)


class _Watching(Callback):
    """What those that watch a value share: which it is, and what is better."""

    def __init__(self, monitor: str | None, mode: str | None) -> None:
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(
                f"monitor must be a name or None, got {_validate.describe(monitor)}"
            )
        self.monitor = monitor
        if mode is None:
            rising = (monitor or "").removeprefix("val_") in RISING
            mode = "max" if rising else "min"
        self.mode = _validate.choice("mode", mode, ("min", "max"))
        self.best: float | None = None

    def _check(self, history: History) -> None:
        """Refuse to watch what will not be there."""
        if self.monitor == "val_loss" and not history.has_validation:
            raise ValueError(
                f"{type(self).__name__}(monitor='val_loss') needs "
                "fit(validation_data=…)"
            )
        if self.run is None or self.monitor in (None, "loss", *self.run.metrics):
            return
        # Only callbacks of the user's log values of other names.
        if not any(_may_log(hook) for hook in self.run.callbacks):
            known = ["loss", *["val_loss"] * history.has_validation, *self.run.metrics]
            if self.monitor not in known:
                raise ValueError(
                    f"{type(self).__name__}(monitor={self.monitor!r}): nothing logs "
                    f"{self.monitor!r} in this fit; there are {', '.join(known)}"
                )

    def _value(self, history: History) -> float:
        name = self.monitor or ("val_loss" if history.has_validation else "loss")
        if name in ("loss", "val_loss"):
            return float(getattr(history, name)[-1])
        values = history.metrics.get(name, [])
        if len(values) != len(history):
            raise ValueError(
                f"{type(self).__name__}(monitor={name!r}): no callback before it has "
                f"logged {name!r} for epoch {len(history)}, and it is no metric of "
                f"fit(metrics=…); there are {', '.join(_known(history))}"
            )
        return values[-1]

    def _better(self, value: float, min_delta: float = 0.0) -> bool:
        """Tell whether a value is better than the best by more than this."""
        if value != value:
            return False
        sign = 1.0 if self.mode == "min" else -1.0
        return self.best is None or sign * value < sign * self.best - min_delta


def _may_log(hook: Callback) -> bool:
    kind = type(hook)
    package = kind.__module__.partition(".")[0]
    return package != "fastmlp" or kind in (_Function, LambdaCallback)


def _known(history: History) -> list[str]:
    return ["loss", *["val_loss"] * history.has_validation, *history.metrics]


class EarlyStopping(_Watching):
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
                self._kept = _states.model_state(mlp, optimizer)
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
        _states.restore(kept, mlp, None if self.run is None else self.run.optimizer)

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
        _check_best(where, state, ("best_epoch", "kept"))
        epoch, best = state["epoch"], state["best_epoch"]
        if best is not None and _states.whole(f"{where}.best_epoch", best, 63) > epoch:
            raise ValueError(
                f"{where}.best_epoch must be at most epoch, {epoch}, got {best}"
            )
        if state["kept"] is not None:
            _states.check_kept(f"{where}.kept", state["kept"], mlp, optimizer)

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


class CSVLogger(Callback):
    """Writes the history to a file of comma-separated values, a line for each epoch.

    The columns are epoch, loss, val_loss (if there are validation data), the metrics
    that the first epoch has, and seconds. Numbers are written so that they read back
    exactly. Each line is in the file when its epoch has ended.

    Parameters
    ----------
    path : str or path-like
        The file.
    append : bool
        Go on in a file that is there, with its columns and its count of epochs; else
        each fit writes it anew.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range.
    """

    # Callbacks that log metrics come first.
    _last = True

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path = _states.file_name(path)
        self.append = _validate.flag("append", append)
        self._columns: list[str] | None = None
        self._epoch = 0

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Start the file, or see how far it goes."""
        import csv

        self._columns, self._epoch = None, 0
        if self.append and os.path.exists(self.path):
            with open(self.path, newline="", encoding="utf-8") as file:
                text = file.read()
            # A line that was cut off is made a line; its epoch counts.
            whole = not text or text.endswith("\n")
            lines = list(csv.reader(text.splitlines()))
            if lines:
                self._columns = lines[0]
            if lines and lines[0][:1] != ["epoch"]:
                raise ValueError(
                    f"path: {self.path} is no log of a CSVLogger, whose first column "
                    f"is epoch; got {', '.join(lines[0])}"
                )
            if len(lines) > 1:
                try:
                    self._epoch = int(lines[-1][0])
                except (IndexError, ValueError):
                    raise ValueError(
                        f"path: the last line of {self.path} has no epoch, got "
                        f"{','.join(lines[-1])!r}"
                    ) from None
            if not whole:
                with open(self.path, "a", encoding="utf-8") as file:
                    file.write("\n")
            return
        with open(self.path, "w", encoding="utf-8"):
            pass

    def on_epoch_end(self, mlp: MLP, history: History) -> None:
        """Write a line."""
        import csv

        self._epoch += 1
        values: dict[str, float] = {"epoch": self._epoch, "loss": history.loss[-1]}
        if history.val_loss:
            values["val_loss"] = history.val_loss[-1]
        for name, series in history.metrics.items():
            if len(series) == len(history):
                values[name] = series[-1]
        values["seconds"] = history.seconds[-1]
        with open(self.path, "a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            if self._columns is None:
                self._columns = list(values)
                writer.writerow(self._columns)
            writer.writerow(
                [repr(values[c]) if c in values else "" for c in self._columns]
            )

    def __repr__(self) -> str:
        return f"CSVLogger({self.path!r}, append={self.append!r})"


class Checkpoint(_Watching):
    """Stores all that a training is, so that it can go on exactly as if uninterrupted.

    A file holds parameters, running statistics, the optimiser's state, the place in the
    sequence of orders (which is that of dropout's masks too, and may be within an
    epoch), the history, and the states of all callbacks. It is a safetensors file, as
    of `fastmlp.MLP.save`, so that `fastmlp.load` makes a model of it, and is replaced
    in one step: whatever happens, there is a whole file, the new one or the one before.
    Needs the ``safetensors`` package.

    Parameters
    ----------
    path : str or path-like
        The file; ``{epoch}`` in it, as in ``"run-{epoch:03d}.safetensors"``, is
        the number of the epoch, counted from 1.
    monitor : str, optional
        What ``save_best_only`` looks at, as of `EarlyStopping`.
    save_best_only : bool
        Store only when ``monitor`` is better than whenever it was looked at before.
    every : int
        Look, and store, after each so many epochs; at least 1.
    mode : {"min", "max"}, optional
        Whether low or high is good; None is "max" for accuracy and r2, else "min".
    every_steps : int, optional
        Store within epochs as well, after each so many of an epoch's steps; at least 1.
        ``{epoch}`` is the epoch under way then. Costs a call of Python after each step.
    on_interrupt : bool
        Store as well when Ctrl-C (KeyboardInterrupt) ends the training, at whatever
        step; it costs nothing before. (If it comes while callbacks are told of the end
        of an epoch, some of them know of it and some do not: then the file that there
        is stays.)

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range, or that exclude each other; at
        the beginning of a fit, if nothing logs ``monitor``.

    Attributes
    ----------
    best : float or None
        The best value so far.
    last_path : str or None
        The last file written in this run.

    Examples
    --------
    After a break, with the model and the optimiser made by the same code again::

        path = "run.safetensors"
        stop, save = fm.EarlyStopping(patience=5), fm.Checkpoint(path)
        done = fm.Checkpoint.load(path, mlp, opt, [stop, save])
        rest = mlp.fit(x, y, loss=loss, optimizer=opt, epochs=100 - len(done),
                       batch_size=128, callbacks=[stop, save])
        done.extend(rest)

    Of a file made within an epoch ``done`` has the epochs before it, and the first of
    the rest is what was left of that epoch.
    """

    _last = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        monitor: str | None = None,
        save_best_only: bool = False,
        every: int = 1,
        *,
        mode: str | None = None,
        every_steps: int | None = None,
        on_interrupt: bool = False,
    ) -> None:
        super().__init__(monitor, mode)
        self.path = _states.file_name(path)
        self.save_best_only = _validate.flag("save_best_only", save_best_only)
        if monitor is not None and not self.save_best_only:
            raise ValueError(
                f"monitor is for save_best_only=True, got monitor={monitor!r} without"
            )
        self.every = _validate.count("every", every, 1)
        if every_steps is not None:
            every_steps = _validate.count("every_steps", every_steps, 1)
        self.every_steps = every_steps
        self.on_interrupt = _validate.flag("on_interrupt", on_interrupt)
        if save_best_only and (on_interrupt or every_steps is not None):
            raise ValueError(
                "save_best_only excludes every_steps and on_interrupt, as what is best "
                "is known at the end of an epoch: use a Checkpoint for each"
            )
        try:
            self.path.format(epoch=1)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"path may hold {{epoch}} and no other field, got {self.path!r}: "
                f"{type(error).__name__} {error}"
            ) from None
        self._resumed = False
        self._forget()

    def _forget(self) -> None:
        self.best = None
        self.last_path: str | None = None
        self._before: dict[str, Any] | None = None
        self._epoch = 0
        self._told = 0

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Forget any earlier run; refuse to watch what will not be there."""
        safetensors.package("fm.Checkpoint")  # now, not when there is much to lose
        if self.save_best_only:
            self._check(history)
        if not self._resumed:
            self._forget()
        self._resumed, self._told = False, 0

    def _asks(self, hook: str) -> bool:
        return hook != "on_batch_end" or self.every_steps is not None

    def on_batch_end(self, mlp: MLP, history: History, step: int, loss: float) -> None:
        """Store, if it is time to."""
        if self.every_steps is not None and (step + 1) % self.every_steps == 0:
            self._store(self._epoch + 1, mlp, history)

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> None:
        """Store, if this is what to store at."""
        if (
            self.on_interrupt
            and isinstance(error, KeyboardInterrupt)
            and len(history) == self._told
        ):
            within = self.run is not None and self.run._within() is not None
            self._store(self._epoch + within, mlp, history)

    def on_epoch_end(self, mlp: MLP, history: History) -> None:
        """Store, if it is time to."""
        self._epoch, self._told = self._epoch + 1, self._told + 1
        if self._epoch % self.every:
            return
        if self.save_best_only:
            value = self._value(history)
            if not self._better(value):
                return
            self.best = value
        self._store(self._epoch, mlp, history)

    def _store(self, epoch: int, mlp: MLP, history: History) -> None:
        path = self.path.format(epoch=epoch)
        self._save(path, mlp, history)
        self.last_path = path

    def _save(self, path: str, mlp: MLP, history: History) -> None:
        run = self.run
        assert run is not None
        whole = history
        if self._before is not None:
            whole = History.from_dict(self._before)
            whole.extend(history)
        training = {
            "seed": run.seed,
            "epochs": run.first_epoch + len(history),
            "within": run._within(),
        }
        rest = {
            "model": repr(mlp),
            "steps": _states.architecture(mlp),
            "optimizer": run.optimizer.state_dict(),
            "callbacks": [
                {"kind": type(hook).__name__, "state": hook.state_dict()}
                for hook in run.callbacks
                if type(hook).state_dict is not Callback.state_dict
            ],
        }
        data = _states.encoded(mlp, "fm.Checkpoint", training, whole, rest)
        _states.replace_file(path, data)

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        mlp: MLP,
        optimizer: Optimizer | Solver | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> History:
        """Take over what a checkpoint holds.

        A fit that follows with the same data and arguments, but without ``seed``, goes
        on exactly where the checkpoint was made.

        Parameters
        ----------
        path : str or path-like
            The file.
        mlp : MLP
            A model of the same architecture and dtype.
        optimizer : Optimizer, optional
            One of the same kind; it becomes this model's. What cannot be stored
            without pickle, such as a learning rate that is a Python function, is kept
            as it is in this one.
        callbacks : sequence of Callback, optional
            Those that have states, of the same kinds in the same order; others may
            stand among them.

        Returns
        -------
        History
            Of all epochs so far, also set as ``mlp.history``.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is anything but what a checkpoint was to the last bit, or one of
            something else. Nothing has changed then.
        ImportError
            Without the ``safetensors`` package.
        """
        name = _states.file_name(path)
        if not is_model(mlp):
            raise TypeError(f"mlp must be a fm.MLP, got {_validate.describe(mlp)}")
        if optimizer is not None and isinstance(optimizer, type):
            kind = optimizer.__name__
            raise TypeError(
                f"optimizer must be a fastmlp Optimizer, got fm.{kind}; did you mean "
                f"fm.{kind}()?"
            )
        if optimizer is not None and not hasattr(optimizer, "_owner"):
            raise TypeError(
                "optimizer must be a fastmlp Optimizer, got "
                f"{_validate.describe(optimizer)}"
            )
        given_hooks = as_callbacks(callbacks)
        given = None if optimizer is None else optimizer.state_dict()
        # A callback may have kept an optimiser's state as well.
        kept = {"state": {"kept": {"optimizer": given}}}
        stored = _states.stored(
            name,
            "checkpoint",
            kept={"optimizer": given, "callbacks": [kept] * len(given_hooks)},
        )

        # All is looked at before anything is changed.
        rest = stored.checkpoint
        if rest is None:
            raise ValueError(
                f"path: {name} is no checkpoint: there is a model alone, which fm.load "
                "reads"
            )
        if (
            stored.given["dtype"] != mlp.dtype.name
            or rest["steps"] != _states.architecture(mlp)
            or not stored.fits(mlp)
        ):
            raise ValueError(
                f"path: {name} does not fit the model, {mlp!r}: it is of "
                f"{rest['model']}"
            )
        hooks = [
            hook
            for hook in given_hooks
            if type(hook).state_dict is not Callback.state_dict
        ]
        try:
            states = _states_of(hooks, rest["callbacks"])
            for i, (hook, state) in enumerate(states):
                hook._check_state(f"callbacks[{i}].state", state, mlp, optimizer)
            if optimizer is not None:
                _states.check_optimizer("optimizer", rest["optimizer"], mlp, optimizer)
        except (TypeError, ValueError) as error:
            raise ValueError(f"path: {name}: {error}") from None

        if optimizer is not None:
            optimizer.load_state_dict(rest["optimizer"])
            optimizer._owner = mlp._self
        stored.fill(mlp)
        history = stored.history
        assert history is not None  # as in every checkpoint
        for hook, state in states:
            hook.load_state_dict(state)
            if isinstance(hook, Checkpoint):
                hook._before = history.to_dict()
        return history

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the count of epochs."""
        return {"best": self.best, "epoch": self._epoch}

    def _check_state(
        self, where: str, state: Mapping[str, Any], mlp: MLP, optimizer: Any
    ) -> None:
        _check_best(where, state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next fit go on from here."""
        best, epoch = state["best"], state["epoch"]
        self._forget()
        self.best, self._epoch = best, epoch
        self._resumed = True

    def __repr__(self) -> str:
        names = ["path", "monitor", "save_best_only", "every", "mode"]
        if self.every_steps is not None:
            names.append("every_steps")
        if self.on_interrupt:
            names.append("on_interrupt")
        values = {name: getattr(self, name) for name in names}
        return f"Checkpoint({_validate.arguments(values)})"


def _states_of(
    hooks: list[Callback], entries: object
) -> list[tuple[Callback, dict[str, Any]]]:
    """Return callbacks with what a file holds of each."""
    states = []
    for i, entry in enumerate(_states.listed("callbacks", entries)):
        where = f"callbacks[{i}]"
        _states.fields(where, entry, ("kind", "state"))
        _states.text(f"{where}.kind", entry["kind"])
        if not isinstance(entry["state"], dict):
            got = _validate.describe(entry["state"])
            raise ValueError(f"{where}.state must be an object, got {got}")
        states.append((entry["kind"], entry["state"]))
    kinds = [kind for kind, _ in states]
    given = [type(hook).__name__ for hook in hooks]
    if hooks and kinds != given:
        raise ValueError(
            f"it holds the states of {', '.join(kinds) or 'none'}; callbacks are "
            f"{', '.join(given)}"
        )
    return [(hook, state) for hook, (_, state) in zip(hooks, states, strict=False)]


def _check_best(
    where: str, state: Mapping[str, Any], others: tuple[str, ...] = ()
) -> None:
    """Refuse what is no state of a callback that looks for the best."""
    names = ("best", "epoch", *others)
    _states.fields(where, {n: state[n] for n in names if n in state}, names)
    if state["best"] is not None and not isinstance(state["best"], float):
        got = _validate.describe(state["best"])
        raise ValueError(f"{where}.best must be a float or None, got {got}")
    _states.whole(f"{where}.epoch", state["epoch"], 63)


class LearningRateFinder(Callback):
    """Tries learning rates from small to large, a step each, and suggests one.

    The range test of Smith, "Cyclical learning rates for training neural networks",
    2017: the learning rate grows by the same factor from step to step; at first nothing
    happens, then the loss falls, and when the rate is too large it rises. It ends when
    the smoothed loss exceeds ``stop_factor`` times its least, when a loss is not
    finite, or with the last step. Then the model, the optimiser and the place in the
    sequence of orders are as they were before: ``fit`` with this callback trains
    nothing. Give it epochs enough for ``steps``.

    Parameters
    ----------
    start, end : float
        The first and the last learning rate, 0 < start < end.
    steps : int
        How many steps to take from one to the other, at least 2.
    smoothing : float
        Weight of the past in the smoothed loss, an exponential moving average without
        the bias of its beginning; from 0 to below 1.
    stop_factor : float
        See above; > 1, or infinite to go on to the end.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range.

    Attributes
    ----------
    lrs : ndarray (n,)
        The learning rates tried, float64.
    losses : ndarray (n,)
        The smoothed losses, of the batches before the steps with these rates.
    raw_losses : ndarray (n,)
        The same as they were.
    suggestion : float or None
        The learning rate at which the loss falls fastest against the rate's logarithm
        (that of the smoothed loss, less its lag); None if it never falls.

    Examples
    --------
    >>> import fastmlp as fm
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 256)[:, np.newaxis]
    >>> mlp, opt = fm.MLP([1, 32, 1], seed=0), fm.SGD(lr=0.1)
    >>> finder = fm.LearningRateFinder(steps=50)
    >>> history = mlp.fit(
    ...     x, x**2, loss=fm.MSE(), optimizer=opt, epochs=50, batch_size=32,
    ...     callbacks=[finder],
    ... )
    >>> opt.lr = finder.suggestion
    """

    # What others restore at the end is taken back, too.
    _last = True

    def __init__(
        self,
        start: float = 1e-7,
        end: float = 10.0,
        steps: int = 100,
        smoothing: float = 0.9,
        stop_factor: float = 4.0,
    ) -> None:
        self.start = _validate.real("start", start, 0.0, open_low=True)
        self.end = _validate.real("end", end, self.start, open_low=True)
        self.steps = _validate.count("steps", steps, 2)
        self.smoothing = _validate.real("smoothing", smoothing, 0, 1, open_high=True)
        if stop_factor != math.inf:
            stop_factor = _validate.real("stop_factor", stop_factor, 1, open_low=True)
        self.stop_factor = stop_factor
        self._before: dict[str, Any] | None = None
        self._clear()

    def _clear(self) -> None:
        self.lrs = np.empty(0)
        self.losses = np.empty(0)
        self.raw_losses = np.empty(0)
        self.suggestion: float | None = None
        self._seen: list[float] = []
        self._smooth: list[float] = []
        self._average = 0.0

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Keep what is to be restored; set the first learning rate."""
        run = self.run
        assert run is not None
        if not hasattr(run.optimizer, "lr"):
            raise TypeError(
                f"LearningRateFinder: {type(run.optimizer).__name__} has no learning "
                "rate to find"
            )
        if run.steps_per_epoch is not None:
            available = run.epochs * run.steps_per_epoch
            if available < self.steps:
                raise ValueError(
                    f"LearningRateFinder(steps={self.steps}) needs as many steps; "
                    f"{run.epochs} epochs have {available}: give fit epochs="
                    f"{math.ceil(self.steps / run.steps_per_epoch)}"
                )
        self._clear()
        self._before = {
            **_states.model_state(mlp, run.optimizer),
            "sequence": copy.copy(mlp.sequence),
        }
        run.optimizer.lr = self.start

    def _rate(self, step: int) -> float:
        return float(self.start * (self.end / self.start) ** (step / (self.steps - 1)))

    def on_batch_end(self, mlp: MLP, history: History, step: int, loss: float) -> bool:
        """Note the loss, set the next learning rate."""
        assert self.run is not None
        n = len(self._seen)
        self._seen.append(loss)
        beta = self.smoothing
        self._average = beta * self._average + (1 - beta) * loss
        self._smooth.append(self._average / (1 - beta ** (n + 1)))
        least = min(self._smooth)
        far = self._smooth[-1] - least > (self.stop_factor - 1) * abs(least)
        if n + 1 == self.steps or (n > 0 and far):
            return True
        self.run.optimizer.lr = self._rate(n + 1)
        return False

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Restore everything, and make a suggestion."""
        self._put_back(mlp)
        self.raw_losses = np.array(self._seen)
        self.losses = np.array(self._smooth)
        self.lrs = np.array([self._rate(i) for i in range(len(self._seen))])
        if not self._seen:
            return
        # Where the average is of a few batches only, its slope is that of their noise.
        # Later it lags behind the losses by as many steps.
        lag = round(self.smoothing / (1 - self.smoothing))
        first = min(len(self.lrs) // 2, lag)
        fall = self.losses[first : first + 1 + int(self.losses[first:].argmin())]
        if len(fall) > 1:
            slope = np.gradient(fall, np.log(self.lrs[first : first + len(fall)]))
            self.suggestion = float(self.lrs[max(0, first + slope.argmin() - lag)])

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> bool:
        """Restore everything; that a loss is not finite is what was looked for."""
        self._put_back(mlp)
        return isinstance(error, _core.DivergenceError)

    def _put_back(self, mlp: MLP) -> None:
        if self._before is None:
            return
        assert self.run is not None
        _states.restore(self._before, mlp, self.run.optimizer)
        mlp.sequence = self._before["sequence"]
        self._before = None

    def __repr__(self) -> str:
        names = ("start", "end", "steps", "smoothing", "stop_factor")
        values = {name: getattr(self, name) for name in names}
        return f"LearningRateFinder({_validate.arguments(values)})"


# For fit ------------------------------------------------------------------------------


def wants_stop(result: object) -> bool:
    """Tell whether to stop: True alone does, as a function may return a loss."""
    return isinstance(result, (bool, np.bool_)) and bool(result)


def overridden(hooks: list[Callback], name: str) -> list[Callable[..., Any]]:
    """Return the bound methods of this name that do something."""
    return [
        getattr(hook, name)
        for hook in hooks
        if (
            name in hook.__dict__
            or getattr(type(hook), name) is not getattr(Callback, name)
        )
        and hook._asks(name)
    ]


def _sorted(hooks: list[Callback]) -> list[Callback]:
    return sorted(hooks, key=lambda hook: hook._last)


def as_callbacks(callbacks: object) -> list[Callback]:
    """Return what was handed to fit as a list of `Callback` objects, in their order."""
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
    return _sorted([i if isinstance(i, Callback) else _Function(i) for i in items])
