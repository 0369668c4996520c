"""PPO on CartPole, by fastmlp and by PyTorch: how long until the pole is balanced.

All but the networks, the loss and the optimiser is `examples/ppo_cartpole.py` for both:
environments, sampling, advantages, evaluations, and the parameters they start from.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import ppo_cartpole as ppo


class TorchActorCritic:
    """What `ppo.ActorCritic` is, in PyTorch as it is fastest on a CPU."""

    def __init__(self, seed: int) -> None:
        ours = ppo.ActorCritic(seed)
        self.rng = np.random.default_rng([seed, 5])
        self.actor, self.critic = network(ours.actor), network(ours.critic)
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
        """Return (B,): what the critic holds states to be worth."""
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
        """Train both networks for some epochs on what was just seen."""
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
                (loss + value_loss).backward()  # no parameter has a part in both
                for net in self.networks:
                    torch.nn.utils.clip_grad_norm_(net.parameters(), ppo.CLIP_NORM)
                self.optimizer.step()

    def parameters(self) -> np.ndarray:
        """Return a copy of the actor's parameters."""
        return torch.nn.utils.parameters_to_vector(self.actor.parameters()).numpy(
            force=True
        )

    def restore(self, parameters: np.ndarray) -> None:
        """Go back to those."""
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(parameters), self.actor.parameters()
        )


def network(ours: fm.MLP) -> torch.nn.Sequential:
    """Return the same network with the same parameters."""
    layers: list[torch.nn.Module] = []
    with torch.no_grad():
        for weight, bias in zip(ours.weights, ours.biases, strict=True):
            assert bias is not None
            linear = torch.nn.Linear(*weight.shape)
            linear.weight.copy_(torch.from_numpy(weight.T.copy()))
            linear.bias.copy_(torch.from_numpy(bias.copy()))
            layers += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


AGENTS: dict[str, Any] = {"fastmlp": ppo.ActorCritic, "torch": TorchActorCritic}


def run(backend: str, seed: int, threads: int) -> tuple[bool, float, int, float]:
    """Train once.

    Parameters
    ----------
    backend : {"fastmlp", "torch"}
        Who does the networks.
    seed : int
        Of environments, parameters and actions.
    threads : int
        That fastmlp and PyTorch may use.

    Returns
    -------
    solved : bool
        Whether 100 fresh episodes came to a mean of 475 at least.
    seconds : float
        Of training.
    steps : int
        In all environments together.
    mean_return : float
        Of the fresh episodes.
    """
    torch.set_num_threads(threads)
    with fm.threads(threads):
        outcome = ppo.train(AGENTS[backend](seed), seed)
    return outcome.solved, outcome.seconds, outcome.steps, outcome.mean_return
