"""Randomly drawn networks agree with PyTorch autograd: a short `bench/torch_parity.py`.

The tolerances and their reasons are in the script. Losses, optimisers and activations
take turns there, so 16 draws meet every one of them.
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


@pytest.mark.parametrize(("library", "draws"), [(fastmlp, 40), (reference, 16)])
def test_random_networks_agree_with_torch(library, draws):
    summary = torch_parity.run(range(draws), seed=0, library=library)
    assert summary.passed, "\n".join(summary.lines())
    every = {*torch_parity.ACTIVATIONS, *torch_parity.OPTIMIZERS, "float32", "float64"}
    every |= {f"{loss} ({target})" for loss, target in torch_parity.LOSSES}
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


@pytest.mark.parametrize(
    ("library", "draw"), [(WrongLoss(), 3), (WrongEps(), 3)], ids=["loss", "eps"]
)
def test_a_wrong_formula_is_found(library, draw):
    """Draw 3 has both; the conditioning trials must not excuse either."""
    summary = torch_parity.run(range(draw, draw + 1), seed=0, library=library)
    assert summary.failures
    assert not summary.passed
