"""scikit-learn's checks of estimators, with default and other settings."""

from typing import Any

import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

# scikit-learn's own MLPs are checked with this max_iter too.
FEW = 100

SETTINGS: list[dict[str, Any]] = [
    {},
    {"dropout": 0.1},
    {"solver": "lbfgs"},
    {"dtype": "float32"},
    {"normalization": "layer", "activation": "gelu"},
]

# That weights do what repeated samples do holds up to rounding, and these checks allow
# for 1e-7: for them scikit-learn's own classifier is set to L-BFGS-B, its regressor to
# a large tolerance (sklearn/utils/_test_common/instance_generator.py).
EQUIVALENCE = (
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        kind(max_iter=FEW, **settings)
        for settings in SETTINGS
        for kind in (MLPClassifier, MLPRegressor)
    ]
)
def test_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    if check.func.__name__ in EQUIVALENCE:
        estimator = clone(estimator)
        if estimator.dtype == "float32":
            # Seven digits are all there are.
            estimator.set_params(solver="lbfgs")
        # Of repeated samples each has a mask of its own.
        estimator.set_params(dropout=0.0)
    check(estimator)
