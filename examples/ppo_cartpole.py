"""Balance a pole with proximal policy optimisation (PPO) on a vector of environments.

    python examples/ppo_cartpole.py

Eight of Gymnasium's CartPole-v1 run side by side. One network, the actor, says how
likely each action is, another, the critic, what a state is worth. Every 32 steps the
actor is moved towards the actions that turned out better than the critic thought
(generalised advantage estimation), but no further than the clipped loss follows, and
the critic towards what came of the states. Training ends when the policy balances the
pole in an evaluation; what counts is the mean return of 100 fresh episodes, of 500
steps at most, with the most likely action in each state. CartPole counts as solved at
475. Prints a line for each seed and saves a picture of the learning curves.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import fastmlp as fm
import gymnasium
import numpy as np
from fastmlp import rl
from matplotlib.figure import Figure

ENVIRONMENTS, STEPS = 8, 32  # so many side by side, and steps between updates
HIDDEN = (64, 64)
EPOCHS, BATCH_SIZE = 10, 64
LEARNING_RATE = 2e-3  # at first; it falls in a straight line to 0 at the last step
CLIP, ENTROPY, CLIP_NORM = 0.2, 0.0, 0.5
GAMMA, LAMBDA = 0.99, 0.95
MOST_STEPS = 100_000  # in all environments together
EPISODES = 100  # of an evaluation
SOLVED = 475.0  # of 500
# The policy is evaluated when the last episodes of training came to this mean, at most
# every so many updates, and training ends when an evaluation comes to that.
RECENT, PROMISING, PAUSE, ENOUGH = 20, 150.0, 10, 490.0
WANTED_SHARE = 0.8  # of the seeds that are to be solved
SEEDS, QUICK_SEEDS = 5, 2
# Colour-blind safe, of Okabe & Ito (2008).
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LABELS = 12  # of seeds in the legend


class ActorCritic:
    """A policy and what it learns by: two networks of fastmlp."""

    def __init__(self, seed: int) -> None:
        self.actor = self.network(2, 0.01, [seed, 0])
        self.critic = self.network(1, 1.0, [seed, 1])
        self.actor_optimizer = fm.Adam(lr=LEARNING_RATE, clip_norm=CLIP_NORM)
        self.critic_optimizer = fm.Adam(lr=LEARNING_RATE, clip_norm=CLIP_NORM)
        self.actor_loss = rl.ClippedPolicyGradient(clip=CLIP, entropy=ENTROPY)

    @staticmethod
    def network(outputs: int, gain: float, seed: list[int]) -> fm.MLP:
        """Return a network with orthogonal weights, times √2 but in the last layer."""
        mlp = fm.MLP(
            [4, *HIDDEN, outputs], activation="tanh", init="orthogonal", seed=seed
        )
        for weight in mlp.weights[:-1]:
            weight *= np.sqrt(2)
        mlp.weights[-1][:] *= gain
        return mlp

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Return (B, 2): the actor's outputs for states (B, 4)."""
        return self.actor(states)

    def values(self, states: np.ndarray) -> np.ndarray:
        """Return (B,): what the critic holds states to be worth."""
        return self.critic(states)[:, 0]

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
        self.actor_optimizer.lr = self.critic_optimizer.lr = rate
        self.actor.fit(
            states,
            (actions, advantages, log_probs),
            loss=self.actor_loss,
            optimizer=self.actor_optimizer,
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
        )
        self.critic.fit(
            states,
            returns,
            loss=fm.MSE(),
            optimizer=self.critic_optimizer,
            epochs=EPOCHS,
            batch_size=BATCH_SIZE,
        )

    def parameters(self) -> np.ndarray:
        """Return a copy of the actor's parameters."""
        return self.actor.params.copy()

    def restore(self, parameters: np.ndarray) -> None:
        """Go back to those parameters."""
        self.actor.params[:] = parameters


def make(n: int) -> gymnasium.vector.VectorEnv:
    """Return n environments that NumPy steps together."""
    return gymnasium.make_vec(
        "CartPole-v1", num_envs=n, vectorization_mode="vector_entry_point"
    )


@dataclass
class Outcome:
    """How a training went."""

    mean_return: float = 0.0  # of 100 fresh episodes
    seconds: float = 0.0  # of training, the evaluations in between included
    steps: int = 0  # in all environments together
    # After how many steps each episode of training ended, and what it returned.
    ends: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    # After how many steps the policy was evaluated, and with what mean return.
    evaluations: list[tuple[int, float]] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        """Whether the pole was balanced."""
        return self.mean_return >= SOLVED


def evaluate(policy: ActorCritic, seed: list[int]) -> float:
    """Return the mean return of 100 episodes with the most likely actions."""
    env = make(EPISODES)
    states, _ = env.reset(seed=int(np.random.default_rng(seed).integers(2**31)))
    running = np.ones(EPISODES, bool)
    total = 0.0
    while running.any():
        actions = policy.logits(states).argmax(axis=1)
        states, rewards, terminated, truncated, _ = env.step(actions)
        total += rewards[running].sum()
        running &= ~(terminated | truncated)  # the first episode of each counts
    return float(total / EPISODES)


