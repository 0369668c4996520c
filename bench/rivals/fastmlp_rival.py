"""fastmlp itself."""

from __future__ import annotations

import fastmlp as fm
import numpy as np

from .base import Rival
from .tasks import FIT_EPOCHS, Task


class FastmlpRival(Rival):
    """``mlp.train_step(x, y, loss, opt)``, ``mlp(x, out=p)``, ``mlp.fit(...)``."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        if threads is not None:
            fm.set_num_threads(threads)
        workload = task.workload
        self.mlp = fm.MLP(list(workload.widths), activation=workload.activation)
        self.loss = fm.MSE() if workload.loss == "mse" else fm.CrossEntropy()
        self.out = np.empty((task.rows, workload.widths[-1]), np.float32)
        self.reset()

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"fastmlp": fm.__version__, "isa": fm.isa()}

    def reset(self) -> None:
        """Go back to the first parameters and a fresh optimiser."""
        arrays = [array.ravel() for layer in self.task.params for array in layer]
        self.mlp.params[:] = np.concatenate(arrays)
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
