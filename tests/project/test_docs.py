"""The site is complete: reference, pages, code blocks, examples.

The build itself checks links. Tests of what it generates need a built site: the folder
in the environment variable FASTMLP_SITE, or else the one that CONTRIBUTING.md names.
"""

import ast
import inspect
import os
import re
import runpy
import subprocess
import sys
import types
import zlib
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path, PurePosixPath
from pydoc import locate
from typing import Any

import fastmlp as fm
import pytest
from helpers import ROOT, needs_source, python_blocks

pytestmark = needs_source
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
SITE = Path(os.environ.get("FASTMLP_SITE", ROOT / "build" / "docs"))
WRITTEN_BY_THE_BUILD = ("gallery", "reference/generated")
PAGES = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*")
    if path.suffix in {".md", ".rst"}
    and not str(path.relative_to(DOCS)).startswith((*WRITTEN_BY_THE_BUILD, "_"))
)
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[!_]*.py"))

MODULES = [fm]
MODULES += [
    import_module(f"fastmlp.{name}")
    for name in (*fm.__all__, "reference")
    if (ROOT / f"python/fastmlp/{name}.py").is_file()
    or (ROOT / f"python/fastmlp/{name}/__init__.py").is_file()
]
# Attributes of public classes that serve other modules of the package; those of layers
# are members of their base class.
INTERNAL = {"core"} | {n for n in vars(fm.layers.Layer) if not n.startswith("_")}
INTERNAL |= {"kind", "is_custom"}
# Methods that scikit-learn adds to estimators.
ADDED = re.compile(r"set_\w+_request")


def public_names(module: types.ModuleType) -> list[str]:
    """The names that a module exports, without those of modules."""
    own = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (name.isupper() or getattr(value, "__module__", None) == module.__name__)
        and name != "TYPE_CHECKING"
    ]
    return [
        name for name in own if not isinstance(getattr(module, name), types.ModuleType)
    ]


def documented() -> set[str]:
    """The full names in the tables and directives of the reference."""
    names = set()
    for path in REFERENCE.glob("*.rst"):
        module, in_table = "", False
        for line in path.read_text().splitlines():
            if found := re.match(r"\.\. (auto|current)module:: (\S+)", line):
                module = found[2]
                names |= {module} if found[1] == "auto" else set()
            elif found := re.match(r"\.\. py:data:: (\S+)", line):
                names.add(f"{module}.{found[1]}")
            elif line.startswith(".. autosummary::"):
                in_table = True
            elif line and not line.startswith(" "):
                in_table = False
            elif in_table and (found := re.fullmatch(r" +([\w.]+)", line)):
                names.add(f"{module}.{found[1]}")
    return names


NAMES = documented()


def classes() -> dict[type, str]:
    """The classes in the reference, and their names."""
    found = {locate(name): name for name in NAMES}
    return {value: name for value, name in found.items() if inspect.isclass(value)}


@cache
def configuration() -> dict[str, Any]:
    """What the configuration of the site defines."""
    return runpy.run_path(str(DOCS / "conf.py"))


def members(cls: type) -> tuple[list[str], list[str]]:
    """The public methods and properties of a class, and its other public attributes."""
    methods, attributes = [], []
    for name in dir(cls):
        value = getattr(cls, name, None)
        if configuration()["is_public"](name, value):
            methods.append(name)
        # Hints in place of attributes that other libraries have are not attributes.
        elif name[0] != "_" and type(value).__module__ != "fastmlp._validate.hints":
            attributes.append(name)
    return methods, attributes


@pytest.fixture(scope="module")
def inventory() -> set[str]:
    """The names to which the built site has links."""
    path = SITE / "objects.inv"
    if not path.is_file():
        pytest.skip("the site is not built; CONTRIBUTING.md says how to build it")
    packed = path.read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(packed).decode().split("\n")}


# The reference ------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_in_the_reference(module: types.ModuleType) -> None:
    assert module.__name__ in NAMES
    objects = {id(locate(name)) for name in NAMES}
    missing = [
        name
        for name in public_names(module)
        if f"{module.__name__}.{name}" not in NAMES
        # Classes and functions of submodules may be listed under `fastmlp`.
        and not (
            callable(getattr(module, name)) and id(getattr(module, name)) in objects
        )
    ]
    assert missing == []


def test_all_names_in_the_reference_exist() -> None:
    assert len(NAMES) > 200
    assert [name for name in NAMES if locate(name) is None] == []


