"""Schedules against PyTorch's, with random settings, and against published formulas."""

import math
from itertools import pairwise

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from fastmlp.schedules._base import raised
from fit_cases import torch_rates

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
lr_scheduler = torch.optim.lr_scheduler

# Relative to the largest learning rate. PyTorch's recursions add a rounding error per
# step, and its 1 + cos suffers from cancellation.
RATE_RTOL = 1e-12
COUNT = 150
DRAWS = range(12)


def polynomial(rng, lr):
    steps, power = int(rng.integers(1, 2 * COUNT)), float(rng.uniform(0.2, 4.0))
    power = round(power) or 1 if rng.random() < 0.3 else power
    return schedules.Polynomial(lr, steps, power), lambda o: lr_scheduler.PolynomialLR(
        o, steps, power
    )


def linear(rng, lr):
    steps, (start, end) = int(rng.integers(1, 2 * COUNT)), rng.uniform(0.01, 1, 2)
    end = 0.0 if rng.random() < 0.3 else end
    return schedules.Linear(lr, steps, start, end), lambda o: lr_scheduler.LinearLR(
        o, start, end, steps
    )


def constant_factor(rng, lr):
    steps, factor = int(rng.integers(1, 2 * COUNT)), float(rng.uniform(0.01, 1))
    ours = schedules.ConstantFactor(lr, steps, factor)
    return ours, lambda o: lr_scheduler.ConstantLR(o, factor, steps)


def cyclic(rng, lr):
    up, down = (int(n) for n in rng.integers(1, 40, 2))
    down = None if rng.random() < 0.3 else down
    mode = str(rng.choice(["triangular", "triangular2", "exp_range"]))
    gamma, base = float(rng.uniform(0.9, 1)), lr * float(rng.uniform(0, 1))
    ours = schedules.Cyclic(base, lr, up, down, mode, gamma)
    return ours, lambda o: lr_scheduler.CyclicLR(
        o, base, lr, up, down, mode, gamma, cycle_momentum=False
    )


def simple(rng, lr):
    """A schedule that PyTorch also computes as a factor from step to step."""
    kinds = [polynomial, linear, constant_factor, exponential]
    return kinds[rng.integers(len(kinds))](rng, lr)


def exponential(rng, lr):
    gamma = float(rng.uniform(0.9, 1.0))
    ours = schedules.Exponential(lr, gamma)
    return ours, lambda o: lr_scheduler.ExponentialLR(o, gamma)


def sequential(rng, lr):
    ours, makers = zip(*(simple(rng, lr) for _ in range(3)), strict=True)
    milestones = sorted(rng.choice(np.arange(1, COUNT), 2, replace=False).tolist())
    return schedules.Sequential(ours, milestones), lambda o: lr_scheduler.SequentialLR(
        o, [make(o) for make in makers], milestones
    )


def chained(rng, lr):
    first, *others = (simple(rng, 1.0) for _ in range(3))
    ours = schedules.Chained(lr, [first[0], *(other[0] for other in others)])
    return ours, lambda o: lr_scheduler.ChainedScheduler(
        [make(o) for _, make in (first, *others)]
    )


MAKERS = [polynomial, linear, constant_factor, cyclic, sequential, chained]


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, on its own schedulers
@pytest.mark.parametrize("seed", DRAWS)
@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
def test_rates_are_torchs(maker, seed):
    rng = np.random.default_rng([seed, MAKERS.index(maker)])
    lr = float(10 ** rng.uniform(-4, 1))
    ours, make = maker(rng, lr)
    wanted, got = torch_rates(make, COUNT, lr), ours.values(0, COUNT)
    np.testing.assert_allclose(got, wanted, rtol=RATE_RTOL, atol=RATE_RTOL * lr)


def test_powers():
    base = np.linspace(0, 1, 101)
    for exponent in (0.3, 0.5, 1.0, 2.0, 2.5, 7.3, 100.0, 1e-3):
        wanted = [b**exponent for b in base]
        np.testing.assert_allclose(raised(base, exponent), wanted, rtol=1e-14)
    assert raised(base, 1e300).tolist() == [0.0] * 100 + [1.0]


def formula(schedule, function, steps):
    rates = schedule.values(0, steps)
    wanted = [function(t) for t in range(steps)]
    top = max(wanted)
    np.testing.assert_allclose(rates, wanted, rtol=RATE_RTOL, atol=RATE_RTOL * top)


@pytest.mark.parametrize(("steps", "cycles"), [(1, 1), (97, 4), (160, 3), (40, 52)])
def test_coslog_is_that_of_the_paper(steps, cycles):
    """RealMLP: (1 - cos(2π log₂(1 + (2^k - 1) t))) / 2 for t from 0 to 1."""

    def wanted(step):
        t = step / steps
        return (
            0.3 * (1 - math.cos(2 * math.pi * math.log2(1 + (2**cycles - 1) * t))) / 2
        )

    schedule = schedules.CosineLog(0.3, steps, cycles)
    formula(schedule, wanted, steps)
    assert schedule(0) == schedule(steps) == schedule(steps + 10**6) == 0.0


