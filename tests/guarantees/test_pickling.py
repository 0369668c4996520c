"""Every object is pickled by all protocols, or refuses with a TypeError."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import rl
from fastmlp.metrics import History
from fastmlp.sklearn import MLPClassifier, MLPRegressor

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

X = np.linspace(-1, 1, 40).reshape(20, 2)
Y = X.sum(axis=1, keepdims=True)


def trained() -> fm.MLP:
    mlp = fm.MLP([2, fm.Dense(5, activation="tanh"), fm.LayerNorm(), 1], seed=0)
    options = {"epochs": 2, "batch_size": 8, "progress": False}
    mlp.fit(X, Y, loss=fm.MSE(), optimizer=fm.Adam(), **options)
    return mlp


def same(value: Any) -> Any:
    """What two equal objects have in common: comparable, arrays as bytes."""
    if isinstance(value, fm.MLP):
        return same((value(X.astype(value.dtype)), value.history.to_dict()))
    if isinstance(value, (MLPClassifier, MLPRegressor)):
        return same((value.predict(X), value.loss_curve_))
    if isinstance(value, History):
        return value.to_dict()
    if isinstance(value, fm.optimizers.Optimizer):
        return repr(value), same(value.state_dict())
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if isinstance(value, dict):
        return {key: same(v) for key, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [same(v) for v in value]
    return value if isinstance(value, (float, int, str)) else repr(value)


def a_step_of_adam() -> fm.Adam:
    opt = fm.Adam()
    opt.step(np.ones(3, np.float32), np.ones(3, np.float32))
    return opt


ONE_EPOCH = {"tol": 1e9, "n_iter_no_change": 1}
PICKLED = {
    "MLP": trained,
    "History": lambda: trained().history,
    "Adam": a_step_of_adam,
    "LBFGS": fm.LBFGS,
    "LevenbergMarquardt": fm.LevenbergMarquardt,
    "MSE": fm.MSE,
    "Quantile": lambda: fm.Quantile([0.1, 0.9]),
    "Residual": lambda: fm.Residual([fm.Dense(2), fm.Dropout(0.1)]),
    "Step": lambda: fm.schedules.Step(1e-3, step_size=10),
    "Orthogonal": lambda: fm.initializers.Orthogonal(gain=0.5),
    "Dense": lambda: fm.Dense(3, bias_init=fm.initializers.Constant(1.0)),
    "MLPClassifier": lambda: MLPClassifier(**ONE_EPOCH).fit(X, X[:, 0] > 0),
    "MLPRegressor": lambda: MLPRegressor(**ONE_EPOCH).fit(X, Y[:, 0]),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", PICKLED)
def test_objects_are_pickled_by_all_protocols(name: str, protocol: int) -> None:
    value = PICKLED[name]()
    again = pickle.loads(pickle.dumps(value, protocol))
    assert type(again) is type(value)
    assert same(again) == same(value)


# Parts of other objects. Those are pickled instead, and create new parts when loaded.
REFUSED = {
    "predictor": lambda: trained().predictor(),
    "core of a model": lambda: trained().core,
    "core of an optimizer": lambda: fm.Adam().core,
    "core of a loss": lambda: fm.MSE().core,
    "core of a solver": lambda: fm.LBFGS().core,
    "core of a buffer": lambda: rl.ReplayBuffer(4, 2)._buffer,
}


@pytest.mark.parametrize("name", REFUSED)
def test_objects_of_the_core_refuse_with_a_type_error(name: str) -> None:
    """pybind11 aborts the process if Python's own protocols 0 and 1 may try."""
    value = REFUSED[name]()
    attempts = [lambda p=p: pickle.dumps(value, p) for p in PROTOCOLS]
    attempts += [value.__reduce__, lambda: value.__reduce_ex__(1)]
    attempts += [lambda: copy.copy(value), lambda: copy.deepcopy(value)]
    for attempt in attempts:
        with pytest.raises(TypeError, match="cannot pickle"):
            attempt()
