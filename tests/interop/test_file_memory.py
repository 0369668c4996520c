"""Files and memory: large models in blocks, and headers that ask for too much."""

import json
import subprocess
import sys
import textwrap
import tracemalloc

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._formats import safetensors
from fastmlp._network import blocks
from safetensors.numpy import save as package_save

MEGABYTE = 1 << 20

# A process that reports how many megabytes a call needs beside what it leaves behind.
FRAME = """
import numpy as np
import fastmlp as fm

path = "large"
N = 4096  # three layers: 192 MB of parameters
layers = [N, N, N, N]
mlp = fm.MLP(layers, init="zeros", seed=0)
mlp.params[::1000] = np.arange(len(mlp.params[::1000]))
x = np.zeros((1, N), np.float32)

def status(name):
    with open("/proc/self/status") as file:
        line = next(line for line in file if line.startswith(name))
    return int(line.split()[1]) / 1024

def peak(call):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the highest use of memory so far
    result = call()
    print(round(status("VmHWM") - status("VmRSS")))
    return result
"""


def run(script: str, folder) -> list[str]:
    code = FRAME + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


needs_proc = pytest.mark.skipif(
    sys.platform != "linux", reason="memory is measured in Linux's /proc"
)


@needs_proc
def test_saving_and_loading_need_little_memory(tmp_path):
    script = """
        peak(lambda: mlp.save(path))
        again = peak(lambda: fm.load(path))
        assert (again.params == mlp.params).all()
    """
    used = [int(number) for number in run(script, tmp_path)]
    assert len(used) == 2
    assert all(megabytes <= 64 for megabytes in used), used


@needs_proc
def test_checkpoints_need_little_memory(tmp_path):
    script = """
        class Measured(fm.Checkpoint):
            def _store(self, *args):
                peak(lambda: super(Measured, self)._store(*args))

        opt, stop = fm.SGD(1e-9, momentum=0.5), fm.EarlyStopping()
        hooks = [stop, Measured(path)]
        mlp.fit(
            x, x, loss=fm.MSE(), optimizer=opt, epochs=1, batch_size=1, callbacks=hooks
        )
        other, again = fm.MLP(layers, init="zeros"), fm.SGD(1e-9, momentum=0.5)
        hooks = [fm.EarlyStopping(), Measured(path)]
        peak(lambda: fm.Checkpoint.load(path, other, again, hooks))
        assert (other.params == mlp.params).all()
        one, two = (o.state_dict()["slots"][0]["momentum_buffer"] for o in (opt, again))
        assert (one == two).all()
    """
    used = [int(number) for number in run(script, tmp_path)]
    assert len(used) == 2
    assert all(megabytes <= 64 for megabytes in used), used


@needs_proc
def test_a_lack_of_memory_is_a_memory_error(tmp_path):
    """With 64 MB of addresses left, saving works and loading cannot."""
    script = """
        import resource
        mlp.save(path)
        mlp(x)
        room = int(status("VmSize") + 64) << 20
        resource.setrlimit(resource.RLIMIT_AS, (room, room))
        mlp.params[0] = 7
        mlp.save(path)
        for _ in range(2):
            try:
                fm.load(path)
            except MemoryError:
                print("MemoryError")
        assert mlp.params[0] == 7
        mlp(x)
    """
    assert run(script, tmp_path) == ["MemoryError"] * 2


@pytest.mark.parametrize("dtype", sorted({d.str for d in safetensors.DTYPES.values()}))
def test_files_have_the_bytes_of_the_package(dtype, tmp_path):
    """Apart from the order of the texts, which differs from call to call there."""
    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.integers(0, 2, (3, 4)).astype(dtype),
        "a": rng.integers(0, 2, (2, 3, 2)).astype(dtype)[:, ::-1].T,
        "one": np.array(1, dtype),
        "none": np.zeros((0, 3), dtype),
        "double": np.arange(3.0),
    }
    path = tmp_path / "a"
    with path.open("wb") as file:
        safetensors.write(file, arrays, {"x": "y"})
    content = path.read_bytes()
    with safetensors.opened(str(path)) as (found, texts):
        back = {name: stream.whole() for name, stream in found.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
        assert back[name].dtype == array.dtype
    dense = {name: np.array(array, order="C") for name, array in arrays.items()}
    wanted = package_save(dense, {"text": "y"})
    assert texts["x"] == "y"

    def parts(data):
        end = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:end])
        del header["__metadata__"]
        return list(header.items()), data[end:]

    assert parts(content) == parts(wanted)


