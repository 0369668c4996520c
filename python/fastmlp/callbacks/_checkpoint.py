"""Checkpoints from which training resumes exactly."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from .. import _validate
from .._formats import model_schema, snapshot
from .._formats.atomic_write import file_name, replace_file
from .._formats.json_state import fields, listed, text
from .._network.model import is_model
from .._validate.warn import warn
from ..metrics import History
from ._base import Callback, as_callbacks
from ._watching import Watching, check_best

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .._network.model import MLP
    from ..optimizers import Optimizer
    from ..solvers import Solver


class Checkpoint(Watching):
    """Stores the whole state of a training run, so that it can be resumed exactly.

    A file holds the parameters, the running statistics, the optimiser's state, the
    position in the sequences of sample orders and dropout masks (possibly within an
    epoch), the history, and the states of all callbacks. It is a safetensors file like
    those of `fastmlp.MLP.save`, and `fastmlp.load` can read the model from it. It is
    replaced atomically: after any failure there is a complete file, the new one or the
    previous one. It is written in blocks, so that storing takes little memory.

    Parameters
    ----------
    path : str or path-like
        File to write. ``{epoch}`` in it, as in ``"run-{epoch:03d}.safetensors"``, is
        the number of the epoch, counted from 1.
    monitor : str, optional
        Value that ``save_best_only`` compares, as for `EarlyStopping`.
    save_best_only : bool
        Whether to store only if ``monitor`` is better than at all earlier comparisons.
    every : int
        Number of epochs from one checkpoint (or comparison) to the next, at least 1.
    mode : {"min", "max"}, optional
        Whether low or high values are good. If None, this follows from the loss or
        metric, whatever its name: "max" for accuracy and r2, "min" for the others. It
        must be given for a function of your own, and for a value that a callback logs
        under a name that is not that of a metric.
    every_steps : int, optional
        Number of steps between two checkpoints within an epoch, at least 1; these are
        written in addition to those at the end of epochs. ``{epoch}`` in their paths is
        the current epoch. This option costs a Python call per step. None stores only at
        the end of epochs.
    on_interrupt : bool
        Whether to store also when Ctrl-C (KeyboardInterrupt) ends the training, at any
        step; the option costs nothing until then. (If Ctrl-C comes while the callbacks
        are being called at the end of an epoch, only some of them have seen that epoch;
        then nothing is stored, and the existing file is kept.)

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range, or if arguments exclude
        each other; at the beginning of a fit, if nothing logs ``monitor``.

    Attributes
    ----------
    best : float or None
        Best value so far.
    last_path : str or None
        Last file written in this run.

    Examples
    --------
    To resume, create the model and the optimiser with the same code as before::

        path = "run.safetensors"
        stop, save = fm.EarlyStopping(patience=5), fm.Checkpoint(path)
        done = fm.Checkpoint.load(path, mlp, opt, [stop, save])
        rest = mlp.fit(x, y, loss=loss, optimizer=opt, epochs=100 - len(done),
                       batch_size=128, callbacks=[stop, save])
        done.extend(rest)

    If the file was written within an epoch, ``done`` holds the epochs before that
    epoch, and the first epoch of ``rest`` is the remainder of that epoch.
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
                "monitor can be used only with save_best_only=True, got "
                f"monitor={monitor!r}, save_best_only=False"
            )
        self.every = _validate.count("every", every, 1)
        if every_steps is not None:
            every_steps = _validate.count("every_steps", every_steps, 1)
        self.every_steps = every_steps
        self.on_interrupt = _validate.flag("on_interrupt", on_interrupt)
        if save_best_only and (on_interrupt or every_steps is not None):
            raise ValueError(
                "save_best_only cannot be combined with every_steps or "
                "on_interrupt, because the monitored value is compared only at the "
                "end of an epoch: use two Checkpoints"
            )
        try:
            self.path.format(epoch=1)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"path may contain the field {{epoch}} and no other, got "
                f"{self.path!r} ({type(error).__name__}: {error})"
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
        """Forget any earlier run; check that ``monitor`` will be logged."""
        if self.save_best_only:
            self._check(history)
        if not self._resumed:
            self._forget()
        self._resumed, self._told = False, 0

    def _asks(self, hook: str) -> bool:
        return hook != "on_batch_end" or self.every_steps is not None

    def on_batch_end(self, mlp: MLP, history: History, step: int, loss: float) -> None:
        """Store after every ``every_steps`` steps of an epoch."""
        if self.every_steps is not None and (step + 1) % self.every_steps == 0:
            self._store(self._epoch + 1, mlp, history)

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> None:
        """Store after Ctrl-C if ``on_interrupt`` is set.

        Nothing is stored if only some callbacks have seen the end of the epoch.
        """
        if (
            self.on_interrupt
            and isinstance(error, KeyboardInterrupt)
            and len(history) == self._told
        ):
            within = self.run is not None and self.run._within() is not None
            self._store(self._epoch + within, mlp, history)

    def on_epoch_end(self, mlp: MLP, history: History) -> None:
        """Store every ``every`` epochs; with save_best_only, only a new best value."""
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
            "optimizer": run.optimizer._state_in_place(),
            "callbacks": [
                {"kind": type(hook).__name__, "state": hook.state_dict()}
                for hook in run.callbacks
                if type(hook).state_dict is not Callback.state_dict
            ],
        }
        replace_file(path, model_schema.writer(mlp, training, whole, rest))

    @staticmethod
    def load(
        path: str | os.PathLike[str],
        mlp: MLP,
        optimizer: Optimizer | Solver | None = None,
        callbacks: Iterable[Callback] = (),
    ) -> History:
        """Load a checkpoint into a model, an optimiser and callbacks.

        A subsequent fit with the same data and arguments, but without ``seed``,
        continues exactly from where the checkpoint was written.

        Parameters
        ----------
        path : str or path-like
            File to read.
        mlp : MLP
            Model of the same architecture, dtype and compute_dtype as the stored one.
        optimizer : Optimizer, optional
            Optimiser of the same class as the stored one; it is then bound to this
            model. Settings that a checkpoint cannot store without pickle, such as a
            learning rate that is a Python function, stay as they are in this optimiser.
        callbacks : sequence of Callback, optional
            Callbacks whose states are stored, of the same classes and in the same order
            as in the stored fit. Callbacks without a state may be among them.

        Returns
        -------
        History
            History of all epochs so far, also set as ``mlp.history``.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If the file is damaged, is not a checkpoint, or does not fit the arguments,
            which are unchanged then.

        Warns
        -----
        UserWarning
            If the file holds states that nothing was passed for, of the optimiser or of
            callbacks other than `Checkpoint`.
        """
        name = file_name(path)
        if not is_model(mlp):
            raise TypeError(f"mlp must be an fm.MLP, got {_validate.describe(mlp)}")
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
        given = None if optimizer is None else optimizer._state_in_place()
        # The state of a callback such as EarlyStopping may include a state of the
        # optimiser.
        kept = {"state": {"kept": {"optimizer": given}}}
        with model_schema.stored(
            name,
            "checkpoint",
            kept={"optimizer": given, "callbacks": [kept] * len(given_hooks)},
        ) as stored:
            return _restored(name, stored, mlp, optimizer, given_hooks)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the count of epochs."""
        return {"best": self.best, "epoch": self._epoch}

    def _check_state(
        self, where: str, state: Mapping[str, Any], mlp: MLP, optimizer: Any
    ) -> None:
        check_best(where, state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next fit resume from this state."""
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
    """Pair each callback with its state from a file."""
    states = _entries(entries)
    kinds = [kind for kind, _ in states]
    given = [type(hook).__name__ for hook in hooks]
    if hooks and kinds != given:
        raise ValueError(
            "callbacks that have a state must match those of the checkpoint "
            f"({', '.join(kinds) or 'none'}), got {', '.join(given)}"
        )
    return [(hook, state) for hook, (_, state) in zip(hooks, states, strict=False)]


