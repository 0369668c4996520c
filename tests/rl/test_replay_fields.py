"""Replay: indices, returns of several steps, extra fields, and their states."""

import copy
import math
import pickle

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import rl

WAYS = {
    "pickle": lambda buffer: pickle.loads(pickle.dumps(buffer)),
    "oldest protocol": lambda buffer: pickle.loads(pickle.dumps(buffer, 0)),
    "deepcopy": copy.deepcopy,
}


def reload(buffer):
    other = type(buffer)(3, 7)
    other.load_state_dict(buffer.state_dict())
    return other


WAYS["state_dict"] = reload


def equal(a, b):
    """Assert that two batches are the same, attributes included."""
    for one, other in zip(a, b, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(a.indices, b.indices)
    for name in ("discounts", "weights"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_array_equal(one, other)
    assert a.extra.keys() == b.extra.keys()
    for name in a.extra:
        np.testing.assert_array_equal(a.extra[name], b.extra[name])
        assert a.extra[name].dtype == b.extra[name].dtype


# Indices ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [5, 16, 40])
def test_indices_are_slots(n):
    buffer = rl.ReplayBuffer(16, 2, seed=0)
    for i in range(n):
        buffer.add([i, -i], i, i / 2, [i + 1, i], i % 5 == 0)
    batch, state = buffer.sample(100), buffer.state_dict()
    assert batch.indices.dtype == np.int64
    assert batch.indices.shape == (100,)
    assert set(batch.indices) == set(range(min(n, 16)))
    for name in batch._fields:
        expected = state[name][batch.indices]
        np.testing.assert_array_equal(getattr(batch, name), expected)
    assert batch.discounts is None
    assert batch.weights is None
    assert dict(batch.extra) == {}
    equal(buffer.get(batch.indices), batch)
    equal(pickle.loads(pickle.dumps(batch)), batch)


def test_bad_indices_are_refused():
    buffer = rl.ReplayBuffer(4, 1, seed=0)
    buffer.add_batch(
        np.zeros((3, 1)), np.arange(3), np.zeros(3), np.zeros((3, 1)), [0] * 3
    )
    assert buffer.get([2, 0, 2]).actions.tolist() == [2, 0, 2]
    assert buffer.get(np.array([1], np.uint8)).actions.tolist() == [1]
    for bad in ([3], [-1], [], [[0]], [0.0], "0", None, [2**63], [True]):
        with pytest.raises((TypeError, ValueError), match="indices"):
            buffer.get(bad)


# Several steps ------------------------------------------------------------------------


def expected_return(steps, start, n, gamma):
    """Return reward, next_obs, terminated and discount from a list of steps."""
    total = 0.0
    for k in range(n):
        reward, after, terminated, over = steps[start + k]
        total += gamma**k * reward
        if over or start + k + 1 == len(steps) or k + 1 == n:
            return total, after, terminated, gamma ** (k + 1)
    raise AssertionError


def episodes(rng, count):
    """Return steps (reward, next_obs, terminated, over); next_obs counts the steps."""
    steps = []
    for i in range(count):
        terminated, truncated = rng.random(2) < (0.15, 0.1)
        over = bool(terminated or truncated)
        steps.append((float(rng.normal()), i + 1.0, bool(terminated), over))
    return steps


@pytest.mark.parametrize("n", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("way", [None, *WAYS])
def test_returns_of_several_steps(n, way):
    gamma, capacity = 0.9, 50
    steps = episodes(np.random.default_rng(n), 130)
    buffer = rl.ReplayBuffer(capacity, 1, seed=0, n_steps=n, gamma=gamma)
    for i, (reward, after, terminated, over) in enumerate(steps):
        if way and i in (7, 40, 90):
            buffer = WAYS[way](buffer)
        truncated = over and not terminated
        buffer.add([i], i, reward, [after], terminated, truncated)
    batch = buffer.get(np.arange(capacity))
    starts = batch.actions
    assert set(starts) == set(range(80, 130))
    for row, start in enumerate(starts):
        total, after, terminated, discount = expected_return(steps, start, n, gamma)
        assert batch.obs[row, 0] == start
        assert batch.rewards[row] == pytest.approx(total, rel=1e-6, abs=1e-6)
        assert batch.next_obs[row, 0] == after
        assert batch.terminated[row] == terminated
        assert batch.discounts[row] == np.float32(discount)
    # Samples are those rows.
    drawn = buffer.sample(64)
    equal(buffer.get(drawn.indices), drawn)


@pytest.mark.parametrize("capacity", [3, 4, 30, 200])
def test_each_environment_has_its_own_steps(capacity):
    gamma, n, envs = 0.5, 3, 4
    rng = np.random.default_rng(0)
    steps = [episodes(rng, 40) for _ in range(envs)]
    skipped = rng.random((40, envs)) < 0.1
    buffer = rl.ReplayBuffer(capacity, 1, seed=0, n_steps=n, gamma=gamma)
    kept = [[] for _ in range(envs)]
    for t in range(40):
        rows = [steps[e][t] for e in range(envs)]
        reward, after, terminated, over = (np.array(c) for c in zip(*rows, strict=True))
        obs = np.arange(envs)[:, None] * 100.0 + t
        buffer.add_batch(
            obs,
            np.arange(envs) * 100 + t,
            reward,
            after[:, None],
            terminated,
            where=~skipped[t],
            truncated=over & ~terminated,
        )
        for e in range(envs):
            if skipped[t, e]:
                if kept[e]:  # the chain is broken, as by a truncation
                    kept[e][-1] = (*kept[e][-1][:3], True)
            else:
                kept[e].append(rows[e])
    position = [np.cumsum(~skipped[:, e]) - 1 for e in range(envs)]
    batch = buffer.get(np.arange(len(buffer)))
    for row, action in enumerate(batch.actions):
        e, t = divmod(int(action), 100)
        start = position[e][t]
        total, after, terminated, discount = expected_return(kept[e], start, n, gamma)
        assert batch.rewards[row] == pytest.approx(total, rel=1e-6, abs=1e-6)
        assert batch.next_obs[row, 0] == after
        assert batch.terminated[row] == terminated
        assert batch.discounts[row] == np.float32(discount)


def test_steps_need_a_discount():
    with pytest.raises(ValueError, match="gamma must be given for n_steps=3"):
        rl.ReplayBuffer(4, 1, n_steps=3)
    for bad in ({"n_steps": 0}, {"n_steps": 1.5}, {"gamma": 1.5}, {"gamma": "1"}):
        (name,) = bad
        with pytest.raises((TypeError, ValueError), match=name):
            rl.ReplayBuffer(4, 1, **{"gamma": 0.9, **bad})
    assert "n_steps=3, gamma=0.9" in repr(rl.ReplayBuffer(4, 1, n_steps=3, gamma=0.9))


@pytest.mark.parametrize("double", [False, True])
def test_targets_take_the_discounts(dtype, double):
    target = fm.MLP([1, 4, 3], seed=0, dtype=dtype)
    online = fm.MLP([1, 4, 3], seed=1, dtype=dtype) if double else None
    buffer = rl.ReplayBuffer(9, 1, seed=0, n_steps=2, gamma=0.5)
    for i in range(9):
        buffer.add([i], i % 3, i, [i + 1], i == 4)
    batch = buffer.sample(30)
    assert set(batch.discounts) == {0.5, 0.25}
    q = target(batch.next_obs)
    best = (q if online is None else online(batch.next_obs)).argmax(1)
    value = np.where(batch.terminated, 0, q[np.arange(30), best])
    y = rl.dqn_targets(target, batch, online=online)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, batch.rewards + batch.discounts * value, rtol=1e-5)
    with pytest.raises(ValueError, match="gamma must be left out"):
        rl.dqn_targets(target, batch, 0.5)
    with pytest.raises(ValueError, match="gamma must be given"):
        rl.dqn_targets(target, tuple(batch))
    one = rl.ReplayBuffer(9, 1, seed=0, gamma=0.5)
    one.add([1], 1, 1.0, [2], False)
    rows = one.sample(3)
    np.testing.assert_array_equal(rows.discounts, np.float32([0.5] * 3))
    np.testing.assert_array_equal(
        rl.dqn_targets(target, rows), rl.dqn_targets(target, tuple(rows), 0.5)
    )
    rl.dqn_targets(target, rows, 0.5)  # the same discount


# Extra fields -------------------------------------------------------------------------


EXTRA = {
    "log_prob": (),
    "goal": 3,
    "grid": (2, 2),
    "count": "int64",
    "flags": np.dtype((np.bool_, (2,))),
    "small": np.uint8,
    "exact": "float64",
}


def values(i):
    return {
        "log_prob": -0.5 * i,
        "goal": [i, 0.25, -i],
        "grid": np.full((2, 2), i),
        "count": 2**60 + i,
        "flags": [i % 2 == 0, True],
        "small": i,
        "exact": 0.1 * i,
    }


@pytest.mark.parametrize("way", [None, *WAYS])
def test_extra_fields(way):
    buffer = rl.ReplayBuffer(12, 2, seed=0, extra=EXTRA)
    for i in range(5):
        buffer.add([i, i], i, i, [i, i], False, extra=values(i))
    more = [values(i) for i in range(5, 20)]
    buffer.add_batch(
        np.zeros((15, 2)),
        np.arange(5, 20),
        np.zeros(15),
        np.zeros((15, 2)),
        np.zeros(15),
        extra={name: [v[name] for v in more] for name in EXTRA},
    )
    if way:
        buffer = WAYS[way](buffer)
    batch = buffer.sample(40)
    dtypes = ("f4", "f4", "f4", "i8", "?", "u1", "f8")
    shapes = ((), (3,), (2, 2), (), (2,), (), ())
    for name, dtype, shape in zip(EXTRA, dtypes, shapes, strict=True):
        array = batch.extra[name]
        assert array.dtype == dtype
        assert array.shape == (40, *shape)
        assert array.flags.carray
        expected = np.array([values(i)[name] for i in batch.actions], dtype)
        np.testing.assert_array_equal(array, expected)
    assert buffer.extra["goal"] == np.dtype(("f4", (3,)))
    equal(buffer.get(batch.indices), batch)


def test_extra_fields_belong_to_the_first_step():
    buffer = rl.ReplayBuffer(5, 1, seed=0, n_steps=3, gamma=1.0, extra={"mark": ()})
    for i in range(4):
        buffer.add([i], i, 1.0, [i + 1], False, extra={"mark": i})
    batch = buffer.get([0, 1, 2, 3])
    assert batch.extra["mark"].tolist() == [0, 1, 2, 3]
    assert batch.rewards.tolist() == [3, 3, 2, 1]


def test_bad_extra_fields_are_refused():
    for bad in (
        {"obs": 1},
        {"a b": 1},
        {"weights": ()},
        {1: 1},
        {"a": 0},
        {"a": (2, -1)},
        {"a": "O"},
        {"a": "complex64"},
        {"a": "S3"},
        {"a": None},
        {"a": True},
        {"a": "unknown"},
        [("a", 1)],
        "a",
    ):
        with pytest.raises((TypeError, ValueError), match="extra"):
            rl.ReplayBuffer(4, 1, extra=bad)
    buffer = rl.ReplayBuffer(4, 1, extra={"a": 2, "b": "int8"})
    good = {"a": [1, 2], "b": 3}
    for bad in (
        None,
        {},
        {"a": [1, 2]},
        {**good, "c": 1},
        {**good, "a": [1, 2, 3]},
        {**good, "a": [[1, 2]]},
        {**good, "a": "12"},
        {**good, "a": [1, 1e39]},
        {**good, "b": 200},
        {**good, "b": 1.5},
        {**good, "b": [1]},
        [1, 2],
    ):
        with pytest.raises((TypeError, ValueError), match="extra"):
            buffer.add([0], 0, 0, [0], False, extra=bad)
        assert len(buffer) == 0
    with pytest.raises(ValueError, match="extra must have values for no fields"):
        rl.ReplayBuffer(4, 1).add([0], 0, 0, [0], False, extra={"a": 1})
    buffer.add([0], 0, 0, [0], False, extra=good)
    assert len(buffer) == 1


# States -------------------------------------------------------------------------------


def test_states_of_older_versions_are_loaded():
    buffer = rl.ReplayBuffer(4, 1, seed=3)
    for i in range(6):
        buffer.add([i], i, 1.0, [i], False)
    state = buffer.state_dict()
    old = {k: state[k] for k in state if k not in ("n_steps", "gamma", "extra")}
    other = rl.ReplayBuffer(2, 2)
    other.load_state_dict(old)
    equal(other.sample(9), buffer.sample(9))


def test_inconsistent_states_are_refused():
    buffer = rl.ReplayBuffer(4, 1, seed=0, n_steps=2, gamma=0.5, extra={"a": ()})
    for i in range(6):
        buffer.add([i], i, 1.0, [i], False, extra={"a": i})
    state = buffer.state_dict()
    # Slots 2, 3, 0, 1 hold the steps 2 to 5.
    assert state["next"].tolist() == [1, -1, 3, 0]
    assert state["open"].tolist() == [1]
    before = pickle.dumps(buffer)
    for change in (
        {"n_steps": 1},
        {"n_steps": 0},
        {"gamma": None},
        {"gamma": 2.0},
        {"next": [1, -1, 3]},
        {"next": [1, 2, 3, 0]},  # the oldest after the newest
        {"next": [0, -1, 3, 0]},
        {"next": [1, 4, 3, 0]},
        {"next": [1, -2, 3, 0]},
        {"next": [1.0, -1.0, 3.0, 0.0]},
        {"open": [4]},
        {"open": 1},
        {"open": None},
        {"extra": None},
        {"extra": {"a": [1.0, 2.0]}},
        {"extra": {"a": 1.0}},
        {"extra": {"obs": np.zeros(4)}},
        {"priorities": np.ones(4)},
    ):
        with pytest.raises((TypeError, ValueError)):
            buffer.load_state_dict({**state, **change})
        assert pickle.dumps(buffer) == before, change
    for name in ("next", "open"):
        with pytest.raises(ValueError, match="state must have the keys"):
            buffer.load_state_dict({k: v for k, v in state.items() if k != name})


def test_memory_that_is_not_there():
    with pytest.raises(MemoryError):
        rl.ReplayBuffer(2**61, 1, extra={"a": 2**20})
    with pytest.raises(ValueError, match="extra"):
        rl.ReplayBuffer(1, 1, extra={"a": 2**62})
    with pytest.raises(MemoryError):
        rl.PrioritizedReplayBuffer(2**58, 1)
    assert math.isfinite(rl.ReplayBuffer(4, 1, n_steps=2**62, gamma=1).gamma)
