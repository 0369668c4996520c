"""Training epochs with scikit-learn's sample orders, mean loss and penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core
from .._network.inputs import check_takes_sparse, sparse_matrix
from .._training import custom
from .._training.evaluator import predict_blocks
from .._training.runners import NativeEpoch
from .._validate import accepted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._network.inputs import Inputs
    from .._training.types import Listener
    from .._validate import Array
    from ..losses import Loss
    from ..mlp import MLP
    from ..optimizers import Optimizer


class Data(NamedTuple):
    """A data set for training or validation."""

    x: Inputs  # as `samples_for` returns them
    y: Array  # in the form that the loss takes
    weight: Array | None

    @property
    def rows(self) -> int:
        """Number of samples."""
        return len(self.x)

    def batch(self, rows: Any) -> tuple[Inputs, Array, Array | None]:
        """Return some rows."""
        weight = None if self.weight is None else self.weight[rows]
        return self.x[rows], self.y[rows], weight

    def all_rows(self, dtype: np.dtype[Any]) -> tuple[Inputs, Array, Array | None]:
        """Return all rows in this precision."""
        weight = None if self.weight is None else self.weight.astype(dtype, copy=False)
        y = self.y.astype(dtype, copy=False) if self.y.dtype.kind == "f" else self.y
        x = self.x
        if isinstance(x, np.ndarray):
            return x.astype(dtype, copy=False), y, weight
        return x.with_data(x.data.astype(dtype, copy=False)), y, weight


def aligned(array: Array, dtype: np.dtype[Any]) -> Array:
    """Convert an array to one that the core takes; large numbers become infinite."""
    with np.errstate(over="ignore"):
        return np.require(array, dtype, ["C", "ALIGNED", "ENSUREARRAY"])


def samples_for(mlp: MLP, x: Any) -> Inputs:
    """Convert samples to an array or sparse matrix that the core takes."""
    if isinstance(x, np.ndarray):
        return aligned(x, mlp.dtype)
    check_takes_sparse(mlp, "X", x)
    return sparse_matrix("X", x, lambda data: aligned(data, mlp.dtype))


def predict(mlp: MLP, x: Inputs) -> Array:
    """Compute the network's outputs block by block."""
    out = np.empty((len(x), mlp.n_out), mlp.dtype)
    predict_blocks(mlp.core, x, out)
    return out


def own_name(activation: str) -> str:
    """Return fastmlp's name of an activation."""
    return "sigmoid" if activation == "logistic" else str(activation)


def activate(z: Array, activation: str) -> Array:
    """Apply an output activation, given by scikit-learn's name, in place."""
    if activation != "identity":
        _core.kernels.activation_forward(z, z, own_name(activation))
    return z


class SampleOrder:
    """Draws the order of the samples in each epoch as scikit-learn's MLP does.

    Each epoch shuffles the order of the previous epoch.
    """

    def __init__(self, rows: int, random_state: np.random.RandomState | None) -> None:
        self._order = np.arange(rows, dtype=np.int64)
        self._random_state = random_state

    def next(self) -> Array | None:
        """Return the order of the next epoch; None if samples are not shuffled."""
        if self._random_state is None:
            return None
        shuffled = np.arange(len(self._order), dtype=np.int64)
        self._random_state.shuffle(shuffled)
        self._order = self._order[shuffled]
        return self._order


