"""What targets of a loss look like: their shapes, their values, and their metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _validate

if TYPE_CHECKING:
    from .._validate import Array, Target

# Tolerance for the sum of a row's class probabilities: the softmax outputs of a float16
# or float32 program pass, percentages and unnormalised scores do not.
PROBABILITY_SLACK = 1e-3


class Targets:
    """Targets with a number for each output.

    Attributes
    ----------
    accuracy_options : dict
        Options by which `fastmlp.metrics.accuracy` reads answers from the outputs.
    have_metrics : bool
        Whether the functions of `fastmlp.metrics` apply to outputs and targets.
    """

    accuracy_options: ClassVar[dict[str, Any]] = {}
    have_metrics: ClassVar[bool] = True

    def convert(
        self, name: str, y: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Target:
        """Return targets for predictions of a shape, as the core takes them.

        Raises TypeError or ValueError, naming the argument, if the kind or the shape is
        wrong; values other than labels are not checked.
        """
        return _validate.one_per_output(name, y, shape, dtype)

    def check(self, name: str, target: Any) -> None:
        """Raise ValueError unless targets are finite and have values that make sense.

        `fastmlp.MLP.fit` checks its data sets in this way.
        """
        _validate.finite(name, target)

    def of_data_set(
        self, name: str, y: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Any:
        """Return the targets of a data set, converted and checked."""
        target = self.convert(name, y, shape, dtype)
        self.check(name, target)
        return target

    def point_predictions(self, pred: Array) -> Array:
        """Return the part of the outputs that predicts the targets."""
        return pred


class ClassTargets(Targets):
    """Class labels, (B,), or probabilities of all classes."""

    accuracy_options: ClassVar[dict[str, Any]] = {"kind": "classes"}

    def convert(
        self, name: str, y: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Target:
        """Return labels as int64, or probabilities."""
        if len(shape) != 2:
            raise ValueError(
                f"pred must have shape (rows, classes) for CrossEntropy, got {shape}"
            )
        array = _validate.numeric(name, y)
        if array.shape != shape:
            return _validate.labels(name, array, shape)
        return _validate.convert(name, y, dtype)

    def check(self, name: str, target: Any) -> None:
        """Raise ValueError unless probabilities lie from 0 to 1 and sum to 1."""
        if target.dtype == np.int64:
            return  # labels, which are in range
        super().check(name, target)
        _check_probabilities(name, target)
        total = target.sum(axis=1, dtype=np.float64)
        off = abs(total - 1) > PROBABILITY_SLACK
        if off.any():
            row = int(np.argmax(off))
            raise ValueError(
                f"{name} must hold class probabilities that sum to 1 in each row, "
                f"got a sum of {total[row]:.6g} in row {row}"
            )


class BinaryTargets(Targets):
    """A probability for each output, which is a logit."""

    accuracy_options: ClassVar[dict[str, Any]] = {"kind": "binary", "threshold": 0.0}

    def check(self, name: str, target: Any) -> None:
        """Raise ValueError unless targets are probabilities."""
        super().check(name, target)
        _check_probabilities(name, target)


class SignTargets(Targets):
    """-1 or 1 for each output, which is a score."""

    accuracy_options: ClassVar[dict[str, Any]] = {"kind": "binary", "threshold": 0.0}

    def check(self, name: str, target: Any) -> None:
        """Raise ValueError unless targets are -1 or 1."""
        super().check(name, target)
        zeros_and_ones = bool(((target == 0) | (target == 1)).all())
        hint = "; use 2 * y - 1 for targets of 0 and 1" if zeros_and_ones else ""
        _check_rows(name, target, abs(target) != 1, "-1 or 1 for Hinge", hint)


class CountTargets(Targets):
    """A count for each output."""

    def check(self, name: str, target: Any) -> None:
        """Raise ValueError for negative counts."""
        super().check(name, target)
        _check_rows(name, target, target < 0, "non-negative counts")


class SharedTargets(Targets):
    """A number for each output, or one, (B,), that serves all outputs."""

    def convert(
        self, name: str, y: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Target:
        """Return a target for each output."""
        array = _validate.convert(name, y, dtype)
        several = len(shape) == 2 and shape[1] > 1
        if several and array.shape in (shape[:1], (shape[0], 1)):
            return np.repeat(array.reshape(-1, 1), shape[1], axis=1)
        return _validate.one_per_output(name, array, shape, dtype, or_one=True)


class MeanTargets(Targets):
    """A number for each pair of outputs, a mean and a log variance."""

    def convert(
        self, name: str, y: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Target:
        """Return a target for each pair."""
        if len(shape) != 2 or shape[1] % 2 != 0:
            raise ValueError(
                "pred must have shape (rows, 2 * targets) for GaussianNLL, means and "
                f"log variances, got {shape}"
            )
        return _validate.one_per_output(name, y, (shape[0], shape[1] // 2), dtype)

    def point_predictions(self, pred: Array) -> Array:
        """Return the means, without the log variances."""
        return pred[:, : pred.shape[1] // 2]


class ActionTargets(Targets):
    """An action, one of the outputs, and a value for it in each row.

    Parameters
    ----------
    values : Targets
        What the values look like.
    """

    have_metrics = False

    def __init__(self, values: Targets) -> None:
        self._values = values

    def convert(
        self, name: str, y: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Target:
        """Return actions as int64, and values."""
        if len(shape) != 2:
            raise ValueError(
                f"pred must have shape (rows, actions) for ActionValue, got {shape}"
            )
        if not isinstance(y, (tuple, list)) or len(y) != 2:
            raise TypeError(
                f"{name} must be (actions, values) for ActionValue, got "
                f"{_validate.describe(y)}"
            )
        taken = _validate.actions(name, y[0], shape)
        values = _validate.convert(f"{name}: the values", y[1], dtype)
        if values.shape not in (shape[:1], (shape[0], 1)):
            raise ValueError(
                f"{name}: the values must have shape {shape[:1]}, "
                f"got {_validate.describe(values)}"
            )
        return taken, values

    def check(self, name: str, target: Any) -> None:
        """Raise ValueError unless the values make sense."""
        self._values.check(f"{name}: the values", target[1])


class CustomTargets(Targets):
    """Targets that only a Python function knows: anything with rows."""

    def as_array(self, name: str, y: Any) -> Array:
        """Return targets as an array, whose rows the batches of a fit take."""
        return np.asarray(y)

    def of_data_set(
        self, name: str, y: Any, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Any:
        """Return an array of as many rows; floats must be finite."""
        array = self.as_array(name, y)
        if array.shape[:1] != shape[:1]:
            raise ValueError(
                f"{name} must have {shape[0]} rows, as x has, got "
                f"{_validate.describe(array)}"
            )
        if array.dtype.kind == "f":
            _validate.finite(name, array)
        return array


def _check_rows(
    name: str, target: Array, bad: Array, wanted: str, hint: str = ""
) -> None:
    """Raise ValueError for the first row in which an element is bad."""
    rows = np.reshape(bad, (len(target), -1)).any(axis=1)
    if rows.any():
        row = int(np.argmax(rows))
        raise ValueError(
            f"{name} must hold {wanted}, got {target[row]} in row {row}{hint}"
        )


def _check_probabilities(name: str, target: Array) -> None:
    bad = (target < 0) | (target > 1)
    _check_rows(name, target, bad, "probabilities, 0 to 1")
