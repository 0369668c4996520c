"""The architecture's arrows: who may include, name or import whom.

python/fastmlp -> cpp/bindings -> cpp (mlp -> layers -> gemm -> kernel table) <- kernels
<- simd. Nothing sees tests or bench; reference.py sees numpy alone.
"""

import ast
import importlib.metadata
import inspect
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import fastmlp as fm
import pytest
from conftest import ROOT, needs_source
from fastmlp import _core

pytestmark = needs_source
CPP = ROOT / "cpp"
PACKAGE = ROOT / "python" / "fastmlp"
STUBS = PACKAGE / "_core"


def cpp_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in {".h", ".cpp"})


def includes(path: Path) -> set[str]:
    found = re.findall(r"^\s*#\s*include\b\s*(\S*)", path.read_text(), re.M)
    # Nothing hidden behind a macro.
    assert all(re.fullmatch(r'<[^<>"]+>|"[^<>"]+"', i) for i in found), found
    return {i[1:-1] for i in found}


def code(path: Path) -> str:
    """The file without comments and string literals."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.S)
    return re.sub(r'"(\\.|[^"\\\n])*"', '""', text)


def test_there_is_something_to_check() -> None:
    assert len(cpp_files(CPP)) > 20
    assert len(list(PACKAGE.glob("*.py"))) > 5


# The folders of the core, lowest first, and which of the folders below each may
# include. "contract" is what both halves share, "core" the files of src itself.
FOLDERS = {
    "contract": set(),
    "simd": {"contract"},
    "kernels": {"contract", "simd"},
    "dispatch": {"contract"},
    "threading": {"contract"},
    "core": {"contract", "dispatch", "threading"},
    "rl": {"contract", "core"},
    "solvers": {"contract", "threading", "core"},
    "network": {"contract", "threading", "core"},
    "network/ops": {"contract", "threading", "core", "network"},
    "network/passes": {"contract", "threading", "core", "network", "network/ops"},
    "network/derivatives": {"contract", "threading", "core", "network", "network/ops"},
    "model": {
        "contract",
        "threading",
        "core",
        "solvers",
        "network",
        "network/ops",
        "network/passes",
        "network/derivatives",
    },
}
# Which folder implements a public header.
PUBLIC = {
    "contract": {"types", "kernel_table", "aligned_buffer", "fp_environment"},
    "dispatch": {"isa"},
    "threading": {"threads", "fork_safety"},
    "core": {"gemm", "loss", "optimizer", "random", "dropout"},
    "rl": {"replay", "discounted_sums"},
    "solvers": {"lbfgs", "levenberg_marquardt", "solver_types"},
    "network": {"mlp"},
    "model": {"network_objective"},
}
# To share out an update among threads, one file of the bindings needs more than the
# public headers.
TEAMS = {"bind_optimizer.cpp": {"threading/parallel.h"}}


def known_as(path: Path) -> str:
    """What a header is included as; kernels include each other by name."""
    where = path.relative_to(CPP).parts
    inside = {"kernels", "simd"} & set(where)
    return str(PurePosixPath(*where[-1 if inside or where[0] == "bindings" else 1 :]))


def folder_of(path: Path) -> str:
    """The folder of a file of the core, as FOLDERS names it."""
    where = path.relative_to(CPP).parts
    if where[0] == "include":
        (home,) = (f for f, names in PUBLIC.items() if path.stem in names)
        return home
    return "/".join(where[1:-1]) or "core"


def project_headers() -> dict[str, Path]:
    """The project's headers by the names they are included by."""
    return {known_as(p): p for p in cpp_files(CPP) if p.suffix == ".h"}


def project_includes(path: Path) -> dict[str, Path]:
    """The project's headers that a file includes."""
    headers = project_headers()
    found = {}
    for include in includes(path):
        parts = PurePosixPath(include).parts
        assert not {"..", ".", "tests", "bench"} & set(parts), include
        # A header must not be included by another path than its own.
        quoted = f'"{include}"' in path.read_text()
        if quoted or parts[0] == "fastmlp" or include in headers:
            found[include] = headers[include]
    return found


def test_every_folder_is_in_the_table() -> None:
    core = [p for p in cpp_files(CPP) if p.relative_to(CPP).parts[0] != "bindings"]
    assert {folder_of(p) for p in core} == FOLDERS.keys()
    lower: set[str] = set()
    for folder, below in FOLDERS.items():
        assert below <= lower, folder
        lower.add(folder)


