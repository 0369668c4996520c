"""The base class of the optimisers."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import _core, _validate
from .._network.blocks import Stream, outline, parts
from .._network.model import claim, is_model
from .._validate import hints
from ..schedules import ReduceOnPlateau, Schedule, Timeline
from . import _groups
from ._hyperparameters import (
    DEFAULTS,
    Count,
    Decay,
    Flag,
    Groups,
    Lr,
    Optional,
    Scheduled,
    Signature,
)
from ._timeline import at_first

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Mapping, Sequence
    from typing import NoReturn

    from .._network.model import MLP
    from .._validate import Array

    Rate = float | Schedule | Callable[[int], float]


class Optimizer:
    """Base class of the optimisers; use one of its subclasses.

    An optimiser belongs to the first model it trains, because its moments are of no use
    to another model; after `reset`, it can train a different one. `step` updates arrays
    that need not belong to a model. Hyperparameters can be set between steps, unless
    the new value would need other state arrays. An optimiser can be pickled and copied
    with all its state.

    Attributes
    ----------
    lr : float
        Learning rate of the next step; can be set to anything that the constructor
        takes.
    maximize, weight_decay, accumulate, clip_norm, clip_value, l1, decay, ema, groups
        See `fastmlp.optimizers`.
    """

    __slots__ = ("__weakref__", "_groups", "_owner", "_timelines", "core")

    _kind: ClassVar[str]
    _constants: ClassVar[dict[str, Any]]
    _names: ClassVar[tuple[str, ...]]  # the constructor's own arguments
    _needs_model: ClassVar[bool] = False  # whether `step` takes no arrays
    # Hyperparameters that must be the same for all parameters, because they determine
    # numbers of state that all parameters share.
    _common: ClassVar[frozenset[str]] = frozenset()

    core: _core.Optimizer
    _owner: weakref.ref[Any] | None  # the model that it trains
    # For each hyperparameter that changes from step to step: its values.
    _timelines: dict[str, Timeline]
    _groups: tuple[dict[str, Any], ...]

    lr = Lr()
    maximize = Flag()
    weight_decay = Scheduled()
    accumulate = Count(least=1)
    clip_norm = Optional()
    clip_value = Optional()
    l1 = Scheduled()
    decay = Decay()
    ema = Optional(1.0)
    groups = Groups()

    __signature__ = Signature()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Optimizer is abstract: use fm.SGD(lr), fm.Adam(), …")

    def __init_subclass__(cls, kind: str | None = None, **constants: Any) -> None:
        """Make the subclass use the core's optimiser ``kind``, if ``kind`` is given.

        Parameters
        ----------
        kind : str, optional
            Name of the optimiser in the core.
        **constants
            Hyperparameters of the core that are the same for all objects of the class.
        """
        if kind is None:
            super().__init_subclass__(**constants)
        else:
            super().__init_subclass__()
            cls._kind, cls._constants = kind, constants
            code = cls.__init__.__code__
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
            # State dicts and ``__repr__`` list ``maximize`` and ``eps_mode`` last.
            cls._names = tuple(sorted(names, key=("maximize", "eps_mode").count))

    def _set_up(self, arguments: Mapping[str, Any]) -> None:
        """Make the optimiser from the local variables of its constructor."""
        own = {name: arguments[name] for name in self._names}
        self._make(own | arguments["options"])

    def _make(self, hyper: dict[str, Any]) -> None:
        """Check the hyperparameters one by one, then together, and make the core."""
        unknown = hyper.keys() - set(self._names) - DEFAULTS.keys()
        if unknown:
            names = [cls.__name__ for cls in type(self).__mro__]
            takes = list(type(self).__signature__.parameters)
            raise TypeError(hints.keyword(names[0], names, min(unknown), takes))
        hyper = DEFAULTS | hyper
        asked = _groups.checked(type(self), self._hyper_names(), hyper.pop("groups"))
        known = {name: getattr(type(self), name) for name in hyper}
        checked = {name: known[name].check(value) for name, value in hyper.items()}
        self._check_together(at_first(checked))

        self._timelines = {
            name: known[name].timeline(value)
            for name, value in checked.items()
            if isinstance(known[name], Scheduled) and not isinstance(value, float)
        }
        core = dict(self._constants)
        for name, value in checked.items():
            core |= known[name].to_core(value)
        self.core = _core.Optimizer(self._kind, **core)
        self._owner = None
        self._groups = ()
        self._set_groups(asked)

    @classmethod
    def _hyper_names(cls) -> tuple[str, ...]:
        return (*cls._names, *DEFAULTS)

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        """Refuse hyperparameters that are valid separately but not together."""
        if hyper["clip_norm"] is not None and hyper["clip_value"] is not None:
            raise ValueError(
                "clip_norm and clip_value cannot be combined, got "
                f"clip_norm={hyper['clip_norm']}, clip_value={hyper['clip_value']}"
            )

    def _hyper(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        hyper: dict[str, Any] = {
            name: self._timelines[name].source
            if name in self._timelines
            else getattr(self, name)
            for name in self._hyper_names()
        }
        for name in _LATER:
            if hyper[name] == DEFAULTS[name]:
                del hyper[name]
        return hyper

    # Groups -------------------------------------------------------------------------

    def _set_groups(self, groups: tuple[dict[str, Any], ...]) -> None:
        """Use checked groups from now on; an error leaves the former groups."""
        owner = None if self._owner is None else self._owner()
        ranges = [] if owner is None else _groups.ranges(groups, owner)
        self.core.set_groups(_groups.to_core(self, groups), ranges)
        self._groups = groups

    def _bind(self, mlp: Any) -> None:
        """Make a model the one that this optimiser trains."""
        if self._groups:
            ranges = _groups.ranges(self._groups, mlp)
            self.core.set_groups(_groups.to_core(self, self._groups), ranges)
        self._owner = mlp._self

    @property
    def step_count(self) -> int:
        """Number of steps taken."""
        return self.core.step_count

    def _has_state(self) -> bool:
        """Whether there is state that belongs to the model trained so far."""
        return self.core.gradient_count > 0

    # Schedules ----------------------------------------------------------------------

    @property
    def schedule(self) -> Schedule | Callable[[int], float] | None:
        """Schedule or function of the learning rate; None if the rate is a number."""
        timeline = self._timelines.get("lr")
        return None if timeline is None else timeline.source

    def _values(self, count: int) -> dict[str, Array]:
        """Return the values in the next steps of all hyperparameters with schedules."""
        return {
            name: self._ahead(timeline.values, count)
            for name, timeline in self._timelines.items()
        }

    def _ahead(self, values: Callable[[int, int, bool], Array], count: int) -> Array:
        """Return values for the next ``count`` gradients.

        ``values`` returns them for steps, given the first one, how many, and whether
        the first one has begun.
        """
        first, each = self.step_count, self.accumulate
        pending = self.core.gradient_count - first * each
        steps = -(-(pending + count) // each)
        return values(first, steps, pending > 0).repeat(each, axis=0)[pending:][:count]

    def _set_scheduled(self) -> None:
        """Give the core the values of schedules in the next step."""
        core = self.core
        step = core.step_count
        for name, timeline in self._timelines.items():
            begun = (
                timeline.is_function and core.gradient_count > step * self.accumulate
            )
            core.set(name, timeline.at(step, begun))

    def _epoch_end(self, value: float) -> None:
        """Report the result of an epoch to a schedule that reacts to it."""
        if isinstance(self.schedule, ReduceOnPlateau):
            self.schedule.observe(value)

    # Averages -----------------------------------------------------------------------

    @property
    def ema_params(self) -> list[Array] | None:
        """Copies of the moving averages: one flat array for each array of parameters.

        None without ``ema``; an empty list before the first step.
        """
        if self.ema is None:
            return None
        return [slots["ema"] for slots in self.core.state()["slots"]]

    def averaged(self, mlp: MLP) -> MLP:
        """Return a copy of a model whose parameters are averages.

        With ``ema`` these are the moving averages; without it, those that the
        optimiser itself keeps, if it does, as `ASGD` and `ScheduleFreeSGD` do. `fit`
        and its callbacks evaluate the parameters that are trained.

        Parameters
        ----------
        mlp : MLP
            Model that this optimiser trains; running statistics of `BatchNorm` are
            copied unchanged.

        Returns
        -------
        MLP
            The copy.

        Raises
        ------
        TypeError
            If ``mlp`` is not a model.
        ValueError
            If the optimiser keeps no average, has taken no step, or has trained
            another model.
        """
        owner = getattr(mlp, "_self", None)
        if owner is None:
            got = _validate.describe(mlp)
            raise TypeError(f"mlp must be an fm.MLP, got {got}")
        averages = self._averages() if self.ema is None else self.ema_params
        if averages is None:
            raise ValueError(
                "averaged() needs an optimizer that keeps an average: create it "
                "with ema=0.999, for example"
            )
        if not averages or not self.step_count:
            raise ValueError(
                "averaged() needs at least one step, but none has been taken"
            )
        if self._owner not in (None, owner):
            raise ValueError("mlp must be the model that this optimizer trains")
        if [(a.size, a.dtype) for a in averages] != [(mlp.n_params, mlp.dtype)]:
            raise ValueError(
                "mlp must be the model that this optimizer trains: the optimizer "
                "has averages of "
                + ", ".join(f"{a.size:,} {a.dtype}" for a in averages)
                + " parameters, but mlp has "
                + _validate.counted(mlp.n_params, f"{mlp.dtype} parameter")
            )
        copied = mlp.copy()
        copied.params[:] = self._average(averages[0], copied.params)
        return copied

    def _averages(self) -> list[Array] | None:
        """Return the averages that the optimiser keeps without ``ema``."""
        return None

    def _average(self, kept: Array, params: Array) -> Array:
        """Return the average, given what `_averages` or ``ema`` has kept."""
        return kept

    # Steps and state ----------------------------------------------------------------

    def step(
        self, params: MLP | Array | Sequence[Array], grads: Array | Sequence[Array]
    ) -> None:
        """Take one step, in place.

        Parameters
        ----------
        params : MLP, ndarray or sequence of ndarrays
            Parameters to update: a model, or arrays of float32 or float64,
            C-contiguous, writeable; they are never converted. The first step fixes
            their number, sizes and dtypes.
        grads : ndarray or sequence of ndarrays
            Gradients with the dtypes and shapes of the parameters, C-contiguous; for a
            model, one array of the dtype and shape of ``mlp.params``, as
            `fastmlp.MLP.value_and_grad` returns it.

        Raises
        ------
        DivergenceError
            If the gradient for a model is not finite.
        TypeError, ValueError
            If the arrays cannot be used without conversion, the optimiser belongs to
            another model, weights cannot be told from biases, because
            ``decay="weights"`` and all arrays are 1-D, or the optimiser has ``groups``
            and ``params`` is not a model. Everything is then left unchanged.

        Notes
        -----
        A step of ``mlp`` and a step of ``mlp.params`` are the same, except that only
        the former knows which parameters are weights, which ``decay="weights"`` needs.
        The former also waits until other threads have finished using the model.
        """
        if self._timelines:
            self._set_scheduled()
        if (self._groups or self._needs_model) and not is_model(params):
            self._refuse_arrays()
        if type(params) is np.ndarray and type(grads) is np.ndarray:
            params, grads = [params], [grads]
        elif type(params) is not list or type(grads) is not list:
            if is_model(params):
                self._step_model(params, grads)
                return
            params, grads = _lists(params, grads)
        if self.core.step(params, grads) is NotImplemented:
            flat = _flat(params, grads)
            self._check_decay(flat[0])
            _validate.accepted(self.core.step(*flat))

    def _refuse_arrays(self) -> NoReturn:
        if self._groups:
            raise ValueError(
                "params must be a model if the optimizer has groups, because arrays "
                "have no names: write step(mlp, grads)"
            )
        raise ValueError(
            f"params must be a model for {type(self).__name__}, because weights and "
            "biases have different formulas: write step(mlp, grads)"
        )

    def _step_model(self, mlp: Any, grads: object) -> None:
        claim(mlp, self)
        if mlp.core.update(grads, self.core) is NotImplemented:
            shape = mlp.params.shape
            array = _validate.exact("grads", grads, mlp.dtype, shape, writeable=False)
            mlp._check_apart("grads", array)
            _validate.accepted(mlp.core.update(array, self.core))

    def _check_decay(self, params: Sequence[Array]) -> None:
        """Refuse vectors if only weights decay: which elements those are is unknown."""
        if self.decay == "all" or not (self.weight_decay or self.l1):
            return
        if all(param.ndim < 2 for param in params):
            raise ValueError(
                "params must be a model, or hold an array of two dimensions, because "
                "decay='weights' spares biases, and which numbers of a 1-D array are "
                "weights is unknown: write step(mlp, grads), or pass decay='all' to "
                "the optimizer"
            )

    def reset(self) -> None:
        """Forget all steps and their state; the hyperparameters stay.

        The optimiser can then train any model.
        """
        self.core.reset()
        self._owner = None

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state of the optimiser as copies.

        Returns
        -------
        dict
            ``"kind"`` (str), ``"hyper"`` (dict: the constructor's arguments; a
            `fastmlp.schedules.ReduceOnPlateau` includes its observations), ``"step"``
            (int) and ``"slots"`` (list: one dict of flat arrays per parameter array;
            the keys are torch's names, such as ``"exp_avg"``, and ``"ema"`` for the
            moving average of the parameters). Optimisers with numbers that all
            parameters share, such as `NAdam`, also have ``"shared"`` (dict of floats).
        """
        state = self.core.state()
        return {"kind": self._kind_name(), "hyper": self._hyper_copy(), **state}

    def _state_in_place(self) -> dict[str, Any]:
        """Return the state of `state_dict` without copies of the arrays.

        The arrays are read from the core when they are needed.
        """
        core = self.core
        slots = [
            {
                name: Stream(np.dtype(dtype), (size,), partial(core.read_slot, i, name))
                for name, (dtype, size) in slot.items()
            }
            for i, slot in enumerate(core.layout())
        ]
        hyper = self._hyper_copy()
        return {
            "kind": self._kind_name(),
            "hyper": hyper,
            "step": core.step_count,
            "slots": slots,
            **({"shared": core.shared} if core.shared else {}),
        }

    def _hyper_copy(self) -> dict[str, Any]:
        hyper = self._hyper()
        if isinstance(self.schedule, ReduceOnPlateau):
            hyper["lr"] = copy.copy(self.schedule)
        return hyper

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`, including the hyperparameters.

        Parameters
        ----------
        state : mapping
            What `state_dict` returned for an optimiser of the same class.

        Raises
        ------
        TypeError, ValueError
            If the state is invalid; the optimiser is then left unchanged.
        """
        self._loader(state)()

    def _loader(self, state: Mapping[str, Any], mlp: Any = None) -> Callable[[], None]:
        """Check a state for `load_state_dict`; return a function that loads it.

        The checks need neither time nor memory for the arrays. If a model ``mlp`` is
        given, the optimiser then belongs to it.
        """
        if mlp is None and self._owner is not None:
            mlp = self._owner()
        hyper, step, slots = _validate.stored(state, self._kind_name())
        names = self._hyper_names()
        hyper = {name: DEFAULTS[name] for name in _LATER} | hyper
        if hyper.keys() != set(names):
            raise ValueError(
                f"state['hyper'] must have the keys {', '.join(names)}, "
                f"got {', '.join(map(str, hyper))}"
            )

        # The values go to a new core, which replaces this one once it is complete.
        other = type(self).__new__(type(self))
        other._make(dict(hyper))
        count = _validate.count("state['step']", step, 0, _validate.MOST_STEPS)
        shared = _shared_numbers(state, other.core.shared)
        _check_pending(shared, other.accumulate, slots)
        if mlp is not None:
            _groups.ranges(other._groups, mlp)  # raises if a pattern matches nothing
        arrays = [_slot_arrays(i, slot) for i, slot in enumerate(slots)]
        sizes = [
            _common_size(i, a, other.core.slot_names) for i, a in enumerate(arrays)
        ]

        def load() -> None:
            core = other.core
            core.allocate(count, sizes, shared)
            for i, slot in enumerate(arrays):
                for name, array in slot.items():
                    start = 0
                    for part in parts(array):
                        part = part.astype(part.dtype.type, copy=False)
                        core.write_slot(i, name, start, part)
                        start += part.size
            self.core = core
            self._timelines = {
                name: Timeline(name, copy.copy(timeline.source), timeline.positive)
                for name, timeline in other._timelines.items()
            }
            self._groups = other._groups
            if mlp is not None:
                self._bind(mlp)

        return load

    def _kind_name(self) -> str:
        return type(self).__name__.lower()

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._owner = None
        self.load_state_dict(state)

    def __repr__(self) -> str:
        hyper = {
            name: value
            for name, value in self._hyper().items()
            if name not in DEFAULTS or value != DEFAULTS[name]
        }
        return f"{type(self).__name__}({_validate.arguments(hyper)})"


def _check_pending(
    shared: Mapping[str, float], each: int, slots: Sequence[Any]
) -> None:
    """Refuse a number of accumulated gradients that no training leads to."""
    pending = shared.get("pending", 0.0)
    most = each - 1 if slots else 0
    if pending not in range(most + 1):
        raise ValueError(
            f"state['shared']['pending'] must be an integer from 0 to {most}, got "
            f"{pending}"
        )


def _shared_numbers(
    state: Mapping[str, Any], own: Mapping[str, float]
) -> dict[str, float]:
    """Return the numbers of a state that all parameters share, named as in ``own``."""
    if not own:
        return {}
    given = dict(state).get("shared")
    if not isinstance(given, dict) or given.keys() != own.keys():
        raise ValueError(
            f"state['shared'] must be a dict with the keys {', '.join(own)}, got "
            f"{_validate.describe(given)}"
        )
    return {
        name: _validate.real(f"state['shared'][{name!r}]", value)
        for name, value in given.items()
    }


def _slot_arrays(i: int, slot: object) -> dict[str, Array | Stream]:
    """Return one entry of a state's slots as 1-D arrays of floats."""
    where = f"state['slots'][{i}]"
    if not isinstance(slot, dict):
        raise ValueError(f"{where} must be a dict, got {_validate.describe(slot)}")
    arrays = {}
    for name, value in slot.items():
        array = value if isinstance(value, Stream) else np.asarray(value)
        usual = array.dtype.kind == "f" and array.dtype.itemsize in (4, 8)
        if not usual or len(array.shape) != 1:
            value = outline(value) if isinstance(value, Stream) else value
            raise ValueError(
                f"{where}[{name!r}] must be a 1-D array of float32 or float64, got "
                f"{_validate.describe(value)}"
            )
        arrays[name] = array
    return arrays


def _common_size(
    i: int, arrays: Mapping[str, Array | Stream], names: tuple[str, ...]
) -> tuple[str, int]:
    """Return the dtype and the size of the arrays of an entry of a state's slots."""
    where = f"state['slots'][{i}]"
    if arrays.keys() != set(names):
        raise ValueError(
            f"{where} must have exactly the keys {list(names)}, got {list(arrays)}"
        )
    kinds = {(array.dtype.type, array.size) for array in arrays.values()}
    if len(kinds) > 1:
        raise ValueError(
            f"{where} must hold 1-D float32 or float64 arrays of equal size and dtype"
        )
    kind, size = kinds.pop() if kinds else (np.float32, 0)
    return np.dtype(kind).name, size


def _lists(params: object, grads: object) -> tuple[list[Any], list[Any]]:
    """Return ``params`` and ``grads`` as lists of arrays."""
    if isinstance(params, np.ndarray) or isinstance(grads, np.ndarray):
        params = [params] if isinstance(params, np.ndarray) else params
        grads = [grads] if isinstance(grads, np.ndarray) else grads
    lists = []
    for name, value in (("params", params), ("grads", grads)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(
                f"{name} must be a numpy array, or a list or tuple of numpy arrays, "
                f"got {_validate.describe(value)}"
            )
        lists.append(list(value))
    return lists[0], lists[1]


def _flat(params: list[Any], grads: list[Any]) -> tuple[list[Array], list[Array]]:
    """Return the arrays as 1-D or 2-D views; raise an error if they are invalid."""
    if len(params) != len(grads):
        raise ValueError(
            "params and grads must have the same number of arrays, "
            f"got {len(params)} params and {len(grads)} grads"
        )
    if not params:
        raise ValueError("params must hold at least one array, got none")

    # Check each pair: the gradient must have the dtype and shape of the parameter.
    flat: tuple[list[Array], list[Array]] = ([], [])
    for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
        names = (f"params[{i}]", f"grads[{i}]") if len(params) > 1 else _SINGLE
        if not isinstance(param, np.ndarray) or param.dtype not in _FLOATS:
            raise TypeError(
                f"{names[0]} must be a float32 or float64 array (it is never "
                f"converted), got {_validate.describe(param)}"
            )
        dtype, shape = np.dtype(param.dtype.type), param.shape
        param = _validate.exact(names[0], param, dtype, shape, writeable=True)
        grad = _validate.exact(names[1], grad, dtype, shape, writeable=False)
        if param.size == 0:
            raise ValueError(f"{names[0]} must not be empty, got shape {shape}")
        # Two dimensions tell the core that a parameter is not a bias.
        flat_shape = (-1,) if param.ndim < 2 else (shape[0], -1)
        flat[0].append(param.reshape(flat_shape))
        flat[1].append(grad.reshape(flat_shape))

    # Arrays must not share memory: a step on one would change another.
    for i, param in enumerate(params):
        for j, other in enumerate(params[:i]):
            _validate.apart(f"params[{i}]", param, f"params[{j}]", other)
        for j, grad in enumerate(grads):
            _validate.apart(f"params[{i}]", param, f"grads[{j}]", grad)
    return flat


_SINGLE = ("params", "grads")

# Options that states written by earlier versions lack.
_LATER = ("groups", "accumulate")

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))
