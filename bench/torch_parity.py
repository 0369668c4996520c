"""Compare randomly drawn networks with PyTorch autograd.

    python bench/torch_parity.py --draws 500 --seed 0

Every draw is a network (0 to 5 hidden dense layers, widths 1 to 130, any mixture of
activations, with and without biases; in three of four draws with custom activations,
dropouts, norms and nested residual blocks between them), a loss (any, mean or sum, with
and without sample weights, with random options), an optimiser with random options of
its own and of the shared ones (clipping, L1, decay of weights only, a moving average),
a learning rate or a schedule, a dtype, and three batches of 1 to 300 rows. In training
mode, the output, the loss and the gradients of every parameter tensor and of the input
are compared. After 50 optimiser steps that cycle through the three batches (so that
gradients rise and fall as in training), every parameter tensor, its average, the
running statistics and the output in inference mode are compared. PyTorch's dropout uses
masks made by the recipe in `fastmlp.reference`. Pseudo-Huber, pinball and hinge loss,
action values and L1, which PyTorch does not have as modules, are written with its
operations; clipping, averages and schedules are PyTorch's. The parts are in `parity/`.

**Measure.** A tensor `a` agrees with `b` if ``norm(a - b) <= tolerance * norm(b) +
floor``. The floor is the square of the rounding unit times the norm of all tensors of
that kind; it only forgives tensors that are zero up to rounding, such as the decayed
bias of a dead unit.

**Criterion.** fastmlp must agree with PyTorch in the dtype of the draw. A few draws are
ill-conditioned: a relu whose unit changes sides during training, or a difference of
nearly equal numbers, turns a rounding error into a large one in any implementation.
When a tensor misses its tolerance, PyTorch therefore repeats the draw in float64 on the
same rounded data `TRIALS` times, with parameters disturbed by one rounding unit of the
dtype before every step, and the results of layers and their gradients likewise. If
fastmlp's distance from the undisturbed float64 run is within `SLACK` times the largest
distance of the disturbed runs (and of PyTorch in float32), the draw counts as
ill-conditioned, otherwise as failed. The run also fails if more than
`MAX_ILL_CONDITIONED` of the draws are ill-conditioned; one is always allowed.

**Well-posed draws.** Initial weights are scaled so that signals neither vanish nor
explode (exp layers get small weights), and learning rates are small. A draw is rejected
and redrawn if its pre-activations or residuals are within rounding distance of a kink
(relu, leaky_relu, selu, MAE, Quantile, Hinge), where the gradient differs between the
two sides and neither is wrong; if PyTorch's own training diverges, as ascent does; or
if one run of PyTorch disturbed by `CALM_UNITS` rounding units moves a tensor by its
tolerance or more. In the last two cases the next attempt has a lower learning rate.
fastmlp's results do not affect the choice. Normalised updates (Adagrad, RMSprop, Adam)
turn rounding noise in a vanishing gradient into a full step; half of those draws have
an eps of 1e-5 to 1e-3, which also distinguishes the positions of eps; the others have
PyTorch's default. Batch norm removes the mean and the scale of a column, so the
gradient of a bias right before it, or before an exponential that precedes it, is
rounding noise around 0, which such updates amplify; batch norm is drawn only where no
such bias reaches it. Norms of a few rows or columns leave little more than signs:
networks with norms have at least 4 columns before the last layer, and batches for batch
norm at least 16 rows. (The tests of the reference compare norms in the remaining
cases.) L1 also has a kink, at weights that shrink to 0: the few that rounding moves
across it are left to the trials.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from typing import Any

import torch
from parity.judge import Summary, compare
from parity.well_posed import draw_problem


def run(draws: range, seed: int, library: Any) -> Summary:
    """Compare all draws."""
    summary = Summary()
    for draw in draws:
        problem, truth = draw_problem(seed, draw)
        summary.add(problem.spec, compare(problem, truth, library))
    return summary


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0 if everything agrees."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="index of the first draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--library",
        choices=["fastmlp", "fastmlp.reference"],
        default="fastmlp",
        help="library to compare with PyTorch (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    library = importlib.import_module(options.library)
    torch.set_num_threads(1)  # the networks are small
    draws = range(options.first, options.first + options.draws)
    start = time.perf_counter()
    summary = run(draws, options.seed, library)
    seconds = time.perf_counter() - start
    print(
        f"{options.library} against PyTorch {torch.__version__}: {len(draws)} draws "
        f"from {options.first}, seed {options.seed}, {seconds:.0f} s"
    )
    print("\n".join(summary.lines()))
    print("PASSED" if summary.passed else "FAILED")
    return 0 if summary.passed else 1


if __name__ == "__main__":
    sys.exit(main())
