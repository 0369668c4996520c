"""Optimisers: the step functions, and classes with the interface of fastmlp's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .arrays import Array, Rate, quiet

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Optimizer",
    "RMSprop",
    "adagrad_step",
    "adam_step",
    "adamax_step",
    "condition_gradient",
    "interpolate",
    "rmsprop_step",
    "sgd_step",
]

if TYPE_CHECKING:
    from .mlp import MLP

OPTIMIZERS: tuple[str, ...] = ("sgd", "adagrad", "rmsprop", "adam", "adamax")


def _gradient(param: Array, grad: Array, weight_decay: float, maximize: bool) -> Array:
    # The penalty (weight_decay / 2) |param|^2 is minimised even if the objective is
    # maximised, as in torch. Without weight decay, param must not be used, because
    # 0 * inf is NaN.
    g = -grad if maximize else grad
    return g if weight_decay == 0 else g + weight_decay * param


def _normal(eps: float, param: Array) -> float:
    """Return eps, raised to a normal number so that 0 / (0 + eps) is 0."""
    return max(eps, float(np.finfo(param.dtype).smallest_normal))


def _root(square: Array) -> Array:
    """Return the root of a sum of squares, which may have underflowed to 0."""
    least = np.finfo(square.dtype).smallest_normal
    root: Array = np.sqrt(np.maximum(square, least))
    return root


def _denominator(square: Array, eps: float, eps_mode: str) -> Array:
    if eps_mode == "inside":
        return np.sqrt(square + eps)
    if eps_mode == "outside":
        return _root(square) + eps
    raise ValueError(f"unknown eps_mode {eps_mode!r}")


# fmt: off
@quiet
def sgd_step(
    param: Array, buf: Array | None, grad: Array, lr: float, momentum: float,
    dampening: float, nesterov: bool, weight_decay: float, maximize: bool, step: int,
) -> None:
    """``v = momentum v + (1 - dampening) g``, ``param -= lr v``.

    With Nesterov's momentum [2], ``param -= lr (g + momentum v)``. ``step`` counts from
    1; in step 1, v is g itself. ``buf`` holds v; it is None if ``momentum`` is 0.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    if momentum != 0:
        if buf is None:
            raise ValueError("buf must be an array when momentum is not 0")
        buf[...] = g if step == 1 else momentum * buf + (1 - dampening) * g
        g = g + momentum * buf if nesterov else buf
    param -= lr * g


