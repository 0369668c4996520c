"""The promises for all that training has: the same bits everywhere, and going on.

Neither the instruction set nor the number of threads shows in the result of a run, and
an interrupted run, once resumed, ends as it would have. The test of plain networks is
guarantees/test_same_bits.py.
"""

from __future__ import annotations

import _thread
import copy
import hashlib
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from helpers import assert_threaded, thread_counts

N_IN, N_OUT = 12, 6
# Rows of the wide network that are work for threads: in a step, and in inference. And
# rows of the narrow one that are not.
STEP, MANY, FEW = 280, 880, 39


def digest(*parts: Any) -> str:
    """A hash of arrays, numbers and what holds them, to the bit."""
    sha = hashlib.sha256()

    def take(part: Any) -> None:
        if isinstance(part, dict):
            for key, item in part.items():
                sha.update(str(key).encode())
                take(item)
        elif isinstance(part, (list, tuple)):
            sha.update(b"(")
            for item in part:
                take(item)
            sha.update(b")")
        elif part is None or isinstance(part, str):
            sha.update(repr(part).encode())
        else:
            sha.update(np.asarray(part).tobytes())

    take(parts)
    return sha.hexdigest()


def mixed(wide: bool, dtype: Any, *, n_out: int = N_OUT, seed: int = 2) -> fm.MLP:
    """All kinds of layers; blocks with a projection, one of them in another."""
    a, b, c = (96, 64, 70) if wide else (9, 5, 11)
    inner = fm.Residual([fm.Dropout(0.1), fm.Dense(b, "sin"), c])
    return fm.MLP(
        [
            N_IN,
            fm.LayerNorm(),
            a,
            fm.Residual([fm.LayerNorm(), fm.Dense(b, "gelu"), fm.Dropout(0.3), a]),
            fm.BatchNorm(),
            fm.Activation("softplus"),
            fm.Residual([fm.BatchNorm(momentum=0.3), inner]),
            fm.Dropout(0.2),
            n_out,
        ],
        activation="silu",
        dtype=dtype,
        seed=seed,
    )


def counts(isa: str) -> tuple[int, ...]:
    """Numbers of threads; all of them for one instruction set will do."""
    return thread_counts(isa) if isa == fm.available_isas()[-1] else (1, 3)


def assert_wide_is_for_threads(rows: int, *, passes: int) -> None:
    """``passes``: one for inference, three for a step."""
    weights = mixed(True, "float32").weights
    assert_threaded(2.0 * passes * rows * sum(w.size for w in weights), rows)


def log_cosh(pred: Any, target: Any, weight: Any = None) -> tuple[float, Any]:
    r = (pred - target).astype("float64")
    return float(np.log(np.cosh(r)).mean()), np.tanh(r) / r.size


