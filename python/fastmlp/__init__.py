"""Multilayer perceptrons on the CPU: fast, small, and bit-for-bit reproducible.

>>> import numpy as np
>>> import fastmlp as fm
>>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, np.newaxis]
>>> mlp = fm.MLP([1, 16, 1], activation="tanh", seed=0)
>>> history = mlp.fit(
...     x, x**2, loss=fm.MSE(), optimizer=fm.Adam(lr=1e-2), epochs=50, batch_size=16
... )
>>> mlp(x).shape
(64, 1)

`MLP` is the model. The docstrings of `fastmlp.layers`, `fastmlp.losses`,
`fastmlp.optimizers`, `fastmlp.solvers`, `fastmlp.schedules`, `fastmlp.initializers`,
`fastmlp.metrics` and `fastmlp.callbacks` describe the available choices, with formulas.
The names of the activations are in `ACTIVATIONS`, and their formulas are in the
docstring of `fastmlp.layers`. `fastmlp.runtime` sets the number of threads and the
instruction set. `fastmlp.reference` implements networks, losses and optimisers in plain
numpy, as a readable specification. `Monitor`, `MLP.summary`, `MLP.diagram`,
`fastmlp.regions` and, with matplotlib, `fastmlp.plot` serve to inspect a model and its
training.

`fastmlp.sklearn` has estimators for scikit-learn, and `fastmlp.rl` has building blocks
for reinforcement learning. `MLP.save` stores a model, which `load` reads; `Checkpoint`
stores a training run in progress. `from_torch`, `from_sklearn` and `from_keras` import
models, and `MLP.to_torch`, `MLP.to_onnx` and `MLP.to_c` export them.
`MLP.as_torch_module` makes a model part of a PyTorch model, and `MLP.predictor` serves
control loops.
"""

import sys as _sys
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

try:
    from fastmlp._core import ACTIVATIONS, DivergenceError, __version__
except ImportError as _error:
    if "sub-interpreter" in str(_error):
        raise
    raise ImportError(
        "fastmlp's compiled core, fastmlp._core, cannot be loaded "
        f"({_error}). If Python runs in fastmlp's source tree, change to "
        "another directory, or run `pip install .` there first. Otherwise, "
        "the installation does not fit this Python: reinstall fastmlp."
    ) from _error

from . import (
    callbacks,
    initializers,
    layers,
    losses,
    metrics,
    optimizers,
    runtime,
    schedules,
    solvers,
)
from ._training.check_grad import check_grad
from ._validate import hints as _hints
from .callbacks import (
    Callback,
    Checkpoint,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateFinder,
)
from .callbacks._monitor import Monitor
from .layers import *
from .losses import *
from .metrics import History
from .mlp import MLP
from .optimizers._adaptive import *
from .optimizers._averaging import *
from .optimizers._estimating import *
from .optimizers._first_order import *
from .optimizers._orthogonal import *
from .optimizers._signs import *
from .runtime import *
from .solvers import *

# Pickles name the module of each class, so these modules must remain importable:
# `fastmlp.history` for `History` in pickles from version 0.1.0, and `fastmlp.monitor`
# for `Monitor` in all pickles.
history = _sys.modules[f"{__name__}.history"] = metrics
monitor = _sys.modules[f"{__name__}.monitor"] = callbacks._monitor

# The C++ binding creates this exception class without a docstring.
DivergenceError.__doc__ = """The loss or a gradient of a training step is not finite.

`fastmlp.MLP.fit` restores the last good state of the model; `fastmlp.MLP.train_step`
does not take the step.
"""


if _TYPE_CHECKING:
    from . import plot, regions, rl, sklearn
    from ._formats.from_keras import from_keras
    from ._formats.from_sklearn import from_sklearn
    from ._formats.from_torch import from_torch
    from ._formats.model_file import load

# Modules and functions that are imported on first access, because they are rarely used
# or need packages other than numpy.
_LAZY_MODULES = ("plot", "regions", "rl", "sklearn")
_LAZY_FUNCTIONS = {
    "from_keras": "_formats.from_keras",
    "from_sklearn": "_formats.from_sklearn",
    "from_torch": "_formats.from_torch",
    "load": "_formats.model_file",
}


def __getattr__(name: str) -> _Any:
    if name in _LAZY_MODULES:
        return _import_module(f"{__name__}.{name}")
    if name in _LAZY_FUNCTIONS:
        module = _import_module(f"{__name__}.{_LAZY_FUNCTIONS[name]}")
        return globals().setdefault(name, getattr(module, name))
    raise _hints.attribute(__name__, name, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "ACTIVATIONS",
    "MLP",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "DivergenceError",
    "EarlyStopping",
    "History",
    "LambdaCallback",
    "LearningRateFinder",
    "Monitor",
    "__version__",
    "callbacks",
    "check_grad",
    "from_keras",
    "from_sklearn",
    "from_torch",
    "initializers",
    "layers",
    "load",
    "losses",
    "metrics",
    "optimizers",
    "plot",
    "regions",
    "rl",
    "runtime",
    "schedules",
    "sklearn",
    "solvers",
]
__all__ += layers.__all__
__all__ += losses.__all__
__all__ += optimizers._adaptive.__all__
__all__ += optimizers._averaging.__all__
__all__ += optimizers._estimating.__all__
__all__ += optimizers._orthogonal.__all__
__all__ += optimizers._first_order.__all__
__all__ += optimizers._signs.__all__
__all__ += runtime.__all__
__all__ += solvers.__all__

# Errors about unknown names say what to write instead.
for _name in __all__:
    if isinstance(globals().get(_name), type(_sys)):
        _hints.watch(f"{__name__}.{_name}")
_hints.watch(__name__)
