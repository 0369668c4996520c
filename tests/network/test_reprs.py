"""What models and predictors show of themselves."""

import fastmlp as fm
import numpy as np
import pytest


def test_predictors_show_their_buffers():
    mlp = fm.MLP([3, 4, 2], seed=0)
    assert repr(mlp.predictor()) == "<Predictor: float32 (3,) -> (2,)>"
    mlp = fm.MLP([3, 4, 2], dtype="float64", seed=0)
    assert repr(mlp.predictor(5)) == "<Predictor: float64 (5, 3) -> (5, 2)>"


def test_folded_models_name_their_initialisation():
    for init in ("auto", "orthogonal"):
        mlp = fm.MLP([3, 4, fm.BatchNorm(), 2], init=init, seed=0)
        folded = mlp.fold()
        assert "zeros" not in repr(folded)
        assert ("orthogonal" in repr(folded)) == (init == "orthogonal")
        assert {layer.init for layer in folded.layers} == {init}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_estimators_name_their_initialisation(kind, solver):
    pytest.importorskip("sklearn", reason="the estimators need it")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((30, 3)), np.arange(30) % 2
    make = getattr(fm.sklearn, kind)
    model = make(hidden_layer_sizes=(4,), solver=solver, max_iter=300, random_state=0)
    mlp = model.fit(x, y).mlp_
    for made in (mlp, fm.from_sklearn(model)):
        assert "zeros" not in repr(made)
        assert {layer.init for layer in made.layers} == {"sklearn"}
    # A new model of the same layers can be trained.
    again = fm.MLP([3, *mlp.layers], seed=0)
    assert again.weights[0].any()


def test_models_of_scikit_learn_can_be_made_again():
    neural = pytest.importorskip("sklearn.neural_network", reason="it is converted")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 3))
    theirs = neural.MLPRegressor(hidden_layer_sizes=(4,), max_iter=2000, tol=1e-2)
    mlp = fm.from_sklearn(theirs.fit(x, x[:, 0]))
    assert "zeros" not in repr(mlp)
    np.testing.assert_array_equal(mlp.weights[0], theirs.coefs_[0])
    assert fm.MLP([3, *mlp.layers], seed=0).weights[0].any()
