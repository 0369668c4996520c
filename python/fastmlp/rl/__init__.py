"""Reinforcement learning: what goes between an environment and a network.

>>> import fastmlp as fm
>>> q = fm.MLP([4, 64, 2], seed=0)  # values of two actions in states of four numbers
>>> opt, loss = fm.Adam(lr=1e-3), fm.ActionValue(fm.Huber())
>>> buffer = fm.rl.ReplayBuffer(10_000, 4, seed=0)
>>> target = fm.rl.TargetNetwork(q, every=500)

and then, with a Gymnasium environment and ``rng = np.random.default_rng(0)``, ::

    action = fm.rl.epsilon_greedy(q(obs), 0.1, rng)
    next_obs, reward, terminated, truncated, _ = env.step(action)
    buffer.add(obs, action, reward, next_obs, terminated)
    batch = buffer.sample(64)
    y = fm.rl.dqn_targets(target, batch, gamma=0.99)
    q.train_step(batch.obs, (batch.actions, y), loss, opt)
    target.update()

Environments follow Gymnasium: an episode ends because it is terminated (nothing comes
after, the value of the next state is 0) or because it is truncated (it would go on, the
value of the next state counts). Nothing here imports Gymnasium.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core, _validate
from ..mlp import MLP, _key
from ._policy import (
    ClippedPolicyGradient,
    PolicyGradient,
    entropy,
    log_prob,
    sample_actions,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    import numpy.typing as npt

    from .._validate import Array

__all__ = [
    "Batch",
    "ClippedPolicyGradient",
    "LinearSchedule",
    "PolicyGradient",
    "ReplayBuffer",
    "TargetNetwork",
    "dqn_targets",
    "entropy",
    "epsilon_greedy",
    "gae",
    "log_prob",
    "returns",
    "sample_actions",
]

INT64 = np.dtype(np.int64)
FLOAT32 = np.dtype(np.float32)
BOOL = np.dtype(np.bool_)


# Replay -------------------------------------------------------------------------------


class Batch(NamedTuple):
    """Transitions as rows of arrays, which belong to whoever asked for them."""

    obs: Array
    """Observations, (B, *obs_shape) float32."""
    actions: Array
    """What was done, (B,) int64, or (B, *action_shape) float32."""
    rewards: Array
    """What that earned, (B,) float32."""
    next_obs: Array
    """The observations after it, (B, *obs_shape) float32."""
    terminated: Array
    """Whether nothing comes after those, (B,) bool."""


class ReplayBuffer:
    """The last transitions seen, to learn from in random order (Lin 1992).

    Draws are uniform and with replacement. They are a function of the seed, of how many
    transitions were drawn before, and of how many there are, by the counter-based
    generator that also shuffles and drops out: the same on every machine, and after
    pickling or loading a state as if nothing had happened.

    Parameters
    ----------
    capacity : int
        How many transitions are kept; beyond, each new one replaces the oldest. Memory
        is taken as it fills up.
    obs_shape : int or tuple of ints
        Of one observation, such as ``env.observation_space.shape``; an int n is (n,).
    action_shape : int or tuple of ints, optional
        Of one continuous action. Left out: an action is one integer.
    seed : int, Generator, or what else numpy.random.default_rng takes, optional
        What draws are made by.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range.
    MemoryError
        If there is no room for so many.

    Examples
    --------
    >>> import numpy as np, fastmlp as fm
    >>> buffer = fm.rl.ReplayBuffer(1000, 2, seed=0)
    >>> buffer.add(np.zeros(2), 1, -1.0, np.ones(2), False)
    >>> batch = buffer.sample(32)
    >>> batch.obs.shape, batch.actions.dtype
    ((32, 2), dtype('int64'))
    """

    _buffer: _core.ReplayBuffer

    def __init__(
        self,
        capacity: int,
        obs_shape: int | tuple[int, ...],
        *,
        action_shape: int | tuple[int, ...] | None = None,
        seed: Any = None,
    ) -> None:
        self._capacity = _validate.count("capacity", capacity, 1)
        self._obs_shape = _shape("obs_shape", obs_shape)
        self._action_shape = (
            None if action_shape is None else _shape("action_shape", action_shape)
        )
        self._seed = _key(seed)
        self._buffer = self._empty()

    def _empty(self) -> _core.ReplayBuffer:
        floats = 0 if self._action_shape is None else math.prod(self._action_shape)
        size = math.prod(self._obs_shape)
        if max(self._capacity, size, floats) >= 2**63:
            raise MemoryError(f"no room for {self}")
        return _core.ReplayBuffer(self._capacity, size, floats, self._seed)

    @property
    def capacity(self) -> int:
        """How many transitions are kept at most."""
        return self._capacity

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """The shape of one observation."""
        return self._obs_shape

    @property
    def action_shape(self) -> tuple[int, ...] | None:
        """The shape of one continuous action; None if actions are integers."""
        return self._action_shape

    @property
    def added(self) -> int:
        """How many transitions were ever added."""
        return self._buffer.added

    def __len__(self) -> int:
        return self._buffer.size

    def add(
        self,
        obs: npt.ArrayLike,
        action: int | npt.ArrayLike,
        reward: float,
        next_obs: npt.ArrayLike,
        terminated: bool,
    ) -> None:
        """Add one transition.

        Parameters
        ----------
        obs : obs_shape
            The observation; float32 is kept.
        action : int, or action_shape
            What was done.
        reward : float
            What that earned.
        next_obs : obs_shape
            The observation after it; at the end of an episode the last one, not the
            first of the next.
        terminated : bool
            Whether nothing comes after that. A truncated episode is not terminated.

        Raises
        ------
        TypeError, ValueError
            For a wrong kind or shape, and for NaN and infinity; nothing is added then.
        """
        if not self._buffer.add(obs, action, reward, next_obs, terminated):
            arrays = (
                self._rows("obs", obs, self._obs_shape, FLOAT32),
                self._actions("action", action, ()),
                _validate.convert("reward", [_number(reward)], FLOAT32),
                self._rows("next_obs", next_obs, self._obs_shape, FLOAT32),
                np.array([_validate.flag("terminated", terminated)]),
            )
            self._buffer.add_batch(*arrays)

    def add_batch(
        self,
        obs: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        next_obs: npt.ArrayLike,
        terminated: npt.ArrayLike,
        where: npt.ArrayLike | None = None,
    ) -> None:
        """Add a transition from each of several environments.

        A Gymnasium vector environment starts the next episode by itself, and how
        matters here. With ``AutoresetMode.NEXT_STEP``, the default, ``next_obs`` is
        always right, but the step after the last of an episode does nothing but reset,
        and is none to learn from: pass ``where=~done``, where ``done`` is ``terminated
        | truncated`` of the step before. With ``SAME_STEP``, ``next_obs`` is
        already the next episode's at an end: put ``infos["final_obs"]`` in its place.

        Parameters
        ----------
        obs, next_obs : (N, *obs_shape)
            Observations before and after the step.
        actions : (N,), or (N, *action_shape)
            What was done.
        rewards : (N,)
            What that earned.
        terminated : (N,)
            Whether nothing comes after; a truncated episode is not terminated.
        where : (N,), optional
            Which of the rows to add; all if left out.

        Raises
        ------
        TypeError, ValueError
            For a wrong kind or shape, and for NaN and infinity in rows to be added;
            nothing is added then.
        """
        rows = self._rows("obs", obs, (-1, *self._obs_shape), FLOAT32)
        n = len(rows)
        taken = None if where is None else _bools("where", where, (n,))
        self._buffer.add_batch(
            rows,
            self._actions("actions", actions, (n,)),
            _exactly("rewards", rewards, (n,)),
            self._rows("next_obs", next_obs, (n, *self._obs_shape), FLOAT32),
            _bools("terminated", terminated, (n,)),
            taken,
        )

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, with replacement.

        Parameters
        ----------
        batch_size : int
            How many; there may be fewer in the buffer.

        Returns
        -------
        Batch
            ``obs``, ``actions``, ``rewards``, ``next_obs`` and ``terminated``: new
            contiguous arrays with a row for each draw.

        Raises
        ------
        TypeError, ValueError
            If that is no positive int, or the buffer is empty.
        """
        if type(batch_size) is not int or not 0 < batch_size < 2**62:
            batch_size = _validate.count("batch_size", batch_size, 1)
            if batch_size >= 2**62:
                raise MemoryError(f"no room for a batch of {batch_size}")
        return self._shaped(self._buffer.sample(batch_size))

    def _shaped(self, rows: tuple[Array, Array, Array, Array, Array]) -> Batch:
        obs, actions, rewards, next_obs, terminated = rows
        if len(self._obs_shape) != 1:
            obs = obs.reshape(-1, *self._obs_shape)
            next_obs = next_obs.reshape(-1, *self._obs_shape)
        if self._action_shape is not None and len(self._action_shape) != 1:
            actions = actions.reshape(-1, *self._action_shape)
        return Batch(obs, actions, rewards, next_obs, terminated)

    def _rows(
        self, name: str, value: object, shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Array:
        """Return numbers of such a shape, -1 for any, as rows of one observation."""
        array = _validate.convert(name, value, dtype)
        _check_shape(name, array, shape)
        return array.reshape(-1, math.prod(self._obs_shape))

    def _actions(self, name: str, value: object, rows: tuple[int, ...]) -> Array:
        """Return one action, rows (), or several, as rows."""
        if self._action_shape is not None:
            array = _validate.convert(name, value, FLOAT32)
            _check_shape(name, array, (*rows, *self._action_shape))
            return array.reshape(-1, math.prod(self._action_shape))
        array = _validate.numeric(name, value)
        if array.dtype.kind not in "iu":
            raise TypeError(
                f"{name} must be of integers, got {_validate.describe(value)}; for "
                "continuous actions make the buffer with action_shape"
            )
        _check_shape(name, array, rows)
        if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
            raise ValueError(f"{name} must be below 2**63, got {array.max()}")
        return np.ascontiguousarray(array.reshape(-1), INT64)

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to the buffer, as copies.

        Returns
        -------
        dict
            ``"capacity"``, ``"obs_shape"``, ``"action_shape"``, ``"seed"``, ``"added"``
            and ``"drawn"`` (how many transitions were so far), and under the names of
            `Batch` what is kept, in the order of places: not the oldest first, once the
            buffer has been full.
        """
        buffer = self._buffer
        return {
            "capacity": self._capacity,
            "obs_shape": self._obs_shape,
            "action_shape": self._action_shape,
            "seed": self._seed,
            "added": buffer.added,
            "drawn": buffer.drawn,
            **self._shaped(buffer.copy_out())._asdict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, capacity, shapes and seed included.

        Raises
        ------
        TypeError, ValueError
            For anything else; the buffer is unchanged then.
        """
        names = {"capacity", "obs_shape", "action_shape", "seed", "added", "drawn"}
        names |= set(Batch._fields)
        try:
            found = set(state.keys())
        except AttributeError:
            raise TypeError(
                "state must be what state_dict() gives, got "
                f"{_validate.describe(state)}"
            ) from None
        if found != names:
            raise ValueError(
                f"state must have the keys {', '.join(sorted(names))}, got "
                f"{', '.join(sorted(map(str, found)))}"
            )
        other = type(self).__new__(type(self))
        ReplayBuffer.__init__(
            other,
            state["capacity"],
            state["obs_shape"],
            action_shape=state["action_shape"],
            seed=state["seed"],
        )
        counts = [_validate.count(f"state[{n!r}]", state[n], 0) for n in _COUNTS]
        if max(counts) >= 2**64:
            raise ValueError(f"state must have counts below 2**64, got {max(counts)}")
        n = min(counts[0], other._capacity)
        other._buffer.restore(
            other._rows("obs", state["obs"], (n, *other._obs_shape), FLOAT32),
            other._actions("actions", state["actions"], (n,)),
            _exactly("rewards", state["rewards"], (n,)),
            other._rows("next_obs", state["next_obs"], (n, *other._obs_shape), FLOAT32),
            _bools("terminated", state["terminated"], (n,)),
            *counts,
        )
        vars(self).update(vars(other))

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state)

    def __repr__(self) -> str:
        action = ""
        if self._action_shape is not None:
            action = f", action_shape={self._action_shape}"
        return (
            f"ReplayBuffer({self._capacity}, {self._obs_shape}{action}, "
            f"seed={self._seed})"
        )


