"""Policy gradients: losses of logits, actions and advantages, and drawing actions."""

import math
import pickle
from collections.abc import Callable

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import rl
from scipy import special, stats

ROWS, ACTIONS = 12, 3
CLIP = 0.2
# Central differences in float64 with this step have errors of about step², eps / step.
STEP, DIFFERENCES = 1e-5, 1e-8
# Difference between two formulas for the same number, in float64 and in float32.
SAME, SINGLE = 1e-12, 2e-6

LOSSES = [
    rl.PolicyGradient(),
    rl.PolicyGradient(entropy=0.3),
    rl.PolicyGradient(entropy=0.3, reduction="sum"),
    rl.ClippedPolicyGradient(clip=CLIP, entropy=0.0),
    rl.ClippedPolicyGradient(clip=CLIP, entropy=0.3),
    rl.ClippedPolicyGradient(clip=CLIP, entropy=0.3, reduction="sum"),
]
KINDS = [rl.PolicyGradient(entropy=0.1), rl.ClippedPolicyGradient()]

Target = tuple[np.ndarray, ...]


def data(loss: fm.losses.Loss, seed: int = 0) -> tuple[np.ndarray, Target]:
    """Return logits (12, 3) and a target; ratios are on all sides of the clip."""
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((ROWS, ACTIONS))
    actions = rng.integers(0, ACTIONS, ROWS)
    advantages = rng.standard_normal(ROWS)
    if isinstance(loss, rl.PolicyGradient):
        return z, (actions, advantages)
    # No ratio is within a step of a kink, where there is no derivative.
    ratios = rng.choice([0.5, 0.75, 0.85, 1.0, 1.15, 1.25, 2.0], ROWS)
    return z, (actions, advantages, rl.log_prob(z, actions) - np.log(ratios))


def rows_of(target: Target, rows: np.ndarray) -> Target:
    return tuple(part[rows] for part in target)


def by_hand(loss: fm.losses.Loss, z: np.ndarray, target: Target) -> np.ndarray:
    """Return the loss of each row from the formulas, without regard to overflow."""
    log_pi = special.log_softmax(z, axis=1)
    log_pi_a = log_pi[np.arange(len(z)), target[0]]
    spread = stats.entropy(special.softmax(z, axis=1), axis=1)
    if isinstance(loss, rl.PolicyGradient):
        return -target[1] * log_pi_a - loss.entropy * spread
    assert isinstance(loss, rl.ClippedPolicyGradient)
    ratio = np.exp(log_pi_a - target[2])
    bounded = np.clip(ratio, 1 - loss.clip, 1 + loss.clip)
    gain = np.minimum(ratio * target[1], bounded * target[1])
    return -gain - loss.entropy * spread


def network(dtype: str = "float32", seed: int = 0) -> fm.MLP:
    return fm.MLP([4, 16, ACTIONS], activation="tanh", dtype=dtype, seed=seed)


# Values and gradients -----------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_value_is_that_of_the_formula(loss: fm.losses.Loss, weighted: bool) -> None:
    z, target = data(loss)
    w = np.random.default_rng(1).uniform(0, 2, ROWS) if weighted else np.ones(ROWS)
    wanted = w @ by_hand(loss, z, target)
    if loss.reduction == "mean":
        wanted /= w.sum()
    given = w if weighted else None
    value, grad = loss.value_and_grad(z, target, given)
    assert type(value) is float
    assert value == pytest.approx(wanted, rel=SAME, abs=SAME)
    assert value == loss(z, target, given)
    assert grad.flags.c_contiguous
    assert grad.dtype == np.float64


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_gradient_is_that_of_the_value(loss: fm.losses.Loss, weighted: bool) -> None:
    z, target = data(loss)
    w = np.random.default_rng(1).uniform(0, 2, ROWS) if weighted else None
    grad = loss.value_and_grad(z, target, w)[1]
    for i in np.ndindex(z.shape):
        up, down = z.copy(), z.copy()
        up[i] += STEP
        down[i] -= STEP
        slope = (loss(up, target, w) - loss(down, target, w)) / (2 * STEP)
        assert grad[i] == pytest.approx(slope, rel=DIFFERENCES, abs=DIFFERENCES)


