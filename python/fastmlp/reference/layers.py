"""All layers except normalisations, and the nodes that compute them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from .activations import CONSTANTS, activate, activation_backward, activation_saves
from .arrays import Array, quiet
from .initializers import Init
from .nodes import Node, Pass, backward_nodes, forward_nodes
from .noise import Noise, NoiseNode
from .normalization import (
    NORM_NODES,
    BatchNorm,
    BatchNormNode,
    Normalization,
    NormNode,
    Standardise,
    StandardiseNode,
)
from .products import column_dot, column_sum, gemm_nn, gemm_nt, gemm_tn, groups
from .random import from_minus_one_to_one

__all__ = [
    "GLU",
    "Activation",
    "Columns",
    "Concat",
    "Dense",
    "Embedding",
    "Layer",
    "PReLU",
    "Parallel",
    "Periodic",
    "PiecewiseLinear",
    "Residual",
    "Scale",
    "glu_backward",
    "glu_second",
    "glu_tangent",
    "prelu_forward",
    "prelu_gradient",
]


@dataclass(frozen=True)
class Dense:
    """``h = act(x @ W + b)`` with ``n`` units; None means the network's default.

    With the parametrization "weight_norm", ``W = V g / norm(V)``, norms of columns;
    with "spectral_norm", ``W = V / sigma`` with ``sigma = v @ V @ u``, where u and v
    approach the first singular vectors by a step of the power method in each pass in
    training mode.
    """

    n: int
    activation: str | Activation | None = None
    bias: bool = True
    init: Init | None = None
    bias_init: Init | None = None
    parametrization: str | None = None

    def __post_init__(self) -> None:
        known = (None, "weight_norm", "spectral_norm")
        if self.parametrization not in known:
            raise ValueError(f"parametrization must be one of {known}")


class Activation:
    """``h = act(z)``, where act is a name, or a function and its derivative.

    ``constants`` are the constants of act that differ from their defaults.
    """

    def __init__(
        self,
        function: str | Callable[[Array], Array],
        derivative: Callable[[Array], Array] | None = None,
        **constants: float,
    ) -> None:
        known: dict[str, float] = {}
        if isinstance(function, str):
            activation_saves(function)  # raises for an unknown name
            known = CONSTANTS.get(function, {})
        elif derivative is None:
            raise ValueError("derivative must be given if `function` is not a name")
        if constants.keys() - known.keys():
            raise TypeError(f"the constants of {function} are {list(known)}")
        self.function, self.derivative = function, derivative
        self.constants = tuple({**known, **constants}.values())


def named_activation(given: str | Activation) -> tuple[Any, tuple[float, ...]]:
    """Return the function of an activation, usually its name, and its constants."""
    layer = Activation(given) if isinstance(given, str) else given
    return layer.function, layer.constants


@dataclass(frozen=True)
class PReLU:
    """``h = x`` for x > 0, else ``slope x`` with learned slopes."""

    init: float = 0.25
    shared: bool = False


@dataclass(frozen=True)
class GLU:
    """``h = a act(b)`` for the halves a and b of each row."""

    activation: str | Activation = "sigmoid"


@dataclass(frozen=True)
class Scale:
    """``h = x s`` with a learned factor for each unit, initially 1."""


@dataclass(frozen=True)
class Columns:
    """``h_j = x[:, columns[j]]``."""

    columns: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))


@dataclass(frozen=True)
class Embedding:
    """``h = [E_0[x_0], E_1[x_1], ...]`` with a table E_c for each column of x."""

    sizes: int | Sequence[int]
    n: int

    def __post_init__(self) -> None:
        sizes = (self.sizes,) if isinstance(self.sizes, int) else tuple(self.sizes)
        object.__setattr__(self, "sizes", sizes)


@dataclass(frozen=True)
class PiecewiseLinear:
    """``h = (x - lower) slope`` for n bins of each column, from 0 to 1 within a bin.

    The first bin has no least value, the last one no greatest. The bins come from data;
    see ``MLP.adapt``. They start at 0, 1, ... with the slope 1.
    """

    n: int = 48


@dataclass(frozen=True)
class Periodic:
    """``h = [sin(z), cos(z)]`` for each column, with ``z = 2 pi w x``."""

    n: int = 16
    sigma: float = 0.1


@dataclass(frozen=True)
class Residual:
    """``h = x + f(x)``, where f is the given layers.

    If f changes the width, x is projected: ``h = x @ P + c + f(x)``.
    """

    layers: Sequence[Layer | int]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers must hold at least one layer")
        object.__setattr__(self, "layers", tuple(self.layers))

    def of(self, parts: Sequence[Sequence[Layer | int]]) -> Residual:
        """Return a block with other layers."""
        return Residual(*parts)

    @property
    def parts(self) -> tuple[Sequence[Layer | int], ...]:
        """The layers, as the only sequence inside."""
        return (self.layers,)


@dataclass(frozen=True)
class Concat:
    """``h = [x, f(x)]`` side by side, where f is the given layers."""

    layers: Sequence[Layer | int]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("layers must hold at least one layer")
        object.__setattr__(self, "layers", tuple(self.layers))

    def of(self, parts: Sequence[Sequence[Layer | int]]) -> Concat:
        """Return a block with other layers."""
        return Concat(*parts)

    @property
    def parts(self) -> tuple[Sequence[Layer | int], ...]:
        """The layers, as the only sequence inside."""
        return (self.layers,)


@dataclass(frozen=True)
class Parallel:
    """``h = [f_0(x), f_1(x), ...]`` side by side; a branch without layers is x."""

    branches: Sequence[Sequence[Layer | int]]

    def __post_init__(self) -> None:
        if len(self.branches) < 2:
            raise ValueError("branches must hold at least two sequences of layers")
        branches = tuple(tuple(branch) for branch in self.branches)
        object.__setattr__(self, "branches", branches)

    def of(self, parts: Sequence[Sequence[Layer | int]]) -> Parallel:
        """Return a layer with other branches."""
        return Parallel(parts)

    @property
    def parts(self) -> tuple[Sequence[Layer | int], ...]:
        """The branches."""
        return tuple(self.branches)


Block: TypeAlias = Residual | Concat | Parallel
Layer: TypeAlias = (
    Dense
    | Activation
    | PReLU
    | GLU
    | Scale
    | Standardise
    | Columns
    | Embedding
    | Periodic
    | PiecewiseLinear
    | Noise
    | Normalization
    | Block
)


@quiet
def prelu_forward(h: Array, factors: Array | None, x: Array, slope: Array) -> None:
    """``h = x factors``; factors are 1 where ``x > 0``, else slope (n,) or (1,)."""
    f = np.where(x > 0, 1, slope).astype(x.dtype)
    if factors is not None:
        factors[...] = f
    h[...] = x * f


@quiet
def prelu_gradient(
    dslope: Array, dh: Array, x: Array, accumulate: bool = False
) -> None:
    """``dslope = sum(dh min(x, 0))`` over rows, or over all elements to length 1."""
    each = dh * np.where(x > 0, 0, x)
    total = each.sum(axis=0) if dslope.size == x.shape[1] else each.sum()
    dslope[...] = dslope + total if accumulate else total


@quiet
def glu_tangent(out: Array, t: Array, factors: Array) -> None:
    """``out = t1 f1 + t2 f2`` for the halves of t and of each group's factors."""
    (t1, t2), (f1, f2) = _halves(t, len(factors)), _halves(factors, len(factors))
    out[...] = (t1 * f1 + t2 * f2).reshape(out.shape)


