"""Metrics of predictions, for `fastmlp.MLP.fit` and direct calls, and `History`.

Predictions p and targets y have shape (B, O), or (B,) for one output; w are sample
weights, all 1 if none are given. A mean over rows is Σ_b w_b m_b / Σ_b w_b, where m_b
is the mean over the row's outputs. Everything is computed in float64. The order of the
arguments is ``(pred, target)``, as for a loss; in scikit-learn it is the other way
round.

A function in ``fit(metrics=…)`` is passed the outputs of the model as predictions.
These are logits if the loss is `fastmlp.CrossEntropy` or `fastmlp.BinaryCrossEntropy`.
The predictions are read-only, and the next epoch overwrites them. Targets have the
model's dtype, and shape (B, 1) if there is one output; class labels are int64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, _validate
from ._validate.hints import hinted
from .losses import MixtureDensity, Ordinal, Quantile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    import numpy.typing as npt

    from ._validate import Array
    from .losses import Loss

__all__ = ["History", "accuracy", "mae", "mse", "r2", "rmse"]

# Names that a metric must not have, because `History` or `CSVLogger` uses them.
RESERVED = ("loss", "val_loss", "metrics", "seconds", "epoch")


@_validate.reproducible
@hinted
def accuracy(
    pred: npt.ArrayLike,
    target: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    kind: str = "auto",
    threshold: float = 0.5,
) -> float:
    """Return the fraction of correct predictions.

    Parameters
    ----------
    pred : (B, O) or (B,)
        Predictions: logits or probabilities of classes, or of binary outputs.
    target : (B,), (B, O)
        For classes, either int labels (B,) or class probabilities of the shape of
        ``pred``, of which the largest marks the class. For binary outputs, targets of
        the shape of ``pred``; values above 0.5 are positive, so 1 and 0 or 1 and -1 may
        be used.
    sample_weight : (B,), optional
        Weights of the rows: finite, not negative, not all zero.
    kind : {"auto", "classes", "binary"}
        How to read the outputs. "classes": the index of a row's largest output is the
        predicted class. "binary": each output is a separate binary prediction. "auto"
        is "binary" for one output and "classes" for several.
    threshold : float
        Value above which a binary output is positive: 0.5 for probabilities, 0 for
        logits.

    Returns
    -------
    float
        Accuracy, from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype, or ``kind`` or ``threshold`` is
        invalid.
    """
    kind = _validate.choice("kind", kind, ("auto", "classes", "binary"))
    threshold = _validate.real("threshold", threshold)
    p, y = _validate.numeric("pred", pred), _validate.numeric("target", target)
    _check_pred(p)
    if kind == "auto":
        kind = "classes" if p.ndim == 2 and p.shape[1] > 1 else "binary"
    if kind == "binary":
        p, y = _pair(p, y)
        right = (p > threshold) == (y > 0.5)
    else:
        if p.ndim != 2:
            raise ValueError(
                f"pred must have shape (rows, classes), got {_validate.describe(p)}"
            )
        if y.shape == p.shape:
            y = y.argmax(axis=1)
        elif y.shape != p.shape[:1]:
            raise ValueError(
                f"target must have shape {p.shape[:1]} or {p.shape}, "
                f"got {_validate.describe(y)}"
            )
        right = p.argmax(axis=1) == y
    return _mean(right, sample_weight)


@_validate.reproducible
@hinted
def mae(
    pred: npt.ArrayLike,
    target: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Return the mean absolute error, the mean of abs(p - y).

    Parameters
    ----------
    pred : (B, O) or (B,)
        Predictions.
    target : like ``pred``
        Targets.
    sample_weight : (B,), optional
        Weights of the rows: finite, not negative, not all zero.

    Returns
    -------
    float
        Error, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype.
    """
    p, y = _pair(pred, target)
    return _mean(abs(p - y), sample_weight)


