"""Randomly drawn networks agree with PyTorch autograd: a short `bench/torch_parity.py`.

The tolerances and their reasons are in the script. Losses, optimisers, activations and
other layers take turns there, so 16 draws meet every one of them.
"""

import sys
from pathlib import Path

import fastmlp
import pytest
from fastmlp import reference

torch = pytest.importorskip("torch", reason="PyTorch is what is compared with")

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import torch_parity  # noqa: E402


@pytest.fixture(autouse=True)
def one_torch_thread():
    """PyTorch's threads cost more than they bring for such small networks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("library", "draws"), [(fastmlp, 20), (reference, 16)])
def test_random_networks_agree_with_torch(library, draws):
    summary = torch_parity.run(range(draws), seed=0, library=library)
    assert summary.passed, "\n".join(summary.lines())
    every = {*torch_parity.ACTIVATIONS, *torch_parity.OPTIMIZERS, "float32", "float64"}
    every |= {f"{loss} ({target})" for loss, target in torch_parity.LOSSES}
    every |= {"Dense", *torch_parity.EXTRAS}
    assert every <= set(summary.covered)


class WrongLoss:
    """A library whose PseudoHuber forgets delta."""

    def __getattr__(self, name):
        if name == "PseudoHuber":
            return lambda delta=1.0, **options: reference.PseudoHuber(**options)
        return getattr(reference, name)


class WrongEps:
    """A library whose Adam adds eps under the root."""

    def __getattr__(self, name):
        if name == "Adam":
            return lambda **options: reference.Adam(**options, eps_mode="inside")
        return getattr(reference, name)


class WrongMomentum:
    """A library whose BatchNorm always has torch's default momentum."""

    def __getattr__(self, name):
        if name == "BatchNorm":
            return lambda momentum, **options: reference.BatchNorm(**options)
        return getattr(reference, name)


def draw_with_momentum():
    """The first draw whose running statistics move by another share."""
    for draw in range(60):
        spec = torch_parity.draw_spec(0, draw, 0, 1.0)
        leaves = [layer for _, _, layer in spec.leaves if layer.kind == "BatchNorm"]
        if any(layer.momentum != 0.1 for layer in leaves):
            return draw
    raise AssertionError("no such draw")


@pytest.mark.parametrize(
    ("library", "draw"),
    [(WrongLoss(), 3), (WrongEps(), 3), (WrongMomentum(), draw_with_momentum())],
    ids=["loss", "eps", "momentum"],
)
def test_a_wrong_formula_is_found(library, draw):
    """The conditioning trials must not excuse any. Draw 3 has the first two."""
    summary = torch_parity.run(range(draw, draw + 1), seed=0, library=library)
    assert summary.failures
    assert not summary.passed
