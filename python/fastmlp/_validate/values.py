"""Immutable objects that compare by value."""

from __future__ import annotations

from typing import Any, ClassVar

from . import arguments


class Value:
    """Base class of immutable objects that the arguments of their constructors define.

    They can be copied and pickled, and hashed if their arguments can.
    """

    # Names of the constructor's arguments.
    _names: ClassVar[tuple[str, ...]] = ()
    # Name of the module that exports the class, for ``__repr__``, and what an object
    # is called in messages.
    _module: ClassVar[str]
    _noun: ClassVar[str]

    def _take(self, **checked: Any) -> None:
        vars(self).update(checked)

    def _given(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._names}

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(self._refusal(name))

    def __delattr__(self, name: str) -> None:
        raise AttributeError(self._refusal(name))

    def _refusal(self, name: str) -> str:
        return f"{name} cannot be changed: create a new {self._noun} instead"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash((type(self), *self._given().values()))

    def __repr__(self) -> str:
        return f"{self._module}.{type(self).__name__}({arguments(self._given())})"
