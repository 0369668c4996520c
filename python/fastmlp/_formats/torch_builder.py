"""A model under construction from PyTorch's layers and their arrays."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._network.fold import LayerArrays, name_arrays
from .._network.model import model_class
from ..layers import (
    Activation,
    Block,
    Dense,
    Layer,
    Normalization,
    Residual,
    as_layer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .._network.model import MLP
    from .._validate import Array

COUNTER = "num_batches_tracked"


class Builder:
    """Chains layers and checks that their widths match."""

    def __init__(self, dtype: np.dtype[Any] | None, width: int | None = None) -> None:
        self.asked = dtype
        self.dtypes: dict[np.dtype[Any], str] = {}
        self.tracked = 0
        self.frozen: list[Array] = []  # arrays that are not to be trained
        self.items: list[LayerArrays] = []
        self.n_in = self.width = width
        self._factor = 1  # n_in over width, as long as these are not known

    def array(self, what: str, value: Any) -> Array:
        """Return parameters as an array of floats, and note their dtype."""
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            array = _from_tensor(what, value, torch, convert=self.asked is not None)
        else:
            array = _validate.numeric(what, value)
            if array.dtype.kind != "f":
                raise TypeError(f"{what} must have a float dtype, got {array.dtype}")
        native = array.dtype.newbyteorder("=")
        if self.asked is None and native not in (np.float32, np.float64):
            raise TypeError(_other_dtype(what, array.dtype))
        self.dtypes.setdefault(native, what)
        if torch is not None and isinstance(value, torch.nn.Parameter):
            self.frozen += [array] * (not value.requires_grad)
        return array

    def add(self, layer: Layer, arrays: Mapping[str, Array] | None = None) -> None:
        """Add a layer; if it has arrays, the caller must check their shapes."""
        self.items.append(LayerArrays(layer, dict(arrays or {})))

    def dense(
        self,
        what: str,
        weight: Array,
        bias: Array | None,
        parametrization: str | None = None,
        others: Mapping[str, Array] | None = None,
    ) -> None:
        """Add a dense layer; its weight, or what stands for it, is (out, in).

        ``others`` are further arrays by their role in the core.
        """
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(
                f"{what}: the weight of a dense layer must have shape (out, in), got "
                f"{weight.shape}"
            )
        self.fit(what, weight.shape[1])
        self.width = weight.shape[0]
        layer = Dense(
            self.width,
            "identity",
            bias is not None,
            parametrization=parametrization,
        )
        arrays = {layer.role("weight"): weight}
        if bias is not None:
            _same(f"{what}: the bias", bias, weight.shape[0])
            arrays["bias"] = bias
        arrays |= {layer.role(name): a for name, a in (others or {}).items()}
        self.items.append(LayerArrays(layer, arrays))

    def norm(
        self, what: str, layer: Normalization, arrays: Mapping[str, Array]
    ) -> None:
        """Add a normalisation; if it has no arrays, the caller must check its width."""
        for role, array in arrays.items():
            if array.ndim != 1:
                raise ValueError(
                    f"{what}: the {role} of a normalisation must be 1-D, got shape "
                    f"{array.shape}"
                )
            self.fit(what, array.size)
        self.items.append(LayerArrays(layer, dict(arrays)))

    def activation(self, function: str | Activation) -> None:
        """Add an activation.

        It becomes part of the dense layer before it if possible, otherwise a layer of
        its own.
        """
        before = self.items[-1] if self.items else None
        if function == "identity":
            return
        if before is not None and isinstance(before.layer, Dense):
            dense = before.layer
            if dense.activation == "identity":
                new = dense.replaced(activation=function)
                self.items[-1] = LayerArrays(new, before.arrays)
                return
        self.items.append(LayerArrays(as_layer(function), {}))

    def fit(self, what: str, width: int) -> None:
        """Raise ValueError unless inputs of this width fit the last layer."""
        if width == 0:
            raise ValueError(f"{what} must have a width of at least 1, got 0")
        if self.width is None:
            self.n_in, self.width = self._factor * width, width
        elif self.width != width:
            raise ValueError(
                f"{what} needs inputs of width {width}, but the layer before it has "
                f"outputs of width {self.width}"
            )

    def halve(self, what: str) -> None:
        """Halve the width of the last layer's outputs."""
        if self.width is None:
            self._factor *= 2
        elif self.width % 2:
            raise ValueError(f"{what} needs an even width, got {self.width}")
        else:
            self.width //= 2

    def block(self) -> Builder:
        """Return a builder for the body of a residual block after the last layer."""
        inner = Builder(self.asked, self.width)
        inner.dtypes, inner.frozen = self.dtypes, self.frozen
        return inner

    def residual(
        self, what: str, body: Builder, projection: Mapping[str, Array] | None
    ) -> None:
        """Add a residual block; ``body`` is the builder that `block` returned."""
        if body.n_in is None or body.width is None or not body.items:
            raise ValueError(
                f"{what}: the body of the block must contain a layer that "
                "determines its width, such as nn.Linear"
            )
        self.fit(what, body.n_in)
        arrays = {}
        if projection is not None:
            if body.width == body.n_in:
                raise ValueError(
                    f"{what} must not have a projection, because its body has as many "
                    f"outputs as inputs, {body.n_in}"
                )
            shapes = {"weight": (body.width, body.n_in), "bias": (body.width,)}
            found = {role: a.shape for role, a in projection.items()}
            if found != shapes:
                raise ValueError(
                    f"{what}: the projection must be an nn.Linear({body.n_in}, "
                    f"{body.width}) with a bias, got arrays of shapes {found}"
                )
            arrays = {f"projection.{role}": a for role, a in projection.items()}
        elif body.width != body.n_in:
            raise ValueError(
                f"{what} must have a projection, because its body has "
                f"{_validate.counted(body.n_in, 'input')} and "
                f"{_validate.counted(body.width, 'output')}"
            )
        self.tracked = max(self.tracked, body.tracked)
        layer = Residual([item.layer for item in body.items])
        self.items.append(LayerArrays(layer, arrays, {"body": tuple(body.items)}))
        self.width = body.width

    def side_by_side(
        self, what: str, kind: type[Block], parts: Sequence[Builder]
    ) -> None:
        """Add a block whose outputs stand side by side.

        ``parts`` are builders that `block` returned, one for each sequence inside.
        """
        widths = [self.width, *(part.n_in for part in parts)]
        n_in = next((width for width in widths if width is not None), None)
        if n_in is None:
            raise ValueError(
                f"{what} must contain a layer that determines its width, such as "
                "nn.Linear"
            )
        for part in parts:
            if part.n_in is None:
                part.fit(what, n_in // part._factor)
            self.fit(what, part.n_in or n_in)
            self.tracked = max(self.tracked, part.tracked)
        self.fit(what, n_in)
        layer = kind.of_parts([[item.layer for item in part.items] for part in parts])
        inside = {
            name: tuple(part.items)
            for name, part in zip(layer.sequences, parts, strict=True)
        }
        self.items.append(LayerArrays(layer, {}, inside))
        self.width = layer.n_out(n_in)

    def build(self, seed: Any) -> MLP:
        """Return the model."""
        if self.n_in is None:
            raise ValueError(
                "source must have a layer with parameters or running statistics; "
                "without one, the number of inputs is unknown"
            )
        if self.asked is None and len(self.dtypes) > 1:
            found = ", ".join(f"{what} {d}" for d, what in self.dtypes.items())
            raise TypeError(
                f"source has parameters of several dtypes ({found}); choose the "
                "dtype of the model, as in dtype='float32'"
            )
        dtype = self.asked or next(iter(self.dtypes), np.dtype(np.float32))
        layers = [item.layer for item in self.items]
        mlp = model_class()([self.n_in, *layers], dtype=dtype, seed=seed)
        state = name_arrays(self.items)
        counters = {
            name.removesuffix("running_var") + COUNTER: np.int64(self.tracked)
            for name in state
            if name.endswith(".running_var")
        }
        mlp.load_state_dict({**state, **counters})
        frozen = {id(array) for array in self.frozen}
        mlp._set_frozen([name for name, array in state.items() if id(array) in frozen])
        return mlp


def _same(what: str, array: Array, size: int) -> None:
    if array.shape != (size,):
        raise ValueError(f"{what} must have shape ({size},), got {array.shape}")


def _other_dtype(what: str, dtype: object) -> str:
    name = str(dtype).removeprefix("torch.")
    return (
        f"{what} must be float32 or float64, got {name}; pass dtype='float32' to "
        "convert it"
    )


def _from_tensor(what: str, value: Any, torch: Any, *, convert: bool) -> Array:
    """Return a tensor as a float32 or float64 array, copied if not on the CPU."""
    if torch.nn.parameter.is_lazy(value):
        raise ValueError(
            f"{what} has no shape yet: call its lazy module with an input first"
        )
    if value.is_meta:
        raise ValueError(
            f"{what} must have values, which tensors on the meta device do not have"
        )
    if value.layout != torch.strided:
        raise TypeError(f"{what} must be dense, got {value.layout}; call to_dense()")
    if value.is_quantized or not value.dtype.is_floating_point:
        raise TypeError(f"{what} must have a float dtype, got {value.dtype}")
    if value.dtype not in (torch.float32, torch.float64):
        if not convert:
            raise TypeError(_other_dtype(what, value.dtype))
        value = value.to(torch.float32)  # exact for the smaller dtypes
    array: Array = value.detach().cpu().numpy()
    return array
