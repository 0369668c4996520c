"""Losses in PyTorch: its own where it has them, otherwise formulas for autograd."""

from __future__ import annotations

import math
from typing import Any

import fastmlp as fm


def torch_loss(torch: Any, loss: Any, p: Any, y: Any, reduction: str) -> Any:
    """Return PyTorch's value of a loss of predictions p and targets y."""
    functional = torch.nn.functional
    how = {"reduction": reduction}
    by_rows = {"reduction": "batchmean" if reduction == "mean" else "sum"}

    def tensor(values: Any) -> Any:
        return torch.as_tensor(values, dtype=p.dtype)

    if isinstance(loss, fm.ActionValue):
        chosen = p.gather(1, torch.as_tensor(y[0])[:, None])
        return torch_loss(torch, loss.loss, chosen, y[1][:, None], reduction)
    labels = torch.as_tensor(y) if y.dtype.kind == "i" else None
    match loss:
        case fm.Poisson():
            return functional.poisson_nll_loss(p, tensor(y), **how)
        case fm.GaussianNLL():
            mean, log_variance = p.chunk(2, dim=1)
            variance = log_variance.exp()
            return functional.gaussian_nll_loss(
                mean, tensor(y), variance, eps=loss.eps, **how
            )
        case fm.CrossEntropy():
            weight = None if loss.class_weight is None else tensor(loss.class_weight)
            return functional.cross_entropy(
                p,
                tensor(y) if labels is None else labels,
                weight=weight,
                label_smoothing=loss.label_smoothing,
                **how,
            )
        case fm.BinaryCrossEntropy():
            return functional.binary_cross_entropy_with_logits(
                p, tensor(y), pos_weight=tensor(loss.pos_weight), **how
            )
        case fm.MSE():
            return functional.mse_loss(p, tensor(y), **how)
        case fm.Huber():
            return functional.huber_loss(p, tensor(y), delta=loss.delta, **how)
        case fm.SmoothL1():
            return functional.smooth_l1_loss(p, tensor(y), beta=loss.beta, **how)
        case fm.SoftMargin():
            return functional.soft_margin_loss(p, tensor(y), **how)
        case fm.MultiMargin():
            weight = None if loss.weight is None else tensor(loss.weight)
            return functional.multi_margin_loss(
                p, labels, p=loss.p, margin=loss.margin, weight=weight, **how
            )
        case fm.KLDiv():
            log_p, log_target = p.log_softmax(1), loss.log_target
            return functional.kl_div(log_p, tensor(y), log_target=log_target, **by_rows)
        case fm.Focal() | fm.Ordinal():
            rows = _terms_of_rows(torch, loss, p, labels)
            return rows.mean() if reduction == "mean" else rows.sum()
    terms = _terms(torch, loss, p, tensor(y), tensor)
    return terms.mean() if reduction == "mean" else terms.sum()


def _terms_of_rows(torch: Any, loss: Any, p: Any, labels: Any) -> Any:
    if isinstance(loss, fm.Focal):
        log_s = p.log_softmax(1).gather(1, labels[:, None])[:, 0]
        alpha = 1.0 if loss.alpha is None else loss.alpha
        alpha = torch.tensor(alpha, dtype=p.dtype).expand(p.shape[1])[labels]
        return -alpha * (1 - log_s.exp()) ** loss.gamma * log_s
    y = (labels[:, None] > torch.arange(p.shape[1])).to(p.dtype)
    weight = torch.tensor(loss.weight or [1.0] * p.shape[1], dtype=p.dtype)
    terms = torch.nn.functional.binary_cross_entropy_with_logits(
        p, y, weight=weight, reduction="none"
    )
    return terms.sum(1)


def _terms(torch: Any, loss: Any, p: Any, y: Any, tensor: Any) -> Any:
    of = torch.distributions
    match loss:
        case fm.Hinge():
            return (loss.margin - y * p).clamp(min=0)
        case fm.LogCosh():
            return torch.logaddexp(p - y, y - p) - math.log(2)
        case fm.Expectile():
            r, q = p - y, tensor(loss.q)
            return torch.where(r > 0, 1 - q, q) * r**2
        case fm.BinaryFocal():
            log_s, log_other = (torch.nn.functional.logsigmoid(z) for z in (p, -p))
            a, b = (1, 1) if loss.alpha is None else (loss.alpha, 1 - loss.alpha)
            ones = -a * y * log_other.exp() ** loss.gamma * log_s
            return ones - b * (1 - y) * log_s.exp() ** loss.gamma * log_other
        case fm.Gamma():  # the likelihood of the shape 1
            return -of.Gamma(torch.ones_like(p), (-p).exp()).log_prob(y)
        case fm.Tweedie():
            k = loss.power
            return ((2 - k) * p).exp() / (2 - k) - y * ((1 - k) * p).exp() / (1 - k)
        case fm.StudentTNLL():
            location, log_scale = p.chunk(2, dim=1)
            df = tensor(loss.df).expand(y.shape[1:])
            constant = 0.5 * (df * math.pi).log() + (df / 2).lgamma()
            constant = constant - ((df + 1) / 2).lgamma()
            return -of.StudentT(df, location, log_scale.exp()).log_prob(y) - constant
        case fm.MixtureDensity():
            shape = (len(p), 3, y.shape[1], loss.n_components)
            logits, mean, log_std = p.reshape(shape).unbind(1)
            mixture = of.MixtureSameFamily(
                of.Categorical(logits=logits), of.Normal(mean, log_std.exp())
            )
            return -mixture.log_prob(y) - 0.5 * math.log(2 * math.pi)
        case fm.Quantile():
            if loss.non_crossing:
                steps = torch.nn.functional.softplus(p[:, 1:], threshold=1e3)
                p = torch.cat([p[:, :1], steps], dim=1).cumsum(1)
            r, q = y - p, tensor(loss.q)
            return torch.maximum(q * r, (q - 1) * r)
    raise NotImplementedError(loss)
