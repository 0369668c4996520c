"""Calls of the steps of the optimisers, with bounds on their errors."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
from fastmlp import reference
from helpers import TAILS, TOLERANCE
from kernel_cases import Call, rounded

UPDATE = TOLERANCE["update"].ulps


def update_bound(result: np.ndarray) -> float:
    return UPDATE * float(np.abs(result).max())


SGD = [
    # momentum, dampening, nesterov, weight_decay, maximize, step
    (0.0, 0.0, False, 0.0, False, 1),
    (0.0, 0.0, False, 0.1, True, 3),
    (0.9, 0.0, False, 0.0, False, 1),
    (0.9, 0.0, False, 0.01, False, 2),
    (0.9, 0.5, False, 0.0, True, 1),
    (0.9, 0.5, False, 0.0, True, 5),
    (0.9, 0.0, True, 0.01, False, 1),
    (0.9, 0.0, True, 0.01, True, 7),
]


ADAGRAD = [
    # lr_decay, eps, weight_decay, maximize, eps_mode, step
    (0.0, 1e-10, 0.0, False, "outside", 1),
    (0.1, 0.5, 0.01, True, "outside", 4),
    (0.1, 0.5, 0.0, False, "inside", 2),
]


RMSPROP = [
    # momentum, centered, alpha, eps, weight_decay, maximize, eps_mode
    (0.0, False, 0.99, 1e-8, 0.0, False, "outside"),
    (0.9, False, 0.9, 0.5, 0.01, True, "inside"),
    (0.0, True, 0.9, 1e-8, 0.0, True, "outside"),
    (0.9, True, 0.99, 0.5, 0.01, False, "inside"),
]


ADAM = [
    # amsgrad, beta1, beta2, eps, weight_decay, decoupled, maximize, eps_mode, step
    (False, 0.9, 0.999, 1e-8, 0.0, False, False, "outside", 1),
    (False, 0.9, 0.999, 1e-8, 0.0, False, False, "outside", 1000),
    (True, 0.9, 0.99, 0.5, 0.01, False, True, "outside", 3),
    (False, 0.9, 0.999, 0.5, 0.0, False, False, "inside", 2),
    (True, 0.8, 0.999, 0.5, 0.01, True, False, "inside", 3),
    (False, 0.9, 0.999, 0.5, 0.01, True, True, "hat", 2),
    (True, 0.9, 0.999, 0.5, 0.01, False, False, "hat", 5),
]


ADAMAX = [
    # beta1, beta2, eps, weight_decay, maximize, step
    (0.9, 0.999, 1e-8, 0.0, False, 1),
    (0.9, 0.999, 1e-8, 0.0, False, 1000),
    (0.8, 0.5, 0.5, 0.01, True, 3),
]

# Of other optimisers: the slots, those of them that are positive, and the scalars.
OTHERS: dict[str, tuple[str, str, list[tuple[Any, ...]]]] = {
    # lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled, maximize,
    # mu_product, step
    "nadam_step": (
        "exp_avg exp_avg_sq",
        "exp_avg_sq",
        [
            (0.1, 0.9, 0.999, 1e-8, 0.0, 4e-3, False, False, 1.0, 1),
            (0.1, 0.9, 0.9, 0.5, 0.01, 0.1, False, True, 0.2, 3),
            (0.1, 0.8, 0.9, 0.5, 0.01, 0.25, True, False, 0.1, 4),
        ],
    ),
    # lr, beta1, beta2, eps, weight_decay, decoupled, maximize, step
    "radam_step": (
        "exp_avg exp_avg_sq",
        "exp_avg_sq",
        [
            (0.1, 0.9, 0.999, 1e-8, 0.0, False, False, 1),
            (0.1, 0.9, 0.999, 1e-8, 0.01, True, False, 1000),
            (0.1, 0.8, 0.9, 0.5, 0.01, False, True, 9),
        ],
    ),
    # lr, rho, eps, weight_decay, maximize
    "adadelta_step": (
        "square_avg acc_delta",
        "square_avg acc_delta",
        [(1.0, 0.9, 1e-6, 0.0, False), (0.5, 0.5, 0.5, 0.01, True)],
    ),
    # etaminus, etaplus, step_min, step_max, weight_decay, maximize
    "rprop_step": (
        "prev step_size",
        "step_size",
        [(0.5, 1.2, 1e-6, 50.0, 0.0, False), (0.7, 1.5, 1.0, 1.5, 0.01, True)],
    ),
    # lr, lambd, alpha, t0, weight_decay, maximize, step
    "asgd_step": (
        "ax",
        "",
        [
            (0.1, 1e-4, 0.75, 1e6, 0.0, False, 1),
            (0.1, 0.5, 0.75, 2.0, 0.01, True, 7),
            (0.1, 0.5, 1.0, 0.0, 0.01, True, 7),
        ],
    ),
    # lr, beta1, beta2, weight_decay, decoupled, maximize
    "lion_step": (
        "exp_avg",
        "",
        [(0.1, 0.9, 0.99, 0.0, False, False), (0.1, 0.5, 0.8, 0.1, True, True)],
    ),
    # lr, beta1, beta2, eps, weight_decay, adaptive, maximize, warmup_steps, r,
    # weight_lr_power, lr_max, weight_sum, step
    "schedule_free_step": (
        "z exp_avg_sq",
        "exp_avg_sq",
        [
            (0.1, 0.9, 0.999, 1e-8, 0.0, True, False, 0, 0.0, 2.0, 0.0, 0.0, 1),
            (0.1, 0.9, 0.999, 0.5, 0.1, True, True, 5, 0.5, 1.5, 0.05, 0.1, 3),
        ],
    ),
    # lr, beta1, beta2, beta3, eps, weight_decay, decoupled, maximize,
    # use_bias_correction, safeguard_warmup, d0, d, step
    "prodigy_step": (
        "exp_avg exp_avg_sq s p0",
        "exp_avg_sq",
        [
            (1.0, 0.9, 0.999, 0.99, 1e-8, 0.0, True, False, False, False, 0.1, 0.1, 1),
            (0.5, 0.8, 0.9, 0.9, 0.5, 0.1, True, True, True, False, 0.1, 0.5, 3),
            (0.5, 0.8, 0.9, 0.9, 0.5, 0.1, False, True, False, True, 0.1, 0.5, 4),
        ],
    ),
    # lr, beta1, beta2, eps, weight_decay, decoupled, maximize, step
    "adabelief_step": (
        "exp_avg exp_avg_var",
        "exp_avg_var",
        [
            (0.1, 0.9, 0.999, 1e-16, 0.0, False, False, 1),
            (0.1, 0.8, 0.9, 0.5, 0.01, True, True, 5),
        ],
    ),
}


SCHEDULE_FREE = list(inspect.signature(reference.schedule_free_step).parameters)[4:]
PLAIN_SCHEDULE_FREE = (0.1, 0.9, 0, 0, 0.1, False, True, 5, 0.5, 2.0, 0.05, 0.01, 3)


def optimiser_calls(dtype: type, rng: np.random.Generator) -> Iterator[Call]:
    for n in TAILS:

        def normal(n: int = n) -> np.ndarray:
            return rounded(rng.standard_normal(n), dtype)

        def positive(n: int = n) -> np.ndarray:
            return rounded(rng.uniform(1, 2, n), dtype)

        def update(kernel: str, slots: dict[str, Any], **hyper: Any) -> Call:
            state = {"param": normal(), **slots}
            names = tuple(k for k, v in state.items() if v is not None)
            return Call(
                kernel,
                {**state, "grad": normal(), **hyper},
                updated=names,
                bound=dict.fromkeys(names, update_bound),
            )

        names = inspect.signature(reference.sgd_step).parameters
        for values in SGD:
            hyper = dict(zip(list(names)[4:], values, strict=True))
            buf = normal() if hyper["momentum"] else None
            yield update("sgd_step", {"buf": buf}, lr=0.1, **hyper)
        names = inspect.signature(reference.adagrad_step).parameters
        for values in ADAGRAD:
            hyper = dict(zip(list(names)[4:], values, strict=True))
            yield update("adagrad_step", {"sum": positive()}, lr=0.1, **hyper)
        for momentum, centered, alpha, eps, decay, maximize, mode in RMSPROP:
            slots = {
                "square_avg": positive(),  # at least 1, the square of grad_avg 1/4
                "momentum_buf": normal() if momentum else None,
                "grad_avg": rounded(rng.uniform(-0.5, 0.5, n), dtype)
                if centered
                else None,
            }
            yield update(
                "rmsprop_step",
                slots,
                lr=0.1,
                alpha=alpha,
                eps=eps,
                momentum=momentum,
                weight_decay=decay,
                maximize=maximize,
                eps_mode=mode,
            )
        names = inspect.signature(reference.adam_step).parameters
        for amsgrad, *values in ADAM:
            slots = {
                "exp_avg": normal(),
                "exp_avg_sq": positive(),
                "max_exp_avg_sq": positive() if amsgrad else None,
            }
            hyper = dict(zip(list(names)[6:], values, strict=True))
            yield update("adam_step", slots, lr=0.1, **hyper)
        names = inspect.signature(reference.adamax_step).parameters
        for values in ADAMAX:
            slots = {"exp_avg": normal(), "exp_inf": positive()}
            hyper = dict(zip(list(names)[5:], values, strict=True))
            yield update("adamax_step", slots, lr=0.1, **hyper)
        hyper = dict(zip(SCHEDULE_FREE, PLAIN_SCHEDULE_FREE, strict=True))
        slots = {"z": normal(), "exp_avg_sq": None}
        yield update("schedule_free_step", slots, **hyper)
        for kernel, (names, squares, settings) in OTHERS.items():
            scalars = list(inspect.signature(getattr(reference, kernel)).parameters)
            scalars = scalars[scalars.index("grad") + 1 :]
            for values in settings:
                slots = {
                    name: positive() if name in squares.split() else normal()
                    for name in names.split()
                }
                hyper = dict(zip(scalars, values, strict=True))
                yield update(kernel, slots, **hyper)
