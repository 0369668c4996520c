r"""
Q-learning swings up a double pendulum
======================================

Gymnasium's Acrobot-v1 has two links, and a motor at the joint between them that turns
left, right, or not at all. Each of at most 500 steps costs 1 until the tip is above a
line. A network Q(x, u) learns the value of each action by

.. math:: Q(x, u) \;\to\; r + \gamma \max_{u'} Q(x', u')

with the right side held fixed: the gradient of the squared difference is Watkins's
update of Q-learning. It uses samples of all past steps. The agent takes the best action
by Q, and sometimes a random one. A seed counts as solved if episodes with only the best
actions return -110 or more on average (-200 after the shorter training of --quick). The
script prints for each seed the returns of the first and last episodes and of the best
actions, and draws the learning curves.
"""

from __future__ import annotations

import time

import fastmlp as fm
import gymnasium
import numpy as np
from _command import finish
from _episodes import Outcome, check, parse, plot
from fastmlp import rl

HIDDEN = (64, 64)
LEARNING_RATE = 1e-3  # initial value; it decreases to 0, otherwise Q does not converge
GAMMA = 0.99
BATCH_SIZE = 64
CAPACITY = 50_000
FIRST = 1000  # random steps before training starts
# Share of random actions, by the number of steps after the FIRST random ones.
EPSILON = rl.LinearSchedule(1.0, 0.05, 5000)
STEPS, QUICK_STEPS = 40_000, 20_000
EPISODES, QUICK_EPISODES = 100, 20  # episodes with the best actions after training
SEEDS, QUICK_SEEDS = 3, 2
SMOOTH = 10  # episodes averaged for a point of the curve
# Mean return with the best actions that counts as solved; random actions return -499.
WANTED, QUICK_WANTED = -110.0, -200.0


# %%
# Training
# --------
#
# The same network gives the values of the current state and, held fixed in the target,
# those of the next one: there is no second network. :obj:`fastmlp.schedules.Cosine`
# lowers the learning rate to zero.


def train(q: fm.MLP, steps: int, seed: int) -> Outcome:
    """Train a network of action values."""
    start = time.perf_counter()
    outcome = Outcome(steps=steps)
    rng = np.random.default_rng([seed, 1])
    buffer = rl.ReplayBuffer(CAPACITY, 6, seed=seed)
    loss = fm.ActionValue(fm.MSE())
    optimizer = fm.Adam(lr=fm.schedules.Cosine(LEARNING_RATE, steps))
    env = gymnasium.make("Acrobot-v1", disable_env_checker=True)
    state, _ = env.reset(seed=seed)
    earned = 0.0
    for step in range(1, steps + 1):
        epsilon = EPSILON(max(0, step - FIRST))
        action = rl.epsilon_greedy(q(state), epsilon, rng)
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
        if step >= FIRST:
            batch = buffer.sample(BATCH_SIZE)
            worth = rl.dqn_targets(q, batch, GAMMA)
            q.train_step(batch.obs, (batch.actions, worth), loss, optimizer)
    outcome.seconds = time.perf_counter() - start
    return outcome


# %%
# Evaluation
# ----------
#
# After training, the best action is taken in each state.


def evaluate(q: fm.MLP, episodes: int, seed: list[int]) -> float:
    """Return the mean return with the best actions."""
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


# %%
# The run
# -------
#
# Dots are training episodes, lines their running means. The module ``_episodes.py``,
# which the reinforcement learning examples share, draws the picture and reads the
# command line.


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    options = parse(arguments, __doc__, SEEDS, QUICK_SEEDS)
    steps = QUICK_STEPS if options.quick else STEPS
    episodes = QUICK_EPISODES if options.quick else EPISODES

    outcomes = {}
    for seed in options.seeds:
        q = fm.MLP([6, *HIDDEN, 3], activation="relu", seed=seed)
        outcome = outcomes[seed] = train(q, steps, seed)
        outcome.mean_return = evaluate(q, episodes, [seed, 2])
        outcome.wanted = QUICK_WANTED if options.quick else WANTED
        first, last = outcome.returns[:SMOOTH], outcome.returns[-SMOOTH:]
        print(
            f"seed {seed}  first episodes {np.mean(first):6.1f},"
            f" last {np.mean(last):6.1f},"
            f" {episodes} greedy ones {outcome.mean_return:6.1f}"
            f"  training {steps} steps, {outcome.seconds:.2f} s"
        )
    figure = plot(
        outcomes,
        SMOOTH,
        legend="greedy, after training",
        solved=None,
        title="Q-learning on Acrobot-v1",
        ylim=(-510, 0),
    )
    finish(figure, options, check(outcomes))


if __name__ == "__main__":
    main()
