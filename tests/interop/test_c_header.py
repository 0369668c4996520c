"""Networks as C headers, which give the bits of the library when compiled.

Many headers are compiled in one C file, as starting a compiler takes time.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._formats.c import math as _c_math
from helpers import ROOT, needs_source

COMPILERS = [c for c in ("gcc", "clang") if shutil.which(c)]
COMPILERS = COMPILERS or [c for c in ("cc",) if shutil.which(c)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="there is no C compiler")

STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wshadow")
C99 = ("-x", "c", "-std=c99", *STRICT)
# So that there is an fma instruction; other machines always have one.
NATIVE = ("-march=native",) if platform.machine() in {"x86_64", "AMD64"} else ()
# The GNU dialect of C fuses products and sums unless the header forbids it.
WAYS = {
    "C99, not optimised": (*C99, "-O0"),
    "C99, this machine": (*C99, "-O2", *NATIVE),
    "C99, own fma": (*C99, "-O1", "-DFASTMLP_OWN_FMA"),
    "GNU C, this machine": ("-x", "c", "-std=gnu11", "-O2", *NATIVE),
    "C++17": ("-x", "c++", "-std=c++17", *STRICT, "-O0", *NATIVE),
}
ROWS = 24


# Constants of activations besides the defaults.
CONSTANTS = {
    "leaky_relu": {"slope": 0.3},
    "threshold": {"threshold": 0.5, "value": -2.0},
    "elu": {"alpha": 0.3},
    "celu": {"alpha": 0.3},
    "softplus": {"beta": 3.0},
    "hardtanh": {"min_val": -0.5, "max_val": 2.0},
    "softshrink": {"lambd": 0.2},
    "hardshrink": {"lambd": 0.2},
}


def networks() -> dict[str, fm.MLP]:
    """Networks by the name of their header."""
    nets: dict[str, fm.MLP] = {}

    def add(name: str, layers: list[Any], **options: Any) -> None:
        for dtype in ("float32", "float64"):
            rng = np.random.default_rng(len(nets))
            mlp = fm.MLP(layers, dtype=dtype, seed=len(nets), **options)
            # Norms and biases that have an effect; deviations that are not too small.
            for view in mlp.named_parameters().values():
                if view.ndim == 1:
                    view += rng.normal(size=view.shape) * 0.3
            mlp.buffers[:] = rng.uniform(0.2, 2.0, mlp.buffers.size)
            nets[f"{name}{dtype[-2:]}"] = mlp

    for kind in fm.ACTIVATIONS:
        # Alone, so that special values reach the function unchanged.
        add(f"alone_{kind}", [3, fm.Activation(kind)])
        # Narrow at the end, then at the beginning: the Jacobian runs backward, forward.
        add(f"back_{kind}", [7, 19, fm.Dense(5, kind), 2], activation=kind)
        add(f"forward_{kind}", [4, 17, 6, 21], activation=kind, output_activation=kind)

    for kind, constants in CONSTANTS.items():
        function = fm.Activation(kind, **constants)
        add(f"constant_{kind}", [3, function])
        add(f"back_constant_{kind}", [7, 19, fm.Dense(5, function), 2])
        add(f"forward_constant_{kind}", [4, 17, 6, 21], activation=function)

    bn, ln, act = fm.BatchNorm, fm.LayerNorm, fm.Activation
    block = fm.Residual([fm.Dense(9, "tanh"), fm.Dropout(0.2), fm.Dense(9)])
    rms, rms_block = fm.RMSNorm, fm.Residual([fm.RMSNorm(), fm.Dense(9, "tanh"), 9])
    add("rms_back", [7, rms(), 9, rms_block, act("silu"), rms(affine=False), 4])
    gn, groups = fm.GroupNorm, fm.Residual([fm.GroupNorm(2), fm.Dense(12, "tanh")])
    add("group_back", [8, gn(4), 12, groups, act("silu"), gn(3, affine=False), 4])
    add("group_forward", [2, gn(1), 12, gn(3), groups, act("relu"), 40, gn(4)])
    wn = functools.partial(fm.Dense, parametrization="weight_norm")
    sn = functools.partial(fm.Dense, parametrization="spectral_norm")
    add("computed", [4, wn(6, "tanh"), fm.Residual([sn(3), wn(6, bias=False)]), sn(2)])
    add("row_norms_of_one", [1, rms(), act("tanh"), ln(), 1])
    add("rms_forward", [3, 9, rms(), rms_block, act("relu"), 21, rms()])
    add("plain", [3, 1], bias=False)
    add("one", [1, 1])
    for shared in (False, True):
        prelu = fm.PReLU(0.3, shared)
        body = [fm.Residual([prelu, 9]), prelu]
        add(f"prelu_back_{shared}", [7, prelu, 9, *body, 2], activation="tanh")
        add(f"prelu_forward_{shared}", [2, 9, *body, fm.Activation("silu"), 7])
    for kind in ("identity", "relu", "sigmoid", "elu", "gelu"):
        glu = [fm.Dense(6, "identity"), fm.GLU(kind)]
        add(f"glu_back_{kind}", [4, *glu, fm.Residual([6, fm.GLU(kind)]), 1])
        add(f"glu_forward_{kind}", [2, fm.GLU(kind), 9, 8, fm.GLU(kind), *glu])
    scaled = [fm.Residual([fm.Scale(), 6]), fm.Scale()]
    add("scale_back", [4, fm.Scale(), 6, *scaled, fm.Activation("silu"), 1])
    add("scale_forward", [2, 6, *scaled, fm.Activation("silu"), 9])
    heads = fm.Parallel([[7, fm.Dense(3, "tanh")], [], [fm.Dense(2, "relu")]])
    add("concat_back", [5, fm.Concat([6, 4]), heads, fm.Activation("silu"), 2])
    add("concat_forward", [2, fm.Concat([6]), fm.Dense(5, "gelu"), heads])
    add("concat_last", [3, 4, fm.Parallel([[fm.Dense(3, "relu")], [2]])])
    some = [fm.Columns([2, 0, 2, 1]), fm.Dense(4, "tanh"), fm.Columns([3, 0])]
    add("columns_back", [3, fm.Concat(some), 2])
    add("columns_forward", [2, 5, *some, fm.Dense(7, "relu")])
    tables = [fm.Columns([0, 2]), fm.Embedding([5, 3], 4)]
    both = fm.Parallel([[fm.Columns([1]), 6], tables])
    add("embedding_back", [3, both, fm.Dense(9, "tanh"), 2])
    add("embedding_forward", [3, both, fm.Dense(9, "tanh")])
    bins = [fm.PiecewiseLinear(3), fm.Dense(6, "tanh")]
    add("bins_back", [3, *bins, fm.PiecewiseLinear(1), fm.PiecewiseLinear(2), 2])
    add("bins_forward", [2, fm.Concat(bins), fm.PiecewiseLinear(2), 30])
    waves = [fm.Periodic(3), fm.Dense(6, "tanh")]
    add("periodic_back", [3, *waves, fm.Periodic(2, 1.0), 2])
    add("periodic_forward", [2, fm.Concat(waves), fm.Periodic(2, 1.0), 30])
    standard, back = fm.Standardise(), fm.Standardise(inverse=True)
    inner = [fm.Residual([standard, 6]), standard, fm.Activation("silu")]
    add("standardise_back", [4, standard, 6, *inner, 1, back])
    add("standardise_forward", [2, 6, *inner, 9, back])
    add("no_bias", [5, 66, 3], bias=False, activation="tanh")
    add("wide", [33, 130, 65, 40], activation="relu")
    add("many_in", [20, 40, 40, 33], activation="gelu")
    add("dropout", [5, fm.Dropout(0.3), 8, fm.Dropout(0.5), 3, fm.Dropout(0.1)])
    add("only_dropout", [5, fm.Dropout(0.3)])
    add("alpha_dropout", [5, fm.AlphaDropout(0.3), 8, fm.AlphaDropout(0.5), 3])
    add("noise", [5, fm.GaussianNoise(0.3), 8, fm.GaussianDropout(0.5), 3])
    add("identity", [5, act("identity"), fm.Dense(4), act("identity")])
    add("norms", [5, ln(), 33, ln(affine=False), act("elu"), bn(), 18, bn(), 3])
    add("norms_first", [6, bn(affine=False), 40, bn(), act("relu"), ln(), 40])
    add("norm_alone", [37, ln(1e-3)])
    add("residual", [9, block, fm.Residual([act("tanh")]), 2])
    add("projection", [9, fm.Residual([bn(), 20, ln()]), act("relu"), 12, 2])
    add(
        "nested",
        [
            4,
            fm.Residual([11, fm.Residual([fm.Dropout(0.1), bn(), 11, act("relu")])]),
            ln(),
            fm.Residual([bn(), act("relu"), 30]),
            act("relu"),
            fm.Residual([bn()]),
            6,
        ],
    )
    add("nested_wide", [2, fm.Residual([ln(), 25, act("relu"), 31]), act("relu"), 40])
    add("softmaxes", [6, 20, act("softmax"), 17, act("softmax"), 5])
    add("relu_tail", [5, 12, fm.Residual([act("relu"), 12]), 8], activation="relu")
    return nets


def special(dtype: np.dtype[Any]) -> list[float]:
    """Numbers at which errors are likely."""
    info = np.finfo(dtype)
    near = [0.0, info.smallest_subnormal, 1e3 * info.smallest_subnormal, info.tiny]
    near += [2.0**-55, 2.0**-27, 1e-3, 0.5, 1.0, 9.01, 18.5, 38.1, 88.8, 104.0, 709.9]
    near += [745.5, 16383.5, 2.0**28 + 2, 1e9, 1e20, 1e30, info.max / 2, info.max]
    return [*near, *(-v for v in near), np.inf, -np.inf, np.nan]


def inputs(name: str, mlp: fm.MLP) -> np.ndarray:
    rng = np.random.default_rng(len(name))
    x = rng.normal(size=(ROWS, mlp.n_in)) * rng.choice([0.3, 2, 20], (ROWS, 1))
    values = np.array(special(mlp.dtype))
    if name.startswith("alone"):
        grid = np.linspace(-60, 60, 3 * 700).reshape(-1, 3)
        spread = np.resize(values, (len(values), 3))
        far = rng.normal(size=(200, 3)) * 10.0 ** rng.uniform(-30, 30, (200, 3))
        return np.concatenate([x, grid, spread, far]).astype(mlp.dtype)
    if name.startswith("embedding"):
        x[:, 0], x[:, 2] = rng.integers(5, size=ROWS), rng.integers(3, size=ROWS)
        return x.astype(mlp.dtype)
    odd = np.where(
        rng.random((8, mlp.n_in)) < 0.2, rng.choice(values[:-3], 8)[:, None], 1
    )
    with np.errstate(over="ignore"):
        return np.concatenate([x, odd, 0 * x[:1], -0.0 * x[:1]]).astype(mlp.dtype)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether all bits are equal; NaN need only be NaN."""
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    nan = np.isnan(a) & np.isnan(b)
    return bool(np.all((a.view(unsigned) == b.view(unsigned)) | nan))


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stderr[-4000:]}"
    return done.stdout


