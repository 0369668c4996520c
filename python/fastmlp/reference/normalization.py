"""Normalisation of rows, of groups in rows and of columns: kernels, layers, nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array, quiet
from .nodes import Node, Pass
from .products import column_sum, groups

__all__ = [
    "BatchNorm",
    "GroupNorm",
    "LayerNorm",
    "RMSNorm",
    "Standardise",
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
def normalize(
    x: Array, axis: int, eps: float, centred: bool = True
) -> tuple[Array, Array, Array, Array]:
    """``((x - mean) rstd, mean, variance, rstd)``, ``rstd = 1 / sqrt(variance + eps)``.

    The mean and the biased variance are taken along ``axis``: 1 for layer norm, which
    normalises each row, and 0 for batch norm, which normalises each column. If
    ``centred`` is False (RMSNorm), the mean is replaced by 0.
    """
    mean = _mean(x, axis, centred)
    deviation = x - mean
    variance = (deviation * deviation).mean(axis=axis, keepdims=True)
    rstd = 1 / np.sqrt(variance + eps)
    return deviation * rstd, mean, variance, rstd


@quiet
def normalize_backward(
    dn: Array, normal: Array, rstd: Array, axis: int, centred: bool = True
) -> Array:
    """``dx = rstd (dn - mean(dn) - n mean(dn n))``, where n is the normalised x.

    The mean and rstd also depend on x. Adding a constant to all elements of x, or
    scaling them all, does not change n, so the components of dn in these two directions
    are removed. If ``centred`` is False, mean(dn) is replaced by 0.
    """
    mean = _mean(dn, axis, centred)
    along = (dn * normal).mean(axis=axis, keepdims=True)
    return np.asarray(rstd * (dn - mean - normal * along))


def _mean(x: Array, axis: int, centred: bool) -> Array:
    mean = np.mean(x, axis=axis, keepdims=True)
    return np.asarray(mean if centred else np.zeros_like(mean))


def _scaled(normal: Array, scale: Array | None, shift: Array | None) -> Array:
    if scale is None:
        return normal
    return np.asarray(normal * scale if shift is None else normal * scale + shift)


def _parts(rows: Array, parts: int) -> Array:
    """Return the parts of rows ``(m, n)`` as rows ``(m parts, n / parts)``."""
    m, n = rows.shape
    if parts < 1 or n % parts != 0:
        raise ValueError(f"parts must divide the number of columns, {n}, got {parts}")
    return rows.reshape(m * parts, n // parts)


def layer_norm_forward(
    h: Array,
    xhat: Array | None,
    rstd: Array | None,
    x: Array,
    scale: Array | None,
    shift: Array | None,
    eps: float,
    centred: bool = True,
    parts: int = 1,
) -> None:
    """``h = xhat scale + shift``, with xhat and rstd of each row from `normalize`.

    If ``scale`` is None, ``h = xhat``. ``shift`` is used only if ``centred``. Each of
    ``parts`` equal parts of a row is normalised like a row; rstd is (m parts,).
    """
    normal, _, _, deviation = normalize(_parts(x, parts), 1, eps, centred)
    normal = normal.reshape(x.shape)
    if xhat is not None:
        xhat[...] = normal
    if rstd is not None:
        rstd[...] = deviation[:, 0]
    h[...] = _scaled(normal, scale, shift if centred else None)


def layer_norm_backward(
    dx: Array,
    dh: Array,
    xhat: Array,
    rstd: Array,
    scale: Array | None,
    accumulate: bool = False,
    centred: bool = True,
    parts: int = 1,
) -> None:
    """Write the gradient with respect to x to ``dx``, or add it if ``accumulate``."""
    dn, normal = (dh if scale is None else dh * scale), _parts(xhat, parts)
    back = normalize_backward(_parts(dn, parts), normal, rstd[:, None], 1, centred)
    back = back.reshape(dx.shape)
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
    centred: bool = True,
    parts: int = 1,
) -> None:
    """Write the derivative of :func:`layer_norm_backward` along a direction.

    ``c`` is the dh of the backward pass. Along the direction, the derivative of x
    is ``t``, and the derivative of c is ``dot`` (0 if None). The product rule is
    applied to ``rstd * (u - mean(u) - xhat mean(u xhat))`` with ``u = c scale``, where
    ``xhat' = rstd (t - mean(t) - xhat mean(t xhat))`` and
    ``rstd' = -rstd^2 mean(t xhat)``.
    """
    m = len(c)
    factor = 1 if scale is None else scale

    def split(rows: Array) -> Array:
        """Return rows as (rows of c, directions, parts, elements of a part)."""
        return groups(_parts(rows, parts), m).reshape(m, -1, parts, n // parts)

    n = c.shape[1]
    u, hat, r = split(c * factor), split(xhat), rstd.reshape(m, 1, parts, 1)
    along = split(t)
    du = np.zeros_like(along) if dot is None else split(dot * factor)

    def mean(a: Array) -> Array:
        return np.asarray(a.mean(axis=-1, keepdims=True))

    def deviation(a: Array) -> Array:
        return np.asarray(a - _mean(a, -1, centred))

    turn = r * (deviation(along) - hat * mean(along * hat))
    dr = -r * r * mean(along * hat)
    inside = deviation(u) - hat * mean(u * hat)
    moved = deviation(du) - turn * mean(u * hat) - hat * mean(du * hat + u * turn)
    result = (dr * inside + r * moved).reshape(out.shape)
    out[...] = out + result if accumulate else result


def column_moments(mean: Array, var: Array, x: Array) -> None:
    """Write the mean and the biased variance of the columns of ``x (m, n)``."""
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
    """``xhat = (x - mean) rstd`` and ``h = xhat scale + shift``, for each column."""
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
    """``dx = scale rstd (dh - mean_dh - xhat mean_dhx)``, or add this to ``dx``.

    ``mean_dh`` and ``mean_dhx`` are the means of dh and ``dh xhat`` over the batch.
    They are 0 if the forward pass used running statistics, which do not depend on x.
    """
    factor = rstd if scale is None else rstd * scale
    back = factor * (dh - mean_dh - xhat * mean_dhx)
    dx[...] = dx + back if accumulate else back


def batch_norm_sums(sum_dh: Array, sum_dhx: Array, dh: Array, xhat: Array) -> None:
    """Write the sums of dh and of ``dh xhat`` over the batch."""
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
class RMSNorm(Normalization):
    """``h = scale x / sqrt(mean(x^2) + eps)``, of each row."""

    eps: float = 1e-5
    affine: bool = True


@dataclass(frozen=True)
class GroupNorm(Normalization):
    """The formula of `LayerNorm`, with the mean and variance of each group of a row.

    The groups are ``groups`` equal parts of a row.
    """

    groups: int
    eps: float = 1e-5
    affine: bool = True


@dataclass(frozen=True)
class BatchNorm(Normalization):
    """The formula of `LayerNorm`, with the mean and variance of each column.

    Training uses the mean and variance of the batch, inference the running ones. The
    running mean and variance start at 0 and 1. Each batch updates them to
    ``(1 - momentum) running + momentum batch``, with the batch's unbiased variance.
    """

    eps: float = 1e-5
    momentum: float = 0.1
    affine: bool = True


@dataclass(frozen=True)
class Standardise:
    """``h = (x - mean) / sqrt(variance)``, or ``h = x sqrt(variance) + mean``.

    The mean and variance of each column come from data; see ``MLP.adapt``. They start
    at 0 and 1, and no pass changes them. The inverse must be the last layer.
    """

    inverse: bool = False


class StandardiseNode(Node):
    """``dx = dh / sqrt(variance)`` or, for the inverse, ``dx = dh sqrt(variance)``."""

    @property
    def running(self) -> tuple[str, str]:
        return f"{self.name}.mean", f"{self.name}.var"

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        if run.learns and not self.layer.inverse:
            self.learn(x, run)
        mean, variance = (run.buffers[name] for name in self.running)
        if self.layer.inverse:
            factor = np.sqrt(variance)
            return x * factor + mean, factor
        factor = 1 / np.sqrt(variance)
        return (x - mean) * factor, factor

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        return np.asarray(dh * saved)

    def learn(self, x: Array, run: Pass) -> None:
        """Take the mean and the biased variance of the columns of x.

        A variance is replaced by 1 if it is no larger than rounding makes that of a
        constant column: ``m eps var + (m eps mean)^2`` for m rows (scikit-learn's
        test).
        """
        x = x.astype(np.float64)
        mean, var, m = x.mean(axis=0), x.var(axis=0), len(x)
        eps = np.finfo(np.float64).eps
        var[var <= m * eps * var + (m * eps * mean) ** 2] = 1
        for name, value in zip(self.running, (mean, var), strict=True):
            run.buffers[name][:] = value


class NormNode(Node):
    """``dscale = sum(dh n)``, ``dshift = sum(dh)`` over rows, ``dn = dh scale``.

    Here n is the normalised x. If n was computed from running statistics, which do not
    depend on x, ``dx = rstd dn``; otherwise :func:`normalize_backward` computes dx.
    """

    centred = True
    roles: tuple[str, ...] = ("weight", "bias")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        names = self.roles if self.layer.affine else ()
        return {f"{self.name}.{name}": (self.n_in,) for name in names}

    @quiet
    def forward(self, x: Array, run: Pass) -> tuple[Array, Any]:
        normal, rstd, axis = self._normalize(x, run)
        saved = normal, rstd, axis
        if not self.layer.affine:
            return normal, saved
        return _scaled(normal, *self._scale_and_shift(run.params)), saved

    def _scale_and_shift(
        self, arrays: Mapping[str, Array]
    ) -> tuple[Array, Array | None]:
        names = list(self.shapes())
        shift = arrays[names[1]] if len(names) > 1 else None
        return arrays[names[0]], shift

    def _normalize(self, x: Array, run: Pass) -> tuple[Array, Array, int | None]:
        """Return the normalised x, rstd, and the axis along which the mean is taken.

        The axis is None if the mean and rstd do not depend on x.
        """
        raise NotImplementedError

    @quiet
    def backward(self, dh: Array, saved: Any, run: Pass) -> Array:
        normal, rstd, axis = saved
        dn = dh
        if self.layer.affine:
            scale, shift = self._scale_and_shift(run.grads)
            column_sum(scale, dh * normal)
            if shift is not None:
                column_sum(shift, dh)
            dn = dh * self._scale_and_shift(run.params)[0]
        if axis is None:
            return np.asarray(rstd * dn)
        return self._to_input(dn, normal, rstd, axis).reshape(dh.shape)

    def _to_input(self, dn: Array, normal: Array, rstd: Array, axis: int) -> Array:
        return normalize_backward(dn, normal, rstd, axis, self.centred)


class LayerNormNode(NormNode):
    def _normalize(self, x: Array, run: Pass) -> tuple[Array, Array, int | None]:
        normal, _, _, rstd = normalize(x, 1, self.layer.eps, self.centred)
        return normal, rstd, 1


class GroupNormNode(NormNode):
    def _normalize(self, x: Array, run: Pass) -> tuple[Array, Array, int | None]:
        normal, _, _, rstd = normalize(
            _parts(x, self.layer.groups), 1, self.layer.eps, self.centred
        )
        return normal.reshape(x.shape), rstd, 1

    def _to_input(self, dn: Array, normal: Array, rstd: Array, axis: int) -> Array:
        dn, normal = (_parts(a, self.layer.groups) for a in (dn, normal))
        return super()._to_input(dn, normal, rstd, axis)


class RMSNormNode(LayerNormNode):
    centred = False
    roles = ("weight",)


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
            raise ValueError(
                "x must have at least 2 rows, because BatchNorm is in training mode, "
                f"got {len(x)}"
            )
        normal, *batch, rstd = normalize(x, 0, self.layer.eps)
        batch[1] = batch[1] * (len(x) / (len(x) - 1))
        m = self.layer.momentum
        for name, new in zip(self.running, batch, strict=True):
            run.running[name] = (1 - m) * run.buffers[name] + m * new[0]
        return normal, rstd, 0


# The class of node for each normalisation.
NORM_NODES: dict[type, type[NormNode]] = {
    LayerNorm: LayerNormNode,
    RMSNorm: RMSNormNode,
    GroupNorm: GroupNormNode,
    BatchNorm: BatchNormNode,
}
