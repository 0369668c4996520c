"""Inference bound to buffers: `fastmlp.MLP.predictor`."""

import copy
import gc
import pickle
import threading
import tracemalloc

import fastmlp as fm
import numpy as np
import pytest

LAYERS = [
    5,
    33,
    fm.LayerNorm(),
    fm.Residual([17, fm.Dropout(0.5), 33]),
    fm.BatchNorm(),
    fm.Dense(2, "sigmoid"),
]


def model(dtype="float32"):
    return fm.MLP(LAYERS, activation="gelu", dtype=dtype, seed=1)


def samples(rows, dtype="float32"):
    return np.random.default_rng(2).standard_normal((rows, 5)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", fm.available_isas())
@pytest.mark.parametrize("rows", [None, 1, 2, 7, 200])
def test_bits_are_those_of_predict(rows, isa, threads, dtype):
    mlp = model(dtype)
    x = samples(rows or 1, dtype)
    if rows is None:
        x = x[0]
    wanted = mlp(x)
    with fm.use_isa(isa), fm.threads(threads):
        predictor = mlp.predictor(rows)
        assert predictor.x.shape == x.shape
        assert predictor.y.shape == wanted.shape
        predictor.x[...] = x
        np.testing.assert_array_equal(predictor(), wanted)
        predictor.x[...] = 0
        np.testing.assert_array_equal(predictor(x), wanted)
        assert predictor(x) is predictor.y


def test_changes_by_training_are_seen():
    mlp = model()
    predictor, x = mlp.predictor(4), samples(4)
    before = predictor(x).copy()
    mlp.train_step(x, np.zeros((4, 2), np.float32), fm.MSE(), fm.Adam())
    np.testing.assert_array_equal(predictor(x), mlp(x))
    assert (predictor.y != before).any()


def test_buffers_of_the_caller():
    mlp, x = model(), samples(3)
    x.flags.writeable = False
    y = np.empty((3, 2), np.float32)
    predictor = mlp.predictor(x=x, out=y)
    assert predictor() is predictor.y
    assert np.shares_memory(predictor.x, x)
    np.testing.assert_array_equal(y, mlp(x))

    sensors = samples(1)[0]
    one = mlp.predictor(x=sensors)
    np.testing.assert_array_equal(one(), mlp(sensors))
    sensors[0] += 1
    np.testing.assert_array_equal(one(), mlp(sensors))


def test_other_inputs_are_converted():
    mlp, x = model(), samples(3)
    predictor, wanted = mlp.predictor(3), mlp(x)
    for given in (x.astype(np.float64), np.asfortranarray(x), x.tolist()):
        predictor.y[...] = 0
        np.testing.assert_array_equal(predictor(given), wanted)
    # If the input is the result array, it is read before it is overwritten.
    square = fm.MLP([4, 8, 4], seed=0)
    recurrent = square.predictor()
    state = np.ones(4, np.float32)
    recurrent.y[:] = state
    for _ in range(3):
        state = square(state)
        np.testing.assert_array_equal(recurrent(recurrent.y), state)


def test_bad_inputs_are_explained_and_change_nothing():
    mlp = model()
    predictor = mlp.predictor(3)
    predictor(samples(3))
    before = predictor.y.copy()
    for bad in (samples(2), samples(3)[0], samples(3)[:, :4], np.zeros((0, 5))):
        with pytest.raises(ValueError, match="x must have"):
            predictor(bad)
    with pytest.raises(TypeError, match=r"x must .* got None"):
        predictor(None)
    with pytest.raises(TypeError, match="x"):
        predictor(samples(3) + 1j)
    with pytest.raises(TypeError, match="one argument"):
        predictor(samples(3), samples(3))
    with pytest.raises(TypeError, match="one argument"):
        predictor(x=samples(3))
    np.testing.assert_array_equal(predictor.y, before)


def test_bad_buffers_are_explained():
    mlp = model()
    y, frozen = np.zeros(2, np.float32), np.zeros(2, np.float32)
    frozen.flags.writeable = False
    x = np.zeros(5, np.float32)
    cases = [
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"rows": True}, "rows must be an int"),
        ({"x": np.zeros(5)}, "x must have dtype float32"),
        ({"x": np.zeros(4, np.float32)}, r"x must have shape \(5,\)"),
        ({"x": [0.0] * 5}, "x must be a numpy array"),
        ({"x": np.zeros((2, 5), np.float32), "rows": 3}, r"x must have shape \(3, 5\)"),
        ({"x": np.zeros(10, np.float32)[::2]}, "x must be C-contiguous"),
        ({"out": np.zeros((1, 2), np.float32)}, r"out must have shape \(2,\)"),
        ({"out": frozen}, "out must be writeable"),
        ({"x": x, "out": x[:2]}, "out"),
        ({"out": mlp.params[:2]}, r"mlp\.params"),
        ({"x": mlp.params[:5], "out": y}, r"mlp\.params"),
    ]
    for arguments, message in cases:
        with pytest.raises((TypeError, ValueError), match=message):
            mlp.predictor(**arguments)


