"""What notebooks show: summaries, histories and models in HTML."""

from __future__ import annotations

import copy
import math
import pickle
import re

import fastmlp as fm
import numpy as np
import pytest
from display_cases import HOSTILE, SVG, every_kind, tree, words
from fastmlp._display import curves, markup
from fastmlp._network.summary import HEADER
from helpers import toy_data, toy_fit, toy_mlp


def cells(table):
    """The texts of a table by rows, with the spaces at their beginnings."""
    return [[cell.text or "" for cell in row] for row in table.iter("tr")]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_summary_has_the_cells_of_its_text(dtype):
    summary = every_kind(dtype).summary()
    first, *lines = summary.splitlines()
    table = tree(summary._repr_html_())
    assert table.tag == "table"
    assert table.find("caption").text == first
    found = cells(table)
    assert found[0] == list(HEADER)
    text = [line.split() for line in lines if set(line) != {"-"}]
    assert [" ".join(row).split() for row in found] == text
    # Layers in residual blocks are indented.
    names = {row[0]: row[1] for row in found}
    assert names["4"] == "Residual"
    assert names["4.body.0"] == "  LayerNorm"
    assert names["4.body.1.body.2"] == "    Activation"
    assert found[-1][0] == "total"
    assert len(list(table.find("tfoot"))) == 1


def test_a_summary_is_still_a_str():
    summary = fm.MLP([4, 8, 1], seed=0).summary()
    assert isinstance(summary, str)
    assert summary + "" == str(summary) == repr(summary)
    assert "<" not in summary


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_summaries_can_be_pickled(protocol):
    summary = fm.MLP([4, 8, 1], seed=0).summary()
    for again in (pickle.loads(pickle.dumps(summary, protocol)), copy.copy(summary)):
        assert again == summary
        assert repr(again) == summary
        assert again._repr_html_() == summary._repr_html_()


def test_models_open_to_diagram_and_summary():
    mlp = every_kind()
    page = tree(mlp._repr_html_())
    assert page.tag == "details"
    assert "open" not in page.attrib
    line, picture, table = page
    assert words(line) == [repr(mlp)]
    assert picture.tag == f"{SVG}svg"
    assert cells(table) == cells(tree(mlp.summary()._repr_html_()))


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_estimators_keep_their_form():
    pytest.importorskip("sklearn", reason="the estimators need it")
    model = fm.sklearn.MLPRegressor(hidden_layer_sizes=(4,), max_iter=2)
    x, y = toy_data(20, n_out=1)
    for each in (model, model.fit(x, y[:, 0])):
        page = each._repr_html_()
        assert "sk-top-container" in page
        assert "<details" not in page or "sk-" in page
    assert tree(model.mlp_._repr_html_()).tag == "details"


# Histories ----------------------------------------------------------------------------


def made(loss, val_loss=(), **metrics):
    """A history with these columns; each epoch took half a second."""
    history = fm.History(has_validation=len(val_loss) > 0)
    history.loss += [float(v) for v in loss]
    history.val_loss += [float(v) for v in val_loss]
    history.seconds += [0.5] * len(history.loss)
    history.metrics |= {k: [float(v) for v in values] for k, values in metrics.items()}
    return history


def shown(history):
    """The picture and the table of a history."""
    page = tree(history._repr_html_())
    return page.find(f".//{SVG}svg"), page.find(".//table")


def lines(picture):
    """The curves: for each, the pieces of points (x, y)."""
    found = []
    for path in picture.iter(f"{SVG}path"):
        if path.get("stroke-linejoin"):
            pieces = path.get("d").split("M")[1:]
            found.append(
                [[tuple(map(float, p.split())) for p in s.split("L")] for s in pieces]
            )
    return found


