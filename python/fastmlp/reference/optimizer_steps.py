"""The steps of the optimisers: formulas on arrays, in place."""

from __future__ import annotations

import math

import numpy as np

from .arrays import Array, quiet

__all__ = [
    "OPTIMIZERS",
    "adabelief_step",
    "adadelta_step",
    "adagrad_step",
    "adam_step",
    "adamax_step",
    "asgd_step",
    "condition_gradient",
    "interpolate",
    "lion_step",
    "muon_step",
    "nadam_step",
    "orthogonalized",
    "prodigy_step",
    "prodigy_sums",
    "radam_step",
    "rmsprop_step",
    "rprop_step",
    "schedule_free_step",
    "sgd_step",
]

OPTIMIZERS: tuple[str, ...] = (
    *("sgd", "adagrad", "rmsprop", "adam", "adamax", "nadam", "radam", "adadelta"),
    *("rprop", "asgd", "lion", "adabelief", "schedule_free", "prodigy"),
)


def _gradient(param: Array, grad: Array, weight_decay: float, maximize: bool) -> Array:
    # The penalty (weight_decay / 2) |param|^2 is minimised even if the objective is
    # maximised, as in torch. Without weight decay, param must not be used, because
    # 0 * inf is NaN.
    g = -grad if maximize else grad
    return g if weight_decay == 0 else g + weight_decay * param


def normal(eps: float, param: Array) -> float:
    """Return eps, raised to a normal number so that 0 / (0 + eps) is 0."""
    return max(eps, float(np.finfo(param.dtype).smallest_normal))


def _root(square: Array) -> Array:
    """Return the root of a sum of squares, which may have underflowed to 0."""
    least = np.finfo(square.dtype).smallest_normal
    root: Array = np.sqrt(np.maximum(square, least))
    return root


def _denominator(square: Array, eps: float, eps_mode: str) -> Array:
    if eps_mode == "inside":
        return np.sqrt(square + eps)
    if eps_mode == "outside":
        return _root(square) + eps
    raise ValueError(f"unknown eps_mode {eps_mode!r}")


# fmt: off
def _decayed_gradient(
    param: Array, grad: Array, lr: float, weight_decay: float, decoupled: bool,
    maximize: bool,
) -> Array:
    """Apply decoupled weight decay to ``param``, or return a gradient with L2."""
    if decoupled:
        param *= 1 - lr * weight_decay
        weight_decay = 0.0
    return _gradient(param, grad, weight_decay, maximize)


