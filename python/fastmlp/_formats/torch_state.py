"""Models from PyTorch's state dicts."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _validate
from ..layers import (
    Activation,
    BatchNorm,
    Normalization,
    checked_activation,
)
from .layers import LAYERS
from .torch_builder import COUNTER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .torch_builder import Builder

# Wrappers of a module prepend these prefixes to all names of the state dict.
_WRAPPERS = ("module.", "_orig_mod.")

_ROLES = ("weight", "bias", "running_mean", "running_var", COUNTER)


class _Leaf(NamedTuple):
    """A layer of a state dict.

    Attributes
    ----------
    name, full : str
        Name of the layer, without and with the prefix.
    entries : dict of str to tensor or array
        Entries of the layer by role, which is the last part of an entry's name.
    """

    name: str
    full: str
    entries: dict[str, Any]

    @property
    def what(self) -> str:
        """The name for messages."""
        return f"layer {self.full}" if self.full else "the layer"


def prefixes(prefix: Any) -> list[str]:
    """Return the prefixes as a list, with a dot at the end of each non-empty one."""
    given = [prefix] if isinstance(prefix, str) else prefix
    wanted = "prefix must be a str or a sequence of str"
    prefixes = list(_validate.iterator(wanted, given))
    if not prefixes or not all(isinstance(item, str) for item in prefixes):
        raise TypeError(f"{wanted}, got {_validate.describe(prefix)}")
    return [f"{item.removesuffix('.')}." if item else "" for item in prefixes]


def read_state(
    state: Mapping[str, Any],
    prefixes: Sequence[str],
    activation: object,
    output_activation: str | Activation,
    builder: Builder,
) -> None:
    state = _without_wrappers(state, prefixes[0])
    leaves: list[_Leaf] = []
    for prefix in prefixes:
        found = _leaves(state, prefix)
        if not found:
            known = ", ".join(sorted({n.rpartition(".")[0] for n in state})[:20])
            raise ValueError(
                f"source has no entry that begins with {prefix!r}; its layers are "
                f"{known}"
                if prefix
                else "source has no entries"
            )
        leaves += found
    numbered = len(prefixes) == 1 and all(leaf.name.isdecimal() for leaf in leaves)

    # Find the normalisations, and the layers that an activation follows.
    norms = [leaf for leaf in leaves if _is_norm(leaf)]
    places = _gaps(leaves) if numbered else list(range(len(leaves) - 1))
    if norms and not numbered:
        raise ValueError(
            "source: the names in this state dict do not show whether "
            "activations come before or after normalisations such as "
            f"{norms[0].full}; pass the module instead"
        )
    names = dict(zip(places, _activations(activation, len(places)), strict=True))
    names[len(leaves) - 1] = output_activation
    for i, leaf in enumerate(leaves):
        _add(leaf, builder)
        builder.activation(names.get(i, "identity"))


def _without_wrappers(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = list(state.keys())  # a mapping needs only keys() and its items
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                "the keys of source must be names (str), "
                f"got {_validate.describe(name)}"
            )
    result = {name: state[name] for name in names}
    while not prefix or not any(name.startswith(prefix) for name in result):
        shared = [w for w in _WRAPPERS if all(n.startswith(w) for n in result)]
        if not result or not shared:
            break
        result = {n.removeprefix(shared[0]): v for n, v in result.items()}
    return result


def _leaves(state: Mapping[str, Any], prefix: str) -> list[_Leaf]:
    """Return the layers whose names begin with a prefix, in the model's order."""
    leaves: dict[str, _Leaf] = {}
    for name, value in state.items():
        if not name.startswith(prefix):
            continue
        layer, _, role = name.removeprefix(prefix).rpartition(".")
        if role not in _ROLES:
            raise ValueError(
                f"source[{name!r}] is not a parameter or statistic of a layer that "
                "fastmlp supports; to read only a part of a state dict, pass the "
                "prefix of its names, as in prefix='encoder.'"
            )
        if {"body", "projection", "branches"} & set(layer.split(".")):
            raise ValueError(
                f"source[{name!r}] belongs to a block, whose activations a "
                "state dict does not show: pass the module, or create the model "
                "and use its load_state_dict"
            )
        full = f"{prefix}{layer}".removesuffix(".")
        leaves.setdefault(layer, _Leaf(layer, full, {})).entries[role] = value
    return sorted(leaves.values(), key=_order([leaf.name for leaf in leaves.values()]))


