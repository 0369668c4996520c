"""The architecture: which files may include, name or import which others.

python/fastmlp -> cpp/bindings -> cpp (mlp -> layers -> gemm -> kernel table) <- kernels
<- simd. Nothing imports tests or bench; the reference imports only numpy.
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
from fastmlp import _core
from helpers import ROOT, needs_source

pytestmark = needs_source
CPP = ROOT / "cpp"
PACKAGE = ROOT / "python" / "fastmlp"
STUBS = PACKAGE / "_core"


CODE = {".h", ".cpp", ".py", ".pyi"}


def cpp_files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.suffix in {".h", ".cpp"})


def includes(path: Path) -> set[str]:
    found = re.findall(r"^\s*#\s*include\b\s*(\S*)", path.read_text(), re.M)
    # No include may be hidden behind a macro.
    assert all(re.fullmatch(r'<[^<>"]+>|"[^<>"]+"', i) for i in found), found
    return {i[1:-1] for i in found}


def code(path: Path) -> str:
    """The file without comments and string literals."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.S)
    return re.sub(r'"(\\.|[^"\\\n])*"', '""', text)


def test_there_is_something_to_check() -> None:
    assert len(cpp_files(CPP)) > 20
    assert len(list(PACKAGE.glob("*.py"))) > 5


# The folders of the core, lowest first, with the lower folders that each may include.
# "contract" are the headers that kernels and the other folders share, "core" the files
# at the top of src.
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
}
FOLDERS["network/ops"] = FOLDERS["network"] | {"dispatch", "network"}
FOLDERS["network/passes"] = FOLDERS["network/ops"] | {"network/ops"}
FOLDERS["network/derivatives"] = FOLDERS["network/passes"]
FOLDERS["model"] = (FOLDERS["network/passes"] - {"dispatch"}) | {
    "solvers",
    "network/passes",
    "network/derivatives",
}
# The public headers that each folder implements.
PUBLIC = {
    "contract": {
        "types",
        "optimizer_kinds",
        "kernel_table",
        "bfloat16_kernels",
        "aligned_buffer",
        "fp_environment",
        "sparse",
    },
    "dispatch": {"caches", "isa"},
    "threading": {"stop", "threads"},
    "core": {"gemm", "gemm_bfloat16", "loss", "optimizer", "random", "noise"},
    "rl": {"replay", "discounted_sums", "sum_tree"},
    "solvers": {"lbfgs", "levenberg_marquardt", "solver_types"},
    "network": {"layer_spec"},
    "model": {"mlp", "training", "network_objective"},
}
# Private headers that files of the bindings include: to split an update among threads,
# to guard objects that serve one call at a time, and to write numbers in messages.
SEEN_BY_BINDINGS = {
    "threading/parallel.h": {"bind_optimizer.cpp"},
    "threading/exclusive_use.h": {"network.h", "solvers.h", "bind_predictor.cpp"},
    "number_text.h": {"bind_kernels.cpp", "bind_loss.cpp"},
}


def known_as(path: Path) -> str:
    """The name by which a header is included; in kernels, its file name."""
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
    """The project's headers, by the names under which they are included."""
    return {known_as(p): p for p in cpp_files(CPP) if p.suffix == ".h"}


def project_includes(path: Path) -> dict[str, Path]:
    """The project's headers that a file includes."""
    headers = project_headers()
    found = {}
    for include in includes(path):
        parts = PurePosixPath(include).parts
        assert not {"..", ".", "tests", "bench"} & set(parts), include
        # A header must not be included under any other path.
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
            seen = path.name in SEEN_BY_BINDINGS.get(include, set())
            assert area in {"bindings", "include"} or seen, include
            continue
        assert area in (public or {"include", "src"}), include
        folder = folder_of(path)
        assert folder_of(header) in FOLDERS[folder] | {folder}, include


