"""Tasks: networks, batches, data and initial parameters."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

SEED = 0
FIT_EPOCHS = 10  # epochs of one call of `fit`


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and how it is trained."""

    name: str
    widths: tuple[int, ...]
    activation: str  # hidden layers: "tanh" or "relu"
    loss: str  # "mse" or "cross_entropy"
    optimizer: str  # "adam" or "sgd"
    lr: float
    batch: int
    # Further layers per hidden layer: "layer_norm" or "batch_norm" after the
    # activation, then "dropout"; "residual" puts pairs of hidden layers, starting with
    # the second, into residual blocks. For training only.
    blocks: tuple[str, ...] = ()
    rate: float = 0.0  # dropout rate
    dtype: str = "float32"  # of data and parameters, or "float64"

    @property
    def norm(self) -> str | None:
        """Normalisation of the hidden layers, or None."""
        found = [block for block in self.blocks if block.endswith("_norm")]
        return found[0] if found else None

    @property
    def groups(self) -> list[list[int]]:
        """Numbers of the hidden layers; those of a residual block are in one list."""
        hidden = list(range(len(self.widths) - 2))
        if "residual" not in self.blocks:
            return [[layer] for layer in hidden]
        return [hidden[:1], *(hidden[i : i + 2] for i in range(1, len(hidden), 2))]

    @property
    def description(self) -> str:
        """For example ``4-64-64-2 tanh, mse, adam``."""
        widths = "-".join(map(str, self.widths))
        parts = [f"{widths} {self.activation}", *self.blocks, self.loss, self.optimizer]
        return ", ".join(parts)


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("rl-tiny", (4, 64, 64, 2), "tanh", "mse", "adam", 1e-3, 64),
        Workload("sk-default", (20, 100, 1), "relu", "mse", "adam", 1e-3, 200),
        Workload("sac", (17, 256, 256, 6), "relu", "mse", "adam", 1e-3, 256),
        Workload(
            "mnist1d-fb", (40, 100, 100, 10), "relu", "cross_entropy", "sgd", 0.1, 4000
        ),
        Workload(
            "mnist", (784, 512, 512, 10), "tanh", "cross_entropy", "adam", 1e-3, 128
        ),
        Workload(
            "wide",
            (1024, 1024, 1024, 1024, 10),
            "relu",
            "cross_entropy",
            "adam",
            1e-4,
            512,
        ),
    )
}
INFERENCE_WORKLOADS = ("rl-tiny", "sac", "mnist")
INFERENCE_ROWS = (1, 4096)


def square_workload(
    n_in: int, width: int, n_out: int, batch: int, dtype: str = "float32"
) -> Workload:
    """Return a network n_in-width-width-n_out: ReLU, mean squared error, Adam.

    The learning rate falls with the width, so that the loss falls by a few percent per
    step at any width: enough to verify it while float32 stays near float64.
    """
    lr = 8e-3 / width
    widths = (n_in, width, width, n_out)
    name = f"{width} x{batch}"
    return Workload(name, widths, "relu", "mse", "adam", lr, batch, dtype=dtype)


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to time: a training step, a call of inference, or a whole `fit`."""

    workload: Workload
    mode: str  # "train", "infer" or "fit"
    rows: int  # rows of one call: a batch, or for fit all data

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Task:
        """Undo `dataclasses.asdict`."""
        workload = dict(fields["workload"])
        for name in ("widths", "blocks"):
            workload[name] = tuple(workload[name])
        return cls(Workload(**workload), fields["mode"], fields["rows"])

    @property
    def without_dropout(self) -> Task:
        """The task with a dropout rate of 0, whose result is deterministic."""
        return dataclasses.replace(
            self, workload=dataclasses.replace(self.workload, rate=0.0)
        )

    @property
    def label(self) -> str:
        """For example ``mnist`` (one training step) or ``mnist x1``."""
        if self.mode == "infer":
            return f"{self.workload.name} x{self.rows}"
        return self.workload.name

    @property
    def flops(self) -> int:
        """Operations of the matrix products, 2 per multiply-add.

        Training: forward, weight gradients, and input gradients of all layers but the
        first, 2 * B * I * O each; a fit does so in every epoch.
        """
        widths = self.workload.widths
        products = [2 * self.rows * i * o for i, o in itertools.pairwise(widths)]
        if self.mode == "infer":
            return sum(products)
        epochs = FIT_EPOCHS if self.mode == "fit" else 1
        return epochs * (3 * sum(products) - products[0])

    @functools.cached_property
    def params(self) -> list[tuple[np.ndarray, ...]]:
        """Initial weights (in, out) and biases (out,), the same for every rival.

        Biases are not zero, so that a rival that ignores them is detected. Hidden
        layers with a normalisation also have its scale and shift (out,).
        """
        rng = np.random.default_rng([SEED, 0])
        gain = 2.0 if self.workload.activation == "relu" else 1.0
        widths, dtype = self.workload.widths, self.workload.dtype
        params: list[tuple[np.ndarray, ...]] = [
            (
                rng.normal(0.0, (gain / i) ** 0.5, (i, o)).astype(dtype),
                rng.normal(0.0, 0.1, o).astype(dtype),
            )
            for i, o in itertools.pairwise(widths)
        ]
        if self.workload.norm is not None:
            for layer, o in enumerate(widths[1:-1]):
                scale = rng.normal(1.0, 0.1, o).astype(dtype)
                shift = rng.normal(0.0, 0.1, o).astype(dtype)
                params[layer] += (scale, shift)
        return params

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Inputs (rows, in)."""
        rng = np.random.default_rng([SEED, 1])
        shape = (self.rows, self.workload.widths[0])
        return rng.normal(size=shape).astype(self.workload.dtype)

    @functools.cached_property
    def y(self) -> np.ndarray:
        """Targets (rows, out), or class labels (rows,) for cross-entropy."""
        rng = np.random.default_rng([SEED, 2])
        n_out = self.workload.widths[-1]
        if self.workload.loss == "cross_entropy":
            return rng.integers(0, n_out, self.rows)
        return rng.normal(size=(self.rows, n_out)).astype(self.workload.dtype)


def all_tasks(names: list[str], modes: list[str], dtype: str) -> list[Task]:
    """Return the tasks of the named workloads, training first."""
    workloads = [dataclasses.replace(WORKLOADS[name], dtype=dtype) for name in names]
    tasks = []
    if "train" in modes:
        for workload in workloads:
            tasks.append(Task(workload, "train", workload.batch))
    if "infer" in modes:
        tasks += [
            Task(workload, "infer", rows)
            for rows in INFERENCE_ROWS
            for workload in workloads
            if workload.name in INFERENCE_WORKLOADS
        ]
    return tasks