@quiet
def adagrad_step(
    param: Array, sum: Array, grad: Array, lr: float, lr_decay: float, eps: float,
    weight_decay: float, maximize: bool, eps_mode: str, step: int,
) -> None:
    """``G += g^2``, ``param -= lr / (1 + (step - 1) lr_decay) g / (sqrt(G) + eps)``.

    ``sum`` holds G (torch's name) [2]. With ``eps_mode`` "inside", the denominator is
    ``sqrt(G + eps)``.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    sum += g * g
    rate = lr / (1 + (step - 1) * lr_decay)
    param -= rate * (g / _denominator(sum, eps, eps_mode))


@quiet
def rmsprop_step(
    param: Array, square_avg: Array, momentum_buf: Array | None,
    grad_avg: Array | None, grad: Array, lr: float, alpha: float, eps: float,
    momentum: float, weight_decay: float, maximize: bool, eps_mode: str,
) -> None:
    """``v = alpha v + (1 - alpha) g^2``, ``param -= lr g / (sqrt(v) + eps)`` [2].

    With ``grad_avg``, the running mean of g (centred RMSprop), its square is subtracted
    from v, and the difference is clamped at 0 because rounding can make it negative.
    ``momentum_buf`` is None without momentum.
    """
    if momentum != 0 and momentum_buf is None:
        raise ValueError("momentum_buf must be an array when momentum is not 0")
    g = _gradient(param, grad, weight_decay, maximize)
    square_avg[...] = alpha * square_avg + (1 - alpha) * g * g
    variance = square_avg
    if grad_avg is not None:
        grad_avg[...] = alpha * grad_avg + (1 - alpha) * g
        variance = np.maximum(square_avg - grad_avg * grad_avg, 0)
    direction = g / _denominator(variance, eps, eps_mode)
    if momentum != 0 and momentum_buf is not None:
        momentum_buf[...] = momentum * momentum_buf + direction
        direction = momentum_buf
    param -= lr * direction


@quiet
def adam_step(
    param: Array, exp_avg: Array, exp_avg_sq: Array, max_exp_avg_sq: Array | None,
    grad: Array, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, maximize: bool, eps_mode: str, step: int,
) -> None:
    """Adam [1] and, with ``decoupled``, AdamW; ``step`` t counts from 1.

    ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 - beta2) g^2``,
    ``m_hat = m / (1 - beta1^t)``, ``v_hat = v / (1 - beta2^t)``, ``param -= lr d``.
    The direction d depends on ``eps_mode``. "outside":
    ``m_hat / (sqrt(v_hat) + eps)`` (algorithm 1). "inside":
    ``m_hat / sqrt(v_hat + eps)``. "hat":
    ``sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)`` (end of section 2).
    ``max_exp_avg_sq`` (AMSGrad) replaces v by its running maximum.
    """
    if decoupled:
        param *= 1 - lr * weight_decay
        weight_decay = 0.0
    g = _gradient(param, grad, weight_decay, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * g * g
    v = exp_avg_sq
    if max_exp_avg_sq is not None:
        np.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
        v = max_exp_avg_sq
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    if eps_mode == "hat":
        scale = lr * math.sqrt(correction2) / correction1
        param -= scale * (exp_avg / (_root(v) + eps))
    else:
        m_hat, v_hat = exp_avg / correction1, v / correction2
        param -= lr * (m_hat / _denominator(v_hat, eps, eps_mode))


@quiet
def adamax_step(
    param: Array, exp_avg: Array, exp_inf: Array, grad: Array, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, maximize: bool, step: int,
) -> None:
    """Adamax [1], with eps added where torch adds it; ``step`` t counts from 1.

    ``m = beta1 m + (1 - beta1) g``, ``u = max(beta2 u, |g| + eps)``,
    ``param -= lr / (1 - beta1^t) m / u``.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_inf[...] = np.maximum(beta2 * exp_inf, np.abs(g) + eps)
    param -= lr / (1 - beta1**step) * (exp_avg / exp_inf)


@quiet
def condition_gradient(
    out: Array, grad: Array, param: Array, scale: float, limit: float, l1: float
) -> None:
    """``out = clip(scale grad, -limit, limit) + l1 sign(param)``.

    ``scale`` clips the norm of the gradient (Pascanu et al., 2013). If ``l1`` is 0,
    ``param`` is not used, so that a NaN in it does not reach ``out``.
    """
    clipped = np.clip(grad * scale, -limit, limit)
    out[...] = clipped if l1 == 0 else clipped + l1 * np.sign(param)


@quiet
def interpolate(out: Array, x: Array, weight: float) -> None:
    """``out += weight (x - out)``, for moving averages and Polyak's updates."""
    if weight == 1:
        out[...] = x
    elif weight != 0:
        out += weight * (x - out)


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
        """Set the step count to 0 and discard the state arrays."""
        self.step_count = 0
        self.slots: list[dict[str, Array]] = []

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
        self._rate = float(self.lr(self.step_count) if callable(self.lr) else self.lr)
        self.slots = state
        self.step_count += 1
        for p, g, slots, pieces in zip(params, grads, state, parts, strict=True):
            for part, is_weight in pieces:
                self._spared = self.decay == "weights" and not is_weight
                views = {name: slot[part] for name, slot in slots.items()}
                self._piece(p[part], g[part], views, scale)

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
        averages = self.ema_params
        if not averages:
            raise ValueError("averaged() needs `ema` to be set and at least one step")
        copied = mlp.copy()
        copied.params[:] = averages[0]
        return copied

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
            _normal(self.eps, param), self._penalty(self.weight_decay), self.maximize,
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
            _normal(self.eps, param), self.momentum, self._penalty(self.weight_decay),
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
            grad, self._rate, *self.betas, _normal(self.eps, param),
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
            _normal(self.eps, param), self._penalty(self.weight_decay), self.maximize,
            self.step_count,
        )
