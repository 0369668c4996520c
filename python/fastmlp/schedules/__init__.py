"""Schedules, for the argument ``lr`` of every optimiser and for `fastmlp.Dropout`.

>>> import fastmlp as fm
>>> cosine = fm.schedules.Cosine(1e-3, period=10_000)
>>> opt = fm.Adam(lr=fm.schedules.LinearWarmup(cosine, 500))

A schedule may also give an optimiser's ``weight_decay``, ``momentum`` and ``l1``, or
the rate of a layer that is random in training; "learning rate" then stands for that
number.

Schedules count an optimiser's steps (batches, not epochs) from 0; `Schedule.values`
returns the learning rates of steps ``first``, ``first`` + 1, …. Schedules are immutable
and depend on the step only, so that training resumes exactly from a stored state, and
several optimisers can share a schedule. Only `ReduceOnPlateau` has a state, which is
part of the optimiser's state.

If ``torch.optim.lr_scheduler`` has the same schedule, the formula and the names of the
parameters are those of torch, except that a number of steps is called ``steps`` or
``period``. Torch counts calls of ``scheduler.step()``, which must be called once after
each step of the optimiser. Whole powers are computed by multiplication, and cosines and
logarithms by the core, so that values are the same to the last bit everywhere.
"""

from . import _composed, _falling, _phases, _plateau
from ._base import Schedule
from ._composed import *
from ._falling import *
from ._phases import *
from ._plateau import *
from ._plateau import ReduceOnPlateau
from ._timeline import Timeline as Timeline

__all__ = [
    "Schedule",
    *_composed.__all__,
    *_falling.__all__,
    *_phases.__all__,
    *_plateau.__all__,
]

# Pickles and files must name the public module, not the private ones.
for _name in __all__:
    globals()[_name].__module__ = __name__


def is_pure(value: object) -> bool:
    """Return whether a value is a schedule of this module that has no state."""
    kind = type(value)
    own = globals().get(kind.__name__) is kind and isinstance(value, Schedule)
    return own and not isinstance(value, ReduceOnPlateau)
