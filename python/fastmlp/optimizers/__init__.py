"""Optimisers: names, defaults and formulas of ``torch.optim``, or of papers.

Notation: θ is the parameters, g the gradient, and t the number of the optimiser's step,
counted from 1. First ``maximize=True`` turns g into -g, then ``weight_decay`` λ adds
λ θ to g. Decoupled weight decay multiplies θ by 1 - lr λ instead (`AdamW`, `Lion`, and
others with ``decoupled_weight_decay=True``).

Libraries disagree on the position of ε in a denominator with a mean square v.
``eps_mode`` chooses it: "outside" means √v + ε (torch; the default), and "inside" means
√(v + ε), or m̂ / √(v̂ + ε) for `Adam` and `AdamW`. `Adam` and `AdamW` also have "hat",
the form without bias correction in the denominator, which Keras, TensorFlow and
scikit-learn use ("ε hat" in section 2 of Kingma & Ba). An ε below the smallest normal
number of the parameters' dtype, such as 0, counts as that number (1.2e-38 in float32),
so that the step for a gradient of 0 is 0, not NaN as in torch.

The learning rate ``lr`` is a number ≥ 0, one of `fastmlp.schedules`, or a function of
the step, an int that counts from 0. The function should depend on the step alone, and
must be picklable if the optimiser is to be pickled.
``weight_decay``, ``l1`` and ``momentum`` can be schedules or functions as well, except
`fastmlp.schedules.ReduceOnPlateau`; the values of a ``momentum`` must then be > 0,
except for `Muon`.

All optimisers also take these options:

accumulate : int
    Number k ≥ 1 of gradients per step: k calls of ``train_step`` or ``step``, or k
    batches of ``fit``, take one step with the mean of their gradients. Only such steps
    count, for schedules and for `Optimizer.step_count`; gradients of an incomplete step
    wait for the next call.
clip_norm : float, optional
    Upper bound > 0 of the norm of the gradients: they are multiplied by
    min(1, clip_norm / (‖g‖ + 1e-6)), where ‖g‖ is the Euclidean norm of all gradients
    together (``torch.nn.utils.clip_grad_norm_``); excludes ``clip_value``.
clip_value : float, optional
    Upper bound > 0 of the magnitude of each gradient, which is clamped to
    [-clip_value, clip_value] (``clip_grad_value_``).
l1 : float, Schedule or callable
    Coefficient μ ≥ 0 of the penalty μ ‖θ‖₁: μ sign(θ) is added to g after clipping,
    with sign(0) = 0, in addition to weight decay. ``maximize`` does not negate it.
decay : {"all", "weights"}
    Parameters that ``weight_decay`` and ``l1`` apply to: "weights" excludes biases and
    the parameters of norm layers. In `Optimizer.step` it needs a model, or arrays of
    which those with fewer than two dimensions are excluded.
ema : float, optional
    Decay d, above 0 and below 1, of an exponential moving average a of the parameters:
    a ← θ after the first step, then a ← a + (1 - d) (θ - a) after each step; see
    `Optimizer.ema_params` and `Optimizer.averaged`. `fit` evaluates validation data
    with θ, not with a.

groups : sequence of dict
    Parameters with hyperparameters of their own. ``"params"`` is a name as in
    `MLP.named_parameters`, a pattern, such as ``"*.bias"`` or ``"0.*"``, or a list of
    them; a parameter belongs to the first group with a pattern that matches it. All
    other keys are hyperparameters, except ``accumulate``, ``ema``, ``decay``, those
    that cannot be changed, and those on which state depends that all parameters share,
    such as the ``betas`` of `NAdam`. What a group does not set is as for all other
    parameters. ``"lr"`` is a number; if the optimiser has a schedule, the group's
    learning rate is the schedule's times lr / n, where n is the rate that the schedule
    scales, its attribute ``nominal``. ``"lr_scale"`` is a factor of the optimiser's
    learning rate, and takes the place of ``"lr"``. ``weight_decay`` and ``l1`` of a
    group apply to all its parameters, whatever ``decay`` says. With a ``clip_norm`` of
    its own, a group is clipped by the norm of its own gradients; those of all other
    parameters without a ``clip_value`` of their own are clipped together. An optimiser
    with groups takes steps of models only.

    >>> opt = fm.AdamW(
    ...     1e-3,
    ...     groups=[
    ...         {"params": "*.bias", "weight_decay": 0.0},
    ...         {"params": ["0.*", "2.*"], "lr": 1e-4},
    ...     ],
    ... )

Parameters that `MLP.freeze` has frozen are never changed. The optimisers do not change
the gradients that they are given.
"""

from . import (
    _adaptive,
    _averaging,
    _estimating,
    _first_order,
    _orthogonal,
    _signs,
)
from ._adaptive import *
from ._averaging import *
from ._base import Optimizer
from ._estimating import *
from ._first_order import *
from ._orthogonal import *
from ._signs import *

__all__ = [
    "Optimizer",
    *_first_order.__all__,
    *_adaptive.__all__,
    *_signs.__all__,
    *_averaging.__all__,
    *_estimating.__all__,
    *_orthogonal.__all__,
]

# Pickles must name the public module, not the private ones.
for _name in __all__:
    globals()[_name].__module__ = __name__
