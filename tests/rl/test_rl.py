"""`fastmlp.rl`: replay, exploration, targets and returns."""

import copy
import math
import pickle
import threading

import fastmlp as fm
import fastmlp.reference
import numpy as np
import pytest
from fastmlp import rl
from helpers import TOLERANCE

# Sums of at most some hundred terms of about 1, in another order than expected values.
SUM_RTOL = TOLERANCE["network"].of(np.float64)
SUM_RTOL_FLOAT32 = TOLERANCE["network"].of(np.float32)
# Largest deviation of means of random draws, in standard deviations.
DEVIATIONS = 5.0


def filled(n=10, capacity=16, seed=0, **options):
    """Return a buffer whose transition i holds i and is terminated if i % 3 == 0."""
    buffer = rl.ReplayBuffer(capacity, 2, seed=seed, **options)
    for i in range(n):
        buffer.add([i, i], i, i, [i + 0.5, i + 0.5], i % 3 == 0)
    return buffer


# Replay -------------------------------------------------------------------------------


def test_a_sample_holds_whole_transitions():
    batch = filled().sample(500)
    assert isinstance(batch, rl.Batch)
    for array, dtype, shape in zip(
        batch,
        (np.float32, np.int64, np.float32, np.float32, np.bool_),
        ((500, 2), (500,), (500,), (500, 2), (500,)),
        strict=True,
    ):
        assert array.dtype == dtype
        assert array.shape == shape
        assert array.flags.carray
    i = batch.actions
    assert set(i) == set(range(10))
    assert (batch.obs == i[:, None]).all()
    assert (batch.next_obs == i[:, None] + 0.5).all()
    assert (batch.rewards == i).all()
    assert (batch.terminated == (i % 3 == 0)).all()


def test_a_batch_is_not_written_again():
    buffer = filled()
    batch = buffer.sample(8)
    kept = copy.deepcopy(batch)
    buffer.sample(8)
    buffer.add([0, 0], 99, 0.0, [0, 0], False)
    for a, b in zip(batch, kept, strict=True):
        assert (a == b).all()


def test_the_oldest_transitions_are_overwritten():
    buffer = rl.ReplayBuffer(4, 1, seed=0)
    for i in range(11):
        assert len(buffer) == min(i, 4)
        buffer.add([i], i, 0.0, [i], False)
    assert (len(buffer), buffer.added, buffer.capacity) == (4, 11, 4)
    assert set(buffer.sample(200).actions) == {7, 8, 9, 10}


def test_draws_are_uniform_and_independent():
    n, draws = 50, 20_000
    batch = filled(n, capacity=n).sample(draws)
    count = np.bincount(batch.actions, minlength=n)
    spread = math.sqrt(draws / n)
    assert (abs(count - draws / n) < DEVIATIONS * spread).all()
    # Two successive draws come from the two halves of a block of the generator.
    i = (batch.actions - (n - 1) / 2) / math.sqrt((n**2 - 1) / 12)
    assert abs(np.mean(i[1:] * i[:-1])) < DEVIATIONS / math.sqrt(draws)


def test_draws_depend_on_seed_and_count_alone():
    whole = filled(seed=7).sample(200).actions
    parts = filled(seed=7)
    sizes = (1, 2, 64, 65, 3, 65)
    assert sum(sizes) == len(whole)
    drawn = np.concatenate([parts.sample(size).actions for size in sizes])
    assert (drawn == whole).all()
    assert (filled(seed=8).sample(200).actions != whole).any()


def test_draws_are_those_of_the_generator():
    """Saved agents depend on these draws: draw k is half of philox's block k / 2."""
    seed, n, stream = 2**40 + 5, 10, 0x52504C59
    expected = []
    for block in range(50):
        key = seed & 0xFFFFFFFF, seed >> 32
        words = [int(w) for w in fm.reference.philox4x32((block, 0, 0, stream), key)]
        for low, high in (words[:2], words[2:]):
            expected.append((low | high << 32) * n >> 64)
    assert filled(n, seed=seed).sample(100).actions.tolist() == expected


def test_seeds_follow_numpy():
    a, b = (rl.ReplayBuffer(10, 1, seed=np.random.default_rng(3)) for _ in range(2))
    assert repr(a) == repr(b)
    assert repr(rl.ReplayBuffer(10, 1)) != repr(rl.ReplayBuffer(10, 1))


