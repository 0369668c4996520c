"""Dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .. import _validate, initializers
from ._activation import Activation, as_layer, checked_activation
from ._base import Layer

if TYPE_CHECKING:
    from ..initializers import Init


class Dense(Layer):
    """A dense layer ``h = activation(x @ W + b)``, W (in, n), b (n,).

    Parameters
    ----------
    n : int
        Width: the number of outputs.
    activation : str or Activation, optional
        Name of the activation, one of ``fastmlp.ACTIVATIONS``, or an `Activation` with
        a name, such as ``fm.Activation("elu", alpha=0.5)``. None means the model's
        ``activation`` or, for the last dense layer, its ``output_activation``.
    bias : bool
        Whether the layer has a bias b; overrides the model's ``bias``.
    init : str, Initializer or callable, optional
        Initialiser of the weights; see `fastmlp.initializers`. None means the model's
        ``init``.
    bias_init : str, Initializer or callable, optional
        Initialiser of the biases. None means the model's ``bias_init`` or, if that is
        None, the biases that go with the initialiser of the weights: mostly 0.

    Raises
    ------
    TypeError, ValueError
        If the width is not a positive int, a name is unknown, or ``bias_init`` is given
        for a layer without a bias.
    """

    __slots__ = ("activation", "bias", "bias_init", "init", "n")
    kind = "dense"
    _leading = ("n",)
    _defaults: ClassVar[dict[str, Any]] = {
        "activation": None,
        "bias": True,
        "init": None,
        "bias_init": None,
    }

    n: int
    activation: str | Activation | None
    bias: bool
    init: Init | None
    bias_init: Init | None

    def __init__(
        self,
        n: int,
        activation: str | Activation | None = None,
        bias: bool = True,
        init: Init | None = None,
        bias_init: Init | None = None,
    ) -> None:
        if isinstance(activation, int):
            raise TypeError(
                "activation must be a name (str) or an fm.Activation, got "
                f"{_validate.describe(activation)}; fm.Dense(n) takes the number of "
                "outputs, but not the number of inputs"
            )
        if activation is not None:
            activation = checked_activation("activation", activation)
        if init is not None:
            init = initializers.checked("init", init)
        bias = _validate.flag("bias", bias)
        if bias_init is not None:
            bias_init = initializers.checked_bias("bias_init", bias_init)
            if not bias:
                raise ValueError("bias_init must be None if bias=False")
        self._put(
            n=_validate.count("Dense: n", n, 1),
            activation=activation,
            bias=bias,
            init=init,
            bias_init=bias_init,
        )

    def undrawn(self) -> Dense:
        """Return the layer for a model that is filled with given parameters."""
        return Dense(self.n, self.activation, self.bias, "zeros")

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        activation = activation_of(self).core_form()
        return {"width": self.n, **activation, "bias": self.bias}

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return self.n

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        shapes: dict[str, tuple[int, ...]] = {"weight": (self.n, n_in)}
        return {**shapes, "bias": (self.n,)} if self.bias else shapes


def activation_of(layer: Layer) -> Activation:
    """Return the activation that a resolved layer applies last, perhaps identity."""
    if isinstance(layer, Activation):
        return layer
    own = layer.activation if isinstance(layer, Dense) else None
    return as_layer(own or "identity")
