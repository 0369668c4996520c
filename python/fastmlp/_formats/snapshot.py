"""Copies of everything that training changes, and checks of such copies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _validate
from .._network.blocks import outline
from .json_state import fields, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._network.model import Model
    from ..optimizers import Optimizer
    from ..solvers import Solver


def model_state(mlp: Model, optimizer: Optimizer | Solver | None) -> dict[str, Any]:
    """Return copies of everything that training changes."""
    return {
        "params": mlp.params.copy(),
        "buffers": mlp.buffers.copy(),
        "training_state": tuple(mlp.core.training_state),
        "optimizer": None if optimizer is None else optimizer.state_dict(),
    }


def restore(
    state: Mapping[str, Any], mlp: Model, optimizer: Optimizer | Solver | None = None
) -> None:
    """Restore a state that `model_state` returned."""
    mlp.params[:] = state["params"]
    mlp.buffers[:] = state["buffers"]
    mlp.core.training_state = state["training_state"]
    if optimizer is not None and state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])


def training_state(where: str, value: object) -> tuple[int, int, int]:
    """Check and return the seed and the numbers of passes and tracked batches."""
    if not isinstance(value, (list, tuple)) or len(value) != 3:
        got = _validate.describe(value)
        if isinstance(value, (list, tuple)):
            got += f" of length {len(value)}"
        raise ValueError(f"{where} must be a list of three ints, got {got}")
    return (
        whole(f"{where}[0]", value[0], 64),
        whole(f"{where}[1]", value[1], 64),
        whole(f"{where}[2]", value[2], 63),
    )


def check_optimizer(
    where: str, state: Any, mlp: Model, optimizer: Optimizer | Solver
) -> Callable[[], None]:
    """Refuse a state of another kind of optimiser or of another model.

    Returns a function that loads the state.
    """
    load = optimizer._loader(state, mlp)
    assert isinstance(state, dict)
    for i, slot in enumerate(state["slots"]):
        for name, array in slot.items():
            # Only a solver's theta and grad have one element per parameter.
            if "theta" in slot and name not in ("theta", "grad"):
                continue
            if i > 0 or (array.size, array.dtype) != (mlp.n_params, mlp.dtype):
                raise ValueError(
                    f"{where}.slots[{i}].{name} must be a {mlp.dtype} array with an "
                    f"element for each parameter, {mlp.n_params} in all, got "
                    f"{_validate.describe(outline(array))}"
                )
    return load


def check_kept(
    where: str, value: object, mlp: Model, optimizer: Optimizer | Solver | None
) -> None:
    """Refuse a state that `restore` could not load."""
    kept = fields(where, value, ("params", "buffers", "training_state", "optimizer"))
    for name in ("params", "buffers"):
        array, own = kept[name], getattr(mlp, name)
        if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (
            mlp.dtype,
            own.shape,
        ):
            raise ValueError(
                f"{where}.{name} must be a {mlp.dtype} array of shape {own.shape}, "
                f"got {_validate.describe(array)}"
            )
    training_state(f"{where}.training_state", kept["training_state"])
    if kept["optimizer"] is not None and optimizer is not None:
        check_optimizer(f"{where}.optimizer", kept["optimizer"], mlp, optimizer)