@pytest.mark.parametrize(
    ("ratio", "advantage", "follows"),
    [
        (1.0, 1.0, True),
        (1.19, 1.0, True),
        (1.21, 1.0, False),  # already likely enough
        (1.21, -1.0, True),  # to be corrected
        (0.79, 1.0, True),  # to be corrected
        (0.79, -1.0, False),  # already unlikely enough
        (0.81, -1.0, True),
        (1e3, 1.0, False),
        (1e3, -1.0, True),
        (1e-3, 1.0, True),
        (1.0, 0.0, False),
    ],
)
def test_no_gradient_beyond_the_clip(
    ratio: float, advantage: float, follows: bool
) -> None:
    z = np.array([[0.3, -0.2]])
    old = rl.log_prob(z, [1]) - math.log(ratio)
    loss = rl.ClippedPolicyGradient(clip=CLIP, entropy=0.0)
    grad = loss.value_and_grad(z, ([1], [advantage], old))[1]
    assert grad.any() == follows
    if follows:
        assert np.sign(grad[0, 1]) == -np.sign(advantage)


def test_before_the_first_step_the_clipped_gradient_is_the_plain_one() -> None:
    z, (actions, advantages) = data(rl.PolicyGradient())
    plain = rl.PolicyGradient(entropy=0.2)
    clipped = rl.ClippedPolicyGradient(entropy=0.2)
    old = rl.log_prob(z, actions)
    one = plain.value_and_grad(z, (actions, advantages))[1]
    other = clipped.value_and_grad(z, (actions, advantages, old))[1]
    np.testing.assert_allclose(other, one, rtol=SAME, atol=SAME)


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_float32_is_computed_in_float32(loss: fm.losses.Loss) -> None:
    z, target = data(loss)
    value, grad = loss.value_and_grad(z, target)
    single, single_grad = loss.value_and_grad(z.astype(np.float32), target)
    assert single_grad.dtype == np.float32
    assert single == pytest.approx(value, rel=ROWS * SINGLE, abs=ROWS * SINGLE)
    np.testing.assert_allclose(single_grad, grad, atol=ROWS * SINGLE)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_logits_may_be_large(loss: fm.losses.Loss, dtype: str) -> None:
    z = np.array([[1e4, -1e4, 0.0], [-3e4, -3e4, -3e4]], dtype)
    target: Target = (np.array([1, 2]), np.array([1.0, -1.0]))
    if isinstance(loss, rl.ClippedPolicyGradient):
        target += (np.array([-2e4, -500.0]),)  # the second ratio would overflow
    value, grad = loss.value_and_grad(z, target)
    assert math.isfinite(value)
    assert np.isfinite(grad).all()


def test_gradient_is_torchs() -> None:
    torch = pytest.importorskip("torch", reason="results are compared with PyTorch")
    loss = rl.ClippedPolicyGradient(clip=CLIP, entropy=0.05)
    z, target = data(loss, seed=3)
    leaf = torch.tensor(z, requires_grad=True)
    actions, advantages, old = map(torch.from_numpy, target)
    policy = torch.distributions.Categorical(logits=leaf)
    ratio = torch.exp(policy.log_prob(actions) - old)
    bounded = ratio.clamp(1 - CLIP, 1 + CLIP)
    gain = torch.minimum(ratio * advantages, bounded * advantages)
    theirs = -gain.mean() - 0.05 * policy.entropy().mean()
    theirs.backward()
    value, grad = loss.value_and_grad(z, target)
    assert value == pytest.approx(theirs.item(), rel=SAME)
    np.testing.assert_allclose(grad, leaf.grad.numpy(), atol=SAME)


