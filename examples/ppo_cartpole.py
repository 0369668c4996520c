"""
Proximal policy optimisation on a vector of environments
========================================================

Eight copies of Gymnasium's CartPole-v1 run side by side. One network, the actor, gives
the probability of each action; another, the critic, the value of a state. Every 32
steps the actor is moved towards the actions that turned out better than the critic
expected (generalised advantage estimation), but only as far as the clipped loss allows,
and the critic towards the observed returns. Training ends when the policy balances the
pole in an evaluation; the result is the mean return of 100 new episodes of at most 500
steps, with the most likely action in each state. CartPole counts as solved at 475. The
script prints a line for each seed and draws the learning curves.
"""

from __future__ import annotations

import time
from collections import deque

import fastmlp as fm
import numpy as np
from _command import finish
from _episodes import Outcome, check, evaluate, make, parse, plot
from fastmlp import rl

ENVIRONMENTS, STEPS = 8, 32  # environments side by side, and steps between updates
HIDDEN = (64, 64)
EPOCHS, BATCH_SIZE = 10, 64
LEARNING_RATE = 2e-3  # initial value; it decreases linearly to 0 at the last step
CLIP, ENTROPY, CLIP_NORM = 0.2, 0.0, 0.5
GAMMA, LAMBDA = 0.99, 0.95
MOST_STEPS = 100_000  # total over all environments
# The policy is evaluated when the RECENT latest training episodes have a mean return of
# at least PROMISING, but at most once per PAUSE updates. Training ends when an
# evaluation reaches ENOUGH.
RECENT, PROMISING, PAUSE, ENOUGH = 20, 150.0, 10, 490.0
SEEDS, QUICK_SEEDS = 5, 2


# %%
# The agent
# ---------
#
# :obj:`fastmlp.rl.ClippedPolicyGradient` takes targets of three parts: the actions,
# their advantages, and their log-probabilities at the time they were drawn.
# :obj:`fastmlp.MLP.fit` accepts targets in parts.


class ActorCritic:
    """Actor and critic: two networks in fastmlp."""

    def __init__(self, seed: int) -> None:
        self.actor = self.network(2, 0.01, [seed, 0])
        self.critic = self.network(1, 1.0, [seed, 1])
        self.actor_optimizer = fm.Adam(lr=LEARNING_RATE, clip_norm=CLIP_NORM)
        self.critic_optimizer = fm.Adam(lr=LEARNING_RATE, clip_norm=CLIP_NORM)
        self.actor_loss = rl.ClippedPolicyGradient(clip=CLIP, entropy=ENTROPY)

    @staticmethod
    def network(outputs: int, gain: float, seed: list[int]) -> fm.MLP:
        """Return a network with orthogonal weights, scaled by √2 in hidden layers."""
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
        """Return the critic's values of states, (B,)."""
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
        """Train both networks for some epochs on the latest steps."""
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
        """Restore the parameters."""
        self.actor.params[:] = parameters


# %%
# Training
# --------
#
# :obj:`fastmlp.rl.gae` estimates advantages and returns from rewards and the critic's
# values.


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

    # Records of STEPS steps: states (one more than steps), actions, rewards ...
    shape = (STEPS, ENVIRONMENTS)
    states = np.empty((STEPS + 1, ENVIRONMENTS, 4), np.float32)
    actions = np.empty(shape, np.int64)
    log_probs, rewards = np.empty(shape, np.float32), np.empty(shape, np.float32)
    terminated, truncated, idle = (np.empty(shape, bool) for _ in range(3))

    updates = MOST_STEPS // (STEPS * ENVIRONMENTS)
    for update in range(updates):
        for t in range(STEPS):
            # The step after the end of an episode only resets the environment.
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

        # The critic estimates the rest of a truncated episode.
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

        # Keep the best policy; stop when it balances the pole.
        last = update == updates - 1
        promising = update >= evaluated + PAUSE and np.mean(recent or 0) >= PROMISING
        if promising or last:
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
        outcomes[seed] = train(ActorCritic(seed), seed)
        print(f"seed {seed}  {outcomes[seed]}")
    figure = plot(
        outcomes,
        RECENT,
        legend="in the end",
        title="PPO on CartPole-v1: training (lines), evaluations (circles)",
    )
    finish(figure, options, check(outcomes))


if __name__ == "__main__":
    main()
