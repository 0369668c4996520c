"""Models from PyTorch."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .. import _validate
from .._validate.hints import hinted
from ..layers import checked_activation
from .torch_builder import Builder
from .torch_modules import ModuleReader
from .torch_state import prefixes, read_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import torch

    from .._network.model import MLP
    from .._validate import Seed
    from ..layers import Activation


@hinted
def from_torch(
    source: torch.nn.Module | Mapping[str, Any],
    *,
    prefix: str | Sequence[str] = "",
    activation: str | Activation | Sequence[str | Activation] | None = None,
    output_activation: str | Activation = "identity",
    dtype: npt.DTypeLike | None = None,
    seed: Seed | None = None,
) -> MLP:
    """Return a model with the layers and parameters of a PyTorch module or state dict.

    Parameters
    ----------
    source : torch.nn.Module or mapping of str to tensor or array_like
        A ``torch.nn.Sequential`` of the modules listed in the notes, which may
        contain other Sequentials; a single one of these modules; a module whose own
        ``forward`` calls them, as the notes describe; or a state dict of tensors or of
        arrays (as ``safetensors.numpy.load_file`` returns), for which PyTorch is not
        needed.
    prefix : str or sequence of str
        Prefix of the entries to take from a state dict, such as
        ``"mlp_extractor.policy_net"``. The layers of several prefixes are chained, as
        in ``["mlp_extractor.policy_net", "action_net"]``.
    activation : str or Activation or sequence of them, optional
        Hidden activations: one for all layers, or a sequence with one for each. This
        must be given for a state dict, which does not contain activations, and must not
        be given for a module.
    output_activation : str or Activation
        Activation after the last layer of a state dict.
    dtype : {"float32", "float64"}, optional
        Dtype of the model; by default that of the parameters. Parameters of other
        dtypes, such as bfloat16, are converted only if ``dtype`` is given.
    seed : int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Seed of the sample orders in `MLP.fit` and of dropout, as for `MLP`.

    Returns
    -------
    MLP
        Model with bitwise copies of the parameters; it is independent of ``source``.
        Parameters with ``requires_grad=False`` are frozen; see `MLP.freeze`.

    Raises
    ------
    TypeError, ValueError
        If a module or entry has no counterpart in fastmlp; the message names it.

    Notes
    -----
    These modules are converted: ``Linear``, ``Dropout``, ``AlphaDropout``,
    ``LayerNorm``, ``RMSNorm``, ``GroupNorm``, ``BatchNorm1d`` with running statistics,
    ``PReLU``, ``GLU``, the activations that fastmlp has with the same formulas,
    ``Identity``, ``Flatten``, which does not change rows, and all modules that
    `MLP.to_torch` returns. The weight of a ``Linear`` may have the parametrisations of
    `Dense`. Other modules and constants are refused, and so are modules that have
    forward hooks or other parametrisations, or that share parameters or statistics with
    another module.

    A ``forward`` of a class of your own is traced by ``torch.fx``. It may call modules
    one after the other, functions and methods that are activations, ``F.dropout`` with
    ``training=self.training``, ``F.linear`` with parameters of the module, and calls
    that only flatten rows. The sum ``x + h`` becomes a `Residual` if ``h`` is computed
    from ``x`` by such steps, or if both are and one of them by a single ``Linear`` that
    changes the width, and ``torch.cat`` along the last axis a `Concat` or `Parallel`.
    Everything else is refused, and the message names the step: other functions, several
    inputs or outputs, calls that depend on values, and modules with parameters that are
    called twice. Optional arguments have their defaults. The method is called twice
    with placeholders, once for each mode; attributes that it sets are restored.

    A state dict contains only layers that have parameters or statistics. Layers whose
    names differ in a number (``fc2``, ``fc10``) are ordered by the number, others as in
    the mapping. If all names are numbers, as for a single ``Sequential``, the first
    number missing between two dense layers is taken as an activation; further missing
    numbers are taken as dropouts and left out, and modules before the first layer are
    assumed to do nothing. With other names, an activation follows each dense layer but
    the last. Normalisations get PyTorch's default constants. Residual blocks, and
    normalisations with only a weight, such as ``RMSNorm``, cannot be read from a state
    dict: pass the module, or make the model and use its `MLP.load_state_dict`.

    >>> mlp = fm.from_torch(net)  # an nn.Sequential
    >>> mlp = fm.from_torch(
    ...     policy.state_dict(),
    ...     prefix=["mlp_extractor.policy_net", "action_net"],
    ...     activation="tanh",
    ... )
    """
    builder = Builder(None if dtype is None else _validate.float_dtype(dtype))
    # If PyTorch has not been imported, `source` cannot be a module.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        if prefix != "" or activation is not None or output_activation != "identity":
            raise ValueError(
                "prefix, activation and output_activation can be used only with a "
                "state dict, but source is a module, which contains its "
                "activations; to convert a part of the module, pass its submodule "
                "as source"
            )
        ModuleReader(torch, builder, source).read("", source)
    elif hasattr(source, "keys"):
        output = checked_activation("output_activation", output_activation)
        read_state(source, prefixes(prefix), activation, output, builder)
    else:
        path = isinstance(source, (str, os.PathLike))
        hint = "; for a file, pass torch.load(path)" * path
        raise TypeError(
            "source must be a torch.nn.Module or a state dict (a mapping of names to "
            f"tensors or arrays), got {_validate.describe(source)}{hint}"
        )
    return builder.build(seed)
