"""Schedules of weight decay, the L1 penalty and momentum."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules

RISE = schedules.Linear(0.4, 20, start_factor=0.25)
CASES = [
    ("weight_decay", fm.AdamW, {}),
    ("l1", fm.SGD, {}),
    ("momentum", fm.SGD, {"nesterov": True}),
    ("momentum", fm.RMSprop, {}),
]


def network():
    return fm.MLP([4, 9, 3], activation="tanh", seed=1)


def batch(rows=20):
    rng = np.random.default_rng(2)
    return rng.normal(size=(rows, 4)), rng.normal(size=(rows, 3))


@pytest.mark.parametrize(("name", "kind", "options"), CASES)
@pytest.mark.parametrize("how", ["train_step", "fit", "step"])
def test_each_step_has_the_value_of_the_schedule(name, kind, options, how):
    x, y = batch()
    mlp, by_hand = network(), network()
    opt, other = (kind(0.01, **options, **{name: v}) for v in (RISE, 0.1))
    if how == "fit":
        mlp.fit(
            x, y, loss=fm.MSE(), optimizer=opt, epochs=15, batch_size=20, shuffle=False
        )
    for step in range(15):
        _, grads = mlp.value_and_grad(x, y, fm.MSE())
        if how == "step":
            opt.step(mlp, grads)
        elif how == "train_step":
            assert getattr(opt, name) == RISE(step)
            mlp.train_step(x, y, fm.MSE(), opt)
        setattr(other, name, RISE(step))
        by_hand.train_step(x, y, fm.MSE(), other)
    np.testing.assert_array_equal(mlp.params, by_hand.params)


def test_a_function_is_called_once_per_step():
    calls = []

    def decay(step):
        calls.append(step)
        return 0.1 * step

    x, y = batch()
    opt = fm.AdamW(weight_decay=decay)
    mlp = network()
    for _ in range(3):
        mlp.train_step(x, y, fm.MSE(), opt)
    assert calls == [0, 1, 2]


def test_copies_and_states_keep_them():
    opt = fm.SGD(0.1, momentum=RISE, weight_decay=schedules.Cosine(0.1, 50))
    x, y = batch()
    mlp = network()
    for _ in range(5):
        mlp.train_step(x, y, fm.MSE(), opt)
    other = pickle.loads(pickle.dumps(opt))
    third = fm.SGD(0.5, momentum=0.1)
    third.load_state_dict(opt.state_dict())
    assert repr(other) == repr(opt) == repr(third)
    assert other.momentum == third.momentum == RISE(5)
    copies = [mlp.copy(), mlp.copy()]
    mlp.train_step(x, y, fm.MSE(), opt)
    for model, copy in zip(copies, (other, third), strict=True):
        model.train_step(x, y, fm.MSE(), copy)
        np.testing.assert_array_equal(model.params, mlp.params)


def test_a_number_ends_the_schedule():
    opt = fm.AdamW(weight_decay=RISE)
    assert opt.weight_decay == 0.1
    opt.weight_decay = 0.3
    assert opt.weight_decay == 0.3
    opt.weight_decay = RISE
    assert opt.weight_decay == 0.1


def test_a_group_inherits_them_unless_it_has_its_own():
    x, y = batch()
    groups = [
        {"params": "0.weight", "lr_scale": 1.0},
        {"params": "2.weight", "weight_decay": 0.0},
    ]
    own, all_, none = network(), network(), network()
    opts = (
        fm.AdamW(weight_decay=RISE, groups=groups),
        fm.AdamW(weight_decay=RISE),
        fm.AdamW(weight_decay=0.0),
    )
    for mlp, opt in zip((own, all_, none), opts, strict=True):
        mlp.train_step(x, y, fm.MSE(), opt)
    np.testing.assert_array_equal(own.weights[0], all_.weights[0])
    np.testing.assert_array_equal(own.weights[1], none.weights[1])
    assert (all_.weights[1] != none.weights[1]).any()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (
            lambda: fm.Adam(weight_decay=schedules.ReduceOnPlateau(0.1)),
            TypeError,
            "^weight_decay must not be a ReduceOnPlateau",
        ),
        (
            lambda: fm.SGD(0.1, momentum=schedules.LinearWarmup(0.9, 5)),
            ValueError,
            "^momentum must be finite and > 0 at every step, got 0.0 for step 0",
        ),
        (lambda: fm.Adam(weight_decay="x"), TypeError, "^weight_decay must be"),
        (lambda: fm.Adam(weight_decay=-1), ValueError, "^weight_decay must be"),
    ],
)
def test_wrong_values_are_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def test_a_bad_value_stops_the_step():
    x, y = batch()
    mlp, opt = network(), fm.SGD(0.1, momentum=schedules.Linear(0.9, 2, 1.0, 0.0))
    mlp.train_step(x, y, fm.MSE(), opt)
    mlp.train_step(x, y, fm.MSE(), opt)
    before = mlp.params.copy()
    words = r"^momentum must be finite and > 0 at every step, got 0.0 for step 2"
    with pytest.raises(ValueError, match=words):
        mlp.train_step(x, y, fm.MSE(), opt)
    assert (mlp.params == before).all()
    assert opt.step_count == 2
