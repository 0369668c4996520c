"""What may be done while `fastmlp.MLP.fit` trains, and the protocol to add to it.

A callback is an object of a subclass of `Callback` or a plain function of (mlp,
history), which is called after each epoch. For one fit the order of calls is

====================  =================================================================
``on_train_begin``    once, before the first epoch; an error here changes nothing
``on_epoch_begin``    before each epoch
``on_batch_end``      after each step, if a callback overrides it
``on_epoch_end``      after each epoch, whose values are in the history by then; with
                      ``restore_best`` and the like nothing has been restored yet
``on_train_end``      once, after the last epoch, whoever ended the training
``on_error``          once, instead of ``on_train_end``, if an exception ends it; also
                      if that comes from an ``on_train_end``, of its own callback and
                      those after it
====================  =================================================================

and for each of them that of the callbacks in their sequence, but for `Checkpoint`,
`CSVLogger` and `LearningRateFinder`, which come last so that they see, or take back,
what the others have made of the epoch. Any exception
from a callback ends the training and goes on to the caller: the model, the optimiser
and the history stay as they are then, and can be used.

A method that is not overridden is never called: a callback with ``on_epoch_end`` alone
costs one Python call an epoch, a fraction of a microsecond. Whole epochs run in one
native call without the GIL; if a callback overrides ``on_batch_end`` that call comes
back to Python after each step, which adds about a microsecond a step, and the results
are the same to the last bit.

States: ``state_dict()`` returns what a callback knows, as a dict of plain values and
arrays, and ``load_state_dict(state)`` makes the next fit go on from there, where it
otherwise would start afresh. `Checkpoint` stores them.
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

# Pickles name the public module, wherever a class is defined.
for _name in __all__:
    globals()[_name].__module__ = __name__