@quiet
def glu_backward(
    dx: Array, dh: Array, factors: Array, accumulate: bool = False
) -> None:
    """``dx = [dh f1, dh f2]``, or ``dx +=`` this."""
    d = groups(dh, len(factors))
    both = np.concatenate([d * f for f in _halves(factors, len(factors))], axis=2)
    both = both.reshape(dx.shape)
    dx[...] = dx + both if accumulate else both


@quiet
def glu_second(
    out: Array,
    dot: Array | None,
    c: Array,
    t: Array,
    factors: Array,
    slopes: Array,
    accumulate: bool = False,
) -> None:
    """Write the derivative of :func:`glu_backward` along a direction.

    ``c`` is the dh of the backward pass. Along the direction, the derivative of x is
    ``t``, and the derivative of c is ``dot`` (0 if None). The factors are
    ``[act(b), a act'(b)]`` and the slopes ``[act'(b), a act''(b)]``.
    """
    m = len(c)
    (t1, t2), (g1, g2) = _halves(t, m), _halves(slopes, m)
    by = c[:, np.newaxis]
    parts = [by * g1 * t2, by * (g1 * t1 + g2 * t2)]
    if dot is not None:
        d = groups(dot, m)
        parts = [p + d * f for p, f in zip(parts, _halves(factors, m), strict=True)]
    both = np.concatenate(parts, axis=2).reshape(out.shape)
    out[...] = out + both if accumulate else both


