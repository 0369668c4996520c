"""Optimisers, their options and schedules, and PyTorch's steps with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.optim import lr_scheduler, swa_utils

from .spec import STEPS, Spec, log_uniform

OPTIMIZERS = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW")
# Schedules by their names in fastmlp; None is a constant learning rate.
SCHEDULES = (
    "Step",
    "MultiStep",
    "Exponential",
    "Cosine",
    "Cosine with restarts",
    "LinearWarmup",
    "OneCycle",
    None,
    None,
)
CLIPS = (None, "clip_norm", "clip_value")
# Options that every optimiser of fastmlp has and PyTorch's optimisers lack.
SHARED = ("clip_norm", "clip_value", "l1", "decay", "ema")


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
        # A small beta2 lets v fall again; otherwise amsgrad would not change anything.
        options["betas"] = (
            float(rng.uniform(0.5, 0.95)),
            float(rng.choice([0.5, 0.8, 0.9, 0.99, 0.999])),
        )
        options["amsgrad"] = bool(rng.random() < 0.5)
    return options


def draw_shared(
    rng: np.random.Generator, clip: str | None, gradient_scale: float
) -> dict[str, Any]:
    """Random options common to all optimisers."""
    options: dict[str, Any] = {}
    if clip == "clip_norm":
        options[clip] = log_uniform(rng, 0.03, 3.0) * gradient_scale
    elif clip == "clip_value":
        options[clip] = log_uniform(rng, 1e-3, 1e-1) * gradient_scale
    if rng.random() < 0.4:
        options["l1"] = log_uniform(rng, 1e-3, 3e-2) * gradient_scale
    if rng.random() < 0.5:
        options["decay"] = "weights"
    if rng.random() < 0.4:
        options["ema"] = float(rng.uniform(0.5, 0.99))
    return options


def draw_schedule(rng: np.random.Generator, name: str) -> dict[str, Any]:
    """Random options of a schedule except the learning rate, with fastmlp's names."""
    if name == "Step":
        gamma = float(rng.uniform(0.3, 1.2))
        return {"step_size": int(rng.integers(5, 30)), "gamma": gamma}
    if name == "MultiStep":
        milestones = sorted(rng.integers(0, STEPS, int(rng.integers(1, 5))).tolist())
        return {"milestones": milestones, "gamma": float(rng.uniform(0.3, 1.1))}
    if name == "Exponential":
        return {"gamma": float(rng.uniform(0.9, 1.0))}
    if name.startswith("Cosine"):
        # PyTorch's rate without restarts would rise again after a period.
        restarts = name.endswith("restarts")
        low, high = (3, 30) if restarts else (STEPS, 2 * STEPS)
        options: dict[str, Any] = {"period": int(rng.integers(low, high))}
        if restarts:
            options["restarts"] = int(rng.integers(1, 4))
        return options
    if name == "LinearWarmup":
        factor = float(rng.uniform(0.05, 1.0))
        return {"steps": int(rng.integers(1, STEPS)), "start_factor": factor}
    return {
        "total_steps": int(rng.integers(STEPS, 2 * STEPS)),
        "pct_start": float(rng.uniform(0.1, 0.45)),
        "anneal_strategy": str(rng.choice(["cos", "linear"])),
        "div_factor": float(rng.uniform(2.0, 30.0)),
        "final_div_factor": log_uniform(rng, 10.0, 1e4),
        "three_phase": bool(rng.random() < 0.5),
    }


def torch_schedule(spec: Spec, optimizer: torch.optim.Optimizer) -> Any:
    """Return PyTorch's schedule of the draw, or None."""
    if spec.schedule is None:
        return None
    name, own = spec.schedule
    if name == "Step":
        return lr_scheduler.StepLR(optimizer, **own)
    if name == "MultiStep":
        return lr_scheduler.MultiStepLR(optimizer, **own)
    if name == "Exponential":
        return lr_scheduler.ExponentialLR(optimizer, **own)
    if name == "Cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, own["period"])
    if name == "Cosine with restarts":
        return lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, own["period"], own["restarts"]
        )
    if name == "LinearWarmup":
        return lr_scheduler.LinearLR(optimizer, own["start_factor"], 1.0, own["steps"])
    peak = spec.optimizer_options["lr"]
    return lr_scheduler.OneCycleLR(optimizer, peak, cycle_momentum=False, **own)


class TorchUpdates:
    """Steps by torch.optim, with clipping, penalties and averages."""

    def __init__(self, spec: Spec, params: list[torch.Tensor]) -> None:
        options = dict(spec.optimizer_options)
        self.shared = {name: options.pop(name, None) for name in SHARED}
        self.params = params
        self.penalised = params
        self.sign = -1.0 if options["maximize"] else 1.0
        groups: list[dict[str, Any]] = [{"params": params}]
        if self.shared["decay"] == "weights":
            pairs = list(zip(spec.tensors, params, strict=True))
            weights = [p for name, p in pairs if name.endswith(".weight")]
            others = [p for name, p in pairs if not name.endswith(".weight")]
            self.penalised = weights
            groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
            groups = [group for group in groups if group["params"]]
        self.optimizer = getattr(torch.optim, spec.optimizer)(groups, **options)
        self.schedule = torch_schedule(spec, self.optimizer)
        self.average: swa_utils.AveragedModel | None = None
        # The module's parameters share memory with the trained ones.
        self.module = torch.nn.ParameterList(params)
        if self.shared["ema"] is not None:
            average = swa_utils.get_ema_multi_avg_fn(self.shared["ema"])
            self.average = swa_utils.AveragedModel(self.module, multi_avg_fn=average)

    def zero_grad(self) -> None:
        """Reset the gradients."""
        self.optimizer.zero_grad()

    def step(self) -> None:
        """Take a step with the current gradients."""
        if self.shared["clip_norm"] is not None:
            torch.nn.utils.clip_grad_norm_(self.params, self.shared["clip_norm"])
        if self.shared["clip_value"] is not None:
            torch.nn.utils.clip_grad_value_(self.params, self.shared["clip_value"])
        if self.shared["l1"] is not None:
            for param in self.penalised:
                # The penalty is minimised even if the loss is maximised.
                slope = self.sign * self.shared["l1"]
                assert param.grad is not None
                param.grad.add_(param.detach().sign(), alpha=slope)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.module)

    @property
    def averages(self) -> list[torch.Tensor]:
        """The moving averages, if any."""
        return [] if self.average is None else list(self.average.module)
