"""Frozen parameters: never changed, with derivatives of 0, and no effect on others."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from helpers import thread_counts

N_IN, N_OUT = 5, 3
OPTIMIZERS = [
    fm.SGD(0.05, momentum=0.9, weight_decay=0.1),
    fm.RMSprop(0.01, weight_decay=0.1),
    fm.Adagrad(0.05, l1=0.1),
    fm.Adam(0.01, weight_decay=0.1),
    fm.AdamW(0.01, weight_decay=0.1),
    fm.AdamW(0.01, weight_decay=0.1, decay="weights", clip_value=0.1),
    fm.Adamax(0.01),
]
# A part of a layer, whole layers at each end, in the middle and within a block.
FROZEN = [
    ("0.*",),
    ("0.weight",),
    ("0.bias", "2.*"),
    ("3.*",),
    ("3.body.1.weight", "3.projection.*"),
    ("6.*",),
    ("*.bias",),
    ("*",),
]


def network(dtype="float64", norm=fm.LayerNorm):
    body = fm.Residual([norm(), fm.Dense(7, "gelu")])
    layers = [N_IN, fm.Dense(6, "relu"), norm(), body, fm.Dense(4, "tanh"), N_OUT]
    mlp = fm.MLP(layers, dtype=dtype, seed=3)
    mlp.params[:] += np.random.default_rng(1).normal(0, 0.1, mlp.n_params)
    return mlp


def batch(rows=33):
    rng = np.random.default_rng(2)
    return rng.normal(size=(rows, N_IN)), rng.normal(size=(rows, N_OUT))


def mask(mlp):
    """Which elements of the parameters are frozen."""
    found = np.zeros(mlp.n_params, bool)
    for name in mlp.frozen:
        begin, end = mlp._views.ranges[name]
        found[begin:end] = True
    return found


@pytest.mark.parametrize("frozen", FROZEN, ids=",".join)
def test_gradients_are_0_there_and_as_before_elsewhere(frozen):
    x, y = batch()
    mlp, free = network(), network()
    mlp.freeze(*frozen)
    held = mask(mlp)
    assert held.any()

    def same(function):
        want = np.where(held, 0, function(free))
        np.testing.assert_array_equal(function(mlp), want)

    same(lambda m: m.value_and_grad(x, y, fm.MSE())[1])
    same(lambda m: m.value_and_grad(x, y, fm.MSE(), training=True)[1])
    same(lambda m: m.vjp(x, y)[2])
    same(lambda m: (m.forward(x), m.backward(y))[1][1])
    same(lambda m: m.param_jacobian(x))
    same(lambda m: m.per_sample_grads(x, y, fm.MSE()))
    # Derivatives with respect to inputs do not depend on it.
    assert (mlp.vjp(x, y)[1] == free.vjp(x, y)[1]).all()
    assert (mlp.jacobian(x) == free.jacobian(x)).all()
    assert (mlp.hessian(x, output=0) == free.hessian(x, output=0)).all()


@pytest.mark.parametrize("norm", [fm.LayerNorm, fm.BatchNorm])
@pytest.mark.parametrize("frozen", FROZEN[:-1], ids=",".join)
def test_a_step_is_as_before_elsewhere(frozen, norm):
    """After one step of an optimiser without weight decay, all else has its bits."""
    x, y = batch()
    for dtype in ("float32", "float64"):
        mlp, free = network(dtype, norm), network(dtype, norm)
        mlp.freeze(*frozen)
        held, start = mask(mlp), mlp.params.copy()
        losses = [m.train_step(x, y, fm.MSE(), fm.Adam(0.01)) for m in (mlp, free)]
        assert losses[0] == losses[1]
        np.testing.assert_array_equal(mlp.params, np.where(held, start, free.params))
        np.testing.assert_array_equal(mlp.buffers, free.buffers)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_no_optimizer_changes_them(optimizer):
    x, y = batch()
    optimizer = pickle.loads(pickle.dumps(optimizer))
    mlp = network("float32")
    mlp.freeze("0.*", "3.body.*", "4.bias")
    held, start = mask(mlp), mlp.params.copy()
    mlp.fit(x, y, loss=fm.MSE(), optimizer=optimizer, epochs=3, batch_size=10)
    mlp.train_step(x, y, fm.MSE(), optimizer)
    optimizer.step(mlp, np.ones_like(mlp.params))
    changed = mlp.params != start
    assert not changed[held].any()
    assert changed[~held].mean() > 0.9


@pytest.mark.parametrize("solver", [fm.LBFGS, fm.LevenbergMarquardt])
def test_no_solver_changes_them(solver):
    x, y = batch()
    mlp = network()
    mlp.freeze("0.*", "3.body.*", "4.bias")
    held, start = mask(mlp), mlp.params.copy()
    history = mlp.fit(x, y, loss=fm.MSE(), optimizer=solver(), epochs=5)
    assert history.loss[-1] < 0.9 * history.loss[0]
    changed = mlp.params != start
    assert not changed[held].any()
    assert changed[~held].all()


def test_an_l2_penalty_counts_but_does_not_change_them():
    """scikit-learn's alpha: the penalty of all weights is part of the loss."""
    x, y = batch()
    mlp, free = network(), network()
    mlp.freeze("0.*")
    results = [
        m.core.value_and_grad(x, y, fm.MSE().core, None, False, 0.5)
        for m in (mlp, free)
    ]
    assert results[0][0] == results[1][0]
    want = np.where(mask(mlp), 0, results[1][1])
    np.testing.assert_array_equal(results[0][1], want)


