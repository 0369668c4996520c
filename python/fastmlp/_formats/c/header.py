"""A network as one C99 header without dependencies: `fastmlp.MLP.to_c`.

The C code performs the same operations as the compiled core, in the same order. The
function for inference, which `inference` writes, reuses its buffers on the stack. The
function for the Jacobian, which `jacobian` writes, also stores the values that the
derivatives need.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import _core, _validate
from ..._network import ops
from ..atomic_write import file_name, replace_file
from ..layers import BY_KIND
from . import inference, math
from .jacobian import Jacobian
from .writer import Function, Writer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..._network.model import Model
    from ..._validate import Array

# Keywords of C99 to C23 and of C++. Keywords that begin with an underscore or have two
# underscores in a row are left out because _checked_name refuses all such names.
_KEYWORDS = (
    "alignas alignof and and_eq asm auto bitand bitor bool break case catch char "
    "char16_t char32_t char8_t class co_await co_return co_yield compl concept "
    "const const_cast consteval constexpr constinit continue decltype default "
    "delete do double dynamic_cast else enum explicit export extern false float "
    "for friend goto if inline int long mutable namespace new noexcept not not_eq "
    "nullptr operator or or_eq private protected public register reinterpret_cast "
    "requires restrict return short signed sizeof static static_assert "
    "static_cast struct switch template this thread_local throw true try typedef "
    "typeid typename typeof typeof_unqual union unsigned using virtual void "
    "volatile wchar_t while xor xor_eq"
)

# Number of lines of weights that are written at once. Writing a large model in pieces
# needs little memory.
_CHUNK = 1 << 14


def to_c(mlp: Model, path: object, *, name: str, jacobian: bool) -> None:
    """Write a header: `fastmlp.MLP.to_c`."""
    file = file_name(path)
    header = Header(mlp, _checked_name(name), _validate.flag("jacobian", jacobian))

    def write(to: Any) -> None:
        for piece in header.pieces():
            to.write(piece.encode("ascii"))

    replace_file(file, write)


def _checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {_validate.describe(name)}")
    wanted = "name must be a C identifier such as 'mlp'"
    if not (name.isascii() and name.isidentifier()):
        raise ValueError(f"{wanted}; got {name[:40]!r}")
    if name in _KEYWORDS.split():
        raise ValueError(f"{wanted}; {name!r} is a keyword of C or C++")
    if name.startswith("_") or "__" in name or name.endswith("_"):
        raise ValueError(
            f"{wanted}; it must not begin or end with an underscore or contain "
            f"two underscores in a row, got {name[:40]!r}"
        )
    return name


class Header:
    """The text of a model's header."""

    def __init__(self, mlp: Model, name: str, jacobian: bool) -> None:
        self.mlp = mlp
        self.name = name
        self.dtype = mlp.dtype
        self.writer = Writer(mlp)
        self.predict = inference.predict(self.writer)
        self.jacobian = Jacobian(self.writer) if jacobian else None

    def pieces(self) -> Iterator[str]:
        """Yield the text of the header piece by piece."""
        name, upper = self.name, self.name.upper()
        yield self._fill(_HEAD, self._facts())
        macros = f"#define {upper}_N_IN {self.mlp.n_in}\n"
        macros += f"#define {upper}_N_OUT {self.mlp.n_out}\n"
        if self.jacobian is not None:
            macros += f"#define {name}_D {self.jacobian.directions}\n"
        yield macros + self._fill(_BEGIN, {})
        yield math.fused(self.dtype, name)
        for array, values in self._arrays():
            yield from self._array(array, values)
        yield math.functions(self.writer.used, self.dtype, name)
        for (k, n, biased), function in self.writer.dense.items():
            lines = inference.dense_function(function, k, n, biased, self.dtype)
            yield self._c(lines)
        yield self._c(_function(_PREDICT, "x y", self.predict))
        if self.jacobian is not None:
            yield self._c(_function(_JACOBIAN, "x y jac", self.jacobian.function))
            yield f"#undef {name}_D\n"
        yield self._fill(_END, {})

    def _facts(self) -> dict[str, str]:
        size = self.dtype.itemsize
        layers = [str(self.mlp.n_in)]
        for node in self.writer.nodes:
            if ops.absent_at_inference(node.layer):
                continue
            text = str(node.n_out) if node.kind == "dense" else node.kind
            if node.activation != "identity":
                alone = node.kind == "activation"
                text = node.activation if alone else f"{text} {node.activation}"
            layers.append(text)
        facts = {
            "layers": _wrapped(" -> ".join(layers)),
            "version": _core.__version__,
            "stack": str(self.predict.elements * size),
            "functions": "",
            "operands": "",
        }
        if self.mlp.compute_dtype == "bfloat16":
            facts["operands"] = _ABOUT_OPERANDS
        if self.jacobian is not None:
            facts["functions"] = self._fill(
                _ABOUT_JACOBIAN, {"stack": str(self.jacobian.function.elements * size)}
            )
        return facts

    def _fill(self, template: str, facts: Mapping[str, str]) -> str:
        """Fill a template's <fields> from ``facts`` and from the name and dtype."""
        single = self.dtype == np.float32
        facts = {
            "name": self.name,
            "NAME": self.name.upper(),
            "limits": "FLT" if single else "DBL",
            "digits": "24" if single else "53",
            **facts,
        }
        text = math.instantiate(template, self.dtype, self.name)
        for key, value in facts.items():
            text = text.replace(f"<{key}>", value)
        return text

    def _c(self, lines: list[str]) -> str:
        text = "\n".join(["", *lines, ""])
        return math.instantiate(text, self.dtype, self.name)

    def _array(self, name: str, values: Array) -> Iterator[str]:
        single = self.dtype == np.float32
        per_line = 5 if single else 3
        yield self._c([f"static const T @{name}[{values.size}] = {{"])
        for start in range(0, values.size, per_line * _CHUNK):
            chunk = values[start : start + per_line * _CHUNK].tolist()
            texts = math.literals(chunk, self.dtype)
            yield "".join(
                f"    {', '.join(texts[i : i + per_line])},\n"
                for i in range(0, len(texts), per_line)
            )
        yield "};\n"

    def _arrays(self) -> Iterator[tuple[str, Array]]:
        params, buffers = self.mlp._effective(), self.mlp.buffers
        for i, node in enumerate(self.writer.nodes):
            if node.weight is not None:
                yield f"w{i}", params[node.weight]
            if node.bias is not None:
                yield f"b{i}", params[node.bias]
            if node.stats >= 0:
                both = buffers[node.stats : node.stats + 2 * node.n_out]
                statistics = zip(node.layer.statistics, np.split(both, 2), strict=True)
                arrays = dict(statistics)
                if node.weight is not None:
                    arrays["weight"] = params[node.weight]
                for name, array in BY_KIND[node.kind].c_arrays(node, arrays).items():
                    if name != "slope" or self.jacobian is not None:
                        yield f"{name}{i}", array


