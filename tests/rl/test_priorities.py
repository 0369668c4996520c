"""`rl.PrioritizedReplayBuffer`: proportions, weights, reproducibility."""

import copy
import pickle

import fastmlp as fm
import fastmlp.reference
import numpy as np
import pytest
from fastmlp import rl

# Powers are within 1e-12, and weights are rounded to float32.
RTOL = 1e-6
# Largest deviation of means of random draws, in standard deviations.
DEVIATIONS = 5.0


def filled(n=10, capacity=16, **options):
    options = {"seed": 0, "alpha": 0.6, "eps": 1e-6, **options}
    buffer = rl.PrioritizedReplayBuffer(capacity, 1, **options)
    for i in range(n):
        buffer.add([i], i, i, [i + 1], False)
    return buffer


def priorities(n=10):
    return np.random.default_rng(1).exponential(size=n).astype(np.float32)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("n", [1, 2, 7, 10, 16])
def test_draws_are_in_proportion_to_priorities(alpha, n):
    buffer, p = filled(n, alpha=alpha, eps=0.01), priorities(n)
    buffer.update_priorities(np.arange(n), p)
    wanted = (p.astype(float) + 0.01) ** alpha
    wanted /= wanted.sum()
    draws = 20_000
    # Single draws, which are independent of each other.
    indices = np.concatenate([buffer.sample(1).indices for _ in range(draws)])
    spread = np.sqrt(draws * wanted * (1 - wanted))
    count = np.bincount(indices, minlength=n)
    assert (abs(count - draws * wanted) <= DEVIATIONS * spread).all()


def test_a_sample_has_one_of_each_part():
    """With B rows, the number of each transition is within 2 of B times its share."""
    buffer, p = filled(alpha=1.0), priorities()
    buffer.update_priorities(np.arange(10), p)
    share = (p.astype(float) + 1e-6) / (p.astype(float) + 1e-6).sum()
    for size in (10, 64, 65, 1000):
        count = np.bincount(buffer.sample(size).indices, minlength=10)
        assert (abs(count - size * share) <= 2).all()
        # Positions ascend, so a slot's draws stand together.
    indices = buffer.sample(64).indices
    assert np.count_nonzero(np.diff(indices)) == len(set(indices)) - 1


@pytest.mark.parametrize("beta", [0.0, 0.4, 1.0])
def test_importance_weights(beta):
    alpha, eps = 0.7, 0.05
    buffer, p = filled(alpha=alpha, eps=eps), priorities()
    buffer.update_priorities(np.arange(10), p[:, None])
    batch = buffer.sample(200, beta=beta)
    probability = (p.astype(float) + eps) ** alpha
    probability /= probability.sum()
    weights = (10 * probability) ** -beta
    weights /= weights.max()
    assert batch.weights.dtype == np.float32
    np.testing.assert_allclose(batch.weights, weights[batch.indices], rtol=RTOL)
    assert batch.weights.max() <= 1


def test_new_transitions_have_the_largest_priority():
    buffer = filled(4, capacity=8, alpha=0.5, eps=1e-3)
    np.testing.assert_array_equal(buffer.state_dict()["priorities"], np.ones(4))
    buffer.update_priorities([1, 2], [0.25, 9.0])
    buffer.add([4], 4, 4, [5], False)
    wanted = [1, 0.251**0.5, 9.001**0.5, 1, 9.001**0.5]
    found = buffer.state_dict()["priorities"]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    # It stays the largest so far, even if that transition's priority falls.
    buffer.update_priorities([2, 4], [0.0, 0.0])
    for i in range(5):
        buffer.add([i], i, i, [i], False)
    found = buffer.state_dict()["priorities"]
    wanted = [9.001**0.5] * 2 + [1e-3**0.5, 1, 1e-3**0.5] + [9.001**0.5] * 3
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_powers_are_accurate():
    """Priorities over the range of float32, and all alphas."""
    p = np.logspace(-37, 38, 151).astype(np.float32)
    for alpha in (0.0, 1e-3, 0.4, 0.6, 1.0):
        buffer = filled(151, capacity=151, alpha=alpha, eps=1e-300)
        buffer.update_priorities(np.arange(151), p)
        wanted = p.astype(float) ** alpha
        found = buffer.state_dict()["priorities"]
        np.testing.assert_allclose(found, wanted, rtol=1e-12)
    buffer = filled(2, alpha=1.0, eps=1e-300)
    buffer.update_priorities([0, 1], [0.0, 3e38])
    weights = buffer.sample(4, beta=1.0).weights
    assert ((weights >= 0) & (weights <= 1)).all()


def test_a_tree_is_a_function_of_the_priorities():
    """Sums do not drift: other ways to the same priorities draw the same samples."""
    rng = np.random.default_rng(0)
    p = rng.exponential(size=13).astype(np.float32)
    buffers = [filled(13, capacity=13, seed=5) for _ in range(2)]
    for _ in range(200):
        slots = rng.integers(13, size=4)
        buffers[0].update_priorities(slots, rng.exponential(size=4) * 1e6)
    for buffer in buffers:
        buffer.update_priorities(np.arange(13), p)
    one, other = (buffer.sample(500, beta=0.7) for buffer in buffers)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_array_equal(one.weights, other.weights)