@pytest.mark.parametrize("n", [0, 5, 16, 40])
@pytest.mark.parametrize("way", ["pickle", "deepcopy", "state_dict"])
def test_copies_draw_alike(n, way):
    buffer = filled(n)
    if n:
        buffer.sample(13)
    if way == "pickle":
        other = pickle.loads(pickle.dumps(buffer))
    elif way == "deepcopy":
        other = copy.deepcopy(buffer)
    else:
        other = rl.ReplayBuffer(3, 7)
        other.load_state_dict(buffer.state_dict())
    assert repr(other) == repr(buffer)
    assert other.added == buffer.added
    for _ in range(3):
        for b in (buffer, other):
            b.add([1, 2], 3, 4, [5, 6], True)
        for a, b in zip(buffer.sample(20), other.sample(20), strict=True):
            assert (a == b).all()


def test_inconsistent_states_are_refused():
    buffer = filled(20)
    state = buffer.state_dict()
    changes = [
        {"capacity": 0},
        {"capacity": 17},
        {"obs_shape": (3,)},
        {"action_shape": (1,)},
        {"seed": -1},
        {"added": 3},
        {"added": 2**64},
        {"drawn": -1},
        {"drawn": 1.5},
        {"obs": state["obs"][:-1]},
        {"obs": np.full_like(state["obs"], np.nan)},
        {"actions": state["actions"] + 0.5},
        {"rewards": state["rewards"][:, None]},
        {"next_obs": state["next_obs"][:, :1]},
        {"terminated": state["terminated"] + 2},
        {"more": 1},
    ]
    before = pickle.dumps(buffer)
    for change in changes:
        with pytest.raises((TypeError, ValueError)):
            buffer.load_state_dict({**state, **change})
        assert pickle.dumps(buffer) == before, change
    for state in (None, {}, [1]):
        with pytest.raises((TypeError, ValueError), match="state must"):
            buffer.load_state_dict(state)


def test_continuous_actions_and_other_shapes():
    buffer = rl.ReplayBuffer(8, (2, 3), action_shape=(2, 2), seed=0)
    obs, action = np.arange(6.0).reshape(2, 3), np.arange(4.0).reshape(2, 2)
    buffer.add(obs, action, 1.0, obs + 1, False)
    buffer.add_batch(obs[None], action[None], [1.0], obs[None] + 1, [False])
    batch = buffer.sample(5)
    assert batch.obs.shape == (5, 2, 3)
    assert batch.actions.dtype == np.float32
    assert (batch.actions == action).all()
    assert (batch.next_obs == obs + 1).all()
    flat = rl.ReplayBuffer(8, 3, action_shape=2, seed=0)
    x = np.ones(3, np.float32)
    flat.add(x, np.array([0.25, 0.5], np.float32), 1.0, x, False)
    assert (flat.sample(3).actions == [0.25, 0.5]).all()
    other = pickle.loads(pickle.dumps(buffer))
    assert (other.sample(4).actions == action).all()


@pytest.mark.parametrize("kind", [np.float32, np.float64, list, "strided"])
def test_what_is_added_may_be_of_any_kind(kind):
    obs, after = np.array([0.1, 0.2]), np.array([0.3, 0.4])
    expected = obs.astype(np.float32), after.astype(np.float32)
    if kind == "strided":
        given = np.repeat(obs, 2)[::2], np.repeat(after, 2)[::2]
    elif kind is list:
        given = obs.tolist(), after.tolist()
    else:
        given = obs.astype(kind), after.astype(kind)
    buffer = rl.ReplayBuffer(9, 2, seed=0)
    for action, reward, over in (
        (1, 0.5, True),
        (np.int32(1), np.float64(0.5), np.True_),
        (np.array(1), np.float32(0.5), True),
        (np.uint8(1), np.array([0.5]), np.True_),
    ):
        buffer.add(given[0], action, reward, given[1], over)
    batch = buffer.sample(50)
    assert (batch.obs == expected[0]).all()
    assert (batch.next_obs == expected[1]).all()
    assert (batch.actions == 1).all()
    assert (batch.rewards == 0.5).all()
    assert batch.terminated.all()


