"""The compiled core: what ``cpp/bindings`` exports.

Methods on a hot path accept only arrays that they can use as they are (the right dtype,
C-contiguous, aligned, native byte order, matching shapes) and return ``NotImplemented``
for anything else; the Python layer then converts the argument and calls again, or
explains what is wrong with it.
"""

from collections.abc import Callable, Sequence
from types import NotImplementedType
from typing import Any, NotRequired, TypedDict, TypeVar

import numpy as np
import numpy.typing as npt

from . import kernels as kernels

_T = TypeVar("_T")
_Array = npt.NDArray[Any]
_Rows = tuple[_Array, _Array, _Array, _Array, _Array]
# Transitions, their slots, discounts and extra bytes.
_Sample = tuple[_Rows, _Array, _Array | None, _Array | None]

__version__: str
ACTIVATIONS: tuple[str, ...]

# For each activation that has constants, their names, defaults and least values.
ACTIVATION_CONSTANTS: dict[str, dict[str, tuple[float, float]]]

# Largest value of a constant.
MOST_CONSTANT: float
LOSSES: tuple[str, ...]
OPTIMIZERS: tuple[str, ...]
# Epoch numbers from which dropout draws its random numbers outside `Mlp.fit_epoch`: in
# single optimiser steps, and in other passes in training mode.
STEP_DRAWS: int
PASS_DRAWS: int
# Number of directions of a Jacobian from which on it is faster to skip, in products,
# the elements that a relu has set to 0.
GATHER_PAYS: int

class DivergenceError(FloatingPointError): ...

class _OptimizerState(TypedDict):
    step: int
    slots: list[dict[str, _Array]]
    shared: NotRequired[dict[str, float]]

class Loss:
    def __init__(
        self,
        kind: str,
        delta: float = 1.0,
        reduction: str = "mean",
        smoothing: float = 0.0,
        per_output: Sequence[float] = (),
        action: bool = False,
        scale: float = 1.0,
        ignored: int | None = None,
        second: float = 0.0,
        output_weight: Sequence[float] = (),
        masked: bool = False,
    ) -> None: ...
    @property
    def kind(self) -> str: ...
    @property
    def delta(self) -> float: ...
    @property
    def second(self) -> float: ...
    @property
    def output_weight(self) -> tuple[float, ...]: ...
    # Whether NaN means that there is no target.
    @property
    def masked(self) -> bool: ...
    @property
    def reduction(self) -> str: ...
    @property
    def smoothing(self) -> float: ...
    @property
    def per_output(self) -> tuple[float, ...]: ...
    @property
    def action(self) -> bool: ...
    @property
    def scale(self) -> float: ...
    @property
    def ignored(self) -> int | None: ...
    # The targets that the loss allows: "numbers", "probabilities", "signs", "counts",
    # "positive" or "labels".
    @property
    def allowed(self) -> str: ...
    # Whether rows are compared as a whole, such as by their classes.
    @property
    def of_rows(self) -> bool: ...
    @property
    def takes_labels(self) -> bool: ...
    @property
    def predictions_per_target(self) -> int: ...
    def class_count(self, n_out: int) -> int: ...
    def value(
        self, pred: object, target: object, sample_weight: object = None
    ) -> float | NotImplementedType: ...
    def value_and_grad(
        self, pred: object, target: object, sample_weight: object = None
    ) -> tuple[float, _Array] | NotImplementedType: ...

class Optimizer:
    def __init__(self, kind: str, **hyper: float | bool | str) -> None: ...
    @property
    def kind(self) -> str: ...
    def get(self, name: str) -> float | bool | str: ...
    def set(self, name: str, value: float | bool) -> None: ...
    # For each group: hyperparameters of its own, factor of the learning rate, whether
    # decay applies to all its parameters, and whether it is clipped alone. `ranges`:
    # (begin, end, group).
    def set_groups(
        self,
        groups: list[tuple[dict[str, Any], float | None, bool, bool]],
        ranges: list[tuple[int, int, int]],
    ) -> None: ...
    @property
    def step_count(self) -> int: ...
    # The number of gradients in all steps, and of those accumulated for the next one.
    @property
    def gradient_count(self) -> int: ...
    def step(
        self, params: list[Any], grads: list[Any]
    ) -> NotImplementedType | None: ...
    def state(self) -> _OptimizerState: ...
    def load_state(self, state: _OptimizerState) -> None: ...
    @property
    def slot_names(self) -> tuple[str, ...]: ...
    @property
    def shared(self) -> dict[str, float]: ...
    def layout(self) -> list[dict[str, tuple[str, int]]]: ...
    def read_slot(self, which: int, name: str, start: int, out: _Array) -> None: ...
    def write_slot(self, which: int, name: str, start: int, values: _Array) -> None: ...
    def allocate(
        self,
        step: int,
        vectors: Sequence[tuple[str, int]],
        shared: dict[str, float],
    ) -> None: ...
    def reset(self) -> None: ...

_Report = tuple[str, float, float, float, float, int]

