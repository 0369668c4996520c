"""A fit that fails leaves the estimator as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.datasets import load_iris

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)


def snapshot(est: Any) -> dict[str, Any]:
    """Return the attributes, with copies of the arrays and lists."""
    return {
        k: [np.array(v, copy=True) for v in value]
        if isinstance(value, list)
        else np.array(value, copy=True)
        if isinstance(value, np.ndarray)
        else value
        for k, value in vars(est).items()
    }


def assert_same(est: Any, before: dict[str, Any]) -> None:
    after = snapshot(est)
    assert after.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_equal(after[name], value, name)


class Fails(fm.Callback):
    def on_epoch_end(self, mlp: Any, history: Any) -> None:
        if len(history) == 2:
            raise ZeroDivisionError


FAILURES: dict[str, Callable[[Any], Any]] = {
    "labels of an eval_set": lambda c: c.fit(X, y + 5, eval_set=(X[:3], [99] * 3)),
    "weights": lambda c: c.fit(X, y + 5, sample_weight=-np.ones(150)),
    "class weights": lambda c: c.set_params(class_weight={0: -1}).fit(X, y),
    "features": lambda c: c.fit(X[:, :0], y + 5),
    "a callback": lambda c: c.set_params(callbacks=[Fails()]).fit(X[:, :3], y + 5),
    "classes": lambda c: c.partial_fit(X, y, classes=[7, 8, 9]),
    "features of a chunk": lambda c: c.partial_fit(X[:, :2], y),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("warm_start", [False, True])
def test_errors_leave_the_estimator_as_it_was(
    failure: str, fitted: bool, warm_start: bool
) -> None:
    clf = MLPClassifier((5,), max_iter=5, random_state=0)
    if fitted:
        clf.fit(X, y)
    clf.set_params(warm_start=warm_start)
    before = snapshot(clf)
    # The parameters that a case sets are not part of the result.
    ignored = "class_weight", "callbacks"
    p = clf.predict_proba(X) if fitted else None
    with pytest.raises((ValueError, ZeroDivisionError)):
        FAILURES[failure](clf)
    for name in ignored:
        setattr(clf, name, before[name])
    assert_same(clf, before)
    if fitted:
        np.testing.assert_array_equal(clf.predict_proba(X), p)
    clf.set_params(warm_start=False).fit(X, y)
    again = MLPClassifier((5,), max_iter=5, random_state=0).fit(X, y)
    np.testing.assert_array_equal(clf.predict_proba(X), again.predict_proba(X))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_warm_start_after_a_failure_is_as_without_it(dropout: float) -> None:
    settings = {"max_iter": 3, "random_state": 0, "warm_start": True}
    one, other = (MLPClassifier((5,), dropout=dropout, **settings) for _ in range(2))
    for clf in (one, other):
        clf.fit(X, y)
    other.set_params(callbacks=[Fails()])
    with pytest.raises(ZeroDivisionError):
        other.fit(X, y)
    other.set_params(callbacks=None)
    for clf in (one, other):
        clf.fit(X, y)
    assert one.loss_curve_ == other.loss_curve_
    assert len(other.mlp_.history) == 3
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))


@pytest.mark.parametrize("warm_start", [False, True])
def test_a_divergence_leaves_the_weights_of_the_last_fit(warm_start: bool) -> None:
    reg = MLPRegressor(hidden_layer_sizes=(), solver="sgd", random_state=0)
    reg.fit(X, y).set_params(learning_rate_init=1e30, n_iter_no_change=100)
    reg.set_params(warm_start=warm_start)
    before, p = snapshot(reg), reg.predict(X)
    with pytest.raises(ValueError, match="non-finite"):
        reg.fit(X, y)
    np.testing.assert_array_equal(reg.predict(X), p)
    assert_same(reg, before)


def test_the_first_call_of_partial_fit_may_be_repeated() -> None:
    clf = MLPClassifier((5,), random_state=0)
    with pytest.raises(ValueError, match="0 feature"):
        clf.partial_fit(X[:, :0], y, classes=[0, 1, 2])
    assert not hasattr(clf, "classes_")
    clf.partial_fit(X, y + 1, classes=[1, 2, 3])
    np.testing.assert_array_equal(clf.classes_, [1, 2, 3])
