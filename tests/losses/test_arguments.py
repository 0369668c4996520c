"""Losses as objects: invalid arguments and targets, equality, pickling."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core
from loss_cases import CASES, each_case, same, with_reduction


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fm.Quantile(0.0), ValueError, r"^q must be finite and > 0 and < 1"),
        (lambda: fm.Quantile(1), ValueError, r"^q must be finite and > 0 and < 1"),
        (lambda: fm.Quantile("0.5"), TypeError, "^q must be a number"),
        (lambda: fm.Quantile([]), ValueError, "^q must be a sequence"),
        (lambda: fm.Quantile([0.5, 2]), ValueError, r"^q\[1\] must be finite"),
        (lambda: fm.Quantile([[0.5]]), ValueError, "^q must be a sequence"),
        (lambda: fm.GaussianNLL(0), ValueError, "^eps must be finite and > 0"),
        (lambda: fm.Hinge(-1), ValueError, "^margin must be finite and >= 0"),
        (lambda: fm.Hinge(margin="1"), TypeError, "^margin must be a number"),
        (
            lambda: fm.CrossEntropy(label_smoothing=1.5),
            ValueError,
            "^label_smoothing must be finite",
        ),
        (
            lambda: fm.CrossEntropy(class_weight=[1, -1]),
            ValueError,
            r"^class_weight\[1\] must be finite and >= 0",
        ),
        (
            lambda: fm.CrossEntropy(class_weight=[1, np.nan]),
            ValueError,
            r"^class_weight\[1\] must be finite",
        ),
        (
            lambda: fm.CrossEntropy(class_weight="balanced"),
            TypeError,
            "^class_weight must hold real numbers",
        ),
        (
            lambda: fm.CrossEntropy(class_weight=[0, 0]),
            ValueError,
            "^class_weight must not be all zero",
        ),
        (
            lambda: fm.BinaryCrossEntropy(pos_weight=-1.0),
            ValueError,
            "^pos_weight must be finite and >= 0",
        ),
        (
            lambda: fm.ActionValue(fm.CrossEntropy()),
            ValueError,
            "^loss must compare one prediction",
        ),
        (
            lambda: fm.ActionValue(fm.GaussianNLL()),
            ValueError,
            "^loss must compare one prediction",
        ),
        (
            lambda: fm.ActionValue(fm.Quantile([0.1, 0.9])),
            ValueError,
            "^loss must compare one prediction",
        ),
        (lambda: fm.ActionValue(fm.MSE), TypeError, "^loss must be a fastmlp Loss"),
        (
            lambda: fm.ActionValue(fm.ActionValue(fm.MSE())),
            TypeError,
            "^loss must be a fastmlp Loss",
        ),
        (lambda: fm.CustomLoss(3), TypeError, "^function must be callable"),
        (lambda: fm.CustomLoss(fm.MSE()), TypeError, "^function must be callable"),
        (lambda: fm.Poisson(reduction="avg"), ValueError, "^reduction must be one of"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def bad_targets() -> list[tuple[fm.losses.Loss, Any, type[Exception], str]]:
    """Return invalid targets for predictions (6, 4)."""
    v = np.zeros((6, 4))
    action = fm.ActionValue(fm.MSE())
    a = np.zeros(6, int)
    return [
        (fm.CrossEntropy(class_weight=[1, 2]), a, ValueError, "class_weight .* got 2"),
        (fm.Quantile([0.1, 0.9]), v, ValueError, "q needs .* got 2"),
        (fm.BinaryCrossEntropy(pos_weight=[1]), v, ValueError, "pos_weight .* got 1"),
        (fm.GaussianNLL(), v, ValueError, r"must have shape \(6, 2\)"),
        (fm.Poisson(), a, ValueError, r"must have shape \(6, 4\)"),
        (action, v, TypeError, r"must be a pair \(actions, values\)"),
        (action, (a,), TypeError, r"must be a pair \(actions, values\)"),
        (action, (a[:5], a), ValueError, r"actions must be .* shape \(6,\)"),
        (action, (a * 1.0, a), TypeError, "actions must be of an integer dtype"),
        (action, (a, v), ValueError, r"values must have shape \(6,\)"),
        (action, (a + 4, a * 1.0), ValueError, "action 4 in row 0 is out of range"),
        (action, (a - 1, a * 1.0), ValueError, "action -1 in row 0 is out of range"),
    ]


@pytest.mark.parametrize("case", range(len(bad_targets())))
def test_bad_targets_change_nothing(case: int) -> None:
    loss, y, error, words = bad_targets()[case]
    with pytest.raises(error, match=words):
        loss.value_and_grad(np.zeros((6, 4)), y)
    mlp, x = fm.MLP([3, 4], dtype="float64", seed=0), np.ones((6, 3))
    before, optimizer = mlp.params.copy(), fm.SGD(lr=0.1)
    for call in (
        lambda: mlp.value_and_grad(x, y, loss),
        lambda: mlp.evaluate(x, y, loss),
        lambda: mlp.train_step(x, y, loss, optimizer),
        lambda: mlp.fit(
            x, y, loss=loss, optimizer=optimizer, epochs=1, batch_size=2, progress=False
        ),
    ):
        with pytest.raises(error, match=words):
            call()
    assert same(mlp.params, before)
    assert optimizer.step_count == 0


@pytest.mark.parametrize(
    ("loss", "y", "words"),
    [
        (fm.Hinge(), [[0.0], [1.0]], r"only -1 and 1 for Hinge.*row 0; 2 \* y - 1"),
        (fm.Hinge(), [[1.0], [2.0]], "only -1 and 1 for Hinge.*row 1$"),
        (fm.Poisson(), [[1.0], [-1.0]], "non-negative counts.*row 1$"),
        (fm.Quantile(), [[1.0], [np.nan]], "^y must be finite"),
        (fm.ActionValue(fm.MSE()), ([0, 0], [1.0, np.inf]), "values must be finite"),
    ],
    ids=["zeros", "twos", "negative", "nan", "action"],
)
def test_fit_checks_targets(loss: Any, y: Any, words: str) -> None:
    mlp = fm.MLP([2, 1], dtype="float64", seed=0)
    before = mlp.params.copy()
    with pytest.raises(ValueError, match=words):
        mlp.fit(
            np.ones((2, 2)),
            y,
            loss=loss,
            optimizer=fm.SGD(lr=0.1),
            epochs=1,
            batch_size=2,
            progress=False,
        )
    assert same(mlp.params, before)


def test_gaussian_needs_pairs_of_outputs() -> None:
    for pred in (np.zeros((5, 3)), np.zeros(5)):
        with pytest.raises(ValueError, match=r"GaussianNLL, pred .* 2 \* targets\)"):
            fm.GaussianNLL()(pred, np.zeros(5))
    mlp = fm.MLP([2, 3], seed=0)
    with pytest.raises(ValueError, match="GaussianNLL"):
        mlp.evaluate(np.zeros((5, 2)), np.zeros(5), fm.GaussianNLL())


def test_the_core_refuses_what_it_cannot_do() -> None:
    """The core checks its arguments itself, for callers other than the Python API."""
    p, one = np.zeros((2, 3)), np.ones(2)
    y = (np.zeros(2, np.int64), one)
    for core, target, words in [
        (_core.Loss("gaussian_nll"), np.zeros((2, 1)), "a mean and a log variance"),
        (
            _core.Loss("cross_entropy", action=True),
            y,
            "ActionValue can only be combined",
        ),
        (_core.Loss("quantile", per_output=[0.5]), p, "q needs .* got 1"),
        (_core.Loss("mse", action=True), (y[0] + 3, one), "y: the action 3 in row 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            core.value(p, target)


@each_case
def test_losses_are_values(name: str) -> None:
    loss = CASES[name][0]
    again = eval(repr(loss), vars(fm))
    for other in (again, pickle.loads(pickle.dumps(loss))):
        assert other == loss
        assert hash(other) == hash(loss)
        assert repr(other) == repr(loss)
    assert [loss == other for other, _ in CASES.values()].count(True) <= 2
    assert loss != with_reduction(loss, "sum")
    with pytest.raises(AttributeError, match="immutable"):
        loss.q = 0.5


def test_arguments_may_be_arrays() -> None:
    a = fm.CrossEntropy(class_weight=np.array([1, 2], np.float32))
    assert a == fm.CrossEntropy(class_weight=(1.0, 2.0))
    assert a.class_weight == (1.0, 2.0)
    assert fm.BinaryCrossEntropy(pos_weight=np.float32(2)).pos_weight == 2.0
    assert fm.BinaryCrossEntropy(pos_weight=np.ones(2)).pos_weight == (1.0, 1.0)
    assert fm.BinaryCrossEntropy().pos_weight is None
    assert fm.CrossEntropy().class_weight is None
    assert fm.Quantile(np.array([0.5])).q == (0.5,)
    assert fm.ActionValue(fm.Huber(2.0, reduction="sum")).reduction == "sum"
    assert fm.Hinge().margin == 1.0
    assert fm.GaussianNLL().eps == 1e-6
