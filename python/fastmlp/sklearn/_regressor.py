"""The regressor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import RegressorMixin, _fit_context
from sklearn.metrics import mean_pinball_loss, r2_score
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from .. import _core, _validate
from ..layers import Dense
from ..losses import (
    MAE,
    MSE,
    CoxPH,
    Expectile,
    GaussianNLL,
    Hinge,
    Huber,
    Loss,
    Poisson,
    PseudoHuber,
    Quantile,
    with_scale,
)
from ..metrics import predicted
from ._base import BaseMLP, Task, as_loss_object
from ._docs import documented
from ._epochs import activate, aligned, own_name
from ._samples import HeldOut, check_numbers, held_out_of
from ._stopping import Measure

if TYPE_CHECKING:
    from typing import NoReturn, Self

    from .._validate import Array

# Class and factor of each loss by name. The loss of a row is summed over its outputs,
# as in scikit-learn's gradient.
_BY_NAME: dict[str, tuple[type[Loss], float]] = {
    "squared_error": (MSE, 0.5),
    "poisson": (Poisson, 1.0),
    "absolute_error": (MAE, 1.0),
    "huber": (Huber, 1.0),
    "pseudo_huber": (PseudoHuber, 1.0),
    "quantile": (Quantile, 1.0),
}

# Losses that scikit-learn has, too.
_SCIKIT_LEARN = ("squared_error", "poisson")


class Prediction(NamedTuple):
    """Means and standard deviations of predictions.

    Attributes
    ----------
    mean, std : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        The means and the standard deviations.
    """

    mean: Array
    std: Array

    def __getattr__(self, name: str) -> NoReturn:
        hint = ""
        if name == "ndim":  # TransformedTargetRegressor asks for it
            hint = (
                "; if this is within a TransformedTargetRegressor, which cannot "
                "transform standard deviations, call predict(X, return_std=True) of "
                "its attribute regressor_"
            )
        raise AttributeError(
            "predict(return_std=True) returns a pair (mean, std), which has no "
            f"attribute {name!r}{hint}"
        )


@documented(
    score="R², or minus the loss",
    activation="""'identity', 'exp' or
    ``output_activation``. It may be changed after the fit if the last is None""",
    inside=",\n    unless ``output_activation`` made it a part of the network",
)
class MLPRegressor(RegressorMixin, BaseMLP):
    """A multilayer perceptron for regression with scikit-learn's interface.

    Parameters
    ----------
    loss : str, Loss or callable, default='squared_error'
        Loss to minimise: 'squared_error' (halved) or 'poisson' (half the deviance; the
        output activation is the exponential, and y must be ≥ 0). Beyond scikit-learn:
        'absolute_error', 'huber' and 'pseudo_huber' (δ = 1) or 'quantile' (the median),
        all summed over the outputs of a sample; objects such as ``fm.Huber(2.0)``,
        ``fm.Quantile([0.1, 0.9])`` (a prediction for each quantile of one target) or
        ``fm.GaussianNLL()``, which learns a mean and a standard deviation for each
        target (see `predict`), used unchanged; and functions (see
        `fastmlp.CustomLoss`).
    %(parameters)s
    output_activation : str or None, default=None
        Activation of the outputs, one of ``fastmlp.ACTIVATIONS``, for targets within
        its range (such as 'softplus' or 'sigmoid'). None stands for the exponential for
        'poisson' and ``fm.Poisson()``, and for 'identity' for all others. scikit-learn
        has neither this parameter nor those below.
    %(more_parameters)s

    Attributes
    ----------
    %(attributes)s

    Notes
    -----
    With the same parameters and ``random_state`` the loss curve and the weights follow
    those of ``sklearn.neural_network.MLPRegressor``, up to rounding. Differences:

    - With several targets, the loss of a sample is the sum over the targets, and
      training uses the gradient of this sum. scikit-learn uses the same gradient,
      but reports the mean squared error over the targets (scikit-learn issue 8349)
      and uses this mean in 'lbfgs' and for ``tol``. So 'sgd' and 'adam' follow
      scikit-learn, but may stop at another epoch.
    %(notes)s

    Examples
    --------
    >>> from fastmlp.sklearn import MLPRegressor
    >>> from sklearn.datasets import make_regression
    >>> X, y = make_regression(random_state=0)
    >>> reg = MLPRegressor("huber", solver="lbfgs", random_state=0).fit(X, y)
    >>> reg.predict(X[:2]).shape
    (2,)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions(set(_BY_NAME)), Loss, callable],
        "output_activation": [StrOptions({"logistic", *_core.ACTIVATIONS}), None],
    }

    def __init__(
        self,
        loss: Any = "squared_error",
        hidden_layer_sizes: Any = (100,),
        activation: Any = "relu",
        *,
        solver: Any = "adam",
        alpha: float = 0.0001,
        batch_size: Any = "auto",
        learning_rate: Any = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: Any = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: Any = 10,
        max_fun: int = 15000,
        output_activation: str | None = None,
        dropout: Any = 0.0,
        normalization: str | None = None,
        callbacks: Any = None,
        dtype: Any = None,
        compute_dtype: str | None = None,
        n_threads: int | None = None,
        progress: bool | None = False,
    ) -> None:
        self._store(locals())

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        eval_set: Any = None,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train the network.

        Ctrl-C ends the training with a warning, and the model keeps its current state.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples: none negative, not all zero.
        eval_set : tuple (X, y) or (X, y, sample_weight), default=None
            Held-out data, on which the loss is computed after each epoch
            (`validation_loss_curve_`) and which early stopping uses. A list of one such
            tuple is accepted as well.
        X_val, y_val, sample_weight_val : default=None
            The same data as separate arguments, of which a ``Pipeline`` can transform
            the samples (see the notes of the class); ``sample_weight_val`` may be left
            out.

        Returns
        -------
        self : MLPRegressor
            The estimator.

        Raises
        ------
        ValueError
            If parameters or data are invalid, or the training diverges. The estimator
            is then as before.
        """
        held_out = held_out_of(eval_set, X_val, y_val, sample_weight_val)
        return self._fit(X, y, sample_weight, held_out)

    @available_if(lambda est: est._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train for one epoch, with the optimiser's state from the last call.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        self : MLPRegressor
            The estimator.

        Raises
        ------
        ValueError
            If parameters or data are invalid, or the training diverges.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    @_validate.reproducible
    def predict(
        self, X: Any, *, return_std: bool = False
    ) -> Array | tuple[Array, Array]:
        """Return predictions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        return_std : bool, default=False
            Whether to return standard deviations as well; only with
            ``loss=fm.GaussianNLL()``.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predictions: means, if ``return_std`` is True.
        std : ndarray, shape of ``y``
            Standard deviations of the targets, if ``return_std`` is True; the result is
            then a named tuple (mean, std). A ``TransformedTargetRegressor`` cannot pass
            it on: call this method of its attribute ``regressor_``.

        Raises
        ------
        ValueError
            If ``return_std`` is True and the loss is not ``fm.GaussianNLL()``.
        """
        gaussian = isinstance(self.loss, GaussianNLL)
        if return_std and not gaussian:
            raise ValueError(
                f"return_std=True needs loss=fm.GaussianNLL(), got loss={self.loss!r}"
            )
        z = activate(self._outputs(X), self._left_to_apply())
        loss = as_loss_object(self.loss)
        mean = z if loss is None else predicted(loss, z)
        mean = mean[:, 0] if mean.shape[1] == 1 else mean
        if not return_std:
            return mean
        n = z.shape[1] // 2
        std = np.exp(0.5 * (z[:, 1] if n == 1 else z[:, n:]))
        return Prediction(mean, std)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R² of the predictions; for several quantiles, minus the pinball loss.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        score : float
            R². With ``loss=fm.Quantile([...])`` and one target, minus the mean over the
            levels of ``sklearn.metrics.mean_pinball_loss``.

        Raises
        ------
        ValueError
            If ``y`` or ``sample_weight`` hold anything but real numbers.
        """
        check_numbers("y", y)
        check_numbers("sample_weight", sample_weight)
        if not self._several_quantiles():
            return float(super().score(X, y, sample_weight))
        if np.ndim(y) == 2 and np.shape(y)[1] > 1:  # a target for each level
            return float(super().score(X, y, sample_weight))
        y = column_or_1d(y)
        predictions = np.asarray(self.predict(X)).reshape(len(y), -1)
        losses = [
            mean_pinball_loss(y, level, sample_weight=sample_weight, alpha=q)
            for q, level in zip(self.loss.q, predictions.T, strict=True)
        ]
        return -float(np.mean(losses))

    def _several_quantiles(self) -> bool:
        return isinstance(self.loss, Quantile) and isinstance(self.loss.q, tuple)

    def _last_activation(self) -> str:
        # The core's losses of logarithms apply the exponential themselves.
        loss = as_loss_object(self.loss)
        logarithm = self.loss == "poisson" or getattr(loss, "_contained", "") == "exp"
        own: str | None = None if logarithm else self.output_activation
        return own_name(own or "identity")

    def _left_to_apply(self) -> str:
        """Return the activation to apply to the network's outputs."""
        last = self.mlp_.layers[-1]
        assert isinstance(last, Dense)
        own = last.activation
        if own == "identity":
            return self.out_activation_
        if own == own_name(self.out_activation_):
            return "identity"  # the network has applied it
        raise ValueError(
            f"out_activation_ must remain {own!r}, the activation of the trained "
            f"network, got {self.out_activation_!r}"
        )

    def _task(self, y: Array) -> Task:
        task = self._task_of_loss(y)
        own = self.output_activation
        if own in (None, task.activation):
            return task
        core = task.loss.core
        if task.activation != "identity" or (core and core.predictions_per_target > 1):
            raise ValueError(
                f"output_activation must be None or {task.activation!r} for "
                f"loss={self.loss!r}, got {own!r}"
            )
        return task._replace(activation=own)

    def _task_of_loss(self, y: Array) -> Task:
        n = y.shape[1]
        loss = as_loss_object(self.loss)
        if loss is None:
            cls, factor = _BY_NAME[self.loss]
            loss = with_scale(cls(), factor * n)
        if isinstance(loss, Poisson):
            if (y < 0).any():
                raise ValueError(
                    f"y must not be negative for the Poisson loss, got {y.min()}"
                )
            deviance = _rest_of_deviance if self.loss == "poisson" else None
            return Task(loss, n, "exp", aligned, deviance)
        if loss._contained == "exp":
            return Task(loss, n, "exp", aligned)
        several = isinstance(loss, (Quantile, Expectile)) and isinstance(loss.q, tuple)
        if several and n == 1:
            return Task(loss, len(loss.core.per_output), "identity", aligned)
        core = loss.core
        other = core is not None and (core.of_rows or core.action)
        if other or loss._contained is not None or isinstance(loss, (CoxPH, Hinge)):
            raise ValueError(f"loss: {loss!r} is not a loss for regression")
        n *= 1 if core is None else core.predictions_per_target
        return Task(loss, n, "identity", aligned)

    def _checked(
        self, X: Any, y: Any, incremental: bool, reset: bool, dtype: Any
    ) -> tuple[Any, Array]:
        check_numbers("X", X)
        check_numbers("y", y)
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            y_numeric=True,
            dtype=dtype,
            reset=reset,
        )
        if not isinstance(y, np.ndarray):
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _checked_held_out(
        self, given: HeldOut, dtype: np.dtype[Any]
    ) -> tuple[Any, Array]:
        check_numbers(given.X_name, given.X)
        check_numbers(given.y_name, given.y)
        return self._checked(given.X, given.y, False, False, dtype)

    def _measure(self, y: Array, weight: Array | None) -> Measure | None:
        if len(y) < 2 or (weight is not None and np.count_nonzero(weight) < 2):
            return None  # R² is undefined
        if self._several_quantiles() and y.shape[1] == 1:
            return None  # there is no prediction of the mean

        def r2(z: Array) -> float:
            z = activate(z, self._left_to_apply())
            # Means may be followed by variances.
            return float(r2_score(y, z[:, : y.shape[1]], sample_weight=weight))

        return Measure("val_r2", r2)

    def _stops_by_loss(self) -> bool:
        # R^2 measures a mean. It would stop the training for quantiles or variances
        # long before these are learnt.
        return not (isinstance(self.loss, str) and self.loss in _SCIKIT_LEARN)


def _rest_of_deviance(y: Array) -> Array:
    """Return y log y - y, summed over a row's outputs."""
    y = y.astype(np.float64)
    rest: Array = y * np.log(np.where(y > 0, y, 1)) - y
    return rest.sum(axis=1)
