"""Compare randomly drawn networks with PyTorch autograd.

    python bench/torch_parity.py --draws 500 --seed 0

Every draw is a network (0 to 5 hidden dense layers, widths 1 to 130, any mixture of
activations, with and without biases; in three of four draws activations of their own,
dropouts, norms and nested residual blocks between them), a loss (any, mean or sum, with
and without sample weights, with random options), an optimiser with random options of
its own and of those that all share (clipping, L1, decay of weights alone, a moving
average), a learning rate or a schedule, a dtype, and three batches of 1 to 300 rows.
Compared are the output, the loss, the gradient of every parameter tensor and of the
input, all in training mode, every parameter tensor, its average and running statistic
after 50 optimiser steps that cycle through the three batches, so that gradients rise
and fall as they do in training, and the output in inference mode after them. PyTorch's
dropout takes its masks from the recipe in `fastmlp.reference`. What PyTorch has no
module for (pseudo-Huber, pinball and hinge loss, action values, L1) is written with its
operations; clipping, averages and schedules are its own. The parts are in `parity/`.

**Measure.** A tensor `a` agrees with `b` if ``norm(a - b) <= tolerance * norm(b) +
floor``. The floor, the square of the rounding unit times the norm of all tensors of the
kind together, only forgives tensors that mean zero: what is left of the decayed bias of
a dead unit, say.

**Criterion.** fastmlp must agree with PyTorch in the dtype of the draw. A few draws are
ill-conditioned: a relu whose unit changes sides during training, or a difference of
nearly equal numbers, turns a rounding error into a large one in any implementation.
When a tensor misses its tolerance, the draw is therefore put on trial: PyTorch repeats
it in float64 on the same rounded data `TRIALS` times, with parameters disturbed by one
rounding unit of the dtype before every step, and the results of layers and their
gradients likewise. If fastmlp's distance from the undisturbed
float64 run is within `SLACK` times the largest distance of the disturbed ones (and of
PyTorch in float32), the draw counts as ill-conditioned, otherwise as failed. The run
fails, too, if more than `MAX_ILL_CONDITIONED` of the draws (but at least one may be)
are ill-conditioned.

**Well-posed draws.** Initial weights are scaled so that signals neither vanish nor
explode (exp layers get small weights), and learning rates are small. A draw is drawn
again if its pre-activations or residuals touch a kink (relu, leaky_relu, selu, MAE,
Quantile, Hinge) within rounding distance (on either side of a kink the gradient is
another one, and neither answer is wrong), if PyTorch's own training diverges, as ascent
does, or if one disturbed run of PyTorch as above, by `CALM_UNITS` rounding units, moves
a tensor by its tolerance or more; in the last two cases with a lower learning rate.
fastmlp has no say in it. Normalised updates (Adagrad, RMSprop, Adam) turn rounding
noise in a vanishing gradient into a full step; half of those draws have an eps of 1e-5
to 1e-3, which also tells the places of eps apart, the others PyTorch's default. Batch
norm takes away the mean of a column and its scale, so the gradient of a bias right
before it, or before an exponential before it, is rounding noise around 0, which such
updates blow up; it is drawn where no bias reaches it so. Norms of a few rows or columns
leave little but signs; networks with norms are no narrower than 4 before the last layer
and batches for batch norm no shorter than 16. (tests/test_reference_layers.py compares
norms where a draw may not have them.) L1 is a kink, too, for weights that shrink to 0:
the few that rounding takes across it are left to the trials.
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
    """Compare all the draws."""
    summary = Summary()
    for draw in draws:
        problem, truth = draw_problem(seed, draw)
        summary.add(problem.spec, compare(problem, truth, library))
    return summary


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if everything agrees."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--first", type=int, default=0, help="index of the first draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--library",
        choices=["fastmlp", "fastmlp.reference"],
        default="fastmlp",
        help="what is compared with PyTorch (default: %(default)s)",
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
