"""Statistics of a network's layers during training."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from .._network import ops
from . import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._network.model import MLP
    from .._network.ops import Step
    from .._validate import Array
    from ..layers import Activation
    from ..metrics import History

__all__ = ["Histogram", "Monitor"]

SATURATED = 0.01
SELU_FLOOR = 1.0507009873554805 * 1.6732632423543772


class Histogram(namedtuple("Histogram", ("counts", "edges", "not_finite"))):
    """A histogram of values.

    Attributes
    ----------
    counts : ndarray of int (bins,)
        Number of values in each bin.
    edges : ndarray (bins + 1,)
        Edges of the bins, which have equal widths and reach from the smallest value to
        the largest.
    not_finite : int
        Number of values that are not finite; they are not in any bin.
    """

    __slots__ = ()


class Monitor(Callback):
    """Records statistics of each layer at the last training step of an epoch.

    Nothing is recomputed: outputs and gradients are those of the last batch of the
    epoch (whatever its size), and the update is that of the last step. A recorded epoch
    costs one copy of the parameters, the gradients and the batch's outputs, and the
    computation of histograms. Second-order solvers do not train on batches: for them,
    only the statistics of the parameters are recorded, and the others are empty or NaN.

    Parameters
    ----------
    every : int
        Number of epochs from one recorded epoch to the next, at least 1. The first
        epoch is recorded.
    bins : int
        Number of bins of each histogram, at least 1.
    path : bool
        Whether to keep the parameters as well, for `fastmlp.plot.loss_surface`:
        a copy of n_params numbers before the first epoch and after each recorded epoch.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Attributes
    ----------
    epochs : list of int
        Recorded epochs, counted from 1. Each list below has one entry per recorded
        epoch.
    layers : dict of str to str
        Description of each layer, by the layer's name in ``state_dict``.
    weights, gradients : dict of str to list of Histogram
        Histograms of each layer's weight (for a normalisation layer, its scale) and of
        the gradient of that weight. Biases are not included.
    activations : dict of str to list of Histogram
        Each layer's outputs for the last batch. The histogram is empty if the outputs
        were not kept, for example because a following `fastmlp.Activation` overwrote
        them.
    units : dict of str to int
        Number of units, for each layer that can have dead or saturated units.
    dead : dict of str to list of int
        Number of units of each layer in ``units`` that are dead or saturated in all
        rows of the last batch; -1 if unknown. A unit of relu is dead if its output is
        0. A unit of sigmoid, tanh, softsign, elu or selu is saturated if its output is
        so near a bound that the derivative is less than a hundredth of its largest
        value.
    update_ratios : dict of str to list of float
        Norm of the last step's change of each layer's weight, divided by the norm of
        that weight before the step.
    gradient_norms : dict of str to list of float
        Norm of the gradient of each layer's weight.
    path : list of ndarray (n_params,)
        Parameters, if ``path`` is set; empty otherwise.

    Examples
    --------
    >>> import numpy as np
    >>> import fastmlp as fm
    >>> monitor = fm.Monitor(every=5)
    >>> x = np.linspace(-1, 1, 64)[:, np.newaxis]
    >>> history = fm.MLP([1, 16, 1], seed=0).fit(
    ...     x, x**2, loss=fm.MSE(), optimizer=fm.Adam(), epochs=10, batch_size=16,
    ...     callbacks=[monitor],
    ... )
    >>> monitor.epochs
    [1, 6]
    """

    def __init__(self, every: int = 1, *, bins: int = 40, path: bool = False) -> None:
        self.every = _validate.count("every", every, 1)
        self.bins = _validate.count("bins", bins, 1)
        self._keeps_path = _validate.flag("path", path)
        self._forget()

    def _forget(self) -> None:
        self.epochs: list[int] = []
        self.layers: dict[str, str] = {}
        self.weights: dict[str, list[Histogram]] = {}
        self.gradients: dict[str, list[Histogram]] = {}
        self.activations: dict[str, list[Histogram]] = {}
        self.units: dict[str, int] = {}
        self.dead: dict[str, list[int]] = {}
        self.update_ratios: dict[str, list[float]] = {}
        self.gradient_norms: dict[str, list[float]] = {}
        self.path: list[Array] = []
        self._network: list[Step] = []

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Forget any earlier run, and have the core keep the data of its last step."""
        self._forget()
        self._network = ops.steps(mlp)
        for step in self._network:
            self.layers[step.name] = ops.label(step)
            self.activations[step.name] = []
            if step.function.name in _DEAD:
                self.units[step.name] = step.n_out
                self.dead[step.name] = []
            if step.weight is not None:
                self.weights[step.name] = []
                self.gradients[step.name] = []
                self.update_ratios[step.name] = []
                self.gradient_norms[step.name] = []
        if self._keeps_path:
            self.path.append(mlp.params.copy())
        mlp.core.watch = True

    def on_epoch_end(self, mlp: MLP, history: History) -> None:
        """Record the first epoch, and every ``every`` epochs after it."""
        epoch = len(history)
        if (epoch - 1) % self.every == 0:
            self._record(mlp, epoch)
        # While watch is set, the core copies the parameters before the last step of an
        # epoch. Set it only if the next epoch will be recorded.
        mlp.core.watch = epoch % self.every == 0

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Tell the core to stop keeping the data of its last step."""
        mlp.core.watch = False

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> None:
        """Tell the core to stop keeping the data of its last step."""
        mlp.core.watch = False

    def _record(self, mlp: MLP, epoch: int) -> None:
        last = mlp.core.last_step() or {}
        grads, before = last.get("grads"), last.get("before")
        outputs = last.get("outputs")
        self.epochs.append(epoch)
        if self._keeps_path:
            self.path.append(mlp.params.copy())
        for step in self._network:
            name = step.name
            at = step.output
            h = None if outputs is None or at is None else outputs[at]
            self.activations[name].append(self._histogram(h))
            if step.function.name in _DEAD:
                dead = -1 if h is None else int(_dead(step.function, h).sum())
                self.dead[name].append(dead)
            if step.weight is None:
                continue
            weight = mlp.params[step.weight]
            grad = None if grads is None else grads[step.weight]
            old = None if before is None else before[step.weight]
            self.weights[name].append(self._histogram(weight))
            self.gradients[name].append(self._histogram(grad))
            self.gradient_norms[name].append(_norm(grad))
            self.update_ratios[name].append(
                np.nan if old is None else _ratio(_norm(weight - old), _norm(old))
            )

    def _histogram(self, values: Array | None) -> Histogram:
        flat = np.empty(0) if values is None else values.ravel()
        finite = flat[np.isfinite(flat)].astype(np.float64)
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        if low == high:
            low, high = low - 0.5, high + 0.5
        edges = np.linspace(low, high, self.bins + 1)
        place = (finite - low) / (high - low) * self.bins
        index = np.minimum(place.astype(np.intp), self.bins - 1)
        counts = np.bincount(index, minlength=self.bins)
        return Histogram(counts, edges, flat.size - finite.size)

    def __repr__(self) -> str:
        values = {"every": self.every, "bins": self.bins, "path": self._keeps_path}
        return f"Monitor({_validate.arguments(values)})"


# Pickles refer to these classes by the module fastmlp.monitor, as in version 0.1.0.
for _class in (Histogram, Monitor):
    _class.__module__ = "fastmlp.monitor"


def _norm(values: Array | None) -> float:
    if values is None:
        return np.nan
    return float(np.linalg.norm(values.astype(np.float64)))


def _ratio(change: float, size: float) -> float:
    return change / size if size > 0 else np.nan


# Activations whose units can die or saturate, with a test for outputs at which the
# derivative is nearly 0.
_DEAD: dict[str, Callable[..., Array]] = {
    "relu": lambda h: h <= 0,
    "relu6": lambda h: _outside(h, 0, 6),
    "sigmoid": lambda h: h * (1 - h) < SATURATED / 4,
    "hardsigmoid": lambda h: _outside(h, 0, 1),
    "tanh": lambda h: 1 - h * h < SATURATED,
    "hardtanh": lambda h, min_val, max_val: _outside(h, min_val, max_val),
    "softshrink": lambda h, lambd: h == 0,
    "hardshrink": lambda h, lambd: h == 0,
    "softsign": lambda h: (1 - abs(h)) ** 2 < SATURATED,
    "elu": lambda h, alpha: h + alpha < SATURATED * alpha,
    "celu": lambda h, alpha: h / alpha + 1 < SATURATED,
    "selu": lambda h: h + SELU_FLOOR < SATURATED * SELU_FLOOR,
}


def _outside(h: Array, low: float, high: float) -> Array:
    return (h <= low) | (h >= high)


def _dead(activation: Activation, h: Array) -> Array:
    """Tell which units (columns) are dead or saturated in all rows."""
    idle = np.asarray(_DEAD[activation.name](h, **activation.constants))
    return np.asarray(idle.all(axis=0))
