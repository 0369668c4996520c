"""The competitors, one file each, their processes, and the arena they meet in."""

from __future__ import annotations

import dataclasses
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Rival
    from .tasks import Task


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where a rival lives, and what it can do; nothing is imported until `load`."""

    module: str
    class_name: str
    package: str  # what must be installed
    modes: tuple[str, ...] = ("train", "infer")
    blocks: bool = False  # whether it trains networks with other than dense layers

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
}
