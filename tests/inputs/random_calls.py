"""Random calls of the public functions and methods, each with arguments from `Draw`.

Run as a program, it makes the calls in a process with little memory::

    python random_calls.py SEED CALLS FOLDER

It prints each wrong kind of error with the seed of its call.
"""

from __future__ import annotations

import copy
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
from fastmlp import initializers, rl, schedules
from hostile import SCALARS, Draw

# What a call may raise for bad arguments. A file may be missing, and divergence is an
# ordinary end of training; both are documented.
ALLOWED = (TypeError, ValueError, MemoryError, OSError, fm.DivergenceError)

ROWS, N_IN, N_OUT = 6, 3, 2
FOLDER = Path()


def model(d: Draw, n_out: int = N_OUT) -> fm.MLP:
    layers: list[Any] = [N_IN, 4, n_out]
    if d.rng.random() < 0.3:
        layers = [N_IN, fm.Dense(4), fm.LayerNorm(), fm.Dropout(0.5), n_out]
    return fm.MLP(layers, dtype=d.one(["float32", "float64"]), seed=0)


# Makers of objects with hostile arguments ---------------------------------------------


def layer(d: Draw) -> Any:
    return d.one([dense, activation_layer, dropout, norm, residual])(d)


def dense(d: Draw) -> Any:
    more = d.options(
        activation=lambda: d("relu", "tanh", "softmax", "linear"),
        bias=lambda: d(True, False),
        init=lambda: d("he_normal", "orthogonal", initializer(d)),
        bias_init=lambda: d("zeros", "torch", initializer(d)),
    )
    return fm.Dense(d(1, 4), **more)


def initializer(d: Draw) -> Any:
    makers: list[Callable[[], Any]] = [
        lambda: initializers.Normal(d(0.1), mean=d(0.0)),
        lambda: initializers.Uniform(d(-0.1), d(0.1)),
        lambda: initializers.TruncatedNormal(d(0.1), d(-1.0), d(3.0), mean=d(0.0)),
        lambda: initializers.Constant(d(0.1)),
        lambda: initializers.VarianceScaling(
            d(1.0), d("fan_in", "fan_avg"), d("uniform", "truncated_normal")
        ),
        lambda: initializers.Identity(d(1.0)),
        lambda: initializers.Sparse(d(0.5), d(0.1)),
        lambda: initializers.Siren(d(30.0)),
        lambda: initializers.Orthogonal(d(1.0)),
        lambda: lambda rng, shape: d(rng.random(shape)),
    ]
    return d.one(makers)()


def activation_layer(d: Draw) -> Any:
    if d.rng.random() < 0.5:
        return fm.Activation(d("relu", "tanh"))
    return fm.Activation(d(np.sin), d(np.cos))


def dropout(d: Draw) -> Any:
    return fm.Dropout(d(0.0, 0.5))


def norm(d: Draw) -> Any:
    kind = d.one([fm.LayerNorm, fm.BatchNorm, fm.RMSNorm])
    more = d.options(eps=lambda: d(1e-5, 0.1), affine=lambda: d(True, False))
    return kind(**more)


def residual(d: Draw) -> Any:
    return fm.Residual(d([4, 4], [fm.LayerNorm(), 4]))


def mlp(d: Draw) -> Any:
    layers = d([N_IN, 4, N_OUT], [N_IN, 1], [N_IN, layer(d), N_OUT])
    return fm.MLP(
        layers,
        **d.options(
            activation=lambda: d("relu", "tanh", "swish"),
            output_activation=lambda: d("identity", "sigmoid", "softmax"),
            init=lambda: d("auto", "torch", "zeros", initializer(d)),
            bias_init=lambda: d(None, "ones", initializer(d)),
            bias=lambda: d(True, False),
            dtype=lambda: d("float32", "float64", np.float32),
            seed=lambda: d(0, None, [1, 2], np.random.default_rng(0)),
        ),
    )


