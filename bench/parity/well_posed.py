"""Redraws problems until their answer is unique."""

from __future__ import annotations

import math

import numpy as np
import torch

from .draw import draw_batch, draw_params, draw_spec
from .judge import compare_results, norm
from .losses import from_kink, torch_batch, torch_loss
from .spec import PASS_EPOCH, Problem, Result
from .torch_side import TorchPass, initial_statistics, run_torch, torch_predict

# Rounding units of the disturbed run that decides whether to redraw: more than one,
# since a single small disturbance may miss a kink.
CALM_UNITS = 4.0
# Factor on learning rates for the next attempt.
AFTER_DIVERGENCE, AFTER_DISTURBANCE = 0.1, 0.6

# A pre-activation closer to a kink than this many rounding units (of the layer's root
# mean square) may come out on the other side of it.
KINK_MARGIN = 8.0
KINKED_ACTIVATIONS = {"relu", "leaky_relu", "selu"}
MAX_ATTEMPTS = 30
MAX_GROWTH = 10.0  # largest loss and norm of the parameters during training


def touches_kink(problem: Problem) -> bool:
    """Whether rounding could decide a branch in the first gradient."""
    spec = problem.spec
    margin = KINK_MARGIN * float(np.finfo(spec.dtype).eps)
    params = [torch.from_numpy(p).to(torch.float64) for p in problem.params]
    batch = torch_batch(spec, problem.batches[0], torch.float64)

    def near_zero(values: torch.Tensor, scale: torch.Tensor) -> bool:
        # An exact zero (after a layer of dead units, without bias) is zero in every
        # implementation, and softmax outputs, for example, never change sign.
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
    distances = from_kink(spec, pred, batch)
    return distances is not None and near_zero(*distances)


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
    bound = MAX_GROWTH * (1.0 + abs(float(truth.loss)))
    calm = after <= MAX_GROWTH * before and loss <= bound
    return not calm  # NaN counts as diverged


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