# Targets and weights ------------------------------------------------------------------


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_targets_of_any_kind_are_equivalent(loss: fm.losses.Loss) -> None:
    z, target = data(loss)
    value, grad = loss.value_and_grad(z, target)
    actions, *rest = target
    for other in (
        [actions.tolist(), *(part.tolist() for part in rest)],
        (actions.astype(np.int32), *rest),
        (actions.astype(np.uint8), *rest),
        (np.repeat(actions, 2)[::2], *(np.repeat(part, 2)[::2] for part in rest)),
        np.column_stack(target),
        np.asfortranarray(np.column_stack(target)),
    ):
        again, grad_again = loss.value_and_grad(z, other)
        assert again == value
        np.testing.assert_array_equal(grad_again, grad)
    again, grad_again = loss.value_and_grad(np.asfortranarray(z), target)
    assert again == value
    np.testing.assert_array_equal(grad_again, grad)


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_arguments_are_not_modified(loss: fm.losses.Loss) -> None:
    z, target = data(loss)
    before = [part.copy() for part in (z, *target)]
    loss.value_and_grad(z, target, np.ones(ROWS))
    rl.sample_actions(z, np.random.default_rng(0))
    for part, was in zip((z, *target), before, strict=True):
        np.testing.assert_array_equal(part, was)


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_a_weight_is_how_often_a_row_counts(loss: fm.losses.Loss) -> None:
    z, target = data(loss)
    times = np.arange(ROWS) % 3  # 0, 1 or 2
    rows = np.repeat(np.arange(ROWS), times)
    value, grad = loss.value_and_grad(z, target, times)
    wanted, each = loss.value_and_grad(z[rows], rows_of(target, rows))
    assert value == pytest.approx(wanted, rel=SAME)
    summed = np.zeros_like(z)
    np.add.at(summed, rows, each)
    np.testing.assert_allclose(grad, summed, atol=SAME)


