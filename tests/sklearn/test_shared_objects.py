"""Fits and clones share users' objects, and copy those of fastmlp."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, cross_val_score

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.default_rng(0).standard_normal((60, 3))
y = X[:, 0]
EPOCHS = 3


class Study:
    """An object that cannot be copied, such as one with a database."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.reports: list[float] = []

    def report(self, mlp: Any, history: Any) -> None:
        self.reports.append(history.loss[-1])

    def rate(self, step: int) -> float:
        self.reports.append(step)
        return 1e-3

    def loss(self, pred: Any, target: Any) -> tuple[float, Any]:
        self.reports.append(len(pred))
        return float(((pred - target) ** 2).mean()), 2 * (pred - target) / pred.size


class Report(fm.Callback):
    """A user's callback."""

    def __init__(self, study: Study) -> None:
        self.study = study

    def on_epoch_end(self, mlp: Any, history: Any) -> None:
        self.study.report(mlp, history)


class Patience(fm.EarlyStopping):
    """A callback derived from one of fastmlp's."""

    def __init__(self, study: Study) -> None:
        super().__init__(patience=100)
        self.study = study

    def on_epoch_end(self, mlp: Any, history: Any) -> bool:
        self.study.report(mlp, history)
        return super().on_epoch_end(mlp, history)


PARAMETERS: dict[str, Any] = {
    "a callback": lambda study: {"callbacks": [Report(study)]},
    "a derived callback": lambda study: {"callbacks": [Patience(study)]},
    "a tuple of callbacks": lambda study: {"callbacks": (Report(study),)},
    "a method as callback": lambda study: {"callbacks": [study.report]},
    "a LambdaCallback": lambda study: {
        "callbacks": [fm.LambdaCallback(on_epoch_end=study.report)]
    },
    "a rate": lambda study: {"learning_rate": study.rate},
    "an optimiser's rate": lambda study: {"solver": fm.SGD(study.rate)},
    "a loss": lambda study: {"loss": study.loss},
}


@pytest.mark.parametrize("which", PARAMETERS)
def test_the_users_own_objects_are_used(which: str) -> None:
    study = Study()
    reg = MLPRegressor(
        hidden_layer_sizes=2,
        max_iter=EPOCHS,
        random_state=0,
        **PARAMETERS[which](study),
    )
    reg.fit(X, y)
    assert len(study.reports) >= EPOCHS
    for again in (clone(reg), clone(clone(reg))):
        before = len(study.reports)
        again.fit(X, y)
        assert len(study.reports) == 2 * before or len(study.reports) > before
        np.testing.assert_array_equal(again.predict(X), reg.predict(X))
    before = len(study.reports)
    cross_val_score(reg, X, y, cv=2, error_score="raise")
    GridSearchCV(reg, {"alpha": [1.0]}, cv=2, error_score="raise").fit(X, y)
    assert len(study.reports) >= before + 5 * EPOCHS


def test_objects_of_fastmlp_are_copied() -> None:
    given: dict[str, Any] = {
        "callbacks": [
            fm.EarlyStopping(patience=2, monitor="loss"),
            fm.Monitor(),
            Patience(Study()),
        ],
        "solver": fm.Adam(fm.schedules.ReduceOnPlateau(0.1, patience=0)),
    }
    before = repr(given), given["solver"].state_dict()
    reg = MLPRegressor(hidden_layer_sizes=2, max_iter=20, random_state=0, **given)
    first = reg.fit(X, y).predict(X)
    assert reg.callbacks_[0].best == min(reg.loss_curve_)
    assert given["callbacks"][0].best is given["callbacks"][2].best is None
    assert given["callbacks"][1].epochs == []
    assert given["solver"].step_count == 0
    assert (repr(given), given["solver"].state_dict()) == before
    np.testing.assert_array_equal(reg.fit(X, y).predict(X), first)
    twin = clone(reg)
    assert twin.callbacks[0] is not reg.callbacks[0]
    assert twin.solver is not reg.solver
    np.testing.assert_array_equal(twin.fit(X, y).predict(X), first)


def test_schedules_with_a_state_are_copied() -> None:
    schedule = fm.schedules.ReduceOnPlateau(0.1, patience=0)
    before = repr(vars(schedule))
    clf = MLPClassifier((3,), max_iter=30, random_state=0, learning_rate=schedule)
    first = clf.fit(X, y > 0).loss_curve_
    assert repr(vars(schedule)) == before
    assert clf.fit(X, y > 0).loss_curve_ == first


def test_objects_with_scikit_learns_protocol_are_cloned() -> None:
    class Counter(BaseEstimator):
        def __init__(self, start: int = 0) -> None:
            self.start = start
            self.count = start

        def __call__(self, mlp: Any, history: Any) -> None:
            self.count += 1

    counter = Counter()
    reg = MLPRegressor(hidden_layer_sizes=2, max_iter=EPOCHS, callbacks=[counter])
    reg.fit(X, y)
    assert counter.count == 0


def test_a_clone_has_the_requests_for_metadata() -> None:
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        reg = MLPRegressor(callbacks=[Report(Study())]).set_fit_request(X_val=True)
        assert clone(reg).get_metadata_routing().fit.requests["X_val"] is True


class Pair(NamedTuple):
    first: Any
    second: Any


def test_callbacks_in_a_named_tuple() -> None:
    pair = Pair(fm.callbacks.Callback(), fm.callbacks.EarlyStopping(monitor="loss"))
    reg = MLPRegressor(hidden_layer_sizes=3, max_iter=1, callbacks=pair).fit(X, y)
    assert len(reg.callbacks_) == 2
    copy = clone(reg)
    assert isinstance(copy.callbacks, tuple)
    assert copy.callbacks[0] is pair.first


def test_a_subclass_with_few_parameters_can_be_cloned() -> None:
    class Few(MLPRegressor):
        def __init__(self, max_iter: int = 3) -> None:
            self.max_iter = max_iter

    class Fixed(MLPRegressor):
        def __init__(self, width: int = 3, callbacks: Any = None) -> None:
            super().__init__("huber", width, max_iter=1, callbacks=callbacks)
            self.width = width

    assert clone(Few(5)).get_params() == {"max_iter": 5}
    copy = clone(Fixed(4, [fm.callbacks.Callback()]))
    assert copy.get_params() == {"width": 4, "callbacks": copy.callbacks}
    assert copy.fit(X, y).coefs_[0].shape == (X.shape[1], 4)
