"""Learning rate schedules: formulas, use in training, state, bad input."""

import copy
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from fit_cases import torch_rates
from helpers import random_batch, toy_mlp

try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")
lr_scheduler = torch and torch.optim.lr_scheduler

LR = 0.3
# Relative to the largest learning rate: torch's recursions add a rounding error per
# step, and its 1 + cos suffers from cancellation, which ours avoids.
RATE_RTOL = 1e-12
COUNT = 100


def warm_torch(optimizer):
    line = lr_scheduler.LinearLR(optimizer, 0.25, 1.0, 20)
    then = lr_scheduler.CosineAnnealingLR(optimizer, 80)
    return lr_scheduler.SequentialLR(optimizer, [line, then], [20])


# Our schedule, torch's, and the number of steps in which they agree.
PAIRS = {
    "constant": (
        schedules.Constant(LR),
        lambda o: lr_scheduler.ConstantLR(o, 1.0),
    ),
    "step": (schedules.Step(LR, 7), lambda o: lr_scheduler.StepLR(o, 7)),
    "step gamma": (
        schedules.Step(LR, 1, gamma=0.9),
        lambda o: lr_scheduler.StepLR(o, 1, 0.9),
    ),
    "multistep": (
        schedules.MultiStep(LR, [3, 10, 10, 50], 0.5),
        lambda o: lr_scheduler.MultiStepLR(o, [3, 10, 10, 50], 0.5),
    ),
    "exponential": (
        schedules.Exponential(LR, 0.97),
        lambda o: lr_scheduler.ExponentialLR(o, 0.97),
    ),
    "cosine": (
        schedules.Cosine(LR, COUNT),
        lambda o: lr_scheduler.CosineAnnealingLR(o, COUNT),
    ),
    "cosine to": (
        schedules.Cosine(LR, COUNT, 0.01),
        lambda o: lr_scheduler.CosineAnnealingLR(o, COUNT, 0.01),
    ),
    "restarts": (
        schedules.Cosine(LR, 9, 0.01, restarts=1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 9, 1, 0.01),
    ),
    "longer restarts": (
        schedules.Cosine(LR, 5, restarts=3),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 3),
    ),
    "line": (
        schedules.LinearWarmup(LR, 30, 0.1),
        lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 30),
    ),
    "line, then cosine": (
        schedules.LinearWarmup(schedules.Cosine(LR, 80), 20, 0.25),
        warm_torch,
    ),
    "one cycle": (
        schedules.OneCycle(LR, COUNT),
        lambda o: lr_scheduler.OneCycleLR(o, LR, COUNT),
    ),
    "one cycle linear": (
        schedules.OneCycle(LR, COUNT, 0.25, "linear", 10.0, 100.0),
        lambda o: lr_scheduler.OneCycleLR(
            o,
            LR,
            COUNT,
            pct_start=0.25,
            anneal_strategy="linear",
            div_factor=10,
            final_div_factor=100,
        ),
    ),
    "three phases": (
        schedules.OneCycle(LR, COUNT, 0.4, three_phase=True),
        lambda o: lr_scheduler.OneCycleLR(
            o, LR, COUNT, pct_start=0.4, three_phase=True
        ),
    ),
}
OTHERS = {
    "inverse sqrt": schedules.InverseSqrt(LR, 10),
    "inverse sqrt at once": schedules.InverseSqrt(LR),
    "short cycle": schedules.OneCycle(LR, 1),
    "plateau": schedules.ReduceOnPlateau(LR),
    "polynomial": schedules.Polynomial(LR, 60, 1.7, 0.1),
    "linear": schedules.Linear(LR, 30, 1.0, 0.1),
    "constant factor": schedules.ConstantFactor(LR, 9, 0.5),
    "triangular": schedules.Cyclic(0.01, LR, 7, 4),
    "triangular2": schedules.Cyclic(0.01, LR, 7, mode="triangular2"),
    "exp_range": schedules.Cyclic(0.01, LR, 7, 4, "exp_range", 0.97),
    "flat cosine": schedules.FlatCosine(LR, COUNT, 0.4, 0.01),
    "cosine log": schedules.CosineLog(LR, COUNT),
    "wsd": schedules.WarmupStableDecay(LR, 10, 40, 30),
    "wsd cos": schedules.WarmupStableDecay(LR, 0, 0, 30, 0.1, "cos"),
    "wsd sqrt": schedules.WarmupStableDecay(LR, 3, 4, 50, 0.01, "sqrt"),
    "wsd exponential": schedules.WarmupStableDecay(LR, 3, 4, 50, 0.01, "exponential"),
    "piecewise": schedules.Piecewise([LR, 0.2, 0.1], [7, 30]),
    "piecewise lines": schedules.Piecewise([0.0, LR, 0.1], [7, 30], "linear"),
    "piecewise cosines": schedules.Piecewise([0.0, LR, 0.1], [7, 30], "cos"),
    "one piece": schedules.Piecewise([LR], []),
    "sequential": schedules.Sequential(
        [schedules.Linear(LR, 5), 0.2, schedules.Exponential(LR, 0.9)], [5, 20]
    ),
    "chained": schedules.Chained(
        LR, [schedules.Linear(1.0, 5), schedules.Cosine(1.0, 50), 0.5]
    ),
}
ALL = {**{name: pair[0] for name, pair in PAIRS.items()}, **OTHERS}


