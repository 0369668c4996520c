"""What training changes, as plain values and arrays, and files of it."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from . import _steps, _validate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._validate import Array
    from .mlp import MLP
    from .optimizers import Optimizer
    from .solvers import Solver


def model_state(mlp: MLP, optimizer: Optimizer | Solver | None) -> dict[str, Any]:
    """Return copies of all that training changes."""
    return {
        "params": mlp.params.copy(),
        "buffers": mlp.buffers.copy(),
        "training_state": tuple(mlp._net.training_state),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
    }


def restore(
    state: Mapping[str, Any], mlp: MLP, optimizer: Optimizer | Solver | None = None
) -> None:
    """Take back what `model_state` gave."""
    mlp.params[:] = state["params"]
    mlp.buffers[:] = state["buffers"]
    mlp._net.training_state = state["training_state"]
    if optimizer is not None and state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])


def architecture(mlp: MLP) -> list[str]:
    """Say what a model computes, whatever way its layers were written."""
    return [
        f"{step.name} {step.kind} {step.activation} {step.n_in} {step.n_out}"
        for step in _steps.steps(mlp)
        if step.kind != "dropout"
    ]


# Files --------------------------------------------------------------------------------

FORMAT = "fastmlp checkpoint 1"

# Schedules are stored by their fields.
_SCHEDULES = f"{__package__}.schedules"


def file_name(path: object) -> str:
    """Return a path as a str."""
    try:
        name = os.fspath(path)  # type: ignore[call-overload]
    except TypeError:
        name = None
    if not isinstance(name, str):
        raise TypeError(f"path must be a str or path, got {_validate.describe(path)}")
    return name


def replace_file(
    path: str | os.PathLike[str], data: bytes | Callable[[BinaryIO], object]
) -> None:
    """Write a file, or replace it, in one step that also a power cut leaves whole.

    Parameters
    ----------
    path
        The file; one that is there keeps its permissions, a link stays a link.
    data
        What it is to hold, or a function that writes this to a binary file.

    Raises
    ------
    TypeError
        If ``path`` is no str or path.
    ValueError
        If it is there and is no file.
    OSError
        If it cannot be written; what was there is there as before.
    """
    target = os.path.realpath(file_name(path))
    mode = None
    if os.path.lexists(target):
        mode = os.stat(target).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(
                errno.EISDIR, "path must be a file, got a folder", target
            )
        if not stat.S_ISREG(mode):
            raise ValueError(f"path must be a file, got {target}, which is none")

    # Beside it, as a file moves in one step within its folder only.
    temporary = f"{target}.{os.urandom(8).hex()}.tmp"
    try:
        with open(temporary, "xb") as file:
            if isinstance(data, bytes):
                file.write(data)
            else:
                data(file)
            file.flush()
            # The content before the name: else a crash could leave the name alone.
            os.fsync(file.fileno())
        if mode is not None:
            os.chmod(temporary, stat.S_IMODE(mode))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise
    _flush_folder(os.path.dirname(target))


def _flush_folder(folder: str) -> None:
    """Make a new name in a folder last, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return  # a folder that may be written to but not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def write(path: str, state: dict[str, Any]) -> None:
    """Replace a file by one that holds the state, in one step."""
    import json

    arrays: dict[str, Any] = {}
    arrays["state"] = np.array(json.dumps(_packed(state, arrays)))
    replace_file(path, lambda file: np.savez(file, **arrays))


def _packed(value: Any, arrays: dict[str, Array]) -> Any:
    """Return what JSON holds, with arrays put aside and what is neither marked."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"a state's keys must be str, got {list(value)}")
        return {"dict": {key: _packed(item, arrays) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(item, arrays) for item in value]}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        name = f"array{len(arrays)}"
        arrays[name] = value
        return {"array": name}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value).__module__ == _SCHEDULES:
        return {"schedule": [type(value).__name__, _packed(vars(value), arrays)]}
    return {"kept": repr(value)}


def _unpacked(value: Any, arrays: Mapping[str, Array], given: Any) -> Any:
    """Return what `_packed` was given; what was marked is found in ``given``."""
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    if kind == "array":
        return arrays[inside]
    if kind == "kept":
        return given
    if kind == "schedule":
        if given is None:
            return None
        name, fields = inside
        if (type(given).__module__, type(given).__name__) != (_SCHEDULES, name):
            raise ValueError(f"the schedule is a {name}, the optimiser has {given!r}")
        schedule = copy.copy(given)
        vars(schedule).update(_unpacked(fields, arrays, vars(given)))
        return schedule
    if kind == "dict":
        get = given.get if isinstance(given, dict) else lambda key: None
        return {k: _unpacked(item, arrays, get(k)) for k, item in inside.items()}
    others = given if isinstance(given, (list, tuple)) else ()
    items = [
        _unpacked(item, arrays, others[i] if i < len(others) else None)
        for i, item in enumerate(inside)
    ]
    return items if kind == "list" else tuple(items)


def read(path: str, given: Any) -> dict[str, Any]:
    """Return the state that a file holds; ``given`` has what is not stored itself."""
    import json

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        state = _unpacked(json.loads(str(arrays["state"])), arrays, given)
        if state["format"] != FORMAT:
            raise ValueError(state["format"])
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"path: {path} is no checkpoint that this version reads: "
            f"{type(error).__name__} {error}"
        ) from None
    return dict(state)
