"""Metrics: the formulas against scikit-learn, and their use in fit."""

import math

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import metrics
from helpers import toy_data, toy_fit, toy_mlp

sk = pytest.importorskip("sklearn.metrics")

# The same sums in float64, in another order.
METRIC_RTOL = 1e-12
ROWS = 200


def numbers(n_out, weighted, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((ROWS, n_out))
    p = (y + 0.5 * rng.standard_normal(y.shape)).astype("float32")
    w = rng.random(ROWS) * (rng.random(ROWS) < 0.8) if weighted else None
    return p, y, w


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n_out", [1, 3])
def test_regression(n_out, weighted):
    p, y, w = numbers(n_out, weighted)
    squared = sk.mean_squared_error(y, p.astype(float), sample_weight=w)
    wanted = {
        "r2": sk.r2_score(y, p.astype(float), sample_weight=w),
        "mae": sk.mean_absolute_error(y, p.astype(float), sample_weight=w),
        "mse": squared,
        "rmse": math.sqrt(squared),
    }
    for name, value in wanted.items():
        got = metrics.METRICS[name](p, y, w)
        assert isinstance(got, float)
        assert got == pytest.approx(value, rel=METRIC_RTOL), name
        if n_out == 1:
            assert metrics.METRICS[name](p[:, 0], y[:, 0], w) == got
            assert metrics.METRICS[name](p, y[:, 0], w) == got


def test_r2_of_constant_targets():
    p = np.array([[1.0, 2, 3], [2.0, 2, 4]])
    for y in ([[1.0, 2, 3], [2.0, 2, 3]], [[5.0, 2, 1], [5.0, 2, 1]]):
        assert metrics.r2(p, y) == pytest.approx(sk.r2_score(y, p), rel=METRIC_RTOL)
    assert math.isnan(metrics.r2([[1.0]], [[1.0]]))


@pytest.mark.parametrize("weighted", [False, True])
def test_accuracy(weighted):
    p, y, w = numbers(4, weighted)
    labels, answers = y.argmax(axis=1), p.argmax(axis=1)
    wanted = sk.accuracy_score(labels, answers, sample_weight=w)
    assert 0.3 < wanted < 1
    soft = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    for target in (labels, labels.astype("uint8"), soft, np.eye(4)[labels]):
        assert metrics.accuracy(p, target, w) == pytest.approx(wanted, rel=METRIC_RTOL)

    # With binary outputs, the accuracy is the mean of those of the columns.
    yes = (y > 0).astype(float)
    columns = [
        sk.accuracy_score(yes[:, i], p[:, i] > 0, sample_weight=w) for i in range(4)
    ]
    got = metrics.accuracy(p, yes, w, kind="binary", threshold=0)
    assert got == pytest.approx(np.mean(columns), rel=METRIC_RTOL)
    one = metrics.accuracy(p[:, 0], yes[:, 0], w, threshold=0)
    assert one == pytest.approx(columns[0], rel=METRIC_RTOL)
    # Targets may also be 1 and -1, and for one output (B,) or (B, 1).
    signs = 2 * yes - 1
    assert metrics.accuracy(p[:, :1], signs[:, 0], w, threshold=0) == one
    shares = 1 / (1 + np.exp(-p[:, 0].astype(float)))
    assert metrics.accuracy(shares, yes[:, 0], w) == one


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: metrics.mae(np.ones((2, 2)), np.ones((2, 1))), ValueError, "^target"),
        (lambda: metrics.r2(np.ones((0, 2)), np.ones((0, 2))), ValueError, "^pred"),
        (
            lambda: metrics.mse(np.ones(2), np.ones(2), [1]),
            ValueError,
            "^sample_weight",
        ),
        (lambda: metrics.mse(np.ones(2), np.ones(2), [0, 0]), ValueError, "all zero"),
        (lambda: metrics.accuracy(np.ones((2, 3)), [1]), ValueError, "^target"),
        (lambda: metrics.accuracy(np.ones(2), [1, 1], kind="x"), ValueError, "^kind"),
        (
            lambda: metrics.accuracy(np.ones(2), [1, 1], kind="classes"),
            ValueError,
            "^pred must have shape",
        ),
    ],
)
def test_bad_arrays(call, error, words):
    with pytest.raises(error, match=words):
        call()