PLAIN, CLIPPED = rl.PolicyGradient(), rl.ClippedPolicyGradient()
Z = np.zeros((2, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rl.PolicyGradient(-0.1), ValueError, "^entropy must be .*>= 0"),
        (lambda: rl.PolicyGradient("no"), TypeError, "^entropy must be a number"),
        (lambda: rl.PolicyGradient(reduction="none"), ValueError, "^reduction must"),
        (lambda: rl.ClippedPolicyGradient(0.0), ValueError, "^clip must be .*> 0"),
        (lambda: PLAIN(Z, [0, 1]), ValueError, "the actions must be of an integer"),
        (lambda: PLAIN(Z, None), TypeError, r"^target must be \(actions, advantages\)"),
        (lambda: PLAIN(Z, ([0], [1.0])), ValueError, r"shape \(2,\)"),
        (lambda: PLAIN(Z, ([0, 1], [1.0])), ValueError, "advantages must have shape"),
        (lambda: PLAIN(Z, ([0, 1],) * 3), TypeError, "got a tuple of length 3"),
        (lambda: PLAIN(Z, ([0, 2], [1.0, 1.0])), ValueError, "action 2 in row 1 is"),
        (lambda: PLAIN(Z, ([0, -1], [1.0, 1.0])), ValueError, "action -1 in row 1"),
        (lambda: PLAIN(Z, ([0.0, 1.0], [1.0, 1.0])), TypeError, "integer dtype"),
        (lambda: PLAIN(Z, np.array([[0.5, 1.0]] * 2)), ValueError, "whole numbers"),
        (lambda: PLAIN(Z, np.array([[np.nan, 1.0]] * 2)), ValueError, "whole numbers"),
        (lambda: PLAIN(Z, np.array([[3.0, 1.0]] * 2)), ValueError, "action 3 in row 0"),
        (lambda: PLAIN(Z, np.zeros((2, 3))), ValueError, r"array of shape \(2, 2\)"),
        (lambda: CLIPPED(Z, ([0, 1], [1.0, 1.0])), TypeError, "old log-prob"),
        (lambda: CLIPPED(Z, ([0, 1], [1.0, 1.0], "ab")), TypeError, "old log-prob"),
        (lambda: PLAIN(Z[0], ([0, 1], [1.0, 1.0])), ValueError, "^pred must have"),
        (lambda: PLAIN(Z[:0], ([], [])), ValueError, "^pred must have shape"),
        (lambda: PLAIN(Z, ([0, 1], [1.0, 1.0]), [1, -1]), ValueError, "^sample_weight"),
        (lambda: rl.log_prob(Z, [0, 2]), ValueError, "^actions: the action 2 in row 1"),
        (lambda: rl.log_prob(Z, [[0], [1]]), ValueError, "^actions: the actions must"),
        (lambda: rl.entropy(Z[0]), ValueError, "^logits must have shape"),
        (lambda: rl.sample_actions(Z, 3), TypeError, "^rng must be a numpy"),
        (
            lambda: rl.sample_actions(np.zeros((2, 2, 2)), np.random.default_rng()),
            ValueError,
            "^logits must have shape",
        ),
        (
            lambda: rl.sample_actions([[0, 1], [np.nan, 0]], np.random.default_rng()),
            ValueError,
            "^logits must be finite.* in row 1",
        ),
        (
            lambda: rl.sample_actions([np.inf, 0.0], np.random.default_rng()),
            ValueError,
            "^logits must be finite",
        ),
    ],
)
def test_errors_are_explained(
    call: Callable[[], object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call()


# As losses among the others -----------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_losses_are_values(loss: fm.losses.Loss) -> None:
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss
    assert hash(again) == hash(loss)
    assert eval(repr(loss), vars(rl)) == loss
    assert sum(loss == other for other in LOSSES) == 1
    with pytest.raises(AttributeError, match="immutable"):
        loss.entropy = 1.0  # type: ignore[attr-defined]


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_gradient_of_a_network_is_that_of_its_value(loss: fm.losses.Loss) -> None:
    mlp = network("float64")
    x = np.random.default_rng(2).standard_normal((ROWS, 4))
    _, target = data(loss)
    value, grad = mlp.value_and_grad(x, target, loss)
    assert value == loss(mlp(x), target) == mlp.evaluate(x, target, loss)
    rng = np.random.default_rng(4)
    for _ in range(5):
        direction = rng.standard_normal(mlp.n_params)
        values = []
        for sign in (1, -1):
            moved = mlp.copy()
            moved.params[:] += sign * STEP * direction
            values.append(moved.evaluate(x, target, loss))
        slope = (values[0] - values[1]) / (2 * STEP)
        assert grad @ direction == pytest.approx(slope, rel=1e-6, abs=DIFFERENCES)


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_fit_takes_the_steps_of_train_step(loss: fm.losses.Loss) -> None:
    x = np.random.default_rng(2).standard_normal((ROWS, 4)).astype(np.float32)
    _, target = data(loss)
    # To float32 first: fit keeps targets in the precision of the advantages.
    target = (target[0], *(part.astype(np.float32) for part in target[1:]))
    stepped, fitted, columns = network(), network(), network()
    opt = fm.Adam(lr=0.01)
    losses = [
        stepped.train_step(
            x[i : i + 4], rows_of(target, np.arange(i, i + 4)), loss, opt
        )
        for i in range(0, ROWS, 4)
    ]
    for mlp, y in ((fitted, target), (columns, np.column_stack(target))):
        history = mlp.fit(
            x,
            y,
            loss=loss,
            optimizer=fm.Adam(lr=0.01),
            epochs=1,
            batch_size=4,
            shuffle=False,
            validation_data=(x, y),
        )
        np.testing.assert_array_equal(mlp.params, stepped.params)
        assert history.loss[0] == pytest.approx(np.mean(losses), rel=SAME)
        assert history.val_loss[0] == pytest.approx(loss(mlp(x), target), rel=SINGLE)


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_fit_explains_bad_targets(loss: fm.losses.Loss) -> None:
    mlp = network()
    before = mlp.params.copy()
    x = np.zeros((ROWS, 4), np.float32)
    _, (actions, *rest) = data(loss)

    def fit(*target: np.ndarray) -> None:
        mlp.fit(x, target, loss=loss, optimizer=fm.Adam(), epochs=1, batch_size=4)

    with pytest.raises(TypeError, match=r"^y: the actions must be of an integer"):
        fit(actions.astype(np.float64), *rest)
    with pytest.raises(ValueError, match=r"^y: all arrays must have shape \(rows,\)"):
        fit(actions[1:], *rest)
    with pytest.raises(
        ValueError, match=r"^validation_data: y: all arrays must have shape"
    ):
        mlp.fit(
            x,
            (actions, *rest),
            loss=loss,
            optimizer=fm.Adam(),
            epochs=1,
            batch_size=4,
            validation_data=(x, (actions[1:], *rest)),
        )
    with pytest.raises(ValueError, match=r"^y must have as many rows as x, 12"):
        fit(actions[1:], *(part[1:] for part in rest))
    with pytest.raises(ValueError, match=r"^y must be finite, got nan in row 0"):
        fit(actions, np.full(ROWS, np.nan), *rest[1:])
    with pytest.raises(ValueError, match="out of range for 3 actions"):
        fit(actions + ACTIONS, *rest)
    np.testing.assert_array_equal(mlp.params, before)


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_a_refused_step_changes_nothing(loss: fm.losses.Loss) -> None:
    mlp, opt = network(), fm.Adam()
    x = np.zeros((ROWS, 4), np.float32)
    _, (actions, advantages, *rest) = data(loss)
    before = mlp.params.copy()
    with pytest.raises(ValueError, match="out of range"):
        mlp.train_step(x, (actions + 1, advantages, *rest), loss, opt)
    with pytest.raises(fm.DivergenceError, match="the loss is nan"):
        mlp.train_step(x, (actions, advantages * np.nan, *rest), loss, opt)
    assert opt.step_count == 0
    np.testing.assert_array_equal(mlp.params, before)


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_number_of_threads_changes_no_bit(loss: fm.losses.Loss) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((512, 4)).astype(np.float32)
    actions, log_probs = rl.sample_actions(network()(x), rng)
    target: Target = (actions, rng.standard_normal(512))
    if isinstance(loss, rl.ClippedPolicyGradient):
        target += (log_probs,)
    params = []
    for n in (1, 2):
        mlp = network()
        with fm.threads(n):
            for _ in range(3):
                mlp.fit(
                    x,
                    target,
                    loss=loss,
                    optimizer=fm.Adam(),
                    epochs=1,
                    batch_size=512,
                )
        params.append(mlp.params)
    np.testing.assert_array_equal(*params)


@pytest.mark.parametrize("loss", KINDS, ids=repr)
def test_learns_which_action_pays(loss: fm.losses.Loss) -> None:
    """A bandit with two kinds of state, in which different actions are rewarded."""
    rng = np.random.default_rng(0)
    mlp, opt = network(), fm.Adam(lr=0.02)
    pays = {0: 2, 1: 0}
    for _ in range(60):
        kind = rng.integers(0, 2, 32)
        x = np.eye(4, dtype=np.float32)[kind]
        actions, log_probs = rl.sample_actions(mlp(x), rng)
        reward = (actions == np.array([pays[0], pays[1]])[kind]) - 0.5
        target: Target = (actions, reward)
        if isinstance(loss, rl.ClippedPolicyGradient):
            target += (log_probs,)
        for _ in range(2):
            mlp.train_step(x, target, loss, opt)
    pi = special.softmax(mlp(np.eye(4, dtype=np.float32)[:2]), axis=1)
    assert pi[0, pays[0]] > 0.9
    assert pi[1, pays[1]] > 0.9


def test_the_clip_holds_a_policy_near_the_old_one() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 4)).astype(np.float32)
    start = network()
    actions, old = rl.sample_actions(start(x), rng)
    advantages = np.ones(64)  # all ratios are to grow: without a clip, indefinitely
    ratios = []
    for clip in (CLIP, 1e6):
        mlp, opt = start.copy(), fm.Adam(lr=0.01)
        loss = rl.ClippedPolicyGradient(clip=clip, entropy=0.0)
        for _ in range(100):
            mlp.train_step(x, (actions, advantages, old), loss, opt)
        ratios.append(np.exp(rl.log_prob(mlp(x), actions) - old))
    # The last step within the clip may leave it, and rows affect each other.
    assert np.median(ratios[0]) < 1 + 2 * CLIP < np.median(ratios[1])


