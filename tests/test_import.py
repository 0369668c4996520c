"""What ``import fastmlp`` loads, exports and says if it cannot."""

import json
import pathlib
import subprocess
import sys
import types

import fastmlp as fm

PACKAGE = pathlib.Path(fm.__file__).parent


def python(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )


def test_import_loads_numpy_and_itself_only():
    code = (
        "import json, sys, numpy; before = set(sys.modules); import fastmlp; "
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    run = python(code)
    assert run.returncode == 0, run.stderr
    new = set(json.loads(run.stdout))
    packages = {name.partition(".")[0] for name in new}
    assert packages <= {"fastmlp", "numpy"} | set(sys.stdlib_module_names)
    # What is for readers, checkers and rare moments must not cost everybody time.
    assert "fastmlp.reference" not in new
    assert "fastmlp.selfcheck" not in new
    assert "fastmlp.plot" not in new
    assert "fastmlp.regions" not in new
    for name in ("dataclasses", "inspect", "difflib", "platform", "hashlib", "typing"):
        assert name not in new


def test_everything_exported_is_there():
    assert len(set(fm.__all__)) == len(fm.__all__)
    for name in fm.__all__:
        assert hasattr(fm, name)
    public = {
        name
        for name, value in vars(fm).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(fm.__all__)


def test_everything_exported_is_documented():
    for name in fm.__all__:
        if isinstance(getattr(fm, name), str | tuple):
            continue
        assert getattr(fm, name).__doc__, name


def test_a_missing_core_is_explained():
    code = "import sys; sys.modules['fastmlp._core'] = None; import fastmlp"
    run = python(code)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastmlp's compiled core")
    assert "pip install" in last


def test_the_package_is_typed():
    assert (PACKAGE / "py.typed").is_file()
