"""Patterns of the names of parameters, such as ``"*.bias"``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from .. import _validate

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


# Largest number of names in an error.
_SHOWN = 30


def patterns(where: str, value: object) -> tuple[str, ...]:
    """Return a pattern, or a list of them, as a tuple; raise an error if it is neither.

    ``where`` names the argument in errors.
    """
    items = (value,) if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, set, frozenset)) or not all(
        isinstance(item, str) for item in items
    ):
        raise TypeError(
            f"{where} must be a name such as '0.weight', a pattern such as '*.bias', "
            f"or a list of them, got {_validate.describe(value)}"
        )
    if not items:
        raise ValueError(f"{where} must hold at least one name or pattern")
    return tuple(items)


def matching(
    where: str, wanted: Iterable[str], names: Collection[str]
) -> dict[str, None]:
    """Return the names that match at least one pattern, in the order of ``names``.

    In a pattern, * stands for any text, ? for any character and [...] for one of the
    characters in the brackets; upper and lower case differ.

    Raises
    ------
    ValueError
        If a pattern matches no name.
    """
    found: set[str] = set()
    for pattern in wanted:
        matches = {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            listed = [*names][:_SHOWN]
            more = ", …" * (len(names) > _SHOWN)
            raise ValueError(
                f"{where}: {pattern!r} matches none of the model's parameters, "
                f"{', '.join(listed)}{more}"
            )
        found |= matches
    return {name: None for name in names if name in found}
