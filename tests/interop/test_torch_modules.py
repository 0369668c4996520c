"""Models inside PyTorch: `fastmlp.MLP.as_torch_module`."""

import copy
import io
import math
import pickle
import threading

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference
from torch_cases import BOTH, N_IN, ROWS, big, close, inputs, nn, same_bits, torch

pytestmark = pytest.mark.usefixtures("quiet_torch")

forward_ad = torch.autograd.forward_ad


def bridge(dtype="float64", n_out=3, **options):
    mlp = fm.MLP([N_IN, 8, 8, n_out], activation="tanh", dtype=dtype, seed=0, **options)
    return mlp, mlp.as_torch_module()


@pytest.mark.parametrize("dtype", BOTH)
def test_a_network_between_other_modules(dtype, rng):
    # The same model twice, once with a copy in pure PyTorch.
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
    # The same holds for state dicts.
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
    # gradcheck changes the parameters in place, and these are the model's.
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))


def test_gradcheck_of_batch_statistics(rng):
    mlp = fm.MLP([4, 6, fm.BatchNorm(), 2], activation="tanh", dtype="float64", seed=0)
    module = mlp.as_torch_module()
    assert module.training
    x = inputs(rng, "float64", 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))
    module.eval()
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))


def test_only_required_gradients_are_computed(rng):
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
    # The gradient of sum() is also not contiguous: one number, broadcast.
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

    # Expected results of a copy whose draws and statistics are set explicitly.
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
        # A pass in the other mode updates statistics, or has no masks.
        module.train(not training)
        module(xs[0])
        after = mlp.buffers.copy(), mlp.core.training_state
    total = sum((y * w).sum() for y, w in zip(ys, weights, strict=True))
    total.backward()

    for y, x, (y_wanted, dx, _) in zip(ys, xs, expected, strict=True):
        np.testing.assert_array_equal(y.detach(), y_wanted)
        np.testing.assert_array_equal(x.grad, dx)
    close(module.params.grad, sum(grads for *_, grads in expected), "float64")
    # backward changes no state.
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


def test_backward_twice(rng):
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
    with pytest.raises(RuntimeError, match=r"not have second derivatives.*to_torch"):
        dx.sum().backward()
    # The same holds if another path does not depend on it, and for the parameters.
    (grads,) = torch.autograd.grad(
        module(x).square().sum(), module.params, create_graph=True
    )
    with pytest.raises(RuntimeError, match="not have second derivatives"):
        (grads.sum() + x.sum()).backward()


# PyTorch's forward mode uses the deprecated torch.jit.script.
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_forward_mode_is_refused(frozen, grad, rng):
    # The derivative is not taken to be zero if no graph is recorded.
    _, module = bridge()
    module.requires_grad_(not frozen)
    x = inputs(rng, "float64")
    with torch.set_grad_enabled(grad), forward_ad.dual_level():
        with pytest.raises(RuntimeError, match=r"not have forward-mode .*to_torch"):
            module(forward_ad.make_dual(x, torch.ones_like(x)))
        moving = forward_ad.make_dual(module.params, torch.ones_like(module.params))
        with pytest.raises(RuntimeError, match=r"not have forward-mode .*to_torch"):
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


def test_a_module_made_in_inference_mode_does_not_affect_others(rng):
    mlp = fm.MLP([N_IN, 3], dtype="float64", seed=0)
    with torch.inference_mode():
        mlp.as_torch_module()
    module = mlp.as_torch_module()
    module(inputs(rng, "float64")).sum().backward()
    assert module.params.grad.abs().sum() > 0


class OnGpu(torch.Tensor):
    """A tensor that claims to be on another device."""

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
    with pytest.raises(
        TypeError,
        match=r"must stay in the memory of the model, torch\.float32.*to_torch",
    ):
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
    with pytest.raises(RuntimeError, match="must share the memory"):
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


def test_custom_functions_work_inside_pytorch(rng):
    own = fm.Activation(lambda z: z * z, lambda z: 2 * z)
    mlp = fm.MLP([4, fm.Dense(5, "identity"), own, 2], dtype="float64", seed=0)
    module = mlp.as_torch_module()
    x = inputs(rng, "float64", 3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: module(x), (x, module.params))


@pytest.mark.parametrize("n_modules", [1, 4])
def test_threads_share_a_model(n_modules, rng):
    """Each thread gets the gradient of the call it made."""
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