_COUNTS = ("added", "drawn")


# Acting -------------------------------------------------------------------------------


def epsilon_greedy(
    q_values: npt.ArrayLike, epsilon: float, rng: np.random.Generator
) -> Any:
    """Return the action of the largest value, or now and then any one (Watkins 1989).

    Parameters
    ----------
    q_values : (A,) or (N, A)
        Values of actions, in one state or in several. Of equal ones the first counts
        as the largest.
    epsilon : float
        How probable it is that all actions are equally probable, from 0 to 1.
    rng : numpy Generator
        What is drawn from: one number from 0 to 1, and an action if it is below
        ``epsilon``; for several states a number for each, then the actions.

    Returns
    -------
    int, or (N,) int64
        Actions.

    Raises
    ------
    TypeError, ValueError
        For values of a wrong shape or kind, for ``epsilon`` out of range, and for what
        is no generator.
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
    """A straight line from one number to another, which then stays: for epsilon.

    At step t it is start + (end - start) min(t / steps, 1).

    Parameters
    ----------
    start, end : float
        The numbers.
    steps : int
        How many steps the line takes.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind or out of range.

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

    def __call__(self, step: int) -> float:
        """Return the number at a step, from 0 on."""
        part = min(step / self.steps, 1.0)
        return self.start + (self.end - self.start) * part

    def __repr__(self) -> str:
        return f"LinearSchedule({self.start}, {self.end}, {self.steps})"


