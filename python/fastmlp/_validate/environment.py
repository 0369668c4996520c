"""The floating-point environment of arithmetic in Python."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from .. import _core

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def reproducible(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function such that it rounds to nearest and keeps subnormal numbers.

    Another package may have set the processor to do otherwise. The core sets its own
    floating-point environment in every call, and restores the caller's; this does the
    same for arithmetic of NumPy and Python of which the same bits are promised.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        return _core.in_default_fp_environment(function, *args, **kwargs)

    guarded.guards = function  # type: ignore[attr-defined]
    return guarded
