"""Resumed training: an interrupted run ends with the bits of an uninterrupted one."""

from __future__ import annotations

import _thread
import copy
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import schedules
from run_cases import CLASSES, DECAYED, FEW, N_IN, N_OUT, digest, log_cosh, mixed

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
def test_steps_resume_exactly_at_any_step(way: str, loss: Any) -> None:
    """Dropout, running statistics, schedule, moments and averages are resumed."""
    x, y = data()
    batches = [slice(i, i + BATCH) for i in range(0, FEW, BATCH)] * 3
    assert len(batches) == 3 * STEPS

    def step(mlp: fm.MLP, opt: Any, k: int) -> float:
        if way != "states" and k % 2:  # new masks, other statistics
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
    """A loaded state resumes exactly in a model of the same seed, and in no other."""
    x, y = data()
    one = mixed(False, "float32", seed=2)
    results = []
    for seed in (2, 2, 3):
        mlp, opt = mixed(False, "float32", seed=seed), fm.SGD(0.1)
        mlp.load_state_dict(one.state_dict())
        mlp.train_step(x, y, fm.MSE(), opt)
        results.append(digest(mlp.params))
    assert results[0] == results[1] != results[2]


class Break(fm.Callback):
    """Raises an error after a given number of steps."""

    def __init__(self, at: int, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.at, self.error, self.seen = at, error, 0

    def on_batch_end(self, mlp: Any, history: Any, step: int, loss: float) -> None:
        self.seen += 1
        if self.seen == self.at:
            raise self.error


class Killed(BaseException):
    """Simulates the end of the process."""


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
    """A fit with everything that has a state; a new one simulates a new process."""

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
    # Early stopping ended it in the middle of the training.
    assert whole.stop.stopped_epoch == total
    assert 4 <= total < EPOCHS
    assert whole.stop.best_epoch == total - 3
    return whole


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("source", SOURCES)
def test_fit_resumes_exactly_after_ctrl_c_at_any_step(
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
def test_fit_resumes_exactly_from_a_file_made_within_an_epoch(
    source: str, path: Any
) -> None:
    """After the process is killed, the file has the last even step of the epoch."""
    whole = uninterrupted(source, "cycle", path, None)
    wanted = whole.found()
    for cut in range(3, 3 * STEPS + 2):
        first = Training(source, "cycle", path)
        first.save = fm.Checkpoint(path, every_steps=2)
        with pytest.raises(Killed):
            first.fit(Break(cut, Killed))
        rest = Training(source, "cycle", path, seed=99).load()
        # The end of an epoch is stored as well.
        epochs, steps = divmod(cut - 1, STEPS)
        assert rest.opt.step_count == epochs * STEPS + steps // 2 * 2
        assert rest.fit().found() == wanted, cut


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("way", ["pickle", "deepcopy", "file"])
def test_fit_resumes_exactly_at_any_epoch(way: str, rate: str, path: Any) -> None:
    # A file is written before the best epoch is restored, but a copy is made after it.
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


def test_a_model_carries_its_position_within_an_epoch(path: Any) -> None:
    """A loaded model may be copied or pickled before training resumes."""
    whole = uninterrupted("arrays", "cycle", path, None)
    with pytest.raises(KeyboardInterrupt):
        Training("arrays", "cycle", path).fit(Break(2 * STEPS + 2))
    rest = Training("arrays", "cycle", path, seed=99).load()
    rest.mlp, rest.opt = pickle.loads(pickle.dumps((rest.mlp, rest.opt)))
    rest.mlp.fit(*data(), loss=fm.MSE(), optimizer=rest.opt, epochs=0, batch_size=BATCH)
    assert rest.fit().found() == whole.found()


def test_fit_resumes_exactly_after_ctrl_c_at_any_moment(path: Any) -> None:
    """A real Ctrl-C, which comes while the core runs an epoch."""
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


def test_ctrl_c_during_validation(path: Any) -> None:
    """All steps of the epoch have been taken, and none is repeated."""
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
    """Only some callbacks have seen the epoch, so it must not be stored."""

    def interrupt(mlp: Any, history: Any) -> None:
        if len(history) == 3:
            raise KeyboardInterrupt

    run = Training("arrays", "cycle", path)
    with pytest.raises(KeyboardInterrupt):
        run.fit(interrupt)
    assert len(run.history) == 3
    assert len(Training("arrays", "cycle", path).load().history) == 2


def test_iterators_resume_where_the_training_stopped(path: Any) -> None:
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


def test_solvers_resume_exactly_after_ctrl_c(path: Any) -> None:
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


def test_a_file_within_an_epoch_needs_the_same_epochs(path: Any) -> None:
    whole = uninterrupted("arrays", "cycle", path, None)
    with pytest.raises(KeyboardInterrupt):
        Training("arrays", "cycle", path).fit(Break(STEPS + 2))
    rest = Training("arrays", "cycle", path, seed=99).load()
    state = everything(rest.mlp, rest.opt)
    with pytest.raises(ValueError, match=r"of 5 steps .* this fit has 3 steps"):
        rest.fit(batch_size=15)
    rest = Training("arrays", "cycle", path, seed=99).load()
    assert everything(rest.mlp, rest.opt) == state
    with pytest.raises(
        ValueError, match=r"\(39 rows, batch_size 8\), .* batch_size 9\)"
    ):
        rest.mlp.fit(*data(), loss=fm.MSE(), optimizer=rest.opt, epochs=1, batch_size=9)
    assert rest.fit().found() == whole.found()
    # A seed restarts the sequence of orders, and a position is resumed only once.
    again = Training("arrays", "cycle", path, seed=99).load()
    again.stop.patience = 2 * EPOCHS  # the run has ended by the patience that it had
    steps = again.opt.step_count
    again.fit(seed=3, epochs=1)
    assert again.opt.step_count == steps + STEPS
    again.fit(epochs=1)
    assert again.opt.step_count == steps + 2 * STEPS


def test_the_finder_leaves_the_position_unchanged(path: Any) -> None:
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
        with pytest.raises(ValueError, match="save_best_only cannot be combined"):
            fm.Checkpoint("a", save_best_only=True, **option)
    assert repr(fm.Checkpoint("a", every_steps=3, on_interrupt=True)) == (
        "Checkpoint(path='a', monitor=None, save_best_only=False, every=1, mode='min', "
        "every_steps=3, on_interrupt=True)"
    )


def squares(pred: Any, target: Any, weight: Any = None) -> tuple[float, Any]:
    return fm.MSE().value_and_grad(pred, target, weight)


@pytest.mark.parametrize("seed", [None, 8])
def test_a_loss_in_python_draws_what_the_cores_does(seed: int | None) -> None:
    """Masks are the same in steps and in epochs, hence also the bits."""
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

    # In fit the earlier steps are kept, unless the training diverged.
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
    """Weights of classes count as weights of rows."""
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
