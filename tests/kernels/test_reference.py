"""Kernels of the reference: finite differences, hand-computed steps, test vectors."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import sys
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference as ref
from helpers import TOLERANCE, central_difference
from reference_cases import (
    ALL_LOSSES,
    ELEMENTWISE_LOSSES,
    ROUNDING,
    assert_gradient,
    targets,
)


def away_from_kinks(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random numbers no closer than 0.05 to 0, where ReLU and others have a kink."""
    z = rng.standard_normal(shape)
    return 2 * z + np.copysign(0.05, z)


def test_imports_only_numpy_and_the_standard_library() -> None:
    roots = set()
    for path in Path(ref.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                roots |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                roots.add(str(node.module).split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 1, "outside the folder"
    assert "numpy" in roots
    assert roots - {"numpy"} <= sys.stdlib_module_names


# fmt: off
CONSTRUCTORS = [
    "MLP", "Dense", "Activation", "Dropout", "LayerNorm", "RMSNorm", "GroupNorm",
    "BatchNorm", "Residual", "Concat", "Parallel", "Columns",
    "Embedding", "Periodic", "PiecewiseLinear", "PReLU", "GLU", "Scale", "Standardise",
    "AlphaDropout", "GaussianNoise", "GaussianDropout",
    "MSE", "MAE", "Huber", "PseudoHuber", "CrossEntropy", "BinaryCrossEntropy",
    "SmoothL1", "LogCosh", "Expectile", "Gamma", "Tweedie", "KLDiv", "BinaryFocal",
    "SoftMargin", "Hinge", "Poisson",
    "SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adamax", "NAdam", "RAdam",
    "Adadelta", "Rprop", "ASGD", "Lion", "AdaBelief", "ScheduleFreeSGD",
    "ScheduleFreeAdamW", "Prodigy",
]


# fmt: on
LEFT_OUT = {
    *("callbacks", "compute_dtype", "metrics", "progress", "steps_per_epoch"),
    *("accumulate", "groups"),  # compared with PyTorch
}


def parameters(function: Any) -> list[tuple[str, object, object]]:
    """Name, default and kind of each parameter that the reference has as well."""
    found = inspect.signature(function).parameters.values()
    return [(p.name, p.default, p.kind) for p in found if p.name not in LEFT_OUT]


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors_have_the_signatures_of_the_package(name: str) -> None:
    assert parameters(getattr(ref, name)) == parameters(getattr(fm, name))


# The reference does not have these: they are compared with differences and PyTorch.
DERIVATIVES = {
    "hessian",
    "hvp",
    "jacobian",
    "jvp",
    "param_jacobian",
    "per_sample_grads",
}


# What is frozen is compared with what is not.
FREEZING = {"freeze", "unfreeze"}

FORMATS = {"as_torch_module", "predictor", "save", "to_c", "to_onnx", "to_torch"}


@pytest.mark.parametrize(
    ("ours", "theirs", "missing"),
    [
        (ref.MLP, fm.MLP, {"diagram", "summary", *DERIVATIVES, *FORMATS, *FREEZING}),
        (ref.Loss, fm.losses.Loss, set()),
        (ref.Optimizer, fm.optimizers.Optimizer, {"state_dict", "load_state_dict"}),
    ],
    ids=["MLP", "Loss", "Optimizer"],
)
def test_methods_have_the_signatures_of_the_package(
    ours: type, theirs: type, missing: set[str]
) -> None:
    def methods(cls: type) -> set[str]:
        public = {n for n in dir(cls) if n == "__call__" or not n.startswith("_")}
        return {n for n in public if inspect.isfunction(getattr(cls, n))}

    assert methods(theirs) - methods(ours) == missing
    for method in methods(theirs) - missing:
        expected = parameters(getattr(theirs, method))
        assert parameters(getattr(ours, method)) == expected, method


@pytest.mark.parametrize("accumulate", [False, True])
def test_products_are_sums_of_products(
    rng: np.random.Generator, accumulate: bool
) -> None:
    a = rng.integers(-9, 10, (4, 3)).astype(float)
    b = rng.integers(-9, 10, (3, 5)).astype(float)
    start = rng.integers(-9, 10, (4, 5)).astype(float)
    expected = start * accumulate
    for i, j, p in np.ndindex(4, 5, 3):
        expected[i, j] += a[i, p] * b[p, j]
    calls = {
        ref.gemm_nn: (a, b),
        ref.gemm_nt: (a, b.T.copy()),
        ref.gemm_tn: (a.T.copy(), b),
    }
    for gemm, operands in calls.items():
        c = start.copy()
        assert gemm(c, *operands, accumulate=accumulate) is None
        np.testing.assert_array_equal(c, expected)


def test_bias_and_accumulate_exclude_each_other() -> None:
    c = np.zeros((1, 1))
    with pytest.raises(ValueError, match="bias"):
        ref.gemm_nn(c, np.ones((1, 1)), np.ones((1, 1)), np.ones(1), True)


def test_dense_forward_by_hand() -> None:
    h = np.empty((1, 2))
    x, w = np.array([[1.0, 2.0]]), np.array([[1.0, -1.0], [3.0, -3.0]])
    ref.dense_forward(h, x, w, np.array([0.5, 0.5]), "relu")
    np.testing.assert_array_equal(h, [[7.5, 0.0]])
    ref.dense_forward(h, x, w, None, "identity")
    np.testing.assert_array_equal(h, [[7.0, -7.0]])


def test_column_sum(rng: np.random.Generator) -> None:
    a, out = rng.integers(-9, 10, (7, 3)).astype(float), np.full(3, np.nan)
    ref.column_sum(out, a)
    np.testing.assert_array_equal(out, a.sum(axis=0))


# act(-1), act(1) from the defining formulas, to 17 digits.
ACTIVATION_VALUES = {
    "identity": (-1.0, 1.0),
    "relu": (0.0, 1.0),
    "relu6": (0.0, 1.0),
    "leaky_relu": (-0.01, 1.0),
    "threshold": (0.0, 1.0),
    "celu": (-0.63212055882855768, 1.0),
    "hardswish": (-1 / 3, 2 / 3),
    "logsigmoid": (-1.3132616875182228, -0.31326168751822283),
    "hardsigmoid": (1 / 3, 2 / 3),
    "hardtanh": (-1.0, 1.0),
    "tanhshrink": (-0.23840584404423511, 0.23840584404423511),
    "softshrink": (-0.5, 0.5),
    "hardshrink": (-1.0, 1.0),
    "elu": (-0.63212055882855768, 1.0),
    "selu": (-1.1113307378125628, 1.0507009873554805),
    "gelu": (-0.15865525393145705, 0.84134474606854295),
    "gelu_tanh": (-0.15880800939172324, 0.84119199060827676),
    "silu": (-0.26894142136999512, 0.73105857863000488),
    "mish": (-0.30340146137410895, 0.86509838826731034),
    "softplus": (0.31326168751822283, 1.3132616875182228),
    "softsign": (-0.5, 0.5),
    "sigmoid": (0.26894142136999512, 0.73105857863000488),
    "tanh": (-0.76159415595576489, 0.76159415595576489),
    "sin": (-0.84147098480789651, 0.84147098480789651),
    "cos": (0.5403023058681397, 0.5403023058681397),
    "exp": (0.36787944117144232, 2.7182818284590452),
    "softmax": (0.1192029220221176, 0.8807970779778824),
}


@pytest.mark.parametrize("kind", ref.ACTIVATIONS)
def test_activation_values(kind: str) -> None:
    h = np.empty((1, 2))
    ref.activation_forward(h, np.array([[-1.0, 1.0]]), kind)
    np.testing.assert_allclose(h, [ACTIVATION_VALUES[kind]], rtol=ROUNDING)


@pytest.mark.parametrize("kind", ref.ACTIVATIONS)
def test_activation_derivative(kind: str, rng: np.random.Generator) -> None:
    z, dh = away_from_kinks(rng, (4, 5)), rng.standard_normal((4, 5))
    h, dz = np.empty_like(z), np.empty_like(z)

    def value() -> float:
        ref.activation_forward(h, z, kind)
        return float((h * dh).sum())

    value()
    saved = z if ref.activation_saves(kind) == "input" else h.copy()
    ref.activation_backward(dz, dh, saved, kind)
    assert_gradient(dz, central_difference(value, z))


@pytest.mark.parametrize("kind", ref.ACTIVATIONS)
def test_activations_keep_the_dtype_and_may_work_in_place(
    kind: str, dtype: type, rng: np.random.Generator
) -> None:
    z = rng.standard_normal((3, 4)).astype(dtype)
    h, in_place = np.empty_like(z), z.copy()
    ref.activation_forward(h, z, kind)
    ref.activation_forward(in_place, in_place, kind)
    np.testing.assert_array_equal(in_place, h)
    wide = np.empty((3, 4))
    ref.activation_forward(wide, z.astype(np.float64), kind)
    np.testing.assert_allclose(h, wide, rtol=TOLERANCE["elementwise"].of(dtype))


def test_activation_saves() -> None:
    inputs = {k for k in ref.ACTIVATIONS if ref.activation_saves(k) == "input"}
    assert inputs == {
        *("threshold", "gelu", "gelu_tanh", "silu", "hardswish", "mish"),
        *("tanhshrink", "sin", "cos"),
    }
    with pytest.raises(ValueError, match="glu"):
        ref.activation_saves("glu")


@pytest.mark.parametrize("kind", ["relu", "leaky_relu"])
def test_derivative_at_the_kink_is_that_of_the_left(kind: str) -> None:
    dz, one, zero = np.empty((1, 1)), np.ones((1, 1)), np.zeros((1, 1))
    ref.activation_backward(dz, one, zero, kind)
    assert dz[0, 0] == {"relu": 0.0, "leaky_relu": 0.01}[kind]


@pytest.mark.parametrize(
    "kind", sorted(set(ref.ACTIVATIONS) - {"sin", "cos", "exp", "softmax"})
)
def test_far_out_nothing_overflows(kind: str) -> None:
    z = np.array([[-1e200, -1e3, 1e3, 1e200]])
    h, dz = np.empty_like(z), np.empty_like(z)
    ref.activation_forward(h, z, kind)
    saved = z if ref.activation_saves(kind) == "input" else h
    ref.activation_backward(dz, np.ones_like(z), saved, kind)
    assert np.isfinite(h).all()
    assert np.isfinite(dz).all()


def test_softmax_of_large_logits() -> None:
    h = np.empty((1, 3))
    ref.activation_forward(h, np.array([[1e4, 1e4, -1e4]]), "softmax")
    np.testing.assert_array_equal(h, [[0.5, 0.5, 0.0]])


@pytest.mark.parametrize(
    ("function", "x", "expected"),
    [
        ("exp", [-np.inf, 0.0, 710.0], [0.0, 1.0, np.inf]),
        ("expm1", [-np.inf, 1e-300], [-1.0, 1e-300]),
        ("log", [0.0, 1.0, -1.0], [-np.inf, 0.0, np.nan]),
        ("log1p", [-1.0, 1e-300], [-np.inf, 1e-300]),
        ("tanh", [-np.inf, 0.0, 40.0], [-1.0, 0.0, 1.0]),
        ("sigmoid", [-np.inf, 0.0, np.inf], [0.0, 0.5, 1.0]),
        ("sin", [0.0, np.inf], [0.0, np.nan]),
        ("cos", [0.0, np.inf], [1.0, np.nan]),
        ("erf", [-np.inf, 0.0, np.inf], [-1.0, 0.0, 1.0]),
        ("erfc", [-np.inf, 0.0, np.inf], [2.0, 1.0, 0.0]),
    ],
)
def test_elementary_special_values(
    function: str, x: list[float], expected: list[float]
) -> None:
    out = np.empty(len(x))
    ref.elementary(out, np.array(x), function)
    np.testing.assert_array_equal(out, expected)


REDUCTIONS = ("mean", "sum")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ALL_LOSSES)
def test_loss_gradient(
    name: str, reduction: str, weighted: bool, rng: np.random.Generator
) -> None:
    loss = ALL_LOSSES[name](reduction=reduction)
    pred, y = rng.standard_normal((5, 3)), targets(name, rng, 5, 3)
    weight = rng.uniform(0, 2, 5) if weighted else None
    value, dpred = loss.value_and_grad(pred, y, weight)
    assert value == loss(pred, y, weight)
    assert_gradient(dpred, central_difference(lambda: loss(pred, y, weight), pred))


@pytest.mark.parametrize("name", ELEMENTWISE_LOSSES)
def test_losses_of_vectors_are_those_of_one_output(
    name: str, rng: np.random.Generator
) -> None:
    loss = ELEMENTWISE_LOSSES[name](reduction="mean")
    pred, y = rng.standard_normal(6), targets(name, rng, 6, 1)[:, 0]
    value, dpred = loss.value_and_grad(pred, y)
    column_value, column_dpred = loss.value_and_grad(pred[:, None], y[:, None])
    assert value == column_value
    np.testing.assert_array_equal(dpred, column_dpred[:, 0])


# Hand-computed values and derivatives of one row: pred, target -> loss, dloss / dpred.
LOSS_VALUES = [
    (ref.MSE(reduction="sum"), [1.0, 5.0], [3.0, 4.0], 5.0, [-4.0, 2.0]),
    (ref.MSE(reduction="mean"), [1.0, 5.0], [3.0, 4.0], 2.5, [-2.0, 1.0]),
    (ref.MAE(reduction="sum"), [1.0, 5.0, 2.0], [3.0, 4.0, 2.0], 3.0, [-1.0, 1.0, 0.0]),
    (ref.Huber(2.0, reduction="sum"), [1.0, 6.0], [0.0, 1.0], 0.5 + 8.0, [1.0, 2.0]),
    # delta 3, residual 4: 9 (sqrt(1 + 16/9) - 1) = 6, slope 4 / (5/3) = 2.4.
    (ref.PseudoHuber(3.0, reduction="sum"), [4.0, 0.0], [0.0, 0.0], 6.0, [2.4, 0.0]),
    (ref.BinaryCrossEntropy(reduction="sum"), [0.0], [1.0], math.log(2), [-0.5]),
    (
        ref.BinaryCrossEntropy(reduction="sum"),
        [1000.0, -1000.0],
        [0.0, 0.0],
        1000.0,
        [1.0, 0.0],
    ),
    (
        ref.CrossEntropy(),
        [math.log(1), math.log(3)],
        [0.0, 1.0],
        math.log(4 / 3),
        [0.25, -0.25],
    ),
    (ref.CrossEntropy(), [1e4, -1e4], [0.0, 1.0], 2e4, [1.0, -1.0]),
]


@pytest.mark.parametrize(("loss", "pred", "y", "value", "slope"), LOSS_VALUES)
def test_loss_values_by_hand(
    loss: ref.Loss,
    pred: list[float],
    y: list[float],
    value: float,
    slope: list[float],
) -> None:
    actual, dpred = loss.value_and_grad(np.array([pred]), np.array([y]))
    assert actual == pytest.approx(value, rel=ROUNDING)
    np.testing.assert_allclose(dpred, [slope], rtol=ROUNDING, atol=ROUNDING)


def test_labels_are_one_hot_probabilities(rng: np.random.Generator) -> None:
    pred, labels = rng.standard_normal((6, 4)), rng.integers(0, 4, 6)
    by_label = ref.CrossEntropy().value_and_grad(pred, labels)
    by_row = ref.CrossEntropy().value_and_grad(pred, np.eye(4)[labels])
    assert by_label[0] == by_row[0]
    np.testing.assert_array_equal(by_label[1], by_row[1])


def test_a_masked_class_costs_nothing() -> None:
    pred = np.array([[0.0, -np.inf, 0.0]])
    value, dpred = ref.CrossEntropy().value_and_grad(pred, np.array([2]))
    assert value == pytest.approx(math.log(2), rel=ROUNDING)
    np.testing.assert_allclose(dpred, [[0.5, 0.0, -0.5]], rtol=ROUNDING)


def test_integer_weights_count_rows(rng: np.random.Generator) -> None:
    pred, y = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    counts = np.array([1, 3, 0])
    repeated = ref.MSE()(np.repeat(pred, counts, 0), np.repeat(y, counts, 0))
    assert ref.MSE()(pred, y, counts) == pytest.approx(repeated, rel=ROUNDING)


def test_loss_rows_without_a_gradient(rng: np.random.Generator) -> None:
    pred, y = rng.standard_normal((3, 2)), rng.standard_normal((3, 2))
    row_loss = np.full(3, np.nan)
    assert ref.loss_rows(None, row_loss, pred, y, np.ones(3), "mse") is None
    np.testing.assert_allclose(row_loss, ((pred - y) ** 2).sum(axis=1), rtol=ROUNDING)


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_out_of_range_are_refused(label: int) -> None:
    labels = np.array([0, label])
    dpred, row_loss = np.full((2, 3), 7.0), np.full(2, 7.0)
    arrays = dpred, row_loss, np.zeros((2, 3)), labels, np.ones(2)
    with pytest.raises(ValueError, match=f"label {label} in row 1 .* 3 classes"):
        ref.loss_rows(*arrays, "cross_entropy")
    assert (dpred == 7).all()
    assert (row_loss == 7).all()
    mlp, x = ref.MLP([2, 3], seed=0), np.ones((2, 2))
    before = mlp.params.copy()
    tools = {"loss": ref.CrossEntropy(), "optimizer": ref.SGD(0.1)}
    with pytest.raises(ValueError, match=f"label {label}"):
        mlp.train_step(x, labels, **tools)
    with pytest.raises(ValueError, match=f"label {label}"):
        mlp.fit(x, labels, epochs=1, batch_size=1, **tools, shuffle=False)
    np.testing.assert_array_equal(mlp.params, before)


def test_labels_are_integers() -> None:
    with pytest.raises(TypeError):
        ref.CrossEntropy()(np.zeros((2, 3)), np.array([0.0, 1.5]))


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2,), (2, 1)])
def test_targets_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="target of shape"):
        ref.MSE()(np.zeros((2, 3)), np.zeros(shape))


