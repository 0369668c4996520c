"""Layers that are random in training: values, gradients, moments, other formats."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import fastmlp as fm
import layer_checks as checks
import numpy as np
import pytest
from fastmlp import reference

LIMIT = -1.7580993408473766  # of selu at -infinity
ALPHA_RTOL = 1e-12  # a few products and a square root in float64
PROBABILITIES = [0.05, 0.3, 0.5, 0.9]


def passed(layer: Any, x: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The output in training mode of a layer alone, and its derivative."""
    mlp = fm.MLP([x.shape[1], layer], dtype=x.dtype.name, seed=seed)
    y, dx, _ = mlp.vjp(x, np.ones_like(x), training=True)
    np.testing.assert_array_equal(mlp(x), x)
    return y, dx


@pytest.mark.parametrize("p", PROBABILITIES)
def test_alpha_dropout_is_that_of_torch(p: float) -> None:
    """Both turn x into a x + b or a constant; the masks differ."""
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    x = checks.rows(40, 30)
    y, dx = passed(fm.AlphaDropout(p), x)
    given = torch.from_numpy(x).requires_grad_()
    theirs = torch.nn.AlphaDropout(p)(given)
    theirs.sum().backward()
    found = []
    for output, slope in ((y, dx), (theirs.detach().numpy(), given.grad.numpy())):
        kept = slope != 0
        assert 0 < kept.mean() < 1
        scales = slope[kept]
        shifts = output[kept] - scales * x[kept]
        dropped = output[~kept]
        for each in (scales, shifts, dropped):
            np.testing.assert_allclose(each, each[0], rtol=0, atol=4e-15)  # of x of 4
        found.append([scales[0], shifts.mean(), dropped[0]])
    np.testing.assert_allclose(*found, rtol=ALPHA_RTOL, atol=ALPHA_RTOL)


