"""Policy gradients: losses, log-probabilities, entropy, and drawing of actions.

A policy is a network whose outputs z (B, A) are logits: π(a|s) = softmax(z)_a for A
actions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _validate
from .._validate.hints import hinted
from ..losses import REDUCTIONS, CustomLoss

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from .._validate import Array

# Logarithms of probability ratios are clamped to this value, so that the ratio does not
# overflow in float32, even when multiplied by an advantage.
MOST_LOG_RATIO = 60.0

# Where log π is less, π is 0 in float64 too. Larger than -inf, so that the product with
# a probability of 0 is 0, the limit of π log π.
LEAST_LOG_PI = -1000.0


def _logits(name: str, value: Any, *, vector: bool = False) -> Array:
    """Convert logits (B, A), or (A,) if ``vector``, to float32 or float64."""
    single = getattr(value, "dtype", None) == np.float32
    z = _validate.convert(name, value, np.dtype(np.float32 if single else np.float64))
    if z.size == 0 or (z.ndim != 2 and not (vector and z.ndim == 1)):
        wanted = "(rows, actions)" + (" or (actions,)" if vector else "")
        raise ValueError(
            f"{name} must have shape {wanted} and not be empty, "
            f"got {_validate.describe(z)}"
        )
    return z


def _actions(name: str, value: Any, shape: tuple[int, ...]) -> Array:
    """Check that actions are in range, and return them as int64 (B,)."""
    right = type(value) is np.ndarray and value.dtype == np.int64
    right = right and value.shape == shape[:1] and value.flags.c_contiguous
    # Viewed as unsigned integers, negative actions are also too large.
    if right and value.view(np.uint64).max() < shape[1]:
        actions: Array = value
        return actions
    return _validate.actions(name, value, shape)


def _softmax(logits: Array) -> tuple[Array, Array]:
    """Return log π and π, both (A, B), without overflow.

    The results are transposed because there are usually few actions and many rows, and
    NumPy is faster on long rows.
    """
    z = np.array(logits.T, order="C")
    largest = np.maximum.reduce(z, 0)
    none = largest == -np.inf
    if none.any():
        raise ValueError(
            "logits must not all be -inf, because one action must be possible, but "
            f"they are in row {int(np.argmax(none))}"
        )
    z -= largest
    e = np.exp(z)
    total = np.add.reduce(e, 0)
    z -= np.log(total)
    e /= total
    return z, e


def _places(actions: Array) -> Array:
    """Return the indices of the actions' elements in a flattened (A, B) array."""
    rows = len(actions)
    return actions * rows + np.arange(rows)


@_validate.reproducible
@hinted
def log_prob(logits: npt.ArrayLike, actions: npt.ArrayLike) -> Array:
    """Return log π(a|s) of actions, for π = softmax(logits).

    Parameters
    ----------
    logits : (B, A)
        Outputs of a policy. The computation is in float32 for float32 logits, else in
        float64.
    actions : (B,)
        Actions of an integer dtype, from 0 to A - 1.

    Returns
    -------
    ndarray (B,)
        Log-probabilities of the actions.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong dtype or shape, or an action is out of range.
    """
    z = _logits("logits", logits)
    a = _actions("actions", actions, z.shape)
    return _softmax(z)[0].ravel()[_places(a)]


@_validate.reproducible
@hinted
def entropy(logits: npt.ArrayLike) -> Array:
    """Return the entropy of each row's policy, -Σ_a π(a|s) log π(a|s), in nats.

    Parameters
    ----------
    logits : (B, A)
        Outputs of a policy; an action with a logit of -inf is never drawn. The
        computation is in float32 for float32 logits, else in float64.

    Returns
    -------
    ndarray (B,)
        Entropies, from 0 (one action is certain) to log A (all actions are equally
        likely).

    Raises
    ------
    TypeError, ValueError
        If the array has the wrong dtype or shape.
    """
    log_pi, pi = _softmax(_logits("logits", logits))
    result: Array = (pi * -np.maximum(log_pi, LEAST_LOG_PI)).sum(axis=0)
    return result


