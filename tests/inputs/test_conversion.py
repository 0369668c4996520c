"""Inputs: harmless ones are converted, others are refused with a message."""

import decimal
import fractions
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _validate

ROWS, N_IN, N_OUT = 6, 4, 3
# The loss of a few float64 rows, from labels and from one-hot rows.
LOSS_RTOL = 1e-13


def small_ints(*shape, dtype="float32"):
    """Return numbers that are exact in every dtype, so that conversions are."""
    return np.random.default_rng(0).integers(0, 2, shape).astype(dtype)


def model(dtype="float32", n_out=N_OUT):
    return fm.MLP([N_IN, 5, n_out], activation="tanh", dtype=dtype, seed=0)


def unaligned(array):
    raw = np.zeros(array.nbytes + 1, np.uint8)
    result = raw[1:].view(array.dtype).reshape(array.shape)
    result[...] = array
    assert not result.flags.aligned
    return result


def read_only(array):
    result = array.copy()
    result.flags.writeable = False
    return result


def strided(array):
    """Return the same numbers in every second element of a larger array."""
    result = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)[..., ::2]
    result[...] = array
    return result


class HasArray:
    """An object with `__array__`, like the tensors of other libraries."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.array(self.array, dtype=dtype)


def numbered(cases):
    """Return ids of cases from the expected messages, since arrays have none."""
    return [f"{i}: {case[-1]}" for i, case in enumerate(cases)]


HARMLESS = {
    "list": lambda a: a.tolist(),
    "tuple": lambda a: tuple(map(tuple, a)) if a.ndim == 2 else tuple(a),
    "float64": lambda a: a.astype(np.float64),
    "float32": lambda a: a.astype(np.float32),
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "int8": lambda a: a.astype(np.int8),
    "uint64": lambda a: a.astype(np.uint64),
    "longlong": lambda a: a.astype(np.longlong),
    "bool": lambda a: a.astype(bool),
    "objects": lambda a: a.astype(int).astype(object),
    "fractions": lambda a: np.vectorize(fractions.Fraction, otypes=[object])(a),
    "fortran": lambda a: np.asfortranarray(a),
    "reversed": lambda a: a[::-1].copy()[::-1],
    "strided": strided,
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "unaligned": unaligned,
    "read_only": read_only,
    "unpickled": lambda a: pickle.loads(pickle.dumps(a)),
    "subclass": lambda a: a.view(np.recarray),
    "has_array": HasArray,
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_harmless_inputs_give_the_same_bits(change, dtype):
    x, y = small_ints(ROWS, N_IN, dtype=dtype), small_ints(ROWS, N_OUT, dtype=dtype)
    w = np.array([1, 0, 1, 1, 0, 1], dtype)
    mlp, loss = model(dtype), fm.MSE()

    np.testing.assert_array_equal(mlp(change(x)), mlp(x))
    np.testing.assert_array_equal(mlp(change(x[1])), mlp(x[1]))
    np.testing.assert_array_equal(mlp.forward(change(x)), mlp.forward(x))
    np.testing.assert_array_equal(mlp.backward(change(y))[1], mlp.backward(y)[1])
    for a, b in zip(mlp.vjp(change(x), change(y)), mlp.vjp(x, y), strict=True):
        np.testing.assert_array_equal(a, b)
    for args in [(x, y), (x, y, w)]:
        changed = [args[0], *map(change, args[1:])]
        value, grads = mlp.value_and_grad(change(x), changed[1], loss, *changed[2:])
        wanted, wanted_grads = mlp.value_and_grad(x, y, loss, *args[2:])
        assert value == wanted
        np.testing.assert_array_equal(grads, wanted_grads)
        assert mlp.evaluate(change(x), changed[1], loss, *changed[2:]) == mlp.evaluate(
            x, y, loss, *args[2:]
        )


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_harmless_data_train_to_the_same_bits(change):
    x, y, w = small_ints(ROWS, N_IN), small_ints(ROWS, N_OUT), np.ones(ROWS, "float32")
    plain, other = model(), model()
    options = {"loss": fm.MSE(), "epochs": 2, "batch_size": 4, "progress": False}
    plain.fit(x, y, sample_weight=w, optimizer=fm.Adam(), **options)
    other.fit(
        change(x), change(y), sample_weight=change(w), optimizer=fm.Adam(), **options
    )
    np.testing.assert_array_equal(plain.params, other.params)
    assert plain.train_step(x, y, fm.MSE(), fm.SGD(0.1)) == other.train_step(
        change(x), change(y), fm.MSE(), fm.SGD(0.1)
    )
    np.testing.assert_array_equal(plain.params, other.params)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int32", "int64", "uint64", "longlong", ">i4", "bool"]
)
def test_class_labels_of_any_integer_dtype(dtype):
    labels = np.array([0, 1, 1, 0, 1, 0], dtype)
    mlp, loss, x = model(), fm.CrossEntropy(), small_ints(ROWS, N_IN)
    wanted = mlp.value_and_grad(x, labels.astype(np.int64), loss)
    for given in (labels, labels.tolist(), strided(labels)):
        value, grads = mlp.value_and_grad(x, given, loss)
        assert value == wanted[0]
        np.testing.assert_array_equal(grads, wanted[1])


def test_one_hot_rows_are_probabilities():
    labels = np.array([0, 1, 2, 0, 1, 2])
    mlp, loss, x = model("float64"), fm.CrossEntropy(), small_ints(ROWS, N_IN)
    value, grads = mlp.value_and_grad(x, labels, loss)
    for one_hot in (np.eye(3, dtype=int)[labels], np.eye(3)[labels]):
        other, other_grads = mlp.value_and_grad(x, one_hot, loss)
        np.testing.assert_allclose(other, value, rtol=LOSS_RTOL)
        np.testing.assert_allclose(other_grads, grads, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("loss", [fm.MSE(), fm.BinaryCrossEntropy()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_targets_of_one_output_need_no_second_axis(loss, dtype):
    x, y = small_ints(ROWS, N_IN), small_ints(ROWS, dtype=dtype)
    mlp = model(n_out=1)
    column = y[:, np.newaxis]
    flat = mlp.value_and_grad(x, y, loss)
    square = mlp.value_and_grad(x, column, loss)
    assert flat[0] == square[0]
    np.testing.assert_array_equal(flat[1], square[1])
    # A broadcast of (B, 1) - (B,) would give the mean over B x B differences.
    pred = mlp(x)
    assert loss(pred, y) == loss(pred, column) == flat[0]
    assert loss.value_and_grad(pred, y)[1].shape == pred.shape


# Values of x for any method, with the expected errors; each message must name x.
BAD_X = [
    (np.zeros((ROWS, N_IN + 1)), ValueError, rf"\(rows, {N_IN}\).*\({ROWS}, 5\)"),
    (np.zeros((ROWS, N_IN, 1)), ValueError, "shape"),
    (np.zeros((0, N_IN)), ValueError, "at least one row"),
    (np.float32(1.0), ValueError, "shape"),
    ([], ValueError, "shape"),
    ([[1.0, 2.0], [3.0]], ValueError, "cannot be converted to an array"),
    (np.zeros((ROWS, N_IN), complex), TypeError, "real numbers.*complex128"),
    (np.full((ROWS, N_IN), "1"), TypeError, "real numbers"),
    ("text", TypeError, "real numbers"),
    (None, TypeError, "real numbers.*None"),
    (np.full((ROWS, N_IN), "1", dtype=object), TypeError, "real numbers.*'1'"),
    (np.full((ROWS, N_IN), None), TypeError, "real numbers.*None"),
    (np.full((ROWS, N_IN), decimal.Decimal(1)), TypeError, "real numbers"),
    (np.zeros((ROWS, N_IN), "datetime64[s]"), TypeError, "real numbers.*datetime"),
    (np.zeros((ROWS, N_IN), [("a", "f4")]), TypeError, "real numbers"),
    (np.full((ROWS, N_IN), 1e300), ValueError, r"\[0, 0\] = 1e\+300 is too large"),
    (np.full((1, N_IN), 10**400, object), ValueError, "float64"),
    (
        np.ma.masked_array(np.zeros((ROWS, N_IN)), mask=np.eye(ROWS, N_IN)),
        TypeError,
        "masked",
    ),
    (object(), TypeError, "real numbers"),
    ({"x": 1}, TypeError, "real numbers.*dict"),
]


@pytest.mark.parametrize(("x", "error", "words"), BAD_X, ids=numbered(BAD_X))
def test_bad_x(x, error, words):
    mlp, loss, opt = model(), fm.MSE(), fm.Adam()
    before, y = mlp.params.copy(), np.zeros((ROWS, N_OUT), "float32")
    for call in (
        lambda: mlp(x),
        lambda: mlp.forward(x),
        lambda: mlp.vjp(x, y),
        lambda: mlp.value_and_grad(x, y, loss),
        lambda: mlp.train_step(x, y, loss, opt),
        lambda: mlp.evaluate(x, y, loss),
        lambda: mlp.fit(x, y, loss=loss, optimizer=opt, epochs=1, batch_size=2),
    ):
        with pytest.raises(error, match=rf"^x.*{words}"):
            call()
    np.testing.assert_array_equal(mlp.params, before)
    assert opt.step_count == 0
    assert mlp.history is None


def test_training_needs_rows():
    mlp, loss, x = model(), fm.MSE(), np.zeros(N_IN, "float32")
    with pytest.raises(ValueError, match=r"write x\[np.newaxis, :\]"):
        mlp.train_step(x, np.zeros(N_OUT, "float32"), loss, fm.SGD(0.1))
    with pytest.raises(ValueError, match=r"write x\[:, np.newaxis\]"):
        fm.MLP([1, 1])(np.zeros(7))


BAD_Y = [
    (np.zeros((ROWS, N_OUT + 1)), ValueError, rf"\({ROWS}, {N_OUT}\).*\(6, 4\)"),
    (np.zeros((ROWS + 1, N_OUT)), ValueError, "shape"),
    (np.zeros((1, N_OUT)), ValueError, "shape"),
    (np.zeros((ROWS, 1)), ValueError, "shape"),
    (np.zeros(ROWS), ValueError, "shape"),
    (np.zeros(N_OUT), ValueError, "shape"),
    (np.zeros((N_OUT, ROWS)), ValueError, "shape"),
    (np.zeros(()), ValueError, "shape"),
    (np.zeros((ROWS, N_OUT), complex), TypeError, "real numbers"),
    (["a"] * ROWS, TypeError, "real numbers"),
    (None, TypeError, "real numbers"),
]


@pytest.mark.parametrize(("y", "error", "words"), BAD_Y, ids=numbered(BAD_Y))
@pytest.mark.parametrize("loss", [fm.MSE(), fm.BinaryCrossEntropy()])
def test_bad_y(y, error, words, loss):
    mlp, opt, x = model(), fm.Adam(), np.zeros((ROWS, N_IN), "float32")
    before = mlp.params.copy()
    for call in (
        lambda: mlp.value_and_grad(x, y, loss),
        lambda: mlp.train_step(x, y, loss, opt),
        lambda: mlp.evaluate(x, y, loss),
        lambda: mlp.fit(x, y, loss=loss, optimizer=opt, epochs=1, batch_size=2),
    ):
        with pytest.raises(error, match=rf"^y.*{words}"):
            call()
    np.testing.assert_array_equal(mlp.params, before)


BAD_LABELS = [
    (np.array([0, 1, 2, 3, 0, 0]), ValueError, "label 3 in row 3 .*3 classes"),
    (np.array([0, 1, -1, 0, 0, 0]), ValueError, "label -1 in row 2"),
    (np.array([0, 0, 0, 0, 0, 2**64 - 1], np.uint64), ValueError, "in row 5"),
    (np.array([0, 1, -1, 0, 0, 0], np.int8), ValueError, "label -1 in row 2"),
    (np.array([0.0, 1.0, 2.0, 0.0, 0.0, 0.0]), TypeError, r"y.astype\(int\)"),
    (np.zeros((ROWS, 1), int), ValueError, r"y.ravel\(\)"),
    (np.zeros(ROWS + 1, int), ValueError, "shape"),
    (np.zeros((ROWS, N_OUT + 1)), ValueError, "class probabilities of shape"),
    (np.array(list("abcdef")), TypeError, "real numbers"),
]


@pytest.mark.parametrize(("y", "error", "words"), BAD_LABELS, ids=numbered(BAD_LABELS))
def test_bad_labels(y, error, words):
    mlp, opt, loss = model(), fm.Adam(), fm.CrossEntropy()
    before, x = mlp.params.copy(), np.zeros((ROWS, N_IN), "float32")
    for call in (
        lambda: mlp.value_and_grad(x, y, loss),
        lambda: mlp.train_step(x, y, loss, opt),
        lambda: mlp.evaluate(x, y, loss),
        lambda: mlp.fit(x, y, loss=loss, optimizer=opt, epochs=1, batch_size=2),
    ):
        with pytest.raises(error, match=f"y.*{words}"):
            call()
    np.testing.assert_array_equal(mlp.params, before)
    assert opt.step_count == 0


BAD_WEIGHTS = [
    (np.ones(ROWS + 1), ValueError, "shape"),
    (np.ones((ROWS, 1)), ValueError, "shape"),
    (1.0, ValueError, "shape"),
    ([], ValueError, "shape"),
    ([1, 1, 1, -1, 1, 1], ValueError, "-1.0 in row 3"),
    ([1, 1, 1, 1, np.nan, 1], ValueError, "nan in row 4"),
    ([1, 1, np.inf, 1, 1, 1], ValueError, "inf in row 2"),
    (np.zeros(ROWS), ValueError, "all zero"),
    (np.ones(ROWS, complex), TypeError, "real numbers"),
    ("balanced", TypeError, "real numbers"),
]


@pytest.mark.parametrize(
    ("weight", "error", "words"), BAD_WEIGHTS, ids=numbered(BAD_WEIGHTS)
)
def test_bad_sample_weight(weight, error, words):
    mlp, opt, loss = model(), fm.Adam(), fm.MSE()
    x, y = np.zeros((ROWS, N_IN), "float32"), np.zeros((ROWS, N_OUT), "float32")
    before = mlp.params.copy()
    options = {"loss": loss, "optimizer": opt, "epochs": 1, "batch_size": 2}
    for dtype in (None, "float32"):
        if dtype and isinstance(weight, (list, np.ndarray)) and error is ValueError:
            weight = np.asarray(weight, dtype)
        for call in (
            lambda w=weight: mlp.value_and_grad(x, y, loss, w),
            lambda w=weight: mlp.train_step(x, y, loss, opt, w),
            lambda w=weight: mlp.evaluate(x, y, loss, w),
            lambda w=weight: mlp.fit(x, y, sample_weight=w, **options),
            lambda w=weight: loss(y, y, w),
            lambda w=weight: loss.value_and_grad(y, y, w),
        ):
            with pytest.raises(error, match=rf"^sample_weight.*{words}"):
                call()
    np.testing.assert_array_equal(mlp.params, before)


def test_values_that_fit_refuses():
    x, y = small_ints(ROWS, N_IN), small_ints(ROWS, N_OUT)
    bad_x, bad_y = x.copy(), y.copy()
    bad_x[2, 1], bad_y[4, 0] = np.nan, np.inf
    shares = np.full((ROWS, N_OUT), 1 / N_OUT, "float32")
    negative, percent = shares.copy(), 100 * shares
    negative[1] = (-0.5, 1.0, 0.5)
    half = shares.copy()
    half[3] /= 2

    mse, entropy, binary = fm.MSE(), fm.CrossEntropy(), fm.BinaryCrossEntropy()
    for data, loss, words in [
        ((bad_x, y), mse, "^x must be finite, got nan in row 2, column 1"),
        ((x, bad_y), mse, "^y must be finite, got inf in row 4, column 0"),
        ((x, negative), entropy, r"^y must hold probabilities.*in row 1"),
        ((x, percent), entropy, r"^y must hold probabilities.*in row 0"),
        ((x, half), entropy, r"^y .*sum to 1.*0.5 in row 3"),
        ((x, percent), binary, r"^y must hold probabilities.*in row 0"),
    ]:
        mlp, opt = model(), fm.Adam()
        before = mlp.params.copy()
        options = {"loss": loss, "optimizer": opt, "epochs": 1, "batch_size": 2}
        with pytest.raises(ValueError, match=words):
            mlp.fit(*data, **options)
        with pytest.raises(ValueError, match=words.replace("^", "^validation_data: ")):
            mlp.fit(x, shares, validation_data=data, **options)
        np.testing.assert_array_equal(mlp.params, before)
        assert opt.step_count == 0


def test_nan_passes_through_inference():
    mlp, x = model(), small_ints(ROWS, N_IN)
    wanted = mlp(x)
    x[2, 1] = np.nan
    got = mlp(x)
    assert np.isnan(got[2]).all()
    keep = np.arange(ROWS) != 2
    np.testing.assert_array_equal(got[keep], wanted[keep])


def test_out_is_written_in_place():
    mlp, x = model(), small_ints(ROWS, N_IN)
    wanted = mlp(x)
    # An array of the dtype, one of an equal dtype, and inputs that need conversion.
    for given in (x, x.tolist()):
        for out in (np.zeros_like(wanted), pickle.loads(pickle.dumps(wanted * 0))):
            assert mlp(given, out=out) is out
            np.testing.assert_array_equal(out, wanted)
    row = np.zeros(N_OUT, "float32")
    assert mlp(x[0], out=row) is row
    np.testing.assert_array_equal(row, wanted[0])


def test_out_of_a_subclass_is_written_in_place(tmp_path):
    mlp, x = model(), small_ints(ROWS, N_IN)
    wanted = mlp(x)
    path = tmp_path / "out"
    places = [
        np.memmap(path, "float32", "w+", shape=wanted.shape),
        np.zeros_like(wanted).view(np.recarray),
        np.zeros_like(wanted).view(np.matrix),
    ]
    for out in places:
        for given in (x, x.tolist()):
            out[...] = 0
            assert mlp(given, out=out) is out
            np.testing.assert_array_equal(np.asarray(out), wanted)
    places[0].flush()
    np.testing.assert_array_equal(np.fromfile(path, "float32"), wanted.ravel())
    # The same checks as for arrays apply.
    square = fm.MLP([4, 4])
    place = np.memmap(path, "float32", "r+", shape=(4, 4))
    with pytest.raises(ValueError, match=r"^out must not overlap x"):
        square(place, out=place)
    with pytest.raises(ValueError, match=r"^out must be writeable"):
        mlp(x, out=np.memmap(path, "float32", "r", shape=wanted.shape))


def test_bad_out():
    mlp, x = model(), small_ints(ROWS, N_IN)
    right = np.zeros((ROWS, N_OUT), "float32")
    for out, error, words in [
        (right.astype("float64"), TypeError, "dtype float32.*float64"),
        (right.astype(">f4"), TypeError, "dtype float32"),
        (right.tolist(), TypeError, "numpy array.*list"),
        (right[:-1], ValueError, "shape"),
        (right.T.copy(), ValueError, "shape"),
        (np.zeros(N_OUT, "float32"), ValueError, "shape"),
        (np.asfortranarray(right), ValueError, "C-contiguous"),
        (right[::-1], ValueError, "C-contiguous"),
        (strided(right), ValueError, "C-contiguous"),
        (unaligned(right), ValueError, "aligned"),
        (read_only(right), ValueError, "read-only"),
        (np.ma.masked_array(right), TypeError, "masked"),
        (np.ma.masked_array(right, mask=right == 0), TypeError, "masked"),
    ]:
        before = np.array(out)
        with pytest.raises(error, match=rf"^out must (be|have|not be) .*{words}"):
            mlp(x, out=out)
        np.testing.assert_array_equal(np.array(out), before)


def test_out_may_not_overlap():
    square = fm.MLP([4, 4], seed=0)
    memory = np.arange(24, dtype="float32")
    x, out = memory[:16].reshape(4, 4), memory[4:20].reshape(4, 4)
    before = memory.copy()
    for place in (x, out):
        with pytest.raises(ValueError, match=r"^out must not overlap x"):
            square(x, out=place)
    np.testing.assert_array_equal(memory, before)
    params = square.params.copy()
    with pytest.raises(ValueError, match=r"^out must not overlap mlp\.params"):
        square(x, out=square.params[:16].reshape(4, 4))
    np.testing.assert_array_equal(square.params, params)


def test_bad_dy():
    mlp, x = model(), small_ints(ROWS, N_IN)
    with pytest.raises(RuntimeError, match="forward"):
        mlp.backward(np.zeros((ROWS, N_OUT), "float32"))
    mlp.forward(x)
    for dy, error in [
        (np.zeros((ROWS - 1, N_OUT)), ValueError),
        (np.zeros((ROWS - 1, N_OUT), "float32"), ValueError),
        (np.zeros((ROWS, N_IN), "float32"), ValueError),
        (np.zeros(N_OUT, "float32"), ValueError),
        (np.zeros((ROWS, N_OUT), complex), TypeError),
    ]:
        with pytest.raises(error, match=r"^dy must"):
            mlp.backward(dy)
        with pytest.raises(error, match=r"^dy must"):
            mlp.vjp(x, dy)
    mlp.forward(x[0])
    with pytest.raises(ValueError, match=r"^dy must.*\(3,\)"):
        mlp.backward(np.zeros((2, N_OUT), "float32"))


@pytest.mark.parametrize("call", ["value_and_grad", "evaluate", "train_step", "fit"])
def test_losses_and_optimisers_are_objects(call):
    mlp, x, y = model(), small_ints(ROWS, N_IN), small_ints(ROWS, N_OUT)
    before = mlp.params.copy()

    def run(loss, opt):
        if call == "fit":
            return mlp.fit(x, y, loss=loss, optimizer=opt, epochs=1, batch_size=2)
        extra = (opt,) if call == "train_step" else ()
        return getattr(mlp, call)(x, y, loss, *extra)

    bad_losses = [
        (fm.MSE, r"did you mean fm\.MSE\(\)\?"),
        ("mse", "'mse'"),
        (None, "None"),
        (fm.Adam(), "Adam"),
        (0.5, "0.5"),
    ]
    for loss, words in bad_losses:
        with pytest.raises(TypeError, match=rf"^loss must be a fastmlp Loss.*{words}"):
            run(loss, fm.Adam())
    if call in ("train_step", "fit"):
        bad_optimizers = [
            (fm.Adam, r"did you mean fm\.Adam\(\)\?"),
            ("adam", "'adam'"),
            (None, "None"),
            (fm.MSE(), "MSE"),
        ]
        for opt, words in bad_optimizers:
            with pytest.raises(
                TypeError, match=rf"^optimizer must be a fastmlp Optimizer.*{words}"
            ):
                run(fm.MSE(), opt)
    np.testing.assert_array_equal(mlp.params, before)


def test_one_row_of_a_fortran_ordered_matrix():
    """What ``X[:1]`` is behind a ColumnTransformer: its elements lie far apart."""
    x, y = np.random.default_rng(0).standard_normal((2, 100, N_IN), dtype=np.float32)
    mlp, twin = model(n_out=N_IN), model(n_out=N_IN)
    loss, opt, other = fm.MSE(), fm.Adam(), fm.Adam()
    x1, y1 = np.asfortranarray(x)[:1], np.asfortranarray(y)[:1]
    assert not x1.flags.c_contiguous
    x2, y2 = x[:1].copy(), y[:1].copy()
    assert mlp(x1).tobytes() == mlp(x2).tobytes()
    assert mlp(x1.astype(float)).tobytes() == mlp(x2).tobytes()
    assert mlp.predictor(1)(x1).tobytes() == mlp(x2).tobytes()
    assert mlp.evaluate(x1, y1, loss) == mlp.evaluate(x2, y2, loss)
    found, wanted = mlp.value_and_grad(x1, y1, loss), mlp.value_and_grad(x2, y2, loss)
    assert found[0] == wanted[0]
    assert found[1].tobytes() == wanted[1].tobytes()
    assert mlp.train_step(x1, y1, loss, opt) == twin.train_step(x2, y2, loss, other)
    assert mlp.params.tobytes() == twin.params.tobytes()
    buffers = [fm.rl.ReplayBuffer(3, N_IN, seed=0) for _ in range(2)]
    buffers[0].add(x1[0], 1, 0.5, y1[0], False)
    buffers[1].add(x2[0], 1, 0.5, y2[0], False)
    assert buffers[0].sample(1).obs.tobytes() == buffers[1].sample(1).obs.tobytes()


@pytest.mark.parametrize(
    "number",
    [10**400, 10**5000, [1, 10**400], -(10**400)],
    ids=["400", "5000", "list", "negative"],
)
def test_integers_that_no_float_holds(number):
    with pytest.raises(ValueError, match=r"^x must .* too large"):
        _validate.numeric("x", number)
    with pytest.raises(ValueError, match=r"^eps must be .* bits"):
        fm.LayerNorm(eps=10**5000)