def test_every_method_of_the_model_is_in_a_table() -> None:
    listed = {name.removeprefix("fastmlp.MLP.") for name in NAMES}
    assert set(members(fm.MLP)[0]) - listed == set()


def test_every_method_has_an_entry(inventory: set[str]) -> None:
    missing = [
        f"{name}.{member}"
        for cls, name in classes().items()
        for member in members(cls)[0]
        if f"{name}.{member}" not in inventory
    ]
    assert missing == [], "build the site again, if it is older than these"


def test_every_attribute_is_described_by_its_class() -> None:
    missing = []
    for cls, full in classes().items():
        # The reference implementation has the arguments of the package's classes.
        if full.startswith("fastmlp.reference.") or issubclass(cls, BaseException):
            continue
        bases = [base for base in cls.__mro__ if base.__module__.startswith("fastmlp")]
        text = "\n".join(base.__doc__ or "" for base in bases)
        own = {name for base in bases for name in vars(base)}
        for name in members(cls)[1]:
            known = re.search(rf"\b{name}\b", text) or ADDED.fullmatch(name)
            if name in own - INTERNAL and not known:
                missing.append(f"{full}.{name}")
    assert missing == []


# Pages --------------------------------------------------------------------------------


def entries(page: str) -> set[str]:
    """The pages that the tables of contents of a page list, without extension."""
    text = (DOCS / page).read_text()
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.M | re.S)
    blocks += re.findall(r"^\.\. toctree::\n((?:   .*\n|\n)*)", text, re.M)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return {
        str(PurePosixPath(page).parent / re.sub(r".*<(.*)>", r"\1", line))
        for line in lines
        if line and not line.startswith(":")
    }


def test_every_page_is_in_a_table_of_contents() -> None:
    assert len(PAGES) > 15
    listed = {"index"}.union(*map(entries, PAGES))
    stems = {str(PurePosixPath(page).with_suffix("")) for page in PAGES}
    assert stems - listed == set()


def needed(blocks: list[str]) -> list[str]:
    """The optional packages that blocks import."""
    nodes = list(ast.walk(ast.parse("\n".join(blocks))))
    names = [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names]
    names += [str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)]
    roots = {name.partition(".")[0] for name in names}
    return sorted(roots - {"fastmlp", "numpy"} - set(sys.stdlib_module_names))


# Pages whose figures depend on other packages, on times, or on NumPy's last bits.
VARIES = {"guide/reinforcement_learning.md", "speed.md"}
# What a page's code has learnt, where its printed output does not tell.
LEARNT = {
    "guide/reinforcement_learning.md": """
lengths = []
for seed in range(20):
    obs, _ = env.reset(seed=seed)
    over, steps = False, 0
    while not over:
        obs, _, terminated, truncated, _ = env.step(int(q(obs).argmax()))
        over, steps = terminated or truncated, steps + 1
    lengths.append(steps)
assert sum(lengths) / 20 > 40, lengths  # random actions reach 22, a constant action 9
""",
    "guide/saving.md": """
import onnx
mlp.to_onnx("model.onnx")
for name in ("model.safetensors", "model.onnx", "model.h"):
    assert Path(name).stat().st_size > 4 * mlp.n_params, name
""",
}


def printed(page: str) -> str:
    """What blocks of text, each right after a block of Python, say it prints."""
    text = (DOCS / page).read_text()
    blocks = list(
        re.finditer(r"^```(\w+)\n(.*?)^```\n", text, re.MULTILINE | re.DOTALL)
    )
    return "".join(
        after[2]
        for block, after in pairwise(blocks)
        if (block[1], after[1]) == ("python", "text")
        and text[block.end() : after.start()] == "\n"
    )


# The blocks of README.md run in test_readme.py. Each page has its own process, because
# some of the packages that pages use change the process for good.
@pytest.mark.parametrize("page", [page for page in PAGES if python_blocks(DOCS / page)])
def test_the_code_of_a_page_runs(page: str, tmp_path: Path) -> None:
    """It prints what the page says: in same_bits.md a hash, on every machine."""
    blocks = [*python_blocks(DOCS / page), LEARNT.get(page, "")]
    for package in needed(blocks):
        if find_spec(package) is None:
            pytest.skip(f"the page {page} needs {package}")
    script, folder = tmp_path / "page.py", tmp_path / "empty"
    script.write_text("\n".join(blocks))
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg", "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    if page not in VARIES:
        assert done.stdout == printed(page)


# Examples -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_in_the_gallery(name: str, inventory: set[str]) -> None:
    assert f"sphx_glr_gallery_{name}" in inventory
