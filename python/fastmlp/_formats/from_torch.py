"""Models from PyTorch's modules and state dicts."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _validate
from .._network.fold import LayerArrays, name_arrays
from .._network.model import model_class
from ..layers import (
    Activation,
    BatchNorm,
    Dense,
    Layer,
    Normalization,
    Residual,
    activation_name,
)
from .activations import ACTIVATIONS
from .layers import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy.typing as npt
    import torch

    from .._network.model import MLP
    from .._validate import Array, Seed

# Beyond a threshold (default 20) PyTorch's softplus is z, which differs there from
# log(1 + e^z) by at most 2e-9, one part in 1e10.
_LEAST_THRESHOLD = 20.0

# Wrappers of a module prepend these to all names of the state dict.
_WRAPPERS = ("module.", "_orig_mod.")

_COUNTER = "num_batches_tracked"
_ROLES = ("weight", "bias", "running_mean", "running_var", _COUNTER)


def from_torch(
    source: torch.nn.Module | Mapping[str, Any],
    *,
    prefix: str | Sequence[str] = "",
    activation: str | Sequence[str] | None = None,
    output_activation: str = "identity",
    dtype: npt.DTypeLike | None = None,
    seed: Seed | None = None,
) -> MLP:
    """Return a model with the layers and parameters of a PyTorch module or state dict.

    Parameters
    ----------
    source : torch.nn.Module or mapping of str to tensor or array_like
        A ``torch.nn.Sequential`` of the modules below, which may contain other
        Sequentials; one of those modules; or a state dict of tensors or of arrays (as
        ``safetensors.numpy.load_file`` returns), for which PyTorch is not needed.
    prefix : str or sequence of str
        Prefix of the entries to take from a state dict: ``"mlp_extractor.policy_net"``.
        The layers of several prefixes are chained: ``["mlp_extractor.policy_net",
        "action_net"]``.
    activation : str or sequence of str, optional
        Activation of all layers but the last, or a sequence with that of each; only for
        a state dict, which does not contain it.
    output_activation : str
        Activation after the last layer of a state dict.
    dtype : {"float32", "float64"}, optional
        Dtype of the model; None takes that of the parameters. Other dtypes, such as
        bfloat16, are converted only if this is given.
    seed : int, sequence of int, SeedSequence, BitGenerator or Generator, optional
        Seed of the sample orders in `MLP.fit` and of dropout, as for `MLP`.

    Returns
    -------
    MLP
        Model with bitwise copies of the parameters; it is independent of ``source``.

    Raises
    ------
    TypeError, ValueError
        If a module or entry has no counterpart in fastmlp; the message names it.

    Notes
    -----
    These modules are converted: ``Linear``, ``Dropout``, the normalisations of
    `fastmlp.layers` (of columns, ``BatchNorm1d`` with running statistics), its
    activations with the same formulas and constants, ``Identity``, and ``Flatten``,
    which does not change rows; also everything that `MLP.to_torch` returns. Other
    modules and constants are refused, and so are modules with their own ``forward``,
    with forward hooks or parametrisations, and modules that occur in two places.

    The layers of a state dict are those whose parameters it has. Where names differ in
    a number (``fc2``, ``fc10``) they are in its order, otherwise in the order of the
    mapping. If all names are numbers, as for a single ``Sequential``, the first number
    missing between two dense layers is an activation; further missing numbers are
    dropouts, which leave no trace, and modules before the first layer do nothing. With
    other names an activation follows each dense layer but the last. Normalisations get
    PyTorch's default constants. A state dict does not show residual blocks, nor whether
    a 1-D weight alone is that of an ``RMSNorm``: pass the module, or make the model and
    use its `MLP.load_state_dict`.

    >>> mlp = fm.from_torch(net)  # an nn.Sequential
    >>> mlp = fm.from_torch(
    ...     policy.state_dict(),
    ...     prefix=["mlp_extractor.policy_net", "action_net"],
    ...     activation="tanh",
    ... )
    """
    builder = _Builder(None if dtype is None else _validate.float_dtype(dtype))
    # If PyTorch has not been imported, source is not a module.
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(source, torch.nn.Module):
        if prefix != "" or activation is not None or output_activation != "identity":
            raise ValueError(
                "prefix, activation and output_activation are for state dicts; a "
                "module contains its activations, and its parts can be passed instead"
            )
        ModuleReader(torch, builder, source).read("", source)
    elif hasattr(source, "keys"):
        output = activation_name("output_activation", output_activation)
        _read_state(source, _prefixes(prefix), activation, output, builder)
    else:
        path = isinstance(source, (str, os.PathLike))
        hint = "; for a file, pass torch.load(path)" * path
        raise TypeError(
            "source must be a torch.nn.Module or a state dict (a mapping of names to "
            f"tensors or arrays), got {_validate.describe(source)}{hint}"
        )
    return builder.build(seed)


# Layers with their arrays -------------------------------------------------------------


class _Builder:
    """Chains layers and checks that their widths match."""

    def __init__(self, dtype: np.dtype[Any] | None, width: int | None = None) -> None:
        self.asked = dtype
        self.dtypes: dict[np.dtype[Any], str] = {}
        self.tracked = 0
        self.items: list[LayerArrays] = []
        self.n_in = self.width = width

    def array(self, what: str, value: Any) -> Array:
        """Return parameters as an array of float32 or float64."""
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.Tensor):
            array = _from_tensor(what, value, torch, convert=self.asked is not None)
        else:
            array = _validate.numeric(what, value)
            if array.dtype.kind != "f":
                raise TypeError(f"{what} must have a float dtype, got {array.dtype}")
        native = array.dtype.newbyteorder("=")
        if self.asked is None and native not in (np.float32, np.float64):
            raise TypeError(_other_dtype(what, array.dtype))
        self.dtypes.setdefault(native, what)
        return array

    def add(self, layer: Layer) -> None:
        """Add a layer without arrays."""
        self.items.append(LayerArrays(layer, {}))

    def dense(self, what: str, weight: Array, bias: Array | None) -> None:
        """Add a dense layer; its weight is (out, in)."""
        if weight.ndim != 2 or 0 in weight.shape:
            raise ValueError(
                f"{what}: the weight of a dense layer must have shape (out, in), got "
                f"{weight.shape}"
            )
        self.fit(what, weight.shape[1])
        arrays = {"weight": weight}
        if bias is not None:
            _same(f"{what}: the bias", bias, weight.shape[0])
            arrays["bias"] = bias
        self.width = weight.shape[0]
        layer = Dense(self.width, "identity", bias is not None)
        self.items.append(LayerArrays(layer, arrays))

    def norm(
        self, what: str, layer: Normalization, arrays: Mapping[str, Array]
    ) -> None:
        """Add a normalisation; without arrays, its width has been checked already."""
        for role, array in arrays.items():
            if array.ndim != 1:
                raise ValueError(
                    f"{what}: the {role} of a normalisation must be 1-D, got shape "
                    f"{array.shape}"
                )
            self.fit(what, array.size)
        self.items.append(LayerArrays(layer, dict(arrays)))

    def activation(self, name: str) -> None:
        """Add an activation, to the dense layer before it if that has none."""
        before = self.items[-1] if self.items else None
        if name == "identity":
            return
        if before is not None and isinstance(before.layer, Dense):
            dense = before.layer
            if dense.activation == "identity":
                new = Dense(dense.n, name, dense.bias)
                self.items[-1] = LayerArrays(new, before.arrays)
                return
        self.items.append(LayerArrays(Activation(name), {}))

    def fit(self, what: str, width: int) -> None:
        """Raise ValueError unless a layer takes the width of the output before it."""
        if width == 0:
            raise ValueError(f"{what} has width 0")
        if self.width is None:
            self.n_in = self.width = width
        elif self.width != width:
            raise ValueError(
                f"{what} has an input width of {width}, but the output before it has "
                f"width {self.width}"
            )

    def block(self) -> _Builder:
        """Return a builder for the body of a block that follows the last layer."""
        inner = _Builder(self.asked, self.width)
        inner.dtypes = self.dtypes
        return inner

    def residual(
        self, what: str, body: _Builder, projection: Mapping[str, Array] | None
    ) -> None:
        """Add a block with a body from the builder that `block` returned."""
        if body.n_in is None or body.width is None or not body.items:
            raise ValueError(f"{what}: the body must have a layer with a width")
        self.fit(what, body.n_in)
        arrays = {}
        if projection is not None:
            if body.width == body.n_in:
                raise ValueError(
                    f"{what} has a projection although its body is as wide as its "
                    f"input, {body.n_in}; fastmlp's blocks do not have one then"
                )
            shapes = {"weight": (body.width, body.n_in), "bias": (body.width,)}
            if {role: a.shape for role, a in projection.items()} != shapes:
                raise ValueError(
                    f"{what}: the projection must be a Linear({body.n_in}, "
                    f"{body.width}) with a bias"
                )
            arrays = {f"projection.{role}": a for role, a in projection.items()}
        elif body.width != body.n_in:
            raise ValueError(
                f"{what} needs a projection, because its body maps width {body.n_in} "
                f"to {body.width}"
            )
        self.tracked = max(self.tracked, body.tracked)
        layer = Residual([item.layer for item in body.items])
        self.items.append(LayerArrays(layer, arrays, tuple(body.items)))
        self.width = body.width

    def build(self, seed: Any) -> MLP:
        """Return the model."""
        if self.n_in is None:
            raise ValueError(
                "source must have a layer with parameters or statistics, which "
                "determine its input width"
            )
        if self.asked is None and len(self.dtypes) > 1:
            found = ", ".join(f"{what} {d}" for d, what in self.dtypes.items())
            raise TypeError(
                f"source has parameters of several dtypes ({found}); choose that of "
                "the model: dtype='float32'"
            )
        dtype = self.asked or next(iter(self.dtypes), np.dtype(np.float32))
        layers = [item.layer for item in self.items]
        mlp = model_class()([self.n_in, *layers], dtype=dtype, seed=seed)
        state = name_arrays(self.items)
        counters = {
            name.removesuffix("running_var") + _COUNTER: np.int64(self.tracked)
            for name in state
            if name.endswith(".running_var")
        }
        mlp.load_state_dict({**state, **counters})
        return mlp


def _same(what: str, array: Array, size: int) -> None:
    if array.shape != (size,):
        raise ValueError(f"{what} must have shape ({size},), got {array.shape}")


def _other_dtype(what: str, dtype: object) -> str:
    name = str(dtype).removeprefix("torch.")
    return (
        f"{what} must be float32 or float64, got {name}; pass dtype='float32' to "
        "convert it"
    )


def _from_tensor(what: str, value: Any, torch: Any, *, convert: bool) -> Array:
    """Return a tensor as a float32 or float64 array; from other devices a copy."""
    if torch.nn.parameter.is_lazy(value):
        raise ValueError(
            f"{what} has no shape yet: call its lazy module with an input first"
        )
    if value.is_meta:
        raise ValueError(f"{what} is on the meta device, without values")
    if value.layout != torch.strided:
        raise TypeError(f"{what} must be dense, got {value.layout}; call to_dense()")
    if value.is_quantized or not value.dtype.is_floating_point:
        raise TypeError(f"{what} must have a float dtype, got {value.dtype}")
    if value.dtype not in (torch.float32, torch.float64):
        if not convert:
            raise TypeError(_other_dtype(what, value.dtype))
        value = value.to(torch.float32)  # exact for the smaller dtypes
    array: Array = value.detach().cpu().numpy()
    return array


# Modules ------------------------------------------------------------------------------

_SUPPORTED = (
    f"fastmlp has nn.Linear, {', '.join(f'nn.{f.torch}' for f in LAYERS.values())}, "
    "nn.Identity, nn.Flatten, and the activations of fastmlp.ACTIVATIONS"
)

# Advice for some modules without a counterpart.
_ADVICE = {
    "LogSoftmax": "leave it out and use fm.CrossEntropy, which takes logits",
    "LogSigmoid": "leave it out and use fm.BinaryCrossEntropy, which takes logits",
    "Softmin": "use Softmax after a Linear with the opposite sign",
    "AlphaDropout": "use nn.Dropout, or leave it out if you do not train further",
    "GroupNorm": "use a normalisation of whole rows and train again",
    "Bilinear": "a dense layer has only one input",
    "MLPModule": "it already contains a fastmlp model, module.mlp",
}


class ModuleReader:
    """Reads modules into a builder."""

    def __init__(self, torch: Any, builder: _Builder, source: Any) -> None:
        from . import to_torch

        nn = torch.nn
        self._nn, self.builder = nn, builder
        self._own = to_torch
        self._owners: dict[int, str] = {}
        self._readers: dict[Any, Callable[[str, Any], None]] = {
            nn.Linear: self._linear,
            nn.Identity: lambda what, module: None,
            nn.Flatten: self._flatten,
            to_torch.Function: lambda what, m: self.builder.activation(m.name),
        }
        # Older versions of PyTorch lack some.
        self._forms = {
            getattr(nn, form.torch): form
            for form in LAYERS.values()
            if hasattr(nn, form.torch)
        }
        self._readers |= dict.fromkeys(self._forms, self._layer)
        floats = (p.dtype for p in source.parameters() if p.dtype.is_floating_point)
        dtype = next(floats, torch.get_default_dtype())
        # That of the dtype in which the module computes.
        self.machine_epsilon = float(torch.finfo(dtype).eps)
        for row in ACTIVATIONS.values():
            if row.torch is not None:
                self._readers.setdefault(getattr(nn, row.torch), self._activation)

    def read(self, name: str, module: Any) -> None:
        """Add a module; ``name`` is its name within the outermost one."""
        module = self._unwrapped(module)
        kind = type(module).__name__
        what = f"module {name} ({kind})" if name else f"the module ({kind})"
        known = self._known(module)
        if known is None:
            raise TypeError(self._unknown(what, module))
        if "forward" in vars(module):
            raise TypeError(f"{what} has its own forward, which cannot be converted")
        if module._forward_hooks or module._forward_pre_hooks:
            raise TypeError(
                f"{what} has forward hooks, which may change what it computes; "
                "remove them first"
            )
        if self._nn.utils.parametrize.is_parametrized(module):
            raise TypeError(
                f"{what} has parametrisations; make them permanent first: "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )
        for parameter in module.parameters(recurse=False):
            other = self._owners.setdefault(id(parameter), what)
            if other != what:
                raise ValueError(
                    f"{what} shares its parameters with {other}; in fastmlp each layer "
                    "has its own: copy the module (copy.deepcopy) to continue without "
                    "sharing"
                )
        before = self._owners.setdefault(id(module), what)
        if before != what and isinstance(module, self._nn.BatchNorm1d):
            raise ValueError(
                f"{what} is the same module as {before}; in fastmlp each layer has its "
                "own statistics: copy the module (copy.deepcopy)"
            )
        inside = f"{name}." if name else ""
        if known is self._nn.Sequential:
            for child_name, child in module._modules.items():
                self.read(f"{inside}{child_name}", child)
        elif known is self._own.Residual:
            self._residual(what, inside, module)
        else:
            self._readers[known](what, module)

    def _known(self, module: Any) -> Any:
        """Return the class whose forward a module has; subclasses may have it too."""
        kinds = (self._nn.Sequential, self._own.Residual, *self._readers)
        own = type(module)
        for kind in kinds:
            same = own.forward is kind.forward and own.__call__ is kind.__call__
            if isinstance(module, kind) and same:
                return kind
        return None

    def _unwrapped(self, module: Any) -> Any:
        while True:
            kind = type(module).__name__
            if kind == "OptimizedModule" and hasattr(module, "_orig_mod"):
                module = module._orig_mod  # of torch.compile
            elif kind in ("DataParallel", "DistributedDataParallel"):
                module = module.module
            else:
                return module

    def _unknown(self, what: str, module: Any) -> str:
        kind = type(module).__name__
        if kind in _ADVICE:
            return f"{what} has no counterpart in fastmlp: {_ADVICE[kind]}"
        children = [name for name, _ in module.named_children()]
        if children and not type(module).__module__.startswith("torch.nn."):
            return (
                f"{what} has its own forward, which cannot be converted. "
                "Pass an nn.Sequential instead, such as one of its parts "
                f"({', '.join(children)}), or its state_dict() with prefix= and "
                "activation="
            )
        return f"{what} has no counterpart in fastmlp. {_SUPPORTED}"

    def _layer(self, what: str, module: Any) -> None:
        """Add the layer of a module of one of PyTorch's classes."""
        for kind, form in self._forms.items():
            if isinstance(module, kind):
                form.from_torch(what, module, self)

    def _activation(self, what: str, module: Any) -> None:
        """Add the activation of a module of one of PyTorch's classes."""
        forms = {
            name: form.torch_options
            for name, form in ACTIVATIONS.items()
            if form.torch and isinstance(module, getattr(self._nn, form.torch))
        }
        # Where several activations share a class, one option tells them apart.
        found = [
            name
            for name, options in forms.items()
            if all(getattr(module, o) == value for o, value in options.items())
        ]
        name = found[0] if found else next(iter(forms))
        for option, value in forms[name].items():
            _check_option(what, option, getattr(module, option), value)
        self.builder.activation(name)

    def _flatten(self, what: str, module: Any) -> None:
        if module.start_dim not in (1, -1) or module.end_dim not in (-1, 1):
            raise ValueError(
                f"{what} must not change rows: start_dim=1 and end_dim=-1, got "
                f"{module.start_dim} and {module.end_dim}"
            )

    def arrays(self, what: str, module: Any, *roles: str) -> dict[str, Array]:
        values = ((role, getattr(module, role)) for role in roles)
        return {
            role: self.builder.array(f"{what}: {role}", value)
            for role, value in values
            if value is not None
        }

    def _linear(self, what: str, module: Any) -> None:
        arrays = self.arrays(what, module, "weight", "bias")
        self.builder.dense(what, arrays["weight"], arrays.get("bias"))

    def _residual(self, what: str, inside: str, module: Any) -> None:
        if self._starts_in_place(module.body):
            raise ValueError(
                f"{what}: its body begins with a module with inplace=True, which also "
                "changes the input of the addition; use inplace=False"
            )
        outer = self.builder
        body = self.builder = outer.block()
        self.read(f"{inside}body", module.body)
        self.builder = outer
        projection = None
        if module.projection is not None:
            if type(module.projection) is not self._nn.Linear:
                raise TypeError(f"{what}: the projection must be an nn.Linear")
            name = f"module {inside}projection"
            projection = self.arrays(name, module.projection, "weight", "bias")
        outer.residual(what, body, projection)

    def _starts_in_place(self, body: Any) -> bool:
        """Return whether a body overwrites its input."""
        same = (self._nn.Identity, self._nn.Flatten, self._nn.Dropout)
        for leaf in body.modules():
            if getattr(leaf, "inplace", False):
                return True
            if next(leaf.children(), None) is None and not isinstance(leaf, same):
                return False
        return False


