"""Clipping, L1, decay of weights only, moving averages, Polyak updates, divergence."""

import copy
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from helpers import assert_threaded, random_batch, thread_counts, training_flops

try:
    import torch
except ImportError:
    torch = None
needs_torch = pytest.mark.skipif(torch is None, reason="PyTorch is not installed")

# A few steps of about ten roundings each, relative to the largest parameter; in float32
# the norm is a sum of many squares, which torch adds in a different order.
STEPS_RTOL = {"float64": 1e-12, "float32": 1e-5}
LAYERS = [5, 16, 9, 3]

MAKERS = {
    "SGD": lambda **o: fm.SGD(0.1, momentum=0.9, **o),
    "SGD plain": lambda **o: fm.SGD(0.1, **o),
    "Adagrad": lambda **o: fm.Adagrad(0.1, **o),
    "RMSprop": lambda **o: fm.RMSprop(0.01, momentum=0.5, centered=True, **o),
    "Adam": lambda **o: fm.Adam(0.01, amsgrad=True, **o),
    "AdamW": lambda **o: fm.AdamW(0.01, **o),
    "Adamax": lambda **o: fm.Adamax(0.01, **o),
    "NAdam": lambda **o: fm.NAdam(0.01, **o),
    "RAdam": lambda **o: fm.RAdam(0.01, (0.9, 0.6), **o),
    "Adadelta": lambda **o: fm.Adadelta(0.5, eps=1e-3, **o),
    "Rprop": lambda **o: fm.Rprop(0.01, **o),
    "ASGD": lambda **o: fm.ASGD(0.1, lambd=0.1, t0=2, **o),
    "Lion": lambda **o: fm.Lion(0.01, **o),
    "AdaBelief": lambda **o: fm.AdaBelief(0.01, **o),
    "ScheduleFreeSGD": lambda **o: fm.ScheduleFreeSGD(0.1, warmup_steps=3, **o),
    "ScheduleFreeAdamW": lambda **o: fm.ScheduleFreeAdamW(0.01, **o),
    "Prodigy": lambda **o: fm.Prodigy(d0=1e-3, **o),
    "Prodigy coupled": lambda **o: fm.Prodigy(d0=1e-3, decouple=False, **o),
}
TORCH = {
    "SGD": lambda p, **o: torch.optim.SGD(p, 0.1, momentum=0.9, **o),
    "SGD plain": lambda p, **o: torch.optim.SGD(p, 0.1, **o),
    "Adagrad": lambda p, **o: torch.optim.Adagrad(p, 0.1, **o),
    "RMSprop": lambda p, **o: torch.optim.RMSprop(
        p, 0.01, momentum=0.5, centered=True, **o
    ),
    "Adam": lambda p, **o: torch.optim.Adam(p, 0.01, amsgrad=True, **o),
    "AdamW": lambda p, **o: torch.optim.AdamW(p, 0.01, **o),
    "Adamax": lambda p, **o: torch.optim.Adamax(p, 0.01, **o),
    "NAdam": lambda p, **o: torch.optim.NAdam(p, 0.01, **o),
    "RAdam": lambda p, **o: torch.optim.RAdam(p, 0.01, (0.9, 0.6), **o),
    "Adadelta": lambda p, **o: torch.optim.Adadelta(p, 0.5, eps=1e-3, **o),
    "ASGD": lambda p, **o: torch.optim.ASGD(p, 0.1, lambd=0.1, t0=2, **o),
}
OPTIONS = [
    {"clip_norm": 0.05},
    {"clip_norm": 1e3},
    {"clip_value": 0.01},
    {"l1": 0.02},
    {"l1": 0.02, "decay": "weights", "weight_decay": 0.3},
    {"decay": "weights", "weight_decay": 0.3, "clip_norm": 0.1},
    {"l1": 0.01, "clip_value": 0.02, "weight_decay": 0.1, "maximize": True},
    {"l1": 0.01, "clip_norm": 0.3, "decay": "weights", "maximize": True},
    {"ema": 0.75},
    {"ema": 0.9, "clip_norm": 0.1, "l1": 0.01, "weight_decay": 0.1},
]


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


