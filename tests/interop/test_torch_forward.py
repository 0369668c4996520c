"""PyTorch modules with a forward method of their own: the same outputs, or why not."""

from __future__ import annotations

import operator

import fastmlp as fm
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch modules are converted")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

N_IN = 6
# Sums of a few products in float64, in another order.
RTOL = 1e-12


class Made(nn.Module):
    """A module whose forward method is a function, for short tests."""

    def __init__(self, function, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def linear(*widths, bias=True):
    return nn.Linear(*widths, bias=bias)


def check(module, rng, layers=None, rtol=RTOL):
    """Compare outputs, and gradients of parameters by their names, in float64."""
    module = module.double()
    before = [(m, m.training, dict(vars(m))) for m in module.modules()]
    mlp = fm.from_torch(module)
    for part, mode, attributes in before:
        assert part.training == mode
        assert vars(part).keys() == attributes.keys()
    if layers is not None:
        assert [type(layer).__name__ for layer in mlp.layers] == layers
    x = rng.standard_normal((13, N_IN))
    module.eval()
    y = module(torch.tensor(x))
    np.testing.assert_allclose(mlp(x), y.detach().numpy(), rtol=RTOL, atol=RTOL)
    y.square().sum().backward()
    _, _, grads = mlp.vjp(x, 2 * mlp(x))
    # Sorted, because a module's parts need not be in the order of its calls.
    wanted = [p.grad.numpy().ravel() for p in module.parameters()]
    wanted = np.sort(np.concatenate(wanted))
    np.testing.assert_allclose(np.sort(grads), wanted, rtol=rtol, atol=rtol)
    return mlp


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc2 = linear(9, 4)
        self.fc1 = linear(N_IN, 9)

    def forward(self, x):
        x = F.relu(self.fc1(x))
        return self.fc2(x)


def test_a_plain_network(rng):
    mlp = check(Plain(), rng, ["Dense", "Dense"])
    assert [layer.activation for layer in mlp.layers] == ["relu", "identity"]
    assert fm.from_torch(Plain()).dtype == np.float32
    assert fm.from_torch(Plain().half(), dtype="float32").dtype == np.float32
    # As a part of others, and with a name that is not the last.
    check(nn.Sequential(nn.Linear(N_IN, N_IN), Plain(), nn.Tanh()), rng)


class Regularised(nn.Module):
    def __init__(self, functions):
        super().__init__()
        self.first, self.last = linear(N_IN, 8), linear(8, 3)
        self.norm, self.batch = nn.LayerNorm(8), nn.BatchNorm1d(8)
        self.drop, self.p = nn.Dropout(0.25), 0.25
        self.functions = functions

    def forward(self, x):
        x = x.flatten(1)
        x = torch.nn.functional.gelu(self.batch(self.first(x)), approximate="tanh")
        if self.functions:
            x = F.dropout(x, p=self.p, training=self.training)
        else:
            x = self.drop(x)
        return torch.tanh(self.last(self.norm(x)))


@pytest.mark.parametrize("functions", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_dropout_and_normalisations(functions, training, rng):
    module = Regularised(functions).train(training)
    module.batch.running_mean += 0.5
    kinds = ["Dense", "BatchNorm", "Activation", "Dropout", "LayerNorm", "Dense"]
    mlp = check(module, rng, kinds)
    assert mlp.layers[3] == fm.Dropout(0.25)


class Block(nn.Module):
    """Adds its result in place, as many programs do."""

    def __init__(self, n, inner=None):
        super().__init__()
        self.norm = nn.LayerNorm(n)
        self.up, self.down = linear(n, 2 * n), linear(2 * n, n)
        self.inner = nn.Identity() if inner is None else inner

    def forward(self, x):
        skip = x
        x = F.silu(self.up(self.norm(x)))
        x = self.down(self.inner(x))
        x += skip
        return x


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = linear(N_IN, 4)
        self.blocks = nn.ModuleList([Block(4), Block(4, Block(8, Block(16)))])
        self.body, self.skip = linear(4, 5), linear(4, 5, bias=False)
        self.activation = nn.ELU()
        self.last = linear(5, 2)

    def forward(self, x):
        x = self.activation(self.first(x))
        for block in self.blocks:
            x = block(x)
        x = self.skip(x) + self.activation(self.body(x))
        return self.last(torch.add(x, self.activation(x)))


def test_residual_blocks(rng):
    mlp = fm.from_torch(Nested().double())
    blocks = [layer for layer in mlp.layers if isinstance(layer, fm.Residual)]
    assert [len(block.layers) for block in blocks] == [3, 4, 1, 1]
    assert isinstance(blocks[1].layers[2], fm.Residual)
    x = rng.standard_normal((5, N_IN))
    module = Nested().double().eval()
    y = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(fm.from_torch(module)(x), y, rtol=RTOL, atol=RTOL)


SKIPS = {
    "identity": nn.Identity(),
    "empty": nn.Sequential(),
    "nested": nn.Sequential(nn.Identity(), nn.Sequential()),
}


@pytest.mark.parametrize("name", SKIPS)
def test_shortcuts_that_do_nothing(name, rng):
    """The usual block, whose shortcut is a Linear if the width changes."""

    def forward(m, x):
        x = m.skip(x) + torch.tanh(m.a(x))
        return m.other(x.clone()) + m.b(x).relu()

    parts = {"a": linear(N_IN, N_IN), "b": linear(N_IN, 3), "other": linear(N_IN, 3)}
    module = Made(forward, skip=SKIPS[name], **parts)
    check(module, rng, ["Residual", "Residual"])


class SideBySide(nn.Module):
    """A skip by concatenation, three heads, and branches of branches."""

    def __init__(self):
        super().__init__()
        self.first, self.wide = linear(N_IN, 5), linear(N_IN + 5, 7)
        self.a, self.b, self.c = linear(7, 4), linear(7, 3), linear(4, 2)

    def forward(self, x):
        h = torch.cat([x, torch.tanh(self.first(x))], dim=1)
        h = F.silu(self.wide(h))
        inner = self.a(h).relu()
        left = torch.concat((self.c(inner), inner + torch.sin(inner)), -1)
        return torch.cat([left, h, F.softmax(self.b(h), -1)], axis=-1)


def test_concatenations(rng):
    mlp = check(SideBySide(), rng, ["Concat", "Dense", "Parallel"])
    branches = mlp.layers[-1].sequences
    assert [len(branch) for branch in branches.values()] == [2, 0, 1]


def test_many_blocks_are_no_recursion(rng):
    parts = {f"b{i}": linear(N_IN, N_IN) for i in range(300)}

    def forward(m, x):
        for name in parts:
            x = x + getattr(m, name)(x)
        return torch.tanh(x)

    module = Made(forward, **parts)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 1e-3
    mlp = fm.from_torch(module.double())
    assert len(mlp.layers) == 301


FUNCTIONS = {
    "celu": lambda x: F.celu(x, 0.5),
    "elu": lambda x: F.elu_(x, alpha=0.5),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "hardshrink": lambda x: F.hardshrink(x, 0.25),
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 2.0),
    "leaky_relu": lambda x: F.leaky_relu(x, 0.3),
    "logsigmoid": F.logsigmoid,
    "mish": F.mish,
    "relu": lambda x: x.relu(),
    "relu6": F.relu6,
    "selu": torch.selu,
    "sigmoid": lambda x: x.sigmoid_(),
    "silu": F.silu,
    "softmax": lambda x: F.softmax(x, dim=-1),
    "softplus": lambda x: F.softplus(x, beta=2),
    "softshrink": lambda x: F.softshrink(x, lambd=0.25),
    "softsign": F.softsign,
    "tanh": torch.tanh,
    "tanhshrink": F.tanhshrink,
    "threshold": lambda x: F.threshold(x, 0.1, -0.2),
    "sin": torch.sin,
    "cos": lambda x: x.cos(),
    "exp": torch.exp,
    "glu": lambda x: F.glu(x, dim=-1),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, rng):
    def forward(m, x):
        return m.last(FUNCTIONS[name](m.first(x)))

    width = 4 if name == "glu" else 8
    module = Made(forward, first=linear(N_IN, 8), last=linear(width, 2))
    # PyTorch's derivative of hardsigmoid has a sixth in float32.
    mlp = check(module, rng, rtol=1e-7 if name == "hardsigmoid" else RTOL)
    if name == "glu":
        assert mlp.layers[1] == fm.GLU()
    else:
        function = mlp.layers[0].activation
        assert name == (function if isinstance(function, str) else function.name)


SAME = {
    "flatten": lambda x: torch.flatten(x, 1),
    "method": lambda x: x.flatten(start_dim=1),
    "view": lambda x: x.view(x.size(0), -1),
    "reshape": lambda x: x.reshape(x.shape[0], N_IN),
    "size": lambda x: x.reshape((x.size()[0], -1)),
    "known": lambda x: x.view(-1, N_IN).contiguous(),
    "clone": lambda x: x.clone(),
}


@pytest.mark.parametrize("name", SAME)
def test_calls_that_keep_rows(name, rng):
    check(Made(lambda m, x: m.a(SAME[name](x)), a=linear(N_IN, 2)), rng, ["Dense"])


def test_functional_linear_and_constants(rng):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, N_IN))
            self.last = linear(3, 2)

        def forward(self, x, scale=None, *, deep: bool = True):
            x = F.linear(x, self.weight)
            self.seen = x
            if deep:
                x = F.linear(x.tanh(), self.last.weight, bias=self.last.bias)
            return x if scale is None else x * scale

    module = Own()
    check(module, rng, ["Dense", "Dense"])
    assert isinstance(module.seen, torch.Tensor)  # of the call, not of the conversion


