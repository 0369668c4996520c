"""SciPy's L-BFGS-B, the solver 'lbfgs'."""

from __future__ import annotations

import os
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from .._network.inputs import dense
from .._training.loop import StopTraining
from .._validate import accepted
from ._epochs import penalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._validate import Array
    from ..losses import Loss
    from ..mlp import MLP
    from ._epochs import Data


class _OneBlasThread:
    """Limits BLAS to one thread while a Python thread is in a ``with`` block.

    The limit applies to the whole process: the first thread to enter sets it, and the
    last thread to leave restores the previous limit.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._limits: Any = None
        self._unlock()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._unlock)

    def _unlock(self) -> None:
        # A forked child needs a new lock: the old one may be held by a thread that does
        # not exist in the child.
        self._lock = Lock()

    def __enter__(self) -> None:
        from threadpoolctl import threadpool_limits

        with self._lock:
            if not self._inside:
                self._limits = threadpool_limits(1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._limits.restore_original_limits()
            _let_others_limit()


def _let_others_limit() -> None:
    """Release the control of OpenBLAS that threadpoolctl 3.8 gives to a thread.

    Otherwise no other thread could restore the limit while this thread is alive.
    """
    from threadpoolctl import OpenBLASController

    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread()


_one_blas_thread = _OneBlasThread()


class LbfgsB:
    """Trains by ``scipy.optimize.minimize(method="L-BFGS-B")``, in float64.

    Parameters
    ----------
    mlp : MLP
        Model to train.
    data : Data
        Training data.
    loss : Loss
        Loss to minimise.
    constant : (rows,) array, optional
        Constant term that scikit-learn adds to the loss of each sample.
    l2 : float
        Strength of the L2 penalty, as in `Epochs`.
    options : dict
        Options of SciPy's solver.

    Attributes
    ----------
    result : OptimizeResult or None
        SciPy's result; None if a callback or an exception ended the training.
    """

    def __init__(
        self,
        mlp: MLP,
        data: Data,
        loss: Loss,
        constant: Array | None,
        l2: float,
        options: dict[str, Any],
    ) -> None:
        self._mlp, self._loss, self._l2, self._options = mlp, loss, l2, options
        double = np.dtype(np.float64)
        # Compute in float64: in float32, line searches fail near the minimum.
        self._work = mlp if mlp.dtype == double else _in_float64(mlp)
        x, y, weight = data.all_rows(double)
        # The training steps of a loss written in Python take dense samples.
        self._data = (dense(x) if loss.core is None else x), y, weight
        self._share = float(data.rows if weight is None else weight.sum())
        self._constant = 0.0
        if constant is not None:
            self._constant = float(np.average(constant, weights=weight))
        self.result: Any = None

    def drive(
        self, begin: Callable[[], None], end: Callable[[float], bool], epochs: int
    ) -> None:
        """Train; each iteration counts as an epoch."""
        from scipy.optimize import minimize

        params = self._work.params
        reached, value, within = params.copy(), 0.0, False

        def function(theta: Array) -> tuple[float, Array]:
            nonlocal value, within
            if not within:
                begin()
                within = True
            params[:] = theta
            value, grads = self._value_and_grad()
            return value, grads

        def iterated(theta: Array) -> None:
            nonlocal reached, within
            params[:] = reached = theta.copy()
            if self._work is not self._mlp:
                self._mlp.params[:] = theta
            within = False
            if end(value):
                raise StopTraining

        try:
            # SciPy's vectors are short: BLAS threads would cost more time than they
            # save, and the results would depend on the number of threads.
            with _one_blas_thread:
                self.result = minimize(
                    function,
                    reached,
                    jac=True,
                    method="L-BFGS-B",
                    callback=iterated,
                    options={"maxiter": epochs, **self._options},
                )
            reached = self.result.x
        finally:
            # However training ends, leave the model at the last iteration's point.
            self._mlp.params[:] = reached

    def _value_and_grad(self) -> tuple[float, Array]:
        x, y, weight = self._data
        core = self._loss.core
        if core is None:
            value, grads = self._work.value_and_grad(x, y, self._loss, weight)
            value += penalise(self._work, grads, self._l2, self._share)
        else:
            value, grads = accepted(
                self._work.core.value_and_grad(x, y, core, weight, l2=self._l2)
            )
        return value + self._constant, grads


def _in_float64(mlp: MLP) -> MLP:
    """Return a copy of a model in double precision."""
    copy = type(mlp)([mlp.n_in, *mlp.layers], init="zeros", dtype="float64", seed=0)
    copy.params[:] = mlp.params
    copy.buffers[:] = mlp.buffers
    return copy
