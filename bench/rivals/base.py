"""The interface of a rival."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import numpy as np

from .tasks import Task

# For rivals whose products have operands in bfloat16, which rounds by up to 2^-9: of
# losses, which average over rows, and of single outputs.
BFLOAT16_LOSSES = {"float32": 5e-3}
BFLOAT16_OUTPUTS = {"float32": 5e-2}


class Rival(abc.ABC):
    """A library set up for one task: the network with its initial parameters.

    Data are converted to the library's preferred form before timing; the timed calls
    are those that a user of the library would write. Without a number of threads the
    library uses its default.
    """

    # Largest relative deviation of the loss from the float64 judge's, step by step, by
    # dtype: float32 rounding is about 1e-6, a wrong formula far more than 1e-4. In
    # float64, rounding is about 1e-15, and a rival that computes in float32 is refused.
    loss_tolerance: ClassVar[dict[str, float]] = {"float32": 1e-4, "float64": 1e-9}
    # Largest deviation of an output, relative to the largest output.
    output_tolerance: ClassVar[dict[str, float]] = {"float32": 1e-4, "float64": 1e-9}

    def __init__(self, task: Task, threads: int | None) -> None:
        self.task = task
        self.threads = threads

    @abc.abstractmethod
    def versions(self) -> dict[str, str]:
        """Return versions and settings to print."""

    @abc.abstractmethod
    def infer(self) -> Any:
        """Return the network's output for the task's inputs, in the library's type."""

    def reset(self) -> None:
        """Restore the initial parameters and reset the optimiser."""
        raise NotImplementedError(f"{type(self).__name__} does not train")

    def train_step(self) -> Any:
        """Take one optimiser step on the task's batch; return the loss before it."""
        raise NotImplementedError(f"{type(self).__name__} does not train")

    def fit(self) -> float:
        """Train for `FIT_EPOCHS` epochs after `reset`, in shuffled batches.

        Return the mean loss over the last epoch.
        """
        raise NotImplementedError(f"{type(self).__name__} has no fit")

    def wait(self, result: Any) -> None:
        """Wait until a result of `train_step` or `infer` is available."""
        del result  # most libraries return when the result is complete

    def output(self) -> np.ndarray:
        """Return the result of `infer` as an array (rows, out) of logits or values."""
        n_out = self.task.workload.widths[-1]
        return np.asarray(self.infer()).reshape(self.task.rows, n_out)