# In fit -------------------------------------------------------------------------------


def data():
    return toy_data(ROWS, seed=1)


def fit(x, y, n_out=2, **options):
    mlp = toy_mlp(n_out=n_out)
    return mlp, toy_fit(mlp, x, y, **{"batch_size": 32, **options})


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_on_validation_data(weighted):
    x, y = data()
    w = (np.arange(50) % 3,) if weighted else ()
    validation = (x[:50], y[:50], *w)

    def worst(pred, target):
        return abs(pred - target).max()

    names = ["r2", "mae", "mse", "rmse"]
    mlp, history = fit(x, y, validation_data=validation, metrics=[*names, worst])
    wanted = {f"val_{n}" for n in [*names, "worst"]}
    assert history.metrics.keys() == wanted
    for name in names:
        value = metrics.METRICS[name](mlp(x[:50]), y[:50], *w)
        assert history.metrics["val_" + name][-1] == value
        assert len(history.metrics["val_" + name]) == 3
    assert history.metrics["val_worst"][-1] == worst(mlp(x[:50]), y[:50])

    # Loss and training are the same as without metrics, to the last bit.
    other, plain = fit(x, y, validation_data=validation)
    assert plain.val_loss == history.val_loss
    np.testing.assert_array_equal(other.params, mlp.params)


def test_metrics_of_many_rows():
    x, y = data()
    many = np.tile(x, (200, 1)), np.tile(y, (200, 1))
    mlp, history = fit(x, y, epochs=1, validation_data=many, metrics=["mae"])
    assert history.metrics["val_mae"] == [metrics.mae(mlp(many[0]), many[1])]
    assert history.val_loss == [mlp.evaluate(*many, fm.MSE())]


def test_metrics_on_training_data():
    x, y = data()
    mlp, history = fit(x, y, metrics={"error": "mae"})
    assert history.metrics.keys() == {"error"}
    assert history.metrics["error"][-1] == metrics.mae(mlp(x), y)
    assert history.val_loss == []


def test_accuracy_in_fit_reads_what_the_loss_means():
    x, y = data()
    for loss, target, n_out, wanted in [
        (fm.CrossEntropy(), y.argmax(axis=1), 2, lambda p, t: p.argmax(axis=1) == t),
        (fm.CrossEntropy(), np.eye(2)[y.argmax(axis=1)], 2, None),
        (fm.BinaryCrossEntropy(), y > 0, 2, lambda p, t: (p > 0) == t),
        (fm.BinaryCrossEntropy(), y[:, 0] > 0, 1, lambda p, t: (p[:, 0] > 0) == t),
        (fm.MSE(), y[:, 0] > 0, 1, lambda p, t: (p[:, 0] > 0.5) == t),
    ]:
        mlp, history = fit(
            x, target, loss=loss, n_out=n_out, metrics=["accuracy"], epochs=20
        )
        if wanted is None:
            right = mlp(x).argmax(axis=1) == target.argmax(axis=1)
        else:
            right = wanted(mlp(x), target)
        assert history.metrics["accuracy"][-1] == right.mean() > 0.8


def test_functions_may_take_weights():
    x, y = data()
    seen = []

    def weighted(pred, target, sample_weight=None):
        seen.append(sample_weight)
        return np.float32(0.5)

    _, history = fit(x, y, metrics=[weighted], epochs=1)
    w = np.arange(ROWS)
    fit(x, y, metrics=[weighted], sample_weight=w, epochs=1)
    assert history.metrics == {"weighted": [0.5]}
    assert seen[0] is None
    np.testing.assert_array_equal(seen[1], w)


def test_early_stopping_on_a_metric_knows_its_direction():
    x, y = data()
    stop = fm.EarlyStopping("val_r2", patience=2)
    assert stop.mode == "max"
    options = {"validation_data": (x, y), "metrics": ["r2"], "epochs": 5}
    _, history = fit(x, y, callbacks=[stop], **options)
    assert stop.best == max(history.metrics["val_r2"])
    assert len(history) == 5
    assert fm.EarlyStopping("accuracy").mode == "max"
    assert fm.EarlyStopping("val_mae").mode == "min"
    assert fm.EarlyStopping("val_r2", mode="min").mode == "min"