class ReplayBuffer:
    def __init__(
        self,
        capacity: int,
        obs_size: int,
        action_floats: int,
        seed: int,
        extra_bytes: int,
        n_steps: int,
        gamma: float | None,
        priorities: tuple[float, float] | None,
    ) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def added(self) -> int: ...
    @property
    def drawn(self) -> int: ...
    def add(
        self,
        obs: object,
        action: object,
        reward: object,
        next_obs: object,
        terminated: object,
        truncated: object,
    ) -> bool: ...
    def add_batch(
        self,
        obs: _Array,
        actions: _Array,
        rewards: _Array,
        next_obs: _Array,
        terminated: _Array,
        truncated: _Array | None,
        where: _Array | None,
        extra: _Array | None,
    ) -> None: ...
    def sample(self, rows: int) -> _Sample: ...
    def sample_by_priority(
        self, rows: int, beta: float
    ) -> tuple[_Rows, _Array, _Array | None, _Array | None, _Array]: ...
    def gather(self, indices: _Array) -> _Sample: ...
    def prioritize(self, indices: _Array, priorities: _Array) -> None: ...
    def copy_out(self) -> tuple[_Rows, _Array | None]: ...
    def links(self) -> tuple[_Array, _Array]: ...
    def weights(self) -> tuple[_Array, float]: ...
    def restore(
        self,
        obs: _Array,
        actions: _Array,
        rewards: _Array,
        next_obs: _Array,
        terminated: _Array,
        extra: _Array | None,
        added: int,
        drawn: int,
        next: _Array | None,
        open: _Array | None,
        weights: _Array | None,
        largest: float,
    ) -> None: ...

def action_value_targets(
    q: object, by: object, rewards: object, terminated: object, gamma: float | _Array
) -> _Array | NotImplementedType: ...
def accumulate_backwards(x: _Array, factor: _Array) -> None: ...

class Lbfgs:
    def __init__(
        self,
        history: int,
        max_line_search: int,
        c1: float,
        c2: float,
        tolerance: float,
    ) -> None: ...
    @property
    def iterations(self) -> int: ...
    @property
    def evaluations(self) -> int: ...
    def expect_change(self) -> None: ...
    def reset(self) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...
    def minimize(
        self,
        theta: _Array,
        f: Callable[[_Array], tuple[float, _Array]],
        max_iterations: int,
    ) -> _Report: ...

class LevenbergMarquardt:
    def __init__(
        self, damping: float, max_tries: int, tolerance: float, acceleration: bool
    ) -> None: ...
    @property
    def iterations(self) -> int: ...
    @property
    def evaluations(self) -> int: ...
    def expect_change(self) -> None: ...
    def reset(self) -> None: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: dict[str, Any]) -> None: ...
    def minimize(
        self,
        theta: _Array,
        f: Callable[[_Array], tuple[_Array, _Array]],
        max_iterations: int,
    ) -> _Report: ...

class EpochProgress:
    def __init__(self) -> None: ...
    @property
    def steps(self) -> int: ...
    @steps.setter
    def steps(self, value: int) -> None: ...
    @property
    def total(self) -> float: ...
    @total.setter
    def total(self, value: float) -> None: ...
    @property
    def divisor(self) -> float: ...
    @divisor.setter
    def divisor(self, value: float) -> None: ...

class OpInfo:
    """An operation that a network computes for a layer, or for a part of one."""

    # Name of the op's layer: "2", "3.body.0", "3.projection", ...
    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def n_in(self) -> int: ...
    @property
    def n_out(self) -> int: ...
    # `input` is the index of the op whose output this op reads, -1 for the network's
    # input; `other` is the second addend of a residual block's end.
    @property
    def input(self) -> int: ...
    @property
    def other(self) -> int | None: ...
    # None for a custom function.
    @property
    def activation(self) -> str | None: ...
    @property
    def weight_size(self) -> int: ...
    # Offsets into the parameters (the scale and shift of a normalisation), and into the
    # running statistics.
    @property
    def weight(self) -> int | None: ...
    @property
    def bias(self) -> int | None: ...
    @property
    def statistics(self) -> int | None: ...
    @property
    def weight_frozen(self) -> bool: ...
    @property
    def bias_frozen(self) -> bool: ...

class SparseMatrix:
    def __init__(
        self, data: _Array, indices: _Array, indptr: _Array, n_columns: int
    ) -> None: ...
    @property
    def data(self) -> _Array: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: slice | _Array) -> SparseMatrix: ...
    def toarray(self) -> _Array: ...
    def with_data(self, data: _Array) -> SparseMatrix: ...

