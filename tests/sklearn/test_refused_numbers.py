"""Dates, strings, masked entries and huge integers are refused, not converted."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.default_rng(0).standard_normal((40, 3))
y = X[:, 0]
labels = (y > 0).astype(int)
weight = np.arange(40.0) + 1
HUGE = 10**400
KINDS = [MLPClassifier, MLPRegressor]


def masked(array: Any) -> Any:
    """Return the array with its first number masked."""
    array = np.ma.array(array, mask=np.zeros(array.shape, bool))
    array[(0,) * array.ndim] = np.ma.masked
    return array


def with_huge(array: Any) -> Any:
    """Return nested lists whose first number is too large for a float64."""
    array = array.astype(object)
    array[(0,) * array.ndim] = HUGE
    return array.tolist()


ODD: dict[str, Callable[[Any], Any]] = {
    "strings": lambda a: a.astype(str),
    "a list of strings": lambda a: a.astype(str).tolist(),
    "timedeltas": lambda a: a.astype("m8[s]"),
    "dates": lambda a: a.astype("m8[s]") + np.datetime64("2020"),
    "masked": masked,
    "a list of masked rows": lambda a: list(masked(a)) if a.ndim == 2 else masked(a),
    "huge": with_huge,
    "only huge": lambda a: np.full(a.shape, HUGE, object),
}


def frames() -> dict[str, Any]:
    pandas = pytest.importorskip("pandas", reason="its frames are passed")
    days = np.datetime64("2020-01-01", "D") + np.arange(6).reshape(2, 3)
    return {
        "datetimes": pandas.DataFrame(days),
        "strings": pandas.DataFrame(np.ones((2, 3)).astype(str)),
        "objects": pandas.DataFrame(np.ones((2, 3)).astype(str).astype(object)),
        "a list of datetimes": [[np.datetime64("2020")] * 3],
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ODD)
def test_samples_and_weights(kind: Any, which: str) -> None:
    odd = ODD[which]
    est = kind(hidden_layer_sizes=3, max_iter=1, random_state=0).fit(X, labels)
    before = est.predict(X)
    for call in (est.predict, lambda x: est.fit(x, labels)):
        with pytest.raises(ValueError, match=r"^X must"):
            call(odd(X))
    with pytest.raises(ValueError, match=r"^X must"):
        est.score(odd(X), labels)
    for method in (est.fit, est.partial_fit, est.score):
        with pytest.raises(ValueError, match=r"^sample_weight must"):
            method(X, labels, odd(weight))
    with pytest.raises(ValueError, match=r"^eval_set: sample_weight must"):
        est.fit(X, labels, eval_set=(X, labels, odd(weight)))
    with pytest.raises(ValueError, match=r"^sample_weight_val must"):
        est.fit(X, labels, X_val=X, y_val=labels, sample_weight_val=odd(weight))
    np.testing.assert_array_equal(est.predict(X), before)


@pytest.mark.parametrize("which", ODD)
@pytest.mark.parametrize("loss", ["squared_error", fm.Quantile([0.1, 0.9])])
def test_targets_and_scores(which: str, loss: Any) -> None:
    odd = ODD[which]
    reg = MLPRegressor(loss, 3, max_iter=1).fit(X, y)
    for method in (reg.fit, reg.score):
        with pytest.raises(ValueError, match=r"^y must"):
            method(X, odd(y))
    with pytest.raises(ValueError, match=r"^sample_weight must"):
        reg.score(X, y, odd(weight))
    with pytest.raises(ValueError, match=r"^sample_weight must"):
        reg.score(X, y, sample_weight=HUGE)


@pytest.mark.parametrize("which", frames())
@pytest.mark.parametrize("kind", KINDS)
def test_frames(which: str, kind: Any) -> None:
    est = kind(hidden_layer_sizes=3, max_iter=1).fit(X, labels)
    with pytest.raises(ValueError, match=r"^X must hold real numbers"):
        est.predict(frames()[which])


def test_text_comes_with_a_remedy() -> None:
    words = r"^X must hold real numbers, got .*; encode text, .* OneHotEncoder"
    for X in ([["a"], ["b"]], np.array([["a"], ["b"]], object)):
        with pytest.raises(ValueError, match=words):
            MLPRegressor().fit(X, [0.0, 1.0])


def test_masked_labels() -> None:
    clf = MLPClassifier((3,), max_iter=1).fit(X, labels)
    for method in (clf.fit, clf.partial_fit, clf.score):
        with pytest.raises(ValueError, match=r"^y must have no masked entries"):
            method(X, masked(labels))
    with pytest.raises(ValueError, match=r"^eval_set: y must have no masked entries"):
        clf.fit(X, labels, eval_set=(X, masked(labels)))


@pytest.mark.parametrize("kind", KINDS)
def test_masked_arrays_without_masked_entries(kind: Any) -> None:
    est = kind(hidden_layer_sizes=3, max_iter=2, random_state=0)
    wanted = est.fit(X, labels, weight).predict(X)
    est.fit(*map(np.ma.array, (X, labels, weight)))
    np.testing.assert_array_equal(est.predict(np.ma.array(X)), wanted)
    assert est.score(*map(np.ma.array, (X, labels, weight))) == est.score(
        X, labels, weight
    )


@pytest.mark.parametrize("value", ["3", HUGE, np.datetime64(3, "s"), None, -1, np.nan])
def test_class_weights(value: Any) -> None:
    clf = MLPClassifier((3,), class_weight={0: value, 1: 2})
    with pytest.raises(ValueError, match=r"class_weight must be .* for 0$"):
        clf.fit(X, labels)


def test_class_weights_may_be_any_real_numbers() -> None:
    settings: dict[str, Any] = {"max_iter": 1, "random_state": 0}
    losses = [
        MLPClassifier((3,), class_weight={0: half, 1: 2}, **settings)
        .fit(X, labels)
        .loss_
        for half in (0.5, Fraction(1, 2), Decimal("0.5"), np.float32(0.5))
    ]
    assert len(set(losses)) == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("solver", "name"),
    [
        ("adam", "epsilon"),
        ("adamw", "epsilon"),
        ("rmsprop", "epsilon"),
        ("adam", "alpha"),
        ("adamw", "alpha"),
        ("sgd", "learning_rate_init"),
        ("sgd", "power_t"),
        ("sgd", "tol"),
        ("lbfgs", "tol"),
    ],
)
def test_parameters_that_no_float_can_hold(kind: Any, solver: str, name: str) -> None:
    settings: dict[str, Any] = {"solver": solver, name: HUGE}
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        kind(hidden_layer_sizes=3, max_iter=2, **settings).fit(X, labels)


def test_scores_of_labels_that_are_dates() -> None:
    clf = MLPClassifier((3,), max_iter=1, random_state=0).fit(X, labels)
    accuracy = clf.score(X, labels)
    with pytest.raises(ValueError, match=r"^y must hold labels of type int64"):
        clf.score(X, labels.astype("m8[s]"))
    clf.fit(X, labels.astype("m8[s]"))
    assert clf.score(X, labels.astype("m8[s]")) == accuracy
    with pytest.raises(ValueError, match=r"^y must hold labels of type timedelta64"):
        clf.score(X, labels)
