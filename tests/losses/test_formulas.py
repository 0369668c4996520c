"""Values and gradients of losses against the reference, PyTorch and manual results."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from fastmlp._core import kernels
from helpers import FD_STEP, SEED, TOLERANCE
from loss_cases import (
    CASES,
    LOSS_ULPS,
    NAMES,
    OUTPUTS,
    QS,
    WEIGHTED,
    WEIGHTS,
    assert_close,
    each_case,
    in_reference,
    problem,
    same,
    targets,
    with_reduction,
)
from torch_formulas import torch_loss

GRADIENT_RTOL = TOLERANCE["finite_difference"].of(np.float64)


@each_case
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_against_the_reference(name: str, reduction: str, dtype: type) -> None:
    loss = with_reduction(CASES[name][0], reduction)
    wanted = in_reference(loss)
    pred, y, weight = problem(name, dtype)
    wide = (y[0], np.float64(y[1])) if isinstance(y, tuple) else y
    for w in (None, weight):
        value, grad = loss.value_and_grad(pred, y, w)
        assert value == loss(pred, y, w)
        assert (grad.dtype, grad.shape) == (pred.dtype, pred.shape)
        exact, exact_grad = wanted.value_and_grad(pred.astype(np.float64), wide, w)
        assert_close(value, exact, dtype)
        assert_close(grad, exact_grad, dtype)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WEIGHTED])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_against_torch(name: str, reduction: str, dtype: type) -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    loss = with_reduction(CASES[name][0], reduction)
    pred, y, _ = problem(name, dtype, rows=23)
    p = torch.tensor(pred, requires_grad=True)
    wanted = torch_loss(torch, loss, p, y, reduction)
    wanted.backward()
    value, grad = loss.value_and_grad(pred, y)
    assert_close(value, wanted.item(), dtype)
    assert_close(grad, p.grad.numpy(), dtype)


@each_case
def test_gradient_by_finite_differences(name: str) -> None:
    loss = CASES[name][0]
    pred, y, weight = problem(name)
    if name == "gaussian":  # away from the smallest variance
        pred[0] = 0.5
    _, grad = loss.value_and_grad(pred, y, weight)
    numeric = np.empty_like(pred)
    for i in np.ndindex(pred.shape):
        sides = []
        for step in (FD_STEP, -FD_STEP):
            moved = pred.copy()
            moved[i] += step
            sides.append(loss(moved, y, weight))
        numeric[i] = (sides[0] - sides[1]) / (2 * FD_STEP)
    scale = np.abs(numeric).max()
    assert scale > 0
    np.testing.assert_allclose(grad, numeric, rtol=0, atol=GRADIENT_RTOL * scale)


def test_values_by_hand() -> None:
    def close(value: float) -> Any:
        return pytest.approx(value, rel=LOSS_ULPS * np.finfo(np.float64).eps)

    assert fm.Poisson()([[0.0]], [[3.0]]) == 1.0
    assert fm.Poisson()([[np.log(2.0)]], [[3.0]]) == close(2 - 3 * np.log(2))
    assert fm.Quantile(0.25)([[1.0], [5.0]], [[3.0], [3.0]]) == close((0.5 + 1.5) / 2)
    assert fm.Quantile()([[1.0]], [[3.0]]) == fm.MAE()([[1.0]], [[3.0]]) / 2
    assert fm.GaussianNLL()([[1.0, np.log(4.0)]], [[3.0]]) == close(np.log(4) / 2 + 0.5)
    assert fm.Hinge()([[0.25], [-2.0], [3.0]], [[1], [1], [1]]) == close(3.75 / 3)
    # Two equal logits: log 2 for any smoothing; weights 1 and 3 cancel in a mean.
    for smoothing in (0.0, 0.5, 1.0):
        loss = fm.CrossEntropy(label_smoothing=smoothing)
        assert loss([[0.0, 0.0]], [1]) == close(np.log(2))
    loss = fm.CrossEntropy(class_weight=[1, 3])
    assert loss([[0.0, 0.0], [0.0, 0.0]], [0, 1]) == close(np.log(2))
    assert loss([[0.0, 0.0], [1e3, 0.0]], [0, 1]) == close((np.log(2) + 3e3) / 4)
    assert fm.BinaryCrossEntropy(pos_weight=5)([[0.0]], [[1.0]]) == close(5 * np.log(2))


@pytest.mark.parametrize(
    ("loss", "pred", "y", "slope"),
    [
        (fm.Quantile(0.25), [[3.0]], [[3.0]], [[0.0]]),
        (fm.Hinge(), [[1.0], [-1.0]], [[1.0], [-1.0]], [[-1.0], [1.0]]),
        (fm.Hinge(margin=0.0), [[0.0], [0.0]], [[1.0], [-1.0]], [[-1.0], [1.0]]),
        (fm.Hinge(), [[1.001]], [[1.0]], [[0.0]]),
    ],
    ids=["quantile", "hinge", "perceptron", "beyond"],
)
def test_slopes_at_kinks(
    isa: str, loss: Any, pred: Any, y: Any, slope: Any, dtype: type
) -> None:
    loss = with_reduction(loss, "sum")
    _, grad = loss.value_and_grad(np.array(pred, dtype), y)
    np.testing.assert_array_equal(grad, slope)


def test_a_variance_below_the_least_finds_its_way_back(isa: str, dtype: type) -> None:
    loss = fm.GaussianNLL(eps=0.25)
    pred = np.array([[1.0, -3.0]], dtype)
    value, grad = loss.value_and_grad(pred, [[2.0]])
    assert_close(value, 0.5 * (np.log(0.25) + 4), dtype)
    assert_close(grad, [[-4.0, 0.5 * (1 - 4) * np.exp(-3) / 0.25]], dtype)


def test_neutral_options_change_no_bit() -> None:
    """Options at their neutral values select the kernels without these options."""
    for name, neutral in [
        ("labels", fm.CrossEntropy(label_smoothing=0.0, class_weight=None)),
        ("fractions", fm.BinaryCrossEntropy(pos_weight=1.0)),
    ]:
        rng = np.random.default_rng(SEED)
        pred = rng.standard_normal((9, OUTPUTS))
        y = targets(name, rng, 9, np.float64)
        plain = type(neutral)()
        assert plain == neutral
        value, grad = plain.value_and_grad(pred, y)
        assert same(neutral.value_and_grad(pred, y)[1], grad)
        assert neutral(pred, y) == value
    # Other kernels give the same values up to rounding.
    pred, y, _ = problem("weighted labels")
    weighted = fm.CrossEntropy(class_weight=[2.0] * OUTPUTS)
    assert_close(weighted(pred, y), fm.CrossEntropy()(pred, y), np.float64)


@pytest.mark.parametrize("p", [-800.0, -30.0, 30.0, 800.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_weighted_losses_are_accurate_where_small(
    p: float, y: float, dtype: type
) -> None:
    pred, target = np.array([[p]], dtype), np.array([[y]], dtype)
    value, grad = fm.BinaryCrossEntropy(pos_weight=3.0).value_and_grad(pred, target)
    plain, plain_grad = fm.BinaryCrossEntropy().value_and_grad(pred, target)
    factor = 3.0 if y else 1.0
    rtol = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(value, factor * plain, rtol=rtol)
    # The unweighted slope at 1 is a difference of numbers near 1.
    atol = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(grad, factor * plain_grad, rtol=rtol, atol=atol)


def kernel_calls(n: int, rows: int, dtype: type) -> dict[str, dict[str, np.ndarray]]:
    """Return the arguments of loss_rows that have rows, and those that have none."""
    rng = np.random.default_rng(SEED + n)
    pred = rng.standard_normal((rows, n)) * rng.choice([0.01, 1, 8], (rows, n))
    pred[rng.uniform(size=pred.shape) < 0.1] = -0.0
    signs = np.where(rng.uniform(size=(rows, n)) < 0.5, -1.0, 1.0)
    shares = rng.uniform(size=(rows, n)) * (rng.uniform(size=(rows, n)) < 0.8)
    labels = rng.integers(0, n, rows)
    each = rng.uniform(0.1, 0.9, n).astype(dtype)
    each[0] = 0.0
    base = {"pred": pred, "row_scale": rng.uniform(0, 2, rows)}
    kinds: dict[str, dict[str, Any]] = {
        "poisson": {"loss": "poisson", "target": abs(signs)},
        "quantile": {"loss": "quantile", "target": shares, "delta": 0.3},
        "quantiles": {"loss": "quantile", "target": shares, "per_output": each},
        "hinge": {"loss": "hinge", "target": signs, "delta": 0.5},
        "pos": {"loss": "binary_cross_entropy", "target": shares, "delta": 2.5},
        "each pos": {
            "loss": "binary_cross_entropy",
            "target": shares,
            "per_output": each,
        },
        "action": {
            "loss": "huber",
            "target": shares[:, :1].copy(),
            "delta": 0.4,
            "actions": labels,
        },
    }
    for name, delta in (("smooth_l1", 0.5), ("log_cosh", 1.0), ("expectile", 0.3)):
        kinds[name] = {"loss": name, "target": shares, "delta": delta}
    kinds["expectiles"] = {"loss": "expectile", "target": shares, "per_output": each}
    kinds["soft margin"] = {"loss": "soft_margin", "target": signs}
    kinds["gamma"] = {"loss": "gamma", "target": abs(signs)}
    kinds["tweedie"] = {"loss": "tweedie", "target": shares, "delta": 1.3}
    kinds["binary focal"] = {
        "loss": "binary_focal",
        "target": shares,
        "delta": 2.0,
        "second": 0.25,
    }
    levels = np.sort(rng.uniform(0.1, 0.9, n)).astype(dtype)
    kinds["quantile steps"] = {
        "loss": "quantile",
        "target": shares,
        "second": 1.0,
        "per_output": levels,
    }
    kinds["divergence"] = {"loss": "kl_div", "target": shares}
    kinds["focal"] = {"loss": "focal", "target": labels, "delta": 1.5}
    kinds["multi margin"] = {
        "loss": "multi_margin",
        "target": labels,
        "delta": 0.75,
        "second": 2.0,
        "per_output": each,
    }
    kinds["ordinal"] = {
        "loss": "ordinal",
        "target": rng.integers(0, n + 1, rows),
        "per_output": each,
    }
    gaps = np.where(rng.uniform(size=(rows, n)) < 0.3, np.nan, shares)
    for name in ("mse", "huber", "quantile", "kl_div"):
        kinds[f"masked {name}"] = {"loss": name, "target": gaps, "masked": True}
        if name != "kl_div":
            kinds[f"masked {name}"] |= {"delta": 0.3, "output_weight": each}
    for what, target in (("labels", labels), ("shares", shares)):
        for smoothing in (0.0, 0.1):
            for weights in (each, None) if smoothing else (each,):
                kinds[f"{what} {smoothing} {weights is not None}"] = {
                    "loss": "cross_entropy",
                    "target": target,
                    "smoothing": smoothing,
                    "per_output": weights,
                }
    if n % 2 == 0:
        half = rng.standard_normal((rows, n // 2))
        kinds["gaussian"] = {"loss": "gaussian_nll", "target": half, "delta": 0.5}
        kinds["student"] = {"loss": "student_t_nll", "target": half, "delta": 2.5}
        kinds["masked student"] = {
            "loss": "student_t_nll",
            "target": np.where(half > 1, np.nan, half),
            "masked": True,
            "output_weight": each[: n // 2] + dtype(0.5),
            "per_output": 2 + each[: n // 2],
        }
    if n % 3 == 0:
        third = rng.standard_normal((rows, n // 3))
        kinds["mixture"] = {"loss": "mixture_density", "target": third}
    if n % 6 == 0:
        kinds["mixture of two"] = {
            "loss": "mixture_density",
            "target": np.where(third > 1, np.nan, third)[:, : n // 6].copy(),
            "delta": 2.0,
            "masked": True,
        }
    return {
        kind: {
            name: a.astype(dtype) if getattr(a, "dtype", None) == np.float64 else a
            for name, a in {**base, **given}.items()
        }
        for kind, given in kinds.items()
    }


def run(call: dict[str, Any], mode: str = "new") -> tuple[np.ndarray, np.ndarray]:
    """Return the losses and gradients of rows; zeros for gradients not computed."""
    pred = call["pred"].copy()
    row_loss = np.full(len(pred), np.nan, pred.dtype)
    dpred = {"new": np.full_like(pred, np.nan), "in place": pred, "none": None}[mode]
    kernels.loss_rows(
        dpred, row_loss, pred, **{k: v for k, v in call.items() if k != "pred"}
    )
    return row_loss, np.zeros_like(pred) if dpred is None else dpred


BY_ROWS = ("pred", "target", "row_scale", "actions")


def some_rows(call: dict[str, Any], rows: slice) -> dict[str, Any]:
    return {
        name: a[rows].copy() if name in BY_ROWS and a is not None else a
        for name, a in call.items()
    }


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 12, 15, 16, 17, 18, 33, 34])
def test_kernels_give_the_same_bits(n: int, dtype: type) -> None:
    """For all instruction sets, single and several rows, in place or not."""
    rows = 70
    for kind, call in kernel_calls(n, rows, dtype).items():
        with fm.use_isa("scalar"):
            wanted = run(call)
        exact = {
            k: np.float64(a) if k in ("pred", "row_scale") else a
            for k, a in call.items()
        }
        if getattr(call["target"], "dtype", None) == dtype:
            exact["target"] = np.float64(call["target"])
        for name in ("per_output", "output_weight"):
            if call.get(name) is not None:
                exact[name] = np.float64(call[name])
        row_loss, dpred = np.empty(rows), np.empty((rows, n))
        reference.loss_rows(dpred, row_loss, **exact)
        for actual, expected in zip(wanted, (row_loss, dpred), strict=True):
            np.testing.assert_allclose(
                actual,
                expected,
                rtol=LOSS_ULPS * np.finfo(dtype).eps,
                atol=LOSS_ULPS * np.finfo(dtype).eps * 30 * n,  # pred goes up to 30
                err_msg=kind,
            )
        for isa in fm.available_isas():
            with fm.use_isa(isa):
                assert same(run(call), wanted), (kind, isa)
                assert same(run(call, "in place"), wanted), (kind, isa)
                assert same(run(call, "none")[0], wanted[0]), (kind, isa)
                # Few rows are computed one by one, many are not.
                for first, last in ((0, 1), (1, 3), (3, 20), (20, 70)):
                    part = run(some_rows(call, slice(first, last)))
                    for a, b in zip(part, wanted, strict=True):
                        assert same(a, b[first:last]), (kind, isa, first)
        empty = run(some_rows(call, slice(0, 0)))
        assert [a.size for a in empty] == [0, 0]


def test_masked_logits(isa: str, dtype: type) -> None:
    """A logit of -inf excludes a class, if its weight in the target is 0."""
    pred = np.array([[0.0, -np.inf, 0.0]] * 5, dtype)
    weighted = fm.CrossEntropy(class_weight=[2, 1, 4], reduction="sum")
    value, grad = weighted.value_and_grad(pred, [2] * 5)
    assert_close(value, 5 * 4 * np.log(2), dtype)
    assert_close(grad, [[2, 0, -2]] * 5, dtype)
    smoothed = fm.CrossEntropy(label_smoothing=0.3, class_weight=[1, 0, 1])
    value, grad = smoothed.value_and_grad(pred, [0] * 5)
    assert_close(value, 0.9 * np.log(2), dtype)
    assert np.isfinite(grad).all()
    assert fm.CrossEntropy(label_smoothing=0.3)(pred, [0] * 5) == np.inf


@each_case
def test_nan_is_not_lost(name: str, isa: str, dtype: type) -> None:
    pred, y, _ = problem(name, dtype)
    column = y[0][5] if isinstance(y, tuple) else 1
    pred[5, column] = np.nan
    value, grad = CASES[name][0].value_and_grad(pred, y)
    assert np.isnan(value)
    assert np.isnan(grad[5]).any()
    assert np.isfinite(np.delete(grad, 5, axis=0)).all()


def test_a_class_weight_is_a_weight_of_rows() -> None:
    pred, y, weight = problem("weighted labels", rows=40)
    loss, plain = fm.CrossEntropy(class_weight=WEIGHTS), fm.CrossEntropy()
    for w in (np.ones(40), weight):
        value, grad = loss.value_and_grad(pred, y, w)
        again, again_grad = plain.value_and_grad(pred, y, w * np.take(WEIGHTS, y))
        assert_close(value, again, np.float64)
        assert_close(grad, again_grad, np.float64)


def test_a_batch_that_weighs_nothing_costs_nothing() -> None:
    loss = fm.CrossEntropy(class_weight=WEIGHTS)
    value, grad = loss.value_and_grad(np.ones((3, OUTPUTS)), [2, 2, 2])
    assert value == 0.0
    assert not grad.any()


def test_one_target_serves_all_quantiles() -> None:
    rng = np.random.default_rng(SEED)
    pred, y = rng.standard_normal((7, OUTPUTS)), rng.standard_normal(7)
    loss = fm.Quantile(QS)
    wide = np.repeat(y[:, np.newaxis], OUTPUTS, axis=1)
    value, grad = loss.value_and_grad(pred, wide)
    for target in (y, y[:, np.newaxis]):
        other, other_grad = loss.value_and_grad(pred, target)
        assert other == value
        assert same(other_grad, grad)
    assert reference.Quantile(QS)(pred, y) == pytest.approx(value)
    mlp = fm.MLP([2, OUTPUTS], dtype="float64", seed=0)
    x = rng.standard_normal((7, 2))
    assert mlp.evaluate(x, y, loss) == mlp.evaluate(x, wide, loss)
    with pytest.raises(ValueError, match=r"^target must have shape"):
        fm.Quantile(0.5)(pred, y)


@each_case
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_few_rows(name: str, rows: int, isa: str, dtype: type) -> None:
    pred, y, weight = problem(name, dtype, rows)
    loss = CASES[name][0]
    if CASES[name][1] == "labels":
        y = np.where(y == 2, 1, y)  # a class of non-zero weight
    value, grad = loss.value_and_grad(pred, y, weight)
    with fm.use_isa("scalar"):
        assert same(loss.value_and_grad(pred, y, weight)[1], grad)
        assert loss(pred, y, weight) == value


@each_case
def test_no_rows_are_refused(name: str) -> None:
    pred, y, _ = problem(name)
    y = tuple(a[:0] for a in y) if isinstance(y, tuple) else y[:0]
    with pytest.raises(ValueError, match=r"^pred must have shape.*empty"):
        CASES[name][0](pred[:0], y)
