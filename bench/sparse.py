"""Sparse text against scikit-learn: time and memory of fits, time of predictions.

``python bench/sparse.py`` takes 400 rows of 2^20 columns with 100 entries each, as a
hashing vectoriser makes them. Each library runs in processes of its own, in turn.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median

import numpy as np

ROWS, ENTRIES, HIDDEN, EPOCHS = 400, 100, 4, 5
LIBRARIES = {
    "scikit-learn": "sklearn.neural_network",
    "fastmlp": "fastmlp.sklearn",
}


def measure(library: str, log2_columns: int) -> dict[str, float]:
    """Fit and predict in this process."""
    import scipy.sparse

    module = __import__(LIBRARIES[library], fromlist=["MLPClassifier"])
    rng, columns = np.random.default_rng(0), 2**log2_columns
    places = np.sort(rng.integers(0, columns, (ROWS, ENTRIES)), axis=1)
    starts = np.arange(0, ROWS * ENTRIES + 1, ENTRIES)
    numbers = rng.random(ROWS * ENTRIES).astype(np.float32)
    x = scipy.sparse.csr_matrix((numbers, places.ravel(), starts), (ROWS, columns))
    x.sum_duplicates()
    y = rng.integers(0, 2, ROWS)
    settings = {"hidden_layer_sizes": (HIDDEN,), "max_iter": EPOCHS, "random_state": 0}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    model = module.MLPClassifier(**settings).fit(x, y)
    fitted = time.perf_counter()
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        model.predict(x)
        times.append(time.perf_counter() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "fit": fitted - start,
        "predict": median(times),
        "memory": (peak - before) / 1024,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--log2-columns", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--library", choices=LIBRARIES)
    options = parser.parse_args()
    if options.library:
        print(json.dumps(measure(options.library, options.log2_columns)))
        return 0
    results: dict[str, list[dict[str, float]]] = {name: [] for name in LIBRARIES}
    for _ in range(options.rounds):
        for name, found in results.items():
            command = [sys.executable, "-W", "ignore", __file__, "--library", name]
            command += ["--log2-columns", str(options.log2_columns)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            found.append(json.loads(done.stdout))
    print(f"{'':14}{'fit, s':>10}{'predict, ms':>14}{'memory, MB':>14}")
    for name, found in results.items():
        fit, predict, memory = (
            median(run[key] for run in found) for key in ("fit", "predict", "memory")
        )
        print(f"{name:14}{fit:10.3f}{1e3 * predict:14.2f}{memory:14.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
