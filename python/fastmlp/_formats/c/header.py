"""A network as one C99 header without dependencies: `fastmlp.MLP.to_c`.

What is written does the core's operations in the core's order. Inference goes through
the steps in buffers on the stack that are used again; the Jacobian keeps what its
derivatives need and takes a few directions at a time, forward or back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ... import _core, _validate
from ..._network import ops
from ..activations import ACTIVATIONS
from ..atomic_write import file_name, replace_file
from ..layers import BY_KIND
from . import math

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..._validate import Array
    from ...mlp import MLP

# Of C99 to C23 and of C++; those with an underscore in front or in twos are no names
# for users anyway.
_KEYWORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char "
    "char16_t char32_t char8_t class co_await co_return co_yield compl concept "
    "const const_cast consteval constexpr constinit continue decltype default "
    "delete do double dynamic_cast else enum explicit export extern false float "
    "for friend goto if inline int long mutable namespace new noexcept not not_eq "
    "nullptr operator or or_eq private protected public register reinterpret_cast "
    "requires restrict return short signed sizeof static static_assert "
    "static_cast struct switch template this thread_local throw true try typedef "
    "typeid typename typeof typeof_unqual union unsigned using virtual void "
    "volatile wchar_t while xor xor_eq"
)

# Directions of the Jacobian that are taken at once, at most.
_DIRECTIONS = 16
# Columns of a dense layer whose sums are made at once, at most: registers' worth.
_COLUMNS = {"float32": 64, "float64": 32}
# Weights that are formatted at once.
_CHUNK = 1 << 14
# From so many directions on, the core leaves out what a relu has made 0: see
# plan_lists in derivatives.cpp.
_LISTS_PAY = 4


def to_c(mlp: MLP, path: object, *, name: str, jacobian: bool) -> None:
    """Do what `fastmlp.MLP.to_c` says."""
    file = file_name(path)
    header = Header(mlp, _checked_name(name), _validate.flag("jacobian", jacobian))

    def write(to: Any) -> None:
        for piece in header.pieces():
            to.write(piece.encode("ascii"))

    replace_file(file, write)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {_validate.describe(name)}")
    wanted = "name must be an identifier of C, such as 'mlp'"
    if not (name.isascii() and name.isidentifier()):
        raise ValueError(f"{wanted}; got {name[:40]!r}")
    if name in _KEYWORDS.split():
        raise ValueError(f"{wanted}; {name!r} is a keyword of C or C++")
    if name.startswith("_") or "__" in name or name.endswith("_"):
        raise ValueError(
            f"{wanted}; got {name[:40]!r}: underscores in front, at the end or in twos "
            "make names that are reserved"
        )
    return name


class Node(NamedTuple):
    """A step as the core has it: with the activation that follows.

    ``input`` and ``other`` are nodes, `_steps.INPUT` for what the network is given;
    ``other`` is None where there is no second addend.
    """

    kind: str
    layer: Any
    activation: str
    n_in: int
    n_out: int
    weight: slice | None
    bias: slice | None
    stats: int
    input: int
    other: int | None

    @property
    def passes(self) -> bool:
        """Whether it leaves its input as it is."""
        return self.kind == "dropout" or (
            self.kind == "activation" and self.activation == "identity"
        )

    @property
    def has_slope(self) -> bool:
        """Whether the activation's derivative is a vector to multiply by."""
        return self.activation not in ("identity", "relu", "softmax")


def _nodes(mlp: MLP) -> list[Node]:
    """Return the core's steps; refuse activations that C does not know."""
    nodes: list[Node] = []
    steps = ops.steps(mlp)
    before = None  # a step whose activation is computed in the same place
    for step in steps:
        if step.activation not in _core.ACTIVATIONS:
            raise ValueError(
                f"mlp has a custom function as an activation, {step.activation} "
                f"at {step.name!r}: C has no code for it"
            )
        if step.output is None:
            before = step
            continue
        activation = step.activation
        step, before = before or step, None

        nodes.append(
            Node(
                step.kind,
                step.layer,
                activation,
                step.n_in,
                step.n_out,
                step.weight,
                step.bias,
                step.stats,
                _core_step(steps, step.source),
                _core_step(steps, step.other) if step.kind == "add" else None,
            )
        )
    return nodes


