"""
Double deep Q-learning balances a pole
======================================

A network estimates the value of each of the two actions of Gymnasium's CartPole-v1. The
agent takes the best action, sometimes a random one, and learns from samples of its
past. The target for the value of an action is the reward plus the discounted value of
the best action in the next state. The network chooses that action, and a second one,
which slowly follows the first, estimates its value (double Q-learning). The quality of
the policy fluctuates, and returns during training are far below its best, so the policy
is evaluated often. Training ends when it balances the pole. The result is the mean
return of 100 new episodes of at most 500 steps, with the best action in each state.
CartPole counts as solved at 475. The script prints a line for each seed and draws the
learning curves.
"""

from __future__ import annotations

import time

import fastmlp as fm
import gymnasium
import numpy as np
from _command import finish
from _episodes import Outcome, check, evaluate, parse, plot
from fastmlp import rl

HIDDEN = (64, 64)
LEARNING_RATE = 3e-3
GAMMA = 0.98
TAU = 0.005  # weight of the first network in each update of the second
BATCH_SIZE = 64
CAPACITY = 50_000
FIRST = 1000  # random steps before training starts
# Share of random actions, by the number of steps after the FIRST random ones.
EPSILON = rl.LinearSchedule(1.0, 0.05, 6000)
MOST_STEPS = 100_000
# Steps between evaluations, and the mean return that ends training.
PAUSE, ENOUGH = 500, 495.0
SMOOTH = 10  # episodes averaged for a point of the curve
SEEDS, QUICK_SEEDS = 5, 1


# %%
# The agent
# ---------
#
# :obj:`fastmlp.rl.TargetNetwork` follows the network of values slowly;
# :obj:`fastmlp.rl.dqn_targets` combines rewards and next states to targets;
# :obj:`fastmlp.ActionValue` is the loss for the values of the actions taken.


class DoubleDQN:
    """A network of action values in fastmlp, and a target network."""

    def __init__(self, seed: int) -> None:
        self.q = fm.MLP([4, *HIDDEN, 2], activation="relu", seed=seed)
        self.target = rl.TargetNetwork(self.q, tau=TAU)
        self.loss = fm.ActionValue(fm.Huber())
        self.optimizer = fm.Adam(lr=LEARNING_RATE)

    def values(self, states: np.ndarray) -> np.ndarray:
        """Return action values (B, actions); for one state (actions,)."""
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
        """Restore the parameters."""
        self.q.params[:] = parameters


# %%
# Training
# --------
#
# The loop is an ordinary one of Gymnasium; :obj:`fastmlp.rl.ReplayBuffer` keeps the
# steps.


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
        # An episode truncated after 500 steps is not terminated.
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

        # Keep the best policy; stop when it balances the pole.
        if step % PAUSE == 0:
            mean_return = evaluate(agent.values, [seed, 2, step], ENOUGH)
            if mean_return > best:
                best, best_parameters = mean_return, agent.parameters()
            if best >= ENOUGH:
                break
    outcome.steps = step
    outcome.seconds = time.perf_counter() - start

    agent.restore(best_parameters)
    outcome.mean_return = evaluate(agent.values, [seed, 3])
    return outcome


# %%
# The run
# -------
#
# Dots are training episodes, whose actions are partly random; lines are running means.
# The module ``_episodes.py``, which the reinforcement learning examples share, draws
# the picture and reads the command line.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments, __doc__, SEEDS, QUICK_SEEDS)
    outcomes = {}
    for seed in options.seeds:
        outcomes[seed] = train(DoubleDQN(seed), seed)
        print(f"seed {seed}  {outcomes[seed]}")
    figure = plot(
        outcomes,
        SMOOTH,
        legend="greedy, 100 episodes",
        title="DQN on CartPole-v1",
    )
    finish(figure, options, check(outcomes))


if __name__ == "__main__":
    main()
