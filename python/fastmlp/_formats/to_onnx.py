"""Networks as ONNX models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._network import ops
from .activations import ACTIVATIONS
from .atomic_write import file_name, replace_file
from .layers import BY_KIND

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    from .._network.model import Model
    from .._network.ops import Step
    from .._validate import Array

# The first version of the operator set that has LayerNormalization.
OLDEST_OPSET = 17

# An ONNX file is a Protocol Buffers message, which has at most this many bytes.
MOST_BYTES = 2**31 - 1


def to_onnx(
    mlp: Model,
    path: str | os.PathLike[str],
    *,
    opset: int = OLDEST_OPSET,
    input_name: str = "x",
    output_name: str = "y",
) -> None:
    """Write the network as an ONNX model; see `fastmlp.MLP.to_onnx`."""
    onnx = _validate.extra("onnx", "mlp.to_onnx", "onnx")
    file = file_name(path)
    opset = _validate.count("opset", opset, OLDEST_OPSET)
    newest = onnx.defs.onnx_opset_version()
    if opset > newest:
        raise ValueError(
            f"opset must be at most {newest}, the newest that onnx "
            f"{onnx.__version__} supports, got {opset}"
        )
    for name, value in (("input_name", input_name), ("output_name", output_name)):
        if not isinstance(value, str) or not value:
            error = ValueError if isinstance(value, str) else TypeError
            raise error(
                f"{name} must be a non-empty str, got {_validate.describe(value)}"
            )
    if input_name == output_name:
        raise ValueError(
            f"input_name and output_name must differ, but both are {input_name!r}"
        )
    _check_size(mlp.params.nbytes)

    graph = Graph(onnx, mlp.dtype, input_name)
    last = _add_steps(graph, mlp)
    graph.finish(last, output_name)
    helper = onnx.helper
    versions = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "fastmlp",
            [graph.rows(input_name, mlp.n_in)],
            [graph.rows(output_name, mlp.n_out)],
            graph.arrays,
        ),
        opset_imports=versions,
        ir_version=helper.find_min_ir_version_for(versions),
        producer_name="fastmlp",
        producer_version=_core.__version__,
    )
    helper.set_model_props(model, {"model": repr(mlp)})
    _check_size(model.ByteSize())
    onnx.checker.check_model(model, full_check=True)
    replace_file(file, model.SerializeToString())


def _check_size(n_bytes: int) -> None:
    if n_bytes > MOST_BYTES:
        raise ValueError(
            f"the model needs {n_bytes} bytes, but an ONNX file holds at most "
            f"{MOST_BYTES}; mlp.save does not have this limit"
        )


class Graph:
    """An ONNX graph under construction, in which names identify the values."""

    def __init__(self, onnx: Any, dtype: np.dtype[Any], input_name: str) -> None:
        self.onnx = onnx
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []
        self.input = input_name
        # Name of the current layer, with which the names of new nodes begin.
        self.layer = ""
        self._names: set[str] = set()

    def array(self, name: str, array: Array | float) -> str:
        """Add an array, converted to the model's dtype, and return its name."""
        stored = np.ascontiguousarray(array, self.dtype).reshape(np.shape(array))
        self.arrays.append(self.onnx.numpy_helper.from_array(stored, name))
        self._names.add(name)
        return name

    def node(self, operator: str, *inputs: str | float, **attributes: Any) -> str:
        """Add a node, whose inputs may be numbers; return the name of its output."""
        names = [i if isinstance(i, str) else self._number(i) for i in inputs]
        name = stem = f"{self.layer}.{operator}"
        count = 1
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        make = self.onnx.helper.make_node
        self.nodes.append(make(operator, names, [name], name=name, **attributes))
        return name

    def last_axis(self) -> str:
        """Return the name of the array [-1], which operators take as the last axis."""
        return self._index("last_axis", -1)

    def columns(self, x: str, begin: int, end: int) -> str:
        """Add a node that takes some columns; return the name of the output."""
        limits = (self._index(f"at_{i}", i) for i in (begin, end))
        return self.node("Slice", x, *limits, self.last_axis())

    def integers(self, name: str, values: Sequence[int]) -> str:
        """Add an array of 64-bit integers, and return its name."""
        array = np.array(values, np.int64)
        self.arrays.append(self.onnx.numpy_helper.from_array(array, name))
        self._names.add(name)
        return name

    def reshaped(self, x: str, *shape: int) -> str:
        """Add a node that gives each row a shape; return the name of the output."""
        name = f"shape_{'_'.join(map(str, shape))}"
        return self.node("Reshape", x, self._index(name, -1, *shape))

    def _index(self, name: str, *values: int) -> str:
        if name not in self._names:
            self.integers(name, values)
        return name

    def rounded_to_bfloat16(self, x: str) -> str:
        """Add nodes that round a value to bfloat16; return the name of the output."""
        types = self.onnx.TensorProto
        return self.node(
            "Cast", self.node("Cast", x, to=types.BFLOAT16), to=types.FLOAT
        )

    def row_means(self, x: str, width: int) -> str:
        """Add nodes that compute means over the last axis; return the output's name."""
        # ReduceMean is not used because opset 18 changed how its axes are given.
        total = self.node("ReduceSum", x, self.last_axis(), keepdims=1)
        return self.node("Div", total, float(width))

    def _number(self, value: float) -> str:
        name = f"{value!r}"
        return name if name in self._names else self.array(name, value)

    def finish(self, value: str, output_name: str) -> None:
        """Rename ``value`` to ``output_name``; if it is the input, rename a copy."""
        if value == self.input:
            self.layer = output_name
            value = self.node("Identity", value)
        names = [self.input, output_name]
        for kind, name in zip(("input_name", "output_name"), names, strict=True):
            if name in self._names:
                raise ValueError(
                    f"{kind} must not be a name that the network already uses, "
                    f"got {name!r}"
                )
        assert list(self.nodes[-1].output) == [value]
        self.nodes[-1].output[0] = output_name

    def rows(self, name: str, width: int) -> Any:
        """Return the ONNX type of an array with any number of rows of this width."""
        helper = self.onnx.helper
        element = helper.np_dtype_to_tensor_dtype(self.dtype)
        return helper.make_tensor_value_info(name, element, ["N", width])


