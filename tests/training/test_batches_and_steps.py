"""fit with batches from Python, steps that callbacks see, and training that goes on."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core

ROWS = 60
BATCH = 16
STEPS = 4  # of an epoch: 16, 16, 16 and 12 rows

# Sums of a few float32 batch losses, taken in another order.
SUM_RTOL = 1e-6
# The same training with gradients rounded elsewhere, for some tens of steps.
PATH_RTOL = 1e-4


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((ROWS, 3)).astype("float32")
    return x, np.tanh(x @ rng.standard_normal((3, 2))).astype("float32")


def model(seed=0):
    return fm.MLP([3, 8, 2], activation="tanh", seed=seed)


def fit(mlp, x, y=None, **options):
    if y is not None:
        options = {"batch_size": BATCH, **options}
    options = {"loss": fm.MSE(), "epochs": 3, **options}
    return mlp.fit(x, y, **{"optimizer": fm.Adam(0.01), **options})


def slices(weighted=False):
    x, y = data()
    w = (np.arange(ROWS) % 4 + 1).astype("float32")
    parts = [x, y, w] if weighted else [x, y]
    return [tuple(a[i : i + BATCH] for a in parts) for i in range(0, ROWS, BATCH)]


# Batches ------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_are_what_arrays_are(weighted, reduction):
    x, y = data()
    w = (np.arange(ROWS) % 4 + 1).astype("float32") if weighted else None
    loss = fm.MSE(reduction=reduction)
    one, two = model(), model()
    wanted = fit(one, x, y, loss=loss, shuffle=False, sample_weight=w)
    got = fit(two, slices(weighted), loss=loss)
    np.testing.assert_array_equal(one.params, two.params)
    np.testing.assert_allclose(got.loss, wanted.loss, rtol=SUM_RTOL)


def test_where_batches_may_come_from():
    x, y = data()
    wanted = model()
    fit(wanted, x, y, shuffle=False)
    batches = slices()

    class Loader:
        def __iter__(self):
            return iter(batches)

    epochs = []

    def numbered(epoch):
        epochs.append(epoch)
        return iter(batches)

    for source in (
        batches,
        Loader(),
        lambda: iter(batches),
        lambda: batches,
        numbered,
        [[a.tolist() for a in batch] for batch in batches],
    ):
        mlp = model()
        history = fit(mlp, source)
        np.testing.assert_array_equal(mlp.params, wanted.params)
        assert len(history) == 3
    assert epochs == [0, 1, 2]
    mlp = model()
    fit(mlp, iter(batches * 3), steps_per_epoch=STEPS)
    np.testing.assert_array_equal(mlp.params, wanted.params)
    mlp = model()
    fit(mlp, iter(batches), epochs=1)
    assert len(mlp.history) == 1


def test_the_epoch_goes_on_over_fits():
    epochs = []

    def numbered(epoch):
        epochs.append(epoch)
        return slices()

    mlp, opt = model(), fm.Adam(0.01)
    fit(mlp, numbered, optimizer=opt, epochs=2)
    fit(mlp, numbered, optimizer=opt, epochs=2)
    fit(mlp, numbered, optimizer=opt, epochs=1, seed=0)
    assert epochs == [0, 1, 2, 3, 0]


def test_an_epoch_may_be_a_part():
    count = 0

    def endless():
        nonlocal count
        while True:
            count += 1
            yield slices()[0]

    mlp, opt = model(), fm.Adam(0.01)
    fit(mlp, endless, optimizer=opt, steps_per_epoch=5)
    assert (opt.step_count, count) == (15, 15)
    fit(mlp, endless(), optimizer=opt, steps_per_epoch=5)
    assert (opt.step_count, count) == (30, 30)


def test_batches_of_classes_with_validation_and_metrics():
    x, y = data()
    labels = y.argmax(axis=1)
    batches = [(x[:30], labels[:30]), (x[30:], labels[30:])]
    mlp = model()
    history = fit(
        mlp,
        batches,
        loss=fm.CrossEntropy(),
        epochs=60,
        validation_data=(x, labels),
        metrics=["accuracy"],
        callbacks=[fm.EarlyStopping(patience=60)],
    )
    assert history.metrics["val_accuracy"][-1] > 0.9


def test_generators_that_run_dry_say_so():
    mlp = model()
    with pytest.raises(
        ValueError, match=r"^x, a generator, gives its batches but once"
    ):
        fit(mlp, (b for b in slices()))
    assert mlp.history is None
    with pytest.raises(
        ValueError, match=r"^x ran dry: it gave 1 of 3 .* after 4 in all"
    ):
        fit(mlp, (b for b in slices()), steps_per_epoch=3)
    assert len(mlp.history) == 1
    with pytest.raises(ValueError, match=r"^x ran dry: it gave 4 of 9 batches"):
        fit(mlp, slices(), steps_per_epoch=9)
    with pytest.raises(ValueError, match=r"^x ran dry: it gave 0 batches"):
        fit(mlp, [])


def test_errors_of_the_source_go_through():
    def broken():
        yield from slices()[:2]
        raise OSError("no such file")

    mlp, opt = model(), fm.Adam()
    with pytest.raises(OSError, match="no such file"):
        fit(mlp, broken, optimizer=opt)
    assert opt.step_count == 2
    assert len(mlp.history) == 0
    assert np.isfinite(fit(mlp, slices(), optimizer=opt).loss).all()


@pytest.mark.parametrize(
    ("x", "options", "error", "words"),
    [
        (np.ones((4, 3)), {}, TypeError, "^y must hold real numbers.*batches"),
        (5, {}, TypeError, "^x must be an array, or without y an iterable"),
        (lambda: 5, {}, TypeError, "^x must return an iterable"),
        ([5], {}, TypeError, r"^x, batch 0 must be \(x, y\)"),
        ([(1,)], {}, TypeError, r"^x, batch 0 must be \(x, y\)"),
        ([(np.ones((4, 2)), np.ones((4, 2)))], {}, ValueError, "^x, batch 0: x must"),
        (
            [(np.full((4, 3), np.nan), np.ones((4, 2)))],
            {},
            ValueError,
            "^x, batch 0: x must be finite",
        ),
        (slices(), {"batch_size": 3}, TypeError, "^batch_size must be left out"),
        (slices(), {"sample_weight": [1]}, TypeError, "^sample_weight must be left"),
        (slices(), {"steps_per_epoch": 0}, ValueError, "^steps_per_epoch must be at"),
        (slices(), {"metrics": ["mae"]}, ValueError, "^metrics need validation_data"),
    ],
)
def test_bad_batches(x, options, error, words):
    mlp = model()
    before = mlp.params.copy()
    with pytest.raises(error, match=words):
        fit(mlp, x, **options)
    np.testing.assert_array_equal(mlp.params, before)


def test_arrays_have_no_steps_per_epoch():
    with pytest.raises(ValueError, match=r"^steps_per_epoch is for batches"):
        fit(model(), *data(), steps_per_epoch=3)


def test_a_diverging_batch_goes_back_to_the_last_good_state():
    x, y = data()
    bad = [*slices(), (x, np.full_like(y, 3e38))]
    mlp, opt, other = model(), fm.SGD(0.01), model()
    start = mlp.params.copy()
    with pytest.raises(fm.DivergenceError, match=r"^epoch 1 of 3: .*step 5"):
        fit(mlp, bad, optimizer=opt)
    # To the first step of this epoch, as with arrays.
    np.testing.assert_array_equal(mlp.params, start)
    assert opt.step_count == 0
    epochs = iter([slices(), bad])
    with pytest.raises(fm.DivergenceError, match=r"^epoch 2 of 3: .*step 5"):
        fit(mlp, lambda: next(epochs), optimizer=opt)
    fit(other, slices(), optimizer=fm.SGD(0.01), epochs=1)
    np.testing.assert_array_equal(mlp.params, other.params)
    assert len(mlp.history) == 1


# Steps --------------------------------------------------------------------------------


class Steps(fm.Callback):
    def __init__(self, stop_at=None):
        self.seen, self.stop_at = [], stop_at

    def on_batch_end(self, mlp, history, step, loss):
        self.seen.append((len(history), step, loss, mlp.params.copy()))
        return len(self.seen) == self.stop_at


def test_steps_are_seen_and_change_nothing():
    x, y = data()
    one, two, steps = model(), model(), Steps()
    wanted = fit(one, x, y, seed=3)
    got = fit(two, x, y, seed=3, callbacks=[steps])
    np.testing.assert_array_equal(one.params, two.params)
    assert got.loss == wanted.loss
    assert [s[:2] for s in steps.seen] == [
        (e, k) for e in range(3) for k in range(STEPS)
    ]

    # Each is a step of its own.
    three, opt, order = model(), fm.Adam(0.01), np.arange(ROWS)
    for epoch, k, loss, params in steps.seen:
        if k == 0:
            _core.kernels.shuffle(order, 3, epoch)
        rows = order[k * BATCH : (k + 1) * BATCH]
        assert three.train_step(x[rows], y[rows], fm.MSE(), opt) == loss
        np.testing.assert_array_equal(three.params, params)

    # And the same from batches.
    steps, four = Steps(), model()
    fit(four, slices(), callbacks=[steps])
    assert [s[:2] for s in steps.seen] == [
        (e, k) for e in range(3) for k in range(STEPS)
    ]


@pytest.mark.parametrize("batches", [False, True])
def test_a_step_may_end_the_training(batches):
    x, y = data()
    mlp, opt, ended = model(), fm.Adam(0.01), []
    steps = Steps(stop_at=6)
    last = fm.LambdaCallback(on_train_end=lambda m, h: ended.append(len(h)))
    given = (slices(),) if batches else (x, y)
    history = fit(mlp, *given, optimizer=opt, callbacks=[steps, last])
    assert opt.step_count == 6
    assert len(history) == 1
    assert ended == [1]
    np.testing.assert_array_equal(mlp.params, steps.seen[-1][3])


def test_an_error_in_a_step_leaves_a_model_to_go_on_with():
    def fail(mlp, history, step, loss):
        if step == 2:
            raise ZeroDivisionError

    mlp, opt = model(), fm.Adam(0.01)
    with pytest.raises(ZeroDivisionError):
        fit(
            mlp,
            *data(),
            optimizer=opt,
            callbacks=[fm.LambdaCallback(on_batch_end=fail)],
        )
    assert opt.step_count == 3
    assert len(mlp.history) == 0
    assert len(fit(mlp, *data(), optimizer=opt)) == 3


def test_a_step_may_use_the_model_and_set_the_rate():
    x, y = data()
    opt = fm.SGD(0.1)

    def look(mlp, history, step, loss):
        assert mlp(x).shape == y.shape
        mlp.evaluate(x, y, fm.MSE())
        opt.lr = 0.0

    one, two = model(), model()
    calls = [fm.LambdaCallback(on_batch_end=look)]
    fit(one, x, y, optimizer=opt, callbacks=calls, shuffle=False)
    two.train_step(x[:BATCH], y[:BATCH], fm.MSE(), fm.SGD(0.1))
    np.testing.assert_array_equal(one.params, two.params)


# Going on -----------------------------------------------------------------------------


def everything(tmp_path, epochs, resume_from=None):
    """A training with all that has a state; resumed by a checkpoint or not."""
    x, y = data()
    mlp, opt = model(), fm.Adam(0.05)
    stop = fm.EarlyStopping(patience=4, min_delta=0.005)
    log = fm.CSVLogger(tmp_path / "log.csv", append=True)
    save = fm.Checkpoint(tmp_path / "run-{epoch}.safetensors")
    hooks = [stop, log, save]
    done = None
    if resume_from is not None:
        path = tmp_path / f"run-{resume_from}.safetensors"
        done = fm.Checkpoint.load(path, mlp, opt, hooks)
        assert len(done) == resume_from
        assert mlp.history is done
    history = fit(
        mlp,
        x,
        y,
        optimizer=opt,
        epochs=epochs - (resume_from or 0),
        validation_data=(x[:20], y[:20]),
        metrics=["r2"],
        callbacks=hooks,
        seed=None if resume_from else 11,
    )
    if done is not None:
        done.extend(history)
        history = done
    return mlp, opt, stop, history


def test_a_checkpoint_goes_on_exactly(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    mlp, opt, stop, history = everything(whole, 60)
    # It stopped in mid-training, by patience.
    total = len(history)
    assert stop.stopped_epoch == total
    assert 6 < total < 60
    assert stop.best_epoch == total - 4
    for cut in (1, total - 3, total - 1):
        part = tmp_path / str(cut)
        part.mkdir()
        everything(part, cut)
        got = everything(part, 60, resume_from=cut)
        np.testing.assert_array_equal(got[0].params, mlp.params)
        assert got[1].step_count == opt.step_count
        for a, b in zip(
            got[1].state_dict()["slots"], opt.state_dict()["slots"], strict=True
        ):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])
        assert got[2].best_epoch == stop.best_epoch
        assert got[2].stopped_epoch == stop.stopped_epoch
        assert got[3].loss == history.loss
        assert got[3].val_loss == history.val_loss
        assert got[3].metrics == history.metrics
        # The log has all epochs, and the numbers of them.
        lines = (part / "log.csv").read_text().splitlines()
        plain = (whole / "log.csv").read_text().splitlines()
        strip = [line.rsplit(",", 1)[0] for line in lines]
        assert strip == [line.rsplit(",", 1)[0] for line in plain]
        # The checkpoints of the resumed run are those of the whole.
        one, two = (
            fm.Checkpoint.load(p / f"run-{total}.safetensors", model())
            for p in (whole, part)
        )
        assert one.loss == two.loss


def test_pickles_go_on_exactly():
    x, y = data()
    whole = model()
    stop = fm.EarlyStopping("loss", patience=3, min_delta=0.05, restore_best=False)
    history = fit(whole, x, y, epochs=100, callbacks=[stop])
    total = len(history)
    assert 5 < total < 100

    mlp, opt = model(), fm.Adam(0.01)
    first = fm.EarlyStopping("loss", patience=3, min_delta=0.05, restore_best=False)
    fit(mlp, x, y, optimizer=opt, epochs=total - 2, callbacks=[first])
    mlp, opt, state = pickle.loads(pickle.dumps((mlp, opt, first.state_dict())))
    second = fm.EarlyStopping("loss", patience=3, min_delta=0.05, restore_best=False)
    second.load_state_dict(state)
    fit(mlp, x, y, optimizer=opt, epochs=100, callbacks=[second])
    assert second.stopped_epoch == total
    np.testing.assert_array_equal(mlp.params, whole.params)


# Layers that draw or keep something ---------------------------------------------------


def deep(seed=0):
    layers = [
        3,
        8,
        fm.BatchNorm(),
        fm.Dropout(0.3),
        fm.Residual([8]),
        fm.LayerNorm(),
        2,
    ]
    return fm.MLP(layers, activation="tanh", seed=seed)


class LogCosh(fm.losses.Loss):
    """A loss that the core does not know, or MSE by another way."""

    __slots__ = ("mse",)
    reduction = "mean"

    def __init__(self, mse=False):
        object.__setattr__(self, "core", None)
        object.__setattr__(self, "mse", mse)

    def __call__(self, pred, target, sample_weight=None):
        return self.value_and_grad(pred, target, sample_weight)[0]

    def value_and_grad(self, pred, target, sample_weight=None):
        if self.mse:
            return fm.MSE().value_and_grad(pred, target, sample_weight)
        r = (pred - target).astype("float64")
        return float(np.log(np.cosh(r)).mean()), (np.tanh(r) / r.size).astype("float32")


def same(a, b):
    np.testing.assert_array_equal(a.params, b.params)
    np.testing.assert_array_equal(a.buffers, b.buffers)
    assert a.state_dict().keys() == b.state_dict().keys()
    for name, value in a.state_dict().items():
        np.testing.assert_array_equal(value, b.state_dict()[name])


def test_steps_draw_what_epochs_draw():
    x, y = data()
    one, two, three = deep(), deep(), deep()
    fit(one, x, y, shuffle=False)
    fit(two, x, y, shuffle=False, callbacks=[Steps()])
    fit(three, slices())
    same(one, two)
    same(one, three)
    other = deep()
    fit(other, x, y, shuffle=False, seed=1)
    assert (other.params != one.params).any()


@pytest.mark.parametrize("custom", [False, True])
def test_deep_checkpoints_go_on_exactly(tmp_path, custom):
    x, y = data()
    loss = LogCosh() if custom else fm.MSE()
    save = fm.Checkpoint(tmp_path / "{epoch}.safetensors")
    whole, opt = deep(), fm.Adam(0.01)
    fit(whole, x, y, loss=loss, optimizer=opt, epochs=5, seed=4, callbacks=[save])
    mlp, again = deep(seed=9), fm.Adam(0.5)
    fm.Checkpoint.load(tmp_path / "2.safetensors", mlp, again)
    fit(mlp, x, y, loss=loss, optimizer=again, epochs=3)
    same(mlp, whole)
    assert again.lr == opt.lr


def test_the_finder_and_early_stopping_restore_statistics():
    x, y = data()
    mlp, opt = deep(), fm.Adam(0.01)
    fit(mlp, x, y, optimizer=opt)
    other = mlp.copy()
    finder = fm.LearningRateFinder(steps=12)
    fit(mlp, x, y, optimizer=opt, callbacks=[finder])
    same(mlp, other)

    states = []
    stop = fm.EarlyStopping("score", patience=2)
    scores = [1.0, 0.0, 1.0, 1.0]

    def note(mlp, history):
        states.append(mlp.copy())
        history.log("score", scores[len(history) - 1])

    fit(mlp, x, y, optimizer=opt, epochs=4, callbacks=[note, stop])
    same(mlp, states[1])


# Losses in Python ---------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_loss_in_python_trains_as_one_of_the_core(weighted):
    x, y = data()
    w = (np.arange(ROWS) % 4 + 1).astype("float32") if weighted else None
    one, two, three = model(), model(), model()
    validation = (x[:9], y[:9])
    options = {"sample_weight": w, "validation_data": validation, "seed": 3}
    wanted = fit(one, x, y, **options)
    got = fit(two, x, y, loss=LogCosh(mse=True), **options)
    np.testing.assert_array_equal(one.params, two.params)
    np.testing.assert_allclose(got.loss, wanted.loss, rtol=SUM_RTOL)
    np.testing.assert_allclose(got.val_loss, wanted.val_loss, rtol=SUM_RTOL)
    fit(one := model(), slices(weighted))
    fit(three, slices(weighted), loss=LogCosh(mse=True))
    np.testing.assert_array_equal(one.params, three.params)


def test_a_loss_in_python_learns():
    x, y = data()
    mlp, steps = deep(), Steps()
    history = fit(
        mlp, x, y, loss=LogCosh(), epochs=40, metrics=["r2"], callbacks=[steps]
    )
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert len(steps.seen) == 40 * STEPS
    assert history.metrics["r2"][-1] > 0.5


def test_functions_are_losses():
    x, y = data()

    def squares(pred, target):
        r = pred - target
        return np.mean(r * r, dtype="float64"), 2 * r / r.size

    one, two, three = model(), model(), model()
    wanted = fit(one, x, y, epochs=5, validation_data=(x, y))
    got = fit(two, x, y, epochs=5, validation_data=(x, y), loss=squares)
    np.testing.assert_allclose(got.val_loss, wanted.val_loss, rtol=PATH_RTOL)
    fit(three, x, y, epochs=5, loss=fm.CustomLoss(squares))
    np.testing.assert_array_equal(two.params, three.params)


def test_other_targets_come_in_batches_too():
    x, y = data()
    actions, values = y.argmax(axis=1), y.max(axis=1)
    loss = fm.ActionValue(fm.MSE())
    parts = [slice(i, i + BATCH) for i in range(0, ROWS, BATCH)]
    batches = [(x[p], (actions[p], values[p])) for p in parts]
    one, two = model(), model()
    validation = (x, (actions, values))
    wanted = fit(
        one, x, (actions, values), loss=loss, shuffle=False, validation_data=validation
    )
    got = fit(two, batches, loss=loss, validation_data=validation)
    np.testing.assert_array_equal(one.params, two.params)
    assert got.val_loss == wanted.val_loss
    with pytest.raises(ValueError, match=r"^metrics: 'mae' has no meaning for"):
        fit(two, batches, loss=loss, validation_data=validation, metrics=["mae"])

    # Means are what metrics look at, not variances.
    history = fit(
        one,
        x,
        y[:, :1],
        loss=fm.GaussianNLL(),
        validation_data=(x, y[:, :1]),
        metrics=["mae"],
    )
    wanted = fm.metrics.mae(one(x)[:, :1], y[:, :1])
    assert history.metrics["val_mae"][-1] == wanted


def test_a_loss_in_python_that_diverges_goes_back():
    x, y = data()

    class Bad(LogCosh):
        __slots__ = ("calls",)

        def value_and_grad(self, pred, target, sample_weight=None):
            value, grad = super().value_and_grad(pred, target)
            object.__setattr__(self, "calls", getattr(self, "calls", 0) + 1)
            if self.calls == 7:
                grad = grad * np.float32(np.nan)
            return (np.inf if self.calls == 17 else value), grad

    mlp, opt, loss, good = deep(), fm.Adam(0.01), Bad(), deep()
    with pytest.raises(fm.DivergenceError, match=r"^epoch 2 of 3: .*step 3: "):
        fit(mlp, x, y, loss=loss, optimizer=opt)
    fit(good, x, y, loss=LogCosh(), epochs=1)
    same(mlp, good)
    assert opt.step_count == STEPS
    assert len(mlp.history) == 1
    with pytest.raises(fm.DivergenceError, match=r"^epoch 3 of 3: .*the loss is inf"):
        fit(mlp, x, y, loss=loss, optimizer=opt)
    assert len(mlp.history) == 2
    with pytest.raises(ValueError, match=r"^y must have 60 rows"):
        fit(mlp, x, y[:5], loss=loss)


# Solvers ------------------------------------------------------------------------------


def test_solvers_see_callbacks_and_go_on_exactly(tmp_path):
    x, y = data()
    hooks = [Steps(), fm.Checkpoint(tmp_path / "{epoch}.safetensors")]
    options = {"batch_size": None, "metrics": ["r2"]}
    whole, opt = model(), fm.LBFGS()
    history = fit(whole, x, y, optimizer=opt, epochs=6, callbacks=hooks, **options)
    assert history.loss[-1] < history.loss[0]
    assert [s[:3] for s in hooks[0].seen] == [
        (e, 0, loss) for e, loss in enumerate(history.loss)
    ]
    assert len(history.metrics["r2"]) == 6
    mlp, again = model(seed=1), fm.LBFGS()
    done = fm.Checkpoint.load(tmp_path / "4.safetensors", mlp, again)
    done.extend(fit(mlp, x, y, optimizer=again, epochs=2, **options))
    assert done.loss == history.loss
    np.testing.assert_array_equal(mlp.params, whole.params)


def test_solvers_want_arrays_whole():
    x, y = data()
    with pytest.raises(ValueError, match=r"^batch_size must be None or at least"):
        fit(model(), x, y, optimizer=fm.LBFGS(), batch_size=9)
    with pytest.raises(TypeError, match=r"^LBFGS works on all samples at once"):
        fit(model(), slices(), optimizer=fm.LBFGS())
    with pytest.raises(TypeError, match=r"LBFGS has no learning rate to find"):
        fit(
            model(),
            x,
            y,
            optimizer=fm.LBFGS(),
            batch_size=None,
            callbacks=[fm.LearningRateFinder()],
        )


# Schedules ----------------------------------------------------------------------------


def plateau():
    return fm.schedules.ReduceOnPlateau(0.05, patience=0, threshold=0.02, factor=0.5)


SCHEDULES = {
    "cosine": lambda: fm.schedules.Cosine(0.05, 10),
    "warmup": lambda: fm.schedules.LinearWarmup(fm.schedules.Step(0.05, 6, 0.5), 5),
    "plateau": plateau,
    "function": lambda: lambda step: 0.05 / (step + 1),
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_are_the_same_however_steps_come(kind):
    x, y = data()
    results = []
    for given, options in [
        ((x, y), {"shuffle": False}),
        ((x, y), {"shuffle": False, "callbacks": [Steps()]}),
        ((slices(),), {}),
        ((x, y), {"shuffle": False, "loss": LogCosh(mse=True)}),
    ]:
        mlp, opt = model(), fm.SGD(SCHEDULES[kind](), momentum=0.5)
        fit(mlp, *given, optimizer=opt, epochs=8, validation_data=(x, y), **options)
        results.append((mlp.params.copy(), opt.lr, opt.step_count))
    for params, lr, steps in results[1:]:
        np.testing.assert_array_equal(params, results[0][0])
        assert (lr, steps) == results[0][1:]


@pytest.mark.parametrize("kind", SCHEDULES)
def test_checkpoints_hold_schedules(tmp_path, kind):
    x, y = data()
    make = SCHEDULES[kind]
    save = fm.Checkpoint(tmp_path / "{epoch}.safetensors")
    whole, opt = deep(), fm.Adam(make(), ema=0.9)
    fit(whole, x, y, optimizer=opt, epochs=9, seed=4, callbacks=[save])
    mlp, again = deep(), fm.Adam(make(), ema=0.9)
    fm.Checkpoint.load(tmp_path / "5.safetensors", mlp, again)
    fit(mlp, x, y, optimizer=again, epochs=4)
    same(mlp, whole)
    assert again.lr == opt.lr
    np.testing.assert_array_equal(again.ema_params[0], opt.ema_params[0])
    if kind == "cosine":
        with pytest.raises(ValueError, match=r"the schedule is a Cosine"):
            fm.Checkpoint.load(tmp_path / "5.safetensors", mlp, fm.Adam(plateau()))


def test_the_finder_puts_a_schedule_back():
    mlp, opt = model(), fm.SGD(fm.schedules.Cosine(0.1, 40))
    finder = fm.LearningRateFinder(steps=12)
    fit(mlp, *data(), optimizer=opt, callbacks=[finder])
    assert opt.schedule == fm.schedules.Cosine(0.1, 40)
    assert (opt.lr, len(finder.lrs)) == (0.1, 12)
