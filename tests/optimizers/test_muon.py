"""Muon: orthogonalised momentum for weights, AdamW for all other parameters."""

import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference, schedules
from helpers import thread_counts

# 50 steps in float64, each with tens of roundings, relative to the largest parameter.
STEPS_RTOL = 1e-12
NAMES = ("0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias")


def network(widths=(7, 30, 20, 3), dtype="float64"):
    return fm.MLP(list(widths), activation="tanh", dtype=dtype, seed=1)


def batch(rows=40, n_in=7, n_out=3):
    rng = np.random.default_rng(2)
    return rng.normal(size=(rows, n_in)), rng.normal(size=(rows, n_out))


class Formula:
    """The steps of torch.optim.Muon without bfloat16, and of torch.optim.AdamW."""

    def __init__(
        self,
        lr,
        weight_decay=0.1,
        momentum=0.95,
        nesterov=True,
        ns_coefficients=(3.4445, -4.775, 2.0315),
        eps=1e-7,
        ns_steps=5,
        adjust_lr_fn=None,
        betas=(0.9, 0.999),
        adamw_eps=1e-8,
        maximize=False,
        adamw_only=(),
    ):
        vars(self).update(locals())
        self.m, self.v, self.t = {}, {}, 0

    def step(self, mlp, grads):
        self.t += 1
        for name, p in mlp.named_parameters().items():
            begin, end = mlp._views.ranges[name]
            g = grads[begin:end].reshape(p.shape) * (-1 if self.maximize else 1)
            m = self.m.setdefault(name, np.zeros_like(p))
            v = self.v.setdefault(name, np.zeros_like(p))
            if p.ndim == 2 and name not in self.adamw_only:
                reference.muon_step(
                    p,
                    m,
                    grads[begin:end].reshape(p.shape),
                    self.lr,
                    self.momentum,
                    self.nesterov,
                    self.weight_decay,
                    self.ns_coefficients,
                    self.ns_steps,
                    self.eps,
                    self.adjust_lr_fn,
                    self.maximize,
                )
                continue
            p *= 1 - self.lr * self.weight_decay
            b1, b2 = self.betas
            m *= b1
            m += (1 - b1) * g
            v *= b2
            v += (1 - b2) * g * g
            root = np.sqrt(v / (1 - b2**self.t)) + self.adamw_eps
            p -= self.lr * m / (1 - b1**self.t) / root


