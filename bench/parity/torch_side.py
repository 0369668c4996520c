"""A draw's results by PyTorch: autograd and torch.optim."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from fastmlp.reference import dropout_mask

from .losses import torch_batch, torch_loss
from .spec import PASS_EPOCH, STEP_EPOCH, STEPS, Layer, Problem, Result, Spec
from .updates import TorchUpdates

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


def custom(z: Any) -> Any:
    """Return z / sqrt(1 + z^2), for numpy's arrays and PyTorch's tensors."""
    return z * (1.0 + z * z) ** -0.5


def custom_derivative(z: Any) -> Any:
    """Return the derivative of `custom`."""
    return (1.0 + z * z) ** -1.5


# Activations that may be a separate layer.
NAMED = {**ACTIVATIONS, "custom": custom}


class Disturb(torch.autograd.Function):
    """Multiplies a tensor, and its gradient, by 1 + unit u with random u in +-1."""

    @staticmethod
    def noise(like: torch.Tensor, unit: float, rng: torch.Generator) -> torch.Tensor:
        """Return random factors near 1."""
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
    collects the name of each activation, its input and its output. `disturb`, if given,
    is applied to the result of each layer.
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
        """Return the output of a sequence of layers."""
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


def run_torch(
    problem: Problem,
    dtype: torch.dtype,
    disturbance: torch.Generator | None = None,
    units: float = 1.0,
) -> Result:
    """Autograd's answers, and the parameters after training with torch.optim.

    A `disturbance` changes the parameters before every evaluation, and the results of
    layers, relatively by up to that many rounding units of the draw's dtype.
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

    updates = TorchUpdates(spec, params)
    for step in range(STEPS):
        disturb()
        batch = batches[step % len(batches)]
        updates.zero_grad()
        draw = STEP_EPOCH, step
        output = torch_predict(spec, params, batch.x, statistics, draw, disturb_layer)
        torch_loss(spec, output, batch).backward()
        updates.step()
    x = batches[0].x
    inference = torch_predict(spec, params, x, statistics, None, disturb_layer)

    def array(tensor: torch.Tensor) -> np.ndarray:
        return tensor.detach().numpy()

    return Result(
        output=array(pred),
        loss=array(loss),
        gradients=[array(gradient) for gradient in gradients],
        params=[array(param) for param in params],
        averages=[array(average) for average in updates.averages],
        statistics=[array(statistic) for statistic in statistics],
        inference=array(inference),
    )
