"""Layers with learned factors or gates for units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core, _validate
from ._activation import Activation, as_layer, checked_activation
from ._base import Layer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .._validate import Array


class PReLU(Layer):
    """A leaky ReLU with learned slopes (He et al. 2015): x for x > 0, else slope * x.

    PyTorch's ``PReLU``, whose ``num_parameters`` is 1 here if ``shared``, else the
    width of the layer before. As in PyTorch, ``weight_decay`` shrinks the slopes unless
    the optimiser has ``decay="weights"``; the paper advises against decay.

    Parameters
    ----------
    init : float
        Initial slope.
    shared : bool
        Whether all units have one slope together; otherwise each has its own.

    Raises
    ------
    TypeError, ValueError
        If ``init`` is not a finite number, or ``shared`` is not a bool.
    """

    __slots__ = ("init", "shared")
    kind = "prelu"
    is_linear = False
    acts_as = "leaky_relu"
    flops = (2, 4)
    _defaults: ClassVar[dict[str, Any]] = {"init": 0.25, "shared": False}

    init: float
    shared: bool

    def __init__(self, init: float = 0.25, shared: bool = False) -> None:
        most = _core.MOST_CONSTANT
        self._put(
            init=_validate.real("init", init, -most, most),
            shared=_validate.flag("shared", shared),
        )

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"slope": self.init, "shared": self.shared}

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (1 if self.shared else n_in,)}

    def first_weight(self, rng: np.random.Generator, shape: tuple[int, ...]) -> float:
        """Return the initial value of the slopes."""
        return self.init


class GLU(Layer):
    """A gated linear unit: ``h = a * activation(b)`` for the halves a, b of a row.

    The first half of the units is multiplied by the activation of the second half, so
    the width halves; PyTorch's ``GLU``. It comes after a dense layer of twice the width
    that has no activation of its own, as in ``fm.Dense(64, "identity"), fm.GLU()``.

    Parameters
    ----------
    activation : str or Activation
        Activation of the second half, elementwise: ``"sigmoid"`` (Dauphin et al. 2017),
        or ``"silu"``, ``"gelu"``, ``"relu"`` or ``"identity"``, for SwiGLU, GEGLU,
        ReGLU and the bilinear layer of Shazeer (2020), or any other except softmax.

    Raises
    ------
    TypeError, ValueError
        If ``activation`` is not the name of an elementwise activation, or an
        `Activation` with such a name. `MLP` raises a ValueError that names the layer if
        the width before it is odd.

    Examples
    --------
    >>> import fastmlp as fm
    >>> swiglu = fm.GLU("silu")
    >>> mlp = fm.MLP([3, fm.Dense(32, "identity"), swiglu, 1])
    >>> mlp.n_params == (3 * 32 + 32) + (16 * 1 + 1)
    True
    """

    __slots__ = ("activation",)
    kind = "glu"
    is_linear = False
    flops = (2, 3)
    _defaults: ClassVar[dict[str, Any]] = {"activation": "sigmoid"}

    activation: str | Activation

    def __init__(self, activation: str | Activation = "sigmoid") -> None:
        activation = checked_activation("activation", activation)
        if activation == "softmax":
            raise ValueError("activation must be elementwise, got 'softmax'")
        self._put(activation=activation)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return as_layer(self.activation).core_form()

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return n_in // 2


class Scale(Layer):
    """A learned factor for each unit: ``h = x * s``, with s (n,), initially 1.

    As the first layer it learns how much each input matters; so does RealMLP
    (Holzmüller et al. 2024, section 3.2). As with other factors, ``weight_decay``
    shrinks s towards 0 unless the optimiser has ``decay="weights"``. `MLP.fold` merges
    the layer into an adjacent dense layer.
    """

    __slots__ = ()
    kind = "scale"
    precedes_activation = True
    flops = (1, 2)

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        return {"weight": (n_in,)}

    def column_map(self, arrays: Mapping[str, Array]) -> tuple[Array, Array]:
        """Return (scale, shift): the layer is x * scale + shift."""
        scale = arrays["weight"]
        return scale, np.zeros_like(scale)