def test_clipping_leaves_them_out():
    x, y = batch()
    mlp = network()
    mlp.freeze("0.*", "4.*")
    start = mlp.params.copy()
    _, grads = mlp.value_and_grad(x, y, fm.MSE())
    mlp.train_step(x, y, fm.MSE(), fm.SGD(1.0, clip_norm=0.01))
    # Each of the 10 roundings of an element is relative to a parameter of about 1.
    tolerance = 10 * np.finfo("float64").eps
    want = start - grads * 0.01 / (np.linalg.norm(grads) + 1e-6)
    np.testing.assert_allclose(mlp.params, want, rtol=0, atol=tolerance)
    # A gradient given by the caller is ignored where it has no effect.
    again = network()
    again.freeze("0.*", "4.*")
    grads[mask(again)] = 1e6
    fm.SGD(1.0, clip_norm=0.01).step(again, grads)
    np.testing.assert_array_equal(again.params, mlp.params)


def test_the_moving_average_holds_them():
    x, y = batch()
    mlp = network()
    mlp.freeze("0.*")
    optimizer = fm.Adam(0.01, ema=0.9)
    for _ in range(3):
        mlp.train_step(x, y, fm.MSE(), optimizer)
    averaged = optimizer.averaged(mlp)
    held = mask(mlp)
    assert averaged.frozen == mlp.frozen
    np.testing.assert_array_equal(averaged.params[held], mlp.params[held])
    assert (averaged.params[~held] != mlp.params[~held]).all()


def test_the_bits_do_not_depend_on_threads_or_isa():
    x, y = batch(600)
    seen = set()
    for isa in fm.available_isas():
        for threads in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(threads):
                mlp = network("float32")
                mlp.freeze("0.*", "3.body.*")
                mlp.fit(x, y, loss=fm.MSE(), optimizer=fm.Adam(), epochs=2, seed=0)
                seen.add(mlp.params.tobytes())
    assert len(seen) == 1


def test_everything_keeps_them(tmp_path):
    x, y = batch()
    mlp = network()
    mlp.freeze("2.*", "*.bias")
    names = mlp.frozen
    assert names == tuple(
        n for n in mlp.named_parameters() if n.startswith("2.") or n.endswith(".bias")
    )
    mlp.save(tmp_path / "model")
    point = fm.Checkpoint(tmp_path / "point")
    optimizer = fm.Adam()
    mlp.fit(x, y, loss=fm.MSE(), optimizer=optimizer, epochs=1, callbacks=[point])
    resumed = network()
    fm.Checkpoint.load(tmp_path / "point", resumed, fm.Adam())
    for other in (
        fm.load(tmp_path / "model"),
        fm.load(tmp_path / "point"),
        resumed,
        pickle.loads(pickle.dumps(mlp)),
        mlp.copy(),
        mlp.copy(compute_dtype="float64"),
    ):
        assert other.frozen == names
    # A model without frozen parameters is written as before.
    mlp.unfreeze()
    mlp.save(tmp_path / "free")
    assert b"frozen" not in (tmp_path / "free").read_bytes()
    assert fm.load(tmp_path / "free").frozen == ()