class Mlp:
    # `layers`: for each layer its "kind", and the fields of the core's LayerSpec.
    def __init__(
        self,
        dtype: str,
        n_in: int,
        layers: list[dict[str, Any]],
        operands: str = "full",
    ) -> None: ...
    @property
    def params(self) -> _Array: ...
    @property
    def buffers(self) -> _Array: ...
    @property
    def ops(self) -> list[OpInfo]: ...
    # (seed, passes in training mode, batches tracked)
    @property
    def training_state(self) -> tuple[int, int, int]: ...
    @training_state.setter
    def training_state(self, state: tuple[int, int, int]) -> None: ...
    @property
    def watch(self) -> bool: ...
    @watch.setter
    def watch(self, on: bool) -> None: ...
    def last_step(self) -> dict[str, Any] | None: ...
    @property
    def n_params(self) -> int: ...
    @property
    def takes_sparse(self) -> bool: ...
    # For each op whether its weight and its bias are frozen.
    def set_frozen(self, of_ops: list[tuple[bool, bool]]) -> None: ...
    # The rate, or standard deviation, of each layer that is random in training.
    def set_rates(self, rates: list[float]) -> None: ...
    def predict(self, x: object, out: object = None) -> _Array | NotImplementedType: ...
    def forward(
        self,
        x: object,
        training: bool = False,
        draw: tuple[int, int, int] | None = None,
    ) -> _Array | NotImplementedType: ...
    def backward(self, dy: object) -> tuple[_Array, _Array] | NotImplementedType: ...
    def backward_step(
        self, dy: object, optimizer: Optimizer
    ) -> NotImplementedType | None: ...
    def update(
        self, grads: object, optimizer: Optimizer
    ) -> NotImplementedType | None: ...
    def vjp(
        self, x: object, dy: object, training: bool = False
    ) -> tuple[_Array, _Array, _Array] | NotImplementedType: ...
    def jacobian(self, x: object) -> _Array | NotImplementedType: ...
    def jvp(
        self, x: object, v: object
    ) -> tuple[_Array, _Array] | NotImplementedType: ...
    def hvp(
        self, x: object, v: object, weights: _Array
    ) -> _Array | NotImplementedType: ...
    def hessian(self, x: object, weights: _Array) -> _Array | NotImplementedType: ...
    def param_jacobian(self, x: object) -> _Array | NotImplementedType: ...
    def per_sample_grads(
        self, x: object, y: object, loss: Loss, sample_weight: object = None
    ) -> _Array | NotImplementedType: ...
    def value_and_grad(
        self,
        x: object,
        y: object,
        loss: Loss,
        sample_weight: object = None,
        training: bool = False,
        l2: float = 0.0,
    ) -> tuple[float, _Array] | NotImplementedType: ...
    def train_step(
        self,
        x: object,
        y: object,
        loss: Loss,
        optimizer: Optimizer,
        sample_weight: object = None,
    ) -> float | NotImplementedType: ...
    def evaluate(
        self, x: object, y: object, loss: Loss, sample_weight: object = None
    ) -> float | NotImplementedType: ...
    def iterate_lbfgs(
        self,
        solver: Lbfgs,
        x: object,
        y: object,
        loss: Loss,
        sample_weight: object,
        l2: float = 0.0,
    ) -> _Report | NotImplementedType: ...
    def iterate_lm(
        self,
        solver: LevenbergMarquardt,
        x: object,
        y: object,
        loss: Loss,
        sample_weight: object,
        l2: float = 0.0,
    ) -> _Report | NotImplementedType: ...
    def begin_fit(self, token: object) -> None: ...
    def end_fit(self, token: object) -> None: ...
    # `order`: the indices (int64) of the epoch's rows in the order in which to use
    # them, without shuffle. `first_row`: the position in the order at which to start.
    # `scheduled`: values of hyperparameters (float64) in the steps from there. `l2`:
    # each step's loss includes l2 / 2 * (sum of squares of the dense weights) / (sum of
    # the batch's sample weights), as in value_and_grad.
    def fit_epoch(
        self,
        x: object,
        y: object,
        loss: Loss,
        optimizer: Optimizer,
        sample_weight: object,
        *,
        batch_size: int,
        seed: int,
        epoch: int,
        progress: EpochProgress,
        shuffle: bool = True,
        scheduled: dict[str, _Array] | None = None,
        first_row: int = 0,
        listener: object = None,
        order: _Array | None = None,
        l2: float = 0.0,
        rates: _Array | None = None,
    ) -> float | NotImplementedType: ...
    def interpolate(self, other: Mlp, weight: float) -> None: ...

class Predictor:
    def __init__(
        self,
        net: Mlp,
        x: _Array,
        y: _Array,
        convert: Callable[[object], _Array],
        functions: object,
    ) -> None: ...
    @property
    def x(self) -> _Array: ...
    @property
    def y(self) -> _Array: ...
    def __call__(self, x: object = ..., /) -> _Array: ...

def in_default_fp_environment(
    f: Callable[..., _T], *args: Any, **kwargs: Any
) -> _T: ...
def isa() -> str: ...
def available_isas() -> tuple[str, ...]: ...
def set_isa(name: str) -> None: ...
def get_num_threads() -> int: ...
def set_num_threads(n: int) -> None: ...
def threads_for_work(flops: float, parts: int) -> int: ...
def build_info() -> dict[str, Any]: ...

class _Caches(TypedDict):
    # Bytes, ways and number of CPUs that share the cache.
    l1d: tuple[int, int, int]
    l2: tuple[int, int, int]
    l3: tuple[int, int, int]
    l3_is_near: bool

def caches() -> _Caches: ...
def activation_saves(activation: str) -> str: ...

# The rule for the variance of initial weights before this activation: "he", "lecun" or
# "glorot".
def weight_scale(activation: str) -> str: ...
