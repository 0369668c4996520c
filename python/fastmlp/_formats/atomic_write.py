"""Atomic writing: a file is written completely or not changed at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from .. import _validate

try:
    import fcntl
except ImportError:  # there are no such locks on Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable

# Number of random bytes in the name of a temporary file.
_RANDOM = 8


def file_name(path: Any) -> str:
    """Return a path as a str."""
    try:
        name = os.fspath(path)
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise TypeError(
            f"path must be a str or os.PathLike, got {_validate.describe(path)}"
        )
    return name


def open_file(path: str, mode: Literal["rb", "xb"]) -> BinaryIO:
    """Open a file; raise MemoryError if memory is short."""
    try:
        return open(path, mode)
    except RuntimeError as error:  # Python's own error if there is none for a lock
        raise MemoryError(str(error)) from None


def replace_file(
    path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], object]
) -> None:
    """Write or replace a file atomically, so that not even a power cut damages it.

    Parameters
    ----------
    path
        Path of the file. An existing file keeps its permissions; if it is a symbolic
        link, the file to which the link points is replaced.
    data
        Content, or a function that writes the content to a binary file.

    Raises
    ------
    TypeError
        If ``path`` is not a str or path.
    ValueError
        If ``path`` exists and is not a regular file.
    OSError
        If the file cannot be written; an existing file then stays unchanged.

    Notes
    -----
    A process that is killed leaves its temporary file behind. The next call for the
    same path removes it. If the folder cannot be flushed to the disk, the new file is
    in place, but a power cut soon afterwards may bring back the previous one.
    """
    target = os.path.realpath(file_name(path))
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "path: the folder does not exist", folder)
    mode = None
    if os.path.lexists(target):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(
                errno.EISDIR, "path must be a file, got a folder", target
            )
        if not stat.S_ISREG(mode):
            raise ValueError(f"path must be a regular file, got {target}")

    _remove_stale(target)
    temporary, file = _temporary(target)
    try:
        if isinstance(data, bytes):
            file.write(data)
        else:
            data(file)
        file.flush()
        # Flush the content before the rename, so that a crash cannot leave an empty
        # file under the final name.
        os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        if fcntl is None:  # Windows does not rename open files
            file.close()
        os.replace(temporary, target)
    except BaseException:
        _close(file)  # first, because Windows does not remove open files
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    _close(file)
    _flush_folder(folder)


def _temporary(target: str) -> tuple[str, BinaryIO]:
    """Create a temporary file beside a file, locked as long as it is open.

    It is in the same folder because a rename is atomic only within one file system.
    """
    while True:
        temporary = f"{target}.{os.urandom(_RANDOM).hex()}.tmp"
        file = open_file(temporary, "xb")
        # Another process may have removed the file before it was locked.
        if _lock(file, wait=True) is not True or not _is_gone(temporary):
            return temporary, file
        _close(file)


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _close(file: BinaryIO) -> None:
    """Close a file; an error does not matter, because the content has been flushed."""
    with contextlib.suppress(OSError):
        file.close()


def _lock(file: BinaryIO, wait: bool) -> bool | None:
    """Lock a file; return whether this succeeded, or None if there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # the file system has no locks
        return None
    return True


def _remove_stale(target: str) -> None:
    """Remove temporary files of this target that killed processes have left behind.

    A living process has locked its file. Without locks, nothing is removed.
    """
    folder, name = os.path.split(target)
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            random = entry.removeprefix(f"{name}.").removesuffix(".tmp")
            if entry == f"{name}.{random}.tmp" and _is_random(random):
                with contextlib.suppress(OSError):
                    _remove_unless_locked(os.path.join(folder, entry))


def _is_random(text: str) -> bool:
    return len(text) == 2 * _RANDOM and set(text) <= set("0123456789abcdef")


def _remove_unless_locked(path: str) -> None:
    if stat.S_ISREG(os.lstat(path).st_mode):
        with open(path, "r+b") as file:
            if _lock(file, wait=False):
                os.remove(path)


def _flush_folder(folder: str) -> None:
    """Flush a folder, if the system can, so that a rename in it survives a crash.

    Errors are ignored, because the new file is already in its place.
    """
    if not hasattr(os, "O_DIRECTORY"):
        return
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
