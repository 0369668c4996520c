"""The protocol of callbacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ..metrics import History

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ..losses import Loss
    from ..mlp import MLP


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
        metrics: tuple[str, ...] = (),
        progress_of: Callable[[int], dict[str, Any] | None] | None = None,
    ) -> None:
        self.optimizer, self.loss, self.history = optimizer, loss, history
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.callbacks, self.seed, self.first_epoch = callbacks, seed, first_epoch
        self.metrics = metrics
        self._progress_of = progress_of

    def _within(self) -> dict[str, Any] | None:
        """Return how far an epoch that is not on record has come, if there is one."""
        if self._progress_of is None:
            return None
        return self._progress_of(self.first_epoch + len(self.history))


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


class Function(Callback):
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
    return _sorted([i if isinstance(i, Callback) else Function(i) for i in items])
