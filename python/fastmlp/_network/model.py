"""The base class of the model: its structure, parameters and state.

Modules that `fastmlp.mlp` itself imports cannot import the class `MLP` from it. They
use its base class `Model` in annotations, and call `model_class` to create new models.
"""

from __future__ import annotations

import contextlib
import copy
import sys
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from ..initializers import checked_bias
from ..layers import Layer, core_layers
from . import rates, resolve
from .names import matching, patterns
from .views import Views

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Self

    import numpy.typing as npt

    from .._validate import Array
    from ..initializers import Init
    from ..metrics import History

    # Imported for type checkers only. Public signatures use `MLP` instead of `Model`,
    # so that users can annotate their callbacks' hooks with `MLP`, and so that type
    # checkers know every method of a model returned by functions such as
    # `fastmlp.load`.
    from ..mlp import MLP as MLP

_classes: list[type[MLP]] = []


class EpochSequence:
    """A model's position in its own sequence of epochs.

    A call of `fit` without a seed continues from this position.

    Attributes
    ----------
    seed : int
        Seed of the sample orders and of dropout.
    done : int
        Number of epochs finished so far.
    within : dict or None
        Progress within an epoch that was unfinished in the loaded checkpoint; None if
        no epoch is unfinished.
    """

    __slots__ = ("done", "seed", "within")

    def __init__(
        self, seed: int, done: int = 0, within: dict[str, Any] | None = None
    ) -> None:
        self.seed, self.done, self.within = seed, done, within

    # The pickle protocols 0 and 1 refuse slots unless the class has this method.
    def __getstate__(self) -> Any:
        return super().__getstate__()


