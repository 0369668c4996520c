"""What the estimators of `fastmlp.sklearn` share: parameters, fitting, prediction."""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from itertools import pairwise
from numbers import Integral, Real
from operator import index, is_
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import (
    _check_sample_weight,
    check_is_fitted,
    validate_data,
)

from .. import _core, _validate
from .._training import loop
from ..callbacks import Run
from ..callbacks._base import as_callbacks
from ..layers import Activation, BatchNorm, Dense, Dropout, LayerNorm
from ..losses import CustomLoss, Loss
from ..metrics import History
from ..mlp import MLP
from ..optimizers import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from ..runtime import _sharing, threads
from ..schedules import Schedule
from ..solvers import LBFGS, Solver
from . import _epochs

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from .._validate import Array
    from ..layers import Layer
    from ._epochs import Data

_STEPPING = ("sgd", "adam", "adamw", "rmsprop", "adagrad")
_SCHEDULES = ("constant", "invscaling", "adaptive")
_NORMS: dict[str, type[Layer]] = {"layer": LayerNorm, "batch": BatchNorm}
_DTYPES = (np.float64, np.float32)

# Up to so many numbers a look at whether they are finite costs less than asking.
_QUICK = 4096

_NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large "
    "values and need to be preprocessed."
)


class Task(NamedTuple):
    """What the network is trained for.

    Attributes
    ----------
    loss : Loss
        What to minimise, of the network's outputs.
    outputs : int
        How many of them there are.
    activation : str
        What makes predictions of them, by scikit-learn's name.
    encode : callable
        Makes of (targets (rows, n), dtype) what the loss takes.
    constant : callable, optional
        Makes of the encoded targets what scikit-learn's loss has in addition, by row.
    """

    loss: Loss
    outputs: int
    activation: str
    encode: Callable[[Array, np.dtype[Any]], Array]
    constant: Callable[[Array], Array] | None = None


