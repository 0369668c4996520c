"""Models from PyTorch's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import _core
from ..layers import (
    GLU,
    Activation,
    Block,
    Columns,
    Concat,
    Embedding,
    GaussianDropout,
    GaussianNoise,
    Parallel,
    Periodic,
    PiecewiseLinear,
    Scale,
    Standardise,
    checked_activation,
)
from .activations import ACTIVATIONS
from .layers import LAYERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .._validate import Array
    from .torch_builder import Builder

# Above its threshold, PyTorch's softplus returns z. With the default threshold of 20, z
# differs from log(1 + e^z) there by about 2e-9 at most, one part in 1e10.
_LEAST_THRESHOLD = 20.0

# The least norm by which the power method of spectral normalisation divides.
_SPECTRAL_EPS = 1e-12

_NAMES = ", ".join(f"nn.{form.torch}" for form in LAYERS.values() if form.torch)
_SUPPORTED = (
    f"fastmlp has nn.Linear, {_NAMES}, "
    "nn.Identity, nn.Flatten, and the activations of fastmlp.ACTIVATIONS"
)

# Advice in the errors about some modules without a counterpart, by class name.
_ADVICE = {
    "LogSoftmax": "leave it out and use fm.CrossEntropy, which takes logits",
    "Softmin": "use Softmax after a Linear with the opposite sign",
    "Bilinear": "a dense layer has only one input",
    "MLPModule": "it already contains a fastmlp model, module.mlp",
}


class ModuleReader:
    """Reads modules into a builder."""

    def __init__(self, torch: Any, builder: Builder, source: Any) -> None:
        from . import to_torch

        nn = torch.nn
        self._nn, self.builder = nn, builder
        self._own = to_torch
        self._owners: dict[int, str] = {}
        self._readers: dict[Any, Callable[[str, Any], None]] = {
            nn.Linear: self._linear,
            nn.Identity: lambda what, module: None,
            nn.Flatten: self._flatten,
            to_torch.Function: self._activation,
            to_torch.GatedUnit: self._gated,
            to_torch.Scale: self._scale,
            to_torch.Standardise: self._standardise,
            to_torch.Columns: self._columns,
            to_torch.Embedding: self._embedding,
            to_torch.Periodic: self._periodic,
            to_torch.PiecewiseLinear: self._bins,
            to_torch.GaussianNoise: self._noise,
            to_torch.GaussianDropout: self._noise,
        }
        # Older versions of PyTorch lack some of these classes.
        self._forms = {
            getattr(nn, form.torch): form
            for form in LAYERS.values()
            if form.torch and hasattr(nn, form.torch)
        }
        self._readers |= dict.fromkeys(self._forms, self._layer)
        floats = (p.dtype for p in source.parameters() if p.dtype.is_floating_point)
        dtype = next(floats, torch.get_default_dtype())
        # Machine epsilon of the dtype in which the module computes.
        self.machine_epsilon = float(torch.finfo(dtype).eps)
        for row in ACTIVATIONS.values():
            if row.torch is not None:
                self._readers.setdefault(getattr(nn, row.torch), self._activation)

    def read(self, name: str, module: Any) -> None:
        """Add a module; ``name`` is its name within the outermost module."""
        module = self._unwrapped(module)
        kind = type(module).__name__
        what = f"module {name} ({kind})" if name else f"the module ({kind})"
        self.check_plain(what, module)
        if self.is_traced(module):
            from .torch_graph import read_graph

            read_graph(self, what, name, module)
            return
        known = self._known(module)
        if known is None:
            raise TypeError(self._unknown(what, module))
        parametrized = self._nn.utils.parametrize.is_parametrized(module)
        for parameter in module.parameters(recurse=parametrized):
            self.own(what, parameter)
        before = self._owners.setdefault(id(module), what)
        if before != what and isinstance(module, self._nn.BatchNorm1d):
            raise ValueError(
                f"{what} is the same module as {before}, but in fastmlp each layer has "
                "its own statistics: copy the module (copy.deepcopy)"
            )
        inside = f"{name}." if name else ""
        if known is self._nn.Sequential:
            for child_name, child in module._modules.items():
                self.read(f"{inside}{child_name}", child)
        elif known is self._own.Residual:
            self._residual(what, inside, module)
        elif known is self._own.Concat:
            self._side_by_side(what, Concat, {f"{inside}body": module.body})
        elif known is self._own.Parallel:
            names = (f"{inside}branches.{i}" for i in range(len(module.branches)))
            branches = dict(zip(names, module.branches, strict=True))
            self._side_by_side(what, Parallel, branches)
        else:
            self._readers[known](what, module)

    def check_plain(self, what: str, module: Any) -> None:
        """Refuse a module that may compute something else than its class does."""
        if "forward" in vars(module):
            raise TypeError(
                f"{what} has a custom forward method, which cannot be converted"
            )
        if module._forward_hooks or module._forward_pre_hooks:
            raise TypeError(
                f"{what} has forward hooks, which may change what it computes; "
                "remove them first"
            )
        parametrized = self._nn.utils.parametrize.is_parametrized(module)
        if parametrized and self._parametrization(module) is None:
            raise TypeError(
                f"{what} has parametrisations other than those of fm.Dense; make them "
                "permanent first with "
                "torch.nn.utils.parametrize.remove_parametrizations"
            )

    def own(self, what: str, parameter: Any) -> None:
        """Refuse a parameter of a layer that another layer has as well."""
        other = self._owners.setdefault(id(parameter), what)
        if other != what:
            raise ValueError(
                f"{what} shares its parameters with {other}, but in fastmlp each "
                "layer has its own parameters: to continue without sharing, copy "
                "the module (copy.deepcopy)"
            )

    def is_traced(self, module: Any) -> bool:
        """Return whether a module has a forward method of its own, to be traced."""
        own = type(module)
        return (
            not own.__module__.startswith("torch.")
            and own.__name__ not in _ADVICE
            and own.forward is not self._nn.Module.forward
            and own.__call__ is self._nn.Module.__call__
            and self._known(self._unwrapped(module)) is None
        )

    def add(self, what: str, module: Any) -> None:
        """Add a module without parameters."""
        known = self._known(module)
        if known is None:
            raise TypeError(self._unknown(what, module))
        self._readers[known](what, module)

    def _known(self, module: Any) -> Any:
        """Return the known class whose forward the module uses or inherits, or None."""
        own_blocks = (self._own.Residual, self._own.Concat, self._own.Parallel)
        kinds = (self._nn.Sequential, *own_blocks, *self._readers)
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
        return f"{what} has no counterpart in fastmlp. {_SUPPORTED}"

    def _layer(self, what: str, module: Any) -> None:
        """Add the layer that corresponds to one of PyTorch's own modules."""
        for kind, form in self._forms.items():
            if isinstance(module, kind):
                form.from_torch(what, module, self)

    def _scale(self, what: str, module: Any) -> None:
        """Add a layer with a factor for each unit."""
        arrays = self.arrays(what, module, "weight")
        self.builder.fit(what, arrays["weight"].size)
        self.builder.add(Scale(), arrays)

    def _columns(self, what: str, module: Any) -> None:
        """Add a layer that takes some columns."""
        self.builder.fit(what, module.width)
        self.builder.add(Columns(module.columns))
        self.builder.width = len(module.columns)

    def _embedding(self, what: str, module: Any) -> None:
        """Add a layer with vectors for categories."""
        self.builder.fit(what, len(module.sizes))
        arrays = self.arrays(what, module, "weight")
        layer = Embedding(module.sizes, arrays["weight"].shape[1])
        self.builder.add(layer, arrays)
        self.builder.width = layer.n_out(len(module.sizes))

    def _periodic(self, what: str, module: Any) -> None:
        """Add a layer of sines and cosines."""
        arrays = self.arrays(what, module, "weight")
        width, n = arrays["weight"].shape
        self.builder.fit(what, width)
        self.builder.add(Periodic(n), arrays)
        self.builder.width = 2 * width * n

    def _bins(self, what: str, module: Any) -> None:
        """Add a layer of piecewise-linear encodings."""
        self.builder.fit(what, module.width)
        layer = PiecewiseLinear(module.n)
        self.builder.add(layer, self.arrays(what, module, *layer.statistics))
        self.builder.width = layer.n_out(module.width)

    def _noise(self, what: str, module: Any) -> None:
        """Add a layer with Gaussian noise."""
        adds = isinstance(module, self._own.GaussianNoise)
        layer = GaussianNoise(module.stddev) if adds else GaussianDropout(module.p)
        self.builder.add(layer)

    def _standardise(self, what: str, module: Any) -> None:
        """Add a layer with a mean and a variance for each unit."""
        arrays = self.arrays(what, module, *Standardise.statistics)
        self.builder.fit(what, arrays["mean"].size)
        self.builder.add(Standardise(module.inverse), arrays)

    def _gated(self, what: str, module: Any) -> None:
        """Add a gated linear unit whose activation is a module."""
        inside = f"{what}: its activation"
        reader = self._readers.get(self._known(module.activation))
        if reader not in (self._activation, self._readers[self._nn.Identity]):
            kind = type(module.activation).__name__
            raise TypeError(f"{inside} must be a module of an activation, got {kind}")
        function = self._function(inside, module.activation)
        self.builder.halve(what)
        self.builder.add(GLU(function))

    def _activation(self, what: str, module: Any) -> None:
        """Add the activation that corresponds to a module."""
        self.builder.activation(self._function(what, module))

    def _function(self, what: str, module: Any) -> str | Activation:
        """Return the activation that corresponds to a module."""
        if isinstance(module, self._own.Function):
            return str(module.name)
        forms = {
            name: form.torch_options
            for name, form in ACTIVATIONS.items()
            if form.torch and isinstance(module, getattr(self._nn, form.torch))
        }
        # Activations that share a class, such as GELU, differ in an option.
        found = [
            name
            for name, options in forms.items()
            if all(getattr(module, o) == value for o, value in options.items())
        ]
        name = found[0] if found else next(iter(forms))
        for option, value in forms[name].items():
            _check_option(what, option, getattr(module, option), value)
        names = ACTIVATIONS[name].torch_names
        constants = {
            constant: float(getattr(module, names.get(constant, constant)))
            for constant in _core.ACTIVATION_CONSTANTS.get(name, {})
        }
        try:
            function = Activation(name, None, **constants)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from None
        return checked_activation("activation", function)

    def _flatten(self, what: str, module: Any) -> None:
        if module.start_dim not in (1, -1) or module.end_dim not in (-1, 1):
            raise ValueError(
                f"{what} must leave each row unchanged, with start_dim=1 and "
                f"end_dim=-1, got start_dim={module.start_dim} and "
                f"end_dim={module.end_dim}"
            )

    def arrays(self, what: str, module: Any, *roles: str) -> dict[str, Array]:
        values = ((role, getattr(module, role)) for role in roles)
        return {
            role: self.builder.array(f"{what}: {role}", value)
            for role, value in values
            if value is not None
        }

    def _linear(self, what: str, module: Any) -> None:
        if not self._nn.utils.parametrize.is_parametrized(module):
            arrays = self.arrays(what, module, "weight", "bias")
            self.builder.dense(what, arrays["weight"], arrays.get("bias"))
            return
        bias = self.arrays(what, module, "bias").get("bias")
        kind, source = self._parametrization(module), module.parametrizations.weight
        if kind == "weight_norm":
            values = self.arrays(what, source, "original0", "original1")
            others = {"magnitude": values["original0"]}
            self.builder.dense(what, values["original1"], bias, kind, others)
        else:
            values = self.arrays(what, source, "original")
            vectors = self.arrays(what, source[0], "_u", "_v")
            others = {"left": vectors["_u"], "right": vectors["_v"]}
            self.builder.dense(what, values["original"], bias, kind, others)

    def _parametrization(self, module: Any) -> str | None:
        """Return what `Dense` calls a module's parametrisation; None if it has none."""
        of_arrays = getattr(module, "parametrizations", {})
        if not isinstance(module, self._nn.Linear) or list(of_arrays) != ["weight"]:
            return None
        if len(of_arrays["weight"]) != 1:
            return None
        known = self._nn.utils.parametrizations
        how = of_arrays["weight"][0]
        # A norm for each output unit: axis 0 of PyTorch's weight.
        if type(how) is known._WeightNorm and how.dim == 0:
            return "weight_norm"
        if type(how) is known._SpectralNorm and how.dim == 0:
            same = how.n_power_iterations == 1 and how.eps == _SPECTRAL_EPS
            return "spectral_norm" if same else None
        return None

    def _residual(self, what: str, inside: str, module: Any) -> None:
        if self.starts_in_place(module.body):
            raise ValueError(
                f"{what}: the first module of its body has inplace=True, so it "
                "overwrites the input before the block adds the input to the body's "
                "output; use inplace=False"
            )
        outer = self.builder
        body = self.builder = outer.block()
        self.read(f"{inside}body", module.body)
        self.builder = outer
        projection = None
        if module.projection is not None:
            if type(module.projection) is not self._nn.Linear:
                raise TypeError(
                    f"{what}: the projection must be an nn.Linear, got a module of "
                    f"type {type(module.projection).__name__}"
                )
            name = f"module {inside}projection"
            projection = self.arrays(name, module.projection, "weight", "bias")
        outer.residual(what, body, projection)

    def _side_by_side(
        self, what: str, kind: type[Block], parts: Mapping[str, Any]
    ) -> None:
        """Add a block whose parts, modules by name, have outputs side by side."""
        outer, inner = self.builder, []
        for name, part in parts.items():
            if self.starts_in_place(part):
                raise ValueError(
                    f"{what}: the first module of {name} has inplace=True, so it "
                    "overwrites the input, which other parts of the block read; use "
                    "inplace=False"
                )
            self.builder = outer.block()
            self.read(name, part)
            inner.append(self.builder)
        self.builder = outer
        outer.side_by_side(what, kind, inner)

    def starts_in_place(self, body: Any) -> bool:
        """Return whether a module overwrites its input."""
        absent = (
            kind
            for kind, form in self._forms.items()
            if form.layer.is_identity_at_inference
        )
        own = (self._own.GaussianNoise, self._own.GaussianDropout)
        same = (self._nn.Identity, self._nn.Flatten, *own, *absent)
        for leaf in body.modules():
            if getattr(leaf, "inplace", False):
                return True
            if next(leaf.children(), None) is None and not isinstance(leaf, same):
                return False
        return False


def _check_option(what: str, option: str, value: Any, wanted: Any) -> None:
    """Raise ValueError if the option makes the module differ from the activation."""
    if option == "threshold":
        if not value >= _LEAST_THRESHOLD:
            raise ValueError(
                f"{what} must have threshold >= {_LEAST_THRESHOLD:g}, because "
                "fastmlp's softplus has no threshold and smaller thresholds change "
                f"its values noticeably; got threshold={value}"
            )
    elif option == "dim" and value not in (-1, 1):
        raise ValueError(
            f"{what} must have dim=-1, because fastmlp's softmax is over the outputs "
            f"of a row; got dim={value}"
        )
