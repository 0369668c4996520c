"""What NumPy computes for the package has the same bits in any rounding mode.

The compiled core sets its own floating-point environment; `test_same_bits.py` tests it.
"""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import initializers, metrics, rl, schedules
from helpers import random_batch

STEPS = 500
# The data are made here, because NumPy's random numbers depend on the rounding mode.
RNG = np.random.default_rng(0)
NORMAL = RNG.standard_normal((200, 20))
OTHER = RNG.standard_normal((200, 20))
X, Y = random_batch(200, 20, 5)
PARAMS = np.resize(OTHER, 20 * 30 + 30 + 2 * 30 + 31 * 30 + 31 * 5).astype(np.float32)
WEIGHTS = 0.1 + abs(NORMAL[:, 0])
LOGITS = NORMAL[:, :4].astype(np.float32)
ADVANTAGES = NORMAL[:, 5].astype(np.float32)
ACTIONS = np.arange(200) % 4


def model(**options):
    layers = [20, 30, fm.BatchNorm(), fm.Residual([fm.Dense(30)]), 5]
    return fm.MLP(layers, seed=3, **options)


def statistics():
    """A network with parameters and running statistics that are not round numbers."""
    mlp = model()
    mlp.params[:] = PARAMS
    mlp.forward(NORMAL, training=True)
    return mlp


def from_float64(dtype):
    """Inputs, targets and weights that are converted, if the model is float32."""
    mlp = fm.MLP([20, 20], dtype=dtype, seed=0)
    opt = fm.SGD(lr=0.1)
    loss = mlp.train_step(NORMAL, OTHER, fm.MSE(), opt, WEIGHTS)
    return np.array([loss, *mlp(NORMAL).ravel()])


def losses_of_fit():
    """Learning rates by a schedule, metrics, and a solver of second order."""
    mlp, lr = model(), schedules.LinearWarmup(schedules.OneCycle(0.1, 100), 10)
    options = {"loss": fm.MSE(), "epochs": 3, "progress": False}
    first = mlp.fit(
        X, Y, optimizer=fm.Adam(lr=lr), batch_size=16, metrics=["r2", "mae"], **options
    )
    other = fm.MLP([20, 8, 5], seed=0)
    second = other.fit(X, Y, optimizer=fm.LBFGS(), **options)
    return np.array([*first.loss, *first.metrics["r2"], *second.loss])


def policy_loss():
    loss, target = rl.PolicyGradient(entropy=0.01), (ACTIONS, ADVANTAGES)
    value, grad = loss.value_and_grad(LOGITS, target)
    return np.array([value, *grad.ravel()])


def classifier():
    sklearn = pytest.importorskip("fastmlp.sklearn")
    given = {"class_weight": "balanced", "early_stopping": True}
    model = sklearn.MLPClassifier(
        hidden_layer_sizes=(8,), random_state=0, max_iter=5, **given
    )
    return model.fit(X, Y[:, 0] > 0.3).predict_proba(X)


def regressor():
    sklearn = pytest.importorskip("fastmlp.sklearn")
    model = sklearn.MLPRegressor(hidden_layer_sizes=(8,), random_state=0, max_iter=5)
    return model.fit(X, Y).predict(X)


TRAINED = statistics()
SCHEDULES = {
    "step": schedules.Step(0.1, 7, 0.7),
    "multi-step": schedules.MultiStep(0.1, [10, 50], 0.3),
    "exponential": schedules.Exponential(0.1, 0.99),
    "cosine": schedules.Cosine(0.1, 300),
    "warm-up": schedules.LinearWarmup(schedules.Cosine(0.1, 300), 33),
    "one cycle": schedules.OneCycle(0.1, STEPS),
    "inverse root": schedules.InverseSqrt(0.1, 30),
    "polynomial": schedules.Polynomial(0.1, 300, 1.7, 0.01),
    "linear": schedules.Linear(0.1, 300),
    "cyclic": schedules.Cyclic(0.01, 0.1, 7, 11, "exp_range", 0.99),
    "flat cosine": schedules.FlatCosine(0.1, 300),
    "cosine log": schedules.CosineLog(0.1, 300),
    "wsd": schedules.WarmupStableDecay(0.1, 33, 44, 200, 0.01, "exponential"),
    "piecewise": schedules.Piecewise([0.1, 0.3, 0.2], [33, 200], "linear"),
    "product": schedules.Chained(0.1, [schedules.Linear(1.0, 99), 0.3]),
}
CASES = {
    **{
        f"weights {name}": lambda name=name: model(init=name).params
        for name in initializers.INITIALIZERS
    },
    **{
        f"weights {init!r}": lambda init=init: model(init=init).params
        for init in (
            initializers.Orthogonal(0.3),
            initializers.Sparse(0.7, 0.3),
            initializers.VarianceScaling(0.3, "fan_out", "truncated_normal"),
            initializers.TruncatedNormal(0.3, -1, 3, mean=0.1),
        )
    },
    **{
        f"schedule {name}": lambda schedule=schedule: schedule.values(0, STEPS)
        for name, schedule in SCHEDULES.items()
    },
    **{
        f"metric {name}": lambda name=name: np.array(
            getattr(metrics, name)(NORMAL, OTHER)
        )
        for name in ("r2", "mse", "mae", "rmse")
    },
    "folded": lambda: TRAINED.fold().params,
    "statistics": lambda: statistics().buffers,
    "conversion to float32": lambda: from_float64("float32"),
    "conversion to float64": lambda: from_float64("float64"),
    "fit": losses_of_fit,
    "log_prob": lambda: rl.log_prob(LOGITS, ACTIONS),
    "entropy": lambda: rl.entropy(LOGITS),
    "actions": lambda: rl.sample_actions(LOGITS, np.random.default_rng(0))[1],
    "policy gradient": policy_loss,
    "returns": lambda: rl.returns(LOGITS[:, 0], 0.99),
    "advantages": lambda: rl.gae(*LOGITS.T[:3].copy(), np.zeros(200, bool))[0],
    "ε": lambda: np.array([rl.LinearSchedule(1.0, 0.1, 77)(i) for i in range(77)]),
    "classifier": classifier,
    "regressor": regressor,
}


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
@pytest.mark.parametrize("name", CASES)
def test_same_bits_in_any_rounding_mode(rounding_upward, name):
    expected = CASES[name]()
    with rounding_upward:
        found = CASES[name]()
        assert rounding_upward.kept()
    assert found.tobytes() == expected.tobytes()


def test_the_callers_mode_is_restored_after_an_error(rounding_upward):
    with rounding_upward:
        with pytest.raises(ValueError, match="first must be"):
            SCHEDULES["step"].values(-1, 3)
        assert rounding_upward.kept()
