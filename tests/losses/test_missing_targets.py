"""Targets that are missing: marked by NaN, by a label, or by an array."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from helpers import SEED, TOLERANCE
from loss_cases import (
    CASES,
    EACH,
    OUTPUTS,
    WEIGHTED,
    assert_close,
    in_reference,
    inputs,
    network,
    problem,
    same,
)

ROWS = 13

# The cases whose targets may be NaN, with weights of outputs where there may be some.
FLOATS = [
    name
    for name, (_, what) in CASES.items()
    if what not in ("labels", "ranks", "actions") and name not in WEIGHTED
]
LABELS = [name for name, (_, what) in CASES.items() if what in ("labels", "ranks")]


def masked(loss: Any, **options: Any) -> Any:
    return type(loss)(**{**loss._arguments(), "mask": "nan", **options})


def with_gaps(name: str, dtype: Any, rows: int = ROWS) -> tuple[Any, Any, Any]:
    """Return predictions, targets of which a third is NaN, and weights of rows."""
    pred, y, weight = problem(name, dtype, rows)
    gaps = np.random.default_rng(SEED + 1).uniform(size=y.shape) < 0.3
    gaps[3] = True  # a row without any target
    gaps[4] = False
    return pred, np.where(gaps, y.dtype.type(np.nan), y), weight


def of_rows(loss: Any) -> bool:
    return loss.core.of_rows


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", FLOATS)
def test_against_the_reference(
    name: str, weighted: bool, reduction: str, isa: str, dtype: type
) -> None:
    pred, y, w = with_gaps(name, dtype)
    options: dict[str, Any] = {"reduction": reduction}
    if weighted and not of_rows(CASES[name][0]):
        options["output_weight"] = EACH[: y.shape[1]]
    loss = masked(CASES[name][0], **options)
    for weight in (None, w):
        value, grad = loss.value_and_grad(pred, y, weight)
        exact = in_reference(loss).value_and_grad(np.float64(pred), y, weight)
        assert_close(value, exact[0], dtype)
        assert_close(grad, exact[1], dtype)
        assert value == loss(pred, y, weight)


@pytest.mark.parametrize("name", FLOATS)
def test_the_mean_is_over_the_targets_that_are_there(name: str) -> None:
    """The mean is that of the loss of each target alone."""
    pred, y, w = with_gaps(name, np.float64)
    loss = masked(CASES[name][0])
    there = ~np.isnan(y)
    if of_rows(loss):
        rows = there.all(axis=1)
        assert rows.any()
        assert not rows.all()
        alone = CASES[name][0](pred[rows], y[rows], w[rows])
        assert_close(loss(pred, y, w), alone, np.float64)
        return
    sums = masked(CASES[name][0], reduction="sum")
    count = (w[:, np.newaxis] * there).sum()
    assert_close(loss(pred, y, w), sums(pred, y, w) / count, np.float64)
    total = 0.0
    for b, o in zip(*there.nonzero(), strict=True):
        one = np.full_like(y[b : b + 1], np.nan)
        one[0, o] = y[b, o]
        total += w[b] * sums(pred[b : b + 1], one)
    assert_close(sums(pred, y, w), total, np.float64)


@pytest.mark.parametrize("name", FLOATS)
def test_a_missing_target_has_the_gradient_0(name: str, isa: str, dtype: type) -> None:
    pred, y, _ = with_gaps(name, dtype)
    loss = masked(CASES[name][0])
    missing = np.isnan(y)
    if of_rows(loss):
        missing = np.broadcast_to(missing.any(axis=1, keepdims=True), pred.shape)
    columns = np.tile(missing, pred.shape[1] // missing.shape[1])
    if name == "quantile steps":  # a step moves the quantiles after it as well
        columns = np.minimum.accumulate(missing[:, ::-1], axis=1)[:, ::-1]
    pred[columns] = np.nan  # what is predicted there does not matter
    if of_rows(loss) or name != "quantile steps":
        value, grad = loss.value_and_grad(pred, y)
        assert np.isfinite(value)
        assert same(grad[columns], np.zeros_like(grad[columns]))
        assert np.isfinite(grad).all()
    empty = np.full_like(y, np.nan)
    value, grad = loss.value_and_grad(np.nan_to_num(pred), empty)
    assert value == 0.0
    assert same(grad, np.zeros_like(grad))


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 16, 17, 300])
def test_without_gaps_the_bits_are_the_same(name: str, n: int, isa: str) -> None:
    loss, what = CASES[name]
    if loss.core.per_output or what == "values of pairs" or (n == 1 and of_rows(loss)):
        return
    rng = np.random.default_rng([SEED, n])
    pred = rng.standard_normal((9, n))
    y = abs(rng.standard_normal((9, n)))
    if what == "signs":
        y = np.sign(y - 1)
    elif what in ("bits", "fractions", "shares", "log shares"):
        y /= y.sum(axis=1, keepdims=True)
    value, grad = loss.value_and_grad(pred, y)
    other, other_grad = masked(loss).value_and_grad(pred, y)
    assert value == other
    assert same(grad, other_grad)


@pytest.mark.parametrize("name", [*FLOATS, *LABELS])
@pytest.mark.parametrize("by", ["element", "row"])
def test_an_array_marks_what_nan_marks(name: str, by: str, dtype: type) -> None:
    pred, y, w = problem(name, dtype, ROWS)
    loss = CASES[name][0]
    rng = np.random.default_rng(SEED + 2)
    there = rng.uniform(size=y.shape if by == "element" else ROWS) < 0.6
    value, grad = loss.value_and_grad(pred, y, w, mask=there)
    assert loss(pred, y, w, mask=there) == value
    rows = there if there.ndim == y.ndim else there[:, np.newaxis]
    if name in LABELS:
        marked = type(loss)(**{**loss._arguments(), "ignore_index": 77})
        marks = np.where(rows, y, 77)
        kept = there.nonzero()[0]
        assert_close(value, loss(pred[kept], y[kept], w[kept]), dtype)
    else:
        marked, marks = masked(loss), np.where(rows, y, dtype(np.nan))
    assert marked(pred, marks, w) == value
    assert same(marked.value_and_grad(pred, marks, w)[1], grad)
    wanted = in_reference(loss).value_and_grad(np.float64(pred), y, w, there)
    assert_close(value, wanted[0], dtype)
    assert_close(grad, wanted[1], dtype)


def test_masks_of_other_shapes_are_refused() -> None:
    pred, y, _ = problem("quantile", np.float64)
    for mask in (
        np.ones((2, 2), bool),
        np.ones(len(y)),
        "nan",
        np.ones(len(y) + 1, bool),
    ):
        with pytest.raises(ValueError, match=r"^mask must be bool and have the shape"):
            fm.MSE()(pred, y, mask=mask)
    with pytest.raises(TypeError, match=r"^mask needs one of fastmlp's own losses"):
        fm.CustomLoss(lambda p, y: (0.0, p))(pred, y, mask=y > 0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^mask must be one of nan, got 'none'"):
        fm.MSE(mask="none")
    with pytest.raises(TypeError, match="NaN in their targets"):
        network(np.float64).fit(
            [(pred, y)],
            loss=fm.MSE(),
            optimizer=fm.SGD(0.1),
            epochs=1,
            mask=y > 0,  # type: ignore[arg-type]
        )


def test_by_default_nan_is_an_error_or_spreads() -> None:
    pred, y, _ = with_gaps("quantile", np.float64)
    assert np.isnan(fm.MSE()(pred, y))
    with pytest.raises(ValueError, match=r"^y must be finite, got nan in row"):
        network(np.float64).fit(
            inputs(ROWS, np.float64), y, loss=fm.MSE(), optimizer=fm.SGD(0.1), epochs=1
        )
    with pytest.raises(ValueError, match=r"^y must be finite, got inf in row 4"):
        network(np.float64).fit(
            inputs(ROWS, np.float64),
            np.where(np.arange(ROWS)[:, np.newaxis] == 4, np.inf, y),
            loss=fm.MSE(mask="nan"),
            optimizer=fm.SGD(0.1),
            epochs=1,
        )


NETWORK_CASES = [
    "smooth l1",
    "gaussian",
    "smoothed shares",
    "quantile steps",
    "student",
]


@pytest.mark.parametrize("name", NETWORK_CASES)
def test_networks_leave_them_out(name: str, dtype: type) -> None:
    _, y, w = with_gaps(name, dtype)
    x, loss = inputs(ROWS, dtype), masked(CASES[name][0])
    mlp, other = network(dtype), network(dtype)
    outputs = mlp(x)
    value, dy = loss.value_and_grad(outputs, y, w)
    assert_close(mlp.evaluate(x, y, loss, w), value, dtype)
    value, grads = mlp.value_and_grad(x, y, loss, w)
    assert_close(grads, mlp.vjp(x, dy)[2], dtype)
    # The same by an array, with other numbers in place of NaN.
    there = ~np.isnan(y)
    if of_rows(loss):
        there = there.all(axis=1)
    filled = np.where(np.isnan(y), y.dtype.type(0.5), y)
    plain = CASES[name][0]
    assert mlp.evaluate(x, filled, plain, w, mask=there) == mlp.evaluate(x, y, loss, w)
    again = mlp.value_and_grad(x, filled, plain, w, mask=there)
    assert again[0] == value
    assert same(again[1], grads)
    one = mlp.train_step(x, y, loss, fm.SGD(0.1), w)
    two = other.train_step(x, filled, plain, fm.SGD(0.1), w, mask=there)
    assert one == two
    assert same(mlp.params, other.params)


@pytest.mark.parametrize("name", NETWORK_CASES)
def test_fit_weighs_batches_by_their_targets(name: str) -> None:
    _, y, w = with_gaps(name, np.float64, 40)
    y[:10] = np.nan  # perhaps a batch without any target
    x, loss = inputs(40, np.float64), masked(CASES[name][0])
    mlp = network(np.float64)
    # With a learning rate of 0 the loss of an epoch is that of the whole data.
    history = mlp.fit(
        x,
        y,
        loss=loss,
        optimizer=fm.SGD(0.0),
        epochs=1,
        batch_size=7,
        sample_weight=w,
        validation_data=(x, y, w),
        shuffle=False,
    )
    wanted = mlp.evaluate(x, y, loss, w)
    assert_close(history.loss[0], wanted, np.float64)
    assert history.val_loss[0] == wanted
    nothing = np.full_like(y, np.nan)
    history = mlp.fit(
        x, nothing, loss=loss, optimizer=fm.SGD(0.1), epochs=1, batch_size=7
    )
    assert history.loss[-1] == 0.0


@pytest.mark.parametrize("name", ["smooth l1", "gaussian", "smoothed shares"])
def test_gradients_of_samples(name: str, dtype: type) -> None:
    """Each row is a batch of its own: its mean is over its own targets."""
    _, y, w = with_gaps(name, dtype)
    x, loss, mlp = inputs(ROWS, dtype), masked(CASES[name][0]), network(dtype)
    grads = mlp.per_sample_grads(x, y, loss, w)
    for b in range(ROWS):
        row = slice(b, b + 1)
        wanted = mlp.value_and_grad(x[row], y[row], loss)[1]
        assert_close(grads[b], w[b] * wanted, dtype)
    assert not grads[3].any()


@pytest.mark.parametrize("solver", [fm.LBFGS, fm.LevenbergMarquardt])
def test_solvers_leave_them_out(solver: Any) -> None:
    """A linear model: each output is a least-squares problem of its own rows."""
    rng = np.random.default_rng(SEED)
    x, y = rng.standard_normal((30, 3)), rng.standard_normal((30, 2))
    y[rng.uniform(size=y.shape) < 0.3] = np.nan
    weight = rng.uniform(0.5, 2, 30)
    mlp = fm.MLP([3, 2], dtype="float64", seed=0)
    loss = fm.MSE(mask="nan", output_weight=[1.0, 5.0])
    mlp.fit(x, y, loss=loss, optimizer=solver(), epochs=60, sample_weight=weight)
    for o in range(2):
        there = ~np.isnan(y[:, o])
        root = np.sqrt(weight[there])[:, np.newaxis]
        a = root * np.hstack([x, np.ones((30, 1))])[there]
        exact = np.linalg.lstsq(a, root[:, 0] * y[there, o], rcond=None)[0]
        found = [*mlp.weights[0][:, o], mlp.biases[0][o]]
        # The solvers stop where the gradient is small, the square root of an error.
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6)


def test_metrics_leave_them_out() -> None:
    rng = np.random.default_rng(SEED)
    x, y = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    gaps = rng.uniform(size=y.shape) < 0.4
    marked, weight = np.where(gaps, np.nan, y), rng.uniform(0.5, 2, 20)
    mlp = fm.MLP([3, 2], dtype="float64", seed=0)
    names = ["mae", "rmse", "r2"]
    history = mlp.fit(
        x,
        marked,
        loss=fm.MSE(mask="nan"),
        optimizer=fm.SGD(0.0),
        epochs=1,
        metrics=names,
        sample_weight=weight,
    )
    pred, rows = mlp(x), (~gaps).nonzero()[0]
    for name in ("mae", "rmse"):
        metric = getattr(fm.metrics, name)
        wanted = metric(pred[~gaps], y[~gaps], weight[rows])
        assert history.metrics[name][0] == pytest.approx(wanted, rel=1e-12)
    parts = [
        fm.metrics.r2(pred[~g, o], y[~g, o], weight[~g]) for o, g in enumerate(gaps.T)
    ]
    assert history.metrics["r2"][0] == pytest.approx(np.mean(parts), rel=1e-12)


def test_divergence_is_not_blamed_on_missing_targets() -> None:
    x, y = np.ones((4, 3)), np.full((4, OUTPUTS), np.nan)
    y[0] = 1e300
    with pytest.raises(fm.DivergenceError) as error:
        network(np.float64).train_step(x, y, fm.MSE(mask="nan"), fm.SGD(0.1))
    assert "y holds" not in str(error.value)
    y[1] = np.inf
    with pytest.raises(fm.DivergenceError, match="y holds a value that is not finite"):
        network(np.float64).train_step(x, y, fm.MSE(mask="nan"), fm.SGD(0.1))


def test_action_values(dtype: type) -> None:
    pred, (actions, values), w = problem("action, huber", dtype)
    there = values > 0
    loss = fm.ActionValue(fm.Huber(0.5))
    marked = fm.ActionValue(fm.Huber(0.5, mask="nan"))
    gaps = np.where(there, values, dtype(np.nan))
    value, grad = marked.value_and_grad(pred, (actions, gaps), w)
    kept = there.nonzero()[0]
    alone = loss(pred[kept], (actions[kept], values[kept]), w[kept])
    assert_close(value, alone, dtype)
    assert not grad[~there].any()
    assert loss(pred, (actions, values), w, mask=there) == value


def test_weights_of_outputs_are_relative() -> None:
    pred, y, w = problem("quantile", np.float64)
    for factor in (1.0, 7.0):
        loss = fm.MSE(output_weight=[factor * e for e in EACH])
        wanted = np.average(((pred - y) ** 2) @ EACH / sum(EACH), weights=w)
        rtol = TOLERANCE["elementwise"].of(np.float64)
        assert loss(pred, y, w) == pytest.approx(wanted, rel=rtol)
    with pytest.raises(ValueError, match="output_weight needs one number per output"):
        fm.MSE(output_weight=[1.0])(pred, y)
    with pytest.raises(ValueError, match=r"^output_weight must not be all zeros"):
        fm.MSE(output_weight=[0.0, 0.0])


@pytest.mark.parametrize(
    ("loss", "n_out", "predict"),
    [
        (fm.Ordinal(), 2, lambda z: (z > 0).sum(axis=1)),
        (fm.Focal(), 3, lambda z: z.argmax(axis=1)),
        (fm.MultiMargin(), 3, lambda z: z.argmax(axis=1)),
    ],
    ids=["ordinal", "focal", "multi margin"],
)
def test_accuracy_of_classes(loss: Any, n_out: int, predict: Any) -> None:
    rng = np.random.default_rng(SEED)
    x, y = rng.standard_normal((40, 3)), rng.integers(0, 3, 40)
    mlp = fm.MLP([3, n_out], seed=0)
    history = mlp.fit(
        x, y, loss=loss, optimizer=fm.SGD(0.0), epochs=1, metrics=["accuracy"]
    )
    assert history.metrics["accuracy"][0] == np.mean(predict(mlp(x)) == y)


def test_metrics_compare_what_densities_predict() -> None:
    rng = np.random.default_rng(SEED)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    how: Any = {"epochs": 1, "metrics": ["mae"]}
    mlp = fm.MLP([3, 12], dtype="float64", seed=0)
    found = mlp.fit(
        x, y, loss=fm.MixtureDensity(2), optimizer=fm.SGD(0.0), **how
    ).metrics["mae"][0]
    logits, means, _ = mlp(x).reshape(40, 3, 2, 2).swapaxes(0, 1)
    share = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    wanted = abs((share * means).sum(axis=-1) - y).mean()
    assert found == pytest.approx(wanted, rel=1e-12)
    mlp = fm.MLP([3, 4], dtype="float64", seed=0)
    found = mlp.fit(x, y, loss=fm.StudentTNLL(), optimizer=fm.SGD(0.0), **how).metrics[
        "mae"
    ][0]
    assert found == pytest.approx(abs(mlp(x)[:, :2] - y).mean(), rel=1e-12)
    loss = fm.Quantile([0.1, 0.5, 0.7, 0.9], non_crossing=True)
    found = mlp.fit(x, y[:, 0], loss=loss, optimizer=fm.SGD(0.0), **how).metrics["mae"][
        0
    ]
    steps = np.log1p(np.exp(mlp(x)[:, 1:]))
    levels = np.hstack([mlp(x)[:, :1], steps]).cumsum(axis=1)
    np.testing.assert_allclose(loss.quantiles(mlp(x)), levels, rtol=1e-12)
    assert found == pytest.approx(abs(levels - y[:, :1]).mean(), rel=1e-12)
