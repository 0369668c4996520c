"""Data sets and comparisons for the tests of estimators."""

from typing import Any

import numpy as np
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.datasets import (
    load_digits,
    make_multilabel_classification,
    make_regression,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

# Same formulas with a different order of roundings: errors reach 1e-13 after 50 epochs;
# quasi-Newton steps amplify them to 1e-10.
TRAINED_RTOL = 1e-8


OURS = {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}


def digits(n: int = 300) -> tuple[Any, Any]:
    X, y = load_digits(return_X_y=True)
    return X[:n] / 16, y[:n]


def regression(targets: int = 1, n: int = 220) -> tuple[Any, Any]:
    X, y = make_regression(n, 6, n_targets=targets, noise=5, random_state=1)
    return X, y / y.std()


def multilabel() -> tuple[Any, Any]:
    return make_multilabel_classification(150, 8, n_classes=4, random_state=2)


def binary() -> tuple[Any, Any]:
    X, y = digits()
    return X, np.where(y > 4, "high", "low")


def squared(pred: Any, target: Any, weight: Any = None) -> tuple[float, Any]:
    """A custom loss: half the squared error, summed over outputs."""
    r = pred - target
    w = np.ones(len(r)) if weight is None else weight
    w = (w / w.sum())[:, np.newaxis]
    return float(0.5 * (w * r**2).sum()), w * r
