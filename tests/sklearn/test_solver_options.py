"""Solvers that take no batches use the penalty and early stopping, too."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# float32 sums of 60 rows; the curvature is about 1.
MINIMUM_ATOL = 3e-5


def problem() -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    return x, np.sin(x[:, 0]) + 0.1 * rng.standard_normal(60), rng.uniform(0.5, 2, 60)


def ridge(x: Any, y: Any, w: Any, alpha: float) -> Any:
    """Minimise Σw (x b + c - y)² / Σw + ½ alpha ‖b‖² / Σw."""
    a = np.hstack([x, np.ones((len(x), 1))])
    penalty = 0.5 * alpha * np.diag([1.0] * x.shape[1] + [0.0])
    return np.linalg.solve(a.T @ (w[:, np.newaxis] * a) + penalty, a.T @ (w * y))


@pytest.mark.parametrize(
    "solver", [fm.LBFGS(), fm.LevenbergMarquardt(), "lbfgs"], ids=str
)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_linear_model_with_alpha_is_ridge_regression(
    solver: Any, weighted: bool, dtype: str
) -> None:
    x, y, w = problem()
    est = MLPRegressor(
        fm.MSE(),
        (),
        solver=solver,
        alpha=30.0,
        max_iter=200,
        tol=1e-8,
        dtype=dtype,
        random_state=0,
    ).fit(x, y, w if weighted else None)
    wanted = ridge(x, y, w if weighted else np.ones(60), 30.0)
    got = np.append(est.coefs_[0][:, 0], est.intercepts_[0])
    np.testing.assert_allclose(got, wanted, rtol=0, atol=MINIMUM_ATOL)


@pytest.mark.parametrize("solver", [fm.LBFGS(), fm.LevenbergMarquardt()], ids=str)
def test_the_reported_loss_includes_the_penalty(solver: Any) -> None:
    x, y, w = problem()

    def fitted(alpha: float, solver: Any) -> MLPRegressor:
        est = MLPRegressor(
            fm.MSE(), (4,), solver=solver, alpha=alpha, max_iter=1, random_state=0
        )
        return est.fit(x, y, w)

    initial = fitted(0.0, fm.SGD(0.0)).coefs_
    penalty = 0.5 * 2.0 * sum((c**2).sum() for c in initial) / w.sum()
    increase = fitted(2.0, solver).loss_ - fitted(0.0, solver).loss_
    np.testing.assert_allclose(increase, penalty, rtol=1e-10)


SOLVERS = ["lbfgs", fm.LBFGS(), fm.LevenbergMarquardt()]


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_early_stopping_keeps_the_best_iteration(
    solver: Any, kind: Any, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((120, 4))
    y = x[:, 0] + rng.standard_normal(120)  # noise, which a large network learns
    if kind is MLPClassifier:
        y = y > 0
    est = kind(
        hidden_layer_sizes=(30,),
        loss=fm.MSE(),
        solver=solver,
        alpha=0.0,
        max_iter=500,
        early_stopping=True,
        n_iter_no_change=5,
        dtype=dtype,
        random_state=0,
    )
    held_out = x[:40], y[:40]
    est.fit(x[40:], y[40:], X_val=held_out[0], y_val=held_out[1])
    scores = est.validation_scores_
    assert len(scores) == est.n_iter_ < 500
    assert est.best_validation_score_ == max(scores)
    best = est.score(*held_out)
    if kind is MLPRegressor:
        best = -((est.predict(held_out[0]) - held_out[1]) ** 2).mean()
    assert best == pytest.approx(max(scores), rel=1e-5)
    assert not hasattr(est, "best_loss_")
    # Without held-out data a part of the training data is held out.
    assert len(est.fit(x, y).validation_scores_) == est.n_iter_


def test_a_message_tells_why_a_solver_was_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    x, y, _ = problem()
    MLPRegressor(
        solver="lbfgs", early_stopping=True, verbose=True, n_iter_no_change=2
    ).fit(x, y)
    assert "Validation score did not improve" in capsys.readouterr().out
