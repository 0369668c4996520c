"""Optimisers: names, defaults and formulas of ``torch.optim``.

Notation: θ parameters, g gradient, t the step, counted from 1, one count for the whole
optimiser. Before all else ``maximize=True`` turns g into -g, then ``weight_decay`` λ
adds λ θ to g (`AdamW`: θ is multiplied by 1 - lr λ instead).

``eps_mode`` says where ε stands in a denominator made of a mean square v, on which
libraries disagree: "outside", √v + ε (torch; the default), or "inside", √(v + ε), for
`Adam` and `AdamW` m̂ / √(v̂ + ε). These two know "hat" as well, the form without bias
correction in the denominator, which Keras, TensorFlow and scikit-learn use ("ε hat" in
section 2 of Kingma & Ba).

The learning rate ``lr`` is a number ≥ 0, one of `fastmlp.schedules`, or a function of
the step, an int that counts from 0; the function should depend on nothing else, and be
picklable if the optimiser is to be.

All optimisers take these as well:

clip_norm : float, optional
    Gradients are multiplied by min(1, clip_norm / (‖g‖ + 1e-6)), ‖g‖ the Euclidean norm
    of all of them together (``torch.nn.utils.clip_grad_norm_``). > 0.
clip_value : float, optional
    Or each is cut to [-clip_value, clip_value] (``clip_grad_value_``). > 0.
l1 : float
    μ ≥ 0: μ sign(θ) is added to g, after clipping and beside weight decay; the penalty
    is μ ‖θ‖₁, and ``maximize`` leaves it one. sign(0) = 0.
decay : {"all", "weights"}
    "weights": ``weight_decay`` and ``l1`` leave biases and the parameters of norm
    layers alone; in `Optimizer.step`, arrays of fewer than two dimensions.
ema : float, optional
    d, from above 0 to below 1: keep an exponential moving average a of the parameters,
    a ← θ after the first step, then a ← a + (1 - d) (θ - a) after each; see
    `Optimizer.ema_params` and `Optimizer.averaged`.

Gradients handed in are never changed.
"""

from __future__ import annotations

import copy
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, overload

import numpy as np

from .. import _core, _validate
from ..schedules import ReduceOnPlateau, Schedule

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self, Unpack

    from .._validate import Array
    from ..mlp import MLP

    Rate = float | Schedule | Callable[[int], float]


class _Options(TypedDict, total=False):
    """What every optimiser takes beside its own."""

    clip_norm: float | None
    clip_value: float | None
    l1: float
    decay: str
    ema: float | None


_DEFAULTS: dict[str, Any] = {
    "clip_norm": None,
    "clip_value": None,
    "l1": 0.0,
    "decay": "all",
    "ema": None,
}


def _bad_rate(rate: float, step: int) -> str:
    return f"lr must be finite and >= 0 at every step, got {rate} for step {step}"


class _Number:
    """A number among the hyperparameters, with its bounds; may be set at any time."""

    def __init__(
        self,
        low: float = -inf,
        high: float = inf,
        *,
        open_high: bool = False,
        fixed: bool = False,
    ) -> None:
        self._bounds = (low, high)
        self._open_high = open_high
        self._fixed = fixed

    def __set_name__(self, owner: type[Optimizer], name: str) -> None:
        self._name = name

    def check(self, value: object) -> float:
        return _validate.real(
            self._name, value, *self._bounds, open_high=self._open_high
        )

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> float: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | float:
        if instance is None:
            return self
        return float(instance.core.get(self._name))

    def __set__(self, instance: Optimizer, value: float) -> None:
        number = self.check(value)
        if self._fixed:
            raise AttributeError(
                f"{self._name} is fixed: make a new optimiser with another"
            )
        instance._check_together({**instance._hyper(), self._name: number})
        instance.core.set(self._name, number)


