"""Derivatives of each row, compared with differences, autograd, and each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from helpers import SEED, TOLERANCE, assert_threaded, thread_counts

ELEMENTWISE = [name for name in fm.ACTIVATIONS if name != "softmax"]
PIECEWISE_LINEAR = (
    *("identity", "relu", "relu6", "leaky_relu", "threshold", "hardsigmoid"),
    *("hardtanh", "softshrink", "hardshrink"),
)

# Central differences in float64, relative to the largest element.
DIFFERENCE_RTOL = TOLERANCE["finite_difference"].of(np.float64)
STEP = 1e-5
# For two ways of computing the same quantity in one dtype.
SAME = TOLERANCE["network"]


def close(a: np.ndarray, b: np.ndarray, tolerance: float) -> None:
    assert a.shape == b.shape
    np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(1, abs(b).max()))


def network(
    layers: Iterable[Any], dtype: str = "float64", seed: int = SEED, **options: Any
) -> fm.MLP:
    """A network with random parameters and running statistics."""
    mlp = fm.MLP(layers, dtype=dtype, seed=seed, **options)
    rng = np.random.default_rng(seed)
    mlp.params[:] = rng.standard_normal(mlp.n_params) * 0.5
    mlp.buffers[:] = rng.uniform(0.5, 1.5, mlp.buffers.size)
    return mlp


def inputs(mlp: fm.MLP, rows: int, seed: int = SEED) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((rows, mlp.n_in))
    return x.astype(mlp.dtype)


def cube(z: np.ndarray) -> np.ndarray:
    return z**3


def cube_derivative(z: np.ndarray) -> np.ndarray:
    return 3 * z**2


CUSTOM = fm.Activation(cube, cube_derivative)

# At least one network for each kind of layer in each position.
NETWORKS: dict[str, list[Any]] = {
    "one dense": [3, 2],
    "no bias": [3, fm.Dense(4, "tanh", bias=False), fm.Dense(2, bias=False)],
    "wide input": [40, 5, 2],
    "wide output": [2, 5, 40],
    "relu back": [
        9,
        fm.Dense(37, "relu"),
        fm.Residual([fm.Dense(37, "relu"), fm.Dense(37, "relu")]),
        fm.Dense(35, "relu"),
        7,
    ],
    "relu forward": [
        7,
        fm.Dense(37, "relu"),
        fm.Dense(35, "relu"),
        fm.Residual([fm.Dense(35, "relu"), fm.Dense(37, "relu")]),
        fm.Activation("relu"),
        19,
    ],
    "activations": [4, 3, fm.Activation("sin"), 4, fm.Activation("gelu"), 2],
    "dropout": [4, fm.Dropout(0.5), 5, fm.Dropout(0.2), 3, fm.Dropout(0.1)],
    "layer_norm first": [4, fm.LayerNorm(), 5, 2],
    "layer_norm": [4, 5, fm.LayerNorm(), fm.Activation("tanh"), 3, fm.LayerNorm()],
    "layer_norm plain": [4, 5, fm.LayerNorm(affine=False), 3],
    "layer_norm only": [4, fm.LayerNorm(eps=0.1)],
    "rms_norm first": [4, fm.RMSNorm(), 5, 2],
    "rms_norm": [4, 5, fm.RMSNorm(), fm.Activation("tanh"), 3, fm.RMSNorm()],
    "rms_norm plain": [4, 5, fm.RMSNorm(affine=False), 3],
    "rms_norm only": [4, fm.RMSNorm(eps=0.1)],
    "rms_norm in a block": [4, fm.Residual([fm.RMSNorm(), 6, fm.RMSNorm(), 4]), 2],
    "batch_norm first": [4, fm.BatchNorm(), 5, 2],
    "batch_norm": [4, 5, fm.BatchNorm(), fm.Activation("gelu"), 3, fm.BatchNorm()],
    "batch_norm plain": [4, 5, fm.BatchNorm(affine=False), 3],
    "residual": [4, fm.Residual([4, 4]), 2],
    "projection": [4, fm.Residual([6, fm.LayerNorm(), 3]), 2],
    "nested": [
        4,
        5,
        fm.Residual(
            [fm.LayerNorm(), 5, fm.Residual([5, fm.Dropout(0.1), fm.BatchNorm()]), 5]
        ),
        fm.Residual([fm.Residual([fm.Dropout(0.3)]), 7]),
        2,
    ],
}


def all_networks() -> list[Any]:
    found = []
    for name, layers in NETWORKS.items():
        for activation in ("tanh", "softplus"):
            mlp = network(layers, activation=activation)
            found.append(pytest.param(mlp, id=f"{name}, {activation}"))
    for name in fm.ACTIVATIONS:
        hidden = network([3, 7, 5, 2], activation=name)
        found.append(pytest.param(hidden, id=f"hidden {name}"))
        out = network([4, 5, 3], activation="tanh", output_activation=name)
        found.append(pytest.param(out, id=f"output {name}"))
    return found


def random_layers(rng: np.random.Generator, depth: int = 0) -> list[Any]:
    layers: list[Any] = []
    for _ in range(rng.integers(1, 4)):
        kind = rng.integers(0, 6 if depth < 2 else 5)
        activation = str(rng.choice(fm.ACTIVATIONS))
        affine = bool(rng.integers(2))
        if kind <= 1:
            width = int(rng.integers(1, 9))
            layers.append(fm.Dense(width, activation, bias=affine))
        elif kind == 2:
            norm = fm.RMSNorm if rng.integers(2) else fm.LayerNorm
            layers.append(norm(eps=1e-2, affine=affine))
        elif kind == 3:
            layers.append(fm.BatchNorm(affine=affine))
        elif kind == 4:
            layers.append(fm.Dropout(0.3) if affine else fm.Activation(activation))
        else:
            layers.append(fm.Residual(random_layers(rng, depth + 1)))
    return layers


def random_networks(count: int) -> Iterable[fm.MLP]:
    rng = np.random.default_rng(SEED)
    for seed in range(count):
        layers = random_layers(rng)
        yield network([int(rng.integers(1, 6)), *layers], seed=seed)


def differences(f: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> np.ndarray:
    """d f / d x of rows; the last axis is that of the inputs."""
    columns = []
    for i in range(x.shape[1]):
        e = np.zeros(x.shape[1])
        e[i] = STEP
        columns.append((f(x + e) - f(x - e)) / (2 * STEP))
    return np.stack(columns, axis=-1)


# Against differences ----------------------------------------------------------------


def check_first_order(mlp: fm.MLP) -> None:
    x = inputs(mlp, 4)
    j = mlp.jacobian(x)
    close(j, differences(mlp.predict, x), DIFFERENCE_RTOL)

    v = inputs(mlp, 4, seed=1)
    y, dy = mlp.jvp(x, v)
    assert y.tobytes() == mlp(x).tobytes()
    close(dy, np.einsum("boi,bi->bo", j, v), SAME.of(np.float64))

    of_params = mlp.param_jacobian(x)
    assert of_params.shape == (4, mlp.n_out, mlp.n_params)
    for b, o in np.ndindex(4, mlp.n_out):
        one = np.zeros((1, mlp.n_out))
        one[0, o] = 1
        _, dx, grads = mlp.vjp(x[b : b + 1], one)
        close(j[b, o], dx[0], SAME.of(np.float64))
        if mlp.n_params:
            close(of_params[b, o], grads, SAME.of(np.float64))


def check_second_order(mlp: fm.MLP) -> None:
    x, v = inputs(mlp, 4), inputs(mlp, 4, seed=1)
    weights = np.random.default_rng(2).standard_normal(mlp.n_out)

    def gradient(x: np.ndarray) -> np.ndarray:
        return np.einsum("boi,o->bi", mlp.jacobian(x), weights)

    h = mlp.hessian(x, weights)
    close(h, differences(gradient, x), DIFFERENCE_RTOL)
    close(h, np.swapaxes(h, 1, 2), SAME.of(np.float64))
    product = np.einsum("bij,bj->bi", h, v)
    close(mlp.hvp(x, v, weights), product, SAME.of(np.float64))


@pytest.mark.parametrize("mlp", all_networks())
def test_first_order(mlp: fm.MLP) -> None:
    check_first_order(mlp)


@pytest.mark.parametrize("mlp", all_networks())
def test_second_order(mlp: fm.MLP) -> None:
    check_second_order(mlp)


def test_random_networks() -> None:
    for mlp in random_networks(60):
        check_first_order(mlp)
        check_second_order(mlp)


def test_param_jacobian_is_that_of_differences() -> None:
    mlp = network(NETWORKS["nested"], activation="tanh")
    x = inputs(mlp, 3)
    j = mlp.param_jacobian(x)
    start = mlp.params.copy()

    def outputs(params: np.ndarray) -> np.ndarray:
        mlp.params[:] = params
        y = mlp(x)
        mlp.params[:] = start
        return y

    for p in range(mlp.n_params):
        e = np.zeros(mlp.n_params)
        e[p] = STEP
        slope = (outputs(start + e) - outputs(start - e)) / (2 * STEP)
        close(j[:, :, p], slope, DIFFERENCE_RTOL)


@pytest.mark.parametrize("activation", PIECEWISE_LINEAR)
def test_second_derivatives_of_straight_pieces_are_zero(activation: str) -> None:
    mlp = network([3, 8, fm.Residual([8]), 2], activation=activation)
    assert not mlp.hessian(inputs(mlp, 5), 1).any()


def test_custom_activation() -> None:
    ours = network([3, 6, CUSTOM, 2], activation="tanh")
    check_first_order(ours)
    x = inputs(ours, 4)
    for call in (lambda: ours.hessian(x, 0), lambda: ours.hvp(x, x, 0)):
        with pytest.raises(ValueError, match="no second derivative"):
            call()


def test_exceptions_of_custom_activations_propagate() -> None:
    def broken(z: np.ndarray) -> np.ndarray:
        raise LookupError("broken")

    mlp = network([3, fm.Activation(cube, broken), 2])
    with pytest.raises(LookupError, match="broken"):
        mlp.jacobian(inputs(mlp, 2))
    assert mlp(inputs(mlp, 2)).shape == (2, 2)


def test_float32_is_close_to_float64(rng: np.random.Generator) -> None:
    exact = network([6, 32, fm.LayerNorm(), 32, 3], activation="tanh")
    rounded = network([6, 32, fm.LayerNorm(), 32, 3], "float32", activation="tanh")
    exact.params[:] = rounded.params
    x = rng.standard_normal((50, 6)).astype(np.float32)
    tolerance = SAME.of(np.float32)
    close(rounded.jacobian(x), exact.jacobian(x), tolerance)
    close(rounded.hessian(x, 1), exact.hessian(x, 1), tolerance)
    close(rounded.param_jacobian(x), exact.param_jacobian(x), tolerance)


# Gradients of samples ---------------------------------------------------------------

LOSSES: dict[str, Callable[..., Any]] = {
    "mse": fm.MSE,
    "mae": fm.MAE,
    "huber": lambda **kind: fm.Huber(0.7, **kind),
    "pseudo_huber": lambda **kind: fm.PseudoHuber(0.7, **kind),
    "cross_entropy": fm.CrossEntropy,
    "binary_cross_entropy": lambda **kind: fm.BinaryCrossEntropy(
        pos_weight=3.0, **kind
    ),
    "poisson": fm.Poisson,
    "quantile": lambda **kind: fm.Quantile(0.3, **kind),
    "gaussian_nll": fm.GaussianNLL,
}


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_per_sample_grads_are_those_of_single_rows(name: str, reduction: str) -> None:
    loss = LOSSES[name](reduction=reduction)
    mlp = network(NETWORKS["nested"], activation="gelu")
    rng = np.random.default_rng(SEED)
    x, w = inputs(mlp, 5), rng.uniform(0.1, 2, 5)
    y = rng.uniform(size=(5, 1 if name == "gaussian_nll" else 2))
    if name == "cross_entropy":
        y /= y.sum(axis=1, keepdims=True)
    grads = mlp.per_sample_grads(x, y, loss)
    for b in range(5):
        _, one = mlp.value_and_grad(x[b : b + 1], y[b : b + 1], loss)
        close(grads[b], one, SAME.of(np.float64))
    weighted = mlp.per_sample_grads(x, y, loss, w)
    close(weighted, w[:, np.newaxis] * grads, SAME.of(np.float64))
    _, whole = mlp.value_and_grad(x, y, loss, w)
    divisor = w.sum() if reduction == "mean" else 1
    close(weighted.sum(axis=0) / divisor, whole, SAME.of(np.float64))


def test_per_sample_grads_with_labels() -> None:
    mlp = network([4, 8, 3], activation="tanh")
    x, y = inputs(mlp, 6), np.array([0, 2, 1, 1, 0, 2])
    loss = fm.CrossEntropy()
    grads = mlp.per_sample_grads(x, y, loss)
    close(grads.mean(axis=0), mlp.value_and_grad(x, y, loss)[1], SAME.of(np.float64))
    assert mlp.per_sample_grads(x, y.astype(np.int16), loss).tobytes() == (
        grads.tobytes()
    )


def test_per_sample_grads_with_weights_of_classes() -> None:
    mlp = network([4, 8, 3], activation="tanh")
    x, y = inputs(mlp, 6), np.array([0, 2, 1, 1, 0, 2])
    of_class = np.array([0.5, 2.0, 1.0])
    loss = fm.CrossEntropy(class_weight=of_class, label_smoothing=0.1)
    total = mlp.per_sample_grads(x, y, loss).sum(axis=0)
    _, whole = mlp.value_and_grad(x, y, loss)
    close(total / of_class[y].sum(), whole, SAME.of(np.float64))


def test_per_sample_grads_of_action_values() -> None:
    mlp = network([4, 8, 3], activation="tanh")
    x, y = inputs(mlp, 6), (np.array([0, 2, 1, 1, 0, 2]), np.linspace(-1, 1, 6))
    loss = fm.ActionValue(fm.Huber())
    grads = mlp.per_sample_grads(x, y, loss)
    close(grads.mean(axis=0), mlp.value_and_grad(x, y, loss)[1], SAME.of(np.float64))


# Against PyTorch --------------------------------------------------------------------


def torch_network(torch: Any, mlp: fm.MLP) -> Any:
    """The same network as a PyTorch module, with the parameters of state_dict."""
    nn = torch.nn

    class Residual(nn.Module):
        def __init__(self, body: Any, projection: Any) -> None:
            super().__init__()
            self.body = body
            self.projection = projection

        def forward(self, x: Any) -> Any:
            other = x if self.projection is None else self.projection(x)
            return self.body(x) + other

    functions = {
        "tanh": nn.Tanh(),
        "gelu": nn.GELU(),
        "silu": nn.SiLU(),
        "mish": nn.Mish(),
        "sigmoid": nn.Sigmoid(),
        "softplus": nn.Softplus(),
        "softmax": nn.Softmax(dim=-1),
    }

    def sequence(layers: Iterable[Any], width: int) -> tuple[Any, int]:
        modules = []
        for layer in layers:
            if isinstance(layer, fm.Dense):
                modules.append(nn.Linear(width, layer.n, layer.bias))
                width = layer.n
                if layer.activation != "identity":
                    modules.append(functions[layer.activation])
            elif isinstance(layer, fm.Activation):
                modules.append(functions[layer.function])
            elif isinstance(layer, fm.LayerNorm):
                modules.append(nn.LayerNorm(width, layer.eps))
            elif isinstance(layer, fm.RMSNorm):
                modules.append(nn.RMSNorm(width, layer.eps))
            elif isinstance(layer, fm.BatchNorm):
                modules.append(nn.BatchNorm1d(width, layer.eps))
            elif isinstance(layer, fm.Dropout):
                modules.append(nn.Dropout(layer.p))
            else:
                body, n = sequence(layer.layers, width)
                other = nn.Linear(width, n) if n != width else None
                modules.append(Residual(body, other))
                width = n
        return nn.Sequential(*modules), width

    module, _ = sequence(mlp.layers, mlp.n_in)
    module = module.double().eval()
    state = {name: torch.tensor(a) for name, a in mlp.state_dict().items()}
    module.load_state_dict(state)
    return module


# torch.func imports modules that torch itself deprecates.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "layers",
    [
        [4, fm.Dense(6, "tanh"), fm.Dense(5, "gelu"), fm.Dense(4, "mish"), 3],
        [4, 6, fm.LayerNorm(), fm.Activation("silu"), fm.BatchNorm(), 3],
        [4, 6, fm.Residual([fm.LayerNorm(), 6, fm.Dropout(0.5), 6]), 3],
        [4, fm.RMSNorm(), 6, fm.Residual([6, fm.RMSNorm()]), fm.Activation("gelu"), 3],
        [4, 6, fm.Residual([5, fm.Residual([5]), 7]), fm.Dense(3, "softmax")],
    ],
    ids=["dense", "norms", "residual", "rms norm", "nested"],
)
def test_torch_agrees(layers: list[Any]) -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    func = torch.func
    mlp = network(layers, activation="softplus")
    module = torch_network(torch, mlp)
    x = inputs(mlp, 5)
    tx = torch.tensor(x)
    tolerance = SAME.of(np.float64)

    def one(row: Any) -> Any:
        return module(row[None])[0]

    close(mlp(x), module(tx).detach().numpy(), tolerance)
    expected = func.vmap(func.jacrev(one))(tx)
    close(mlp.jacobian(x), expected.detach().numpy(), tolerance)
    expected = func.vmap(func.hessian(lambda row: one(row)[1]))(tx)
    close(mlp.hessian(x, 1), expected.detach().numpy(), tolerance)

    # For parameters, compare by name, as torch's weights are transposed.
    parameters = dict(module.named_parameters())

    def of_parameters(values: Any, row: Any) -> Any:
        return func.functional_call(module, values, (row[None],))[0]

    theirs = func.vmap(func.jacrev(of_parameters), (None, 0))(parameters, tx)
    j = mlp.param_jacobian(x)
    views = mlp.named_parameters()
    assert set(views) == set(theirs)
    for name, view in views.items():
        start = (view.ctypes.data - mlp.params.ctypes.data) // view.itemsize
        block = j[:, :, start : start + view.size].reshape(*j.shape[:2], *view.shape)
        expected = theirs[name].detach().numpy()
        if view.ndim == 2:
            expected = np.swapaxes(expected, 2, 3)
        close(block, expected, tolerance)


# The same bits ----------------------------------------------------------------------


def results(mlp: fm.MLP, x: np.ndarray) -> dict[str, np.ndarray]:
    weights = np.linspace(-1, 1, mlp.n_out).astype(mlp.dtype)
    v = x[:, ::-1].copy()
    y, dy = mlp.jvp(x, v)
    target = np.zeros((len(x), mlp.n_out), mlp.dtype)
    return {
        "jacobian": mlp.jacobian(x),
        "y": y,
        "dy": dy,
        "hvp": mlp.hvp(x, v, weights),
        "hessian": mlp.hessian(x, weights),
        "param_jacobian": mlp.param_jacobian(x),
        "per_sample_grads": mlp.per_sample_grads(x, target, fm.MSE()),
    }


def bits_of(found: dict[str, np.ndarray], rows: slice) -> dict[str, bytes]:
    return {name: array[rows].tobytes() for name, array in found.items()}


# Both modes of the Jacobian, all kinds of layers.
SHAPES: dict[str, list[Any]] = {
    "back": [17, fm.LayerNorm(), 48, fm.BatchNorm(), fm.Residual([48, 48]), 5],
    "forward": [3, 65, fm.LayerNorm(), fm.Dense(64, "gelu"), fm.Dense(60, "softmax")],
    "relu back": NETWORKS["relu back"],
    "relu forward": NETWORKS["relu forward"],
    "identity": [7, fm.Residual([9, 12]), fm.Activation("sin"), 9],
}
# Numbers of rows that are enough for several threads, for a Jacobian and for larger
# results.
MANY, SOME, FEW = 1500, 300, 20


@pytest.mark.parametrize("layers", SHAPES.values(), ids=SHAPES)
def test_bits_on_every_isa_and_number_of_threads(
    layers: list[Any], dtype: type
) -> None:
    mlp = network(layers, np.dtype(dtype).name, activation="tanh")
    x = inputs(mlp, MANY)
    expected = None
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            for threads in thread_counts(isa):
                with fm.threads(threads):
                    found = bits_of(results(mlp, x[:FEW]), slice(None))
                    found["jacobian"] = mlp.jacobian(x).tobytes()
                    found["hessian"] = mlp.hessian(x[:SOME], 2).tobytes()
                expected = expected or found
                assert found == expected, (isa, threads)


def test_threads_share_the_work() -> None:
    """The sizes of the test above are enough for more than one thread."""
    with fm.threads(3):
        back = 5 * (17 * 48 + 2 * 48 * 48)
        assert_threaded(2.0 * MANY * back, MANY)
        forward = 3 * (65 * 64 + 64 * 60)
        assert_threaded(2.0 * MANY * forward, MANY)
        second = 17 * 2 * (17 * 48 + 2 * 48 * 48)
        assert_threaded(2.0 * SOME * second, SOME)


@pytest.mark.parametrize("layers", SHAPES.values(), ids=SHAPES)
def test_bits_do_not_depend_on_the_place_of_a_row(layers: list[Any]) -> None:
    mlp = network(layers, "float32", activation="gelu")
    x = inputs(mlp, 61)
    everything = results(mlp, x)
    for rows in (slice(0, 1), slice(60, 61), slice(7, 20)):
        assert bits_of(results(mlp, x[rows]), slice(None)) == bits_of(everything, rows)


def test_bits_where_a_row_has_more_directions_than_fit_at_once() -> None:
    """Directions are split into parts, for different threads if there are few rows."""
    mlp = network([150, 700, 300, 130], activation="tanh")
    x = inputs(mlp, 2)
    found = []
    for threads in (1, 2, 5):
        with fm.threads(threads):
            found.append((mlp.jacobian(x).tobytes(), mlp.hessian(x, 3).tobytes()))
    assert found[1:] == found[:-1]
    j = mlp.jacobian(x)
    seeds = np.eye(130)
    for o in (0, 64, 129):
        dx = mlp.vjp(x, np.tile(seeds[o], (2, 1)))[1]
        close(j[:, o], dx, SAME.of(np.float64))
    h = mlp.hessian(x, 3)
    for i in (0, 77, 149):
        v = np.zeros_like(x)
        v[:, i] = 1
        close(h[:, i], mlp.hvp(x, v, 3), SAME.of(np.float64))


# Shapes and bad input ---------------------------------------------------------------


def test_one_sample() -> None:
    mlp = network([4, 6, 3], activation="tanh")
    x = inputs(mlp, 3)
    row = x[0]
    assert mlp.jacobian(row).tobytes() == mlp.jacobian(x)[0].tobytes()
    assert mlp.jacobian(row).shape == (3, 4)
    assert mlp.hessian(row, 2).shape == (4, 4)
    assert mlp.hvp(row, row, 2).shape == (4,)
    assert mlp.param_jacobian(row).shape == (3, mlp.n_params)
    y, dy = mlp.jvp(row, row)
    assert y.shape == dy.shape == (3,)


def test_scalar_outputs_need_no_choice() -> None:
    mlp = network([4, 6, 1], activation="tanh")
    x = inputs(mlp, 3)
    assert mlp.hessian(x).tobytes() == mlp.hessian(x, 0).tobytes()
    assert mlp.hvp(x, x).tobytes() == mlp.hvp(x, x, [1.0]).tobytes()


def test_inputs_are_converted() -> None:
    mlp = network([4, 6, 3], activation="tanh")
    x = inputs(mlp, 5)
    x = x.astype(np.float32).astype(np.float64)
    other = np.asfortranarray(x.astype(np.float32))
    assert mlp.jacobian(other).tobytes() == mlp.jacobian(x).tobytes()
    assert mlp.param_jacobian(x.tolist()).tobytes() == mlp.param_jacobian(x).tobytes()
    assert mlp.jvp(other, other)[1].tobytes() == mlp.jvp(x, x)[1].tobytes()
    assert mlp.hvp(other, x, 0).tobytes() == mlp.hvp(x, x, 0).tobytes()
    assert mlp.hessian(other, 0).tobytes() == mlp.hessian(x, 0).tobytes()


def test_a_network_without_parameters() -> None:
    mlp = fm.MLP([3, fm.Activation("tanh")])
    x = inputs(mlp, 2)
    assert mlp.param_jacobian(x).shape == (2, 3, 0)
    assert mlp.jacobian(x).shape == (2, 3, 3)


def test_nothing_is_changed() -> None:
    mlp = network(NETWORKS["batch_norm"], activation="tanh")
    before = mlp.params.tobytes(), mlp.buffers.tobytes()
    results(mlp, inputs(mlp, 9))
    assert before == (mlp.params.tobytes(), mlp.buffers.tobytes())


BAD_X = [
    (np.zeros((2, 5)), ValueError, "x must have shape"),
    (np.zeros((0, 4)), ValueError, "at least one row"),
    (np.zeros((2, 2, 4)), ValueError, "x must have shape"),
    (np.array([["a"] * 4]), TypeError, "x"),
    (np.zeros((2, 4), complex), TypeError, "x"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_X)
def test_bad_x(x: Any, error: type[Exception], message: str) -> None:
    mlp = network([4, 6, 1])
    calls = [
        lambda: mlp.jacobian(x),
        lambda: mlp.jvp(x, x),
        lambda: mlp.hvp(x, x),
        lambda: mlp.hessian(x),
        lambda: mlp.param_jacobian(x),
        lambda: mlp.per_sample_grads(x, np.zeros((2, 1)), fm.MSE()),
    ]
    for call in calls:
        with pytest.raises(error, match=message):
            call()


def test_bad_directions_and_outputs() -> None:
    mlp = network([4, 6, 3])
    x = np.zeros((2, 4))
    for v in (np.zeros((3, 4)), np.zeros(4), np.zeros((2, 3))):
        with pytest.raises(ValueError, match="v must have the shape of x"):
            mlp.jvp(x, v)
        with pytest.raises(ValueError, match="v must have the shape of x"):
            mlp.hvp(x, v, 0)
    refused: list[tuple[Any, type[Exception], str]] = [
        (None, ValueError, "output must be given"),
        (3, ValueError, "index from 0 to 2"),
        (-1, ValueError, "index from 0 to 2"),
        (True, TypeError, "index of an output"),
        ([1.0, 2.0], ValueError, r"shape \(3,\)"),
        ("first", TypeError, "output"),
    ]
    for output, error, message in refused:
        with pytest.raises(error, match=message):
            mlp.hessian(x, output)


def test_bad_losses_for_samples() -> None:
    mlp = network([4, 6, 3])
    x = np.zeros((2, 4))
    with pytest.raises(TypeError, match="loss"):
        mlp.per_sample_grads(x, np.zeros((2, 3)), "mse")  # type: ignore[arg-type]
    function = fm.losses.as_loss(lambda pred, target: (0.0, pred))
    with pytest.raises(TypeError, match="loss must be one of fastmlp's own"):
        mlp.per_sample_grads(x, np.zeros((2, 3)), function)
    with pytest.raises(ValueError, match="out of range"):
        mlp.per_sample_grads(x, np.array([0, 3]), fm.CrossEntropy())
    with pytest.raises(ValueError, match="sample_weight"):
        mlp.per_sample_grads(x, np.zeros((2, 3)), fm.MSE(), np.ones(3))


# check_grad -------------------------------------------------------------------------


def test_check_grad_of_right_and_wrong_gradients() -> None:
    def f(x: np.ndarray) -> float:
        return float(np.sin(x).sum() + x[0, 0] * x[1, 1])

    def gradient(x: np.ndarray) -> np.ndarray:
        g = np.cos(x)
        g[0, 0] += x[1, 1]
        g[1, 1] += x[0, 0]
        return g

    x = np.array([[0.3, -1.2, 4.0], [2.0, 100.0, -0.1]])
    kept = x.copy()
    assert fm.check_grad(f, x, gradient) < DIFFERENCE_RTOL
    assert fm.check_grad(f, x, gradient(x)) < DIFFERENCE_RTOL
    assert fm.check_grad(lambda z: (f(z), gradient(z)), x) < DIFFERENCE_RTOL
    wrong = gradient(x)
    wrong[0, 2] *= 1.01
    assert fm.check_grad(f, x, wrong) == pytest.approx(0.01, rel=0.02)
    assert fm.check_grad(f, x, -gradient(x)) == pytest.approx(2)
    assert (x == kept).all()


def test_check_grad_of_a_network() -> None:
    mlp = network([3, 8, 2], activation="tanh")
    x, y = inputs(mlp, 6), np.zeros((6, 2))

    def loss(params: np.ndarray) -> tuple[float, np.ndarray]:
        mlp.params[:] = params
        return mlp.value_and_grad(x, y, fm.MSE())

    assert fm.check_grad(loss, mlp.params) < DIFFERENCE_RTOL
    assert fm.check_grad(loss, mlp.params, elements=5) < DIFFERENCE_RTOL


def test_check_grad_checks_the_given_number_of_elements() -> None:
    calls = []

    def f(x: np.ndarray) -> float:
        calls.append(x)
        return float(x @ x)

    x = np.arange(20.0)
    assert fm.check_grad(f, x, 2 * x, elements=3) < DIFFERENCE_RTOL
    assert len(calls) == 6


def test_check_grad_of_zeros_and_nan() -> None:
    assert fm.check_grad(lambda x: 1.0, [1.0, 2.0], np.zeros(2)) == 0
    assert np.isnan(fm.check_grad(lambda x: np.nan, [1.0], [1.0]))
    assert np.isnan(fm.check_grad(lambda x: x[0], [1.0], [np.nan]))


def test_check_grad_refuses() -> None:
    def f(x: np.ndarray) -> Any:
        return x.sum()

    ones = np.ones(2)
    refused: list[tuple[Callable[[], float], type[Exception], str]] = [
        (lambda: fm.check_grad(3, ones, ones), TypeError, "f must be callable"),
        (lambda: fm.check_grad(f, [], []), ValueError, "at least one element"),
        (lambda: fm.check_grad(f, [np.nan], [1]), ValueError, "finite"),
        (lambda: fm.check_grad(f, ones, np.ones(3)), ValueError, "shape of x"),
        (lambda: fm.check_grad(f, ones), TypeError, "pair"),
        (lambda: fm.check_grad(lambda x: x, ones, ones), TypeError, "a number"),
        (lambda: fm.check_grad(f, ones, ones, step=0), ValueError, "step"),
        (lambda: fm.check_grad(f, ones, ones, elements=0), ValueError, "elements"),
    ]
    for call, error, message in refused:
        with pytest.raises(error, match=message):
            call()
