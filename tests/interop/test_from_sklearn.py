"""Networks from scikit-learn's estimators: the same predictions, further training."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import fastmlp as fm
import fastmlp.sklearn
import numpy as np
import pytest
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import (
    Lasso,
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
)
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)

# Two implementations of the same formulas in float32 or float64 sum in different
# orders; predictions here are of magnitude 1.
OUTPUT_RTOL = {"float32": 2e-6, "float64": 1e-13}
# The same for predictions that may be close to 0.
OUTPUT_ATOL = 1e-13

X, LABELS = load_iris(return_X_y=True)
X = (X - X.mean(axis=0)) / X.std(axis=0)
BINARY = (LABELS == 2).astype(int)
SEVERAL = np.stack([LABELS == 0, LABELS == 2, X[:, 0] > 0], axis=1).astype(int)


def fitted(estimator, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(x, y)


def classifier(y, x=X, **options):
    options = {"hidden_layer_sizes": (9, 5), "max_iter": 5, **options}
    return fitted(MLPClassifier(random_state=0, **options), x, y)


def check(mlp, x, expected):
    y = mlp(x)
    assert y.shape == expected.shape
    bound = OUTPUT_RTOL[mlp.dtype.name]
    assert abs(y - expected).max() <= bound * max(1, abs(expected).max())


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("sizes", [(9, 5), (6,), ()], ids=len)
def test_classifiers(activation, sizes):
    model = classifier(LABELS, activation=activation, hidden_layer_sizes=sizes)
    mlp = fm.from_sklearn(model)
    assert mlp.dtype == np.float64
    assert [layer.n for layer in mlp.layers] == [*sizes, 3]
    check(mlp, X, model.predict_proba(X))


def test_two_classes_have_one_column():
    model = classifier(BINARY)
    check(fm.from_sklearn(model), X, model.predict_proba(X)[:, 1:])


def test_several_labels():
    model = classifier(SEVERAL)
    check(fm.from_sklearn(model), X, model.predict_proba(X))


def test_float32_stays():
    x = X.astype(np.float32)
    model = classifier(LABELS, x)
    mlp = fm.from_sklearn(model)
    assert mlp.dtype == np.float32
    check(mlp, x, model.predict_proba(x))


@pytest.mark.parametrize("targets", [1, 2])
def test_regressors(targets):
    y = X[:, 0] if targets == 1 else X[:, :2]
    model = fitted(
        MLPRegressor(hidden_layer_sizes=(7,), random_state=0, max_iter=5), X, y
    )
    for logits in (False, True):
        mlp = fm.from_sklearn(model, logits=logits)
        check(mlp, X, model.predict(X).reshape(len(X), targets))


def test_exponential_outputs():
    """The output of regressors of counts, since scikit-learn 1.7."""
    model = fitted(
        MLPRegressor(hidden_layer_sizes=(7,), random_state=0, max_iter=5), X, X[:, 0]
    )
    model.out_activation_ = "exp"
    assert fm.from_sklearn(model).layers[-1].activation == "exp"
    check(fm.from_sklearn(model), X, model.predict(X)[:, np.newaxis])


@pytest.mark.parametrize("y", [LABELS, BINARY, SEVERAL], ids=["3", "2", "labels"])
def test_logits_can_be_trained_further(y):
    model = classifier(y)
    mlp = fm.from_sklearn(model, logits=True)
    assert mlp.layers[-1].activation == "identity"
    several = y is LABELS
    loss = fm.CrossEntropy() if several else fm.BinaryCrossEntropy()
    z = mlp(X)
    e = np.exp(z)
    p = e / e.sum(axis=1, keepdims=True) if several else e / (1 + e)
    check(fm.from_sklearn(model), X, p)
    history = mlp.fit(
        X, y, loss=loss, optimizer=fm.Adam(lr=1e-2), epochs=5, batch_size=50
    )
    assert history.loss[-1] < history.loss[0]


@pytest.mark.parametrize("y", [LABELS, BINARY], ids=["3", "2"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_logistic_regression(y, fit_intercept):
    model = LogisticRegression(fit_intercept=fit_intercept).fit(X, y)
    mlp = fm.from_sklearn(model)
    assert (mlp.biases[0] is not None) == fit_intercept
    p = model.predict_proba(X)
    check(mlp, X, p if p.shape[1] > 2 else p[:, 1:])
    z = model.decision_function(X).reshape(len(X), -1)
    check(fm.from_sklearn(model, logits=True), X, z)


@pytest.mark.parametrize("kind", [LinearRegression, Ridge, Lasso])
@pytest.mark.parametrize("y", [X[:, 0], X[:, :1], X[:, :2]], ids=["1-D", "1", "2"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_linear_regression(kind, y, fit_intercept):
    model = kind(fit_intercept=fit_intercept).fit(X, y + 1)
    check(fm.from_sklearn(model), X, model.predict(X).reshape(len(X), -1))


def test_sparse_coefficients():
    estimator = LogisticRegression().fit(X, LABELS)
    wanted = fm.from_sklearn(estimator).params.copy()
    estimator.sparsify()
    np.testing.assert_array_equal(fm.from_sklearn(estimator).params, wanted)


def test_it_is_a_copy():
    model = classifier(LABELS)
    before = [w.copy() for w in model.coefs_]
    mlp = fm.from_sklearn(model)
    mlp.params[:] = 0
    for a, b in zip(model.coefs_, before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "kind", [MLPClassifier, MLPRegressor, LogisticRegression, LinearRegression, Ridge]
)
def test_estimators_that_are_not_fitted(kind):
    words = f"must be fitted, but this {kind.__name__} is not: call its fit"
    with pytest.raises(ValueError, match=words):
        fm.from_sklearn(kind())


OTHERS = {
    "forest": lambda: RandomForestRegressor(2).fit(X, X[:, 0]),
    "no network": lambda: 3,
    "class": lambda: MLPClassifier,
    # These are linear, but their predictions are not linear in the inputs.
    "counts": lambda: PoissonRegressor().fit(X, LABELS),
    "ridge": lambda: RidgeClassifier().fit(X, LABELS),
}


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_other_things_are_refused(make):
    with pytest.raises(TypeError, match=r"estimator must be a fitted MLPClass.* got "):
        fm.from_sklearn(make())


def test_the_estimator_inside_another_one_is_advised():
    x = np.random.default_rng(0).standard_normal((20, 2))
    inner = LinearRegression()
    grid = GridSearchCV(inner, {"positive": [False]}, cv=2)
    draws = RandomizedSearchCV(inner, {"positive": [False]}, cv=2, n_iter=1)
    for outer in (grid, draws):
        for step in ("fit it, and pass", "pass"):
            advice = f"; {step} its attribute best_estimator_"
            with pytest.raises(TypeError, match=advice):
                fm.from_sklearn(outer)
            outer.fit(x, x[:, 0])
    with pytest.raises(TypeError, match=r"got a TransformedTargetRe.*; fit it first"):
        fm.from_sklearn(TransformedTargetRegressor(inner))


# Pipelines ----------------------------------------------------------------------------

# Columns that are far from 0 and of different sizes, one of them constant.
RAW = np.column_stack([X * [1, 100, 1e-3, 5] + [3, -50, 0, 1e3], np.full(len(X), 7.0)])
TARGETS = 1e4 + 100 * X[:, :2]

SCALERS = {
    "standard": [StandardScaler()],
    "only mean": [StandardScaler(with_std=False)],
    "only deviation": [StandardScaler(with_mean=False)],
    "range": [MinMaxScaler((-1, 3))],
    "largest": [MaxAbsScaler()],
    "robust": [RobustScaler()],
    "robust without median": [RobustScaler(with_centering=False)],
    "robust without range": [RobustScaler(with_scaling=False)],
    "several": [RobustScaler(), "passthrough", MinMaxScaler(), StandardScaler()],
    "nothing": ["passthrough"],
}


@pytest.mark.parametrize("case", SCALERS)
@pytest.mark.parametrize("own", [False, True], ids=["scikit-learn", "fastmlp"])
def test_scalers_of_a_pipeline_become_a_layer(case, own):
    kind = fm.sklearn.MLPClassifier if own else MLPClassifier
    last = kind(hidden_layer_sizes=(9,), max_iter=3, random_state=0)
    pipeline = fitted(make_pipeline(*SCALERS[case], last), RAW, LABELS)
    mlp = fm.from_sklearn(pipeline)
    assert (mlp.layers[0] == fm.Standardise()) == (case != "nothing")
    check(mlp, RAW, pipeline.predict_proba(RAW))
    folded = mlp.fold()
    assert len(folded.layers) == 2
    check(folded, RAW, pipeline.predict_proba(RAW))


@pytest.mark.parametrize("own", [False, True], ids=["scikit-learn", "fastmlp"])
@pytest.mark.parametrize("several", [False, True], ids=["one output", "two outputs"])
def test_the_scaler_of_targets_becomes_the_last_layer(own, several):
    kind = fm.sklearn.MLPRegressor if own else MLPRegressor
    last = kind(hidden_layer_sizes=(9,), max_iter=3, random_state=0)
    y = TARGETS if several else TARGETS[:, 0]
    for inner in (last, make_pipeline(StandardScaler(), last)):
        for scaler in (StandardScaler(), MinMaxScaler(), None):
            model = TransformedTargetRegressor(inner, transformer=scaler)
            fitted(model, X, y)
            mlp = fm.from_sklearn(model)
            expected = model.predict(X).reshape(len(X), -1)
            check(mlp, X, expected)
            check(mlp.fold(), X, expected)
            inverse = fm.Standardise(inverse=True)
            assert (mlp.layers[-1] == inverse) == (scaler is not None)


def test_the_scaler_of_targets_within_a_pipeline():
    inner = TransformedTargetRegressor(LinearRegression(), transformer=StandardScaler())
    pipeline = make_pipeline(StandardScaler(), inner).fit(RAW, TARGETS)
    check(fm.from_sklearn(pipeline), RAW, pipeline.predict(RAW))


def test_a_pipeline_in_float32():
    net = fm.sklearn.MLPClassifier(hidden_layer_sizes=(9,), max_iter=3, random_state=0)
    x = RAW.astype(np.float32)
    pipeline = fitted(make_pipeline(StandardScaler(), net), x, LABELS)
    mlp = fm.from_sklearn(pipeline)
    assert mlp.dtype == np.float32
    # Column 3 has four digits before those that differ.
    expected = pipeline.predict_proba(x)
    np.testing.assert_allclose(mlp(x), expected, rtol=1e-3, atol=1e-4)


class Doubled(StandardScaler):
    def transform(self, x, copy=None):
        return 2 * super().transform(x, copy)


def test_other_steps_are_refused():
    net = MLPClassifier(hidden_layer_sizes=(4,), max_iter=2)
    for step in (PolynomialFeatures(), Doubled()):
        pipeline = fitted(make_pipeline(step, net), X, LABELS)
        with pytest.raises(TypeError, match=r"step '\w+' must be StandardScaler, Min"):
            fm.from_sklearn(pipeline)
    pipeline = fitted(make_pipeline(MinMaxScaler(clip=True), net), X, LABELS)
    with pytest.raises(ValueError, match="'minmaxscaler', MinMaxScaler, must have cl"):
        fm.from_sklearn(pipeline)
    with pytest.raises(ValueError, match="must be fitted, but this MLPClassifier is"):
        fm.from_sklearn(make_pipeline(StandardScaler(), MLPClassifier()))
    with pytest.raises(ValueError, match="StandardScaler, must be fitted"):
        fm.from_sklearn(make_pipeline(StandardScaler(), pipeline[-1]))
    functions = TransformedTargetRegressor(
        LinearRegression(), func=np.log, inverse_func=np.exp
    ).fit(X, TARGETS)
    with pytest.raises(TypeError, match="transformer_ must be StandardScaler"):
        fm.from_sklearn(functions)


def test_a_scaler_beyond_the_dtype_is_refused():
    net = fm.sklearn.MLPClassifier(hidden_layer_sizes=(4,), max_iter=2)
    x = X.astype(np.float32)
    pipeline = fitted(make_pipeline(StandardScaler(), net), x, LABELS)
    pipeline[0].scale_ = pipeline[0].scale_ * 1e-25
    with pytest.raises(ValueError, match="within the range of float32"):
        fm.from_sklearn(pipeline)


def network(**changes):
    """An object with the attributes of a fitted estimator."""
    fields = {
        "coefs_": [np.ones((3, 4)), np.ones((4, 2))],
        "intercepts_": [np.ones(4), np.ones(2)],
        "activation": "relu",
        "out_activation_": "identity",
    }
    return SimpleNamespace(**{**fields, **changes})


def test_attributes_are_enough():
    mlp = fm.from_sklearn(network(activation="gelu"))
    assert repr(mlp.layers[0]).startswith("Dense(4, activation='gelu'")
    assert mlp.n_params == 3 * 4 + 4 + 4 * 2 + 2


def own(n_out, output, **methods):
    """An object like fastmlp's estimators, which have the network of logits."""
    layers = [3, fm.Dense(5, "identity"), fm.BatchNorm(), fm.Activation("gelu"), n_out]
    mlp = fm.MLP(layers, seed=0)
    mlp.buffers[:] = np.linspace(0.5, 1, mlp.buffers.size)
    return SimpleNamespace(
        mlp_=mlp, out_activation_=output, coefs_=mlp.weights, **methods
    )


