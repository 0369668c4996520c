"""The partial likelihood of survival times."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._core import kernels
from ._base import REDUCTIONS, predictions
from ._custom import CustomLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from .._validate import Array

__all__ = ["CoxPH"]


class CoxPH(CustomLoss):
    """Negative partial log likelihood of survival times, from log hazard ratios p.

    L = Σ_i w_i e_i (log Σ_j w_j exp(p_j) - p_i) / Σ_i w_i e_i, where e_i is 1 if the
    event of row i was observed and 0 if the row was censored, and j runs over the rows
    at risk: those with t_j ≥ t_i (Cox, "Regression models and life-tables", 1972, with
    Breslow's treatment of ties). With ``reduction="sum"`` there is no divisor. Without
    any event, L is 0.

    The model has one output, with the identity as activation. A row's loss depends on
    the other rows, so it is computed for a batch as a whole, in Python: its risk sets
    are those of the batch. With ``batch_size`` equal to the number of samples, training
    minimises the partial likelihood itself; smaller batches approximate it (Kvamme,
    Borgan & Scheel, "Time-to-event prediction with neural networks and Cox regression",
    2019). `fastmlp.MLP.fit` weighs the losses of batches by their numbers of rows.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        Whether the loss is divided by the (weighted) number of events.

    Raises
    ------
    TypeError, ValueError
        If ``reduction`` is neither "mean" nor "sum".

    Examples
    --------
    >>> import fastmlp as fm
    >>> loss = fm.CoxPH()
    >>> time, event = [1.0, 2.0, 3.0], [1, 1, 0]
    >>> round(loss([0.0, 0.0, 0.0], (time, event)), 4)  # (log 3 + log 2) / 2
    0.8959
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        object.__setattr__(self, "core", None)
        object.__setattr__(self, "_reduction", reduction)

    @property
    def function(self) -> Callable[..., Any]:
        """The function that computes the loss: `value_and_grad`."""
        return self.value_and_grad

    def _arguments(self) -> dict[str, Any]:
        return {"reduction": self.reduction}

    def _targets(self, name: str, target: Any) -> Array:
        if isinstance(target, (tuple, list)) and len(target) == 2:
            parts = [_validate.numeric(name, part) for part in target]
            if parts[0].ndim == 1 and parts[0].shape == parts[1].shape:
                return np.stack(parts, axis=1)
        return _validate.numeric(name, target)

    def _as_array(
        self, name: str, target: Any, n_out: int, dtype: np.dtype[Any]
    ) -> Array:
        return self._targets(name, target)

    @_validate.reproducible
    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss, and its gradient with respect to the predictions.

        Parameters
        ----------
        pred : (B, 1) or (B,)
            Logarithms of hazard ratios. The computation is in float64.
        target : (B, 2), or tuple of two arrays (B,)
            Times, finite, and events: 1 if it was observed, 0 if the row was censored.
        sample_weight : (B,), optional
            Weights of the rows: finite, not negative, not all zero.
        mask : None
            Must be None: rows that do not count have the weight 0.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray, shape of ``pred``
            Gradient, in float32 for float32 predictions, otherwise in float64.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong shape or dtype, a time is not finite, or an event
            is neither 0 nor 1.
        """
        if mask is not None:
            self._refuse_mask()
        given = _validate.numeric("pred", pred)
        dtype = np.dtype(np.float32 if given.dtype == np.float32 else np.float64)
        double = np.dtype(np.float64)
        p = predictions(_validate.convert("pred", given, double)).ravel()
        if p.shape != given.shape[:1]:
            raise ValueError(
                "pred must have shape (rows, 1) or (rows,) for CoxPH, got "
                f"{_validate.describe(given)}"
            )
        time, event = _times_and_events(self._targets("target", target), len(p))
        weight = np.ones(len(p))
        if sample_weight is not None:
            weight = _validate.weights("sample_weight", sample_weight, double, len(p))

        # In descending order of times, rows at risk come first. Rows with the same time
        # share the sum at the end of their group.
        order = np.argsort(-time, kind="stable")
        p, time, weight = p[order], time[order], weight[order]
        died = weight * event[order]
        last = np.searchsorted(-time, -time, side="right") - 1
        at_risk = _log_sums(p, weight)[last]
        value = float(np.cumsum(np.where(died > 0, died * (at_risk - p), 0.0))[-1])
        # Backwards, the rows with earlier events come first.
        past = _log_sums(-at_risk[::-1], died[::-1])
        first = len(p) - 1 - np.searchsorted(-time, -time, side="left")
        share = _elementary("exp", p + past[first])
        slope = np.where(weight > 0, weight * share, 0.0) - died
        if self.reduction == "mean":
            total = float(np.cumsum(died)[-1])
            unit = 1.0 / total if total > 0 else 0.0
            value, slope = value * unit, slope * unit
        grad = np.empty_like(slope)
        grad[order] = slope
        return value, grad.reshape(given.shape).astype(dtype)


def _times_and_events(target: Array, rows: int) -> tuple[Array, Array]:
    if target.shape != (rows, 2):
        raise ValueError(
            f"target must hold times and events, of shape {(rows, 2)}, or be a pair of "
            f"them, each of shape {(rows,)}; got {_validate.describe(target)}"
        )
    time, event = target.astype(np.float64).T
    _validate.finite("target: the times", time)
    bad = (event != 0) & (event != 1)
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"target: the events must be 0 or 1, got {event[row]} in row {row}"
        )
    return time, event


def _elementary(name: str, x: Array) -> Array:
    """Return an elementary function of the core, which has the same bits everywhere."""
    out = np.empty_like(x)
    kernels.elementary(out, np.ascontiguousarray(x), name)
    return out


def _log_sums(x: Array, weight: Array) -> Array:
    """Return log Σ_j weight_j exp(x_j) over j ≤ i, for each i, without overflow."""
    counted = np.where(weight > 0, x, -np.inf)
    top = np.maximum.accumulate(counted)
    with np.errstate(invalid="ignore"):  # -inf - -inf, which is not used
        below = np.where(counted == top, 0.0, counted - top)
    terms = np.where(weight > 0, weight * _elementary("exp", below), 0.0)
    # The sums are relative to the largest x so far. Where that grows, the sum before is
    # scaled down.
    sums = np.empty_like(terms)
    starts = np.flatnonzero(top[1:] != top[:-1]) + 1
    carried = 0.0
    for a, b in zip([0, *starts], [*starts, len(top)], strict=True):
        if a > 0 and top[a - 1] > -np.inf:
            carried *= float(_elementary("exp", top[a - 1 : a] - top[a])[0])
        terms[a] += carried
        sums[a:b] = np.cumsum(terms[a:b])
        carried = float(sums[b - 1])
    return np.where(sums > 0, top + _elementary("log", sums), top)