@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state_dict"])
@pytest.mark.parametrize("n", [0, 7, 40])
def test_copies_draw_alike(way, n):
    buffer = filled(n, n_steps=3, gamma=0.9, extra={"a": "int32"} if n == 0 else None)
    if n:
        batch = buffer.sample(20)
        buffer.update_priorities(batch.indices, batch.rewards)
    if way == "pickle":
        other = pickle.loads(pickle.dumps(buffer))
    elif way == "deepcopy":
        other = copy.deepcopy(buffer)
    else:
        other = rl.PrioritizedReplayBuffer(3, 2, alpha=0.1)
        other.load_state_dict(buffer.state_dict())
    assert repr(other) == repr(buffer)
    assert (other.alpha, other.eps) == (buffer.alpha, buffer.eps)
    for k in range(3):
        batches = []
        for b in (buffer, other):
            b.add([1], 3, 4, [5], False, extra={"a": k} if n == 0 else None)
            batch = b.sample(20, beta=0.5)
            b.update_priorities(batch.indices, abs(batch.rewards) + k)
            batches.append(batch)
        for a, b in zip(*batches, strict=True):
            np.testing.assert_array_equal(a, b)
        for name in ("indices", "weights", "discounts"):
            one, two = (getattr(batch, name) for batch in batches)
            np.testing.assert_array_equal(one, two)


def test_draws_are_those_of_the_generator():
    """Saved agents depend on them: draw k is half of philox's block k / 2."""
    seed, stream, size = 2**40 + 5, 0x52504C59, 100
    buffer = filled(16, seed=seed, alpha=1.0)
    p = np.arange(16) % 5
    buffer.update_priorities(np.arange(16), p)
    uniform = []
    for block in range(size // 2):
        key = seed & 0xFFFFFFFF, seed >> 32
        words = [int(w) for w in fm.reference.philox4x32((block, 0, 0, stream), key)]
        for low, high in (words[:2], words[2:]):
            uniform.append(((low | high << 32) >> 11) / 2**53)
    total = np.cumsum(p + 1e-6)
    position = (np.arange(size) + uniform) / size * total[-1]
    wanted = np.searchsorted(total, position, side="right")
    assert buffer.sample(size).indices.tolist() == wanted.tolist()


def test_bad_arguments_are_refused():
    for bad in ({"alpha": -0.1}, {"alpha": 1.5}, {"alpha": "1"}, {"eps": 0.0}):
        (name,) = bad
        with pytest.raises((TypeError, ValueError), match=name):
            rl.PrioritizedReplayBuffer(4, 1, **bad)
    buffer = filled(4)
    for beta in (-0.1, 1.5, "1", np.nan):
        with pytest.raises((TypeError, ValueError), match="beta"):
            buffer.sample(4, beta)
    before = buffer.state_dict()["priorities"].copy()
    for indices, p in (
        ([4], [1.0]),
        ([-1], [1.0]),
        ([0.5], [1.0]),
        ([0, 9], [5.0, 5.0]),
        ([0], [-1.0]),
        ([0, 1], [5.0, np.nan]),
        ([0, 1], [5.0, np.inf]),
        ([0, 1], [5.0, 1e39]),
        ([0, 1], [5.0]),
        ([0, 1], [[5.0, 5.0]]),
        ([0], ["a"]),
        ([], []),
    ):
        with pytest.raises((TypeError, ValueError), match=r"indices|priorities"):
            buffer.update_priorities(indices, p)
        np.testing.assert_array_equal(buffer.state_dict()["priorities"], before)
    with pytest.raises(ValueError, match="empty"):
        rl.PrioritizedReplayBuffer(4, 1).sample(1)
    with pytest.raises((TypeError, ValueError), match="batch_size"):
        buffer.sample(0)


def test_inconsistent_states_are_refused():
    buffer = filled(6)
    state = buffer.state_dict()
    before = pickle.dumps(buffer)
    for change in (
        {"alpha": 2.0},
        {"eps": 0.0},
        {"priorities": np.ones(5)},
        {"priorities": np.zeros(6)},
        {"priorities": np.full(6, np.nan)},
        {"priorities": np.full(6, 2.0)},
        {"largest_priority": 0.5},
        {"largest_priority": np.inf},
    ):
        with pytest.raises((TypeError, ValueError)):
            buffer.load_state_dict({**state, **change})
        assert pickle.dumps(buffer) == before, change
    uniform = rl.ReplayBuffer(16, 1)
    with pytest.raises(ValueError, match="state must have the keys"):
        uniform.load_state_dict(state)
    with pytest.raises(ValueError, match="state must have the keys"):
        buffer.load_state_dict(uniform.state_dict())


def test_deep_q_learning_as_the_docstring_says():
    rng = np.random.default_rng(0)
    buffer = rl.PrioritizedReplayBuffer(200, 2, seed=0, n_steps=2, gamma=0.5)
    for i in range(200):
        x = rng.uniform(-1, 1, 2)
        buffer.add(x, i % 3, x[i % 3 - 1], -x, True)
    q = fm.MLP([2, 16, 3], seed=0)
    target = rl.TargetNetwork(q, tau=0.1)
    loss, opt = fm.ActionValue(fm.Huber()), fm.Adam(lr=1e-2)
    rows = buffer.get(np.arange(200))

    def error():
        y = rl.dqn_targets(target, rows)
        return abs(y - q(rows.obs)[np.arange(200), rows.actions]).mean()

    before = error()
    for _ in range(300):
        batch = buffer.sample(64, beta=0.4)
        values = q(batch.obs)[np.arange(64), batch.actions]
        y = rl.dqn_targets(target, batch)
        q.train_step(batch.obs, (batch.actions, y), loss, opt, batch.weights)
        buffer.update_priorities(batch.indices, abs(y - values))
        target.update()
    assert error() < 0.2 * before
