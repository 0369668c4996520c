"""Losses that are Python functions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._validate import hints
from ._base import REDUCTIONS, Loss, positive, predictions

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    import numpy.typing as npt

    from .._validate import Array

__all__ = ["CustomLoss"]


class CustomLoss(Loss):
    """A loss that is a Python function.

    The function itself may be passed wherever a loss is expected. Each batch then needs
    a call into Python. For small models and batches, this call and the function itself
    take most of the time of a step; the built-in losses run in the compiled core.
    Dropout draws the same masks as with a built-in loss.

    Parameters
    ----------
    function : callable
        ``function(pred, target)`` returns the loss, a number, and its gradient with
        respect to the predictions, an array of their shape (B, O). Targets in an
        array, list, tensor or the like come as a NumPy array. If it has one number for
        each prediction, it has their shape, so that ``pred - target`` is what it seems,
        and their dtype if its own is a float type. Tuples, dicts and strings come as
        they are. If there are sample weights, (B,), they are a third argument.
    reduction : {"mean", "sum"}
        Whether the function's value is a mean or a sum over rows. This determines how
        the losses of batches are combined into the loss of an epoch; it does not change
        the values that the function returns.

    Raises
    ------
    TypeError, ValueError
        If ``function`` is not a function, or ``reduction`` is neither "mean" nor "sum".

    Examples
    --------
    >>> import fastmlp as fm
    >>> import numpy as np
    >>> def log_cosh(pred, target):
    ...     r = pred - target
    ...     return np.log(np.cosh(r)).mean(), np.tanh(r) / r.size
    >>> loss = fm.CustomLoss(log_cosh)
    >>> loss(np.zeros((2, 1)), np.zeros((2, 1)))
    0.0

    Predictions and targets are NumPy arrays. PyTorch can compute the gradient of its
    own losses::

        def loss(pred, target):
            p = torch.tensor(pred, requires_grad=True)
            value = torch.nn.functional.huber_loss(p, torch.as_tensor(target))
            value.backward()
            return value.item(), p.grad.numpy()
    """

    __slots__ = ("_function", "_reduction")

    _function: Callable[..., Any]
    _reduction: str

    def __init__(
        self, function: Callable[..., Any], *, reduction: str = "mean"
    ) -> None:
        if not callable(function) or isinstance(function, (type, Loss)):
            raise TypeError(
                "function must be callable as function(pred, target), got "
                f"{_validate.describe(function)}"
            )
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        object.__setattr__(self, "core", None)  # the core does not compute this loss
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "_reduction", reduction)

    @property
    def function(self) -> Callable[..., Any]:
        """The function."""
        return self._function

    @property
    def reduction(self) -> str:
        """Whether the function's value is a mean or a sum over rows."""
        return self._reduction

    def _factor(self) -> float:
        return 1.0

    def _arguments(self) -> dict[str, Any]:
        return {"function": self.function, "reduction": self.reduction}

    def __repr__(self) -> str:
        if type(self) is not CustomLoss:
            return super().__repr__()
        # The function's own repr is an address.
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        return f"CustomLoss({name}, reduction={self.reduction!r})"

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions; see `value_and_grad`."""
        return self.value_and_grad(pred, target, sample_weight, mask)[0]

    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the function's loss and gradient, after checking them.

        Parameters
        ----------
        pred : (B, O) or (B,)
            Predictions, which are converted to float64 unless they are float32.
        target : object
            Targets in any form that the function takes; see the class.
        sample_weight : (B,), optional
            Weights of the rows: finite, not negative, not all zero.
        mask : None
            Must be None: a function can leave out targets itself.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray, shape of ``pred``
            Gradient of the loss, in the dtype of the predictions.

        Raises
        ------
        TypeError, ValueError
            If the function does not return a number and an array of that shape, or if
            weights are given and the function does not take them.
        """
        if mask is not None:
            self._refuse_mask()
        p = _validate.numeric("pred", pred)
        dtype = np.dtype(np.float32 if p.dtype == np.float32 else np.float64)
        p = predictions(_validate.convert("pred", p, dtype))
        if sample_weight is None:
            result = self.function(p, _like("target", p.shape, dtype, target))
        else:
            weight = _validate.weights("sample_weight", sample_weight, dtype, len(p))
            self._check_takes_weights()
            target = _like("target", p.shape, dtype, target)
            result = self.function(p, target, weight)
        return self._checked(result, p)

    def _refuse_mask(self) -> NoReturn:
        raise TypeError(
            "mask needs one of fastmlp's own losses: a loss function can leave out "
            f"targets itself; got {self!r}"
        )

    def _targets(self, name: str, target: Any) -> Any:
        return _numbers(name, target)

    def _as_array(
        self, name: str, target: Any, n_out: int, dtype: np.dtype[Any]
    ) -> Array:
        array = np.asarray(_numbers(name, target))
        result: Array = _like(name, (*array.shape[:1], n_out), dtype, array)
        return result

    def _check_takes_weights(self) -> None:
        import inspect

        try:
            inspect.signature(self.function).bind(None, None, None)
        except TypeError:
            raise TypeError(
                "sample_weight needs a loss function with three arguments, (pred, "
                f"target, sample_weight), got {self.function!r}"
            ) from None
        except ValueError:
            pass  # a function written in C may have no signature to inspect

    def _checked(self, result: object, pred: Array) -> tuple[float, Array]:
        who = "the loss function"
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise TypeError(
                f"{who} must return (value, gradient), got {_validate.describe(result)}"
            )
        value = _validate.numeric(f"{who}'s value", result[0])
        if value.ndim != 0:
            raise ValueError(
                f"{who}'s value must be one number, got {_validate.describe(value)}"
            )
        grad = _validate.numeric(f"{who}'s gradient", result[1])
        if grad.shape != pred.shape:
            raise ValueError(
                f"{who}'s gradient must have the shape of pred, {pred.shape}, got "
                f"{_validate.describe(grad)}"
            )
        with np.errstate(over="ignore"):
            return float(value), np.ascontiguousarray(grad, pred.dtype)


