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

# Marks of missing targets.
MASKS = ("nan",)

# The label that marks rows without a label if the user has not chosen one.
_NO_LABEL = -1


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
        *,
        delta: float = 1.0,
        second: float = 0.0,
        smoothing: float = 0.0,
        per_output: tuple[float, ...] = (),
        output_weight: object = None,
        mask: object = None,
        action: bool = False,
        scale: float = 1.0,
        ignored: object = None,
    ) -> None:
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        weights: tuple[float, ...] = ()
        if output_weight is not None:
            weights = weights_of("output_weight", output_weight)
        if mask is not None:
            _validate.choice("mask", mask, MASKS)
        if ignored is not None:
            ignored = _validate.count("ignore_index", ignored, -_validate.MOST)
        core = _core.Loss(
            kind,
            delta,
            reduction,
            smoothing,
            per_output,
            action,
            scale,
            ignored,
            second,
            weights,
            mask is not None,
        )
        object.__setattr__(self, "core", core)

    @property
    def reduction(self) -> str:
        """How the losses of rows are combined: "mean" or "sum"."""
        return self.core.reduction

    @property
    def mask(self) -> str | None:
        """The mark of missing targets, "nan", or None if no target may be missing."""
        return "nan" if self.core is not None and self.core.masked else None

    @property
    def ignore_index(self) -> int | None:
        """The label of rows that have no label, or None."""
        return None if self.core is None else self.core.ignored

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
        optional: dict[str, Any] = {
            "output_weight": self.core.output_weight or None,
            "mask": self.mask,
            "ignore_index": self.ignore_index,
        }
        given = {name: value for name, value in optional.items() if value is not None}
        return {**given, "reduction": self.reduction}

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
            core.second,
            core.output_weight,
            core.masked,
        )
        object.__setattr__(copy, "core", scaled)
        return copy

    def _refuse_mask(self) -> None:
        """Raise TypeError if the loss cannot leave out targets."""

    def _marked(self) -> Loss:
        """Return a copy that takes marks of missing targets."""
        mark: dict[str, Any] = {"mask": "nan"}
        if self.core.allowed == "labels":
            mark = {"ignore_index": _NO_LABEL}
        return _make(type(self), {**mark, **self._arguments()}, self._factor())

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: TargetLike,
        sample_weight: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions.

        Parameters
        ----------
        pred : (B, O) or (B,)
            Predictions. If they are float32, the loss is computed in float32; otherwise
            it is computed in float64.
        target : like ``pred``
            Targets; losses of classes take int class labels (B,), and the docstrings of
            `Quantile`, `GaussianNLL`, `MixtureDensity` and `ActionValue` describe their
            targets. NaN makes the loss NaN unless it marks a missing target.
        sample_weight : (B,), optional
            Weights of the rows: finite, not negative, not all zero.
        mask : bool, like ``target`` or (B,), optional
            Array that is True where there is a target and False where none is; see
            `fastmlp.losses`.

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
        if mask is not None:
            loss, target = masked(self, "target", target, mask)
            return loss(pred, target, sample_weight)
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
        mask: npt.ArrayLike | None = None,
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
        if mask is not None:
            loss, target = masked(self, "target", target, mask)
            return loss.value_and_grad(pred, target, sample_weight)
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


class ElementLoss(Loss):
    """Base class of the losses that compare targets one by one."""

    __slots__ = ()

    @property
    def output_weight(self) -> tuple[float, ...] | None:
        """The weights of the outputs, or None."""
        return self.core.output_weight or None


def masked(loss: Loss, name: str, target: Any, mask: object) -> tuple[Loss, Any]:
    """Return a loss and targets that say themselves which targets are missing.

    ``mask`` is True where there is a target. In a copy of the targets, the others
    become NaN or, if they are labels, a label that the loss ignores.
    """
    if loss.core is None:
        loss._refuse_mask()
    loss = loss if loss.mask else loss._marked()
    if loss.core.action:
        if not isinstance(target, (tuple, list)) or len(target) != 2:
            return loss, target  # refused later, with an explanation
        values = _without(f"{name}: the values", target[1], mask, np.nan)
        return loss, (target[0], values)
    array = _validate.numeric(name, target)
    if loss.core.takes_labels and array.ndim == 1 and array.dtype.kind in "iub":
        if loss.ignore_index is None:
            loss = _make(
                type(loss),
                {**loss._arguments(), "ignore_index": _NO_LABEL},
                loss._factor(),
            )
        return loss, _without(name, array, mask, loss.ignore_index)
    return loss, _without(name, array, mask, np.nan)


def _without(name: str, target: object, mask: object, mark: object) -> Array:
    """Return a copy of targets with a mark where the mask is False."""
    array, there = _validate.numeric(name, target), np.asarray(mask)
    if there.dtype != np.bool_ or there.shape not in (array.shape, array.shape[:1]):
        rows = "" if array.ndim == 1 else f" or {array.shape[:1]}"
        raise ValueError(
            f"mask must be bool and have the shape of {name}, {array.shape}{rows}, got "
            f"{_validate.describe(mask)}"
        )
    if there.ndim < array.ndim:
        there = there.reshape(-1, *[1] * (array.ndim - 1))
    if mark is np.nan and array.dtype.kind != "f":
        array = array.astype(np.float64)
    elif array.dtype.kind in "ub":
        array = array.astype(np.int64)
    result: Array = np.where(there, array, array.dtype.type(mark))
    return result


def weights_of(name: str, value: object) -> tuple[float, ...]:
    """Return weights as a tuple: finite, not negative, not all zero."""
    weights = _validate.reals(name, value, 0.0)
    if not any(weights):
        raise ValueError(f"{name} must not be all zeros")
    return weights


def one_or_several(
    name: str, value: object, low: float, high: float, **options: bool
) -> tuple[float, tuple[float, ...]]:
    """Return (number, ()) for a number, and (1, numbers) for a sequence."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return 1.0, _validate.reals(name, value, low, high, **options)
    return _validate.real(name, value, low, high, **options), ()


def positive(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0, open_low=True)
