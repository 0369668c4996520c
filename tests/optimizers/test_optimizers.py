"""Optimisers as objects: arguments, arrays, state, and the model they belong to."""

import copy
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

MAKERS = {
    "SGD": lambda: fm.SGD(0.1),
    "SGD momentum": lambda: fm.SGD(0.1, momentum=0.9, dampening=0.1, weight_decay=0.01),
    "SGD nesterov": lambda: fm.SGD(0.1, 0.9, nesterov=True, maximize=True),
    "Adagrad": lambda: fm.Adagrad(0.1, lr_decay=0.1, initial_accumulator_value=0.5),
    "Adagrad inside": lambda: fm.Adagrad(eps=1e-3, eps_mode="inside"),
    "RMSprop": lambda: fm.RMSprop(0.01, weight_decay=0.1),
    "RMSprop all": lambda: fm.RMSprop(0.01, 0.9, 1e-6, 0.5, True, eps_mode="inside"),
    "Adam": lambda: fm.Adam(0.01),
    "Adam amsgrad": lambda: fm.Adam(0.01, (0.8, 0.9), 1e-3, 0.1, True, maximize=True),
    "Adam hat": lambda: fm.Adam(0.01, eps=1e-3, eps_mode="hat"),
    "AdamW": lambda: fm.AdamW(0.01, weight_decay=0.3),
    "Adamax": lambda: fm.Adamax(0.01),
    "Adamax all": lambda: fm.Adamax(0.01, (0.8, 0.9), 1e-3, 0.1, maximize=True),
    "NAdam": lambda: fm.NAdam(0.01),
    "NAdam all": lambda: fm.NAdam(0.01, (0.8, 0.9), 1e-3, 0.1, 0.1, True),
    "RAdam": lambda: fm.RAdam(0.01, (0.8, 0.7)),
    "RAdam all": lambda: fm.RAdam(0.01, (0.8, 0.9), 1e-3, 0.1, maximize=True),
    "Adadelta": lambda: fm.Adadelta(0.5, 0.8, 1e-3, 0.1),
    "Rprop": lambda: fm.Rprop(0.1, (0.25, 1.5), (1e-3, 0.5)),
    "ASGD": lambda: fm.ASGD(0.1, 0.1, 0.5, 1, 0.1),
    "Lion": lambda: fm.Lion(0.01, (0.8, 0.9), 0.1),
    "AdaBelief": lambda: fm.AdaBelief(0.01),
    "AdaBelief all": lambda: fm.AdaBelief(0.01, (0.8, 0.9), 1e-3, 0.1, True),
    "ScheduleFreeSGD": lambda: fm.ScheduleFreeSGD(0.1, 0.8, 0.1, 3, 0.5),
    "ScheduleFreeAdamW": lambda: fm.ScheduleFreeAdamW(0.1, weight_decay=0.1),
    "Prodigy": lambda: fm.Prodigy(weight_decay=0.1, d0=1e-3),
    "Prodigy all": lambda: fm.Prodigy(
        0.5, (0.8, 0.9), 0.95, 1e-4, 0.1, False, True, True, 1e-2, 0.8, 1.5
    ),
}
SLOTS = {
    "SGD": set(),
    "SGD momentum": {"momentum_buffer"},
    "SGD nesterov": {"momentum_buffer"},
    "Adagrad": {"sum"},
    "Adagrad inside": {"sum"},
    "RMSprop": {"square_avg"},
    "RMSprop all": {"square_avg", "momentum_buffer", "grad_avg"},
    "Adam": {"exp_avg", "exp_avg_sq"},
    "Adam amsgrad": {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"},
    "Adam hat": {"exp_avg", "exp_avg_sq"},
    "AdamW": {"exp_avg", "exp_avg_sq"},
    "Adamax": {"exp_avg", "exp_inf"},
    "Adamax all": {"exp_avg", "exp_inf"},
    "NAdam": {"exp_avg", "exp_avg_sq"},
    "NAdam all": {"exp_avg", "exp_avg_sq"},
    "RAdam": {"exp_avg", "exp_avg_sq"},
    "RAdam all": {"exp_avg", "exp_avg_sq"},
    "Adadelta": {"square_avg", "acc_delta"},
    "Rprop": {"prev", "step_size"},
    "ASGD": {"ax"},
    "Lion": {"exp_avg"},
    "AdaBelief": {"exp_avg", "exp_avg_var"},
    "AdaBelief all": {"exp_avg", "exp_avg_var"},
    "ScheduleFreeSGD": {"z"},
    "ScheduleFreeAdamW": {"z", "exp_avg_sq"},
    "Prodigy": {"exp_avg", "exp_avg_sq", "s", "p0"},
    "Prodigy all": {"exp_avg", "exp_avg_sq", "s", "p0"},
}
SHARED = {
    "NAdam": {"mu_product"},
    "ScheduleFreeSGD": {"lr_max", "weight_sum"},
    "ScheduleFreeAdamW": {"lr_max", "weight_sum"},
    "Prodigy": {"d", "d_max", "d_numerator"},
}

# A few steps in float64, with about ten roundings each.
STEPS_RTOL = 1e-12


@pytest.fixture(params=MAKERS)
def maker(request):
    return MAKERS[request.param]


def steps(opt, n, params, seed=0):
    """Take n steps with gradients that depend only on the seed and the step."""
    for i in range(n):
        rng = np.random.default_rng((seed, i))
        opt.step(params, [rng.standard_normal(p.shape).astype(p.dtype) for p in params])
    return params


def some_params(dtype="float64"):
    return [np.linspace(-1, 1, 6, dtype=dtype).reshape(2, 3), np.ones(5, dtype)]


# Steps --------------------------------------------------------------------------------


def test_steps_are_those_of_the_reference(maker):
    opt = maker()
    other = getattr(reference, type(opt).__name__)(**opt._hyper())
    got, wanted = some_params(), some_params()
    for i in range(4):
        grads = [
            np.random.default_rng((i, j)).standard_normal(p.shape)
            for j, p in enumerate(got)
        ]
        opt.step(got, grads)
        other.step(wanted, [g.copy() for g in grads])
        for a, b in zip(got, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=STEPS_RTOL)
    assert opt.step_count == 4


@pytest.mark.parametrize("shape", [(), (1,), (7,), (2, 3), (2, 3, 4), (1, 2, 1, 2)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_of_any_rank(shape, dtype, maker):
    rng = np.random.default_rng(0)
    param = np.asarray(rng.standard_normal(shape), dtype)
    grad = np.asarray(rng.standard_normal(shape), dtype)
    flat = param.flatten()
    one, two = maker(), maker()
    for _ in range(2):
        assert one.step(param, grad) is None
        two.step([flat], [grad.flatten()])
        np.testing.assert_array_equal(param.ravel(), flat)


def test_sequences_of_arrays(maker):
    wanted = steps(maker(), 2, some_params())
    opt, params = maker(), some_params()
    for i in range(2):
        rng = np.random.default_rng((0, i))
        grads = tuple(rng.standard_normal(p.shape) for p in params)
        opt.step(tuple(params), list(grads) if i else grads)
    for a, b in zip(params, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_mixed_dtypes():
    params = [np.ones(3, "float32"), np.ones(4, "float64")]
    fm.Adam(0.5).step(params, [np.ones(3, "float32"), np.ones(4)])
    # The size of Adam's first step is lr, up to eps.
    np.testing.assert_allclose(params[0], 0.5, rtol=1e-6)
    np.testing.assert_allclose(params[1], 0.5, rtol=1e-7)


def test_grads_are_not_changed(maker):
    params, grads = some_params(), [np.ones((2, 3)), np.arange(5.0)]
    before = copy.deepcopy(grads)
    for grad in grads:
        grad.flags.writeable = False
    maker().step(params, grads)
    for a, b in zip(grads, before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_unpickled_arrays_are_stepped_in_place():
    param = pickle.loads(pickle.dumps(np.ones(3, "float32")))
    fm.SGD(1.0).step(param, np.ones(3, "float32"))
    np.testing.assert_array_equal(param, 0)


def test_memory_mapped_arrays_are_stepped_in_the_file(tmp_path, maker):
    plain, path = some_params(), tmp_path / "params"
    mapped = [np.memmap(path, "float64", "w+", shape=plain[0].shape), plain[1].copy()]
    mapped[0][...] = plain[0]
    slopes = [np.linspace(1, 2, 6).reshape(2, 3), np.arange(5.0)]
    file = np.memmap(tmp_path / "grads", "float64", "w+", shape=(2, 3))
    file[...] = slopes[0]
    one, two = maker(), maker()
    for _ in range(2):
        one.step(plain, slopes)
        two.step(mapped, [file, slopes[1]])
    mapped[0].flush()
    np.testing.assert_array_equal(np.fromfile(path), plain[0].ravel())
    np.testing.assert_array_equal(mapped[1], plain[1])
    np.testing.assert_array_equal(file, slopes[0])


@pytest.mark.parametrize("cls", [np.matrix, np.recarray])
def test_arrays_of_subclasses(cls):
    param, grad = some_params()[0], np.arange(6.0).reshape(2, 3)
    other = param.copy().view(cls)
    fm.SGD(0.5).step(param, grad)
    fm.SGD(0.5).step(other, grad.view(cls))
    np.testing.assert_array_equal(np.asarray(other), param)


def frozen(array):
    array.flags.writeable = False
    return array


MEMORY = np.zeros(8)
BAD_STEPS = {
    "list for params": ([1.0], np.ones(1), TypeError, "^params must be a float32"),
    "float16": (np.ones(2, "f2"), np.ones(2, "f2"), TypeError, "^params.*float16"),
    "ints": (np.ones(2, int), np.ones(2), TypeError, "^params.*never converted.*int64"),
    "swapped": (np.ones(2, ">f8"), np.ones(2), TypeError, "^params.*>f8"),
    "complex": (np.ones(2, complex), np.ones(2), TypeError, "^params.*complex"),
    "scalar": (1.0, 1.0, TypeError, "^params must be a numpy array, or a list.*1.0"),
    "None": (np.ones(2), None, TypeError, "^grads must be a numpy array"),
    "numpy scalar": (np.float64(1), np.ones(1), TypeError, "^params must be"),
    "dict": ({"w": np.ones(2)}, np.ones(2), TypeError, "^params must be.*dict"),
    "grad list": ([np.ones(2)], [[1.0, 1.0]], TypeError, "^grads must be a numpy arr"),
    "grad dtype": (np.ones(2), np.ones(2, "f4"), TypeError, "^grads.*float64.*float32"),
    "grad shape": (
        np.ones(2),
        np.ones(3),
        ValueError,
        r"^grads must have shape \(2,\)",
    ),
    "grad rank": (np.ones((2, 1)), np.ones(2), ValueError, "^grads must have shape"),
    "second": (
        [np.ones(2), np.ones(2)],
        [np.ones(2), np.ones(1)],
        ValueError,
        r"^grads\[1\] must have shape",
    ),
    "numbers": ([np.ones(2)], [np.ones(2)] * 2, ValueError, "1 params and 2 grads"),
    "none": ([], [], ValueError, "at least one array"),
    "strided": (
        np.ones(4)[::2],
        np.ones(2),
        ValueError,
        "^params must be C-contiguous",
    ),
    "reversed": (np.ones(4)[::-1], np.ones(4), ValueError, "^params must be C-contig"),
    "fortran": (np.ones((2, 3)).T, np.ones((3, 2)), ValueError, "^params must be C-co"),
    "grad order": (
        np.ones((3, 2)),
        np.ones((2, 3)).T,
        ValueError,
        "^grads must be C-c",
    ),
    "read-only": (frozen(np.ones(2)), np.ones(2), ValueError, "^params.*read-only"),
    "masked": (np.ma.ones(2), np.ones(2), TypeError, "^params must not be a masked"),
    "masked grads": (
        np.ones(2),
        np.ma.masked_array([1.0, 1.0], mask=[True, False]),
        TypeError,
        "^grads must not be a masked",
    ),
    "empty": (np.ones(0), np.ones(0), ValueError, "^params must not be empty"),
    "overlap": (MEMORY[:4], MEMORY[2:6], ValueError, "^params.*must not overlap grads"),
    "same": (
        [MEMORY[:4], MEMORY[2:6]],
        [np.ones(4), np.ones(4)],
        ValueError,
        r"^params\[1\] must not overlap params\[0\]",
    ),
}


@pytest.mark.parametrize("case", BAD_STEPS)
def test_bad_steps(case, maker):
    params, grads, error, words = BAD_STEPS[case]
    opt, before = maker(), copy.deepcopy(params)
    with pytest.raises(error, match=words):
        opt.step(params, grads)
    assert opt.step_count == 0
    assert opt.state_dict()["slots"] == []
    for a, b in zip(np.atleast_1d(params), np.atleast_1d(before), strict=True):
        np.testing.assert_equal(a, b)


def test_the_first_step_fixes_the_arrays(maker):
    opt, params = maker(), some_params()
    steps(opt, 1, params)
    before = copy.deepcopy(params)
    for other in (params[:1], [params[1], params[0]], some_params("float32")):
        with pytest.raises(ValueError, match="parameter"):
            steps(opt, 1, other)
    assert opt.step_count == 1
    for a, b in zip(params, before, strict=True):
        np.testing.assert_array_equal(a, b)


# Hyperparameters ----------------------------------------------------------------------


BAD_HYPER = [
    (fm.SGD, {"lr": -1e-3}, ValueError, "^lr must be finite and >= 0"),
    (fm.SGD, {"lr": float("nan")}, ValueError, "^lr must be finite"),
    (fm.SGD, {"lr": float("inf")}, ValueError, "^lr must be finite"),
    (fm.SGD, {"lr": "0.1"}, TypeError, "^lr must be a number.*'0.1'"),
    (fm.SGD, {"lr": True}, TypeError, "^lr must be a number"),
    (fm.SGD, {"lr": None}, TypeError, "^lr must be a number"),
    (fm.SGD, {"lr": 0.1, "momentum": -0.1}, ValueError, "^momentum must be"),
    (fm.SGD, {"lr": 0.1, "weight_decay": -1}, ValueError, "^weight_decay must be"),
    (
        fm.SGD,
        {"lr": 0.1, "nesterov": True},
        ValueError,
        "^nesterov=True needs momentum",
    ),
    (fm.SGD, {"lr": 0.1, "nesterov": 1}, TypeError, "^nesterov must be True or False"),
    (
        fm.SGD,
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "nesterov": True},
        ValueError,
        "^nesterov=True needs momentum > 0 and dampening=0",
    ),
    (fm.Adagrad, {"lr_decay": -1}, ValueError, "^lr_decay must be"),
    (fm.Adagrad, {"initial_accumulator_value": -1}, ValueError, "^initial_accumul"),
    (fm.Adagrad, {"eps": -1}, ValueError, "^eps must be"),
    (
        fm.Adagrad,
        {"eps_mode": "hat"},
        ValueError,
        "^eps_mode must be one of outside, in",
    ),
    (
        fm.RMSprop,
        {"alpha": -0.1},
        ValueError,
        "^alpha must be finite and >= 0 and <= 1",
    ),
    (fm.RMSprop, {"alpha": 1.1}, ValueError, "^alpha must be"),
    (fm.RMSprop, {"eps_mode": "hat"}, ValueError, "^eps_mode must be"),
    (fm.RMSprop, {"eps_mode": None}, TypeError, "^eps_mode must be a name"),
    (fm.Adam, {"betas": (1.0, 0.9)}, ValueError, r"^betas\[0\] must be .*< 1"),
    (fm.Adam, {"betas": (0.9, -0.1)}, ValueError, r"^betas\[1\] must be"),
    (fm.Adam, {"betas": 0.9}, TypeError, "^betas must be two numbers"),
    (fm.Adam, {"betas": (0.9,)}, TypeError, "^betas must be two numbers"),
    (fm.Adam, {"betas": "12"}, TypeError, "^betas must be two numbers"),
    (fm.Adam, {"eps": -1e-8}, ValueError, "^eps must be"),
    (fm.Adam, {"amsgrad": "no"}, TypeError, "^amsgrad must be True or False"),
    (fm.Adam, {"eps_mode": "inner"}, ValueError, "^eps_mode must be one of"),
    (fm.AdamW, {"weight_decay": -0.1}, ValueError, "^weight_decay must be"),
    (fm.AdamW, {"maximize": 0}, TypeError, "^maximize must be True or False"),
    (fm.Adamax, {"lr": -1}, ValueError, "^lr must be"),
    (fm.Adamax, {"betas": (0.9, 1.0)}, ValueError, r"^betas\[1\] must be .*< 1"),
    (fm.Adamax, {"eps": -1e-8}, ValueError, "^eps must be"),
    (fm.Adamax, {"weight_decay": -0.1}, ValueError, "^weight_decay must be"),
    (fm.Adamax, {"eps_mode": "inside"}, TypeError, "unexpected.*'eps_mode'"),
    (fm.Adamax, {"amsgrad": True}, TypeError, "unexpected.*'amsgrad'"),
    (fm.NAdam, {"momentum_decay": -1}, ValueError, "^momentum_decay must be"),
    (fm.NAdam, {"decoupled_weight_decay": 1}, TypeError, "^decoupled_weight_decay"),
    (fm.Adadelta, {"rho": 1.5}, ValueError, "^rho must be finite and >= 0 and <= 1"),
    (fm.Rprop, {"etas": (0.0, 1.2)}, ValueError, r"^etas\[0\] must be .*> 0 and < 1"),
    (fm.Rprop, {"etas": (0.5, 1.0)}, ValueError, r"^etas\[1\] must be .*> 1"),
    (fm.Rprop, {"etas": 0.5}, TypeError, r"^etas must be two numbers \(etaminus, "),
    (fm.Rprop, {"step_sizes": (-1, 1)}, ValueError, r"^step_sizes\[0\] must be"),
    (fm.Rprop, {"step_sizes": (2, 1)}, ValueError, r"^step_sizes .*got \(2.0, 1.0\)"),
    (fm.ASGD, {"alpha": 1.5}, ValueError, "^alpha must be"),
    (fm.ASGD, {"lambd": -0.1}, ValueError, "^lambd must be"),
    (fm.ASGD, {"t0": -1}, ValueError, "^t0 must be"),
    (fm.Lion, {"betas": (0.9, 1.0)}, ValueError, r"^betas\[1\] must be .*< 1"),
    (fm.AdaBelief, {"eps": -1}, ValueError, "^eps must be"),
    (fm.ScheduleFreeSGD, {"warmup_steps": -1}, ValueError, "^warmup_steps must be"),
    (fm.ScheduleFreeSGD, {"warmup_steps": 1.5}, TypeError, "^warmup_steps must be"),
    (fm.ScheduleFreeSGD, {"r": -1}, ValueError, "^r must be"),
    (fm.ScheduleFreeSGD, {"momentum": 0}, ValueError, "^momentum must be > 0 and < 1"),
    (fm.ScheduleFreeSGD, {"momentum": 1}, ValueError, "^momentum must be > 0 and < 1"),
    (fm.ScheduleFreeAdamW, {"betas": (0, 0.9)}, ValueError, r"^betas\[0\] must be > 0"),
    (fm.ScheduleFreeAdamW, {"weight_lr_power": -1}, ValueError, "^weight_lr_power"),
    (fm.Prodigy, {"d0": 0}, ValueError, "^d0 must be finite and > 0"),
    (fm.Prodigy, {"beta3": 1.0}, ValueError, "^beta3 must be"),
    (fm.Prodigy, {"d_coef": -1}, ValueError, "^d_coef must be"),
    (fm.Prodigy, {"growth_rate": 0.5}, ValueError, "^growth_rate must be"),
    (fm.Prodigy, {"growth_rate": None}, TypeError, "^growth_rate must be a number"),
    (fm.Prodigy, {"decouple": 1}, TypeError, "^decouple must be True or False"),
]


@pytest.mark.parametrize(("cls", "hyper", "error", "words"), BAD_HYPER, ids=str)
def test_bad_hyperparameters(cls, hyper, error, words):
    with pytest.raises(error, match=words):
        cls(**hyper)
    # Assignments are checked like arguments of the constructor.
    opt = fm.SGD(0.1, momentum=0.5) if cls is fm.SGD else cls()
    before = opt.state_dict()
    name, value = list(hyper.items())[-1]
    if name not in ("eps_mode", "nesterov", "dampening", "initial_accumulator_value"):
        with pytest.raises((error, AttributeError)):
            setattr(opt, name, value)
        assert opt.state_dict() == before


def test_defaults_are_torchs():
    ours = ("maximize", "eps_mode", "clip_norm", "clip_value", "l1", "decay", "ema")

    def hyper(opt):
        return {k: v for k, v in opt._hyper().items() if k not in ours}

    assert hyper(fm.SGD(1)) == {
        "lr": 1.0,
        "momentum": 0.0,
        "dampening": 0.0,
        "nesterov": False,
        "weight_decay": 0.0,
    }
    assert hyper(fm.Adagrad()) == {
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
    }
    assert hyper(fm.RMSprop()) == {
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "momentum": 0.0,
        "centered": False,
        "weight_decay": 0.0,
    }
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "amsgrad": False}
    assert hyper(fm.Adam()) == {**adam, "weight_decay": 0.0}
    assert hyper(fm.AdamW()) == {**adam, "weight_decay": 1e-2}
    assert hyper(fm.Adamax()) == {
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
    }
    moments = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    apart = {"decoupled_weight_decay": False}
    assert hyper(fm.NAdam()) == {
        "lr": 2e-3,
        **moments,
        "momentum_decay": 4e-3,
        **apart,
    }
    assert hyper(fm.RAdam()) == {"lr": 1e-3, **moments, **apart}
    assert hyper(fm.AdaBelief()) == {"lr": 1e-3, **moments, "eps": 1e-16, **apart}
    assert hyper(fm.Adadelta()) == {
        "lr": 1.0,
        "rho": 0.9,
        "eps": 1e-6,
        "weight_decay": 0.0,
    }
    assert hyper(fm.Rprop()) == {
        "lr": 1e-2,
        "etas": (0.5, 1.2),
        "step_sizes": (1e-6, 50.0),
        "weight_decay": 0.0,
    }
    assert hyper(fm.ASGD()) == {
        "lr": 1e-2,
        "lambd": 1e-4,
        "alpha": 0.75,
        "t0": 1e6,
        "weight_decay": 0.0,
    }
    free = {"weight_decay": 0.0, "warmup_steps": 0, "r": 0.0, "weight_lr_power": 2.0}
    assert hyper(fm.ScheduleFreeSGD()) == {"lr": 1.0, "momentum": 0.9, **free}
    assert hyper(fm.ScheduleFreeAdamW()) == {"lr": 2.5e-3, **moments, **free}
    assert hyper(fm.Prodigy()) == {
        "lr": 1.0,
        **moments,
        "beta3": None,
        "decouple": True,
        "use_bias_correction": False,
        "safeguard_warmup": False,
        "d0": 1e-6,
        "d_coef": 1.0,
        "growth_rate": float("inf"),
    }
    assert hyper(fm.Lion()) == {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0.0}
    with pytest.raises(TypeError, match="lr"):
        fm.SGD()
    with pytest.raises(TypeError, match="abstract"):
        fm.optimizers.Optimizer()


def test_numbers_can_be_set_between_steps():
    opt = fm.SGD(1.0)
    param = np.zeros(1)
    opt.step(param, np.ones(1))
    opt.lr = np.float32(0.5)
    opt.step(param, np.ones(1))
    opt.maximize = True
    opt.step(param, np.ones(1))
    assert param == -1.0
    assert (opt.lr, opt.maximize) == (0.5, True)

    adam = fm.Adam()
    adam.betas = [0.5, 0.25]
    adam.eps = 1
    adam.weight_decay = 0.1
    assert (adam.betas, adam.eps, adam.weight_decay) == ((0.5, 0.25), 1.0, 0.1)


def test_what_cannot_be_set():
    plain, heavy = fm.SGD(0.1), fm.SGD(0.1, momentum=0.5, nesterov=True)
    plain.nesterov = False
    for opt, name, value in [
        (plain, "momentum", 0.9),
        (fm.SGD(0.1, momentum=0.9), "momentum", 0.0),
        (fm.RMSprop(), "momentum", 0.9),
        (fm.RMSprop(), "centered", True),
        (fm.Adam(), "amsgrad", True),
    ]:
        # After a step there are slots, and these values would need different ones.
        steps(opt, 1, some_params())
        before = opt._hyper()
        with pytest.raises(ValueError, match=f"^{name}"):
            setattr(opt, name, value)
        assert opt._hyper() == before
    heavy.momentum = 0.75
    assert heavy.momentum == 0.75
    with pytest.raises(ValueError, match="nesterov=True needs"):
        heavy.dampening = 0.1
    with pytest.raises(ValueError, match="nesterov=True needs"):
        plain.nesterov = True
    for opt, name, value in [
        (fm.Adagrad(), "initial_accumulator_value", 1.0),
        (fm.Adam(), "eps_mode", "hat"),
        (fm.Adam(), "step_count", 3),
        (fm.Adam(), "learning_rate", 3),
    ]:
        before = opt.state_dict()
        with pytest.raises(AttributeError):
            setattr(opt, name, value)
        assert opt.state_dict() == before


def test_repr_makes_the_same_optimiser(maker):
    opt = maker()
    assert eval(repr(opt), vars(fm))._hyper() == opt._hyper()


# State --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_state_dict(name):
    opt = MAKERS[name]()
    assert opt.state_dict()["step"] == 0
    steps(opt, 3, some_params("float32"))
    state = opt.state_dict()
    shared = SHARED.get(type(opt).__name__, set())
    assert state.keys() - {"shared"} == {"kind", "hyper", "step", "slots"}
    assert state.get("shared", {}).keys() == shared
    assert state["kind"] == type(opt).__name__.lower()
    assert state["step"] == 3
    assert type(opt)(**state["hyper"])._hyper() == opt._hyper()
    for slot, size in zip(state["slots"], (6, 5), strict=True):
        assert slot.keys() == SLOTS[name]
        for array in slot.values():
            assert (array.shape, array.dtype) == ((size,), np.float32)
            array[:] = np.nan  # a copy, so the optimiser does not change
    params = steps(opt, 1, some_params("float32"))
    assert all(np.isfinite(p).all() for p in params)


def through_state_dict(opt):
    other = fm.SGD(0.5) if isinstance(opt, fm.SGD) else type(opt)()
    other.load_state_dict(opt.state_dict())
    return other


@pytest.mark.parametrize(
    "way",
    [
        lambda opt: pickle.loads(pickle.dumps(opt)),
        copy.deepcopy,
        copy.copy,
        through_state_dict,
    ],
    ids=["pickle", "deepcopy", "copy", "state_dict"],
)
def test_copies_continue_alike_and_independently(way, maker):
    opt = maker()
    params = steps(opt, 3, some_params())
    other, other_params = way(opt), copy.deepcopy(params)
    assert repr(other) == repr(opt)
    assert other.step_count == 3
    steps(opt, 2, params, seed=1)
    steps(other, 2, other_params, seed=1)
    for a, b in zip(params, other_params, strict=True):
        np.testing.assert_array_equal(a, b)
    steps(opt, 1, params)
    assert (opt.step_count, other.step_count) == (6, 5)


def test_load_state_dict_is_strict_and_atomic():
    opt = fm.Adam(0.25)
    params = steps(opt, 2, [np.ones(3)])
    good = opt.state_dict()
    slot = good["slots"][0]
    for bad, error, words in [
        ({}, ValueError, "state must be a dict from state_dict"),
        (None, ValueError, "state must be a dict from state_dict"),
        ([1, 2], ValueError, "state must be a dict from state_dict"),
        ({**good, "kind": "adamw"}, ValueError, "must be 'adam', got 'adamw'"),
        ({**good, "hyper": {"lr": 1.0}}, ValueError, "must have the keys lr, betas"),
        ({**good, "hyper": {**good["hyper"], "lr": -1}}, ValueError, "^lr must"),
        ({**good, "step": -1}, ValueError, r"state\['step'\]"),
        ({**good, "step": 1.5}, TypeError, r"state\['step'\]"),
        ({**good, "slots": [None]}, ValueError, r"^state\['slots'\]\[0\] must be a"),
        (
            {**good, "slots": [{"exp_avg": ["a"]}]},
            ValueError,
            "'exp_avg'.*must be a 1-D",
        ),
        ({**good, "slots": [{}]}, ValueError, r"^state\b"),
        ({**good, "slots": [{"exp_avg": slot["exp_avg"]}]}, ValueError, r"^state\b"),
        (
            {**good, "slots": [{**slot, "sum": slot["exp_avg"]}]},
            ValueError,
            r"^state\b",
        ),
        ({**good, "slots": [{**slot, "exp_avg": np.ones(2)}]}, ValueError, r"^state\b"),
    ]:
        with pytest.raises(error, match=words):
            opt.load_state_dict(bad)
        assert opt.step_count == 2
        assert opt.lr == 0.25
        for name, array in opt.state_dict()["slots"][0].items():
            np.testing.assert_array_equal(array, slot[name])
    steps(opt, 1, params)


def test_damaged_slots_are_refused(maker):
    opt = maker()
    params = steps(opt, 2, some_params())
    good = opt.state_dict()
    first, second = good["slots"]
    damaged = [[first, None], [first, {**second, "other": np.ones(5)}]]
    for name, array in second.items():
        damaged += [
            [first, {k: v for k, v in second.items() if k != name}],
            [first, {**second, name: array.reshape(1, -1)}],
            [first, {**second, name: array.astype(int)}],
        ]
    for slots in damaged:
        with pytest.raises(ValueError, match=r"^state"):
            opt.load_state_dict({**good, "slots": slots})
    assert repr(opt.state_dict()) == repr(good)
    other = maker()
    other.load_state_dict(good)
    wanted = copy.deepcopy(params)
    for a, b in zip(steps(opt, 1, params), steps(other, 1, wanted), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_reset_optimiser_equals_a_new_one(maker):
    opt = maker()
    steps(opt, 3, some_params())
    opt.reset()
    assert opt.step_count == 0
    assert opt.state_dict()["slots"] == []
    again = steps(opt, 3, some_params("float32"))
    wanted = steps(maker(), 3, some_params("float32"))
    for a, b in zip(again, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


# Models -------------------------------------------------------------------------------


X, Y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")


def train(mlp, opt, how):
    if how == "fit":
        mlp.fit(X, Y, loss=fm.MSE(), optimizer=opt, epochs=1, batch_size=4)
    else:
        mlp.train_step(X, Y, fm.MSE(), opt)


@pytest.mark.parametrize("first", ["fit", "train_step"])
@pytest.mark.parametrize("second", ["fit", "train_step"])
def test_an_optimiser_belongs_to_one_model(first, second, maker):
    opt, mlp, other = maker(), fm.MLP([3, 2], seed=0), fm.MLP([3, 2], seed=1)
    train(mlp, opt, first)
    train(mlp, opt, second)
    before = other.params.copy()
    with pytest.raises(ValueError, match=r"^optimizer has trained another.*reset\(\)"):
        train(other, opt, second)
    np.testing.assert_array_equal(other.params, before)
    assert opt.step_count == 2
    del mlp  # the moments do not suit another model even if this one is deleted
    with pytest.raises(ValueError, match="another model"):
        train(other, opt, second)
    opt.reset()
    train(other, opt, second)
    assert opt.step_count == 1


def test_an_optimiser_is_free_until_its_first_step(maker):
    opt, mlp, other = maker(), fm.MLP([3, 2], seed=0), fm.MLP([3, 2], seed=1)
    with pytest.raises(ValueError, match=r"^x must"):
        mlp.train_step(X[:, :2], Y, fm.MSE(), opt)
    train(other, opt, "train_step")
    with pytest.raises(ValueError, match="another model"):
        train(mlp, opt, "train_step")


def test_a_loaded_optimiser_trains_a_loaded_model(maker):
    opt, mlp = maker(), fm.MLP([3, 5, 2], seed=0)
    for _ in range(2):
        train(mlp, opt, "train_step")
    other, other_opt = pickle.loads(pickle.dumps((mlp, opt)))
    for _ in range(2):
        train(mlp, opt, "train_step")
        train(other, other_opt, "train_step")
    np.testing.assert_array_equal(mlp.params, other.params)


def test_steps_by_hand_are_train_steps(maker):
    one, two = fm.MLP([3, 5, 2], seed=0), fm.MLP([3, 5, 2], seed=0)
    opt, other = maker(), maker()
    for _ in range(3):
        one.train_step(X, Y, fm.MSE(), opt)
        other.step(two.params, two.value_and_grad(X, Y, fm.MSE())[1])
    np.testing.assert_array_equal(one.params, two.params)
