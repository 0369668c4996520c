"""Errors about parameters say what was probably meant."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor


def message(kind: Any, **settings: Any) -> str:
    with pytest.raises((ValueError, TypeError)) as caught:
        kind(**settings).fit([[1.0], [2.0]], [1, 2])
    return str(caught.value)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    ("settings", "hint"),
    [
        ({"learning_rate": 0.01}, "learning_rate_init=0.01"),
        ({"learning_rate": 1}, "learning_rate_init=1"),
        (
            {"learning_rate_init": fm.schedules.Cosine(0.1, 9)},
            "learning_rate (for schedules and functions)",
        ),
        ({"solver": fm.Adam}, "solver=fm.Adam()"),
        ({"solver": fm.LBFGS}, "solver=fm.LBFGS()"),
        ({"solver": "Adam"}, "solver='adam'"),
        ({"solver": "l-bfgs"}, "solver='lbfgs'"),
        ({"activation": "swish"}, "activation='silu'"),
        ({"activation": "ReLU"}, "activation='relu'"),
        ({"normalization": "batchnorm"}, "normalization='batch'"),
        ({"callbacks": fm.EarlyStopping()}, "callbacks=[callback]"),
        ({"callbacks": print}, "callbacks=[callback]"),
        ({"loss": fm.MSE}, "fm.MSE()"),
    ],
    ids=str,
)
def test_hints(kind: Any, settings: dict[str, Any], hint: str) -> None:
    (name,) = settings
    text = message(kind, **settings)
    assert text.lower().endswith(f"did you mean {hint.lower()}?")
    assert name in text


@pytest.mark.parametrize(
    ("kind", "given", "meant"),
    [
        (MLPRegressor, "mse", "squared_error"),
        (MLPRegressor, "mae", "absolute_error"),
        (MLPRegressor, "pinball", "quantile"),
        (MLPClassifier, "cross_entropy", "log_loss"),
        (MLPClassifier, "binary_crossentropy", "log_loss"),
    ],
)
def test_losses_by_other_names(kind: Any, given: str, meant: str) -> None:
    assert message(kind, loss=given).endswith(f"Did you mean loss={meant!r}?")


@pytest.mark.parametrize("settings", [{"loss": "xyz"}, {"alpha": -1}, {"tol": "1"}])
def test_nothing_is_suggested_without_a_reason(settings: dict[str, Any]) -> None:
    for kind in (MLPClassifier, MLPRegressor):
        assert "mean" not in message(kind, **settings)


@pytest.mark.parametrize("name", ["tol", "power_t", "alpha", "learning_rate_init"])
def test_integers_beyond_float64_are_refused(name: str) -> None:
    settings: dict[str, Any] = {name: 10**400}
    if name == "power_t":
        settings |= {"solver": "sgd", "learning_rate": "invscaling"}
    model = MLPRegressor(max_iter=1, **settings)
    with pytest.raises((ValueError, TypeError)):
        model.fit([[0.0], [1.0]], [0.0, 1.0])
