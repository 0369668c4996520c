"""What to write instead of an invalid value of an estimator's parameter."""

from __future__ import annotations

from numbers import Real
from typing import Any

from sklearn.utils._param_validation import StrOptions

from .._validate.elsewhere import VALUES
from ..callbacks import Callback
from ..optimizers import Optimizer
from ..solvers import Solver

# Names of losses elsewhere; of those on the right, an estimator has one at most.
_LOSSES = {
    "bce": ("log_loss",),
    "binary_crossentropy": ("log_loss",),
    "categorical_crossentropy": ("log_loss",),
    "ce": ("log_loss",),
    "cross_entropy": ("log_loss",),
    "crossentropy": ("log_loss",),
    "l1": ("absolute_error",),
    "l2": ("squared_error",),
    "mae": ("absolute_error",),
    "mean_absolute_error": ("absolute_error",),
    "mean_squared_error": ("squared_error",),
    "mse": ("squared_error",),
    "pinball": ("quantile",),
    "sparse_categorical_crossentropy": ("log_loss",),
}


def suggestion(values: dict[str, Any], constraints: dict[str, list[Any]]) -> str | None:
    """Return a probable correction of the first invalid value, as source code.

    Parameters
    ----------
    values, constraints : dict
        The parameters' values, and scikit-learn's constraints on them.
    """
    rate, first = values["learning_rate"], values["learning_rate_init"]
    if isinstance(rate, Real) and not isinstance(rate, bool):
        return f"learning_rate_init={rate!r}"
    if callable(first):
        return "learning_rate (for schedules and functions)"
    solver = values["solver"]
    if isinstance(solver, type) and issubclass(solver, (Optimizer, Solver)):
        return f"solver=fm.{solver.__name__}()"
    callbacks = values["callbacks"]
    if isinstance(callbacks, Callback) or callable(callbacks):
        return "callbacks=[callback]"
    for name, value in values.items():
        for constraint in constraints[name] if isinstance(value, str) else ():
            if not isinstance(constraint, StrOptions) or value in constraint.options:
                continue
            near = _similar(value.lower(), sorted(constraint.options))
            if near is not None:
                return f"{name}={near!r}"
    return None


def _similar(value: str, options: list[str]) -> str | None:
    import difflib

    same = [VALUES.get(value, ""), *_LOSSES.get(value, ())]
    near = [name for name in same if name in options]
    near += difflib.get_close_matches(value, options, n=1)
    return near[0] if near else None
