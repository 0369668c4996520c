"""Damaged files at random: any answer other than a model or a named error is a fault.

    python tests/interop/fuzz_files.py --files 1000000
    python tests/interop/fuzz_files.py --guided --seconds 3600 [--corpus folder]

The first changes files that fastmlp wrote, at random. The second is guided by coverage
and needs the package ``atheris``. Both change bytes, values in the JSON texts, and
entries of the header; most files then get their right hash again, so that they are
read to their end. A file may take 1 s of CPU time and 100 MB of memory at most.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MOST_SECONDS, MOST_BYTES = 1.0, 100_000_000

SPECIAL: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 255, 2**31, 2**32 - 1, 2**53 + 1, 2**63),
    *(-(2**63), 2**64, 10**30, 0.0, -0.0, 0.5, 1e-320, 1e308, -1e308),
    *("", "0", "a" * 99, "relu", "softmax", "F32", "F64", "I64", "BOOL", "float64"),
    *("\u0000", "\ud7ff", [], {}, [[]], [0], [-1, 2]),
    *({"kind": "Dense"}, {"kind": "Residual", "layers": []}),
)


def places(tree: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the keys that lead to each value inside a JSON value."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        yield (*at, key)
        if isinstance(value, dict | list):
            yield from places(value, (*at, key))


def changed_tree(tree: Any, rng: random.Random) -> Any:
    """Return a JSON value with one change."""
    tree = copy.deepcopy(tree)
    found = list(places(tree)) if isinstance(tree, dict | list) else []
    if not found:
        return rng.choice(SPECIAL)
    *path, key = rng.choice(found)
    parent = tree
    for step in path:
        parent = parent[step]
    other = tree
    for step in rng.choice(found):
        other = other[step]
    how = rng.randrange(7)
    if how == 0:
        del parent[key]
    elif how == 1:
        parent[key] = rng.choice(SPECIAL)
    elif how == 2:
        parent[key] = copy.deepcopy(other)
    elif how == 3 and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(other))
    elif how == 4 and isinstance(parent, dict):
        parent[rng.choice(["x", "0.weight", "kind", "seed", ""])] = parent[key]
    elif isinstance(parent[key], bool | int | float):
        parent[key] += rng.choice([1, -1, 0.5, 2**31, -(2**63)])
    elif isinstance(parent[key], str):
        text = parent[key]
        cut = rng.randrange(len(text) + 1)
        parent[key] = (
            text[:cut] + rng.choice(["", "\u00e9", "[", text]) + text[cut + 1 :]
        )
    else:
        parent[key] = rng.choice(SPECIAL)
    return tree


def changed_bytes(content: bytes, rng: random.Random) -> bytes:
    """Return bytes with one change."""
    at = rng.randrange(len(content) + 1)
    how = rng.randrange(5)
    if how == 0:
        return content[:at]
    if how == 1:
        return content[:at] + rng.randbytes(rng.randrange(1, 9)) + content[at:]
    if how == 2:
        return content[:at] + content[at + rng.randrange(1, 9) :]
    if how == 3:
        return rng.randbytes(8) + content[8:]
    return content[:at] + rng.randbytes(1) + content[at + 1 :]


def changed(content: bytes, rng: random.Random) -> bytes:
    """Return a file with a few changes, most of them with a hash that is right."""
    from test_damaged_files import hashed, joined, split

    if rng.random() < 0.2:
        return changed_bytes(content, rng)
    try:
        header, body = split(content)
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            texts = header.get("__metadata__")
            inside = [k for k, v in (texts or {}).items() if k != "sha256" and v]
            how = rng.random()
            if how < 0.6 and inside:
                key = rng.choice(inside)
                texts[key] = json.dumps(changed_tree(json.loads(texts[key]), rng))
            elif how < 0.8:
                header = changed_tree(header, rng)
            elif body:
                body = changed_bytes(body, rng)
        if rng.random() < 0.9:
            header = hashed(header, body)
        return joined(header, body)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        return changed_bytes(content, rng)  # it is damaged already


def seeds(folder: Path) -> list[bytes]:
    """Return files of models and checkpoints with layers and options of all kinds."""
    import fastmlp as fm
    from file_cases import parts_of_a_training, run, trained

    path = folder / "seed.safetensors"
    found = []
    inner = [fm.RMSNorm(), fm.Dense(4, "gelu"), fm.Dropout(0.1), 5]
    for mlp in (
        trained([3, 2]),
        trained([3, 5, 2], activation="silu", output_activation="softmax"),
        trained(
            [3, fm.LayerNorm(), 5, fm.BatchNorm(), fm.Residual(inner), 2], "float64"
        ),
    ):
        mlp.save(path)
        found.append(path.read_bytes())
    mlp, opt, stop = parts_of_a_training()
    run(mlp, opt, stop, fm.Checkpoint(path, every_steps=2), 2)
    found.append(path.read_bytes())
    mlp = fm.MLP([3, 4, 2], seed=1)
    run(mlp, fm.SGD(0.1, momentum=0.9), fm.EarlyStopping(), fm.Checkpoint(path), 1)
    found.append(path.read_bytes())
    return found


class Reader:
    """Reads files as a model and as a checkpoint, and measures what that takes."""

    def __init__(self, folder: Path) -> None:
        from file_cases import parts_of_a_training

        self.path = folder / "file.safetensors"
        self.parts = parts_of_a_training
        self.loaded = 0
        self.worst_seconds, self.worst_bytes = 0.0, 0

    def __call__(self, content: bytes) -> None:
        """Raise an error if the file breaks a promise."""
        self.path.write_bytes(content)
        before, start = resident(reset=True), time.process_time()
        self._read()
        seconds, size = time.process_time() - start, resident() - before
        self.worst_seconds = max(self.worst_seconds, seconds)
        self.worst_bytes = max(self.worst_bytes, size)
        if seconds > MOST_SECONDS or size > MOST_BYTES:
            raise RuntimeError(f"the file took {seconds:.2f} s and {size:,} bytes")

    def _read(self) -> None:
        import fastmlp as fm
        import numpy as np

        mlp = self._allowed(lambda: fm.load(self.path))
        if mlp is not None:
            self.loaded += 1
            if mlp.n_in * mlp.n_params < 10**6:
                mlp(np.zeros((2, mlp.n_in), mlp.dtype))
        mlp, opt, stop = self.parts()
        params, hooks = mlp.params.copy(), [stop, fm.Checkpoint(self.path)]
        load = fm.Checkpoint.load
        if self._allowed(lambda: load(self.path, mlp, opt, hooks)) is None:
            assert np.array_equal(mlp.params, params), "a failed load changed the model"

    @staticmethod
    def _allowed(call: Callable[[], Any]) -> Any:
        """Return the result of a call, or None if it raises an allowed error."""
        try:
            return call()
        except (ValueError, TypeError) as error:
            if not str(error):
                raise RuntimeError("an error does not have a message") from error
            return None


def resident(*, reset: bool = False) -> int:
    """Return the most memory in use since the last reset, where Linux tells it."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def at_random(folder: Path, files: int, seconds: float, seed: int) -> Reader:
    """Read changed files until there were enough of them or the time is over."""
    rng, reader, known = random.Random(seed), Reader(folder), seeds(folder)
    for content in known:
        reader(content)
    end = time.monotonic() + seconds
    for done in range(files):
        content = rng.choice(known)
        for _ in range(rng.choice([1, 1, 2])):
            content = changed(content, rng)
        try:
            reader(content)
        except BaseException:
            kept = Path(f"fault-{seed}-{done}.safetensors")
            kept.write_bytes(content)
            print(f"the file is kept in {kept}", file=sys.stderr)
            raise
        if done % 1000 == 0 and time.monotonic() > end:
            break
    print(
        f"{done + 1:,} files, {reader.loaded:,} of them valid models; at most "
        f"{reader.worst_seconds:.3f} s and {reader.worst_bytes / 1e6:.1f} MB each"
    )
    return reader


def guided(folder: Path, corpus: Path, seconds: int) -> None:
    """Let libFuzzer choose the changes that reach new branches of the package."""
    import atheris

    with atheris.instrument_imports(include=["fastmlp"]):
        import fastmlp as fm

    assert fm.load
    for i, content in enumerate(seeds(folder)):
        (corpus / f"seed-{i}").write_bytes(content)

    def mutate(data: bytes, limit: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.2:
            return atheris.Mutate(data, limit)
        return changed(bytes(data), rng)[:limit]

    options = [f"-max_total_time={seconds}", "-max_len=20000", "-rss_limit_mb=2000"]
    atheris.Setup(
        [sys.argv[0], str(corpus), "-timeout=60", "-print_final_stats=1", *options],
        Reader(folder),
        custom_mutator=mutate,
    )
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=10**9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--corpus", type=Path, help="kept from one run to the next")
    options = parser.parse_args()
    sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.guided:
            corpus = options.corpus or folder / "corpus"
            corpus.mkdir(parents=True, exist_ok=True)
            guided(folder, corpus, options.seconds)
        else:
            at_random(folder, options.files, options.seconds, options.seed)


if __name__ == "__main__":
    main()
