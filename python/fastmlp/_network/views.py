"""A model's parameters and running statistics by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
            parameters: dict[str, Array] = {}
            statistics: dict[str, Array] = {}
            bias = None if op.bias is None else params[op.bias : op.bias + n]
            if op.weight is not None and op.kind == "dense":
                flat = params[op.weight : op.weight + op.n_in * n]
                parameters[f"{name}.weight"] = flat.reshape(op.n_in, n)
                self.weights.append(parameters[f"{name}.weight"])
                self.biases.append(bias)
                self.places.append(op.name)
                self._dense.add(f"{name}.weight")
            elif op.weight is not None:
                layer = by_name[op.name]
                flat = params[op.weight : op.weight + op.weight_size]
                weight = flat.reshape(layer.arrays(op.n_in)["weight"])
                self.others.append((weight, layer))
                parameters[f"{name}.weight"] = weight
            if bias is not None:
                parameters[f"{name}.bias"] = bias
            starts = {"weight": op.weight, "bias": op.bias}
            for whole, array in parameters.items():
                role = whole.rsplit(".", 1)[1]
                start = starts[role]
                assert start is not None
                self.ranges[whole] = (start, start + array.size)
                self.owners[whole] = (i, role)
            if op.statistics is not None:
                both = buffers[op.statistics : op.statistics + 2 * n]
                mean, var = by_name[op.name].statistics
                statistics = {f"{name}.{mean}": both[:n], f"{name}.{var}": both[n:]}
            self.parameters |= parameters
            self.statistics |= statistics
            self.named |= {**parameters, **statistics}

    def in_torch_layout(self) -> dict[str, Array]:
        """Return the same views, with dense layers' weights transposed to (out, in)."""
        return {n: v.T if n in self._dense else v for n, v in self.named.items()}