@needs_torch
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, on its own schedulers
@pytest.mark.parametrize("name", PAIRS)
def test_rates_are_torchs(name):
    ours, make = PAIRS[name]
    # torch's OneCycleLR raises an error for the step after its last one.
    count = COUNT - 1 if "OneCycle" in repr(ours) else COUNT
    wanted = torch_rates(make, count, LR)
    got = ours.values(0, count)
    np.testing.assert_allclose(got, wanted, rtol=RATE_RTOL, atol=RATE_RTOL * LR)


@pytest.mark.parametrize("name", ALL)
def test_values_are_the_calls(name):
    schedule = ALL[name]
    for first in (0, 1, 37):
        values = schedule.values(first, 150)
        assert (values.dtype, values.shape) == (np.float64, (150,))
        assert values.tolist() == [schedule(first + i) for i in range(150)]
    assert schedule.values(5, 0).shape == (0,)
    assert (schedule.values(10**6, 3) >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_same_bits_on_every_isa(name):
    wanted = ALL[name].values(0, 300)
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            assert ALL[name].values(0, 300).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("name", ALL)
def test_schedules_are_values(name):
    schedule = ALL[name]
    for other in (
        copy.deepcopy(schedule),
        pickle.loads(pickle.dumps(schedule)),
        eval(repr(schedule), vars(fm)),
    ):
        assert other == schedule
        assert other.values(0, 9).tolist() == schedule.values(0, 9).tolist()
    assert schedule != schedules.Constant(1.5)
    if name != "plateau":
        assert hash(schedule) == hash(copy.copy(schedule))
        with pytest.raises(AttributeError):
            schedule.lr = 1.0


def test_ends_and_restarts():
    cosine = schedules.Cosine(1.0, 10, 0.25)
    assert [cosine(t) for t in (0, 10, 11, 10**9)] == [1.0, 0.25, 0.25, 0.25]
    assert cosine(5) == pytest.approx(0.625, rel=RATE_RTOL)
    again = schedules.Cosine(1.0, 4, restarts=2)
    assert [t for t in range(60) if again(t) == 1.0] == [0, 4, 12, 28]
    far = 4 * (2**50 - 1)
    assert again(far) == 1.0
    assert again(far - 1) < 1e-12
    cycle = schedules.OneCycle(1.0, 10)
    assert cycle(9) == cycle(10) == cycle(10**6) == 1 / 25 / 1e4
    assert max(cycle.values(0, 10)) == 1.0
    square = schedules.InverseSqrt(2.0, 4)
    assert [square(t) for t in (0, 1, 3, 15)] == [0.5, 1.0, 2.0, 1.0]
    warm = schedules.LinearWarmup(schedules.Step(1.0, 2, 0.5), 4)
    assert [warm(t) for t in range(9)] == [0, 0.25, 0.5, 0.75, 1, 1, 0.5, 0.5, 0.25]


# Plateaus -----------------------------------------------------------------------------


PLATEAUS = [
    {"patience": 2},
    {"patience": 0, "factor": 0.5, "min_lr": 0.05},
    {"patience": 1, "cooldown": 3, "factor": 0.3},
    {"patience": 1, "mode": "max", "threshold": 0.05},
    {"patience": 1, "threshold": 0.2, "threshold_mode": "abs"},
    {"patience": 1, "mode": "max", "threshold": 0.2, "threshold_mode": "abs"},
    {"patience": 0, "eps": 0.02, "factor": 0.5},
]


@needs_torch
@pytest.mark.parametrize("options", PLATEAUS, ids=str)
def test_plateaus_are_torchs(options, rng):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=LR)
    theirs = lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    ours = schedules.ReduceOnPlateau(LR, **options)
    values = np.abs(rng.standard_normal(80)) + np.linspace(1, 0, 80)
    values[40] = np.nan
    rates = set()
    for value in values:
        theirs.step(value)
        ours.observe(value)
        wanted = optimizer.param_groups[0]["lr"]
        assert ours.current == ours(0) == pytest.approx(wanted, rel=RATE_RTOL)
        rates.add(ours.current)
    assert len(rates) > 2
    ours.reset()
    assert ours == schedules.ReduceOnPlateau(LR, **options)


