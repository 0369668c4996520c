"""One case per loss, with targets and a reference."""

from __future__ import annotations

from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import SEED, toy_mlp

# Against the same formulas in numpy or torch, in either dtype: a few roundings of each
# term, and sums of a few terms.
LOSS_ULPS = 64


OUTPUTS = 4


WEIGHTS = (0.5, 2.0, 0.0, 1.25)  # of classes


EACH = (0.25, 3.0, 1.0, 0.5)  # of ones among the targets


QS = (0.1, 0.5, 0.9, 0.25)


# Each loss with the kind of its targets.
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
    "smooth l1": (fm.SmoothL1(0.5), "values"),
    "smooth l1, beta 0": (fm.SmoothL1(0.0), "values"),
    "log cosh": (fm.LogCosh(), "values"),
    "soft margin": (fm.SoftMargin(), "signs"),
    "expectile": (fm.Expectile(0.2), "values"),
    "expectiles": (fm.Expectile(QS), "values"),
    "quantile steps": (fm.Quantile(sorted(QS), non_crossing=True), "values"),
    "binary focal": (fm.BinaryFocal(), "bits"),
    "binary focal, fractions": (fm.BinaryFocal(1.5, None), "fractions"),
    "binary focal, gamma 0": (fm.BinaryFocal(0.0, 0.4), "bits"),
    "gamma": (fm.Gamma(), "positive"),
    "tweedie": (fm.Tweedie(1.3), "counts"),
    "student": (fm.StudentTNLL(3.5), "values of pairs"),
    "students": (fm.StudentTNLL([0.5, 20.0]), "values of pairs"),
    "divergence": (fm.KLDiv(), "shares"),
    "divergence, logarithms": (fm.KLDiv(log_target=True), "log shares"),
    "focal": (fm.Focal(), "labels"),
    "focal, one alpha": (fm.Focal(0.5, 0.25), "labels"),
    "focal, alphas": (fm.Focal(3.0, WEIGHTS), "labels"),
    "focal, gamma 0": (fm.Focal(0.0), "labels"),
    "multi margin": (fm.MultiMargin(), "labels"),
    "multi margin, squared": (fm.MultiMargin(2, 0.5, WEIGHTS), "labels"),
    "ordinal": (fm.Ordinal(), "ranks"),
    "ordinal, weights": (fm.Ordinal(WEIGHTS), "ranks"),
    "output weights": (fm.MSE(output_weight=WEIGHTS), "values"),
    "weighted quantiles": (fm.Quantile(QS, output_weight=EACH), "values"),
    "weighted steps": (
        fm.Quantile(sorted(QS), non_crossing=True, output_weight=EACH),
        "values",
    ),
    "weighted means": (fm.GaussianNLL(output_weight=[1.0, 3.0]), "values of pairs"),
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
        "log shares": np.log(rng.dirichlet(np.ones(OUTPUTS), rows)).astype(dtype),
        "positive": (np.abs(values) + 0.01).astype(dtype),
        "bits": (values > 0).astype(dtype),
        "ranks": rng.integers(0, OUTPUTS + 1, rows),
        "labels": labels,
    }[what]


def problem(name: str, dtype: Any = np.float64, rows: int = 11) -> tuple[Any, Any, Any]:
    """Return predictions, targets and weights of rows."""
    rng = np.random.default_rng(SEED)
    pred = (1.5 * rng.standard_normal((rows, OUTPUTS))).astype(dtype)
    if name == "gaussian":
        pred[0, OUTPUTS // 2 :] = -8.0  # below the smallest variance
    return pred, targets(CASES[name][1], rng, rows, dtype), rng.uniform(0, 2, rows)


def with_reduction(loss: fm.losses.Loss, reduction: str) -> fm.losses.Loss:
    if isinstance(loss, fm.ActionValue):
        return fm.ActionValue(with_reduction(loss.loss, reduction))
    return type(loss)(**{**loss._arguments(), "reduction": reduction})


# The cases that PyTorch has no formula for: means over outputs of different weights.
WEIGHTED = ("output weights", "weighted quantiles", "weighted steps", "weighted means")


def in_reference(loss: fm.losses.Loss) -> Any:
    if isinstance(loss, fm.ActionValue):
        return reference.ActionValue(in_reference(loss.loss))
    return getattr(reference, type(loss).__name__)(**loss._arguments())


def assert_close(actual: Any, wanted: Any, dtype: Any) -> None:
    scale = max(1.0, float(np.abs(wanted).max()))
    bound = LOSS_ULPS * float(np.finfo(dtype).eps) * scale
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=bound)


def same(a: Any, b: Any) -> bool:
    """Assert that arrays are equal to the last bit."""
    if isinstance(a, tuple):
        return all(same(*pair) for pair in zip(a, b, strict=True))
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def network(dtype: Any, seed: int = 0) -> fm.MLP:
    return toy_mlp(seed, OUTPUTS, dtype=dtype)


def inputs(rows: int, dtype: Any) -> np.ndarray:
    return np.random.default_rng(SEED).standard_normal((rows, 3)).astype(dtype)
