"""Gradient accumulation: one step for several gradients."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import _core, schedules
from helpers import thread_counts

# A few roundings per step in float64, relative to the largest parameter.
STEPS_RTOL = 1e-13
MAKERS = {
    "SGD": lambda **options: fm.SGD(0.05, momentum=0.9, **options),
    "Adam": lambda **options: fm.Adam(0.01, weight_decay=0.1, **options),
    "AdamW, clipped": lambda **options: fm.AdamW(0.01, clip_norm=0.1, **options),
    "NAdam": lambda **options: fm.NAdam(0.01, **options),
    "Prodigy": lambda **options: fm.Prodigy(d0=1e-3, **options),
    "Muon": lambda **options: fm.Muon(0.01, l1=0.01, **options),
    "groups": lambda **options: fm.Adam(
        0.01, groups=[{"params": "*.bias", "clip_norm": 0.01}], **options
    ),
    "ema": lambda **options: fm.Adam(schedules.Cosine(0.1, 5), ema=0.9, **options),
}


def network(dtype="float64", *layers):
    return fm.MLP([4, 9, *layers, 3], activation="tanh", dtype=dtype, seed=1)


def batches(n, rows=10):
    rng = np.random.default_rng(2)
    shape = n, rows
    return rng.normal(size=(*shape, 4)), rng.normal(size=(*shape, 3))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_step_takes_the_mean_of_the_gradients(make):
    x, y = batches(12)
    mlp, by_hand = network(), network()
    opt, other = make(accumulate=3), make()
    for i in range(12):
        before = mlp.params.copy()
        mlp.train_step(x[i], y[i], fm.MSE(), opt)
        assert (mlp.params == before).all() == (i % 3 < 2)
        assert opt.step_count == (i + 1) // 3
    for i in range(0, 12, 3):
        grads = [
            by_hand.value_and_grad(x[j], y[j], fm.MSE())[1] for j in range(i, i + 3)
        ]
        other.step(by_hand, sum(grads) / 3)
    error = np.abs(mlp.params - by_hand.params).max()
    assert error <= STEPS_RTOL * np.abs(by_hand.params).max()


def test_every_way_to_take_a_step_is_the_same():
    """Built-in and custom losses, gradients of one's own, and fit, with dropout."""

    def own(pred, target):
        return fm.MSE().value_and_grad(pred, target)

    x, y = batches(8)
    models = [network() for _ in range(4)]
    opts = [fm.Adam(schedules.Cosine(0.1, 5), accumulate=3) for _ in models]
    for i in range(8):
        models[0].train_step(x[i], y[i], fm.MSE(), opts[0])
        models[1].train_step(x[i], y[i], own, opts[1])
        _, grads = models[2].value_and_grad(x[i], y[i], fm.MSE())
        opts[2].step(models[2], grads)
    flat = x.reshape(-1, 4), y.reshape(-1, 3)
    for epochs in (1,):
        models[3].fit(
            *flat,
            loss=fm.MSE(),
            optimizer=opts[3],
            epochs=epochs,
            batch_size=10,
            shuffle=False,
        )
    for mlp, opt in zip(models[1:], opts[1:], strict=True):
        np.testing.assert_array_equal(mlp.params, models[0].params)
        assert (opt.step_count, opt.core.shared) == (2, {"pending": 2.0})


def test_arrays_without_a_model():
    params = [np.ones(3), np.ones((2, 2), "float32")]
    wanted = [p.copy() for p in params]
    grads = [[np.full_like(p, k) for p in params] for k in (1.0, 2.0, 6.0)]
    opt, other = fm.SGD(0.1, clip_norm=1.0, accumulate=3), fm.SGD(0.1, clip_norm=1.0)
    for each in grads:
        opt.step(params, each)
    other.step(wanted, [np.full_like(p, 3.0) for p in wanted])
    for p, q in zip(params, wanted, strict=True):
        # One rounding of the mean, relative to numbers of about 1.
        np.testing.assert_allclose(p, q, rtol=4 * np.finfo(p.dtype).eps)


def test_dropout_draws_a_mask_for_each_gradient():
    x, y = batches(2)
    losses = []
    mlp, opt = network("float64", fm.Dropout(0.5)), fm.SGD(0.0, accumulate=2)
    for _ in range(4):
        losses.append(mlp.train_step(x[0], y[0], fm.MSE(), opt))
    assert len(set(losses)) == 4