def test_fit_shows_plateaus_the_monitored_loss():
    x, y = data()
    for validation in (None, (x[:5], y[:5])):
        seen = []

        class Plateau(schedules.ReduceOnPlateau):
            def observe(self, value, seen=seen):
                seen.append(value)
                super().observe(value)

        plateau = Plateau(0.01, patience=0, threshold=1.0)
        opt, mlp = fm.SGD(plateau), model()
        assert opt.schedule is plateau
        history = fit(mlp, opt, 3, validation_data=validation)
        assert seen == (history.val_loss if validation else history.loss)
        # The first value is an improvement; later, smaller gains than the threshold
        # are not.
        assert opt.lr == plateau.current < 0.01


def test_the_state_of_a_plateau_is_the_optimisers():
    plateau = schedules.ReduceOnPlateau(1.0, factor=0.5, patience=1)
    opt = fm.Adam(plateau)
    plateau.observe(1.0)
    plateau.observe(2.0)
    state = opt.state_dict()
    other = fm.Adam()
    other.load_state_dict(state)
    copied = copy.deepcopy(opt)
    plateau.observe(3.0)
    assert opt.lr == 0.5
    for loaded in (other, copied, pickle.loads(pickle.dumps(copied))):
        assert loaded.lr == 1.0  # a copy, which has not seen the third value
        loaded.schedule.observe(3.0)
        assert loaded.lr == 0.5
    assert state["hyper"]["lr"].current == 1.0


# In training --------------------------------------------------------------------------


def data(rows=20):
    return random_batch(rows, 3, 2, "float64", seed=1)


def model(dtype="float64"):
    return toy_mlp(seed=3, dtype=dtype)


def fit(mlp, opt, epochs=2, **options):
    return mlp.fit(
        *data(),
        loss=fm.MSE(),
        optimizer=opt,
        epochs=epochs,
        batch_size=6,
        progress=False,
        **options,
    )


MAKERS = {
    "SGD": lambda lr: fm.SGD(lr, momentum=0.5),
    "Adagrad": lambda lr: fm.Adagrad(lr, lr_decay=0.1),
    "RMSprop": lambda lr: fm.RMSprop(lr),
    "Adam": lambda lr: fm.Adam(lr),
    "AdamW": lambda lr: fm.AdamW(lr),
    "Adamax": lambda lr: fm.Adamax(lr),
    "NAdam": lambda lr: fm.NAdam(lr),
    "RAdam": lambda lr: fm.RAdam(lr),
    "Adadelta": lambda lr: fm.Adadelta(lr),
    "Rprop": lambda lr: fm.Rprop(lr),
    "ASGD": lambda lr: fm.ASGD(lr),
    "Lion": lambda lr: fm.Lion(lr),
    "AdaBelief": lambda lr: fm.AdaBelief(lr),
    "ScheduleFreeSGD": lambda lr: fm.ScheduleFreeSGD(lr),
    "Prodigy": lambda lr: fm.Prodigy(lr),
}
SCHEDULE = schedules.LinearWarmup(schedules.Exponential(0.05, 0.9), 5)


