"""Networks from Keras models, recognised by the names of their classes and attributes.

Keras itself is not imported.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import numpy as np

from .. import _validate
from .._network.model import empty
from .._validate.hints import hinted
from ..layers import (
    Activation,
    Block,
    Concat,
    Dense,
    Layer,
    Normalization,
    Parallel,
    Residual,
    Standardise,
    as_layer,
    checked_activation,
)
from .activations import ACTIVATIONS
from .layers import LAYERS, standardise_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .._network.model import MLP
    from .._validate import Array

# Two maps to fastmlp's names of activations: from the names of functions in
# keras.activations, and from those in keras.ops.
_ACTIVATIONS = {f.keras: name for name, f in ACTIVATIONS.items() if f.keras}
_OPERATIONS = {f.keras_op: name for name, f in ACTIVATIONS.items() if f.keras_op}

_KERAS_SLOPE = 0.2  # of the function leaky_relu, by default


@hinted
def from_keras(model: Any) -> MLP:
    """Return the network of a Keras model.

    Parameters
    ----------
    model : keras.Sequential, functional keras.Model or keras.layers.Layer
        Keras 3 model that already has its weights, in float32 or float64. Any backend
        will do. The model must pass a single input of rows through a chain of
        ``Dense``, ``Activation``, ``ReLU``, ``LeakyReLU``, ``ELU``, ``PReLU``,
        ``Softmax``, ``Dropout``, ``AlphaDropout``, ``GaussianNoise``,
        ``GaussianDropout``, ``LayerNormalization``, ``RMSNormalization``,
        ``GroupNormalization``, ``BatchNormalization``, ``Normalization``,
        ``Rescaling``, ``Identity``, and models of these. In functional models, an
        ``Add`` may end a `Residual` block: it adds the output of some layers to their
        input or, if the widths differ, to the output of a dense layer without
        activation that takes the same input. A ``Concatenate`` of several paths from
        one value becomes a `Concat` or `Parallel`. A ``Flatten`` may come first; the
        network then takes flattened rows, ``x.reshape(len(x), -1)``.

    Returns
    -------
    MLP
        A copy in the model's dtype that has the same outputs in inference; its seed
        is 0. The parameters of layers with ``trainable=False`` are frozen; see
        `MLP.freeze`.

    Raises
    ------
    TypeError
        If ``model`` is not a Keras model or layer.
    ValueError
        If the model has no weights yet, has other layers, uses mixed precision, or has
        constants that fastmlp does not allow.

    Notes
    -----
    Some differences show only in training. The momentum of `BatchNorm` becomes 1 minus
    Keras' momentum, which has the same effect, but Keras updates the running variance
    with the biased variance of the batch, and fastmlp with the unbiased variance.
    fastmlp's normalisations have both scale and shift or neither; if the Keras layer
    has only one of them, the other is set to ones or zeros. Regularisers, constraints
    and initialisers are ignored. A layer that is used twice becomes two independent
    layers.
    """
    if isinstance(model, type) or not _is_keras(model):
        raise TypeError(
            "model must be a keras.Sequential, a functional keras.Model or a Keras "
            f"layer, got {_validate.describe(model)}"
        )
    reader = Reader()
    items = reader.items(model)
    n_in = _input_width(model, items)

    # Build the model from the layers and arrays.
    items = [item for item in items if item.layer is not None]
    items = [*map(_forward, items[:-1]), *items[-1:]]
    layers = _layers(items) or [Activation("identity")]
    if len(reader.dtypes) > 1:
        raise ValueError(
            "model: all layers must have the same dtype, float32 or float64, "
            f"got {', '.join(sorted(reader.dtypes))}"
        )
    dtype = next(iter(reader.dtypes), "float32")
    mlp = empty([n_in, *layers], dtype)
    views = mlp._views
    both = (
        (views.parameters, [a for item in items for a in item.parameters]),
        (views.statistics, [a for item in items for a in item.statistics]),
    )
    for places, arrays in both:
        for (name, place), array in zip(places.items(), arrays, strict=True):
            if array.shape != place.shape:
                raise ValueError(
                    f"model: {name} must have shape {place.shape}, got {array.shape}"
                )
            place[...] = array
    frozen = {id(array) for array in reader.frozen}
    names = [n for n, a in zip(*both[0], strict=True) if id(a) in frozen]
    mlp._set_frozen(names)
    return mlp


class Item(NamedTuple):
    """A layer and its arrays, in the order in which an `MLP` stores them.

    The layer is None for Flatten. The arrays of a dense layer are W (in, out) and b.
    """

    layer: Layer | None
    parameters: tuple[Array, ...] = ()
    statistics: tuple[Array, ...] = ()


def _layers(items: Sequence[Item]) -> list[Layer]:
    return [item.layer for item in items if item.layer is not None]


def _forward(item: Item) -> Item:
    """Return an item without an inverse `Standardise`, which must be a model's last.

    With the statistics -mean / std and 1 / std, `Standardise` computes x std + mean.
    """
    if not (isinstance(item.layer, Standardise) and item.layer.inverse):
        return item
    mean, var = item.statistics
    std = np.sqrt(var)
    return Item(Standardise(), (), (-mean / std, 1 / var))


def _input_width(model: Any, items: Sequence[Item]) -> int:
    """Return the width of the network's input."""
    try:
        (value,) = model.inputs
        shape = tuple(value.shape)[1:]
    except (AttributeError, ValueError):  # not known for layers and some models
        shape = ()
    flattened = bool(items) and items[0].layer is None
    if len(shape) > 1 and not flattened:
        raise ValueError(
            "model must take vectors or begin with a Flatten layer, but each "
            f"of its inputs has shape {shape}"
        )
    if shape and None not in shape:
        return math.prod(shape)
    for item in items:
        if isinstance(item.layer, Block | Dense | Normalization | Standardise):
            arrays = item.parameters or item.statistics
            if arrays:
                return len(arrays[0])
    raise ValueError(
        "model must have a known input width: begin it with keras.Input((width,))"
    )


