"""The model class, for modules that make models but stand below it.

Readers of files and of other libraries' models end in a new model, and the model's
methods write such files: without this the two would import each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..mlp import MLP

_classes: list[type[MLP]] = []


def register(cls: type[MLP]) -> type[MLP]:
    """Make ``cls`` the class of new models; a class decorator."""
    _classes[:] = [cls]
    return cls


def model_class() -> type[MLP]:
    """Return the class of new models, `fastmlp.MLP`."""
    return _classes[0]