def _halves(rows: Array, m: int) -> list[Array]:
    """Return the halves (m, group, n) of rows (m * group, 2 n)."""
    return np.split(groups(rows, m), 2, axis=2)


class DenseNode(Node):
    """``dz = dh act'``, ``dW = x.T @ dz``, ``db = sum(dz)``, ``dx = dz @ W.T``."""

    @property
    def weight(self) -> str:
        """The name of W or of V, which stands for it."""
        own = {"weight_norm": "original1", "spectral_norm": "original"}
        kind = self.layer.parametrization
        return self._named(f"parametrizations.weight.{own[kind]}" if kind else "weight")

    @property
    def _magnitude(self) -> str:
        return self._named("parametrizations.weight.original0")

    def _named(self, role: str) -> str:
        return f"{self.name}.{role}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        bias: dict[str, tuple[int, ...]] = {}
        if self.layer.bias:
            bias[self._named("bias")] = (self.n_out,)
        weight: dict[str, tuple[int, ...]] = {self.weight: (self.n_in, self.n_out)}
        if self.layer.parametrization is None:
            return weight | bias
        if self.layer.parametrization == "spectral_norm":
            return bias | weight
        return {**bias, self._magnitude: (1, self.n_out), **weight}

    def statistics(self) -> dict[str, int]:
        if self.layer.parametrization != "spectral_norm":
            return {}
        names = (self._named(f"parametrizations.weight.0.{v}") for v in ("_u", "_v"))
        return dict(zip(names, (self.n_out, self.n_in), strict=True))

    def start(self, params: Mapping[str, Array], running: Mapping[str, Array]) -> None:
        """Set the magnitudes so that W is V, and find singular vectors in 15 steps."""
        v = params[self.weight]
        if self.layer.parametrization == "weight_norm":
            params[self._magnitude][:] = _norms(v)
        if self.layer.parametrization == "spectral_norm":
            vectors = from_minus_one_to_one(self.n_out + self.n_in).astype(v.dtype)
            pair = vectors[: self.n_out], vectors[self.n_out :]
            for _ in range(15):
                pair = _power_step(v, *pair)
            for name, vector in zip(self.statistics(), pair, strict=True):
                running[name][:] = vector

    def matrix(self, run: Pass) -> tuple[Array, Any]:
        """Return W, and for spectral normalisation u, v and sigma."""
        given = run.params[self.weight]
        if self.layer.parametrization is None:
            return given, None
        if self.layer.parametrization == "weight_norm":
            return given * _over(run.params[self._magnitude], _norms(given)), None
        names = list(self.statistics())
        u, v = (run.buffers[name] for name in names)
        if run.draw is not None:
            u, v = _power_step(given, u, v)
            run.running |= {names[0]: u, names[1]: v}
        sigma = v @ given @ u
        return given * _over(np.ones_like(sigma), sigma), (u, v, sigma)

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        w, vectors = self.matrix(run)
        z = np.empty((len(x), self.n_out), dtype=x.dtype)
        gemm_nn(z, x, w, run.params.get(self._named("bias")))
        h, saved = activate(z, *named_activation(self.layer.activation))
        return h, (x, saved, w, vectors)

    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        x, kept, w, vectors = saved
        dz = np.empty_like(dh)
        dx: Array = np.empty_like(x)
        activation_backward(dz, dh, kept, *named_activation(self.layer.activation))
        gemm_tn(run.grads[self.weight], x, dz)
        if self.layer.bias:
            column_sum(run.grads[self._named("bias")], dz)
        gemm_nt(dx, dz, w)
        self._pull_back(run, vectors)
        return dx

    def _pull_back(self, run: Pass, vectors: Any) -> None:
        """Turn the gradient of W, which is in the place of V's, into those of V and g.

        Weight normalisation: with the directions n of V's columns, dg = sum(dW n), and
        dV is g / norm(V) times the part of dW that is orthogonal to n. Spectral
        normalisation: dV = dW / sigma - sum(dW V) / sigma^2 v u^T.
        """
        given, grad = run.params[self.weight], run.grads[self.weight]
        if self.layer.parametrization == "weight_norm":
            norm = _norms(given)
            direction = given * _over(np.ones_like(norm), norm)
            along = (grad * direction).sum(axis=0, keepdims=True)
            run.grads[self._magnitude][...] = along
            factor = _over(run.params[self._magnitude], norm)
            grad[...] = factor * (grad - direction * along)
        if self.layer.parametrization == "spectral_norm":
            u, v, sigma = vectors
            inverse = _over(np.ones_like(sigma), sigma)
            along = (grad * given).sum() * inverse
            grad[...] = (grad - along * np.outer(v, u)) * inverse


