"""MLP.summary: names, shapes, counts."""

from __future__ import annotations

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._network import ops
from fastmlp._network.summary import HEADER, size


def table(mlp):
    """Rows of cells of the table, without title, rules and header."""
    lines = mlp.summary().splitlines()
    header = lines[1]
    assert header.split() == " ".join(HEADER).split()
    assert len({len(line) for line in lines[1:]}) == 1
    assert set(lines[2]) == set(lines[-2]) == {"-"}
    rows = [*lines[3:-2], lines[-1]]
    return [[cell for cell in row.split("  ") if cell.strip()] for row in rows]


def clean(rows):
    return [[cell.strip() for cell in row] for row in rows]


def test_counts_of_the_lecture():
    mlp = fm.MLP([784, 512, 512, 10], activation="tanh")
    assert mlp.summary().startswith("MLP 784 -> 10, float32, 2.7 MB\n")
    rows = clean(table(mlp))
    forward = [2 * 784 * 512 + 1024, 2 * 512 * 512 + 1024, 2 * 512 * 10 + 10]
    # The gradient by the first layer's input is not needed.
    training = [
        2 * 2 * 784 * 512 + 2 * 1024,
        3 * 2 * 512 * 512 + 2 * 1024,
        3 * 2 * 512 * 10 + 2 * 10,
    ]
    expected = [
        ["0", "Dense 784 -> 512", "(B, 512)", "tanh", "401,920"],
        ["2", "Dense 512 -> 512", "(B, 512)", "tanh", "262,656"],
        ["4", "Dense 512 -> 10", "(B, 10)", "identity", "5,130"],
        ["total", "669,706"],
    ]
    numbers = zip([*forward, sum(forward)], [*training, sum(training)], strict=True)
    memory = ["1.6 MB", "1.1 MB", "20.5 kB", "2.7 MB"]
    outputs = ["2.0 kB", "2.0 kB", "40 B", "4.1 kB"]
    for row, pair, *cells in zip(expected, numbers, memory, outputs, strict=True):
        row += [*(f"{n:,}" for n in pair), *cells]
    assert rows == expected


@pytest.mark.parametrize(
    ("widths", "count"),
    [
        ([1, 3, 1], 10),
        ([1, *[10] * 5, 1], 471),
        ([10, *[50] * 5, 1], 10_801),
        ([40, *[100] * 2, 10], 15_210),
    ],
)
def test_totals(widths, count):
    mlp = fm.MLP(widths, dtype="float64")
    last = clean(table(mlp))[-1]
    assert last[:2] == ["total", f"{count:,}"]
    assert last[-2] == size(8 * count)
    assert last[-1] == size(8 * sum(widths[1:]))


def test_layers_without_bias_or_activation():
    mlp = fm.MLP([4, fm.Dense(3, "identity", bias=False), fm.Dense(2, "relu")])
    rows = clean(table(mlp))
    # An identity does not take a position among torch's modules.
    assert [row[0] for row in rows] == ["0", "1", "total"]
    assert rows[0][1] == "Dense 4 -> 3, no bias"
    assert rows[0][4:7] == ["12", "24", "48"]
    assert rows[1][4:7] == ["8", str(2 * 6 + 2 + 2), str(3 * 12 + 2 * 4)]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (5e12, "5,000.0 GB"),
    ],
)
def test_sizes(count, text):
    assert size(count) == text


