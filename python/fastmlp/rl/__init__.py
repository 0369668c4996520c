"""Building blocks for reinforcement learning: replay, targets, returns and losses.

>>> import fastmlp as fm
>>> q = fm.MLP([4, 64, 2], seed=0)  # values of two actions in states of four numbers
>>> opt, loss = fm.Adam(lr=1e-3), fm.ActionValue(fm.Huber())
>>> buffer = fm.rl.ReplayBuffer(10_000, 4, seed=0)
>>> target = fm.rl.TargetNetwork(q, every=500)

With a Gymnasium environment and ``rng = np.random.default_rng(0)``, one step is then ::

    action = fm.rl.epsilon_greedy(q(obs), 0.1, rng)
    next_obs, reward, terminated, truncated, _ = env.step(action)
    buffer.add(obs, action, reward, next_obs, terminated)
    batch = buffer.sample(64)
    y = fm.rl.dqn_targets(target, batch, gamma=0.99)
    q.train_step(batch.obs, (batch.actions, y), loss, opt)
    target.update()

`PrioritizedReplayBuffer` draws by priorities, and its samples have importance weights.
With ``n_steps`` and ``gamma``, both buffers sum the rewards of several steps;
``buffer.add(..., truncated)`` then tells where episodes end, and ``dqn_targets(target,
batch)`` takes the discounts from the batch. ``extra`` stores more with each step.

Environments follow Gymnasium. An episode ends because it is terminated (no state
follows, so the value of the next state counts as 0) or because it is truncated (it
would have continued, so the value of the next state is used). Gymnasium is not
imported.
"""

from .._validate.hints import watch as _watch
from ._policy import (
    ClippedPolicyGradient,
    PolicyGradient,
    entropy,
    log_prob,
    sample_actions,
)
from ._prioritized import PrioritizedReplayBuffer
from ._q_learning import LinearSchedule, TargetNetwork, dqn_targets, epsilon_greedy
from ._replay import Batch, ReplayBuffer
from ._returns import gae, returns

__all__ = [
    "Batch",
    "ClippedPolicyGradient",
    "LinearSchedule",
    "PolicyGradient",
    "PrioritizedReplayBuffer",
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

# Pickles refer to the classes by this public module, not by the private modules that
# define them.
for _name in __all__:
    globals()[_name].__module__ = __name__

_watch(__name__)
