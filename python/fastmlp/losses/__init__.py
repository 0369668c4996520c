"""Losses: what training minimises.

Notation: p predictions and y targets of shape (B, O) with B rows and O outputs,
r = p - y, w sample weights (all 1 if none are given). With ``reduction="mean"`` a loss
is

    Σ_b w_b L_b / Σ_b w_b, where L_b is the mean of L(p, y) over the row's outputs

(losses of classes, such as `CrossEntropy`, and `ActionValue` define L_b directly, as
one value for each row). Without weights this is the mean over all elements, as in
torch. With ``reduction="sum"`` it is Σ_b w_b Σ_o L(p, y). Gradients are those of
exactly the value that is returned.

**Missing targets.** With ``mask="nan"``, a target of NaN means that there is none: it
adds nothing to the loss, its gradient is exactly 0, and it does not count in a mean,

    Σ_bo w_b v_o m_bo L(p_bo, y_bo) / Σ_bo w_b v_o m_bo,

where m_bo is 1 if there is a target and 0 otherwise, and v are the weights of the
outputs. Losses of rows count a row only if its target is complete, and labels are
marked by ``ignore_index``. A batch without any target has the loss 0 and the gradient
0. In `fastmlp.MLP.fit`, the batches of an epoch count by the same weights. Where a loss
is called or a model is trained, an array ``mask`` that is True where there is a target
has the same effect; targets that it excludes may have any value.

**Weights of outputs.** ``output_weight`` is v in this formula, all 1 by default. A mean
is thus a weighted mean over outputs as well: only the ratios of v matter. A sum is
Σ_bo w_b v_o L.

A custom loss is a function (pred, target) → (value, gradient): see `CustomLoss`.
"""

from typing import TYPE_CHECKING

from . import (
    _action,
    _classification,
    _custom,
    _likelihood,
    _regression,
    _survival,
)
from ._action import *
from ._base import REDUCTIONS as REDUCTIONS
from ._base import Loss as Loss
from ._base import _make
from ._base import masked as masked
from ._classification import *
from ._custom import *
from ._custom import as_loss as as_loss
from ._custom import with_scale as with_scale
from ._likelihood import *
from ._regression import *
from ._survival import *

if TYPE_CHECKING:
    from ._base import TargetLike as TargetLike

__all__ = [
    *_action.__all__,
    *_classification.__all__,
    *_custom.__all__,
    *_likelihood.__all__,
    *_regression.__all__,
    *_survival.__all__,
]

# Pickles must name the public module, not the private ones.
for _object in (Loss, _make, *(globals()[name] for name in __all__)):
    _object.__module__ = __name__
