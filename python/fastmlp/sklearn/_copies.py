"""Copies of objects among an estimator's parameters: of ours, not of the user's.

A fit must not change fastmlp's own callbacks, schedules, optimisers and solvers, so it
uses copies of them. Other objects cannot be copied safely: a copy of a callback that
reports to a study or holds a lock would report to nobody, or fail.
"""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import clone

from ..callbacks import Callback, LambdaCallback
from ..optimizers import Optimizer
from ..schedules import Schedule
from ..solvers import Solver

# Callbacks without a state of their own.
_STATELESS = (Callback, LambdaCallback)


def for_one_fit(value: Any) -> Any:
    """Return what a fit may change in place of a parameter's value.

    Lists and tuples are converted element by element. Objects of fastmlp, or of classes
    derived from them, are copied, but not what users put into them; objects with
    scikit-learn's protocol are cloned; all others are returned as they are.
    """
    if isinstance(value, (list, tuple)):
        # Not the value's own type: a namedtuple takes its elements as arguments.
        made = list(map(for_one_fit, value))
        return tuple(made) if isinstance(value, tuple) else made
    if isinstance(value, type):
        return value
    if isinstance(value, (Optimizer, Solver, Schedule)) or _keeps_state(value):
        return copy.copy(value)
    if hasattr(value, "__sklearn_clone__") or hasattr(value, "get_params"):
        return clone(value, safe=False)
    return value


def _keeps_state(value: Any) -> bool:
    """Tell whether a value is one of fastmlp's callbacks, or derived from one."""
    kinds = type(value).__mro__
    return isinstance(value, Callback) and any(
        kind.__module__.partition(".")[0] == "fastmlp"
        for kind in kinds[: kinds.index(Callback)]
        if kind not in _STATELESS
    )