def test_schedules_count_steps():
    calls = []

    def rate(step):
        calls.append(step)
        return 0.1

    x, y = batches(7)
    mlp, opt = network(), fm.SGD(rate, accumulate=3)
    for i in range(7):
        mlp.train_step(x[i], y[i], fm.MSE(), opt)
    assert calls == [0, 1, 2]


def test_it_is_kept_between_calls_and_in_files(tmp_path):
    x, y = batches(6)
    mlp, opt = network(), fm.Adam(0.01, accumulate=4)
    for i in range(2):
        mlp.train_step(x[i], y[i], fm.MSE(), opt)
    state = opt.state_dict()
    assert state["shared"] == {"pending": 2.0}
    copies = [pickle.loads(pickle.dumps(opt)), fm.Adam()]
    copies[1].load_state_dict(state)
    models = [mlp.copy(), mlp.copy()]
    for i in range(2, 6):
        mlp.train_step(x[i], y[i], fm.MSE(), opt)
        for model, other in zip(models, copies, strict=True):
            model.train_step(x[i], y[i], fm.MSE(), other)
    for model, other in zip(models, copies, strict=True):
        np.testing.assert_array_equal(model.params, mlp.params)
        assert (other.step_count, other.accumulate) == (1, 4)
    assert "accumulate" not in fm.Adam().state_dict()["hyper"]


def test_a_checkpoint_within_a_step(tmp_path):
    x, y = batches(5)
    flat = x.reshape(-1, 4), y.reshape(-1, 3)
    options = {"loss": fm.MSE(), "batch_size": 10, "epochs": 1}
    whole, opt = network(), fm.Adam(0.01, accumulate=2)
    for _ in range(3):
        whole.fit(*flat, optimizer=opt, **options)
    mlp, first = network(), fm.Adam(0.01, accumulate=2)
    point = fm.Checkpoint(tmp_path / "a")
    mlp.fit(*flat, optimizer=first, callbacks=[point], **options)
    resumed, second = network(), fm.Adam(0.01, accumulate=2)
    fm.Checkpoint.load(tmp_path / "a", resumed, second)
    for _ in range(2):
        resumed.fit(*flat, optimizer=second, **options)
    np.testing.assert_array_equal(resumed.params, whole.params)


def test_a_pending_gradient_belongs_to_its_model():
    x, y = batches(1)
    opt = fm.Adam(accumulate=2)
    network().train_step(x[0], y[0], fm.MSE(), opt)
    with pytest.raises(ValueError, match=r"^optimizer has trained another model"):
        network().train_step(x[0], y[0], fm.MSE(), opt)
    opt.reset()
    network().train_step(x[0], y[0], fm.MSE(), opt)


def test_divergence_forgets_the_epoch_alone():
    x, y = batches(3)
    flat = x.reshape(-1, 4), y.reshape(-1, 3)
    mlp, opt = network(), fm.SGD(0.1, accumulate=2)
    mlp.train_step(x[0], y[0], fm.MSE(), opt)
    before = pickle.dumps(opt.state_dict()), mlp.params.copy()
    bad = flat[1].copy()
    bad[-1] = 1e300
    with pytest.raises(fm.DivergenceError):
        mlp.fit(
            flat[0],
            bad,
            loss=fm.MSE(),
            optimizer=opt,
            epochs=1,
            batch_size=10,
            shuffle=False,
        )
    assert pickle.dumps(opt.state_dict()) == before[0]
    assert (mlp.params == before[1]).all()


def test_the_bits_do_not_depend_on_threads_or_isa():
    x, y = batches(6, 200)
    seen = set()
    for isa in fm.available_isas():
        for threads in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(threads):
                mlp = fm.MLP([4, 200, 100, 3], seed=0)
                mlp.freeze("2.weight")
                opt = fm.AdamW(0.01, clip_norm=0.2, accumulate=3)
                for i in range(6):
                    mlp.train_step(x[i], y[i], fm.MSE(), opt)
                seen.add(mlp.params.tobytes() + pickle.dumps(opt.state_dict()))
    assert len(seen) == 1


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "2"])
def test_wrong_numbers_are_refused(wrong):
    with pytest.raises((TypeError, ValueError), match=r"^accumulate must be"):
        fm.Adam(accumulate=wrong)


