"""Arrays of other kinds: used in place where that is possible, else refused clearly."""

import array
import tracemalloc

import fastmlp as fm
import numpy as np
import pandas as pd
import polars as pl
import pytest
from fastmlp import _validate

ROWS, N_IN, N_OUT = 6, 4, 3
FLOAT32 = np.dtype("float32")


def model(dtype="float32"):
    return fm.MLP([N_IN, 5, N_OUT], activation="tanh", dtype=dtype, seed=0)


def numbers(rng, *shape):
    return rng.normal(size=shape).astype("float32")


class OnlyDlpack:
    """An array of a library that supports only DLPack."""

    def __init__(self, held, device=(1, 0)):
        self.held, self.device = held, device
        self.shape = held.shape

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        return self.held.__dlpack__(**options)


class Readable(OnlyDlpack):
    """An array that numpy can also read by `__array__`, in place or as a copy."""

    copies = False

    def __array__(self, dtype=None, copy=None):
        return self.held.copy() if self.copies else self.held


class Copying(Readable):
    copies = True


def wrapped(kind, held):
    if kind == "memoryview":
        return memoryview(held)
    if kind == "dlpack":
        return OnlyDlpack(held)
    if kind == "dlpack and array":
        return Readable(held)
    torch = pytest.importorskip("torch", reason="its tensors are used")
    return torch.from_numpy(held)


KINDS = ("memoryview", "dlpack", "dlpack and array", "torch")


# In place -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_not_copied(kind, rng):
    held = numbers(rng, ROWS, N_IN)
    rows = _validate.inputs("x", wrapped(kind, held), N_IN, FLOAT32)
    assert type(rows) is np.ndarray
    assert np.shares_memory(rows, held)
    mlp = model()
    np.testing.assert_array_equal(mlp(wrapped(kind, held)), mlp(held))


