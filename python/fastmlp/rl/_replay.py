"""A replay buffer, whose data the C++ core stores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core, _validate
from .._training import seeds

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from .._validate import Array

INT64 = np.dtype(np.int64)

FLOAT32 = np.dtype(np.float32)

BOOL = np.dtype(np.bool_)


class Batch(NamedTuple):
    """Transitions as rows of arrays, copied from the buffer."""

    obs: Array
    """Observations before the steps, (B, *obs_shape) float32."""
    actions: Array
    """Actions, (B,) int64, or (B, *action_shape) float32."""
    rewards: Array
    """Rewards, (B,) float32."""
    next_obs: Array
    """Observations after the steps, (B, *obs_shape) float32."""
    terminated: Array
    """Whether the steps terminated their episodes, (B,) bool."""


class ReplayBuffer:
    """A buffer of the most recent transitions, sampled for training (Lin 1992).

    Samples are drawn uniformly, with replacement. They depend only on the seed, the
    number of transitions drawn before, and the number of transitions in the buffer.
    They come from the counter-based generator that is also used for shuffling and
    dropout. So they are the same on every machine, and their sequence continues
    unchanged after pickling or loading a state.

    Parameters
    ----------
    capacity : int
        Largest number of transitions. Once the buffer is full, each new transition
        replaces the oldest one. Memory is used as the buffer fills.
    obs_shape : int or tuple of ints
        Shape of an observation, such as ``env.observation_space.shape``; an int n means
        (n,).
    action_shape : int or tuple of ints, optional
        Shape of a continuous action. None means that an action is an integer.
    seed : int, Generator, or anything that numpy.random.default_rng takes, optional
        Seed of the samples.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    MemoryError
        If ``capacity`` transitions do not fit into memory.

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
        self._seed = seeds.key(seed)
        self._buffer = self._empty()

    def _empty(self) -> _core.ReplayBuffer:
        floats = 0 if self._action_shape is None else math.prod(self._action_shape)
        size = math.prod(self._obs_shape)
        if max(self._capacity, size, floats) >= 2**63:
            raise MemoryError(f"not enough memory for {self}")
        return _core.ReplayBuffer(self._capacity, size, floats, self._seed)

    @property
    def capacity(self) -> int:
        """The largest number of transitions."""
        return self._capacity

    @property
    def obs_shape(self) -> tuple[int, ...]:
        """The shape of an observation."""
        return self._obs_shape

    @property
    def action_shape(self) -> tuple[int, ...] | None:
        """The shape of a continuous action; None if actions are integers."""
        return self._action_shape

    @property
    def added(self) -> int:
        """The number of transitions added so far."""
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
            Observation before the step; it is stored as float32.
        action : int, or action_shape
            Action.
        reward : float
            Reward.
        next_obs : obs_shape
            Observation after the step. At the end of an episode this is the episode's
            last observation, not the first one of the next episode.
        terminated : bool
            Whether the step terminated the episode. Truncation does not count.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or shape, or is NaN or infinite. The
            buffer is then unchanged.
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

        A Gymnasium vector environment resets itself at the end of an episode, in one of
        two modes. With ``AutoresetMode.NEXT_STEP``, the default, ``next_obs`` is always
        right, but the step after the end of an episode only resets the environment and
        must not be added: pass ``where=~done``, where ``done`` is
        ``terminated | truncated`` of the previous step. With ``SAME_STEP``,
        ``next_obs`` at the end of an episode already belongs to the next episode:
        replace it by ``infos["final_obs"]``.

        Parameters
        ----------
        obs, next_obs : (N, *obs_shape)
            Observations before and after the step.
        actions : (N,), or (N, *action_shape)
            Actions.
        rewards : (N,)
            Rewards.
        terminated : (N,)
            Whether the step terminated the episode; truncation does not count.
        where : (N,), optional
            Mask of the rows to add; None adds all.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or shape, or a row to add contains NaN or
            infinity. The buffer is then unchanged.
        """
        rows = self._rows("obs", obs, (-1, *self._obs_shape), FLOAT32)
        n = len(rows)
        taken = None if where is None else bools("where", where, (n,))
        self._buffer.add_batch(
            rows,
            self._actions("actions", actions, (n,)),
            exactly("rewards", rewards, (n,)),
            self._rows("next_obs", next_obs, (n, *self._obs_shape), FLOAT32),
            bools("terminated", terminated, (n,)),
            taken,
        )

    def sample(self, batch_size: int) -> Batch:
        """Draw transitions uniformly, with replacement.

        Parameters
        ----------
        batch_size : int
            Number of transitions to draw; the buffer may hold fewer.

        Returns
        -------
        Batch
            New contiguous arrays ``obs``, ``actions``, ``rewards``, ``next_obs`` and
            ``terminated``, with one row per drawn transition.

        Raises
        ------
        TypeError, ValueError
            If ``batch_size`` is not a positive int, or the buffer is empty.
        """
        if type(batch_size) is not int or not 0 < batch_size < 2**62:
            batch_size = _validate.count("batch_size", batch_size, 1)
            if batch_size >= 2**62:
                raise MemoryError(
                    f"not enough memory for a batch of {batch_size} transitions"
                )
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
        """Convert observations, check their shape, and return them as flat rows."""
        array = _validate.convert(name, value, dtype)
        _check_shape(name, array, shape)
        return array.reshape(-1, math.prod(self._obs_shape))

    def _actions(self, name: str, value: object, rows: tuple[int, ...]) -> Array:
        """Return actions as flat rows; ``rows`` is (n,), or () for a single action."""
        if self._action_shape is not None:
            array = _validate.convert(name, value, FLOAT32)
            _check_shape(name, array, (*rows, *self._action_shape))
            return array.reshape(-1, math.prod(self._action_shape))
        array = _validate.numeric(name, value)
        if array.dtype.kind not in "iu":
            raise TypeError(
                f"{name} must be of an integer dtype, got {_validate.describe(value)}; "
                "for continuous actions, create the buffer with action_shape"
            )
        _check_shape(name, array, rows)
        if array.dtype.kind == "u" and array.size and array.max() >= 2**63:
            raise ValueError(f"{name} must be below 2**63, got {array.max()}")
        return np.ascontiguousarray(array.reshape(-1), INT64)

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the buffer's state.

        Returns
        -------
        dict
            ``"capacity"``, ``"obs_shape"``, ``"action_shape"``, ``"seed"``, and the
            numbers of transitions ``"added"`` and ``"drawn"`` so far. The transitions
            are stored under the field names of `Batch`, in the order of the buffer's
            slots; once the buffer has been full, the oldest transition need not come
            first.
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
        """Load a state from `state_dict`, including capacity, shapes and seed.

        Raises
        ------
        TypeError, ValueError
            If ``state`` is not a state of a buffer. This buffer is then unchanged.
        """
        names = {"capacity", "obs_shape", "action_shape", "seed", "added", "drawn"}
        names |= set(Batch._fields)
        try:
            found = set(state.keys())
        except AttributeError:
            raise TypeError(
                "state must be a dict from state_dict(), got "
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
            raise ValueError(
                "state['added'] and state['drawn'] must be below 2**64, got "
                f"{max(counts)}"
            )
        n = min(counts[0], other._capacity)
        other._buffer.restore(
            other._rows("obs", state["obs"], (n, *other._obs_shape), FLOAT32),
            other._actions("actions", state["actions"], (n,)),
            exactly("rewards", state["rewards"], (n,)),
            other._rows("next_obs", state["next_obs"], (n, *other._obs_shape), FLOAT32),
            bools("terminated", state["terminated"], (n,)),
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


def _shape(name: str, value: object) -> tuple[int, ...]:
    """Convert an int or a sequence to a shape; all sizes must be positive."""
    sizes = value if isinstance(value, (tuple, list)) else (value,)
    if not sizes:
        raise ValueError(f"{name} must have at least one dimension, got {value!r}")
    return tuple(_validate.count(name, size, 1) for size in sizes)


def _check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless the array has this shape; -1 means at least one row."""
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


def exactly(name: str, value: object, shape: tuple[int, ...]) -> Array:
    """Convert a value to float32, and check that it has exactly this shape."""
    array = _validate.convert(name, value, FLOAT32)
    _check_shape(name, array, shape)
    return array


def bools(name: str, value: object, shape: tuple[int, ...]) -> Array:
    """Convert bools, or numbers that are 0 or 1, to bools; check their shape."""
    array = np.asarray(value)
    if array.dtype != BOOL:
        array = _validate.numeric(name, value)
        if not ((array == 0) | (array == 1)).all():
            raise ValueError(
                f"{name} must hold only True and False, or 1 and 0, got "
                f"{_validate.describe(value)}"
            )
    _check_shape(name, array, shape)
    return np.ascontiguousarray(array, BOOL)


def _number(value: object) -> float:
    """Convert a reward to float; it may be an array with one element."""
    array = _validate.numeric("reward", value)
    if array.size != 1:
        raise ValueError(f"reward must be one number, got {_validate.describe(value)}")
    return float(array.reshape(())[()])