def train(policy: ActorCritic, seed: int) -> Outcome:
    """Train until the pole is balanced, or for MOST_STEPS steps."""
    start = time.perf_counter()
    outcome = Outcome()
    rng = np.random.default_rng([seed, 2])
    env = make(ENVIRONMENTS)
    state, _ = env.reset(seed=seed)
    over = np.zeros(ENVIRONMENTS, bool)
    earned = np.zeros(ENVIRONMENTS)
    recent: deque[float] = deque(maxlen=RECENT)
    best, best_parameters, evaluated = -1.0, policy.parameters(), 0

    # Of STEPS steps: the states before each and after the last, and what happened.
    shape = (STEPS, ENVIRONMENTS)
    states = np.empty((STEPS + 1, ENVIRONMENTS, 4), np.float32)
    actions = np.empty(shape, np.int64)
    log_probs, rewards = np.empty(shape, np.float32), np.empty(shape, np.float32)
    terminated, truncated, idle = (np.empty(shape, bool) for _ in range(3))

    updates = MOST_STEPS // (STEPS * ENVIRONMENTS)
    for update in range(updates):
        for t in range(STEPS):
            # A step after the end of an episode only resets the environment.
            states[t], idle[t] = state, over
            actions[t], log_probs[t] = rl.sample_actions(policy.logits(state), rng)
            state, rewards[t], terminated[t], truncated[t], _ = env.step(actions[t])
            over = terminated[t] | truncated[t]
            earned += rewards[t]
            for i in np.flatnonzero(over):
                outcome.ends.append((update * STEPS + t + 1) * ENVIRONMENTS)
                outcome.returns.append(float(earned[i]))
                recent.append(float(earned[i]))
                earned[i] = 0.0
        states[STEPS] = state
        outcome.steps += STEPS * ENVIRONMENTS

        # Of an episode that was cut off the critic says what would have come.
        values = policy.values(states.reshape(-1, 4)).reshape(STEPS + 1, -1)
        advantages, returns = rl.gae(
            rewards, values[:-1], values[1:], terminated, truncated, GAMMA, LAMBDA
        )
        real = ~idle
        advantage = advantages[real]
        policy.update(
            states[:-1][real],
            actions[real],
            (advantage - advantage.mean()) / (advantage.std() + 1e-8),
            log_probs[real],
            returns[real],
            LEARNING_RATE * (1 - update / updates),
        )

        # Keep the best policy; end when it balances the pole.
        last = update == updates - 1
        promising = update >= evaluated + PAUSE and np.mean(recent or 0) >= PROMISING
        if promising or last:
            evaluated = update
            mean_return = evaluate(policy, [seed, 3, update])
            outcome.evaluations.append((outcome.steps, mean_return))
            if mean_return > best:
                best, best_parameters = mean_return, policy.parameters()
            if best >= ENOUGH:
                break
    outcome.seconds = time.perf_counter() - start

    policy.restore(best_parameters)
    outcome.mean_return = evaluate(policy, [seed, 4])
    return outcome


def plot(outcomes: dict[int, Outcome], output: Path) -> None:
    """Save for each seed the smoothed returns of training, and the evaluations."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for i, (seed, outcome) in enumerate(outcomes.items()):
        color = COLORS[i % len(COLORS)]
        ends, returns = np.array(outcome.ends), np.array(outcome.returns)
        axes.plot(ends, returns, ".", color=color, alpha=0.2, markersize=3)
        width = min(RECENT, len(returns))
        smooth = np.convolve(returns, np.ones(width) / width, "valid")
        label = f"seed {seed}: {outcome.mean_return:.0f}" if i < LABELS else None
        axes.plot(ends[width - 1 :], smooth, color=color, label=label)
        axes.plot(*zip(*outcome.evaluations, strict=True), "o--", color=color)
    axes.axhline(SOLVED, color="black", linestyle=":", linewidth=1, label="solved")
    axes.set(
        xlabel="steps",
        ylabel="return of an episode",
        title="PPO on CartPole-v1: training (lines), evaluations (circles)",
    )
    axes.grid(alpha=0.3)
    axes.legend(title="in the end")
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
    parser.add_argument("--output", type=Path, default=Path("ppo_cartpole.png"))
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_SEEDS} seeds unless told"
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
        outcome = outcomes[seed] = train(ActorCritic(seed), seed)
        print(
            f"seed {seed}  mean return of {EPISODES} episodes"
            f" {outcome.mean_return:5.1f}"
            f"  training {outcome.steps:6} steps, {outcome.seconds:.2f} s"
        )
    plot(outcomes, options.output)
    print(f"picture: {options.output}")
    problem = check(outcomes) if options.check else ""
    if problem:
        print(f"check failed: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
