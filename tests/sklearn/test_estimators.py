"""The estimators of fastmlp.sklearn against scikit-learn's."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import scipy.sparse
from estimator_cases import (
    OURS,
    TRAINED_RTOL,
    binary,
    digits,
    multilabel,
    regression,
    squared,
)
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.datasets import (
    load_iris,
)
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("blas_by_one_thread"),
]


# The same sums in a different precision.
FLOAT32_RTOL = 1e-4


EPOCHS = 50


def counts() -> tuple[Any, Any]:
    X, y = regression()
    return X, np.round(np.exp(y))


def both(kind: str, **settings: Any) -> tuple[Any, Any]:
    settings = {
        "random_state": 3,
        "max_iter": EPOCHS,
        "hidden_layer_sizes": (12, 7),
        **settings,
    }
    return getattr(theirs, kind)(**settings), OURS[kind](**settings)


def assert_follows(a: Any, b: Any, rtol: float = TRAINED_RTOL) -> None:
    """Check that our fitted estimator equals theirs."""
    assert a.n_iter_ == b.n_iter_
    assert a.t_ == b.t_
    assert a.n_layers_ == b.n_layers_
    assert a.n_outputs_ == b.n_outputs_
    assert a.out_activation_ == b.out_activation_
    np.testing.assert_allclose(b.loss_, a.loss_, rtol=rtol)
    if hasattr(a, "loss_curve_"):
        np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=rtol)
    for name in ("best_loss_", "validation_scores_", "best_validation_score_"):
        assert hasattr(a, name) == hasattr(b, name)
        x, y = getattr(a, name, None), getattr(b, name, None)
        assert (x is None) == (y is None)
        if x is not None:
            np.testing.assert_allclose(y, x, rtol=rtol)
    for x, y in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert x.shape == y.shape
        np.testing.assert_allclose(y, x, rtol=0, atol=100 * rtol)


SETTINGS: list[tuple[str, Callable[[], Any], dict[str, Any]]] = [
    ("MLPClassifier", digits, {}),
    ("MLPClassifier", binary, {"activation": "tanh"}),
    ("MLPClassifier", multilabel, {"activation": "logistic"}),
    ("MLPClassifier", digits, {"shuffle": False, "batch_size": 37}),
    ("MLPClassifier", binary, {"early_stopping": True, "learning_rate_init": 0.01}),
    ("MLPClassifier", digits, {"early_stopping": True, "learning_rate_init": 0.01}),
    ("MLPClassifier", multilabel, {"early_stopping": True}),
    ("MLPClassifier", digits, {"beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3}),
    ("MLPRegressor", regression, {"activation": "identity", "alpha": 0.5}),
    ("MLPRegressor", regression, {"hidden_layer_sizes": ()}),
    ("MLPRegressor", regression, {"early_stopping": True}),
    ("MLPRegressor", counts, {"loss": "poisson", "batch_size": 33}),
]


SETTINGS += [
    (
        "MLPClassifier",
        digits,
        {
            "solver": "sgd",
            "learning_rate": rate,
            "nesterovs_momentum": nesterov,
            "momentum": momentum,
            "learning_rate_init": 0.1,
            "power_t": 0.2,
            # Chosen so that "adaptive" lowers the rate several times.
            "tol": 0.05 if rate == "adaptive" else 1e-4,
            "n_iter_no_change": 2 if rate == "adaptive" else 10,
        },
    )
    for rate in ("constant", "invscaling", "adaptive")
    for nesterov, momentum in ((True, 0.9), (False, 0.9), (True, 0.0))
]


SETTINGS += [
    (kind, data, {"solver": "lbfgs", "max_iter": n})
    for kind, data in (("MLPClassifier", digits), ("MLPRegressor", regression))
    for n in (1, 2, 7, 20, 50)
]


SETTINGS += [
    ("MLPRegressor", counts, {"solver": "lbfgs", "loss": "poisson", "max_iter": 20})
]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("kind", "data", "settings"), SETTINGS)
def test_results_follow_those_of_scikit_learn(
    kind: str, data: Callable[[], Any], settings: dict[str, Any], weighted: bool
) -> None:
    X, y = data()
    weight = np.random.RandomState(0).rand(len(X)) if weighted else None
    a, b = both(kind, **settings)
    a.fit(X, y, sample_weight=weight)
    b.fit(X, y, sample_weight=weight)
    assert_follows(a, b)
    np.testing.assert_allclose(b.score(X, y), a.score(X, y), rtol=TRAINED_RTOL)


def test_adaptive_rate_does_fall_in_these_settings() -> None:
    settings = [s for _, _, s in SETTINGS if s.get("learning_rate") == "adaptive"]
    X, y = digits()
    for setting in settings:
        clf = both("MLPClassifier", **setting)[1].fit(X, y)
        assert clf._optimizer.learning_rate < 0.1 / 5 * 1.01


def test_float32_follows_within_its_precision() -> None:
    X, y = digits()
    a, b = both("MLPClassifier")
    X = X.astype(np.float32)
    a.fit(X, y)
    b.fit(X, y)
    np.testing.assert_allclose(b.loss_curve_, a.loss_curve_, rtol=FLOAT32_RTOL)
    assert b.predict_proba(X).dtype == b.coefs_[0].dtype == np.float32


def test_lbfgs_is_as_precise_in_float32() -> None:
    X, y = (a.astype(np.float32) for a in regression())
    a, b = both("MLPRegressor", solver="lbfgs", max_iter=10)
    np.testing.assert_allclose(b.fit(X, y).loss_, a.fit(X, y).loss_, rtol=FLOAT32_RTOL)
    assert b.coefs_[0].dtype == np.float32


def test_several_targets_have_the_gradient_of_scikit_learn_and_a_loss_of_it() -> None:
    X, y = regression(3)
    a, b = both("MLPRegressor", tol=0.0)
    a.fit(X, y)
    b.fit(X, y)
    for x, z in zip(a.coefs_, b.coefs_, strict=True):
        np.testing.assert_allclose(z, x, rtol=0, atol=100 * TRAINED_RTOL)
    # Their loss is a mean over targets, except for the penalty.
    penalty = 0.5 * b.alpha * sum((w**2).sum() for w in b.coefs_) / len(X)
    ratio = (b.loss_ - penalty) / (a.loss_ - penalty)
    assert 2.9 < ratio < 3.1


def test_loss_of_several_targets_is_the_one_that_lbfgs_descends() -> None:
    X, y = regression(3)
    reg = MLPRegressor(solver="lbfgs", max_iter=5, random_state=0).fit(X, y)
    sums = 0.5 * ((reg.predict(X) - y) ** 2).sum(axis=1).mean()
    penalty = 0.5 * reg.alpha * sum((w**2).sum() for w in reg.coefs_) / len(X)
    np.testing.assert_allclose(reg.loss_, sums + penalty, rtol=TRAINED_RTOL)


def test_warm_start_and_partial_fit_follow() -> None:
    X, y = digits()
    for settings in ({}, {"solver": "sgd", "learning_rate": "invscaling"}):
        a, b = both("MLPClassifier", max_iter=5, warm_start=True, **settings)
        for _ in range(3):
            a.fit(X, y)
            b.fit(X, y)
        assert_follows(a, b)
        a, b = both("MLPClassifier", **settings)
        for part in (slice(0, 100), slice(100, 300), slice(50, 200)):
            a.partial_fit(X[part], y[part], classes=np.arange(10))
            b.partial_fit(X[part], y[part], classes=np.arange(10))
        assert_follows(a, b)


def test_multilabel_partial_fit() -> None:
    X, y = multilabel()
    a, b = both("MLPClassifier")
    for part in (slice(0, 70), slice(70, 150)):
        a.partial_fit(X[part], y[part], classes=np.arange(4))
        b.partial_fit(X[part], y[part], classes=np.arange(4))
    assert_follows(a, b)
    np.testing.assert_array_equal(a.predict(X), b.predict(X))


def test_labels_as_a_sparse_matrix() -> None:
    X, y = multilabel()
    a, b = both("MLPClassifier", max_iter=20)
    a.fit(X, scipy.sparse.csr_matrix(y))
    b.fit(X, scipy.sparse.csr_matrix(y))
    assert_follows(a, b)
    assert scipy.sparse.issparse(b.predict(X))
    assert (a.predict(X) != b.predict(X)).nnz == 0


def test_parameters_are_those_of_scikit_learn_first() -> None:
    import inspect

    for kind, ours in OURS.items():
        theirs_ = list(inspect.signature(getattr(theirs, kind)).parameters.values())
        own = list(inspect.signature(ours).parameters.values())
        for a, b in zip(theirs_, own, strict=False):
            assert (a.name, a.default, a.kind) == (b.name, b.default, b.kind)
        more = own[len(theirs_) :]
        assert all(p.kind is p.KEYWORD_ONLY for p in more)
        assert {"dropout", "callbacks", "n_threads"} <= {p.name for p in more}


@pytest.mark.parametrize("setting", ["alpha", "max_iter", "momentum", "tol", "epsilon"])
def test_messages_of_bad_parameters_are_those_of_scikit_learn(setting: str) -> None:
    X, y = digits(20)
    for a, b in (both("MLPClassifier"), both("MLPRegressor")):
        messages = []
        for est in (a, b):
            with pytest.raises(ValueError, match=setting) as caught:
                est.set_params(**{setting: -1}).fit(X, y)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]


def test_attributes_are_views_and_may_be_replaced() -> None:
    X, y = regression()
    reg = MLPRegressor(hidden_layer_sizes=(5,), max_iter=3, random_state=0).fit(X, y)
    assert isinstance(reg.coefs_, list)
    assert all(a is b for a, b in zip(reg.coefs_, reg.mlp_.weights, strict=True))
    before = reg.predict(X)
    last = reg.coefs_[1].copy()

    reg.coefs_[1][...] = 0
    np.testing.assert_allclose(reg.predict(X), reg.intercepts_[1][0])
    reg.coefs_[1] = last
    np.testing.assert_array_equal(reg.predict(X), before)
    reg.intercepts_ = [b + 1 for b in reg.intercepts_]
    assert (reg.predict(X) != before).all()
    reg.intercepts_ = [b - 1 for b in reg.intercepts_]
    np.testing.assert_allclose(reg.predict(X[:1]), before[:1])
    assert reg.coefs_[0] is reg.mlp_.weights[0]

    # Replace the network by one of another size.
    rng = np.random.RandomState(0)
    reg.coefs_ = [rng.randn(6, 3), rng.randn(3, 2)]
    reg.intercepts_ = [rng.randn(3), rng.randn(2)]
    hidden = np.maximum(X @ reg.coefs_[0] + reg.intercepts_[0], 0)
    reg.set_params(hidden_layer_sizes=(3,))
    wanted = hidden @ reg.coefs_[1] + reg.intercepts_[1]
    np.testing.assert_allclose(reg.predict(X), wanted)
    reg.coefs_[0] = np.ones((6, 4))
    with pytest.raises(
        ValueError, match=r"coefs_ and intercepts_ must have the shapes"
    ):
        reg.predict(X)
    reg.coefs_[0] = "weights"
    with pytest.raises(ValueError, match=r"coefs_\[0\] must be a numeric array"):
        reg.predict(X)


def test_copies(tmp_path: Path) -> None:
    X, y = digits()
    clf = MLPClassifier(max_iter=3, random_state=0, early_stopping=True).fit(X, y)
    clf.coefs_[0] = clf.coefs_[0] * 2
    wanted = clf.predict_proba(X)
    joblib.dump(clf, tmp_path / "clf.joblib")
    for other in (
        copy.deepcopy(clf),
        pickle.loads(pickle.dumps(clf)),
        joblib.load(tmp_path / "clf.joblib", mmap_mode="r"),
    ):
        np.testing.assert_array_equal(other.predict_proba(X), wanted)
        other.coefs_[0][...] = 0  # the arrays are views of the copy's memory
        assert (other.predict_proba(X) != wanted).any()
    np.testing.assert_array_equal(clf.predict_proba(X), wanted)
    assert not hasattr(clone(clf), "coefs_")
    size = len(pickle.dumps(MLPClassifier(max_iter=3).fit(X, y)))
    assert size < 4 * clf.mlp_.n_params * 8  # weights and two moments, each stored once


def test_pickled_estimators_resume_exactly() -> None:
    X, y = digits()
    a = MLPClassifier(random_state=0, solver="sgd", learning_rate="invscaling")
    a.partial_fit(X, y, classes=np.arange(10))
    b = pickle.loads(pickle.dumps(a))
    a.partial_fit(X, y)
    b.partial_fit(X, y)
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


def test_quick_and_careful_predictions_are_the_same_bits() -> None:
    X, y = digits()
    for target in (y, y > 4):
        clf = MLPClassifier(max_iter=3, random_state=0).fit(X, target)
        for f in (clf.predict, clf.predict_proba, clf.predict_log_proba):
            careful = f(X)
            assert X.size > 4096
            for i in (0, 7):
                np.testing.assert_array_equal(f(X[i : i + 1]), careful[i : i + 1])
                np.testing.assert_array_equal(
                    f(np.asfortranarray(X[i : i + 3])), careful[i : i + 3]
                )
                np.testing.assert_array_equal(f(X[i : i + 1].tolist()), careful[[i]])


@pytest.mark.parametrize(
    ("X", "match"),
    [
        (np.zeros(64), "Expected 2D array, got 1D array"),
        (np.zeros((1, 3)), "X has 3 features, but MLPClassifier is expecting 64"),
        (np.full((1, 64), np.nan), "Input X contains NaN"),
        (np.full((1, 64), np.inf), "Input X contains infinity"),
        (np.zeros((0, 64)), "Found array with 0 sample"),
    ],
)
def test_bad_inputs_are_refused_as_scikit_learn_does(X: Any, match: str) -> None:
    clf = MLPClassifier(max_iter=2).fit(*digits(50))
    for f in (clf.predict, clf.predict_proba):
        with pytest.raises(ValueError, match=match):
            f(X)


def test_large_finite_inputs_are_not_refused() -> None:
    X, y = regression()
    reg = MLPRegressor(max_iter=2).fit(X, y)
    assert np.isfinite(reg.predict(np.full((1, 6), 1e200))).all()


def test_before_fit() -> None:
    for f in (
        MLPClassifier().predict,
        MLPClassifier().predict_proba,
        MLPRegressor().predict,
    ):
        with pytest.raises(NotFittedError):
            f(np.zeros((1, 2)))


def test_feature_names_of_pandas_and_polars() -> None:
    X, y = load_iris(return_X_y=True)
    names = ["a", "b", "c", "d"]
    frames = [pd.DataFrame(X, columns=names), pl.DataFrame(X, schema=names)]
    plain = MLPClassifier(max_iter=2, random_state=0).fit(X, y)
    for frame in frames:
        clf = MLPClassifier(max_iter=2, random_state=0).fit(frame, y)
        assert list(clf.feature_names_in_) == names
        np.testing.assert_array_equal(clf.predict(frame), plain.predict(X))
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            clf.predict(X)
        with pytest.raises(ValueError, match="feature names should match"):
            clf.predict(frames[0].rename(columns={"a": "z"}))


def test_sparse_data_are_the_same_as_dense() -> None:
    X, y = digits()
    for settings in (
        {},
        {"solver": "sgd", "learning_rate": "invscaling", "shuffle": False},
        {"early_stopping": True},
        {"solver": "lbfgs"},
        {"normalization": "batch", "dropout": 0.2, "batch_size": 23},
        {"learning_rate": fm.schedules.Cosine(0.01, period=40)},
        {"loss": squared, "dropout": 0.1},
    ):
        for weight in (None, np.arange(len(X)) % 3 + 0.5):
            make = MLPClassifier(max_iter=8, random_state=0, batch_size=32)
            make.set_params(**settings)
            dense = clone(make).fit(X, y, sample_weight=weight)
            for kind in (scipy.sparse.csr_matrix, scipy.sparse.csc_array):
                sparse = clone(make).fit(kind(X), y, sample_weight=weight)
                assert dense.loss_curve_ == sparse.loss_curve_
                np.testing.assert_array_equal(
                    dense.predict_proba(X), sparse.predict_proba(kind(X))
                )