@_validate.reproducible
@hinted
def mse(
    pred: npt.ArrayLike,
    target: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Return the mean squared error, the mean of (p - y)².

    Parameters
    ----------
    pred : (B, O) or (B,)
        Predictions.
    target : like ``pred``
        Targets.
    sample_weight : (B,), optional
        Weights of the rows: finite, not negative, not all zero.

    Returns
    -------
    float
        Error, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype.
    """
    p, y = _pair(pred, target)
    return _mean((p - y) ** 2, sample_weight)


@_validate.reproducible
@hinted
def rmse(
    pred: npt.ArrayLike,
    target: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Return the square root of the mean squared error over all outputs together.

    In contrast, scikit-learn's ``root_mean_squared_error`` takes a root per output and
    then the mean of the roots.

    Parameters
    ----------
    pred : (B, O) or (B,)
        Predictions.
    target : like ``pred``
        Targets.
    sample_weight : (B,), optional
        Weights of the rows: finite, not negative, not all zero.

    Returns
    -------
    float
        Error, at least 0.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype.
    """
    return math.sqrt(mse(pred, target, sample_weight))


@_validate.reproducible
@hinted
def r2(
    pred: npt.ArrayLike,
    target: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
) -> float:
    """Return the coefficient of determination R², averaged over the outputs.

    R² = 1 - Σ_b w_b (p_b - y_b)² / Σ_b w_b (y_b - ȳ)² with ȳ the (weighted) mean target
    of the output. As in ``sklearn.metrics.r2_score``, the R² of an output whose target
    is constant is 1 if the predictions are exact, else 0.

    Parameters
    ----------
    pred : (B, O) or (B,)
        Predictions.
    target : like ``pred``
        Targets.
    sample_weight : (B,), optional
        Weights of the rows: finite, not negative, not all zero.

    Returns
    -------
    float
        R², at most 1; NaN for a single row.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong shape or dtype.
    """
    p, y = _pair(pred, target)
    p, y = p.reshape(len(p), -1), y.reshape(len(y), -1)
    w = _weights(sample_weight, len(p))[:, np.newaxis]
    if len(p) < 2:
        return math.nan
    residual = (w * (p - y) ** 2).sum(axis=0)
    mean = (w * y).sum(axis=0) / w.sum()
    total = (w * (y - mean) ** 2).sum(axis=0)
    constant = np.where(residual == 0, 1.0, 0.0)
    score = 1 - residual / np.where(total == 0, 1.0, total)
    return float(np.where(total == 0, constant, score).mean())


METRICS: dict[str, Callable[..., float]] = {
    "accuracy": accuracy,
    "r2": r2,
    "mae": mae,
    "mse": mse,
    "rmse": rmse,
}

# Metrics for which higher values are better.
RISING = ("accuracy", "r2")


def direction_of(name: str) -> str | None:
    """Return "max" or "min" for the name of a loss or metric, None if it is unknown."""
    name = name.removeprefix("val_")
    if name != "loss" and name not in METRICS:
        return None
    return "max" if name in RISING else "min"


# For this loss, `_validate.targets` requires targets of the shape of the predictions.
_LIKE_PRED = _core.Loss("mse")


def _check_pred(p: Array) -> None:
    if p.ndim not in (1, 2) or p.size == 0:
        raise ValueError(
            "pred must have shape (rows, outputs) or (rows,) and not be empty, "
            f"got {_validate.describe(p)}"
        )


def _pair(pred: npt.ArrayLike, target: npt.ArrayLike) -> tuple[Array, Array]:
    """Return predictions and targets of the same shape, in float64."""
    p = _validate.convert("pred", pred, np.dtype(np.float64))
    _check_pred(p)
    y = _validate.targets("target", target, _LIKE_PRED, p.shape, p.dtype)
    assert isinstance(y, np.ndarray)
    return p, y


def _weights(sample_weight: object, rows: int) -> Array:
    dtype = np.dtype(np.float64)
    if sample_weight is None:
        return np.ones(rows)
    return _validate.weights("sample_weight", sample_weight, dtype, rows, relative=True)


def _mean(values: Array, sample_weight: object) -> float:
    """Return the weighted mean over rows of the mean over each row's outputs."""
    if sample_weight is None:
        return float(values.mean(dtype=np.float64))
    rows = values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)
    w = _weights(sample_weight, len(rows))
    return float((w * rows).sum() / w.sum())


# For fit ------------------------------------------------------------------------------


_ACCEPTED = (
    "a sequence of metrics (names or functions) or a dict that maps names to metrics"
)


