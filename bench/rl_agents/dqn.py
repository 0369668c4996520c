"""Double DQN on CartPole, by fastmlp and by PyTorch: time until the pole is balanced.

All but the networks, the targets, the loss and the optimiser is
`examples/dqn_cartpole.py` for both: environment, replay buffer (fastmlp's, whose arrays
PyTorch takes without a copy), exploration, evaluations, and the parameters they start
from.
"""

from __future__ import annotations

import copy

import dqn_cartpole as dqn
import numpy as np
import torch
from fastmlp import rl

from . import TorchAgent, network, train


class TorchDoubleDQN(TorchAgent):
    """What `dqn.DoubleDQN` is, in PyTorch as it is fastest on a CPU."""

    def __init__(self, seed: int) -> None:
        self.q = self.acting = network(dqn.DoubleDQN(seed).q)
        self.target = copy.deepcopy(self.q)
        self.online_parameters = list(self.q.parameters())
        self.target_parameters = list(self.target.parameters())
        self.optimizer = torch.optim.Adam(
            self.online_parameters, lr=dqn.LEARNING_RATE, fused=True
        )

    @torch.inference_mode()
    def values(self, states: np.ndarray) -> np.ndarray:
        """Return (B, actions), what actions are worth; of one state, (actions,)."""
        return self.q(torch.from_numpy(states)).numpy()

    def learn(self, batch: rl.Batch) -> None:
        """Take one step of training on transitions."""
        obs, actions, rewards, next_obs, terminated = map(torch.from_numpy, batch)
        with torch.no_grad():
            best = self.q(next_obs).argmax(1, keepdim=True)
            after = self.target(next_obs).gather(1, best)[:, 0]
            worth = rewards + dqn.GAMMA * after * ~terminated
        predicted = self.q(obs).gather(1, actions[:, None])[:, 0]
        loss = torch.nn.functional.huber_loss(predicted, worth)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                self.target_parameters, self.online_parameters, dqn.TAU
            )


AGENTS = {"fastmlp": dqn.DoubleDQN, "torch": TorchDoubleDQN}


def run(backend: str, seed: int, threads: int) -> tuple[bool, float, int, float]:
    """Train once with "fastmlp" or "torch"; returns what `train` does."""
    return train(dqn, AGENTS[backend], seed, threads)
