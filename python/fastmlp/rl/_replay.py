"""A replay buffer, whose data the C++ core stores."""

from __future__ import annotations

import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core, _validate
from .._training import seeds
from ._extra import Extra

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from .._validate import Array

INT64 = np.dtype(np.int64)

FLOAT32 = np.dtype(np.float32)

FLOAT64 = np.dtype(np.float64)

BOOL = np.dtype(np.bool_)


class Transitions(NamedTuple):
    """Transitions as rows of arrays; the five items of a `Batch`."""

    obs: Array
    """Observations before the steps, (B,) + obs_shape float32."""
    actions: Array
    """Actions, (B,) int64, or (B,) + action_shape float32."""
    rewards: Array
    """Rewards, (B,) float32."""
    next_obs: Array
    """Observations after the steps, (B,) + obs_shape float32."""
    terminated: Array
    """Whether the steps terminated their episodes, (B,) bool."""


class Batch(Transitions):
    """Transitions as rows of arrays, copied from the buffer.

    A tuple of five arrays: obs, actions, rewards, next_obs and terminated. The others
    are attributes.

    Attributes
    ----------
    obs : ndarray (B,) + obs_shape, float32
        Observations before the steps.
    actions : ndarray (B,) of int64, or (B,) + action_shape of float32
        Actions.
    rewards : ndarray (B,), float32
        Rewards; for ``n_steps`` > 1, discounted sums of rewards.
    next_obs : ndarray (B,) + obs_shape, float32
        Observations after the steps; for ``n_steps`` > 1, after the last step.
    terminated : ndarray (B,), bool
        Whether the (last) steps terminated their episodes.
    indices : ndarray (B,), int64
        Slots of the buffer from which the transitions come.
    discounts : ndarray (B,), float32, or None
        Factors of the values of the next observations: gamma to the power of the
        number of steps. None if the buffer has no ``gamma``.
    weights : ndarray (B,), float32, or None
        Importance weights, for ``sample_weight``; None for uniform samples.
    extra : dict of str to ndarray (B, ...)
        Extra fields of the transitions.
    """

    indices: Array
    discounts: Array | None = None
    weights: Array | None = None
    extra: Mapping[str, Array] = MappingProxyType({})


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
    n_steps : int
        Number of steps n in the rewards of a sample (Sutton 1988): Σ_k gamma^k r_{t+k}
        for k < n, where next_obs and terminated are those after the last of these
        steps. The sum has fewer steps at the end of an episode, and where later steps
        have not been added yet; ``batch.discounts`` holds the matching powers of gamma.
    gamma : float, optional
        Discount from 0 to 1; needed if ``n_steps`` > 1.
    extra : dict of str to int, tuple of ints, or dtype, optional
        Extra fields to store with each transition: the shape of a float32 array, or a
        dtype of booleans, integers or floats, such as ``"int64"`` or
        ``np.dtype(("int32", (2,)))``.

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

    Two steps of one episode, as a return of two steps:

    >>> buffer = fm.rl.ReplayBuffer(1000, 1, seed=0, n_steps=2, gamma=0.5)
    >>> buffer.add([0], 1, 4.0, [1], False)
    >>> buffer.add([1], 0, 6.0, [2], True)
    >>> first = buffer.get([0])
    >>> first.rewards.item(), first.next_obs.item(), first.discounts.item()
    (7.0, 2.0, 0.25)
    """

    _buffer: _core.ReplayBuffer
    # Exponent and smallest priority, if samples are drawn by priorities.
    _priorities: tuple[float, float] | None = None

    def __init__(
        self,
        capacity: int,
        obs_shape: int | tuple[int, ...],
        *,
        action_shape: int | tuple[int, ...] | None = None,
        seed: Any = None,
        n_steps: int = 1,
        gamma: float | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self._capacity = _validate.count("capacity", capacity, 1)
        self._obs_shape = _shape("obs_shape", obs_shape)
        self._action_shape = (
            None if action_shape is None else _shape("action_shape", action_shape)
        )
        self._seed = seeds.key(seed)
        self._n_steps = _validate.count("n_steps", n_steps, 1)
        if gamma is not None:
            gamma = _validate.real("gamma", gamma, 0.0, 1.0)
        elif self._n_steps > 1:
            raise ValueError(
                f"gamma must be given for n_steps={self._n_steps}, got None"
            )
        self._gamma = gamma
        self._extra = Extra(extra)
        shapes = (self._obs_shape, self._action_shape or (1,))
        self._flat = all(len(shape) == 1 for shape in shapes)
        self._buffer = self._empty()

    def _empty(self) -> _core.ReplayBuffer:
        floats = 0 if self._action_shape is None else math.prod(self._action_shape)
        size = math.prod(self._obs_shape)
        most = max(self._capacity, size, floats, self._extra.bytes)
        if most >= 2**63:
            raise MemoryError(f"not enough memory for {self}")
        return _core.ReplayBuffer(
            self._capacity,
            size,
            floats,
            self._seed,
            self._extra.bytes,
            min(self._n_steps, 2**62),
            self._gamma,
            self._priorities,
        )

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
    def n_steps(self) -> int:
        """The number of steps in the rewards of a sample."""
        return self._n_steps

    @property
    def gamma(self) -> float | None:
        """The discount of the rewards of a sample, or None."""
        return self._gamma

    @property
    def extra(self) -> dict[str, np.dtype[Any]]:
        """The dtypes of the extra fields of one transition, by name."""
        return dict(self._extra.fields)

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
        truncated: bool = False,
        extra: Mapping[str, Any] | None = None,
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
        truncated : bool
            Whether the episode ends without being terminated. This only matters for
            ``n_steps`` > 1, for which transitions must be added in their order: the
            next one follows this one unless the episode has ended.
        extra : dict, optional
            Values of the buffer's extra fields; needed if it has such fields.

        Raises
        ------
        TypeError, ValueError
            If an argument has the wrong type or shape, or is NaN or infinite. The
            buffer is then unchanged.
        """
        added = extra is None and self._buffer.add(
            obs, action, reward, next_obs, terminated, truncated
        )
        if not added:
            arrays = (
                self._rows("obs", obs, self._obs_shape, FLOAT32),
                self._actions("action", action, ()),
                _validate.convert("reward", [_number(reward)], FLOAT32),
                self._rows("next_obs", next_obs, self._obs_shape, FLOAT32),
                np.array([_validate.flag("terminated", terminated)]),
                np.array([_validate.flag("truncated", truncated)]),
            )
            self._buffer.add_batch(*arrays, None, self._extra.packed(extra, ()))

    def add_batch(
        self,
        obs: npt.ArrayLike,
        actions: npt.ArrayLike,
        rewards: npt.ArrayLike,
        next_obs: npt.ArrayLike,
        terminated: npt.ArrayLike,
        where: npt.ArrayLike | None = None,
        truncated: npt.ArrayLike | None = None,
        extra: Mapping[str, Any] | None = None,
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
        obs, next_obs : (N,) + obs_shape
            Observations before and after the step.
        actions : (N,), or (N,) + action_shape
            Actions.
        rewards : (N,)
            Rewards.
        terminated : (N,)
            Whether the step terminated the episode; truncation does not count.
        where : (N,), optional
            Mask of the rows to add; None adds all.
        truncated : (N,), optional
            Whether the episode ends without being terminated, for ``n_steps`` > 1; None
            means that none does. Row i is a step of environment i, and follows the
            last row i unless that one ended its episode or was not added.
        extra : dict of arrays (N, ...), optional
            Values of the buffer's extra fields; needed if it has such fields.

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
            None if truncated is None else bools("truncated", truncated, (n,)),
            taken,
            self._extra.packed(extra, (n,)),
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
            New contiguous arrays, with one row for each drawn transition.

        Raises
        ------
        TypeError, ValueError
            If ``batch_size`` is not a positive int, or the buffer is empty.
        """
        if type(batch_size) is not int or not 0 < batch_size < 2**62:
            batch_size = self._checked_size(batch_size)
        return self._batch(*self._buffer.sample(batch_size))

    def get(self, indices: npt.ArrayLike) -> Batch:
        """Return the transitions in some slots of the buffer.

        Parameters
        ----------
        indices : (B,)
            Slots from 0 to ``len(buffer) - 1``. Slots are filled in their order; in a
            full buffer, a new transition takes the slot of the oldest one.

        Returns
        -------
        Batch
            New contiguous arrays, as from `sample`, without weights.

        Raises
        ------
        TypeError, ValueError
            If an index is not an int or is out of range.
        """
        return self._batch(*self._buffer.gather(self._slots(indices)))

    @staticmethod
    def _checked_size(batch_size: object) -> int:
        size = _validate.count("batch_size", batch_size, 1)
        if size >= 2**62:
            raise MemoryError(f"not enough memory for a batch of {size} transitions")
        return size

    def _slots(self, indices: object) -> Array:
        """Return slots as a new int64 array; the core checks their range."""
        array = _validate.numeric("indices", indices)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            raise (TypeError if array.dtype.kind not in "iu" else ValueError)(
                "indices must be of an integer dtype and of shape (rows,), with at "
                f"least one row, got {_validate.describe(array)}"
            )
        if array.dtype.kind == "u" and array.max() >= 2**63:
            raise ValueError(f"indices must be below 2**63, got {array.max()}")
        return np.array(array, INT64)

    def _batch(
        self,
        fields: tuple[Array, Array, Array, Array, Array],
        indices: Array,
        discounts: Array | None,
        extra: Array | None,
    ) -> Batch:
        batch = Batch._make(fields if self._flat else self._shaped(*fields))
        batch.indices = indices
        if discounts is not None:
            batch.discounts = discounts
        if extra is not None:
            batch.extra = self._extra.unpacked(extra)
        return batch

    def _shaped(
        self,
        obs: Array,
        actions: Array,
        rewards: Array,
        next_obs: Array,
        terminated: Array,
    ) -> Transitions:
        """Return flat rows in the shapes of observations and actions."""
        obs = obs.reshape(-1, *self._obs_shape)
        next_obs = next_obs.reshape(-1, *self._obs_shape)
        if self._action_shape is not None:
            actions = actions.reshape(-1, *self._action_shape)
        return Transitions(obs, actions, rewards, next_obs, terminated)

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
            The arguments of the constructor, and the numbers of transitions ``"added"``
            and ``"drawn"`` so far. The transitions are stored under the field names of
            `Batch`, as they were added, in the order of the buffer's slots; once the
            buffer has been full, the oldest transition need not come first. ``"extra"``
            is a dict of arrays, one for each extra field. For ``n_steps`` > 1,
            ``"next"`` holds the slot of each transition's successor, and ``"open"`` the
            slot of each environment's last transition, or -1. If there are priorities,
            ``"priorities"`` holds (p + eps)^alpha of each transition.
        """
        return self._state()

    def _state(self) -> dict[str, Any]:
        buffer = self._buffer
        fields, extra = buffer.copy_out()
        state: dict[str, Any] = {
            "capacity": self._capacity,
            "obs_shape": self._obs_shape,
            "action_shape": self._action_shape,
            "seed": self._seed,
            "n_steps": self._n_steps,
            "gamma": self._gamma,
            "added": buffer.added,
            "drawn": buffer.drawn,
            **self._shaped(*fields)._asdict(),
            "extra": {} if extra is None else self._extra.unpacked(extra),
        }
        if self._n_steps > 1:
            state["next"], state["open"] = buffer.links()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`, including the constructor's arguments.

        Raises
        ------
        TypeError, ValueError
            If ``state`` is not a state of a buffer of this class. This buffer is then
            unchanged.
        """
        # States of version 0.1.0 do not have the last three.
        names = {"capacity", "obs_shape", "action_shape", "seed", "added", "drawn"}
        names |= {*Transitions._fields, "n_steps", "gamma", "extra"}
        given: dict[str, Any] = {"n_steps": 1, "gamma": None, "extra": {}}
        try:
            # keys() tells a mapping from other iterables.
            given |= {name: state[name] for name in state.keys()}  # noqa: SIM118
        except AttributeError:
            raise TypeError(
                "state must be a dict from state_dict(), got "
                f"{_validate.describe(state)}"
            ) from None
        if isinstance(given["n_steps"], int) and given["n_steps"] > 1:
            names |= {"next", "open"}
        options = {}
        if self._priorities is not None:
            names |= {"alpha", "eps", "priorities", "largest_priority"}
            options = {name: given.get(name) for name in ("alpha", "eps")}
        if set(given) != names:
            raise ValueError(
                f"state must have the keys {', '.join(sorted(names))}, got "
                f"{', '.join(sorted(map(str, state.keys())))}"
            )
        extra = _arrays("state['extra']", given["extra"])
        other = type(self).__new__(type(self))
        other._start(
            capacity=given["capacity"],
            obs_shape=given["obs_shape"],
            action_shape=given["action_shape"],
            seed=given["seed"],
            n_steps=given["n_steps"],
            gamma=given["gamma"],
            extra={name: np.dtype((a.dtype, a.shape[1:])) for name, a in extra.items()},
            **options,
        )
        other._restore(given, extra)
        vars(self).update(vars(other))

    def _start(self, **arguments: Any) -> None:
        """Make a new buffer of this; a subclass may have another constructor."""
        ReplayBuffer.__init__(self, **arguments)

    def _restore(self, state: dict[str, Any], extra: dict[str, Array]) -> None:
        """Load the transitions and counts of a state into this new buffer."""
        counts = [
            _validate.count(f"state[{n!r}]", state[n], 0, 2**64 - 1) for n in _COUNTS
        ]
        n = min(counts[0], self._capacity)
        links: tuple[Any, Any] = (None, None)
        if self._n_steps > 1:
            links = self._links(state["next"], state["open"], n, counts[0])
        priorities, largest = None, 1.0
        if self._priorities is not None:
            priorities = _validate.convert("priorities", state["priorities"], FLOAT64)
            largest = _validate.real("largest_priority", state["largest_priority"], 1.0)
            right = priorities.shape == (n,)
            if not right or ((priorities <= 0) | ~(priorities <= largest)).any():
                raise ValueError(
                    f"state['priorities'] must have shape {(n,)} and be above 0 and at "
                    f"most largest_priority={largest}, got "
                    f"{_validate.describe(priorities)}"
                )
        self._buffer.restore(
            self._rows("obs", state["obs"], (n, *self._obs_shape), FLOAT32),
            self._actions("actions", state["actions"], (n,)),
            exactly("rewards", state["rewards"], (n,)),
            self._rows("next_obs", state["next_obs"], (n, *self._obs_shape), FLOAT32),
            bools("terminated", state["terminated"], (n,)),
            self._extra.packed(extra, (n,)),
            counts[0],
            counts[1],
            links[0],
            links[1],
            priorities,
            largest,
        )

    def _links(
        self, after: object, last: object, n: int, added: int
    ) -> tuple[Array, Array]:
        """Check the slots of successors and of the last transitions of a state."""
        found = []
        for name, value in (("next", after), ("open", last)):
            array = _validate.numeric(f"state[{name!r}]", value)
            fits = array.ndim == 1 and array.dtype.kind == "i"
            fits = fits and (name == "open" or len(array) == n)
            if not fits or ((array < -1) | (array >= n)).any():
                raise ValueError(
                    f"state[{name!r}] must hold slots from 0 to {n - 1}, or -1, got "
                    f"{_validate.describe(array)}"
                )
            found.append(array.astype(INT64))
        # A successor is newer: a new transition never replaces it first.
        slots = np.arange(n)
        age = (added - 1 - slots) % self._capacity
        follows = found[0] >= 0
        if (age[found[0][follows]] >= age[slots[follows]]).any():
            raise ValueError("state['next'] must hold slots of newer transitions")
        return found[0], found[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.load_state_dict(state)

    def __repr__(self) -> str:
        action = ""
        if self._action_shape is not None:
            action = f", action_shape={self._action_shape}"
        options: dict[str, tuple[Any, Any]] = {
            "n_steps": (self._n_steps, 1),
            "gamma": (self._gamma, None),
            "extra": (self._extra.fields, {}),
        }
        if self._priorities is not None:
            options |= {
                name: (value, None)
                for name, value in zip(("alpha", "eps"), self._priorities, strict=True)
            }
        more = {k: value for k, (value, default) in options.items() if value != default}
        return (
            f"{type(self).__name__}({self._capacity}, {self._obs_shape}{action}, "
            + _validate.arguments({"seed": self._seed, **more})
            + ")"
        )


def _arrays(name: str, values: object) -> dict[str, Array]:
    """Return a dict of arrays with at least one dimension, or raise an error."""
    if not isinstance(values, dict):
        raise TypeError(
            f"{name} must be a dict of arrays, got {_validate.describe(values)}"
        )
    arrays = {}
    for key, value in values.items():
        arrays[key] = _validate.numeric(f"{name}[{key!r}]", value)
        if arrays[key].ndim == 0:
            raise ValueError(
                f"{name}[{key!r}] must have a row for each transition, got "
                f"{_validate.describe(arrays[key])}"
            )
    return arrays


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
