"""Time what options cost, relative to the same training without them.

    python bench/options.py                    all topics, 1 and 2 threads
    python bench/options.py --quick
    python bench/options.py steps --workloads mnist --threads 1 --rounds 101

- steps: ``mlp.train_step`` with options of the optimiser (Adam), with a frozen first
  layer and with Muon, on workloads of peers.py. Targets: clipping by the norm costs
  less than 5 %, parameter groups less than 2 %.
- epochs: ``mlp.fit`` in epochs of about a millisecond (rl-tiny), with callbacks,
  schedules, metrics, validation data. Target: callbacks that do nothing cost less
  than 1 %.
- custom: ``mlp.train_step`` with a loss or an activation written in NumPy, over the
  built-in one.

In every round, plain training and every option are timed once, in rotating order, from
the same parameters. A figure is the median over the rounds of the ratio of an option's
time to that of plain training in the same round, minus 1. *again* repeats the plain
training: its difference from 0 is the measurement error. The exit code is 1 if a target
is missed by more than that.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

# NumPy's own threads would spin and slow down the threads that are timed.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import fastmlp as fm
import machine
import numpy as np
from rivals.tasks import WORKLOADS, Task, Workload
from rivals.worker import confine

TOPICS = ("steps", "epochs", "custom")
STEP_WORKLOADS = ("rl-tiny", "sac", "mnist")
SAMPLE_SECONDS = 0.004
MAX_SAMPLE_STEPS = 100  # a fixed batch is soon memorised

EPOCH_WORKLOAD = "rl-tiny"
EPOCH_SECONDS = 1e-3
EPOCHS = 20  # length of a sample

# Largest relative deviation of NumPy's results: float32 rounding is about 1e-6.
AGREEMENT = 1e-4

# Targets: the largest relative cost of some options.
TARGETS = {
    "clip_norm, never reached": 0.05,
    "clip_norm, always": 0.05,
    "groups": 0.02,
    "callback, no method": 0.01,
    "callback, empty": 0.01,
    "function, empty": 0.01,
}
AGAIN = "again"

Sample = Callable[[], float]  # takes one sample; returns seconds per step or epoch


@dataclasses.dataclass
class Result:
    """Cost of an option.

    Attributes
    ----------
    share : float
        Median over the rounds of (time with the option) / (time without it) - 1.
    seconds : float
        Median time per step or epoch.
    """

    share: float
    seconds: float


def compare(
    plain: Sample, options: dict[str, Sample], rounds: int
) -> dict[str, Result]:
    """Time plain training and its options in turns.

    Returns
    -------
    dict of str to Result
        Results by option; "" is plain training.
    """
    samples = {"": plain, **options}
    names = list(samples)
    for sample in samples.values():
        sample()  # memory is allocated, clocks are up
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name].append(samples[name]())
    return {
        name: Result(
            statistics.median(
                mine / base for mine, base in zip(times[name], times[""], strict=True)
            )
            - 1.0,
            statistics.median(times[name]),
        )
        for name in names
    }


# --- steps --------------------------------------------------------------------------


def built_in_loss(workload: Workload) -> fm.losses.Loss:
    """Return the workload's loss."""
    return fm.MSE() if workload.loss == "mse" else fm.CrossEntropy()


def model(task: Task, **arguments: Any) -> fm.MLP:
    """Return a workload's network with its initial parameters."""
    mlp = fm.MLP(
        list(task.workload.widths), activation=task.workload.activation, **arguments
    )
    mlp.params[:] = first_params(task)
    return mlp


@functools.cache
def first_params(task: Task) -> np.ndarray:
    """Return the initial parameters as a flat vector."""
    return np.concatenate([array.ravel() for layer in task.params for array in layer])


def step_sample(
    task: Task, mlp: fm.MLP, loss: Any, optimizer: fm.Optimizer, steps: int
) -> Sample:
    """Return a function that times steps from the initial parameters."""
    x, y, start = task.x, task.y, first_params(task)

    def sample() -> float:
        mlp.params[:] = start
        optimizer.reset()
        mlp.train_step(x, y, loss, optimizer)  # warms the caches
        begin = perf_counter()
        for _ in range(steps):
            mlp.train_step(x, y, loss, optimizer)
        return (perf_counter() - begin) / steps

    return sample