class _Flag:
    """A yes or no among the hyperparameters."""

    def __set_name__(self, owner: type[Optimizer], name: str) -> None:
        self._name = name

    def check(self, value: object) -> bool:
        return _validate.flag(self._name, value)

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> bool: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | bool:
        return self if instance is None else bool(instance.core.get(self._name))

    def __set__(self, instance: Optimizer, value: bool) -> None:
        flag = self.check(value)
        instance._check_together({**instance._hyper(), self._name: flag})
        instance.core.set(self._name, flag)


class _Optional(_Number):
    """A number > 0 or None, which the core knows as 0."""

    def check(self, value: object) -> float | None:  # type: ignore[override]
        if value is None:
            return None
        return _validate.real(
            self._name, value, *self._bounds, open_low=True, open_high=True
        )

    @overload  # type: ignore[override]
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> float | None: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | float | None:
        if instance is None:
            return self
        return float(instance.core.get(self._name)) or None

    def __set__(self, instance: Optimizer, value: float | None) -> None:
        number = self.check(value)
        instance._check_together({**instance._hyper(), self._name: number})
        instance.core.set(self._name, number or 0.0)


class _Decay:
    """What weight decay and L1 act on; the core knows a flag."""

    def check(self, value: object) -> str:
        return _validate.choice("decay", value, ("all", "weights"))

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> str: ...
    def __get__(self, instance: Optimizer | None, owner: type[Optimizer]) -> Self | str:
        if instance is None:
            return self
        return "weights" if instance.core.get("decay_weights_only") else "all"

    def __set__(self, instance: Optimizer, value: str) -> None:
        only = self.check(value) == "weights"
        instance.core.set("decay_weights_only", only)


class _Signature:
    """The constructor's, with what all optimisers take spelled out."""

    def __get__(self, instance: object, owner: type[Optimizer]) -> Any:
        import inspect

        own = list(inspect.signature(owner.__init__).parameters.values())[1:-1]
        only = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(name, only, default=default)
            for name, default in _DEFAULTS.items()
        ]
        first = [p for p in own if p.kind is p.POSITIONAL_OR_KEYWORD]
        last = [p for p in own if p.kind is only]
        return inspect.Signature([*first, *shared, *last])


class _Lr:
    """The learning rate: the core has a number, a schedule is kept beside it."""

    def check(self, value: object) -> Rate:
        if isinstance(value, Schedule) or (
            callable(value) and not isinstance(value, type)
        ):
            return value
        if isinstance(value, type) and issubclass(value, Schedule):
            raise TypeError(
                f"lr must be a schedule, not a class; did you mean "
                f"fm.schedules.{value.__name__}(lr, …)?"
            )
        if not isinstance(value, str) and value is not None:
            return _validate.real("lr", value, 0.0)
        raise TypeError(
            "lr must be a number, one of fm.schedules or a function of the step, "
            f"got {_validate.describe(value)}"
        )

    @overload
    def __get__(self, instance: None, owner: type[Optimizer]) -> Self: ...
    @overload
    def __get__(self, instance: Optimizer, owner: type[Optimizer]) -> float: ...
    def __get__(
        self, instance: Optimizer | None, owner: type[Optimizer]
    ) -> Self | float:
        if instance is None:
            return self
        if instance._schedule is not None:
            return instance._scheduled(instance.step_count)
        return float(instance.core.get("lr"))

    def __set__(self, instance: Optimizer, value: Rate) -> None:
        rate = self.check(value)
        instance._ahead = 0, []
        if isinstance(rate, float):
            instance.core.set("lr", rate)
            instance._schedule = None
        else:
            instance._schedule = rate


