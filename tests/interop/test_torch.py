"""Models from PyTorch, to PyTorch, and inside of PyTorch."""

import copy
import io
import itertools
import math
import pickle
import subprocess
import sys
import threading

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

torch = pytest.importorskip("torch", reason="PyTorch is what models come from")
nn = torch.nn
forward_ad = torch.autograd.forward_ad

# Outputs and gradients of a few small layers: both sides round about as often, in
# another order, relative to the largest element.
RELATIVE = {"float32": 2e-5, "float64": 1e-13}
# PyTorch's softplus is z beyond 20, where the difference is log(1 + e^-20) = 2.1e-9.
SOFTPLUS_ATOL = 2.1e-9
ROWS, N_IN = 7, 5
BOTH = ("float32", "float64")


@pytest.fixture(autouse=True)
def quiet_torch():
    """One thread, which is enough, and random numbers that are the same."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def close(got, wanted, dtype):
    got, wanted = np.asarray(got), np.asarray(wanted)
    scale = max(1.0, float(abs(wanted).max()))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=RELATIVE[dtype] * scale)


def inputs(rng, dtype="float32", rows=ROWS, width=N_IN):
    return torch.from_numpy(rng.normal(size=(rows, width)).astype(dtype))


def disturb(module):
    """Move parameters and statistics away from what they are at first."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data += torch.rand_like(tensor)
    return module.eval()


def big(dtype="float32", **options):
    """A model with all there is."""
    body = [6, fm.BatchNorm(momentum=0.3), fm.Residual([fm.LayerNorm(), 6]), 4]
    layers = [N_IN, 8, fm.Dropout(0.25), fm.LayerNorm(1e-3), fm.Activation("silu")]
    layers += [fm.Residual(body), fm.BatchNorm(affine=False), fm.Dense(6, bias=False)]
    layers += [fm.Residual([6, fm.Dropout(0.1)]), 3]
    mlp = fm.MLP(layers, activation="tanh", dtype=dtype, seed=1, **options)
    random = np.random.default_rng(2)
    mlp.params[:] += random.uniform(0, 0.5, mlp.n_params)
    mlp.buffers[:] += random.uniform(0, 0.5, mlp.buffers.size)
    return mlp


def same_bits(a, b):
    assert a.keys() == b.keys()
    for name in a:
        one, other = np.asarray(a[name]), np.asarray(b[name])
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes(), name


# Round trips --------------------------------------------------------------------------


def sequentials():
    yield nn.Linear(N_IN, 3)
    yield nn.Sequential(nn.Linear(N_IN, 3, bias=False))
    yield nn.Sequential(nn.Linear(N_IN, 9), nn.ReLU(), nn.Linear(9, 2), nn.Sigmoid())
    yield nn.Sequential(
        nn.Sequential(nn.Linear(N_IN, 9), nn.BatchNorm1d(9, 1e-3, 0.2), nn.ELU()),
        nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Linear(9, 4), nn.Softsign())),
        nn.Softmax(dim=1),
    )
    yield nn.Sequential(
        nn.Flatten(),
        nn.LayerNorm(N_IN, 1e-2),
        nn.Identity(),
        nn.Linear(N_IN, 8),
        nn.Dropout(0.2),
        nn.GELU(),
        nn.LayerNorm(8, elementwise_affine=False),
        nn.Linear(8, 8),
        nn.Linear(8, 4),
        nn.BatchNorm1d(4, affine=False),
    )


@pytest.mark.parametrize("module", list(sequentials()))
@pytest.mark.parametrize("dtype", BOTH)
def test_torch_to_fastmlp_to_torch(module, dtype, rng):
    module = disturb(copy.deepcopy(module).to(getattr(torch, dtype)))
    mlp = fm.from_torch(module)
    assert mlp.dtype == dtype
    back = mlp.to_torch()
    # Names may differ where modules without effect are left out, the order does not.
    before, after = module.state_dict().values(), back.state_dict().values()
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    x = inputs(rng, dtype)
    wanted = module(x).detach()
    close(mlp(x), wanted, dtype)
    close(back(x).detach(), wanted, dtype)
    # The copies are copies.
    mlp.params[:] = 0
    close(module(x).detach(), wanted, dtype)


@pytest.mark.parametrize("dtype", BOTH)
def test_fastmlp_to_torch_to_fastmlp(dtype, rng):
    mlp = big(dtype)
    x = inputs(rng, dtype, 64)
    mlp.forward(x, training=True)  # for the count of batches
    module = mlp.to_torch()
    assert not any(part.training for part in module.modules())
    same_bits(mlp.state_dict(), module.state_dict())
    back = fm.from_torch(module)
    assert back.layers == mlp.layers
    same_bits(mlp.state_dict(), back.state_dict())
    np.testing.assert_array_equal(back(x), mlp(x))
    close(module(x).detach(), mlp(x), dtype)


