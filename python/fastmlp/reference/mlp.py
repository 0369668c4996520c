"""The multilayer perceptron, with the interface of ``fastmlp.MLP``."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from .arrays import Array
from .initializers import Init, initialize
from .layers import (
    Activation,
    Block,
    Dense,
    DenseNode,
    EmbeddingNode,
    Folded,
    Layer,
    PeriodicNode,
    PiecewiseLinearNode,
    PReLUNode,
    ScaleNode,
    first_kinds,
    fold,
    named_activation,
    place_layers,
)
from .losses import Loss
from .nodes import Pass, Tape, backward_nodes, forward_nodes
from .normalization import BatchNormNode, NormNode, StandardiseNode
from .optimizer_steps import interpolate
from .optimizers import Optimizer
from .random import _shuffle

__all__ = [
    "MLP",
    "History",
]


@dataclass
class History:
    """The loss of each epoch of :meth:`MLP.fit`."""

    loss: list[float] = field(default_factory=list)
    val_loss: list[float] = field(default_factory=list)


# Dropout masks depend on the number of the epoch. Outside fit, where there are no
# epochs, the numbers below are used instead: the first in train_step, the second in
# all other passes in training mode.
_STEP_EPOCH = 0xFFFFFFFF

_PASS_EPOCH = 0xFFFFFFFE


class MLP:
    """Multilayer perceptron ``h_0 = x, h_t = act_t(h_{t-1} @ W_t + b_t)``.

    Attributes, arguments and methods are those of ``fastmlp.MLP``. Given the same seed,
    the initial parameters, the sample orders and the dropout masks are equal as well.

    The following are left out: ``compute_dtype``, whose arithmetic is that of
    :func:`bfloat16_product`; derivatives other than :meth:`vjp` and
    :meth:`value_and_grad`; ``summary`` and ``repr``; in fit, ``callbacks``, ``metrics``
    and ``progress``, batches in place of arrays, functions in place of losses, and the
    ``seconds`` of the history; ``state_dict`` and ``load_state_dict`` of optimisers,
    and the rule that an optimiser belongs to one model; second-order solvers. Fewer
    arguments are checked. If training diverges, it stops before the first step whose
    loss or gradient is not finite and does not roll back further; the parameters after
    the last step are not checked.
    """

    def __init__(
        self,
        layers: Iterable[int | Layer],
        *,
        activation: str | Activation = "relu",
        output_activation: str | Activation = "identity",
        init: Init = "auto",
        bias_init: Init | None = None,
        bias: bool = True,
        dtype: npt.DTypeLike = "float32",
        seed: int | np.random.Generator | None = None,
    ) -> None:
        n_in, *rest = list(layers) or [0]
        if isinstance(n_in, Layer) or not rest:
            raise ValueError("layers must hold the input width and at least one layer")
        self.n_in, self.dtype = int(n_in), np.dtype(dtype)
        if self.dtype not in (np.float32, np.float64):
            raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")

        def resolve(item: Dense | int, default: str | Activation) -> Layer:
            layer = item if isinstance(item, Dense) else Dense(int(item), bias=bias)
            kind = layer.activation or default
            named_activation(kind)  # raises for an unknown name
            own = layer.bias_init or (bias_init if layer.bias else None)
            first = layer.init or init
            return replace(layer, activation=kind, init=first, bias_init=own)

        # The last dense layer, which may be inside a block, takes the default
        # output_activation; the layers before it take the default activation. If the
        # last layer has branches, each of them ends in such a dense layer.
        def resolve_all(
            items: Sequence[Layer | int], is_last: bool
        ) -> tuple[list[Layer], bool]:
            layers: list[Layer] = []
            for item in reversed(items):
                if isinstance(item, Block):
                    inside = [resolve_all(part, is_last) for part in item.parts]
                    layers.append(item.of([part for part, _ in inside]))
                    is_last = all(last for _, last in inside)
                elif isinstance(item, Layer) and not isinstance(item, Dense):
                    layers.append(item)
                else:
                    default = output_activation if is_last else activation
                    layers.append(resolve(item, default))
                    is_last = False
            return layers[::-1], is_last

        self.layers = tuple(resolve_all(rest, is_last=True)[0])
        self._nodes = place_layers(
            self.layers, self.n_in, (init, bias_init), itertools.count()
        )
        self._leaves = [leaf for node in self._nodes for leaf in node.leaves]
        self.n_out = self._nodes[-1].n_out
        self.n_params = sum(math.prod(s) for s in self._shapes().values())
        self._params = np.zeros(self.n_params, dtype=self.dtype)
        norms = [leaf for leaf in self._leaves if isinstance(leaf, BatchNormNode)]
        sizes = [size for n in self._leaves for size in n.statistics().values()]
        self._buffers = np.zeros(sum(sizes), dtype=self.dtype)
        self._batches = np.zeros(len(norms), dtype=np.int64)
        self._connect()
        for leaf in self._leaves:
            if leaf.running:
                self._running[leaf.running[1]][:] = 1
            if isinstance(leaf, PiecewiseLinearNode):
                lower = self._running[leaf.running[0]]
                lower[:] = np.arange(leaf.n_out) % leaf.layer.n

        # Draw the parameters, then the seed of all sample orders and dropout masks.
        rng = np.random.default_rng(seed)
        denses = [leaf for leaf in self._leaves if isinstance(leaf, DenseNode)]
        kinds = list(first_kinds(self._nodes))
        for i, dense in enumerate(denses):
            hidden = kinds[min(i, max(0, len(denses) - 2))]
            w, b = self.weights[i], self.biases[i]
            how, bias_how = dense.layer.init, dense.layer.bias_init
            initialize(rng, w, b, how, kinds[i], hidden, bias_how, first=i == 0)
            dense.start(self._named, self._running)
        for leaf in self._leaves:
            scaled = isinstance(leaf, NormNode) and leaf.layer.affine
            if scaled or isinstance(leaf, ScaleNode):
                self._named[f"{leaf.name}.weight"][:] = 1
            if isinstance(leaf, PReLUNode):
                self._named[f"{leaf.name}.weight"][:] = leaf.layer.init
            if isinstance(leaf, EmbeddingNode):
                table = self._named[f"{leaf.name}.weight"]
                table[...] = rng.standard_normal(table.shape)
            if isinstance(leaf, PeriodicNode):
                w = self._named[f"{leaf.name}.weight"]
                w[...] = leaf.layer.sigma * rng.standard_normal(w.shape)
        self._order_seed = int(rng.integers(2**63))
        self._epochs_done = 0
        self._passes = 0  # number of passes in training mode, not counting steps
        self.history: History | None = None

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of all parameters by name, in order."""
        return {k: v for leaf in self._leaves for k, v in leaf.shapes().items()}

    def _connect(self) -> None:
        """Create the views of the flat parameters and buffers."""
        self._named = self._views(self._params)
        denses = [leaf for leaf in self._leaves if isinstance(leaf, DenseNode)]
        self.weights = tuple(self._named[d.weight] for d in denses)
        self.biases = tuple(self._named.get(f"{d.name}.bias") for d in denses)
        self._running: dict[str, Array] = {}
        start = 0
        for leaf in self._leaves:
            for name, size in leaf.statistics().items():
                self._running[name] = self._buffers[start : start + size]
                start += size
        # The shape of the last forward pass's output, and the values backward needs.
        self._kept: tuple[tuple[int, ...], Tape] | None = None

    def _views(self, flat: Array) -> dict[str, Array]:
        """Return views of a flat vector of parameters or gradients, by name."""
        views, start = {}, 0
        for name, shape in self._shapes().items():
            stop = start + math.prod(shape)
            views[name] = flat[start:stop].reshape(shape)
            start = stop
        return views

    @property
    def params(self) -> Array:
        """All parameters, 1-D and writeable, in the order W0, b0, W1, b1, ...

        The scale of a norm comes before its shift. The parameters of a Residual's
        layers come before those of its projection.
        """
        return self._params

    @property
    def buffers(self) -> Array:
        """Means and variances, 1-D and writeable, layer by layer."""
        return self._buffers

    def named_parameters(self) -> dict[str, Array]:
        """Return views of `params` by torch's names; weights are (in, out)."""
        return dict(self._named)

    def _torch_views(self) -> dict[str, Array]:
        views, norms = {}, 0
        for leaf in self._leaves:
            for name in leaf.shapes():
                view = self._named[name]
                views[name] = view.T if isinstance(leaf, DenseNode) else view
            views |= {name: self._running[name] for name in leaf.statistics()}
            if isinstance(leaf, BatchNormNode):
                count = self._batches[norms : norms + 1].reshape(())
                views[f"{leaf.name}.num_batches_tracked"] = count
                norms += 1
        return views

    def state_dict(self) -> dict[str, Array]:
        """Return copies by torch's names, in torch's layout: weights are (out, in)."""
        return {name: np.array(v, order="C") for name, v in self._torch_views().items()}

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Copy a `state_dict` into the model; raise ValueError if shapes differ."""
        views = self._torch_views()
        arrays = {name: np.array(v) for name, v in state.items()}
        wanted = {name: view.shape for name, view in views.items()}
        given = {name: array.shape for name, array in arrays.items()}
        if given != wanted:
            raise ValueError(f"state must have the shapes {wanted}, got {given}")
        for name, view in views.items():
            view[...] = arrays[name]

    def fold(self) -> MLP:
        """Return a model for inference without dropout and, where possible, batch norm.

        Batch norm is merged into an adjacent dense layer by the rules of
        ``layers.fold``. Outputs are equal up to rounding.
        """
        run = Pass(self._named, self._running)
        items = fold(self._nodes, run) or [Folded(Activation("identity"), [], [])]
        model = MLP([self.n_in, *(item.layer for item in items)], dtype=self.dtype)
        params = [array.ravel() for item in items for array in item.params]
        running = [array for item in items for array in item.running]
        model.params[:] = np.concatenate([np.zeros(0), *params])
        model.buffers[:] = np.concatenate([np.zeros(0), *running])
        return model

    def copy(self) -> MLP:
        """Return an independent copy, which continues training in the same way."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        views = ("weights", "biases", "_named", "_running", "_kept")
        return {name: v for name, v in self.__dict__.items() if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._connect()

    def _forward(
        self, x: Array, draw: tuple[int, int, int] | None = None, step: int = 0
    ) -> tuple[Array, Tape, Pass]:
        """Return the output, the tape, and the pass, which holds the new statistics."""
        run = Pass(self._named, self._running, draw, step)
        h, tape = forward_nodes(self._nodes, np.atleast_2d(x), run)
        return (h[0] if x.ndim == 1 else h), tape, run

    def _forward_in(self, training: bool, x: Array) -> tuple[Array, Tape]:
        """Return the output and the tape; in training mode, update the statistics."""
        draw = (self._order_seed, _PASS_EPOCH, self._passes) if training else None
        y, tape, run = self._forward(x, draw, self._passes)
        self._passes += training
        self._take_statistics(run)
        return y, tape

    def _take_statistics(self, run: Pass) -> None:
        for name, value in run.running.items():
            self._running[name][:] = value
        self._batches += run.draw is not None

    def _backward(
        self, dy: npt.ArrayLike, shape: tuple[int, ...], tape: Tape
    ) -> tuple[Array, Array]:
        """Return ``(dx, grads)`` by the chain rule, from the last layer back."""
        dy = np.asarray(dy, dtype=self.dtype)
        if dy.shape != shape:
            raise ValueError(f"dy must have the outputs' shape {shape}, got {dy.shape}")
        grads = np.empty_like(self.params)
        rows = np.atleast_2d(dy)
        run = Pass(self._named, self._running, grads=self._views(grads))
        dx = backward_nodes(self._nodes, rows, tape, run)
        return (dx[0] if dy.ndim == 1 else dx), grads

    def forward(self, x: npt.ArrayLike, training: bool = False) -> Array:
        """Return the output for ``x (B, I)`` or ``(I,)``; keep what backward needs.

        In training mode, dropout is active, and batch norm uses the statistics of the
        batch and updates its running statistics.
        """
        y, tape = self._forward_in(training, np.array(x, dtype=self.dtype))
        self._kept = y.shape, tape
        return y.copy()  # the tape may hold y itself

    def backward(self, dy: npt.ArrayLike) -> tuple[Array, Array]:
        """Return ``(dx, grads)``, given the derivative ``dy`` with respect to y."""
        if self._kept is None:
            raise RuntimeError("forward must be called before backward")
        dx, grads = self._backward(dy, *self._kept)
        return dx.copy(), grads  # layers that act as the identity return dy itself

    def predict(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Return the output for ``x (B, I)`` or ``(I,)``, in ``out`` if given."""
        y = self._forward(np.array(x, dtype=self.dtype))[0]
        if out is None:
            return y
        out[...] = y
        return out

    __call__ = predict

    def vjp(
        self, x: npt.ArrayLike, dy: npt.ArrayLike, training: bool = False
    ) -> tuple[Array, Array, Array]:
        """Return ``(y, dx, grads)``: forward and backward in one call."""
        y, tape = self._forward_in(training, np.array(x, dtype=self.dtype))
        return y, *self._backward(np.array(dy, dtype=self.dtype), y.shape, tape)

    def value_and_grad(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        sample_weight: npt.ArrayLike | None = None,
        *,
        training: bool = False,
        mask: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss and its gradient with respect to ``params``."""
        pred, tape = self._forward_in(training, np.asarray(x, dtype=self.dtype))
        value, dy = loss.value_and_grad(pred, y, sample_weight, mask)
        return value, self._backward(dy, pred.shape, tape)[1]

    def train_step(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        optimizer: Optimizer,
        sample_weight: npt.ArrayLike | None = None,
        *,
        mask: npt.ArrayLike | None = None,
    ) -> float:
        """Take one optimiser step in training mode; return the loss before the step.

        Raises FloatingPointError, and changes nothing, if the loss or its gradient is
        not finite.
        """
        loss, y = loss.without(y, mask)
        draw = (self._order_seed, _STEP_EPOCH, optimizer.step_count)
        return self._step(x, y, loss, optimizer, sample_weight, draw)

    def _step(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        optimizer: Optimizer,
        sample_weight: npt.ArrayLike | None,
        draw: tuple[int, int, int],
    ) -> float:
        rows, step = np.asarray(x, dtype=self.dtype), optimizer.step_count
        pred, tape, run = self._forward(rows, draw, step)
        value, dy = loss.value_and_grad(pred, y, sample_weight)
        grads = self._backward(dy, pred.shape, tape)[1]
        if not (math.isfinite(value) and np.isfinite(grads).all()):
            raise FloatingPointError(
                f"training diverged at step {optimizer.step_count + 1}: the loss "
                f"({value}) or its gradient is not finite"
            )
        optimizer._step([self.params], [grads], [self._parts()])
        self._take_statistics(run)
        return value

    def _parts(self) -> list[tuple[slice, bool]]:
        """Return slices of `params`, each with a flag: whether it is a weight."""
        parts, at = [], 0
        for view in self.named_parameters().values():
            parts.append((slice(at, at + view.size), view.ndim == 2))
            at += view.size
        return parts

    def adapt(self, x: npt.ArrayLike, y: npt.ArrayLike | None = None) -> None:
        """Learn statistics; those of inverse `Standardise` layers from y.

        The others learn them from their inputs, in the order of the layers.
        """
        run = Pass(self._named, self._running, learns=True)
        forward_nodes(self._nodes, np.asarray(x, dtype=self.dtype), run)
        last = self._nodes[-1]
        if isinstance(last, StandardiseNode) and last.layer.inverse:
            last.learn(np.asarray(y).reshape(len(np.asarray(x)), -1), run)

    def polyak_(self, other: MLP, tau: float) -> Self:
        """``params += tau (other.params - params)`` in place; the same for buffers."""
        if other.n_params != self.n_params or not 0 <= tau <= 1:
            raise ValueError(
                f"other must have {self.n_params} parameters and tau must be in [0, "
                f"1], got {other.n_params} parameters and tau={tau}"
            )
        interpolate(self.params, other.params, tau)
        interpolate(self.buffers, other.buffers, tau)
        return self

    def evaluate(
        self,
        x: npt.ArrayLike,
        y: Any,
        loss: Loss,
        sample_weight: npt.ArrayLike | None = None,
        *,
        mask: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss in inference mode, without a step."""
        return loss(self.predict(x), y, sample_weight, mask)

    def fit(
        self,
        x: npt.ArrayLike,
        y: Any = None,
        *,
        loss: Loss,
        optimizer: Optimizer,
        epochs: int,
        batch_size: int | None = None,
        shuffle: bool = True,
        sample_weight: npt.ArrayLike | None = None,
        validation_data: tuple[npt.ArrayLike, ...] | None = None,
        seed: int | np.random.Generator | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> History:
        """Train on mini-batches without replacement; the last one may be smaller.

        An epoch's loss is the mean of its batches' losses, weighted by their numbers of
        rows (or sums of sample weights); for ``reduction="sum"``, it is the sum of
        these losses. If a ``seed`` is given, sample orders and dropout masks are those
        of this seed from epoch 0 on; otherwise they continue the sequence of the
        model's own seed.
        """
        if y is None or batch_size is None:
            raise TypeError("y and batch_size are required")
        x = np.asarray(x)
        loss, y = loss.without(y, mask)
        targets = [np.asarray(a) for a in (y if loss.action else [y])]
        # Check the labels of all batches before the first step.
        loss.check_labels_of(targets[0], self.n_out)
        weights = None if sample_weight is None else np.asarray(sample_weight)
        key, first = self._order_seed, self._epochs_done
        if isinstance(seed, np.random.Generator):
            key, first = int(seed.integers(2**63)), 0
        elif seed is not None:
            key, first = int(seed), 0

        self.history = history = History()
        order = np.arange(len(x))
        for epoch in range(first, first + epochs):
            if shuffle:
                _shuffle(order, key, epoch)
            values, shares = [], []
            for step, start in enumerate(range(0, len(x), batch_size)):
                rows = order[start : start + batch_size]
                weight = None if weights is None else weights[rows]
                draw = (key, epoch, step)
                parts = [target[rows] for target in targets]
                batch = tuple(parts) if loss.action else parts[0]
                values.append(self._step(x[rows], batch, loss, optimizer, weight, draw))
                each = np.ones(len(rows)) if weight is None else weight
                shares.append(loss.row_weights(each, batch).sum())
            if seed is None:
                self._epochs_done += 1
            total = np.sum(values)
            if loss.reduction == "mean":
                total = np.average(values, weights=shares) if any(shares) else 0.0
            history.loss.append(float(total))
            if validation_data is not None:
                x_val, y_val, *w_val = validation_data
                history.val_loss.append(self.evaluate(x_val, y_val, loss, *w_val))
        return history
