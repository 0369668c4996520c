"""PyTorch's modules with a forward method of their own, read by tracing it.

``torch.fx`` calls the method with a placeholder and records what it does as a graph of
calls. Here the graph is taken apart into steps that follow one another and blocks whose
branches are added or concatenated, which are then read like the modules of a
``Sequential``.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from ..layers import Block, Concat, Parallel
from .activations import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from .._validate import Array
    from .torch_builder import Builder
    from .torch_modules import ModuleReader


SUPPORTED = (
    "a forward method may call modules, activations, dropout and flatten one after the "
    "other, add the result of such steps to their input, and concatenate such results"
)

# Functions that correspond to a module with the same options, by name.
_MODULES = {
    "glu": "GLU",
    "log_softmax": "LogSoftmax",
    "softmin": "Softmin",
    **{name: form.torch for name, form in ACTIVATIONS.items() if form.torch},
}
# Activations that are functions only.
_PLAIN = {name for name, form in ACTIVATIONS.items() if form.torch is None}
# Functions that join branches.
_ADDS = {"add"}
_CONCATENATIONS = {"cat", "concat", "concatenate"}
# Functions whose result is their argument if that has two axes, or a view of it.
_SHAPES = {"flatten", "reshape", "view"}
_COPIES = {"contiguous", "clone"}
# Arguments of functions that modules do not have, with the only value that is allowed.
_UNUSED: dict[str, Any] = {"_stacklevel": 3, "dtype": None}


def _functions() -> dict[Any, str]:
    """Return the functions that are known, with their names in `torch`."""
    found: dict[Any, str] = {
        operator.add: "add",
        operator.iadd: "add_",
        functional.dropout: "dropout",
        functional.linear: "linear",
    }
    joins = (*_ADDS, *_CONCATENATIONS)
    for name in (*_MODULES, *_PLAIN, *joins, *_SHAPES, *_COPIES):
        for space in (torch, functional):
            for each in (name, f"{name}_"):
                function = getattr(space, each, None)
                if function is not None:
                    found[function] = each
    return found


class _Step(NamedTuple):
    """A call with one value as its input.

    Attributes
    ----------
    node, source : torch.fx.Node
        The call, and the one whose result it takes.
    read : callable
        Function that adds the layer to the builder.
    shares, changes, is_nothing : bool
        Whether the result shares the memory of the input, whether the call overwrites
        its input, and whether the result is the input.
    """

    node: fx.Node
    source: fx.Node
    read: Callable[[], None]
    shares: bool = False
    changes: bool = False
    is_nothing: bool = False


class _Block(NamedTuple):
    """An addition of two branches, which take the same input.

    Attributes
    ----------
    node, source : torch.fx.Node
        The addition, and the call whose result both branches take.
    body, other : list of items
        The steps of the branches; ``other`` has none or is one linear module.
    """

    node: fx.Node
    source: fx.Node
    body: list[_Item]
    other: list[_Item]


class _SideBySide(NamedTuple):
    """A concatenation of branches, which take the same input.

    Attributes
    ----------
    node, source : torch.fx.Node
        The concatenation, and the call whose result all branches take.
    branches : list of lists of items
        The branches; one without items is the input itself.
    """

    node: fx.Node
    source: fx.Node
    branches: list[list[_Item]]


_Item: TypeAlias = _Step | _Block | _SideBySide


class _Proxy(fx.Proxy):
    """A placeholder that records ``x += y`` as what it is."""

    def __iadd__(self, other: Any) -> Any:
        return self.tracer.create_proxy(
            "call_function", operator.iadd, (self, other), {}
        )


class _Tracer(fx.Tracer):
    """Records calls of modules that a reader knows, or that are PyTorch's, as such."""

    record_stack_traces = True

    def __init__(self, reader: ModuleReader) -> None:
        super().__init__()
        self._reader = reader

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Return the placeholder for the result of a call."""
        return _Proxy(node, self)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a call of a module is recorded; if not, its calls are."""
        return not self._reader.is_traced(m)


@contextlib.contextmanager
def _restored(module: nn.Module) -> Iterator[None]:
    """Restore the attributes of a module and all its parts at the end."""
    dicts = [
        d
        for m in module.modules()
        for d in (vars(m), m._parameters, m._buffers, m._modules)
    ]
    before = [dict(d) for d in dicts]
    try:
        yield
    finally:
        for now, old in zip(dicts, before, strict=True):
            now.clear()
            now.update(old)


