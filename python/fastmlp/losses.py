"""Losses: what training minimises.

Notation: p predictions and y targets of shape (B, O) with B rows and O outputs,
r = p - y, w sample weights (all 1 if there are none). With ``reduction="mean"`` a loss
is

    Σ_b w_b L_b / Σ_b w_b,    L_b the mean over the row's O outputs of L(p, y)

(`CrossEntropy` and `ActionValue` define L_b directly, one per row). Without weights
this is the mean over all elements, as in torch. With ``reduction="sum"`` it is
Σ_b w_b Σ_o L(p, y). Gradients are those of exactly the value that is returned.

A custom loss is a function (pred, target) → (value, gradient): see `CustomLoss`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, _validate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, TypeAlias

    import numpy.typing as npt

    from ._validate import Array, Target

    # Values, labels, or for ActionValue (actions, values).
    TargetLike: TypeAlias = npt.ArrayLike | tuple[npt.ArrayLike, npt.ArrayLike]

__all__ = [
    "MAE",
    "MSE",
    "ActionValue",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "CustomLoss",
    "GaussianNLL",
    "Hinge",
    "Huber",
    "Poisson",
    "PseudoHuber",
    "Quantile",
]

REDUCTIONS = ("mean", "sum")


class Loss:
    """Base class of the losses; create one of the classes below instead.

    Losses are immutable, compare by value, and can be hashed and pickled.
    """

    __slots__ = ("core",)

    core: _core.Loss

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Loss is abstract: make fm.MSE(), fm.CrossEntropy(), …")

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
    ) -> None:
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        core = _core.Loss(kind, delta, reduction, smoothing, per_output, action, scale)
        object.__setattr__(self, "core", core)

    @property
    def reduction(self) -> str:
        """How the losses of rows are combined: "mean" or "sum"."""
        return self.core.reduction

    def _as_array(self, name: str, target: Any) -> Array:
        """Return the targets of a whole data set as an array that `fit` can index.

        Called only for losses written in Python: the core checks those of the others.
        """
        return np.asarray(target)

    def _arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {"reduction": self.reduction}

    def _factor(self) -> float:
        """Return the factor that `with_scale` has multiplied the loss by."""
        return self.core.scale

    def _times(self, factor: float) -> Loss:
        """Return a copy multiplied by a factor, see `with_scale`."""
        copy, core = _make(type(self), self._arguments()), self.core
        scale = core.scale * factor
        if not (0.0 < scale < np.inf):
            raise ValueError(
                f"factor must leave the loss a finite scale > 0: {factor!r} makes it "
                f"{scale!r}"
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
            Targets; `CrossEntropy` also takes int class labels (B,), and `Quantile`,
            `GaussianNLL` and `ActionValue` document what they take. The values are not
            checked, for instance whether probabilities are from 0 to 1.
        sample_weight : (B,), optional
            Weights of the rows: finite, not negative, not all zero.

        Returns
        -------
        float
            The loss.

        Raises
        ------
        TypeError, ValueError
            If an array has a wrong shape or dtype, or a label is out of range.
        """
        if sample_weight is None:
            try:
                value = self.core.value(pred, target)
            except ValueError:
                value = NotImplemented  # a label out of range; raised again for target
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

        Parameters and errors are the same as for calling the loss.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray, shape of ``pred``
            Its gradient, in the dtype that it was computed in.
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
        """Return arrays that the core takes, or raise an error that names the fault."""
        # Predictions, in their own precision.
        p = _validate.numeric("pred", pred)
        dtype = np.dtype(np.float32 if p.dtype == np.float32 else np.float64)
        p = _predictions(_validate.convert("pred", p, dtype))

        # Targets and weights for as many rows.
        y = _validate.targets("target", target, self.core, p.shape, dtype)
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


def _predictions(p: Array) -> Array:
    if p.ndim not in (1, 2) or p.size == 0:
        raise ValueError(
            "pred must have shape (rows, outputs) or (rows,) and not be empty, "
            f"got {_validate.describe(p)}"
        )
    return p


def _make(cls: type[Loss], arguments: dict[str, Any], factor: float = 1.0) -> Loss:
    """Make a loss for pickle, which passes positional arguments only."""
    loss = cls(**arguments)
    return loss if factor == 1.0 else loss._times(factor)


