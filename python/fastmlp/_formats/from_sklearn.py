"""Networks from fitted scikit-learn estimators.

The estimators are recognised by the names of their classes and attributes; scikit-learn
itself is not imported.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import _core, _validate
from .._network.model import empty, model_class
from .._validate.hints import hinted
from ..layers import Dense, Standardise
from .layers import standardise_statistics

if TYPE_CHECKING:
    from collections.abc import Callable

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
    "best_estimator_": "; pass its attribute best_estimator_",
    "regressor": "; fit it first",
    "param_grid": "; fit it, and pass its attribute best_estimator_",
    "param_distributions": "; fit it, and pass its attribute best_estimator_",
}

_WANTED = (
    "a fitted MLPClassifier, MLPRegressor, LogisticRegression or linear regression, "
    "a pipeline of scalers that ends in one, or a TransformedTargetRegressor"
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
        ``Lasso``, ``ElasticNet`` or one of their ``CV`` variants. It may be the last
        step of a ``Pipeline``, whose other steps are ``StandardScaler``,
        ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler`` or ``"passthrough"``, and
        the regressor of a ``TransformedTargetRegressor``, whose transformer is one of
        these.
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
        coefficients, float32 or float64, and the seed is 0. The scalers of a pipeline
        become one `Standardise` layer, the first one, and that of a
        ``TransformedTargetRegressor`` becomes an inverse one, the last;
        `fastmlp.MLP.fold` merges them into dense layers.

    Raises
    ------
    TypeError
        If ``estimator`` is another object, such as a grid search, or if a step of a
        pipeline is not one of these scalers.
    ValueError
        If the estimator is not fitted, its attributes do not describe a network, or a
        scaler clips or has numbers that the network's dtype cannot hold.

    Examples
    --------
    >>> mlp = fm.from_sklearn(classifier, logits=True)
    >>> mlp.fit(x, labels, loss=fm.CrossEntropy(), optimizer=fm.Adam(), ...)
    >>> fm.from_sklearn(pipeline).fold().to_onnx("scaled.onnx")  # takes raw inputs
    """
    logits = _validate.flag("logits", logits)
    if isinstance(estimator, type):
        raise TypeError(
            f"estimator must be {_WANTED}, got {_validate.describe(estimator)}"
        )
    kinds = {base.__name__ for base in type(estimator).__mro__}
    if "Pipeline" in kinds and hasattr(estimator, "steps"):
        *steps, (_, last) = estimator.steps
        return _scaled(from_sklearn(last, logits=logits), _chained(steps), None)
    if "TransformedTargetRegressor" in kinds and hasattr(estimator, "regressor_"):
        network = from_sklearn(estimator.regressor_, logits=logits)
        return _scaled(network, None, _scaling("transformer_", estimator.transformer_))
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


class _Scaling(NamedTuple):
    """What a scaler does to columns: ``(x - mean) / std``, in float64."""

    mean: Array
    std: Array


def _standard(scaler: Any) -> tuple[Any, Any]:
    return scaler.mean_ if scaler.with_mean else None, scaler.scale_


def _robust(scaler: Any) -> tuple[Any, Any]:
    return scaler.center_, scaler.scale_


def _min_max(scaler: Any) -> tuple[Any, Any]:
    return -scaler.min_ / scaler.scale_, 1 / scaler.scale_


# For each scaler a function that returns its mean and its deviation, None for 0 and 1.
_SCALERS: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "StandardScaler": _standard,
    "MinMaxScaler": _min_max,
    "MaxAbsScaler": lambda scaler: (None, scaler.scale_),
    "RobustScaler": _robust,
}


def _scaling(name: str, step: Any) -> _Scaling | None:
    """Return what a scaler does; None if it does nothing."""
    kind = type(step).__name__
    # The default transformer of TransformedTargetRegressor.
    functions = getattr(step, "func", ""), getattr(step, "inverse_func", "")
    if step in (None, "passthrough") or functions == (None, None):
        return None
    if kind not in _SCALERS:
        raise TypeError(
            f"estimator: {name} must be {', '.join(_SCALERS)} or 'passthrough', which "
            f"become a layer of the network, got {_validate.describe(step)}; to leave "
            "it outside, pass the fitted network alone"
        )
    if not hasattr(step, "n_features_in_"):
        raise ValueError(f"estimator: {name}, {kind}, must be fitted: call fit first")
    if getattr(step, "clip", False):
        raise ValueError(
            f"estimator: {name}, {kind}, must have clip=False, because the layer "
            "fm.Standardise does not clip"
        )
    mean, std = _SCALERS[kind](step)
    n = step.n_features_in_
    return _Scaling(
        np.zeros(n) if mean is None else np.asarray(mean, np.float64),
        np.ones(n) if std is None else np.asarray(std, np.float64),
    )


def _chained(steps: list[tuple[str, Any]]) -> _Scaling | None:
    """Return what scalers do one after the other."""
    total: _Scaling | None = None
    for name, step in steps:
        own = _scaling(f"step {name!r}", step)
        if own is None or total is None:
            total = own or total
        else:
            mean = total.mean + own.mean * total.std
            total = _Scaling(mean, total.std * own.std)
    return total


def _scaled(mlp: MLP, first: _Scaling | None, last: _Scaling | None) -> MLP:
    """Return the network with a layer for inputs, and one for outputs."""
    if first is None and last is None:
        return mlp
    layers = [
        *[Standardise()] * (first is not None),
        *mlp.layers,
        *[Standardise(inverse=True)] * (last is not None),
    ]
    new = empty(
        [mlp.n_in, *layers],
        mlp.dtype,
        mlp._given["init"],
        compute_dtype=mlp.compute_dtype,
    )
    new.params[:] = mlp.params
    new.buffers[:] = np.concatenate(
        [
            *_statistics(first, mlp.n_in, mlp.dtype),
            mlp.buffers,
            *_statistics(last, mlp.n_out, mlp.dtype),
        ]
    )
    return new


def _statistics(
    scaling: _Scaling | None, width: int, dtype: np.dtype[Any]
) -> tuple[Array, ...]:
    """Return the mean and variance of the layer of a scaler; nothing for None."""
    if scaling is None:
        return ()
    if scaling.mean.size != width:
        raise ValueError(
            f"estimator: the scaler of {scaling.mean.size} columns must have as many "
            f"as the network, {width}"
        )
    with np.errstate(all="ignore"):
        numbers = scaling.mean.astype(dtype), scaling.std.astype(dtype)
    found = standardise_statistics(*numbers)
    if found is None:
        raise ValueError(
            "estimator: the scaler must have means and positive deviations whose "
            f"squares are within the range of {dtype}, the dtype of the network"
        )
    return found


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
    last = last.replaced(activation=output)
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