def steps_per_sample(step: Callable[[int], Sample]) -> int:
    """Return the number of steps in a sample that is long enough to time."""
    seconds = min(step(1)() for _ in range(5))
    return min(MAX_SAMPLE_STEPS, 1 + int(SAMPLE_SECONDS / seconds))


def measure_steps(name: str, rounds: int) -> dict[str, Result]:
    """Time options of the optimiser in a workload's step."""
    workload = WORKLOADS[name]
    task = Task(workload, "train", workload.batch)
    lr = workload.lr if workload.optimizer == "adam" else 1e-3
    # All variants train the same model, so that only the states of their optimisers lie
    # in different memory.
    mlp, loss = model(task), built_in_loss(workload)
    variants: dict[str, dict[str, Any]] = {
        AGAIN: {},
        "clip_norm, never reached": {"clip_norm": 1e6},
        "clip_norm, always": {"clip_norm": 1e-3},
        "clip_value": {"clip_value": 1e-3},
        "weight_decay": {"weight_decay": 1e-4},
        "weight_decay of weights": {"weight_decay": 1e-4, "decay": "weights"},
        "l1": {"l1": 1e-5},
        "l1 of weights": {"l1": 1e-5, "decay": "weights"},
        "ema": {"ema": 0.999},
        "groups": {
            "groups": [
                {"params": "*.bias", "weight_decay": 0.0},
                {"params": "0.weight", "lr": lr / 10},
            ]
        },
        "lr: schedule": {"lr": fm.schedules.Cosine(lr, 10_000)},
        "lr: function": {"lr": lambda step: lr},
        "all of them": {
            "lr": fm.schedules.Cosine(lr, 10_000),
            "clip_norm": 1e-3,
            "weight_decay": 1e-4,
            "l1": 1e-5,
            "decay": "weights",
            "ema": 0.999,
        },
    }

    def sample(steps: int, **options: Any) -> Sample:
        optimizer = fm.Adam(**{"lr": lr, **options})
        return step_sample(task, mlp, loss, optimizer, steps)

    steps = steps_per_sample(sample)
    samples = {key: sample(steps, **options) for key, options in variants.items()}
    frozen = model(task)
    frozen.freeze("0.*")
    for key, network, optimizer in (
        ("first layer frozen", frozen, fm.Adam(lr)),
        ("AdamW", mlp, fm.AdamW(lr)),
        ("Muon", mlp, fm.Muon(lr)),
    ):
        samples[key] = step_sample(task, network, loss, optimizer, steps)
    return compare(sample(steps), samples, rounds)


# --- epochs -------------------------------------------------------------------------


class Empty(fm.Callback):
    """Does nothing after each epoch."""

    def on_epoch_end(self, mlp: fm.MLP, history: fm.History) -> None:
        """Do nothing."""


class EmptyBatch(fm.Callback):
    """Does nothing after each step."""

    def on_batch_end(
        self, mlp: fm.MLP, history: fm.History, step: int, loss: float
    ) -> None:
        """Do nothing."""


def nothing(mlp: fm.MLP, history: fm.History) -> None:
    """Do nothing after each epoch."""