OPTIONS = [
    {},
    {"momentum": 0.5, "nesterov": False},
    {"weight_decay": 0.0, "ns_steps": 3},
    {"ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 8},
    {"adjust_lr_fn": "match_rms_adamw", "lr": 0.003},
    {"adjust_lr_fn": "original", "eps": 0.5},
    {"betas": (0.5, 0.9), "adamw_eps": 1e-3},
    {"maximize": True, "lr": 0.001},
]


@pytest.mark.parametrize("options", OPTIONS, ids=repr)
# A hidden layer that narrows, one that widens, and odd sizes around the blocks of 96.
@pytest.mark.parametrize("widths", [(7, 30, 20, 3), (5, 97, 101, 2), (200, 1, 193)])
def test_steps_are_those_of_the_formula(options, widths):
    options = {"lr": 0.02} | options
    mlp, by_hand = network(widths), network(widths)
    opt, formula = fm.Muon(**options), Formula(**options)
    x, y = batch(40, widths[0], widths[-1])
    for _ in range(50):
        _, grads = by_hand.value_and_grad(x, y, fm.MSE())
        formula.step(by_hand, grads)
        mlp.train_step(x, y, fm.MSE(), opt)
    error = np.abs(mlp.params - by_hand.params).max()
    assert error <= STEPS_RTOL * np.abs(by_hand.params).max()


def test_it_is_near_pytorch():
    """PyTorch's products have operands of bfloat16, with 8 bits."""
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    mlp = network((7, 64, 48, 3))
    net = mlp.to_torch().train()
    start = mlp.params.copy()
    matrices = [p for p in net.parameters() if p.ndim == 2]
    rest = [p for p in net.parameters() if p.ndim < 2]
    optimizers = [
        torch.optim.Muon(matrices, 0.01),
        torch.optim.AdamW(rest, 0.01, weight_decay=0.1),
    ]
    opt = fm.Muon(0.01)
    x, y = batch()
    for _ in range(10):
        mlp.train_step(x, y, fm.MSE(), opt)
        for each in optimizers:
            each.zero_grad()
        out = net(torch.from_numpy(x))
        torch.nn.functional.mse_loss(out, torch.from_numpy(y)).backward()
        for each in optimizers:
            each.step()
    want = fm.from_torch(net).params - start
    # Of the way that the parameters have moved; the iteration amplifies the roundings
    # of small singular values.
    moved = mlp.params - start
    assert np.linalg.norm(moved - want) <= 0.1 * np.linalg.norm(want)


def test_the_update_is_nearly_orthogonal():
    """The singular values lie around 1, between 0.68 and 1.13 in the article."""
    mlp = network()
    start = mlp.weights[1].copy()
    grads = np.random.default_rng(3).normal(size=mlp.n_params)
    fm.Muon(1.0, weight_decay=0.0).step(mlp, grads)
    values = np.linalg.svd(start - mlp.weights[1], compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.25


def test_groups_leave_weights_to_adamw():
    x, y = batch()
    mlp, by_hand = network(), network()
    opt = fm.Muon(0.02, groups=[{"params": ["0.*", "4.*"], "use_muon": False}])
    formula = Formula(0.02, adamw_only=("0.weight", "4.weight"))
    for _ in range(20):
        _, grads = by_hand.value_and_grad(x, y, fm.MSE())
        formula.step(by_hand, grads)
        mlp.train_step(x, y, fm.MSE(), opt)
    error = np.abs(mlp.params - by_hand.params).max()
    assert error <= STEPS_RTOL * np.abs(by_hand.params).max()
    # And the other way round.
    other = network()
    opt = fm.Muon(
        0.02, use_muon=False, groups=[{"params": "2.weight", "use_muon": True}]
    )
    for _ in range(20):
        other.train_step(x, y, fm.MSE(), opt)
    np.testing.assert_array_equal(other.params, mlp.params)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_bits_do_not_depend_on_threads_or_isa(dtype):
    x, y = batch(64, 50)
    seen = set()
    for isa in fm.available_isas():
        for threads in thread_counts(isa):
            with fm.use_isa(isa), fm.threads(threads):
                mlp = network((50, 210, 97, 3), dtype)
                opt = fm.Muon(0.02, clip_norm=0.5, l1=1e-3)
                for _ in range(3):
                    mlp.train_step(x, y, fm.MSE(), opt)
                seen.add(mlp.params.tobytes())
    assert len(seen) == 1


def test_every_way_to_take_a_step_is_the_same():
    x, y = batch()
    models = [network() for _ in range(3)]
    opts = [fm.Muon(schedules.Cosine(0.02, 20), ema=0.9) for _ in models]
    models[0].fit(
        x, y, loss=fm.MSE(), optimizer=opts[0], epochs=5, batch_size=40, shuffle=False
    )
    for _ in range(5):
        models[1].train_step(x, y, fm.MSE(), opts[1])
        _, grads = models[2].value_and_grad(x, y, fm.MSE())
        opts[2].step(models[2], grads)
    for mlp, opt in zip(models[1:], opts[1:], strict=True):
        np.testing.assert_array_equal(mlp.params, models[0].params)
        np.testing.assert_array_equal(
            opt.averaged(mlp).params, opts[0].averaged(models[0]).params
        )


def test_clipping_penalties_and_decay():
    """What happens to the gradient comes before the momentum, as for all optimisers."""
    x, y = batch()
    for options, change in (
        ({"clip_norm": 0.05}, lambda g, p: g * 0.05 / (np.linalg.norm(g) + 1e-6)),
        ({"clip_value": 0.01}, lambda g, p: np.clip(g, -0.01, 0.01)),
        ({"l1": 0.1}, lambda g, p: g + 0.1 * np.sign(p)),
    ):
        mlp, by_hand = network(), network()
        opt, formula = fm.Muon(0.02, **options), Formula(0.02)
        for _ in range(10):
            _, grads = by_hand.value_and_grad(x, y, fm.MSE())
            formula.step(by_hand, change(grads, by_hand.params))
            mlp.train_step(x, y, fm.MSE(), opt)
        error = np.abs(mlp.params - by_hand.params).max()
        assert error <= STEPS_RTOL * np.abs(by_hand.params).max(), options
    mlp, by_hand = network(), network()
    mlp.train_step(x, y, fm.MSE(), fm.Muon(0.02, decay="weights"))
    by_hand.train_step(
        x,
        y,
        fm.MSE(),
        fm.Muon(0.02, groups=[{"params": "*.bias", "weight_decay": 0.0}]),
    )
    np.testing.assert_array_equal(mlp.params, by_hand.params)


def test_frozen_weights_and_zero_gradients():
    x, y = batch()
    mlp = network()
    mlp.freeze("2.weight")
    held = mlp.weights[1].copy()
    mlp.train_step(x, y, fm.MSE(), fm.Muon(0.02))
    assert (mlp.weights[1] == held).all()
    other = network()
    start = other.params.copy()
    fm.Muon(0.02, weight_decay=0.0).step(other, np.zeros_like(start))
    np.testing.assert_array_equal(other.params, start)


def test_copies_and_files_keep_it(tmp_path):
    x, y = batch()
    mlp, opt = network(), fm.Muon(0.02, adjust_lr_fn="match_rms_adamw")
    point = fm.Checkpoint(tmp_path / "a")
    mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=3, callbacks=[point])
    resumed, loaded = network(), fm.Muon()
    fm.Checkpoint.load(tmp_path / "a", resumed, loaded)
    copies = [(mlp.copy(), pickle.loads(pickle.dumps(opt))), (resumed, loaded)]
    mlp.train_step(x, y, fm.MSE(), opt)
    for model, other in copies:
        assert repr(other) == repr(opt)
        model.train_step(x, y, fm.MSE(), other)
        np.testing.assert_array_equal(model.params, mlp.params)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"ns_coefficients": (1, 2)}, TypeError, "^ns_coefficients must be three"),
        ({"ns_coefficients": (1, 2, np.nan)}, ValueError, r"^ns_coefficients\[2\]"),
        ({"ns_steps": 100}, ValueError, "^ns_steps must be"),
        ({"ns_steps": 2.5}, TypeError, "^ns_steps must be an int"),
        ({"eps": -1}, ValueError, "^eps must be"),
        ({"adjust_lr_fn": "other"}, ValueError, "^adjust_lr_fn must be"),
        ({"momentum": -1}, ValueError, "^momentum must be"),
    ],
)
def test_wrong_hyperparameters_are_refused(options, kind, words):
    with pytest.raises(kind, match=words):
        fm.Muon(**options)


