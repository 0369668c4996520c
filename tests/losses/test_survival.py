"""The partial likelihood of survival times."""

from __future__ import annotations

import pickle
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from helpers import SEED
from loss_cases import assert_close


def problem(rows: int, ties: bool) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng([SEED, rows])
    time = rng.exponential(size=rows)
    if ties:
        time = np.ceil(3 * time)
    event = (rng.uniform(size=rows) < 0.6).astype(float)
    event[0] = 1
    weight = rng.uniform(0, 2, rows)
    weight[rows // 2] = 0
    weight[0] = 1
    return rng.standard_normal((rows, 1)) * 3, time, event, weight


def by_formula(torch: Any, p: Any, time: Any, event: Any, w: Any, mean: bool) -> Any:
    """Return the definition, one event after another."""
    at_risk = torch.as_tensor(time[None, :] >= time[:, None])
    log_w = torch.as_tensor(w).log()
    scores = torch.where(at_risk, p[:, 0] + log_w, -torch.inf)
    died = torch.as_tensor(w * event)
    kept = died > 0
    terms = died[kept] * (scores[kept].logsumexp(1) - p[kept, 0])
    return terms.sum() / died.sum() if mean else terms.sum()


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("rows", [1, 2, 7, 60])
def test_against_torch(rows: int, reduction: str, ties: bool) -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    pred, time, event, weight = problem(rows, ties)
    loss = fm.CoxPH(reduction=reduction)
    for w in (None, weight):
        p = torch.tensor(pred, requires_grad=True)
        each = np.ones(rows) if w is None else w
        wanted = by_formula(torch, p, time, event, each, reduction == "mean")
        wanted.backward()
        for target in ((time, event), np.stack([time, event], axis=1)):
            value, grad = loss.value_and_grad(pred, target, w)
            assert_close(value, wanted.item(), np.float64)
            assert_close(grad, p.grad.numpy(), np.float64)
            assert loss(pred, target, w) == value
    single, grad32 = loss.value_and_grad(pred.astype(np.float32), (time, event))
    assert grad32.dtype == np.float32
    assert_close(single, loss(pred, (time, event)), np.float32)


def test_of_far_predictions() -> None:
    """Sums over many orders of magnitude neither overflow nor vanish."""
    time, event = np.arange(4.0), np.ones(4)
    for sign in (1, -1):
        pred = sign * np.array([0.0, 1e3, 2e3, 3e3])
        value, grad = fm.CoxPH(reduction="sum").value_and_grad(pred, (time, event))
        assert value == (6e3 if sign > 0 else 0)
        wanted = [-1, -1, -1, 3] if sign > 0 else [0, 0, 0, 0]
        # A rounding error of a logarithm near 3000 is a relative error of its power.
        atol = 8 * 3e3 * np.finfo(np.float64).eps
        np.testing.assert_allclose(grad, wanted, rtol=0, atol=atol)


def test_bits_are_those_of_every_instruction_set(isa: str) -> None:
    pred, time, event, weight = problem(60, True)
    value, grad = fm.CoxPH().value_and_grad(pred, (time, event), weight)
    with fm.use_isa("scalar"):
        other, other_grad = fm.CoxPH().value_and_grad(pred, (time, event), weight)
    assert value == other
    assert grad.tobytes() == other_grad.tobytes()


def test_order_of_rows_does_not_matter() -> None:
    pred, time, event, weight = problem(60, True)
    order = np.random.default_rng(SEED).permutation(60)
    value, grad = fm.CoxPH().value_and_grad(pred, (time, event), weight)
    again = fm.CoxPH().value_and_grad(
        pred[order], (time[order], event[order]), weight[order]
    )
    assert_close(again[0], value, np.float64)
    assert_close(again[1], grad[order], np.float64)


def test_without_events_nothing_is_learnt() -> None:
    value, grad = fm.CoxPH().value_and_grad(np.ones((3, 1)), (np.arange(3), [0, 0, 0]))
    assert value == 0.0
    assert not grad.any()
    assert np.isnan(fm.CoxPH()([np.nan, 0.0], ([1, 2], [1, 1])))


def test_a_linear_model_learns_log_hazards() -> None:
    rng = np.random.default_rng(SEED)
    x, slope = rng.standard_normal((500, 2)), np.array([1.0, -0.5])
    time = rng.exponential(np.exp(-x @ slope))
    limit = rng.exponential(2.0, 500)
    y = np.stack([np.minimum(time, limit), time <= limit], axis=1)
    mlp = fm.MLP([2, 1], dtype="float64", seed=0)
    mlp.fit(x, y, loss=fm.CoxPH(), optimizer=fm.Adam(0.05), epochs=200, batch_size=500)
    # The standard errors are near 1 / sqrt(400 events).
    np.testing.assert_allclose(mlp.weights[0][:, 0], slope, atol=0.2)
    _, grads = mlp.value_and_grad(x, y, fm.CoxPH())
    assert abs(grads).max() < 1e-3


def test_what_it_is() -> None:
    loss = fm.CoxPH(reduction="sum")
    assert repr(loss) == "CoxPH(reduction='sum')"
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert loss != fm.CoxPH()


@pytest.mark.parametrize(
    ("pred", "target", "words"),
    [
        ([[1.0, 2.0]], ([1.0], [1]), r"^pred must have shape \(rows, 1\)"),
        ([1.0, 2.0], [1.0, 2.0], "^target must hold times and events"),
        ([1.0, 2.0, 3.0], ([1.0, 2.0], [1, 0]), "^target must hold times and events"),
        ([1.0], ([np.inf], [1]), "^target: the times must be finite"),
        ([1.0], ([1.0], [2]), "^target: the events must be 0 or 1, got 2.0 in row 0"),
    ],
)
def test_wrong_targets_are_refused(pred: Any, target: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fm.CoxPH()(pred, target)
