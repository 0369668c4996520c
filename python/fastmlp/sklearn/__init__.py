"""Estimators for scikit-learn: its multilayer perceptrons, faster and with more to set.

`MLPClassifier` and `MLPRegressor` take the parameters, in the same order and with the
same defaults, have the attributes and methods, and follow the results of those of
``sklearn.neural_network``: to try them it is enough to change the import.

>>> from fastmlp.sklearn import MLPClassifier
>>> from sklearn.datasets import load_iris
>>> X, y = load_iris(return_X_y=True)
>>> clf = MLPClassifier(random_state=0, max_iter=1000).fit(X, y)
>>> bool(clf.score(X, y) > 0.95)
True

Needs scikit-learn 1.7 or later: ``pip install 'fastmlp[sklearn]'``.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

try:
    import sklearn  # noqa: F401 - whether it is there
except ImportError as error:
    raise ImportError(
        "fastmlp.sklearn needs the scikit-learn package: pip install 'fastmlp[sklearn]'"
    ) from error

from sklearn.base import ClassifierMixin, RegressorMixin, _fit_context
from sklearn.metrics import r2_score
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    type_of_target,
    unique_labels,
)
from sklearn.utils.validation import validate_data

from ..losses import (
    MAE,
    MSE,
    ActionValue,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    GaussianNLL,
    Hinge,
    Huber,
    Loss,
    Poisson,
    PseudoHuber,
    Quantile,
    _scaled,
)
from . import _epochs
from ._base import BaseMLP, Task, as_floats, custom
from ._epochs import activate

if TYPE_CHECKING:
    from typing import Self

    from .._validate import Array

__all__ = ["MLPClassifier", "MLPRegressor"]

# Pickles of version 0.1.0 name this module.
sys.modules["fastmlp._sklearn_training"] = _epochs

# Losses of probabilities; their outputs are logits.
_OF_LOGITS = (BinaryCrossEntropy, CrossEntropy, CustomLoss)


class MLPClassifier(ClassifierMixin, BaseMLP):
    """A multilayer perceptron that classifies, as scikit-learn's, trained by fastmlp.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Widths of the hidden layers; of an empty sequence a linear model is made.
    activation : str or sequence of str, default='relu'
        Of the hidden layers: 'identity', 'logistic' (or 'sigmoid'), 'tanh', 'relu', and
        beyond scikit-learn any other of ``fastmlp.ACTIVATIONS``, or one for each layer.
    solver : str, Optimizer or Solver, default='adam'
        'lbfgs' (SciPy's L-BFGS-B), 'sgd' or 'adam'; beyond scikit-learn 'adamw',
        'rmsprop', 'adagrad', or an object such as ``fm.RMSprop(lr=1e-3)`` or
        ``fm.LBFGS()``, of which each fit uses a new copy.
    alpha : float, default=0.0001
        Strength of the L2 penalty ½ alpha ΣW² / n, W the weights and n the batch's
        rows or sum of weights. For 'adamw' the decoupled weight decay instead;
        solver objects that take no batches ignore it.
    batch_size : int or 'auto', default='auto'
        Samples of a step; 'auto' is min(200, n_samples). Not for solvers without
        batches.
    learning_rate : str, Schedule or callable, default='constant'
        For 'sgd' 'constant', 'invscaling' (learning_rate_init / (t + 1)^power_t with t
        the samples seen, from epoch to epoch) or 'adaptive' (a fifth of it whenever
        n_iter_no_change epochs have brought no more than tol); other solvers take these
        names for 'constant', as scikit-learn does. Beyond scikit-learn, for each solver
        that takes steps, one of `fastmlp.schedules` or a function of the step, an int,
        instead of learning_rate_init.
    learning_rate_init : float, default=0.001
        The learning rate at first. Solver objects have their own.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        The most epochs, or iterations of solvers without batches.
    shuffle : bool, default=True
        Whether to take the samples of each epoch in another order.
    random_state : int, RandomState instance or None, default=None
        Where the weights, the validation split, with dropout its seed, and the orders
        of samples are drawn from, in this sequence: as scikit-learn draws them.
    tol : float, default=1e-4
        What loss (or validation score) is to gain within n_iter_no_change epochs; the
        largest element of the gradient at which 'lbfgs' ends.
    verbose : bool, default=False
        Whether to print the loss of each epoch, of 'lbfgs' of each iteration.
    warm_start : bool, default=False
        Whether to go on from the last fit's weights.
    momentum : float, default=0.9
        Of 'sgd'.
    nesterovs_momentum : bool, default=True
        Whether that is Nesterov's.
    early_stopping : bool, default=False
        Whether to end by the score on held-out data instead of the training loss, and
        to go back to the best weights: on a part of the data, or on ``eval_set``.
    validation_fraction : float, default=0.1
        That part.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of the moments of 'adam' and 'adamw'.
    epsilon : float, default=1e-8
        The small number in denominators of 'adam', 'adamw' and 'rmsprop'.
    n_iter_no_change : int, default=10
        How many epochs without gain are suffered; more end the training.
    max_fun : int, default=15000
        The most evaluations of the loss by 'lbfgs'.
    loss : 'log_loss', Loss or callable, default='log_loss'
        What to minimise; this parameter and those below are beyond scikit-learn.
        'log_loss' is the cross-entropy (binary for two classes and for several labels
        of a sample). Others: ``fm.CrossEntropy(...)``, with an output for each of two
        classes too; ``fm.BinaryCrossEntropy(...)``, by which each of several classes is
        told from the rest; a function of logits and rows of 0 and 1, see
        `fastmlp.CustomLoss`; or `MSE`, `MAE`, `Huber`, `PseudoHuber` (of rows of 0 and
        1) and `Hinge` (of -1 and 1), by which there are no probabilities.
    class_weight : dict, list of dict, 'balanced' or None, default=None
        What the samples of a class weigh, by its label; 'balanced' weighs them by
        n_samples / (n_classes · samples of the class), and is not for `partial_fit`.
        With several labels of a sample a dict for each. Validation is unweighted.
    dropout : float or sequence of float, default=0.0
        Behind hidden layers, the probability that an element becomes 0; one for all or
        one for each.
    normalization : {'layer', 'batch'} or None, default=None
        What stands between a hidden layer's sum and its activation. A single row that
        an epoch's last batch would consist of is left out with 'batch'.
    callbacks : list or None, default=None
        Of `fastmlp.callbacks` or functions of (mlp, history): each fit uses a copy.
        `partial_fit` calls none.
    dtype : {'float32', 'float64'} or None, default=None
        Of the weights, and so of all computation; None takes float32 for X of float32
        and float64 for others, as scikit-learn does.
    n_threads : int or None, default=None
        The most threads to use; None leaves it to `fastmlp.runtime`. The limit is
        the process's while a method runs. Fits that run side by side in threads of
        Python, as of joblib's, share them.
    progress : bool or None, default=False
        Whether to show progress on standard error; None does so if that is a terminal.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    loss_ : float
        The last epoch's loss, penalty included.
    best_loss_ : float or None
        The least of them; None with early stopping. Not of solvers without batches.
    loss_curve_ : list of float
        The losses of all epochs (of 'lbfgs' too, after each iteration).
    validation_loss_curve_ : list of float
        The losses on held-out data, without penalty; empty if there are none.
    validation_scores_ : list of float or None
        With early stopping the scores: the accuracy.
    best_validation_score_ : float or None
        The best of them.
    t_ : int
        How many samples were seen, repeats counted.
    coefs_ : list of ndarray of shape (n_in, n_out)
        The weights of the layers: views of the network's. Changing them in place, or
        putting other arrays into the list, changes the model.
    intercepts_ : list of ndarray of shape (n_out,)
        The biases, likewise.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if all were strings.
    n_iter_ : int
        How many epochs the last fit has taken.
    n_layers_ : int
        Layers, the input counted.
    n_outputs_ : int
        Outputs of the network.
    out_activation_ : str
        What makes predictions of them: 'softmax' or 'logistic', or 'identity' for
        losses without probabilities.
    mlp_ : fastmlp.MLP
        The network, whose outputs are those before ``out_activation_``: for saving,
        exporting, derivatives.
    callbacks_ : list of Callback
        The copies that the last fit has used.

    Notes
    -----
    With the same parameters and ``random_state`` the loss curve and the weights follow
    those of ``sklearn.neural_network.MLPClassifier``, up to rounding. Differences:

    - The loss is taken from logits and not cut off where a probability is rounded to 0
      or 1: where it is that large, curves differ, and line searches of 'lbfgs' that
      come there may go on otherwise.
    - Results do not depend on the number of threads, and the bits are the same with
      each instruction set, but for what SciPy computes of 'lbfgs'.
    - A prediction is computed in the precision of the weights, whatever that of X.
    - Weights below zero are refused.
    - A batch whose samples all weigh nothing is passed over, where scikit-learn ends
      with a ZeroDivisionError.
    - ``warm_start`` with layers of other widths is an error; other changes of the
      architecture are taken over, the weights kept.
    - ``hasattr(…, "partial_fit")`` is False for all solvers without batches.
    - A loss that is not finite ends the training: with the ValueError that scikit-learn
      raises for weights that are not, or, if early stopping has weights to go back to,
      with these and a ConvergenceWarning.
    - 'lbfgs' is computed in float64 also for weights in float32, and makes a sparse X
      dense as a whole; other solvers do so batch by batch.

    Examples
    --------
    >>> from fastmlp.sklearn import MLPClassifier
    >>> from sklearn.datasets import make_classification
    >>> X, y = make_classification(random_state=0)
    >>> clf = MLPClassifier(dropout=0.2, random_state=0, max_iter=500).fit(X, y)
    >>> clf.predict_proba(X[:1]).shape
    (1, 2)
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **BaseMLP._parameter_constraints,
        "loss": [StrOptions({"log_loss"}), Loss, callable],
        "class_weight": [StrOptions({"balanced"}), dict, list, None],
    }

    def __init__(
        self,
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
        loss: Any = "log_loss",
        class_weight: Any = None,
        dropout: Any = 0.0,
        normalization: str | None = None,
        callbacks: Any = None,
        dtype: Any = None,
        n_threads: int | None = None,
        progress: bool | None = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.loss = loss
        self.class_weight = class_weight
        self.dropout = dropout
        self.normalization = normalization
        self.callbacks = callbacks
        self.dtype = dtype
        self.n_threads = n_threads
        self.progress = progress

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, eval_set: Any = None
    ) -> Self:
        """Train the network.

        Ctrl-C ends the training with a warning; the model is kept as it is then.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their labels; several labels of a sample as rows of 0 and 1.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples: none negative, not all zero.
        eval_set : tuple (X, y) or (X, y, sample_weight), default=None
            Held-out data: the loss on them is taken after each epoch
            (`validation_loss_curve_`), and early stopping goes by them.

        Returns
        -------
        self : MLPClassifier
            The estimator.

        Raises
        ------
        ValueError
            For bad parameters or data, and if the training diverges.
        """
        return self._fit(X, y, sample_weight, eval_set)

    @available_if(lambda est: est._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> Self:
        """Go once through these samples, the optimiser going on from the last call.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Their labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.
        classes : array-like of shape (n_classes,), default=None
            All labels that there will ever be; needed in the first call.

        Returns
        -------
        self : MLPClassifier
            The estimator.

        Raises
        ------
        ValueError
            For bad parameters or data, and if the training diverges.
        """
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if several else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(self, X: Any) -> Array:
        """Return the most probable labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_labels)
            The labels.
        """
        z = activate(self._outputs(X), self.out_activation_)
        binarizer, classes = self._label_binarizer, self.classes_
        if binarizer.y_type_ == "multiclass":
            return classes.take(z.argmax(axis=1))
        if self._two_outputs():
            return classes.take(z.argmax(axis=1), mode="clip")
        above = z > self._threshold()
        if binarizer.y_type_ == "binary" and len(classes) == 2:
            return classes.take(above[:, 0])
        labels = above if above.shape[1] > 1 else above[:, 0]
        return binarizer.inverse_transform(labels.astype(float))

    def _has_probabilities(self) -> bool:
        if self.loss == "log_loss" or isinstance(custom(self.loss), _OF_LOGITS):
            return True
        raise AttributeError(f"there are no probabilities with loss={self.loss!r}")

    @available_if(lambda est: est._has_probabilities())
    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            The probabilities, in the sequence of ``classes_``; for several labels of a
            sample, each is that of the label, and rounded to neither 0 nor 1.
        """
        z = activate(self._outputs(X), self.out_activation_)
        if z.shape[1] == 1:
            p = np.empty((len(z), 2), z.dtype)
            p[:, 1] = z[:, 0]
            np.subtract(1, z[:, 0], out=p[:, 0])
            return p
        if self.out_activation_ == "logistic" and self._one_against_rest():
            sums = z.sum(axis=1, keepdims=True)
            even: Array = np.full_like(z, 1 / z.shape[1])
            np.divide(z, sums, out=even, where=sums > 0)
            return even
        if self.out_activation_ == "logistic":
            # A label's probability is rounded to neither 0 nor 1: nothing is certain,
            # and the checks of scikit-learn want it so.
            limits = np.finfo(z.dtype)
            np.clip(z, limits.smallest_normal, 1 - limits.epsneg, out=z)
        return z

    @available_if(lambda est: est._has_probabilities())
    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithms of `predict_proba`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        log_p : ndarray of shape (n_samples, n_classes)
            The logarithms.
        """
        p: Array = self.predict_proba(X)
        return np.log(p, out=p)

    def _one_against_rest(self) -> bool:
        return bool(self._label_binarizer.y_type_ == "multiclass")

    def _two_outputs(self) -> bool:
        """Tell whether two classes have an output each."""
        return bool(self._label_binarizer.y_type_ == "binary" and self.n_outputs_ == 2)

    def _threshold(self) -> float:
        return 0.0 if isinstance(self.loss, Hinge) else 0.5

    def _task(self, y: Array) -> Task:
        n, kind = y.shape[1], self._label_binarizer.y_type_
        one_of_several = kind == "multiclass"
        logits = "softmax" if one_of_several else "logistic"
        loss = custom(self.loss)
        if loss is None and not one_of_several:
            return Task(_scaled(BinaryCrossEntropy(), n), n, logits, as_floats)
        loss = CrossEntropy() if loss is None else loss
        if isinstance(loss, CrossEntropy):
            if kind.startswith("multilabel"):
                raise ValueError(
                    "loss: CrossEntropy is for one label of each sample, y has "
                    "several; BinaryCrossEntropy is for these"
                )
            return Task(loss, max(n, 2), "softmax", _labels)
        if isinstance(loss, BinaryCrossEntropy):
            return Task(loss, n, "logistic", as_floats)
        if isinstance(loss, CustomLoss):
            return Task(loss, n, logits, as_floats)
        if isinstance(loss, Hinge):
            return Task(loss, n, "identity", _signs)
        if isinstance(loss, (MSE, MAE, Huber, PseudoHuber)):
            return Task(loss, n, "identity", as_floats)
        raise ValueError(f"loss: {loss!r} is no loss of a classifier")

    def _checked(
        self, X: Any, y: Any, incremental: bool, reset: bool, dtype: Any
    ) -> tuple[Any, Array]:
        X, y = self._valid(X, y, reset, dtype)
        known = hasattr(self, "classes_") and (self.warm_start or incremental)
        if not known:
            self._label_binarizer = LabelBinarizer().fit(y)
            self.classes_ = self._label_binarizer.classes_
        else:
            labels = unique_labels(y)
            if self.warm_start and set(labels) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in "
                    f"the previous call to fit. Previously got {self.classes_}, `y` "
                    f"has {labels}"
                )
            self._check_known(labels)
        # bool, so that nothing makes float64 of float32.
        return X, self._label_binarizer.transform(y).astype(bool)

    def _check_known(self, labels: Array) -> None:
        if len(np.setdiff1d(labels, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. `self.classes_` has "
                f"{self.classes_}. 'y' has {labels}."
            )

    def _checked_held_out(self, X: Any, y: Any, dtype: Any) -> tuple[Any, Array]:
        X, y = self._valid(X, y, False, dtype)
        self._check_known(unique_labels(y))
        return X, self._label_binarizer.transform(y).astype(bool)

    def _valid(self, X: Any, y: Any, reset: bool, dtype: Any) -> tuple[Any, Any]:
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse=["csr", "csc"],
            multi_output=True,
            dtype=dtype,
            reset=reset,
        )
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        return X, y

    def _weights_by_class(self, y: Any, incremental: bool) -> Array | None:
        if self.class_weight is None:
            return None
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which knows "
                "only a part of the samples: give the weights of the classes as a dict"
            )
        weight: Array = compute_sample_weight(self.class_weight, y)
        if not (np.isfinite(weight) & (weight >= 0)).all():
            raise ValueError(
                f"class_weight must be finite and >= 0, got {self.class_weight}"
            )
        return weight

    def _strata(self, y: Array) -> Array | None:
        return y if y.shape[1] == 1 else None

    def _score_outputs(self, z: Array, y: Array, weight: Array | None) -> float:
        z = activate(z, self.out_activation_)
        if len(self.classes_) == 1:
            return 1.0
        if self._one_against_rest():
            right = z.argmax(axis=1) == y.argmax(axis=1)
        elif self._two_outputs():
            right = z.argmax(axis=1) == y[:, 0]
        else:
            right = ((z > self._threshold()) == y).all(axis=1)
        return float(np.average(right, weights=weight))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _labels(y: Array, dtype: np.dtype[Any]) -> Array:
    """Return the numbers of the classes."""
    numbers = y[:, 0] if y.shape[1] == 1 else y.argmax(axis=1)
    return np.ascontiguousarray(numbers, np.int64)


