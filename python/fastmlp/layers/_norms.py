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

    def _checked_eps(self, eps: object, before: str = "") -> float:
        """Return a checked eps; refuse a width, which PyTorch's layers take instead.

        ``before`` is the text of the arguments that come first.
        """
        if isinstance(eps, int) and eps > 1:
            got = _validate.shown(eps)
            raise ValueError(
                f"eps must be a small number, got {got}; if {got} is meant as the "
                f"width, write fm.{type(self).__name__}({before}), which takes its "
                "width from the layer before it"
            )
        return _validate.real("eps", eps, 0.0, open_low=True)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"eps": self.eps, "bias": self.affine}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in,), "bias": (n_in,)} if self.affine else {}


class RowNormalization(Normalization):
    """Base class of the layers that normalise each row separately."""

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


class GroupNorm(RowNormalization):
    """Normalisation of groups of each row's units (Wu & He 2018).

    The units of a row form ``groups`` equal groups of neighbours. Each is normalised as
    `LayerNorm` does the whole row: ``(x - mean) / sqrt(var + eps) * scale + shift``,
    with the mean and (biased) variance of the group, scale (n,) and shift (n,);
    PyTorch's ``GroupNorm``.

    Parameters
    ----------
    groups : int
        Number of groups, at least 1; it must divide the width. With 1, the layer is
        `LayerNorm`.
    eps : float
        Positive number added to the variance.
    affine : bool
        Whether the layer has a scale (initially 1) and a shift (initially 0), one of
        each for every unit.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range. `fastmlp.MLP` raises
        ValueError if ``groups`` does not divide the width.
    """

    __slots__ = ("groups",)
    kind = "group_norm"
    flops = (8, 8)
    _leading = ("groups",)

    groups: int

    def __init__(self, groups: int, eps: float = 1e-5, affine: bool = True) -> None:
        self._put(
            groups=_validate.count("groups", groups, 1),
            eps=self._checked_eps(eps, _validate.shown(groups)),
            affine=_validate.flag("affine", affine),
        )

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {**super().core_form(), "groups": self.groups}


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
    statistics = ("running_mean", "running_var")
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
        statistics = dict.fromkeys(self.statistics, (n_in,))
        return {**super().arrays(n_in), **statistics, "num_batches_tracked": ()}

    def column_map(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return (scale, shift): at inference the layer is x * scale + shift."""
        scale = 1 / np.sqrt(arrays["running_var"] + self.eps)
        scale = scale * arrays.get("weight", 1.0)
        return scale, arrays.get("bias", 0.0) - arrays["running_mean"] * scale


class Standardise(Layer):
    """Columns scaled by statistics of data: ``h = (x - mean) / std``.

    The mean (n,) and the variance ``std²`` (n,) belong to the model, but they are not
    parameters: gradients do not train them. They are 0 and 1 until `fastmlp.MLP.adapt`
    learns them from data or ``load_state_dict`` sets them. As the first layer it
    standardises the inputs; with ``inverse=True``, as the last layer, it turns standard
    values into the units of the targets. Keras calls the layer ``Normalization``;
    scikit-learn's ``StandardScaler`` does the same outside of the model.
    `fastmlp.MLP.fold` merges it into an adjacent dense layer.

    Parameters
    ----------
    inverse : bool
        Whether the layer computes ``h = x * std + mean`` instead. It must then be the
        last layer of the model.

    Raises
    ------
    TypeError
        If ``inverse`` is not a bool.

    Notes
    -----
    The core computes ``(x - mean) * (1 / std)``. A loss after the inverse is in the
    units of the targets, and so is its gradient: the step of `fastmlp.SGD` grows with
    the square of the targets' deviation, that of `fastmlp.Adam` does not.

    Examples
    --------
    >>> import numpy as np, fastmlp as fm
    >>> x = np.array([[1.0, 100.0], [3.0, 300.0]])
    >>> mlp = fm.MLP([2, fm.Standardise(), 16, 1, fm.Standardise(inverse=True)])
    >>> mlp.adapt(x, np.array([1e6, 2e6]))
    >>> mlp.buffers.tolist()
    [2.0, 200.0, 1.0, 10000.0, 1500000.0, 250000000000.0]
    """

    __slots__ = ("inverse",)
    kind = "standardise"
    precedes_activation = True
    flops = (2, 2)
    statistics = ("mean", "var")
    _defaults: ClassVar[dict[str, Any]] = {"inverse": False}

    inverse: bool

    def __init__(self, inverse: bool = False) -> None:
        self._put(inverse=_validate.flag("inverse", inverse))

    @property
    def is_last(self) -> bool:
        """Whether the layer must be the last one of a model."""
        return self.inverse

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"inverse": self.inverse}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return dict.fromkeys(self.statistics, (n_in,))

    def column_map(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return (scale, shift): the layer is x * scale + shift."""
        std = np.sqrt(arrays["var"])
        if self.inverse:
            return std, arrays["mean"]
        return 1 / std, -arrays["mean"] / std