def with_scale(loss: Loss, factor: float) -> Loss:
    """Return a copy of a loss whose value and gradient are multiplied by a factor.

    This serves conventions that differ by a factor, such as the ½ in scikit-learn's
    squared error. The factor is applied to the divisor of the sum over rows: one that
    cancels a part of it, such as the O of a mean over O outputs, costs no rounding.

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
            "loss must be a fastmlp Loss that is computed in the core such as "
            f"fm.MSE(), got {_validate.describe(loss)}"
        )
    return loss._times(_positive("factor", factor))


def _positive(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0, open_low=True)


def _one_or_several(
    name: str, value: object, low: float, high: float, **options: bool
) -> tuple[float, tuple[float, ...]]:
    """Return a number and an empty tuple, or 1 and several numbers."""
    if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0:
        return 1.0, _validate.reals(name, value, low, high, **options)
    return _validate.real(name, value, low, high, **options), ()


class MSE(Loss):
    """Squared error, L = r².

    Like ``torch.nn.MSELoss``, it has no factor ½ (scikit-learn's MLP has one).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If ``reduction`` is neither.
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("mse", reduction)


class MAE(Loss):
    """Absolute error, L = abs(r), with derivative 0 at 0 (``torch.nn.L1Loss``).

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If ``reduction`` is neither.
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("mae", reduction)


class _WithDelta(Loss):
    __slots__ = ()

    @property
    def delta(self) -> float:
        """The abs(r) at which the loss changes from quadratic to linear."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"delta": self.delta, "reduction": self.reduction}


class Huber(_WithDelta):
    """L = ½ r² for abs(r) ≤ δ, δ (abs(r) - ½ δ) beyond; δ is ``delta`` > 0.

    Huber, "Robust estimation of a location parameter", 1964; ``torch.nn.HuberLoss``.

    Parameters
    ----------
    delta : float
        The abs(r) at which the loss changes from quadratic to linear, > 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("huber", reduction, _positive("delta", delta))


class PseudoHuber(_WithDelta):
    """L = δ² (√(1 + (r / δ)²) - 1); δ is ``delta`` > 0.

    Charbonnier et al. 1997. It is near ½ r² at 0 and near δ abs(r) far out, like
    `Huber`, but smooth.

    Parameters
    ----------
    delta : float
        The abs(r) around which the loss changes from quadratic to linear, > 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("pseudo_huber", reduction, _positive("delta", delta))


class CrossEntropy(Loss):
    """L_b = -Σ_o y_bo log softmax(p_b)_o, from logits p (B, O).

    This is ``torch.nn.CrossEntropyLoss``. The target is either an array of class labels
    0 … O - 1 of any integer dtype, (B,), for which L_b = -log softmax(p_b)[y_b], or one
    of class probabilities, (B, O). The softmax is part of the loss, so the model's
    output activation should be the identity. Whether probabilities are from 0 to 1 and
    sum to 1 is checked by `fastmlp.MLP.fit` only.

    With label smoothing ε and class weights c, L_b is instead
    -Σ_o c_o ((1 - ε) y_bo + ε / O) log softmax(p_b)_o (a label is one-hot). As in
    torch, the mean over rows is then Σ_b w_b L_b / Σ_b w_b c[y_b] for labels; for
    probabilities, the divisor does not include the class weights.

    Parameters
    ----------
    label_smoothing : float
        ε, from 0 to 1 (Szegedy et al., "Rethinking the Inception architecture", 2016).
    class_weight : sequence of O floats, optional
        c, finite, not negative, for instance N / (O N_o) if class o has N_o of N rows.
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; when the loss is used, if the number of class
        weights is not O.
    """

    __slots__ = ()

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | Array | None = None,
        reduction: str = "mean",
    ) -> None:
        smoothing = _validate.real("label_smoothing", label_smoothing, 0.0, 1.0)
        weights: tuple[float, ...] = ()
        if class_weight is not None:
            weights = _validate.reals("class_weight", class_weight, 0.0)
            if not any(weights):
                raise ValueError("class_weight must not be all zero")
        self._make("cross_entropy", reduction, 1.0, smoothing, weights)

    @property
    def label_smoothing(self) -> float:
        """The part of each label that is spread evenly over all classes."""
        return self.core.smoothing

    @property
    def class_weight(self) -> tuple[float, ...] | None:
        """The weights of the classes, or None."""
        return self.core.per_output or None

    def _arguments(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "class_weight": self.class_weight,
            "reduction": self.reduction,
        }