def source(names: Iterable[str], jacobian: bool) -> str:
    """C code that calls the functions of the headers for many rows."""
    kinds = {"32": "float", "64": "double"}
    lines = [f'#include "{name}.h"' for name in names]
    lines += ["#ifdef __cplusplus", 'extern "C" {', "#endif"]
    for name in names:
        t, upper = kinds[name[-2:]], name.upper()
        n_in, n_out = f"{upper}_N_IN", f"{upper}_N_OUT"
        arguments = f"const {t} *x, {t} *y, {t} *jac, int rows"
        lines += [f"void run_{name}({arguments});", f"void run_{name}({arguments}) {{"]
        if jacobian:
            call = f"{name}_jacobian(x, y, jac), jac += {n_in} * {n_out}"
        else:
            lines.append("  (void)jac;")
            call = f"{name}_predict(x, y)"
        lines += [f"  for (; rows > 0; --rows, x += {n_in}, y += {n_out}) {call};", "}"]
    return "\n".join([*lines, "#ifdef __cplusplus", "}", "#endif", ""])


class Library:
    """A shared library of compiled headers."""

    def __init__(self, path: Path, nets: dict[str, fm.MLP]) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._nets = nets

    def __call__(self, name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mlp = self._nets[name]
        y = np.full((len(x), mlp.n_out), 7, mlp.dtype)
        jac = np.full((len(x), mlp.n_out, mlp.n_in), 7, mlp.dtype)
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (x, y, jac)]
        getattr(self._library, f"run_{name}")(*pointers, len(x))
        return y, jac


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("headers")