@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 0), (5, 4), (2, 3, 4), (40, 1)])
@pytest.mark.parametrize("block", [1, 8, 24, 1000])
def test_blocks_cover_arrays_in_order(shape, block, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", block)
    flat = np.arange(float(np.prod(shape)))
    array = flat.reshape(shape)
    turned = np.array(array.T, order="C").T
    for one in (array, turned):
        parts = [part.copy() for part in blocks.parts(one)]
        assert all(part.nbytes <= max(block, 8) for part in parts)
        np.testing.assert_array_equal(np.concatenate([[], *parts]), flat)

    def read(start, out):
        out[:] = flat[start : start + out.size]

    stream = blocks.Stream(array.dtype, shape, read)
    parts = [part.copy() for part in blocks.parts(stream)]
    np.testing.assert_array_equal(np.concatenate([[], *parts]), flat)
    for to in (np.zeros(shape), np.zeros(shape[::-1]).T):
        stream.copy_to(to)
        np.testing.assert_array_equal(to, array)
    np.testing.assert_array_equal(np.asarray(stream), array)


# Headers of strangers ---------------------------------------------------------------


def joined(text: bytes, body: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text + body


def many_arrays(n: int, size: int) -> bytes:
    entries = (
        b'"%d":{"dtype":"F32","shape":[%d],"data_offsets":[%d,%d]}'
        % (i, size, 4 * size * i, 4 * size * (i + 1))
        for i in range(n)
    )
    text = b'{"__metadata__":{"sha256":""},' + b",".join(entries) + b"}"
    return joined(text, bytes(4 * size * n))


HOSTILE = {
    "a million arrays": (lambda: many_arrays(10**6, 1), "header's length must be"),
    "too many arrays": (lambda: many_arrays(60_000, 0), "more than 20000 arrays"),
    "as many arrays as allowed": (lambda: many_arrays(20_000, 1), "hash does not"),
    "lists": (lambda: joined(b"[" + b"[]," * 10**6 + b"1]"), "objects and lists"),
    "numbers": (lambda: joined(b"[" + b"1.5," * 10**6 + b"1]"), "500000 commas"),
    "equal names": (
        lambda: joined(b"{" + b'"a":1,' * 499_000 + b'"a":1}'),
        "the name 'a' occurs twice",
    ),
    "a long name": (
        lambda: joined(b'{"__metadata__":{"sha256":""},"' + b"x" * 9_000_000 + b'":1}'),
        "must have the fields|…",
    ),
    "a long shape": (
        lambda: joined(
            b'{"__metadata__":{"sha256":""},"a":{"dtype":"F32","data_offsets":[0,0],'
            b'"shape":[' + b"1," * 400_000 + b"1]}}"
        ),
        "a: shape",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_large_headers_are_refused_with_little_memory(name, tmp_path):
    make, words = HOSTILE[name]
    path = tmp_path / "a"
    path.write_bytes(make())
    fm.MLP([1, 1]).save(tmp_path / "b")  # load all modules
    fm.load(tmp_path / "b")
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=words) as caught:
            fm.load(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert len(str(caught.value)) < 2000


def description(layers) -> bytes:
    """A file with a valid hash whose model has these layers, and no arrays."""
    tree = {"layers": layers, "activation": "relu", "output_activation": "identity"}
    tree |= {"init": "auto", "bias": True, "dtype": "float32"}
    tree |= {"format": "fastmlp", "version": 1, "history": None, "checkpoint": None}
    tree["training"] = {"seed": 0, "epochs": 0, "within": None, "state": [0, 0, 0]}
    return safetensors.compact(tree)


def test_too_many_layers_are_refused(tmp_path):
    path = tmp_path / "a"
    for layers, words in (
        ([1] * 25_000, "more than 20000 layers"),
        ([1] * 15_000, "it lacks 29998: 0.weight"),
    ):
        with path.open("wb") as file:
            safetensors.write(file, {}, {"fastmlp": description(layers)})
        with pytest.raises(ValueError, match=words):
            fm.load(path)


def test_what_cannot_be_read_is_not_written(tmp_path):
    class Wordy(fm.Callback):
        def state_dict(self):
            return {"lists": [[]] * 200_000}

    path = tmp_path / "a"
    mlp, x = fm.MLP([1, 1], seed=0), np.ones((4, 1))
    how = {"loss": fm.MSE(), "optimizer": fm.SGD(0.1), "batch_size": 4, "epochs": 1}
    with pytest.raises(ValueError, match="must not have more than 200000 objects"):
        mlp.fit(x, x, callbacks=[Wordy(), fm.Checkpoint(path)], **how)
    assert not path.exists()


@pytest.mark.parametrize("epochs", [999, 1001])
def test_long_histories_are_stored_as_arrays(epochs, tmp_path):
    path = tmp_path / "a"
    mlp, x = fm.MLP([1, 1], seed=0), np.ones((4, 1))
    opt = fm.SGD(0.01)
    history = mlp.fit(
        x,
        x,
        loss=fm.MSE(),
        optimizer=opt,
        batch_size=4,
        epochs=epochs,
        validation_data=(x, x),
        metrics=["mae"],
        callbacks=[fm.Checkpoint(path, every=epochs)],
    )
    with safetensors.opened(str(path)) as (arrays, _):
        assert ("history.loss" in arrays) == (epochs > 1000)
    again = fm.load(path)
    assert again.history.to_dict() == history.to_dict()
    other, rest = fm.MLP([1, 1], seed=1), fm.SGD(0.01)
    done = fm.Checkpoint.load(path, other, rest)
    assert done.to_dict() == history.to_dict()


# Files of other formats -------------------------------------------------------------

FOREIGN = {
    "png": (b"\x89PNG\r\n\x1a\n", r"not a fastmlp file, but begins with b'\\x89PNG"),
    "text": (b"epoch,loss\n1,0.5\n", "not a fastmlp file, but begins with b'epoch,lo'"),
    "zip": (b"PK\x03\x04....", r"a zip archive.*fm.from_torch\(torch.load\(path\), …"),
    "pickle": (b"\x80\x05\x95\xd3\x04\0\0\0", r"a pickle.*pickle.load or joblib.load"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "HDF5.*fm.from_keras"),
    "numpy": (b"\x93NUMPY\x01\0", "NumPy's format.*numpy.load"),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("load", ["load", "Checkpoint"])
def test_files_of_other_formats_are_named(name, load, tmp_path):
    start, words = FOREIGN[name]
    path = tmp_path / "a"
    path.write_bytes(start + bytes(5000))
    mlp = fm.MLP([1, 1])
    with pytest.raises(ValueError, match=words):
        fm.load(path) if load == "load" else fm.Checkpoint.load(path, mlp)
