"""History and the progress bar."""

import fastmlp as fm
import pytest
from callback_cases import data, fit, model
from fastmlp._training import progress


def test_histories_can_be_joined():
    x, y = data()
    options = {"validation_data": (x, y), "metrics": ["mae"]}
    one, two = fit(model(), **options), fit(model(), epochs=2, **options)
    joined = fm.History.from_dict(one.to_dict())
    assert joined.to_dict() == one.to_dict()
    assert joined.has_validation
    joined.extend(two)
    assert joined.loss == one.loss + two.loss
    assert joined.val_loss == one.val_loss + two.val_loss
    assert joined.metrics["val_mae"] == one.metrics["val_mae"] + two.metrics["val_mae"]
    assert len(joined) == len(joined.seconds) == 5
    assert len(one) == 3


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0 s"), (59.4, "59 s"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00")],
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_progress_shows_metrics_and_time_left(capsys):
    x, y = data()
    history = fit(model(), validation_data=(x, y), metrics=["r2"], progress=True)
    line = capsys.readouterr().err.splitlines()[0]
    assert f"val_r2 {history.metrics['val_r2'][0]:.4g}  " in line
    assert " left  " in line
