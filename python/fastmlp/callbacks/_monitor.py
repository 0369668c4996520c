"""What goes on inside a network while it is trained."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING

import numpy as np

from .. import _validate
from .._network import ops
from . import Callback

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._network.ops import Step
    from .._validate import Array
    from ..metrics import History
    from ..mlp import MLP

__all__ = ["Histogram", "Monitor"]

SATURATED = 0.01
SELU_FLOOR = 1.0507009873554805 * 1.6732632423543772


class Histogram(namedtuple("Histogram", ("counts", "edges", "not_finite"))):
    """How often values lie in each bin.

    Attributes
    ----------
    counts : ndarray of int (bins,)
        How many values lie in each bin.
    edges : ndarray (bins + 1,)
        The bins, all of one width, from the least value to the greatest.
    not_finite : int
        How many values are not finite, and in no bin.
    """

    __slots__ = ()


class Monitor(Callback):
    """Records what the last training step of an epoch left behind, layer by layer.

    Nothing is computed anew: outputs and gradients are those of the last batch of the
    epoch (whatever its size), the update is that of its step. An epoch costs one copy
    of parameters, gradients and the batch's outputs, and their histograms. Where the
    core took no step by itself, as with second-order solvers, only what depends on the
    parameters is recorded; the rest is empty or NaN for that epoch.

    Parameters
    ----------
    every : int
        Record every so many epochs, beginning with the first; at least 1.
    bins : int
        Bins of each histogram, at least 1.
    path : bool
        Keep the parameters, too: before the first epoch and of each recorded one, for
        `fastmlp.plot.loss_surface`. Takes n_params numbers each.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range.

    Attributes
    ----------
    epochs : list of int
        Which epochs were recorded, counted from 1. Each list below has one entry for
        each of them.
    layers : dict of str to str
        The layers' names, as in ``state_dict``, and what they are.
    weights, gradients : dict of str to list of Histogram
        By layer, of its weight (a norm's scale), without biases.
    activations : dict of str to list of Histogram
        By layer, of its outputs for the last batch; an empty histogram if there are
        none, as before a `fastmlp.Activation` that works in the same place.
    units : dict of str to int
        By layer that can have dead units, how many units there are.
    dead : dict of str to list of int
        By layer of those, how many did nothing for any row of the last batch: outputs 0
        of relu; of sigmoid, tanh, softsign, elu and selu outputs so near a bound that
        the derivative is less than a hundredth of its greatest value. -1 where unknown.
    update_ratios : dict of str to list of float
        By layer, norm of the last step's change of its weight over the norm of that
        weight before the step.
    gradient_norms : dict of str to list of float
        By layer, the norm of the gradient of its weight.
    path : list of ndarray (n_params,)
        The parameters, if asked for.

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
        """Forget any earlier run, and have the core keep what will be asked for."""
        self._forget()
        self._network = ops.steps(mlp)
        for step in self._network:
            self.layers[step.name] = ops.label(step)
            self.activations[step.name] = []
            if step.activation in _DEAD:
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
        """Record, if it is this epoch's turn."""
        epoch = len(history)
        if (epoch - 1) % self.every == 0:
            self._record(mlp, epoch)
        # The copy before the last step is made in epochs that are recorded, only.
        mlp.core.watch = epoch % self.every == 0

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Have the core keep nothing more."""
        mlp.core.watch = False

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> None:
        """Have the core keep nothing more."""
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
            if step.activation in _DEAD:
                dead = -1 if h is None else int(_dead(step.activation, h).sum())
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


def _norm(values: Array | None) -> float:
    if values is None:
        return np.nan
    return float(np.linalg.norm(values.astype(np.float64)))


def _ratio(change: float, size: float) -> float:
    return change / size if size > 0 else np.nan


# Where the derivative, a function of the output, is next to nothing.
_DEAD: dict[str, Callable[[Array], Array]] = {
    "relu": lambda h: h <= 0,
    "sigmoid": lambda h: h * (1 - h) < SATURATED / 4,
    "tanh": lambda h: 1 - h * h < SATURATED,
    "softsign": lambda h: (1 - abs(h)) ** 2 < SATURATED,
    "elu": lambda h: h + 1 < SATURATED,
    "selu": lambda h: h + SELU_FLOOR < SATURATED * SELU_FLOOR,
}


def _dead(activation: str, h: Array) -> Array:
    """Tell which units, columns, are dead or saturated in all rows."""
    idle = np.asarray(_DEAD[activation](h))
    return np.asarray(idle.all(axis=0))
