"""Warnings that point to the user's code."""

from __future__ import annotations

import sys
import warnings

# scikit-learn and joblib, by which it repeats calls, call the estimators for users.
_PACKAGES = (__name__.partition(".")[0] + ".", "sklearn.", "joblib.")


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the line outside these packages that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None:
        if not f"{frame.f_globals.get('__name__', '')}.".startswith(_PACKAGES):
            break
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
