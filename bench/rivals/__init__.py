"""The rivals: one file each, their processes, and the arena that times them."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Rival
    from .tasks import Task


@dataclasses.dataclass(frozen=True)
class Entry:
    """A rival's module and abilities; nothing is imported until `load`."""

    module: str
    class_name: str
    package: str  # package that must be installed
    modes: tuple[str, ...] = ("train", "infer")
    blocks: bool = False  # whether it trains networks with layers besides dense ones
    operands: str = "float"  # of products; bfloat16.py compares them

    def load(self) -> type[Rival]:
        """Import the rival; ImportError if its package is not installed."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        rival: type[Rival] = getattr(module, self.class_name)
        return rival

    def accepts(self, task: Task) -> bool:
        """Whether the rival takes part in a task."""
        if task.workload.blocks and not (self.blocks and task.mode == "train"):
            return False
        return task.mode in self.modes


EVERYTHING = ("train", "infer", "fit")

RIVALS = {
    "fastmlp": Entry("fastmlp_rival", "FastmlpRival", "fastmlp", EVERYTHING, True),
    "torch": Entry("torch_rival", "TorchRival", "torch", EVERYTHING, True),
    "torch-compile": Entry("torch_rival", "TorchCompileRival", "torch", blocks=True),
    "jax": Entry("jax_rival", "JaxRival", "jax", blocks=True),
    "sklearn": Entry("sklearn_rival", "SklearnRival", "sklearn", EVERYTHING),
    "onnxruntime": Entry(
        "onnxruntime_rival", "OnnxruntimeRival", "onnxruntime", ("infer",)
    ),
    "numpy": Entry("numpy_rival", "NumpyRival", "numpy", ("infer",)),
    "fastmlp-bfloat16": Entry(
        "fastmlp_rival", "FastmlpBfloat16Rival", "fastmlp", operands="bfloat16"
    ),
    "torch-autocast": Entry(
        "torch_rival", "TorchAutocastRival", "torch", operands="bfloat16"
    ),
}
