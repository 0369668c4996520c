"""How each kind of layer is expressed in PyTorch, Keras, ONNX and C, as a table.

The modules for the formats (`from_torch`, `to_torch`, `from_keras`, `to_onnx`, `c`)
handle dense layers, activations and residual blocks themselves; for all other layers
they use this table. PyTorch and Keras are not imported: the table refers to them by
name only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._base import LayerForm as LayerForm
from ._columns import ColumnsForm, EmbeddingForm, PeriodicForm, PiecewiseLinearForm
from ._noise import (
    AlphaDropoutForm,
    DropoutForm,
    GaussianDropoutForm,
    GaussianNoiseForm,
)
from ._norms import (
    BatchNormForm,
    GroupNormForm,
    LayerNormForm,
    RMSNormForm,
    StandardiseForm,
)
from ._norms import standardise_statistics as standardise_statistics
from ._units import GLUForm, PReLUForm, ScaleForm

if TYPE_CHECKING:
    from ...layers import Layer

_FORMS = (
    *(DropoutForm, AlphaDropoutForm, GaussianNoiseForm, GaussianDropoutForm),
    *(LayerNormForm, RMSNormForm, GroupNormForm, BatchNormForm, PReLUForm),
    *(GLUForm, ScaleForm, StandardiseForm, ColumnsForm, EmbeddingForm, PeriodicForm),
    PiecewiseLinearForm,
)
LAYERS: dict[type[Layer], type[LayerForm]] = {form.layer: form for form in _FORMS}
BY_KIND: dict[str, type[LayerForm]] = {form.layer.kind: form for form in _FORMS}
