"""From layers as given to what the core builds: widths, names, parameters, folding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..layers import Activation, BatchNorm, Dense, Dropout, Layer, LayerNorm, Residual

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from .._validate import Array

_NORMS = (LayerNorm, BatchNorm)


class Defaults(NamedTuple):
    """What a layer takes that says nothing of its own."""

    activation: str
    output_activation: str
    bias: bool
    init: str


def resolve(items: Sequence[int | Layer], defaults: Defaults) -> tuple[Layer, ...]:
    """Return the layers with nothing left open, in all residual blocks as well."""
    layers, _ = _resolve(items, defaults, None)
    return layers


def _resolve(
    items: Sequence[int | Layer], defaults: Defaults, last: str | None
) -> tuple[tuple[Layer, ...], str]:
    """Do so, last to first: the last dense layer of all has the output's activation.

    ``last`` is the activation of the next dense layer to be met, None the output's. The
    one to go on with is returned as well.
    """
    kind = defaults.output_activation if last is None else last
    resolved: list[Layer] = []
    for item in reversed(items):
        if isinstance(item, Residual):
            body, kind = _resolve(item.layers, defaults, kind)
            resolved.append(Residual(body))
        elif isinstance(item, Layer) and not isinstance(item, Dense):
            resolved.append(item)
        else:
            dense = item if isinstance(item, Dense) else Dense(item, bias=defaults.bias)
            activation = dense.activation or kind
            init = dense.init or defaults.init
            resolved.append(Dense(dense.n, activation, dense.bias, init))
            kind = defaults.activation
    return tuple(reversed(resolved)), kind


def core_layers(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Return the layers as the core takes them: by the fields of its LayerSpec."""
    result: list[dict[str, Any]] = []
    for layer in layers:
        match layer:
            case Dense():
                spec = {
                    "kind": "dense",
                    "width": layer.n,
                    "activation": layer.activation,
                    "bias": layer.bias,
                }
            case Activation(function=str()):
                spec = {"kind": "activation", "activation": layer.function}
            case Activation():
                custom = layer.function, layer.derivative
                spec = {"kind": "activation", "custom": custom}
            case Dropout():
                spec = {"kind": "dropout", "rate": layer.p}
            case LayerNorm():
                spec = {"kind": "layer_norm", "eps": layer.eps, "bias": layer.affine}
            case BatchNorm():
                spec = {
                    "kind": "batch_norm",
                    "eps": layer.eps,
                    "momentum": layer.momentum,
                    "bias": layer.affine,
                }
            case Residual():
                body = core_layers([i for i in layer.layers if isinstance(i, Layer)])
                spec = {"kind": "residual", "body": body}
        result.append(spec)
    return result


def count_parameters(n_in: int, layers: Sequence[Layer]) -> tuple[int, int]:
    """Return how many parameters there are, in Python's integers, and the width."""
    size, width = 0, n_in
    for layer in layers:
        if isinstance(layer, Dense):
            size += (width + layer.bias) * layer.n
            width = layer.n
        elif isinstance(layer, Residual):
            body = [i for i in layer.layers if isinstance(i, Layer)]
            inner, n_out = count_parameters(width, body)
            size += inner + (0 if n_out == width else (width + 1) * n_out)
            width = n_out
        elif isinstance(layer, _NORMS) and layer.affine:
            size += 2 * width
    return size, width


