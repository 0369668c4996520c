"""Options of the core's epochs that fit lacks: chosen rows, L2 penalty, scaled losses.

The estimators for scikit-learn use these options.
"""

from __future__ import annotations

import copy
import pickle
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, reference
from fastmlp.losses import with_scale
from helpers import TOLERANCE, assert_threaded, thread_counts, training_flops

N_IN, N_OUT, ROWS = 5, 4, 37
L2 = 0.3

# The factor is applied to the divisor, once for the value and once for the rows'
# scales: a handful of roundings, relative to the largest element.
SCALED_ULPS = 8
# Five steps of tens of roundings each in float64, relative to the largest parameter.
STEPS_RTOL = 1e-12
# Error of a central difference in float64 with step 1e-5, for slopes of size one.
DIFFERENCE_ATOL = 1e-8

CLASSES = (0.5, 1.0, 2.0, 0.1)
LOSSES: dict[str, tuple[Any, str]] = {
    "mse": (fm.MSE, "values"),
    "mae": (fm.MAE, "values"),
    "huber": (lambda **r: fm.Huber(0.5, **r), "values"),
    "pseudo_huber": (lambda **r: fm.PseudoHuber(0.5, **r), "values"),
    "quantiles": (lambda **r: fm.Quantile([0.1, 0.5, 0.6, 0.9], **r), "values"),
    "gaussian": (fm.GaussianNLL, "halves"),
    "poisson": (fm.Poisson, "counts"),
    "hinge": (fm.Hinge, "signs"),
    "binary": (lambda **r: fm.BinaryCrossEntropy(pos_weight=2.0, **r), "fractions"),
    "labels": (
        lambda **r: fm.CrossEntropy(label_smoothing=0.1, class_weight=CLASSES, **r),
        "labels",
    ),
    "probabilities": (fm.CrossEntropy, "shares"),
    "actions": (lambda **r: fm.ActionValue(fm.Huber(0.5, **r)), "actions"),
}