def _numbers(name: str, target: Any) -> Any:
    """Return targets as an array of numbers, or unchanged if they are no such array.

    Tuples, dicts, strings and arrays of strings are for the function to understand.
    """
    if type(target) is np.ndarray and target.dtype.kind in "fiub":
        return target
    raw = isinstance(target, (tuple, dict)) or not _validate.is_array_like(target)
    if raw or _of_words(target):
        return target
    return _validate.numeric(name, target)


def _of_words(target: Any) -> bool:
    """Return whether a list or an array has strings or other things than numbers."""
    if isinstance(target, list):
        return len(target) > 0 and isinstance(target[0], (str, bytes))
    return isinstance(target, np.ndarray) and target.dtype.kind not in "fiubO"


def _like(name: str, shape: tuple[int, ...], dtype: np.dtype[Any], target: Any) -> Any:
    """Return targets in the shape and dtype of predictions, if they correspond.

    Without this, predictions (B, 1) minus targets (B,) would be a matrix (B, B).
    """
    target = _numbers(name, target)
    if type(target) is not np.ndarray or target.dtype.kind not in "fiub":
        return target
    rows = target.shape[:1] == shape[:1]
    if not rows or target.size != math.prod(shape) or target.ndim > 2:
        return target
    # Whole numbers may be indices, so they stay what they are.
    with np.errstate(over="ignore"):
        kept = target.dtype if target.dtype.kind != "f" else dtype
        return target.reshape(shape).astype(kept, copy=False)


def as_loss(loss: Loss | Callable[..., Any]) -> Loss:
    """Return a loss unchanged, and a function as a `CustomLoss`.

    Parameters
    ----------
    loss : Loss or callable
        Loss or custom loss function.

    Returns
    -------
    Loss
        The loss.

    Raises
    ------
    TypeError
        If ``loss`` is anything else, such as the name or the class of a loss.
    """
    if isinstance(loss, Loss):
        return loss
    home = getattr(loss, "__module__", None) or ""
    of_torch = home.startswith("torch.") and not isinstance(loss, type)
    if callable(loss) and not isinstance(loss, type) and not of_torch:
        return CustomLoss(loss)
    got = _validate.describe(loss)
    if of_torch:
        got += (
            f" of PyTorch ({home}), which takes tensors: wrap it in a function; see "
            "fm.CustomLoss"
        )
    if isinstance(loss, type) and issubclass(loss, Loss):
        got = f"fm.{loss.__name__}; did you mean fm.{loss.__name__}()?"
    raise TypeError(
        "loss must be a fastmlp Loss such as fm.MSE(), or a function (pred, target) -> "
        f"(value, gradient); got {got}{hints.instance(loss, 'losses')}"
    )


def with_scale(loss: Loss, factor: float) -> Loss:
    """Return a copy of a loss whose value and gradient are multiplied by a factor.

    This serves conventions that differ by a factor, such as the ½ in scikit-learn's
    squared error. The factor is applied to the divisor of the sum over rows. A factor
    that cancels a part of this divisor, such as the O of a mean over O outputs, causes
    no rounding error.

    Parameters
    ----------
    loss : Loss
        Any loss except a `CustomLoss`.
    factor : float
        Factor, finite, > 0. It multiplies any earlier scale of the loss.

    Returns
    -------
    Loss
        The copy, of the same class, so that metrics treat it like the original.

    Raises
    ------
    TypeError, ValueError
        If ``loss`` is not such a loss or ``factor`` is out of range.
    """
    if not isinstance(loss, Loss) or isinstance(loss, CustomLoss):
        raise TypeError(
            "loss must be one of fastmlp's own losses such as fm.MSE(), got "
            f"{_validate.describe(loss)}"
        )
    return loss._times(positive("factor", factor))
