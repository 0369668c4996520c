"""A search for a learning rate."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core, _validate
from .._formats import snapshot
from ..metrics import History
from ._base import Callback

if TYPE_CHECKING:
    from .._network.model import MLP


class LearningRateFinder(Callback):
    """Tries learning rates from small to large, one per step, and suggests one.

    This is the range test of Smith, "Cyclical learning rates for training neural
    networks", 2017. The learning rate grows by the same factor from step to step: at
    first the loss hardly changes, then it falls, and when the rate is too large it
    rises. The test ends when the smoothed loss exceeds ``stop_factor`` times its
    minimum, when a loss is not finite, or with the last step. Then the model, the
    optimiser and the position in the sequence of sample orders are restored: ``fit``
    with this callback does not train. Give ``fit`` enough epochs for ``steps`` steps.

    Parameters
    ----------
    start, end : float
        First and last learning rate, 0 < start < end.
    steps : int
        Number of steps from ``start`` to ``end``, at least 2.
    smoothing : float
        Weight of the past in the smoothed loss, an exponential moving average with
        bias correction; at least 0 and below 1.
    stop_factor : float
        Factor at which to stop (see above), > 1; infinite to take all steps.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or is out of range.

    Attributes
    ----------
    lrs : ndarray (n,)
        Learning rates tried, float64.
    losses : ndarray (n,)
        Smoothed losses; each batch's loss is computed before its step.
    raw_losses : ndarray (n,)
        The same losses without smoothing.
    suggestion : float or None
        Learning rate at which the smoothed loss falls fastest as a function of the
        rate's logarithm, corrected for the lag of the smoothing; None if the loss never
        falls.

    Examples
    --------
    >>> import fastmlp as fm
    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 256)[:, np.newaxis]
    >>> mlp, opt = fm.MLP([1, 32, 1], seed=0), fm.SGD(lr=0.1)
    >>> finder = fm.LearningRateFinder(steps=50)
    >>> history = mlp.fit(
    ...     x, x**2, loss=fm.MSE(), optimizer=opt, epochs=50, batch_size=32,
    ...     callbacks=[finder],
    ... )
    >>> opt.lr = finder.suggestion
    """

    # This callback is called last, to undo what other callbacks restore at the end.
    _last = True

    def __init__(
        self,
        start: float = 1e-7,
        end: float = 10.0,
        steps: int = 100,
        smoothing: float = 0.9,
        stop_factor: float = 4.0,
    ) -> None:
        self.start = _validate.real("start", start, 0.0, open_low=True)
        self.end = _validate.real("end", end, self.start, open_low=True)
        self.steps = _validate.count("steps", steps, 2)
        self.smoothing = _validate.real("smoothing", smoothing, 0, 1, open_high=True)
        if stop_factor != math.inf:
            stop_factor = _validate.real("stop_factor", stop_factor, 1, open_low=True)
        self.stop_factor = stop_factor
        self._before: dict[str, Any] | None = None
        self._clear()

    def _clear(self) -> None:
        self.lrs = np.empty(0)
        self.losses = np.empty(0)
        self.raw_losses = np.empty(0)
        self.suggestion: float | None = None
        self._seen: list[float] = []
        self._smooth: list[float] = []
        self._average = 0.0

    def on_train_begin(self, mlp: MLP, history: History) -> None:
        """Keep a copy of everything to restore; set the first learning rate."""
        run = self.run
        assert run is not None
        if not hasattr(run.optimizer, "lr"):
            raise TypeError(
                "LearningRateFinder needs an optimizer with a learning rate, got "
                f"{type(run.optimizer).__name__}"
            )
        if getattr(run.optimizer, "accumulate", 1) > 1:
            raise ValueError(
                "LearningRateFinder needs a step for each batch, but the optimizer has "
                f"accumulate={run.optimizer.accumulate}"
            )
        if run.steps_per_epoch is not None:
            available = run.epochs * run.steps_per_epoch
            if available < self.steps:
                raise ValueError(
                    f"LearningRateFinder(steps={self.steps}) needs {self.steps} steps, "
                    f"but fit has only {available}: pass "
                    f"epochs={math.ceil(self.steps / run.steps_per_epoch)} to fit"
                )
        self._clear()
        self._before = {
            **snapshot.model_state(mlp, run.optimizer),
            "sequence": copy.copy(mlp.sequence),
        }
        run.optimizer.lr = self.start

    @_validate.reproducible
    def _rate(self, step: int) -> float:
        return float(self.start * (self.end / self.start) ** (step / (self.steps - 1)))

    def on_batch_end(self, mlp: MLP, history: History, step: int, loss: float) -> bool:
        """Record the loss and set the next learning rate."""
        assert self.run is not None
        n = len(self._seen)
        self._seen.append(loss)
        beta = self.smoothing
        self._average = beta * self._average + (1 - beta) * loss
        self._smooth.append(self._average / (1 - beta ** (n + 1)))
        least = min(self._smooth)
        far = self._smooth[-1] - least > (self.stop_factor - 1) * abs(least)
        if n + 1 == self.steps or (n > 0 and far):
            return True
        self.run.optimizer.lr = self._rate(n + 1)
        return False

    def on_train_end(self, mlp: MLP, history: History) -> None:
        """Restore everything, and make a suggestion."""
        self._put_back(mlp)
        self.raw_losses = np.array(self._seen)
        self.losses = np.array(self._smooth)
        self.lrs = np.array([self._rate(i) for i in range(len(self._seen))])
        if not self._seen:
            return
        # During its first `lag` steps, the slope of the moving average is mostly noise.
        # After that, the average lags behind the losses by `lag` steps.
        lag = round(self.smoothing / (1 - self.smoothing))
        first = min(len(self.lrs) // 2, lag)
        fall = self.losses[first : first + 1 + int(self.losses[first:].argmin())]
        if len(fall) > 1:
            slope = np.gradient(fall, np.log(self.lrs[first : first + len(fall)]))
            self.suggestion = float(self.lrs[max(0, first + slope.argmin() - lag)])

    def on_error(self, mlp: MLP, history: History, error: BaseException) -> bool:
        """Restore everything; a loss that is not finite is an ordinary end."""
        self._put_back(mlp)
        return isinstance(error, _core.DivergenceError)

    def _put_back(self, mlp: MLP) -> None:
        if self._before is None:
            return
        assert self.run is not None
        snapshot.restore(self._before, mlp, self.run.optimizer)
        mlp.sequence = self._before["sequence"]
        self._before = None

    def __repr__(self) -> str:
        names = ("start", "end", "steps", "smoothing", "stop_factor")
        values = {name: getattr(self, name) for name in names}
        return f"LearningRateFinder({_validate.arguments(values)})"
