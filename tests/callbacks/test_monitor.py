"""fastmlp.Monitor: statistics of the last step of an epoch."""

from __future__ import annotations

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp.callbacks._monitor import Histogram

# Computed in float64 from the same arrays, with sums in another order.
SUM_RTOL = 1e-12


class FakeNet:
    """A core that plays back a script of last steps instead of training."""

    def __init__(self, net, steps):
        self._core = net
        self._steps = iter(steps)
        self.watch = False
        self.watched = []

    def __getattr__(self, name):
        return getattr(self._core, name)

    def fit_epoch(self, *args, **kwargs):
        self.watched.append(self.watch)
        self._last = next(self._steps)
        return 1.0

    def last_step(self):
        return self._last


X = np.zeros((4, 2), np.float32)
Y = np.zeros((4, 1), np.float32)


def train(mlp, steps, monitor):
    """Fit for one epoch per scripted step."""
    mlp.core = net = FakeNet(mlp.core, steps)
    mlp.fit(
        X,
        Y,
        loss=fm.MSE(),
        optimizer=fm.SGD(lr=0.1),
        epochs=len(steps),
        batch_size=4,
        callbacks=[monitor],
    )
    return net


def step(mlp, rng, outputs=None):
    widths = [layer.n for layer in mlp.layers]
    if outputs is None:
        outputs = [rng.standard_normal((4, n)).astype(np.float32) for n in widths]
    return {
        "grads": rng.standard_normal(mlp.n_params).astype(np.float32),
        "before": rng.standard_normal(mlp.n_params).astype(np.float32),
        "outputs": outputs,
        "rows": 4,
    }


def test_everything_by_layer(rng):
    mlp = fm.MLP([2, 3, 1], seed=0)
    script = [step(mlp, rng) for _ in range(3)]
    monitor = fm.Monitor(bins=7)
    net = train(mlp, script, monitor)
    assert monitor.epochs == [1, 2, 3]
    assert monitor.layers == {"0": "dense relu", "2": "dense"}
    assert net.watched == [True] * 3
    assert net.watch is False
    for name, where, h in (("0", slice(0, 6), 0), ("2", slice(9, 12), 1)):
        weight = mlp.params[where].astype(np.float64)
        for i, last in enumerate(script):
            grad = last["grads"][where].astype(np.float64)
            old = last["before"][where].astype(np.float64)
            ratio = np.linalg.norm(weight - old) / np.linalg.norm(old)
            norm = np.linalg.norm(grad)
            np.testing.assert_allclose(monitor.gradient_norms[name][i], norm, SUM_RTOL)
            np.testing.assert_allclose(monitor.update_ratios[name][i], ratio, 1e-6)
            for table, values in (
                (monitor.weights, weight),
                (monitor.gradients, grad),
                (monitor.activations, last["outputs"][h].astype(np.float64)),
            ):
                counts, edges = np.histogram(values, bins=7)
                np.testing.assert_array_equal(table[name][i].counts, counts)
                np.testing.assert_allclose(table[name][i].edges, edges, SUM_RTOL)


@pytest.mark.parametrize(
    ("activation", "values", "dead"),
    [
        ("relu", [0, 0, 1], 2),
        ("sigmoid", [1e-4, 1 - 1e-4, 0.01], 2),
        ("tanh", [-0.999, 0.999, 0.9], 2),
        ("softsign", [-0.95, 0.95, 0.85], 2),
        ("elu", [-0.995, 3, -0.9], 1),
        ("selu", [-1.75, 3, -1.7], 1),
    ],
)
def test_dead_units(rng, activation, values, dead):
    mlp = fm.MLP([2, 3, 1], activation=activation, seed=0)
    outputs = [np.tile(np.float32(values), (4, 1)), np.ones((4, 1), np.float32)]
    alive = [outputs[0].copy(), outputs[1]]
    alive[0][2] = 0.5  # one row in which they do something is enough
    monitor = fm.Monitor()
    train(mlp, [step(mlp, rng, outputs), step(mlp, rng, alive)], monitor)
    assert monitor.dead == {"0": [dead, 0]}
    assert monitor.units == {"0": 3}


def test_every_few_epochs_and_the_path(rng):
    mlp = fm.MLP([2, 3, 1], seed=0)
    monitor = fm.Monitor(every=3, path=True)
    net = train(mlp, [step(mlp, rng) for _ in range(7)], monitor)
    assert monitor.epochs == [1, 4, 7]
    # The core keeps the parameters in those epochs only.
    assert net.watched == [True, False, False, True, False, False, True]
    assert [len(v) for v in monitor.weights.values()] == [3, 3]
    assert len(monitor.path) == 4
    assert not np.shares_memory(monitor.path[0], mlp.params)
    np.testing.assert_array_equal(monitor.path[0], mlp.params)