class BinaryCrossEntropy(Loss):
    """L = max(p, 0) - p y + log(1 + exp(-abs(p))), from logits p, y from 0 to 1.

    This is -y log s - (1 - y) log(1 - s) with s = sigmoid(p), computed without overflow
    like ``torch.nn.BCEWithLogitsLoss``. The sigmoid is part of the loss, so the model's
    output activation should be the identity. Whether targets are from 0 to 1 is checked
    by `fastmlp.MLP.fit` only.

    Parameters
    ----------
    pos_weight : float or sequence of O floats, optional
        c ≥ 0 in -c y log s - (1 - y) log(1 - s), one for all outputs or one for each,
        for instance the ratio of zeros to ones among the targets.
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; when the loss is used, if the number of weights is
        not O.
    """

    __slots__ = ()

    def __init__(
        self,
        *,
        pos_weight: float | Sequence[float] | Array | None = None,
        reduction: str = "mean",
    ) -> None:
        given = 1.0 if pos_weight is None else pos_weight
        one, each = _one_or_several("pos_weight", given, 0.0, np.inf)
        self._make("binary_cross_entropy", reduction, one, 0.0, each)

    @property
    def pos_weight(self) -> float | tuple[float, ...] | None:
        """The weight of targets of 1 relative to targets of 0; None if equal."""
        one = None if self.core.delta == 1.0 else self.core.delta
        return self.core.per_output or one

    def _arguments(self) -> dict[str, Any]:
        return {"pos_weight": self.pos_weight, "reduction": self.reduction}


class Poisson(Loss):
    """L = exp(p) - y p, for counts y ≥ 0 and the logarithm p of their rate.

    This is the negative log likelihood of a Poisson distribution without its term
    log y!, which does not depend on the prediction: ``torch.nn.PoissonNLLLoss`` with
    its defaults. The model's output activation should be the identity; the predicted
    rate is ``np.exp(mlp(x))``.

    Parameters
    ----------
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If ``reduction`` is neither.
    """

    __slots__ = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self._make("poisson", reduction)


class Quantile(Loss):
    """L = max(q (y - p), (q - 1) (y - p)), minimal where p is the quantile q of y.

    This is the pinball loss (Koenker & Bassett, "Regression quantiles", 1978). A
    prediction that is too low costs q per unit, one that is too high 1 - q; q = ½ gives
    half the absolute error. The derivative at p = y is taken to be 0.

    With several q, output o is trained for q_o. The target is then (B, O), or (B,) or
    (B, 1) if all outputs share it.

    Parameters
    ----------
    q : float or sequence of O floats
        Quantile between 0 and 1, both excluded: one for all outputs or one for each.
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range; when the loss is used, if the number of quantiles
        is not that of the outputs.
    """

    __slots__ = ()

    def __init__(
        self, q: float | Sequence[float] | Array = 0.5, *, reduction: str = "mean"
    ) -> None:
        one, each = _one_or_several("q", q, 0.0, 1.0, open_low=True, open_high=True)
        self._make("quantile", reduction, one, 0.0, each)

    @property
    def q(self) -> float | tuple[float, ...]:
        """The quantile, or one for each output."""
        return self.core.per_output or self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"q": self.q, "reduction": self.reduction}


class GaussianNLL(Loss):
    """L = ½ (s + (m - y)² / v), v = exp(s), for predictions p = (m, s).

    This is the negative log likelihood of a normal distribution without its constant
    ½ log 2π (Nix & Weigend, "Estimating the mean and variance of the target probability
    distribution", 1994). Predictions are (B, 2 O): O means m, then O log variances s;
    the target is (B, O), or (B,) for O = 1. The mean is over rows and the O targets.

    Where v is below ``eps``, the value is computed with v = eps and s = log(eps). There
    the value does not depend on s, and its derivative would be 0 and trap the model.
    Therefore the derivative with respect to s is taken as if v had been clamped without
    its gradient: ½ (1 - (m - y)² / eps) exp(s) / eps. This agrees with
    ``torch.nn.GaussianNLLLoss`` of exp(s).

    Parameters
    ----------
    eps : float
        Smallest variance, > 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, eps: float = 1e-6, *, reduction: str = "mean") -> None:
        self._make("gaussian_nll", reduction, _positive("eps", eps))

    @property
    def eps(self) -> float:
        """The smallest variance."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"eps": self.eps, "reduction": self.reduction}


class Hinge(Loss):
    """L = max(0, margin - y p), for targets y of -1 or 1 and scores p.

    With a margin of 1 it is the loss of the support vector machine (Cortes & Vapnik,
    1995), a linear one if the model has no hidden layer. With a margin of 0 it is that
    of the perceptron (Rosenblatt, 1958), whose learning rule is a gradient step on one
    example. The predicted class is the sign of p. At the kink, y p = margin, the
    derivative is -y, as for a misclassified example: a perceptron starts at p = 0 and
    could not learn otherwise.

    Parameters
    ----------
    margin : float
        The y p from which the loss is 0, ≥ 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined, see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or is out of range.
    """

    __slots__ = ()

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        self._make("hinge", reduction, _validate.real("margin", margin, 0.0))

    @property
    def margin(self) -> float:
        """The y p from which the loss is 0."""
        return self.core.delta

    def _arguments(self) -> dict[str, Any]:
        return {"margin": self.margin, "reduction": self.reduction}


