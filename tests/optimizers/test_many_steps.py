"""Fifty steps with random settings, against PyTorch or the formulas of the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import fastmlp as fm
import numpy as np
import pytest

try:
    import torch
except ImportError:
    torch = None

STEPS, DRAWS, SIZE = 50, 12, 37
# Fifty steps with about ten roundings each; the gradient pulls to a centre, so that
# errors do not grow.
RTOL = 1e-10

Draw = np.random.Generator


def log_uniform(rng: Draw, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def one(rng: Draw, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def common(rng: Draw) -> dict[str, Any]:
    return {
        "lr": log_uniform(rng, 1e-3, 0.1),
        "weight_decay": one(rng, 0.0, float(rng.uniform(0.01, 0.5))),
        "maximize": bool(rng.integers(2)),
    }


def betas(rng: Draw) -> tuple[float, float]:
    return float(rng.uniform(0, 0.95)), float(rng.uniform(0, 0.999))


def moments(rng: Draw) -> dict[str, Any]:
    return {
        **common(rng),
        "betas": one(rng, betas(rng), (0.9, 0.999)),
        "eps": log_uniform(rng, 1e-12, 1e-2),
        "decoupled_weight_decay": bool(rng.integers(2)),
    }


def rprop(rng: Draw) -> dict[str, Any]:
    least = log_uniform(rng, 1e-6, 1e-2)
    return {
        "lr": log_uniform(rng, 1e-3, 0.1),
        "maximize": bool(rng.integers(2)),
        "etas": (float(rng.uniform(0.1, 0.9)), float(rng.uniform(1.05, 1.5))),
        "step_sizes": (least, least * log_uniform(rng, 1, 1e4)),
    }


TORCHS: dict[str, Callable[[Draw], dict[str, Any]]] = {
    "NAdam": lambda rng: moments(rng) | {"momentum_decay": log_uniform(rng, 1e-3, 1)},
    "RAdam": moments,
    "Adadelta": lambda rng: (
        common(rng)
        | {"lr": log_uniform(rng, 0.01, 2), "rho": float(rng.uniform(0, 1))}
        | {"eps": log_uniform(rng, 1e-8, 1e-2)}
    ),
    "Rprop": rprop,
    "ASGD": lambda rng: (
        common(rng)
        | {"lambd": log_uniform(rng, 1e-4, 1), "alpha": float(rng.uniform(0, 1))}
        | {"t0": one(rng, 0.0, 7.5, 1e6)}
    ),
}


def gradients(seed: int) -> Callable[[int, Any], Any]:
    """Return the gradient of a quadratic function with noise that depends on the step.

    It takes the step and the parameters, as an array or a tensor.
    """
    rng = np.random.default_rng((seed, 1))
    curvature, centre = rng.uniform(0.1, 3, SIZE), rng.standard_normal(SIZE)
    noise = rng.standard_normal((STEPS, SIZE))
    return lambda step, p: curvature * np.tanh(p - centre) + 0.3 * noise[step]


def start(seed: int) -> np.ndarray:
    return np.random.default_rng((seed, 2)).standard_normal(SIZE)


def path(opt: Any, seed: int, sign: int = 1) -> np.ndarray:
    """Return the parameters after each step of fastmlp's optimiser."""
    gradient, theta, found = gradients(seed), start(seed), []
    for step in range(STEPS):
        opt.step(theta, sign * gradient(step, theta))
        found.append(theta.copy())
    return np.array(found)


def assert_paths_agree(found: np.ndarray, wanted: np.ndarray) -> None:
    limit = RTOL * np.abs(wanted).max(axis=1, keepdims=True)
    error = np.abs(found - wanted)
    assert (error <= limit).all(), f"worst {(error / limit).max() * RTOL:.1e}"
    moved = np.abs(wanted[-1] - wanted[0]).max()
    assert moved > 1e3 * RTOL * np.abs(wanted).max()


