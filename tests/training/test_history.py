"""`History`: columns by name, rows by epoch, tables."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from helpers import toy_data, toy_fit, toy_mlp


@pytest.fixture
def history():
    x, y = toy_data(50)
    return toy_fit(toy_mlp(), x, y, validation_data=(x, y), metrics=["r2"], epochs=4)


def test_columns_by_name(history):
    assert history.keys() == ["loss", "val_loss", "val_r2", "seconds"]
    assert history["loss"] is history.loss
    assert history["val_loss"] is history.val_loss
    assert history["val_r2"] is history.metrics["val_r2"]
    assert history["seconds"] is history.seconds
    assert dict(history) == {name: history[name] for name in history.keys()}  # noqa: SIM118
    assert "loss" in history
    assert "val_r2" in history
    assert "r2" not in history


def test_other_columns_are_refused(history):
    for name in ("acc", 0, None, -1):
        with pytest.raises(KeyError, match=r"not a column .* loss, val_loss, val_r2"):
            history[name]
    x, y = toy_data(50)
    without = toy_fit(toy_mlp(), x, y)
    assert without.keys() == ["loss", "seconds"]
    assert "val_loss" not in without
    with pytest.raises(KeyError, match="'val_loss' is not a column"):
        without["val_loss"]


def test_rows_by_epoch(history):
    rows = list(history)
    assert len(rows) == len(history) == 4
    for i, row in enumerate(rows):
        assert row == {name: history[name][i] for name in history.keys()}  # noqa: SIM118
    assert list(fm.History()) == []


def test_metrics_that_are_not_logged_in_every_epoch():
    x, y = toy_data(50)

    def sometimes(mlp, history):
        if len(history) % 2:
            history.log("odd", len(history))

    history = toy_fit(toy_mlp(), x, y, epochs=3, callbacks=[sometimes])
    assert [row.get("odd") for row in history] == [1.0, 3.0, None]


def test_tables(history):
    pandas = pytest.importorskip("pandas", reason="it makes the table")
    for data in (history, pickle.loads(pickle.dumps(history)), dict(history)):
        table = pandas.DataFrame(data)
        assert list(table.columns) == history.keys()
        for name in table:
            np.testing.assert_array_equal(table[name], history[name])
