"""CSVLogger."""

import csv

import fastmlp as fm
import pytest
from callback_cases import ROWS, fit
from helpers import toy_data, toy_mlp


def test_csv_logger(tmp_path):
    path = tmp_path / "log.csv"
    log = fm.CSVLogger(path)
    x, y = toy_data(ROWS)
    options = {"validation_data": (x, y), "metrics": ["r2"], "callbacks": [log]}
    history = fit(toy_mlp(), **options)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "loss", "val_loss", "val_r2", "seconds"]
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    assert [float(row["loss"]) for row in rows] == history.loss
    assert [float(row["val_loss"]) for row in rows] == history.val_loss
    assert [float(row["val_r2"]) for row in rows] == history.metrics["val_r2"]
    assert [float(row["seconds"]) for row in rows] == history.seconds

    # Once overwritten, once continued.
    fit(toy_mlp(), **options)
    assert len(path.read_text().splitlines()) == 4
    fit(toy_mlp(), callbacks=[fm.CSVLogger(str(path), append=True)])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["val_r2"] == ""
    assert repr(log) == f"CSVLogger({str(path)!r}, append=False)"


def test_csv_loggers_need_separate_files(tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(
        ValueError, match=r"^path: .* is not a file that CSVLogger wrote"
    ):
        fit(toy_mlp(), callbacks=[fm.CSVLogger(path, append=True)])
    assert path.read_text() == "a,b\n1,2\n"
    with pytest.raises(TypeError, match=r"^path must be a str or os\.PathLike"):
        fm.CSVLogger(3)
    with pytest.raises(FileNotFoundError):
        fit(toy_mlp(), callbacks=[fm.CSVLogger(tmp_path / "no" / "log.csv")])
