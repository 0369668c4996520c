"""Checkpoint."""

import math
import os

import fastmlp as fm
import numpy as np
import pytest
from callback_cases import fit, script
from helpers import toy_mlp
from safetensors.numpy import load_file


def test_checkpoints_are_written_when_they_should(tmp_path):
    def found():
        return sorted(os.listdir(tmp_path))

    fit(
        toy_mlp(),
        epochs=5,
        callbacks=[fm.Checkpoint(tmp_path / "a{epoch:02d}", every=2)],
    )
    assert found() == ["a02", "a04"]
    values = [3, 4, 2, math.nan, 1]
    save = fm.Checkpoint(
        tmp_path / "b{epoch}", "score", save_best_only=True, mode="min"
    )
    # Wherever it is in the list, it is called after the callbacks that log.
    fit(toy_mlp(), epochs=5, callbacks=[save, script(values)])
    assert found() == ["a02", "a04", "b1", "b3", "b5"]
    assert (save.best, save.last_path) == (1, str(tmp_path / "b5"))
    mlp = toy_mlp()
    with pytest.warns(UserWarning, match=r"holds the state of the optimizer, which is"):
        history = fm.Checkpoint.load(tmp_path / "b3", mlp)
    assert (mlp.params == 3).all()
    assert history.metrics["score"] == [3, 4, 2]
    with pytest.raises(ValueError, match=r"needs fit\(validation_data="):
        fit(toy_mlp(), callbacks=[fm.Checkpoint(tmp_path / "c", "val_loss", True)])


def test_a_checkpoint_is_replaced_atomically(tmp_path, monkeypatch):
    path = tmp_path / "run.safetensors"
    fit(toy_mlp(), epochs=1, callbacks=[fm.Checkpoint(path)])
    before = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    mlp = toy_mlp()
    with pytest.raises(OSError, match="disk full"):
        fit(mlp, epochs=2, callbacks=[fm.Checkpoint(path)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.safetensors"]
    assert len(mlp.history) == 1


def test_a_checkpoint_has_no_pickles(tmp_path):
    path = tmp_path / "run.safetensors"
    opt, hooks = fm.Adam(0.01), [fm.EarlyStopping(), fm.Checkpoint(path)]
    mlp = toy_mlp()
    fit(mlp, optimizer=opt, callbacks=hooks)
    arrays = load_file(path)
    # Two moments of Adam, two arrays of the best epoch, and the model's arrays.
    assert len(arrays) == 2 + 2 + len(mlp.state_dict())
    for name, array in mlp.state_dict().items():
        np.testing.assert_array_equal(arrays[name], array)
    assert {a.dtype.kind for a in arrays.values()} == {"f"}


def test_bad_checkpoints(tmp_path):
    path = tmp_path / "run.safetensors"
    stop = fm.EarlyStopping(patience=9)
    fit(toy_mlp(), callbacks=[stop, fm.Checkpoint(path)])

    # A checkpoint that does not fit changes nothing.
    mlp, opt = toy_mlp(seed=1), fm.Adam(0.5)
    before = mlp.params.copy()
    load = fm.Checkpoint.load
    for call, words in [
        (lambda: load(path, fm.MLP([3, 9, 2])), r"^path: .* does not match mlp"),
        (lambda: load(path, fm.MLP([3, 8, 2], dtype="float64")), "does not match mlp"),
        (lambda: load(path, mlp, fm.SGD(0.1)), "must be 'sgd'"),
        (
            lambda: load(path, mlp, opt, [fm.EarlyStopping()]),
            "EarlyStopping, Checkpoint",
        ),
    ]:
        with pytest.raises(ValueError, match=words):
            call()
    np.testing.assert_array_equal(mlp.params, before)
    assert (opt.lr, opt.step_count, mlp.history) == (0.5, 0, None)

    (tmp_path / "x").write_text("nothing")
    np.savez(tmp_path / "y.npz", a=np.ones(3))
    for name in ("x", "y.npz"):
        with pytest.raises(ValueError, match=r"^path: .* is not a checkpoint"):
            load(tmp_path / name, mlp)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "z", mlp)
    with pytest.raises(ValueError, match=r"^path may contain the field \{epoch\}"):
        fm.Checkpoint("{loss}.safetensors")
    with pytest.raises(ValueError, match=r"^every must be at least 1"):
        fm.Checkpoint("a", every=0)
    assert repr(fm.Checkpoint("a")) == (
        "Checkpoint(path='a', monitor=None, save_best_only=False, every=1, mode='min')"
    )


def test_a_resumed_fit_keeps_the_best_checkpoint(tmp_path):
    path = tmp_path / "best.safetensors"
    save = fm.Checkpoint(path, "score", save_best_only=True, mode="min")
    fit(toy_mlp(), callbacks=[script([3, 1, 2]), save])
    again = fm.Checkpoint(path, "score", save_best_only=True, mode="min")
    mlp = toy_mlp()
    done = fm.Checkpoint.load(path, mlp, fm.Adam(), callbacks=[again])
    assert len(done) == 2
    fit(mlp, epochs=2, callbacks=[script([2, 3]), again])
    assert again.last_path is None
    again.load_state_dict(again.state_dict())
    fit(mlp, epochs=2, callbacks=[script([2, 0.5]), again])
    assert again.best == 0.5