@pytest.mark.parametrize("name", fm.ACTIVATIONS)
@pytest.mark.parametrize("dtype", BOTH)
def test_every_activation(name, dtype, rng):
    layers = [N_IN, fm.Dense(8, name), fm.LayerNorm(), fm.Activation(name), 3]
    mlp = fm.MLP(layers, dtype=dtype, seed=0)
    module = mlp.to_torch()
    x = 3 * inputs(rng, dtype)
    close(module(x).detach(), mlp(x), dtype)
    if name == "identity":
        layers.remove(fm.Activation(name))
        assert len(fm.from_torch(module).layers) == 3
    else:
        assert fm.from_torch(module).layers == mlp.layers


def test_softplus_where_torch_has_a_threshold():
    x = torch.linspace(-50, 50, 2001, dtype=torch.float64)[:, None]
    linear = nn.Linear(1, 1, dtype=torch.float64)
    linear.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    module = nn.Sequential(linear, nn.Softplus())
    mlp = fm.from_torch(module)
    np.testing.assert_allclose(mlp(x), module(x).detach(), rtol=0, atol=SOFTPLUS_ATOL)
    close(mlp.to_torch()(x).detach(), mlp(x), "float64")


def test_gradients_and_modes_of_what_to_torch_makes(rng):
    mlp = fm.MLP([N_IN, 8, fm.Dropout(0.5), fm.BatchNorm(), 3], dtype="float64", seed=0)
    module = mlp.to_torch()
    x, y = inputs(rng, "float64"), inputs(rng, "float64", width=3)
    nn.functional.mse_loss(module(x), y).backward()
    gradient = fm.MLP([N_IN, *mlp.layers], dtype="float64", seed=0)
    named = {n: p.grad for n, p in module.named_parameters()}
    _, grads = mlp.value_and_grad(x, y, fm.MSE())
    gradient.params[:] = grads
    for name, wanted in gradient.state_dict().items():
        if name in named:
            close(named[name], wanted, "float64")
    # In training mode dropout drops and statistics move.
    before = module[3].running_mean.clone()
    outputs = [module.train()(x).detach() for _ in range(2)]
    assert not torch.equal(*outputs)
    assert not torch.equal(module[3].running_mean, before)


def test_to_torch_draws_nothing():
    before = torch.get_rng_state()
    big().to_torch()
    assert torch.equal(torch.get_rng_state(), before)


def test_modules_can_be_pickled(rng):
    module, x = big().to_torch(), inputs(rng)
    wanted = module(x)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert torch.equal(other(x), wanted)
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), wanted)
    assert "Function('sin')" in repr(fm.MLP([2, 3], output_activation="sin").to_torch())


def test_functions_of_ones_own_stay_here():
    own = fm.Activation(np.square, lambda z: 2 * z)
    mlp = fm.MLP([2, fm.Residual([fm.Dense(2, "identity"), own])])
    with pytest.raises(TypeError, match=r"layer 0\.body\.1 .*function of one's own"):
        mlp.to_torch()


def test_training_goes_on_the_same_on_both_sides(rng):
    # BatchNorm's momentum and unbiased variance among it.
    module = nn.Sequential(
        nn.Linear(N_IN, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Tanh(), nn.Linear(8, 1)
    ).double()
    mlp = fm.from_torch(module)
    # Not Adam, to which the rounding errors of a derivative that is 0, that of the bias
    # before a normalisation, are as good as any.
    options = {"lr": 1e-2, "momentum": 0.9}
    theirs, ours = torch.optim.SGD(module.parameters(), **options), fm.SGD(**options)
    for _ in range(5):
        x, y = inputs(rng, "float64"), inputs(rng, "float64", width=1)
        theirs.zero_grad()
        nn.functional.mse_loss(module(x), y).backward()
        theirs.step()
        mlp.train_step(x, y, fm.MSE(), ours)
    for name, wanted in module.state_dict().items():
        close(mlp.state_dict()[name], wanted, "float64")


# What cannot be taken over ------------------------------------------------------------


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(2, 3)
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.hidden(x).relu())


class Renamed(nn.Sequential):
    """A Sequential by another name."""


class Doubled(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def tied():
    linear = nn.Linear(2, 2)
    return nn.Sequential(linear, nn.ReLU(), linear)


def tied_weights():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    return nn.Sequential(one, other)


def hooked():
    module = nn.Sequential(nn.Linear(2, 2))
    module[0].register_forward_hook(lambda m, args, out: 2 * out)
    return module


def patched():
    module = nn.Linear(2, 2)
    module.forward = lambda x: x
    return module


class Twice(nn.Linear):
    def __call__(self, x):
        return 2 * super().__call__(x)


def behind(*modules):
    return nn.Sequential(nn.Linear(2, 4), *modules)


def parametrised():
    return nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))


