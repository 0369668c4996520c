"""Randomly drawn networks agree with PyTorch autograd: a short `bench/torch_parity.py`.

The script explains its tolerances. Losses, optimisers, schedules, activations and other
layers take turns there, so 16 draws cover all of them.
"""

import functools
import math
import sys

import fastmlp
import pytest
from fastmlp import reference
from helpers import ROOT

torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
if not (ROOT / "bench").is_dir():
    pytest.skip("the source tree is missing", allow_module_level=True)

sys.path.insert(0, str(ROOT / "bench"))
import torch_parity  # noqa: E402
from parity import judge  # noqa: E402
from parity.draw import EXTRAS, draw_spec  # noqa: E402
from parity.losses import LOSSES  # noqa: E402
from parity.torch_side import ACTIVATIONS  # noqa: E402
from parity.updates import OPTIMIZERS, SCHEDULES  # noqa: E402

# Of the disturbed runs; a wrong formula misses by much more than they differ.
FEW_TRIALS = 2
OPTIONS = {
    "clip_norm",
    "clip_value",
    "l1",
    "decay of weights",
    "ema",
    "class_weight",
    "label_smoothing",
    "pos_weight",
}


@pytest.fixture(autouse=True)
def one_torch_thread():
    """For such small networks, PyTorch's threads cost more time than they save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("library", "draws"), [(fastmlp, 20), (reference, 16)])
def test_random_networks_agree_with_torch(library, draws):
    summary = torch_parity.run(range(draws), seed=0, library=library)
    assert summary.passed, "\n".join(summary.lines())
    every = {*ACTIVATIONS, *OPTIMIZERS, "float32", "float64", "weighted"}
    every |= OPTIONS if draws >= 20 else set()
    every |= {f"{loss} ({target})" for loss, target in LOSSES}
    every |= {"Dense", *EXTRAS, *SCHEDULES} - {None}
    assert every <= set(summary.covered)


class WrongLoss:
    """A library whose PseudoHuber forgets delta."""

    def __getattr__(self, name):
        if name == "PseudoHuber":
            return lambda delta=1.0, **options: reference.PseudoHuber(**options)
        return getattr(reference, name)


class WrongEps:
    """A library whose Adam adds eps inside the square root."""

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


class Forgets:
    """A library whose losses and optimisers forget an option."""

    def __init__(self, option):
        self.option = option

    def __getattr__(self, name):
        made = getattr(reference, name)
        if name not in {*OPTIMIZERS, "CrossEntropy", "BinaryCrossEntropy"}:
            return made

        def make(**options):
            options.pop(self.option, None)
            return made(**options)

        return make


class StandsStill:
    """A library whose optimisers use the first rate of a schedule in all steps."""

    def __getattr__(self, name):
        made = getattr(reference, name)
        if name not in OPTIMIZERS:
            return made
        return lambda lr, **options: made(lr=lr(0) if callable(lr) else lr, **options)


class AveragesFromZero:
    """A library whose averages start from zero, not from the initial parameters."""

    def __getattr__(self, name):
        made = getattr(reference, name)
        if name not in OPTIMIZERS:
            return made

        class Moved(made):
            def _piece(self, param, grad, slots, scale):
                super()._piece(param, grad, slots, scale)
                if self.ema is not None and self.step_count == 1:
                    slots["ema"] *= 1 - self.ema

        return Moved


def quick_draw(condition):
    """The fastest of the draws that satisfy a condition, at its first attempt."""
    return min(filter(condition, first_specs()), key=cost).draw


@functools.cache
def first_specs():
    return [draw_spec(0, draw, 0, 1.0) for draw in range(300)]


def cost(spec):
    weights = sum(math.prod(shape) for shape in spec.tensors.values())
    return len(spec.leaves), sum(spec.rows) * weights


def other_momentum(spec):
    """Whether running statistics move by a fraction other than torch's default."""
    leaves = [layer for _, _, layer in spec.leaves if layer.kind == "BatchNorm"]
    return any(layer.momentum != 0.1 for layer in leaves)


def has(feature):
    return lambda spec: feature in spec.features


def decays_weights(spec):
    options = spec.optimizer_options
    return "decay" in options and "l1" in options and "weight_decay" in options


def remembers(spec):
    return spec.optimizer_options.get("ema", 0) > 0.9


def steps_down(name):
    """Whether a schedule moves away from its first rate noticeably within `STEPS`."""

    def condition(spec):
        if spec.schedule is None or spec.schedule[0] != name:
            return False
        gamma = spec.schedule[1].get("gamma", 0.5)
        return gamma < 0.97 and spec.optimizer != "SGD"

    return condition


def smooths(spec):
    return spec.loss_options.get("label_smoothing", 0) > 0.1 and spec.n_out > 1


def weighs_classes(spec):
    return "class_weight" in spec.loss_options and spec.n_out > 1


WRONG = {
    "loss": (WrongLoss(), 3),
    "eps": (WrongEps(), 3),
    "momentum": (WrongMomentum(), quick_draw(other_momentum)),
    "clip_norm": (Forgets("clip_norm"), 10),
    "clip_value": (Forgets("clip_value"), quick_draw(has("clip_value"))),
    "l1": (Forgets("l1"), quick_draw(has("l1"))),
    "decay": (Forgets("decay"), quick_draw(decays_weights)),
    "ema": (AveragesFromZero(), quick_draw(remembers)),
    "label_smoothing": (Forgets("label_smoothing"), quick_draw(smooths)),
    "class_weight": (Forgets("class_weight"), quick_draw(weighs_classes)),
    "pos_weight": (Forgets("pos_weight"), quick_draw(has("pos_weight"))),
    **{
        name: (StandsStill(), quick_draw(steps_down(name)))
        for name in SCHEDULES
        if name
    },
}


@pytest.mark.parametrize(("library", "draw"), WRONG.values(), ids=WRONG)
def test_a_wrong_formula_is_found(library, draw, monkeypatch):
    """The conditioning trials must not excuse any of the faults.

    Draw 3 has the first two, and in draw 10 clipping makes a difference.
    """
    monkeypatch.setattr(judge, "TRIALS", FEW_TRIALS)
    summary = torch_parity.run(range(draw, draw + 1), seed=0, library=library)
    assert summary.failures
    assert not summary.passed
