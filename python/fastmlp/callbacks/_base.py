"""Base classes of callbacks, and the checks of `fit`'s argument ``callbacks``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ..metrics import History

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._network.model import MLP
    from ..losses import Loss


class Run:
    """The current fit, which a callback finds in its attribute ``run``.

    Attributes
    ----------
    optimizer : Optimizer or Solver
        Optimiser of the fit. Its learning rate may be set between steps, or only
        between epochs if the optimiser has a schedule.
    loss : Loss
        Loss of the fit.
    epochs : int
        Largest number of epochs of the fit.
    steps_per_epoch : int or None
        Number of steps in an epoch; None if unknown.
    history : History
        History of the fit so far.
    callbacks : list of Callback
        All callbacks of the fit, in the order in which they are called.
    metrics : tuple of str
        Names under which the fit logs its metrics, such as "val_r2".
    seed, first_epoch : int
        The order of the samples in an epoch is a function of this seed and the epoch's
        number. The first epoch of this fit has the number ``first_epoch``, which is
        above 0 if the fit continues an earlier one.
    """

    __slots__ = (
        "_directions",
        "_progress_of",
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
        directions: dict[str, str | None] | None = None,
        progress_of: Callable[[int], dict[str, Any] | None] | None = None,
    ) -> None:
        self.optimizer, self.loss, self.history = optimizer, loss, history
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.callbacks, self.seed, self.first_epoch = callbacks, seed, first_epoch
        # For each metric, whether "max" or "min" is good, or None if that is unknown.
        self._directions = directions or {}
        self.metrics = tuple(self._directions)
        self._progress_of = progress_of

    def _within(self) -> dict[str, Any] | None:
        """Return the progress within the unfinished epoch, or None if there is none."""
        if self._progress_of is None:
            return None
        return self._progress_of(self.first_epoch + len(self.history))


class Callback:
    """Base class of callbacks (see `fastmlp.callbacks`); override the methods you need.

    A plain function with the arguments and result of `on_epoch_end` is a callback too.

    Attributes
    ----------
    run : Run or None
        The current fit; None outside a fit. A callback serves one fit at a time.
    """

    run: Run | None = None

    # Whether the callback is called after all callbacks without this flag, to see the
    # changes that they made.
    _last = False

    def _asks(self, hook: str) -> bool:
        """Tell whether this callback, as configured, needs calls of a method."""
        return True

    def on_train_begin(self, mlp: MLP, history: History) -> bool | None:
        """Do something once before the first epoch; return True to train for none."""

    def on_epoch_begin(self, mlp: MLP, history: History) -> None:
        """Do something before each epoch; ``len(history)`` epochs precede it."""

    def on_batch_end(
        self, mlp: MLP, history: History, step: int, loss: float
    ) -> bool | None:
        """Do something after each step.

        Parameters
        ----------
        mlp, history : MLP, History
            The model after this step, and the history of complete epochs.
        step : int
            Index of the step in this epoch, from 0.
        loss : float
            Loss of the batch before the step.

        Returns
        -------
        bool or None
            True ends the training here; the history omits the incomplete epoch.
        """
        return None

    def on_epoch_end(self, mlp: MLP, history: History) -> bool | None:
        """Do something after each epoch, with that epoch's entries in ``history``.

        Returns
        -------
        bool or None
            True ends the training; other truthy values do not.
        """
        return None

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Do something after the last epoch, unless an exception ended the training."""

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> bool | None:
        """Clean up after an exception, such as Ctrl-C, that ended the training.

        Returns
        -------
        bool or None
            True makes a `fastmlp.DivergenceError` an ordinary end of the training:
            ``on_train_end`` follows and fit returns. Any other exception is raised.
        """
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the state from which to resume: empty in the base class."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next fit resume from a state that `state_dict` returned."""

    def _check_state(
        self, where: str, state: Mapping[str, Any], mlp: MLP, optimizer: Any
    ) -> None:
        """Raise an error unless `load_state_dict` and a later fit can use the state."""


class Function(Callback):
    """A plain function as a callback."""

    def __init__(self, function: Callable[[MLP, History], Any]) -> None:
        # The function replaces the method, so that fit calls it directly. mypy forbids
        # assigning to a method, and ruff forbids setattr with a constant name.
        setattr(self, "on_epoch_end", function)  # noqa: B010


class LambdaCallback(Callback):
    """A callback made from functions.

    Parameters
    ----------
    on_train_begin, on_epoch_begin, on_batch_end, on_epoch_end, on_train_end, on_error
        Functions with the arguments and results of `Callback`'s methods of these names.

    Raises
    ------
    TypeError
        If one of them is not a function.
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


def wants_stop(result: object) -> bool:
    """Tell whether a result is exactly True, not merely truthy as a loss would be."""
    return isinstance(result, (bool, np.bool_)) and bool(result)


def overridden(hooks: list[Callback], name: str) -> list[Callable[..., Any]]:
    """Return the method ``name`` of each callback that overrides it and needs calls."""
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
    """Return fit's argument ``callbacks`` as `Callback` objects in calling order."""
    if callbacks is None:
        return []
    if isinstance(callbacks, Callback) or callable(callbacks):
        raise TypeError(
            "callbacks must be a sequence of callbacks, got "
            f"{_validate.describe(callbacks)}; write callbacks=[…]"
        )
    wanted = "callbacks must be a sequence of callbacks"
    items = list(_validate.iterator(wanted, callbacks))
    for i, item in enumerate(items):
        if isinstance(item, type) and issubclass(item, Callback):
            raise TypeError(
                f"callbacks[{i}] must be a callback, got the class {item.__name__}; "
                f"did you mean {item.__name__}()?"
            )
        if not isinstance(item, Callback) and not callable(item):
            raise TypeError(
                f"callbacks[{i}] must be an fm.Callback or a function of (mlp, "
                f"history), got {_validate.describe(item)}"
            )
    return _sorted([i if isinstance(i, Callback) else Function(i) for i in items])
