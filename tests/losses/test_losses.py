"""Losses beyond the first six: counts, quantiles, variances, margins, weighted classes,
values of actions, and functions of the user's.

Compared with PyTorch where it has the loss, with the reference, with finite differences
and with themselves: on every instruction set, in rows alone and among others, and in
any number of threads.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, _validate, losses, reference
from fastmlp._core import kernels
from helpers import (
    SEED,
    TOLERANCE,
    assert_threaded,
    thread_counts,
    training_flops,
)

# float64 against the same formulas in numpy or torch: some roundings of each term, and
# sums of a few of them. float32 by the same token.
ROUNDINGS = 64
GRADIENT_RTOL = TOLERANCE["finite_difference"].of(np.float64)
FD_STEP = float(np.cbrt(np.finfo(np.float64).eps))

OUTPUTS = 4
WEIGHTS = (0.5, 2.0, 0.0, 1.25)  # of classes
EACH = (0.25, 3.0, 1.0, 0.5)  # of ones among the targets
QS = (0.1, 0.5, 0.9, 0.25)

# A loss and what its targets are.
CASES: dict[str, tuple[fm.losses.Loss, str]] = {
    "poisson": (fm.Poisson(), "counts"),
    "quantile": (fm.Quantile(0.3), "values"),
    "quantiles": (fm.Quantile(QS), "values"),
    "gaussian": (fm.GaussianNLL(eps=1e-3), "values of pairs"),
    "hinge": (fm.Hinge(), "signs"),
    "perceptron": (fm.Hinge(margin=0.0), "signs"),
    "smoothed labels": (fm.CrossEntropy(label_smoothing=0.1), "labels"),
    "weighted labels": (fm.CrossEntropy(class_weight=WEIGHTS), "labels"),
    "both, labels": (
        fm.CrossEntropy(label_smoothing=0.2, class_weight=WEIGHTS),
        "labels",
    ),
    "smoothed shares": (fm.CrossEntropy(label_smoothing=0.1), "shares"),
    "both, shares": (
        fm.CrossEntropy(label_smoothing=0.2, class_weight=WEIGHTS),
        "shares",
    ),
    "weighted ones": (fm.BinaryCrossEntropy(pos_weight=3.0), "fractions"),
    "each weighted": (fm.BinaryCrossEntropy(pos_weight=EACH), "fractions"),
    "action, mse": (fm.ActionValue(fm.MSE()), "actions"),
    "action, huber": (fm.ActionValue(fm.Huber(0.5)), "actions"),
}
NAMES = tuple(CASES)
each_case = pytest.mark.parametrize("name", NAMES)


def targets(what: str, rng: np.random.Generator, rows: int, dtype: Any) -> Any:
    values = rng.standard_normal((rows, OUTPUTS)).astype(dtype)
    labels = rng.integers(0, OUTPUTS, rows)
    if what == "actions":
        return labels, values[:, 0].copy()
    return {
        "values": values,
        "values of pairs": values[:, : OUTPUTS // 2].copy(),
        "counts": rng.poisson(2.0, (rows, OUTPUTS)).astype(dtype),
        "signs": np.where(values > 0, 1, -1).astype(dtype),
        "fractions": rng.uniform(size=(rows, OUTPUTS)).astype(dtype),
        "shares": rng.dirichlet(np.ones(OUTPUTS), rows).astype(dtype),
        "labels": labels,
    }[what]


def problem(name: str, dtype: Any = np.float64, rows: int = 11) -> tuple[Any, Any, Any]:
    """Predictions, targets and weights of rows."""
    rng = np.random.default_rng(SEED)
    pred = (1.5 * rng.standard_normal((rows, OUTPUTS))).astype(dtype)
    if name == "gaussian":
        pred[0, OUTPUTS // 2 :] = -8.0  # a variance below the least
    return pred, targets(CASES[name][1], rng, rows, dtype), rng.uniform(0, 2, rows)


def with_reduction(loss: fm.losses.Loss, reduction: str) -> fm.losses.Loss:
    if isinstance(loss, fm.ActionValue):
        return fm.ActionValue(with_reduction(loss.loss, reduction))
    return type(loss)(**{**loss._arguments(), "reduction": reduction})


def in_reference(loss: fm.losses.Loss) -> Any:
    if isinstance(loss, fm.ActionValue):
        return reference.ActionValue(in_reference(loss.loss))
    return getattr(reference, type(loss).__name__)(**loss._arguments())


def assert_close(actual: Any, wanted: Any, dtype: Any) -> None:
    scale = max(1.0, float(np.abs(wanted).max()))
    bound = ROUNDINGS * float(np.finfo(dtype).eps) * scale
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=bound)


def same(a: Any, b: Any) -> bool:
    """To the bit."""
    if isinstance(a, tuple):
        return all(same(*pair) for pair in zip(a, b, strict=True))
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


# ------------------------------------------------------------------------- formulas


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


def torch_loss(torch: Any, name: str, p: Any, y: Any, reduction: str) -> Any:
    """What PyTorch says, by its own loss where it has one."""
    functional = torch.nn.functional
    how = {"reduction": reduction}
    loss = CASES[name][0]

    def tensor(values: Any) -> Any:
        return torch.as_tensor(values, dtype=p.dtype)

    if name == "poisson":
        return functional.poisson_nll_loss(p, tensor(y), **how)
    if name == "gaussian":
        mean, log_variance = p.chunk(2, dim=1)
        y, variance = tensor(y), log_variance.exp()
        return functional.gaussian_nll_loss(mean, y, variance, eps=loss.eps, **how)
    if isinstance(loss, fm.CrossEntropy):
        labels = y.ndim == 1
        return functional.cross_entropy(
            p,
            torch.as_tensor(y) if labels else tensor(y),
            weight=None if loss.class_weight is None else tensor(loss.class_weight),
            label_smoothing=loss.label_smoothing,
            **how,
        )
    if isinstance(loss, fm.BinaryCrossEntropy):
        return functional.binary_cross_entropy_with_logits(
            p, tensor(y), pos_weight=tensor(loss.pos_weight), **how
        )
    if isinstance(loss, fm.ActionValue):
        chosen = p.gather(1, torch.as_tensor(y[0])[:, None])[:, 0]
        if isinstance(loss.loss, fm.MSE):
            return functional.mse_loss(chosen, tensor(y[1]), **how)
        return functional.huber_loss(chosen, tensor(y[1]), delta=0.5, **how)
    if isinstance(loss, fm.Hinge):  # torch's, with its two sides exchanged
        terms = (loss.margin - tensor(y) * p).clamp(min=0)
    else:
        r, q = tensor(y) - p, tensor(loss.q)
        terms = torch.maximum(q * r, (q - 1) * r)
    return terms.mean() if reduction == "mean" else terms.sum()


@each_case
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_against_torch(name: str, reduction: str, dtype: type) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is what is compared with")
    loss = with_reduction(CASES[name][0], reduction)
    pred, y, _ = problem(name, dtype, rows=23)
    p = torch.tensor(pred, requires_grad=True)
    wanted = torch_loss(torch, name, p, y, reduction)
    wanted.backward()
    value, grad = loss.value_and_grad(pred, y)
    assert_close(value, wanted.item(), dtype)
    assert_close(grad, p.grad.numpy(), dtype)


@each_case
def test_gradient_by_finite_differences(name: str) -> None:
    loss = CASES[name][0]
    pred, y, weight = problem(name)
    if name == "gaussian":  # where the least variance is not reached
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
        return pytest.approx(value, rel=ROUNDINGS * np.finfo(np.float64).eps)

    assert fm.Poisson()([[0.0]], [[3.0]]) == 1.0
    assert fm.Poisson()([[np.log(2.0)]], [[3.0]]) == close(2 - 3 * np.log(2))
    assert fm.Quantile(0.25)([[1.0], [5.0]], [[3.0], [3.0]]) == close((0.5 + 1.5) / 2)
    assert fm.Quantile()([[1.0]], [[3.0]]) == fm.MAE()([[1.0]], [[3.0]]) / 2
    assert fm.GaussianNLL()([[1.0, np.log(4.0)]], [[3.0]]) == close(np.log(4) / 2 + 0.5)
    assert fm.Hinge()([[0.25], [-2.0], [3.0]], [[1], [1], [1]]) == close(3.75 / 3)
    # Two equal logits: log 2 whatever the smoothing; weights 1 and 3 cancel in a mean.
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


def test_plain_losses_are_what_they_were() -> None:
    """Options at their neutral values choose the kernels without them."""
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
    # With other kernels, the same but for roundings.
    pred, y, _ = problem("weighted labels")
    weighted = fm.CrossEntropy(class_weight=[2.0] * OUTPUTS)
    assert_close(weighted(pred, y), fm.CrossEntropy()(pred, y), np.float64)


@pytest.mark.parametrize("p", [-800.0, -30.0, 30.0, 800.0])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_weighted_ones_keep_small_losses(p: float, y: float, dtype: type) -> None:
    pred, target = np.array([[p]], dtype), np.array([[y]], dtype)
    value, grad = fm.BinaryCrossEntropy(pos_weight=3.0).value_and_grad(pred, target)
    plain, plain_grad = fm.BinaryCrossEntropy().value_and_grad(pred, target)
    factor = 3.0 if y else 1.0
    rtol = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(value, factor * plain, rtol=rtol)
    # The plain slope at 1 is a difference of numbers near 1.
    atol = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(grad, factor * plain_grad, rtol=rtol, atol=atol)


# ------------------------------------------------------------------------- kernels


def kernel_calls(n: int, rows: int, dtype: type) -> dict[str, dict[str, np.ndarray]]:
    """Arguments of loss_rows by rows, and those that all rows share."""
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
    return {
        kind: {
            name: a.astype(dtype) if getattr(a, "dtype", None) == np.float64 else a
            for name, a in {**base, **given}.items()
        }
        for kind, given in kinds.items()
    }


def run(call: dict[str, Any], mode: str = "new") -> tuple[np.ndarray, np.ndarray]:
    """The losses and gradients of rows; without gradients, zeros for these."""
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
    """On all instruction sets, alone and among other rows, in place or without."""
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
        if call.get("per_output") is not None:
            exact["per_output"] = np.float64(call["per_output"])
        row_loss, dpred = np.empty(rows), np.empty((rows, n))
        reference.loss_rows(dpred, row_loss, **exact)
        for actual, expected in zip(wanted, (row_loss, dpred), strict=True):
            np.testing.assert_allclose(
                actual,
                expected,
                rtol=ROUNDINGS * np.finfo(dtype).eps,
                atol=ROUNDINGS * np.finfo(dtype).eps * 30 * n,  # pred goes up to 30
                err_msg=kind,
            )
        for isa in fm.available_isas():
            with fm.use_isa(isa):
                assert same(run(call), wanted), (kind, isa)
                assert same(run(call, "in place"), wanted), (kind, isa)
                assert same(run(call, "none")[0], wanted[0]), (kind, isa)
                # So few that rows are taken one by one, and so many that they are not.
                for first, last in ((0, 1), (1, 3), (3, 20), (20, 70)):
                    part = run(some_rows(call, slice(first, last)))
                    for a, b in zip(part, wanted, strict=True):
                        assert same(a, b[first:last]), (kind, isa, first)
        empty = run(some_rows(call, slice(0, 0)))
        assert [a.size for a in empty] == [0, 0]


def test_masked_logits(isa: str, dtype: type) -> None:
    """A logit of -inf takes a class out, if it has no weight in the target."""
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


# -------------------------------------------------------------------------- weights


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


# ---------------------------------------------------------------------- small sizes


@each_case
@pytest.mark.parametrize("rows", [1, 2, 17])
def test_few_rows(name: str, rows: int, isa: str, dtype: type) -> None:
    pred, y, weight = problem(name, dtype, rows)
    loss = CASES[name][0]
    if CASES[name][1] == "labels":
        y = np.where(y == 2, 1, y)  # whose class weighs something
    value, grad = loss.value_and_grad(pred, y, weight)
    with fm.use_isa("scalar"):
        assert same(loss.value_and_grad(pred, y, weight)[1], grad)
        assert loss(pred, y, weight) == value


@each_case
def test_no_rows_are_refused(name: str) -> None:
    pred, y, _ = problem(name)
    y = tuple(a[:0] for a in y) if isinstance(y, tuple) else y[:0]
    with pytest.raises(ValueError, match=r"^pred must have shape.*zero"):
        CASES[name][0](pred[:0], y)


# ------------------------------------------------------------------------ bad input


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
            "^loss must be of one prediction",
        ),
        (
            lambda: fm.ActionValue(fm.GaussianNLL()),
            ValueError,
            "^loss must be of one prediction",
        ),
        (
            lambda: fm.ActionValue(fm.Quantile([0.1, 0.9])),
            ValueError,
            "^loss must be of one prediction",
        ),
        (lambda: fm.ActionValue(fm.MSE), TypeError, "^loss must be a fastmlp Loss"),
        (
            lambda: fm.ActionValue(fm.ActionValue(fm.MSE())),
            TypeError,
            "^loss must be a fastmlp Loss",
        ),
        (lambda: fm.CustomLoss(3), TypeError, "^function must be a function"),
        (lambda: fm.CustomLoss(fm.MSE()), TypeError, "^function must be a function"),
        (lambda: fm.Poisson(reduction="avg"), ValueError, "^reduction must be one of"),
    ],
)
def test_bad_arguments(make: Callable[[], Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def bad_targets() -> list[tuple[fm.losses.Loss, Any, type[Exception], str]]:
    """For predictions (6, 4)."""
    v = np.zeros((6, 4))
    action = fm.ActionValue(fm.MSE())
    a = np.zeros(6, int)
    return [
        (fm.CrossEntropy(class_weight=[1, 2]), a, ValueError, "class_weight has 2"),
        (fm.Quantile([0.1, 0.9]), v, ValueError, "q has 2 numbers, for 4 outputs"),
        (fm.BinaryCrossEntropy(pos_weight=[1]), v, ValueError, "pos_weight has 1"),
        (fm.GaussianNLL(), v, ValueError, r"must have shape \(6, 2\)"),
        (fm.Poisson(), a, ValueError, r"must have shape \(6, 4\)"),
        (action, v, TypeError, r"must be \(actions, values\)"),
        (action, (a,), TypeError, r"must be \(actions, values\)"),
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
        (fm.Hinge(), [[0.0], [1.0]], r"-1 or 1 for Hinge.*row 0; 2 \* y - 1"),
        (fm.Hinge(), [[1.0], [2.0]], "-1 or 1 for Hinge.*row 1$"),
        (fm.Poisson(), [[1.0], [-1.0]], "counts, none negative.*row 1$"),
        (fm.Quantile(), [[1.0], [np.nan]], "^y must be finite"),
        (fm.ActionValue(fm.MSE()), ([0, 0], [1.0, np.inf]), "values must be finite"),
    ],
    ids=["zeros", "twos", "negative", "nan", "action"],
)
def test_fit_looks_at_targets(loss: Any, y: Any, words: str) -> None:
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
        with pytest.raises(ValueError, match=r"2 \* targets\) for GaussianNLL"):
            fm.GaussianNLL()(pred, np.zeros(5))
    mlp = fm.MLP([2, 3], seed=0)
    with pytest.raises(ValueError, match="GaussianNLL"):
        mlp.evaluate(np.zeros((5, 2)), np.zeros(5), fm.GaussianNLL())


def test_the_core_refuses_what_it_cannot_do() -> None:
    """Also where Python has not looked: from C++, or past the front door."""
    p, one = np.zeros((2, 3)), np.ones(2)
    y = (np.zeros(2, np.int64), one)
    for core, target, words in [
        (_core.Loss("gaussian_nll"), np.zeros((2, 1)), "a mean and a log variance"),
        (_core.Loss("cross_entropy", action=True), y, "one prediction and one value"),
        (_core.Loss("quantile", per_output=[0.5]), p, "q has 1 numbers, for 3 outputs"),
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


# ------------------------------------------------------------------------- training


def network(dtype: Any, seed: int = 0) -> fm.MLP:
    return fm.MLP([3, 8, OUTPUTS], activation="tanh", dtype=dtype, seed=seed)


def inputs(rows: int, dtype: Any) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal((rows, 3)).astype(dtype)


def rows_of(y: Any, rows: Any) -> Any:
    return tuple(a[rows] for a in y) if isinstance(y, tuple) else y[rows]


@each_case
def test_network_gradient(name: str, isa: str) -> None:
    """value_and_grad and evaluate are the loss of the predictions, and its gradient."""
    loss = CASES[name][0]
    rows = 41
    _, y, weight = problem(name, np.float64, rows)
    mlp, x = network("float64"), inputs(rows, "float64")
    for w in (None, weight):
        value, grads = mlp.value_and_grad(x, y, loss, w)
        assert value == mlp.evaluate(x, y, loss, w)
        wanted, dy = loss.value_and_grad(mlp(x), y, w)
        assert_close(value, wanted, np.float64)
        assert_close(grads, mlp.vjp(x, dy)[2], np.float64)


@each_case
def test_fit_is_steps_on_shuffled_rows(name: str, dtype: type) -> None:
    loss, rows, batch = CASES[name][0], 53, 16
    _, y, weight = problem(name, dtype, rows)
    x = inputs(rows, dtype)
    for w in (None, weight):
        mlp, other = network(dtype), network(dtype)
        history = mlp.fit(
            x,
            y,
            loss=loss,
            optimizer=fm.Adam(lr=0.01),
            epochs=2,
            batch_size=batch,
            sample_weight=w,
            validation_data=(x, y) if w is None else (x, y, w),
            seed=5,
            progress=False,
        )
        optimizer = fm.Adam(lr=0.01)
        for epoch in range(2):
            order = np.arange(rows)
            kernels.shuffle(order, 5, epoch)
            values, shares = [], []
            for first in range(0, rows, batch):
                r = order[first : first + batch]
                args = (x[r], rows_of(y, r), loss, optimizer)
                step = other.train_step(*args, None if w is None else w[r])
                values.append(step)
                share = np.ones(len(r)) if w is None else w[r].astype(dtype)
                if CASES[name][1] == "labels" and loss.class_weight is not None:
                    share = share * np.take(WEIGHTS, y[r])
                shares.append(share.sum(dtype=np.float64))
            wanted = np.average(values, weights=shares)
            assert_close(history.loss[epoch], wanted, np.float64)
        assert same(mlp.params, other.params)
        assert history.val_loss[-1] == mlp.evaluate(x, y, loss, w)


@each_case
def test_fit_is_that_of_the_reference(name: str) -> None:
    loss, rows = CASES[name][0], 30
    _, y, _ = problem(name, np.float64, rows)
    x = inputs(rows, np.float64)
    histories = []
    for lib, what in ((fm, loss), (reference, in_reference(loss))):
        mlp = lib.MLP([3, 8, OUTPUTS], activation="tanh", dtype="float64", seed=3)
        history = mlp.fit(
            x,
            y,
            loss=what,
            optimizer=lib.SGD(lr=0.05),
            epochs=3,
            batch_size=7,
        )
        histories.append(history.loss)
    tolerance = TOLERANCE["network"].of(np.float64)
    np.testing.assert_allclose(*histories, rtol=tolerance, atol=tolerance)


@each_case
def test_threads_do_not_show(name: str) -> None:
    loss, widths, rows = CASES[name][0], [3, 64, 64, OUTPUTS], 8000
    rng = np.random.default_rng(SEED)
    x = rng.standard_normal((rows, 3)).astype("float32")
    y = targets(CASES[name][1], rng, rows, np.float32)
    weight = rng.uniform(0, 2, rows).astype("float32")
    found = set()
    counts = thread_counts(fm.isa())
    for n in counts:
        with fm.threads(n):
            assert_threaded(training_flops(widths, rows // 2), rows // 2)
            mlp = fm.MLP(widths, activation="tanh", seed=0)
            history = mlp.fit(
                x,
                y,
                loss=loss,
                optimizer=fm.SGD(lr=0.01),
                epochs=2,
                batch_size=rows // 2,
                sample_weight=weight,
                seed=1,
                progress=False,
            )
            last = mlp.evaluate(x, y, loss, weight)
        found.add((mlp.params.tobytes(), tuple(history.loss), last))
    assert len(found) == 1


@each_case
def test_instruction_sets_do_not_show(name: str) -> None:
    loss, rows = CASES[name][0], 45
    _, y, weight = problem(name, np.float32, rows)
    x = inputs(rows, "float32")
    found = set()
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            mlp = network("float32")
            optimizer = fm.Adam(lr=0.01)
            values = [mlp.train_step(x, y, loss, optimizer, weight) for _ in range(4)]
            values.append(mlp.evaluate(x, y, loss))
        found.add((mlp.params.tobytes(), tuple(values)))
    assert len(found) == 1


def test_divergence_names_the_targets() -> None:
    mlp = network("float64")
    x = inputs(6, "float64")
    y = np.zeros((6, OUTPUTS // 2))
    y[4, 1] = np.nan
    with pytest.raises(fm.DivergenceError, match=r"y holds a value .* in row 4\b"):
        mlp.train_step(x, y, fm.GaussianNLL(), fm.SGD(lr=0.1))
    values = (np.zeros(6, int), y[:, 1])
    with pytest.raises(fm.DivergenceError, match=r"y holds a value .* in row 4\b"):
        mlp.train_step(x, values, fm.ActionValue(fm.MSE()), fm.SGD(lr=0.1))


def test_losses_find_what_they_are_for() -> None:
    """Rates, quantiles and variances of data whose own are known."""
    rng = np.random.default_rng(SEED)
    n = 4000
    x = np.zeros((n, 1))
    settings: dict[str, Any] = {
        "optimizer": fm.Adam(lr=0.02),
        "epochs": 60,
        "batch_size": 500,
        "progress": False,
    }

    def constants(loss: fm.losses.Loss, y: np.ndarray, outputs: int) -> np.ndarray:
        mlp = fm.MLP([1, outputs], dtype="float64", seed=0)
        mlp.fit(x, y, loss=loss, **{**settings, "optimizer": fm.Adam(lr=0.02)})
        return mlp(x[0])

    # To a few times what the last steps wander.
    counts = rng.poisson(3.0, (n, 1)).astype(float)
    rate = np.exp(constants(fm.Poisson(), counts, 1)[0])
    assert rate == pytest.approx(counts.mean(), rel=0.02)
    normal = 2 + 0.5 * rng.standard_normal(n)
    mean, log_variance = constants(fm.GaussianNLL(), normal, 2)
    assert mean == pytest.approx(normal.mean(), abs=0.03)
    assert np.exp(log_variance) == pytest.approx(normal.var(), rel=0.1)
    found = constants(fm.Quantile([0.1, 0.5, 0.9]), normal, 3)
    np.testing.assert_allclose(
        found, np.quantile(normal, [0.1, 0.5, 0.9]), rtol=0, atol=0.05
    )


# ------------------------------------------------------------------- worked examples


def test_perceptron() -> None:
    """Rosenblatt's rule: w += y x after each mistake, from w = 0; logical OR is learnt.

    Hinge(margin=0) with a learning rate of 1, one example at a time.
    """
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
    y = np.array([-1, 1, 1, 1], float)
    w, b = np.zeros(2), 0.0
    mlp = fm.MLP([2, fm.Dense(1, init="zeros")], dtype="float64", seed=0)
    optimizer = fm.SGD(lr=1.0)
    for _ in range(5):
        for xi, yi in zip(x, y, strict=True):
            if yi * (xi @ w + b) <= 0:
                w, b = w + yi * xi, b + yi
            mlp.train_step(xi[np.newaxis], [yi], fm.Hinge(margin=0.0), optimizer)
            np.testing.assert_array_equal(mlp.params, [*w, b])
    np.testing.assert_array_equal(np.sign(mlp(x))[:, 0], y)


def test_q_learning_update() -> None:
    """θ += lr ∂Q(x, u)/∂θ [r + g max Q(x', ·) - Q(x, u)], the target held fixed.

    The squared error's gradient has a factor 2, so its learning rate is half of that.
    """
    rng = np.random.default_rng(SEED)
    states, actions = 5, 3
    mlp = fm.MLP([states, 7, actions], activation="tanh", dtype="float64", seed=0)
    x, x_next = rng.standard_normal((2, 1, states))
    u, reward, gamma, alpha = 1, 0.5, 0.9, 0.1

    # By hand, with the gradient of the one value.
    target = reward + gamma * mlp(x_next).max()
    chosen = np.zeros((1, actions))
    chosen[0, u] = 1
    q, _, dq = mlp.vjp(x, chosen)
    wanted = mlp.params + alpha * dq * (target - q[0, u])

    loss = fm.ActionValue(fm.MSE())
    error = mlp.train_step(x, ([u], [target]), loss, fm.SGD(lr=alpha / 2))
    assert error == pytest.approx((target - q[0, u]) ** 2)
    rtol = TOLERANCE["update"].of(np.float64)
    np.testing.assert_allclose(mlp.params, wanted, rtol=rtol, atol=rtol)


def test_q_learning_of_a_corridor() -> None:
    """Five places in a row, a reward at the right end: the discounts are found."""
    places, gamma = 5, 0.5
    state = np.repeat(np.arange(places - 1), 2)
    action = np.tile([0, 1], places - 1)  # left, right
    following = np.clip(state + 2 * action - 1, 0, None)
    reward = (following == places - 1).astype(float)
    one_hot = np.eye(places)
    mlp = fm.MLP([places, fm.Dense(2, init="zeros")], dtype="float64", seed=0)
    optimizer, loss = fm.SGD(lr=1.0), fm.ActionValue(fm.MSE())
    for _ in range(400):
        ends = following == places - 1
        ahead = np.where(ends, 0, mlp(one_hot[following]).max(axis=1))
        y = (action, reward + gamma * ahead)
        mlp.train_step(one_hot[state], y, loss, optimizer)
    best = mlp(one_hot[:-1]).max(axis=1)
    np.testing.assert_allclose(best, gamma ** np.arange(3, -1, -1), atol=1e-4)


# --------------------------------------------------------------------- custom losses


def squares(pred: np.ndarray, y: Any, weight: Any = None) -> tuple[Any, np.ndarray]:
    """MSE, as a function."""
    r = pred - y
    w = np.ones(len(r)) if weight is None else weight
    w = (w / w.sum() / r.shape[1])[:, np.newaxis]
    return (w * r * r).sum(), 2 * w * r


def unweighted(pred: np.ndarray, y: Any) -> tuple[float, np.ndarray]:
    return squares(pred, y)


def test_a_function_is_a_loss(dtype: type) -> None:
    x, (_, y, weight) = inputs(9, dtype), problem("quantile", dtype, 9)
    weight = weight.astype(dtype)
    mlp = network(dtype)
    for w in (None, weight):
        for loss in (squares, fm.CustomLoss(squares), losses.as_loss(squares)):
            value, grads = mlp.value_and_grad(x, y, loss, w)
            wanted, wanted_grads = mlp.value_and_grad(x, y, fm.MSE(), w)
            assert type(value) is float
            assert grads.dtype == dtype
            assert_close(value, wanted, dtype)
            assert_close(grads, wanted_grads, dtype)
            assert_close(mlp.evaluate(x, y, loss, w), wanted, dtype)


def test_a_function_trains() -> None:
    x, (_, y, weight) = inputs(20, "float64"), problem("quantile", rows=20)
    nets = [network("float64") for _ in range(2)]
    tools = [(squares, fm.Adam(lr=0.01)), (fm.MSE(), fm.Adam(lr=0.01))]
    for _ in range(10):
        values = [
            mlp.train_step(x, y, loss, optimizer, weight)
            for mlp, (loss, optimizer) in zip(nets, tools, strict=True)
        ]
        assert_close(*values, np.float64)
    tolerance = TOLERANCE["network"].of(np.float64)
    np.testing.assert_allclose(
        nets[0].params, nets[1].params, rtol=tolerance, atol=tolerance
    )
    assert tools[0][1].step_count == 10


def test_a_function_trains_in_training_mode() -> None:
    """Batch statistics, and running ones that move, as for the core's losses."""
    x, (_, y, _) = inputs(20, "float64"), problem("quantile", rows=20)
    found = []
    for loss in (squares, fm.MSE()):
        layers = [3, 6, fm.BatchNorm(), OUTPUTS]
        mlp = fm.MLP(layers, activation="tanh", dtype="float64", seed=0)
        optimizer = fm.SGD(lr=0.1)
        for _ in range(3):
            mlp.train_step(x, y, loss, optimizer)
        value, grads = mlp.value_and_grad(x, y, loss, training=True)
        found.append([mlp.params.copy(), mlp.buffers.copy(), value, grads])
    tolerance = TOLERANCE["network"].of(np.float64)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_a_function_gets_targets_as_they_are() -> None:
    class Anything:
        goal = 1.0

    seen = []

    def loss(pred: np.ndarray, target: Anything) -> tuple[Any, np.ndarray]:
        seen.append((pred.shape, pred.dtype, target))
        r = pred - target.goal
        return np.float32((r * r).sum()), 2 * r

    mlp, what = network("float32"), Anything()
    mlp.train_step(inputs(3, "float32"), what, loss, fm.SGD(lr=0.1))
    mlp.evaluate(inputs(3, "float64"), what, loss)
    assert seen == [((3, OUTPUTS), np.float32, what)] * 2
    assert fm.CustomLoss(loss)(np.zeros(4), what) == 4.0


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda p, _: 1.0, TypeError, r"must return \(value, gradient\), got 1.0"),
        (lambda p, _: (1.0, p, p), TypeError, r"must return \(value, gradient\)"),
        (lambda p, _: (p, p), ValueError, "value must be one number, got a float64"),
        (lambda p, _: ("1", p), TypeError, "value must hold real numbers"),
        (lambda p, _: (1.0, p[:-1]), ValueError, r"shape of pred, \(5, 4\), got"),
        (lambda p, _: (1.0, None), TypeError, "gradient must hold real numbers"),
    ],
)
def test_what_a_function_returns_is_checked(
    function: Any, error: Any, words: str
) -> None:
    mlp, x = network("float64"), inputs(5, "float64")
    before = mlp.params.copy()
    for call in (
        lambda: fm.CustomLoss(function)(np.zeros((5, 4)), None),
        lambda: mlp.value_and_grad(x, None, function),
        lambda: mlp.train_step(x, None, function, fm.SGD(lr=0.1)),
        lambda: mlp.evaluate(x, None, function),
    ):
        with pytest.raises(error, match=f"^the loss function.*{words}"):
            call()
    assert same(mlp.params, before)


