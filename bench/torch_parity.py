"""Compare randomly drawn networks with PyTorch autograd.

    python bench/torch_parity.py --draws 500 --seed 0

Every draw is a network (0 to 5 hidden dense layers, widths 1 to 130, any mixture of
activations, with and without biases; in three of four draws activations of their own,
dropouts, norms and nested residual blocks between them), a loss (any, mean or sum, with
and without sample weights), an optimiser with random options, a dtype, and three
batches of 1 to 300 rows. Compared are the output, the loss, the gradient of every
parameter tensor and of the input, all in training mode, every parameter tensor and
running statistic after 50 optimiser steps that cycle through the three batches, so that
gradients rise and fall as they do in training, and the output in inference mode after
them. PyTorch's dropout takes its masks from the recipe in `fastmlp.reference`.

**Measure.** A tensor `a` agrees with `b` if ``norm(a - b) <= tolerance * norm(b) +
floor``. The floor, the square of the rounding unit times the norm of all tensors of the
kind together, only forgives tensors that mean zero: what is left of the decayed bias of
a dead unit, say.

**Criterion.** fastmlp must agree with PyTorch in the dtype of the draw. A few draws are
ill-conditioned: a relu whose unit changes sides during training, or a difference of
nearly equal numbers, turns a rounding error into a large one in any implementation.
When a tensor misses its tolerance, the draw is therefore put on trial: PyTorch repeats
it in float64 on the same rounded data `TRIALS` times, with parameters disturbed by one
rounding unit of the dtype before every step, and the results of layers and their
gradients likewise. If fastmlp's distance from the undisturbed
float64 run is within `SLACK` times the largest distance of the disturbed ones (and of
PyTorch in float32), the draw counts as ill-conditioned, otherwise as failed. The run
fails, too, if more than `MAX_ILL_CONDITIONED` of the draws (but at least one may be)
are ill-conditioned.

**Well-posed draws.** Initial weights are scaled so that signals neither vanish nor
explode (exp layers get small weights), and learning rates are small. A draw is drawn
again if its pre-activations or residuals touch a kink (relu, leaky_relu, selu, mae)
within rounding distance (on either side of a kink the gradient is another one, and
neither answer is wrong), if PyTorch's own training diverges, as ascent does, or if one
disturbed run of PyTorch as above, by `CALM_UNITS` rounding units, moves a tensor by its
tolerance or more; in the last two cases with a lower learning rate. fastmlp has no say
in it. Normalised updates (Adagrad, RMSprop, Adam) turn rounding noise in a vanishing
gradient into a full step; half of those draws have an eps of 1e-5 to 1e-3, which also
tells the places of eps apart, the others PyTorch's default. Batch norm takes away the
mean of a column and its scale, so the gradient of a bias right before it, or before an
exponential before it, is rounding noise around 0, which such updates blow up; it is
drawn where no bias reaches it so. Norms of a few rows or columns leave little but
signs; networks with norms are no narrower than 4 before the last layer and batches for
batch norm no shorter than 16. (tests/test_reference_layers.py compares norms where a
draw may not have them.)
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import importlib
import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastmlp.reference import dropout_mask

STEPS = 50
MAX_WIDTH = 130
MAX_ROWS = 300
MAX_HIDDEN = 5

# Kinds of quantities that are compared after training.
TRAINED = f"parameters after {STEPS} steps"
STATISTICS = f"statistics after {STEPS} steps"
INFERENCE = f"inference after {STEPS} steps"

# Asked for by the project's acceptance: relative in norm, per tensor.
GRADIENT_TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
PARAMETER_TOLERANCE = {"float32": 1e-4, "float64": 1e-9}

# Two correct computations err independently, and a handful of trials does not find the
# worst case; a wrong formula errs by orders of magnitude more than rounding.
SLACK = 4.0
TRIALS = 16
MAX_ILL_CONDITIONED = 0.01
# Rounding units of the disturbed run that decides about drawing again: more than one,
# as a single run may be lucky, and not come across a kink.
CALM_UNITS = 4.0
# What learning rates are multiplied by, for the next attempt.
AFTER_DIVERGENCE, AFTER_DISTURBANCE = 0.1, 0.6

# A pre-activation closer to a kink than this many rounding units (of the layer's root
# mean square) may come out on the other side of it.
KINK_MARGIN = 8.0
KINKED_ACTIVATIONS = {"relu", "leaky_relu", "selu"}
MAX_ATTEMPTS = 30
MAX_GROWTH = 10.0  # of the loss and of the parameters' norm during training

ACTIVATIONS = {
    "identity": lambda z: z,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
    "exp": torch.exp,
    "softmax": lambda z: F.softmax(z, dim=-1),
}

# (class name, kind of target); cross-entropy takes labels or probabilities.
LOSSES = (
    ("MSE", "values"),
    ("MAE", "values"),
    ("Huber", "values"),
    ("PseudoHuber", "values"),
    ("CrossEntropy", "labels"),
    ("CrossEntropy", "probabilities"),
    ("BinaryCrossEntropy", "fractions"),
)
OPTIMIZERS = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW")

# What there is beside dense layers, by its name in fastmlp.
EXTRAS = ("Activation", "Dropout", "LayerNorm", "BatchNorm", "Residual")
MAX_EXTRAS = 2  # between two dense layers
MAX_BODY = 3  # layers in a residual block
MAX_NESTING = 2
EXTRA_SHARE = 0.75  # of draws that have any
NORM_SHARE = 0.7  # of draws with extras that may have norms
NORM_ROWS = 16
NORM_COLUMNS = 4
# The epochs that stand for masks of steps and of passes outside of `fit`.
STEP_EPOCH, PASS_EPOCH = 0xFFFFFFFF, 0xFFFFFFFE


def custom(z: Any) -> Any:
    """Return z / sqrt(1 + z^2), for numpy's arrays and PyTorch's tensors."""
    return z * (1.0 + z * z) ** -0.5


def custom_derivative(z: Any) -> Any:
    """Return the derivative of `custom`."""
    return (1.0 + z * z) ** -1.5


# What a layer of its own may be.
NAMED = {**ACTIVATIONS, "custom": custom}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer: `kind` is its name in fastmlp; what does not belong to it is unused."""

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
    """Everything about one draw but the numbers, which follow from the first three.

    `rows` has one entry per batch. `flat_target`: targets of a single output are given
    with one axis.
    """

    seed: int
    draw: int
    attempt: int
    dtype: str
    n_in: int
    layers: tuple[Layer, ...]
    loss: str
    target: str
    loss_options: dict[str, Any]
    rows: tuple[int, ...]
    weighted: bool
    flat_target: bool
    optimizer: str
    optimizer_options: dict[str, Any]

    @property
    def generator(self) -> np.random.Generator:
        """A fresh generator for the numbers of this draw and attempt."""
        return np.random.default_rng([self.seed, self.draw, self.attempt])

    @property
    def n_out(self) -> int:
        """Width of the output."""
        return self.layers[-1].width

    @property
    def leaves(self) -> list[tuple[str, int, Layer]]:
        """Path, input width and layer of all but residual blocks, by their parameters.

        The projections of those are among them.
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
        """The first number that a model with the seed `draw` draws.

        Its masks depend on it, if its weights are not random.
        """
        return int(np.random.default_rng(self.draw).integers(2**63))


def walk(
    layers: tuple[Layer, ...], n_in: int, prefix: str = ""
) -> Iterator[tuple[str, int, Layer]]:
    """Yield path, input width and layer, see `Spec.leaves`."""
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
    y: np.ndarray
    weight: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Problem:
    """A draw with its numbers: initial parameters, and batches to cycle through."""

    spec: Spec
    params: list[np.ndarray]
    batches: list[Batch]


@dataclasses.dataclass
class Result:
    """What one library computed; from `params` on after training."""

    output: np.ndarray
    loss: np.ndarray
    gradients: list[np.ndarray]
    params: list[np.ndarray]
    statistics: list[np.ndarray]
    inference: np.ndarray


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One tensor compared; errors are relative to the norm of PyTorch's tensor."""

    kind: str
    name: str
    error: float  # fastmlp against PyTorch in the same dtype
    error_truth: float  # fastmlp against PyTorch in float64
    peer_error_truth: float  # PyTorch in the same dtype, or on trial, against float64
    agrees: bool
    ill_conditioned: bool = False


