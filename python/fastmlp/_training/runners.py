"""Runners, which train for an epoch: natively on whole arrays, or step by step.

With arrays and a built-in loss, each epoch is one native call (`ArrayEpochs`). With
batches from an iterable, or with a loss written in Python, each step is a separate call
(`StepEpochs`). For a solver, `SolverEpochs` wraps the runner that the solver provides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._validate import accepted
from ..solvers import Solver
from .batches import ArrayBatches, StreamedBatches
from .custom import CustomStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .. import _core
    from .._network.model import Model
    from .._validate import Array
    from ..losses import Loss
    from ..optimizers import Optimizer
    from .cursor import EpochCursor
    from .types import Data, Listener, Runner


class NativeEpoch:
    """The core's ``fit_epoch`` with the arguments that all calls of a fit share.

    Parameters
    ----------
    mlp : MLP
        Model to train.
    loss : Loss
        Built-in loss.
    optimizer : Optimizer
        Optimiser that takes the steps.
    seed : int
        Seed of the sample orders and of dropout.
    listener : callable, optional
        Function to call after each step.
    l2 : float
        Strength of the L2 penalty ½ l2 ΣW² / n, where n is the number of rows in the
        batch, or the sum of their sample weights.
    """

    def __init__(
        self,
        mlp: Model,
        loss: Loss,
        optimizer: Optimizer,
        *,
        seed: int,
        listener: Listener | None,
        l2: float = 0.0,
    ) -> None:
        assert loss.core is not None
        self._fit_epoch, self._rates = mlp.core.fit_epoch, mlp._rates
        self._loss, self._optimizer = loss.core, optimizer
        self._seed, self._listener, self._l2 = seed, listener, l2

    def __call__(
        self,
        data: Data,
        epoch: int,
        progress: _core.EpochProgress,
        *,
        batch_size: int | None = None,
        steps: int = 1,
        first_row: int = 0,
        shuffle: bool = False,
        order: Array | None = None,
    ) -> float:
        """Take one or more steps, and return the loss of the epoch so far.

        By default, this is one step on all rows.
        """
        x, y, weight = data
        optimizer, rates = self._optimizer, self._rates
        return accepted(
            self._fit_epoch(
                x,
                y,
                self._loss,
                optimizer.core,  # read here: a callback may have loaded a state
                weight,
                batch_size=batch_size or len(x),
                seed=self._seed,
                epoch=epoch,
                progress=progress,
                shuffle=shuffle,
                scheduled=optimizer._values(steps),
                first_row=first_row,
                listener=self._listener,
                order=order,
                l2=self._l2,
                rates=None if rates is None else optimizer._ahead(rates.values, steps),
            )
        )


class ArrayEpochs:
    """Epochs on arrays, each in one native call that polls for Ctrl-C."""

    finished = False

    def __init__(
        self,
        call: NativeEpoch,
        data: Data,
        batch_size: int,
        shuffle: bool,
        cursor: EpochCursor,
    ) -> None:
        self._call, self._data, self._cursor = call, data, cursor
        self._rows, self._batch_size = len(data[0]), batch_size
        self._steps, self._shuffle = -(-self._rows // batch_size), shuffle

    def run(self, epoch: int) -> float:
        progress = self._cursor.enter(epoch)
        done = progress.steps
        return self._call(
            self._data,
            epoch,
            progress,
            batch_size=self._batch_size,
            steps=self._steps - done,
            first_row=min(done * self._batch_size, self._rows),
            shuffle=self._shuffle,
        )


class StepEpochs:
    """Epochs run step by step from Python, with the same bits as `ArrayEpochs`."""

    finished = False

    def __init__(
        self,
        batches: Callable[[int, int], Iterable[Data]],
        step: Callable[[Data, int, _core.EpochProgress], object],
        reduction: str,
        cursor: EpochCursor,
    ) -> None:
        self._batches, self._step, self._cursor = batches, step, cursor
        self._mean = reduction == "mean"

    def run(self, epoch: int) -> float:
        progress = self._cursor.enter(epoch)
        for batch in self._batches(epoch, progress.steps):
            self._step(batch, epoch, progress)
        if not self._mean:
            return progress.total
        return progress.total / progress.divisor if progress.divisor else 0.0


class SolverEpochs:
    """Runs a fit by a solver: each epoch is one iteration of the solver."""

    def __init__(
        self, runner: Runner, listener: Listener | None, cursor: EpochCursor
    ) -> None:
        self._runner, self._listener, self._cursor = runner, listener, cursor

    @property
    def finished(self) -> bool:
        return self._runner.finished

    def run(self, epoch: int) -> float:
        progress = self._cursor.enter(epoch)
        if not progress.steps:
            progress.total = self._runner.run(epoch)
            progress.steps = 1
            if self._listener is not None:
                self._listener(0, progress.total)
        return progress.total


def make_runner(
    mlp: Model,
    data: Data | StreamedBatches,
    loss: Loss,
    optimizer: Optimizer | Solver,
    *,
    batch_size: int,
    seed: int,
    shuffle: bool,
    listener: Listener | None,
    cursor: EpochCursor,
) -> Runner:
    """Return the runner for these arguments of fit."""
    if isinstance(optimizer, Solver):
        return SolverEpochs(optimizer._runner(mlp, data, loss), listener, cursor)
    if not isinstance(data, StreamedBatches):
        rows = len(data[0])
        if mlp.buffers.size and 1 in (rows, batch_size, rows % batch_size):
            raise ValueError(
                "x: batch normalisation needs batches of at least two rows in "
                f"training; {rows} rows with batch_size={batch_size} leave a single "
                "row for the last batch"
            )
    step: Any
    if loss.core is None:
        step = CustomStep(mlp, loss, optimizer, seed, listener)
    else:
        step = NativeEpoch(mlp, loss, optimizer, seed=seed, listener=listener)
        if not isinstance(data, StreamedBatches):
            return ArrayEpochs(step, data, batch_size, shuffle, cursor)
    batches: Any = data
    if not isinstance(data, StreamedBatches):
        batches = ArrayBatches(data, batch_size, seed, shuffle)
    return StepEpochs(batches, step, loss.reduction, cursor)