def best_of(history, monitor, lowest):
    values = history.metrics[monitor]
    return (min if lowest else max)(values)


@pytest.mark.parametrize("validation", [True, False])
@pytest.mark.parametrize(
    ("metric", "lowest"),
    [("r2", False), (metrics.r2, False), ("mae", True), (metrics.rmse, True)],
)
def test_a_metric_under_another_name_keeps_its_direction(
    metric, lowest, validation, tmp_path
):
    """Names alone say nothing: a maximised "score" of r2 was once minimised."""
    x, y = data()
    monitor = "val_score" if validation else "score"
    hooks = [
        fm.EarlyStopping(monitor, patience=9),
        fm.Checkpoint(tmp_path / "best.safetensors", monitor, save_best_only=True),
    ]
    given = {"validation_data": (x, y)} if validation else {}
    options = {"metrics": {"score": metric}, "epochs": 5, "callbacks": hooks}
    _, history = fit(x, y, **given, **options)
    assert len(set(history.metrics[monitor])) == 5
    for hook in hooks:
        assert hook.best == best_of(history, monitor, lowest)


def test_a_metric_named_like_another_keeps_its_direction():
    x, y = data()
    stop = fm.EarlyStopping("val_mae", patience=9)
    options = {"validation_data": (x, y), "metrics": {"mae": "r2"}, "epochs": 5}
    _, history = fit(x, y, callbacks=[stop], **options)
    assert stop.best == best_of(history, "val_mae", False)


@pytest.mark.parametrize("name", ["closeness", "mae"])
def test_a_function_of_ones_own_needs_a_mode(name):
    """Its name says nothing, even if it is that of a metric."""
    x, y = data()

    def closeness(pred, target):
        return -float(np.abs(pred - target).mean())

    options = {"validation_data": (x, y), "metrics": {name: closeness}, "epochs": 5}
    stop = fm.EarlyStopping("val_" + name, patience=9)
    mlp, _ = fit(x, y, epochs=1)
    before = mlp.params.copy()
    with pytest.raises(ValueError, match=r"needs mode=.min. or mode=.max."):
        mlp.fit(
            x, y, loss=fm.MSE(), optimizer=fm.SGD(0.1), batch_size=8, callbacks=[stop],
            progress=False, **options,
        )  # fmt: skip
    np.testing.assert_array_equal(mlp.params, before)
    by_constructor = fm.EarlyStopping("val_" + name, patience=9, mode="max")
    by_attribute = fm.EarlyStopping("val_" + name, patience=9)
    by_attribute.mode = "max"
    for stop in (by_constructor, by_attribute):
        _, history = fit(x, y, callbacks=[stop], **options)
        assert (stop.mode, stop.best) == ("max", max(history.metrics["val_" + name]))


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ("accuracy", TypeError, r"^metrics must be a sequence.*metrics=\["),
        (metrics.mae, TypeError, "^metrics must be a sequence"),
        (3, TypeError, "^metrics must be a sequence"),
        (["acuracy"], ValueError, "^metrics.*did you mean 'accuracy'"),
        ([3], TypeError, r"^metrics\[0\] must be one of accuracy"),
        (
            [lambda p, t: 0.0],
            ValueError,
            r"^metrics\[0\] must be a function with a name.*dict",
        ),
        (["mae", metrics.mae], ValueError, "'mae' is already used"),
        ({"loss": "mae"}, ValueError, "'loss' is already used"),
        ({1: "mae"}, TypeError, "^metrics"),
        ({"a": 1}, TypeError, r"^metrics\['a'\]"),
    ],
)
def test_bad_metrics(given, error, words):
    mlp = fm.MLP([3, 8, 2], seed=0)
    before = mlp.params.copy()
    with pytest.raises(error, match=words):
        mlp.fit(
            *data(),
            loss=fm.MSE(),
            optimizer=fm.Adam(),
            epochs=1,
            batch_size=9,
            metrics=given,
        )
    np.testing.assert_array_equal(mlp.params, before)


def test_a_metric_must_return_a_number():
    x, y = data()
    with pytest.raises(TypeError, match="'bad' must return a number"):
        fit(x, y, metrics={"bad": lambda p, t: "x"})
