"""Parameter groups: parameters with hyperparameters of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .. import _validate
from .._network.names import matching, patterns
from .._validate import hints
from ..schedules import Schedule
from ._timeline import at_first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._network.model import Model
    from ._base import Optimizer

    Group = dict[str, Any]

# Options that are the same for all parameters.
_SHARED = frozenset(("accumulate", "groups", "ema", "decay"))


def names(cls: type[Optimizer], known: Iterable[str]) -> list[str]:
    """Return the hyperparameters of a class that a group may set."""
    fixed = {n for n in known if getattr(getattr(cls, n), "_fixed", False)}
    shared = _SHARED | fixed | cls._common
    free = [n for n in known if n not in shared]
    return [*free, "lr_scale"] if "lr" in free else free


def checked(
    cls: type[Optimizer], known: Sequence[str], value: object
) -> tuple[Group, ...]:
    """Check the argument ``groups`` of an optimiser's constructor.

    Parameters
    ----------
    cls
        Class of the optimiser.
    known
        Names of its hyperparameters.
    value
        The argument.

    Returns
    -------
    tuple of dict
        Groups with the key "params", a tuple of patterns, and checked values.
    """
    if not isinstance(value, (list, tuple)):
        raise TypeError(
            "groups must be a list of dicts such as "
            "{'params': '*.bias', 'weight_decay': 0.0}, got "
            f"{_validate.describe(value)}"
        )
    return tuple(_group(cls, known, i, group) for i, group in enumerate(value))


def _group(cls: type[Optimizer], known: Sequence[str], i: int, group: object) -> Group:
    where = f"groups[{i}]"
    if not isinstance(group, Mapping):
        raise TypeError(f"{where} must be a dict, got {_validate.describe(group)}")
    if "params" not in group:
        raise ValueError(
            f"{where} must have the key 'params': the name of a parameter, such as "
            "'0.weight', a pattern, such as '*.bias', or a list of them"
        )
    own: Group = {"params": patterns(f"{where}['params']", group["params"])}
    allowed = names(cls, known)
    for name, value in group.items():
        if name == "params":
            continue
        if name not in allowed:
            near = hints.similar(str(name), allowed)
            hint = f"did you mean {near!r}?" if near else f"it can set {allowed}"
            raise ValueError(f"{where} cannot set {name!r} of {cls.__name__}; {hint}")
        if isinstance(value, Schedule):
            raise TypeError(
                f"{where}[{name!r}] must not be a schedule, got {value!r}; only the "
                "optimizer's own hyperparameters can have schedules"
            )
        if name in ("lr", "lr_scale", "weight_decay", "l1", "momentum"):
            own[name] = _validate.real(f"{where}[{name!r}]", value, 0.0)
            continue
        try:
            own[name] = getattr(cls, name).check(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
    for pair in (("lr", "lr_scale"), ("clip_norm", "clip_value")):
        if all(own.get(name) is not None for name in pair):
            raise ValueError(f"{where} cannot set both {pair[0]} and {pair[1]}")
    return own


def to_core(optimizer: Optimizer, groups: Sequence[Group]) -> list[tuple[Any, ...]]:
    """Return the groups in the form that the core takes."""
    return [_to_core(optimizer, i, group) for i, group in enumerate(groups)]


def _to_core(optimizer: Optimizer, i: int, group: Group) -> tuple[Any, ...]:
    own = _own(group)
    optimizer._check_together(at_first({**optimizer._hyper(), **own}))
    scale = group.get("lr_scale", None if "lr" in group else 1.0)
    if "lr" in own and optimizer.schedule is not None:
        scale = own.pop("lr") / _nominal(i, optimizer.schedule)
    core: dict[str, Any] = {}
    for name, value in own.items():
        core |= getattr(type(optimizer), name).to_core(value)
    decays_all = "weight_decay" in own or "l1" in own
    return core, scale, decays_all, own.get("clip_norm") is not None


def _own(group: Group) -> Group:
    """Return the hyperparameters that differ from the optimiser's."""
    own = {n: v for n, v in group.items() if n not in ("params", "lr_scale")}
    # Of the two ways to clip, the group's own one replaces the optimiser's.
    for name, other in (("clip_norm", "clip_value"), ("clip_value", "clip_norm")):
        if own.get(name) is not None:
            own[other] = None
    return own


def check_together(optimizer: Optimizer, hyper: Group) -> None:
    """Refuse hyperparameters that do not go together, in a group or outside."""
    for own in ({}, *map(_own, optimizer._groups)):
        optimizer._check_together(at_first({**hyper, **own}))


def _nominal(i: int, schedule: object) -> float:
    """Return the learning rate that a schedule scales."""
    nominal = schedule.nominal if isinstance(schedule, Schedule) else None
    if nominal:
        return nominal
    why = "its relation to that is unknown" if nominal is None else "that is 0"
    raise ValueError(
        f"groups[{i}]['lr'] cannot be combined with the optimizer's lr, {schedule!r}, "
        f"because {why}; set 'lr_scale' instead, a factor of the optimizer's learning "
        "rate"
    )


def ranges(groups: Sequence[Group], mlp: Model) -> list[tuple[int, int, int]]:
    """Return (begin, end, group) of each array of parameters that is in a group.

    An array belongs to the first group with a pattern that matches its name.
    """
    places = mlp._views.ranges
    free = dict.fromkeys(places)
    found = []
    for i, group in enumerate(groups):
        for name in matching(f"groups[{i}]['params']", group["params"], places):
            if name in free:
                del free[name]
                found.append((*places[name], i))
    return sorted(found)
