"""What training changes, as plain values and arrays, and files of it."""

from __future__ import annotations

import contextlib
import copy
import errno
import math
import os
import stat
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .. import _validate
from .._network import ops, resolve
from .._network.model import EpochSequence
from ..initializers import INITIALIZERS
from ..layers import (
    LAYERS,
    Activation,
    Layer,
    Residual,
    activation_name,
    checked,
)
from ..metrics import History
from . import safetensors

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import TypeGuard

    from .._validate import Array
    from ..mlp import MLP
    from ..optimizers import Optimizer
    from ..schedules import Schedule
    from ..solvers import Solver


def model_state(mlp: MLP, optimizer: Optimizer | Solver | None) -> dict[str, Any]:
    """Return copies of all that training changes."""
    return {
        "params": mlp.params.copy(),
        "buffers": mlp.buffers.copy(),
        "training_state": tuple(mlp.core.training_state),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
    }


def restore(
    state: Mapping[str, Any], mlp: MLP, optimizer: Optimizer | Solver | None = None
) -> None:
    """Take back what `model_state` gave."""
    mlp.params[:] = state["params"]
    mlp.buffers[:] = state["buffers"]
    mlp.core.training_state = state["training_state"]
    if optimizer is not None and state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])


def architecture(mlp: MLP) -> list[str]:
    """Say what a model computes, whatever way its layers were written."""
    return [
        f"{step.name} {step.kind} {step.activation} {step.n_in} {step.n_out}"
        for step in ops.steps(mlp)
        if step.kind != "dropout"
    ]


# Files --------------------------------------------------------------------------------


def file_name(path: Any) -> str:
    """Return a path as a str."""
    try:
        name = os.fspath(path)
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
    folder = os.path.dirname(target)
    if not os.path.isdir(folder):
        raise FileNotFoundError(errno.ENOENT, "path: there is no such folder", folder)
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
    _flush_folder(folder)


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


# States as JSON and arrays ------------------------------------------------------------

# Schedules are stored by their fields.
_SCHEDULES = "fastmlp.schedules"
# What JSON has no numbers for.
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Kinds of dtypes that are stored as their bytes, where the file has no such dtype.
_AS_BYTES = "biufcmMSU"


