"""Hyperparameters of optimisers: descriptors that validate and document."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, TypedDict, overload

import numpy as np

from .. import _validate
from ..schedules import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from ._base import Optimizer

    Rate = float | Schedule | Callable[[int], float]


class Options(TypedDict, total=False):
    """What every optimiser takes beside its own."""

    clip_norm: float | None
    clip_value: float | None
    l1: float
    decay: str
    ema: float | None


DEFAULTS: dict[str, Any] = {
    "clip_norm": None,
    "clip_value": None,
    "l1": 0.0,
    "decay": "all",
    "ema": None,
}


def bad_rate(rate: float, step: int) -> str:
    return f"lr must be finite and >= 0 at every step, got {rate} for step {step}"


class Number:
    """A number among the hyperparameters, with its bounds; may be set at any time."""

    def __init__(
        self,
        low: float = -inf,
        high: float = inf,
        *,
        open_high: bool = False,
        fixed: bool = False,
    ) -> None:
        self._bounds = (low, high)
        self._open_high = open_high
        self._fixed = fixed

    def __set_name__(self, owner: type[Optimizer], name: str) -> None:
        self._name = name

    def check(self, value: object) -> float:
        return _validate.real(
            self._name, value, *self._bounds, open_high=self._open_high
        )

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> float: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | float:
        if instance is None:
            return self
        return float(instance.core.get(self._name))

    def __set__(self, instance: Optimizer, value: float) -> None:
        number = self.check(value)
        if self._fixed:
            raise AttributeError(
                f"{self._name} is fixed: make a new optimiser with another"
            )
        instance._check_together({**instance._hyper(), self._name: number})
        instance.core.set(self._name, number)


class Flag:
    """A yes or no among the hyperparameters."""

    def __set_name__(self, owner: type[Optimizer], name: str) -> None:
        self._name = name

    def check(self, value: object) -> bool:
        return _validate.flag(self._name, value)

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> bool: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | bool:
        return self if instance is None else bool(instance.core.get(self._name))

    def __set__(self, instance: Optimizer, value: bool) -> None:
        flag = self.check(value)
        instance._check_together({**instance._hyper(), self._name: flag})
        instance.core.set(self._name, flag)


class Optional(Number):
    """A number > 0 or None, which the core knows as 0."""

    def check(self, value: object) -> float | None:  # type: ignore[override]
        if value is None:
            return None
        return _validate.real(
            self._name, value, *self._bounds, open_low=True, open_high=True
        )

    @overload  # type: ignore[override]
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> float | None: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | float | None:
        if instance is None:
            return self
        return float(instance.core.get(self._name)) or None

    def __set__(self, instance: Optimizer, value: float | None) -> None:
        number = self.check(value)
        instance._check_together({**instance._hyper(), self._name: number})
        instance.core.set(self._name, number or 0.0)


class Decay:
    """What weight decay and L1 act on; the core knows a flag."""

    def check(self, value: object) -> str:
        return _validate.choice("decay", value, ("all", "weights"))

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> str: ...
    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> Self | str:
        if instance is None:
            return self
        return "weights" if instance.core.get("decay_weights_only") else "all"

    def __set__(self, instance: Optimizer, value: str) -> None:
        only = self.check(value) == "weights"
        instance.core.set("decay_weights_only", only)


class Signature:
    """The constructor's, with what all optimisers take spelled out."""

    def __get__(self, instance: object, owner: type[Optimizer]) -> Any:
        import inspect

        own = list(inspect.signature(owner.__init__).parameters.values())[1:-1]
        only = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(name, only, default=default)
            for name, default in DEFAULTS.items()
        ]
        first = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        last = [p for p in own if p.kind is only]
        return inspect.Signature([*first, *shared, *last])


class Lr:
    """The learning rate: the core has a number, a schedule is kept beside it."""

    def check(self, value: object) -> Rate:
        if isinstance(value, Schedule) or (
            callable(value) and not isinstance(value, type)
        ):
            return value
        if isinstance(value, type) and issubclass(value, Schedule):
            raise TypeError(
                f"lr must be a schedule, not a class; did you mean "
                f"fm.schedules.{value.__name__}(lr, …)?"
            )
        if not isinstance(value, str) and value is not None:
            return _validate.real("lr", value, 0.0)
        raise TypeError(
            "lr must be a number, one of fm.schedules or a function of the step, "
            f"got {_validate.describe(value)}"
        )

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> float: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | float:
        if instance is None:
            return self
        if instance._schedule is not None:
            return instance._scheduled(instance.step_count)
        return float(instance.core.get("lr"))

    def __set__(self, instance: Optimizer, value: Rate) -> None:
        rate = self.check(value)
        instance._ahead = 0, []
        if isinstance(rate, float):
            instance.core.set("lr", rate)
            instance._schedule = None
        else:
            instance._schedule = rate


def _betas(value: object) -> tuple[float, float]:
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
        raise TypeError(
            f"betas must be two numbers (beta1, beta2), got {_validate.describe(value)}"
        )
    first, second = value
    return (
        _validate.real("betas[0]", first, 0.0, 1.0, open_high=True),
        _validate.real("betas[1]", second, 0.0, 1.0, open_high=True),
    )
