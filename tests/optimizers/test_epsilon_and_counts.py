"""Denominators that would be 0, and counts of steps that would overflow."""

import fastmlp as fm
import numpy as np
import pytest
from fastmlp import reference

# Each with every position of epsilon that it knows.
RULES = [
    ("Adagrad", {"eps_mode": mode, **more})
    for mode in ("outside", "inside")
    for more in ({}, {"lr_decay": 0.1})
]
RULES += [
    ("RMSprop", {"eps_mode": mode, **more})
    for mode in ("outside", "inside")
    for more in ({}, {"momentum": 0.5}, {"centered": True})
]
RULES += [
    (name, {"eps_mode": mode, "amsgrad": amsgrad})
    for name in ("Adam", "AdamW")
    for mode in ("outside", "inside", "hat")
    for amsgrad in (False, True)
]
RULES += [("Adamax", {}), ("Adamax", {"betas": (0.9, 0.0)})]
RULES += [(name, {}) for name in ("NAdam", "RAdam", "AdaBelief", "Adadelta")]
RULES += [("ScheduleFreeAdamW", {}), ("Prodigy", {})]


@pytest.mark.parametrize("eps", [0.0, 1e-50, 1e-320])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_a_zero_gradient_moves_nothing(name, options, dtype, eps, isa):
    """Not by 0 / 0, even if epsilon is 0 in the dtype of the parameters."""
    optimizer = getattr(fm, name)(0.1, eps=eps, weight_decay=0.0, **options)
    params = np.array([1.0, 2.0, 3.0], dtype)
    for _ in range(3):
        optimizer.step(params, np.array([0.0, -0.0, 1.0], dtype))
    np.testing.assert_array_equal(params[:2], [1.0, 2.0])
    assert np.isfinite(params).all()
    # Without epsilon, the steps of Adadelta stay too small to be seen.
    assert params[2] < 3.0 or name == "Adadelta"


@pytest.mark.parametrize(("name", "options"), RULES)
def test_the_reference_agrees_without_epsilon(name, options):
    both = []
    for library in (fm, reference):
        optimizer = getattr(library, name)(0.1, eps=0.0, weight_decay=0.0, **options)
        params = np.array([1.0, 2.0, 3.0])
        for grads in ([0.0, 1e-3, 2.0], [0.0, 0.0, 1.0]):
            optimizer.step(params, np.array(grads))
        both.append(params)
    np.testing.assert_allclose(*both, rtol=1e-13)


def test_a_count_of_steps_that_could_overflow_is_refused():
    optimizer = fm.Adam()
    state = optimizer.state_dict()
    optimizer.load_state_dict({**state, "step": 2**62})
    assert optimizer.step_count == 2**62
    for step in (2**62 + 1, 2**63 - 1, 2**63, 10**400):
        with pytest.raises(ValueError, match=r"^state\['step'\] must be at most"):
            optimizer.load_state_dict({**state, "step": step})
    assert optimizer.step_count == 2**62
    for solver in (fm.LBFGS(), fm.LevenbergMarquardt()):
        state = solver.state_dict()
        with pytest.raises(ValueError, match=r"^state\['step'\] must be at most"):
            solver.load_state_dict({**state, "step": 2**63 - 1})
