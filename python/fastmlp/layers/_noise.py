"""Layers that are random in training and do nothing at inference."""

from __future__ import annotations

from typing import Any

from .. import _validate
from ._base import Layer


class Dropout(Layer):
    """Inverted dropout (Srivastava et al. 2014).

    In training, each element x becomes 0 with probability p, and x / (1 - p) otherwise.
    At inference the layer does nothing. The mask is a function of (seed, epoch, step,
    layer, element) and independent of the number of threads, so that resumed training
    continues exactly.

    Parameters
    ----------
    p : float
        Probability of dropping an element, 0 ≤ p < 1.

    Raises
    ------
    TypeError, ValueError
        If p is not a number in [0, 1).
    """

    __slots__ = ("p",)
    kind = "dropout"
    is_identity_at_inference = True
    precedes_activation = True
    flops = (0, 1)
    _leading = ("p",)

    p: float

    def __init__(self, p: float = 0.5) -> None:
        self._put(p=_validate.real("p", p, 0.0, 1.0, open_high=True))

    def core_form(self) -> dict[str, Any]:
        """Return the fields of the core's LayerSpec, except for the kind."""
        return {"rate": self.p}