# Targets of action values -------------------------------------------------------------


class TargetNetwork:
    """A copy of a network that follows it late: what it says of next states is steady.

    Either a copy made every so many steps (Mnih et al., "Human-level control through
    deep reinforcement learning", 2015), or a running mean of the parameters (Lillicrap
    et al., "Continuous control with deep reinforcement learning", 2016).

    Parameters
    ----------
    mlp : MLP
        The network that is trained; it is not changed.
    every : int, optional
        At every so many calls of `update` the copy becomes equal to the network.
    tau : float, optional
        At every `update` the copy moves towards it by this part, above 0 and up to 1.

    Raises
    ------
    TypeError, ValueError
        Unless there is a network and one of the two, in range.

    Attributes
    ----------
    online : MLP
        The network that is trained.
    mlp : MLP
        Its copy.
    updates : int
        How often `update` was called.
    """

    def __init__(
        self, mlp: MLP, *, every: int | None = None, tau: float | None = None
    ) -> None:
        if not isinstance(mlp, MLP):
            raise TypeError(f"mlp must be a fm.MLP, got {_validate.describe(mlp)}")
        if (every is None) == (tau is None):
            raise TypeError(
                f"one of every and tau must be given, got every={every!r}, tau={tau!r}"
            )
        self.every = 1 if every is None else _validate.count("every", every, 1)
        self.tau = (
            1.0 if tau is None else _validate.real("tau", tau, 0.0, 1.0, open_low=True)
        )
        self.online = mlp
        self.mlp = mlp.copy()
        self.updates = 0

    def __call__(self, x: npt.ArrayLike, out: Array | None = None) -> Array:
        """Return what the copy predicts, as `fastmlp.MLP.predict`."""
        return self.mlp.predict(x, out)

    def update(self) -> Self:
        """Count a training step, and follow the network if it is time.

        Returns
        -------
        TargetNetwork
            This object.
        """
        self.updates += 1
        if self.updates % self.every == 0:
            # As polyak_ without its checks: the two were made alike.
            self.mlp.core.interpolate(self.online.core, self.tau)
        return self

    def __repr__(self) -> str:
        how = f"every={self.every}" if self.tau == 1.0 else f"tau={self.tau}"
        return f"TargetNetwork({self.online!r}, {how})"


