"""Optimisers: names, defaults and formulas of ``torch.optim``.

Notation: θ parameters, g gradient, t the step, counted from 1, one count for the whole
optimiser. Before all else ``maximize=True`` turns g into -g, then ``weight_decay`` λ
adds λ θ to g (`AdamW`: θ is multiplied by 1 - lr λ instead).

``eps_mode`` says where ε stands in a denominator made of a mean square v, on which
libraries disagree: "outside", √v + ε (torch; the default), or "inside", √(v + ε), for
`Adam` and `AdamW` m̂ / √(v̂ + ε). These two know "hat" as well, the form without bias
correction in the denominator, which Keras, TensorFlow and scikit-learn use ("ε hat" in
section 2 of Kingma & Ba).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, overload

import numpy as np

from . import _core, _validate

if TYPE_CHECKING:
    import weakref
    from collections.abc import Mapping, Sequence
    from typing import Self

    from ._validate import Array


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
        return float(instance._optimizer.get(self._name))

    def __set__(self, instance: Optimizer, value: float) -> None:
        number = self.check(value)
        if self._fixed:
            raise AttributeError(
                f"{self._name} is fixed: make a new optimiser with another"
            )
        instance._check_together({**instance._hyper(), self._name: number})
        instance._optimizer.set(self._name, number)


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
        return self if instance is None else bool(instance._optimizer.get(self._name))

    def __set__(self, instance: Optimizer, value: bool) -> None:
        flag = self.check(value)
        instance._check_together({**instance._hyper(), self._name: flag})
        instance._optimizer.set(self._name, flag)


class Optimizer:
    """What the optimisers share; make one of the classes below, not this one.

    An optimiser belongs to the first model it trains, as its moments mean nothing to
    any other; `reset` frees it. It is useful without a model too, by `step`. Its
    hyperparameters can be set between steps, unless that would take other state than
    there is. It can be pickled and copied with all its state.
    """

    __slots__ = ("__weakref__", "_optimizer", "_owner")

    _kind: ClassVar[str]
    _names: ClassVar[tuple[str, ...]]

    _optimizer: _core.Optimizer
    _owner: weakref.ref[Any] | None

    lr = _Number(0.0)
    maximize = _Flag()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Optimizer is abstract: make fm.SGD(lr), fm.Adam(), …")

    def _make(self, **hyper: Any) -> None:
        """Check the hyperparameters one by one, then together, and make the core's."""
        checked: dict[str, Any] = {}
        for name, value in hyper.items():
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
        self._optimizer = self._make_core(checked)
        self._owner = None

    def _make_core(self, hyper: dict[str, Any]) -> _core.Optimizer:
        return _core.Optimizer(self._kind, **hyper)

    def _eps_modes(self) -> tuple[str, ...]:
        return ("outside", "inside")

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
        """Refuse hyperparameters that are fine alone but not with each other."""

    def _hyper(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in self._names}

    @property
    def step_count(self) -> int:
        """How many steps were taken."""
        return self._optimizer.step_count

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
        if type(params) is np.ndarray and type(grads) is np.ndarray:
            params, grads = [params], [grads]
        elif type(params) is not list or type(grads) is not list:
            params, grads = _lists(params, grads)
        if self._optimizer.step(params, grads) is NotImplemented:
            _validate.answered(self._optimizer.step(*_flat(params, grads)))

    def _values(self, count: int) -> Array | None:
        """Return the learning rates of the next steps; None is the one that is set."""
        return None

    def _epoch_end(self, value: float) -> None:
        """Take note of a loss that fit watches."""

    def reset(self) -> None:
        """Forget all steps: as new, with the same hyperparameters, for any model."""
        self._optimizer.reset()
        self._owner = None

    def state_dict(self) -> dict[str, Any]:
        """Return all there is to the optimiser, as copies.

        Returns
        -------
        dict
            ``"kind"`` (str), ``"hyper"`` (dict: the constructor's arguments),
            ``"step"`` (int) and ``"slots"`` (list: for each parameter array a dict of
            flat arrays with torch's names, such as ``"exp_avg"``).
        """
        state = self._optimizer.state()
        return {"kind": self._kind_name(), "hyper": self._hyper(), **state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, hyperparameters included.

        Raises
        ------
        TypeError, ValueError
            For anything else; the optimiser is unchanged then.
        """
        # The outside: four keys, for this kind of optimiser.
        try:
            kind, hyper = state["kind"], dict(state["hyper"])
            step, slots = state["step"], list(state["slots"])
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(
                "state must be what state_dict() gives, a dict with kind, hyper, step "
                f"and slots: {type(error).__name__} {error}"
            ) from None
        if kind != self._kind_name():
            raise ValueError(
                f"state must be of kind {self._kind_name()!r}, got {kind!r}"
            )
        if hyper.keys() != set(self._names):
            raise ValueError(
                f"state['hyper'] must have the keys {', '.join(self._names)}, "
                f"got {', '.join(map(str, hyper))}"
            )

        # The inside is put into a new core; only if that works is it taken over.
        other = type(self).__new__(type(self))
        other._make(**hyper)
        count = _validate.count("state['step']", step, 0)
        arrays = [_slot_arrays(i, slot) for i, slot in enumerate(slots)]
        other._optimizer.load_state({"step": count, "slots": arrays})
        self._optimizer = other._optimizer

    def _kind_name(self) -> str:
        return type(self).__name__.lower()

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._owner = None
        self.load_state_dict(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_validate.arguments(self._hyper())})"


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
    """Return flat views of arrays of any rank, or say why a step is impossible."""
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
        flat[0].append(param.reshape(-1))
        flat[1].append(grad.reshape(-1))
        if param.size == 0:
            raise ValueError(f"{names[0]} must not be empty, got shape {shape}")

    # No memory twice: a step on one array would move another.
    for i, param in enumerate(params):
        for j, other in enumerate(params[:i]):
            _validate.apart(f"params[{i}]", param, f"params[{j}]", other)
        for j, grad in enumerate(grads):
            _validate.apart(f"params[{i}]", param, f"grads[{j}]", grad)
    return flat


_SINGLE = ("params", "grads")
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum if wanted.

    Without momentum θ ← θ - lr g. With momentum μ and dampening τ: b ← μ b + (1 - τ) g
    (b ← g in the first step), and θ ← θ - lr b, or θ ← θ - lr (g + μ b) for
    ``nesterov`` (Sutskever et al. 2013; lr stands outside b, as in torch and unlike in
    Keras).

    Parameters
    ----------
    lr : float
        The learning rate, ≥ 0.
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
        lr: float,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        self._make(
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            nesterov=nesterov,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _check_together(self, hyper: Mapping[str, Any]) -> None:
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
        return str(self._optimizer.get("eps_mode"))


class Adagrad(_WithEps):
    """Adaptive gradient (Duchi, Hazan & Singer 2011).

    s ← s + g², θ ← θ - lr / (1 + (t - 1) η) · g / (√s + ε).

    Parameters
    ----------
    lr : float
        The learning rate, ≥ 0.
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
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
    ) -> None:
        self._make(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
            eps_mode=eps_mode,
        )