class Optimizer:
    """What the optimisers share; make one of the classes below, not this one.

    An optimiser belongs to the first model it trains, as its moments mean nothing to
    any other; `reset` frees it. It is useful without a model too, by `step`. Its
    hyperparameters can be set between steps, unless that would take other state than
    there is. It can be pickled and copied with all its state.

    Attributes
    ----------
    lr : float
        The learning rate of the next step; may be set to anything that the constructor
        takes.
    clip_norm, clip_value, l1, decay, ema
        See `fastmlp.optimizers`.
    """

    __slots__ = ("__weakref__", "_ahead", "_owner", "_schedule", "core")

    _kind: ClassVar[str]
    _names: ClassVar[tuple[str, ...]]

    core: _core.Optimizer
    _owner: weakref.ref[Any] | None
    # What gives the learning rate, unless it is a number; and its values from some step
    # on, as asking for many at once is cheap.
    _schedule: Schedule | Callable[[int], float] | None
    _ahead: tuple[int, list[float]]

    lr = _Lr()
    maximize = _Flag()
    clip_norm = _Optional(0.0)
    clip_value = _Optional(0.0)
    l1 = _Number(0.0)
    decay = _Decay()
    ema = _Optional(0.0, 1.0)

    __signature__ = _Signature()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Optimizer is abstract: make fm.SGD(lr), fm.Adam(), …")

    def _make(self, **hyper: Any) -> None:
        """Check the hyperparameters one by one, then together, and make the core's."""
        unknown = hyper.keys() - set(self._names) - _DEFAULTS.keys()
        if unknown:
            raise TypeError(
                f"{type(self).__name__} got an unexpected keyword argument "
                f"{min(unknown)!r}"
            )
        checked: dict[str, Any] = {}
        for name, value in (_DEFAULTS | hyper).items():
            if name == "betas":
                checked["betas"] = _betas(value)
            elif name == "eps_mode":
                checked["eps_mode"] = _validate.choice(name, value, self._eps_modes())
            else:
                checked[name] = getattr(type(self), name).check(value)
        self._check_together(checked)

        betas = checked.pop("betas", None)
        if betas is not None:
            checked["beta1"], checked["beta2"] = betas
        for name in ("clip_norm", "clip_value", "ema"):
            checked[name] = checked[name] or 0.0
        checked["decay_weights_only"] = checked.pop("decay") == "weights"
        rate = checked["lr"]
        self._schedule, self._ahead = None, (0, [])
        if not isinstance(rate, float):
            self._schedule, checked["lr"] = rate, 0.0
        self.core = self._make_core(checked)
        self._owner = None

    def _make_core(self, hyper: dict[str, Any]) -> _core.Optimizer:
        return _core.Optimizer(self._kind, **hyper)

    def _eps_modes(self) -> tuple[str, ...]:
        return ("outside", "inside")

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        """Refuse hyperparameters that are fine alone but not with each other."""
        if hyper["clip_norm"] is not None and hyper["clip_value"] is not None:
            raise ValueError(
                "clip_norm and clip_value exclude each other, got "
                f"clip_norm={hyper['clip_norm']}, clip_value={hyper['clip_value']}"
            )

    def _hyper(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        hyper: dict[str, Any] = {"lr": self._schedule}
        for name in (*self._names, *_DEFAULTS):
            if hyper.get(name) is None:
                hyper[name] = getattr(self, name)
        return hyper

    @property
    def step_count(self) -> int:
        """How many steps were taken."""
        return self.core.step_count

    # Learning rates -----------------------------------------------------------------

    @property
    def schedule(self) -> Schedule | Callable[[int], float] | None:
        """What gives the learning rate by the step; None if it is a number."""
        return self._schedule

    def _scheduled(self, step: int) -> float:
        """Return the schedule's learning rate of a step."""
        if isinstance(self._schedule, ReduceOnPlateau):
            return self._schedule.current
        if not isinstance(self._schedule, Schedule):
            # A function of the caller's is asked step by step: it may be no pure one.
            return self._asked(step)
        first, rates = self._ahead
        if not first <= step < first + len(rates):
            first, rates = step, self._rates(step, _AHEAD).tolist()
            self._ahead = first, rates
        return float(rates[step - first])

    def _asked(self, step: int) -> float:
        """Return what a function of the caller's gives for a step."""
        assert self._schedule is not None
        given = self._schedule(step)
        try:
            rate = float(given)
        except (TypeError, ValueError):
            raise TypeError(
                "lr must be a function from the step to a number, got "
                f"{_validate.describe(given)} for step {step}"
            ) from None
        if not 0 <= rate < inf:
            raise ValueError(_bad_rate(rate, step))
        return rate

    def _rates(self, first: int, count: int) -> Array:
        """Return the schedule's learning rates of some steps, looked at."""
        if not isinstance(self._schedule, Schedule):
            return np.array([self._asked(i) for i in range(first, first + count)])
        rates = self._schedule.values(first, count)
        bad = ~(np.isfinite(rates) & (rates >= 0))
        if bad.any():
            at = int(np.argmax(bad))
            raise ValueError(_bad_rate(float(rates[at]), first + at))
        return rates

    def _values(self, count: int) -> Array | None:
        """Return the learning rates of the next steps, None if all are ``lr``."""
        if self._schedule is None:
            return None
        return self._rates(self.step_count, count)

    def _set_lr(self) -> None:
        """Hand the core the schedule's learning rate of the next step."""
        self.core.set("lr", self._scheduled(self.step_count))

    def _epoch_end(self, value: float) -> None:
        """Take notice of what an epoch achieved."""
        if isinstance(self._schedule, ReduceOnPlateau):
            self._schedule.observe(value)

    # Averages -----------------------------------------------------------------------

    @property
    def ema_params(self) -> list[Array] | None:
        """Copies of the moving averages, flat, one for each array of parameters.

        None without ``ema``; an empty list before the first step.
        """
        if self.ema is None:
            return None
        return [slots["ema"] for slots in self.core.state()["slots"]]

    def averaged(self, mlp: MLP) -> MLP:
        """Return a copy of a model with the moving averages of its parameters.

        Parameters
        ----------
        mlp : MLP
            The model that this optimiser trains; running statistics of `BatchNorm` are
            copied as they are.

        Returns
        -------
        MLP
            The copy.

        Raises
        ------
        TypeError
            For what is no model.
        ValueError
            If the optimiser keeps no average (``ema``), has taken no step, or has
            trained another model.
        """
        owner = getattr(mlp, "_self", None)
        if owner is None:
            got = _validate.describe(mlp)
            raise TypeError(f"mlp must be a fm.MLP, got {got}")
        averages = self.ema_params
        if averages is None:
            raise ValueError("averaged needs an optimiser with an average: ema=0.999")
        if not averages or not self.step_count:
            raise ValueError("averaged needs at least one step, there was none")
        if self._owner not in (None, owner):
            raise ValueError("mlp must be the model that this optimiser trains")
        if [(a.size, a.dtype) for a in averages] != [(mlp.n_params, mlp.dtype)]:
            raise ValueError(
                "mlp must be the model that this optimiser trains: it has averages of "
                + ", ".join(f"{a.size} {a.dtype}" for a in averages)
                + f" parameters, and mlp has {mlp.n_params} {mlp.dtype}"
            )
        copied = mlp.copy()
        copied.params[:] = averages[0]
        return copied

    # Steps and state ----------------------------------------------------------------

    def step(
        self, params: Array | Sequence[Array], grads: Array | Sequence[Array]
    ) -> None:
        """Take one step, in place.

        Parameters
        ----------
        params : ndarray or sequence of ndarrays
            What to update: float32 or float64, C-contiguous, writeable; they are never
            converted. The first step fixes their number, sizes and dtypes.
        grads : ndarray or sequence of ndarrays
            The gradients, each of its parameters' dtype and shape, C-contiguous.

        Raises
        ------
        TypeError, ValueError
            For arrays that cannot be used as they are; nothing has changed then.
        """
        if self._schedule is not None:
            self._set_lr()
        if type(params) is np.ndarray and type(grads) is np.ndarray:
            params, grads = [params], [grads]
        elif type(params) is not list or type(grads) is not list:
            params, grads = _lists(params, grads)
        if self.core.step(params, grads) is NotImplemented:
            _validate.answered(self.core.step(*_flat(params, grads)))

    def reset(self) -> None:
        """Forget all steps: as new, with the same hyperparameters, for any model."""
        self.core.reset()
        self._owner = None

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to the optimiser, as copies.

        Returns
        -------
        dict
            ``"kind"`` (str), ``"hyper"`` (dict: the constructor's arguments; a
            `fastmlp.schedules.ReduceOnPlateau` with what it has observed), ``"step"``
            (int) and ``"slots"`` (list: for each parameter array a dict of
            flat arrays with torch's names, such as ``"exp_avg"``, and ``"ema"``).
        """
        state = self.core.state()
        return {"kind": self._kind_name(), "hyper": self._hyper_copy(), **state}

    def _hyper_copy(self) -> dict[str, Any]:
        hyper = self._hyper()
        if isinstance(self._schedule, ReduceOnPlateau):
            hyper["lr"] = copy.copy(self._schedule)
        return hyper

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, hyperparameters included.

        Raises
        ------
        TypeError, ValueError
            For anything else; the optimiser is unchanged then.
        """
        # The outside: four keys, for this kind of optimiser.
        hyper, step, slots = _validate.stored(state, self._kind_name())
        names = (*self._names, *_DEFAULTS)
        if hyper.keys() != set(names):
            raise ValueError(
                f"state['hyper'] must have the keys {', '.join(names)}, "
                f"got {', '.join(map(str, hyper))}"
            )

        # The inside is put into a new core; only if that works is it taken over.
        other = type(self).__new__(type(self))
        other._make(**hyper)
        count = _validate.count("state['step']", step, 0)
        arrays = [_slot_arrays(i, slot) for i, slot in enumerate(slots)]
        other.core.load_state({"step": count, "slots": arrays})
        self.core = other.core
        self._schedule = copy.copy(other._schedule)
        self._ahead = 0, []

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
            if name not in _DEFAULTS or value != _DEFAULTS[name]
        }
        return f"{type(self).__name__}({_validate.arguments(hyper)})"


def _betas(value: object) -> tuple[float, float]:
    if not isinstance(value, (tuple, list, np.ndarray)) or len(value) != 2:
        raise TypeError(
            f"betas must be two numbers (beta1, beta2), got {_validate.describe(value)}"
        )
    first, second = value
    return (
        _validate.real("betas[0]", first, 0.0, 1.0, open_high=True),
        _validate.real("betas[1]", second, 0.0, 1.0, open_high=True),
    )


def _slot_arrays(i: int, slot: object) -> dict[str, Array]:
    """Return one entry of a state's slots, as arrays that the core takes."""
    where = f"state['slots'][{i}]"
    if not isinstance(slot, dict):
        raise ValueError(f"{where} must be a dict, got {_validate.describe(slot)}")
    arrays = {}
    for name, value in slot.items():
        array = np.asarray(value)
        if array.dtype.kind != "f" or array.itemsize not in (4, 8) or array.ndim != 1:
            raise ValueError(
                f"{where}[{name!r}] must be 1-D, float32 or float64, "
                f"got {_validate.describe(value)}"
            )
        arrays[name] = array.astype(array.dtype.type)
    return arrays


def _lists(params: object, grads: object) -> tuple[list[Any], list[Any]]:
    """Return both as lists of arrays, whatever sequences they are."""
    if isinstance(params, np.ndarray) or isinstance(grads, np.ndarray):
        params = [params] if isinstance(params, np.ndarray) else params
        grads = [grads] if isinstance(grads, np.ndarray) else grads
    lists = []
    for name, value in (("params", params), ("grads", grads)):
        if not isinstance(value, (list, tuple)):
            raise TypeError(
                f"{name} must be a numpy array or a list or tuple of them, "
                f"got {_validate.describe(value)}"
            )
        lists.append(list(value))
    return lists[0], lists[1]


def _flat(params: list[Any], grads: list[Any]) -> tuple[list[Array], list[Array]]:
    """Return views of one or two dimensions, or say why a step is impossible."""
    if len(params) != len(grads):
        raise ValueError(
            "params and grads must be as many arrays, "
            f"got {len(params)} params and {len(grads)} grads"
        )
    if not params:
        raise ValueError("params must hold at least one array, got none")

    # One by one. The parameter's dtype is the one thing that is free to choose.
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
        # Two dimensions say that it is no bias.
        flat_shape = (-1,) if param.ndim < 2 else (shape[0], -1)
        flat[0].append(param.reshape(flat_shape))
        flat[1].append(grad.reshape(flat_shape))

    # No memory twice: a step on one array would move another.
    for i, param in enumerate(params):
        for j, other in enumerate(params[:i]):
            _validate.apart(f"params[{i}]", param, f"params[{j}]", other)
        for j, grad in enumerate(grads):
            _validate.apart(f"params[{i}]", param, f"grads[{j}]", grad)
    return flat


_SINGLE = ("params", "grads")
_AHEAD = 256
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    Without momentum θ ← θ - lr g. With momentum μ and dampening τ: b ← μ b + (1 - τ) g
    (b ← g in the first step), and θ ← θ - lr b, or θ ← θ - lr (g + μ b) for
    ``nesterov`` (Sutskever et al. 2013; lr stands outside b, as in torch and unlike in
    Keras).

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    momentum : float
        μ, ≥ 0.
    dampening : float
        τ.
    nesterov : bool
        Needs momentum > 0 and no dampening.
    weight_decay : float
        λ, ≥ 0.
    maximize : bool
        Ascend instead.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()
    _kind = "sgd"
    _names = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")

    momentum = _Number(0.0)
    dampening = _Number()
    nesterov = _Flag()
    weight_decay = _Number(0.0)

    def __init__(
        self,
        lr: Rate,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        **options: Unpack[_Options],
    ) -> None:
        self._make(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            weight_decay=weight_decay,
            maximize=maximize,
            **options,
        )

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        super()._check_together(hyper)
        if hyper["nesterov"] and (hyper["momentum"] == 0 or hyper["dampening"] != 0):
            raise ValueError(
                "nesterov needs momentum > 0 and dampening 0, got "
                f"momentum={hyper['momentum']}, dampening={hyper['dampening']}"
            )


class _WithEps(Optimizer):
    __slots__ = ()

    eps = _Number(0.0)
    weight_decay = _Number(0.0)

    @property
    def eps_mode(self) -> str:
        """Where ε stands, see `fastmlp.optimizers`; fixed."""
        return str(self.core.get("eps_mode"))


class Adagrad(_WithEps):
    """Adaptive gradient (Duchi, Hazan & Singer 2011).

    s ← s + g², θ ← θ - lr / (1 + (t - 1) η) · g / (√s + ε).

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    lr_decay : float
        η, ≥ 0.
    weight_decay : float
        λ, ≥ 0.
    initial_accumulator_value : float
        What s is before the first step, ≥ 0; fixed.
    eps : float
        ε, ≥ 0.
    maximize : bool
        Ascend instead.
    eps_mode : {"outside", "inside"}
        Where ε stands.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()
    _kind = "adagrad"
    _names = (
        "lr",
        "lr_decay",
        "weight_decay",
        "initial_accumulator_value",
        "eps",
        "maximize",
        "eps_mode",
    )

    lr_decay = _Number(0.0)
    initial_accumulator_value = _Number(0.0, fixed=True)

    def __init__(
        self,
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[_Options],
    ) -> None:
        self._make(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )


class RMSprop(_WithEps):
    """Root mean square propagation (Tieleman & Hinton 2012; Graves 2013 if centred).

    v ← alpha v + (1 - alpha) g², u = g / (√v + ε); with ``centered`` v is replaced in u
    by v - a², where a ← alpha a + (1 - alpha) g. θ ← θ - lr u, or with momentum μ:
    b ← μ b + u, θ ← θ - lr b.

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    alpha : float
        The weight of the past in v, from 0 to 1.
    eps : float
        ε, ≥ 0.
    weight_decay : float
        λ, ≥ 0.
    momentum : float
        μ, ≥ 0.
    centered : bool
        Divide by the standard deviation instead of the root mean square.
    maximize : bool
        Ascend instead.
    eps_mode : {"outside", "inside"}
        Where ε stands.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()
    _kind = "rmsprop"
    _names = (
        "lr",
        "alpha",
        "eps",
        "momentum",
        "centered",
        "weight_decay",
        "maximize",
        "eps_mode",
    )

    alpha = _Number(0.0, 1.0)
    momentum = _Number(0.0)
    centered = _Flag()

    def __init__(
        self,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
        weight_decay: float = 0.0,
        eps_mode: str = "outside",
        **options: Unpack[_Options],
    ) -> None:
        self._make(
            lr=lr,
            alpha=alpha,
            eps=eps,
            momentum=momentum,
            centered=centered,
            weight_decay=weight_decay,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )


class _Adam(_WithEps):
    __slots__ = ()
    _kind = "adam"
    _names = (
        "lr",
        "betas",
        "eps",
        "weight_decay",
        "amsgrad",
        "maximize",
        "eps_mode",
    )

    amsgrad = _Flag()

    @property
    def betas(self) -> tuple[float, float]:
        """(β₁, β₂); may be set."""
        core = self.core
        return float(core.get("beta1")), float(core.get("beta2"))

    @betas.setter
    def betas(self, value: tuple[float, float]) -> None:
        beta1, beta2 = _betas(value)
        self.core.set("beta1", beta1)
        self.core.set("beta2", beta2)

    def _eps_modes(self) -> tuple[str, ...]:
        return ("outside", "inside", "hat")


class Adam(_Adam):
    """Adaptive moments (Kingma & Ba 2015; Reddi, Kale & Kumar 2018 for AMSGrad).

    m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g²; m̂ = m / (1 - β₁^t),
    v̂ = v / (1 - β₂^t); θ ← θ - lr m̂ / (√v̂ + ε). With ``amsgrad`` the greatest v so far
    takes the place of v in v̂.

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        β₁ and β₂, from 0 to below 1.
    eps : float
        ε, ≥ 0.
    weight_decay : float
        λ, ≥ 0, added to the gradient; see `AdamW` for the other kind.
    amsgrad : bool
        Never let the denominator shrink.
    maximize : bool
        Ascend instead.
    eps_mode : {"outside", "inside", "hat"}
        Where ε stands: "outside", m̂ / (√v̂ + ε); "inside", m̂ / √(v̂ + ε); or "hat", a
        step of lr √(1 - β₂^t) / (1 - β₁^t) · m / (√v + ε), the form of Keras,
        TensorFlow and scikit-learn.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[_Options],
    ) -> None:
        self._make(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )


class AdamW(_Adam):
    """`Adam` with decoupled weight decay (Loshchilov & Hutter 2019).

    θ ← θ (1 - lr λ) comes first, then Adam's step with a gradient free of λ.

    Parameters
    ----------
    lr : float, Schedule or callable
        The learning rate, ≥ 0; see `fastmlp.optimizers`.
    betas : (float, float)
        β₁ and β₂, from 0 to below 1.
    eps : float
        ε, ≥ 0.
    weight_decay : float
        λ, ≥ 0; not added to the gradient, see above.
    amsgrad : bool
        Never let the denominator shrink.
    maximize : bool
        Ascend instead; the decay is the same.
    eps_mode : {"outside", "inside", "hat"}
        Where ε stands, as in `Adam`.
    clip_norm, clip_value, l1, decay, ema
        As all optimisers, see `fastmlp.optimizers`.

    Raises
    ------
    TypeError, ValueError
        For hyperparameters of a wrong kind, out of range, or that exclude each other.
    """

    __slots__ = ()

    def __init__(
        self,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
        **options: Unpack[_Options],
    ) -> None:
        self._make(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            eps_mode=eps_mode,
            **options,
        )

    def _make_core(self, hyper: dict[str, Any]) -> _core.Optimizer:
        return _core.Optimizer(self._kind, **hyper, decoupled=True)
