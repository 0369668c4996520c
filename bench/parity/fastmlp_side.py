"""A draw's results by fastmlp or by its reference."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from fastmlp import schedules

from .spec import STEPS, Layer, Problem, Result, Spec
from .torch_side import custom, custom_derivative


def build_network(library: Any, spec: Spec) -> Any:
    """Build the network, from a list of widths if that can describe it.

    Initialising weights with zeros draws no random numbers; see `Spec.mask_seed`.
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


def build_optimizer(library: Any, spec: Spec) -> Any:
    """Build the optimiser with its schedule; the reference takes it as a function."""
    options = dict(spec.optimizer_options)
    if spec.schedule is not None:
        name, own = spec.schedule
        make = getattr(schedules, name.partition(" ")[0])
        options["lr"] = make(options["lr"], **own)
    return getattr(library, spec.optimizer)(**options)


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
    Masks depend on the number of previous calls, so each call uses a new copy.
    """
    spec = problem.spec
    shapes = spec.tensors.values()
    network = build_network(library, spec)
    if problem.params:
        network.params[:] = np.concatenate([p.ravel() for p in problem.params])
    loss = getattr(library, spec.loss)(**spec.loss_options)
    if spec.action:
        loss = library.ActionValue(loss)
    optimizer = build_optimizer(library, spec)

    first = problem.batches[0]
    output = network.copy().forward(first.x, training=True)
    value, flat = network.copy().value_and_grad(
        first.x, first.y, loss, sample_weight=first.weight, training=True
    )
    _, d_output = loss.value_and_grad(output, first.y, sample_weight=first.weight)
    _, d_input, flat_by_vjp = network.copy().vjp(first.x, d_output, training=True)
    gradients = [*split(flat, shapes), d_input.copy()]
    # The unfused path must give the same gradients; rounding may differ.
    gradients += split(flat_by_vjp, shapes)

    for step in range(STEPS):
        batch = problem.batches[step % len(problem.batches)]
        network.train_step(
            batch.x, batch.y, loss, optimizer, sample_weight=batch.weight
        )
    averages = optimizer.ema_params
    return Result(
        output=np.array(output),
        loss=np.asarray(value, dtype=np.float64),
        gradients=gradients,
        params=split(network.params, shapes),
        averages=[] if averages is None else split(averages[0], shapes),
        statistics=split(network.buffers, [(n,) for n in spec.statistics.values()]),
        inference=np.array(network(first.x)),
    )
