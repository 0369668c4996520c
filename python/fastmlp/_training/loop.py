"""The loop of `fastmlp.MLP.fit`, and what may run an epoch of it.

A runner does an epoch at a time: ``run(epoch)`` trains and returns the epoch's loss.
Arrays and one of the core's losses take one native call (`_Arrays`); batches from
Python, and losses written in Python, take one step at a time (`_Steps`); solvers bring
their own.
"""

from __future__ import annotations

import contextlib
import math
from itertools import islice
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from .. import _core, _validate
from ..callbacks import Callback, Run
from ..callbacks._base import overridden, wants_stop
from ..solvers import Solver
from . import progress as _progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .._validate import Array
    from ..losses import Loss
    from ..metrics import History, _Measure
    from ..mlp import MLP
    from ..optimizers import Optimizer

    # x, y and weights, as the core takes them.
    Data = tuple[Array, Any, Array | None]
    # Told of each step, by its number in the epoch and its loss.
    Listener = Callable[[int, float], None]
    # The validation loss, if there is one, and metrics.
    Measured = tuple[float | None, dict[str, float]]

# So many rows are predicted at a time: Ctrl-C can come between two such blocks.
BLOCK = 16384


class Runner(Protocol):
    """Does an epoch at a time."""

    @property
    def finished(self) -> bool:
        """Whether more epochs would change nothing."""
        ...

    def run(self, epoch: int) -> float:
        """Train for an epoch of this number, and return its loss."""
        ...


@runtime_checkable
class Driver(Protocol):
    """Does epochs in a loop that is not ours, such as that of a solver of SciPy's."""

    def drive(
        self, begin: Callable[[], None], end: Callable[[float], bool], epochs: int
    ) -> None:
        """Train: call ``begin`` before each epoch, and ``end`` with its loss after it.

        If ``end`` returns True the training is over.
        """
        ...


_NOTHING: dict[str, float] = {}


class _Stopped(Exception):
    """A callback has ended the training within an epoch."""


class Place:
    """How far the epoch under way has come: what going on within it needs."""

    def __init__(self, of: list[int | None], epoch: int, state: Any = None) -> None:
        self._of = of  # what epochs are of: steps, rows, rows of a batch
        self._epoch, self._progress = -1, _core.EpochProgress()
        if state is not None and state["of"] != of:
            said = [
                f"{steps} steps ({rows} rows, batch_size {size})"
                for steps, rows, size in (state["of"], of)
            ]
            raise ValueError(
                f"the checkpoint was made within an epoch of {said[0]}, this fit's are "
                f"of {said[1]}: go on with the same data and batch_size, or give fit a "
                "seed to begin anew"
            )
        if state is not None:
            self._epoch = epoch
            for name in _PLACE:
                setattr(self._progress, name, state[name])

    def enter(self, epoch: int) -> _core.EpochProgress:
        """Return how far this epoch has come, to be kept up to date."""
        if self._epoch != epoch:
            self._epoch, self._progress = epoch, _core.EpochProgress()
        return self._progress

    def state(self, epoch: int) -> dict[str, Any] | None:
        """Return the same, None if this epoch has not begun."""
        if self._epoch != epoch:
            return None
        numbers = {name: getattr(self._progress, name) for name in _PLACE}
        return {**numbers, "of": self._of}


_PLACE = ("steps", "total", "divisor")


# Runners ------------------------------------------------------------------------------


