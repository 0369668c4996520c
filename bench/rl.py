"""Time to solve CartPole by reinforcement learning, fastmlp against PyTorch.

    python bench/rl.py                              all algorithms, seeds 0 to 4
    python bench/rl.py --algorithms dqn --seeds 2 --threads 1
    python bench/rl.py --json result.json

Both run the scripts of examples/ (`dqn_cartpole.py` and so on); only the class with the
networks differs (rl_agents/). Both start from the same parameters and use the same
random numbers. Rounding soon leads them to different states, so that a seed may take
one of them longer by chance: the times of all seeds are added up, solved or not, and
the time per step is compared as well. PyTorch runs with each number of `--threads`, and
its best total counts; fastmlp may use all of them and chooses how many. Each run is a
separate process; fastmlp and PyTorch alternate. The exit code is 1 if an algorithm
solves fewer than 4 of 5 seeds with fastmlp or is less than 3 times as fast.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

AGENTS = Path(__file__).parent / "rl_agents"
ALGORITHMS = sorted(path.stem for path in AGENTS.glob("[a-z]*.py"))
SHARE, TARGET = 0.8, 3.0


@dataclass(frozen=True)
class Run:
    """Result of one training run."""

    algorithm: str
    backend: str
    threads: int
    seed: int
    solved: bool
    seconds: float
    steps: int
    mean_return: float


def here(algorithm: str, backend: str, seed: int, threads: int) -> Run:
    """Train in this process."""
    agents = import_module(f"rl_agents.{algorithm}")
    solved, seconds, steps, mean_return = agents.run(backend, seed, threads)
    return Run(
        algorithm, backend, threads, seed, bool(solved), seconds, steps, mean_return
    )


def apart(algorithm: str, backend: str, seed: int, threads: int) -> Run:
    """Train in a separate process."""
    order = [algorithm, backend, str(seed), str(threads)]
    done = subprocess.run(
        [sys.executable, __file__, "--one", *order],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return Run(**json.loads(done.stdout.splitlines()[-1]))


def of(runs: Sequence[Run], backend: str, threads: int) -> list[Run]:
    """Return the runs by one library with the given number of threads."""
    return [r for r in runs if r.backend == backend and r.threads == threads]


def seconds(runs: Sequence[Run]) -> float:
    """Return the time of all runs."""
    return sum(r.seconds for r in runs)


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Return how fastmlp compares with PyTorch's best number of threads."""
    threads = {r.threads for r in runs if r.backend == "torch"}
    theirs = min((of(runs, "torch", n) for n in threads), key=seconds)
    ours = [r for r in runs if r.backend == "fastmlp"]
    steps, their_steps = (sum(r.steps for r in side) for side in (ours, theirs))
    return {
        "solved": sum(r.solved for r in ours),
        "torch_solved": sum(r.solved for r in theirs),
        "seeds": len(ours),
        "torch_threads": theirs[0].threads,
        "ratio": seconds(theirs) / seconds(ours),
        "ratio_per_step": seconds(theirs) / their_steps / (seconds(ours) / steps),
    }


def compare(algorithm: str, seeds: Sequence[int], threads: Sequence[int]) -> list[Run]:
    """Train with all seeds on both sides, and print a line for each run."""
    runs = []
    print(f"{algorithm}: seed, backend, threads, solved, mean return, steps, seconds")
    for seed in seeds:
        for backend, n in [("fastmlp", max(threads)), *(("torch", n) for n in threads)]:
            r = apart(algorithm, backend, seed, n)
            runs.append(r)
            print(
                f"  {seed:3}  {backend:7} {n}  {'yes' if r.solved else 'no ':3}"
                f" {r.mean_return:6.1f} {r.steps:8} {r.seconds:8.2f}",
                flush=True,
            )
    return runs


def judge(algorithm: str, result: dict[str, Any]) -> bool:
    """Print the algorithm's result, and return whether it meets its targets."""
    good = result["solved"] >= SHARE * result["seeds"] and result["ratio"] >= TARGET
    print(
        f"{algorithm}: fastmlp solves {result['solved']} of {result['seeds']} seeds, "
        f"PyTorch {result['torch_solved']}; fastmlp takes 1/{result['ratio']:.1f} of "
        f"the time of PyTorch with {result['torch_threads']} threads, its best "
        f"(1/{result['ratio_per_step']:.1f} for a step); wanted "
        f"{SHARE:.0%} and 1/{TARGET:.0f}: {'met' if good else 'MISSED'}"
    )
    return good


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--algorithms", nargs="+", choices=ALGORITHMS, default=ALGORITHMS
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="file for the results of all runs")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        algorithm, backend, seed, n = options.one
        print(json.dumps(asdict(here(algorithm, backend, int(seed), int(n)))))
        return 0

    everything: dict[str, Any] = {}
    good = True
    for algorithm in options.algorithms:
        seeds = range(options.seed, options.seed + options.seeds)
        runs = compare(algorithm, seeds, options.threads)
        result = summary(runs)
        good &= judge(algorithm, result)
        everything[algorithm] = {"summary": result, "runs": [asdict(r) for r in runs]}
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
