"""
REINFORCE, the simplest policy gradient
=======================================

One network, the policy, gives the probability of each action. After every 16 episodes
of Gymnasium's CartPole-v1 it takes one step: an action becomes more likely the more its
discounted return-to-go exceeds the value that another network, the baseline, predicts
for the state; and the baseline is fitted to the returns. Training ends when the policy
balances the pole in an evaluation; the result is the mean return of 100 new episodes of
at most 500 steps, with the most likely action in each state. CartPole counts as solved
at 475. The script prints a line for each seed and draws the learning curves.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import fastmlp as fm
import gymnasium
import numpy as np
from _command import finish
from _episodes import Outcome, check, evaluate, make, parse, plot
from fastmlp import rl

BATCH_EPISODES = 16  # episodes run side by side between updates
HIDDEN = (64, 64)
LEARNING_RATE = 1e-2
ENTROPY, CLIP_NORM = 0.0, 0.5
BASELINE_RATE, BASELINE_EPOCHS, BASELINE_BATCH = 2e-3, 5, 64
GAMMA = 0.99
MOST_STEPS = 300_000  # total over all environments
# The policy is evaluated when the RECENT latest training episodes have a mean return of
# at least PROMISING, but at most once per PAUSE updates. Training ends when an
# evaluation reaches ENOUGH.
RECENT, PROMISING, PAUSE, ENOUGH = 16, 200.0, 5, 490.0
SEEDS, QUICK_SEEDS = 5, 2


# %%
# The agent
# ---------
#
# :obj:`fastmlp.rl.PolicyGradient` is the loss: the negative log-probability of the
# actions taken, weighted by their advantages.


class Reinforce:
    """Policy and baseline: two networks in fastmlp."""

    def __init__(self, seed: int) -> None:
        self.policy = fm.MLP([4, *HIDDEN, 2], activation="tanh", seed=[seed, 0])
        self.policy.weights[-1][:] *= 0.01  # all actions are equally likely at first
        self.baseline = fm.MLP([4, *HIDDEN, 1], activation="tanh", seed=[seed, 1])
        self.policy_optimizer = fm.Adam(lr=LEARNING_RATE, clip_norm=CLIP_NORM)
        self.baseline_optimizer = fm.Adam(lr=BASELINE_RATE)
        self.policy_loss = rl.PolicyGradient(entropy=ENTROPY)

    def logits(self, states: np.ndarray) -> np.ndarray:
        """Return (B, 2): the policy's outputs for states (B, 4)."""
        return self.policy(states)

    def values(self, states: np.ndarray) -> np.ndarray:
        """Return the baseline's values of states, (B,)."""
        return self.baseline(states)[:, 0]

    def update(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        advantages: np.ndarray,
        returns: np.ndarray,
    ) -> None:
        """Take a policy step, and fit the baseline to the returns."""
        self.policy.train_step(
            states, (actions, advantages), self.policy_loss, self.policy_optimizer
        )
        self.baseline.fit(
            states,
            returns,
            loss=fm.MSE(),
            optimizer=self.baseline_optimizer,
            epochs=BASELINE_EPOCHS,
            batch_size=BASELINE_BATCH,
        )

    def parameters(self) -> np.ndarray:
        """Return a copy of the policy's parameters."""
        return self.policy.params.copy()

    def restore(self, parameters: np.ndarray) -> None:
        """Restore the parameters."""
        self.policy.params[:] = parameters


# %%
# Episodes
# --------
#
# A vector of environments plays 16 episodes side by side; steps after the end of an
# episode do not count.


@dataclass(frozen=True)
class Episodes:
    """Records of N episodes run side by side, T steps until the last one ends."""

    states: np.ndarray  # (T + 1, N, 4): before each step, and after the last
    actions: np.ndarray  # (T, N), like all that follow
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    running: np.ndarray  # before the step


def play(
    policy: Reinforce, env: gymnasium.vector.VectorEnv, rng: np.random.Generator
) -> Episodes:
    """Play an episode in each environment with actions drawn from the policy."""
    state, _ = env.reset()
    running = np.ones(env.num_envs, bool)
    states, steps = [state], []
    while running.any():
        actions, _ = rl.sample_actions(policy.logits(state), rng)
        state, rewards, terminated, truncated, _ = env.step(actions)
        states.append(state)
        steps.append((actions, rewards, terminated, truncated, running))
        running = running & ~(terminated | truncated)
    return Episodes(np.array(states), *map(np.array, zip(*steps, strict=True)))


# %%
# Training
# --------
#
# :obj:`fastmlp.rl.returns` sums the discounted rewards from each step to the end of its
# episode.


def train(policy: Reinforce, seed: int) -> Outcome:
    """Train until the pole is balanced, or for MOST_STEPS steps."""
    start = time.perf_counter()
    outcome = Outcome()
    rng = np.random.default_rng([seed, 2])
    env = make(BATCH_EPISODES)
    env.reset(seed=seed)
    best, best_parameters, evaluated, update = -1.0, policy.parameters(), 0, 0

    while outcome.steps < MOST_STEPS:
        played = play(policy, env, rng)
        running = played.running
        lengths = running.sum(axis=0)
        outcome.ends += (outcome.steps + np.cumsum(lengths)).tolist()
        outcome.returns += (played.rewards * running).sum(axis=0).tolist()
        outcome.steps += int(lengths.sum())

        # The baseline estimates the rest of a truncated episode.
        states = played.states
        values = policy.values(states.reshape(-1, 4)).reshape(states.shape[:2])
        returns = rl.returns(
            played.rewards, GAMMA, played.terminated, played.truncated, values[1:]
        )
        advantages = (returns - values[:-1])[running]
        policy.update(
            states[:-1][running],
            played.actions[running],
            (advantages - advantages.mean()) / (advantages.std() + 1e-8),
            returns[running],
        )
        update += 1

        # Keep the best policy; stop when it balances the pole.
        promising = np.mean(outcome.returns[-RECENT:]) >= PROMISING
        last = outcome.steps >= MOST_STEPS
        if last or (promising and update >= evaluated + PAUSE):
            evaluated = update
            mean_return = evaluate(policy.logits, [seed, 3, update])
            outcome.evaluations.append((outcome.steps, mean_return))
            if mean_return > best:
                best, best_parameters = mean_return, policy.parameters()
            if best >= ENOUGH:
                break
    outcome.seconds = time.perf_counter() - start

    policy.restore(best_parameters)
    outcome.mean_return = evaluate(policy.logits, [seed, 4])
    return outcome


# %%
# The run
# -------
#
# Dots are training episodes, lines their running means, and circles evaluations. The
# module ``_episodes.py``, which the reinforcement learning examples share, draws the
# picture and reads the command line.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments, __doc__, SEEDS, QUICK_SEEDS)
    outcomes = {}
    for seed in options.seeds:
        outcomes[seed] = train(Reinforce(seed), seed)
        print(f"seed {seed}  {outcomes[seed]}")
    figure = plot(
        outcomes,
        RECENT,
        legend="in the end",
        title="REINFORCE on CartPole-v1: training (lines), evaluations (circles)",
    )
    finish(figure, options, check(outcomes))


if __name__ == "__main__":
    main()