def test_bad_transitions_are_refused():
    good = {
        "obs": np.zeros(2, np.float32),
        "action": 1,
        "reward": 1.0,
        "next_obs": np.zeros(2, np.float32),
        "terminated": False,
    }
    bad = [
        ("obs", np.zeros(3, np.float32), ValueError),
        ("obs", np.zeros((1, 2), np.float32), ValueError),
        ("obs", np.array([0, np.nan], np.float32), ValueError),
        ("obs", np.array([0, 1e39]), ValueError),
        ("obs", "ab", (TypeError, ValueError)),
        ("obs", None, TypeError),
        ("action", 1.0, TypeError),
        ("action", True, TypeError),
        ("action", 2**63, (TypeError, ValueError)),
        ("action", [1, 2], ValueError),
        ("reward", np.inf, ValueError),
        ("reward", "1", TypeError),
        ("reward", [1.0, 2.0], ValueError),
        ("next_obs", np.array([np.inf, 0]), ValueError),
        ("terminated", 0.5, TypeError),
        ("terminated", None, TypeError),
    ]
    buffer = rl.ReplayBuffer(4, 2)
    for name, value, error in bad:
        with pytest.raises(error, match=name):
            buffer.add(**{**good, name: value})
        assert len(buffer) == 0
    buffer.add(**good)
    assert len(buffer) == 1


def test_bad_arguments_are_refused():
    for arguments, error in (
        ((0, 2), ValueError),
        ((1.5, 2), TypeError),
        ((4, 0), ValueError),
        ((4, ()), ValueError),
        ((4, "2"), TypeError),
        ((2**70, 2), ValueError),
        ((2**62, 2**30), MemoryError),
    ):
        with pytest.raises(error):
            rl.ReplayBuffer(*arguments)
    with pytest.raises(ValueError, match="empty"):
        rl.ReplayBuffer(4, 2).sample(1)
    for size, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="batch_size"):
            filled().sample(size)
    with pytest.raises(MemoryError):
        filled().sample(2**62)


def test_batches_add_the_selected_rows():
    buffer = rl.ReplayBuffer(5, 1, seed=0)
    i = np.arange(8)
    where = i % 2 == 1
    x = i[:, None].astype(float)
    x[0] = np.nan  # not added
    buffer.add_batch(x, i, i, x, i > 100, where)
    assert buffer.added == 4
    assert set(buffer.sample(100).actions) == {1, 3, 5, 7}
    buffer.add_batch(x[1:], i[1:], i[1:], x[1:], np.zeros(7))  # exceeds the capacity
    assert set(buffer.sample(100).actions) == {3, 4, 5, 6, 7}
    before = pickle.dumps(buffer)
    good = {"obs": x[1:], "actions": i[1:], "rewards": i[1:], "next_obs": x[1:]}
    good |= {"terminated": i[1:] > 3, "where": i[1:] > 3}
    for name, value in (
        ("obs", x),
        ("obs", np.array([[0.0]] * 6 + [[np.inf]])),
        ("actions", i[1:] / 2),
        ("rewards", x[1:]),
        ("rewards", np.full(7, np.nan)),
        ("next_obs", x[2:]),
        ("terminated", i[1:]),
        ("where", i[2:] > 3),
    ):
        with pytest.raises((TypeError, ValueError), match=r"[a-z_]+.* must "):
            buffer.add_batch(**{**good, name: value})
        assert pickle.dumps(buffer) == before, name


def test_vector_environments_as_the_docstring_says():
    gymnasium = pytest.importorskip("gymnasium", reason="it is an optional package")
    env = gymnasium.make_vec(
        "CartPole-v1", num_envs=6, vectorization_mode="vector_entry_point"
    )
    obs, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    buffer = rl.ReplayBuffer(1000, 4, seed=0)
    done, resets = np.zeros(6, bool), 0
    for _ in range(60):
        actions = rng.integers(2, size=6)
        after, rewards, terminated, truncated, _ = env.step(actions)
        buffer.add_batch(obs, actions, rewards, after, terminated, where=~done)
        resets += done.sum()
        obs, done = after, terminated | truncated
    assert resets > 5
    assert len(buffer) == 360 - resets
    batch = buffer.sample(2000)
    assert (batch.rewards == 1).all()  # a reset's would be 0
    # Within an episode, positions change by the velocity.
    moved = batch.obs[:, 0] + np.float32(0.02) * batch.obs[:, 1]
    assert np.abs(batch.next_obs[:, 0] - moved).max() < SUM_RTOL_FLOAT32