def as_metrics(metrics: object, loss: Loss) -> dict[str, Measure]:
    """Convert the argument ``metrics`` of fit to a dict of metrics by name."""
    if metrics is None:
        return {}
    if isinstance(metrics, str) or (callable(metrics) and not hasattr(metrics, "keys")):
        raise TypeError(
            f"metrics must be {_ACCEPTED}, got {_validate.describe(metrics)}; "
            "for a single metric, write metrics=[metric]"
        )
    named: list[tuple[str, object]]
    if hasattr(metrics, "keys"):
        named = list(dict(metrics).items())  # type: ignore[call-overload]
    else:
        items = list(_validate.iterator(f"metrics must be {_ACCEPTED}", metrics))
        named = [(_name(i, item), item) for i, item in enumerate(items)]

    result: dict[str, Measure] = {}
    for name, item in named:
        if not isinstance(name, str):
            raise TypeError(
                f"metrics: names must be strings, got {_validate.describe(name)}"
            )
        if name in RESERVED or name in result:
            raise ValueError(
                f"metrics: the name {name!r} is already used; choose another"
            )
        result[name] = _metric(name, item, loss)
    return result


def _name(i: int, item: object) -> str:
    if isinstance(item, str):
        return item
    name = getattr(item, "__name__", None)
    if not callable(item) or isinstance(item, type):
        raise TypeError(
            f"metrics[{i}] must be one of {', '.join(METRICS)} or a function of (pred, "
            f"target), got {_validate.describe(item)}"
        )
    if not isinstance(name, str) or not name.isidentifier():
        raise ValueError(
            f"metrics[{i}] must be a function with a name, got "
            f"{_validate.describe(item)}; for a function without a name, pass a dict: "
            f"metrics={{'name': function}}"
        )
    return name


def _metric(name: str, item: object, loss: Loss) -> Measure:
    """Return a metric in the form in which fit calls it."""
    kind = "" if loss.core is None else loss.core.kind
    if isinstance(item, str):
        item = METRICS[_validate.choice("metrics", item, METRICS)]
    if not callable(item):
        raise TypeError(
            f"metrics[{name!r}] must be a name or a function of (pred, target), "
            f"got {_validate.describe(item)}"
        )
    options: dict[str, Any] = {}
    if item is accuracy:
        options = dict(_ANSWERS.get(kind, {}))
    own = any(item is metric for metric in METRICS.values())
    if own and getattr(loss.core, "action", False):
        raise ValueError(f"metrics: {name!r} is not defined for the loss {loss!r}")
    return Measure(name, item, options, own, loss)


