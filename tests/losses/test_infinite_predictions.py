"""Losses at infinite predictions have the limits of their values and gradients."""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

INF, LN2 = np.inf, np.log(2.0)

# loss, prediction, target, value, derivative
ONE = [
    ("MSE()", INF, 1.0, INF, INF),
    ("MSE()", -INF, 1.0, INF, -INF),
    ("MAE()", INF, 1.0, INF, 1.0),
    ("MAE()", -INF, 1.0, INF, -1.0),
    ("Huber(2.0)", INF, 1.0, INF, 2.0),
    ("Huber(2.0)", -INF, 1.0, INF, -2.0),
    ("PseudoHuber(2.0)", INF, 1.0, INF, 2.0),
    ("PseudoHuber(2.0)", -INF, 1.0, INF, -2.0),
    ("BinaryCrossEntropy()", INF, 0.0, INF, 1.0),
    ("BinaryCrossEntropy()", INF, 1.0, 0.0, 0.0),
    ("BinaryCrossEntropy()", INF, 0.25, INF, 0.75),
    ("BinaryCrossEntropy()", -INF, 0.0, 0.0, 0.0),
    ("BinaryCrossEntropy()", -INF, 1.0, INF, -1.0),
    ("BinaryCrossEntropy()", -INF, 0.25, INF, -0.25),
    ("BinaryCrossEntropy(pos_weight=2.0)", INF, 0.0, INF, 1.0),
    ("BinaryCrossEntropy(pos_weight=2.0)", INF, 1.0, 0.0, 0.0),
    ("BinaryCrossEntropy(pos_weight=2.0)", -INF, 0.0, 0.0, 0.0),
    ("BinaryCrossEntropy(pos_weight=2.0)", -INF, 1.0, INF, -2.0),
    ("BinaryCrossEntropy(pos_weight=[2.0])", -INF, 0.0, 0.0, 0.0),
    ("Poisson()", INF, 0.0, INF, INF),
    ("Poisson()", INF, 3.0, INF, INF),
    ("Poisson()", -INF, 0.0, 0.0, 0.0),
    ("Poisson()", -INF, 3.0, INF, -3.0),
    ("Quantile(0.25)", INF, 1.0, INF, 0.75),
    ("Quantile(0.25)", -INF, 1.0, INF, -0.25),
    ("Hinge()", INF, 1.0, 0.0, 0.0),
    ("Hinge()", -INF, 1.0, INF, -1.0),
    ("Hinge()", INF, -1.0, INF, 1.0),
    ("Hinge()", -INF, -1.0, 0.0, 0.0),
    ("SmoothL1(0.5)", INF, 1.0, INF, 1.0),
    ("SmoothL1(0.0)", -INF, 1.0, INF, -1.0),
    ("LogCosh()", INF, 1.0, INF, 1.0),
    ("LogCosh()", -INF, 1.0, INF, -1.0),
    ("SoftMargin()", INF, 1.0, 0.0, 0.0),
    ("SoftMargin()", -INF, 1.0, INF, -1.0),
    ("SoftMargin()", INF, -1.0, INF, 1.0),
    ("Expectile(0.25)", INF, 1.0, INF, INF),
    ("Expectile(0.25)", -INF, 1.0, INF, -INF),
    ("BinaryFocal()", INF, 1.0, 0.0, 0.0),
    ("BinaryFocal()", -INF, 1.0, INF, -0.25),
    ("BinaryFocal()", INF, 0.0, INF, 0.75),
    ("BinaryFocal()", -INF, 0.0, 0.0, 0.0),
    ("BinaryFocal(0.0, None)", INF, 1.0, 0.0, 0.0),
    ("BinaryFocal(0.0, None)", -INF, 1.0, INF, -1.0),
    ("Gamma()", INF, 2.0, INF, 1.0),
    ("Gamma()", -INF, 2.0, INF, -INF),
    ("Tweedie(1.5)", INF, 3.0, INF, INF),
    ("Tweedie(1.5)", INF, 0.0, INF, INF),
    ("Tweedie(1.5)", -INF, 3.0, INF, -INF),
    ("Tweedie(1.5)", -INF, 0.0, 0.0, 0.0),
]