def _add_steps(graph: Graph, mlp: Model) -> str:
    """Add nodes for all steps of the network; return the name of its output."""
    network = ops.steps(mlp)
    # Merged weights would be rounded in another way.
    folded = _folded(network) if mlp.compute_dtype != "bfloat16" else {}
    values: list[str] = []
    for i, step in enumerate(network):
        graph.layer = step.name
        value = graph.input if step.source == ops.INPUT else values[step.source]
        if step.kind == "dense":
            norm = network[folded[i]] if i in folded else None
            value = _dense(graph, mlp, step, norm, value)
        elif step.kind in ("add", "concat"):
            other = graph.input if step.other == ops.INPUT else values[step.other]
            if step.kind == "add":
                value = graph.node("Add", other, value)
            else:
                value = graph.node("Concat", value, other, axis=-1)
        elif step.kind in BY_KIND and i not in folded.values():
            value = BY_KIND[step.kind].to_onnx(graph, mlp, step, value)
        if step.function.is_custom:
            raise ValueError(
                f"layer {step.name} has the custom activation {step.activation}, "
                "for which ONNX does not have an operator; only the activations in "
                "fm.ACTIVATIONS can be exported"
            )
        if step.activation != "identity":
            form = ACTIVATIONS[step.function.name]
            value = form.onnx(graph, value, **step.function.constants)
        values.append(value)
    return values[-1]


def _folded(network: list[Step]) -> dict[int, int]:
    """Return which batch normalisations are merged into which dense steps.

    The result maps the index of a dense step to the index of the normalisation after
    it. A normalisation before a dense step is not merged: its mean must be subtracted
    before the product, since inputs far from zero would otherwise lose digits.
    """
    uses: dict[int, int] = {}
    for step in network:
        for i in step.sources:
            uses[i] = uses.get(i, 0) + 1
    return {
        step.source: i
        for i, step in enumerate(network)
        if step.stats >= 0
        and step.source != ops.INPUT
        and network[step.source].kind == "dense"
        and network[step.source].activation == "identity"
        and uses[step.source] == 1
    }


def _dense(graph: Graph, mlp: Model, step: Step, norm: Step | None, x: str) -> str:
    weight: Array = step.matrix(mlp._effective())
    bias = None if step.bias is None else mlp.params[step.bias]
    if norm is not None:
        both, after = ops.affine(step, mlp), ops.affine(norm, mlp)
        assert both is not None
        assert after is not None
        (weight, bias), (scale, shift) = both, after
        weight, bias = weight * scale, bias * scale + shift
    inputs = [x, graph.array(f"{step.name}.weight", weight.T)]
    if mlp.compute_dtype == "bfloat16":
        inputs = [graph.rounded_to_bfloat16(operand) for operand in inputs]
    if bias is not None:
        inputs.append(graph.array(f"{step.name}.bias", bias))
    return graph.node("Gemm", *inputs, transB=1)