class RMSprop(_WithEps):
    """Root mean square propagation (Tieleman & Hinton 2012; Graves 2013 if centred).

    v ← alpha v + (1 - alpha) g², u = g / (√v + ε); with ``centered`` v is replaced in u
    by v - a², where a ← alpha a + (1 - alpha) g. θ ← θ - lr u, or with momentum μ:
    b ← μ b + u, θ ← θ - lr b.

    Parameters
    ----------
    lr : float
        The learning rate, ≥ 0.
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
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
        eps_mode: str = "outside",
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
        core = self._optimizer
        return float(core.get("beta1")), float(core.get("beta2"))

    @betas.setter
    def betas(self, value: tuple[float, float]) -> None:
        beta1, beta2 = _betas(value)
        self._optimizer.set("beta1", beta1)
        self._optimizer.set("beta2", beta2)

    def _eps_modes(self) -> tuple[str, ...]:
        return ("outside", "inside", "hat")


class Adam(_Adam):
    """Adaptive moments (Kingma & Ba 2015; Reddi, Kale & Kumar 2018 for AMSGrad).

    m ← β₁ m + (1 - β₁) g, v ← β₂ v + (1 - β₂) g²; m̂ = m / (1 - β₁^t),
    v̂ = v / (1 - β₂^t); θ ← θ - lr m̂ / (√v̂ + ε). With ``amsgrad`` the greatest v so far
    takes the place of v in v̂.

    Parameters
    ----------
    lr : float
        The learning rate, ≥ 0.
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
    """

    __slots__ = ()

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
    ) -> None:
        self._make(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            eps_mode=eps_mode,
        )


class AdamW(_Adam):
    """`Adam` with decoupled weight decay (Loshchilov & Hutter 2019).

    θ ← θ (1 - lr λ) comes first, then Adam's step with a gradient free of λ.

    Parameters
    ----------
    lr : float
        The learning rate, ≥ 0.
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
    """

    __slots__ = ()

    def __init__(
        self,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        eps_mode: str = "outside",
    ) -> None:
        self._make(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
            eps_mode=eps_mode,
        )

    def _make_core(self, hyper: dict[str, Any]) -> _core.Optimizer:
        return _core.Optimizer(self._kind, **hyper, decoupled=True)
