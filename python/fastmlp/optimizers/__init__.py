"""Optimisers: names, defaults and formulas of ``torch.optim``.

Notation: θ parameters, g gradient, t the step, counted from 1, one count for the whole
optimiser. Before all else ``maximize=True`` turns g into -g, then ``weight_decay`` λ
adds λ θ to g (`AdamW`: θ is multiplied by 1 - lr λ instead).

``eps_mode`` says where ε stands in a denominator made of a mean square v, on which
libraries disagree: "outside", √v + ε (torch; the default), or "inside", √(v + ε), for
`Adam` and `AdamW` m̂ / √(v̂ + ε). These two know "hat" as well, the form without bias
correction in the denominator, which Keras, TensorFlow and scikit-learn use ("ε hat" in
section 2 of Kingma & Ba).

The learning rate ``lr`` is a number ≥ 0, one of `fastmlp.schedules`, or a function of
the step, an int that counts from 0; the function should depend on nothing else, and be
picklable if the optimiser is to be.

All optimisers take these as well:

clip_norm : float, optional
    Gradients are multiplied by min(1, clip_norm / (‖g‖ + 1e-6)), ‖g‖ the Euclidean norm
    of all of them together (``torch.nn.utils.clip_grad_norm_``). > 0.
clip_value : float, optional
    Or each is cut to [-clip_value, clip_value] (``clip_grad_value_``). > 0.
l1 : float
    μ ≥ 0: μ sign(θ) is added to g, after clipping and beside weight decay; the penalty
    is μ ‖θ‖₁, and ``maximize`` leaves it one. sign(0) = 0.
decay : {"all", "weights"}
    "weights": ``weight_decay`` and ``l1`` leave biases and the parameters of norm
    layers alone; in `Optimizer.step`, arrays of fewer than two dimensions.
ema : float, optional
    d, from above 0 to below 1: keep an exponential moving average a of the parameters,
    a ← θ after the first step, then a ← a + (1 - d) (θ - a) after each; see
    `Optimizer.ema_params` and `Optimizer.averaged`.

Gradients handed in are never changed.
"""

from . import _first_order
from ._base import Optimizer
from ._first_order import *

__all__ = ["Optimizer", *_first_order.__all__]

# Pickles name the public module, wherever a class is defined.
for _name in __all__:
    globals()[_name].__module__ = __name__