def loss(d: Draw) -> Any:
    reduction = d.options(reduction=lambda: d("mean", "sum"))
    makers: list[Callable[[], Any]] = [
        lambda: fm.MSE(**reduction),
        lambda: fm.MAE(**reduction),
        lambda: fm.Huber(d(1.0, 0.5), **reduction),
        lambda: fm.PseudoHuber(d(1.0, 0.5), **reduction),
        lambda: fm.BinaryCrossEntropy(pos_weight=d(None, 2.0, [1, 2]), **reduction),
        lambda: fm.Poisson(**reduction),
        lambda: fm.Quantile(d(0.5, [0.1, 0.9]), **reduction),
        lambda: fm.Hinge(d(1.0, 0.0), **reduction),
        lambda: fm.GaussianNLL(d(1e-6), **reduction),
        lambda: fm.ActionValue(d(fm.MSE(), fm.Huber())),
        lambda: fm.CustomLoss(d(lambda p, y: (0.0, p * 0)), **reduction),
        lambda: rl.PolicyGradient(d(0.0, 0.1), **reduction),
        lambda: rl.ClippedPolicyGradient(d(0.2), d(0.01), **reduction),
        lambda: fm.CrossEntropy(
            **d.options(
                label_smoothing=lambda: d(0.0, 0.1),
                class_weight=lambda: d(None, [1, 2]),
                ignore_index=lambda: d(None, -100, 0),
            ),
            **reduction,
        ),
    ]
    return d.one(makers)()


def target(d: Draw, n_out: int = N_OUT) -> Any:
    pair = (d.labels(ROWS, n_out), d.array(ROWS))
    triple = (*pair, d.array(ROWS))
    kinds = [d.array(ROWS, n_out), d.array(ROWS, n_out, low=0), d.labels(ROWS, n_out)]
    return d.one([*kinds, pair, triple, d(None)])


def fitting(d: Draw) -> tuple[Any, Any]:
    """Return a loss and targets that fit it unless they are hostile."""
    labels = d.labels(ROWS, N_OUT)
    return d.one(
        [
            (fm.MSE(), d.array(ROWS, N_OUT)),
            (fm.CrossEntropy(), labels),
            (fm.BinaryCrossEntropy(), d.array(ROWS, N_OUT, low=0)),
            (fm.Quantile([0.1, 0.9]), d.array(ROWS)),
            (fm.GaussianNLL(), d.array(ROWS, 1)),
            (fm.ActionValue(fm.MSE()), (labels, d.array(ROWS))),
            (rl.PolicyGradient(), (labels, d.array(ROWS))),
            (fm.CustomLoss(lambda p, y: (0.0, p * 0)), d.array(ROWS, N_OUT)),
            (loss(d), target(d)),
        ]
    )


def schedule(d: Draw) -> Any:
    makers: list[Callable[[], Any]] = [
        lambda: schedules.Constant(d(0.1)),
        lambda: schedules.Step(d(0.1), d(2, 5), d(0.5)),
        lambda: schedules.MultiStep(d(0.1), d([2, 3], (5,)), d(0.5)),
        lambda: schedules.Exponential(d(0.1), d(0.5, 1.1)),
        lambda: schedules.Cosine(d(0.1), d(5), d(0.0), d(None, 1, 2)),
        lambda: schedules.LinearWarmup(d(0.1, schedules.Step(0.1, 2)), d(3), d(0.5)),
        lambda: schedules.OneCycle(
            d(0.1), d(10), d(0.3), d("cos", "linear"), d(25.0), d(1e4), d(True, False)
        ),
        lambda: schedules.InverseSqrt(d(0.1), d(5)),
        lambda: schedules.Polynomial(d(0.1), d(5), d(1.0, 2.5), d(0.0)),
        lambda: schedules.Linear(d(0.1), d(5), d(0.5), d(0.0, 1.0)),
        lambda: schedules.ConstantFactor(d(0.1), d(5), d(0.5)),
        lambda: schedules.Cyclic(
            d(0.1),
            d(0.2),
            d(3),
            d(None, 2),
            d("triangular", "triangular2", "exp_range"),
            d(0.9),
        ),
        lambda: schedules.FlatCosine(d(0.1), d(5), d(0.5), d(0.0)),
        lambda: schedules.CosineLog(d(0.1), d(5), d(2)),
        lambda: schedules.WarmupStableDecay(
            d(0.1), d(2), d(0, 3), d(4), d(0.01), d("linear", "cos", "exponential")
        ),
        lambda: schedules.Piecewise(
            d([0.1, 0.2], (0.1, 0.3)), d([3], (5,)), d("constant", "linear", "cos")
        ),
        lambda: schedules.Sequential(d([0.1, schedules.Step(0.1, 2)], (1, 2)), d([3])),
        lambda: schedules.Chained(d(0.1), d([schedules.Linear(1.0, 3), 0.5])),
        lambda: schedules.ReduceOnPlateau(
            d(0.1),
            d("min", "max"),
            d(0.1),
            d(3),
            d(1e-4),
            d("rel", "abs"),
            d(0, 1),
            d(0.0),
            d(1e-8),
        ),
    ]
    return d.one(makers)()


