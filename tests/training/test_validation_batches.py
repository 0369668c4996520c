"""Validation data that come in batches, and batches without rows."""

import fastmlp as fm
import numpy as np
import pytest

RNG = np.random.default_rng(0)
X = RNG.standard_normal((50, 3)).astype("f")
Y = (X @ [1.0, -2.0, 0.5])[:, np.newaxis].astype("f")
W = RNG.random(50).astype("f")


def batches(*arrays, size=7):
    return [tuple(a[i : i + size] for a in arrays) for i in range(0, 50, size)]


def fit(validation_data, loss=None, y=Y, epochs=3, n_out=1, **options):
    mlp = fm.MLP([3, 8, n_out], seed=0)
    return mlp.fit(
        X,
        y,
        loss=loss or fm.MSE(),
        optimizer=fm.Adam(0.01),
        epochs=epochs,
        validation_data=validation_data,
        seed=0,
        **options,
    )


class Loader:
    """Like a PyTorch DataLoader: it can be iterated over any number of times."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def test_batches_give_what_arrays_give():
    options = {"metrics": ["r2", "mae"]}
    wanted = fit((X, Y), **options)
    sources = [
        batches(X, Y),
        Loader(batches(X, Y)),
        Loader([list(b) for b in batches(X, Y)]),
        lambda: iter(batches(X, Y)),
        lambda epoch: batches(X, Y),
    ]
    for source in sources:
        history = fit(source, **options)
        assert history.has_validation
        assert history.val_loss == wanted.val_loss
        assert history.metrics == wanted.metrics
    # Without metrics, the loss of arrays is computed in another way.
    np.testing.assert_allclose(fit(batches(X, Y)).val_loss, wanted.val_loss, rtol=1e-6)


def test_weights_of_batches():
    wanted = fit((X, Y, W), metrics=["mae"])
    history = fit(batches(X, Y, W), metrics=["mae"])
    assert (history.val_loss, history.metrics) == (wanted.val_loss, wanted.metrics)
    mixed = batches(X, Y, W)
    mixed[2:] = [b[:2] for b in mixed[2:]]
    ones = W.copy()
    ones[14:] = 1
    history, wanted = fit(mixed, metrics=["mae"]), fit((X, Y, ones), metrics=["mae"])
    np.testing.assert_allclose(history.val_loss, wanted.val_loss, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-60, 1e60])
def test_batches_keep_the_ratios_of_weights(scale):
    """Weights that float32 does not hold are scaled by one factor for all batches."""
    weight = np.where(np.arange(50) < 28, 1.0, 1000.0) * scale
    options = {"metrics": ["mae"]}
    wanted = fit((X, Y, weight / scale), **options)
    for data in ((X, Y, weight), batches(X, Y, weight), Loader(batches(X, Y, weight))):
        history = fit(data, **options)
        np.testing.assert_allclose(history.val_loss, wanted.val_loss, rtol=1e-6)
        found = history.metrics["val_mae"]
        np.testing.assert_allclose(found, wanted.metrics["val_mae"], rtol=1e-6)


def test_bad_batches_are_refused_before_training():
    good = batches(X, Y)
    cases = [
        (Loader([(X[:, :2], Y)]), ["mae"], "batch 0: x must have shape"),
        ([*good, (X[:, :2], Y)], ["mae"], "batch 8: x must have shape"),
        (Loader([(X, Y * np.nan)]), ["mae"], "batch 0: y must be finite"),
        (Loader(good), ["accuracy"], "needs class labels"),
        (Loader([]), ["mae"], "ended after 0 batches"),
        ((b for b in good), ["mae"], "3 epochs: pass a list, or pass a function"),
    ]
    for source, metrics, message in cases:
        mlp, optimizer = fm.MLP([3, 1], seed=0), fm.Adam()
        before = mlp.params.copy()
        with pytest.raises(ValueError, match=message):
            mlp.fit(
                X,
                Y,
                loss=fm.MSE(),
                optimizer=optimizer,
                epochs=3,
                validation_data=source,
                metrics=metrics,
            )
        assert (mlp.params == before).all()
        assert optimizer.step_count == 0


def test_other_targets():
    labels = np.arange(50) % 3
    options = {"y": labels, "loss": fm.CrossEntropy(), "n_out": 3}
    options["metrics"] = ["accuracy"]
    wanted = fit((X, labels), **options)
    history = fit(batches(X, labels), **options)
    assert history.val_loss == wanted.val_loss
    assert history.metrics == wanted.metrics

    pair = (labels, Y[:, 0])
    options = {"y": pair, "loss": fm.ActionValue(fm.MSE()), "n_out": 3}
    wanted = fit((X, pair), **options)
    halves = [(X[s], (labels[s], Y[s, 0])) for s in (slice(25), slice(25, None))]
    history = fit(Loader(halves), **options)
    np.testing.assert_allclose(history.val_loss, wanted.val_loss, rtol=1e-6)

    custom = fm.CustomLoss(lambda p, y: (float(abs(p - y).mean()), np.sign(p - y)))
    history = fit(batches(X, Y), loss=custom)
    assert history.val_loss == fit((X, Y), loss=custom).val_loss


def test_early_stopping_watches_them():
    history = fit(batches(X, -Y), epochs=50, callbacks=[fm.EarlyStopping(patience=2)])
    assert len(history) < 50


def test_errors():
    with pytest.raises(ValueError, match=r"^validation_data, a generator, can be iter"):
        fit(b for b in batches(X, Y))
    assert len(fit((b for b in batches(X, Y)), epochs=1).val_loss) == 1
    bad = batches(X, Y)
    bad[1] = (X[:, :2], Y)
    with pytest.raises(
        ValueError, match=r"^validation_data, batch 1: x must have shape"
    ):
        fit(bad)
    for wrong in (3, X, "data", {"x": X}):
        with pytest.raises(TypeError, match=r"^validation_data must be \(x, y\) or"):
            fit(wrong)
    with pytest.raises(ValueError, match=r"^validation_data ended after 0 batches"):
        fit(Loader([]))
    with pytest.raises(ValueError, match="'accuracy' needs class labels"):
        fit(batches(X, Y), metrics=["accuracy"])


# Batches without rows -----------------------------------------------------------------


def test_batches_without_rows_are_skipped(tmp_path):
    empty = (X[:0], Y[:0])
    plain = batches(X, Y)
    with_empty = [empty, *plain[:3], empty, empty, *plain[3:], empty]
    results = []
    for source in (plain, with_empty):
        mlp, optimizer = fm.MLP([3, 4, 1], seed=0), fm.Adam(0.01)
        history = mlp.fit(
            source, loss=fm.MSE(), optimizer=optimizer, epochs=2, validation_data=source
        )
        results.append((mlp.params.tobytes(), history.loss, history.val_loss))
        assert optimizer.step_count == 2 * len(plain)
    assert results[0] == results[1]
    mlp, optimizer = fm.MLP([3, 4, 1], seed=0), fm.Adam(0.01)
    mlp.fit(
        iter(with_empty),
        loss=fm.MSE(),
        optimizer=optimizer,
        epochs=1,
        steps_per_epoch=len(plain),
    )
    assert optimizer.step_count == len(plain)
    with pytest.raises(ValueError, match=r"^x ended after 0 batches"):
        mlp.fit([empty], loss=fm.MSE(), optimizer=optimizer, epochs=1)


def test_a_single_call_needs_rows():
    with pytest.raises(ValueError, match=r"^x must have at least one row"):
        fm.MLP([3, 1]).train_step(X[:0], Y[:0], fm.MSE(), fm.Adam())


def test_nan_targets_of_a_custom_loss():
    """A function may take NaN as "no target", in fit as in train_step."""

    def masked(pred, target):
        r = np.where(np.isnan(target), 0, pred - target)
        return (r**2).mean(), 2 * r / r.size

    y = Y.copy()
    y[::4] = np.nan
    for data in ((X, y), (batches(X, y),)):
        mlp = fm.MLP([3, 1], seed=0)
        history = mlp.fit(
            *data,
            loss=masked,
            optimizer=fm.Adam(0.05),
            epochs=30,
            validation_data=(X, y),
        )
        assert history.val_loss[-1] < 0.1 * history.val_loss[0]
    with pytest.raises(ValueError, match=r"^y must be finite, got nan in row 0"):
        fit(None, y=y)