# --- drawing ------------------------------------------------------------------------


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Return a number whose logarithm is uniform."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def size(rng: np.random.Generator, high: int) -> int:
    """Return a size from 1 to `high`; every other one is small, where edges are."""
    if rng.random() < 0.5:
        return int(rng.integers(1, high + 1))
    return min(high, int(log_uniform(rng, 1, high + 1)))


def draw_optimizer(
    rng: np.random.Generator, name: str, gradient_scale: float
) -> dict[str, Any]:
    """Random options of an optimiser; the names are PyTorch's and fastmlp's."""
    options: dict[str, Any] = {"maximize": bool(rng.random() < 0.2)}
    if rng.random() < 0.5:
        options["weight_decay"] = log_uniform(rng, 1e-4, 1e-1)
    if name != "SGD" and rng.random() < 0.5:
        options["eps"] = log_uniform(rng, 1e-5, 1e-3)
    if name == "SGD":
        options["lr"] = log_uniform(rng, 1e-3, 2e-2) / gradient_scale
        if rng.random() < 0.7:
            options["momentum"] = float(rng.uniform(0.1, 0.9))
            if rng.random() < 0.5:
                options["nesterov"] = True
            elif rng.random() < 0.5:
                options["dampening"] = float(rng.uniform(0.1, 0.9))
    elif name == "Adagrad":
        options["lr"] = log_uniform(rng, 1e-3, 1e-2)
        if rng.random() < 0.5:
            options["lr_decay"] = log_uniform(rng, 1e-3, 1e-1)
        if rng.random() < 0.5:
            options["initial_accumulator_value"] = log_uniform(rng, 1e-3, 1e-1)
    elif name == "RMSprop":
        options["lr"] = log_uniform(rng, 1e-4, 2e-3)
        options["alpha"] = float(rng.uniform(0.9, 0.99))
        options["centered"] = bool(rng.random() < 0.4)
        if rng.random() < 0.5:
            options["momentum"] = float(rng.uniform(0.1, 0.9))
    else:
        options["lr"] = log_uniform(rng, 1e-4, 3e-3)
        # A short second memory lets v fall again, or amsgrad would change nothing.
        options["betas"] = (
            float(rng.uniform(0.5, 0.95)),
            float(rng.choice([0.5, 0.8, 0.9, 0.99, 0.999])),
        )
        options["amsgrad"] = bool(rng.random() < 0.5)
    return options


