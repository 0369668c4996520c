"""Models from and to PyTorch: modules and state dicts."""

import copy
import io
import itertools
import pickle
import subprocess
import sys

import fastmlp as fm
import numpy as np
import pytest
from torch_cases import BOTH, N_IN, ROWS, big, close, inputs, nn, same_bits, torch

pytestmark = pytest.mark.usefixtures("quiet_torch")

# PyTorch's softplus(z) is z for z > 20, an error of up to log(1 + e^-20) = 2.1e-9.
SOFTPLUS_ATOL = 2.1e-9


def disturb(module):
    """Move parameters and statistics away from their initial values."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data += torch.rand_like(tensor)
    return module.eval()


def sequentials():
    yield nn.Linear(N_IN, 3)
    yield nn.Sequential(nn.Linear(N_IN, 3, bias=False))
    yield nn.Sequential(nn.Linear(N_IN, 9), nn.ReLU(), nn.Linear(9, 2), nn.Sigmoid())
    yield nn.Sequential(
        nn.Sequential(nn.Linear(N_IN, 9), nn.BatchNorm1d(9, 1e-3, 0.2), nn.ELU()),
        nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Linear(9, 4), nn.Softsign())),
        nn.AlphaDropout(0.1),
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
        nn.RMSNorm(8),
        nn.RMSNorm(8, 0.1, elementwise_affine=False),
        nn.GroupNorm(4, 8),
        nn.GroupNorm(2, 8, 0.1, affine=False),
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
    # Modules without effect are left out, so names may differ, but not the order.
    before, after = module.state_dict().values(), back.state_dict().values()
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    x = inputs(rng, dtype)
    wanted = module(x).detach()
    close(mlp(x), wanted, dtype)
    close(back(x).detach(), wanted, dtype)
    # The model has copies of the parameters.
    mlp.params[:] = 0
    close(module(x).detach(), wanted, dtype)


@pytest.mark.parametrize("dtype", BOTH)
def test_fastmlp_to_torch_to_fastmlp(dtype, rng):
    mlp = big(dtype)
    x = inputs(rng, dtype, 64)
    mlp.forward(x, training=True)  # so that a batch is counted
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


CONSTANTS = [
    (fm.Activation("leaky_relu", slope=0.3), nn.LeakyReLU(0.3)),
    (fm.Activation("threshold", threshold=0.5, value=2.0), nn.Threshold(0.5, 2.0)),
    (fm.Activation("elu", alpha=0.3), nn.ELU(0.3)),
    (fm.Activation("celu", alpha=0.3), nn.CELU(0.3)),
    (fm.Activation("softplus", beta=3), nn.Softplus(3.0, threshold=40.0)),
    (fm.Activation("hardtanh", min_val=-0.5, max_val=2), nn.Hardtanh(-0.5, 2.0)),
    (fm.Activation("softshrink", lambd=0.2), nn.Softshrink(0.2)),
    (fm.Activation("hardshrink", lambd=0.2), nn.Hardshrink(0.2)),
]


@pytest.mark.parametrize(("ours", "theirs"), CONSTANTS, ids=repr)
@pytest.mark.parametrize("dtype", BOTH)
def test_constants_of_activations(ours, theirs, dtype, rng):
    layers = [N_IN, fm.Dense(8, ours), fm.LayerNorm(), ours, 3]
    mlp = fm.MLP(layers, dtype=dtype, seed=0)
    module = mlp.to_torch()
    assert repr(module[1]) == repr(module[3]) == repr(theirs)
    x = 3 * inputs(rng, dtype)
    close(module(x).detach(), mlp(x), dtype)
    assert fm.from_torch(module).layers == mlp.layers


def test_softplus_where_torch_has_a_threshold():
    x = torch.linspace(-50, 50, 2001, dtype=torch.float64)[:, None]
    linear = nn.Linear(1, 1, dtype=torch.float64)
    linear.load_state_dict({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})
    module = nn.Sequential(linear, nn.Softplus())
    mlp = fm.from_torch(module)
    np.testing.assert_allclose(mlp(x), module(x).detach(), rtol=0, atol=SOFTPLUS_ATOL)
    close(mlp.to_torch()(x).detach(), mlp(x), "float64")


def test_gradients_and_modes_of_converted_modules(rng):
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
    # In training mode, dropout is active and statistics change.
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


def test_custom_functions_cannot_be_converted():
    own = fm.Activation(np.square, lambda z: 2 * z)
    mlp = fm.MLP([2, fm.Residual([fm.Dense(2, "identity"), own])])
    with pytest.raises(TypeError, match=r"layer 0\.body\.1 .*custom activation"):
        mlp.to_torch()


def test_training_continues_alike_on_both_sides(rng):
    # This includes BatchNorm's momentum and unbiased variance.
    module = nn.Sequential(
        nn.Linear(N_IN, 8), nn.BatchNorm1d(8, momentum=0.3), nn.Tanh(), nn.Linear(8, 1)
    ).double()
    mlp = fm.from_torch(module)
    # Not with Adam, which scales rounding errors up to full steps where a derivative is
    # 0, as for the bias before a normalisation.
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


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(2, 3)
        self.out = nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.hidden(x).relu())


class Renamed(nn.Sequential):
    """A Sequential with another name."""


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
    return nn.utils.parametrizations.orthogonal(nn.Linear(2, 2))


REFUSED = [
    (lambda: behind(nn.Sequential(Net())), r"module 1\.0\.hidden .* of width 2"),
    (lambda: Doubled(nn.Linear(2, 2)), r"\(Doubled\): step mul .* calls mul"),
    (lambda: behind(nn.Conv1d(1, 1, 1)), r"module 1 \(Conv1d\).*nn\.Linear"),
    (lambda: behind(nn.LogSoftmax(-1)), r"module 1 .*CrossEntropy"),
    (lambda: behind(nn.RReLU()), r"module 1 \(RReLU\)"),
    (lambda: behind(nn.LeakyReLU(-0.2)), r"module 1 .*slope .*>= 0.*got -0\.2"),
    (lambda: behind(nn.ELU(-2.0)), "module 1 .*alpha .*>= 0.*got -2"),
    (lambda: behind(nn.Softplus(beta=-2)), "module 1 .*beta .*got -2"),
    (lambda: behind(nn.Softplus(threshold=5)), "module 1 .*threshold=5"),
    (lambda: behind(nn.Softmax(dim=0)), "module 1 .*dim=0"),
    (lambda: behind(nn.Softmax()), "module 1 .*dim=None"),
    (lambda: behind(nn.Dropout(1.0)), "module 1 .*p=1"),
    (lambda: behind(nn.AlphaDropout(1.0)), "module 1 .*p=1"),
    (lambda: behind(nn.FeatureAlphaDropout()), r"module 1 .*nn\.AlphaDropout"),
    (lambda: behind(nn.Flatten(0)), "module 1 .*start_dim"),
    (lambda: behind(nn.LayerNorm((2, 2))), r"module 1 .*\(2, 2\)"),
    (lambda: behind(nn.LayerNorm(4, bias=False)), "module 1 .*without a bias"),
    (lambda: behind(nn.LayerNorm(4, eps=0)), "module 1 .*eps=0"),
    (lambda: behind(nn.RMSNorm((2, 2))), r"module 1 .*\(2, 2\)"),
    (lambda: behind(nn.RMSNorm(3)), "module 1 .*inputs of width 3.*width 4"),
    (lambda: behind(nn.RMSNorm(4, eps=0)), "module 1 .*eps=0"),
    (lambda: behind(nn.BatchNorm1d(4, momentum=None)), "module 1 .*momentum"),
    (lambda: behind(nn.BatchNorm1d(4, track_running_stats=False)), "track_running"),
    (lambda: behind(nn.BatchNorm1d(3)), "module 1 .*width 3.*outputs of width 4"),
    (
        lambda: behind(nn.ReLU(), nn.Linear(3, 1)),
        "module 2 .*width 3.*outputs of width 4",
    ),
    (tied, "module 2 .*shares .*module 0"),
    (tied_weights, "module 1 .*shares .*module 0"),
    (hooked, "module 0 .*hooks"),
    (patched, "the module .*custom forward method"),
    (lambda: behind(Twice(4, 1)), r"module 1 \(Twice\)"),
    (parametrised, "parametri"),
    (lambda: nn.Sequential(nn.ReLU()), "number of inputs is unknown"),
    (nn.Sequential, "number of inputs is unknown"),
    (lambda: nn.LazyLinear(3), "lazy|Lazy"),
    (lambda: nn.Linear(2, 3, device="meta"), "weight .* on the meta device"),
    (lambda: nn.Linear(2, 3).half(), "got float16.*dtype='float32'"),
    (lambda: nn.Linear(2, 3).bfloat16(), "got bfloat16.*dtype='float32'"),
    (lambda: behind(nn.Linear(4, 1).double()), "several dtypes.*float32.*float64"),
    (lambda: fm.MLP([2, 1]).as_torch_module(), r"module\.mlp"),
    (lambda: nn.Linear, "a torch.nn.Module or a state dict"),
    (lambda: [nn.Linear(2, 1)], "a torch.nn.Module or a state dict"),
]


@pytest.mark.parametrize(("make", "words"), REFUSED)
def test_refused_inputs_are_explained(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fm.from_torch(make())


def test_odd_residual_blocks():
    residual = type(fm.MLP([2, fm.Residual([2])]).to_torch()[0])
    for body, projection, words in [
        (nn.Linear(2, 3), None, "must have a projection"),
        (nn.Linear(2, 2), nn.Linear(2, 2), "must not have a projection"),
        (nn.Linear(2, 3), nn.Linear(2, 3, bias=False), "with a bias"),
        (nn.Linear(2, 3), nn.Linear(2, 4), r"must be an nn\.Linear\(2, 3\)"),
        (nn.Linear(2, 3), nn.Sequential(), "nn.Linear"),
        (nn.Identity(), None, "must contain a layer"),
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
    # After a layer, it writes into the output of that layer.
    block = nn.Sequential(residual(nn.Sequential(linear, writes))).eval()
    x = torch.randn(ROWS, 2)
    np.testing.assert_allclose(
        fm.from_torch(block)(x), block(x).detach(), rtol=1e-5, atol=1e-6
    )


def test_options_are_for_state_dicts():
    for option in ({"prefix": "a"}, {"activation": "relu"}):
        with pytest.raises(ValueError, match="only with a state dict"):
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
def test_own_state_dicts_round_trip(layers, shuffled, rng):
    mlp = fm.MLP(layers, activation="tanh", output_activation="exp", seed=0)
    mlp.params[:] += rng.normal(size=mlp.n_params)
    mlp.buffers[:] += 1
    state = mlp.state_dict()
    if shuffled:  # as in files, where "10" comes before "2"
        state = dict(sorted(state.items()))
    back = fm.from_torch(state, activation="tanh", output_activation="exp")
    # Dropouts take numbers in the names, but have no entries of their own.
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
    # The names are those of Stable-Baselines3.
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
    with pytest.raises(ValueError, match=r"'actor\.'; its layers are .*action_net"):
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
    # Consecutive numbers leave no place for activations.
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
        (
            arrays(2, 3, 4),
            {"activation": ["relu"] * 2},
            "one name, or one for each activation, 1 in all",
        ),
        (arrays(2, 3, 4), {**RELU, "prefix": 3}, "prefix must be"),
        (arrays(2, 3, 4), {**RELU, "prefix": []}, "prefix must be"),
        (arrays(2, 3, 4), {**RELU, "output_activation": "s"}, "output_activation"),
        (arrays(2, 3, 4), {**RELU, "dtype": "int8"}, "dtype must be"),
        ({}, {}, "no entries"),
        ({3: ONES}, {}, "names"),
        (
            arrays(2, 3, **PAIR, **{"4_weight": np.ones((1, 3))}),
            RELU,
            "normalisation 2",
        ),
        (arrays(2, 3, **{"0_scale": ONES}), {}, r"source\['0.scale'\].*prefix="),
        (
            arrays(2, 3, **{"2_weight": np.ones((1, 4))}),
            RELU,
            "layer 2 needs inputs of width 4",
        ),
        (arrays(2, 3, **{"2_weight": np.ones((1, 3, 1))}), RELU, r"\(out, in\)"),
        (
            arrays(2, 3, **{"1_weight": ONES}),
            {},
            "layer 1 has only a 1-D weight.*module",
        ),
        (
            arrays(2, 3, **{"1_bias": ONES, "1_running_var": ONES}),
            {},
            "layer 1 must have",
        ),
        (arrays(2, 3, **{"1_running_mean": ONES}), {}, "running_mean, running_var"),
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
        ({"0.bias": ONES}, {}, "layer 0 needs a weight|layer 0 must"),
        ({"0.weight": np.ones((2, 2), int)}, {}, "must have a float dtype"),
        ({"0.weight": np.ones((2, 2), "f2")}, {}, "float16.*dtype='float32'"),
        ({"0.weight": np.full((2, 2), "a")}, {}, "real numbers"),
        (fm.MLP([2, fm.Residual([2, 2])]).state_dict(), RELU, "a block"),
        (
            {"a.weight": np.ones((3, 2)), "b.weight": ONES, "b.bias": ONES},
            RELU,
            "before or after normalisations such as b;",
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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("affine", [True, False])
def test_rms_norm_without_eps_takes_that_of_the_dtype(dtype, affine):
    norm = nn.RMSNorm(3, elementwise_affine=affine)
    net = nn.Sequential(norm, nn.Linear(3, 2)).to(getattr(torch, dtype))
    mlp = fm.from_torch(net)
    assert mlp.layers[0] == fm.RMSNorm(float(np.finfo(dtype).eps), affine=affine)
    x = np.full((2, 3), 1e-4, dtype)
    want = net(torch.from_numpy(x)).detach().numpy()
    # The roundings of a normalisation and a product; another eps changes digits.
    np.testing.assert_allclose(mlp(x), want, rtol=50 * np.finfo(dtype).eps)


def test_frozen_parameters_stay_frozen():
    body = fm.Residual([fm.LayerNorm(), fm.Dense(5, "tanh")])
    start = fm.MLP([3, fm.Dense(4, "relu"), fm.BatchNorm(), body, 1], seed=0)
    net = start.to_torch()
    assert all(p.requires_grad for p in net.parameters())
    assert fm.from_torch(net).frozen == ()
    names = ("0.weight", "2.bias", "3.body.0.weight", "3.projection.bias")
    for name in names:
        net.get_parameter(name).requires_grad_(False)
    mlp = fm.from_torch(net)
    assert mlp.frozen == names
    again = dict(mlp.to_torch().named_parameters())
    assert tuple(n for n, p in again.items() if not p.requires_grad) == names


def test_frozen_parameters_of_a_state_dict():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    net[0].requires_grad_(False)
    mlp = fm.from_torch(dict(net.named_parameters()), activation="relu")
    assert mlp.frozen == ("0.weight", "0.bias")
    # A state dict's tensors are no longer parameters.
    assert fm.from_torch(net.state_dict(), activation="relu").frozen == ()
