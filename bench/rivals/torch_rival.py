"""PyTorch: eager with the fused optimisers, and torch.compile."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Rival
from .tasks import FIT_EPOCHS, Task


class TorchRival(Rival):
    """``zero_grad``, forward, ``backward``, ``step``; the loss is never read back."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        if threads is not None:
            torch.set_num_threads(threads)
        layers: list[torch.nn.Module] = []
        for weight, _ in task.params:
            layers += [torch.nn.Linear(*weight.shape), self.activation()]
        self.model = torch.nn.Sequential(*layers[:-1])
        self.x = torch.from_numpy(task.x)
        self.y = torch.from_numpy(task.y)
        self.loss = F.mse_loss if task.workload.loss == "mse" else F.cross_entropy
        self.reset()

    def activation(self) -> torch.nn.Module:
        """Return a layer with the activation of the hidden units."""
        if self.task.workload.activation == "tanh":
            return torch.nn.Tanh()
        return torch.nn.ReLU()

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"torch": torch.__version__}

    @torch.no_grad()
    def reset(self) -> None:
        """Go back to the first parameters and a fresh optimiser."""
        linear = [m for m in self.model if isinstance(m, torch.nn.Linear)]
        for layer, (weight, bias) in zip(linear, self.task.params, strict=True):
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
        workload = self.task.workload
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[workload.optimizer]
        self.optimizer = make(self.model.parameters(), lr=workload.lr, fused=True)

    def train_step(self) -> torch.Tensor:
        """Take one step."""
        self.optimizer.zero_grad()
        loss = self.loss(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def fit(self) -> float:
        """Train for a fixed number of epochs, as one writes the loop by hand."""
        rows, batch = self.task.rows, self.task.workload.batch
        for _ in range(FIT_EPOCHS):
            total = torch.zeros(())
            order = torch.randperm(rows)
            for start in range(0, rows, batch):
                picked = order[start : start + batch]
                self.optimizer.zero_grad()
                loss = self.loss(self.model(self.x[picked]), self.y[picked])
                loss.backward()
                self.optimizer.step()
                total += loss.detach() * len(picked)
        return float(total) / rows

    @torch.inference_mode()
    def infer(self) -> torch.Tensor:
        """Return the network's output."""
        return self.model(self.x)


class TorchCompileRival(TorchRival):
    """As `TorchRival`, with the model compiled; needs a C++ compiler."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        torch.compiler.reset()  # or it gives up after a few networks
        self.compiled = torch.compile(self.model)

    def train_step(self) -> torch.Tensor:
        """Take one step."""
        self.optimizer.zero_grad()
        loss = self.loss(self.compiled(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    @torch.inference_mode()
    def infer(self) -> torch.Tensor:
        """Return the network's output."""
        return self.compiled(self.x)