def _is_keras(value: object) -> bool:
    """Return whether a value is a Keras operation, such as a layer or a model."""
    bases = ((base.__module__, base.__name__) for base in type(value).__mro__)
    return any(m.startswith("keras.") and n == "Operation" for m, n in bases)


def _refuse(layer: Any, why: str) -> NoReturn:
    raise ValueError(f"model: {type(layer).__name__} {layer.name!r} {why}")


class Reader:
    """Reads layers and collects their dtypes."""

    def __init__(self) -> None:
        self.dtypes: set[str] = set()
        self.frozen: list[Array] = []  # arrays that are not to be trained
        # Maps the key of each value in the graph to the value from which it is computed
        # and the items that compute it.
        self._made: dict[tuple[int, int, int], tuple[Any, list[Item]]] = {}

    def items(self, layer: Any) -> list[Item]:
        """Return what a Keras layer or model becomes: fastmlp layers with weights."""
        kind = type(layer).__name__
        if not type(layer).__module__.startswith("keras."):
            _refuse(layer, "has a custom class, which cannot be converted")
        if kind == "Sequential":
            if not layer.built:
                _refuse(layer, "has no weights yet: call it, or give it an Input")
            return [item for inner in layer.layers for item in self.items(inner)]
        if kind == "Functional":
            return self._graph(layer)
        if kind in ("InputLayer", "Identity"):
            return []
        # Check the module too: some operations in keras.ops have the names of layers.
        if kind not in {*_KINDS, *_FORMS} or ".layers." not in type(layer).__module__:
            _refuse(layer, "has no counterpart in fastmlp")
        self._note_dtype(layer)
        form = _FORMS.get(kind)
        item: Item = form.from_keras(layer, self) if form else _KINDS[kind](layer)
        if not layer.trainable:
            self.frozen += item.parameters
        return [item]

    # The members from here to check_built are used by the classes in `layers`.
    item = Item

    @staticmethod
    def refuse(layer: Any, why: str) -> NoReturn:
        """Raise ValueError that names the layer and says why it is refused."""
        _refuse(layer, why)

    @staticmethod
    def array(layer: Any, name: str) -> Array:
        """Return the layer's variable as an array."""
        return _array(layer, name)

    @staticmethod
    def check_axis(layer: Any) -> None:
        """Raise ValueError unless the layer works along the last axis of a matrix."""
        _check_axis(layer)

    @staticmethod
    def check_built(layer: Any) -> None:
        """Raise ValueError if the layer does not have its weights yet."""
        _check_built(layer)

    @staticmethod
    def epsilon() -> float:
        """Return Keras' small number that avoids divisions by zero."""
        return float(sys.modules["keras"].config.epsilon())

    def _note_dtype(self, layer: Any) -> None:
        if getattr(layer, "quantization_mode", None) is not None:
            _refuse(
                layer,
                f"has the quantisation mode {layer.quantization_mode}, which "
                "fastmlp does not support",
            )
        dtypes = layer.variable_dtype, layer.compute_dtype
        if dtypes[0] != dtypes[1]:
            _refuse(
                layer,
                f"must have weights of the dtype in which it computes, {dtypes[1]}, "
                f"got {dtypes[0]}",
            )
        if dtypes[0] not in ("float32", "float64"):
            _refuse(layer, f"must be float32 or float64, got {dtypes[0]}")
        self.dtypes.add(dtypes[0])

    # Functional models are read from the output back to the input.

    def _graph(self, model: Any) -> list[Item]:
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            n_inputs, n_outputs = len(model.inputs), len(model.outputs)
            _refuse(
                model,
                f"must have one input and one output, got {n_inputs} and {n_outputs}",
            )
        way = self._way(model.outputs[0], model.inputs[0])
        return [item for _, items in way for item in items]

    def _way(self, value: Any, first: Any) -> list[tuple[Any, list[Item]]]:
        """Return the path of values from ``first`` to ``value``.

        Each value comes with the items that compute it from the previous value.
        """
        way = []
        while _place(value) != _place(first):
            before, items = self._before(value, first)
            way.append((value, items))
            value = before
        return [(first, []), *way[::-1]]

    def _before(self, value: Any, first: Any) -> tuple[Any, list[Item]]:
        """Return the value that ``value`` is computed from, and the items between."""
        place = _place(value)
        if place not in self._made:
            operation, index, _ = value._keras_history
            call = operation._inbound_nodes[index]
            sources = call.input_tensors
            for option in ("training", "mask"):
                value = call.arguments.kwargs.get(option)
                if value is not None and value is not False:
                    _refuse(
                        operation,
                        f"is called with {option}={value}, which fastmlp does not "
                        "support",
                    )
            if type(operation).__name__ == "Add" and len(sources) == 2:
                self._made[place] = self._block(operation, sources, first)
            elif type(operation).__name__ == "Concatenate" and len(sources) > 1:
                self.check_axis(operation)
                self._made[place] = self._side_by_side(sources, first)
            elif len(sources) == 1:
                self._made[place] = sources[0], self.items(operation)
            else:
                _refuse(operation, f"must have one input, got {len(sources)}")
        return self._made[place]

    def _parts(self, ends: Sequence[Any], first: Any) -> tuple[Any, list[list[Item]]]:
        """Return the value where the paths to ``ends`` split, and these paths."""
        ways = [self._way(end, first) for end in ends]
        common = 1
        while common < min(map(len, ways)):
            if len({_place(way[common][0]) for way in ways}) > 1:
                break
            common += 1
        parts = [
            [
                _forward(item)
                for _, items in way[common:]
                for item in items
                if item.layer is not None
            ]
            for way in ways
        ]
        return ways[0][common - 1][0], parts

    def _side_by_side(self, ends: Sequence[Any], first: Any) -> tuple[Any, list[Item]]:
        """Return the input of the branches that end in ``ends``, and the branches."""
        start, parts = self._parts(ends, first)
        kind = Concat if len(parts) == 2 and not parts[0] and parts[1] else Parallel
        given = parts[1:] if kind is Concat else parts
        block = kind.of_parts([_layers(part) for part in given])
        inner = [item for part in parts for item in part]
        parameters = [array for item in inner for array in item.parameters]
        statistics = [array for item in inner for array in item.statistics]
        return start, [Item(block, tuple(parameters), tuple(statistics))]

    def _block(
        self, add: Any, ends: Sequence[Any], first: Any
    ) -> tuple[Any, list[Item]]:
        """Return the input of a residual block that ends in ``add``, and the block.

        The two addends are ``ends``.
        """
        start, parts = self._parts(ends, first)
        n_in, (n_out, width) = start.shape[-1], (end.shape[-1] for end in ends)
        for body, other in (parts, parts[::-1]):
            same = n_out == width == n_in and not other
            projected = n_out == width != n_in and _is_linear(other)
            if body and (same or projected):
                break
        else:
            _refuse(
                add,
                "must add the output of layers to their input or, if the widths "
                "differ, to the output of one Dense without activation that takes the "
                "same input",
            )

        inner = [array for item in body for array in item.parameters]
        for projection in other:
            weight, *bias = projection.parameters
            inner += [weight, *(bias or [np.zeros(n_out, weight.dtype)])]
        statistics = [array for item in body for array in item.statistics]
        block = Residual(_layers(body))
        return start, [Item(block, tuple(inner), tuple(statistics))]


