"""Warnings that point to the user's code."""

from __future__ import annotations

import sys
import warnings

_PACKAGE = __name__.partition(".")[0] + "."


def warn(message: str) -> None:
    """Issue a UserWarning at the line outside the package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None:
        if not f"{frame.f_globals.get('__name__', '')}.".startswith(_PACKAGE):
            break
        level, frame = level + 1, frame.f_back
    warnings.warn(message, UserWarning, stacklevel=level)
