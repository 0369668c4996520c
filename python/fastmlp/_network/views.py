"""A model's parameters and running statistics by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..layers import Dense
from .resolve import torch_names, walk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .._core import OpInfo
    from .._validate import Array
    from ..layers import Layer


class Views:
    """Views of a model's parameters and running statistics, by PyTorch's names."""

    def __init__(
        self,
        layers: Sequence[Layer],
        ops: Sequence[OpInfo],
        params: Array,
        buffers: Array,
    ) -> None:
        self.weights: list[Array] = []
        self.biases: list[Array | None] = []
        # Names in the core of the dense layers that `weights` and `biases` belong to.
        self.places: list[str] = []
        self.parameters: dict[str, Array] = {}
        self.statistics: dict[str, Array] = {}
        self.named: dict[str, Array] = {}
        # Begin and end of each array of parameters in `params`, and its place in the
        # core: the index of its op and its role there.
        self.ranges: dict[str, tuple[int, int]] = {}
        self.owners: dict[str, tuple[int, str]] = {}
        # Weights of layers that are not dense, with these layers.
        self.others: list[tuple[Array, Layer]] = []
        self._dense: set[str] = set()
        names = torch_names(layers)
        by_name = {place.name: place.layer for place in walk(layers)}
        for i, op in enumerate(ops):
            name, n = names[op.name], op.n_out
            layer = by_name.get(op.name)  # none for a projection
            parameters: dict[str, Array] = {}
            statistics: dict[str, Array] = {}
            found: dict[str, Array] = {}
            for role, start, size in _parts(op):
                own = layer.role(role) if isinstance(layer, Dense) else role
                whole = f"{name}.{own}"
                array = params[start : start + size]
                if op.kind == "dense" and role != "bias":
                    array = array.reshape(-1, n)
                    self._dense.add(whole)
                elif role == "weight":
                    assert layer is not None
                    array = array.reshape(layer.arrays(op.n_in)[role])
                found[role] = parameters[whole] = array
                self.ranges[whole] = (start, start + size)
                self.owners[whole] = (i, role)
            if op.kind == "dense":
                self.weights.append(found["weight"])
                self.biases.append(found.get("bias"))
                self.places.append(op.name)
            elif "weight" in found:
                assert layer is not None
                self.others.append((found["weight"], layer))
            if op.statistics is not None:
                assert layer is not None
                first, second = (
                    (layer.role("left"), layer.role("right"))
                    if isinstance(layer, Dense)
                    else layer.statistics
                )
                # Equal lengths but for dense layers, whose second vector is (in,).
                middle = op.statistics + n
                end = middle + (op.n_in if op.kind == "dense" else n)
                statistics[f"{name}.{first}"] = buffers[op.statistics : middle]
                statistics[f"{name}.{second}"] = buffers[middle:end]
            self.parameters |= parameters
            self.statistics |= statistics
            self.named |= {**parameters, **statistics}

    def in_torch_layout(self) -> dict[str, Array]:
        """Return the same views, with dense layers' weights transposed to (out, in)."""
        return {n: v.T if n in self._dense else v for n, v in self.named.items()}


def _parts(op: OpInfo) -> list[tuple[str, int, int]]:
    """Return role, offset and size of an op's arrays in the order of the parameters."""
    parts = (
        ("weight", op.weight, op.weight_size),
        ("bias", op.bias, op.n_out),
        ("magnitude", op.magnitude, op.n_out),
    )
    found = [(role, at, size) for role, at, size in parts if at is not None]
    return sorted(found, key=lambda part: part[1])
