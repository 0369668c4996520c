"""Files of models and checkpoints: round trips, writing, paths."""

import json
import os
import pickle
import signal
import subprocess
import sys
import threading

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._formats import atomic_write
from file_cases import data, parts_of_a_training, run, state, trained
from helpers import importing
from safetensors import safe_open
from safetensors.numpy import load_file


def cube(z):
    return z**3


def dcube(z):
    return 3 * z**2


OWN = fm.Activation(cube, dcube)


MODELS = {
    "linear": [3, 2],
    "deep": [3, 8, 5, 2],
    "one": [1, 1],
    "no bias": [3, fm.Dense(4, bias=False), fm.Dense(2, "tanh", False)],
    "options": [
        3,
        fm.Dense(6, "gelu", init="orthogonal"),
        fm.Dense(4, init="torch"),
        2,
    ],
    "norms": [
        3,
        5,
        fm.BatchNorm(eps=1e-3, momentum=0.2),
        fm.LayerNorm(eps=1e-6),
        fm.BatchNorm(affine=False),
        fm.LayerNorm(affine=False),
        fm.RMSNorm(eps=1e-6),
        fm.RMSNorm(affine=False),
        2,
    ],
    "activations": [3, fm.Dense(4, "identity"), fm.Activation("softmax"), 2],
    "dropout": [3, 4, fm.Dropout(0.3), 2],
    "alpha dropout": [3, 4, fm.AlphaDropout(0.3), 2],
    "noise": [3, 4, fm.GaussianNoise(0.3), fm.GaussianDropout(0.3), 2],
    "residual": [
        3,
        fm.Residual([4, fm.BatchNorm(), fm.Residual([fm.Dense(4, bias=False)]), 5]),
        fm.Residual([5]),
        2,
    ],
    "no dense": [3, fm.LayerNorm(), fm.Activation("tanh")],
    "norm only": [4, fm.BatchNorm()],
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MODELS)
def test_models_round_trip_bitwise(name, dtype, tmp_path):
    path = tmp_path / "model.safetensors"
    mlp = trained(MODELS[name], dtype)
    before = state(mlp)
    assert mlp.save(path) is None
    assert state(mlp) == before
    again = fm.load(str(path))
    assert type(again) is fm.MLP
    assert again.dtype == mlp.dtype
    assert again.layers == mlp.layers
    assert state(again) == before
    assert again.history is None
    x, y = data(mlp.n_in, mlp.n_out, dtype)
    np.testing.assert_array_equal(again(x), mlp(x))
    # The same model gives the same file, and it trains in the same way, as copies do.
    first = path.read_bytes()
    pickle.loads(pickle.dumps(again)).save(path)
    assert path.read_bytes() == first
    for one in (mlp, again):
        one.fit(x, y, loss=fm.MSE(), optimizer=fm.SGD(0.1), epochs=2, batch_size=8)
    assert state(again) == state(mlp)


def test_arguments_round_trip(tmp_path):
    options = {
        "activation": "silu",
        "output_activation": "tanh",
        "init": "lecun_normal",
        "bias": False,
    }
    mlp = fm.MLP([2, 3, 1], seed=0, **options)
    mlp.save(tmp_path / "a")
    again = fm.load(tmp_path / "a")
    assert repr(again) == repr(mlp)
    assert again.layers == mlp.layers


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_follow_from_the_layers(name):
    """Files are checked against the names and shapes that models have."""
    from fastmlp._network import resolve

    mlp = fm.MLP(MODELS[name], seed=0)
    shapes = resolve.torch_shapes(mlp.n_in, mlp.layers)
    _, n_out = resolve.count_parameters(mlp.n_in, mlp.layers)
    assert n_out == mlp.n_out
    assert shapes == {n: a.shape for n, a in mlp.state_dict().items()}


def test_special_values_round_trip(tmp_path):
    mlp = fm.MLP([2, 3, 1], seed=0)
    mlp.params[:4] = [np.nan, np.inf, -np.inf, -0.0]
    mlp.save(tmp_path / "a")
    assert fm.load(tmp_path / "a").params.tobytes() == mlp.params.tobytes()


