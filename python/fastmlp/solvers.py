"""Second-order solvers for small data: few but good steps on all samples.

`LBFGS` takes any loss. `LevenbergMarquardt` is for the squared error and at most a few
thousand parameters; it is the best choice for a smooth function and a small network.
Both work through `fastmlp.MLP.fit`, where one epoch is one iteration on all samples:

>>> import numpy as np
>>> import fastmlp as fm
>>> x = np.linspace(-2, 2, 200)[:, np.newaxis]
>>> y = np.sin(3 * x) * np.exp(-(x**2))
>>> mlp = fm.MLP([1, 20, 1], activation="tanh", dtype="float64", seed=0)
>>> history = mlp.fit(
...     x, y, loss=fm.MSE(), optimizer=fm.LevenbergMarquardt(), epochs=200,
...     batch_size=200,
... )
>>> bool(mlp.evaluate(x, y, fm.MSE()) < 1e-10)
True

The solvers use neither random numbers nor a learning rate. The network is in inference
mode (dropout is inactive, batch normalisation uses its running statistics without
updating them), so that all iterations minimise the same function.
`fastmlp.History.loss` holds the loss before each iteration, as for the optimisers.
Training ends before the last epoch if an iteration has converged (no element of the
gradient exceeds ``tol``) or stalled (the loss cannot be reduced further, within
rounding).

Both can also minimise functions other than a network's loss, with ``minimize``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from . import _core, _validate
from .losses import MSE

if TYPE_CHECKING:
    import weakref
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from ._network.model import Model
    from ._validate import Array
    from .losses import Loss

__all__ = [
    "LBFGS",
    "LevenbergMarquardt",
]

T = TypeVar("T")


class Solution(NamedTuple):
    """Result of ``minimize``.

    Attributes
    ----------
    theta : ndarray
        Minimum found.
    value : float
        Value of the function at ``theta``.
    gradient : float
        Largest absolute element of the gradient at ``theta``.
    iterations, evaluations : int
        Number of iterations, and of calls of the function.
    status : {"converged", "stalled", "limit"}
        Why the search ended: the gradient is within ``tol``; the value cannot be
        reduced further, within rounding; or the iterations are used up.
    """

    theta: Array
    value: float
    gradient: float
    iterations: int
    evaluations: int
    status: str

    @property
    def converged(self) -> bool:
        """Whether the gradient is within ``tol``."""
        return self.status == "converged"


class _Fixed(Generic[T]):
    """A read-only hyperparameter."""

    def __init__(self, kind: Callable[[Any], T]) -> None:
        self._kind = kind

    def __set_name__(self, owner: type[Solver], name: str) -> None:
        self._name = name

    def __get__(self, instance: Solver, owner: type[Solver]) -> T:
        return self._kind(instance._hyper[self._name])

    def __set__(self, instance: Solver, value: T) -> None:
        raise AttributeError(
            f"{self._name} cannot be changed: create a new "
            f"{type(instance).__name__} instead"
        )


class Solver:
    """Base class of the solvers; create `LBFGS` or `LevenbergMarquardt` instead.

    A solver belongs to the first model it trains until `reset` is called. It can be
    pickled and copied with all its state. A fit that resumes from a stored model and
    solver, on the same data, takes exactly the steps of an uninterrupted fit. If the
    data have changed, the solver detects this and starts again.

    Attributes
    ----------
    tol : float
        Largest element of the gradient at convergence; read-only.
    """

    __slots__ = ("__weakref__", "_hyper", "_owner", "_status", "core")

    _hyper: dict[str, Any]
    _owner: weakref.ref[Any] | None
    core: Any
    _status: str | None

    _checks: ClassVar[dict[str, Callable[[str, object], Any]]]

    tol = _Fixed(float)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError("Solver is abstract: use fm.LBFGS() or fm.LevenbergMarquardt()")

    def _make(self, **hyper: Any) -> None:
        # Store the values in the order of the constructor's arguments; a loaded state
        # may have another order.
        checks = self._checks.items()
        self._hyper = {name: check(name, hyper[name]) for name, check in checks}
        self._check_together()
        self.core = self._make_core()
        self._owner = None
        self._status = None

    def _check_together(self) -> None:
        """Raise an error if hyperparameters contradict each other."""

    def _make_core(self) -> Any:
        raise NotImplementedError

    @property
    def step_count(self) -> int:
        """The number of iterations that have changed the parameters."""
        return int(self.core.iterations)

    @property
    def evaluations(self) -> int:
        """The number of evaluations of the loss and its gradient."""
        return int(self.core.evaluations)

    @property
    def status(self) -> str | None:
        """Outcome of the last iteration: "improved", "converged", "stalled" or None."""
        return self._status

    def reset(self) -> None:
        """Forget all iterations; the solver can then train any model."""
        self.core.reset()
        self._owner = None
        self._status = None

    def _has_state(self) -> bool:
        """Whether there is state that belongs to the model trained so far."""
        return self.step_count > 0

    def _bind(self, mlp: Any) -> None:
        """Make a model the one that this solver trains."""
        self._owner = mlp._self

    # Within fit ---------------------------------------------------------------------

    def _runner(self, mlp: Model, data: Any, loss: Loss, l2: float = 0.0) -> _Runner:
        """Return the object that runs fit's epochs; check the data and the loss.

        ``l2`` is the strength of the penalty ½ l2 ΣW² / n, where n is the number of
        rows, or the sum of their sample weights.
        """
        name = type(self).__name__
        if not isinstance(data, tuple):
            raise TypeError(
                f"x must be an array of all samples for {name}, got "
                f"{_validate.describe(data)}"
            )
        if loss.core is None:
            raise TypeError(
                f"loss must be one of fastmlp's own losses for {name}, got "
                f"{loss!r}; {name}.minimize accepts any function"
            )
        self._check_task(mlp, loss)
        self.core.expect_change()
        return _Runner(self, self._iteration(mlp), data, loss, l2)

    def _check_task(self, mlp: Model, loss: Loss) -> None:
        """Raise an error if the solver cannot train this network with this loss."""

    def _iteration(self, mlp: Model) -> Callable[..., Any]:
        raise NotImplementedError

    def _epoch_end(self, value: float) -> None:
        """Do nothing: only optimisers pass the monitored loss to a schedule."""

    # Without a network --------------------------------------------------------------

    def _minimize(
        self,
        f: Callable[[Array], tuple[Any, Any]],
        theta: npt.ArrayLike,
        iterations: int,
    ) -> Solution:
        if not callable(f):
            raise TypeError(f"f must be a function, got {_validate.describe(f)}")
        iterations = _validate.count("iterations", iterations, 0)
        start = _validate.numeric("theta", theta)
        if start.size == 0:
            raise ValueError(
                f"theta must not be empty, got {_validate.describe(start)}"
            )
        dtype = np.dtype(np.float32 if start.dtype == np.float32 else np.float64)
        start = _validate.convert("theta", start, dtype)
        self._check_size(start.size)
        place = start.reshape(-1).copy()
        solver = self._make_core()
        checked = self._checked(f, start.shape, dtype)
        status, before, value, gradient, _, _ = solver.minimize(
            place, checked, iterations
        )
        if status == "not_finite":
            what = "gradient" if np.isfinite(before) else "value"
            raise _core.DivergenceError(
                f"the {what} of f must be finite at the given theta"
            )
        if iterations == 0:
            value = gradient = float("nan")
        if status == "improved":
            status = "limit"
        return Solution(
            place.reshape(start.shape),
            value,
            gradient,
            solver.iterations,
            solver.evaluations,
            status,
        )

    def _check_size(self, n: int) -> None:
        """Raise an error if this many parameters need too much memory."""

    def _checked(
        self, f: Callable[[Array], Any], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Callable[[Array], tuple[Any, Array]]:
        raise NotImplementedError

    # State --------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of the solver's state.

        Returns
        -------
        dict
            ``"kind"`` (str), ``"hyper"`` (dict: the constructor's arguments),
            ``"step"`` (int: the number of iterations) and ``"slots"`` (list, empty
            before the first iteration, else with one dict of flat arrays).
        """
        core = self.core.state()
        slots = []
        if "arrays" in core:
            slot = {
                name: np.atleast_1d(np.asarray(value)).reshape(-1)
                for name, value in core["arrays"].items()
            }
            slot["value"] = np.array([core["value"]])
            slot["evaluations"] = np.array([float(core["evaluations"])])
            slots.append(slot)
        return {
            "kind": self._kind_name(),
            "hyper": dict(self._hyper),
            "step": core["step"],
            "slots": slots,
        }

    def _state_in_place(self) -> dict[str, Any]:
        """Return what `fastmlp.Checkpoint` stores."""
        return self.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state that `state_dict` returned, hyperparameters included.

        Raises
        ------
        TypeError, ValueError
            If ``state`` is invalid; the solver is unchanged then.
        """
        self._loader(state)()

    def _loader(self, state: Mapping[str, Any], mlp: Any = None) -> Callable[[], None]:
        """Check a state for `load_state_dict`; return a function that loads it."""
        hyper, step, slots = _validate.stored(state, self._kind_name())
        if hyper.keys() != self._checks.keys():
            raise ValueError(
                f"state['hyper'] must have the keys {', '.join(self._checks)}, "
                f"got {', '.join(map(str, hyper))}"
            )

        # The state is loaded into a new core, which replaces the old one on success.
        other = type(self).__new__(type(self))
        other._make(**hyper)
        most = _validate.MOST_STEPS
        core: dict[str, Any] = {"step": _validate.count("state['step']", step, 0, most)}
        core["evaluations"] = 0
        if len(slots) > 1:
            raise ValueError(
                f"state['slots'] must hold at most one dict, got {len(slots)}"
            )
        for slot in slots:
            core.update(self._unpacked(slot))
        other.core.load_state(core)

        def load() -> None:
            self._hyper, self.core = other._hyper, other.core
            self._status = None

        return load

    def _unpacked(self, slot: object) -> dict[str, Any]:
        """Return a slot of `state_dict` in the form that the core takes."""
        names = {"theta", "grad", "value", "evaluations", *self._slot_names}
        if not isinstance(slot, dict) or slot.keys() != names:
            got = _validate.describe(slot)
            if isinstance(slot, dict):
                got = ", ".join(map(str, slot))
            raise ValueError(
                f"state['slots'][0] must have the keys {', '.join(sorted(names))}, "
                f"got {got}"
            )
        arrays: dict[str, Any] = {}
        dtype = np.asarray(slot["theta"]).dtype
        if dtype not in (np.float32, np.float64):
            raise ValueError(
                "state['slots'][0]['theta'] must be float32 or float64, "
                f"got {_validate.describe(slot['theta'])}"
            )
        size = np.asarray(slot["theta"]).size
        for name in sorted(names):
            scalar = name in ("value", "evaluations", "lambda", "growth")
            kind = np.dtype(np.float64 if scalar else dtype.type)
            where = f"state['slots'][0][{name!r}]"
            array = _validate.convert(where, slot[name], kind)
            rows = array.size // size if size and name in ("s", "y") else 1
            wanted = 1 if scalar else rows * size
            if array.ndim != 1 or array.size != wanted or size == 0:
                raise ValueError(
                    f"{where} must be a 1-D array of "
                    f"{_validate.counted(wanted, 'element')}, got "
                    f"{_validate.describe(array)}"
                )
            arrays[name] = float(array[0]) if scalar else array
            if name == "evaluations":
                _check_evaluations(where, arrays[name])
            if name in ("s", "y"):
                arrays[name] = array.reshape(rows, size)
        return {
            "value": arrays.pop("value"),
            "evaluations": int(arrays.pop("evaluations")),
            "arrays": arrays,
        }

    _slot_names: ClassVar[tuple[str, ...]]

    def _kind_name(self) -> str:
        return type(self).__name__.lower()

    def __getstate__(self) -> dict[str, Any]:
        return self.state_dict()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._owner = None
        self.load_state_dict(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_validate.arguments(self._hyper)})"


def _check_evaluations(where: str, number: float) -> None:
    """Raise ValueError unless the number is a count that the core can hold."""
    if not 0 <= number <= _validate.MOST_STEPS or number != int(number):
        raise ValueError(
            f"{where} must be a count of at most {_validate.MOST_STEPS}, got {number}"
        )


class _Runner:
    """Runs one iteration per epoch; ``finished`` tells fit to end."""

    def __init__(
        self,
        solver: Solver,
        call: Callable[..., Any],
        data: Any,
        loss: Loss,
        l2: float,
    ) -> None:
        self._solver, self._call = solver, call
        self._data, self._loss, self._l2 = data, loss.core, l2
        self.finished = False

    def run(self, epoch: int) -> float:
        x, y, weight = self._data
        # The core is read in each epoch, because a callback may load a state, which
        # replaces the core.
        core = self._solver.core
        report = _validate.accepted(
            self._call(core, x, y, self._loss, weight, self._l2)
        )
        self._solver._status = report[0]
        self.finished = report[0] != "improved"
        return float(report[1])


def _positive(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0, open_low=True)


def _share(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0, 1.0, open_low=True, open_high=True)


def _tolerance(name: str, value: object) -> float:
    return _validate.real(name, value, 0.0)


def _at_least_one(name: str, value: object) -> int:
    return _validate.count(name, value, 1)


class LBFGS(Solver):
    """Limited-memory BFGS with a line search for the strong Wolfe conditions.

    The direction is that of algorithm 7.4 of Nocedal & Wright, "Numerical Optimization"
    (2nd edition, 2006). It is computed from the last ``history`` pairs (s, y), where s
    is a step and y the change of the gradient along it, with the initial inverse
    Hessian sᵀy / yᵀy I of the latest pair. Pairs without positive curvature are left
    out. The step length is found by the line search of Moré & Thuente 1994, whose first
    trial is 1, or min(1, 1 / ‖g‖) if there are no pairs. If a line search fails, the
    pairs are discarded and the direction is -g, where g is the gradient.

    Parameters
    ----------
    history : int
        Number of pairs kept, at least 1.
    max_line_search : int
        Largest number of evaluations of the loss in one line search, at least 1.
    c1, c2 : float
        Constants of the strong Wolfe conditions for a step t along d:
        f(θ + t d) ≤ f(θ) + c₁ t gᵀd and abs(∇f(θ + t d)ᵀd) ≤ c₂ abs(gᵀd);
        0 < c₁ < c₂ < 1.
    tol : float
        Tolerance, ≥ 0: the solver has converged when no element of the gradient exceeds
        it in magnitude.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter has the wrong type or is out of range.
    """

    __slots__ = ()
    _checks: ClassVar = {
        "history": _at_least_one,
        "max_line_search": _at_least_one,
        "c1": _share,
        "c2": _share,
        "tol": _tolerance,
    }
    _slot_names = ("s", "y")

    history = _Fixed(int)
    max_line_search = _Fixed(int)
    c1 = _Fixed(float)
    c2 = _Fixed(float)

    def __init__(
        self,
        history: int = 10,
        max_line_search: int = 25,
        c1: float = 1e-4,
        c2: float = 0.9,
        tol: float = 1e-7,
    ) -> None:
        self._make(
            history=history, max_line_search=max_line_search, c1=c1, c2=c2, tol=tol
        )

    def _check_together(self) -> None:
        if not self._hyper["c1"] < self._hyper["c2"]:
            raise ValueError(
                "c1 must be below c2, got "
                f"c1={self._hyper['c1']}, c2={self._hyper['c2']}"
            )

    def _make_core(self) -> _core.Lbfgs:
        return _core.Lbfgs(*self._hyper.values())

    def _iteration(self, mlp: Model) -> Callable[..., Any]:
        return mlp.core.iterate_lbfgs

    def minimize(
        self,
        f: Callable[[Array], tuple[float, npt.ArrayLike]],
        theta: npt.ArrayLike,
        *,
        iterations: int = 1000,
    ) -> Solution:
        """Minimise any function; the solver's state is unaffected.

        Parameters
        ----------
        f : callable
            ``f(theta) -> (value, grad)`` with a grad of theta's shape. If a value is
            not finite, the solver tries a shorter step; a value that is not finite at
            the starting point is an error.
        theta : array_like
            Starting point of any shape. The computation is in float32 for a float32
            point, else in float64.
        iterations : int
            Largest number of iterations.

        Returns
        -------
        Solution
            The minimum found, the value there, and why the search ended.

        Raises
        ------
        DivergenceError
            If the value or the gradient is not finite at the start.
        TypeError, ValueError
            If an argument, or a result of f, has the wrong type or shape.
        """
        return self._minimize(f, theta, iterations)

    def _checked(
        self, f: Callable[[Array], Any], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Callable[[Array], tuple[float, Array]]:
        def call(theta: Array) -> tuple[float, Array]:
            value, grad = _pair(f(theta.reshape(shape)), "(value, grad)")
            number = _validate.numeric("f's value", value)
            if number.size != 1:
                raise ValueError(
                    "the value that f returns must be one number, got "
                    f"{_validate.describe(value)}"
                )
            array = _validate.convert("f's grad", grad, dtype)
            if array.shape != shape:
                raise ValueError(
                    "the gradient that f returns must have the shape of theta, "
                    f"{shape}, got {_validate.describe(array)}"
                )
            return float(number.reshape(())), array.reshape(-1)

        return call


class LevenbergMarquardt(Solver):
    """Levenberg-Marquardt for the squared error: damped Gauss-Newton steps.

    With J the Jacobian of the residuals r, H = JᵀJ and g = Jᵀr (both scaled so that g
    is the gradient of the loss), a step d solves (H + λ I) d = -g. λ follows Nielsen's
    rule (IMM-REP-1999-05): after a step that reduces the loss by q times the predicted
    amount, λ is multiplied by max(1/3, 1 - (2q - 1)³); a step that does not reduce the
    loss is rejected, and the next steps are tried with 2, 8, 64, … times λ.
    ``acceleration`` adds half the second-order correction a, (H + λ I) a = -Jᵀr″ with
    r″ the second derivative of the residuals along d (Transtrum & Sethna 2012), and
    rejects steps with 2 ‖a‖ > 0.75 ‖d‖. The correction costs little and saves most of
    the iterations if the valley of the loss is narrow and curved, as it is for
    networks.

    The loss must be `fastmlp.MSE`. An iteration takes time in proportion to n_params³
    and to n_params² times samples and outputs. The solver computes in float64 even if
    the model's dtype is float32.

    Parameters
    ----------
    damping : float
        First λ, relative to the largest element of H's diagonal, > 0.
    max_tries : int
        Largest number of steps tried in an iteration, at least 1.
    tol : float
        Tolerance, ≥ 0: the solver has converged when no element of the gradient exceeds
        it in magnitude.
    acceleration : bool
        Whether to add the second-order correction described above.
    memory_limit : int
        Largest total size, in bytes, of the solver's two n_params by n_params matrices
        of float64; networks that need more are refused.

    Raises
    ------
    TypeError, ValueError
        If a hyperparameter has the wrong type or is out of range.
    """

    __slots__ = ()
    _checks: ClassVar = {
        "damping": _positive,
        "max_tries": _at_least_one,
        "tol": _tolerance,
        "acceleration": _validate.flag,
        "memory_limit": _at_least_one,
    }
    _slot_names = ("lambda", "growth")

    damping = _Fixed(float)
    max_tries = _Fixed(int)
    acceleration = _Fixed(bool)
    memory_limit = _Fixed(int)

    def __init__(
        self,
        damping: float = 1e-3,
        max_tries: int = 30,
        tol: float = 1e-10,
        *,
        acceleration: bool = True,
        memory_limit: int = 2**31,
    ) -> None:
        self._make(
            damping=damping,
            max_tries=max_tries,
            tol=tol,
            acceleration=acceleration,
            memory_limit=memory_limit,
        )

    def _make_core(self) -> _core.LevenbergMarquardt:
        hyper = {**self._hyper, "tolerance": self._hyper["tol"]}
        del hyper["memory_limit"], hyper["tol"]
        return _core.LevenbergMarquardt(**hyper)

    def _iteration(self, mlp: Model) -> Callable[..., Any]:
        return mlp.core.iterate_lm

    def _check_task(self, mlp: Model, loss: Loss) -> None:
        if not isinstance(loss, MSE):
            raise TypeError(
                f"loss must be fm.MSE() for LevenbergMarquardt, got {loss!r}; "
                "fm.LBFGS() accepts all of fastmlp's losses"
            )
        self._check_size(mlp.n_params)

    def _check_size(self, n: int) -> None:
        needed = 16 * n * n
        if needed > self.memory_limit:
            raise ValueError(
                f"LevenbergMarquardt needs {needed:,} bytes for two matrices of {n} by "
                f"{n}, more than its memory_limit of {self.memory_limit:,}; use "
                "fm.LBFGS()"
            )

    def minimize(
        self,
        f: Callable[[Array], tuple[npt.ArrayLike, npt.ArrayLike]],
        theta: npt.ArrayLike,
        *,
        iterations: int = 1000,
    ) -> Solution:
        """Minimise ½ ‖r‖² of any residuals; the solver's state is unaffected.

        Parameters
        ----------
        f : callable
            ``f(theta) -> (r, jacobian)``: residuals (M,) and their derivatives
            ``(M, *theta.shape)``.
        theta : array_like
            Starting point of any shape. The points passed to ``f`` are float32 if this
            point is float32, else float64; the linear algebra is in float64.
        iterations : int
            Largest number of iterations.

        Returns
        -------
        Solution
            The minimum found, ½ ‖r‖² there, and why the search ended.

        Raises
        ------
        DivergenceError
            If residuals or derivatives are not finite at the start.
        TypeError, ValueError
            If an argument, or a result of f, has the wrong type or shape.
        """
        return self._minimize(f, theta, iterations)

    def _checked(
        self, f: Callable[[Array], Any], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> Callable[[Array], tuple[Array, Array]]:
        double = np.dtype(np.float64)

        def call(theta: Array) -> tuple[Array, Array]:
            r, jacobian = _pair(f(theta.reshape(shape)), "(residuals, jacobian)")
            rows = _validate.convert("f's residuals", r, double)
            if rows.ndim != 1 or rows.size == 0:
                raise ValueError(
                    "the residuals that f returns must have shape (M,) with M >= 1, "
                    f"got {_validate.describe(rows)}"
                )
            slopes = _validate.convert("f's jacobian", jacobian, double)
            if slopes.shape != (rows.size, *shape):
                raise ValueError(
                    "the jacobian that f returns must have shape "
                    f"{(rows.size, *shape)}, got {_validate.describe(slopes)}"
                )
            return rows, slopes.reshape(rows.size, -1)

        return call


def _pair(result: object, wanted: str) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(f"f must return {wanted}, got {_validate.describe(result)}")
    return result
