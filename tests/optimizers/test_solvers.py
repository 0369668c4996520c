"""L-BFGS and Levenberg-Marquardt: optima, conditions, bits, resuming, bad input."""

from __future__ import annotations

import copy
import pickle
import signal
import threading
import time
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from helpers import thread_counts

# Gradient within which two correct minimisers of a convex function agree.
OPTIMUM_ATOL = 1e-5
# SciPy stops at gradients of 1e-5; the loss is then off by its square over curvature.
LOSS_RTOL = 1e-4


def rosenbrock(theta: np.ndarray) -> tuple[float, np.ndarray]:
    a, b = theta
    grad = [-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)]
    return (1 - a) ** 2 + 100 * (b - a * a) ** 2, np.array(grad)


def rosenbrock_residuals(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = theta
    r = np.array([1 - a, 10 * (b - a * a)])
    return r, np.array([[-1.0, 0.0], [-20 * a, 10.0]])


def wave(rows: int = 200, dtype: type = np.float64) -> tuple[np.ndarray, np.ndarray]:
    x = np.linspace(-2, 2, rows)[:, np.newaxis]
    return x.astype(dtype), (np.sin(3 * x) * np.exp(-(x**2))).astype(dtype)


def net(seed: int = 0, dtype: type = np.float64) -> fm.MLP:
    return fm.MLP([1, 20, 1], activation="tanh", dtype=dtype, seed=seed)


SOLVERS = [fm.LBFGS, fm.LevenbergMarquardt]
MSE = fm.MSE()


def fit(mlp: fm.MLP, solver: Any, epochs: int, **more: Any) -> fm.History:
    x, y = more.pop("data", None) or wave(dtype=mlp.dtype.type)
    loss = more.pop("loss", MSE)
    more = {"batch_size": len(x), **more}
    return mlp.fit(x, y, loss=loss, optimizer=solver, epochs=epochs, **more)


# ---------------------------------------------------------------- without a network


def test_lbfgs_on_rosenbrock(dtype: type) -> None:
    start = np.array([-1.2, 1.0], dtype)
    found = fm.LBFGS(tol=1e-5).minimize(rosenbrock, start)
    # In float32 it stops where the valley is flat up to rounding of the value.
    np.testing.assert_allclose(
        found.theta, 1, rtol=1e-5 if dtype == np.float64 else 0.1
    )
    assert found.theta.dtype == dtype
    assert found.iterations < 60
    assert found.evaluations < 100
    np.testing.assert_array_equal(start, np.array([-1.2, 1.0], dtype))


@pytest.mark.parametrize("acceleration", [False, True])
def test_levenberg_marquardt_on_rosenbrock(acceleration: bool) -> None:
    solver = fm.LevenbergMarquardt(acceleration=acceleration)
    found = solver.minimize(rosenbrock_residuals, [-1.2, 1.0])
    assert found.converged
    np.testing.assert_allclose(found.theta, 1, rtol=1e-8)
    assert found.iterations < 60


def test_quadratic_in_few_steps(rng: np.random.Generator) -> None:
    """An exact line search would take n iterations, an inexact one takes a few more."""
    n = 8
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix = basis @ np.diag(np.linspace(1, 10, n)) @ basis.T
    best = rng.standard_normal(n)

    def f(theta: np.ndarray) -> tuple[float, np.ndarray]:
        grad = matrix @ (theta - best)
        return float((theta - best) @ grad) / 2, grad

    solver = fm.LBFGS(history=20, c1=1e-4, c2=1e-3, tol=1e-8)
    found = solver.minimize(f, np.zeros(n))
    assert found.converged
    assert found.iterations <= 2 * n
    np.testing.assert_allclose(found.theta, best, atol=1e-7)


@pytest.mark.parametrize("n", [1, 3, 70, 150])
def test_linear_least_squares_is_that_of_numpy(
    n: int, rng: np.random.Generator
) -> None:
    """The results differ only by the rounding errors of the Cholesky factorisation."""
    a, b = rng.standard_normal((2 * n, n)), rng.standard_normal(2 * n)
    solver = fm.LevenbergMarquardt(damping=1e-9, tol=1e-9)
    found = solver.minimize(lambda t: (a @ t - b, a), np.zeros(n))
    assert found.converged
    assert found.iterations <= 3
    exact = np.linalg.lstsq(a, b, rcond=None)[0]
    np.testing.assert_allclose(found.theta, exact, atol=1e-8)


def test_theta_of_any_shape() -> None:
    goal = np.arange(6.0).reshape(2, 3)
    found = fm.LBFGS().minimize(
        lambda t: (((t - goal) ** 2).sum(), 2 * (t - goal)), np.zeros((2, 3))
    )
    np.testing.assert_allclose(found.theta, goal, atol=1e-6)

    def residuals(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (t - goal).ravel(), np.eye(6).reshape(6, 2, 3)

    found = fm.LevenbergMarquardt().minimize(residuals, np.zeros((2, 3)))
    np.testing.assert_allclose(found.theta, goal, atol=1e-8)


def test_strong_wolfe_conditions_hold_at_accepted_steps() -> None:
    c1, c2 = 1e-3, 0.3
    theta, checked = np.array([-1.2, 1.0]), 0
    for _ in range(25):
        # One iteration at a time, each along -g, as there is no history.
        seen: list[np.ndarray] = []

        def f(t: np.ndarray, seen: list[np.ndarray] = seen) -> tuple[float, np.ndarray]:
            seen.append(t.copy())
            return rosenbrock(t)

        found = fm.LBFGS(c1=c1, c2=c2).minimize(f, theta, iterations=1)
        value, grad = rosenbrock(theta)
        end, end_grad = rosenbrock(found.theta)
        step = found.theta - theta
        slack = 1e-9 * abs(value)  # theta + step * d is rounded
        assert end <= value + c1 * grad @ step + slack
        assert abs(end_grad @ step) <= c2 * abs(grad @ step) + slack
        assert any(np.array_equal(found.theta, t) for t in seen)
        theta, checked = found.theta, checked + 1
    assert checked == 25


def test_values_beyond_the_domain_shorten_the_step() -> None:
    def f(t: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(all="ignore"):
            return float(t[0] - np.log(t[0])), 1 - 1 / t

    found = fm.LBFGS().minimize(f, [1e-3])
    assert found.converged
    np.testing.assert_allclose(found.theta, 1, rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_minimize_ends_as_it_says(solver: type) -> None:
    f: Any = rosenbrock if solver is fm.LBFGS else rosenbrock_residuals
    assert solver().minimize(f, [-1.2, 1.0], iterations=2).status == "limit"
    start = solver().minimize(f, [1.0, 1.0])
    assert (start.status, start.iterations, start.evaluations) == ("converged", 0, 1)
    assert solver(tol=0.0).minimize(f, [-1.2, 1.0]).status in ("stalled", "converged")
    with pytest.raises(fm.DivergenceError, match="theta"):
        solver().minimize(f, [np.nan, 1.0])


def test_errors_of_the_function_propagate() -> None:
    def f(t: np.ndarray) -> tuple[float, np.ndarray]:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        fm.LBFGS().minimize(f, [0.0])


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (1.0, "must return"),
        ((1.0, [1.0, 2.0, 3.0]), "grad"),
        (([1.0, 2.0], [1.0, 2.0]), "value"),
        ((1.0, "no"), "grad"),
    ],
)
def test_results_of_a_wrong_kind(result: Any, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        fm.LBFGS().minimize(lambda t: result, [0.0, 0.0])


@pytest.mark.parametrize(
    ("result", "match"),
    [
        (1.0, "must return"),
        (([], np.zeros((0, 2))), "residuals"),
        (([1.0], [1.0, 2.0]), "jacobian"),
    ],
)
def test_residuals_of_a_wrong_kind(result: Any, match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        fm.LevenbergMarquardt().minimize(lambda t: result, [0.0, 0.0])


# ------------------------------------------------------------------- through fit


@pytest.mark.parametrize("seed", range(3))
def test_levenberg_marquardt_fits_a_smooth_function(seed: int) -> None:
    x, y = wave()
    mlp = net(seed)
    fit(mlp, fm.LevenbergMarquardt(), 400)
    assert np.sqrt(np.mean((mlp(x) - y) ** 2)) < 1e-5


def test_levenberg_marquardt_in_float32() -> None:
    mlp = net(dtype=np.float32)
    history = fit(mlp, fm.LevenbergMarquardt(), 300)
    assert np.sqrt(history.loss[-1]) < 1e-4


def test_several_outputs_weights_and_sums(rng: np.random.Generator) -> None:
    """The second-order model is correct: near a solution, steps are almost exact."""
    x = rng.standard_normal((60, 3))
    teacher = fm.MLP([3, 4, 2], activation="tanh", dtype="float64", seed=1)
    y = teacher(x)
    weight = rng.uniform(0.5, 2, 60)
    for reduction in ("mean", "sum"):
        loss = fm.MSE(reduction=reduction)
        mlp = teacher.copy()
        mlp.params[:] += 0.01 * rng.standard_normal(mlp.n_params)
        history = fit(
            mlp,
            fm.LevenbergMarquardt(damping=1e-8, tol=1e-13),
            10,
            data=(x, y),
            loss=loss,
            sample_weight=weight,
        )
        # Convergence is quadratic; with a wrong factor in H it would be linear.
        assert len(history) <= 5
        end = mlp.value_and_grad(x, y, loss, weight)[0]
        assert end < 1e-12 * history.loss[0]


def test_same_optimum_as_scipy(rng: np.random.Generator) -> None:
    optimize = pytest.importorskip(
        "scipy.optimize", reason="results are compared with SciPy"
    )
    x = rng.standard_normal((100, 5))
    labels = (x @ rng.standard_normal((5, 3)) + rng.standard_normal((100, 3))).argmax(1)
    loss = fm.CrossEntropy()
    # Without a hidden layer the loss is convex, so its minimum is unique.
    mlp = fm.MLP([5, 3], dtype="float64", seed=0)
    start = mlp.params.copy()

    def f(theta: np.ndarray) -> tuple[float, np.ndarray]:
        mlp.params[:] = theta
        return mlp.value_and_grad(x, labels, loss)

    theirs = optimize.minimize(f, start, jac=True, method="L-BFGS-B")
    mlp.params[:] = start
    solver = fm.LBFGS(tol=1e-6)
    fit(mlp, solver, 500, data=(x, labels), loss=loss)
    assert solver.status == "converged"
    ours, grad = mlp.value_and_grad(x, labels, loss)
    assert abs(ours - theirs.fun) < LOSS_RTOL * theirs.fun
    assert np.abs(grad).max() < OPTIMUM_ATOL


@pytest.mark.parametrize("solver", SOLVERS)
def test_fit_ends_when_it_has_converged(solver: type) -> None:
    x = np.linspace(-1, 1, 20)[:, np.newaxis]
    mlp = fm.MLP([1, 1], dtype="float64", seed=0)
    history = fit(mlp, tool := solver(tol=1e-7), 100, data=(x, 2 * x + 1))
    assert len(history) < 20
    assert tool.status == "converged"
    np.testing.assert_allclose(mlp.weights[0], 2, rtol=1e-5)

    # Further fits change nothing and evaluate the loss once.
    before, count = mlp.params.copy(), tool.evaluations
    again = fit(mlp, tool, 5, data=(x, 2 * x + 1))
    assert len(again) == 1
    assert tool.evaluations == count + 1
    np.testing.assert_array_equal(mlp.params, before)


@pytest.mark.parametrize("solver", SOLVERS)
def test_history_is_the_loss_before_each_iteration(solver: type) -> None:
    x, y = wave()
    mlp = net()
    before = mlp.value_and_grad(x, y, MSE)[0]
    history = fit(mlp, solver(), 10, validation_data=(x, y))
    assert history.loss[0] == before
    np.testing.assert_allclose(history.loss[1:], history.val_loss[:-1], rtol=1e-12)
    assert history.loss == sorted(history.loss, reverse=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_callbacks_work(solver: type) -> None:
    history = fit(net(), solver(), 50, callbacks=[lambda m, h: len(h) == 4])
    assert len(history) == 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_same_bits(solver: type, dtype: type) -> None:
    x, y = wave(300, dtype)
    results = []
    for isa in fm.available_isas():
        with fm.use_isa(isa):
            for count in thread_counts(isa):
                with fm.threads(count):
                    mlp = fm.MLP([1, 24, 12, 1], activation="tanh", dtype=dtype, seed=3)
                    fit(mlp, solver(), 6, data=(x, y))
                    results.append(mlp.params.tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("way", ["same", "pickle", "deepcopy", "state_dict"])
def test_resuming_is_exact(solver: type, way: str, dtype: type) -> None:
    whole, parts = net(dtype=dtype), net(dtype=dtype)
    fit(whole, solver(), 25)
    tool = solver()
    fit(parts, tool, 14)
    if way == "pickle":
        tool = pickle.loads(pickle.dumps(tool))
    elif way == "deepcopy":
        tool, parts = copy.deepcopy((tool, parts))
    elif way == "state_dict":
        state = pickle.loads(pickle.dumps(tool.state_dict()))
        tool = solver()
        tool.load_state_dict(state)
    fit(parts, tool, 11)
    assert parts.params.tobytes() == whole.params.tobytes()
    assert tool.step_count == 25


@pytest.mark.parametrize("solver", SOLVERS)
def test_other_data_or_parameters_restart_the_solver(solver: type) -> None:
    x, y = wave()
    fresh, used = net(), net()
    tool = solver()
    fit(used, tool, 5)
    # Different data.
    fresh.params[:] = used.params
    fit(used, tool, 5, data=(x, -y))
    fit(fresh, solver(), 5, data=(x, -y))
    assert used.params.tobytes() == fresh.params.tobytes()

    # Parameters changed by a callback.
    def nudge(mlp: fm.MLP, history: fm.History) -> None:
        if len(history) == 3:
            mlp.params[:] = start

    start = net(7).params.copy()
    fit(used, tool, 8, callbacks=[nudge])
    fresh.params[:] = start
    fit(fresh, solver(), 5)
    assert used.params.tobytes() == fresh.params.tobytes()


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_start_that_is_not_finite(solver: type) -> None:
    mlp = net()
    mlp.params[3] = np.nan
    before = mlp.params.copy()
    tool = solver()
    with pytest.raises(fm.DivergenceError, match=r"epoch 1 of 5.*loss is nan"):
        fit(mlp, tool, 5)
    np.testing.assert_array_equal(mlp.params, before)
    # After the model is repaired, the same solver works.
    mlp.params[:] = net().params
    assert len(fit(mlp, tool, 5)) == 5


@pytest.mark.parametrize("solver", SOLVERS)
def test_ctrl_c_keeps_the_model(solver: type) -> None:
    mlp = fm.MLP([1, 40, 40, 1], activation="tanh", dtype="float64", seed=0)
    x, y = wave(2000)
    timer = threading.Timer(0.3, signal.raise_signal, [signal.SIGINT])
    timer.start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        fit(mlp, solver(tol=0.0), 100_000, data=(x, y))
    timer.join()
    assert time.perf_counter() - start < 10
    # The parameters are those of the last complete iteration.
    assert mlp.history is not None
    loss = mlp.evaluate(x, y, MSE)
    assert not mlp.history.loss or loss <= mlp.history.loss[-1]


# ------------------------------------------------------------------- bad input


def test_hyperparameters() -> None:
    for make, match in [
        (lambda: fm.LBFGS(history=0), "history"),
        (lambda: fm.LBFGS(history=2.5), "history"),  # type: ignore[arg-type]
        (lambda: fm.LBFGS(c1=0.0), "c1"),
        (lambda: fm.LBFGS(c1=0.95), "c1 must be below c2"),
        (lambda: fm.LBFGS(c2=1.0), "c2"),
        (lambda: fm.LBFGS(tol=-1.0), "tol"),
        (lambda: fm.LBFGS(max_line_search=0), "max_line_search"),
        (lambda: fm.LevenbergMarquardt(damping=0.0), "damping"),
        (lambda: fm.LevenbergMarquardt(acceleration=1), "acceleration"),  # type: ignore[arg-type]
        (lambda: fm.LevenbergMarquardt(max_tries=0), "max_tries"),
        (lambda: fm.LevenbergMarquardt(memory_limit=0), "memory_limit"),
        (lambda: fm.solvers.Solver(), "abstract"),
    ]:
        with pytest.raises((TypeError, ValueError), match=match):
            make()
    solver = fm.LBFGS(history=3)
    assert solver.history == 3
    assert eval(repr(solver), {"LBFGS": fm.LBFGS}).history == 3
    with pytest.raises(AttributeError, match="cannot be changed"):
        solver.history = 4  # type: ignore[misc]


def test_what_fit_refuses() -> None:
    x, y = wave()
    mlp = net()
    before = mlp.params.copy()
    many = fm.MLP([1, 12000, 1], dtype="float64", seed=0)
    for call, match in [
        (lambda: fit(mlp, fm.LBFGS(), 5, batch_size=10), "batch_size"),
        (lambda: fit(mlp, fm.LBFGS, 5), "did you mean"),
        (lambda: fit(mlp, fm.LevenbergMarquardt(), 5, loss=fm.MAE()), "MSE"),
        (lambda: fit(many, fm.LevenbergMarquardt(), 5), "memory_limit"),
        (lambda: mlp.train_step(x, y, MSE, fm.LBFGS()), "use fit"),  # type: ignore[arg-type]
    ]:
        with pytest.raises((TypeError, ValueError), match=match):
            call()
    np.testing.assert_array_equal(mlp.params, before)
    solver = fm.LBFGS()
    fit(mlp, solver, 2)
    with pytest.raises(ValueError, match="another model"):
        fit(net(), solver, 2)
    solver.reset()
    assert solver.step_count == 0
    fit(net(), solver, 2)


def test_no_batch_size_is_all_samples() -> None:
    one, other = net(), net()
    fit(one, fm.LBFGS(), 5, batch_size=None)
    fit(other, fm.LBFGS(), 5, batch_size=10**6)
    assert one.params.tobytes() == other.params.tobytes()


@pytest.mark.parametrize("solver", SOLVERS)
def test_states_that_are_refused(solver: type) -> None:
    tool = solver()
    fit(net(), tool, 3)
    good = tool.state_dict()
    slot = good["slots"][0]
    for bad in [
        {},
        None,
        {**good, "kind": "adam"},
        {**good, "hyper": {}},
        {**good, "step": -1},
        {**good, "slots": [{}]},
        {**good, "slots": [slot, slot]},
        {**good, "slots": [{**slot, "grad": slot["grad"][:-1]}]},
        {**good, "slots": [{**slot, "theta": slot["theta"].astype(int)}]},
    ]:
        with pytest.raises((TypeError, ValueError), match="state"):
            tool.load_state_dict(bad)
    assert tool.step_count == 3
    np.testing.assert_equal(tool.state_dict(), good)


@pytest.mark.parametrize("number", [1e300, np.nan, np.inf, -1.0, 0.5])
@pytest.mark.parametrize("kind", [fm.LBFGS, fm.LevenbergMarquardt])
def test_a_state_needs_a_count_of_evaluations(kind, number):
    x = np.arange(12.0).reshape(6, 2) / 10
    solver = kind()
    fm.MLP([2, 1], seed=0, dtype="float64").fit(
        x, x[:, :1], loss=fm.MSE(), optimizer=solver, epochs=2
    )
    state = solver.state_dict()
    state["slots"][0]["evaluations"] = np.array([number])
    other = kind()
    with pytest.raises(ValueError, match=r"\['evaluations'\] must be a count"):
        other.load_state_dict(state)
    assert other.step_count == 0
