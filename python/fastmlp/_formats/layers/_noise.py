"""Layers that do nothing at inference, so that ONNX and C leave them out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ...layers import AlphaDropout, Dropout, GaussianDropout, GaussianNoise
from ._base import LayerForm

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..from_keras import Item, Reader
    from ..torch_modules import ModuleReader


class DropoutForm(LayerForm):
    """`Dropout`."""

    layer: ClassVar[Any] = Dropout
    torch: ClassVar[str | None] = "Dropout"
    keras = torch

    @classmethod
    def to_torch(
        cls, layer: Any, width: int, nn: Any, empty: Callable[..., Any]
    ) -> Any:
        """Return a PyTorch module for an input of width ``width``."""
        assert cls.torch is not None
        return getattr(nn, cls.torch)(layer.first_rate)

    @classmethod
    def from_torch(cls, what: str, module: Any, reader: ModuleReader) -> None:
        """Convert a PyTorch module to a layer, and add it to the reader's builder."""
        if not 0 <= module.p < 1:
            raise ValueError(f"{what} must have 0 <= p < 1, got p={module.p}")
        reader.builder.add(cls.layer(module.p))

    @classmethod
    def from_keras(cls, layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer."""
        shape = getattr(layer, "noise_shape", None)
        if shape is not None:
            reader.refuse(layer, f"must not have a noise_shape, got {shape}")
        if layer.rate >= 1:
            reader.refuse(layer, f"must have a rate below 1, got {layer.rate}")
        return reader.item(cls.layer(float(layer.rate)))


class AlphaDropoutForm(DropoutForm):
    """`AlphaDropout`."""

    layer = AlphaDropout
    torch = keras = "AlphaDropout"


class GaussianDropoutForm(DropoutForm):
    """`GaussianDropout`; `to_torch` has its module."""

    layer = GaussianDropout
    torch = None
    keras = "GaussianDropout"


class GaussianNoiseForm(LayerForm):
    """`GaussianNoise`; `to_torch` has its module."""

    layer = GaussianNoise
    keras = "GaussianNoise"

    @staticmethod
    def from_keras(layer: Any, reader: Reader) -> Item:
        """Convert a Keras layer; return fastmlp's layer."""
        return reader.item(GaussianNoise(float(layer.stddev)))