REFUSED = [
    (Net, r"the module \(Net\).*hidden, out.*activation="),
    (lambda: behind(nn.Sequential(Net())), r"module 1\.0 \(Net\)"),
    (lambda: Doubled(nn.Linear(2, 2)), r"\(Doubled\)"),
    (lambda: behind(nn.Conv1d(1, 1, 1)), r"module 1 \(Conv1d\).*nn\.Linear"),
    (lambda: behind(nn.LogSoftmax(-1)), r"module 1 .*CrossEntropy"),
    (lambda: behind(nn.Hardtanh()), r"module 1 \(Hardtanh\)"),
    (lambda: behind(nn.LeakyReLU(0.2)), r"module 1 .*negative_slope=0\.2"),
    (lambda: behind(nn.ELU(2.0)), "module 1 .*alpha=2"),
    (lambda: behind(nn.Softplus(beta=2)), "module 1 .*beta=2"),
    (lambda: behind(nn.Softplus(threshold=5)), "module 1 .*threshold=5"),
    (lambda: behind(nn.Softmax(dim=0)), "module 1 .*dim=0"),
    (lambda: behind(nn.Softmax()), "module 1 .*dim=None"),
    (lambda: behind(nn.Dropout(1.0)), "module 1 .*p=1"),
    (lambda: behind(nn.AlphaDropout()), r"module 1 .*nn\.Dropout"),
    (lambda: behind(nn.Flatten(0)), "module 1 .*start_dim"),
    (lambda: behind(nn.LayerNorm((2, 2))), r"module 1 .*\(2, 2\)"),
    (lambda: behind(nn.LayerNorm(4, bias=False)), "module 1 .*without a bias"),
    (lambda: behind(nn.LayerNorm(4, eps=0)), "module 1 .*eps=0"),
    (lambda: behind(nn.BatchNorm1d(4, momentum=None)), "module 1 .*momentum"),
    (lambda: behind(nn.BatchNorm1d(4, track_running_stats=False)), "track_running"),
    (lambda: behind(nn.BatchNorm1d(3)), "module 1 .*takes 3 .*gives 4"),
    (lambda: behind(nn.ReLU(), nn.Linear(3, 1)), "module 2 .*takes 3 .*gives 4"),
    (tied, "module 2 .*shares .*module 0"),
    (tied_weights, "module 1 .*shares .*module 0"),
    (hooked, "module 0 .*hooks"),
    (patched, "the module .*forward of its own"),
    (lambda: behind(Twice(4, 1)), r"module 1 \(Twice\)"),
    (parametrised, "parametri"),
    (lambda: nn.Sequential(nn.ReLU()), "no width"),
    (nn.Sequential, "no width"),
    (lambda: nn.LazyLinear(3), "lazy|Lazy"),
    (lambda: nn.Linear(2, 3, device="meta"), "weight is on the meta device"),
    (lambda: nn.Linear(2, 3).half(), "weight is float16.*dtype='float32'"),
    (lambda: nn.Linear(2, 3).bfloat16(), "weight is bfloat16.*dtype='float32'"),
    (lambda: behind(nn.Linear(4, 1).double()), "several dtypes.*float32.*float64"),
    (lambda: fm.MLP([2, 1]).as_torch_module(), r"module\.mlp"),
    (lambda: nn.Linear, "a torch.nn.Module or a state dict"),
    (lambda: [nn.Linear(2, 1)], "a torch.nn.Module or a state dict"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_refused_with_words(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fm.from_torch(make())


def test_odd_residual_blocks():
    residual = type(fm.MLP([2, fm.Residual([2])]).to_torch()[0])
    for body, projection, words in [
        (nn.Linear(2, 3), None, "no projection"),
        (nn.Linear(2, 2), nn.Linear(2, 2), "has a projection although"),
        (nn.Linear(2, 3), nn.Linear(2, 3, bias=False), "with a bias"),
        (nn.Linear(2, 3), nn.Linear(2, 4), r"must be a Linear\(2, 3\)"),
        (nn.Linear(2, 3), nn.Sequential(), "nn.Linear"),
        (nn.Identity(), None, "no layer"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"module 1 .*{words}"):
            fm.from_torch(nn.Sequential(nn.Linear(2, 2), residual(body, projection)))


def test_blocks_that_write_to_their_input():
    residual = type(fm.MLP([2, fm.Residual([2])]).to_torch()[0])
    writes, linear = nn.ReLU(inplace=True), nn.Linear(2, 2)
    inner = residual(nn.Sequential(writes, linear))
    for parts in ([writes], [nn.Identity(), nn.Dropout(), writes], [inner]):
        block = residual(nn.Sequential(*parts, linear))
        with pytest.raises(ValueError, match=r"^module 0 .*inplace"):
            fm.from_torch(nn.Sequential(block))
    # Behind a layer it writes to what that has made.
    block = nn.Sequential(residual(nn.Sequential(linear, writes))).eval()
    x = torch.randn(ROWS, 2)
    np.testing.assert_allclose(
        fm.from_torch(block)(x), block(x).detach(), rtol=1e-5, atol=1e-6
    )


def test_options_are_for_state_dicts():
    for option in ({"prefix": "a"}, {"activation": "relu"}):
        with pytest.raises(ValueError, match="for state dicts"):
            fm.from_torch(nn.Linear(2, 2), **option)


def test_wrappers_and_subclasses(rng):
    module = disturb(nn.Sequential(nn.Linear(N_IN, 4), nn.ReLU(), nn.Linear(4, 1)))
    x = inputs(rng)
    wanted = fm.from_torch(module)(x)
    for other in (Renamed(*module), nn.DataParallel(module)):
        np.testing.assert_array_equal(fm.from_torch(other)(x), wanted)


def test_other_dtypes_if_asked(rng):
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        module = nn.Linear(N_IN, 3).to(kind)
        mlp = fm.from_torch(module, dtype="float32")
        assert mlp.dtype == "float32"
        wanted = module.weight.detach().to(torch.float32)
        np.testing.assert_array_equal(mlp.weights[0].T, wanted)
    assert fm.from_torch(nn.Linear(2, 1), dtype="float64").dtype == "float64"
    huge = {"weight": np.full((1, 1), 1e300), "bias": np.zeros(1)}
    with pytest.raises(ValueError, match="too large for float32"):
        fm.from_torch(huge, dtype="float32")


def test_seeds():
    one, other = (fm.from_torch(nn.Linear(2, 2), seed=3) for _ in range(2))
    assert one.core.training_state == other.core.training_state


# State dicts --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers",
    [
        [N_IN, 3],
        [N_IN, *[8] * 11, 3],
        [N_IN, fm.LayerNorm(), 8, fm.Dropout(0.2), 6, fm.LayerNorm(), 3],
        [N_IN, fm.Dense(8, "identity"), fm.BatchNorm(), fm.Activation("tanh"), 3],
        [N_IN, 8, fm.BatchNorm(affine=False), fm.Dense(4, "identity", bias=False), 3],
    ],
)
@pytest.mark.parametrize("shuffled", [False, True])
def test_own_state_dicts_come_back(layers, shuffled, rng):
    mlp = fm.MLP(layers, activation="tanh", output_activation="exp", seed=0)
    mlp.params[:] += rng.normal(size=mlp.n_params)
    mlp.buffers[:] += 1
    state = mlp.state_dict()
    if shuffled:  # as in files, where 10 is before 2
        state = dict(sorted(state.items()))
    back = fm.from_torch(state, activation="tanh", output_activation="exp")
    # Names have numbers for dropouts, which leave nothing else.
    names = zip(mlp.state_dict(), back.state_dict(), strict=True)
    renamed = {new: mlp.state_dict()[old] for old, new in names}
    same_bits(renamed, back.state_dict())
    x = inputs(rng)
    np.testing.assert_array_equal(back(x), mlp(x))


def test_state_dicts_of_modules(rng):
    body = [nn.Linear(N_IN, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 8), nn.ReLU()]
    module = disturb(nn.Sequential(nn.Flatten(), *body, nn.Linear(8, 2)))
    x = inputs(rng)
    wanted = module(x).detach()
    state = module.state_dict()
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod."):
        named = {prefix + name: value for name, value in state.items()}
        close(fm.from_torch(named, activation="relu")(x), wanted, "float32")
        below = prefix + "1"
        part = fm.from_torch(named, prefix=below)
        np.testing.assert_array_equal(part.weights[0].T, state["1.weight"])
    assert fm.from_torch(dict(module.named_parameters()), activation="relu")(x).any()


def test_layers_by_name(rng):
    net = nn.ModuleDict()
    widths = [N_IN, *range(4, 14), 2]
    names = [*(f"fc{i}" for i in range(1, 11)), "head"]
    for name, (a, b) in zip(names, itertools.pairwise(widths), strict=True):
        net[name] = nn.Linear(a, b)
    x = inputs(rng)
    h = x
    for name in names:
        h = net[name](h.tanh() if name != "fc1" else h)
    shuffled = dict(sorted(net.state_dict().items()))
    for state in (net.state_dict(), shuffled):
        close(fm.from_torch(state, activation="tanh")(x), h.detach(), "float32")


def test_parts_of_a_policy(rng):
    # As Stable-Baselines3 names them.
    policy = nn.Module()
    policy.mlp_extractor = nn.Module()
    tower = [nn.Linear(N_IN, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()]
    policy.mlp_extractor.policy_net = nn.Sequential(*tower)
    policy.mlp_extractor.value_net = nn.Sequential(nn.Linear(N_IN, 8), nn.Tanh())
    policy.action_net, policy.value_net = nn.Linear(8, 2), nn.Linear(8, 1)
    policy.log_std = nn.Parameter(torch.zeros(2))
    state, x = policy.state_dict(), inputs(rng)

    latent = policy.mlp_extractor.policy_net(x)
    prefix = ["mlp_extractor.policy_net", "action_net"]
    whole = fm.from_torch(state, prefix=prefix, activation="tanh")
    close(whole(x), policy.action_net(latent).detach(), "float32")
    tower = fm.from_torch(
        state, prefix=prefix[0] + ".", activation="tanh", output_activation="tanh"
    )
    close(tower(x), latent.detach(), "float32")
    with pytest.raises(ValueError, match=r"log_std.*prefix="):
        fm.from_torch(state, activation="tanh")
    with pytest.raises(ValueError, match=r"'actor\.'; layers: .*action_net"):
        fm.from_torch(state, prefix="actor")


def arrays(*widths, gap=2, **others):
    state = {}
    for i, (a, b) in enumerate(itertools.pairwise(widths)):
        state[f"{gap * i}.weight"] = np.zeros((b, a))
        state[f"{gap * i}.bias"] = np.zeros(b)
    return {**state, **{k.replace("_", ".", 1): v for k, v in others.items()}}


def test_activations_one_by_one():
    mlp = fm.from_torch(arrays(2, 3, 4, 5), activation=["relu", "silu"])
    assert [layer.activation for layer in mlp.layers] == ["relu", "silu", "identity"]
    assert mlp.dtype == "float64"
    # Without a number left out there is no activation.
    linear = fm.from_torch(arrays(2, 3, 4, gap=1))
    assert [layer.activation for layer in linear.layers] == ["identity"] * 2


ONES, PAIR = np.ones(3), {"2_weight": np.ones(3), "2_bias": np.ones(3)}
STATISTICS = {"1_running_mean": ONES, "1_running_var": ONES}
RELU = {"activation": "relu"}


@pytest.mark.parametrize(
    ("state", "options", "words"),
    [
        (arrays(2, 3, 4), {}, "activation must be given"),
        (arrays(2, 3, 4), {"activation": "rely"}, "did you mean 'relu'"),
        (arrays(2, 3, 4), {"activation": 3}, "activation must be a name"),
        (arrays(2, 3, 4), {"activation": ["relu"] * 2}, "one name or 1"),
        (arrays(2, 3, 4), {**RELU, "prefix": 3}, "prefix must be"),
        (arrays(2, 3, 4), {**RELU, "prefix": []}, "prefix must be"),
        (arrays(2, 3, 4), {**RELU, "output_activation": "s"}, "output_activation"),
        (arrays(2, 3, 4), {**RELU, "dtype": "int8"}, "dtype must be"),
        ({}, {}, "no entries"),
        ({3: ONES}, {}, "names"),
        (arrays(2, 3, **PAIR, **{"4_weight": np.ones((1, 3))}), RELU, "behind 2"),
        (arrays(2, 3, **{"0_scale": ONES}), {}, r"source\['0.scale'\].*prefix="),
        (arrays(2, 3, **{"2_weight": np.ones((1, 4))}), RELU, "layer 2 takes 4"),
        (arrays(2, 3, **{"2_weight": np.ones((1, 3, 1))}), RELU, r"\(out, in\)"),
        (arrays(2, 3, **{"1_weight": ONES}), {}, "layer 1 must have weight and bias"),
        (arrays(2, 3, **{"1_running_mean": ONES}), {}, "running_mean and running_var"),
        (arrays(2, 3, **{"0_bias": np.ones(4)}), {}, "layer 0: the bias"),
        (
            arrays(2, 3, **STATISTICS, **{"1_num_batches_tracked": "x"}),
            {},
            r"source\['1.num_batches_tracked'\] must be an int",
        ),
        (
            arrays(2, 3, **STATISTICS, **{"1_num_batches_tracked": -1}),
            {},
            r"source\['1.num_batches_tracked'\] must be at least 0",
        ),
        ({"0.bias": ONES}, {}, "layer 0 has no weight|layer 0 must"),
        ({"0.weight": np.ones((2, 2), int)}, {}, "must be of floats"),
        ({"0.weight": np.ones((2, 2), "f2")}, {}, "float16.*dtype='float32'"),
        ({"0.weight": np.full((2, 2), "a")}, {}, "real numbers"),
        (fm.MLP([2, fm.Residual([2, 2])]).state_dict(), RELU, "residual block"),
        (
            {"a.weight": np.ones((3, 2)), "b.weight": ONES, "b.bias": ONES},
            RELU,
            "before or behind normalisations such as b ",
        ),
    ],
)
def test_refused_state_dicts(state, options, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fm.from_torch(state, **options)


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None  # as if it were not installed
import numpy as np, fastmlp as fm
mlp = fm.MLP([3, 4, 2], seed=0)
back = fm.from_torch(mlp.state_dict(), activation="relu")
assert (back.params == mlp.params).all()
for call in (mlp.to_torch, mlp.as_torch_module):
    try:
        call()
    except ImportError as error:
        assert "pip install torch" in str(error)
    else:
        raise AssertionError
"""
NOT_IMPORTED = """
import sys
import numpy as np, fastmlp as fm
mlp = fm.MLP([3, 4, 2], seed=0)
fm.from_torch(mlp.state_dict(), activation="relu")(np.ones((1, 3)))
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("program", [WITHOUT_TORCH, NOT_IMPORTED])
def test_torch_is_imported_only_if_used(program):
    subprocess.run([sys.executable, "-c", program], check=True)


# Inside of PyTorch --------------------------------------------------------------------


def bridge(dtype="float64", n_out=3, **options):
    mlp = fm.MLP([N_IN, 8, 8, n_out], activation="tanh", dtype=dtype, seed=0, **options)
    return mlp, mlp.as_torch_module()


@pytest.mark.parametrize("dtype", BOTH)
def test_a_network_amid_others(dtype, rng):
    # The same model twice, once with a copy made of PyTorch alone.
    mlp, own = bridge(dtype)
    kind = getattr(torch, dtype)
    before, after = nn.Linear(4, N_IN, dtype=kind), nn.Linear(3, 1, dtype=kind)
    ours = nn.Sequential(before, own, nn.ReLU(), after)
    theirs = copy.deepcopy(nn.Sequential(before, mlp.to_torch(), nn.ReLU(), after))
    for _ in range(3):
        optimisers = [torch.optim.SGD(m.parameters(), 0.1) for m in (ours, theirs)]
        x, y = inputs(rng, dtype, width=4), inputs(rng, dtype, width=1)
        losses = []
        for module, optimiser in zip((ours, theirs), optimisers, strict=True):
            optimiser.zero_grad()
            loss = nn.functional.mse_loss(module(x), y)
            loss.backward()
            losses.append(loss.item())
            optimiser.step()
        close(losses[0], losses[1], dtype)
    trained = fm.from_torch(theirs[1])
    close(mlp.params, trained.params, dtype)
    close(ours[0].weight.detach(), theirs[0].weight.detach(), dtype)


def test_parameters_are_the_models_memory(rng):
    mlp, module = bridge("float32")
    assert module.params.data_ptr() == mlp.params.ctypes.data
    assert [n for n, _ in module.named_parameters()] == ["params"]
    x = inputs(rng)
    optimiser = torch.optim.Adam(module.parameters(), 0.1)
    before = mlp(x)
    module(x).square().sum().backward()
    optimiser.step()
    assert not np.array_equal(mlp(x), before)
    np.testing.assert_array_equal(module(x).detach(), mlp(x))
    mlp.train_step(x, inputs(rng, width=3), fm.MSE(), fm.SGD(0.1))
    np.testing.assert_array_equal(module.params.detach(), mlp.params)
    # State dicts as well.
    other = fm.MLP([N_IN, 8, 8, 3], seed=9).as_torch_module()
    module.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(mlp.params, other.mlp.params)


def test_outputs_and_gradients_are_the_models(rng):
    mlp, module = bridge("float32")
    x = inputs(rng).requires_grad_()
    dy = inputs(rng, width=3)
    y = module(x)
    y.backward(dy)
    for got, wanted in zip(
        (y.detach(), x.grad, module.params.grad),
        mlp.vjp(x.detach(), dy),
        strict=True,
    ):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("layers", [[6, 6], [6, fm.LayerNorm(), fm.Residual([6, 4])]])
def test_gradcheck(layers, rng):
    mlp = fm.MLP([4, *layers, 2], activation="tanh", dtype="float64", seed=0)
    module = mlp.as_torch_module()
    x = inputs(rng, "float64", 3, 4).requires_grad_()
    # It moves the parameters in place, which are the model's.
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))


def test_gradcheck_of_batch_statistics(rng):
    mlp = fm.MLP([4, 6, fm.BatchNorm(), 2], activation="tanh", dtype="float64", seed=0)
    module = mlp.as_torch_module()
    assert module.training
    x = inputs(rng, "float64", 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))
    module.eval()
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))


