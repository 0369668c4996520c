"""Hyperparameters of optimisers: descriptors that validate values and pass them on."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypedDict, TypeVar, overload

import numpy as np

from .. import _validate
from .._network.model import is_model
from .._validate.elsewhere import NO_PARAMETERS
from ..schedules import ReduceOnPlateau, Schedule, Timeline
from . import _groups
from ._timeline import at_first, is_function

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from .. import _core
    from ._base import Optimizer

    Rate = float | Schedule | Callable[[int], float]


class Options(TypedDict, total=False):
    """Keyword arguments that every optimiser takes besides its own."""

    accumulate: int
    clip_norm: float | None
    clip_value: float | None
    l1: Rate
    decay: str
    ema: float | None
    groups: Sequence[Mapping[str, Any]]


DEFAULTS: dict[str, Any] = {
    "accumulate": 1,
    "clip_norm": None,
    "clip_value": None,
    "l1": 0.0,
    "decay": "all",
    "ema": None,
    "groups": (),
}

T = TypeVar("T")


class Hyperparameter(Generic[T]):
    """A hyperparameter of type T, stored in the core; can be set unless ``fixed``.

    ``core`` is its name in the core, if that is another one.
    """

    def __init__(self, *, fixed: bool = False, core: str | None = None) -> None:
        self._fixed, self._core = fixed, core or ""

    def __set_name__(self, owner: type[Optimizer], name: str) -> None:
        self._name, self._core = name, self._core or name

    def check(self, value: object) -> T:
        """Return the value in the form of the public attribute, or raise an error."""
        raise NotImplementedError

    def to_core(self, value: Any) -> dict[str, Any]:
        """Return the core's hyperparameters for a checked value."""
        return {self._core: value}

    def from_core(self, core: _core.Optimizer) -> Any:
        """Return the value of the public attribute."""
        return core.get(self._core)

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> T: ...
    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> Self | T:
        if instance is None:
            return self
        value: T = self.from_core(instance.core)
        return value

    def __set__(self, instance: Optimizer, value: T) -> None:
        if self._fixed:
            raise AttributeError(
                f"{self._name} cannot be changed: create a new optimizer instead"
            )
        checked = self.check(value)
        _groups.check_together(instance, {**instance._hyper(), self._name: checked})
        for name, number in self.to_core(checked).items():
            instance.core.set(name, number)


class Number(Hyperparameter[float]):
    """A finite number within bounds."""

    def __init__(
        self,
        low: float = -inf,
        high: float = inf,
        *,
        fixed: bool = False,
        core: str | None = None,
    ) -> None:
        super().__init__(fixed=fixed, core=core)
        self._bounds = (low, high)

    def check(self, value: object) -> float:
        return _validate.real(self._name, value, *self._bounds)


class Flag(Hyperparameter[bool]):
    """True or False."""

    def check(self, value: object) -> bool:
        return _validate.flag(self._name, value)


class Count(Hyperparameter[int]):
    """An integer within bounds, which the core stores as a float."""

    def __init__(self, most: int = _validate.MOST_STEPS, *, least: int = 0) -> None:
        super().__init__()
        self._bounds = (least, most)

    def check(self, value: object) -> int:
        return _validate.count(self._name, value, *self._bounds)

    def to_core(self, value: int) -> dict[str, Any]:
        return {self._core: float(value)}

    def from_core(self, core: _core.Optimizer) -> int:
        return int(core.get(self._core))


class Choice(Hyperparameter["str | None"]):
    """One of two names, which the core stores as a flag; None is the first of them."""

    def __init__(self, first: str, second: str, *, core: str) -> None:
        super().__init__(core=core)
        self._choices = (first, second)

    def check(self, value: object) -> str | None:
        if value is None:
            return None
        return _validate.choice(self._name, value, self._choices)

    def to_core(self, value: str | None) -> dict[str, Any]:
        return {self._core: value == self._choices[1]}

    def from_core(self, core: _core.Optimizer) -> str | None:
        return self._choices[1] if core.get(self._core) else None


class Limit(Hyperparameter[float]):
    """A number ≥ 1, or infinity, which the core stores as 0."""

    def check(self, value: object) -> float:
        if isinstance(value, float) and value == inf:
            return inf
        return _validate.real(self._name, value, 1.0)

    def to_core(self, value: float) -> dict[str, Any]:
        return {self._core: 0.0 if value == inf else value}

    def from_core(self, core: _core.Optimizer) -> float:
        return float(core.get(self._core)) or inf


class Optional(Hyperparameter["float | None"]):
    """A number > 0 and below a bound, or None, which the core stores as 0."""

    def __init__(self, high: float = inf) -> None:
        super().__init__()
        self._high = high

    def check(self, value: object) -> float | None:
        if value is None:
            return None
        return _validate.real(
            self._name, value, 0.0, self._high, open_low=True, open_high=True
        )

    def to_core(self, value: float | None) -> dict[str, Any]:
        return {self._name: value or 0.0}

    def from_core(self, core: _core.Optimizer) -> float | None:
        return float(core.get(self._name)) or None


class Decay(Hyperparameter[str]):
    """The parameters that weight decay and L1 apply to; the core stores a flag."""

    def check(self, value: object) -> str:
        return _validate.choice(self._name, value, ("all", "weights"))

    def to_core(self, value: str) -> dict[str, Any]:
        return {"decay_weights_only": value == "weights"}

    def from_core(self, core: _core.Optimizer) -> str:
        return "weights" if core.get("decay_weights_only") else "all"