def targets(what: str, rows: int, dtype: Any) -> Any:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((rows, N_OUT)).astype(dtype)
    labels = rng.integers(0, N_OUT, rows)
    fractions = rng.uniform(size=(rows, N_OUT)).astype(dtype)
    return {
        "values": values,
        "halves": values[:, : N_OUT // 2].copy(),
        "counts": rng.poisson(2.0, (rows, N_OUT)).astype(dtype),
        "signs": np.sign(values),
        "fractions": fractions,
        "shares": fractions / fractions.sum(axis=1, keepdims=True),
        "labels": labels,
        "actions": (labels, values[:, 0].copy()),
    }[what]


def data(rows: int, dtype: Any) -> tuple[Any, Any, Any]:
    """Return inputs, targets and weights."""
    x = np.random.default_rng(6).standard_normal((rows, N_IN)).astype(dtype)
    return x, targets("values", rows, dtype), np.linspace(0.5, 2, rows).astype(dtype)


def layers(library: Any) -> list[Any]:
    """Return norms, blocks with and without projection, a last layer without bias."""
    lib = library
    body = [lib.Dense(7, activation="tanh"), lib.LayerNorm(), lib.Dense(6)]
    return [
        N_IN,
        lib.Dense(6, activation="gelu"),
        lib.BatchNorm(),
        lib.Residual(body),
        lib.Residual([lib.LayerNorm(affine=False), lib.Dense(9, activation="tanh")]),
        lib.Dense(N_OUT, activation="identity", bias=False),
    ]


def network(dtype: Any = "float64", library: Any = fm) -> Any:
    mlp = library.MLP(layers(library), dtype=dtype, seed=3)
    mlp.params[:] = np.random.default_rng(4).normal(0.1, 0.3, mlp.n_params)
    return mlp


def with_dropout(dtype: Any) -> fm.MLP:
    return fm.MLP([N_IN, 9, fm.Dropout(0.3), 7, N_OUT], dtype=dtype, seed=1)


def parts(mlp: Any, flat: Any) -> dict[str, Any]:
    """Return views of a vector like the parameters, by parameter name."""
    found, at = {}, 0
    for name, value in mlp.named_parameters().items():
        found[name] = flat[at : at + value.size].reshape(value.shape)
        at += value.size
    assert at == mlp.n_params
    return found


def squares(mlp: Any) -> float:
    """Sum the squares of all weights of dense layers, including those in blocks."""
    matrices = [w for w in mlp.named_parameters().values() if w.ndim == 2]
    return float(sum((w.astype("float64") ** 2).sum() for w in matrices))


def epoch(
    mlp: fm.MLP,
    optimizer: fm.Optimizer,
    x: Any,
    y: Any,
    weight: Any = None,
    *,
    loss: Any = None,
    batch_size: int = 10,
    progress: Any = None,
    shuffle: bool = False,
    number: int = 2,
    **options: Any,
) -> float:
    """Run an epoch in the core."""
    value = mlp.core.fit_epoch(
        x,
        y,
        (loss or fm.MSE()).core,
        optimizer.core,
        weight,
        batch_size=batch_size,
        seed=7,
        epoch=number,
        progress=progress or _core.EpochProgress(),
        shuffle=shuffle,
        **options,
    )
    assert value is not NotImplemented
    return value


def value_and_grad(mlp: fm.MLP, *batch: Any, **options: Any) -> tuple[float, Any]:
    x, y, weight = batch
    found = mlp.core.value_and_grad(x, y, fm.MSE().core, weight, **options)
    assert found is not NotImplemented
    return found


def state(mlp: fm.MLP, optimizer: fm.Optimizer | None = None) -> list[bytes]:
    """Return everything that training changes, as bytes."""
    found = [mlp.params.tobytes(), mlp.buffers.tobytes()]
    found.append(repr(mlp.core.training_state).encode())
    if optimizer is not None:
        held = optimizer.core.state()
        found.append(repr(held["step"]).encode())
        for slots in held["slots"]:
            found += [slot.tobytes() for slot in slots.values()]
    return found


# A loss's scale -----------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_factor_multiplies_value_and_gradient(name, reduction, weighted, dtype, rng):
    make, what = LOSSES[name]
    loss, y = make(reduction=reduction), targets(what, ROWS, dtype)
    p = rng.standard_normal((ROWS, N_OUT)).astype(dtype)
    w = np.linspace(0.5, 2, ROWS).astype(dtype) if weighted else None
    value, grad = loss.value_and_grad(p, y, w)
    for factor in (0.37, 3.0):
        scaled = with_scale(loss, factor)
        got, dp = scaled.value_and_grad(p, y, w)
        eps = np.finfo(np.float64).eps  # values are summed in double
        assert abs(got - factor * value) <= SCALED_ULPS * eps * abs(factor * value)
        assert scaled(p, y, w) == got
        error = np.abs(dp - factor * grad.astype("float64")).max()
        assert error <= SCALED_ULPS * np.finfo(dtype).eps * factor * np.abs(grad).max()
        assert dp.dtype == dtype
    # Multiplying by a power of two does not round, and by 1 changes nothing.
    for factor in (0.25, 1.0):
        got, dp = with_scale(loss, factor).value_and_grad(p, y, w)
        assert got == factor * value
        assert (dp == np.asarray(factor, dtype) * grad).all()


def test_the_losses_of_scikit_learn():
    """Half the squared error summed over outputs, with exact numbers."""
    p, y = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), np.zeros((2, 3))
    value, grad = with_scale(fm.MSE(), 0.5 * 3).value_and_grad(p, y)
    assert value == (1 + 4 + 9) / 2 / 2
    assert (grad == p / 2).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_network_scales_with_its_loss(name, dtype):
    """Every path through the core scales, exactly, since by a power of two."""
    make, what = LOSSES[name]
    x, _, w = data(ROWS, dtype)
    y, loss = targets(what, ROWS, dtype), make()
    scaled = with_scale(loss, 4.0)
    mlp = network(dtype)
    one, grad = mlp.value_and_grad(x, y, loss, w)
    four, grad4 = mlp.value_and_grad(x, y, scaled, w)
    assert four == 4 * one
    assert (grad4 == 4 * grad).all()
    assert mlp.evaluate(x, y, scaled, w) == 4 * mlp.evaluate(x, y, loss, w)
    rows = mlp.per_sample_grads(x, y, loss, w)
    assert (mlp.per_sample_grads(x, y, scaled, w) == 4 * rows).all()
    # A quarter of the learning rate compensates for it.
    same, other = network(dtype), network(dtype)
    value = same.train_step(x, y, loss, fm.SGD(0.04), w)
    assert other.train_step(x, y, scaled, fm.SGD(0.01), w) == 4 * value
    options = {"epochs": 2, "batch_size": 8, "seed": 0, "sample_weight": w}
    value = same.fit(x, y, loss=loss, optimizer=fm.SGD(0.04), **options)
    four = other.fit(x, y, loss=scaled, optimizer=fm.SGD(0.01), **options)
    assert four.loss == [4 * v for v in value.loss]
    assert state(same) == state(other)


