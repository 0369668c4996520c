"""Estimators: options beyond scikit-learn's, errors, and scikit-learn's tools."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import joblib
import numpy as np
import pytest
import sklearn
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
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import (
    load_digits,
    load_iris,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelBinarizer, StandardScaler

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("blas_by_one_thread"),
]


def logistic(pred: Any, target: Any) -> tuple[float, Any]:
    """The binary cross-entropy of logits."""
    value = np.logaddexp(0, pred) - pred * target
    return float(value.mean()), (1 / (1 + np.exp(-pred)) - target) / pred.size


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_written_in_python_trains_alike(solver: str, weighted: bool) -> None:
    X, y = regression(2)
    weight = np.random.RandomState(0).rand(len(X)) if weighted else None
    settings: dict[str, Any] = {
        "solver": solver,
        "alpha": 0.3,
        "max_iter": 10,
        "random_state": 0,
        "batch_size": 64,
    }
    a = MLPRegressor(**settings).fit(X, y, weight)
    b = MLPRegressor(squared, **settings).fit(X, y, weight)
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=TRAINED_RTOL)
    for x, z in zip(a.coefs_, b.coefs_, strict=True):
        np.testing.assert_allclose(x, z, rtol=0, atol=TRAINED_RTOL)


@pytest.mark.parametrize("loss", ["squared_error", squared], ids=str)
def test_batches_that_weigh_nothing_change_nothing(loss: Any) -> None:
    X, y = regression()
    weight = np.where(np.arange(len(X)) < 64, 0.0, 1.0)
    settings: dict[str, Any] = {
        "solver": "sgd",
        "momentum": 0.0,
        "shuffle": False,
        "batch_size": 64,
        "max_iter": 3,
        "random_state": 0,
    }
    a = MLPRegressor(loss, **settings).fit(X, y, weight)
    b = MLPRegressor(loss, **settings).fit(X[64:], y[64:], weight[64:])
    np.testing.assert_array_equal(a.coefs_[0], b.coefs_[0])


@pytest.mark.parametrize(
    "settings",
    [
        {"activation": ["gelu", "sin"], "hidden_layer_sizes": (8, 6)},
        {"activation": "silu", "normalization": "layer"},
        {"normalization": "batch", "batch_size": 13},
        {"dropout": [0.1, 0.0], "hidden_layer_sizes": (8, 6)},
        {"solver": "adamw", "alpha": 0.1},
        {"solver": "rmsprop"},
        {"solver": "adagrad", "learning_rate_init": 0.05},
        {"solver": fm.SGD(0.1, momentum=0.5, clip_norm=1.0)},
        {"solver": fm.LBFGS()},
        {"learning_rate": fm.schedules.Cosine(0.01, period=200)},
        {"learning_rate": lambda step: 0.01 / (1 + step)},
        {"learning_rate": fm.schedules.ReduceOnPlateau(0.01), "solver": "sgd"},
        {"dtype": "float32"},
        {"dtype": np.float32},
        {"n_threads": 1},
    ],
    ids=str,
)
def test_extensions_train(settings: dict[str, Any]) -> None:
    settings = {"max_iter": 40, "random_state": 0, **settings}
    for kind, (X, y) in ((MLPClassifier, digits(200)), (MLPRegressor, regression())):
        before = repr(settings)
        est = kind(**settings)
        est.fit(X, y)
        again = clone(est).fit(X, y)
        assert est.loss_curve_ == again.loss_curve_
        assert est.loss_curve_[-1] < est.loss_curve_[0]
        assert repr(settings) == before
        if isinstance(settings.get("solver"), (fm.SGD, fm.LBFGS)):
            assert settings["solver"].step_count == 0
        assert est.score(X, y) > est.fit(X, y).score(X, y) - 1e-9


@pytest.mark.parametrize(
    "loss",
    [
        "absolute_error",
        "huber",
        "pseudo_huber",
        "quantile",
        fm.MSE(),
        fm.Huber(0.5),
        fm.Quantile(0.8),
    ],
    ids=str,
)
def test_losses_of_the_regressor(loss: Any) -> None:
    X, y = regression(2)
    reg = MLPRegressor(loss, max_iter=100, learning_rate_init=0.02, random_state=0)
    reg.fit(X, y)
    assert reg.predict(X).shape == y.shape
    assert reg.score(X, y) > 0.5


def test_named_losses_are_sums_over_the_outputs() -> None:
    X, y = regression(2)
    named = MLPRegressor("absolute_error", max_iter=1, batch_size=len(X), alpha=0)
    taken = clone(named).set_params(loss=fm.MAE())
    named.set_params(random_state=0).fit(X, y)
    taken.set_params(random_state=0).fit(X, y)
    np.testing.assert_allclose(named.loss_, 2 * taken.loss_)


def test_quantiles_and_variances() -> None:
    X, y = regression()
    quantiles = MLPRegressor(fm.Quantile([0.1, 0.5, 0.9]), random_state=0)
    low, _, high = quantiles.fit(X, y).predict(X).T
    assert 0.7 < ((low <= y) & (y <= high)).mean() < 0.95
    gaussian = MLPRegressor(fm.GaussianNLL(), random_state=0, early_stopping=True)
    mean, std = gaussian.fit(X, y).predict(X, return_std=True)
    assert mean.shape == std.shape == y.shape
    assert (std > 0).all()
    np.testing.assert_array_equal(mean, gaussian.predict(X))
    with pytest.raises(ValueError, match="return_std=True needs"):
        quantiles.predict(X, return_std=True)


@pytest.mark.parametrize("data", [digits, binary, multilabel])
@pytest.mark.parametrize(
    "loss",
    [
        fm.CrossEntropy(label_smoothing=0.1),
        fm.BinaryCrossEntropy(pos_weight=2.0),
        fm.Hinge(),
        fm.MSE(),
        logistic,
    ],
    ids=str,
)
def test_losses_of_the_classifier(loss: Any, data: Callable[[], Any]) -> None:
    X, y = data()
    clf = MLPClassifier(
        loss=loss,
        random_state=0,
        learning_rate_init=0.01,
        max_iter=60,
        early_stopping=True,
        n_iter_no_change=60,
    )
    if data is multilabel and isinstance(loss, fm.CrossEntropy):
        with pytest.raises(ValueError, match="CrossEntropy is for one label"):
            clf.fit(X, y)
        return
    clf.fit(X, y)
    prediction = clf.predict(X)
    assert prediction.shape == y.shape
    assert (prediction == y).mean() > 0.75
    assert max(clf.validation_scores_) > 0.3
    if isinstance(loss, (fm.Hinge, fm.MSE)):
        assert not hasattr(clf, "predict_proba")
        return
    p = clf.predict_proba(X)
    assert ((p >= 0) & (p <= 1)).all()
    if data is not multilabel:
        np.testing.assert_allclose(p.sum(axis=1), 1)
        np.testing.assert_array_equal(clf.classes_[p.argmax(axis=1)], prediction)


def test_class_weight_is_sample_weight() -> None:
    X, y = binary()
    weight = np.where(y == "high", 3.0, 1.0)
    settings: dict[str, Any] = {"random_state": 0, "max_iter": 5}
    a = MLPClassifier(class_weight={"high": 3.0}, **settings).fit(X, y)
    b = MLPClassifier(**settings).fit(X, y, weight)
    assert a.loss_curve_ == b.loss_curve_
    c = MLPClassifier(class_weight={"high": 3.0}, **settings).fit(X, y, weight)
    d = MLPClassifier(**settings).fit(X, y, weight**2)
    assert c.loss_curve_ == d.loss_curve_
    balanced = MLPClassifier(class_weight="balanced", **settings)
    share = np.where(y == "high", (y == "high").mean(), (y == "low").mean())
    e = MLPClassifier(**settings).fit(X, y, 0.5 / share)
    np.testing.assert_allclose(balanced.fit(X, y).loss_curve_, e.loss_curve_)
    with pytest.raises(ValueError, match="'balanced' is not supported"):
        balanced.partial_fit(X, y)


def test_eval_set() -> None:
    X, y = digits()
    train, held_out = slice(0, 200), (X[200:], y[200:])
    clf = MLPClassifier(random_state=0, max_iter=10)
    clf.fit(X[train], y[train], eval_set=held_out)
    assert len(clf.validation_loss_curve_) == 10
    p = clf.predict_proba(held_out[0])
    one_hot = LabelBinarizer().fit(y).transform(held_out[1])
    wanted = -(one_hot * np.log(p)).sum(axis=1).mean()
    np.testing.assert_allclose(clf.validation_loss_curve_[-1], wanted)
    assert clf.validation_scores_ is None

    # Given validation data use no random numbers, and early stopping uses them.
    plain = MLPClassifier(random_state=0, max_iter=10).fit(X[train], y[train])
    assert plain.loss_curve_ == clf.loss_curve_
    assert plain.validation_loss_curve_ == []
    clf.set_params(early_stopping=True, max_iter=60, learning_rate_init=0.01)
    clf.fit(X[train], y[train], eval_set=held_out)
    assert clf.t_ == 200 * clf.n_iter_
    assert max(clf.validation_scores_) == clf.score(*held_out)

    Xr, yr = regression()
    for solver in ("lbfgs", "adam", fm.LevenbergMarquardt()):
        reg = MLPRegressor(random_state=0, max_iter=4, solver=solver, alpha=0)
        reg.set_params(hidden_layer_sizes=(4,))
        if isinstance(solver, fm.LevenbergMarquardt):
            reg.set_params(loss=fm.MSE())
        weight = np.arange(20) + 1.0
        reg.fit(Xr[20:], yr[20:], eval_set=(Xr[:20], yr[:20], weight))
        r = np.average((reg.predict(Xr[:20]) - yr[:20]) ** 2, weights=weight)
        half = 1.0 if isinstance(solver, fm.LevenbergMarquardt) else 0.5
        np.testing.assert_allclose(reg.validation_loss_curve_[-1], half * r)
        assert len(reg.validation_loss_curve_) == len(reg.loss_curve_) == 4


class Count(fm.Callback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_begin(self, mlp: Any, history: Any) -> None:
        self.calls.append("begin")

    def on_epoch_begin(self, mlp: Any, history: Any) -> None:
        self.calls.append("epoch")

    def on_epoch_end(self, mlp: Any, history: Any) -> bool:
        self.calls.append("done")
        return len(history) == 3

    def on_train_end(self, mlp: Any, history: Any) -> None:
        self.calls.append("end")


@pytest.mark.parametrize("solver", ["adam", "lbfgs", fm.LBFGS()], ids=str)
def test_callbacks(solver: Any) -> None:
    X, y = regression()
    count = Count()
    reg = MLPRegressor(solver=solver, callbacks=[count], random_state=0).fit(X, y)
    assert reg.n_iter_ == len(reg.loss_curve_) == 3
    assert reg.callbacks_ == [count]
    assert count.calls == ["begin", *["epoch", "done"] * 3, "end"]
    assert len(reg.mlp_.history) == 3
    # A fit with that number of iterations gives the same result.
    same = MLPRegressor(solver=solver, max_iter=3, random_state=0).fit(X, y)
    np.testing.assert_array_equal(same.predict(X), reg.predict(X))


def test_callbacks_of_fastmlp(tmp_path: Path) -> None:
    X, y = regression()
    reg = MLPRegressor(
        max_iter=200,
        learning_rate_init=0.05,
        random_state=0,
        callbacks=[
            fm.EarlyStopping(monitor="val_loss", patience=3, restore_best=True),
            fm.CSVLogger(tmp_path / "log.csv"),
            fm.Checkpoint(tmp_path / "last"),
        ],
    )
    reg.fit(X[50:], y[50:], eval_set=(X[:50], y[:50]))
    curve = reg.validation_loss_curve_
    assert len(curve) == np.argmin(curve) + 4 < 200
    best = 0.5 * ((reg.predict(X[:50]) - y[:50]) ** 2).mean()
    np.testing.assert_allclose(best, min(curve))
    assert len((tmp_path / "log.csv").read_text().splitlines()) == len(curve) + 1
    assert (tmp_path / "last").exists()


def test_steps_are_reported_with_and_without_weights() -> None:
    X, y = regression()
    for weight in (None, np.full(len(X), 2.0)):
        told: list[float] = []
        hook = fm.LambdaCallback(
            on_batch_end=lambda mlp, history, step, loss, told=told: told.append(loss)
        )
        reg = MLPRegressor(max_iter=2, batch_size=55, callbacks=[hook], alpha=0)
        reg.fit(X, y, weight)
        np.testing.assert_allclose(np.mean(told[4:]), reg.loss_)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = regression()
    MLPRegressor(max_iter=3, progress=True).fit(X, y)
    assert "epoch 3/3" in capsys.readouterr().err
    MLPRegressor(max_iter=3, verbose=True, solver="lbfgs").fit(X, y)
    out, err = capsys.readouterr()
    assert "Iteration 3, loss = " in out
    assert err == ""


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_ctrl_c_keeps_the_model(solver: str) -> None:
    X, y = regression()

    def interrupt(mlp: Any, history: Any) -> None:
        if len(history) == 2:
            raise KeyboardInterrupt

    reg = MLPRegressor(solver=solver, callbacks=[interrupt], random_state=0)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        reg.fit(X, y)
    assert reg.n_iter_ == 2
    same = MLPRegressor(solver=solver, max_iter=2, random_state=0).fit(X, y)
    np.testing.assert_array_equal(same.predict(X), reg.predict(X))


def test_threads_do_not_change_the_bits() -> None:
    X, y = load_digits(return_X_y=True)
    settings: dict[str, Any] = {
        "hidden_layer_sizes": 256,
        "max_iter": 2,
        "random_state": 0,
        "batch_size": 512,
    }
    a = MLPClassifier(n_threads=1, **settings).fit(X, y)
    b = MLPClassifier(n_threads=2, **settings).fit(X, y)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    c = MLPClassifier(solver="lbfgs", n_threads=1, max_iter=3, random_state=0)
    d = clone(c).set_params(n_threads=2)
    np.testing.assert_array_equal(
        c.fit(X, y).predict_proba(X), d.fit(X, y).predict_proba(X)
    )


def test_the_network_is_an_attribute() -> None:
    X, y = digits()
    clf = MLPClassifier(max_iter=2).fit(X, y)
    logits = clf.mlp_(X)
    np.testing.assert_array_equal(logits.argmax(axis=1), clf.predict(X))
    assert clf.mlp_.jacobian(X[:2]).shape == (2, 10, 64)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"activation": "reluu"}, "activation"),
        ({"activation": ["relu", "tanh"]}, "activation must be one value or one"),
        ({"activation": ["reluu"]}, "did you mean 'relu'"),
        ({"dropout": [0.1, 0.2]}, "dropout must be one value or one for each"),
        ({"dropout": 1.0}, "'dropout' parameter"),
        ({"dropout": [1.5]}, "dropout must be"),
        ({"normalization": "group"}, "'normalization' parameter"),
        ({"solver": "adamax"}, "'solver' parameter"),
        ({"solver": "lbfgs", "dropout": 0.1}, "need a solver that"),
        ({"solver": fm.LBFGS(), "normalization": "batch"}, "need a solver that"),
        (
            {"solver": "lbfgs", "learning_rate": fm.schedules.Cosine(1e-2, period=9)},
            "learning_rate must be a name",
        ),
        ({"hidden_layer_sizes": (3, 0)}, "hidden_layer_sizes must be > 0"),
        ({"hidden_layer_sizes": -3}, "hidden_layer_sizes"),
        ({"dtype": "float16"}, "'dtype' parameter"),
        ({"dtype": np.int32}, "dtype must be float32 or float64"),
        ({"n_threads": 0}, "'n_threads' parameter"),
        ({"callbacks": print}, "'callbacks' parameter"),
        ({"loss": "hinge"}, "'loss' parameter"),
        ({"loss": fm.ActionValue(fm.MSE())}, "not a loss for"),
        ({"learning_rate": "linear"}, "'learning_rate' parameter"),
    ],
    ids=str,
)
def test_bad_settings(settings: dict[str, Any], match: str) -> None:
    X, y = digits(50)
    for kind in OURS.values():
        with pytest.raises((ValueError, TypeError), match=match):
            kind(**settings).fit(X, y)


def test_bad_data() -> None:
    X, y = digits(50)
    clf, reg = MLPClassifier(max_iter=2), MLPRegressor(max_iter=2)
    with pytest.raises(ValueError, match="Negative values"):
        clf.fit(X, y, sample_weight=-np.ones(50))
    with pytest.raises(ValueError, match=r"weight.*zero"):
        clf.fit(X, y, sample_weight=np.zeros(50))
    with pytest.raises(ValueError, match="y must not be negative"):
        reg.set_params(loss="poisson").fit(X, y - 5.0)
    reg.set_params(loss="squared_error")
    with pytest.raises(ValueError, match="eval_set must be"):
        clf.fit(X, y, eval_set=X)
    with pytest.raises(ValueError, match="has classes not in"):
        clf.fit(X, y, eval_set=(X[:2], [3, 17]))
    with pytest.raises(ValueError, match=r"eval_set: y must have .*\(1\), got 2"):
        reg.fit(X, y, eval_set=(X[:2], np.ones((2, 2))))
    with pytest.raises(ValueError, match="X has 3 features"):
        clf.fit(X, y, eval_set=(X[:2, :3], y[:2]))
    for est in (MLPClassifier(solver="lbfgs"), MLPRegressor(solver=fm.LBFGS())):
        assert not hasattr(est, "partial_fit")
    reg.fit(X, y).set_params(warm_start=True, hidden_layer_sizes=(3,))
    with pytest.raises(ValueError, match="widths of all layers are unchanged"):
        reg.fit(X, y)
    with pytest.warns(UserWarning, match="It is going to be clipped"):
        clf.set_params(batch_size=51).fit(X, y)


def test_divergence() -> None:
    X, y = regression()
    reg = MLPRegressor(solver="sgd", learning_rate_init=1e3, random_state=0)
    with pytest.raises(ValueError, match=r"non-finite parameter weights.*epoch"):
        reg.fit(X, y)


def test_reached_limits_give_warnings() -> None:
    X, y = regression()
    with pytest.warns(ConvergenceWarning, match=r"Maximum iterations \(2\) reached"):
        MLPRegressor(max_iter=2).fit(X, y)
    with pytest.warns(ConvergenceWarning, match="Increase the number of iterations"):
        MLPRegressor(max_iter=2, solver="lbfgs").fit(X, y)


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_grid_search(backend: str) -> None:
    X, y = load_iris(return_X_y=True)
    pipe = make_pipeline(
        StandardScaler(), MLPClassifier((8,), random_state=0, max_iter=15)
    ).set_output(transform="pandas")
    grid = {
        "mlpclassifier__alpha": [1e-4, 1.0],
        "mlpclassifier__activation": ["relu", "gelu"],
        "mlpclassifier__solver": ["sgd", fm.Adam(0.02)],
    }
    with joblib.parallel_backend(backend, n_jobs=2):
        search = GridSearchCV(pipe, grid, cv=2).fit(X, y)
    alone = GridSearchCV(pipe, grid, cv=2, n_jobs=1).fit(X, y)
    for name in ("mean_test_score", "std_test_score"):
        np.testing.assert_array_equal(search.cv_results_[name], alone.cv_results_[name])
    assert search.best_score_ > 0.8


def test_workers_use_only_the_threads_that_joblib_leaves_them() -> None:
    with joblib.parallel_config("loky", n_jobs=2, inner_max_num_threads=1):
        found = joblib.Parallel()(joblib.delayed(_threads)() for _ in range(2))
    assert found == [1, 1]


def _threads() -> int:
    import fastmlp

    return fastmlp.get_num_threads()


def test_other_meta_estimators() -> None:
    X, y = load_iris(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    clf = MLPClassifier((8,), random_state=0, learning_rate_init=0.02)
    halving = HalvingGridSearchCV(
        clf, {"alpha": [1e-4, 1e-2]}, resource="max_iter", max_resources=40, cv=2
    ).fit(X, y)
    assert halving.best_score_ > 0.85
    assert cross_val_score(clf, X, y, cv=3).min() > 0.85
    assert CalibratedClassifierCV(clf, cv=2).fit(X, y).score(X, y) > 0.85


def test_metadata_are_routed() -> None:
    X, y = load_iris(return_X_y=True)
    weight = np.arange(len(X)) % 2 + 0.5
    with sklearn.config_context(enable_metadata_routing=True):
        clf = MLPClassifier((4,), max_iter=3, random_state=0)
        clf.set_fit_request(sample_weight=True, eval_set=True)
        clf.set_score_request(sample_weight=False)
        pipe = make_pipeline(clf)
        pipe.fit(X, y, sample_weight=weight, eval_set=(X, y))
        assert len(pipe[-1].validation_loss_curve_) == 3
        result = cross_validate(
            clf, X, y, params={"sample_weight": weight}, cv=2, return_estimator=True
        )
    alone = MLPClassifier((4,), max_iter=3, random_state=0)
    alone.fit(X, y, sample_weight=weight)
    assert pipe[-1].loss_curve_ == alone.loss_curve_
    assert len(result["estimator"]) == 2


def test_import_needs_scikit_learn_and_says_so(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import fastmlp\n"
        "try: fastmlp.sklearn\n"
        "except ImportError as e: print(e)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "pip install 'fastmlp[sklearn]'" in done.stdout


@pytest.mark.parametrize(
    ("name", "kind"),
    [("layer", fm.LayerNorm), ("rms", fm.RMSNorm), ("batch", fm.BatchNorm)],
)
def test_normalization_stands_before_each_hidden_activation(name, kind):
    x = np.random.default_rng(0).standard_normal((40, 3))
    reg = MLPRegressor(hidden_layer_sizes=(6, 5), normalization=name, max_iter=2).fit(
        x, x[:, 0]
    )
    kinds = [type(layer) for layer in reg.mlp_.layers]
    assert kinds == [fm.Dense, kind, fm.Activation] * 2 + [fm.Dense]