def test_weights_need_a_third_argument() -> None:
    mlp, x = network("float64"), inputs(5, "float64")
    y, weight = np.zeros((5, OUTPUTS)), np.ones(5)
    with pytest.raises(TypeError, match=r"^sample_weight is for a loss function with"):
        mlp.value_and_grad(x, y, unweighted, weight)
    with pytest.raises(ValueError, match=r"^sample_weight must not be all zero"):
        mlp.value_and_grad(x, y, squares, 0 * weight)
    with pytest.raises(ValueError, match=r"^sample_weight must have shape \(5,\)"):
        mlp.evaluate(x, y, squares, weight[1:])


def test_errors_of_a_function_are_the_callers() -> None:
    def fails(pred: np.ndarray, target: Any) -> Any:
        raise ZeroDivisionError("mine")

    mlp = network("float64")
    with pytest.raises(ZeroDivisionError, match=r"^mine$"):
        mlp.train_step(inputs(5, "float64"), None, fails, fm.SGD(lr=0.1))


@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_function_that_diverges_takes_no_step(where: str) -> None:
    def loss(pred: np.ndarray, target: Any) -> tuple[float, np.ndarray]:
        grad = np.ones_like(pred)
        grad[1, 1] = np.inf if where == "gradient" else 1.0
        return np.nan if where == "value" else 1.0, grad

    mlp, optimizer = network("float32"), fm.Adam()
    before = mlp.params.copy()
    value, _ = mlp.value_and_grad(inputs(5, "float32"), None, loss)
    assert np.isnan(value) == (where == "value")
    with pytest.raises(fm.DivergenceError, match="diverged at step 1"):
        mlp.train_step(inputs(5, "float32"), None, loss, optimizer)
    assert same(mlp.params, before)
    assert optimizer.step_count == 0