def test_all_kinds_of_layer():
    block = fm.Residual([fm.LayerNorm(), fm.Residual([5, fm.Activation("sin"), 6])])
    mlp = fm.MLP([3, 4, fm.BatchNorm(), fm.Dropout(0.25), block, 2], seed=0)
    rows = clean(table(mlp))
    assert [row[:2] for row in rows[:-1]] == [
        ["0", "Dense 3 -> 4"],
        ["2", "BatchNorm"],
        ["3", "Dropout(0.25)"],
        ["4", "Residual"],
        ["4.body.0", "LayerNorm"],
        ["4.body.1", "Residual"],
        ["4.body.1.body.0", "Dense 4 -> 5"],
        ["4.body.1.body.2", "Activation"],
        ["4.body.1.body.3", "Dense 5 -> 6"],
        ["4.body.1.projection", "Projection 4 -> 6"],
        ["4.projection", "Projection 4 -> 6"],
        ["5", "Dense 6 -> 2"],
    ]
    params = [16, 8, 0, 0, 8, 0, 25, 0, 36, 30, 30, 14]
    counts = [int(row[-5]) for row in rows]
    assert counts == [*params, mlp.n_params]
    # Names are indented by their depth.
    layers = mlp.summary().splitlines()[3:-2]
    at = [line.index(row[1]) for line, row in zip(layers, rows, strict=False)]
    assert [i - at[0] for i in at] == [0, 0, 0, 0, 2, 2, 4, 4, 4, 4, 2, 0]
    # The names of every layer find its parameters.
    names = {name.rpartition(".")[0] for name in mlp.named_parameters()}
    assert names == {row[0] for row in rows[:-1] if int(row[-5])}


def test_steps_are_those_of_the_core():
    block = fm.Residual([4, fm.BatchNorm(), fm.Residual([fm.LayerNorm(affine=False)])])
    layers = [3, fm.BatchNorm(affine=False), 4, block, fm.Residual([7]), fm.Dropout()]
    mlp = fm.MLP([*layers, fm.Dense(2, bias=False)], seed=0)
    ours = [
        (
            {"add": "residual"}.get(step.kind, step.kind),
            step.n_in,
            step.n_out,
            None if step.weight is None else step.weight.start,
            None if step.bias is None else step.bias.start,
            None if step.stats < 0 else step.stats,
        )
        for step in ops.steps(mlp)
    ]
    assert ours == [
        (op.kind, op.n_in, op.n_out, op.weight, op.bias, op.statistics)
        for op in mlp.core.ops
    ]
    assert sum(s.n_params for s in ops.steps(mlp)) == mlp.n_params


def test_steps_take_each_others_outputs():
    block = fm.Residual([fm.Residual([5]), fm.Residual([fm.Dropout()])])
    mlp = fm.MLP([3, 4, block, fm.Activation("tanh")], seed=0)
    network = ops.steps(mlp)
    name = {i: step.name for i, step in enumerate(network)} | {ops.INPUT: "input"}
    taken = {s.name: (name[s.source], name[s.other]) for s in network}
    assert taken == {
        "0": ("input", "input"),
        "2.body.0.body.0": ("0", "input"),
        "2.body.0.projection": ("0", "input"),
        "2.body.0": ("2.body.0.body.0", "2.body.0.projection"),
        "2.body.1.body.0": ("2.body.0", "input"),
        "2.body.1": ("2.body.1.body.0", "2.body.0"),
        "2.projection": ("0", "input"),
        "2": ("2.body.1", "2.projection"),
        "3": ("2", "input"),
    }


def test_custom_functions_are_not_core_activations():
    def relu(z):
        return np.tanh(z)

    own = fm.Activation(relu, lambda z: 1 - np.tanh(z) ** 2)
    mlp = fm.MLP([1, fm.Dense(4, "identity"), own, 1], seed=0)
    assert ops.steps(mlp)[1].activation == "relu()"
    with pytest.raises(ValueError, match=r"piecewise linear.*relu\(\)"):
        fm.regions.count_regions(mlp, -1, 1)


@pytest.mark.parametrize("value", [3, None, "mlp", fm.MSE()])
def test_other_objects_are_refused(value):
    calls = [
        lambda: fm.regions.count_regions(value, 0, 1),
        lambda: fm.regions.activation_patterns(value, [[0.0]]),
        lambda: fm.plot.network(value),
        lambda: fm.plot.level_sets(value),
        lambda: fm.plot.linear_regions(value),
        lambda: fm.plot.fit_1d(value, [0.0]),
        lambda: fm.plot.loss_surface(value, [[0.0]], [[0.0]], fm.MSE()),
        lambda: fm.plot.histograms(value),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"must be an fm\.MLP"):
            call()


def test_a_prompt_shows_the_table():
    text = fm.MLP([4, 8, 1], seed=0).summary()
    assert isinstance(text, str)
    assert repr(text) == str(text) == text
    assert text.count("\n") > 4
    for unit in ("training FLOPs/row", "parameter bytes", "output bytes/row"):
        assert unit in text