def dqn_targets(
    target: MLP | TargetNetwork,
    batch: Batch | tuple[Any, ...],
    gamma: float,
    online: MLP | None = None,
) -> Array:
    """Return what the actions of a batch are to be worth, for `fastmlp.ActionValue`.

    y = r + gamma max_u Q'(x', u), or r where the step was terminated, Q' the target
    network (Mnih et al. 2015). With ``online`` that network chooses the action, y = r +
    gamma Q'(x', argmax_u Q(x', u)): double Q-learning, which does not take the luckiest
    error for a value (van Hasselt, Guez & Silver 2016).

    Parameters
    ----------
    target : MLP or TargetNetwork
        Q', with an output for each action; for plain Q-learning the network itself.
    batch : Batch
        What `ReplayBuffer.sample` gave, or the same five arrays.
    gamma : float
        The discount, from 0 to 1.
    online : MLP, optional
        Q, for double Q-learning.

    Returns
    -------
    (B,) ndarray
        y, of the dtype of the target network.

    Raises
    ------
    TypeError, ValueError
        For arguments of a wrong kind, shape or range.
    """
    if type(gamma) is not float or not 0.0 <= gamma <= 1.0:
        gamma = _validate.real("gamma", gamma, 0.0, 1.0)
    _, _, rewards, next_obs, terminated = batch
    q = target(next_obs)
    by = q if online is None else online(next_obs)
    y = _core.action_value_targets(q, by, rewards, terminated, gamma)
    if y is NotImplemented:
        if q.ndim != 2 or by.shape != q.shape:
            raise ValueError(
                "next_obs must be of rows, and online and target have equally many "
                f"outputs, got {_validate.describe(by)} and {_validate.describe(q)}"
            )
        earned = _exactly("rewards", rewards, q.shape[:1])
        ended = _bools("terminated", terminated, q.shape[:1])
        by = _validate.convert("online", by, q.dtype)
        y = _core.action_value_targets(q, by, earned, ended, gamma)
    return _validate.answered(y)


