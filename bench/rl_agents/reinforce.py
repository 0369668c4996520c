"""REINFORCE on CartPole, by fastmlp and by PyTorch: how long until it is solved.

Except for the networks, the losses and the optimisers, both run
`examples/reinforce_cartpole.py`: environments, sampling, returns, evaluations, and
initial parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import reinforce_cartpole as reinforce
import torch

from . import TorchAgent, network, train


class TorchReinforce(TorchAgent):
    """`reinforce.Reinforce` in PyTorch, in its fastest form on a CPU."""

    def __init__(self, seed: int) -> None:
        ours = reinforce.Reinforce(seed)
        self.rng = np.random.default_rng([seed, 5])
        self.policy, self.baseline = network(ours.policy), network(ours.baseline)
        self.acting = self.policy
        self.policy_optimizer = torch.optim.Adam(
            self.policy.parameters(), lr=reinforce.LEARNING_RATE, fused=True
        )
        self.baseline_optimizer = torch.optim.Adam(
            self.baseline.parameters(), lr=reinforce.BASELINE_RATE, fused=True
        )

    @torch.inference_mode()
    def logits(self, states: np.ndarray) -> np.ndarray:
        """Return (B, 2): the policy's outputs for states (B, 4)."""
        return self.policy(torch.from_numpy(states)).numpy()

    @torch.inference_mode()
    def values(self, states: np.ndarray) -> np.ndarray:
        """Return the baseline's values of states, (B,)."""
        return self.baseline(torch.from_numpy(states)).numpy()[:, 0]

    def update(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        advantages: np.ndarray,
        returns: np.ndarray,
    ) -> None:
        """Take a policy step, and fit the baseline to the returns."""
        x, action, advantage, target = map(
            torch.from_numpy, (states, actions, advantages, returns)
        )
        log_pi = torch.log_softmax(self.policy(x), 1)
        loss = -(advantage * log_pi.gather(1, action[:, None])[:, 0]).mean()
        if reinforce.ENTROPY > 0:
            loss = loss + reinforce.ENTROPY * (log_pi.exp() * log_pi).sum(1).mean()
        self.policy_optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), reinforce.CLIP_NORM)
        self.policy_optimizer.step()

        for _ in range(reinforce.BASELINE_EPOCHS):
            order = torch.from_numpy(self.rng.permutation(len(x)))
            for rows in order.split(reinforce.BASELINE_BATCH):
                error = torch.nn.functional.mse_loss(
                    self.baseline(x[rows])[:, 0], target[rows]
                )
                self.baseline_optimizer.zero_grad()
                error.backward()
                self.baseline_optimizer.step()


AGENTS: dict[str, Any] = {"fastmlp": reinforce.Reinforce, "torch": TorchReinforce}


def run(backend: str, seed: int, threads: int) -> tuple[bool, float, int, float]:
    """Train once with "fastmlp" or "torch"; return the result of `train`."""
    return train(reinforce, AGENTS[backend], seed, threads)