def test_entropy_keeps_a_policy_from_settling() -> None:
    x = np.eye(4, dtype=np.float32)
    spreads = []
    for bonus in (0.0, 1.0):
        mlp, opt = network(), fm.Adam(lr=0.05)
        for _ in range(50):
            loss = rl.PolicyGradient(entropy=bonus)
            mlp.train_step(x, (np.zeros(4, int), np.full(4, 0.5)), loss, opt)
        spreads.append(rl.entropy(mlp(x)).mean())
    assert spreads[0] < 0.1 < 0.8 * math.log(ACTIONS) < spreads[1]


# Drawing actions ----------------------------------------------------------------------


def test_actions_are_drawn_as_often_as_they_are_likely() -> None:
    draws = 20_000
    pi = np.array([0.5, 0.3, 0.15, 0.05])
    z = np.tile(np.log(pi) + 7, (draws, 1)).astype(np.float32)
    actions, _ = rl.sample_actions(z, np.random.default_rng(0))
    counts = np.bincount(actions, minlength=4)
    # The seed is fixed; one seed in a thousand would fail by chance.
    assert stats.chisquare(counts, draws * pi).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_probabilities_are_of_what_was_drawn(dtype: str) -> None:
    rng = np.random.default_rng(0)
    z = (5 * rng.standard_normal((100, 6))).astype(dtype)
    actions, log_probs = rl.sample_actions(z, rng)
    assert actions.dtype == np.int64
    assert actions.shape == (100,)
    assert log_probs.dtype == z.dtype
    wanted = special.log_softmax(z.astype(np.float64), axis=1)[range(100), actions]
    tolerance = SINGLE if dtype == "float32" else SAME
    np.testing.assert_allclose(log_probs, wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(
        rl.log_prob(z, actions), wanted, rtol=tolerance, atol=tolerance
    )
    again, _ = rl.sample_actions(z, np.random.default_rng(7))
    same, _ = rl.sample_actions(z, np.random.default_rng(7))
    np.testing.assert_array_equal(again, same)


def test_one_state_gives_one_action() -> None:
    action, log_prob = rl.sample_actions(
        np.array([0.0, 50.0, 0.0], np.float32), np.random.default_rng(0)
    )
    assert action == 1
    assert type(action) is int
    assert log_prob == pytest.approx(0.0, abs=SINGLE)
    assert type(log_prob) is float


class Fixed(np.random.Generator):
    """A generator that always draws the same number."""

    def __init__(self, number: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.number = number

    def random(self, size: int) -> np.ndarray:  # type: ignore[override]
        return np.full(size, self.number)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("u", [0.0, 1 - 2.0**-53])
def test_extreme_draws_take_no_impossible_action(u: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    z = (3 * rng.standard_normal((500, 5))).astype(dtype)
    z[:, 0], z[:, 4] = -np.inf, -1e9  # both have probability 0
    actions, log_probs = rl.sample_actions(z, Fixed(u))
    assert (actions == (1 if u == 0 else 3)).all()
    assert np.isfinite(log_probs).all()


def test_entropy_is_between_zero_and_log_of_the_actions() -> None:
    z = np.array([[0.0, 0.0, 0.0], [1e4, 0.0, 0.0], [1.0, 2.0, 3.0]])
    spread = rl.entropy(z)
    assert spread[0] == pytest.approx(math.log(3), rel=SAME)
    assert spread[1] == 0.0
    wanted = stats.entropy(special.softmax(z[2]))
    assert spread[2] == pytest.approx(wanted, rel=SAME)
    assert rl.entropy(z.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_masked_actions_have_no_part_in_the_entropy(kind: str) -> None:
    """A logit of -inf masks an action; π log π is then 0, not NaN."""
    logits = np.array([[0, 0, -np.inf], [0, -np.inf, -np.inf]], kind)
    eps = float(np.finfo(kind).eps)
    np.testing.assert_allclose(rl.entropy(logits), [math.log(2), 0], atol=eps)
    free = logits[:1, :2]
    for loss in (rl.PolicyGradient(entropy=0.5), rl.ClippedPolicyGradient(entropy=0.5)):
        target = [np.array([1]), np.array([0.7], kind)]
        if isinstance(loss, rl.ClippedPolicyGradient):
            target.append(np.log(np.array([0.4], kind)))
        value, grad = loss.value_and_grad(logits[:1], tuple(target))
        wanted, grad_free = loss.value_and_grad(free, tuple(target))
        assert value == pytest.approx(wanted, rel=4 * eps)
        np.testing.assert_allclose(grad, [[*grad_free[0], 0]], rtol=4 * eps)
