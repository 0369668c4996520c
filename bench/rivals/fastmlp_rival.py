"""fastmlp itself."""

from __future__ import annotations

import fastmlp as fm
import numpy as np

from .base import BFLOAT16_LOSSES, BFLOAT16_OUTPUTS, Rival
from .tasks import FIT_EPOCHS, Task, Workload


def layers(workload: Workload) -> list[int | fm.Layer]:
    """Return the network as `fastmlp.MLP` takes it."""
    result: list[int | fm.Layer] = [workload.widths[0]]
    for group in workload.groups:
        body: list[int | fm.Layer] = []
        for layer in group:
            body.append(workload.widths[layer + 1])
            if workload.norm == "layer_norm":
                body.append(fm.LayerNorm())
            if workload.norm == "batch_norm":
                body.append(fm.BatchNorm())
            if "dropout" in workload.blocks:
                body.append(fm.Dropout(workload.rate))
        result += [fm.Residual(body)] if len(group) > 1 else body
    return [*result, workload.widths[-1]]


class FastmlpRival(Rival):
    """``mlp.train_step(x, y, loss, opt)``, ``mlp(x, out=p)``, ``mlp.fit(...)``."""

    compute_dtype: str | None = None

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        if threads is not None:
            fm.set_num_threads(threads)
        workload = task.workload
        self.mlp = fm.MLP(
            layers(workload),
            activation=workload.activation,
            dtype=workload.dtype,
            compute_dtype=self.compute_dtype,
        )
        self.buffers = self.mlp.buffers.copy()
        self.loss = fm.MSE() if workload.loss == "mse" else fm.CrossEntropy()
        self.out = np.empty((task.rows, workload.widths[-1]), workload.dtype)
        self.reset()

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"fastmlp": fm.__version__, "isa": fm.isa()}

    def reset(self) -> None:
        """Restore the initial parameters and reset the optimiser."""
        arrays = [array.ravel() for layer in self.task.params for array in layer]
        self.mlp.params[:] = np.concatenate(arrays)
        self.mlp.buffers[:] = self.buffers
        make = {"adam": fm.Adam, "sgd": fm.SGD}[self.task.workload.optimizer]
        self.optimizer = make(lr=self.task.workload.lr)

    def train_step(self) -> float:
        """Take one step."""
        return self.mlp.train_step(self.task.x, self.task.y, self.loss, self.optimizer)

    def fit(self) -> float:
        """Train for a fixed number of epochs."""
        history = self.mlp.fit(
            self.task.x,
            self.task.y,
            loss=self.loss,
            optimizer=self.optimizer,
            epochs=FIT_EPOCHS,
            batch_size=self.task.workload.batch,
            progress=False,
            seed=0,
        )
        return history.loss[-1]

    def infer(self) -> np.ndarray:
        """Return the network's output."""
        return self.mlp(self.task.x, out=self.out)


class FastmlpBfloat16Rival(FastmlpRival):
    """Products with operands in bfloat16."""

    loss_tolerance, output_tolerance = BFLOAT16_LOSSES, BFLOAT16_OUTPUTS
    compute_dtype = "bfloat16"
