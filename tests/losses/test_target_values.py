"""Targets that a loss does not allow, in every call, and rows without a label."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

CASES = {
    "binary, -1": (fm.BinaryCrossEntropy(), -1.0, "probabilities from 0 to 1"),
    "binary, 2": (fm.BinaryCrossEntropy(pos_weight=2), 2.0, "probabilities from 0"),
    "hinge": (fm.Hinge(), 0.0, "only -1 and 1"),
    "poisson": (fm.Poisson(), -1.0, "non-negative counts"),
    "of actions": (fm.ActionValue(fm.Hinge()), 0.5, "only -1 and 1"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "bad", "message"), CASES.values(), ids=CASES)
def test_every_call_refuses_them(loss, bad, message, dtype):
    mlp, optimizer = fm.MLP([2, 1], dtype=dtype, seed=0), fm.SGD(0.1)
    before = mlp.params.copy()
    x, y = np.ones((5, 2), dtype), np.ones((5, 1), dtype)
    y[3] = bad
    target = (np.zeros(5, int), y[:, 0]) if isinstance(loss, fm.ActionValue) else y
    calls = [
        lambda: mlp.train_step(x, target, loss, optimizer),
        lambda: mlp.value_and_grad(x, target, loss),
        lambda: mlp.evaluate(x, target, loss),
        lambda: mlp.per_sample_grads(x, target, loss),
        lambda: loss(mlp(x), target),
        lambda: loss.value_and_grad(mlp(x), target),
        lambda: loss(mlp(x), target, np.ones(5)),
        lambda: mlp.fit(
            x, target, loss=loss, optimizer=optimizer, epochs=1, batch_size=2
        ),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=f"{message}.* in row 3"):
            call()
    np.testing.assert_array_equal(mlp.params, before)
    assert optimizer.step_count == 0


def test_probabilities_of_classes():
    mlp = fm.MLP([2, 3], seed=0)
    x, y = np.ones((2, 2), "f"), np.array([[1.5, -0.5, 0], [0, 0, 1]], "f")
    for call in (mlp.evaluate, mlp.value_and_grad):
        with pytest.raises(ValueError, match=r"probabilities from 0 to 1, got \[ 1.5 "):
            call(x, y, fm.CrossEntropy())
    with pytest.raises(ValueError, match=r"^target must hold probabilities from 0"):
        fm.CrossEntropy()(mlp(x), y)


def test_hints():
    pred = np.zeros((4, 1))
    with pytest.raises(ValueError, match=r"^target .*; 2 \* y - 1 converts 0 and 1"):
        fm.Hinge()(pred, np.array([0.0, 1, 1, 0]))
    with pytest.raises(ValueError, match=r"^target .*; \(y \+ 1\) / 2 converts -1 and"):
        fm.BinaryCrossEntropy()(pred, np.array([-1.0, 1, 1, -1]))


# Rows without a label -----------------------------------------------------------------

LOSSES = [
    {},
    {"label_smoothing": 0.2},
    {"class_weight": [0.5, 2.0, 1.0]},
    {"label_smoothing": 0.2, "class_weight": [0.5, 2.0, 1.0]},
    {"reduction": "sum"},
]


def widened(options, classes):
    if "class_weight" not in options or classes == 3:
        return options
    return {**options, "class_weight": np.linspace(0.5, 2, classes)}


@pytest.mark.parametrize("library", [fm, reference], ids=["core", "reference"])
@pytest.mark.parametrize("ignored", [-100, 1, 2**40])
@pytest.mark.parametrize("classes", [3, 40])
@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_ignored_rows_count_nowhere(options, classes, ignored, library, isa):
    rng = np.random.default_rng(0)
    options = widened(options, classes)
    labels = rng.integers(0, classes, 50)
    labels[::3] = ignored
    kept = labels != ignored
    for dtype in ("float32", "float64"):
        pred = rng.standard_normal((50, classes)).astype(dtype)
        pred[0] = np.nan  # an ignored row
        weight = rng.random(50).astype(dtype)
        loss = library.CrossEntropy(ignore_index=ignored, **options)
        plain = library.CrossEntropy(**options)
        rtol = 100 * np.finfo(dtype).eps  # sums of 50 rows
        for w in (None, weight):
            value, grad = loss.value_and_grad(pred, labels, w)
            some = None if w is None else w[kept]
            wanted = plain.value_and_grad(pred[kept], labels[kept], some)
            np.testing.assert_allclose(value, wanted[0], rtol=rtol)
            np.testing.assert_allclose(grad[kept], wanted[1], rtol=rtol, atol=rtol)
            assert (grad[~kept] == 0).all()


@pytest.mark.parametrize("options", LOSSES[:3], ids=str)
def test_torch_ignores_the_same(options):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    pred, labels = rng.standard_normal((9, 3)), rng.integers(0, 3, 9)
    labels[[2, 5]] = -100
    weight = options.get("class_weight")
    theirs = torch.nn.CrossEntropyLoss(
        weight=None if weight is None else torch.tensor(weight, dtype=torch.float64),
        label_smoothing=options.get("label_smoothing", 0.0),
    )(torch.tensor(pred), torch.tensor(labels))
    ours = fm.CrossEntropy(ignore_index=-100, **options)(pred, labels)
    np.testing.assert_allclose(ours, theirs.item(), rtol=1e-12)


def test_a_fit_ignores_rows():
    """The bits of a fit do not depend on the inputs of ignored rows."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 4)).astype("f"), rng.integers(0, 3, 60)
    y[40:] = -1
    loss = fm.CrossEntropy(ignore_index=-1)
    results = []
    for factor in (1, 100):
        x[40:] *= factor
        mlp = fm.MLP([4, 8, 3], seed=0)
        history = mlp.fit(
            x,
            y,
            loss=loss,
            optimizer=fm.Adam(0.01),
            epochs=5,
            batch_size=60,
            validation_data=(x, y),
            metrics=["accuracy"],
            seed=1,
        )
        results.append((mlp.params.tobytes(), history.loss, history.metrics))
        accuracy = fm.metrics.accuracy(mlp(x[:40]), y[:40])
        np.testing.assert_allclose(history.metrics["val_accuracy"][-1], accuracy)
        grads = mlp.per_sample_grads(x, y, loss)
        assert (grads[40:] == 0).all()
        assert (grads[:40] != 0).any()
    assert results[0] == results[1]
    with pytest.raises(ValueError, match="label -2 in row 0 is out of range"):
        loss(np.zeros((1, 3)), [-2])
    with pytest.raises(TypeError, match=r"^ignore_index must be an int"):
        fm.CrossEntropy(ignore_index=0.5)
    assert loss(np.zeros((2, 3)), [-1, -1]) == 0  # no row counts
    assert pickle.loads(pickle.dumps(loss)) == loss != fm.CrossEntropy()
    assert loss.ignore_index == -1
