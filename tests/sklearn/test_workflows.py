"""Common workflows with scikit-learn's estimators, using those of fastmlp."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier, Event
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor, _lbfgs
from sklearn import neural_network as theirs
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.utils.estimator_checks import (
    check_classifiers_multilabel_output_format_predict_proba,
)
from threadpoolctl import threadpool_info, threadpool_limits

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# Same formulas with a different order of roundings, over a few epochs.
TRAINED_RTOL = 1e-9


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    yield
    fm.set_num_threads(0)


@pytest.mark.parametrize("max_iter", [1, 3])
def test_a_loop_of_warm_starts_with_early_stopping_makes_progress(
    max_iter: int,
) -> None:
    X, y = load_iris(return_X_y=True)
    curves = []
    for kind in (theirs.MLPClassifier, MLPClassifier):
        clf = kind(
            (6,),
            max_iter=max_iter,
            random_state=0,
            warm_start=True,
            early_stopping=True,
        )
        for _ in range(6):
            clf.fit(X, y)
        curves.append([*clf.loss_curve_, *clf.validation_scores_, clf.coefs_[0].sum()])
    # Make sure that some fits did not improve the score.
    scores = clf.validation_scores_
    assert any(a >= b for a, b in pairwise(scores))
    np.testing.assert_allclose(curves[1], curves[0], rtol=TRAINED_RTOL)


@pytest.mark.parametrize("sizes", [(3.5,), 3.5, ("3",), [None]])
def test_widths_are_integers(sizes: Any) -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises((TypeError, ValueError), match="hidden_layer_sizes"):
        MLPClassifier(sizes).fit(X, y)


@pytest.mark.parametrize(("n", "batch_size"), [(1, "auto"), (9, 1)])
def test_batches_of_one_sample_cannot_be_normalised(n: int, batch_size: Any) -> None:
    X, y = load_iris(return_X_y=True)
    reg = MLPRegressor(normalization="batch", batch_size=batch_size)
    with pytest.raises(ValueError, match=r"normalization='batch' .* got .* 1 sample"):
        reg.fit(X[:n], y[:n])


@pytest.mark.parametrize("weight", [-1.0, np.nan, np.inf])
def test_weights_of_classes_are_checked(weight: float) -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="class_weight must be finite and >= 0"):
        MLPClassifier(class_weight={0: weight}).fit(X, y)


@pytest.mark.parametrize("dropout", [[1.0], [-0.5], ["a"], [[0.1]]])
def test_errors_name_dropout(dropout: Any) -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises((TypeError, ValueError), match=r"^dropout must be"):
        MLPClassifier(dropout=dropout).fit(X, y)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_probabilities_of_labels_are_neither_0_nor_1(solver: str, seed: int) -> None:
    X, y = make_multilabel_classification(60, 4, n_classes=3, random_state=seed)
    clf = MLPClassifier(
        (16,),
        solver=solver,
        alpha=0,
        learning_rate_init=0.1,
        max_iter=200,
        random_state=seed,
    ).fit(X.astype(np.float32), y)
    far = (1000 * X).astype(np.float32)
    # The sigmoid of these logits is rounded to 0 and to 1.
    z = clf.mlp_(far)
    assert z.max() > 20
    assert z.min() < -110
    p = clf.predict_proba(far)
    assert p.dtype == np.float32
    assert 0 < p.min() < 1e-30
    assert 1 - 1e-6 < p.max() < 1
    assert np.isfinite(clf.predict_log_proba(far)).all()
    check_classifiers_multilabel_output_format_predict_proba(
        "MLPClassifier",
        MLPClassifier(dtype="float32", solver=solver, alpha=0, max_iter=100),
    )


def test_fits_side_by_side_share_the_threads_and_then_give_them_back() -> None:
    X, y = load_iris(return_X_y=True)
    both = Barrier(2)
    seen = []

    def look(mlp: fm.MLP, history: fm.History) -> None:
        both.wait(60)
        seen.append(fm.get_num_threads())
        both.wait(60)

    def fit(n: int | None) -> Any:
        return MLPRegressor(max_iter=2, callbacks=[look], n_threads=n).fit(X, y)

    fm.set_num_threads(6)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fit, [None, None]))
    assert seen == [3, 3, 3, 3]
    assert fm.get_num_threads() == 6
    seen.clear()
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(fit, [4, 4]))
    assert seen == [2, 2, 2, 2]
    assert fm.get_num_threads() == 6


def test_lbfgs_in_several_threads_leaves_blas_as_it_was() -> None:
    X, y = load_iris(return_X_y=True)
    first_began, second_began, first_ended = Event(), Event(), Event()
    within = []

    def first(mlp: fm.MLP, history: fm.History) -> None:
        first_began.set()
        assert second_began.wait(60)

    def second(mlp: fm.MLP, history: fm.History) -> None:
        second_began.set()
        assert first_ended.wait(60)
        within.append(blas_threads())

    def fit(callback: Any) -> Any:
        return MLPRegressor(solver="lbfgs", max_iter=1, callbacks=[callback]).fit(X, y)

    with threadpool_limits(2, user_api="blas"):
        # Without this, no other thread may set limits from threadpoolctl 3.8 on.
        _lbfgs._let_others_limit()
        before = blas_threads()
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(fit, first)
            assert first_began.wait(60)
            other = pool.submit(fit, second)
            one.result()
            first_ended.set()
            other.result()
        assert set(within[0]) == {1}
        assert blas_threads() == before
        assert set(before) == {2}


def blas_threads() -> list[int]:
    return [
        library["num_threads"]
        for library in threadpool_info()
        if library["user_api"] == "blas"
    ]