def packed(value: Any, arrays: dict[str, Array], where: str) -> Any:
    """Return what JSON holds; arrays are put aside, by names that begin with ``where``.

    What is neither is marked.
    """
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"a state's keys must be str, got {list(value)}")
        return {
            "dict": {
                key: packed(item, arrays, f"{where}.{key}")
                for key, item in value.items()
            }
        }
    if isinstance(value, (list, tuple)):
        items = [packed(item, arrays, f"{where}.{i}") for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return _put_aside(value, arrays, where)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": str(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if type(value).__module__ == _SCHEDULES:
        values = packed(dict(vars(value)), arrays, where)
        return {"schedule": {"kind": type(value).__name__, "fields": values}}
    return {"kept": repr(value)}


def _put_aside(array: Array, arrays: dict[str, Array], where: str) -> dict[str, Any]:
    name = "".join(c if c.isascii() and c.isprintable() else "_" for c in where)
    while name in arrays:
        name += "_"
    if array.dtype in safetensors.DTYPES.values():
        arrays[name] = array
        return {"array": name}
    if array.dtype.kind not in _AS_BYTES:
        raise TypeError(
            f"{where}: arrays in states must be of a plain dtype, got "
            f"{_validate.describe(array)}"
        )
    arrays[name] = np.frombuffer(array.tobytes(), np.uint8)
    entry = {"array": name, "dtype": array.dtype.str, "shape": list(array.shape)}
    return {"bytes": entry}


class Unpacker:
    """Makes states of what `packed` gave, each of the arrays once."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self.used: set[str] = set()

    def __call__(self, value: Any, given: Any, where: str) -> Any:
        """Return a state; what was marked as kept is found in ``given``."""
        if isinstance(value, list):
            return self._items(value, given, where)
        if not isinstance(value, dict):
            return value
        if len(value) != 1:
            raise ValueError(f"{where} must have one mark, got {', '.join(value)}")
        ((kind, inside),) = value.items()
        if kind == "kept" and isinstance(inside, str):
            return given
        if kind == "number" and isinstance(inside, str) and inside in _NUMBERS:
            return _NUMBERS[inside]
        if kind == "array":
            return self._array(inside, where).copy()
        if kind == "bytes":
            return self._from_bytes(inside, where)
        if kind == "tuple" and isinstance(inside, list):
            return tuple(self._items(inside, given, where))
        if kind == "dict" and isinstance(inside, dict):
            get = given.get if isinstance(given, dict) else lambda key: None
            return {k: self(v, get(k), f"{where}.{k}") for k, v in inside.items()}
        if kind == "schedule":
            return self._schedule(inside, given, where)
        raise ValueError(f"{where} is marked as {kind!r}, which means nothing here")

    def _items(self, items: list[Any], given: Any, where: str) -> list[Any]:
        others = given if isinstance(given, (list, tuple)) else ()
        return [
            self(item, others[i] if i < len(others) else None, f"{where}.{i}")
            for i, item in enumerate(items)
        ]

    def _array(self, name: object, where: str) -> Array:
        if not isinstance(name, str) or name not in self._arrays:
            raise ValueError(f"{where}: there is no array {name!r}")
        if name in self.used:
            raise ValueError(f"{where}: the array {name!r} is of something else")
        self.used.add(name)
        return self._arrays[name]

    def _from_bytes(self, entry: Any, where: str) -> Array:
        fields(where, entry, ("array", "dtype", "shape"))
        data = self._array(entry["array"], where)
        try:
            dtype = np.dtype(entry["dtype"])
        except TypeError:
            dtype = np.dtype(np.void)
        if dtype.kind not in _AS_BYTES or dtype.str != entry["dtype"]:
            raise ValueError(
                f"{where}.dtype must be a plain dtype, got {entry['dtype']!r}"
            )
        size = dtype.itemsize
        for n in listed(f"{where}.shape", entry["shape"]):
            size *= _validate.count(f"{where}.shape", n, 0)
        if data.dtype != np.uint8 or data.size != size or data.ndim != 1:
            raise ValueError(
                f"{where}: shape {entry['shape']} of {dtype} must have {size} bytes, "
                f"got {_validate.describe(data)}"
            )
        return np.frombuffer(data.tobytes(), dtype).reshape(entry["shape"]).copy()

    def _schedule(self, entry: Any, given: Any, where: str) -> Schedule | None:
        fields(where, entry, ("kind", "fields"))
        own = None if given is None else vars(given) if _is_schedule(given) else {}
        values = self(entry["fields"], own, where)
        if given is None:
            return None
        kind = entry["kind"]
        if not _is_schedule(given) or type(given).__name__ != kind:
            raise ValueError(f"the schedule is a {kind}, the optimiser has {given!r}")
        fields(where, values, tuple(vars(given)))
        # The constructor looks at its arguments; the rest follows from them, or is
        # what the schedule has seen.
        names = given._names
        schedule = type(given)(**{name: values[name] for name in names})
        for name in vars(schedule).keys() - set(names):
            value, new = values[name], vars(schedule)[name]
            if type(value) is not type(new):
                raise ValueError(
                    f"{where}.{name} must be of type {type(new).__name__}, "
                    f"got {_validate.describe(value)}"
                )
            if name != "_best" and not 0 <= value < math.inf:
                raise ValueError(f"{where}.{name} must be >= 0, got {value}")
            vars(schedule)[name] = value
        return schedule


def _is_schedule(value: object) -> TypeGuard[Schedule]:
    return type(value).__module__ == _SCHEDULES


# What is read is looked at ------------------------------------------------------------


def fields(where: str, value: object, names: Collection[str]) -> dict[str, Any]:
    """Return a dict with just these keys."""
    if not isinstance(value, dict):
        raise ValueError(f"{where} must be an object, got {_validate.describe(value)}")
    missing = [name for name in names if name not in value]
    unknown = [str(name) for name in value if name not in names]
    if missing or unknown:
        wrong = [f"missing: {name}" for name in missing]
        wrong += [f"unexpected: {name}" for name in unknown]
        raise ValueError(f"{where} must have {', '.join(names)}; {'; '.join(wrong)}")
    return value


def listed(where: str, value: object) -> list[Any]:
    """Return a list."""
    if not isinstance(value, list):
        raise ValueError(f"{where} must be a list, got {_validate.describe(value)}")
    return value


def text(where: str, value: object) -> str:
    """Return a str."""
    if not isinstance(value, str):
        raise ValueError(f"{where} must be a str, got {_validate.describe(value)}")
    return value


def whole(where: str, value: object, bits: int, minimum: int = 0) -> int:
    """Return an int from a minimum to what so many bits hold."""
    number = _validate.count(where, value, minimum)
    if number >= 2**bits:
        raise ValueError(f"{where} must be below 2**{bits}, got {number}")
    return number


def training_state(where: str, value: object) -> tuple[int, int, int]:
    """Return a seed, and counts of passes and of batches tracked."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        got = _validate.describe(value)
        raise ValueError(f"{where} must be three ints, got {got}")
    return (
        whole(f"{where}[0]", value[0], 64),
        whole(f"{where}[1]", value[1], 64),
        whole(f"{where}[2]", value[2], 63),
    )


def _place(where: str, value: object) -> dict[str, Any] | None:
    """Return how far an epoch had come, None between epochs."""
    if value is None:
        return None
    place = fields(where, value, ("steps", "total", "divisor", "of"))
    whole(f"{where}.steps", place["steps"], 63)
    for name in ("total", "divisor"):
        if not isinstance(place[name], float):
            got = _validate.describe(place[name])
            raise ValueError(f"{where}.{name} must be a float, got {got}")
    of = listed(f"{where}.of", place["of"])
    if len(of) != 3:
        raise ValueError(f"{where}.of must be three numbers, got {len(of)}")
    for i, number in enumerate(of):
        if number is not None:
            whole(f"{where}.of[{i}]", number, 63)
    if of[0] is not None and place["steps"] > of[0]:
        raise ValueError(
            f"{where}.steps must be at most the epoch's {of[0]}, got {place['steps']}"
        )
    return place


def _history(where: str, value: object) -> History | None:
    if value is None:
        return None
    values = fields(where, value, ("loss", "val_loss", "metrics", "seconds"))
    metrics = values["metrics"]
    if not isinstance(metrics, dict):
        got = _validate.describe(metrics)
        raise ValueError(f"{where}.metrics must be an object, got {got}")
    series = {name: values[name] for name in ("loss", "val_loss", "seconds")}
    series |= {f"metrics.{name}": item for name, item in metrics.items()}
    for name, item in series.items():
        for i, number in enumerate(listed(f"{where}.{name}", item)):
            if type(number) not in (float, int):
                raise ValueError(
                    f"{where}.{name}[{i}] must be a number, "
                    f"got {_validate.describe(number)}"
                )
    epochs = len(values["loss"])
    if len(values["seconds"]) != epochs or len(values["val_loss"]) > epochs:
        raise ValueError(
            f"{where} must be of as many epochs throughout, got {epochs} of loss, "
            f"{len(values['val_loss'])} of val_loss, {len(values['seconds'])} of "
            "seconds"
        )
    return History.from_dict(values)


def check_optimizer(
    where: str, state: Any, mlp: MLP, optimizer: Optimizer | Solver
) -> None:
    """Refuse a state that is not of this kind of optimiser, or of another model."""
    # A copy takes it, or says why not.
    copy.copy(optimizer).load_state_dict(state)
    assert isinstance(state, dict)
    for i, slot in enumerate(state["slots"]):
        for name, array in slot.items():
            # A solver has numbers as well, and pairs of vectors as long as theta.
            if "theta" in slot and name not in ("theta", "grad"):
                continue
            if i > 0 or (array.size, array.dtype) != (mlp.n_params, mlp.dtype):
                raise ValueError(
                    f"{where}.slots[{i}].{name} must be one {mlp.dtype} for each of "
                    f"{mlp.n_params} parameters, got {_validate.describe(array)}"
                )


def check_kept(
    where: str, value: object, mlp: MLP, optimizer: Optimizer | Solver | None
) -> None:
    """Refuse what `restore` could not take."""
    kept = fields(where, value, ("params", "buffers", "training_state", "optimizer"))
    for name in ("params", "buffers"):
        array, own = kept[name], getattr(mlp, name)
        if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (
            mlp.dtype,
            own.shape,
        ):
            raise ValueError(
                f"{where}.{name} must be a {mlp.dtype} array of shape {own.shape}, "
                f"got {_validate.describe(array)}"
            )
    training_state(f"{where}.training_state", kept["training_state"])
    if kept["optimizer"] is not None and optimizer is not None:
        check_optimizer(f"{where}.optimizer", kept["optimizer"], mlp, optimizer)


# Models in files ----------------------------------------------------------------------

FORMAT = "fastmlp"
VERSION = 1

_TEXT = "fastmlp"
_GIVEN = ("layers", "activation", "output_activation", "init", "bias", "dtype")
_TRAINING = ("seed", "epochs", "within", "state")
_CHECKPOINT = ("model", "steps", "optimizer", "callbacks")


def _as_json(item: int | Layer) -> Any:
    """Return a layer as given."""
    if not isinstance(item, Layer):
        return item
    kind = next(kind for kind in LAYERS.values() if isinstance(item, kind))
    entry: dict[str, Any] = {"kind": kind.__name__}
    if isinstance(item, Residual):
        return {**entry, "layers": [_as_json(inner) for inner in item.layers]}
    if isinstance(item, Activation):
        named = isinstance(item.function, str)
        name = getattr(item.function, "__qualname__", type(item.function).__name__)
        entry["function"] = item.function if named else None
        return entry if named else {**entry, "name": name}
    names = (*kind._leading, *kind._defaults)
    return {**entry, **{name: getattr(item, name) for name in names}}


def encoded(
    mlp: MLP,
    what: str,
    training: Mapping[str, Any],
    history: History | None,
    checkpoint: Mapping[str, Any] | None = None,
) -> bytes:
    """Return a file of a model, and of more if it is a checkpoint.

    ``training`` are the seed and the number of the next epoch's order, and how far it
    has come.
    """
    arrays: dict[str, Array] = dict(mlp.state_dict())
    given = mlp._given
    description = {
        "format": FORMAT,
        "version": VERSION,
        **given,
        "layers": [_as_json(item) for item in given["layers"]],
        "training": {
            **training,
            "within": packed(training["within"], arrays, "within"),
            "state": list(mlp.core.training_state),
        },
        "history": None,
        "checkpoint": None,
    }
    if history is not None:
        description["history"] = packed(history.to_dict(), arrays, "history")
    if checkpoint is not None:
        description["checkpoint"] = {
            name: packed(value, arrays, f"checkpoint.{name}")
            for name, value in checkpoint.items()
        }
    texts = {"format": "pt", _TEXT: safetensors.compact(description)}
    return safetensors.encode(arrays, texts, what)


class Stored:
    """What a file holds, looked at: a model, and the rest of a checkpoint.

    Attributes
    ----------
    given : dict
        The model's arguments, but for functions of the caller's among the activations.
    functions : list of str
        The names of these.
    arrays : dict of str to ndarray
        The model's state.
    seed, epochs, within, state
        Where its training is.
    history : History or None
        Of that training.
    checkpoint : dict or None
        What a checkpoint holds beside.
    """

    def __init__(
        self,
        arrays: Mapping[str, Array],
        texts: Mapping[str, str],
        functions: Sequence[Activation] | None,
        kept: Mapping[str, Any],
    ) -> None:
        if _TEXT not in texts:
            raise ValueError(f"__metadata__[{_TEXT!r}] is missing; fastmlp writes it")
        found = safetensors.parse(_TEXT, texts[_TEXT])
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            got = found.get("format") if isinstance(found, dict) else found
            raise ValueError(f"format must be {FORMAT!r}, got {got!r}")
        version = found.get("version")
        if type(version) is not int or version != VERSION:
            raise ValueError(f"version must be {VERSION}, got {version!r}")
        names = ("format", "version", *_GIVEN, "training", "history", "checkpoint")
        fields(_TEXT, found, names)

        # The architecture, then whether the arrays are its.
        self.functions: list[str] = []
        self._own = functions
        self.given = self._arguments(found)
        self.layers = self._resolved()
        n_in = self.given["layers"][0]
        shapes = resolve.torch_shapes(n_in, self.layers)
        self.arrays = {n: a for n, a in arrays.items() if n in shapes}
        self._check_arrays(shapes)

        # Where training is.
        unpack = Unpacker({n: a for n, a in arrays.items() if n not in shapes})
        training = fields("training", found["training"], _TRAINING)
        self.seed = whole("training.seed", training["seed"], 64)
        self.epochs = whole("training.epochs", training["epochs"], 32)
        within = unpack(training["within"], None, "training.within")
        self.within = _place("training.within", within)
        self.state = training_state("training.state", training["state"])
        self._check_tracked()
        history = unpack(found["history"], None, "history")
        self.history = _history("history", history)

        # And the rest, of which no array may be left over.
        self.checkpoint: dict[str, Any] | None = None
        if found["checkpoint"] is not None:
            inside = fields("checkpoint", found["checkpoint"], _CHECKPOINT)
            self.checkpoint = {
                name: unpack(value, kept.get(name), f"checkpoint.{name}")
                for name, value in inside.items()
            }
            text("checkpoint.model", self.checkpoint["model"])
            if self.history is None:
                raise ValueError("history must be there in a checkpoint, got None")
        extra = sorted(n for n in arrays if n not in shapes and n not in unpack.used)
        if extra:
            raise ValueError(f"arrays that belong to nothing: {', '.join(extra)}")

    def _arguments(self, found: Mapping[str, Any]) -> dict[str, Any]:
        items = [
            self._layer(f"layers[{i}]", item)
            for i, item in enumerate(listed("layers", found["layers"]))
        ]
        return {
            "layers": checked("layers", items, n_in=True),
            "activation": activation_name("activation", found["activation"]),
            "output_activation": activation_name(
                "output_activation", found["output_activation"]
            ),
            "init": _validate.choice("init", found["init"], INITIALIZERS),
            "bias": _validate.flag("bias", found["bias"]),
            "dtype": _validate.choice("dtype", found["dtype"], ("float32", "float64")),
        }

    def _layer(self, where: str, item: object) -> int | Layer:
        if not isinstance(item, dict):
            return _validate.count(where, item, 1)
        kind = LAYERS[_validate.choice(f"{where}.kind", item.get("kind"), LAYERS)]
        if kind is Residual:
            fields(where, item, ("kind", "layers"))
            inner = listed(f"{where}.layers", item["layers"])
            body = [
                self._layer(f"{where}.layers[{i}]", one) for i, one in enumerate(inner)
            ]
            return Residual(checked(f"{where}.layers", body))
        if kind is Activation:
            if item.get("function") is None:
                return self._function(where, item)
            fields(where, item, ("kind", "function"))
            return Activation(activation_name(f"{where}.function", item["function"]))
        names = (*kind._leading, *kind._defaults)
        fields(where, item, ("kind", *names))
        try:
            return kind(**{name: item[name] for name in names})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None

    def _function(self, where: str, item: dict[str, Any]) -> Activation:
        fields(where, item, ("kind", "function", "name"))
        self.functions.append(text(f"{where}.name", item["name"]))
        n = len(self.functions)
        own = self._own
        # Their shapes are those of any other activation.
        return own[n - 1] if own is not None and n <= len(own) else Activation("relu")

    def _resolved(self) -> tuple[Layer, ...]:
        given = self.given
        defaults = resolve.Defaults(
            given["activation"],
            given["output_activation"],
            given["bias"],
            given["init"],
        )
        return resolve.resolve(given["layers"][1:], defaults)

    def _check_arrays(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        missing = [name for name in shapes if name not in self.arrays]
        if missing:
            raise ValueError(f"arrays that are missing: {', '.join(missing[:9])}")
        for name, array in self.arrays.items():
            counts = name.endswith(".num_batches_tracked")
            dtype = np.dtype(np.int64 if counts else self.given["dtype"])
            if array.dtype != dtype or array.shape != shapes[name]:
                raise ValueError(
                    f"{name} must be a {dtype} array of shape {shapes[name]}, as the "
                    f"layers say, got {_validate.describe(array)}"
                )

    def _check_tracked(self) -> None:
        for name, array in self.arrays.items():
            if name.endswith(".num_batches_tracked") and array != self.state[2]:
                raise ValueError(
                    f"{name} must be {self.state[2]}, as training.state says, "
                    f"got {int(array)}"
                )

    def fits(self, mlp: MLP) -> bool:
        """Tell whether the arrays are of the names and shapes of a model's."""
        wanted = resolve.torch_shapes(mlp.n_in, mlp.layers)
        return {name: array.shape for name, array in self.arrays.items()} == wanted

    def fill(self, mlp: MLP) -> None:
        """Put parameters, statistics and the place in training into a model."""
        for name, view in mlp._views.in_torch_layout().items():
            view[...] = self.arrays[name]
        mlp.core.training_state = self.state
        mlp.sequence = EpochSequence(self.seed, self.epochs, self.within)
        mlp.history = self.history


def stored(
    path: str,
    what: str,
    functions: Sequence[Activation] | None = None,
    kept: Mapping[str, Any] | None = None,
) -> Stored:
    """Return what a file holds.

    Parameters
    ----------
    path
        The file.
    what
        What it is to be, for messages: a model, a checkpoint.
    functions
        Activations of the caller's own, in their order; None leaves them out.
    kept
        What a checkpoint does not store itself, by the names of its parts.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is anything else.
    """
    by = {"model": "fm.load", "checkpoint": "fm.Checkpoint.load"}[what]
    try:
        arrays, texts = safetensors.read(path, by)
        return Stored(arrays, texts, functions, kept or {})
    except (ImportError, MemoryError, OSError):
        raise
    except Exception as error:
        # The package has an exception of its own, which says what it is.
        known = isinstance(error, (TypeError, ValueError))
        kind = "" if known else f"{type(error).__name__} "
        raise ValueError(
            f"path: {path} is no {what} that this version reads: {kind}{error}"
        ) from None