def test_a_history_has_the_values_of_its_columns():
    x, y = toy_data(50)
    history = toy_fit(
        toy_mlp(), x, y, epochs=7, validation_data=(x, y), metrics=["r2", "mae"]
    )
    picture, table = shown(history)
    assert table.find("caption").text.startswith("History: 7 epochs in ")
    header, *rows = cells(table)
    assert header == ["", "last", "lowest (epoch)", "highest (epoch)"]
    assert [row[0] for row in rows] == ["loss", "val_loss", "val_r2", "val_mae"]
    for name, *values in rows:
        column = history[name]
        low, high = int(np.argmin(column)), int(np.argmax(column))
        assert values == [
            f"{column[-1]:.6g}",
            f"{column[low]:.6g} ({low + 1})",
            f"{column[high]:.6g} ({high + 1})",
        ]
    label = picture.get("aria-label")
    assert "loss" in label
    assert f"training {history.loss[-1]:.4g}" in label
    assert f"validation {history.val_loss[-1]:.4g}" in label
    assert picture[0].text == label
    assert {"training", "validation", "epoch"} <= set(words(picture))


def test_curves_have_the_values_on_a_linear_scale():
    values, other = [4.0, 2.0, 3.0, 1.0], [5.0, 4.0, 3.0, 2.0]
    picture, _ = shown(made(values, other))
    assert "log scale" not in picture.get("aria-label")
    for (line,), column in zip(lines(picture), [values, other], strict=True):
        x, y = np.array(line).T
        assert np.allclose(np.diff(x), np.diff(x)[0], atol=0.11)
        slope, _ = np.polyfit(column, y, 1)
        assert slope < 0
        np.testing.assert_allclose(np.diff(y), slope * np.diff(column), atol=0.11)


def test_values_of_several_decades_have_a_log_scale():
    values = 10.0 ** -np.arange(6)
    picture, _ = shown(made(values))
    assert "loss (log scale)" in words(picture)
    ((line,),) = lines(picture)
    y = np.array(line)[:, 1]
    assert np.allclose(np.diff(y), np.diff(y)[0], atol=0.11)
    for text in ("1", "0.1", "0.01", "0.001", "0.0001", "1e-05"):
        assert text in words(picture)


def test_negative_losses_have_a_linear_scale():
    picture, _ = shown(made([100.0, 1.0, -1.0]))
    assert "log scale" not in picture.get("aria-label")


@pytest.mark.parametrize("count", [1, 5, 30, 31])
def test_short_curves_have_dots(count):
    picture, _ = shown(made(np.linspace(2, 1, count)))
    dots = list(picture.iter(f"{SVG}circle"))
    assert len(dots) == (count if count <= 30 else 0)


def test_values_that_are_not_finite_interrupt_a_curve():
    values = [3.0, math.inf, 2.5, 2.0, math.nan, -math.inf, 1.0]
    picture, table = shown(made(values))
    ((*pieces,),) = lines(picture)
    assert [len(piece) for piece in pieces] == [1, 2, 1]
    assert cells(table)[1] == ["loss", "1", "-inf (6)", "inf (2)"]


@pytest.mark.parametrize(
    "values",
    [
        [math.nan] * 3,
        [0.0],
        [0.0, 0.0],
        [-2.0] * 4,
        [1e308, -1e308],
        [5e-324, 1.0],
        [1e-300, 1e300],
        [1e6 + 0.001, 1e6],
        [7.0] * 1000,
    ],
)
@pytest.mark.filterwarnings("error")
def test_any_values_have_a_picture(values):
    picture, table = shown(made(values, values))
    _, _, width, height = map(float, picture.get("viewBox").split())
    for line in lines(picture):
        for x, y in (point for piece in line for point in piece):
            assert 0 < x < width
            assert 0 < y < height
    assert cells(table)[1][1] == f"{values[-1]:.6g}"
    texts = [t.text for t in picture.iter(f"{SVG}text")]
    assert "nan" not in texts
    assert len(texts) < 30


def test_histories_of_no_epoch_and_of_one():
    assert words(tree(fm.History()._repr_html_())) == ["History: 0 epochs"]
    _, table = shown(made([1.0]))
    assert table.find("caption").text == "History: 1 epoch in 500 ms"