def test_only_what_is_wanted(rng):
    mlp, module = bridge()
    x = inputs(rng, "float64")
    y = module(x)
    y.sum().backward()
    assert x.grad is None
    assert module.params.grad is not None

    frozen = mlp.as_torch_module().requires_grad_(False)
    assert not frozen(x).requires_grad
    x.requires_grad_()
    frozen(x).sum().backward()
    assert frozen.params.grad is None
    np.testing.assert_array_equal(x.grad, mlp.vjp(x.detach(), np.ones_like(y.data))[1])

    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert not module(x).requires_grad


@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (1, 2, 1)])
def test_leading_dimensions(shape, rng):
    mlp, module = bridge()
    x = torch.from_numpy(rng.normal(size=(*shape, N_IN))).requires_grad_()
    y = module(x)
    assert y.shape == (*shape, 3)
    rows = x.detach().numpy().reshape(-1, N_IN)
    np.testing.assert_array_equal(y.detach().numpy().reshape(-1, 3), mlp(rows))
    dy = torch.from_numpy(rng.normal(size=(*shape, 3)))
    y.backward(dy)
    _, dx, grads = mlp.vjp(rows, dy.reshape(-1, 3))
    np.testing.assert_array_equal(x.grad, dx.reshape(x.shape))
    np.testing.assert_array_equal(module.params.grad, grads)
    with torch.no_grad():
        np.testing.assert_array_equal(module(x), y.detach())


