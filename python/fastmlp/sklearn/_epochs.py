"""How `fastmlp.sklearn` trains: scikit-learn's epochs, its rules, and SciPy's L-BFGS-B.

The loop and all that callbacks see are those of `fastmlp.MLP.fit`.
"""

from __future__ import annotations

import math
import os
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core, _validate
from .._training import loop
from ..callbacks import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._training.loop import Listener
    from .._validate import Array
    from ..losses import Loss
    from ..metrics import History
    from ..mlp import MLP
    from ..optimizers import Optimizer

# Of sparse matrices so many numbers are made dense at a time: 8 MB of them.
DENSE_NUMBERS = 2**20

# Below this scikit-learn's "adaptive" ends the training instead of going slower.
LEAST_RATE = 1e-6

_KERNEL = {"logistic": "sigmoid", "softmax": "softmax", "exp": "exp"}


class Data(NamedTuple):
    """What to train or validate on."""

    x: Any  # C-contiguous, or sparse in rows (CSR)
    y: Array  # what the loss takes
    weight: Array | None

    @property
    def rows(self) -> int:
        """How many samples there are."""
        return int(self.x.shape[0])

    def block(self, rows: Any, dtype: np.dtype[Any]) -> Array:
        """Return some rows of x, dense."""
        return dense(self.x[rows], dtype)

    def all_dense(self, dtype: np.dtype[Any]) -> tuple[Array, Array, Array | None]:
        """Return everything, dense, in this precision."""
        weight = None if self.weight is None else self.weight.astype(dtype, copy=False)
        y = self.y.astype(dtype, copy=False) if self.y.dtype.kind == "f" else self.y
        return dense(self.x, dtype), y, weight


def dense(x: Any, dtype: np.dtype[Any]) -> Array:
    """Return an array or a sparse matrix as the core takes it."""
    array: Array = x if isinstance(x, np.ndarray) else x.toarray()
    return np.ascontiguousarray(array, dtype)