def test_threads_share_a_buffer():
    buffer = rl.ReplayBuffer(10_000, 2, seed=0)
    buffer.add([0, 0], 0, 0.0, [0.5, 0.5], True)
    faults = []

    def work(k):
        for i in range(k, 2000, 4):
            buffer.add([i, i], i, i, [i + 0.5, i + 0.5], i % 3 == 0)
            batch = buffer.sample(16)
            faults.extend(batch.actions[batch.obs[:, 0] != batch.actions])

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert buffer.added == 2001
    assert buffer.state_dict()["drawn"] == 2000 * 16


# Acting -------------------------------------------------------------------------------


def test_epsilon_greedy_of_one_state():
    rng = np.random.default_rng(0)
    q = np.array([1.0, 3.0, 3.0, 2.0], np.float32)
    actions = [rl.epsilon_greedy(q, 0.0, rng) for _ in range(20)]
    assert set(actions) == {1}
    assert type(actions[0]) is int
    n, epsilon = 4000, 0.5
    counts = np.bincount([rl.epsilon_greedy(q, epsilon, rng) for _ in range(n)])
    p = np.array([0.125, 0.625, 0.125, 0.125])
    assert (abs(counts - n * p) < DEVIATIONS * np.sqrt(n * p * (1 - p))).all()
    assert {rl.epsilon_greedy([1, 2], 1, rng) for _ in range(50)} == {0, 1}


def test_epsilon_greedy_of_several_states():
    rng = np.random.default_rng(0)
    q = np.tile([[0.0, 1.0], [1.0, 0.0]], (2000, 1))
    best = rl.epsilon_greedy(q, 0.0, rng)
    assert best.dtype == np.int64
    assert (best == np.tile([1, 0], 2000)).all()
    other = np.mean(rl.epsilon_greedy(q, 0.3, rng) != best)
    assert abs(other - 0.15) < DEVIATIONS * math.sqrt(0.15 * 0.85 / 4000)
    same = [rl.epsilon_greedy(q, 0.3, np.random.default_rng(5)) for _ in range(2)]
    assert (same[0] == same[1]).all()


def test_epsilon_greedy_refuses():
    rng = np.random.default_rng(0)
    for q, epsilon, error, name in (
        ([1.0, 2.0], 1.5, ValueError, "epsilon"),
        ([1.0, 2.0], "0.1", TypeError, "epsilon"),
        ([1.0, 2.0], math.nan, ValueError, "epsilon"),
        ([], 0.1, ValueError, "q_values"),
        (1.0, 0.1, ValueError, "q_values"),
        (np.zeros((2, 0)), 0.1, ValueError, "q_values"),
        (["a"], 0.1, TypeError, "q_values"),
    ):
        with pytest.raises(error, match=name):
            rl.epsilon_greedy(q, epsilon, rng)


def test_linear_schedule():
    schedule = rl.LinearSchedule(1.0, 0.2, 8)
    assert [schedule(t) for t in (0, 4, 8, 100)] == pytest.approx([1.0, 0.6, 0.2, 0.2])
    assert repr(schedule) == "LinearSchedule(1.0, 0.2, 8)"
    for step in (-1, -(10**400)):
        with pytest.raises(ValueError, match=r"^step must be at least 0"):
            schedule(step)
    assert pickle.loads(pickle.dumps(schedule))(4) == schedule(4)
    for arguments in ((1.0, 0.0, 0), ("a", 0.0, 1), (1.0, math.inf, 1)):
        with pytest.raises((TypeError, ValueError)):
            rl.LinearSchedule(*arguments)


# Targets ------------------------------------------------------------------------------


def parameters(mlp):
    return mlp.params.copy()


def test_target_network_is_copied_periodically():
    mlp = fm.MLP([2, 3, 2], seed=0)
    start = parameters(mlp)
    target = rl.TargetNetwork(mlp, every=3)
    mlp.params[:] += 1
    for expected in (start, start, mlp.params, mlp.params):
        assert target.update() is target
        assert (target.mlp.params == expected).all()
    assert target.updates == 4
    x = np.ones((5, 2), np.float32)
    assert (target(x) == mlp(x)).all()
    assert target.online is mlp


