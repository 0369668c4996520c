"""Hyperparameters that change from step to step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..schedules import Schedule

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeGuard


def is_function(value: object) -> TypeGuard[Callable[[int], float]]:
    return callable(value) and not isinstance(value, type)


def at_first(hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters with the value in step 0 of each schedule.

    A function must be called once per step only, and counts as 1 here.
    """
    numbers = dict(hyper)
    for name, value in hyper.items():
        if isinstance(value, Schedule):
            numbers[name] = value(0)
        elif is_function(value):
            numbers[name] = 1.0
    return numbers
