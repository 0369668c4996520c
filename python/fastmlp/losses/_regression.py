"""Losses of numbers: errors, robust errors, quantiles and expectiles."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._core import kernels
from ._base import ElementLoss, one_or_several, positive

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from .._validate import Array

# The largest number of quantiles that are given by steps: kMostLevels of the core.
_MOST_LEVELS = 256

__all__ = [
    "MAE",
    "MSE",
    "Expectile",
    "Huber",
    "LogCosh",
    "PseudoHuber",
    "Quantile",
    "SmoothL1",
]


class MSE(ElementLoss):
    """Squared error, L = r².

    Like ``torch.nn.MSELoss``, it has no factor ½ (scikit-learn's MLP has one).

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

    def __init__(
        self,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make("mse", reduction, output_weight=output_weight, mask=mask)


class MAE(ElementLoss):
    """Absolute error, L = abs(r), with derivative 0 at 0 (``torch.nn.L1Loss``).

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

    def __init__(
        self,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make("mae", reduction, output_weight=output_weight, mask=mask)


class _WithDelta(ElementLoss):
    __slots__ = ()

    @property
    def delta(self) -> float:
        """The value of abs(r) at which the loss changes from quadratic to linear."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"delta": self.delta, **super()._arguments()}


class Huber(_WithDelta):
    """L = ½ r² for abs(r) ≤ δ, δ (abs(r) - ½ δ) beyond; δ is ``delta`` > 0.

    Huber, "Robust estimation of a location parameter", 1964; ``torch.nn.HuberLoss``.

    Parameters
    ----------
    delta : float
        Value of abs(r) at which the loss changes from quadratic to linear, > 0.
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
        delta: float = 1.0,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        delta = positive("delta", delta)
        self._make(
            "huber", reduction, delta=delta, output_weight=output_weight, mask=mask
        )


class PseudoHuber(_WithDelta):
    """L = δ² (√(1 + (r / δ)²) - 1); δ is ``delta`` > 0.

    Charbonnier et al. 1997. Like `Huber`, the loss is close to ½ r² for small r and to
    δ abs(r) for large r, but it is smooth.

    Parameters
    ----------
    delta : float
        Value of abs(r) around which the loss changes from quadratic to linear, > 0.
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
        delta: float = 1.0,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        delta = positive("delta", delta)
        self._make(
            "pseudo_huber",
            reduction,
            delta=delta,
            output_weight=output_weight,
            mask=mask,
        )


class SmoothL1(ElementLoss):
    """L = ½ r² / β for abs(r) < β, abs(r) - ½ β beyond; β is ``beta`` ≥ 0.

    This is ``torch.nn.SmoothL1Loss`` (Girshick, "Fast R-CNN", 2015): for β > 0, it is
    `Huber` with δ = β divided by β, and for β = 0, it is `MAE`.

    Parameters
    ----------
    beta : float
        Value of abs(r) at which the loss changes from quadratic to linear, ≥ 0.
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
        beta: float = 1.0,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        beta = _validate.real("beta", beta, 0.0)
        self._make(
            "smooth_l1", reduction, delta=beta, output_weight=output_weight, mask=mask
        )

    @property
    def beta(self) -> float:
        """The value of abs(r) at which the loss changes from quadratic to linear."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"beta": self.beta, **super()._arguments()}


class LogCosh(ElementLoss):
    """L = log cosh r, with derivative tanh r (``keras.losses.LogCosh``).

    The loss is close to ½ r² for small r and to abs(r) - log 2 for large r. It is
    computed without overflow for large r and without cancellation for small r.

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

    def __init__(
        self,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        self._make("log_cosh", reduction, output_weight=output_weight, mask=mask)


class Quantile(ElementLoss):
    """L = max(q (y - p), (q - 1) (y - p)), minimal where p is the quantile q of y.

    This is the pinball loss (Koenker & Bassett, "Regression quantiles", 1978). A
    prediction that is too low costs q per unit, and one that is too high costs 1 - q;
    q = ½ gives half the absolute error. The derivative at p = y is taken to be 0.

    With several q, output o is trained for q_o. The target then has shape (B, O), or
    (B,) or (B, 1) if all outputs have the same target.

    Quantiles that are trained separately may cross. With ``non_crossing``, the model's
    outputs p are a first quantile and steps: quantile o is p_0 + Σ_i softplus(p_i),
    where i runs from 1 to o, so that the quantiles of any input ascend (Gasthaus et
    al., "Probabilistic forecasting with spline quantile function RNNs", 2019, use such
    steps). `quantiles` computes them from the model's outputs.

    Parameters
    ----------
    q : float or sequence of O floats
        Quantile between 0 and 1, both excluded: one for all outputs or one for each.
    non_crossing : bool
        Whether the outputs are a first quantile and steps; ``q`` must then be a
        sequence of at most 256 ascending numbers.
    output_weight : sequence of O floats, optional
        Weights of the outputs; see `fastmlp.losses`.
    mask : {"nan"}, optional
        Mark of missing targets; see `fastmlp.losses`.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, if ``non_crossing`` is set and ``q`` does not
        ascend, or, when the loss is used, if a sequence does not have one number for
        each output.
    """

    __slots__ = ()

    def __init__(
        self,
        q: float | Sequence[float] | Array = 0.5,
        *,
        non_crossing: bool = False,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        one, each = one_or_several("q", q, 0.0, 1.0, open_low=True, open_high=True)
        crossing = not _validate.flag("non_crossing", non_crossing)
        if not crossing and not (0 < len(each) <= _MOST_LEVELS):
            raise ValueError(
                "q must be a sequence of quantiles, at most "
                f"{_MOST_LEVELS}, for non_crossing, got {_validate.describe(q)}"
            )
        if not crossing and any(a >= b for a, b in pairwise(each)):
            raise ValueError(f"q must ascend for non_crossing, got {each}")
        self._make(
            "quantile",
            reduction,
            delta=one,
            second=0.0 if crossing else 1.0,
            per_output=each,
            output_weight=output_weight,
            mask=mask,
        )

    @property
    def q(self) -> float | tuple[float, ...]:
        """The quantile, or a tuple with one for each output."""
        return self.core.per_output or self.core.delta

    @property
    def non_crossing(self) -> bool:
        """Whether the outputs are a first quantile and steps."""
        return self.core.second != 0.0

    def quantiles(self, pred: npt.ArrayLike) -> Array:
        """Return the quantiles that outputs stand for.

        Parameters
        ----------
        pred : (B, O) or (O,)
            Outputs of the model.

        Returns
        -------
        ndarray, shape of ``pred``
            Quantiles: with ``non_crossing``, the sums of the steps, otherwise the
            outputs.
        """
        result = _validate.numeric("pred", pred)
        if result.dtype not in (np.float32, np.float64):
            result = result.astype(np.float64)
        if not self.non_crossing:
            return result
        steps = np.empty(result.shape, result.dtype)
        rows = np.ascontiguousarray(result).reshape(-1, result.shape[-1])
        kernels.activation_forward(steps.reshape(rows.shape), rows, "softplus")
        steps[..., 0] = result[..., 0]
        return steps.cumsum(axis=-1, dtype=result.dtype)

    def _arguments(self) -> dict[str, Any]:
        steps = {"non_crossing": True} if self.non_crossing else {}
        return {"q": self.q, **steps, **super()._arguments()}


class Expectile(ElementLoss):
    """L = q r² where the prediction is too low, (1 - q) r² where it is too high.

    It is minimal where p is the expectile q of y (Newey & Powell, "Asymmetric least
    squares estimation and testing", 1987). Expectiles are to the mean what quantiles
    are to the median: q = ½ gives half the squared error.

    With several q, output o is trained for q_o. The target then has shape (B, O), or
    (B,) or (B, 1) if all outputs have the same target.

    Parameters
    ----------
    q : float or sequence of O floats
        Expectile between 0 and 1, both excluded: one for all outputs or one for each.
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
        have one number for each output.
    """

    __slots__ = ()

    def __init__(
        self,
        q: float | Sequence[float] | Array = 0.5,
        *,
        output_weight: Sequence[float] | Array | None = None,
        mask: str | None = None,
        reduction: str = "mean",
    ) -> None:
        one, each = one_or_several("q", q, 0.0, 1.0, open_low=True, open_high=True)
        self._make(
            "expectile",
            reduction,
            delta=one,
            per_output=each,
            output_weight=output_weight,
            mask=mask,
        )

    @property
    def q(self) -> float | tuple[float, ...]:
        """The expectile, or a tuple with one for each output."""
        return self.core.per_output or self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"q": self.q, **super()._arguments()}