@pytest.fixture(scope="module")
def nets(folder: Path) -> dict[str, fm.MLP]:
    found = networks()
    for name, mlp in found.items():
        mlp.to_c(folder / f"{name}.h", name=name, jacobian=True)
    (folder / "predict.c").write_text(source(found, False))
    (folder / "jacobian.c").write_text(source(found, True))
    return found


def compiled(
    folder: Path, nets: dict[str, fm.MLP], file: str, compiler: str, *flags: str
) -> Library:
    to = folder / f"{file}_{abs(hash((compiler, flags)))}.so"
    run(compiler, *flags, "-shared", "-fPIC", folder / f"{file}.c", "-o", to, "-lm")
    return Library(to, nets)


@needs_compiler
@pytest.mark.parametrize("way", WAYS)
def test_outputs_are_the_same_bits(
    way: str, folder: Path, nets: dict[str, fm.MLP]
) -> None:
    library = compiled(folder, nets, "predict", COMPILERS[0], *WAYS[way])
    for name, mlp in nets.items():
        x = inputs(name, mlp)
        y, _ = library(name, x)
        assert same_bits(y, mlp(x)), name


@needs_compiler
@pytest.mark.parametrize("compiler", COMPILERS)
def test_jacobians_are_the_same_bits(
    compiler: str, folder: Path, nets: dict[str, fm.MLP]
) -> None:
    level = "-O1" if compiler == COMPILERS[0] else "-O0"
    flags = (*C99, level, *NATIVE)
    library = compiled(folder, nets, "jacobian", compiler, *flags)
    for name, mlp in nets.items():
        x = inputs(name, mlp)
        y, jac = library(name, x)
        assert same_bits(y, mlp(x)), name
        assert same_bits(jac, mlp.jacobian(x)), name


