"""Double DQN on CartPole, by fastmlp and by PyTorch: time until the pole is balanced.

All but the networks, the targets, the loss and the optimiser is
`examples/dqn_cartpole.py` for both: environment, replay buffer (fastmlp's, whose arrays
PyTorch takes without a copy), exploration, evaluations, and the parameters they start
from.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import fastmlp as fm
import numpy as np
import torch
from fastmlp import rl

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import dqn_cartpole as dqn


class TorchDoubleDQN:
    """What `dqn.DoubleDQN` is, in PyTorch as it is fastest on a CPU."""

    def __init__(self, seed: int) -> None:
        self.q = network(dqn.DoubleDQN(seed).q)
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

    def parameters(self) -> np.ndarray:
        """Return a copy of the parameters."""
        return torch.nn.utils.parameters_to_vector(self.q.parameters()).numpy(
            force=True
        )

    def restore(self, parameters: np.ndarray) -> None:
        """Go back to those."""
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(parameters), self.q.parameters()
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
            layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


AGENTS = {"fastmlp": dqn.DoubleDQN, "torch": TorchDoubleDQN}


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
        Of the environment.
    mean_return : float
        Of the fresh episodes.
    """
    torch.set_num_threads(threads)
    with fm.threads(threads):
        outcome = dqn.train(AGENTS[backend](seed), seed)
    return outcome.solved, outcome.seconds, outcome.steps, outcome.mean_return