def test_steps_without_records(rng):
    mlp = fm.MLP([2, 3, 1], seed=0)
    monitor = fm.Monitor()
    without = {**step(mlp, rng), "before": None}
    train(mlp, [None, without], monitor)
    assert monitor.dead["0"][0] == -1
    assert np.isnan(monitor.update_ratios["0"]).all()
    assert np.isnan(monitor.gradient_norms["2"][0])
    assert monitor.gradient_norms["2"][1] > 0
    assert monitor.weights["0"][0].counts.sum() == 6
    assert monitor.activations["0"][0].counts.sum() == 0


def test_a_second_run_starts_from_scratch(rng):
    mlp = fm.MLP([2, 3, 1], seed=0)
    monitor = fm.Monitor()
    train(mlp, [step(mlp, rng)] * 2, monitor)
    other = fm.MLP([2, 4, 4, 1], seed=0)
    train(other, [step(other, rng)], monitor)
    assert monitor.epochs == [1]
    assert list(monitor.layers) == ["0", "2", "4"]


def test_histograms_of_odd_values():
    monitor = fm.Monitor(bins=4)
    same = monitor._histogram(np.full(5, 2.0))
    assert same.counts.sum() == 5
    assert same.edges[0] < 2 < same.edges[-1]
    odd = monitor._histogram(np.array([np.nan, 0, 1, np.inf, 1]))
    assert odd.not_finite == 2
    assert odd.counts.tolist() == [1, 0, 0, 2]
    assert isinstance(odd, Histogram)
    tiny = monitor._histogram(np.array([0, 5e-324]))
    assert tiny.counts.sum() == 2


def test_arguments():
    assert repr(fm.Monitor(every=2)) == "Monitor(every=2, bins=40, path=False)"
    with pytest.raises(ValueError, match="every must be at least 1"):
        fm.Monitor(every=0)
    with pytest.raises(TypeError, match="bins must be an int"):
        fm.Monitor(bins=1.5)
    with pytest.raises(TypeError, match="path must be True or False"):
        fm.Monitor(path="yes")


# Norms of a few dozen float64 numbers, summed in two orders, after a pass through the
# layers.
NORM_RTOL = 1e-10


def test_a_real_fit(rng):
    layers = [2, 6, fm.BatchNorm(), fm.Residual([6]), 1]
    mlp = fm.MLP(layers, activation="relu", dtype="float64", seed=0)
    x = rng.standard_normal((10, 2))
    monitor = fm.Monitor(path=True, bins=9)
    names = ["0", "2", "3.body.0", "3", "4"]

    # One batch of all rows, without shuffling: everything can be computed again.
    def check(model, history):
        before, after = monitor.path[-2], monitor.path[-1]
        np.testing.assert_array_equal(after, model.params)
        twin = model.copy()
        twin.params[:] = before
        _, grads = twin.value_and_grad(x, x[:, :1], fm.MSE(), training=True)
        for name, view in model.named_parameters().items():
            layer, _, role = name.rpartition(".")
            if role != "weight":
                continue
            at = (view.ctypes.data - model.params.ctypes.data) // view.itemsize
            part = slice(at, at + view.size)
            norm = np.linalg.norm(grads[part])
            np.testing.assert_allclose(
                monitor.gradient_norms[layer][-1], norm, NORM_RTOL
            )
            change = np.linalg.norm(after[part] - before[part])
            ratio = change / np.linalg.norm(before[part])
            np.testing.assert_allclose(
                monitor.update_ratios[layer][-1], ratio, NORM_RTOL
            )
        h = np.maximum(x @ twin.weights[0] + twin.biases[0], 0)
        assert monitor.dead["0"][-1] == (h == 0).all(axis=0).sum()
        counts, edges = np.histogram(h, bins=9)
        np.testing.assert_array_equal(monitor.activations["0"][-1].counts, counts)
        np.testing.assert_allclose(monitor.activations["0"][-1].edges, edges, NORM_RTOL)

    history = mlp.fit(
        x,
        x[:, :1],
        loss=fm.MSE(),
        optimizer=fm.Adam(lr=0.05),
        epochs=4,
        batch_size=10,
        shuffle=False,
        callbacks=[monitor, check],
    )
    assert monitor.epochs == [1, 2, 3, 4]
    assert list(monitor.activations) == names
    assert len(history) == 4


