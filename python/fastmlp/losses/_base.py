"""The base class of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core, _validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, TypeAlias

    import numpy.typing as npt

    from .._validate import Array, Target

    # Target values, class labels or, for ActionValue, a pair (actions, values).
    TargetLike: TypeAlias = npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike]

REDUCTIONS = ("mean", "sum")


class Loss:
    """Base class of the losses; use one of its subclasses.

    Losses are immutable, compare by value, and can be hashed and pickled.
    """

    __slots__ = ("core",)

    core: _core.Loss

    # The function that the loss applies to the predictions, such as "softmax".
    _contained: ClassVar[str | None] = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Loss is abstract: use fm.MSE(), fm.CrossEntropy(), …")

    def _make(
        self,
        kind: str,
        reduction: str,
        delta: float = 1.0,
        smoothing: float = 0.0,
        per_output: tuple[float, ...] = (),
        *,
        action: bool = False,
        scale: float = 1.0,
        ignored: int | None = None,
    ) -> None:
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        core = _core.Loss(
            kind, delta, reduction, smoothing, per_output, action, scale, ignored
        )
        object.__setattr__(self, "core", core)

    @property
    def reduction(self) -> str:
        """How the losses of rows are combined: "mean" or "sum"."""
        return self.core.reduction

    def _targets(self, name: str, target: Any) -> Any:
        """Return the targets of a batch as a loss written in Python takes them."""
        return target

    def _as_array(
        self, name: str, target: Any, n_out: int, dtype: np.dtype[Any]
    ) -> Array:
        """Return the targets of a whole data set as an array that `fit` can index.

        ``n_out`` and ``dtype`` are those of the predictions.

        This is called only for losses written in Python; `_validate.targets` converts
        the targets of other losses.
        """
        return np.asarray(target)

    def _arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"reduction": self.reduction}

    def _factor(self) -> float:
        """Return the factor that `with_scale` has multiplied the loss by."""
        return self.core.scale

    def _times(self, factor: float) -> Loss:
        """Return a copy multiplied by a factor; see `with_scale`."""
        copy, core = _make(type(self), self._arguments()), self.core
        scale = core.scale * factor
        if not (0.0 < scale < np.inf):
            raise ValueError(
                "factor must keep the loss's scale finite and > 0, but the scale "
                f"would be {core.scale!r} * {factor!r} = {scale!r}"
            )
        scaled = _core.Loss(
            core.kind,
            core.delta,
            core.reduction,
            core.smoothing,
            core.per_output,
            core.action,
            scale,
            core.ignored,
        )
        object.__setattr__(copy, "core", scaled)
        return copy

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
            Predictions. If they are float32, the loss is computed in float32; otherwise
            it is computed in float64.
        target : like ``pred``
            Targets; `CrossEntropy` also takes int class labels (B,), and the docstrings
            of `Quantile`, `GaussianNLL` and `ActionValue` describe their targets. NaN
            makes the loss NaN.
        sample_weight : (B,), optional
            Weights of the rows: finite, not negative, not all zero.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong shape or dtype, a label is out of range, or a
            target is not one that the loss allows.
        """
        if sample_weight is None:
            try:
                value = self.core.value(pred, target)
            except ValueError:
                value = NotImplemented  # a label out of range: report it below
            if value is not NotImplemented:
                return value
        arrays = self._arrays(pred, target, sample_weight)
        return _validate.accepted(self.core.value(*arrays))

    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: TargetLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss of predictions and its gradient with respect to them.

        The parameters and errors are the same as when the loss is called.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray, shape of ``pred``
            Gradient of the loss, in the dtype in which it was computed.
        """
        if sample_weight is None:
            try:
                result = self.core.value_and_grad(pred, target)
            except ValueError:
                result = NotImplemented
            if result is not NotImplemented:
                return result
        arrays = self._arrays(pred, target, sample_weight)
        return _validate.accepted(self.core.value_and_grad(*arrays))

    def _arrays(
        self, pred: object, target: object, sample_weight: object
    ) -> tuple[Array, Target, Array | None]:
        """Return the arguments as arrays that the core accepts, or raise an error."""
        # float32 predictions remain float32; all others become float64.
        p = _validate.numeric("pred", pred)
        dtype = np.dtype(np.float32 if p.dtype == np.float32 else np.float64)
        p = predictions(_validate.convert("pred", p, dtype))

        # The targets and weights must fit the predictions.
        y = _validate.targets("target", target, self.core, p.shape, dtype)
        _validate.allowed("target", y, self.core)
        if sample_weight is None:
            return p, y, None
        relative = self.reduction == "mean"
        weight = _validate.weights(
            "sample_weight", sample_weight, dtype, len(p), relative=relative
        )
        return p, y, weight

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a loss is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a loss is immutable: cannot delete {name!r}")

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


def predictions(p: Array) -> Array:
    if p.ndim not in (1, 2) or p.size == 0:
        raise ValueError(
            "pred must have shape (rows, outputs) or (rows,) and not be empty, "
            f"got {_validate.describe(p)}"
        )
    return p


def _make(cls: type[Loss], arguments: dict[str, Any], factor: float = 1.0) -> Loss:
    """Make a loss while unpickling; pickle passes only positional arguments."""
    loss = cls(**arguments)
    return loss if factor == 1.0 else loss._times(factor)


def positive(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0, open_low=True)