def _power_step(given: Array, u: Array, v: Array) -> tuple[Array, Array]:
    """Return u and v after a step of the power method."""
    u = _unit(given.T @ v, u)
    return u, _unit(given @ u, v)


def _unit(vector: Array, before: Array) -> Array:
    """Return ``vector / norm``, or ``before`` if the norm is 0."""
    norm = np.sqrt((vector * vector).sum())
    return before if norm == 0 else np.asarray(vector / max(norm, 1e-12))


def _norms(v: Array) -> Array:
    """Return the norms of columns, (1, n)."""
    return np.asarray(np.sqrt((v * v).sum(axis=0, keepdims=True)))


def _over(a: Array, norm: Array) -> Array:
    """Return ``a / norm``, or 0 where the norm is 0."""
    return np.divide(a, norm, out=np.zeros_like(norm), where=norm != 0)


class _ActivationNode(Node):
    """``dz = dh * act'``."""

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        if isinstance(self.layer.function, str):
            return activate(x, *named_activation(self.layer))
        h: Array = np.asarray(self.layer.function(x), dtype=x.dtype)
        return h, x

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        if isinstance(self.layer.function, str):
            dz = np.empty_like(dh)
            activation_backward(dz, dh, saved, *named_activation(self.layer))
            return dz
        return np.asarray(dh * self.layer.derivative(saved), dtype=dh.dtype)


class PReLUNode(Node):
    """``dx = dh factors``."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}.weight": (1 if self.layer.shared else self.n_in,)}

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        h, factors = np.empty_like(x), np.empty_like(x)
        prelu_forward(h, factors, x, run.params[f"{self.name}.weight"])
        return h, (x, factors)

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        x, factors = saved
        prelu_gradient(run.grads[f"{self.name}.weight"], dh, x)
        return np.asarray(dh * factors)


class _GLUNode(Node):
    """``dx = [dh act(b), dh a act'(b)]``."""

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        a, b = np.split(x, 2, axis=1)
        function, constants = named_activation(self.layer.activation)
        gate, saved = activate(b, function, constants)
        slope = np.empty_like(a)
        activation_backward(slope, a, saved, function, constants)
        return np.asarray(a * gate), np.hstack([gate, slope])

    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        dx: Array = np.zeros_like(saved)
        glu_backward(dx, dh, saved)
        return dx


class ScaleNode(Node):
    """``dx = dh s``, ``ds = sum(dh x)``."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}.weight": (self.n_in,)}

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        return x * run.params[f"{self.name}.weight"], x

    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        column_dot(run.grads[f"{self.name}.weight"], dh, saved)
        return np.asarray(dh * run.params[f"{self.name}.weight"])


class _ColumnsNode(Node):
    """``dx`` is the sum of the ``dh`` of those outputs that are this column."""

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        return x[:, self.layer.columns], None

    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        dx: Array = np.zeros((len(dh), self.n_in), dh.dtype)
        np.add.at(dx.T, list(self.layer.columns), dh.T)
        return dx


class EmbeddingNode(Node):
    """``dE_c`` is, for each category, the sum of the ``dh`` of its rows; dx = 0."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}.weight": (sum(self.layer.sizes), self.layer.n)}

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        sizes = np.array(self.layer.sizes)
        if not ((x == np.floor(x)) & (x >= 0) & (x < sizes)).all():
            raise ValueError(f"x must hold numbers of categories below {sizes}")
        rows = x.astype(np.int64) + np.cumsum([0, *sizes[:-1]])
        return run.params[f"{self.name}.weight"][rows].reshape(len(x), -1), rows

    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        grads = run.grads[f"{self.name}.weight"]
        grads[...] = 0
        np.add.at(grads, saved, dh.reshape(*saved.shape, self.layer.n))
        return np.zeros((len(dh), self.n_in), dh.dtype)