class Numbers(Hyperparameter["tuple[float, ...]"]):
    """Several numbers, which are separate hyperparameters in the core.

    ``bounds`` maps their names in the core to arguments of `_validate.real`.
    """

    def __init__(
        self, bounds: Mapping[str, Mapping[str, Any]], *, fixed: bool = False
    ) -> None:
        super().__init__(fixed=fixed)
        self._bounds = bounds

    def check(self, value: object) -> tuple[float, ...]:
        n = len(self._bounds)
        if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != n:
            raise TypeError(
                f"{self._name} must be {_COUNTS[n]} numbers "
                f"({', '.join(self._bounds)}), got {_validate.describe(value)}"
            )
        return tuple(
            _validate.real(f"{self._name}[{i}]", number, **bounds)
            for i, (number, bounds) in enumerate(
                zip(value, self._bounds.values(), strict=True)
            )
        )

    def to_core(self, value: tuple[float, ...]) -> dict[str, Any]:
        return dict(zip(self._bounds, value, strict=True))

    def from_core(self, core: _core.Optimizer) -> tuple[float, ...]:
        return tuple(float(core.get(name)) for name in self._bounds)


_COUNTS = {2: "two", 3: "three"}


class Coefficients(Numbers):
    """Finite numbers with these names in the core."""

    def __init__(self, *names: str) -> None:
        super().__init__({name: {} for name in names})


class Betas(Numbers):
    """Two numbers in [0, 1)."""

    def __init__(self, *, fixed: bool = False) -> None:
        below_one = {"low": 0.0, "high": 1.0, "open_high": True}
        super().__init__({"beta1": below_one, "beta2": below_one}, fixed=fixed)


class EpsMode(Hyperparameter[str]):
    """Position of ε in the denominator (see `fastmlp.optimizers`); cannot be set."""

    def __init__(self, *choices: str) -> None:
        super().__init__(fixed=True)
        self._choices = choices

    def check(self, value: object) -> str:
        return _validate.choice(self._name, value, self._choices)


def _parameters(value: object) -> bool:
    """Return whether a value is a model or parameters, in the place of ``lr``."""
    several = isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0
    once = hasattr(value, "__next__") and not callable(value)
    # PyTorch's models have a method `parameters`.
    return several or once or is_model(value) or hasattr(value, "parameters")


class Scheduled(Hyperparameter["float | Schedule | Callable[[int], float]"]):
    """A number >= 0, or a schedule or function that gives it in each step.

    ``state``: whether numbers > 0 have arrays of state, so that a schedule's values
    must be > 0.
    """

    def __init__(self, *, state: bool = False) -> None:
        super().__init__()
        self._state = state

    def check(self, value: object) -> Rate:
        if isinstance(value, ReduceOnPlateau):
            raise TypeError(
                f"{self._name} must not be a ReduceOnPlateau, which is for lr alone"
            )
        if isinstance(value, Schedule):
            self.timeline(value).at(0)
            return value
        return value if is_function(value) else _validate.real(self._name, value, 0.0)

    def timeline(self, value: Schedule | Callable[[int], float]) -> Timeline:
        """Return the values of a checked schedule or function."""
        return Timeline(self._name, value, self._state)

    def to_core(self, value: Rate) -> dict[str, Any]:
        """Return the number, or a first one if a schedule sets it before each step."""
        return {self._core: at_first({self._name: value})[self._name]}

    def __set__(self, instance: Optimizer, value: Rate) -> None:
        checked = self.check(value)
        _groups.check_together(instance, {**instance._hyper(), self._name: checked})
        former = dict(instance._timelines)
        instance._timelines.pop(self._name, None)
        if not isinstance(checked, float):
            instance._timelines[self._name] = self.timeline(checked)
        try:
            instance._set_groups(instance._groups)  # their rates may depend on it
            for name, number in self.to_core(checked).items():
                instance.core.set(name, number)
        except ValueError:
            instance._timelines = former
            raise

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> float: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | float:
        if instance is None:
            return self
        if self._name in instance._timelines:
            return instance._timelines[self._name].at(instance.step_count)
        return float(instance.core.get(self._core))


class Lr(Scheduled):
    """The learning rate."""

    def check(self, value: object) -> Rate:
        if _parameters(value):
            raise TypeError(
                f"lr must be a number or a schedule, got {_validate.describe(value)}; "
                f"{NO_PARAMETERS}"
            )
        if isinstance(value, Schedule) or is_function(value):
            return value
        if isinstance(value, type) and issubclass(value, Schedule):
            raise TypeError(
                f"lr must be a schedule, got the class {value.__name__}; did you "
                f"mean fm.schedules.{value.__name__}(lr, …)?"
            )
        if not isinstance(value, str) and value is not None:
            return _validate.real("lr", value, 0.0)
        raise TypeError(
            "lr must be a number, a schedule from fm.schedules or a function "
            f"of the step, got {_validate.describe(value)}"
        )

    def to_core(self, value: Rate) -> dict[str, Any]:
        """Return the number, or 0 if a schedule sets it before each step."""
        return {"lr": value if isinstance(value, float) else 0.0}


class Groups:
    """The parameter groups, which the optimiser keeps."""

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(
        self, instance: Optimizer, owner: type[Optimizer]
    ) -> tuple[dict[str, Any], ...]: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | tuple[dict[str, Any], ...]:
        if instance is None:
            return self
        return tuple(dict(group) for group in instance._groups)

    def __set__(self, instance: Optimizer, value: object) -> None:
        cls = type(instance)
        instance._set_groups(_groups.checked(cls, cls._hyper_names(), value))


class Signature:
    """The constructor's signature, with the options of all optimisers spelled out."""

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
