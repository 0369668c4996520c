"""A draw, its results, and their tolerances."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

Target: TypeAlias = np.ndarray | tuple[np.ndarray, np.ndarray]

STEPS = 50
# Random-number epochs of steps and of other passes outside `fit`.
STEP_EPOCH, PASS_EPOCH = 0xFFFFFFFF, 0xFFFFFFFE

# Quantities compared after training.
TRAINED = f"parameters after {STEPS} steps"
AVERAGES = f"averages after {STEPS} steps"
STATISTICS = f"statistics after {STEPS} steps"
INFERENCE = f"inference after {STEPS} steps"

# Tolerances promised by the project: relative in norm, per tensor.
GRADIENT_TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
PARAMETER_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a number whose logarithm is uniform."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: `kind` is its name in fastmlp; other kinds' fields are unused."""

    kind: str
    width: int  # of the output
    activation: str = "identity"
    bias: bool = True
    p: float = 0.0
    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True
    body: tuple[Layer, ...] = ()


@dataclasses.dataclass(frozen=True)
class Spec:
    """One draw without its data, which follow from the first three fields.

    `action`: whether the loss is an `ActionValue`. `rows` has one entry per batch.
    `flat_target`: whether single-column targets are 1-D. `schedule`: name and options
    of a learning rate schedule, if any.
    """

    seed: int
    draw: int
    attempt: int
    dtype: str
    n_in: int
    layers: tuple[Layer, ...]
    loss: str
    target: str
    action: bool
    loss_options: dict[str, Any]
    rows: tuple[int, ...]
    weighted: bool
    flat_target: bool
    optimizer: str
    optimizer_options: dict[str, Any]
    schedule: tuple[str, dict[str, Any]] | None

    @property
    def generator(self) -> np.random.Generator:
        """A new generator for the data of this draw and attempt."""
        return np.random.default_rng([self.seed, self.draw, self.attempt])

    @property
    def n_out(self) -> int:
        """Width of the output."""
        return self.layers[-1].width

    @property
    def n_target(self) -> int:
        """Columns of the target."""
        if self.action or self.target == "shared":
            return 1
        return self.n_out // 2 if self.loss == "GaussianNLL" else self.n_out

    @property
    def features(self) -> list[str]:
        """Categories to count, except the kinds of layers."""
        loss = (
            "ActionValue (actions)" if self.action else f"{self.loss} ({self.target})"
        )
        features = [self.dtype, self.optimizer, loss]
        own = ("label_smoothing", "class_weight", "pos_weight")
        features += [name for name in own if name in self.loss_options]
        shared = ("clip_norm", "clip_value", "l1", "ema")
        features += [name for name in shared if name in self.optimizer_options]
        if "decay" in self.optimizer_options:
            features.append("decay of weights")
        if self.schedule is not None:
            features.append(self.schedule[0])
        return features + ["weighted"] * self.weighted

    @property
    def leaves(self) -> list[tuple[str, int, Layer]]:
        """Path, input width and layer, except residual blocks, in parameter order.

        Projections of residual blocks are included.
        """
        return list(walk(self.layers, self.n_in))

    @property
    def kinds(self) -> set[str]:
        """Kinds of layers and names of activations that occur."""
        leaves = [layer for _, _, layer in self.leaves]
        nested = any(".body" in path for path, _, _ in self.leaves)
        found = {layer.kind for layer in leaves} | ({"Residual"} if nested else set())
        acting = [layer for layer in leaves if layer.kind in ("Dense", "Activation")]
        return found | {layer.activation for layer in acting}

    @property
    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the parameter tensors in their order."""
        tensors: dict[str, tuple[int, ...]] = {}
        for path, n_in, layer in self.leaves:
            if layer.kind == "Dense":
                tensors[f"{path}.weight"] = (n_in, layer.width)
                if layer.bias:
                    tensors[f"{path}.bias"] = (layer.width,)
            elif layer.kind in ("LayerNorm", "BatchNorm") and layer.affine:
                tensors[f"{path}.scale"] = tensors[f"{path}.shift"] = (layer.width,)
        return tensors

    @property
    def statistics(self) -> dict[str, int]:
        """Names and sizes of running statistics in their order."""
        statistics = {}
        for path, _, layer in self.leaves:
            if layer.kind == "BatchNorm":
                statistics[f"{path}.mean"] = statistics[f"{path}.var"] = layer.width
        return statistics

    @property
    def mask_seed(self) -> int:
        """The first random number of a model with the seed `draw`.

        It is the seed of the dropout masks if the weights are not drawn at random.
        """
        return int(np.random.default_rng(self.draw).integers(2**63))


def walk(
    layers: tuple[Layer, ...], n_in: int, prefix: str = ""
) -> Iterator[tuple[str, int, Layer]]:
    """Yield path, input width and layer; see `Spec.leaves`."""
    for i, layer in enumerate(layers):
        path = f"{prefix}{i}"
        if layer.kind == "Residual":
            yield from walk(layer.body, n_in, f"{path}.body.")
            if layer.width != n_in:
                yield f"{path}.projection", n_in, Layer("Dense", layer.width)
        else:
            yield path, n_in, layer
        n_in = layer.width


@dataclasses.dataclass(frozen=True)
class Batch:
    """One batch: inputs, targets, and sample weights or None."""

    x: np.ndarray
    y: Target
    weight: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A draw with its data: initial parameters, and batches to cycle through."""

    spec: Spec
    params: list[np.ndarray]
    batches: list[Batch]


@dataclasses.dataclass
class Result:
    """Results of one library; fields from `params` onwards are after training."""

    output: np.ndarray
    loss: np.ndarray
    gradients: list[np.ndarray]
    params: list[np.ndarray]
    averages: list[np.ndarray]
    statistics: list[np.ndarray]
    inference: np.ndarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One tensor compared; errors are relative to the norm of PyTorch's tensor."""

    kind: str
    name: str
    error: float  # fastmlp against PyTorch in the same dtype
    error_truth: float  # fastmlp against PyTorch in float64
    peer_error_truth: float  # PyTorch in the same dtype, or disturbed, against float64
    agrees: bool
    ill_conditioned: bool = False
