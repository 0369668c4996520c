"""The base class of the losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core, _validate
from ._targets import Targets

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    import numpy.typing as npt

    from .._validate import Array, Target

    # Values, labels, or for ActionValue (actions, values).
    TargetLike: TypeAlias = npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike]

REDUCTIONS = ("mean", "sum")


class Loss(_validate.Immutable):
    """Base class of the losses; use the classes below.

    Losses are immutable, compare by value, and can be hashed and pickled.
    """

    __slots__ = ("core",)

    # For the package's other modules.
    # The compiled loss; None if the loss is computed in Python.
    core: _core.Loss | None
    # The core's name of the loss.
    kind: ClassVar[str] = ""
    # What its targets look like.
    targets: ClassVar[Targets] = Targets()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Loss is abstract: use fm.MSE(), fm.CrossEntropy(), …")

    def _make(
        self,
        reduction: str,
        delta: float = 1.0,
        smoothing: float = 0.0,
        per_output: tuple[float, ...] = (),
    ) -> None:
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        core = _core.Loss(self.kind, delta, reduction, smoothing, per_output)
        object.__setattr__(self, "core", core)

    @property
    def _native(self) -> _core.Loss:
        """The compiled loss, of those that have one."""
        assert self.core is not None
        return self.core

    @property
    def reduction(self) -> str:
        """Reduction over rows: "mean" or "sum"."""
        return self._native.reduction

    def _arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"reduction": self.reduction}

    # Factors ------------------------------------------------------------------------

    def _factor(self) -> float:
        """Return the factor by which the loss differs from what its class computes."""
        return self._native.scale

    def _times(self, factor: float) -> Loss:
        """Return a copy that is multiplied by a factor, see `with_scale`."""
        copy, core = _make(type(self), self._arguments()), self._native
        scale = core.scale * factor
        if not (0.0 < scale < np.inf):
            raise ValueError(
                f"factor must leave the loss a finite scale > 0, but {factor!r} makes "
                f"it {scale!r}"
            )
        scaled = _core.Loss(
            core.kind,
            core.delta,
            core.reduction,
            core.smoothing,
            core.per_output,
            core.action,
            scale,
        )
        object.__setattr__(copy, "core", scaled)
        return copy

    # Calls --------------------------------------------------------------------------

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: TargetLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions.

        Parameters
        ----------
        pred : (B, O) or (B,)
            Predictions; float32 is computed in float32, everything else in float64.
        target : like ``pred``
            Targets; `CrossEntropy` takes int class labels (B,) as well, and the classes
            `Quantile`, `GaussianNLL` and `ActionValue` say what they take. Values, such
            as probabilities outside of [0, 1], are not checked.
        sample_weight : (B,), optional
            Weights of the rows: finite, non-negative, not all zero.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            If an array has a wrong kind or shape, or a label is out of range.
        """
        core = self.core
        assert core is not None
        if sample_weight is None:
            try:
                value = core.value(pred, target)
            except ValueError:
                value = NotImplemented  # a label out of range: below with its name
            if value is not NotImplemented:
                return value
        arrays = self._arrays(pred, target, sample_weight)
        return _validate.accepted(core.value(*arrays))

    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: TargetLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss of predictions and its gradient with respect to them.

        Parameters and errors are those of calling the loss.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray, shape of ``pred``
            Its gradient, in the dtype of the computation.
        """
        core = self.core
        assert core is not None
        if sample_weight is None:
            try:
                result = core.value_and_grad(pred, target)
            except ValueError:
                result = NotImplemented
            if result is not NotImplemented:
                return result
        arrays = self._arrays(pred, target, sample_weight)
        return _validate.accepted(core.value_and_grad(*arrays))

    def _arrays(
        self, pred: object, target: object, sample_weight: object
    ) -> tuple[Array, Target, Array | None]:
        """Return the arguments of a call as the core takes them."""
        p = predictions(pred)
        y = self.targets.convert("target", target, p.shape, p.dtype)
        if sample_weight is None:
            return p, y, None
        return p, y, _validate.weights("sample_weight", sample_weight, p.dtype, len(p))

    # Equality and text --------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Loss):
            return NotImplemented
        return (
            type(self) is type(other)
            and self._arguments() == other._arguments()
            and self._factor() == other._factor()
        )

    def __hash__(self) -> int:
        return hash((type(self), self._factor(), *self._arguments().items()))

    def __repr__(self) -> str:
        made = f"{type(self).__name__}({_validate.arguments(self._arguments())})"
        return made if self._factor() == 1.0 else f"{self._factor()!r} * {made}"

    def __reduce__(self) -> tuple[Callable[..., Loss], tuple[Any, ...]]:
        return _make, (type(self), self._arguments(), self._factor())


def predictions(pred: object) -> Array:
    """Return predictions in their own precision, of one or two dimensions."""
    p = _validate.in_own_precision("pred", pred)
    if p.ndim not in (1, 2) or p.size == 0:
        raise ValueError(
            "pred must have shape (rows, outputs) or (rows,), none of them zero, "
            f"got {_validate.describe(p)}"
        )
    return p


def _make(cls: type[Loss], arguments: dict[str, Any], factor: float = 1.0) -> Loss:
    """Return a loss from its pickle, which names this function."""
    loss = cls(**arguments)
    return loss if factor == 1.0 else loss._times(factor)


def with_scale(loss: Loss, factor: float) -> Loss:
    """Return a copy of a loss whose value and gradient are multiplied by a factor.

    This is for conventions that differ by a factor, such as the ½ in scikit-learn's
    squared error. The factor goes into the divisor of the sum over rows: one that
    cancels a part of it, such as the O of a mean over O outputs, costs no rounding.

    Parameters
    ----------
    loss : Loss
        Any loss except a custom one.
    factor : float
        Finite factor > 0; multiplies any factor that the loss has already.

    Returns
    -------
    Loss
        The copy; of the same class, so that metrics treat it alike.

    Raises
    ------
    TypeError, ValueError
        If the loss is not computed in the core, or the factor is out of range.
    """
    if not isinstance(loss, Loss) or loss.core is None:
        raise TypeError(
            "loss must be a fastmlp Loss that is computed in the core such as "
            f"fm.MSE(), got {_validate.describe(loss)}"
        )
    factor = _validate.real("factor", factor, 0.0, open_low=True)
    return loss._times(factor)