class _Arrays:
    """Whole epochs of arrays, each in one native call, which polls for Ctrl-C."""

    finished = False

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        optimizer: Optimizer,
        batch_size: int,
        seed: int,
        shuffle: bool,
        listener: Listener | None,
        place: Place,
    ) -> None:
        self._fit_epoch, self._place = mlp.core.fit_epoch, place
        self._data, self._loss, self._optimizer = data, loss.core, optimizer
        self._steps = -(-len(data[0]) // batch_size)
        self._batch_size, self._seed = batch_size, seed
        self._shuffle, self._listener = shuffle, listener

    def run(self, epoch: int) -> float:
        x, y, weight = self._data
        optimizer = self._optimizer
        progress = self._place.enter(epoch)
        behind = progress.steps
        return _validate.answered(
            self._fit_epoch(
                x,
                y,
                self._loss,
                # Asked for anew: a callback may have loaded a state.
                optimizer.core,
                weight,
                batch_size=self._batch_size,
                seed=self._seed,
                epoch=epoch,
                progress=progress,
                lr=optimizer._values(self._steps - behind),
                shuffle=self._shuffle,
                first_row=min(behind * self._batch_size, len(x)),
                listener=self._listener,
            )
        )


class _Steps:
    """Steps that come one by one from Python; the bits are those of `_Arrays`."""

    finished = False

    def __init__(
        self,
        batches: Callable[[int, int], Iterable[Data]],
        step: Callable[[Data, int, _core.EpochProgress], None],
        reduction: str,
        place: Place,
    ) -> None:
        self._batches, self._step, self._place = batches, step, place
        self._mean = reduction == "mean"

    def run(self, epoch: int) -> float:
        progress = self._place.enter(epoch)
        for batch in self._batches(epoch, progress.steps):
            self._step(batch, epoch, progress)
        if not self._mean:
            return progress.total
        return progress.total / progress.divisor if progress.divisor else 0.0


class _NativeStep:
    """A step with one of the core's losses: one native call."""

    def __init__(
        self,
        mlp: MLP,
        loss: Loss,
        optimizer: Optimizer,
        seed: int,
        listener: Listener | None,
    ) -> None:
        self._fit_epoch = mlp.core.fit_epoch
        self._loss, self._optimizer, self._seed = loss.core, optimizer, seed
        self._listener = listener

    def __call__(self, batch: Data, epoch: int, progress: _core.EpochProgress) -> None:
        x, y, weight = batch
        optimizer = self._optimizer
        _validate.answered(
            self._fit_epoch(
                x,
                y,
                self._loss,
                optimizer.core,
                weight,
                batch_size=len(x),
                seed=self._seed,
                epoch=epoch,
                progress=progress,
                lr=optimizer._values(1),
                shuffle=False,
                listener=self._listener,
            )
        )


class _CustomStep:
    """A step with a loss that Python computes: forward, loss, backward and update."""

    def __init__(
        self,
        mlp: MLP,
        loss: Loss,
        optimizer: Optimizer,
        seed: int,
        listener: Listener | None,
    ) -> None:
        self._mlp, self._loss, self._optimizer = mlp, loss, optimizer
        self._seed, self._listener = seed, listener
        self._good: tuple[Any, ...] | None = None

    def __call__(self, batch: Data, epoch: int, progress: _core.EpochProgress) -> None:
        x, y, weight = batch
        mlp, net, optimizer = self._mlp, self._mlp.core, self._optimizer
        k, taken = progress.steps, optimizer.step_count
        begins = k == 0 or self._good is None
        candidate = self._state() if begins else None
        share = 1.0
        if self._loss.reduction == "mean":
            share = float(len(x) if weight is None else sum(weight.tolist()))

        value = math.nan
        try:
            # Whatever goes wrong, Ctrl-C too: the step was taken, or nothing changes.
            with unmoved(mlp, optimizer):
                rates = optimizer._values(1)
                if rates is not None:
                    optimizer.core.set("lr", float(rates[0]))
                pred = _validate.answered(net.forward(x, True, (self._seed, epoch, k)))
                value, dy = custom_gradient(mlp, pred, y, self._loss, optimizer, weight)
                _validate.answered(net.backward_step(dy, optimizer.core))
        except _core.DivergenceError as error:
            raise self._diverged(k, str(error).partition(": ")[2]) from None
        finally:
            if optimizer.step_count > taken:
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
        """Go back as the core does, to the beginning of the last epoch that began."""
        mlp, core = self._mlp, self._optimizer.core
        if self._good is not None:
            mlp.params[:], mlp.buffers[:], tracked, state = self._good
            mlp.core.training_state = (*mlp.core.training_state[:2], tracked)
            core.load_state(state)
        return _core.DivergenceError(f"training diverged at step {k + 1}: {why}")


def custom_gradient(
    mlp: MLP,
    pred: Array,
    y: Any,
    loss: Loss,
    optimizer: Optimizer,
    weight: Array | None,
) -> tuple[float, Array]:
    """Return value and gradient of a loss written in Python, for the step to come."""
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


@contextlib.contextmanager
def unmoved(mlp: MLP, optimizer: Optimizer | None = None) -> Iterator[None]:
    """Take back what a pass in training mode has moved, if an exception follows it.

    Not if it comes after the optimiser's step: that stands as a whole.
    """
    net, buffers = mlp.core, mlp.buffers.copy()
    state = net.training_state
    taken = 0 if optimizer is None else optimizer.step_count
    try:
        yield
    except BaseException:
        if optimizer is None or optimizer.step_count == taken:
            mlp.buffers[:] = buffers
            net.training_state = state
        raise


# Where batches come from --------------------------------------------------------------


class _Slices:
    """The batches of arrays, in the order that the core would take them in."""

    def __init__(self, data: Data, batch_size: int, seed: int, shuffle: bool) -> None:
        self._data, self._batch_size = data, batch_size
        self._seed, self._shuffle = seed, shuffle

    def __call__(self, epoch: int, behind: int) -> Iterator[Data]:
        x, y, weight = self._data
        order = np.arange(len(x))
        if self._shuffle:
            _core.kernels.shuffle(order, self._seed, epoch)
        for start in range(behind * self._batch_size, len(x), self._batch_size):
            rows = order[start : start + self._batch_size]
            yield x[rows], y[rows], None if weight is None else weight[rows]


class Batches:
    """What fit was given for batches: an iterable of them, or a function to make one.

    Parameters
    ----------
    source : iterable or callable
        Of batches.
    steps : int, optional
        How many batches make an epoch.
    epochs : int
        How many epochs there are to be.
    check : callable
        Takes a name for messages and a batch, returns what the core takes.
    """

    def __init__(
        self,
        source: Any,
        steps: int | None,
        epochs: int,
        check: Callable[[str, object], Data],
    ) -> None:
        self._source, self._check, self.steps = source, check, steps
        self._used = 0
        self._once: Iterator[Any] | None = None
        self._takes_epoch = False
        if not hasattr(source, "__iter__") and callable(source):
            import inspect

            with contextlib.suppress(TypeError, ValueError):
                inspect.signature(source).bind(0)
                self._takes_epoch = True
        elif isinstance(source, (np.ndarray, str, bytes, dict)):
            raise TypeError(
                "y must hold real numbers, got None; it may be left out only if x is "
                "an iterable of batches (x, y), or a function that returns one; "
                f"x is {_validate.describe(source)}"
            )
        else:
            try:
                iterator = iter(source)
            except TypeError:
                raise TypeError(
                    "x must be an array, or without y an iterable of batches (x, y), "
                    "or a function that returns one; "
                    f"got {_validate.describe(source)}"
                ) from None
            if iterator is source:
                self._once = iterator
        if self._once is not None and steps is None and epochs > 1:
            raise ValueError(
                f"x, {_validate.describe(source)}, gives its batches but once, and "
                f"there are {epochs} epochs: give steps_per_epoch, or hand in a "
                "function that makes a new one for each epoch"
            )

    def __call__(self, epoch: int, behind: int) -> Iterator[Data]:
        """Return an epoch's batches but those behind, checked."""
        source = self._once
        steps = self.steps
        if source is None:
            made = self._source
            if not hasattr(made, "__iter__"):
                made = made(epoch) if self._takes_epoch else made()
            try:
                source = iter(made)
            except TypeError:
                raise TypeError(
                    "x must return an iterable of batches, "
                    f"got {_validate.describe(made)}"
                ) from None
            for _ in islice(source, behind):
                pass

        # An iterator stands where the training did.
        count = behind
        for batch in islice(source, None if steps is None else steps - behind):
            yield self._check(f"x, batch {count}: ", batch)
            count += 1
        self._used += count - behind
        if count < (self.steps or 1):
            wanted = f" of {self.steps}" if self.steps else ""
            hint = ""
            if self._once is not None:
                hint = (
                    f", after {self._used} in all; hand in a function that makes a new "
                    "one for each epoch"
                )
            raise ValueError(
                f"x ran dry: it gave {count}{wanted} batches for this epoch{hint}"
            )


# Validation ---------------------------------------------------------------------------


class Measures:
    """Takes loss and metrics on a data set, in one pass over it.

    Parameters
    ----------
    mlp : MLP
        The model.
    data : Data
        What to look at.
    loss : Loss
        Fit's loss.
    metrics : dict
        By name.
    validation : bool
        Whether the data are for validation: then the loss is taken too, and names
        start with "val_".
    """

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        metrics: dict[str, _Measure],
        *,
        validation: bool,
    ) -> None:
        self._net, self._data, self._loss = mlp.core, data, loss
        for metric in metrics.values():
            metric.check(data[1])
        prefix = "val_" if validation else ""
        self._metrics = {prefix + name: f for name, f in metrics.items()}
        self.names = tuple(self._metrics)
        self._validation = validation
        self._native = not metrics and loss.core is not None
        if not self._native:
            self._pred = np.empty((len(data[0]), mlp.n_out), mlp.dtype)

    def __call__(self) -> Measured:
        """Return the loss, if it is wanted, and the metrics."""
        x, y, weight = self._data
        core = self._loss.core
        if self._native:
            value = self._net.evaluate(x, y, core, weight)
            return _validate.answered(value), {}
        pred = self._pred
        for i in range(0, len(x), BLOCK):
            rows = slice(i, i + BLOCK)
            _validate.answered(self._net.predict(x[rows], pred[rows]))
        loss = None
        if self._validation and core is not None:
            loss = _validate.answered(core.value(pred, y, weight))
        elif self._validation:
            loss = self._loss(pred, y, weight)
        seen = pred.view()
        seen.flags.writeable = False  # one metric is not to change it for another
        return loss, {k: f(seen, y, weight) for k, f in self._metrics.items()}


