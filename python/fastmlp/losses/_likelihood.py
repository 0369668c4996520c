"""Negative log likelihoods of distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from ._base import ElementLoss, one_or_several, positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._validate import Array

# The core stores the number of components as a float.
_MOST_COMPONENTS = 2**24

__all__ = [
    "Gamma",
    "GaussianNLL",
    "MixtureDensity",
    "Poisson",
    "StudentTNLL",
    "Tweedie",
]


class Poisson(ElementLoss):
    """L = exp(p) - y p, for counts y ≥ 0 and the logarithm p of their rate.

    This is the negative log likelihood of a Poisson distribution without its term
    log y!, which does not depend on the prediction: ``torch.nn.PoissonNLLLoss`` with
    its defaults. The model's output activation should be the identity; the predicted
    rate is ``np.exp(mlp(x))``.

    Parameters
    ----------
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()
    _contained = "exp"

    def __init__(
        self,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make("poisson", reduction, output_weight=output_weight, mask=mask)


class Gamma(ElementLoss):
    """L = p + y exp(-p), for targets y > 0 and the logarithm p of their mean.

    This is the negative log likelihood of a gamma distribution with the mean exp(p),
    divided by the shape and without the terms that do not depend on the prediction
    (McCullagh & Nelder, "Generalized linear models", 1989, chapter 8, with the
    logarithm as link). Half the gamma deviance differs from it by 1 + log y. The
    model's output activation should be the identity; the predicted mean is
    ``np.exp(mlp(x))``.

    Parameters
    ----------
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()
    _contained = "exp"

    def __init__(
        self,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make("gamma", reduction, output_weight=output_weight, mask=mask)


class Tweedie(ElementLoss):
    """L = exp((2 - k) p) / (2 - k) - y exp((1 - k) p) / (1 - k); k is ``power``.

    This is the negative log likelihood of a Tweedie distribution with the mean exp(p)
    and the variance function mean^k, without the terms that do not depend on the
    prediction (Jørgensen, "Exponential dispersion models", 1987). For 1 < k < 2 it is a
    sum of gamma variables whose number has a Poisson distribution, such as the claims
    of an insurance contract: targets y ≥ 0 may be 0 or any positive number. The
    model's output activation should be the identity; the predicted mean is
    ``np.exp(mlp(x))``.

    Parameters
    ----------
    power : float
        Power k, between 1 and 2, both excluded; the limits are `Poisson` and `Gamma`.
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()
    _contained = "exp"

    def __init__(
        self,
        power: float = 1.5,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        options = {"open_low": True, "open_high": True}
        power = _validate.real("power", power, 1.0, 2.0, **options)
        self._make(
            "tweedie", reduction, delta=power, output_weight=output_weight, mask=mask
        )

    @property
    def power(self) -> float:
        """The power of the variance function."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"power": self.power, **super()._arguments()}


class GaussianNLL(ElementLoss):
    """L = ½ (s + (m - y)² / v), v = exp(s), for predictions p = (m, s).

    This is the negative log likelihood of a normal distribution without its constant
    ½ log 2π (Nix & Weigend, "Estimating the mean and variance of the target probability
    distribution", 1994). Predictions are (B, 2 O): O means m, then O log variances s;
    the target is (B, O), or (B,) for O = 1. The mean is over rows and the O targets.

    Where v = exp(s) is below ``eps``, the value is computed with ``eps`` in place of v
    and its logarithm in place of s. That value does not depend on s, so its derivative
    with respect to s would be 0, and the model could not leave this region. Therefore
    this derivative is computed as if clamping v had the derivative 1: ½ (1 - (m - y)² /
    eps) exp(s) / eps, with the model's own s. This agrees with
    ``torch.nn.GaussianNLLLoss`` for the variance exp(s).

    Parameters
    ----------
    eps : float
        Smallest variance, > 0.
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(
        self,
        eps: float = 1e-6,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        eps = positive("eps", eps)
        self._make(
            "gaussian_nll", reduction, delta=eps, output_weight=output_weight, mask=mask
        )

    @property
    def eps(self) -> float:
        """The smallest variance."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"eps": self.eps, **super()._arguments()}


class StudentTNLL(ElementLoss):
    """L = s + ½ (n + 1) log(1 + z² / n), z = (m - y) exp(-s), for p = (m, s).

    This is the negative log likelihood of Student's t distribution with the location m,
    the scale exp(s) and n degrees of freedom, without the terms that depend on n alone
    (Lange, Little & Taylor, "Robust statistical modeling using the t distribution",
    1989). Outliers have less influence than in `GaussianNLL`. Predictions are (B, 2 O):
    O locations m, then O log scales s; the target is (B, O), or (B,) for O = 1. The
    mean is over rows and the O targets.

    Parameters
    ----------
    df : float or sequence of O floats
        Degrees of freedom n > 0: one for all targets or one for each.
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range or, when the loss is used, if a sequence does not
        have one number for each target.
    """

    __slots__ = ()

    def __init__(
        self,
        df: float | Sequence[float] | Array = 4.0,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        one, each = one_or_several("df", df, 0.0, np.inf, open_low=True)
        self._make(
            "student_t_nll",
            reduction,
            delta=one,
            per_output=each,
            output_weight=output_weight,
            mask=mask,
        )

    @property
    def df(self) -> float | tuple[float, ...]:
        """The degrees of freedom, or a tuple with one number for each target."""
        return self.core.per_output or self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"df": self.df, **super()._arguments()}


class MixtureDensity(ElementLoss):
    """L = log Σ exp(a_k) - log Σ exp(a_k - s_k - ½ z_k²), z_k = (y - m_k) exp(-s_k).

    This is the negative log likelihood of a mixture of K normal distributions without
    its constant ½ log 2π (Bishop, "Mixture density networks", 1994). Each target has K
    logits a, whose softmax is the weights of the components, K means m and K logarithms
    s of standard deviations. Predictions are (B, 3 O K): the O K logits, those of the
    first target first, then the means and then the log deviations in the same order, so
    that ``logits, means, log_stds = pred.reshape(B, 3, O, K).swapaxes(0, 1)``. The
    target is (B, O), or (B,) for O = 1. The mean is over rows and the O targets.

    Parameters
    ----------
    n_components : int
        Number K of components, ≥ 1.
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(
        self,
        n_components: int,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        k = _validate.count("n_components", n_components, 1, _MOST_COMPONENTS)
        self._make(
            "mixture_density",
            reduction,
            delta=float(k),
            output_weight=output_weight,
            mask=mask,
        )

    @property
    def n_components(self) -> int:
        """The number of components."""
        return int(self.core.delta)

    def _arguments(self) -> dict[str, Any]:
        return {"n_components": self.n_components, **super()._arguments()}