def _place(value: Any) -> tuple[int, int, int]:
    """Return a key that identifies a value in a graph."""
    operation, node, output = value._keras_history
    return id(operation), node, output


def _is_linear(items: Sequence[Item]) -> bool:
    """Return whether the items are one dense layer without activation."""
    if len(items) != 1 or not isinstance(items[0].layer, Dense):
        return False
    return items[0].layer.activation == "identity"


# Single layers ----------------------------------------------------------------------


def _array(layer: Any, name: str) -> Array:
    """Return the layer's variable as an array."""
    variable = getattr(layer, name, None)
    if variable is None:
        _refuse(layer, "has no weights yet: call it, or give the model an Input")
    return np.array(np.asarray(variable))  # np.array alone would warn


def _check_built(layer: Any) -> None:
    if not layer.built:
        _refuse(layer, "has no weights yet: call it, or give the model an Input")


def _dense(layer: Any) -> Item:
    _check_built(layer)
    if getattr(layer, "lora_enabled", False):
        _refuse(layer, "has LoRA weights, which must be merged first")
    names = ("kernel", "bias") if layer.use_bias else ("kernel",)
    activation = _activation(layer, layer.activation)
    dense = Dense(layer.units, activation, bool(layer.use_bias))
    return Item(dense, tuple(_array(layer, name) for name in names))


