"""Means that decay to subnormal numbers, which are slow, become 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

# Every mean decays by a factor of at least 0.7 a step, so that it reaches 0 in DECAY
# steps from any normal number, in float64 too: 0.7^5000 < 2^-2500.
FAST: dict[str, Callable[[], fm.optimizers.Optimizer]] = {
    "SGD": lambda: fm.SGD(0.1, momentum=0.7),
    "SGD nesterov": lambda: fm.SGD(0.1, momentum=0.7, nesterov=True),
    "RMSprop": lambda: fm.RMSprop(0.01, 0.7, momentum=0.7, centered=True),
    "Adam": lambda: fm.Adam(0.01, (0.7, 0.7)),
    "Adam inside": lambda: fm.Adam(0.01, (0.7, 0.7), eps_mode="inside"),
    "AdamW": lambda: fm.AdamW(0.01, (0.7, 0.7), weight_decay=0.0),
    "Adamax": lambda: fm.Adamax(0.01, (0.7, 0.7)),
    "NAdam": lambda: fm.NAdam(0.01, (0.7, 0.7)),
    "RAdam": lambda: fm.RAdam(0.01, (0.7, 0.7)),
    "Adadelta": lambda: fm.Adadelta(0.5, 0.7),
}
DECAY = 5000


def arrays(opt: fm.optimizers.Optimizer) -> Iterator[np.ndarray]:
    for slots in opt.state_dict()["slots"]:
        yield from slots.values()


def is_subnormal(x: np.ndarray) -> np.ndarray:
    return (x != 0) & (np.abs(x) < np.finfo(x.dtype).smallest_normal)


@pytest.mark.parametrize("make", FAST.values(), ids=FAST)
def test_means_of_a_vanished_gradient_end_at_zero(
    make: Callable[[], fm.optimizers.Optimizer], isa: str, dtype: type
) -> None:
    n = 37
    params = np.linspace(-1, 1, n).astype(dtype)
    grad = np.linspace(1, 2, n).astype(dtype)
    opt = make()
    twin = getattr(reference, type(opt).__name__)(**opt._hyper())
    copy = params.copy()
    for step in range(DECAY):
        opt.step(params, grad)
        twin.step([copy], [grad])
        if step == 3:
            grad[:] = 0
        if step % 50 == 0:
            assert not any(is_subnormal(a).any() for a in arrays(opt)), step
    # Adamax adds epsilon to its norm, which therefore stays above it.
    ends = [a for a in arrays(opt) if not (a > 1e-9).all()]
    assert ends
    assert all((a == 0).all() for a in ends)
    np.testing.assert_allclose(params, copy, rtol=100 * np.finfo(dtype).eps)
    before = params.copy()
    opt.step(params, grad)
    np.testing.assert_array_equal(params, before)


@pytest.mark.parametrize("kind", [fm.SGD, fm.AdamW])
def test_decayed_parameters_end_at_zero(kind: type, isa: str, dtype: type) -> None:
    least = np.finfo(dtype).smallest_normal
    params = np.array([1.0, -1.0, least, -least, least / 4, np.nan], dtype)
    opt, zero = kind(0.5, weight_decay=1.0), np.zeros(len(params), dtype)
    for _ in range(1100):  # each step halves them
        opt.step(params, zero)
        assert not is_subnormal(params).any()
    np.testing.assert_array_equal(params, [0, 0, 0, 0, 0, np.nan])


def test_moving_averages_end_at_zero(isa: str, dtype: type) -> None:
    target = fm.MLP([2, 1], init="zeros", dtype=dtype)
    source = target.copy()
    target.params[:] = 1
    for _ in range(1100):
        target.polyak_(source, 0.5)
        assert not is_subnormal(target.params).any()
    assert (target.params == 0).all()