def test_contents_of_a_file(tmp_path):
    """The contents as other programs see them: arrays as in state_dict, and texts."""
    path = tmp_path / "model.safetensors"
    mlp = trained(MODELS["norms"])
    mlp.save(path)
    arrays = load_file(path)
    assert arrays.keys() == mlp.state_dict().keys()
    for name, array in mlp.state_dict().items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(arrays[name], array)
    with safe_open(path, "np") as file:
        texts = file.metadata()
    assert texts.keys() == {"format", "fastmlp", "sha256"}
    assert texts["format"] == "pt"
    description = json.loads(texts["fastmlp"])
    assert description["layers"][:2] == [3, 5]
    assert description["layers"][5] == {
        "kind": "LayerNorm",
        "eps": 1e-5,
        "affine": False,
    }


def test_pytorch_reads_a_file(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not in the extra [test]")
    from safetensors.torch import load_file as load_torch

    mlp = trained([3, 8, fm.BatchNorm(), fm.Dense(4, "tanh"), 2], "float64")
    mlp.save(tmp_path / "a")
    nn = torch.nn
    module = nn.Sequential(
        nn.Linear(3, 8),
        nn.ReLU(),
        nn.BatchNorm1d(8),
        nn.Linear(8, 4),
        nn.Tanh(),
        nn.Linear(4, 2),
    ).double()
    module.load_state_dict(load_torch(tmp_path / "a"))
    module.eval()
    x, _ = data(dtype="float64")
    with torch.no_grad():
        wanted = module(torch.from_numpy(x)).numpy()
    # Sums of eight terms in a different order.
    np.testing.assert_allclose(mlp(x), wanted, rtol=1e-12, atol=1e-13)


def test_custom_functions_are_passed_to_load(tmp_path):
    path = tmp_path / "a"
    mlp = fm.MLP([2, fm.Dense(3, "identity"), OWN, fm.Residual([3, OWN]), 1], seed=0)
    mlp.save(path)
    again = fm.load(path, activations=[OWN, OWN])
    assert again.layers == mlp.layers
    np.testing.assert_array_equal(again(np.ones((3, 2))), mlp(np.ones((3, 2))))
    for given in ((), [OWN], (OWN, OWN, OWN)):
        with pytest.raises(
            ValueError, match=r"^activations must have length 2, .*\(cube, cube\), got"
        ):
            fm.load(path, activations=given)
    with pytest.raises(
        TypeError,
        match=r"^activations\[1\] must be a custom activation, fm\.Activation\(fun",
    ):
        fm.load(path, activations=[OWN, fm.Activation("relu")])
    with pytest.raises(TypeError, match=r"^activations\[0\] must .* a function"):
        fm.load(path, activations=[cube, dcube])
    with pytest.raises(TypeError, match=r"^activations must be a sequence"):
        fm.load(path, activations=OWN)
    fm.MLP([2, 1]).save(path)
    with pytest.raises(
        ValueError, match=r"^activations must have length 0, .* got length 1"
    ):
        fm.load(path, activations=[OWN])


class Odd(fm.Callback):
    """A callback whose state has values of all kinds."""

    def __init__(self):
        self.state = {}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = state


def test_a_checkpoint_is_a_model_too(checkpoint, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(checkpoint)
    mlp, opt, stop = parts_of_a_training(seed=9)
    done = fm.Checkpoint.load(path, mlp, opt, [stop, fm.Checkpoint(path)])
    again = fm.load(path)
    assert state(again) == state(mlp)
    assert again.sequence.within["steps"] == 2
    assert again.history.to_dict() == mlp.history.to_dict() == done.to_dict()
    assert len(done) == 3


def test_a_model_file_is_not_a_checkpoint(model, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(model)
    mlp = fm.load(path)
    with pytest.raises(
        ValueError, match=r"^path: .* holds only a model, not a checkpoint.* fm.load"
    ):
        fm.Checkpoint.load(path, mlp)


def test_states_of_all_kinds_round_trip(tmp_path):
    path = tmp_path / "a"
    arrays = {
        "half": np.arange(3, dtype=np.float16),
        "flags": np.array([[True, False]]),
        "empty": np.zeros((0, 3)),
        "one": np.array(7, dtype=np.uint64),
        "words": np.array(["a", "längst"]),
        "bytes": np.array([b"x", b"yz"]),
        "big": np.array([1.5, 2.5], dtype=">f8"),
        "complex": np.array([1 + 2j]),
        "times": np.array(["2020-01-01"], dtype="M8[D]"),
        "turned": np.arange(6.0).reshape(2, 3).T,
    }
    hook = Odd()
    hook.state = {
        "arrays": arrays,
        "tuple": (1, (2.5, "ö"), [None, True]),
        "numbers": [np.inf, -np.inf, 2**70, -0.0, 1e-320, 0.1],
        "nan": np.nan,
        "a.b": {"c": np.ones(1)},
        "a": {"b.c": np.zeros(1)},
        "dict": {"kept": 1, "": []},
    }
    mlp, opt, stop = parts_of_a_training()
    run(mlp, opt, stop, fm.Checkpoint(path), 1, hook)
    again = Odd()
    hooks = [stop, fm.Checkpoint(path), again]
    fm.Checkpoint.load(path, mlp, opt, hooks)
    found, given = dict(again.state), dict(hook.state)
    assert np.isnan(found.pop("nan"))
    del given["nan"]
    for name, array in given.pop("arrays").items():
        back = found["arrays"].pop(name)
        assert (back.dtype, back.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(back, array)
        back[...] = back  # the array is writeable
    assert found.pop("arrays") == {}
    assert repr(found) == repr(given)

    hook.state = {"records": np.zeros(2, dtype="i4,f8")}
    with pytest.raises(
        TypeError, match=r"records must be an array of booleans, numbers,"
    ):
        run(mlp, opt, stop, fm.Checkpoint(path), 1, hook)
    hook.state = {1: 2}
    with pytest.raises(TypeError, match="keys of a state must be str"):
        run(mlp, opt, stop, fm.Checkpoint(path), 1, hook)


def test_a_checkpoint_with_custom_functions(tmp_path):
    path = tmp_path / "a"
    layers = [3, fm.Dense(4, "identity"), OWN, 2]
    mlp, stop = fm.MLP(layers, seed=0), fm.EarlyStopping()
    opt = fm.Adam(lambda step: 0.01 / (1 + step))
    run(mlp, opt, stop, fm.Checkpoint(path), 2)
    rest, again = fm.MLP(layers, seed=1), fm.Adam(opt.schedule)
    fm.Checkpoint.load(
        path, rest, again, callbacks=[fm.EarlyStopping(), fm.Checkpoint(path)]
    )
    assert state(rest) == state(mlp)
    assert state(fm.load(path, activations=[OWN])) == state(mlp)


@pytest.mark.parametrize("solver", [fm.LBFGS, fm.LevenbergMarquardt])
def test_solvers_round_trip(solver, tmp_path):
    path = tmp_path / "a"
    x, y = data()

    def fit(mlp, opt, epochs, *hooks):
        mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=epochs, callbacks=hooks)
        return state(mlp)

    whole = fit(fm.MLP([3, 4, 2], seed=0, activation="tanh"), solver(), 7)
    mlp, opt = fm.MLP([3, 4, 2], seed=0, activation="tanh"), solver()
    fit(mlp, opt, 4, fm.Checkpoint(path))
    rest, again = fm.MLP([3, 4, 2], seed=1, activation="tanh"), solver()
    fm.Checkpoint.load(path, rest, again)
    assert fit(rest, again, 3) == whole


RESUME = """
import sys
import fastmlp as fm
import test_files
path = sys.argv[1]
fm.set_num_threads(int(sys.argv[3]))
mlp, opt, stop = test_files.parts_of_a_training(seed=99)
save = fm.Checkpoint(path)
done = fm.Checkpoint.load(path, mlp, opt, [stop, save])
done.extend(test_files.run(mlp, opt, stop, save, 9 - len(done), progress=False))
mlp.save(sys.argv[2])
print(fm.isa(), fm.get_num_threads(), [loss.hex() for loss in done.loss])
"""


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("isa", [fm.available_isas()[0], fm.available_isas()[-1]])
def test_another_process_resumes_bitwise(isa, threads, checkpoint, tmp_path):
    """With another instruction set and number of threads, from within an epoch."""
    path, final = tmp_path / "run.safetensors", tmp_path / "final.safetensors"
    mlp, opt, stop = parts_of_a_training()
    history = run(mlp, opt, stop, fm.Checkpoint(path), 9)
    mlp.save(final)
    wanted = final.read_bytes()
    path.write_bytes(checkpoint)
    found = subprocess.run(
        [sys.executable, "-c", RESUME, path, final, str(threads)],
        env=importing(__file__, FASTMLP_ISA=isa),
        capture_output=True,
        text=True,
        check=True,
    )
    losses = [loss.hex() for loss in history.loss]
    assert found.stdout.strip() == f"{isa} {threads} {losses}"
    assert final.read_bytes() == wanted


def test_a_solvers_state_may_be_in_any_order():
    opt = fm.LBFGS(history=3, max_line_search=9)
    state = opt.state_dict()
    state["hyper"] = dict(reversed(state["hyper"].items()))
    again = fm.LBFGS()
    again.load_state_dict(state)
    assert repr(again) == repr(opt)
    assert list(again.state_dict()["hyper"]) == list(opt.state_dict()["hyper"])


KILLED = """
import os, signal, sys
import fastmlp as fm
mlp = fm.MLP([3, 500, 2], seed=1)
at = sys.argv[2]
if at == "limit":
    import resource
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    try:
        mlp.save(sys.argv[1])
    except OSError:
        raise SystemExit(3)
elif at == "folder":
    real = os.replace
    def replace(*paths):
        real(*paths)
        os.kill(os.getpid(), signal.SIGKILL)
    os.replace = replace
else:
    setattr(os, at, lambda *args: os.kill(os.getpid(), signal.SIGKILL))
mlp.save(sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="signals of POSIX")
@pytest.mark.parametrize("at", ["fsync", "replace", "folder", "limit"])
def test_a_killed_writer_leaves_a_complete_file(at, model, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(model)
    done = subprocess.run([sys.executable, "-c", KILLED, path, at], check=False)
    assert done.returncode == (3 if at == "limit" else -signal.SIGKILL)
    if at == "folder":  # the new file has already replaced the old one
        assert state(fm.load(path)) == state(fm.MLP([3, 500, 2], seed=1))
    else:
        assert path.read_bytes() == model
    # An error that does not kill the process leaves no other file behind.
    assert at != "limit" or os.listdir(tmp_path) == ["a"]
    # The next writer removes what was left behind.
    fm.MLP([3, 500, 2], seed=1).save(path)
    assert os.listdir(tmp_path) == ["a"]
    assert state(fm.load(path)) == state(fm.MLP([3, 500, 2], seed=1))


@pytest.mark.parametrize("at", ["open", "fsync", "replace"])
def test_errors_leave_only_the_previous_file(at, model, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(model)
    mlp = fm.MLP([3, 2])

    def fail(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if at == "open":
            patch.setattr(atomic_write, "open", fail, raising=False)
        else:
            patch.setattr(os, at, fail)
        with pytest.raises(OSError, match="No space left"):
            mlp.save(path)
        with pytest.raises(OSError, match="No space left"):
            atomic_write.replace_file(path, lambda file: file.write(b"new"))
    with pytest.raises(ZeroDivisionError):
        atomic_write.replace_file(path, lambda file: 1 / 0)
    assert path.read_bytes() == model
    assert os.listdir(tmp_path) == ["a"]


def test_only_stale_temporary_files_are_removed(tmp_path):
    path = tmp_path / "a"
    others = ["a.0123.tmp", "b.0123456789abcdef.tmp", "a.0123456789ABCDEF.tmp"]
    others += ["a.0123456789abcdef.tmp.b", "xa.0123456789abcdef.tmp", "a.tmp"]
    for name in others:
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a.aaaaaaaaaaaaaaaa.tmp").mkdir()
    (tmp_path / "a.bbbbbbbbbbbbbbbb.tmp").symlink_to("a.tmp")
    kept = sorted(os.listdir(tmp_path))
    stale = [f"a.{i:016x}.tmp" for i in range(3)]
    for name in stale:
        (tmp_path / name).write_bytes(b"x")

    def write(file):
        # Another writer of the same file is at work meanwhile: both are locked.
        file.write(b"first")
        before = set(os.listdir(tmp_path))
        assert not before & set(stale)
        atomic_write.replace_file(path, b"second")
        assert set(os.listdir(tmp_path)) == before | {"a"}

    atomic_write.replace_file(path, write)
    assert path.read_bytes() == b"first"
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "a"])


def test_a_file_that_is_removed_before_it_is_locked(tmp_path, monkeypatch):
    """The writer notices this, and takes another name."""
    real, names = atomic_write._lock, []

    def lock(file, wait):
        names.append(file.name)
        if len(names) < 3:
            os.remove(file.name)
        return real(file, wait)

    monkeypatch.setattr(atomic_write, "_lock", lock)
    atomic_write.replace_file(tmp_path / "a", b"new")
    assert len(set(names)) == 3
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("call", ["open", "fsync", "close"])
def test_a_folder_that_cannot_be_flushed(call, tmp_path, monkeypatch):
    """The new file is in its place, so this is not an error."""
    path, mlp = tmp_path / "a", fm.MLP([3, 2], seed=0)
    mlp.save(path)
    mlp.params[:] = 7
    real = getattr(os, call)

    def fail(first, *rest):
        if call == "open" or os.path.isdir(f"/proc/self/fd/{first}"):
            raise OSError(5, "Input/output error")
        return real(first, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        mlp.save(path)
    assert (fm.load(path).params == 7).all()
    assert os.listdir(tmp_path) == ["a"]


def test_files_that_are_replaced(tmp_path):
    path, link = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"old")
    path.chmod(0o640)
    link.symlink_to("a")
    atomic_write.replace_file(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640
    atomic_write.replace_file(path, lambda file: file.write(b"newer"))
    assert path.read_bytes() == b"newer"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]
    # Permissions are those of any other new file.
    plain = tmp_path / "c"
    plain.write_bytes(b"")
    atomic_write.replace_file(tmp_path / "d", b"")
    assert (tmp_path / "d").stat().st_mode == plain.stat().st_mode


def test_a_file_may_be_written_by_several_threads(tmp_path):
    path = tmp_path / "a"
    models = [fm.MLP([3, n, 2], seed=n) for n in (5, 50, 500)]
    threads = [
        threading.Thread(target=lambda m=m: [m.save(path) for _ in range(5)])
        for m in models
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state(fm.load(path)) in [state(m) for m in models]
    assert os.listdir(tmp_path) == ["a"]


def test_paths(tmp_path, monkeypatch):
    mlp = fm.MLP([3, 2])
    for call in (mlp.save, fm.load):
        for path in (3, None, b"a"):
            with pytest.raises(
                TypeError, match=r"^path must be a str or os.PathLike, got "
            ):
                call(path)
        with pytest.raises(IsADirectoryError):
            call(tmp_path)
        with pytest.raises(FileNotFoundError):
            call(tmp_path / "no" / "a")
    with pytest.raises(FileNotFoundError):
        fm.load(tmp_path / "a")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ValueError, match="is not a regular file"):
        fm.load(fifo)
    with pytest.raises(ValueError, match=r"^path must be a regular file, got .*fifo"):
        mlp.save(fifo)
    assert os.listdir(tmp_path) == ["fifo"]
    monkeypatch.chdir(tmp_path)
    mlp.save("a")
    assert state(fm.load("a")) == state(mlp)


@pytest.mark.filterwarnings("ignore:.*also holds the state of")
def test_the_package_is_not_needed(model, tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_bytes(model)
    for name in [n for n in sys.modules if n.partition(".")[0] == "safetensors"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    mlp = fm.load(path)
    mlp.save(path)
    assert path.read_bytes() == model
    parts = parts_of_a_training()
    run(*parts, fm.Checkpoint(path), 1)
    assert len(fm.Checkpoint.load(path, parts[0])) == 1
