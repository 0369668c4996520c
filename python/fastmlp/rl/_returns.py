"""Returns and generalised advantage estimates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _core, _validate
from .._validate.hints import hinted
from ._replay import bools

if TYPE_CHECKING:
    import numpy.typing as npt

    from .._validate import Array


@_validate.reproducible
@hinted
def returns(
    rewards: npt.ArrayLike,
    gamma: float,
    terminated: npt.ArrayLike | None = None,
    truncated: npt.ArrayLike | None = None,
    next_values: npt.ArrayLike | None = None,
) -> Array:
    """Return the discounted sum of rewards from each step on.

    G_t = r_t + gamma G_{t+1}. For a terminated step, G_t = r_t. For a truncated step,
    and for the last step, gamma times the value of the next state takes the place of
    gamma G_{t+1}.

    Parameters
    ----------
    rewards : (T,) or (T, N)
        Rewards of T successive steps in N environments.
    gamma : float
        Discount, from 0 to 1.
    terminated, truncated : like ``rewards``, optional
        Whether each step terminated or truncated its episode; None means that no step
        did.
    next_values : like ``rewards``, or (N,), or a number, optional
        Values of the states after the steps; only those after truncated steps and after
        the last step are used. An array with one dimension less holds the values after
        the last step only. None means 0, so that only rewards are summed.

    Returns
    -------
    ndarray, shape of ``rewards``
        Returns; float32 if the rewards are float32, else float64.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong dtype or shape, or if ``next_values`` covers only the
        last step, but an earlier step was truncated.

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
    # Where the next state's value replaces G_{t+1}, add it to the reward; then
    # accumulate the discounted sums.
    known = cut.copy()
    known[-1] = True
    out = reward + gamma * np.where(known & ~ends, after, 0)
    _accumulate(out, gamma * ~(ends | cut))
    return out


@_validate.reproducible
@hinted
def gae(
    rewards: npt.ArrayLike,
    values: npt.ArrayLike,
    next_values: npt.ArrayLike,
    terminated: npt.ArrayLike,
    truncated: npt.ArrayLike | None = None,
    gamma: float = 0.99,
    lam: float = 0.95,
) -> tuple[Array, Array]:
    """Return generalised advantage estimates, and the corresponding returns.

    δ_t = r_t + gamma V(s_{t+1}) - V(s_t), without the middle term if the step was
    terminated, and A_t = δ_t + gamma λ A_{t+1}, without the second term if the step
    ended its episode, whether terminated or truncated (Schulman et al.,
    "High-dimensional continuous control using generalized advantage estimation", 2016,
    eqs. 16-18). Returns are A_t + V(s_t).

    In Gymnasium's vector environments, the step after the end of an episode may only
    reset the environment (``AutoresetMode.NEXT_STEP``). Exclude the rows of such steps
    from training; they do not affect the results of other rows.

    Parameters
    ----------
    rewards : (T,) or (T, N)
        Rewards of T successive steps in N environments.
    values : like ``rewards``
        Estimated values of the states before the steps.
    next_values : like ``rewards``, or (N,), or a number
        Estimated values of the states after the steps. After a truncated step, this
        must be the value of the last state of its episode, not of the first state of
        the next episode. An array with one dimension less holds the values after the
        last step only; the values after the other steps are then the next rows of
        ``values``.
    terminated, truncated : like ``rewards``
        Whether each step terminated or truncated its episode; ``truncated`` is
        optional.
    gamma : float
        Discount, from 0 to 1.
    lam : float
        λ, from 0 (the one-step estimate) to 1 (the returns minus the values).

    Returns
    -------
    advantages : ndarray, shape of ``rewards``
        A; float32 if rewards and values are float32, else float64.
    returns : ndarray, shape of ``rewards``
        A + V, the targets for training a value function.

    Raises
    ------
    TypeError, ValueError
        If an array has the wrong dtype or shape, or if ``next_values`` covers only the
        last step, but an earlier step was truncated.

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
    """Add ``factor`` times the next row to each row, from the last to the first."""
    _core.accumulate_backwards(out, factor.astype(out.dtype))


def _steps(name: str, value: object) -> Array:
    """Check an array (T,) or (T, N); keep float32, convert other dtypes to float64."""
    array = _validate.numeric(name, value)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(
            f"{name} must have shape (steps,) or (steps, environments) and not be "
            f"empty, got {_validate.describe(array)}"
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
    """Return the next states' values, and masks of terminated and truncated steps."""
    ends = _flags("terminated", terminated, rewards)
    cut = _flags("truncated", truncated, rewards)
    after = _validate.numeric("next_values", next_values)
    if after.shape == rewards.shape:
        return after.astype(rewards.dtype), ends, cut
    if after.shape != rewards.shape[1:]:
        raise ValueError(
            f"next_values must have shape {rewards.shape} (all steps) or "
            f"{rewards.shape[1:]} (last step only), got {_validate.describe(after)}"
        )
    if (cut & ~ends)[:-1].any():
        t = int(np.argwhere(cut & ~ends)[0][0])
        raise ValueError(
            f"next_values must have shape {rewards.shape}, because step {t} was "
            "truncated and the value of the state after it is needed; got "
            f"{_validate.describe(after)}"
        )
    every = np.zeros_like(rewards)
    if values is not None:
        every[:-1] = values[1:]
    every[-1] = after
    return every, ends, cut
