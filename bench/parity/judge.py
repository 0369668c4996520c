"""Comparison of both results, and the report."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from .fastmlp_side import run_fastmlp
from .spec import (
    AVERAGES,
    GRADIENT_TOLERANCE,
    INFERENCE,
    PARAMETER_TOLERANCE,
    STATISTICS,
    TRAINED,
    Comparison,
    Problem,
    Result,
    Spec,
)
from .torch_side import run_torch

# Two correct computations err independently, and a handful of trials does not find the
# worst case; a wrong formula errs by orders of magnitude more than rounding.
SLACK = 4.0
TRIALS = 16
MAX_ILL_CONDITIONED = 0.01


def norm(array: np.ndarray) -> float:
    """Euclidean norm in float64."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference; infinite where one of the two is not finite."""
    difference = norm(a.astype(np.float64) - b.astype(np.float64))
    return difference if math.isfinite(difference) else math.inf


def named_tensors(spec: Spec, result: Result) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yield kind, name and value of everything that is compared.

    fastmlp gives the gradients of the parameters twice, PyTorch once.
    """
    names = list(spec.tensors)
    yield "output", "output", result.output
    yield "loss", "loss", result.loss
    gradient_names = [f"d{name}" for name in (*names, "x")]
    repeated = [f"d{name} by vjp" for name in names]
    gradients = result.gradients
    if len(gradients) == len(gradient_names):
        gradients = gradients + gradients[:-1]
    for name, gradient in zip([*gradient_names, *repeated], gradients, strict=True):
        yield "gradient", name, gradient
    for name, param in zip(names, result.params, strict=True):
        yield TRAINED, name, param
    # Only draws with a moving average have one to compare.
    for name, average in zip(names, result.averages, strict=False):
        yield AVERAGES, name, average
    for name, array in zip(spec.statistics, result.statistics, strict=True):
        yield STATISTICS, name, array
    yield INFERENCE, "output", result.inference


def tolerance(spec: Spec, kind: str) -> float:
    """Return the tolerance of a kind of quantity for the dtype of the draw."""
    trained = kind in (TRAINED, AVERAGES, STATISTICS, INFERENCE)
    table = PARAMETER_TOLERANCE if trained else GRADIENT_TOLERANCE
    return table[spec.dtype]


def floors(spec: Spec, result: Result) -> dict[str, float]:
    """Return the absolute floor of the criterion, by kind."""
    eps = float(np.finfo(spec.dtype).eps)
    squares: dict[str, float] = collections.defaultdict(float)
    for kind, _, tensor in named_tensors(spec, result):
        squares[kind] += norm(tensor) ** 2
    return {kind: eps**2 * math.sqrt(square) for kind, square in squares.items()}


def compare_results(
    spec: Spec, ours: Result, theirs: Result, truth: Result
) -> list[Comparison]:
    """Compare tensor by tensor, with the plain criterion."""
    floor = floors(spec, theirs)
    comparisons = []
    for (kind, name, a), (_, _, b), (_, _, exact) in zip(
        named_tensors(spec, ours),
        named_tensors(spec, theirs),
        named_tensors(spec, truth),
        strict=True,
    ):
        if a.shape != b.shape:
            raise AssertionError(f"{kind} {name}: shape {a.shape}, PyTorch's {b.shape}")
        # The floor is added to the scale, so that errors can be compared with the
        # tolerance.
        scale = norm(b) + floor[kind] / tolerance(spec, kind) or 1.0
        comparisons.append(
            Comparison(
                kind=kind,
                name=name,
                error=distance(a, b) / scale,
                error_truth=distance(a, exact) / scale,
                peer_error_truth=distance(b, exact) / scale,
                agrees=distance(a, b) / scale <= tolerance(spec, kind),
            )
        )
    return comparisons


def try_conditioning(
    problem: Problem, truth: Result, comparisons: list[Comparison]
) -> list[Comparison]:
    """Judge failed comparisons by disturbed runs of PyTorch."""
    spec = problem.spec
    disturbance = torch.Generator().manual_seed(spec.draw)
    peer_errors = [comparison.peer_error_truth for comparison in comparisons]
    for _ in range(TRIALS):
        trial = run_torch(problem, torch.float64, disturbance)
        trial_errors = compare_results(spec, trial, truth, truth)
        peer_errors = [
            max(known, tried.error)
            for known, tried in zip(peer_errors, trial_errors, strict=True)
        ]
    decided = []
    for comparison, peer_error in zip(comparisons, peer_errors, strict=True):
        if not comparison.agrees:
            close = comparison.error_truth <= SLACK * peer_error
            comparison = dataclasses.replace(
                comparison,
                peer_error_truth=peer_error,
                agrees=close and math.isfinite(comparison.error_truth),
                ill_conditioned=close,
            )
        decided.append(comparison)
    return decided


def compare(problem: Problem, truth: Result, library: Any) -> list[Comparison]:
    """All comparisons of one draw; `truth` is PyTorch's float64 run."""
    ours = run_fastmlp(problem, library)
    theirs = truth
    if problem.spec.dtype == "float32":
        theirs = run_torch(problem, torch.float32)
    comparisons = compare_results(problem.spec, ours, theirs, truth)
    if not all(comparison.agrees for comparison in comparisons):
        comparisons = try_conditioning(problem, truth, comparisons)
    return comparisons