class LayerDraw:
    """Draws layers between the dense ones of a plain network.

    `shifted` says whether a bias reaches the next layer with nothing but sums between,
    or an exponential: there batch norm would leave rounding noise of its gradient.
    """

    def __init__(self, rng: np.random.Generator, n_in: int) -> None:
        self.rng = rng
        self.norms = bool(rng.random() < NORM_SHARE)
        self.width = n_in
        self.shifted = False
        self.first = ""  # the kind to take next, if it may stand there

    def dense(self, layer: Layer) -> Layer:
        """Take in a given dense layer."""
        self.width = layer.width
        linear = layer.activation in ("identity", "exp")
        self.shifted = linear and (self.shifted or layer.bias)
        return layer

    def wide(self, width: int) -> int:
        """Return a width that norms can stand."""
        return max(width, NORM_COLUMNS) if self.norms else width

    def extras(self, depth: int = 0, width: int | None = None) -> Iterator[Layer]:
        """Yield up to two more layers; residual blocks keep a given width."""
        for _ in range(int(self.rng.integers(0, MAX_EXTRAS + 1))):
            yield self.extra(depth, width)

    def extra(self, depth: int, width: int | None) -> Layer:
        """Return one layer of any kind that is well-posed here."""
        rng, n = self.rng, self.width
        wanted, self.first = self.first, ""
        kind = wanted or str(rng.choice(EXTRAS))
        if kind == "BatchNorm" and (self.shifted or not self.norms):
            kind = "LayerNorm"
        if kind == "LayerNorm" and (n < NORM_COLUMNS or not self.norms):
            kind = "Dropout"
        if kind == "Residual" and depth == MAX_NESTING:
            kind = "Activation"
        if kind == "Residual":
            return self.residual(depth + 1, width)
        if kind == "Activation":
            # The exponential of a sum of residual blocks may be anything.
            name = str(rng.choice([name for name in NAMED if name != "exp"]))
            self.shifted = self.shifted and name == "identity"
            return Layer(kind, n, name)
        if kind == "Dropout":
            return Layer(kind, n, p=float(rng.choice([0.0, 0.1, 0.3, 0.5, 0.8])))
        affine = bool(rng.random() < 0.7)
        self.shifted = affine or kind == "BatchNorm"  # which leaves means of 0
        eps = 1e-5 if rng.random() < 0.3 else log_uniform(rng, 1e-4, 1e-1)
        momentum = 0.1 if rng.random() < 0.5 else float(rng.uniform(0.01, 0.9))
        return Layer(kind, n, eps=eps, momentum=momentum, affine=affine)

    def residual(self, depth: int, width: int | None) -> Layer:
        """Return a residual block, of the width that comes in or of another one."""
        rng, n_in, before = self.rng, self.width, self.shifted
        last = self.wide(size(rng, MAX_WIDTH))
        if width is not None or rng.random() < 0.5:
            last = n_in
        names = [name for name in ACTIVATIONS if name != "exp"]
        body: list[Layer] = list(self.extras(depth))
        for _ in range(int(rng.integers(0, MAX_BODY - 1))):
            name, n = str(rng.choice(names)), self.wide(size(rng, MAX_WIDTH))
            body.append(self.dense(Layer("Dense", n, name, bool(rng.random() < 0.7))))
            body += self.extras(depth)
        if not body or body[-1].width != last or rng.random() < 0.5:
            name = "identity" if rng.random() < 0.5 else str(rng.choice(names))
            body.append(
                self.dense(Layer("Dense", last, name, bool(rng.random() < 0.7)))
            )
            body += self.extras(depth, last)
        self.width = last
        self.shifted = self.shifted or before or last != n_in
        return Layer("Residual", last, body=tuple(body))


def draw_layers(
    rng: np.random.Generator, n_in: int, plain: list[Layer], first: str
) -> tuple[int, tuple[Layer, ...]]:
    """Put layers of other kinds between those of a plain network, `first` first.

    Returns the width of the input, too.
    """
    draw = LayerDraw(rng, n_in)
    draw.norms = draw.norms or first.endswith("Norm")
    n_in = draw.width = draw.wide(n_in)
    layers = list(draw.extras()) if rng.random() < 0.2 else []
    draw.first = first
    for i, layer in enumerate(plain):
        if draw.first == "BatchNorm":
            layer = dataclasses.replace(layer, bias=False)
        last = i == len(plain) - 1
        if not last:
            layer = dataclasses.replace(layer, width=draw.wide(layer.width))
        layers.append(draw.dense(layer))
        keep = layer.width if last else None
        if draw.first:
            layers.append(draw.extra(0, keep))
        if not last or rng.random() < 0.3:
            layers += draw.extras(0, keep)
    return n_in, tuple(layers)


def draw_spec(seed: int, draw: int, attempt: int, slower: float) -> Spec:
    """Draw a network, a loss, an optimiser and the sizes of three batches.

    Losses, optimisers, one activation and one other layer take turns, so that short
    runs meet all.
    """
    rng = np.random.default_rng([seed, draw])
    hidden = int(rng.integers(0, MAX_HIDDEN + 1))
    names = list(ACTIVATIONS)
    if rng.random() < 0.5:
        common = str(rng.choice(names))
        activations = [common] * hidden + [str(rng.choice(names))]
    else:
        activations = [str(name) for name in rng.choice(names, hidden + 1)]
    # Most regressions and classifiers end in a linear layer.
    ends_linear = hidden > 0 and rng.random() < 0.5
    if ends_linear:
        activations[-1] = "identity"
    turn = int(rng.integers(0, hidden if ends_linear else hidden + 1))
    activations[turn] = names[draw % len(names)]
    biases = [True] * (hidden + 1)
    if rng.random() < 0.4:
        biases = [bool(flag) for flag in rng.random(hidden + 1) < 0.5]

    loss, target = LOSSES[draw % len(LOSSES)]
    loss_options: dict[str, Any] = {}
    if rng.random() < 0.25:
        loss_options["reduction"] = "sum"
    if loss in ("Huber", "PseudoHuber"):
        loss_options["delta"] = log_uniform(rng, 0.2, 2.0)

    n_in = size(rng, MAX_WIDTH)
    widths = tuple(size(rng, MAX_WIDTH) for _ in range(hidden + 1))
    rows = tuple(size(rng, MAX_ROWS) for _ in range(3))
    n_out = widths[-1]
    gradient_scale = 1.0
    if "reduction" in loss_options:
        outputs = 1 if loss == "CrossEntropy" else n_out
        gradient_scale = float(max(rows) * outputs)
    optimizer = OPTIMIZERS[draw % len(OPTIMIZERS)]
    optimizer_options = draw_optimizer(rng, optimizer, gradient_scale)
    optimizer_options["lr"] *= slower
    layers = tuple(
        Layer("Dense", *options)
        for options in zip(widths, activations, biases, strict=True)
    )
    dtype = str(rng.choice(["float32", "float64"]))
    weighted = bool(rng.random() < 0.5)
    flat_target = bool(
        n_out == 1 and target in ("values", "fractions") and rng.random() < 0.5
    )
    if rng.random() < EXTRA_SHARE:
        first = EXTRAS[draw % len(EXTRAS)]
        rng = np.random.default_rng([seed, draw, attempt, 1])
        n_in, layers = draw_layers(rng, n_in, list(layers), first)
    spec = Spec(
        seed=seed,
        draw=draw,
        attempt=attempt,
        dtype=dtype,
        n_in=n_in,
        layers=layers,
        loss=loss,
        target=target,
        loss_options=loss_options,
        rows=rows,
        weighted=weighted,
        flat_target=flat_target,
        optimizer=optimizer,
        optimizer_options=optimizer_options,
    )
    if spec.statistics:
        rows = tuple(max(n, NORM_ROWS) for n in rows)
    return dataclasses.replace(spec, rows=rows)