def test_target_network_follows_by_a_fraction(dtype):
    mlp = fm.MLP([2, 3, 2], seed=0, dtype=dtype)
    start = parameters(mlp).astype(float)
    target = rl.TargetNetwork(mlp, tau=0.25)
    mlp.params[:] += 1
    target.update().update()
    moved = 1 - 0.75**2
    bound = TOLERANCE["update"].of(dtype) * (1 + abs(start).max())
    assert abs(target.mlp.params - (start + moved)).max() < bound


def test_target_network_pickles_and_refuses():
    mlp = fm.MLP([2, 3, 2], seed=0)
    target = rl.TargetNetwork(mlp, every=2).update()
    other = pickle.loads(pickle.dumps(target))
    other.online.params[:] = 7
    assert (other.update().mlp.params == 7).all()
    assert repr(target) == f"TargetNetwork({mlp!r}, every=2)"
    assert "tau=0.5" in repr(rl.TargetNetwork(mlp, tau=0.5))
    for given, options, error in (
        (mlp, {}, TypeError),
        (mlp, {"every": 2, "tau": 0.1}, TypeError),
        (mlp, {"every": 0}, ValueError),
        (mlp, {"tau": 0.0}, ValueError),
        (mlp, {"tau": 1.1}, ValueError),
        (lambda x: x, {"every": 2}, TypeError),
    ):
        with pytest.raises(error):
            rl.TargetNetwork(given, **options)


def values(rows, dtype="float32"):
    """Return a network whose output a for the one-hot input i is rows[i][a]."""
    mlp = fm.MLP([len(rows), len(rows[0])], dtype=dtype, seed=0)
    mlp.weights[0][:] = rows
    return mlp


def batch_of(rewards, terminated):
    n = len(rewards)
    eye = np.eye(n, dtype=np.float32)
    zeros = np.zeros(n, np.int64)
    reward, over = np.array(rewards, np.float32), np.array(terminated, bool)
    return rl.Batch(eye, zeros, reward, eye, over)


def test_worked_targets(dtype):
    """Targets by hand: r + gamma max Q, only r at the end, and double Q-learning."""
    q = values([[1.0, 5.0], [2.0, -1.0], [7.0, 8.0]], dtype)
    target = values([[4.0, 3.0], [0.5, 6.0], [9.0, 9.5]], dtype)
    batch = batch_of([1.0, -1.0, 2.0], [False, False, True])
    y = rl.dqn_targets(target, batch, 0.5)
    assert y.dtype == dtype
    assert y.tolist() == [1 + 0.5 * 4, -1 + 0.5 * 6, 2]
    double = rl.dqn_targets(target, batch, 0.5, online=q)
    assert double.tolist() == [1 + 0.5 * 3, -1 + 0.5 * 0.5, 2]
    follower = rl.TargetNetwork(target, every=1)
    assert (rl.dqn_targets(follower, tuple(batch), 0.5, q) == double).all()


def test_targets_equal_numpy_and_inputs_are_converted(dtype):
    rng = np.random.default_rng(0)
    q, target = (fm.MLP([4, 16, 5], seed=s, dtype=dtype) for s in (0, 1))
    x = rng.standard_normal((70, 4)).astype(np.float32)
    reward = rng.standard_normal(70).astype(np.float32)
    over = rng.random(70) < 0.3
    batch = rl.Batch(x, np.zeros(70, np.int64), reward, x, over)
    after = target(x)[np.arange(70), q(x).argmax(1)]
    expected = reward + dtype(0.9) * after * ~over
    y = rl.dqn_targets(target, batch, 0.9, q)
    assert (y == expected).all()
    lists = batch._replace(rewards=reward.tolist(), terminated=over.astype(int))
    assert (rl.dqn_targets(target, lists, 0.9, q) == y).all()


