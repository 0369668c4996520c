"""Parameter groups: hyperparameters by the names of parameters."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from helpers import thread_counts

# 50 steps in float64, each with tens of roundings, relative to the largest element.
STEPS_RTOL = 1e-12
NAMES = ("0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias")


def network(dtype="float64"):
    return fm.MLP([4, 9, fm.LayerNorm(), 3], activation="tanh", dtype=dtype, seed=1)


def batch(rows=20):
    rng = np.random.default_rng(2)
    return rng.normal(size=(rows, 4)), rng.normal(size=(rows, 3))


def trained(optimizer, steps=50, dtype="float64"):
    mlp, (x, y) = network(dtype), batch()
    for _ in range(steps):
        mlp.train_step(x, y, fm.MSE(), optimizer)
    return mlp


# For each optimiser: its options, two groups of its own, and PyTorch's form of these.
CASES = {
    "SGD": ({"lr": 0.05, "momentum": 0.5}, {"lr": 0.01, "momentum": 0.9}),
    "Adagrad": ({"lr": 0.1}, {"lr": 0.03, "weight_decay": 0.2}),
    "RMSprop": ({"lr": 0.01, "momentum": 0.5}, {"alpha": 0.9, "eps": 1e-3}),
    "Adam": ({"lr": 0.01, "weight_decay": 0.1}, {"betas": (0.5, 0.9), "lr": 1e-3}),
    "AdamW": ({"lr": 0.01, "weight_decay": 0.1}, {"weight_decay": 0.0, "eps": 1e-4}),
    "Adamax": ({"lr": 0.01}, {"maximize": True, "lr": 1e-3}),
}


@pytest.mark.parametrize("name", CASES)
def test_they_are_those_of_pytorch(name):
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    options, own = CASES[name]
    mlp = trained(
        getattr(fm, name)(
            **options,
            groups=[
                {"params": "*.bias", **own},
                {"params": ["0.bias", "0.*"], "lr": 0.02},
            ],
        )
    )
    net = network().to_torch().train()
    of = {n: [] for n in ("bias", "first", "rest")}
    for full, parameter in net.named_parameters():
        kind = (
            "bias" if full.endswith("bias") else "first" if full[0] == "0" else "rest"
        )
        of[kind].append(parameter)
    optimizer = getattr(torch.optim, name)(
        [
            {"params": of["bias"], **own},
            {"params": of["first"], "lr": 0.02},
            {"params": of["rest"]},
        ],
        **options,
    )
    x, y = map(torch.from_numpy, batch())
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()
    for full, parameter in net.named_parameters():
        want = parameter.detach().numpy()
        error = np.abs(mlp.state_dict()[full] - want).max()
        assert error <= STEPS_RTOL * np.abs(want).max(), full


def test_the_first_matching_group_counts():
    groups = [{"params": "0.bias", "lr": 0.0}, {"params": "*.bias", "lr": 0.5}]
    start, mlp = network(), trained(fm.SGD(1e-3, groups=groups), 1)
    moved = {
        n: np.abs(a - start.named_parameters()[n]).max()
        for n, a in mlp.named_parameters().items()
    }
    assert moved["0.bias"] == 0
    assert moved["3.bias"] > 10 * moved["3.weight"] > 0


SCHEDULES = [
    schedules.Constant(0.02),
    schedules.Cosine(0.02, 30),
    schedules.LinearWarmup(schedules.Exponential(0.02, 0.9), 5),
    schedules.OneCycle(0.02, 40),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("how", ["train_step", "fit"])
def test_a_schedule_scales_all_groups(schedule, how):
    """A group with half the rate is as if all had half the rate, without the others."""
    x, y = batch()

    def run(optimizer):
        mlp = network()
        mlp.unfreeze()
        mlp.freeze("0.*", "2.*")  # only the last layer trains
        if how == "fit":
            mlp.fit(
                x, y, loss=fm.MSE(), optimizer=optimizer, epochs=9, batch_size=7, seed=0
            )
        else:
            for _ in range(27):
                mlp.train_step(x, y, fm.MSE(), optimizer)
        return mlp.params

    assert schedule.nominal == 0.02
    want = run(fm.SGD(lambda t: schedule(t) * 0.5))
    for own in ({"lr": 0.01}, {"lr_scale": 0.5}):
        got = run(fm.SGD(schedule, groups=[{"params": "3.*", **own}]))
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(
        run(fm.SGD(lambda t: schedule(t), groups=[{"params": "3.*", "lr_scale": 0.5}])),
        want,
    )


def test_a_schedule_that_reacts():
    opt = fm.SGD(
        schedules.ReduceOnPlateau(0.1, patience=0, factor=0.5),
        groups=[{"params": "*.bias", "lr": 0.02}],
    )
    x, y = batch()
    start = network()
    mlp = network()
    for _ in range(3):
        opt._epoch_end(1.0)  # no better
    rate = opt.lr
    assert rate == 0.025
    _, grads = mlp.value_and_grad(x, y, fm.MSE())
    opt.step(mlp, grads)
    bias = mlp.biases[0] - start.biases[0]
    # One rounding of the update and one of the sum, relative to numbers below 1.
    np.testing.assert_allclose(bias, -0.005 * grads[36:45], rtol=0, atol=1e-16)


def test_decay_of_a_group_applies_to_all_its_parameters():
    options = {"lr": 0.01, "weight_decay": 0.3, "decay": "weights"}
    spared = trained(fm.AdamW(**options))
    own = trained(
        fm.AdamW(**options, groups=[{"params": "0.bias", "weight_decay": 0.3}]), 50
    )
    everything = trained(fm.AdamW(0.01, weight_decay=0.3, decay="all"))
    none = trained(fm.AdamW(0.01, weight_decay=0.0))
    assert not np.array_equal(spared.biases[0], own.biases[0])
    assert not np.array_equal(everything.params, none.params)
    # decay="weights" is a group for all that are no weights of dense layers.
    group = [{"params": ["*.bias", "2.weight"], "weight_decay": 0.0}]
    same = trained(fm.AdamW(0.01, weight_decay=0.3, groups=group))
    np.testing.assert_array_equal(same.params, spared.params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clipping_by_group(dtype):
    x, y = batch()
    mlp, start = network(dtype), network(dtype)
    _, grads = mlp.value_and_grad(x, y, fm.MSE())
    groups = [
        {"params": "0.*", "clip_norm": 0.01},
        {"params": "2.*", "lr": 0.5},
        {"params": "3.bias", "clip_value": 0.002},
    ]
    mlp.train_step(x, y, fm.MSE(), fm.SGD(1.0, clip_norm=0.05, groups=groups))
    of = {n: grads[slice(*mlp._views.ranges[n])].astype("float64") for n in NAMES}
    moved = {
        n: (start.named_parameters()[n].ravel() - a.ravel()).astype("float64")
        for n, a in mlp.named_parameters().items()
    }
    first = np.concatenate([of["0.weight"], of["0.bias"]])
    # Group 1 has no norm of its own, and is clipped with all that are in no group. A
    # clip_value takes the place of the norm.
    rest = np.concatenate([of[n] for n in NAMES if n[0] != "0" and n != "3.bias"])
    assert np.linalg.norm(first) > 0.01
    assert np.linalg.norm(rest) > 0.05
    want = {
        "0.weight": of["0.weight"] * 0.01 / (np.linalg.norm(first) + 1e-6),
        "2.weight": of["2.weight"] * 0.05 / (np.linalg.norm(rest) + 1e-6) * 0.5,
        "3.weight": of["3.weight"] * 0.05 / (np.linalg.norm(rest) + 1e-6),
        "3.bias": np.clip(of["3.bias"], -0.002, 0.002),
    }
    # Roundings of the parameters, which are below 2.
    tolerance = 4 * np.finfo(dtype).eps
    for name, value in want.items():
        np.testing.assert_allclose(moved[name], value, rtol=0, atol=tolerance)


def test_changes_between_steps():
    opt = fm.Adam(0.01, groups=[{"params": "0.*", "lr_scale": 0.0}])
    mlp, (x, y) = network(), batch()
    start = mlp.params.copy()
    mlp.train_step(x, y, fm.MSE(), opt)
    n = mlp._views.ranges["0.bias"][1]
    assert (mlp.params[:n] == start[:n]).all()
    assert (mlp.params[n:] != start[n:]).all()
    # What a group does not set follows the optimiser.
    opt.lr = 0.0
    opt.groups = [{"params": "3.*", "lr": 0.1}]
    assert opt.groups == ({"params": ("3.*",), "lr": 0.1},)
    start = mlp.params.copy()
    mlp.train_step(x, y, fm.MSE(), opt)
    last = mlp._views.ranges["3.weight"][0]
    assert (mlp.params[:last] == start[:last]).all()
    assert (mlp.params[last:] != start[last:]).all()
    opt.weight_decay = 0.5
    opt.groups = ()
    start = mlp.params.copy()
    mlp.train_step(x, y, fm.MSE(), opt)
    assert (mlp.params == start).all()


def test_an_inherited_hyperparameter_follows():
    groups = [{"params": "*", "lr": 0.01}]
    opt, other = fm.SGD(0.5, groups=groups), fm.SGD(0.01)
    opt.weight_decay = other.weight_decay = 0.3
    np.testing.assert_array_equal(trained(opt).params, trained(other).params)


def test_copies_and_files_keep_them(tmp_path):
    groups = [{"params": ["*.bias"], "lr": 0.02, "betas": (0.5, 0.5)}]
    x, y = batch()
    mlp = network()
    opt = fm.Adam(schedules.Cosine(0.01, 100), groups=groups)
    point = fm.Checkpoint(tmp_path / "a")
    mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=3, callbacks=[point])
    copies = [pickle.loads(pickle.dumps(opt)), fm.Adam()]
    copies[1].load_state_dict(opt.state_dict())
    resumed, loaded = network(), fm.Adam(schedules.Cosine(1.0, 1))
    fm.Checkpoint.load(tmp_path / "a", resumed, loaded)
    models = [mlp.copy(), mlp.copy(), resumed]
    mlp.train_step(x, y, fm.MSE(), opt)
    for model, other in zip(models, (*copies, loaded), strict=True):
        assert other.groups == opt.groups
        assert repr(other) == repr(opt)
        model.train_step(x, y, fm.MSE(), other)
        np.testing.assert_array_equal(model.params, mlp.params)
    # A state without groups, as earlier versions wrote it, has none.
    state = fm.Adam().state_dict()
    assert "groups" not in state["hyper"]
    opt.load_state_dict(state)
    assert opt.groups == ()


def test_another_model_after_reset():
    """The ranges of the groups are those of the model that is trained."""
    opt = fm.SGD(0.1, groups=[{"params": "*.bias", "lr": 0.0}])
    for widths in ([4, 9, 3], [4, 2, 5, 3]):
        mlp, (x, y) = fm.MLP(widths, seed=0), batch()
        start = [b.copy() for b in mlp.biases], [w.copy() for w in mlp.weights]
        mlp.train_step(x, y, fm.MSE(), opt)
        assert all((a == b).all() for a, b in zip(mlp.biases, start[0], strict=True))
        assert all((a != b).any() for a, b in zip(mlp.weights, start[1], strict=True))
        opt.reset()


def test_the_bits_do_not_depend_on_threads_or_isa():
    x, y = batch(600)
    seen = set()
    for isa in fm.available_isas():
        for threads in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(threads):
                mlp = fm.MLP([4, 65, 33, 3], seed=0)
                groups = [{"params": "*.bias", "clip_norm": 0.1}, {"params": "0.*"}]
                opt = fm.AdamW(0.01, clip_norm=0.2, groups=groups)
                mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=2, seed=0)
                seen.add(mlp.params.tobytes())
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("groups", "kind", "words"),
    [
        ({"params": "*"}, TypeError, r"^groups must be a list of dicts .* got a dict"),
        (3, TypeError, r"^groups must be a list"),
        (["*.bias"], TypeError, r"^groups\[0\] must be a dict"),
        ([{"lr": 1}], ValueError, r"^groups\[0\] must have the key 'params'"),
        ([{"params": 3}], TypeError, r"^groups\[0\]\['params'\] must be a name"),
        ([{"params": []}], ValueError, r"^groups\[0\]\['params'\] must hold"),
        ([{"params": "*", "lrr": 1}], ValueError, r"did you mean 'lr'\?"),
        ([{"params": "*", "ema": 0.9}], ValueError, r"cannot set 'ema' of Adam"),
        ([{"params": "*", "eps_mode": "hat"}], ValueError, r"cannot set 'eps_mode'"),
        ([{"params": "*", "lr": -1}], ValueError, r"^groups\[0\]\['lr'\] must be"),
        (
            [{"params": "*", "lr": schedules.Constant(1)}],
            TypeError,
            r"\['lr'\] must not be a schedule",
        ),
        ([{"params": "*", "betas": 3}], TypeError, r"^groups\[0\]: betas must be"),
        (
            [{"params": "*", "lr": 1, "lr_scale": 1}],
            ValueError,
            r"both lr and lr_scale",
        ),
        (
            [{"params": "*", "clip_norm": 1, "clip_value": 1}],
            ValueError,
            "both clip_norm and clip_value",
        ),
        ([{"params": "*", "amsgrad": True}], ValueError, "same state arrays"),
    ],
)
def test_wrong_groups_are_refused(groups, kind, words):
    with pytest.raises(kind, match=words):
        fm.Adam(groups=groups)
    opt = fm.Adam(groups=[{"params": "*.bias", "lr": 0.5}])
    with pytest.raises(kind, match=words):
        opt.groups = groups
    assert opt.groups == ({"params": ("*.bias",), "lr": 0.5},)


def test_a_group_without_parameters_is_refused():
    opt = fm.Adam(groups=[{"params": "*.bias"}, {"params": "7.*"}])
    mlp, (x, y) = network(), batch()
    start = mlp.params.copy()
    words = r"^groups\[1\]\['params'\]: '7\.\*' matches none .* 0\.weight, 0\.bias"
    for _ in range(2):
        with pytest.raises(ValueError, match=words):
            mlp.train_step(x, y, fm.MSE(), opt)
        with pytest.raises(ValueError, match=words):
            mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=1)
    assert opt.step_count == 0
    assert (mlp.params == start).all()
    opt.groups = [{"params": "3.*"}]
    mlp.train_step(x, y, fm.MSE(), opt)
    with pytest.raises(ValueError, match=r"groups\[0\]\['params'\]: '7"):
        opt.groups = [{"params": "7.*"}]
    assert opt.groups == ({"params": ("3.*",)},)


def test_arrays_have_no_names():
    opt = fm.Adam(groups=[{"params": "*.bias"}])
    with pytest.raises(ValueError, match=r"^params must be a model if .* groups"):
        opt.step(np.zeros(3), np.zeros(3))


def test_a_function_has_no_nominal_rate():
    def rate(step):
        return 0.01

    words = r"^groups\[0\]\['lr'\] cannot be combined .* set 'lr_scale'"
    with pytest.raises(ValueError, match=words):
        fm.Adam(rate, groups=[{"params": "*.bias", "lr": 0.1}])
    opt = fm.Adam(0.1, groups=[{"params": "*.bias", "lr": 0.1}])
    with pytest.raises(ValueError, match=words):
        opt.lr = rate
    assert (opt.lr, opt.schedule) == (0.1, None)


def test_an_error_leaves_the_groups_at_work():
    x, y = batch()
    opt = fm.SGD(0.1, momentum=0.9, groups=[{"params": "0.*", "lr": 0.0}])
    mlp = network()
    mlp.train_step(x, y, fm.MSE(), opt)
    with pytest.raises(ValueError, match="same state arrays"):
        opt.groups = [{"params": "*", "momentum": 0.0}]
    held = mlp.weights[0].copy()
    mlp.train_step(x, y, fm.MSE(), opt)
    assert (mlp.weights[0] == held).all()


def test_a_state_with_other_names_is_refused_whole():
    x, y = batch()
    opt = fm.Adam(groups=[{"params": "3.*", "lr": 0.5}])
    network().train_step(x, y, fm.MSE(), opt)
    small = fm.MLP([4, 3], seed=0)
    other = fm.Adam(0.125)
    small.train_step(x, y, fm.MSE(), other)
    before = pickle.dumps(other.state_dict())
    with pytest.raises(ValueError, match=r"'3\.\*' matches none"):
        other.load_state_dict(opt.state_dict())
    assert pickle.dumps(other.state_dict()) == before


def test_a_checkpoint_for_an_optimizer_of_another_model(tmp_path):
    x, y = batch()
    mlp, opt = network(), fm.Adam(groups=[{"params": "3.*", "lr": 0.5}])
    point = fm.Checkpoint(tmp_path / "a")
    mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=1, callbacks=[point])
    small, other = fm.MLP([4, 3], seed=0), fm.Adam()
    small.train_step(x, y, fm.MSE(), other)
    resumed = network()
    fm.Checkpoint.load(tmp_path / "a", resumed, other)
    for model, its in ((mlp, opt), (resumed, other)):
        model.train_step(x, y, fm.MSE(), its)
    np.testing.assert_array_equal(resumed.params, mlp.params)


def test_a_hyperparameter_is_checked_with_those_of_groups():
    opt = fm.SGD(0.1, momentum=0.9, groups=[{"params": "*.bias", "nesterov": True}])
    for change in ({"dampening": 0.5}, {"momentum": 0.0}):
        with pytest.raises(ValueError, match=r"^nesterov=True needs"):
            setattr(opt, *change.popitem())
    assert (opt.dampening, opt.momentum) == (0.0, 0.9)
    assert repr(pickle.loads(pickle.dumps(opt))) == repr(opt)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (fm.NAdam, "betas"),
        (fm.Rprop, "lr"),
        (fm.ScheduleFreeSGD, "lr_scale"),
        (fm.ScheduleFreeAdamW, "lr"),
        (fm.Prodigy, "lr_scale"),
    ],
)
def test_what_all_parameters_share_is_refused(kind, name):
    value = (0.5, 0.5) if name == "betas" else 0.5
    with pytest.raises(ValueError, match=f"cannot set '{name}' of {kind.__name__}"):
        kind(groups=[{"params": "*", name: value}])


def test_a_schedule_in_a_group_is_refused_with_the_reason():
    with pytest.raises(TypeError, match=r"only the optimizer's own hyperparameters"):
        fm.Adam(groups=[{"params": "*", "weight_decay": schedules.Constant(0.1)}])
