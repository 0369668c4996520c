"""The fused multiply-add of C headers, for C libraries that round it twice.

The C library of this machine, which rounds once, is the reference.
"""

import ctypes
import shutil
import subprocess
import sys

import fastmlp as fm
import numpy as np
import pytest
from fastmlp._formats.c import math as c_math

COMPILER = next((c for c in ("gcc", "clang", "cc") if shutil.which(c)), None)
ROWS = 200_000
PROGRAM = """
#include <math.h>
#include <stdint.h>
#include <string.h>
{functions}
void own(T *y, const T *a, const T *b, const T *c, long n) {{
  for (long i = 0; i < n; ++i) y[i] = own_fma(a[i], b[i], c[i]);
}}
void library(T *y, const T *a, const T *b, const T *c, long n) {{
  for (long i = 0; i < n; ++i) y[i] = {name}(a[i], b[i], c[i]);
}}
"""


@pytest.fixture(scope="module", params=["float32", "float64"])
def functions(request, tmp_path_factory):
    """The dtype, and the two functions of arrays."""
    if COMPILER is None or not sys.platform.startswith(("linux", "darwin")):
        pytest.skip("there is no C compiler, or the library's fma may be wrong")
    dtype = np.dtype(request.param)
    folder = tmp_path_factory.mktemp("fma")
    ctype, name = ("float", "fmaf") if dtype == np.float32 else ("double", "fma")
    text = PROGRAM.format(functions=c_math.fused(dtype, "own"), name=name)
    (folder / "fma.c").write_text(text)
    flags = ("-std=c99", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror")
    defines = ("-DFASTMLP_OWN_FMA", f"-DT={ctype}", "-shared", "-fPIC")
    subprocess.run(
        [COMPILER, *flags, *defines, "-o", "fma.so", "fma.c", "-lm"],
        check=True,
        cwd=folder,
    )
    return dtype, ctypes.CDLL(str(folder / "fma.so"))


def numbers(kind, dtype, rng):
    """Three arrays whose products and sums meet a kind of difficulty."""
    info, bits = np.finfo(dtype), f"u{dtype.itemsize}"
    low, high = np.log2(float(info.tiny)), np.log2(float(info.max))

    def scaled(exponent, spread=2):
        powers = rng.integers(-spread, spread + 1, ROWS) + round(exponent)
        return np.ldexp(rng.standard_normal(ROWS), powers).astype(dtype)

    if kind == "any bits":
        end = np.iinfo(bits).max
        return [
            rng.integers(0, end, ROWS, bits, endpoint=True).view(dtype)
            for _ in range(3)
        ]
    if kind == "special":
        special = [0.0, np.inf, np.nan, 1.0, 1.5, info.eps, info.tiny, info.max]
        special += [info.smallest_subnormal, info.eps / 2]
        both = np.array([*special, *(-np.array(special))], dtype)
        return [rng.choice(both, ROWS) for _ in range(3)]
    if kind == "ties":
        a, b, c = (
            np.ldexp(rng.integers(-(2**12), 2**12, ROWS), rng.integers(-30, 30, ROWS))
            for _ in range(3)
        )
        return [a.astype(dtype), b.astype(dtype), c.astype(dtype)]
    if kind == "cancellation":
        a, b = scaled(0, 20), scaled(0, 20)
        return [a, b, -(a * b)]
    if kind == "underflow":
        return [scaled(low / 2, 20), scaled(low / 2, 20), scaled(low - 5, 10)]
    assert kind == "overflow"
    return [scaled(high / 2), scaled(high / 2), scaled(high - 2, 1)]


KINDS = ("any bits", "special", "ties", "cancellation", "underflow", "overflow")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_rounded_once(functions, kind):
    dtype, library = functions
    with np.errstate(all="ignore"):
        arrays = numbers(kind, dtype, np.random.default_rng(KINDS.index(kind)))
    found, expected = np.empty(ROWS, dtype), np.empty(ROWS, dtype)
    for result, function in ((found, library.own), (expected, library.library)):
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (result, *arrays)]
        function(*pointers, ctypes.c_long(ROWS))
    numbers_only = ~np.isnan(expected)
    assert (np.isnan(found) == ~numbers_only).all()
    assert found[numbers_only].tobytes() == expected[numbers_only].tobytes()


@pytest.mark.parametrize("activation", fm.ACTIVATIONS)
def test_a_float32_network_needs_no_doubles(tmp_path, activation):
    """Apart from the multiply-add, for machines without an instruction for it."""
    fm.MLP([3, 4, 2], activation=activation).to_c(tmp_path / "mlp.h", name="mlp")
    text = (tmp_path / "mlp.h").read_text()
    own = c_math.fused(np.dtype(np.float32), "mlp")
    assert own in text
    code = text.replace(own, "").partition("#include")[2]
    assert "double" not in code
