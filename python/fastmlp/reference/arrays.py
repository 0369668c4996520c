"""Array types and helpers that all modules share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "Array",
    "Rate",
]

Array: TypeAlias = npt.NDArray[Any]

Rate: TypeAlias = float | Callable[[int], float]

_V = TypeVar("_V")

# As in the compiled kernels, infinities and NaN follow IEEE 754 and cause no warnings.
quiet = np.errstate(all="ignore")


def named(what: str, name: str, table: Mapping[str, _V]) -> _V:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(table)}")
    return table[name]
