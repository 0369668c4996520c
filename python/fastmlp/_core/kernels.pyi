"""The kernels of the active instruction set, one call each, on numpy arrays.

Names, arguments, defaults and side effects are the same as in `fastmlp.reference`. All
functions write to their first arguments. Arrays are C-contiguous, and all float arrays
of a call have the same dtype.
"""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

_Array = npt.NDArray[Any]

def gemm_nn(
    c: _Array,
    a: _Array,
    b: _Array,
    bias: _Array | None = None,
    accumulate: bool = False,
) -> None: ...
def gemm_nt(c: _Array, a: _Array, b: _Array, accumulate: bool = False) -> None: ...
def gemm_tn(c: _Array, a: _Array, b: _Array, accumulate: bool = False) -> None: ...
def dense_forward(
    h: _Array,
    x: _Array,
    w: _Array,
    bias: _Array | None,
    activation: str,
    constants: Sequence[float] = (),
) -> None: ...
def sparse_product(
    c: _Array,
    values: _Array,
    columns: _Array,
    starts: _Array,
    b: _Array,
    bias: _Array | None = None,
    order: _Array | None = None,
) -> None: ...
def sparse_gradient(
    dw: _Array,
    values: _Array,
    columns: _Array,
    starts: _Array,
    dz: _Array,
    order: _Array | None = None,
) -> None: ...
def column_sum(out: _Array, a: _Array) -> None: ...
def activation_forward(
    h: _Array, z: _Array, activation: str, constants: Sequence[float] = ()
) -> None: ...
def activation_backward(
    dz: _Array,
    dh: _Array,
    saved: _Array,
    activation: str,
    constants: Sequence[float] = (),
) -> None: ...
def activation_second(
    out: _Array,
    c: _Array,
    saved: _Array,
    activation: str,
    constants: Sequence[float] = (),
) -> None: ...
def scale_groups(
    out: _Array, a: _Array, scale: _Array, masks: bool = False
) -> None: ...
def add_scaled_groups(out: _Array, a: _Array, scale: _Array) -> None: ...
def outer_rows(out: _Array, x: _Array, d: _Array) -> None: ...
def gemm_gather_k(
    c: _Array, a: _Array, b: _Array, gate: _Array, accumulate: bool = False
) -> None: ...
def softmax_second(
    out: _Array, dot: _Array | None, c: _Array, t: _Array, h: _Array
) -> None: ...
def layer_norm_second(
    out: _Array,
    dot: _Array | None,
    c: _Array,
    t: _Array,
    xhat: _Array,
    rstd: _Array,
    scale: _Array | None,
    accumulate: bool = False,
    centred: bool = True,
    parts: int = 1,
) -> None: ...
def layer_norm_forward(
    h: _Array,
    xhat: _Array | None,
    rstd: _Array | None,
    x: _Array,
    scale: _Array | None,
    shift: _Array | None,
    eps: float,
    centred: bool = True,
    parts: int = 1,
) -> None: ...
def layer_norm_backward(
    dx: _Array,
    dh: _Array,
    xhat: _Array,
    rstd: _Array,
    scale: _Array | None,
    accumulate: bool = False,
    centred: bool = True,
    parts: int = 1,
) -> None: ...
def column_moments(mean: _Array, var: _Array, x: _Array) -> None: ...
def batch_norm_forward(
    h: _Array,
    xhat: _Array | None,
    x: _Array,
    mean: _Array,
    rstd: _Array,
    scale: _Array | None,
    shift: _Array | None,
) -> None: ...
def batch_norm_backward(
    dx: _Array,
    dh: _Array,
    xhat: _Array,
    rstd: _Array,
    scale: _Array | None,
    mean_dh: _Array,
    mean_dhx: _Array,
    accumulate: bool = False,
) -> None: ...
def batch_norm_sums(
    sum_dh: _Array, sum_dhx: _Array, dh: _Array, xhat: _Array
) -> None: ...
def prelu_forward(
    h: _Array, factors: _Array | None, x: _Array, slope: _Array
) -> None: ...
def prelu_gradient(
    dslope: _Array, dh: _Array, x: _Array, accumulate: bool = False
) -> None: ...
def glu_tangent(out: _Array, t: _Array, factors: _Array) -> None: ...
def glu_backward(
    dx: _Array, dh: _Array, factors: _Array, accumulate: bool = False
) -> None: ...
def glu_second(
    out: _Array,
    dot: _Array | None,
    c: _Array,
    t: _Array,
    factors: _Array,
    slopes: _Array,
    accumulate: bool = False,
) -> None: ...
def column_dot(out: _Array, a: _Array, b: _Array, accumulate: bool = False) -> None: ...
def add(out: _Array, a: _Array, b: _Array) -> None: ...
def multiply(out: _Array, a: _Array, b: _Array) -> None: ...
def dropout(
    h: _Array,
    mask: _Array,
    x: _Array,
    p: float,
    seed: int,
    epoch: int,
    step: int,
    layer: int,
    first: int = 0,
    alpha: bool = False,
) -> None: ...
def gaussian_noise(
    h: _Array,
    factors: _Array | None,
    x: _Array,
    deviation: float,
    seed: int,
    epoch: int,
    step: int,
    layer: int,
    first: int = 0,
) -> None: ...
def loss_rows(
    dpred: _Array | None,
    row_loss: _Array,
    pred: _Array,
    target: _Array,
    row_scale: _Array,
    loss: str,
    delta: float = 1.0,
    smoothing: float = 0.0,
    per_output: _Array | None = None,
    actions: _Array | None = None,
    ignored: int | None = None,
    second: float = 0.0,
    output_weight: _Array | None = None,
    masked: bool = False,
) -> None: ...
def sgd_step(
    param: _Array,
    buf: _Array | None,
    grad: _Array,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    maximize: bool,
    step: int,
) -> None: ...
def adagrad_step(
    param: _Array,
    sum: _Array,
    grad: _Array,
    lr: float,
    lr_decay: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    eps_mode: str,
    step: int,
) -> None: ...
def rmsprop_step(
    param: _Array,
    square_avg: _Array,
    momentum_buf: _Array | None,
    grad_avg: _Array | None,
    grad: _Array,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    maximize: bool,
    eps_mode: str,
) -> None: ...
def adam_step(
    param: _Array,
    exp_avg: _Array,
    exp_avg_sq: _Array,
    max_exp_avg_sq: _Array | None,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    eps_mode: str,
    step: int,
) -> None: ...
def adamax_step(
    param: _Array,
    exp_avg: _Array,
    exp_inf: _Array,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
    step: int,
) -> None: ...
def nadam_step(
    param: _Array,
    exp_avg: _Array,
    exp_avg_sq: _Array,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    momentum_decay: float,
    decoupled: bool,
    maximize: bool,
    mu_product: float,
    step: int,
) -> None: ...
def radam_step(
    param: _Array,
    exp_avg: _Array,
    exp_avg_sq: _Array,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    step: int,
) -> None: ...
def adadelta_step(
    param: _Array,
    square_avg: _Array,
    acc_delta: _Array,
    grad: _Array,
    lr: float,
    rho: float,
    eps: float,
    weight_decay: float,
    maximize: bool,
) -> None: ...
def rprop_step(
    param: _Array,
    prev: _Array,
    step_size: _Array,
    grad: _Array,
    etaminus: float,
    etaplus: float,
    step_min: float,
    step_max: float,
    weight_decay: float,
    maximize: bool,
) -> None: ...
def asgd_step(
    param: _Array,
    ax: _Array,
    grad: _Array,
    lr: float,
    lambd: float,
    alpha: float,
    t0: float,
    weight_decay: float,
    maximize: bool,
    step: int,
) -> None: ...
def lion_step(
    param: _Array,
    exp_avg: _Array,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None: ...
def adabelief_step(
    param: _Array,
    exp_avg: _Array,
    exp_avg_var: _Array,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    step: int,
) -> None: ...
def schedule_free_step(
    param: _Array,
    z: _Array,
    exp_avg_sq: _Array | None,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    adaptive: bool,
    maximize: bool,
    warmup_steps: int,
    r: float,
    weight_lr_power: float,
    lr_max: float,
    weight_sum: float,
    step: int,
) -> None: ...
def prodigy_step(
    param: _Array,
    exp_avg: _Array,
    exp_avg_sq: _Array,
    s: _Array,
    p0: _Array,
    grad: _Array,
    lr: float,
    beta1: float,
    beta2: float,
    beta3: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
    use_bias_correction: bool,
    safeguard_warmup: bool,
    d0: float,
    d: float,
    step: int,
) -> None: ...
def dot(out: _Array, a: _Array, b: _Array) -> None: ...
def axpy(y: _Array, x: _Array, alpha: float) -> None: ...
def sum_of_squares(out: _Array, x: _Array) -> None: ...
def prodigy_sums(
    out: _Array,
    param: _Array,
    s: _Array,
    p0: _Array | None,
    grad: _Array,
    beta3: float,
    s_share: float,
    weight_decay: float,
    maximize: bool,
) -> None: ...
def condition_gradient(
    out: _Array, grad: _Array, param: _Array, scale: float, limit: float, l1: float
) -> None: ...
def interpolate(out: _Array, x: _Array, weight: float) -> None: ...
def elementary(out: _Array, x: _Array, function: str) -> None: ...
def shuffle(order: _Array, seed: int, epoch: int) -> None: ...
