"""scikit-learn's tests of its MLPs, run on ours by replacing one import."""

import os
import re
import subprocess
import sys
from pathlib import Path

import sklearn

THEIRS = Path(sklearn.__file__).parent / "neural_network" / "tests" / "test_mlp.py"
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"

# Tests that are left out: the private name they use, and why it does not exist here.
PRIVATE = {
    "test_gradient": (
        "_loss_grad_lbfgs",
        "a function of scikit-learn's backpropagation with its lists of buffers; "
        "gradients are held against finite differences in test_derivatives.py",
    ),
}


def test_what_is_left_out_uses_private_names() -> None:
    functions = re.split(r"^(?=def )", THEIRS.read_text(), flags=re.M)
    for test, (name, _) in PRIVATE.items():
        (text,) = (f for f in functions if f.startswith(f"def {test}("))
        assert f".{name}(" in text


def test_their_tests_pass(tmp_path: Path) -> None:
    text = THEIRS.read_text()
    assert text.count(IMPORT) == 1
    ours = IMPORT.replace("sklearn.neural_network", "fastmlp.sklearn")
    (tmp_path / "test_theirs.py").write_text(text.replace(IMPORT, ours))
    # A fixture of scikit-learn's conftest with its default value.
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef global_random_seed():\n    return 42\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    left_out = [f"--deselect=test_theirs.py::{name}" for name in PRIVATE]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *left_out],
        cwd=tmp_path,
        # The tests of threads check that more threads give the same results.
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    passed, skipped = (
        re.search(rf"(\d+) {word}", done.stdout) for word in ("passed", "skipped")
    )
    tests = len(re.findall(r"^def test_", text, re.M))
    assert skipped is None
    assert passed is not None
    assert int(passed[1]) >= tests - len(PRIVATE)