@pytest.mark.parametrize("p", PROBABILITIES)
def test_alpha_dropout_has_the_masks_of_dropout(p: float) -> None:
    x = checks.rows(33, 7)
    _, dropped = passed(fm.Dropout(p), x)
    y, dx = passed(fm.AlphaDropout(p), x)
    a = ((1 - p) * (1 + p * LIMIT**2)) ** -0.5
    b = -a * LIMIT * p
    np.testing.assert_array_equal(dx != 0, dropped != 0)
    np.testing.assert_allclose(dx, np.where(dropped, a, 0), rtol=ALPHA_RTOL)
    np.testing.assert_allclose(
        y, a * np.where(dropped, x, LIMIT) + b, rtol=ALPHA_RTOL, atol=ALPHA_RTOL
    )


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_alpha_dropout_keeps_mean_and_variance(p: float) -> None:
    n = 1_000_000
    x = checks.rows(n // 100, 100)
    y, _ = passed(fm.AlphaDropout(p), x)
    # Six standard errors of a mean and of a variance; the kurtosis is below 3.
    assert abs(y.mean()) < 6 / n**0.5
    assert abs(y.var() - 1) < 6 * (2 / n) ** 0.5


def test_a_probability_of_zero_changes_nothing() -> None:
    x = checks.rows(9, 5)
    y, dx = passed(fm.AlphaDropout(0.0), x)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(dx, np.ones_like(x))


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_invalid_probabilities(p: float) -> None:
    with pytest.raises(ValueError, match="p must be"):
        fm.AlphaDropout(p)


def drawn(n: int, dtype: Any = np.float64, seed: int = 0) -> np.ndarray:
    """Normal numbers (n / 64, 64), as a layer of noise draws them."""
    return passed(fm.GaussianNoise(1.0), np.zeros((n // 64, 64), dtype), seed)[0]


def test_moments_of_the_normal_numbers(dtype: type) -> None:
    n = 64 * 30_000
    z = drawn(n, dtype).astype(np.float64)
    # Six standard errors of each moment of n independent normal numbers.
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 6 * (variance / n) ** 0.5, power
    deviation, kurtosis = z.std(), ((z - z.mean()) ** 4).mean() / z.var() ** 2
    assert abs(deviation - 1) < 6 * (0.5 / n) ** 0.5
    assert abs(kurtosis - 3) < 6 * (24 / n) ** 0.5
    # Shares beyond 1 to 4: erfc(k / sqrt(2)).
    for k, share in enumerate((0.3173105, 0.0455003, 0.0026998, 6.33425e-5), 1):
        error = abs((np.abs(z) > k).mean() - share)
        assert error < 6 * (share / n) ** 0.5, k


def test_the_normal_numbers_are_independent() -> None:
    n = 64 * 30_000
    z = drawn(n)
    correlations = z.T @ z / len(z) - np.eye(64)
    # Of 64 x 64 positions in a block; six standard errors, and those of the variance.
    assert np.abs(correlations).max() < 6 * (2 / len(z)) ** 0.5
    squares = z**2 - 1
    pairs = squares.T @ squares / len(z) - 2 * np.eye(64)
    off = np.abs(pairs - np.diag(np.diag(pairs)))
    assert off.max() < 6 * 2 / len(z) ** 0.5
    assert abs((z[1:] * z[:-1]).mean()) < 6 / n**0.5
    other = drawn(n, seed=1)
    assert abs((z * other).mean()) < 6 / n**0.5


def test_both_dtypes_draw_the_same_numbers() -> None:
    narrow, wide = (drawn(64 * 1000, dtype) for dtype in (np.float32, np.float64))
    # Of an angle, at most pi, times a radius of at most 6.7.
    np.testing.assert_allclose(narrow, wide, rtol=0, atol=50 * 2**-23)


@pytest.mark.parametrize("stddev", [0.0, 1e-3, 2.5])
def test_noise_is_that_of_the_reference(stddev: float) -> None:
    x = checks.rows(19, 7)
    mlp = fm.MLP([7, fm.GaussianNoise(stddev)], dtype="float64", seed=3)
    seed, passes, _ = mlp.core.training_state
    y, dx, _ = mlp.vjp(x, x, training=True)
    z = reference.normal_numbers(x.size, seed, 0xFFFFFFFE, passes, 0).reshape(x.shape)
    np.testing.assert_allclose(y, x + stddev * z, rtol=0, atol=1e-14 * (1 + stddev))
    np.testing.assert_array_equal(dx, x)


@pytest.mark.parametrize("p", [0.0, *PROBABILITIES])
def test_gaussian_dropout_multiplies(p: float) -> None:
    x = checks.rows(19, 7)
    y, dx = passed(fm.GaussianDropout(p), x)
    z, _ = passed(fm.GaussianNoise(1.0), np.zeros_like(x))
    factors = 1 + (p / (1 - p)) ** 0.5 * z
    # Sums of numbers of size 20.
    np.testing.assert_allclose(dx, factors, rtol=0, atol=20 * checks.RTOL)
    np.testing.assert_allclose(y, x * dx, rtol=checks.RTOL)


def test_noise_in_torch_has_the_same_deviation() -> None:
    torch = pytest.importorskip("torch", reason="it uses PyTorch's modules")
    x = torch.ones(1000, 1000, dtype=torch.float64)
    for layer, deviation in (
        (fm.GaussianNoise(0.25), 0.25),
        (fm.GaussianDropout(0.2), 0.5),
    ):
        module = fm.MLP([1000, layer], dtype="float64", seed=0).to_torch()
        y = module.train()(x)
        # Six standard errors for 1e6 normal numbers.
        assert abs(y.mean().item() - 1) < 6e-3 * deviation
        assert abs(y.std().item() / deviation - 1) < 6e-3 * 0.5**0.5
        assert torch.equal(module.eval()(x), x)


@pytest.mark.parametrize("value", [-0.1, float("inf"), float("nan")])
def test_invalid_deviations(value: float) -> None:
    with pytest.raises(ValueError, match="stddev must be"):
        fm.GaussianNoise(value)
    with pytest.raises(TypeError, match="stddev must be"):
        fm.GaussianNoise("1")  # type: ignore[arg-type]


LAYERS = {
    "dropout": lambda lib: lib.Dropout(0.25),
    "alpha dropout": lambda lib: lib.AlphaDropout(0.25),
    "gaussian noise": lambda lib: lib.GaussianNoise(0.25),
    "gaussian dropout": lambda lib: lib.GaussianDropout(0.25),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS)
def make(request: pytest.FixtureRequest) -> Any:
    return request.param


def network(make: Any, lib: Any = fm, dtype: str = "float64") -> Any:
    block = lib.Residual([make(lib), lib.Dense(9)])
    layers = [make(lib), lib.Dense(9, "selu"), make(lib), block, make(lib), 3]
    return lib.MLP([5, *layers], activation="selu", dtype=dtype, seed=1)


@pytest.mark.parametrize("m", [1, 2, 33])
def test_inference_is_without_it(make: Any, m: int) -> None:
    mlp = network(make)
    plain = fm.MLP([5, 9, fm.Residual([9]), 3], activation="selu", dtype="float64")
    plain.params[:] = mlp.params
    x, y = checks.rows(m, 5), checks.rows(m, 3, seed=2)
    np.testing.assert_array_equal(mlp(x), plain(x))
    np.testing.assert_array_equal(mlp.fold()(x), plain(x))
    # The two terms of a residual block's derivative may be added in another order.
    close = {"rtol": checks.RTOL, "atol": checks.RTOL}
    np.testing.assert_allclose(mlp.jacobian(x), plain.jacobian(x), **close)
    ours, theirs = (net.value_and_grad(x, y, fm.MSE()) for net in (mlp, plain))
    np.testing.assert_allclose(ours[1], theirs[1], **close)


@pytest.mark.parametrize("m", [1, 2, 33])
def test_torch_has_the_same_outputs(make: Any, m: int) -> None:
    checks.check_torch(network(make), m)


def test_training_is_that_of_the_reference(make: Any) -> None:
    checks.check_training(
        lambda lib: [4, make(lib), 7, lib.Activation("selu"), make(lib), 2]
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_same_bits_everywhere(make: Any, dtype: str) -> None:
    checks.check_same_bits(lambda: network(make, dtype=dtype))


def test_first_activations_are_found_behind_it(make: Any) -> None:
    plain = [5, fm.Dense(9, "identity"), fm.Activation("selu"), 2]
    layers = [*plain[:2], make(fm), *plain[2:]]
    ours, theirs = (fm.MLP(items, seed=3) for items in (layers, plain))
    np.testing.assert_array_equal(ours.params, theirs.params)
    with_it = [5, reference.Dense(9, "identity"), make(reference)]
    specified = reference.MLP([*with_it, reference.Activation("selu"), 2], seed=3)
    np.testing.assert_array_equal(ours.params, specified.params)


def test_files_and_pickles_keep_it(make: Any, tmp_path: Path) -> None:
    mlp = network(make)
    mlp.save(tmp_path / "model.safetensors")
    x = checks.rows(3, 5)
    loaded = fm.load(tmp_path / "model.safetensors")
    for copy in (loaded, pickle.loads(pickle.dumps(mlp)), mlp.copy()):
        assert copy.layers == mlp.layers
        wanted = mlp.copy().forward(x, training=True)
        np.testing.assert_array_equal(copy.forward(x, training=True), wanted)


def test_lsuv_leaves_it_out(make: Any) -> None:
    plain = fm.MLP([5, 9, fm.Residual([9]), 3], activation="selu", dtype="float64")
    mlp = network(make)
    plain.params[:] = mlp.params
    x = checks.rows(50, 5)
    variances = [fm.initializers.lsuv(net, x) for net in (mlp, plain)]
    assert variances[0] == variances[1]
    np.testing.assert_array_equal(mlp.params, plain.params)


def test_as_a_module_it_has_two_modes(make: Any) -> None:
    torch = pytest.importorskip("torch", reason="it uses PyTorch's modules")
    mlp = fm.MLP([5, make(fm), 3], dtype="float64", seed=0)
    module, x = mlp.as_torch_module(), checks.rows(3, 5)
    given = torch.from_numpy(x)
    assert not torch.equal(module(given), module(given))
    module.eval()
    np.testing.assert_array_equal(module(given).detach().numpy(), mlp(x))


def test_onnx(make: Any, tmp_path: Path) -> None:
    checks.check_onnx(network(make, dtype="float32"), tmp_path / "model.onnx")


def test_summaries_and_diagrams_show_it(make: Any) -> None:
    mlp = fm.MLP([5, make(fm), 3], seed=0)
    assert repr(make(fm)) in str(mlp.summary())
    drawing = str(mlp.diagram())
    assert repr(make(fm)) in drawing
    assert "stroke-dasharray" in drawing
