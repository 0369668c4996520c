"""The model class, for modules that make models but stand below it.

Readers of files and of other libraries' models end in a new model, and the model's
methods write such files: without this the two would import each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..mlp import MLP

_classes: list[type[MLP]] = []


class EpochSequence:
    """A model's own sequence of epochs, which each fit without a seed continues.

    Attributes
    ----------
    seed : int
        Seed of the orders of samples, and of dropout.
    done : int
        Number of epochs so far.
    within : dict or None
        Progress within the next epoch, as a checkpoint stored it.
    """

    __slots__ = ("done", "seed", "within")

    def __init__(
        self, seed: int, done: int = 0, within: dict[str, Any] | None = None
    ) -> None:
        self.seed, self.done, self.within = seed, done, within


def register(cls: type[MLP]) -> type[MLP]:
    """Make ``cls`` the class of new models; a class decorator."""
    _classes[:] = [cls]
    return cls


def model_class() -> type[MLP]:
    """Return the class of new models, `fastmlp.MLP`."""
    return _classes[0]


def is_model(value: object) -> bool:
    """Tell whether something is a model."""
    return isinstance(value, _classes[0])
