"""Samples of the estimators: their weights, and held-out samples that a user gives."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.utils.validation import _check_sample_weight

from .. import _validate
from .._validate.warn import warn

if TYPE_CHECKING:
    from .._validate import Array

# Weights whose largest is beyond this power of two, or below its reciprocal, are
# divided by the largest: float32 ends at about 2^±127.
_FAR = 2.0**100

# Number of rows from which the scale of the training data is estimated.
_ROWS = 10_000

# Held-out data are on another scale if half of the rows are this many standard
# deviations from the mean of the training data, or if their standard deviation is
# smaller by this factor squared.
_DEVIATIONS = 10.0


# Types of Python objects that scikit-learn converts to floats but that are not numbers.
_ODD = (
    str,
    bytes,
    datetime.date,
    datetime.timedelta,
    np.datetime64,
    np.timedelta64,
)


class Samples(NamedTuple):
    """Training or validation data in the form that scikit-learn takes.

    Attributes
    ----------
    X : array or sparse matrix
        Samples as rows.
    y : (rows, n) array
        Targets.
    weight : (rows,) array or None
        Weights of the samples.
    by_class : (rows,) array or None
        Weight of each sample's class.
    """

    X: Any
    y: Array
    weight: Array | None
    by_class: Array | None = None

    def total_weight(self) -> Array | None:
        """Return the product of sample and class weights; None if there are none."""
        if self.weight is None or self.by_class is None:
            weight = self.by_class if self.weight is None else self.weight
            return None if weight is None else moderate(weight)
        return moderate(moderate(self.weight) * moderate(self.by_class))

    def weigh_nothing(self) -> bool:
        """Tell whether all samples have weight 0."""
        weight = self.total_weight()
        return weight is not None and not weight.any()


def moderate(weight: Array) -> Array:
    """Divide extremely large or small weights by the largest: a mean stays the same."""
    largest = weight.max()
    if largest == 0 or 1 / _FAR <= largest <= _FAR:
        return weight
    scaled: Array = weight / largest
    return scaled


def sample_weights(sample_weight: Any, X: Any, name: str = "sample_weight") -> Array:
    """Return checked weights of the samples."""
    check_numbers(name, sample_weight)
    weight: Array = _check_sample_weight(sample_weight, X)
    if (weight < 0).any():
        raise ValueError(f"Negative values in data passed to `{name}`.")
    if not weight.any():
        raise ValueError(f"{name} must not be all zeros")
    return weight


def check_unmasked(name: str, values: Any) -> None:
    """Refuse masked entries, whose masks scikit-learn would drop without a word."""
    parts = values if isinstance(values, (list, tuple)) else [values]
    for part in parts:
        if isinstance(part, np.ma.MaskedArray) and np.ma.is_masked(part):
            raise ValueError(
                f"{name} must have no masked entries, got {_validate.describe(part)}"
            )


def check_numbers(name: str, values: Any) -> None:
    """Refuse what scikit-learn may convert without a word, or fails to convert.

    These are dates, strings, masked entries, and numbers that no float64 can hold.
    """
    if values is None or hasattr(values, "toarray"):
        return
    check_unmasked(name, values)
    try:
        array = np.asarray(values)
        odd: Any = array
        if array.dtype == object:
            odd = next((item for item in array.flat if isinstance(item, _ODD)), None)
            if odd is None:
                array.astype(np.float64)
                return
    except OverflowError:
        raise ValueError(
            f"{name} must hold numbers that float64 can hold, got a number that is "
            "too large"
        ) from None
    except (TypeError, ValueError):
        return  # scikit-learn refuses it
    if array.dtype.kind not in "OmMSUT":
        return
    text = isinstance(odd, str) or array.dtype.kind in "SUT"
    hint = "; encode text, for example with OneHotEncoder" if text else ""
    raise ValueError(
        f"{name} must hold real numbers, got {_validate.describe(odd)}{hint}"
    )


class HeldOut(NamedTuple):
    """Held-out data as the user gave them, and the names of the arguments."""

    X: Any
    y: Any
    weight: Any
    X_name: str
    y_name: str
    weight_name: str


def held_out_of(
    eval_set: Any, X_val: Any, y_val: Any, sample_weight_val: Any
) -> HeldOut | None:
    """Return the held-out data from the arguments of ``fit``, None without any."""
    if X_val is None and y_val is None:
        if sample_weight_val is not None:
            raise ValueError("sample_weight_val needs X_val and y_val")
    elif eval_set is not None:
        raise ValueError("give either eval_set or X_val and y_val, not both")
    elif X_val is None or y_val is None:
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val must be given together, got no {missing}")
    else:
        names = "X_val", "y_val", "sample_weight_val"
        return HeldOut(X_val, y_val, sample_weight_val, *names)
    if eval_set is None:
        return None
    given = eval_set
    # LightGBM and XGBoost take a list of pairs.
    if isinstance(given, list) and given and all(isinstance(s, tuple) for s in given):
        if len(given) > 1:
            raise ValueError(
                "eval_set must be one pair (X, y), got a list of "
                f"{len(given)}: fit uses a single set of held-out samples"
            )
        given = given[0]
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
        raise ValueError(
            "eval_set must be (X, y) or (X, y, sample_weight), got "
            f"{_validate.describe(eval_set)}"
        )
    X, y, *rest = given
    names = "eval_set: X", "eval_set: y", "eval_set: sample_weight"
    return HeldOut(X, y, rest[0] if rest else None, *names)


def warn_of_another_scale(name: str, held_out: Any, training: Any, remedy: str) -> None:
    """Warn if held-out numbers lie absurdly far from those used in training.

    Parameters
    ----------
    name : str
        Name of the held-out numbers in the warning.
    held_out, training : (rows, n) arrays
        The numbers; nothing is compared unless both are dense.
    remedy : str
        End of the warning's text.
    """
    if not isinstance(held_out, np.ndarray) or not isinstance(training, np.ndarray):
        return
    given, known = _some_rows(held_out), _some_rows(training)
    with np.errstate(all="ignore"):
        spread = known.var(axis=0).sum()
        distances = ((given - known.mean(axis=0)) ** 2).sum(axis=1) / spread
        distance = float(np.sqrt(np.median(distances)))
        narrow = float(np.sqrt(given.var(axis=0).sum() / spread))
    if not np.isfinite(spread) or spread <= 0:
        return
    if distance > _DEVIATIONS:
        what = f"half of its rows are more than {distance:.3g} standard deviations away"
    elif 0 < narrow < _DEVIATIONS**-2:
        what = f"its standard deviation is smaller by a factor of {1 / narrow:.3g}"
    else:
        return
    warn(
        f"{name} is on another scale than the training data: {what}. {remedy}",
    )


def _some_rows(array: Array) -> Array:
    """Return at most about _ROWS rows, evenly spaced, in float64."""
    step = max(1, len(array) // _ROWS)
    return array[::step].astype(np.float64)
