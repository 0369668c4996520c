"""The loop over the epochs of a fit, which also calls the callbacks."""

from __future__ import annotations

import contextlib
from time import perf_counter
from typing import TYPE_CHECKING

from .. import _core
from ..callbacks._base import overridden, wants_stop
from . import progress as _progress
from .types import Driver

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._network.model import MLP
    from ..callbacks import Callback, Run
    from ..metrics import History
    from .types import Listener, Measured, Runner

_NO_METRICS: dict[str, float] = {}


class StopTraining(Exception):
    """Raised when a callback ends the training."""


def listener_of(hooks: list[Callback], mlp: MLP, history: History) -> Listener | None:
    """Return a function that calls all ``on_batch_end``, or None if none is defined."""
    calls = overridden(hooks, "on_batch_end")
    if not calls:
        return None

    def tell(step: int, loss: float) -> None:
        stops = [wants_stop(call(mlp, history, step, loss)) for call in calls]
        if any(stops):
            raise StopTraining

    return tell


def train(
    mlp: MLP,
    runner: Runner | Driver,
    run: Run,
    evaluate: Callable[[], Measured] | None,
    progress: bool | None,
    *,
    own_orders: bool,
) -> None:
    """Train for the epochs, record them, and call the callbacks.

    Parameters
    ----------
    mlp : MLP
        Model to train.
    runner : Runner or Driver
        Object that trains for one epoch at a time, or a driver, which trains for all
        epochs.
    run : Run
        Description of the fit, which callbacks read from their attribute ``run``.
    evaluate : callable, optional
        Function that returns the validation loss and the metrics after an epoch.
    progress : bool, optional
        Argument ``progress`` of fit.
    own_orders : bool
        Whether the sample orders come from the model's own sequence. If so, each epoch
        advances the model's position in the sequence.
    """
    hooks, history = run.callbacks, run.history
    begun: list[Callback] = []
    try:
        for hook in hooks:
            hook.run = run
        try:
            ended = False
            for hook in hooks:
                ended |= wants_stop(hook.on_train_begin(mlp, history))
                begun.append(hook)
            mlp.history = history
            if not ended:
                bar = _progress.start(progress, run.epochs, history)
                with bar, contextlib.suppress(StopTraining):
                    _epochs(mlp, runner, run, evaluate, bar, own_orders)
        except BaseException as error:
            if not _notify_error(begun, mlp, history, error):
                raise
        left = list(hooks)
        try:
            while left:
                for call in overridden(left[:1], "on_train_end"):
                    call(mlp, history)
                del left[0]
        except BaseException as error:
            # A callback whose on_train_end has not returned must clean up in on_error.
            _notify_error(left, mlp, history, error)
            raise
    finally:
        for hook in hooks:
            hook.run = None


def _epochs(
    mlp: MLP,
    runner: Runner | Driver,
    run: Run,
    evaluate: Callable[[], Measured] | None,
    bar: _progress.Progress,
    own_orders: bool,
) -> None:
    history, optimizer = run.history, run.optimizer
    begins = overridden(run.callbacks, "on_epoch_begin")
    ends = overridden(run.callbacks, "on_epoch_end")
    start = 0.0

    def begin() -> None:
        nonlocal start
        start = perf_counter()
        for call in begins:
            call(mlp, history)
        mlp.sequence.within = None  # the runner's cursor has taken it over

    def end(value: float) -> bool:
        if own_orders:
            mlp.sequence.done += 1

        # The history grows only once everything about the epoch is known.
        watched, metrics = value, _NO_METRICS
        if evaluate is not None:
            val_loss, metrics = evaluate()
            if val_loss is not None:
                watched = val_loss
                history.val_loss.append(val_loss)
        for name, number in metrics.items():
            history.log(name, number)
        history.loss.append(value)
        history.seconds.append(perf_counter() - start)

        optimizer._epoch_end(watched)
        stop = False
        for call in ends:
            stop |= wants_stop(call(mlp, history))
        bar.update()
        return stop

    if isinstance(runner, Driver):
        runner.drive(begin, end, run.epochs)
        return
    for epoch in range(run.epochs):
        begin()
        try:
            value = runner.run(run.first_epoch + epoch)
        except _core.DivergenceError as error:
            message = f"epoch {epoch + 1} of {run.epochs}: {error}"
            raise _core.DivergenceError(message) from None
        if end(value) or runner.finished:
            break


def _notify_error(
    hooks: list[Callback], mlp: MLP, history: History, error: BaseException
) -> bool:
    """Call each ``on_error``; return whether one turned the error into a normal end."""
    answers: list[object] = []

    def ask(call: Callable[..., object]) -> None:
        answers.append(call(mlp, history, error))

    with contextlib.ExitStack() as stack:
        # An ExitStack makes all calls even if one of them raises. It makes them in
        # reverse order, so they are added in reverse.
        for call in reversed(overridden(hooks, "on_error")):
            stack.callback(ask, call)
    return isinstance(error, _core.DivergenceError) and any(map(wants_stop, answers))
