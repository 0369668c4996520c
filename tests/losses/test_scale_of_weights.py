"""A weighted mean does not depend on the scale of the weights, whatever their dtype."""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _validate

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = X @ [1.0, -2.0, 0.5]
W = RNG.integers(1, 5, 20).astype(float)

# Powers of two, so that the ratios of the weights are exactly the same.
SCALES = {
    "float32": [2.0**130, 2.0**-150, 2.0**-1000, 2.0**1000],
    "float64": [2.0**1020, 2.0**-1040, 2.0**-1070],
}
CASES = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


def data(dtype):
    return X.astype(dtype), Y.astype(dtype)[:, np.newaxis]


@pytest.mark.parametrize(("dtype", "scale"), CASES)
def test_every_mean(dtype, scale):
    x, y = data(dtype)
    mlp, loss = fm.MLP([3, 1], dtype=dtype, seed=0), fm.Huber()
    pred = mlp(x)
    calls = [
        lambda w: loss(pred, y, w),
        lambda w: loss.value_and_grad(pred, y, w)[1],
        lambda w: mlp.evaluate(x, y, loss, w),
        lambda w: mlp.value_and_grad(x, y, loss, w)[1],
        lambda w: mlp.copy().train_step(x, y, loss, fm.SGD(0.1), w),
        lambda w: fm.metrics.mae(pred, y, w),
        lambda w: fm.metrics.r2(pred, y, w),
        lambda w: fm.metrics.accuracy(pred, y > 0, w),
    ]
    for call in calls:
        np.testing.assert_allclose(call(W * scale), call(W), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "scale"), CASES)
def test_a_fit(dtype, scale):
    x, y = data(dtype)
    results = []
    for w in (W, W * scale):
        mlp = fm.MLP([3, 1], dtype=dtype, seed=0)
        history = mlp.fit(
            x,
            y,
            loss=fm.MSE(),
            optimizer=fm.SGD(0.05),
            epochs=3,
            batch_size=7,
            sample_weight=w,
            validation_data=(x, y, w),
            metrics=["mae"],
        )
        results.append([*mlp.params, *history.loss, *history.val_loss])
        results[-1] += history.metrics["val_mae"]
    np.testing.assert_allclose(*results, rtol=1e-5)


def test_a_sum_does_depend_on_it():
    x, y = data("float32")
    mlp, loss = fm.MLP([3, 1], seed=0), fm.MSE(reduction="sum")
    with pytest.raises(ValueError, match=r"^sample_weight\[0\] = .* is too large"):
        mlp.evaluate(x, y, loss, W * 1e40)
    with pytest.raises(
        ValueError, match="must not be all zeros, as they are in float32"
    ):
        mlp.evaluate(x, y, loss, W * 1e-60)
    with pytest.raises(ValueError, match=r"must not be all zeros$"):
        mlp.evaluate(x, y, loss, W * 0)
    for bad in (np.nan, np.inf, -1.0):
        w = W.copy()
        w[3] = bad
        with pytest.raises(ValueError, match="finite and not negative"):
            mlp.evaluate(x, y, fm.MSE(), w)


def test_weights_in_range_are_used_as_they_are(dtype):
    weight = np.array([0, 1, 3], dtype)
    kind = np.dtype(dtype)
    assert _validate.weights("w", weight, kind, 3, relative=True) is weight
    for bad in ([0, np.nan, 1], [0, -1, 1], [0, 0, 0], [np.inf, 1, 1]):
        with pytest.raises(ValueError, match=r"^w must"):
            _validate.weights("w", np.array(bad, dtype), kind, 3, relative=True)
    with pytest.raises(ValueError, match=r"^w must have shape \(2,\)"):
        _validate.weights("w", weight, kind, 2, relative=True)