@_validate.reproducible
def sample_actions(logits: npt.ArrayLike, rng: np.random.Generator) -> tuple[Any, Any]:
    """Draw an action for each row from π = softmax(logits).

    One uniform number is drawn per row and converted to an action by the inverse
    cumulative distribution function; an action whose probability underflows to 0 is
    never drawn.

    Parameters
    ----------
    logits : (B, A) or (A,)
        Outputs of a policy. The computation is in float32 for float32 logits, else in
        float64.
    rng : numpy.random.Generator
        Generator to draw from.

    Returns
    -------
    actions : ndarray (B,) of int64, or int
        Actions; an int for logits (A,).
    log_probs : ndarray (B,), or float
        Log-probabilities log π(a|s) of the actions, in the dtype of the logits.

    Raises
    ------
    TypeError, ValueError
        If ``rng`` is not a generator, or if the logits have the wrong dtype or shape,
        or contain NaN or +inf.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.rl import sample_actions
    >>> actions, _ = sample_actions(np.zeros((1000, 2)), np.random.default_rng(0))
    >>> bool(400 < actions.sum() < 600)
    True
    """
    z = _logits("logits", logits, vector=True)
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng must be a numpy.random.Generator such as np.random.default_rng(0), "
            f"got {_validate.describe(rng)}"
        )
    one = z.ndim == 1
    if one:
        z = z[np.newaxis]
    z = np.array(z.T, order="C")
    largest = np.maximum.reduce(z, 0)
    finite = np.isfinite(largest)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(
            f"logits must be finite, got {z[:, row]}"
            + ("" if one else f" in row {row}")
        )
    z -= largest
    cumulated = np.add.accumulate(np.exp(z), 0)
    total = cumulated[-1]

    # `u` is in float64 and below `total` even after rounding, so an action is always
    # found.
    u = rng.random(z.shape[1]) * total
    actions = np.add.reduce(cumulated <= u, 0)
    log_probs = z.ravel()[_places(actions)] - np.log(total)
    if one:
        return int(actions[0]), float(log_probs[0])
    return actions, log_probs


