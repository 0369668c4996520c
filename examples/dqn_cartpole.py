"""Balance a pole with double deep Q-learning (DQN).

    python examples/dqn_cartpole.py

A network says what each of the two actions of Gymnasium's CartPole-v1 is worth. It acts
by that, now and then at random, and learns from draws of what it has seen so far: the
value of an action is to be the reward plus what the best action in the next state is
worth, which a second network says that follows the first (double Q-learning). Training
ends when the policy balances the pole in an evaluation; what counts is the mean return
of 100 fresh episodes, of 500 steps at most, with the best action in each state.
CartPole counts as solved at 475. Prints a line for each seed and saves a picture of the
learning curves.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import fastmlp as fm
import gymnasium
import numpy as np
from fastmlp import rl
from matplotlib.figure import Figure

HIDDEN = (64, 64)
LEARNING_RATE = 3e-3
GAMMA = 0.98
TAU = 0.005  # by this part the second network follows, each step of training
BATCH_SIZE = 64
CAPACITY = 50_000
FIRST = 1000  # so many steps at random before training starts
EPSILON = rl.LinearSchedule(1.0, 0.05, 6000)  # from then on
MOST_STEPS = 100_000
EPISODES = 100  # of an evaluation
LONGEST, SOLVED = 500, 475.0  # an episode, and what the mean is to be
# The policy is evaluated every so many steps, until the mean comes to this.
PAUSE, ENOUGH = 500, 495.0
SMOOTH = 10  # episodes that a point of the curve is the mean of
WANTED_SHARE = 0.8  # of the seeds that are to be solved
SEEDS, QUICK_SEEDS = 5, 1


class DoubleDQN:
    """A network of action values made by fastmlp, and one that follows it."""

    def __init__(self, seed: int) -> None:
        self.q = fm.MLP([4, *HIDDEN, 2], activation="relu", seed=seed)
        self.target = rl.TargetNetwork(self.q, tau=TAU)
        self.loss = fm.ActionValue(fm.Huber())
        self.optimizer = fm.Adam(lr=LEARNING_RATE)

    def values(self, states: np.ndarray) -> np.ndarray:
        """Return (B, actions), what actions are worth; of one state, (actions,)."""
        return self.q(states)

    def learn(self, batch: rl.Batch) -> None:
        """Take one step of training on transitions."""
        worth = rl.dqn_targets(self.target, batch, GAMMA, online=self.q)
        self.q.train_step(batch.obs, (batch.actions, worth), self.loss, self.optimizer)
        self.target.update()

    def parameters(self) -> np.ndarray:
        """Return a copy of the parameters."""
        return self.q.params.copy()

    def restore(self, parameters: np.ndarray) -> None:
        """Go back to those."""
        self.q.params[:] = parameters


@dataclass
class Outcome:
    """How a training went."""

    mean_return: float = 0.0  # of 100 fresh episodes
    seconds: float = 0.0  # of training, the evaluations in between included
    steps: int = 0
    # After how many steps each episode of training ended, and what it returned.
    ends: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        """Whether the pole was balanced."""
        return self.mean_return >= SOLVED


def evaluate(agent: DoubleDQN, seed: list[int], enough: float = 0.0) -> float:
    """Return the mean return of 100 episodes, side by side, with the best actions.

    When it cannot come to ``enough`` any more, what it has come to is returned.
    """
    env = gymnasium.make_vec(
        "CartPole-v1", num_envs=EPISODES, vectorization_mode="vector_entry_point"
    )
    states, _ = env.reset(seed=int(np.random.default_rng(seed).integers(2**31)))
    running = np.ones(EPISODES, bool)
    total = 0.0
    steps, lost = 0, 0
    while running.any() and lost <= EPISODES * (LONGEST - enough):
        actions = agent.values(states).argmax(axis=1)
        states, rewards, terminated, truncated, _ = env.step(actions)
        total += rewards[running].sum()
        steps += 1
        over = running & (terminated | truncated)
        running &= ~over  # the first episode of each counts
        lost += over.sum() * (LONGEST - steps)
    return float(total / EPISODES)


def train(agent: DoubleDQN, seed: int) -> Outcome:
    """Train until the pole is balanced, or for MOST_STEPS steps."""
    start = time.perf_counter()
    outcome = Outcome()
    rng = np.random.default_rng([seed, 1])
    buffer = rl.ReplayBuffer(CAPACITY, 4, seed=seed)
    env = gymnasium.make("CartPole-v1", disable_env_checker=True)
    state, _ = env.reset(seed=seed)
    earned = 0.0
    best, best_parameters = -1.0, agent.parameters()

    for step in range(1, MOST_STEPS + 1):
        epsilon = EPSILON(max(0, step - FIRST))
        action = rl.epsilon_greedy(agent.values(state), epsilon, rng)
        next_state, reward, terminated, truncated, _ = env.step(action)
        # An episode that is cut off after 500 steps would go on: not terminated.
        buffer.add(state, action, reward, next_state, terminated)
        state = next_state
        earned += float(reward)
        if terminated or truncated:
            outcome.ends.append(step)
            outcome.returns.append(earned)
            state, _ = env.reset()
            earned = 0.0
        if step < FIRST:
            continue
        agent.learn(buffer.sample(BATCH_SIZE))

        # Keep the best policy; end when it balances the pole.
        if step % PAUSE == 0:
            mean_return = evaluate(agent, [seed, 2, step], ENOUGH)
            if mean_return > best:
                best, best_parameters = mean_return, agent.parameters()
            if best >= ENOUGH:
                break
    outcome.steps = step
    outcome.seconds = time.perf_counter() - start

    agent.restore(best_parameters)
    outcome.mean_return = evaluate(agent, [seed, 3])
    return outcome


def plot(outcomes: dict[int, Outcome], output: Path) -> None:
    """Save the returns of the episodes of training, smoothed, for each seed."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    colors = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
    for i, (seed, outcome) in enumerate(outcomes.items()):
        color = colors[i % len(colors)]
        ends, returns = np.array(outcome.ends), np.array(outcome.returns)
        axes.plot(ends, returns, ".", color=color, alpha=0.3, markersize=4)
        width = min(SMOOTH, len(returns))
        smooth = np.convolve(returns, np.ones(width) / width, "valid")
        label = f"seed {seed}: {outcome.mean_return:.0f}"
        axes.plot(ends[width - 1 :], smooth, color=color, label=label)
    axes.axhline(SOLVED, color="black", linestyle=":", linewidth=1, label="solved")
    axes.set(xlabel="steps", ylabel="return of an episode", title="DQN on CartPole-v1")
    axes.grid(alpha=0.3)
    axes.legend(title="greedy, 100 episodes")
    figure.savefig(output, dpi=120)


