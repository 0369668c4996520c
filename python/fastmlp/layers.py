"""Layer objects, for what a plain width cannot say, and the activations.

``fastmlp.ACTIVATIONS`` holds the names of the activations h = act(z); all but softmax
work element by element. Names, formulas and constants are torch's, where it has them.

==============  ======================================================================
name            h
==============  ======================================================================
``identity``    z
``relu``        max(z, 0); derivative 0 at 0 (Nair & Hinton 2010)
``leaky_relu``  z for z > 0, else 0.01 z; derivative 0.01 at 0 (Maas et al. 2013)
``elu``         z for z > 0, else e^z - 1: alpha is 1 (Clevert et al. 2016)
``selu``        s z for z > 0, else s a (e^z - 1); s = 1.0507009873554805,
                a = 1.6732632423543772; derivative s a at 0 (Klambauer et al. 2017)
``gelu``        z Φ(z) = z (1 + erf(z / √2)) / 2 (Hendrycks & Gimpel 2016)
``gelu_tanh``   z (1 + tanh(√(2 / π) (z + 0.044715 z³))) / 2, an approximation of gelu
                from the same paper: torch's ``GELU(approximate="tanh")``
``silu``        z sigmoid(z), also called swish (Hendrycks & Gimpel 2016; Ramachandran
                et al. 2017)
``softplus``    log(1 + e^z) (Dugas et al. 2001), with no threshold beyond which it is z
``softsign``    z / (1 + abs(z)) (Bergstra et al. 2009)
``sigmoid``     1 / (1 + e^-z)
``tanh``        tanh(z)
``sin``         sin(z)
``cos``         cos(z)
``exp``         e^z
``softmax``     e^z_o / Σ_p e^z_p over the last axis, a row's outputs (Bridle 1990)
==============  ======================================================================

Exponentials are arranged so that none overflows on the way to a result that does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import _core, _validate
from .initializers import INITIALIZERS

if TYPE_CHECKING:
    from typing import NoReturn


class Dense:
    """A dense layer ``h = activation(x @ W + b)``, W (in, n), b (n,).

    Parameters
    ----------
    n : int
        The width: how many outputs the layer has.
    activation : str, optional
        Its activation, see `fastmlp.layers`; None takes the model's ``activation``, or
        its ``output_activation`` for the last layer.
    bias : bool
        Whether there is a b. Stands whatever the model's ``bias`` says.
    init : str, optional
        How its parameters are drawn, see `fastmlp.initializers`; None takes the
        model's.

    Raises
    ------
    TypeError, ValueError
        For a width that is no positive int, and for unknown names.
    """

    __slots__ = ("activation", "bias", "init", "n")

    n: int
    activation: str | None
    bias: bool
    init: str | None

    def __init__(
        self,
        n: int,
        activation: str | None = None,
        bias: bool = True,
        init: str | None = None,
    ) -> None:
        if activation is not None:
            activation = _validate.choice("activation", activation, _core.ACTIVATIONS)
        if init is not None:
            init = _validate.choice("init", init, INITIALIZERS)
        put = object.__setattr__
        put(self, "n", _validate.count("Dense: n", n, 1))
        put(self, "activation", activation)
        put(self, "bias", _validate.flag("bias", bias))
        put(self, "init", init)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"Dense is immutable: cannot set {name!r}")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"Dense is immutable: cannot delete {name!r}")

    def _fields(self) -> tuple[int, str | None, bool, str | None]:
        return self.n, self.activation, self.bias, self.init

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Dense):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        text = f"Dense({self.n}"
        if self.activation is not None:
            text += f", activation={self.activation!r}"
        if not self.bias:
            text += ", bias=False"
        if self.init is not None:
            text += f", init={self.init!r}"
        return text + ")"

    def __reduce__(self) -> tuple[type[Dense], tuple[Any, ...]]:
        return Dense, self._fields()