def torch_places(
    layers: Sequence[Layer], prefix: str = "", torch_prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """Yield, for each layer, its place among the layers and that in torch's Sequential.

    There an activation other than the identity is a module of its own.
    """
    place = 0
    for i, layer in enumerate(layers):
        name, torch_name = f"{prefix}{i}", f"{torch_prefix}{place}"
        yield name, torch_name
        if isinstance(layer, Residual):
            body = [item for item in layer.layers if isinstance(item, Layer)]
            yield from torch_places(body, f"{name}.body.", f"{torch_name}.body.")
            yield f"{name}.projection", f"{torch_name}.projection"
        active = isinstance(layer, Dense) and layer.activation != "identity"
        place += 2 if active else 1


def by_place(layers: Sequence[Layer], prefix: str = "") -> Iterator[tuple[str, Layer]]:
    """Yield each layer with its place among the layers, as the core names it."""
    for i, layer in enumerate(layers):
        yield f"{prefix}{i}", layer
        if isinstance(layer, Residual):
            body = [item for item in layer.layers if isinstance(item, Layer)]
            yield from by_place(body, f"{prefix}{i}.body.")


def torch_shapes(
    n_in: int, layers: Sequence[Layer], prefix: str = ""
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return the names and shapes of a ``state_dict``, and the width of the output.

    From the resolved layers alone: nothing is allocated.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    width = n_in
    for layer, place in zip(layers, _top_places(layers), strict=True):
        name = f"{prefix}{place}."
        if isinstance(layer, Dense):
            shapes[f"{name}weight"] = layer.n, width
            if layer.bias:
                shapes[f"{name}bias"] = (layer.n,)
            width = layer.n
        elif isinstance(layer, Residual):
            body = [item for item in layer.layers if isinstance(item, Layer)]
            inner, n_out = torch_shapes(width, body, f"{name}body.")
            shapes |= inner
            if n_out != width:
                shapes[f"{name}projection.weight"] = n_out, width
                shapes[f"{name}projection.bias"] = (n_out,)
            width = n_out
        elif isinstance(layer, _NORMS):
            if layer.affine:
                shapes[f"{name}weight"] = shapes[f"{name}bias"] = (width,)
            if isinstance(layer, BatchNorm):
                roles = ("running_mean", "running_var")
                shapes |= {name + role: (width,) for role in roles}
                shapes[f"{name}num_batches_tracked"] = ()
    return shapes, width


class Views:
    """Views of a model's parameters and running statistics, by torch's names."""

    def __init__(
        self,
        layers: Sequence[Layer],
        steps: Sequence[tuple[str, str, int, int, int, int, int]],
        params: Array,
        buffers: Array,
    ) -> None:
        self.weights: list[Array] = []
        self.biases: list[Array | None] = []
        # Of the layers above, the places among all layers.
        self.places: list[str] = []
        self.parameters: dict[str, Array] = {}
        self.statistics: dict[str, Array] = {}
        self.named: dict[str, Array] = {}
        self.scales: list[Array] = []
        self._dense: set[str] = set()
        names = dict(torch_places(layers))
        for place, kind, n_in, n_out, weight, bias, statistics in steps:
            name = names[place]
            shift = params[bias : bias + n_out] if bias >= 0 else None
            if kind == "dense":
                flat = params[weight : weight + n_in * n_out]
                self.weights.append(flat.reshape(n_in, n_out))
                self.biases.append(shift)
                self.places.append(place)
                self.parameters[f"{name}.weight"] = self.weights[-1]
                self._dense.add(f"{name}.weight")
            elif weight >= 0:
                self.scales.append(params[weight : weight + n_out])
                self.parameters[f"{name}.weight"] = self.scales[-1]
            if shift is not None:
                self.parameters[f"{name}.bias"] = shift
            if statistics >= 0:
                mean = buffers[statistics : statistics + n_out]
                var = buffers[statistics + n_out : statistics + 2 * n_out]
                self.statistics[f"{name}.running_mean"] = mean
                self.statistics[f"{name}.running_var"] = var
            # Of all layers, each one's parameters and statistics together.
            both = {**self.parameters, **self.statistics}
            self.named |= {n: v for n, v in both.items() if n not in self.named}

    def in_torch_layout(self) -> dict[str, Array]:
        """Return the same views, weights of dense layers as (out, in)."""
        return {n: v.T if n in self._dense else v for n, v in self.named.items()}


def first_draws(
    layers: Sequence[Layer], init: str, prefix: str = ""
) -> Iterator[tuple[str, str, str]]:
    """Yield, for each dense layer, its place, the activation that counts, its ``init``.

    The activation is its own, or, where that is the identity, that of an `Activation`
    which follows it with nothing but normalisations and dropouts between. ``init`` is
    for projections.
    """
    for i, layer in enumerate(layers):
        place = f"{prefix}{i}"
        if isinstance(layer, Residual):
            body = [item for item in layer.layers if isinstance(item, Layer)]
            yield from first_draws(body, init, f"{place}.body.")
            yield f"{place}.projection", "identity", init
        if not isinstance(layer, Dense):
            continue
        kind = str(layer.activation)
        for after in layers[i + 1 :] if kind == "identity" else ():
            if isinstance(after, Activation) and isinstance(after.function, str):
                kind = after.function
            if not isinstance(after, (*_NORMS, Dropout)):
                break
        yield place, kind, str(layer.init)


class _Layer(NamedTuple):
    """A layer with its arrays, by the names that follow its own."""

    layer: Layer
    arrays: dict[str, Array]
    body: tuple[_Layer, ...] = ()


def fold(
    layers: Sequence[Layer], named: Mapping[str, Array]
) -> tuple[list[Layer], dict[str, Array]]:
    """Return layers for inference alone, and their arrays.

    Dropouts are left out. A batch normalisation after a dense layer without activation
    becomes part of that, else one before a dense layer part of that one; elsewhere it
    stays.

    Parameters
    ----------
    layers
        Resolved.
    named
        Parameters and running statistics by torch's names, weights as (in, out).

    Returns
    -------
    layers, named
        The same of the result; float64.
    """
    folded = _folded(_with_arrays(layers, named, ""))
    result: dict[str, Array] = {}
    _name_arrays(folded, result, "")
    return [item.layer for item in folded], result


def _with_arrays(
    layers: Sequence[Layer], named: Mapping[str, Array], prefix: str
) -> list[_Layer]:
    items = []
    for (i, layer), place in zip(enumerate(layers), _top_places(layers), strict=True):
        name = f"{prefix}{place}."
        roles = ("weight", "bias", "running_mean", "running_var")
        arrays = {
            role: named[name + role].astype(np.float64)
            for role in (*roles, "projection.weight", "projection.bias")
            if name + role in named
        }
        body: list[_Layer] = []
        if isinstance(layer, Residual):
            inner = [item for item in layer.layers if isinstance(item, Layer)]
            body = _with_arrays(inner, named, f"{name}body.")
        items.append(_Layer(layers[i], arrays, tuple(body)))
    return items


def _top_places(layers: Sequence[Layer]) -> list[str]:
    """Return the layers' places in torch's Sequential."""
    return [t for name, t in torch_places(layers) if "." not in name]


def _name_arrays(
    items: Sequence[_Layer], result: dict[str, Array], prefix: str
) -> None:
    places = _top_places([item.layer for item in items])
    for item, place in zip(items, places, strict=True):
        for role, array in item.arrays.items():
            result[f"{prefix}{place}.{role}"] = array
        _name_arrays(item.body, result, f"{prefix}{place}.body.")


def _folded(items: Sequence[_Layer]) -> list[_Layer]:
    # Of nothing but dropouts an identity is left, as there must be a layer.
    kept = [i for i in items if not isinstance(i.layer, Dropout)]
    kept = kept or [_Layer(Activation("identity"), {})]
    for i, item in enumerate(kept):
        if isinstance(item.layer, Residual):
            body = tuple(_folded(item.body))
            block = Residual([inner.layer for inner in body])
            kept[i] = _Layer(block, item.arrays, body)

    result: list[_Layer] = []
    pending: tuple[Array, Array] | None = None  # a map of columns for the next layer
    for i, item in enumerate(kept):
        layer, arrays = item.layer, item.arrays
        if isinstance(layer, BatchNorm):
            scale, shift = affine(layer, arrays)
            before = result[-1] if result else None
            after = kept[i + 1].layer if i + 1 < len(kept) else None
            if before is not None and _is_linear(before.layer):
                dense = before.layer
                assert isinstance(dense, Dense)
                bias = before.arrays.get("bias", np.zeros(dense.n))
                weight = before.arrays["weight"] * scale
                folded = {"weight": weight, "bias": bias * scale + shift}
                new = Dense(dense.n, dense.activation, True, dense.init)
                result[-1] = _Layer(new, folded)
                continue
            if isinstance(after, Dense):
                pending = scale, shift
                continue
        if isinstance(layer, Dense) and pending is not None:
            scale, shift = pending
            weight = arrays["weight"]
            bias = arrays.get("bias", np.zeros(layer.n)) + shift @ weight
            arrays = {"weight": weight * scale[:, np.newaxis], "bias": bias}
            layer = Dense(layer.n, layer.activation, True, layer.init)
            pending = None
        result.append(_Layer(layer, arrays, item.body))
    return result


def _is_linear(layer: Layer) -> bool:
    return isinstance(layer, Dense) and layer.activation == "identity"


def affine(layer: BatchNorm, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """Return the scale and shift that a batch normalisation is in inference."""
    scale = 1 / np.sqrt(arrays["running_var"] + layer.eps)
    scale = scale * arrays.get("weight", 1.0)
    return scale, arrays.get("bias", 0.0) - arrays["running_mean"] * scale
