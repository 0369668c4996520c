"""Weights of classes by label."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier
from sklearn.datasets import load_iris
from sklearn.utils import compute_sample_weight

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)


def classifier(**settings: Any) -> MLPClassifier:
    return MLPClassifier((3,), max_iter=3, random_state=0, **settings)


def test_a_chunk_may_lack_a_class_with_a_weight() -> None:
    weighted = classifier(class_weight={1: 10.0})
    plain = classifier()
    for part in (slice(0, 50), slice(60, 140), slice(100, 150)):
        weighted.partial_fit(X[part], y[part], classes=[0, 1, 2])
        weight = np.where(y[part] == 1, 10.0, 1.0)
        plain.partial_fit(X[part], y[part], weight, classes=[0, 1, 2])
    np.testing.assert_array_equal(weighted.predict_proba(X), plain.predict_proba(X))


@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        (["0", "1", "2"], {"0": 1, "1": 5}),
        (["10", "9", "8"], {"9": 5}),
        (["a", "1", "c"], {"1": 5}),
        ([0, 1, 2], {np.int64(1): 5}),
        ([0.0, 1.0, 2.0], {1: 5}),
        ([0.5, 1.5, 2.5], {1.5: 5}),
        ([-1, 1, 2], {1: 5, 7: 2, -1: 1, 2: 1}),
    ],
    ids=str,
)
def test_labels_of_any_type_have_weights(labels: Any, weights: Any) -> None:
    named = np.array(labels)[y] if labels != [0.5, 1.5, 2.5] else None
    if named is None:
        named = np.array(["0.5", "1.5", "2.5"])[y]
        weights = {"1.5": 5}
    held = X[::2], named[::2]
    a = classifier(class_weight=weights).fit(X, named, eval_set=held)
    w = np.where(y == 1, 5.0, 1.0)
    b = classifier().fit(X, named, w, eval_set=(*held, w[::2]))
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    assert a.validation_loss_curve_ == b.validation_loss_curve_


def test_labels_of_booleans() -> None:
    a = classifier(class_weight={True: 3}).fit(X, y == 1)
    b = classifier().fit(X, y == 1, np.where(y == 1, 3.0, 1.0))
    assert a.loss_curve_ == b.loss_curve_


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    few = y[:120]
    several = np.stack([y > 0, y > 1, X[:, 0] > 7], axis=1).astype(int)
    for x, t in ((X[:120], few), (X[:90], few[:90]), (X, several)):
        clf = classifier(class_weight="balanced").fit(x, t)
        weighted = classifier().fit(x, t, compute_sample_weight("balanced", t))
        assert clf.loss_curve_ == weighted.loss_curve_


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ({"1": 5}, r"classes, \[0, 1, 2\], are not in class_weight, which has \['1'\]"),
        ({0: 1, 3: 2}, "are not in class_weight"),
        ({0: -1}, "must be finite and >= 0"),
        ({0: np.nan}, "must be finite and >= 0"),
        ({0: "much"}, "must be finite and >= 0"),
        ([{0: 1}, {0: 2}], "a dict for each of the 1 labels"),
        (["balanced", 3], "a dict for each of the 1 labels"),
    ],
    ids=str,
)
def test_bad_weights(weights: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        classifier(class_weight=weights).fit(X, y)


def test_bad_weights_of_several_labels() -> None:
    several = np.stack([y > 0, y > 1], axis=1).astype(int)
    for weights in ({0: 1}, [{0: 1}], [{0: 1}] * 3, [{0: 1}, 4.0]):
        with pytest.raises(ValueError, match="class_weight"):
            classifier(class_weight=weights).fit(X, several)
    classifier(class_weight=[{1: 3}, "balanced"]).fit(X, several)
