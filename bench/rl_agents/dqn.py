"""Double DQN on CartPole, by fastmlp and by PyTorch: time until the pole is balanced.

Except for the networks, the targets, the loss and the optimiser, both run
`examples/dqn_cartpole.py`: environment, replay buffer (fastmlp's, whose arrays PyTorch
uses without a copy), exploration, evaluations, and initial parameters.
"""

from __future__ import annotations

import copy

import dqn_cartpole as dqn
import numpy as np
import torch
from fastmlp import rl

from . import TorchAgent, network, train


class TorchDoubleDQN(TorchAgent):
    """`dqn.DoubleDQN` in PyTorch, in its fastest form on a CPU."""

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
        """Return action values (B, actions); for one state (actions,)."""
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
    """Train once with "fastmlp" or "torch"; return the result of `train`."""
    return train(dqn, AGENTS[backend], seed, threads)