class Epochs:
    """Trains epoch by epoch, in batches, on arrays or sparse matrices.

    Parameters
    ----------
    mlp : MLP
        Model to train.
    data : Data
        Training data.
    loss : Loss
        Loss to minimise.
    constant : (rows,) array, optional
        Constant term that scikit-learn adds to the loss of each sample.
    optimizer : Optimizer
        Optimiser that takes the steps.
    batch_size : int
        Number of rows in a step.
    l2 : float
        Strength of the L2 penalty ½ l2 ΣW² / n, where n is the number of rows in the
        batch, or the sum of their sample weights.
    order : SampleOrder
        Order of the rows in each epoch.
    seed : int
        Seed of dropout.
    listener : callable, optional
        Function to call after each step.
    """

    finished = False

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        constant: Array | None,
        optimizer: Optimizer,
        *,
        batch_size: int,
        l2: float,
        order: SampleOrder,
        seed: int,
        listener: Listener | None,
    ) -> None:
        self._mlp, self._data, self._loss = mlp, data, loss
        self._constant, self._optimizer = constant, optimizer
        self._batch_size, self._l2, self._order = batch_size, l2, order
        self._seed = seed
        self._rows = data.rows
        # A last batch of a single row is left out: batch norm needs at least two rows.
        if mlp.buffers.size and self._rows > batch_size > 1:
            self._rows -= self._rows % batch_size == 1
        self._own_mean = data.weight is not None and loss.reduction == "mean"
        self._total = 0.0
        self._tell = listener
        self._listener = self._add if self._own_mean else listener

    def run(self, epoch: int) -> float:
        """Train for an epoch and return its loss, averaged as in scikit-learn.

        Each batch's loss is weighted by its number of rows, not by its sample weights.
        """
        order = self._order.next()
        if self._rows < self._data.rows:
            order = np.arange(self._rows) if order is None else order[: self._rows]
        self._total = 0.0
        value = self._train(epoch, order)
        if self._own_mean:
            value = self._total / self._rows
        if self._constant is not None:
            value += self._mean_constant(order)
        return value

    def _train(self, epoch: int, order: Array | None) -> float:
        """Take the steps of an epoch and return the mean of their losses."""
        raise NotImplementedError

    def _slices(self, order: Array | None, size: int) -> Iterator[tuple[int, Any]]:
        """Split an epoch into slices; yield the row count and the rows of each."""
        for start in range(0, self._rows, size):
            stop = min(start + size, self._rows)
            rows = slice(start, stop) if order is None else order[start:stop]
            yield stop - start, rows

    def _add(self, step: int, loss: float) -> None:
        """Add a step's loss to the epoch's total, and call the listener."""
        size = self._batch_size
        self._total += loss * min(size, self._rows - step * size)
        if self._tell is not None:
            self._tell(step, loss)

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


class NativeEpochs(Epochs):
    """Trains with a built-in loss, in as few native calls as possible."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._call = NativeEpoch(
            self._mlp,
            self._loss,
            self._optimizer,
            seed=self._seed,
            listener=self._listener,
            l2=self._l2,
        )

    def _train(self, epoch: int, order: Array | None) -> float:
        data, size, progress = self._data, self._batch_size, _core.EpochProgress()
        steps = -(-self._rows // size)
        return self._call(
            data, epoch, progress, batch_size=size, steps=steps, order=order
        )


class CustomEpochs(Epochs):
    """Trains with a loss written in Python, step by step."""

    def _train(self, epoch: int, order: Array | None) -> float:
        mlp, optimizer = self._mlp, self._optimizer
        views = list(mlp.named_parameters().values())
        total = divisor = 0.0
        for k, (n, rows) in enumerate(self._slices(order, self._batch_size)):
            batch = self._data.batch(rows)
            weight = batch[2]
            share = float(n if weight is None else weight.sum())
            if not share:
                continue  # the mean loss is undefined
            with custom.rollback_on_error(mlp, optimizer):
                custom.set_scheduled(optimizer)
                draw = self._seed, epoch, k
                value, dy = custom.loss_and_gradient(
                    mlp, batch, self._loss, optimizer, draw
                )
                flat = accepted(mlp.core.backward(dy))[1]
                value += penalise(mlp, flat, self._l2, share)
                grads = [flat[_place(v, mlp)].reshape(v.shape) for v in views]
                accepted(optimizer.core.step(views, grads))
            total += value * share
            divisor += share
            if self._listener is not None:
                self._listener(k, value)
        if self._loss.reduction == "mean":
            return total / divisor
        return total


def _place(view: Array, mlp: MLP) -> slice:
    """Return the slice of ``mlp.params`` that a view of parameters occupies."""
    distance = view.ctypes.data - mlp.params.ctypes.data
    start = int(distance) // mlp.dtype.itemsize
    return slice(start, start + view.size)


def penalise(mlp: MLP, grads: Array, l2: float, share: float) -> float:
    """Add the gradient of the penalty to ``grads``, and return the penalty."""
    if not l2:
        return 0.0
    total = 0.0
    for weight in mlp.weights:
        flat = weight.reshape(-1)
        grads[_place(weight, mlp)] += l2 / share * flat
        total += float(flat @ flat)
    return 0.5 * l2 * total / share