@pytest.mark.parametrize("output", ["softmax", "logistic", "identity"])
def test_estimators_with_networks(output, rng):
    model = own(2, output)
    x = rng.standard_normal((9, 3)).astype(np.float32)
    z = model.mlp_(x)
    np.testing.assert_array_equal(fm.from_sklearn(model, logits=True)(x), z)
    e = np.exp(z)
    expected = {"softmax": e / e.sum(axis=1, keepdims=True), "logistic": e / (1 + e)}
    mlp = fm.from_sklearn(model)
    check(mlp, x, expected.get(output, z))
    mlp.params[:] = 0
    np.testing.assert_array_equal(model.mlp_(x), z)


def test_replaced_weights_are_converted(rng):
    x = rng.standard_normal((9, 3)).astype(np.float32)
    other = own(2, "identity").mlp_
    other.params[:] = 1
    model = own(2, "identity", _connected=lambda: other)
    np.testing.assert_array_equal(fm.from_sklearn(model)(x), other(x))


def test_one_against_the_rest_needs_logits():
    model = own(3, "logistic", _one_against_rest=lambda: True)
    with pytest.raises(ValueError, match=r"one-vs-rest.*logits=True"):
        fm.from_sklearn(model)
    assert fm.from_sklearn(model, logits=True).layers[-1].activation == "identity"
    one = own(1, "logistic", _one_against_rest=lambda: True)
    assert fm.from_sklearn(one).layers[-1].activation == "sigmoid"


