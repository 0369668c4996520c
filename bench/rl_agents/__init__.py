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
    """Base class of the PyTorch agents."""

    acting: torch.nn.Module  # the network that selects actions

    def parameters(self) -> np.ndarray:
        """Return a copy of the acting network's parameters."""
        return torch.nn.utils.parameters_to_vector(self.acting.parameters()).numpy(
            force=True
        )

    def restore(self, parameters: np.ndarray) -> None:
        """Restore the parameters."""
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
        Maps a seed to an agent, of fastmlp or PyTorch.
    seed : int
        Seed of environments, parameters and actions.
    threads : int
        Number of threads of fastmlp and PyTorch.

    Returns
    -------
    solved : bool
        Whether 100 new episodes reach a mean return of 475.
    seconds : float
        Training time.
    steps : int
        Number of steps over all environments.
    mean_return : float
        Mean return of the new episodes.
    """
    torch.set_num_threads(threads)
    with fm.threads(threads):
        outcome = script.train(agent(seed), seed)
    return outcome.solved, outcome.seconds, outcome.steps, outcome.mean_return