# Returns and advantages ---------------------------------------------------------------


def returns(
    rewards: npt.ArrayLike,
    gamma: float,
    terminated: npt.ArrayLike | None = None,
    truncated: npt.ArrayLike | None = None,
    next_values: npt.ArrayLike | None = None,
) -> Array:
    """Return the discounted sums of what each step and those after it earn.

    G_t = r_t + gamma G_{t+1}; after a terminated step nothing is added, after a
    truncated one and after the last gamma times the value of the next state takes the
    place of gamma G_{t+1}.

    Parameters
    ----------
    rewards : (T,) or (T, N)
        Of T steps, one after the other, in N environments.
    gamma : float
        The discount gamma, from 0 to 1.
    terminated, truncated : like ``rewards``, optional
        Whether the step ended the episode, and how. Left out: no step did.
    next_values : like ``rewards``, or (N,), or a number, optional
        What the state after each step is worth; only those after truncated steps and
        the last are looked at. With one dimension less: after the last step alone.
        Left out: nothing, so that the sums are of what was earned in fact.

    Returns
    -------
    ndarray, shape of ``rewards``
        Of float32 if the rewards (and values) are, else float64.

    Raises
    ------
    TypeError, ValueError
        For arrays of a wrong kind or shape, and for a truncated step before the last
        whose next state's value is not among those given.

    Examples
    --------
    >>> import fastmlp as fm
    >>> fm.rl.returns([1.0, 1.0, 1.0], 0.5)
    array([1.75, 1.5 , 1.  ])
    """
    gamma = _validate.real("gamma", gamma, 0.0, 1.0)
    reward = _steps("rewards", rewards)
    last = np.zeros_like(reward) if next_values is None else next_values
    after, ends, cut = _after(reward, None, last, terminated, truncated)
    # What is added to a step's reward whatever comes after, and how G_{t+1} counts.
    known = cut.copy()
    known[-1] = True
    out = reward + gamma * np.where(known & ~ends, after, 0)
    _accumulate(out, gamma * ~(ends | cut))
    return out


def gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    next_values: npt.ArrayLike,
    terminated: npt.ArrayLike,
    truncated: npt.ArrayLike | None = None,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> tuple[Array, Array]:
    """Return generalised advantage estimates, and the returns they stand for.

    δ_t = r_t + gamma V(s_{t+1}) - V(s_t), without the middle term where the step was
    terminated, and A_t = δ_t + gamma λ A_{t+1}, where no A_{t+1} is added after the end
    of an episode, terminated or truncated (Schulman et al., "High-dimensional
    continuous control using generalized advantage estimation", 2016, eqs. 16-18).
    Returns are A_t + V(s_t).

    With Gymnasium's vector environments the step after the end of an episode may only
    be its reset (``AutoresetMode.NEXT_STEP``): leave that row out of training. What the
    other rows get does not depend on it.

    Parameters
    ----------
    rewards : (T,) or (T, N)
        Of T steps, one after the other, in N environments.
    values : like ``rewards``
        What the states before the steps were estimated to be worth.
    next_values : like ``rewards``, or (N,), or a number
        The same of the states after the steps: of the very last state of an episode,
        not of the first of the next, where a step was truncated. With one dimension
        less: after the last step; after all others it is the next row of ``values``.
    terminated, truncated : like ``rewards``
        Whether the step ended the episode, and how; ``truncated`` may be left out.
    gamma : float
        The discount gamma, from 0 to 1.
    lam : float
        λ from 0, the one-step estimate, to 1, the returns less the values.

    Returns
    -------
    advantages : ndarray, shape of ``rewards``
        A, of float32 if rewards and values are, else float64.
    returns : ndarray, shape of ``rewards``
        A + V: what a value function is trained towards.

    Raises
    ------
    TypeError, ValueError
        For arrays of a wrong kind or shape, and for a truncated step before the last
        whose next state's value is not among those given.

    Examples
    --------
    >>> import fastmlp as fm
    >>> fm.rl.gae([1.0, 1.0], [0.5, 0.5], 2.0, [False, False], gamma=0.5, lam=0.5)
    (array([1.125, 1.5  ]), array([1.625, 2.   ]))
    """
    gamma = _validate.real("gamma", gamma, 0.0, 1.0)
    lam = _validate.real("lam", lam, 0.0, 1.0)
    reward = _steps("rewards", rewards)
    value = _like("values", values, reward)
    if value.dtype != reward.dtype:
        reward, value = reward.astype(np.float64), value.astype(np.float64)
    after, ends, cut = _after(reward, value, next_values, terminated, truncated)
    out = reward + gamma * np.where(ends, 0, after) - value
    _accumulate(out, gamma * lam * ~(ends | cut))
    return out, out + value


