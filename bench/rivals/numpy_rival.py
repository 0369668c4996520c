"""Plain NumPy: a rival for inference and, in float64, the judge of all rivals."""

from __future__ import annotations

import numpy as np

from .base import Rival
from .tasks import Task


class NumpyRival(Rival):
    """What one writes by hand: matrix products, the rest in place."""

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


class Judge:
    """Trains in float64 by the textbook formulas, independently of every rival.

    Adam is Kingma & Ba (2015), algorithm 1.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.params = [
            array.astype(np.float64) for layer in task.params for array in layer
        ]
        self.first = [np.zeros_like(param) for param in self.params]
        self.second = [np.zeros_like(param) for param in self.params]
        self.steps = 0

    def activations(self) -> list[np.ndarray]:
        """Return inputs, hidden outputs, and the network's output."""
        hs = [self.task.x.astype(np.float64)]
        n_layers = len(self.params) // 2
        for layer in range(n_layers):
            z = hs[-1] @ self.params[2 * layer] + self.params[2 * layer + 1]
            if layer == n_layers - 1:
                hs.append(z)
            elif self.task.workload.activation == "tanh":
                hs.append(np.tanh(z))
            else:
                hs.append(np.maximum(z, 0.0))
        return hs

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
        """One step; returns the loss before it."""
        hs = self.activations()
        loss, slope = self.loss_and_slope(hs[-1])
        gradients: list[np.ndarray] = []
        for layer in reversed(range(len(self.params) // 2)):
            if layer < len(self.params) // 2 - 1:
                h = hs[layer + 1]
                tanh = self.task.workload.activation == "tanh"
                slope = slope * (1.0 - h * h if tanh else h > 0.0)
            gradients = [hs[layer].T @ slope, slope.sum(axis=0), *gradients]
            slope = slope @ self.params[2 * layer].T
        self.update(gradients)
        return loss

    def update(self, gradients: list[np.ndarray]) -> None:
        """Apply the optimiser."""
        self.steps += 1
        lr = self.task.workload.lr
        for param, m, v, g in zip(
            self.params, self.first, self.second, gradients, strict=True
        ):
            if self.task.workload.optimizer == "sgd":
                param -= lr * g
                continue
            m += (1.0 - 0.9) * (g - m)
            v += (1.0 - 0.999) * (g * g - v)
            m_hat, v_hat = m / (1.0 - 0.9**self.steps), v / (1.0 - 0.999**self.steps)
            param -= lr * m_hat / (np.sqrt(v_hat) + 1e-8)
