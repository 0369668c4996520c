"""Shared code of the reinforcement learning examples; not an example itself.

The record of a training run, how well a policy balances Gymnasium's CartPole-v1, the
picture of the learning curves and the command line.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import matplotlib.pyplot as plt
import numpy as np
from _command import parser

EPISODES = 100  # episodes in an evaluation
LONGEST, SOLVED = 500, 475.0  # CartPole: longest episode, mean return of a solution
WANTED_SHARE = 0.8  # share of the seeds that must be solved
# Colour-blind safe, of Okabe & Ito (2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LABELS = 12  # most seeds to list in the legend


@dataclass
class Outcome:
    """Results of a training run."""

    mean_return: float = 0.0  # mean over new episodes after training
    wanted: float = SOLVED  # mean return that counts as solved
    seconds: float = 0.0  # training time, including intermediate evaluations
    steps: int = 0  # in all environments together
    # Step at which each training episode ended, and its return.
    ends: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    # Step at which the policy was evaluated, and the mean return.
    evaluations: list[tuple[int, float]] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        """Whether the mean return counts as solved."""
        return self.mean_return >= self.wanted

    def __str__(self) -> str:
        """Return the printed line for CartPole."""
        return (
            f"mean return of {EPISODES} episodes {self.mean_return:5.1f}"
            f"  training {self.steps:6} steps, {self.seconds:.2f} s"
        )


def make(n: int) -> gymnasium.vector.VectorEnv:
    """Return n CartPoles that NumPy steps together."""
    return gymnasium.make_vec(
        "CartPole-v1", num_envs=n, vectorization_mode="vector_entry_point"
    )


def evaluate(
    outputs: Callable[[np.ndarray], np.ndarray], seed: list[int], enough: float = 0.0
) -> float:
    """Evaluate the best actions in 100 CartPole episodes, run side by side.

    Parameters
    ----------
    outputs : callable
        Maps states (B, 4), float32, to (B, 2); the larger output is the action.
    seed : list of int
        Seed of the environments.
    enough : float, default 0.0
        Mean return below which the evaluation may end early.

    Returns
    -------
    float
        Mean return, or an upper bound if it cannot reach ``enough``.
    """
    env = make(EPISODES)
    states, _ = env.reset(seed=int(np.random.default_rng(seed).integers(2**31)))
    running = np.ones(EPISODES, bool)
    total = 0.0
    steps, lost = 0, 0
    while running.any() and lost <= EPISODES * (LONGEST - enough):
        actions = outputs(states).argmax(axis=1)
        states, rewards, terminated, truncated, _ = env.step(actions)
        total += rewards[running].sum()
        steps += 1
        over = running & (terminated | truncated)
        running &= ~over  # the first episode of each environment counts
        lost += over.sum() * (LONGEST - steps)
    return float(total / EPISODES)


def parse(
    arguments: list[str] | None,
    description: str | None,
    seeds: int,
    quick_seeds: int,
) -> argparse.Namespace:
    """Read the command line.

    Parameters
    ----------
    arguments : list of str or None
        Arguments; None takes those of the process.
    description : str or None
        The script's docstring; ``--help`` shows its title.
    seeds, quick_seeds : int
        Default number of seeds, without and with ``--quick``.

    Returns
    -------
    argparse.Namespace
        Has ``seeds`` (a range), ``output`` (a Path or None) and the flags ``quick`` and
        ``check``.
    """
    command = parser(
        description,
        quick=f"change the default of --seeds to {quick_seeds}",
        check=f"fail if fewer than {100 * WANTED_SHARE:.0f} %% of the seeds are solved",
    )
    command.add_argument("--seed", type=int, default=0, help="the first seed")
    command.add_argument("--seeds", type=int, help=f"number of seeds, default: {seeds}")
    options = command.parse_args(arguments)
    count = options.seeds or (quick_seeds if options.quick else seeds)
    options.seeds = range(options.seed, options.seed + count)
    return options


def plot(
    outcomes: dict[int, Outcome],
    smooth: int,
    legend: str,
    solved: float | None = SOLVED,
    **settings: Any,
) -> plt.Figure:
    """Draw training returns and evaluations.

    Parameters
    ----------
    outcomes : dict of int to Outcome
        Outcomes by seed.
    smooth : int
        Number of episodes averaged for a point of a curve.
    legend : str
        Description of the mean returns in the legend.
    solved : float or None, default 475
        Return at which to draw a horizontal line.
    **settings
        Settings of the axes, such as the title.

    Returns
    -------
    Figure
        The picture.
    """
    figure = plt.figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for i, (seed, outcome) in enumerate(outcomes.items()):
        color = COLORS[i % len(COLORS)]
        ends, returns = np.array(outcome.ends), np.array(outcome.returns)
        # Episodes are drawn fainter if evaluations are drawn as well.
        alpha, size = (0.2, 3) if outcome.evaluations else (0.3, 4)
        axes.plot(ends, returns, ".", color=color, alpha=alpha, markersize=size)
        width = min(smooth, len(returns))
        means = np.convolve(returns, np.ones(width) / width, "valid")
        label = f"seed {seed}: {outcome.mean_return:.0f}" if i < LABELS else None
        axes.plot(ends[width - 1 :], means, color=color, label=label)
        if outcome.evaluations:
            axes.plot(*zip(*outcome.evaluations, strict=True), "o--", color=color)
    if solved is not None:
        axes.axhline(solved, color="black", linestyle=":", linewidth=1, label="solved")
    axes.set(xlabel="steps", ylabel="return of an episode", **settings)
    axes.grid(alpha=0.3)
    axes.legend(title=legend)
    return figure


def check(outcomes: dict[int, Outcome]) -> str:
    """Return a problem unless enough seeds are solved."""
    solved = sum(outcome.solved for outcome in outcomes.values())
    least = max(1, int(WANTED_SHARE * len(outcomes)))
    if solved < least:
        return f"{solved} of {len(outcomes)} seeds solved, at least {least} wanted"
    return ""
