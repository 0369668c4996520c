"""The architecture's arrows: who may include, name or import whom.

python/fastmlp -> cpp/bindings -> cpp (mlp -> layers -> gemm -> kernel table) <- kernels
<- simd. Nothing sees tests or bench; reference.py sees numpy alone.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import fastmlp as fm
import pytest
from fastmlp import _core, reference

ROOT = Path(__file__).parents[1]
CPP = ROOT / "cpp"
PACKAGE = ROOT / "python" / "fastmlp"
STUBS = PACKAGE / "_core"


def cpp_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in {".h", ".cpp"})


def includes(path: Path) -> set[str]:
    return set(
        re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.M)
    )


def code(path: Path) -> str:
    """The file without comments and string literals."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.S)
    return re.sub(r'"(\\.|[^"\\\n])*"', '""', text)


def test_there_is_something_to_check() -> None:
    assert len(cpp_files(CPP)) > 20
    assert len(list(PACKAGE.glob("*.py"))) > 5


@pytest.mark.parametrize("path", cpp_files(CPP), ids=lambda p: str(p.relative_to(CPP)))
def test_includes_point_downwards(path: Path) -> None:
    found = includes(path)
    text = code(path)
    where = path.relative_to(CPP).parts
    in_bindings = where[0] == "bindings"
    in_kernels = where[:2] in {("src", "kernels"), ("src", "simd")}

    if not in_bindings:
        assert not {i for i in found if "pybind11" in i or i == "Python.h"}
    if path.name != "parallel.cpp":
        assert "omp.h" not in found
        assert "#pragma omp" not in text
        assert "omp_" not in text
    if where[:2] != ("src", "simd"):
        assert not found & {"immintrin.h", "arm_neon.h"}
        assert not re.search(r"\b_mm\d*_(?!getcsr|setcsr)", text)
    if path.name not in {"isa.cpp", "types.h"} and not in_kernels:
        assert not re.search(r"\b(avx2|avx512|neon)\b", text)
    if where[0] == "include":
        assert all("/" in i or i.isidentifier() or i.endswith(".h") for i in found)
        assert not {i for i in found if i.endswith("-inl.h") or i == "parallel.h"}


@pytest.mark.parametrize(
    "path",
    cpp_files(CPP / "src" / "kernels") + cpp_files(CPP / "src" / "simd"),
    ids=lambda p: p.name,
)
def test_kernels_are_plain(path: Path) -> None:
    """No threads, allocation, exceptions, printing; only C headers and their own.

    An inline function of a C++ header compiled with an ISA's flags could be the copy
    that the linker keeps for everyone.
    """
    allowed = {"stddef.h", "stdint.h", "string.h", "math.h"}
    allowed |= {"immintrin.h", "arm_neon.h"}
    own = {p.name for p in cpp_files(CPP / "src") if "-inl" in p.name}
    own |= {"simd.h", "scalar.h", "neon.h", "avx2.h", "avx512.h"}
    own |= {"math_coefficients.h", "fastmlp/types.h", "fastmlp/kernel_table.h"}
    assert includes(path) <= allowed | own
    banned = r"\b(new|delete|malloc|throw|try|std|printf|static_cast<std)\b"
    assert not re.search(banned, code(path))
    assert not re.search(r"\b(rcp|rsqrt|rcp14|rsqrt14)_?", code(path))


def test_no_fast_math() -> None:
    for path in [ROOT / "pyproject.toml", *ROOT.rglob("CMakeLists.txt")]:
        assert not re.search(r"fast-math|Ofast|unsafe-math", path.read_text())
    assert "-ffp-contract=off" in (ROOT / "CMakeLists.txt").read_text()


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")
            if node.level:
                yield from (f".{alias.name}" for alias in node.names)


def test_reference_imports_numpy_alone() -> None:
    names = {name.split(".")[0] for name in imported(PACKAGE / "reference.py")}
    assert names <= {"numpy", "__future__", *sys.stdlib_module_names}


def test_only_the_self_check_imports_the_reference() -> None:
    for path in PACKAGE.glob("*.py"):
        if path.name not in {"reference.py", "selfcheck.py"}:
            assert ".reference" not in set(imported(path)), path.name


def stub_functions(path: Path) -> dict[str, list[str]]:
    """Name -> argument names of functions, and `Class.method` of classes' methods."""

    def arguments(node: ast.FunctionDef) -> list[str]:
        args = node.args
        return [a.arg for a in args.posonlyargs + args.args + args.kwonlyargs]

    found: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                if isinstance(item, ast.FunctionDef):
                    found[f"{node.name}.{item.name}"] = arguments(item)
    return found


def compiled_functions(module: object, prefix: str = "") -> dict[str, list[str]]:
    """The same of the extension, argument names from pybind11's signature lines."""
    found: dict[str, list[str]] = {}
    for name, value in vars(module).items():
        if inspect.isclass(value) and not issubclass(value, BaseException):
            found |= compiled_functions(value, f"{name}.")
        elif name.startswith("_") and name != "__init__":
            continue
        elif isinstance(value, property):
            found[prefix + name] = ["self"]
        elif callable(value) and not inspect.isclass(value):
            line = (value.__doc__ or "").splitlines()[0]
            inside = line[line.index("(") + 1 : line.rindex(") ->")]
            # A comma between arguments is followed by a name and a colon, or by stars.
            parts = re.split(r", (?=\*{0,2}\w+(?::|$))", inside) if inside else []
            # pybind11 always calls keyword arguments "kwargs": no name to compare.
            found[prefix + name] = [p.split(":")[0] for p in parts if p[0] != "*"]
    return found


@pytest.mark.parametrize(
    ("module", "stub"),
    [(_core, "__init__.pyi"), (_core.kernels, "kernels.pyi")],
    ids=["_core", "_core.kernels"],
)
def test_stubs_equal_the_module(module: object, stub: str) -> None:
    assert stub_functions(STUBS / stub) == compiled_functions(module)


def test_reference_has_the_kernels_signatures() -> None:
    for name, arguments in compiled_functions(_core.kernels).items():
        signature = inspect.signature(getattr(reference, name))
        assert list(signature.parameters) == arguments, name


def test_version_is_said_once() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', text, re.M)
    assert found
    assert fm.__version__ == found[1] == fm.build_info()["version"]


def test_nothing_left_behind() -> None:
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")))
    for folder in ("cpp", "python", "tests", "bench", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".h", ".cpp", ".py", ".pyi", ".txt", ".md"}:
                assert not marks.search(path.read_text()), path
