"""Swing up a double pendulum by Q-learning with a network.

    python examples/q_learning_acrobot.py

Gymnasium's Acrobot-v1 has two links, and a motor at the joint between them that turns
left, right, or not. Each step costs 1 until the tip is above a line, at most 500. A
network Q(x, u) learns what each action is worth by

    Q(x, u)  towards  r + gamma max_u' Q(x', u')

with the right side held fixed: the gradient of the squared difference is Watkins's
update of Q-learning. It is taken on draws from all that was seen so far. The actions
are the best ones by Q, and now and then any. Prints for each seed how long episodes
took at first and in the end, and with the best actions only; saves a picture of the
learning curves.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fastmlp as fm
import gymnasium
import numpy as np
from fastmlp import rl
from matplotlib.figure import Figure

HIDDEN = (64, 64)
LEARNING_RATE = 1e-3  # at first; it falls to 0, without which Q never settles
GAMMA = 0.99
BATCH_SIZE = 64
CAPACITY = 50_000
FIRST = 1000  # so many steps at random before training starts
EPSILON = rl.LinearSchedule(1.0, 0.05, 5000)  # from then on
STEPS, QUICK_STEPS = 40_000, 20_000
EPISODES, QUICK_EPISODES = 100, 20  # with the best actions, after training
SEEDS, QUICK_SEEDS = 5, 2
SMOOTH = 10  # episodes that a point of the curve is the mean of
# What episodes are to return in the mean with the best actions: at random it is -499.
WANTED, QUICK_WANTED = -110.0, -200.0
WANTED_SHARE = 0.8  # of the seeds


@dataclass
class Outcome:
    """How a training went."""

    ends: np.ndarray  # after how many steps each episode ended
    returns: np.ndarray  # and what it returned
    mean_return: float  # of fresh episodes with the best actions
    seconds: float  # of training


def train(q: fm.MLP, steps: int, seed: int) -> tuple[list[int], list[float]]:
    """Train a network of action values; return ends and returns of episodes."""
    rng = np.random.default_rng([seed, 1])
    buffer = rl.ReplayBuffer(CAPACITY, 6, seed=seed)
    loss = fm.ActionValue(fm.MSE())
    optimizer = fm.Adam(lr=fm.schedules.Cosine(LEARNING_RATE, steps))
    env = gymnasium.make("Acrobot-v1", disable_env_checker=True)
    state, _ = env.reset(seed=seed)
    earned, ends, returns = 0.0, [], []
    for step in range(1, steps + 1):
        epsilon = EPSILON(max(0, step - FIRST))
        action = rl.epsilon_greedy(q(state), epsilon, rng)
        next_state, reward, terminated, truncated, _ = env.step(action)
        # An episode that is cut off after 500 steps would go on: not terminated.
        buffer.add(state, action, reward, next_state, terminated)
        state = next_state
        earned += float(reward)
        if terminated or truncated:
            ends.append(step)
            returns.append(earned)
            state, _ = env.reset()
            earned = 0.0
        if step >= FIRST:
            batch = buffer.sample(BATCH_SIZE)
            worth = rl.dqn_targets(q, batch, GAMMA)
            q.train_step(batch.obs, (batch.actions, worth), loss, optimizer)
    return ends, returns


def evaluate(q: fm.MLP, episodes: int, seed: list[int]) -> float:
    """Return the mean return of episodes with the best actions."""
    env = gymnasium.make("Acrobot-v1", disable_env_checker=True)
    state, _ = env.reset(seed=int(np.random.default_rng(seed).integers(2**31)))
    total, over = 0.0, 0
    while over < episodes:
        state, reward, terminated, truncated, _ = env.step(int(q(state).argmax()))
        total += float(reward)
        if terminated or truncated:
            over += 1
            state, _ = env.reset()
    return total / episodes


def run(seed: int, steps: int, episodes: int) -> Outcome:
    """Train with one seed and evaluate."""
    q = fm.MLP([6, *HIDDEN, 3], activation="relu", seed=seed)
    start = time.perf_counter()
    ends, returns = train(q, steps, seed)
    seconds = time.perf_counter() - start
    mean_return = evaluate(q, episodes, [seed, 2])
    return Outcome(np.array(ends), np.array(returns), mean_return, seconds)


def plot(outcomes: dict[int, Outcome], output: Path) -> None:
    """Save the returns of the episodes of training, smoothed, for each seed."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colors = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    for i, (seed, outcome) in enumerate(outcomes.items()):
        color = colors[i % len(colors)]
        ends, returns = outcome.ends, outcome.returns
        axes.plot(ends, returns, ".", color=color, alpha=0.3, markersize=4)
        width = min(SMOOTH, len(returns))
        smooth = np.convolve(returns, np.ones(width) / width, "valid")
        label = f"seed {seed}: {outcome.mean_return:.0f}"
        axes.plot(ends[width - 1 :], smooth, color=color, label=label)
    axes.set(
        xlabel="steps",
        ylabel="return of an episode",
        title="Q-learning on Acrobot-v1",
        ylim=(-510, 0),
    )
    axes.grid(alpha=0.3)
    axes.legend(title="greedy, after training")
    figure.savefig(output, dpi=120)


def check(outcomes: dict[int, Outcome], wanted: float) -> str:
    """Return what is wrong with the outcomes, or nothing."""
    good = sum(outcome.mean_return >= wanted for outcome in outcomes.values())
    least = max(1, int(WANTED_SHARE * len(outcomes)))
    if good >= least:
        return ""
    return f"{good} of {len(outcomes)} seeds come to {wanted}, at least {least} wanted"


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if --check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, help=f"how many, default: {SEEDS}")
    parser.add_argument("--output", type=Path, default=Path("q_learning_acrobot.png"))
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_STEPS} steps, {QUICK_SEEDS} seeds unless told",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"fail if fewer than {WANTED_SHARE:.0%} of the seeds come to a mean "
        f"return of {WANTED:.0f} ({QUICK_WANTED:.0f} if quick)",
    )
    options = parser.parse_args(arguments)
    quick = options.quick
    seeds = options.seeds or (QUICK_SEEDS if quick else SEEDS)
    steps = QUICK_STEPS if quick else STEPS
    episodes = QUICK_EPISODES if quick else EPISODES

    outcomes = {}
    for seed in range(options.seed, options.seed + seeds):
        outcome = outcomes[seed] = run(seed, steps, episodes)
        first, last = outcome.returns[:SMOOTH], outcome.returns[-SMOOTH:]
        print(
            f"seed {seed}  first episodes {first.mean():6.1f}, last {last.mean():6.1f},"
            f" {episodes} greedy ones {outcome.mean_return:6.1f}"
            f"  training {steps} steps, {outcome.seconds:.2f} s"
        )
    plot(outcomes, options.output)
    print(f"picture: {options.output}")
    wanted = QUICK_WANTED if quick else WANTED
    problem = check(outcomes, wanted) if options.check else ""
    if problem:
        print(f"check failed: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
