"""Layer normalisation and batch normalisation: kernels, layers and nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, quiet
from .nodes import Node, Pass
from .products import column_sum, groups

__all__ = [
    "BatchNorm",
    "LayerNorm",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_sums",
    "column_moments",
    "layer_norm_backward",
    "layer_norm_forward",
    "layer_norm_second",
    "normalize",
    "normalize_backward",
]


@quiet
def normalize(x: Array, axis: int, eps: float) -> tuple[Array, Array, Array, Array]:
    """``((x - mean) rstd, mean, variance, rstd)``, ``rstd = 1 / sqrt(variance + eps)``.

    Mean and variance, that of the sum of squares over n, are those along ``axis``: 1
    for layer norm, where each row stands alone, 0 for batch norm.
    """
    mean = x.mean(axis=axis, keepdims=True)
    centred = x - mean
    variance = (centred * centred).mean(axis=axis, keepdims=True)
    rstd = 1 / np.sqrt(variance + eps)
    return centred * rstd, mean, variance, rstd


@quiet
def normalize_backward(dn: Array, normal: Array, rstd: Array, axis: int) -> Array:
    """``dx = rstd (dn - mean(dn) - n mean(dn n))`` for ``n`` of :func:`normalize`.

    Mean and rstd depend on x, too: moving all x alike, or scaling them, leaves n as it
    is, so what dn has of either direction is taken off.
    """
    mean = dn.mean(axis=axis, keepdims=True)
    along = (dn * normal).mean(axis=axis, keepdims=True)
    return np.asarray(rstd * (dn - mean - normal * along))


def _scaled(normal: Array, scale: Array | None, shift: Array | None) -> Array:
    if scale is None or shift is None:
        return normal
    return np.asarray(normal * scale + shift)


def layer_norm_forward(
    h: Array,
    xhat: Array | None,
    rstd: Array | None,
    x: Array,
    scale: Array | None,
    shift: Array | None,
    eps: float,
) -> None:
    """``xhat``, ``rstd`` (by row) of :func:`normalize`; ``h = xhat scale + shift``."""
    normal, _, _, deviation = normalize(x, 1, eps)
    if xhat is not None:
        xhat[...] = normal
    if rstd is not None:
        rstd[...] = deviation[:, 0]
    h[...] = _scaled(normal, scale, shift)


def layer_norm_backward(
    dx: Array,
    dh: Array,
    xhat: Array,
    rstd: Array,
    scale: Array | None,
    accumulate: bool = False,
) -> None:
    """``dx`` of :func:`layer_norm_forward`, added to what it holds if asked for."""
    dn = dh if scale is None else dh * scale
    back = normalize_backward(dn, xhat, rstd[:, np.newaxis], 1)
    dx[...] = dx + back if accumulate else back


def layer_norm_second(
    out: Array,
    dot: Array | None,
    c: Array,
    t: Array,
    xhat: Array,
    rstd: Array,
    scale: Array | None,
    accumulate: bool = False,
) -> None:
    """How :func:`layer_norm_backward` of ``c`` moves as x does by ``t``, c by ``dot``.

    The product rule on ``rstd * (u - mean(u) - xhat mean(u xhat))``, ``u = c scale``,
    with ``xhat' = rstd (t - mean(t) - xhat mean(t xhat))`` and
    ``rstd' = -rstd^2 mean(t xhat)``.
    """
    m = len(c)
    factor = 1 if scale is None else scale
    u, hat, r = (c * factor)[:, np.newaxis], xhat[:, np.newaxis], rstd[:, None, None]
    along = groups(t, m)
    du = np.zeros_like(along) if dot is None else groups(dot, m) * factor

    def mean(a: Array) -> Array:
        return np.asarray(a.mean(axis=-1, keepdims=True))

    turn = r * (along - mean(along) - hat * mean(along * hat))
    dr = -r * r * mean(along * hat)
    inside = u - mean(u) - hat * mean(u * hat)
    moved = du - mean(du) - turn * mean(u * hat) - hat * mean(du * hat + u * turn)
    result = (dr * inside + r * moved).reshape(out.shape)
    out[...] = out + result if accumulate else result


def column_moments(mean: Array, var: Array, x: Array) -> None:
    """Mean and variance (that of sums over m) of the columns of ``x (m, n)``."""
    mean[...] = x.mean(axis=0)
    var[...] = ((x - mean) ** 2).mean(axis=0)


def batch_norm_forward(
    h: Array,
    xhat: Array | None,
    x: Array,
    mean: Array,
    rstd: Array,
    scale: Array | None,
    shift: Array | None,
) -> None:
    """``xhat = (x - mean) rstd`` by column; ``h = xhat scale + shift``."""
    normal = (x - mean) * rstd
    if xhat is not None:
        xhat[...] = normal
    h[...] = _scaled(normal, scale, shift)


def batch_norm_backward(
    dx: Array,
    dh: Array,
    xhat: Array,
    rstd: Array,
    scale: Array | None,
    mean_dh: Array,
    mean_dhx: Array,
    accumulate: bool = False,
) -> None:
    """``dx = scale rstd (dh - mean_dh - xhat mean_dhx)``, or added to what it holds.

    The means are those over the batch of dh and of ``dh xhat``; with zeros it is the
    way back through fixed statistics.
    """
    factor = rstd if scale is None else rstd * scale
    back = factor * (dh - mean_dh - xhat * mean_dhx)
    dx[...] = dx + back if accumulate else back


def batch_norm_sums(sum_dh: Array, sum_dhx: Array, dh: Array, xhat: Array) -> None:
    """Write the sums over the batch of dh and of ``dh xhat``."""
    sum_dh[...] = dh.sum(axis=0)
    sum_dhx[...] = (dh * xhat).sum(axis=0)


class Normalization:
    """Base class of the normalisations."""


@dataclass(frozen=True)
class LayerNorm(Normalization):
    """``h = scale (x - mean) / sqrt(variance + eps) + shift``, of each row."""

    eps: float = 1e-5
    affine: bool = True


@dataclass(frozen=True)
class BatchNorm(Normalization):
    """The same of each column: of the batch in training, of running statistics else.

    Those start from 0 and 1, and are ``(1 - momentum) running + momentum batch`` after
    each batch, with the batch's variance over its rows less one.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True