class Summary:
    """Worst errors by dtype and kind, failures, and coverage."""

    def __init__(self) -> None:
        self.worst: dict[tuple[str, str], tuple[Comparison, Spec]] = {}
        self.failures: list[tuple[Comparison, Spec]] = []
        self.ill_conditioned: list[tuple[Comparison, Spec]] = []
        self.covered: collections.Counter[str] = collections.Counter()
        self.draws = 0
        self.redrawn = 0

    def add(self, spec: Spec, comparisons: list[Comparison]) -> None:
        """Record one draw."""
        self.draws += 1
        self.redrawn += spec.attempt > 0
        self.covered.update([*spec.features, *spec.kinds])
        for comparison in comparisons:
            if not comparison.agrees:
                self.failures.append((comparison, spec))
            elif comparison.ill_conditioned:
                self.ill_conditioned.append((comparison, spec))
            else:
                key = spec.dtype, comparison.kind
                known = self.worst.get(key)
                if known is None or known[0].error < comparison.error:
                    self.worst[key] = comparison, spec

    @property
    def ill_conditioned_draws(self) -> int:
        """Number of ill-conditioned draws."""
        return len({spec.draw for _, spec in self.ill_conditioned})

    @property
    def ill_conditioned_limit(self) -> int:
        """Largest allowed number of them; at least one."""
        return max(1, int(MAX_ILL_CONDITIONED * self.draws))

    @property
    def passed(self) -> bool:
        """Whether nothing failed and few draws were ill-conditioned."""
        few = self.ill_conditioned_draws <= self.ill_conditioned_limit
        return few and not self.failures

    def lines(self) -> Iterator[str]:
        """Return the report."""
        yield (
            f"{'dtype':8} {'quantity':26} {'worst error':>12} {'tolerance':>10}"
            f" {'vs float64':>11} {'torch vs float64':>17}  draw, tensor"
        )
        for (dtype, kind), (worst, spec) in sorted(self.worst.items()):
            yield (
                f"{dtype:8} {kind:26} {worst.error:12.2e} {tolerance(spec, kind):10.0e}"
                f" {worst.error_truth:11.2e} {worst.peer_error_truth:17.2e}"
                f"  {spec.draw}, {worst.name}"
            )
        yield f"drawn again (kink, divergence, conditioning): {self.redrawn} draws"
        yield (
            f"ill-conditioned, judged by disturbed float64 runs: "
            f"{self.ill_conditioned_draws} draws "
            f"(allowed: {self.ill_conditioned_limit})"
        )
        for comparison, spec in self.ill_conditioned:
            yield (
                f"  draw {spec.draw} ({spec.dtype}), {comparison.kind}, "
                f"{comparison.name}: from float64: fastmlp "
                f"{comparison.error_truth:.2e}, torch {comparison.peer_error_truth:.2e}"
            )
        counts = ", ".join(f"{k} {n}" for k, n in sorted(self.covered.items()))
        yield f"draws that had: {counts}"
        for draw, failures in itertools.groupby(self.failures, lambda f: f[1].draw):
            comparisons = list(failures)
            yield f"FAILED draw {draw}: {comparisons[0][1]}"
            for comparison, _ in comparisons:
                yield (
                    f"  {comparison.kind}, {comparison.name}: relative error "
                    f"{comparison.error:.3e}; from float64: fastmlp "
                    f"{comparison.error_truth:.3e}, torch "
                    f"{comparison.peer_error_truth:.3e}"
                )
