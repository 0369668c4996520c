"""Models in files: `fastmlp.MLP.save` and `load`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _validate
from .._network.model import model_class
from ..layers import Activation
from . import states

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from ..mlp import MLP


def save(mlp: MLP, path: str | os.PathLike[str]) -> None:
    """Write a model to a file: `fastmlp.MLP.save`."""
    name = states.file_name(path)
    training = {
        "seed": mlp.sequence.seed,
        "epochs": mlp.sequence.done,
        "within": mlp.sequence.within,
    }
    # Without the history, whose times differ where all else is the same to the bit.
    data = states.encoded(mlp, "mlp.save", training, None)
    states.replace_file(name, data)


def load(
    path: str | os.PathLike[str], *, activations: Iterable[Activation] = ()
) -> MLP:
    """Return the model in a file that `MLP.save` or `Checkpoint` wrote.

    It has the parameters and running statistics of the one that was saved, the seed of
    what training draws, and how far training had come; of a checkpoint also its
    history. To go on training exactly, optimiser and callbacks included, see
    `Checkpoint.load`.

    Parameters
    ----------
    path : str or path-like
        The file. Nothing in it is run.
    activations : sequence of Activation, optional
        Those that are functions of one's own, which files do not hold: as many as the
        model has, in the order of its layers.

    Returns
    -------
    MLP
        A new model.

    Raises
    ------
    OSError
        If the file cannot be read.
    TypeError, ValueError
        If it is anything but what `MLP.save` or `Checkpoint` wrote, to the last bit;
        or if ``activations`` are not those that it needs.
    ImportError
        Without the ``safetensors`` package.

    Examples
    --------
    >>> mlp.save("model.safetensors")
    >>> same = fm.load("model.safetensors")
    """
    name = states.file_name(path)
    try:
        own = list(activations)
    except TypeError:
        got = _validate.describe(activations)
        raise TypeError(
            f"activations must be a sequence of fm.Activation, got {got}"
        ) from None
    for i, item in enumerate(own):
        if not isinstance(item, Activation) or isinstance(item.function, str):
            got = repr(item) if isinstance(item, Activation) else None
            raise TypeError(
                f"activations[{i}] must be fm.Activation(function, derivative), "
                f"got {got or _validate.describe(item)}"
            )
    stored = states.stored(name, "model", own)
    wanted = stored.functions
    if len(own) != len(wanted):
        raise ValueError(
            f"activations must be {len(wanted)} for the model in {name}"
            + (f": {', '.join(wanted)}" if wanted else "")
            + f"; got {len(own)}"
        )
    mlp = model_class().__new__(model_class())
    mlp._given = stored.given
    mlp._build()
    stored.fill(mlp)
    return mlp