class NormNode(Node):
    """``dscale = sum(dh n)``, ``dshift = sum(dh)`` over rows, ``dn = dh scale``.

    Where n is normalised by numbers that do not depend on x, ``dx = rstd dn``, else as
    :func:`normalize_backward` says.
    """

    def shapes(self) -> dict[str, tuple[int, ...]]:
        names = ("weight", "bias") if self.layer.affine else ()
        return {f"{self.name}.{name}": (self.n_in,) for name in names}

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        normal, rstd, axis = self._normalize(x, run)
        saved = normal, rstd, axis
        if not self.layer.affine:
            return normal, saved
        scale, shift = (run.params[name] for name in self.shapes())
        return normal * scale + shift, saved

    def _normalize(self, x: Array, run: Pass) -> tuple[Array, Array, int | None]:
        """n, rstd, and the axis along which they depend on x, if they do."""
        raise NotImplementedError

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        normal, rstd, axis = saved
        dn = dh
        if self.layer.affine:
            scale, shift = self.shapes()
            column_sum(run.grads[scale], dh * normal)
            column_sum(run.grads[shift], dh)
            dn = dh * run.params[scale]
        if axis is None:
            return np.asarray(rstd * dn)
        return normalize_backward(dn, normal, rstd, axis)


class LayerNormNode(NormNode):
    def _normalize(self, x: Array, run: Pass) -> tuple[Array, Array, int | None]:
        normal, _, _, rstd = normalize(x, 1, self.layer.eps)
        return normal, rstd, 1


class BatchNormNode(NormNode):
    @property
    def running(self) -> tuple[str, str]:
        """Names of the running mean and variance."""
        return f"{self.name}.running_mean", f"{self.name}.running_var"

    def _normalize(self, x: Array, run: Pass) -> tuple[Array, Array, int | None]:
        mean, variance = (run.buffers[name] for name in self.running)
        if run.draw is None:
            rstd = 1 / np.sqrt(variance + self.layer.eps)
            return (x - mean) * rstd, rstd, None
        if len(x) < 2:
            raise ValueError("x must have 2 rows or more: BatchNorm is in training")
        normal, *batch, rstd = normalize(x, 0, self.layer.eps)
        batch[1] = batch[1] * (len(x) / (len(x) - 1))
        m = self.layer.momentum
        for name, new in zip(self.running, batch, strict=True):
            run.running[name] = (1 - m) * run.buffers[name] + m * new[0]
        return normal, rstd, 0


# The node of each normalisation.
NORM_NODES: dict[type, type[NormNode]] = {
    LayerNorm: LayerNormNode,
    BatchNorm: BatchNormNode,
}
