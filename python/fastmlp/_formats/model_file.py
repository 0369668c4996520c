"""Saving and loading models: `fastmlp.MLP.save` and `load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _validate
from .._network.model import model_class
from .._validate.hints import hinted
from ..layers import Activation
from . import model_schema
from .atomic_write import file_name, replace_file

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from .._network.model import MLP, Model


def save(mlp: Model, path: str | os.PathLike[str]) -> None:
    """Write a model to a file: `fastmlp.MLP.save`."""
    name = file_name(path)
    training = {
        "seed": mlp.sequence.seed,
        "epochs": mlp.sequence.done,
        "within": mlp.sequence.within,
    }
    # The history is not saved because its times differ between otherwise equal runs.
    replace_file(name, model_schema.writer(mlp, training, None))


@hinted
def load(
    path: str | os.PathLike[str], *, activations: Iterable[Activation] = ()
) -> MLP:
    """Load a model from a file that `MLP.save` or `Checkpoint` wrote.

    The loaded model has the parameters and running statistics of the saved model, the
    seed of its training's random numbers and its position in training. If the file is a
    checkpoint, the loaded model also has the history. To resume training exactly, with
    the optimiser and the callbacks, use `Checkpoint.load`.

    Parameters
    ----------
    path : str or path-like
        Path of the file. No code in it is executed.
    activations : sequence of Activation, optional
        Custom activations, which files do not contain: one for each custom activation
        of the model, in the order of its layers.

    Returns
    -------
    MLP
        A new model.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError, ValueError
        If the file is not exactly as `MLP.save` or `Checkpoint` wrote it, or if
        ``activations`` are not those that the model needs.

    Examples
    --------
    >>> mlp.save("model.safetensors")
    >>> same = fm.load("model.safetensors")
    """
    name = file_name(path)
    objects = "activations must be a sequence of fm.Activation objects"
    own = list(_validate.iterator(objects, activations))
    for i, item in enumerate(own):
        if not isinstance(item, Activation) or isinstance(item.function, str):
            got = repr(item) if isinstance(item, Activation) else None
            raise TypeError(
                f"activations[{i}] must be a custom activation, "
                "fm.Activation(function, derivative), got "
                f"{got or _validate.describe(item)}"
            )
    with model_schema.stored(name, "model", own) as stored:
        wanted = stored.functions
        if len(own) != len(wanted):
            raise ValueError(
                f"activations must have length {len(wanted)}, one for each custom "
                f"activation of the model in {name} ({', '.join(wanted) or 'none'}), "
                f"got length {len(own)}"
            )
        mlp = model_class().__new__(model_class())
        mlp._given = stored.given
        mlp._build()
        stored.fill(mlp)
    return mlp