def test_no_header_includes_itself_indirectly() -> None:
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
        assert not re.search(r"\b(avx2|avx512|avx512_bf16|amx|neon)\b", text)
    if where[0] == "include":
        assert all("/" in i or i.isidentifier() or i.endswith(".h") for i in found)
        assert not {
            i for i in found if i.endswith("-inl.h") or i == "threading/parallel.h"
        }


@pytest.mark.parametrize("path", cpp_files(CPP), ids=lambda p: str(p.relative_to(CPP)))
def test_lines_fit(path: Path) -> None:
    """clang-format does not format comments, or tables between its off and on."""
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
    """No threads, allocation, exceptions or printing; only C and kernel headers.

    The linker might keep an inline function of a C++ header that was compiled with an
    ISA's flags, and use it everywhere.
    """
    allowed = {"stddef.h", "stdint.h", "string.h", "math.h"}
    allowed |= {"immintrin.h", "arm_neon.h"}
    own = {p.name for p in cpp_files(CPP / "src") if "-inl" in p.name}
    own |= {"simd.h", "half.h", "scalar.h", "neon.h", "avx2.h", "avx512.h"}
    own |= {"math_coefficients.h", "fastmlp/types.h", "fastmlp/kernel_table.h"}
    own |= {"fastmlp/sparse.h", "fastmlp/bfloat16_kernels.h", "bfloat16.h", "amx.h"}
    assert includes(path) <= allowed | own
    banned = r"\b(new|delete|malloc|throw|try|std|printf|static_cast<std)\b"
    assert not re.search(banned, code(path))
    assert not re.search(r"\b(rcp|rsqrt|rcp14|rsqrt14)_?", code(path))


def test_objects_of_the_core_are_made_where_exceptions_are_caught() -> None:
    """`new_class` and `def_init` of `bindings/arrays.h` say why."""
    for path in cpp_files(CPP / "bindings"):
        text = code(path)
        assert "py::init" not in text, path.name
        if path.name != "arrays.h":
            assert not re.search(r"py::class_<[^>]*>\s*\w*\(m,", text), path.name


def test_no_fast_math() -> None:
    for path in [ROOT / "pyproject.toml", *ROOT.rglob("CMakeLists.txt")]:
        assert not re.search(r"fast-math|Ofast|unsafe-math", path.read_text())
    assert "-ffp-contract=off" in (ROOT / "CMakeLists.txt").read_text()


# Modules and folders of the package, lowest first: each imports only from lower floors,
# even for types, and the reference from none.
FLOORS = (
    {"_core", "reference"},
    {"_validate", "_display"},
    {"initializers", "losses", "schedules"},
    {"layers", "metrics"},
    {"_network"},
    {"optimizers", "solvers"},
    {"_formats"},
    {"callbacks"},
    {"_training"},
    {"mlp"},
    {"regions", "runtime"},
    {"plot"},
    {"rl", "sklearn"},
    {"__init__"},
    {"__main__"},
)
RANK = {name: i for i, names in enumerate(FLOORS) for name in names}
# Packages other than numpy, which are used if they are installed.
PACKAGES = {
    "_formats": {"torch"},
    "_training": {"tqdm"},
    "plot": {"matplotlib"},
    "sklearn": {"scipy", "sklearn", "threadpoolctl"},
}
# The only import that points upwards, for types: the class that public signatures name.
UPWARDS = (("_network", "model"), ("mlp",))
# The only modules that import by a name in a string, to load packages late.
IMPORTERS = {"__init__", "_validate"}


def node_of(path: Path) -> str:
    """The module or folder of the package in which a file is."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def module_of(path: Path) -> tuple[str, ...]:
    """The parts of a module's name, without the name of the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


def for_types_only(tree: ast.Module) -> set[ast.AST]:
    """All statements inside ``if TYPE_CHECKING:``, which are never executed."""
    return {
        inside
        for node in ast.walk(tree)
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
        for statement in node.body
        for inside in ast.walk(statement)
    }