def epoch_variants(task: Task) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return new arguments for each call of fit."""
    lr = task.workload.lr
    tenth = len(task.x) // 10
    validation = task.x[:tenth], task.y[:tenth]
    variants: dict[str, Callable[[], dict[str, Any]]] = {
        AGAIN: dict,
        "callback, no method": lambda: {"callbacks": [fm.Callback()]},
        "callback, empty": lambda: {"callbacks": [Empty()]},
        "function, empty": lambda: {"callbacks": [nothing]},
        "on_batch_end, empty": lambda: {"callbacks": [EmptyBatch()]},
        "EarlyStopping on loss": lambda: {
            "callbacks": [fm.EarlyStopping("loss", patience=EPOCHS)]
        },
        "Monitor": lambda: {"callbacks": [fm.Monitor()]},
        "Monitor(every=10)": lambda: {"callbacks": [fm.Monitor(every=10)]},
        "validation on a tenth": lambda: {"validation_data": validation},
        "the same with r2, mae": lambda: {
            "validation_data": validation,
            "metrics": ["r2", "mae"],
        },
        "r2, mae on all": lambda: {"metrics": ["r2", "mae"]},
        "lr: schedule": lambda: {
            "optimizer": fm.Adam(lr=fm.schedules.Cosine(lr, 10_000))
        },
        "lr: function": lambda: {"optimizer": fm.Adam(lr=lambda step: lr)},
        "clip_norm, always": lambda: {"optimizer": fm.Adam(lr=lr, clip_norm=1e-3)},
    }
    return variants


def measure_epochs(rounds: int) -> dict[str, Result]:
    """Time the options of fit in epochs of about a millisecond."""
    workload = WORKLOADS[EPOCH_WORKLOAD]
    mlp = fm.MLP(list(workload.widths), activation=workload.activation)
    loss = built_in_loss(workload)

    def sample(
        task: Task, make: Callable[[], dict[str, Any]], epochs: int = EPOCHS
    ) -> float:
        mlp.params[:] = first_params(task)
        arguments = {"optimizer": fm.Adam(lr=workload.lr), **make()}
        begin = perf_counter()
        mlp.fit(
            task.x,
            task.y,
            loss=loss,
            epochs=epochs,
            batch_size=workload.batch,
            progress=False,
            seed=0,
            **arguments,
        )
        return (perf_counter() - begin) / epochs

    # Time epochs of 64 batches first, then choose as many batches as take a
    # millisecond.
    batches = 64
    for _ in range(2):
        task = Task(workload, "train", batches * workload.batch)
        seconds = min(sample(task, dict) for _ in range(3))
        batches = max(1, round(batches * EPOCH_SECONDS / seconds))
    task = Task(workload, "train", batches * workload.batch)
    samples = {
        name: functools.partial(sample, task, make)
        for name, make in epoch_variants(task).items()
    }
    return compare(functools.partial(sample, task, dict), samples, rounds)


# --- custom losses and activations ---------------------------------------------------


def numpy_mse(pred: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean squared error and its gradient."""
    residual = pred - target
    return float(np.mean(residual * residual)), residual * (2.0 / residual.size)


