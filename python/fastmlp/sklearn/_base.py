"""The base class of the estimators: fitting and prediction."""

from __future__ import annotations

import contextlib
import copy
import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _core, _validate, initializers
from .._formats import snapshot
from .._network.inputs import dense
from .._training.cursor import EpochCursor
from .._training.runners import SolverEpochs
from .._training.session import Session
from .._validate.warn import warn
from ..callbacks._base import as_callbacks
from ..losses import Loss, as_loss
from ..mlp import MLP
from ..optimizers import Optimizer
from ..runtime import share_threads
from ..solvers import LBFGS, Solver
from ._copies import for_one_fit
from ._epochs import (
    CustomEpochs,
    Data,
    NativeEpochs,
    SampleOrder,
    aligned,
    predict,
    samples_for,
)
from ._lbfgs import LbfgsB
from ._samples import (
    HeldOut,
    Samples,
    check_numbers,
    sample_weights,
    warn_of_another_scale,
)
from ._stopping import LearningRatePolicy, Measure, StoppingRule, Validation
from ._weights import NetworkWeights, copy_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from .._validate import Array
    from ..callbacks import Callback

_DTYPES = (np.float64, np.float32)

# Number of draws of held-out data until some of them have a weight above 0.
_DRAWS = 10

# Number of outputs that are held in memory at a time for a summary of them.
_OUTPUTS = 2**22

# For arrays of at most this many elements, a quick check for finite values replaces the
# slower validate_data.
_QUICK = 4096

_NOT_FINITE = (
    "Solver produced non-finite parameter weights. The input data may contain large "
    "values and need to be preprocessed."
)


class Task(NamedTuple):
    """Training task of the network.

    Attributes
    ----------
    loss : Loss
        Loss to minimise, a function of the network's outputs.
    outputs : int
        Number of outputs.
    activation : str
        Activation that turns outputs into predictions, under its scikit-learn name.
    encode : callable
        Function of targets (rows, n) and a dtype that returns the targets in the form
        that the loss takes.
    constant : callable, optional
        Function of the encoded targets that returns, for each row, a constant term that
        scikit-learn adds to the loss.
    """

    loss: Loss
    outputs: int
    activation: str
    encode: Callable[[Array, np.dtype[Any]], Array]
    constant: Callable[[Array], Array] | None = None

    def constant_of(self, y: Array) -> Array | None:
        """Return the constant term of each row; None if the loss has none."""
        return None if self.constant is None else self.constant(y)