def _check_option(what: str, option: str, value: Any, wanted: Any) -> None:
    """Raise ValueError unless an activation's option has fastmlp's value."""
    if option == "threshold":
        if not value >= _LEAST_THRESHOLD:
            raise ValueError(
                f"{what} has threshold={value}; fastmlp's softplus does not have one, "
                f"which makes no difference only from {_LEAST_THRESHOLD:g} on"
            )
    elif option == "dim":
        if value not in (-1, 1):
            raise ValueError(
                f"{what} has dim={value}; fastmlp's softmax is over the outputs of a "
                "row, dim=-1"
            )
    elif value != wanted:
        raise ValueError(
            f"{what} has {option}={value}; fastmlp's has {wanted:g}. Use a custom "
            "function for other values: fm.Activation(function, derivative)"
        )


# State dicts --------------------------------------------------------------------------


class _Leaf(NamedTuple):
    """A layer of a state dict.

    Attributes
    ----------
    name, full : str
        Its name without and with the prefix.
    entries : dict of str to tensor or array
        Its entries by role, the last part of their names.
    """

    name: str
    full: str
    entries: dict[str, Any]

    @property
    def what(self) -> str:
        """The name for messages."""
        return f"layer {self.full}" if self.full else "the layer"


def _prefixes(prefix: Any) -> list[str]:
    """Return prefixes that end with a dot, or are empty."""
    given = [prefix] if isinstance(prefix, str) else prefix
    try:
        prefixes = list(given)
    except TypeError:
        prefixes = []
    if not prefixes or not all(isinstance(item, str) for item in prefixes):
        raise TypeError(
            f"prefix must be a str or a sequence of str, got "
            f"{_validate.describe(prefix)}"
        )
    return [f"{item.removesuffix('.')}." if item else "" for item in prefixes]