def test_solvers_minimise_the_scaled_loss(rng):
    x = rng.standard_normal((ROWS, 2))
    y = np.sin(x[:, :1]) * x[:, 1:]
    for solver in (fm.LBFGS, fm.LevenbergMarquardt):
        found = {}
        for factor in (1.0, 4.0):
            mlp = fm.MLP([2, 6, 1], activation="tanh", dtype="float64", seed=0)
            loss = with_scale(fm.MSE(), factor)
            start = mlp.evaluate(x, y, loss)
            losses = mlp.fit(x, y, loss=loss, optimizer=solver(), epochs=15).loss
            end = mlp.evaluate(x, y, loss)
            # An iteration reports the scaled loss before it.
            assert abs(losses[0] - start) <= STEPS_RTOL * start
            assert start / 5 > losses[-1] > end
            found[factor] = start
        assert found[4.0] == 4 * found[1.0]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_levenberg_marquardt_takes_the_same_first_step(reduction, rng):
    """With little damping it is a Newton step if the matrix scales with the loss."""
    x, y = rng.standard_normal((ROWS, 3)), rng.standard_normal((ROWS, 1))
    w = rng.uniform(0.5, 2, ROWS)
    ends = []
    for factor in (1.0, 0.3):
        mlp = fm.MLP([3, 1], dtype="float64", seed=0)
        loss = with_scale(fm.MSE(reduction=reduction), factor)
        solver = fm.LevenbergMarquardt(damping=1e-12)
        mlp.fit(x, y, loss=loss, optimizer=solver, epochs=1, sample_weight=w)
        ends.append(mlp.params.copy())
    a = np.sqrt(w)[:, None] * np.c_[x, np.ones(ROWS)]
    best = np.linalg.lstsq(a, np.sqrt(w)[:, None] * y, rcond=None)[0].ravel()
    for end in ends:
        np.testing.assert_allclose(end, best, atol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_scaled_losses_are_values(name):
    loss = LOSSES[name][0](reduction="sum")
    twice = with_scale(loss, 2.0)
    assert type(twice) is type(loss)
    assert twice != loss
    assert twice == with_scale(with_scale(loss, 0.5), 4.0)
    assert hash(twice) == hash(with_scale(with_scale(loss, 0.5), 4.0))
    assert with_scale(twice, 0.5) == loss
    assert hash(with_scale(twice, 0.5)) == hash(loss)
    assert loss.core.scale == 1.0
    assert twice.core.scale == 2.0
    assert twice.reduction == "sum"
    assert repr(loss) == repr(with_scale(twice, 0.5))
    for again in (
        pickle.loads(pickle.dumps(twice)),
        copy.copy(twice),
        copy.deepcopy(twice),
    ):
        assert again == twice
        assert again.core.scale == 2.0
        assert repr(again) == repr(twice)
    with pytest.raises(AttributeError, match="immutable"):
        twice.core = loss.core


def test_repr_shows_the_factor():
    assert repr(with_scale(fm.MSE(), 1.5)) == "1.5 * MSE(reduction='mean')"
    assert (
        repr(with_scale(fm.ActionValue(fm.MSE()), 0.5))
        == "ActionValue(loss=0.5 * MSE(reduction='mean'))"
    )


@pytest.mark.parametrize(
    ("factor", "error"),
    [
        (0.0, ValueError),
        (-1.0, ValueError),
        (np.nan, ValueError),
        (np.inf, ValueError),
        ("2", TypeError),
        (None, TypeError),
    ],
)
def test_factors_that_are_refused(factor, error):
    with pytest.raises(error, match="factor"):
        with_scale(fm.MSE(), factor)
    if error is ValueError:
        with pytest.raises(ValueError, match="scale must be finite and positive"):
            _core.Loss("mse", scale=factor)


def test_other_objects_cannot_be_scaled():
    with pytest.raises(TypeError, match="loss must be one of fastmlp's own losses"):
        with_scale(fm.CustomLoss(lambda p, y: (0.0, p)), 2.0)
    with pytest.raises(TypeError, match="loss must be one of fastmlp's own losses"):
        with_scale("mse", 2.0)
    with pytest.raises(ValueError, match="factor must keep the loss's scale finite"):
        with_scale(with_scale(fm.MSE(), 1e200), 1e200)
    with pytest.raises(ValueError, match="factor must keep the loss's scale finite"):
        with_scale(with_scale(fm.MSE(), 1e-200), 1e-200)


# Rows in an order ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mse", "labels", "gaussian", "actions"])
@pytest.mark.parametrize("length", [7, ROWS, 94])
def test_an_order_is_the_rows_in_it(name, length, dtype, rng):
    """With repeated rows, a short last batch, more rows than in x, and dropout."""
    make, what = LOSSES[name]
    loss, y = make(), targets(what, ROWS, dtype)
    x, _, w = data(ROWS, dtype)
    order = rng.integers(0, ROWS, length)
    assert length == 7 or len(set(order.tolist())) < length

    def chosen(values: Any) -> Any:
        if isinstance(values, tuple):
            return tuple(v[order] for v in values)
        return values[order]

    by_order, by_hand = with_dropout(dtype), with_dropout(dtype)
    first, second = fm.Adam(0.01), fm.Adam(0.01)
    found: list[list[Any]] = [[], []]
    one = epoch(
        by_order, first, x, y, w, loss=loss, order=order,
        listener=lambda *step: found[0].append(step),
    )  # fmt: skip
    two = epoch(
        by_hand, second, chosen(x), chosen(y), chosen(w), loss=loss,
        listener=lambda *step: found[1].append(step),
    )  # fmt: skip
    assert one == two
    assert found[0] == found[1]
    assert len(found[0]) == -(-length // 10)
    assert state(by_order, first) == state(by_hand, second)


def test_an_order_can_be_that_of_a_shuffle(dtype):
    x, y, w = data(ROWS, dtype)
    order = np.arange(ROWS)
    _core.kernels.shuffle(order, 7, 2)
    shuffled, given = with_dropout(dtype), with_dropout(dtype)
    first, second = fm.Adam(0.01), fm.Adam(0.01)
    one = epoch(shuffled, first, x, y, w, shuffle=True)
    assert epoch(given, second, x, y, w, order=order) == one
    assert state(shuffled, first) == state(given, second)


def test_an_ordered_epoch_can_be_split(dtype, rng):
    """first_row and schedules count in the order's rows."""
    x, y, w = data(ROWS, dtype)
    order, rates = rng.integers(0, ROWS, 43), np.linspace(0.01, 0.02, 5)
    whole, halves = with_dropout(dtype), with_dropout(dtype)
    first, second = fm.Adam(0.01), fm.Adam(0.01)
    value = epoch(whole, first, x, y, w, order=order, scheduled={"lr": rates}, l2=L2)

    class Stop(Exception):
        pass

    def stop(step: int, _: float) -> None:
        if step == 1:
            raise Stop

    progress = _core.EpochProgress()
    rest: dict[str, Any] = {"order": order, "l2": L2, "progress": progress}
    with pytest.raises(Stop):
        epoch(halves, second, x, y, w, scheduled={"lr": rates}, listener=stop, **rest)
    assert progress.steps == 2
    for wrong in (rates, rates[:2].copy()):
        with pytest.raises(ValueError, match=r"lr must have shape \(3\)"):
            epoch(
                halves, second, x, y, w, scheduled={"lr": wrong}, first_row=20, **rest
            )
    again = epoch(
        halves, second, x, y, w, scheduled={"lr": rates[2:]}, first_row=20, **rest
    )
    assert again == value
    assert state(whole, first) == state(halves, second)
    # Starting at the end of the order does nothing, beyond it is an error.
    assert epoch(halves, second, x, y, w, first_row=43, **rest) == value
    with pytest.raises(ValueError, match="first_row"):
        epoch(halves, second, x, y, w, first_row=44, **rest)
    assert state(whole, first) == state(halves, second)


def test_an_order_cannot_change_within_an_epoch(rng):
    x, y, w = data(ROWS, "float64")
    order = rng.integers(0, ROWS, 43)
    calm, stirred = with_dropout("float64"), with_dropout("float64")
    value = epoch(calm, fm.SGD(0.1), x, y, w, order=order.copy())

    def stir(step: int, _: float) -> None:
        order[:] = np.iinfo(np.int64).max

    assert epoch(stirred, fm.SGD(0.1), x, y, w, order=order, listener=stir) == value
    assert state(calm) == state(stirred)


def bad_orders() -> dict[str, tuple[Any, type[Exception], str]]:
    good = np.arange(20)
    late, early = good.copy(), good.copy()
    late[-1], early[3] = ROWS, -1
    return {
        "too large": (late, ValueError, rf"order: entry 19 must be .*, got {ROWS}"),
        "negative": (early, ValueError, r"order: entry 3 must be .* to 36, got -1"),
        "empty": (good[:0], ValueError, "an epoch must have at least one row"),
        "two-dimensional": (
            good.reshape(4, 5),
            ValueError,
            r"order must have shape \(any\), got \(4, 5\)",
        ),
        "int32": (good.astype("int32"), TypeError, "order must be a C-contiguous"),
        "strided": (good[::2], TypeError, "order must be a C-contiguous"),
        "a list": (good.tolist(), TypeError, "order must .* got <class 'list'>"),
        "a single row left": (
            np.arange(31),
            ValueError,
            "at least two rows in training with batch normalisation",
        ),
    }


@pytest.mark.parametrize("name", bad_orders())
def test_orders_that_are_refused_change_nothing(name):
    order, error, message = bad_orders()[name]
    mlp, optimizer = network(), fm.Adam(0.01)
    x, y, w = data(ROWS, "float64")
    epoch(mlp, optimizer, x, y, w, order=np.arange(20))
    before, progress = state(mlp, optimizer), _core.EpochProgress()
    with pytest.raises(error, match=message):
        epoch(mlp, optimizer, x, y, w, order=order, progress=progress)
    assert state(mlp, optimizer) == before
    assert (progress.steps, progress.total, progress.divisor) == (0, 0.0, 0.0)


def test_an_order_is_not_shuffled():
    x, y, _ = data(ROWS, "float64")
    mlp = network()
    before = state(mlp)
    with pytest.raises(ValueError, match="`order` cannot be combined with `shuffle`"):
        epoch(mlp, fm.Adam(), x, y, order=np.arange(20), shuffle=True)
    assert state(mlp) == before


# L2 -----------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_penalty_is_the_formula(reduction, weighted, dtype):
    x, y, w = data(ROWS, dtype)
    w = w if weighted else None
    divisor = float(w.sum(dtype="float64")) if weighted else float(ROWS)
    mlp, loss = network(dtype), fm.MSE(reduction=reduction).core
    value, grad = mlp.core.value_and_grad(x, y, loss, w)
    got, penalised = mlp.core.value_and_grad(x, y, loss, w, l2=L2)
    wanted = value + 0.5 * L2 * squares(mlp) / divisor
    assert abs(got - wanted) <= TOLERANCE["elementwise"].of(dtype) * wanted
    weights = parts(mlp, mlp.params)
    before, after = parts(mlp, grad), parts(mlp, penalised)
    for name, w in weights.items():
        if w.ndim == 1:  # biases and norms
            assert (after[name] == before[name]).all()
            continue
        expected = before[name] + L2 / divisor * w
        error = np.abs(after[name] - expected).max()
        bound = TOLERANCE["elementwise"].of(dtype) * np.abs(expected).max()
        assert error <= bound
        assert (after[name] != before[name]).any()


def test_the_penalised_gradient_is_the_slope(rng):
    mlp = network()
    batch = data(ROWS, "float64")
    _, grad = value_and_grad(mlp, *batch, l2=5.0, training=True)
    for _ in range(5):
        along = rng.standard_normal(mlp.n_params) / np.sqrt(mlp.n_params)
        start, values = mlp.params.copy(), []
        for step in (1e-5, -1e-5):
            mlp.params[:] = start + step * along
            values.append(value_and_grad(mlp, *batch, l2=5.0, training=True)[0])
        mlp.params[:] = start
        assert abs((values[0] - values[1]) / 2e-5 - grad @ along) < DIFFERENCE_ATOL


def test_class_weights_do_not_change_the_penalty():
    """The class weights affect the loss, but not the penalty's divisor."""
    x, _, w = data(ROWS, "float64")
    y = targets("labels", ROWS, "float64")
    mlp, loss = network(), fm.CrossEntropy(class_weight=CLASSES).core
    value = mlp.core.value_and_grad(x, y, loss, w)[0]
    got = mlp.core.value_and_grad(x, y, loss, w, l2=L2)[0]
    wanted = value + 0.5 * L2 * squares(mlp) / w.sum()
    assert abs(got - wanted) <= TOLERANCE["elementwise"].of("float64") * wanted


def test_rows_without_weight_have_no_penalty(dtype):
    x, y, w = data(ROWS, dtype)
    mlp, optimizer = with_dropout(dtype), fm.SGD(0.1)
    value, grad = value_and_grad(mlp, x, y, np.zeros_like(w), l2=L2)
    assert value == 0.0
    assert (grad == 0.0).all()
    before = mlp.params.tobytes()
    assert epoch(mlp, optimizer, x, y, np.zeros_like(w), l2=L2) == 0.0
    assert mlp.params.tobytes() == before


def test_a_penalty_of_zero_changes_nothing(dtype):
    batch = data(ROWS, dtype)
    plain, zero = network(dtype), network(dtype)
    first, second = fm.Adam(0.01), fm.Adam(0.01)
    for l2 in (0.0, -0.0, 0):
        assert epoch(plain, first, *batch) == epoch(zero, second, *batch, l2=l2)
        one, other = value_and_grad(plain, *batch), value_and_grad(zero, *batch, l2=l2)
        assert one[0] == other[0]
        assert (one[1] == other[1]).all()
    assert state(plain, first) == state(zero, second)


MAKERS = {
    "SGD": {"lr": 0.05, "momentum": 0.5, "nesterov": True},
    "Adagrad": {"lr": 0.05},
    "RMSprop": {"lr": 0.01, "momentum": 0.3, "centered": True},
    "Adam": {"lr": 0.01, "eps_mode": "hat"},
    "AdamW": {"lr": 0.01, "amsgrad": True},
    "Adamax": {"lr": 0.01},
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01},
    "Adadelta": {"lr": 0.5},
    "Rprop": {"lr": 0.01},
    "ASGD": {"lr": 0.05},
    "Lion": {"lr": 0.01},
    "AdaBelief": {"lr": 0.01},
    "ScheduleFreeSGD": {"lr": 0.05},
    "ScheduleFreeAdamW": {"lr": 0.01},
    "Prodigy": {"d0": 1e-3, "decouple": False},
}
OWN = {
    "no other options": {},
    "decay of all": {"weight_decay": 0.2, "decay": "all"},
    "decay of weights": {"weight_decay": 0.2, "l1": 0.01, "decay": "weights"},
    "ascent": {"weight_decay": 0.2, "l1": 0.01, "maximize": True},
}


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("name", MAKERS)
def test_steps_are_those_of_the_reference(name, own):
    """The reference gets the penalty in its gradient, and also has its own decay."""
    options = {**MAKERS[name], **OWN[own]}
    sign = -1.0 if options.get("maximize") else 1.0
    x, y, w = data(ROWS, "float64")
    order = np.random.default_rng(8).integers(0, ROWS, 43)
    mlp, optimizer = network(), getattr(fm, name)(**options)
    seen: list[float] = []
    value = epoch(
        mlp, optimizer, x, y, w, order=order, l2=L2,
        listener=lambda _, loss: seen.append(loss),
    )  # fmt: skip

    theirs, rule = network(library=reference), getattr(reference, name)(**options)
    wanted, total = [], 0.0
    for start in range(0, len(order), 10):
        rows = order[start : start + 10]
        loss, grad = theirs.value_and_grad(
            x[rows], y[rows], reference.MSE(), w[rows], training=True
        )
        divisor = w[rows].sum()
        wanted.append(loss + sign * 0.5 * L2 * squares(theirs) / divisor)
        total += wanted[-1] * divisor
        grads, values = parts(theirs, grad), parts(theirs, theirs.params)
        for key, weight in values.items():
            if weight.ndim == 2:
                grads[key] += sign * L2 / divisor * weight
        rule.step(list(values.values()), list(grads.values()))
    np.testing.assert_allclose(seen, wanted, rtol=STEPS_RTOL)
    np.testing.assert_allclose(value, total / w[order].sum(), rtol=STEPS_RTOL)
    error = np.abs(mlp.params - theirs.params).max()
    assert error <= STEPS_RTOL * np.abs(theirs.params).max()


# Prodigy sums over the weights and the biases of a layer apart if weights alone decay.
@pytest.mark.parametrize("name", [n for n in MAKERS if n != "Prodigy"])
def test_an_epoch_takes_the_steps_of_the_penalised_gradient(name, dtype):
    """The bits are the same: without weight decay both are one fused multiply-add."""
    x, y, w = data(ROWS, dtype)
    mlp, by_hand = network(dtype), network(dtype)
    first, second = (getattr(fm, name)(**MAKERS[name], weight_decay=0) for _ in "12")
    seen: list[float] = []
    epoch(mlp, first, x, y, w, l2=L2, listener=lambda _, loss: seen.append(loss))
    for k in range(len(seen)):
        rows = slice(10 * k, 10 * k + 10)
        value, grad = value_and_grad(by_hand, x[rows], y[rows], w[rows], l2=L2,
                                     training=True)  # fmt: skip
        second.step(by_hand.params, grad)
        assert value == seen[k]
    assert mlp.params.tobytes() == by_hand.params.tobytes()


def test_the_penalty_is_not_clipped():
    """It is not in the gradient that the last step records, either."""
    x, y, w = data(10, "float64")
    mlp, limit, rate = network(), 1e-3, 0.1
    _, grad = value_and_grad(mlp, x, y, w, training=True)
    assert np.linalg.norm(grad) > 2 * limit
    clipped = parts(mlp, grad * (limit / (np.linalg.norm(grad) + 1e-6)))
    before = {k: v.copy() for k, v in parts(mlp, mlp.params).items()}
    mlp.core.watch = True
    # The running statistics have changed since, but training does not use them.
    epoch(mlp, fm.SGD(rate, clip_norm=limit), x, y, w, l2=L2)
    for name, value in parts(mlp, mlp.params).items():
        step = clipped[name] + (L2 / w.sum() * before[name] if value.ndim == 2 else 0)
        np.testing.assert_allclose(value, before[name] - rate * step, rtol=1e-12)
    np.testing.assert_array_equal(mlp.core.last_step()["grads"], grad)


@pytest.mark.parametrize("l2", [-1.0, np.nan, np.inf])
def test_penalties_that_are_refused_change_nothing(l2):
    batch = data(ROWS, "float64")
    mlp, optimizer = network(), fm.Adam()
    epoch(mlp, optimizer, *batch)
    before = state(mlp, optimizer)
    with pytest.raises(ValueError, match="l2 must be finite and not negative"):
        epoch(mlp, optimizer, *batch, l2=l2)
    with pytest.raises(ValueError, match="l2 must be finite and not negative"):
        value_and_grad(mlp, *batch, l2=l2, training=True)
    assert state(mlp, optimizer) == before


def test_a_penalty_that_overflows_is_divergence():
    mlp, optimizer = network(), fm.Adam()
    mlp.params[:] *= 100.0
    before = state(mlp)
    with pytest.raises(_core.DivergenceError, match="step 1: the loss is infinite"):
        epoch(mlp, optimizer, *data(ROWS, "float64"), l2=1e308)
    assert state(mlp) == before
    assert optimizer.step_count == 0


# Bits ---------------------------------------------------------------------------------


WIDE, MANY = (N_IN, 200, 150, N_OUT), 400


def run(widths: tuple[int, ...], rows: int, dtype: Any) -> list[bytes]:
    """Return the results of the options as bytes: losses, a gradient, final states."""
    x, y, w = data(rows, dtype)
    order = np.random.default_rng(9).integers(0, rows, rows + rows // 3)
    mlp, optimizer = fm.MLP(list(widths), dtype=dtype, seed=0), fm.Adam(0.01)
    loss, seen = with_scale(fm.MSE(), 0.7), []
    value = epoch(
        mlp, optimizer, x, y, w, loss=loss, batch_size=rows - 5, order=order, l2=L2,
        listener=lambda _, loss: seen.append(loss),
    )  # fmt: skip
    at, grad = mlp.core.value_and_grad(x, y, loss.core, w, l2=L2)
    numbers = np.array([value, at, *seen]).tobytes()
    return [numbers, grad.tobytes(), *state(mlp, optimizer)]


@pytest.mark.parametrize("wide", [False, True])
def test_the_same_bits_everywhere(wide, dtype):
    widths, rows = (WIDE, MANY) if wide else ((N_IN, 33, N_OUT), ROWS)
    found = set()
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                if wide:
                    assert_threaded(training_flops(list(widths), rows - 5), rows - 5)
                found.add(tuple(run(widths, rows, dtype)))
    assert len(found) == 1
