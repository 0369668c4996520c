"""What early stopping of the estimators goes by."""

from __future__ import annotations

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NOISE = 0.3
ROWS, TEST_ROWS = 3000, 20000

# Quantiles of 3000 noisy rows, fitted by a network: the coverage of other rows differs
# from the level by .01 to .035, depending on the seed. R^2 stopped after an epoch or
# two, with coverages of .42 and .60 instead of .1 and .9.
COVERAGE = 0.04
# The mean spread was wrong by 1 % at most, by a third if R^2 stopped the training.
SPREAD_RTOL = 0.05


def sine(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, (rows, 1))
    return x, np.sin(x[:, 0]) + NOISE * rng.standard_normal(rows)


def fitted(loss: object, seed: int) -> MLPRegressor:
    est = MLPRegressor(
        loss=loss,
        hidden_layer_sizes=(50, 50),
        early_stopping=True,
        random_state=seed,
        max_iter=400,
    )
    return est.fit(*sine(ROWS, 0))


@pytest.mark.parametrize("seed", range(3))
def test_the_loss_decides_for_quantiles(seed: int) -> None:
    x, y = sine(TEST_ROWS, 1)
    below = y[:, np.newaxis] <= fitted(fm.Quantile([0.1, 0.9]), seed).predict(x)
    np.testing.assert_allclose(below.mean(axis=0), [0.1, 0.9], atol=COVERAGE)
    assert (y <= fitted(fm.Quantile(0.95), seed).predict(x)).mean() == pytest.approx(
        0.95, abs=COVERAGE
    )


def test_the_loss_decides_for_variances() -> None:
    _, spread = fitted(fm.GaussianNLL(), 0).predict(sine(100, 1)[0], return_std=True)
    assert spread.mean() == pytest.approx(NOISE, rel=SPREAD_RTOL)


def own_mse(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    error = pred - target
    return float((error**2).mean()), 2 * error / error.size


@pytest.mark.parametrize("loss", [fm.MSE(), fm.Huber(), "absolute_error", own_mse])
def test_scores_are_minus_the_validation_loss(loss: object) -> None:
    x, y = sine(200, 0)
    est = MLPRegressor(
        hidden_layer_sizes=(5,), loss=loss, early_stopping=True, random_state=0
    ).fit(x, y)
    np.testing.assert_array_equal(
        est.validation_scores_, -np.array(est.validation_loss_curve_)
    )
    assert est.best_validation_score_ == max(est.validation_scores_)


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
def test_scores_are_r2_for_the_losses_of_scikit_learn(loss: str) -> None:
    x, y = sine(200, 0)
    x_held, y_held = sine(50, 1)
    est = MLPRegressor(
        hidden_layer_sizes=(5,), loss=loss, early_stopping=True, random_state=0
    )
    est.fit(x, np.abs(y), eval_set=(x_held, np.abs(y_held)))
    assert est.best_validation_score_ == est.score(x_held, np.abs(y_held))


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_class_weights_count_in_the_held_out_data(seed: int, given: bool) -> None:
    """Unweighted accuracy is best before the rare class is learnt."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((TEST_ROWS, 2))
    y = x.sum(axis=1) + 0.5 * rng.standard_normal(TEST_ROWS) > 2
    train, test = slice(0, 1500), slice(1500, None)
    clf = MLPClassifier(class_weight="balanced", early_stopping=True, random_state=seed)
    more = {"eval_set": (x[1350:1500], y[1350:1500])} if given else {}
    train = slice(0, 1350) if given else train
    right = clf.fit(x[train], y[train], **more).predict(x[test]) == y[test]
    balanced = (right[y[test]].mean() + right[~y[test]].mean()) / 2
    assert balanced > 0.88  # 0.61 for one of these seeds without weights


def test_class_weights_of_an_eval_set_are_those_of_the_training_data() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 3))
    y = np.where(x[:, 0] > 1, "rare", "common")
    x_held, y_held = x[:40], np.where(np.arange(40) < 30, "rare", "common")
    by_class = 300 / (2 * np.array([np.sum(y == c) for c in ("common", "rare")]))
    weights = by_class[(y_held == "rare").astype(int)]
    curves = [
        MLPClassifier((4,), max_iter=5, random_state=0, class_weight=class_weight)
        .fit(x, y, sample_weight=sample_weight, eval_set=held)
        .validation_loss_curve_
        for class_weight, sample_weight, held in [
            ("balanced", None, (x_held, y_held)),
            (None, by_class[(y == "rare").astype(int)], (x_held, y_held, weights)),
        ]
    ]
    np.testing.assert_allclose(*curves, rtol=1e-12)


def test_the_scale_of_targets_does_not_stop_a_fit() -> None:
    """The least improvement is relative to the best loss."""
    x = np.random.default_rng(0).standard_normal((1000, 3))
    y = np.sin(x.sum(axis=1))
    est = MLPRegressor(
        loss=fm.MSE(), early_stopping=True, max_iter=300, alpha=0, random_state=0
    )
    assert est.fit(x, 0.01 * y).score(x, 0.01 * y) > 0.5  # -3.1 with an absolute tol


def test_a_warm_start_with_another_loss_starts_a_new_record() -> None:
    x, y = sine(300, 0)
    est = MLPRegressor(
        hidden_layer_sizes=(5,),
        early_stopping=True,
        warm_start=True,
        max_iter=3,
        random_state=0,
    )
    assert est.fit(x, y).best_validation_score_ > -1
    est.set_params(loss=fm.MAE()).fit(x, 10 * y)
    assert est.best_validation_score_ == max(est.validation_scores_[-3:])


def test_errors_name_the_held_out_samples() -> None:
    x, _ = sine(200, 0)
    labels, held = x[:, 0] > 0, x[:, 0] <= 0
    clf = MLPClassifier(class_weight={False: 0, True: 1})
    with pytest.raises(ValueError, match="held-out samples"):
        clf.fit(x, labels, eval_set=(x[held], labels[held]))


def test_a_loss_of_zero_stops_a_fit() -> None:
    def within_a_tube(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
        return 0.0, np.zeros_like(pred)

    x, y = sine(200, 0)
    est = MLPRegressor(loss=within_a_tube, early_stopping=True, n_iter_no_change=5)
    assert est.fit(x, y).n_iter_ == 7  # the first epoch, then 6 without improvement


def test_weights_of_labels_that_the_training_data_lack() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2))
    y = np.stack([x[:, 0] > 0, np.zeros(60)], axis=1).astype(int)
    held = np.ones((2, 2), int)
    weights = [{0: 1, 1: 2}, {0: 1, 1: 5}]
    clf = MLPClassifier((3,), class_weight=weights, max_iter=1, random_state=0)
    np.testing.assert_array_equal(clf._weights_of_held_out(held, y), [10, 10])