def _read_state(
    state: Mapping[str, Any],
    prefixes: Sequence[str],
    activation: object,
    output_activation: str,
    builder: _Builder,
) -> None:
    state = _without_wrappers(state, prefixes[0])
    leaves: list[_Leaf] = []
    for prefix in prefixes:
        found = _leaves(state, prefix)
        if not found:
            known = ", ".join(sorted({n.rpartition(".")[0] for n in state})[:20])
            raise ValueError(
                f"source has no entry that begins with {prefix!r}; its layers: {known}"
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
            "source: its names do not show whether activations come before or after "
            f"normalisations such as {norms[0].full}; pass the module"
        )
    names = dict(zip(places, _activations(activation, len(places)), strict=True))
    names[len(leaves) - 1] = output_activation
    for i, leaf in enumerate(leaves):
        _add(leaf, builder)
        builder.activation(names.get(i, "identity"))


def _without_wrappers(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    names = list(state.keys())  # a mapping needs only keys() and its items
    if not all(isinstance(name, str) for name in names):
        raise TypeError("source must have names (str) as its keys")
    result = {name: state[name] for name in names}
    while not prefix or not any(name.startswith(prefix) for name in result):
        shared = [w for w in _WRAPPERS if all(n.startswith(w) for n in result)]
        if not result or not shared:
            break
        result = {n.removeprefix(shared[0]): v for n, v in result.items()}
    return result


def _leaves(state: Mapping[str, Any], prefix: str) -> list[_Leaf]:
    """Return the layers below a prefix, in their order."""
    leaves: dict[str, _Leaf] = {}
    for name, value in state.items():
        if not name.startswith(prefix):
            continue
        layer, _, role = name.removeprefix(prefix).rpartition(".")
        if role not in _ROLES:
            raise ValueError(
                f"source[{name!r}] does not belong to a layer of fastmlp; choose "
                "entries that do with prefix="
            )
        if {"body", "projection"} & set(layer.split(".")):
            raise ValueError(
                f"source[{name!r}] belongs to a residual block, and its activations "
                "are unknown: pass the module, or make the model and use its "
                "load_state_dict"
            )
        full = f"{prefix}{layer}".removesuffix(".")
        leaves.setdefault(layer, _Leaf(layer, full, {})).entries[role] = value
    return sorted(leaves.values(), key=_order([leaf.name for leaf in leaves.values()]))


def _order(names: Sequence[str]) -> Callable[[_Leaf], list[tuple[int, int]]]:
    """Return a sort key: by number where names differ in one, else in given order."""
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
    of_columns = {"running_mean", "running_var", _COUNTER} & set(leaf.entries)
    return bool(of_columns) or len(getattr(weight, "shape", (0, 0))) == 1


def _gaps(leaves: Sequence[_Leaf]) -> list[int]:
    """Return the layers of a Sequential that are followed by a missing number."""
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
                "source: it is unknown whether the activation comes before or after "
                f"the normalisation {leaf.full}; pass the module"
            )
    return places