# The loop -----------------------------------------------------------------------------


def make_runner(
    mlp: MLP,
    data: Data | Batches,
    loss: Loss,
    optimizer: Optimizer | Solver,
    batch_size: int,
    seed: int,
    shuffle: bool,
    listener: Listener | None,
    place: Place,
) -> Runner:
    """Choose how to train."""
    if isinstance(optimizer, Solver):
        return _Solving(optimizer._runner(mlp, data, loss), listener, place)
    if not isinstance(data, Batches):
        rows = len(data[0])
        if mlp.buffers.size and 1 in (rows, batch_size, rows % batch_size):
            raise ValueError(
                "x: batch normalisation needs batches of at least two rows in "
                f"training; {rows} rows by batch_size={batch_size} leave a single one"
            )
        if loss.core is not None:
            return _Arrays(
                mlp, data, loss, optimizer, batch_size, seed, shuffle, listener, place
            )
        batches: Any = _Slices(data, batch_size, seed, shuffle)
    else:
        batches = data
    kind = _CustomStep if loss.core is None else _NativeStep
    step = kind(mlp, loss, optimizer, seed, listener)
    return _Steps(batches, step, loss.reduction, place)


class _Solving:
    """A solver, whose epoch is one step."""

    def __init__(self, runner: Runner, listener: Listener | None, place: Place) -> None:
        self._runner, self._listener, self._place = runner, listener, place

    @property
    def finished(self) -> bool:
        return self._runner.finished

    def run(self, epoch: int) -> float:
        progress = self._place.enter(epoch)
        if not progress.steps:
            progress.total = self._runner.run(epoch)
            progress.steps = 1
            if self._listener is not None:
                self._listener(0, progress.total)
        return progress.total


