"""Layers that do nothing at inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...layers import Dropout
from ._base import LayerForm

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..from_keras import Item, Reader
    from ..torch_modules import ModuleReader


class DropoutForm(LayerForm):
    """`Dropout`; at inference it does nothing, so ONNX and C leave it out."""

    layer = Dropout
    torch = keras = "Dropout"

    @staticmethod
    def to_torch(layer: Any, width: int, nn: Any, empty: Callable[..., Any]) -> Any:
        """Return a PyTorch module for an input of width ``width``."""
        return nn.Dropout(layer.p)

    @staticmethod
    def from_torch(what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        if not 0 <= module.p < 1:
            raise ValueError(f"{what} must have 0 <= p < 1, got p={module.p}")
        reader.builder.add(Dropout(module.p))

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer."""
        if layer.noise_shape is not None:
            reader.refuse(
                layer, f"must not have a noise_shape, got {layer.noise_shape}"
            )
        if layer.rate >= 1:
            reader.refuse(layer, f"must have a rate below 1, got {layer.rate}")
        return reader.item(Dropout(float(layer.rate)))