class Measure:
    """A metric in the form in which fit calls it: (pred, target, sample_weight)."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        options: dict[str, Any],
        own: bool,
        loss: Loss,
    ) -> None:
        self._name, self._function, self._options = name, function, options
        self._own = own
        self._loss = loss
        # Kind of the loss, and the label of rows without a label.
        self._kind, self._ignored = "", None
        if loss.core is not None:
            self._kind, self._ignored = loss.core.kind, loss.core.ignored
        self._weighted = own or _takes_weights(function)

    @property
    def direction(self) -> str | None:
        """Whether high ("max") or low ("min") values are good; None if unknown."""
        for name, function in METRICS.items():
            if function is self._function:
                return direction_of(name)
        return None

    def check(self, target: Any) -> None:
        """Raise an error for targets for which the metric is undefined."""
        core = self._loss.core
        labels = core is not None and core.takes_labels and target.ndim == 1
        if labels and self._own and self._function is not accuracy:
            raise ValueError(
                f"metrics: {self._name!r} is not defined for class labels; use "
                "'accuracy'"
            )
        of_classes = self._kind in _ANSWERS or _marks_classes(target)
        if self._function is accuracy and not of_classes:
            raise ValueError(
                f"metrics: {self._name!r} needs class labels, 0 and 1, -1 and 1, or "
                "class probabilities as targets, but these are other real numbers; "
                "use 'r2' or 'mae'"
            )

    def __call__(self, pred: Array, target: Any, weight: Array | None) -> float:
        """Return the metric for checked outputs and targets."""
        if self._own:
            pred = predicted(self._loss, pred)
        if self._own and self._ignored is not None and target.ndim == 1:
            kept = target != self._ignored
            if not kept.any():
                return math.nan
            pred, target = pred[kept], target[kept]
            weight = None if weight is None else weight[kept]
        if self._own and self._loss.mask and np.isnan(target).any():
            return self._of_present(pred, target, weight)
        return self._value(pred, target, weight)

    def _of_present(self, pred: Array, target: Array, weight: Array | None) -> float:
        """Return the metric of the targets that are there, NaN if there are none.

        R² is averaged over the outputs that have targets; other metrics are means over
        all targets.
        """
        pred, y = (a.reshape(len(target), -1) for a in (pred, target))
        there = ~np.isnan(y)
        assert self._loss.core is not None
        if self._loss.core.of_rows:
            kept = there.all(axis=1)
            parts = [(pred[kept], y[kept], np.flatnonzero(kept))]
        elif self._function is r2:
            columns = [(j, np.flatnonzero(there[:, j])) for j in range(y.shape[1])]
            parts = [(pred[rows, j], y[rows, j], rows) for j, rows in columns]
        else:
            parts = [(pred[there], y[there], there.nonzero()[0])]
        values = []
        for p, known, rows in parts:
            w = None if weight is None else weight[rows]
            if len(rows) > 0 and (w is None or w.any()):
                values.append(self._value(p, known, w))
        return float(np.mean(values)) if values else math.nan

    def _value(self, pred: Array, target: Any, weight: Array | None) -> float:
        if self._weighted and weight is not None:
            options = {**self._options, "sample_weight": weight}
        else:
            options = self._options
        value = self._function(pred, target, **options)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(
                f"metrics: {self._name!r} must return a number, "
                f"got {_validate.describe(value)}"
            ) from None


def predicted(loss: Loss, pred: Array) -> Array:
    """Return what a model's outputs predict, in the form that metrics compare."""
    if loss.core is None:
        return pred
    each = loss.core.predictions_per_target
    if isinstance(loss, MixtureDensity):
        k = loss.n_components
        logits, means, _ = pred.reshape(len(pred), 3, -1, k).swapaxes(0, 1)
        share = np.exp(logits - logits.max(axis=-1, keepdims=True))
        mean: Array = (share * means).sum(axis=-1) / share.sum(axis=-1)
        return mean
    if isinstance(loss, Ordinal):  # the class, as scores of all classes
        result: Array = np.eye(pred.shape[1] + 1)[(pred > 0).sum(axis=1)]
        return result
    if isinstance(loss, Quantile):
        return loss.quantiles(pred)
    # The means or locations, without the variances or scales.
    return pred[:, : pred.shape[1] // each] if each > 1 else pred


# For some kinds of loss: the arguments of `accuracy` that suit the outputs of a model
# trained with that loss.
_ANSWERS: dict[str, dict[str, Any]] = {
    "cross_entropy": {"kind": "classes"},
    "focal": {"kind": "classes"},
    "kl_div": {"kind": "classes"},
    "multi_margin": {"kind": "classes"},
    "ordinal": {"kind": "classes"},
    "binary_cross_entropy": {"kind": "binary", "threshold": 0.0},
    "binary_focal": {"kind": "binary", "threshold": 0.0},
    "hinge": {"kind": "binary", "threshold": 0.0},
    "soft_margin": {"kind": "binary", "threshold": 0.0},
}


def _marks_classes(target: Any) -> bool:
    """Tell whether targets may be labels, binary, or the probabilities of classes."""
    if not isinstance(target, np.ndarray) or target.dtype.kind in "iub":
        return True
    if np.isin(target, (-1, 0, 1)).all():
        return True
    alone = target.ndim < 2 or target.shape[1] == 1
    if alone or not (target >= 0).all():
        return False
    total = target.sum(axis=1, dtype=np.float64)
    return bool((abs(total - 1) <= _validate.PROBABILITY_SLACK).all())


def _takes_weights(function: Any) -> bool:
    import inspect

    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return "sample_weight" in parameters


class History:
    """Losses, metrics and times of the epochs of one call of `fastmlp.MLP.fit`.

    ``history["loss"]`` is the list of a column by its name: "loss", "val_loss",
    "seconds" or the name of a metric. Iteration yields a dict with the values of each
    epoch, so ``pandas.DataFrame(history)`` is a table with a row for each epoch;
    ``dict(history)`` has the columns. Notebooks show the loss curves, with the last,
    lowest and highest values of each column.

    Attributes
    ----------
    loss : list of float
        Mean training loss of each epoch (for ``reduction="sum"``, the sum over its
        batches). The loss of a batch is computed before its step.
    val_loss : list of float
        Validation loss after each epoch; empty if there are no validation data.
    metrics : dict of str to list of float
        Metrics of ``fit(metrics=…)``, such as "val_accuracy", and values that callbacks
        add with `log`.
    seconds : list of float
        Wall time of each epoch, including validation.
    has_validation : bool
        Whether there are validation data.
    """

    __slots__ = ("has_validation", "loss", "metrics", "seconds", "val_loss")

    def __init__(self, *, has_validation: bool = False) -> None:
        self.loss: list[float] = []
        self.val_loss: list[float] = []
        self.metrics: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.has_validation = has_validation

    # The pickle protocols 0 and 1 refuse slots unless the class has this method.
    def __getstate__(self) -> Any:
        return super().__getstate__()

    def log(self, name: str, value: float) -> None:
        """Append a value to a metric; for use in callbacks.

        Raises
        ------
        ValueError
            If the name is reserved for the history itself or for a CSV log, such as
            "loss".
        """
        if name in RESERVED:
            raise ValueError(f"the name {name!r} is already used; choose another")
        self.metrics.setdefault(name, []).append(float(value))

    def to_dict(self) -> dict[str, Any]:
        """Return copies of the lists: loss, val_loss, metrics, seconds."""
        return {
            "loss": list(self.loss),
            "val_loss": list(self.val_loss),
            "metrics": {name: list(values) for name, values in self.metrics.items()},
            "seconds": list(self.seconds),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return a history with the values that `to_dict` returned."""
        history = cls(has_validation=bool(values["val_loss"]))
        history.loss += values["loss"]
        history.val_loss += values["val_loss"]
        history.metrics |= {k: list(v) for k, v in values["metrics"].items()}
        history.seconds += values["seconds"]
        return history

    def extend(self, other: History) -> None:
        """Append the epochs of another history, such as that of a resumed fit."""
        values = other.to_dict()
        self.loss += values["loss"]
        self.val_loss += values["val_loss"]
        self.seconds += values["seconds"]
        for name, series in values["metrics"].items():
            self.metrics.setdefault(name, []).extend(series)
        self.has_validation |= other.has_validation

    def __len__(self) -> int:
        """Return the number of finished epochs."""
        return len(self.loss)

    def _columns(self) -> dict[str, list[float]]:
        columns = {"loss": self.loss, "val_loss": self.val_loss, **self.metrics}
        if not self.val_loss:
            del columns["val_loss"]
        return {**columns, "seconds": self.seconds}

    def keys(self) -> list[str]:
        """Return the names of the columns, in the order of a table."""
        return list(self._columns())

    def __contains__(self, name: object) -> bool:
        return name in self._columns()

    def __getitem__(self, name: str) -> list[float]:
        """Return the column of this name.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        columns = self._columns()
        if not isinstance(name, str) or name not in columns:
            raise KeyError(
                f"{name!r} is not a column of this history, which has "
                f"{', '.join(columns)}"
            )
        return columns[name]

    def __iter__(self) -> Iterator[dict[str, float]]:
        """Yield the values of each epoch, by column.

        A metric that was not logged in every epoch has its values in the first rows.
        """
        columns = self._columns()
        for i in range(len(self)):
            yield {name: each[i] for name, each in columns.items() if i < len(each)}

    def _repr_html_(self) -> str:
        """Return the loss curves and the values by column, for notebooks."""
        from ._display.history import page

        return page(self._columns())

    def __repr__(self) -> str:
        parts = [f"epochs={len(self)}"]
        if self.loss:
            parts.append(f"loss={self.loss[-1]:.6g}")
        if self.val_loss:
            parts.append(f"val_loss={self.val_loss[-1]:.6g}")
        for name, values in self.metrics.items():
            if values:
                parts.append(f"{name}={values[-1]:.6g}")
        return f"History({', '.join(parts)})"