def numpy_cross_entropy(
    pred: np.ndarray, target: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the cross-entropy of labels and its gradient."""
    rows = np.arange(len(pred))
    shifted = pred - pred.max(axis=1, keepdims=True)
    slope = np.exp(shifted)
    total = slope.sum(axis=1, keepdims=True)
    value = float(np.mean(np.log(total[:, 0]) - shifted[rows, target]))
    slope /= total
    slope[rows, target] -= 1.0
    slope /= len(pred)
    return value, slope


def numpy_relu(z: np.ndarray) -> np.ndarray:
    """Return max(z, 0)."""
    return np.maximum(z, 0)


def numpy_relu_slope(z: np.ndarray) -> np.ndarray:
    """Return 1 where z > 0, else 0."""
    return (z > 0).astype(z.dtype)


def numpy_tanh_slope(z: np.ndarray) -> np.ndarray:
    """Return 1 - tanh²(z)."""
    h = np.tanh(z)
    return 1 - h * h


def custom_model(task: Task) -> fm.MLP:
    """Return a workload's network with activations written in NumPy."""
    functions = {
        "relu": fm.layers.Activation(numpy_relu, numpy_relu_slope),
        "tanh": fm.layers.Activation(np.tanh, numpy_tanh_slope),
    }
    first, *hidden, last = task.workload.widths
    layers: list[Any] = [first]
    for width in hidden:
        dense = fm.Dense(width, activation="identity")
        layers += [dense, functions[task.workload.activation]]
    return fm.MLP([*layers, last])


def measure_custom(name: str, rounds: int) -> dict[str, Result]:
    """Time a loss and activations written in NumPy in a workload's step."""
    workload = WORKLOADS[name]
    task = Task(workload, "train", workload.batch)
    mlp, own, loss = model(task), custom_model(task), built_in_loss(workload)
    by_hand = numpy_mse if workload.loss == "mse" else numpy_cross_entropy

    def sample(steps: int, mlp: fm.MLP, loss: Any) -> Sample:
        return step_sample(task, mlp, loss, fm.Adam(lr=workload.lr), steps)

    steps = steps_per_sample(lambda steps: sample(steps, mlp, loss))
    for network in (mlp, own):
        network.params[:] = first_params(task)
    expected, slopes = mlp.value_and_grad(task.x, task.y, loss)
    for network, its in ((mlp, by_hand), (own, loss)):
        found, found_slopes = network.value_and_grad(task.x, task.y, its)
        error = np.linalg.norm(found_slopes - slopes) / np.linalg.norm(slopes)
        if abs(found / expected - 1.0) > AGREEMENT or error > AGREEMENT:
            raise RuntimeError(f"{name}: loss {found:.7g}, not {expected:.7g}")
    samples = {
        AGAIN: sample(steps, mlp, loss),
        "loss": sample(steps, mlp, by_hand),
        "activations": sample(steps, own, loss),
        "both": sample(steps, own, by_hand),
    }
    return compare(sample(steps, mlp, loss), samples, rounds)


# --- tables -------------------------------------------------------------------------


def misses(name: str, results: dict[str, Result]) -> bool:
    """Return whether an option misses its target by more than the measurement error."""
    if name not in TARGETS:
        return False
    return results[name].share > TARGETS[name] + abs(results[AGAIN].share)


def print_table(title: str, unit: str, columns: dict[str, dict[str, Result]]) -> int:
    """Print a table of costs, marking missed targets with <; return their number."""
    print(f"\n{title}: % more than without (and microseconds)")
    print(f"{'':26}" + "".join(f"{name:>24}" for name in columns))
    times = [f"{1e6 * results[''].seconds:.1f} us" for results in columns.values()]
    print(f"{f'plain, per {unit}':26}" + "".join(f"{text:>24}" for text in times))
    missed = 0
    for name in next(iter(columns.values())):
        if name == "":
            continue
        cells = []
        for results in columns.values():
            more = results[name].share * results[""].seconds
            text = f"{100 * results[name].share:+.1f} % ({1e6 * more:+.2f})"
            if misses(name, results):
                text += " <"
                missed += 1
            cells.append(f"{text:>24}")
        target = f"  target: {100 * TARGETS[name]:g} %" if name in TARGETS else ""
        print(f"{name:26}" + "".join(cells) + target)
    sys.stdout.flush()
    return missed


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Measure and print all topics with the threads set; return the results."""
    found: dict[str, Any] = {}
    missed = 0
    for topic in options.topics:
        columns: dict[str, dict[str, Result]]
        if topic == "epochs":
            columns = {EPOCH_WORKLOAD: measure_epochs(options.rounds)}
        else:
            call = {"steps": measure_steps, "custom": measure_custom}[topic]
            columns = {name: call(name, options.rounds) for name in options.workloads}
        missed += print_table(topic, "epoch" if topic == "epochs" else "step", columns)
        found[topic] = {
            column: {
                name: dataclasses.asdict(result) for name, result in results.items()
            }
            for column, results in columns.items()
        }
    return found, missed


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; --quick only changes the defaults."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n\n")[0],
    )
    add = parser.add_argument
    add("topics", nargs="*", metavar="topic", help=f"of {', '.join(TOPICS)}")
    add("--quick", action="store_true", help="few rounds")
    add("--workloads", nargs="+", choices=STEP_WORKLOADS, default=list(STEP_WORKLOADS))
    machine.add_threads(parser)
    add("--rounds", type=int, help="default: 41, quick: 7")
    add("--json", type=Path, help="also write everything to this file")
    options = parser.parse_args(arguments)
    options.topics = options.topics or list(TOPICS)
    for topic in options.topics:
        if topic not in TOPICS:
            parser.error(f"topic must be one of {', '.join(TOPICS)}; got {topic}")
    options.threads = machine.checked_threads(parser, options.threads)
    options.rounds = options.rounds or (7 if options.quick else 41)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0 if all targets are met."""
    options = parse(arguments)
    description = machine.describe()
    machine.announce(description)
    print(f"fastmlp {fm.__version__}, {fm.isa()}, {options.rounds} rounds")
    tables, missed = {}, 0
    for threads in sorted(options.threads):
        # Threads that the library starts later are bound to the same CPUs.
        confine(description["cpus"][:threads])
        fm.set_num_threads(threads)
        print(f"\n{threads} thread{'s' if threads > 1 else ''}")
        tables[threads], found = measure(options)
        missed += found
    print(f"\ntargets missed (<): {missed}")
    if options.json:
        content = {"machine": description, "rounds": options.rounds, "tables": tables}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