Statement = ast.Import | ast.ImportFrom
MODULES = {module_of(p): p for p in PACKAGE.rglob("*.py")}


def imported(
    path: Path, node: ast.Import | ast.ImportFrom
) -> Iterator[tuple[str, ...]]:
    """Modules of the package that a statement imports, and names of other packages.

    Modules of the package are paths as in MODULES; another package is ("", name).
    """

    def inside(parts: tuple[str, ...]) -> tuple[str, ...]:
        while parts not in MODULES and parts[:1] != ("_core",):
            parts = parts[:-1]
        return parts

    if isinstance(node, ast.Import):
        for alias in node.names:
            first, *rest = alias.name.split(".")
            yield inside(tuple(rest)) if first == "fastmlp" else ("", first)
        return
    parts = tuple((node.module or "").split(".")) if node.module else ()
    if node.level:
        here = path.relative_to(PACKAGE).parts[:-1]
        assert node.level <= len(here) + 1, "above the package"
        parts = (*here[: len(here) + 1 - node.level], *parts)
    elif parts[0] == "fastmlp":
        parts = parts[1:]
    else:
        yield "", parts[0]
        return
    for alias in node.names:
        yield inside((*parts, alias.name))


def test_every_module_has_a_rank() -> None:
    found = {node_of(p) for p in PACKAGE.rglob("*.py")}
    found |= {p.name for p in PACKAGE.iterdir() if list(p.glob("*.pyi"))}
    assert found == RANK.keys()
    assert len(found) <= 23


@pytest.mark.parametrize("path", MODULES.values(), ids=lambda p: str(node_of(p)))
def test_imports_point_downwards(path: Path) -> None:
    node = node_of(path)
    tree = ast.parse(path.read_text())
    types_only = for_types_only(tree)
    allowed = {"numpy"} | PACKAGES.get(node, set()) | set(sys.stdlib_module_names)
    for item in ast.walk(tree):
        if isinstance(item, ast.Name | ast.Attribute):
            name = item.id if isinstance(item, ast.Name) else item.attr
            late = node in IMPORTERS
            assert name not in {"import_module", "__import__"} or late
        if not isinstance(item, Statement):
            continue
        for parts in imported(path, item):
            if parts[:1] == ("",):
                assert parts[1] in allowed or item in types_only, parts[1]
                continue
            assert node != "reference" or parts[0] == "reference", parts
            to = parts[0] if parts else "__init__"
            if to == "reference":
                assert path.stem == "_selfcheck" or node == to
            upwards = item in types_only and (module_of(path), parts) == UPWARDS
            assert to == node or RANK[to] < RANK[node] or upwards, parts


