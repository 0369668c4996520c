"""Random networks, losses, optimisers and data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from .losses import LOSSES, OF_ONE_VALUE, draw_loss, draw_target
from .spec import Batch, Layer, Spec, log_uniform
from .torch_side import ACTIVATIONS, NAMED
from .updates import (
    CLIPS,
    OPTIMIZERS,
    SCHEDULES,
    draw_optimizer,
    draw_schedule,
    draw_shared,
)

MAX_WIDTH = 130
MAX_ROWS = 300
MAX_HIDDEN = 5

# Layers besides dense ones, by their names in fastmlp.
EXTRAS = ("Activation", "Dropout", "LayerNorm", "BatchNorm", "Residual")
MAX_EXTRAS = 2  # most extra layers between two dense layers
MAX_BODY = 3  # layers in a residual block
MAX_NESTING = 2
EXTRA_SHARE = 0.75  # share of draws with extra layers
NORM_SHARE = 0.7  # share of these that may have norms
NORM_ROWS = 16
NORM_COLUMNS = 4


def size(rng: np.random.Generator, high: int) -> int:
    """Return a size from 1 to `high`; half of them are small, to test edges."""
    if rng.random() < 0.5:
        return int(rng.integers(1, high + 1))
    return min(high, int(log_uniform(rng, 1, high + 1)))


class LayerDraw:
    """Draws layers between the dense layers of a plain network.

    `shifted` says whether a bias reaches the next layer only through sums or an
    exponential: if that layer were batch norm, the gradient of the bias would be
    rounding noise.
    """

    def __init__(self, rng: np.random.Generator, n_in: int) -> None:
        self.rng = rng
        self.norms = bool(rng.random() < NORM_SHARE)
        self.width = n_in
        self.shifted = False
        self.first = ""  # kind of the next extra layer, if it is allowed there

    def dense(self, layer: Layer) -> Layer:
        """Add a given dense layer."""
        self.width = layer.width
        linear = layer.activation in ("identity", "exp")
        self.shifted = linear and (self.shifted or layer.bias)
        return layer

    def wide(self, width: int) -> int:
        """Return a width that is large enough for norms."""
        return max(width, NORM_COLUMNS) if self.norms else width

    def extras(self, depth: int = 0, width: int | None = None) -> Iterator[Layer]:
        """Yield up to two extra layers; residual blocks keep the given width."""
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
            # The exponential of a sum of residual blocks may overflow.
            name = str(rng.choice([name for name in NAMED if name != "exp"]))
            self.shifted = self.shifted and name == "identity"
            return Layer(kind, n, name)
        if kind == "Dropout":
            return Layer(kind, n, p=float(rng.choice([0.0, 0.1, 0.3, 0.5, 0.8])))
        affine = bool(rng.random() < 0.7)
        self.shifted = (
            affine or kind == "BatchNorm"
        )  # batch norm leaves column means of 0
        eps = 1e-5 if rng.random() < 0.3 else log_uniform(rng, 1e-4, 1e-1)
        momentum = 0.1 if rng.random() < 0.5 else float(rng.uniform(0.01, 0.9))
        return Layer(kind, n, eps=eps, momentum=momentum, affine=affine)

    def residual(self, depth: int, width: int | None) -> Layer:
        """Return a residual block with the input's width or another one."""
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
    """Insert layers of other kinds into a plain network, `first` first.

    Also return the width of the input.
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

    Losses, optimisers, schedules, one activation and one extra layer rotate, so that
    short runs cover all of them.
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

    reduction = {"reduction": "sum"} if rng.random() < 0.25 else {}
    n_in = size(rng, MAX_WIDTH)
    widths = tuple(size(rng, MAX_WIDTH) for _ in range(hidden + 1))
    rows = tuple(size(rng, MAX_ROWS) for _ in range(3))
    dtype = str(rng.choice(["float32", "float64"]))
    weighted = bool(rng.random() < 0.5)
    flat = bool(rng.random() < 0.5)

    loss, target = LOSSES[draw % len(LOSSES)]
    if loss == "GaussianNLL":  # a mean and a variance for each target
        widths = (*widths[:-1], widths[-1] + widths[-1] % 2)
    n_out = widths[-1]
    action = loss == "ActionValue"
    if action:
        loss, target = OF_ONE_VALUE[int(rng.integers(len(OF_ONE_VALUE)))]
    loss_options = draw_loss(rng, loss, target, 0 if action else n_out) | reduction
    gradient_scale = 1.0
    if reduction:
        outputs = 1 if loss == "CrossEntropy" or action else n_out
        gradient_scale = float(max(rows) * outputs)
    optimizer = OPTIMIZERS[draw % len(OPTIMIZERS)]
    optimizer_options = draw_optimizer(rng, optimizer, gradient_scale)
    clip = CLIPS[draw % len(CLIPS)]
    optimizer_options |= draw_shared(rng, clip, gradient_scale)
    optimizer_options["lr"] *= slower
    named = SCHEDULES[draw % len(SCHEDULES)]
    schedule = named and (named, draw_schedule(rng, named))
    layers = tuple(
        Layer("Dense", *options)
        for options in zip(widths, activations, biases, strict=True)
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
        action=action,
        loss_options=loss_options,
        rows=rows,
        weighted=weighted,
        flat_target=False,
        optimizer=optimizer,
        optimizer_options=optimizer_options,
        schedule=schedule,
    )
    if spec.statistics:
        rows = tuple(max(n, NORM_ROWS) for n in rows)
    takes_flat = spec.n_target == 1 and target not in ("labels", "probabilities")
    return dataclasses.replace(spec, rows=rows, flat_target=flat and takes_flat)


def draw_params(spec: Spec, rng: np.random.Generator) -> list[np.ndarray]:
    """Return initial parameters that preserve the size of the signal."""
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
            # Softmax outputs sum to one: their weighted mean does not need 1/sqrt(n).
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
    x = rng.normal(size=(rows, spec.n_in)).astype(spec.dtype)
    y = draw_target(spec, rows, rng)
    weight = None
    if spec.weighted:
        weight = rng.uniform(0.5, 2.0, rows)
        weight[1:][rng.random(rows - 1) < 0.1] = 0.0
        weight = weight.astype(spec.dtype)
    return Batch(x, y, weight)