def test_memory_in_another_order(rng):
    mlp, module = bridge()
    whole = torch.from_numpy(rng.normal(size=(N_IN, 2 * ROWS))).requires_grad_()
    x = whole[:, ::2].T
    assert not x.is_contiguous()
    y = module(x)
    np.testing.assert_array_equal(y.detach(), mlp(x.detach()))
    # And of the gradient: sum() gives one number, seen as many.
    y.sum().backward()
    _, dx, _ = mlp.vjp(x.detach(), np.ones((ROWS, 3)))
    np.testing.assert_array_equal(whole.grad[:, ::2].T, dx)


def test_inputs_are_not_copied(rng, monkeypatch):
    mlp, module = bridge("float32")
    x = inputs(rng)
    seen = []
    predict = type(mlp).predict
    record = lambda self, x: seen.append(x) or predict(self, x)  # noqa: E731
    monkeypatch.setattr(type(mlp), "predict", record)
    with torch.no_grad():
        module(x)
    assert np.shares_memory(seen[0], x.numpy())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("interfering", ["", "forward", "train_step", "eval"])
def test_several_calls_in_one_graph(training, interfering, rng):
    """Each call is differentiated at its own masks and statistics."""
    layers = [N_IN, 8, fm.Dropout(0.4), fm.BatchNorm(), 8, fm.Dropout(0.3), 3]
    mlp = fm.MLP(layers, activation="tanh", dtype="float64", seed=5)
    module = mlp.as_torch_module().train(training)
    seed, passes, _ = mlp.core.training_state
    xs = [inputs(rng, "float64").requires_grad_() for _ in range(3)]
    weights = [inputs(rng, "float64", width=3) for _ in xs]

    # The same by the reference, whose draws are said by hand, and numbers.
    def wanted(x, statistics, i):
        twin = mlp.copy()
        twin.core.training_state = seed, passes + i, 0
        twin.buffers[:] = statistics
        y = twin.forward(x, training)
        dx, grads = twin.backward(weights[i])
        return y, dx, grads

    expected, ys, before = [], [], mlp.params.copy()
    for i, x in enumerate(xs):
        expected.append(wanted(x.detach(), mlp.buffers, i))
        ys.append(module(x))
    after = mlp.buffers.copy(), mlp.core.training_state
    if interfering == "forward":
        mlp.copy().forward(xs[0].detach(), True)
        mlp.forward(xs[0].detach())
    elif interfering == "train_step":
        mlp.train_step(xs[0].detach(), weights[0], fm.MSE(), fm.SGD(0.1))
        mlp.params[:] = before
        after = mlp.buffers.copy(), mlp.core.training_state
    elif interfering == "eval":
        # A pass in the other mode moves statistics, or is without masks.
        module.train(not training)
        module(xs[0])
        after = mlp.buffers.copy(), mlp.core.training_state
    total = sum((y * w).sum() for y, w in zip(ys, weights, strict=True))
    total.backward()

    for y, x, (y_wanted, dx, _) in zip(ys, xs, expected, strict=True):
        np.testing.assert_array_equal(y.detach(), y_wanted)
        np.testing.assert_array_equal(x.grad, dx)
    close(module.params.grad, sum(grads for *_, grads in expected), "float64")
    # Going back moves nothing.
    np.testing.assert_array_equal(mlp.buffers, after[0])
    assert mlp.core.training_state == after[1]
    assert (len({tuple(y.detach().ravel().tolist()) for y in ys})) == 3