def test_frozen_parameters_stay_frozen():
    module = Plain()
    module.fc1.requires_grad_(False)
    assert fm.from_torch(module).frozen == ("0.weight", "0.bias")
    own = Made(
        lambda m, x: F.linear(x, m.weight), weight=nn.Parameter(torch.ones(2, 2))
    )
    own.weight.requires_grad_(False)
    assert fm.from_torch(own).frozen == ("0.weight",)


def test_our_own_modules_inside_another_one(rng):
    layers = [N_IN, fm.Standardise(), fm.Scale(), 4, fm.GLU("silu"), fm.Residual([2])]
    inner = fm.MLP(layers, dtype="float64", seed=0)
    inner.adapt(rng.standard_normal((20, N_IN)) * 3 + 1)
    module = Made(lambda m, x: torch.tanh(m.net(x)), net=inner.to_torch())
    mlp = check(module, rng)
    assert mlp.layers[:-1] == inner.layers


def test_it_trains_like_the_module(rng):
    module = Nested().double()
    mlp = fm.from_torch(module)
    theirs = torch.optim.SGD(module.parameters(), lr=1e-2)
    # The projection's missing bias is one of zeros here, which stays so.
    mlp.freeze(*[n for n in mlp.named_parameters() if n.endswith("projection.bias")])
    ours = fm.SGD(1e-2)
    for _ in range(5):
        x, y = rng.standard_normal((8, N_IN)), rng.standard_normal((8, 2))
        theirs.zero_grad()
        F.mse_loss(module(torch.tensor(x)), torch.tensor(y)).backward()
        theirs.step()
        mlp.train_step(x, y, fm.MSE(), ours)
    y = module(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(mlp(x), y, rtol=1e-10, atol=1e-10)  # five steps


# Refusals -----------------------------------------------------------------------------


def two(function, **parts):
    """Return a module with two linear layers that keep the width."""
    pair = {"a": linear(N_IN, N_IN), "b": linear(N_IN, N_IN)}
    return lambda: Made(function, **{**pair, **parts})


def if_positive(m, x):
    return m.a(x) if x.sum() > 0 else m.b(x)


def one_in_training(m, x):
    return m.a(x) if m.training else m.b(m.a(x))


def dense_net(m, x):
    first = m.a(x)
    second = m.b(first)
    return first.relu() + torch.tanh(second + x)


def overwritten(m, x):
    h = m.a(x)
    return h + m.b(F.relu(h, inplace=True))


def overwritten_view(m, x):
    h = m.a(x)
    flat = h.flatten(1)
    h = m.b(h.relu_())
    return h + flat


def unused(m, x):
    h = m.a(x)
    F.relu(h, inplace=True)
    return m.b(h)


def hooked():
    module = Made(lambda m, x: m.inner(x), inner=Plain())
    module.inner.register_forward_hook(lambda m, args, out: 2 * out)
    return module


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = linear(N_IN, 2)

    def forward(self, x, other):
        return self.a(x) + other


REFUSED = {
    "control flow": (two(if_positive), "cannot trace.*control flow"),
    "mode": (two(one_in_training), "other calls in training"),
    "called twice": (
        two(lambda m, x: m.a(F.relu(m.a(x)))),
        "steps a and a_1 call the same module a.*deepcopy",
    ),
    "block called twice": (
        two(lambda m, x: m.c(m.c(x)), c=Block(N_IN)),
        r"call the same module c\.norm",
    ),
    "sequence called twice": (
        two(lambda m, x: m.c(m.c(x)), c=nn.Sequential(linear(N_IN, N_IN))),
        "call the same module c,",
    ),
    "projection called twice": (
        two(
            lambda m, x: m.p(x) + m.r(m.p(x) + m.q(x).relu()),
            p=linear(N_IN, 4),
            q=linear(N_IN, 4),
            r=linear(4, 4),
        ),
        "call the same module p,",
    ),
    "shared parameter": (
        two(lambda m, x: F.linear(m.a(x), m.a.weight)),
        "step linear shares its parameters with module a",
    ),
    "product": (two(lambda m, x: m.a(x) * m.b(x)), r"step mul \(.*\) calls mul"),
    "rows": (
        two(lambda m, x: torch.cat([m.a(x), m.b(x)])),
        "step cat .* must concatenate columns, with dim=-1, not 0",
    ),
    "one part": (two(lambda m, x: torch.cat([m.a(x)], 1)), "at least two tensors"),
    "number": (two(lambda m, x: m.a(x) + 1), "step add .* it adds a number"),
    "weighted sum": (
        two(lambda m, x: torch.add(x, m.a(x), alpha=2)),
        "step add .* must add two tensors",
    ),
    "two branches": (
        two(lambda m, x: m.a(x).relu() + m.b(x).tanh()),
        "must add the result of some steps to their input or",
    ),
    "twice itself": (two(lambda m, x: x + x), "must add the result of some steps"),
    "odd branches": (two(dense_net), "must add the result|must be part of one branch"),
    "parameter": (
        two(lambda m, x: m.a(x) + m.c, c=nn.Parameter(torch.ones(N_IN))),
        "uses c, a parameter or buffer, outside of a layer",
    ),
    "no parameter": (
        two(lambda m, x: F.linear(x, m.a.weight.relu())),
        "must have a parameter of the module as its weight",
    ),
    "overwritten": (two(overwritten), "overwrites a, which step add uses afterwards"),
    "overwritten view": (
        two(overwritten_view),
        "step relu_ .*overwrites flatten, which step add uses afterwards",
    ),
    "unused": (two(unused), "step relu .* overwrites its input, and the result is not"),
    "unused module": (
        two(lambda m, x: (m.c(h := m.a(x)), m.b(h))[1], c=nn.ReLU(inplace=True)),
        "step c .* overwrites its input, and the result is not used",
    ),
    "always dropped": (
        two(lambda m, x: F.dropout(m.a(x), 0.5)),
        "step dropout .* drops elements at inference as well",
    ),
    "flatten": (two(lambda m, x: m.a(x).flatten()), "step flatten .*start_dim=0"),
    "view": (two(lambda m, x: m.a(x).view(3, -1)), "step view .* must keep the rows"),
    "view of another width": (
        two(lambda m, x: m.a(x).view(-1, 3)),
        "step view needs inputs of width 3",
    ),
    "axis": (two(lambda m, x: m.a(x).softmax(0)), "step softmax must have dim=-1"),
    "log softmax": (
        two(lambda m, x: F.log_softmax(m.a(x), -1)),
        "step log_softmax has no counterpart .*fm.CrossEntropy",
    ),
    "constant": (
        two(lambda m, x: F.leaky_relu(m.a(x), -0.2)),
        r"step leaky_relu: slope must be .*-0\.2",
    ),
    "layer norm": (
        two(lambda m, x: F.layer_norm(m.a(x), (N_IN,))),
        "step layer_norm .* calls layer_norm in a way that has no counterpart",
    ),
    "module": (
        two(lambda m, x: m.c(m.a(x)), c=nn.RReLU()),
        r"module c \(RReLU\) has no counterpart",
    ),
    "widths": (
        two(lambda m, x: m.c(m.a(x)), c=linear(3, 1)),
        r"module c \(Linear\) needs inputs of width 3",
    ),
    "projection of one width": (
        two(lambda m, x: m.a(x) + m.b(x).tanh()),
        "must not have a projection",
    ),
    "two inputs": (Pair, r"takes one tensor and returns one .* got 2 inputs"),
    "two outputs": (two(lambda m, x: (m.a(x), m.b(x))), "returns one tensor"),
    "no layer": (two(lambda m, x: x), "must have a layer with parameters"),
    "hooks": (hooked, r"module inner \(Plain\) has forward hooks"),
    "function": (
        two(lambda m, x: m.a(x).cumsum(1)),
        "calls cumsum in a way that has no counterpart",
    ),
    "index": (
        two(lambda m, x: operator.getitem(m.a(x), 0)),
        "calls getitem in a way that has no counterpart",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_the_step(case):
    make, words = REFUSED[case]
    module = make()
    with pytest.raises((TypeError, ValueError), match=words) as info:
        fm.from_torch(module)
    assert str(info.value).startswith(("the module (", "module ", "source "))
