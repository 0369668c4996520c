"""Losses: what training minimises.

Notation: p predictions and y targets of shape (B, O) with B rows and O outputs,
r = p - y, w sample weights (all 1 if there are none). With ``reduction="mean"`` a loss
is

    Σ_b w_b L_b / Σ_b w_b,    L_b the mean over the row's O outputs of L(p, y)

(`CrossEntropy`, `ActionValue`: there is only one L_b per row), so that without weights
it is the mean over all elements, as in torch; with ``reduction="sum"`` it is
Σ_b w_b Σ_o L(p, y). Gradients are those of exactly the value that is returned.

A custom loss is a function (pred, target) → (value, gradient): see `CustomLoss`.
"""

from . import _formulas
from ._base import REDUCTIONS, Loss
from ._base import _make as _make
from ._custom import CustomLoss, as_loss
from ._formulas import *

__all__ = ["REDUCTIONS", "CustomLoss", "Loss", "as_loss", *_formulas.__all__]

# Pickles name the public module, wherever something is defined.
for _name in ("_make", *__all__[1:]):
    globals()[_name].__module__ = __name__
