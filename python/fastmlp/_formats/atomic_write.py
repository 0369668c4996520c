"""Atomic writing: a file is written completely or not changed at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO

from .. import _validate

if TYPE_CHECKING:
    from collections.abc import Callable


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

    # The temporary file is in the same folder because a rename is atomic only within
    # one file system.
    temporary = f"{target}.{os.urandom(8).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
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
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    _flush_folder(folder)


def _flush_folder(folder: str) -> None:
    """Flush a folder, if the system can, so that a rename in it survives a crash."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # the folder is writable but not readable
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
