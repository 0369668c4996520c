"""Compare what networks learn with products in bfloat16 and in float32.

    python bench/bfloat16_accuracy.py              ten seeds: a minute
    python bench/bfloat16_accuracy.py --seeds 2 --tasks moons digits

Each task is trained from the same seeds with both. A line has the mean over the seeds
and their standard deviation; ``shift`` is the difference of the means in standard
deviations of float32. The exit code is 1 if a mean in bfloat16 lies outside the range
of the seeds in float32. Needs scikit-learn and Gymnasium.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import fastmlp as fm
import machine
import numpy as np
from sklearn.datasets import load_digits, make_moons
from sklearn.model_selection import train_test_split

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import dqn_cartpole

KINDS = ("float32", "bfloat16")
Scores = dict[str, float]


def classify(
    x: np.ndarray,
    labels: np.ndarray,
    hidden: list[int],
    epochs: int,
    seed: int,
    kind: str,
) -> Scores:
    """Return the final training loss and the accuracy on a third of the data."""
    classes = int(labels.max()) + 1
    x_train, x_test, y_train, y_test = train_test_split(
        x.astype(np.float32), labels, test_size=1 / 3, random_state=seed
    )
    mlp = fm.MLP([x.shape[1], *hidden, classes], compute_dtype=kind, seed=seed)
    loss = fm.CrossEntropy()
    mlp.fit(
        x_train,
        y_train,
        loss=loss,
        optimizer=fm.Adam(lr=1e-3),
        epochs=epochs,
        batch_size=64,
        progress=False,
    )
    return {
        "training loss": mlp.evaluate(x_train, y_train, loss),
        "test accuracy": float(np.mean(mlp(x_test).argmax(1) == y_test)),
    }


def digits(seed: int, kind: str) -> Scores:
    """64-256-256-10 on scikit-learn's digits."""
    x, labels = load_digits(return_X_y=True)
    return classify(x / 16, labels, [256, 256], 30, seed, kind)


def moons(seed: int, kind: str) -> Scores:
    """2-64-64-2 on two moons with noise."""
    x, labels = make_moons(1500, noise=0.2, random_state=seed)
    return classify(x, labels, [64, 64], 100, seed, kind)


def regression(seed: int, kind: str) -> Scores:
    """20-100-1, as in speed comparisons, on a smooth function with noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (6000, 20)).astype(np.float32)
    clean = np.sin(3 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.5 * x[:, 3:4] ** 2
    y = (clean + 0.1 * rng.standard_normal(clean.shape)).astype(np.float32)
    mlp = fm.MLP([20, 100, 1], compute_dtype=kind, seed=seed)
    loss = fm.MSE()
    mlp.fit(
        x[:4000],
        y[:4000],
        loss=loss,
        optimizer=fm.Adam(lr=1e-3),
        epochs=60,
        batch_size=200,
        progress=False,
    )
    variance = float(np.var(y[4000:]))
    return {
        "training loss": mlp.evaluate(x[:4000], y[:4000], loss),
        "test R²": 1 - mlp.evaluate(x[4000:], y[4000:], loss) / variance,
    }


def cartpole(seed: int, kind: str) -> Scores:
    """Double DQN of examples/dqn_cartpole.py."""
    agent = dqn_cartpole.DoubleDQN(seed)
    agent.q = agent.q.copy(compute_dtype=kind)
    agent.target = dqn_cartpole.rl.TargetNetwork(agent.q, tau=dqn_cartpole.TAU)
    outcome = dqn_cartpole.train(agent, seed)
    return {"mean return": outcome.mean_return, "steps": float(outcome.steps)}


TASKS: dict[str, Callable[[int, str], Scores]] = {
    "digits": digits,
    "moons": moons,
    "regression": regression,
    "cartpole": cartpole,
}


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    machine.announce(machine.describe())
    outside = False
    titles = f"{'float32':>22}{'bfloat16':>22}{'shift':>8}"
    print(f"{'':12}{'':15}{titles}")
    for name in options.tasks:
        found = {
            kind: [TASKS[name](seed, kind) for seed in range(options.seeds)]
            for kind in KINDS
        }
        for score in found[KINDS[0]][0]:
            full, rounded = (
                np.array([run[score] for run in found[kind]]) for kind in KINDS
            )
            shift = (rounded.mean() - full.mean()) / max(full.std(), 1e-12)
            within = full.min() <= rounded.mean() <= full.max()
            outside |= not within
            cells = "".join(
                f"{values.mean():12.4g} ± {values.std():7.2g}"
                for values in (full, rounded)
            )
            note = "" if within else "  outside the range of float32"
            print(f"{name:12}{score:15}{cells}{shift:8.2f}{note}", flush=True)
    return int(outside)


if __name__ == "__main__":
    sys.exit(main())
