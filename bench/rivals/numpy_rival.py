"""Plain NumPy: a rival for inference and, in float64, the judge of all rivals."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np

from .base import Rival
from .tasks import Task

EPS = 1e-5  # eps of norms

Gradients = list[list[np.ndarray]]  # each layer's parameters


class NumpyRival(Rival):
    """A hand-written network: matrix products, everything else in place."""

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"numpy": np.__version__}

    def infer(self) -> np.ndarray:
        """Return the network's output."""
        h: np.ndarray = self.task.x
        *hidden, last = self.task.params
        for weight, bias in hidden:
            h = h @ weight
            h += bias
            if self.task.workload.activation == "tanh":
                np.tanh(h, out=h)
            else:
                np.maximum(h, 0.0, out=h)
        h = h @ last[0]
        h += last[1]
        return h


# Maps the gradient of the output to the gradient of the input and the gradients of the
# layer's parameters.
Backward = Callable[[np.ndarray], tuple[np.ndarray, list[np.ndarray]]]


def normalize(
    x: np.ndarray, axis: int, scale: np.ndarray, shift: np.ndarray
) -> tuple[np.ndarray, Backward]:
    """Return batch norm (axis 0) or layer norm (axis 1) of x, and its derivative."""
    centred = x - x.mean(axis=axis, keepdims=True)
    deviation = np.sqrt((centred**2).mean(axis=axis, keepdims=True) + EPS)
    normal = centred / deviation

    def backward(slope: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        gradients = [(slope * normal).sum(axis=0), slope.sum(axis=0)]
        slope = slope * scale
        mean = slope.mean(axis=axis, keepdims=True)
        along = (slope * normal).mean(axis=axis, keepdims=True)
        return (slope - mean - normal * along) / deviation, gradients

    return normal * scale + shift, backward


class Judge:
    """Trains in float64 by the textbook formulas, independently of every rival.

    Adam is Kingma & Ba (2015), algorithm 1; batch norm Ioffe & Szegedy (2015), layer
    norm Ba et al. (2016), residual blocks He et al. (2016). Dropout is ignored.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.params = [
            [array.astype(np.float64) for array in layer] for layer in task.params
        ]
        self.first = [[np.zeros_like(array) for array in p] for p in self.params]
        self.second = [[np.zeros_like(array) for array in p] for p in self.params]
        self.steps = 0

    def dense(self, layer: int, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Return a dense layer's output without activation, and its derivative."""
        weight, bias = self.params[layer][:2]

        def backward(slope: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
            return slope @ weight.T, [x.T @ slope, slope.sum(axis=0)]

        return x @ weight + bias, backward

    def hidden(self, layer: int, x: np.ndarray) -> tuple[np.ndarray, Backward]:
        """Return a hidden layer's output, after a norm if it has one."""
        z, through_dense = self.dense(layer, x)
        tanh = self.task.workload.activation == "tanh"
        h = np.tanh(z) if tanh else np.maximum(z, 0.0)
        output, through_norm = h, None
        if self.task.workload.norm is not None:
            axis = 0 if self.task.workload.norm == "batch_norm" else 1
            output, through_norm = normalize(h, axis, *self.params[layer][2:])

        def backward(slope: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
            affine: list[np.ndarray] = []
            if through_norm is not None:
                slope, affine = through_norm(slope)
            slope = slope * (1.0 - h * h if tanh else h > 0.0)
            slope, gradients = through_dense(slope)
            return slope, gradients + affine

        return output, backward

    def output(self) -> np.ndarray:
        """Return the network's output."""
        return self.forward()[0]

    def forward(self) -> tuple[np.ndarray, Callable[[np.ndarray], Gradients]]:
        """Return the output, and a function from its gradient to all gradients."""
        h = self.task.x.astype(np.float64)
        groups = self.task.workload.groups
        back: dict[int, Backward] = {}
        for group in groups:
            block_input = h
            for layer in group:
                h, back[layer] = self.hidden(layer, h)
            if len(group) > 1:
                h = block_input + h
        last = len(self.params) - 1
        output, back[last] = self.dense(last, h)

        def backward(slope: np.ndarray) -> Gradients:
            gradients: Gradients = [[] for _ in self.params]
            slope, gradients[last] = back[last](slope)
            for group in reversed(groups):
                around = slope
                for layer in reversed(group):
                    slope, gradients[layer] = back[layer](slope)
                if len(group) > 1:
                    slope = slope + around
            return gradients

        return output, backward

    def loss_and_slope(self, output: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its derivative with respect to the output."""
        y = self.task.y
        if self.task.workload.loss == "mse":
            residual = output - y
            return float(np.mean(residual**2)), 2.0 * residual / residual.size
        rows = np.arange(len(y))
        shifted = output - output.max(axis=1, keepdims=True)
        log_softmax = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        slope = np.exp(log_softmax)
        slope[rows, y] -= 1.0
        return float(-np.mean(log_softmax[rows, y])), slope / len(y)

    def train_step(self) -> float:
        """Take one step; return the loss before it."""
        output, backward = self.forward()
        loss, slope = self.loss_and_slope(output)
        self.update(backward(slope))
        return loss

    def update(self, gradients: Gradients) -> None:
        """Apply the optimiser."""
        self.steps += 1
        lr = self.task.workload.lr
        slots = (self.params, self.first, self.second, gradients)
        for param, m, v, g in zip(
            *map(itertools.chain.from_iterable, slots), strict=True
        ):
            if self.task.workload.optimizer == "sgd":
                param -= lr * g
                continue
            m += (1.0 - 0.9) * (g - m)
            v += (1.0 - 0.999) * (g * g - v)
            m_hat, v_hat = m / (1.0 - 0.9**self.steps), v / (1.0 - 0.999**self.steps)
            param -= lr * m_hat / (np.sqrt(v_hat) + 1e-8)