def _signs(y: Array, dtype: np.dtype[Any]) -> Array:
    """Return 1 for True and -1 for False."""
    return np.where(y, 1, -1).astype(dtype)


# A row's loss is the sum over its outputs, as scikit-learn's gradient has it.
_BY_NAME: dict[str, tuple[type[Loss], float]] = {
    "squared_error": (MSE, 0.5),
    "poisson": (Poisson, 1.0),
    "absolute_error": (MAE, 1.0),
    "huber": (Huber, 1.0),
    "pseudo_huber": (PseudoHuber, 1.0),
    "quantile": (Quantile, 1.0),
}


class MLPRegressor(RegressorMixin, BaseMLP):
    """A multilayer perceptron for regression, as scikit-learn's, trained by fastmlp.

    Parameters
    ----------
    loss : str, Loss or callable, default='squared_error'
        What to minimise: 'squared_error' (half of it) or 'poisson' (half the deviance,
        with the exponential as output activation and y ≥ 0). Beyond scikit-learn
        'absolute_error', 'huber' and 'pseudo_huber' (δ = 1), 'quantile' (the median),
        all summed over the outputs of a sample; or such as ``fm.Huber(2.0)``,
        ``fm.Quantile([0.1, 0.9])`` (a prediction for each quantile of one target),
        ``fm.GaussianNLL()`` (see `predict`), taken as they are, and functions, see
        `fastmlp.CustomLoss`.
    hidden_layer_sizes : int or sequence of int, default=(100,)
        Widths of the hidden layers; of an empty sequence a linear model is made.
    activation : str or sequence of str, default='relu'
        Of the hidden layers: 'identity', 'logistic' (or 'sigmoid'), 'tanh', 'relu', and
        beyond scikit-learn any other of ``fastmlp.ACTIVATIONS``, or one for each layer.
    solver : str, Optimizer or Solver, default='adam'
        'lbfgs' (SciPy's L-BFGS-B), 'sgd' or 'adam'; beyond scikit-learn 'adamw',
        'rmsprop', 'adagrad', or an object such as ``fm.RMSprop(lr=1e-3)`` or
        ``fm.LBFGS()``, of which each fit uses a new copy.
    alpha : float, default=0.0001
        Strength of the L2 penalty ½ alpha ΣW² / n, W the weights and n the batch's
        rows or sum of weights. For 'adamw' the decoupled weight decay instead;
        solver objects that take no batches ignore it.
    batch_size : int or 'auto', default='auto'
        Samples of a step; 'auto' is min(200, n_samples). Not for solvers without
        batches.
    learning_rate : str, Schedule or callable, default='constant'
        For 'sgd' 'constant', 'invscaling' (learning_rate_init / (t + 1)^power_t with t
        the samples seen, from epoch to epoch) or 'adaptive' (a fifth of it whenever
        n_iter_no_change epochs have brought no more than tol); other solvers take these
        names for 'constant', as scikit-learn does. Beyond scikit-learn, for each solver
        that takes steps, one of `fastmlp.schedules` or a function of the step, an int,
        instead of learning_rate_init.
    learning_rate_init : float, default=0.001
        The learning rate at first. Solver objects have their own.
    power_t : float, default=0.5
        The exponent of 'invscaling'.
    max_iter : int, default=200
        The most epochs, or iterations of solvers without batches.
    shuffle : bool, default=True
        Whether to take the samples of each epoch in another order.
    random_state : int, RandomState instance or None, default=None
        Where the weights, the validation split, with dropout its seed, and the orders
        of samples are drawn from, in this sequence: as scikit-learn draws them.
    tol : float, default=1e-4
        What loss (or validation score) is to gain within n_iter_no_change epochs; the
        largest element of the gradient at which 'lbfgs' ends.
    verbose : bool, default=False
        Whether to print the loss of each epoch, of 'lbfgs' of each iteration.
    warm_start : bool, default=False
        Whether to go on from the last fit's weights.
    momentum : float, default=0.9
        Of 'sgd'.
    nesterovs_momentum : bool, default=True
        Whether that is Nesterov's.
    early_stopping : bool, default=False
        Whether to end by the score on held-out data instead of the training loss, and
        to go back to the best weights: on a part of the data, or on ``eval_set``.
    validation_fraction : float, default=0.1
        That part.
    beta_1, beta_2 : float, default=0.9, 0.999
        Decay rates of the moments of 'adam' and 'adamw'.
    epsilon : float, default=1e-8
        The small number in denominators of 'adam', 'adamw' and 'rmsprop'.
    n_iter_no_change : int, default=10
        How many epochs without gain are suffered; more end the training.
    max_fun : int, default=15000
        The most evaluations of the loss by 'lbfgs'.
    dropout : float or sequence of float, default=0.0
        This parameter and those below are beyond scikit-learn.
        Behind hidden layers, the probability that an element becomes 0; one for all or
        one for each.
    normalization : {'layer', 'batch'} or None, default=None
        What stands between a hidden layer's sum and its activation. A single row that
        an epoch's last batch would consist of is left out with 'batch'.
    callbacks : list or None, default=None
        Of `fastmlp.callbacks` or functions of (mlp, history): each fit uses a copy.
        `partial_fit` calls none.
    dtype : {'float32', 'float64'} or None, default=None
        Of the weights, and so of all computation; None takes float32 for X of float32
        and float64 for others, as scikit-learn does.
    n_threads : int or None, default=None
        The most threads to use; None leaves it to `fastmlp.runtime`. The limit is
        the process's while a method runs. Fits that run side by side in threads of
        Python, as of joblib's, share them.
    progress : bool or None, default=False
        Whether to show progress on standard error; None does so if that is a terminal.

    Attributes
    ----------
    loss_ : float
        The last epoch's loss, penalty included.
    best_loss_ : float or None
        The least of them; None with early stopping. Not of solvers without batches.
    loss_curve_ : list of float
        The losses of all epochs (of 'lbfgs' too, after each iteration).
    validation_loss_curve_ : list of float
        The losses on held-out data, without penalty; empty if there are none.
    validation_scores_ : list of float or None
        With early stopping the scores: R².
    best_validation_score_ : float or None
        The best of them.
    t_ : int
        How many samples were seen, repeats counted.
    coefs_ : list of ndarray of shape (n_in, n_out)
        The weights of the layers: views of the network's. Changing them in place, or
        putting other arrays into the list, changes the model.
    intercepts_ : list of ndarray of shape (n_out,)
        The biases, likewise.
    n_features_in_ : int
        The number of features.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Their names, if all were strings.
    n_iter_ : int
        How many epochs the last fit has taken.
    n_layers_ : int
        Layers, the input counted.
    n_outputs_ : int
        Outputs of the network.
    out_activation_ : str
        What makes predictions of them: 'identity' or 'exp'.
    mlp_ : fastmlp.MLP
        The network, whose outputs are those before ``out_activation_``: for saving,
        exporting, derivatives.
    callbacks_ : list of Callback
        The copies that the last fit has used.

    Notes
    -----
    With the same parameters and ``random_state`` the loss curve and the weights follow
    those of ``sklearn.neural_network.MLPRegressor``, up to rounding. Differences:

    - With several targets the loss of a sample is the sum over them, whose gradient is
      used for training. scikit-learn has the same gradient, but reports a squared error
      that is the mean over the targets (its issue 8349), by which 'lbfgs' and ``tol``
      go: results of 'sgd' and 'adam' agree but for when they end.
    - Results do not depend on the number of threads, and the bits are the same with
      each instruction set, but for what SciPy computes of 'lbfgs'.
    - A prediction is computed in the precision of the weights, whatever that of X.
    - Weights below zero are refused.
    - A batch whose samples all weigh nothing is passed over, where scikit-learn ends
      with a ZeroDivisionError.
    - ``warm_start`` with layers of other widths is an error; other changes of the
      architecture are taken over, the weights kept.
    - ``hasattr(…, "partial_fit")`` is False for all solvers without batches.
    - A loss that is not finite ends the training: with the ValueError that scikit-learn
      raises for weights that are not, or, if early stopping has weights to go back to,
      with these and a ConvergenceWarning.
    - 'lbfgs' is computed in float64 also for weights in float32, and makes a sparse X
      dense as a whole; other solvers do so batch by batch.

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
        dropout: Any = 0.0,
        normalization: str | None = None,
        callbacks: Any = None,
        dtype: Any = None,
        n_threads: int | None = None,
        progress: bool | None = False,
    ) -> None:
        self.loss = loss
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.solver = solver
        self.alpha = alpha
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.power_t = power_t
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.random_state = random_state
        self.tol = tol
        self.verbose = verbose
        self.warm_start = warm_start
        self.momentum = momentum
        self.nesterovs_momentum = nesterovs_momentum
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon
        self.n_iter_no_change = n_iter_no_change
        self.max_fun = max_fun
        self.dropout = dropout
        self.normalization = normalization
        self.callbacks = callbacks
        self.dtype = dtype
        self.n_threads = n_threads
        self.progress = progress

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, eval_set: Any = None
    ) -> Self:
        """Train the network.

        Ctrl-C ends the training with a warning; the model is kept as it is then.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples: none negative, not all zero.
        eval_set : tuple (X, y) or (X, y, sample_weight), default=None
            Held-out data: the loss on them is taken after each epoch
            (`validation_loss_curve_`), and early stopping goes by them.

        Returns
        -------
        self : MLPRegressor
            The estimator.

        Raises
        ------
        ValueError
            For bad parameters or data, and if the training diverges.
        """
        return self._fit(X, y, sample_weight, eval_set)

    @available_if(lambda est: est._check_solver())
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go once through these samples, the optimiser going on from the last call.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_targets)
            Their targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        self : MLPRegressor
            The estimator.

        Raises
        ------
        ValueError
            For bad parameters or data, and if the training diverges.
        """
        return self._fit(X, y, sample_weight, incremental=True)

    def predict(
        self, X: Any, *, return_std: bool = False
    ) -> Array | tuple[Array, Array]:
        """Return predictions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        return_std : bool, default=False
            Whether to return standard deviations as well; for ``fm.GaussianNLL()``.

        Returns
        -------
        y : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            The predictions.
        std : ndarray, shape of ``y``
            Their standard deviations, with ``return_std``.

        Raises
        ------
        ValueError
            For standard deviations with another loss.
        """
        gaussian = isinstance(self.loss, GaussianNLL)
        if return_std and not gaussian:
            raise ValueError("return_std needs loss=fm.GaussianNLL()")
        z = activate(self._outputs(X), self.out_activation_)
        if not gaussian:
            return z[:, 0] if z.shape[1] == 1 else z
        n = z.shape[1] // 2
        mean = z[:, 0] if n == 1 else z[:, :n]
        if not return_std:
            return mean
        std = np.exp(0.5 * (z[:, 1] if n == 1 else z[:, n:]))
        return mean, std

    def _task(self, y: Array) -> Task:
        n = y.shape[1]
        loss = custom(self.loss)
        if loss is None:
            cls, factor = _BY_NAME[self.loss]
            loss = _scaled(cls(), factor * n)
        if isinstance(loss, Poisson):
            if (y < 0).any():
                raise ValueError("the Poisson loss needs y >= 0, some y are negative")
            deviance = _rest_of_deviance if self.loss == "poisson" else None
            return Task(loss, n, "exp", as_floats, deviance)
        if isinstance(loss, GaussianNLL):
            return Task(loss, 2 * n, "identity", as_floats)
        if isinstance(loss, Quantile) and isinstance(loss.q, tuple) and n == 1:
            return Task(loss, len(loss.q), "identity", as_floats)
        if isinstance(loss, (CrossEntropy, BinaryCrossEntropy, Hinge, ActionValue)):
            raise ValueError(f"loss: {loss!r} is no loss of a regression")
        return Task(loss, n, "identity", as_floats)

    def _checked(
        self, X: Any, y: Any, incremental: bool, reset: bool, dtype: Any
    ) -> tuple[Any, Array]:
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

    def _checked_held_out(self, X: Any, y: Any, dtype: Any) -> tuple[Any, Array]:
        return self._checked(X, y, False, False, dtype)

    def _score_outputs(self, z: Array, y: Array, weight: Array | None) -> float:
        z = activate(z, self.out_activation_)
        n = y.shape[1]
        if isinstance(self.loss, GaussianNLL):
            z = z[:, :n]
        elif z.shape[1] != n:  # several quantiles of one target
            z = z[:, [z.shape[1] // 2]]
        return float(r2_score(y, z, sample_weight=weight))


def _rest_of_deviance(y: Array) -> Array:
    """Return y log y - y, summed over a row's outputs."""
    y = y.astype(np.float64)
    rest: Array = y * np.log(np.where(y > 0, y, 1)) - y
    return rest.sum(axis=1)