def optimizer(d: Draw) -> Any:
    clip = d.one(["clip_norm", "clip_value"])
    options = {clip: d(None, 1.0)} | d.options(
        accumulate=lambda: d(1, 2),
        weight_decay=lambda: d(0.0, 0.1, schedules.Step(0.1, 2)),
        l1=lambda: d(0.0, 0.1),
        decay=lambda: d("all", "weights"),
        groups=lambda: d(
            (),
            [{"params": d("*", "*.bias", ["0.*"]), "lr": d(0.1, 0.0)}],
            [{"params": "0.*", "lr_scale": d(0.5), "clip_norm": d(None, 1.0)}],
        ),
        ema=lambda: d(None, 0.9),
        maximize=lambda: d(False, True),
    )
    lr = d(0.1, 1e-3, schedules.Step(0.1, 2), lambda step: 0.1)
    makers: list[Callable[[], Any]] = [
        lambda: fm.SGD(lr, d(0.0, 0.9), d(0.0), d(False), **options),
        lambda: fm.Adagrad(lr, d(0.0), eps=d(1e-10), **options),
        lambda: fm.RMSprop(lr, d(0.9), d(1e-8), d(0.0, 0.5), d(False, True), **options),
        lambda: fm.Adam(
            lr, d((0.9, 0.99), [0.5, 0.5]), d(1e-8), amsgrad=d(False), **options
        ),
        lambda: fm.AdamW(lr, eps_mode=d("outside", "inside", "hat"), **options),
        lambda: fm.Adamax(lr, d((0.9, 0.99)), d(1e-8), **options),
        lambda: fm.NAdam(lr, momentum_decay=d(0.0, 0.1), **options),
        lambda: fm.RAdam(lr, decoupled_weight_decay=d(False, True), **options),
        lambda: fm.Adadelta(lr, d(0.9), d(1e-6), **options),
        lambda: fm.Rprop(lr, d((0.5, 1.2)), d((1e-6, 50.0), [0.0, 1.0]), **options),
        lambda: fm.ASGD(lr, d(1e-4), d(0.75), d(1e6, 0.0), **options),
        lambda: fm.Lion(lr, d((0.9, 0.99)), **options),
        lambda: fm.AdaBelief(lr, eps=d(1e-16, 0.0), **options),
        lambda: fm.ScheduleFreeSGD(lr, d(0.9), warmup_steps=d(0, 3), **options),
        lambda: fm.ScheduleFreeAdamW(lr, r=d(0.0, 0.5), **options),
        lambda: fm.Muon(lr, ns_steps=d(5, 0), use_muon=d(True, False), **options),
        lambda: fm.Prodigy(lr, beta3=d(None, 0.9), d0=d(1e-6), **options),
    ]
    return d.one(makers)()


def solver(d: Draw) -> Any:
    makers: list[Callable[[], Any]] = [
        lambda: fm.LBFGS(
            **d.options(
                history=lambda: d(3),
                max_line_search=lambda: d(5),
                c1=lambda: d(1e-4),
                c2=lambda: d(0.9),
                tol=lambda: d(0.0, 1e-6),
            )
        ),
        lambda: fm.LevenbergMarquardt(
            **d.options(
                damping=lambda: d(1e-2),
                max_tries=lambda: d(3),
                tol=lambda: d(0.0, 1e-6),
                memory_limit=lambda: d(2**20),
                acceleration=lambda: d(True, False),
            )
        ),
    ]
    return d.one(makers)()


