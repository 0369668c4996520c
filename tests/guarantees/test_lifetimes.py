"""Objects that refer to each other through the core are freed by the collector."""

import copy
import gc
import pickle
import weakref

import fastmlp as fm
import numpy as np
import pytest

X, Y = np.ones((4, 2), np.float32), np.zeros((4, 1), np.float32)


class Net:
    """A class with a model whose activation is its own method, as many are written."""

    def __init__(self, nested=False, dtype="float32"):
        act = fm.Activation(self.f, self.df)
        middle = [fm.Residual([3, act])] if nested else [fm.Dense(3, "identity"), act]
        self.mlp = fm.MLP([2, *middle, 1], seed=0, dtype=dtype)

    def f(self, z):
        return np.tanh(z)

    def df(self, z):
        return 1 - np.tanh(z) ** 2

    def loss(self, pred, target):
        return float(np.mean((pred - target) ** 2)), 2 * (pred - target) / pred.size


def nothing(net):
    pass


def trained(net):
    net.optimizer = fm.Adam()
    net.mlp.fit(X, Y, loss=fm.MSE(), optimizer=net.optimizer, epochs=2, batch_size=2)


def with_callbacks(net):
    net.optimizer = fm.SGD(lambda step: net.mlp.n_in * 0.01)
    net.hooks = [
        fm.LambdaCallback(on_epoch_end=lambda mlp, history: net.loss and None),
        fm.EarlyStopping(),
        fm.Monitor(),
    ]
    net.mlp.fit(
        X,
        Y,
        loss=fm.CustomLoss(net.loss),
        optimizer=net.optimizer,
        epochs=2,
        batch_size=2,
        callbacks=net.hooks,
    )


def solved(net):
    net.solver = fm.LBFGS()
    net.mlp.fit(X, Y, loss=fm.MSE(), optimizer=net.solver, epochs=2)


def predicting(net):
    net.predictor = net.mlp.predictor(rows=4)
    net.predictor(X)


def copied(net):
    net.copies = [net.mlp.copy(), copy.deepcopy(net.mlp)]


def differentiated(net):
    net.results = net.mlp.forward(X), net.mlp.vjp(X, Y)
    net.views = net.mlp.params, net.mlp.weights, net.mlp.biases[0][:1]


USES = (nothing, trained, with_callbacks, solved, predicting, copied, differentiated)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("use", USES)
def test_models_with_their_owners_methods_are_freed(use, nested, dtype):
    net = Net(nested, dtype)
    use(net)
    gone = weakref.ref(net), weakref.ref(net.mlp)
    kept = net.mlp.params
    before = kept.copy()
    del net
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    np.testing.assert_array_equal(kept, before)  # views keep the memory alone


def test_a_predictor_keeps_what_it_needs():
    net = Net()
    wanted = net.mlp(X)
    predictor = net.mlp.predictor(rows=4)
    del net
    gc.collect()
    np.testing.assert_array_equal(predictor(X), wanted)


def test_the_core_alone_says_what_is_missing():
    net = Net()
    core = net.mlp.core
    del net
    gc.collect()
    with pytest.raises(RuntimeError, match="this custom activation does not exist any"):
        core.predict(X)


def square(z):
    return z * z


def double(z):
    return 2 * z


def test_copies_and_pickles_have_functions_of_their_own():
    mlp = fm.MLP([2, fm.Dense(3, "identity"), fm.Activation(square, double), 1], seed=0)
    wanted = mlp(X)
    others = [mlp.copy(), pickle.loads(pickle.dumps(mlp)), copy.copy(mlp)]
    del mlp
    gc.collect()
    for other in others:
        np.testing.assert_array_equal(other(X), wanted)


class Holder:
    """An object whose methods are everything else that a model may call."""

    def __init__(self):
        self.mlp = fm.MLP([2, 3, 1], seed=0)

    def value(self, *arguments):
        return 0.01

    def hook(self, mlp, history):
        return False

    def loss(self, pred, target):
        return 0.0, np.zeros_like(pred)

    def fit(self, how):
        self.loss_of_fit = fm.CustomLoss(self.loss) if how == "loss" else fm.MSE()
        self.optimizer = fm.SGD(self.value if how == "schedule" else 0.1)
        self.options = {}
        if how == "callback":
            hook = fm.LambdaCallback(on_epoch_end=self.hook)
            self.options["callbacks"] = [hook]
        if how == "metric":
            self.options["metrics"] = {"own": self.value}
        self.mlp.fit(
            X,
            Y,
            loss=self.loss_of_fit,
            optimizer=self.optimizer,
            epochs=2,
            batch_size=2,
            **self.options,
        )


@pytest.mark.parametrize("how", ["loss", "callback", "schedule", "metric"])
def test_other_functions_do_not_keep_models(how):
    holder = Holder()
    holder.fit(how)
    gone = weakref.ref(holder), weakref.ref(holder.mlp)
    del holder
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
