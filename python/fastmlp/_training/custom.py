"""Training steps and gradients for losses written in Python."""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._network.inputs import dense
from .._validate import accepted
from . import arguments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._network.model import Model
    from .._validate import Array
    from ..losses import Loss
    from ..optimizers import Optimizer
    from .types import Data, Listener

    # (seed, epoch, step), which determine the dropout masks of a pass.
    Draw = tuple[int, int, int]


@contextlib.contextmanager
def rollback_on_error(mlp: Model, optimizer: Optimizer | None = None) -> Iterator[None]:
    """If an exception is raised, undo the changes of a pass in training mode.

    A step that the optimiser has completed before the exception is kept.
    """
    core, buffers = mlp.core, mlp.buffers.copy()
    state = core.training_state
    taken = 0 if optimizer is None else optimizer.core.gradient_count
    try:
        yield
    except BaseException:
        if optimizer is None or optimizer.core.gradient_count == taken:
            mlp.buffers[:] = buffers
            core.training_state = state
        raise


def value_and_grad(
    mlp: Model, x: object, y: Any, loss: Loss, sample_weight: object, training: bool
) -> tuple[float, Array]:
    """Return loss and gradient, as `fastmlp.MLP.value_and_grad` does."""
    rows, weight = arguments.rows_and_weight(mlp, x, sample_weight)
    y = loss._targets("y", y)
    if not training:
        pred = accepted(mlp.core.predict(rows))
        value, dy = loss.value_and_grad(pred, y, weight)
        return value, accepted(mlp.core.vjp(dense(rows), dy))[2]
    # Loss and gradient share one forward pass, because each pass draws new dropout
    # masks. This pass overwrites the caller's last forward pass, which `backward` can
    # then no longer use.
    mlp.forward_shape = None
    with rollback_on_error(mlp):
        pred = accepted(mlp.core.forward(dense(rows), True))
        value, dy = loss.value_and_grad(pred, y, weight)
        return value, accepted(mlp.core.backward(dy))[1]


def evaluate(mlp: Model, x: object, y: Any, loss: Loss, sample_weight: object) -> float:
    """Return the loss, as `fastmlp.MLP.evaluate` does."""
    rows, weight = arguments.rows_and_weight(mlp, x, sample_weight)
    y = loss._targets("y", y)
    return loss(accepted(mlp.core.predict(rows)), y, weight)


def train_step(
    mlp: Model,
    x: object,
    y: Any,
    loss: Loss,
    optimizer: Optimizer,
    sample_weight: object,
) -> float:
    """Take a step for `fastmlp.MLP.train_step`, which has set the learning rate."""
    rows, weight = arguments.rows_and_weight(mlp, x, sample_weight)
    y = loss._targets("y", y)
    # Dropout must draw the same masks as in a step with a built-in loss.
    number = optimizer.core.gradient_count
    draw = mlp.core.training_state[0], _core.STEP_DRAWS, number
    mlp.forward_shape = None  # the caller's forward pass is not kept any more
    with rollback_on_error(mlp, optimizer):
        value, dy = loss_and_gradient(mlp, (rows, y, weight), loss, optimizer, draw)
        accepted(mlp.core.backward_step(dy, optimizer.core))
    return value


def loss_and_gradient(
    mlp: Model, batch: Data, loss: Loss, optimizer: Optimizer, draw: Draw
) -> tuple[float, Array]:
    """Return the loss of a pass in training mode, and its gradient.

    The gradient is taken with respect to the outputs. Like the core, the function
    raises DivergenceError unless the loss is finite.
    """
    x, y, weight = batch
    mlp._set_rates(optimizer.step_count)
    pred = accepted(mlp.core.forward(dense(x), True, draw))
    value, dy = loss.value_and_grad(pred, y, weight)
    if not math.isfinite(value):
        if np.isfinite(pred).all():
            size = float(abs(pred).max())
            cause = f"the loss function, given predictions of at most {size:.3g}"
        else:
            size = float(abs(mlp.params).max())
            cause = (
                "predictions that are not finite, from parameters of at most "
                f"{size:.3g}: lower the learning rate, warm it up, or clip gradients"
            )
        rate = optimizer.core.get("lr")
        raise _core.DivergenceError(
            f"training diverged at step {optimizer.step_count + 1}: the loss is {value}"
            f"; learning rate {rate:g}. Likely cause: {cause}"
        )
    return value, _validate.convert("the loss's gradient", dy, mlp.dtype)


def set_scheduled(optimizer: Optimizer) -> None:
    """Give the core the values of schedules in the next step."""
    for name, values in optimizer._values(1).items():
        optimizer.core.set(name, float(values[0]))


class CustomStep:
    """A step of an epoch: forward, loss, backward and update."""

    def __init__(
        self,
        mlp: Model,
        loss: Loss,
        optimizer: Optimizer,
        seed: int,
        listener: Listener | None,
    ) -> None:
        self._mlp, self._loss, self._optimizer = mlp, loss, optimizer
        self._seed, self._listener = seed, listener
        # State before the first step of the last epoch that took any; it is restored
        # after divergence.
        self._good: tuple[Any, ...] | None = None

    def __call__(self, batch: Data, epoch: int, progress: _core.EpochProgress) -> None:
        """Take a step, and add its loss to the epoch's total."""
        x, _, weight = batch
        mlp, optimizer = self._mlp, self._optimizer
        k, taken = progress.steps, optimizer.core.gradient_count
        begins = k == 0 or self._good is None
        candidate = self._state() if begins else None
        share = 1.0
        if self._loss.reduction == "mean":
            share = float(len(x) if weight is None else sum(weight.tolist()))

        value = math.nan
        try:
            # After any error, even Ctrl-C, either the step is complete or nothing has
            # changed.
            with rollback_on_error(mlp, optimizer):
                set_scheduled(optimizer)
                draw = self._seed, epoch, k
                value, dy = loss_and_gradient(mlp, batch, self._loss, optimizer, draw)
                accepted(mlp.core.backward_step(dy, optimizer.core))
        except _core.DivergenceError as error:
            raise self._diverged(k, str(error).partition(": ")[2]) from None
        finally:
            if optimizer.core.gradient_count > taken:
                progress.total += value * share
                progress.divisor += share
                progress.steps = k + 1
                self._good = candidate or self._good
        if self._listener is not None:
            self._listener(k, value)

    def _state(self) -> tuple[Any, ...]:
        mlp = self._mlp
        tracked = mlp.core.training_state[2]
        state = self._optimizer.core.state()
        return mlp.params.copy(), mlp.buffers.copy(), tracked, state

    def _diverged(self, k: int, why: str) -> _core.DivergenceError:
        """Restore the last good state, as the core does; return the error to raise."""
        mlp = self._mlp
        if self._good is not None:
            mlp.params[:], mlp.buffers[:], tracked, state = self._good
            mlp.core.training_state = (*mlp.core.training_state[:2], tracked)
            self._optimizer.core.load_state(state)
        return _core.DivergenceError(f"training diverged at step {k + 1}: {why}")