def callback(d: Draw) -> Any:
    makers: list[Callable[[], Any]] = [
        lambda: fm.EarlyStopping(
            d(None, "loss", "val_loss", "r2"),
            d(3),
            d(0.0),
            d(True, False),
            **d.options(
                mode=lambda: d(None, "min"),
                restore_optimizer=lambda: d(False, True),
                start_from_epoch=lambda: d(0, 1),
                baseline=lambda: d(None, 0.5),
            ),
        ),
        lambda: fm.Checkpoint(
            d(str(FOLDER / "run.safetensors")),
            d(None, "loss"),
            d(False, True),
            d(1, 2),
            **d.options(
                every_steps=lambda: d(None, 1), on_interrupt=lambda: d(False, True)
            ),
        ),
        lambda: fm.CSVLogger(d(str(FOLDER / "log.csv"))),
        lambda: fm.callbacks.TimeLimit(d(0.5)),
        lambda: fm.LearningRateFinder(d(1e-3), d(1.0), d(2), d(0.9), d(4.0)),
        lambda: fm.Monitor(**d.options(every=lambda: d(1), bins=lambda: d(5))),
        lambda: fm.LambdaCallback(on_epoch_end=d(None, lambda *args: None)),
    ]
    return d.one(makers)()


def replay(d: Draw) -> Any:
    return rl.ReplayBuffer(
        d(8),
        d(N_IN, (N_IN,)),
        **d.options(action_shape=lambda: d(None, 2, (2,)), seed=lambda: d(0, None)),
    )


# Calls --------------------------------------------------------------------------------


def use_loss(d: Draw) -> Any:
    function, y = fitting(d)
    call = d.one([function, function.value_and_grad])
    return call(d.array(ROWS, N_OUT), y, *d.one([(), (d.array(ROWS, low=0),)]))


def use_model(d: Draw) -> Any:
    net, x = model(d), d.array(ROWS, N_IN)
    before = net.params.copy()
    function, y = fitting(d)
    weight = d.options(sample_weight=lambda: d.array(ROWS, low=0))
    training = d.options(training=lambda: d(True, False))
    vectors = d.array(ROWS, N_IN)
    calls: list[Callable[[], Any]] = [
        lambda: net(x),
        lambda: net(x, d.array(ROWS, N_OUT)),
        lambda: net.forward(x, **training),
        lambda: (net.forward(d.array(ROWS, N_IN)), net.backward(d.array(ROWS, N_OUT))),
        lambda: net.vjp(x, d.array(ROWS, N_OUT), **training),
        lambda: net.jvp(x, vectors),
        lambda: net.hvp(x, vectors, d.array(N_OUT)),
        lambda: net.hessian(x, d.array(N_OUT)),
        lambda: net.jacobian(x),
        lambda: net.param_jacobian(x),
        lambda: net.per_sample_grads(x, y, function, **weight),
        lambda: net.value_and_grad(x, y, function, **weight, **training),
        lambda: net.evaluate(x, y, function, **weight),
        lambda: net.predictor(d(None, 1, 2)),
        lambda: net.predictor(x=x, out=d.array(ROWS, N_OUT)),
        lambda: net.predictor()(d.array(N_IN)),
        lambda: net.save(d(str(FOLDER / "model.safetensors"))),
        lambda: net.to_c(d(str(FOLDER / "model.h"), None)),
        lambda: fm.regions.count_regions(net, d.array(N_IN), d.array(N_IN)),
        lambda: fm.regions.activation_patterns(net, x),
        net.summary,
        lambda: net.diagram(max_units=d(0, 3, 16)),
        lambda: net.diagram().save(d(str(FOLDER / "model.svg"))),
        net.fold,
        lambda: pickle.loads(pickle.dumps(net, d.one(range(6)))),
    ]
    try:
        return d.one(calls)()
    finally:
        assert net.params.tobytes() == before.tobytes(), "the model has changed"


