"""Q-learning: exploration, target networks, targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._validate.hints import hinted
from ..mlp import MLP
from ._replay import Batch, bools, exactly

if TYPE_CHECKING:
    from typing import Self

    import numpy.typing as npt

    from .._validate import Array


def epsilon_greedy(
    q_values: npt.ArrayLike, epsilon: float, rng: np.random.Generator
) -> Any:
    """Return the action with the largest value or, sometimes, a random one.

    Parameters
    ----------
    q_values : (A,) or (N, A)
        Values of the actions in one or several states. Of several equal largest values,
        the first one is chosen.
    epsilon : float
        Probability, from 0 to 1, of drawing the action uniformly from all actions.
    rng : numpy Generator
        Generator to draw from. For each state a number from 0 to 1 is drawn, and if it
        is below ``epsilon``, an action is drawn too; for several states, all numbers
        are drawn before the actions.

    Returns
    -------
    int, or (N,) int64
        Actions.

    Raises
    ------
    TypeError, ValueError
        If ``q_values`` has the wrong shape or dtype, ``epsilon`` is out of range, or
        ``rng`` is not a generator.
    """
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            "rng must be a numpy.random.Generator such as np.random.default_rng(0), "
            f"got {_validate.describe(rng)}"
        )
    if type(epsilon) is not float or not 0.0 <= epsilon <= 1.0:
        epsilon = _validate.real("epsilon", epsilon, 0.0, 1.0)
    q = q_values
    if type(q) is not np.ndarray or q.dtype.kind != "f":
        q = _validate.numeric("q_values", q_values)
    if q.ndim == 1 and q.size > 0:
        if rng.random() < epsilon:
            return int(rng.integers(q.size))
        return int(q.argmax())
    if q.ndim != 2 or q.shape[1] == 0:
        raise ValueError(
            "q_values must have shape (actions,) or (states, actions), got "
            f"{_validate.describe(q)}"
        )
    actions = q.argmax(axis=1)
    explores = rng.random(len(q)) < epsilon
    actions[explores] = rng.integers(q.shape[1], size=int(explores.sum()))
    return actions


class LinearSchedule:
    """A value that changes linearly and then stays constant, such as epsilon.

    At step t it is start + (end - start) min(t / steps, 1).

    Parameters
    ----------
    start, end : float
        First and last value.
    steps : int
        Number of steps from the first to the last value.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Examples
    --------
    >>> import fastmlp as fm
    >>> epsilon = fm.rl.LinearSchedule(1.0, 0.0, 10_000)
    >>> epsilon(2500), epsilon(20_000)
    (0.75, 0.0)
    """

    def __init__(self, start: float, end: float, steps: int) -> None:
        self.start = _validate.real("start", start)
        self.end = _validate.real("end", end)
        self.steps = _validate.count("steps", steps, 1)

    @_validate.reproducible
    def __call__(self, step: int) -> float:
        """Return the value at a step, counted from 0.

        Raises
        ------
        TypeError, ValueError
            If ``step`` is not an int of at least 0.
        """
        if type(step) is not int or step < 0:
            step = _validate.count("step", step, 0, None)
        part = 1.0 if step >= self.steps else step / self.steps
        return self.start + (self.end - self.start) * part

    def __repr__(self) -> str:
        return f"LinearSchedule({self.start}, {self.end}, {self.steps})"


class TargetNetwork:
    """A slowly updated copy of a network, for stable values of next states.

    The copy is either replaced every ``every`` updates (Mnih et al., "Human-level
    control through deep reinforcement learning", 2015), or its parameters are a running
    mean of the network's (Lillicrap et al., "Continuous control with deep reinforcement
    learning", 2016).

    Parameters
    ----------
    mlp : MLP
        Network that is trained; this object does not change it.
    every : int, optional
        Number of calls of `update` from one copy of the network to the next.
    tau : float, optional
        Fraction by which each `update` moves the copy towards the network, above 0 and
        up to 1.

    Raises
    ------
    TypeError, ValueError
        If ``mlp`` is not a model, if not exactly one of ``every`` and ``tau`` is given,
        or if that argument is out of range.

    Attributes
    ----------
    online : MLP
        Network that is trained.
    mlp : MLP
        Copy that follows ``online``.
    updates : int
        Number of calls of `update`.
    """

    def __init__(
        self, mlp: MLP, *, every: int | None = None, tau: float | None = None
    ) -> None:
        if not isinstance(mlp, MLP):
            raise TypeError(f"mlp must be an fm.MLP, got {_validate.describe(mlp)}")
        if (every is None) == (tau is None):
            raise TypeError(
                f"exactly one of `every` and `tau` must be given, got every={every!r}, "
                f"tau={tau!r}"
            )
        self.every = 1 if every is None else _validate.count("every", every, 1)
        self.tau = (
            1.0 if tau is None else _validate.real("tau", tau, 0.0, 1.0, open_low=True)
        )
        self.online = mlp
        self.mlp = mlp.copy()
        self.updates = 0

    def __call__(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Return the copy's prediction; see `fastmlp.MLP.predict`."""
        return self.mlp.predict(x, out)

    def update(self) -> Self:
        """Count a training step, and update the copy if an update is due.

        Returns
        -------
        TargetNetwork
            This object.
        """
        self.updates += 1
        if self.updates % self.every == 0:
            # This is what `MLP.polyak_` does, but without its checks: the copy passes
            # them, because it has the same architecture.
            self.mlp.core.interpolate(self.online.core, self.tau)
        return self

    def __repr__(self) -> str:
        how = f"every={self.every}" if self.tau == 1.0 else f"tau={self.tau}"
        return f"TargetNetwork({self.online!r}, {how})"


@hinted
def dqn_targets(
    target: MLP | TargetNetwork,
    batch: Batch | tuple[Any, ...],
    gamma: float | None = None,
    online: MLP | None = None,
) -> Array:
    """Return target values for the actions of a batch, for `fastmlp.ActionValue`.

    y = r + gamma max_u Q'(x', u), or r if the step terminated its episode, where r is
    the reward, x' the next observation, u an action and Q' the target network (Mnih et
    al. 2015). If ``online`` is given, the online network Q chooses the action:
    y = r + gamma Q'(x', argmax_u Q(x', u)). This is double Q-learning, which avoids the
    upward bias of the maximum of noisy values (van Hasselt, Guez & Silver 2016).

    Parameters
    ----------
    target : MLP or TargetNetwork
        Q', with an output for each action. For Q-learning without a target network,
        pass the trained network itself.
    batch : Batch
        Batch from `ReplayBuffer.sample`, or a tuple of the same five arrays.
    gamma : float, optional
        Discount, from 0 to 1. None takes ``batch.discounts``, which a buffer that was
        made with ``gamma`` gives; for rewards of several steps these are powers of its
        gamma.
    online : MLP, optional
        Q, for double Q-learning.

    Returns
    -------
    (B,) ndarray
        y, in the dtype of the target network.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape or is out of range, or if ``gamma``
        differs from the discounts of the batch.
    """
    discount: float | Array
    if type(gamma) is float and 0.0 <= gamma <= 1.0:
        discount = gamma
    elif gamma is not None:
        discount = gamma = _validate.real("gamma", gamma, 0.0, 1.0)
    own = getattr(batch, "discounts", None)
    if own is not None:
        if gamma is not None and (own != np.float32(gamma)).any():
            raise ValueError(
                "gamma must be left out for a batch whose rewards cover several steps: "
                f"its discounts are {own.min()} to {own.max()}, got {gamma}"
            )
        discount = own
    elif gamma is None:
        raise ValueError(
            "gamma must be given for a batch without discounts, got None; or create "
            "the buffer with gamma"
        )
    _, _, rewards, next_obs, terminated = batch
    q = target(next_obs)
    by = q if online is None else online(next_obs)
    y = _core.action_value_targets(q, by, rewards, terminated, discount)
    if y is NotImplemented:
        for name, values in (("target", q), ("online", by)):
            if not isinstance(values, np.ndarray):
                raise TypeError(
                    f"{name} must return an array of action values, got "
                    f"{_validate.describe(values)}"
                )
        if q.ndim != 2 or by.shape != q.shape:
            raise ValueError(
                "`online` and `target` must return outputs of the same shape (rows, "
                f"actions) for next_obs, got {_validate.describe(by)} and "
                f"{_validate.describe(q)}"
            )
        earned = exactly("rewards", rewards, q.shape[:1])
        ended = bools("terminated", terminated, q.shape[:1])
        by = _validate.convert("online", by, q.dtype)
        y = _core.action_value_targets(q, by, earned, ended, discount)
    return _validate.accepted(y)