def test_calls_keep_nothing():
    predictor, x = model().predictor(), samples(1)[0]
    for _ in range(3):
        predictor(x)
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(1000):
        predictor(x)
        predictor()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1000


def test_model_lives_as_long_as_its_predictor():
    mlp, x = model(), samples(1)[0]
    wanted, predictor = mlp(x), mlp.predictor()
    del mlp
    gc.collect()
    np.testing.assert_array_equal(predictor(x), wanted)


def test_predictors_are_not_copied():
    predictor = model().predictor()
    for copying in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            copying(predictor)


def test_separate_predictors_agree_and_sharing_one_is_refused():
    mlp = fm.MLP([5, 400, 400, 2], seed=0)
    x = samples(64)
    wanted = mlp(x)
    shared, seen = mlp.predictor(64), []

    def own():
        predictor = mlp.predictor(64)
        seen.extend(bool((predictor(x) == wanted).all()) for _ in range(20))

    def share():
        for _ in range(50):
            try:
                seen.append(shared(x) is shared.y)
            except RuntimeError as error:
                seen.append("already in use" in str(error))

    workers = [threading.Thread(target=f) for f in (own, own, share, share)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(seen) == 140
    assert all(seen)


def test_buffers_stay_where_they_are():
    predictor = model().predictor(4)
    for buffer in ("x", "y"):
        with pytest.raises(ValueError, match="resize"):
            getattr(predictor, buffer).resize((1000, 1000))


def test_calls_within_calls_are_refused():
    mlp = model()
    predictor = mlp.predictor(3)

    class Again:
        def __array__(self, dtype=None, copy=None):
            return predictor(samples(3))

    with pytest.raises(TypeError, match="already in use"):
        predictor(Again())
    np.testing.assert_array_equal(predictor(samples(3)), mlp(samples(3)))


def test_outputs_are_not_written_into_the_model():
    mlp = fm.MLP([3, fm.BatchNorm(), 3], seed=0)
    before = mlp.params.copy(), mlp.buffers.copy()
    for name in ("params", "buffers"):
        out = getattr(mlp, name)[:3]
        with pytest.raises(ValueError, match=f"out must not overlap mlp.{name}"):
            mlp.predictor(out=out)
        with pytest.raises(ValueError, match=f"out must not overlap mlp.{name}"):
            mlp.predict(np.ones(3, np.float32), out=out)
    np.testing.assert_array_equal(mlp.params, before[0])
    np.testing.assert_array_equal(mlp.buffers, before[1])


def test_exceptions_of_custom_activations_propagate():
    def fails(z):
        raise KeyError("outside")

    mlp = fm.MLP([5, 8, fm.Activation(fails, fails), 2], seed=0)
    predictor = mlp.predictor()
    with pytest.raises(KeyError, match="outside"):
        predictor()
    with pytest.raises(KeyError, match="outside"):
        predictor()  # and the predictor is not left busy