def train(d: Draw) -> Any:
    net, x = model(d), d.array(ROWS, N_IN)
    before = net.params.copy()
    function, y = fitting(d)
    rule = optimizer(d)
    weight = d.options(sample_weight=lambda: d.array(ROWS, low=0))
    try:
        return net.train_step(x, y, d(function), rule, **weight)
    except ALLOWED:
        assert net.params.tobytes() == before.tobytes(), "the model has changed"
        raise


def fit(d: Draw) -> Any:
    net, x = model(d), d.array(ROWS, N_IN)
    function, y = fitting(d) if d.hostile() else (fm.MSE(), d.array(ROWS, N_OUT))
    rule = d.one([optimizer, optimizer, optimizer, solver])(d)
    options = d.options(
        batch_size=lambda: d(None, 2, 100),
        shuffle=lambda: d(True, False),
        sample_weight=lambda: d.array(ROWS, low=0),
        validation_data=lambda: d((x, y), None, [(x, y)]),
        metrics=lambda: d((), ["mae"], {"m": "r2"}, ["accuracy"]),
        callbacks=lambda: d((), [callback(d)], [lambda mlp, history: None]),
        seed=lambda: d(0, None, [1]),
        steps_per_epoch=lambda: d(None, 1),
        progress=lambda: d(False),
    )
    if d.rng.random() < 0.3:
        data: Any = d.one([([(x, y)],), (lambda: [(x, y)],), (iter([(x, y)]),)])
        for name in ("batch_size", "sample_weight", "metrics"):
            options.pop(name, None)
    else:
        data = (x, y)
        options.pop("steps_per_epoch", None)
    epochs = d(1, 2)
    if type(epochs) is int and 2 < epochs < 2**63:
        epochs = 2  # so many epochs would take too long
    return net.fit(*data, loss=function, optimizer=rule, epochs=epochs, **options)


def step(d: Draw) -> Any:
    rule = optimizer(d)
    net = model(d)
    single = d.array(4, 3)
    grads = single if d.rng.random() < 0.5 else d.array(4, 3)
    calls: list[Callable[[], Any]] = [
        lambda: rule.step(copy.copy(single), grads),
        lambda: rule.step([np.ones((4, 3)), np.ones(3)], [grads, d.array(3)]),
        lambda: rule.step(d(net), d.array(net.n_params)),
        lambda: rule.averaged(d(net)),
        lambda: rule.load_state_dict(mutated(d, rule.state_dict())),
        lambda: pickle.loads(pickle.dumps(fm.Adam(), d.one(range(6)))),
    ]
    return d.one(calls)()


def mutated(d: Draw, state: dict[str, Any]) -> Any:
    """Return a state of which one value, at some depth, is another."""
    state = copy.deepcopy(state)
    place: Any = state
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return d(state)
        key = d.one(keys)
        if isinstance(place[key], (dict, list)) and d.rng.random() < 0.7:
            place = place[key]
            continue
        place[key] = (
            d.one(SCALARS) if d.hostile() else d.one([0, None, -1, np.zeros(3)])
        )
        return state


def attribute(d: Draw) -> Any:
    rule = optimizer(d)
    good = {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.1, "l1": 0.1, "decay": "all"}
    if isinstance(rule, fm.ScheduleFreeSGD):
        del good["momentum"]  # it cannot be set
    name = d.one([n for n in good if hasattr(rule, n)])
    setattr(rule, name, d(good[name]))
    return repr(rule)


def minimize(d: Draw) -> Any:
    rule = solver(d)

    def square(theta: np.ndarray[Any, Any]) -> Any:
        if isinstance(rule, fm.LBFGS):
            return d(float(theta @ theta)), d.array(3) if d.hostile() else 2 * theta
        return theta, d.array(3, 3) if d.hostile() else np.eye(3)

    calls: list[Callable[[], Any]] = [
        lambda: rule.minimize(
            d(square), d.array(3), **d.options(iterations=lambda: d(2))
        ),
        lambda: rule.load_state_dict(mutated(d, rule.state_dict())),
    ]
    return d.one(calls)()