def _activation(layer: Any, value: Any) -> str | Activation:
    """Return the layer's activation."""
    if value is None:
        return "identity"
    kind = type(value).__name__
    if _is_keras(value):
        if kind not in _LAYERS or not type(value).__module__.startswith("keras."):
            _refuse(layer, f"has the activation {kind}, which fastmlp does not have")
        return _LAYERS[kind](value)
    name = getattr(value, "__name__", kind)
    module = str(getattr(value, "__module__", ""))
    if module.startswith("keras.") and name == "leaky_relu":
        return Activation("leaky_relu", slope=_KERAS_SLOPE)
    if module.startswith("keras.") and ".activations" in module:
        known = _ACTIVATIONS.get(name)
    elif module.startswith("keras.") and ".ops." in module:
        known = _OPERATIONS.get(name)
    else:
        known = None
    if known is None:
        _refuse(layer, f"has the activation {name}, which fastmlp does not have")
    return known


def _with(layer: Any, name: str, **constants: float) -> str | Activation:
    """Return an activation with constants; refuse the layer if one is out of range."""
    try:
        given = {k: _shortened(v) for k, v in constants.items()}
        function = Activation(name, None, **given)
    except ValueError as error:
        _refuse(layer, f"cannot be converted: {error}")
    return checked_activation("activation", function)


def _shortened(value: float) -> float:
    """Return a constant, which Keras may have rounded to float32, as it was given."""
    short = float(f"{float(value):.7g}")
    return short if np.float32(short) == np.float32(value) else float(value)


def _relu(layer: Any) -> str | Activation:
    slope, limit = float(layer.negative_slope), layer.max_value
    if (slope != 0) + (limit is not None) + (layer.threshold != 0) > 1:
        _refuse(
            layer,
            "must have at most one of a negative_slope, a max_value and a threshold, "
            f"got {slope:g}, {limit} and {layer.threshold}",
        )
    if layer.threshold != 0:
        return _with(layer, "threshold", threshold=layer.threshold)
    if limit is not None:
        is_six = limit == 6
        return "relu6" if is_six else _with(layer, "hardtanh", min_val=0, max_val=limit)
    return _leaky_relu(layer) if slope != 0 else "relu"


def _leaky_relu(layer: Any) -> str | Activation:
    return _with(layer, "leaky_relu", slope=layer.negative_slope)


def _elu(layer: Any) -> str | Activation:
    return _with(layer, "elu", alpha=layer.alpha)


def _softmax(layer: Any) -> str | Activation:
    _check_axis(layer)
    return "softmax"


def _check_axis(layer: Any) -> None:
    axis = layer.axis
    if axis not in (-1, 1) and list(np.ravel(axis)) not in ([-1], [1]):
        _refuse(layer, f"must work along the last axis of rows, got axis {axis}")


def _rescaling(layer: Any) -> Item:
    """Return x scale + offset as an inverse `Standardise`."""
    try:
        width = layer.input.shape[-1]
    except (AttributeError, ValueError):  # not part of a model
        width = max(np.size(layer.scale), np.size(layer.offset))
    numbers = (
        np.array(np.broadcast_to(np.asarray(value, layer.compute_dtype), (width,)))
        for value in (layer.offset, layer.scale)
    )
    statistics = standardise_statistics(*numbers)
    if statistics is None:
        _refuse(layer, f"must have a positive scale, got {layer.scale}")
    return Item(Standardise(inverse=True), (), statistics)


def _flatten(layer: Any) -> Item:
    if layer.data_format != "channels_last":
        _refuse(
            layer, f"must have the data_format channels_last, got {layer.data_format}"
        )
    return Item(None)


# For each Keras layer that is an activation, a function that returns the activation.
_LAYERS: dict[str, Callable[[Any], str | Activation]] = {
    "Activation": lambda layer: _activation(layer, layer.activation),
    "ELU": _elu,
    "LeakyReLU": _leaky_relu,
    "ReLU": _relu,
    "Softmax": _softmax,
}


def _alone(layer: Any) -> Item:
    return Item(as_layer(_LAYERS[type(layer).__name__](layer)))


_FORMS = {form.keras: form for form in LAYERS.values() if form.keras}
_KINDS: dict[str, Callable[[Any], Item]] = {
    "Dense": _dense,
    "Flatten": _flatten,
    "Rescaling": _rescaling,
    **dict.fromkeys(_LAYERS, _alone),
}
