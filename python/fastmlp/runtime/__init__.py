"""Threads, instruction sets, and what this build is.

Neither the number of threads nor the instruction set has any influence on results: they
are the same to the last bit.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any

from .. import _core, _validate

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

# What was asked for, then what each block under way asks for; the last one counts. The
# blocks of several Python threads may overlap, and end in any order.
_asked = [[0]]
# Fits that Python threads run side by side, and that are to share the cores.
_fits: list[object] = []
_asking = Lock()


def _limit() -> None:
    _core.set_num_threads(_asked[-1][0])
    if len(_fits) > 1:
        _core.set_num_threads(max(1, _core.get_num_threads() // len(_fits)))


def _forked() -> None:
    """Let a child not wait for threads that it does not have."""
    global _asking
    _asking = Lock()
    _fits.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def set_num_threads(n: int) -> None:
    """Limit the threads of each call to ``n`` ≥ 1; 0 goes back to choosing.

    It is a limit: small work is done by fewer threads, as that is faster. It holds for
    the whole process. By default OMP_NUM_THREADS, threadpoolctl, the CPU affinity and
    the quota of the control group decide, at each call.

    Parameters
    ----------
    n : int
        The most threads that a call may use, or 0.

    Raises
    ------
    TypeError, ValueError
        If n is no int, or negative.
    """
    n = _validate.count("n", n, 0)
    with _asking:
        _core.set_num_threads(n)
        _asked[-1][0] = n
        _limit()


def get_num_threads() -> int:
    """Return the number of threads a big enough call would use now."""
    return _core.get_num_threads()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """``with fm.threads(n):`` is `set_num_threads` for as long as the block runs.

    Of blocks of several Python threads the one that began last counts, for all of them;
    after the last of them all is as it was before.

    Parameters
    ----------
    n : int
        As of `set_num_threads`.

    Raises
    ------
    TypeError, ValueError
        If n is no int, or negative.
    """
    own = [_validate.count("n", n, 0)]
    with _asking:
        _core.set_num_threads(own[0])
        _asked.append(own)
        _limit()
    try:
        yield
    finally:
        with _asking:
            # By identity: others may ask for as many.
            del _asked[next(i for i, one in enumerate(_asked) if one is own)]
            _limit()


@contextmanager
def share_threads() -> Iterator[None]:
    """Share the threads with others that are in such a block; for the estimators."""
    own = object()
    with _asking:
        _fits.append(own)
        _limit()
    try:
        yield
    finally:
        with _asking:
            if own in _fits:  # but not in a child
                _fits.remove(own)
            _limit()


def isa() -> str:
    """Return the instruction set in use, such as "avx2".

    The best that the CPU has, or what the environment variable FASTMLP_ISA named when
    fastmlp was imported.
    """
    return _core.isa()


def available_isas() -> tuple[str, ...]:
    """Return the instruction sets that build and CPU have, the best one last."""
    return tuple(_core.available_isas())


@contextmanager
def use_isa(name: str) -> Iterator[None]:
    """``with fm.use_isa("avx2"):`` uses an instruction set in a block, process-wide.

    Parameters
    ----------
    name : str
        One of `available_isas`.

    Raises
    ------
    TypeError
        If the name is no str.
    ValueError
        If this build or this CPU lacks it.
    """
    name = _validate.choice("name", name, available_isas())
    before = _core.isa()
    _core.set_isa(name)
    try:
        yield
    finally:
        _core.set_isa(before)


def build_info() -> dict[str, Any]:
    """Return what this build is: version, compiler, flags, instruction sets."""
    return dict(_core.build_info())


def show_config() -> None:
    """Print what a bug report should say."""
    import platform

    import numpy as np

    rows: dict[str, object] = {"fastmlp": _core.__version__}
    rows["python"] = f"{platform.python_version()} on {platform.platform()}"
    rows["numpy"] = np.__version__
    rows |= {key: value for key, value in build_info().items() if key != "version"}
    rows["available isas"] = available_isas()
    rows["isa in use"] = isa()
    rows["threads"] = get_num_threads()
    for name, value in rows.items():
        if isinstance(value, (list, tuple)):
            value = " ".join(map(str, value))
        print(f"{name:<16}{value}")