def _core_step(steps: list[ops.Step], i: int) -> int:
    """Return which of the core's steps one of ours ends."""
    return i if i == ops.INPUT else int(steps[i].output or 0)


class _Places:
    """Buffers on the stack, shared by what is not needed at the same time."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._sizes: list[int] = []
        self._free: list[int] = []

    def take(self, size: int) -> str:
        """Return the name of a buffer: the free one that fits best."""
        if self._free:
            fitting = [b for b in self._free if self._sizes[b] >= size]
            at = min(fitting or self._free, key=lambda b: abs(self._sizes[b] - size))
            self._free.remove(at)
            self._sizes[at] = max(self._sizes[at], size)
        else:
            at = len(self._sizes)
            self._sizes.append(size)
        return f"{self._prefix}{at}"

    def give_back(self, place: str) -> None:
        """Let others have a buffer; what is none of these stays as it is."""
        if re.fullmatch(rf"{self._prefix}\d+", place):
            self._free.append(int(place.removeprefix(self._prefix)))

    def declarations(self, factor: str = "") -> list[str]:
        """Return the lines that make the buffers."""
        return [
            f"  T {self._prefix}{i}[{n}{factor}];" for i, n in enumerate(self._sizes)
        ]

    def elements(self) -> int:
        """Return how many elements all of them have."""
        return sum(self._sizes)


class _Function(NamedTuple):
    """A function's lines, and its elements on the stack."""

    lines: list[str]
    elements: int