def test_the_masks_are_those_of_the_reference(rng):
    mlp = fm.MLP([N_IN, fm.Dropout(0.5), 3], dtype="float64", seed=0)
    module = mlp.as_torch_module()
    seed, passes, _ = mlp.core.training_state
    x = inputs(rng, "float64").requires_grad_()
    first, second = module(x), module(x)
    gradient = torch.autograd.grad(first, x, torch.ones(ROWS, 3).double())[0]
    mask = reference.dropout_mask((ROWS, N_IN), 0.5, seed, 0xFFFFFFFE, passes, 0)
    np.testing.assert_array_equal(gradient.numpy() != 0, mask)
    assert not torch.equal(first, second)
    module.eval()
    assert torch.equal(module(x), module(x))


def test_going_back_twice(rng):
    _, module = bridge()
    x = inputs(rng, "float64").requires_grad_()
    loss = module(x).square().sum()
    loss.backward(retain_graph=True)
    once = x.grad.clone(), module.params.grad.clone()
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * once[0])
    torch.testing.assert_close(module.params.grad, 2 * once[1])


def test_second_derivatives_are_refused(rng):
    _, module = bridge()
    x = inputs(rng, "float64").requires_grad_()
    dx = torch.autograd.grad(module(x).sum(), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match=r"no second derivatives.*to_torch"):
        dx.sum().backward()
    # Also where another path would go on without it, and by the parameters.
    (grads,) = torch.autograd.grad(
        module(x).square().sum(), module.params, create_graph=True
    )
    with pytest.raises(RuntimeError, match="no second derivatives"):
        (grads.sum() + x.sum()).backward()


