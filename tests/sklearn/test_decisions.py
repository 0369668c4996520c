"""Scores that decide: decision functions, output activations, quantiles, spreads."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from estimator_cases import multilabel
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.metrics import mean_pinball_loss, roc_auc_score
from sklearn.model_selection import (
    FixedThresholdClassifier,
    GridSearchCV,
    TunedThresholdClassifierCV,
    cross_val_score,
)
from sklearn.preprocessing import StandardScaler

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, y = load_iris(return_X_y=True)
X = StandardScaler().fit_transform(X)
TWO = np.where(y == 2, "yes", "no")
LOSSES = [fm.Hinge(), fm.MSE(), "log_loss", fm.CrossEntropy(), fm.BinaryCrossEntropy()]


def classifier(loss: Any = "log_loss") -> MLPClassifier:
    return MLPClassifier(
        (8,), loss=loss, max_iter=100, learning_rate_init=0.01, random_state=0
    )


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_the_decision_function_decides(loss: Any) -> None:
    clf = classifier(loss).fit(X, TWO)
    decision = clf.decision_function(X)
    assert decision.shape == (150,)
    np.testing.assert_array_equal(
        clf.classes_[(decision > 0).astype(int)], clf.predict(X)
    )
    assert roc_auc_score(TWO == "yes", decision) > 0.98
    if hasattr(clf, "predict_proba"):
        p = clf.predict_proba(X)[:, 1]
        np.testing.assert_allclose(decision, np.log(p / (1 - p)), rtol=1e-6)
    clf.fit(X, y)
    decision = clf.decision_function(X)
    assert decision.shape == (150, 3)
    np.testing.assert_array_equal(decision.argmax(axis=1), clf.predict(X))
    if isinstance(loss, fm.CrossEntropy):
        return
    x, labels = multilabel()
    clf.fit(x, labels)
    np.testing.assert_array_equal(clf.decision_function(x) > 0, clf.predict(x))


@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_tools_that_need_decisions(loss: Any) -> None:
    clf = classifier(loss)
    auc = cross_val_score(clf, X, TWO == "yes", scoring="roc_auc", error_score="raise")
    assert auc.mean() > 0.95
    assert CalibratedClassifierCV(clf, cv=2).fit(X, TWO).score(X, TWO) > 0.9
    options = {"response_method": "decision_function"}
    fixed = FixedThresholdClassifier(clf, threshold=0.0, pos_label="yes", **options)
    predicted = clf.fit(X, TWO).predict(X)
    np.testing.assert_array_equal(fixed.fit(X, TWO).predict(X), predicted)
    tuned = TunedThresholdClassifierCV(clf, cv=2, **options).fit(X, y == 2)
    assert tuned.best_score_ > 0.8


def regressor(loss: Any = "squared_error", **settings: Any) -> MLPRegressor:
    return MLPRegressor(
        loss,
        hidden_layer_sizes=8,
        max_iter=150,
        learning_rate_init=0.01,
        random_state=0,
        **settings,
    )


@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [
        ("tanh", -1, 1),
        ("softplus", 0, np.inf),
        ("sigmoid", 0, 1),
        ("logistic", 0, 1),
        ("exp", 0, np.inf),
        ("softmax", 0, 1),
    ],
)
@pytest.mark.parametrize("solver", ["adam", "lbfgs", fm.LBFGS()], ids=str)
def test_output_activations(
    activation: str, low: float, high: float, solver: Any
) -> None:
    p = np.exp(X[:, :2])
    p /= p.sum(axis=1, keepdims=True)
    reg = regressor("huber", solver=solver, output_activation=activation).fit(X, p)
    out = reg.predict(X)
    assert low <= out.min() <= out.max() <= high
    assert reg.out_activation_ == activation
    np.testing.assert_array_equal(out, reg.mlp_(X))
    assert reg.score(X, p) > 0.5
    again = pickle.loads(pickle.dumps(reg))
    np.testing.assert_array_equal(again.predict(X), out)
    reg.coefs_[0] = copy.copy(reg.coefs_[0])
    np.testing.assert_array_equal(reg.predict(X), out)
    # It is in the network during the training: a continued fit begins here.
    if solver == "adam":
        reg.set_params(warm_start=True, max_iter=1).fit(X, p)
        assert reg.loss_curve_[-1] < 2 * reg.loss_curve_[-2] + 1e-3


@pytest.mark.parametrize("loss", ["poisson", fm.Poisson(), fm.GaussianNLL()], ids=str)
def test_losses_with_an_output_activation_of_their_own(loss: Any) -> None:
    t = np.exp(X[:, 0])
    with pytest.raises(ValueError, match=r"^output_activation must be None or '\w+'"):
        regressor(loss, output_activation="tanh").fit(X, t)
    own = "identity" if isinstance(loss, fm.GaussianNLL) else "exp"
    one = regressor(loss).fit(X, t)
    other = regressor(loss, output_activation=own).fit(X, t)
    assert one.out_activation_ == other.out_activation_ == own
    np.testing.assert_array_equal(one.predict(X), other.predict(X))


def test_an_output_activation_that_is_set_after_the_fit() -> None:
    reg = regressor().fit(X, X[:, 0])
    before = reg.predict(X)
    reg.out_activation_ = "tanh"
    np.testing.assert_allclose(reg.predict(X), np.tanh(before), rtol=1e-12)
    with pytest.raises(ValueError, match="out_activation_ was changed"):
        reg.partial_fit(X, X[:, 0])
    reg.out_activation_ = "tahn"
    with pytest.raises(ValueError, match="tahn"):
        reg.predict(X)
    bounded = regressor(output_activation="tanh").fit(X, X[:, 0])
    bounded.out_activation_ = "relu"
    with pytest.raises(ValueError, match="out_activation_ must remain 'tanh'"):
        bounded.predict(X)


def test_the_score_of_several_quantiles_is_minus_the_pinball_loss() -> None:
    levels, w, t = [0.1, 0.5, 0.9], np.arange(150) + 1.0, X[:, 3]
    reg = regressor(fm.Quantile(levels)).fit(X[:, :3], t)
    losses = [
        mean_pinball_loss(t, p, alpha=q, sample_weight=w)
        for q, p in zip(levels, reg.predict(X[:, :3]).T, strict=True)
    ]
    assert reg.score(X[:, :3], t, w) == pytest.approx(-np.mean(losses))
    assert reg.score(X[:, :3], t[:, np.newaxis], w) == reg.score(X[:, :3], t, w)
    scores = cross_val_score(reg, X[:, :3], t, error_score="raise")
    assert (scores < 0).all()
    search = GridSearchCV(reg, {"learning_rate_init": [1e-6, 0.01]}, cv=3).fit(X, t)
    assert search.best_params_ == {"learning_rate_init": 0.01}
    one = regressor(fm.Quantile([0.5])).fit(X, t)
    assert one.score(X, t) == pytest.approx(-abs(t - one.predict(X)).mean() / 2)
    # One level, and a level for each target, are predictions of the targets.
    assert regressor(fm.Quantile(0.5)).fit(X, t).score(X, t) > 0.9
    two = regressor(fm.Quantile([0.4, 0.6])).fit(X, X[:, :2])
    assert two.score(X, X[:, :2]) > 0.9


def test_standard_deviations() -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4000, 1))
    spread = np.exp(x)
    t = np.hstack([x + spread * rng.standard_normal(x.shape), 2 * x])
    t[:, 1:] += 0.5 * rng.standard_normal(x.shape)
    reg = regressor(fm.GaussianNLL()).fit(x, t)
    mean, std = reg.predict(x, return_std=True)
    assert mean.shape == std.shape == t.shape
    # The standard errors are about 5 % at the ends.
    np.testing.assert_allclose(std[:, :1], spread, rtol=0.2)
    np.testing.assert_allclose(std[:, 1], 0.5, rtol=0.2)
    pair = reg.predict(x, return_std=True)
    assert isinstance(pair, tuple)
    np.testing.assert_array_equal(pair.mean, mean)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pair)).std, std)
    with pytest.raises(AttributeError, match=r"pair \(mean, std\).*'shape'"):
        pair.shape  # noqa: B018


def test_standard_deviations_within_a_transformed_target() -> None:
    model = TransformedTargetRegressor(
        regressor(fm.GaussianNLL()), transformer=StandardScaler()
    ).fit(X, 100 + 9 * X[:, 0])
    with pytest.raises(AttributeError, match=r"TransformedTargetRegressor.*regressor_"):
        model.predict(X, return_std=True)
    mean, std = model.regressor_.predict(X, return_std=True)
    scaler = model.transformer_
    np.testing.assert_allclose(
        model.predict(X), scaler.mean_ + scaler.scale_ * mean, rtol=1e-12
    )
    assert (std > 0).all()


@pytest.mark.parametrize("widths", [(4, 1), (4, 8, 3)])
def test_means_and_variances_need_an_even_number_of_outputs(widths: Any) -> None:
    mlp = fm.MLP(list(widths), seed=0)
    before = mlp.params.copy()
    with pytest.raises(
        ValueError, match=r"^loss: GaussianNLL needs a model with two outputs"
    ):
        mlp.train_step(X, X[:, : widths[-1]], fm.GaussianNLL(), fm.Adam())
    with pytest.raises(
        ValueError, match=rf"log variances; got the width {widths[-1]}$"
    ):
        mlp.fit(
            X,
            X[:, : widths[-1]],
            loss=fm.GaussianNLL(),
            optimizer=fm.Adam(),
            epochs=1,
            batch_size=50,
        )
    np.testing.assert_array_equal(mlp.params, before)
    with pytest.raises(ValueError, match=r"^for GaussianNLL, pred must hold"):
        fm.GaussianNLL()(np.ones((3, 1)), np.ones((3, 1)))


def test_clones_keep_output_activations() -> None:
    assert clone(regressor(output_activation="tanh")).output_activation == "tanh"


@pytest.mark.parametrize(
    "loss",
    [
        fm.Gamma(),
        fm.Tweedie(),
        fm.StudentTNLL(),
        fm.MixtureDensity(2),
        fm.Expectile([0.2, 0.5, 0.8]),
        fm.Quantile([0.2, 0.5, 0.8], non_crossing=True),
    ],
    ids=repr,
)
def test_what_losses_of_several_outputs_predict(loss: Any) -> None:
    rng = np.random.default_rng(7)
    x = rng.uniform(-1, 1, (400, 1))
    mean = np.exp(x[:, 0])
    y = mean * rng.uniform(0.9, 1.1, 400)
    reg = regressor(loss).fit(x, y)
    pred = reg.predict(x)
    if isinstance(loss, (fm.Expectile, fm.Quantile)):
        assert pred.shape == (400, 3)
        if isinstance(loss, fm.Quantile):
            assert (np.diff(pred, axis=1) >= 0).all()
        pred = pred[:, 1]
    # The noise, 0.1, and what so short a training leaves.
    np.testing.assert_allclose(pred, mean, rtol=0.3)
    with pytest.raises(ValueError, match="is not a loss for regression"):
        regressor(fm.SoftMargin()).fit(x, y)