def check(outcomes: dict[int, Outcome]) -> str:
    """Return what is wrong with the outcomes, or nothing."""
    solved = sum(outcome.solved for outcome in outcomes.values())
    wanted = max(1, int(WANTED_SHARE * len(outcomes)))
    if solved >= wanted:
        return ""
    return f"{solved} of {len(outcomes)} seeds solved, at least {wanted} wanted"


def main(arguments: list[str] | None = None) -> int:
    """Command line; 1 if --check fails."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, help=f"how many, default: {SEEDS}")
    parser.add_argument("--output", type=Path, default=Path("dqn_cartpole.png"))
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SEEDS} seed unless told"
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"fail if fewer than {WANTED_SHARE:.0%} of the seeds are solved",
    )
    options = parser.parse_args(arguments)
    seeds = options.seeds or (QUICK_SEEDS if options.quick else SEEDS)

    outcomes = {}
    for seed in range(options.seed, options.seed + seeds):
        outcome = outcomes[seed] = train(DoubleDQN(seed), seed)
        print(
            f"seed {seed}  mean return of {EPISODES} episodes "
            f"{outcome.mean_return:5.1f}  training {outcome.steps:6} steps, "
            f"{outcome.seconds:.2f} s"
        )
    plot(outcomes, options.output)
    print(f"picture: {options.output}")
    problem = check(outcomes) if options.check else ""
    if problem:
        print(f"check failed: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
