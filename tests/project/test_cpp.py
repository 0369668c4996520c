"""The C++ side: builds the library without Python, using CMake, and runs its tests.

Warnings are errors in this build, so it also finds these.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import fastmlp as fm
import pytest
from helpers import ROOT, needs_source

pytestmark = needs_source
# CMake and Ninja may be installed in the folder of a Python that is not on the PATH. If
# that Python is a symbolic link, they are next to the link, which is not followed.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for tool in ("cmake", "ninja"):
        if not shutil.which(tool, path=PATH):
            pytest.skip(f"there is no {tool}")
    compilers = (os.environ.get("CXX", "c++"), "g++", "clang++")
    if not any(shutil.which(compiler, path=PATH) for compiler in compilers):
        pytest.skip("there is no C++ compiler")
    folder = tmp_path_factory.mktemp("build")
    run(
        *("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja"),
        *("-DFASTMLP_DEVELOPER=ON", "-DFASTMLP_WERROR=ON"),
    )
    run("cmake", "--build", folder)
    return folder


def test_trains_without_python(build: Path) -> None:
    assert run(build / "tests/cpp/test_train").strip() == "all checks passed"


def test_calls_are_stopped_at_any_moment(build: Path) -> None:
    assert run(build / "tests/cpp/test_stop").strip() == "all checks passed"


def test_layers_of_all_kinds(build: Path) -> None:
    assert run(build / "tests/cpp/test_layers").strip() == "all checks passed"


def test_short_regions_and_their_second_thread(build: Path) -> None:
    assert run(build / "tests/cpp/test_team").strip() == "all checks passed"


def test_cholesky_and_line_search(build: Path) -> None:
    assert run(build / "tests/cpp/test_solvers").strip() == "all checks passed"


def test_lbfgs_is_the_same_bits_for_any_team(build: Path) -> None:
    assert run(build / "tests/cpp/test_lbfgs_teams").strip() == "all checks passed"


@pytest.mark.skipif(sys.platform == "win32", reason="guard pages are made with mmap")
def test_kernels_stay_within_their_arrays(build: Path) -> None:
    out = run(build / "tests/cpp/test_guard")
    assert out.count("stayed within bounds") == len(fm.available_isas())


def test_elementary_functions(build: Path) -> None:
    hashes = set()
    # These have the functions of avx512, and differ from it in products alone.
    for isa in set(fm.available_isas()) - {"avx512_bf16", "amx"}:
        out = run(build / f"tests/cpp/test_math_{isa}")
        found = re.search(r"^hash .* ([0-9a-f]{16})$", out, re.MULTILINE)
        assert found, out
        hashes.add(found[1])
    assert len(hashes) == 1, "the instruction sets disagree in bits"


def test_errors_and_laws_of_functions_over_all_magnitudes(build: Path) -> None:
    lines = run(build / "tests/cpp/sweep_floats").splitlines()
    assert len(lines) == 2 + 10 + len(fm.ACTIVATIONS) - 1  # softmax is of rows
    assert not [line for line in lines if "FAILED" in line]


def test_benchmark_runs(build: Path) -> None:
    out = run(build / "bench/bench_kernels", "--rounds", "1", "activation")
    assert "tanh forward" in out


def linked(build: Path, folder: Path, files: dict[str, str]) -> Path:
    """Build a CMake project with the installed library; return its programs' folder."""
    run("cmake", "--install", build, "--prefix", folder / "prefix")
    source = folder / "app"
    source.mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    out = folder / "out"
    prefix = f"-DCMAKE_PREFIX_PATH={folder / 'prefix'}"
    run("cmake", "-S", source, "-B", out, "-G", "Ninja", prefix)
    run("cmake", "--build", out)
    return out


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Run the Python code of docs/cpp.md; return all its blocks by language."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/cpp.md").read_text()
    blocks: dict[str, list[str]] = {}
    for language, block in re.findall(r"^```(\w+)\n(.*?)^```", text, re.M | re.S):
        blocks.setdefault(language, []).append(block)
    for block in blocks["python"]:
        exec(block, {})
    return blocks


def test_the_programs_of_the_page(
    build: Path, page: dict[str, list[str]], tmp_path: Path
) -> None:
    """They print what the page says; the first comment of a block names its file."""
    files = {}
    for block in page["cpp"] + page["cmake"]:
        name = re.match(r"\W+([\w.]+)\n", block)
        assert name, block
        files[name[1]] = block
    assert "-DCMAKE_PREFIX_PATH=" in (ROOT / "docs/cpp.md").read_text()
    out = linked(build, tmp_path, files)
    trained, served, _ = page["text"]
    assert run(out / "train", cwd=tmp_path) == trained
    assert run(out / "serve", cwd=tmp_path) == served


def test_the_c_program_of_the_page(page: dict[str, list[str]], tmp_path: Path) -> None:
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        pytest.skip("there is no C compiler")
    (code,) = page["c"]
    (tmp_path / "device.c").write_text(code)
    # Without -march=native: the results are the same, and not all compilers have it.
    run(compiler, "-std=c99", "-O2", "device.c", "-o", "device", "-lm", cwd=tmp_path)
    assert run(tmp_path / "device", cwd=tmp_path) == page["text"][-1]
