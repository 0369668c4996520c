"""Time products in bfloat16 against float32 and against PyTorch's autocast.

    python bench/bfloat16.py
    python bench/bfloat16.py --isa avx2     as on a CPU without AVX512_BF16

All four rivals are timed in turns, in processes of their own, as in peers.py. The last
two columns are the times of fastmlp in float32 and of torch.autocast over that of
fastmlp in bfloat16.
"""

from __future__ import annotations

import argparse
import os

import machine
from rivals.arena import end_cleanly_when_terminated, race, start_all
from rivals.tasks import WORKLOADS, all_tasks

OURS = "fastmlp-bfloat16"
NAMES = (OURS, "fastmlp", "torch-autocast", "torch")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS)
    )
    parser.add_argument(
        "--modes", nargs="+", choices=("train", "infer"), default=["train", "infer"]
    )
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.3, help="of a burst")
    parser.add_argument("--isa", help="instruction set of fastmlp")
    options = parser.parse_args()
    end_cleanly_when_terminated()
    if options.isa:
        os.environ["FASTMLP_ISA"] = options.isa
    found = machine.describe()
    machine.announce(found)
    print(f"instruction set of fastmlp: {options.isa or 'the best one'}")
    for threads in options.threads:
        print(f"\n{threads} thread{'s' if threads > 1 else ''}, microseconds per call")
        columns = "".join(f"{name:>18}" for name in NAMES)
        print(f"{'':16}{columns}{'float32':>9}{'autocast':>9}", flush=True)
        for task in all_tasks(options.workloads, options.modes, "float32"):
            processes = start_all(NAMES, task, threads, found["cpus"])
            try:
                race(processes, task, options.rounds, options.seconds)
            finally:
                for process in processes:
                    process.close()
            seconds = {p.name: p.seconds for p in processes if p.timed}
            cells = "".join(
                f"{1e6 * seconds[name]:18.1f}" if name in seconds else f"{'-':>18}"
                for name in NAMES
            )
            ratios = "".join(
                f"{seconds[name] / seconds[OURS]:8.2f}x"
                if {name, OURS} <= seconds.keys()
                else f"{'-':>9}"
                for name in ("fastmlp", "torch-autocast")
            )
            print(f"{task.label:16}{cells}{ratios}", flush=True)
            for process in processes:
                if process.verdict:
                    print(f"  {process.name}: {process.verdict}")


if __name__ == "__main__":
    main()
