"""Elementary functions, activations, losses, optimisers: special values and tails."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, reference
from helpers import SEED, TAILS, TOLERANCE
from kernel_cases import Call, kernels, rounded, run

FUNCTIONS = (
    "exp",
    "expm1",
    "log",
    "log1p",
    "tanh",
    "sigmoid",
    "sin",
    "cos",
    "erf",
    "erfc",
)


def spread(low: float, high: float, tiny: float, dtype: type) -> np.ndarray:
    """Even steps from low to high, and all magnitudes down to ``tiny`` around 0."""
    even = np.linspace(low, high, 2001)
    small = np.geomspace(tiny, 1, 500)
    values = np.concatenate([even, -small, small, [0.0]])
    values = values[(values >= low) & (values <= high)]
    return rounded(values, dtype)


# Intervals (low, high) in which results are normal numbers, for float32 and float64.
DOMAINS = {
    "exp": ((-87, 88.5), (-708, 709.5)),
    "expm1": ((-100, 88.5), (-800, 709.5)),
    "log": ((1e-37, 1e38), (1e-307, 1e308)),
    "log1p": ((-1 + 1e-6, 1e38), (-1 + 1e-15, 1e308)),
    "tanh": ((-12, 12), (-25, 25)),
    "sigmoid": ((-87, 100), (-708, 800)),
    "sin": ((-1000, 1000), (-1000, 1000)),
    "cos": ((-1000, 1000), (-1000, 1000)),
    "erf": ((-6, 6), (-7, 7)),
    "erfc": ((-6, 9), (-7, 26)),
}


def elementary_inputs(function: str, dtype: type) -> np.ndarray:
    low, high = DOMAINS[function][dtype is np.float64]
    tiny = 1e-30 if dtype is np.float32 else 1e-300
    if function in ("log", "log1p"):
        large = np.geomspace(1e-3, high * 0.99, 1000)
        near_one = spread(low if low < 0 else 0.25, 4, tiny, dtype)
        small = np.geomspace(max(low, tiny), 1, 500)
        return rounded(np.concatenate([small, near_one, large]), dtype)
    even = spread(low, high, tiny, dtype)
    if function in ("sin", "cos"):
        # All digits of a large argument affect its remainder modulo pi / 2.
        large = np.geomspace(1e3, 1 / tiny, 500)
        return rounded(np.concatenate([even, large, -large]), dtype)
    return even


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_functions(function: str, isa: str, dtype: type) -> None:
    x = elementary_inputs(function, dtype)
    call = Call(
        "elementary", {"out": np.zeros_like(x), "x": x, "function": function}, ("out",)
    )
    actual = run(kernels, call, dtype)["out"].astype(np.float64)
    exact = run(reference, call, np.float64)["out"]
    limit = TOLERANCE["elementary"].of(dtype) * np.abs(exact)
    error = np.abs(actual - exact)
    worst = int(np.argmax(error - limit))
    assert (error <= limit).all(), f"{x[worst]!r}: {actual[worst]} != {exact[worst]}"
    if function in ("tanh", "sin", "cos", "erf", "sigmoid"):
        assert np.abs(actual).max() <= 1


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_tails(function: str, isa: str, dtype: type) -> None:
    # Each element's result is the same as for that element alone, whatever its
    # position.
    x = rounded(np.linspace(0.125, 2, max(TAILS)), dtype)
    alone = np.empty(len(x), dtype)
    for i in range(len(x)):
        kernels.elementary(alone[i : i + 1], x[i : i + 1].astype(dtype), function)
    for n in TAILS:
        args = {"out": np.zeros(n), "x": x[-n:], "function": function}
        call = Call("elementary", args, ("out",))
        np.testing.assert_array_equal(run(kernels, call, dtype)["out"], alone[-n:])


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_special_values(function: str, isa: str, dtype: type) -> None:
    info = np.finfo(dtype)
    x = [np.nan, np.inf, -np.inf, 0.0, -0.0, float(info.max), -float(info.max), -1.0]
    if function in ("sin", "cos"):
        x = [np.nan, np.inf, -np.inf, 0.0, -0.0]
    values = np.array(x)
    call = Call(
        "elementary",
        {"out": np.zeros_like(values), "x": values, "function": function},
        ("out",),
    )
    actual = run(kernels, call, dtype)["out"]
    exact = run(reference, call, dtype)["out"]
    np.testing.assert_allclose(actual, exact, rtol=TOLERANCE["elementary"].of(dtype))
    zeros = exact == 0
    np.testing.assert_array_equal(np.signbit(actual[zeros]), np.signbit(exact[zeros]))


def every_kind_of_number(dtype: type) -> np.ndarray:
    info = np.finfo(dtype)
    sizes_ = np.geomspace(float(info.smallest_subnormal), float(info.max) / 2, 400)
    special = [0.0, np.inf, np.nan, 1.0, 0.5, float(info.tiny), float(info.max)]
    values = np.concatenate([sizes_, special, np.linspace(0, 100, 1001)])
    return np.concatenate([values, -values]).astype(dtype)


def canonical(values: np.ndarray) -> bytes:
    """The bits, without the sign and payload of NaN, which are not guaranteed."""
    return np.where(np.isnan(values), values.dtype.type(np.nan), values).tobytes()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_elementary_bits_of_every_kind_of_number(function: str, dtype: type) -> None:
    x, results = every_kind_of_number(dtype), {}
    for name in fm.available_isas():
        with fm.use_isa(name):
            out = np.empty_like(x)
            kernels.elementary(out, x, function)
            results[name] = canonical(out)
    assert set(results.values()) == {results["scalar"]}


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activation_bits_of_every_kind_of_number(activation: str, dtype: type) -> None:
    z, results = every_kind_of_number(dtype)[:, None], {}
    for name in fm.available_isas():
        with fm.use_isa(name):
            h, dz = np.empty_like(z), np.empty_like(z)
            kernels.activation_forward(h, z, activation)
            saved = z if reference.activation_saves(activation) == "input" else h
            kernels.activation_backward(dz, np.ones_like(z), saved, activation)
            results[name] = canonical(h) + canonical(dz)
    assert set(results.values()) == {results["scalar"]}


BOUNDED_INPUT = ("sin", "cos", "exp", "softmax")


@pytest.mark.parametrize(
    "activation", [k for k in reference.ACTIVATIONS if k not in BOUNDED_INPUT]
)
def test_activations_far_out(activation: str, isa: str, dtype: type) -> None:
    largest = float(np.finfo(dtype).max)
    z = np.array([[-largest / 4, -1e30, -200, 200, 1e30, largest / 4]], dtype=dtype)
    z = z.astype(np.float64)
    forward = Call(
        "activation_forward",
        {"h": np.zeros_like(z), "z": z, "activation": activation},
        ("h",),
    )
    h = run(kernels, forward, dtype)["h"].astype(np.float64)
    exact = run(reference, forward, np.float64)["h"]
    tolerance = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(h, exact, rtol=tolerance, atol=tolerance)
    saved = z if reference.activation_saves(activation) == "input" else h
    backward = Call(
        "activation_backward",
        {
            "dz": np.zeros_like(z),
            "dh": np.ones_like(z),
            "saved": saved,
            "activation": activation,
        },
        ("dz",),
    )
    dz = run(kernels, backward, dtype)["dz"]
    exact = run(reference, backward, np.float64)["dz"]
    np.testing.assert_allclose(dz, exact, rtol=tolerance, atol=tolerance)
    second = Call(
        "activation_second",
        {
            "out": np.zeros_like(z),
            "c": np.ones_like(z),
            "saved": saved,
            "activation": activation,
        },
        ("out",),
    )
    out = run(kernels, second, dtype)["out"]
    exact = run(reference, second, np.float64)["out"]
    np.testing.assert_allclose(out, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_nan_stays_in_its_element(activation: str, isa: str, dtype: type) -> None:
    z = np.linspace(-2, 2, 3 * 21).reshape(3, 21).astype(dtype)
    z[1, 17] = np.nan
    h = np.zeros_like(z)
    kernels.activation_forward(h, z, activation)
    hit = np.isnan(z)
    if activation == "softmax":
        hit = np.isnan(z).any(axis=1, keepdims=True) & np.ones_like(hit)
    np.testing.assert_array_equal(np.isnan(h), hit)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_infinities(activation: str, isa: str, dtype: type) -> None:
    z = np.array([[-np.inf], [np.inf]], dtype=dtype)
    actual, exact = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(actual, z, activation)
    reference.activation_forward(exact, z, activation)
    defined = ~np.isnan(exact)  # the others are inf * 0 or have no limit
    np.testing.assert_array_equal(actual[defined], exact[defined])


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_activations_in_place(
    activation: str, isa: str, dtype: type, rng: np.random.Generator
) -> None:
    z, dh = rng.standard_normal((2, 5, 19)).astype(dtype)
    h, dz = np.empty_like(z), np.empty_like(z)
    kernels.activation_forward(h, z, activation)
    saved = z if reference.activation_saves(activation) == "input" else h
    kernels.activation_backward(dz, dh, saved, activation)
    in_place = z.copy()
    kernels.activation_forward(in_place, in_place, activation)
    assert in_place.tobytes() == h.tobytes()
    in_place = dh.copy()
    kernels.activation_backward(in_place, in_place, saved, activation)
    assert in_place.tobytes() == dz.tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits(isa: str, dtype: type) -> None:
    pred = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [0.0, 88.0, -88.0]])
    for kind, target in [
        ("cross_entropy", np.array([1, 2, 0])),
        ("cross_entropy", np.eye(3)),
        ("binary_cross_entropy", np.eye(3)),
    ]:
        call = Call(
            "loss_rows",
            {
                "dpred": np.zeros((3, 3)),
                "row_loss": np.zeros(3),
                "pred": pred,
                "target": target,
                "row_scale": np.ones(3),
                "loss": kind,
            },
            ("dpred", "row_loss"),
        )
        actual = run(kernels, call, dtype)
        exact = run(reference, call, np.float64)
        tolerance = TOLERANCE["elementwise"].of(dtype)
        for name in exact:
            np.testing.assert_allclose(
                actual[name], exact[name], rtol=tolerance, atol=tolerance
            )


def test_masked_logits(isa: str, dtype: type) -> None:
    # A logit of -inf excludes a class: its probability and its gradient are 0.
    pred = np.array([[0.0, -np.inf, 0.0]], dtype=dtype)
    dpred, row_loss = np.empty_like(pred), np.empty(1, dtype)
    kernels.loss_rows(
        dpred, row_loss, pred, np.array([2]), np.ones(1, dtype), "cross_entropy"
    )
    tolerance = TOLERANCE["elementwise"].of(dtype)
    np.testing.assert_allclose(row_loss, [np.log(2)], rtol=tolerance)
    np.testing.assert_allclose(dpred, [[0.5, 0, -0.5]], rtol=tolerance)


def test_small_residuals_keep_their_digits(isa: str, dtype: type) -> None:
    # delta^2 (sqrt(1 + t^2) - 1) would cancel to 0 here; the loss is r^2 / 2.
    r = 1e-6 if dtype is np.float32 else 1e-12
    pred, row_loss = np.array([[r]], dtype), np.empty(1, dtype)
    one, zero = np.ones(1, dtype), np.zeros((1, 1), dtype)
    kernels.loss_rows(None, row_loss, pred, zero, one, "pseudo_huber")
    exact = 0.5 * float(pred[0, 0]) ** 2
    assert row_loss[0] == pytest.approx(exact, rel=TOLERANCE["elementwise"].of(dtype))


# The kernels process rows of at most this many elements several at a time: as many as a
# vector has lanes, or a multiple of that for even shorter rows. MANY_ROWS is larger.
NARROW = 16


MOST_LANES = 16


MANY_ROWS = 300


def narrow_row_calls(
    n: int, dtype: type, rng: np.random.Generator, rows: int
) -> Iterator[
    tuple[str, Callable[..., tuple[np.ndarray, ...]], tuple[np.ndarray, ...]]
]:
    """Operations on rows: a name, a function of row arrays, and arguments for it."""
    values = rng.standard_normal((3, rows, n)) * rng.choice([0.01, 1, 30], (3, rows, n))
    values[rng.uniform(size=values.shape) < 0.1] = -0.0
    pred, target, dh = values.astype(dtype)
    target[0] = -0.0  # its cross-entropy is a sum whose terms are all -0
    scale = rng.uniform(0, 2, rows).astype(dtype)

    def loss(kind: str, mode: str) -> Callable[..., tuple[np.ndarray, ...]]:
        def call(
            pred: np.ndarray, target: np.ndarray, scale: np.ndarray
        ) -> tuple[np.ndarray, ...]:
            pred, row_loss = pred.copy(), np.empty_like(scale)
            dpred = {"new": np.empty_like(pred), "in place": pred, "none": None}[mode]
            kernels.loss_rows(dpred, row_loss, pred, target, scale, kind, delta=0.75)
            return (row_loss,) if dpred is None else (row_loss, dpred)

        return call

    def forward(z: np.ndarray) -> tuple[np.ndarray]:
        h = np.empty_like(z)
        kernels.activation_forward(h, z, "softmax")
        return (h,)

    def backward(dh: np.ndarray, saved: np.ndarray) -> tuple[np.ndarray]:
        dz = np.empty_like(dh)
        kernels.activation_backward(dz, dh, saved, "softmax")
        return (dz,)

    for mode in ("new", "in place", "none"):
        labels = rng.integers(0, n, rows)
        for kind in sorted(_core.LOSSES):
            facts = _core.Loss(kind)
            each = facts.predictions_per_target
            if (
                n % each == 0 and kind != "mixture_density"
            ):  # 0.75 is no number of parts
                y = labels if facts.allowed == "labels" else abs(target[:, : n // each])
                y = target if facts.allowed == "numbers" and each == 1 else y.copy()
                yield f"{kind}, {mode}", loss(kind, mode), (pred, y, scale)
        yield f"labels, {mode}", loss("cross_entropy", mode), (pred, labels, scale)
    yield "softmax forward", forward, (pred,)
    yield "softmax backward", backward, (dh, target)


@pytest.mark.parametrize("n", range(1, NARROW + 2))
def test_bits_of_a_row_do_not_depend_on_other_rows(
    n: int, isa: str, dtype: type
) -> None:
    # Narrow rows are processed several at a time, a single row is not.
    rng = np.random.default_rng([SEED, n])
    for name, function, arrays in narrow_row_calls(n, dtype, rng, MANY_ROWS):
        alone = [
            np.concatenate(parts)
            for parts in zip(
                *(function(*(a[i : i + 1] for a in arrays)) for i in range(MANY_ROWS)),
                strict=True,
            )
        ]
        for m in (*range(1, 2 * MOST_LANES + 2), MANY_ROWS):
            first = int(rng.integers(0, MANY_ROWS - m + 1))
            together = function(*(a[first : first + m] for a in arrays))
            for wanted, found in zip(alone, together, strict=True):
                assert found.tobytes() == wanted[first : first + m].tobytes(), (name, m)


def test_variance_that_rounds_below_zero_is_zero(isa: str, dtype: type) -> None:
    # A constant gradient has variance 0, but alpha g^2 + (1 - alpha) g^2 may be rounded
    # to less than g^2.
    rng = np.random.default_rng(SEED)
    g = rng.uniform(0.5, 2, 1000).astype(dtype)
    param, mean = np.zeros_like(g), g.copy()
    square = np.nextafter(g * g, dtype(0))
    kernels.rmsprop_step(
        param, square, None, mean, g, 1.0, 0.9, 1.0, 0.0, 0.0, False, "outside"
    )
    # Denominators are 1 = eps, up to the square root of a rounding error.
    slack = 2 * float(np.sqrt(8 * np.finfo(dtype).eps))
    np.testing.assert_allclose(param, -g, rtol=slack)


def test_without_weight_decay_the_parameter_stays_out_of_its_gradient(
    isa: str, dtype: type
) -> None:
    param, grad = np.full(5, np.inf, dtype), np.ones(5, dtype)
    kernels.sgd_step(param, None, grad, 0.1, 0.0, 0.0, False, 0.0, False, 1)
    assert (param == np.inf).all()


@pytest.mark.parametrize("n", [0, *TAILS, 1000])
def test_shuffle(n: int) -> None:
    seeds = [(0, 0), (7, 3), (2**32, 1), (2**64 - 1, 2**32 - 1), (123456789012, 5)]
    for seed, epoch in seeds:
        orders = []
        for module in (kernels, reference):
            order = np.full(n + 2, -7)
            assert module.shuffle(order[1:-1], seed, epoch) is None
            assert order[0] == order[-1] == -7
            orders.append(order[1:-1])
        np.testing.assert_array_equal(*orders, err_msg=f"{seed=} {epoch=}")
        np.testing.assert_array_equal(np.sort(orders[0]), np.arange(n))