@pytest.mark.parametrize("steps", [1, 2, 97, 100])
def test_flat_cosine_is_that_of_the_paper(steps):
    """RealMLP: (1 + cos(π (max(1, 2 t) - 1))) / 2 for t from 0 to 1."""
    schedule = schedules.FlatCosine(0.3, steps)
    formula(
        schedule,
        lambda step: 0.15 * (1 + math.cos(math.pi * (max(1, 2 * step / steps) - 1))),
        steps + 1,
    )
    assert schedule(steps) == schedule(10**9) == 0.0
    late = schedules.FlatCosine(1.0, 8, 0.75, 0.25)
    assert late.values(0, 7).tolist() == [1.0] * 7
    assert late(7) == pytest.approx(0.625, rel=RATE_RTOL)
    assert late(8) == late(9) == 0.25


FALLS = {
    "linear": lambda p: 0.1 + 0.9 * (1 - p),
    "cos": lambda p: 0.1 + 0.9 * (1 + math.cos(math.pi * p)) / 2,
    "sqrt": lambda p: 0.1 + 0.9 * (1 - math.sqrt(p)),
    "exponential": lambda p: 0.1**p,
}


@pytest.mark.parametrize("shape", FALLS)
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("stable", [0, 5])
def test_warmup_stable_decay(shape, warmup, stable):
    schedule = schedules.WarmupStableDecay(1.0, warmup, stable, 20, 0.1, shape)

    def wanted(t):
        if t < warmup:
            return t / warmup
        done = max(0, t - warmup - stable) / 20
        return FALLS[shape](done)

    formula(schedule, wanted, warmup + stable + 20)
    end = warmup + stable + 20
    assert schedule(warmup) == schedule(warmup + stable) == 1.0
    assert schedule(end) == schedule(end + 1) == schedule(10**9) == 0.1


@pytest.mark.parametrize("shape", ["constant", "linear", "cos"])
def test_pieces(shape):
    lrs, milestones = (0.3, 0.1, 0.4, 0.2), (4, 5, 20)
    schedule = schedules.Piecewise(lrs, milestones, shape)
    for t in range(40):
        points = list(zip((0, *milestones), lrs, strict=True))
        inside = [(a, b) for a, b in pairwise(points) if a[0] <= t < b[0]]
        (begin, low), (end, high) = inside[0] if inside else (points[-1], (10**9, 0.2))
        part = (t - begin) / (end - begin)
        wanted = {
            "constant": low,
            "linear": low + (high - low) * part,
            "cos": high + (low - high) / 2 * (1 + math.cos(math.pi * part)),
        }[shape]
        assert schedule(t) == pytest.approx(wanted, rel=RATE_RTOL), t
    assert schedules.Piecewise([0.3], [], shape)(7) == 0.3


def test_polynomials_end_at_their_last_rate():
    """Keras: (lr - end) (1 - t / n)^power + end, then end."""
    schedule = schedules.Polynomial(0.3, 20, 2.0, 0.1)
    formula(schedule, lambda t: 0.2 * (1 - t / 20) ** 2 + 0.1, 20)
    assert schedule(20) == schedule(10**9) == 0.1
    assert schedules.Polynomial(1.0, 4).values(0, 6).tolist() == [
        1,
        0.75,
        0.5,
        0.25,
        0,
        0,
    ]


def test_parts_count_from_their_own_beginnings():
    schedule = schedules.Sequential(
        [0.5, schedules.Linear(1.0, 2, 0.0), schedules.Step(4.0, 1, 0.5)], [2, 4]
    )
    assert schedule.values(0, 8).tolist() == [0.5, 0.5, 0, 0.5, 4, 2, 1, 0.5]
    assert schedule.values(5, 2).tolist() == [2, 1]
    # Two milestones at one step leave no step to the schedule between them.
    skipped = schedules.Sequential([1.0, 2.0, 3.0], [2, 2])
    assert skipped.values(0, 4).tolist() == [1, 1, 3, 3]


def test_products_are_finite_where_a_factor_is_zero():
    growing = schedules.Exponential(1.0, 2.0**600)
    assert schedules.Chained(0.0, [growing])(5) == 0.0
    assert schedules.Chained(1.0, [growing, 0.0])(5) == 0.0
    optimizer = fm.SGD(schedules.Chained(1.0, [growing]))
    params = np.ones(1)
    optimizer.step(params, np.ones(1))
    optimizer.step(params, np.ones(1))
    with pytest.raises(ValueError, match="lr"):
        optimizer.step(params, np.ones(1))
