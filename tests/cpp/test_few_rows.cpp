// Products of a few rows with a B of any size, of every instruction set: each element is
// one chain of std::fma in ascending k from bias, C or 0, followed by the epilogue, and
// nothing beyond the operands is accessed (guarded.h). The sizes reach every way to read
// B: in tiles, and from end to end because it is large or its rows evict each other.
#include <cmath>
#include <cstdio>

#include "check.h"
#include "fastmlp/isa.h"
#include "fastmlp/kernel_table.h"
#include "guarded.h"

namespace {

using namespace fastmlp;

enum class Start { zero, bias, c };

// `ld`: the distance between rows of B, at least n.
template <class T>
void multiply(Index m, Index n, Index k, Index ld, Start start, EpilogueKind kind) {
  const KernelTable<T>& table = kernels<T>();
  Guarded g;
  const T* const a = g.array<T>(m * k);
  const T* const b = g.array<T>(k > 0 ? (k - 1) * ld + n : 0);
  const T* const bias = g.array<T>(n);
  const T* const saved = g.array<T>(m * n);
  const T* const before = g.array<T>(m * n);
  T* const c = g.array<T>(m * n);
  table.gemm(c, n, {a, k, 1}, {b, ld, table.nr}, m, n, k,
             start == Start::bias ? bias : nullptr, start == Start::c,
             {kind, saved, n});
  int wrong = 0;
  for (Index i = 0; i < m; ++i) {
    for (Index j = 0; j < n; ++j) {
      T x = start == Start::bias ? bias[j]
            : start == Start::c  ? before[i * n + j]
                                 : T(0);
      for (Index p = 0; p < k; ++p) x = std::fma(a[i * k + p], b[p * ld + j], x);
      const bool kept = kind == EpilogueKind::none ||
                        (kind == EpilogueKind::relu ? x > 0 : saved[i * n + j] > 0);
      if (!kept) x = 0;
      wrong += c[i * n + j] != x;
    }
  }
  if (wrong > 0) {
    std::printf("%s f%d, %d x %d x %d, rows %d apart: %d elements are wrong\n",
                isa_name(active_isa()), static_cast<int>(8 * sizeof(T)),
                static_cast<int>(m), static_cast<int>(n), static_cast<int>(k),
                static_cast<int>(ld), wrong);
  }
  CHECK(wrong == 0);
}

template <class T>
void all_sizes() {
  const Index collide = kCollidingBytes / static_cast<Index>(sizeof(T));
  const Index mr = kernels<T>().mr;
  const auto all_ways = [](Index m, Index n, Index k, Index ld) {
    for (const Start start : {Start::zero, Start::bias, Start::c}) {
      for (const EpilogueKind kind :
           {EpilogueKind::none, EpilogueKind::relu, EpilogueKind::relu_backward}) {
        multiply<T>(m, n, k, ld, start, kind);
      }
    }
  };
  for (const Index m : {Index(1), Index(2), Index(3), Index(4), mr + 1}) {
    for (const Index k : {0, 1, 4, 9, 15, 16, 23}) {
      for (const Index n : {1, 31, 63, 100, 145, 257}) {
        all_ways(m, n, k, n);
        all_ways(m, n, k, collide);
      }
    }
    // Sizes beyond those from which one row, and several rows, read B from end to end,
    // and beyond the columns of C that they take at a time.
    for (const Index n : {523, 1483}) {
      multiply<T>(m, n, n - 2, n, Start::c, EpilogueKind::relu_backward);
    }
    multiply<T>(m, 4101, 37, 4101, Start::bias, EpilogueKind::relu);
  }
}

}  // namespace

int main() {
  for (const Isa isa : available_isas()) {
    set_active_isa(isa_name(isa));
    all_sizes<float>();
    all_sizes<double>();
  }
  return failures > 0;
}