@pytest.mark.parametrize("path", cpp_files(CPP), ids=lambda p: str(p.relative_to(CPP)))
def test_includes_point_downwards(path: Path) -> None:
    public = {"include"} if path.relative_to(CPP).parts[0] == "include" else None
    for include, header in project_includes(path).items():
        area = header.relative_to(CPP).parts[0]
        if path.relative_to(CPP).parts[0] == "bindings":
            assert area in {"bindings", "include"} or include in TEAMS[path.name]
            continue
        assert area in (public or {"include", "src"}), include
        folder = folder_of(path)
        assert folder_of(header) in FOLDERS[folder] | {folder}, include


def test_no_header_includes_itself_by_way_of_others() -> None:
    done: set[str] = set()

    def visit(name: str, path: Path, under: tuple[str, ...]) -> None:
        assert name not in under, (*under, name)
        if name in done:
            return
        for include, header in project_includes(path).items():
            visit(include, header, (*under, name))
        done.add(name)

    for name, path in project_headers().items():
        visit(name, path, ())


@pytest.mark.parametrize("path", cpp_files(CPP), ids=lambda p: str(p.relative_to(CPP)))
def test_tools_stay_in_their_places(path: Path) -> None:
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
    if path.name not in {"isa.cpp", "types.h", "x86.h"} and not in_kernels:
        assert not re.search(r"\b(avx2|avx512|neon)\b", text)
    if where[0] == "include":
        assert all("/" in i or i.isidentifier() or i.endswith(".h") for i in found)
        assert not {
            i for i in found if i.endswith("-inl.h") or i == "threading/parallel.h"
        }


@pytest.mark.parametrize("path", cpp_files(CPP), ids=lambda p: str(p.relative_to(CPP)))
def test_lines_fit(path: Path) -> None:
    """clang-format leaves comments alone, and tables between its off and on."""
    text = re.sub(
        r"// clang-format off.*?// clang-format on", "", path.read_text(), flags=re.S
    )
    assert [line for line in text.splitlines() if len(line) > 88] == []


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
    own |= {"simd.h", "half.h", "scalar.h", "neon.h", "avx2.h", "avx512.h"}
    own |= {"math_coefficients.h", "fastmlp/types.h", "fastmlp/kernel_table.h"}
    assert includes(path) <= allowed | own
    banned = r"\b(new|delete|malloc|throw|try|std|printf|static_cast<std)\b"
    assert not re.search(banned, code(path))
    assert not re.search(r"\b(rcp|rsqrt|rcp14|rsqrt14)_?", code(path))


def test_no_fast_math() -> None:
    for path in [ROOT / "pyproject.toml", *ROOT.rglob("CMakeLists.txt")]:
        assert not re.search(r"fast-math|Ofast|unsafe-math", path.read_text())
    assert "-ffp-contract=off" in (ROOT / "CMakeLists.txt").read_text()


# Modules of the package: each imports from lower ranks only, the reference from none.
RANK = {
    "_core": 0,
    "_validate": 0,
    "_check_grad": 1,
    "reference": 0,
    "initializers": 1,
    "losses": 1,
    "schedules": 1,
    "optimizers": 2,
    "solvers": 2,
    "history": 1,
    "runtime": 1,
    "layers": 2,
    "metrics": 2,
    "_states": 5,
    "_c_math": 1,
    "_tensor_file": 1,
    "_torch_modules": 7,
    "callbacks": 6,
    "progress": 2,
    "_network": 3,
    "_training": 7,
    "_steps": 4,
    "_summary": 5,
    "regions": 5,
    "monitor": 7,
    "plot": 8,
    "mlp": 8,
    "_c_header": 9,
    "_files": 9,
    "_from_keras": 9,
    "_onnx": 9,
    "_policy": 9,
    "_from_sklearn": 9,
    "_sklearn_training": 8,
    "_sklearn_base": 9,
    "_from_torch": 9,
    "rl": 10,
    "sklearn": 10,
    "__init__": 11,
    "selfcheck": 12,
    "__main__": 13,
}
# Ways in and out of a network: they know MLP, whose methods load them when called.
FORMATS = {"_c_header", "_files", "_onnx"}
# Other packages: numpy, and those that are used where they are there.
PACKAGES = {
    "_torch_modules": {"torch"},
    "plot": {"numpy", "matplotlib"},
    "progress": {"numpy", "tqdm"},
    "_sklearn_training": {"numpy", "scipy", "threadpoolctl"},
    "_sklearn_base": {"numpy", "sklearn"},
    "sklearn": {"numpy", "sklearn"},
}
# The only places that import by a name in a string: what is loaded late.
IMPORTERS = {"__init__", "_validate"}


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """Everything inside ``if TYPE_CHECKING:``, which no program runs."""
    return {
        inside
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inside in ast.walk(statement)
    }