def test_arrays_are_refused():
    with pytest.raises(ValueError, match=r"^params must be a model for Muon"):
        fm.Muon().step([np.zeros((3, 4))], [np.zeros((3, 4))])


def test_a_diverged_epoch_is_undone():
    """The state is saved before any member of the team changes it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(128, 16)), rng.normal(size=(128, 2))
    y[64:] = 1e300
    with fm.threads(2):
        for _ in range(10):
            mlp = network((16, 64, 300, 300, 2), "float32")
            opt = fm.Muon(0.02)
            good = x[:64].astype("float32"), y[:64].astype("float32")
            mlp.train_step(*good, fm.MSE(), opt)
            before = pickle.dumps(opt.state_dict()), mlp.params.copy()
            with pytest.raises(fm.DivergenceError):
                mlp.fit(
                    x,
                    np.minimum(y, 1e38),
                    loss=fm.MSE(),
                    optimizer=opt,
                    epochs=1,
                    batch_size=64,
                    shuffle=False,
                )
            assert pickle.dumps(opt.state_dict()) == before[0]
            assert (mlp.params == before[1]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_any_size(dtype):
    """The direction of a matrix does not depend on the size of its gradient."""
    base = network(dtype=dtype)
    grads = np.random.default_rng(3).normal(size=base.n_params)
    moved = []
    for size in (1.0, 1e-15, 1e30):
        mlp = network(dtype=dtype)
        opt = fm.Muon(1.0, weight_decay=0.0, eps=0.0)
        opt.step(mlp, (size * grads).astype(dtype))
        moved.append(mlp.weights[1] - base.weights[1])
    for other in moved[1:]:
        # The iteration amplifies roundings of the scaled gradient.
        np.testing.assert_allclose(other, moved[0], atol=1e3 * np.finfo(dtype).eps)
    mlp = network(dtype=dtype)
    fm.Muon(1.0, weight_decay=0.0, eps=0.0).step(mlp, np.zeros_like(mlp.params))
    assert (mlp.params == base.params).all()
