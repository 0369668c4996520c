"""ONNX Runtime, for inference."""

from __future__ import annotations

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from .base import Rival
from .tasks import Task

OPSET = 17
IR_VERSION = 8  # the IR version of the opset; newer ones may be rejected


def build_model(task: Task) -> ModelProto:
    """Return the network as a chain of Gemm and activation nodes."""
    activation = {"tanh": "Tanh", "relu": "Relu"}[task.workload.activation]
    nodes, initializers = [], []
    last = len(task.params) - 1
    name = "x"
    for layer, (weight, bias) in enumerate(task.params):
        initializers += [
            numpy_helper.from_array(weight, f"w{layer}"),
            numpy_helper.from_array(bias, f"b{layer}"),
        ]
        output = "y" if layer == last else f"z{layer}"
        inputs = [name, f"w{layer}", f"b{layer}"]
        nodes.append(helper.make_node("Gemm", inputs, [output]))
        if layer < last:
            name = f"h{layer}"
            nodes.append(helper.make_node(activation, [output], [name]))
    widths = task.workload.widths
    dtype = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}

    def value(name: str, width: int) -> ValueInfoProto:
        shape = [task.rows, width]
        return helper.make_tensor_value_info(name, dtype[task.workload.dtype], shape)

    graph = helper.make_graph(
        nodes, "mlp", [value("x", widths[0])], [value("y", widths[-1])], initializers
    )
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


class OnnxruntimeRival(Rival):
    """``session.run`` with all graph optimisations."""

    def __init__(self, task: Task, threads: int | None) -> None:
        super().__init__(task, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: the library's default
        options.inter_op_num_threads = 1
        level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.graph_optimization_level = level
        self.session = onnxruntime.InferenceSession(
            build_model(task).SerializeToString(),
            options,
            providers=["CPUExecutionProvider"],
        )
        self.feed = {"x": task.x}

    def versions(self) -> dict[str, str]:
        """Return versions and settings."""
        return {"onnxruntime": onnxruntime.__version__}

    def infer(self) -> np.ndarray:
        """Return the network's output."""
        return self.session.run(["y"], self.feed)[0]
