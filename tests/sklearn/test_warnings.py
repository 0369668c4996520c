"""Warnings of the estimators point to the line of the user's call."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

X = np.random.default_rng(0).standard_normal((40, 3))
y = X[:, 0]


class Interrupt(fm.callbacks.Callback):
    def on_epoch_end(self, *args: Any) -> None:
        raise KeyboardInterrupt


def regressor(**options: Any) -> MLPRegressor:
    return MLPRegressor(
        **{"hidden_layer_sizes": 3, "max_iter": 2, "tol": 0, "random_state": 0}
        | options
    )


def issued(call: Callable[[], object], match: str) -> list[Any]:
    """Return the warnings of a call whose text has ``match``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [w for w in caught if match in str(w.message)]


@pytest.mark.parametrize(
    ("call", "match", "category"),
    [
        (lambda: regressor().fit(X, y), "Maximum iterations", ConvergenceWarning),
        (
            lambda: MLPClassifier((3,), max_iter=1).fit(X, y > 0),
            "Maximum iterations",
            ConvergenceWarning,
        ),
        (
            lambda: make_pipeline(StandardScaler(), regressor()).fit(X, y),
            "Maximum iterations",
            ConvergenceWarning,
        ),
        (
            lambda: cross_val_score(regressor(), X, y, cv=2),
            "Maximum iterations",
            ConvergenceWarning,
        ),
        (
            lambda: regressor(solver="lbfgs").fit(X, y),
            "failed to converge",
            ConvergenceWarning,
        ),
        (
            lambda: regressor().fit(X, y, eval_set=(1e6 * X, y)),
            "another scale",
            UserWarning,
        ),
        (lambda: regressor(batch_size=99).fit(X, y), "clipped", UserWarning),
        (lambda: regressor(batch_size=99).partial_fit(X, y), "clipped", UserWarning),
        (
            lambda: regressor(early_stopping=True).fit(X, y, np.eye(40)[0]),
            "early_stopping is not used",
            UserWarning,
        ),
        (
            lambda: regressor(callbacks=[Interrupt()]).fit(X, y),
            "interrupted",
            UserWarning,
        ),
    ],
)
def test_warnings_point_here(
    call: Callable[[], object], match: str, category: type[Warning]
) -> None:
    found = issued(call, match)
    assert found
    for warning in found:
        assert warning.filename == __file__
        assert warning.category is category
