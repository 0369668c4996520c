"""Habits from other libraries raise errors that say what to write instead."""

import json

import fastmlp as fm
import numpy as np
import pytest

X = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("xavier_uniform", "glorot_uniform"),
        ("xavier_normal", "glorot_normal"),
        ("kaiming_uniform", "he_uniform"),
        ("Kaiming_Normal", "he_normal"),
    ],
)
def test_initialisers_by_other_names(theirs, ours):
    with pytest.raises(ValueError, match=f"^init must .*; did you mean '{ours}'"):
        fm.MLP([4, 1], init=theirs)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("swish", "silu"),
        ("logistic", "sigmoid"),
        ("linear", "identity"),
        ("ReLU", "relu"),
    ],
)
def test_activations_by_other_names(theirs, ours):
    with pytest.raises(ValueError, match=f"^activation .*; did you mean '{ours}'"):
        fm.MLP([4, 3, 1], activation=theirs)


def test_names_are_only_suggested_where_they_exist():
    # "swish" is another name for an activation, not for an initialiser.
    with pytest.raises(ValueError, match=r"got 'swish'$"):
        fm.MLP([4, 1], init="swish")


def test_activations_as_a_list():
    with pytest.raises(TypeError, match=r"^activation must be one name .* fm\.Dense\("):
        fm.MLP([4, 3, 3, 1], activation=["relu", "tanh"])


def test_dense_with_the_width_of_its_input():
    with pytest.raises(
        TypeError,
        match=r"^activation .* number of outputs, but not the number of inputs$",
    ):
        fm.Dense(4, 3)


@pytest.mark.parametrize("layer", [fm.LayerNorm, fm.RMSNorm, fm.BatchNorm])
def test_normalisations_with_a_width(layer):
    # It would be taken for eps, which is added to variances.
    with pytest.raises(
        ValueError, match=rf"^eps .*, got 64; .* fm\.{layer.__name__}\("
    ):
        layer(64)


def test_epsilon_greedy_with_a_seed():
    with pytest.raises(TypeError, match=r"^rng must be a numpy.random.Generator"):
        fm.rl.epsilon_greedy(np.zeros(2), 0.1, 0)


def test_files_of_other_libraries(tmp_path):
    path = tmp_path / "state.safetensors"
    place = {"dtype": "F32", "shape": X.shape, "data_offsets": [0, X.size * 4]}
    header = json.dumps({"0.weight": place}).encode()
    data = X.astype("<f4").tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    with pytest.raises(ValueError, match=r"fm\.from_torch\(safetensors\.numpy"):
        fm.load(path)
    path.write_bytes(b"PK\x03\x04" + bytes(100))  # how torch.save's files begin
    with pytest.raises(ValueError, match=r"fm\.from_torch\(torch\.load\(path\)"):
        fm.load(path)


def test_tools_of_pytorch():
    torch = pytest.importorskip("torch", reason="its objects are passed")
    mlp = fm.MLP([4, 1], seed=0)
    theirs = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    with pytest.raises(TypeError, match=r"^optimizer must be .* from PyTorch"):
        mlp.train_step(X, X[:, :1], fm.MSE(), theirs)
    for loss in (torch.nn.MSELoss(), torch.nn.functional.mse_loss):
        with pytest.raises(TypeError, match=r"^loss must be .* see fm\.CustomLoss"):
            mlp.train_step(X, X[:, :1], loss, fm.Adam())
    with pytest.raises(TypeError, match=r"^source must be .* torch\.load\(path\)"):
        fm.from_torch("state.pt")


def test_a_loss_of_pytorch_in_a_function():
    torch = pytest.importorskip("torch", reason="one of its losses is passed")

    def loss(pred, target):
        p = torch.tensor(pred, requires_grad=True)
        value = torch.nn.functional.huber_loss(p, torch.as_tensor(target))
        value.backward()
        return value.item(), p.grad.numpy()

    one, other = fm.MLP([4, 8, 1], seed=0), fm.MLP([4, 8, 1], seed=0)
    value, grads = one.value_and_grad(X, X[:, :1], loss)
    wanted, grads_wanted = other.value_and_grad(X, X[:, :1], fm.Huber())
    # float32 sums in another order.
    assert value == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(grads, grads_wanted, rtol=1e-5, atol=1e-7)


def test_a_batch_of_one_row_with_batch_normalisation():
    mlp = fm.MLP([4, 3, fm.BatchNorm(), 1], seed=0)
    before = mlp.params.copy()
    with pytest.raises(ValueError, match="6 rows with batch_size=5 leave a single row"):
        mlp.fit(X, X[:, :1], loss=fm.MSE(), optimizer=fm.Adam(), epochs=1, batch_size=5)
    np.testing.assert_array_equal(mlp.params, before)
