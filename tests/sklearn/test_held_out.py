"""Held-out data of the estimators: as arguments, in pipelines, and by a split."""

from __future__ import annotations

import warnings
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
import sklearn
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import BaggingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_diabetes(return_X_y=True)
X, y = 1000 + 100 * X, (y - y.mean()) / y.std()
TRAIN, HELD = slice(100, None), slice(100)
IRIS = load_iris(return_X_y=True)


def regressor(**settings: Any) -> MLPRegressor:
    return MLPRegressor(
        **{"max_iter": 30, "hidden_layer_sizes": 5, **settings}, random_state=0
    )


@pytest.mark.parametrize("stopping", [False, True])
def test_a_pipeline_transforms_held_out_samples(stopping: bool) -> None:
    scaler = StandardScaler().fit(X[TRAIN])
    alone = regressor(early_stopping=stopping).fit(
        scaler.transform(X[TRAIN]),
        y[TRAIN],
        eval_set=(scaler.transform(X[HELD]), y[HELD]),
    )
    with sklearn.config_context(enable_metadata_routing=True):
        net = regressor(early_stopping=stopping).set_fit_request(X_val=True, y_val=True)
        pipe = Pipeline(
            [("scale", StandardScaler()), ("net", net)], transform_input=["X_val"]
        )
        pipe.fit(X[TRAIN], y[TRAIN], X_val=X[HELD], y_val=y[HELD])
    curve = pipe[-1].validation_loss_curve_
    assert curve == alone.validation_loss_curve_
    assert max(curve) < 2


def test_held_out_data_on_another_scale_give_a_warning() -> None:
    pipe = make_pipeline(StandardScaler(), regressor())
    with pytest.warns(UserWarning, match=r"X_val is on another scale.*transform_input"):
        pipe.fit(X, y, mlpregressor__X_val=X[HELD], mlpregressor__y_val=y[HELD])
    with pytest.warns(UserWarning, match=r"eval_set: X is on another scale"):
        pipe.fit(X, y, mlpregressor__eval_set=(X[HELD], y[HELD]))
    x = StandardScaler().fit_transform(X)
    target = TransformedTargetRegressor(regressor(), transformer=StandardScaler())
    with pytest.warns(UserWarning, match=r"y_val is on another scale.*already trans"):
        target.fit(x, 152 + 77 * y, X_val=x[HELD], y_val=152 + 77 * y[HELD])
    with pytest.warns(UserWarning, match=r"smaller by a factor of 1\.05e\+03"):
        regressor().fit(x, y, X_val=1e-3 * x[HELD], y_val=y[HELD])


def test_data_on_the_same_scale_give_no_warning() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_cauchy((500, 4))  # heavy tails
    t = np.exp(3 * rng.standard_normal(500))
    classes = t > 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        for held in (slice(0, 1), slice(0, 7), slice(0, 100)):
            regressor().fit(x, t, eval_set=(x[held], t[held]))
            MLPClassifier((3,), max_iter=2).fit(
                x, classes, X_val=x[held], y_val=classes[held]
            )
        regressor().fit(np.ones((9, 2)), np.ones(9), eval_set=([[1, 2]], [3]))


def test_one_pair_in_a_list_and_separate_arguments() -> None:
    held = X[HELD], y[HELD], np.arange(100) + 1.0
    wanted = regressor().fit(X, y, eval_set=held).validation_loss_curve_
    for given in (
        {"eval_set": [held]},
        {"eval_set": list(held)},
        {"X_val": held[0], "y_val": held[1], "sample_weight_val": held[2]},
    ):
        assert regressor().fit(X, y, **given).validation_loss_curve_ == wanted


BAD: dict[str, dict[str, Any]] = {
    "one pair .* a list of 2": {"eval_set": [(X, y), (X, y)]},
    "eval_set must be .* list$": {"eval_set": [(X, y, y, y)]},
    "eval_set must be": {"eval_set": []},
    "given together, got no y_val": {"X_val": X},
    "given together, got no X_val": {"y_val": y},
    "sample_weight_val needs X_val and y_val": {"sample_weight_val": y},
    "either eval_set or X_val": {"eval_set": (X, y), "X_val": X, "y_val": y},
    r"y_val must have .*\(1\), got 2": {"X_val": X, "y_val": np.ones((442, 2))},
}


@pytest.mark.parametrize("match", BAD)
def test_bad_held_out_data(match: str) -> None:
    with pytest.raises(ValueError, match=match):
        regressor().fit(X, y, **BAD[match])


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("rows", [1, 2])
def test_few_held_out_rows_do_stop_a_fit(solver: str, rows: int) -> None:
    """R² of one row is NaN, and NaN counted as an improvement."""
    x = StandardScaler().fit_transform(X)
    reg = MLPRegressor(
        hidden_layer_sizes=(5,),
        solver=solver,
        early_stopping=True,
        max_iter=3000,
        random_state=0,
    ).fit(x, y, eval_set=(x[:rows], y[:rows]))
    assert reg.n_iter_ < 3000
    assert np.isfinite(reg.validation_scores_).all()
    if rows == 1:
        assert reg.best_validation_score_ == -min(reg.validation_loss_curve_)
    one_weighs = np.arange(rows) == 0
    reg.fit(x, y, eval_set=(x[:rows], y[:rows], one_weighs))
    assert reg.n_iter_ < 3000
    assert reg.best_validation_score_ == -min(reg.validation_loss_curve_)


