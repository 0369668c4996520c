"""The classifier."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call,
    type_of_target,
    unique_labels,
)
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import _validate
from ..losses import (
    MAE,
    MSE,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Hinge,
    Huber,
    Loss,
    PseudoHuber,
    with_scale,
)
from ._base import BaseMLP, Task, as_loss_object
from ._class_weights import class_weights
from ._docs import documented
from ._epochs import activate, aligned
from ._samples import HeldOut, check_numbers, check_unmasked, held_out_of
from ._stopping import Measure

if TYPE_CHECKING:
    from typing import Self

    from .._validate import Array

# Losses of logits; with them, predict_proba is available.
_OF_LOGITS = (BinaryCrossEntropy, CrossEntropy, CustomLoss)


@documented(
    score="the accuracy, weighted",
    activation="""'softmax' or 'logistic', or
    'identity' for losses without probabilities""",
    inside="",
)
class MLPClassifier(ClassifierMixin, BaseMLP):
    """A multilayer perceptron for classification with scikit-learn's interface.

    Parameters
    ----------
    %(parameters)s
    loss : 'log_loss', Loss or callable, default='log_loss'
        Loss to minimise; scikit-learn has neither this parameter nor those below.
        'log_loss' is the cross-entropy (the binary one for two classes, and for several
        labels per sample). Other losses are ``fm.CrossEntropy(...)``, with an output
        for each class even if there are two; ``fm.BinaryCrossEntropy(...)``, which is
        one-vs-rest for several classes; a function of logits and targets (rows of 0 and
        1; see `fastmlp.CustomLoss`); and, without `predict_proba`, `MSE`, `MAE`,
        `Huber` and `PseudoHuber` (with targets 0 and 1) and `Hinge` (with targets -1
        and 1).
    class_weight : dict, list of dict, 'balanced' or None, default=None
        Weights of the classes by label, 1 for labels that are left out; 'balanced' uses
        n_samples / (n_classes · samples of the class) and is not available in
        `partial_fit`. For several labels per sample, give a list with one dict for each
        label. They count in held-out data too: `validation_loss_curve_` and the score
        of early stopping are weighted.
    %(more_parameters)s

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels.
    %(attributes)s

    Notes
    -----
    With the same parameters and ``random_state`` the loss curve and the weights follow
    those of ``sklearn.neural_network.MLPClassifier``, up to rounding. Differences:

    - The loss is computed from logits and is not clipped where a probability is rounded
      to 0 or 1. For such large losses the loss curves differ, and so may the line
      searches of 'lbfgs'.
    %(notes)s

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
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels; several labels per sample are rows of 0 and 1.
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
        self : MLPClassifier
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
    def partial_fit(
        self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None
    ) -> Self:
        """Train for one epoch, with the optimiser's state from the last call.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.
        classes : array-like of shape (n_classes,), default=None
            All labels that will occur in any call; required in the first call.

        Returns
        -------
        self : MLPClassifier
            The estimator.

        Raises
        ------
        ValueError
            If parameters or data are invalid, or the training diverges.
        """
        with self._unless_it_fails(incremental=True):
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
        if not hasattr(self, "classes_"):
            check_is_fitted(self)
        binarizer, classes = self._label_binarizer, self.classes_
        if binarizer.y_type_ == "multiclass":
            return classes.take(self._outputs(X, self._largest))
        z = activate(self._outputs(X), self.out_activation_)
        if self._two_outputs():
            return classes.take(z.argmax(axis=1), mode="clip")
        above = z > self._threshold()
        if binarizer.y_type_ == "binary" and len(classes) == 2:
            return classes.take(above[:, 0])
        labels = above if above.shape[1] > 1 else above[:, 0]
        return binarizer.inverse_transform(labels.astype(float))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy: the share of samples whose labels are all right.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        score : float
            The accuracy.

        Raises
        ------
        ValueError
            If ``sample_weight`` holds anything but real numbers, or ``y`` has masked
            entries or dates that were not among the labels.
        """
        check_unmasked("y", y)
        check_numbers("sample_weight", sample_weight)
        check_is_fitted(self)
        kinds = {np.asarray(y).dtype.kind, self.classes_.dtype.kind}
        if len(kinds) > 1 and not kinds.isdisjoint("mM"):  # NumPy would compare them
            raise ValueError(
                f"y must hold labels of type {self.classes_.dtype}, as in fit, got "
                f"{_validate.describe(y)}"
            )
        return float(super().score(X, y, sample_weight))

    def _largest(self, z: Array) -> Array:
        """Return the index of the largest prediction of each row of outputs."""
        index: Array = activate(z, self.out_activation_).argmax(axis=1)
        return index

    def decision_function(self, X: Any) -> Array:
        """Return the outputs that decide the labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        decision : ndarray of shape (n_samples,) or (n_samples, n_classes)
            For two classes, numbers that are positive for the second class: the logits
            or, for losses without probabilities, the outputs minus the threshold. For
            several classes, an output for each class, of which `predict` takes the
            largest; for several labels per sample, a number for each label.
        """
        z = self._outputs(X)
        if self._two_outputs():
            difference: Array = z[:, 1] - z[:, 0]
            return difference
        if self.out_activation_ == "identity" and not self._one_against_rest():
            z -= self._threshold()
        return z[:, 0] if self._label_binarizer.y_type_ == "binary" else z

    def _has_probabilities(self) -> bool:
        if self.loss == "log_loss" or isinstance(as_loss_object(self.loss), _OF_LOGITS):
            return True
        raise AttributeError(f"probabilities are not available with loss={self.loss!r}")

    @available_if(lambda est: est._has_probabilities())
    @_validate.reproducible
    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            The probabilities, in the order of ``classes_``. For several labels per
            sample there is one probability for each label, which is never exactly 0 or
            1.
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
            # scikit-learn's checks require that a label's probability is not exactly 0
            # or 1.
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
        """Return whether there are two classes with an output each."""
        return bool(self._label_binarizer.y_type_ == "binary" and self.n_outputs_ == 2)

    def _threshold(self) -> float:
        return 0.0 if isinstance(self.loss, Hinge) else 0.5

    def _task(self, y: Array) -> Task:
        kind = self._label_binarizer.y_type_
        one_of_several = kind == "multiclass"
        n = len(self.classes_) if one_of_several else y.shape[1]
        logits = "softmax" if one_of_several else "logistic"
        indicators = partial(_indicators, n=n)
        loss = as_loss_object(self.loss)
        if loss is None and not one_of_several:
            return Task(with_scale(BinaryCrossEntropy(), n), n, logits, indicators)
        loss = CrossEntropy() if loss is None else loss
        if isinstance(loss, CrossEntropy):
            if kind.startswith("multilabel"):
                raise ValueError(
                    "loss: CrossEntropy is for one label per sample, but y has several "
                    "labels per sample; use BinaryCrossEntropy"
                )
            return Task(loss, max(n, 2), "softmax", _labels)
        if isinstance(loss, BinaryCrossEntropy):
            return Task(loss, n, "logistic", indicators)
        if isinstance(loss, CustomLoss):
            return Task(loss, n, logits, indicators)
        if isinstance(loss, Hinge):
            return Task(loss, n, "identity", partial(_signs, n=n))
        if isinstance(loss, (MSE, MAE, Huber, PseudoHuber)):
            return Task(loss, n, "identity", indicators)
        raise ValueError(f"loss: {loss!r} is not a loss for classification")

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
        return X, self._numbered(y)

    def _numbered(self, y: Any) -> Array:
        """Return class numbers (rows, 1), or booleans (rows, labels)."""
        if self._label_binarizer.y_type_.startswith("multilabel"):
            # Targets of dtype bool do not promote float32 to float64.
            indicators: Array = self._label_binarizer.transform(y).astype(bool)
            return indicators
        if y.ndim != 1:
            raise ValueError(
                "y must have one label per sample, as in the first call, got "
                f"{_validate.describe(y)}"
            )
        return np.searchsorted(self.classes_, y).reshape(-1, 1)

    def _check_known(self, labels: Array) -> None:
        if len(np.setdiff1d(labels, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. `self.classes_` has "
                f"{self.classes_}. 'y' has {labels}."
            )

    def _checked_held_out(
        self, given: HeldOut, dtype: np.dtype[Any]
    ) -> tuple[Any, Array]:
        check_numbers(given.X_name, given.X)
        check_unmasked(given.y_name, given.y)
        X, y = self._valid(given.X, given.y, False, dtype)
        self._check_known(unique_labels(y))
        return X, self._numbered(y)

    def _valid(self, X: Any, y: Any, reset: bool, dtype: Any) -> tuple[Any, Any]:
        check_numbers("X", X)
        check_unmasked("y", y)
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

    def _weights_by_class(self, y: Array, incremental: bool) -> Array | None:
        if incremental and isinstance(self.class_weight, str):
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which sees "
                "only some of the samples: pass the weights of the classes as a dict"
            )
        return self._weights_of_held_out(y, y)

    def _weights_of_held_out(self, y: Array, training: Array) -> Array | None:
        if self.class_weight is None:
            return None
        labels: list[Any] = [False, True]
        if y.shape[1] == 1:
            labels = self.classes_.tolist()
        return class_weights(self.class_weight, labels, y, training)

    def _strata(self, y: Array) -> Array | None:
        if self._one_against_rest() or y.shape[1] > 1:
            return None
        # With these names, scikit-learn's errors are the same as for its own MLP.
        strata: Array = np.array(["False", "True"])[y[:, 0]]
        return strata

    def _measure(self, y: Array, weight: Array | None) -> Measure:
        def accuracy(z: Array) -> float:
            if len(self.classes_) == 1:
                return 1.0
            if self._one_against_rest() or self._two_outputs():
                right = self._largest(z) == y[:, 0]
            else:
                z = activate(z, self.out_activation_)
                right = ((z > self._threshold()) == y).all(axis=1)
            return float(np.average(right, weights=weight))

        return Measure("val_accuracy", accuracy)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


def _labels(y: Array, dtype: np.dtype[Any]) -> Array:
    """Return the class numbers."""
    return np.ascontiguousarray(y[:, 0], np.int64)


def _indicators(y: Array, dtype: np.dtype[Any], n: int) -> Array:
    """Return a row with 1 for a sample's class, or for each label, and 0 elsewhere."""
    if y.shape[1] == n:
        return aligned(y, dtype)
    indicators = np.zeros((len(y), n), dtype)
    indicators[np.arange(len(y)), y[:, 0]] = 1
    return indicators


def _signs(y: Array, dtype: np.dtype[Any], n: int) -> Array:
    """Return the indicators with -1 instead of 0."""
    return 2 * _indicators(y, dtype, n) - 1