# loss, row of predictions, target, value, gradient
ROWS = [
    ("CrossEntropy()", [0, 0, -INF], [0], LN2, [-0.5, 0.5, 0]),
    ("CrossEntropy()", [0, 0, -INF], [2], INF, [0.5, 0.5, -1]),
    ("CrossEntropy()", [0, 0, -INF], [[0.5, 0.5, 0.0]], LN2, [0, 0, 0]),
    ("CrossEntropy()", [INF, 0, 0], [0], 0, [0, 0, 0]),
    ("CrossEntropy()", [INF, 0, 0], [2], INF, [1, 0, -1]),
    ("CrossEntropy()", [INF, 0, 0], [[1.0, 0.0, 0.0]], 0, [0, 0, 0]),
    ("CrossEntropy()", [INF, -INF, 0], [0], 0, [0, 0, 0]),
    ("CrossEntropy(label_smoothing=0.3)", [INF, 0, 0], [0], INF, [0.2, -0.1, -0.1]),
    ("CrossEntropy(class_weight=[2, 1, 1])", [INF, 0, 0], [0], 0, [0, 0, 0]),
    ("CrossEntropy(class_weight=[1, 2, 1])", [INF, 0, 0], [1], INF, [1, -1, 0]),
    ("GaussianNLL()", [INF, 0], [1.0], INF, [INF, -INF]),
    ("GaussianNLL()", [1, INF], [1.0], INF, [0, 0.5]),
    ("GaussianNLL()", [INF, INF], [1.0], INF, [0, 0.5]),
    ("GaussianNLL(eps=0.5)", [1, -INF], [1.0], np.log(0.5) / 2, [0, 0]),
    ("StudentTNLL(1.0)", [INF, 0], [1.0], INF, [0, -1]),
    ("StudentTNLL(1.0)", [1, INF], [1.0], INF, [0, 1]),
    ("StudentTNLL(1.0)", [INF, INF], [1.0], INF, [0, 1]),
    ("StudentTNLL(1.0)", [3, -INF], [1.0], INF, [1, -1]),
    ("StudentTNLL(1.0)", [1, -INF], [1.0], -INF, [0, 1]),
    ("MixtureDensity(1)", [0, INF, 0], [1.0], INF, [0, INF, -INF]),
    ("MixtureDensity(1)", [0, 1, INF], [1.0], INF, [0, 0, 1]),
    ("MixtureDensity(2)", [INF, 0, 1, 5, 0, 0], [1.0], 0, [0, 0, 0, 0, 1, 0]),
    ("MixtureDensity(2)", [0, 0, 1, INF, 0, 0], [1.0], LN2, [-0.5, 0.5, 0, 0, 1, 0]),
    ("KLDiv()", [INF, 0, 0], [[1.0, 0.0, 0.0]], 0, [0, 0, 0]),
    ("KLDiv()", [INF, 0, 0], [[0.0, 1.0, 0.0]], INF, [1, -1, 0]),
    ("KLDiv(log_target=True)", [0, 0, -INF], [[-LN2, -LN2, -INF]], 0, [0, 0, 0]),
    ("Focal()", [INF, 0, 0], [0], 0, [0, 0, 0]),
    ("Focal()", [INF, 0, 0], [2], INF, [1, 0, -1]),
    ("Focal()", [0, 0, -INF], [2], INF, [0.5, 0.5, -1]),
    ("Focal(0.0)", [INF, 0, 0], [0], 0, [0, 0, 0]),
    ("MultiMargin()", [INF, 0, 0], [0], 0, [0, 0, 0]),
    ("MultiMargin()", [INF, 0, 0], [2], INF, [1 / 3, 1 / 3, -2 / 3]),
    ("MultiMargin()", [INF, INF, 0], [1], 1 / 3, [1 / 3, -1 / 3, 0]),
    ("Ordinal()", [INF, -INF, -INF], [1], 0, [0, 0, 0]),
    ("Ordinal()", [INF, -INF, -INF], [2], INF, [0, -1, 0]),
    ("Quantile([0.25, 0.5], non_crossing=True)", [1, -INF], [[1.0, 1.0]], 0, [0, 0]),
    (
        "Quantile([0.25, 0.5], non_crossing=True)",
        [1, INF],
        [[1.0, 1.0]],
        INF,
        [0.25, 0.25],
    ),
]


def made(library, text):
    return eval(text, vars(library))


