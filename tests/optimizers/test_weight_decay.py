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
    "NAdam": {"lr": 0.01},
    "RAdam": {"lr": 0.01, "betas": (0.9, 0.6)},
    "Adadelta": {"lr": 0.5, "eps": 1e-3},
    "Rprop": {"lr": 0.01},
    "ASGD": {"lr": 0.05, "t0": 2},
    "Lion": {"lr": 0.01},
    "AdaBelief": {"lr": 0.01},
    "ScheduleFreeSGD": {"lr": 0.01},
    "ScheduleFreeAdamW": {"lr": 0.01},
    "Prodigy": {"d0": 1e-3},
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


def stepped(library, name, decay, dtype="float64"):
    """Five steps of an optimiser on a model, with gradients that the caller has."""
    mlp = network(library)
    optimizer = getattr(library, name)(
        **MAKERS[name], weight_decay=0.2, l1=0.02, decay=decay, clip_norm=0.5
    )
    rng = np.random.default_rng(5)
    for _ in range(5):
        optimizer.step(mlp, rng.standard_normal(mlp.n_params))
    return mlp


@pytest.mark.parametrize("decay", ["weights", "all"])
@pytest.mark.parametrize("name", MAKERS)
def test_the_reference_agrees_on_steps_with_given_gradients(name, decay):
    ours, theirs = (
        stepped(fm, name, decay).params,
        stepped(reference, name, decay).params,
    )
    assert np.abs(ours - theirs).max() <= STEPS_RTOL * np.abs(theirs).max()


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_of_a_model_has_the_bits_of_a_train_step(dtype, threads):
    """``step(mlp, grads)`` continues where train_step left off, and the other way."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 70)).astype(dtype)
    y = rng.standard_normal((32, 3)).astype(dtype)
    models = [fm.MLP([70, 90, 3], dtype=dtype, seed=1) for _ in range(2)]
    optimizers = [
        fm.AdamW(
            0.01, weight_decay=0.1, l1=0.01, decay="weights", clip_norm=0.1, ema=0.9
        )
        for _ in range(2)
    ]
    with fm.threads(threads):
        for i in range(6):
            models[0].train_step(x, y, fm.MSE(), optimizers[0])
            if i % 3:
                _, grads = models[1].value_and_grad(x, y, fm.MSE())
                optimizers[1].step(models[1], grads)
            else:
                models[1].train_step(x, y, fm.MSE(), optimizers[1])
    np.testing.assert_array_equal(models[0].params, models[1].params)
    for a, b in zip(*(o.state_dict()["slots"] for o in optimizers), strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])


@pytest.mark.parametrize("library", [fm, reference], ids=["core", "reference"])
@pytest.mark.parametrize("option", [{"weight_decay": 0.1}, {"l1": 0.1}])
def test_vectors_alone_are_refused_if_only_weights_decay(library, option):
    mlp = network(library)
    optimizer = library.Adam(0.1, **option, decay="weights")
    before = mlp.params.copy()
    grads = np.ones(mlp.n_params)
    for params in (mlp.params, [mlp.params]):
        with pytest.raises(ValueError, match="decay='weights'"):
            optimizer.step(params, grads if params is mlp.params else [grads])
    np.testing.assert_array_equal(mlp.params, before)
    assert optimizer.step_count == 0
    # One array of weights shows that the caller passes weights and biases apart.
    w, b = np.ones((2, 3)), np.ones(3)
    optimizer.step([w, b], [np.zeros((2, 3)), np.zeros(3)])
    assert (b == 1).all()
    assert (w < 1).all()


def test_vectors_are_taken_if_nothing_decays():
    theta = np.ones(3)
    fm.SGD(0.5, decay="weights").step(theta, np.ones(3))
    np.testing.assert_array_equal(theta, 0.5)


def test_errors_of_a_step_of_a_model():
    mlp, other = fm.MLP([3, 2], seed=0), fm.MLP([3, 2], seed=0)
    optimizer = fm.SGD(0.1, momentum=0.9)
    before = mlp.params.copy()
    with pytest.raises(TypeError, match="grads must have dtype float32"):
        optimizer.step(mlp, np.zeros(8))
    with pytest.raises(ValueError, match=r"grads must have shape \(8,\)"):
        optimizer.step(mlp, np.zeros((8, 1), np.float32))
    with pytest.raises(TypeError, match="grads must be a numpy array"):
        optimizer.step(mlp, [0.0] * 8)
    with pytest.raises(ValueError, match="grads must not overlap"):
        optimizer.step(mlp, mlp.params)
    with pytest.raises(fm.DivergenceError, match="grads must be finite"):
        optimizer.step(mlp, np.full(8, np.nan, np.float32))
    np.testing.assert_array_equal(mlp.params, before)
    optimizer.step(mlp, np.ones(8, np.float32))
    with pytest.raises(ValueError, match="another model"):
        optimizer.step(other, np.ones(8, np.float32))
    mlp.forward(np.zeros((1, 3), np.float32))
    optimizer.step(mlp, np.ones(8, np.float32))
    with pytest.raises(RuntimeError, match="forward"):
        mlp.backward(np.zeros((1, 2), np.float32))