@pytest.mark.parametrize("name", MAKERS)
def test_training_takes_the_schedules_rates(name):
    by_hand, by_step = model(), model()
    numbers, given = MAKERS[name](0.0), MAKERS[name](SCHEDULE)
    x, y = data(6)
    for step in range(12):
        numbers.lr = SCHEDULE(step)
        assert given.lr == SCHEDULE(step)
        by_hand.train_step(x, y, fm.MSE(), numbers)
        by_step.train_step(x, y, fm.MSE(), given)
        assert by_hand.params.tobytes() == by_step.params.tobytes()
    # The native loop does the same, and so do steps on plain arrays and a function.
    whole, opt = model(), MAKERS[name](SCHEDULE.__call__)
    whole.fit(
        x, y, loss=fm.MSE(), optimizer=opt, epochs=12, batch_size=6, shuffle=False
    )
    assert whole.params.tobytes() == by_hand.params.tobytes()
    free, opt = model(), MAKERS[name](lambda step: SCHEDULE(step))
    for _ in range(12):
        opt.step(free.params, free.value_and_grad(x, y, fm.MSE())[1])
    assert free.params.tobytes() == by_hand.params.tobytes()


def test_an_epoch_changes_rates_within_it():
    calls = []

    def rate(step):
        calls.append(step)
        return 0.1 if step % 4 == 2 else 0.0

    mlp = model()
    before = mlp.params.copy()
    opt = fm.SGD(rate)
    fit(mlp, opt, 1, shuffle=False)  # 20 rows in 4 steps; only the third moves
    assert calls == [0, 1, 2, 3]
    x, y = data()
    other = model()
    other.train_step(x[12:18], y[12:18], fm.MSE(), fm.SGD(0.1))
    np.testing.assert_array_equal(mlp.params, other.params)
    assert (mlp.params != before).any()


@pytest.mark.parametrize("epochs_before", [1, 2, 4])
def test_resuming_is_exact(epochs_before):
    def make():
        return fm.Adam(SCHEDULE, clip_norm=0.1, ema=0.9, l1=1e-3)

    whole, opt = model(), make()
    fit(whole, opt, 5)
    first, half = model(), make()
    fit(first, half, epochs_before)
    again, other = pickle.loads(pickle.dumps((first, half)))
    fit(again, other, 5 - epochs_before)
    assert again.params.tobytes() == whole.params.tobytes()
    assert other.ema_params[0].tobytes() == opt.ema_params[0].tobytes()
    assert other.lr == opt.lr


@pytest.mark.parametrize("at", range(1, 8))
def test_resuming_at_any_step_is_exact(at):
    x, y = data(6)

    def steps(mlp, opt, n):
        return [mlp.train_step(x, y, fm.MSE(), opt) for _ in range(n)]

    whole, opt = model(), fm.RMSprop(SCHEDULE, ema=0.5, momentum=0.9)
    wanted = steps(whole, opt, 8)
    first, half = model(), fm.RMSprop(SCHEDULE, ema=0.5, momentum=0.9)
    got = steps(first, half, at)
    other, rest = model(), fm.RMSprop(1.0)
    other.load_state_dict(first.state_dict())
    rest.load_state_dict(half.state_dict())
    assert got + steps(other, rest, 8 - at) == wanted
    assert rest.ema_params[0].tobytes() == opt.ema_params[0].tobytes()


def test_lr_can_be_set_to_anything_the_constructor_takes():
    opt = fm.SGD(0.5)
    assert (opt.schedule, opt._values(3)) == (None, {})
    for rate, lr in [(SCHEDULE, 0.0), (lambda t: 0.25, 0.25), (0.125, 0.125)]:
        opt.lr = rate
        assert opt.lr == lr
        assert opt.schedule is (None if rate == 0.125 else rate)
        param = np.zeros(1)
        opt.step(param, np.ones(1))
        assert param == -lr
        opt.reset()
    assert "LinearWarmup" in repr(fm.SGD(SCHEDULE))
    assert eval(repr(fm.SGD(SCHEDULE)), vars(fm)).schedule == SCHEDULE


# Bad input ----------------------------------------------------------------------------