def test_a_network_that_diverged_is_not_hidden():
    target = values([[1.0, math.nan], [math.nan, 1.0], [1.0, 2.0]])
    target.weights[0][:] = [[1.0, math.nan], [math.nan, 1.0], [math.nan, 2.0]]
    batch = batch_of([0.0, 0.0, 0.0], [False, False, True])
    y = rl.dqn_targets(target, batch, 0.5)
    assert np.isnan(y[:2]).all()


def test_targets_refuse():
    q, wide = values([[1.0, 2.0]]), values([[1.0, 2.0, 3.0]])
    batch = batch_of([1.0], [False])
    for arguments, error in (
        ((q, batch, 1.5), ValueError),
        ((q, batch, "1"), TypeError),
        ((q, batch, 0.9, wide), ValueError),
        ((q, batch._replace(rewards=[1.0, 2.0]), 0.9), ValueError),
        ((q, batch._replace(terminated=[2]), 0.9), ValueError),
        ((q, batch._replace(next_obs=np.ones(1)), 0.9), ValueError),
    ):
        with pytest.raises(error):
            rl.dqn_targets(*arguments)


def test_a_step_is_the_update_of_q_learning():
    """A gradient step gives θ + rate dQ(x, u)/dθ (r + gamma max Q(x', .) - Q(x, u))."""
    rate, gamma = 0.1, 0.9
    q = fm.MLP([3, 8, 2], activation="tanh", dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    x, after = rng.standard_normal((2, 1, 3)).astype(np.float32)
    batch = rl.Batch(x, np.array([1]), np.float32([0.5]), after, np.array([False]))
    error = 0.5 + gamma * q(after).max() - q(x)[0, 1]
    _, _, slope = q.vjp(x, np.array([[0.0, 1.0]]))
    expected = q.params + rate * slope * error
    y = rl.dqn_targets(q, batch, gamma)
    # The gradient of the squared error has a factor 2.
    half = fm.SGD(lr=rate / 2)
    q.train_step(batch.obs, (batch.actions, y), fm.ActionValue(fm.MSE()), half)
    assert abs(q.params - expected).max() < SUM_RTOL


# Returns and advantages ---------------------------------------------------------------


def judged_gae(r, v, after, over, cut, gamma, lam):
    """Return A_t = sum_l (gamma lam)^l delta_{t+l} of one environment, term by term."""
    delta = r + gamma * np.where(over, 0, after) - v
    advantages = np.zeros(len(r))
    for t in range(len(r)):
        for k in range(t, len(r)):
            advantages[t] += (gamma * lam) ** (k - t) * delta[k]
            if over[k] or cut[k]:
                break
    return advantages


@pytest.fixture
def rollout(rng):
    shape = (40, 3)
    r, v, after = rng.standard_normal((3, *shape))
    return r, v, after, rng.random(shape) < 0.1, rng.random(shape) < 0.1


def test_gae_term_by_term(rollout):
    r, v, after, over, cut = rollout
    a, ret = rl.gae(r, v, after, over, cut, 0.9, 0.8)
    assert a.shape == r.shape
    for n in range(r.shape[1]):
        column = [x[:, n] for x in rollout]
        expected = judged_gae(*column, 0.9, 0.8)
        assert abs(a[:, n] - expected).max() < SUM_RTOL
        alone, _ = rl.gae(*column, 0.9, 0.8)
        assert (alone == a[:, n]).all()
    assert abs(ret - (a + v)).max() < SUM_RTOL
    single, _ = rl.gae(*(x.astype(np.float32) for x in (r, v, after)), over, cut)
    assert single.dtype == np.float32


def test_lambda_zero_and_one(rollout):
    r, v, _, over, cut = rollout
    after = np.vstack([v[1:], v[:1]])
    a, _ = rl.gae(r, v, after, over, cut, 0.9, 0.0)
    assert abs(a - (r + 0.9 * np.where(over, 0, after) - v)).max() < SUM_RTOL
    _, ret = rl.gae(r, v, after, over, cut, 0.9, 1.0)
    assert abs(ret - rl.returns(r, 0.9, over, cut, after)).max() < SUM_RTOL


def test_values_of_the_last_state_alone(rollout):
    r, v, _, over, _ = rollout
    last = np.array([1.0, 2.0, 3.0])
    after = np.vstack([v[1:], last])
    none = np.zeros(r.shape, bool)
    expected = rl.gae(r, v, after, over, none, 0.9, 0.8)
    for cut in (None, none):
        for a, b in zip(rl.gae(r, v, last, over, cut, 0.9, 0.8), expected, strict=True):
            assert (a == b).all()
    both = over.copy()  # terminated and truncated: the next state has no value
    a, _ = rl.gae(r, v, last, over, both, 0.9, 0.8)
    assert (a == expected[0]).all()
    with pytest.raises(ValueError, match=r"next_values.*step 0 was truncated"):
        rl.gae(r, v, last, none, ~none, 0.9, 0.8)


def test_worked_returns():
    assert rl.returns([1, 1, 1], 0.5).tolist() == [1.75, 1.5, 1.0]
    assert rl.returns([1, 2, 4], 0.5, [False, True, False]).tolist() == [2, 2, 4]
    # Truncated, without and with values of the next states.
    cut = [False, True, False]
    assert rl.returns([1, 2, 4], 0.5, None, cut).tolist() == [2, 2, 4]
    after = [0, 8, 2]
    assert rl.returns([1, 2, 4], 0.5, None, cut, after).tolist() == [4, 6, 5]
    assert rl.returns([1, 2, 4], 0.5, None, None, 8).tolist() == [4, 6, 8]
    assert rl.returns([1, 2, 4], 0.5, [0, 0, 1], None, 8).tolist() == [3, 4, 4]
    both = rl.returns(np.ones((3, 2), np.float32), 0.5, None, None, [0, 2])
    assert both.dtype == np.float32
    assert both.tolist() == [[1.75, 2.0], [1.5, 2.0], [1.0, 2.0]]
    assert rl.returns([3.0], 0.5).tolist() == [3.0]


def test_arguments_are_unchanged(rollout):
    kept = [x.copy() for x in rollout]
    rl.gae(*rollout)
    rl.returns(rollout[0], 0.9, *rollout[3:], rollout[2])
    for a, b in zip(rollout, kept, strict=True):
        assert (a == b).all()


def test_returns_and_gae_refuse(rollout):
    r, v, after, over, cut = rollout
    for arguments, name in (
        ((r[0, 0], v, after, over), "rewards"),
        ((r[:0], v, after, over), "rewards"),
        ((r, v[1:], after, over), "values"),
        ((r, v, after[1:], over), "next_values"),
        ((r, v, after, over[1:]), "terminated"),
        ((r, v, after, over, cut + 2), "truncated"),
        ((r, v, after, over, cut, 1.1), "gamma"),
        ((r, v, after, over, cut, 0.9, -0.1), "lam"),
    ):
        with pytest.raises(ValueError, match=f"^{name} must"):
            rl.gae(*arguments)
    with pytest.raises(ValueError, match="gamma"):
        rl.returns([1.0], 2.0)
    with pytest.raises(TypeError, match="rewards"):
        rl.returns(["a"], 0.5)


# All of it ----------------------------------------------------------------------------


def test_q_learning_finds_the_way_along_a_corridor():
    """A corridor of six places with a reward at the right end has known values."""
    length, gamma = 6, 0.8
    rng = np.random.default_rng(0)
    places = np.eye(length, dtype=np.float32)
    q = fm.MLP([length, 32, 2], seed=0)
    target = rl.TargetNetwork(q, every=20)
    loss, optimizer = fm.ActionValue(fm.MSE()), fm.Adam(lr=3e-3)
    buffer = rl.ReplayBuffer(500, length, seed=0)
    place = 0
    for step in range(1500):
        action = rl.epsilon_greedy(q(places[place]), 0.5, rng)
        after = max(0, place + (1 if action else -1))
        over = after == length - 1
        buffer.add(places[place], action, float(over), places[after], over)
        place = 0 if over else after
        if step > 50:
            batch = buffer.sample(32)
            worth = rl.dqn_targets(target, batch, gamma, online=q)
            q.train_step(batch.obs, (batch.actions, worth), loss, optimizer)
            target.update()
    right = gamma ** np.arange(length - 2, -1, -1.0)
    left = gamma * np.append(right[0], right[:-1])
    learnt = q(places[:-1])
    assert (learnt.argmax(axis=1) == 1).all()
    assert abs(learnt[:, 1] - right).max() < 0.05
    assert abs(learnt[:, 0] - left).max() < 0.05