def _function(head: str, arrays: str, body: Function) -> list[str]:
    """Return the lines of a function that computes in fastmlp's environment."""
    fences = [f"  @fence({array});" for array in arrays.split()]
    begin = ["  const @mode caller = @begin();", *fences]
    return [head, *begin, *body.lines, *fences, "  @end(caller);", "}"]


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 80, subsequent_indent="     ")


_ABOUT_OPERANDS = """
   The model rounds the operands of its products to bfloat16; this code does not. Its
   results are those of mlp.copy(compute_dtype="float32").
"""

_HEAD = """\
/* A multilayer perceptron written by fastmlp <version>:
     <layers>
<operands>
   Include it in one file of your program (each file that includes it gets a copy of
   the weights), as C99 or later, or as C++17 or later; link with -lm. It needs only a
   C library, allocates nothing, keeps no state, and may be called by several threads.

   void <name>_predict(const T *x, T *y)
     y[<NAME>_N_OUT] = the outputs for x[<NAME>_N_IN]; x and y must not overlap. The
     function takes <stack> bytes of the stack, and some more for calls.
<functions>
   Results have the same bits as fastmlp's on any machine that has IEEE 754 arithmetic,
   rounding to nearest. Numbers below the smallest normal one count as 0; x86 with SSE2
   and ARM are put into that mode for the call. Elsewhere such numbers are kept, so that
   results of their size can differ. Compile without -ffast-math and similar options.
   The compiler must not fuse products and sums on its own (-ffp-contract=off, the
   default of GCC with -std=c99). The pragmas below forbid it, but clang ignores them if
   it is called with -ffp-contract=fast.
   Every sum is a chain of fused multiply-adds. They are fast if the processor has such
   an instruction for T and the compiler may use it: -mfma or -march=native on
   x86-64, always on 64-bit ARM. C libraries that are not known to round fma() once,
   such as newlib, are not used: the header has its own, slower function. Define
   FASTMLP_OWN_FMA to use that one in any case. Nothing else needs arithmetic with
   other types than T (the function for float calculates in double) and integers. */
#ifndef FASTMLP_<name>_h
#define FASTMLP_<name>_h

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__)
#error "<name>: -ffast-math would change the results"
#endif
#if FLT_RADIX != 2 || <limits>_MANT_DIG != <digits>
#error "<name>: floating-point numbers are not those of IEEE 754"
#endif
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16
#error "<name>: arithmetic has excess precision; on x86 use -msse2 -mfpmath=sse"
#endif

"""
_ABOUT_JACOBIAN = """\

   void <name>_jacobian(const T *x, T *y, T *jac)
     The same, and jac[<NAME>_N_OUT * <NAME>_N_IN] = the derivatives: element
     [o * <NAME>_N_IN + i] is that of output o with respect to input i. The function
     takes <stack> bytes of the stack, and some more for calls.
"""
_BEGIN = """\
#if defined(__cplusplus)
#define <name>_restrict __restrict
#else
#define <name>_restrict restrict
#endif

/* Only fma() fuses products and sums. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

/* <name>_begin sets the floating-point environment of fastmlp and returns the caller's,
   which <name>_end restores. <name>_fence(p) keeps accesses to p[] where they are. */
#if defined(__SSE2__) || defined(_M_X64)
#include <xmmintrin.h>
typedef unsigned int <name>_mode;
static inline <name>_mode <name>_begin(void) {
  const <name>_mode caller = _mm_getcsr();
  _mm_setcsr(0x9FC0u);
  return caller;
}
static inline void <name>_end(<name>_mode caller) { _mm_setcsr(caller); }
#elif defined(__GNUC__) && \\
    (defined(__aarch64__) || (defined(__arm__) && defined(__ARM_FP)))
#if defined(__aarch64__)
typedef uint64_t <name>_mode;
#define <name>_read "mrs %0, fpcr"
#define <name>_write "msr fpcr, %0"
#else
typedef uint32_t <name>_mode;
#define <name>_read "vmrs %0, fpscr"
#define <name>_write "vmsr fpscr, %0"
#endif
static inline void <name>_end(<name>_mode caller) {
  __asm__ volatile(<name>_write : : "r"(caller));
}
static inline <name>_mode <name>_begin(void) {
  <name>_mode caller;
  __asm__ volatile(<name>_read : "=r"(caller));
  <name>_end((<name>_mode)1 << 24);
  return caller;
}
#undef <name>_read
#undef <name>_write
#else
typedef int <name>_mode;
static inline <name>_mode <name>_begin(void) { return 0; }
static inline void <name>_end(<name>_mode caller) { (void)caller; }
#endif
#if defined(__GNUC__)
#define <name>_fence(p) __asm__ volatile("" : "+r"(p) : : "memory")
#else
#define <name>_fence(p) (void)(p)
#endif
"""
_END = """\

#if defined(__clang__)
#pragma STDC FP_CONTRACT DEFAULT
#elif defined(__GNUC__)
#pragma GCC pop_options
#elif defined(_MSC_VER)
#pragma fp_contract(on)
#endif
#undef <name>_restrict
#undef <name>_fence
#ifdef <name>_fma
#undef <name>_fma
#endif

#endif
"""
_PREDICT = """\
static inline void @predict(const T *@restrict x, T *@restrict y) {"""
_JACOBIAN = """\
static inline void @jacobian(const T *@restrict x, T *@restrict y,
                             T *@restrict jac) {"""