BAD = [
    (lambda: schedules.Constant(-1.0), ValueError, "^lr must be"),
    (lambda: schedules.Constant("a"), TypeError, "^lr must be a number"),
    (lambda: schedules.Constant(np.nan), ValueError, "^lr must be finite"),
    (lambda: schedules.Step(1.0, 0), ValueError, "^step_size must be at least 1"),
    (lambda: schedules.Step(1.0, 2.5), TypeError, "^step_size must be an int"),
    (lambda: schedules.Step(1.0, 2, -1), ValueError, "^gamma must be"),
    (lambda: schedules.MultiStep(1.0, 3), TypeError, "^milestones must be a sequence"),
    (lambda: schedules.MultiStep(1.0, [3, 2]), ValueError, "^milestones must be in"),
    (lambda: schedules.MultiStep(1.0, [-3]), ValueError, r"^milestones\[0\] must"),
    (lambda: schedules.Exponential(1.0, -1.1), ValueError, "^gamma must be"),
    (lambda: schedules.Cosine(1.0, 0), ValueError, "^period must be at least 1"),
    (lambda: schedules.Cosine(1.0, 5, 2.0), ValueError, "^min_lr must be"),
    (lambda: schedules.Cosine(1.0, 5, restarts=0), ValueError, "^restarts must be"),
    (lambda: schedules.Cosine(1.0, 5, restarts=True), TypeError, "^restarts must be"),
    (lambda: schedules.LinearWarmup("x", 5), TypeError, "^after must be a number or"),
    (lambda: schedules.LinearWarmup(True, 5), TypeError, "^after must be a number or"),
    (
        lambda: schedules.LinearWarmup(schedules.ReduceOnPlateau(1.0), 5),
        TypeError,
        "^after must .* other than ReduceOnPlateau",
    ),
    (lambda: schedules.LinearWarmup(1.0, 0), ValueError, "^steps must be at least"),
    (lambda: schedules.LinearWarmup(1.0, 5, 2), ValueError, "^start_factor must be"),
    (lambda: schedules.Polynomial(1.0, 0), ValueError, "^steps must be at least 1"),
    (lambda: schedules.Polynomial(1.0, 5, 0.0), ValueError, "^power must be"),
    (lambda: schedules.Polynomial(1.0, 5, 1.0, 2.0), ValueError, "^min_lr must be"),
    (lambda: schedules.Linear(1.0, 5, -1), ValueError, "^start_factor must be"),
    (lambda: schedules.Linear(1.0, 5, 1, -1), ValueError, "^end_factor must be"),
    (lambda: schedules.ConstantFactor(1.0, 5, -1), ValueError, "^factor must be"),
    (lambda: schedules.Cyclic(0.2, 0.1), ValueError, "^max_lr must be .* 0.2"),
    (lambda: schedules.Cyclic(0.1, 0.2, 5, 0), ValueError, "^step_size_down must"),
    (lambda: schedules.Cyclic(0.1, 0.2, mode="x"), ValueError, "^mode must be one"),
    (lambda: schedules.Cyclic(0.1, 0.2, gamma=1.1), ValueError, "^gamma must be"),
    (lambda: schedules.FlatCosine(1.0, 5, 1.0), ValueError, "^flat must be"),
    (lambda: schedules.CosineLog(1.0, 5, 53), ValueError, "^cycles must be at most"),
    (lambda: schedules.WarmupStableDecay(1.0, 1, 1, 0), ValueError, "^decay must be"),
    (
        lambda: schedules.WarmupStableDecay(1.0, 1, 1, 1, shape="exponential"),
        ValueError,
        "^min_lr must be finite and > 0",
    ),
    (lambda: schedules.Piecewise([1.0], [3]), ValueError, "^lrs must have length 2"),
    (lambda: schedules.Piecewise([1.0, 2], [0]), ValueError, r"^milestones\[0\] must"),
    (lambda: schedules.Piecewise([1, 2, 3], [4, 4]), ValueError, "^milestones must di"),
    (lambda: schedules.Piecewise([-1.0], []), ValueError, r"^lrs\[0\] must be"),
    (lambda: schedules.Sequential([], []), ValueError, "^schedules must not be empty"),
    (lambda: schedules.Sequential(0.1, []), TypeError, "^schedules must be a seq"),
    (lambda: schedules.Sequential([0.1], [3]), ValueError, "^milestones must have le"),
    (
        lambda: schedules.Sequential([0.1, schedules.ReduceOnPlateau(1.0)], [3]),
        TypeError,
        r"^schedules\[1\] must .* other than ReduceOnPlateau",
    ),
    (lambda: schedules.Chained(1.0, [True]), TypeError, r"^factors\[0\] must be a nu"),
    (lambda: schedules.Chained(-1.0, [1.0]), ValueError, "^lr must be"),
    (lambda: schedules.OneCycle(1.0, 0), ValueError, "^total_steps must be"),
    (lambda: schedules.OneCycle(1.0, 9, 1.5), ValueError, "^pct_start must be"),
    (lambda: schedules.OneCycle(1.0, 9, 0.5, "sin"), ValueError, "^anneal_strategy"),
    (lambda: schedules.OneCycle(1.0, 9, div_factor=0), ValueError, "^div_factor must"),
    (lambda: schedules.InverseSqrt(1.0, 0), ValueError, "^warmup must be at least"),
    (lambda: schedules.ReduceOnPlateau(1.0, "least"), ValueError, "^mode must be"),
    (lambda: schedules.ReduceOnPlateau(1.0, factor=1), ValueError, "^factor must be"),
    (lambda: schedules.ReduceOnPlateau(1.0, patience=-1), ValueError, "^patience"),
    (lambda: schedules.ReduceOnPlateau(1.0).observe("1"), TypeError, "^value must be"),
    (lambda: schedules.Schedule()(0), TypeError, "abstract"),
    (lambda: SCHEDULE(-1), ValueError, "^first must be at least 0"),
    (lambda: SCHEDULE.values(0, -1), ValueError, "^count must be at least 0"),
    (lambda: SCHEDULE(0.5), TypeError, "^first must be an int"),
    (lambda: fm.SGD(schedules.Cosine), TypeError, "^lr .*did you mean fm.sched"),
    (lambda: fm.SGD("cosine"), TypeError, "^lr must be a number, a schedule"),
    (lambda: fm.SGD([0.1]), TypeError, "^lr must be a number"),
]


