"""The contents of a model's or a checkpoint's file."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from .. import _core, _validate, initializers, schedules
from .._network import ops, resolve
from .._network.blocks import outline
from .._network.model import EpochSequence, set_bias_init, set_compute_dtype
from ..layers import (
    LAYERS,
    STATISTICS,
    Activation,
    Block,
    Layer,
    Parallel,
    as_layer,
    checked,
    checked_activation,
)
from ..metrics import History
from ..schedules import Schedule
from . import safetensors
from .json_state import Unpacker, fields, listed, packed, text, whole
from .snapshot import training_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from .._network.blocks import Stream
    from .._network.model import Model
    from .._validate import Array
    from ..initializers import Init

FORMAT = "fastmlp"
VERSION = 1

# Largest number of layers in a file, and of characters in an error: the file of a
# stranger must not take much time.
LAYER_LIMIT = 20_000
_MESSAGE = 1000

_TEXT = "fastmlp"
_GIVEN = ("layers", "activation", "output_activation", "init", "bias", "dtype")
# Arguments that are initialisers, and arguments of layers that the first version of
# fastmlp did not have: they are stored only if they are given.
_INITS = ("init", "bias_init")
_LATER = ("bias_init", "parametrization")
_TRAINING = ("seed", "epochs", "within", "state")
_CHECKPOINT = ("model", "steps", "optimizer", "callbacks")


# Kinds of layers with arguments that shapes do not show.
_TELLING = ("glu", "group_norm", "standardise", "columns", "embedding")


def architecture(mlp: Model) -> list[str]:
    """Return a description that is equal for models with equivalent layers.

    It does not depend on the notation of the layers, on parameters or on layers that
    do nothing at inference.
    """
    return [
        f"{step.name} {step.kind} {step.activation} {step.n_in} {step.n_out}"
        + (f" {step.layer!r}" if step.kind in _TELLING else "")
        + (f" {getattr(step.layer, 'parametrization', None) or ''}").rstrip()
        for step in ops.steps(mlp)
        if not ops.absent_at_inference(step.layer)
    ]


def _as_json(item: int | Layer) -> Any:
    """Return a layer as a JSON value, with the arguments that the user gave."""
    if not isinstance(item, Layer):
        return item
    kind = next(kind for kind in LAYERS.values() if isinstance(item, kind))
    entry: dict[str, Any] = {"kind": kind.__name__}
    if isinstance(item, Block):
        parts = [[_as_json(one) for one in part] for part in item.parts.values()]
        (name,) = kind._leading
        return {**entry, name: parts if isinstance(item, Parallel) else parts[0]}
    if isinstance(item, Activation):
        if not item.is_custom:
            return {**entry, **_function_as_json(item)}
        name = getattr(item.function, "__qualname__", type(item.function).__name__)
        return {**entry, "function": None, "name": name}
    for name in (*kind._leading, *kind._defaults):
        value = getattr(item, name)
        if name not in _LATER or value is not None:
            entry[name] = _value_as_json(name, value)
    return entry


def _init_as_json(init: Init | None) -> Any:
    """Return an initialiser as a JSON value; of a function only the name remains."""
    if init is None or isinstance(init, str):
        return init
    known = type(init) in initializers.CLASSES  # and not a class of the user's
    if not (known and isinstance(init, initializers.Initializer)):
        name = getattr(init, "__qualname__", type(init).__name__)
        init = initializers.Function(name)
    return {"kind": type(init).__name__, **init._given()}


def _init(where: str, value: object) -> object:
    """Return an initialiser from a JSON value; the names are not checked here."""
    if not isinstance(value, dict):
        return value
    kinds = {kind.__name__: kind for kind in initializers.CLASSES}
    kind = kinds[_validate.choice(f"{where}.kind", value.get("kind"), kinds)]
    fields(where, value, ("kind", *kind._names))
    try:
        return kind(**{name: value[name] for name in kind._names})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _schedule_as_json(value: Any) -> Any:
    """Return a schedule, or an argument of one, as a JSON value."""
    if isinstance(value, (list, tuple)):
        return [_schedule_as_json(item) for item in value]
    if not isinstance(value, Schedule):
        return value
    fields = {name: _schedule_as_json(v) for name, v in value._given().items()}
    return {"schedule": type(value).__name__, **fields}


def _schedule(where: str, value: Any) -> Any:
    """Return what `_schedule_as_json` described."""
    if isinstance(value, list):
        return [_schedule(f"{where}[{i}]", item) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    kinds = {name: getattr(schedules, name) for name in schedules.__all__}
    kind = kinds[_validate.choice(f"{where}.schedule", value.get("schedule"), kinds)]
    fields(where, value, ("schedule", *kind._names))
    arguments = {n: _schedule(f"{where}.{n}", value[n]) for n in kind._names}
    try:
        return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def _function_as_json(activation: Activation) -> dict[str, Any]:
    return {"function": activation.name, **activation.changed}


def _value_as_json(name: str, value: Any) -> Any:
    """Return an argument of a layer or model as a JSON value."""
    if isinstance(value, Activation):
        return _function_as_json(value)
    if isinstance(value, Schedule):
        return _schedule_as_json(value)
    is_init = name in _INITS and not isinstance(value, float)
    return _init_as_json(value) if is_init else value


def _activation(where: str, value: object) -> str | Activation:
    """Return the activation that `_value_as_json` described."""
    if isinstance(value, dict):
        return _with_constants(where, value)
    return checked_activation(where, value)


def _with_constants(where: str, value: dict[str, Any]) -> Activation:
    """Return the activation that `_function_as_json` described."""
    found = checked_activation(f"{where}.function", value.get("function"))
    name = as_layer(found).name
    known = _core.ACTIVATION_CONSTANTS.get(name, {})
    constants = {n: v for n, v in value.items() if n in known}
    fields(where, value, ("function", *constants))
    try:
        return Activation(name, **constants)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None


def writer(
    mlp: Model,
    training: Mapping[str, Any],
    history: History | None,
    checkpoint: Mapping[str, Any] | None = None,
) -> Callable[[BinaryIO], None]:
    """Return a function that writes a model or, with ``checkpoint``, a checkpoint.

    ``training`` holds the seed, the number of finished epochs and the position within
    an epoch. The function writes the arrays from where they lie, without a copy.
    """
    arrays: dict[str, Array | Stream] = dict(mlp._state_views())
    given = mlp._given
    description = {
        "format": FORMAT,
        "version": VERSION,
        **{name: _value_as_json(name, value) for name, value in given.items()},
        "layers": [_as_json(item) for item in given["layers"]],
        "training": {
            **training,
            "within": packed(training["within"], arrays, "within"),
            "state": list(mlp.core.training_state),
        },
        "history": None,
        "checkpoint": None,
    }
    if mlp.frozen:
        description["frozen"] = list(mlp.frozen)
    if history is not None:
        description["history"] = packed(history.to_dict(), arrays, "history")
    if checkpoint is not None:
        description["checkpoint"] = {
            name: packed(value, arrays, f"checkpoint.{name}")
            for name, value in checkpoint.items()
        }
    texts = {"format": "pt", _TEXT: safetensors.compact(description)}
    return lambda file: safetensors.write(file, arrays, texts)


def _place(where: str, value: object) -> dict[str, Any] | None:
    """Return the checked position within an epoch, or None between epochs."""
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
        raise ValueError(
            f"{where}.of must be a list of three numbers, got a list of length "
            f"{len(of)}"
        )
    for i, number in enumerate(of):
        if number is not None:
            whole(f"{where}.of[{i}]", number, 63)
    if of[0] is not None and place["steps"] > of[0]:
        raise ValueError(
            f"{where}.steps must be at most {of[0]}, the number of steps in the "
            f"epoch, got {place['steps']}"
        )
    return place


def _history(where: str, value: object) -> History | None:
    if value is None:
        return None
    values = fields(where, value, ("loss", "val_loss", "metrics", "seconds"))
    metrics = values["metrics"]
    if not isinstance(metrics, dict):
        got = _validate.describe(metrics)
        raise ValueError(f"{where}.metrics must be a JSON object, got {got}")
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
            f"{where}.seconds must be as long as {where}.loss, and "
            f"{where}.val_loss must not be longer than that, got lengths "
            f"{len(values['seconds'])} (seconds), {epochs} (loss) and "
            f"{len(values['val_loss'])} (val_loss)"
        )
    return History.from_dict(values)


class Stored:
    """The checked contents of a model file or of a checkpoint file.

    Attributes
    ----------
    given : dict
        Arguments of the model. relu stands in for custom activations that the caller
        did not pass.
    functions : list of str
        Names of the custom activations.
    arrays : dict of str to Stream
        Arrays of the model, as in its ``state_dict``, in the open file.
    frozen : list of str
        Names of the frozen parameters.
    seed, epochs, within, state
        Seed of training, number of finished epochs, position within an epoch, and
        training state of the core.
    history : History or None
        History of the training.
    checkpoint : dict or None
        Contents that only a checkpoint has; None for a model file. Only the arrays of
        the optimiser's state are still in the open file.
    """

    def __init__(
        self,
        arrays: Mapping[str, Stream],
        texts: Mapping[str, str],
        functions: Sequence[Activation] | None,
        kept: Mapping[str, Any],
    ) -> None:
        if _TEXT not in texts:
            raise ValueError(
                f"the file does not have the entry __metadata__[{_TEXT!r}], which "
                "fastmlp writes"
            )
        found = safetensors.parse(_TEXT, texts[_TEXT])
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            got = found.get("format") if isinstance(found, dict) else found
            raise ValueError(f"format must be {FORMAT!r}, got {got!r}")
        version = found.get("version")
        if type(version) is not int or version != VERSION:
            raise ValueError(f"version must be {VERSION}, got {version!r}")
        names = ["format", "version", *_GIVEN, "training", "history", "checkpoint"]
        # These are there only if they differ from the default.
        names += [n for n in ("compute_dtype", "bias_init", "frozen") if n in found]
        fields(_TEXT, found, names)

        # Read the architecture first, because the arrays must match it.
        self.functions: list[str] = []
        self._own = functions
        self._n_layers = 0
        self.given = self._arguments(found)
        self.layers = self._resolved()
        n_in = self.given["layers"][0]
        shapes = resolve.torch_shapes(n_in, self.layers)
        self.arrays = {n: a for n, a in arrays.items() if n in shapes}
        self._check_arrays(shapes)
        self.frozen = self._frozen(found.get("frozen", []), shapes)

        # Read the position of training and the history.
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

        # Read the rest of a checkpoint, then check that every array has been used.
        self.checkpoint: dict[str, Any] | None = None
        if found["checkpoint"] is not None:
            inside = fields("checkpoint", found["checkpoint"], _CHECKPOINT)
            self.checkpoint = {}
            for name, value in inside.items():
                unpack.in_memory = name != "optimizer"
                self.checkpoint[name] = unpack(
                    value, kept.get(name), f"checkpoint.{name}"
                )
            text("checkpoint.model", self.checkpoint["model"])
            if self.history is None:
                raise ValueError("the history of a checkpoint must not be None")
        extra = sorted(n for n in arrays if n not in shapes and n not in unpack.used)
        if extra:
            raise ValueError(f"the file contains unexpected arrays: {_few(extra)}")

    def _arguments(self, found: Mapping[str, Any]) -> dict[str, Any]:
        items = [
            self._layer(f"layers[{i}]", item)
            for i, item in enumerate(listed("layers", found["layers"]))
        ]
        given = {
            "layers": checked("layers", items, n_in=True),
            "activation": _activation("activation", found["activation"]),
            "output_activation": _activation(
                "output_activation", found["output_activation"]
            ),
            "init": initializers.checked("init", _init("init", found["init"])),
            "bias": _validate.flag("bias", found["bias"]),
            "dtype": _validate.choice("dtype", found["dtype"], ("float32", "float64")),
        }
        set_bias_init(given, _init("bias_init", found.get("bias_init")))
        set_compute_dtype(given, found.get("compute_dtype"))
        return given

    def _block(self, where: str, kind: type[Block], item: dict[str, Any]) -> Block:
        (name,) = kind._leading
        fields(where, item, ("kind", name))
        where = f"{where}.{name}"
        given = listed(where, item[name])
        if kind is not Parallel:
            return kind.of_parts([checked(where, self._sequence(where, given))])
        branches = [self._sequence(f"{where}[{i}]", one) for i, one in enumerate(given)]
        return Parallel(branches)

    def _sequence(self, where: str, items: object) -> list[int | Layer]:
        inner = listed(where, items)
        return [self._layer(f"{where}[{i}]", one) for i, one in enumerate(inner)]

    def _layer(self, where: str, item: object) -> int | Layer:
        self._n_layers += 1
        if self._n_layers > LAYER_LIMIT:
            raise ValueError(f"layers must not have more than {LAYER_LIMIT} layers")
        if not isinstance(item, dict):
            return _validate.count(where, item, 1)
        kind = LAYERS[_validate.choice(f"{where}.kind", item.get("kind"), LAYERS)]
        if issubclass(kind, Block):
            return self._block(where, kind, item)
        if kind is Activation:
            if item.get("function") is None:
                return self._function(where, item)
            rest = {name: value for name, value in item.items() if name != "kind"}
            return _with_constants(where, rest)
        names = [
            name
            for name in (*kind._leading, *kind._defaults)
            if name not in _LATER or name in item
        ]
        fields(where, item, ("kind", *names))
        values = {
            name: _init(f"{where}.{name}", item[name]) if name in _INITS else item[name]
            for name in names
        }
        if isinstance(values.get("activation"), dict):
            values["activation"] = _activation(
                f"{where}.activation", item["activation"]
            )
        for name, given in values.items():
            if isinstance(given, dict) and "schedule" in given:
                values[name] = _schedule(f"{where}.{name}", given)
        try:
            return kind(**values)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None

    def _function(self, where: str, item: dict[str, Any]) -> Activation:
        fields(where, item, ("kind", "function", "name"))
        self.functions.append(text(f"{where}.name", item["name"]))
        n = len(self.functions)
        own = self._own
        # If the function is not given, relu stands in for it, which is enough to check
        # shapes.
        return own[n - 1] if own is not None and n <= len(own) else Activation("relu")

    def _resolved(self) -> tuple[Layer, ...]:
        return resolve.of_arguments(self.given)

    def _check_arrays(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        missing = [name for name in shapes if name not in self.arrays]
        if missing:
            raise ValueError(
                "the file must have all arrays of the model, but it lacks "
                f"{len(missing)}: {_few(missing)}"
            )
        for name, array in self.arrays.items():
            counts = name.endswith(".num_batches_tracked")
            dtype = np.dtype(np.int64 if counts else self.given["dtype"])
            if array.dtype != dtype or array.shape != shapes[name]:
                raise ValueError(
                    f"{name} must be {_validate.article(str(dtype))} array of shape "
                    f"{shapes[name]} to match "
                    f"the layers, got {_validate.describe(outline(array))}"
                )

    def _frozen(self, value: object, shapes: Iterable[str]) -> list[str]:
        frozen = [
            _validate.choice(f"frozen[{i}]", name, list(shapes))
            for i, name in enumerate(listed("frozen", value))
        ]
        for i, name in enumerate(frozen):
            if name.endswith(tuple(f".{role}" for role in STATISTICS)):
                raise ValueError(f"frozen[{i}] must name a parameter, got {name!r}")
        return frozen

    def _check_tracked(self) -> None:
        for name, array in self.arrays.items():
            if not name.endswith(".num_batches_tracked"):
                continue
            count = int(array.whole())
            if count != self.state[2]:
                raise ValueError(
                    f"{name} must be {self.state[2]} to match training.state, "
                    f"got {count}"
                )

    def fits(self, mlp: Model) -> bool:
        """Return whether the arrays have the names and shapes of a model's arrays."""
        wanted = resolve.torch_shapes(mlp.n_in, mlp.layers)
        return {name: array.shape for name, array in self.arrays.items()} == wanted

    def fill(self, mlp: Model) -> None:
        """Copy arrays, the position of training and the history into a model."""
        for name, view in mlp._views.in_torch_layout().items():
            self.arrays[name].copy_to(view)
        mlp._set_frozen(self.frozen)
        mlp.core.training_state = self.state
        mlp.sequence = EpochSequence(self.seed, self.epochs, self.within)
        mlp.history = self.history


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:9]) + ", …" * (len(names) > 9)


@contextlib.contextmanager
def stored(
    path: str,
    what: str,
    functions: Sequence[Activation] | None = None,
    kept: Mapping[str, Any] | None = None,
) -> Iterator[Stored]:
    """Open a file and give its checked contents.

    Parameters
    ----------
    path
        Path of the file.
    what
        Expected kind of file: "model" or "checkpoint".
    functions
        Custom activations in the order of the layers. If None, relu stands in for them.
    kept
        Current values of the parts of a checkpoint, by name. They supply values that
        the checkpoint does not store; see `json_state.packed`.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If the file is not a valid file of this kind.
    """
    with contextlib.ExitStack() as stack:
        try:
            arrays, texts = stack.enter_context(safetensors.opened(path))
            found = Stored(arrays, texts, functions, kept or {})
        except (MemoryError, OSError):
            raise
        except Exception as error:
            known = isinstance(error, (TypeError, ValueError))
            kind = "" if known else f"{type(error).__name__} "
            reason = str(error)
            if len(reason) > _MESSAGE:
                reason = f"{reason[:_MESSAGE]}…"
            raise ValueError(
                f"path: {path} is not a {what} file that this version of fastmlp "
                f"can read: {kind}{reason}"
            ) from None
        yield found
