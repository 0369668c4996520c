"""Targets, outputs and metrics that belong to another loss: errors and warnings."""

import warnings

import fastmlp as fm
import numpy as np
import pytest

RNG = np.random.default_rng(0)
X = RNG.standard_normal((12, 2)).astype("f")
LABELS = np.arange(12) % 3


def fit(mlp, y, loss, **options):
    return mlp.fit(X, y, loss=loss, optimizer=fm.Adam(), epochs=1, **options)


WRONG = {
    "one output for classes": (
        1, LABELS % 2, fm.CrossEntropy(), ValueError, r"use fm.BinaryCrossEntropy\(\)",
    ),
    "one output, labels of one class": (
        1, LABELS * 0, fm.CrossEntropy(), ValueError, r"use fm.BinaryCrossEntropy\(\)",
    ),
    "one output, probabilities": (
        1, X[:, :1] * 0 + 1, fm.CrossEntropy(), ValueError, "use fm.BinaryCross",
    ),
    "labels for a mean square": (
        3, LABELS, fm.MSE(), ValueError, r"class labels are for fm.CrossEntropy\(\)",
    ),
    "labels for binary outputs": (
        3, LABELS, fm.BinaryCrossEntropy(), ValueError, r"are for fm.CrossEntropy\(\)",
    ),
    "names of classes": (
        3, np.array(["a", "b", "c"])[LABELS], fm.CrossEntropy(), TypeError,
        r"np.unique\(y, return_inverse=True\)",
    ),
    "a list of names": (
        1, list("abab" * 3), fm.BinaryCrossEntropy(), TypeError, r"np.unique\(y, ret",
    ),
    "names as objects": (
        1, np.array(list("abab" * 3), object), fm.MSE(), TypeError, r"np.unique\(y, r",
    ),
    "labels from 1 on": (
        3, LABELS + 1, fm.CrossEntropy(), ValueError, "count from 0: subtract 1",
    ),
    "labels -1 and 1": (
        2, LABELS % 2 * 2 - 1, fm.CrossEntropy(), ValueError, r"\(y \+ 1\) // 2",
    ),
    "-1 and 1 for probabilities": (
        1, LABELS % 2 * 2 - 1, fm.BinaryCrossEntropy(), ValueError, r"\(y \+ 1\) / 2",
    ),
    "-1 and 1 as the model's floats": (
        1, (LABELS % 2 * 2 - 1).astype("f")[:, None], fm.BinaryCrossEntropy(),
        ValueError, r"\(y \+ 1\) / 2",
    ),
    "0 and 1 for signs": (
        1, (LABELS % 2).astype("f")[:, None], fm.Hinge(), ValueError, r"2 \* y - 1",
    ),
    "actions and values": (
        3, (LABELS, X[:, 0]), fm.MSE(), TypeError, r"for fm.ActionValue\(loss\)",
    ),
    "actions and values for classes": (
        3, (LABELS, X[:, 0]), fm.CrossEntropy(), (TypeError, ValueError), "^y ",
    ),
    "no log variance": (
        2, X, fm.GaussianNLL(), ValueError, "two outputs for each target",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("n_out", "y", "loss", "error", "message"), WRONG.values(), ids=WRONG
)
def test_targets_of_another_loss(n_out, y, loss, error, message):
    mlp = fm.MLP([2, n_out], seed=0)
    before, optimizer = mlp.params.copy(), fm.Adam()
    with pytest.raises(error, match=message):
        fit(mlp, y, loss)
    # With one output, the core takes labels of 0 and probabilities of 1 as they are.
    one_class = n_out == 1 and isinstance(loss, fm.CrossEntropy)
    for method in (mlp.value_and_grad, mlp.evaluate, mlp.per_sample_grads):
        if not one_class:
            with pytest.raises(error, match=message):
                method(X, y, loss)
    if not one_class:
        with pytest.raises(error, match=message):
            mlp.train_step(X, y, loss, optimizer)
    assert optimizer.step_count == 0
    np.testing.assert_array_equal(mlp.params, before)


# The output activation ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("activation", "loss", "n_out"),
    [
        ("sigmoid", fm.BinaryCrossEntropy(), 1),
        ("sigmoid", fm.BinaryCrossEntropy(pos_weight=2), 3),
        ("softmax", fm.BinaryCrossEntropy(), 3),
        ("relu", fm.BinaryCrossEntropy(), 1),
        ("softmax", fm.CrossEntropy(), 3),
        ("sigmoid", fm.CrossEntropy(label_smoothing=0.1), 3),
    ],
)
def test_a_loss_of_logits_warns_of_an_output_activation(activation, loss, n_out):
    y = LABELS if isinstance(loss, fm.CrossEntropy) else np.ones((12, n_out))
    mlp = fm.MLP([2, n_out], output_activation=activation, seed=0)
    with pytest.warns(UserWarning, match="output_activation should be 'identity'"):
        fit(mlp, y, loss)
    optimizer = fm.Adam()
    with pytest.warns(UserWarning, match=f"not '{activation}'") as caught:
        mlp.train_step(X, y, loss, optimizer)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # only the first step warns
        mlp.train_step(X, y, loss, optimizer)


