// pack_left and pack_right of every instruction set: each element is the one specified
// in kernel_table.h, other elements of the destination are not written, and nothing
// beyond the operands is accessed (guarded.h).
#include <cstdio>

#include "fastmlp/isa.h"
#include "fastmlp/kernel_table.h"
#include "guarded.h"

namespace {

using namespace fastmlp;

constexpr Index kSizes[] = {0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 100};
constexpr double kUntouched = -1;
int failures = 0;

// Element (i, p) of a matrix, packed or not; positive, and exact in float.
template <class T>
T element(Index i, Index p) {
  return static_cast<T>(1 + 128 * i + p);
}

// The memory layout of a matrix with `major` rows, whose elements are `step` apart.
struct Layout {
  Index ld;
  Index step;
  Index size(Index major, Index minor) const {
    return major && minor ? (major - 1) * ld + (minor - 1) * step + 1 : 0;
  }
};

// Contiguous rows, rows with a gap, and elements that are not contiguous at all.
Layout layouts(int which, Index minor) {
  return which == 0   ? Layout{minor, 1}
         : which == 1 ? Layout{minor + 5, 1}
                      : Layout{3 * minor + 1, 3};
}
constexpr int kLayouts = 3;

template <class T>
T* blank(Guarded& g, Index size) {
  T* const data = g.array<T>(size);
  for (Index i = 0; i < size; ++i) data[i] = static_cast<T>(kUntouched);
  return data;
}

template <class T>
void expect(const char* what, const T* got, Index size, const T* want, Index across,
            Index k, bool transposed) {
  for (Index i = 0; i < size; ++i) {
    if (got[i] == want[i]) continue;
    std::printf("%s %s f%d, %d across, k = %d%s: element %d is %g, not %g\n",
                isa_name(active_isa()), what, static_cast<int>(8 * sizeof(T)),
                static_cast<int>(across), static_cast<int>(k),
                transposed ? ", transposed" : "", static_cast<int>(i),
                static_cast<double>(got[i]), static_cast<double>(want[i]));
    ++failures;
    return;
  }
}

// An operand with `across` rows (left) or columns (right) and k steps. If `transposed`,
// the steps of k are the rows in memory.
template <class T>
struct Operand {
  const T* data;
  Index across_stride;
  Index k_stride;

  Operand(Guarded& g, int which, Index across, Index k, bool transposed) {
    const Index major = transposed ? k : across;
    const Index minor = transposed ? across : k;
    const Layout layout = layouts(which, minor);
    T* const filled = blank<T>(g, layout.size(major, minor));
    data = filled;
    across_stride = transposed ? layout.step : layout.ld;
    k_stride = transposed ? layout.ld : layout.step;
    for (Index i = 0; i < across; ++i) {
      for (Index p = 0; p < k; ++p) {
        filled[i * across_stride + p * k_stride] = element<T>(i, p);
      }
    }
  }
};

// The expected result of packing into panels of `width` rows or columns.
template <class T>
T* packed(Guarded& g, Index size, Index width, Index panel_stride, Index across,
          Index k) {
  T* const want = blank<T>(g, size);
  for (Index i = 0; i < across; ++i) {
    for (Index p = 0; p < k; ++p) {
      want[i / width * panel_stride + p * width + i % width] = element<T>(i, p);
    }
  }
  return want;
}

template <class T>
void left(const KernelTable<T>& table, Guarded::Against side, Index m, Index k,
          int which, bool transposed) {
  Guarded g(side);
  const Operand<T> a(g, which, m, k, transposed);
  const Index size = (m + table.mr - 1) / table.mr * table.mr * k;
  T* const got = blank<T>(g, size);
  table.pack_left(got, {a.data, a.across_stride, a.k_stride}, m, k);
  expect("pack_left", got, size, packed<T>(g, size, table.mr, k * table.mr, m, k), m, k,
         transposed);
}

// `gap` is the number of elements between the panels.
template <class T>
void right(const KernelTable<T>& table, Guarded::Against side, Index n, Index k,
           int which, bool transposed, Index gap) {
  Guarded g(side);
  const Operand<T> b(g, which, n, k, transposed);
  const Index panels = (n + table.nr - 1) / table.nr;
  const Index stride = k * table.nr + gap;
  const Index size = panels ? panels * stride - gap : 0;
  T* const got = blank<T>(g, size);
  table.pack_right(got, stride, b.data, b.k_stride, b.across_stride, k, n);
  expect("pack_right", got, size, packed<T>(g, size, table.nr, stride, n, k), n, k,
         transposed);
}

template <class T>
void all_sizes() {
  const KernelTable<T>& table = kernels<T>();
  for (const Guarded::Against side : {Guarded::Against::end, Guarded::Against::begin}) {
    for (const Index across : kSizes) {
      for (const Index k : kSizes) {
        for (int which = 0; which < kLayouts; ++which) {
          for (const bool transposed : {false, true}) {
            left(table, side, across, k, which, transposed);
            for (const Index gap : {Index(0), 2 * table.nr + 3}) {
              right(table, side, across, k, which, transposed, gap);
            }
          }
        }
      }
    }
  }
}

}  // namespace

int main() {
  for (const Isa isa : available_isas()) {
    set_active_isa(isa_name(isa));
    const int before = failures;
    all_sizes<float>();
    all_sizes<double>();
    if (failures == before) std::printf("%s: packed as told\n", isa_name(isa));
  }
  return failures ? 1 : 0;
}
