"""Algorithms of reinforcement learning, each by fastmlp and by PyTorch; see rl.py."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import torch

# The modules of this package import the examples.
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


class TorchAgent:
    """What the agents of PyTorch share."""

    acting: torch.nn.Module  # the network whose outputs say what to do

    def parameters(self) -> np.ndarray:
        """Return a copy of the parameters of the network that acts."""
        return torch.nn.utils.parameters_to_vector(self.acting.parameters()).numpy(
            force=True
        )

    def restore(self, parameters: np.ndarray) -> None:
        """Go back to those."""
        torch.nn.utils.vector_to_parameters(
            torch.from_numpy(parameters), self.acting.parameters()
        )


def network(ours: fm.MLP) -> torch.nn.Sequential:
    """Return the same network with the same parameters, to be trained by PyTorch."""
    return ours.to_torch().train()


def train(
    script: Any, agent: Callable[[int], Any], seed: int, threads: int
) -> tuple[bool, float, int, float]:
    """Train once.

    Parameters
    ----------
    script : module
        The example.
    agent : callable
        Makes of a seed what does the networks, of fastmlp or PyTorch.
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
        outcome = script.train(agent(seed), seed)
    return outcome.solved, outcome.seconds, outcome.steps, outcome.mean_return