# PyTorch's own forward mode makes scripts.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_forward_mode_is_refused(frozen, grad, rng):
    # Not taken for zero where no graph is made.
    _, module = bridge()
    module.requires_grad_(not frozen)
    x = inputs(rng, "float64")
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        with pytest.raises(RuntimeError, match=r"no forward-mode .*to_torch"):
            module(forward_ad.make_dual(x, torch.ones_like(x)))
        moving = forward_ad.make_dual(module.params, torch.ones_like(module.params))
        with pytest.raises(RuntimeError, match=r"no forward-mode .*to_torch"):
            torch.func.functional_call(module, {"params": moving}, x)


def test_lazily_negated_memory(rng):
    mlp, module = bridge()
    x = inputs(rng, "float64")
    conjugate = torch.complex(0 * x, -x).conj().imag
    assert conjugate.is_neg()
    y = module(conjugate)
    np.testing.assert_array_equal(y.detach(), mlp(x))
    dy = torch.complex(0 * y, torch.ones_like(y)).detach().conj().imag
    y.backward(dy)
    np.testing.assert_array_equal(module.params.grad, mlp.vjp(x, dy.resolve_neg())[2])


@pytest.mark.parametrize("same", [True, False])
def test_parameters_moved_between_forward_and_backward(same, rng):
    mlp, module = bridge()
    loss = module(inputs(rng, "float64")).sum()
    with torch.no_grad():
        (module if same else mlp.as_torch_module()).params.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_module_made_in_inference_mode_does_not_stand_in_the_way(rng):
    mlp = fm.MLP([N_IN, 3], dtype="float64", seed=0)
    with torch.inference_mode():
        mlp.as_torch_module()
    module = mlp.as_torch_module()
    module(inputs(rng, "float64")).sum().backward()
    assert module.params.grad.abs().sum() > 0