def in_functions(tree: ast.Module) -> set[ast.AST]:
    """Everything inside functions, which runs when they are called."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    return {inside for f in functions for inside in ast.walk(f)}


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """Names of modules; those of the package start with a dot, without its name."""

    def relative(module: str, name: str = "") -> str:
        for candidate in (module.split(".")[0], name):
            if candidate:
                return "." + (candidate if candidate in RANK else "__init__")
        return ".__init__"

    if isinstance(node, ast.Import):
        for alias in node.names:
            package, _, module = alias.name.partition(".")
            yield relative(module) if package == "fastmlp" else package
        return
    package, _, module = (node.module or "").partition(".")
    if node.level:
        assert node.level == 1, "above the package"
        package, module = "fastmlp", node.module or ""
    for alias in node.names:
        yield relative(module, alias.name) if package == "fastmlp" else package


def test_every_module_has_its_rank() -> None:
    found = {p.stem for p in PACKAGE.glob("*.py")}
    found |= {p.name for p in PACKAGE.iterdir() if list(p.glob("*.pyi"))}
    assert found == RANK.keys()


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda p: p.stem)
def test_imports_point_downwards(path: Path) -> None:
    tree = ast.parse(path.read_text())
    types_only, when_called = for_types_only(tree), in_functions(tree)
    allowed = PACKAGES.get(path.stem, {"numpy"}) | set(sys.stdlib_module_names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            late = path.stem in IMPORTERS
            assert name not in {"import_module", "__import__"} or late
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for name in imported(node):
            if not name.startswith("."):
                assert name in allowed or node in types_only, name
            elif path.stem == "mlp" and name[1:] in FORMATS:
                assert node in when_called | types_only
            elif name == ".reference":
                assert path.stem == "selfcheck"
            elif node not in types_only:
                assert RANK[name[1:]] < RANK[path.stem], name
            assert path.stem != "reference" or not name.startswith("."), name


def stub_functions(path: Path) -> dict[str, list[str]]:
    """Name -> arguments of functions, and `Class.method` of classes' methods.

    An argument is its name, with " = " and the default if there is one.
    """

    def arguments(node: ast.FunctionDef) -> list[str]:
        assert not node.args.kwonlyargs
        names = [a.arg for a in node.args.args]
        defaults = [f" = {ast.unparse(d)}" for d in node.args.defaults]
        without = len(names) - len(defaults)
        return [a + b for a, b in zip(names, [""] * without + defaults, strict=True)]

    found: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                # The setter of a property repeats its name.
                # What stands in a slot of the type has no signature to compare with.
                if (
                    isinstance(item, ast.FunctionDef)
                    and item.name != "__call__"
                    and not any(
                        isinstance(d, ast.Attribute) and d.attr == "setter"
                        for d in item.decorator_list
                    )
                ):
                    found[f"{node.name}.{item.name}"] = arguments(item)
    return found


def compiled_functions(module: object, prefix: str = "") -> dict[str, list[str]]:
    """The same of the extension, arguments from pybind11's signature lines."""
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
            found[prefix + name] = [
                p.split(":")[0] + "".join(p.partition(" = ")[1:])
                for p in parts
                if p[0] != "*"
            ]
    return found


def stub_names(path: Path) -> set[str]:
    """What a stub says is in the module, but for what is private."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
        elif isinstance(node, ast.ImportFrom) and node.module is None:
            names |= {str(alias.asname) for alias in node.names}
    return {n for n in names if not n.startswith("_") or n == "__version__"}


@pytest.mark.parametrize(
    ("module", "stub"),
    [(_core, "__init__.pyi"), (_core.kernels, "kernels.pyi")],
    ids=["_core", "_core.kernels"],
)
def test_stubs_equal_the_module(module: types.ModuleType, stub: str) -> None:
    assert stub_functions(STUBS / stub) == compiled_functions(module)
    public = {n for n in vars(module) if not n.startswith("_") or n == "__version__"}
    assert stub_names(STUBS / stub) == public


def test_version_is_said_once() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', text, re.M)
    assert found
    said = {fm.__version__, _core.__version__, fm.build_info()["version"]}
    assert said | {importlib.metadata.version("fastmlp")} == {found[1]}


def test_nothing_left_behind() -> None:
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")))
    for folder in ("cpp", "python", "tests", "bench", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".h", ".cpp", ".py", ".pyi", ".txt", ".md"}:
                assert not marks.search(path.read_text()), path
