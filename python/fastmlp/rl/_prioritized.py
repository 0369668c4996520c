"""A replay buffer that draws transitions in proportion to their priorities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _validate
from ._replay import FLOAT32, Batch, ReplayBuffer, exactly

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt


class PrioritizedReplayBuffer(ReplayBuffer):
    """A replay buffer with proportional priorities (Schaul et al. 2016).

    A transition i is drawn with probability P(i) = (p_i + eps)^alpha / Σ_k (p_k +
    eps)^alpha, where its priority p_i is usually the magnitude of its last temporal
    difference error. New transitions get the largest (p + eps)^alpha so far, at least
    1, so that each is soon drawn. A sample of B transitions has one from each of B
    equal parts of the sum.

    Drawing in proportion to priorities changes the expectation of the gradient.
    Importance weights w_i = (min_k P(k) / P(i))^beta correct this, fully for beta = 1.
    They are at most 1, and equal (N P(i))^-beta divided by its largest value in the
    buffer. Pass them to training as ``sample_weight``; there they are relative, since
    a mean does not depend on their scale.

    Parameters
    ----------
    capacity, obs_shape, action_shape, seed, n_steps, gamma, extra
        As for `ReplayBuffer`.
    alpha : float
        Exponent of the priorities, from 0 (uniform) to 1.
    eps : float
        Term > 0 that is added to priorities, so that none is 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    MemoryError
        If ``capacity`` transitions do not fit into memory.

    Notes
    -----
    For a seed, the samples are the same on every machine and after loading a state:
    powers are computed from basic arithmetic, and each sum in the tree of priorities
    depends on the present priorities alone.

    Examples
    --------
    One step of deep Q-learning, with networks ``q`` and ``target`` ::

        batch = buffer.sample(64, beta=0.4)
        values = q(batch.obs)[np.arange(64), batch.actions]
        y = fm.rl.dqn_targets(target, batch, gamma=0.99)
        q.train_step(batch.obs, (batch.actions, y), loss, opt, batch.weights)
        buffer.update_priorities(batch.indices, abs(y - values))
    """

    _priorities: tuple[float, float] = (0.6, 1e-6)

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
        alpha: float = 0.6,
        eps: float = 1e-6,
    ) -> None:
        self._priorities = (
            _validate.real("alpha", alpha, 0.0, 1.0),
            _validate.real("eps", eps, 0.0, open_low=True),
        )
        super().__init__(
            capacity,
            obs_shape,
            action_shape=action_shape,
            seed=seed,
            n_steps=n_steps,
            gamma=gamma,
            extra=extra,
        )

    def _start(self, **arguments: Any) -> None:
        PrioritizedReplayBuffer.__init__(self, **arguments)

    @property
    def alpha(self) -> float:
        """The exponent of the priorities."""
        return self._priorities[0]

    @property
    def eps(self) -> float:
        """The term that is added to priorities."""
        return self._priorities[1]

    def sample(self, batch_size: int, beta: float = 0.4) -> Batch:
        """Draw transitions in proportion to their priorities, with replacement.

        Parameters
        ----------
        batch_size : int
            Number of transitions to draw; the buffer may hold fewer.
        beta : float
            Exponent of the importance weights, from 0 (none) to 1 (full correction).
            It is often raised to 1 during training: see `LinearSchedule`.

        Returns
        -------
        Batch
            New contiguous arrays, with one row for each drawn transition; ``weights``
            are the importance weights, and ``indices`` are for `update_priorities`.

        Raises
        ------
        TypeError, ValueError
            If ``batch_size`` is not a positive int, ``beta`` is out of range, or the
            buffer is empty.
        """
        beta = _validate.real("beta", beta, 0.0, 1.0)
        fields, indices, discounts, extra, weights = self._buffer.sample_by_priority(
            self._checked_size(batch_size), beta
        )
        batch = self._batch(fields, indices, discounts, extra)
        batch.weights = weights
        return batch

    def update_priorities(
        self, indices: npt.ArrayLike, priorities: npt.ArrayLike
    ) -> None:
        """Set the priorities of transitions, usually of those drawn last.

        Parameters
        ----------
        indices : (B,)
            Slots of the transitions, ``batch.indices``. A transition added since may
            have replaced the one in a slot. If a slot is repeated, its last priority
            holds.
        priorities : (B,) or (B, 1)
            Priorities ≥ 0, such as magnitudes of temporal difference errors; they are
            converted to float32.

        Raises
        ------
        TypeError, ValueError
            If an index is out of range, or a priority is negative or not finite. All
            priorities are then unchanged.
        """
        slots = self._slots(indices)
        p = _validate.convert("priorities", priorities, FLOAT32)
        if p.shape == (len(slots), 1):
            p = p.reshape(-1)
        p = exactly("priorities", p, (len(slots),))
        _validate.finite("priorities", p)
        if p.size and p.min() < 0:
            row = int(p.argmin())
            raise ValueError(f"priorities must be >= 0, got {p[row]} in row {row}")
        self._buffer.prioritize(slots, p)

    def _state(self) -> dict[str, Any]:
        weights, largest = self._buffer.weights()
        return {
            **super()._state(),
            "alpha": self.alpha,
            "eps": self.eps,
            "priorities": weights,
            "largest_priority": largest,
        }
