"""Dense layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from .. import _validate, initializers
from ._activation import Activation, as_layer, checked_activation
from ._base import Layer

if TYPE_CHECKING:
    from ..initializers import Init

# What may stand for a weight, with the names that PyTorch gives to the arrays.
_PARAMETRIZED = "parametrizations.weight"
PARAMETRIZATIONS: dict[str, dict[str, str]] = {
    "weight_norm": {
        "magnitude": f"{_PARAMETRIZED}.original0",
        "weight": f"{_PARAMETRIZED}.original1",
    },
    "spectral_norm": {
        "weight": f"{_PARAMETRIZED}.original",
        "left": f"{_PARAMETRIZED}.0._u",
        "right": f"{_PARAMETRIZED}.0._v",
    },
}
SINGULAR_VECTORS = tuple(
    PARAMETRIZATIONS["spectral_norm"][r] for r in ("left", "right")
)


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
    parametrization : {"weight_norm", "spectral_norm"}, optional
        How W is computed from other parameters; see the notes. None means that W is a
        parameter itself.

    Raises
    ------
    TypeError, ValueError
        If the width is not a positive int, a name is unknown, or ``bias_init`` is given
        for a layer without a bias.

    Notes
    -----
    With ``"weight_norm"`` (Salimans & Kingma 2016), each unit j has a magnitude g_j and
    a direction, column j of V (in, n): ``W[:, j] = g_j V[:, j] / norm(V[:, j])``, or 0
    if the norm is 0. V takes the place of W among the parameters, and in
    `fastmlp.MLP.weights`; at first, g is such that W = V. Order and names are those of
    PyTorch's ``torch.nn.utils.parametrizations.weight_norm``: b, g as
    ``parametrizations.weight.original0``, V as ``parametrizations.weight.original1``.

    With ``"spectral_norm"`` (Miyato et al. 2018), ``W = V / sigma``, where sigma
    estimates the largest singular value of V, so that the layer without its activation
    does not magnify differences between inputs: ``sigma = v @ V @ u`` with two vectors
    u (n,) and v (in,) among the running statistics in `fastmlp.MLP.buffers`. They start
    with 15 steps of the power method; each forward pass in training takes one more,
    ``u = V.T @ v``, ``v = V @ u``, both divided by their norms. Gradients take u and v
    as constants. A sigma of 0 gives ``W = 0``. Names are those of PyTorch's
    ``torch.nn.utils.parametrizations.spectral_norm``: b, V as
    ``parametrizations.weight.original``, then u and v as
    ``parametrizations.weight.0._u`` and ``_v``.

    Every call computes W anew. For batches this takes little time beside the products,
    but for a single row about as long as they do: serve `fastmlp.MLP.fold`, a network
    of plain layers with the same outputs.
    """

    __slots__ = ("activation", "bias", "bias_init", "init", "n", "parametrization")
    kind = "dense"
    _leading = ("n",)
    _defaults: ClassVar[dict[str, Any]] = {
        "activation": None,
        "bias": True,
        "init": None,
        "bias_init": None,
        "parametrization": None,
    }

    n: int
    activation: str | Activation | None
    bias: bool
    init: Init | None
    bias_init: Init | None
    parametrization: str | None

    def __init__(
        self,
        n: int,
        activation: str | Activation | None = None,
        bias: bool = True,
        init: Init | None = None,
        bias_init: Init | None = None,
        parametrization: str | None = None,
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
        if parametrization is not None:
            parametrization = _validate.choice(
                "parametrization", parametrization, PARAMETRIZATIONS
            )
        self._put(
            n=_validate.count("Dense: n", n, 1),
            activation=activation,
            bias=bias,
            init=init,
            bias_init=bias_init,
            parametrization=parametrization,
        )

    def replaced(self, **changes: Any) -> Dense:
        """Return a layer with some arguments changed."""
        names = (*self._leading, *self._defaults)
        return Dense(**{**dict(zip(names, self._fields(), strict=True)), **changes})

    def undrawn(self) -> Dense:
        """Return the layer for a model that is filled with given parameters."""
        return self.replaced(init="zeros", bias_init=None)

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        activation = activation_of(self).core_form()
        form = {"width": self.n, **activation, "bias": self.bias}
        if self.parametrization is not None:
            form["parametrization"] = self.parametrization
        return form

    def role(self, of: str) -> str:
        """Return the name in ``state_dict`` of the core's array "weight", "bias", …."""
        return PARAMETRIZATIONS.get(self.parametrization or "", {}).get(of, of)

    def n_out(self, n_in: int) -> int:
        """Return the output width for an input width."""
        return self.n

    def arrays(self, n_in: int) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the layer's own arrays by role."""
        weight: dict[str, tuple[int, ...]] = {self.role("weight"): (self.n, n_in)}
        bias: dict[str, tuple[int, ...]] = {"bias": (self.n,)} if self.bias else {}
        match self.parametrization:
            case "weight_norm":
                return {**bias, self.role("magnitude"): (self.n, 1), **weight}
            case "spectral_norm":
                vectors = {self.role("left"): (self.n,), self.role("right"): (n_in,)}
                return {**bias, **weight, **vectors}
        return weight | bias


def activation_of(layer: Layer) -> Activation:
    """Return the activation that a resolved layer applies last, perhaps identity."""
    if isinstance(layer, Activation):
        return layer
    own = layer.activation if isinstance(layer, Dense) else None
    return as_layer(own or "identity")
