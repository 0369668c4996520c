"""fit on batches from Python: sources, weights, errors."""

import fastmlp as fm
import numpy as np
import pytest
from fit_cases import BATCH, ROWS, STEPS_PER_EPOCH, SUM_RTOL, slices
from helpers import toy_data, toy_fit, toy_mlp


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_batches_are_equivalent_to_arrays(weighted, reduction):
    x, y = toy_data()
    w = (np.arange(ROWS) % 4 + 1).astype("float32") if weighted else None
    loss = fm.MSE(reduction=reduction)
    one, two = toy_mlp(), toy_mlp()
    wanted = toy_fit(one, x, y, loss=loss, shuffle=False, sample_weight=w)
    got = toy_fit(two, slices(weighted), loss=loss)
    np.testing.assert_array_equal(one.params, two.params)
    np.testing.assert_allclose(got.loss, wanted.loss, rtol=SUM_RTOL)


def test_sources_of_batches():
    x, y = toy_data()
    wanted = toy_mlp()
    toy_fit(wanted, x, y, shuffle=False)
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
        mlp = toy_mlp()
        history = toy_fit(mlp, source)
        np.testing.assert_array_equal(mlp.params, wanted.params)
        assert len(history) == 3
    assert epochs == [0, 1, 2]
    mlp = toy_mlp()
    toy_fit(mlp, iter(batches * 3), steps_per_epoch=STEPS_PER_EPOCH)
    np.testing.assert_array_equal(mlp.params, wanted.params)
    mlp = toy_mlp()
    toy_fit(mlp, iter(batches), epochs=1)
    assert len(mlp.history) == 1


def test_an_epoch_continues_across_fits():
    epochs = []

    def numbered(epoch):
        epochs.append(epoch)
        return slices()

    mlp, opt = toy_mlp(), fm.Adam(0.01)
    toy_fit(mlp, numbered, optimizer=opt, epochs=2)
    toy_fit(mlp, numbered, optimizer=opt, epochs=2)
    toy_fit(mlp, numbered, optimizer=opt, epochs=1, seed=0)
    assert epochs == [0, 1, 2, 3, 0]


def test_an_epoch_may_be_a_part():
    count = 0

    def endless():
        nonlocal count
        while True:
            count += 1
            yield slices()[0]

    mlp, opt = toy_mlp(), fm.Adam(0.01)
    toy_fit(mlp, endless, optimizer=opt, steps_per_epoch=5)
    assert (opt.step_count, count) == (15, 15)
    toy_fit(mlp, endless(), optimizer=opt, steps_per_epoch=5)
    assert (opt.step_count, count) == (30, 30)


def test_batches_of_classes_with_validation_and_metrics():
    x, y = toy_data()
    labels = y.argmax(axis=1)
    batches = [(x[:30], labels[:30]), (x[30:], labels[30:])]
    mlp = toy_mlp()
    history = toy_fit(
        mlp,
        batches,
        loss=fm.CrossEntropy(),
        epochs=60,
        validation_data=(x, labels),
        metrics=["accuracy"],
        callbacks=[fm.EarlyStopping(patience=60)],
    )
    assert history.metrics["val_accuracy"][-1] > 0.9


def test_exhausted_generators_are_explained():
    mlp = toy_mlp()
    with pytest.raises(
        ValueError, match=r"^x, a generator, can be iterated over only once"
    ):
        toy_fit(mlp, (b for b in slices()))
    assert mlp.history is None
    with pytest.raises(
        ValueError, match=r"^x ended after 1 of 3 .* 4 batches in total"
    ):
        toy_fit(mlp, (b for b in slices()), steps_per_epoch=3)
    assert len(mlp.history) == 1
    with pytest.raises(ValueError, match=r"^x ended after 4 of 9 batches"):
        toy_fit(mlp, slices(), steps_per_epoch=9)
    with pytest.raises(ValueError, match=r"^x ended after 0 batches"):
        toy_fit(mlp, [])


def test_errors_of_the_source_propagate():
    def broken():
        yield from slices()[:2]
        raise OSError("no such file")

    mlp, opt = toy_mlp(), fm.Adam()
    with pytest.raises(OSError, match="no such file"):
        toy_fit(mlp, broken, optimizer=opt)
    assert opt.step_count == 2
    assert len(mlp.history) == 0
    assert np.isfinite(toy_fit(mlp, slices(), optimizer=opt).loss).all()


@pytest.mark.parametrize(
    ("x", "options", "error", "words"),
    [
        (np.ones((4, 3)), {}, TypeError, "^y must hold real numbers.*batches"),
        (5, {}, TypeError, "^x must be an array or, if y is left out, an iterable"),
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
    mlp = toy_mlp()
    before = mlp.params.copy()
    with pytest.raises(error, match=words):
        toy_fit(mlp, x, **options)
    np.testing.assert_array_equal(mlp.params, before)


def test_arrays_have_no_steps_per_epoch():
    with pytest.raises(ValueError, match=r"^steps_per_epoch can be used only if"):
        toy_fit(toy_mlp(), *toy_data(), steps_per_epoch=3)


def test_a_diverging_batch_goes_back_to_the_last_good_state():
    x, y = toy_data()
    bad = [*slices(), (x, np.full_like(y, 3e38))]
    mlp, opt, other = toy_mlp(), fm.SGD(0.01), toy_mlp()
    start = mlp.params.copy()
    with pytest.raises(fm.DivergenceError, match=r"^epoch 1 of 3: .*step 5"):
        toy_fit(mlp, bad, optimizer=opt)
    # As with arrays, the last good state is that of this epoch's first step.
    np.testing.assert_array_equal(mlp.params, start)
    assert opt.step_count == 0
    epochs = iter([slices(), bad])
    with pytest.raises(fm.DivergenceError, match=r"^epoch 2 of 3: .*step 5"):
        toy_fit(mlp, lambda: next(epochs), optimizer=opt)
    toy_fit(other, slices(), optimizer=fm.SGD(0.01), epochs=1)
    np.testing.assert_array_equal(mlp.params, other.params)
    assert len(mlp.history) == 1


def test_other_targets_come_in_batches_too():
    x, y = toy_data()
    actions, values = y.argmax(axis=1), y.max(axis=1)
    loss = fm.ActionValue(fm.MSE())
    parts = [slice(i, i + BATCH) for i in range(0, ROWS, BATCH)]
    batches = [(x[p], (actions[p], values[p])) for p in parts]
    one, two = toy_mlp(), toy_mlp()
    validation = (x, (actions, values))
    wanted = toy_fit(
        one, x, (actions, values), loss=loss, shuffle=False, validation_data=validation
    )
    got = toy_fit(two, batches, loss=loss, validation_data=validation)
    np.testing.assert_array_equal(one.params, two.params)
    assert got.val_loss == wanted.val_loss
    with pytest.raises(ValueError, match=r"^metrics: 'mae' is not defined for"):
        toy_fit(two, batches, loss=loss, validation_data=validation, metrics=["mae"])

    # Metrics use the predicted means, not the variances.
    history = toy_fit(
        one,
        x,
        y[:, :1],
        loss=fm.GaussianNLL(),
        validation_data=(x, y[:, :1]),
        metrics=["mae"],
    )
    wanted = fm.metrics.mae(one(x)[:, :1], y[:, :1])
    assert history.metrics["val_mae"][-1] == wanted