class _PolicyLoss(CustomLoss):
    """Base class of policy losses: handles targets and the entropy bonus."""

    __slots__ = ("_entropy",)
    _contained = "softmax"

    _entropy: float
    # Names of the parts of a target other than the actions.
    _parts: ClassVar[tuple[str, ...]]

    def __init__(self, entropy: float, reduction: str) -> None:
        bonus = _validate.real("entropy", entropy, 0.0)
        reduction = _validate.choice("reduction", reduction, REDUCTIONS)
        object.__setattr__(self, "core", None)  # computed in Python only
        object.__setattr__(self, "_entropy", bonus)
        object.__setattr__(self, "_reduction", reduction)

    @property
    def function(self) -> Callable[..., Any]:
        """The function that computes the loss: `value_and_grad`."""
        return self.value_and_grad

    @property
    def entropy(self) -> float:
        """The weight β of the entropy bonus; β H is subtracted from the loss."""
        return self._entropy

    def _weigh(self, log_pi_a: Array, *parts: Array) -> tuple[Array, Array]:
        """Return each row's loss, and its negated derivative with respect to log π."""
        raise NotImplementedError

    @_validate.reproducible
    def value_and_grad(
        self,
        pred: npt.ArrayLike,
        target: Any,
        sample_weight: npt.ArrayLike | None = None,
        mask: npt.ArrayLike | None = None,
    ) -> tuple[float, Array]:
        """Return the loss, and its gradient with respect to the logits.

        Parameters
        ----------
        pred : (B, A)
            Logits; -inf for actions that are never drawn. The computation is in float32
            for float32 logits, else in float64.
        target : tuple of arrays (B,), or array (B, columns)
            Actions, and the other parts of the target that the class describes. Values
            are checked only for the actions.
        sample_weight : (B,), optional
            Weights of the rows: finite, not negative, not all zero.
        mask : None
            Must be None: rows that do not count have the weight 0.

        Returns
        -------
        value : float
            The loss.
        grad : ndarray (B, A)
            Gradient with respect to the logits; float32 if the logits are float32, else
            float64.

        Raises
        ------
        TypeError, ValueError
            If an array has the wrong shape or dtype, or an action is out of range.
        """
        if mask is not None:
            self._refuse_mask()
        z = _logits("pred", pred)
        actions, parts = self._split(target, z)
        log_pi, pi = _softmax(z)
        places = _places(actions)

        # Factor by which each row's loss enters the total loss.
        share: Any = 1.0
        if sample_weight is not None:
            relative = self._reduction == "mean"
            share = _validate.weights(
                "sample_weight", sample_weight, z.dtype, len(z), relative=relative
            )
        if self._reduction == "mean":
            share = share / (len(z) if sample_weight is None else share.sum())

        # d log π(a|s) / dz = (1 at a, else 0) - π; d H / dz = -π (log π + H).
        each, inner = self._weigh(log_pi.ravel()[places], *parts)
        pull = inner * share
        if self._entropy > 0:
            np.maximum(log_pi, LEAST_LOG_PI, out=log_pi)
            negative = np.add.reduce(pi * log_pi, 0)  # -H
            each = each + self._entropy * negative
            log_pi -= negative
            log_pi *= self._entropy
            inner = log_pi + inner
        pi *= inner * share
        pi.ravel()[places] -= pull  # a view: the array is contiguous
        return float(np.add.reduce(each * share)), pi.T.copy()

    def _split(self, target: Any, z: Array) -> tuple[Array, list[Array]]:
        """Return the actions as int64, and the other parts in the logits' dtype."""
        names = ("actions", *self._parts)
        if isinstance(target, np.ndarray):
            if target.shape != (len(z), len(names)):
                raise ValueError(
                    f"target must be ({', '.join(names)}), or an array of shape "
                    f"{(len(z), len(names))} with these columns, "
                    f"got {_validate.describe(target)}"
                )
            columns = list(np.array(_validate.numeric("target", target).T, order="C"))
            if target.dtype.kind == "f":
                with np.errstate(invalid="ignore"):
                    whole = columns[0].astype(np.int64)
                if (whole != columns[0]).any():
                    row = int(np.argmax(whole != columns[0]))
                    raise ValueError(
                        "target: the actions must be whole numbers, got "
                        f"{columns[0][row]} in row {row}"
                    )
                columns[0] = whole
        elif isinstance(target, (tuple, list)) and len(target) == len(names):
            columns = list(target)
        else:
            raise TypeError(
                f"target must be ({', '.join(names)}) for {type(self).__name__}, got "
                + _validate.describe(target)
                + (
                    f" of length {len(target)}"
                    if isinstance(target, (tuple, list))
                    else ""
                )
            )
        actions = _actions("target", columns[0], z.shape)
        parts = []
        for name, column in zip(self._parts, columns[1:], strict=True):
            part = _validate.convert(f"target: the {name}", column, z.dtype)
            if part.shape != (len(z),):
                raise ValueError(
                    f"target: the {name} must have shape {(len(z),)}, "
                    f"got {_validate.describe(part)}"
                )
            parts.append(part)
        return actions, parts

    def _targets(self, name: str, target: Any) -> Any:
        return target  # `_split` converts its parts

    def _as_array(
        self, name: str, target: Any, n_out: int, dtype: np.dtype[Any]
    ) -> Array:
        """Return the parts of a target as columns of an array that `fit` can index."""
        if isinstance(target, (tuple, list)) and len(target) == 1 + len(self._parts):
            columns = [
                _validate.numeric(f"{name}: the {what}", part)
                for what, part in zip(("actions", *self._parts), target, strict=True)
            ]
            if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
                got = ", ".join(map(_validate.describe, columns))
                raise ValueError(
                    f"{name}: all arrays must have shape (rows,), got {got}"
                )
            if columns[0].dtype.kind == "f":
                raise TypeError(
                    f"{name}: the actions must be of an integer dtype, got "
                    f"{_validate.describe(columns[0])}"
                )
            # Actions are small integers, which any float dtype represents exactly.
            dtype = np.result_type(*columns[1:])
            dtype = dtype if dtype == np.float32 else np.dtype(np.float64)
            array = np.stack(columns, axis=1, dtype=dtype, casting="same_kind")
        else:
            array = _validate.numeric(name, target)
        if array.dtype.kind == "f":
            _validate.finite(name, array)
        return array