@pytest.fixture
def torch_in_float64() -> Iterator[None]:
    """PyTorch keeps numbers such as mu_product in its default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def torch_path(kind: str, settings: dict[str, Any], rates: Any, seed: int) -> Any:
    gradient = gradients(seed)
    theta = torch.tensor(start(seed), requires_grad=True)
    opt = getattr(torch.optim, kind)([theta], **settings)
    found = []
    for step in range(STEPS):
        if rates is not None:
            opt.param_groups[0]["lr"] = rates(step)
        theta.grad = torch.tensor(gradient(step, theta.detach().numpy()))
        opt.step()
        found.append(theta.detach().numpy().copy())
    return np.array(found)


@pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
@pytest.mark.usefixtures("torch_in_float64")
@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("kind", TORCHS)
def test_steps_are_torchs(kind: str, seed: int) -> None:
    settings = TORCHS[kind](np.random.default_rng((seed, 3)))
    rates, ours = None, settings
    # ASGD has in torch the learning rate of the previous step.
    if seed % 3 == 2 and kind != "ASGD":
        rates = fm.schedules.Cosine(settings["lr"], 30)
        ours = settings | {"lr": rates}
    found = path(getattr(fm, kind)(**ours), seed)
    assert_paths_agree(found, torch_path(kind, settings, rates, seed))


# Formulas of the papers. Each takes (g, theta, t, lr, settings, memory) with t counted
# from 1 and a dict that is empty before the first step, and returns the new theta.

Formula = Callable[[Any, Any, int, float, dict[str, Any], dict[str, Any]], Any]


def lion(
    g: Any, theta: Any, t: int, lr: float, s: dict[str, Any], memory: dict[str, Any]
) -> Any:
    """Chen et al. 2023, algorithm 2."""
    b1, b2 = s["betas"]
    m = memory.get("m", 0 * g)
    memory["m"] = b2 * m + (1 - b2) * g
    return theta - lr * (np.sign(b1 * m + (1 - b1) * g) + s["weight_decay"] * theta)


def adabelief(
    g: Any, theta: Any, t: int, lr: float, s: dict[str, Any], memory: dict[str, Any]
) -> Any:
    """Zhuang et al. 2020, algorithm 2."""
    (b1, b2), eps, decay = s["betas"], s["eps"], s["weight_decay"]
    shrunk = theta
    if s["decoupled_weight_decay"]:
        shrunk = theta - lr * decay * theta
    else:
        g = g + decay * theta
    m = memory["m"] = b1 * memory.get("m", 0 * g) + (1 - b1) * g
    v = memory["s"] = b2 * memory.get("s", 0 * g) + (1 - b2) * (g - m) ** 2 + eps
    direction = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return shrunk - lr * direction


def schedule_free(
    g: Any, theta: Any, t: int, lr: float, s: dict[str, Any], memory: dict[str, Any]
) -> Any:
    """Defazio et al. 2024, algorithm 1, with the weights of their section on schedules.

    The three sequences are kept as they are, and ``theta`` is y.
    """
    beta, decay = s.get("momentum") or s["betas"][0], s["weight_decay"]
    z, x = memory.get("z", theta), memory.get("x", theta)
    gamma = lr * min(1, t / s["warmup_steps"]) if s["warmup_steps"] else lr
    if "betas" in s:
        b2 = s["betas"][1]
        v = memory["v"] = b2 * memory.get("v", 0 * g) + (1 - b2) * g**2
        gamma *= math.sqrt(1 - b2**t)
        g = g / (np.sqrt(v) + s["eps"])
    largest = memory["largest"] = max(memory.get("largest", 0.0), gamma)
    weight = t ** s["r"] * largest ** s["weight_lr_power"]
    total = memory["total"] = memory.get("total", 0.0) + weight
    z = memory["z"] = z - gamma * (g + decay * theta)
    x = memory["x"] = (1 - weight / total) * x + weight / total * z
    return (1 - beta) * z + beta * x


def schedule_free_settings(rng: Draw) -> dict[str, Any]:
    return {
        **common(rng),
        "warmup_steps": one(rng, 0, 7),
        "r": one(rng, 0.0, float(rng.uniform(0, 2))),
        "weight_lr_power": one(rng, 2.0, float(rng.uniform(0, 3))),
    }


def schedule_free_sgd(rng: Draw) -> dict[str, Any]:
    return schedule_free_settings(rng) | {"momentum": float(rng.uniform(0.3, 0.98))}


def schedule_free_adamw(rng: Draw) -> dict[str, Any]:
    return {
        **schedule_free_settings(rng),
        "betas": (float(rng.uniform(0.3, 0.98)), float(rng.uniform(0, 0.999))),
        "eps": log_uniform(rng, 1e-12, 1e-2),
    }


def prodigy(
    g: Any, theta: Any, t: int, lr: float, s: dict[str, Any], memory: dict[str, Any]
) -> Any:
    """Mishchenko & Defazio 2024, algorithm 4, with the options of their package.

    The factors 1 - beta3 of r and s, which cancel, are left in, as in the paper.
    """
    (b1, b2), decay = s["betas"], s["weight_decay"]
    b3 = s["beta3"] or math.sqrt(b2)
    start, d = memory.setdefault("x0", theta), memory.setdefault("d", s["d0"])
    gamma = lr * d
    if s["use_bias_correction"]:
        gamma *= math.sqrt(1 - b2**t) / (1 - b1**t)
    shrunk = theta
    if s["decouple"]:
        shrunk = theta - gamma * decay * theta
    else:
        g = g + decay * theta
    m = memory["m"] = b1 * memory.get("m", 0 * g) + (1 - b1) * d * g
    v = memory["v"] = b2 * memory.get("v", 0 * g) + (1 - b2) * d**2 * g**2
    r, total = memory.get("r", 0.0), memory.get("s", 0 * g)
    r = memory["r"] = b3 * r + (1 - b3) * d * gamma * float(g @ (start - theta))
    share = d if s["safeguard_warmup"] else gamma
    total = memory["s"] = b3 * total + (1 - b3) * d * share * g
    estimate = s["d_coef"] * r / float(np.abs(total).sum())
    if lr > 0:
        grown = max(d, estimate) if d == s["d0"] else d
        best = memory["best"] = max(memory.get("best", d), estimate)
        memory["d"] = min(best, grown * s["growth_rate"])
    return shrunk - gamma * m / (np.sqrt(v) + d * s["eps"])


def prodigy_settings(rng: Draw) -> dict[str, Any]:
    return {
        **common(rng),
        "lr": float(rng.uniform(0.5, 2)),
        "betas": one(rng, betas(rng), (0.9, 0.999)),
        "beta3": one(rng, None, float(rng.uniform(0.5, 0.999))),
        "eps": log_uniform(rng, 1e-12, 1e-4),
        "decouple": bool(rng.integers(2)),
        "use_bias_correction": bool(rng.integers(2)),
        "safeguard_warmup": bool(rng.integers(2)),
        # For a smaller d0, start - theta has fewer digits in the first steps, and
        # estimates that grow by large factors multiply the errors.
        "d0": log_uniform(rng, 1e-4, 1e-2),
        "d_coef": float(rng.uniform(0.5, 1.2)),
        "growth_rate": one(rng, math.inf, 1.2),
    }


PAPERS: dict[str, tuple[Formula, Callable[[Draw], dict[str, Any]]]] = {
    "Lion": (lion, lambda rng: common(rng) | {"betas": betas(rng)}),
    "AdaBelief": (adabelief, moments),
    "ScheduleFreeSGD": (schedule_free, schedule_free_sgd),
    "ScheduleFreeAdamW": (schedule_free, schedule_free_adamw),
    "Prodigy": (prodigy, prodigy_settings),
}


@pytest.mark.parametrize("seed", range(DRAWS))
@pytest.mark.parametrize("kind", PAPERS)
def test_steps_are_the_papers(kind: str, seed: int) -> None:
    formula, draw = PAPERS[kind]
    settings = draw(np.random.default_rng((seed, 3)))
    rate: Any = settings["lr"]
    if seed % 3 == 2:
        rate = fm.schedules.Cosine(rate, 30)
    opt = getattr(fm, kind)(**{**settings, "lr": rate})
    # Ascent of the negated function, where the estimates of Prodigy stay bounded.
    found = path(opt, seed, -1 if settings["maximize"] else 1)
    gradient, theta, wanted = gradients(seed), start(seed), []
    memory: dict[str, Any] = {}
    for step in range(STEPS):
        g = gradient(step, theta)
        lr = rate(step) if callable(rate) else rate
        theta = formula(g, theta, step + 1, lr, settings, memory)
        wanted.append(theta)
    assert_paths_agree(found, np.array(wanted))
    if kind.startswith("ScheduleFree"):
        (z,) = opt._averages()
        x = opt._average(z, found[-1])
        limit = RTOL * np.abs(memory["x"]).max()
        np.testing.assert_allclose(x, memory["x"], rtol=0, atol=limit)
    if kind == "Prodigy":
        assert opt.d == pytest.approx(memory["d"], rel=RTOL)
        # With the safeguard, a rate that falls to 0 may give no estimate above d0.
        assert opt.d > settings["d0"] or settings["safeguard_warmup"]


# Properties ---------------------------------------------------------------------------


def test_rprop_skips_a_step_after_a_change_of_sign() -> None:
    opt, theta, path = fm.Rprop(0.1, (0.5, 2.0)), np.zeros(1), []
    for g in (1.0, 3.0, -1.0, -2.0, -2.0, 0.0):
        opt.step(theta, np.array([g]))
        path.append(float(theta[0]))
    np.testing.assert_allclose(path, [-0.1, -0.3, -0.3, -0.2, 0.0, 0.0], atol=1e-15)


def test_rprop_sees_signs_of_gradients_whose_product_underflows() -> None:
    opt, theta = fm.Rprop(0.1, (0.5, 2.0)), np.zeros(1)
    for _ in range(2):
        opt.step(theta, np.array([1e-200]))
    np.testing.assert_allclose(theta, -0.3, rtol=1e-15)


def test_rprop_takes_its_first_step_size_from_the_schedule() -> None:
    theta = np.zeros(2)
    opt = fm.Rprop(fm.schedules.Exponential(0.5, 0.1))
    for _ in range(2):
        opt.step(theta, np.ones(2))
    np.testing.assert_allclose(theta, -0.5 - 0.6, rtol=1e-15)


@pytest.mark.parametrize("kind", ["Rprop", "Lion"])
def test_signs_do_not_hide_a_nan(kind: str) -> None:
    theta = np.zeros(3)
    getattr(fm, kind)(0.1).step(theta, np.array([1.0, np.nan, 0.0]))
    np.testing.assert_array_equal(theta, [-0.1, np.nan, 0.0])


def test_asgd_averages_from_t0_on() -> None:
    mlp = fm.MLP([2, 1], dtype="float64", seed=0)
    opt = fm.ASGD(0.1, lambd=0.0, t0=2)
    seen = []
    for i in range(6):
        opt.step(mlp, np.linspace(-1, 1, 3) * (-1) ** i * (i + 1))
        seen.append(mlp.params.copy())
    # The average is the parameters up to step 4 = t0 + 2, whose weight is 1.
    wanted = seen[3] + (seen[4] - seen[3]) / 2
    wanted += (seen[5] - wanted) / 3
    np.testing.assert_allclose(opt.averaged(mlp).params, wanted, rtol=1e-14)
    both = fm.ASGD(0.1, ema=0.5)
    both.step(mlp.copy(), np.ones(3))
    with pytest.raises(ValueError, match="at least one step"):
        fm.ASGD().averaged(mlp)


def test_the_shared_number_of_nadam_is_in_its_state() -> None:
    opt, theta = fm.NAdam(0.1, (0.8, 0.9), momentum_decay=0.25), np.zeros(3)
    assert opt.state_dict()["shared"] == {"mu_product": 1.0}
    wanted = 1.0
    for t in range(1, 6):
        opt.step([theta, np.ones(2)], [np.ones(3), np.ones(2)])
        wanted *= 0.8 * (1 - 0.5 * math.pow(0.96, 0.25 * t))
        shared = opt.state_dict()["shared"]
        assert shared == {"mu_product": pytest.approx(wanted, rel=1e-14)}
    state = opt.state_dict()
    for bad, error in [
        (None, ValueError),
        ({}, ValueError),
        ({"mu_product": math.nan}, ValueError),
        ({"mu_product": "1"}, TypeError),
        ({"mu_product": 1.0, "d": 1.0}, ValueError),
    ]:
        with pytest.raises(error, match=r"^state\['shared'\]"):
            opt.load_state_dict({**state, "shared": bad})
    del state["shared"]
    with pytest.raises(ValueError, match=r"^state\['shared'\] must be a dict"):
        opt.load_state_dict(state)
    opt.reset()
    assert opt.state_dict()["shared"] == {"mu_product": 1.0}
    assert "shared" not in fm.Adam().state_dict()


def line(mlp: fm.MLP, opt: Any, steps: int) -> None:
    x = np.linspace(-1, 1, 20)[:, None]
    for _ in range(steps):
        mlp.train_step(x, 3 * x + 1, fm.MSE(), opt)


def loss_of(mlp: fm.MLP) -> float:
    x = np.linspace(-1, 1, 20)[:, None]
    return float(((mlp(x) - 3 * x - 1) ** 2).mean())


def test_the_average_of_schedule_free_training_is_the_result() -> None:
    for opt in (fm.ScheduleFreeSGD(0.3), fm.ScheduleFreeAdamW(0.1, warmup_steps=5)):
        mlp = fm.MLP([1, 1], dtype="float64", seed=0)
        with pytest.raises(ValueError, match="at least one step"):
            opt.averaged(mlp)
        line(mlp, opt, 1)
        before = mlp.params.copy()
        line(mlp, opt, 300)
        assert loss_of(opt.averaged(mlp)) < 0.01
        (z,) = opt._averages()
        beta = getattr(opt, "momentum", None) or opt.betas[0]
        y = (1 - beta) * z + beta * opt.averaged(mlp).params
        np.testing.assert_allclose(mlp.params, y, rtol=1e-13)
        assert (mlp.params != before).any()
        for name in ("momentum", "betas"):
            if hasattr(opt, name):
                with pytest.raises(AttributeError, match="cannot be changed"):
                    setattr(opt, name, getattr(opt, name))


def test_with_ema_averaged_is_the_moving_average() -> None:
    for opt in (fm.ScheduleFreeSGD(0.3, ema=0.5), fm.ASGD(0.1, t0=0, ema=0.5)):
        mlp = fm.MLP([1, 1], dtype="float64", seed=0)
        line(mlp, opt, 5)
        average = opt.averaged(mlp).params
        np.testing.assert_array_equal(average, opt.ema_params[0])


def test_prodigy_finds_the_step_size() -> None:
    for d0 in (1e-8, 1e-6, 1e-4):
        mlp, opt = fm.MLP([1, 1], dtype="float64", seed=0), fm.Prodigy(d0=d0)
        assert opt.d == d0
        line(mlp, opt, 300)
        assert loss_of(mlp) < 1e-3
        # The distance in the infinity norm, within a small factor.
        assert 0.1 < opt.d < 10
        assert opt.state_dict()["shared"].keys() == {"d", "d_max", "d_numerator"}


def test_prodigys_sums_are_over_all_arrays() -> None:
    rng = np.random.default_rng(0)
    whole, parts = np.ones(3000), [np.ones(1000), np.ones((10, 200))]
    one, two = fm.Prodigy(), fm.Prodigy()
    for _ in range(20):
        g = rng.standard_normal(3000) + whole
        one.step(whole, g)
        two.step(parts, [g[:1000], g[1000:].reshape(10, 200)])
    assert two.d == pytest.approx(one.d, rel=1e-12)
    joined = np.concatenate([p.ravel() for p in parts])
    np.testing.assert_allclose(whole, joined, rtol=0, atol=1e-12)


def test_prodigy_keeps_its_estimate_without_a_gradient() -> None:
    opt, theta = fm.Prodigy(), np.ones(3)
    for _ in range(2):
        opt.step(theta, np.zeros(3))
    assert opt.d == 1e-6
    np.testing.assert_array_equal(theta, 1.0)


@pytest.mark.parametrize("kind", ["NAdam", "ScheduleFreeAdamW", "Prodigy"])
def test_a_step_that_diverges_does_not_change_the_shared_numbers(kind: str) -> None:
    mlp, opt = fm.MLP([1, 1], dtype="float64", seed=0), getattr(fm, kind)()
    line(mlp, opt, 3)
    before = opt.state_dict()["shared"]
    with pytest.raises(fm.DivergenceError):
        mlp.train_step([[np.nan]], [[1.0]], fm.MSE(), opt)
    assert opt.state_dict()["shared"] == before
    # A failing epoch is rolled back, with the shared numbers.
    x, y = np.ones((6, 1)), np.ones((6, 1))
    y[5] = 1e200  # whose square overflows
    with pytest.raises(fm.DivergenceError):
        mlp.fit(
            x,
            y,
            loss=fm.MSE(),
            optimizer=opt,
            epochs=1,
            batch_size=2,
            shuffle=False,
        )
    assert opt.state_dict()["shared"] == before
    assert opt.step_count == 3