@pytest.mark.parametrize(
    ("last", "loss", "y"),
    [
        ([1, fm.Activation("sigmoid")], fm.BinaryCrossEntropy(), X[:, :1] * 0),
        ([3, fm.Activation("softmax")], fm.CrossEntropy(), LABELS),
        ([fm.Dense(1, "exp")], fm.Poisson(), X[:, :1] * 0),
        ([1, fm.Activation("exp")], fm.Poisson(), X[:, :1] * 0),
        ([fm.Dense(3, "softmax")], fm.rl.PolicyGradient(), (LABELS, X[:, 0])),
        (
            [fm.Dense(3, "softmax")],
            fm.rl.ClippedPolicyGradient(),
            (LABELS, X[:, 0], X[:, 1]),
        ),
    ],
)
def test_other_last_layers_and_losses_warn_as_well(last, loss, y):
    mlp = fm.MLP([2, *last], seed=0)
    with pytest.warns(UserWarning, match="output_activation should be 'identity'"):
        fit(mlp, y, loss)
    with pytest.warns(UserWarning, match=f"^{type(loss).__name__} takes lo"):
        mlp.train_step(X, y, loss, fm.Adam())


@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("identity", fm.BinaryCrossEntropy()),
        ("tanh", fm.BinaryCrossEntropy()),
        ("sigmoid", fm.MSE()),
        ("softmax", fm.MSE()),
        ("exp", fm.MAE()),
        ("softplus", fm.Poisson()),
    ],
)
def test_no_warning_where_the_activation_suits(activation, loss):
    mlp = fm.MLP([2, 2], output_activation=activation, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(mlp, np.ones((12, 2)), loss)


# Accuracy -----------------------------------------------------------------------------


def test_accuracy_of_real_numbers_is_refused():
    mlp = fm.MLP([2, 1], seed=0)
    before = mlp.params.copy()
    for metrics in (["accuracy"], {"acc": "accuracy"}, [fm.metrics.accuracy]):
        for loss in (fm.MSE(), fm.Huber(), fm.CustomLoss(lambda p, y: (0.0, p * 0))):
            with pytest.raises(ValueError, match="needs class labels, 0 and 1"):
                fit(mlp, X[:, 0], loss, metrics=metrics)
    np.testing.assert_array_equal(mlp.params, before)
    with pytest.raises(ValueError, match="use 'r2' or 'mae'"):
        fit(
            fm.MLP([2, 2], seed=0),
            X,
            fm.MSE(),
            metrics=["accuracy"],
            validation_data=(X, X),
        )


@pytest.mark.parametrize(
    ("y", "loss"),
    [
        (LABELS % 2, fm.MSE()),
        (LABELS % 2 * 2.0 - 1, fm.Hinge()),
        (LABELS % 2 * 2.0 - 1, fm.MSE()),
        (np.full(12, 0.3), fm.BinaryCrossEntropy()),
        (np.eye(3)[LABELS], fm.MSE()),
        (np.full((12, 3), 1 / 3), fm.MSE()),
        (LABELS, fm.CrossEntropy()),
    ],
    ids=str,
)
def test_accuracy_of_classes(y, loss):
    n_out = 3 if y.ndim == 2 or isinstance(loss, fm.CrossEntropy) else 1
    history = fit(fm.MLP([2, n_out], seed=0), y, loss, metrics=["accuracy"])
    assert 0 <= history.metrics["accuracy"][0] <= 1
