"""scikit-learn's checks of estimators, with default and other settings."""

from typing import Any

import pytest
from fastmlp.sklearn import MLPClassifier, MLPRegressor
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

# scikit-learn checks its MLPs with this max_iter as well.
FEW = 100

SETTINGS: list[dict[str, Any]] = [
    {},
    {"dropout": 0.1},
    {"solver": "lbfgs"},
    {"dtype": "float32"},
    {"normalization": "layer", "activation": "gelu"},
]

# Weights are equivalent to repeated samples only up to rounding, and these checks allow
# 1e-7. For them, scikit-learn sets its classifier to L-BFGS-B and its regressor to a
# large tolerance (sklearn/utils/_test_common/instance_generator.py).
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
            # float32 has only seven digits.
            estimator.set_params(solver="lbfgs")
        # Repeated samples have different masks, a weighted sample has one.
        estimator.set_params(dropout=0.0)
    check(estimator)