@pytest.mark.parametrize("kind", KINDS)
def test_training_takes_what_inference_takes(kind, rng):
    x, y = numbers(rng, ROWS, N_IN), numbers(rng, ROWS, N_OUT)
    weight = abs(numbers(rng, ROWS)) + 1
    results = []
    for wrap in (lambda held: held, lambda held: wrapped(kind, held)):
        mlp, opt = model(), fm.Adam()
        mlp.train_step(wrap(x), wrap(y), fm.MSE(), opt, wrap(weight))
        data = {"x": wrap(x), "y": wrap(y), "sample_weight": wrap(weight)}
        options = {"loss": fm.MSE(), "optimizer": opt, "batch_size": 2, "seed": 0}
        mlp.fit(**data, epochs=1, **options)
        value, grads = mlp.value_and_grad(wrap(x), wrap(y), fm.MSE())
        _, dx, _ = mlp.vjp(wrap(x), wrap(y))
        results.append((mlp.params.copy(), value, grads, dx))
    for got, wanted in zip(*results, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_out_is_written_without_a_copy(kind, rng):
    mlp, x = model(), numbers(rng, ROWS, N_IN)
    held = np.zeros((ROWS, N_OUT), "float32")
    out = wrapped(kind, held)
    assert mlp(x, out=out) is out
    np.testing.assert_array_equal(held, mlp(x))
    assert held.any()


def test_out_as_a_python_array():
    mlp = model()
    out = array.array("f", [0.0] * N_OUT)
    assert mlp(np.ones(N_IN, "float32"), out=out) is out
    assert out.tolist() == mlp(np.ones(N_IN, "float32")).tolist()


def test_out_that_is_only_a_copy_is_not_written_to(rng):
    mlp, x = model(), numbers(rng, ROWS, N_IN)
    held = np.zeros((ROWS, N_OUT), "float32")
    # DLPack gives access to its memory, so the copy is not used.
    mlp(x, out=Copying(held))
    np.testing.assert_array_equal(held, mlp(x))


def test_bad_out_of_other_kinds(rng):
    mlp, x = model(), numbers(rng, ROWS, N_IN)
    held = np.zeros((ROWS, N_OUT), "float32")
    fixed = held.copy()
    fixed.flags.writeable = False
    for out, error, words in [
        (bytes(8), TypeError, "dtype"),
        (memoryview(held.astype("float64")), TypeError, "dtype float32.*float64"),
        (memoryview(held[:-1]), ValueError, "shape"),
        (memoryview(fixed), ValueError, "read-only"),
        (OnlyDlpack(held[::2].repeat(2, 0)[:, ::-1]), ValueError, "C-contiguous"),
        (OnlyDlpack(held, (2, 0)), TypeError, "CPU memory.*CUDA"),
        (held.tolist(), TypeError, "share.*list"),
        (pd.DataFrame(held), TypeError, "share.*DataFrame"),
    ]:
        with pytest.raises(error, match=rf"^out must (be|have) .*({words})"):
            mlp(x, out=out)
    assert not held.any()


def test_tensors_that_overlap(rng):
    square = fm.MLP([4, 4], seed=0)
    held = numbers(rng, 4, 4)
    before = held.copy()
    with pytest.raises(ValueError, match=r"^out must not overlap x"):
        square(OnlyDlpack(held), out=memoryview(held))
    np.testing.assert_array_equal(held, before)


def test_read_only_memory_maps_are_not_copied(tmp_path, rng):
    rows = 20000
    path = tmp_path / "x"
    numbers(rng, rows, 16).tofile(path)
    x = np.memmap(path, "float32", "r", shape=(rows, 16))
    assert not x.flags.writeable
    got = _validate.inputs("x", x, 16, FLOAT32)
    assert np.shares_memory(got, x)

    # Training does not copy them either, except for the masks of bytes with which fit
    # looks for NaN.
    mlp = fm.MLP([16, 2, 1], seed=0)
    y = np.zeros((rows, 1), "float32")
    options = {"loss": fm.MSE(), "optimizer": fm.SGD(0.1), "batch_size": 100}
    tracemalloc.start()
    mlp.fit(x, y, epochs=1, **options)
    mlp.evaluate(x, y, fm.MSE())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 0.75 * x.nbytes


# Converted ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        lambda a: pd.DataFrame(a).convert_dtypes(),
        lambda a: pd.DataFrame(a.astype("float64")),
        lambda a: pd.DataFrame({i: a[:, i].astype(object) for i in range(N_IN)}),
        pl.DataFrame,
        lambda a: pl.DataFrame(a.astype("float64")),
        lambda a: OnlyDlpack(a.astype("float64")),
        lambda a: OnlyDlpack(np.asfortranarray(a)),
    ],
)
def test_frames_and_other_containers_give_the_same_bits(make, rng):
    mlp, x = model(), numbers(rng, ROWS, N_IN)
    np.testing.assert_array_equal(mlp(make(x)), mlp(x))


@pytest.mark.parametrize("series", [pd.Series, pl.Series], ids=["pandas", "polars"])
def test_labels_as_a_series(series, rng):
    x, labels = numbers(rng, ROWS, N_IN), [0, 1, 2, 0, 1, 2]
    wanted = model().evaluate(x, labels, fm.CrossEntropy())
    assert model().evaluate(x, series(labels), fm.CrossEntropy()) == wanted


# Refused ------------------------------------------------------------------------------


class Tensor:
    """A tensor of another library, with the given attributes."""

    def __init__(self, **says):
        self.__dict__.update(says)


class Unknown:
    """An array on a device that DLPack does not know."""

    def __dlpack_device__(self):
        raise ValueError("no such device")

    def __dlpack__(self, **options):
        raise BufferError("nothing to share")


def released():
    view = memoryview(b"1234")
    view.release()
    return view