@pytest.mark.parametrize("how", ["pickle", "load", "assign"])
def test_a_new_start_within_a_step_keeps_the_schedule(how):
    x, y = batches(2)
    rate = schedules.Cosine(0.1, 100)
    mlp, opt = network(), fm.SGD(rate, weight_decay=rate, accumulate=2)
    mlp.train_step(x[0], y[0], fm.MSE(), opt)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(opt))
    elif how == "load":
        other = fm.SGD(rate, weight_decay=rate)
        other.load_state_dict(opt.state_dict())
    else:
        other = pickle.loads(pickle.dumps(opt))
        other.lr = rate
    twin = mlp.copy()
    for model, its in ((mlp, opt), (twin, other)):
        model.train_step(x[1], y[1], fm.MSE(), its)
    np.testing.assert_array_equal(twin.params, mlp.params)
    assert (mlp.params != network().params).all()


def test_it_cannot_change_within_a_step():
    x, y = batches(4)
    mlp, opt = network(), fm.SGD(0.1, accumulate=4)
    for i in range(3):
        mlp.train_step(x[i], y[i], fm.MSE(), opt)
    with pytest.raises(ValueError, match=r"^accumulate cannot be changed while"):
        opt.accumulate = 2
    mlp.train_step(x[3], y[3], fm.MSE(), opt)
    opt.accumulate = 2
    assert opt.accumulate == 2


@pytest.mark.parametrize("pending", [-5.0, 0.5, 2.0, 1e300])
def test_an_impossible_number_of_gradients_is_refused(pending):
    x, y = batches(1)
    opt = fm.SGD(0.1, accumulate=2)
    network().train_step(x[0], y[0], fm.MSE(), opt)
    state = opt.state_dict()
    before = pickle.dumps(state)
    with pytest.raises(ValueError, match=r"'pending'\] must be an integer from 0 to 1"):
        opt.load_state_dict({**state, "shared": {"pending": pending}})
    with pytest.raises(ValueError, match=r"'pending'\] must be an integer from 0 to 0"):
        opt.load_state_dict({**state, "slots": [], "shared": {"pending": 1.0}})
    assert pickle.dumps(opt.state_dict()) == before


@pytest.mark.parametrize("maximize", [False, True])
def test_the_penalty_of_unequal_batches(maximize):
    """scikit-learn's alpha: each batch has its own share of the penalty."""
    x, y = batches(1, 24)
    mlp, by_hand = network(), network()
    opt = fm.SGD(0.1, accumulate=2, maximize=maximize)
    grads = 0.0
    for part in (slice(0, 16), slice(16, 24)):
        _, grad = by_hand.core.value_and_grad(
            x[0][part], y[0][part], fm.MSE().core, None, False, 0.0
        )
        penalty = np.concatenate(
            [
                np.r_[w.ravel(), 0 * b]
                for w, b in zip(mlp.weights, mlp.biases, strict=True)
            ]
        )
        rows = part.stop - part.start
        grads = grads + (-grad if maximize else grad) + penalty / rows
    want = mlp.params - 0.1 * grads / 2
    progress = _core.EpochProgress()
    mlp.core.fit_epoch(
        x[0],
        y[0],
        fm.MSE().core,
        opt.core,
        None,
        batch_size=16,
        seed=0,
        epoch=0,
        progress=progress,
        shuffle=False,
        l2=1.0,
    )
    # Roundings of a few operations on numbers of about 1.
    np.testing.assert_allclose(mlp.params, want, rtol=0, atol=1e-15)


def test_the_learning_rate_finder_refuses_it():
    x, y = batches(1, 40)
    words = r"^LearningRateFinder needs a step for each batch, .* accumulate=2"
    with pytest.raises(ValueError, match=words):
        network().fit(
            x[0],
            y[0],
            loss=fm.MSE(),
            optimizer=fm.SGD(0.1, accumulate=2),
            epochs=50,
            batch_size=10,
            callbacks=[fm.LearningRateFinder(steps=20)],
        )
