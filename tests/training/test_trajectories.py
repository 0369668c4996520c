"""Twenty steps of every optimiser, loss by loss, against the reference in float64."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import SEED, Tolerance

STEPS = 20
LAYERS, ROWS = [5, 19, 3], 24

TRAJECTORY_TOLERANCE = Tolerance(
    64,
    "each of the 20 steps adds a few roundings to parameters of size 1, from sums over "
    "24 terms at most, and descent on a smooth loss does not let errors grow",
)

# The numbers make every option matter: eps is not lost in the denominators, and the
# averages are short enough that their maximum is in the past after a few steps.
ADAM = {"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-2}
RMSPROP = {"lr": 0.01, "alpha": 0.8, "eps": 1e-2}
SGD = {"lr": 0.1}
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", SGD),
    "sgd weight decay": ("SGD", {**SGD, "weight_decay": 0.1}),
    "sgd momentum": ("SGD", {**SGD, "momentum": 0.9}),
    "sgd dampening": ("SGD", {**SGD, "momentum": 0.9, "dampening": 0.5}),
    "sgd nesterov": ("SGD", {**SGD, "momentum": 0.9, "nesterov": True}),
    "sgd all": (
        "SGD",
        {**SGD, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    ),
    "sgd maximize": ("SGD", {"lr": 0.01, "maximize": True}),
    "adagrad": ("Adagrad", {"lr": 0.05}),
    "adagrad all": (
        "Adagrad",
        {
            "lr": 0.05,
            "lr_decay": 0.1,
            "weight_decay": 0.1,
            "initial_accumulator_value": 0.1,
            "eps": 0.1,
        },
    ),
    "adagrad inside": ("Adagrad", {"lr": 0.05, "eps": 0.1, "eps_mode": "inside"}),
    "rmsprop": ("RMSprop", RMSPROP),
    "rmsprop momentum": ("RMSprop", {**RMSPROP, "momentum": 0.5}),
    "rmsprop centered": ("RMSprop", {**RMSPROP, "centered": True}),
    "rmsprop inside": ("RMSprop", {**RMSPROP, "eps_mode": "inside"}),
    "rmsprop all": (
        "RMSprop",
        {**RMSPROP, "momentum": 0.5, "centered": True, "weight_decay": 0.1},
    ),
    "adam": ("Adam", ADAM),
    "adam inside": ("Adam", {**ADAM, "eps_mode": "inside"}),
    "adam hat": ("Adam", {**ADAM, "eps_mode": "hat"}),
    "adam amsgrad": ("Adam", {**ADAM, "amsgrad": True}),
    "adam amsgrad inside": ("Adam", {**ADAM, "amsgrad": True, "eps_mode": "inside"}),
    "adam amsgrad hat": ("Adam", {**ADAM, "amsgrad": True, "eps_mode": "hat"}),
    "adam weight decay": ("Adam", {**ADAM, "weight_decay": 0.1}),
    "adamw": ("AdamW", {**ADAM, "weight_decay": 0.1}),
    "adamw amsgrad": ("AdamW", {**ADAM, "weight_decay": 0.5, "amsgrad": True}),
    "adamax": ("Adamax", ADAM),
    "adamax weight decay": ("Adamax", {**ADAM, "weight_decay": 0.1}),
    "nadam": ("NAdam", ADAM),
    "nadam all": (
        "NAdam",
        {
            **ADAM,
            "weight_decay": 0.1,
            "momentum_decay": 0.5,
            "decoupled_weight_decay": True,
        },
    ),
    "radam": ("RAdam", {**ADAM, "betas": (0.8, 0.9)}),
    "radam weight decay": (
        "RAdam",
        {**ADAM, "betas": (0.8, 0.9), "weight_decay": 0.1},
    ),
    "adadelta": ("Adadelta", {"eps": 1e-3}),
    "adadelta all": ("Adadelta", {"rho": 0.5, "eps": 1e-2, "weight_decay": 0.1}),
    "asgd": ("ASGD", {"lr": 0.1}),
    "asgd all": ("ASGD", {"lr": 0.1, "lambd": 0.1, "weight_decay": 0.1}),
    "lion": ("Lion", {"lr": 2e-3}),
    "lion weight decay": ("Lion", {"lr": 2e-3, "weight_decay": 0.5}),
    "adabelief": ("AdaBelief", ADAM),
    "adabelief decoupled": (
        "AdaBelief",
        {**ADAM, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "schedule-free sgd": ("ScheduleFreeSGD", {"lr": 0.1}),
    "schedule-free sgd all": (
        "ScheduleFreeSGD",
        {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1, "warmup_steps": 8, "r": 0.5},
    ),
    "schedule-free adamw": ("ScheduleFreeAdamW", ADAM),
    "schedule-free adamw all": (
        "ScheduleFreeAdamW",
        {**ADAM, "weight_decay": 0.5, "warmup_steps": 8, "weight_lr_power": 0.5},
    ),
    "prodigy": ("Prodigy", {"d0": 1e-2}),
    "prodigy all": (
        "Prodigy",
        {
            "d0": 1e-2,
            "betas": (0.8, 0.9),
            "weight_decay": 0.1,
            "decouple": False,
            "use_bias_correction": True,
            "growth_rate": 1.1,
        },
    ),
    "rprop": ("Rprop", {"lr": 1e-3}),
    "rprop all": ("Rprop", {"lr": 1e-3, "etas": (0.7, 1.1), "weight_decay": 0.1}),
    # The library's defaults, whose denominators are nearly 0 at first.
    "rmsprop defaults": ("RMSprop", {}),
    "adam defaults": ("Adam", {}),
    "adamw defaults": ("AdamW", {}),
    "adamax defaults": ("Adamax", {}),
}


def problem() -> tuple[np.ndarray, np.ndarray]:
    """Return inputs and targets that are exact in float32."""
    rng = np.random.default_rng(SEED)
    x, y = rng.standard_normal((ROWS, LAYERS[0])), rng.standard_normal((ROWS, 3))
    return x.astype(np.float32), y.astype(np.float32)


def first_params() -> np.ndarray:
    """Return initial parameters that are exact in float32."""
    return fm.MLP(LAYERS, activation="tanh", dtype="float32", seed=2).params.copy()


def trajectory(lib: Any, dtype: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the losses before each step, and the parameters after the last."""
    mlp = lib.MLP(LAYERS, activation="tanh", dtype=np.dtype(dtype).name)
    mlp.params[...] = first_params()
    x, y = (a.astype(dtype) for a in problem())
    kind, options = CONFIGURATIONS[name]
    loss, optimizer = lib.MSE(), getattr(lib, kind)(**options)
    losses = [mlp.train_step(x, y, loss, optimizer) for _ in range(STEPS)]
    return np.array(losses), mlp.params


