"""Logits of -inf: impossible actions, and rows without any possible action."""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import rl

INF = np.inf
LOGITS = np.array([[0.0, 1.0, -INF], [2.0, -INF, 0.0]])
TAKEN = np.array([2, 0])  # the first has become impossible


@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_an_impossible_action_without_advantage_costs_nothing(entropy):
    loss = rl.PolicyGradient(entropy)
    value, grad = loss.value_and_grad(LOGITS, (TAKEN, np.array([0.0, 2.0])))
    wanted = loss.value_and_grad(LOGITS, (np.array([0, 0]), np.array([0.0, 2.0])))
    assert value == wanted[0]
    np.testing.assert_array_equal(grad, wanted[1])
    assert np.isfinite(grad).all()
    assert loss(LOGITS, (TAKEN, np.array([1.0, 2.0]))) == INF


def test_one_action_must_be_possible():
    logits = np.array([[0.0, 1.0], [-INF, -INF]])
    actions = np.zeros(2, int)
    calls = [
        lambda: rl.entropy(logits),
        lambda: rl.log_prob(logits, actions),
        lambda: rl.PolicyGradient()(logits, (actions, np.ones(2))),
        lambda: rl.ClippedPolicyGradient()(logits, (actions, np.ones(2), np.ones(2))),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"must not all be -inf.* in row 1$"):
            call()
    assert np.isnan(rl.entropy([[np.nan, 0.0]])).all()


def test_the_repr_of_a_loss_is_no_address():
    def log_cosh(pred, target):
        return 0.0, pred * 0

    shown = repr(fm.CustomLoss(log_cosh))
    name = "test_the_repr_of_a_loss_is_no_address.<locals>.log_cosh"
    assert shown == f"CustomLoss({name}, reduction='mean')"
    assert repr(rl.PolicyGradient(0.5)).startswith("PolicyGradient(entropy=0.5")