@pytest.fixture(params=TORCH)
def torch_name(request):
    """PyTorch keeps numbers such as NAdam's mu_product in its default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield request.param
    torch.set_default_dtype(before)


def batch(dtype="float64", rows=12, seed=0):
    return random_batch(rows, LAYERS[0], LAYERS[-1], dtype, seed)


def model(dtype="float64", layers=LAYERS):
    return fm.MLP(layers, activation="tanh", dtype=dtype, seed=4)


def as_torch(mlp):
    """The same network, and its parameters in fastmlp's order."""
    modules = []
    for w in mlp.weights:
        linear = torch.nn.Linear(*w.shape, dtype=getattr(torch, mlp.dtype.name))
        modules += [linear, torch.nn.Tanh()]
    net = torch.nn.Sequential(*modules[:-1])
    net.load_state_dict({k: torch.tensor(v) for k, v in mlp.state_dict().items()})
    return net


def torch_params(net):
    return np.concatenate(
        [p.detach().numpy().T.ravel() for p in net.parameters()],
    )


def torch_steps(net, x, y, name, options, n):
    """Train with torch's tools; return the moving average."""
    options = dict(options)
    norm, value = options.pop("clip_norm", None), options.pop("clip_value", None)
    l1, decay = options.pop("l1", 0.0), options.pop("decay", "all")
    ema = options.pop("ema", None)
    spared = [p for p in net.parameters() if p.ndim < 2 and decay == "weights"]
    rest = [p for p in net.parameters() if not any(p is q for q in spared)]
    groups = [{"params": rest}]
    if spared:
        groups.append({"params": spared, "weight_decay": 0.0})
    optimizer = TORCH[name](groups, **options)
    average = None
    x, y = torch.tensor(x), torch.tensor(y)
    for _ in range(n):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        if norm is not None:
            torch.nn.utils.clip_grad_norm_(net.parameters(), norm)
        if value is not None:
            torch.nn.utils.clip_grad_value_(net.parameters(), value)
        for p in rest:
            sign = -1 if options.get("maximize") else 1
            p.grad += sign * l1 * p.detach().sign()
        optimizer.step()
        if ema is not None:
            now = torch_params(net)
            average = now if average is None else ema * average + (1 - ema) * now
    return average


@needs_torch
@pytest.mark.parametrize("dtype", STEPS_RTOL)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_torchs(torch_name, options, dtype):
    name = torch_name
    x, y = batch(dtype)
    mlp, opt = model(dtype), MAKERS[name](**options)
    net = as_torch(mlp)
    average = torch_steps(net, x, y, name, options, 6)
    for _ in range(6):
        mlp.train_step(x, y, fm.MSE(), opt)
    limit = STEPS_RTOL[dtype] * np.abs(mlp.params).max()
    np.testing.assert_allclose(mlp.params, torch_params(net), rtol=0, atol=limit)
    if average is None:
        assert opt.ema_params is None
    else:
        np.testing.assert_allclose(opt.ema_params[0], average, rtol=0, atol=limit)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_are_the_references(name, options):
    x, y = batch()
    mlp, opt = model(), MAKERS[name](**options)
    kind = getattr(reference, type(opt).__name__)
    theirs, other = reference.MLP(LAYERS, activation="tanh", dtype="float64"), None
    theirs.params[:] = mlp.params
    other = kind(**opt._hyper())
    for _ in range(5):
        mlp.train_step(x, y, fm.MSE(), opt)
        theirs.train_step(x, y, reference.MSE(), other)
    limit = STEPS_RTOL["float64"] * np.abs(mlp.params).max()
    np.testing.assert_allclose(mlp.params, theirs.params, rtol=0, atol=limit)
    if "ema" in options:
        np.testing.assert_allclose(
            opt.averaged(mlp).params, other.averaged(theirs).params, rtol=0, atol=limit
        )
    theirs.polyak_(reference.MLP(LAYERS, dtype="float64", seed=1), 0.5)


# Free arrays --------------------------------------------------------------------------


def arrays(dtype="float64"):
    rng = np.random.default_rng(5)
    shapes = [(2, 3), (4,), (2, 3, 4), (), (40, 70)]
    params = [np.asarray(rng.standard_normal(s), dtype) for s in shapes]
    return params, [np.asarray(rng.standard_normal(s), dtype) for s in shapes]


