"""EarlyStopping and TimeLimit."""

import pickle

import fastmlp as fm
import pytest
from callback_cases import fit, model, script
from fastmlp import callbacks


def test_early_stopping_goes_on_in_mid_patience():
    values = [3, 1, 2, 2, 0.5, 1, 1, 1, 1]
    whole = fm.EarlyStopping("score", patience=3)
    history = fit(model(), epochs=9, callbacks=[script(values), whole])
    assert (len(history), whole.stopped_epoch, whole.best_epoch) == (8, 8, 5)
    for cut in range(1, 8):
        first = fm.EarlyStopping("score", patience=3)
        fit(model(), epochs=cut, callbacks=[script(values), first])
        state = pickle.loads(pickle.dumps(first.state_dict()))
        second = fm.EarlyStopping("score", patience=3)
        second.load_state_dict(state)
        mlp = model()
        rest = fit(mlp, epochs=9, callbacks=[script(values[cut:]), second])
        assert len(rest) == 8 - cut
        assert (second.stopped_epoch, second.best_epoch) == (8, 5)
        assert (second.best, (mlp.params == mlp.params[0]).all()) == (0.5, True)
        # The best epoch's parameters, from whichever of the two runs.
        assert mlp.params[0] == (5 - cut if cut < 5 else 5)


def test_early_stopping_may_restore_the_optimiser():
    for restore in (False, True):
        opt = fm.Adam(0.01)
        stop = fm.EarlyStopping("score", patience=2, restore_optimizer=restore)
        fit(model(), optimizer=opt, epochs=9, callbacks=[script([1, 0, 1, 1]), stop])
        assert opt.step_count == (4 if restore else 8)
        assert ("restore_optimizer" in repr(stop)) is restore


def test_time_limit():
    limit = callbacks.TimeLimit(1e-9)
    assert len(fit(model(), epochs=10**6, callbacks=[limit])) == 1
    assert len(fit(model(), callbacks=[callbacks.TimeLimit(3600)])) == 3
    assert repr(limit) == "TimeLimit(1e-09)"
    with pytest.raises(ValueError, match=r"^seconds must be"):
        callbacks.TimeLimit(0)
