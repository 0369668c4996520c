"""The modules that ``import fastmlp`` loads, its exports, and missing packages."""

import importlib.metadata
import json
import pathlib
import subprocess
import sys
import types

import fastmlp as fm
import pytest

PACKAGE = pathlib.Path(fm.__file__).parent

# Packages that are used if they are installed, by their import names.
OPTIONAL = {
    *("gymnasium", "jax", "keras", "matplotlib", "onnx", "onnxruntime", "pandas"),
    *("polars", "safetensors", "scipy", "sklearn", "tensorflow", "torch", "tqdm"),
}
# Names that are loaded at first use, and the optional packages that each may load.
LAZY = {
    "from_keras": set(),
    "from_sklearn": set(),
    "from_torch": set(),
    "load": set(),
    "plot": set(),
    "regions": set(),
    "rl": set(),
    "sklearn": {"joblib", "pandas", "scipy", "sklearn"},  # loads the others
}
# Extras, the package that each installs, and code that needs it.
NEEDS = {
    "onnx": ("onnx", "fm.MLP([1, 1], seed=0).to_onnx('nothing.onnx')"),
    "plot": ("matplotlib", "fm.plot.network(fm.MLP([1, 1], seed=0))"),
    "sklearn": ("sklearn", "fm.sklearn.MLPClassifier()"),
}
# Extras that the library does not need: combinations of others, those for its examples
# (users of `fastmlp.rl` write their loops and choose Gymnasium), a nicer progress bar,
# and those for development.
OTHERS = {"all", "bench", "docs", "examples", "lint", "progress", "rl", "test"}


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
    # Modules that are rarely needed must not slow down every import.
    assert "fastmlp.reference" not in new
    assert "fastmlp.runtime._selfcheck" not in new
    assert "fastmlp.plot" not in new
    assert "fastmlp.regions" not in new
    for name in ("dataclasses", "inspect", "difflib", "platform", "hashlib", "typing"):
        assert name not in new


def test_lazy_names_are_listed():
    assert {*fm._LAZY_MODULES, *fm._LAZY_FUNCTIONS} == LAZY.keys()


@pytest.mark.parametrize("name", LAZY)
def test_lazy_names_load_their_own_package_only(name):
    if name == "sklearn":
        pytest.importorskip("sklearn", reason="fm.sklearn needs it")
    # Warnings are not errors here, as they would come from these packages.
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore'); "
        f"import fastmlp as fm; fm.{name}; print(json.dumps(sorted(sys.modules)))"
    )
    run = python(code)
    assert run.returncode == 0, run.stderr
    loaded = {module.partition(".")[0] for module in json.loads(run.stdout)}
    assert loaded & OPTIONAL <= LAZY[name]


def test_all_extras_are_tested():
    extras = importlib.metadata.metadata("fastmlp").get_all("Provides-Extra")
    assert set(extras) == NEEDS.keys() | OTHERS


@pytest.mark.parametrize("extra", NEEDS)
def test_a_missing_package_is_named_with_its_extra(extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    package, use = NEEDS[extra]
    block = f"import sys; sys.modules[{package!r}] = None; import fastmlp as fm; "
    run = python(block + use)
    assert run.returncode == 1
    assert f"pip install 'fastmlp[{extra}]'" in run.stderr.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())


def test_everything_exported_exists():
    assert len(set(fm.__all__)) == len(fm.__all__)
    for name in fm.__all__:
        if name in LAZY:
            continue  # loaded one by one in a test above
        assert hasattr(fm, name)
    public = {
        name
        for name, value in vars(fm).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert public <= set(fm.__all__)


def test_everything_exported_is_documented():
    for name in fm.__all__:
        if name == "sklearn":
            pytest.importorskip("sklearn", reason="fm.sklearn needs it")
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


def test_modules_of_earlier_versions_are_importable():
    code = (
        "import fastmlp.history, fastmlp.monitor; "
        "print(fastmlp.history.History.__name__, fastmlp.monitor.Monitor.__name__)"
    )
    run = python(code)
    assert run.stdout.split() == ["History", "Monitor"], run.stderr
