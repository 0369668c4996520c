"""Threads, instruction sets and build information.

Results depend neither on the number of threads nor on the instruction set: they are the
same to the last bit.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from .. import _core, _validate
from .._validate.hints import hinted

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "available_isas",
    "build_info",
    "get_num_threads",
    "isa",
    "set_num_threads",
    "show_config",
    "threads",
    "use_isa",
]

# The limit set by set_num_threads, followed by the limits of the active `threads`
# blocks; the last limit applies. The blocks of several Python threads may overlap, and
# end in any order.
_asked = [[0]]
# A token for each fit that shares the cores with fits in other Python threads.
_fits: list[object] = []
_asking = Lock()

# The core counts threads in a C int.
_MOST_THREADS = 2**31 - 1


def _limit() -> None:
    _core.set_num_threads(_asked[-1][0])
    if len(_fits) > 1:
        _core.set_num_threads(max(1, _core.get_num_threads() // len(_fits)))


def _forked() -> None:
    """In a forked child, replace the lock and clear the list of fits.

    The threads that held the lock or ran the fits do not exist in the child.
    """
    global _asking
    _asking = Lock()
    _fits.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@hinted
def set_num_threads(n: int) -> None:
    """Limit the number of threads of each call in this process.

    ``n`` is only an upper limit: small tasks use fewer threads because that is faster.
    By default, the limit is the smallest of OpenMP's current limit (set by
    OMP_NUM_THREADS or threadpoolctl), the number of CPUs in the process's affinity
    mask, and the CPU quota of its control group.

    Parameters
    ----------
    n : int
        Largest number of threads that a call may use; 0 restores the default.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an int from 0 to 2³¹ - 1.
    """
    n = _validate.count("n", n, 0, _MOST_THREADS)
    with _asking:
        _core.set_num_threads(n)
        _asked[-1][0] = n
        _limit()


def get_num_threads() -> int:
    """Return the number of threads that a large enough call would use now."""
    return _core.get_num_threads()


@contextmanager
@hinted
def threads(n: int) -> Iterator[None]:
    """``with fm.threads(n):`` limits the number of threads for the block's duration.

    The limit applies to the whole process: if several Python threads are inside such
    blocks, the limit of the block entered last applies to all of them. When all blocks
    have ended, the previous limit applies again.

    Parameters
    ----------
    n : int
        Largest number of threads, as for `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an int from 0 to 2³¹ - 1.
    """
    own = [_validate.count("n", n, 0, _MOST_THREADS)]
    with _asking:
        _core.set_num_threads(own[0])
        _asked.append(own)
        _limit()
    try:
        yield
    finally:
        with _asking:
            # Find the block's entry by identity, because other blocks may have the same
            # limit.
            del _asked[next(i for i, one in enumerate(_asked) if one is own)]
            _limit()


@contextmanager
def share_threads() -> Iterator[None]:
    """Divide the limit of threads equally among all fits that use this context."""
    own = object()
    with _asking:
        _fits.append(own)
        _limit()
    try:
        yield
    finally:
        with _asking:
            if own in _fits:  # a forked child has cleared the list
                _fits.remove(own)
            _limit()


def isa() -> str:
    """Return the instruction set in use, such as "avx2".

    Outside `use_isa` blocks, this is the best available one, or the one that the
    environment variable FASTMLP_ISA named when fastmlp was imported.
    """
    return _core.isa()


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that both build and CPU support, the best last."""
    return tuple(_core.available_isas())


@contextmanager
@hinted
def use_isa(name: str) -> Iterator[None]:
    """``with fm.use_isa("avx2"):`` uses an instruction set for the block's duration.

    The choice applies to the whole process.

    Parameters
    ----------
    name : str
        Name of the instruction set, one of `available_isas`.

    Raises
    ------
    TypeError
        If ``name`` is not a str.
    ValueError
        If the build or the CPU does not have the instruction set.
    """
    name = _validate.choice("name", name, available_isas())
    before = _core.isa()
    _core.set_isa(name)
    try:
        yield
    finally:
        _core.set_isa(before)


def build_info() -> dict[str, Any]:
    """Return the build's version, compiler, flags and instruction sets."""
    return dict(_core.build_info())


def _cache_text(cache: tuple[int, int, int]) -> str:
    size, ways, cpus = cache
    if size == 0:
        return "none"
    shared = f", shared by {cpus} CPUs" if cpus > 1 else ""
    return f"{size // 1024} KiB, {ways} ways{shared}"


# How the instruction sets compute products with ``compute_dtype="bfloat16"``.
_BFLOAT16 = {
    "avx512_bf16": "by AVX512_BF16 instructions",
    "amx": "by AMX instructions",
}


def show_config() -> None:
    """Print the configuration, for bug reports.

    The sizes of the data caches determine how work is divided into blocks, never the
    results. The environment variables FASTMLP_L1D, FASTMLP_L2 and FASTMLP_L3 replace
    the detected caches when fastmlp is imported. A variable holds a size such as
    ``48K`` or ``2M``, optionally followed by the number of ways and the number of CPUs
    that share the cache, such as ``2M/16/2``; ``0`` means that there is no such cache
    (not allowed for level 1).
    FASTMLP_NEAR_L3 (``0`` or ``1``) tells whether the level-3 cache is nearly as fast
    as level 2; this is assumed of AMD's CPUs only.
    """
    import platform

    import numpy as np

    rows: dict[str, object] = {"fastmlp": _core.__version__}
    rows["python"] = f"{platform.python_version()} on {platform.platform()}"
    rows["numpy"] = np.__version__
    rows |= {key: value for key, value in build_info().items() if key != "version"}
    rows["available isas"] = available_isas()
    rows["isa in use"] = isa()
    rows["bfloat16"] = _BFLOAT16.get(isa(), "by float32 instructions")
    rows["threads"] = get_num_threads()
    caches = _core.caches()
    rows["l1d cache"] = _cache_text(caches["l1d"])
    rows["l2 cache"] = _cache_text(caches["l2"])
    near = ", near" if caches["l3_is_near"] else ""
    rows["l3 cache"] = _cache_text(caches["l3"]) + near
    for name, value in rows.items():
        if isinstance(value, (list, tuple)):
            value = " ".join(map(str, value))
        print(f"{name:<16}{value}")