def _order(names: Sequence[str]) -> Callable[[_Leaf], list[tuple[int, int]]]:
    """Return a sort key: names that differ in a number are sorted by the number."""
    first: dict[tuple[str, ...], int] = {}

    def parts(name: str) -> Iterator[tuple[tuple[str, ...], int]]:
        path: tuple[str, ...] = ()
        for token in re.findall(r"\d+|\D+", name):
            number = int(token) if token.isdecimal() else 0
            kind = "#" if token.isdecimal() else token
            yield (*path, kind), number
            path = (*path, token)

    for name in names:
        for path, _ in parts(name):
            first.setdefault(path, len(first))
    return lambda leaf: [(first[path], number) for path, number in parts(leaf.name)]


def _is_norm(leaf: _Leaf) -> bool:
    weight = leaf.entries.get("weight")
    of_columns = {"running_mean", "running_var", COUNTER} & set(leaf.entries)
    return bool(of_columns) or len(getattr(weight, "shape", (0, 0))) == 1


def _gaps(leaves: Sequence[_Leaf]) -> list[int]:
    """Return the indices of the layers that are followed by a missing number."""
    places: list[int] = []
    since_dense = 0
    for i, leaf in enumerate(leaves):
        since_dense = since_dense if _is_norm(leaf) else 0
        if i + 1 == len(leaves) or int(leaves[i + 1].name) - int(leaf.name) < 2:
            continue
        places.append(i)
        since_dense += 1
        if since_dense > 1:
            raise ValueError(
                "source: it is unknown whether the activation comes before or "
                f"after the normalisation {leaf.full}; pass the module instead"
            )
    return places


def _activations(activation: Any, count: int) -> list[str | Activation]:
    """Return one activation for each of ``count`` places."""
    if activation is None:
        if count > 0:
            raise TypeError(
                "activation must be given, because a state dict does not contain "
                "activations; write activation='relu', for example"
            )
        return []
    if isinstance(activation, (str, Activation)) or callable(activation):
        return [checked_activation("activation", activation)] * count
    wanted = "activation must be a name or a sequence of names"
    names = list(_validate.iterator(wanted, activation))
    if len(names) != count:
        raise ValueError(
            f"activation must be one name, or one for each activation, {count} in all; "
            f"got {_validate.counted(len(names), 'name')}"
        )
    return [checked_activation(f"activation[{i}]", n) for i, n in enumerate(names)]


def _norm_of(leaf: _Leaf, roles: set[str]) -> Normalization:
    """Return the normalisation whose arrays have these names."""
    # A state dict does not show the argument that GroupNorm needs.
    kinds: list[Any] = [
        kind for kind in LAYERS if issubclass(kind, Normalization) and not kind._leading
    ]
    layers = [kind(affine=affine) for kind in kinds for affine in (True, False)]
    known = [(layer, [n for n in layer.arrays(1) if n != COUNTER]) for layer in layers]
    # Leave out layers with fewer than two arrays: a 1-D weight alone does not identify
    # a layer.
    known = [(layer, names) for layer, names in known if len(names) > 1]
    if roles == {"weight"} and COUNTER not in leaf.entries:
        raise ValueError(
            f"{leaf.what} has only a 1-D weight, which does not show what kind "
            "of layer it is: pass the module, or create the model and use its "
            "load_state_dict"
        )
    found: list[Normalization] = [
        layer for layer, names in known if set(names) == roles
    ]
    is_counted = COUNTER in leaf.entries
    if not found or (is_counted and not isinstance(found[0], BatchNorm)):
        each = (f"{type(layer).__name__}: {', '.join(names)}" for layer, names in known)
        raise ValueError(
            f"{leaf.what} must have the arrays of a normalisation "
            f"({'; '.join(each)}), got {', '.join(leaf.entries)}"
        )
    return found[0]


def _add(leaf: _Leaf, builder: Builder) -> None:
    """Add the layer to the builder."""
    what, dot = leaf.what, "." if leaf.full else ""
    arrays = {
        role: builder.array(f"source[{f'{leaf.full}{dot}{role}'!r}]", value)
        for role, value in leaf.entries.items()
        if role != COUNTER
    }
    if _is_norm(leaf):
        builder.norm(what, _norm_of(leaf, set(arrays)), arrays)
        if COUNTER in leaf.entries:
            name = f"source[{f'{leaf.full}{dot}{COUNTER}'!r}]"
            counter = np.asarray(leaf.entries[COUNTER])
            builder.tracked = max(builder.tracked, _validate.count(name, counter, 0))
    else:
        if "weight" not in arrays:
            raise ValueError(
                f"{what} must have a weight, got only {', '.join(leaf.entries)}"
            )
        builder.dense(what, arrays["weight"], arrays.get("bias"))