@pytest.mark.parametrize(("make", "error", "words"), BAD)
def test_bad_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("rate", "error"),
    [
        (lambda step: -1.0, ValueError),
        (lambda step: np.nan, ValueError),
        (lambda step: "fast", TypeError),
        (lambda step: None, TypeError),
    ],
)
def test_bad_rates(rate, error):
    mlp, opt = model(), fm.SGD(rate)
    before = mlp.params.copy()
    x, y = data()
    for call in (
        lambda: mlp.train_step(x, y, fm.MSE(), opt),
        lambda: fit(mlp, opt),
        lambda: opt.step(np.zeros(2), np.ones(2)),
    ):
        with pytest.raises(error, match=r"^lr must (be|return)"):
            call()
    np.testing.assert_array_equal(mlp.params, before)
    assert opt.step_count == 0


def test_exponential_growth():
    schedule = schedules.Exponential(1e-3, 1.5)
    np.testing.assert_allclose(schedule.values(0, 20), 1e-3 * 1.5 ** np.arange(20.0))
    assert schedules.Exponential(0.0, 2.0)(5000) == 0.0
    optimizer, params = fm.SGD(schedules.Exponential(1.0, 2.0**600)), np.ones(1)
    optimizer.step(params, np.zeros(1))
    optimizer.step(params, np.zeros(1))
    with pytest.raises(ValueError, match=r"^lr must be finite .* for step 2$"):
        optimizer.step(params, np.zeros(1))
    assert optimizer.step_count == 2
    mlp = model()
    with pytest.raises(ValueError, match=r"^lr must be finite"):
        fit(mlp, fm.SGD(schedules.Exponential(1.0, 2.0**600)))


def test_numbers_without_axes():
    """Arrays and tensors of no axes are numbers, as for PyTorch's learning rates."""
    rate = np.float32(0.1)
    made = [
        lambda lr: fm.Adam(lr=lr).lr,
        lambda lr: fm.SGD(1.0, momentum=lr).momentum,
        lambda lr: schedules.Step(lr, 2)(0),
        lambda lr: schedules.LinearWarmup(lr, 2)(5),
        lambda lr: fm.Adam(lr=lambda step: lr).lr,
        lambda lr: fm.Huber(lr).delta,
    ]
    for make in made:
        assert make(np.array(rate)) == rate
        with pytest.raises(TypeError):
            make(np.array([rate]) * np.ones((2, 1)))
        with pytest.raises(TypeError):
            make(np.array("0.1"))
    torch = pytest.importorskip("torch")
    for make in made:
        assert make(torch.tensor(rate)) == rate
    optimizer = fm.Adam()
    optimizer.lr = torch.tensor(0.25)
    assert optimizer.lr == 0.25
    with pytest.raises(TypeError, match=r"^lr requires grad"):
        optimizer.lr = torch.tensor(0.25, requires_grad=True)
