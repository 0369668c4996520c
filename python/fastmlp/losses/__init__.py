"""Losses: what training minimises.

Notation: p predictions and y targets of shape (B, O) with B rows and O outputs,
r = p - y, w sample weights (all 1 if none are given). With ``reduction="mean"`` a loss
is

    Σ_b w_b L_b / Σ_b w_b, where L_b is the mean of L(p, y) over the row's outputs

(`CrossEntropy` and `ActionValue` define L_b directly, as one value for each row).
Without weights this is the mean over all elements, as in torch. With
``reduction="sum"`` it is Σ_b w_b Σ_o L(p, y). Gradients are those of exactly the value
that is returned.

A custom loss is a function (pred, target) → (value, gradient): see `CustomLoss`.
"""

from typing import TYPE_CHECKING

from . import _custom, _native
from ._base import REDUCTIONS as REDUCTIONS
from ._base import Loss as Loss
from ._base import _make
from ._custom import *
from ._custom import as_loss as as_loss
from ._custom import with_scale as with_scale
from ._native import *

if TYPE_CHECKING:
    from ._base import TargetLike as TargetLike

__all__ = [*_custom.__all__, *_native.__all__]

# Pickles must name the public module, not the private ones.
for _object in (Loss, _make, *(globals()[name] for name in __all__)):
    _object.__module__ = __name__