def bad_frame():
    return pd.DataFrame({"a": [1.0, None], "b": [1, 2]}, dtype="Float64")


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (OnlyDlpack(np.zeros((2, 4)), (2, 0)), r"CPU memory.*CUDA.*x\.cpu\(\)"),
        (Readable(np.zeros((2, 4)), (8, 0)), "CPU memory.*Metal"),
        (OnlyDlpack(np.zeros((2, 4)), (99, 0)), "DLPack's type 99"),
        (Tensor(requires_grad=True), r"requires grad.*x\.detach\(\).*as_torch_module"),
        (Unknown(), "cannot be converted to an array.*nothing to share"),
        (pd.DataFrame({"a": ["one"], "b": ["two"]}), "real numbers"),
        (pl.DataFrame({"a": ["one"], "b": ["two"]}), "real numbers"),
        (pd.DataFrame({"a": pd.to_datetime(["2024-02-29"])}), "real numbers"),
        (np.ma.masked_array(np.zeros((2, 4)), mask=np.eye(2, 4)), "masked"),
        (b"1234", "real numbers"),
        (released(), "memoryview"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_refused_inputs_are_explained(x, words):
    mlp = model()
    for call in (mlp, mlp.forward, mlp.jacobian):
        with pytest.raises(TypeError, match=rf"(?s)^x .*{words}"):
            call(x)
    with pytest.raises(TypeError, match=r"(?s)^dy "):
        mlp.vjp(np.zeros((2, N_IN), "float32"), x)


def test_shapes_come_before_conversions():
    """An array too large to convert is still refused for its wrong shape."""
    wide = np.broadcast_to(0.0, (2, 2**45))
    with pytest.raises(ValueError, match=rf"^x must have shape .*{N_IN}.*{2**45}"):
        model()(wide)


def test_missing_values_of_frames_stay_missing():
    # It depends on pandas whether they become NaN or are not numbers.
    mlp = fm.MLP([2, 1], seed=0)
    options = {"loss": fm.MSE(), "optimizer": fm.SGD(0.1), "epochs": 1}
    with pytest.raises((TypeError, ValueError), match=r"^x must (be finite|hold real)"):
        mlp.fit(bad_frame(), [0.0, 1.0], **options, batch_size=2)


def test_sixteen_bit_brain_floats():
    ml_dtypes = pytest.importorskip(
        "ml_dtypes", reason="it provides bfloat16 for numpy"
    )
    x = np.zeros((ROWS, N_IN), ml_dtypes.bfloat16)
    with pytest.raises(TypeError, match=r"bfloat16.*x to float32 first"):
        model()(x)


def test_tensors_that_cannot_be_used():
    torch = pytest.importorskip("torch", reason="its tensors are used")
    mlp = model()
    for x, words in [
        (torch.zeros(ROWS, N_IN, requires_grad=True), r"requires grad.*x\.detach\(\)"),
        (torch.zeros(ROWS, N_IN, device="meta"), "meta"),
        (torch.zeros(ROWS, N_IN, dtype=torch.bfloat16), "x to float32 first"),
        (torch.zeros(ROWS, N_IN).to_sparse(), "to_dense"),
        (torch.zeros(ROWS, N_IN, dtype=torch.complex64), "real numbers"),
    ]:
        with pytest.raises(TypeError, match=f"^x .*{words}"):
            mlp(x)
    out = torch.zeros(ROWS, N_OUT)
    x = np.zeros((ROWS, N_IN), "float32")
    for bad, words in [
        (out.clone().requires_grad_(), "requires grad"),
        (out.to("meta"), "whose memory NumPy can share"),
        (out.bfloat16(), "out to float32 first"),
        (out.double(), "must have dtype float32"),
    ]:
        with pytest.raises(TypeError, match=f"^out .*{words}"):
            mlp(x, out=bad)
    with pytest.raises(ValueError, match=r"^out must be C-contiguous"):
        mlp(x, out=torch.zeros(N_OUT, ROWS).T)


def test_half_precision_is_widened(rng):
    mlp, x = model(), numbers(rng, ROWS, N_IN).astype("float16")
    np.testing.assert_array_equal(mlp(x), mlp(x.astype("float32")))