class Model:
    """Structure, parameters and training state of a model; the base of `fastmlp.MLP`.

    Attributes
    ----------
    core : fastmlp._core.Mlp
        The compiled core, which holds the parameters and does the computations.
    sequence : EpochSequence
        Where the model is in its sequence of epochs; a fit without a seed continues
        from here.
    history : History or None
        History of the last fit.
    forward_shape : tuple of int or None
        Shape of the outputs of the last `fastmlp.MLP.forward`.
    """

    core: _core.Mlp
    sequence: EpochSequence
    history: History | None
    forward_shape: tuple[int, ...] | None

    # The architecture: as given to the constructor (for ``__repr__``), and with all
    # defaults filled in.
    _given: dict[str, Any]
    _layers: tuple[Layer, ...]
    _core_layers: list[dict[str, Any]]
    _n_in: int
    _n_out: int
    _n_params: int
    _dtype: np.dtype[Any]

    def _build(self) -> None:
        """Set all attributes that follow from ``_given``, but draw no parameters."""
        self._n_in = self._given["layers"][0]
        self._layers = self._resolved()
        self._dtype = np.dtype(self._given["dtype"])

        # Count in Python, whose integers do not overflow.
        size, self._n_out = resolve.count_parameters(self.n_in, self._layers)
        if size > sys.maxsize // self.dtype.itemsize:
            raise ValueError(
                f"layers must not have more parameters than memory can hold, got {size}"
            )
        self._n_params = size

        # Make the core, and views of its parameters.
        # Keep the layers: the core refers weakly to custom activations in them.
        self._core_layers = core_layers(self._layers)
        self.core = self._new_core()
        self._params, self._buffers = self.core.params, self.core.buffers
        self._views = self._views_of(self._params)
        self._parametrized = any(op.parametrization != "none" for op in self.core.ops)
        self._weights = tuple(self._views.weights)
        self._biases = tuple(self._views.biases)
        self._rates = rates.of_layers(self._layers)
        self.forward_shape: tuple[int, ...] | None = None
        # An optimiser keeps this reference to the model that it belongs to.
        self._self = weakref.ref(self)

    def _views_of(self, params: Array) -> Views:
        """Return views of a vector of parameters, and of the running statistics."""
        return Views(self._layers, self.core.ops, params, self._buffers)

    def _new_core(self) -> _core.Mlp:
        """Return a core for this architecture, with zeros as parameters."""
        operands = "bfloat16" if self.compute_dtype == "bfloat16" else "full"
        return _core.Mlp(self.dtype.name, self.n_in, self._core_layers, operands)

    def _set_rates(self, step: int | None = None) -> None:
        """Give the core the rates of random layers, if they have schedules.

        They are those of an optimiser's step, or else of the next pass in training mode
        that is not a step.
        """
        if self._rates is not None:
            number = self.core.training_state[1] if step is None else step
            self.core.set_rates(self._rates.at(number))

    def _resolved(self) -> tuple[Layer, ...]:
        """Return the layers of the architecture with all defaults filled in."""
        return resolve.of_arguments(self._given)

    # The architecture ---------------------------------------------------------------

    @property
    def n_in(self) -> int:
        """Width of the input."""
        return self._n_in

    @property
    def n_out(self) -> int:
        """Width of the output."""
        return self._n_out

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return self._n_params

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of parameters, inputs and outputs."""
        return self._dtype

    @property
    def compute_dtype(self) -> str:
        """Type of the operands of products: the name of the dtype, or "bfloat16"."""
        name: str = self._given.get("compute_dtype", self.dtype.name)
        return name

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers with all their fields set."""
        return self._layers

    # Parameters ---------------------------------------------------------------------

    @property
    def params(self) -> Array:
        """All parameters, 1-D, in the order W₀, b₀, W₁, b₁, …: a writeable view.

        A normalisation contributes its scale, then its shift. A residual block
        contributes the parameters of its body, then those of its projection. A `Dense`
        layer with a parametrisation contributes b first, then what stands for W.
        """
        return self._params

    @params.setter
    def params(self, value: object) -> None:
        raise AttributeError(
            "mlp.params cannot be replaced; write into it: mlp.params[:] = values"
        )

    @property
    def weights(self) -> tuple[Array, ...]:
        """Weight (in, out) of each dense layer, as a view of `params`.

        Projections and the dense layers inside residual blocks are included. The order
        is that of `params`. For a layer with a parametrisation, the array is the one
        that stands for the weight, as V does in weight normalisation.
        """
        return self._weights

    @property
    def biases(self) -> tuple[Array | None, ...]:
        """Bias (out,) of each dense layer, a view of `params`; None without a bias."""
        return self._biases

    def _effective(self) -> Array:
        """Return the parameters with all computed weights, perhaps as a view."""
        return self.core.effective_params() if self._parametrized else self._params

    @property
    def buffers(self) -> Array:
        """Statistics of all layers that have some, 1-D: a writeable view.

        `BatchNorm` and `Standardise` contribute their mean (n,), then their variance
        (n,), which are running ones for `BatchNorm`; `PiecewiseLinear` its lower limits
        and slopes; `Dense` with spectral normalisation its vectors u (n,) and v (in,).
        """
        return self._buffers

    def named_parameters(self) -> dict[str, Array]:
        """Return views of `params`, under the same names as in `state_dict`.

        Returns
        -------
        dict of str to ndarray
            For a dense layer, for instance ``"0.weight"`` (in, out) and ``"0.bias"``
            (out,); magnitudes of weight normalisation are (1, out). For a
            normalisation, for instance ``"1.weight"`` (n,), the scale, and ``"1.bias"``
            (n,), the shift.
        """
        return dict(self._views.parameters)

    def state_dict(self) -> dict[str, Array]:
        """Return contiguous copies of the parameters with PyTorch's names and layout.

        Returns
        -------
        dict of str to ndarray
            ``"0.weight"`` (out, in), ``"0.bias"`` (out,), ``"2.weight"``, …: the names
            of a ``torch.nn.Sequential`` with one module for each layer, and another
            module after each dense layer whose activation is not the identity.
            Layers with a parametrisation have PyTorch's names for it; see `Dense`.
            Normalisations have ``weight`` and ``bias``, and batch normalisations also
            ``running_mean``, ``running_var`` and ``num_batches_tracked``;
            `Standardise` has ``mean`` and ``var``. Residual blocks have modules
            ``body`` and ``projection``, as in ``"3.body.0.weight"``.

        Notes
        -----
        The seed of the random draws of training (sample orders, dropout) is not
        included. Dropout in `train_step` is a function of that seed and of the
        optimiser's step count. A model made with the same ``seed`` therefore continues
        the training exactly if the states of both the model and the optimiser are
        loaded. `copy`, pickles and `fastmlp.Checkpoint` also contain the seed, and the
        progress of `fit` and of calls with ``training=True``.
        """
        views = self._state_views()
        return {name: np.array(view, order="C") for name, view in views.items()}

    def _state_views(self) -> dict[str, Array]:
        """Return the arrays of `state_dict` as views, where there is such memory."""
        tracked = self.core.training_state[2]
        state = {}
        for name, view in self._views.in_torch_layout().items():
            state[name] = view
            # The batch counter comes after the running variance, which is the last view
            # of a batch normalisation.
            if name.endswith(".running_var"):
                state[_counter(name)] = np.array(tracked, dtype=np.int64)
        return state

    def load_state_dict(self, state: Mapping[str, npt.ArrayLike]) -> None:
        """Load parameters from a `state_dict` of a model or a ``torch.nn.Sequential``.

        Parameters
        ----------
        state : mapping of str to array_like
            Arrays with exactly the names and shapes of `state_dict`; only
            ``num_batches_tracked`` may be missing. The arrays are copied, and converted
            to the model's dtype if necessary.

        Raises
        ------
        TypeError, ValueError
            If names are missing or unknown, or an array has the wrong kind or shape.
            The message lists everything that is wrong, and the model is unchanged.
        """
        if not hasattr(state, "keys"):
            raise TypeError(f"state must be a dict, got {_validate.describe(state)}")
        places = self._views.in_torch_layout()
        names = [_counter(n) for n in places if n.endswith(".running_var")]
        counters = {n: state[n] for n in names if n in state}

        # Check all names and shapes before anything is written.
        wrong = [f"missing: {name}" for name in places if name not in state]
        known = {*places, *counters}
        wrong += [f"unexpected: {name}" for name in state if name not in known]
        arrays = {}
        for name in places.keys() & state.keys():
            array = _validate.convert(f"state[{name!r}]", state[name], self.dtype)
            if array.shape != places[name].shape:
                wanted = places[name].shape
                wrong.append(f"{name}: wanted shape {wanted}, got {array.shape}")
            arrays[name] = array
        tracked = 0
        for name, value in counters.items():
            count = np.asarray(value)
            if count.shape != () or count.dtype.kind not in "iu" or count < 0:
                wrong.append(f"{name}: wanted a count, got {_validate.describe(value)}")
            elif int(count) > _validate.MOST_STEPS:
                wrong.append(
                    f"{name}: wanted a count of at most {_validate.MOST_STEPS}, "
                    f"got {int(count)}"
                )
            else:
                tracked = max(tracked, int(count))
        if wrong:
            raise ValueError(
                "state does not fit the model; " + "; ".join(sorted(wrong))
            )

        # The state may hold views of this model's memory, which is about to be
        # overwritten: copy them first.
        for name, array in arrays.items():
            own = (self._params, self._buffers)
            if any(np.may_share_memory(array, o) for o in own):
                arrays[name] = array.copy()
        for name, array in arrays.items():
            places[name][:] = array
        seed, passes, _ = self.core.training_state
        self.core.training_state = (seed, passes, tracked)

    # Frozen parameters --------------------------------------------------------------

    @property
    def frozen(self) -> tuple[str, ...]:
        """Names of the frozen parameters; see `freeze`."""
        ops = self.core.ops
        return tuple(
            name
            for name, (op, role) in self._views.owners.items()
            if getattr(ops[op], f"{role}_frozen")
        )

    def freeze(self, *names: str) -> None:
        """Freeze parameters: training and solvers leave them unchanged.

        Derivatives with respect to frozen parameters are 0, and optimisers do not
        change them, whatever the gradient or the weight decay. A training step does not
        compute what only their gradients need, so that it becomes faster. Files,
        copies, pickles and checkpoints keep what is frozen.

        Parameters
        ----------
        *names : str
            Names of parameters as in `named_parameters`, or patterns: ``"0.*"`` is all
            parameters of layer 0 and ``"*.bias"`` all biases. Parameters that are
            frozen already remain so.

        Raises
        ------
        TypeError, ValueError
            If there is no name, or one matches no parameter. Nothing is then frozen.

        See Also
        --------
        unfreeze, frozen

        Notes
        -----
        The running statistics of `BatchNorm` are not parameters: training in which the
        layer takes part still updates them, as in PyTorch. Optimisers with bias
        correction count steps for all parameters together; reset them after `unfreeze`,
        or the first steps of parameters without moments may be large.

        Examples
        --------
        >>> import fastmlp as fm
        >>> mlp = fm.MLP([4, 8, 2], seed=0)
        >>> mlp.freeze("0.*")
        >>> mlp.frozen
        ('0.weight', '0.bias')
        """
        self._set_frozen({*self.frozen, *self._matching(names)})

    def unfreeze(self, *names: str) -> None:
        """Let training change parameters again.

        Parameters
        ----------
        *names : str
            Names or patterns, as in `freeze`; none means all parameters.

        Raises
        ------
        TypeError, ValueError
            If a name matches no parameter. Nothing is then changed.
        """
        chosen = self._matching(names) if names else self._views.owners
        self._set_frozen(set(self.frozen) - set(chosen))

    def _matching(self, names: tuple[str, ...]) -> dict[str, None]:
        return matching("names", patterns("names", names), self._views.owners)

    def _set_frozen(self, names: Collection[str]) -> None:
        """Freeze exactly the parameters with these names."""
        owners = {self._views.owners[name] for name in names}
        self.core.set_frozen(
            [
                (
                    (i, "weight") in owners,
                    (i, "bias") in owners,
                    (i, "magnitude") in owners,
                )
                for i in range(len(self.core.ops))
            ]
        )

    def _check_apart(self, name: str, array: Array) -> None:
        """Raise ValueError if the array overlaps the model's memory."""
        _validate.apart(name, array, "mlp.params", self._params)
        _validate.apart(name, array, "mlp.buffers", self._buffers)

    # Copies and text ----------------------------------------------------------------

    def copy(self, *, compute_dtype: str | None = None) -> Self:
        """Return an independent copy with the same parameters and training state.

        Parameters
        ----------
        compute_dtype : {"float32", "float64", "bfloat16"}, optional
            Type of the operands of the copy's products; None means that of this model.

        Returns
        -------
        MLP
            The copy.

        Raises
        ------
        TypeError, ValueError
            If ``compute_dtype`` does not suit the model's dtype.
        """
        if compute_dtype is None:
            return copy.deepcopy(self)
        given = dict(self._given)
        set_compute_dtype(given, compute_dtype)
        twin = copy.deepcopy(self)
        twin.__setstate__({**twin.__getstate__(), "_given": given})
        return twin

    def __getstate__(self) -> dict[str, Any]:
        derived = self.__dict__.keys() & _DERIVED
        state = {k: v for k, v in self.__dict__.items() if k not in derived}
        frozen = {"frozen": self.frozen} if self.frozen else {}
        return {
            **state,
            **frozen,
            "params": self._params.copy(),
            "buffers": self._buffers.copy(),
            "training_state": self.core.training_state,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        params, buffers = state.pop("params"), state.pop("buffers")
        training_state = state.pop("training_state")
        frozen = state.pop("frozen", ())
        if "_order_seed" in state:  # pickled by version 0.1.0
            seed, done = state.pop("_order_seed"), state.pop("_epochs_done")
            self.sequence = EpochSequence(seed, done, state.pop("_place", None))
        self.__dict__.update(state)
        self._build()
        self._params[:] = params
        self._buffers[:] = buffers
        self.core.training_state = training_state
        self._set_frozen(frozen)


def claim(mlp: Model, optimizer: Any) -> None:
    """Bind the optimiser to this model; refuse it if it has trained another model."""
    if optimizer._owner not in (None, mlp._self) and optimizer._has_state():
        raise ValueError(
            "optimizer has trained another model and holds state for that model; "
            "create a new optimizer, or call optimizer.reset() before it trains this "
            "model"
        )
    optimizer._bind(mlp)


# Attributes that are not pickled, because `_build` sets them.
_DERIVED = frozenset(
    (
        "_layers",
        "_n_in",
        "_n_out",
        "_n_params",
        "_dtype",
        "_core_layers",
        "core",
        "_params",
        "_buffers",
        "_parametrized",
        "_views",
        "_weights",
        "_biases",
        "_rates",
        "forward_shape",
        "_self",
    )
)


def _counter(name: str) -> str:
    """Return the name of the batch counter that goes with a running variance."""
    return name.removesuffix("running_var") + "num_batches_tracked"


def register(cls: type[MLP]) -> type[MLP]:
    """Make ``cls`` the class that `model_class` returns; a class decorator."""
    _classes[:] = [cls]
    return cls


def model_class() -> type[MLP]:
    """Return `fastmlp.MLP`, the class of new models."""
    return _classes[0]


def set_bias_init(given: dict[str, Any], bias_init: object) -> None:
    """Enter an argument ``bias_init`` into the architecture.

    None is not entered, so that files and pickles of other models do not name it.
    """
    if bias_init is not None:
        given["bias_init"] = checked_bias("bias_init", bias_init)


def set_compute_dtype(given: dict[str, Any], compute_dtype: object) -> None:
    """Enter an argument ``compute_dtype`` into the architecture that has a dtype.

    Only a type that differs from the dtype is entered, so that files and pickles of
    other models do not name it.
    """
    dtype = given["dtype"]
    given.pop("compute_dtype", None)
    if compute_dtype is None:
        return
    if not isinstance(compute_dtype, str):
        with contextlib.suppress(TypeError):  # not a dtype: choice raises the error
            compute_dtype = np.dtype(compute_dtype).name  # type: ignore[call-overload]
    known = ("float32", "float64", "bfloat16")
    name = _validate.choice("compute_dtype", compute_dtype, known)
    if name == dtype:
        return
    if name != "bfloat16":
        raise ValueError(
            f"compute_dtype must be {dtype!r}, the dtype of the model, or 'bfloat16', "
            f"got {name!r}"
        )
    if dtype != "float32":
        raise ValueError(
            f"compute_dtype='bfloat16' needs dtype='float32', got dtype={dtype!r}"
        )
    given["compute_dtype"] = name


def empty(
    layers: list[int | Layer],
    dtype: Any,
    init: Init = "auto",
    *,
    compute_dtype: str | None = None,
) -> MLP:
    """Return a model of zeros, to be filled with the parameters of another one.

    Parameters
    ----------
    layers : list of int or Layer
        Width of the input, then the layers.
    dtype : dtype
        Float dtype.
    init : str, Initializer or callable
        Initialiser that the model is to name as its own.
    compute_dtype : str, optional
        Type of the operands of products; None means ``dtype``.
    """
    undrawn = [item.undrawn() if isinstance(item, Layer) else item for item in layers]
    mlp = model_class()(
        undrawn, init="zeros", dtype=dtype, compute_dtype=compute_dtype, seed=0
    )
    mlp._given |= {"layers": layers, "init": init}
    mlp._layers = mlp._resolved()
    return mlp


def is_model(value: object) -> bool:
    """Return whether a value is a `fastmlp.MLP`."""
    return isinstance(value, _classes[0])