class PolicyGradient(_PolicyLoss):
    """REINFORCE loss of logits: L_b = -A_b log π(a_b | s_b) - β H(π(· | s_b)).

    The gradient of this loss estimates the negative gradient of the expected return
    (Williams, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning", 1992). The actions a must be drawn from π. Their advantages
    A are returns minus a baseline that does not depend on the action. H is the entropy,
    -Σ_a π log π. The entropy bonus keeps a policy from becoming deterministic too soon
    (Williams & Peng 1991). The model's output activation should be the identity.

    The target is (actions, advantages) with an integer and a float array (B,), or one
    array (B, 2) with these columns. Sample weights and the mean over rows work as in
    `fastmlp.losses`. The loss is written in Python; see `fastmlp.CustomLoss`.

    Parameters
    ----------
    entropy : float
        β, weight of the entropy, ≥ 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.rl import PolicyGradient
    >>> loss = PolicyGradient()
    >>> round(loss(np.zeros((2, 2)), ([0, 1], [1.0, 3.0])), 6)  # 2 log 2
    1.386294
    """

    __slots__ = ()

    _parts = ("advantages",)

    def __init__(self, entropy: float = 0.0, *, reduction: str = "mean") -> None:
        super().__init__(entropy, reduction)

    def _arguments(self) -> dict[str, Any]:
        return {"entropy": self.entropy, "reduction": self.reduction}

    def _weigh(self, log_pi_a: Array, *parts: Array) -> tuple[Array, Array]:
        (advantages,) = parts
        # An action that has become impossible has log π = -inf, but an advantage of 0
        # gives it no loss.
        each = np.zeros_like(log_pi_a)
        np.multiply(-advantages, log_pi_a, out=each, where=advantages != 0)
        return each, advantages


class ClippedPolicyGradient(_PolicyLoss):
    """PPO loss: L_b = -min(r_b A_b, clip(r_b, 1 - ε, 1 + ε) A_b) - β H(π(· | s_b)).

    r_b = π(a_b | s_b) / π_old(a_b | s_b) is the action's probability divided by its
    probability when the action was drawn, A_b is the action's advantage, and H is the
    entropy -Σ_a π log π (Schulman et al., "Proximal policy optimization algorithms",
    2017, equations 7 and 9 without the value term, because the value function is a
    separate network). Once a ratio has passed the clipping bound, the gradient does not
    push it further. The model's output activation should be the identity.

    The target is (actions, advantages, old log-probabilities) with an integer and two
    float arrays (B,), or one array (B, 3) with these columns; `sample_actions` returns
    the log-probabilities with the actions. Sample weights and the mean over rows work
    as in `fastmlp.losses`. The loss is written in Python; see `fastmlp.CustomLoss`.

    Parameters
    ----------
    clip : float
        ε, maximum distance of the ratio from 1; > 0.
    entropy : float
        β, weight of the entropy, ≥ 0.
    reduction : {"mean", "sum"}
        How the losses of rows are combined; see `fastmlp.losses`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Notes
    -----
    Values of log r above 60 are clamped to 60.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp.rl import ClippedPolicyGradient
    >>> loss = ClippedPolicyGradient(clip=0.2, entropy=0.0)
    >>> log_half = float(np.log(0.5))
    >>> loss(np.zeros((2, 2)), ([0, 1], [1.0, 3.0], [log_half, log_half]))
    -2.0
    """

    __slots__ = ("_clip",)

    _clip: float
    _parts = ("advantages", "old log-probabilities")

    def __init__(
        self, clip: float = 0.2, entropy: float = 0.01, *, reduction: str = "mean"
    ) -> None:
        clip = _validate.real("clip", clip, 0.0, open_low=True)
        super().__init__(entropy, reduction)
        object.__setattr__(self, "_clip", clip)

    @property
    def clip(self) -> float:
        """The distance from 1 at which the ratio of probabilities is clipped."""
        return self._clip

    def _arguments(self) -> dict[str, Any]:
        return {
            "clip": self.clip,
            "entropy": self.entropy,
            "reduction": self.reduction,
        }

    def _weigh(self, log_pi_a: Array, *parts: Array) -> tuple[Array, Array]:
        advantages, old = parts
        ratio = np.exp(np.minimum(log_pi_a - old, MOST_LOG_RATIO))
        free = ratio * advantages
        # These two calls are faster than one call of np.clip on small arrays.
        bounded = np.minimum(np.maximum(ratio, 1 - self._clip), 1 + self._clip)
        least = np.minimum(free, bounded * advantages)
        return -least, free * (least == free)
