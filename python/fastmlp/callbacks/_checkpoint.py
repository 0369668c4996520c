"""Checkpoints from which training resumes exactly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .. import _validate
from .._formats import model_schema, safetensors, snapshot
from .._formats.atomic_write import file_name, replace_file
from .._formats.json_state import fields, listed, text
from .._network.model import is_model
from ..metrics import History
from ._base import Callback, as_callbacks
from ._watching import Watching, check_best

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ..mlp import MLP
    from ..optimizers import Optimizer
    from ..solvers import Solver


class Checkpoint(Watching):
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
        self.path = file_name(path)
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
            "steps": model_schema.architecture(mlp),
            "optimizer": run.optimizer.state_dict(),
            "callbacks": [
                {"kind": type(hook).__name__, "state": hook.state_dict()}
                for hook in run.callbacks
                if type(hook).state_dict is not Callback.state_dict
            ],
        }
        data = model_schema.encoded(mlp, "fm.Checkpoint", training, whole, rest)
        replace_file(path, data)

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
        name = file_name(path)
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
        stored = model_schema.stored(
            name,
            "checkpoint",
            kept={"optimizer": given, "callbacks": [kept] * len(given_hooks)},
        )

        # All is looked at before anything is changed.
        rest = stored.checkpoint
        if rest is None:
            raise ValueError(
                f"path: {name} is not a checkpoint but a model alone, which fm.load "
                "reads"
            )
        if (
            stored.given["dtype"] != mlp.dtype.name
            or rest["steps"] != model_schema.architecture(mlp)
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
                snapshot.check_optimizer("optimizer", rest["optimizer"], mlp, optimizer)
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
        check_best(where, state)

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
    for i, entry in enumerate(listed("callbacks", entries)):
        where = f"callbacks[{i}]"
        fields(where, entry, ("kind", "state"))
        text(f"{where}.kind", entry["kind"])
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
