"""Concat and Parallel: values, gradients and training; nesting, names, errors."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest


def network(n_out: int = 3, dtype: str = "float64") -> fm.MLP:
    """Return a network of all kinds: nested, with empty branches, at both ends."""
    inner = fm.Parallel([[4, fm.LayerNorm()], [], [fm.Residual([3, 7])]])
    layers = [
        fm.Concat([fm.Dense(7, "tanh")]),
        *(fm.Dense(7, "silu"), inner, fm.Activation("tanh"), fm.Dropout(0.0)),
        fm.Concat([fm.Concat([2]), fm.Dense(3, "gelu")]),
        fm.Parallel([[fm.Dense(2, "tanh")], [fm.Dense(4, "sigmoid"), 3]]),
        n_out,
    ]
    return fm.MLP([5, *layers], activation="identity", dtype=dtype, seed=0)


def test_values_stand_side_by_side() -> None:
    x = checks.rows(6, 4)
    left = fm.MLP([4, fm.Dense(3, "tanh"), 2], dtype="float64", seed=1)
    right = fm.MLP([4, fm.Dense(5, "relu")], dtype="float64", seed=2)
    branches = [left.layers, (), right.layers]
    both = fm.MLP([4, fm.Parallel(branches)], dtype="float64", seed=3)
    both.params[:] = np.concatenate([left.params, right.params])
    np.testing.assert_array_equal(both(x), np.hstack([left(x), x, right(x)]))

    skip = fm.MLP([4, fm.Concat(left.layers)], dtype="float64", seed=3)
    skip.params[:] = left.params
    np.testing.assert_array_equal(skip(x), np.hstack([x, left(x)]))


@pytest.mark.parametrize("m", [1, 2, 33, 300])
def test_torch(m: int) -> None:
    checks.check_torch(network(), m)
    checks.check_torch(network(1), m, hessian=True)


def test_derivatives() -> None:
    checks.check_derivatives(network())
    checks.check_hessian(network(1))


def test_training_is_that_of_the_reference() -> None:
    def make(lib: Any) -> list[Any]:
        drops = [lib.Dropout(0.3), 4]
        branches = lib.Parallel([drops, [lib.Dense(6, "tanh"), lib.BatchNorm()], []])
        return [4, lib.Concat([6, lib.Dropout(0.2)]), branches, 7, 2]

    checks.check_training(make)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(dtype: str) -> None:
    checks.check_same_bits(lambda: network(3, dtype))


def test_a_branch_has_the_bits_that_it_has_alone() -> None:
    x = checks.rows(70, 6, np.float32)
    y = checks.rows(70, 5, np.float32, seed=2)
    heads = [[9, fm.Dense(2, "tanh")], [fm.Dense(3, "sigmoid")]]
    both = fm.MLP([6, fm.Parallel(heads)], seed=0)
    alone = [fm.MLP([6, *head], seed=0) for head in heads]
    alone[0].params[:] = both.params[: alone[0].n_params]
    alone[1].params[:] = both.params[alone[0].n_params :]
    dy = both.vjp(x, y)[2]
    parts = [alone[0].vjp(x, y[:, :2])[2], alone[1].vjp(x, y[:, 2:])[2]]
    assert dy.tobytes() == np.concatenate(parts).tobytes()


def test_each_head_has_an_output_layer() -> None:
    heads = fm.Parallel([[8, 1], [fm.Residual([4]), fm.Dense(3, "softmax")], [2]])
    mlp = fm.MLP([5, 6, heads], activation="tanh", output_activation="sigmoid")
    trunk, last = mlp.layers
    assert trunk.activation == "tanh"
    first, second, third = last.branches
    assert [layer.activation for layer in first] == ["tanh", "sigmoid"]
    assert second[0].layers[0].activation == "tanh"
    assert second[1].activation == "softmax"
    assert third[0].activation == "sigmoid"


def test_a_layer_before_empty_branches_is_the_output_layer() -> None:
    drops = fm.Parallel([[fm.Dropout(0.1)], []])
    mlp = fm.MLP([5, 6, drops], activation="tanh", output_activation="sigmoid")
    assert mlp.layers[0].activation == "sigmoid"


def test_names_and_order_of_parameters() -> None:
    mlp = fm.MLP([3, fm.Concat([4]), fm.Parallel([[2], [fm.Residual([5])]])])
    names = {name: view.shape for name, view in mlp.named_parameters().items()}
    assert names == {
        "0.body.0.weight": (3, 4),
        "0.body.0.bias": (4,),
        "1.branches.0.0.weight": (7, 2),
        "1.branches.0.0.bias": (2,),
        "1.branches.1.0.body.0.weight": (7, 5),
        "1.branches.1.0.body.0.bias": (5,),
        "1.branches.1.0.projection.weight": (7, 5),
        "1.branches.1.0.projection.bias": (5,),
    }


def test_folding_reaches_the_branches() -> None:
    norm = [fm.Dense(6, "identity"), fm.BatchNorm(), fm.Activation("relu")]
    layers = [fm.Concat([*norm, fm.Dropout(0.5)]), fm.Parallel([norm, [4]])]
    mlp = fm.MLP([5, *layers, 2], dtype="float64", seed=0)
    x, y = checks.rows(40, 5), checks.rows(40, 2, seed=2)
    mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.Adam(0.01), epochs=2)
    folded = mlp.fold()
    np.testing.assert_allclose(folded(x), mlp(x), rtol=checks.RTOL, atol=checks.RTOL)
    kinds = [type(layer).__name__ for layer in folded.layers[0].layers]
    assert kinds == ["Dense", "Activation"]


def test_frozen_branches_do_not_change() -> None:
    mlp = fm.MLP([4, 5, fm.Parallel([[3], [fm.Dense(2)]])], dtype="float64", seed=0)
    mlp.freeze("2.branches.1.*")
    before = mlp.state_dict()
    x, y = checks.rows(20, 4), checks.rows(20, 5, seed=2)
    mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.SGD(0.1), epochs=2)
    changed = {n for n, a in mlp.state_dict().items() if (a != before[n]).any()}
    assert changed == {n for n in before if not n.startswith("2.branches.1.")}


def test_unit_variance_in_branches() -> None:
    mlp = fm.MLP([6, 5, fm.Parallel([[4, 3], [fm.Residual([7]), 2]]), 3], seed=0)
    variances = fm.initializers.lsuv(mlp, checks.rows(200, 6, np.float32))
    assert len(variances) == len(mlp.weights)
    np.testing.assert_allclose(variances, 1, atol=0.1)  # its tol


def test_regions_are_those_of_a_wide_layer() -> None:
    whole = fm.MLP([2, 6, 1], activation="relu", seed=0)
    halves = fm.Parallel([[fm.Dense(2, "relu")], [fm.Dense(4, "relu")]])
    mlp = fm.MLP([2, halves, 1], seed=0)
    w, b = whole.weights[0], whole.biases[0]
    for part, at in ((0, slice(0, 2)), (1, slice(2, 6))):
        mlp.weights[part][:], mlp.biases[part][:] = w[:, at], b[at]
    ends = [-1.0, -1.0], [1.0, 1.0]
    ours, theirs = (fm.regions.count_regions(net, *ends) for net in (mlp, whole))
    assert ours.count == theirs.count > 1


def test_files_and_pickles_keep_them(tmp_path: Path) -> None:
    mlp = network()
    mlp.save(tmp_path / "model.safetensors")
    x = checks.rows(3, 5)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp))):
        assert copy.layers == mlp.layers
        assert copy(x).tobytes() == mlp(x).tobytes()


def test_onnx(tmp_path: Path) -> None:
    checks.check_onnx(network(3, "float32"), tmp_path / "model.onnx")


def test_pictures_leave_out_the_joints() -> None:
    mlp = fm.MLP([3, fm.Parallel([[2], [], [4]]), 1])
    assert "joined" not in str(mlp.summary())
    words = str(mlp.diagram())
    assert "joined" not in words
    assert words.count("input from input") == 2  # of the second and third branch


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fm.Concat([]), ValueError, "Concat: layers must be a sequence"),
        (lambda: fm.Parallel([[3]]), ValueError, "at least two sequences, got 1 item"),
        (lambda: fm.Parallel("ab"), TypeError, "at least two sequences, got 'ab'"),
        (lambda: fm.Parallel([3, 4]), TypeError, r"branches\[0\] must be a sequence"),
        (lambda: fm.Parallel([[3], [0]]), ValueError, r"branches\[1\]\[0\] must be"),
        (lambda: fm.Parallel([2], [3]), TypeError, r"the branches are one list"),
    ],
)
def test_errors(make: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        make()


def test_a_wrong_width_inside_names_the_layer() -> None:
    with pytest.raises(ValueError, match=r"1\.branches\.1\.0"):
        fm.MLP([4, 3, fm.Parallel([[2], [fm.GLU()]])])
