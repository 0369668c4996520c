"""What a rival has to offer."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np

from .tasks import Task


class Rival(abc.ABC):
    """A library set up for one task: the network with its first parameters.

    Data are converted to what the library likes best before anything is timed; what is
    timed are the calls that a user of the library would write. Without a number of
    threads the library keeps its own.
    """

    # Largest relative deviation of the loss from the float64 judge's, step by step:
    # float32 rounding is about 1e-6, a wrong formula far more than 1e-4.
    loss_tolerance: ClassVar[float] = 1e-4
    # Largest deviation of an output, relative to the largest output.
    output_tolerance: ClassVar[float] = 1e-4

    def __init__(self, task: Task, threads: int | None) -> None:
        self.task = task
        self.threads = threads

    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """Versions and settings that are worth printing."""

    @abc.abstractmethod
    def infer(self) -> Any:
        """Return the network's output for the task's inputs, as the library has it."""

    def reset(self) -> None:
        """Go back to the first parameters and a fresh optimiser."""
        raise NotImplementedError(f"{type(self).__name__} does not train")

    def train_step(self) -> Any:
        """One optimiser step on the task's batch; returns the loss before it."""
        raise NotImplementedError(f"{type(self).__name__} does not train")

    def fit(self) -> float:
        """`FIT_EPOCHS` epochs from `reset` on, in shuffled batches of the workload's.

        Returns the mean loss over the last epoch.
        """
        raise NotImplementedError(f"{type(self).__name__} has no fit")

    def wait(self, result: Any) -> None:
        """Wait until a result of `train_step` or `infer` is there."""
        del result  # most libraries return when they are done

    def output(self) -> np.ndarray:
        """Return the result of `infer` as an array (rows, out) of logits or values."""
        n_out = self.task.workload.widths[-1]
        return np.asarray(self.infer()).reshape(self.task.rows, n_out)