def test_unknown_loss() -> None:
    with pytest.raises(ValueError, match="unheard"):
        ref.Loss("unheard")(np.zeros((1, 1)), np.zeros((1, 1)))


# Each case: the optimiser, the gradients of successive steps, and the parameter after
# each step, starting from 1.0, computed by hand.
STEPS = {
    "plain": (ref.SGD(0.1), [2, 1], [0.8, 0.7]),
    "momentum": (ref.SGD(0.1, momentum=0.9), [2, 1], [0.8, 0.52]),
    "dampening": (ref.SGD(0.1, momentum=0.9, dampening=0.5), [2, 1], [0.8, 0.57]),
    "nesterov": (ref.SGD(0.1, momentum=0.9, nesterov=True), [2, 1], [0.62, 0.268]),
    "decay": (ref.SGD(0.1, weight_decay=0.1), [2, 1], [0.79, 0.6821]),
    "ascent": (ref.SGD(0.1, maximize=True), [2, 1], [1.2, 1.3]),
    "ascent, decay": (ref.SGD(0.1, weight_decay=0.1, maximize=True), [2], [1.19]),
    "adagrad": (ref.Adagrad(0.5, eps=0), [3, 4], [0.5, 0.1]),
    "adagrad outside": (ref.Adagrad(0.5, eps=1), [3], [0.625]),
    "adagrad inside": (ref.Adagrad(0.5, eps=7, eps_mode="inside"), [3], [0.625]),
    "adagrad lr_decay": (ref.Adagrad(0.5, lr_decay=1, eps=0), [3, 4], [0.5, 0.3]),
    "adagrad start": (
        ref.Adagrad(0.5, initial_accumulator_value=16, eps=0),
        [3],
        [0.7],
    ),
    "adagrad ascent": (ref.Adagrad(0.5, eps=0, maximize=True), [3], [1.5]),
    "adagrad decay": (ref.Adagrad(0.5, eps=4, weight_decay=1), [3], [0.75]),
    "rmsprop": (ref.RMSprop(0.1, alpha=0.75, eps=0), [4, 2], [0.8, 0.7]),
    "rmsprop outside": (ref.RMSprop(0.1, alpha=0.75, eps=2), [4], [0.9]),
    "rmsprop inside": (
        ref.RMSprop(0.1, alpha=0.75, eps=12, eps_mode="inside"),
        [4],
        [0.9],
    ),
    "rmsprop momentum": (
        ref.RMSprop(0.1, alpha=0.75, eps=0, momentum=0.5),
        [4, 2],
        [0.8, 0.6],
    ),
    "rmsprop centred": (
        ref.RMSprop(0.1, alpha=0.5, eps=0, centered=True),
        [4, -1],
        [0.8, 0.8 + 0.1 / math.sqrt(4.25)],
    ),
    "rmsprop centred, no variance": (
        ref.RMSprop(0.1, alpha=0, eps=1, centered=True),
        [0.1, 0.3],
        [0.99, 0.96],
    ),
    "rmsprop ascent": (ref.RMSprop(0.1, alpha=0.75, eps=0, maximize=True), [4], [1.2]),
    "rmsprop decay": (
        ref.RMSprop(0.1, alpha=0.75, eps=2.5, weight_decay=1),
        [4],
        [0.9],
    ),
    "adam": (
        ref.Adam(0.1, betas=(0.5, 0.75), eps=0),
        [2, 4],
        [0.9, 0.9 - 0.1 * (2.5 / 0.75) / math.sqrt(4.75 / 0.4375)],
    ),
    "adam outside": (ref.Adam(0.1, betas=(0.5, 0.75), eps=2), [2], [0.95]),
    "adam inside": (
        ref.Adam(0.1, betas=(0.5, 0.75), eps=12, eps_mode="inside"),
        [2],
        [0.95],
    ),
    "adam hat": (
        ref.Adam(0.1, betas=(0.5, 0.75), eps=1, eps_mode="hat"),
        [2, 4],
        [
            0.95,
            0.95 - 0.1 * math.sqrt(0.4375) / 0.75 * 2.5 / (math.sqrt(4.75) + 1),
        ],
    ),
    "amsgrad": (
        ref.Adam(0.1, betas=(0.5, 0.75), eps=0, amsgrad=True),
        [2, 0],
        [0.9, 0.9 - 0.1 * (0.5 / 0.75) / math.sqrt(1 / 0.4375)],
    ),
    "adam decay": (
        ref.Adam(0.1, betas=(0.5, 0.75), eps=2.5, weight_decay=0.5),
        [2],
        [0.95],
    ),
    "adam ascent": (
        ref.Adam(0.1, betas=(0.5, 0.75), eps=0, maximize=True),
        [2],
        [1.1],
    ),
    "adamw": (
        ref.AdamW(0.1, betas=(0.5, 0.75), eps=0, weight_decay=0.5),
        [2],
        [0.85],
    ),
    "adamw ascent": (
        ref.AdamW(0.1, betas=(0.5, 0.75), eps=0, weight_decay=0.5, maximize=True),
        [2],
        [1.05],
    ),
    # |g| is below the decayed norm in the second step.
    "adamax": (
        ref.Adamax(0.1, betas=(0.5, 0.75), eps=0),
        [4, 2],
        [0.9, 0.9 - 0.1 * (2 / 0.75) / 3],
    ),
    "adamax eps": (ref.Adamax(0.1, betas=(0.5, 0.75), eps=2), [2], [0.95]),
    "adamax decay": (
        ref.Adamax(0.1, betas=(0.5, 0.75), eps=2.5, weight_decay=0.5),
        [2],
        [0.95],
    ),
    "adamax ascent": (ref.Adamax(0.1, eps=0, maximize=True), [2], [1.1]),
    # Without momentum_decay every momentum is beta1 / 2, here 1/4.
    "nadam": (
        ref.NAdam(0.1, (0.5, 0.75), 0, momentum_decay=0),
        [2],
        [1 - 0.1 * (0.75 / 0.75 * 2 + 0.25 / 0.9375 * 1) / 2],
    ),
    "radam": (ref.RAdam(0.1, (0.5, 0.75)), [2, 4], [0.8, 0.8 - 0.1 * 2.5 / 0.75]),
    "adadelta": (ref.Adadelta(0.5, rho=0.75, eps=1), [2], [1 - 0.5 * 2 / 2**0.5]),
    "rprop": (ref.Rprop(0.25, (0.5, 2)), [2, 1, -1, -1], [0.75, 0.25, 0.25, 0.5]),
    "asgd": (
        ref.ASGD(0.5, lambd=2, alpha=0.5),
        [1, 2],
        [-0.5, -0.5 * (1 - 1 / 2**0.5) - 1 / 2**0.5],
    ),
    "lion": (ref.Lion(0.1, (0.5, 0.5), 0.5), [2, -0.5], [0.85, 0.85 * 0.95 - 0.1]),
    "adabelief": (ref.AdaBelief(0.1, (0.5, 0.75), 0), [2], [0.8]),
    # z: 1, 0.8, 0.7; x: 1, 0.8, 0.75.
    "schedule-free sgd": (ref.ScheduleFreeSGD(0.1, 0.5), [2, 1], [0.8, 0.725]),
    "schedule-free adamw": (
        ref.ScheduleFreeAdamW(0.1, (0.5, 0.75), 0, weight_decay=1),
        [2],
        [1 - 0.1 * 0.5 * (2 / 1 + 1)],
    ),
    # The first estimate above d0 = 1/8 is that of step 3, r / s = (5 / 64) / (7 / 16).
    "prodigy": (
        ref.Prodigy(1.0, (0.0, 0.0), 0.5, 0, d0=0.125),
        [2, 2, 2, 2],
        [0.875, 0.75, 0.625, 0.625 - 5 / 28],
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps_by_hand(case: str) -> None:
    optimizer, gradients, expected = STEPS[case]
    optimizer = dataclasses.replace(optimizer)  # without the state of other runs
    param, path = np.ones(1), []
    for g in gradients:
        grad = np.array([float(g)])
        optimizer.step(param, grad)
        assert grad[0] == g
        path.append(param[0])
    np.testing.assert_allclose(path, expected, rtol=ROUNDING)


def test_one_step_count_for_all_arrays() -> None:
    together, alone = ref.Adam(0.1), ref.Adam(0.1)
    a, b, c = np.ones(2), np.ones((2, 2)), np.ones(2)
    for _ in range(3):
        together.step([a, b], [0.3 * a, 0.2 * b])
        alone.step(c, 0.3 * c)
    assert together.step_count == 3
    np.testing.assert_array_equal(a, c)


def test_arrays_that_do_not_fit_change_nothing() -> None:
    optimizer, a, b = ref.SGD(0.1, momentum=0.9), np.ones(2), np.ones(3)
    with pytest.raises(ValueError, match="same number"):
        optimizer.step([a, b], [a])
    optimizer.step([a, b], [np.ones(2), np.ones(3)])
    before = a.copy(), b.copy()
    for params, grads in [
        ([a], [np.ones(2)]),
        ([a, b], [np.ones(2)]),
        ([a, b], [np.ones(2), np.ones(1)]),
        ([b, a], [np.ones(3), np.ones(2)]),
    ]:
        with pytest.raises(ValueError, match="params"):
            optimizer.step(params, grads)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(b, before[1])
    assert optimizer.step_count == 1
    optimizer.reset()
    optimizer.step(b, np.ones(3))
    assert optimizer.step_count == 1


def test_momentum_needs_its_array() -> None:
    param, square = np.ones(1), np.ones(1)
    with pytest.raises(ValueError, match="buf"):
        ref.sgd_step(param, None, np.ones(1), 0.1, 0.9, 0.0, False, 0.0, False, 1)
    with pytest.raises(ValueError, match="momentum_buf"):
        ref.rmsprop_step(
            *(param, square, None, None, np.ones(1)),
            *(0.1, 0.9, 1e-8, 0.9, 0.0, False, "outside"),
        )
    assert (param[0], square[0]) == (1, 1)


def test_unknown_eps_mode() -> None:
    with pytest.raises(ValueError, match="beside"):
        ref.Adam(eps_mode="beside").step(np.ones(1), np.ones(1))


def test_without_weight_decay_the_parameter_stays_out_of_its_gradient() -> None:
    param = np.array([np.inf])
    ref.sgd_step(param, None, np.ones(1), 0.1, 0.0, 0.0, False, 0.0, False, 1)
    assert param[0] == np.inf


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known-answer vectors of Random123 for philox4x32-10
        (
            (0, 0, 0, 0),
            (0, 0),
            (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    assert tuple(int(word) for word in ref.philox4x32(counter, key)) == expected


@pytest.mark.parametrize("n", [0, 1, 2, 3, 100, 1001])
def test_shuffle_is_a_permutation(n: int) -> None:
    order = np.full(n, -1)
    assert ref.shuffle(order, 7, 0) is None
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


def test_shuffle_depends_on_every_bit_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> tuple[int, ...]:
        result = np.arange(50)[::-1].copy()
        ref.shuffle(result, seed, epoch)
        return tuple(result.tolist())

    cases = [(0, 0), (1, 0), (1 << 32, 0), (0, 1), (1, 1)]
    assert len({order(*case) for case in cases}) == len(cases)
    assert order(1, 1) == order(1, 1)


def test_shuffles_are_uniform() -> None:
    # 3 elements have 6 orders; for 6,000 draws, chi-squared with 5 degrees of freedom
    # exceeds 30 with probability 1.5e-5, and the seeds are fixed.
    order, counts = np.empty(3, np.int64), {}
    for seed in range(6000):
        ref.shuffle(order, seed, 0)
        key = tuple(order.tolist())
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    assert sum((n - 1000) ** 2 / 1000 for n in counts.values()) < 30