def _entries(entries: object) -> list[tuple[str, dict[str, Any]]]:
    """Return the kinds and states of the callbacks in a file."""
    states = []
    for i, entry in enumerate(listed("callbacks", entries)):
        where = f"callbacks[{i}]"
        fields(where, entry, ("kind", "state"))
        text(f"{where}.kind", entry["kind"])
        if not isinstance(entry["state"], dict):
            got = _validate.describe(entry["state"])
            raise ValueError(f"{where}.state must be a JSON object, got {got}")
        states.append((entry["kind"], entry["state"]))
    return states


def _restored(
    name: str,
    stored: model_schema.Stored,
    mlp: MLP,
    optimizer: Optimizer | Solver | None,
    given_hooks: list[Callback],
) -> History:
    """Load an open file into the objects; return the history."""
    # Everything is checked before anything is changed.
    rest = stored.checkpoint
    if rest is None:
        raise ValueError(
            f"path: {name} holds only a model, not a checkpoint: read it with fm.load"
        )
    if (
        stored.given["dtype"] != mlp.dtype.name
        or stored.given.get("compute_dtype") != mlp._given.get("compute_dtype")
        or rest["steps"] != model_schema.architecture(mlp)
        or not stored.fits(mlp)
    ):
        raise ValueError(
            f"path: {name} is a checkpoint of {rest['model']}, which does not "
            f"match mlp, {mlp!r}"
        )
    hooks = [
        hook for hook in given_hooks if type(hook).state_dict is not Callback.state_dict
    ]
    try:
        states = _states_of(hooks, rest["callbacks"])
        for i, (hook, state) in enumerate(states):
            hook._check_state(f"callbacks[{i}].state", state, mlp, optimizer)
        load = None
        if optimizer is not None:
            stored_state = rest["optimizer"]
            load = snapshot.check_optimizer("optimizer", stored_state, mlp, optimizer)
    except (TypeError, ValueError) as error:
        raise ValueError(f"path: {name}: {error}") from None

    left = [] if optimizer is not None else ["the optimizer"]
    # A checkpoint's own state is no more than its count of epochs.
    entries = _entries(rest["callbacks"])[len(hooks) :]
    left += [kind for kind, _ in entries if kind != "Checkpoint"]
    if left:
        warn(
            f"{name} also holds the state of {', '.join(left)}, which is not used: "
            "to resume exactly, pass the optimizer and all callbacks of the fit"
        )
    if optimizer is not None and load is not None:
        load()
        optimizer._bind(mlp)
    stored.fill(mlp)
    history = stored.history
    assert history is not None  # every checkpoint has one
    for hook, state in states:
        hook.load_state_dict(state)
        if isinstance(hook, Checkpoint):
            hook._before = history.to_dict()
    return history
