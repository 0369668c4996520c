"""Losses: options, targets, and their values in PyTorch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .spec import Batch, Spec, Target, log_uniform

# Pairs (class name, kind of target). Cross-entropy takes labels or probabilities as
# targets. With several quantiles, all outputs may share one target ("shared").
LOSSES = (
    ("MSE", "values"),
    ("MAE", "values"),
    ("Huber", "values"),
    ("PseudoHuber", "values"),
    ("CrossEntropy", "labels"),
    ("CrossEntropy", "probabilities"),
    ("BinaryCrossEntropy", "fractions"),
    ("Poisson", "counts"),
    ("Quantile", "values"),
    ("Quantile", "shared"),
    ("GaussianNLL", "values"),
    ("Hinge", "signs"),
    ("ActionValue", "actions"),
)
# Losses that `ActionValue` may wrap.
OF_ONE_VALUE = tuple(
    (loss, target)
    for loss, target in LOSSES
    if target in ("values", "fractions", "counts", "signs") and loss != "GaussianNLL"
)


def draw_loss(
    rng: np.random.Generator, loss: str, target: str, n_out: int
) -> dict[str, Any]:
    """Random options of a loss; with n_out = 0 no option has a value per output."""
    options: dict[str, Any] = {}
    each = n_out > 0 and (target == "shared" or bool(rng.random() < 0.5))
    if loss in ("Huber", "PseudoHuber"):
        options["delta"] = log_uniform(rng, 0.2, 2.0)
    elif loss == "CrossEntropy":
        if rng.random() < 0.6:
            options["label_smoothing"] = float(rng.uniform(0.0, 0.5))
        if rng.random() < 0.6:
            options["class_weight"] = rng.uniform(0.2, 3.0, n_out).tolist()
    elif loss == "BinaryCrossEntropy" and rng.random() < 0.7:
        weights = rng.uniform(0.2, 4.0, n_out).tolist()
        options["pos_weight"] = weights if each else float(rng.uniform(0.2, 4.0))
    elif loss == "Quantile":
        levels = rng.uniform(0.05, 0.95, n_out).tolist()
        options["q"] = levels if each else float(rng.uniform(0.05, 0.95))
    elif loss == "GaussianNLL" and rng.random() < 0.5:
        options["eps"] = log_uniform(rng, 1e-6, 1.0)
    elif loss == "Hinge":
        options["margin"] = float(rng.choice([0.0, 1.0, rng.uniform(0.1, 3.0)]))
    return options


def draw_target(spec: Spec, rows: int, rng: np.random.Generator) -> Target:
    """Targets of one batch."""
    shape = rows, spec.n_target
    if spec.target == "labels":
        return rng.integers(0, spec.n_out, rows)
    if spec.target == "probabilities":
        y = rng.exponential(size=shape)
        # Rows need not sum to one: the gradient is softmax * sum(y) - y.
        y /= y.sum(axis=1, keepdims=True) if rng.random() < 0.5 else spec.n_out
    elif spec.target == "fractions":
        y = rng.random(shape)
        if rng.random() < 0.5:
            y = np.round(y)
    elif spec.target == "counts":
        y = rng.poisson(rng.uniform(0.5, 4.0), shape).astype(np.float64)
    elif spec.target == "signs":
        y = rng.choice([-1.0, 1.0], shape)
    else:
        y = rng.normal(size=shape)
    y = y.astype(spec.dtype)
    if spec.flat_target:
        y = y[:, 0].copy()
    if spec.action:
        return rng.integers(0, spec.n_out, rows), y
    return y


@dataclasses.dataclass(frozen=True)
class TorchBatch:
    """A batch as tensors of one dtype; all targets but labels have two axes."""

    x: torch.Tensor
    y: torch.Tensor
    weight: torch.Tensor | None
    actions: torch.Tensor | None


def torch_batch(spec: Spec, batch: Batch, dtype: torch.dtype) -> TorchBatch:
    """Convert a batch."""
    actions, values = batch.y if isinstance(batch.y, tuple) else (None, batch.y)
    y = torch.from_numpy(values)
    if spec.target != "labels":
        y = y.to(dtype)
    if spec.flat_target:
        y = y[:, None]
    weight = None if batch.weight is None else torch.from_numpy(batch.weight).to(dtype)
    return TorchBatch(
        x=torch.from_numpy(batch.x).to(dtype),
        y=y,
        weight=weight,
        actions=None if actions is None else torch.from_numpy(actions),
    )


def chosen(pred: torch.Tensor, batch: TorchBatch) -> torch.Tensor:
    """Return the selected predictions, as columns."""
    if batch.actions is None:
        return pred
    return pred.gather(1, batch.actions[:, None])


def cross_entropy(
    spec: Spec, pred: torch.Tensor, y: torch.Tensor, reduction: str
) -> torch.Tensor:
    """Return PyTorch's loss function."""
    weight = spec.loss_options.get("class_weight")
    return F.cross_entropy(
        pred,
        y,
        weight=None if weight is None else torch.tensor(weight, dtype=pred.dtype),
        label_smoothing=spec.loss_options.get("label_smoothing", 0.0),
        reduction=reduction,
    )