def _accumulate(out: Array, factor: Array) -> None:
    """Add ``factor`` times the row below to each row, from the last up."""
    _core.accumulate_backwards(out, factor.astype(out.dtype))


def _steps(name: str, value: object) -> Array:
    """Return numbers of steps, (T,) or (T, N), as float32 if they are, else float64."""
    array = _validate.numeric(name, value)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(
            f"{name} must have shape (steps,) or (steps, environments), none of them "
            f"zero, got {_validate.describe(array)}"
        )
    return array.astype(np.float32 if array.dtype == np.float32 else np.float64)


def _like(name: str, value: object, rewards: Array) -> Array:
    array = _steps(name, value)
    if array.shape != rewards.shape:
        raise ValueError(
            f"{name} must have the shape of rewards, {rewards.shape}, got "
            f"{_validate.describe(array)}"
        )
    return array


def _flags(name: str, value: object, rewards: Array) -> Array:
    if value is None:
        return np.zeros(rewards.shape, bool)
    return _bools(name, value, rewards.shape)


def _after(
    rewards: Array,
    values: Array | None,
    next_values: object,
    terminated: object,
    truncated: object,
) -> tuple[Array, Array, Array]:
    """Return values of the next states, (T, …), and which steps were ended, and cut."""
    ends = _flags("terminated", terminated, rewards)
    cut = _flags("truncated", truncated, rewards)
    after = _validate.numeric("next_values", next_values)
    if after.shape == rewards.shape:
        return after.astype(rewards.dtype), ends, cut
    if after.shape != rewards.shape[1:]:
        raise ValueError(
            f"next_values must have shape {rewards.shape}, of all steps, or "
            f"{rewards.shape[1:]}, of the last, got {_validate.describe(after)}"
        )
    if (cut & ~ends)[:-1].any():
        t = int(np.argwhere(cut & ~ends)[0][0])
        raise ValueError(
            f"next_values must have shape {rewards.shape}, as step {t} was truncated: "
            "the value of the state after it is wanted, got "
            f"{_validate.describe(after)}"
        )
    every = np.zeros_like(rewards)
    if values is not None:
        every[:-1] = values[1:]
    every[-1] = after
    return every, ends, cut


# The rim ------------------------------------------------------------------------------


def _shape(name: str, value: object) -> tuple[int, ...]:
    """Return the sizes of an array, none of them zero."""
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    if not sizes:
        raise ValueError(f"{name} must have at least one dimension, got {value!r}")
    return tuple(_validate.count(name, size, 1) for size in sizes)


def _check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape, in which -1 stands for at least one row."""
    first = shape[0] if shape else None
    fits = array.shape == shape
    if first == -1:
        fits = array.ndim == len(shape) and array.shape[1:] == shape[1:]
        fits = fits and len(array) > 0
    if not fits:
        wanted = str(shape).replace("-1", "rows")
        raise ValueError(
            f"{name} must have shape {wanted}, got {_validate.describe(array)}"
        )


def _exactly(name: str, value: object, shape: tuple[int, ...]) -> Array:
    """Return float32 numbers of this shape."""
    array = _validate.convert(name, value, FLOAT32)
    _check_shape(name, array, shape)
    return array


def _bools(name: str, value: object, shape: tuple[int, ...]) -> Array:
    """Return truth values of this shape, from bools or numbers that are 0 or 1."""
    array = np.asarray(value)
    if array.dtype != BOOL:
        array = _validate.numeric(name, value)
        if not ((array == 0) | (array == 1)).all():
            raise ValueError(
                f"{name} must be True or False, or 1 or 0, got "
                f"{_validate.describe(value)}"
            )
    _check_shape(name, array, shape)
    return np.ascontiguousarray(array, BOOL)


def _number(value: object) -> float:
    """Return a reward, which may come as an array of one number."""
    array = _validate.numeric("reward", value)
    if array.size != 1:
        raise ValueError(f"reward must be one number, got {_validate.describe(value)}")
    return float(array.reshape(())[()])
