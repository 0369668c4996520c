"""The parameters of the estimators, their constraints and how they are used."""

from __future__ import annotations

import contextlib
from numbers import Integral, Real
from operator import index
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
)

from .. import _core, _validate
from .._network.model import empty
from .._validate.warn import warn
from ..layers import LAYERS, Activation, Dense, Dropout, Normalization
from ..mlp import MLP
from ..optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from ..runtime import threads
from ..schedules import Schedule
from ..solvers import Solver
from ._copies import for_one_fit
from ._epochs import own_name
from ._hints import suggestion
from ._stopping import LearningRatePolicy

if TYPE_CHECKING:
    from typing import Self

    from ..layers import Layer

_STEPPING = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
_SCHEDULES = ("constant", "invscaling", "adaptive")
_NORMS: dict[str, Any] = {
    kind.kind.removesuffix("_norm"): kind
    for kind in LAYERS.values()
    if issubclass(kind, Normalization) and not kind._leading
}


class Parameters(BaseEstimator):
    """Holds the constructor's arguments; creates networks and optimisers from them."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions({"logistic", *_core.ACTIVATIONS}), "array-like"],
        "solver": [StrOptions({"lbfgs", *_STEPPING}), Optimizer, Solver],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [StrOptions(set(_SCHEDULES)), Schedule, callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "normalization": [StrOptions(set(_NORMS)), None],
        "callbacks": [list, tuple, None],
        "dtype": [StrOptions({"float32", "float64"}), type, np.dtype, None],
        "compute_dtype": [StrOptions({"float32", "float64", "bfloat16"}), None],
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "progress": ["boolean", None],
    }

    def _store(self, parameters: dict[str, Any]) -> None:
        """Store the constructor's arguments, given as the locals of ``__init__``.

        scikit-learn requires each argument, unchanged, as an attribute of the same
        name.
        """
        del parameters["self"]
        for name, value in parameters.items():
            setattr(self, name, value)

    def _validate_params(self) -> None:
        try:
            super()._validate_params()
        except InvalidParameterError as error:
            hint = suggestion(self.get_params(deep=False), self._parameter_constraints)
            if hint is None:
                raise
            raise InvalidParameterError(f"{error} Did you mean {hint}?") from None

    def __sklearn_clone__(self) -> Self:
        # scikit-learn's clone would copy users' objects with all that they refer to.
        names = self.get_params(deep=False)
        objects = {"solver", "learning_rate", "loss", "callbacks"} & names.keys()
        bare = object.__new__(type(self))
        bare.__dict__.update({**self.__dict__, **dict.fromkeys(objects)})
        made: Self = super(Parameters, bare).__sklearn_clone__()
        for name in objects:
            setattr(made, name, for_one_fit(getattr(self, name)))
        return made

    def _steps(self) -> bool:
        """Return whether the solver takes steps on batches."""
        return isinstance(self.solver, Optimizer) or self.solver in _STEPPING

    def _check_solver(self) -> bool:
        if not self._steps():
            name = self.solver
            if isinstance(name, Solver):
                name = type(name).__name__
            raise AttributeError(
                "partial_fit is only available for stochastic optimizers. "
                f"{name} is not stochastic."
            )
        return True

    def _threads(self) -> contextlib.AbstractContextManager[None]:
        if self.n_threads is None:
            return contextlib.nullcontext()
        return threads(int(self.n_threads))

    def _hidden_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        try:
            widths = list(map(index, sizes))
        except TypeError:
            raise TypeError(
                f"hidden_layer_sizes must be integers, got {sizes}."
            ) from None
        if any(width <= 0 for width in widths):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return widths

    def _per_layer(self, name: str, n: int) -> list[Any]:
        """Return a parameter's values for the n hidden layers."""
        value = getattr(self, name)
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            return [value] * n
        values = list(value)
        if len(values) != n:
            raise ValueError(
                f"{name} must be one value or one for each hidden layer, {n} in all, "
                f"got {_validate.counted(len(values), 'value')}"
            )
        return values

    def _dropouts(self) -> list[float]:
        return [
            _validate.real("dropout", p, 0.0, 1.0, open_high=True)
            for p in self._per_layer("dropout", len(self._hidden_sizes()))
        ]

    def _activations(self, n: int) -> list[str]:
        """Return fastmlp's names of the n hidden layers' activations."""
        names = self._per_layer("activation", n)
        for name in names:
            if name != "logistic":
                _validate.choice("activation", name, _core.ACTIVATIONS)
        return [own_name(name) for name in names]

    def _alpha(self) -> float:
        """Return the strength of the L2 penalty: 0 for AdamW, which decays weights."""
        return 0.0 if self.solver == "adamw" else _validate.real("alpha", self.alpha)

    def _batch_size(self, rows: int) -> int:
        """Return the number of rows in a step: all rows for solvers without batches."""
        if not self._steps():
            return rows
        if self.batch_size == "auto":
            return min(200, rows)
        if self.batch_size > rows:
            warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going "
                "to be clipped",
            )
        return min(int(self.batch_size), rows)

    def _new_policy(self) -> LearningRatePolicy:
        """Return a new optimiser, wrapped in its learning-rate policy."""
        schedule = self.learning_rate
        rate = _validate.real("learning_rate_init", self.learning_rate_init)
        eps = _validate.real("epsilon", self.epsilon)
        given: Any = rate
        if not isinstance(schedule, str):
            given, schedule = for_one_fit(schedule), "constant"
        optimizer: Optimizer
        if isinstance(self.solver, Optimizer):
            optimizer = for_one_fit(self.solver)
            optimizer.reset()
            if given is not rate:
                optimizer.lr = given
        elif self.solver == "sgd":
            momentum = float(self.momentum)
            nesterov = bool(self.nesterovs_momentum and momentum)
            optimizer = SGD(given, momentum, nesterov=nesterov)
        elif self.solver == "adam":
            betas = float(self.beta_1), float(self.beta_2)
            optimizer = Adam(given, betas, eps, eps_mode="hat")
        elif self.solver == "adamw":
            betas = float(self.beta_1), float(self.beta_2)
            alpha = _validate.real("alpha", self.alpha)
            optimizer = AdamW(given, betas, eps, alpha, decay="weights")
        elif self.solver == "rmsprop":
            optimizer = RMSprop(given, eps=eps)
        else:
            optimizer = Adagrad(given)
        if self.solver != "sgd":
            schedule = "constant"
        power = _validate.real("power_t", self.power_t)
        return LearningRatePolicy(optimizer, schedule, rate, power)

    def _last_activation(self) -> str:
        """Return the activation of the network's last layer."""
        return "identity"

    def _layers(self, widths: list[int]) -> list[int | Layer]:
        """Return a list of the input's width and the network's layers."""
        hidden = widths[1:-1]
        activations, dropouts = self._activations(len(hidden)), self._dropouts()
        stepping = self._steps()
        if not stepping and not isinstance(self.learning_rate, str):
            raise ValueError(
                f"learning_rate must be a name if solver={self.solver!r}, which "
                f"does not take steps on batches; got {self.learning_rate!r}"
            )
        if not stepping and (self.normalization == "batch" or any(dropouts)):
            raise ValueError(
                "dropout and normalization='batch' need a solver that works on "
                f"batches, got solver={self.solver!r}"
            )
        layers: list[int | Layer] = [widths[0]]
        for width, activation, p in zip(hidden, activations, dropouts, strict=True):
            if self.normalization is None:
                layers.append(Dense(width, activation))
            else:
                norm = _NORMS[self.normalization]()
                layers += [Dense(width, "identity"), norm, Activation(activation)]
            if p:
                layers.append(Dropout(p))
        return [*layers, Dense(widths[-1], self._last_activation())]

    def _network(self, widths: list[int], dtype: Any) -> MLP:
        """Return a new network with these widths of input and layers."""
        layers = self._layers(widths)
        return empty(layers, dtype, "sklearn", compute_dtype=self.compute_dtype)