class BaseMLP(NetworkWeights):
    """Base class of `MLPClassifier` and `MLPRegressor`."""

    # The classifier and the regressor implement the following methods.

    def _task(self, y: Array) -> Task:
        """Return the training task for targets of shape (rows, n)."""
        raise NotImplementedError

    def _checked(
        self, X: Any, y: Any, incremental: bool, reset: bool, dtype: Any
    ) -> tuple[Any, Array]:
        """Return validated X and targets; the validation data are not split off yet."""
        raise NotImplementedError

    def _checked_held_out(
        self, given: HeldOut, dtype: np.dtype[Any]
    ) -> tuple[Any, Array]:
        """Return validated X and targets of held-out data."""
        raise NotImplementedError

    def _weights_by_class(self, y: Array, incremental: bool) -> Array | None:
        """Return the weight of each sample's class; None without class weights."""
        return None

    def _weights_of_held_out(self, y: Array, training: Array) -> Array | None:
        """Return the weight of each label's class, given the training labels."""
        return None

    def _strata(self, y: Array) -> Array | None:
        """Return the labels by which to stratify the validation split, or None."""
        return None

    def _measure(self, y: Array, weight: Array | None) -> Measure | None:
        """Return the measure of outputs on held-out data; None if it is undefined."""
        raise NotImplementedError

    def _stops_by_loss(self) -> bool:
        """Tell whether early stopping uses the loss instead of the score."""
        return False

    # Fitting ------------------------------------------------------------------------

    @_validate.reproducible
    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        held_out: HeldOut | None = None,
        *,
        incremental: bool = False,
    ) -> Self:
        with self._threads(), share_threads(), self._unless_it_fails(incremental):
            return self._fit_within_threads(X, y, sample_weight, held_out, incremental)

    @contextlib.contextmanager
    def _unless_it_fails(self, incremental: bool) -> Iterator[None]:
        """Restore the whole estimator if an exception ends the block.

        After ``partial_fit`` the weights are not restored: they remain those of the
        last good step.
        """
        before = dict(self.__dict__)
        lengths = {k: len(v) for k, v in before.items() if type(v) is list}
        mlp: MLP | None = before.get("mlp_")
        kept = None
        if mlp is not None and self.warm_start and not incremental:
            kept = snapshot.model_state(mlp, None)
            history, sequence = mlp.history, copy.copy(mlp.sequence)
        try:
            yield
        except BaseException:
            for name, value in before.items():
                setattr(self, name, value)
                if name in lengths:
                    del value[lengths[name] :]
            for name in self.__dict__.keys() - before.keys():
                delattr(self, name)
            if mlp is not None and kept is not None:
                snapshot.restore(kept, mlp)
                mlp.history, mlp.sequence = history, sequence
            raise

    def _fit_within_threads(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        given: HeldOut | None,
        incremental: bool,
    ) -> Self:
        sizes = self._hidden_sizes()
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        dtype: Any = _DTYPES
        if not first:
            dtype = self._connected().dtype
        elif self.dtype is not None:
            dtype = _validate.float_dtype(self.dtype)
        elif self.compute_dtype is not None:
            double = self.compute_dtype == "float64"
            dtype = np.dtype(np.float64 if double else np.float32)

        # Check the data.
        X, y = self._checked(X, y, incremental, first, dtype)
        if sample_weight is not None:
            sample_weight = sample_weights(sample_weight, X)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        by_class = self._weights_by_class(y, incremental)
        samples = Samples(X, y, sample_weight, by_class)
        task = self._task(y)
        held_out = None if given is None else self._held_out(given, samples)

        # Make or change the network, and train it.
        random_state = check_random_state(self.random_state)
        widths = [X.shape[1], *sizes, task.outputs]
        self.n_outputs_ = task.outputs
        if first:
            self._begin(widths, task, X.dtype, random_state)
        else:
            self._continue(widths, task)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if self.early_stopping and held_out is None:
            held_out, samples = self._split(samples, random_state)
        self._train(samples, held_out, task, random_state, first, incremental)
        if not np.isfinite(self.mlp_.params).all():
            raise ValueError(_NOT_FINITE)
        return self

    def _train(
        self,
        samples: Samples,
        held_out: Samples | None,
        task: Task,
        random_state: np.random.RandomState,
        first: bool,
        incremental: bool,
    ) -> None:
        data = self._encoded(samples, task)
        validation = None if held_out is None else self._validation(held_out, task)
        stopping = bool(self.early_stopping and validation is not None)
        self._keep_records(validation if stopping else None, fresh=first)
        batch_size = self._batch_size(data.rows)
        if self.normalization == "batch" and batch_size == 1:
            raise ValueError(
                "normalization='batch' needs batches of at least 2 samples, got "
                f"batches of 1 sample because n_samples={data.rows} and "
                f"batch_size={self.batch_size}"
            )

        # Optimiser and callbacks.
        optimizer, policy = self._optimizer_of(incremental)
        rule = StoppingRule(self, data.rows, validation if stopping else None, policy)
        hooks: list[Callback] = []
        if not incremental:
            hooks = as_callbacks(for_one_fit(self.callbacks))
            self.callbacks_ = list(hooks)
        order = SampleOrder(data.rows, random_state if self.shuffle else None)
        seed = 0
        if any(self._dropouts()):
            seed = int(random_state.randint(np.iinfo(np.int32).max))

        # Train.
        session = Session(
            self.mlp_,
            optimizer,
            task.loss,
            [rule, *hooks],
            epochs=1 if incremental else int(self.max_iter),
            steps_per_epoch=-(-data.rows // batch_size),
            seed=seed,
            first_epoch=self.mlp_.sequence.done,
            has_validation=validation is not None,
            directions=None if validation is None else validation.directions,
        )
        runner = self._runner(session, optimizer, data, task, batch_size, order, seed)
        self.n_iter_ = 0
        self._run(session, runner, validation)
        self._end(runner, rule.stopped or incremental)

    def _run(
        self, session: Session, runner: Any, validation: Validation | None
    ) -> None:
        """Train, and restore the best weights of this fit if they were kept.

        A warm start that does not improve on the best score of earlier fits keeps its
        last weights, as in scikit-learn, so that a loop of such fits still makes
        progress.
        """
        self._best: tuple[Array, Array] | None = None
        try:
            session.train(runner, validation, self.progress)
        except _core.DivergenceError as error:
            if self._best is None:
                raise ValueError(f"{_NOT_FINITE} {error}") from error
            # scikit-learn would continue to the last epoch, with a score of NaN for
            # each epoch.
            self.validation_scores_.append(math.nan)
            warn(
                f"Stochastic Optimizer: the best weights are restored, as {error}",
                ConvergenceWarning,
            )
        except KeyboardInterrupt:
            warn("Training interrupted by user.")
        if self._best is not None:
            self.mlp_.params[:], self.mlp_.buffers[:] = self._best
            self._best = None

    def _optimizer_of(
        self, incremental: bool
    ) -> tuple[Optimizer | Solver, LearningRatePolicy | None]:
        """Return the optimiser and its learning-rate policy, or the solver and None."""
        if self._steps():
            if not incremental or not hasattr(self, "_optimizer"):
                self._optimizer = self._new_policy()
            return self._optimizer.optimizer, self._optimizer
        if not isinstance(self.solver, Solver):
            return LBFGS(), None
        solver = for_one_fit(self.solver)
        solver.reset()
        return solver, None

    def _runner(
        self,
        session: Session,
        optimizer: Optimizer | Solver,
        data: Data,
        task: Task,
        batch_size: int,
        order: SampleOrder,
        seed: int,
    ) -> Any:
        """Return the object that trains for an epoch."""
        mlp, loss, constant = self.mlp_, task.loss, task.constant_of(data.y)
        if isinstance(optimizer, Optimizer):
            kind = CustomEpochs if loss.core is None else NativeEpochs
            return kind(
                mlp,
                data,
                loss,
                constant,
                optimizer,
                batch_size=batch_size,
                l2=self._alpha(),
                order=order,
                seed=seed,
                listener=session.listener,
            )
        if self.solver == "lbfgs":
            options = {"maxfun": self.max_fun, "gtol": self.tol}
            return LbfgsB(mlp, data, loss, constant, self._alpha(), options)
        x, y, weight = data.all_rows(mlp.dtype)
        if not isinstance(optimizer, LBFGS):
            x = dense(x)
        runner = optimizer._runner(mlp, (x, y, weight), loss, self._alpha())
        return SolverEpochs(
            runner, session.listener, EpochCursor([None, None, None], 0)
        )

    def _split(
        self, samples: Samples, random_state: np.random.RandomState
    ) -> tuple[Samples | None, Samples]:
        """Return the samples for validation and the samples for training.

        Both parts need a sample whose weight is not 0. If several draws do not give
        such parts, there is no validation.
        """
        for _ in range(_DRAWS):
            held_out, kept = self._drawn(samples, random_state)
            if not (held_out.weigh_nothing() or kept.weigh_nothing()):
                return held_out, kept
        warn(
            "early_stopping is not used: too few samples have a weight above 0 for "
            "held-out data; the training loss decides when to stop",
        )
        return None, samples

    def _drawn(
        self, samples: Samples, random_state: np.random.RandomState
    ) -> tuple[Samples, Samples]:
        """Draw the samples for validation; return them and the others."""
        parts = iter(
            train_test_split(
                *(part for part in samples if part is not None),
                random_state=random_state,
                test_size=self.validation_fraction,
                stratify=self._strata(samples.y),
            )
        )
        pairs = [
            (None, None) if part is None else (next(parts), next(parts))
            for part in samples
        ]
        kept, held_out = (Samples(*some) for some in zip(*pairs, strict=True))
        if held_out.X.shape[0] < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or "
                "the size of your dataset."
            )
        return held_out, kept

    def _validation(self, held_out: Samples, task: Task) -> Validation:
        data = self._encoded(held_out, task, "held-out ")
        measure = self._measure(held_out.y, held_out.total_weight())
        return Validation(
            self.mlp_,
            data,
            task.loss,
            task.constant_of(data.y),
            measure,
            by_loss=measure is None or self._stops_by_loss(),
        )

    def _end(self, runner: Any, stopped: bool) -> None:
        """Record how the training ended, and warn if it did not converge."""
        if not isinstance(runner, LbfgsB):
            if self.n_iter_ == self.max_iter and not (stopped or runner.finished):
                warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                    "reached and the optimization hasn't converged yet.",
                    ConvergenceWarning,
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
                "\nYou might also want to scale the data; see "
                "https://scikit-learn.org/stable/modules/preprocessing.html"
            )
            warn(message, ConvergenceWarning)

    def _encoded(self, samples: Samples, task: Task, kind: str = "") -> Data:
        """Convert samples to the form that the loss and the core take.

        ``kind`` says in errors which samples they are.
        """
        dtype = self.mlp_.dtype
        X, weight = samples.X, samples.total_weight()
        if weight is not None:
            weight = aligned(weight, dtype)
            if not weight.any():
                raise ValueError(
                    f"the weights of the {kind}samples (sample_weight times "
                    "class_weight) must not all be zero"
                )
        target = task.encode(samples.y, dtype)
        if target.dtype.kind == "f":
            _validate.finite("y", target)
        if task.loss.core is not None:
            shape = len(target), self.mlp_.n_out
            core = task.loss.core
            checked = _validate.targets("y", target, core, shape, dtype)
            assert isinstance(checked, np.ndarray)  # only ActionValue takes pairs
            _validate.target_values("y", checked, core)
            target = checked
        return Data(samples_for(self.mlp_, X), target, weight)

    def _held_out(self, given: HeldOut, training: Samples) -> Samples:
        """Check held-out data, and return their samples.

        The frequencies of the training labels may set class weights.
        """
        X, y = self._checked_held_out(given, training.X.dtype)
        y = y.reshape(-1, 1) if y.ndim == 1 else y
        n = training.y.shape[1]
        if y.shape[1] != n:
            raise ValueError(
                f"{given.y_name} must have as many outputs as in the training data "
                f"({n}), got {y.shape[1]}"
            )
        weight = None
        if given.weight is not None:
            weight = sample_weights(given.weight, X, given.weight_name)
        warn_of_another_scale(
            given.X_name,
            X,
            training.X,
            "A Pipeline transforms X_val only if told so: transform_input=['X_val']",
        )
        if is_regressor(self):
            warn_of_another_scale(
                given.y_name,
                y,
                training.y,
                "A TransformedTargetRegressor transforms y only: pass held-out targets "
                "already transformed",
            )
        return Samples(X, y, weight, self._weights_of_held_out(y, training.y))

    # The network --------------------------------------------------------------------

    def _begin(
        self,
        widths: list[int],
        task: Task,
        dtype: Any,
        random_state: np.random.RandomState,
    ) -> None:
        """Create a network with scikit-learn's initial weights, and empty records."""
        mlp = self._network(widths, dtype)
        # The bound of a layer's initial weights depends on its activation. The output
        # layer uses the activation of the last hidden layer.
        hidden = self._activations(len(widths) - 2)
        activations = [*hidden, hidden[-1] if hidden else self._without_hidden()]
        arrays = zip(mlp.weights, mlp.biases, activations, strict=True)
        for weight, bias, name in arrays:
            initializers.draw("sklearn", random_state, weight, bias, name, name)
        for name in ("loss_curve_", "validation_loss_curve_", "_optimizer"):
            self.__dict__.pop(name, None)
        self.t_ = 0
        self._adopt(mlp, task)

    def _without_hidden(self) -> str:
        """Return the activation used to initialise a network without hidden layers."""
        name = self.activation
        return "sigmoid" if name in ("logistic", "sigmoid") else "identity"

    def _continue(self, widths: list[int], task: Task) -> None:
        """Keep the weights, and adapt the network to changed estimator parameters."""
        own = self.__dict__.get("_adopted_activation", self.out_activation_)
        if self.out_activation_ != own:
            raise ValueError(
                f"training cannot continue, because out_activation_ was changed from "
                f"{own!r} to {self.out_activation_!r} after the last fit"
            )
        mlp = self._connected()
        shapes = [weight.shape for weight in mlp.weights]
        wanted = list(pairwise(widths))
        if shapes != wanted:
            raise ValueError(
                "training can continue only if the widths of all layers are unchanged: "
                f"{self._name()} has coefs_ of shapes {shapes}, but its parameters "
                f"and the data now need shapes {wanted}"
            )
        network = self._network(widths, mlp.dtype)
        if network.layers != mlp.layers:
            copy_weights(network, self.coefs_, self.intercepts_)
        elif network.compute_dtype != mlp.compute_dtype:
            # The copy has the parameters and statistics of normalisations, too.
            network = mlp.copy(compute_dtype=network.compute_dtype)
        else:
            network = mlp
        if network is not mlp:
            self.__dict__.pop("_optimizer", None)
        self._adopt(network, task)

    def _name(self) -> str:
        return type(self).__name__

    def _adopt(self, mlp: MLP, task: Task) -> None:
        """Use this network, and set the attributes that describe it."""
        self._connect(mlp)
        self.n_layers_ = len(mlp.weights) + 1
        self.out_activation_ = self._adopted_activation = task.activation

    def _keep_records(self, validation: Validation | None, *, fresh: bool) -> None:
        """Initialise the missing records or, if ``fresh``, all records.

        ``validation`` gives the score of early stopping, if that is used.
        """
        stopping = validation is not None
        records: dict[str, Any] = {
            "t_": 0,
            "loss_curve_": [],
            "validation_loss_curve_": [],
        }
        scores: dict[str, Any] = {
            "validation_scores_": [] if stopping else None,
            "best_validation_score_": -np.inf if stopping else None,
        }
        if self._steps():
            records["best_loss_"] = None if stopping else np.inf
        elif fresh:
            for name in (*scores, "best_loss_", "_optimizer"):
                self.__dict__.pop(name, None)
        if self._steps() or stopping:
            records |= {**scores, "_no_improvement_count": 0}
        for name, value in records.items():
            # An earlier fit with other settings may have left None for an attribute
            # that this fit needs.
            if fresh or self.__dict__.get(name) is None:
                setattr(self, name, value)
        # Scores of different losses cannot be compared.
        criterion = "score"
        if validation is not None and validation.by_loss:
            native = isinstance(self.loss, (str, Loss))
            criterion = repr(self.loss) if native else type(self.loss).__name__
        if stopping and self.__dict__.get("_criterion", criterion) != criterion:
            self.best_validation_score_ = -np.inf
        if stopping or fresh:
            self._criterion = criterion

    # Prediction ---------------------------------------------------------------------

    def _quick_outputs(self, X: Any) -> Array | None:
        """Return the outputs for a small array of floats, or None for other samples."""
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
        # The core returns NotImplemented for an array of another dtype, layout or
        # width.
        mlp = self._connected()
        outputs = mlp.core.predict(X)
        if outputs is NotImplemented and X.dtype in _DTYPES:
            # Numbers that become infinite are left to the slower way.
            X = aligned(X, mlp.dtype)
            outputs = mlp.core.predict(X)
        if outputs is NotImplemented:
            return None
        flat = X.reshape(-1)
        with np.errstate(all="ignore"):
            square = flat.dot(flat)
        return outputs if math.isfinite(square) else None

    def _outputs(
        self, X: Any, summary: Callable[[Array], Array] | None = None
    ) -> Array:
        """Return the network's outputs, before the output activation.

        With ``summary``, a function of the outputs of some rows, return its results for
        all rows instead; the memory for all outputs is then not needed.
        """
        outputs = self._quick_outputs(X)
        if outputs is not None:
            return outputs if summary is None else summary(outputs)
        check_is_fitted(self)
        if type(X) is not np.ndarray or X.dtype.kind != "f":
            check_numbers("X", X)
        X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        mlp = self._connected()
        if X.shape[1] != mlp.n_in:
            raise ValueError(
                f"X has {X.shape[1]} features, but {self._name()} is expecting "
                f"{mlp.n_in} features as input"
            )
        with self._threads(), np.errstate(over="ignore"):
            X = samples_for(mlp, X)
            if summary is None:
                return predict(mlp, X)
            step = max(1, _OUTPUTS // mlp.n_out)
            starts = range(0, X.shape[0], step)
            parts = [summary(predict(mlp, X[i : i + step])) for i in starts]
            return np.concatenate(parts)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.compute_dtype != "bfloat16"
        return tags


def as_loss_object(loss: Any) -> Loss | None:
    """Convert a loss or a function to a Loss; return None for a name."""
    return None if isinstance(loss, str) else as_loss(loss)