@needs_compiler
@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("nm"), reason="there is no GNU nm"
)
def test_nothing_but_mathematics_is_called(
    folder: Path, nets: dict[str, fm.MLP]
) -> None:
    to = folder / "jacobian.o"
    run(COMPILERS[0], *C99, "-O0", "-c", folder / "jacobian.c", "-o", to)
    called = set(run("nm", "--undefined-only", to).split()) - {"U"}
    mathematics = {f"{f}{t}" for f in ("fma", "sqrt", "fabs", "copysign") for t in "f "}
    allowed = {m.strip() for m in mathematics} | {"memcpy", "memset"}
    # Symbols of a compiler that guards the stack or addresses its data by a table.
    allowed |= {"__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
    assert called <= allowed
    # There is no data that the program modifies.
    sections = {line.split()[-2] for line in run("nm", to).splitlines()}
    assert not sections & set("BbCDdGgSs")


@needs_compiler
def test_one_header_in_several_files_and_several_in_one(folder: Path) -> None:
    a, b = fm.MLP([3, 8, 2], seed=1), fm.MLP([2, 8, 1], activation="tanh", seed=2)
    a.to_c(folder / "first.h", name="first")
    b.to_c(folder / "second.h", name="second", jacobian=True)
    (folder / "one.c").write_text("""
#include "first.h"
#include "first.h"
#include "second.h"
void run_both(const float *x, float *y);
void run_first(const float *x, float *y);
void run_both(const float *x, float *y) {
  float between[FIRST_N_OUT];
  first_predict(x, between);
  second_predict(between, y);
}
""")
    (folder / "two.c").write_text("""
#include "first.h"
void run_first(const float *x, float *y);
void run_first(const float *x, float *y) { first_predict(x, y); }
""")
    to = folder / "files.so"
    files = folder / "one.c", folder / "two.c"
    run(COMPILERS[0], *C99, "-O1", "-shared", "-fPIC", *files, "-o", to, "-lm")
    library = ctypes.CDLL(str(to))
    x, y, z = np.float32([0.3, -2, 1]), np.empty(2, "f4"), np.empty(1, "f4")
    pointers = [v.ctypes.data_as(ctypes.c_void_p) for v in (x, y, z)]
    library.run_first(pointers[0], pointers[1])
    library.run_both(pointers[0], pointers[2])
    assert same_bits(y, a(x))
    assert same_bits(z, b(a(x)))


@needs_compiler
def test_weights_that_are_not_finite(folder: Path) -> None:
    mlp = fm.MLP([4, 3], seed=0)
    tiny = np.finfo(np.float32).smallest_subnormal
    mlp.weights[0][:] = [[np.inf, 1, 0.1], [0, -0.0, tiny], [2, -3, 1e38], [1, 1, 1]]
    mlp.biases[0][:] = [-np.inf, np.nan, -0.0]
    mlp.to_c(folder / "odd32.h", name="odd32")
    (folder / "odd.c").write_text(source(["odd32"], False))
    library = compiled(folder, {"odd32": mlp}, "odd", COMPILERS[0], *C99, "-O1")
    x = np.float32([[1, 2, 3, 4], [-1, 0, 0, 0], [0, 1, 0, 0]])
    y, _ = library("odd32", x)
    assert same_bits(y, mlp(x))


@needs_compiler
def test_fast_math_is_refused(folder: Path) -> None:
    fm.MLP([2, 2], seed=0).to_c(folder / "fast.h", name="fast")
    (folder / "fast.c").write_text('#include "fast.h"\n')
    command = [COMPILERS[0], "-ffast-math", "-c", str(folder / "fast.c")]
    command += ["-o", str(folder / "fast.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "-ffast-math would change the results" in done.stderr


@needs_source
def test_constants_are_the_kernels() -> None:
    """The numbers copied into Python, against the generated file."""
    kernels = ROOT / "cpp" / "src" / "kernels"
    text = (kernels / "math_coefficients.h").read_text()
    number = r"-?0x[0-9a-f.]+p[+-]\d+"

    def constants(name: str) -> tuple[list[float], ...]:
        key = "".join(part.capitalize() for part in name.split("_"))
        found = []
        for kind in "FD":
            match = re.search(rf" k{key}{kind}(?:\[\])? = ([^;]*);", text)
            assert match, name
            found.append([float.fromhex(v) for v in re.findall(number, match[1])])
        return tuple(found)

    for name, pair in _c_math.POLYNOMIALS.items():
        ours = tuple([float.fromhex(v) for v in row.split()] for row in pair)
        assert ours == constants(name), name
    spelt = {"log2e": "log2_e", "ln2_high": "ln2_hi", "ln2_low": "ln2_lo"}
    for name, pair in _c_math.NUMBERS.items():
        ours = tuple([float.fromhex(v)] for v in pair)
        assert ours == constants(spelt.get(name, name)), name
    digits = re.compile(r"0x[0-9A-F]{8}u(?=,|\n)")
    reduce = _c_math.functions({"reduce"}, np.dtype("f8"), "x")
    assert digits.findall(reduce) == digits.findall(text)
    half_pi = re.search(r"kHalfPiBits = (\w+);", text)
    assert half_pi
    assert f"half_pi = {half_pi[1]};" in reduce


def test_only_what_is_needed_is_written(folder: Path) -> None:
    fm.MLP([3, 4, 2], seed=0).to_c(folder / "lean.h", name="lean")
    text = (folder / "lean.h").read_text()
    functions = set(re.findall(r"^static inline \w+ (\w+)\(", text, re.M))
    names = ("begin", "end", "fma", "dense_3x4", "dense_4x2", "act_relu", "predict")
    assert functions == {f"lean_{n}" for n in names}
    assert "jacobian" not in text
    assert "malloc" not in text
    assert max(map(len, text.splitlines())) <= 88
    # All other macros are undefined again at the end.
    defined = set(re.findall(r"#define (\w+)", text))
    undefined = set(re.findall(r"#undef (\w+)", text))
    assert defined - undefined == {"FASTMLP_lean_h", "LEAN_N_IN", "LEAN_N_OUT"}


def test_weights_are_exact(folder: Path) -> None:
    mlp = fm.MLP([300, 200], dtype="float64", seed=0)
    mlp.to_c(folder / "exact.h", name="exact")
    text = (folder / "exact.h").read_text()
    array = text.split("exact_w0[60000] = {")[1].split("}")[0]
    values = [float.fromhex(v) for v in array.replace(",", " ").split()]
    assert np.array_equal(values, mlp.weights[0].ravel())


def test_the_file_is_the_same_each_time(folder: Path) -> None:
    for name in ("once.h", "twice.h"):
        fm.MLP([3, 4, 2], seed=0).to_c(folder / name)
    assert (folder / "once.h").read_bytes() == (folder / "twice.h").read_bytes()
    assert "void mlp_predict(" in (folder / "once.h").read_text()


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        (3, TypeError, "name must be a str, got 3"),
        ("", ValueError, "identifier"),
        ("2nd", ValueError, "identifier"),
        ("a-b", ValueError, "identifier"),
        ("netz_für", ValueError, "identifier"),
        ("double", ValueError, "'double' is a keyword"),
        ("class", ValueError, "'class' is a keyword"),
        ("_net", ValueError, "underscore"),
        ("a__b", ValueError, "underscore"),
        ("a_", ValueError, "underscore"),
    ],
)
def test_invalid_names(
    name: Any, error: type[Exception], match: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=match):
        fm.MLP([2, 2], seed=0).to_c(tmp_path / "x.h", name=name)
    assert not list(tmp_path.iterdir())


def test_refused_calls_leave_the_file_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "x.h"
    path.write_text("before")
    custom = fm.MLP([2, 2, fm.Activation(np.tanh, np.cos)], seed=0)
    with pytest.raises(ValueError, match=r"tanh\(\) of layer 1 is a custom function"):
        custom.to_c(path)
    plain = fm.MLP([2, 2], seed=0)
    with pytest.raises(TypeError, match=r"path must be a str or os\.PathLike, got 3"):
        plain.to_c(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="jacobian must be True or False, got 1"):
        plain.to_c(path, jacobian=1)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="nowhere"):
        plain.to_c(tmp_path / "nowhere" / "x.h")
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["x.h"]
    plain.to_c(path)
    assert path.read_text().startswith("/* A multilayer perceptron")
