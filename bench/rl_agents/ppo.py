"""PPO on CartPole, by fastmlp and by PyTorch: how long until the pole is balanced.

Except for the networks, the loss and the optimiser, both run
`examples/ppo_cartpole.py`: environments, sampling, advantages, evaluations, and initial
parameters.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import ppo_cartpole as ppo
import torch

from . import TorchAgent, network, train


class TorchActorCritic(TorchAgent):
    """`ppo.ActorCritic` in PyTorch, in its fastest form on a CPU."""

    def __init__(self, seed: int) -> None:
        ours = ppo.ActorCritic(seed)
        self.rng = np.random.default_rng([seed, 5])
        self.actor, self.critic = network(ours.actor), network(ours.critic)
        self.acting = self.actor
        self.networks = (self.actor, self.critic)
        self.optimizer = torch.optim.Adam(
            [*self.actor.parameters(), *self.critic.parameters()],
            lr=ppo.LEARNING_RATE,
            fused=True,
        )

    @torch.inference_mode()
    def logits(self, states: np.ndarray) -> np.ndarray:
        """Return (B, actions): the actor's outputs for states (B, 4)."""
        return self.actor(torch.from_numpy(states)).numpy()

    @torch.inference_mode()
    def values(self, states: np.ndarray) -> np.ndarray:
        """Return the critic's values of states, (B,)."""
        return self.critic(torch.from_numpy(states)).numpy()[:, 0]

    def update(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        advantages: np.ndarray,
        log_probs: np.ndarray,
        returns: np.ndarray,
        rate: float,
    ) -> None:
        """Train both networks for some epochs on the latest steps."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x, action, advantage, old, target = map(
            torch.from_numpy, (states, actions, advantages, log_probs, returns)
        )
        action = action[:, None]
        for _ in range(ppo.EPOCHS):
            order = torch.from_numpy(self.rng.permutation(len(x)))
            for rows in order.split(ppo.BATCH_SIZE):
                batch = x[rows]
                log_pi = torch.log_softmax(self.actor(batch), 1)
                log_prob = log_pi.gather(1, action[rows])[:, 0]
                ratio = torch.exp(log_prob - old[rows])
                a = advantage[rows]
                bounded = ratio.clamp(1 - ppo.CLIP, 1 + ppo.CLIP)
                loss = -torch.minimum(ratio * a, bounded * a).mean()
                if ppo.ENTROPY > 0:
                    loss = loss + ppo.ENTROPY * (log_pi.exp() * log_pi).sum(1).mean()
                value_loss = torch.nn.functional.mse_loss(
                    self.critic(batch)[:, 0], target[rows]
                )
                self.optimizer.zero_grad()
                (loss + value_loss).backward()  # the networks do not share parameters
                for net in self.networks:
                    torch.nn.utils.clip_grad_norm_(net.parameters(), ppo.CLIP_NORM)
                self.optimizer.step()


AGENTS: dict[str, Any] = {"fastmlp": ppo.ActorCritic, "torch": TorchActorCritic}


def run(backend: str, seed: int, threads: int) -> tuple[bool, float, int, float]:
    """Train once with "fastmlp" or "torch"; return the result of `train`."""
    return train(ppo, AGENTS[backend], seed, threads)