def as_floats(y: Array, dtype: np.dtype[Any]) -> Array:
    """Return targets as numbers of this dtype."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(y, dtype)


class BaseMLP(BaseEstimator):
    """What `MLPClassifier` and `MLPRegressor` share; make one of these."""

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
        "n_threads": [Interval(Integral, 1, None, closed="left"), None],
        "progress": ["boolean", None],
    }

    # What a task is: of the classifier, of the regressor.

    def _task(self, y: Array) -> Task:
        """Return what to train for, given targets (rows, n)."""
        raise NotImplementedError

    def _checked(
        self, X: Any, y: Any, incremental: bool, reset: bool, dtype: Any
    ) -> tuple[Any, Array]:
        """Return X and targets (rows, n), the latter as scikit-learn splits them."""
        raise NotImplementedError

    def _checked_held_out(self, X: Any, y: Any, dtype: Any) -> tuple[Any, Array]:
        """Return X and targets (rows, n) of an eval_set."""
        raise NotImplementedError

    def _weights_by_class(self, y: Any, incremental: bool) -> Array | None:
        """Return the samples' weights by their classes, if there are such."""
        return None

    def _score_outputs(self, z: Array, y: Array, weight: Array | None) -> float:
        """Return the score of the network's outputs."""
        raise NotImplementedError

    # Fitting ------------------------------------------------------------------------

    def _steps(self) -> bool:
        """Tell whether the solver takes steps on batches."""
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

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        eval_set: Any = None,
        *,
        incremental: bool = False,
    ) -> Self:
        with self._threads(), _sharing():
            return self._fit_within_threads(X, y, sample_weight, eval_set, incremental)

    def _fit_within_threads(
        self, X: Any, y: Any, sample_weight: Any, eval_set: Any, incremental: bool
    ) -> Self:
        sizes = self._hidden_sizes()
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        dtype: Any = _DTYPES
        if not first:
            dtype = self._connected().dtype
        elif self.dtype is not None:
            dtype = _validate.float_dtype(self.dtype)

        # What to train on.
        given = y
        X, y = self._checked(X, y, incremental, first, dtype)
        by_class = self._weights_by_class(given, incremental)
        if sample_weight is not None:
            sample_weight = _weights(sample_weight, X)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        task = self._task(y)
        held_out = None
        if eval_set is not None:
            held_out = self._held_out(eval_set, X.dtype, y.shape[1])

        # The network.
        random_state = check_random_state(self.random_state)
        widths = [X.shape[1], *sizes, task.outputs]
        self.n_outputs_ = task.outputs
        if first:
            self._begin(widths, task, X.dtype, random_state)
        else:
            self._go_on(widths, task)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        self._train(
            X, y, sample_weight, by_class, held_out, task, random_state, incremental
        )
        if not np.isfinite(self.mlp_.params).all():
            raise ValueError(_NOT_FINITE)
        return self

    def _train(
        self,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        by_class: Array | None,
        held_out: tuple[Any, Array, Array | None] | None,
        task: Task,
        random_state: np.random.RandomState,
        incremental: bool,
    ) -> None:
        stepping = self._steps()
        stopping = stepping and self.early_stopping
        if stopping and held_out is None:
            held_out, *kept = self._split(X, y, sample_weight, by_class, random_state)
            X, y, sample_weight, by_class = kept

        # What the core takes.
        mlp: MLP = self.mlp_
        weight = sample_weight
        if by_class is not None:
            weight = by_class if weight is None else weight * by_class
        data = self._encoded(X, y, weight, task)
        constant = None if task.constant is None else task.constant(data.y)
        validation = None
        if held_out is not None:
            x_val, y_val, weight_val = held_out
            known = self._encoded(x_val, y_val, weight_val, task)
            validation = _epochs.Validation(
                mlp,
                known,
                task.loss,
                None if task.constant is None else task.constant(known.y),
                lambda z: self._score_outputs(z, y_val, weight_val),
            )
        batch_size = self._batch_size(data.rows) if stepping else data.rows
        if self.normalization == "batch" and batch_size == 1:
            raise ValueError(
                "normalization='batch' needs batches of at least 2 samples, got "
                f"batches of 1 sample by n_samples={data.rows} and "
                f"batch_size={self.batch_size}"
            )

        # What trains.
        optimizer: Optimizer | Solver
        stepper: _epochs.Stepper | None = None
        if stepping:
            if not incremental or not hasattr(self, "_optimizer"):
                self._optimizer = self._stepper()
            stepper = self._optimizer
            optimizer = stepper.optimizer
        elif isinstance(self.solver, Solver):
            optimizer = copy.deepcopy(self.solver)
            optimizer.reset()
        else:
            optimizer = LBFGS()
        rules = _epochs.Rules(
            self, data.rows, validation if stopping else None, stepper
        )
        hooks = [] if incremental else as_callbacks(copy.deepcopy(self.callbacks))
        if not incremental:
            self.callbacks_ = list(hooks)
        hooks.insert(0, rules)
        history = History(has_validation=validation is not None)
        listener = loop.listener_of(hooks, mlp, history)
        steps = -(-data.rows // batch_size)
        runner: Any
        seed = 0
        if stepping:
            kind = _epochs.Epochs
            if task.loss.core is None:
                kind = _epochs.CustomEpochs
            orders = _epochs.Orders(data.rows, random_state if self.shuffle else None)
            if any(self._dropouts()):
                seed = int(random_state.randint(np.iinfo(np.int32).max))
            assert isinstance(optimizer, Optimizer)
            runner = kind(
                mlp,
                data,
                task.loss,
                constant,
                optimizer,
                batch_size,
                0.0 if self.solver == "adamw" else float(self.alpha),
                orders,
                seed,
                listener,
            )
        elif isinstance(optimizer, LBFGS) and self.solver == "lbfgs":
            runner = _epochs.LbfgsB(
                mlp, data, task.loss, constant, float(self.alpha), self._scipy_options()
            )
        else:
            arrays = data.all_dense(mlp.dtype)
            place = loop.Place([None, None, None], 0)
            runner = loop.make_runner(
                mlp, arrays, task.loss, optimizer, 1, 0, False, listener, place
            )

        # Train.
        epochs = 1 if incremental else int(self.max_iter)
        first = mlp.sequence.done
        run = Run(optimizer, task.loss, epochs, steps, history, hooks, seed, first)
        self.n_iter_ = 0
        # Of this fit: a warm start that finds nothing better ends where it has come to,
        # as in scikit-learn, so that a loop of them does not tread on the spot.
        self._best: tuple[Array, Array] | None = None
        token = object()
        try:
            mlp.core.begin_fit(token)
            loop.train(mlp, runner, run, validation, self.progress, own_orders=True)
        except _core.DivergenceError as error:
            if self._best is None:
                raise ValueError(f"{_NOT_FINITE} {error}") from error
            # scikit-learn goes on to its last epoch, whose scores are all NaN.
            self.validation_scores_.append(math.nan)
            warnings.warn(
                f"Stochastic Optimizer: the best weights are kept, then {error}",
                ConvergenceWarning,
                stacklevel=5,
            )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=5)
        finally:
            mlp.core.end_fit(token)
        if self._best is not None:
            mlp.params[:], mlp.buffers[:] = self._best
            self._best = None
        self._end(runner, rules.stopped or incremental)

    def _split(
        self,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        by_class: Array | None,
        random_state: np.random.RandomState,
    ) -> tuple[Any, ...]:
        """Return (X, y, weight) to validate on, and all four to train on."""
        given = [X, y, sample_weight, by_class]
        parts = iter(
            train_test_split(
                *(part for part in given if part is not None),
                random_state=random_state,
                test_size=self.validation_fraction,
                stratify=self._strata(y),
            )
        )
        pairs = [
            (None, None) if part is None else (next(parts), next(parts))
            for part in given
        ]
        kept, held_out = zip(*pairs, strict=True)
        if held_out[0].shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or "
                "the size of your dataset."
            )
        return held_out[:3], *kept

    def _end(self, runner: Any, stopped: bool) -> None:
        """Note how the training ended, and warn if that was by the limit."""
        if not isinstance(runner, _epochs.LbfgsB):
            if self.n_iter_ == self.max_iter and not (stopped or runner.finished):
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                    "reached and the optimization hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=6,
                )
            return
        result = runner.result
        if result is None:
            return
        self.n_iter_, self.loss_ = min(result.nit, self.max_iter), result.fun
        if result.status != 0:
            message = (
                f"lbfgs failed to converge after {self.n_iter_} iteration(s) "
                f"(status={result.status}):\n{result.message}\n"
            )
            if self.n_iter_ == self.max_iter:
                message += (
                    "\nIncrease the number of iterations to improve the convergence "
                    f"(max_iter={self.max_iter})."
                )
            message += (
                "\nYou might also want to scale the data, see "
                "https://scikit-learn.org/stable/modules/preprocessing.html"
            )
            warnings.warn(message, ConvergenceWarning, stacklevel=6)

    def _scipy_options(self) -> dict[str, Any]:
        return {"maxfun": self.max_fun, "gtol": self.tol}

    def _batch_size(self, rows: int) -> int:
        if self.batch_size == "auto":
            return min(200, rows)
        if self.batch_size > rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going "
                "to be clipped",
                stacklevel=6,
            )
        return min(int(self.batch_size), rows)

    def _stepper(self) -> _epochs.Stepper:
        """Return a new optimiser by the parameters."""
        schedule, rate = self.learning_rate, float(self.learning_rate_init)
        given: Any = rate
        if not isinstance(schedule, str):
            given, schedule = copy.deepcopy(schedule), "constant"
        optimizer: Optimizer
        if isinstance(self.solver, Optimizer):
            optimizer = copy.deepcopy(self.solver)
            optimizer.reset()
            if given is not rate:
                optimizer.lr = given
        elif self.solver == "sgd":
            momentum = float(self.momentum)
            nesterov = bool(self.nesterovs_momentum and momentum)
            optimizer = SGD(given, momentum, nesterov=nesterov)
        elif self.solver == "adam":
            betas = float(self.beta_1), float(self.beta_2)
            optimizer = Adam(given, betas, float(self.epsilon), eps_mode="hat")
        elif self.solver == "adamw":
            betas = float(self.beta_1), float(self.beta_2)
            alpha, eps = float(self.alpha), float(self.epsilon)
            optimizer = AdamW(given, betas, eps, alpha, decay="weights")
        elif self.solver == "rmsprop":
            optimizer = RMSprop(given, eps=float(self.epsilon))
        else:
            optimizer = Adagrad(given)
        if self.solver != "sgd":
            schedule = "constant"
        return _epochs.Stepper(optimizer, schedule, rate, float(self.power_t))

    def _strata(self, y: Array) -> Array | None:
        """Return what a held-out part is to have its share of."""
        return None

    def _encoded(self, X: Any, y: Array, weight: Array | None, task: Task) -> Data:
        """Return what the core takes."""
        dtype = self.mlp_.dtype
        if weight is not None:
            weight = np.ascontiguousarray(weight, dtype)
            if not weight.any():
                raise ValueError("the weights of the samples must not be all zero")
        target = task.encode(y, dtype)
        if target.dtype.kind == "f":
            _validate.finite("y", target)
        if task.loss.core is not None:
            shape = len(target), self.mlp_.n_out
            core = task.loss.core
            checked = _validate.targets("y", target, core, shape, dtype)
            assert isinstance(checked, np.ndarray)  # of action values they are pairs
            _validate.target_values("y", checked, core)
            target = checked
        if isinstance(X, np.ndarray):
            X = _epochs.dense(X, dtype)
        elif X.format != "csr":
            X = X.tocsr()
        return _epochs.Data(X, target, weight)

    def _held_out(
        self, eval_set: Any, dtype: np.dtype[Any], n: int
    ) -> tuple[Any, Array, Array | None]:
        """Return an eval_set, checked."""
        if not isinstance(eval_set, (tuple, list)) or len(eval_set) not in (2, 3):
            raise ValueError(
                "eval_set must be (X, y) or (X, y, sample_weight), got "
                f"{_validate.describe(eval_set)}"
            )
        X, y = self._checked_held_out(eval_set[0], eval_set[1], dtype)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        if y.shape[1] != n:
            raise ValueError(
                f"eval_set: y has {y.shape[1]} outputs, that of the training data has "
                f"{n}"
            )
        weight = None
        if len(eval_set) == 3 and eval_set[2] is not None:
            weight = _weights(eval_set[2], X)
        return X, y, weight

    # The network --------------------------------------------------------------------

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
                f"{name} must be one value or one for each of the {n} hidden layers, "
                f"got {len(values)}"
            )
        return values

    def _dropouts(self) -> list[float]:
        return [
            _validate.real("dropout", p, 0.0, 1.0, open_high=True)
            for p in self._per_layer("dropout", len(self._hidden_sizes()))
        ]

    def _activations(self, n: int) -> list[str]:
        """Return the activations by fastmlp's names."""
        names = self._per_layer("activation", n)
        for name in names:
            if name != "logistic":
                _validate.choice("activation", name, _core.ACTIVATIONS)
        return ["sigmoid" if name == "logistic" else str(name) for name in names]

    def _layers(self, widths: list[int]) -> list[int | Layer]:
        """Return the network's layers, behind the input width."""
        hidden = widths[1:-1]
        activations, dropouts = self._activations(len(hidden)), self._dropouts()
        stepping = self._steps()
        if not stepping and not isinstance(self.learning_rate, str):
            raise ValueError(
                "learning_rate can be a schedule or a function only for a solver that "
                f"takes steps, not for {self.solver!r}; got {self.learning_rate!r}"
            )
        if not stepping and (self.normalization == "batch" or any(dropouts)):
            raise ValueError(
                "dropout and normalization='batch' need batches: another solver than "
                f"{self.solver!r}"
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
        return [*layers, Dense(widths[-1], "identity")]

    def _network(self, widths: list[int], dtype: Any) -> MLP:
        return MLP(self._layers(widths), init="zeros", dtype=dtype, seed=0)

    def _begin(
        self,
        widths: list[int],
        task: Task,
        dtype: Any,
        random_state: np.random.RandomState,
    ) -> None:
        """Make and draw a new network, as scikit-learn's draws it, and new records."""
        mlp = self._network(widths, dtype)
        hidden = self._activations(len(widths) - 2)
        deciding = [*hidden, hidden[-1] if hidden else self._output_draw()]
        arrays = zip(mlp.weights, mlp.biases, deciding, strict=True)
        for weight, bias, activation in arrays:
            factor = 2.0 if activation == "sigmoid" else 6.0
            bound = math.sqrt(factor / sum(weight.shape))
            weight[...] = random_state.uniform(-bound, bound, weight.shape)
            assert bias is not None
            bias[...] = random_state.uniform(-bound, bound, bias.shape)
        for name in ("loss_curve_", "validation_loss_curve_", "_optimizer"):
            self.__dict__.pop(name, None)
        self.t_ = 0
        self._connect(mlp, task)
        self._keep_records(fresh=True)

    def _output_draw(self) -> str:
        """Return the activation that counts where there is no hidden layer."""
        name = self.activation
        return "sigmoid" if name in ("logistic", "sigmoid") else "identity"

    def _go_on(self, widths: list[int], task: Task) -> None:
        """Go on with the network there is, as the parameters now have it."""
        mlp = self._connected()
        shapes = [weight.shape for weight in mlp.weights]
        wanted = list(pairwise(widths))
        if shapes != wanted:
            raise ValueError(
                f"going on needs a network of the same widths: {self._name()} has "
                f"coefs_ of shapes {shapes}, parameters and data now ask for {wanted}"
            )
        if tuple(self._network(widths, mlp.dtype).layers) != mlp.layers:
            mlp = self._network(widths, mlp.dtype)
            _copy_weights(mlp, self.coefs_, self.intercepts_)
            self.__dict__.pop("_optimizer", None)
        self._connect(mlp, task)
        self._keep_records(fresh=False)

    def _name(self) -> str:
        return type(self).__name__

    def _connect(self, mlp: MLP, task: Task) -> None:
        """Make this the network, and the attributes views of it."""
        self.mlp_ = mlp
        self.n_layers_ = len(mlp.weights) + 1
        self.out_activation_ = task.activation
        self.coefs_, self.intercepts_ = list(mlp.weights), list(mlp.biases)

    def _keep_records(self, *, fresh: bool) -> None:
        """Start the records that are not there, or all of them."""
        records: dict[str, Any] = {
            "t_": 0,
            "loss_curve_": [],
            "validation_loss_curve_": [],
        }
        if self._steps():
            stopping = self.early_stopping
            records["_no_improvement_count"] = 0
            records["validation_scores_"] = [] if stopping else None
            records["best_validation_score_"] = -np.inf if stopping else None
            records["best_loss_"] = None if stopping else np.inf
        else:
            names = ("validation_scores_", "best_validation_score_", "best_loss_")
            for name in (*names, "_optimizer") if fresh else ():
                self.__dict__.pop(name, None)
        for name, value in records.items():
            # Of a record that early stopping needs, None is as good as none.
            if fresh or self.__dict__.get(name) is None:
                setattr(self, name, value)

    def _connected(self) -> MLP:
        """Return the network with what stands in ``coefs_`` and ``intercepts_``."""
        mlp: MLP | None = self.__dict__.get("mlp_")
        coefs, intercepts = self.coefs_, self.intercepts_
        if mlp is not None:
            weights, biases = mlp.weights, mlp.biases
            if (
                len(coefs) == len(intercepts) == len(weights)
                and all(map(is_, coefs, weights))
                and all(map(is_, intercepts, biases))
            ):
                return mlp
        return self._reconnected(mlp)

    def _reconnected(self, mlp: MLP | None) -> MLP:
        """Take over what somebody has put into ``coefs_`` and ``intercepts_``."""
        given: dict[str, list[Array]] = {}
        for name, ndim in (("coefs_", 2), ("intercepts_", 1)):
            arrays = [np.asarray(value) for value in getattr(self, name)]
            for i, array in enumerate(arrays):
                if array.ndim != ndim or array.dtype.kind not in "fiub":
                    raise ValueError(
                        f"{name}[{i}] must be an array of {ndim} dimensions, got "
                        f"{_validate.describe(array)}"
                    )
            given[name] = arrays
        coefs, intercepts = given["coefs_"], given["intercepts_"]
        widths = [w.shape[0] for w in coefs[:1]] + [w.shape[1] for w in coefs]
        shapes = [
            (a.shape[0], b.shape) for a, b in zip(coefs, intercepts, strict=False)
        ]
        wanted = [(a, (b,)) for a, b in pairwise(widths)]
        if len(coefs) != len(intercepts) or not coefs or shapes != wanted:
            raise ValueError(
                "coefs_ and intercepts_ do not fit each other: they have the shapes "
                f"{[w.shape for w in coefs]} and {[b.shape for b in intercepts]}"
            )
        if mlp is None or [w.shape for w in mlp.weights] != [w.shape for w in coefs]:
            dtype = np.result_type(*coefs, *intercepts, np.float32)
            if mlp is not None:
                dtype = mlp.dtype
            mlp = self._network(widths, dtype)
        _copy_weights(mlp, coefs, intercepts)
        self.mlp_ = mlp
        self.coefs_, self.intercepts_ = list(mlp.weights), list(mlp.biases)
        return mlp

    # Prediction ---------------------------------------------------------------------

    def _quick_outputs(self, X: Any) -> Array | None:
        """Return the outputs for a plain array of a few good rows, None for others."""
        state = self.__dict__
        if (
            type(X) is not np.ndarray
            or X.ndim != 2
            or not 0 < X.size <= _QUICK
            or "mlp_" not in state
            or "feature_names_in_" in state
            or self.n_threads is not None
        ):
            return None
        # The core takes no array of another dtype, layout or width.
        outputs = self._connected().core.predict(X)
        if outputs is NotImplemented:
            return None
        flat = X.reshape(-1)
        with np.errstate(all="ignore"):
            square = flat.dot(flat)
        return outputs if math.isfinite(square) else None

    def _outputs(self, X: Any) -> Array:
        """Return the network's outputs, before the output's activation."""
        outputs = self._quick_outputs(X)
        if outputs is not None:
            return outputs
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        mlp = self._connected()
        if X.shape[1] != mlp.n_in:
            raise ValueError(
                f"X has {X.shape[1]} features, but {self._name()} is expecting "
                f"{mlp.n_in} features as input"
            )
        if not isinstance(X, np.ndarray) and X.format != "csr":
            X = X.tocsr()
        with self._threads(), np.errstate(over="ignore"):
            return _epochs.predict(mlp, X)

    # Copies -------------------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        views = {"coefs_", "intercepts_"}
        if not {"mlp_", *views} <= self.__dict__.keys():
            return dict(super().__getstate__())
        # The network is stored, of which they are views.
        self._connected()
        state = super().__getstate__().items()
        return {name: value for name, value in state if name not in views}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "mlp_" in self.__dict__ and "coefs_" not in self.__dict__:
            self.coefs_ = list(self.mlp_.weights)
            self.intercepts_ = list(self.mlp_.biases)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _copy_weights(mlp: MLP, coefs: Any, intercepts: Any) -> None:
    for view, array in zip(mlp.weights, coefs, strict=True):
        view[...] = array
    for bias, array in zip(mlp.biases, intercepts, strict=True):
        assert bias is not None
        bias[...] = array


def _weights(sample_weight: Any, X: Any) -> Array:
    weight: Array = _check_sample_weight(sample_weight, X)
    if (weight < 0).any():
        raise ValueError("Negative values in data passed to `sample_weight`.")
    if not weight.any():
        raise ValueError("sample_weight: the weights must not be all zero")
    return weight


def custom(loss: Any) -> Loss | None:
    """Return a loss that a function or an object of the caller's is."""
    if isinstance(loss, Loss):
        return loss
    return CustomLoss(loss) if callable(loss) else None
