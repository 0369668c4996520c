"""Layers, and the names and formulas of the activations.

Layers are immutable descriptions; the model holds the parameters. In training mode
(in `fastmlp.MLP.fit` and ``train_step``, and in other methods with ``training=True``)
`Dropout` drops elements, `AlphaDropout` replaces them, `GaussianNoise` and
`GaussianDropout` add noise to them, and `BatchNorm` uses the statistics of the batch.

``fastmlp.ACTIVATIONS`` lists the names of the activations h = act(z). All except
softmax are elementwise. If PyTorch has the same activation, the name, the formula and
the constants are those of PyTorch. Constants that have a name in the table are
arguments of `Activation`, as in ``fm.Activation("elu", alpha=0.5)``; the table gives
their defaults.

===============  =====================================================================
name             h
===============  =====================================================================
``identity``     z
``relu``         max(z, 0); derivative 0 at 0 (Nair & Hinton 2010)
``relu6``        min(max(z, 0), 6); derivative 0 at 0 and 6 (Krizhevsky 2010)
``leaky_relu``   z for z > 0, else slope z; slope = 0.01, at least 0; derivative slope
                 at 0 (Maas et al. 2013)
``threshold``    z for z > threshold, else value; threshold = 0, value = 0; derivative 0
                 at the threshold
``elu``          z for z > 0, else alpha (e^z - 1); alpha = 1, at least 0 (Clevert et
                 al. 2016)
``celu``         z for z > 0, else alpha (e^(z / alpha) - 1); alpha = 1, positive
                 (Barron 2017)
``selu``         s z for z > 0, else s a (e^z - 1); s = 1.0507009873554805,
                 a = 1.6732632423543772; derivative s a at 0 (Klambauer et al. 2017)
``gelu``         z Φ(z) = z (1 + erf(z / √2)) / 2 (Hendrycks & Gimpel 2016)
``gelu_tanh``    z (1 + tanh(√(2 / π) (z + 0.044715 z³))) / 2, an approximation of gelu
                 from the same paper: torch's ``GELU(approximate="tanh")``
``silu``         z sigmoid(z), also called swish (Hendrycks & Gimpel 2016; Ramachandran
                 et al. 2017)
``hardswish``    z min(max(z + 3, 0), 6) / 6 (Howard et al. 2019)
``mish``         z tanh(log(1 + e^z)) (Misra 2019)
``softplus``     log(1 + e^(beta z)) / beta; beta = 1, positive (Dugas et al. 2001);
                 without PyTorch's linear threshold
``logsigmoid``   log(1 / (1 + e^-z))
``softsign``     z / (1 + abs(z)) (Bergstra et al. 2009)
``sigmoid``      1 / (1 + e^-z)
``hardsigmoid``  min(max(z + 3, 0), 6) / 6; derivative 0 at -3 and 3 (Howard et al.
                 2019)
``tanh``         tanh(z)
``hardtanh``     min(max(z, min_val), max_val); min_val = -1, max_val = 1; derivative 0
                 at the limits (Collobert 2004)
``tanhshrink``   z - tanh(z)
``softshrink``   z - lambd for z > lambd, z + lambd for z < -lambd, else 0; lambd = 0.5,
                 at least 0; derivative 0 at -lambd and lambd (Donoho 1995)
``hardshrink``   z for abs(z) > lambd, else 0; lambd = 0.5, at least 0; derivative 0 at
                 -lambd and lambd (Donoho & Johnstone 1994)
``sin``          sin(z)
``cos``          cos(z)
``exp``          e^z
``softmax``      e^z_o / Σ_p e^z_p over the last axis, a row's outputs (Bridle 1990)
===============  =====================================================================

Exponentials are arranged so that intermediate results do not overflow if the final one
does not.
"""

from __future__ import annotations

from ._activation import Activation
from ._activation import as_layer as as_layer
from ._activation import checked_activation as checked_activation
from ._base import Layer as Layer
from ._blocks import Block as Block
from ._blocks import Concat, Parallel, Residual
from ._blocks import checked as checked
from ._blocks import core_layers as core_layers
from ._blocks import width_after as width_after
from ._columns import Columns, Embedding, Periodic, PiecewiseLinear
from ._dense import SINGULAR_VECTORS, Dense
from ._dense import activation_of as activation_of
from ._noise import AlphaDropout, Dropout, GaussianDropout, GaussianNoise
from ._noise import RandomLayer as RandomLayer
from ._norms import BatchNorm, GroupNorm, LayerNorm, RMSNorm, Standardise
from ._norms import Normalization as Normalization
from ._units import GLU, PReLU, Scale

__all__ = [
    "GLU",
    "Activation",
    "AlphaDropout",
    "BatchNorm",
    "Columns",
    "Concat",
    "Dense",
    "Dropout",
    "Embedding",
    "GaussianDropout",
    "GaussianNoise",
    "GroupNorm",
    "LayerNorm",
    "PReLU",
    "Parallel",
    "Periodic",
    "PiecewiseLinear",
    "RMSNorm",
    "Residual",
    "Scale",
    "Standardise",
]

# Pickles must name the public module, not the private ones.
for _name in __all__:
    globals()[_name].__module__ = __name__

# The classes of layers, by the names that model files use.
LAYERS: dict[str, type[Layer]] = {name: globals()[name] for name in __all__}

# Roles of arrays that are not parameters.
STATISTICS = (
    *(role for kind in LAYERS.values() for role in kind.statistics),
    "num_batches_tracked",
    *SINGULAR_VECTORS,
)