ODD = {
    "unknown": ({"activation": "cube"}, "estimator.activation must be one of"),
    "shapes": ({"coefs_": [np.ones((3, 4)), np.ones((5, 2))]}, "consecutive layers"),
    "biases": ({"intercepts_": [np.ones(4), np.ones(3)]}, "consecutive layers"),
    "few": ({"intercepts_": [np.ones(4)]}, "consecutive layers"),
    "none": ({"coefs_": [], "intercepts_": []}, "consecutive layers"),
    "half": (
        {"coefs_": [np.ones((3, 4), np.float16), np.ones((4, 2), np.float16)]},
        "must be float32 or float64, got float16",
    ),
}


@pytest.mark.parametrize(("changes", "words"), ODD.values(), ids=ODD)
def test_odd_attributes_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        fm.from_sklearn(network(**changes))


def test_missing_attributes_are_named():
    model = network()
    del model.intercepts_
    with pytest.raises(ValueError, match="not intercepts_: is it fitted"):
        fm.from_sklearn(model)


def test_logits_is_a_flag():
    with pytest.raises(TypeError, match="logits must be True or False, got 1"):
        fm.from_sklearn(network(), logits=1)


def test_other_ways_to_probabilities_are_refused():
    """Such as those of scikit-learn before 1.8."""
    model = LogisticRegression().fit(X, LABELS)
    model.multi_class = "ovr"
    with pytest.raises(ValueError, match="multi_class='ovr', solver='lbfgs' and 3"):
        fm.from_sklearn(model)
