"""Second-order solvers: L-BFGS against SciPy's, and Levenberg-Marquardt on its target.

    python bench/solvers.py [--repeats 7] [--quick]

SciPy's L-BFGS-B uses fastmlp's value_and_grad and the same initial parameters, so only
the solver differs. Both are measured by the time to the same loss: the higher of the
two losses that they reach within the given iterations. Figures are medians of
interleaved repeats. SciPy's vector operations use one BLAS thread unless
OPENBLAS_NUM_THREADS says otherwise: further threads would spin and slow both down.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import dataclass
from time import perf_counter

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when numpy is imported

import fastmlp as fm
import numpy as np
from scipy import optimize

# Relative excess within which the loss counts as reached.
SLACK = 1 + 1e-9


@dataclass(frozen=True)
class Case:
    """A network, its data and the number of iterations."""

    name: str
    widths: tuple[int, ...]
    rows: int
    dtype: str
    loss: fm.losses.Loss
    iterations: int


CASES = (
    Case("smooth 1-D", (1, 20, 1), 200, "float64", fm.MSE(), 300),
    Case("small", (8, 32, 32, 1), 500, "float64", fm.MSE(), 200),
    Case("small, float32", (8, 32, 32, 1), 500, "float32", fm.MSE(), 200),
    Case("classes", (20, 64, 10), 1000, "float64", fm.CrossEntropy(), 100),
    Case("wide", (64, 256, 256, 10), 1000, "float64", fm.MSE(), 50),
    Case("wide, float32", (64, 256, 256, 10), 1000, "float32", fm.MSE(), 50),
)


def task(case: Case) -> tuple[fm.MLP, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mlp = fm.MLP(list(case.widths), activation="tanh", dtype=case.dtype, seed=0)
    x = rng.standard_normal((case.rows, mlp.n_in)).astype(case.dtype)
    if isinstance(case.loss, fm.CrossEntropy):
        return mlp, x, rng.integers(0, mlp.n_out, case.rows)
    mix = rng.standard_normal((mlp.n_in, mlp.n_out)) / np.sqrt(mlp.n_in)
    return mlp, x, np.sin(3 * x @ mix).astype(case.dtype)


# Losses after a solver's iterations, and their times.
Trace = list[tuple[float, float]]


def ours(case: Case) -> tuple[Trace, int]:
    mlp, x, y = task(case)
    solver, trace = fm.LBFGS(tol=0.0), []
    start = perf_counter()

    def note(model: fm.MLP, history: fm.History) -> None:
        trace.append((perf_counter() - start, history.loss[-1]))

    mlp.fit(
        *(x, y),
        loss=case.loss,
        optimizer=solver,
        epochs=case.iterations,
        batch_size=case.rows,
        callbacks=[note],
        progress=False,
    )
    # An epoch reports the loss before its step. This loss was already known at the end
    # of the previous epoch.
    times = [0.0, *(t for t, _ in trace)]
    return [(t, loss) for t, (_, loss) in zip(times, trace, strict=False)], (
        solver.evaluations
    )


def scipys(case: Case) -> tuple[Trace, int]:
    mlp, x, y = task(case)
    trace: Trace = []
    evaluations = 0

    def f(theta: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal evaluations
        evaluations += 1
        mlp.params[:] = theta
        value, grad = mlp.value_and_grad(x, y, case.loss)
        trace.append((perf_counter() - start, value))
        return value, grad.astype(np.float64, copy=False)

    begin = mlp.params.astype(np.float64)
    start = perf_counter()
    options = {"maxiter": case.iterations, "ftol": 0.0, "gtol": 0.0, "maxfun": 10**6}
    optimize.minimize(f, begin, jac=True, method="L-BFGS-B", options=options)
    return trace, evaluations


def time_to(trace: Trace, loss: float) -> float:
    return next(t for t, value in trace if value <= loss * SLACK)


def compare(case: Case, repeats: int) -> None:
    runs = [(ours(case), scipys(case)) for _ in range(repeats)]
    (a, n_a), (b, n_b) = runs[0]
    goal = max(min(v for _, v in a), min(v for _, v in b))
    mine = statistics.median(time_to(r[0][0], goal) for r in runs)
    theirs = statistics.median(time_to(r[1][0], goal) for r in runs)
    print(
        f"{case.name:16} loss {goal:9.3e}  fastmlp {1e3 * mine:8.2f} ms "
        f"({n_a} evaluations)  SciPy {1e3 * theirs:8.2f} ms ({n_b})  "
        f"ratio {theirs / mine:5.2f}"
    )


def levenberg_marquardt(repeats: int) -> None:
    x = np.linspace(-2, 2, 200)[:, np.newaxis]
    y = np.sin(3 * x) * np.exp(-(x**2))
    for seed in range(3):
        seconds = []
        for _ in range(repeats):
            mlp = fm.MLP([1, 20, 1], activation="tanh", dtype="float64", seed=seed)
            start = perf_counter()
            history = mlp.fit(
                *(x, y),
                loss=fm.MSE(),
                optimizer=fm.LevenbergMarquardt(),
                epochs=1000,
                batch_size=len(x),
                callbacks=[lambda _, h: h.loss[-1] < 1e-10],
                progress=False,
            )
            seconds.append(perf_counter() - start)
        error = np.sqrt(np.mean((mlp(x) - y) ** 2))
        print(
            f"Levenberg-Marquardt, seed {seed}: RMS {error:.2e} after {len(history)} "
            f"iterations in {1e3 * statistics.median(seconds):.0f} ms"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="one repeat of two cases")
    given = parser.parse_args()
    repeats = 1 if given.quick else given.repeats
    for case in CASES[:2] if given.quick else CASES:
        compare(case, repeats)
    levenberg_marquardt(repeats)


if __name__ == "__main__":
    main()
