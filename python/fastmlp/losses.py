"""Losses: what training minimises.

Notation: p predictions and y targets of shape (B, O) with B rows and O outputs,
r = p - y, w sample weights (all 1 if there are none). With ``reduction="mean"`` a loss
is

    Σ_b w_b L_b / Σ_b w_b,    L_b the mean over the row's O outputs of L(p, y)

(`CrossEntropy`: L_b itself, there is one per row), so that without weights it is the
mean over all elements, as in torch; with ``reduction="sum"`` it is Σ_b w_b Σ_o L(p, y).
Gradients are of exactly the value that is returned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, _validate

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    import numpy.typing as npt

    from ._validate import Array

REDUCTIONS = ("mean", "sum")


class Loss:
    """What the losses share; make one of the classes below, not this one.

    Losses are immutable, compare by value, and can be hashed and pickled.
    """

    __slots__ = ("_loss",)

    _loss: _core.Loss

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Loss is abstract: make fm.MSE(), fm.CrossEntropy(), …")

    def _make(self, kind: str, reduction: str, delta: float = 1.0) -> None:
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        delta = _validate.real("delta", delta, 0.0, open_low=True)
        object.__setattr__(self, "_loss", _core.Loss(kind, delta, reduction))

    @property
    def reduction(self) -> str:
        """How rows are put together: "mean" or "sum"."""
        return self._loss.reduction

    def _arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"reduction": self.reduction}

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions.

        Parameters
        ----------
        pred : (B, O) or (B,)
            Predictions; float32 is computed in float32, all else in float64.
        target : like ``pred``
            Targets; `CrossEntropy` takes int class labels (B,) as well. That targets
            which are probabilities lie from 0 to 1 is not checked.
        sample_weight : (B,), optional
            Weights of the rows: finite, none negative, not all zero.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            For arrays of a wrong shape or kind, and for labels out of range.
        """
        if sample_weight is None:
            try:
                value = self._loss.value(pred, target)
            except ValueError:
                value = NotImplemented  # a label out of range: said again, of target
            if value is not NotImplemented:
                return value
        arrays = self._arrays(pred, target, sample_weight)
        return _validate.answered(self._loss.value(*arrays))

    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss of predictions and its gradient with respect to them.

        Parameters and errors are those of calling the loss.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray, shape of ``pred``
            Its gradient, of the dtype it was computed in.
        """
        if sample_weight is None:
            try:
                result = self._loss.value_and_grad(pred, target)
            except ValueError:
                result = NotImplemented
            if result is not NotImplemented:
                return result
        arrays = self._arrays(pred, target, sample_weight)
        return _validate.answered(self._loss.value_and_grad(*arrays))

    def _arrays(
        self, pred: object, target: object, sample_weight: object
    ) -> tuple[Array, Array, Array | None]:
        """Return what the core takes, or raise an error that says what is wrong."""
        # Predictions, in their own precision.
        p = _validate.numeric("pred", pred)
        dtype = np.dtype(np.float32 if p.dtype == np.float32 else np.float64)
        p = _validate.convert("pred", p, dtype)
        if p.ndim not in (1, 2) or p.size == 0:
            raise ValueError(
                "pred must have shape (rows, outputs) or (rows,), none of them zero, "
                f"got {_validate.describe(p)}"
            )

        # Targets and weights for as many rows.
        y = _validate.targets("target", target, self._loss.kind, p.shape, dtype)
        if sample_weight is None:
            return p, y, None
        return p, y, _validate.weights("sample_weight", sample_weight, dtype, len(p))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a loss is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a loss is immutable: cannot delete {name!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Loss):
            return NotImplemented
        return type(self) is type(other) and self._arguments() == other._arguments()

    def __hash__(self) -> int:
        return hash((type(self), *self._arguments().items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_validate.arguments(self._arguments())})"

    def __reduce__(self) -> tuple[Callable[..., Loss], tuple[Any, ...]]:
        return _make, (type(self), self._arguments())


def _make(cls: type[Loss], arguments: dict[str, Any]) -> Loss:
    """Make a loss for pickle, which passes positional arguments only."""
    return cls(**arguments)


class MSE(Loss):
    """Squared error, L = r².

    As ``torch.nn.MSELoss``: no factor ½ (scikit-learn's MLP has one).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How rows are put together, see `fastmlp.losses`.
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("mse", reduction)


class MAE(Loss):
    """Absolute error, L = abs(r), with derivative 0 at 0 (``torch.nn.L1Loss``).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How rows are put together, see `fastmlp.losses`.
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("mae", reduction)


class _WithDelta(Loss):
    __slots__ = ()

    @property
    def delta(self) -> float:
        """The abs(r) at which the loss turns from a square into a straight line."""
        return self._loss.delta

    def _arguments(self) -> dict[str, Any]:
        return {"delta": self.delta, "reduction": self.reduction}


class Huber(_WithDelta):
    """L = ½ r² for abs(r) ≤ δ, δ (abs(r) - ½ δ) beyond; δ is ``delta`` > 0.

    Huber, "Robust estimation of a location parameter", 1964; ``torch.nn.HuberLoss``.

    Parameters
    ----------
    delta : float
        The abs(r) at which the square turns into a straight line, > 0.
    reduction : {"mean", "sum"}
        How rows are put together, see `fastmlp.losses`.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("huber", reduction, delta)


class PseudoHuber(_WithDelta):
    """L = δ² (√(1 + (r / δ)²) - 1); δ is ``delta`` > 0.

    Charbonnier et al. 1997: ½ r² near 0 and δ abs(r) far out like `Huber`, but smooth.

    Parameters
    ----------
    delta : float
        The abs(r) around which the square turns into a straight line, > 0.
    reduction : {"mean", "sum"}
        How rows are put together, see `fastmlp.losses`.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("pseudo_huber", reduction, delta)


class CrossEntropy(Loss):
    """L_b = -Σ_o y_bo log softmax(p_b)_o, from logits p (B, O).

    As ``torch.nn.CrossEntropyLoss``. The target is either an array of class labels
    0 … O - 1 of any integer dtype, (B,), for which L_b = -log softmax(p_b)[y_b], or of
    class probabilities, (B, O). The softmax is part of the loss: the model's output
    activation is to be the identity. Probabilities are taken as they are, whether or
    not they are from 0 to 1 and sum to 1; `fastmlp.MLP.fit` alone checks that.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How rows are put together, see `fastmlp.losses`.
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("cross_entropy", reduction)


class BinaryCrossEntropy(Loss):
    """L = max(p, 0) - p y + log(1 + exp(-abs(p))), from logits p, y from 0 to 1.

    This is -y log s - (1 - y) log(1 - s) with s = sigmoid(p) without its overflow, as
    ``torch.nn.BCEWithLogitsLoss``. The sigmoid is part of the loss: the model's
    output activation is to be the identity. Targets are taken as they are, whether or
    not they are from 0 to 1; `fastmlp.MLP.fit` alone checks that.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How rows are put together, see `fastmlp.losses`.
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("binary_cross_entropy", reduction)