def test_custom_losses_are_values() -> None:
    loss = fm.CustomLoss(unweighted)
    assert loss == losses.as_loss(unweighted) == pickle.loads(pickle.dumps(loss))
    assert hash(loss) == hash(losses.as_loss(unweighted))
    assert loss != fm.CustomLoss(squares)
    assert loss != fm.CustomLoss(unweighted, reduction="sum")
    assert loss.reduction == "mean"
    assert loss.function is unweighted
    assert "unweighted" in repr(loss)
    assert losses.as_loss(loss) is loss
    with pytest.raises(AttributeError, match="immutable"):
        loss.reduction = "sum"


@pytest.mark.parametrize("other", ["mse", None, 3, fm.MSE, int], ids=repr)
def test_as_loss_refuses_the_rest(other: Any) -> None:
    with pytest.raises(TypeError, match=r"^loss must be a fastmlp Loss such as"):
        losses.as_loss(other)
    with pytest.raises(TypeError, match=r"^loss must be a fastmlp Loss such as"):
        network("float32").evaluate(inputs(5, "float32"), None, other)


def test_targets_that_fit_are_not_copied() -> None:
    actions, values = np.zeros(6, np.int64), np.zeros(6)
    core = fm.ActionValue(fm.MSE()).core
    found = _validate.targets("y", (actions, values), core, (6, 4), np.dtype(float))
    assert found[0] is actions
    assert found[1] is values
