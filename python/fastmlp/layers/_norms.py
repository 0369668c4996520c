"""Normalisations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _validate
from ._base import Layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._validate import Array


class Normalization(Layer):
    """Base class of the normalisations; use one of its subclasses."""

    __slots__ = ()
    precedes_activation = True

    eps: float
    affine: bool

    def _checked_eps(self, eps: object) -> float:
        """Return a checked eps; refuse a width, which PyTorch's layers take first."""
        if isinstance(eps, int) and eps > 1:
            got = _validate.shown(eps)
            raise ValueError(
                f"eps must be a small number, got {got}; if {got} is meant as the "
                f"width, write fm.{type(self).__name__}(), which takes its width "
                "from the layer before it"
            )
        return _validate.real("eps", eps, 0.0, open_low=True)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"eps": self.eps, "bias": self.affine}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in,), "bias": (n_in,)} if self.affine else {}


class RowNormalization(Normalization):
    """Base class of `LayerNorm` and `RMSNorm`, which normalise each row separately."""

    __slots__ = ("affine", "eps")
    is_linear = False
    _defaults: ClassVar[dict[str, Any]] = {"eps": 1e-5, "affine": True}

    def __init__(self, eps: float = 1e-5, affine: bool = True) -> None:
        self._put(
            eps=self._checked_eps(eps),
            affine=_validate.flag("affine", affine),
        )


class LayerNorm(RowNormalization):
    """Layer normalisation of each row (Ba et al. 2016).

    ``(x - mean) / sqrt(var + eps) * scale + shift``, with the row's mean and (biased)
    variance, scale (n,) and shift (n,); PyTorch's ``LayerNorm``.

    Parameters
    ----------
    eps : float
        Positive number added to the variance.
    affine : bool
        Whether the layer has a scale (initially 1) and a shift (initially 0).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, or ``eps`` is not positive.
    """

    __slots__ = ()
    kind = "layer_norm"
    flops = (8, 8)


class RMSNorm(RowNormalization):
    """Normalisation of each row by its root mean square (Zhang & Sennrich 2019).

    ``x / sqrt(mean(x²) + eps) * scale``, with the mean over the row and scale (n,);
    PyTorch's ``RMSNorm``.

    Parameters
    ----------
    eps : float
        Positive number added to the mean square. In PyTorch, the default depends on the
        dtype.
    affine : bool
        Whether the layer has a scale (initially 1).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, or ``eps`` is not positive.
    """

    __slots__ = ()
    kind = "rms_norm"
    flops = (5, 6)

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in,)} if self.affine else {}


class BatchNorm(Normalization):
    """Batch normalisation of each column (Ioffe & Szegedy 2015).

    ``(x - mean) / sqrt(var + eps) * scale + shift``, scale (n,) and shift (n,);
    PyTorch's ``BatchNorm1d``.

    In training, mean and (biased) variance are those of the batch, which needs at least
    two rows, and the running statistics are updated: ``running = (1 - momentum) *
    running + momentum * batch``, where the variance of the batch is the unbiased one.
    Inference uses the running statistics. `fastmlp.MLP.fold` merges the layer into an
    adjacent dense layer.

    Parameters
    ----------
    eps : float
        Positive number added to the variance.
    momentum : float
        Weight of the batch in the update of running statistics, from 0 to 1.
    affine : bool
        Whether the layer has a scale (initially 1) and a shift (initially 0).

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.
    """

    __slots__ = ("affine", "eps", "momentum")
    kind = "batch_norm"
    flops = (2, 8)
    _defaults: ClassVar[dict[str, Any]] = {
        "eps": 1e-5,
        "momentum": 0.1,
        "affine": True,
    }

    momentum: float

    def __init__(
        self, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True
    ) -> None:
        self._put(
            eps=self._checked_eps(eps),
            momentum=_validate.real("momentum", momentum, 0.0, 1.0),
            affine=_validate.flag("affine", affine),
        )

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {**super().core_form(), "momentum": self.momentum}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        statistics = {"running_mean": (n_in,), "running_var": (n_in,)}
        return {**super().arrays(n_in), **statistics, "num_batches_tracked": ()}

    def column_map(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return (scale, shift): at inference the layer is x * scale + shift."""
        scale = 1 / np.sqrt(arrays["running_var"] + self.eps)
        scale = scale * arrays.get("weight", 1.0)
        return scale, arrays.get("bias", 0.0) - arrays["running_mean"] * scale