class PiecewiseLinearNode(Node):
    """``dx = sum(dh slope)`` over the bins in which x lies."""

    @property
    def running(self) -> tuple[str, str]:
        return f"{self.name}.lower", f"{self.name}.slope"

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        n = self.layer.n
        if run.learns:
            self.learn(x, run)
        lower, slope = (
            run.buffers[name].reshape(self.n_in, n) for name in self.running
        )
        z = (x[:, :, np.newaxis] - lower) * slope
        least, most = np.zeros(n, x.dtype), np.ones(n, x.dtype)
        least[0], most[-1] = -np.inf, np.inf
        inside = (z >= least) & (z <= most)
        h: Array = np.clip(z, least, most)
        return h.reshape(len(x), -1), np.where(inside, slope, 0).astype(x.dtype)

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        return np.asarray((dh.reshape(saved.shape) * saved).sum(axis=2))

    def learn(self, x: Array, run: Pass) -> None:
        """Take the limits of the bins from the quantiles of the columns of x.

        Equal limits count once. A column with fewer bins than n has the first ones and
        the last one; the others have the slope 0.
        """
        n = self.layer.n
        limits = np.quantile(x.astype(np.float64), np.linspace(0, 1, n + 1), axis=0)
        lower, slope = (
            run.buffers[name].reshape(self.n_in, n) for name in self.running
        )
        slope[:] = 0
        for j, ends in enumerate(limits.astype(x.dtype).T):
            ends = np.unique(ends)
            lower[j] = ends[0]
            bins = len(ends) - 1
            places = [*range(bins - 1), n - 1] if bins else []
            lower[j, places], slope[j, places] = ends[:-1], 1 / np.diff(ends)


class PeriodicNode(Node):
    """``dz = dsin cos(z) - dcos sin(z)``, ``dw = 2 pi sum(x dz)``, dx likewise."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.name}.weight": (self.n_in, self.layer.n)}

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        turns = run.params[f"{self.name}.weight"] * x.dtype.type(2 * np.pi)
        z = turns * x[:, :, np.newaxis]
        parts = activate(z, "sin", ())[0], activate(z, "cos", ())[0]
        both: Array = np.concatenate(parts, axis=2)
        return both.reshape(len(x), -1), (x, *parts)

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        x, sines, cosines = saved
        dsin, dcos = np.split(dh.reshape(len(x), self.n_in, -1), 2, axis=2)
        dz = x.dtype.type(2 * np.pi) * (dsin * cosines - dcos * sines)
        by = np.einsum("bc,bcj->cj", x, dz)
        run.grads[f"{self.name}.weight"][...] = by
        w = run.params[f"{self.name}.weight"]
        return np.asarray(np.einsum("cj,bcj->bc", w, dz))


@dataclass
class _ResidualNode(Node):
    """``dx = dh + (dx of the body)``; a projection's dx takes the place of ``dh``."""

    body: list[Node]
    projection: Node | None

    @property
    def leaves(self) -> list[Node]:
        last = [] if self.projection is None else [self.projection]
        return [leaf for node in self.body + last for leaf in node.leaves]

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        h, tape = forward_nodes(self.body, x, run)
        if self.projection is None:
            return x + h, (tape, None)
        straight, saved = self.projection.forward(x, run)
        return straight + h, (tape, saved)

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        tape, straight = saved
        dx = backward_nodes(self.body, dh, tape, run)
        if self.projection is None:
            return dh + dx
        return self.projection.backward(dh, straight, run) + dx