def _traced(reader: ModuleReader, what: str, module: Any, training: bool) -> fx.Graph:
    """Return the graph of calls; optional arguments have their defaults."""
    arguments = inspect.signature(module.forward).parameters.values()
    given = {a.name: a.default for a in arguments if a.default is not a.empty}
    with _restored(module):
        for part in module.modules():
            part.training = training
        try:
            return _Tracer(reader).trace(module, given or None)
        except Exception as error:
            raise TypeError(
                f"{what} has a forward method that torch.fx cannot trace, for instance "
                f"because its calls depend on values ({error}); {SUPPORTED}"
            ) from None


def read_graph(reader: ModuleReader, what: str, name: str, module: Any) -> None:
    """Add the layers of a module with a forward method of its own to a builder."""
    inside = f"{name}." if name else ""
    for child, part in module.named_modules():
        if child and reader.is_traced(part):
            kind = type(part).__name__
            reader.check_plain(f"module {inside}{child} ({kind})", part)
    _GraphReader(reader, what, inside, module).read()


class _GraphReader:
    """Reads one module."""

    def __init__(
        self, reader: ModuleReader, what: str, inside: str, module: Any
    ) -> None:
        self._reader, self._what, self._module = reader, what, module
        self._inside = inside
        self._names = _functions()
        self._graph, training = (
            _traced(reader, what, module, mode) for mode in (False, True)
        )
        self._training = self._aligned(training)
        self._items: dict[fx.Node, _Item] = {}
        self._done: set[fx.Node] = set()
        # For each module or function that has been read, the step that called it.
        self._callers: dict[str, fx.Node] = {}

    def _aligned(self, training: fx.Graph) -> dict[fx.Node, fx.Node]:
        """Map the calls at inference to those in training."""
        pairs = [list(graph.nodes) for graph in (self._graph, training)]
        outlines = [[self._outline(node) for node in nodes] for nodes in pairs]
        if outlines[0] != outlines[1]:
            raise TypeError(
                f"{self._what} has a forward method that makes other calls in training "
                "than at inference; only the probability of dropout may depend on the "
                "mode"
            )
        return dict(zip(*pairs, strict=True))

    def _outline(self, node: fx.Node) -> tuple[str, ...]:
        """Return what must be the same in training."""
        inputs = node.args, node.kwargs
        if self._name_of(node) == "dropout":
            inputs = node.args[:1], {}
        return node.op, node.name, str(node.target), repr(inputs)

    def read(self) -> None:
        """Add all layers."""
        # Placeholders with a default have it as their argument.
        inputs = [
            n
            for n in self._graph.nodes
            if n.op == "placeholder" and n.users and not n.args
        ]
        (output,) = (n for n in self._graph.nodes if n.op == "output")
        end = output.args[0]
        if len(inputs) != 1 or not isinstance(end, fx.Node):
            raise TypeError(
                f"{self._what} must have a forward method that takes one tensor and "
                f"returns one tensor, got {len(inputs)} inputs and the result {end}"
            )
        self._first = inputs[0]
        needed = self._needed(end)
        for node in self._graph.nodes:
            if node in needed and node is not self._first:
                self._items[node] = self._item(node)
        self._check_unused(needed)
        self._check_memory()
        for item in self._way(end):
            self._emit(item)

    def _needed(self, end: fx.Node) -> set[fx.Node]:
        """Return the calls whose results the output depends on as values."""
        found: set[fx.Node] = set()
        open_ = [end]
        while open_:
            node = open_.pop()
            if node in found:
                continue
            found.add(node)
            if node is self._first:
                continue
            parsed = self._ends(node)
            open_ += parsed or [self._source(node)]
        return found

    # From calls to steps and blocks ---------------------------------------------------

    def _name_of(self, node: fx.Node) -> str:
        """Return the name of a function or method, "" if it is not known."""
        if node.op == "call_method":
            return str(node.target)
        if node.op == "call_function":
            return self._names.get(node.target, "")
        return ""

    def _refusal(self, node: fx.Node, why: str) -> TypeError:
        line = _line(node)
        place = f" ({line})" if line else ""
        return TypeError(f"{self._what}: step {node.name}{place} {why}; {SUPPORTED}")

    def _unknown(self, node: fx.Node) -> TypeError:
        target = getattr(node.target, "__name__", node.target)
        return self._refusal(
            node, f"calls {target} in a way that has no counterpart in fastmlp"
        )

    def _ends(self, node: fx.Node) -> list[fx.Node]:
        """Return what an addition or a concatenation joins, nothing for other calls."""
        name = self._name_of(node).removesuffix("_")
        if name in _CONCATENATIONS:
            return self._concatenated(node)
        if name not in _ADDS:
            return []
        if len(node.args) != 2 or node.kwargs.get("alpha", 1) != 1:
            raise self._refusal(node, "must add two tensors")
        if not all(isinstance(each, fx.Node) for each in node.args):
            raise self._refusal(node, "must add two tensors, but it adds a number")
        return [each for each in node.args if isinstance(each, fx.Node)]

    def _concatenated(self, node: fx.Node) -> list[fx.Node]:
        names = ("tensors", "dim")
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        axis = given.get("axis", given.get("dim", 0))
        if axis not in (1, -1):
            raise self._refusal(
                node, f"must concatenate columns, with dim=-1, not {axis}"
            )
        parts = given["tensors"]
        if not isinstance(parts, (list, tuple)) or len(parts) < 2:
            raise self._refusal(node, "must concatenate at least two tensors")
        return list(parts)

    def _source(self, node: fx.Node) -> fx.Node:
        """Return the call whose result a call with one input takes."""
        if node.op == "get_attr":
            raise self._refusal(
                node, f"uses {node.target}, a parameter or buffer, outside of a layer"
            )
        if node.op == "placeholder":
            raise self._refusal(node, "must not use an optional argument as a tensor")
        given = node.args[0] if node.args else node.kwargs.get("input")
        if not isinstance(given, fx.Node):
            if node.op == "call_module":
                raise self._refusal(node, "must have one tensor as its input")
            raise self._unknown(node)
        return given

    def _item(self, node: fx.Node) -> _Item:
        ends = self._ends(node)
        if not ends:
            return self._step(node)
        start, parts = self._parts(ends)
        if self._name_of(node) in _CONCATENATIONS:
            return _SideBySide(node, start, parts)
        return self._block(node, start, parts)

    def _step(self, node: fx.Node) -> _Step:
        source, name = self._source(node), self._name_of(node)
        if node.op == "call_module":
            return self._module_step(node, source)
        base = name.removesuffix("_")
        if name == "linear":
            return _Step(node, source, lambda: self._linear(node))
        if base in _PLAIN and len(node.args) == 1:
            read = functools.partial(self._activation, base)
            return _Step(node, source, read, changes=base != name)
        if base in _SHAPES:
            return self._shape_step(node, source, base)
        if base in _COPIES:
            shares = base == "contiguous"
            return _Step(node, source, lambda: None, shares, is_nothing=True)
        if base == "dropout":
            return self._dropout_step(node, source)
        if base in _MODULES:
            return self._function_step(node, source, name)
        raise self._unknown(node)

    def _module_step(self, node: fx.Node, source: fx.Node) -> _Step:
        if len(node.args) != 1 or node.kwargs:
            raise self._refusal(node, f"must call {node.target} with one argument")
        module = self._attribute(node)
        leaves = [m for m in module.modules() if next(m.children(), None) is None]
        nothing = (nn.Identity, nn.Sequential)  # one without modules
        views = (*nothing, nn.Flatten, nn.Dropout, nn.AlphaDropout)
        return _Step(
            node,
            source,
            lambda: self._read_module(node, module),
            shares=all(isinstance(leaf, views) for leaf in leaves),
            changes=self._reader.starts_in_place(module),
            is_nothing=all(isinstance(leaf, nothing) for leaf in leaves),
        )

    def _attribute(self, node: fx.Node) -> Any:
        names = str(node.target).split(".")
        return functools.reduce(getattr, names, self._module)

    def _read_module(self, node: fx.Node, module: Any) -> None:
        self._check_call(node, module)
        self._reader.read(f"{self._inside}{node.target}", module)

    def _check_call(self, node: fx.Node, module: Any) -> None:
        """Refuse a second call of a module that has parameters or statistics."""
        target = str(node.target)
        before = self._callers.setdefault(target, node)
        if before is not node and (*module.parameters(), *module.buffers()):
            raise ValueError(
                f"{self._what}: steps {before.name} and {node.name} call the same "
                f"module {target}, but in fastmlp each layer has its own parameters "
                "and statistics: to continue without sharing, copy the module "
                "(copy.deepcopy)"
            )

    def _function_step(self, node: fx.Node, source: fx.Node, name: str) -> _Step:
        """Return the step of a function that corresponds to a module."""
        base = name.removesuffix("_")
        kind = getattr(nn, _MODULES[base])
        options = {k: v for k, v in node.kwargs.items() if k != "input"}
        for option, value in _UNUSED.items():
            if options.pop(option, value) != value:
                raise self._refusal(node, f"must leave out {option}")
        args = node.args[1:]
        if any(isinstance(a, fx.Node) for a in (*args, *options.values())):
            raise self._refusal(node, "must have numbers as its options")
        try:
            module = kind(*args, **options)
        except (TypeError, ValueError) as error:
            raise self._refusal(
                node, f"has other options than nn.{_MODULES[base]} ({error})"
            ) from None
        what = self._describe(node)
        return _Step(
            node,
            source,
            lambda: self._reader.add(what, module),
            changes=name != base or bool(getattr(module, "inplace", False)),
        )

    def _describe(self, node: fx.Node) -> str:
        return f"{self._what}: step {node.name}"

    def _dropout_step(self, node: fx.Node, source: fx.Node) -> _Step:
        """Return the step of a dropout that depends on the mode of the module."""
        names = ("input", "p", "training", "inplace")
        now, later = (
            {
                "p": 0.5,
                "training": True,
                "inplace": False,
                **dict(zip(names, each.args, strict=False)),
                **each.kwargs,
            }
            for each in (node, self._training[node])
        )
        if now["training"] is not False:
            raise self._refusal(
                node,
                "drops elements at inference as well; write training=self.training",
            )
        if not isinstance(later["p"], (int, float)):
            raise self._refusal(node, "must have a number as its probability")
        what, module = self._describe(node), nn.Dropout(later["p"])
        active = later["training"] is not False
        read = (lambda: self._reader.add(what, module)) if active else lambda: None
        return _Step(node, source, read, shares=True, changes=now["inplace"])

    def _shape_step(self, node: fx.Node, source: fx.Node, base: str) -> _Step:
        """Return the step of a call that may only flatten what is flat."""
        if base == "flatten":
            names = ("start_dim", "end_dim")
            given = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
            module = nn.Flatten(given.get("start_dim", 0), given.get("end_dim", -1))
            self._reader.add(self._describe(node), module)
            return _Step(node, source, lambda: None, shares=True, is_nothing=True)
        shape: Any = node.args[1:]
        if len(shape) == 1 and isinstance(shape[0], (tuple, list)):
            shape = shape[0]
        flat = len(shape) == 2 and isinstance(shape[1], int)
        keeps = flat and (_is_row_count(shape[0]) or (shape[0] == -1 < shape[1]))
        if not keeps:
            raise self._refusal(
                node, "must keep the rows, as in x.reshape(x.shape[0], -1)"
            )
        n, what = shape[1], self._describe(node)
        read = (lambda: None) if n == -1 else lambda: self._reader.builder.fit(what, n)
        return _Step(node, source, read, shares=True, is_nothing=True)

    def _activation(self, name: str) -> None:
        self._reader.builder.activation(name)

    def _linear(self, node: fx.Node) -> None:
        """Add the dense layer of a call of ``functional.linear``."""
        names = ("weight", "bias")
        given = {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}
        arrays: dict[str, Array] = {}
        for role in names:
            value = given.get(role)
            if value is None:
                continue
            if not isinstance(value, fx.Node) or value.op != "get_attr":
                raise self._refusal(
                    node, f"must have a parameter of the module as its {role}"
                )
            parameter = self._attribute(value)
            what = f"{self._describe(node)}: {role}"
            self._reader.own(self._describe(node), parameter)
            arrays[role] = self._reader.builder.array(what, parameter)
        self._reader.builder.dense(
            self._describe(node), arrays["weight"], arrays.get("bias")
        )

    # Branches -------------------------------------------------------------------------

    def _way(self, end: fx.Node, start: fx.Node | None = None) -> list[_Item]:
        """Return the items that lead from the input, or from ``start``, to a call."""
        way = []
        while end is not (start or self._first):
            item = self._items[end]
            way.append(item)
            end = item.source
        return way[::-1]

    def _parts(self, ends: Sequence[fx.Node]) -> tuple[fx.Node, list[list[_Item]]]:
        """Return the call where the ways to some calls part, and these ways from there.

        The ways leave out steps that do nothing.
        """
        ways = [self._way(end) for end in ends]
        common = 0
        while common < min(map(len, ways)):
            if any(way[common] is not ways[0][common] for way in ways):
                break
            common += 1
        start = ways[0][common - 1].node if common else self._first
        return start, [
            [i for i in way[common:] if not (isinstance(i, _Step) and i.is_nothing)]
            for way in ways
        ]

    def _block(self, node: fx.Node, start: fx.Node, parts: list[list[_Item]]) -> _Block:
        """Return the block that ends in an addition."""
        for body, other in (parts, parts[::-1]):
            if body and (not other or self._is_projection(other)):
                return _Block(node, start, body, other)
        raise self._refusal(
            node,
            "must add the result of some steps to their input or, if the widths "
            "differ, to the result of one nn.Linear that takes the same input",
        )

    def _is_projection(self, items: Sequence[_Item]) -> bool:
        if len(items) != 1 or items[0].node.op != "call_module":
            return False
        return type(self._attribute(items[0].node)) is nn.Linear

    def _check_unused(self, needed: set[fx.Node]) -> None:
        """Refuse calls whose result is not used, but which overwrite their input."""
        for node in self._graph.nodes:
            if node in needed:
                continue
            if node.op == "call_module":
                writes = self._reader.starts_in_place(self._attribute(node))
            else:
                name = getattr(node.target, "__name__", str(node.target))
                writes = node.kwargs.get("inplace", False) or name == "iadd"
                writes = writes or name[-1:] == "_" != name[-2:-1]
            if writes:
                raise self._refusal(
                    node, "overwrites its input, and the result is not used: use it"
                )

    def _check_memory(self) -> None:
        """Refuse calls that overwrite a value which is used afterwards."""
        order = {node: i for i, node in enumerate(self._graph.nodes)}
        memory = {self._first: self._first}  # the first value in the same memory
        for node, item in self._items.items():
            changed: fx.Node | None = None
            if isinstance(item, _Step):
                shares = item.shares or item.changes
                memory[node] = memory[item.source] if shares else node
                changed = item.source if item.changes else None
            else:
                target = node.args[0]
                in_place = self._name_of(node) == "add_"
                changed = target if in_place and isinstance(target, fx.Node) else None
                memory[node] = memory[changed] if changed else node
            if changed is None:
                continue
            for value, first in memory.items():
                users = (u for u in value.users if u in self._items)
                late = [u for u in users if order[u] > order[node]]
                if value is not node and first is memory[changed] and late:
                    raise self._refusal(
                        node,
                        f"overwrites {value.name}, which step {late[0].name} uses "
                        "afterwards; use inplace=False",
                    )

    # From steps and blocks to layers --------------------------------------------------

    def _inside_of(self, items: Sequence[_Item]) -> Builder:
        """Return a builder of the items inside a block at the present place."""
        outer = self._reader.builder
        inner = self._reader.builder = outer.block()
        for item in items:
            self._emit(item)
        self._reader.builder = outer
        return inner

    def _emit(self, item: _Item) -> None:
        if item.node in self._done:
            raise self._refusal(
                item.node,
                "must be part of one branch only, but two additions use it apart",
            )
        self._done.add(item.node)
        if isinstance(item, _Step):
            item.read()
            return
        reader = self._reader
        outer = reader.builder
        if isinstance(item, _SideBySide):
            is_concat = not item.branches[0] and len(item.branches) == 2
            kind: type[Block] = Concat if is_concat and item.branches[1] else Parallel
            given = item.branches[1:] if kind is Concat else item.branches
            inside = [self._inside_of(part) for part in given]
            outer.side_by_side(self._describe(item.node), kind, inside)
            return
        body = self._inside_of(item.body)
        projection: dict[str, Array] | None = None
        what = self._describe(item.node)
        for step in item.other:
            self._done.add(step.node)
            module = self._attribute(step.node)
            self._check_call(step.node, module)
            name = f"module {self._inside}{step.node.target}"
            for parameter in module.parameters():
                reader.own(name, parameter)
            projection = reader.arrays(name, module, "weight", "bias")
            if "bias" not in projection:
                weight = projection["weight"]
                projection["bias"] = np.zeros(len(weight), weight.dtype)
        outer.residual(what, body, projection)


def _is_row_count(value: Any) -> bool:
    """Return whether a value is the number of rows: ``x.size(0)``, ``x.shape[0]``."""
    if not isinstance(value, fx.Node):
        return False
    if value.op == "call_method" and value.target == "size":
        return value.args[1:] == (0,)
    if value.target is not operator.getitem or value.args[1] != 0:
        return False
    shape = value.args[0]
    if not isinstance(shape, fx.Node):
        return False
    sizes = shape.op == "call_method" and shape.target == "size"
    return sizes or bool(shape.target is getattr and shape.args[1] == "shape")


def _line(node: fx.Node) -> str:
    """Return the line of a forward method in which a call is, "" if unknown."""
    lines = (node.stack_trace or "").splitlines()
    places = [i for i, line in enumerate(lines) if line.endswith("in forward")]
    return lines[places[-1] + 1].strip() if places else ""
