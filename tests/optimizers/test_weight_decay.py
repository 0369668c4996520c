"""decay="weights" spares the same parameters in fit, train_step and the reference."""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

# Ten steps with tens of roundings each in float64, relative to the largest parameter.
STEPS_RTOL = 1e-11
ROWS = 20
MAKERS = {
    "SGD": {"lr": 0.01, "momentum": 0.5},
    "Adagrad": {"lr": 0.05},
    "RMSprop": {"lr": 0.01},
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01},
    "Adamax": {"lr": 0.01},
}


def network(library):
    """Norms, blocks with and without projection, and a last layer without bias."""
    lib = library
    body = [lib.Dense(7, activation="tanh"), lib.LayerNorm(), lib.Dense(6)]
    layers = [
        lib.Dense(6, activation="gelu"),
        lib.BatchNorm(),
        lib.Residual(body),
        lib.Residual([lib.LayerNorm(affine=False), lib.Dense(9, activation="tanh")]),
        lib.Dense(2, activation="identity", bias=False),
    ]
    mlp = lib.MLP([4, *layers], dtype="float64", seed=3)
    mlp.params[:] = np.random.default_rng(4).normal(0.1, 0.3, mlp.n_params)
    return mlp


def trained(library, name, how, decay):
    mlp = network(library)
    optimizer = getattr(library, name)(
        **MAKERS[name], weight_decay=0.2, l1=0.02, decay=decay
    )
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((ROWS, 4)), rng.standard_normal((ROWS, 2))
    if how == "fit":
        mlp.fit(x, y, loss=library.MSE(), optimizer=optimizer, epochs=5, batch_size=10)
    else:
        for _ in range(10):
            mlp.train_step(x, y, library.MSE(), optimizer)
    return mlp


@pytest.mark.parametrize("decay", ["weights", "all"])
@pytest.mark.parametrize("how", ["fit", "train_step"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_reference_agrees(name, how, decay):
    ours = trained(fm, name, how, decay).params
    theirs = trained(reference, name, how, decay).params
    assert np.abs(ours - theirs).max() <= STEPS_RTOL * np.abs(theirs).max()


@pytest.mark.parametrize("library", [fm, reference], ids=["core", "reference"])
def test_weights_alone_decay(library):
    """Without a gradient, all weights shrink and nothing else changes."""
    mlp = network(library)
    before = {k: v.copy() for k, v in mlp.named_parameters().items()}
    optimizer = library.SGD(0.1, weight_decay=0.2, l1=0.1, decay="weights")
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((ROWS, 4)), rng.standard_normal((ROWS, 2))
    sample_weight = np.zeros(ROWS)
    sample_weight[0] = 1e-300
    loss = library.MSE(reduction="sum")
    mlp.train_step(x, y, loss, optimizer, sample_weight=sample_weight)
    moved = {k for k, v in mlp.named_parameters().items() if (v != before[k]).any()}
    assert moved == {k for k in before if before[k].ndim == 2}
    for k in moved:
        w = before[k]
        expected = w - 0.1 * (0.2 * w + 0.1 * np.sign(w))
        np.testing.assert_allclose(mlp.named_parameters()[k], expected, rtol=1e-14)