def _activations(activation: Any, count: int) -> list[str]:
    """Return one activation for each of ``count`` places."""
    if activation is None:
        if count > 0:
            raise TypeError(
                "activation must be given, as a state dict does not contain it: "
                "activation='relu'"
            )
        return []
    if isinstance(activation, str) or callable(activation):
        return [activation_name("activation", activation)] * count
    try:
        names = list(activation)
    except TypeError:
        raise TypeError(
            f"activation must be a name or a sequence of names, got "
            f"{_validate.describe(activation)}"
        ) from None
    if len(names) != count:
        raise ValueError(
            f"activation must be one name or {count} names, one for each activation; "
            f"got {len(names)}"
        )
    return [activation_name(f"activation[{i}]", n) for i, n in enumerate(names)]


def _norm_of(leaf: _Leaf, roles: set[str]) -> Normalization:
    """Return the normalisation whose arrays have these names."""
    kinds: list[Any] = [kind for kind in LAYERS if issubclass(kind, Normalization)]
    layers = [kind(affine=affine) for kind in kinds for affine in (True, False)]
    known = [(layer, [n for n in layer.arrays(1) if n != _COUNTER]) for layer in layers]
    # A 1-D weight alone may be that of several kinds of layers.
    known = [(layer, names) for layer, names in known if len(names) > 1]
    if roles == {"weight"} and _COUNTER not in leaf.entries:
        raise ValueError(
            f"{leaf.what} has only a 1-D weight, which does not tell its kind: pass "
            "the module, or make the model and use its load_state_dict"
        )
    found: list[Normalization] = [
        layer for layer, names in known if set(names) == roles
    ]
    is_counted = _COUNTER in leaf.entries
    if not found or (is_counted and not isinstance(found[0], BatchNorm)):
        each = (f"{type(layer).__name__}: {', '.join(names)}" for layer, names in known)
        raise ValueError(
            f"{leaf.what} must have the arrays of a normalisation "
            f"({'; '.join(each)}), got {', '.join(leaf.entries)}"
        )
    return found[0]


def _add(leaf: _Leaf, builder: _Builder) -> None:
    """Add one layer of a state dict."""
    what, dot = leaf.what, "." if leaf.full else ""
    arrays = {
        role: builder.array(f"source[{f'{leaf.full}{dot}{role}'!r}]", value)
        for role, value in leaf.entries.items()
        if role != _COUNTER
    }
    if _is_norm(leaf):
        builder.norm(what, _norm_of(leaf, set(arrays)), arrays)
        if _COUNTER in leaf.entries:
            name = f"source[{f'{leaf.full}{dot}{_COUNTER}'!r}]"
            counter = np.asarray(leaf.entries[_COUNTER])
            builder.tracked = max(builder.tracked, _validate.count(name, counter, 0))
    else:
        if "weight" not in arrays:
            raise ValueError(f"{what} needs a weight, got {', '.join(leaf.entries)}")
        builder.dense(what, arrays["weight"], arrays.get("bias"))