def draw_params(spec: Spec, rng: np.random.Generator) -> list[np.ndarray]:
    """Return initial parameters that keep the size of the signal through the layers."""
    gains = {
        "relu": 2**0.5,
        "leaky_relu": 2**0.5,
        "gelu": 2**0.5,
        "silu": 2**0.5,
        "sigmoid": 2.0,
        "softmax": 2.0,
        "exp": 0.3,
    }
    params = []
    previous = "input"
    for _, fan_in, layer in spec.leaves:
        activation = layer.activation
        if layer.kind == "Dense":
            # The outputs of softmax sum to one: their weighted mean needs no 1/sqrt(n).
            spread = 1.0 if previous == "softmax" else fan_in**-0.5
            scale = gains.get(activation, 1.0) * spread
            params.append(rng.normal(0.0, scale, (fan_in, layer.width)))
            if layer.bias:
                deviation = 0.1 if activation == "exp" else 0.3
                params.append(rng.normal(0.0, deviation, layer.width))
        elif layer.kind in ("LayerNorm", "BatchNorm") and layer.affine:
            params.append(rng.normal(1.0, 0.3, layer.width))
            params.append(rng.normal(0.0, 0.3, layer.width))
        if layer.kind != "Dropout":
            previous = activation
    return [param.astype(spec.dtype) for param in params]


def draw_batch(spec: Spec, rows: int, rng: np.random.Generator) -> Batch:
    """Return inputs, targets and sample weights (some of them zero) of one batch."""
    n_out = spec.n_out
    x = rng.normal(size=(rows, spec.n_in)).astype(spec.dtype)
    if spec.target == "labels":
        y = rng.integers(0, n_out, rows)
    elif spec.target == "probabilities":
        y = rng.exponential(size=(rows, n_out))
        # Rows need not sum to one: the gradient is softmax * sum(y) - y.
        y /= y.sum(axis=1, keepdims=True) if rng.random() < 0.5 else n_out
    elif spec.target == "fractions":
        y = rng.random((rows, n_out))
        if rng.random() < 0.5:
            y = np.round(y)
    else:
        y = rng.normal(size=(rows, n_out))
    if spec.target != "labels":
        y = y.astype(spec.dtype)
    if spec.flat_target:
        y = y[:, 0].copy()
    weight = None
    if spec.weighted:
        weight = rng.uniform(0.5, 2.0, rows)
        weight[1:][rng.random(rows - 1) < 0.1] = 0.0
        weight = weight.astype(spec.dtype)
    return Batch(x, y, weight)


# --- PyTorch's side -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TorchBatch:
    """A batch as tensors of one dtype; regression targets always have two axes."""

    x: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor | None


class Disturb(torch.autograd.Function):
    """Multiplies a tensor, and its gradient, by 1 + unit u with random u in +-1."""

    @staticmethod
    def noise(like: torch.Tensor, unit: float, rng: torch.Generator) -> torch.Tensor:
        """Return such factors."""
        random = torch.rand(like.shape, generator=rng, dtype=like.dtype)
        return 1.0 + unit * (2.0 * random - 1.0)

    @staticmethod
    def forward(
        context: Any, h: torch.Tensor, unit: float, rng: torch.Generator
    ) -> torch.Tensor:
        """Disturb a tensor."""
        context.unit, context.rng = unit, rng
        return h * Disturb.noise(h, unit, rng)

    @staticmethod
    def backward(context: Any, *dh: torch.Tensor) -> Any:
        """Disturb its gradient."""
        return dh[0] * Disturb.noise(dh[0], context.unit, context.rng), None, None


