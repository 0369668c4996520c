"""One fit of a model, from its arguments to its history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _validate
from .._network.inputs import is_sparse
from .._network.model import claim
from ..callbacks import Run
from ..callbacks._base import as_callbacks
from ..losses import as_loss
from ..metrics import History, as_metrics
from ..solvers import LevenbergMarquardt, Solver
from . import arguments, loop, seeds
from .batches import StreamedBatches
from .cursor import EpochCursor
from .evaluator import Evaluator
from .runners import make_runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._network.model import MLP
    from ..callbacks import Callback
    from ..losses import Loss
    from ..optimizers import Optimizer
    from .types import Data, Driver, Measured, Runner


class Session:
    """A fit: its history, its callbacks, and exclusive use of the model.

    Parameters
    ----------
    mlp : MLP
        Model to train.
    optimizer : Optimizer or Solver
        Optimiser or solver that trains it.
    loss : Loss
        Loss to minimise.
    callbacks : list of Callback
        Callbacks, in the order of their calls.
    epochs : int
        Largest number of epochs.
    steps_per_epoch : int, optional
        Number of steps of an epoch, if known.
    seed, first_epoch : int
        Seed of the sample orders, and number of this fit's first epoch in the sequence
        of orders that the seed determines.
    has_validation : bool
        Whether there are validation data.
    directions : dict, optional
        For each metric in the history, whether "max" or "min" is good, or None if that
        is unknown.
    cursor : EpochCursor, optional
        Progress within an epoch, for checkpoints.

    Attributes
    ----------
    history : History
        History of the fit.
    listener : callable or None
        Function to call after each step; None if no callback overrides
        ``on_batch_end``.
    """

    def __init__(
        self,
        mlp: MLP,
        optimizer: Optimizer | Solver,
        loss: Loss,
        callbacks: list[Callback],
        *,
        epochs: int,
        steps_per_epoch: int | None,
        seed: int,
        first_epoch: int,
        has_validation: bool,
        directions: dict[str, str | None] | None = None,
        cursor: EpochCursor | None = None,
    ) -> None:
        self._mlp = mlp
        self.history = History(has_validation=has_validation)
        self.listener = loop.listener_of(callbacks, mlp, self.history)
        self._run = Run(
            optimizer,
            loss,
            epochs,
            steps_per_epoch,
            self.history,
            callbacks,
            seed,
            first_epoch,
            directions,
            None if cursor is None else cursor.state,
        )

    def train(
        self,
        runner: Runner | Driver,
        evaluate: Callable[[], Measured] | None,
        progress: bool | None,
        *,
        own_orders: bool = True,
    ) -> None:
        """Train with `loop.train`; until it ends, no other fit of the model can run."""
        core, token = self._mlp.core, object()
        # begin_fit is called inside the try block, because Ctrl-C may come as soon as
        # it has returned.
        try:
            core.begin_fit(token)
            loop.train(
                self._mlp, runner, self._run, evaluate, progress, own_orders=own_orders
            )
        finally:
            core.end_fit(token)


def fit(
    mlp: MLP,
    x: Any,
    y: Any,
    *,
    loss: Loss | Callable[..., Any],
    optimizer: Optimizer | Solver,
    epochs: int,
    batch_size: int | None,
    shuffle: bool,
    sample_weight: Any,
    validation_data: Any,
    metrics: Any,
    callbacks: Any,
    progress: bool | None,
    seed: Any,
    steps_per_epoch: int | None,
) -> History:
    """Check the arguments of `fastmlp.MLP.fit`, train, and return the history."""
    # Check the settings of the training.
    loss = as_loss(loss)
    arguments.check_optimizer(optimizer, solvers=True)
    epochs = _validate.count("epochs", epochs, 0)
    shuffle = _validate.flag("shuffle", shuffle)
    if progress is not None:
        progress = _validate.flag("progress", progress)
    hooks = as_callbacks(callbacks)
    measured = as_metrics(metrics, loss)
    arguments.check_output(mlp, loss)
    own = mlp.sequence
    key, first, within = own.seed, own.done, own.within
    if seed is not None:
        key, first, within = seeds.key(seed), 0, None

    # Check the training data.
    data: Data | StreamedBatches
    rows: int | None = None
    steps: int | None
    if y is None:
        of_batches = {"batch_size": batch_size, "sample_weight": sample_weight}
        data = _streamed(mlp, x, loss, optimizer, epochs, steps_per_epoch, of_batches)
        steps = data.steps
    else:
        if steps_per_epoch is not None:
            raise ValueError(
                "steps_per_epoch can be used only if x is an iterable of batches "
                "and y is left out; for arrays, batch_size determines the number "
                "of steps"
            )
        batch_size = _checked_batch_size(batch_size, optimizer)
        data = arguments.data_set(mlp, "", (x, y, sample_weight), loss)
        if is_sparse(x) and isinstance(optimizer, LevenbergMarquardt):
            raise TypeError(
                "x must be dense for LevenbergMarquardt, got "
                f"{_validate.describe(x)}; write x.toarray()"
            )
        rows = len(data[0])
        if batch_size is None:
            batch_size = rows
        elif batch_size < rows and isinstance(optimizer, Solver):
            raise ValueError(
                f"batch_size must be None or at least {rows} (the number of samples) "
                f"for {type(optimizer).__name__}, got {batch_size}"
            )
        steps = -(-rows // batch_size)

    # Prepare the evaluation after each epoch.
    evaluator = None
    if validation_data is not None:
        held_out = _held_out(mlp, validation_data, loss, epochs)
        evaluator = Evaluator(mlp, held_out, loss, measured, validation=True)
    elif measured:
        if isinstance(data, StreamedBatches):
            raise ValueError(
                "metrics need validation_data if x is an iterable of batches, "
                "because fit does not iterate over x a second time to compute them"
            )
        evaluator = Evaluator(mlp, data, loss, measured, validation=False)

    cursor = EpochCursor([steps, rows, batch_size], first, within)
    session = Session(
        mlp,
        optimizer,
        loss,
        hooks,
        epochs=epochs,
        steps_per_epoch=steps,
        seed=key,
        first_epoch=first,
        has_validation=validation_data is not None,
        directions=None if evaluator is None else evaluator.directions,
        cursor=cursor,
    )
    runner = make_runner(
        mlp,
        data,
        loss,
        optimizer,
        batch_size=batch_size or 1,
        seed=key,
        shuffle=shuffle,
        listener=session.listener,
        cursor=cursor,
    )
    claim(mlp, optimizer)
    session.train(runner, evaluator, progress, own_orders=seed is None)
    return session.history


# The batch size if none is given, as in Keras.
BATCH_SIZE = 32


def _checked_batch_size(batch_size: Any, optimizer: Optimizer | Solver) -> int | None:
    """Return a valid ``batch_size`` for arrays; None means all rows, for a solver."""
    if batch_size is not None:
        return _validate.count("batch_size", batch_size, 1)
    return None if isinstance(optimizer, Solver) else BATCH_SIZE


def _held_out(mlp: MLP, data: Any, loss: Loss, epochs: int) -> Data | StreamedBatches:
    """Return the validation data: arrays, or batches from an iterable or function."""
    where = "validation_data: "
    batches = (
        isinstance(data, list) and data and all(isinstance(b, tuple) for b in data)
    )
    if isinstance(data, (tuple, list)) and not batches:
        return arguments.data_set(mlp, where, data, loss)
    return StreamedBatches(
        data,
        None,
        epochs,
        lambda prefix, batch: _held_out_batch(mlp, prefix, batch, loss),
        "validation_data",
    )


def _held_out_batch(mlp: MLP, where: str, batch: Any, loss: Loss) -> Data:
    """Check a batch of validation data; return its weights as they are given."""
    x, y, weight = arguments.data_set(mlp, where, batch, loss)
    if weight is not None:
        weight = _validate.numeric(where + "sample_weight", batch[2])
    return x, y, weight


def _streamed(
    mlp: MLP,
    x: object,
    loss: Loss,
    optimizer: Optimizer | Solver,
    epochs: int,
    steps: int | None,
    of_batches: dict[str, object],
) -> StreamedBatches:
    """Return the batches of an iterable.

    ``of_batches`` holds the arguments of fit that must be None if x yields batches,
    because each batch has its own.
    """
    if isinstance(optimizer, Solver):
        raise TypeError(
            f"{type(optimizer).__name__} works on all samples at once: pass "
            "arrays x and y to fit instead of batches"
        )
    if steps is not None:
        steps = _validate.count("steps_per_epoch", steps, 1)
    batches = StreamedBatches(
        x,
        steps,
        epochs,
        lambda where, batch: arguments.data_set(mlp, where, batch, loss),
    )
    for name, value in of_batches.items():
        if value is not None:
            raise TypeError(
                f"{name} must be left out if y is left out, because x then yields "
                f"batches, each with its own {name}; got {_validate.describe(value)}"
            )
    return batches