@needs_torch
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_free_arrays_are_clipped_together(torch_name, options):
    name = torch_name
    params, grads = arrays()
    kept = copy.deepcopy(grads)
    opt = MAKERS[name](**options)
    theirs = [torch.tensor(p, requires_grad=True) for p in params]
    own = {k: v for k, v in options.items() if k in ("weight_decay", "maximize")}
    spared = [options.get("decay") == "weights" and p.ndim < 2 for p in params]
    groups = [
        {"params": [p], **({"weight_decay": 0.0} if s else {})}
        for p, s in zip(theirs, spared, strict=True)
    ]
    other = TORCH[name](groups, **own)
    sign = -1 if options.get("maximize") else 1
    for _ in range(3):
        opt.step(params, grads)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = torch.tensor(g)
        if "clip_norm" in options:
            torch.nn.utils.clip_grad_norm_(theirs, options["clip_norm"])
        if "clip_value" in options:
            torch.nn.utils.clip_grad_value_(theirs, options["clip_value"])
        for p, s in zip(theirs, spared, strict=True):
            p.grad += 0 if s else sign * options.get("l1", 0.0) * p.detach().sign()
        other.step()
    for p, t, g, k in zip(params, theirs, grads, kept, strict=True):
        np.testing.assert_allclose(p, t.detach().numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(g, k)


def test_the_norm_is_of_all_arrays_of_any_dtype():
    params = [np.zeros(2, "float32"), np.zeros((1, 2))]
    grads = [np.array([3, 0], "float32"), np.array([[0.0, 4.0]])]
    fm.SGD(1.0, clip_norm=1.0).step(params, grads)
    np.testing.assert_allclose(params[0], [-0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(params[1], [[0, -0.8]], rtol=1e-6)


def test_norms_that_overflow_a_float32():
    param = np.zeros(3000, "float32")
    grad = np.full(3000, 1e30, "float32")
    fm.SGD(1.0, clip_norm=1.0).step(param, grad)
    np.testing.assert_allclose(param, -1 / np.sqrt(3000), rtol=1e-6)


@needs_torch
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_gradients_are_not_hidden(bad):
    # As in torch, they are not hidden.
    for options in ({"clip_norm": 1.0}, {"clip_value": 1.0}):
        grad = np.array([1.0, bad, -1.0])
        theirs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        theirs.grad = torch.tensor(grad)
        if "clip_norm" in options:
            torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        else:
            torch.nn.utils.clip_grad_value_([theirs], 1.0)
        param = np.zeros(3)
        fm.SGD(1.0, **options).step(param, grad)
        np.testing.assert_array_equal(param, 0 - theirs.grad.numpy())


def test_l1_leaves_zeros_and_shrinks_the_rest():
    param = np.array([0.0, 1.0, -1.0])
    fm.SGD(0.25, l1=1.0).step(param, np.zeros(3))
    np.testing.assert_array_equal(param, [0, 0.75, -0.75])
    fm.SGD(0.25, l1=1.0, maximize=True).step(param, np.ones(3))
    np.testing.assert_array_equal(param, [0.25, 0.75, -0.25])


def test_clipping_that_does_not_apply_changes_no_bit(name):
    x, y = batch("float32")
    plain, clipped = model("float32"), model("float32")
    one = MAKERS[name]()
    for options in ({"clip_norm": 1e9}, {"clip_value": 1e9}):
        two = MAKERS[name](**options)
        one.reset()
        plain.params[:] = clipped.params[:] = model("float32").params
        for _ in range(4):
            plain.train_step(x, y, fm.MSE(), one)
            clipped.train_step(x, y, fm.MSE(), two)
        assert plain.params.tobytes() == clipped.params.tobytes()


# Same bits ----------------------------------------------------------------------------

ALL_AT_ONCE = {
    "clip_norm": 0.5,
    "l1": 1e-3,
    "weight_decay": 0.1,
    "decay": "weights",
    "ema": 0.9,
}


def trained(name, dtype):
    """Train with enough work for several threads; return the bits of the result."""
    mlp = model(dtype, [30, 256, 200, 10])
    opt = MAKERS[name](**ALL_AT_ONCE)
    rng = np.random.default_rng(0)
    assert_threaded(training_flops([30, 256, 200, 10], 300), 300)
    x = rng.standard_normal((600, 30)).astype(dtype)
    y = rng.standard_normal((600, 10)).astype(dtype)
    mlp.fit(
        x, y, loss=fm.MSE(), optimizer=opt, epochs=1, batch_size=300, progress=False
    )
    # Also take steps with given gradients, which are divided among threads as well.
    grads = np.linspace(-1, 1, mlp.n_params).astype(dtype)
    opt.step(mlp, grads)
    opt.decay = "all"
    opt.step(mlp.params, grads)
    return mlp.params.tobytes() + opt.ema_params[0].tobytes()


@pytest.mark.parametrize("name", ["SGD", "Adam", "NAdam", "Prodigy", "Prodigy coupled"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_for_all_threads_and_isas(name, dtype):
    with fm.use_isa("scalar"), fm.threads(1):
        wanted = trained(name, dtype)
    for isa in fm.available_isas():
        for n in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert trained(name, dtype) == wanted, (isa, n)


# Averages and targets -----------------------------------------------------------------


def test_averaged_models():
    x, y = batch()
    mlp, opt = model(), fm.Adam(0.01, ema=0.5)
    assert opt.ema_params == []
    with pytest.raises(ValueError, match="at least one step"):
        opt.averaged(mlp)
    mlp.train_step(x, y, fm.MSE(), opt)
    first = mlp.params.copy()
    np.testing.assert_array_equal(opt.averaged(mlp).params, first)
    mlp.train_step(x, y, fm.MSE(), opt)
    second = mlp.params.copy()
    average = opt.averaged(mlp)
    np.testing.assert_allclose(average.params, (first + second) / 2, rtol=1e-14)
    np.testing.assert_array_equal(mlp.params, second)
    assert average(x).shape == y.shape
    opt.ema_params[0][:] = np.nan  # a copy
    assert np.isfinite(opt.averaged(mlp).params).all()
    assert opt.state_dict()["slots"][0].keys() == {"exp_avg", "exp_avg_sq", "ema"}
    loaded = pickle.loads(pickle.dumps(opt))
    assert loaded.averaged(mlp).params.tobytes() == average.params.tobytes()

    with pytest.raises(ValueError, match="that this optimizer trains"):
        opt.averaged(model())
    with pytest.raises(ValueError, match="that this optimizer trains"):
        loaded.averaged(model("float32"))
    with pytest.raises(ValueError, match="keeps an average"):
        fm.Adam().averaged(mlp)
    with pytest.raises(TypeError, match=r"^mlp must be an fm\.MLP"):
        opt.averaged(mlp.params)


def test_a_diverged_epoch_takes_the_average_back():
    x, y = batch()
    mlp, opt = model(), fm.SGD(0.01, ema=0.9)

    def fit(epochs, **options):
        return mlp.fit(
            x, y, loss=fm.MSE(), optimizer=opt, batch_size=12, epochs=epochs, **options
        )

    def spoil(mlp, history):
        if len(history.loss) == 3:
            kept.extend([mlp.params.copy(), opt.ema_params[0], opt.step_count])
            opt.lr = 1e200

    kept = []
    with pytest.raises(fm.DivergenceError):
        fit(9, callbacks=[spoil])
    good, average, count = kept
    # The last good state is the one before the step that diverged.
    np.testing.assert_array_equal(mlp.params, good)
    np.testing.assert_array_equal(opt.ema_params[0], average)
    assert opt.step_count == count


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_polyak(dtype, isa):
    target, online = model(dtype), model(dtype)
    online.params[:] = np.random.default_rng(2).standard_normal(online.n_params)
    before, goal = target.params.copy(), online.params.copy()
    assert target.polyak_(online, 0.0) is target
    np.testing.assert_array_equal(target.params, before)
    target.polyak_(online, 0.125)
    wanted = 0.875 * before.astype(float) + 0.125 * goal
    limit = 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(target.params, wanted, rtol=0, atol=4 * limit)
    target.polyak_(target, 0.5)
    np.testing.assert_allclose(target.params, wanted, rtol=0, atol=4 * limit)
    target.polyak_(online, 1)
    np.testing.assert_array_equal(target.params, goal)
    np.testing.assert_array_equal(online.params, goal)


def test_polyak_forgets_the_last_forward():
    x, y = batch()
    mlp = model()
    mlp.forward(x)
    mlp.polyak_(model(), 0.5)
    with pytest.raises(RuntimeError, match="forward must be called before backward"):
        mlp.backward(y)


@pytest.mark.parametrize(
    ("other", "tau", "error", "words"),
    [
        (lambda: 3, 0.5, TypeError, "^other must be an fm.MLP"),
        (lambda: model("float32"), 0.5, TypeError, "^other must have dtype float64"),
        (lambda: model(layers=[5, 3]), 0.5, ValueError, "^other must have .* shapes"),
        (lambda: model(layers=[9, 16, 5, 3]), 0.5, ValueError, "^other must have"),
        (model, -0.1, ValueError, "^tau must be"),
        (model, 1.1, ValueError, "^tau must be"),
        (model, "1", TypeError, "^tau must be a number"),
    ],
)
def test_bad_polyak(other, tau, error, words):
    mlp = model()
    before = mlp.params.copy()
    with pytest.raises(error, match=words):
        mlp.polyak_(other(), tau)
    np.testing.assert_array_equal(mlp.params, before)


# Arguments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"clip_norm": 0}, ValueError, "^clip_norm must be finite and > 0"),
        ({"clip_norm": -1.0}, ValueError, "^clip_norm must be"),
        ({"clip_norm": np.inf}, ValueError, "^clip_norm must be"),
        ({"clip_norm": "1"}, TypeError, "^clip_norm must be a number"),
        ({"clip_value": 0}, ValueError, "^clip_value must be"),
        ({"clip_value": True}, TypeError, "^clip_value must be a number"),
        ({"clip_value": 1, "clip_norm": 1}, ValueError, "cannot be combined"),
        ({"l1": -0.1}, ValueError, "^l1 must be"),
        ({"l1": None}, TypeError, "^l1 must be a number"),
        ({"decay": "biases"}, ValueError, "^decay must be one of all, weights"),
        ({"decay": None}, TypeError, "^decay must be a name"),
        ({"ema": 0}, ValueError, "^ema must be finite and > 0 and < 1"),
        ({"ema": 1.0}, ValueError, "^ema must be"),
        ({"ema": "0.9"}, TypeError, "^ema must be a number"),
        ({"clipnorm": 1.0}, TypeError, "unexpected keyword argument 'clipnorm'"),
    ],
)
def test_bad_options(name, options, error, words):
    with pytest.raises(error, match=words):
        MAKERS[name](**options)


def test_options_can_be_set_and_shown(name):
    opt = MAKERS[name]()
    plain = repr(opt)
    assert "clip" not in plain
    for option, value in [
        ("clip_norm", 2.0),
        ("clip_norm", None),
        ("clip_value", 0.5),
        ("l1", 0.1),
        ("decay", "weights"),
        ("ema", 0.9),
    ]:
        setattr(opt, option, value)
        assert getattr(opt, option) == value
        assert eval(repr(opt), vars(fm))._hyper() == opt._hyper()
        assert pickle.loads(pickle.dumps(opt))._hyper() == opt._hyper()
    with pytest.raises(ValueError, match="cannot be combined"):
        opt.clip_norm = 1.0
    params, grads = arrays()
    opt.step(params, grads)
    opt.ema = 0.5
    with pytest.raises(ValueError, match=r"^ema: this value needs a different"):
        opt.ema = None
    plain = MAKERS[name]()
    plain.step(params, grads)
    with pytest.raises(ValueError, match=r"^ema: this value needs a different"):
        plain.ema = 0.5
    plain.clip_norm = 1.0  # needs no state
    plain.step(params, grads)


def test_a_state_with_an_average_needs_the_option():
    params, grads = arrays()
    opt = fm.SGD(0.1, ema=0.9)
    opt.step(params, grads)
    state = opt.state_dict()
    assert [list(slots) for slots in state["slots"]] == [["ema"]] * len(params)
    state["hyper"]["ema"] = None
    with pytest.raises(ValueError, match=r"exactly the keys \[\], got \['ema'\]"):
        fm.SGD(0.1).load_state_dict(state)


# Divergence explains itself -----------------------------------------------------------


def diverge(mlp, x, y, opt, words):
    def train():
        for _ in range(200):
            mlp.train_step(x, y, fm.MSE(), opt)

    with pytest.raises(fm.DivergenceError, match=words) as caught:
        train()
    return str(caught.value)


def test_divergence_says_why():
    x, y = batch("float32")
    text = diverge(
        fm.MLP(LAYERS, seed=0),
        x,
        y,
        fm.SGD(50.0),
        r"step \d+: .*layer \d .*; learning rate 50, gradient norm "
        r"(not finite|\d\S*)\. Likely cause: .*: the learning rate",
    )
    assert "grown to" in text
    diverge(
        fm.MLP([5, 16, 3], seed=0),
        1e20 * x,
        y,
        fm.SGD(1e-3),
        r"input is not scaled, its largest magnitude is \d.*e\+20",
    )
    diverge(
        fm.MLP([5, 3], seed=0),
        x,
        1e25 * y,
        fm.SGD(1e-3),
        r"targets are not scaled, their largest magnitude is \d.*e\+25",
    )
    diverge(
        fm.MLP([5, fm.Dense(16, "exp"), 3], seed=0),
        100 * x,
        y,
        fm.SGD(1e-3),
        r"output of layer 0 .*exp overflows",
    )
    holed = x.copy()
    holed[3, 1] = np.nan
    diverge(fm.MLP(LAYERS, seed=0), holed, y, fm.SGD(1e-3), "in row 3; .*the data")
    spoilt = fm.MLP(LAYERS, seed=0)
    spoilt.params[-1] = np.inf
    diverge(spoilt, x, y, fm.SGD(1e-3), "of layer 2 .*not finite before training")


def test_divergence_after_the_last_step_says_why():
    x, y = batch("float32")
    with pytest.raises(
        fm.DivergenceError,
        match=r"not finite after this step; learning rate 1e\+38, .*: lower the",
    ):
        fm.MLP(LAYERS, seed=0).fit(
            100 * x,
            y,
            loss=fm.MSE(),
            optimizer=fm.SGD(1e38),
            epochs=1,
            batch_size=12,
            progress=False,
        )


# All kinds of layers ------------------------------------------------------------------

MIXED = [
    5,
    fm.BatchNorm(),
    8,
    fm.Residual([8, fm.LayerNorm(), fm.Dropout(0.25), 6]),
    fm.LayerNorm(),
    2,
]


def test_decay_of_weights_spares_biases_and_norms():
    mlp = fm.MLP(MIXED, dtype="float64", seed=0)
    mlp.params[:] = np.random.default_rng(0).uniform(1, 2, mlp.n_params)
    before = {name: view.copy() for name, view in mlp.named_parameters().items()}
    x, y = batch()
    # Only the penalties act, as this clipping removes the gradient.
    opt = fm.SGD(0.5, weight_decay=0.25, l1=0.5, decay="weights", clip_value=1e-300)
    mlp.train_step(x, y[:, :2], fm.MSE(), opt)
    ranks = set()
    for name, view in mlp.named_parameters().items():
        old = before[name]
        wanted = old - 0.5 * (0.25 * old + 0.5) if view.ndim == 2 else old
        np.testing.assert_allclose(view, wanted, rtol=1e-15, err_msg=name)
        ranks.add((view.ndim, "weight" in name))
    assert ranks == {(2, True), (1, True), (1, False)}


def test_polyak_moves_running_statistics():
    x, y = batch()
    mlp, other = (fm.MLP(MIXED, dtype="float64", seed=s) for s in (0, 1))
    other.train_step(x, y[:, :2], fm.MSE(), fm.SGD(0.1))
    wanted = 0.75 * mlp.buffers + 0.25 * other.buffers
    assert (mlp.buffers != other.buffers).any()
    mlp.polyak_(other, 0.25)
    np.testing.assert_allclose(mlp.buffers, wanted, rtol=1e-15)
    plain = fm.MLP([5, 3], seed=0, dtype="float64")
    with pytest.raises(ValueError, match=r"^other must have"):
        plain.polyak_(fm.MLP([5, fm.BatchNorm(affine=False), 3], dtype="float64"), 0.5)


def test_averages_of_mixed_networks_resume():
    x, y = batch()

    def fit(mlp, opt, epochs):
        mlp.fit(
            x,
            y[:, :2],
            loss=fm.MSE(),
            optimizer=opt,
            epochs=epochs,
            batch_size=5,
            progress=False,
        )

    rate = fm.schedules.Cosine(0.02, 5, restarts=2)
    options = {"ema": 0.9, "clip_norm": 0.5, "decay": "weights", "l1": 1e-3}
    whole, opt = fm.MLP(MIXED, seed=0, dtype="float64"), fm.AdamW(rate, **options)
    fit(whole, opt, 4)
    half, rest = fm.MLP(MIXED, seed=0, dtype="float64"), fm.AdamW(rate, **options)
    fit(half, rest, 1)
    half, rest = pickle.loads(pickle.dumps((half, rest)))
    fit(half, rest, 3)
    assert half.params.tobytes() == whole.params.tobytes()
    assert half.buffers.tobytes() == whole.buffers.tobytes()
    assert rest.ema_params[0].tobytes() == opt.ema_params[0].tobytes()
    averaged = opt.averaged(whole)
    assert averaged.buffers.tobytes() == whole.buffers.tobytes()
