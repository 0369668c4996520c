"""Optimisers: classes with the interface of fastmlp's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .arrays import Array, Rate
from .optimizer_steps import (
    adabelief_step,
    adadelta_step,
    adagrad_step,
    adam_step,
    adamax_step,
    asgd_step,
    condition_gradient,
    interpolate,
    lion_step,
    nadam_momentum,
    nadam_step,
    normal,
    prodigy_rate,
    prodigy_step,
    prodigy_sums,
    radam_step,
    rmsprop_step,
    rprop_step,
    schedule_free_rate,
    schedule_free_step,
    sgd_step,
)

__all__ = [
    "ASGD",
    "SGD",
    "AdaBelief",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Lion",
    "NAdam",
    "Optimizer",
    "Prodigy",
    "RAdam",
    "RMSprop",
    "Rprop",
    "ScheduleFreeAdamW",
    "ScheduleFreeSGD",
]

if TYPE_CHECKING:
    from .mlp import MLP


@dataclass
class Optimizer:
    """Updates float arrays in place, with one step count for all of them.

    The optimisers below have torch's names, defaults and formulas. ``lr`` may be a
    function of the step, which counts from 0. Each step first clips the gradients,
    either their overall norm or each element, then adds ``l1`` times the sign of the
    parameter, and then applies weight decay; ``decay="weights"`` omits the last two for
    arrays of fewer than two dimensions. After the step, the moving average (slot
    ``"ema"``) is updated.
    """

    lr: Rate
    _: KW_ONLY
    clip_norm: float | None = None
    clip_value: float | None = None
    l1: float = 0.0
    decay: str = "all"
    ema: float | None = None
    maximize: bool = False

    def __post_init__(self) -> None:
        if self.clip_norm is not None and self.clip_value is not None:
            raise ValueError("clip_norm and clip_value cannot be combined")
        if self.decay not in ("all", "weights"):
            raise ValueError(f"decay must be 'all' or 'weights', got {self.decay!r}")
        self.reset()

    def reset(self) -> None:
        """Set the step count to 0 and discard the state."""
        self.step_count = 0
        self.slots: list[dict[str, Array]] = []
        self.shared = self._shared()

    def step(
        self, params: MLP | Array | Sequence[Array], grads: Array | Sequence[Array]
    ) -> None:
        """Update a model, one array, or several, with gradients of the same shapes.

        The gradient of a model is that of ``mlp.params``. Raises ValueError, and
        changes nothing, if ``params`` and ``grads`` differ in number or shapes, if
        ``params`` differ from those of the first step, or if ``decay="weights"`` but
        no array is known to hold weights.
        """
        grads = [grads] if isinstance(grads, np.ndarray) else grads
        if not isinstance(params, (np.ndarray, list, tuple)):
            model: Any = params
            self._step([model.params], grads, [model._parts()])
            return
        params = [params] if isinstance(params, np.ndarray) else params
        decays = self.l1 != 0 or getattr(self, "weight_decay", 0.0) != 0
        vectors = all(p.ndim < 2 for p in params)
        if decays and vectors and self.decay == "weights":
            raise ValueError("decay='weights' needs a model or an array of weights")
        self._step(params, grads, [[(..., p.ndim > 1)] for p in params])

    def _step(
        self,
        params: Sequence[Array],
        grads: Sequence[Array],
        parts: Sequence[Sequence[tuple[Any, bool]]],
    ) -> None:
        """Take a step; for each array, ``parts`` has pairs (slice, is a weight)."""
        self._rate = float(self.lr(self.step_count) if callable(self.lr) else self.lr)
        first = self._slots() | ({} if self.ema is None else {"ema": 0.0})
        state = self.slots or [
            {name: np.full_like(p, fill) for name, fill in first.items()}
            for p in params
        ]
        shapes = [p.shape for p in params]
        if [g.shape for g in grads] != shapes or len(state) != len(shapes):
            raise ValueError(
                "params and grads must have the same number of arrays with the same "
                "shapes in every step"
            )
        for shape, slots in zip(shapes, state, strict=True):
            for slot in slots.values():
                if slot.shape != shape:
                    raise ValueError(
                        "params must have the same shapes in every step, but an array "
                        f"that had shape {slot.shape} in the first step now has shape "
                        f"{shape}"
                    )
        scale = 1.0
        if self.clip_norm is not None:
            squares = [np.sum(np.square(g, dtype=np.float64)) for g in grads]
            scale = min(1.0, self.clip_norm / (math.sqrt(sum(squares)) + 1e-6))
        self.slots = state
        self.step_count += 1
        for p, g, slots, pieces in zip(params, grads, state, parts, strict=True):
            for part, is_weight in pieces:
                self._spared = self.decay == "weights" and not is_weight
                views = {name: slot[part] for name, slot in slots.items()}
                self._piece(p[part], g[part], views, scale)
        self._end()

    def _piece(
        self, param: Array, grad: Array, slots: dict[str, Array], scale: float
    ) -> None:
        g = np.empty_like(param)
        limit = math.inf if self.clip_value is None else self.clip_value
        # The penalty is minimised even if the objective is maximised.
        l1 = self._penalty(self.l1) * (-1 if self.maximize else 1)
        condition_gradient(g, grad, param, scale, limit, l1)
        self._update(param, g, slots)
        if self.ema is not None:
            weight = 1.0 if self.step_count == 1 else 1 - self.ema
            interpolate(slots["ema"], param, weight)

    def _penalty(self, size: float) -> float:
        return 0.0 if self._spared else size

    @property
    def ema_params(self) -> list[Array] | None:
        """Flat copies of the moving averages; None if ``ema`` is None."""
        if self.ema is None:
            return None
        return [slots["ema"].flatten() for slots in self.slots]

    def averaged(self, mlp: MLP) -> MLP:
        """Return a copy of ``mlp`` whose parameters are the moving averages."""
        averages = self._averages() if self.ema is None else self.ema_params
        if not averages:
            raise ValueError(
                "averaged() needs an optimizer that keeps an average (`ema`), and at "
                "least one step"
            )
        copied = mlp.copy()
        copied.params[:] = self._average(averages[0], copied.params)
        return copied

    def _averages(self) -> list[Array]:
        """Return the averages that the optimiser keeps without ``ema``."""
        return []

    def _average(self, kept: Array, params: Array) -> Array:
        """Return the average, given what `_averages` or ``ema`` has kept."""
        return kept

    def _shared(self) -> dict[str, float]:
        """Return the numbers that all parameters share, with their initial values."""
        return {}

    def _end(self) -> None:
        """Advance the shared numbers after the update of all parameters."""

    def _slots(self) -> dict[str, float]:
        """Return the names of the state arrays, with their initial values."""
        raise NotImplementedError

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        raise NotImplementedError


# fmt: off
@dataclass
class SGD(Optimizer):
    """:func:`sgd_step`."""

    lr: Rate
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0

    def _slots(self) -> dict[str, float]:
        return {"momentum_buffer": 0.0} if self.momentum else {}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        sgd_step(
            param, slots.get("momentum_buffer"), grad, self._rate, self.momentum,
            self.dampening, self.nesterov, self._penalty(self.weight_decay),
            self.maximize, self.step_count,
        )


@dataclass
class Adagrad(Optimizer):
    """:func:`adagrad_step`."""

    lr: Rate = 1e-2
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    _: KW_ONLY
    eps_mode: str = "outside"

    def _slots(self) -> dict[str, float]:
        return {"sum": self.initial_accumulator_value}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        adagrad_step(
            param, slots["sum"], grad, self._rate, self.lr_decay,
            normal(self.eps, param), self._penalty(self.weight_decay), self.maximize,
            self.eps_mode, self.step_count,
        )


@dataclass
class RMSprop(Optimizer):
    """:func:`rmsprop_step`."""

    lr: Rate = 1e-2
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    _: KW_ONLY
    weight_decay: float = 0.0
    eps_mode: str = "outside"

    def _slots(self) -> dict[str, float]:
        names = ["square_avg"] + ["momentum_buffer"] * (self.momentum != 0)
        return dict.fromkeys(names + ["grad_avg"] * self.centered, 0.0)

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        rmsprop_step(
            param, slots["square_avg"], slots.get("momentum_buffer"),
            slots.get("grad_avg"), grad, self._rate, self.alpha,
            normal(self.eps, param), self.momentum, self._penalty(self.weight_decay),
            self.maximize, self.eps_mode,
        )


@dataclass
class Adam(Optimizer):
    """:func:`adam_step`."""

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    amsgrad: bool = False
    _: KW_ONLY
    eps_mode: str = "outside"
    decoupled: ClassVar[bool] = False

    def _slots(self) -> dict[str, float]:
        names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * self.amsgrad
        return dict.fromkeys(names, 0.0)

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        adam_step(
            param, slots["exp_avg"], slots["exp_avg_sq"], slots.get("max_exp_avg_sq"),
            grad, self._rate, *self.betas, normal(self.eps, param),
            self._penalty(self.weight_decay), self.decoupled, self.maximize,
            self.eps_mode, self.step_count,
        )


@dataclass
class AdamW(Adam):
    """Adam with decoupled weight decay."""

    weight_decay: float = 1e-2
    decoupled: ClassVar[bool] = True


@dataclass
class Adamax(Optimizer):
    """:func:`adamax_step`."""

    lr: Rate = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def _slots(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_inf": 0.0}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        adamax_step(
            param, slots["exp_avg"], slots["exp_inf"], grad, self._rate, *self.betas,
            normal(self.eps, param), self._penalty(self.weight_decay), self.maximize,
            self.step_count,
        )


@dataclass
class NAdam(Optimizer):
    """:func:`nadam_step`."""

    lr: Rate = 2e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled_weight_decay: bool = False

    def _shared(self) -> dict[str, float]:
        return {"mu_product": 1.0}

    def _slots(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        nadam_step(
            param, slots["exp_avg"], slots["exp_avg_sq"], grad, self._rate, *self.betas,
            normal(self.eps, param), self._penalty(self.weight_decay),
            self.momentum_decay, self.decoupled_weight_decay, self.maximize,
            self.shared["mu_product"], self.step_count,
        )

    def _end(self) -> None:
        self.shared["mu_product"] *= nadam_momentum(
            self.betas[0], self.momentum_decay, self.step_count
        )


@dataclass
class RAdam(Optimizer):
    """:func:`radam_step`."""

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    def _slots(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        radam_step(
            param, slots["exp_avg"], slots["exp_avg_sq"], grad, self._rate, *self.betas,
            normal(self.eps, param), self._penalty(self.weight_decay),
            self.decoupled_weight_decay, self.maximize, self.step_count,
        )


@dataclass
class Adadelta(Optimizer):
    """:func:`adadelta_step`."""

    lr: Rate = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0

    def _slots(self) -> dict[str, float]:
        return {"square_avg": 0.0, "acc_delta": 0.0}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        adadelta_step(
            param, slots["square_avg"], slots["acc_delta"], grad, self._rate, self.rho,
            normal(self.eps, param), self._penalty(self.weight_decay), self.maximize,
        )


@dataclass
class Rprop(Optimizer):
    """:func:`rprop_step`; ``lr`` is the size of the first step."""

    lr: Rate = 1e-2
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
    _: KW_ONLY
    weight_decay: float = 0.0

    def _slots(self) -> dict[str, float]:
        return {"prev": 0.0, "step_size": self._rate}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        rprop_step(
            param, slots["prev"], slots["step_size"], grad, *self.etas,
            *self.step_sizes, self._penalty(self.weight_decay), self.maximize,
        )


@dataclass
class ASGD(Optimizer):
    """:func:`asgd_step`."""

    lr: Rate = 1e-2
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    weight_decay: float = 0.0

    def _slots(self) -> dict[str, float]:
        return {"ax": 0.0}

    def _averages(self) -> list[Array]:
        return [slots["ax"].flatten() for slots in self.slots]

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        asgd_step(
            param, slots["ax"], grad, self._rate, self.lambd, self.alpha, self.t0,
            self._penalty(self.weight_decay), self.maximize, self.step_count,
        )


@dataclass
class Lion(Optimizer):
    """:func:`lion_step` with decoupled weight decay."""

    lr: Rate = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0

    def _slots(self) -> dict[str, float]:
        return {"exp_avg": 0.0}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        lion_step(
            param, slots["exp_avg"], grad, self._rate, *self.betas,
            self._penalty(self.weight_decay), True, self.maximize,
        )


@dataclass
class AdaBelief(Optimizer):
    """:func:`adabelief_step`."""

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-16
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False

    def _slots(self) -> dict[str, float]:
        return {"exp_avg": 0.0, "exp_avg_var": 0.0}

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        adabelief_step(
            param, slots["exp_avg"], slots["exp_avg_var"], grad, self._rate,
            *self.betas, normal(self.eps, param), self._penalty(self.weight_decay),
            self.decoupled_weight_decay, self.maximize, self.step_count,
        )


@dataclass
class _ScheduleFree(Optimizer):
    adaptive: ClassVar[bool]

    def _shared(self) -> dict[str, float]:
        return {"lr_max": 0.0, "weight_sum": 0.0}

    def _averages(self) -> list[Array]:
        return [slots["z"].flatten() for slots in self.slots]

    def _average(self, kept: Array, params: Array) -> Array:
        """Solve ``y = (1 - beta1) z + beta1 x`` for x."""
        if self.ema is not None:
            return kept
        return params + (1 - 1 / self._moments()[0]) * (kept - params)

    def _moments(self) -> tuple[float, float, float]:
        """Return beta1, beta2 and eps."""
        raise NotImplementedError

    def _weights(self) -> tuple[int, float, float]:
        hyper: Any = self
        return hyper.warmup_steps, hyper.r, hyper.weight_lr_power

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        hyper: Any = self
        beta1, beta2, eps = self._moments()
        schedule_free_step(
            param, slots["z"], slots.get("exp_avg_sq"), grad, self._rate, beta1, beta2,
            normal(eps, param), self._penalty(hyper.weight_decay), self.adaptive,
            self.maximize, *self._weights(), *self._numbers(), self.step_count,
        )

    def _numbers(self) -> tuple[float, float]:
        return self.shared["lr_max"], self.shared["weight_sum"]

    def _end(self) -> None:
        beta2 = self._moments()[1]
        _, _, lr_max, weight_sum = schedule_free_rate(
            self._rate, beta2, self.adaptive, *self._weights(), *self._numbers(),
            self.step_count,
        )
        self.shared = {"lr_max": lr_max, "weight_sum": weight_sum}


@dataclass
class ScheduleFreeSGD(_ScheduleFree):
    """:func:`schedule_free_step`."""

    lr: Rate = 1.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup_steps: int = 0
    r: float = 0.0
    weight_lr_power: float = 2.0
    adaptive: ClassVar[bool] = False

    def _slots(self) -> dict[str, float]:
        return {"z": 0.0}

    def _moments(self) -> tuple[float, float, float]:
        return self.momentum, 0.0, 0.0


@dataclass
class ScheduleFreeAdamW(_ScheduleFree):
    """:func:`schedule_free_step`, adaptive."""

    lr: Rate = 2.5e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0
    r: float = 0.0
    weight_lr_power: float = 2.0
    adaptive: ClassVar[bool] = True

    def _slots(self) -> dict[str, float]:
        return {"z": 0.0, "exp_avg_sq": 0.0}

    def _moments(self) -> tuple[float, float, float]:
        return *self.betas, self.eps


@dataclass
class Prodigy(Optimizer):
    """:func:`prodigy_step`, with the estimate d of the distance to the solution.

    After a step, r becomes ``beta3 r + d / d0 gamma sum(g (p0 - param))`` with the
    parameters before the step, and the estimate is ``d_coef r / sum(|s|)``. d becomes
    the largest estimate so far; it grows at most by the factor ``growth_rate``, except
    when it is still ``d0``. Without any gradient, nothing changes.
    """

    lr: Rate = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    beta3: float | None = None
    eps: float = 1e-8
    weight_decay: float = 0.0
    decouple: bool = True
    use_bias_correction: bool = False
    safeguard_warmup: bool = False
    d0: float = 1e-6
    d_coef: float = 1.0
    growth_rate: float = math.inf

    def _shared(self) -> dict[str, float]:
        self._sums = np.zeros(2)
        return {"d": self.d0, "d_max": self.d0, "d_numerator": 0.0}

    def _slots(self) -> dict[str, float]:
        return dict.fromkeys(("exp_avg", "exp_avg_sq", "s", "p0"), 0.0)

    def _rates(self) -> tuple[float, float]:
        """Return beta3 and gamma."""
        beta3 = math.sqrt(self.betas[1]) if self.beta3 is None else self.beta3
        return beta3, prodigy_rate(
            self._rate, *self.betas, self.use_bias_correction, self.shared["d"],
            self.step_count,
        )

    def _update(self, param: Array, grad: Array, slots: dict[str, Array]) -> None:
        (beta3, gamma), d = self._rates(), self.shared["d"]
        decay = self._penalty(self.weight_decay)
        share = d / self.d0 * (d if self.safeguard_warmup else gamma)
        sums = np.empty(2, param.dtype)
        prodigy_sums(
            sums, param, slots["s"], None if self.step_count == 1 else slots["p0"],
            grad, beta3, share, 0.0 if self.decouple else decay, self.maximize,
        )
        self._sums += sums
        prodigy_step(
            param, slots["exp_avg"], slots["exp_avg_sq"], slots["s"], slots["p0"], grad,
            self._rate, *self.betas, beta3, self.eps, decay, self.decouple,
            self.maximize, self.use_bias_correction, self.safeguard_warmup, self.d0, d,
            self.step_count,
        )

    def _end(self) -> None:
        (beta3, gamma), (product, magnitude) = self._rates(), self._sums
        self._sums = np.zeros(2)
        d, d_max, numerator = self.shared.values()
        if magnitude == 0:
            return
        numerator = beta3 * numerator + d / self.d0 * gamma * float(product)
        estimate = self.d_coef * numerator / float(magnitude)
        if self._rate > 0:
            d = max(d, estimate) if d == self.d0 else d
            d_max = max(d_max, estimate)
            d = min(d_max, d * self.growth_rate)
        self.shared = {"d": d, "d_max": d_max, "d_numerator": numerator}