def listener_of(hooks: list[Callback], mlp: MLP, history: History) -> Listener | None:
    """Return what tells the callbacks of each step; None if none wants to know."""
    calls = overridden(hooks, "on_batch_end")
    if not calls:
        return None

    def tell(step: int, loss: float) -> None:
        stops = [wants_stop(call(mlp, history, step, loss)) for call in calls]
        if any(stops):
            raise _Stopped

    return tell


def train(
    mlp: MLP,
    runner: Runner | Driver,
    run: Run,
    measures: Callable[[], Measured] | None,
    progress: bool | None,
    *,
    own_orders: bool,
) -> None:
    """Train for the epochs, record them, and call the callbacks.

    ``own_orders``: whether the epochs count among those of the model's own sequence.
    """
    hooks, history = run.callbacks, run.history
    begun: list[Callback] = []
    try:
        for hook in hooks:
            hook.run = run
        try:
            for hook in hooks:
                hook.on_train_begin(mlp, history)
                begun.append(hook)
            mlp.history = history
            with contextlib.closing(_progress.start(progress, run.epochs)) as bar:
                _epochs(mlp, runner, run, measures, bar, own_orders)
        except _Stopped:
            pass
        except BaseException as error:
            if not _forgiven(begun, mlp, history, error):
                raise
        left = list(hooks)
        try:
            while left:
                for call in overridden(left[:1], "on_train_end"):
                    call(mlp, history)
                del left[0]
        except BaseException as error:
            # What is still to be cleaned up is so by other means.
            _forgiven(left, mlp, history, error)
            raise
    finally:
        for hook in hooks:
            hook.run = None


def _epochs(
    mlp: MLP,
    runner: Runner | Driver,
    run: Run,
    measures: Callable[[], Measured] | None,
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
        mlp.sequence.within = None  # from here on it is the runner that knows

    def end(value: float) -> bool:
        if own_orders:
            mlp.sequence.done += 1

        # The record grows only when all of the epoch is known.
        watched, found = value, _NOTHING
        if measures is not None:
            val_loss, found = measures()
            if val_loss is not None:
                watched = val_loss
                history.val_loss.append(val_loss)
        for name, number in found.items():
            history.log(name, number)
        history.loss.append(value)
        history.seconds.append(perf_counter() - start)

        optimizer._epoch_end(watched)
        stop = False
        for call in ends:
            stop |= wants_stop(call(mlp, history))
        bar.update(history)
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


def _answer(answers: list[object], call: Callable[..., object], *args: object) -> None:
    answers.append(call(*args))


def _forgiven(
    hooks: list[Callback], mlp: MLP, history: History, error: BaseException
) -> bool:
    """Tell all callbacks of an error; True if one of them takes it for an end."""
    answers: list[object] = []
    with contextlib.ExitStack() as stack:
        # All are told, even if one of them raises; the stack goes backwards.
        for call in reversed(overridden(hooks, "on_error")):
            stack.callback(_answer, answers, call, mlp, history, error)
    return isinstance(error, _core.DivergenceError) and any(map(wants_stop, answers))