def test_no_module_imports_itself_indirectly() -> None:
    graph: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
    for name, path in MODULES.items():
        tree = ast.parse(path.read_text())
        skipped = for_types_only(tree)
        graph[name] = {
            to
            for item in ast.walk(tree)
            if isinstance(item, Statement) and item not in skipped
            for to in imported(path, item)
            if to in MODULES and to != name
        }
    done: set[tuple[str, ...]] = set()

    def visit(name: tuple[str, ...], under: tuple[tuple[str, ...], ...]) -> None:
        assert name not in under, (*under, name)
        if name not in done:
            for to in graph[name]:
                visit(to, (*under, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def stub_functions(path: Path) -> dict[str, list[str]]:
    """Arguments of functions by name, and of methods by `Class.method`.

    An argument is its name, with " = " and the default if there is one. A "*" precedes
    keyword-only arguments.
    """

    def arguments(node: ast.FunctionDef) -> list[str]:
        def listed(names: list[ast.arg], defaults: list[ast.expr | None]) -> list[str]:
            ends = [f" = {ast.unparse(d)}" if d else "" for d in defaults]
            return [a.arg + end for a, end in zip(names, ends, strict=True)]

        args = node.args
        without: list[ast.expr | None] = [None] * (len(args.args) - len(args.defaults))
        found = listed(args.args, without + args.defaults)
        keywords = listed(args.kwonlyargs, args.kw_defaults)
        return [*found, "*", *keywords] if keywords else found

    found: dict[str, list[str]] = {}
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = arguments(node)
        elif isinstance(node, ast.ClassDef):
            for item in node.body:
                # The setter of a property repeats its name, and methods in a slot of
                # the type have no signature to compare with.
                if (
                    isinstance(item, ast.FunctionDef)
                    and (item.name == "__init__" or not item.name.startswith("__"))
                    and not any(
                        isinstance(d, ast.Attribute) and d.attr == "setter"
                        for d in item.decorator_list
                    )
                ):
                    found[f"{node.name}.{item.name}"] = arguments(item)
    return found


def compiled_functions(module: object, prefix: str = "") -> dict[str, list[str]]:
    """The same for the extension, with arguments from pybind11's signature lines."""
    found: dict[str, list[str]] = {}
    for name, value in vars(module).items():
        if inspect.isclass(value) and not issubclass(value, BaseException):
            found |= compiled_functions(value, f"{name}.")
        elif name.startswith("_") and name != "__init__":
            continue
        elif isinstance(value, types.WrapperDescriptorType):
            continue  # the constructor of a class that only the extension creates
        elif isinstance(value, property):
            found[prefix + name] = ["self"]
        elif callable(value) and not inspect.isclass(value):
            line = (value.__doc__ or "").splitlines()[0]
            inside = line[line.index("(") + 1 : line.rindex(") ->")]
            # A comma between arguments is followed by a name and a colon, or by stars.
            comma = r", (?=\*(?:,|$)|\*{0,2}\w+(?::|$))"
            parts = re.split(comma, inside) if inside else []
            # pybind11 always calls keyword arguments "kwargs", so names are not
            # compared.
            found[prefix + name] = [
                p.split(":")[0] + "".join(p.partition(" = ")[1:])
                for p in parts
                if p == "*" or p[0] != "*"
            ]
    return found


def stub_names(path: Path) -> set[str]:
    """The public names that a stub declares."""
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


# The most files of product code that may name a kind: the limit of its family, and for
# the newest of each family the number that adding it took.
NAMED_IN = {
    "layer_norm|LayerNorm": 12,
    "rms_norm|RMSNorm": 10,
    "softsign|Softsign": 8,
    "mish|Mish": 6,
    "poisson|Poisson": 8,
    "log_cosh|LogCosh": 7,
    "rmsprop|RMSprop|Rmsprop": 9,
    "lion|Lion": 8,
    "prodigy|Prodigy": 12,
}


@pytest.mark.parametrize("name", NAMED_IN)
def test_a_kind_is_named_in_few_files(name: str) -> None:
    files = [p for folder in (CPP, PACKAGE) for p in folder.rglob("*")]
    pattern = re.compile(rf"(?<![A-Za-z])({name})(?![a-z])")
    found = [p for p in files if p.suffix in CODE and pattern.search(p.read_text())]
    assert 0 < len(found) <= NAMED_IN[name], [str(p.relative_to(ROOT)) for p in found]


def test_no_file_is_too_long() -> None:
    folders = ("cpp", "python", "tests", "bench", "examples")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*")]
    lengths = {p: p.read_text().count("\n") for p in files if p.suffix in CODE}
    assert {p: n for p, n in lengths.items() if n > 900} == {}


def test_version_is_stated_once() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    found = re.search(r'^version = "(.+)"$', text, re.M)
    assert found
    versions = {fm.__version__, _core.__version__, fm.build_info()["version"]}
    assert versions | {importlib.metadata.version("fastmlp")} == {found[1]}


def test_no_marks_of_unfinished_work() -> None:
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")))
    for folder in ("cpp", "python", "tests", "bench", "examples"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".h", ".cpp", ".py", ".pyi", ".txt", ".md"}:
                assert not marks.search(path.read_text()), path