@quiet
def sgd_step(
    param: Array, buf: Array | None, grad: Array, lr: float, momentum: float,
    dampening: float, nesterov: bool, weight_decay: float, maximize: bool, step: int,
) -> None:
    """``v = momentum v + (1 - dampening) g``, ``param -= lr v``.

    With Nesterov's momentum [2], ``param -= lr (g + momentum v)``. ``step`` counts from
    1; in step 1, v is g itself. ``buf`` holds v; it is None if ``momentum`` is 0.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    if momentum != 0:
        if buf is None:
            raise ValueError("buf must be an array when momentum is not 0")
        buf[...] = g if step == 1 else momentum * buf + (1 - dampening) * g
        g = g + momentum * buf if nesterov else buf
    param -= lr * g


@quiet
def adagrad_step(
    param: Array, sum: Array, grad: Array, lr: float, lr_decay: float, eps: float,
    weight_decay: float, maximize: bool, eps_mode: str, step: int,
) -> None:
    """``G += g^2``, ``param -= lr / (1 + (step - 1) lr_decay) g / (sqrt(G) + eps)``.

    ``sum`` holds G (torch's name) [2]. With ``eps_mode`` "inside", the denominator is
    ``sqrt(G + eps)``.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    sum += g * g
    rate = lr / (1 + (step - 1) * lr_decay)
    param -= rate * (g / _denominator(sum, eps, eps_mode))


@quiet
def rmsprop_step(
    param: Array, square_avg: Array, momentum_buf: Array | None,
    grad_avg: Array | None, grad: Array, lr: float, alpha: float, eps: float,
    momentum: float, weight_decay: float, maximize: bool, eps_mode: str,
) -> None:
    """``v = alpha v + (1 - alpha) g^2``, ``param -= lr g / (sqrt(v) + eps)`` [2].

    With ``grad_avg``, the running mean of g (centred RMSprop), its square is subtracted
    from v, and the difference is clamped at 0 because rounding can make it negative.
    ``momentum_buf`` is None without momentum.
    """
    if momentum != 0 and momentum_buf is None:
        raise ValueError("momentum_buf must be an array when momentum is not 0")
    g = _gradient(param, grad, weight_decay, maximize)
    square_avg[...] = alpha * square_avg + (1 - alpha) * g * g
    variance = square_avg
    if grad_avg is not None:
        grad_avg[...] = alpha * grad_avg + (1 - alpha) * g
        variance = np.maximum(square_avg - grad_avg * grad_avg, 0)
    direction = g / _denominator(variance, eps, eps_mode)
    if momentum != 0 and momentum_buf is not None:
        momentum_buf[...] = momentum * momentum_buf + direction
        direction = momentum_buf
    param -= lr * direction


@quiet
def adam_step(
    param: Array, exp_avg: Array, exp_avg_sq: Array, max_exp_avg_sq: Array | None,
    grad: Array, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, maximize: bool, eps_mode: str, step: int,
) -> None:
    """Adam [1] and, with ``decoupled``, AdamW; ``step`` t counts from 1.

    ``m = beta1 m + (1 - beta1) g``, ``v = beta2 v + (1 - beta2) g^2``,
    ``m_hat = m / (1 - beta1^t)``, ``v_hat = v / (1 - beta2^t)``, ``param -= lr d``.
    The direction d depends on ``eps_mode``. "outside":
    ``m_hat / (sqrt(v_hat) + eps)`` (algorithm 1). "inside":
    ``m_hat / sqrt(v_hat + eps)``. "hat":
    ``sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)`` (end of section 2).
    ``max_exp_avg_sq`` (AMSGrad) replaces v by its running maximum.
    """
    g = _decayed_gradient(param, grad, lr, weight_decay, decoupled, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * g * g
    v = exp_avg_sq
    if max_exp_avg_sq is not None:
        np.maximum(max_exp_avg_sq, exp_avg_sq, out=max_exp_avg_sq)
        v = max_exp_avg_sq
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    if eps_mode == "hat":
        scale = lr * math.sqrt(correction2) / correction1
        param -= scale * (exp_avg / (_root(v) + eps))
    else:
        m_hat, v_hat = exp_avg / correction1, v / correction2
        param -= lr * (m_hat / _denominator(v_hat, eps, eps_mode))


@quiet
def adamax_step(
    param: Array, exp_avg: Array, exp_inf: Array, grad: Array, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, maximize: bool, step: int,
) -> None:
    """Adamax [1], with eps added where torch adds it; ``step`` t counts from 1.

    ``m = beta1 m + (1 - beta1) g``, ``u = max(beta2 u, |g| + eps)``,
    ``param -= lr / (1 - beta1^t) m / u``.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_inf[...] = np.maximum(beta2 * exp_inf, np.abs(g) + eps)
    param -= lr / (1 - beta1**step) * (exp_avg / exp_inf)


@quiet
def nadam_step(
    param: Array, exp_avg: Array, exp_avg_sq: Array, grad: Array, lr: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, momentum_decay: float,
    decoupled: bool, maximize: bool, mu_product: float, step: int,
) -> None:
    """NAdam [6] with torch's momentum ``mu_t``; ``step`` t counts from 1.

    With m and v as in Adam and ``v_hat = v / (1 - beta2^t)``, ``param -= lr d``, where
    ``d = (1 - mu_t) / (1 - M) g + mu_{t+1} / (1 - M mu_{t+1}) m``, divided by
    ``sqrt(v_hat) + eps``. ``M = mu_product mu_t`` is the product of the momenta so far.
    ``decoupled`` weight decay is AdamW's.
    """
    g = _decayed_gradient(param, grad, lr, weight_decay, decoupled, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * g * g
    mu = nadam_momentum(beta1, momentum_decay, step)
    mu_next = nadam_momentum(beta1, momentum_decay, step + 1)
    product = mu_product * mu
    of_g, of_m = (1 - mu) / (1 - product), mu_next / (1 - product * mu_next)
    v_hat = exp_avg_sq / (1 - beta2**step)
    param -= lr * ((of_g * g + of_m * exp_avg) / (_root(v_hat) + eps))


def nadam_momentum(beta1: float, momentum_decay: float, step: int) -> float:
    """Return ``mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)``."""
    return float(beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay)))


@quiet
def radam_step(
    param: Array, exp_avg: Array, exp_avg_sq: Array, grad: Array, lr: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool,
    maximize: bool, step: int,
) -> None:
    """RAdam [7] with torch's eps and bound; ``step`` t counts from 1.

    With m and v as in Adam, ``R = 2 / (1 - beta2) - 1`` and
    ``r = R - 2 t beta2^t / (1 - beta2^t)``: ``param -= lr m_hat`` while r <= 5, and
    then ``param -= lr c m_hat sqrt(1 - beta2^t) / (sqrt(v) + eps)`` with the
    rectification ``c^2 = (r - 4) (r - 2) R / ((R - 4) (R - 2) r)``.
    """
    g = _decayed_gradient(param, grad, lr, weight_decay, decoupled, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * g * g
    correction = 1 - beta2**step
    most = 2 / (1 - beta2) - 1
    now = most - 2 * step * beta2**step / correction
    step_size, denominator = lr / (1 - beta1**step), np.ones_like(param)
    if now > 5:
        squared = (now - 4) * (now - 2) * most / ((most - 4) * (most - 2) * now)
        step_size *= math.sqrt(squared * correction)
        denominator = _root(exp_avg_sq) + eps
    param -= step_size * (exp_avg / denominator)


@quiet
def adadelta_step(
    param: Array, square_avg: Array, acc_delta: Array, grad: Array, lr: float,
    rho: float, eps: float, weight_decay: float, maximize: bool,
) -> None:
    """Adadelta [8].

    ``v = rho v + (1 - rho) g^2``, ``d = sqrt(u + eps) / sqrt(v + eps) g``,
    ``u = rho u + (1 - rho) d^2``, ``param -= lr d``. ``square_avg`` holds v and
    ``acc_delta`` u.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    square_avg[...] = rho * square_avg + (1 - rho) * g * g
    delta = np.sqrt(acc_delta + eps) / np.sqrt(square_avg + eps) * g
    acc_delta[...] = rho * acc_delta + (1 - rho) * delta * delta
    param -= lr * delta


@quiet
def rprop_step(
    param: Array, prev: Array, step_size: Array, grad: Array, etaminus: float,
    etaplus: float, step_min: float, step_max: float, weight_decay: float,
    maximize: bool,
) -> None:
    """Rprop [9]: ``param -= s sign(g)`` with a step size s for each element.

    s grows by the factor ``etaplus`` if g has the sign of the previous gradient, which
    ``prev`` holds, and shrinks by ``etaminus`` if it has the opposite one; it stays
    within ``step_min`` and ``step_max``. After a change of sign g counts as 0.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    agreement = np.sign(g) * np.sign(prev)
    factor = np.select([agreement > 0, agreement < 0], [etaplus, etaminus], 1.0)
    step_size[...] = np.clip(step_size * factor, step_min, step_max)
    g = np.where(agreement < 0, 0, g)
    prev[...] = g
    param -= step_size * np.sign(g)


@quiet
def asgd_step(
    param: Array, ax: Array, grad: Array, lr: float, lambd: float, alpha: float,
    t0: float, weight_decay: float, maximize: bool, step: int,
) -> None:
    """Averaged SGD [10] with torch's rates; ``step`` t counts from 1.

    ``eta = lr / (1 + lambd lr (t - 1))^alpha``,
    ``param = (1 - lambd eta) param - eta g``, and the average moves by
    ``ax += mu (param - ax)`` with ``mu = 1 / max(1, t - 1 - t0)``.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    eta = lr / (1 + lambd * lr * (step - 1)) ** alpha
    param *= 1 - lambd * eta
    param -= eta * g
    interpolate(ax, param, 1 / max(1.0, step - 1 - t0))


@quiet
def lion_step(
    param: Array, exp_avg: Array, grad: Array, lr: float, beta1: float, beta2: float,
    weight_decay: float, decoupled: bool, maximize: bool,
) -> None:
    """Lion [11]: ``param -= lr sign(beta1 m + (1 - beta1) g)``.

    Then ``m = beta2 m + (1 - beta2) g``. ``decoupled`` weight decay is AdamW's.
    """
    g = _decayed_gradient(param, grad, lr, weight_decay, decoupled, maximize)
    param -= lr * np.sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg[...] = beta2 * exp_avg + (1 - beta2) * g


@quiet
def adabelief_step(
    param: Array, exp_avg: Array, exp_avg_var: Array, grad: Array, lr: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool,
    maximize: bool, step: int,
) -> None:
    """AdaBelief [12]; ``step`` t counts from 1.

    ``m = beta1 m + (1 - beta1) g``, ``s = beta2 s + (1 - beta2) (g - m)^2 + eps``,
    ``param -= lr m_hat / (sqrt(s_hat) + eps)`` with the bias corrections of Adam.
    """
    g = _decayed_gradient(param, grad, lr, weight_decay, decoupled, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * g
    exp_avg_var[...] = beta2 * exp_avg_var + (1 - beta2) * (g - exp_avg) ** 2 + eps
    m_hat, s_hat = exp_avg / (1 - beta1**step), exp_avg_var / (1 - beta2**step)
    param -= lr * (m_hat / (_root(s_hat) + eps))


@quiet
def schedule_free_step(
    param: Array, z: Array, exp_avg_sq: Array | None, grad: Array, lr: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, adaptive: bool,
    maximize: bool, warmup_steps: int, r: float, weight_lr_power: float, lr_max: float,
    weight_sum: float, step: int,
) -> None:
    """Schedule-free SGD and, if ``adaptive``, AdamW [13]; ``step`` t counts from 1.

    ``param`` is y, the point of the gradient, between z and the average x:
    ``y = (1 - beta1) z + beta1 x``. ``u = g + weight_decay y``, where g is divided by
    ``sqrt(v) + eps`` if adaptive, with v as in Adam. Then ``z -= gamma u`` and
    ``x = (1 - c) x + c z``, so that
    ``y = y + c (z - y) - gamma (1 - beta1 (1 - c)) u`` with the old z. See
    ``schedule_free_rate`` for gamma and c. In step 1, z is y.
    """
    if step == 1:
        z[...] = param
    rate, weight, _, total = schedule_free_rate(
        lr, beta2, adaptive, warmup_steps, r, weight_lr_power, lr_max, weight_sum, step
    )
    c = weight / total if total > 0 else 0.0
    u = _gradient(param, grad, 0.0 if adaptive else weight_decay, maximize)
    if adaptive:
        if exp_avg_sq is None:
            raise ValueError("exp_avg_sq must be an array when adaptive is True")
        exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * u * u
        u = u / (_root(exp_avg_sq) + eps)
        u = u if weight_decay == 0 else u + weight_decay * param
    param += c * (z - param) - rate * (1 - beta1 * (1 - c)) * u
    z -= rate * u


def schedule_free_rate(
    lr: float, beta2: float, adaptive: bool, warmup_steps: int, r: float,
    weight_lr_power: float, lr_max: float, weight_sum: float, step: int,
) -> tuple[float, float, float, float]:
    """Return gamma, the weight of z in the average, and the new shared numbers.

    ``gamma = lr min(1, t / warmup_steps)``, times ``sqrt(1 - beta2^t)`` if adaptive.
    ``lr_max`` is the largest gamma so far, the weight ``t^r lr_max^weight_lr_power``
    and ``weight_sum`` the sum of the weights.
    """
    rate = lr * min(1.0, step / warmup_steps) if warmup_steps else lr
    rate *= math.sqrt(1 - beta2**step) if adaptive else 1.0
    lr_max = max(lr_max, rate)
    weight = float(step) ** r * lr_max**weight_lr_power
    return rate, weight, lr_max, weight_sum + weight


@quiet
def prodigy_step(
    param: Array, exp_avg: Array, exp_avg_sq: Array, s: Array, p0: Array, grad: Array,
    lr: float, beta1: float, beta2: float, beta3: float, eps: float,
    weight_decay: float, decoupled: bool, maximize: bool, use_bias_correction: bool,
    safeguard_warmup: bool, d0: float, d: float, step: int,
) -> None:
    """Prodigy [14] with the estimate d from before the step; ``step`` t from 1.

    ``m = beta1 m + (1 - beta1) d g``, ``v = beta2 v + (1 - beta2) d^2 g^2``,
    ``param -= gamma m / (sqrt(v) + d eps)``, where ``gamma = d lr``, times Adam's
    ``sqrt(1 - beta2^t) / (1 - beta1^t)`` with ``use_bias_correction``.
    ``s = beta3 s + d / d0 gamma g``, with d in place of gamma if ``safeguard_warmup``.
    ``p0`` becomes the parameters before step 1.
    """
    gamma = prodigy_rate(lr, beta1, beta2, use_bias_correction, d, step)
    if step == 1:
        p0[...] = param
    g = _decayed_gradient(param, grad, gamma, weight_decay, decoupled, maximize)
    exp_avg[...] = beta1 * exp_avg + (1 - beta1) * d * g
    exp_avg_sq[...] = beta2 * exp_avg_sq + (1 - beta2) * d * d * g * g
    s[...] = beta3 * s + d / d0 * (d if safeguard_warmup else gamma) * g
    least = float(np.finfo(param.dtype).smallest_normal)
    param -= gamma * (exp_avg / (_root(exp_avg_sq) + max(d * eps, least)))


def prodigy_rate(
    lr: float, beta1: float, beta2: float, use_bias_correction: bool, d: float,
    step: int,
) -> float:
    """Return gamma of :func:`prodigy_step`."""
    if not use_bias_correction:
        return d * lr
    return d * lr * math.sqrt(1 - beta2**step) / (1 - beta1**step)


@quiet
def prodigy_sums(
    out: Array, param: Array, s: Array, p0: Array | None, grad: Array, beta3: float,
    s_share: float, weight_decay: float, maximize: bool,
) -> None:
    """``out = [sum(g (p0 - param)), sum(|beta3 s + s_share g|)]``.

    Without ``p0``, before the first step, the first sum is 0.
    """
    g = _gradient(param, grad, weight_decay, maximize)
    out[0] = 0.0 if p0 is None else np.sum(g * (p0 - param))
    out[1] = np.sum(np.abs(beta3 * s + s_share * g))


@quiet
def orthogonalized(
    u: Array, ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float
) -> Array:
    """Return a nearly orthogonal matrix for ``u``, by a Newton-Schulz iteration.

    X = u / max(norm(u), eps), then ``ns_steps`` times X = a X + (b A + c A^2) X with
    A = X X^T, where X is u or its transpose, whichever has fewer rows (Jordan 2024).
    """
    a, b, c = ns_coefficients
    x = u / max(float(np.linalg.norm(u)), eps)
    x = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(ns_steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if u.shape == x.shape else x.T


@quiet
def muon_step(
    param: Array, exp_avg: Array, grad: Array, lr: float, momentum: float,
    nesterov: bool, weight_decay: float, ns_coefficients: tuple[float, float, float],
    ns_steps: int, eps: float, adjust_lr_fn: str | None, maximize: bool,
) -> None:
    """Take a step of Muon for a weight (in, out); see `fastmlp.Muon`."""
    g = -grad if maximize else grad
    exp_avg += (1 - momentum) * (g - exp_avg)
    u = g + momentum * (exp_avg - g) if nesterov else exp_avg
    n_in, n_out = param.shape
    ratio = math.sqrt(max(1.0, n_out / n_in))
    if adjust_lr_fn == "match_rms_adamw":
        ratio = 0.2 * math.sqrt(max(n_in, n_out))
    param *= 1 - lr * weight_decay
    param -= lr * ratio * orthogonalized(u, ns_coefficients, ns_steps, eps)


@quiet
def condition_gradient(
    out: Array, grad: Array, param: Array, scale: float, limit: float, l1: float
) -> None:
    """``out = clip(scale grad, -limit, limit) + l1 sign(param)``.

    ``scale`` clips the norm of the gradient (Pascanu et al., 2013). If ``l1`` is 0,
    ``param`` is not used, so that a NaN in it does not reach ``out``.
    """
    clipped = np.clip(grad * scale, -limit, limit)
    out[...] = clipped if l1 == 0 else clipped + l1 * np.sign(param)


@quiet
def interpolate(out: Array, x: Array, weight: float) -> None:
    """``out += weight (x - out)``, for moving averages and Polyak's updates."""
    if weight == 1:
        out[...] = x
    elif weight != 0:
        out += weight * (x - out)