def rows_at_a_time(x: Any) -> int:
    """Return how many rows of a matrix are looked at together."""
    if isinstance(x, np.ndarray):
        return loop.BLOCK
    return max(1, DENSE_NUMBERS // int(x.shape[1]))


def predict(mlp: MLP, x: Any) -> Array:
    """Return the network's outputs, block by block; sparse matrices are CSR."""
    out = np.empty((x.shape[0], mlp.n_out), mlp.dtype)
    step = rows_at_a_time(x)
    for i in range(0, len(out), step):
        block = dense(x[i : i + step], mlp.dtype)
        _validate.answered(mlp.core.predict(block, out[i : i + step]))
    return out


def activate(z: Array, activation: str) -> Array:
    """Apply the output's activation, of scikit-learn's names, in place."""
    if activation != "identity":
        _core.kernels.activation_forward(z, z, _KERNEL[activation])
    return z


# Epochs -------------------------------------------------------------------------------


class Orders:
    """The orders of the samples, drawn as scikit-learn's MLP does.

    That is, ``indices`` are shuffled anew each epoch, on top of the last order.
    """

    def __init__(self, rows: int, random_state: np.random.RandomState | None) -> None:
        self._order = np.arange(rows, dtype=np.int64)
        self._random_state = random_state

    def next(self) -> Array | None:
        """Return the order of another epoch; None if it is that of the samples."""
        if self._random_state is None:
            return None
        shuffled = np.arange(len(self._order), dtype=np.int64)
        self._random_state.shuffle(shuffled)
        self._order = self._order[shuffled]
        return self._order


class Epochs:
    """Runs epochs of arrays, or sparse matrices, in batches.

    Parameters
    ----------
    mlp : MLP
        The model.
    data : Data
        What to train on.
    loss : Loss
        What to minimise.
    constant : (rows,) array, optional
        What scikit-learn's loss has in addition, a number for each sample.
    optimizer : Optimizer
        What takes the steps.
    batch_size : int
        Rows of a step.
    l2 : float
        The penalty of the weights: ½ l2 ΣW² by the batch's rows or sum of weights.
    orders : Orders
        Which rows come when.
    seed : int
        For dropout.
    listener : callable, optional
        To be told of each step.
    """

    finished = False

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        constant: Array | None,
        optimizer: Optimizer,
        batch_size: int,
        l2: float,
        orders: Orders,
        seed: int,
        listener: Listener | None,
    ) -> None:
        self._mlp, self._data, self._loss = mlp, data, loss
        self._constant, self._optimizer = constant, optimizer
        self._batch_size, self._l2, self._orders = batch_size, l2, orders
        self._seed, self._listener = seed, listener
        self._rows = data.rows
        # Nothing can be normalised over a single row: it is left out for once.
        if mlp.buffers.size and self._rows > batch_size > 1:
            self._rows -= self._rows % batch_size == 1
        self._own_mean = data.weight is not None and loss.reduction == "mean"
        self._total = 0.0

    def run(self, epoch: int) -> float:
        """Train for an epoch and return its loss, by scikit-learn's mean.

        That is over batches by their rows, whatever the weights in them.
        """
        order = self._orders.next()
        if self._rows < self._data.rows:
            order = np.arange(self._rows) if order is None else order[: self._rows]
        self._total = 0.0
        listener = self._tell if self._own_mean else self._listener
        value = self._train(epoch, order, listener)
        if self._own_mean:
            value = self._total / self._rows
        if self._constant is not None:
            value += self._mean_constant(order)
        return value

    def _train(
        self, epoch: int, order: Array | None, listener: Listener | None
    ) -> float:
        data, optimizer, size = self._data, self._optimizer, self._batch_size
        fit_epoch, progress = self._mlp.core.fit_epoch, _core.EpochProgress()
        options: dict[str, Any] = {
            "batch_size": size,
            "seed": self._seed,
            "epoch": epoch,
            "progress": progress,
            "shuffle": False,
            "listener": listener,
            "l2": self._l2,
        }
        common = self._loss.core, optimizer.core
        if isinstance(data.x, np.ndarray):
            value = fit_epoch(
                data.x,
                data.y,
                *common,
                data.weight,
                lr=optimizer._values(-(-self._rows // size)),
                order=order,
                **options,
            )
            return _validate.answered(value)
        some = size * max(1, DENSE_NUMBERS // (size * data.x.shape[1]))
        value = 0.0
        for i in range(0, self._rows, some):
            stop = min(i + some, self._rows)
            rows = slice(i, stop) if order is None else order[i:stop]
            value = fit_epoch(
                data.block(rows, self._mlp.dtype),
                data.y[rows],
                *common,
                None if data.weight is None else data.weight[rows],
                lr=optimizer._values(-(-(stop - i) // size)),
                **options,
            )
            value = _validate.answered(value)
        return value

    def _tell(self, step: int, loss: float) -> None:
        size = self._batch_size
        self._total += loss * min(size, self._rows - step * size)
        if self._listener is not None:
            self._listener(step, loss)

    def _mean_constant(self, order: Array | None) -> float:
        assert self._constant is not None
        weight = self._data.weight
        rows = slice(self._rows) if order is None else order
        constant = self._constant[rows]
        if weight is None:
            return float(constant.mean())
        weight = weight[rows]
        starts = np.arange(0, self._rows, self._batch_size)
        sizes = np.diff(starts, append=self._rows)
        sums = np.add.reduceat(weight, starts)
        means = np.add.reduceat(weight * constant, starts) / np.where(sums, sums, 1)
        return float(means @ sizes / self._rows)


class CustomEpochs(Epochs):
    """The same for losses that Python computes, step by step."""

    def _train(
        self, epoch: int, order: Array | None, listener: Listener | None
    ) -> float:
        mlp, data, optimizer = self._mlp, self._data, self._optimizer
        total = divisor = 0.0
        views = list(mlp.named_parameters().values())
        for k, i in enumerate(range(0, self._rows, self._batch_size)):
            stop = min(i + self._batch_size, self._rows)
            rows = slice(i, stop) if order is None else order[i:stop]
            weight = None if data.weight is None else data.weight[rows]
            share = float(stop - i if weight is None else weight.sum())
            if not share:
                continue  # a mean over nothing
            with loop.unmoved(mlp, optimizer):
                block = data.block(rows, mlp.dtype)
                draw = self._seed, epoch, k
                pred = _validate.answered(mlp.core.forward(block, True, draw))
                rates = optimizer._values(1)
                if rates is not None:
                    optimizer.core.set("lr", float(rates[0]))
                value, dy = loop.custom_gradient(
                    mlp, pred, data.y[rows], self._loss, optimizer, weight
                )
                flat = _validate.answered(mlp.core.backward(dy))[1]
                value += penalise(mlp, flat, self._l2, share)
                grads = [_like(flat, view, mlp) for view in views]
                _validate.answered(optimizer.core.step(views, grads))
            total += value * share
            divisor += share
            if listener is not None:
                listener(k, value)
        if self._loss.reduction == "mean":
            return total / divisor
        return total


def _like(flat: Array, view: Array, mlp: MLP) -> Array:
    """Return the part of all gradients that belongs to a view of the parameters."""
    start = _offset(view, mlp)
    return flat[start : start + view.size].reshape(view.shape)


def _offset(view: Array, mlp: MLP) -> int:
    distance = view.ctypes.data - mlp.params.ctypes.data
    return int(distance) // mlp.dtype.itemsize


def penalise(mlp: MLP, grads: Array, l2: float, share: float) -> float:
    """Add the penalty's gradient to ``grads`` and return the penalty."""
    if not l2:
        return 0.0
    total = 0.0
    for weight in mlp.weights:
        flat, start = weight.reshape(-1), _offset(weight, mlp)
        grads[start : start + flat.size] += l2 / share * flat
        total += float(flat @ flat)
    return 0.5 * l2 * total / share


# Validation ---------------------------------------------------------------------------


class Validation:
    """Takes loss and score on held-out data, from one pass over them.

    Parameters
    ----------
    mlp : MLP
        The model.
    data : Data
        The data.
    loss : Loss
        The loss.
    constant : (rows,) array, optional
        What scikit-learn's loss has in addition.
    score : callable
        Takes the network's outputs and returns the score.
    """

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        constant: Array | None,
        score: Callable[[Array], float],
    ) -> None:
        self._mlp, self._data, self._loss = mlp, data, loss
        self._score = score
        self._constant = 0.0
        if constant is not None:
            self._constant = float(np.average(constant, weights=data.weight))
        self._pred: Array | None = None

    def __call__(self) -> tuple[float, dict[str, float]]:
        """Return the loss; what was predicted is kept for the score."""
        _, y, weight = self._data
        self._pred = predict(self._mlp, self._data.x)
        core = self._loss.core
        if core is None:
            value = self._loss(self._pred, y, weight)
        else:
            value = _validate.answered(core.value(self._pred, y, weight))
        return value + self._constant, {}

    def score(self) -> float:
        """Return the score, NaN if predictions are not finite."""
        assert self._pred is not None
        pred, self._pred = self._pred, None
        return self._score(pred) if np.isfinite(pred).all() else math.nan


# scikit-learn's rules -----------------------------------------------------------------


class Stepper:
    """An optimiser with scikit-learn's schedules of epochs.

    Parameters
    ----------
    optimizer : Optimizer
        The optimiser.
    schedule : {"constant", "invscaling", "adaptive"}
        What happens to the learning rate after an epoch.
    rate : float
        The learning rate at first.
    power : float
        By which power of the samples seen it falls ("invscaling").
    """

    def __init__(
        self, optimizer: Optimizer, schedule: str, rate: float, power: float
    ) -> None:
        self.optimizer, self.schedule = optimizer, schedule
        self._rate, self._power = float(rate), power

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.lr

    def _set(self, rate: float) -> None:
        """Change the learning rate, the step that momentum carries on left as it is.

        scikit-learn's velocity has the learning rate in it, the buffer here has not.
        """
        core, old = self.optimizer.core, self.optimizer.lr
        if getattr(self.optimizer, "momentum", 0.0) and rate:
            state = core.state()
            for slot in state["slots"]:
                for buffer in slot.values():
                    buffer *= old / rate
            core.load_state(state)
        self.optimizer.lr = rate

    def epoch_ends(self, samples: int) -> None:
        """Take notice of how many samples have been seen in all."""
        if self.schedule == "invscaling":
            self._set(self._rate / (samples + 1) ** self._power)

    def stops(self, message: str, verbose: bool) -> bool:
        """Tell whether to stop, as nothing gets better; if not, go slower."""
        if self.schedule != "adaptive":
            outcome, stop = "Stopping.", True
        elif self.learning_rate <= LEAST_RATE:
            outcome, stop = "Learning rate too small. Stopping.", True
        else:
            self._set(self.learning_rate / 5.0)
            outcome = f"Setting learning rate to {self.learning_rate:f}"
            stop = False
        if verbose:
            print(f"{message} {outcome}")
        return stop


class Rules(Callback):
    """Keeps an estimator's record, and ends the training when scikit-learn would.

    Parameters
    ----------
    estimator : object
        Whose fitted attributes to keep.
    rows : int
        Samples of an epoch.
    validation : Validation, optional
        Where the score comes from with early stopping.
    stepper : Stepper, optional
        Whose learning rate to see to; None for solvers, which end by themselves.
    """

    def __init__(
        self,
        estimator: Any,
        rows: int,
        validation: Validation | None,
        stepper: Stepper | None,
    ) -> None:
        self._estimator, self._rows = estimator, rows
        self._validation, self._stepper = validation, stepper
        self.stopped = False

    def on_epoch_end(self, mlp: MLP, history: History) -> bool:
        """Take over what this epoch gave, and tell whether it was the last."""
        est = self._estimator
        est.n_iter_ += 1
        est.loss_ = history.loss[-1]
        est.loss_curve_.append(est.loss_)
        if history.has_validation:
            est.validation_loss_curve_.append(history.val_loss[-1])
        if est.verbose:
            print(f"Iteration {est.n_iter_}, loss = {est.loss_:.8f}")
        if self._stepper is None:
            return False
        est.t_ += self._rows
        self._count(mlp)
        self._stepper.epoch_ends(est.t_)
        if est._no_improvement_count <= est.n_iter_no_change:
            return False
        what = "Validation score" if self._validation is not None else "Training loss"
        message = (
            f"{what} did not improve more than tol={est.tol:f} for "
            f"{est.n_iter_no_change} consecutive epochs."
        )
        self.stopped = self._stepper.stops(message, est.verbose)
        if not self.stopped:
            est._no_improvement_count = 0
        return self.stopped

    def _count(self, mlp: MLP) -> None:
        """Count the epochs in a row that were no better by ``tol``."""
        est = self._estimator
        if self._validation is None:
            worse = est.loss_ > est.best_loss_ - est.tol
            est.best_loss_ = min(est.best_loss_, est.loss_)
        else:
            score = self._validation.score()
            est.validation_scores_.append(score)
            if est.verbose:
                print(f"Validation score: {score:f}")
            worse = score < est.best_validation_score_ + est.tol
            if score > est.best_validation_score_:
                est.best_validation_score_ = score
                est._best = mlp.params.copy(), mlp.buffers.copy()
        est._no_improvement_count = est._no_improvement_count + 1 if worse else 0


# SciPy's L-BFGS-B ---------------------------------------------------------------------


class _Over(Exception):
    """A callback has ended the training."""


class _OneBlasThread:
    """Keeps BLAS to one thread while some thread of Python is within a ``with``.

    The limit is the process's: the first to come sets it, the last to go takes it back.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._limits: Any = None
        self._unlock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)

    def _unlock(self) -> None:
        # A child has none of the threads that might hold the lock.
        self._lock = Lock()

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:
            if not self._inside:
                self._limits = threadpool_limits(1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limits.restore_original_limits()
            _let_others_limit()


def _let_others_limit() -> None:
    """Give up this thread's control of OpenBLAS, which threadpoolctl 3.8 has given it.

    As long as it is alive no other thread could take back the limit.
    """
    from threadpoolctl import OpenBLASController

    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread()


_one_blas_thread = _OneBlasThread()


class LbfgsB:
    """Lets ``scipy.optimize.minimize(method="L-BFGS-B")`` train, in float64.

    Parameters
    ----------
    mlp : MLP
        The model.
    data : Data
        What to train on; made dense as a whole.
    loss : Loss
        What to minimise.
    constant : (rows,) array, optional
        What scikit-learn's loss has in addition.
    l2 : float
        The penalty of the weights.
    options : dict
        SciPy's.

    Attributes
    ----------
    result : OptimizeResult or None
        SciPy's result; None if the training was ended from outside.
    """

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        constant: Array | None,
        l2: float,
        options: dict[str, Any],
    ) -> None:
        self._mlp, self._loss, self._l2, self._options = mlp, loss, l2, options
        double = np.dtype(np.float64)
        # In float32 line searches fail near the minimum.
        self._work = mlp if mlp.dtype == double else _in_float64(mlp)
        self._data = data.all_dense(double)
        weight = self._data[2]
        self._share = float(data.rows if weight is None else weight.sum())
        self._constant = 0.0
        if constant is not None:
            self._constant = float(np.average(constant, weights=weight))
        self.result: Any = None

    def drive(
        self, begin: Callable[[], None], end: Callable[[float], bool], epochs: int
    ) -> None:
        """Train; an epoch is an iteration."""
        from scipy.optimize import minimize

        params = self._work.params
        reached, value, within = params.copy(), 0.0, False

        def function(theta: Array) -> tuple[float, Array]:
            nonlocal value, within
            if not within:
                begin()
                within = True
            params[:] = theta
            value, grads = self._value_and_grad()
            return value, grads

        def iterated(theta: Array) -> None:
            nonlocal reached, within
            params[:] = reached = theta.copy()
            if self._work is not self._mlp:
                self._mlp.params[:] = theta
            within = False
            if end(value):
                raise _Over

        try:
            # SciPy's vectors are short: threads of its BLAS would cost more than they
            # save, and results depend on how many there are.
            with _one_blas_thread:
                self.result = minimize(
                    function,
                    reached,
                    jac=True,
                    method="L-BFGS-B",
                    callback=iterated,
                    options={"maxiter": epochs, **self._options},
                )
            reached = self.result.x
        except _Over:
            pass
        finally:
            # Whatever ends it, the model is where the last iteration has led.
            self._mlp.params[:] = reached

    def _value_and_grad(self) -> tuple[float, Array]:
        x, y, weight = self._data
        core = self._loss.core
        if core is None:
            value, grads = self._work.value_and_grad(x, y, self._loss, weight)
            value += penalise(self._work, grads, self._l2, self._share)
        else:
            value, grads = _validate.answered(
                self._work.core.value_and_grad(x, y, core, weight, l2=self._l2)
            )
        return value + self._constant, grads


def _in_float64(mlp: MLP) -> MLP:
    """Return a copy of a model in double precision."""
    copy = type(mlp)([mlp.n_in, *mlp.layers], init="zeros", dtype="float64", seed=0)
    copy.params[:] = mlp.params
    copy.buffers[:] = mlp.buffers
    return copy