@dataclasses.dataclass
class TorchPass:
    """A pass in training mode if there is a `draw`, the masks' (seed, epoch, step).

    `statistics`, means and variances in turn, are updated in place. `activations`
    gathers the name of each activation, its input and its output. With a `disturb`,
    that is applied to whatever a layer computes.
    """

    params: Iterator[torch.Tensor]
    statistics: Iterator[torch.Tensor]
    draw: tuple[int, int, int] | None
    disturb: Callable[[torch.Tensor], torch.Tensor] = lambda h: h
    dropouts: Iterator[int] = dataclasses.field(default_factory=itertools.count)
    activations: list[tuple[str, torch.Tensor, torch.Tensor]] = dataclasses.field(
        default_factory=list
    )

    def sequence(self, layers: tuple[Layer, ...], h: torch.Tensor) -> torch.Tensor:
        """Return the output of layers in a row."""
        for layer in layers:
            h = self.disturb(self.layer(layer, h))
        return h

    def layer(self, layer: Layer, x: torch.Tensor) -> torch.Tensor:
        """Return the output of one layer."""
        training = self.draw is not None
        if layer.kind == "Residual":
            h = self.sequence(layer.body, x)
            same = layer.width == x.shape[1]
            return h + (x if same else self.layer(Layer("Dense", layer.width), x))
        if layer.kind == "Dropout":
            number = next(self.dropouts)
            if self.draw is None:
                return x
            kept = dropout_mask(tuple(x.shape), layer.p, *self.draw, number)
            return torch.from_numpy(kept) * x / (1.0 - layer.p)
        if layer.kind in ("LayerNorm", "BatchNorm"):
            scale = next(self.params) if layer.affine else None
            shift = next(self.params) if layer.affine else None
            if layer.kind == "LayerNorm":
                return F.layer_norm(x, (layer.width,), scale, shift, layer.eps)
            mean, var = next(self.statistics), next(self.statistics)
            options = training, layer.momentum, layer.eps
            return F.batch_norm(x, mean, var, scale, shift, *options)
        z = x
        if layer.kind == "Dense":
            z = x @ next(self.params)
            if layer.bias:
                z = z + next(self.params)
            z = self.disturb(z)
        h = NAMED[layer.activation](z)
        self.activations.append((layer.activation, z, h))
        return h


def initial_statistics(spec: Spec, dtype: torch.dtype) -> list[torch.Tensor]:
    """Return running means of 0 and variances of 1."""
    return [
        torch.full((n,), float(name.endswith("var")), dtype=dtype)
        for name, n in spec.statistics.items()
    ]


def torch_predict(
    spec: Spec,
    params: list[torch.Tensor],
    x: torch.Tensor,
    statistics: list[torch.Tensor],
    draw: tuple[int, int] | None = None,
    disturb: Callable[[torch.Tensor], torch.Tensor] = lambda h: h,
) -> torch.Tensor:
    """Return the network's output, in training mode for masks of (epoch, step)."""
    key = None if draw is None else (spec.mask_seed, *draw)
    run = TorchPass(iter(params), iter(statistics), key, disturb)
    return run.sequence(spec.layers, x)


