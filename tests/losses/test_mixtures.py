"""Mixture densities, whose outputs are several times as many as in other cases."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, reference
from helpers import SEED
from loss_cases import assert_close, same
from torch_formulas import torch_loss


def problem(k: int, targets: int, dtype: Any, rows: int = 11) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng([SEED, k, targets])
    pred = rng.standard_normal((rows, 3 * targets * k)).astype(dtype)
    y = rng.standard_normal((rows, targets)).astype(dtype)
    return pred, y, rng.uniform(0, 2, rows)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("k", "targets"), [(1, 1), (1, 3), (2, 1), (3, 2), (5, 17), (19, 1), (33, 2)]
)
def test_against_torch_and_the_reference(
    k: int, targets: int, reduction: str, isa: str, dtype: type
) -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    pred, y, weight = problem(k, targets, dtype)
    loss = fm.MixtureDensity(k, reduction=reduction)
    p = torch.tensor(pred, dtype=torch.float64, requires_grad=True)
    wanted = torch_loss(torch, loss, p, np.float64(y), reduction)
    wanted.backward()
    value, grad = loss.value_and_grad(pred, y)
    assert_close(value, wanted.item(), dtype)
    assert_close(grad, p.grad.numpy(), dtype)
    gaps = np.where(y > 0.5, dtype(np.nan), y)
    options: Any = {"mask": "nan", "output_weight": np.arange(1.0, targets + 1)}
    theirs = reference.MixtureDensity(k, reduction=reduction, **options)
    exact = theirs.value_and_grad(np.float64(pred), gaps, weight)
    loss = fm.MixtureDensity(k, reduction=reduction, **options)
    value, grad = loss.value_and_grad(pred, gaps, weight)
    assert_close(value, exact[0], dtype)
    assert_close(grad, exact[1], dtype)
    with fm.use_isa("scalar"):
        other = loss.value_and_grad(pred, gaps, weight)
    assert other[0] == value
    assert same(other[1], grad)


def test_one_component_is_a_normal_distribution(dtype: type) -> None:
    pred, y, w = problem(1, 3, dtype)
    means, log_std = pred[:, 3:6], pred[:, 6:]
    normal = fm.GaussianNLL(1e-30)
    both = np.hstack([means, 2 * log_std])
    value, grad = fm.MixtureDensity(1).value_and_grad(pred, y, w)
    other, other_grad = normal.value_and_grad(both, y, w)
    assert_close(value, other, dtype)
    assert_close(grad[:, 3:6], other_grad[:, :3], dtype)
    assert_close(grad[:, 6:], 2 * other_grad[:, 3:], dtype)  # by the deviation's log
    assert not grad[:, :3].any()


def test_a_network_learns_two_branches() -> None:
    rng = np.random.default_rng(SEED)
    x = rng.uniform(-1, 1, (600, 1))
    y = np.where(rng.uniform(size=(600, 1)) < 0.25, 1.0, -1.0) * (1 + x)
    y += 0.05 * rng.standard_normal(y.shape)
    mlp = fm.MLP([1, 24, 6], activation="tanh", seed=0)
    mlp.fit(x, y, loss=fm.MixtureDensity(2), optimizer=fm.Adam(0.01), epochs=200)
    logits, means, _ = mlp(np.zeros((1, 1))).reshape(3, 2)
    order = means.argsort()
    share = np.exp(logits) / np.exp(logits).sum()
    # The branches are 2 apart; the share of one of 600 rows is uncertain by 0.02.
    np.testing.assert_allclose(means[order], [-1, 1], atol=0.2)
    np.testing.assert_allclose(share[order], [0.75, 0.25], atol=0.1)


@pytest.mark.parametrize("k", [0.0, 0.5, 1e9, np.nan])
def test_the_core_refuses_other_numbers_of_components(k: float) -> None:
    core = _core.Loss("mixture_density", k)
    with pytest.raises(ValueError, match="number of components must be an integer"):
        core.value(np.zeros((2, 3)), np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"three|MixtureDensity"):
        fm.MixtureDensity(2)(np.zeros((2, 4)), np.zeros((2, 1)))