@cache
def exact(name: str) -> tuple[np.ndarray, np.ndarray]:
    return trajectory(reference, np.float64, name)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_step_is_that_of_the_reference(name: str, isa: str, dtype: type) -> None:
    losses, params = trajectory(fm, dtype, name)
    exact_losses, exact_params = exact(name)
    tolerance = TRAJECTORY_TOLERANCE.of(dtype)
    for step, (value, wanted) in enumerate(zip(losses, exact_losses, strict=True)):
        assert value == pytest.approx(wanted, rel=tolerance), f"step {step}"
    limit = tolerance * np.abs(exact_params).max()
    np.testing.assert_allclose(params, exact_params, rtol=0, atol=limit)


def test_trajectories_of_different_configurations_differ() -> None:
    # Otherwise an option without any effect would pass.
    seen = 2 * TRAJECTORY_TOLERANCE.of(np.float32)
    for one, other in combinations(CONFIGURATIONS, 2):
        apart = np.abs(exact(one)[0] / exact(other)[0] - 1).max()
        assert apart > seen, f"{one} and {other}"


def test_descent_descends_and_ascent_ascends() -> None:
    for name in CONFIGURATIONS:
        losses = exact(name)[0]
        up = "maximize" in name
        assert (losses[-1] > losses[0]) == up, name
