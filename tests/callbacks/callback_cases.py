"""A call of fit and a scripted callback for the tests of callbacks."""

from helpers import toy_data, toy_fit

ROWS = 64


def fit(mlp, **options):
    return toy_fit(mlp, *toy_data(ROWS), **{"batch_size": 32, **options})


def script(values, name="score"):
    """A callback that logs given values and sets the parameters to the epoch."""

    def play(mlp, history):
        mlp.params[:] = len(history)
        history.log(name, values[len(history) - 1])

    return play