class Header:
    """All that is written of a model."""

    def __init__(self, mlp: MLP, name: str, jacobian: bool) -> None:
        self.mlp = mlp
        self.name = name
        self.nodes = _nodes(mlp)
        self.dtype = mlp.dtype
        # Functions that are called, and those made for layers' sizes.
        self.used: set[str] = set()
        self.dense: dict[tuple[int, int, bool], str] = {}
        self.predict = self._predict()
        self.jacobian = self._jacobian() if jacobian else None

    # Text ---------------------------------------------------------------------------

    def pieces(self) -> Iterator[str]:
        """Yield the header from its first line to its last."""
        name, upper = self.name, self.name.upper()
        yield self._fill(_HEAD, self._facts())
        macros = f"#define {upper}_N_IN {self.mlp.n_in}\n"
        macros += f"#define {upper}_N_OUT {self.mlp.n_out}\n"
        if self.jacobian is not None:
            macros += f"#define {name}_D {self._directions()}\n"
        yield macros + self._fill(_BEGIN, {})
        for array, values in self._arrays():
            yield from self._array(array, values)
        yield math.functions(self.used, self.dtype, name)
        for (k, n, biased), function in self.dense.items():
            yield self._c(self._dense(function, k, n, biased))
        yield self._c([_PREDICT, *self.predict.lines, "}"])
        if self.jacobian is not None:
            yield self._c([_JACOBIAN, *self.jacobian.lines, "}"])
            yield f"#undef {name}_D\n"
        yield self._fill(_END, {})

    def _facts(self) -> dict[str, str]:
        size = self.dtype.itemsize
        layers = [str(self.mlp.n_in)]
        for node in self.nodes:
            if node.kind == "dropout":
                continue
            text = str(node.n_out) if node.kind == "dense" else node.kind
            if node.activation != "identity":
                alone = node.kind == "activation"
                text = node.activation if alone else f"{text} {node.activation}"
            layers.append(text)
        facts = {
            "layers": _wrapped(" -> ".join(layers)),
            "version": _core.__version__,
            "stack": str(self.predict.elements * size),
            "functions": "",
        }
        if self.jacobian is not None:
            facts["functions"] = self._fill(
                _ABOUT_JACOBIAN, {"stack": str(self.jacobian.elements * size)}
            )
        return facts

    def _fill(self, template: str, facts: Mapping[str, str]) -> str:
        """Put facts, and those that all texts may need, into a text."""
        single = self.dtype == np.float32
        facts = {
            "name": self.name,
            "NAME": self.name.upper(),
            "limits": "FLT" if single else "DBL",
            "digits": "24" if single else "53",
            **facts,
        }
        text = math.instantiate(template, self.dtype, self.name)
        for key, value in facts.items():
            text = text.replace(f"<{key}>", value)
        return text

    def _c(self, lines: list[str]) -> str:
        text = "\n".join(["", *lines, ""])
        return math.instantiate(text, self.dtype, self.name)

    def _array(self, name: str, values: Array) -> Iterator[str]:
        single = self.dtype == np.float32
        per_line = 5 if single else 3
        yield self._c([f"static const T @{name}[{values.size}] = {{"])
        for start in range(0, values.size, per_line * _CHUNK):
            chunk = values[start : start + per_line * _CHUNK].tolist()
            texts = math.literals(chunk, self.dtype)
            yield "".join(
                f"    {', '.join(texts[i : i + per_line])},\n"
                for i in range(0, len(texts), per_line)
            )
        yield "};\n"

    # Arrays -------------------------------------------------------------------------

    def _arrays(self) -> Iterator[tuple[str, Array]]:
        params, buffers = self.mlp.params, self.mlp.buffers
        for i, node in enumerate(self.nodes):
            if node.weight is not None:
                yield f"w{i}", params[node.weight]
            if node.bias is not None:
                yield f"b{i}", params[node.bias]
            if node.stats >= 0:
                both = buffers[node.stats : node.stats + 2 * node.n_out]
                mean, variance = np.split(both, 2)
                arrays = {"running_mean": mean, "running_var": variance}
                if node.weight is not None:
                    arrays["weight"] = params[node.weight]
                for name, array in BY_KIND[node.kind].c_arrays(node, arrays).items():
                    if name != "slope" or self.jacobian is not None:
                        yield f"{name}{i}", array

    # Inference ----------------------------------------------------------------------

    def _source(self, i: int) -> int:
        """Return the node, or the input, that a value really comes from."""
        while i != ops.INPUT and self.nodes[i].passes:
            i = self.nodes[i].input
        return i

    def _last_reads(self, kept: set[int]) -> dict[int, int]:
        """Return for each value the last node that reads it; after all for kept ones.

        Values that are the network's output, or kept, are read at the end.
        """
        end = len(self.nodes)
        last: dict[int, int] = {}
        for i, node in enumerate(self.nodes):
            if node.passes:
                continue
            last[i] = i
            for source in self._sources(node):
                last[source] = i
        last.update(dict.fromkeys(kept, end))
        last[self._source(end - 1)] = end
        return last

    def _sources(self, node: Node) -> list[int]:
        both = [node.input] if node.other is None else [node.input, node.other]
        return [self._source(i) for i in both]

    def _predict(self) -> _Function:
        places = _Places("h")
        lines = self._values(places, kept=set(), slopes=False)
        return _Function([*places.declarations(), *lines], places.elements())

    def _values(self, places: _Places, kept: set[int], slopes: bool) -> list[str]:
        """Return the lines that compute y from x, in buffers that are shared.

        ``kept``: nodes whose values stay. ``slopes``: whether derivatives of
        activations (slope3) and what those of norms need (hat3, factor3) are stored
        beside. Sets `at`, where each value is.
        """
        nodes, end = self.nodes, len(self.nodes)
        last = self._last_reads(kept)
        self.at = at = {ops.INPUT: "x"}
        # Whose buffer a value is in: a chain of nodes that work in place.
        follower: dict[int, int] = {}
        for i, node in enumerate(nodes):
            if node.passes or node.kind == "dense":
                continue
            for source in self._sources(node):
                if source != ops.INPUT and last[source] == i:
                    follower[source] = i
                    break
        # The output's chain is in y.
        chain = self._source(end - 1)
        while chain != ops.INPUT:
            at[chain] = "y"
            chain = next((a for a, b in follower.items() if b == chain), ops.INPUT)

        lines: list[str] = []
        in_place = {b: a for a, b in follower.items()}
        for i, node in enumerate(nodes):
            if node.passes:
                continue
            if i not in at:
                mine = in_place.get(i)
                at[i] = places.take(node.n_out) if mine is None else at[mine]
            lines += self._value(i, node, slopes)
            for source in set(self._sources(node)):
                if last[source] == i and follower.get(source) != i:
                    places.give_back(at[source])
        output = self._source(end - 1)
        if output == ops.INPUT:
            lines.append(f"  memcpy(y, x, {self.mlp.n_out} * sizeof *y);")
        return lines

    def _value(self, i: int, node: Node, slopes: bool) -> list[str]:
        n, to = node.n_out, self.at[i]
        x, *others = (self.at[s] for s in self._sources(node))
        scale, shift = self.parameters(i, node)
        z = f"{to}[i]"
        lines: list[str] = []
        inside: list[str] = []  # of a loop over the elements
        if node.kind == "dense":
            key = node.n_in, n, node.bias is not None
            function = f"dense_{node.n_in}x{n}" + ("" if key[2] else "_plain")
            self.dense[key] = function
            bias = f", {shift}" if key[2] else ""
            lines.append(f"  @{function}({to}, {x}, {scale}{bias});")
        elif node.kind == "add":
            inside.append(f"{z} = {x}[i] + {others[0]}[i];")
        elif node.kind in BY_KIND:
            form = BY_KIND[node.kind]
            calls, element = form.c_value(self, i, node, to, x, slopes)
            lines += calls
            if element:
                inside.append(f"{z} = {element};")
        else:
            z = f"{x}[i]"

        kind = node.activation
        if kind not in ("identity", "softmax"):
            self.used.add(f"act_{kind}")
            inside.append(f"{to}[i] = @act_{kind}({z});")
            if slopes and node.has_slope:
                self.used.add(f"slope_{kind}")
                saved = ACTIVATIONS[kind].of_input
                line = f"slope{i}[i] = @slope_{kind}({z if saved else f'{to}[i]'});"
                inside.insert(len(inside) - saved, line)
        lines += _loop(n, inside)
        if kind == "softmax":
            self.used.add("softmax")
            source = x if node.kind == "activation" else to
            lines.append(f"  @softmax({to}, {source}, {n});")
        return lines

    def parameters(self, i: int, node: Node) -> tuple[str, str]:
        return (
            "0" if node.weight is None else f"@w{i}",
            "0" if node.bias is None else f"@b{i}",
        )

    def _dense(self, function: str, k: int, n: int, biased: bool) -> list[str]:
        """Return h = x W + b for one size: chains in ascending order of the inputs."""
        bias = ", const T *b" if biased else ""
        lines = [
            f"static inline void @{function}(",
            f"    T *@restrict h, const T *x, const T *w{bias}) {{",
            "  size_t j, p, q;",
        ]

        def block(columns: int, at: str) -> list[str]:
            start = f"b[{at} + q]" if biased else "0.0"
            each = f"for (q = 0; q < {columns}; ++q)"
            return [
                f"    T sum[{columns}];",
                f"    {each} sum[q] = {start};",
                f"    for (p = 0; p < {k}; ++p) {{",
                "      const T value = x[p];",
                f"      const T *row = w + p * {n} + {at};",
                f"      {each} sum[q] = fma(value, row[q], sum[q]);",
                "    }",
                f"    {each} h[{at} + q] = sum[q];",
            ]

        most = _COLUMNS[self.dtype.name]
        whole = n // most * most
        if whole:
            lines.append(f"  for (j = 0; j < {whole}; j += {most}) {{")
            lines += [*block(most, "j"), "  }"]
        if whole < n:
            lines += [f"  j = {whole};", "  {", *block(n - whole, "j"), "  }"]
        return [*lines, "}"]

    # The Jacobian -------------------------------------------------------------------

    def _is_forward(self) -> bool:
        """Whether tangents are less work than cotangents, as the core counts it."""
        forward = back = 0
        for node in self.nodes:
            size = node.n_in * node.n_out if node.kind == "dense" else 0
            if node.input != ops.INPUT:
                forward += size
            if node is not self.nodes[-1] or node.activation != "identity":
                back += size
        return self.mlp.n_in * forward < self.mlp.n_out * back

    def _all_directions(self) -> int:
        return self.mlp.n_in if self._is_forward() else self.mlp.n_out

    def _directions(self) -> int:
        return min(self._all_directions(), _DIRECTIONS)

    def _jacobian(self) -> _Function:
        nodes = self.nodes
        self.uses = [0] * len(nodes)
        for node in nodes:
            for source in (node.input, node.other):
                if source is not None and source != ops.INPUT:
                    self.uses[source] += 1
        values = _Places("h")
        kept = {i for i, node in enumerate(nodes) if node.activation in _MASKS}
        lines = self._values(values, kept, slopes=True)
        own: list[str] = []
        elements = values.elements()
        for i, node in enumerate(nodes):
            if node.has_slope:
                own.append(f"  T slope{i}[{node.n_out}];")
                elements += node.n_out
            if node.kind in BY_KIND:
                memory = BY_KIND[node.kind].c_memory(i, node)
                names = [v if n == 1 else f"{v}[{n}]" for v, n in memory.items()]
                own += [f"  T {', '.join(names)};"] if names else []
                elements += sum(memory.values())
        derivatives = _Places("t")
        inner = (self._tangents if self._is_forward() else self._cotangents)(
            derivatives
        )
        d = self._directions()
        elements += derivatives.elements() * d
        count = self._all_directions()
        return _Function(
            [
                *values.declarations(),
                *own,
                *derivatives.declarations(" * @D"),
                *lines,
                f"  for (size_t first = 0; first < {count}; first += @D) {{",
                *(f"  {line}" for line in inner),
                "  }",
            ],
            elements,
        )

    def _listed(self, i: int) -> bool:
        """Whether products may leave out what the relu of a node has made 0."""
        return (
            i != ops.INPUT
            and self._all_directions() >= _LISTS_PAY
            and self.nodes[i].activation == "relu"
        )

    def _times_slope(self, i: int, t: str) -> list[str]:
        node = self.nodes[i]
        if node.activation == "identity":
            return []
        if node.has_slope:
            self.used.add("times_slope")
            return [f"  @times_slope({t}, slope{i}, {node.n_out});"]
        function = f"times_{node.activation}"
        self.used.add(function)
        return [f"  @{function}({t}, {self.at[i]}, {node.n_out});"]

    def _tangents(self, places: _Places) -> list[str]:
        """Return the lines from unit vectors of the input to the output's tangents."""
        nodes, n_in, n_out = self.nodes, self.mlp.n_in, self.mlp.n_out
        last = self._last_reads(set())
        lines: list[str] = []
        t: dict[int, str] = {}
        unit = [s for i in nodes if i.kind != "dense" for s in (i.input, i.other)]
        if ops.INPUT in unit:
            self.used.add("unit")
            t[ops.INPUT] = places.take(n_in)
            lines.append(f"  @unit({t[ops.INPUT]}, {n_in}, first);")
        for i, node in enumerate(nodes):
            if node.passes:
                continue
            n = node.n_out
            sources = self._sources(node)
            x = t.get(sources[0], "")
            mine = [
                s for s in sources if node.kind != "dense" and last[s] == i and s in t
            ]
            to = t[i] = t[mine[0]] if mine else places.take(n)
            scale = self.parameters(i, node)[0]
            left = self._slope_is_left(i)
            if node.kind == "dense" and node.input == ops.INPUT:
                self.used.add("seed")
                lines.append(f"  @seed({to}, {scale}, {n}, first, {n_in}, {n}, 1);")
            elif node.kind == "dense":
                self.used.add("times_weights")
                listed = self._listed(node.input) and self.uses[node.input] == 1
                relu = self.at[node.input] if listed else "0"
                lines.append(
                    f"  @times_weights({to}, {x}, {scale}, {relu}, {node.n_in}, {n}, "
                    f"{n}, 1, 0);"
                )
            elif node.kind == "add":
                size, other = f"{n} * @D", t[sources[1]]
                change = f"{to}[i] = {x}[i] + {other}[i];"
                lines.append(f"  for (size_t i = 0; i < {size}; ++i) {change}")
            elif node.kind in BY_KIND:
                lines += BY_KIND[node.kind].c_tangent(self, i, node, to, x)
            else:
                lines += self.accumulate(x, to, 0, n)
            if not left:
                lines += self._times_slope(i, to)
            for source in set(sources):
                if last[source] == i and source in t and t[source] != to:
                    places.give_back(t[source])
        out = t[self._source(len(nodes) - 1)]
        return [
            *lines,
            f"  for (size_t i = 0; i < {n_out}; ++i) {{",
            f"    for (size_t d = 0; d < @D && first + d < {n_in}; ++d) {{",
            f"      jac[i * {n_in} + first + d] = {out}[i * @D + d];",
            "    }",
            "  }",
        ]

    def _slope_is_left(self, i: int) -> bool:
        """Whether a relu's derivative is left to the product that follows."""
        return (
            self._listed(i)
            and self.uses[i] == 1
            and any(n.kind == "dense" and n.input == i for n in self.nodes)
        )

    def _cotangents(self, places: _Places) -> list[str]:
        """Return the lines from unit vectors of the output to the input's cotangents.

        Of what several nodes take, the last of them writes the cotangent and the
        others add to it.
        """
        nodes, n_in, n_out = self.nodes, self.mlp.n_in, self.mlp.n_out
        lines: list[str] = []
        c: dict[int, str] = {}
        top, sloped = len(nodes), len(nodes)

        def place(to: int) -> tuple[str, int]:
            """Return where a node's cotangent is, and whether something is there."""
            if to in c:
                return c[to], 1
            c[to] = places.take(n_in if to == ops.INPUT else nodes[to].n_out)
            return c[to], 0

        final = nodes[-1]
        if final.kind == "dense" and final.activation == "identity":
            # The weights are the cotangents of what the last layer takes.
            top -= 1
            self.used.add("seed")
            to, _ = place(final.input)
            weights = self.parameters(top, final)[0]
            lines.append(
                f"  @seed({to}, {weights}, {final.n_in}, first, {n_out}, 1, {n_out});"
            )
            if final.input != ops.INPUT:
                sloped = final.input
                if not self._leaves_relu(sloped):
                    lines += self._times_slope(sloped, to)
        else:
            self.used.add("unit")
            lines.append(f"  @unit({place(top - 1)[0]}, {n_out}, first);")
        for i in reversed(range(top)):
            node, own = nodes[i], c[i]
            n = node.n_out
            relu = self._leaves_relu(i)
            if i != sloped and not relu:
                lines += self._times_slope(i, own)
            if node.other is not None:
                lines += self.accumulate(own, *place(node.other), n)
            if node.kind != "dense" and self._alone(node.input):
                c[node.input] = own
                to, add = own, 0
            else:
                to, add = place(node.input)
            weight = self.parameters(i, node)[0]
            if node.kind == "dense":
                self.used.add("times_weights")
                mask = self.at[i] if relu else "0"
                lines.append(
                    f"  @times_weights({to}, {own}, {weight}, {mask}, {n}, "
                    f"{node.n_in}, 1, {n}, {add});"
                )
            elif node.kind in BY_KIND:
                lines += BY_KIND[node.kind].c_cotangent(self, i, node, to, own, add)
            else:
                lines += self.accumulate(own, to, add, n)
            if to != own:
                places.give_back(own)
        return [
            *lines,
            f"  for (size_t d = 0; d < @D && first + d < {n_out}; ++d) {{",
            f"    for (size_t i = 0; i < {n_in}; ++i) {{",
            f"      jac[(first + d) * {n_in} + i] = {c[ops.INPUT]}[i * @D + d];",
            "    }",
            "  }",
        ]

    def _alone(self, to: int) -> bool:
        """Whether one node only takes a node's value."""
        return to != ops.INPUT and self.uses[to] == 1

    def _leaves_relu(self, i: int) -> bool:
        """Whether a layer's way back leaves out what its relu has made 0."""
        return self.nodes[i].kind == "dense" and self._listed(i)

    # For the forms of layers --------------------------------------------------------

    def accumulate(self, own: str, to: str, add: int, n: int) -> list[str]:
        """Return lines that copy n first derivatives, or add them if ``add`` is 1."""
        if to == own:
            return []
        if add:
            change = f"{to}[i] = {to}[i] + {own}[i];"
            return [f"  for (size_t i = 0; i < {n} * @D; ++i) {change}"]
        return [f"  memcpy({to}, {own}, {n} * @D * sizeof *{to});"]

    def call(self, function: str, *arguments: str) -> str:
        """Return a call of one of `math`'s functions, which the file will contain."""
        self.used.add(function)
        return f"@{function}({', '.join(arguments)})"

    def literal(self, value: float) -> str:
        """Return a C literal of a number in the model's dtype."""
        return math.literals([float(self.dtype.type(value))], self.dtype)[0]


