"""Faster and more capable versions of scikit-learn's multilayer perceptrons.

`MLPClassifier` and `MLPRegressor` have the parameters of their counterparts in
``sklearn.neural_network``, in the same order and with the same defaults. They also have
the same attributes and methods, and closely follow the results of their counterparts.
To try them, change the import.

>>> from fastmlp.sklearn import MLPClassifier
>>> from sklearn.datasets import load_iris
>>> X, y = load_iris(return_X_y=True)
>>> clf = MLPClassifier(random_state=0, max_iter=1000).fit(X, y)
>>> bool(clf.score(X, y) > 0.95)
True

Needs scikit-learn 1.7 or later: ``pip install 'fastmlp[sklearn]'``.
"""

import sys
from types import ModuleType

try:
    import sklearn  # noqa: F401 - checks that it is installed
except ImportError as error:
    raise ImportError(
        "fastmlp.sklearn needs the scikit-learn package: pip install 'fastmlp[sklearn]'"
    ) from error

from .._validate.hints import watch as _watch
from ._classifier import MLPClassifier
from ._regressor import MLPRegressor
from ._stopping import LearningRatePolicy

__all__ = ["MLPClassifier", "MLPRegressor"]

# Estimators are pickled by their public names.
MLPClassifier.__module__ = MLPRegressor.__module__ = __name__

# Without the methods, which scikit-learn's decorators have wrapped already.
_watch(__name__, methods=False)

# Pickles of version 0.1.0 refer to LearningRatePolicy by this older name.
_before = ModuleType("fastmlp._sklearn_training")
_before.Stepper = LearningRatePolicy  # type: ignore[attr-defined]
sys.modules[_before.__name__] = _before
