"""Callbacks for `fastmlp.MLP.fit`, and their protocol.

A callback is an object of a subclass of `Callback`, or a plain function of (mlp,
history), which is called after each epoch. One fit makes these calls, in this order:

====================  =================================================================
``on_train_begin``    once, before the first epoch; if it raises, nothing has changed,
                      and if it returns True, no epoch is trained
``on_epoch_begin``    before each epoch
``on_batch_end``      after each step, if a callback overrides it
``on_epoch_end``      after each epoch; the history already has its values, but
                      ``restore_best`` and similar options have not restored anything
``on_train_end``      once, after the last epoch, however the training ended
``on_error``          once, instead of ``on_train_end``, if an exception ends the
                      training; if a callback's ``on_train_end`` raised it, only for
                      that callback and those after it
====================  =================================================================

Each method is called for all callbacks in the order given, except that `Checkpoint`,
`CSVLogger` and `LearningRateFinder` come last so that they see, or undo, the changes
that the other callbacks made in the epoch. Any exception from a callback ends the
training and is raised to the caller of fit. The model, the optimiser and the history
keep their current state and can be used.

A method that is not overridden is never called: a callback with only ``on_epoch_end``
costs one Python call per epoch, a fraction of a microsecond. With arrays and a built-in
loss, a whole epoch is one native call without the GIL. If a callback overrides
``on_batch_end``, the native call returns to Python after each step, which adds about a
microsecond per step; the results are the same to the last bit.

``state_dict()`` returns a callback's state as a dict of plain values and arrays.
``load_state_dict(state)`` makes the next fit resume from that state; otherwise each fit
starts from an empty state. `Checkpoint` stores these states.
"""

from ._base import Callback, LambdaCallback, Run
from ._checkpoint import Checkpoint
from ._csv_logger import CSVLogger
from ._early_stopping import EarlyStopping, TimeLimit
from ._lr_finder import LearningRateFinder

__all__ = [
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "LambdaCallback",
    "LearningRateFinder",
    "Run",
    "TimeLimit",
]

# Pickles refer to the classes by this public module, not by the private modules that
# define them.
for _name in __all__:
    globals()[_name].__module__ = __name__