class OnGpu(torch.Tensor):
    """A tensor that says it is elsewhere."""

    @property
    def device(self):
        return torch.device("cuda", 0)


def test_bad_tensors():
    _, module = bridge("float32")
    for x, error, words in [
        (torch.zeros(2, N_IN).as_subclass(OnGpu), TypeError, r"cuda:0.*x\.cpu\(\)"),
        (torch.zeros(2, N_IN, device="meta"), TypeError, "on the CPU.*meta"),
        (torch.zeros(2, N_IN).double(), TypeError, r"torch\.float32.*torch\.float64"),
        (torch.zeros(2, N_IN).to_sparse(), TypeError, "to_dense"),
        (np.zeros((2, N_IN), "float32"), TypeError, "torch.Tensor"),
        (torch.zeros(2, N_IN + 1), ValueError, rf"\(…, {N_IN}\).*\(2, {N_IN + 1}\)"),
        (torch.zeros(()), ValueError, "shape"),
        (torch.zeros(0, N_IN), ValueError, "at least one row"),
    ]:
        with pytest.raises(error, match=f"^x must .*{words}"):
            module(x)
    mlp = fm.MLP([2, fm.BatchNorm(), 1], seed=0)
    buffers = mlp.buffers.copy()
    with pytest.raises(ValueError, match="rows"):
        mlp.as_torch_module()(torch.zeros(1, 2))
    np.testing.assert_array_equal(mlp.buffers, buffers)


@pytest.mark.parametrize(
    "move",
    [
        lambda m: m.double(),
        lambda m: m.half(),
        lambda m: m.to("meta"),
        lambda m: m.to_empty(device="cpu"),
        lambda m: m.share_memory(),
    ],
)
def test_modules_stay_where_they_are(move, rng):
    mlp, module = bridge("float32")
    wanted = mlp.params.copy()
    with pytest.raises(TypeError, match=r"stays torch\.float32.*to_torch"):
        move(module)
    np.testing.assert_array_equal(mlp.params, wanted)
    assert module.params.data_ptr() == mlp.params.ctypes.data
    assert module.float().to("cpu") is module
    module(inputs(rng))


def test_replaced_parameters_are_noticed(rng):
    _, module = bridge("float32")
    x = inputs(rng)
    with pytest.raises(RuntimeError, match="functional_call"):
        torch.func.functional_call(module, {"params": module.params + 1}, (x,))
    module(x)
    module.params = nn.Parameter(module.params.detach().clone())
    with pytest.raises(RuntimeError, match="must stay the memory"):
        module(x)


def test_copies_of_modules_have_their_own_models(rng):
    mlp = big()
    module = mlp.as_torch_module()
    module(inputs(rng)).sum().backward()
    model = nn.Sequential(module, nn.Linear(3, 1))
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    x = inputs(rng)
    for other in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        twin = other[0]
        assert twin.params.data_ptr() == twin.mlp.params.ctypes.data
        assert twin.statistics.data_ptr() == twin.mlp.buffers.ctypes.data
        assert torch.equal(twin.params.grad, module.params.grad)
        same_bits(model.state_dict(), other.state_dict())
        twin.mlp.params[:] = 0
        assert mlp.params.any()
        assert torch.isfinite(other.eval()(x)).all()
    frozen = copy.deepcopy(module.requires_grad_(False))
    assert not frozen.params.requires_grad
    assert repr(mlp) in repr(module)


def test_functions_of_ones_own_work_inside_of_pytorch(rng):
    own = fm.Activation(lambda z: z * z, lambda z: 2 * z)
    mlp = fm.MLP([4, fm.Dense(5, "identity"), own, 2], dtype="float64", seed=0)
    module = mlp.as_torch_module()
    x = inputs(rng, "float64", 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))


@pytest.mark.parametrize("n_modules", [1, 4])
def test_threads_share_a_model(n_modules, rng):
    """Each thread's gradient is that of its own call."""
    mlp, module = bridge()
    modules = [module, *(mlp.as_torch_module() for _ in range(n_modules - 1))]
    xs = [inputs(rng, "float64") for _ in range(4)]
    wanted = [mlp.vjp(x, np.ones((ROWS, 3)))[1] for x in xs]
    wrong = []

    def work(i):
        for _ in range(30):
            x = xs[i].clone().requires_grad_()
            got = torch.autograd.grad(modules[i % n_modules](x).sum(), x)[0]
            if not np.array_equal(got, wanted[i]):
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_a_network_without_parameters():
    module = fm.MLP([2, fm.Activation("exp")]).as_torch_module()
    x = torch.zeros(1, 2, requires_grad=True)
    module(x).sum().backward()
    assert x.grad.tolist() == [[1, 1]]
    assert math.isclose(module(x).sum().item(), 2)
