"""Estimators on sparse samples give the bits that they give on dense ones."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor

sparse = pytest.importorskip("scipy.sparse", reason="SciPy makes the matrices")

# The fits are short on purpose.
pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ROWS, COLUMNS = 90, 40


def samples(form: str = "csr") -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(4)
    x = sparse.random(ROWS, COLUMNS, 0.1, form, random_state=rng)
    return x, np.asarray(x.sum(axis=1)).ravel()


def own_loss(p: Any, t: Any) -> tuple[float, Any]:
    return float(((p - t) ** 2).mean()), 2 * (p - t) / p.size


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "early_stopping": True, "alpha": 0.1},
        {"solver": "lbfgs", "max_iter": 5},
        {"solver": fm.LBFGS(), "max_iter": 5},
        {"solver": fm.LevenbergMarquardt(), "max_iter": 2},
        {"loss": own_loss},
        {"loss": own_loss, "solver": "lbfgs", "max_iter": 5},
        {"loss": own_loss, "early_stopping": True},
        {"dropout": 0.2, "normalization": "batch"},
    ],
    ids=[
        "adam",
        "sgd",
        "lbfgs",
        "own lbfgs",
        "lm",
        "custom",
        "custom lbfgs",
        "custom stopping",
        "layers",
    ],
)
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_regressor(options: dict[str, Any], form: str, dtype: str) -> None:
    x, y = samples(form)
    both = []
    for data in (x, x.toarray()):
        settings = {"max_iter": 4, "dtype": dtype, "random_state": 0, **options}
        estimator = MLPRegressor(hidden_layer_sizes=(7,), **settings)
        both.append(estimator.fit(data, y))
    np.testing.assert_array_equal(both[0].mlp_.params, both[1].mlp_.params)
    np.testing.assert_array_equal(both[0].predict(x), both[1].predict(x.toarray()))
    assert both[0].loss_curve_ == both[1].loss_curve_


def test_classifier_with_held_out_data() -> None:
    x, y = samples()
    labels = (y > np.median(y)).astype(int)
    both = []
    for data in (x, x.toarray()):
        estimator = MLPClassifier(hidden_layer_sizes=(8,), max_iter=5, random_state=0)
        estimator.fit(data, labels, eval_set=(data[:20], labels[:20]))
        both.append(estimator)
    np.testing.assert_array_equal(
        both[0].predict_proba(x), both[1].predict_proba(x.toarray())
    )
    for data in (x[:30], x[30:]):
        both[0].partial_fit(data, labels[: data.shape[0]])
        both[1].partial_fit(data.toarray(), labels[: data.shape[0]])
    np.testing.assert_array_equal(both[0].mlp_.params, both[1].mlp_.params)


def test_many_columns_need_no_dense_copy() -> None:
    """As dense arrays the samples alone would take 100 GB."""
    rows, columns = 100_000, 2**17
    columns_of = np.arange(rows) % columns
    x = sparse.csr_matrix((np.ones(rows), columns_of, np.arange(rows + 1)))
    x.resize((rows, columns))
    y = (np.arange(rows) % 2).astype(int)
    estimator = MLPClassifier(
        hidden_layer_sizes=(2,), max_iter=1, batch_size=rows, random_state=0
    )
    estimator.fit(x, y)
    assert estimator.predict(x).shape == (rows,)