def rates(d: Draw) -> Any:
    made = schedule(d)
    calls: list[Callable[[], Any]] = [
        lambda: made(d(0, 3)),
        lambda: made.values(d(0, 3), d(0, 5)),
        lambda: hash(made) if not isinstance(made, schedules.ReduceOnPlateau) else 0,
        lambda: made.observe(d(0.5)) if hasattr(made, "observe") else repr(made),
        lambda: pickle.loads(pickle.dumps(made)),
    ]
    return d.one(calls)()


def measure(d: Draw) -> Any:
    metric = d.one(list(fm.metrics.METRICS.values()))
    y = d.array(ROWS, N_OUT)
    more = d.options(sample_weight=lambda: d.array(ROWS, low=0))
    if metric is fm.metrics.accuracy:
        more |= d.options(kind=lambda: d("auto", "binary"), threshold=lambda: d(0.5))
    return metric(d.array(ROWS, N_OUT), y, **more)


def from_rl(d: Draw) -> Any:
    flags = d.labels(ROWS, 2)
    flags = flags.astype(bool) if isinstance(flags, np.ndarray) else flags
    logits, rng = d.array(ROWS, N_OUT), d(np.random.default_rng(0))
    net = model(d)
    row = d.array(ROWS)
    calls: list[Callable[[], Any]] = [
        lambda: rl.LinearSchedule(d(1.0), d(0.1), d(5))(d(0, 3)),
        lambda: rl.entropy(logits),
        lambda: rl.log_prob(logits, d.labels(ROWS, N_OUT)),
        lambda: rl.sample_actions(logits, rng),
        lambda: rl.epsilon_greedy(logits, d(0.1), rng),
        lambda: rl.returns(row, d(0.9), flags, **d.options(next_values=lambda: row)),
        lambda: rl.gae(row, d.array(ROWS), d.array(ROWS), flags, gamma=d(0.9)),
        lambda: rl.TargetNetwork(
            d(net), **d.options(every=lambda: d(2), tau=lambda: d(0.5))
        ).update(),
        lambda: rl.dqn_targets(
            d(net),
            (d.array(ROWS, N_IN), d.labels(ROWS, 2), row, d.array(ROWS, N_IN), flags),
            d(0.9),
        ),
        lambda: net.polyak_(d(net.copy()), d(0.5)),
        lambda: net.freeze(d("0.*", "*.bias"), d("0.weight", "*")),
        lambda: net.unfreeze(d("*", "0.*")),
    ]
    return d.one(calls)()


def use_replay(d: Draw) -> Any:
    buffer = replay(d)
    action = 0 if buffer.state_dict()["action_shape"] is None else d.array(2)
    buffer.add(d.array(N_IN), action, d(0.5), d.array(N_IN), d(True, False))
    calls: list[Callable[[], Any]] = [
        lambda: buffer.sample(d(2)),
        lambda: buffer.load_state_dict(mutated(d, buffer.state_dict())),
        lambda: buffer.add_batch(
            d.array(ROWS, N_IN),
            d.labels(ROWS, 2),
            np.zeros(ROWS, "f") if d.rng.random() < 0.7 else d.array(ROWS),
            d.array(ROWS, N_IN),
            np.zeros(ROWS, bool),
        ),
        lambda: pickle.loads(pickle.dumps(buffer)),
    ]
    return d.one(calls)()