def test_monitoring_changes_nothing(rng):
    x = rng.standard_normal((50, 2)).astype(np.float32)
    results = []
    for callbacks in ([], [fm.Monitor(path=True)], [fm.Monitor(every=2)]):
        mlp = fm.MLP([2, 8, fm.Dropout(0.3), 1], seed=0)
        mlp.fit(
            x,
            x[:, :1],
            loss=fm.MSE(),
            optimizer=fm.Adam(),
            epochs=3,
            batch_size=16,
            callbacks=callbacks,
        )
        results.append(mlp.params.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("ending", ["train_end", "error"])
def test_nothing_is_kept_after_a_run(rng, ending):
    mlp = fm.MLP([2, 3, 1], seed=0)
    x = rng.standard_normal((8, 2)).astype(np.float32)

    def stop(model, history):
        assert model.core.watch
        if ending == "error":
            raise KeyError("stop")
        return True

    tools = {"loss": fm.MSE(), "optimizer": fm.SGD(lr=0.1)}
    callbacks = [fm.Monitor(), stop]
    try:
        mlp.fit(x, x[:, :1], **tools, epochs=2, batch_size=4, callbacks=callbacks)
    except KeyError:
        assert ending == "error"
    assert mlp.core.watch is False


def test_separate_activations(rng):
    """The core fuses some of them with the layer before; their names are kept."""
    block = fm.Residual([fm.LayerNorm(), fm.Activation("relu"), 5])
    layers = [2, fm.Dense(5, "identity"), fm.Activation("tanh"), block, fm.BatchNorm()]
    mlp = fm.MLP([*layers, fm.Activation("sigmoid"), fm.Activation("sin"), 1], seed=1)
    x = rng.standard_normal((8, 2)).astype(np.float32)
    monitor = fm.Monitor()
    how = {"loss": fm.MSE(), "optimizer": fm.SGD(0.0), "epochs": 1, "batch_size": 8}
    mlp.fit(x, x[:, :1], callbacks=[monitor], **how)
    h = x @ mlp.weights[0] + mlp.biases[0]
    counts = {name: int(h[0].counts.sum()) for name, h in monitor.activations.items()}
    turned = {"0": 0, "2.body.0": 0, "3": 0}
    assert counts == {**dict.fromkeys(monitor.layers, 40), **turned, "6": 8}
    low, high = np.tanh(h).min(), np.tanh(h).max()
    np.testing.assert_allclose(monitor.activations["1"][0].edges[[0, -1]], [low, high])
    assert monitor.layers["4"] == "sigmoid"
    assert 0 < monitor.activations["4"][0].edges[0] < 1
    assert monitor.units == {"1": 5, "2.body.1": 5, "2.body.2": 5, "4": 5}


def test_separate_activations_in_a_deep_network(rng):
    layers = [
        3,
        fm.Dense(8, "identity"),
        fm.BatchNorm(),
        fm.Activation("relu"),
        fm.Residual([fm.Dense(8, "identity"), fm.Activation("tanh")]),
        fm.Activation("relu"),
        fm.Activation("tanh"),
        1,
    ]
    mlp = fm.MLP(layers, dtype="float64", seed=0)
    monitor = fm.Monitor()
    x, y = rng.normal(size=(16, 3)), rng.normal(size=(16, 1))
    before = mlp.copy()
    mlp.fit(
        x,
        y,
        loss=fm.MSE(),
        optimizer=fm.SGD(0.1),
        epochs=1,
        batch_size=16,
        shuffle=False,
        callbacks=[monitor],
    )
    # A layer has no outputs if the activation after it works in place.
    counts = {k: int(h[0].counts.sum()) for k, h in monitor.activations.items()}
    assert counts == {
        "0": 128,
        "1": 0,
        "2": 128,
        "3.body.0": 0,
        "3.body.1": 128,
        "3": 0,
        "4": 128,
        "5": 128,
        "6": 16,
    }
    # The outputs are those of the step; the last ones are its predictions.
    y_before = before.forward(x, training=True)
    edges = monitor.activations["6"][0].edges
    assert (edges[0], edges[-1]) == (y_before.min(), y_before.max())
    assert set(monitor.dead) == {"2", "3.body.1", "4", "5"}


def test_a_loss_in_python_gives_the_same_records(rng):
    """The records are the same as with the core's loss, which has the same bits."""
    x = rng.standard_normal((8, 2)).astype(np.float32)
    y = (x[:, :1] * x[:, 1:]).astype(np.float32)
    records = []
    for loss in (fm.MSE(), lambda pred, target: fm.MSE().value_and_grad(pred, target)):
        mlp = fm.MLP([2, 6, fm.LayerNorm(), 1], seed=3)
        monitor = fm.Monitor()
        how = {"optimizer": fm.Adam(0.01), "epochs": 3, "batch_size": 8}
        mlp.fit(x, y, loss=loss, callbacks=[monitor], **how)
        records.append((monitor.gradient_norms, monitor.update_ratios, mlp.params))
        assert np.isfinite(list(monitor.update_ratios.values())).all()
    for of_core, of_python in zip(*records, strict=True):
        assert str(of_core) == str(of_python)


def test_pickles_name_the_module_of_version_0_1_0(rng):
    mlp = fm.MLP([2, 3, 1], seed=0)
    monitor = fm.Monitor()
    train(mlp, [step(mlp, rng)], monitor)
    data = pickle.dumps(monitor)
    assert b"fastmlp.monitor" in data
    assert b"callbacks" not in data
    copy = pickle.loads(data)
    assert str(copy.weights) == str(monitor.weights)
    assert type(copy.weights["0"][0]) is Histogram
    # Old pickles name the classes in this way.
    assert pickle.loads(b"cfastmlp.monitor\nMonitor\n.") is fm.Monitor
    assert pickle.loads(b"cfastmlp.monitor\nHistogram\n.") is Histogram