class ActionValue(Loss):
    """L_b = loss(p[b, a_b], v_b): only the prediction for the action taken counts.

    It is the loss of Q-learning (Watkins & Dayan, 1992). The predictions p (B, A) are
    the values of all A actions. The target is a pair (actions, values), int (B,) and
    (B,). A value is for instance the reward plus the discounted max_u Q(x', u); it is
    a constant to the gradient. The mean is over rows.

    Parameters
    ----------
    loss : Loss
        Loss of a prediction and a value, such as `MSE` or `Huber`, but not
        `CrossEntropy`, `GaussianNLL` or a loss with one number per output. Its
        reduction also applies to this loss.

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
                "loss must be a fastmlp Loss of a prediction and a value such as "
                f"fm.MSE(), got {_validate.describe(loss)}"
            )
        core = loss.core
        if core.kind in ("cross_entropy", "gaussian_nll") or core.per_output:
            raise ValueError(f"loss must be of one prediction and a value, got {loss}")
        object.__setattr__(self, "_inner", loss)
        self._make(core.kind, core.reduction, core.delta, action=True, scale=core.scale)

    @property
    def loss(self) -> Loss:
        """The loss of a prediction and a value."""
        return self._inner

    def _factor(self) -> float:
        return 1.0  # the inner loss holds the factor

    def _times(self, factor: float) -> ActionValue:
        return ActionValue(self._inner._times(factor))

    def _arguments(self) -> dict[str, Any]:
        return {"loss": self.loss}


class CustomLoss(Loss):
    """A loss that is a Python function.

    Whatever takes a loss also takes the function itself. Each batch then costs a call
    into Python and the time of the function, which is most of a step for small models
    and batches; the losses above run in the core. Dropout draws the same masks as with
    a loss of the core.

    Parameters
    ----------
    function : callable
        ``function(pred, target)`` returns the loss, a number, and its gradient with
        respect to the predictions, an array of their shape (B, O). It gets the targets
        unconverted and, if there are sample weights, the weights (B,) as a third
        argument.
    reduction : {"mean", "sum"}
        Whether the function's value is a mean or a sum over rows. This determines how
        the losses of batches are combined into that of an epoch; it does not change
        what the function returns.

    Raises
    ------
    TypeError, ValueError
        If ``function`` is not a function or ``reduction`` is neither.

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
                "function must be a function of (pred, target), got "
                f"{_validate.describe(function)}"
            )
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        object.__setattr__(self, "core", None)  # the core has no part in it
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

    def __call__(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
    ) -> float:
        """Return the loss of predictions, see `value_and_grad`."""
        return self.value_and_grad(pred, target, sample_weight)[0]

    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Call the function and check what it returns.

        Parameters
        ----------
        pred : (B, O) or (B,)
            Predictions; float32 stays float32, everything else becomes float64.
        target : object
            Targets in any form that the function takes.
        sample_weight : (B,), optional
            Weights of the rows: finite, not negative, not all zero.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray, shape of ``pred``
            Its gradient, of the dtype of the predictions.

        Raises
        ------
        TypeError, ValueError
            If the function does not return a number and such an array, or if there are
            weights and it does not take them.
        """
        p = _validate.numeric("pred", pred)
        dtype = np.dtype(np.float32 if p.dtype == np.float32 else np.float64)
        p = _predictions(_validate.convert("pred", p, dtype))
        if sample_weight is None:
            result = self.function(p, target)
        else:
            weight = _validate.weights("sample_weight", sample_weight, dtype, len(p))
            self._check_takes_weights()
            result = self.function(p, target, weight)
        return self._checked(result, p)

    def _check_takes_weights(self) -> None:
        import inspect

        try:
            inspect.signature(self.function).bind(None, None, None)
        except TypeError:
            raise TypeError(
                "sample_weight is for a loss function with a third argument, "
                f"(pred, target, sample_weight); {self.function!r} has none"
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
        If it is anything else, such as the name or the class of a loss.
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
            f" of PyTorch ({home}), which takes tensors: wrap it in a function, see "
            "fm.CustomLoss"
        )
    if isinstance(loss, type) and issubclass(loss, Loss):
        got = f"fm.{loss.__name__}; did you mean fm.{loss.__name__}()?"
    raise TypeError(
        "loss must be a fastmlp Loss such as fm.MSE(), or a function (pred, target) -> "
        f"(value, gradient); got {got}"
    )