@pytest.mark.parametrize(
    ("epochs", "text"), [(20, "10 s"), (150, "1:15 min"), (8000, "1:06:40 h")]
)
def test_times(epochs, text):
    _, table = shown(made(np.ones(epochs)))
    assert table.find("caption").text == f"History: {epochs:,} epochs in {text}"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0 ms"), (0.9994, "999 ms"), (0.9996, "1 s"), (59.94, "59.9 s")),
        *((59.96, "1:00 min"), (3599.4, "59:59 min"), (3599.6, "1:00:00 h")),
    ],
)
def test_times_are_rounded_to_the_next_unit(seconds, text):
    history = made([1.0])
    history.seconds[:] = [seconds]
    _, table = shown(history)
    assert table.find("caption").text == f"History: 1 epoch in {text}"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_metrics_are_escaped(name):
    history = made([1.0], **{name: [2.0]})
    text = history._repr_html_()
    assert "<script" not in text
    _, table = shown(history)
    assert cells(table)[2][0] == re.sub("[\x00\x1b\ud800]", "\ufffd", name)


def test_a_metric_without_values_is_left_out():
    history = made([1.0, 2.0], none=[], some=[3.0])
    _, table = shown(history)
    assert [row[0] for row in cells(table)[1:]] == ["loss", "some"]
    assert repr(history) == "History(epochs=2, loss=2, some=3)"


def test_long_curves_are_thinned_but_keep_their_extremes():
    n = 100_000
    values = 1 + 0.1 * np.sin(np.arange(n) / 5000)
    values[54_321], values[12_345] = 2.0, 0.5
    values[70_000:71_000] = np.nan
    history = made(values)
    assert len(history._repr_html_()) < 60_000
    picture, _ = shown(history)
    (pieces,) = lines(picture)
    assert len(pieces) == 2
    y = [point[1] for piece in pieces for point in piece]
    bottom, top = curves.HEIGHT - curves.BOTTOM, curves.TOP
    # The axis has a margin of 4 % of the range, so of 1/27 of its length.
    assert min(y) == pytest.approx(top + (bottom - top) / 27, abs=0.1)
    assert max(y) == pytest.approx(bottom - (bottom - top) / 27, abs=0.1)


def test_epochs_are_marked_by_whole_numbers():
    for epochs in (1, 2, 3, 7, 60, 1000, 200_000):
        picture, _ = shown(made(np.ones(epochs)))
        _, _, width, _ = map(float, picture.get("viewBox").split())
        y = f"{curves.HEIGHT - curves.BOTTOM + 15}"
        marks = [t for t in picture.iter(f"{SVG}text") if t.get("y") == y]
        numbers = [int(t.text.replace(",", "")) for t in marks]
        assert 1 <= len(numbers) <= 8
        assert all(1 <= number <= epochs for number in numbers)
        for mark in marks:
            assert float(mark.get("x")) + 3.5 * len(mark.text) <= width


def test_forms_have_no_fixed_text_colours_or_ids():
    history = made([3.0, 2.0], [4.0, 3.0])
    mlp = every_kind()
    for text in (mlp._repr_html_(), mlp.summary()._repr_html_(), history._repr_html_()):
        page = tree(text)
        for element in page.iter():
            assert not {"id", "class"} & element.attrib.keys()
            assert "background" not in element.get("style", "")
        assert {t.get("fill") for t in page.iter(f"{SVG}text")} <= {"currentColor"}


def test_cells_have_headers_for_screen_readers():
    _, of_history = shown(made([3.0, 2.0], [4.0, 3.0]))
    for table in (tree(every_kind().summary()._repr_html_()), of_history):
        first, *others = table.iter("tr")
        assert {cell.get("scope") for cell in first if cell.text} == {"col"}
        for row in others:
            assert [cell.get("scope") for cell in row if cell.tag == "th"] == ["row"]
            assert row[0].tag == "th"
        # A header without text has no meaning.
        assert all(cell.text for cell in table.iter("th"))


@pytest.mark.parametrize("colour", [markup.BLUE, markup.RED, markup.GREEN])
def test_colours_are_legible_on_white_and_black(colour):
    """Contrasts as defined by the Web Content Accessibility Guidelines, at least 3."""

    def light(level):
        return level / 12.92 if level <= 0.04045 else ((level + 0.055) / 1.055) ** 2.4

    r, g, b = (light(int(colour[i : i + 2], 16) / 255) for i in (1, 3, 5))
    luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b
    assert 1.05 / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / 0.05 >= 3