def test_freezing_and_unfreezing():
    mlp = fm.MLP([3, 4, 2], seed=0)
    assert mlp.frozen == ()
    mlp.freeze("0.weight")
    mlp.freeze("2.*")
    assert mlp.frozen == ("0.weight", "2.weight", "2.bias")
    mlp.unfreeze("*.weight")
    assert mlp.frozen == ("2.bias",)
    mlp.unfreeze()
    assert mlp.frozen == ()
    mlp.freeze("[02].bias")
    assert mlp.frozen == ("0.bias", "2.bias")
    for wrong, kind in ((("1.*",), ValueError), ((), ValueError), ((0,), TypeError)):
        with pytest.raises(kind, match=r"^names"):
            mlp.freeze(*wrong)
    with pytest.raises(ValueError, match=r"'7.bias' matches none .* 0.weight, 0.bias"):
        mlp.unfreeze("0.bias", "7.bias")
    assert mlp.frozen == ("0.bias", "2.bias")


def test_the_summary_tells():
    mlp = fm.MLP([3, 4, fm.Dropout(), 2], seed=0)
    assert "frozen" not in mlp.summary()
    mlp.freeze("0.*", "3.bias")
    lines = mlp.summary().splitlines()
    assert lines[0].endswith("18 of 26 parameters frozen")
    assert "Dense 3 -> 4, frozen " in mlp.summary()
    assert "Dense 4 -> 2, bias frozen " in mlp.summary()


def test_last_step_and_monitor_see_zeros():
    x, y = batch()
    mlp = network()
    mlp.freeze("0.*", "2.*")
    mlp.core.watch = True
    mlp.train_step(x, y, fm.MSE(), fm.Adam())
    grads = mlp.core.last_step()["grads"]
    assert (grads[mask(mlp)] == 0).all()
    assert (grads[~mask(mlp)] != 0).mean() > 0.9


KEEPERS = [
    fm.ScheduleFreeSGD(0.01),
    fm.ScheduleFreeAdamW(0.01),
    fm.ASGD(0.01, t0=0.0),
    fm.Prodigy(d0=1e-3),
    fm.Adam(0.01, ema=0.9),
]


@pytest.mark.parametrize("kind", KEEPERS, ids=lambda o: type(o).__name__)
def test_state_that_begins_as_the_parameters_follows_them(kind):
    x, y = batch()
    optimizer = pickle.loads(pickle.dumps(kind))
    mlp = network()
    mlp.freeze("0.*")
    held = mask(mlp)
    for _ in range(3):
        mlp.train_step(x, y, fm.MSE(), optimizer)
    if optimizer.core.slot_names[-1] != "p0":
        averaged = optimizer.averaged(mlp)
        np.testing.assert_array_equal(averaged.params[held], mlp.params[held])
    before = mlp.params.copy()
    mlp.unfreeze()
    for _ in range(3):
        mlp.train_step(x, y, fm.MSE(), optimizer)
    moved = np.abs(mlp.params - before)
    # Three steps of about lr, or d0, each; without care they would be erased.
    assert 0 < moved[held].max() < 0.2


def test_a_divergence_tells_the_norm_of_what_trains():
    mlp = fm.MLP([3, 400, 2], seed=0)
    mlp.freeze("0.*", "2.weight")
    x = np.full((4, 3), 1e19, "float32")
    y = np.full((4, 2), -1e25, "float32")
    with pytest.raises(fm.DivergenceError) as caught:
        mlp.train_step(x, y, fm.MSE(), fm.SGD(0.1))
    assert "layer 0" not in str(caught.value)


def test_a_folded_copy_has_no_frozen_parameters():
    mlp = network(norm=fm.BatchNorm)
    mlp.freeze("0.*")
    assert mlp.fold().frozen == ()
