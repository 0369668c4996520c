"""Base class of callbacks that monitor a loss or metric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _validate
from .._formats.json_state import fields, whole
from ..metrics import History, direction_of
from ._base import Callback, Function, LambdaCallback

if TYPE_CHECKING:
    from collections.abc import Mapping


class Watching(Callback):
    """Base class of callbacks that compare a monitored value with the best so far."""

    _given: str | None = None  # the argument mode
    _direction: str | None = None  # the direction in the current or last fit

    def __init__(self, monitor: str | None, mode: str | None) -> None:
        if monitor is not None and not isinstance(monitor, str):
            raise TypeError(
                f"monitor must be a name or None, got {_validate.describe(monitor)}"
            )
        self.monitor = monitor
        self.mode = mode
        self.best: float | None = None

    @property
    def mode(self) -> str | None:
        """Whether low ("min") or high ("max") values are good; None if unknown yet."""
        if self._given is not None:
            return self._given
        return self._direction or direction_of(self.monitor or "loss")

    @mode.setter
    def mode(self, mode: str | None) -> None:
        if mode is not None:
            mode = _validate.choice("mode", mode, ("min", "max"))
        self._given, self._direction = mode, None

    def _check(self, history: History) -> None:
        """Raise an error if the fit will not log the monitored value.

        Also decide whether low or high values are good.
        """
        if self.monitor == "val_loss" and not history.has_validation:
            raise ValueError(
                f"{type(self).__name__}(monitor='val_loss') needs "
                "fit(validation_data=…)"
            )
        self._check_logged(history)
        self._direction = None  # that of an earlier fit
        direction = self.mode
        if self._given is None and self.run is not None:
            direction = self.run._directions.get(self.monitor or "", direction)
        self._direction = self._known_direction(direction)

    def _check_logged(self, history: History) -> None:
        if self.run is None or self.monitor in (None, "loss", *self.run.metrics):
            return
        # A value of any other name can only come from one of the user's callbacks.
        if not any(_may_log(hook) for hook in self.run.callbacks):
            known = ["loss", *["val_loss"] * history.has_validation, *self.run.metrics]
            if self.monitor not in known:
                raise ValueError(
                    f"{type(self).__name__}(monitor={self.monitor!r}): this fit does "
                    f"not log {self.monitor!r}; it logs {', '.join(known)}"
                )

    def _value(self, history: History) -> float:
        name = self.monitor or ("val_loss" if history.has_validation else "loss")
        if name in ("loss", "val_loss"):
            return float(getattr(history, name)[-1])
        values = history.metrics.get(name, [])
        if len(values) != len(history):
            raise ValueError(
                f"{type(self).__name__}(monitor={name!r}): {name!r} is not a metric "
                "of fit(metrics=…), and no earlier callback has logged it for "
                f"epoch {len(history)}; the logged values are "
                f"{', '.join(_known(history))}"
            )
        return values[-1]

    def _known_direction(self, direction: str | None) -> str:
        """Return the direction; raise an error if it is unknown."""
        if direction is None:
            raise ValueError(
                f"{type(self).__name__}(monitor={self.monitor!r}) needs mode='min' or "
                f"mode='max': fastmlp cannot know whether low or high values of "
                f"{self.monitor!r} are good"
            )
        return direction

    def _better(self, value: float, min_delta: float = 0.0) -> bool:
        """Tell whether a value is better than the best by more than ``min_delta``."""
        if value != value:
            return False
        direction = self._known_direction(self.mode)
        sign = 1.0 if direction == "min" else -1.0
        return self.best is None or sign * value < sign * self.best - min_delta


def _may_log(hook: Callback) -> bool:
    kind = type(hook)
    package = kind.__module__.partition(".")[0]
    return package != "fastmlp" or kind in (Function, LambdaCallback)


def _known(history: History) -> list[str]:
    return ["loss", *["val_loss"] * history.has_validation, *history.metrics]


def check_best(
    where: str, state: Mapping[str, Any], others: tuple[str, ...] = ()
) -> None:
    """Raise an error unless this is the state of a callback that keeps a best value."""
    names = ("best", "epoch", *others)
    fields(where, {n: state[n] for n in names if n in state}, names)
    if state["best"] is not None and not isinstance(state["best"], float):
        got = _validate.describe(state["best"])
        raise ValueError(f"{where}.best must be a float or None, got {got}")
    whole(f"{where}.epoch", state["epoch"], 63)