# Activations whose derivative is made from the values h at once.
_MASKS = ("relu", "softmax")


def _loop(n: int, inside: list[str]) -> list[str]:
    if not inside:
        return []
    if len(inside) == 1:
        return [f"  for (size_t i = 0; i < {n}; ++i) {inside[0]}"]
    body = [f"    {line}" for line in inside]
    return [f"  for (size_t i = 0; i < {n}; ++i) {{", *body, "  }"]


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 80, subsequent_indent="     ")


_HEAD = """\
/* A multilayer perceptron written by fastmlp <version>:
     <layers>

   #include it in one file of your program (each that includes it has a copy of the
   weights), as C99 or newer, or as C++17 or newer; link with -lm. It needs nothing but
   a C library, allocates nothing, keeps no state, and may be called by several threads.

   void <name>_predict(const T *x, T *y)
     y[<NAME>_N_OUT] = the outputs for x[<NAME>_N_IN], which must not overlap. Takes
     <stack> bytes of the stack, and some more for calls.
<functions>
   Results have the same bits as fastmlp's on any machine that has IEEE 754 arithmetic
   in its default mode (rounding to nearest, subnormal numbers kept) and fused
   multiply-add as C99 wants it: fma() in <math.h>. Compile without -ffast-math and the
   like; products must not be fused with sums where this code does not say so
   (-ffp-contract=off, which is what GCC does by -std=c99; below it is asked for, to
   which clang does not listen if it is called with -ffp-contract=fast).
   Where the processor can do fma() it is fast if the compiler knows that: -mfma or
   -march=native on x86-64, by itself on ARM. */
#ifndef FASTMLP_<name>_h
#define FASTMLP_<name>_h

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "<name>: -ffast-math would change the results"
#endif
#if FLT_RADIX != 2 || <limits>_MANT_DIG != <digits>
#error "<name>: floating-point numbers are not those of IEEE 754"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "<name>: arithmetic has excess precision; on x86 use -msse2 -mfpmath=sse"
#endif

"""
_ABOUT_JACOBIAN = """\

   void <name>_jacobian(const T *x, T *y, T *jac)
     The same, and jac[<NAME>_N_OUT * <NAME>_N_IN] = the derivatives: element
     [o * <NAME>_N_IN + i] is that of output o with respect to input i. Takes <stack>
     bytes of the stack, and some more for calls.
"""
_BEGIN = """\
#if defined(__cplusplus)
#define <name>_restrict __restrict
#else
#define <name>_restrict restrict
#endif

/* No fusing of products and sums but by fma(). */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif
"""
_END = """\

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif
#undef <name>_restrict

#endif
"""
_PREDICT = """\
static inline void @predict(const T *@restrict x, T *@restrict y) {"""
_JACOBIAN = """\
static inline void @jacobian(const T *@restrict x, T *@restrict y,
                             T *@restrict jac) {"""
