"""LearningRateFinder."""

import math
import pickle

import fastmlp as fm
import numpy as np
import pytest
from callback_cases import ROWS, fit
from helpers import toy_mlp


def test_learning_rate_finder():
    mlp, opt = toy_mlp(), fm.SGD(0.123, momentum=0.5)
    fit(mlp, optimizer=opt)
    other, params = mlp.copy(), mlp.params.copy()
    other_opt = pickle.loads(pickle.dumps(opt))
    finder = fm.LearningRateFinder(start=1e-5, end=1e4, steps=80)
    fit(mlp, optimizer=opt, epochs=100, batch_size=ROWS, callbacks=[finder])

    # It has trained nothing: later training is the same as without it.
    np.testing.assert_array_equal(mlp.params, params)
    assert (opt.lr, opt.step_count) == (0.123, other_opt.step_count)
    fit(mlp, optimizer=opt)
    fit(other, optimizer=other_opt)
    np.testing.assert_array_equal(mlp.params, other.params)

    # Rates grow by a constant factor. The loss falls and then explodes; the suggestion
    # is before its minimum.
    n = len(finder.lrs)
    assert 10 < n < 80
    assert n == len(finder.losses) == len(finder.raw_losses)
    np.testing.assert_allclose(finder.lrs[1:] / finder.lrs[:-1], 1e9 ** (1 / 79))
    assert finder.lrs[0] == 1e-5
    assert finder.losses[0] == finder.raw_losses[0]
    assert finder.losses[-1] > 4 * finder.losses.min()
    assert finder.losses.min() < finder.losses[0]
    assert 1e-5 < finder.suggestion < finder.lrs[finder.losses.argmin()] * 1.01
    opt.lr = finder.suggestion
    history = fit(toy_mlp(), optimizer=fm.SGD(finder.suggestion), epochs=20)
    assert history.loss[-1] < 0.8 * history.loss[0]


def test_the_finder_survives_divergence_and_errors():
    mlp, opt = toy_mlp(), fm.SGD(0.1)
    params = mlp.params.copy()
    finder = fm.LearningRateFinder(1e-3, 1e38, steps=20, stop_factor=math.inf)
    fit(mlp, optimizer=opt, epochs=10, callbacks=[finder])
    np.testing.assert_array_equal(mlp.params, params)
    assert 0 < len(finder.lrs) < 20
    assert (opt.lr, opt.step_count) == (0.1, 0)

    def fail(mlp, history):
        raise KeyboardInterrupt

    finder = fm.LearningRateFinder(steps=20)
    with pytest.raises(KeyboardInterrupt):
        fit(mlp, optimizer=opt, epochs=10, callbacks=[finder, fail])
    np.testing.assert_array_equal(mlp.params, params)
    assert (opt.lr, opt.step_count) == (0.1, 0)


def test_bad_finders():
    mlp, opt = toy_mlp(), fm.SGD(0.1)
    with pytest.raises(ValueError, match=r"needs 100 steps.*epochs=50"):
        fit(mlp, optimizer=opt, callbacks=[fm.LearningRateFinder(steps=100)])
    assert opt.lr == 0.1
    for options, words in [
        ({"start": 0}, "^start must be"),
        ({"start": 1, "end": 1}, "^end must be"),
        ({"steps": 1}, "^steps must be"),
        ({"smoothing": 1.0}, "^smoothing must be"),
        ({"stop_factor": 1.0}, "^stop_factor must be"),
    ]:
        with pytest.raises(ValueError, match=words):
            fm.LearningRateFinder(**options)
