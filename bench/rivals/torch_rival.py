"""PyTorch: eager with the fused optimisers, and torch.compile."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import BFLOAT16_LOSSES, BFLOAT16_OUTPUTS, Rival
from .tasks import FIT_EPOCHS, Task


class Residual(torch.nn.Module):
    """A network with a residual connection."""

    def __init__(self, body: torch.nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of both."""
        return x + self.body(x)


class TorchRival(Rival):
    """``zero_grad``, forward, ``backward``, ``step``; the loss is never read back."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        if threads is not None:
            torch.set_num_threads(threads)
        layers: list[torch.nn.Module] = []
        for group in task.workload.groups:
            body = [module for layer in group for module in self.hidden(layer)]
            if len(group) > 1:
                body = [Residual(torch.nn.Sequential(*body))]
            layers += body
        layers.append(torch.nn.Linear(*task.params[-1][0].shape))
        self.x = torch.from_numpy(task.x)
        self.model = torch.nn.Sequential(*layers).to(self.x.dtype)
        self.y = torch.from_numpy(task.y)
        self.loss = F.mse_loss if task.workload.loss == "mse" else F.cross_entropy
        self.reset()

    def activation(self) -> torch.nn.Module:
        """Return a layer with the activation of the hidden units."""
        if self.task.workload.activation == "tanh":
            return torch.nn.Tanh()
        return torch.nn.ReLU()

    def hidden(self, layer: int) -> list[torch.nn.Module]:
        """Return a hidden layer with its activation, norm and dropout."""
        workload = self.task.workload
        weight = self.task.params[layer][0]
        modules = [torch.nn.Linear(*weight.shape), self.activation()]
        if workload.norm == "layer_norm":
            modules.append(torch.nn.LayerNorm(weight.shape[1]))
        if workload.norm == "batch_norm":
            modules.append(torch.nn.BatchNorm1d(weight.shape[1]))
        if "dropout" in workload.blocks:
            modules.append(torch.nn.Dropout(workload.rate))
        return modules

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"torch": torch.__version__}

    @torch.no_grad()
    def reset(self) -> None:
        """Restore the initial parameters and reset the optimiser."""
        # In the order of the layers, as in the task; only weights have two axes.
        params = self.model.parameters()
        arrays = [array for layer in self.task.params for array in layer]
        for param, array in zip(params, arrays, strict=True):
            param.copy_(torch.from_numpy(array.T))
        for module in self.model.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.reset_running_stats()
        workload = self.task.workload
        make = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}[workload.optimizer]
        self.optimizer = make(self.model.parameters(), lr=workload.lr, fused=True)

    def train_step(self) -> torch.Tensor:
        """Take one step."""
        self.optimizer.zero_grad()
        loss = self.batch_loss()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def batch_loss(self) -> torch.Tensor:
        """Return the loss of the batch."""
        return self.loss(self.model(self.x), self.y)

    def fit(self) -> float:
        """Train for a fixed number of epochs in a hand-written loop."""
        rows, batch = self.task.rows, self.task.workload.batch
        for _ in range(FIT_EPOCHS):
            total = torch.zeros((), dtype=self.x.dtype)
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
    """Like `TorchRival`, with the model compiled; needs a C++ compiler."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        torch.compiler.reset()  # the default limit is reached after a few networks
        self.compiled = torch.compile(self.model)

    def batch_loss(self) -> torch.Tensor:
        """Return the loss of the batch."""
        return self.loss(self.compiled(self.x), self.y)

    @torch.inference_mode()
    def infer(self) -> torch.Tensor:
        """Return the network's output."""
        return self.compiled(self.x)


class TorchAutocastRival(TorchRival):
    """Forward in ``torch.autocast`` with bfloat16."""

    loss_tolerance, output_tolerance = BFLOAT16_LOSSES, BFLOAT16_OUTPUTS

    def batch_loss(self) -> torch.Tensor:
        """Return the loss of the batch."""
        with torch.autocast("cpu", torch.bfloat16):
            return super().batch_loss()

    @torch.inference_mode()
    def infer(self) -> torch.Tensor:
        """Return the network's output."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(self.x).float()
