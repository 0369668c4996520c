"""Weights of samples by their classes."""

from __future__ import annotations

import math
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate

if TYPE_CHECKING:
    from .._validate import Array


def class_weights(
    class_weight: Any, labels: list[Any], y: Array, training: Array
) -> Array:
    """Return the weight of each sample: the product over its labels.

    Parameters
    ----------
    class_weight : dict, list of dict, or 'balanced'
        The classifier's parameter.
    labels : list
        The labels; a dict has them as keys. A label that the dict lacks has weight 1.
    y, training : (rows, n) array
        Indices into ``labels`` of the samples and of the training data, whose
        frequencies determine 'balanced'.

    Raises
    ------
    ValueError
        If ``class_weight`` has the wrong form, labels that do not exist, or weights
        that are negative or not finite.
    """
    n = y.shape[1]
    many: list[Any] = [class_weight] * n
    if isinstance(class_weight, (list, tuple)):
        many = list(class_weight)
        if len(many) != n:
            raise ValueError(
                "class_weight must have a dict for each of the "
                f"{n} labels of a sample, got {len(many)}"
            )
    elif n > 1 and not isinstance(class_weight, str):
        raise ValueError(
            "For multi-output, class_weight should be a list of dicts, or the string "
            "'balanced'."
        )
    weight = np.ones(len(y))
    for k, of_label in enumerate(many):
        table = _balanced(training[:, k], len(labels))
        if not isinstance(of_label, str):
            table = _given(of_label, labels)
        weight *= table[y[:, k].astype(np.intp)]
    return weight


def _given(weights: Any, labels: list[Any]) -> Array:
    """Return the weight of each label according to a dict."""
    if not isinstance(weights, dict):
        raise ValueError(
            f"class_weight must have a dict for each label of a sample, got {weights!r}"
        )
    missing = [label for label in labels if label not in weights]
    unknown = [label for label in weights if label not in labels]
    # As in scikit-learn, a dict that has all labels may have others.
    if missing and unknown:
        raise ValueError(
            f"The classes, {missing}, are not in class_weight, which has {unknown}"
        )
    table = [weights.get(label, 1.0) for label in labels]
    for label, weight in zip(labels, table, strict=True):
        try:
            number = isinstance(weight, (Real, Decimal))
            valid = number and 0 <= float(weight) < math.inf
        except OverflowError:  # an integer that no float can hold
            valid = False
        if not valid:
            raise ValueError(
                "class_weight must be finite and >= 0, got "
                f"{_validate.describe(weight)} for {label!r}"
            )
    return np.array(table, np.float64)


def _balanced(indices: Array, n: int) -> Array:
    """Return the weights that make labels equal; 1 for those that do not occur."""
    counts = np.bincount(indices.astype(np.intp), minlength=n)
    occurs = counts > 0
    return np.where(occurs, len(indices) / (occurs.sum() * np.maximum(counts, 1)), 1.0)