def targets(what: str, rows: int, dtype: Any) -> Any:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((rows, N_OUT)).astype(dtype)
    labels = rng.integers(0, N_OUT, rows)
    return {
        "values": values,
        "halves": values[:, : N_OUT // 2].copy(),
        "counts": rng.poisson(2.0, (rows, N_OUT)).astype(dtype),
        "signs": np.sign(values),
        "fractions": rng.uniform(size=(rows, N_OUT)).astype(dtype),
        "labels": labels,
        "actions": (labels, values[:, 0].copy()),
    }[what]


def part(y: Any, rows: slice) -> Any:
    return tuple(p[rows] for p in y) if isinstance(y, tuple) else y[rows]


CLIPPED = {"clip_norm": 0.5, "l1": 1e-4, "decay": "weights", "ema": 0.9}
DECAYED = {**CLIPPED, "weight_decay": 0.01}
PLATEAU = {"factor": 0.5, "patience": 0, "threshold": 10.0}
CLASSES = (0.5, 1.0, 2.0, 0.1, 3.0, 1.0)

# Each loss with a schedule and an optimiser, so that all of them come up.
RUNS: dict[str, tuple[Any, str, Any, Any]] = {
    "poisson": (
        fm.Poisson(),
        "counts",
        lambda: schedules.Step(0.01, 2),
        lambda lr: fm.Adam(lr, **DECAYED),
    ),
    "quantile": (
        fm.Quantile(0.3),
        "values",
        lambda: schedules.MultiStep(0.02, [1, 3]),
        lambda lr: fm.SGD(lr, momentum=0.9, nesterov=True, **DECAYED),
    ),
    "quantiles": (
        fm.Quantile([0.1, 0.2, 0.5, 0.6, 0.8, 0.9]),
        "values",
        lambda: schedules.Exponential(0.02, 0.9),
        lambda lr: fm.RMSprop(lr, momentum=0.5, centered=True, **DECAYED),
    ),
    "gaussian": (
        fm.GaussianNLL(),
        "halves",
        lambda: schedules.Cosine(0.01, 3, 1e-4, 2),
        lambda lr: fm.AdamW(lr, amsgrad=True, **CLIPPED),
    ),
    "hinge": (
        fm.Hinge(),
        "signs",
        lambda: schedules.LinearWarmup(0.02, 3),
        lambda lr: fm.Adagrad(lr, **DECAYED),
    ),
    "labels": (
        fm.CrossEntropy(label_smoothing=0.1, class_weight=CLASSES),
        "labels",
        lambda: schedules.OneCycle(0.02, 4),
        lambda lr: fm.Adam(lr, eps_mode="hat", **DECAYED),
    ),
    "fractions": (
        fm.BinaryCrossEntropy(pos_weight=3.0),
        "fractions",
        lambda: schedules.InverseSqrt(0.02, 2),
        lambda lr: fm.Adam(lr, clip_value=0.01),
    ),
    "actions": (
        fm.ActionValue(fm.Huber(0.5)),
        "actions",
        lambda: schedules.ReduceOnPlateau(0.02, **PLATEAU),
        lambda lr: fm.SGD(lr, **DECAYED),
    ),
    "a loss in Python": (
        fm.CustomLoss(log_cosh),
        "values",
        lambda: lambda step: 0.01 / (1 + step),
        lambda lr: fm.Adam(lr, **DECAYED),
    ),
}


def whole_run(name: str, wide: bool, dtype: Any) -> dict[str, str]:
    """All that a fit gives, and what the trained model gives, as hashes."""
    loss, what, rate, optimizer = RUNS[name]
    rows = 2 * STEP if wide else FEW
    x = np.random.default_rng(6).standard_normal((rows, N_IN)).astype(dtype)
    y = targets(what, rows, dtype)
    weight = None if what == "actions" else np.linspace(0.5, 2, rows).astype(dtype)
    mlp, opt, monitor = mixed(wide, dtype), optimizer(rate()), fm.Monitor(path=True)
    metrics: dict[str, Any] = {"sum": lambda pred, y: float(pred.sum(dtype="float64"))}
    if what == "values":
        metrics["mae"] = "mae"
    history = mlp.fit(
        x,
        y,
        loss=loss,
        optimizer=opt,
        epochs=1 if wide else 3,
        batch_size=-(-rows // 2),
        sample_weight=weight,
        validation_data=(x, y),
        metrics=metrics,
        callbacks=[monitor],
        progress=False,
    )
    record = {k: v for k, v in vars(monitor).items() if not k.startswith("_")}
    found = {**history.to_dict(), **record}
    del found["seconds"]
    return {
        "params": digest(mlp.params, mlp.buffers),
        "average": digest(opt.ema_params),
        "state": digest(opt.state_dict()["slots"]),
        "record": digest(found),
        "step": digest(mlp.train_step(x, y, loss, opt, weight), mlp.params),
        "evaluate": digest(mlp.evaluate(x, y, loss, weight)),
        "folded": digest(mlp.fold()(x), mlp(x)),
    }


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_the_same_bits_for_any_isa_and_threads(name: str, dtype: type) -> None:
    """The work is for several threads."""
    wanted: dict[str, str] = {}
    for isa in fm.available_isas():
        for n in counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_wide_is_for_threads(STEP, passes=3)
                found = whole_run(name, True, dtype)
            wanted = wanted or found
            assert found == wanted, (isa, n)


@pytest.mark.parametrize("name", RUNS)
def test_a_small_run_is_the_same_bits_for_any_isa(name: str, dtype: type) -> None:
    wanted: dict[str, str] = {}
    for isa in fm.available_isas():
        for n in (1, 3):
            with fm.use_isa(isa), fm.threads(n):
                found = whole_run(name, False, dtype)
            wanted = wanted or found
            assert found == wanted, (isa, n)


def solved(solver: Any, dtype: Any) -> str:
    """A few iterations."""
    if isinstance(solver, fm.LBFGS):
        mlp, rows, n_in = mixed(True, dtype), STEP, N_IN
        assert_wide_is_for_threads(rows, passes=3)
    else:
        rows, n_in = 2000, 8
        layers = [n_in, 10, fm.LayerNorm(), fm.Residual([4, 10]), 2]
        mlp = fm.MLP(layers, activation="tanh", dtype=dtype, seed=1)
        # The product of the Jacobian with itself.
        assert_threaded(2.0 * mlp.n_params**2 * rows, mlp.n_params)
    x = np.random.default_rng(6).standard_normal((rows, n_in)).astype(dtype)
    y = np.sin(x[:, : mlp.n_out] + x[:, -mlp.n_out :])
    history = mlp.fit(
        x,
        y,
        loss=fm.MSE(),
        optimizer=solver,
        epochs=2,
        sample_weight=np.linspace(0.5, 2, rows).astype(dtype),
        validation_data=(x, y),
        progress=False,
    )
    return digest(mlp.params, history.loss, history.val_loss)


@pytest.mark.parametrize("solver", [fm.LBFGS, fm.LevenbergMarquardt])
def test_solvers_are_the_same_bits_for_any_isa_and_threads(
    solver: Any, dtype: type
) -> None:
    hashes = {}
    for isa in fm.available_isas():
        for n in counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                hashes[isa, n] = solved(solver(), dtype)
    assert len(set(hashes.values())) == 1, hashes


def derivatives(mlp: fm.MLP, x: Any) -> dict[str, Any]:
    v, y = x[:, ::-1].copy(), np.ones((len(x), mlp.n_out), mlp.dtype)
    few = x[: -(-len(x) // 10)]  # where there is more to do for each
    some = x[: len(x) * 3 // 4]
    weight = np.linspace(0.5, 2, len(x)).astype(mlp.dtype)
    return {
        "jacobian": mlp.jacobian(x),
        "jvp": np.hstack(mlp.jvp(x, v)),
        "hvp": mlp.hvp(x, v),
        "hessian": mlp.hessian(few),
        "param_jacobian": mlp.param_jacobian(some),
        "per_sample_grads": mlp.per_sample_grads(
            some, y[: len(some)], fm.Huber(), weight[: len(some)]
        ),
    }


def test_derivatives_are_the_same_bits_for_any_isa_and_threads(dtype: type) -> None:
    """Also those that test_derivatives.py asks for few rows only."""
    block = fm.Residual([fm.Dropout(), 64])
    layers = [10, fm.LayerNorm(), 64, fm.BatchNorm(), block, 1]
    mlp, rows = fm.MLP(layers, activation="tanh", dtype=dtype, seed=4), 3200
    x = np.random.default_rng(1).standard_normal((rows, 10)).astype(dtype)
    mlp.forward(x, training=True)  # statistics with no pattern
    work = 2.0 * rows * sum(w.size for w in mlp.weights)  # a pass for all rows
    wanted: dict[str, str] = {}
    for isa in fm.available_isas():
        for n in counts(isa):
            with fm.use_isa(isa), fm.threads(n):
                assert_threaded(2 * work, rows)  # values and one direction
                assert_threaded(0.75 * 3 * work, rows)  # and the parameters'
                found = {k: digest(a) for k, a in derivatives(mlp, x).items()}
            wanted = wanted or found
            assert found == wanted, (isa, n)


def test_a_row_is_the_same_bits_however_batches_are_split(dtype: type) -> None:
    """Of a network with all kinds of layers, in threads."""
    mlp, rows = mixed(True, dtype), 3 * MANY
    x = np.random.default_rng(8).standard_normal((rows, N_IN)).astype(dtype)
    mlp.forward(x, training=True)
    alone = np.stack([mlp(row) for row in x])
    order = np.random.default_rng(0).permutation(rows)
    folded = mlp.fold()
    for n in (1, 2, 3, 7):
        with fm.threads(n):
            assert_wide_is_for_threads(MANY - 1, passes=1)
            assert mlp(x).tobytes() == alone.tobytes()
            assert mlp(x[order]).tobytes() == alone[order].tobytes()
            for cuts in ([MANY - 1], [MANY], [MANY + 1, 2 * MANY + 2], [1, rows - 1]):
                parts = [mlp(p) for p in np.split(x, cuts)]
                assert np.concatenate(parts).tobytes() == alone.tobytes()
                pieces = [folded(p) for p in np.split(x, cuts)]
                assert np.concatenate(pieces).tobytes() == folded(x).tobytes()


# Going on, in loops of train_step -----------------------------------------------------

BATCH, STEPS = 8, 5  # the last batch of an epoch is shorter: FEW is 39


def data(dtype: Any = "float32") -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((FEW, N_IN)).astype(dtype)
    y = x[:, :N_OUT] * x[:, N_OUT:] + rng.standard_normal((FEW, N_OUT))
    return x, y.astype(dtype)


def adam(rate: Any = None) -> fm.Adam:
    if rate is None:
        rate = schedules.LinearWarmup(schedules.Cosine(0.02, 7, restarts=1), 4)
    return fm.Adam(rate, amsgrad=True, **DECAYED)


def everything(mlp: fm.MLP, opt: Any) -> str:
    state = opt.state_dict()
    return digest(mlp.state_dict(), state["step"], state["slots"], opt.lr)


def from_states(mlp: fm.MLP, opt: Any) -> tuple[fm.MLP, Any]:
    other, again = mixed(False, "float32"), adam(1.0)
    with np.errstate(all="raise"):
        mlp_state, opt_state = mlp.state_dict(), pickle.dumps(opt.state_dict())
    other.params[:] = 7
    other.load_state_dict(mlp_state)
    again.load_state_dict(pickle.loads(opt_state))
    return other, again


WAYS: dict[str, Any] = {
    "states": from_states,
    "pickle": lambda *pair: pickle.loads(pickle.dumps(pair)),
    "deepcopy": lambda *pair: copy.deepcopy(pair),
    "copy": lambda mlp, opt: (mlp.copy(), from_states(mlp, opt)[1]),
}


@pytest.mark.parametrize(
    "loss", [fm.MSE(), fm.CustomLoss(log_cosh)], ids=["native", "python"]
)
@pytest.mark.parametrize("way", WAYS)
def test_steps_go_on_exactly_at_any_step(way: str, loss: Any) -> None:
    """Dropout, statistics, schedule, moments and averages."""
    x, y = data()
    batches = [slice(i, i + BATCH) for i in range(0, FEW, BATCH)] * 3
    assert len(batches) == 3 * STEPS

    def step(mlp: fm.MLP, opt: Any, k: int) -> float:
        if way != "states" and k % 2:  # draws masks of its own, and moves statistics
            mlp.value_and_grad(x, y, loss, training=True)
        return mlp.train_step(x[batches[k]], y[batches[k]], loss, opt)

    whole, opt = mixed(False, "float32"), adam()
    states, losses = [], []
    for k in range(3 * STEPS):
        losses.append(step(whole, opt, k))
        states.append(everything(whole, opt))
    assert len(set(states)) == 3 * STEPS

    first, before = mixed(False, "float32"), adam()
    for cut in range(1, 3 * STEPS):
        step(first, before, cut - 1)
        mlp, opt = WAYS[way](first, before)
        for k in range(cut, 3 * STEPS):
            assert step(mlp, opt, k) == losses[k]
            assert everything(mlp, opt) == states[k]


def test_dropout_of_steps_is_a_function_of_the_models_seed() -> None:
    """So a state alone goes on exactly in a model of the same seed, and in no other."""
    x, y = data()
    one = mixed(False, "float32", seed=2)
    results = []
    for seed in (2, 2, 3):
        mlp, opt = mixed(False, "float32", seed=seed), fm.SGD(0.1)
        mlp.load_state_dict(one.state_dict())
        mlp.train_step(x, y, fm.MSE(), opt)
        results.append(digest(mlp.params))
    assert results[0] == results[1] != results[2]


# Going on, in fit ---------------------------------------------------------------------


class Break(fm.Callback):
    """Raises after some step of all, or after some epoch."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error, self.seen = at, error, 0

    def on_batch_end(self, mlp: Any, history: Any, step: int, loss: float) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise self.error


class Killed(BaseException):
    """The end of the process."""


def batches() -> Iterator[Any]:
    x, y = data()
    weight = np.linspace(0.5, 2, FEW).astype("float32")
    for i in range(0, FEW, BATCH):
        rows = slice(i, i + BATCH)
        yield x[rows], y[rows], weight[rows]


RATES = {
    "cycle": lambda: schedules.OneCycle(0.05, 12 * STEPS),
    "plateau": lambda: schedules.ReduceOnPlateau(0.05, factor=0.3, patience=1),
}
SOURCES = ("arrays", "batches", "python")
EPOCHS = 12


class Training:
    """A fit with all that has a state; a new one stands for a new process."""

    def __init__(
        self, source: str, rate: str, path: Any, seed: int = 2, restore: bool = True
    ) -> None:
        self.source, self.path = source, path
        self.mlp, self.opt = mixed(False, "float32", seed=seed), adam(RATES[rate]())
        self.stop = fm.EarlyStopping(
            patience=3, min_delta=0.3, restore_best=restore, restore_optimizer=True
        )
        self.save = fm.Checkpoint(path, on_interrupt=True)
        self.history = fm.History()

    def fit(self, *others: Any, seed: int | None = None, **options: Any) -> Any:
        x, y = data()
        given: dict[str, Any] = {"batch_size": BATCH}
        inputs: tuple[Any, ...] = (x, y)
        if self.source == "batches":
            given, inputs = {}, (batches,)
        elif self.source == "arrays":
            given["sample_weight"] = np.linspace(0.5, 2, FEW)
        given["epochs"] = EPOCHS - len(self.history)
        hooks = [self.stop, self.save, *others]
        try:
            rest = self.mlp.fit(
                *inputs,
                loss=fm.CustomLoss(log_cosh) if self.source == "python" else fm.MSE(),
                optimizer=self.opt,
                validation_data=(x[::3], y[::3]),
                metrics=["r2"],
                callbacks=hooks,
                progress=False,
                seed=seed,
                **{**given, **options},
            )
        except BaseException:
            self.history.extend(self.mlp.history)
            raise
        self.history.extend(rest)
        return self

    def load(self) -> Any:
        self.history = fm.Checkpoint.load(
            self.path, self.mlp, self.opt, [self.stop, self.save]
        )
        return self

    def found(self) -> dict[str, Any]:
        history = self.history.to_dict()
        del history["seconds"]
        return {
            **history,
            "all": everything(self.mlp, self.opt),
            "rate": repr(self.opt.state_dict()["hyper"]["lr"]),
            "stopped": (self.stop.stopped_epoch, self.stop.best_epoch, self.stop.best),
        }


@pytest.fixture
def path(tmp_path: Any) -> Any:
    return tmp_path / "run.safetensors"


def uninterrupted(
    source: str, rate: str, path: Any, seed: int | None, restore: bool = True
) -> Any:
    whole = Training(source, rate, path, restore=restore).fit(seed=seed)
    total = len(whole.history)
    # Patience ended it, in mid-training.
    assert whole.stop.stopped_epoch == total
    assert 4 <= total < EPOCHS
    assert whole.stop.best_epoch == total - 3
    return whole


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("source", SOURCES)
def test_fit_goes_on_exactly_after_ctrl_c_at_any_step(
    source: str, rate: str, path: Any
) -> None:
    seed = 11 if rate == "cycle" else None
    whole = uninterrupted(source, rate, path, seed)
    wanted, total = whole.found(), len(whole.history) * STEPS
    for cut in range(1, total + 1):
        first = Training(source, rate, path)
        with pytest.raises(KeyboardInterrupt):
            first.fit(Break(cut), seed=seed)
        assert first.opt.step_count == cut
        rest = Training(source, rate, path, seed=99).load()
        assert len(rest.history) == (cut - 1) // STEPS
        assert rest.fit().found() == wanted, cut


@pytest.mark.parametrize("source", SOURCES)
def test_fit_goes_on_exactly_from_a_file_made_within_an_epoch(
    source: str, path: Any
) -> None:
    """What is left when the process is killed: every second step is in the file."""
    whole = uninterrupted(source, "cycle", path, None)
    wanted = whole.found()
    for cut in range(3, 3 * STEPS + 2):
        first = Training(source, "cycle", path)
        first.save = fm.Checkpoint(path, every_steps=2)
        with pytest.raises(Killed):
            first.fit(Break(cut, Killed))
        rest = Training(source, "cycle", path, seed=99).load()
        # An epoch's end is in the file, too.
        epochs, steps = divmod(cut - 1, STEPS)
        assert rest.opt.step_count == epochs * STEPS + steps // 2 * 2
        assert rest.fit().found() == wanted, cut


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("way", ["pickle", "deepcopy", "file"])
def test_fit_goes_on_exactly_at_any_epoch(way: str, rate: str, path: Any) -> None:
    # A file is written before the best epoch is restored, copies are made after it.
    restore = way == "file"
    whole = uninterrupted("arrays", rate, path, None, restore)
    for cut in range(1, len(whole.history)):
        first = Training("arrays", rate, path, restore=restore).fit(epochs=cut)
        assert first.stop.stopped_epoch is None
        rest = Training("arrays", rate, path, seed=99, restore=restore)
        if way == "file":
            rest.load()
        else:
            pair = first.mlp, first.opt
            rest.mlp, rest.opt = WAYS[way](*pair)
            rest.history = first.history
            rest.stop.load_state_dict(first.stop.state_dict())
        assert rest.fit().found() == whole.found(), cut


def test_a_checkpoint_within_an_epoch_goes_with_the_model(path: Any) -> None:
    """A model that was loaded may be copied or pickled before it goes on."""
    whole = uninterrupted("arrays", "cycle", path, None)
    with pytest.raises(KeyboardInterrupt):
        Training("arrays", "cycle", path).fit(Break(2 * STEPS + 2))
    rest = Training("arrays", "cycle", path, seed=99).load()
    rest.mlp, rest.opt = pickle.loads(pickle.dumps((rest.mlp, rest.opt)))
    rest.mlp.fit(*data(), loss=fm.MSE(), optimizer=rest.opt, epochs=0, batch_size=BATCH)
    assert rest.fit().found() == whole.found()


def test_ctrl_c_at_any_moment_goes_on_exactly(path: Any) -> None:
    """A real one, which comes while an epoch is in the core."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30_000, 3)).astype("float32")
    y = x[:, :2] * x[:, 1:]

    def training(seed: int = 1) -> tuple[fm.MLP, Any, Any]:
        layers = [3, 8, fm.BatchNorm(), fm.Dropout(0.2), 2]
        save = fm.Checkpoint(path, on_interrupt=True, every=10**9)
        return fm.MLP(layers, seed=seed), fm.Adam(schedules.InverseSqrt(0.01, 50)), save

    def fit(mlp: fm.MLP, opt: Any, save: Any, epochs: int, *others: Any) -> Any:
        how = {"batch_size": 4, "progress": False, "callbacks": [save, *others]}
        return mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=epochs, **how)

    started = threading.Event()

    def interrupt() -> None:
        started.wait()
        time.sleep(0.004)
        _thread.interrupt_main()

    thread = threading.Thread(target=interrupt)
    thread.start()
    mlp, opt, save = training()
    begin = fm.LambdaCallback(on_epoch_begin=lambda m, h: started.set())
    with pytest.raises(KeyboardInterrupt):
        fit(mlp, opt, save, 10**9, begin)
    thread.join()
    steps = opt.step_count

    rest, again, save = training(seed=5)
    done = fm.Checkpoint.load(path, rest, again, [save])
    assert again.step_count == steps
    assert everything(rest, again) == everything(mlp, opt)
    epochs = len(done) + 1
    done.extend(fit(rest, again, save, 1))
    mlp, opt, save = training()
    history = fit(mlp, opt, save, epochs)
    assert everything(rest, again) == everything(mlp, opt)
    assert done.loss == history.loss


def test_ctrl_c_while_the_validation_loss_is_taken(path: Any) -> None:
    """All steps of the epoch were taken, and none is taken again."""
    x, y = data()

    def run(times: int, epochs: int, seed: int = 2) -> Any:
        mlp, opt, calls = mixed(False, "float32", seed=seed), adam(), []

        def metric(pred: Any, target: Any) -> float:
            calls.append(1)
            if len(calls) == times:
                raise KeyboardInterrupt
            return float(pred[0, 0])

        save = fm.Checkpoint(path, on_interrupt=True)
        done = fm.History()
        if seed != 2:
            done = fm.Checkpoint.load(path, mlp, opt, [save])
            assert opt.step_count == 2 * STEPS
        how = {"batch_size": BATCH, "metrics": {"first": metric}, "callbacks": [save]}
        rest = mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=epochs, **how)
        done.extend(rest)
        return everything(mlp, opt), done.loss, done.metrics

    wanted = run(0, 4)
    with pytest.raises(KeyboardInterrupt):
        run(2, 4)
    assert run(0, 3, seed=9) == wanted


def test_ctrl_c_between_callbacks_leaves_the_last_file(path: Any) -> None:
    """Some of them know of the epoch, some do not: no state to go on from."""

    def interrupt(mlp: Any, history: Any) -> None:
        if len(history) == 3:
            raise KeyboardInterrupt

    run = Training("arrays", "cycle", path)
    with pytest.raises(KeyboardInterrupt):
        run.fit(interrupt)
    assert len(run.history) == 3
    assert len(Training("arrays", "cycle", path).load().history) == 2


def test_iterators_stand_where_the_training_did(path: Any) -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield from batches()

    how = {"steps_per_epoch": STEPS - 1}
    whole = Training("batches", "cycle", path)
    whole.fit(**how, seed=1)
    wanted = whole.found()

    def fit(run: Any, source: Any, *others: Any, **more: Any) -> Any:
        hooks = [run.stop, run.save, *others]
        x, y = data()
        return run.mlp.fit(
            source,
            loss=fm.MSE(),
            optimizer=run.opt,
            epochs=EPOCHS - len(run.history),
            validation_data=(x[::3], y[::3]),
            metrics=["r2"],
            callbacks=hooks,
            **how,
            **more,
        )

    plain = Training("batches", "cycle", path)
    plain.history.extend(fit(plain, endless(), seed=1))
    assert plain.found() != wanted  # its epochs begin where the last one ended
    wanted = plain.found()
    for cut in (1, 4, 6, 11):
        first, source = Training("batches", "cycle", path), endless()
        with pytest.raises(KeyboardInterrupt):
            fit(first, source, Break(cut), seed=1)
        rest = Training("batches", "cycle", path, seed=99).load()
        rest.history.extend(fit(rest, source))
        assert rest.found() == wanted


def test_solvers_go_on_exactly_after_ctrl_c(path: Any) -> None:
    x, y = data("float64")

    def make(seed: int) -> tuple[fm.MLP, Any, Any]:
        mlp = fm.MLP([N_IN, 7, N_OUT], activation="tanh", dtype="float64", seed=seed)
        return mlp, fm.LBFGS(), fm.Checkpoint(path, on_interrupt=True)

    def fit(mlp: fm.MLP, opt: Any, save: Any, epochs: int, *others: Any) -> Any:
        how = {"callbacks": [save, *others], "progress": False}
        return mlp.fit(x, y, loss=fm.MSE(), optimizer=opt, epochs=epochs, **how)

    whole, opt, save = make(1)
    history = fit(whole, opt, save, 6)
    for cut in range(1, 6):
        with pytest.raises(KeyboardInterrupt):
            fit(*make(1), 6, Break(cut))
        mlp, opt, save = make(5)
        done = fm.Checkpoint.load(path, mlp, opt, [save])
        done.extend(fit(mlp, opt, save, 6 - len(done)))
        assert done.loss == history.loss
        assert mlp.params.tobytes() == whole.params.tobytes()


def test_a_file_within_an_epoch_wants_the_same_epochs(path: Any) -> None:
    whole = uninterrupted("arrays", "cycle", path, None)
    with pytest.raises(KeyboardInterrupt):
        Training("arrays", "cycle", path).fit(Break(STEPS + 2))
    rest = Training("arrays", "cycle", path, seed=99).load()
    state = everything(rest.mlp, rest.opt)
    with pytest.raises(ValueError, match=r"of 5 steps .* this fit's are of 3"):
        rest.fit(batch_size=15)
    rest = Training("arrays", "cycle", path, seed=99).load()
    assert everything(rest.mlp, rest.opt) == state
    with pytest.raises(
        ValueError, match=r"\(39 rows, batch_size 8\), .* batch_size 9\)"
    ):
        rest.mlp.fit(*data(), loss=fm.MSE(), optimizer=rest.opt, epochs=1, batch_size=9)
    assert rest.fit().found() == whole.found()
    # A seed begins its orders anew, and a place is gone onto once.
    again = Training("arrays", "cycle", path, seed=99).load()
    steps = again.opt.step_count
    again.fit(seed=3, epochs=1)
    assert again.opt.step_count == steps + STEPS
    again.fit(epochs=1)
    assert again.opt.step_count == steps + 2 * STEPS


def test_the_finder_leaves_the_place_alone(path: Any) -> None:
    whole = uninterrupted("arrays", "cycle", path, None)
    with pytest.raises(KeyboardInterrupt):
        Training("arrays", "cycle", path).fit(Break(STEPS + 2))
    rest = Training("arrays", "cycle", path, seed=99).load()
    rest.mlp.fit(
        *data(),
        loss=fm.MSE(),
        optimizer=rest.opt,
        epochs=9,
        batch_size=BATCH,
        callbacks=[fm.LearningRateFinder(steps=20)],
    )
    assert rest.fit().found() == whole.found()


def test_bad_checkpoints_within_epochs() -> None:
    with pytest.raises(ValueError, match="every_steps"):
        fm.Checkpoint("a", every_steps=0)
    with pytest.raises(TypeError, match="on_interrupt"):
        fm.Checkpoint("a", on_interrupt=1)
    for option in ({"every_steps": 3}, {"on_interrupt": True}):
        with pytest.raises(ValueError, match="save_best_only excludes"):
            fm.Checkpoint("a", save_best_only=True, **option)
    assert repr(fm.Checkpoint("a", every_steps=3, on_interrupt=True)) == (
        "Checkpoint(path='a', monitor=None, save_best_only=False, every=1, mode='min', "
        "every_steps=3, on_interrupt=True)"
    )


# Losses in Python ---------------------------------------------------------------------


def squares(pred: Any, target: Any, weight: Any = None) -> tuple[float, Any]:
    return fm.MSE().value_and_grad(pred, target, weight)


@pytest.mark.parametrize("seed", [None, 8])
def test_a_loss_in_python_draws_what_the_cores_does(seed: int | None) -> None:
    """The same masks, in steps and in epochs, so the same bits."""
    x, y = data()
    found = []
    for loss in (fm.MSE(), squares):
        mlp, opt = mixed(False, "float32"), adam()
        values = [mlp.train_step(x, y, loss, opt) for _ in range(3)]
        how = {"epochs": 2, "batch_size": BATCH, "seed": seed, "progress": False}
        values += mlp.fit(x, y, loss=loss, optimizer=opt, **how).loss
        values.append(mlp.train_step(x, y, loss, opt))
        found.append((values, everything(mlp, opt)))
    assert found[0] == found[1]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, None])
def test_a_loss_in_python_that_fails_leaves_the_statistics(error: Any) -> None:
    x, y = data()
    calls = []

    def fail(pred: Any, target: Any) -> tuple[float, Any]:
        calls.append(1)
        if len(calls) % 3:
            return fm.MSE().value_and_grad(pred, target)
        if error is not None:
            raise error
        return np.nan, pred

    mlp, opt = mixed(False, "float32"), adam()
    mlp.train_step(x, y, fail, opt)
    mlp.train_step(x, y, fail, opt)
    before = everything(mlp, opt)
    with pytest.raises(error or fm.DivergenceError):
        mlp.train_step(x, y, fail, opt)
    assert everything(mlp, opt) == before

    # In fit the steps before it stay taken, unless it diverged.
    mlp, opt, states = mixed(False, "float32"), adam(), []
    states.append(everything(mlp, opt))
    how = {"epochs": 1, "batch_size": BATCH, "callbacks": [], "progress": False}

    class Steps(fm.Callback):
        def on_batch_end(self, mlp: Any, history: Any, step: int, loss: float) -> None:
            states.append(everything(mlp, opt))

    how["callbacks"] = [Steps()]
    with pytest.raises(error or fm.DivergenceError):
        mlp.fit(x, y, loss=fail, optimizer=opt, **how)
    assert len(states) == 3
    if error is not None:
        assert everything(mlp, opt) == states[-1]
    else:
        fresh = mixed(False, "float32")
        assert digest(mlp.state_dict()) == digest(fresh.state_dict())


@pytest.mark.parametrize("weighted", [False, True])
def test_an_epochs_loss_is_the_same_bits_from_batches(weighted: bool) -> None:
    """Weights of classes are among the weights of the rows."""
    x, _ = data()
    labels = np.arange(FEW) % N_OUT
    weight = np.linspace(0.5, 2, FEW).astype("float32") if weighted else None
    loss = fm.CrossEntropy(class_weight=CLASSES)
    losses, seen = [], []

    def note(mlp: Any, history: Any, step: int, value: float) -> None:
        seen.append(value)

    def parts() -> Iterator[Any]:
        for i in range(0, FEW, BATCH):
            rows = slice(i, i + BATCH)
            extra = () if weight is None else (weight[rows],)
            yield x[rows], labels[rows], *extra

    for source in ((x, labels), (parts,)):
        mlp = mixed(False, "float32")
        options: dict[str, Any] = {"shuffle": False, "batch_size": BATCH}
        options["sample_weight"] = weight
        if len(source) == 1:
            options = {}
        history = mlp.fit(
            *source,
            loss=loss,
            optimizer=fm.SGD(0.1),
            epochs=3,
            callbacks=[fm.LambdaCallback(on_batch_end=note)],
            **options,
        )
        losses.append(history.loss)
    assert losses[0] == losses[1]
    assert seen[: 3 * STEPS] == seen[3 * STEPS :]