@dataclass
class _SideBySideNode(Node):
    """``dx`` is the sum of the dx of all branches."""

    branches: list[list[Node]]

    @property
    def leaves(self) -> list[Node]:
        return [leaf for b in self.branches for node in b for leaf in node.leaves]

    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        outputs, tapes = zip(
            *(forward_nodes(branch, x, run) for branch in self.branches), strict=True
        )
        return np.hstack(outputs), (tapes, [h.shape[1] for h in outputs])

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        tapes, widths = saved
        parts = np.split(dh, np.cumsum(widths)[:-1], axis=1)
        dx = [
            backward_nodes(branch, part, tape, run)
            for branch, part, tape in zip(self.branches, parts, tapes, strict=True)
        ]
        return np.asarray(sum(dx[1:], dx[0]))


def place_layers(
    layers: Iterable[Layer | int],
    n_in: int,
    inits: tuple[Init, Init | None],
    noises: Iterator[int],
    prefix: str = "",
) -> list[Node]:
    """Return the nodes of layers, with the names of a ``torch.nn.Sequential``.

    The names are numbers. As in torch, the activation of a Dense has a separate number.
    ``inits`` are the initialisers of the weights and biases of projections.
    """
    nodes: list[Node] = []
    at = 0
    for layer in layers:
        name = f"{prefix}{at}"
        at += 1
        if isinstance(layer, Dense):
            nodes.append(DenseNode(layer, name, n_in, layer.n))
            at += layer.activation != "identity"
        elif isinstance(layer, Activation):
            nodes.append(_ActivationNode(layer, name, n_in, n_in))
        elif isinstance(layer, PReLU):
            nodes.append(PReLUNode(layer, name, n_in, n_in))
        elif isinstance(layer, GLU):
            if n_in % 2:
                raise ValueError(f"layer {name} must have an even width, got {n_in}")
            nodes.append(_GLUNode(layer, name, n_in, n_in // 2))
        elif isinstance(layer, Scale):
            nodes.append(ScaleNode(layer, name, n_in, n_in))
        elif isinstance(layer, Columns):
            nodes.append(_ColumnsNode(layer, name, n_in, len(layer.columns)))
        elif isinstance(layer, Embedding):
            if np.size(layer.sizes) != n_in:
                raise ValueError(f"layer {name} has an input of {n_in} columns")
            nodes.append(EmbeddingNode(layer, name, n_in, n_in * layer.n))
        elif isinstance(layer, PiecewiseLinear):
            nodes.append(PiecewiseLinearNode(layer, name, n_in, n_in * layer.n))
        elif isinstance(layer, Periodic):
            nodes.append(PeriodicNode(layer, name, n_in, 2 * n_in * layer.n))
        elif isinstance(layer, Standardise):
            nodes.append(StandardiseNode(layer, name, n_in, n_in))
        elif isinstance(layer, Noise):
            nodes.append(NoiseNode(layer, name, n_in, n_in, next(noises)))
        elif type(layer) in NORM_NODES:
            nodes.append(NORM_NODES[type(layer)](layer, name, n_in, n_in))
        elif isinstance(layer, Residual):
            body = place_layers(layer.layers, n_in, inits, noises, f"{name}.body.")
            n_out, projection = body[-1].n_out, None
            if n_out != n_in:
                dense = Dense(n_out, "identity", True, *inits)
                projection = DenseNode(dense, f"{name}.projection", n_in, n_out)
            nodes.append(_ResidualNode(layer, name, n_in, n_out, body, projection))
        elif isinstance(layer, Concat):
            body = place_layers(layer.layers, n_in, inits, noises, f"{name}.body.")
            n_out = n_in + body[-1].n_out
            nodes.append(_SideBySideNode(layer, name, n_in, n_out, [[], body]))
        elif isinstance(layer, Parallel):
            branches = [
                place_layers(part, n_in, inits, noises, f"{name}.branches.{i}.")
                for i, part in enumerate(layer.branches)
            ]
            n_out = sum(b[-1].n_out if b else n_in for b in branches)
            nodes.append(_SideBySideNode(layer, name, n_in, n_out, branches))
        else:
            raise TypeError(f"layers must be ints or layers, got {layer!r}")
        n_in = nodes[-1].n_out
    return nodes


def first_kinds(nodes: list[Node]) -> Iterator[str]:
    """Yield, for each dense layer, the activation for which it is initialised.

    This is the layer's own activation or, if the layer has none, the `Activation` that
    follows in the same sequence, possibly after norms, scales and random layers.
    """
    for i, node in enumerate(nodes):
        if isinstance(node, _ResidualNode):
            yield from first_kinds(node.body)
            if node.projection is not None:
                yield "identity"
        elif isinstance(node, _SideBySideNode):
            for branch in node.branches:
                yield from first_kinds(branch)
        elif isinstance(node, DenseNode):
            rest = nodes[i + 1 :] if node.layer.activation == "identity" else []
            between = (NormNode, ScaleNode, StandardiseNode, NoiseNode)
            follower = next((n for n in rest if not isinstance(n, between)), node)
            after = follower.layer
            own = after if isinstance(after, Activation) else node.layer.activation
            own = "leaky_relu" if isinstance(after, PReLU) else own
            function, _ = named_activation(own)
            yield function if isinstance(function, str) else "identity"


@dataclass
class Folded:
    """A layer for inference, with the arrays of its parameters and statistics."""

    layer: Any
    params: list[Array]
    running: list[Array]


def _affine(norm: Folded) -> tuple[Array, Array]:
    """Return the s and t for which batch norm in inference is ``h = s x + t``."""
    mean, variance = norm.running
    scale, shift = norm.params or (np.ones_like(mean), np.zeros_like(mean))
    s = scale / np.sqrt(variance + norm.layer.eps)
    return s, shift - s * mean


def _fold_branches(node: _SideBySideNode, run: Pass) -> Folded:
    """Return the node with its branches folded."""
    nothing = [Folded(Activation("identity"), [], [])]
    inside = [(fold(b, run) or nothing) if b else [] for b in node.branches]
    parts = [[item.layer for item in branch] for branch in inside]
    layer = node.layer.of(parts[-len(node.layer.parts) :])
    params = [array for branch in inside for item in branch for array in item.params]
    running = [array for branch in inside for item in branch for array in item.running]
    return Folded(layer, params, running)


def fold(nodes: list[Node], run: Pass) -> list[Folded]:
    """Return the layers without noise, with batch norms merged into dense layers.

    A batch norm is merged into the dense layer before it, ``(x @ W + b) s + t``, if
    this layer has no activation, or else into a dense layer after the batch norm,
    ``(x s + t) @ W + b``.
    Other batch norms stay. All arrays are float64.
    """
    items: list[Folded] = []
    for node in nodes:
        if isinstance(node, NoiseNode):
            continue
        if isinstance(node, _ResidualNode):
            body = fold(node.body, run) or [Folded(Activation("identity"), [], [])]
            layer = Residual([item.layer for item in body])
            if node.projection is not None:
                body += fold([node.projection], run)
            params = [array for item in body for array in item.params]
            running = [array for item in body for array in item.running]
            items.append(Folded(layer, params, running))
            continue
        if isinstance(node, _SideBySideNode):
            items.append(_fold_branches(node, run))
            continue
        own = [run.params[name].astype(np.float64) for name in node.shapes()]
        running = [run.buffers[n].astype(np.float64) for n in node.running]
        item = Folded(node.layer, own, running)
        if isinstance(node, DenseNode) and node.layer.parametrization is not None:
            plain = replace(node.layer, parametrization=None)
            item = Folded(plain, [node.matrix(run)[0].astype(np.float64)], [])
            if plain.bias:
                item.params.append(own[0])
        if isinstance(node, BatchNormNode):
            before = items[-1].layer if items else None
            if isinstance(before, Dense) and before.activation == "identity":
                s, t = _affine(item)
                w, b = [*items[-1].params, np.zeros(node.n_in)][:2]
                items[-1] = Folded(replace(before, bias=True), [w * s, b * s + t], [])
                continue
        items.append(item)

    for i in reversed(range(len(items) - 1)):
        after = items[i + 1]
        if isinstance(items[i].layer, BatchNorm) and isinstance(after.layer, Dense):
            s, t = _affine(items[i])
            w, b = [*after.params, np.zeros(after.layer.n)][:2]
            params = [s[:, None] * w, t @ w + b]
            items[i : i + 2] = [Folded(replace(after.layer, bias=True), params, [])]
    return items
