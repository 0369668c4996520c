"""Models as PyTorch modules. Only this module and `torch_graph` import PyTorch."""

from __future__ import annotations

import contextlib
import threading
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import _core, _validate
from .._network import resolve
from ..layers import (
    GLU,
    Activation,
    Block,
    Dense,
    Layer,
    activation_of,
    as_layer,
)
from ..layers import Columns as ColumnsLayer
from ..layers import Embedding as EmbeddingLayer
from ..layers import GaussianDropout as GaussianDropoutLayer
from ..layers import GaussianNoise as GaussianNoiseLayer
from ..layers import Parallel as ParallelLayer
from ..layers import Periodic as PeriodicLayer
from ..layers import PiecewiseLinear as PiecewiseLinearLayer
from ..layers import Residual as ResidualLayer
from ..layers import Scale as ScaleLayer
from ..layers import Standardise as StandardiseLayer
from .activations import ACTIVATIONS
from .layers import LAYERS
from .layers._columns import table_begins

try:
    import torch
    from torch.autograd import forward_ad
except ImportError as error:
    raise ImportError(
        "mlp.to_torch and mlp.as_torch_module need PyTorch: pip install "
        f"torch ({error})"
    ) from error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

    from .._network.model import MLP, Model
    from .._validate import Array


class Residual(torch.nn.Module):
    """A residual block, ``x + body(x)``: `fastmlp.Residual` as a PyTorch module.

    Parameters
    ----------
    body : torch.nn.Sequential
        Modules whose output is added to x.
    projection : torch.nn.Linear, optional
        Projection that is applied to x if the body changes the width.
    """

    def __init__(
        self, body: torch.nn.Sequential, projection: torch.nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.projection = projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        past = x if self.projection is None else self.projection(x)
        return past + self.body(x)


class Function(torch.nn.Module):
    """A module for an activation that PyTorch has only as a function.

    Parameters
    ----------
    name : str
        One of `FUNCTIONS`: the name of the function in ``torch``.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = _validate.choice("name", name, FUNCTIONS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the function's values."""
        return getattr(torch, self.name)(x)

    def extra_repr(self) -> str:
        """Return the name, which PyTorch includes in the representation."""
        return repr(self.name)


class GatedUnit(torch.nn.Module):
    """A module for a `GLU` with another activation than the sigmoid.

    Parameters
    ----------
    activation : torch.nn.Module
        Module of the activation of the second half.
    """

    def __init__(self, activation: torch.nn.Module) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the first half times the activation of the second half."""
        first, second = x.chunk(2, -1)
        return first * self.activation(second)


class Scale(torch.nn.Module):
    """A module for a `Scale` layer.

    Parameters
    ----------
    n : int
        Width.
    device, dtype : optional
        Of the factors, as in PyTorch's modules.
    """

    def __init__(self, n: int, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(n, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs times the factors."""
        return x * self.weight


class Standardise(torch.nn.Module):
    """A module for a `Standardise` layer, with the buffers ``mean`` and ``var``.

    Parameters
    ----------
    n : int
        Width.
    inverse : bool
        Whether the module multiplies by the deviation and adds the mean.
    device, dtype : optional
        Of the buffers, as in PyTorch's modules.
    """

    mean: torch.Tensor
    var: torch.Tensor

    def __init__(
        self, n: int, inverse: bool = False, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.inverse = inverse
        self.register_buffer("mean", torch.zeros(n, device=device, dtype=dtype))
        self.register_buffer("var", torch.ones(n, device=device, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the scaled inputs."""
        std = self.var.sqrt()
        return x * std + self.mean if self.inverse else (x - self.mean) / std

    def extra_repr(self) -> str:
        """Return the option, which PyTorch includes in the representation."""
        return f"inverse={self.inverse}"


class Columns(torch.nn.Module):
    """A module for a `Columns` layer.

    Parameters
    ----------
    width : int
        Number of columns of the input.
    columns : sequence of int
        Indices of those to take.
    """

    def __init__(self, width: int, columns: Sequence[int]) -> None:
        super().__init__()
        self.width = width
        self.columns = list(columns)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the columns."""
        return x[..., self.columns]


class Embedding(torch.nn.Module):
    """A module for an `Embedding` layer.

    Parameters
    ----------
    sizes : sequence of int
        Number of categories of each column.
    n : int
        Length of the vectors.
    device, dtype : optional
        Of the vectors, as in PyTorch's modules.
    """

    def __init__(
        self, sizes: Sequence[int], n: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        tables = torch.randn(sum(self.sizes), n, device=device, dtype=dtype)
        self.weight = torch.nn.Parameter(tables)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the vectors of the categories, side by side."""
        begins = torch.tensor(table_begins(self.sizes), device=x.device)
        vectors = torch.nn.functional.embedding(x.long() + begins, self.weight)
        return vectors.flatten(-2)


class Periodic(torch.nn.Module):
    """A module for a `Periodic` layer.

    Parameters
    ----------
    width : int
        Number of columns of the input.
    n : int
        Number of frequencies of each column.
    device, dtype : optional
        Of the frequencies, as in PyTorch's modules.
    """

    def __init__(
        self, width: int, n: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        first = 0.1 * torch.randn(width, n, device=device, dtype=dtype)
        self.weight = torch.nn.Parameter(first)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return sines and cosines of the inputs times the frequencies."""
        angles = 2 * torch.pi * self.weight * x.unsqueeze(-1)
        return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


class PiecewiseLinear(torch.nn.Module):
    """A module for a `PiecewiseLinear` layer.

    Parameters
    ----------
    width : int
        Number of columns of the input.
    n : int
        Number of bins of each column.
    device, dtype : optional
        Of the limits and slopes, as in PyTorch's modules.
    """

    lower: torch.Tensor
    slope: torch.Tensor

    def __init__(
        self, width: int, n: int, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.width, self.n = width, n
        how = {"device": device, "dtype": dtype}
        self.register_buffer("lower", torch.arange(n, **how).repeat(width))
        self.register_buffer("slope", torch.ones(width * n, **how))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return how far the inputs are through each bin."""
        deep = x.repeat_interleave(self.n, -1)
        at = ((deep - self.lower) * self.slope).unflatten(-1, (self.width, self.n))
        least = torch.zeros(self.n, dtype=at.dtype, device=at.device)
        most = torch.ones_like(least)
        least[0], most[-1] = -torch.inf, torch.inf
        return at.clamp(least, most).flatten(-2)


class Concat(torch.nn.Module):
    """A module for a `Concat` block.

    Parameters
    ----------
    body : torch.nn.Sequential
        The body.
    """

    def __init__(self, body: torch.nn.Sequential) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs and the outputs of the body, side by side."""
        return torch.cat([x, self.body(x)], -1)


class Parallel(torch.nn.Module):
    """A module for a `Parallel` layer.

    Parameters
    ----------
    branches : sequence of torch.nn.Sequential
        The branches.
    """

    def __init__(self, branches: Sequence[torch.nn.Sequential]) -> None:
        super().__init__()
        self.branches = torch.nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs of all branches, side by side."""
        return torch.cat([branch(x) for branch in self.branches], -1)


class GaussianNoise(torch.nn.Module):
    """A module for a `GaussianNoise` layer.

    Parameters
    ----------
    stddev : float
        Standard deviation of the noise.
    """

    def __init__(self, stddev: float) -> None:
        super().__init__()
        self.stddev = stddev

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs, plus noise in training mode."""
        return x + self.stddev * torch.randn_like(x) if self.training else x

    def extra_repr(self) -> str:
        """Return the part of the representation between the brackets."""
        return f"stddev={self.stddev}"


class GaussianDropout(torch.nn.Module):
    """A module for a `GaussianDropout` layer.

    Parameters
    ----------
    p : float
        Probability of the `Dropout` with the same mean and variance.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inputs, times random factors in training mode."""
        if not self.training:
            return x
        deviation = (self.p / (1 - self.p)) ** 0.5
        return x * (1 + deviation * torch.randn_like(x))

    def extra_repr(self) -> str:
        """Return the part of the representation between the brackets."""
        return f"p={self.p}"


# Activations that PyTorch has only as functions.
FUNCTIONS = tuple(name for name, form in ACTIVATIONS.items() if form.torch is None)


def activation_module(function: Activation) -> torch.nn.Module:
    """Return the module of an activation."""
    form = ACTIVATIONS[function.name]
    if form.torch is None:
        return Function(function.name)
    names = form.torch_names
    constants = {names.get(k, k): value for k, value in function.constants.items()}
    kind = getattr(torch.nn, form.torch)
    module: torch.nn.Module = kind(**form.torch_options, **constants)
    return module


# Copies -------------------------------------------------------------------------------


def to_torch(mlp: Model) -> torch.nn.Sequential:
    """Return a copy of a model as a PyTorch module; see `fastmlp.MLP.to_torch`."""
    for place in resolve.walk(mlp.layers):
        if isinstance(place.layer, Activation) and place.layer.is_custom:
            raise TypeError(
                f"layer {place.name} of mlp is a custom activation, which cannot be "
                "converted to PyTorch: use one of fastmlp.ACTIVATIONS instead"
            )
    dtype = getattr(torch, mlp.dtype.name)
    module, _ = _sequential(mlp.layers, mlp.n_in, dtype)
    state = {name: torch.from_numpy(a) for name, a in mlp.state_dict().items()}
    module.load_state_dict(state)
    for name in mlp.frozen:
        module.get_parameter(name).requires_grad_(False)
    return module.eval()


def _sequential(
    layers: Sequence[Layer], width: int, dtype: torch.dtype
) -> tuple[torch.nn.Sequential, int]:
    """Return modules with uninitialised parameters, and the width of the output."""

    # Skipping the initialisation leaves PyTorch's random number generator untouched.
    def empty(kind: Any, *args: Any, **options: Any) -> Any:
        options |= {"dtype": dtype, "device": "cpu"}
        return torch.nn.utils.skip_init(kind, *args, **options)

    modules: list[torch.nn.Module] = []
    for layer in layers:
        match layer:
            case Dense():
                linear = empty(torch.nn.Linear, width, layer.n, bias=layer.bias)
                if layer.parametrization is not None:
                    register = getattr(
                        torch.nn.utils.parametrizations, layer.parametrization
                    )
                    with torch.random.fork_rng(devices=[]):
                        register(linear)
                modules.append(linear)
                if layer.activation != "identity":
                    modules.append(activation_module(activation_of(layer)))
                width = layer.n
            case Activation():
                modules.append(activation_module(layer))
            case Block():
                inside = [
                    _sequential(part, width, dtype)[0]
                    for part in layer.sequences.values()
                ]
                n_out = layer.n_out(width)
                if isinstance(layer, ResidualLayer):
                    projection = None
                    if n_out != width:
                        projection = empty(torch.nn.Linear, width, n_out)
                    modules.append(Residual(inside[0], projection))
                elif isinstance(layer, ParallelLayer):
                    modules.append(Parallel(inside))
                else:
                    modules.append(Concat(inside[0]))
                width = n_out
            case GLU() if layer.activation != "sigmoid":
                gate = activation_module(as_layer(layer.activation))
                modules.append(GatedUnit(gate))
                width = layer.n_out(width)
            case ColumnsLayer():
                modules.append(Columns(width, layer.columns))
                width = layer.n_out(width)
            case EmbeddingLayer():
                modules.append(empty(Embedding, layer.sizes, layer.n))
                width = layer.n_out(width)
            case PeriodicLayer():
                modules.append(empty(Periodic, width, layer.n))
                width = layer.n_out(width)
            case PiecewiseLinearLayer():
                modules.append(empty(PiecewiseLinear, width, layer.n))
                width = layer.n_out(width)
            case ScaleLayer():
                modules.append(empty(Scale, width))
            case GaussianNoiseLayer():
                modules.append(GaussianNoise(layer.first_rate))
            case GaussianDropoutLayer():
                modules.append(GaussianDropout(layer.first_rate))
            case StandardiseLayer():
                modules.append(empty(Standardise, width, layer.inverse))
            case _:
                form = LAYERS[type(layer)]
                modules.append(form.to_torch(layer, width, torch.nn, empty))
                width = layer.n_out(width)
    return torch.nn.Sequential(*modules), width


# The model itself ---------------------------------------------------------------------


class _Memory(NamedTuple):
    """Tensors and lock that all modules of one model share.

    Attributes
    ----------
    params, buffers : torch.Tensor
        Tensors in the model's memory. All modules make their parameters from the same
        tensor, so that the parameters share a version counter. The counter lets PyTorch
        notice changes that the optimiser of another module makes.
    lock : threading.Lock
        Held while a pass stores values in the model or reads them.
    """

    params: torch.Tensor
    buffers: torch.Tensor
    lock: threading.Lock


_memories: weakref.WeakKeyDictionary[Model, _Memory] = weakref.WeakKeyDictionary()
_memories_lock = threading.Lock()


def _memory_of(mlp: Model) -> _Memory:
    with _memories_lock:
        memory = _memories.get(mlp)
        if memory is None:
            # Tensors made in inference mode could not be used outside of it.
            with torch.inference_mode(False):
                params = torch.from_numpy(mlp.params)
                buffers = torch.from_numpy(mlp.buffers)
            memory = _memories[mlp] = _Memory(params, buffers, threading.Lock())
        return memory


class MLPModule(torch.nn.Module):
    """A model as a PyTorch module; made by `fastmlp.MLP.as_torch_module`.

    Parameters
    ----------
    mlp : MLP
        Model to compute with.

    Attributes
    ----------
    mlp : MLP
        The model.
    params : torch.nn.Parameter
        Parameter that shares the memory of ``mlp.params``.
    statistics : torch.Tensor
        Buffer of the module that shares the memory of ``mlp.buffers``. It exists only
        if the model has a `BatchNorm`, a `Standardise`, a `PiecewiseLinear` or spectral
        normalisation.
    """

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.mlp = mlp
        self._tie()

    def _tie(self) -> None:
        """Set the attributes that depend on the process and so are not pickled."""
        mlp = self.mlp
        self._has_modes = any(
            place.layer.is_identity_at_inference or place.layer.kind == "batch_norm"
            for place in resolve.walk(mlp.layers)
        ) or any(op.parametrization == "spectral_norm" for op in mlp.core.ops)
        self._dtype = getattr(torch, mlp.dtype.name)
        memory = _memory_of(mlp)
        self.params = torch.nn.Parameter(memory.params)
        if mlp.buffers.size > 0:
            self.register_buffer("statistics", memory.buffers)
        self._memory = self._addresses()
        self._lock = memory.lock

    def _addresses(self) -> tuple[int, ...]:
        tensors = (self.params, *self._buffers.values())
        return tuple(tensor.data_ptr() for tensor in tensors)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the outputs (…, n_out) for inputs (…, n_in)."""
        rows = self._rows(x)
        training = self._has_modes and self.training
        wanted = x.requires_grad or self.params.requires_grad
        if wanted and torch.is_grad_enabled():
            y = _Call.apply(rows, self.params, self, training)
        elif training:
            with self._lock:
                y = torch.from_numpy(self.mlp.forward(rows.detach().numpy(), True))
        else:
            y = torch.from_numpy(self.mlp.predict(rows.detach().numpy()))
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.mlp.n_out)

    def _rows(self, x: Any) -> torch.Tensor:
        """Return the inputs as a C-contiguous matrix; refuse invalid inputs."""
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x must be a torch.Tensor, got {_validate.describe(x)}")
        if x.device.type != "cpu":
            raise TypeError(
                f"x must be on the CPU, where fastmlp computes, got a tensor on "
                f"{x.device}; call x.cpu()"
            )
        if x.dtype != self._dtype:
            raise TypeError(
                f"x must have the model's dtype, {self._dtype}, got {x.dtype}; "
                f"call x.to({self._dtype})"
            )
        if x.layout != torch.strided:
            raise TypeError(f"x must be dense, got {x.layout}; call x.to_dense()")
        n_in = self.mlp.n_in
        if x.ndim == 0 or x.shape[-1] != n_in:
            raise ValueError(f"x must have shape (…, {n_in}), got {tuple(x.shape)}")
        if x.numel() == 0:
            raise ValueError(
                f"x must have at least one row, got shape {tuple(x.shape)}"
            )
        if self._addresses() != self._memory:
            raise RuntimeError(
                "the parameters of this module must share the memory of its "
                "fastmlp model, but they were replaced (by "
                "torch.func.functional_call or an assignment); change them in "
                "place instead"
            )
        # Refuse forward-mode derivatives here too, because PyTorch refuses them only if
        # it builds a graph.
        if any(forward_ad.unpack_dual(t).tangent is not None for t in (x, self.params)):
            raise RuntimeError(
                "a module from mlp.as_torch_module() does not have forward-mode "
                "derivatives in PyTorch; use a copy from mlp.to_torch() or, for "
                "derivatives with respect to the inputs, mlp.jvp or mlp.jacobian"
            )
        rows = x if x.ndim == 2 else x.reshape(-1, n_in)
        return rows.resolve_neg().contiguous()

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> MLPModule:
        # to(), double(), cuda(), share_memory() and similar methods call this. Apply fn
        # to new tensors in the model's memory, because some functions change tensors in
        # place.
        for array in (self.mlp.params, self.mlp.buffers):
            given = torch.from_numpy(array)
            place = given.data_ptr(), given.dtype, given.device
            got = fn(given)
            if (got.data_ptr(), got.dtype, got.device) != place:
                raise TypeError(
                    "the parameters and statistics of a module from "
                    "mlp.as_torch_module() must stay in the memory of the model, "
                    f"{self._dtype} on the CPU, but this call would move them to other "
                    f"memory, {got.dtype} on {got.device}; mlp.to_torch() returns a "
                    "copy that can be moved and converted"
                )
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in _TIED}
        buffers = {k: v for k, v in self._buffers.items() if k != "statistics"}
        state |= {"_parameters": {}, "_buffers": buffers}
        state["_gradient"] = self.params.requires_grad, self.params.grad
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        state = dict(state)
        requires_grad, gradient = state.pop("_gradient")
        super().__setstate__(state)
        self._tie()
        self.params.requires_grad_(requires_grad)
        self.params.grad = gradient

    def extra_repr(self) -> str:
        """Return ``repr(mlp)``, which PyTorch includes in the representation."""
        return repr(self.mlp)


# Attributes that _tie sets.
_TIED = frozenset(("_has_modes", "_dtype", "_memory", "_lock"))


class _Call(torch.autograd.Function):
    """One call of a model, as a function in PyTorch's autograd graph."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: torch.Tensor,
        params: torch.Tensor,
        module: MLPModule,
        training: bool,
    ) -> torch.Tensor:
        # params is saved too, so that PyTorch raises an error if it is changed in place
        # before backward.
        ctx.save_for_backward(rows, params)
        ctx.module, mlp = module, module.mlp
        with module._lock:
            # Keep the random draw and the statistics. With them, backward can repeat
            # this pass if a later pass has overwritten the values kept in the model.
            seed, passes, _ = mlp.core.training_state
            ctx.draw = (seed, _core.PASS_DRAWS, passes) if training else None
            ctx.statistics = mlp.buffers.copy() if mlp.buffers.size else None
            y = mlp.forward(rows.detach().numpy(), training)
            # Each forward pass makes a new forward_shape object, which identifies it.
            ctx.kept = mlp.forward_shape
        return torch.from_numpy(y)

    @staticmethod
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        dx, grads = _Back.apply(dy, *ctx.saved_tensors, ctx)
        wants_dx, wants_grads, *_ = ctx.needs_input_grad
        return dx if wants_dx else None, grads if wants_grads else None, None, None


class _Back(torch.autograd.Function):
    """The backward pass of a call, as a function in PyTorch's autograd graph.

    Its inputs include every tensor on which second derivatives would depend. Therefore
    PyTorch does not treat second derivatives as zero, but calls `_Back.backward`, which
    raises an error.
    """

    @staticmethod
    def forward(
        ctx: Any,
        dy: torch.Tensor,
        rows: torch.Tensor,
        params: torch.Tensor,
        call: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = rows.detach().numpy(), dy.detach().resolve_neg().contiguous().numpy()
        dx, grads = _gradients(call, *numbers)
        return torch.from_numpy(dx), torch.from_numpy(grads)

    @staticmethod
    def backward(ctx: Any, *derivatives: torch.Tensor) -> NoReturn:
        raise RuntimeError(
            "a module from mlp.as_torch_module() does not have second "
            "derivatives in PyTorch; use a copy from mlp.to_torch(), or, for "
            "derivatives with respect to the inputs, mlp.hessian and mlp.hvp"
        )


def _gradients(ctx: Any, rows: Array, dy: Array) -> tuple[Array, Array]:
    """Return gradients; repeat the forward pass if its values are not kept."""
    mlp: MLP = ctx.module.mlp
    with ctx.module._lock:
        if mlp.forward_shape is ctx.kept:
            # If training has discarded the values, core.backward raises RuntimeError.
            with contextlib.suppress(RuntimeError):
                return _validate.accepted(mlp.core.backward(dy))
    if ctx.draw is None and ctx.statistics is None:
        return mlp.vjp(rows, dy)[1:]

    # Repeat the pass in a separate network. In the model itself, a pass in training
    # mode would change the running statistics and the sequence of random draws, and
    # most passes would use newer running statistics than the call did.
    net = mlp._new_core()
    net.params[:] = mlp.params
    if ctx.draw is not None and mlp._rates is not None:
        net.set_rates(mlp._rates.at(ctx.draw[2]))
    if ctx.statistics is not None:
        net.buffers[:] = ctx.statistics
    _validate.accepted(net.forward(rows, ctx.draw is not None, ctx.draw))
    return _validate.accepted(net.backward(dy))