def check(result, value, grad, dtype):
    rtol = 8 * np.finfo(dtype).eps  # a few roundings
    np.testing.assert_allclose(result[0], value, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(result[1], grad, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("library", [fm, reference], ids=["core", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ONE, ids=str)
def test_one_output(case, dtype, library, isa):
    text, p, y, value, slope = case
    pred, target = np.array([[p]], dtype), np.array([[y]], dtype)
    check(made(library, text).value_and_grad(pred, target), value, [[slope]], dtype)
    # Many rows, and rows of many outputs, take other paths.
    loss = text if "[" not in text else text.replace("[2.0]", "[2.0] * 19")
    pred, target = np.repeat(pred, 19, 1), np.repeat(target, 19, 1)
    check(made(library, loss).value_and_grad(pred, target), value, slope / 19, dtype)
    result = made(library, text).value_and_grad(pred.T, target.T)
    check(result, value, slope / 19, dtype)


@pytest.mark.parametrize("library", [fm, reference], ids=["core", "reference"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_a_row_of_outputs(case, dtype, library, isa):
    text, p, y, value, grad = case
    pred, target = np.array([p], dtype), np.array(y)
    if target.dtype.kind == "f":
        target = target.astype(dtype)
    if text.startswith(("GaussianNLL", "StudentTNLL", "MixtureDensity")):
        target = target.reshape(1, 1)
    check(made(library, text).value_and_grad(pred, target), value, [grad], dtype)
    if not text.startswith("CrossEntropy"):
        return
    # A wide row takes another path: the added classes are impossible.
    wide = np.full((1, 37), -INF, dtype)
    wide[:, :3] = pred
    if target.ndim == 2:
        target = np.hstack([target, np.zeros((1, 34), dtype)])
    if "smoothing" in text:
        return  # impossible classes have a share of the smoothed label
    loss = text.replace("]", ", *[1] * 34]") if "[" in text else text
    result = made(library, loss).value_and_grad(wide, target)
    check((result[0], result[1][:, :3]), value, [grad], dtype)
    assert (result[1][:, 3:] == 0).all()


@pytest.mark.parametrize("text", sorted({case[0] for case in ONE}))
def test_nan_stays_nan(text, isa):
    loss, nan = made(fm, text), np.full((1, 1), np.nan)
    assert np.isnan(loss(nan, np.ones((1, 1))))
    assert np.isnan(loss.value_and_grad(nan, np.ones((1, 1)))[1]).all()
    assert np.isnan(loss(np.ones((1, 1)), nan))


@pytest.mark.parametrize("library", [fm, reference], ids=["core", "reference"])
@pytest.mark.parametrize("text", ["Huber(1e-50)", "PseudoHuber(1e-50)"])
def test_a_parameter_that_vanishes_in_float32(text, library):
    """It counts as the smallest normal number: nothing is divided by 0."""
    loss = made(library, text)
    for r in (0.0, 1e-3, 1.0, 1e3):
        value, grad = loss.value_and_grad(np.array([r], "f"), np.zeros(1, "f"))
        assert 0 <= value < 1e-30
        assert abs(grad[0]) < 1e-30


@pytest.mark.parametrize("library", [fm, reference], ids=["core", "reference"])
def test_a_least_variance_that_vanishes_in_float32(library):
    loss = library.GaussianNLL(eps=1e-50)
    pred, target = np.array([[1.0, -INF]], "f"), np.array([1.0], "f")
    value, grad = loss.value_and_grad(pred, target)
    least = np.log(float(np.finfo("f").smallest_normal))
    np.testing.assert_allclose(value, least / 2, rtol=1e-6)
    np.testing.assert_array_equal(grad, [[0, 0]])


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (fm.BinaryCrossEntropy(pos_weight=1e39), 1.0),
        (fm.BinaryCrossEntropy(pos_weight=[1e39]), 1.0),
        (fm.Huber(1e300), 1.0),
        (fm.ActionValue(fm.Huber(1e300)), ([0], [1.0])),
        (fm.CrossEntropy(class_weight=[1e39, 1]), [0]),
    ],
    ids=str,
)
def test_a_parameter_that_is_infinite_in_float32_is_refused(loss, target):
    if not isinstance(target, tuple):
        target = np.atleast_1d(target)
    outputs = 2 if isinstance(loss, fm.CrossEntropy) else 1
    with pytest.raises(ValueError, match="too large for predictions of this dtype"):
        loss(np.ones((1, outputs), "f"), target)
    assert np.isfinite(loss(np.ones((1, outputs)), target))
