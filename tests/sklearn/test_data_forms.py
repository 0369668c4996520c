"""Unusual but valid data, and data that are refused."""

from __future__ import annotations

import datetime
import decimal
import tracemalloc
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from estimator_cases import squared
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.datasets import load_iris
from sklearn.preprocessing import StandardScaler

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, labels = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
y = X[:, 3]


def unaligned(array: Any) -> Any:
    """Return a copy whose elements lie between the addresses of aligned ones."""
    array = np.asarray(array)
    memory = bytearray(array.nbytes + 3)
    copy: Any = np.ndarray(array.shape, array.dtype, memory, 3)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"solver": "lbfgs"},
        {"solver": fm.LBFGS()},
        {"loss": fm.Huber()},
        {"loss": squared},
        {"early_stopping": True},
    ],
    ids=str,
)
def test_unaligned_arrays(dtype: str, settings: dict[str, Any]) -> None:
    x, t, w = X.astype(dtype), y.astype(dtype), np.arange(150.0) + 1
    results = []
    for as_given in (np.asarray, unaligned):
        reg = MLPRegressor(
            **{"max_iter": 4, "hidden_layer_sizes": 3, "random_state": 0, **settings}
        )
        a, b, c = as_given(x), as_given(t), as_given(w)
        reg.fit(a, b, c, X_val=a[:9], y_val=b[:9], sample_weight_val=c[:9])
        if hasattr(reg, "partial_fit") and not reg.early_stopping:
            reg.partial_fit(a, b, c)
        results.append([reg.predict(a), reg.predict(a[:1]), reg.score(a, b, c)])
        results[-1].append(reg.validation_loss_curve_)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_unaligned_memory_maps(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"odd" + X.tobytes() + labels.tobytes())
    x = np.memmap(path, X.dtype, "r", 3, X.shape)
    t = np.memmap(path, labels.dtype, "r", 3 + X.nbytes, labels.shape)
    assert not x.flags.aligned
    clf = MLPClassifier((3,), max_iter=4, random_state=0)
    p = clf.fit(X, labels).predict_proba(X)
    np.testing.assert_array_equal(clf.fit(x, t).predict_proba(x), p)
    np.testing.assert_array_equal(clf.fit(x, t).predict(x[:1]), clf.predict(X[:1]))
    clf.coefs_[0] = unaligned(clf.coefs_[0])
    np.testing.assert_array_equal(clf.predict_proba(x), p)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"class_weight": "balanced"},
        {"early_stopping": True},
        {"loss": fm.CrossEntropy()},
    ],
    ids=str,
)
def test_many_classes_need_little_memory(settings: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    rows, classes = 20_000, 1000
    x, t = rng.standard_normal((rows, 2)), rng.integers(0, classes, rows)
    clf = MLPClassifier((2,), max_iter=1, batch_size=200, random_state=0, **settings)
    tracemalloc.start()
    try:
        clf.fit(x, t)
        if "early_stopping" not in settings and "class_weight" not in settings:
            clf.partial_fit(x, t)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        label = clf.predict(x)
        of_labels = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert of_labels < 40e6  # all outputs are 160 MB
    np.testing.assert_array_equal(
        label[::99], clf.predict_proba(x[::99]).argmax(axis=1)
    )
    # One-hot targets alone take 20 MB as booleans, 160 MB as int64. The outputs for
    # the 2000 held-out rows are 16 MB.
    assert peak < (24e6 if "early_stopping" in settings else 4e6)


@pytest.mark.parametrize("loss", [fm.BinaryCrossEntropy(), fm.Hinge(), fm.MSE()])
def test_targets_of_one_against_the_rest(loss: Any) -> None:
    clf = MLPClassifier((), loss=loss, max_iter=1, random_state=0, solver=fm.SGD(0.0))
    clf.fit(X, np.array(["a", "b", "c"])[labels])
    one_hot = np.eye(3)[labels]
    target = 2 * one_hot - 1 if isinstance(loss, fm.Hinge) else one_hot
    assert clf.set_params(alpha=0).fit(X, labels).loss_ == pytest.approx(
        loss(clf.mlp_(X), target)
    )


@pytest.mark.parametrize("scale", [1e39, 1e-46, 1e300, 1e-300, 1.7e308, 5e-324])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs", fm.LBFGS()], ids=str)
def test_the_scale_of_weights_does_not_matter(
    scale: float, dtype: str, solver: Any
) -> None:
    settings: dict[str, Any] = {
        "hidden_layer_sizes": 3,
        "solver": solver,
        "dtype": dtype,
        "max_iter": 3,
        "random_state": 0,
        "early_stopping": True,
    }
    one = MLPRegressor(**settings).fit(X, y, np.ones(150))
    other = MLPRegressor(**settings).fit(X, y, np.full(150, scale))
    np.testing.assert_array_equal(one.predict(X), other.predict(X))
    assert one.validation_scores_ == other.validation_scores_
    settings["early_stopping"] = False
    clf = MLPClassifier(**settings, class_weight={0: scale, 1: scale, 2: scale})
    with_both = clf.fit(X, labels, np.full(150, scale)).predict_proba(X)
    alone = MLPClassifier(**settings).fit(X, labels, np.ones(150)).predict_proba(X)
    np.testing.assert_array_equal(with_both, alone)


def test_ordinary_weights_scale_the_penalty_as_in_scikit_learn() -> None:
    from sklearn.neural_network import MLPRegressor as Theirs

    settings: dict[str, Any] = {"max_iter": 3, "random_state": 0, "alpha": 10.0}
    losses = [
        kind(**settings).fit(X, y, np.full(150, 1e6)).loss_
        for kind in (MLPRegressor, Theirs)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-9)


DAYS = np.datetime64("2020-01-01") + np.arange(150)
WORDS = [str(value) for value in y]


def targets() -> dict[str, Any]:
    pandas = pytest.importorskip("pandas", reason="its series are passed")
    polars = pytest.importorskip("polars", reason="its series are passed")
    return {
        "datetimes": DAYS,
        "timedeltas": DAYS - DAYS[0],
        "a series of datetimes": pandas.Series(DAYS),
        "dates": DAYS.astype(object).tolist(),
        "Python's datetimes": [datetime.datetime(2020, 1, 1)] * 150,
        "Python's timedeltas": [datetime.timedelta(1)] * 150,
        "a list of strings": WORDS,
        "strings": np.array(WORDS),
        "a column of strings": np.array(WORDS)[:, np.newaxis],
        "objects": np.array(WORDS, object),
        "one string": np.array([*y[:-1], "1.5"], object),
        "a series of strings": pandas.Series(WORDS, dtype="string"),
        "categories": pandas.Series(WORDS, dtype="category"),
        "polars strings": polars.Series(WORDS),
        "polars dates": polars.Series(DAYS.astype(object).tolist()),
        "bytes": [word.encode() for word in WORDS],
    }


@pytest.mark.parametrize("which", targets())
def test_targets_of_a_regression_are_numbers(which: str) -> None:
    given = targets()[which]
    reg = MLPRegressor(hidden_layer_sizes=3, max_iter=1)
    with pytest.raises(ValueError, match=r"^y must hold real numbers"):
        reg.fit(X, given)
    with pytest.raises(ValueError, match=r"^y must hold real numbers"):
        reg.partial_fit(X, given)
    with pytest.raises(ValueError, match=r"^y_val must hold real numbers"):
        reg.fit(X, y, X_val=X, y_val=given)
    with pytest.raises(ValueError, match=r"^eval_set: y must hold real numbers"):
        reg.fit(X, y, eval_set=(X, given))
    MLPClassifier((3,), max_iter=1).fit(X[:9], ["a", "b", "c"] * 3)  # labels may be


def test_other_numbers_are_targets() -> None:
    pandas = pytest.importorskip("pandas", reason="its series are passed")
    reg = MLPRegressor(hidden_layer_sizes=3, max_iter=2, random_state=0)
    wanted = reg.fit(X, y).loss_
    for given in (
        [decimal.Decimal(float(value)) for value in y],
        y.astype(object),
        list(y),
        pandas.Series(y, dtype="Float64"),
    ):
        assert reg.fit(X, given).loss_ == wanted
    assert reg.fit(X, y > 0).loss_ == reg.fit(X, (y > 0).astype(float)).loss_


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_samples_are_numbers(kind: Any) -> None:
    pandas = pytest.importorskip("pandas", reason="its frames are passed")
    dates = DAYS[:, np.newaxis] + np.arange(4)
    est = kind(hidden_layer_sizes=3, max_iter=1).fit(X, labels)
    before = est.predict(X)
    for given in (
        dates,
        dates - dates[0, 0],
        pandas.DataFrame(dates),
        X.astype(str),
        X.astype(str).astype(object),
        dates.astype(object),
    ):
        with pytest.raises(ValueError, match=r"^X must hold real numbers"):
            est.fit(given, labels)
        with pytest.raises(ValueError, match=r"^X_val must hold real numbers"):
            est.fit(X, labels, X_val=given, y_val=labels)
    for given in (dates, dates - dates[0, 0], X.astype(str)):
        with pytest.raises(ValueError, match=r"^X must hold real numbers"):
            est.predict(given)
    np.testing.assert_array_equal(est.predict(X), before)
    np.testing.assert_array_equal(est.predict(X.astype(object)), before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_few_rows_of_another_layout_need_no_slow_checks(
    dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    reg = MLPRegressor(hidden_layer_sizes=3, max_iter=1, dtype=dtype).fit(X, y)
    forms = [np.asfortranarray(X.astype(t)) for t in ("float32", "float64")]
    wanted = [reg.predict(form.tolist()) for form in forms]
    extreme = np.asfortranarray(X)
    extreme[0] = 1e200  # in float32, this is infinite
    of_extreme = reg.predict(extreme.tolist())
    np.testing.assert_array_equal(reg.predict(extreme), of_extreme)
    for bad in (np.inf, np.nan):
        extreme[0, 0] = bad
        with pytest.raises(ValueError, match="X contains"):
            reg.predict(extreme)
    with pytest.raises(ValueError, match="X has 3 features"):
        reg.predict(forms[0][:, :3])

    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("fastmlp.sklearn._base.validate_data", refuse)
    for form, values in zip(forms, wanted, strict=True):
        np.testing.assert_array_equal(reg.predict(form), values)
        np.testing.assert_array_equal(reg.predict(form[::-1])[::-1], values)
        assert reg.predict(form[:1]) == pytest.approx(values[:1], rel=1e-6)
