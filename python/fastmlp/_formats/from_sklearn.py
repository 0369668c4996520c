"""Networks from fitted scikit-learn estimators.

The estimators are recognised by the names of their classes and attributes; scikit-learn
itself is not imported.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._network.model import empty, model_class
from .._validate.hints import hinted
from ..layers import Dense

if TYPE_CHECKING:
    from .._network.model import MLP
    from .._validate import Array

# Activations that scikit-learn names differently: its name, and fastmlp's.
_NAMES = {"logistic": "sigmoid"}

# Estimators without hidden layers. They and their subclasses are accepted by name,
# because other estimators with coef_ may not predict x @ coef_.T + intercept_.
_LOGISTIC = ("LogisticRegression", "LogisticRegressionCV")
_LINEAR = (
    "ElasticNet",
    "ElasticNetCV",
    "Lasso",
    "LassoCV",
    "LinearRegression",
    "Ridge",
    "RidgeCV",
)
_NETWORKS = ("MLPClassifier", "MLPRegressor")

# Advice for estimators that have another one inside, by an attribute of theirs.
_AROUND_NETWORKS = {
    "steps": "; for a pipeline, pass its last step, pipeline[-1], and transform the "
    "data with the steps before it, pipeline[:-1]",
    "regressor_": "; pass its attribute regressor_, and transform the predictions with "
    "transformer_.inverse_transform",
    "best_estimator_": "; pass its attribute best_estimator_",
    "regressor": "; fit it, pass its attribute regressor_, and transform the "
    "predictions with transformer_.inverse_transform",
    "param_grid": "; fit it, and pass its attribute best_estimator_",
    "param_distributions": "; fit it, and pass its attribute best_estimator_",
}

_WANTED = (
    "a fitted MLPClassifier, MLPRegressor, LogisticRegression or linear regression"
)


@hinted
def from_sklearn(estimator: Any, *, logits: bool = False) -> MLP:
    """Return the network of a fitted scikit-learn estimator.

    Parameters
    ----------
    estimator : object
        ``MLPClassifier`` or ``MLPRegressor``, or any object with their attributes
        ``coefs_``, ``intercepts_``, ``activation`` and ``out_activation_``; an
        estimator of `fastmlp.sklearn`, with all its layers; or, for a network without
        hidden layers, ``LogisticRegression``, ``LinearRegression``, ``Ridge``,
        ``Lasso``, ``ElasticNet`` or one of their ``CV`` variants.
    logits : bool
        Whether to leave out the output activation, so that a classifier can be trained
        further: with `CrossEntropy` for several classes, with `BinaryCrossEntropy` for
        two classes or several labels. Among regressors, only those with
        ``loss="poisson"`` have an output activation, exp; without exp, they can be
        trained further with `Poisson`.

    Returns
    -------
    MLP
        A copy, whose outputs always have shape (rows, n_out). For a regressor, the
        outputs are those of ``predict``. For a classifier, they are the columns of
        ``predict_proba``, except that two classes have one column, the probability of
        ``classes_[1]`` (unless an estimator of `fastmlp.sklearn` was trained with a
        loss that needs an output for each class). The dtype is that of the
        coefficients, float32 or float64, and the seed is 0.

    Raises
    ------
    TypeError
        If ``estimator`` is another object, such as a pipeline or a grid search.
    ValueError
        If the estimator is not fitted, or its attributes do not describe a network.

    Examples
    --------
    >>> mlp = fm.from_sklearn(classifier, logits=True)
    >>> mlp.fit(x, labels, loss=fm.CrossEntropy(), optimizer=fm.Adam(), ...)
    """
    logits = _validate.flag("logits", logits)
    if isinstance(estimator, type):
        raise TypeError(
            f"estimator must be {_WANTED}, got {_validate.describe(estimator)}"
        )
    kinds = {base.__name__ for base in type(estimator).__mro__}
    if isinstance(getattr(estimator, "mlp_", None), model_class()):
        return _own(estimator, logits)
    if hasattr(estimator, "coefs_"):
        weights, biases, hidden, output = _network(estimator)
    elif kinds & {*_LOGISTIC, *_LINEAR} and hasattr(estimator, "coef_"):
        weights, biases, output = _linear(estimator, bool(kinds & {*_LOGISTIC}))
        hidden = "identity"
    elif kinds & {*_NETWORKS, *_LOGISTIC, *_LINEAR}:
        raise ValueError(
            f"estimator must be fitted, but this {type(estimator).__name__} is "
            "not: call its fit method first"
        )
    else:
        hints = (
            hint for name, hint in _AROUND_NETWORKS.items() if hasattr(estimator, name)
        )
        raise TypeError(
            f"estimator must be {_WANTED}, got {_validate.describe(estimator)}"
            + next(hints, "")
        )

    # Build the model from the arrays.
    _check(weights, biases)
    widths = [w.shape[1] for w in weights]
    acts = [hidden] * (len(weights) - 1) + ["identity" if logits else output]
    layers = [
        Dense(width, act, bias is not None)
        for width, act, bias in zip(widths, acts, biases, strict=True)
    ]
    dtype = np.result_type(*weights)
    if dtype not in (np.float32, np.float64):
        raise ValueError(
            f"estimator's coefficients must be float32 or float64, got {dtype}"
        )
    mlp = empty([weights[0].shape[0], *layers], dtype)
    for view, array in zip(mlp.weights, weights, strict=True):
        view[...] = array
    for place, bias in zip(mlp.biases, biases, strict=True):
        if place is not None and bias is not None:
            place[...] = bias
    return mlp


def _own(estimator: Any, logits: bool) -> MLP:
    """Return a copy of the network of an estimator of `fastmlp.sklearn`.

    The estimator's network may have any layers. It does not have the output activation,
    which is added to the copy.
    """
    # If values were assigned to coefs_ after the fit, _connected first copies them to
    # the network.
    source: MLP = getattr(estimator, "_connected", lambda: estimator.mlp_)()
    output = _activation("out_activation_", estimator.out_activation_)
    *layers, last = source.layers
    assert isinstance(last, Dense)
    if not logits and output == "sigmoid" and last.n > 1:
        normalised = getattr(estimator, "_one_against_rest", lambda: False)
        if normalised():
            raise ValueError(
                "estimator divides one-vs-rest sigmoids by their sum, for which "
                "fastmlp does not have an activation; use logits=True"
            )
    output = "identity" if logits else output
    last = Dense(last.n, output, last.bias, last.init, last.bias_init)
    mlp = empty(
        [source.n_in, *layers, last],
        source.dtype,
        source._given["init"],
        compute_dtype=source.compute_dtype,
    )
    mlp.params[:] = source.params
    mlp.buffers[:] = source.buffers
    return mlp


def _network(estimator: Any) -> tuple[list[Array], list[Array | None], str, str]:
    """Return weights, biases, hidden activation and output activation of an MLP."""
    found: list[Any] = []
    for name in ("coefs_", "intercepts_", "activation", "out_activation_"):
        if not hasattr(estimator, name):
            raise ValueError(f"estimator has coefs_ but not {name}: is it fitted?")
        found.append(getattr(estimator, name))
    coefs, intercepts, hidden, output = found
    weights = [np.asarray(w) for w in coefs]
    biases: list[Array | None] = [np.asarray(b) for b in intercepts]
    names = _activation("activation", hidden), _activation("out_activation_", output)
    return weights, biases, *names


def _activation(name: str, value: object) -> str:
    known = _NAMES.get(value, value) if isinstance(value, str) else value
    return _validate.choice(f"estimator.{name}", known, _core.ACTIVATIONS)


def _linear(
    estimator: Any, logistic: bool
) -> tuple[list[Array], list[Array | None], str]:
    """Return weight, bias and output activation of a linear model."""
    coef = estimator.coef_
    if hasattr(coef, "toarray"):  # a sparse matrix, after sparsify()
        coef = coef.toarray()
    weight: Array = np.atleast_2d(coef).T
    bias: Array | None = None
    if estimator.fit_intercept:
        bias = np.broadcast_to(estimator.intercept_, (weight.shape[1],))
    if not logistic:
        return [weight], [bias], "identity"

    # Before scikit-learn 1.8, multi_class could choose other formulas for the
    # probabilities.
    scheme = getattr(estimator, "multi_class", "auto")
    odd = "multinomial" if weight.shape[1] == 1 else "ovr"
    if scheme == odd or (weight.shape[1] > 1 and estimator.solver == "liblinear"):
        raise ValueError(
            "estimator must compute probabilities with one sigmoid or a softmax, but "
            f"multi_class={scheme!r}, solver={estimator.solver!r} and "
            f"{len(estimator.classes_)} classes lead to another formula"
        )
    return [weight], [bias], "sigmoid" if weight.shape[1] == 1 else "softmax"


def _check(weights: list[Array], biases: list[Array | None]) -> None:
    """Raise ValueError unless the arrays have the shapes of consecutive layers."""
    shapes = [w.shape for w in weights]
    fits = bool(shapes) and len(weights) == len(biases)
    fits = fits and all(len(shape) == 2 and min(shape) > 0 for shape in shapes)
    fits = fits and all(a[1] == b[0] for a, b in pairwise(shapes))
    fits = fits and all(
        b is None or b.shape == s[1:] for b, s in zip(biases, shapes, strict=True)
    )
    if not fits:
        places = [None if b is None else b.shape for b in biases]
        raise ValueError(
            "estimator's coefficients and intercepts must have the shapes of "
            f"consecutive layers, got coefficients of shapes {shapes} and "
            f"intercepts of shapes {places}"
        )