def test_nan_is_never_an_improvement() -> None:
    class Overflow(fm.Callback):
        def on_epoch_begin(self, mlp: Any, history: Any) -> None:
            if len(history) == 1:  # finite in training, but not for held-out data
                mlp.biases[-1][:] = 1e38

    held = 3e38 * np.ones((20, 1), np.float32), np.zeros(20, np.float32)
    reg = MLPRegressor(
        hidden_layer_sizes=(3,),
        early_stopping=True,
        callbacks=[Overflow()],
        learning_rate_init=1e-9,
        random_state=0,
        n_iter_no_change=4,
    )
    x = np.ones((20, 1), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reg.fit(1e-30 * x, x[:, 0] * 1e-3, eval_set=held)
    assert reg.n_iter_ < 20


def test_scores_can_be_watched() -> None:
    clf = MLPClassifier(
        (8,),
        max_iter=300,
        random_state=0,
        learning_rate_init=0.01,
        callbacks=[fm.EarlyStopping("val_accuracy", patience=5)],
    )
    x = StandardScaler().fit_transform(IRIS[0])
    clf.fit(x[::2], IRIS[1][::2], eval_set=(x[1::2], IRIS[1][1::2]))
    series = clf.mlp_.history.metrics["val_accuracy"]
    assert len(series) == clf.n_iter_ < 300
    assert clf.score(x[1::2], IRIS[1][1::2]) == max(series)  # restored

    x = StandardScaler().fit_transform(X)
    for loss in ("squared_error", fm.MAE()):
        reg = regressor(loss=loss, callbacks=[fm.EarlyStopping("val_r2", patience=3)])
        reg.fit(x[TRAIN], y[TRAIN], X_val=x[HELD], y_val=y[HELD])
        series = reg.mlp_.history.metrics["val_r2"]
        assert reg.score(x[HELD], y[HELD]) == pytest.approx(max(series))
    with pytest.raises(ValueError, match="does not log 'val_accuracy'; it logs loss"):
        regressor(callbacks=[fm.EarlyStopping("val_accuracy")]).fit(X, y)


def test_held_out_samples_that_weigh_nothing_are_drawn_again() -> None:
    weight = np.zeros(150)
    weight[::10] = 1  # a tenth is held out: at times none with a weight
    for seed in range(30):
        clf = MLPClassifier((3,), early_stopping=True, max_iter=2, random_state=seed)
        assert len(clf.fit(*IRIS, weight).validation_scores_) == 2


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_a_single_sample_with_a_weight_leaves_the_training_loss(kind: Any) -> None:
    weight = (np.arange(150) == 7).astype(float)
    settings = {"hidden_layer_sizes": (3,), "max_iter": 5, "random_state": 0}
    est = kind(early_stopping=True, **settings)
    with pytest.warns(UserWarning, match="early_stopping is not used"):
        est.fit(*IRIS, weight)
    assert est.validation_scores_ is None
    assert est.best_loss_ == min(est.loss_curve_)
    plain = kind(**settings).fit(*IRIS, weight)
    assert est.loss_curve_[0] == pytest.approx(plain.loss_curve_[0])


def test_bagging_of_few_rows() -> None:
    clf = MLPClassifier((3,), early_stopping=True, max_iter=5)
    bag = BaggingClassifier(clf, 20, max_samples=0.1, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert bag.fit(IRIS[0][::3], IRIS[1][::3]).score(*IRIS) > 0


def test_held_out_targets_of_a_transformed_target_are_transformed_first() -> None:
    t = 152 + 77 * y
    scaler = StandardScaler().fit(t[TRAIN, np.newaxis])
    t_val = scaler.transform(t[HELD, np.newaxis])[:, 0]
    x = StandardScaler().fit(X[TRAIN]).transform(X)
    alone = regressor(early_stopping=True).fit(
        x[TRAIN],
        scaler.transform(t[TRAIN, np.newaxis])[:, 0],
        X_val=x[HELD],
        y_val=t_val,
    )
    model = TransformedTargetRegressor(
        regressor(early_stopping=True), transformer=StandardScaler()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x[TRAIN], t[TRAIN], X_val=x[HELD], y_val=t_val)
    curve = model.regressor_.validation_loss_curve_
    assert curve == alone.validation_loss_curve_

    # Within a pipeline, which transforms the samples.
    with sklearn.config_context(enable_metadata_routing=True):
        model.regressor.set_fit_request(X_val=True, y_val=True)
        pipe = Pipeline(
            [("scale", StandardScaler()), ("target", model)], transform_input=["X_val"]
        )
        pipe.fit(X[TRAIN], t[TRAIN], X_val=X[HELD], y_val=t_val)
    assert pipe[-1].regressor_.validation_loss_curve_ == curve