def estimate(d: Draw) -> Any:
    from fastmlp import sklearn

    classify = d.rng.random() < 0.5
    kind = sklearn.MLPClassifier if classify else sklearn.MLPRegressor
    max_iter = d(1, 2)
    if isinstance(max_iter, (int, np.integer)) and max_iter > 2:
        max_iter = 2  # so many epochs would take too long
    options = d.options(
        activation=lambda: d("relu", "tanh"),
        solver=lambda: d("adam", "sgd", "lbfgs"),
        alpha=lambda: d(1e-4),
        batch_size=lambda: d("auto", 2),
        learning_rate_init=lambda: d(0.1),
        tol=lambda: d(1e-4),
        random_state=lambda: d(0, None),
        early_stopping=lambda: d(False, True),
        validation_fraction=lambda: d(0.3),
        n_iter_no_change=lambda: d(2),
        beta_1=lambda: d(0.9),
        epsilon=lambda: d(1e-8),
        momentum=lambda: d(0.9),
        warm_start=lambda: d(False),
    )
    made = kind(hidden_layer_sizes=d((3,), 3, ()), max_iter=max_iter, **options)
    y = d.labels(ROWS, 2) if classify else d.array(ROWS)
    more = d.options(sample_weight=lambda: d.array(ROWS, low=0))
    made.fit(d.array(ROWS, N_IN), y, **more)
    names = ["predict", "score", "predict_proba", "partial_fit"]
    name = d.one([n for n in names if hasattr(made, n)])
    x = d.array(ROWS, N_IN)
    return getattr(made, name)(*((x, y) if name in ("score", "partial_fit") else (x,)))


def runtime(d: Draw) -> Any:
    calls: list[Callable[[], Any]] = [
        lambda: fm.set_num_threads(d(0, 2)),
        lambda: fm.threads(d(1, 2)).__enter__(),
        lambda: fm.use_isa(d("scalar", "avx2")).__enter__(),
        lambda: fm.check_grad(
            d(lambda x: (x @ x, 2 * x)), d.array(3), step=d(None, 1e-4), seed=d(0)
        ),
    ]
    try:
        return d.one(calls)()
    finally:
        fm.set_num_threads(0)


def files(d: Draw) -> Any:
    net = model(d)
    rule = fm.Adam()
    calls: list[Callable[[], Any]] = [
        lambda: fm.load(d(str(FOLDER / "missing"), str(FOLDER))),
        lambda: fm.load(__file__),
        lambda: fm.Checkpoint.load(d(str(FOLDER / "missing")), d(net), d(rule), d(())),
        lambda: fm.from_torch(
            d(net.state_dict()), activation=d("relu", ["relu"]), prefix=d("")
        ),
        lambda: fm.from_sklearn(d.one(SCALARS)),
        lambda: fm.from_keras(d.one(SCALARS)),
        lambda: net.load_state_dict(d(mutated(d, net.state_dict()))),
    ]
    return d.one(calls)()


CALLS = [
    *(mlp, layer, loss, schedule, optimizer, solver, callback, replay),
    *(use_loss, use_loss, use_model, use_model, use_model, train, train, fit, fit),
    *(step, attribute, minimize, rates, measure, from_rl, from_rl, use_replay),
    *(estimate, runtime, files),
]


def wrong_answer(seed: int, i: int) -> str | None:
    """Make call number ``i``; return a description of a wrong kind of error."""
    rng = np.random.default_rng([seed, i])
    d = Draw(rng, share=float(rng.choice([0.03, 0.1, 0.4])))
    call = d.one(CALLS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call(d)
    except ALLOWED as error:
        if "passed all checks" not in str(error):
            return None
        kind: BaseException = error
    except Exception as error:
        kind = error
    else:
        return None
    last = traceback.extract_tb(kind.__traceback__)[-1]
    place = f"{Path(last.filename).name}:{last.lineno}"
    text = " ".join(str(kind)[:150].split())
    return f"{call.__name__} {seed} {i}: {type(kind).__name__} at {place}: {text}"


def main(seed: int, calls: int) -> int:
    """Make the calls; print wrong answers and return their number."""
    wrong = 0
    for i in range(calls):
        answer = wrong_answer(seed, i)
        if answer is not None:
            wrong += 1
            print(answer, flush=True)
    return wrong


if __name__ == "__main__":
    import os
    import resource

    # A call that needs more memory than there is must raise MemoryError.
    _LIMIT = 4 << 30
    resource.setrlimit(resource.RLIMIT_AS, (_LIMIT, _LIMIT))
    FOLDER = Path(sys.argv[3])
    os.chdir(FOLDER)  # where files with hostile names may be written
    sys.exit(min(main(int(sys.argv[1]), int(sys.argv[2])), 100))