def torch_elements(spec: Spec, pred: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the loss per element; for cross-entropy per row, as one column."""
    options = spec.loss_options
    delta = options.get("delta", 1.0)
    if spec.loss == "MSE":
        return F.mse_loss(pred, y, reduction="none")
    if spec.loss == "MAE":
        return F.l1_loss(pred, y, reduction="none")
    if spec.loss == "Huber":
        return F.huber_loss(pred, y, reduction="none", delta=delta)
    if spec.loss == "PseudoHuber":
        return delta**2 * (torch.sqrt(1.0 + ((pred - y) / delta) ** 2) - 1.0)
    if spec.loss == "CrossEntropy":
        return cross_entropy(spec, pred, y, "none")[:, None]
    if spec.loss == "Poisson":
        return F.poisson_nll_loss(pred, y, reduction="none")
    if spec.loss == "Quantile":
        q = torch.tensor(options["q"], dtype=pred.dtype)
        return torch.maximum(q * (y - pred), (q - 1.0) * (y - pred))
    if spec.loss == "GaussianNLL":
        mean, log_var = pred.tensor_split(2, dim=1)
        eps = options.get("eps", 1e-6)
        return F.gaussian_nll_loss(mean, y, log_var.exp(), eps=eps, reduction="none")
    if spec.loss == "Hinge":
        short_of = options["margin"] - y * pred
        return torch.where(short_of >= 0, short_of, 0.0)
    weight = options.get("pos_weight")
    return F.binary_cross_entropy_with_logits(
        pred,
        y,
        reduction="none",
        pos_weight=None if weight is None else torch.tensor(weight, dtype=pred.dtype),
    )


def torch_loss(spec: Spec, pred: torch.Tensor, batch: TorchBatch) -> torch.Tensor:
    """Return the reduced loss; rows are weighted by ``sum(w * row) / sum(w)``.

    Labels add the weight of their class.
    """
    reduction = spec.loss_options.get("reduction", "mean")
    weight = batch.weight
    if weight is None and spec.loss == "CrossEntropy":
        return cross_entropy(spec, pred, batch.y, reduction)
    elements = torch_elements(spec, chosen(pred, batch), batch.y)
    if weight is None:
        return elements.sum() if reduction == "sum" else elements.mean()
    if reduction == "sum":
        return (weight * elements.sum(dim=1)).sum()
    total = (weight * elements.mean(dim=1)).sum()
    if spec.target == "labels" and "class_weight" in spec.loss_options:
        classes = torch.tensor(spec.loss_options["class_weight"], dtype=weight.dtype)
        weight = weight * classes[batch.y]
    return total / weight.sum()


def from_kink(
    spec: Spec, pred: torch.Tensor, batch: TorchBatch
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return the distances of predictions from a kink, and their scale."""
    p = chosen(pred, batch)
    if spec.loss in ("MAE", "Quantile"):
        return p - batch.y, p
    if spec.loss == "Hinge":
        return spec.loss_options["margin"] - batch.y * p, p
    return None