def torch_elements(spec: Spec, pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the loss per element; for cross-entropy per row, as one column."""
    delta = spec.loss_options.get("delta", 1.0)
    if spec.loss == "MSE":
        return F.mse_loss(pred, y, reduction="none")
    if spec.loss == "MAE":
        return F.l1_loss(pred, y, reduction="none")
    if spec.loss == "Huber":
        return F.huber_loss(pred, y, reduction="none", delta=delta)
    if spec.loss == "PseudoHuber":
        return delta**2 * (torch.sqrt(1.0 + ((pred - y) / delta) ** 2) - 1.0)
    if spec.loss == "CrossEntropy":
        return F.cross_entropy(pred, y, reduction="none")[:, None]
    return F.binary_cross_entropy_with_logits(pred, y, reduction="none")


def torch_loss(spec: Spec, pred: torch.Tensor, batch: TorchBatch) -> torch.Tensor:
    """Return the reduced loss; rows are weighted by ``sum(w * row) / sum(w)``."""
    elements = torch_elements(spec, pred, batch.y)
    total = spec.loss_options.get("reduction") == "sum"
    if batch.weight is None:
        return elements.sum() if total else elements.mean()
    if total:
        return (batch.weight * elements.sum(dim=1)).sum()
    return (batch.weight * elements.mean(dim=1)).sum() / batch.weight.sum()


def torch_batch(spec: Spec, batch: Batch, dtype: torch.dtype) -> TorchBatch:
    """Convert a batch."""
    y = torch.from_numpy(batch.y)
    if spec.target != "labels":
        y = y.to(dtype)
    if spec.flat_target:
        y = y[:, None]
    weight = None if batch.weight is None else torch.from_numpy(batch.weight).to(dtype)
    return TorchBatch(torch.from_numpy(batch.x).to(dtype), y, weight)


def run_torch(
    problem: Problem,
    dtype: torch.dtype,
    disturbance: torch.Generator | None = None,
    units: float = 1.0,
) -> Result:
    """Autograd's answers, and the parameters after training with torch.optim.

    With a `disturbance` the parameters are changed before every evaluation by up to so
    many rounding units of the draw's dtype, relatively, and so is what layers compute.
    """
    spec = problem.spec
    params = [
        torch.from_numpy(p).to(dtype).clone().requires_grad_() for p in problem.params
    ]
    batches = [torch_batch(spec, batch, dtype) for batch in problem.batches]

    unit = units * float(np.finfo(spec.dtype).eps)

    @torch.no_grad()
    def disturb() -> None:
        if disturbance is not None:
            for param in params:
                param *= Disturb.noise(param, unit, disturbance)

    def disturb_layer(h: torch.Tensor) -> torch.Tensor:
        if disturbance is None:
            return h
        disturbed: torch.Tensor = Disturb.apply(h, unit, disturbance)
        return disturbed

    disturb()
    x = batches[0].x.clone().requires_grad_()
    statistics = initial_statistics(spec, dtype)
    pred = torch_predict(spec, params, x, statistics, (PASS_EPOCH, 0), disturb_layer)
    loss = torch_loss(spec, pred, batches[0])
    gradients = torch.autograd.grad(loss, [*params, x])
    statistics = initial_statistics(spec, dtype)

    optimizer = getattr(torch.optim, spec.optimizer)(params, **spec.optimizer_options)
    for step in range(STEPS):
        disturb()
        batch = batches[step % len(batches)]
        optimizer.zero_grad()
        draw = STEP_EPOCH, step
        output = torch_predict(spec, params, batch.x, statistics, draw, disturb_layer)
        torch_loss(spec, output, batch).backward()
        optimizer.step()
    x = batches[0].x
    inference = torch_predict(spec, params, x, statistics, None, disturb_layer)

    def array(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().numpy()

    return Result(
        output=array(pred),
        loss=array(loss),
        gradients=[array(gradient) for gradient in gradients],
        params=[array(param) for param in params],
        statistics=[array(statistic) for statistic in statistics],
        inference=array(inference),
    )


# --- drawing problems that have one answer ------------------------------------------


def touches_kink(problem: Problem) -> bool:
    """Whether rounding could decide a branch in the first gradient."""
    spec = problem.spec
    margin = KINK_MARGIN * float(np.finfo(spec.dtype).eps)
    params = [torch.from_numpy(p).to(torch.float64) for p in problem.params]
    batch = torch_batch(spec, problem.batches[0], torch.float64)

    def near_zero(values: torch.Tensor, scale: torch.Tensor) -> bool:
        # An exact zero (below a layer of dead units, without bias) is one everywhere,
        # and what comes from softmax, say, never is on the other side.
        bound = margin * scale.square().mean().sqrt()
        near = (values != 0) & (values.abs() <= bound)
        return bool(near.any() and (values < 0).any())

    statistics = initial_statistics(spec, torch.float64)
    key = (spec.mask_seed, PASS_EPOCH, 0)
    run = TorchPass(iter(params), iter(statistics), key)
    pred = run.sequence(spec.layers, batch.x)
    for activation, z, _ in run.activations:
        if activation in KINKED_ACTIVATIONS and near_zero(z, z):
            return True
    return spec.loss == "MAE" and near_zero(pred - batch.y, pred)


def diverges(problem: Problem, truth: Result) -> bool:
    """Whether training blows up, as ascent on an unbounded loss may."""
    spec = problem.spec
    batch = torch_batch(spec, problem.batches[0], torch.float64)
    trained = [torch.from_numpy(param) for param in truth.params]
    statistics = initial_statistics(spec, torch.float64)
    with torch.no_grad():
        pred = torch_predict(spec, trained, batch.x, statistics, (PASS_EPOCH, 0))
        loss = float(torch_loss(spec, pred, batch))
    before = math.hypot(*(norm(param) for param in problem.params))
    after = math.hypot(*(norm(param) for param in truth.params))
    calm = after <= MAX_GROWTH * before and loss <= MAX_GROWTH * (1.0 + truth.loss)
    return not calm  # so that NaN diverges, too


def is_calm(problem: Problem, truth: Result) -> bool:
    """Whether rounding errors stay well below the tolerances."""
    disturbance = torch.Generator().manual_seed(problem.spec.draw)
    trial = run_torch(problem, torch.float64, disturbance, CALM_UNITS)
    moved = compare_results(problem.spec, trial, truth, truth)
    return all(comparison.agrees for comparison in moved)


def draw_problem(seed: int, draw: int) -> tuple[Problem, Result]:
    """Return a draw's first well-posed attempt, and PyTorch's answers in float64."""
    slower = 1.0
    for attempt in range(MAX_ATTEMPTS):
        spec = draw_spec(seed, draw, attempt, slower)
        rng = spec.generator
        params = draw_params(spec, rng)
        batches = [draw_batch(spec, rows, rng) for rows in spec.rows]
        problem = Problem(spec, params, batches)
        if touches_kink(problem):
            continue
        truth = run_torch(problem, torch.float64)
        if diverges(problem, truth):
            slower *= AFTER_DIVERGENCE
        elif is_calm(problem, truth):
            return problem, truth
        else:
            slower *= AFTER_DISTURBANCE
    raise RuntimeError(f"no well-posed attempt for {spec}")


# --- fastmlp's side -----------------------------------------------------------------


def build_network(library: Any, spec: Spec) -> Any:
    """Build the network, with plain widths where they can say it all.

    Weights of zeros take no random numbers, see `Spec.mask_seed`.
    """
    options = {"init": "zeros", "dtype": spec.dtype, "seed": spec.draw}
    hidden = {layer.activation for layer in spec.layers[:-1]}
    biases = {layer.bias for layer in spec.layers}
    plain = all(layer.kind == "Dense" for layer in spec.layers)
    if plain and len(hidden) <= 1 and len(biases) == 1:
        return library.MLP(
            [spec.n_in, *(layer.width for layer in spec.layers)],
            activation=hidden.pop() if hidden else "relu",
            output_activation=spec.layers[-1].activation,
            bias=biases.pop(),
            **options,
        )
    layers = [build_layer(library, layer) for layer in spec.layers]
    return library.MLP([spec.n_in, *layers], **options)


def build_layer(library: Any, layer: Layer) -> Any:
    """Build one layer."""
    make = getattr(library, layer.kind)
    if layer.kind == "Dense":
        return make(layer.width, activation=layer.activation, bias=layer.bias)
    if layer.kind == "Activation":
        named = layer.activation != "custom"
        return make(layer.activation) if named else make(custom, custom_derivative)
    if layer.kind == "Dropout":
        return make(layer.p)
    if layer.kind == "LayerNorm":
        return make(eps=layer.eps, affine=layer.affine)
    if layer.kind == "BatchNorm":
        return make(eps=layer.eps, momentum=layer.momentum, affine=layer.affine)
    return make([build_layer(library, inner) for inner in layer.body])


def split(flat: np.ndarray, shapes: Iterable[tuple[int, ...]]) -> list[np.ndarray]:
    """Return the tensors of a flat vector, as copies."""
    tensors, start = [], 0
    for shape in shapes:
        stop = start + math.prod(shape)
        tensors.append(flat[start:stop].reshape(shape).copy())
        start = stop
    if start != flat.size:
        raise AssertionError(f"{flat.size} numbers where there should be {start}")
    return tensors


def run_fastmlp(problem: Problem, library: Any) -> Result:
    """Return the same quantities by fastmlp (or its reference).

    Loss and parameter gradients come from the fused `value_and_grad`, the gradient of
    the input from the loss's own gradient and `vjp`, the trajectory from `train_step`.
    Masks depend on how often a model has been called, so each call is that of a copy.
    """
    spec = problem.spec
    shapes = spec.tensors.values()
    network = build_network(library, spec)
    if problem.params:
        network.params[:] = np.concatenate([p.ravel() for p in problem.params])
    loss = getattr(library, spec.loss)(**spec.loss_options)
    optimizer = getattr(library, spec.optimizer)(**spec.optimizer_options)

    first = problem.batches[0]
    output = network.copy().forward(first.x, training=True)
    value, flat = network.copy().value_and_grad(
        first.x, first.y, loss, sample_weight=first.weight, training=True
    )
    target = first.y[:, None] if spec.flat_target else first.y
    _, d_output = loss.value_and_grad(output, target, sample_weight=first.weight)
    _, d_input, flat_by_vjp = network.copy().vjp(first.x, d_output, training=True)
    gradients = [*split(flat, shapes), d_input.copy()]
    # The unfused path must give the same gradients; rounding may differ.
    gradients += split(flat_by_vjp, shapes)

    for step in range(STEPS):
        batch = problem.batches[step % len(problem.batches)]
        network.train_step(
            batch.x, batch.y, loss, optimizer, sample_weight=batch.weight
        )
    return Result(
        output=np.array(output),
        loss=np.asarray(value, dtype=np.float64),
        gradients=gradients,
        params=split(network.params, shapes),
        statistics=split(network.buffers, [(n,) for n in spec.statistics.values()]),
        inference=np.array(network(first.x)),
    )


# --- comparing ----------------------------------------------------------------------


def norm(array: np.ndarray) -> float:
    """Euclidean norm in float64."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference; infinite where one of the two is not finite."""
    difference = norm(a.astype(np.float64) - b.astype(np.float64))
    return difference if math.isfinite(difference) else math.inf


def named_tensors(spec: Spec, result: Result) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield kind, name and value of everything that is compared.

    fastmlp gives the gradients of the parameters twice, PyTorch once.
    """
    names = list(spec.tensors)
    yield "output", "output", result.output
    yield "loss", "loss", result.loss
    gradient_names = [f"d{name}" for name in (*names, "x")]
    repeated = [f"d{name} by vjp" for name in names]
    gradients = result.gradients
    if len(gradients) == len(gradient_names):
        gradients = gradients + gradients[:-1]
    for name, gradient in zip([*gradient_names, *repeated], gradients, strict=True):
        yield "gradient", name, gradient
    for name, param in zip(names, result.params, strict=True):
        yield TRAINED, name, param
    for name, array in zip(spec.statistics, result.statistics, strict=True):
        yield STATISTICS, name, array
    yield INFERENCE, "output", result.inference


def tolerance(spec: Spec, kind: str) -> float:
    """Return the tolerance of a kind of quantity for the dtype of the draw."""
    trained = kind in (TRAINED, STATISTICS, INFERENCE)
    table = PARAMETER_TOLERANCE if trained else GRADIENT_TOLERANCE
    return table[spec.dtype]


def floors(spec: Spec, result: Result) -> dict[str, float]:
    """Return the absolute floor of the criterion, by kind."""
    eps = float(np.finfo(spec.dtype).eps)
    squares: dict[str, float] = collections.defaultdict(float)
    for kind, _, tensor in named_tensors(spec, result):
        squares[kind] += norm(tensor) ** 2
    return {kind: eps**2 * math.sqrt(square) for kind, square in squares.items()}


def compare_results(
    spec: Spec, ours: Result, theirs: Result, truth: Result
) -> list[Comparison]:
    """Compare tensor by tensor, with the plain criterion."""
    floor = floors(spec, theirs)
    comparisons = []
    for (kind, name, a), (_, _, b), (_, _, exact) in zip(
        named_tensors(spec, ours),
        named_tensors(spec, theirs),
        named_tensors(spec, truth),
        strict=True,
    ):
        if a.shape != b.shape:
            raise AssertionError(f"{kind} {name}: shape {a.shape}, PyTorch's {b.shape}")
        # The floor is added to the scale, so that errors read against the tolerance.
        scale = norm(b) + floor[kind] / tolerance(spec, kind) or 1.0
        comparisons.append(
            Comparison(
                kind=kind,
                name=name,
                error=distance(a, b) / scale,
                error_truth=distance(a, exact) / scale,
                peer_error_truth=distance(b, exact) / scale,
                agrees=distance(a, b) / scale <= tolerance(spec, kind),
            )
        )
    return comparisons


def try_conditioning(
    problem: Problem, truth: Result, comparisons: list[Comparison]
) -> list[Comparison]:
    """Decide the comparisons that disagree by disturbed runs of PyTorch."""
    spec = problem.spec
    disturbance = torch.Generator().manual_seed(spec.draw)
    peer_errors = [comparison.peer_error_truth for comparison in comparisons]
    for _ in range(TRIALS):
        trial = run_torch(problem, torch.float64, disturbance)
        trial_errors = compare_results(spec, trial, truth, truth)
        peer_errors = [
            max(known, tried.error)
            for known, tried in zip(peer_errors, trial_errors, strict=True)
        ]
    decided = []
    for comparison, peer_error in zip(comparisons, peer_errors, strict=True):
        if not comparison.agrees:
            close = comparison.error_truth <= SLACK * peer_error
            comparison = dataclasses.replace(
                comparison,
                peer_error_truth=peer_error,
                agrees=close and math.isfinite(comparison.error_truth),
                ill_conditioned=close,
            )
        decided.append(comparison)
    return decided


def compare(problem: Problem, truth: Result, library: Any) -> list[Comparison]:
    """All comparisons of one draw; `truth` is PyTorch's float64 run."""
    ours = run_fastmlp(problem, library)
    theirs = truth
    if problem.spec.dtype == "float32":
        theirs = run_torch(problem, torch.float32)
    comparisons = compare_results(problem.spec, ours, theirs, truth)
    if not all(comparison.agrees for comparison in comparisons):
        comparisons = try_conditioning(problem, truth, comparisons)
    return comparisons


class Summary:
    """Worst errors by dtype and kind, failures, and what has been covered."""

    def __init__(self) -> None:
        self.worst: dict[tuple[str, str], tuple[Comparison, Spec]] = {}
        self.failures: list[tuple[Comparison, Spec]] = []
        self.ill_conditioned: list[tuple[Comparison, Spec]] = []
        self.covered: collections.Counter[str] = collections.Counter()
        self.draws = 0
        self.redrawn = 0

    def add(self, spec: Spec, comparisons: list[Comparison]) -> None:
        """Record one draw."""
        self.draws += 1
        self.redrawn += spec.attempt > 0
        self.covered.update([spec.dtype, spec.optimizer])
        self.covered.update([f"{spec.loss} ({spec.target})", *spec.kinds])
        self.covered.update(["weighted"] if spec.weighted else [])
        for comparison in comparisons:
            if not comparison.agrees:
                self.failures.append((comparison, spec))
            elif comparison.ill_conditioned:
                self.ill_conditioned.append((comparison, spec))
            else:
                key = spec.dtype, comparison.kind
                known = self.worst.get(key)
                if known is None or known[0].error < comparison.error:
                    self.worst[key] = comparison, spec

    @property
    def ill_conditioned_draws(self) -> int:
        """How many draws were ill-conditioned."""
        return len({spec.draw for _, spec in self.ill_conditioned})

    @property
    def ill_conditioned_limit(self) -> int:
        """How many may be; in a short run one."""
        return max(1, int(MAX_ILL_CONDITIONED * self.draws))

    @property
    def passed(self) -> bool:
        """No failure, and few ill-conditioned draws."""
        few = self.ill_conditioned_draws <= self.ill_conditioned_limit
        return few and not self.failures

    def lines(self) -> Iterator[str]:
        """Return the report."""
        yield (
            f"{'dtype':8} {'quantity':26} {'worst error':>12} {'tolerance':>10}"
            f" {'vs float64':>11} {'torch vs float64':>17}  draw, tensor"
        )
        for (dtype, kind), (worst, spec) in sorted(self.worst.items()):
            yield (
                f"{dtype:8} {kind:26} {worst.error:12.2e} {tolerance(spec, kind):10.0e}"
                f" {worst.error_truth:11.2e} {worst.peer_error_truth:17.2e}"
                f"  {spec.draw}, {worst.name}"
            )
        yield f"drawn again (kink, divergence, conditioning): {self.redrawn} draws"
        yield (
            f"ill-conditioned, judged by disturbed float64 runs: "
            f"{self.ill_conditioned_draws} draws "
            f"(allowed: {self.ill_conditioned_limit})"
        )
        for comparison, spec in self.ill_conditioned:
            yield (
                f"  draw {spec.draw} ({spec.dtype}), {comparison.kind}, "
                f"{comparison.name}: from float64: fastmlp "
                f"{comparison.error_truth:.2e}, torch {comparison.peer_error_truth:.2e}"
            )
        counts = ", ".join(f"{k} {n}" for k, n in sorted(self.covered.items()))
        yield f"draws that had: {counts}"
        for draw, failures in itertools.groupby(self.failures, lambda f: f[1].draw):
            comparisons = list(failures)
            yield f"FAILED draw {draw}: {comparisons[0][1]}"
            for comparison, _ in comparisons:
                yield (
                    f"  {comparison.kind}, {comparison.name}: relative error "
                    f"{comparison.error:.3e}; from float64: fastmlp "
                    f"{comparison.error_truth:.3e}, torch "
                    f"{comparison.peer_error_truth:.3e}"
                )


def run(draws: range, seed: int, library: Any) -> Summary:
    """Compare all the draws."""
    summary = Summary()
    for draw in draws:
        problem, truth = draw_problem(seed, draw)
        summary.add(problem.spec, compare(problem, truth, library))
    return summary


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if everything agrees."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="index of the first draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--library",
        choices=["fastmlp", "fastmlp.reference"],
        default="fastmlp",
        help="what is compared with PyTorch (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    library = importlib.import_module(options.library)
    torch.set_num_threads(1)  # the networks are small
    draws = range(options.first, options.first + options.draws)
    start = time.perf_counter()
    summary = run(draws, options.seed, library)
    seconds = time.perf_counter() - start
    print(
        f"{options.library} against PyTorch {torch.__version__}: {len(draws)} draws "
        f"from {options.first}, seed {options.seed}, {seconds:.0f} s"
    )
    print("\n".join(summary.lines()))
    print("PASSED" if summary.passed else "FAILED")
    return 0 if summary.passed else 1


if __name__ == "__main__":
    sys.exit(main())
