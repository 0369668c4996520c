"""The loss of Q-learning."""

from __future__ import annotations

from typing import Any

from .. import _validate
from ._base import Loss
from ._custom import CustomLoss

__all__ = ["ActionValue"]


class ActionValue(Loss):
    """L_b = loss(p[b, a_b], v_b): only the prediction for the action taken counts.

    It is the loss of Q-learning (Watkins & Dayan, 1992). The predictions p (B, A) are
    the values of all A actions. The target is a pair (actions, values), int (B,) and
    (B,). A value is for instance the reward plus the discounted max_u Q(x', u); the
    gradient treats the values as constants. Means are over rows.

    Parameters
    ----------
    loss : Loss
        Loss of one prediction and one value, such as `MSE` or `Huber`, but not
        `CrossEntropy`, `GaussianNLL` or a loss with a sequence of numbers, one for each
        output, such as ``Quantile([0.1, 0.9])``. The reduction and the mask of ``loss``
        also apply to the `ActionValue`.

    Raises
    ------
    TypeError, ValueError
        If ``loss`` is not such a loss.

    Examples
    --------
    >>> import fastmlp as fm
    >>> loss = fm.ActionValue(fm.MSE())
    >>> loss([[1.0, 2.0], [3.0, 4.0]], ([0, 1], [1.5, 3.0]))
    0.625
    """

    __slots__ = ("_inner",)

    _inner: Loss

    def __init__(self, loss: Loss) -> None:
        if not isinstance(loss, Loss) or isinstance(loss, (ActionValue, CustomLoss)):
            raise TypeError(
                "loss must be a fastmlp Loss that compares one prediction with one "
                f"value, such as fm.MSE(), got {_validate.describe(loss)}"
            )
        core = loss.core
        per_output = core.per_output or core.output_weight
        if core.of_rows or core.predictions_per_target > 1 or per_output:
            raise ValueError(
                f"loss must compare one prediction with one value, got {loss}"
            )
        object.__setattr__(self, "_inner", loss)
        self._make(
            core.kind,
            core.reduction,
            delta=core.delta,
            second=core.second,
            mask=loss.mask,
            action=True,
            scale=core.scale,
        )

    @property
    def loss(self) -> Loss:
        """The loss of a prediction and a value."""
        return self._inner

    def _factor(self) -> float:
        return 1.0  # the inner loss holds the factor

    def _times(self, factor: float) -> ActionValue:
        return ActionValue(self._inner._times(factor))

    def _marked(self) -> ActionValue:
        return ActionValue(self._inner._marked())

    def _arguments(self) -> dict[str, Any]:
        return {"loss": self.loss}
