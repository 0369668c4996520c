"""Returns and generalised advantages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _core, _validate
from ._replay import bools

if TYPE_CHECKING:
    import numpy.typing as npt

    from .._validate import Array


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
    return bools(name, value, rewards.shape)


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
